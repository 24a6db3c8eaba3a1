//! What a step says of itself: methods, skipped steps, what groups move by.

use crate::*;

#[test]
fn the_report_says_what_ran() {
    // Gram without restarts in bf16 diverges on a decaying spectrum; the guard counts it.
    let spectrum: Vec<f64> = (0..32).map(|i| 10f64.powf(-4.0 * f64::from(i) / 31.0)).collect();
    let g = common::row_major(&Random(110).with_spectrum(32, 128, &spectrum));
    let grad = Tensor::from_vec(g.iter().map(|v| *v as f32).collect::<Vec<f32>>(), &[32, 128]).unwrap();
    let algorithm = Algorithm::muon()
        .ns_coefficients(orthant::algorithm::Coefficients::PolarExpress)
        .ns_method(orthant::algorithm::NsMethod::Gram)
        .ns_restarts([])
        .ns_steps(8)
        .ns_dtype(NsDtype::Bf16);
    let mut optimizer =
        register(group(algorithm), vec![Parameter::new("w", tensor(&[32, 128], 111)).grad(grad.clone())]);
    let report = optimizer.step().unwrap();
    assert_eq!((report.applied, report.updated, report.orthogonalise_fallbacks), (true, 1, 1));
    grad.copy_from_slice(&[f32::NAN; 32 * 128]).unwrap();
    assert!(optimizer.step().is_err());
    assert_eq!((optimizer.steps(), optimizer.skipped_steps()), (1, 0));
}

#[test]
fn skip_reports_and_counts() {
    let grad = tensor(&[5], 121);
    let data = tensor(&[5], 120);
    let mut optimizer = Optimizer::builder(Device::Cpu)
        .group(group(Algorithm::lion()))
        .nonfinite(NonFinite::Skip)
        .register([Parameter::new("w", data.clone()).grad(grad.clone())])
        .unwrap();
    let mut values = grad.to_vec::<f32>().unwrap();
    values[3] = f32::INFINITY;
    grad.copy_from_slice(&values).unwrap();
    let before = data.to_vec::<f32>().unwrap();
    let report = optimizer.step().unwrap();
    assert_eq!((report.applied, report.non_finite.as_deref()), (false, Some("w")));
    assert_eq!((optimizer.steps(), optimizer.skipped_steps()), (0, 1));
    assert_eq!(data.to_vec::<f32>().unwrap(), before);
}

#[test]
fn skip_covers_gradients_too_large_for_the_state() {
    let (data, grad) = (tensor(&[5], 130), Tensor::from_vec(vec![1e30f32; 5], &[5]).unwrap());
    let before = data.to_vec::<f32>().unwrap();
    let mut optimizer = Optimizer::builder(Device::Cpu)
        .group(group(Algorithm::adamw()))
        .nonfinite(NonFinite::Skip)
        .register([Parameter::new("w", data.clone()).grad(grad)])
        .unwrap();
    assert_eq!(optimizer.step().unwrap().non_finite.as_deref(), Some("w"));
    assert_eq!(data.to_vec::<f32>().unwrap(), before);
}

/// What groups move by is the difference of before and after, for elementwise rules and for matrices.
#[test]
fn what_groups_move_by() {
    for algorithm in [Algorithm::lion(), Algorithm::adamw(), Algorithm::muon(), Algorithm::nsgd()] {
        let shapes = [[40, 60], [7, 300]];
        let values = |seed: usize| (0..2400).map(move |i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0);
        let tensor = |seed: usize, shape: &[usize; 2]| {
            let values: Vec<f32> = values(seed).take(shape[0] * shape[1]).collect();
            Tensor::from_vec(values, shape).expect("it fits")
        };
        let data: Vec<Tensor> = shapes.iter().map(|s| tensor(3, s)).collect();
        let parameters =
            (0..2).map(|i| Parameter::new(format!("p{i}"), data[i].clone()).grad(tensor(50 + i, &shapes[i])));
        let group = |name: &str, params: &str| {
            Group::new(name, algorithm.clone()).lr(0.01).weight_decay(0.1).params([params])
        };
        let mut optimizer = Optimizer::builder(Device::Cpu)
            .groups([group("a", "p1"), group("b", "*")])
            .diagnostics(true)
            .register(parameters)
            .expect("legal");
        let before: Vec<Vec<f64>> = data.iter().map(Tensor::to_vec_f64).collect();
        let found = optimizer.step().expect("a step").update_rms.expect("measured");
        for (group, parameter) in [(0, 1), (1, 0)] {
            let after = data[parameter].to_vec_f64();
            let squares = after.iter().zip(&before[parameter]).map(|(a, b)| (a - b) * (a - b));
            let expected = (squares.sum::<f64>() / after.len() as f64).sqrt();
            assert!(expected > 1e-4 && (found[group] / expected - 1.0).abs() < 1e-5, "{found:?} {expected}");
        }
    }
}
