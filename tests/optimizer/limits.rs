//! Sizes and values at the ends of what is legal.

use crate::*;

#[test]
fn gradients_that_the_state_cannot_hold_are_refused() {
    for (algorithm, value, accepted) in [
        (Algorithm::adamw(), 1e19, true),
        (Algorithm::adamw(), 2e19, false),
        (Algorithm::adagrad(), 1e30, false),
        (Algorithm::sgd().momentum(0.9), 3e37, true),
        (Algorithm::sgd().momentum(0.9), 4e37, false),
        (Algorithm::muon(), 3e38, true),
        (Algorithm::lion(), 3e38, true),
    ] {
        let data = tensor(&[4, 4], 100);
        let before = data.to_vec::<f32>().unwrap();
        let grad = Tensor::from_vec(vec![value as f32; 16], &[4, 4]).unwrap();
        let name = algorithm.name();
        let group = Group::new("g", algorithm).lr(1e-30).weight_decay(0.0).params(["*"]);
        let mut optimizer = register(group, vec![Parameter::new("w", data.clone()).grad(grad)]);
        match optimizer.step() {
            Ok(_) => {
                assert!(accepted, "{name} {value:e}");
                let state =
                    [Slot::Momentum, Slot::Variance].iter().filter_map(|s| optimizer.state("w", *s).unwrap());
                assert!(state.flatten().all(f64::is_finite), "{name} {value:e}");
            }
            Err(e) => {
                assert!(!accepted && e.to_string().contains("`w`"), "{name} {value:e}: {e}");
                assert_eq!(data.to_vec::<f32>().unwrap(), before);
                assert_eq!(optimizer.step_count("w").unwrap(), Some(0));
            }
        }
    }
}

/// Large views of one buffer under a whole-matrix rule, on more threads than cores: no task may wait for a lock that
/// another task of the same thread holds.
#[test]
fn many_large_views_of_one_buffer_do_not_deadlock() {
    let (views, n) = (8, 256);
    let buffer = Tensor::zeros(Dtype::F32, &[views, n, n]).unwrap();
    let grads = tensor(&[views, n, n], 140);
    let part = move |t: &Tensor, i: usize| t.view(i * n * n, &[n, n], &[n, 1]).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        pool.install(|| {
            let parameters = (0..views)
                .map(|i| Parameter::new(format!("w{i}"), part(&buffer, i)).grad(part(&grads, i)))
                .collect();
            let mut optimizer = register(group(Algorithm::nsgd()), parameters);
            for _ in 0..50 {
                optimizer.step().unwrap();
            }
        });
        done.send(()).unwrap();
    });
    finished.recv_timeout(std::time::Duration::from_secs(60)).expect("the steps end");
}

#[test]
fn accumulated_state_stays_finite() {
    // AdaGrad adds squares step after step; the third of these would overflow f32.
    let (data, grad) = (tensor(&[4], 150), Tensor::from_vec(vec![1.5e19f32; 4], &[4]).unwrap());
    let mut optimizer = register(
        Group::new("g", Algorithm::adagrad()).lr(1e-3).params(["*"]),
        vec![Parameter::new("w", data).grad(grad)],
    );
    optimizer.step().unwrap();
    assert!(optimizer.step().unwrap_err().to_string().contains("its state can take in"));
    assert!(optimizer.state("w", Slot::Variance).unwrap().unwrap().iter().all(|v| v.is_finite()));

    // Variance reduction with a small alpha adds up differences.
    let (data, grad, prev) = (tensor(&[4], 151), tensor(&[4], 152), tensor(&[4], 153));
    grad.copy_from_slice(&[8e37f32; 4]).unwrap();
    prev.copy_from_slice(&[-8e37f32; 4]).unwrap();
    let mvr = Algorithm::lmo(Estimator::Mvr { alpha: 1e-4 }, Norm::Sign);
    let mut optimizer = register(group(mvr), vec![Parameter::new("w", data).grad(grad).prev_grad(prev)]);
    assert!(optimizer.step().is_err());

    // bf16 state has a smaller range than f32 arithmetic, and f64 arithmetic a larger one.
    let grad = Tensor::from_vec(vec![3.402e38f32; 4], &[4]).unwrap();
    let narrow = group(Algorithm::lion()).state_dtype(StateDtype::Bf16);
    let mut optimizer = register(narrow, vec![Parameter::new("w", tensor(&[4], 154)).grad(grad)]);
    assert!(optimizer.step().is_err());
}

#[test]
fn an_eps_matters_at_every_small_scale() {
    for algorithm in [Algorithm::nsgd().eps(1e-8), Algorithm::muon().eps(1e-8)] {
        for scale in [1e-100, 1e-139, 1e-141, 1e-300] {
            let values: Vec<f64> = random(&[4, 4], 160).iter().map(|v| f64::from(*v) * scale).collect();
            let grad = Tensor::from_vec(values, &[4, 4]).unwrap();
            let data = Tensor::from_vec(vec![1.0f64; 16], &[4, 4]).unwrap();
            let group = Group::new("g", algorithm.clone()).lr(0.1).weight_decay(0.0).params(["*"]);
            register(group, vec![Parameter::new("w", data.clone()).grad(grad)]).step().unwrap();
            assert_eq!(data.to_vec_f64(), [1.0; 16], "{} {scale:e}", algorithm.name());
        }
    }
}

#[test]
fn clipping_reaches_the_ends_of_f64() {
    for scale in [1e-200, 1.0, 1e200] {
        let values: Vec<f64> = random(&[40], 170).iter().map(|v| f64::from(*v) * scale).collect();
        let norm = values.iter().map(|v| (v / scale).powi(2)).sum::<f64>().sqrt() * scale;
        let grad = Tensor::from_vec(values, &[40]).unwrap();
        let data = Tensor::from_vec(vec![0.0f64; 40], &[40]).unwrap();
        let report = Optimizer::builder(Device::Cpu)
            .group(Group::new("g", Algorithm::sgd()).lr(1.0).params(["*"]))
            .max_grad_norm(2.0)
            .register([Parameter::new("w", data.clone()).grad(grad)])
            .unwrap()
            .step()
            .unwrap();
        assert!((report.grad_norm.unwrap() / norm - 1.0).abs() < 1e-12, "{scale:e}");
        let moved = data.to_vec_f64().iter().map(|v| (v / scale.min(1.0)).powi(2)).sum::<f64>().sqrt();
        let expected = norm.min(2.0) / scale.min(1.0);
        assert!((moved / expected - 1.0).abs() < 1e-6, "{scale:e}: {moved}");
    }
}

#[test]
fn empty_shapes_of_any_size_plan_without_overflow() {
    for (shape, splits) in [
        (vec![0, 1 << 40, 1 << 40, 1 << 40], None),
        (vec![0, 5], Some(Splits::Equal(1 << 62))),
        (vec![1 << 62, 0], Some(Splits::Sizes(vec![3]))),
    ] {
        let empty = Tensor::zeros(Dtype::F32, &shape).unwrap();
        let mut one = group(Algorithm::muon());
        if let Some(splits) = splits {
            one = one.splits(splits);
        }
        let grad = Tensor::zeros(Dtype::F32, &shape).unwrap();
        register(one, vec![Parameter::new("w", empty).grad(grad)]).step().unwrap();
    }
}
