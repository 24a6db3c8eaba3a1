//! Norms in a fixed order, so that every backend can have the same bits.
//!
//! The order is part of the specification, and there are two. In both, squares are those of the working type's
//! values in f64, sums start from 0.0, a pairwise addition adds the upper half to the lower, and block sums,
//! numbered in order, are added by 256 lanes: lane l takes blocks l, l+256, ..., then the lanes are added pairwise
//! at distances 128, 64, ..., 1.
//!
//! - **By tiles** ([`norm`]), for spectral normalisation, rows and columns: the matrix is taken with its short side
//!   first (rows <= columns; a square one as it is) and cut into 64 x 64 blocks, numbered row-major. Inside a
//!   block the squares of each column are added top to bottom, then the 64 column sums pairwise at distances 32,
//!   16, ..., 1. Zeros appended to rows or columns within a block change nothing, nor does transposing a
//!   non-square matrix.
//! - **Flat** ([`flat_norm`]), for the global gradient norm and the Frobenius direction, which depend on no shape:
//!   the row-major elements are cut into blocks of 4096, the last one shorter. Inside a block element e belongs to
//!   column e % 256; the squares of each column are added top to bottom, then the 256 column sums pairwise at
//!   distances 128, 64, ..., 1. Zeros appended at the end change nothing.
//!
//! A global norm ([`total_norm`]) adds the parts, numbered in order, by 256 lanes as if they were blocks.

use rayon::prelude::*;

use super::real::Real;

const BLOCK: usize = 64;
const FLAT_BLOCK: usize = 4096;
/// Lanes that add block sums, and columns of a flat block.
const LANES: usize = 256;
/// Below this many elements threads cost more than they bring.
const PARALLEL: usize = 1 << 16;

/// A non-negative number `value * 2^exponent`; the exponent is 0 unless plain f64 would overflow or underflow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaled {
    /// Mantissa part.
    pub value: f64,
    /// Power of two.
    pub exponent: i32,
}

impl Scaled {
    /// The norm, if this is a sum of squares.
    fn root(self) -> Self {
        Self { value: self.value.sqrt(), ..self }
    }
}

/// A strided matrix of `T`: element (i, j) at `i * row_stride + j * column_stride`.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a, T> {
    /// First element onwards.
    pub data: &'a [T],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub column_stride: usize,
}

impl<'a, T: Real> Strided<'a, T> {
    /// A row-major matrix.
    pub fn row_major(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    fn short_side_first(self) -> Self {
        if self.rows <= self.columns {
            return self;
        }
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn at(&self, i: usize, j: usize) -> T {
        self.data[i * self.row_stride + j * self.column_stride]
    }
}

/// Sum of squares of `matrix * factor` by tiles; `factor` is a power of two.
fn sum_of_squares<T: Real>(matrix: Strided<'_, T>, factor: f64) -> f64 {
    let m = matrix.short_side_first();
    let across = m.columns.div_ceil(BLOCK);
    let blocks = m.rows.div_ceil(BLOCK) * across;
    let block = |index: usize| {
        let (top, left) = (index / across * BLOCK, index % across * BLOCK);
        let (height, width) = (BLOCK.min(m.rows - top), BLOCK.min(m.columns - left));
        let mut sums = [0.0f64; BLOCK];
        for i in top..top + height {
            if m.column_stride == 1 {
                let start = i * m.row_stride + left;
                for (sum, &x) in sums.iter_mut().zip(&m.data[start..start + width]) {
                    let x = x.to_f64() * factor;
                    *sum += x * x;
                }
            } else {
                for (j, sum) in sums.iter_mut().enumerate().take(width) {
                    let x = m.at(i, left + j).to_f64() * factor;
                    *sum += x * x;
                }
            }
        }
        halve(&mut sums)
    };
    let mut partial = vec![0.0; blocks];
    if m.rows * m.columns >= PARALLEL {
        partial.par_iter_mut().enumerate().with_min_len(8).for_each(|(i, p)| *p = block(i));
    } else {
        partial.iter_mut().enumerate().for_each(|(i, p)| *p = block(i));
    }
    add_by_lanes(partial)
}

/// Sum of squares of `values * factor` in the flat order; `factor` is a power of two.
fn flat_sum_of_squares<T: Real>(values: &[T], factor: f64) -> f64 {
    let block = |elements: &[T]| {
        let mut sums = [0.0f64; LANES];
        for row in elements.chunks(LANES) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                let x = x.to_f64() * factor;
                *sum += x * x;
            }
        }
        halve(&mut sums)
    };
    if values.len() < PARALLEL {
        return add_by_lanes(values.chunks(FLAT_BLOCK).map(block));
    }
    let partial: Vec<f64> = values.par_chunks(FLAT_BLOCK).with_min_len(8).map(block).collect();
    add_by_lanes(partial)
}

/// Adds what is numbered in order: lane l takes l, l+256, ..., then the lanes pairwise.
pub(crate) fn add_by_lanes(parts: impl IntoIterator<Item = f64>) -> f64 {
    let mut lanes = [0.0; LANES];
    for (i, p) in parts.into_iter().enumerate() {
        lanes[i % LANES] += p;
    }
    halve(&mut lanes)
}

/// Adds the upper half to the lower half until one number is left. The length is a power of two.
pub(crate) fn halve(sums: &mut [f64]) -> f64 {
    let mut half = sums.len() / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
        half /= 2;
    }
    sums[0]
}

/// A sum of squares as `value * 2^(2 exponent)`. Every finite input has a finite result: when f64 would overflow
/// or lose digits (f64 data beyond about 1e+-140), the sum is taken again with a power of two taken out. `sum` is
/// the sum of squares of the input times its argument, `largest` the input's largest absolute value.
fn rescued(sum: impl Fn(f64) -> f64, largest: impl FnOnce() -> f64) -> Scaled {
    let plain = sum(1.0);
    if (1e-280..1e280).contains(&plain) || plain.is_nan() {
        return Scaled { value: plain, exponent: 0 };
    }
    let largest = largest();
    if largest == 0.0 || !largest.is_finite() {
        return Scaled { value: largest, exponent: 0 };
    }
    // 2^1000 is enough for the smallest subnormal and representable itself.
    let exponent = exponent_of(largest).max(-1000);
    Scaled { value: sum(2f64.powi(-exponent)), exponent }
}

/// The sum of squares by tiles, as `value * 2^(2 exponent)`; finite for every finite input.
pub fn squares<T: Real>(matrix: Strided<'_, T>) -> Scaled {
    let m = matrix;
    let largest = || {
        (0..m.rows)
            .flat_map(|i| (0..m.columns).map(move |j| (i, j)))
            .map(|(i, j)| m.at(i, j).to_f64().abs())
            .fold(0.0, f64::max)
    };
    rescued(|factor| sum_of_squares(m, factor), largest)
}

/// The sum of squares in the flat order, as `value * 2^(2 exponent)`; finite for every finite input.
pub fn flat_squares<T: Real>(values: &[T]) -> Scaled {
    let largest = || values.iter().map(|&x| x.to_f64().abs()).fold(0.0, f64::max);
    rescued(|factor| flat_sum_of_squares(values, factor), largest)
}

/// The square root of the sum of squares by tiles.
pub fn norm<T: Real>(matrix: Strided<'_, T>) -> Scaled {
    squares(matrix).root()
}

/// The square root of the sum of squares in the flat order.
pub fn flat_norm<T: Real>(values: &[T]) -> Scaled {
    flat_squares(values).root()
}

/// The norm of everything whose sums of squares are given, added by lanes. Infinite only beyond the range of f64.
pub fn total_norm(parts: &[Scaled]) -> f64 {
    let total = total(parts).root();
    total.value * 2f64.powi(total.exponent)
}

/// The sum itself: infinite or 0 where the norm's square is beyond the range of f64.
pub(crate) fn total_squares(parts: &[Scaled]) -> f64 {
    let total = total(parts);
    total.value * 2f64.powi(total.exponent) * 2f64.powi(total.exponent)
}

fn total(parts: &[Scaled]) -> Scaled {
    let exponent = parts.iter().map(|s| s.exponent).max().unwrap_or(0);
    // Parts of unequal scale are brought to the largest; the factor is a power of two or, far below it, zero.
    let at_scale = |s: &Scaled| s.value * 2f64.powi((2 * (s.exponent - exponent)).max(-1000));
    Scaled { value: add_by_lanes(parts.iter().map(at_scale)), exponent }
}

/// `floor(log2 x)` for positive finite `x`.
pub fn exponent_of(x: f64) -> i32 {
    let bits = x.to_bits();
    match ((bits >> 52) & 0x7ff) as i32 {
        0 => 63 - (bits.leading_zeros() as i32) - 1074,
        biased => biased - 1023,
    }
}
