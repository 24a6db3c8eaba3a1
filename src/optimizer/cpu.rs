//! Steps of the CPU reference.

use rayon::prelude::*;

use super::builder::Parameter;
use super::{AnyTensor, NonFinite, Step, StepReport};
use crate::algorithm::{Rule, Slot};
use crate::error::{Error, Result};
use crate::group::StateDtype;
use crate::plan::{Plan, Precision};
use crate::reference::newton_schulz::Orthogonaliser;
use crate::reference::real::Real;
use crate::reference::reduce::Scaled;
use crate::reference::{self, State, Work};
use crate::tensor::{Storage, Tensor, with_elements};

/// State on the host, and the tensors that steps work on.
#[derive(Debug)]
pub(super) struct Cpu {
    /// Newton-Schulz of each group of the trust-region family.
    methods: Vec<Option<Orthogonaliser>>,
    pub states: Vec<State>,
    parameters: Vec<Bound>,
    pub steps: u64,
    pub skipped: u64,
}

/// A parameter's tensors.
#[derive(Debug)]
struct Bound {
    data: Tensor,
    grad: Option<Tensor>,
    prev_grad: Option<Tensor>,
}

fn largest_value(storage: &Storage) -> f64 {
    with_elements!(Storage, storage, v => v.iter().map(|x| crate::tensor::Element::to_f64(*x)).fold(0.0, f64::max))
}

/// What a look at all gradients found.
struct Scanned {
    bad: Option<Error>,
    /// Of the gradients as they are, times the loss scale.
    norm: f64,
    /// (parameter, largest absolute value).
    largest: Vec<(usize, f64)>,
}

/// Newton-Schulz of each group of the trust-region family.
fn methods(plan: &Plan) -> Vec<Option<Orthogonaliser>> {
    let method = |group: &crate::group::Group| match group.algorithm.rule() {
        Rule::Lmo(lmo) => Some(Orthogonaliser::new(&lmo.newton_schulz)),
        _ => None,
    };
    plan.groups.iter().map(method).collect()
}

impl Cpu {
    pub fn new(plan: &Plan, parameters: &[Parameter], states: Vec<State>) -> Result<Self> {
        let methods = methods(plan);
        let mut cpu = Self { methods, states, parameters: vec![], steps: 0, skipped: 0 };
        cpu.bind(plan, parameters)?;
        Ok(cpu)
    }

    /// Steps work on these tensors from now on.
    pub fn bind(&mut self, _: &Plan, parameters: &[Parameter]) -> Result<()> {
        let bound = parameters.iter().map(|p| {
            let host = |tensor: &AnyTensor| match tensor {
                AnyTensor::Host(tensor) => Ok(tensor.clone()),
                AnyTensor::Device(_) => {
                    let reason = "a tensor of it lies on a card, and device `cpu` steps on host memory";
                    Err(Error::parameter(&p.name, reason))
                }
            };
            Ok(Bound {
                data: host(&p.data)?,
                grad: p.grad.as_ref().map(host).transpose()?,
                prev_grad: p.prev_grad.as_ref().map(host).transpose()?,
            })
        });
        self.parameters = bound.collect::<Result<_>>()?;
        Ok(())
    }

    /// Newton-Schulz schedules follow the algorithms; the rest comes with every step.
    pub fn regroup(&mut self, plan: &Plan, _: &[Parameter]) -> Result<()> {
        self.methods = methods(plan);
        Ok(())
    }

    pub fn step(&mut self, step: &Step<'_>, report: StepReport) -> Result<StepReport> {
        match step.plan.precision {
            Precision::F32 => self.step_in::<f32>(step, report),
            Precision::F64 => self.step_in::<f64>(step, report),
        }
    }

    fn step_in<T: Real>(&mut self, step: &Step<'_>, mut report: StepReport) -> Result<StepReport> {
        let options = step.options;
        let mut clip = 1.0;
        let scanning = options.nonfinite != NonFinite::Propagate;
        if scanning || options.max_grad_norm.is_some() {
            let Scanned { bad, norm, largest } = self.scan::<T>(step);
            let norm = norm / options.loss_scale;
            report.grad_norm = options.max_grad_norm.map(|_| norm);
            if let Some(bad) = bad.filter(|_| scanning) {
                return self.refuse(options.nonfinite, bad, report);
            }
            if scanning && !norm.is_finite() {
                return Err(Error::Step("step: the global gradient norm is beyond the range of f64".into()));
            }
            if let Some(max) = options.max_grad_norm {
                // f64::min would swallow a NaN norm under `propagate`.
                let ratio = max / (norm + 1e-6);
                clip = if ratio > 1.0 { 1.0 } else { ratio };
            }
            let overflow = self.overflow::<T>(step, &largest, clip / options.loss_scale);
            if let Some(overflow) = overflow.filter(|_| scanning) {
                return self.refuse(options.nonfinite, overflow, report);
            }
        }
        let works = step
            .plan
            .parameters
            .iter()
            .zip(&self.parameters)
            .zip(&mut self.states)
            .filter_map(|((planned, parameter), state)| {
                Some(Work {
                    planned,
                    group: &step.plan.groups[planned.group],
                    method: self.methods[planned.group].as_ref(),
                    hyper: step.hyper[planned.group],
                    parameter: &parameter.data,
                    gradient: parameter.grad.as_ref()?,
                    previous: parameter.prev_grad.as_ref(),
                    state,
                })
            })
            .collect();
        report.orthogonalise_fallbacks = reference::step::<T>(works, clip / options.loss_scale, options.seed);
        report.applied = true;
        self.steps += 1;
        Ok(report)
    }

    /// The policy's answer to a gradient that cannot be used: the error, or a skipped step.
    fn refuse(&mut self, policy: NonFinite, cause: Error, mut report: StepReport) -> Result<StepReport> {
        match (policy, cause) {
            (
                NonFinite::Skip,
                Error::NonFiniteGradient { parameter, .. } | Error::GradientOverflow { parameter, .. },
            ) => {
                report.non_finite = Some(parameter);
                report.updated = 0;
                self.skipped += 1;
                Ok(report)
            }
            (_, cause) => Err(cause),
        }
    }

    /// Looks at every gradient that is present; `bad` is the first non-finite one in registration order.
    fn scan<T: Real>(&self, step: &Step<'_>) -> Scanned {
        let with_norm = step.options.max_grad_norm.is_some();
        let scans: Vec<_> = step
            .present
            .par_iter()
            .map(|&i| {
                let p = &self.parameters[i];
                let planned = &step.plan.parameters[i];
                let scan_one = |grad: &Tensor| reference::scan::<T>(planned, grad, with_norm);
                let own = p.grad.as_ref().map(scan_one);
                // The first step of variance reduction does not read the previous gradient.
                let previous = p.prev_grad.as_ref().filter(|_| self.states[i].step > 0).map(scan_one);
                (i, own, previous)
            })
            .collect();
        let (mut bad, mut largest) = (None, Vec::with_capacity(scans.len()));
        // Parameters without a gradient keep their places in the sum's order.
        let mut squares: Vec<Vec<Scaled>> = step
            .plan
            .parameters
            .iter()
            .map(|p| vec![Scaled { value: 0.0, exponent: 0 }; p.matrices.len()])
            .collect();
        for (i, own, previous) in scans {
            if let Some(own) = own.as_ref().filter(|_| with_norm) {
                squares[i].clone_from(&own.squares);
            }
            largest.push((i, own.iter().chain(&previous).map(|s| s.largest).fold(0.0, f64::max)));
            let first = own.into_iter().chain(previous).find_map(|s| s.non_finite);
            if let (Some((index, value)), None) = (first, &bad) {
                bad = Some(Error::NonFiniteGradient {
                    step: self.steps + self.skipped + 1,
                    parameter: step.plan.parameters[i].spec.name.clone(),
                    index,
                    value: value.to_string(),
                });
            }
        }
        Scanned { bad, norm: reference::reduce::total_norm(&squares.concat()), largest }
    }

    /// The first gradient that its algorithm's state cannot take in once `factor` is applied.
    fn overflow<T: Real>(&self, step: &Step<'_>, largest: &[(usize, f64)], factor: f64) -> Option<Error> {
        largest.iter().find_map(|&(i, value)| {
            let planned = &step.plan.parameters[i];
            let group = step.plan.group_of(planned);
            let narrow = group.state_dtype == StateDtype::Bf16;
            let max = if narrow { half::bf16::MAX.to_f64() } else { T::max_value().to_f64() };
            // AdaGrad adds to what it has.
            let held = match group.algorithm.rule() {
                Rule::AdaGrad(_) => {
                    let sums = self.states[i].slots.iter().filter(|(slot, _)| *slot == Slot::Variance);
                    sums.map(|(_, s)| largest_value(s)).fold(0.0, f64::max)
                }
                _ => 0.0,
            };
            let limit = group.algorithm.gradient_limit(max - held);
            (value * factor > limit).then(|| Error::GradientOverflow {
                step: self.steps + self.skipped + 1,
                parameter: planned.spec.name.clone(),
                value: value * factor,
                limit,
            })
        })
    }

    /// Whether a parameter has taken a step.
    pub fn started(&self, parameter: usize) -> bool {
        self.states[parameter].step > 0
    }

    pub fn slot(&self, parameter: usize, slot: Slot) -> Option<Storage> {
        self.states[parameter].slots.iter().find(|(s, _)| *s == slot).map(|(_, storage)| storage.clone())
    }

    pub fn read(&self, parameter: usize) -> Storage {
        self.parameters[parameter].data.to_storage()
    }

    pub fn write(&self, parameter: usize, values: &Storage) -> Result<()> {
        self.parameters[parameter].data.assign(values)
    }
}
