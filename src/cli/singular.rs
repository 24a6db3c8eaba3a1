//! Singular values of small matrices, by one-sided Jacobi rotations: small ones are as accurate as large ones.

/// Of a row-major matrix, the largest first. The work grows with the square of the shorter side times the longer.
pub fn singular_values(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    // Rows of the short-side-first matrix.
    let (short, long) = (rows.min(columns), rows.max(columns));
    let at =
        |i: usize, j: usize| if rows <= columns { values[i * columns + j] } else { values[j * columns + i] };
    let largest = values.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    if !(largest.is_finite() && largest > 0.0) {
        return vec![if largest == 0.0 { 0.0 } else { f64::NAN }; short];
    }
    // Squares of what is huge or tiny would leave the range.
    let mut of: Vec<Vec<f64>> = (0..short).map(|i| (0..long).map(|j| at(i, j) / largest).collect()).collect();
    const SWEEPS: usize = 40;
    for _ in 0..SWEEPS {
        let mut turned = false;
        for i in 1..short {
            let (before, rest) = of.split_at_mut(i);
            let y = &mut rest[0];
            for x in before {
                turned |= rotate(x, y);
            }
        }
        if !turned {
            break;
        }
    }
    let mut found: Vec<f64> = of.iter().map(|row| dot(row, row).sqrt() * largest).collect();
    found.sort_by(|a, b| b.total_cmp(a));
    found
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Makes two rows orthogonal; whether they were not.
fn rotate(x: &mut [f64], y: &mut [f64]) -> bool {
    let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
    // Also where one of them is zero, or so small beside the other that nothing is left of it.
    if xy.abs() <= 1e-14 * (xx * yy).sqrt() || xy.abs() <= 1e-300 {
        return false;
    }
    let zeta = (yy - xx) / (2.0 * xy);
    let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
    let c = 1.0 / (1.0 + t * t).sqrt();
    let s = c * t;
    for (x, y) in x.iter_mut().zip(y) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_matrices_that_are_known() {
        let near = |found: &[f64], expected: &[f64]| {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1e-12), "{found} {expected}");
            }
        };
        near(&singular_values(&[3.0, 0.0, 0.0, 0.0, -4.0, 0.0], 2, 3), &[4.0, 3.0]);
        // [[1, 1], [0, 1]]: the golden ratio and its inverse.
        let golden = (1.0 + 5f64.sqrt()) / 2.0;
        near(&singular_values(&[1.0, 1.0, 0.0, 1.0], 2, 2), &[golden, 1.0 / golden]);
        near(&singular_values(&[1e200, 0.0, 0.0, 1e188], 2, 2), &[1e200, 1e188]);
        near(&singular_values(&[2.0, 4.0, 6.0], 3, 1), &[56f64.sqrt()]);
        near(&singular_values(&[0.0; 6], 3, 2), &[0.0, 0.0]);
        assert!(singular_values(&[f64::NAN, f64::INFINITY], 1, 2)[0].is_nan());
    }

    #[test]
    fn squares_add_up_to_the_norm() {
        let mut noise = crate::cli::noise::Noise(3);
        let values = noise.gaussian(20 * 33);
        let found = singular_values(&values, 33, 20);
        let sum: f64 = found.iter().map(|s| s * s).sum();
        let norm: f64 = values.iter().map(|v| v * v).sum();
        assert!((sum / norm - 1.0).abs() < 1e-12 && found.windows(2).all(|w| w[0] >= w[1]));
    }
}
