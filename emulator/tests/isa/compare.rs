//! `setp`, `set`, `selp` and `slct`.

use crate::exact::{BF16, F16, F32, F64, Format};
use crate::harness::{Lane, Op, P, Rng, op, pairs};
use orthant_gpu::isa::{Class, Registers};

const FLOAT: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// The ISA's definition: an ordered comparison is false if an operand is a NaN, an unordered one true.
fn holds(name: &str, a: Option<i128>, b: Option<i128>) -> bool {
    let (base, unordered) = match name {
        "num" => return a.is_some() && b.is_some(),
        "nan" => return a.is_none() || b.is_none(),
        "lo" => ("lt", false),
        "ls" => ("le", false),
        "hi" => ("gt", false),
        "hs" => ("ge", false),
        name if name.len() == 3 => (&name[..2], true),
        name => (name, false),
    };
    let (Some(a), Some(b)) = (a, b) else { return unordered };
    match base {
        "eq" => a == b,
        "ne" => a != b,
        "lt" => a < b,
        "le" => a <= b,
        "gt" => a > b,
        "ge" => a >= b,
        other => panic!("{other}"),
    }
}

/// A number as something ordered; both zeros are 0.
fn order(format: Format, bits: u64) -> Option<i128> {
    let size = i128::from(bits & !format.sign());
    let signed = if bits & format.sign() != 0 { -size } else { size };
    (!format.is_nan(bits)).then_some(signed)
}

/// Runs a comparison whose targets are `%p0|%p5` and compares both with `want`.
fn check_both<T: Lane>(op: &Op, inputs: &[(T, T)], want: impl Fn(T, T, usize) -> (bool, bool)) {
    for warp in inputs.chunks(32) {
        let mut regs: Registers = op.registers();
        regs.pred[3] = 0x3c5a_a5c3;
        for (lane, &(a, b)) in warp.iter().enumerate() {
            T::set(&mut regs, 1, lane, a);
            T::set(&mut regs, 2, lane, b);
        }
        op.execute(&mut regs, u32::MAX);
        for (lane, &(a, b)) in warp.iter().enumerate() {
            let got = (P::get(&regs, 0, lane).0, P::get(&regs, 5, lane).0);
            assert_eq!(got, want(a, b, lane), "lane {lane}: {a:#x} {b:#x}");
        }
    }
}

fn all_forms<T: Lane>(
    names: &[&str],
    ty: &str,
    reg: char,
    inputs: &[(T, T)],
    value: impl Fn(T) -> Option<i128> + Copy,
) {
    let third = |lane: usize| 0x3c5a_a5c3_u32 >> lane & 1 != 0;
    for name in names {
        let operands = format!("%{reg}1, %{reg}2");
        let plain = op(&format!("setp.{name}.{ty} %p0, {operands};"));
        assert_eq!(plain.class, Class::Compare);
        plain.check(inputs.iter().copied(), |(a, b)| P(holds(name, value(a), value(b))));
        // Half-precision types have one target.
        let half = matches!(ty, "f16" | "bf16");
        let target = if half { "%p0" } else { "%p0|%p5" };
        check_both(&op(&format!("setp.{name}.{ty} {target}, {operands};")), inputs, |a, b, _| {
            let holds = holds(name, value(a), value(b));
            (holds, !holds && !half)
        });
        type Combine = fn(bool, bool) -> bool;
        let combines: [(&str, Combine); 3] =
            [("and", |x, c| x & c), ("or", |x, c| x | c), ("xor", |x, c| x ^ c)];
        for (combine, f) in combines {
            for (c, negated) in [("%p3", false), ("!%p3", true)] {
                let text = format!("setp.{name}.{combine}.{ty} {target}, {operands}, {c};");
                check_both(&op(&text), &inputs[..inputs.len().min(320)], |a, b, lane| {
                    let (holds, c) = (holds(name, value(a), value(b)), third(lane) != negated);
                    (f(holds, c), f(!holds, c) && !half)
                });
            }
        }
        if ty.starts_with('b') || half {
            continue;
        }
        for (target, one) in [("u32", u32::MAX), ("s32", u32::MAX), ("f32", 0x3f80_0000)] {
            op(&format!("set.{name}.{target}.{ty} %r0, {operands};")).check(
                inputs.iter().copied(),
                |(a, b)| if holds(name, value(a), value(b)) { one } else { 0 },
            );
        }
    }
}

fn integers<T: Lane>(wrap: impl Fn(u64) -> T, bits: u32) -> Vec<(T, T)> {
    let mut rng = Rng(51);
    let mut values: Vec<T> = (0..24).map(|_| wrap(rng.integer(bits))).collect();
    values.extend([0, 1, u64::MAX, 1 << (bits - 1), (1 << (bits - 1)) - 1].map(wrap));
    pairs(&values, &values)
}

#[test]
fn integer_comparisons() {
    const SIGNED: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];
    const UNSIGNED: [&str; 10] = ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];
    macro_rules! types {
        ($($ty:ty, $name:literal, $names:expr, $reg:literal;)*) => {$(
            all_forms($names, $name, $reg, &integers(|x| x as $ty, <$ty>::BITS), |x: $ty| Some(i128::from(x)));
        )*};
    }
    types! {
        u16, "u16", &UNSIGNED, 'h'; i16, "s16", &SIGNED, 'h'; u16, "b16", &SIGNED[..2], 'h';
        u32, "u32", &UNSIGNED, 'r'; i32, "s32", &SIGNED, 'r'; u32, "b32", &SIGNED[..2], 'r';
        u64, "u64", &UNSIGNED, 'd'; i64, "s64", &SIGNED, 'd'; u64, "b64", &SIGNED[..2], 'd';
    }
}

#[test]
fn float_comparisons() {
    let single: Vec<u32> = F32.specials().into_iter().map(|x| x as u32).collect();
    let halves = |format: Format| -> Vec<u16> { format.specials().into_iter().map(|x| x as u16).collect() };
    all_forms(&FLOAT, "f32", 'r', &pairs(&single, &single), |x: u32| order(F32, x.into()));
    all_forms(&FLOAT, "f64", 'd', &pairs(&F64.specials(), &F64.specials()), |x: u64| order(F64, x));
    all_forms(&FLOAT, "f16", 'h', &pairs(&halves(F16), &halves(F16)), |x: u16| order(F16, x.into()));
    all_forms(&FLOAT, "bf16", 'h', &pairs(&halves(BF16), &halves(BF16)), |x: u16| order(BF16, x.into()));
    for name in FLOAT {
        let flushed = |x: u32| order(F32, F32.flush(x.into()));
        op(&format!("setp.{name}.ftz.f32 %p0, %r1, %r2;"))
            .check(pairs(&single, &single), |(a, b)| P(holds(name, flushed(a), flushed(b))));
        op(&format!("set.{name}.ftz.s32.f32 %r0, %r1, %r2;")).check(pairs(&single, &single), |(a, b)| {
            if holds(name, flushed(a), flushed(b)) { -1 } else { 0 }
        });
        let flushed = |x: u16| order(F16, F16.flush(x.into()));
        op(&format!("setp.{name}.ftz.f16 %p0, %h1, %h2;"))
            .check(pairs(&halves(F16), &halves(F16)), |(a, b)| P(holds(name, flushed(a), flushed(b))));
    }
}

#[test]
fn half_targets_and_pairs() {
    for (ty, format, one) in [("f16", F16, 0x3c00_u16), ("bf16", BF16, 0x3f80)] {
        let values: Vec<u16> = format.specials().into_iter().map(|x| x as u16).collect();
        let inputs = pairs(&values, &values);
        let value = |x: u16| order(format, x.into());
        let mut rng = Rng(52);
        let mut pick = || u32::from(values[rng.next() as usize % values.len()]);
        let packed: Vec<(u32, u32)> =
            (0..2000).map(|_| (pick() | pick() << 16, pick() | pick() << 16)).collect();
        for name in FLOAT {
            for (target, one) in [(ty, one), ("u16", u16::MAX), ("s16", u16::MAX)] {
                op(&format!("set.{name}.{target}.{ty} %h0, %h1, %h2;")).check(
                    inputs.iter().copied(),
                    |(a, b)| if holds(name, value(a), value(b)) { one } else { 0 },
                );
            }
            op(&format!("set.{name}.u32.{ty} %r0, %h1, %h2;")).check(inputs.iter().copied(), |(a, b)| {
                if holds(name, value(a), value(b)) { u32::MAX } else { 0 }
            });
            let both = |a: u32, b: u32| {
                let at = |shift: u32| holds(name, value((a >> shift) as u16), value((b >> shift) as u16));
                (at(0), at(16))
            };
            check_both(&op(&format!("setp.{name}.{ty}x2 %p0|%p5, %r1, %r2;")), &packed, |a, b, _| both(a, b));
            let text = format!("setp.{name}.xor.{ty}x2 %p0|%p5, %r1, %r2, !%p3;");
            check_both(&op(&text), &packed, |a, b, lane| {
                let (low, high) = both(a, b);
                let c = 0x3c5a_a5c3_u32 >> lane & 1 == 0;
                (low ^ c, high ^ c)
            });
            let ty2 = format!("{ty}x2");
            for (target, one) in [(ty2.as_str(), one), ("u32", u16::MAX), ("s32", u16::MAX)] {
                op(&format!("set.{name}.{target}.{ty}x2 %r0, %r1, %r2;")).check(
                    packed.iter().copied(),
                    |(a, b)| {
                        let (low, high) = both(a, b);
                        (u32::from(low) * u32::from(one)) | ((u32::from(high) * u32::from(one)) << 16)
                    },
                );
            }
        }
        for source in ["s32", "f32"] {
            let op = op(&format!(
                "set.gt.{ty}.{source} %h0, %r1, 0{};",
                if source == "f32" { "f00000000" } else { "" }
            ));
            op.check([(5_u32,), (0,), (0x8000_0000,)], |(x,)| if x == 5 { one } else { 0 });
        }
    }
    let combined = op("set.lt.and.u32.s32 %r0, %r1, %r2, !%p3;");
    let mut regs = combined.registers();
    (regs.b32[1], regs.b32[2], regs.pred[3]) = ([1; 32], [2; 32], 0xf0f0_f0f0);
    combined.execute(&mut regs, u32::MAX);
    assert_eq!((regs.b32[0][0], regs.b32[0][4]), (u32::MAX, 0));
}

/// One side of `p|q` may be left out.
#[test]
fn sinks() {
    let op = op("setp.lt.s32 _|%p5, %r1, %r2;");
    let mut regs = op.registers();
    regs.b32[2][7] = 1;
    op.execute(&mut regs, u32::MAX);
    assert_eq!((regs.pred[0], regs.pred[5]), (0, !(1 << 7)));
}

#[test]
fn selection() {
    macro_rules! selp {
        ($($ty:literal, $word:ty, $reg:literal;)*) => {$(
            let selp = op(&format!("selp.{} %{r}0, %{r}1, %{r}2, %p3;", $ty, r = $reg));
            let inputs = [(3 as $word, 5 as $word, P(true)), (<$word>::MAX, 0, P(false)), (0, 9, P(true))];
            selp.check(inputs, |(a, b, c)| if c.0 { a } else { b });
        )*};
    }
    selp! {
        "b16", u16, 'h'; "u16", u16, 'h'; "s16", u16, 'h'; "b32", u32, 'r'; "u32", u32, 'r'; "s32", u32, 'r';
        "f32", u32, 'r'; "b64", u64, 'd'; "u64", u64, 'd'; "s64", u64, 'd'; "f64", u64, 'd';
    }
    op("selp.f32 %r0, 0f7FC00001, %r2, %p3;")
        .check([(0_u32, 7_u32, P(true)), (0, 7, P(false))], |(_, b, c)| if c.0 { 0x7fc0_0001 } else { b });
}

#[test]
fn selection_by_sign() {
    let signs = [0_i32, 1, -1, i32::MIN, i32::MAX].map(|c| (11_u32, 22_u32, c));
    op("slct.u32.s32 %r0, %r1, %r2, %r3;").check(signs, |(a, b, c)| if c >= 0 { a } else { b });
    op("slct.f32.s32 %r0, %r1, %r2, %r3;").check(signs, |(a, b, c)| if c >= 0 { a } else { b });
    let floats = || F32.specials().into_iter().map(|c| (11_u32, 22_u32, c as u32));
    let at_least = |c: u64| order(F32, c).is_some_and(|c| c >= 0);
    op("slct.b32.f32 %r0, %r1, %r2, %r3;")
        .check(floats(), |(a, b, c)| if at_least(c.into()) { a } else { b });
    op("slct.ftz.b32.f32 %r0, %r1, %r2, %r3;")
        .check(floats(), |(a, b, c)| if at_least(F32.flush(c.into())) { a } else { b });
    op("slct.f64.f32 %d0, %d1, %d2, %r3;").check(
        floats().map(|(a, b, c)| (u64::from(a), u64::from(b), c)),
        |(a, b, c)| {
            if at_least(c.into()) { a } else { b }
        },
    );
    op("slct.s16.s32 %h0, %h1, %h2, %r3;")
        .check(signs.map(|(a, b, c)| (a as u16, b as u16, c)), |(a, b, c)| if c >= 0 { a } else { b });
}
