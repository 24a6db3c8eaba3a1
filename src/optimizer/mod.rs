//! The one type users hold: registers parameters, steps, saves, loads.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use crate::algorithm::{Rule, Slot};
use crate::checkpoint;
use crate::device::Device;
use crate::error::{Error, Result, suggest};
use crate::group::{Group, Hyperparameters, StateDtype};
use crate::plan::{Plan, Precision};
use crate::reference::newton_schulz::Orthogonaliser;
use crate::reference::real::Real;
use crate::reference::{self, State, Work};
use crate::tensor::{Storage, Tensor, with_elements};

mod builder;

pub use builder::{Builder, Parameter};
use builder::{check_gradients, copy_converted};

/// What a step does when a gradient holds NaN or an infinity. It always concerns the whole step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NonFinite {
    /// The step is an error and nothing changes anywhere.
    #[default]
    Error,
    /// Nothing changes anywhere, and the report says so. Finite gradients too large for the state are skipped too.
    Skip,
    /// Gradients are not scanned; non-finite values spread as IEEE arithmetic has it (`sign(NaN)` is NaN).
    Propagate,
}

/// Options of a step, for all groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOptions {
    /// Global-norm clipping before anything else: gradients are multiplied with `min(1, max/(norm + 1e-6))`, as
    /// torch's `clip_grad_norm_` does; the norm is that of the unscaled gradients. In (0, 1e30].
    pub max_grad_norm: Option<f64>,
    /// What the training loop multiplied its loss with, and with it the gradients; every step divides it out again.
    /// In [1e-30, 1e30].
    pub loss_scale: f64,
    /// Policy for non-finite gradients.
    pub nonfinite: NonFinite,
    /// Seed of stochastic rounding. It is not stored in checkpoints: a resumed run needs the same one.
    pub seed: u64,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self { max_grad_norm: None, loss_scale: 1.0, nonfinite: NonFinite::default(), seed: 0 }
    }
}

impl StepOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        let illegal = |field: &str, value: f64, legal: &str| {
            let reason = format!("{field} = {value} is not legal; it must be finite and in {legal}");
            Err(Error::Config(format!("[step]: {reason}")))
        };
        match (self.max_grad_norm, self.loss_scale) {
            (Some(v), _) if !(v > 0.0 && v <= 1e30) => illegal("max_grad_norm", v, "(0, 1e30]"),
            (_, v) if !(1e-30..=1e30).contains(&v) => illegal("loss_scale", v, "[1e-30, 1e30]"),
            _ => Ok(()),
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct StepReport {
    /// Whether parameters and state advanced.
    pub applied: bool,
    /// Parameters that were updated.
    pub updated: usize,
    /// Parameters left alone because they have no gradient.
    pub without_gradient: usize,
    /// Global gradient norm before clipping and without the loss scale, where clipping is on.
    pub grad_norm: Option<f64>,
    /// First parameter whose gradient is not finite, or too large for its state, when the step was skipped for it.
    pub non_finite: Option<String>,
    /// Orthogonalisations that left their bound and were redone with the safe iteration.
    pub orthogonalise_fallbacks: usize,
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

/// Registered parameters, their state, and the step.
#[derive(Debug)]
pub struct Optimizer {
    device: Device,
    plan: Plan,
    hyper: Vec<Hyperparameters>,
    /// Newton-Schulz of each group of the trust-region family.
    methods: Vec<Option<Orthogonaliser>>,
    options: StepOptions,
    parameters: Vec<Parameter>,
    states: Vec<State>,
    /// The extrapolated points, while the parameter buffers show the iterates.
    shelved: HashMap<usize, Storage>,
    steps: u64,
    skipped: u64,
}

impl Optimizer {
    /// Starts a builder.
    pub fn builder(device: Device) -> Builder {
        Builder { device, groups: vec![], options: StepOptions::default(), precision: None }
    }

    /// One step with the gradients as they are now.
    ///
    /// # Errors
    /// [`Error::NoGradients`], [`Error::NonFiniteGradient`] under [`NonFinite::Error`], [`Error::GradientOverflow`]
    /// unless gradients are not scanned, a missing previous gradient;
    /// parameters and state are bit for bit unchanged then.
    pub fn step(&mut self) -> Result<StepReport> {
        match self.plan.precision {
            Precision::F32 => self.step_in::<f32>(),
            Precision::F64 => self.step_in::<f64>(),
        }
    }

    fn step_in<T: Real>(&mut self) -> Result<StepReport> {
        if !self.shelved.is_empty() {
            return Err(Error::Step(
                "step: the buffers show the iterates (eval_point); call train_point first".into(),
            ));
        }
        let present: Vec<usize> =
            (0..self.parameters.len()).filter(|&i| self.parameters[i].grad.is_some()).collect();
        if present.is_empty() {
            return Err(Error::NoGradients);
        }
        for &i in &present {
            let missing = self.group(i).algorithm.needs_previous_gradient()
                && self.states[i].step > 0
                && self.parameters[i].prev_grad.is_none();
            if missing {
                let reason = "variance reduction needs the gradient at the previous point, and none is bound";
                return Err(Error::parameter(&self.parameters[i].name, reason));
            }
        }
        let mut report =
            StepReport { without_gradient: self.parameters.len() - present.len(), ..StepReport::default() };
        let mut clip = 1.0;
        let scanning = self.options.nonfinite != NonFinite::Propagate;
        if scanning || self.options.max_grad_norm.is_some() {
            let Scanned { bad, norm, largest } = self.scan::<T>(&present);
            let norm = norm / self.options.loss_scale;
            report.grad_norm = self.options.max_grad_norm.map(|_| norm);
            if let Some(bad) = bad.filter(|_| scanning) {
                return self.refuse(bad, report);
            }
            if scanning && !norm.is_finite() {
                return Err(Error::Step("step: the global gradient norm is beyond the range of f64".into()));
            }
            if let Some(max) = self.options.max_grad_norm {
                // f64::min would swallow a NaN norm under `propagate`.
                let ratio = max / (norm + 1e-6);
                clip = if ratio > 1.0 { 1.0 } else { ratio };
            }
            let overflow = self.overflow::<T>(&largest, clip / self.options.loss_scale);
            if let Some(overflow) = overflow.filter(|_| scanning) {
                return self.refuse(overflow, report);
            }
        }
        let works = self
            .plan
            .parameters
            .iter()
            .zip(&self.parameters)
            .zip(&mut self.states)
            .filter_map(|((planned, parameter), state)| {
                Some(Work {
                    planned,
                    group: &self.plan.groups[planned.group],
                    method: self.methods[planned.group].as_ref(),
                    hyper: self.hyper[planned.group],
                    parameter: &parameter.data,
                    gradient: parameter.grad.as_ref()?,
                    previous: parameter.prev_grad.as_ref(),
                    state,
                })
            })
            .collect();
        let factor = clip / self.options.loss_scale;
        report.orthogonalise_fallbacks = reference::step::<T>(works, factor, self.options.seed);
        report.applied = true;
        report.updated = present.len();
        self.steps += 1;
        Ok(report)
    }

    /// The policy's answer to a gradient that cannot be used: the error, or a skipped step.
    fn refuse(&mut self, cause: Error, mut report: StepReport) -> Result<StepReport> {
        match (self.options.nonfinite, cause) {
            (
                NonFinite::Skip,
                Error::NonFiniteGradient { parameter, .. } | Error::GradientOverflow { parameter, .. },
            ) => {
                report.non_finite = Some(parameter);
                self.skipped += 1;
                Ok(report)
            }
            (_, cause) => Err(cause),
        }
    }

    /// Looks at every gradient that is present; `bad` is the first non-finite one in registration order.
    fn scan<T: Real>(&self, present: &[usize]) -> Scanned {
        let with_norm = self.options.max_grad_norm.is_some();
        let scans: Vec<_> = present
            .par_iter()
            .map(|&i| {
                let p = &self.parameters[i];
                let planned = &self.plan.parameters[i];
                let scan_one = |grad: &Tensor| reference::scan::<T>(planned, grad, with_norm);
                let own = p.grad.as_ref().map(scan_one);
                // The first step of variance reduction does not read the previous gradient.
                let previous = p.prev_grad.as_ref().filter(|_| self.states[i].step > 0).map(scan_one);
                (i, own, previous)
            })
            .collect();
        let (mut bad, mut squares, mut largest) = (None, vec![], Vec::with_capacity(scans.len()));
        for (i, own, previous) in scans {
            squares.extend(own.iter().flat_map(|s| s.squares.iter().copied()));
            largest.push((i, own.iter().chain(&previous).map(|s| s.largest).fold(0.0, f64::max)));
            let first = own.into_iter().chain(previous).find_map(|s| s.non_finite);
            if let (Some((index, value)), None) = (first, &bad) {
                bad = Some(Error::NonFiniteGradient {
                    step: self.steps + self.skipped + 1,
                    parameter: self.parameters[i].name.clone(),
                    index,
                    value: value.to_string(),
                });
            }
        }
        Scanned { bad, norm: reference::reduce::total_norm(&squares), largest }
    }

    /// The first gradient that its algorithm's state cannot take in once `factor` is applied.
    fn overflow<T: Real>(&self, largest: &[(usize, f64)], factor: f64) -> Option<Error> {
        largest.iter().find_map(|&(i, value)| {
            let group = self.group(i);
            let narrow = group.state_dtype == StateDtype::Bf16;
            let max = if narrow { half::bf16::MAX.to_f64() } else { T::max_value().to_f64() };
            // AdaGrad adds to what it has.
            let held = match group.algorithm.rule() {
                Rule::AdaGrad(_) => {
                    self.states[i].slots.iter().map(|(_, s)| largest_value(s)).fold(0.0, f64::max)
                }
                _ => 0.0,
            };
            let limit = group.algorithm.gradient_limit(max - held);
            (value * factor > limit).then(|| Error::GradientOverflow {
                step: self.steps + self.skipped + 1,
                parameter: self.parameters[i].name.clone(),
                value: value * factor,
                limit,
            })
        })
    }

    fn group(&self, parameter: usize) -> &Group {
        &self.plan.groups[self.plan.parameters[parameter].group]
    }

    /// The routing table.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where steps run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Steps applied by this object, not counting skipped ones.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps skipped for non-finite gradients.
    pub fn skipped_steps(&self) -> u64 {
        self.skipped
    }

    /// Sets a group's learning rate from the next step on.
    ///
    /// # Errors
    /// An unknown group, or a value outside the legal interval; nothing changes then.
    pub fn set_lr(&mut self, group: &str, lr: f64) -> Result<()> {
        let i = self.find_group(group)?;
        self.hyper[i] = Hyperparameters::checked(&self.plan.groups[i], lr, self.hyper[i].weight_decay)?;
        Ok(())
    }

    /// Sets a group's weight decay from the next step on.
    ///
    /// # Errors
    /// An unknown group, or a value outside the legal interval; nothing changes then.
    pub fn set_weight_decay(&mut self, group: &str, weight_decay: f64) -> Result<()> {
        let i = self.find_group(group)?;
        self.hyper[i] = Hyperparameters::checked(&self.plan.groups[i], self.hyper[i].lr, weight_decay)?;
        Ok(())
    }

    /// A group's learning rate.
    ///
    /// # Errors
    /// An unknown group.
    pub fn lr(&self, group: &str) -> Result<f64> {
        Ok(self.hyper[self.find_group(group)?].lr)
    }

    /// Sets the loss scale from the next step on.
    ///
    /// # Errors
    /// A value outside [1e-30, 1e30]; nothing changes then.
    pub fn set_loss_scale(&mut self, loss_scale: f64) -> Result<()> {
        let options = StepOptions { loss_scale, ..self.options };
        options.validate()?;
        self.options = options;
        Ok(())
    }

    /// The loss scale that the next step divides out of the gradients.
    pub fn loss_scale(&self) -> f64 {
        self.options.loss_scale
    }

    fn find_group(&self, name: &str) -> Result<usize> {
        self.plan.groups.iter().position(|g| g.name == name).ok_or_else(|| {
            let hint = suggest(name, self.plan.groups.iter().map(|g| g.name.as_str()));
            Error::Config(format!("there is no group `{name}`{hint}"))
        })
    }

    /// Binds other gradient tensors (or none) to parameters, all or nothing.
    ///
    /// # Errors
    /// Unknown names, shapes or dtypes that do not fit, storage that belongs to a parameter.
    pub fn rebind_gradients<S: AsRef<str>>(
        &mut self,
        gradients: impl IntoIterator<Item = (S, Option<Tensor>)>,
    ) -> Result<()> {
        self.rebind(gradients, |parameter, tensor| parameter.grad = tensor)
    }

    /// Binds other previous-gradient tensors (or none), all or nothing.
    ///
    /// # Errors
    /// As [`rebind_gradients`](Self::rebind_gradients).
    pub fn rebind_previous_gradients<S: AsRef<str>>(
        &mut self,
        gradients: impl IntoIterator<Item = (S, Option<Tensor>)>,
    ) -> Result<()> {
        self.rebind(gradients, |parameter, tensor| parameter.prev_grad = tensor)
    }

    fn rebind<S: AsRef<str>>(
        &mut self,
        gradients: impl IntoIterator<Item = (S, Option<Tensor>)>,
        bind: impl Fn(&mut Parameter, Option<Tensor>),
    ) -> Result<()> {
        let index: HashMap<&str, usize> =
            self.parameters.iter().enumerate().map(|(i, p)| (p.name.as_str(), i)).collect();
        let owned: HashSet<usize> = self.parameters.iter().map(|p| p.data.storage_id()).collect();
        let mut changed = vec![];
        for (name, tensor) in gradients {
            let name = name.as_ref();
            let Some(&i) = index.get(name) else {
                let hint = suggest(name, index.keys().copied());
                return Err(Error::parameter(name, format!("no such parameter is registered{hint}")));
            };
            if tensor.as_ref().is_some_and(|t| owned.contains(&t.storage_id())) {
                return Err(Error::parameter(name, "its gradient lies in the storage of a parameter"));
            }
            let mut parameter = self.parameters[i].clone();
            bind(&mut parameter, tensor);
            check_gradients(&parameter, &self.group(i).algorithm, self.plan.precision)?;
            changed.push((i, parameter));
        }
        let mut new_types = false;
        for (i, parameter) in changed {
            let grad_dtype = parameter.grad.as_ref().map(Tensor::dtype);
            new_types |=
                std::mem::replace(&mut self.plan.parameters[i].spec.grad_dtype, grad_dtype) != grad_dtype;
            self.parameters[i] = parameter;
        }
        if new_types {
            self.plan.refresh_warnings();
        }
        Ok(())
    }

    /// The parameters' names and tensors, in registration order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parameters.iter().map(|p| (p.name.as_str(), &p.data))
    }

    /// A state buffer as f64 values in row-major order, or `None` if the parameter or the slot does not exist.
    pub fn state(&self, parameter: &str, slot: Slot) -> Option<Vec<f64>> {
        let i = self.parameters.iter().position(|p| p.name == parameter)?;
        let (_, storage) = self.states[i].slots.iter().find(|(s, _)| *s == slot)?;
        Some(
            with_elements!(Storage, storage, v => v.iter().map(|x| crate::tensor::Element::to_f64(*x)).collect()),
        )
    }

    /// Steps applied to a parameter, over all runs.
    pub fn step_count(&self, parameter: &str) -> Option<u64> {
        let i = self.parameters.iter().position(|p| p.name == parameter)?;
        Some(self.states[i].step)
    }

    /// Shows the iterates `x` of extrapolated parameters in their buffers, for evaluating or exporting the model.
    /// Steps are refused until [`train_point`](Self::train_point). Other parameters are not touched.
    pub fn eval_point(&mut self) {
        for i in 0..self.parameters.len() {
            let Some((_, point)) = self.states[i].slots.iter().find(|(slot, _)| *slot == Slot::Point) else {
                continue;
            };
            let data = &self.parameters[i].data;
            self.shelved.entry(i).or_insert_with(|| {
                let shown = data.to_storage();
                let mut iterate = Storage::zeros(data.dtype(), data.numel());
                copy_converted(point, &mut iterate);
                // Type and length are those of the tensor itself.
                let _ = data.assign(&iterate);
                shown
            });
        }
    }

    /// Puts the extrapolated points `y`, where gradients are to be taken, back into the buffers.
    pub fn train_point(&mut self) {
        for (i, y) in self.shelved.drain() {
            // Type and length are those of the tensor itself.
            let _ = self.parameters[i].data.assign(&y);
        }
    }

    /// Writes all state to a safetensors file, atomically: a crash at any time leaves the old file or the new one.
    /// The parameters themselves are the training loop's to save.
    ///
    /// # Errors
    /// What the file system refuses; the previous file is intact then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        checkpoint::save(path.as_ref(), &self.plan, &self.states)
    }

    /// Reads state written by [`save`](Self::save) of an optimizer with the same parameters and algorithms.
    /// Learning rates and other hyperparameters stay as they are configured here.
    ///
    /// # Errors
    /// [`Error::File`] listing every damaged, missing, extra or unfitting entry; nothing changes then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        // `train_point` would put the points of another run beside the loaded state.
        if !self.shelved.is_empty() {
            let reason = "load: the buffers show the iterates (eval_point); call train_point first";
            return Err(Error::Step(reason.into()));
        }
        let finite = self.options.nonfinite != NonFinite::Propagate;
        self.states = checkpoint::load(path.as_ref(), &self.plan, finite)?;
        Ok(())
    }
}
