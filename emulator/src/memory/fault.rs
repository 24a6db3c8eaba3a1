//! What a check found: enough to name the thread, the address, the allocation and, for a race, both parties.

use std::fmt;

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Device memory.
    Global,
    /// A block's shared memory; addresses are offsets from its start.
    Shared,
    /// A thread's local memory; addresses are offsets from its start.
    Local,
}

/// What an access did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `ld`
    Load,
    /// `st`
    Store,
    /// `atom` or `red`
    Atomic,
}

/// The source position of an access that no instruction made: a transfer's.
pub const NO_SOURCE: u32 = u32::MAX;

/// One side of an access: which thread, and which instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Number of the launch, from 0 in the order of [`begin_launch`](super::DeviceMemory::begin_launch).
    pub launch: u64,
    /// Linear block index in the grid.
    pub block: u64,
    /// Warp in the block.
    pub warp: u32,
    /// Lane in the warp.
    pub lane: u32,
    /// The caller's index of the source position; [`NO_SOURCE`] for a transfer (its block, warp and lane are 0).
    pub source: u32,
    /// What it did.
    pub action: Action,
    /// Whether the access was strong (volatile, relaxed or stronger, atomic) in the terms of the PTX memory model.
    pub strong: bool,
}

impl Party {
    /// Linear thread index in the block.
    pub fn thread(&self) -> u32 {
        self.warp * 32 + self.lane
    }
}

/// An allocation near an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// First address of the allocation.
    pub base: u64,
    /// Its size in bytes, as requested.
    pub size: u64,
    /// Number of the allocation, from 0 in order of allocation.
    pub serial: u64,
    /// Whether it is still allocated.
    pub live: bool,
    /// Bytes from the allocation: negative before its start, `n >= 0` after its last byte (0: the first byte past it).
    /// `None`: the address lies inside.
    pub distance: Option<i64>,
}

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The bytes belong to no allocation. The nearest one, live or freed, is named.
    OutOfBounds(Option<Nearest>),
    /// The bytes belong to an allocation that has been freed.
    UseAfterFree(Nearest),
    /// The address is no multiple of the width.
    Misaligned,
    /// Some bytes were never written; bit `i` is byte `i` of the access.
    Uninitialised(u16),
    /// Two threads touched the same byte, at least one wrote, and nothing orders them.
    Race(Party),
    /// A load of another block's write that no release/acquire chain orders.
    UnorderedRead(Party),
    /// A non-coherent load (`ld.global.nc`) of bytes that this launch has written.
    NonCoherentRead(Party),
}

impl FaultKind {
    /// The other side, if there is one.
    pub fn other(&self) -> Option<&Party> {
        match self {
            FaultKind::Race(party) | FaultKind::UnorderedRead(party) | FaultKind::NonCoherentRead(party) => {
                Some(party)
            }
            _ => None,
        }
    }
}

/// A check that fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was wrong.
    pub kind: FaultKind,
    /// Who did it.
    pub party: Party,
    /// Where.
    pub space: Space,
    /// First address of the lane's access.
    pub address: u64,
    /// Width of the lane's access in bytes.
    pub width: u32,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Load => "load",
            Action::Store => "store",
            Action::Atomic => "atomic",
        })
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
        })
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.live { "allocation" } else { "freed allocation" };
        match self.distance {
            None => write!(f, "inside ")?,
            Some(d) if d < 0 => write!(f, "{} bytes before ", d.unsigned_abs())?,
            Some(d) => write!(f, "{d} bytes past the end of ")?,
        }
        write!(f, "{state} {} of {} bytes at {:#x}", self.serial, self.size, self.base)
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source == NO_SOURCE {
            return write!(f, "{} by transfer {}", self.action, self.launch);
        }
        let kind = if self.strong && self.action != Action::Atomic { "strong " } else { "" };
        write!(
            f,
            "{kind}{} by block {} thread {} of launch {} at source {}",
            self.action,
            self.block,
            self.thread(),
            self.launch,
            self.source
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = format_args!("{}-byte {} {} at {:#x}", self.width, self.space, self.party, self.address);
        match &self.kind {
            FaultKind::OutOfBounds(None) => write!(f, "out of bounds: {access}: nothing is allocated"),
            FaultKind::OutOfBounds(Some(near)) => write!(f, "out of bounds: {access}: {near}"),
            FaultKind::UseAfterFree(near) => write!(f, "use after free: {access}: {near}"),
            FaultKind::Misaligned => write!(f, "misaligned: {access}"),
            FaultKind::Uninitialised(bytes) => {
                write!(f, "uninitialised: {access}: byte mask {bytes:#x} was never written")
            }
            FaultKind::Race(other) => write!(f, "race: {access}, unordered with a {other}"),
            FaultKind::UnorderedRead(other) if other.launch != self.party.launch => {
                write!(f, "unordered read of another launch's write: {access}, not ordered after the {other}")
            }
            FaultKind::UnorderedRead(other) => {
                write!(
                    f,
                    "unordered read of another block's write: {access}, no release/acquire chain from the {other}"
                )
            }
            FaultKind::NonCoherentRead(other) => {
                write!(
                    f,
                    "non-coherent read of bytes written in the same launch: {access}, written by the {other}"
                )
            }
        }
    }
}

impl std::error::Error for Fault {}
