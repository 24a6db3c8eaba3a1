//! `f32` and `f64` arithmetic, correctly rounded in every mode.

use super::cx::{Cx, Result};
use super::lanes::{Lanes, put};
use super::soft::{self, F32, F64, Format, Rounding};
use super::{Execute, LANES};

pub(super) const ROUNDINGS: [(&str, Rounding); 4] =
    [("rn", Rounding::Nearest), ("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)];

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub(super) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0_f32.copysign(x) } else { x }
}

/// The one NaN that `.f32` instructions give. The test is one of bits: for `is_nan` of a square root LLVM at
/// `opt-level = 3` keeps the root, whose NaN may have any bits.
#[inline(always)]
pub(super) fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

/// Clamps to [0, 1]; a NaN becomes 0.
#[inline(always)]
fn saturate(x: f32) -> f32 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// `.ftz` and `.sat` of an `.f32` instruction.
#[derive(Clone, Copy)]
pub(super) struct Mode {
    pub ftz: bool,
    pub sat: bool,
}

impl Mode {
    pub fn take(cx: &mut Cx) -> Mode {
        Mode { ftz: cx.flag("ftz"), sat: cx.flag("sat") }
    }

    pub fn ftz(cx: &mut Cx) -> Mode {
        Mode { ftz: cx.flag("ftz"), sat: false }
    }

    fn plain(self) -> bool {
        !self.ftz && !self.sat
    }

    #[inline(always)]
    pub fn input(self, x: f32) -> f32 {
        if self.ftz { flush(x) } else { x }
    }

    #[inline(always)]
    pub fn output(self, x: f32) -> f32 {
        let x = if self.ftz { flush(x) } else { x };
        if self.sat { saturate(x) } else { canonical(x) }
    }

    pub fn unary(self, cx: &Cx, f: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Result<Execute> {
        match self.plain() {
            true => cx.unary::<f32, f32>(move |a| canonical(f(a))),
            false => cx.unary::<f32, f32>(move |a| self.output(f(self.input(a)))),
        }
    }

    pub fn binary(self, cx: &Cx, f: impl Fn(f32, f32) -> f32 + Send + Sync + 'static) -> Result<Execute> {
        match self.plain() {
            true => cx.binary::<f32, f32, f32>(move |a, b| canonical(f(a, b))),
            false => cx.binary::<f32, f32, f32>(move |a, b| self.output(f(self.input(a), self.input(b)))),
        }
    }

    fn ternary(self, cx: &Cx, f: impl Fn(f32, f32, f32) -> f32 + Send + Sync + 'static) -> Result<Execute> {
        cx.ternary::<f32, f32, f32, f32>(move |a, b, c| {
            self.output(f(self.input(a), self.input(b), self.input(c)))
        })
    }
}

#[inline(always)]
fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

#[inline(always)]
fn bits(x: f32) -> u64 {
    x.to_bits().into()
}

/// Takes the types and checks that nothing but the operands is left.
fn end(cx: &mut Cx) -> Result<()> {
    cx.ty()?;
    cx.finish()
}

fn rounding(cx: &mut Cx) -> Rounding {
    cx.pick(&ROUNDINGS).unwrap_or(Rounding::Nearest)
}

pub(super) fn add32(cx: &mut Cx) -> Result<Execute> {
    let (rounding, mode) = (rounding(cx), Mode::take(cx));
    end(cx)?;
    match rounding {
        Rounding::Nearest => mode.binary(cx, |a, b| a + b),
        _ => mode.binary(cx, move |a, b| single(soft::add::<F32>(bits(a), bits(b), rounding))),
    }
}

pub(super) fn sub32(cx: &mut Cx) -> Result<Execute> {
    let (rounding, mode) = (rounding(cx), Mode::take(cx));
    end(cx)?;
    match rounding {
        Rounding::Nearest => mode.binary(cx, |a, b| a - b),
        _ => mode.binary(cx, move |a, b| single(soft::add::<F32>(bits(a), bits(-b), rounding))),
    }
}

pub(super) fn mul32(cx: &mut Cx) -> Result<Execute> {
    let (rounding, mode) = (rounding(cx), Mode::take(cx));
    end(cx)?;
    match rounding {
        Rounding::Nearest => mode.binary(cx, |a, b| a * b),
        _ => mode.binary(cx, move |a, b| single(soft::mul::<F32>(bits(a), bits(b), rounding))),
    }
}

/// `fma` and `mad`, which is the same on every supported target.
pub(super) fn fma32(cx: &mut Cx) -> Result<Execute> {
    let (rounding, mode) = (cx.need(&ROUNDINGS)?, Mode::take(cx));
    end(cx)?;
    match rounding {
        Rounding::Nearest if mode.plain() => fma32_nearest(cx),
        Rounding::Nearest => mode.ternary(cx, f32::mul_add),
        _ => mode.ternary(cx, move |a, b, c| single(soft::fma::<F32>(bits(a), bits(b), bits(c), rounding))),
    }
}

/// `fma.rn.f32` as a vectorisable loop in `f64`. The product is exact there, the sum is rounded. Rounding that again
/// is right unless it lies half-way between two `f32` numbers or is subnormal; then all lanes are done the slow way.
fn fma32_nearest(cx: &Cx) -> Result<Execute> {
    cx.count(4)?;
    let d = cx.target::<f32>(0)?;
    let (a, b, c) = (cx.source::<f32>(1)?, cx.source::<f32>(2)?, cx.source::<f32>(3)?);
    Ok(Box::new(move |regs, mask| {
        let (a, b, c) = (a.lanes(regs), b.lanes(regs), c.lanes(regs));
        let mut out: Lanes<u32> = [0; LANES];
        let mut doubtful = false;
        for lane in 0..LANES {
            let [x, y, z] = [a[lane], b[lane], c[lane]].map(f32::from_bits);
            let sum = f64::from(x) * f64::from(y) + f64::from(z);
            out[lane] = canonical(sum as f32).to_bits();
            let halfway = sum.to_bits() & 0x1fff_ffff == 0x1000_0000;
            let tiny = sum.abs() < f64::from(f32::MIN_POSITIVE) && sum != 0.0;
            doubtful |= halfway | tiny;
        }
        if doubtful {
            for lane in 0..LANES {
                let [x, y, z] = [a[lane], b[lane], c[lane]].map(f32::from_bits);
                out[lane] = canonical(x.mul_add(y, z)).to_bits();
            }
        }
        put(regs, d, &out, mask);
    }))
}

pub(super) fn div32(cx: &mut Cx) -> Result<Execute> {
    if cx.flag("approx") {
        return super::approx::div(cx, true);
    }
    if cx.flag("full") {
        return super::approx::div(cx, false);
    }
    let (rounding, mode) = (cx.need(&ROUNDINGS)?, Mode::ftz(cx));
    end(cx)?;
    match rounding {
        Rounding::Nearest => mode.binary(cx, |a, b| a / b),
        _ => mode.binary(cx, move |a, b| single(soft::div::<F32>(bits(a), bits(b), rounding))),
    }
}

pub(super) fn rcp32(cx: &mut Cx) -> Result<Execute> {
    if cx.flag("approx") {
        return super::approx::unary32(cx, |a| 1.0 / a);
    }
    let (rounding, mode) = (cx.need(&ROUNDINGS)?, Mode::ftz(cx));
    end(cx)?;
    match rounding {
        Rounding::Nearest => mode.unary(cx, |a| 1.0 / a),
        _ => mode.unary(cx, move |a| single(soft::div::<F32>(bits(1.0), bits(a), rounding))),
    }
}

pub(super) fn sqrt32(cx: &mut Cx) -> Result<Execute> {
    if cx.flag("approx") {
        return super::approx::unary32(cx, f64::sqrt);
    }
    let (rounding, mode) = (cx.need(&ROUNDINGS)?, Mode::ftz(cx));
    end(cx)?;
    match rounding {
        Rounding::Nearest => mode.unary(cx, f32::sqrt),
        _ => mode.unary(cx, move |a| single(soft::sqrt::<F32>(bits(a), rounding))),
    }
}

pub(super) fn abs32(cx: &mut Cx) -> Result<Execute> {
    let mode = Mode::ftz(cx);
    end(cx)?;
    mode.unary(cx, f32::abs)
}

pub(super) fn neg32(cx: &mut Cx) -> Result<Execute> {
    let mode = Mode::ftz(cx);
    end(cx)?;
    mode.unary(cx, |a| -a)
}

/// `.f64` results that are NaN get the bits that the ISA asks for, whatever the host's order of operands.
#[inline(always)]
fn double(result: f64, operands: &[u64]) -> f64 {
    let nan = result.to_bits() & !F64::SIGN > F64::INFINITY;
    if nan { f64::from_bits(soft::nan::<F64>(operands)) } else { result }
}

pub(super) fn add64(cx: &mut Cx) -> Result<Execute> {
    let rounding = rounding(cx);
    end(cx)?;
    match rounding {
        Rounding::Nearest => cx.binary::<f64, f64, f64>(|a, b| double(a + b, &[a.to_bits(), b.to_bits()])),
        _ => cx.binary::<u64, u64, u64>(move |a, b| soft::add::<F64>(a, b, rounding)),
    }
}

pub(super) fn sub64(cx: &mut Cx) -> Result<Execute> {
    let rounding = rounding(cx);
    end(cx)?;
    match rounding {
        Rounding::Nearest => cx.binary::<f64, f64, f64>(|a, b| double(a - b, &[a.to_bits(), b.to_bits()])),
        // A NaN keeps its own sign.
        _ => cx.binary::<f64, f64, f64>(move |a, b| {
            let negated = if b.is_nan() { b } else { -b };
            f64::from_bits(soft::add::<F64>(a.to_bits(), negated.to_bits(), rounding))
        }),
    }
}

pub(super) fn mul64(cx: &mut Cx) -> Result<Execute> {
    let rounding = rounding(cx);
    end(cx)?;
    match rounding {
        Rounding::Nearest => cx.binary::<f64, f64, f64>(|a, b| double(a * b, &[a.to_bits(), b.to_bits()])),
        _ => cx.binary::<u64, u64, u64>(move |a, b| soft::mul::<F64>(a, b, rounding)),
    }
}

pub(super) fn fma64(cx: &mut Cx) -> Result<Execute> {
    let rounding = cx.need(&ROUNDINGS)?;
    end(cx)?;
    match rounding {
        Rounding::Nearest => cx.ternary::<f64, f64, f64, f64>(|a, b, c| {
            double(a.mul_add(b, c), &[a.to_bits(), b.to_bits(), c.to_bits()])
        }),
        _ => cx.ternary::<u64, u64, u64, u64>(move |a, b, c| soft::fma::<F64>(a, b, c, rounding)),
    }
}

pub(super) fn div64(cx: &mut Cx) -> Result<Execute> {
    let rounding = cx.need(&ROUNDINGS)?;
    end(cx)?;
    match rounding {
        Rounding::Nearest => cx.binary::<f64, f64, f64>(|a, b| double(a / b, &[a.to_bits(), b.to_bits()])),
        _ => cx.binary::<u64, u64, u64>(move |a, b| soft::div::<F64>(a, b, rounding)),
    }
}

pub(super) fn rcp64(cx: &mut Cx) -> Result<Execute> {
    if cx.flag("approx") {
        return super::approx::unary64(cx, |a| 1.0 / a);
    }
    let rounding = cx.need(&ROUNDINGS)?;
    end(cx)?;
    match rounding {
        Rounding::Nearest => cx.unary::<f64, f64>(|a| double(1.0 / a, &[a.to_bits()])),
        _ => cx.unary::<u64, u64>(move |a| soft::div::<F64>(1_f64.to_bits(), a, rounding)),
    }
}

pub(super) fn sqrt64(cx: &mut Cx) -> Result<Execute> {
    let rounding = cx.need(&ROUNDINGS)?;
    end(cx)?;
    match rounding {
        Rounding::Nearest => cx.unary::<f64, f64>(|a| double(a.sqrt(), &[a.to_bits()])),
        _ => cx.unary::<u64, u64>(move |a| soft::sqrt::<F64>(a, rounding)),
    }
}

pub(super) fn abs64(cx: &mut Cx) -> Result<Execute> {
    end(cx)?;
    cx.unary::<f64, f64>(f64::abs)
}

pub(super) fn neg64(cx: &mut Cx) -> Result<Execute> {
    end(cx)?;
    cx.unary::<f64, f64>(|a| -a)
}

/// The magnitude of `b` with the sign of `a`.
pub(super) fn copysign32(cx: &mut Cx) -> Result<Execute> {
    end(cx)?;
    cx.binary::<u32, u32, u32>(|a, b| a & 1 << 31 | b & !(1 << 31))
}

pub(super) fn copysign64(cx: &mut Cx) -> Result<Execute> {
    end(cx)?;
    cx.binary::<u64, u64, u64>(|a, b| a & 1 << 63 | b & !(1 << 63))
}

/// What `testp` asks. A zero counts as normal.
#[derive(Clone, Copy)]
enum Property {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

impl Property {
    fn of<F: Format>(self, bits: u64) -> bool {
        let size = bits & !F::SIGN;
        let subnormal = size != 0 && size < 1 << F::FRACTION;
        match self {
            Property::Finite => size < F::INFINITY,
            Property::Infinite => size == F::INFINITY,
            Property::Number => size <= F::INFINITY,
            Property::NotANumber => size > F::INFINITY,
            Property::Normal => size < F::INFINITY && !subnormal,
            Property::Subnormal => subnormal,
        }
    }
}

pub(super) fn testp32(cx: &mut Cx) -> Result<Execute> {
    testp::<u32>(cx, |property, a| property.of::<F32>(a.into()))
}

pub(super) fn testp64(cx: &mut Cx) -> Result<Execute> {
    testp::<u64>(cx, |property, a| property.of::<F64>(a))
}

fn testp<A: super::lanes::Value>(
    cx: &mut Cx,
    f: impl Fn(Property, A) -> bool + Send + Sync + 'static,
) -> Result<Execute> {
    let property = cx.need(&[
        ("finite", Property::Finite),
        ("infinite", Property::Infinite),
        ("number", Property::Number),
        ("notanumber", Property::NotANumber),
        ("normal", Property::Normal),
        ("subnormal", Property::Subnormal),
    ])?;
    end(cx)?;
    cx.count(2)?;
    let (d, a) = (cx.predicate_target(0)?, cx.source::<A>(1)?);
    Ok(Box::new(move |regs, mask| {
        let a = a.lanes(regs);
        let bits = super::lanes::ballot(|lane| f(property, A::of(a[lane])));
        super::lanes::put_bits(&mut regs.pred[d], bits, mask);
    }))
}
