//! Where tensors lie, and that they do not lie on each other.

use std::collections::HashMap;

use super::builder::Parameter;
use crate::device_tensor::DeviceTensor;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor};

/// A tensor in host memory or on a card.
#[derive(Debug, Clone)]
pub enum AnyTensor {
    /// Shared storage of this process. On a card, steps copy it there and back.
    Host(Tensor),
    /// Memory of a card.
    Device(DeviceTensor),
}

impl From<Tensor> for AnyTensor {
    fn from(tensor: Tensor) -> Self {
        Self::Host(tensor)
    }
}

impl From<DeviceTensor> for AnyTensor {
    fn from(tensor: DeviceTensor) -> Self {
        Self::Device(tensor)
    }
}

impl AnyTensor {
    /// Element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Host(tensor) => tensor.dtype(),
            Self::Device(tensor) => tensor.dtype(),
        }
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Host(tensor) => tensor.shape(),
            Self::Device(tensor) => tensor.shape(),
        }
    }

    /// The tensor, if it lies in host memory.
    pub fn host(&self) -> Option<&Tensor> {
        match self {
            Self::Host(tensor) => Some(tensor),
            Self::Device(_) => None,
        }
    }

    /// A space of addresses, and the ranges of it that the elements take, sorted: elements of a storage, or bytes of a card.
    fn places(&self) -> (usize, Vec<std::ops::Range<u64>>) {
        match self {
            Self::Host(tensor) => {
                let runs = tensor.runs().into_iter();
                (tensor.storage_id(), runs.map(|run| run.start as u64..run.end as u64).collect())
            }
            Self::Device(tensor) => (0, tensor.runs()),
        }
    }
}

/// No element may belong to two parameters.
pub(super) fn check_parameters_apart(parameters: &[Parameter]) -> Result<()> {
    let mut by_space: HashMap<usize, Vec<(std::ops::Range<u64>, &Parameter)>> = HashMap::new();
    for parameter in parameters {
        let (space, runs) = parameter.data.places();
        by_space.entry(space).or_default().extend(runs.into_iter().map(|run| (run, parameter)));
    }
    for runs in by_space.values_mut() {
        runs.sort_by_key(|(run, _)| run.start);
        if let Some([(_, before), (run, other)]) = runs.windows(2).find(|w| w[1].0.start < w[0].0.end) {
            let whom = if before.name == other.name {
                "itself".into()
            } else {
                format!("parameter `{}`", other.name)
            };
            let what = if before.data.host().is_some() { "storage element" } else { "the byte at address" };
            return Err(Error::parameter(
                &before.name,
                format!("it shares {what} {} with {whom}", run.start),
            ));
        }
    }
    Ok(())
}

/// Gradients may not live where parameters do: in their storage, or in their bytes of a card.
pub(super) fn check_gradients_apart(parameters: &[Parameter]) -> Result<()> {
    let mut owners: HashMap<usize, &Parameter> = HashMap::new();
    let mut bytes: Vec<(std::ops::Range<u64>, &Parameter)> = vec![];
    for parameter in parameters {
        match &parameter.data {
            AnyTensor::Host(tensor) => drop(owners.entry(tensor.storage_id()).or_insert(parameter)),
            AnyTensor::Device(tensor) => bytes.extend(tensor.runs().into_iter().map(|run| (run, parameter))),
        }
    }
    bytes.sort_by_key(|(run, _)| run.start);
    check_sums_apart(parameters)?;
    for parameter in parameters {
        if let (Some(grad), Some(micro)) = (&parameter.grad, &parameter.micro_grad)
            && overlap(grad, micro)
        {
            let reason = "its micro-batch's gradient lies in its gradient, which it is added to";
            return Err(Error::parameter(&parameter.name, reason));
        }
        for grad in parameter.grad.iter().chain(&parameter.prev_grad).chain(&parameter.micro_grad) {
            let owner = match grad {
                AnyTensor::Host(tensor) => owners.get(&tensor.storage_id()).copied(),
                AnyTensor::Device(tensor) => tensor.runs().iter().find_map(|run| {
                    // Parameters' runs do not overlap, so the last one that begins before the end decides.
                    let after = bytes.partition_point(|(other, _)| other.start < run.end);
                    let (other, owner) = bytes.get(after.checked_sub(1)?)?;
                    (other.end > run.start).then_some(*owner)
                }),
            };
            if let Some(owner) = owner {
                return Err(Error::parameter(
                    &parameter.name,
                    format!(
                        "its gradient lies in the storage of parameter `{}`; gradients need storage of their own",
                        owner.name
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// On a card all micro-batches are added at once: no sum may lie on another, or on what is added to it.
fn check_sums_apart(parameters: &[Parameter]) -> Result<()> {
    let mut runs: Vec<(std::ops::Range<u64>, bool, &Parameter)> = vec![];
    for parameter in parameters {
        if let (Some(AnyTensor::Device(sum)), Some(AnyTensor::Device(addend))) =
            (&parameter.grad, &parameter.micro_grad)
        {
            runs.extend(sum.runs().into_iter().map(|run| (run, true, parameter)));
            runs.extend(addend.runs().into_iter().map(|run| (run, false, parameter)));
        }
    }
    runs.sort_by_key(|(run, ..)| run.start);
    // The run that reaches furthest so far, of sums and of addends: one before may reach over the next.
    let mut furthest: [Option<(u64, &Parameter)>; 2] = [None, None];
    for (run, is_sum, parameter) in &runs {
        let others = if *is_sum { &furthest[..] } else { &furthest[1..] };
        if let Some((_, other)) = others.iter().flatten().find(|(end, _)| *end > run.start) {
            let reason = format!("its sum of micro-batches and that of `{}` share memory", other.name);
            return Err(Error::parameter(&parameter.name, reason));
        }
        let mine = &mut furthest[usize::from(*is_sum)];
        if mine.is_none_or(|(end, _)| end < run.end) {
            *mine = Some((run.end, parameter));
        }
    }
    Ok(())
}

fn overlap(a: &AnyTensor, b: &AnyTensor) -> bool {
    let ((space, mut runs), (other, more)) = (a.places(), b.places());
    if a.host().is_some() != b.host().is_some() || space != other {
        return false;
    }
    runs.extend(more);
    runs.sort_by_key(|run| run.start);
    runs.windows(2).any(|w| w[1].start < w[0].end)
}
