//! The streams that steps are given to.
//!
//! Callers order steps on different streams as their tensors need it. They know nothing of what the host writes between steps,
//! the control block and the tables, which all streams read: that is ordered here, by events, and only where there is more
//! than one stream.

use super::api::{self, Answer};
use super::context::Context;
use super::stream::{Event, Stream};
use crate::error::Result;

#[derive(Debug)]
pub(crate) struct Streams {
    /// With work that may not be done, the latest last. They stay alive until it is.
    busy: Vec<Stream>,
    /// Behind the host's latest write. The first is the one that it was given to.
    informed: Vec<Stream>,
    /// Behind that write, if it is `recorded`.
    written: Event,
    recorded: bool,
    /// Behind the work of another stream.
    before: Event,
}

/// More streams than this are waited for and forgotten.
const MOST: usize = 16;

impl Streams {
    pub fn new(context: &Context) -> Result<Self> {
        let event = || Event::new(context, false);
        Ok(Self { busy: vec![], informed: vec![], written: event()?, recorded: false, before: event()? })
    }

    /// What steps on other streams have yet to read comes before the host's write on this one.
    pub fn before_write(&self, stream: &Stream) -> Answer<()> {
        for other in self.busy.iter().filter(|other| other.raw() != stream.raw()) {
            // What is recorded in a stream that is being captured becomes part of the caller's graph, and orders nothing now.
            if api::is_capturing(other.raw())? {
                continue;
            }
            api::record_event(self.before.raw(), other.raw())?;
            api::wait_event(stream.raw(), self.before.raw())?;
        }
        Ok(())
    }

    /// The host's write was given. Other streams will wait for all that this one has been given when they do, or, from `now`
    /// on, for what it has been given so far.
    pub fn after_write(&mut self, stream: &Stream, now: bool) -> Answer<()> {
        self.informed = vec![stream.clone()];
        self.recorded = false;
        if now {
            api::record_event(self.written.raw(), stream.raw())?;
            self.recorded = true;
        }
        Ok(())
    }

    /// Brings a stream behind the host's latest write.
    pub fn inform(&mut self, stream: &Stream) -> Answer<()> {
        let Some(writer) = self.informed.first() else { return Ok(()) };
        if self.informed.iter().any(|informed| informed.raw() == stream.raw()) {
            return Ok(());
        }
        if !self.recorded {
            api::record_event(self.written.raw(), writer.raw())?;
            self.recorded = true;
        }
        api::wait_event(stream.raw(), self.written.raw())?;
        self.informed.push(stream.clone());
        Ok(())
    }

    /// Work was given to a stream.
    pub fn given(&mut self, stream: &Stream) {
        if self.busy.last().is_some_and(|last| last.raw() == stream.raw()) {
            return;
        }
        self.busy.retain(|busy| busy.raw() != stream.raw());
        self.busy.push(stream.clone());
    }

    pub fn busy(&self) -> impl Iterator<Item = &Stream> {
        self.busy.iter()
    }

    pub fn are_many(&self) -> bool {
        self.busy.len() > MOST || self.informed.len() > MOST
    }

    /// Everything that was given is done.
    pub fn all_done(&mut self) {
        self.busy.clear();
        self.informed.clear();
    }
}
