//! Newton-Schulz against an independent oracle (SVD and the scalar polynomial) and its exact symmetries.

use nalgebra::{DMatrix, DVector};
use orthant::algorithm::newton_schulz::compose;
use orthant::algorithm::{Coefficients, Eps, EpsForm, NewtonSchulz, NsDtype, NsMethod};
use orthant::reference::newton_schulz::{Orthogonaliser, Outcome, orthogonalise};
use orthant::reference::real::Real;

use crate::common::{Random, from_row_major, relative, row_major, sigma_max, spectra, svd};

const EXACT: Eps = Eps { value: 0.0, form: EpsForm::Clamp };
const SHAPES: [(usize, usize); 9] =
    [(1, 1), (1, 9), (7, 1), (8, 8), (13, 17), (16, 64), (96, 24), (65, 129), (128, 128)];

fn spec(coefficients: Coefficients, dtype: NsDtype) -> NewtonSchulz {
    NewtonSchulz { coefficients, dtype: Some(dtype), ..NewtonSchulz::default() }
}

fn sets() -> Vec<(Coefficients, u32)> {
    vec![
        (Coefficients::Jordan, 5),
        (Coefficients::You, 5),
        (Coefficients::PolarExpress, 5),
        (Coefficients::PolarExpress, 8),
        (Coefficients::PolarExpress, 10),
        (Coefficients::Speedrun, 5),
        (Coefficients::Cans, 5),
        (Coefficients::Explicit(vec![[2.0, -1.5, 0.5]]), 12),
    ]
}

fn run(x: &[f64], rows: usize, columns: usize, spec: &NewtonSchulz) -> Vec<f64> {
    run_in(x, rows, columns, spec).0
}

fn run_in<T: Real>(x: &[T], rows: usize, columns: usize, spec: &NewtonSchulz) -> (Vec<T>, Outcome) {
    let mut out = x.to_vec();
    let outcome = orthogonalise(&mut out, rows, columns, &Orthogonaliser::new(spec), EXACT);
    (out, outcome)
}

/// `U p(S / (margin ||X||_F)) V^T`, sharing no arithmetic with the iteration.
struct Oracle {
    u: DMatrix<f64>,
    s: Vec<f64>,
    v: DMatrix<f64>,
}

impl Oracle {
    fn new(x: &DMatrix<f64>) -> Self {
        // Scaled to order one first, so that squares stay in range.
        let x = x / x.amax();
        let (u, s, v) = svd(&(&x / x.norm()));
        Self { u, s, v }
    }

    fn apply(&self, spec: &NewtonSchulz) -> Vec<f64> {
        let schedule = spec.schedule();
        let margin = spec.coefficients.input_margin();
        let values =
            DVector::from_iterator(self.s.len(), self.s.iter().map(|s| compose(&schedule, s / margin)));
        row_major(&(&self.u * DMatrix::from_diagonal(&values) * self.v.transpose()))
    }
}

#[test]
fn f64_agrees_with_the_svd_oracle() {
    for (rows, columns) in SHAPES {
        for (name, x) in spectra(rows, columns, 1) {
            let oracle = Oracle::new(&x);
            for (set, steps) in sets() {
                let spec = NewtonSchulz { steps: Some(steps), ..spec(set, NsDtype::F64) };
                let out = run(&row_major(&x), rows, columns, &spec);
                let expected = oracle.apply(&spec);
                // The composed map's slope at 0 is the product of the a's: what rounding errors are amplified by.
                let slope: f64 = spec.schedule().iter().map(|t| t[0]).product();
                let bar = 4.0 * slope * (rows.min(columns) as f64).sqrt() * 2f64.powi(-53);
                let error = relative(&out, &expected);
                assert!(error <= bar, "{rows}x{columns} {name} {spec:?}: {error:e} > {bar:e}");
            }
        }
    }
}

#[test]
fn gram_is_the_same_polynomial() {
    for (rows, columns) in [(16, 64), (96, 24), (65, 129)] {
        for (name, x) in spectra(rows, columns, 2) {
            let oracle = Oracle::new(&x);
            for set in [Coefficients::Jordan, Coefficients::You, Coefficients::PolarExpress] {
                for restarts in [vec![2], vec![1, 3], vec![]] {
                    let restarts = Some(restarts);
                    let gram =
                        NewtonSchulz { method: NsMethod::Gram, restarts, ..spec(set.clone(), NsDtype::F64) };
                    let (out, outcome) = run_in(&row_major(&x), rows, columns, &gram);
                    assert_eq!(outcome, Outcome::Ok, "{name} {gram:?}");
                    let expected = oracle.apply(&gram);
                    // Squaring the spectrum costs about the slope once more where there is no restart.
                    assert!(relative(&out, &expected) < 1e-7, "{rows}x{columns} {name} {gram:?}");
                }
            }
        }
    }
}

/// For Gaussian matrices of aspect ratio 4 the bars are of all sets; whatever the shape and spectrum, the bound is kept.
#[test]
fn sixteen_bit_formats_stay_near_the_oracle_and_inside_the_bound() {
    for (rows, columns) in [(64, 256), (256, 64), (96, 96)] {
        for (name, x) in spectra(rows, columns, 3) {
            let x32: Vec<f32> = row_major(&x).iter().map(|v| *v as f32).collect();
            let rounded: Vec<f64> = x32.iter().map(|v| f64::from(*v)).collect();
            let oracle = Oracle::new(&from_row_major(rows, columns, &rounded));
            for (method, dtype, well_conditioned) in [
                (NsMethod::Standard, NsDtype::F32, 2e-5),
                (NsMethod::Standard, NsDtype::F16, 3e-3),
                (NsMethod::Gram, NsDtype::F16, 5e-3),
                (NsMethod::Standard, NsDtype::Bf16, 2.5e-2),
            ] {
                for set in [
                    Coefficients::Jordan,
                    Coefficients::You,
                    Coefficients::PolarExpress,
                    Coefficients::Speedrun,
                ] {
                    let spec = NewtonSchulz { method, ..spec(set, dtype) };
                    let (out, _) = run_in(&x32, rows, columns, &spec);
                    let out: Vec<f64> = out.iter().map(|v| f64::from(*v)).collect();
                    let expected = oracle.apply(&spec);
                    let error = relative(&out, &expected);
                    let sigma = sigma_max(&from_row_major(rows, columns, &out));
                    let label = format!("{rows}x{columns} {name} {spec:?}");
                    assert!(sigma <= 1.05 * spec.sigma_bound(), "{label}: sigma {sigma}");
                    if name == "gaussian" && rows != columns {
                        assert!(error <= well_conditioned, "{label}: {error:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn zero_gives_exactly_zero_and_non_finite_spreads() {
    for spec in [spec(Coefficients::Jordan, NsDtype::Bf16), spec(Coefficients::PolarExpress, NsDtype::F64)] {
        assert_eq!(run(&[0.0; 12], 3, 4, &spec), [0.0; 12]);
        assert!(run(&[1.0, f64::NAN, 0.0, 1.0], 2, 2, &spec).iter().all(|v| v.is_nan()));
        assert!(run(&[1.0, f64::INFINITY, 0.0, 1.0], 2, 2, &spec).iter().all(|v| v.is_nan()));
    }
}

#[test]
fn every_finite_scale_gives_the_same_direction() {
    let mut random = Random(5);
    let x: Vec<f32> = random.normals(24 * 40).iter().map(|v| *v as f32).collect();
    for dtype in [NsDtype::Bf16, NsDtype::F16, NsDtype::F32, NsDtype::F64] {
        let spec = spec(Coefficients::Jordan, dtype);
        let (base, _) = run_in(&x, 24, 40, &spec);
        for k in [-100, -60, -31, -1, 1, 17, 60, 100, 124] {
            let scaled: Vec<f32> = x.iter().map(|v| v * 2f32.powi(k)).collect();
            assert_eq!(run_in(&scaled, 24, 40, &spec).0, base, "2^{k} {dtype:?}");
        }
        // Powers of ten round every element, so the direction moves by rounding only.
        for scale in [1e-30f32, 1e-37, 1e19, 1e30, 8e37] {
            let scaled: Vec<f64> = x.iter().map(|v| f64::from(v * scale) / f64::from(scale)).collect();
            let (out, _) = run_in(&x.iter().map(|v| v * scale).collect::<Vec<f32>>(), 24, 40, &spec);
            let (same, _) = run_in(&scaled.iter().map(|v| *v as f32).collect::<Vec<f32>>(), 24, 40, &spec);
            let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            assert!(relative(&wide(&out), &wide(&same)) < 2e-2, "{scale:e} {dtype:?}");
        }
    }
    // f64 beyond the range where squares can be summed.
    let x: Vec<f64> = random.normals(24 * 40);
    let spec = spec(Coefficients::Jordan, NsDtype::F64);
    let base = run(&x, 24, 40, &spec);
    for k in [-1000, -600, 600, 1000] {
        let scaled: Vec<f64> = x.iter().map(|v| v * 2f64.powi(k)).collect();
        assert!(relative(&run(&scaled, 24, 40, &spec), &base) < 1e-12, "2^{k}");
    }
}

/// The exact symmetries, in every number format and both forms.
#[test]
fn bitwise_relations() {
    let mut random = Random(6);
    for (rows, columns) in [(24, 40), (40, 24), (65, 70), (3, 200), (64, 64)] {
        let x: Vec<f32> = random.normals(rows * columns).iter().map(|v| *v as f32).collect();
        let row_flips: Vec<f32> =
            (0..rows).map(|_| if random.uniform() < 0.5 { -1.0 } else { 1.0 }).collect();
        let column_flips: Vec<f32> =
            (0..columns).map(|_| if random.uniform() < 0.5 { -1.0 } else { 1.0 }).collect();
        for dtype in [NsDtype::Bf16, NsDtype::F16, NsDtype::F32, NsDtype::F64] {
            for method in [NsMethod::Standard, NsMethod::Gram] {
                let spec = NewtonSchulz { method, ..spec(Coefficients::Jordan, dtype) };
                let ns = |x: &[f32], r, c| run_in(x, r, c, &spec).0;
                let base = ns(&x, rows, columns);
                let label = format!("{rows}x{columns} {dtype:?} {method:?}");
                assert_eq!(ns(&x, rows, columns), base, "again {label}");

                let negated: Vec<f32> = x.iter().map(|v| -v).collect();
                assert_eq!(
                    ns(&negated, rows, columns),
                    base.iter().map(|v| -v).collect::<Vec<_>>(),
                    "{label}"
                );

                let flip = |m: &[f32]| -> Vec<f32> {
                    (0..m.len()).map(|i| m[i] * row_flips[i / columns] * column_flips[i % columns]).collect()
                };
                assert_eq!(ns(&flip(&x), rows, columns), flip(&base), "sign flips {label}");

                if rows != columns {
                    let transpose = |m: &[f32]| -> Vec<f32> {
                        (0..m.len()).map(|i| m[i % rows * columns + i / rows]).collect()
                    };
                    assert_eq!(ns(&transpose(&x), columns, rows), transpose(&base), "transposed {label}");
                }

                // Zeros up to the next multiple of 64 on both sides; a square stays square.
                let (r, c) = (rows.next_multiple_of(64), columns.next_multiple_of(64));
                let mut padded = vec![0.0; r * c];
                for i in 0..rows {
                    padded[i * c..i * c + columns].copy_from_slice(&x[i * columns..(i + 1) * columns]);
                }
                let same_side = (rows <= columns) == (r <= c);
                if same_side {
                    let out = ns(&padded, r, c);
                    for i in 0..r {
                        for j in 0..c {
                            let inside = i < rows && j < columns;
                            let expected = if inside { base[i * columns + j] } else { 0.0 };
                            assert_eq!(out[i * c + j], expected, "padded ({i}, {j}) {label}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn permutations_and_rotations_up_to_rounding() {
    let mut random = Random(7);
    for (rows, columns) in [(24, 40), (40, 24), (48, 48)] {
        let x = random.gaussian(rows, columns);
        for (dtype, bar) in
            [(NsDtype::F64, 1e-12), (NsDtype::F32, 1e-4), (NsDtype::F16, 8e-3), (NsDtype::Bf16, 5e-2)]
        {
            for set in [Coefficients::Jordan, Coefficients::PolarExpress] {
                // The bars are the standard iteration's.
                let spec = NewtonSchulz { method: NsMethod::Standard, ..spec(set, dtype) };
                let ns = |x: &DMatrix<f64>| {
                    from_row_major(rows, columns, &run(&row_major(x), rows, columns, &spec))
                };
                let base = ns(&x);
                let (p, q) = (random.permutation(rows), random.permutation(columns));
                let permute = |m: &DMatrix<f64>| DMatrix::from_fn(rows, columns, |i, j| m[(p[i], q[j])]);
                let error = relative(&row_major(&ns(&permute(&x))), &row_major(&permute(&base)));
                assert!(error <= bar, "permutation {rows}x{columns} {spec:?}: {error:e}");
                let (u, v) = (random.orthogonal(rows), random.orthogonal(columns));
                let rotated = ns(&(&u * &x * &v));
                let error = relative(&row_major(&rotated), &row_major(&(&u * &base * &v)));
                assert!(error <= bar, "rotation {rows}x{columns} {spec:?}: {error:e}");
            }
        }
    }
}

#[test]
fn convergent_sets_orthogonalise() {
    let mut random = Random(8);
    let x = random.gaussian(32, 96);
    for spec in [
        NewtonSchulz { steps: Some(9), ..spec(Coefficients::PolarExpress, NsDtype::F64) },
        NewtonSchulz {
            steps: Some(20),
            ..spec(Coefficients::Explicit(vec![[2.0, -1.5, 0.5]]), NsDtype::F64)
        },
    ] {
        let out = from_row_major(32, 96, &run(&row_major(&x), 32, 96, &spec));
        let error = (&out * out.transpose() - DMatrix::identity(32, 32)).norm();
        assert!(error < 1e-10, "{spec:?}: {error:e}");
    }
}

/// Without a restart the Gram form of Polar Express in bf16 blows up; the guard must notice and hand back something
/// usable.
#[test]
fn the_guard_replaces_a_diverged_iteration() {
    let (_, x) = spectra(64, 256, 9).swap_remove(1);
    let x: Vec<f32> = row_major(&x).iter().map(|v| *v as f32).collect();
    let spec = NewtonSchulz {
        steps: Some(8),
        method: NsMethod::Gram,
        restarts: Some(vec![]),
        ..spec(Coefficients::PolarExpress, NsDtype::Bf16)
    };
    let (out, outcome) = run_in(&x, 64, 256, &spec);
    assert_eq!(outcome, Outcome::FellBack);
    let out: Vec<f64> = out.iter().map(|v| f64::from(*v)).collect();
    let sigma = sigma_max(&from_row_major(64, 256, &out));
    assert!(sigma < 1.21, "{sigma}");
}
