//! `f32` and `f64` arithmetic against exact numbers: every mode, special values with each other, random values.

use crate::exact::{Dyadic, F32, F64, Format, MODES, Mode};
use crate::harness::{Lane, P, Rng, op, pairs, triples};
use orthant_gpu::isa::Class;

/// Bits of an operand.
pub trait Bits: Lane {
    const FORMAT: Format;
    const NAME: &'static str;
    const REG: &'static str;
    fn of(bits: u64) -> Self;
    fn bits(self) -> u64;
    /// The host's result, rounded to nearest: right about infinities, NaNs and the signs of exact zeros.
    fn host(f: Function, operands: [Self; 3]) -> u64;
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
}

macro_rules! bits {
    ($($word:ty, $float:ty, $format:ident, $name:literal, $reg:literal;)*) => {$(
        impl Bits for $word {
            const FORMAT: Format = $format;
            const NAME: &'static str = $name;
            const REG: &'static str = $reg;
            fn of(bits: u64) -> $word {
                bits as $word
            }
            fn bits(self) -> u64 {
                self.into()
            }
            fn host(f: Function, operands: [$word; 3]) -> u64 {
                let [a, b, c] = operands.map(<$float>::from_bits);
                let result = match f {
                    Function::Add => a + b,
                    Function::Sub => a - b,
                    Function::Mul => a * b,
                    Function::Fma => a.mul_add(b, c),
                    Function::Div => a / b,
                    Function::Rcp => 1.0 / a,
                    Function::Sqrt => a.sqrt(),
                };
                result.to_bits().into()
            }
        }
    )*};
}

bits! { u32, f32, F32, "f32", "r"; u64, f64, F64, "f64", "d"; }

impl Function {
    fn sources(self) -> usize {
        match self {
            Function::Fma => 3,
            Function::Rcp | Function::Sqrt => 1,
            _ => 2,
        }
    }

    /// Judges a result.
    fn verdict<T: Bits>(self, operands: [T; 3], got: T, mode: Mode) -> Result<(), String> {
        let format = T::FORMAT;
        let used = &operands[..self.sources()];
        let exactly = |want: u64| {
            (got.bits() == want)
                .then_some(())
                .ok_or_else(|| format!("{want:#x} is wanted, rounding {mode:?}"))
        };
        let host = T::host(self, operands);
        if format.is_nan(host) {
            // f64 passes the first NaN on, quieted; all else is the one NaN.
            let first = used.iter().map(|x| x.bits()).find(|&x| format.is_nan(x) && format == F64);
            return exactly(first.map_or(format.nan, |x| x | 1 << 51));
        }
        if used.iter().any(|x| !format.is_finite(x.bits()))
            || !format.is_finite(host) && self.divides_by_zero(used)
        {
            return exactly(host);
        }
        let [a, b, c] = operands.map(|x| if format.is_finite(x.bits()) { x.bits() } else { 0 });
        let values = [a, b, c].map(|x| format.value(x));
        let negative = |x: u64| x & format.sign() != 0;
        let zero = |p: bool, q: bool| {
            let minus = if p == q { p } else { mode == Mode::Down };
            if minus { format.sign() } else { 0 }
        };
        let [x, y, z] = &values;
        let got = got.bits();
        match self {
            Function::Add => format.is_rounded_value(got, &x.plus(y), mode, zero(negative(a), negative(b))),
            Function::Sub => {
                let minus = y.times(&Dyadic::integer(-1));
                format.is_rounded_value(got, &x.plus(&minus), mode, zero(negative(a), !negative(b)))
            }
            Function::Mul => format.is_rounded_value(got, &x.times(y), mode, host),
            Function::Fma => {
                let product = negative(a) != negative(b);
                format.is_rounded_value(got, &x.times(y).plus(z), mode, zero(product, negative(c)))
            }
            Function::Div | Function::Rcp => {
                let one = Dyadic::integer(1);
                let (n, d) = if self == Function::Div { (x, y) } else { (&one, x) };
                if n.is_zero() {
                    return exactly(host);
                }
                let (minus, n, d) = (n.is_negative() != d.is_negative(), n.magnitude(), d.magnitude());
                format.is_rounded(got, minus, mode, |q| n.compare(&q.times(&d)))
            }
            Function::Sqrt if x.is_zero() => exactly(host),
            Function::Sqrt => format.is_rounded(got, false, mode, |q| x.compare(&q.times(q))),
        }
    }

    fn divides_by_zero<T: Bits>(self, operands: &[T]) -> bool {
        let divisor = match self {
            Function::Div => operands[1],
            Function::Rcp => operands[0],
            _ => return false,
        };
        divisor.bits() & !T::FORMAT.sign() == 0
    }
}

/// Random operands whose exponents lie together, so that results are neither all zero nor all infinite, and that
/// share digits, so that sums cancel.
pub fn random<T: Bits>(n: usize, seed: u64) -> Vec<(T, T, T)> {
    let mut rng = Rng(seed);
    let format = T::FORMAT;
    let width = 1 + format.exponent + format.fraction;
    let operand = |rng: &mut Rng, near: u64| {
        let bits = rng.integer(width);
        match rng.next() % 4 {
            0 => bits,
            1 => near ^ (rng.next() % 16) ^ (rng.next() & format.sign()),
            _ => {
                let spread = rng.next() % 64;
                let exponent = (near >> format.fraction).wrapping_add(spread).wrapping_sub(32);
                let exponent = exponent & ((1 << format.exponent) - 1);
                bits & (format.sign() | ((1 << format.fraction) - 1)) | exponent << format.fraction
            }
        }
    };
    (0..n)
        .map(|_| {
            let a = rng.next() >> (64 - width);
            let b = operand(&mut rng, a);
            let product = (a & format.infinity()) + (b & format.infinity());
            let bias = ((1 << (format.exponent - 1)) - 1) << format.fraction;
            let near = product.wrapping_sub(bias) & (format.sign() - 1);
            let near = if rng.next().is_multiple_of(2) { a } else { near | b & 0xff };
            let c = operand(&mut rng, near);
            (T::of(a), T::of(b), T::of(c))
        })
        .collect()
}

fn check<T: Bits>(opcode: &str, f: Function, mode: Mode) {
    let regs: Vec<String> = (0..=f.sources()).map(|i| format!("%{}{i}", T::REG)).collect();
    let op = op(&format!("{opcode}.{} {};", T::NAME, regs.join(", ")));
    assert_eq!(op.class, if T::FORMAT == F32 { Class::FloatAlu32 } else { Class::FloatAlu64 });
    let specials: Vec<T> = T::FORMAT.specials().into_iter().map(T::of).collect();
    let random = random::<T>(40_000, 11);
    match f.sources() {
        1 => {
            let inputs = specials.into_iter().map(|a| (a,)).chain(random.into_iter().map(|(a, ..)| (a,)));
            op.check_by(inputs, |(a,), got: T| f.verdict([a; 3], got, mode));
        }
        2 => {
            let inputs =
                pairs(&specials, &specials).into_iter().chain(random.into_iter().map(|(a, b, _)| (a, b)));
            op.check_by(inputs, |(a, b), got: T| f.verdict([a, b, a], got, mode));
        }
        _ => {
            // Some of the special values, so that triples stay affordable.
            let few: Vec<T> =
                specials.into_iter().enumerate().filter(|(i, _)| i % 5 < 2).map(|(_, x)| x).collect();
            let inputs = triples(&few).into_iter().chain(random);
            op.check_by(inputs, |(a, b, c), got: T| f.verdict([a, b, c], got, mode));
        }
    }
}

macro_rules! rounded {
    ($($test:ident $opcode:literal $function:ident;)*) => {$(
        #[test]
        fn $test() {
            for (name, mode) in MODES {
                check::<u32>(&format!("{}.{name}", $opcode), Function::$function, mode);
                check::<u64>(&format!("{}.{name}", $opcode), Function::$function, mode);
            }
        }
    )*};
}

rounded! {
    add_in_every_mode "add" Add;
    sub_in_every_mode "sub" Sub;
    mul_in_every_mode "mul" Mul;
    fma_in_every_mode "fma" Fma;
    mad_in_every_mode "mad" Fma;
    div_in_every_mode "div" Div;
    rcp_in_every_mode "rcp" Rcp;
    sqrt_in_every_mode "sqrt" Sqrt;
}

#[test]
fn nearest_is_the_default() {
    for (opcode, f) in [("add", Function::Add), ("sub", Function::Sub), ("mul", Function::Mul)] {
        check::<u32>(opcode, f, Mode::Nearest);
        check::<u64>(opcode, f, Mode::Nearest);
    }
}

/// Sums that lie half-way between two `f32` numbers, or next to it: what rounding twice gets wrong.
#[test]
fn fma_near_ties() {
    let op = op("fma.rn.f32 %r0, %r1, %r2, %r3;");
    let mut rng = Rng(9);
    let mut inputs = Vec::new();
    for _ in 0..20_000 {
        let c = (rng.next() as u32 & 0x7f_ffff) | 0x3f80_0000;
        // Half a unit in the last place of c, a little more, a little less.
        let a = 0x3380_0000 + (rng.next() % 3) as u32 - 1;
        let b = 0x3f80_0000 + (rng.next() % 5) as u32 - 2;
        let sign = (rng.next() as u32 & 1) << 31;
        let shift = ((rng.next() % 250) as u32) << 23;
        let scaled = |x: u32| if x + shift < 0x7f80_0000 && x + shift > x { x + shift } else { x };
        inputs.push((a ^ sign, b, c));
        inputs.push((a, b, c ^ sign));
        inputs.push((scaled(a), b, scaled(c) ^ sign));
        // Among the subnormals.
        inputs.push((c - 0x2000_0000, (a ^ sign).wrapping_sub(0x1480_0000), rng.next() as u32 & 0x80ff_ffff));
    }
    op.check_by(inputs, |(a, b, c), got: u32| Function::Fma.verdict([a, b, c], got, Mode::Nearest));
}

/// `.ftz` flushes operands and results, `.sat` clamps. What they are applied to is tested above.
#[test]
fn flushing_and_saturation() {
    let specials: Vec<u32> = F32.specials().into_iter().map(|x| x as u32).collect();
    let flush = |x: u32| F32.flush(x.into()) as u32;
    for (rounding, _) in MODES {
        for (opcode, sources) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3), ("mad", 3)] {
            let regs = ["%r0", "%r1", "%r2", "%r3"][..=sources].join(", ");
            let plain = op(&format!("{opcode}.{rounding}.f32 {regs};"));
            for (modifiers, ftz, sat) in [("ftz", true, false), ("sat", false, true), ("ftz.sat", true, true)]
            {
                let op = op(&format!("{opcode}.{rounding}.{modifiers}.f32 {regs};"));
                let mut inputs: Vec<(u32, u32, u32)> = random::<u32>(1500, 12);
                inputs.extend(pairs(&specials, &specials).into_iter().map(|(a, b)| (a, b, a ^ b)));
                op.check(inputs, |(a, b, c)| {
                    let operands = [a, b, c].map(|x| if ftz { flush(x) } else { x });
                    let mut regs = plain.registers();
                    for (index, x) in operands.into_iter().enumerate() {
                        regs.b32[index + 1] = [x; 32];
                    }
                    plain.execute(&mut regs, 1);
                    let result = regs.b32[0][0];
                    let result = if ftz { flush(result) } else { result };
                    if sat { F32.saturate(result.into()) as u32 } else { result }
                });
            }
        }
    }
    for opcode in ["div.rn", "div.rz", "rcp.rp", "sqrt.rm", "sqrt.rn", "rcp.rn"] {
        let sources = if opcode.starts_with("div") { ", %r2" } else { "" };
        let plain = op(&format!("{opcode}.f32 %r0, %r1{sources};"));
        let op = op(&format!("{opcode}.ftz.f32 %r0, %r1{sources};"));
        op.check(pairs(&specials, &specials), |(a, b)| {
            let mut regs = plain.registers();
            (regs.b32[1], regs.b32[2]) = ([flush(a); 32], [flush(b); 32]);
            plain.execute(&mut regs, 1);
            flush(regs.b32[0][0])
        });
    }
}

#[test]
fn signs() {
    let specials: Vec<u32> = F32.specials().into_iter().map(|x| x as u32).collect();
    let ones = || specials.iter().map(|&x| (x,));
    let nan = |a: u32, x: u32| if F32.is_nan(a.into()) { 0x7fff_ffff } else { x };
    let flush = |x: u32| F32.flush(x.into()) as u32;
    op("abs.f32 %r0, %r1;").check(ones(), |(a,)| nan(a, a & 0x7fff_ffff));
    op("neg.f32 %r0, %r1;").check(ones(), |(a,)| nan(a, a ^ 0x8000_0000));
    op("abs.ftz.f32 %r0, %r1;").check(ones(), |(a,)| nan(a, flush(a) & 0x7fff_ffff));
    op("neg.ftz.f32 %r0, %r1;").check(ones(), |(a,)| nan(a, flush(a) ^ 0x8000_0000));
    op("copysign.f32 %r0, %r1, %r2;")
        .check(pairs(&specials, &specials), |(a, b)| if a >> 31 != 0 { b | 1 << 31 } else { b & !(1 << 31) });
    let specials = F64.specials();
    let ones = || specials.iter().map(|&x| (x,));
    op("abs.f64 %d0, %d1;").check(ones(), |(a,)| a & !(1 << 63));
    op("neg.f64 %d0, %d1;").check(ones(), |(a,)| a ^ 1 << 63);
    op("copysign.f64 %d0, %d1, %d2;")
        .check(pairs(&specials, &specials), |(a, b)| if a >> 63 != 0 { b | 1 << 63 } else { b & !(1 << 63) });
}

#[test]
fn properties() {
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
    let names = [
        ("finite", &[Normal, Subnormal, Zero][..]),
        ("infinite", &[Infinite]),
        ("number", &[Normal, Subnormal, Zero, Infinite]),
        ("notanumber", &[Nan]),
        ("normal", &[Normal, Zero]),
        ("subnormal", &[Subnormal]),
    ];
    for (name, categories) in names {
        let inputs = F32.specials().into_iter().map(|x| (x as u32,));
        op(&format!("testp.{name}.f32 %p0, %r1;"))
            .check(inputs, |(a,)| P(categories.contains(&f32::from_bits(a).classify())));
        let inputs = F64.specials().into_iter().map(|x| (x,));
        op(&format!("testp.{name}.f64 %p0, %d1;"))
            .check(inputs, |(a,)| P(categories.contains(&f64::from_bits(a).classify())));
    }
}

/// The lesser and the greater by exact values; -0.0 is less than +0.0.
fn lesser(format: Format, a: u64, b: u64) -> bool {
    let key = |x: u64| {
        let size = (x & !format.sign()) as i64;
        if x & format.sign() != 0 { -size - 1 } else { size }
    };
    key(a) < key(b)
}

/// Minimum or maximum, as the ISA's text has it.
pub fn choose(format: Format, max: bool, nan: bool, xorsign: bool, a: u64, b: u64) -> u64 {
    let sign = (a ^ b) & format.sign();
    let (a, b) = if xorsign { (a & !format.sign(), b & !format.sign()) } else { (a, b) };
    let result = match (format.is_nan(a), format.is_nan(b)) {
        (true, true) if format == F64 => return a | 1 << 51,
        (true, true) => return format.nan,
        (true, _) | (_, true) if nan => return format.nan,
        (true, false) => b,
        (false, true) => a,
        _ if lesser(format, a, b) != max => a,
        _ => b,
    };
    if xorsign { result & !format.sign() | sign } else { result }
}

#[test]
fn minimum_and_maximum() {
    let specials: Vec<u32> = F32.specials().into_iter().map(|x| x as u32).collect();
    let mut inputs = pairs(&specials, &specials);
    inputs.extend(random::<u32>(3000, 13).into_iter().map(|(a, b, _)| (a, b)));
    let flush = |x: u32, ftz: bool| if ftz { F32.flush(x.into()) } else { x.into() };
    for (name, max) in [("min", false), ("max", true)] {
        for (ftz, nan, xorsign) in triples(&[false, true]) {
            let mut text = name.to_string();
            [(ftz, ".ftz"), (nan, ".NaN"), (xorsign, ".xorsign.abs")]
                .iter()
                .for_each(|&(on, modifier)| text += if on { modifier } else { "" });
            op(&format!("{text}.f32 %r0, %r1, %r2;")).check(inputs.clone(), |(a, b)| {
                choose(F32, max, nan, xorsign, flush(a, ftz), flush(b, ftz)) as u32
            });
        }
        for (text, nan, abs) in
            [("", false, false), (".NaN", true, false), (".abs", false, true), (".NaN.abs", true, true)]
        {
            let op = op(&format!("{name}{text}.f32 %r0, %r1, %r2, %r3;"));
            let few: Vec<u32> = specials.iter().copied().step_by(3).collect();
            op.check(triples(&few), |(a, b, c)| {
                let [a, b, c] = [a, b, c].map(|x| if abs { u64::from(x & 0x7fff_ffff) } else { x.into() });
                choose(F32, max, nan, false, choose(F32, max, nan, false, a, b), c) as u32
            });
        }
        let mut inputs = pairs(&F64.specials(), &F64.specials());
        inputs.extend(random::<u64>(3000, 14).into_iter().map(|(a, b, _)| (a, b)));
        op(&format!("{name}.f64 %d0, %d1, %d2;"))
            .check(inputs, |(a, b)| choose(F64, max, false, false, a, b));
    }
}
