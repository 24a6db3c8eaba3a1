//! Norms: accuracy, range, independence of layout, and the flat order against a plain restatement.

use orthant::algorithm::{Algorithm, Estimator, Norm};
use orthant::reference::reduce::{Scaled, Strided, exponent_of, flat_norm, flat_squares, norm, total_norm};
use orthant::{Device, Group, Optimizer, Parameter, Tensor};

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
    let by_tiles = |data: &[f64]| norm(Strided::row_major(data, 1, data.len()));
    let flat = |data: &[f64]| flat_norm(data);
    for length in [&by_tiles as &dyn Fn(&[f64]) -> Scaled, &flat] {
        let value = |data: &[f64]| {
            let n = length(data);
            n.value * 2f64.powi(n.exponent)
        };
        for scale in [1e300, 1e-300, 1e-160, 1e160] {
            let n = value(&[3.0 * scale, 4.0 * scale]);
            assert!((n / scale - 5.0).abs() < 1e-14, "{scale:e}: {n:e}");
        }
        assert_eq!(value(&[0.0; 4]), 0.0);
        let subnormal = f64::from_bits(1);
        let n = length(&[subnormal]);
        assert_eq!(n.value * 2f64.powi(n.exponent + 500) * 2f64.powi(-500), subnormal);
        assert!(value(&[f64::NAN, 1.0]).is_nan());
        assert_eq!(value(&[f64::INFINITY, 1.0]), f64::INFINITY);
    }
}

/// `s[0] += s[n/2], ...` until one is left.
fn pairwise(mut sums: Vec<f64>) -> f64 {
    while sums.len() > 1 {
        let half = sums.len() / 2;
        sums = (0..half).map(|i| sums[i] + sums[i + half]).collect();
    }
    sums[0]
}

fn by_256_lanes(parts: &[f64]) -> f64 {
    pairwise((0..256).map(|lane| parts.iter().skip(lane).step_by(256).fold(0.0, |sum, p| sum + p)).collect())
}

/// The flat order, column by column.
fn flat_restated(values: &[f64]) -> f64 {
    let block = |block: &[f64]| {
        let column = |c: usize| block.iter().skip(c).step_by(256).fold(0.0, |sum, x| sum + x * x);
        pairwise((0..256).map(column).collect())
    };
    by_256_lanes(&values.chunks(4096).map(block).collect::<Vec<f64>>())
}

/// Lengths around every boundary of the order, the threshold of threads, and more blocks than lanes.
const LENGTHS: [usize; 13] =
    [0, 1, 255, 256, 257, 4095, 4096, 4097, 65_535, 65_536, 70_000, 300 * 4096, 300 * 4096 + 5];

#[test]
fn the_flat_order_is_the_one_specified() {
    let mut random = Random(12);
    let mut unlike_the_plain_sum = 0;
    for length in LENGTHS {
        let wide = random.normals(length);
        let narrow: Vec<f32> = wide.iter().map(|v| *v as f32).collect();
        let shown: Vec<f64> = narrow.iter().map(|v| f64::from(*v)).collect();
        assert_eq!(flat_squares(&wide), Scaled { value: flat_restated(&wide), exponent: 0 }, "{length}");
        assert_eq!(flat_squares(&narrow), Scaled { value: flat_restated(&shown), exponent: 0 }, "{length}");
        assert_eq!(flat_norm(&wide).value, flat_restated(&wide).sqrt());
        unlike_the_plain_sum += usize::from(flat_restated(&wide) != wide.iter().map(|v| v * v).sum::<f64>());
        // Beyond the range of squares, the order is that of the scaled values.
        let large: Vec<f64> = wide.iter().map(|v| v * 2f64.powi(700)).collect();
        let exponent = large.iter().map(|v| v.abs()).fold(0.0, f64::max);
        let exponent = if length == 0 { 0 } else { exponent_of(exponent) };
        let scaled: Vec<f64> = large.iter().map(|v| v * 2f64.powi(-exponent)).collect();
        assert_eq!(flat_squares(&large), Scaled { value: flat_restated(&scaled), exponent }, "{length}");
    }
    assert!(unlike_the_plain_sum > 5, "the numbers do not tell orders apart");
}

#[test]
fn zeros_at_the_end_change_no_flat_norm() {
    let mut random = Random(13);
    for length in LENGTHS {
        let values = random.normals(length);
        for more in [1, 255, 256, 4096, 66_000] {
            let padded = [values.clone(), vec![0.0; more]].concat();
            assert_eq!(flat_squares(&padded), flat_squares(&values), "{length} and {more} zeros");
        }
    }
}

#[test]
fn parts_of_a_global_norm_are_added_by_lanes() {
    let mut random = Random(14);
    for count in [0, 1, 2, 255, 256, 257, 1000] {
        let values: Vec<f64> = random.normals(count).iter().map(|v| v * v).collect();
        let parts: Vec<Scaled> = values.iter().map(|&value| Scaled { value, exponent: 0 }).collect();
        assert_eq!(total_norm(&parts), by_256_lanes(&values).sqrt(), "{count}");
    }
    // A part at a larger scale sets the scale of all.
    let parts = [Scaled { value: 9.0, exponent: 0 }, Scaled { value: 1.0, exponent: 2 }];
    assert_eq!(total_norm(&parts), 5.0);
}

/// The global norm and the Frobenius direction look at a run of elements, the other norms at a matrix.
#[test]
fn gradient_norms_and_frobenius_directions_are_flat() {
    let n = 60 * 1400;
    // Numbers whose norm tells the orders apart, after the root's rounding.
    let by_tiles = |values: &[f64]| norm(Strided::row_major(values, 60, 1400)).value;
    let mut draws = (0..20).map(|seed| Random(seed).normals(n));
    let values = draws.find(|v| by_tiles(v) != flat_restated(v).sqrt()).expect("one of twenty");
    let other = Random(15).normals(77);
    let step = |algorithm: Algorithm, shape: &[usize]| {
        let zeros = |shape: &[usize]| Tensor::from_vec(vec![0.0; shape.iter().product()], shape).unwrap();
        let (w, v) = (zeros(shape), zeros(&[7, 11]));
        let mut optimizer = Optimizer::builder(Device::Cpu)
            .group(Group::new("g", algorithm).lr(1.0).weight_decay(0.0).params(["*"]))
            .max_grad_norm(1e30)
            .register([
                Parameter::new("w", w.clone()).grad(Tensor::from_vec(values.clone(), shape).unwrap()),
                Parameter::new("v", v).grad(Tensor::from_vec(other.clone(), &[7, 11]).unwrap()),
            ])
            .unwrap();
        (optimizer.step().unwrap().grad_norm.unwrap(), w.to_vec_f64())
    };
    let shapes: [&[usize]; 4] = [&[60, 1400], &[1400, 60], &[1, n], &[n]];
    let total = (flat_restated(&values) + flat_restated(&other)).sqrt();
    let frobenius = Algorithm::lmo(Estimator::None, Norm::Frobenius);
    let length = flat_restated(&values).sqrt();
    let exponent = 2f64.powi(exponent_of(length));
    let inverse = 1.0 / (length / exponent);
    let direction: Vec<f64> = values.iter().map(|v| -(v / exponent * inverse)).collect();
    for shape in shapes {
        let (norm, moved) = step(frobenius.clone(), shape);
        assert_eq!(norm, total, "{shape:?}");
        assert_eq!(moved, direction, "{shape:?}");
    }
}

#[test]
fn exponents() {
    for e in [-1074, -1073, -1022, -1, 0, 1, 52, 1023] {
        assert_eq!(exponent_of(2f64.powi(e)), e, "2^{e}");
    }
    assert_eq!(exponent_of(1.999_999), 0);
    assert_eq!(exponent_of(0.999_999), -1);
}
