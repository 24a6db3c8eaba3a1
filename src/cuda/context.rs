//! A card's context, streams, events and memory: every driver object has one owner, which destroys it.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use super::api::{self, Answer, CUcontext, CUstream, Fault};
use super::kernels::Kernels;
use crate::device::Device;
use crate::driver::{DeviceInfo, Driver};
use crate::error::{Error, Result};

/// A card's context, shared by whatever was made in it. Clones are the same context.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Device,
    ordinal: i32,
    info: DeviceInfo,
    raw: Handle<CUcontext>,
    /// Whether the primary context was retained for us.
    owned: bool,
    kernels: OnceLock<Kernels>,
}

/// A handle of the driver, which takes calls from any thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle<T>(pub T);

#[allow(unsafe_code)]
// SAFETY: the driver's handles are names, not memory of this process; the driver locks what needs locking.
unsafe impl<T> Send for Handle<T> {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// While it lives, a context is the calling thread's current one; then the one before is again. None if it was before.
pub(crate) struct Current(Option<CUcontext>);

impl Drop for Current {
    fn drop(&mut self) {
        let Some(ours) = self.0 else { return };
        // The caller's context must be current again, unless ours is gone already in spite of the error.
        if api::pop_context().is_err() && api::current_context() == Ok(ours) {
            let _ = api::pop_context();
        }
    }
}

impl Context {
    /// The primary context of a card: the one that CUDA's runtime, PyTorch and cudarc use, so that their memory and streams
    /// can be used. It is retained here and released with the last clone.
    ///
    /// # Errors
    /// What [`Driver::open`] says, and what the driver does.
    pub fn open(device: Device) -> Result<Self> {
        let (ordinal, info) = card(device)?;
        let raw =
            api::primary_context(ordinal).map_err(|fault| driver_error(device, "opening the card", fault))?;
        Ok(Self::new(device, ordinal, info, raw, true))
    }

    /// A context of the caller's own, which lives until the last clone is gone and is not destroyed then.
    ///
    /// # Errors
    /// As [`open`](Self::open); a context of another card than `device`.
    ///
    /// # Safety
    /// `context` must be a live `CUcontext`, and stay alive for as long as anything made here is.
    #[allow(unsafe_code, reason = "the caller promises what nobody can check")]
    pub unsafe fn from_raw(device: Device, context: *mut std::ffi::c_void) -> Result<Self> {
        let (ordinal, info) = card(device)?;
        let this = Self::new(device, ordinal, info, context.cast(), false);
        let found = this.run("looking at the caller's context", api::context_device)?;
        if found != ordinal {
            let reason = format!("the context given belongs to card {found}");
            return Err(Error::Device { device: device.to_string(), reason });
        }
        Ok(this)
    }

    fn new(device: Device, ordinal: i32, info: DeviceInfo, raw: CUcontext, owned: bool) -> Self {
        let raw = Handle(raw);
        Self(Arc::new(Inner { device, ordinal, info, raw, owned, kernels: OnceLock::new() }))
    }

    /// The device that it is a context of.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// What the driver says of the card.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Free and all bytes of the card's memory.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (free, total) = self.run("asking for memory", api::memory_info)?;
        Ok((free as u64, total as u64))
    }

    /// Waits for all work in the context, whoever gave it.
    ///
    /// # Errors
    /// What any of that work failed with.
    pub fn synchronize(&self) -> Result<()> {
        self.run("waiting for the card", api::synchronize_context)
    }

    /// Makes it the calling thread's current context for good, as CUDA's runtime does with the primary one. Everything works
    /// without; but a step finds no context of its own current then, and enters this one for each call of the driver.
    ///
    /// # Errors
    /// What the driver says.
    pub fn make_current(&self) -> Result<()> {
        self.enter().map(std::mem::forget).map_err(|fault| self.error("making the context current", fault))
    }

    /// The embedded kernels that this card takes: their architecture, and whether they are machine code rather than PTX that
    /// the driver compiles. Loads them.
    ///
    /// # Errors
    /// That none are taken; what the driver says.
    pub fn kernel_image(&self) -> Result<(&'static str, bool)> {
        Ok(self.kernels()?.loaded)
    }

    pub(crate) fn raw(&self) -> CUcontext {
        self.0.raw.0
    }

    pub(crate) fn ordinal(&self) -> i32 {
        self.0.ordinal
    }

    /// Makes it the thread's current context for a while.
    pub(crate) fn enter(&self) -> Answer<Current> {
        // Where the question fails, the answer is not needed.
        if api::current_context() == Ok(self.raw()) {
            return Ok(Current(None));
        }
        api::push_context(self.raw())?;
        Ok(Current(Some(self.raw())))
    }

    /// Gives something back. Nobody is left to tell of an error.
    fn give_back(&self, call: impl FnOnce() -> Answer<()>) {
        // What is not given back stays as long as the context: so a second try, and then without.
        let _current = self.enter().or_else(|_| self.enter());
        let _ = call();
    }

    /// Calls of the driver in this context, with its error as the crate's.
    pub(crate) fn run<T>(&self, during: &str, calls: impl FnOnce() -> Answer<T>) -> Result<T> {
        let _current = self.enter().map_err(|fault| self.error(during, fault))?;
        calls().map_err(|fault| self.error(during, fault))
    }

    pub(crate) fn error(&self, during: &str, fault: Fault) -> Error {
        driver_error(self.0.device, during, fault)
    }

    /// The kernels, loaded at first use. A failure is not kept: memory may have been short.
    pub(crate) fn kernels(&self) -> Result<&Kernels> {
        if let Some(kernels) = self.0.kernels.get() {
            return Ok(kernels);
        }
        let _current = self.enter().map_err(|fault| self.error("loading the kernels", fault))?;
        let loaded = Kernels::load(self)?;
        // Another thread may have been faster; then these are unloaded again.
        Ok(self.0.kernels.get_or_init(|| loaded))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(kernels) = self.kernels.take() {
            // Modules go with their context; one that is alive needs to be current for that.
            let ours = self.raw.0;
            let pushed = api::push_context(ours).or_else(|_| api::push_context(ours)).is_ok();
            drop(kernels);
            drop(Current(pushed.then_some(ours)));
        }
        if self.owned {
            // Nobody is left to tell.
            let _ = api::release_primary_context(self.ordinal);
        }
    }
}

fn card(device: Device) -> Result<(i32, DeviceInfo)> {
    let driver = Driver::open(device)?;
    let ordinal = match device {
        Device::Cuda(ordinal) => ordinal,
        _ => 0,
    };
    let info = driver.devices.into_iter().nth(ordinal as usize).ok_or_else(|| Error::Device {
        device: device.to_string(),
        reason: "the driver has no such card".into(),
    })?;
    Ok((ordinal as i32, info))
}

pub(crate) fn driver_error(device: Device, during: &str, fault: Fault) -> Error {
    let (device, during, call) = (device.to_string(), during.to_owned(), fault.call);
    let (name, code, meaning) = (fault.name(), fault.code, fault.meaning());
    if fault.is_sticky() {
        let consequence = "This process can do nothing more on it; checkpoints on disk are intact";
        return Error::DeviceLost { device, during, call, name, code, meaning, consequence };
    }
    Error::Driver { device, during, call, name, code, meaning }
}

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

/// Device memory, freed when dropped. Whoever gave work on it to a stream waits for that work first.
#[derive(Debug)]
pub struct DeviceBuffer {
    context: Context,
    address: u64,
    bytes: usize,
}

impl DeviceBuffer {
    /// `bytes` bytes of any content. None are asked of the driver where 0 are wanted.
    ///
    /// # Errors
    /// [`Error::Driver`], out of memory among others.
    pub fn new(context: &Context, bytes: usize) -> Result<Self> {
        let address = match bytes {
            0 => 0,
            _ => context.run("allocating device memory", || api::alloc(bytes))?,
        };
        Ok(Self { context: context.clone(), address, bytes })
    }

    /// Address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `from` to the bytes from `at` on, in the stream's order.
    ///
    /// # Errors
    /// A range that is not inside; what the driver says.
    pub fn write(&self, stream: &Stream, at: usize, from: &[u8]) -> Result<()> {
        let to = self.range(at, from.len())?;
        self.context.run("copying to the card", || api::copy_in(to, from, stream.raw()))
    }

    /// Copies `bytes` bytes of another buffer of the card, from `from_at` on, to the bytes from `at` on, in the stream's order.
    /// Ranges of one buffer may not overlap.
    ///
    /// # Errors
    /// A range that is not inside; what the driver says.
    pub fn copy(
        &self,
        stream: &Stream,
        at: usize,
        from: &DeviceBuffer,
        from_at: usize,
        bytes: usize,
    ) -> Result<()> {
        let (to, from) = (self.range(at, bytes)?, from.range(from_at, bytes)?);
        self.context.run("copying on the card", || api::copy_on_device(to, from, bytes, stream.raw()))
    }

    /// Copies the bytes from `at` on into `to`, after all work before in the stream, and waits.
    ///
    /// # Errors
    /// A range that is not inside; what the driver or work before in the stream failed with.
    pub fn read(&self, stream: &Stream, at: usize, to: &mut [u8]) -> Result<()> {
        let from = self.range(at, to.len())?;
        self.context.run("copying from the card", || api::copy_out(to, from, stream.raw()))
    }

    fn range(&self, at: usize, len: usize) -> Result<u64> {
        match at.checked_add(len) {
            Some(end) if end <= self.bytes => Ok(self.address + at as u64),
            _ => {
                Err(Error::Tensor(format!("bytes {at} to {at} + {len} of a device buffer of {}", self.bytes)))
            }
        }
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.context.give_back(|| api::free(self.address));
        }
    }
}

/// Pinned host memory.
#[derive(Debug)]
pub(crate) struct Pinned {
    context: Context,
    address: Handle<*mut u8>,
    bytes: usize,
    /// Words that were seen, so that the type is not `Sync` by accident.
    _single: std::marker::PhantomData<Cell<u8>>,
}

impl Pinned {
    /// `bytes` bytes of zero.
    pub fn new(context: &Context, bytes: usize) -> Result<Self> {
        let address = context.run("allocating pinned memory", || api::alloc_pinned(bytes))?;
        api::write_pinned(address, &vec![0; bytes]);
        let _single = std::marker::PhantomData;
        Ok(Self { context: context.clone(), address: Handle(address), bytes, _single })
    }

    pub fn at(&self, byte: usize) -> *mut u8 {
        debug_assert!(byte < self.bytes);
        self.address.0.wrapping_add(byte)
    }

    /// The words from `byte` on, each as it is at some moment during the call.
    pub fn words<const N: usize>(&self, byte: usize) -> [u64; N] {
        debug_assert!(byte.is_multiple_of(8) && byte + 8 * N <= self.bytes);
        std::array::from_fn(|i| api::read_word(self.at(byte + 8 * i).cast_const().cast()))
    }

    /// Overwrites bytes that no copy reads at the moment.
    pub fn write(&self, byte: usize, from: &[u8]) {
        debug_assert!(byte + from.len() <= self.bytes);
        api::write_pinned(self.at(byte), from);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.context.give_back(|| api::free_pinned(self.address.0));
    }
}

/// A second stream of a capture: a branch of its graph.
pub(crate) struct Side {
    stream: Stream,
    forked: Event,
    joined: Event,
}

impl Side {
    /// Begins the branch behind what `of` has been given, gives it its work, and returns.
    pub fn branch(&self, of: CUstream, work: impl FnOnce(CUstream) -> Answer<()>) -> Answer<()> {
        api::record_event(self.forked.raw(), of)?;
        api::wait_event(self.stream.raw(), self.forked.raw())?;
        work(self.stream.raw())?;
        api::record_event(self.joined.raw(), self.stream.raw())
    }

    /// What follows in `of` comes behind the branch too.
    pub fn join(&self, of: CUstream) -> Answer<()> {
        api::wait_event(of, self.joined.raw())
    }
}

/// An executable graph.
#[derive(Debug)]
pub(crate) struct Graph {
    context: Context,
    raw: Handle<api::CUgraphExec>,
}

impl Graph {
    /// What `work` gives to a stream, as a graph. The stream is ours: no caller's is touched.
    pub fn capture(
        context: &Context,
        during: &str,
        work: impl FnOnce(CUstream, &Side) -> Answer<()>,
    ) -> Result<Self> {
        let stream = Stream::new(context)?;
        let side = Side {
            stream: Stream::new(context)?,
            forked: Event::new(context, false)?,
            joined: Event::new(context, false)?,
        };
        let raw = context.run(during, || {
            api::begin_capture(stream.raw())?;
            let given = work(stream.raw(), &side);
            // The capture has to end, whatever became of the work.
            let ended = api::end_capture(stream.raw());
            let graph = match (given, ended) {
                (Ok(()), ended) => ended?,
                (Err(fault), ended) => {
                    if let Ok(graph) = ended
                        && !graph.is_null()
                    {
                        let _ = api::destroy_graph(graph);
                    }
                    return Err(fault);
                }
            };
            let exec = api::instantiate(graph);
            let destroyed = api::destroy_graph(graph);
            match (exec, destroyed) {
                (Ok(exec), Err(fault)) => {
                    let _ = api::destroy_exec(exec);
                    Err(fault)
                }
                (exec, _) => exec,
            }
        })?;
        Ok(Self { context: context.clone(), raw: Handle(raw) })
    }

    pub fn raw(&self) -> api::CUgraphExec {
        self.raw.0
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.context.give_back(|| api::destroy_exec(self.raw.0));
    }
}
