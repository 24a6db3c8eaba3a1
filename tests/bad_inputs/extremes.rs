//! Inputs that are extreme and good: they must work.

use orthant::algorithm::{Algorithm, Coefficients, Estimator, Norm};
use orthant::files::read_tensors;
use orthant::{Device, Dtype, Error, Group, NonFinite, Optimizer, Parameter, Tensor};

use crate::fixture::{f32_file, numbers, orthant, snapshot};
use crate::model::{bits, noise, optimizer, scratch, tensor};
use crate::nonfinite::algorithms;

/// A TOML group for every algorithm and norm.
fn configurations() -> Vec<(String, bool)> {
    let mut out: Vec<(String, bool)> = [
        ("sgd", false),
        ("nsgd", false),
        ("sign-sgd", false),
        ("signum", false),
        ("lion", false),
        ("muon", true),
        ("orthogonal-sgdm", true),
        ("scion", true),
        ("adamw", false),
        ("adagrad", false),
    ]
    .iter()
    .map(|(name, matrices)| (format!("algorithm = \"{name}\""), *matrices))
    .collect();
    for (norm, kind) in Norm::ALL {
        out.push((
            format!("algorithm = \"lmo\"\nnorm = \"{norm}\"\nestimator = {{ kind = \"extrapolated\", alpha = 0.5 }}"),
            kind.needs_matrix(),
        ));
    }
    out.push(("algorithm = \"muon\"\nns_method = \"gram\"\nns_dtype = \"f16\"".to_owned(), true));
    for (set, _) in Coefficients::NAMED {
        out.push((format!("algorithm = \"muon\"\nns_coefficients = \"{set}\""), true));
    }
    out
}

#[test]
fn odd_shapes_work_through_the_program() {
    let vectors: [&[usize]; 4] = [&[0], &[1], &[17], &[]];
    let others: [&[usize]; 16] = [
        &[0, 5],
        &[5, 0],
        &[0, 0],
        &[1, 1],
        &[1, 23],
        &[23, 1],
        &[13, 17],
        &[31, 7],
        &[2, 257],
        &[65, 63],
        &[0, 3, 4],
        &[2, 0, 4],
        &[3, 1, 1],
        &[2, 3, 5],
        &[3, 2, 3, 3],
        &[3, 0, 3, 3],
    ];
    for (lines, matrices) in configurations() {
        let shapes: Vec<&[usize]> = vectors.iter().filter(|_| !matrices).chain(&others).copied().collect();
        let names: Vec<String> = shapes.iter().map(|shape| format!("p{shape:?}")).collect();
        let file = |seed: f32| {
            let tensors: Vec<_> = names
                .iter()
                .zip(&shapes)
                .map(|(name, shape)| (name.as_str(), *shape, numbers(shape.iter().product(), seed)))
                .collect();
            f32_file(&tensors)
        };
        let dir = scratch();
        let write =
            |name: &str, bytes: Vec<u8>| std::fs::write(dir.path().join(name), bytes).expect("written");
        write("c.toml", format!("[[group]]\nparams = [\"*\"]\nlr = 0.01\n{lines}\n").into_bytes());
        write("p", file(0.0));
        write("g", file(1.0));
        let line = "step --config c.toml --params p --grads g g g --out out";
        let output = orthant(dir.path(), &line.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
        let before = read_tensors(dir.path().join("p")).expect("parameters");
        let after = read_tensors(dir.path().join("out/params.safetensors")).expect("results");
        assert_eq!(after.len(), shapes.len(), "{lines}");
        for (name, tensor) in &after {
            assert_eq!(tensor.shape(), before[name].shape());
            let values = tensor.to_vec_f64();
            assert!(values.iter().all(|v| v.is_finite()), "{lines}: {name}: {values:?}");
            assert!(values.is_empty() || values != before[name].to_vec_f64(), "{lines}: {name} did not move");
        }
        assert!(!snapshot(dir.path()).keys().any(|name| name.contains("tmp")), "{lines}");
    }
}

#[test]
fn an_empty_parameter_does_not_disturb_its_neighbours() {
    for algorithm in algorithms() {
        let run = |empty: Option<usize>| {
            let parameters = (0..37usize).filter_map(|i| {
                let shape: &[usize] = if empty == Some(i) { &[0, 4] } else { &[2, 4] };
                let skipped = empty.is_none() && [0, 18, 36].contains(&i);
                let tensor = |seed: f64| tensor(Dtype::F32, shape, noise(i as f64 + seed));
                (!skipped).then(|| Parameter::new(format!("p{i}"), tensor(0.5)).grad(tensor(40.5)))
            });
            let group = Group::new("g", algorithm.clone()).lr(0.1).params(["*"]);
            let mut optimizer =
                Optimizer::builder(Device::Cpu).group(group).register(parameters).expect("it registers");
            optimizer.step().expect("a step");
            bits(&optimizer)
        };
        let expected = run(None);
        for empty in [0, 18, 36] {
            let got = run(Some(empty));
            for row in &expected {
                assert!(got.contains(row), "{}: `{}`, empty at {empty}", algorithm.composition(), row.0);
            }
        }
    }
}

#[test]
fn a_zero_gradient_moves_nothing() {
    for algorithm in algorithms() {
        let algorithm = if algorithm.name() == "scion" { algorithm.unconstrained(true) } else { algorithm };
        for shape in [[3usize, 5], [1, 1], [40, 70]] {
            let data = tensor(Dtype::F32, &shape, noise(1.0));
            let group = Group::new("g", algorithm.clone()).lr(0.1).weight_decay(0.0).params(["*"]);
            let zero = Tensor::zeros(Dtype::F32, &shape).expect("zeros");
            let parameter = Parameter::new("w", data.clone()).grad(zero);
            let mut optimizer =
                Optimizer::builder(Device::Cpu).group(group).register([parameter]).expect("it registers");
            let before = data.to_vec::<f32>().expect("f32");
            optimizer.step().expect("a step");
            let after = data.to_vec::<f32>().expect("f32");
            let same = before.iter().zip(&after).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}: {shape:?}", algorithm.composition());
        }
    }
}

/// `-u` after one step from zero with lr = 1.
fn direction(algorithm: &Algorithm, dtype: Dtype, scale: f64) -> Vec<f64> {
    let shape = [6usize, 9];
    let good = noise(1.0);
    let data = Tensor::zeros(dtype, &shape).expect("zeros");
    let grad = tensor(dtype, &shape, |i| good(i) * scale);
    let group = Group::new("g", algorithm.clone()).lr(1.0).weight_decay(0.0).params(["*"]);
    let parameter = Parameter::new("w", data.clone()).grad(grad);
    let mut optimizer =
        Optimizer::builder(Device::Cpu).group(group).register([parameter]).expect("it registers");
    optimizer.step().expect("a step");
    data.to_vec_f64()
}

#[test]
fn directions_do_not_depend_on_the_gradients_scale() {
    let lmo = |norm| Algorithm::lmo(Estimator::None, norm);
    let subjects = [
        (Algorithm::muon(), 0.03),
        (Algorithm::orthogonal_sgdm(), 0.03),
        (Algorithm::scion().unconstrained(true), 0.03),
        (Algorithm::nsgd(), 1e-3),
        (lmo(Norm::Sign), 0.0),
        (lmo(Norm::Frobenius), 1e-3),
        (lmo(Norm::Spectral), 0.03),
        (lmo(Norm::Rows), 1e-3),
        (lmo(Norm::Columns), 1e-3),
    ];
    for (algorithm, tolerance) in subjects {
        let size = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let check = |dtype: Dtype, scale: f64, exact: bool| {
            let unit = direction(&algorithm, dtype, 1.0);
            let got = direction(&algorithm, dtype, scale);
            let difference: Vec<f64> = unit.iter().zip(&got).map(|(a, b)| a - b).collect();
            let error = size(&difference) / size(&unit);
            let bound = if exact { 0.0 } else { tolerance };
            assert!(error <= bound, "{} {dtype}: scale {scale:e}: error {error:e}", algorithm.composition());
        };
        for power in (-100..=120).step_by(10) {
            check(Dtype::F32, 2f64.powi(power), true);
            check(Dtype::F64, 2f64.powi(power * 8), true);
        }
        for scale in [1e-40, 1e-37, 1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30, 1e37, 3e38] {
            check(Dtype::F32, scale, false);
        }
        for scale in [1e-300, 1e-150, 1e150, 1e300] {
            check(Dtype::F64, scale, false);
        }
    }
}

/// Finite in, finite out; or refused, where squares and sums would leave the range of the state.
#[test]
fn huge_and_tiny_gradients_leave_everything_finite() {
    for algorithm in algorithms() {
        for scale in [f64::from(f32::MAX), 1e30, 1e-30, 1e-45] {
            let group = Group::new("g", algorithm.clone()).lr(1e-3);
            let mut subject = optimizer(&[("w", group, Dtype::F32, &[4, 6])], NonFinite::Error);
            let gradient = tensor(Dtype::F32, &[4, 6], |i| if i % 2 == 0 { scale } else { -scale });
            subject.rebind_gradients([("w", Some(gradient))]).expect("it fits");
            let before = bits(&subject);
            let composition = algorithm.composition();
            match subject.step() {
                Ok(_) => {
                    let mut rows = bits(&subject);
                    rows.retain(|(name, _)| !name.contains("steps"));
                    let finite = rows.iter().flat_map(|(_, v)| v).all(|v| f64::from_bits(*v).is_finite());
                    assert!(finite, "{composition}: {scale:e}: {rows:?}");
                }
                Err(Error::GradientOverflow { parameter, step: 1, .. }) => {
                    assert_eq!(parameter, "w");
                    assert_eq!(bits(&subject), before, "{composition}");
                    let sums = matches!(algorithm.name(), "sgd" | "lmo") && scale > 1e38;
                    let squares = matches!(algorithm.name(), "adamw" | "adagrad") && scale > 1e19;
                    assert!(sums || squares, "{composition}: {scale:e} needs no refusal");
                }
                Err(other) => panic!("{composition}: {other}"),
            }
        }
    }
}
