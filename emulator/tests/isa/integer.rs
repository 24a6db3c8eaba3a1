//! Integer arithmetic against `i128`.

use crate::harness::{Lane, Op, Rng, op};
use orthant_gpu::isa::Class;

/// Wraps to the type.
trait Wrap: Lane + Into<i128> {
    const BITS: u32;
    const NAME: &'static str;
    const REG: &'static str;
    fn wrap(value: i128) -> Self;
    fn near(value: i128) -> Self;
}

macro_rules! wrap {
    ($($ty:ty, $name:literal, $reg:literal;)*) => {$(
        impl Wrap for $ty {
            const BITS: u32 = <$ty>::BITS;
            const NAME: &'static str = $name;
            const REG: &'static str = $reg;
            fn wrap(value: i128) -> $ty {
                value as $ty
            }
            fn near(value: i128) -> $ty {
                value.clamp(<$ty>::MIN.into(), <$ty>::MAX.into()) as $ty
            }
        }
    )*};
}

wrap! { u16, "u16", "h"; i16, "s16", "h"; u32, "u32", "r"; i32, "s32", "r"; u64, "u64", "d"; i64, "s64", "d"; }

/// Random operands.
fn operands<T: Wrap>(n: usize) -> Vec<(T, T, T)> {
    let mut rng = Rng(1);
    let mut one = move || T::wrap(rng.integer(T::BITS).into());
    let mut all: Vec<(T, T, T)> = (0..n).map(|_| (one(), one(), one())).collect();
    let edges: Vec<T> = (-3..=3)
        .flat_map(|k| [k, (1 << (T::BITS - 1)) + k, (1_i128 << T::BITS) + k, 1 << (T::BITS / 2)])
        .map(T::wrap)
        .collect();
    all.extend(crate::harness::pairs(&edges, &edges).into_iter().map(|(a, b)| (a, b, edges[3])));
    all
}

fn text<T: Wrap>(opcode: &str, sources: usize) -> String {
    let regs: Vec<String> = (0..=sources).map(|i| format!("%{}{i}", T::REG)).collect();
    format!("{opcode}.{} {};", T::NAME, regs.join(", "))
}

fn one<T: Wrap>(opcode: &str, f: impl Fn(i128) -> i128) {
    op(&text::<T>(opcode, 1))
        .check(operands::<T>(2000).into_iter().map(|(a, ..)| (a,)), |(a,)| T::wrap(f(a.into())));
}

fn two<T: Wrap>(opcode: &str, f: impl Fn(i128, i128) -> i128) {
    let op = op(&text::<T>(opcode, 2));
    assert_eq!(op.class, Class::IntegerAlu);
    op.check(operands::<T>(4000).into_iter().map(|(a, b, _)| (a, b)), |(a, b)| {
        T::wrap(f(a.into(), b.into()))
    });
}

fn three<T: Wrap>(opcode: &str, f: impl Fn(i128, i128, i128) -> i128) {
    let op = op(&text::<T>(opcode, 3));
    op.check(operands::<T>(4000), |(a, b, c)| T::wrap(f(a.into(), b.into(), c.into())));
}

macro_rules! every {
    ($f:ident($opcode:literal, $closure:expr)) => {
        every!($f($opcode, $closure) u16 i16 u32 i32 u64 i64)
    };
    ($f:ident($opcode:literal, $closure:expr) $($ty:ty)*) => {{
        $($f::<$ty>($opcode, $closure);)*
    }};
}

/// The high half of a product; that of two `u64` does not fit an `i128`.
fn high<T: Wrap>(a: i128, b: i128) -> i128 {
    if T::BITS == 64 && a >= 0 && b >= 0 {
        return ((a as u128 * b as u128) >> 64) as i128;
    }
    (a * b) >> T::BITS
}

#[test]
fn sums_and_products() {
    every!(two("add", |a, b| a + b));
    every!(two("sub", |a, b| a - b));
    every!(two("mul.lo", |a: i128, b| a.wrapping_mul(b)));
    every!(three("mad.lo", |a: i128, b, c| a.wrapping_mul(b).wrapping_add(c)));
    macro_rules! highs {
        ($($ty:ty)*) => {$(
            two::<$ty>("mul.hi", high::<$ty>);
            three::<$ty>("mad.hi", |a, b, c| high::<$ty>(a, b) + c);
        )*};
    }
    highs!(u16 i16 u32 i32 u64 i64);
    every!(three("sad", |a, b, c| (a - b).abs() + c));
    every!(two("min", |a, b| a.min(b)));
    every!(two("max", |a, b| a.max(b)));
    every!(one("abs", |a: i128| a.abs()) i16 i32 i64);
    every!(one("neg", |a: i128| -a) i16 i32 i64);
}

#[test]
fn division() {
    macro_rules! division {
        ($($ty:ty)*) => {$(
            two::<$ty>("div", |a, b| if b == 0 { -1 } else { a / b });
            two::<$ty>("rem", |a, b| if b == 0 { a } else { a % b });
        )*};
    }
    division!(u16 i16 u32 i32 u64 i64);
}

#[test]
fn saturation_and_relu() {
    let pairs = || operands::<i32>(4000).into_iter().map(|(a, b, _)| (a, b));
    let wide = |a: i32, b: i32| (i128::from(a), i128::from(b));
    op("add.sat.s32 %r0, %r1, %r2;").check(pairs(), |(a, b)| i32::near(wide(a, b).0 + wide(a, b).1));
    op("sub.sat.s32 %r0, %r1, %r2;").check(pairs(), |(a, b)| i32::near(wide(a, b).0 - wide(a, b).1));
    op("mad.hi.sat.s32 %r0, %r1, %r2, %r3;").check(operands::<i32>(4000), |(a, b, c)| {
        i32::near(((i128::from(a) * i128::from(b)) >> 32) + i128::from(c))
    });
    op("min.relu.s32 %r0, %r1, %r2;").check(pairs(), |(a, b): (i32, i32)| a.min(b).max(0));
    op("max.relu.s32 %r0, %r1, %r2;").check(pairs(), |(a, b): (i32, i32)| a.max(b).max(0));
}

#[test]
fn wide_products() {
    fn wide<T: Wrap, D: Wrap>(name: &str) {
        let mul = format!("mul.wide.{name} %{}0, %{}1, %{}2;", D::REG, T::REG, T::REG);
        let pairs = operands::<T>(4000).into_iter().map(|(a, b, _)| (a, b));
        op(&mul).check(pairs, |(a, b)| D::wrap(a.into() * b.into()));
        let mad = format!("mad.wide.{name} %{}0, %{}1, %{}2, %{}3;", D::REG, T::REG, T::REG, D::REG);
        let mut rng = Rng(5);
        let inputs =
            operands::<T>(4000).into_iter().map(|(a, b, _)| (a, b, D::wrap(rng.integer(D::BITS).into())));
        op(&mad).check(inputs.collect::<Vec<_>>(), |(a, b, c)| D::wrap(a.into() * b.into() + c.into()));
    }
    wide::<u16, u32>("u16");
    wide::<i16, i32>("s16");
    wide::<u32, u64>("u32");
    wide::<i32, i64>("s32");
}

#[test]
fn twenty_four_bits() {
    let unsigned = |x: u32| i128::from(x) % (1 << 24);
    let signed = move |x: u32| unsigned(x) - if x >> 23 & 1 != 0 { 1 << 24 } else { 0 };
    let inputs = || operands::<u32>(4000);
    let pairs = || inputs().into_iter().map(|(a, b, _)| (a, b));
    op("mul24.lo.u32 %r0, %r1, %r2;").check(pairs(), |(a, b)| u32::wrap(unsigned(a) * unsigned(b)));
    op("mul24.hi.u32 %r0, %r1, %r2;").check(pairs(), |(a, b)| u32::wrap((unsigned(a) * unsigned(b)) >> 16));
    op("mul24.lo.s32 %r0, %r1, %r2;").check(pairs(), |(a, b)| u32::wrap(signed(a) * signed(b)));
    op("mul24.hi.s32 %r0, %r1, %r2;").check(pairs(), |(a, b)| u32::wrap((signed(a) * signed(b)) >> 16));
    op("mad24.lo.u32 %r0, %r1, %r2, %r3;")
        .check(inputs(), |(a, b, c)| u32::wrap(unsigned(a) * unsigned(b) + i128::from(c)));
    op("mad24.hi.u32 %r0, %r1, %r2, %r3;")
        .check(inputs(), |(a, b, c)| u32::wrap(((unsigned(a) * unsigned(b)) >> 16) + i128::from(c)));
    op("mad24.lo.s32 %r0, %r1, %r2, %r3;")
        .check(inputs(), |(a, b, c)| u32::wrap(signed(a) * signed(b) + i128::from(c)));
    op("mad24.hi.s32 %r0, %r1, %r2, %r3;")
        .check(inputs(), |(a, b, c)| u32::wrap(((signed(a) * signed(b)) >> 16) + i128::from(c)));
    op("mad24.hi.sat.s32 %r0, %r1, %r2, %r3;").check(inputs(), |(a, b, c): (u32, u32, u32)| {
        let high = (signed(a) * signed(b)) << 80 >> 96;
        i32::near(high + i128::from(c as i32)) as u32
    });
}

#[test]
fn pairs_of_sixteen() {
    fn each<T: Wrap>(a: u32, b: u32, f: impl Fn(T, T) -> i128) -> u32 {
        let half = |x: u32, at: u32| T::wrap((x >> at & 0xffff).into());
        let part = |at| u32::from(u16::wrap(f(half(a, at), half(b, at)))) << at;
        part(0) | part(16)
    }
    let inputs = || operands::<u32>(4000).into_iter().map(|(a, b, _)| (a, b));
    let check = |text: &str, f: &dyn Fn(u32, u32) -> u32| {
        op(&format!("{text} %r0, %r1, %r2;")).check(inputs(), |(a, b)| f(a, b));
    };
    let wide = |x: i16| i128::from(x);
    check("add.u16x2", &|a, b| each::<u16>(a, b, |a, b| i128::from(a) + i128::from(b)));
    check("add.s16x2", &|a, b| each::<i16>(a, b, |a, b| wide(a) + wide(b)));
    check("min.u16x2", &|a, b| each::<u16>(a, b, |a, b| a.min(b).into()));
    check("max.u16x2", &|a, b| each::<u16>(a, b, |a, b| a.max(b).into()));
    check("min.s16x2", &|a, b| each::<i16>(a, b, |a, b| a.min(b).into()));
    check("max.s16x2", &|a, b| each::<i16>(a, b, |a, b| a.max(b).into()));
    check("min.relu.s16x2", &|a, b| each::<i16>(a, b, |a, b| a.min(b).max(0).into()));
    check("max.relu.s16x2", &|a, b| each::<i16>(a, b, |a, b| a.max(b).max(0).into()));
}

#[test]
fn dot_products() {
    let inputs = || operands::<u32>(4000);
    let byte = |x: u32, at: usize, signed: bool| {
        let byte = x.to_le_bytes()[at];
        if signed { i128::from(byte as i8) } else { i128::from(byte) }
    };
    let half = |x: u32, at: usize, signed: bool| {
        let half = (x >> (16 * at)) as u16;
        if signed { i128::from(half as i16) } else { i128::from(half) }
    };
    for (a_name, sa) in [("u32", false), ("s32", true)] {
        for (b_name, sb) in [("u32", false), ("s32", true)] {
            op(&format!("dp4a.{a_name}.{b_name} %r0, %r1, %r2, %r3;")).check(inputs(), |(a, b, c)| {
                let dot: i128 = (0..4).map(|at| byte(a, at, sa) * byte(b, at, sb)).sum();
                u32::wrap(dot + i128::from(c))
            });
            for (part, first) in [("lo", 0), ("hi", 2)] {
                op(&format!("dp2a.{part}.{a_name}.{b_name} %r0, %r1, %r2, %r3;")).check(
                    inputs(),
                    |(a, b, c)| {
                        let dot: i128 = (0..2).map(|at| half(a, at, sa) * byte(b, first + at, sb)).sum();
                        u32::wrap(dot + i128::from(c))
                    },
                );
            }
        }
    }
}

/// Adds, subtracts and multiplies numbers of 128 and 64 bits by parts.
#[test]
fn carries() {
    let run = |ops: &[Op], a: u128, b: u128| {
        let mut regs = ops[0].registers();
        for lane in 0..32 {
            for word in 0..4 {
                u32::set(&mut regs, 1 + word, lane, (a >> (32 * word)) as u32);
            }
            regs.b64[1][lane] = b as u64;
            regs.b64[2][lane] = (b >> 64) as u64;
            regs.b64[3][lane] = a as u64;
            regs.b64[4][lane] = (a >> 64) as u64;
            regs.pred[0] = 0;
        }
        regs
    };
    let mut rng = Rng(3);
    let wide = [
        op("add.cc.u64 %d5, %d3, %d1;"),
        op("addc.cc.u64 %d6, %d4, %d2;"),
        op("addc.u64 %d7, 0, 0;"),
        op("addc.s64 %d0, %d7, %d7;"),
    ];
    let less = [op("sub.cc.u64 %d5, %d3, %d1;"), op("subc.cc.s64 %d6, %d4, %d2;"), op("subc.u64 %d7, 0, 0;")];
    let narrow = [
        op("add.cc.u32 %r1, %r1, %r3;"),
        op("addc.cc.s32 %r2, %r2, %r4;"),
        op("addc.u32 %r5, 0, 0;"),
        op("sub.cc.s32 %r1, %r1, %r3;"),
        op("subc.cc.u32 %r2, %r2, %r4;"),
        op("subc.s32 %r5, %r5, 0;"),
    ];
    for _ in 0..5000 {
        let part = |rng: &mut Rng| u128::from(rng.integer(64)) << 64 | u128::from(rng.integer(64));
        let (a, b) = (part(&mut rng), part(&mut rng));
        let mut regs = run(&wide, a, b);
        wide.iter().for_each(|op| op.execute(&mut regs, u32::MAX));
        let (sum, over) = a.overflowing_add(b);
        assert_eq!(
            [regs.b64[5][9], regs.b64[6][9], regs.b64[7][9]],
            [sum as u64, (sum >> 64) as u64, over.into()]
        );
        // Without .cc the flag stays, so it is added once more.
        assert_eq!(regs.b64[0][9], 3 * u64::from(over));
        less.iter().for_each(|op| op.execute(&mut regs, u32::MAX));
        let (difference, under) = a.overflowing_sub(b);
        let got = u128::from(regs.b64[6][9]) << 64 | u128::from(regs.b64[5][9]);
        assert_eq!((got, regs.b64[7][9]), (difference, if under { u64::MAX } else { 0 }));
        narrow.iter().for_each(|op| op.execute(&mut regs, u32::MAX));
        let value = |from: usize| u64::from(regs.b32[from + 1][9]) << 32 | u64::from(regs.b32[from][9]);
        assert_eq!((value(1), regs.b32[5][9]), (a as u64, 0), "{a:x}: adding and subtracting its upper half");
    }
}

/// The product of two 64-bit numbers from 32-bit parts, and of 128-bit from 64-bit ones, as the ISA's example has it.
#[test]
fn extended_products() {
    let mut rng = Rng(4);
    let narrow = [
        "mul.lo.u32 %r1, %r5, %r6;",
        "mul.hi.u32 %r2, %r5, %r6;",
        "mad.lo.cc.u32 %r2, %r7, %r6, %r2;",
        "madc.hi.u32 %r3, %r7, %r6, 0;",
        "mad.lo.cc.u32 %r2, %r5, %r4, %r2;",
        "madc.hi.cc.u32 %r3, %r5, %r4, %r3;",
        "addc.u32 %r0, 0, 0;",
        "mad.lo.cc.u32 %r3, %r7, %r4, %r3;",
        "madc.hi.u32 %r4, %r7, %r4, %r0;",
    ]
    .map(op);
    let wide = [
        "mul.lo.u64 %d1, %d5, %d6;",
        "mul.hi.u64 %d2, %d5, %d6;",
        "mad.lo.cc.u64 %d2, %d7, %d6, %d2;",
        "madc.hi.u64 %d3, %d7, %d6, 0;",
    ]
    .map(op);
    for _ in 0..5000 {
        let (a, b) = (rng.integer(64), rng.integer(64));
        let mut regs = narrow[0].registers();
        for lane in 0..32 {
            regs.b32[5][lane] = a as u32;
            regs.b32[7][lane] = (a >> 32) as u32;
            regs.b32[6][lane] = b as u32;
            regs.b32[4][lane] = (b >> 32) as u32;
            (regs.b64[5][lane], regs.b64[7][lane], regs.b64[6][lane]) = (a, b, a ^ b);
        }
        narrow.iter().for_each(|op| op.execute(&mut regs, u32::MAX));
        wide.iter().for_each(|op| op.execute(&mut regs, u32::MAX));
        let product = u128::from(a) * u128::from(b);
        let got = [1, 2, 3, 4].map(|i| regs.b32[i][31]);
        assert_eq!(got, [0, 32, 64, 96].map(|at| (product >> at) as u32), "{a:x} {b:x}");
        // (b * 2^64 + a) * (a ^ b), which has 192 bits.
        let (low, high) = (u128::from(a) * u128::from(a ^ b), u128::from(b) * u128::from(a ^ b));
        let (middle, over) = ((low >> 64) as u64).overflowing_add(high as u64);
        let want = [low as u64, middle, (high >> 64) as u64 + u64::from(over)];
        assert_eq!([1, 2, 3].map(|i| regs.b64[i][31]), want, "{a:x} {b:x}");
    }
    // Signed: the carry out of the low words is the same, the high word is the signed one's.
    let mads = ["mad.lo.cc.s32 %r0, %r1, %r2, %r3;", "madc.hi.s32 %r4, %r1, %r2, %r5;"].map(op);
    for _ in 0..5000 {
        let [a, b] = [rng.integer(32) as i32, rng.integer(32) as i32];
        let c = rng.integer(64) as i64;
        let mut regs = mads[0].registers();
        for (index, value) in [(1, a), (2, b), (3, c as i32), (5, (c >> 32) as i32)] {
            regs.b32[index] = [value as u32; 32];
        }
        mads.iter().for_each(|op| op.execute(&mut regs, u32::MAX));
        let got = i64::from(regs.b32[4][0] as i32) << 32 | i64::from(regs.b32[0][0]);
        assert_eq!(got, (i64::from(a) * i64::from(b)).wrapping_add(c), "{a} {b} {c}");
    }
}

/// The flag changes only in the lanes that run, and only by `.cc`.
#[test]
fn the_flag_is_masked() {
    let add = op("add.cc.u32 %r0, %r1, %r1;");
    let mut regs = add.registers();
    regs.b32[1] = [u32::MAX; 32];
    add.execute(&mut regs, 0x00ff_00ff);
    assert_eq!(regs.carry, 0x00ff_00ff);
    op("addc.u32 %r0, 1, 1;").execute(&mut regs, u32::MAX);
    assert_eq!((regs.carry, regs.b32[0][0], regs.b32[0][8]), (0x00ff_00ff, 3, 2));
    op("addc.cc.u32 %r0, 1, 1;").execute(&mut regs, 0xff);
    assert_eq!(regs.carry, 0x00ff_0000);
}

/// Constants stand for every lane, and a target may be its own source.
#[test]
fn constants_and_aliases() {
    op("sub.s32 %r0, -7, %r1;").check([(5_i32,), (i32::MIN,)], |(a,)| (-7_i32).wrapping_sub(a));
    op("and.b32 %r0, %r1, 4294967295;").check([(5_u32,)], |(a,)| a);
    let double = op("add.u32 %r1, %r1, %r1;");
    let mut regs = double.registers();
    regs.b32[1] = std::array::from_fn(|lane| lane as u32);
    double.execute(&mut regs, 0xffff_0000);
    assert_eq!((regs.b32[1][3], regs.b32[1][20]), (3, 40));
}
