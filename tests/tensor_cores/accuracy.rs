//! How far directions are from those of the same polynomial in f64, and from the CPU's rounding of it.

use nalgebra::DMatrix;
use orthant::Device;
use orthant::algorithm::{Coefficients, NewtonSchulz};

use crate::common::Random;
use crate::device;
use crate::zoo::{config, directions, oracle};

const METHODS: [(&str, &str); 3] = [("standard", "f16"), ("gram", "f16"), ("standard", "bf16")];

fn ours(set: &str, method: &str, dtype: &str) -> String {
    format!("ns_coefficients = \"{set}\"\nns_method = \"{method}\"\nns_dtype = \"{dtype}\"")
}

fn error(found: &DMatrix<f64>, wanted: &DMatrix<f64>) -> f64 {
    if wanted.norm() == 0.0 { found.norm() } else { (found - wanted).norm() / wanted.norm() }
}

#[test]
fn well_conditioned_matrices() {
    let mut random = Random(1);
    let shapes = [(64, 256), (70, 300), (512, 128), (33, 900)];
    let matrices: Vec<_> = shapes.iter().map(|&(r, c)| random.gaussian(r, c)).collect();
    let wanted = oracle("ns_coefficients = \"jordan\"", &matrices);
    for ((method, dtype), most) in METHODS.into_iter().zip([3e-3, 5e-3, 2.5e-2]) {
        let found = directions(device(), &config(&ours("jordan", method, dtype)), &matrices);
        for (found, wanted) in found.iter().zip(&wanted) {
            let error = error(found, wanted);
            assert!(error <= most, "{method} {dtype} {:?}: {error:.2e}", found.shape());
        }
    }
}

/// Singular values of every kind.
fn zoo(random: &mut Random) -> Vec<(&'static str, DMatrix<f64>)> {
    let geometric =
        |n: usize| (0..n).map(|i| 10f64.powf(-4.0 * i as f64 / (n - 1) as f64)).collect::<Vec<_>>();
    vec![
        ("gaussian", random.gaussian(70, 130)),
        ("square", random.gaussian(96, 96)),
        ("geometric", random.with_spectrum(64, 160, &geometric(64))),
        ("tall geometric", random.with_spectrum(160, 70, &geometric(70))),
        ("rank 5", random.with_spectrum(48, 100, &[1.0, 0.8, 0.5, 0.4, 0.3])),
        ("rank 1", random.with_spectrum(100, 48, &[2.0])),
        ("orthogonal", random.orthogonal(64)),
        ("row", random.gaussian(1, 77)),
        ("column", random.gaussian(77, 1)),
        ("zero", DMatrix::zeros(20, 30)),
        ("huge", random.gaussian(40, 90) * 1e30),
        ("tiny", random.gaussian(40, 90) * 1e-30),
    ]
}

/// As accurate as the same arithmetic on the CPU, and never beyond the coefficients' bound.
#[test]
fn every_spectrum_and_set() {
    let (names, matrices): (Vec<_>, Vec<_>) = zoo(&mut Random(2)).into_iter().unzip();
    for (set, coefficients) in Coefficients::NAMED {
        let bound =
            NewtonSchulz { coefficients: coefficients.clone(), ..NewtonSchulz::default() }.sigma_bound();
        let wanted = oracle(&format!("ns_coefficients = \"{set}\""), &matrices);
        for (method, dtype) in METHODS {
            let config = config(&ours(set, method, dtype));
            let found = directions(device(), &config, &matrices);
            let on_cpu = directions(Device::Cpu, &config, &matrices);
            let half_a_unit = if dtype == "f16" { 2f64.powi(-11) } else { 2f64.powi(-8) };
            for (i, name) in names.iter().enumerate() {
                let (ours, cpus) = (error(&found[i], &wanted[i]), error(&on_cpu[i], &wanted[i]));
                let what = format!("{set} {method} {dtype}, {name}: {ours:.2e}, CPU {cpus:.2e}");
                assert!(ours <= 1.2 * cpus + half_a_unit, "{what}");
                let sigma = |m: &DMatrix<f64>| {
                    if m.nrows() == 1 || m.ncols() == 1 { m.norm() } else { m.singular_values().max() }
                };
                let (largest, on_cpu) = (sigma(&found[i]), sigma(&on_cpu[i]));
                assert!(largest <= 1.05 * bound, "{what}: sigma {largest}, CPU {on_cpu}, bound {bound}");
                if *name == "zero" {
                    assert_eq!(found[i].norm(), 0.0);
                }
            }
        }
    }
}
