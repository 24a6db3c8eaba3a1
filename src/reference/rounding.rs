//! Rounding to 16 bits: to nearest for the Newton-Schulz approximation, stochastic for parameters and state.

use half::{bf16, f16};
use sha2::{Digest, Sha256};

use crate::algorithm::NsDtype;

/// Rounds every value to the format's nearest, ties to even. f32 and f64 are left alone.
pub fn round_to(dtype: NsDtype, values: &mut [f32]) {
    match dtype {
        NsDtype::Bf16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
        NsDtype::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        NsDtype::F32 | NsDtype::F64 => {}
    }
}

/// Random bits for stochastic rounding: a function of the parameter's name, the element's index in the parameter,
/// the step and the buffer, and of nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Dither {
    key: [u32; 2],
    step: u32,
    buffer: u32,
}

/// What the random bits of a step depend on.
#[derive(Debug, Clone, Copy)]
pub struct DitherKey<'a> {
    /// Parameter name.
    pub parameter: &'a str,
    /// The parameter's step, from 1.
    pub step: u64,
    /// The run's seed.
    pub seed: u64,
}

impl Dither {
    /// The stream of one buffer (0 parameter, 1 momentum, 2 variance, 3 largest variance).
    pub fn new(key: DitherKey<'_>, buffer: u32) -> Self {
        let hash = Sha256::digest(key.parameter.as_bytes());
        let word = |i: usize| u32::from_le_bytes([hash[i], hash[i + 1], hash[i + 2], hash[i + 3]]);
        let seeded = [word(0) ^ key.seed as u32, word(4) ^ (key.seed >> 32) as u32];
        Self { key: seeded, step: key.step as u32, buffer }
    }

    /// The four words of elements `4 quad .. 4 quad + 3`.
    fn words(&self, quad: u64) -> [u32; 4] {
        philox4x32([quad as u32, (quad >> 32) as u32, self.step, self.buffer], self.key)
    }

    /// Rounds `value` to bf16, away from zero with probability equal to the fraction cut off: 16 random bits are
    /// added below the kept ones, then the lower half is dropped. NaN stays NaN; finite values near the largest one
    /// may round to infinity, as they may to nearest.
    pub fn round(&self, value: f32, index: u64) -> bf16 {
        if !value.is_finite() {
            return bf16::from_f32(value);
        }
        let random = self.words(index / 4)[(index % 4) as usize] & 0xffff;
        bf16::from_bits((value.to_bits().wrapping_add(random) >> 16) as u16)
    }
}

/// Philox4x32-10 (Salmon et al., SC 2011): counter-based, four words a call.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let low = u64::from(counter[0]) * 0xd251_1f53;
        let high = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (high >> 32) as u32 ^ counter[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ counter[3] ^ key[1],
            low as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers from the Random123 distribution.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn dither_is_unbiased_and_rounds_to_neighbours() {
        let key = DitherKey { parameter: "w", step: 3, seed: 0 };
        let dither = Dither::new(key, 0);
        let value = 1.0 + 0.3 * 2f32.powi(-7);
        let n = 100_000;
        let up = (0..n).filter(|&i| dither.round(value, i).to_f32() > 1.0).count();
        assert!((0..n).all(|i| [1.0, 1.0 + 2f32.powi(-7)].contains(&dither.round(value, i).to_f32())));
        // Three standard deviations of a binomial with p = 0.3.
        assert!((up as f64 / n as f64 - 0.3).abs() < 3.0 * (0.21 / n as f64).sqrt(), "{up}");
        let draw = |dither: Dither| (0..64).map(|i| dither.round(value, i)).collect::<Vec<_>>();
        for other in
            [DitherKey { step: 4, ..key }, DitherKey { seed: 1, ..key }, DitherKey { parameter: "v", ..key }]
        {
            assert_ne!(draw(dither), draw(Dither::new(other, 0)));
        }
        assert_ne!(draw(dither), draw(Dither::new(key, 1)));
    }
}
