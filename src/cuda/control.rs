//! What host and card tell each other: the control block on its way to the card, and the journal of steps on its way back.

use super::api::{self, Answer, CUstream};
use super::context::Context;
use super::elementwise::group_entry;
use super::memory::Pinned;
use super::stream::Event;
use super::table::{Control, ENTRIES, Entry, Group as GroupEntry, RING, STATUS_BYTES};
use crate::error::{Error, Result};
use crate::group::{Group, Hyperparameters};
use crate::optimizer::{NonFinite, StepOptions};

/// Changes of hyperparameters that may be under way at once.
const SLOTS: usize = 64;

/// Bytes of the control block.
pub(crate) fn control_bytes(groups: usize) -> usize {
    size_of::<Control>() + groups * size_of::<GroupEntry>()
}

/// Bytes behind the ring of what steps measure: for each entry two numbers for each group (what it moved by, its dual norms),
/// and the step.
pub(crate) fn moved_bytes(groups: usize) -> usize {
    8 * ENTRIES as usize * (2 * groups + 1)
}

/// Control blocks in pinned memory. Each copy to the card reads a slot of its own, so a step that waits in its stream never
/// sees the values of a later one.
#[derive(Debug)]
pub(crate) struct Ring {
    pinned: Pinned,
    stride: usize,
    bytes: Vec<u8>,
    /// Whether the card has not been sent `bytes` yet.
    changed: bool,
    next: usize,
    busy: [Busy; SLOTS],
    /// Of each slot, for copies that come before no step of ours. Made when first needed.
    events: Vec<Option<Event>>,
    context: Context,
}

/// Until when a slot may not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    No,
    /// Its copy comes before this step.
    Step(u64),
    /// Its event comes after its copy.
    Event,
}

impl Ring {
    pub fn new(context: &Context, groups: usize) -> Result<Self> {
        let stride = control_bytes(groups).next_multiple_of(64);
        let pinned = Pinned::new(context, stride * SLOTS)?;
        let events = std::iter::repeat_with(|| None).take(SLOTS).collect();
        let (busy, context) = ([Busy::No; SLOTS], context.clone());
        Ok(Self { pinned, stride, bytes: vec![], changed: false, next: 0, busy, events, context })
    }

    /// The values of later steps.
    pub fn set(&mut self, groups: &[Group], hyper: &[Hyperparameters], options: &StepOptions) -> Result<()> {
        let head = Control {
            max_grad_norm: options.max_grad_norm.unwrap_or(f64::INFINITY),
            loss_scale: options.loss_scale,
            clips: options.max_grad_norm.is_some().into(),
            scans: (options.nonfinite != NonFinite::Propagate).into(),
            pad: 0,
        };
        let mut bytes = bytemuck::bytes_of(&head).to_vec();
        for (group, hyper) in groups.iter().zip(hyper) {
            let entry = group_entry(group, *hyper).ok_or_else(|| {
                let what = format!("group `{}`: `{}` on a card", group.name(), group.algorithm().name());
                Error::not_built(what, "; use device `cpu`")
            })?;
            bytes.extend_from_slice(bytemuck::bytes_of(&entry));
        }
        if bytes != self.bytes {
            self.bytes = bytes;
            self.changed = true;
        }
        Ok(())
    }

    /// Whether the card has not been sent the latest values.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Whether there is a slot for the latest values, with `completed` steps done; it waits for one that an event says is free.
    pub fn has_room(&mut self, completed: u64) -> Answer<bool> {
        match self.busy[self.next] {
            Busy::Step(step) if self.changed && step > completed => return Ok(false),
            Busy::Event if self.changed => {
                if let Some(event) = &self.events[self.next] {
                    api::synchronize_event(event.raw())?;
                }
            }
            _ => {}
        }
        Ok(true)
    }

    /// All copies are done.
    pub fn all_done(&mut self) {
        self.busy = [Busy::No; SLOTS];
    }

    /// Sends the values to the card, if it does not have them. The copy is done when `step` is, or else, where no step of
    /// ours comes behind it, when an event says so.
    pub fn write(&mut self, to: u64, step: Option<u64>, stream: CUstream) -> Answer<()> {
        if !self.changed {
            return Ok(());
        }
        let slot = self.next;
        let at = slot * self.stride;
        self.pinned.write(at, &self.bytes);
        if step.is_none() && self.events[slot].is_none() {
            self.events[slot] = Some(Event::made_in(&self.context)?);
        }
        // Until the card has said otherwise.
        self.busy[slot] = step.map_or(Busy::Event, Busy::Step);
        api::copy_from_pinned(to, self.pinned.at(at), self.bytes.len(), stream)?;
        if let (None, Some(event)) = (step, &self.events[slot]) {
            api::record_event(event.raw(), stream)?;
        }
        self.next = (slot + 1) % SLOTS;
        self.changed = false;
        Ok(())
    }
}

/// What each group moved by, and its dual norms.
pub(crate) type Measured = (Vec<f64>, Vec<f64>);

/// What became of a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// With what each group moved by, and its dual norms, where steps measure that.
    Known(Entry, Option<Measured>),
    /// It was done so long ago that later steps have taken its place in the ring.
    Forgotten,
}

/// The card's own account of steps, in pinned memory. Every step ends with a copy of it, so reading it waits for nothing.
#[derive(Debug)]
pub(crate) struct Journal {
    pinned: Pinned,
    /// Of groups that steps measure.
    measured: Option<usize>,
    submitted: u64,
    seen: u64,
    /// Steps known to be done because somebody waited.
    waited: u64,
}

impl Journal {
    /// `measured`: the number of groups, where steps measure what they move by.
    pub fn new(context: &Context, measured: Option<usize>) -> Result<Self> {
        let pinned = Pinned::new(context, STATUS_BYTES + measured.map_or(0, moved_bytes))?;
        Ok(Self { pinned, measured, submitted: 0, seen: 0, waited: 0 })
    }

    /// Adds the copy to a step.
    pub fn copy_from(&self, status: u64, bytes: usize, stream: CUstream) -> Answer<()> {
        api::copy_to_pinned(self.pinned.at(0), status, bytes, stream)
    }

    /// Whole steps given.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Whole steps known to be done.
    pub fn completed(&self) -> u64 {
        let [steps] = self.pinned.words(0);
        steps.max(self.waited)
    }

    /// Steps applied and skipped, as of the last one that is known to be done.
    pub fn counts(&self) -> (u64, u64) {
        let [applied, skipped] = self.pinned.words(8);
        (applied, skipped)
    }

    /// A whole step was given.
    pub fn submit(&mut self) {
        self.submitted += 1;
    }

    /// Whole steps that somebody waited for.
    pub fn waited(&self) -> u64 {
        self.waited
    }

    pub fn all_done(&mut self) {
        self.waited = self.submitted;
    }

    /// What became of the steps since the last call.
    pub fn outcomes(&mut self) -> Vec<Outcome> {
        let [done] = self.pinned.words(0);
        let mut out = vec![];
        while self.seen < done {
            let step = self.seen + 1;
            let at = RING + ((step - 1) % ENTRIES) as usize * size_of::<Entry>();
            // The seal is written last, so it is read first.
            let [seal] = self.pinned.words(at + std::mem::offset_of!(Entry, seal));
            std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
            let words: [u64; size_of::<Entry>() / 8] = self.pinned.words(at);
            let entry: Entry = bytemuck::cast(words);
            if entry.step == step && seal == step {
                let Some(moved) = self.moved(step) else { break };
                out.push(Outcome::Known(entry, moved));
            } else if entry.step > step {
                out.push(Outcome::Forgotten);
            } else {
                // A copy is on its way: the rest the next time.
                break;
            }
            self.seen = step;
        }
        out
    }

    /// What was measured of a step, where anything is; nothing at all where it is not there yet.
    fn moved(&self, step: u64) -> Option<Option<Measured>> {
        let Some(groups) = self.measured else { return Some(None) };
        let at = STATUS_BYTES + 8 * ((step - 1) % ENTRIES) as usize * (2 * groups + 1);
        let [seal] = self.pinned.words(at + 16 * groups);
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        if seal != step {
            return None;
        }
        let word = |place: usize| {
            let [bits] = self.pinned.words(at + 8 * place);
            f64::from_bits(bits)
        };
        Some(Some(((0..groups).map(word).collect(), (groups..2 * groups).map(word).collect())))
    }
}
