//! The CUDA driver: found, told apart from the software GPU, probed.

use std::path::PathBuf;

use crate::device::Device;
use crate::error::Result;

/// A driver that answers, and its cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The library file.
    pub path: PathBuf,
    /// The newest CUDA version that it supports, as (major, minor).
    pub version: (u32, u32),
    /// Whether it is the software GPU's.
    pub emulated: bool,
    /// Its cards, by ordinal.
    pub devices: Vec<DeviceInfo>,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As the driver calls it.
    pub name: String,
    /// Compute capability, as (major, minor).
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: u64,
}

impl Driver {
    /// Finds the driver for a device and probes it.
    ///
    /// [`Device::Emulated`] loads the software GPU's library from its own path; [`Device::Cuda`] takes what the loader
    /// finds as `libcuda.so`, and refuses the software GPU there.
    ///
    /// # Errors
    /// No driver, no card, a driver that is too old or lacks symbols, an ordinal without a card, the CPU (which has no
    /// driver), a device of the other kind after this process has used one, or a build without the feature `cuda`: each
    /// says so and what to do.
    pub fn open(device: Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return crate::cuda::open(device);
        #[cfg(not(feature = "cuda"))]
        Err(crate::error::Error::Device {
            device: device.to_string(),
            reason: "this build has no GPU backend (feature `cuda`); use `cpu`".into(),
        })
    }
}
