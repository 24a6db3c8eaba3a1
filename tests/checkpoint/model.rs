//! Small models with deterministic gradients.

use half::{bf16, f16};
use orthant::algorithm::Slot;
use orthant::{Device, Dtype, Element, Group, NonFinite, Optimizer, Parameter, Storage, Tensor};
use tempfile::TempDir;

/// In memory where the system has such a folder: these tests write thousands of files.
pub fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a temporary folder")
}

pub fn tensor(dtype: Dtype, shape: &[usize], value: impl Fn(usize) -> f64) -> Tensor {
    fn vector<E: Element>(count: usize, value: impl Fn(usize) -> f64) -> Vec<E> {
        (0..count).map(|i| E::from_f64(value(i))).collect()
    }
    let count = shape.iter().product();
    let storage = match dtype {
        Dtype::F64 => Storage::F64(vector(count, value)),
        Dtype::F32 => Storage::F32(vector(count, value)),
        Dtype::Bf16 => Storage::Bf16(vector::<bf16>(count, value)),
        Dtype::F16 => Storage::F16(vector::<f16>(count, value)),
    };
    Tensor::from_storage(storage, shape).expect("a tensor")
}

pub const ALL_SLOTS: [Slot; 6] =
    [Slot::Momentum, Slot::Variance, Slot::VarianceMax, Slot::Point, Slot::Master, Slot::Low];

/// In (-1, 1), of full rank as a matrix (a plain sine has rank 2).
pub fn noise(seed: f64) -> impl Fn(usize) -> f64 {
    move |i| {
        let x = ((i as f64 + 1.0) * 12.9898 + seed * 78.233).sin() * 43758.5453;
        2.0 * (x - x.floor()) - 1.0
    }
}

/// An optimizer for parameters given as (name, group, dtype, shape), one group each.
pub fn optimizer(parameters: &[(&str, Group, Dtype, &[usize])], policy: NonFinite) -> Optimizer {
    let groups = parameters.iter().map(|(name, group, ..)| group.clone().params([*name]));
    let registered = parameters.iter().map(|(name, _, dtype, shape)| {
        Parameter::new(*name, tensor(*dtype, shape, noise(1.0))).grad(tensor(Dtype::F32, shape, noise(2.0)))
    });
    Optimizer::builder(Device::Cpu)
        .groups(groups)
        .nonfinite(policy)
        .register(registered)
        .expect("it registers")
}

/// Every bit of parameters and state, in f64 (which holds every other type exactly).
pub fn bits(optimizer: &Optimizer) -> Vec<(String, Vec<u64>)> {
    let as_bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect();
    let mut out = vec![];
    for (name, data) in optimizer.parameters() {
        out.push((name.to_owned(), as_bits(data.to_vec_f64())));
        for slot in ALL_SLOTS {
            out.extend(
                optimizer.state(name, slot).unwrap().map(|v| (format!("{name}.{}", slot.name()), as_bits(v))),
            );
        }
        out.push((format!("{name}: steps"), optimizer.step_count(name).unwrap().into_iter().collect()));
    }
    out
}
