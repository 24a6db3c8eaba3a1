//! The candle adapter: the same numbers as the optimizer driven directly, and errors that change nothing.
#![cfg(feature = "candle")]

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer as _, VarMap};
use orthant::algorithm::{Estimator, Norm};
use orthant::candle::{CandleConfig, CandleOptimizer};
use orthant::{Algorithm, Error, Group, NonFinite, Parameter, StepOptions};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Deterministic values in [-0.5, 0.5).
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(next).collect()
}

fn tensor(seed: u64, shape: &[usize]) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values(seed, shape.iter().product()), shape, &Device::Cpu)
}

const SHAPES: [(&str, &[usize]); 4] =
    [("a.weight", &[16, 8]), ("a.bias", &[16]), ("b.weight", &[4, 16]), ("unused.weight", &[3, 3])];

fn variables() -> candle_core::Result<VarMap> {
    let map = VarMap::new();
    for (i, (name, shape)) in SHAPES.iter().enumerate() {
        let var = Var::from_tensor(&tensor(i as u64 + 1, shape)?)?;
        map.data().lock().expect("not poisoned").insert((*name).to_owned(), var);
    }
    Ok(map)
}

fn var(map: &VarMap, name: &str) -> Var {
    map.data().lock().expect("not poisoned")[name].clone()
}

fn bits(map: &VarMap) -> Vec<Vec<u32>> {
    let one = |name| var(map, name).flatten_all()?.to_vec1::<f32>();
    let all: candle_core::Result<Vec<Vec<f32>>> = SHAPES.iter().map(|(name, _)| one(*name)).collect();
    all.expect("f32 variables").into_iter().map(|v| v.into_iter().map(f32::to_bits).collect()).collect()
}

fn groups() -> [Group; 2] {
    [
        Group::new("hidden", Algorithm::muon()).lr(0.02).params(["*.weight"]).ndim(2),
        Group::new("rest", Algorithm::adamw()).lr(3e-3).params(["*"]),
    ]
}

/// A regression on fixed data that uses all variables but one.
fn loss(map: &VarMap) -> candle_core::Result<Tensor> {
    let (x, y) = (tensor(100, &[32, 8])?, tensor(101, &[32, 4])?);
    let hidden = x.matmul(&var(map, "a.weight").t()?)?.broadcast_add(&var(map, "a.bias"))?.relu()?;
    (hidden.matmul(&var(map, "b.weight").t()?)? - y)?.sqr()?.mean_all()
}

#[test]
fn a_small_regression_goes_down() -> Outcome {
    let map = variables()?;
    let mut optimizer = CandleOptimizer::from_varmap(&map, groups(), StepOptions::default())?;
    let first = loss(&map)?.to_scalar::<f32>()?;
    for step in 0..150 {
        optimizer.set_learning_rate(0.02 * (1.0 - f64::from(step) / 150.0));
        optimizer.backward_step(&loss(&map)?)?;
        assert_eq!((optimizer.report().updated, optimizer.report().without_gradient), (3, 1));
    }
    let last = loss(&map)?.to_scalar::<f32>()?;
    assert!(last < 0.5 * first, "{first} -> {last}");
    Ok(())
}

/// The adapter adds nothing and loses nothing: bit for bit the optimizer driven by hand with the same gradients.
#[test]
fn equals_the_optimizer_driven_directly() -> Outcome {
    let map = variables()?;
    let options = StepOptions { max_grad_norm: Some(0.05), ..StepOptions::default() };
    let mut adapter = CandleOptimizer::from_varmap(&map, groups(), options)?;
    let mut names = SHAPES;
    names.sort_unstable();
    let used: Vec<_> = names.iter().filter(|(name, _)| *name != "unused.weight").collect();
    let mut data = vec![];
    for (name, shape) in &used {
        let data_of = orthant::Tensor::from_vec(var(&map, name).flatten_all()?.to_vec1::<f32>()?, shape)?;
        data.push((*name, data_of, orthant::Tensor::zeros(orthant::Dtype::F32, shape)?));
    }
    let mut direct =
        orthant::Optimizer::builder(orthant::Device::Cpu).groups(groups()).options(options).register(
            data.iter().map(|(name, data, grad)| Parameter::new(*name, data.clone()).grad(grad.clone())),
        )?;
    for _ in 0..5 {
        let grads = loss(&map)?.backward()?;
        for (name, _, grad) in &data {
            let source = grads.get(&var(&map, name)).ok_or("gradient")?;
            grad.copy_from_slice(&source.flatten_all()?.to_vec1::<f32>()?)?;
        }
        direct.step()?;
        adapter.step(&grads)?;
        for (name, expected, _) in &data {
            let got = var(&map, name).flatten_all()?.to_vec1::<f32>()?;
            let expected = expected.to_vec::<f32>()?;
            assert!(got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        }
    }
    assert!(adapter.report().grad_norm.is_some_and(|norm| norm > 0.05), "clipping was at work");
    Ok(())
}

#[test]
fn without_a_gradient_a_variable_is_left_alone() -> Outcome {
    let map = variables()?;
    let mut optimizer = CandleOptimizer::from_varmap(&map, groups(), StepOptions::default())?;
    optimizer.backward_step(&loss(&map)?)?;
    let before = bits(&map);
    // `a.bias` had a gradient in the first step and has none now.
    let only_b = var(&map, "b.weight").sqr()?.sum_all()?;
    optimizer.backward_step(&only_b)?;
    let after = bits(&map);
    assert_eq!((&before[0], &before[1], &before[3]), (&after[0], &after[1], &after[3]));
    assert_ne!(before[2], after[2]);
    let steps: Vec<_> = SHAPES.iter().map(|(name, _)| optimizer.inner().step_count(name).unwrap()).collect();
    assert_eq!(steps, [Some(1), Some(1), Some(2), Some(0)]);
    // Assigning a variable between steps counts.
    let b = var(&map, "b.weight");
    b.set(&b.ones_like()?)?;
    optimizer.backward_step(&only_b)?;
    assert!(b.flatten_all()?.to_vec1::<f32>()?.iter().all(|v| (v - 1.0).abs() < 0.2));
    Ok(())
}

#[test]
fn a_nan_gradient_is_an_error_and_changes_nothing() -> Outcome {
    let map = variables()?;
    let mut optimizer = CandleOptimizer::from_varmap(&map, groups(), StepOptions::default())?;
    optimizer.backward_step(&loss(&map)?)?;
    let before = bits(&map);
    let momentum = optimizer.inner().state("a.weight", orthant::algorithm::Slot::Momentum).unwrap();
    let mut grads = loss(&map)?.backward()?;
    let mut poisoned = values(7, 64);
    poisoned[5] = f32::NAN;
    grads.insert(&var(&map, "b.weight"), Tensor::from_vec(poisoned, &[4, 16], &Device::Cpu)?);
    let Err(error @ Error::NonFiniteGradient { .. }) = optimizer.apply(&grads).cloned() else {
        panic!("a NaN was accepted");
    };
    assert!(error.to_string().contains("`b.weight`"), "{error}");
    assert_eq!(before, bits(&map));
    assert_eq!(momentum, optimizer.inner().state("a.weight", orthant::algorithm::Slot::Momentum).unwrap());

    let skip = StepOptions { nonfinite: NonFinite::Skip, ..StepOptions::default() };
    let mut optimizer = CandleOptimizer::from_varmap(&map, groups(), skip)?;
    assert!(!optimizer.apply(&grads)?.applied);
    assert_eq!(before, bits(&map));
    // A gradient that cannot be taken at all, after others that can.
    let mut grads = loss(&map)?.backward()?;
    grads.insert(&var(&map, "b.weight"), tensor(3, &[16, 4])?);
    let error = optimizer.step(&grads).expect_err("a wrong shape").to_string();
    assert!(error.contains("`b.weight`") && error.contains("[16, 4]"), "{error}");
    assert_eq!(before, bits(&map));
    optimizer.backward_step(&loss(&map)?)?;
    assert_ne!(before, bits(&map));
    Ok(())
}

#[test]
fn resumes_bit_for_bit() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (variables_file, state_file) =
        (folder.path().join("vars.safetensors"), folder.path().join("state.safetensors"));
    let run = |map: &VarMap, optimizer: &mut CandleOptimizer, steps: usize| -> Outcome {
        (0..steps).try_for_each(|_| Ok(optimizer.backward_step(&loss(map)?)?))
    };
    let map = variables()?;
    let mut optimizer = CandleOptimizer::from_varmap(&map, groups(), StepOptions::default())?;
    run(&map, &mut optimizer, 4)?;
    map.save(&variables_file)?;
    optimizer.save(&state_file)?;
    run(&map, &mut optimizer, 4)?;

    let mut resumed = variables()?;
    let mut optimizer = CandleOptimizer::from_varmap(&resumed, groups(), StepOptions::default())?;
    resumed.load(&variables_file)?;
    optimizer.load(&state_file)?;
    run(&resumed, &mut optimizer, 4)?;
    assert_eq!(bits(&map), bits(&resumed));
    Ok(())
}

#[test]
fn variables_need_one_name_and_a_supported_type() -> Outcome {
    let map = variables()?;
    let config = CandleConfig::new(groups()).names(&map);
    assert!(CandleOptimizer::new(map.all_vars(), config.clone()).is_ok());

    let stranger = Var::zeros((5, 7), DType::F32, &Device::Cpu)?;
    let message = |vars: Vec<Var>, config: &CandleConfig| match CandleOptimizer::new(vars, config.clone()) {
        Ok(_) => "accepted".to_owned(),
        Err(e) => e.to_string(),
    };
    let error = message(vec![var(&map, "a.weight"), stranger.clone()], &config);
    assert!(error.contains("variable 1") && error.contains("[5, 7]") && error.contains("no name"), "{error}");
    let named = config.clone().name(&stranger, "c.weight");
    assert!(CandleOptimizer::new(vec![stranger.clone()], named.clone()).is_ok());
    let error = message(vec![stranger.clone(), stranger.clone()], &named);
    assert!(error.contains("`c.weight`") && error.contains("twice"), "{error}");
    let error = message(vec![stranger.clone()], &named.name(&stranger, "d.weight"));
    assert!(error.contains("`c.weight`") && error.contains("`d.weight`"), "{error}");

    let counter = Var::zeros(3, DType::I64, &Device::Cpu)?;
    let error = message(vec![counter.clone()], &config.name(&counter, "counter"));
    assert!(error.contains("`counter`") && error.contains("i64"), "{error}");
    Ok(())
}

#[test]
fn all_four_types_step() -> Outcome {
    for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
        let weight = Var::from_tensor(&tensor(1, &[6, 4])?.to_dtype(dtype)?)?;
        let before = weight.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let group = Group::new("all", Algorithm::sign_sgd()).lr(0.125).params(["*"]);
        let config = CandleConfig::new([group]).name(&weight, "weight");
        let mut optimizer = CandleOptimizer::new(vec![weight.clone()], config)?;
        // A gradient that is a transposed view.
        let mut grads = weight.sqr()?.sum_all()?.backward()?;
        let transposed = tensor(2, &[4, 6])?.to_dtype(dtype)?.t()?;
        let signs = transposed.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        grads.insert(&weight, transposed);
        optimizer.step(&grads)?;
        let after = weight.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        for ((b, g), a) in before.iter().zip(signs).zip(after) {
            assert!((b - 0.125 * g.signum() - a).abs() < 4e-3, "{dtype:?}: {b} {g} {a}");
        }
    }
    Ok(())
}

#[test]
fn learning_rates_keep_their_proportions() -> Outcome {
    let map = variables()?;
    let frozen = Group::new("frozen", Algorithm::sgd()).lr(0.0).params(["unused.*"]);
    let all = [frozen].into_iter().chain(groups());
    let mut optimizer = CandleOptimizer::from_varmap(&map, all, StepOptions::default())?;
    let rates = |o: &CandleOptimizer| ["frozen", "hidden", "rest"].map(|g| o.lr(g).unwrap_or(f64::NAN));
    assert_eq!(optimizer.learning_rate(), 0.02);
    optimizer.set_learning_rate(0.0);
    assert_eq!(rates(&optimizer), [0.0; 3]);
    optimizer.set_learning_rate(0.04);
    let [frozen, hidden, rest] = rates(&optimizer);
    assert_eq!((frozen, hidden), (0.0, 0.04));
    assert!((rest - 6e-3).abs() < 1e-15, "{rest}");
    optimizer.set_lr("rest", 0.02)?;
    optimizer.set_learning_rate(0.02);
    assert_eq!(rates(&optimizer), [0.0, 0.02, 0.01]);
    // An illegal rate is refused as a whole, and steps with it.
    let before = bits(&map);
    optimizer.set_learning_rate(f64::NAN);
    assert_eq!(rates(&optimizer), [0.0, 0.02, 0.01]);
    let error = optimizer.backward_step(&loss(&map)?).expect_err("NaN").to_string();
    assert!(error.contains("lr = NaN"), "{error}");
    assert_eq!(before, bits(&map));
    optimizer.set_learning_rate(0.01);
    optimizer.backward_step(&loss(&map)?)?;
    assert!(optimizer.set_lr("hiden", 0.1).is_err_and(|e| e.to_string().contains("`hidden`")));
    assert!(optimizer.set_weight_decay("hidden", 0.5).is_ok());
    Ok(())
}

#[test]
fn variables_hold_the_extrapolated_point_between_evaluations() -> Outcome {
    let map = variables()?;
    let algorithm = Algorithm::lmo(Estimator::Extrapolated { alpha: 0.2 }, Norm::Sign);
    let groups = [Group::new("all", algorithm).lr(0.01).params(["*"])];
    let mut optimizer = CandleOptimizer::from_varmap(&map, groups, StepOptions::default())?;
    for _ in 0..3 {
        optimizer.backward_step(&loss(&map)?)?;
    }
    let y = bits(&map);
    optimizer.eval_point()?;
    let x: Vec<f64> =
        optimizer.inner().state("a.weight", orthant::algorithm::Slot::Point).unwrap().ok_or("point")?;
    let shown: Vec<f64> = bits(&map)[0].iter().map(|b| f64::from(f32::from_bits(*b))).collect();
    assert_eq!(x, shown);
    assert_ne!(y, bits(&map));
    assert!(optimizer.backward_step(&loss(&map)?).is_err());
    optimizer.train_point()?;
    assert_eq!(y, bits(&map));
    optimizer.backward_step(&loss(&map)?)?;
    Ok(())
}

#[test]
fn variance_reduction_takes_previous_gradients() -> Outcome {
    let map = variables()?;
    let algorithm = Algorithm::lmo(Estimator::Mvr { alpha: 0.1 }, Norm::Frobenius);
    let groups = [Group::new("all", algorithm).lr(0.01).params(["*"])];
    let mut optimizer = CandleOptimizer::from_varmap(&map, groups, StepOptions::default())?;
    let first = loss(&map)?.backward()?;
    optimizer.apply(&first)?;
    let second = loss(&map)?.backward()?;
    let error = optimizer.apply(&second).expect_err("no previous gradient").to_string();
    assert!(error.contains("previous"), "{error}");
    assert!(optimizer.apply_with_previous(&second, &first)?.applied);
    Ok(())
}
