//! Deterministic numbers for checks and measurements.

use orthant::{Dtype, Element, Storage};

/// A generator (splitmix64).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Mostly between -1 and 1; a few magnitudes, zeros of both signs, ties.
    fn value(&mut self) -> f64 {
        let bits = self.next();
        let unit = (bits >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0;
        match bits % 16 {
            0 => 0.0,
            1 => -0.0,
            2 => unit * 1e-30,
            3 => unit * 1e4,
            4 => 0.5,
            _ => unit,
        }
    }

    fn values<E: Element>(&mut self, len: usize) -> Vec<E> {
        (0..len).map(|_| E::from_f64(self.value())).collect()
    }

    pub fn storage(&mut self, dtype: Dtype, len: usize) -> Storage {
        match dtype {
            Dtype::F64 => Storage::F64(self.values(len)),
            Dtype::F32 => Storage::F32(self.values(len)),
            Dtype::Bf16 => Storage::Bf16(self.values(len)),
            Dtype::F16 => Storage::F16(self.values(len)),
        }
    }

    /// Between 0 and 1, neither of the two.
    fn open_unit(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Normally distributed numbers.
    pub fn gaussian(&mut self, len: usize) -> Vec<f64> {
        let one = |_| {
            let (radius, turn) = ((-2.0 * self.open_unit().ln()).sqrt(), self.open_unit());
            radius * (std::f64::consts::TAU * turn).cos()
        };
        (0..len).map(one).collect()
    }
}
