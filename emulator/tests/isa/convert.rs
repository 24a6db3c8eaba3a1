//! `cvt` against exact numbers: every pair of types, every rounding; half-precision inputs exhaustively.

use crate::exact::{BF16, Dyadic, F16, F32, F64, Format, MODES, Mode, TF32};
use crate::harness::{Lane, Op, Rng, op, pairs};
use orthant_gpu::isa::Class;

const INTEGRAL: [(&str, Mode); 4] =
    [("rni", Mode::Nearest), ("rzi", Mode::Zero), ("rmi", Mode::Down), ("rpi", Mode::Up)];

/// An integer type: name, bits, whether it is signed.
type Int = (&'static str, u32, bool);

const INTS: [Int; 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

const FLOATS: [(&str, Format); 4] = [("f16", F16), ("bf16", BF16), ("f32", F32), ("f64", F64)];

fn integer(bits: u64, (_, width, signed): Int) -> i128 {
    let value = i128::from(bits) & ((1 << width) - 1);
    value - if signed && value >> (width - 1) != 0 { 1 << width } else { 0 }
}

fn range((_, width, signed): Int) -> (i128, i128) {
    if signed { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) }
}

/// The register class of so many bits.
fn class(width: u32) -> char {
    match width {
        ..=16 => 'h',
        32 => 'r',
        _ => 'd',
    }
}

fn width(format: Format) -> u32 {
    1 + format.exponent + format.fraction
}

/// Runs an instruction of one source on raw bits, whatever its classes.
fn check(op: &Op, from: char, to: char, inputs: &[u64], verdict: impl Fn(u64, u64) -> Result<(), String>) {
    fn run<A: Lane, D: Lane>(
        op: &Op,
        inputs: &[u64],
        make: fn(u64) -> A,
        bits: fn(A) -> u64,
        result: fn(D) -> u64,
        verdict: impl Fn(u64, u64) -> Result<(), String>,
    ) {
        op.check_by(inputs.iter().map(|&x| (make(x),)), |(a,), got: D| verdict(bits(a), result(got)));
    }
    macro_rules! by_class {
        ($($from:literal $a:ty, $to:literal $d:ty;)*) => {
            match (from, to) {
                $(($from, $to) => {
                    run::<$a, $d>(op, inputs, |x| x as $a, |x| x.into(), |x| x.into(), verdict)
                })*
                other => panic!("{other:?}"),
            }
        };
    }
    by_class! {
        'h' u16, 'h' u16; 'h' u16, 'r' u32; 'h' u16, 'd' u64;
        'r' u32, 'h' u16; 'r' u32, 'r' u32; 'r' u32, 'd' u64;
        'd' u64, 'h' u16; 'd' u64, 'r' u32; 'd' u64, 'd' u64;
    }
}

fn random(width: u32, n: usize) -> Vec<u64> {
    let mut rng = Rng(41);
    (0..n).map(|_| rng.integer(width)).collect()
}

fn exactly(got: u64, want: u64) -> Result<(), String> {
    (got == want).then_some(()).ok_or_else(|| format!("{want:#x} is wanted"))
}

/// Every type of source in every register that holds it, to every type in every register.
#[test]
fn integers() {
    for from in INTS {
        for to in INTS {
            for (a, a_bits) in [('h', 16), ('r', 32), ('d', 64)] {
                for (d, d_bits) in [('h', 16), ('r', 32), ('d', 64)] {
                    if a_bits < from.1 || d_bits < to.1 {
                        continue;
                    }
                    let inputs = random(a_bits, 200);
                    let narrow = |x: i128| x as u64 & (u64::MAX >> (64 - d_bits));
                    let plain = op(&format!("cvt.{}.{} %{d}0, %{a}1;", to.0, from.0));
                    assert_eq!(plain.class, Class::Conversion);
                    check(&plain, a, d, &inputs, |x, got| {
                        exactly(got, narrow(integer(integer(x, from) as u64, to)))
                    });
                    if range(from).0 >= range(to).0 && range(from).1 <= range(to).1 {
                        continue;
                    }
                    let saturating = op(&format!("cvt.sat.{}.{} %{d}0, %{a}1;", to.0, from.0));
                    check(&saturating, a, d, &inputs, |x, got| {
                        let (least, most) = range(to);
                        exactly(got, narrow(integer(x, from).clamp(least, most)))
                    });
                }
            }
        }
    }
}

#[test]
fn integers_to_floats() {
    for from in INTS {
        for (name, format) in FLOATS {
            if format == BF16 && from.1 == 8 {
                continue;
            }
            for (rounding, mode) in MODES {
                let a = class(from.1);
                let op = op(&format!("cvt.{rounding}.{name}.{} %{}0, %{a}1;", from.0, class(width(format))));
                let mut inputs = random(from.1, 1000);
                // Around every power of two, and half-way between two numbers.
                for at in 0..from.1 {
                    for k in [0_u64, 1, 2, 3, u64::MAX, u64::MAX - 1] {
                        inputs.push((1_u64 << at).wrapping_add(k));
                        let half = 1_u64 << at.saturating_sub(format.fraction + 1);
                        inputs.push((1_u64 << at).wrapping_add(half).wrapping_add(k));
                        inputs.push((1_u64 << at).wrapping_add(3 * half).wrapping_add(k).wrapping_neg());
                    }
                }
                check(&op, a, class(width(format)), &inputs, |x, got| {
                    format.is_rounded_value(got, &Dyadic::integer(integer(x, from)), mode, 0)
                });
            }
        }
    }
    let plain = op("cvt.rn.f32.s32 %r0, %r1;");
    op("cvt.rn.sat.f32.s32 %r0, %r1;").check(random(32, 500).into_iter().map(|x| (x as u32,)), |(x,)| {
        let mut regs = plain.registers();
        regs.b32[1] = [x; 32];
        plain.execute(&mut regs, 1);
        F32.saturate(regs.b32[0][0].into()) as u32
    });
}

/// Numbers around what integers can be: halves, bounds of every type, special values, and random ones.
fn sources(format: Format) -> Vec<u64> {
    if width(format) == 16 {
        return (0..=0xffff).collect();
    }
    let mut inputs = format.specials();
    let mut rng = Rng(42);
    let bias = (1_u64 << (format.exponent - 1)) - 1;
    for exponent in 0..67 {
        let power = (bias + exponent - 2) << format.fraction;
        let unit = 1_u64 << (i64::from(format.fraction) + 2 - exponent as i64).max(0);
        for k in -4..=4_i64 {
            for step in [1, unit / 2, unit] {
                inputs.push(power.wrapping_add_signed(k * step as i64));
                inputs.push(power.wrapping_add_signed(k * step as i64) | format.sign());
            }
        }
        for _ in 0..10 {
            inputs
                .push(power | rng.next() & ((1 << format.fraction) - 1) | ((rng.next() & 1) * format.sign()));
            // Whole numbers and halves.
            let whole = rng.next() & ((1 << format.fraction) - 1) & !(unit / 2).saturating_sub(1);
            inputs.push(power | whole | ((rng.next() & 1) * format.sign()));
        }
    }
    inputs
}

/// Rounds an exact number to a whole one.
fn whole(exact: &Dyadic, mode: Mode) -> i128 {
    if exact.exponent > 66 {
        let all = i128::MAX >> 1;
        return if exact.is_zero() {
            0
        } else if exact.is_negative() {
            -all
        } else {
            all
        };
    }
    let size = i128::try_from(&exact.size).expect("a significand");
    if exact.exponent >= 0 {
        return size << exact.exponent;
    }
    // Anything below 2^-60 is as good as 2^-60 times its sign.
    let down = (-exact.exponent) as u32;
    let (size, down) = if down > 120 { (size.signum(), 60) } else { (size, down) };
    let (floor, rest) = (size >> down, size & ((1 << down) - 1));
    let half = 1 << (down - 1);
    let up = match mode {
        Mode::Nearest => rest > half || rest == half && floor & 1 != 0,
        Mode::Away => unreachable!(),
        Mode::Zero => size < 0 && rest != 0,
        Mode::Down => false,
        Mode::Up => rest != 0,
    };
    floor + i128::from(up)
}

#[test]
fn floats_to_integers() {
    for (name, format) in FLOATS {
        let inputs = sources(format);
        for to in INTS {
            if format == BF16 && to.1 == 8 {
                continue;
            }
            for (rounding, mode) in INTEGRAL {
                let (a, d) = (class(width(format)), class(to.1));
                let op = op(&format!("cvt.{rounding}.{}.{name} %{d}0, %{a}1;", to.0));
                let narrow = |x: i128| x as u64 & (u64::MAX >> (64 - to.1.max(16)));
                let (least, most) = range(to);
                check(&op, a, d, &inputs, |x, got| {
                    if format.is_nan(x) {
                        let top = to.1 == 64 || format == F64;
                        let nan = if top { integer(1 << (to.1 - 1), to) } else { 0 };
                        return exactly(got, narrow(nan));
                    }
                    if !format.is_finite(x) {
                        return exactly(got, narrow(if x & format.sign() != 0 { least } else { most }));
                    }
                    exactly(got, narrow(whole(&format.value(x), mode).clamp(least, most)))
                });
            }
        }
    }
    // .sat changes nothing, .ftz flushes; a result may go to a wider register.
    let subnormals = [1_u32, 0x8000_0001, 0x7f_ffff, 0x3f00_0000].map(|x| (x,));
    op("cvt.rpi.ftz.s32.f32 %r0, %r1;").check(subnormals, |(x,)| u32::from(x == 0x3f00_0000));
    op("cvt.rpi.s32.f32 %r0, %r1;").check(subnormals, |(x,): (u32,)| u32::from(x >> 31 == 0));
    let inputs = sources(F32).into_iter().map(|x| (x as u32,));
    op("cvt.rni.sat.s8.f32 %r0, %r1;").check(inputs, |(x,)| {
        if f32::from_bits(x).is_nan() {
            0
        } else {
            whole(&F32.value(x.into()), Mode::Nearest).clamp(-128, 127) as u32
        }
    });
}

#[test]
fn to_whole_numbers_of_the_same_type() {
    for (name, format) in FLOATS {
        for (rounding, mode) in INTEGRAL {
            let class = class(width(format));
            let op = op(&format!("cvt.{rounding}.{name}.{name} %{class}0, %{class}1;"));
            check(&op, class, class, &sources(format), |x, got| {
                if format.is_nan(x) {
                    return exactly(got, if format == F64 { x | 1 << 51 } else { format.nan });
                }
                let exact = format.value(x);
                if !format.is_finite(x) || exact.exponent >= 0 {
                    return exactly(got, x);
                }
                let integer = whole(&exact, mode);
                if integer == 0 {
                    return exactly(got, x & format.sign());
                }
                (format.value(got).compare(&Dyadic::integer(integer)) == std::cmp::Ordering::Equal)
                    .then_some(())
                    .ok_or_else(|| format!("{integer} is wanted"))
            });
        }
    }
    let specials = || F32.specials().into_iter().map(|x| (x as u32,));
    op("cvt.rpi.ftz.f32.f32 %r0, %r1;").check(specials(), |(x,)| {
        let x = f32::from_bits(F32.flush(x.into()) as u32);
        if x.is_nan() { 0x7fff_ffff } else { x.ceil().to_bits() }
    });
    op("cvt.sat.f32.f32 %r0, %r1;").check(specials(), |(x,)| F32.saturate(x.into()) as u32);
    let canonical = |x: u64| if F32.is_nan(x) { 0x7fff_ffff } else { x as u32 };
    op("cvt.ftz.f32.f32 %r0, %r1;").check(specials(), |(x,)| canonical(F32.flush(x.into())));
    op("cvt.rzi.sat.f64.f64 %d0, %d1;").check(
        [(0x3fe8_0000_0000_0000_u64,), (0x4008_0000_0000_0000,)],
        |(x,)| {
            if x >> 60 == 3 { 0 } else { 1_f64.to_bits() }
        },
    );
}

/// Inputs of one format around numbers of another and half-way between them.
fn around(from: Format, to: Format) -> Vec<u64> {
    if width(from) == 16 {
        return (0..=0xffff).collect();
    }
    let mut inputs = from.specials();
    let mut rng = Rng(43);
    let bias = |f: Format| (1_i64 << (f.exponent - 1)) - 1;
    let drop = from.fraction - to.fraction.min(from.fraction);
    let mut push = |bits: u64, rng: &mut Rng| {
        for k in [0, 1, -1] {
            inputs.push((bits.wrapping_add_signed(k) & (from.sign() - 1)) | ((rng.next() & 1) * from.sign()));
        }
    };
    let lowest = -bias(to) - i64::from(to.fraction) - 3;
    for exponent in lowest..=bias(to) + 2 {
        let Ok(field) = u64::try_from(exponent + bias(from)) else { continue };
        if field >= (1 << from.exponent) - 1 {
            continue;
        }
        let subnormal = (-bias(to) + 1 - exponent).max(0) as u32;
        for _ in 0..12 {
            // So many bits are dropped; they are zero, one half, or anything.
            let dropped = (drop + subnormal).min(from.fraction);
            let kept = rng.next() & ((1 << from.fraction) - 1) & !((1 << dropped) - 1);
            let half = if dropped > 0 { 1 << (dropped - 1) } else { 0 };
            let bits = field << from.fraction | kept;
            push(bits, &mut rng);
            push(bits | half, &mut rng);
            push(bits | rng.next() & ((1 << dropped) - 1), &mut rng);
        }
        push(field << from.fraction | ((1 << from.fraction) - 1), &mut rng);
    }
    inputs
}

/// What a conversion must give, before modifiers.
fn converted(from: Format, to: Format, mode: Mode, x: u64, got: u64) -> Result<(), String> {
    let sign = if x & from.sign() != 0 { to.sign() } else { 0 };
    if from.is_nan(x) {
        if to != F64 {
            return exactly(got, to.nan);
        }
        // Sign and payload are kept.
        let payload = (x & ((1 << from.fraction) - 1)) << (52 - from.fraction);
        return exactly(got, sign | 0x7ff8 << 48 | payload);
    }
    if !from.is_finite(x) {
        return exactly(got, sign | to.infinity());
    }
    to.is_rounded_value(got, &from.value(x), mode, sign)
}

#[test]
fn between_floats() {
    for (from_name, from) in FLOATS {
        for (to_name, to) in FLOATS {
            let (a, d) = (class(width(from)), class(width(to)));
            let inputs = around(from, to);
            let wider = to == F64 || from == to || to == F32 && from != F64;
            let roundings: &[(&str, Mode)] = if wider { &[("", Mode::Nearest)] } else { &MODES };
            for &(rounding, mode) in roundings {
                let dot = if wider { "" } else { "." };
                let op = op(&format!("cvt{dot}{rounding}.{to_name}.{from_name} %{d}0, %{a}1;"));
                check(&op, a, d, &inputs, |x, got| converted(from, to, mode, x, got));
            }
        }
    }
}

/// The result of an instruction of one 32-bit source and a 16-bit or 32-bit target.
fn result(op: &Op, x: u32) -> u64 {
    let mut regs = op.registers();
    regs.b32[1] = [x; 32];
    op.execute(&mut regs, 1);
    u64::from(regs.b16[0][0]) | u64::from(regs.b32[0][0])
}

fn modified(format: Format, relu: bool, satfinite: bool, bits: u64) -> u64 {
    let bits = if satfinite && bits & !format.sign() == format.infinity() { bits - 1 } else { bits };
    if relu && bits & format.sign() != 0 && !format.is_nan(bits) { 0 } else { bits }
}

#[test]
fn flushing_saturating_and_relu() {
    for (name, format) in [("f16", F16), ("bf16", BF16)] {
        let inputs = || around(F32, format).into_iter().map(|x| (x as u32,));
        for rounding in ["rn", "rz"] {
            let plain = op(&format!("cvt.{rounding}.{name}.f32 %h0, %r1;"));
            for (text, relu, satfinite) in
                [(".relu", true, false), (".satfinite", false, true), (".relu.satfinite", true, true)]
            {
                op(&format!("cvt.{rounding}{text}.{name}.f32 %h0, %r1;"))
                    .check(inputs(), |(x,)| modified(format, relu, satfinite, result(&plain, x)) as u16);
            }
        }
    }
    let plain = op("cvt.rn.f16.f32 %h0, %r1;");
    let inputs = around(F32, F16).into_iter().map(|x| (x as u32,));
    op("cvt.rn.sat.f16.f32 %h0, %r1;").check(inputs, |(x,)| F16.saturate(result(&plain, x)) as u16);
    let plain = op("cvt.rn.f16.f32 %h0, %r1;");
    op("cvt.rn.ftz.f16.f32 %h0, %r1;").check(around(F32, F32).into_iter().map(|x| (x as u32,)), |(x,)| {
        result(&plain, F32.flush(x.into()) as u32) as u16
    });
    let plain = op("cvt.rm.f32.f64 %r0, %d1;");
    op("cvt.rm.ftz.f32.f64 %r0, %d1;").check(around(F64, F32).into_iter().map(|x| (x,)), |(x,)| {
        let mut regs = plain.registers();
        regs.b64[1] = [x; 32];
        plain.execute(&mut regs, 1);
        F32.flush(regs.b32[0][0].into()) as u32
    });
    op("cvt.ftz.f64.f32 %d0, %r1;").check([(1_u32,), (0x8000_0001,), (0x3f80_0000,)], |(x,)| {
        f64::from(f32::from_bits(F32.flush(x.into()) as u32)).to_bits()
    });
    op("cvt.sat.f32.f16 %r0, %h1;").check((0..=u16::MAX).map(|x| (x,)), |(x,)| {
        // Bits of non-negative numbers grow with their values, so clamping bits is clamping values.
        let clamped = F16.value(F16.saturate(x.into()));
        let size = i16::try_from(&clamped.size).expect("eleven bits");
        (f32::from(size) * 2_f32.powi(clamped.exponent as i32)).to_bits()
    });
}

#[test]
fn tf32() {
    let inputs = || around(F32, TF32).into_iter().map(|x| (x as u32,));
    for (rounding, mode) in [("rna", Mode::Away), ("rn", Mode::Nearest), ("rz", Mode::Zero)] {
        let plain = op(&format!("cvt.{rounding}.tf32.f32 %r0, %r1;"));
        plain.check_by(inputs(), |(x,), got: u32| match F32.is_nan(x.into()) {
            true => exactly(got.into(), 0x7fff_ffff),
            false if got & 0x1fff != 0 => Err("whose low bits are not zero".into()),
            false => converted(F32, TF32, mode, x.into(), u64::from(got >> 13)),
        });
        let relus: &[(&str, bool, bool)] = match mode {
            Mode::Away => &[(".satfinite", false, true)],
            _ => &[(".satfinite", false, true), (".relu", true, false), (".satfinite.relu", true, true)],
        };
        for &(text, relu, satfinite) in relus {
            op(&format!("cvt.{rounding}{text}.tf32.f32 %r0, %r1;")).check(inputs(), |(x,)| {
                if F32.is_nan(x.into()) {
                    return 0x7fff_ffff;
                }
                (modified(TF32, relu, satfinite, result(&plain, x) >> 13) << 13) as u32
            });
        }
    }
}

#[test]
fn pairs_of_halves() {
    for (name, format) in [("f16", F16), ("bf16", BF16)] {
        let values: Vec<u32> = around(F32, format).into_iter().step_by(7).map(|x| x as u32).collect();
        let shifted = values.iter().copied().cycle().skip(101);
        let inputs: Vec<(u32, u32)> = values.iter().copied().zip(shifted).collect();
        for rounding in ["rn", "rz"] {
            for modifiers in ["", ".relu", ".satfinite", ".relu.satfinite"] {
                let single = op(&format!("cvt.{rounding}{modifiers}.{name}.f32 %h0, %r1;"));
                op(&format!("cvt.{rounding}{modifiers}.{name}x2.f32 %r0, %r1, %r2;"))
                    .check(inputs.iter().copied(), |(a, b)| {
                        (result(&single, a) << 16 | result(&single, b)) as u32
                    });
            }
        }
    }
}

#[test]
fn saturated_packing() {
    let mut values: Vec<i32> = random(32, 40).into_iter().map(|x| x as i32).collect();
    values.extend([
        -129, -128, -9, -8, -3, -2, -1, 0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255, 256, 65535, 65536, -32769,
    ]);
    let inputs = pairs(&values, &values);
    for (name, bits, signed) in [
        ("u2", 2, false),
        ("s2", 2, true),
        ("u4", 4, false),
        ("s4", 4, true),
        ("u8", 8, false),
        ("s8", 8, true),
        ("u16", 16, false),
        ("s16", 16, true),
    ] {
        let part = |x: i32| {
            let (least, most) = range((name, bits, signed));
            i128::from(x).clamp(least, most) as u64 & ((1 << bits) - 1)
        };
        let pair = |a: i32, b: i32| part(a) << bits | part(b);
        if bits == 16 {
            op(&format!("cvt.pack.sat.{name}.s32 %r0, %r1, %r2;"))
                .check(inputs.iter().copied(), |(a, b)| pair(a, b) as u32);
            continue;
        }
        let inputs = inputs.iter().map(|&(a, b)| (a, b, 0x9abc_def1_u32));
        op(&format!("cvt.pack.sat.{name}.s32.b32 %r0, %r1, %r2, %r3;"))
            .check(inputs, |(a, b, c)| (u64::from(c) << (2 * bits) | pair(a, b)) as u32);
    }
}
