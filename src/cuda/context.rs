//! A card's context, streams, events and memory: every driver object has one owner, which destroys it.

use std::sync::{Arc, OnceLock};

use super::api::{self, Answer, CUcontext, Fault};
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
    pub(super) fn give_back(&self, call: impl FnOnce() -> Answer<()>) {
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
