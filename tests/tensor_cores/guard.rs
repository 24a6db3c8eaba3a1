//! An iteration that would leave its bound is replaced, on the card, by the safe one; every other is left alone.

use orthant::Device;

use crate::common::Random;
use crate::device;
use crate::zoo::{config, reported};

/// Without a restart rounding makes the Gram iteration in bf16 explode on decaying spectra. (Polar Express's polynomials, given
/// as a list: then the norm is the same as the safe iteration's, and so are the bits.)
const UNSAFE: &str = "ns_method = \"gram\"\nns_restarts = []\nns_dtype = \"bf16\"\nns_coefficients = [[8.2, -22.9, 16.5], \
                      [4.07, -2.86, 0.518], [3.91, -2.82, 0.525], [3.29, -2.42, 0.485], [2.28, -1.62, 0.398], \
                      [1.87, -1.23, 0.358], [1.875, -1.25, 0.375], [1.875, -1.25, 0.375]]";

#[test]
fn a_diverging_iteration_is_replaced() {
    let mut random = Random(21);
    let decaying = |random: &mut Random, rows: usize, columns: usize| {
        let n = rows.min(columns);
        let s: Vec<f64> = (0..n).map(|i| 10f64.powf(-4.0 * i as f64 / n as f64)).collect();
        random.with_spectrum(rows, columns, &s)
    };
    let matrices = vec![
        decaying(&mut random, 64, 200),
        random.gaussian(3, 60),
        decaying(&mut random, 150, 140),
        decaying(&mut random, 300, 80),
    ];
    let (found, report) = reported(device(), &config(UNSAFE), &matrices);
    let (_, on_cpu) = reported(Device::Cpu, &config(UNSAFE), &matrices);
    println!("fallbacks: card {}, CPU {}", report.orthogonalise_fallbacks, on_cpu.orthogonalise_fallbacks);
    assert!(report.orthogonalise_fallbacks >= 2, "{}", report.orthogonalise_fallbacks);
    let (safe, _) = reported(device(), &config("ns_dtype = \"bf16\""), &matrices);
    let mut replaced = 0;
    for (found, safe) in found.iter().zip(&safe) {
        let sigma = found.singular_values().max();
        println!("{:?}: {sigma}", found.shape());
        assert!(sigma <= 1.25, "{:?}: {sigma}", found.shape());
        replaced += usize::from(found == safe);
    }
    // It is the safe iteration to the bit.
    assert_eq!(replaced, report.orthogonalise_fallbacks);
    // And says what it moves by, and its dual norms.
    let diagnosed = |text: &str, matrices: &[nalgebra::DMatrix<f64>]| {
        let mut config = config(text);
        config.options.diagnostics = true;
        let report = reported(device(), &config, matrices).1;
        (report.update_rms.expect("measured")[0], report.dual_norms.expect("measured")[0])
    };
    let diverging = [matrices[0].clone(), matrices[3].clone()];
    let (ours, safe) = (diagnosed(UNSAFE, &diverging), diagnosed("ns_dtype = \"bf16\"", &diverging));
    assert!((ours.0 - safe.0).abs() <= 1e-12 * safe.0 && safe.0 > 0.0, "{ours:?} {safe:?}");
    assert!((ours.1 - safe.1).abs() <= 1e-12 * safe.1 && safe.1 > 0.0, "{ours:?} {safe:?}");
}

#[test]
fn iterations_within_their_bound_are_left_alone() {
    let mut random = Random(22);
    let mut matrices = vec![random.gaussian(64, 256), random.gaussian(96, 96), random.gaussian(1, 5)];
    matrices.push(random.with_spectrum(70, 200, &[1.0]));
    matrices.push(random.with_spectrum(64, 64, &[1.0; 64]));
    matrices.push(matrices[0].map(|_| 0.0));
    matrices.push(&matrices[0] * 1e30);
    matrices.push(&matrices[0] * 1e-30);
    for set in ["jordan", "you", "polar-express", "speedrun", "cans"] {
        for method in
            ["ns_method = \"standard\"\nns_dtype = \"bf16\"", "ns_method = \"gram\"\nns_dtype = \"f16\""]
        {
            let config = config(&format!("{method}\nns_coefficients = \"{set}\""));
            let (found, report) = reported(device(), &config, &matrices);
            let (_, on_cpu) = reported(Device::Cpu, &config, &matrices);
            assert_eq!(report.orthogonalise_fallbacks, on_cpu.orthogonalise_fallbacks, "{set} {method}");
            assert_eq!(report.orthogonalise_fallbacks, 0, "{set} {method}");
            assert!(found[5].iter().all(|&v| v == 0.0), "zero stays zero");
            assert!(found.iter().flat_map(|m| m.iter()).all(|v| v.is_finite()), "{set} {method}");
        }
    }
}
