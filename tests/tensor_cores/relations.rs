//! What exact arithmetic would keep, to the bit: every change of a matrix that changes nothing but signs, places and powers of
//! two changes nothing else in its direction; nor does what else is in the step.

use nalgebra::DMatrix;

use crate::common::Random;
use crate::device;
use crate::zoo::{config, directions};

const METHODS: [&str; 2] = [
    "ns_method = \"standard\"\nns_dtype = \"bf16\"",
    "ns_method = \"gram\"\nns_dtype = \"f16\"\nns_coefficients = \"polar-express\"",
];

fn matrices(random: &mut Random) -> Vec<DMatrix<f64>> {
    let shapes = [(20, 90), (140, 70), (64, 64), (1, 40), (129, 150)];
    // Gradients are f32.
    shapes.iter().map(|&(r, c)| random.gaussian(r, c).map(|v| f64::from(v as f32))).collect()
}

#[track_caller]
fn assert_related(
    what: &str,
    change: impl Fn(&DMatrix<f64>) -> DMatrix<f64>,
    expected: impl Fn(&DMatrix<f64>) -> DMatrix<f64>,
) {
    let matrices = matrices(&mut Random(11));
    let changed: Vec<_> = matrices.iter().map(change).collect();
    for method in METHODS {
        let config = config(method);
        let plain = directions(device(), &config, &matrices);
        let found = directions(device(), &config, &changed);
        for (plain, found) in plain.iter().zip(found) {
            let (rows, columns) = plain.shape();
            assert!(expected(plain) == found, "{what}: {rows} x {columns}, {method}");
            assert!(plain.iter().any(|&v| v != 0.0));
        }
    }
}

#[test]
fn powers_of_two() {
    for exponent in [-100, -20, 3, 90] {
        assert_related("scaling", |m| m * 2f64.powi(exponent), Clone::clone);
    }
}

#[test]
fn signs() {
    let rows = |m: &DMatrix<f64>| {
        let mut m = m.clone();
        m.row_iter_mut().step_by(3).for_each(|mut row| row.neg_mut());
        m
    };
    let columns = |m: &DMatrix<f64>| {
        let mut m = m.clone();
        m.column_iter_mut().step_by(2).for_each(|mut column| column.neg_mut());
        m
    };
    assert_related("negation", |m| -m, |m| -m);
    assert_related("signs of rows", rows, rows);
    assert_related("signs of columns", columns, columns);
}

#[test]
fn transposition() {
    // Of a square matrix the other side would come first.
    let unless_square = |m: &DMatrix<f64>| if m.is_square() { m.clone() } else { m.transpose() };
    assert_related("transposition", unless_square, unless_square);
}

#[test]
fn zeros_appended_within_a_tile() {
    let up = |n: usize| n.div_ceil(64) * 64;
    let padded = |m: &DMatrix<f64>| {
        // The short side stays the short side.
        let (rows, columns) = m.shape();
        let (rows, columns) = (up(rows), up(columns).max(up(rows) + if rows < columns { 1 } else { 0 }));
        let keeps = (m.nrows() <= m.ncols()) == (rows <= columns) && up(columns) == up(m.ncols());
        if keeps { m.clone().resize(rows, columns, 0.0) } else { m.clone() }
    };
    // Padding is cut off again on the side of the result.
    let matrices = matrices(&mut Random(11));
    let changed: Vec<_> = matrices.iter().map(padded).collect();
    assert!(matrices.iter().zip(&changed).any(|(a, b)| a.shape() != b.shape()));
    for method in METHODS {
        let config = config(method);
        let plain = directions(device(), &config, &matrices);
        let found = directions(device(), &config, &changed);
        for (plain, found) in plain.iter().zip(found) {
            let (rows, columns) = plain.shape();
            assert!(found.view((0, 0), (rows, columns)) == *plain, "{rows} x {columns}, {method}");
            let inside = |i: usize| i % found.nrows() < rows && i / found.nrows() < columns;
            assert!(found.iter().enumerate().all(|(i, &v)| v == 0.0 || inside(i)), "padding stays zero");
        }
    }
}

#[test]
fn company_order_and_repetition() {
    let matrices = matrices(&mut Random(11));
    for method in METHODS {
        let config = config(method);
        let together = directions(device(), &config, &matrices);
        assert!(together == directions(device(), &config, &matrices), "again: {method}");
        let reversed: Vec<_> = matrices.iter().rev().cloned().collect();
        let mut found = directions(device(), &config, &reversed);
        found.reverse();
        assert!(together == found, "in another order: {method}");
        for (matrix, expected) in matrices.iter().zip(&together) {
            let alone = directions(device(), &config, std::slice::from_ref(matrix));
            assert!(alone[0] == *expected, "alone: {:?}, {method}", matrix.shape());
        }
    }
}

/// Cohorts that use one work space after the other change no bit.
#[test]
fn less_work_space() {
    let matrices = matrices(&mut Random(11));
    for method in METHODS {
        let mut config = config(method);
        let whole = directions(device(), &config, &matrices);
        config.options.max_workspace = Some(1 << 20);
        assert!(whole == directions(device(), &config, &matrices), "{method}");
    }
}
