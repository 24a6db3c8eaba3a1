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

/// `C = alpha A B + beta C`.
pub fn product<T: Real>(alpha: T, a: &Matrix<T>, b: &Matrix<T>, beta: T, c: &mut Matrix<T>) {
    let columns = c.columns;
    if columns == 0 || c.rows == 0 {
        return;
    }
    let work = a.rows * a.columns * b.columns;
    let right = view((b.rows, b.columns), &b.data);
    let one = |(index, out): (usize, &mut [T])| {
        let height = out.len() / columns;
        let left = a.panel(index * PANEL, height);
        general_mat_mul(alpha, &left, &right, beta, &mut view_mut((height, columns), out));
    };
    if work >= PARALLEL {
        c.data.par_chunks_mut(PANEL * columns).enumerate().for_each(one);
    } else {
        c.data.chunks_mut(PANEL * columns).enumerate().for_each(one);
    }
}

/// `alpha A B + beta C` for products known to be symmetric (A and B symmetric and commuting, or B = A^T): only the
/// panels on and below the diagonal are computed, and the lower triangle is mirrored, so the result is exactly
/// symmetric. `b_transposed` means that `b` holds B^T.
pub fn symmetric_product<T: Real>(
    alpha: T,
    a: &Matrix<T>,
    b: &Matrix<T>,
    b_transposed: bool,
    beta: T,
    c: Option<&Matrix<T>>,
) -> Matrix<T> {
    let n = a.rows;
    let mut out = c.cloned().unwrap_or_else(|| Matrix::zeros(n, n));
    if n == 0 {
        return out;
    }
    let full = view((b.rows, b.columns), &b.data);
    let right = if b_transposed { full.t() } else { full };
    let one = |(index, panel): (usize, &mut [T])| {
        let (top, height) = (index * PANEL, panel.len() / n);
        let end = top + height;
        let left = a.panel(top, height);
        let (used, _) = right.split_at(Axis(1), end);
        let (mut target, _) = view_mut((height, n), panel).split_at(Axis(1), end);
        general_mat_mul(alpha, &left, &used, beta, &mut target);
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
