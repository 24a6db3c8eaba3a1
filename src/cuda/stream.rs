//! Streams and events, each with one owner that destroys it.

use std::sync::Arc;

use super::api::{self, Answer, CUstream};
use super::context::{Context, Handle};
use crate::error::{Error, Result};

/// A stream of work. Clones are the same stream, which is destroyed with the last of them.
#[derive(Debug, Clone)]
pub struct Stream(Arc<InnerStream>);

#[derive(Debug)]
struct InnerStream {
    context: Context,
    raw: Handle<CUstream>,
    owned: bool,
}

impl Stream {
    /// A stream of its own, which does not wait for the default stream.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(context: &Context) -> Result<Self> {
        let raw = context.run("making a stream", api::create_stream)?;
        Ok(Self::of(context, raw, true))
    }

    fn of(context: &Context, raw: CUstream, owned: bool) -> Self {
        Self(Arc::new(InnerStream { context: context.clone(), raw: Handle(raw), owned }))
    }

    /// Refuses a stream of another context than this.
    pub(crate) fn check_in(&self, context: &Context) -> Result<()> {
        if self.context().raw() == context.raw() {
            return Ok(());
        }
        let reason = "the stream given belongs to another context".into();
        Err(Error::Device { device: context.device().to_string(), reason })
    }

    /// The caller's stream (a `CUstream`, or a `cudaStream_t`), which is not destroyed here.
    ///
    /// # Errors
    /// A stream of another context.
    ///
    /// # Safety
    /// `stream` must be a live stream, and stay alive for as long as this object and every optimizer that was given it.
    #[allow(unsafe_code, reason = "the caller promises what nobody can check")]
    pub unsafe fn from_raw(context: &Context, stream: *mut std::ffi::c_void) -> Result<Self> {
        let raw: CUstream = stream.cast();
        let of = context.run("looking at the caller's stream", || api::stream_context(raw))?;
        if of != context.raw() {
            let reason = "the stream given belongs to another context".into();
            return Err(Error::Device { device: context.device().to_string(), reason });
        }
        Ok(Self::of(context, raw, false))
    }

    /// Waits for its work.
    ///
    /// # Errors
    /// What that work failed with.
    pub fn synchronize(&self) -> Result<()> {
        self.context().run("waiting for a stream", || api::synchronize_stream(self.raw()))
    }

    /// Later work waits for an event.
    ///
    /// # Errors
    /// What the driver says.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.context().run("waiting for an event", || api::wait_event(self.raw(), event.raw()))
    }

    /// The context that it belongs to.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// The driver's handle, a `CUstream`.
    pub fn as_raw(&self) -> *mut std::ffi::c_void {
        self.raw().cast()
    }

    pub(crate) fn raw(&self) -> CUstream {
        self.0.raw.0
    }
}

impl Drop for InnerStream {
    fn drop(&mut self) {
        if self.owned {
            self.context.give_back(|| api::destroy_stream(self.raw.0));
        }
    }
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event {
    context: Context,
    raw: Handle<api::CUevent>,
}

impl Event {
    /// An event; `timed` if [`elapsed_ms`](Self::elapsed_ms) is to be asked.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(context: &Context, timed: bool) -> Result<Self> {
        let raw = context.run("making an event", || api::create_event(timed))?;
        Ok(Self { context: context.clone(), raw: Handle(raw) })
    }

    /// The same in the current context, without timing.
    pub(crate) fn made_in(context: &Context) -> Answer<Self> {
        let raw = api::create_event(false)?;
        Ok(Self { context: context.clone(), raw: Handle(raw) })
    }

    /// Marks the point that the stream's work has come to.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.context.run("recording an event", || api::record_event(self.raw(), stream.raw()))
    }

    /// Waits for the point.
    ///
    /// # Errors
    /// What the work before it failed with.
    pub fn synchronize(&self) -> Result<()> {
        self.context.run("waiting for an event", || api::synchronize_event(self.raw()))
    }

    /// Whether the point has been reached.
    ///
    /// # Errors
    /// What the work before it failed with.
    pub fn is_done(&self) -> Result<bool> {
        self.context.run("asking for an event", || api::event_is_done(self.raw()))
    }

    /// Milliseconds from `self` to `end`.
    ///
    /// # Errors
    /// Events that are not timed or not done.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f32> {
        self.context.run("asking for a time", || api::elapsed_ms(self.raw(), end.raw()))
    }

    pub(crate) fn raw(&self) -> api::CUevent {
        self.raw.0
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.context.give_back(|| api::destroy_event(self.raw()));
    }
}
