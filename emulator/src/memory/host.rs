//! Device memory as the host sees it: copies and memsets, with bounds checks.
//!
//! These count as ordered before every later and after every earlier access by kernels: the driver's streams and events
//! see to that before they call.

use std::fmt;
use std::sync::Arc;

use super::DeviceMemory;
use super::allocation::{Allocation, PAGE};
use super::fault::Nearest;

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

/// A stretch of a range that lies in one page: page, offset in it, position in the range, length.
struct Chunk {
    page: usize,
    offset: usize,
    at: usize,
    len: usize,
}

fn chunks(start: u64, len: usize) -> impl Iterator<Item = Chunk> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let from = start + at as u64;
        let (page, offset) = ((from / PAGE as u64) as usize, (from % PAGE as u64) as usize);
        let chunk = Chunk { page, offset, at, len: (PAGE - offset).min(len - at) };
        at += chunk.len;
        Some(chunk)
    })
}

impl DeviceMemory {
    fn range(&self, address: u64, len: usize) -> Result<Arc<Allocation>, HostError> {
        let len = (len as u64).max(1);
        let last = address.checked_add(len - 1);
        if let Some(allocation) = last.and_then(|last| self.lookup(address, last)) {
            return Ok(allocation);
        }
        Err(match self.nearest(address, len) {
            Some(near) if near.distance.is_none() && !near.live => HostError::UseAfterFree(near),
            near => HostError::OutOfBounds(near),
        })
    }

    /// Whether the range lies in one live allocation, without touching it.
    pub fn check_range(&self, address: u64, len: usize) -> Result<(), HostError> {
        if len == 0 { Ok(()) } else { self.range(address, len).map(drop) }
    }

    /// Copies host bytes to the device. They are initialised then.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), HostError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let allocation = self.range(address, bytes.len())?;
        for chunk in chunks(address - allocation.base, bytes.len()) {
            if let Some(mut page) = allocation.page(chunk.page, self.config().checks) {
                page.write(chunk.offset, &bytes[chunk.at..chunk.at + chunk.len]);
            }
        }
        Ok(())
    }

    /// Copies device bytes to the host; uninitialised ones read as zero (or whatever lies there).
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), HostError> {
        if out.is_empty() {
            return Ok(());
        }
        let allocation = self.range(address, out.len())?;
        for chunk in chunks(address - allocation.base, out.len()) {
            let out = &mut out[chunk.at..chunk.at + chunk.len];
            match allocation.touched(chunk.page) {
                Some(page) => page.read(chunk.offset, out),
                None => out.fill(0),
            }
        }
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
        let allocation = self.range(address, len)?;
        if !self.config().checks.uninitialised {
            return Ok(());
        }
        for chunk in chunks(address - allocation.base, len) {
            let missing = match allocation.touched(chunk.page) {
                Some(page) => page.first_uninitialised(chunk.offset, chunk.len),
                None => Some(chunk.offset),
            };
            if let Some(offset) = missing {
                return Err(HostError::Uninitialised(allocation.base + (chunk.page * PAGE + offset) as u64));
            }
        }
        Ok(())
    }

    /// Sets `len` bytes to a repeated pattern (1, 2 or 4 bytes for `cuMemsetD8/16/32`).
    pub fn fill(&self, address: u64, pattern: &[u8], len: usize) -> Result<(), HostError> {
        if len == 0 || pattern.is_empty() {
            return self.check_range(address, len);
        }
        let allocation = self.range(address, len)?;
        for chunk in chunks(address - allocation.base, len) {
            if let Some(mut page) = allocation.page(chunk.page, self.config().checks) {
                page.fill(chunk.offset, chunk.len, pattern, chunk.at % pattern.len());
            }
        }
        Ok(())
    }

    /// Copies from device to device. Bytes that were never written stay so in the copy.
    pub fn copy(&self, to: u64, from: u64, len: usize) -> Result<(), HostError> {
        if len == 0 {
            return Ok(());
        }
        let (source, target) = (self.range(from, len)?, self.range(to, len)?);
        let mut buffer = vec![0; len.min(PAGE)];
        for chunk in chunks(from - source.base, len) {
            let buffer = &mut buffer[..chunk.len];
            let mut missing = Vec::new();
            match source.touched(chunk.page) {
                Some(page) => {
                    page.read(chunk.offset, buffer);
                    missing.extend(page.uninitialised(chunk.offset, chunk.len));
                }
                None => {
                    buffer.fill(0);
                    missing.push(0..chunk.len);
                }
            }
            for part in chunks(to - target.base + chunk.at as u64, chunk.len) {
                if let Some(mut page) = target.page(part.page, self.config().checks) {
                    page.write(part.offset, &buffer[part.at..part.at + part.len]);
                    for hole in &missing {
                        let hole = hole.start.max(part.at)..hole.end.min(part.at + part.len);
                        if !hole.is_empty() {
                            page.settle(part.offset + hole.start - part.at, hole.len(), false);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Flips one bit of device memory, unseen by every check: fault injection.
    pub fn flip_bit(&self, address: u64, bit: u32) -> Result<(), HostError> {
        let allocation = self.range(address, 1)?;
        for chunk in chunks(address - allocation.base, 1) {
            if let Some(mut page) = allocation.page(chunk.page, self.config().checks) {
                page.flip(chunk.offset, bit);
            }
        }
        Ok(())
    }
}
