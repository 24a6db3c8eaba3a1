//! Integer arithmetic.

use super::Execute;
use super::cx::{Cx, Result, Ty};
use super::half::{high, join, low};

/// Integers as instructions see them.
trait Integer: Copy {
    /// The high half of the product.
    fn mul_high(self, other: Self) -> Self;
}

macro_rules! integer {
    ($($ty:ty, $wide:ty;)*) => {$(
        impl Integer for $ty {
            #[inline(always)]
            fn mul_high(self, other: $ty) -> $ty {
                ((self as $wide * other as $wide) >> <$ty>::BITS) as $ty
            }
        }
    )*};
}

integer! { u16, u32; i16, i32; u32, u64; i32, i64; u64, u128; i64, i128; }

/// One closure for every scalar integer type: `$method` is called with `$($arg),*` of that type.
macro_rules! scalar {
    ($cx:ident, $ty:expr, $method:ident, |$($arg:ident),*| $body:expr) => {
        match $ty {
            Ty::U16 => $cx.$method(|$($arg: u16),*| $body),
            Ty::S16 => $cx.$method(|$($arg: i16),*| $body),
            Ty::U32 => $cx.$method(|$($arg: u32),*| $body),
            Ty::S32 => $cx.$method(|$($arg: i32),*| $body),
            Ty::U64 => $cx.$method(|$($arg: u64),*| $body),
            Ty::S64 => $cx.$method(|$($arg: i64),*| $body),
            other => Err($cx.unsupported(other)),
        }
    };
}

/// The next type, which must be the last modifier.
fn last(cx: &mut Cx) -> Result<Ty> {
    let ty = cx.ty()?;
    cx.finish()?;
    Ok(ty)
}

/// `.sat`, which only `.s32` has.
fn saturates(cx: &mut Cx) -> Result<(bool, Ty)> {
    let sat = cx.flag("sat");
    let ty = last(cx)?;
    match sat && ty != Ty::S32 {
        true => Err(cx.error(".sat needs .s32")),
        false => Ok((sat, ty)),
    }
}

/// Both halves of a pair, each by itself.
fn pairs(cx: &Cx, f: impl Fn(u16, u16) -> u16 + Send + Sync + 'static) -> Result<Execute> {
    cx.binary(move |a: u32, b: u32| join(f(low(a), low(b)), f(high(a), high(b))))
}

pub(super) fn add(cx: &mut Cx) -> Result<Execute> {
    if cx.flag("cc") {
        return super::carry::add_cc(cx);
    }
    match saturates(cx)? {
        (true, _) => cx.binary(|a: i32, b: i32| a.saturating_add(b)),
        (_, Ty::U16x2 | Ty::S16x2) => pairs(cx, u16::wrapping_add),
        (_, ty) => scalar!(cx, ty, binary, |a, b| a.wrapping_add(b)),
    }
}

pub(super) fn sub(cx: &mut Cx) -> Result<Execute> {
    if cx.flag("cc") {
        return super::carry::sub_cc(cx);
    }
    match saturates(cx)? {
        (_, Ty::U16x2 | Ty::S16x2) => pairs(cx, u16::wrapping_sub),
        (true, _) => cx.binary(|a: i32, b: i32| a.saturating_sub(b)),
        (_, ty) => scalar!(cx, ty, binary, |a, b| a.wrapping_sub(b)),
    }
}

/// Which part of a product is kept.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Low,
    High,
    Wide,
}

const PARTS: [(&str, Part); 3] = [("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)];

pub(super) fn mul(cx: &mut Cx) -> Result<Execute> {
    let part = cx.need(&PARTS)?;
    let ty = last(cx)?;
    match (part, ty) {
        (Part::Low, _) => scalar!(cx, ty, binary, |a, b| a.wrapping_mul(b)),
        (Part::High, _) => scalar!(cx, ty, binary, |a, b| a.mul_high(b)),
        (Part::Wide, Ty::U16) => cx.binary(|a: u16, b: u16| u32::from(a) * u32::from(b)),
        (Part::Wide, Ty::S16) => cx.binary(|a: i16, b: i16| i32::from(a) * i32::from(b)),
        (Part::Wide, Ty::U32) => cx.binary(|a: u32, b: u32| u64::from(a) * u64::from(b)),
        (Part::Wide, Ty::S32) => cx.binary(|a: i32, b: i32| i64::from(a) * i64::from(b)),
        (Part::Wide, _) => Err(cx.unsupported(ty)),
    }
}

pub(super) fn mad(cx: &mut Cx) -> Result<Execute> {
    let part = cx.need(&PARTS)?;
    if cx.flag("cc") {
        return super::carry::mad(cx, part == Part::High, false, true);
    }
    let (sat, ty) = saturates(cx)?;
    match (part, ty) {
        (Part::High, Ty::S32) if sat => cx.ternary(|a: i32, b: i32, c: i32| a.mul_high(b).saturating_add(c)),
        _ if sat => Err(cx.error(".sat needs .hi")),
        (Part::Low, _) => scalar!(cx, ty, ternary, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (Part::High, _) => scalar!(cx, ty, ternary, |a, b, c| a.mul_high(b).wrapping_add(c)),
        (Part::Wide, Ty::U16) => {
            cx.ternary(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c))
        }
        (Part::Wide, Ty::S16) => {
            cx.ternary(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c))
        }
        (Part::Wide, Ty::U32) => {
            cx.ternary(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))
        }
        (Part::Wide, Ty::S32) => {
            cx.ternary(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c))
        }
        (Part::Wide, _) => Err(cx.unsupported(ty)),
    }
}

/// The 48-bit product of the low 24 bits: its low 32 bits, or the 32 bits above the lowest 16.
fn product24(a: u32, b: u32, signed: bool, high: bool) -> u32 {
    let extend = |x: u32| if signed { i64::from((x << 8) as i32 >> 8) } else { i64::from(x & 0xff_ffff) };
    let product = extend(a) * extend(b);
    (if high { product >> 16 } else { product }) as u32
}

pub(super) fn mul24(cx: &mut Cx) -> Result<Execute> {
    let high = cx.need(&PARTS[..2])? == Part::High;
    let ty = last(cx)?;
    cx.check(ty, &[Ty::U32, Ty::S32])?;
    let signed = ty.is_signed();
    cx.binary(move |a: u32, b: u32| product24(a, b, signed, high))
}

pub(super) fn mad24(cx: &mut Cx) -> Result<Execute> {
    let high = cx.need(&PARTS[..2])? == Part::High;
    let (sat, ty) = saturates(cx)?;
    cx.check(ty, &[Ty::U32, Ty::S32])?;
    let signed = ty.is_signed();
    match sat {
        true if !high => Err(cx.error(".sat needs .hi")),
        true => cx.ternary(|a: u32, b: u32, c: i32| (product24(a, b, true, true) as i32).saturating_add(c)),
        false => cx.ternary(move |a: u32, b: u32, c: u32| product24(a, b, signed, high).wrapping_add(c)),
    }
}

pub(super) fn sad(cx: &mut Cx) -> Result<Execute> {
    let ty = last(cx)?;
    scalar!(cx, ty, ternary, |a, b, c| {
        let distance = if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) };
        distance.wrapping_add(c)
    })
}

pub(super) fn div(cx: &mut Cx) -> Result<Execute> {
    let ty = last(cx)?;
    scalar!(cx, ty, binary, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) })
}

pub(super) fn rem(cx: &mut Cx) -> Result<Execute> {
    let ty = last(cx)?;
    scalar!(cx, ty, binary, |a, b| if b == 0 { a } else { a.wrapping_rem(b) })
}

pub(super) fn abs(cx: &mut Cx) -> Result<Execute> {
    match last(cx)? {
        Ty::S16 => cx.unary(i16::wrapping_abs),
        Ty::S32 => cx.unary(i32::wrapping_abs),
        Ty::S64 => cx.unary(i64::wrapping_abs),
        ty => Err(cx.unsupported(ty)),
    }
}

pub(super) fn neg(cx: &mut Cx) -> Result<Execute> {
    match last(cx)? {
        Ty::S16 => cx.unary(i16::wrapping_neg),
        Ty::S32 => cx.unary(i32::wrapping_neg),
        Ty::S64 => cx.unary(i64::wrapping_neg),
        ty => Err(cx.unsupported(ty)),
    }
}

/// `.relu` clamps a negative result to 0; signed 32-bit numbers and pairs have it. NVRTC writes it behind `.s16x2`.
fn relu(cx: &mut Cx) -> Result<(bool, Ty)> {
    let relu = cx.flag("relu");
    let ty = last(cx)?;
    match relu && !matches!(ty, Ty::S32 | Ty::S16x2) {
        true => Err(cx.error(".relu needs .s32 or .s16x2")),
        false => Ok((relu, ty)),
    }
}

fn signed_pairs(cx: &Cx, relu: bool, f: impl Fn(i16, i16) -> i16 + Send + Sync + 'static) -> Result<Execute> {
    let floor = if relu { 0 } else { i16::MIN };
    pairs(cx, move |a, b| f(a as i16, b as i16).max(floor) as u16)
}

pub(super) fn min(cx: &mut Cx) -> Result<Execute> {
    match relu(cx)? {
        (relu, Ty::S16x2) => signed_pairs(cx, relu, i16::min),
        (true, _) => cx.binary(|a: i32, b: i32| a.min(b).max(0)),
        (_, Ty::U16x2) => pairs(cx, u16::min),
        (_, ty) => scalar!(cx, ty, binary, |a, b| a.min(b)),
    }
}

pub(super) fn max(cx: &mut Cx) -> Result<Execute> {
    match relu(cx)? {
        (relu, Ty::S16x2) => signed_pairs(cx, relu, i16::max),
        (true, _) => cx.binary(|a: i32, b: i32| a.max(b).max(0)),
        (_, Ty::U16x2) => pairs(cx, u16::max),
        (_, ty) => scalar!(cx, ty, binary, |a, b| a.max(b)),
    }
}

/// Byte `at` of `x`, sign-extended or not.
fn byte(x: u32, at: u32, signed: bool) -> i32 {
    let byte = (x >> (8 * at)) as u8;
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

/// The types of the two factors of a dot product.
fn factors(cx: &mut Cx) -> Result<(bool, bool)> {
    let a = cx.only(&[Ty::U32, Ty::S32])?;
    let b = cx.only(&[Ty::U32, Ty::S32])?;
    cx.finish()?;
    Ok((a.is_signed(), b.is_signed()))
}

pub(super) fn dp4a(cx: &mut Cx) -> Result<Execute> {
    let (sa, sb) = factors(cx)?;
    cx.ternary(move |a: u32, b: u32, c: i32| {
        (0..4).fold(c, |sum, at| sum.wrapping_add(byte(a, at, sa) * byte(b, at, sb)))
    })
}

/// Two 16-bit factors from `a`, two bytes of the low or the high half of `b`.
pub(super) fn dp2a(cx: &mut Cx) -> Result<Execute> {
    let first = if cx.need(&PARTS[..2])? == Part::High { 2 } else { 0 };
    let (sa, sb) = factors(cx)?;
    cx.ternary(move |a: u32, b: u32, c: i32| {
        let half = |at| {
            let half = (a >> (16 * at)) as u16;
            if sa { i32::from(half as i16) } else { i32::from(half) }
        };
        (0..2).fold(c, |sum, at| sum.wrapping_add(half(at) * byte(b, first + at, sb)))
    })
}
