//! Is a result the correctly rounded one? Decided by comparing exact numbers, never by rounding.

use num_bigint::{BigInt, BigUint, Sign};
use std::cmp::Ordering;

/// A binary floating-point format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Format {
    pub exponent: u32,
    pub fraction: u32,
    /// The NaN of an invalid operation.
    pub nan: u64,
}

pub const F16: Format = Format { exponent: 5, fraction: 10, nan: 0x7fff };
pub const BF16: Format = Format { exponent: 8, fraction: 7, nan: 0x7fff };
pub const TF32: Format = Format { exponent: 8, fraction: 10, nan: 0x3ffff };
pub const F32: Format = Format { exponent: 8, fraction: 23, nan: 0x7fff_ffff };
pub const F64: Format = Format { exponent: 11, fraction: 52, nan: 0xfff8_0000_0000_0000 };

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    Nearest,
    Away,
    Zero,
    Down,
    Up,
}

/// The modes that arithmetic has, with their modifiers.
pub const MODES: [(&str, Mode); 4] =
    [("rn", Mode::Nearest), ("rz", Mode::Zero), ("rm", Mode::Down), ("rp", Mode::Up)];

/// `size * 2^exponent`, exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Dyadic {
    pub size: BigInt,
    pub exponent: i64,
}

impl Dyadic {
    pub fn integer(value: i128) -> Dyadic {
        Dyadic { size: value.into(), exponent: 0 }
    }

    fn aligned(&self, exponent: i64) -> BigInt {
        &self.size << (self.exponent - exponent) as usize
    }

    pub fn plus(&self, other: &Dyadic) -> Dyadic {
        let exponent = self.exponent.min(other.exponent);
        Dyadic { size: self.aligned(exponent) + other.aligned(exponent), exponent }
    }

    pub fn times(&self, other: &Dyadic) -> Dyadic {
        Dyadic { size: &self.size * &other.size, exponent: self.exponent + other.exponent }
    }

    pub fn compare(&self, other: &Dyadic) -> Ordering {
        let exponent = self.exponent.min(other.exponent);
        self.aligned(exponent).cmp(&other.aligned(exponent))
    }

    pub fn magnitude(&self) -> Dyadic {
        Dyadic { size: BigInt::from_biguint(Sign::Plus, self.size.magnitude().clone()), ..*self }
    }

    pub fn is_zero(&self) -> bool {
        self.size.sign() == Sign::NoSign
    }

    pub fn is_negative(&self) -> bool {
        self.size.sign() == Sign::Minus
    }
}

impl Format {
    pub fn sign(self) -> u64 {
        1 << (self.exponent + self.fraction)
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    pub fn is_nan(self, bits: u64) -> bool {
        bits & !self.sign() > self.infinity()
    }

    pub fn is_finite(self, bits: u64) -> bool {
        bits & !self.sign() < self.infinity()
    }

    pub fn is_subnormal(self, bits: u64) -> bool {
        let size = bits & !self.sign();
        size != 0 && size < 1 << self.fraction
    }

    /// A subnormal becomes a zero of its sign.
    pub fn flush(self, bits: u64) -> u64 {
        if self.is_subnormal(bits) { bits & self.sign() } else { bits }
    }

    /// `.sat`: between 0 and 1, a NaN is 0.
    pub fn saturate(self, bits: u64) -> u64 {
        let one = ((1 << (self.exponent - 1)) - 1) << self.fraction;
        if self.is_nan(bits) || bits & self.sign() != 0 { 0 } else { bits.min(one) }
    }

    /// The value of finite bits; infinity counts as the power of two after the largest number.
    pub fn value(self, bits: u64) -> Dyadic {
        let fraction = bits & ((1 << self.fraction) - 1);
        let field = ((bits & self.infinity()) >> self.fraction) as i64;
        let bias = (1 << (self.exponent - 1)) - 1;
        let size = if field == 0 { fraction } else { fraction | 1 << self.fraction };
        let sign = if bits & self.sign() != 0 { Sign::Minus } else { Sign::Plus };
        Dyadic {
            size: BigInt::from_biguint(sign, BigUint::from(size)),
            exponent: field.max(1) - bias - i64::from(self.fraction),
        }
    }

    fn middle(self, low: u64, high: u64) -> Dyadic {
        let mut sum = self.value(low).plus(&self.value(high));
        sum.exponent -= 1;
        sum
    }

    /// Whether `got` is a number rounded in `mode`. The number is not zero, has this sign, and its magnitude compares
    /// with others as `compare` says.
    pub fn is_rounded(
        self,
        got: u64,
        negative: bool,
        mode: Mode,
        compare: impl Fn(&Dyadic) -> Ordering,
    ) -> Result<(), String> {
        let size = got & !self.sign();
        if (got & self.sign() != 0) != negative || size > self.infinity() {
            return Err("which has the wrong sign or is a NaN".into());
        }
        let infinity = size == self.infinity();
        let even = size & 1 == 0;
        let outwards = match mode {
            Mode::Down => negative,
            Mode::Up => !negative,
            _ => false,
        };
        let (low, high) = match mode {
            Mode::Nearest | Mode::Away => {
                let tie_up = mode == Mode::Away || even;
                let tie_down = mode != Mode::Away && even;
                let low = size == 0
                    || match compare(&self.middle(size - 1, size)) {
                        Ordering::Less => false,
                        Ordering::Equal => tie_up,
                        Ordering::Greater => true,
                    };
                let high = infinity
                    || match compare(&self.middle(size, size + 1)) {
                        Ordering::Less => true,
                        Ordering::Equal => tie_down,
                        Ordering::Greater => false,
                    };
                (low, high)
            }
            _ if outwards => {
                let low = size != 0 && compare(&self.value(size - 1)) == Ordering::Greater;
                (low, infinity || compare(&self.value(size)) != Ordering::Greater)
            }
            _ => {
                let low = !infinity && compare(&self.value(size)) != Ordering::Less;
                let largest = size + 1 == self.infinity();
                (low, largest || compare(&self.value(size + 1)) == Ordering::Less)
            }
        };
        match (low, high) {
            (true, true) => Ok(()),
            (false, _) => Err("which is too large".into()),
            (_, false) => Err("which is too small".into()),
        }
    }

    /// As [`Format::is_rounded`], of an exact number that may be zero; `zero` is then the wanted result.
    pub fn is_rounded_value(self, got: u64, exact: &Dyadic, mode: Mode, zero: u64) -> Result<(), String> {
        if exact.is_zero() {
            return (got == zero).then_some(()).ok_or_else(|| format!("{zero:#x} is wanted"));
        }
        let magnitude = exact.magnitude();
        self.is_rounded(got, exact.is_negative(), mode, |other| magnitude.compare(other))
    }

    /// Zeros, subnormals, powers of two, numbers of few and of many bits, the largest ones, infinities and NaNs, of
    /// both signs.
    pub fn specials(self) -> Vec<u64> {
        let bias = (1 << (self.exponent - 1)) - 1;
        let power = |exponent: i64| ((bias + exponent) as u64) << self.fraction;
        let all = (1 << self.fraction) - 1;
        let least = 1 << self.fraction;
        let mut sizes = vec![0, 1, 2, 3, all / 3, all - 1, all, least, least + 1, least | all];
        for exponent in [-1, 0, 1] {
            sizes.extend([
                power(exponent),
                power(exponent) + 1,
                power(exponent) - 1,
                power(exponent) | (all / 3),
            ]);
        }
        let bits = i64::from(self.fraction);
        let wide = [bits / 2, bits, bits + 1, bits + 2, bias - 1, bias].map(|e| e.min(bias));
        sizes.extend(wide.map(power));
        sizes.extend([-bits / 2, -bits, -bits - 1, 1 - bias / 2].map(|e| power(e.max(1 - bias))));
        let infinity = self.infinity();
        sizes.extend([
            infinity - 1,
            infinity - 2,
            infinity,
            infinity + 1,
            infinity | least >> 1 | 5,
            infinity | all,
        ]);
        sizes.iter().flat_map(|&size| [size, size | self.sign()]).collect()
    }
}

/// The rounding checks itself, on a format small enough to enumerate.
#[test]
fn the_oracle() {
    let tiny = Format { exponent: 3, fraction: 2, nan: 0x1f };
    for exact in 1..2000_i128 {
        let exact = Dyadic { size: exact.into(), exponent: -6 };
        let real = 2_f64.powi(-6) * exact.size.to_string().parse::<f64>().expect("a number");
        for mode in [Mode::Nearest, Mode::Away, Mode::Zero, Mode::Down, Mode::Up] {
            let good: Vec<u64> = (0..=tiny.infinity())
                .filter(|&r| tiny.is_rounded_value(r, &exact, mode, 0).is_ok())
                .collect();
            assert_eq!(good.len(), 1, "{real} {mode:?}: {good:?}");
            let value = |r: u64| {
                let v = tiny.value(r);
                v.size.to_string().parse::<f64>().expect("a number") * 2_f64.powi(v.exponent as i32)
            };
            let got = value(good[0]);
            match mode {
                Mode::Zero | Mode::Down => assert!(got <= real && good[0] < tiny.infinity()),
                Mode::Up => assert!(got >= real || good[0] == tiny.infinity()),
                _ => {
                    let finite = real < 15.0;
                    let nearest =
                        (0..=tiny.infinity()).map(|r| (value(r) - real).abs()).fold(f64::MAX, f64::min);
                    assert_eq!(good[0] == tiny.infinity(), !finite, "{real}");
                    assert!(!finite || (got - real).abs() == nearest, "{real} {mode:?} {got}");
                }
            }
        }
    }
}
