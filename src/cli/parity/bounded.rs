//! Numbers with a bound on what f32 arithmetic may make of them: running error analysis.
//!
//! Every operation of a step is one IEEE operation in f32, so its result is off by at most half a unit in the last place:
//! `fl(a op b) = (a op b)(1 + d) + e` with `|d| <= 2^-24`, and `|e| <= 2^-150` where it is subnormal. Here the same operation
//! is done in f64, and the bound takes what the operands' own bounds can make of the result, and that half unit. Bounds are
//! guarantees, not estimates: whoever is further off has another formula, another order or a wrong operand.

use orthant::Dtype;

/// Half a unit in the last place of f32, relative to the number.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
/// The same of its subnormal numbers, 2^-150.
const TINY: f64 = f64::from_bits((1023 - 150) << 52);
/// Bounds are computed in f64, and so is the value: this makes up for their own rounding many times over.
const SLACK: f64 = 1.0 + 1.0 / (1u64 << 20) as f64;

/// A value of the f64 reference; f32's lies within `error` of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bounded {
    pub value: f64,
    pub error: f64,
}

impl Bounded {
    /// A number that f32 has exactly.
    pub fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// A scalar that is computed in f64 and rounded once.
    pub fn scalar(value: f64) -> Self {
        Self::rounded(value, 0.0)
    }

    /// The result of an operation, with what its operands' bounds leave uncertain.
    fn rounded(value: f64, inherited: f64) -> Self {
        // From exact operands, a result that f32 has is the one it gives.
        if inherited == 0.0 && f64::from(value as f32) == value {
            return Self::exact(value);
        }
        Self { value, error: (inherited + UNIT * (value.abs() + inherited) + TINY) * SLACK }
    }

    /// Further off by so much, relative to the number and absolutely.
    pub fn widened(self, relative: f64, absolute: f64) -> Self {
        let more = relative * (self.value.abs() + self.error) + absolute;
        Self { value: self.value, error: (self.error + more) * SLACK }
    }

    /// As it is stored. Rounding to nearest is off by half a unit in the last place, stochastic rounding by less than one.
    pub fn stored(self, dtype: Dtype, stochastic: bool) -> Self {
        // The unit of a type with p bits is 2^-p of the number; its smallest subnormals, halved.
        let (unit, tiny) = match dtype {
            Dtype::F32 | Dtype::F64 => return self,
            Dtype::Bf16 => (1.0 / 256.0, f64::from_bits((1023 - 134) << 52)),
            Dtype::F16 => (1.0 / 2048.0, f64::from_bits((1023 - 25) << 52)),
        };
        let units = if stochastic { 2.0 } else { 1.0 };
        self.widened(units * unit, units * tiny)
    }

    pub fn plus(self, other: Self) -> Self {
        Self::rounded(self.value + other.value, self.error + other.error)
    }

    pub fn minus(self, other: Self) -> Self {
        Self::rounded(self.value - other.value, self.error + other.error)
    }

    pub fn times(self, other: Self) -> Self {
        let inherited =
            self.value.abs() * other.error + other.value.abs() * self.error + self.error * other.error;
        Self::rounded(self.value * other.value, inherited)
    }

    /// Nothing is known of a quotient whose divisor may be zero.
    pub fn over(self, divisor: Self) -> Self {
        let least = divisor.value.abs() - divisor.error;
        let quotient = self.value / divisor.value;
        if least <= 0.0 {
            return Self { value: quotient, error: f64::INFINITY };
        }
        Self::rounded(quotient, (self.error + quotient.abs() * divisor.error) / least)
    }

    pub fn root(self) -> Self {
        let value = self.value.sqrt();
        let (low, high) = ((self.value - self.error).max(0.0).sqrt(), (self.value + self.error).sqrt());
        Self::rounded(value, (high - value).max(value - low))
    }

    pub fn largest(self, other: Self) -> Self {
        Self { value: self.value.max(other.value), error: self.error.max(other.error) }
    }

    /// The number's sign in f32, if it is certain.
    pub fn sign(self) -> Option<f64> {
        match self.value {
            v if self.error == 0.0 && v == 0.0 => Some(0.0),
            v if v > self.error => Some(1.0),
            v if v < -self.error => Some(-1.0),
            _ => None,
        }
    }

    /// How far off a result is, in parts of what it may be off.
    pub fn miss(self, found: f64) -> f64 {
        let off = (found - self.value).abs();
        match off {
            0.0 => 0.0,
            // NaN is as wrong as can be.
            off if self.error > 0.0 && off.is_finite() => off / self.error,
            _ => f64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random chains of operations in f32 stay within their bounds, and the bounds are not idle.
    #[test]
    fn f32_stays_within_the_bounds() {
        let mut noise = crate::cli::noise::Noise(1);
        let (mut closest, mut chains) = (0.0f64, 0);
        for _ in 0..20_000 {
            let start = (noise.next() >> 40) as f32 / 1e6 - 8.0;
            let (mut single, mut bounded) = (start, Bounded::exact(f64::from(start)));
            for _ in 0..8 {
                let operand = (noise.next() >> 40) as f32 / 1e6 - 8.0;
                let exact = Bounded::exact(f64::from(operand));
                (single, bounded) = match noise.next() % 5 {
                    0 => (single + operand, bounded.plus(exact)),
                    1 => (single - operand, bounded.minus(exact)),
                    2 => (single * operand, bounded.times(exact)),
                    3 if operand != 0.0 => (single / operand, bounded.over(exact)),
                    _ => ((single * single).sqrt(), bounded.times(bounded).root()),
                };
                let miss = bounded.miss(f64::from(single));
                assert!(miss <= 1.0, "{single} is not within {bounded:?}");
                closest = closest.max(miss);
                chains += 1;
            }
        }
        assert!(chains == 160_000 && closest > 0.9, "{closest}");
    }

    #[test]
    fn signs_are_certain_or_not() {
        let third = Bounded::scalar(1.0 / 3.0);
        assert_eq!(third.sign(), Some(1.0));
        assert_eq!(Bounded::exact(-0.0).sign(), Some(0.0));
        assert_eq!(third.minus(Bounded::scalar(1.0 / 3.0)).sign(), None);
        assert_eq!(Bounded::exact(1.0).over(third.minus(third)).error, f64::INFINITY);
    }

    #[test]
    fn storage_types_round() {
        for v in [1.003f32, -3.7e-40, 0.1, 65_000.0] {
            let exact = Bounded::exact(f64::from(v));
            assert!(exact.stored(Dtype::Bf16, false).miss(half::bf16::from_f32(v).to_f64()) <= 1.0);
            assert!(exact.stored(Dtype::F16, false).miss(half::f16::from_f32(v).to_f64()) <= 1.0);
        }
    }
}
