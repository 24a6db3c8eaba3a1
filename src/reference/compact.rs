//! Compact masters: an f32 number as the bf16 parameter and 16 bits more.
//!
//! The master's bits are the parameter's, moved up, plus the low word as a signed number:
//! `(high << 16) + low`. Any parameter with any low word is a master, and low words of zero are the parameter itself.

use half::bf16;

/// The master: exact.
pub fn join(high: bf16, low: i16) -> f32 {
    f32::from_bits((u32::from(high.to_bits()) << 16).wrapping_add(i32::from(low) as u32))
}

/// The bf16 nearest to the master, ties away from zero, and the low word that [`join`] needs to give the master back.
/// A NaN keeps its sign alone.
pub fn split(master: f32) -> (bf16, i16) {
    let bits = master.to_bits();
    if master.is_nan() {
        // Rounding the bits would make infinities and zeros of some of them.
        return (bf16::from_bits((bits >> 16) as u16 & 0x8000 | 0x7fc0), 0);
    }
    (bf16::from_bits((bits.wrapping_add(0x8000) >> 16) as u16), bits as u16 as i16)
}
