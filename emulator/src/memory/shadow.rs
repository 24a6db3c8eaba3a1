//! The race checker's shadow: who touched which byte last.
//!
//! The unit is a 32-byte sector. What one warp instruction does to a sector is one [`Stamp`]: the warp and its time,
//! the bytes, and which lane touched which byte, as `lane = lane0 + (byte >> shift)` (coalesced and power-of-two strided
//! accesses) or as a set of lanes that touched every byte (single threads, broadcasts). So a coalesced access costs
//! one comparison a sector, and yet everything is exact to the byte and the lane.
//!
//! Weak writes exclude each other, hence one stamp a byte. Reads, and strong accesses (which do not race with each
//! other), accumulate until an access that is ordered after them and conflicts with everything they conflict with
//! takes their place; that is FastTrack's adaptive read set, extended to atomics. Nothing else is ever dropped, so a
//! later unordered access is always reported, whichever of the earlier ones it is unordered with: not even what is
//! ordered before the running launch, for one on another stream may not be.
//!
//! Strong writes may also be ordered before an access because a read observed them: `history` knows, and is asked where the
//! stamps say that nothing else does.

use std::collections::BTreeMap;

use super::clock::{View, agent_of};
use super::counters::lanes;
use super::fault::Action;
use super::history::History;

/// Bytes of a shadow cell.
pub(super) const SECTOR: usize = 32;
/// `Stamp::shift` of the form that lists its lanes.
const LISTED: u8 = 5;
/// Stamps beyond which a set is kept by warp.
const FEW: usize = 12;
/// A sector's list of one warp's stamps is rewritten by lanes when it grows past this.
const LONG: usize = 48;

pub(super) const WRITE: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const STRONG: u8 = 4;
/// Strong with a scope beyond the block.
pub(super) const WIDE: u8 = 8;
/// A load through the non-coherent path.
pub(super) const NONCOHERENT: u8 = 16;
/// A read by an atomic that then wrote nothing.
pub(super) const COMPARE: u8 = 32;

/// The mask of `width` bytes from `offset` in a sector.
pub(super) fn bytes_at(offset: u32, width: u32) -> u32 {
    (((1u64 << width) - 1) << offset) as u32
}

/// The accesses of one warp instruction to one sector.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp {
    pub(super) epoch: u64,
    /// Bytes touched; 0: no stamp.
    pub(super) bytes: u32,
    /// The lanes, if `shift` is `LISTED`.
    lanes: u32,
    pub(super) source: u32,
    shift: u8,
    lane0: i8,
    pub(super) flags: u8,
}

impl Stamp {
    /// `lane` touched `bytes`.
    pub(super) fn single(epoch: u64, source: u32, flags: u8, lane: usize, bytes: u32) -> Self {
        Self::listed(epoch, source, flags, 1 << lane, bytes)
    }

    /// Each of `lanes` touched all `bytes`.
    pub(super) fn listed(epoch: u64, source: u32, flags: u8, lanes: u32, bytes: u32) -> Self {
        Self { epoch, bytes, lanes, source, shift: LISTED, lane0: 0, flags }
    }

    /// Lanes of `1 << shift` bytes each touched `bytes`, the sector's byte 0 belonging to lane `lane0`.
    pub(super) fn run(epoch: u64, source: u32, flags: u8, lane0: i32, shift: u8, bytes: u32) -> Self {
        Self { epoch, bytes, lanes: 0, source, shift, lane0: lane0 as i8, flags }
    }

    /// The same on other bytes; for a stamp whose lanes touched every byte.
    pub(super) fn on(self, bytes: u32) -> Self {
        Self { bytes, ..self }
    }

    pub(super) fn action(&self) -> Action {
        match self.flags & (READ | WRITE | COMPARE) {
            WRITE => Action::Store,
            READ => Action::Load,
            _ => Action::Atomic,
        }
    }

    /// The lanes that touched `byte`, given that it was touched.
    pub(super) fn lanes_at(&self, byte: u32) -> u32 {
        if self.shift == LISTED {
            self.lanes
        } else {
            1u32.checked_shl((i32::from(self.lane0) + (byte >> self.shift) as i32) as u32).unwrap_or(0)
        }
    }

    /// Adds the next lane of the same instruction, if the result is still one stamp. `offset` and `width` give the
    /// lane's bytes in the sector.
    pub(super) fn extend(&mut self, lane: usize, offset: u32, width: u32) -> bool {
        let bytes = bytes_at(offset, width);
        if self.shift == LISTED {
            if bytes == self.bytes {
                // Two lanes that store to the same bytes race with each other: two stamps.
                if self.flags & (WRITE | STRONG) == WRITE {
                    return false;
                }
                self.lanes |= 1 << lane;
                return true;
            }
            if !self.lanes.is_power_of_two() {
                return false;
            }
            let first = self.lanes.trailing_zeros();
            let start = self.bytes.trailing_zeros();
            let (Some(gap), true) = (offset.checked_sub(start), lane as u32 > first) else { return false };
            let stride = gap / (lane as u32 - first);
            let alone = self.bytes.count_ones() == width;
            if !stride.is_power_of_two() || stride < width || stride > 16 || !alone {
                return false;
            }
            let shift = stride.trailing_zeros();
            let lane0 = first as i32 - (start >> shift) as i32;
            let whole = (start & (stride - 1)) + width <= stride;
            if !whole
                || lane0 + (offset >> shift) as i32 != lane as i32
                || offset & (stride - 1) != start & (stride - 1)
            {
                return false;
            }
            (self.shift, self.lane0, self.lanes) = (shift as u8, lane0 as i8, 0);
        } else {
            let shift = u32::from(self.shift);
            let fits = (offset & ((1 << shift) - 1)) + width <= 1 << shift;
            if !fits || i32::from(self.lane0) + (offset >> shift) as i32 != lane as i32 {
                return false;
            }
        }
        self.bytes |= bytes;
        true
    }

    fn same_pattern(&self, other: &Stamp) -> bool {
        self.shift == other.shift && self.lane0 == other.lane0 && self.lanes == other.lanes
    }

    /// Takes in `new`, an access of the same kind, if one stamp can say both exactly.
    fn merge(&mut self, new: &Stamp) -> bool {
        if self.epoch != new.epoch || self.source != new.source || self.flags != new.flags {
            return false;
        }
        if self.same_pattern(new) {
            self.bytes |= new.bytes;
            return true;
        }
        if self.shift == LISTED && new.shift == LISTED && self.bytes == new.bytes {
            self.lanes |= new.lanes;
            return true;
        }
        false
    }

    /// Whether whatever is ordered after `new` is, on the bytes they share, ordered after `self` too. May say no.
    pub(super) fn precedes(&self, new: &Stamp, view: &View<'_>) -> bool {
        if view.ancient(self.epoch) {
            return true;
        }
        let same_threads = agent_of(self.epoch) == view.agent
            && (self.same_pattern(new)
                || (self.shift == LISTED && new.shift == LISTED && self.lanes & !new.lanes == 0));
        same_threads || view.common_knows(self.epoch)
    }
}

/// Two accesses that nothing orders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conflict {
    /// The lane at fault.
    pub(super) lane: usize,
    /// The earlier access.
    pub(super) other: Stamp,
    pub(super) other_lane: usize,
}

/// The first pair of threads, by byte and lane, that share a byte and are unordered.
pub(super) fn unordered(old: &Stamp, new: &Stamp, view: &View<'_>) -> Option<Conflict> {
    let mut overlap = old.bytes & new.bytes;
    if overlap == 0 || view.ancient(old.epoch) {
        return None;
    }
    let affine = old.shift < LISTED || old.lanes.is_power_of_two();
    if (affine && agent_of(old.epoch) == view.agent && old.same_pattern(new)) || view.common_knows(old.epoch)
    {
        return None;
    }
    let listed = old.shift == LISTED && new.shift == LISTED;
    while overlap != 0 {
        let byte = overlap.trailing_zeros();
        overlap &= overlap - 1;
        for lane in lanes(new.lanes_at(byte)) {
            for other_lane in lanes(old.lanes_at(byte)) {
                if !view.knows(lane, old.epoch, other_lane) {
                    return Some(Conflict { lane, other: *old, other_lane });
                }
            }
        }
        if listed {
            break;
        }
    }
    None
}

/// Whether two strong accesses do not race: each one's scope includes the other's thread.
fn morally_strong(old: &Stamp, new: &Stamp, view: &View<'_>) -> bool {
    view.same_block(old.epoch) || old.flags & new.flags & WIDE != 0
}

/// Any number of stamps, which may share bytes: a list while they are few, then by warp. Ordered, so that reports are
/// deterministic.
#[derive(Debug, Default)]
pub(super) struct StampSet {
    few: Vec<Stamp>,
    many: BTreeMap<u64, Vec<Stamp>>,
    /// What has been swept: since which launch (by its first warp), for which kinds and bytes.
    swept: (u64, Vec<(u8, u32)>),
}

impl StampSet {
    /// All but what is anyway ordered before the launch: counters that thousands of blocks of earlier launches have
    /// incremented would be slow to walk.
    pub(super) fn recent<'a>(&'a self, view: &'a View<'_>) -> impl Iterator<Item = &'a Stamp> {
        let mut rest = self.many.range(view.launch.floor..);
        let many = std::iter::from_fn(move || {
            loop {
                let (&agent, list) = rest.next()?;
                match view.launch.known_until(agent) {
                    Some(end) => rest = self.many.range(end..),
                    None => return Some(list),
                }
            }
        });
        self.few.iter().chain(many.flatten())
    }

    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_empty()
    }

    pub(super) fn clear(&mut self, bytes: u32) {
        clear_list(&mut self.few, bytes);
        self.many.retain(|_, list| {
            clear_list(list, bytes);
            !list.is_empty()
        });
    }

    fn insert(&mut self, new: &Stamp, view: &View<'_>) {
        self.sweep(new, view);
        if self.many.is_empty() {
            absorb(&mut self.few, new, view);
            self.spread();
        } else {
            absorb(self.many.entry(view.agent).or_default(), new, view);
        }
    }

    fn spread(&mut self) {
        if self.few.len() > FEW {
            for stamp in self.few.drain(..) {
                self.many.entry(agent_of(stamp.epoch)).or_default().push(stamp);
            }
        }
    }

    /// Inserts a stamp with listed lanes that need not be the viewer's: it stands for its own threads' earlier ones, and
    /// for those of launches ordered before theirs.
    pub(super) fn insert_past(&mut self, new: &Stamp, view: &View<'_>) {
        let agent = agent_of(new.epoch);
        if view.launch.owns(agent) {
            self.sweep(new, view);
        }
        let list = if self.many.is_empty() { &mut self.few } else { self.many.entry(agent).or_default() };
        if list.iter_mut().any(|old| old.merge(new)) {
            return;
        }
        list.retain_mut(|old| {
            let same_threads = agent_of(old.epoch) == agent && old.lanes & !new.lanes == 0;
            if same_threads && old.flags == new.flags && old.epoch <= new.epoch {
                old.bytes &= !new.bytes;
            }
            old.bytes != 0
        });
        list.push(*new);
        if list.len() > LONG {
            relist(list, new);
        }
        self.spread();
    }

    /// `new` takes the place of the same accesses by launches that are ordered before its own, so that the set does
    /// not grow from launch to launch. Once for each launch: all its later accesses of the kind find nothing to do.
    fn sweep(&mut self, new: &Stamp, view: &View<'_>) {
        if self.many.is_empty() || view.launch.base < self.swept.0 {
            return;
        }
        if view.launch.base > self.swept.0 {
            self.swept = (view.launch.base, Vec::new());
        }
        let kinds = &mut self.swept.1;
        match kinds.iter_mut().find(|(flags, _)| *flags == new.flags) {
            Some((_, bytes)) if new.bytes & !*bytes == 0 => return,
            Some((_, bytes)) => *bytes |= new.bytes,
            None => kinds.push((new.flags, new.bytes)),
        }
        self.many.retain(|_, list| {
            list.retain_mut(|old| {
                if old.flags == new.flags && view.ancient(old.epoch) {
                    old.bytes &= !new.bytes;
                }
                old.bytes != 0
            });
            !list.is_empty()
        });
    }
}

/// What does not fit the two stamps that a sector holds itself.
#[derive(Debug, Default)]
struct More {
    writes: Vec<Stamp>,
    reads: StampSet,
    strong: StampSet,
    /// Who observed the strong writes.
    history: History,
    /// Whether some strong access has block scope.
    narrow: bool,
}

/// The shadow of 32 bytes.
#[derive(Debug, Default)]
pub(super) struct Sector {
    write: Stamp,
    read: Stamp,
    more: Option<Box<More>>,
}

impl Sector {
    /// Checks an access against all earlier ones and records it.
    pub(super) fn touch(&mut self, new: &Stamp, view: &View<'_>) -> Result<(), Conflict> {
        self.check(new, view)?;
        self.record(new, view);
        Ok(())
    }

    /// Checks an access against all earlier ones.
    #[inline]
    pub(super) fn check(&self, new: &Stamp, view: &View<'_>) -> Result<(), Conflict> {
        let (writes, strong) = (new.flags & WRITE != 0, new.flags & STRONG != 0);
        check([&self.write], new, view)?;
        if writes {
            check([&self.read], new, view)?;
        }
        let Some(more) = &self.more else { return Ok(()) };
        check(&more.writes, new, view)?;
        if writes {
            check(more.reads.recent(view), new, view)?;
        }
        if !strong {
            // A weak write conflicts with everything, a weak read with writes.
            return more.check_strong(new, view, |old| (old.flags | new.flags) & WRITE != 0);
        }
        // A strong access conflicts with weak ones, and with strong ones whose scope is too narrow.
        if new.flags & WIDE == 0 || more.narrow {
            return more.check_strong(new, view, |old| {
                (old.flags | new.flags) & WRITE != 0 && !morally_strong(old, new, view)
            });
        }
        Ok(())
    }

    /// Records an access that has been checked.
    #[inline]
    pub(super) fn record(&mut self, new: &Stamp, view: &View<'_>) {
        if new.flags & STRONG != 0 {
            self.strong(new, view);
        } else if new.flags & WRITE != 0 {
            self.write(new);
        } else {
            self.read(new, view);
        }
    }

    /// A weak write is ordered after all that it shares bytes with, and takes its place.
    fn write(&mut self, new: &Stamp) {
        self.read.bytes &= !new.bytes;
        if let Some(more) = &mut self.more {
            more.clear(new.bytes);
            if more.is_empty() {
                self.more = None;
            }
        }
        self.add_write(new);
    }

    /// Bytes that have no other write any more.
    fn add_write(&mut self, new: &Stamp) {
        if self.write.bytes & !new.bytes == 0 {
            self.write = *new;
        } else if !self.write.merge(new) {
            self.write.bytes &= !new.bytes;
            let more = self.more.get_or_insert_default();
            if !more.writes.iter_mut().any(|old| old.merge(new)) {
                more.writes.push(*new);
            }
        }
    }

    fn read(&mut self, new: &Stamp, view: &View<'_>) {
        let old = &mut self.read;
        if old.bytes & !new.bytes == 0 && (old.bytes == 0 || old.precedes(new, view)) {
            *old = *new;
        } else if !old.merge(new) {
            if old.bytes & new.bytes != 0 && old.precedes(new, view) {
                old.bytes &= !new.bytes;
            }
            self.more.get_or_insert_default().reads.insert(new, view);
        }
    }

    /// A strong access takes the place of none but its own thread's and earlier launches': a later strong access may be
    /// unordered with an earlier weak one.
    fn strong(&mut self, new: &Stamp, view: &View<'_>) {
        let more = self.more.get_or_insert_default();
        more.narrow = new.flags & WIDE == 0 || (more.narrow && !more.strong.is_empty());
        more.strong.insert(new, view);
    }

    /// One lane's strong access, which has been recorded, has been performed.
    pub(super) fn perform(&mut self, new: &Stamp, lane: usize, reads: bool, wrote: bool, view: &View<'_>) {
        if let Some(more) = &mut self.more {
            more.history.perform(new, lane, reads, wrote, view);
        }
    }

    /// Takes in an access that was checked and recorded elsewhere before there was a sector, and none since.
    pub(super) fn adopt(&mut self, stamp: &Stamp) {
        if stamp.flags & WRITE != 0 {
            self.add_write(stamp);
        } else if self.read.bytes == 0 {
            self.read = *stamp;
        } else {
            self.more.get_or_insert_default().reads.few.push(*stamp);
        }
    }

    /// The first write by the running launch to bytes that a non-coherent load reads.
    pub(super) fn written_in_launch(&self, bytes: u32, view: &View<'_>) -> Option<Stamp> {
        let recent = |old: &&Stamp| {
            old.bytes & bytes != 0 && old.flags & WRITE != 0 && view.launch.owns(agent_of(old.epoch))
        };
        let mut inline = [&self.write].into_iter();
        let mut more = self.more.iter().flat_map(|more| more.writes.iter().chain(more.strong.recent(view)));
        inline.find(recent).or_else(|| more.find(recent)).copied()
    }

    /// Forgets what happened to `bytes`: the host has taken over.
    pub(super) fn forget(&mut self, bytes: u32) {
        self.write.bytes &= !bytes;
        self.read.bytes &= !bytes;
        if let Some(more) = &mut self.more {
            more.clear(bytes);
        }
    }
}

impl More {
    fn clear(&mut self, bytes: u32) {
        clear_list(&mut self.writes, bytes);
        self.reads.clear(bytes);
        self.strong.clear(bytes);
        self.history.clear(bytes);
    }

    /// Checks an access against the strong ones that are its rivals.
    #[inline(never)]
    fn check_strong(
        &self,
        new: &Stamp,
        view: &View<'_>,
        rival: impl Fn(&Stamp) -> bool,
    ) -> Result<(), Conflict> {
        let mut found = None;
        for old in self.strong.recent(view).filter(|old| rival(old)) {
            if let Some(conflict) = unordered(old, new, view) {
                // Writes may have been observed, reads cannot.
                if old.flags & WRITE == 0 {
                    return Err(conflict);
                }
                found.get_or_insert(conflict);
            }
        }
        found.map_or(Ok(()), |conflict| self.history.check(new, conflict, rival, view))
    }

    fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.reads.is_empty() && self.strong.is_empty()
    }
}

impl Stamp {
    /// A lane that touched one of `bytes`.
    pub(super) fn some_lane(&self, bytes: u32) -> usize {
        lanes(self.lanes_at((self.bytes & bytes).trailing_zeros().min(31))).next().unwrap_or(0)
    }
}

fn check<'a>(old: impl IntoIterator<Item = &'a Stamp>, new: &Stamp, view: &View<'_>) -> Result<(), Conflict> {
    for old in old {
        if let Some(conflict) = unordered(old, new, view) {
            return Err(conflict);
        }
    }
    Ok(())
}

fn clear_list(list: &mut Vec<Stamp>, bytes: u32) {
    list.retain_mut(|old| {
        old.bytes &= !bytes;
        old.bytes != 0
    });
}

/// Adds a stamp to a list; stamps of the same kind that it makes redundant go.
fn absorb(list: &mut Vec<Stamp>, new: &Stamp, view: &View<'_>) {
    if list.iter_mut().any(|old| old.merge(new)) {
        return;
    }
    list.retain_mut(|old| {
        // A strong access of another block may conflict with what this one's scope exempts; but in this block nothing
        // can conflict with an earlier launch's.
        let exempt = new.flags & STRONG == 0 || view.same_block(old.epoch) || view.ancient(old.epoch);
        let stands_for = old.flags == new.flags && exempt;
        if old.bytes & new.bytes != 0 && stands_for && old.precedes(new, view) {
            old.bytes &= !new.bytes;
        }
        old.bytes != 0
    });
    list.push(*new);
    if list.len() > LONG {
        relist(list, new);
    }
}

/// Rewrites the stamps of `new`'s epoch and kind as one stamp for each distinct set of lanes, at most 32.
fn relist(list: &mut Vec<Stamp>, new: &Stamp) {
    let mut by_byte = [0u32; SECTOR];
    list.retain(|old| {
        if old.epoch != new.epoch || old.flags != new.flags {
            return true;
        }
        lanes(old.bytes).for_each(|byte| by_byte[byte] |= old.lanes_at(byte as u32));
        false
    });
    let mut by_lanes = BTreeMap::<u32, u32>::new();
    for (byte, &set) in by_byte.iter().enumerate().filter(|(_, set)| **set != 0) {
        *by_lanes.entry(set).or_default() |= 1 << byte;
    }
    // The source position of the newest stands for all.
    list.extend(by_lanes.into_iter().map(|(lanes, bytes)| Stamp {
        bytes,
        lanes,
        shift: LISTED,
        lane0: 0,
        ..*new
    }));
}
