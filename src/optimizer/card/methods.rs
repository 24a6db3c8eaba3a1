//! What an optimizer does on a card beside `step`.

use super::super::{Backend, Optimizer, StepReport};
use super::Card;
use crate::cuda::{Event, Part, Stream};
use crate::error::{Error, Result};

/// What an optimizer does on a card beside [`step`](Optimizer::step).
impl Optimizer {
    fn card(&mut self) -> Result<&mut Card> {
        match &mut self.backend {
            Backend::Card(card) => Ok(card),
            Backend::Cpu(_) => Err(Error::Step("device `cpu` has no streams: use `step`".into())),
        }
    }

    /// One step of tensors on the card, given to `stream`: nothing is waited for. In a stream that is being captured, the step
    /// becomes part of that graph, with whatever hyperparameters and gradient tensors are in force at each replay: before a
    /// replay, [`write_control`](Self::write_control) sends changed ones.
    ///
    /// # Errors
    /// As [`step`](Self::step); the refusal of a step before, with which nothing was given; tensors in host memory. After an
    /// error of the driver in a capture, the capture is invalid: no graph with part of a step can be made of it.
    pub fn step_on(&mut self, stream: &Stream) -> Result<()> {
        self.step_part(Part::All, stream, None)
    }

    /// The part of a step that concerns one group, as soon as its gradients are there: its work waits for `after`, and
    /// `done` is recorded behind it. Steps by groups decide nothing together: there can be neither clipping nor a scan
    /// ([`NonFinite::Propagate`](crate::NonFinite::Propagate)), and they are not in the reports.
    ///
    /// # Errors
    /// As [`step_on`](Self::step_on); an unknown group; options that concern all gradients. Where `done` cannot be recorded the
    /// step has been given all the same: the optimizer is lost then.
    pub fn step_group_on(
        &mut self,
        group: &str,
        stream: &Stream,
        after: Option<&Event>,
        done: Option<&Event>,
    ) -> Result<()> {
        let index = self.find_group(group)?;
        if self.options.decides() {
            let reason =
                "step_group_on: clipping and the policies `error` and `skip` need all gradients; use step_on";
            return Err(Error::Step(reason.into()));
        }
        self.step_part(Part::Group(index), stream, after)?;
        let recorded = done.map_or(Ok(()), |event| event.record(stream));
        // The step has been given: to say that nothing was done would be wrong, and so would be to do it again.
        recorded.or_else(|error| Err(self.card()?.engine.abandon(error)))
    }

    fn step_part(&mut self, part: Part, stream: &Stream, after: Option<&Event>) -> Result<()> {
        let report = self.check_step(part.group())?;
        let (step, Backend::Card(card)) = self.parts() else {
            return Err(Error::Step("device `cpu` has no streams: use `step`".into()));
        };
        if card.on_host {
            return Err(Error::Step("step_on: tensors lie in host memory: use `step`".into()));
        }
        stream.check_in(card.engine.context())?;
        if let Some(event) = after {
            card.engine.check()?;
            let waits = stream.wait(event);
            card.engine.note(waits)?;
        }
        card.submit(&step, part, stream, report)?;
        if part == Part::All {
            self.micro_batches = 0;
        }
        Ok(())
    }

    /// Sends changed hyperparameters and bindings to the card, in the stream's order: before a replay of a graph that a step
    /// was captured into.
    ///
    /// # Errors
    /// As [`step`](Self::step) before it is given; a step that has to be captured again, since bindings with other strides or
    /// alignments, clipping that was switched on or off, or an algorithm with other Newton-Schulz iterations made it other
    /// launches; what the driver says; device `cpu`.
    pub fn write_control(&mut self, stream: &Stream) -> Result<()> {
        self.check_step(None)?;
        self.card()?.write_control(stream)
    }

    /// Captures a step now rather than with the first one.
    ///
    /// # Errors
    /// What the driver says; device `cpu`.
    pub fn warm_up(&mut self) -> Result<()> {
        self.card()?.engine.prepare_graph(Part::All, "warm_up")
    }

    /// Reports of the steps that the card has decided on and that were not reported before, without waiting: what a step
    /// does after its decision may still be under way. Of more than 64 steps between two
    /// calls the oldest are not reported.
    ///
    /// # Errors
    /// The first of those steps that was refused under [`NonFinite::Error`](crate::NonFinite::Error); the card's loss.
    pub fn status(&mut self) -> Result<Vec<StepReport>> {
        self.card()?.status()
    }

    /// Waits until all steps given are done.
    ///
    /// # Errors
    /// What the card's work failed with.
    pub fn synchronize(&self) -> Result<()> {
        match &self.backend {
            Backend::Card(card) => card.engine.wait(),
            Backend::Cpu(_) => Ok(()),
        }
    }

    /// Bytes of device memory that the optimizer holds beside the tensors: state, work space, tables.
    pub fn device_bytes(&self) -> [usize; 3] {
        match &self.backend {
            Backend::Card(card) => card.engine().bytes(),
            Backend::Cpu(_) => [0; 3],
        }
    }
}
