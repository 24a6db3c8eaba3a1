//! `f16`, `bf16` and their packed pairs: conversions to and from `f32`, and arithmetic.

use super::Execute;
use super::cx::{Cx, Result, Ty};
use super::soft::{self, Bf16, F16, F64, Format, Rounding};

/// A 16-bit floating-point format.
pub(super) trait Half: Format {
    /// The value, exactly.
    fn value(bits: u16) -> f32;
    /// The nearest half-precision number.
    fn nearest(value: f32) -> u16;
}

impl Half for F16 {
    #[inline(always)]
    fn value(bits: u16) -> f32 {
        let size = u32::from(bits & 0x7fff);
        // As if its exponent were an f32's, then scaled; that is exact for subnormals too.
        let scaled = f32::from_bits(size << 13) * f32::from_bits((127 + 112) << 23);
        let size = if size >= 0x7c00 { size << 13 | 0x7f80_0000 } else { scaled.to_bits() };
        f32::from_bits(u32::from(bits & 0x8000) << 16 | size)
    }

    #[inline(always)]
    fn nearest(value: f32) -> u16 {
        let bits = value.to_bits();
        let size = bits & 0x7fff_ffff;
        let odd = size >> 13 & 1;
        let normal = size.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        // Adding 1/2 leaves units of 2^-24, f16's smallest, in the last place.
        let subnormal = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
        let finite = if size < 113 << 23 { subnormal } else { normal };
        let size = if size >= 143 << 23 { 0x7c00 } else { finite };
        let result = (bits >> 16 & 0x8000 | size) as u16;
        if value.is_nan() { 0x7fff } else { result }
    }
}

impl Half for Bf16 {
    #[inline(always)]
    fn value(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    #[inline(always)]
    fn nearest(value: f32) -> u16 {
        let bits = value.to_bits();
        let result = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        if value.is_nan() { 0x7fff } else { result as u16 }
    }
}

/// The nearest half-precision number to `value`.
pub(super) fn narrow<H: Half>(value: f64) -> u16 {
    soft::convert::<F64, H>(value.to_bits(), Rounding::Nearest) as u16
}

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub(super) fn flush<H: Half>(bits: u16) -> u16 {
    let size = u64::from(bits) & !H::SIGN;
    if size < 1 << H::FRACTION { bits & 0x8000 } else { bits }
}

/// What follows an operation.
#[derive(Clone, Copy, Default)]
pub(super) struct Mode {
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
}

impl Mode {
    #[inline(always)]
    fn input<H: Half>(self, bits: u16) -> f32 {
        H::value(if self.ftz { flush::<H>(bits) } else { bits })
    }

    #[inline(always)]
    fn output<H: Half>(self, bits: u16) -> u16 {
        let bits = if self.ftz { flush::<H>(bits) } else { bits };
        match (self.sat, self.relu) {
            (true, _) => saturate::<H>(bits),
            (_, true) => relu::<H>(bits),
            _ => bits,
        }
    }
}

/// Clamps to [0, 1]; a NaN becomes 0.
pub(super) fn saturate<H: Format>(bits: u16) -> u16 {
    let one = (H::BIAS as u16) << H::FRACTION;
    match u64::from(bits) {
        nan if nan & !H::SIGN > H::INFINITY => 0,
        negative if negative & H::SIGN != 0 => 0,
        _ => bits.min(one),
    }
}

/// Clamps to at least 0; a NaN stays one.
pub(super) fn relu<H: Format>(bits: u16) -> u16 {
    match u64::from(bits) {
        nan if nan & !H::SIGN > H::INFINITY => H::NAN as u16,
        negative if negative & H::SIGN != 0 => 0,
        _ => bits,
    }
}

/// Whether a type is a `bf16` one, and whether it is a pair.
pub(super) fn shape(ty: Ty) -> (bool, bool) {
    (matches!(ty, Ty::Bf16 | Ty::Bf16x2), matches!(ty, Ty::F16x2 | Ty::Bf16x2))
}

pub(super) fn low(pair: u32) -> u16 {
    pair as u16
}

pub(super) fn high(pair: u32) -> u16 {
    (pair >> 16) as u16
}

pub(super) fn join(low: u16, high: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

/// `d = f(a)` of one or of two halves.
pub(super) fn map(cx: &Cx, packed: bool, f: impl Fn(u16) -> u16 + Send + Sync + 'static) -> Result<Execute> {
    match packed {
        false => cx.unary::<u16, u16>(f),
        true => cx.unary::<u32, u32>(move |a| join(f(low(a)), f(high(a)))),
    }
}

/// `d = f(a, b)` of one or of two halves.
pub(super) fn map2(
    cx: &Cx,
    packed: bool,
    f: impl Fn(u16, u16) -> u16 + Send + Sync + 'static,
) -> Result<Execute> {
    match packed {
        false => cx.binary::<u16, u16, u16>(f),
        true => cx.binary::<u32, u32, u32>(move |a, b| join(f(low(a), low(b)), f(high(a), high(b)))),
    }
}

fn map3(cx: &Cx, packed: bool, f: impl Fn(u16, u16, u16) -> u16 + Send + Sync + 'static) -> Result<Execute> {
    match packed {
        false => cx.ternary::<u16, u16, u16, u16>(f),
        true => cx.ternary::<u32, u32, u32, u32>(move |a, b, c| {
            join(f(low(a), low(b), low(c)), f(high(a), high(b), high(c)))
        }),
    }
}

/// The mode and the type of an instruction whose `bf16` forms have neither `.ftz` nor `.sat`.
fn modes(cx: &mut Cx, sat: bool, relu: bool) -> Result<(Mode, Ty)> {
    let mode = Mode { ftz: cx.flag("ftz"), sat: sat && cx.flag("sat"), relu: relu && cx.flag("relu") };
    let ty = cx.ty()?;
    cx.finish()?;
    if shape(ty).0 && (mode.ftz || mode.sat) {
        return Err(cx.error("the bf16 forms have neither .ftz nor .sat"));
    }
    match mode.sat && mode.relu {
        true => Err(cx.error(".sat and .relu exclude each other")),
        false => Ok((mode, ty)),
    }
}

/// Rounding an `f32` sum, difference or product of two halves again is exact: its 24 bits are twice 11 and two more.
fn arithmetic(cx: &mut Cx, f: impl Fn(f32, f32) -> f32 + Send + Sync + 'static) -> Result<Execute> {
    cx.flag("rn");
    let (mode, ty) = modes(cx, true, false)?;
    fn of<H: Half>(
        cx: &Cx,
        mode: Mode,
        packed: bool,
        f: impl Fn(f32, f32) -> f32 + Send + Sync + 'static,
    ) -> Result<Execute> {
        map2(cx, packed, move |a, b| mode.output::<H>(H::nearest(f(mode.input::<H>(a), mode.input::<H>(b)))))
    }
    match shape(ty) {
        (false, packed) => of::<F16>(cx, mode, packed, f),
        (true, packed) => of::<Bf16>(cx, mode, packed, f),
    }
}

pub(super) fn add(cx: &mut Cx) -> Result<Execute> {
    arithmetic(cx, |a, b| a + b)
}

pub(super) fn sub(cx: &mut Cx) -> Result<Execute> {
    arithmetic(cx, |a, b| a - b)
}

pub(super) fn mul(cx: &mut Cx) -> Result<Execute> {
    arithmetic(cx, |a, b| a * b)
}

/// `a * b + c` with what is lost jammed into the last bit, so that rounding it again is exact.
fn fused(a: f32, b: f32, c: f32) -> f64 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let back = sum - product;
    let lost = (product - (sum - back)) + (c - back);
    if lost == 0.0 || !lost.is_finite() || sum.to_bits() & 1 != 0 {
        return sum;
    }
    // The exact value lies between `sum` and its odd neighbour on the side of `lost`.
    let outwards = (lost > 0.0) == (sum > 0.0);
    f64::from_bits(if outwards { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

pub(super) fn fma(cx: &mut Cx) -> Result<Execute> {
    cx.need(&[("rn", ())])?;
    let (mode, ty) = modes(cx, true, true)?;
    fn of<H: Half>(cx: &Cx, mode: Mode, packed: bool) -> Result<Execute> {
        map3(cx, packed, move |a, b, c| {
            let sum = fused(mode.input::<H>(a), mode.input::<H>(b), mode.input::<H>(c));
            mode.output::<H>(narrow::<H>(sum))
        })
    }
    match shape(ty) {
        (false, packed) => of::<F16>(cx, mode, packed),
        (true, packed) => of::<Bf16>(cx, mode, packed),
    }
}

fn sign(cx: &mut Cx, f: fn(u16) -> u16) -> Result<Execute> {
    let (mode, ty) = modes(cx, false, false)?;
    fn of<H: Half>(cx: &Cx, mode: Mode, packed: bool, f: fn(u16) -> u16) -> Result<Execute> {
        map(cx, packed, move |a| match u64::from(a) & !H::SIGN > H::INFINITY {
            true => H::NAN as u16,
            false => f(if mode.ftz { flush::<H>(a) } else { a }),
        })
    }
    match shape(ty) {
        (false, packed) => of::<F16>(cx, mode, packed, f),
        (true, packed) => of::<Bf16>(cx, mode, packed, f),
    }
}

pub(super) fn abs(cx: &mut Cx) -> Result<Execute> {
    sign(cx, |a| a & 0x7fff)
}

pub(super) fn neg(cx: &mut Cx) -> Result<Execute> {
    sign(cx, |a| a ^ 0x8000)
}
