//! Registration: parameters and groups in, an [`Optimizer`] with all its state out, or nothing.

use std::collections::HashMap;
#[cfg(feature = "cuda")]
use std::sync::Arc;

#[cfg(feature = "cuda")]
use super::card::Card;
use super::cpu::Cpu;
use super::{AnyTensor, Backend, NonFinite, Optimizer, Roster, StepOptions, memory};
use crate::algorithm::{Algorithm, Rule, Slot};
#[cfg(feature = "cuda")]
use crate::cuda::{Context, Stream};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::plan::{ParameterSpec, Plan, PlannedParameter, Precision};
use crate::reference::State;
use crate::tensor::{Dtype, Element, Storage, with_elements};

/// A parameter with its gradient, as the training loop hands it over. Tensors are shared, not copied.
#[derive(Debug, Clone)]
pub struct Parameter {
    pub(super) name: String,
    pub(super) data: AnyTensor,
    pub(super) grad: Option<AnyTensor>,
    pub(super) prev_grad: Option<AnyTensor>,
    pub(super) micro_grad: Option<AnyTensor>,
}

impl Parameter {
    /// A parameter without a gradient: left alone until one is bound.
    pub fn new(name: impl Into<String>, data: impl Into<AnyTensor>) -> Self {
        Self { name: name.into(), data: data.into(), grad: None, prev_grad: None, micro_grad: None }
    }

    /// Where the training loop writes the gradient. Read-only to the optimizer.
    #[must_use]
    pub fn grad(mut self, grad: impl Into<AnyTensor>) -> Self {
        self.grad = Some(grad.into());
        self
    }

    /// Where the training loop writes the gradient at the previous point on the current sample (variance reduction).
    #[must_use]
    pub fn prev_grad(mut self, prev_grad: impl Into<AnyTensor>) -> Self {
        self.prev_grad = Some(prev_grad.into());
        self
    }

    /// Where the training loop writes the gradient of a micro-batch, which [`Optimizer::accumulate`] adds to the gradient.
    #[must_use]
    pub fn micro_grad(mut self, micro_grad: impl Into<AnyTensor>) -> Self {
        self.micro_grad = Some(micro_grad.into());
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
    #[cfg(feature = "cuda")]
    pub(super) context: Option<Context>,
    #[cfg(feature = "cuda")]
    pub(super) stream: Option<Arc<Stream>>,
}

impl Builder {
    pub(super) fn new(device: Device) -> Self {
        Self {
            device,
            groups: vec![],
            options: StepOptions::default(),
            precision: None,
            #[cfg(feature = "cuda")]
            context: None,
            #[cfg(feature = "cuda")]
            stream: None,
        }
    }

    /// The context that the tensors on the card belong to. Without it: the card's primary context.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// The stream that [`Optimizer::step`] gives its work to, where tensors lie on a card. Its context is the optimizer's.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn stream(mut self, stream: impl Into<Arc<Stream>>) -> Self {
        let stream = stream.into();
        self.context = Some(stream.context().clone());
        self.stream = Some(stream);
        self
    }

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

    /// Measures every step: what each group's parameters move by ([`StepReport::update_rms`](super::StepReport::update_rms)), and
    /// the dual norms of what is orthogonalised ([`StepReport::dual_norms`](super::StepReport::dual_norms)).
    #[must_use]
    pub fn diagnostics(mut self, measured: bool) -> Self {
        self.options.diagnostics = measured;
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
        let parameters: Vec<Parameter> = parameters.into_iter().collect();
        let specs = parameters.iter().map(spec).collect();
        let plan = Plan::new(self.groups, specs, self.precision)?;
        memory::check_parameters_apart(&parameters)?;
        memory::check_gradients_apart(&parameters)?;
        for (parameter, planned) in parameters.iter().zip(&plan.parameters) {
            check_gradients(parameter, &plan.group_of(planned).algorithm, plan.precision)?;
        }
        let hyper: Vec<_> = plan.groups.iter().map(Group::hyperparameters).collect::<Result<_>>()?;
        let backend = match self.device {
            Device::Cpu => {
                let states = plan.parameters.iter().zip(&parameters);
                let states = states.map(|(planned, p)| initial_state(&plan, planned, &p.data)).collect();
                Backend::Cpu(Cpu::new(&plan, &parameters, states)?)
            }
            #[cfg(feature = "cuda")]
            device => {
                let context = self.context.map_or_else(|| Context::open(device), Ok)?;
                Backend::Card(Box::new(Card::new(
                    context,
                    self.stream,
                    &plan,
                    &hyper,
                    &self.options,
                    &parameters,
                )?))
            }
            #[cfg(not(feature = "cuda"))]
            device => {
                return Err(crate::driver::Driver::open(device).err().unwrap_or(Error::NoGradients));
            }
        };
        let roster = Roster::new(&plan, &parameters);
        Ok(Optimizer {
            device: self.device,
            plan,
            hyper,
            options: self.options,
            parameters,
            backend,
            shelved: HashMap::new(),
            micro_batches: 0,
            roster,
        })
    }
}

fn spec(parameter: &Parameter) -> ParameterSpec {
    ParameterSpec {
        name: parameter.name.clone(),
        shape: parameter.data.shape().to_vec(),
        dtype: parameter.data.dtype(),
        grad_dtype: parameter.grad.as_ref().map(AnyTensor::dtype),
    }
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
    if parameter.micro_grad.is_some() && parameter.grad.is_none() {
        let reason = "a micro-batch's gradient is bound, and no gradient that it could be added to";
        return Err(Error::parameter(&parameter.name, reason));
    }
    let roles = [
        ("gradient", &parameter.grad),
        ("previous gradient", &parameter.prev_grad),
        ("micro-batch's gradient", &parameter.micro_grad),
    ];
    for (role, grad) in roles {
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

fn initial_state(plan: &Plan, planned: &PlannedParameter, data: &AnyTensor) -> State {
    let rule = plan.group_of(planned).algorithm.rule();
    let slots = planned
        .slots
        .iter()
        .map(|&(slot, dtype)| {
            let mut storage = Storage::zeros(dtype, planned.numel());
            match (slot, rule) {
                (Slot::Point | Slot::Master, _) => {
                    if let AnyTensor::Host(data) = data {
                        copy_converted(&data.to_storage(), &mut storage);
                    }
                }
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
