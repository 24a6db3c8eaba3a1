//! Linear minimisation oracles: a matrix in, the unit direction of its norm out, in place.

use super::newton_schulz::{Orthogonaliser, Outcome, normalise, orthogonalise};
use super::real::Real;
use super::reduce::{Strided, flat_norm, norm};
use super::rules::sign;
use crate::algorithm::{Eps, EpsForm, Lmo, Norm};
use crate::plan::MatrixView;

/// Replaces the row-major matrix `m` by its direction. Zero (a zero row, a zero column) gives zero.
pub fn direction<T: Real>(lmo: &Lmo, method: &Orthogonaliser, shape: MatrixView, m: &mut [T]) -> Outcome {
    let MatrixView { rows, columns, .. } = shape;
    let eps = match lmo.eps.form {
        EpsForm::Clamp => lmo.eps,
        // Scion adds its eps to the norm after its shape factor s has gone in: m / (||m||/s + eps).
        EpsForm::Add if !lmo.norm.is_spectral() => {
            let radius = match lmo.scale {
                crate::algorithm::Scale::Scion(radius) => radius,
                _ => 1.0,
            };
            let shape_factor =
                if radius == 0.0 { 1.0 } else { lmo.scale.factor(lmo.norm, rows, columns) / radius };
            Eps { value: lmo.eps.value * shape_factor, form: EpsForm::Add }
        }
        EpsForm::Add => lmo.eps,
    };
    match lmo.norm {
        Norm::Sign => m.iter_mut().for_each(|x| *x = sign(*x)),
        Norm::Frobenius => {
            let length = flat_norm(m);
            normalise(m, length, 1.0, eps);
        }
        Norm::Rows => {
            for row in m.chunks_mut(columns.max(1)) {
                let length = norm(Strided::row_major(row, 1, columns));
                normalise(row, length, 1.0, eps);
            }
        }
        Norm::Columns => {
            // Column by column through a copy: the norm's order is that of a vector of its own.
            let mut column = vec![T::zero(); rows];
            for j in 0..columns {
                column.iter_mut().enumerate().for_each(|(i, c)| *c = m[i * columns + j]);
                let length = norm(Strided::row_major(&column, 1, rows));
                normalise(&mut column, length, 1.0, eps);
                column.iter().enumerate().for_each(|(i, c)| m[i * columns + j] = *c);
            }
        }
        Norm::Spectral | Norm::RmsToRms => return orthogonalise(m, rows, columns, method, eps),
    }
    Outcome::Ok
}
