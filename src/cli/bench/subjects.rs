//! What is measured: kernels with the types of their buffers.

use orthant::Dtype::{self, Bf16, F32};
use orthant::algorithm::{Constraint, Estimator, Norm};
use orthant::{Algorithm, Group, Master, NonFinite, ParameterSpec, Plan, StateDtype, StepOptions};

/// A row without its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Subject {
    pub kernel: &'static str,
    pub param: Dtype,
    pub grad: Dtype,
    /// None: it keeps none.
    pub state: Option<Dtype>,
    /// Whether an f32 copy of the parameter is kept.
    pub master: bool,
    /// Gradients of micro-batches, which are what is added up instead of a step.
    pub micro: Option<Dtype>,
}

const fn subject(kernel: &'static str, param: Dtype, grad: Dtype, state: Option<Dtype>) -> Subject {
    Subject { kernel, param, grad, state, master: false, micro: None }
}

pub const SUBJECTS: [Subject; 17] = [
    subject("sign-sgd", Bf16, Bf16, None),
    subject("signum", Bf16, Bf16, Some(Bf16)),
    subject("lion", Bf16, Bf16, Some(Bf16)),
    subject("lion", Bf16, Bf16, Some(F32)),
    Subject { master: true, ..subject("lion", Bf16, Bf16, Some(F32)) },
    subject("lion", F32, F32, Some(F32)),
    subject("sgd", Bf16, Bf16, Some(Bf16)),
    subject("adamw", Bf16, Bf16, Some(Bf16)),
    subject("adamw", Bf16, Bf16, Some(F32)),
    Subject { master: true, ..subject("adamw", Bf16, Bf16, Some(F32)) },
    subject("adagrad", Bf16, Bf16, Some(F32)),
    subject("nsgd", Bf16, Bf16, Some(Bf16)),
    subject("extrapolated", Bf16, Bf16, Some(F32)),
    subject("mvr", Bf16, F32, Some(F32)),
    // All gradients looked at, and nothing done: one of them is not finite, and such steps are skipped.
    subject("scan", Bf16, Bf16, None),
    // Lion's whole step with the scan and the norm before it.
    subject("clip", Bf16, Bf16, Some(Bf16)),
    Subject { micro: Some(Bf16), ..subject("accumulate", Bf16, F32, None) },
];

impl Subject {
    pub fn group(&self) -> Group {
        let sign = |estimator| Algorithm::lmo(estimator, Norm::Sign).constraint(Constraint::None);
        let algorithm = match self.kernel {
            "sign-sgd" | "scan" | "accumulate" => Algorithm::sign_sgd(),
            "signum" => Algorithm::signum(),
            "sgd" => Algorithm::sgd().momentum(0.9),
            "adamw" => Algorithm::adamw(),
            "adagrad" => Algorithm::adagrad(),
            "nsgd" => Algorithm::nsgd(),
            "extrapolated" => sign(Estimator::Extrapolated { alpha: 0.1 }),
            "mvr" => sign(Estimator::Mvr { alpha: 0.1 }),
            _ => Algorithm::lion(),
        };
        let state = if self.state == Some(Bf16) { StateDtype::Bf16 } else { StateDtype::Full };
        let master = if self.master { Master::F32 } else { Master::None };
        Group::new("all", algorithm).lr(1e-4).params(["*"]).state_dtype(state).master(master)
    }

    pub fn options(&self) -> StepOptions {
        let mut options = StepOptions { nonfinite: NonFinite::Propagate, ..StepOptions::default() };
        if self.is_refused() {
            options.nonfinite = NonFinite::Skip;
        }
        if self.kernel == "clip" {
            options.nonfinite = NonFinite::Error;
            options.max_grad_norm = Some(1.0);
        }
        options
    }

    /// Whether a gradient is to be not finite.
    pub fn is_refused(&self) -> bool {
        self.kernel == "scan"
    }

    /// So many elements in so many tensors, which differ by one element at most.
    pub fn plan(&self, lengths: &[usize]) -> orthant::Result<Plan> {
        let spec = |(i, n): (usize, &usize)| ParameterSpec {
            name: format!("p{i}"),
            shape: vec![*n],
            dtype: self.param,
            grad_dtype: Some(self.grad),
        };
        Plan::new(vec![self.group()], lengths.iter().enumerate().map(spec).collect(), None)
    }

    /// Bytes that have to be moved: what the planner counts for a step. Of a step that is skipped only its look at the
    /// gradients is left; adding up reads both and writes one.
    pub fn bytes(&self, lengths: &[usize]) -> orthant::Result<u64> {
        let elements = lengths.iter().sum::<usize>() as u64;
        if let Some(micro) = self.micro {
            return Ok((2 * self.grad.size() + micro.size()) as u64 * elements);
        }
        if self.is_refused() {
            return Ok(self.grad.size() as u64 * elements);
        }
        Ok(self.plan(lengths)?.step_bytes(&self.options()))
    }
}

/// Stands for all of them.
pub const ALL: &str = "elementwise";

/// Those with these kernels.
pub fn select(kernels: &[&str]) -> Vec<Subject> {
    let wanted = |s: &&Subject| kernels.iter().any(|k| *k == s.kernel || *k == ALL);
    SUBJECTS.iter().filter(wanted).copied().collect()
}

/// Their names.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = SUBJECTS.iter().map(|s| s.kernel).collect();
    names.dedup();
    names
}

/// The lengths of `tensors` tensors with `elements` elements together.
pub fn lengths(elements: usize, tensors: usize) -> Vec<usize> {
    (0..tensors).map(|i| elements / tensors + usize::from(i < elements % tensors)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planner_counts_the_bytes_of_every_row() {
        let bytes: Vec<u64> = SUBJECTS.iter().map(|s| s.bytes(&[10, 1]).expect("legal") / 11).collect();
        assert_eq!(bytes, [6, 10, 10, 14, 20, 20, 10, 14, 22, 28, 14, 14, 20, 20, 2, 12, 10]);
    }

    #[test]
    fn lengths_add_up() {
        assert_eq!(lengths(10, 3), [4, 3, 3]);
        assert_eq!(lengths(2, 4), [1, 1, 0, 0]);
    }
}
