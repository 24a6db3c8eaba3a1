//! Compact masters beside f32 masters: the same numbers in two bytes less.

use half::bf16;
use orthant::algorithm::{Estimator, Norm, Slot};
use orthant::reference::compact::{join, split};
use orthant::{
    Algorithm, Device, Dtype, Error, Group, Master, Optimizer, Parameter, ParameterSpec, Plan, Precision,
    Rounding, StateDtype, Tensor,
};

use super::{Random, random};

/// The masters, however they are kept.
fn masters(optimizer: &Optimizer, data: &Tensor) -> Vec<u32> {
    if let Some(full) = optimizer.state("w", Slot::Master).unwrap() {
        assert_eq!(optimizer.state("w", Slot::Low).unwrap(), None);
        return full.iter().map(|v| (*v as f32).to_bits()).collect();
    }
    let low = optimizer.state("w", Slot::Low).unwrap().expect("a compact master");
    let high = data.to_vec::<bf16>().unwrap();
    high.iter().zip(low).map(|(h, l)| join(*h, l as i16).to_bits()).collect()
}

fn bits(state: Option<Vec<f64>>) -> Option<Vec<u64>> {
    state.map(|values| values.iter().map(|v| v.to_bits()).collect())
}

/// Runs both kinds of master over the same gradients and compares after every step. `strided` takes every second
/// column of a wider buffer.
fn compare(group: Group, shape: [usize; 2], steps: u64, strided: bool) {
    let [rows, columns] = shape;
    let n = rows * columns;
    let name = group.algorithm().composition();
    // Parameters of many sizes, so that updates below and above their last place occur.
    let sizes = [1e-39f32, 1e-6, 0.01, 1.0, 1.0, 300.0];
    let start = random(&shape, 1).into_iter().zip(sizes.iter().cycle()).map(|(v, s)| v * s);
    let start: Vec<bf16> = start.map(bf16::from_f32).collect();
    let grad = Tensor::zeros(Dtype::F32, &shape).unwrap();
    let mut runs: Vec<(Tensor, Optimizer)> = [Master::F32, Master::Compact]
        .into_iter()
        .map(|master| {
            let data = match strided {
                false => Tensor::zeros(Dtype::Bf16, &shape).unwrap(),
                true => {
                    let wide = Tensor::zeros(Dtype::Bf16, &[rows, 2 * columns]).unwrap();
                    wide.view(1, &shape, &[2 * columns, 2]).unwrap()
                }
            };
            data.copy_from_slice(&start).unwrap();
            let parameter = Parameter::new("w", data.clone()).grad(grad.clone());
            let group = group.clone().master(master);
            let optimizer = Optimizer::builder(Device::Cpu).group(group).register([parameter]).unwrap();
            (data, optimizer)
        })
        .collect();
    let bytes: Vec<usize> = runs.iter().map(|(_, o)| o.plan().state_bytes()).collect();
    assert_eq!(bytes[0] - bytes[1], 2 * n, "{name}");
    let before = masters(&runs[1].1, &runs[1].0);
    assert_eq!(before, start.iter().map(|h| h.to_f32().to_bits()).collect::<Vec<_>>(), "{name}");
    let mut ties = 0;
    for step in 1..=steps {
        grad.copy_from_slice(&random(&shape, 100 + step)).unwrap();
        runs.iter_mut().for_each(|(_, optimizer)| drop(optimizer.step().unwrap()));
        let [(full_data, full), (compact_data, compact)] = &runs[..] else { panic!("two runs") };
        let wide = masters(full, full_data);
        assert!(wide == masters(compact, compact_data), "{name}: masters at step {step}");
        for slot in [Slot::Momentum, Slot::Variance, Slot::VarianceMax] {
            let (a, b) = (bits(full.state("w", slot).unwrap()), bits(compact.state("w", slot).unwrap()));
            assert!(a == b, "{name}: {} at step {step}", slot.name());
        }
        // What is shown is the rounding of the master, and differs from the other one in ties alone.
        let shown =
            full_data.to_vec::<bf16>().unwrap().into_iter().zip(compact_data.to_vec::<bf16>().unwrap());
        for (master, (even, away)) in wide.iter().zip(shown) {
            assert_eq!(away.to_bits(), split(f32::from_bits(*master)).0.to_bits());
            assert!(even == away || master & 0xffff == 0x8000, "{name}: {even} and {away} of {master:#x}");
            ties += usize::from(even != away);
        }
    }
    assert_ne!(before, masters(&runs[1].1, &runs[1].0), "{name} moved nothing");
    println!("{name}: {ties} ties");
}

fn group(algorithm: Algorithm) -> Group {
    Group::new("g", algorithm).lr(1e-3).weight_decay(0.1).params(["*"])
}

#[test]
fn a_compact_master_has_the_values_of_an_f32_master() {
    for algorithm in [
        Algorithm::lion(),
        Algorithm::adamw(),
        Algorithm::sgd().momentum(0.9),
        Algorithm::adagrad(),
        Algorithm::lmo(Estimator::None, Norm::Sign),
    ] {
        compare(group(algorithm), [31, 70], 200, false);
    }
    for algorithm in [Algorithm::muon(), Algorithm::nsgd()] {
        compare(group(algorithm), [31, 70], 40, false);
    }
}

#[test]
fn tasks_strides_and_sixteen_bit_state_make_no_difference() {
    compare(group(Algorithm::adamw()), [300, 501], 5, false);
    for algorithm in [Algorithm::adamw(), Algorithm::nsgd()] {
        compare(group(algorithm.clone()), [31, 70], 20, true);
        let narrow = group(algorithm).state_dtype(StateDtype::Bf16);
        compare(narrow.clone(), [31, 70], 20, false);
        compare(narrow.rounding(Rounding::Stochastic), [31, 70], 20, false);
    }
}

/// Beyond the largest bf16 the parameter shows an infinity and the master goes on; NaN stays NaN.
#[test]
fn masters_at_the_ends_of_the_range() {
    let step = |x: bf16, g: f32| {
        let data = Tensor::from_vec(vec![x], &[1]).unwrap();
        let grad = Tensor::from_vec(vec![g], &[1]).unwrap();
        let group = Group::new("g", Algorithm::sgd()).lr(1.0).params(["*"]).master(Master::Compact);
        let parameter = Parameter::new("w", data.clone()).grad(grad.clone());
        let mut optimizer = Optimizer::builder(Device::Cpu)
            .group(group)
            .nonfinite(orthant::NonFinite::Propagate)
            .register([parameter])
            .unwrap();
        optimizer.step().unwrap();
        let first = (data.to_vec::<bf16>().unwrap()[0], f32::from_bits(masters(&optimizer, &data)[0]));
        grad.copy_from_slice(&[-g]).unwrap();
        optimizer.step().unwrap();
        (first, f32::from_bits(masters(&optimizer, &data)[0]))
    };
    // 2^127 + 2^127 - 2^103: nearer to 2^128 than to any finite bf16.
    let ((shown, master), back) = step(bf16::from_f32(2f32.powi(127)), -(2f32.powi(127) - 2f32.powi(104)));
    assert_eq!((shown, master), (bf16::INFINITY, f32::MAX));
    assert_eq!(back, 2f32.powi(127));
    let ((shown, master), back) = step(bf16::ONE, f32::NAN);
    assert!(shown.is_nan() && master.is_nan() && back.is_nan());
    assert_eq!(shown.to_bits() & 0x7fff, 0x7fc0);
}

#[test]
fn overflow_limits_do_not_read_hidden_digits_as_numbers() {
    // The bit pattern of this low word is a bf16 beyond 1e38.
    let low = 0x7f00u16;
    let data = Tensor::from_vec(vec![bf16::ONE; 2], &[2]).unwrap();
    let g = join(bf16::ONE, 0) - join(bf16::ONE, low as i16);
    let grad = Tensor::from_vec(vec![g; 2], &[2]).unwrap();
    let adagrad = Algorithm::adagrad().initial_accumulator_value(1.0).eps(0.0);
    let group = Group::new("g", adagrad).lr(1.0).params(["*"]).master(Master::Compact);
    let mut optimizer = Optimizer::builder(Device::Cpu)
        .group(group)
        .register([Parameter::new("w", data).grad(grad.clone())])
        .unwrap();
    optimizer.step().unwrap();
    let words = optimizer.state("w", Slot::Low).unwrap().unwrap();
    assert!(words.iter().all(|w| bf16::from_bits(*w as i16 as u16).to_f32() > 1e36), "{words:?}");
    grad.copy_from_slice(&[1.8e19f32; 2]).unwrap();
    optimizer.step().expect("1.8e19 squared fits beside 1");
}

#[test]
fn only_bf16_parameters_in_f32_arithmetic_have_one() {
    let plan = |dtype, precision, algorithm: Algorithm, rounding| {
        let spec = ParameterSpec { name: "some.weight".into(), shape: vec![4, 6], dtype, grad_dtype: None };
        let group = group(algorithm).master(Master::Compact).rounding(rounding);
        Plan::new(vec![group], vec![spec], precision)
    };
    for dtype in [Dtype::F16, Dtype::F32, Dtype::F64] {
        let refused = plan(dtype, None, Algorithm::lion(), Rounding::Nearest);
        let Err(Error::Parameter { parameter, reason }) = refused else { panic!("{dtype} was taken") };
        assert_eq!(parameter, "some.weight");
        assert!(reason.contains("compact master") && reason.contains(dtype.name()), "{reason}");
    }
    let refused = plan(Dtype::Bf16, Some(Precision::F64), Algorithm::lion(), Rounding::Nearest);
    assert!(refused.unwrap_err().to_string().contains("precision f64"));
    // There is nothing left to round stochastically.
    assert!(plan(Dtype::Bf16, None, Algorithm::lion(), Rounding::Stochastic).is_err());
    let lion = plan(Dtype::Bf16, None, Algorithm::lion(), Rounding::Nearest).unwrap();
    let slots: Vec<Slot> = lion.parameters[0].slots.iter().map(|(slot, _)| *slot).collect();
    assert_eq!((slots, lion.state_bytes()), (vec![Slot::Momentum, Slot::Low], 24 * (4 + 2) + 8));
    assert_eq!(lion.warnings, [""; 0]);
    // The extrapolated methods keep x in f32 anyway.
    let extrapolated = Algorithm::lmo(Estimator::Extrapolated { alpha: 0.2 }, Norm::Sign);
    let extrapolated = plan(Dtype::Bf16, None, extrapolated, Rounding::Nearest).unwrap();
    let slots: Vec<Slot> = extrapolated.parameters[0].slots.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots, [Slot::Momentum, Slot::Point]);
}

/// A parameter assigned between steps takes its master along.
#[test]
fn hidden_digits_stay_below_an_assigned_parameter() {
    let data = Tensor::from_vec(vec![bf16::ONE; 4], &[4]).unwrap();
    let grad = Tensor::from_vec(Random(3).normals(4).iter().map(|v| *v as f32).collect(), &[4]).unwrap();
    let group = Group::new("g", Algorithm::sgd()).lr(1e-4).params(["*"]).master(Master::Compact);
    let mut optimizer = Optimizer::builder(Device::Cpu)
        .group(group)
        .register([Parameter::new("w", data.clone()).grad(grad)])
        .unwrap();
    optimizer.step().unwrap();
    let low = optimizer.state("w", Slot::Low).unwrap().unwrap();
    data.copy_from_slice(&[bf16::from_f32(-4.0); 4]).unwrap();
    let expected: Vec<u32> = low.iter().map(|l| join(bf16::from_f32(-4.0), *l as i16).to_bits()).collect();
    assert_eq!(masters(&optimizer, &data), expected);
}
