//! Registration: parameters and groups in, an [`Optimizer`] with all its state out, or nothing.

use std::collections::HashMap;

use super::{NonFinite, Optimizer, StepOptions};
use crate::algorithm::{Algorithm, Rule, Slot};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::plan::{ParameterSpec, Plan, PlannedParameter, Precision};
use crate::reference::State;
use crate::reference::newton_schulz::Orthogonaliser;
use crate::tensor::{Dtype, Element, Storage, Tensor, with_elements};

/// A parameter with its gradient, as the training loop hands it over. Tensors are shared, not copied.
#[derive(Debug, Clone)]
pub struct Parameter {
    pub(super) name: String,
    pub(super) data: Tensor,
    pub(super) grad: Option<Tensor>,
    pub(super) prev_grad: Option<Tensor>,
}

impl Parameter {
    /// A parameter without a gradient: left alone until one is bound.
    pub fn new(name: impl Into<String>, data: Tensor) -> Self {
        Self { name: name.into(), data, grad: None, prev_grad: None }
    }

    /// Where the training loop writes the gradient. Read-only to the optimizer.
    #[must_use]
    pub fn grad(mut self, grad: Tensor) -> Self {
        self.grad = Some(grad);
        self
    }

    /// Where the training loop writes the gradient at the previous point on the current sample (variance reduction).
    #[must_use]
    pub fn prev_grad(mut self, prev_grad: Tensor) -> Self {
        self.prev_grad = Some(prev_grad);
        self
    }
}

/// Collects groups and options; [`register`](Self::register) makes the optimizer.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) device: Device,
    pub(super) groups: Vec<Group>,
    pub(super) options: StepOptions,
    pub(super) precision: Option<Precision>,
}

impl Builder {
    /// Adds a group. Order matters: the first that matches a parameter owns it.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Adds groups in order.
    #[must_use]
    pub fn groups(mut self, groups: impl IntoIterator<Item = Group>) -> Self {
        self.groups.extend(groups);
        self
    }

    /// Options of every step.
    #[must_use]
    pub fn options(mut self, options: StepOptions) -> Self {
        self.options = options;
        self
    }

    /// Global-norm clipping.
    #[must_use]
    pub fn max_grad_norm(mut self, max: f64) -> Self {
        self.options.max_grad_norm = Some(max);
        self
    }

    /// Policy for non-finite gradients.
    #[must_use]
    pub fn nonfinite(mut self, policy: NonFinite) -> Self {
        self.options.nonfinite = policy;
        self
    }

    /// Compute type. Without it: f64 when any parameter is stored in f64, else f32.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// Checks everything, routes every parameter to its group and allocates all state.
    ///
    /// # Errors
    /// Illegal hyperparameters, routing that does not work out, parameters that share elements, gradients whose shape
    /// differs or that share storage with a parameter. Nothing is allocated or changed then.
    pub fn register(self, parameters: impl IntoIterator<Item = Parameter>) -> Result<Optimizer> {
        self.options.validate()?;
        self.device.check_runs()?;
        let parameters: Vec<Parameter> = parameters.into_iter().collect();
        let specs = parameters.iter().map(spec).collect();
        let plan = Plan::new(self.groups, specs, self.precision)?;
        check_buffers(&parameters)?;
        for (parameter, planned) in parameters.iter().zip(&plan.parameters) {
            check_gradients(parameter, &plan.group_of(planned).algorithm, plan.precision)?;
        }
        let hyper = plan.groups.iter().map(Group::hyperparameters).collect::<Result<_>>()?;
        let methods = plan
            .groups
            .iter()
            .map(|group| match group.algorithm.rule() {
                Rule::Lmo(lmo) => Some(Orthogonaliser::new(&lmo.newton_schulz)),
                _ => None,
            })
            .collect();
        let states = plan
            .parameters
            .iter()
            .zip(&parameters)
            .map(|(planned, p)| initial_state(&plan, planned, &p.data))
            .collect();
        Ok(Optimizer {
            device: self.device,
            plan,
            hyper,
            methods,
            options: self.options,
            parameters,
            states,
            shelved: HashMap::new(),
            steps: 0,
            skipped: 0,
        })
    }
}

fn spec(parameter: &Parameter) -> ParameterSpec {
    ParameterSpec {
        name: parameter.name.clone(),
        shape: parameter.data.shape().to_vec(),
        dtype: parameter.data.dtype(),
        grad_dtype: parameter.grad.as_ref().map(Tensor::dtype),
    }
}

/// No element may belong to two parameters, and gradients may not live where parameters do.
fn check_buffers(parameters: &[Parameter]) -> Result<()> {
    let mut by_storage: HashMap<usize, Vec<&Parameter>> = HashMap::new();
    for parameter in parameters {
        by_storage.entry(parameter.data.storage_id()).or_default().push(parameter);
    }
    for sharing in by_storage.values() {
        let mut runs: Vec<_> =
            sharing.iter().flat_map(|p| p.data.runs().into_iter().map(move |run| (run, &p.name))).collect();
        runs.sort_by_key(|(run, _)| run.start);
        if let Some([(_, name), (run, other)]) = runs.windows(2).find(|w| w[1].0.start < w[0].0.end) {
            let whom = if name == other { "itself".into() } else { format!("parameter `{other}`") };
            return Err(Error::parameter(
                name,
                format!("it shares storage element {} with {whom}", run.start),
            ));
        }
    }
    for parameter in parameters {
        for grad in parameter.grad.iter().chain(&parameter.prev_grad) {
            if let Some(owners) = by_storage.get(&grad.storage_id()) {
                return Err(Error::parameter(
                    &parameter.name,
                    format!(
                        "its gradient lies in the storage of parameter `{}`; gradients need storage of their own",
                        owners[0].name
                    ),
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn check_gradients(
    parameter: &Parameter,
    algorithm: &Algorithm,
    precision: Precision,
) -> Result<()> {
    if parameter.prev_grad.is_some() && !algorithm.needs_previous_gradient() {
        let reason = "a previous gradient is bound, and its algorithm does not use one";
        return Err(Error::parameter(&parameter.name, reason));
    }
    for (role, grad) in [("gradient", &parameter.grad), ("previous gradient", &parameter.prev_grad)] {
        let Some(grad) = grad else { continue };
        if grad.shape() != parameter.data.shape() {
            return Err(Error::parameter(
                &parameter.name,
                format!("its {role} has shape {:?}, it has {:?}", grad.shape(), parameter.data.shape()),
            ));
        }
        if grad.dtype() == Dtype::F64 && precision == Precision::F32 {
            return Err(Error::parameter(
                &parameter.name,
                format!("its {role} is stored in f64; compute with precision f64, or store it in f32"),
            ));
        }
    }
    Ok(())
}

fn initial_state(plan: &Plan, planned: &PlannedParameter, data: &Tensor) -> State {
    let rule = plan.group_of(planned).algorithm.rule();
    let slots = planned
        .slots
        .iter()
        .map(|&(slot, dtype)| {
            let mut storage = Storage::zeros(dtype, planned.numel());
            match (slot, rule) {
                (Slot::Point | Slot::Master, _) => copy_converted(&data.to_storage(), &mut storage),
                (Slot::Variance, Rule::AdaGrad(a)) => fill(&mut storage, a.initial_accumulator_value),
                _ => {}
            }
            (slot, storage)
        })
        .collect();
    State { step: 0, slots }
}

fn fill(storage: &mut Storage, value: f64) {
    with_elements!(Storage, storage, values => values.fill(Element::from_f64(value)));
}

pub(super) fn copy_converted(source: &Storage, target: &mut Storage) {
    with_elements!(Storage, target, target => with_elements!(Storage, source, source => {
        for (t, s) in target.iter_mut().zip(source) {
            *t = Element::from_f64(Element::to_f64(*s));
        }
    }));
}
