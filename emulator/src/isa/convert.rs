//! `cvt` between scalar types. Packed forms are in `pack.rs`.

use super::Execute;
use super::cx::{Cx, Result, Ty};
use super::float::{ROUNDINGS, canonical, flush};
use super::half::Half;
use super::lanes::Value;
use super::soft::{self, Bf16, F16, F32, F64, Format, Number, Rounding, Tf32};

const INTEGRAL: [(&str, Rounding); 4] =
    [("rni", Rounding::Nearest), ("rzi", Rounding::Zero), ("rmi", Rounding::Down), ("rpi", Rounding::Up)];

/// The modifiers of a conversion.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mode {
    /// `.rn`, `.rz`, `.rm`, `.rp` or `.rna`.
    pub rounding: Option<Rounding>,
    /// `.rni`, `.rzi`, `.rmi` or `.rpi`.
    pub integral: Option<Rounding>,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    pub satfinite: bool,
}

impl Mode {
    fn take(cx: &mut Cx) -> Mode {
        let away = cx.flag("rna").then_some(Rounding::Away);
        Mode {
            rounding: cx.pick(&ROUNDINGS).or(away),
            integral: cx.pick(&INTEGRAL),
            ftz: cx.flag("ftz"),
            sat: cx.flag("sat"),
            relu: cx.flag("relu"),
            satfinite: cx.flag("satfinite"),
        }
    }

    fn plain(self) -> bool {
        !(self.ftz || self.sat || self.relu || self.satfinite)
    }

    /// What follows the rounding. A NaN has its canonical form by now.
    #[inline(always)]
    pub fn output<F: Format>(self, bits: u64) -> u64 {
        let (size, negative) = (bits & !F::SIGN, bits & F::SIGN != 0);
        let nan = size > F::INFINITY;
        let one = (F::BIAS as u64) << F::FRACTION;
        if self.satfinite && size == F::INFINITY {
            return if negative && self.relu { 0 } else { bits - 1 };
        }
        if self.sat && (nan || negative) || self.relu && negative && !nan {
            return 0;
        }
        match self.sat {
            true => bits.min(one),
            false => bits,
        }
    }
}

/// `d = f(a)` between register classes of so many bits.
fn words(
    cx: &Cx,
    from: u32,
    to: u32,
    f: impl Fn(u64) -> u64 + Copy + Send + Sync + 'static,
) -> Result<Execute> {
    match (from, to) {
        (16, 16) => cx.unary(move |a: u16| f(a.into()) as u16),
        (16, 32) => cx.unary(move |a: u16| f(a.into()) as u32),
        (16, _) => cx.unary(move |a: u16| f(a.into())),
        (32, 16) => cx.unary(move |a: u32| f(a.into()) as u16),
        (32, 32) => cx.unary(move |a: u32| f(a.into()) as u32),
        (32, _) => cx.unary(move |a: u32| f(a.into())),
        (_, 16) => cx.unary(move |a: u64| f(a) as u16),
        (_, 32) => cx.unary(move |a: u64| f(a) as u32),
        _ => cx.unary(f),
    }
}

/// Bits of the register at operand `at`, which an integer of `ty` may not fill. Constants have the type's width.
fn integer_width(cx: &Cx, at: usize, ty: Ty) -> Result<u32> {
    use crate::ptx::{Operand, RegClass};
    let width = match *cx.operand(at)? {
        Operand::Reg(reg) => match reg.class {
            RegClass::B16 => 16,
            RegClass::B32 => 32,
            RegClass::B64 => 64,
            _ => return Err(cx.error(format!("operand {} must be a 16-, 32- or 64-bit register", at + 1))),
        },
        _ => ty.bits().max(16),
    };
    match width >= ty.bits() {
        true => Ok(width),
        false => Err(cx.error(format!("operand {} is narrower than .{}", at + 1, ty.name()))),
    }
}

/// The low `bits` bits, sign- or zero-extended.
#[inline(always)]
fn extend(value: u64, bits: u32, signed: bool) -> u64 {
    let shift = 64 - bits;
    if signed { ((value << shift) as i64 >> shift) as u64 } else { value << shift >> shift }
}

/// The least and the largest number of an integer type.
fn range(ty: Ty) -> (i128, i128) {
    let half = 1_i128 << (ty.bits() - 1);
    if ty.is_signed() { (-half, half - 1) } else { (0, 2 * half - 1) }
}

pub(super) fn cvt(cx: &mut Cx) -> Result<Execute> {
    if cx.flag("pack") {
        return super::pack::cvt_pack(cx);
    }
    if let Some(run) = super::fp8::cvt(cx)? {
        return Ok(run);
    }
    let mode = Mode::take(cx);
    let (to, from) = (cx.ty()?, cx.ty()?);
    cx.finish()?;
    if matches!(to, Ty::F16x2 | Ty::Bf16x2) && from == Ty::F32 {
        return super::pack::cvt_pair(cx, to, mode);
    }
    cx.count(2)?;
    let single = to == Ty::F32 || from == Ty::F32;
    if mode.ftz && !single {
        return Err(cx.error(".ftz needs an .f32"));
    }
    let narrow = matches!((to, from), (Ty::F16 | Ty::Bf16 | Ty::Tf32, Ty::F32));
    if (mode.relu || mode.satfinite) && !narrow {
        return Err(cx.error(".relu and .satfinite need a conversion of .f32 to .f16, .bf16 or .tf32"));
    }
    if mode.sat && to == Ty::Bf16 {
        return Err(cx.error("a conversion to .bf16 has no .sat"));
    }
    if [to, from].contains(&Ty::Bf16) && (to.bits() == 8 || from.bits() == 8) {
        return Err(cx.error(".bf16 and 8-bit integers are not converted"));
    }
    match (to.is_integer(), from.is_integer()) {
        (true, true) => integers(cx, to, from, mode),
        (true, false) => to_integer(cx, to, from, mode),
        (false, true) => from_integer(cx, to, from, mode),
        (false, false) => floats(cx, to, from, mode),
    }
}

fn integers(cx: &Cx, to: Ty, from: Ty, mode: Mode) -> Result<Execute> {
    if mode.rounding.is_some() || mode.integral.is_some() || mode.ftz {
        return Err(cx.error("a conversion of integers has no rounding"));
    }
    let (wide, into) = (integer_width(cx, 1, from)?, integer_width(cx, 0, to)?);
    let (bits, signed) = (from.bits(), from.is_signed());
    let (to_bits, to_signed) = (to.bits(), to.is_signed());
    if !mode.sat {
        return words(cx, wide, into, move |a| extend(extend(a, bits, signed), to_bits, to_signed));
    }
    let (least, most) = range(to);
    if range(from).0 >= least && range(from).1 <= most {
        return Err(cx.error(format!(
            "every .{} is a .{}: there is nothing to saturate",
            from.name(),
            to.name()
        )));
    }
    words(cx, wide, into, move |a| {
        let a = extend(a, bits, signed);
        let value = if signed { i128::from(a as i64) } else { i128::from(a) };
        value.clamp(least, most) as u64
    })
}

/// `$body` with `$format` standing for the format of a floating-point type.
macro_rules! with_format {
    ($cx:ident, $ty:expr, $format:ident => $body:expr) => {
        match $ty {
            Ty::F16 => with_format!(@ $format = F16, $body),
            Ty::Bf16 => with_format!(@ $format = Bf16, $body),
            Ty::F32 => with_format!(@ $format = F32, $body),
            Ty::F64 => with_format!(@ $format = F64, $body),
            ty => Err($cx.unsupported(ty)),
        }
    };
    (@ $format:ident = $name:ident, $body:expr) => {{
        type $format = $name;
        $body
    }};
}

/// The value as an `f64`, which is exact.
#[inline(always)]
fn value<F: Format>(bits: u64, ftz: bool) -> f64 {
    match F::FRACTION {
        10 => F16::value(bits as u16).into(),
        7 => Bf16::value(bits as u16).into(),
        23 if ftz => flush(f32::from_bits(bits as u32)).into(),
        23 => f32::from_bits(bits as u32).into(),
        _ => f64::from_bits(bits),
    }
}

#[inline(always)]
fn integral(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest | Rounding::Away => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// Too large a number becomes the nearest integer of the type. A NaN becomes 0, or 1 in the top bit where the source
/// is `.f64` or the target has 64 bits.
fn to_integer(cx: &Cx, to: Ty, from: Ty, mode: Mode) -> Result<Execute> {
    let Some(rounding) = mode.integral else {
        return Err(cx.error("a conversion to an integer needs .rni, .rzi, .rmi or .rpi"));
    };
    if mode.rounding.is_some() {
        return Err(cx.error("there are two roundings"));
    }
    let into = integer_width(cx, 0, to)?;
    fn of<F: Format>(cx: &Cx, to: Ty, into: u32, rounding: Rounding, ftz: bool) -> Result<Execute> {
        let (bits, signed) = (to.bits(), to.is_signed());
        let top = bits == 64 || F::FRACTION == 52;
        let nan = if top { extend(1 << (bits - 1), bits, signed) } else { 0 };
        let from = 1 + F::EXPONENT + F::FRACTION;
        if !signed {
            let most = u64::MAX >> (64 - bits);
            return words(cx, from, into, move |a| {
                let x = value::<F>(a, ftz);
                if x.is_nan() { nan } else { (integral(x, rounding) as u64).min(most) }
            });
        }
        let most = i64::MAX >> (64 - bits);
        words(cx, from, into, move |a| {
            let x = value::<F>(a, ftz);
            if x.is_nan() { nan } else { (integral(x, rounding) as i64).clamp(!most, most) as u64 }
        })
    }
    with_format!(cx, from, S => of::<S>(cx, to, into, rounding, mode.ftz))
}

fn from_integer(cx: &Cx, to: Ty, from: Ty, mode: Mode) -> Result<Execute> {
    let Some(rounding @ (Rounding::Nearest | Rounding::Zero | Rounding::Down | Rounding::Up)) = mode.rounding
    else {
        return Err(cx.error("a conversion of an integer needs .rn, .rz, .rm or .rp"));
    };
    if mode.integral.is_some() {
        return Err(cx.error("there are two roundings"));
    }
    let wide = integer_width(cx, 1, from)?;
    let (bits, signed) = (from.bits(), from.is_signed());
    if to == Ty::F32 && rounding == Rounding::Nearest && mode.plain() {
        return words(cx, wide, 32, move |a| {
            let a = extend(a, bits, signed);
            let value = if signed { a as i64 as f32 } else { a as f32 };
            value.to_bits().into()
        });
    }
    fn of<F: Format>(cx: &Cx, from: Ty, wide: u32, rounding: Rounding, mode: Mode) -> Result<Execute> {
        let (bits, signed) = (from.bits(), from.is_signed());
        words(cx, wide, 1 + F::EXPONENT + F::FRACTION, move |a| {
            let a = extend(a, bits, signed);
            let value = if signed { i128::from(a as i64) } else { i128::from(a) };
            Number::from_integer(value).map_or(0, |n| mode.output::<F>(soft::round::<F>(n, rounding)))
        })
    }
    with_format!(cx, to, D => of::<D>(cx, from, wide, rounding, mode))
}

fn floats(cx: &Cx, to: Ty, from: Ty, mode: Mode) -> Result<Execute> {
    let wider = match (to, from) {
        (Ty::F64, Ty::F16 | Ty::Bf16 | Ty::F32) | (Ty::F32, Ty::F16 | Ty::Bf16) => true,
        _ if to == from => true,
        _ => false,
    };
    match (mode.rounding, mode.integral) {
        (None, None) if wider => {}
        (None, Some(rounding)) if to == from => {
            return with_format!(cx, to, D => to_integral::<D>(cx, rounding, mode));
        }
        (Some(_), None) if !wider => {}
        (None, _) if !wider => return Err(cx.error("this conversion needs .rn, .rz, .rm or .rp")),
        _ => return Err(cx.error("this conversion has no such rounding")),
    }
    if to == Ty::Tf32 {
        cx.check(from, &[Ty::F32])?;
        return tf32(cx, mode);
    }
    match (to, from, mode.rounding) {
        (_, _, Some(Rounding::Away)) => return Err(cx.error(".rna needs .tf32")),
        (Ty::F32, Ty::F16, _) if mode.plain() => return cx.unary(|a: u16| canonical(F16::value(a))),
        (Ty::F32, Ty::Bf16, _) if mode.plain() => return cx.unary(|a: u16| canonical(Bf16::value(a))),
        (Ty::F16, Ty::F32, Some(Rounding::Nearest)) if mode.plain() => return cx.unary(F16::nearest),
        (Ty::Bf16, Ty::F32, Some(Rounding::Nearest)) if mode.plain() => return cx.unary(Bf16::nearest),
        (Ty::F32, Ty::F64, Some(Rounding::Nearest)) if mode.plain() => {
            return cx.unary(|a: f64| canonical(a as f32));
        }
        _ => {}
    }
    match from {
        Ty::F16 => with_format!(cx, to, D => between::<F16, D>(cx, mode)),
        Ty::Bf16 => with_format!(cx, to, D => between::<Bf16, D>(cx, mode)),
        Ty::F32 => with_format!(cx, to, D => between::<F32, D>(cx, mode)),
        Ty::F64 => with_format!(cx, to, D => between::<F64, D>(cx, mode)),
        ty => Err(cx.unsupported(ty)),
    }
}

/// Flushes the subnormals of `.f32`, the only type that `.ftz` is about here.
#[inline(always)]
fn flush_single<F: Format>(bits: u64, ftz: bool) -> u64 {
    let subnormal = F::FRACTION == 23 && bits & !F::SIGN < 1 << F::FRACTION;
    if ftz && subnormal { bits & F::SIGN } else { bits }
}

/// Between two formats. A NaN of `.f64` keeps its bits, one that becomes an `.f64` keeps its sign and payload.
#[inline(always)]
fn convert<S: Format, D: Format>(bits: u64, mode: Mode) -> u64 {
    let bits = flush_single::<S>(bits, mode.ftz);
    let size = bits & !S::SIGN;
    let result = if size > S::INFINITY && D::KEEPS_NAN {
        let sign = if bits & S::SIGN != 0 { D::SIGN } else { 0 };
        let payload = (size & ((1 << S::FRACTION) - 1)) << D::FRACTION.saturating_sub(S::FRACTION);
        sign | D::INFINITY | 1 << (D::FRACTION - 1) | payload
    } else {
        soft::convert::<S, D>(bits, mode.rounding.unwrap_or(Rounding::Nearest))
    };
    mode.output::<D>(flush_single::<D>(result, mode.ftz))
}

fn between<S: Format, D: Format>(cx: &Cx, mode: Mode) -> Result<Execute> {
    let width = |fraction, exponent| 1 + fraction + exponent;
    words(cx, width(S::FRACTION, S::EXPONENT), width(D::FRACTION, D::EXPONENT), move |a| {
        convert::<S, D>(a, mode)
    })
}

/// `cvt.rni.f32.f32`: to a whole number of the same type. Zeros keep the sign of what they come from.
fn to_integral<F: Format>(cx: &Cx, rounding: Rounding, mode: Mode) -> Result<Execute> {
    let width = 1 + F::FRACTION + F::EXPONENT;
    words(cx, width, width, move |a| {
        let x = value::<F>(a, mode.ftz);
        let result = match x.is_nan() {
            true => soft::nan::<F>(&[a]),
            false => soft::convert::<F64, F>(integral(x, rounding).to_bits(), Rounding::Nearest),
        };
        mode.output::<F>(result)
    })
}

/// `.f32` in the precision of tensor cores: the low 13 bits are zero.
fn tf32(cx: &Cx, mode: Mode) -> Result<Execute> {
    let rounding = mode.rounding.unwrap_or(Rounding::Away);
    if mode.ftz || mode.sat || !matches!(rounding, Rounding::Nearest | Rounding::Zero | Rounding::Away) {
        return Err(cx.error("a conversion to .tf32 has .rna, .rn or .rz, .relu and .satfinite"));
    }
    if rounding == Rounding::Away && mode.relu {
        return Err(cx.error(".rna has no .relu"));
    }
    cx.unary::<u32, u32>(move |a| match f32::of(a).is_nan() {
        true => 0x7fff_ffff,
        false => (mode.output::<Tf32>(soft::convert::<F32, Tf32>(a.into(), rounding)) << 13) as u32,
    })
}

/// One half of `cvt.rn.f16x2.f32` and the like.
pub(super) fn narrow<H: Half>(a: f32, mode: Mode) -> u16 {
    convert::<F32, H>(a.to_bits().into(), mode) as u16
}

/// Whether nothing but rounding to the nearest is asked for.
pub(super) fn is_nearest(mode: Mode) -> bool {
    mode.plain() && mode.rounding == Some(Rounding::Nearest)
}
