//! What all blocks of a launch share, and where generic addresses lead.

use super::card::Card;
use super::fault::{Fault, FaultKind, Other, Place, Stop, ThreadId, memory_kind};
use super::flight::Landing;
use super::program::Kernel;
use super::text;
use super::warp::Lanes;
use crate::memory::{self, DeviceMemory, Launch};
use std::ops::Range;
use std::sync::Mutex;

/// Generic addresses of shared memory. All windows lie above whatever device memory hands out.
pub(crate) const SHARED_WINDOW: Range<u64> = 0x8000_0000_0000_0000..0x8000_0000_1000_0000;
/// Generic addresses of local memory.
pub(crate) const LOCAL_WINDOW: Range<u64> = 0x8000_0001_0000_0000..0x8000_0001_1000_0000;
/// Generic addresses of kernel parameters.
pub(crate) const PARAM_WINDOW: Range<u64> = 0x8000_0002_0000_0000..0x8000_0002_0001_0000;
/// What function pointers hold.
pub(crate) const FUNCTIONS: u64 = 0x8000_0003_0000_0000;
/// Bytes between two function addresses.
pub(crate) const FUNCTION_STRIDE: u64 = 16;
/// In the parameter space of a function: where its results and its argument area begin.
pub(crate) const RETURNS_AT: u64 = 1 << 20;
pub(crate) const ARGUMENTS_AT: u64 = 2 << 20;

/// One launch.
pub(crate) struct Env<'a> {
    pub kernel: &'a Kernel,
    pub card: &'a Card,
    pub memory: &'a DeviceMemory,
    pub checks: memory::Checks,
    /// Addresses of `.const` variables.
    pub constants: &'a [Range<u64>],
    pub launch: Launch,
    pub params: Vec<u8>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub seed: u64,
    pub landing: Landing,
    /// Spin weight after which a group lets the others go first.
    pub patience: u64,
    /// Instructions a warp may execute.
    pub warp_limit: u64,
    pub stack_bytes: usize,
    pub call_depth: u32,
    /// Address of a cooperative launch's two words (their size, then the barrier of `grid.sync()`, zero at first); 0 for
    /// a plain launch.
    pub grid_workspace: u64,
    /// Receives what `printf` wrote, block by block in the order of their numbers.
    pub printed: &'a Mutex<Vec<u8>>,
}

impl Env<'_> {
    pub fn shared_bytes(&self) -> usize {
        self.kernel.static_shared + self.dynamic_shared as usize
    }

    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    pub fn warps(&self) -> usize {
        self.threads().div_ceil(32) as usize
    }

    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// Rounds without any change after which waiting is a deadlock. With a seed, rounds are shorter.
    pub fn hopeless_rounds(&self) -> u64 {
        if self.seed == 0 { 100 } else { 500 }
    }

    pub fn block_id(&self, linear: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(|n| u64::from(n.max(1)));
        [(linear % x) as u32, (linear / x % y) as u32, (linear / (x * y)) as u32]
    }

    pub fn thread_id(&self, linear: u32) -> [u32; 3] {
        let [x, y, _] = self.block.map(|n| n.max(1));
        [linear % x, linear / x % y, linear / (x * y)]
    }

    pub fn place(&self, source: u32) -> Place {
        text::place(source).unwrap_or_default()
    }

    /// A report about a thread of a block.
    pub fn fault(&self, kind: FaultKind, block: u64, thread: u32, source: u32, detail: String) -> Stop {
        Box::new(Fault {
            kind,
            kernel: self.kernel.name.clone(),
            thread: ThreadId { block: self.block_id(block), thread: self.thread_id(thread) },
            place: self.place(source),
            detail,
            other: None,
            waiting: Vec::new(),
        })
    }

    /// What the memory found, with names and positions.
    pub fn memory_fault(&self, fault: &memory::Fault) -> Stop {
        let (kind, other) = memory_kind(&fault.kind);
        let mut detail =
            format!("{}-byte {} {} at {:#x}", fault.width, fault.space, fault.party.action, fault.address);
        match &fault.kind {
            memory::FaultKind::OutOfBounds(Some(near)) | memory::FaultKind::UseAfterFree(near) => {
                detail += &format!(": {near}");
            }
            memory::FaultKind::Uninitialised(bytes) => {
                detail += &format!(": bytes {bytes:#x} of it were never written");
            }
            _ => {}
        }
        let party = &fault.party;
        let mut report = self.fault(kind, party.block, party.thread(), party.source, detail);
        report.other = other.map(|party| Other {
            launch: party.launch,
            thread: (party.launch == self.launch.id()).then(|| ThreadId {
                block: self.block_id(party.block),
                thread: self.thread_id(party.thread()),
            }),
            action: party.action.to_string(),
            place: self.place(party.source),
        });
        report
    }
}

impl Lanes<'_> {
    /// A report about one of the lanes.
    pub fn fault(&self, kind: FaultKind, lane: usize, detail: impl Into<String>) -> Stop {
        let thread = (self.warp.index * 32 + lane) as u32;
        self.env.fault(kind, self.block.index, thread, self.source, detail.into())
    }
}
