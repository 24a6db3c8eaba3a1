//! Norms: accuracy, range, and independence of layout.

use orthant::reference::reduce::{Strided, exponent_of, norm};

use crate::common::Random;

fn value(data: &[f64], rows: usize, columns: usize) -> f64 {
    let n = norm(Strided::row_major(data, rows, columns));
    n.value * 2f64.powi(n.exponent)
}

#[test]
fn norms_are_right_and_do_not_depend_on_orientation_or_padding() {
    let mut random = Random(11);
    for (rows, columns) in [(1, 1), (3, 5), (64, 64), (65, 127), (200, 300), (1, 100_000), (300, 1000)] {
        let x = random.normals(rows * columns);
        let plain = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let n = value(&x, rows, columns);
        assert!((n / plain - 1.0).abs() < 1e-13, "{rows}x{columns}: {n} {plain}");
        let transposed: Vec<f64> = (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect();
        if rows != columns {
            assert_eq!(value(&transposed, columns, rows), n);
        }
        let (r, c) = (rows.next_multiple_of(64), columns.next_multiple_of(64));
        if (rows <= columns) == (r <= c) {
            let mut padded = vec![0.0; r * c];
            for i in 0..rows {
                padded[i * c..i * c + columns].copy_from_slice(&x[i * columns..(i + 1) * columns]);
            }
            assert_eq!(value(&padded, r, c), n);
        }
    }
}

#[test]
fn norms_cover_the_whole_range_of_f64() {
    for scale in [1e300, 1e-300, 1e-160, 1e160] {
        let n = value(&[3.0 * scale, 4.0 * scale], 1, 2);
        assert!((n / scale - 5.0).abs() < 1e-14, "{scale:e}: {n:e}");
    }
    assert_eq!(value(&[0.0; 4], 2, 2), 0.0);
    let subnormal = f64::from_bits(1);
    let n = norm(Strided::row_major(&[subnormal], 1, 1));
    assert_eq!(n.value * 2f64.powi(n.exponent + 500) * 2f64.powi(-500), subnormal);
    assert!(value(&[f64::NAN, 1.0], 1, 2).is_nan());
    assert_eq!(value(&[f64::INFINITY, 1.0], 1, 2), f64::INFINITY);
}

#[test]
fn exponents() {
    for e in [-1074, -1073, -1022, -1, 0, 1, 52, 1023] {
        assert_eq!(exponent_of(2f64.powi(e)), e, "2^{e}");
    }
    assert_eq!(exponent_of(1.999_999), 0);
    assert_eq!(exponent_of(0.999_999), -1);
}
