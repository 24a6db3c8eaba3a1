//! One allocation of device memory: pages on first touch, each behind its lock.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::Checks;
use super::region::Region;

/// Bytes of a page, the unit of first touch and of locking.
pub(super) const PAGE: usize = 64 << 10;

/// Why no memory was given or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateError {
    /// Zero bytes were asked for.
    ZeroSize,
    /// The limit would be passed.
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes still free.
        free: u64,
    },
    /// No allocation begins at the address to free.
    NotAllocated,
    /// The allocation was freed before.
    AlreadyFreed,
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroSize => f.write_str("an allocation of zero bytes"),
            Self::OutOfMemory { requested, free } => {
                write!(f, "out of memory: {requested} bytes asked, {free} free")
            }
            Self::NotAllocated => f.write_str("no allocation begins at this address"),
            Self::AlreadyFreed => f.write_str("the allocation is already freed"),
        }
    }
}

impl std::error::Error for AllocateError {}

/// `cuMemGetInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes that can still be allocated.
    pub free: u64,
    /// Bytes of device memory.
    pub total: u64,
}

/// A live allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocationInfo {
    /// First address.
    pub base: u64,
    /// Bytes, as requested.
    pub size: u64,
    /// Number of the allocation, from 0 in order of allocation.
    pub serial: u64,
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) base: u64,
    pub(super) size: u64,
    pub(super) serial: u64,
    pub(super) freed: AtomicBool,
    pub(super) pages: Box<[OnceLock<Box<Mutex<Region>>>]>,
}

impl Allocation {
    pub(super) fn contains(&self, first: u64, last: u64) -> bool {
        first >= self.base && last - self.base < self.size && first <= last
    }

    /// The page, made on first touch.
    pub(super) fn page(&self, index: usize, checks: Checks) -> Option<MutexGuard<'_, Region>> {
        let left = self.size.saturating_sub((index * PAGE) as u64).min(PAGE as u64) as usize;
        let page = self.pages.get(index)?.get_or_init(|| Box::new(Mutex::new(Region::new(left, checks))));
        // A thread that panicked while it held the lock has not left bytes in a worse state than a fault would.
        Some(page.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The page, if it was ever touched.
    pub(super) fn touched(&self, index: usize) -> Option<MutexGuard<'_, Region>> {
        Some(self.pages.get(index)?.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn info(&self) -> AllocationInfo {
        AllocationInfo { base: self.base, size: self.size, serial: self.serial }
    }
}
