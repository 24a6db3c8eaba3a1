//! Tests of `src/optimizer`: what a step does to dtypes, views, batches, splits, masters and missing gradients.

use half::{bf16, f16};
use orthant::algorithm::{Estimator, Norm, NsDtype, Scale, Slot};
use orthant::{
    Algorithm, Device, Dtype, Group, Master, NonFinite, Optimizer, Parameter, Rounding, Splits, StateDtype,
    Storage, Tensor,
};

#[path = "common/mod.rs"]
mod common;
use common::Random;

#[path = "optimizer/compact.rs"]
mod compact;
#[path = "optimizer/limits.rs"]
mod limits;
#[path = "optimizer/loss_scale.rs"]
mod loss_scale;
#[path = "optimizer/reports.rs"]
mod reports;

const LR: f64 = 0.01;

fn random(shape: &[usize], seed: u64) -> Vec<f32> {
    Random(seed).normals(shape.iter().product()).iter().map(|v| *v as f32).collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(random(shape, seed), shape).unwrap()
}

fn as_dtype(values: &[f32], dtype: Dtype, shape: &[usize]) -> Tensor {
    let storage = match dtype {
        Dtype::F64 => Storage::F64(values.iter().map(|v| f64::from(*v)).collect()),
        Dtype::F32 => Storage::F32(values.to_vec()),
        Dtype::Bf16 => Storage::Bf16(values.iter().map(|v| bf16::from_f32(*v)).collect()),
        Dtype::F16 => Storage::F16(values.iter().map(|v| f16::from_f32(*v)).collect()),
    };
    Tensor::from_storage(storage, shape).unwrap()
}

fn group(algorithm: Algorithm) -> Group {
    Group::new("g", algorithm).lr(LR).weight_decay(0.1).params(["*"])
}

fn register(group: Group, parameters: Vec<Parameter>) -> Optimizer {
    Optimizer::builder(Device::Cpu).group(group).register(parameters).unwrap()
}

/// Two steps of one parameter; the result in f64.
fn two_steps(group: Group, data: &Tensor, grad: &Tensor) -> Vec<f64> {
    let mut optimizer = register(group, vec![Parameter::new("w", data.clone()).grad(grad.clone())]);
    optimizer.step().unwrap();
    optimizer.step().unwrap();
    data.to_vec_f64()
}

fn elementwise() -> Vec<Algorithm> {
    vec![
        Algorithm::sgd().momentum(0.9).nesterov(true),
        Algorithm::sign_sgd(),
        Algorithm::signum(),
        Algorithm::lion(),
        Algorithm::adamw().amsgrad(true),
        Algorithm::adagrad(),
        Algorithm::lmo(Estimator::Extrapolated { alpha: 0.2 }, Norm::Sign),
    ]
}

fn all() -> Vec<Algorithm> {
    let mut all = elementwise();
    all.extend([Algorithm::nsgd(), Algorithm::muon(), Algorithm::orthogonal_sgdm()]);
    all.push(Algorithm::lmo(Estimator::None, Norm::Rows));
    all
}

#[test]
fn sixteen_bit_parameters_are_f32_arithmetic_rounded_once() {
    let shape = [7, 150];
    for algorithm in all() {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            for grad_dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
                let grad = as_dtype(&random(&shape, 2), grad_dtype, &shape);
                let narrow = as_dtype(&random(&shape, 1), dtype, &shape);
                let start: Vec<f32> = narrow.to_vec_f64().iter().map(|v| *v as f32).collect();
                let wide = Tensor::from_vec(start, &shape).unwrap();
                for (data, grad) in
                    [(&narrow, grad.clone()), (&wide, as_dtype(&floats(&grad), Dtype::F32, &shape))]
                {
                    register(group(algorithm.clone()), vec![Parameter::new("w", data.clone()).grad(grad)])
                        .step()
                        .unwrap();
                }
                let rounded = as_dtype(&wide.to_vec::<f32>().unwrap(), dtype, &shape).to_vec_f64();
                assert_eq!(narrow.to_vec_f64(), rounded, "{} {dtype} {grad_dtype}", algorithm.name());
            }
        }
    }
}

fn floats(t: &Tensor) -> Vec<f32> {
    t.to_vec_f64().iter().map(|v| *v as f32).collect()
}

#[test]
fn strided_views_step_like_copies_and_leave_their_neighbours_alone() {
    for algorithm in all() {
        // A 6 x 40 block inside a 10 x 64 buffer, and a gradient stored transposed.
        let buffer = tensor(&[10, 64], 3);
        let before = buffer.to_vec::<f32>().unwrap();
        let view = buffer.view(2 * 64 + 5, &[6, 40], &[64, 1]).unwrap();
        let grad_buffer = tensor(&[40, 6], 4);
        let grad = grad_buffer.view(0, &[6, 40], &[1, 6]).unwrap();
        let copy = Tensor::from_vec(view.to_vec::<f32>().unwrap(), &[6, 40]).unwrap();
        let grad_copy = Tensor::from_vec(grad.to_vec::<f32>().unwrap(), &[6, 40]).unwrap();
        let strided = two_steps(group(algorithm.clone()), &view, &grad);
        assert_eq!(strided, two_steps(group(algorithm.clone()), &copy, &grad_copy), "{}", algorithm.name());
        for (i, (a, b)) in before.iter().zip(buffer.to_vec::<f32>().unwrap()).enumerate() {
            let inside = (2..8).contains(&(i / 64)) && (5..45).contains(&(i % 64));
            assert!(inside || a.to_bits() == b.to_bits(), "{}: element {i}", algorithm.name());
        }
    }
}

#[test]
fn interleaved_views_of_one_buffer_are_parameters_of_their_own() {
    let buffer = tensor(&[8, 10], 5);
    let halves: Vec<Tensor> = [0, 5].iter().map(|&o| buffer.view(o, &[8, 5], &[10, 1]).unwrap()).collect();
    let grads = [tensor(&[8, 5], 6), tensor(&[8, 5], 7)];
    let copies: Vec<Tensor> =
        halves.iter().map(|h| Tensor::from_vec(h.to_vec::<f32>().unwrap(), &[8, 5]).unwrap()).collect();
    for set in [&halves, &copies] {
        let parameters =
            (0..2).map(|i| Parameter::new(format!("w{i}"), set[i].clone()).grad(grads[i].clone())).collect();
        register(group(Algorithm::muon()), parameters).step().unwrap();
    }
    for (half, copy) in halves.iter().zip(&copies) {
        assert_eq!(half.to_vec::<f32>().unwrap(), copy.to_vec::<f32>().unwrap());
    }
}

#[test]
fn batches_splits_and_convolutions_are_matrices_of_their_own() {
    let algorithms = [
        Algorithm::muon(),
        Algorithm::nsgd(),
        Algorithm::lmo(Estimator::None, Norm::Columns).scale(Scale::Rms),
    ];
    for algorithm in algorithms {
        let (x, g) = (random(&[24, 10], 8), random(&[24, 10], 9));
        let part = |v: &[f32], rows: std::ops::Range<usize>| v[rows.start * 10..rows.end * 10].to_vec();
        let alone = |rows: std::ops::Range<usize>| {
            let shape = [rows.len(), 10];
            let data = Tensor::from_vec(part(&x, rows.clone()), &shape).unwrap();
            two_steps(group(algorithm.clone()), &data, &Tensor::from_vec(part(&g, rows), &shape).unwrap())
        };
        let whole = |shape: &[usize], group: Group| {
            let data = Tensor::from_vec(x.clone(), shape).unwrap();
            two_steps(group, &data, &Tensor::from_vec(g.clone(), shape).unwrap())
        };
        let batch = whole(&[3, 8, 10], group(algorithm.clone()));
        assert_eq!(batch, [alone(0..8), alone(8..16), alone(16..24)].concat(), "{}", algorithm.name());
        let equal = whole(&[24, 10], group(algorithm.clone()).splits(Splits::Equal(3)));
        assert_eq!(equal, batch);
        let unequal = whole(&[24, 10], group(algorithm.clone()).splits(Splits::Sizes(vec![4, 20])));
        assert_eq!(unequal, [alone(0..4), alone(4..24)].concat());
        let convolution = whole(&[24, 5, 2, 1], group(algorithm.clone()));
        assert_eq!(convolution, alone(0..24));
    }
}

#[test]
fn empty_parameters_are_accepted_and_neighbours_updated() {
    for shape in [vec![0], vec![0, 5], vec![5, 0], vec![0, 0], vec![1 << 40, 0, 7]] {
        for at in 0..3 {
            let algorithm = if shape.len() == 1 { Algorithm::lion() } else { Algorithm::muon() };
            let mut parameters: Vec<Parameter> = (0..2)
                .map(|i| Parameter::new(format!("w{i}"), tensor(&[4, 6], i)).grad(tensor(&[4, 6], 10 + i)))
                .collect();
            let empty = || Tensor::zeros(Dtype::F32, &shape).unwrap();
            parameters.insert(at, Parameter::new("empty", empty()).grad(empty()));
            let before: Vec<_> = (0..2).map(|i| tensor(&[4, 6], i).to_vec_f64()).collect();
            let mut optimizer = register(group(algorithm), parameters);
            assert_eq!(optimizer.step().unwrap().updated, 3);
            let after: Vec<_> =
                optimizer.parameters().filter(|(n, _)| *n != "empty").map(|(_, t)| t.to_vec_f64()).collect();
            for (a, b) in before.iter().zip(&after) {
                assert!(a.iter().zip(b).all(|(a, b)| a != b), "{shape:?} at {at}");
            }
        }
    }
}

#[test]
fn a_master_copy_keeps_what_rounding_would_lose() {
    let n = 64;
    let run = |master: Master| {
        let data = Tensor::from_vec(vec![bf16::ONE; n], &[n]).unwrap();
        let grad = Tensor::from_vec(vec![bf16::ONE; n], &[n]).unwrap();
        let group = Group::new("g", Algorithm::sign_sgd()).lr(1e-4).params(["*"]).master(master);
        let mut optimizer = register(group, vec![Parameter::new("w", data.clone()).grad(grad)]);
        for _ in 0..100 {
            optimizer.step().unwrap();
        }
        let hidden = optimizer.state("w", Slot::Master).unwrap();
        (data.to_vec::<bf16>().unwrap()[0], hidden)
    };
    // 1e-4 is below half a unit in the last place of bf16 at 1.
    assert_eq!(run(Master::None), (bf16::ONE, None));
    let (shown, hidden) = run(Master::F32);
    let mut expected = 1.0f32;
    for _ in 0..100 {
        expected -= 1e-4f32;
    }
    assert_eq!(hidden.unwrap(), vec![f64::from(expected); n]);
    assert_eq!(shown, bf16::from_f32(expected));
}

#[test]
fn stochastic_rounding_is_unbiased_and_depends_on_name_index_and_step_only() {
    let n = 20_000;
    let run = |name: &str, steps: usize| {
        let data = Tensor::from_vec(vec![bf16::ONE; n], &[n]).unwrap();
        let grad = Tensor::from_vec(vec![bf16::ONE; n], &[n]).unwrap();
        let group =
            Group::new("g", Algorithm::sign_sgd()).lr(1e-4).params(["*"]).rounding(Rounding::Stochastic);
        let mut optimizer = register(group, vec![Parameter::new(name, data.clone()).grad(grad)]);
        for _ in 0..steps {
            optimizer.step().unwrap();
        }
        data.to_vec::<bf16>().unwrap()
    };
    let after = run("w", 100);
    let mean = after.iter().map(|v| v.to_f64()).sum::<f64>() / n as f64;
    // Below 1 the spacing is 2^-8: the variance of a walk of 100 steps of 1e-4 is at most 100 * 1e-4 * 2^-8.
    let deviation = (100.0 * 1e-4 * 2f64.powi(-8) / n as f64).sqrt();
    assert!((mean - 0.99).abs() < 5.0 * deviation + 1e-6, "{mean} +- {deviation}");
    assert_eq!(after, run("w", 100));
    assert_ne!(after, run("v", 100));
}

#[test]
fn bf16_state_is_the_rounding_of_f32_state() {
    let (data, grad) = (tensor(&[33], 20), tensor(&[33], 21));
    let mut optimizer = register(
        group(Algorithm::signum()).state_dtype(StateDtype::Bf16),
        vec![Parameter::new("w", data).grad(grad.clone())],
    );
    optimizer.step().unwrap();
    let expected: Vec<f64> = floats(&grad)
        .iter()
        .map(|g| bf16::from_f32(0.9f32 * 0.0 + (1.0f64 - 0.9) as f32 * g).to_f64())
        .collect();
    assert_eq!(optimizer.state("w", Slot::Momentum).unwrap().unwrap(), expected);
    assert_eq!(optimizer.plan().state_bytes(), 33 * 2 + 8);
}

#[test]
fn a_missing_gradient_leaves_parameter_state_and_step_count_alone() {
    for algorithm in all() {
        let parts = || (tensor(&[4, 6], 30), tensor(&[4, 6], 31));
        let (a, grad_a) = parts();
        let (b, grad_b) = parts();
        let name = algorithm.name();
        let mut optimizer = register(
            group(algorithm),
            vec![
                Parameter::new("a", a.clone()).grad(grad_a),
                Parameter::new("b", b.clone()).grad(grad_b.clone()),
            ],
        );
        optimizer.step().unwrap();
        let frozen = (
            b.to_vec_f64(),
            optimizer.state("b", Slot::Momentum).unwrap(),
            optimizer.step_count("b").unwrap(),
        );
        optimizer.rebind_gradients([("b", None::<Tensor>)]).unwrap();
        let report = optimizer.step().unwrap();
        assert_eq!((report.updated, report.without_gradient), (1, 1), "{name}");
        let now = (
            b.to_vec_f64(),
            optimizer.state("b", Slot::Momentum).unwrap(),
            optimizer.step_count("b").unwrap(),
        );
        assert_eq!(now, frozen, "{name}");
        // Back again it goes on as if nothing had been: b has had the same two gradients as a at its second step.
        optimizer.rebind_gradients([("b", Some(grad_b))]).unwrap();
        optimizer.rebind_gradients([("a", None::<Tensor>)]).unwrap();
        optimizer.step().unwrap();
        assert_eq!(a.to_vec_f64(), b.to_vec_f64(), "{name}");
        assert_eq!(optimizer.step_count("b").unwrap(), Some(2));
    }
}

#[test]
fn gradients_are_never_written() {
    for algorithm in all() {
        let (data, grad) = (tensor(&[8, 12], 40), tensor(&[8, 12], 41));
        let before = grad.to_vec::<f32>().unwrap();
        let mut optimizer = Optimizer::builder(Device::Cpu)
            .group(group(algorithm).maximize(true))
            .max_grad_norm(0.5)
            .register([Parameter::new("w", data).grad(grad.clone())])
            .unwrap();
        optimizer.step().unwrap();
        assert_eq!(grad.to_vec::<f32>().unwrap(), before);
    }
}

#[test]
fn maximize_is_descent_on_the_negated_gradient() {
    for algorithm in all() {
        let grad = tensor(&[8, 12], 51);
        let negated: Vec<f32> = grad.to_vec::<f32>().unwrap().iter().map(|v| -v).collect();
        let negated = Tensor::from_vec(negated, &[8, 12]).unwrap();
        let up = two_steps(group(algorithm.clone()).maximize(true), &tensor(&[8, 12], 50), &grad);
        let down = two_steps(group(algorithm.clone()), &tensor(&[8, 12], 50), &negated);
        assert_eq!(up, down, "{}", algorithm.name());
    }
}

/// Sign family: permuting, flipping signs of (x, g), scaling g by a power of two and cutting a parameter into pieces
/// change nothing but what they say, bit for bit.
#[test]
fn exact_symmetries_of_the_sign_family() {
    let family = [Algorithm::sign_sgd(), Algorithm::signum(), Algorithm::lion().cautious_weight_decay(true)];
    let n = 1000;
    let (x, g) = (random(&[n], 60), random(&[n], 61));
    let run = |algorithm: &Algorithm, x: &[f32], g: &[f32]| {
        let data = Tensor::from_vec(x.to_vec(), &[x.len()]).unwrap();
        two_steps(group(algorithm.clone()), &data, &Tensor::from_vec(g.to_vec(), &[g.len()]).unwrap())
    };
    for algorithm in &family {
        let base = run(algorithm, &x, &g);
        let p = Random(62).permutation(n);
        let permute = |v: &[f32]| p.iter().map(|&i| v[i]).collect::<Vec<_>>();
        let permuted = run(algorithm, &permute(&x), &permute(&g));
        assert_eq!(permuted, p.iter().map(|&i| base[i]).collect::<Vec<_>>());
        let negate = |v: &[f32]| v.iter().map(|v| -v).collect::<Vec<_>>();
        let flipped = run(algorithm, &negate(&x), &negate(&g));
        assert_eq!(flipped, base.iter().map(|v| -v).collect::<Vec<_>>());
        let scaled: Vec<f32> = g.iter().map(|g| g * 2f32.powi(-20)).collect();
        assert_eq!(run(algorithm, &x, &scaled), base);
        let mut pieces = vec![];
        for (x, g) in x.chunks(333).zip(g.chunks(333)) {
            pieces.extend(run(algorithm, x, g));
        }
        assert_eq!(pieces, base);
    }
}

#[test]
fn lr_zero_moves_nothing_but_the_state() {
    for algorithm in all() {
        let (data, grad) = (tensor(&[8, 12], 70), tensor(&[8, 12], 71));
        let before = data.to_vec::<f32>().unwrap();
        let name = algorithm.name();
        let has_state = !algorithm.slots().is_empty();
        let mut optimizer =
            register(group(algorithm).lr(0.0), vec![Parameter::new("w", data.clone()).grad(grad)]);
        optimizer.step().unwrap();
        let same = before.iter().zip(data.to_vec::<f32>().unwrap()).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name}");
        let state = [Slot::Momentum, Slot::Variance].iter().find_map(|s| optimizer.state("w", *s).unwrap());
        assert_eq!(state.is_some_and(|s| s.iter().any(|v| *v != 0.0)), has_state, "{name}");
    }
}

#[test]
fn learning_rate_changes_take_effect_on_the_next_step() {
    let (data, grad) = (tensor(&[9], 80), tensor(&[9], 81));
    let mut optimizer = register(
        group(Algorithm::sign_sgd()).weight_decay(0.0),
        vec![Parameter::new("w", data.clone()).grad(grad)],
    );
    optimizer.set_lr("g", 0.5).unwrap();
    assert_eq!(optimizer.lr("g").unwrap(), 0.5);
    let before = floats(&data);
    optimizer.step().unwrap();
    assert!(before.iter().zip(floats(&data)).all(|(a, b)| (a - b).abs() == 0.5 || (a - b).abs() > 0.499));
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(optimizer.set_lr("g", bad).is_err());
        assert!(optimizer.set_weight_decay("g", bad).is_err());
    }
    assert!(optimizer.set_lr("h", 0.1).unwrap_err().to_string().contains("`g`"));
    assert_eq!(optimizer.lr("g").unwrap(), 0.5);
}

#[test]
fn clipping_scales_by_the_global_norm() {
    let grads = [tensor(&[40], 90), tensor(&[3, 9], 91)];
    let norm = grads.iter().flat_map(Tensor::to_vec_f64).map(|g| g * g).sum::<f64>().sqrt();
    let run = |clip: Option<f64>, factor: f32| {
        let data = [tensor(&[40], 92), tensor(&[3, 9], 93)];
        let parameters = (0..2).map(|i| {
            let scaled: Vec<f32> = floats(&grads[i]).iter().map(|g| g * factor).collect();
            let grad = Tensor::from_vec(scaled, grads[i].shape()).unwrap();
            Parameter::new(format!("w{i}"), data[i].clone()).grad(grad)
        });
        let mut builder = Optimizer::builder(Device::Cpu).group(group(Algorithm::sgd()).weight_decay(0.0));
        if let Some(clip) = clip {
            builder = builder.max_grad_norm(clip);
        }
        let report = builder.register(parameters.collect::<Vec<_>>()).unwrap().step().unwrap();
        (data.iter().flat_map(Tensor::to_vec_f64).collect::<Vec<_>>(), report.grad_norm)
    };
    let (clipped, reported) = run(Some(0.5), 1.0);
    assert!((reported.unwrap() / norm - 1.0).abs() < 1e-12);
    assert_eq!(clipped, run(None, (0.5 / (norm + 1e-6)) as f32).0);
    assert_eq!(run(Some(2.0 * norm), 1.0).0, run(None, 1.0).0);
}

/// New Newton-Schulz settings of a group reach its next step.
#[test]
fn set_algorithm_changes_newton_schulz() {
    let muon = |steps: u32| Algorithm::muon().ns_steps(steps);
    let run = |first: Algorithm, then: Option<Algorithm>| {
        let w = Tensor::from_vec(vec![0.0f32; 12], &[3, 4]).unwrap();
        let grad = Tensor::from_vec((0..12).map(|i| (i * i % 7) as f32 - 2.5).collect(), &[3, 4]).unwrap();
        let mut optimizer = Optimizer::builder(Device::Cpu)
            .group(Group::new("g", first).lr(0.1).params(["*"]))
            .register([Parameter::new("w", w.clone()).grad(grad)])
            .unwrap();
        if let Some(then) = then {
            optimizer.set_algorithm("g", then).unwrap();
        }
        optimizer.step().unwrap();
        w.to_vec::<f32>().unwrap()
    };
    assert_ne!(run(muon(2), None), run(muon(5), None));
    assert_eq!(run(muon(2), Some(muon(5))), run(muon(5), None));
}
