//! The one type users hold: registers parameters, steps, saves, loads.

use std::collections::HashMap;
use std::path::Path;

use crate::algorithm::{Algorithm, Slot};
use crate::checkpoint;
use crate::device::Device;
use crate::error::{Error, Result, suggest};
use crate::group::{Group, Hyperparameters};
use crate::plan::Plan;
use crate::tensor::{Storage, Tensor, with_elements};

mod accumulate;
mod builder;
#[cfg(feature = "cuda")]
mod card;
mod cpu;
mod memory;
mod scan;
mod step;

pub use builder::{Builder, Parameter};
use builder::{check_gradients, copy_converted};
#[cfg(feature = "cuda")]
use card::Card;
use cpu::Cpu;
pub use memory::AnyTensor;
#[cfg(feature = "cuda")]
pub use scan::DeviceScalars;
pub use scan::ScanScalars;
use step::Roster;
pub(crate) use step::Step;
pub use step::{NonFinite, StepOptions, StepReport};

/// Where steps run.
#[derive(Debug)]
enum Backend {
    Cpu(Cpu),
    #[cfg(feature = "cuda")]
    Card(Box<Card>),
}

/// Runs `$body` with `$backend` bound to the backend, whichever it is.
macro_rules! on_backend {
    ($of:expr, $backend:ident => $body:expr) => {
        match $of {
            Backend::Cpu($backend) => $body,
            #[cfg(feature = "cuda")]
            Backend::Card($backend) => $body,
        }
    };
}

/// Registered parameters, their state, and the step.
#[derive(Debug)]
pub struct Optimizer {
    device: Device,
    plan: Plan,
    hyper: Vec<Hyperparameters>,
    options: StepOptions,
    parameters: Vec<Parameter>,
    backend: Backend,
    /// The extrapolated points, while the parameter buffers show the iterates.
    shelved: HashMap<usize, Shelf>,
    /// Micro-batches since the last step.
    micro_batches: usize,
    roster: Roster,
}

/// What a parameter's buffer held before it was to show the iterate.
#[derive(Debug)]
struct Shelf {
    values: Storage,
    /// Whether it shows all of the iterate.
    done: bool,
}

impl Optimizer {
    /// Starts a builder.
    pub fn builder(device: Device) -> Builder {
        Builder::new(device)
    }

    /// One step with the gradients as they are now.
    ///
    /// With tensors in host memory the step is done when this returns, on every device. With tensors on a card it has been
    /// given to the builder's stream, nothing is waited for, and the report says only that: what became of it is for
    /// [`status`](Self::status). After [`scan`](Self::scan) it is the rest of that step.
    ///
    /// # Errors
    /// [`Error::NoGradients`], [`Error::NonFiniteGradient`] under [`NonFinite::Error`], [`Error::GradientOverflow`]
    /// unless gradients are not scanned, a missing previous gradient;
    /// parameters and state are bit for bit unchanged then. On a card also [`Error::Driver`], with which nothing was
    /// changed, and [`Error::DeviceLost`].
    pub fn step(&mut self) -> Result<StepReport> {
        let report = self.check_step(None)?;
        let (step, backend) = self.parts();
        let report = on_backend!(backend, backend => backend.step(&step, report))?;
        self.micro_batches = 0;
        Ok(report)
    }

    /// What a step is made with, and what makes it.
    fn parts(&mut self) -> (Step<'_>, &mut Backend) {
        let step = Step {
            plan: &self.plan,
            hyper: &self.hyper,
            options: &self.options,
            #[cfg(feature = "cuda")]
            parameters: &self.parameters,
            present: &self.roster.present,
        };
        (step, &mut self.backend)
    }

    /// What can be said beforehand of a step, or of a group's part of it.
    fn check_step(&self, part: Option<usize>) -> Result<StepReport> {
        self.check_device()?;
        if !self.shelved.is_empty() {
            return Err(Error::Step(
                "step: the buffers show the iterates (eval_point); call train_point first".into(),
            ));
        }
        if self.roster.present.is_empty() {
            return Err(Error::NoGradients);
        }
        let of_part = |i: &&usize| part.is_none_or(|group| self.plan.parameters[**i].group == group);
        for &i in self.roster.unpaired.iter().filter(of_part) {
            if on_backend!(&self.backend, backend => backend.started(i)) {
                let reason = "variance reduction needs the gradient at the previous point, and none is bound";
                return Err(Error::parameter(&self.parameters[i].name, reason));
            }
        }
        let present = &self.roster.present;
        let (updated, without_gradient) = (present.len(), self.parameters.len() - present.len());
        let micro_batches = self.micro_batches;
        Ok(StepReport { updated, without_gradient, micro_batches, ..StepReport::default() })
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

    /// Steps applied by this object, not counting skipped ones. On a card: as far as it has come.
    pub fn steps(&self) -> u64 {
        match &self.backend {
            Backend::Cpu(cpu) => cpu.steps,
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.counts().0,
        }
    }

    /// Steps skipped for non-finite gradients. On a card: as far as it has come.
    pub fn skipped_steps(&self) -> u64 {
        match &self.backend {
            Backend::Cpu(cpu) => cpu.skipped,
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.counts().1,
        }
    }

    /// Sets a group's learning rate from the next step on.
    ///
    /// # Errors
    /// An unknown group, or a value outside the legal interval; nothing changes then.
    pub fn set_lr(&mut self, group: &str, lr: f64) -> Result<()> {
        let i = self.find_group(group)?;
        let hyper = Hyperparameters::checked(&self.plan.groups[i], lr, self.hyper[i].weight_decay)?;
        self.set_hyper(i, hyper)
    }

    /// Sets a group's weight decay from the next step on.
    ///
    /// # Errors
    /// An unknown group, or a value outside the legal interval; nothing changes then.
    pub fn set_weight_decay(&mut self, group: &str, weight_decay: f64) -> Result<()> {
        let i = self.find_group(group)?;
        let hyper = Hyperparameters::checked(&self.plan.groups[i], self.hyper[i].lr, weight_decay)?;
        self.set_hyper(i, hyper)
    }

    fn set_hyper(&mut self, group: usize, hyper: Hyperparameters) -> Result<()> {
        self.check_device()?;
        self.hyper[group] = hyper;
        self.control_changed()
    }

    /// Sets a group's hyperparameters from the next step on: those of an algorithm of the same name, with the same state.
    /// Learning rate and weight decay stay as they are.
    ///
    /// # Errors
    /// An unknown group, an algorithm of another name or with other state (another estimator, norm or order; momentum where
    /// there was none), illegal values; nothing changes then.
    pub fn set_algorithm(&mut self, group: &str, algorithm: Algorithm) -> Result<()> {
        let i = self.find_group(group)?;
        self.check_no_scan("set_algorithm")?;
        let mut changed = self.plan.groups[i].clone();
        let before = std::mem::replace(&mut changed.algorithm, algorithm);
        if !before.is_compatible(&changed.algorithm) {
            return Err(Error::Config(format!(
                "group `{group}`: `{}` cannot take the place of `{}` with the state that there is",
                changed.algorithm.composition(),
                before.composition()
            )));
        }
        changed.validate()?;
        Hyperparameters::checked(&changed, self.hyper[i].lr, self.hyper[i].weight_decay)?;
        let before = std::mem::replace(&mut self.plan.groups[i], changed);
        on_backend!(&mut self.backend, backend => backend.regroup(&self.plan, &self.parameters))
            .inspect_err(|_| self.plan.groups[i] = before)?;
        self.control_changed()
    }

    /// Sets the global norm that gradients are clipped to from the next step on, or that they are not.
    ///
    /// # Errors
    /// A value outside the legal interval; nothing changes then.
    pub fn set_max_grad_norm(&mut self, max: Option<f64>) -> Result<()> {
        let options = StepOptions { max_grad_norm: max, ..self.options };
        options.validate()?;
        self.check_no_scan("set_max_grad_norm")?;
        self.check_device()?;
        self.options = options;
        self.control_changed()
    }

    /// Sets the loss scale from the next step on.
    ///
    /// # Errors
    /// A value outside [1e-30, 1e30]; nothing changes then.
    pub fn set_loss_scale(&mut self, loss_scale: f64) -> Result<()> {
        let options = StepOptions { loss_scale, ..self.options };
        options.validate()?;
        self.check_device()?;
        self.options = options;
        self.control_changed()
    }

    /// The loss scale that the next step divides out of the gradients.
    pub fn loss_scale(&self) -> f64 {
        self.options.loss_scale
    }

    /// The first error after which the card, or what is on it, is of no use.
    fn check_device(&self) -> Result<()> {
        match &self.backend {
            Backend::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.engine().check(),
        }
    }

    /// Tells the backend of new hyperparameters or options.
    fn control_changed(&mut self) -> Result<()> {
        match &mut self.backend {
            Backend::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.set_control(&self.plan.groups, &self.hyper, &self.options),
        }
    }

    /// A group's learning rate.
    ///
    /// # Errors
    /// An unknown group.
    pub fn lr(&self, group: &str) -> Result<f64> {
        Ok(self.hyper[self.find_group(group)?].lr)
    }

    fn find_group(&self, name: &str) -> Result<usize> {
        self.plan.groups.iter().position(|g| g.name == name).ok_or_else(|| {
            let hint = suggest(name, self.plan.groups.iter().map(|g| g.name.as_str()));
            Error::Config(format!("there is no group `{name}`{hint}"))
        })
    }

    /// Binds other gradient tensors (or none) to parameters, all or nothing. On a card this is one copy before the next step,
    /// unless strides or alignments change.
    ///
    /// # Errors
    /// Unknown names, shapes or dtypes that do not fit, storage that belongs to a parameter.
    pub fn rebind_gradients<S: AsRef<str>, T: Into<AnyTensor>>(
        &mut self,
        gradients: impl IntoIterator<Item = (S, Option<T>)>,
    ) -> Result<()> {
        self.rebind(gradients, |parameter, tensor| parameter.grad = tensor)
    }

    /// Binds other previous-gradient tensors (or none), all or nothing.
    ///
    /// # Errors
    /// As [`rebind_gradients`](Self::rebind_gradients).
    pub fn rebind_previous_gradients<S: AsRef<str>, T: Into<AnyTensor>>(
        &mut self,
        gradients: impl IntoIterator<Item = (S, Option<T>)>,
    ) -> Result<()> {
        self.rebind(gradients, |parameter, tensor| parameter.prev_grad = tensor)
    }

    fn rebind<S: AsRef<str>, T: Into<AnyTensor>>(
        &mut self,
        gradients: impl IntoIterator<Item = (S, Option<T>)>,
        bind: impl Fn(&mut Parameter, Option<AnyTensor>),
    ) -> Result<()> {
        self.check_no_scan("binding other gradients")?;
        let index: HashMap<&str, usize> =
            self.parameters.iter().enumerate().map(|(i, p)| (p.name.as_str(), i)).collect();
        let mut parameters = self.parameters.clone();
        let mut changed = vec![];
        for (name, tensor) in gradients {
            let name = name.as_ref();
            let Some(&i) = index.get(name) else {
                let hint = suggest(name, index.keys().copied());
                return Err(Error::parameter(name, format!("no such parameter is registered{hint}")));
            };
            bind(&mut parameters[i], tensor.map(Into::into));
            check_gradients(&parameters[i], &self.group(i).algorithm, self.plan.precision)?;
            changed.push(i);
        }
        memory::check_gradients_apart(&parameters)?;
        on_backend!(&mut self.backend, backend => backend.bind(&self.plan, &parameters))?;
        let mut new_types = false;
        for i in changed {
            let grad_dtype = parameters[i].grad.as_ref().map(AnyTensor::dtype);
            new_types |=
                std::mem::replace(&mut self.plan.parameters[i].spec.grad_dtype, grad_dtype) != grad_dtype;
        }
        self.roster = Roster::new(&self.plan, &parameters);
        self.parameters = parameters;
        if new_types {
            self.plan.refresh_warnings();
        }
        Ok(())
    }

    /// The names and tensors of parameters in host memory, in registration order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parameters.iter().filter_map(|p| Some((p.name.as_str(), p.data.host()?)))
    }

    /// A state buffer as f64 values in row-major order, or `None` if the parameter or the slot does not exist.
    /// [`Slot::Low`] holds whole numbers, the words. On a card this waits for all steps given.
    ///
    /// # Errors
    /// What the card's driver says.
    pub fn state(&self, parameter: &str, slot: Slot) -> Result<Option<Vec<f64>>> {
        let Some(i) = self.parameters.iter().position(|p| p.name == parameter) else { return Ok(None) };
        let storage = self.slot(i, slot)?;
        Ok(storage.map(|storage| match storage {
            Storage::Bf16(words) if slot == Slot::Low => {
                words.iter().map(|word| f64::from(word.to_bits() as i16)).collect()
            }
            storage => {
                with_elements!(Storage, storage, v => v.iter().map(|x| crate::tensor::Element::to_f64(*x)).collect())
            }
        }))
    }

    fn slot(&self, parameter: usize, slot: Slot) -> Result<Option<Storage>> {
        match &self.backend {
            Backend::Cpu(cpu) => Ok(cpu.slot(parameter, slot)),
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.slot(&self.plan, parameter, slot),
        }
    }

    /// Steps applied to a parameter, over all runs; `None` for an unknown one. On a card this waits for all steps given.
    ///
    /// # Errors
    /// What the card's driver says.
    pub fn step_count(&self, parameter: &str) -> Result<Option<u64>> {
        let Some(i) = self.parameters.iter().position(|p| p.name == parameter) else { return Ok(None) };
        match &self.backend {
            Backend::Cpu(cpu) => Ok(Some(cpu.states[i].step)),
            #[cfg(feature = "cuda")]
            Backend::Card(card) => Ok(card.step_counts()?.get(i).copied()),
        }
    }

    /// A parameter's elements as its buffer shows them, row-major.
    fn read(&self, parameter: usize) -> Result<Storage> {
        match &self.backend {
            Backend::Cpu(cpu) => Ok(cpu.read(parameter)),
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.read(&self.parameters[parameter].data),
        }
    }

    fn write(&self, parameter: usize, values: &Storage) -> Result<()> {
        match &self.backend {
            Backend::Cpu(cpu) => cpu.write(parameter, values),
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.write(&self.parameters[parameter].data, values),
        }
    }

    /// Shows the iterates `x` of extrapolated parameters in their buffers, for evaluating or exporting the model.
    /// Steps are refused until [`train_point`](Self::train_point). Other parameters are not touched. On a card this waits.
    ///
    /// # Errors
    /// What the card's driver says; [`train_point`](Self::train_point) then undoes what was done.
    pub fn eval_point(&mut self) -> Result<()> {
        self.check_device()?;
        for i in 0..self.parameters.len() {
            // One that is shelved may not show its iterate, after an error.
            if self.shelved.get(&i).is_some_and(|shelf| shelf.done) {
                continue;
            }
            let Some(point) = self.slot(i, Slot::Point)? else { continue };
            if !self.shelved.contains_key(&i) {
                let values = self.read(i)?;
                self.shelved.insert(i, Shelf { values, done: false });
            }
            let mut iterate = Storage::zeros(self.parameters[i].data.dtype(), point.len());
            copy_converted(&point, &mut iterate);
            self.write(i, &iterate)?;
            if let Some(shelf) = self.shelved.get_mut(&i) {
                shelf.done = true;
            }
        }
        Ok(())
    }

    /// Puts the extrapolated points `y`, where gradients are to be taken, back into the buffers.
    ///
    /// # Errors
    /// What the card's driver says; what is not back yet goes back with the next call.
    pub fn train_point(&mut self) -> Result<()> {
        self.check_device()?;
        let shelved: Vec<usize> = self.shelved.keys().copied().collect();
        for i in shelved {
            if let Some(shelf) = self.shelved.get_mut(&i) {
                // Part of it may be back when the next call fails.
                shelf.done = false;
            }
            if let Some(shelf) = self.shelved.get(&i) {
                self.write(i, &shelf.values)?;
            }
            self.shelved.remove(&i);
        }
        Ok(())
    }

    /// Writes all state to a safetensors file, atomically: a crash at any time leaves the old file or the new one.
    /// The parameters themselves are the training loop's to save.
    ///
    /// # Errors
    /// What the file system refuses; the previous file is intact then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        match &self.backend {
            Backend::Cpu(cpu) => checkpoint::save(path.as_ref(), &self.plan, &cpu.states),
            #[cfg(feature = "cuda")]
            Backend::Card(card) => checkpoint::save(path.as_ref(), &self.plan, &card.snapshot(&self.plan)?),
        }
    }

    /// Reads state written by [`save`](Self::save) of an optimizer with the same parameters and algorithms.
    /// Learning rates and other hyperparameters stay as they are configured here.
    ///
    /// # Errors
    /// [`Error::File`] listing every damaged, missing, extra or unfitting entry; nothing changes then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.check_device()?;
        self.check_no_scan("load")?;
        // `train_point` would put the points of another run beside the loaded state.
        if !self.shelved.is_empty() {
            let reason = "load: the buffers show the iterates (eval_point); call train_point first";
            return Err(Error::Step(reason.into()));
        }
        let finite = self.options.nonfinite != NonFinite::Propagate;
        let states = checkpoint::load(path.as_ref(), &self.plan, finite)?;
        match &mut self.backend {
            Backend::Cpu(cpu) => {
                cpu.states = states;
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.restore(&states),
        }
    }
}
