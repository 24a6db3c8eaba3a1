//! Memory and its checks.
//!
//! Three memories, one machinery: [`DeviceMemory`] (global, shared by all blocks and host threads), [`SharedMemory`]
//! (one block's) and [`LocalMemory`] (one warp's threads'). Each executes **one warp instruction at a time**: an
//! [`Access`] says which lanes touch which addresses, how wide and how strongly, and `load`, `store` or `atomic` checks
//! all lanes and then moves the bytes. What a check finds comes back as a [`Fault`] and the bytes stay as they were.
//! Checked are, in this order: alignment (natural for the width), bounds and use after free, non-coherent reads,
//! uninitialised bytes, races. The first three groups always; the last two as [`Checks`] says.
//!
//! Ordering comes from a [`BlockClock`], one for each running block, which the executor tells of every barrier, warp
//! barrier, fence and exit; acquire and release operations are seen by the memories themselves. Launches are ordered as
//! [`begin_launch`](DeviceMemory::begin_launch) says, and so are copies and memsets that are operations of a stream
//! ([`write_as`](DeviceMemory::write_as) and its like).
//!
//! ```
//! use orthant_gpu::memory::*;
//!
//! let memory = DeviceMemory::new(MemoryConfig::default());
//! let x = memory.allocate(4 * 32).unwrap();
//! let launch = memory.begin_launch(1, 32, After::Everything);
//! let mut clock = BlockClock::new(&launch, 0);          // block 0
//! let mut cache = Cache::default();                     // one for each OS thread
//!
//! // st.global.u32 [x + 4 * lane], lane
//! let addresses = std::array::from_fn(|lane| x + 4 * lane as u64);
//! let mut values = LaneBytes::default();
//! values.put_u32(Width::B4, 0, &std::array::from_fn(|lane| lane as u32));
//! let access = Access::weak(&addresses, u32::MAX, Width::B4, 17);   // 17: source position
//! memory.store(&mut cache, &mut clock, 0, &access, &values).unwrap();
//!
//! // Another lane's element, without a __syncwarp: a race.
//! let swapped = std::array::from_fn(|lane| x + 4 * (lane as u64 ^ 1));
//! let access = Access::weak(&swapped, u32::MAX, Width::B4, 18);
//! assert!(memory.load(&mut cache, &mut clock, 0, &access, &mut values).is_err());
//! clock.sync_warp(0, u32::MAX);
//! memory.load(&mut cache, &mut clock, 0, &access, &mut values).unwrap();
//! assert_eq!(values.get_u32(Width::B4, 0)[5], 4);
//! ```

mod allocation;
mod clock;
mod coarse;
mod counters;
mod fault;
mod global;
mod history;
mod host;
mod knowledge;
mod region;
mod shadow;
mod shared;
mod transfer;

pub use allocation::{AllocateError, AllocationInfo, MemoryInfo};
pub use clock::{BlockClock, Join, Launch, Moment};
pub use counters::{BANKS, Passes, SECTOR_BYTES, Traffic, bank_passes, sectors};
pub use fault::{Action, Fault, FaultKind, NO_SOURCE, Nearest, Party, Space};
pub use global::{After, Cache, DeviceMemory, MemoryConfig};
pub use host::HostError;
pub use shared::{LocalMemory, SharedMemory};
pub use transfer::TransferError;

/// Lanes of a warp.
pub const WARP: usize = 32;

/// Which of the costly checks run. Alignment, bounds and use after free are always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes that were never written.
    pub uninitialised: bool,
    /// Races, unordered reads of other blocks' writes, non-coherent reads of written bytes.
    pub races: bool,
}

impl Checks {
    /// Everything.
    pub const ALL: Self = Self { uninitialised: true, races: true };
    /// Only what is needed to stay inside the memory.
    pub const NONE: Self = Self { uninitialised: false, races: false };
}

impl Default for Checks {
    fn default() -> Self {
        Self::ALL
    }
}

/// Bytes of one lane's access; vector loads and stores (`.v2`, `.v4`) count as one access of the whole vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 1 byte
    B1,
    /// 2 bytes
    B2,
    /// 4 bytes
    B4,
    /// 8 bytes
    B8,
    /// 16 bytes
    B16,
}

impl Width {
    /// The width of `bytes` bytes, if there is one.
    pub fn from_bytes(bytes: usize) -> Option<Self> {
        Some(match bytes {
            1 => Self::B1,
            2 => Self::B2,
            4 => Self::B4,
            8 => Self::B8,
            16 => Self::B16,
            _ => return None,
        })
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        1 << self as usize
    }
}

/// How an access takes part in synchronisation. For an atomic, `Weak` and `NonCoherent` count as `Relaxed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `ld`, `st` without a qualifier: a plain access.
    Weak,
    /// `ld.global.nc`: a plain load that must not see bytes written in the same launch.
    NonCoherent,
    /// `.volatile`: relaxed at system scope, whatever scope is given.
    Volatile,
    /// `.relaxed`
    Relaxed,
    /// `.acquire`
    Acquire,
    /// `.release`
    Release,
    /// `.acq_rel`
    AcqRel,
}

/// Scope of a strong access or a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `.cta`
    Cta,
    /// `.cluster`; taken as block scope (clusters are not modelled, so this never reports too little).
    Cluster,
    /// `.gpu`
    Gpu,
    /// `.sys`
    Sys,
}

impl Scope {
    /// Whether other blocks are in the scope.
    pub(crate) fn wide(self) -> bool {
        self >= Scope::Gpu
    }
}

/// One warp instruction's access.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// One address for each lane; those of inactive lanes are ignored.
    pub addresses: &'a [u64; WARP],
    /// Active lanes.
    pub lanes: u32,
    /// Bytes for each lane.
    pub width: Width,
    /// Semantics.
    pub order: Order,
    /// Scope, if strong.
    pub scope: Scope,
    /// The caller's index of the source position; comes back in reports.
    pub source: u32,
}

impl<'a> Access<'a> {
    /// A plain load or store.
    pub fn weak(addresses: &'a [u64; WARP], lanes: u32, width: Width, source: u32) -> Self {
        Self { addresses, lanes, width, order: Order::Weak, scope: Scope::Sys, source }
    }

    /// The same with other semantics.
    pub fn ordered(self, order: Order, scope: Scope) -> Self {
        Self { order, scope, ..self }
    }

    pub(crate) fn scope(&self) -> Scope {
        if self.order == Order::Volatile { Scope::Sys } else { self.scope }
    }
}

/// The bytes that a warp instruction moves: lane `l`'s are at `l * width`, little-endian.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct LaneBytes(pub [u8; WARP * 16]);

impl Default for LaneBytes {
    fn default() -> Self {
        Self([0; WARP * 16])
    }
}

macro_rules! lane_values {
    ($($get:ident $put:ident $type:ty),*) => {$(
        /// Component `index` of each lane's vector (0 for a scalar). Zero where the component lies outside.
        pub fn $get(&self, width: Width, index: usize) -> [$type; WARP] {
            const SIZE: usize = size_of::<$type>();
            let mut values = [0; WARP];
            for (value, bytes) in values.iter_mut().zip(self.0.chunks_exact(width.bytes())) {
                if let Some(bytes) = bytes.as_chunks::<SIZE>().0.get(index) {
                    *value = <$type>::from_le_bytes(*bytes);
                }
            }
            values
        }

        /// Sets component `index` of each lane's vector.
        pub fn $put(&mut self, width: Width, index: usize, values: &[$type; WARP]) {
            const SIZE: usize = size_of::<$type>();
            for (value, bytes) in values.iter().zip(self.0.chunks_exact_mut(width.bytes())) {
                if let Some(bytes) = bytes.as_chunks_mut::<SIZE>().0.get_mut(index) {
                    *bytes = value.to_le_bytes();
                }
            }
        }
    )*};
}

impl LaneBytes {
    lane_values! {
        get_u8 put_u8 u8, get_u16 put_u16 u16, get_u32 put_u32 u32, get_u64 put_u64 u64, get_u128 put_u128 u128
    }

    /// One lane's bytes.
    pub fn lane(&self, width: Width, lane: usize) -> &[u8] {
        let start = lane % WARP * width.bytes();
        &self.0[start..start + width.bytes()]
    }
}

/// What an access does with the bytes.
pub(crate) enum Op<'a> {
    Load(&'a mut LaneBytes),
    Store(&'a LaneBytes),
    /// The old values come back; the closure answers the new value, or none to leave the old one.
    Atomic(&'a mut LaneBytes, &'a mut Update<'a>),
}

/// The update of an atomic: lane and old value to new value; `None` writes nothing (a compare that failed).
pub type Update<'a> = dyn FnMut(usize, u128) -> Option<u128> + 'a;

impl Op<'_> {
    pub(crate) fn action(&self) -> Action {
        match self {
            Op::Load(_) => Action::Load,
            Op::Store(_) => Action::Store,
            Op::Atomic(..) => Action::Atomic,
        }
    }
}
