//! A flat piece of memory with its shadow: a page of device memory, a block's shared memory.

mod host;

use std::collections::HashMap;

use super::clock::{BlockClock, SyncVar, View, agent_of};
use super::coarse::Strips;
use super::counters::lanes;
use super::fault::{Action, FaultKind, Party};
use super::shadow::{Conflict, NONCOHERENT, READ, SECTOR, STRONG, Sector, Stamp, WIDE, WRITE, bytes_at};
use super::{Access, Checks, LaneBytes, Op, Order, WARP};

/// Bytes that one synchronisation variable covers.
const GRANULE: u32 = 4;

/// The bytes, which of them are initialised, who touched them, and what was released to them.
#[derive(Debug, Default)]
pub(super) struct Region {
    data: Vec<u8>,
    /// One bit a byte, one word a sector. Empty if not checked.
    init: Vec<u32>,
    /// Empty until the first access by a kernel, or if races are not checked.
    sectors: Vec<Sector>,
    /// What transfers did before that.
    strips: Strips,
    sync: HashMap<u32, SyncVar>,
    checks: Checks,
}

/// A fault of one lane, to which the memory adds what it knows.
pub(super) struct LaneFault {
    pub(super) kind: FaultKind,
    pub(super) lane: usize,
}

/// Where the lanes of an access lie in a region.
struct Place<'a> {
    addresses: &'a [u64; WARP],
    base: u64,
    mask: u32,
    width: u32,
    packed: bool,
}

impl Place<'_> {
    fn offset(&self, lane: usize) -> u32 {
        self.addresses[lane % WARP].wrapping_sub(self.base) as u32
    }

    /// Sector, and offset in it.
    fn sector(&self, lane: usize) -> (usize, u32) {
        let offset = self.offset(lane);
        (offset as usize / SECTOR, offset % SECTOR as u32)
    }
}

/// Whether all lanes are active and side by side.
pub(super) fn packed(access: &Access<'_>) -> bool {
    let (first, width) = (access.addresses[0], access.width.bytes() as u64);
    // No early exit: so it is a handful of vector instructions.
    let apart =
        |apart, (lane, &address): (usize, &u64)| apart | (address ^ first.wrapping_add(lane as u64 * width));
    access.lanes == u32::MAX && access.addresses.iter().enumerate().fold(0, apart) == 0
}

impl Region {
    /// `size` is rounded up to whole sectors; the caller checks bounds.
    pub(super) fn new(size: usize, checks: Checks) -> Self {
        let sectors = size.div_ceil(SECTOR);
        let init = if checks.uninitialised { vec![0; sectors] } else { Vec::new() };
        Self { data: vec![0; sectors * SECTOR], init, checks, ..Self::default() }
    }

    /// Whether there is nothing here (any more).
    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// All bytes uninitialised and untouched again.
    pub(super) fn reset(&mut self) {
        self.data.fill(0);
        self.init.fill(0);
        self.sectors.clear();
        self.strips = Strips::default();
        self.sync.clear();
    }

    /// Executes the lanes in `mask` of an access, all of which lie in this region, whose first byte has address `base`.
    /// `packed`: all 32 lanes are active and side by side.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn run(
        &mut self,
        base: u64,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        mask: u32,
        packed: bool,
        op: &mut Op<'_>,
    ) -> Result<(), LaneFault> {
        let width = access.width.bytes();
        let action = op.action();
        let strong = action == Action::Atomic || !matches!(access.order, Order::Weak | Order::NonCoherent);
        let at = Place { addresses: access.addresses, base, mask, width: width as u32, packed };
        if self.checks.uninitialised || self.checks.races {
            self.check(&at, clock, warp, access, action, strong)?;
        }
        if packed && !strong && self.sync.is_empty() {
            let first = at.offset(0) as usize;
            match (op, self.data.get_mut(first..first + WARP * width)) {
                (Op::Load(out), Some(bytes)) => out.0[..bytes.len()].copy_from_slice(bytes),
                (Op::Store(values), Some(bytes)) => bytes.copy_from_slice(&values.0[..bytes.len()]),
                _ => {}
            }
        } else if self.checks.races && (strong || !self.sync.is_empty()) {
            self.synchronise(&at, clock, warp, access, op, strong);
        } else {
            for lane in lanes(mask) {
                self.apply(at.offset(lane) as usize, width, lane, op);
            }
        }
        Ok(())
    }

    /// Executes a weak load of which every lane of the warp reads all bytes.
    pub(super) fn load_together(
        &mut self,
        clock: &BlockClock,
        warp: usize,
        access: &Access<'_>,
        out: &mut LaneBytes,
    ) -> Result<(), LaneFault> {
        let (mask, width) = (access.lanes, access.width.bytes());
        let at = Place { addresses: access.addresses, base: 0, mask, width: width as u32, packed: false };
        if self.checks.uninitialised || self.checks.races {
            self.refine_for_access();
            let view = clock.view(warp);
            let stamp = Stamp::listed(view.epoch, access.source, READ, u32::MAX, 0);
            let mut pending: Option<(usize, u32)> = None;
            for lane in lanes(mask) {
                let (sector, offset) = at.sector(lane);
                let bytes = bytes_at(offset, width as u32);
                match &mut pending {
                    Some((before, all)) if *before == sector => *all |= bytes,
                    _ => {
                        if let Some((before, all)) = pending.replace((sector, bytes)) {
                            self.touch(before, &stamp.on(all), &at, &view)?;
                        }
                    }
                }
            }
            if let Some((sector, bytes)) = pending {
                self.touch(sector, &stamp.on(bytes), &at, &view)?;
            }
        }
        for lane in lanes(mask) {
            self.apply(at.offset(lane) as usize, width, lane, &mut Op::Load(out));
        }
        Ok(())
    }

    /// Checks and records a weak store that does not happen now.
    pub(super) fn claim(
        &mut self,
        clock: &BlockClock,
        warp: usize,
        access: &Access<'_>,
    ) -> Result<(), LaneFault> {
        if !self.checks.races {
            return Ok(());
        }
        let (mask, width, packed) = (access.lanes, access.width.bytes() as u32, packed(access));
        let at = Place { addresses: access.addresses, base: 0, mask, width, packed };
        // Nothing is written yet, so nothing becomes initialised.
        let init = std::mem::take(&mut self.init);
        let result = self.check(&at, clock, warp, access, Action::Store, false);
        self.init = init;
        result
    }

    /// Writes bytes, which must lie in one sector, that were claimed.
    pub(super) fn land(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(target) = self.data.get_mut(offset..offset + bytes.len()) {
            copy(target, bytes);
        }
        if let Some(init) = self.init.get_mut(offset / SECTOR) {
            *init |= bytes_at((offset % SECTOR) as u32, bytes.len() as u32);
        }
    }

    /// Moves one lane's bytes. Whether it wrote.
    fn apply(&mut self, offset: usize, width: usize, lane: usize, op: &mut Op<'_>) -> bool {
        let slot = lane * width..(lane + 1) * width;
        let Some(bytes) = self.data.get_mut(offset..offset + width) else { return false };
        match op {
            Op::Load(out) => copy(&mut out.0[slot], bytes),
            Op::Store(values) => copy(bytes, &values.0[slot]),
            Op::Atomic(out, update) => {
                copy(&mut out.0[slot], bytes);
                let mut wide = [0; 16];
                wide[..width].copy_from_slice(bytes);
                let Some(new) = update(lane, u128::from_le_bytes(wide)) else { return false };
                bytes.copy_from_slice(&new.to_le_bytes()[..width]);
            }
        }
        !matches!(op, Op::Load(_))
    }

    /// Moves the bytes lane by lane, with what acquires, releases and observed values order.
    fn synchronise(
        &mut self,
        at: &Place<'_>,
        clock: &mut BlockClock,
        warp: usize,
        access: &Access<'_>,
        op: &mut Op<'_>,
        strong: bool,
    ) {
        let (width, mask) = (access.width.bytes(), at.mask);
        let (reads, writes) = (!matches!(op, Op::Store(_)), !matches!(op, Op::Load(_)));
        let acquire = reads && matches!(access.order, Order::Acquire | Order::AcqRel);
        let release = writes && matches!(access.order, Order::Release | Order::AcqRel);
        let publishes = strong && writes && clock.releases(warp, mask, release);
        let scope = access.scope();
        let flags = flags(access, op.action(), strong);
        for lane in lanes(mask) {
            let offset = at.offset(lane);
            let granules = (offset / GRANULE..=(offset + width as u32 - 1) / GRANULE).map(|g| g * GRANULE);
            if strong && reads && !self.sync.is_empty() {
                for granule in granules.clone() {
                    if let Some(var) = self.sync.get(&granule) {
                        clock.observe(var, warp, lane, acquire, scope);
                    }
                }
            }
            let wrote = self.apply(offset as usize, width, lane, op);
            if strong && let Some(sector) = self.sectors.get_mut(offset as usize / SECTOR) {
                let (view, bytes) = (clock.view(warp), bytes_at(offset % SECTOR as u32, width as u32));
                let stamp = Stamp::single(view.epoch, access.source, flags, lane, bytes);
                sector.perform(&stamp, lane, reads, wrote, &view);
            }
            if !wrote || (self.sync.is_empty() && !publishes) {
                continue;
            }
            for granule in granules {
                if !strong {
                    self.sync.remove(&granule);
                    continue;
                }
                if publishes || self.sync.contains_key(&granule) {
                    let var = self.sync.entry(granule).or_default();
                    clock.announce(var, warp, lane, release, scope, reads);
                    if var.is_empty() {
                        self.sync.remove(&granule);
                    }
                }
            }
        }
        if release {
            clock.advance(warp);
        }
    }

    fn check(
        &mut self,
        place: &Place<'_>,
        clock: &BlockClock,
        warp: usize,
        access: &Access<'_>,
        action: Action,
        strong: bool,
    ) -> Result<(), LaneFault> {
        self.refine_for_access();
        let width = access.width.bytes() as u32;
        let view = clock.view(warp);
        let flags = flags(access, action, strong);
        if place.packed {
            // Sector by sector; lanes and bytes follow from the first offset.
            let (start, end) = (place.offset(0), place.offset(0) + WARP as u32 * width);
            let shift = width.trailing_zeros() as u8;
            let mut at = start;
            while at < end {
                let sector = at & !(SECTOR as u32 - 1);
                let stop = end.min(sector + SECTOR as u32);
                let bytes = bytes_at(at - sector, stop - at);
                let lane0 = (i64::from(sector) - i64::from(start)) >> shift;
                let stamp = Stamp::run(view.epoch, access.source, flags, lane0 as i32, shift, bytes);
                self.touch(sector as usize / SECTOR, &stamp, place, &view)?;
                at = stop;
            }
            return Ok(());
        }
        let mut pending: Option<(usize, Stamp)> = None;
        for lane in lanes(place.mask) {
            let (sector, offset) = place.sector(lane);
            if let Some((at, stamp)) = &mut pending {
                if *at == sector && stamp.extend(lane, offset, width) {
                    continue;
                }
                let (at, stamp) = (*at, *stamp);
                self.touch(at, &stamp, place, &view)?;
            }
            let bytes = bytes_at(offset, width);
            pending = Some((sector, Stamp::single(view.epoch, access.source, flags, lane, bytes)));
        }
        match pending {
            Some((at, stamp)) => self.touch(at, &stamp, place, &view),
            None => Ok(()),
        }
    }

    /// The first access by a kernel needs sectors.
    fn refine_for_access(&mut self) {
        if self.checks.races && self.sectors.is_empty() {
            self.refine();
        }
    }

    /// Checks and records what an instruction does to one sector.
    fn touch(
        &mut self,
        index: usize,
        stamp: &Stamp,
        place: &Place<'_>,
        view: &View<'_>,
    ) -> Result<(), LaneFault> {
        if stamp.flags & NONCOHERENT != 0
            && let Some(sector) = self.sectors.get(index)
            && let Some(old) = sector.written_in_launch(stamp.bytes, view)
        {
            let lane = stamp.some_lane(old.bytes);
            let other = party(&old, old.some_lane(stamp.bytes));
            return Err(LaneFault { kind: FaultKind::NonCoherentRead(other), lane });
        }
        if let Some(init) = self.init.get_mut(index) {
            let missing = stamp.bytes & !*init;
            if stamp.flags & READ != 0 && missing != 0 {
                return Err(uninitialised(index, missing & stamp.bytes, place));
            }
            *init |= stamp.bytes;
        }
        if let Some(sector) = self.sectors.get_mut(index) {
            sector.touch(stamp, view).map_err(|conflict| race(stamp, &conflict, view))?;
        }
        Ok(())
    }
}

/// What an access is to the shadow.
fn flags(access: &Access<'_>, action: Action, strong: bool) -> u8 {
    let flags = match action {
        Action::Load if access.order == Order::NonCoherent => READ | NONCOHERENT,
        Action::Load => READ,
        Action::Store => WRITE,
        Action::Atomic => READ | WRITE,
    };
    let scope = if access.scope().wide() { STRONG | WIDE } else { STRONG };
    if strong { flags | scope } else { flags }
}

fn copy(to: &mut [u8], from: &[u8]) {
    // Constant sizes, so that no call to memcpy is made.
    match from.len() {
        4 => to[..4].copy_from_slice(&from[..4]),
        8 => to[..8].copy_from_slice(&from[..8]),
        16 => to[..16].copy_from_slice(&from[..16]),
        _ => to.copy_from_slice(from),
    }
}

fn uninitialised(index: usize, missing: u32, place: &Place<'_>) -> LaneFault {
    for lane in lanes(place.mask) {
        let (sector, offset) = place.sector(lane);
        let bytes = bytes_at(offset, place.width) & missing;
        if sector == index && bytes != 0 {
            return LaneFault { kind: FaultKind::Uninitialised((bytes >> offset) as u16), lane };
        }
    }
    LaneFault { kind: FaultKind::Uninitialised(0), lane: 0 }
}

fn race(new: &Stamp, conflict: &Conflict, view: &View<'_>) -> LaneFault {
    let other = party(&conflict.other, conflict.other_lane);
    let foreign = !view.same_block(conflict.other.epoch);
    let kind = if foreign && new.action() == Action::Load && conflict.other.flags & WRITE != 0 {
        FaultKind::UnorderedRead(other)
    } else {
        FaultKind::Race(other)
    };
    LaneFault { kind, lane: conflict.lane }
}

/// The other side. Which launch, block and warp it was is told by [`locate`], given the launch it belongs to.
fn party(old: &Stamp, lane: usize) -> Party {
    let (action, strong) = (old.action(), old.flags & STRONG != 0);
    Party {
        launch: 0,
        block: agent_of(old.epoch),
        warp: 0,
        lane: lane as u32,
        source: old.source,
        action,
        strong,
    }
}

/// The other side of a fault, if it has one; its block is still a warp number.
pub(super) fn other(kind: &mut FaultKind) -> Option<&mut Party> {
    match kind {
        FaultKind::Race(party) | FaultKind::UnorderedRead(party) | FaultKind::NonCoherentRead(party) => {
            Some(party)
        }
        _ => None,
    }
}

/// Turns the warp number in `party.block` into launch, block and warp.
pub(super) fn locate(party: &mut Party, launch: u64, base: u64, warps_per_block: u32) {
    let warps = u64::from(warps_per_block.max(1));
    let index = party.block.saturating_sub(base);
    (party.launch, party.block, party.warp) = (launch, index / warps, (index % warps) as u32);
}

/// Names the accessor.
pub(super) fn accessor(
    clock: &BlockClock,
    warp: usize,
    lane: usize,
    access: &Access<'_>,
    action: Action,
) -> Party {
    let strong = action == Action::Atomic || !matches!(access.order, Order::Weak | Order::NonCoherent);
    let (launch, block) = (clock.launch().id(), clock.block());
    Party { launch, block, warp: warp as u32, lane: lane as u32, source: access.source, action, strong }
}
