//! `cvt` from and to pairs of 8-bit floating-point numbers.

use super::Execute;
use super::cx::{Cx, Result, Ty};
use half::f16;

/// An 8-bit format.
#[derive(Clone, Copy)]
struct Format {
    /// Bits of the fraction.
    fraction: i32,
    /// Exponent of the least normal number.
    least: i32,
    /// The greatest finite number, as bits.
    most: u32,
    /// Whether the numbers above it are infinity and NaNs as IEEE has them; else only all ones is a NaN.
    ieee: bool,
}

const E4M3: Format = Format { fraction: 3, least: -6, most: 0x7e, ieee: false };
const E5M2: Format = Format { fraction: 2, least: -14, most: 0x7b, ieee: true };
const NAN: u32 = 0x7f;

impl Format {
    /// The nearest number, ties to even; what is too large becomes the greatest.
    fn narrow(self, value: f32, relu: bool) -> u32 {
        if value.is_nan() {
            return NAN;
        }
        let sign = u32::from(value.is_sign_negative()) << 7;
        if relu && sign != 0 {
            return 0;
        }
        // Exact in double precision, where no single is subnormal.
        let size = f64::from(value.abs());
        if size.is_infinite() {
            return sign | self.most;
        }
        let exponent = ((size.to_bits() >> 52) as i32 - 1023).max(self.least);
        let steps = (size * f64::from(self.fraction - exponent).exp2()).round_ties_even() as u32;
        // A carry runs into the exponent as it should.
        let bits = ((exponent - self.least) as u32) << self.fraction;
        sign | (bits + steps).min(self.most)
    }

    fn widen(self, bits: u32, relu: bool) -> u16 {
        let size = bits & 0x7f;
        if size > self.most && (!self.ieee || size != self.most + 1) {
            return 0x7fff;
        }
        let negative = bits & 0x80 != 0;
        if relu && negative {
            return 0;
        }
        let value = if size > self.most {
            f32::INFINITY
        } else {
            let fraction = (size & ((1 << self.fraction) - 1)) as f32;
            let one = f32::from(1u8 << self.fraction);
            match (size >> self.fraction) as i32 {
                0 => fraction / one * (self.least as f32).exp2(),
                exponent => (1.0 + fraction / one) * ((exponent - 1 + self.least) as f32).exp2(),
            }
        };
        // Every number of both formats is one of binary16.
        f16::from_f32(if negative { -value } else { value }).to_bits()
    }
}

/// `cvt.rn.satfinite{.relu}.e4m3x2.f32 d, a, b` (`a` becomes the high byte), the same of `.f16x2`, and
/// `cvt.rn{.relu}.f16x2.e4m3x2 d, a`. None: it is another conversion.
pub(super) fn cvt(cx: &mut Cx) -> Result<Option<Execute>> {
    let from = cx.last_type();
    let Some(format) = cx.pick(&[("e4m3x2", E4M3), ("e5m2x2", E5M2)]) else { return Ok(None) };
    cx.need(&[("rn", ())])?;
    let relu = cx.flag("relu");
    if from.is_some() {
        cx.need(&[("satfinite", ())])?;
    }
    let other = cx.only(&[Ty::F32, Ty::F16x2])?;
    cx.finish()?;
    let half = |bits: u32| f16::from_bits(bits as u16).to_f32();
    let pair = move |high: f32, low: f32| (format.narrow(high, relu) << 8 | format.narrow(low, relu)) as u16;
    match (from, other) {
        (Some(_), Ty::F32) => cx.binary(pair).map(Some),
        (Some(_), _) => cx.unary(move |a: u32| pair(half(a >> 16), half(a))).map(Some),
        (None, Ty::F16x2) => {
            let wide = move |bits: u16| u32::from(format.widen(bits.into(), relu));
            cx.unary(move |a: u16| wide(a >> 8) << 16 | wide(a & 0xff)).map(Some)
        }
        (None, ty) => Err(cx.unsupported(ty)),
    }
}
