//! Steps on a card: of tensors that lie there, and of tensors in host memory through copies.

use std::collections::VecDeque;
use std::sync::Arc;

use super::builder::Parameter;
use super::{AnyTensor, NonFinite, Step, StepOptions, StepReport};
use crate::algorithm::Slot;
use crate::cuda::table::{ELSEWHERE, ENTRIES, Entry, NON_FINITE, OVERFLOW};
use crate::cuda::{Accumulation, Buffer, Context, DeviceBuffer, Engine, Outcome, Part, Stream};
use crate::error::{Error, Result};
use crate::group::{Group, Hyperparameters};
use crate::plan::Plan;
use crate::reference::State;
use crate::tensor::Storage;

mod halves;
mod methods;
mod mirror;

use halves::Open;
use mirror::{Mirror, bindings, bindings_with, check_places, no_room};

/// An engine, and what it needs to work for host tensors.
#[derive(Debug)]
pub(super) struct Card {
    engine: Engine,
    /// Where tensors lie on the card: the stream that steps are given to.
    stream: Option<Arc<Stream>>,
    /// Copies of host tensors, of each parameter.
    mirrors: Vec<Mirror>,
    on_host: bool,
    names: Vec<String>,
    /// Whether each parameter has been given a step.
    started: Vec<bool>,
    /// Whether all have: then a step's cost does not depend on their number.
    all_started: bool,
    accumulation: Option<Accumulation>,
    /// Whether one was captured into a caller's graph; then the tables of earlier bindings are kept.
    accumulation_captured: bool,
    retired: Vec<Accumulation>,
    /// Of steps that are done: reports and refusals that nobody was told of, the oldest first.
    outcomes: VecDeque<Result<StepReport>>,
    options: StepOptions,
    /// What is known beforehand of steps whose outcome is not known, the oldest first.
    given: VecDeque<StepReport>,
    /// The same of the latest step: for replays of a caller's graph, of which nobody says that they were given.
    latest: StepReport,
    captured: bool,
    /// The first half of a step that was given without the second.
    open: Option<Open>,
}

impl Card {
    pub fn new(
        context: Context,
        stream: Option<Arc<Stream>>,
        plan: &Plan,
        hyper: &[Hyperparameters],
        options: &StepOptions,
        parameters: &[Parameter],
    ) -> Result<Self> {
        crate::cuda::check_plan(context.device(), plan)?;
        if let Some(stream) = &stream {
            stream.check_in(&context)?;
        }
        let on_host = parameters.first().is_none_or(|p| p.data.host().is_some());
        check_places(&context, parameters, on_host)?;
        let mut mirrors: Vec<Mirror> = parameters.iter().map(|_| Mirror::default()).collect();
        for (i, mirror) in mirrors.iter_mut().enumerate() {
            mirror
                .fit(&context, &parameters[i])
                .map_err(|error| no_room(&context, &parameters[i..], error))?;
        }
        let bindings = |i: usize| bindings(&parameters[i], &mirrors[i]);
        let mut engine = Engine::new(&context, plan, options, bindings, options.seed)?;
        engine.set_control(&plan.groups, hyper, options)?;
        let mut this = Self {
            engine,
            stream,
            mirrors,
            on_host,
            names: parameters.iter().map(|p| p.name.clone()).collect(),
            started: vec![false; parameters.len()],
            all_started: false,
            accumulation: None,
            accumulation_captured: false,
            retired: vec![],
            outcomes: VecDeque::new(),
            options: *options,
            given: VecDeque::new(),
            latest: StepReport::default(),
            captured: false,
            open: None,
        };
        if on_host {
            for (i, parameter) in parameters.iter().enumerate() {
                this.upload(i, &parameter.data, |mirror| &mirror.data)?;
            }
        }
        let stream =
            this.stream.as_ref().filter(|_| !on_host).map_or(this.engine.stream().raw(), |s| s.raw());
        this.engine.fill(plan, stream)?;
        this.accumulation = this.pairs(parameters)?;
        Ok(this)
    }

    /// The micro-batches' gradients of tensors on the card.
    fn pairs(&self, parameters: &[Parameter]) -> Result<Option<Accumulation>> {
        let pairs: Vec<_> = parameters
            .iter()
            .filter_map(|p| match (&p.grad, &p.micro_grad) {
                (Some(AnyTensor::Device(sum)), Some(AnyTensor::Device(addend))) => {
                    Some((Buffer::of(sum), Buffer::of(addend), sum.shape()))
                }
                _ => None,
            })
            .collect();
        let new = || Accumulation::new(self.engine.context(), self.engine.stream(), &pairs);
        if pairs.is_empty() { Ok(None) } else { new().map(Some) }
    }

    pub fn on_host(&self) -> bool {
        self.on_host
    }

    /// Adds micro-batches' gradients in `stream`, or in the builder's.
    pub fn accumulate(&mut self, stream: Option<&Stream>, scale: f32, first: bool) -> Result<()> {
        self.engine.check()?;
        let Some(accumulation) = &self.accumulation else {
            return Err(Error::Step("accumulate_on: tensors lie in host memory: use `accumulate`".into()));
        };
        let stream = stream.or(self.stream.as_deref()).ok_or_else(|| {
            let reason = "accumulate: tensors lie on the card; name the stream, with the builder's `stream` or \
                          `accumulate_on`";
            Error::Step(reason.into())
        })?;
        stream.check_in(self.engine.context())?;
        // A caller's graph goes on reading the table.
        self.accumulation_captured |= self.engine.is_capturing(stream)?;
        self.engine.note(accumulation.run(stream.raw(), scale, first))?;
        self.engine.remember(stream);
        Ok(())
    }

    /// Steps work on these tensors from now on. Nothing changes when this fails.
    pub fn bind(&mut self, plan: &Plan, parameters: &[Parameter]) -> Result<()> {
        self.bind_with(plan, parameters, false)
    }

    fn bind_with(&mut self, plan: &Plan, parameters: &[Parameter], other_algorithms: bool) -> Result<()> {
        self.engine.check()?;
        self.engine.note(check_places(self.engine.context(), parameters, self.on_host))?;
        let context = self.engine.context().clone();
        // New copies first; the old ones stay until the tables speak of the new.
        let fresh = self.mirrors.iter().zip(parameters).map(|(m, p)| m.missing(&context, p));
        let fresh = self.engine.note(fresh.collect::<Result<Vec<Mirror>>>())?;
        let accumulation = self.engine.note(self.pairs(parameters))?;
        if fresh.iter().any(|m| m.grad.is_some() || m.prev_grad.is_some()) || self.accumulation.is_some() {
            // Work under way reads the old ones. Beforehand, since the tables cannot be taken back.
            self.engine.wait()?;
        }
        let merged = |i: usize| bindings_with(&parameters[i], &self.mirrors[i], &fresh[i]);
        self.engine.rebind(plan, merged, other_algorithms)?;
        let before = std::mem::replace(&mut self.accumulation, accumulation);
        self.retired.extend(before.filter(|_| self.accumulation_captured));
        for (mirror, new) in self.mirrors.iter_mut().zip(fresh) {
            mirror.grad = new.grad.or(mirror.grad.take());
            mirror.prev_grad = new.prev_grad.or(mirror.prev_grad.take());
        }
        Ok(())
    }

    /// Scales and flags in the tables follow the algorithms.
    pub fn regroup(&mut self, plan: &Plan, parameters: &[Parameter]) -> Result<()> {
        crate::cuda::check_plan(self.engine.context().device(), plan)?;
        self.bind_with(plan, parameters, true)
    }

    pub fn set_control(
        &mut self,
        groups: &[Group],
        hyper: &[Hyperparameters],
        options: &StepOptions,
    ) -> Result<()> {
        self.engine.set_control(groups, hyper, options)?;
        self.options = *options;
        Ok(())
    }

    /// Whether a parameter has taken a step. Asked of the card where one was given: it may have been refused.
    pub fn started(&self, parameter: usize) -> bool {
        self.started[parameter] && self.step_counts().map_or(true, |counts| counts[parameter] > 0)
    }

    /// Applied and skipped steps, as far as the card has come.
    pub fn counts(&self) -> (u64, u64) {
        let (applied, skipped) = self.engine.journal().counts();
        (applied, if self.options.nonfinite == NonFinite::Skip { skipped } else { 0 })
    }

    pub fn step(&mut self, step: &Step<'_>, report: StepReport) -> Result<StepReport> {
        if !self.on_host {
            let stream = self.stream.clone().ok_or_else(|| {
                let reason = "step: tensors lie on the card; name the stream, with the builder's `stream` or `step_on`";
                Error::Step(reason.into())
            })?;
            self.submit(step, Part::All, &stream, report.clone())?;
            return Ok(StepReport { pending: true, ..report });
        }
        self.step_host(step, report)
    }

    /// Gives a step, or a part of one, to a stream. The error of a refused step before comes first.
    pub fn submit(&mut self, step: &Step<'_>, part: Part, stream: &Stream, report: StepReport) -> Result<()> {
        let given = self.give(step, part, stream, report);
        let captured = self.open.as_ref().is_some_and(|open| open.capture.is_some());
        if captured && matches!(given, Err(Error::Driver { .. } | Error::DeviceLost { .. })) {
            self.engine.spoil_capture(stream);
        }
        given
    }

    fn give(&mut self, step: &Step<'_>, part: Part, stream: &Stream, report: StepReport) -> Result<()> {
        let part = self.half_of(part, stream)?;
        self.collect();
        // To wait for a stream that is being captured would end its capture.
        if self.given.len() as u64 >= ENTRIES && !self.engine.is_capturing(stream)? {
            // The card's ring would forget what became of the first.
            self.engine.wait()?;
            self.collect();
        }
        // The other ranks go on with a step that was begun: this one is told with the next.
        if part != Part::Rest
            && let Some(error) = self.next_refusal()
        {
            return Err(error);
        }
        let capture = if part == Part::Scan { self.engine.capture_of(stream)? } else { None };
        let captured = self.engine.submit(part, stream)?;
        if part == Part::Scan {
            self.open = Some(Open { stream: stream.clone(), capture });
            return Ok(());
        }
        self.open = None;
        self.note_given(part, captured, report);
        if !self.all_started {
            for &i in step.present {
                self.started[i] |= part.group().is_none_or(|group| step.plan.parameters[i].group == group);
            }
            self.all_started = self.started.iter().all(|started| *started);
        }
        Ok(())
    }

    /// A step of host tensors: there, and back.
    fn step_host(&mut self, step: &Step<'_>, report: StepReport) -> Result<StepReport> {
        for &i in step.present {
            let p = &step.parameters[i];
            self.upload(i, &p.data, |mirror| &mirror.data)?;
            if let Some(grad) = &p.grad {
                self.upload(i, grad, |mirror| &mirror.grad)?;
            }
            if let Some(previous) = &p.prev_grad {
                self.upload(i, previous, |mirror| &mirror.prev_grad)?;
            }
        }
        let stream = self.engine.stream().clone();
        self.engine.submit(Part::All, &stream)?;
        self.note_given(Part::All, false, report);
        // From here on an error leaves the card ahead of the host.
        let finished = self.finish_host(step);
        match finished {
            Err(error @ (Error::Driver { .. } | Error::Step(_))) => Err(self.engine.abandon(error)),
            finished => finished,
        }
    }

    fn finish_host(&mut self, step: &Step<'_>) -> Result<StepReport> {
        self.engine.wait()?;
        self.collect();
        let Some(outcome) = self.outcomes.pop_back() else {
            return Err(Error::Step("step: the card did not say what became of it".into()));
        };
        self.outcomes.clear();
        let report = outcome?;
        if report.applied {
            let read = |&i: &usize| {
                let parameter = &step.parameters[i];
                let data = &parameter.data;
                let values = self.engine.read(bindings(parameter, &self.mirrors[i]).0, data.shape())?;
                Ok((data, values))
            };
            let values: Vec<_> = step.present.iter().map(read).collect::<Result<_>>()?;
            for (data, values) in values {
                if let Some(tensor) = data.host() {
                    tensor.assign(&values)?;
                }
            }
            step.present.iter().for_each(|&i| self.started[i] = true);
        }
        Ok(report)
    }

    /// The report of a step that is done, or the error that it was refused with.
    fn conclude(&self, entry: &Entry, report: StepReport) -> Result<StepReport> {
        let grad_norm = report.grad_norm.map(|_| entry.norm);
        // Steps that are refused under `error` do not count: the next has their number.
        let number = if self.options.nonfinite == NonFinite::Skip { entry.step } else { entry.applied + 1 };
        let orthogonalise_fallbacks = entry.fallbacks as usize;
        let report = StepReport { grad_norm, pending: false, orthogonalise_fallbacks, ..report };
        let name = || self.names.get(entry.parameter as usize).cloned().unwrap_or_default();
        let refused = match entry.verdict {
            NON_FINITE => Error::NonFiniteGradient {
                step: number,
                parameter: name(),
                index: entry.index as usize,
                value: entry.bad.to_string(),
            },
            OVERFLOW => Error::GradientOverflow {
                step: number,
                parameter: name(),
                value: entry.value,
                limit: entry.limit,
            },
            ELSEWHERE => Error::RefusedElsewhere { step: number },
            _ => return Ok(StepReport { applied: true, ..report }),
        };
        match self.options.nonfinite {
            NonFinite::Skip => {
                let non_finite = (entry.verdict != ELSEWHERE).then(name);
                Ok(StepReport { non_finite, updated: 0, update_rms: None, dual_norms: None, ..report })
            }
            _ => Err(refused),
        }
    }

    /// What a whole step's report will say is kept until its outcome is known.
    fn note_given(&mut self, part: Part, captured: bool, report: StepReport) {
        if !part.concludes() {
            return;
        }
        // The value is the card's to tell.
        let grad_norm = self.options.max_grad_norm.map(|_| 0.0);
        self.latest = StepReport { grad_norm, ..report };
        self.captured |= captured;
        if !captured {
            self.given.push_back(self.latest.clone());
        }
    }

    fn collect(&mut self) {
        for outcome in self.engine.outcomes() {
            // Replays come in between: which step is whose is not known then.
            let given = self.given.pop_front().filter(|_| !self.captured);
            if let Outcome::Known(entry, measured) = outcome {
                let (update_rms, dual_norms) = measured.unzip();
                let given = given.unwrap_or_else(|| self.latest.clone());
                let outcome = self.conclude(&entry, StepReport { update_rms, dual_norms, ..given });
                self.outcomes.push_back(outcome);
            }
        }
        while self.outcomes.len() as u64 > ENTRIES {
            // Refusals are the last that may be forgotten.
            let at = self.outcomes.iter().position(Result::is_ok).unwrap_or(1);
            self.outcomes.remove(at);
        }
    }

    /// The first refusal that nobody was told of.
    fn next_refusal(&mut self) -> Option<Error> {
        let at = self.outcomes.iter().position(Result::is_err)?;
        self.outcomes.remove(at)?.err()
    }

    /// Reports of the steps that are done and were not reported before; the error of the first that was refused, alone.
    pub fn status(&mut self) -> Result<Vec<StepReport>> {
        self.engine.check()?;
        self.collect();
        match self.next_refusal() {
            Some(error) => Err(error),
            None => self.outcomes.drain(..).collect(),
        }
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn write_control(&mut self, stream: &Stream) -> Result<()> {
        stream.check_in(self.engine.context())?;
        self.engine.write_control_for_replay(stream)
    }

    fn upload(
        &self,
        i: usize,
        tensor: &AnyTensor,
        of: impl Fn(&Mirror) -> &Option<DeviceBuffer>,
    ) -> Result<()> {
        let (Some(tensor), Some(copy)) = (tensor.host(), of(&self.mirrors[i])) else { return Ok(()) };
        let values = tensor.to_storage();
        self.engine.write(Buffer::new(copy.address(), tensor.dtype()), tensor.shape(), values.as_le_bytes())
    }

    pub fn slot(&self, plan: &Plan, parameter: usize, slot: Slot) -> Result<Option<Storage>> {
        let shape = &plan.parameters[parameter].spec.shape;
        self.engine.slot(parameter, slot).map(|buffer| self.engine.read(buffer, shape)).transpose()
    }

    pub fn step_counts(&self) -> Result<Vec<u64>> {
        self.engine.step_counts()
    }

    pub fn read(&self, data: &AnyTensor) -> Result<Storage> {
        match data {
            AnyTensor::Host(tensor) => Ok(tensor.to_storage()),
            AnyTensor::Device(tensor) => self.engine.read(Buffer::of(tensor), tensor.shape()),
        }
    }

    pub fn write(&self, data: &AnyTensor, values: &Storage) -> Result<()> {
        match data {
            AnyTensor::Host(tensor) => tensor.assign(values),
            AnyTensor::Device(tensor) => {
                self.engine.wait()?;
                self.engine.write(Buffer::of(tensor), tensor.shape(), values.as_le_bytes())?;
                self.engine.wait()
            }
        }
    }

    pub fn snapshot(&self, plan: &Plan) -> Result<Vec<State>> {
        self.engine.snapshot(plan)
    }

    pub fn restore(&mut self, states: &[State]) -> Result<()> {
        self.engine.restore(states)?;
        self.started = states.iter().map(|state| state.step > 0).collect();
        self.all_started = false;
        Ok(())
    }
}
