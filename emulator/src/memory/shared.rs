//! Memory that one block or one warp has to itself: no locks.

use super::clock::BlockClock;
use super::counters::lanes;
use super::fault::{Fault, FaultKind, Nearest, Space};
use super::region::{LaneFault, Region, accessor, locate, other, packed};
use super::shadow::SECTOR;
use super::{Access, Checks, LaneBytes, Op, Update, WARP};

/// A block's shared memory, static and dynamic together. Addresses are offsets from its start.
#[derive(Debug)]
pub struct SharedMemory {
    region: Region,
    size: u64,
}

impl SharedMemory {
    /// `size` bytes, uninitialised.
    pub fn new(size: usize, checks: Checks) -> Self {
        Self { region: Region::new(size, checks), size: size as u64 }
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Uninitialised and untouched again, for the next block.
    pub fn reset(&mut self) {
        self.region.reset();
    }

    /// Executes a load; see [`DeviceMemory::load`](super::DeviceMemory::load).
    pub fn load(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        out: &mut LaneBytes,
    ) -> Result<(), Box<Fault>> {
        self.run(clock, warp, access, &mut Op::Load(out))
    }

    /// Executes a store; see [`DeviceMemory::store`](super::DeviceMemory::store).
    pub fn store(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        values: &LaneBytes,
    ) -> Result<(), Box<Fault>> {
        self.run(clock, warp, access, &mut Op::Store(values))
    }

    /// Executes an atomic; see [`DeviceMemory::atomic`](super::DeviceMemory::atomic).
    pub fn atomic(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        old: &mut LaneBytes,
        update: &mut Update<'_>,
    ) -> Result<(), Box<Fault>> {
        self.run(clock, warp, access, &mut Op::Atomic(old, update))
    }

    /// Executes a load of up to 32 rows that every lane of the warp reads, whichever lane has a row's address: the access
    /// says where the rows are.
    pub fn load_together(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        out: &mut LaneBytes,
    ) -> Result<(), Box<Fault>> {
        let mut result = within(self.size, 0, access);
        if result.is_ok() {
            result = self.region.load_together(clock, warp, access, out);
        }
        result.map_err(|fault| report(fault, Space::Shared, clock, warp, access, &Op::Load(out)))
    }

    /// Checks and records a store whose bytes come on their own, before or after: see [`land`](Self::land).
    pub fn claim(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
    ) -> Result<(), Box<Fault>> {
        let mut result = within(self.size, 0, access);
        if result.is_ok() {
            result = self.region.claim(clock, warp, access);
        }
        let store = || LaneBytes::default();
        result.map_err(|fault| report(fault, Space::Shared, clock, warp, access, &Op::Store(&store())))
    }

    /// Writes bytes that were claimed, without any check but bounds.
    pub fn land(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_some_and(|end| end <= self.size) {
            self.region.land(offset as usize, bytes);
        }
    }

    /// Reads bytes without any check but bounds (for debugging and tests).
    pub fn peek(&self, offset: usize, out: &mut [u8]) -> bool {
        let inside = offset.checked_add(out.len()).is_some_and(|end| end as u64 <= self.size);
        if inside {
            self.region.read(offset, out);
        }
        inside
    }

    fn run(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        op: &mut Op<'_>,
    ) -> Result<(), Box<Fault>> {
        let mut result = within(self.size, 0, access);
        if result.is_ok() {
            result = self.region.run(0, clock, warp, access, access.lanes, packed(access), op);
        }
        result.map_err(|fault| report(fault, Space::Shared, clock, warp, access, op))
    }
}

/// The local memory of one warp's threads. Addresses are offsets from the start of the thread's own frame, so races are
/// impossible; uninitialised reads are not.
#[derive(Debug)]
pub struct LocalMemory {
    region: Region,
    size: u64,
    stride: u64,
}

impl LocalMemory {
    /// `size` bytes for each thread, uninitialised.
    pub fn new(size: usize, checks: Checks) -> Self {
        let stride = size.next_multiple_of(SECTOR);
        let region = Region::new(stride * WARP, Checks { races: false, ..checks });
        Self { region, size: size as u64, stride: stride as u64 }
    }

    /// Uninitialised again.
    pub fn reset(&mut self) {
        self.region.reset();
    }

    /// Executes a load.
    pub fn load(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        out: &mut LaneBytes,
    ) -> Result<(), Box<Fault>> {
        self.run(clock, warp, access, &mut Op::Load(out))
    }

    /// Executes a store.
    pub fn store(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        values: &LaneBytes,
    ) -> Result<(), Box<Fault>> {
        self.run(clock, warp, access, &mut Op::Store(values))
    }

    fn run(
        &mut self,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        op: &mut Op<'_>,
    ) -> Result<(), Box<Fault>> {
        let mut result = within(self.size, 0, access);
        if result.is_ok() {
            let moved =
                std::array::from_fn(|lane| access.addresses[lane].wrapping_add(lane as u64 * self.stride));
            let moved = Access { addresses: &moved, ..*access };
            result = self.region.run(0, clock, warp, &moved, access.lanes, packed(&moved), op);
        }
        result.map_err(|fault| report(fault, Space::Local, clock, warp, access, op))
    }
}

/// Alignment and bounds.
fn within(size: u64, base: u64, access: &Access<'_>) -> Result<(), LaneFault> {
    let width = access.width.bytes() as u64;
    let first = access.addresses[0];
    if first < size && size - first >= width * WARP as u64 && first & (width - 1) == 0 && packed(access) {
        return Ok(());
    }
    for lane in lanes(access.lanes) {
        let address = access.addresses[lane];
        if address & (width - 1) != 0 {
            return Err(LaneFault { kind: FaultKind::Misaligned, lane });
        }
        if address.checked_add(width).is_none_or(|end| end > size) {
            let distance = Some(i64::try_from(address.saturating_sub(size)).unwrap_or(i64::MAX));
            let near = Nearest { base, size, serial: 0, live: true, distance };
            return Err(LaneFault { kind: FaultKind::OutOfBounds(Some(near)), lane });
        }
    }
    Ok(())
}

fn report(
    LaneFault { mut kind, lane }: LaneFault,
    space: Space,
    clock: &BlockClock,
    warp: usize,
    access: &Access<'_>,
    op: &Op<'_>,
) -> Box<Fault> {
    if let Some(party) = other(&mut kind) {
        let launch = &clock.launch().inner;
        locate(party, launch.id, launch.base, launch.warps_per_block);
    }
    let party = accessor(clock, warp, lane, access, op.action());
    let (address, width) = (access.addresses[lane % WARP], access.width.bytes() as u32);
    Box::new(Fault { kind, party, space, address, width })
}
