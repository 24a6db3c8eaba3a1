//! Approximations. Each is computed in `f64` and rounded once to its type, so its error is at most a little more than
//! half a unit in the last place, well within what the ISA documents. Hardware gives other bits within those bounds.

use super::cx::{Cx, Result, Ty};
use super::float::{self, Mode};
use super::half::{self, Half};
use super::soft::{Bf16, F16, F64};
use super::{Class, Execute};

/// An `.f32` function of one operand.
pub(super) fn unary32(cx: &mut Cx, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Result<Execute> {
    cx.class = Class::Special;
    let mode = Mode::ftz(cx);
    cx.only(&[Ty::F32])?;
    cx.finish()?;
    mode.unary(cx, move |a| f(a.into()) as f32)
}

fn approx32(cx: &mut Cx, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Result<Execute> {
    cx.need(&[("approx", ())])?;
    unary32(cx, f)
}

/// `div.approx` (which gives 0 for divisors above 2^126) and `div.full`.
pub(super) fn div(cx: &mut Cx, approx: bool) -> Result<Execute> {
    cx.class = Class::Special;
    let mode = Mode::ftz(cx);
    cx.only(&[Ty::F32])?;
    cx.finish()?;
    let limit = 2_f32.powi(126);
    mode.binary(cx, move |a, b| {
        let large = approx && b.abs() > limit && b.is_finite();
        let quotient = (f64::from(a) / f64::from(b)) as f32;
        match large && !a.is_nan() {
            true if a.is_infinite() => f32::NAN,
            true => 0_f32.copysign(quotient),
            false => quotient,
        }
    })
}

pub(super) fn rsqrt32(cx: &mut Cx) -> Result<Execute> {
    // The root of -0.0 is -0.0, its reciprocal minus infinity.
    approx32(cx, |a| 1.0 / a.sqrt())
}

pub(super) fn sin32(cx: &mut Cx) -> Result<Execute> {
    approx32(cx, f64::sin)
}

pub(super) fn cos32(cx: &mut Cx) -> Result<Execute> {
    approx32(cx, f64::cos)
}

pub(super) fn lg232(cx: &mut Cx) -> Result<Execute> {
    approx32(cx, f64::log2)
}

pub(super) fn ex232(cx: &mut Cx) -> Result<Execute> {
    approx32(cx, f64::exp2)
}

/// `tanh.approx.f32`, which has no `.ftz`.
pub(super) fn tanh32(cx: &mut Cx) -> Result<Execute> {
    cx.need(&[("approx", ())])?;
    cx.only(&[Ty::F32])?;
    cx.finish()?;
    cx.unary::<f32, f32>(|a| float::canonical(f64::from(a).tanh() as f32))
}

/// `.approx.ftz.f64`: the low 32 bits of the operand are ignored, those of the result are zero.
pub(super) fn unary64(cx: &mut Cx, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Result<Execute> {
    cx.need(&[("ftz", ())])?;
    coarse64(cx, true, f)
}

/// `rsqrt.approx{.ftz}.f64`.
pub(super) fn rsqrt64(cx: &mut Cx) -> Result<Execute> {
    cx.need(&[("approx", ())])?;
    let ftz = cx.flag("ftz");
    coarse64(cx, ftz, |a| 1.0 / a.sqrt())
}

fn coarse64(cx: &mut Cx, ftz: bool, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Result<Execute> {
    cx.class = Class::Special;
    cx.only(&[Ty::F64])?;
    cx.finish()?;
    let flush = |x: f64| if x.abs() < f64::MIN_POSITIVE { 0_f64.copysign(x) } else { x };
    cx.unary::<f64, f64>(move |a| {
        if a.is_nan() {
            return f64::from_bits(super::soft::nan::<F64>(&[a.to_bits()]));
        }
        if !ftz {
            let result = f(a);
            return if result.is_nan() { f64::from_bits(super::soft::nan::<F64>(&[])) } else { result };
        }
        let high = |x: f64| f64::from_bits(x.to_bits() & !0xffff_ffff);
        let result = f(flush(high(a)));
        if result.is_nan() { f64::from_bits(super::soft::nan::<F64>(&[])) } else { high(flush(result)) }
    })
}

/// `ex2.approx` of half-precision types; `.ftz` is part of the `bf16` forms.
pub(super) fn ex2_half(cx: &mut Cx) -> Result<Execute> {
    cx.need(&[("approx", ())])?;
    let ftz = cx.flag("ftz");
    let ty = cx.ty()?;
    cx.finish()?;
    let (_, packed) = half::shape(ty);
    match (ty, ftz) {
        (Ty::F16 | Ty::F16x2, false) => half::map(cx, packed, |a| half_of::<F16>(a, false, f64::exp2)),
        (Ty::Bf16 | Ty::Bf16x2, true) => half::map(cx, packed, |a| half_of::<Bf16>(a, true, f64::exp2)),
        (_, true) => Err(cx.error("the f16 forms have no .ftz")),
        (_, false) => Err(cx.error("the bf16 forms need .ftz")),
    }
}

pub(super) fn tanh_half(cx: &mut Cx) -> Result<Execute> {
    cx.need(&[("approx", ())])?;
    let ty = cx.ty()?;
    cx.finish()?;
    match half::shape(ty) {
        (false, packed) => half::map(cx, packed, |a| half_of::<F16>(a, false, f64::tanh)),
        (true, packed) => half::map(cx, packed, |a| half_of::<Bf16>(a, false, f64::tanh)),
    }
}

fn half_of<H: Half>(a: u16, ftz: bool, f: impl Fn(f64) -> f64) -> u16 {
    let a = if ftz { half::flush::<H>(a) } else { a };
    let result = half::narrow::<H>(f(H::value(a).into()));
    if ftz { half::flush::<H>(result) } else { result }
}
