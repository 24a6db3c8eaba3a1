//! Device memory as the host sees it: copies and memsets, with bounds checks.
//!
//! These count as ordered before every later and after every earlier access by kernels, and are meant for what stands
//! outside all streams. Their twins in `transfer.rs` take part in the race check.

use std::fmt;

use super::DeviceMemory;
use super::fault::{FaultKind, Nearest};
use super::transfer::Pages;

/// Why a host access was refused. Nothing has been copied then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// Part of the range lies in no allocation.
    OutOfBounds(Option<Nearest>),
    /// The range lies in an allocation that has been freed.
    UseAfterFree(Nearest),
    /// The byte at this address was never written.
    Uninitialised(u64),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBounds(None) => f.write_str("out of bounds: nothing is allocated"),
            Self::OutOfBounds(Some(near)) => write!(f, "out of bounds: {near}"),
            Self::UseAfterFree(near) => write!(f, "use after free: {near}"),
            Self::Uninitialised(address) => {
                write!(f, "uninitialised: the byte at {address:#x} was never written")
            }
        }
    }
}

impl std::error::Error for HostError {}

impl From<FaultKind> for HostError {
    /// For what is wrong with bytes outside all live allocations.
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::UseAfterFree(near) => Self::UseAfterFree(near),
            FaultKind::OutOfBounds(near) => Self::OutOfBounds(near),
            _ => Self::OutOfBounds(None),
        }
    }
}

impl DeviceMemory {
    /// Whether the range lies in one live allocation, without touching it.
    pub fn check_range(&self, address: u64, len: usize) -> Result<(), HostError> {
        if len == 0 { Ok(()) } else { self.span(address, len).map(drop) }
    }

    /// Copies host bytes to the device. They are initialised then.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), HostError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let span = self.span(address, bytes.len())?;
        Pages::lock(self, &[(&span, true)])?.write(&span, bytes, None);
        Ok(())
    }

    /// Copies device bytes to the host; uninitialised ones read as zero (or whatever lies there).
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), HostError> {
        if out.is_empty() {
            return Ok(());
        }
        let span = self.span(address, out.len())?;
        Pages::lock(self, &[(&span, false)])?.read(&span, out, None);
        Ok(())
    }

    /// The same, but reports the first byte that was never written (if that check is on).
    pub fn read_initialised(&self, address: u64, out: &mut [u8]) -> Result<(), HostError> {
        self.check_initialised(address, out.len())?;
        self.read(address, out)
    }

    /// Reports the first byte in a range that was never written (if that check is on).
    pub fn check_initialised(&self, address: u64, len: usize) -> Result<(), HostError> {
        if len == 0 {
            return Ok(());
        }
        let span = self.span(address, len)?;
        if !self.config().checks.uninitialised {
            return Ok(());
        }
        let missing = Pages::lock(self, &[(&span, false)])?.first_uninitialised(&span);
        missing.map_or(Ok(()), |address| Err(HostError::Uninitialised(address)))
    }

    /// Sets `len` bytes to a repeated pattern (1, 2 or 4 bytes for `cuMemsetD8/16/32`).
    pub fn fill(&self, address: u64, pattern: &[u8], len: usize) -> Result<(), HostError> {
        if len == 0 || pattern.is_empty() {
            return self.check_range(address, len);
        }
        let span = self.span(address, len)?;
        Pages::lock(self, &[(&span, true)])?.fill(&span, pattern, None);
        Ok(())
    }

    /// Copies from device to device. Bytes that were never written stay so in the copy.
    pub fn copy(&self, to: u64, from: u64, len: usize) -> Result<(), HostError> {
        if len == 0 {
            return Ok(());
        }
        let (source, target) = (self.span(from, len)?, self.span(to, len)?);
        Pages::lock(self, &[(&source, false), (&target, true)])?.copy(&target, &source, None);
        Ok(())
    }

    /// Flips one bit of device memory, unseen by every check: fault injection.
    pub fn flip_bit(&self, address: u64, bit: u32) -> Result<(), HostError> {
        let span = self.span(address, 1)?;
        Pages::lock(self, &[(&span, true)])?.flip(&span, bit);
        Ok(())
    }
}
