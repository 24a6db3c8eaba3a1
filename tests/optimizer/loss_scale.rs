//! The loss scale: what the training loop multiplied the gradients with, a step divides out.

use orthant::algorithm::{Estimator, Norm, NsDtype, Slot};
use orthant::config::Config;
use orthant::{Algorithm, Device, Dtype, Error, Group, NonFinite, Optimizer, Parameter, StepOptions, Tensor};

use super::{as_dtype, floats, group, random};

const SHAPES: [&[usize]; 2] = [&[7, 150], &[24, 10]];

/// Everything that three steps leave: the reports' norms, parameters and state.
fn run(
    group: &Group,
    dtype: Dtype,
    max_grad_norm: Option<f64>,
    loss_scale: f64,
    factor: f32,
) -> (Vec<Option<f64>>, Vec<Vec<f64>>) {
    let previous = group.algorithm().needs_previous_gradient();
    let tensors: Vec<[Tensor; 3]> = SHAPES
        .iter()
        .map(|shape| [1, 2, 3].map(|_| as_dtype(&vec![0.0; shape.iter().product()], dtype, shape)))
        .collect();
    let parameters = tensors.iter().enumerate().map(|(i, [x, g, p])| {
        x.assign(&as_dtype(&random(SHAPES[i], i as u64), dtype, SHAPES[i]).to_storage()).unwrap();
        let parameter = Parameter::new(format!("w{i}"), x.clone()).grad(g.clone());
        if previous { parameter.prev_grad(p.clone()) } else { parameter }
    });
    let options = StepOptions { max_grad_norm, loss_scale, ..StepOptions::default() };
    let mut optimizer = Optimizer::builder(Device::Cpu)
        .group(group.clone())
        .options(options)
        .register(parameters.collect::<Vec<_>>())
        .unwrap();
    let mut norms = vec![];
    for step in 0..3 {
        for (i, [_, g, p]) in tensors.iter().enumerate() {
            for (tensor, seed) in [(g, 10), (p, 20)] {
                let values = random(SHAPES[i], seed + step + 100 * i as u64);
                let rounded = floats(&as_dtype(&values, dtype, SHAPES[i]));
                let scaled: Vec<f32> = rounded.iter().map(|v| v * factor).collect();
                tensor.assign(&as_dtype(&scaled, dtype, SHAPES[i]).to_storage()).unwrap();
            }
        }
        norms.push(optimizer.step().unwrap().grad_norm);
    }
    let mut out: Vec<Vec<f64>> = tensors.iter().map(|[x, ..]| x.to_vec_f64()).collect();
    for name in ["w0", "w1"] {
        let slots = [Slot::Momentum, Slot::Variance, Slot::VarianceMax, Slot::Point];
        out.extend(slots.iter().filter_map(|slot| optimizer.state(name, *slot).unwrap()));
    }
    (norms, out)
}

/// Powers of two, so that dividing the scale out again is exact.
#[test]
fn scaled_gradients_with_their_scale_have_the_bits_of_unscaled_ones() {
    let mut all = super::all();
    all.push(Algorithm::lmo(Estimator::Mvr { alpha: 0.2 }, Norm::Sign));
    all.push(Algorithm::lmo(Estimator::Mvr { alpha: 0.2 }, Norm::Frobenius));
    all.push(Algorithm::muon().ns_dtype(NsDtype::F32).eps(1e-3));
    for algorithm in all {
        let name = algorithm.composition();
        for (dtype, maximize) in
            [(Dtype::F32, false), (Dtype::F32, true), (Dtype::Bf16, false), (Dtype::F64, false)]
        {
            let group = group(algorithm.clone()).maximize(maximize);
            // The norm is about 36: the first clips, the second does not.
            for max in [None, Some(0.7), Some(1e3)] {
                let plain = run(&group, dtype, max, 1.0, 1.0);
                assert_eq!(plain.0.iter().all(Option::is_some), max.is_some());
                for scale in [1024.0f32, 1.0 / 4096.0] {
                    let scaled = run(&group, dtype, max, scale.into(), scale);
                    assert_eq!(scaled, plain, "{name}, {dtype}, clipped to {max:?}, scale {scale}");
                }
            }
        }
    }
}

#[test]
fn the_factor_is_one_division_rounded_once() {
    let g = random(&[40], 5);
    for (scale, maximize) in [(3.0, false), (1e30, true), (0.7, false)] {
        let data = Tensor::from_vec(vec![0.0f32; 40], &[40]).unwrap();
        let group = Group::new("g", Algorithm::sgd()).lr(1.0).params(["*"]).maximize(maximize);
        let mut optimizer = Optimizer::builder(Device::Cpu)
            .group(group)
            .options(StepOptions { loss_scale: scale, ..StepOptions::default() })
            .register([Parameter::new("w", data.clone()).grad(Tensor::from_vec(g.clone(), &[40]).unwrap())])
            .unwrap();
        optimizer.step().unwrap();
        let factor = if maximize { -1.0 / scale } else { 1.0 / scale } as f32;
        let expected: Vec<f32> = g.iter().map(|g| 0.0 - g * factor).collect();
        assert_eq!(data.to_vec::<f32>().unwrap(), expected, "{scale}");
    }
}

fn one(algorithm: Algorithm, grad: &Tensor, options: StepOptions) -> Optimizer {
    let data = Tensor::from_vec(vec![1.0f32; 4], &[4]).unwrap();
    Optimizer::builder(Device::Cpu)
        .group(Group::new("g", algorithm).lr(0.5).weight_decay(0.0).params(["*"]))
        .options(options)
        .register([Parameter::new("w", data).grad(grad.clone())])
        .unwrap()
}

#[test]
fn the_scale_can_change_between_steps_and_illegal_ones_change_nothing() {
    let grad = Tensor::from_vec(vec![8.0f32; 4], &[4]).unwrap();
    let mut optimizer = one(Algorithm::sgd(), &grad, StepOptions::default());
    let shown = |optimizer: &Optimizer| optimizer.parameters().next().unwrap().1.to_vec_f64()[0];
    assert_eq!(optimizer.loss_scale(), 1.0);
    optimizer.set_loss_scale(8.0).unwrap();
    optimizer.step().unwrap();
    assert_eq!(shown(&optimizer), 0.5);
    optimizer.set_loss_scale(16.0).unwrap();
    optimizer.step().unwrap();
    assert_eq!(shown(&optimizer), 0.25);
    for bad in [0.0, -1.0, 1e-31, 1e31, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let message = optimizer.set_loss_scale(bad).unwrap_err().to_string();
        assert!(message.contains(&format!("loss_scale = {bad}")), "{message}");
        assert_eq!(optimizer.loss_scale(), 16.0);
        let options = StepOptions { loss_scale: bad, ..StepOptions::default() };
        let group = Group::new("g", Algorithm::sgd()).lr(0.5).params(["*"]);
        let data = Tensor::from_vec(vec![1.0f32; 4], &[4]).unwrap();
        let refused = Optimizer::builder(Device::Cpu).group(group).options(options);
        let message = refused.register([Parameter::new("w", data)]).unwrap_err().to_string();
        assert!(message.contains("loss_scale"), "{message}");
    }
    for good in [1e-30, 1e30] {
        optimizer.set_loss_scale(good).unwrap();
    }
}

#[test]
fn configurations_give_the_scale() {
    let parse = |step: &str| {
        let text = format!("{step}\n[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n");
        Config::parse(&text).unwrap().options.loss_scale
    };
    assert_eq!(parse("[step]\nloss_scale = 1024"), 1024.0);
    assert_eq!(parse("[step]\nloss_scale = 1e-30"), 1e-30);
    assert_eq!(parse(""), 1.0);
}

#[test]
fn limits_are_those_of_unscaled_gradients_and_finiteness_of_the_gradients_as_they_are() {
    // AdamW squares what it gets: 2e19 is too much for f32, a thousandth of it is not.
    let grad = Tensor::from_vec(vec![2e19f32; 4], &[4]).unwrap();
    let mut optimizer = one(Algorithm::adamw(), &grad, StepOptions::default());
    assert!(matches!(optimizer.step(), Err(Error::GradientOverflow { .. })));
    optimizer.set_loss_scale(1024.0).unwrap();
    optimizer.step().unwrap();
    optimizer.set_loss_scale(1e-30).unwrap();
    let Err(Error::GradientOverflow { value, .. }) = optimizer.step() else { panic!("2e49 was taken") };
    assert!((value / 2e49 - 1.0).abs() < 1e-6, "{value:e}");
    // An infinity stays one whatever is divided out.
    grad.copy_from_slice(&[1.0, f32::INFINITY, 1.0, 1.0]).unwrap();
    optimizer.set_loss_scale(1e30).unwrap();
    assert!(matches!(optimizer.step(), Err(Error::NonFiniteGradient { .. })));
}

#[test]
fn a_norm_beyond_f64_is_refused_and_not_clipped_to_nothing() {
    let grad = Tensor::from_vec(vec![1e290f64; 4], &[4]).unwrap();
    let data = Tensor::from_vec(vec![1.0f64; 4], &[4]).unwrap();
    let options = StepOptions {
        max_grad_norm: Some(1.0),
        loss_scale: 1e-30,
        nonfinite: NonFinite::Error,
        ..StepOptions::default()
    };
    let mut optimizer = Optimizer::builder(Device::Cpu)
        .group(Group::new("g", Algorithm::sgd()).lr(0.5).params(["*"]))
        .options(options)
        .register([Parameter::new("w", data.clone()).grad(grad)])
        .unwrap();
    assert!(optimizer.step().unwrap_err().to_string().contains("beyond the range of f64"));
    assert_eq!(data.to_vec_f64(), [1.0; 4]);
}
