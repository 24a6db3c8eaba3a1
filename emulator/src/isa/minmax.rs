//! Floating-point minimum and maximum. -0.0 is less than +0.0; a NaN is passed over unless `.NaN` is given.

use super::Execute;
use super::cx::{Cx, Result, Ty};
use super::half;
use super::soft::{self, Bf16, F16, F32, F64, Format};

#[derive(Clone, Copy)]
struct Choice {
    max: bool,
    ftz: bool,
    nan: bool,
    /// Only magnitudes are compared and given.
    abs: bool,
    /// The result's sign is that of the product.
    xorsign: bool,
}

impl Choice {
    /// The modifiers before the type, and the type.
    fn take(cx: &mut Cx, max: bool) -> Result<(Choice, Ty)> {
        let (ftz, nan) = (cx.flag("ftz"), cx.flag("NaN"));
        let (xorsign, abs) = (cx.flag("xorsign"), cx.flag("abs"));
        let ty = cx.ty()?;
        cx.finish()?;
        Ok((Choice { max, ftz, nan, abs, xorsign }, ty))
    }

    #[inline(always)]
    fn input<F: Format>(self, bits: u64) -> u64 {
        let size = bits & !F::SIGN;
        let bits = if self.ftz && size < 1 << F::FRACTION { bits & F::SIGN } else { bits };
        if self.abs { bits & !F::SIGN } else { bits }
    }

    #[inline(always)]
    fn of<F: Format>(self, a: u64, b: u64) -> u64 {
        let sign = (a ^ b) & F::SIGN;
        let (a, b) = (self.input::<F>(a), self.input::<F>(b));
        let is_nan = |x: u64| x & !F::SIGN > F::INFINITY;
        // Negative numbers count down from -1.
        let key = |x: u64| if x & F::SIGN != 0 { !((x & !F::SIGN) as i64) } else { x as i64 };
        let chosen = match (is_nan(a), is_nan(b)) {
            (false, false) => {
                if (key(a) >= key(b)) == self.max {
                    a
                } else {
                    b
                }
            }
            (true, false) if !self.nan => b,
            (false, true) if !self.nan => a,
            _ => return soft::nan::<F>(&[a, b]),
        };
        if self.xorsign { chosen & !F::SIGN | sign } else { chosen }
    }
}

fn single(cx: &mut Cx, max: bool) -> Result<Execute> {
    let (choice, _) = Choice::take(cx, max)?;
    if cx.operands().len() == 4 {
        if choice.xorsign {
            return Err(cx.error("the form of three operands has no .xorsign"));
        }
        return cx.ternary(move |a: u32, b: u32, c: u32| {
            let first = choice.of::<F32>(a.into(), b.into());
            choice.of::<F32>(first, c.into()) as u32
        });
    }
    paired(cx, choice)?;
    cx.binary(move |a: u32, b: u32| choice.of::<F32>(a.into(), b.into()) as u32)
}

/// `.xorsign` and `.abs` come together.
fn paired(cx: &Cx, choice: Choice) -> Result<()> {
    match choice.abs == choice.xorsign {
        true => Ok(()),
        false => Err(cx.error(".xorsign and .abs go together")),
    }
}

fn double(cx: &mut Cx, max: bool) -> Result<Execute> {
    cx.only(&[Ty::F64])?;
    cx.finish()?;
    let choice = Choice { max, ftz: false, nan: false, abs: false, xorsign: false };
    cx.binary(move |a: u64, b: u64| choice.of::<F64>(a, b))
}

fn halves(cx: &mut Cx, max: bool) -> Result<Execute> {
    let (choice, ty) = Choice::take(cx, max)?;
    paired(cx, choice)?;
    match half::shape(ty) {
        (true, _) if choice.ftz => Err(cx.error("the bf16 forms have no .ftz")),
        (false, packed) => half::map2(cx, packed, move |a, b| choice.of::<F16>(a.into(), b.into()) as u16),
        (true, packed) => half::map2(cx, packed, move |a, b| choice.of::<Bf16>(a.into(), b.into()) as u16),
    }
}

pub(super) fn min32(cx: &mut Cx) -> Result<Execute> {
    single(cx, false)
}

pub(super) fn max32(cx: &mut Cx) -> Result<Execute> {
    single(cx, true)
}

pub(super) fn min64(cx: &mut Cx) -> Result<Execute> {
    double(cx, false)
}

pub(super) fn max64(cx: &mut Cx) -> Result<Execute> {
    double(cx, true)
}

pub(super) fn min_half(cx: &mut Cx) -> Result<Execute> {
    halves(cx, false)
}

pub(super) fn max_half(cx: &mut Cx) -> Result<Execute> {
    halves(cx, true)
}
