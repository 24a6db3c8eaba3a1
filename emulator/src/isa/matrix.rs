//! What tensor cores do with the registers of one warp: products of small matrices, and transposition.
//!
//! A [`Fragment`] is one 32-bit register of all lanes. The PTX ISA lays the 16-bit operands of `mma`, `ldmatrix` and
//! `movmatrix` out such that its 64 halves, in the order of memory, are an 8x8 matrix row by row; the second operand of
//! `mma` column by column.
//!
//! The ISA leaves the order and the rounding of the sums open. Here the products, which are exact, are added in `f64` by
//! ascending k, then the addend, and the result is rounded once, towards zero, since tensor cores truncate. They align the
//! products of a few k to the largest and cut off what lies below, so the last bits of a card's results may differ.
//! A result of 2^128 or more is infinite. A NaN is `0x7fffffff`, as of every other `.f32` instruction.

use super::LANES;
use super::half::Half;
use super::soft::{Bf16, F16};

/// One 32-bit register of all lanes.
pub(crate) type Fragment = [u32; LANES];

/// Rows and columns of the matrix in a fragment.
const SIDE: usize = 8;

/// What the factors consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
}

/// `a * b + c` of `mma.m16n8k8` and `.m16n8k16`, by the number of fragments: `a` has two for each 8 of k, `b` one.
pub(crate) fn multiply(element: Element, a: &[Fragment], b: &[Fragment], c: &[Fragment; 4]) -> [Fragment; 4] {
    match element {
        Element::F16 => product::<F16>(a, b, c),
        Element::Bf16 => product::<Bf16>(a, b, c),
    }
}

fn product<H: Half>(a: &[Fragment], b: &[Fragment], c: &[Fragment; 4]) -> [Fragment; 4] {
    // Row k of the second factor side by side, so that the innermost loops are vector instructions.
    let mut rows = [[0.0; SIDE]; 2 * SIDE];
    for (rows, fragment) in rows.chunks_exact_mut(SIDE).zip(b) {
        let columns = widen::<H>(fragment);
        for (k, row) in rows.iter_mut().enumerate() {
            *row = std::array::from_fn(|n| columns[n * SIDE + k]);
        }
    }
    let mut d = [[0; LANES]; 4];
    for (half, d) in d.chunks_exact_mut(2).enumerate() {
        // Minus zero is what changes no sum.
        let mut sums = [[-0.0; SIDE]; SIDE];
        for (rows, fragment) in rows.chunks_exact(SIDE).zip(a.iter().skip(half).step_by(2)) {
            let values = widen::<H>(fragment);
            for (sum, values) in sums.iter_mut().zip(values.chunks_exact(SIDE)) {
                for (value, row) in values.iter().zip(rows) {
                    for n in 0..SIDE {
                        sum[n] += value * row[n];
                    }
                }
            }
        }
        for lane in 0..LANES {
            let (row, n) = (lane / 4, lane % 4 * 2);
            for odd in 0..2 {
                let addend = f64::from(f32::from_bits(c[2 * half + odd][lane]));
                d[odd][lane] = truncate(sums[row][n + odd] + addend);
            }
        }
    }
    d
}

/// The elements in the order of memory.
fn widen<H: Half>(fragment: &Fragment) -> [f64; 2 * LANES] {
    let mut values = [0.0; 2 * LANES];
    for (pair, &bits) in values.chunks_exact_mut(2).zip(fragment) {
        pair[0] = H::value(bits as u16).into();
        pair[1] = H::value((bits >> 16) as u16).into();
    }
    values
}

/// The bits of an `f32`, rounded towards zero.
#[inline(always)]
fn truncate(value: f64) -> u32 {
    const BEYOND: f64 = 2.0 * (1u128 << 127) as f64;
    let nearest = value as f32;
    let away = f64::from(nearest).abs() > value.abs() && value.abs() < BEYOND;
    let bits = nearest.to_bits() - u32::from(away);
    if value.is_nan() { 0x7fff_ffff } else { bits }
}

/// The matrix with rows and columns exchanged.
pub(crate) fn transpose(fragment: &Fragment) -> Fragment {
    let element =
        |row: usize, column: usize| fragment[(row * SIDE + column) / 2] >> (16 * (column % 2)) & 0xffff;
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    })
}
