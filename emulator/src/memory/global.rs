//! Device memory: allocations in a wide address space, pages on first touch, accesses by warps from many threads.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use super::allocation::{AllocateError, Allocation, AllocationInfo, MemoryInfo, PAGE};
use super::clock::{BlockClock, Launch, LaunchInner};
use super::counters::lanes;
use super::fault::{Fault, FaultKind, Nearest, Space};
use super::region::{LaneFault, Region, accessor, locate, other, packed};
use super::{Access, Checks, LaneBytes, Op, Update, WARP};

/// First address unless told otherwise: high, so that no small integer is ever a valid address.
const FIRST: u64 = 0x10_0000_0000;
/// Alignment of allocations, as cuMemAlloc's in practice. No allocation is aligned to more on purpose: see `allocate`.
const ALIGNMENT: u64 = 512;
/// Least distance between allocations.
const GUARD: u64 = 1 << 20;
/// Freed allocations that are remembered for reports.
const QUARANTINE: usize = 1 << 16;
/// Allocations that a [`Cache`] holds: the arrays of one kernel.
const CACHED: usize = 8;

/// The card's memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// Bytes of device memory.
    pub limit: u64,
    /// Checks of accesses by kernels.
    pub checks: Checks,
    /// No allocation has a lower address. Cards whose addresses are to be told apart need first addresses far from each
    /// other: 2^56, say, for addresses are below 2^63 and are not used again.
    pub first_address: u64,
}

impl Default for MemoryConfig {
    /// 80 GiB, every check, addresses from 2^36.
    fn default() -> Self {
        Self { limit: 80 << 30, checks: Checks::ALL, first_address: FIRST }
    }
}

/// Which earlier launches are ordered before a new one, all of their accesses with it. What is ordered before one of
/// them must be named too: the checks rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After<'a> {
    /// All of them: everything is on one stream.
    Everything,
    /// Some.
    Launches {
        /// Those with an id below this one,
        before: u64,
        /// and these: ranges of ids, best sorted. They cost by their number, however many launches each holds.
        and: &'a [Range<u64>],
    },
}

#[derive(Debug, Default)]
struct Registry {
    live: BTreeMap<u64, Arc<Allocation>>,
    /// Freed allocations by address: size and serial.
    freed: BTreeMap<u64, (u64, u64)>,
    oldest: VecDeque<u64>,
    next: u64,
    used: u64,
    serial: u64,
}

#[derive(Debug, Default)]
struct Launches {
    /// First warp number and warps a block of each launch.
    begun: Vec<(u64, u32)>,
    next: u64,
}

/// The allocations that a thread has used last. Keep one for each OS thread (or warp); any will do for correctness.
#[derive(Debug, Default)]
pub struct Cache {
    owner: u64,
    entries: [Option<Arc<Allocation>>; CACHED],
    next: usize,
}

/// The memory of a card. All methods take `&self`: host threads and the threads that run blocks share it.
#[derive(Debug)]
pub struct DeviceMemory {
    id: u64,
    config: MemoryConfig,
    registry: RwLock<Registry>,
    launches: Mutex<Launches>,
}

impl DeviceMemory {
    /// An empty memory.
    pub fn new(config: MemoryConfig) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let registry = RwLock::new(Registry { next: config.first_address.max(1), ..Registry::default() });
        // Warps are numbered from 1; 0 marks an empty stamp.
        let launches = Mutex::new(Launches { begun: Vec::new(), next: 1 });
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), config, registry, launches }
    }

    /// What it was made with.
    pub fn config(&self) -> MemoryConfig {
        self.config
    }

    /// Allocates `size` bytes and answers their address. Nothing is touched: pages come to be on first use.
    ///
    /// Addresses are never used twice, and between allocations lies a gap of at least 1 MiB and of at least the
    /// allocation's own size. Every other allocation is aligned to 512 bytes and not to 1024, so that kernels do not
    /// come to rely on more than the driver promises.
    pub fn allocate(&self, size: u64) -> Result<u64, AllocateError> {
        if size == 0 {
            return Err(AllocateError::ZeroSize);
        }
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        let free = self.config.limit.saturating_sub(registry.used);
        let footprint = size.checked_next_multiple_of(ALIGNMENT).filter(|&footprint| footprint <= free);
        let Some(footprint) = footprint else {
            return Err(AllocateError::OutOfMemory { requested: size, free });
        };
        let serial = registry.serial;
        let place = || {
            let base = registry.next.checked_next_multiple_of(2 * ALIGNMENT)?;
            let base = base.checked_add(serial % 2 * ALIGNMENT)?;
            let next = base.checked_add(footprint)?.checked_add(footprint.max(GUARD))?;
            (next < 1 << 63).then_some((base, next))
        };
        // Not even quarantine makes 63 bits run out, short of absurd limits.
        let Some((base, next)) = place() else {
            return Err(AllocateError::OutOfMemory { requested: size, free });
        };
        let pages = (0..size.div_ceil(PAGE as u64)).map(|_| OnceLock::new()).collect();
        let allocation = Allocation { base, size, serial, freed: AtomicBool::new(false), pages };
        registry.next = next;
        registry.serial += 1;
        registry.used += footprint;
        registry.live.insert(base, Arc::new(allocation));
        Ok(base)
    }

    /// Frees the allocation that begins at `base`. Its bytes are gone at once; its address is remembered for reports.
    pub fn free(&self, base: u64) -> Result<(), AllocateError> {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        let Some(allocation) = registry.live.remove(&base) else {
            let again = registry.freed.contains_key(&base);
            return Err(if again { AllocateError::AlreadyFreed } else { AllocateError::NotAllocated });
        };
        allocation.freed.store(true, Ordering::Release);
        registry.used -= allocation.size.next_multiple_of(ALIGNMENT);
        registry.freed.insert(base, (allocation.size, allocation.serial));
        registry.oldest.push_back(base);
        if registry.oldest.len() > QUARANTINE
            && let Some(oldest) = registry.oldest.pop_front()
        {
            registry.freed.remove(&oldest);
        }
        drop(registry);
        // Caches may hold the allocation a while longer; its pages need not wait for them.
        for index in 0..allocation.pages.len() {
            if let Some(mut page) = allocation.touched(index) {
                *page = Region::default();
            }
        }
        Ok(())
    }

    /// Free and total bytes.
    pub fn info(&self) -> MemoryInfo {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        MemoryInfo { free: self.config.limit.saturating_sub(registry.used), total: self.config.limit }
    }

    /// What is still allocated, in order of allocation.
    pub fn leaks(&self) -> Vec<AllocationInfo> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.live.values().map(|allocation| allocation.info()).collect()
    }

    /// The live allocation that an address lies in (`cuMemGetAddressRange`, `cuPointerGetAttribute`).
    pub fn find(&self, address: u64) -> Option<AllocationInfo> {
        self.lookup(address, address).map(|allocation| allocation.info())
    }

    /// The allocation, live or freed, nearest to the bytes from `address` on.
    pub fn nearest(&self, address: u64, width: u64) -> Option<Nearest> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let live = |range: (&u64, &Arc<Allocation>)| (*range.0, range.1.size, range.1.serial, true);
        let freed = |range: (&u64, &(u64, u64))| (*range.0, range.1.0, range.1.1, false);
        let candidates = [
            registry.live.range(..=address).next_back().map(live),
            registry.freed.range(..=address).next_back().map(freed),
            registry.live.range(address..).next().map(live),
            registry.freed.range(address..).next().map(freed),
        ];
        let describe = |(base, size, serial, live): (u64, u64, u64, bool)| {
            let distance = match address.checked_sub(base) {
                None => Some(-i64::try_from(base - address).unwrap_or(i64::MAX)),
                Some(inside) if inside < size => (width > size - inside).then_some(0),
                Some(beyond) => Some(i64::try_from(beyond - size).unwrap_or(i64::MAX)),
            };
            Nearest { base, size, serial, live, distance }
        };
        let near = candidates.into_iter().flatten().map(describe);
        near.min_by_key(|near| near.distance.map_or(0, |distance| 1 + distance.unsigned_abs()))
    }

    /// Numbers a launch of `blocks` blocks. Call it when the launch's turn has come, not when it is enqueued.
    pub fn begin_launch(&self, blocks: u64, threads_per_block: u32, after: After<'_>) -> Launch {
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        let warps_per_block = threads_per_block.div_ceil(WARP as u32).max(1);
        let (id, base) = (launches.begun.len() as u64, launches.next);
        let first_warp = |id: u64| -> u64 {
            let begun = usize::try_from(id).ok().and_then(|index| launches.begun.get(index));
            begun.map_or(base, |(first, _)| *first)
        };
        let (floor, also) = match after {
            After::Everything => (base, Vec::new()),
            After::Launches { before, and } => {
                let warps = |ids: &Range<u64>| first_warp(ids.start)..first_warp(ids.end);
                merge(first_warp(before), and.iter().map(warps))
            }
        };
        launches.begun.push((base, warps_per_block));
        let end = base.saturating_add(blocks.saturating_mul(u64::from(warps_per_block)));
        launches.next = end;
        Launch {
            inner: Arc::new(LaunchInner { id, base, warps_per_block, threads_per_block, end, floor, also }),
        }
    }

    /// Numbers a transfer: a launch of one thread, whose parts ([`write_as`](Self::write_as) and so on) are ordered.
    pub fn begin_transfer(&self, after: After<'_>) -> Launch {
        self.begin_launch(1, 1, after)
    }

    /// Executes a load: checks all active lanes, then fills their part of `out`.
    pub fn load(
        &self,
        cache: &mut Cache,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        out: &mut LaneBytes,
    ) -> Result<(), Box<Fault>> {
        self.run(cache, clock, warp, access, &mut Op::Load(out))
    }

    /// Executes a store. Of lanes that store to the same bytes (a race, if checked) the highest wins.
    pub fn store(
        &self,
        cache: &mut Cache,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        values: &LaneBytes,
    ) -> Result<(), Box<Fault>> {
        self.run(cache, clock, warp, access, &mut Op::Store(values))
    }

    /// Executes an atomic: lanes in order, each indivisible to all other threads. `update` maps lane and old value to
    /// the new one, or to `None` to leave it (a failed compare, which then releases nothing); `old` receives the old
    /// values. `red` ignores them.
    pub fn atomic(
        &self,
        cache: &mut Cache,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        old: &mut LaneBytes,
        update: &mut Update<'_>,
    ) -> Result<(), Box<Fault>> {
        self.run(cache, clock, warp, access, &mut Op::Atomic(old, update))
    }

    fn run(
        &self,
        cache: &mut Cache,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        op: &mut Op<'_>,
    ) -> Result<(), Box<Fault>> {
        if access.lanes == 0 {
            return Ok(());
        }
        let width = access.width.bytes() as u64;
        let packed = packed(access);
        let (mut bits, mut low, mut high) = (0, u64::MAX, 0);
        if packed {
            let first = access.addresses[0];
            (bits, low, high) = (first, first, first.saturating_add((WARP as u64 - 1) * width));
        } else {
            for lane in lanes(access.lanes) {
                let address = access.addresses[lane];
                (bits, low, high) = (bits | address, low.min(address), high.max(address));
            }
        }
        if bits & (width - 1) != 0 {
            let misaligned = |&lane: &usize| access.addresses[lane] & (width - 1) != 0;
            let lane = lanes(access.lanes).find(misaligned).unwrap_or(0);
            let fault = LaneFault { kind: FaultKind::Misaligned, lane };
            return Err(self.fault(fault, clock, warp, access, op));
        }
        if let Some(allocation) = self.cached(cache, low, high | (width - 1)) {
            let (first, last) =
                ((low - allocation.base) / PAGE as u64, (high - allocation.base) / PAGE as u64);
            if first == last {
                return self.run_page(allocation, first, clock, warp, access, access.lanes, packed, op);
            }
            return self.run_in(allocation, clock, warp, access, access.lanes, op);
        }
        // Out of bounds somewhere, or lanes in several allocations: all must be sound before any is executed.
        for lane in lanes(access.lanes) {
            let address = access.addresses[lane];
            if self.cached(cache, address, address | (width - 1)).is_none() {
                let fault = LaneFault { kind: self.outside(address, width), lane };
                return Err(self.fault(fault, clock, warp, access, op));
            }
        }
        let mut left = access.lanes;
        while left != 0 {
            let first = access.addresses[left.trailing_zeros() as usize];
            let Some(allocation) = self.cached(cache, first, first | (width - 1)) else { break };
            let inside = |&lane: &usize| allocation.contains(access.addresses[lane], access.addresses[lane]);
            let mask = lanes(left).filter(inside).fold(0, |mask, lane| mask | 1 << lane);
            left &= !mask;
            self.run_in(allocation, clock, warp, access, mask, op)?;
        }
        Ok(())
    }

    /// The lanes of `mask` all lie in `allocation`: page by page.
    fn run_in(
        &self,
        allocation: &Allocation,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        mask: u32,
        op: &mut Op<'_>,
    ) -> Result<(), Box<Fault>> {
        let page_of = |lane: usize| (access.addresses[lane] - allocation.base) / PAGE as u64;
        let mut left = mask;
        while left != 0 {
            // Lanes in a row that share a page.
            let index = page_of(left.trailing_zeros() as usize);
            let mask =
                lanes(left).take_while(|&lane| page_of(lane) == index).fold(0, |mask, lane| mask | 1 << lane);
            left &= !mask;
            self.run_page(allocation, index, clock, warp, access, mask, false, op)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn run_page(
        &self,
        allocation: &Allocation,
        index: u64,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        mask: u32,
        packed: bool,
        op: &mut Op<'_>,
    ) -> Result<(), Box<Fault>> {
        let result = match allocation.page(index as usize, self.config.checks) {
            Some(mut page) if !page.is_empty() && !allocation.freed.load(Ordering::Acquire) => {
                page.run(allocation.base + index * PAGE as u64, clock, warp, access, mask, packed, op)
            }
            _ => {
                let lane = mask.trailing_zeros() as usize;
                let width = access.width.bytes() as u64;
                Err(LaneFault { kind: self.outside(access.addresses[lane], width), lane })
            }
        };
        // Outside the match, so that the page is not locked while the report is made.
        result.map_err(|fault| self.fault(fault, clock, warp, access, op))
    }

    /// What is wrong with bytes that lie in no live allocation.
    pub(super) fn outside(&self, address: u64, width: u64) -> FaultKind {
        match self.nearest(address, width) {
            Some(near) if near.distance.is_none() && !near.live => FaultKind::UseAfterFree(near),
            near => FaultKind::OutOfBounds(near),
        }
    }

    fn fault(
        &self,
        LaneFault { mut kind, lane }: LaneFault,
        clock: &BlockClock,
        warp: usize,
        access: &Access<'_>,
        op: &Op<'_>,
    ) -> Box<Fault> {
        self.locate(&mut kind);
        let party = accessor(clock, warp, lane, access, op.action());
        let (address, width) = (access.addresses[lane % WARP], access.width.bytes() as u32);
        Box::new(Fault { kind, party, space: Space::Global, address, width })
    }

    /// Names the launch, block and warp of a fault's other side.
    pub(super) fn locate(&self, kind: &mut FaultKind) {
        if let Some(party) = other(kind) {
            let launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
            let position = launches.begun.partition_point(|(base, _)| *base <= party.block);
            if let Some(id) = position.checked_sub(1) {
                let (base, warps) = launches.begun[id];
                locate(party, id as u64, base, warps);
            }
        }
    }

    fn cached<'a>(&self, cache: &'a mut Cache, first: u64, last: u64) -> Option<&'a Allocation> {
        if cache.owner != self.id {
            *cache = Cache { owner: self.id, ..Cache::default() };
        }
        let hit = |entry: &Option<Arc<Allocation>>| {
            let allocation = entry.as_ref();
            allocation.is_some_and(|a| a.contains(first, last) && !a.freed.load(Ordering::Acquire))
        };
        let position = match cache.entries.iter().position(hit) {
            Some(position) => position,
            None => {
                let position = cache.next;
                cache.next = (position + 1) % CACHED;
                cache.entries[position] = Some(self.lookup(first, last)?);
                position
            }
        };
        cache.entries[position].as_deref()
    }

    /// The live allocation that holds all bytes from `first` to `last`.
    pub(super) fn lookup(&self, first: u64, last: u64) -> Option<Arc<Allocation>> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let (_, allocation) = registry.live.range(..=first).next_back()?;
        allocation.contains(first, last).then(|| allocation.clone())
    }
}

/// Sorts and joins ranges; those that reach down to the floor raise it.
fn merge(mut floor: u64, ranges: impl Iterator<Item = Range<u64>>) -> (u64, Vec<Range<u64>>) {
    let mut ranges = ranges.filter(|range| !range.is_empty()).collect::<Vec<_>>();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged = Vec::<Range<u64>>::new();
    for range in ranges {
        match merged.last_mut() {
            None if range.start <= floor => floor = floor.max(range.end),
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    (floor, merged)
}
