//! A step on a card in two halves, between which ranks of a parallel training reduce what it is decided from.

use super::super::{Backend, DeviceScalars, Optimizer};
use super::Card;
use crate::cuda::{Part, Stream};
use crate::error::{Error, Result};

/// The first half of a step that was given without the second.
#[derive(Debug)]
pub(super) struct Open {
    pub stream: Stream,
    /// Which capture of a caller's graph it is part of.
    pub capture: Option<u64>,
}

impl Card {
    pub fn has_open_scan(&self) -> bool {
        self.open.is_some()
    }

    pub fn forget_scan(&mut self) {
        self.open = None;
    }

    /// What of a step that is asked for has yet to be given.
    pub(super) fn half_of(&self, part: Part, stream: &Stream) -> Result<Part> {
        let Some(open) = self.open.as_ref().filter(|_| part == Part::All) else { return Ok(part) };
        let refuse = |reason: &str| Err(Error::Step(format!("step: {reason}, or forget_scan")));
        if open.stream.raw() != stream.raw() {
            return refuse("a scan is open in another stream: use that one");
        }
        match (open.capture, self.engine.capture_of(stream)?) {
            (Some(scan), Some(step)) if scan != step => {
                refuse("a scan is open that was captured into another graph: capture the step with it")
            }
            (Some(_), None) => {
                refuse("a scan is open that was captured into a graph: capture the step with it")
            }
            (None, Some(_)) => refuse("a scan is open that no graph has: capture it with the step"),
            _ => Ok(Part::Rest),
        }
    }
}

/// Steps in two halves.
impl Optimizer {
    /// The first half of a step of tensors on the card, in the builder's stream: [`scan_on`](Self::scan_on).
    ///
    /// # Errors
    /// As [`scan_on`](Self::scan_on); no stream.
    pub fn scan(&mut self) -> Result<DeviceScalars> {
        let stream = match &self.backend {
            // Refused for it.
            Backend::Card(card) if card.on_host => Some(card.engine.stream().clone().into()),
            Backend::Card(card) => card.stream.clone(),
            Backend::Cpu(_) => return Err(Error::Step("scan: use `scan_host` on device `cpu`".into())),
        };
        let Some(stream) = stream else {
            let reason = "scan: name the stream, with the builder's `stream` or `scan_on`";
            return Err(Error::Step(reason.into()));
        };
        self.scan_on(&stream)
    }

    /// The first half of a step of tensors on the card, given to `stream`: a look at all gradients, which leaves what the
    /// step is decided from at the addresses returned, the same ones every time until gradients are bound anew. Nothing is
    /// waited for and no parameter or state is changed. The caller may reduce the scalars there over several ranks, in the
    /// order of `stream`; the next [`step`](Self::step) or [`step_on`](Self::step_on) of that stream is the second half.
    /// Both halves or none may be captured.
    ///
    /// Until then gradients cannot be bound or accumulated, state cannot be loaded, and neither `max_grad_norm` nor an
    /// algorithm can be set; learning rate, weight decay and loss scale can. [`forget_scan`](Self::forget_scan) gives the
    /// half step up.
    ///
    /// # Errors
    /// As [`step_on`](Self::step_on), whose second half in turn tells of no step that was refused before; a scan that is open
    /// already; options with which there is nothing to reduce (neither clipping nor a look for non-finite gradients).
    pub fn scan_on(&mut self, stream: &Stream) -> Result<DeviceScalars> {
        let report = self.check_scan("scan")?;
        let (step, Backend::Card(card)) = self.parts() else {
            return Err(Error::Step("scan_on: device `cpu` has no streams: use `scan_host`".into()));
        };
        if card.on_host {
            let reason =
                "scan: tensors lie in host memory: use device `cpu` with `scan_host`, or tensors on the card";
            return Err(Error::Step(reason.into()));
        }
        stream.check_in(card.engine.context())?;
        card.submit(&step, Part::Scan, stream, report)?;
        let (sum, max) = card.engine.scalars();
        Ok(DeviceScalars { sum, max })
    }
}
