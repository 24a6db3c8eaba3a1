//! Steps of the CPU reference.

use rayon::prelude::*;

use super::builder::Parameter;
use super::{AnyTensor, NonFinite, ScanScalars, Step, StepReport};
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
    /// The look at all gradients of a step that has yet to be decided.
    pub open: Option<Box<Scanned>>,
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
#[derive(Debug)]
pub(super) struct Scanned {
    bad: Option<Error>,
    /// Of the gradients as they are, times the loss scale.
    norm: f64,
    scalars: ScanScalars,
    largest: Vec<Largest>,
}

/// The largest absolute value of a parameter's gradient, and what its state takes in.
#[derive(Debug)]
struct Largest {
    parameter: usize,
    value: f64,
    limit: f64,
}

impl Largest {
    /// What it is of what the state takes in; nothing where that cannot be said.
    fn share(&self) -> f64 {
        let share = self.value / self.limit;
        if share.is_nan() { 0.0 } else { share }
    }
}

/// Newton-Schulz of each group of the trust-region family.
fn methods(plan: &Plan) -> Vec<Option<Orthogonaliser>> {
    let method = |group: &crate::group::Group| match group.algorithm.rule() {
        Rule::Lmo(lmo) => Some(Orthogonaliser::new(&lmo.newton_schulz)),
        _ => None,
    };
    plan.groups.iter().map(method).collect()
}

/// What each group moved by, of the sums of its parameters' chunks.
fn update_rms(step: &Step<'_>, moved: &[Vec<f64>]) -> Vec<f64> {
    let parameters = &step.plan.parameters;
    let group = |group: usize| {
        let present = step.present.iter().filter(|&&i| parameters[i].group == group);
        let elements: usize = present.map(|&i| parameters[i].numel()).sum();
        let of_group = parameters.iter().zip(moved).filter(|(planned, _)| planned.group == group);
        let sum = reference::reduce::add_by_lanes(of_group.flat_map(|(_, moved)| moved.iter().copied()));
        if elements > 0 { (sum / elements as f64).sqrt() } else { 0.0 }
    };
    (0..step.plan.groups.len()).map(group).collect()
}

impl Cpu {
    pub fn new(plan: &Plan, parameters: &[Parameter], states: Vec<State>) -> Result<Self> {
        let methods = methods(plan);
        let mut cpu = Self { methods, states, parameters: vec![], steps: 0, skipped: 0, open: None };
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
        if self.open.is_some() {
            let reason = "step: a scan is open: give its scalars to step_with, or forget_scan";
            return Err(Error::Step(reason.into()));
        }
        self.step_with(step, None, report)
    }

    /// The first half of a step.
    pub fn scan_open(&mut self, step: &Step<'_>) -> ScanScalars {
        let scanned = match step.plan.precision {
            Precision::F32 => self.scan::<f32>(step),
            Precision::F64 => self.scan::<f64>(step),
        };
        self.open.insert(Box::new(scanned)).scalars
    }

    /// A step, or the second half of one.
    pub fn step_with(
        &mut self,
        step: &Step<'_>,
        scalars: Option<ScanScalars>,
        report: StepReport,
    ) -> Result<StepReport> {
        match step.plan.precision {
            Precision::F32 => self.step_in::<f32>(step, scalars, report),
            Precision::F64 => self.step_in::<f64>(step, scalars, report),
        }
    }

    fn step_in<T: Real>(
        &mut self,
        step: &Step<'_>,
        scalars: Option<ScanScalars>,
        mut report: StepReport,
    ) -> Result<StepReport> {
        let options = step.options;
        let mut clip = 1.0;
        if options.decides() {
            let scanned = self.open.take().unwrap_or_else(|| Box::new(self.scan::<T>(step)));
            // The root of what is reduced; of what is not, the range is that of f64.
            let norm = scalars.map_or(scanned.norm, |s| s.squares.sqrt()) / options.loss_scale;
            report.grad_norm = options.max_grad_norm.map(|_| norm);
            match self.decide(step, *scanned, scalars, norm) {
                Ok(factor) => clip = factor,
                Err(cause) => return self.refuse(options.nonfinite, cause, report),
            }
        }
        // Parameters without a gradient keep their places in the sums' order.
        let chunks = |planned| if options.diagnostics { reference::chunks(planned) } else { 0 };
        let chunks = step.plan.parameters.iter().map(|planned| vec![0.0; chunks(planned)]);
        let mut moved: Vec<Vec<f64>> = chunks.collect();
        let mut duals = vec![0.0; step.plan.parameters.len()];
        let works = step
            .plan
            .parameters
            .iter()
            .zip(&self.parameters)
            .zip(&mut self.states)
            .zip(moved.iter_mut().zip(&mut duals))
            .filter_map(|(((planned, parameter), state), (moved, dual))| {
                Some(Work {
                    planned,
                    group: &step.plan.groups[planned.group],
                    method: self.methods[planned.group].as_ref(),
                    hyper: step.hyper[planned.group],
                    parameter: &parameter.data,
                    gradient: parameter.grad.as_ref()?,
                    previous: parameter.prev_grad.as_ref(),
                    state,
                    moved: options.diagnostics.then_some(moved.as_mut_slice()),
                    dual: options.diagnostics.then_some(dual),
                })
            })
            .collect();
        report.orthogonalise_fallbacks = reference::step::<T>(works, clip / options.loss_scale, options.seed);
        report.update_rms = options.diagnostics.then(|| update_rms(step, &moved));
        report.dual_norms = options.diagnostics.then(|| {
            let mut sums = vec![0.0; step.plan.groups.len()];
            step.plan.parameters.iter().zip(&duals).for_each(|(planned, dual)| sums[planned.group] += dual);
            sums
        });
        report.applied = true;
        self.steps += 1;
        Ok(report)
    }

    /// The factor that clips, or why the step is refused.
    fn decide(
        &self,
        step: &Step<'_>,
        scanned: Scanned,
        scalars: Option<ScanScalars>,
        norm: f64,
    ) -> Result<f64> {
        let options = step.options;
        let scanning = options.nonfinite != NonFinite::Propagate;
        let number = self.steps + self.skipped + 1;
        let reduced = scalars.is_some();
        let scalars = scalars.unwrap_or(scanned.scalars);
        // What was made of the scalars may be anything: a number is asked for, not that there be no NaN.
        if scanning && scalars.found != 0.0 {
            return Err(scanned.bad.unwrap_or(Error::RefusedElsewhere { step: number }));
        }
        if scanning && !norm.is_finite() {
            let reason = "step: the global gradient norm is beyond the range of f64";
            let own = Error::Step(reason.into());
            return Err(if reduced { Error::RefusedElsewhere { step: number } } else { own });
        }
        let mut clip = 1.0;
        if let Some(max) = options.max_grad_norm {
            // f64::min would swallow a NaN norm under `propagate`.
            let ratio = max / (norm + 1e-6);
            clip = if ratio > 1.0 { 1.0 } else { ratio };
        }
        let factor = clip / options.loss_scale;
        let fits = |share: f64| share * factor <= 1.0;
        if scanning && !fits(scalars.too_large) {
            let own = scanned.largest.iter().find(|own| !fits(own.share()));
            return Err(own.map_or(Error::RefusedElsewhere { step: number }, |own| {
                Error::GradientOverflow {
                    step: number,
                    parameter: step.plan.parameters[own.parameter].spec.name.clone(),
                    value: own.value * factor,
                    limit: own.limit,
                }
            }));
        }
        Ok(clip)
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
            (NonFinite::Skip, Error::RefusedElsewhere { .. }) => {
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
            let value = own.iter().chain(&previous).map(|s| s.largest).fold(0.0, f64::max);
            largest.push(Largest { parameter: i, value, limit: self.limit::<T>(step, i) });
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
        let scanning = step.options.nonfinite != NonFinite::Propagate;
        let squares = squares.concat();
        let (norm, squares) =
            (reference::reduce::total_norm(&squares), reference::reduce::total_squares(&squares));
        let found = f64::from(u8::from(scanning && bad.is_some()));
        let shares = largest.iter().filter(|_| scanning).map(Largest::share);
        let too_large = shares.fold(0.0, f64::max);
        Scanned { bad, norm, scalars: ScanScalars { squares, found, too_large }, largest }
    }

    /// The largest gradient that a parameter's state takes in.
    fn limit<T: Real>(&self, step: &Step<'_>, parameter: usize) -> f64 {
        let group = step.plan.group_of(&step.plan.parameters[parameter]);
        let narrow = group.state_dtype == StateDtype::Bf16;
        let max = if narrow { half::bf16::MAX.to_f64() } else { T::max_value().to_f64() };
        // AdaGrad adds to what it has.
        let held = match group.algorithm.rule() {
            Rule::AdaGrad(_) => {
                let sums = self.states[parameter].slots.iter().filter(|(slot, _)| *slot == Slot::Variance);
                sums.map(|(_, s)| largest_value(s)).fold(0.0, f64::max)
            }
            _ => 0.0,
        };
        group.algorithm.gradient_limit(max - held)
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
