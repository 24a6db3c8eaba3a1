//! Matrix products through `matrixmultiply` (by way of ndarray's safe interface), in row panels of fixed height.
//!
//! Every element's sum runs over k in an order that depends on the shapes only, so results do not depend on the
//! number of threads.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::real::Real;

/// Height of a panel: large enough that packing the other operand again costs little.
const PANEL: usize = 128;
/// Fewer multiplications than this are done on one thread.
const PARALLEL: usize = 1 << 20;

/// A dense row-major matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix<T> {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements, row-major.
    pub data: Vec<T>,
}

impl<T: Real> Matrix<T> {
    /// Takes row-major elements; `data.len()` is `rows * columns`.
    pub fn new(rows: usize, columns: usize, data: Vec<T>) -> Self {
        debug_assert_eq!(data.len(), rows * columns);
        Self { rows, columns, data }
    }

    /// All zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self::new(rows, columns, vec![T::zero(); rows * columns])
    }

    /// The transpose, as a copy.
    pub fn transposed(&self) -> Self {
        const TILE: usize = 32;
        let mut out = Self::zeros(self.columns, self.rows);
        for i0 in (0..self.rows).step_by(TILE) {
            for j0 in (0..self.columns).step_by(TILE) {
                for i in i0..(i0 + TILE).min(self.rows) {
                    for j in j0..(j0 + TILE).min(self.columns) {
                        out.data[j * self.rows + i] = self.data[i * self.columns + j];
                    }
                }
            }
        }
        out
    }

    fn panel(&self, top: usize, height: usize) -> ArrayView2<'_, T> {
        let (start, len) = (top * self.columns, height * self.columns);
        view((height, self.columns), &self.data[start..start + len])
    }
}

fn view<T>(shape: (usize, usize), data: &[T]) -> ArrayView2<'_, T> {
    // Lengths agree by construction of `Matrix` and its panels.
    ArrayView2::from_shape(shape, data).unwrap_or_else(|e| unreachable!("panel shape: {e}"))
}

fn view_mut<T>(shape: (usize, usize), data: &mut [T]) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape(shape, data).unwrap_or_else(|e| unreachable!("panel shape: {e}"))
}

/// `A B`.
pub fn product<T: Real>(a: &Matrix<T>, b: &Matrix<T>) -> Matrix<T> {
    let columns = b.columns;
    let mut out = Matrix::zeros(a.rows, columns);
    if out.data.is_empty() {
        return out;
    }
    let right = view((b.rows, columns), &b.data);
    let one = |(index, panel): (usize, &mut [T])| {
        let height = panel.len() / columns;
        let left = a.panel(index * PANEL, height);
        multiply(&left, &right, &mut view_mut((height, columns), panel));
    };
    if a.rows * a.columns * columns >= PARALLEL {
        out.data.par_chunks_mut(PANEL * columns).enumerate().for_each(one);
    } else {
        out.data.chunks_mut(PANEL * columns).enumerate().for_each(one);
    }
    out
}

/// A product known to be symmetric: `A A^T` without `b`, else `A B` for symmetric A and B that commute. Only panels on
/// and below the diagonal are computed, and the lower triangle is mirrored, so the result is exactly symmetric.
pub fn symmetric_product<T: Real>(a: &Matrix<T>, b: Option<&Matrix<T>>) -> Matrix<T> {
    let n = a.rows;
    let mut out = Matrix::zeros(n, n);
    if n == 0 {
        return out;
    }
    let right = match b {
        Some(b) => view((n, n), &b.data),
        None => view((n, a.columns), &a.data).reversed_axes(),
    };
    let one = |(index, panel): (usize, &mut [T])| {
        let (top, height) = (index * PANEL, panel.len() / n);
        let end = top + height;
        let (used, _) = right.split_at(Axis(1), end);
        let (mut target, _) = view_mut((height, n), panel).split_at(Axis(1), end);
        multiply(&a.panel(top, height), &used, &mut target);
    };
    if n * n * a.columns >= PARALLEL {
        out.data.par_chunks_mut(PANEL * n).enumerate().for_each(one);
    } else {
        out.data.chunks_mut(PANEL * n).enumerate().for_each(one);
    }
    for i in 0..n {
        for j in 0..i {
            out.data[j * n + i] = out.data[i * n + j];
        }
    }
    out
}

/// The crate's kernels apply `alpha` and `beta` fused in whole tiles and unfused at edges; with 1 and 0 both give the
/// same bits, which keeps results independent of padding. Other factors are the caller's epilogue.
fn multiply<T: Real>(a: &ArrayView2<'_, T>, b: &ArrayView2<'_, T>, c: &mut ArrayViewMut2<'_, T>) {
    general_mat_mul(T::one(), a, b, T::zero(), c);
}
