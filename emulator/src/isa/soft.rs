//! Floating-point arithmetic in integers: any format up to `f64`, any rounding mode.
//!
//! A number is a 64-bit significand with its top bit set and an exponent. What lies below the significand is jammed
//! into its lowest bit, which no format of at most 53 bits keeps, so rounding it rounds the exact value.

/// A direction of rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// To the nearest, ties to even: `.rn`.
    Nearest,
    /// To the nearest, ties away from zero: `.rna`.
    Away,
    /// Towards zero: `.rz`.
    Zero,
    /// Towards minus infinity: `.rm`.
    Down,
    /// Towards plus infinity: `.rp`.
    Up,
}

/// A binary interchange format: sign, exponent field, fraction field.
pub(super) trait Format: Copy + Send + Sync + 'static {
    const FRACTION: u32;
    const EXPONENT: u32;
    /// The result of an invalid operation.
    const NAN: u64;
    /// Whether a NaN result keeps the bits of a NaN operand.
    const KEEPS_NAN: bool = false;

    const BIAS: i32 = (1 << (Self::EXPONENT - 1)) - 1;
    const INFINITY: u64 = ((1 << Self::EXPONENT) - 1) << Self::FRACTION;
    const SIGN: u64 = 1 << (Self::FRACTION + Self::EXPONENT);
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident $exponent:literal $fraction:literal $nan:literal $keeps:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name;
        impl Format for $name {
            const FRACTION: u32 = $fraction;
            const EXPONENT: u32 = $exponent;
            const NAN: u64 = $nan;
            const KEEPS_NAN: bool = $keeps;
        }
    )*};
}

formats! {
    F16 5 10 0x7fff false;
    Bf16 8 7 0x7fff false;
    /// `.tf32`, as the top 19 bits of an `.f32`.
    Tf32 8 10 0x3ffff false;
    F32 8 23 0x7fff_ffff false;
    F64 11 52 0xfff8_0000_0000_0000 true;
}

/// `significand / 2^63 * 2^exponent`, where the top bit of the significand is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    pub negative: bool,
    pub exponent: i32,
    pub significand: u64,
}

/// The same with twice the bits, `significand / 2^127 * 2^exponent`.
#[derive(Debug, Clone, Copy)]
struct Wide {
    negative: bool,
    exponent: i32,
    significand: u128,
}

/// What bits stand for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Real {
    Nan,
    Infinity(bool),
    Zero(bool),
    Finite(Number),
}

impl Number {
    /// The integer `value`, unless it is zero.
    pub fn from_integer(value: i128) -> Option<Number> {
        let size = value.unsigned_abs();
        let wide = Wide { negative: value < 0, exponent: 127, significand: size }.normalised()?;
        Some(wide.jammed())
    }

    fn wide(self) -> Wide {
        let Number { negative, exponent, significand } = self;
        Wide { negative, exponent, significand: u128::from(significand) << 64 }
    }
}

impl Wide {
    fn normalised(self) -> Option<Wide> {
        let shift = self.significand.leading_zeros();
        let significand = self.significand.checked_shl(shift)?;
        Some(Wide { significand, exponent: self.exponent - shift as i32, ..self })
    }

    fn jammed(self) -> Number {
        let rest = self.significand as u64 != 0;
        let significand = (self.significand >> 64) as u64 | u64::from(rest);
        Number { negative: self.negative, exponent: self.exponent, significand }
    }

    /// The exact sum, but for its jammed lowest bit; none if it is zero. Significands have at least 21 zeros at the
    /// end, so that bits are lost only where no more than one leading bit can cancel.
    fn plus(self, other: Wide) -> Option<Wide> {
        let order = (self.exponent, self.significand) >= (other.exponent, other.significand);
        let (big, small) = if order { (self, other) } else { (other, self) };
        let distance = big.exponent.wrapping_sub(small.exponent) as u32;
        let (top, low) = (big.significand >> 1, small.significand >> 1);
        let (low, lost) = match distance {
            0 => (low, 0),
            1..128 => (low >> distance, low << (128 - distance)),
            _ => (0, low),
        };
        let lost = u128::from(lost != 0);
        let sum = if big.negative == small.negative { (top + low) | lost } else { (top - low - lost) | lost };
        Wide { negative: big.negative, exponent: big.exponent + 1, significand: sum }.normalised()
    }
}

/// Reads the bits of a format.
pub(super) fn unpack<F: Format>(bits: u64) -> Real {
    let negative = bits & F::SIGN != 0;
    let field = bits & F::INFINITY;
    let fraction = bits & ((1 << F::FRACTION) - 1);
    match (field, fraction) {
        (field, fraction) if field == F::INFINITY => match fraction {
            0 => Real::Infinity(negative),
            _ => Real::Nan,
        },
        (0, 0) => Real::Zero(negative),
        (0, _) => {
            let zeros = fraction.leading_zeros();
            let exponent = 1 - F::BIAS + 63 - F::FRACTION as i32 - zeros as i32;
            Real::Finite(Number { negative, exponent, significand: fraction << zeros })
        }
        _ => {
            let exponent = (field >> F::FRACTION) as i32 - F::BIAS;
            let significand = (fraction | 1 << F::FRACTION) << (63 - F::FRACTION);
            Real::Finite(Number { negative, exponent, significand })
        }
    }
}

/// Rounds to a format. Too large a number becomes infinite or the largest finite one, as the mode says.
pub(super) fn round<F: Format>(number: Number, rounding: Rounding) -> u64 {
    let Number { negative, exponent, significand } = number;
    let least = 1 - F::BIAS;
    let below = i64::from(least) - i64::from(exponent);
    let shift = 63 - i64::from(F::FRACTION) + below.max(0);
    // Beyond 64 places everything is far less than half a unit.
    let (kept, rest) = match shift {
        ..64 => (significand >> shift, significand << (64 - shift)),
        64 => (0, significand),
        _ => (0, 1),
    };
    let half = 1_u64 << 63;
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && kept & 1 != 0,
        Rounding::Away => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    // A normal number's leading bit adds one to the exponent field; so does a carry out of the fraction.
    let field = if below >= 0 { 0 } else { (exponent - least) as u64 };
    let size =
        if field >= 1 << F::EXPONENT { F::INFINITY } else { (field << F::FRACTION) + kept + u64::from(up) };
    let sign = if negative { F::SIGN } else { 0 };
    if size < F::INFINITY {
        return sign | size;
    }
    let finite = match rounding {
        Rounding::Nearest | Rounding::Away => false,
        Rounding::Zero => true,
        Rounding::Down => !negative,
        Rounding::Up => negative,
    };
    sign | (F::INFINITY - u64::from(finite))
}

fn zero<F: Format>(negative: bool) -> u64 {
    if negative { F::SIGN } else { 0 }
}

fn infinity<F: Format>(negative: bool) -> u64 {
    zero::<F>(negative) | F::INFINITY
}

/// The NaN that an operation on `operands` gives.
pub(super) fn nan<F: Format>(operands: &[u64]) -> u64 {
    let first = operands.iter().find(|&&bits| F::KEEPS_NAN && bits & !F::SIGN > F::INFINITY);
    first.map_or(F::NAN, |bits| bits | 1 << (F::FRACTION - 1))
}

/// The sign of a sum that is exactly zero, of terms with these signs.
fn zero_sum<F: Format>(a: bool, b: bool, rounding: Rounding) -> u64 {
    zero::<F>(if a == b { a } else { rounding == Rounding::Down })
}

/// `a + b`.
pub(super) fn add<F: Format>(a: u64, b: u64, rounding: Rounding) -> u64 {
    match (unpack::<F>(a), unpack::<F>(b)) {
        (Real::Nan, _) | (_, Real::Nan) => nan::<F>(&[a, b]),
        (Real::Infinity(s), Real::Infinity(t)) if s != t => nan::<F>(&[]),
        (Real::Infinity(s), _) | (_, Real::Infinity(s)) => infinity::<F>(s),
        (Real::Zero(s), Real::Zero(t)) => zero_sum::<F>(s, t, rounding),
        (Real::Zero(_), Real::Finite(x)) | (Real::Finite(x), Real::Zero(_)) => round::<F>(x, rounding),
        (Real::Finite(x), Real::Finite(y)) => match x.wide().plus(y.wide()) {
            Some(sum) => round::<F>(sum.jammed(), rounding),
            None => zero_sum::<F>(x.negative, y.negative, rounding),
        },
    }
}

fn product(x: Number, y: Number) -> Wide {
    let significand = u128::from(x.significand) * u128::from(y.significand);
    // The product of two numbers in [1, 2) is in [1, 4).
    let carry = significand >> 127 != 0;
    Wide {
        negative: x.negative != y.negative,
        exponent: x.exponent + y.exponent + i32::from(carry),
        significand: if carry { significand } else { significand << 1 },
    }
}

/// `a * b`.
pub(super) fn mul<F: Format>(a: u64, b: u64, rounding: Rounding) -> u64 {
    let negative = (a ^ b) & F::SIGN != 0;
    match (unpack::<F>(a), unpack::<F>(b)) {
        (Real::Nan, _) | (_, Real::Nan) => nan::<F>(&[a, b]),
        (Real::Infinity(_), Real::Zero(_)) | (Real::Zero(_), Real::Infinity(_)) => nan::<F>(&[]),
        (Real::Infinity(_), _) | (_, Real::Infinity(_)) => infinity::<F>(negative),
        (Real::Zero(_), _) | (_, Real::Zero(_)) => zero::<F>(negative),
        (Real::Finite(x), Real::Finite(y)) => round::<F>(product(x, y).jammed(), rounding),
    }
}

/// `a * b + c`, rounded once.
pub(super) fn fma<F: Format>(a: u64, b: u64, c: u64, rounding: Rounding) -> u64 {
    let negative = (a ^ b) & F::SIGN != 0;
    match (unpack::<F>(a), unpack::<F>(b), unpack::<F>(c)) {
        (Real::Nan, ..) | (_, Real::Nan, _) | (.., Real::Nan) => nan::<F>(&[a, b, c]),
        (Real::Infinity(_), Real::Zero(_), _) | (Real::Zero(_), Real::Infinity(_), _) => nan::<F>(&[]),
        (Real::Infinity(_), ..) | (_, Real::Infinity(_), _) => match unpack::<F>(c) {
            Real::Infinity(s) if s != negative => nan::<F>(&[]),
            _ => infinity::<F>(negative),
        },
        (.., Real::Infinity(s)) => infinity::<F>(s),
        (Real::Finite(x), Real::Finite(y), Real::Zero(_)) => round::<F>(product(x, y).jammed(), rounding),
        (Real::Finite(x), Real::Finite(y), Real::Finite(z)) => match product(x, y).plus(z.wide()) {
            Some(sum) => round::<F>(sum.jammed(), rounding),
            None => zero_sum::<F>(negative, z.negative, rounding),
        },
        (.., Real::Finite(z)) => round::<F>(z, rounding),
        (.., Real::Zero(s)) => zero_sum::<F>(negative, s, rounding),
    }
}

/// `a / b`.
pub(super) fn div<F: Format>(a: u64, b: u64, rounding: Rounding) -> u64 {
    let negative = (a ^ b) & F::SIGN != 0;
    match (unpack::<F>(a), unpack::<F>(b)) {
        (Real::Nan, _) | (_, Real::Nan) => nan::<F>(&[a, b]),
        (Real::Infinity(_), Real::Infinity(_)) | (Real::Zero(_), Real::Zero(_)) => nan::<F>(&[]),
        (Real::Infinity(_), _) | (_, Real::Zero(_)) => infinity::<F>(negative),
        (Real::Zero(_), _) | (_, Real::Infinity(_)) => zero::<F>(negative),
        (Real::Finite(x), Real::Finite(y)) => {
            let (n, d) = (u128::from(x.significand) << 63, u128::from(y.significand));
            let (quotient, rest) = ((n / d) as u64, n % d);
            let shift = quotient.leading_zeros();
            let significand = quotient << shift | u64::from(rest != 0);
            let exponent = x.exponent - y.exponent - shift as i32;
            round::<F>(Number { negative, exponent, significand }, rounding)
        }
    }
}

/// The square root of `a`.
pub(super) fn sqrt<F: Format>(a: u64, rounding: Rounding) -> u64 {
    match unpack::<F>(a) {
        Real::Nan => nan::<F>(&[a]),
        Real::Zero(_) | Real::Infinity(false) => a,
        Real::Infinity(true) => nan::<F>(&[]),
        Real::Finite(x) if x.negative => nan::<F>(&[]),
        Real::Finite(x) => {
            let odd = x.exponent.rem_euclid(2);
            let square = u128::from(x.significand) << (63 + odd);
            let root = square.isqrt();
            let significand = root as u64 | u64::from(root * root != square);
            let exponent = x.exponent.div_euclid(2);
            round::<F>(Number { negative: false, exponent, significand }, rounding)
        }
    }
}

/// `bits` of format `S` in format `D`.
pub(super) fn convert<S: Format, D: Format>(bits: u64, rounding: Rounding) -> u64 {
    match unpack::<S>(bits) {
        Real::Nan => D::NAN,
        Real::Infinity(s) => infinity::<D>(s),
        Real::Zero(s) => zero::<D>(s),
        Real::Finite(x) => round::<D>(x, rounding),
    }
}
