//! Who observed whose strong writes: causality order beyond synchronisation.
//!
//! By the PTX memory model a write X is ordered before an access Y not only if synchronisation and program order say so
//! (base causality order) but also if some strong read Z *observed* X, and Z is ordered before Y in base causality order.
//! Z observes the write whose value it reads, if the two are morally strong; and if that write is part of an atomic, all
//! that the atomic's read observed. The rule does not go on from there: what X's thread did before X is not ordered
//! before Y, and neither are reads, nor stores that X overwrote.
//!
//! So the writes of a location fall into chains: a strong write, and the atomics that have read it one after the other. Z
//! observes a beginning of one chain. The last block's `count = 0` after its `atomicAdd(&count, 1)` is the plainest case:
//! its atomic has observed all others.

use std::collections::BTreeMap;

use super::clock::{View, agent_of, epoch, time_of};
use super::counters::lanes;
use super::shadow::{COMPARE, Conflict, STRONG, Stamp, StampSet, WIDE, WRITE, unordered};

/// Writes of a chain beyond which the older half is forgotten. That is exact for weak accesses, which must be ordered
/// after the last write, and so after all; it can report too much of atomics with scopes that do not fit each other.
const LONG: usize = 32;
/// Chains of a sector that have ended and that someone observed, beyond which the oldest counts as never observed. That
/// can report too much of a plain access to a flag that was stored to, observed and never synchronised with so often.
const MOST: usize = 32;
/// Entries of readers beyond which those that have not seen a chain's last write are forgotten.
const CROWD: usize = 1024;

/// One warp instruction's writes to a location, by lanes in order; they follow each other in its chain.
#[derive(Clone, Copy, Debug)]
struct Write {
    epoch: u64,
    /// The first lane's place in the chain.
    place: u64,
    source: u32,
    lanes: u32,
    flags: u8,
}

impl Write {
    fn place_of(&self, lane: usize) -> u64 {
        self.place + u64::from((self.lanes & ((1 << lane) - 1)).count_ones())
    }

    fn stamp(&self, lanes: u32, bytes: u32) -> Stamp {
        Stamp::listed(self.epoch, self.source, self.flags, lanes, bytes)
    }
}

/// A strong write and the atomics that read it one after the other, each morally strong with the one before it.
#[derive(Debug)]
struct Chain {
    /// The location: accesses to other bytes, even if they overlap, observe nothing here.
    bytes: u32,
    /// Those that no weak write has overwritten.
    left: u32,
    /// Whether the last write's value is still there to be read.
    open: bool,
    /// In order; all but the first have observed those before them.
    earlier: Vec<Write>,
    last: Write,
    /// Writes there have been.
    count: u64,
    /// Lanes that have read, by warp, number of writes observed, time. For each lane and number the first time.
    readers: BTreeMap<(u64, u64, u32), u32>,
}

impl Chain {
    /// Writes that have been forgotten.
    fn forgotten(&self) -> u64 {
        self.earlier.first().unwrap_or(&self.last).place
    }

    fn writes(&self) -> impl DoubleEndedIterator<Item = &Write> {
        self.earlier.iter().chain([&self.last])
    }

    fn read(&mut self, view: &View<'_>, lane: usize) {
        let (agent, seen) = (view.agent, self.count);
        // The last writer need not be told.
        let last = &self.last;
        let own = agent_of(last.epoch) == agent && last.lanes >> lane == 1;
        let mut times = self.readers.range((agent, seen, 0)..=(agent, seen, u32::MAX));
        if own || times.any(|(_, mask)| mask >> lane & 1 != 0) {
            return;
        }
        *self.readers.entry((agent, seen, time_of(view.epoch))).or_default() |= 1 << lane;
        if self.readers.len() > CROWD {
            self.readers.retain(|(_, s, _), _| *s == seen);
        }
    }

    fn write(&mut self, view: &View<'_>, source: u32, flags: u8, lane: usize) {
        let (place, last) = (self.count, &mut self.last);
        self.count += 1;
        if (last.epoch, last.source, last.flags) == (view.epoch, source, flags) && last.lanes >> lane == 0 {
            last.lanes |= 1 << lane;
            return;
        }
        let new = Write { epoch: view.epoch, place, source, lanes: 1 << lane, flags };
        self.earlier.push(std::mem::replace(last, new));
        if self.earlier.len() >= LONG {
            self.earlier.drain(..LONG / 2);
            let forgotten = self.forgotten();
            self.readers.retain(|(_, seen, _), _| *seen > forgotten);
        }
    }

    /// How many of the first writes `lane` is ordered after because some read that it is ordered after observed them.
    fn observed(&self, view: &View<'_>, lane: usize) -> u64 {
        let known = |at: u64, mask: u32| lanes(mask).filter(move |&other| view.after(lane, at, other));
        let writers = self.writes().rev().find_map(|write| {
            // Later lanes have observed more.
            known(write.epoch, write.lanes).last().map(|other| write.place_of(other))
        });
        let readers = self
            .readers
            .iter()
            .filter_map(|(&(agent, seen, time), &mask)| known(epoch(agent, time), mask).next().map(|_| seen));
        readers.chain(writers).max().unwrap_or(0)
    }

    /// The first write that `lane` is not ordered after and that conflicts with `new`.
    fn unordered(&self, new: &Stamp, view: &View<'_>, lane: usize) -> Option<Conflict> {
        let observed = self.observed(view, lane);
        let exempt =
            |write: &Write| new.flags & STRONG != 0 && linked(view, write.epoch, write.flags, new.flags);
        for write in self.writes().filter(|write| !exempt(write)) {
            for other_lane in lanes(write.lanes) {
                if write.place_of(other_lane) >= observed && !view.after(lane, write.epoch, other_lane) {
                    let other = write.stamp(1 << other_lane, self.left);
                    return Some(Conflict { lane, other, other_lane });
                }
            }
        }
        None
    }
}

/// What has become of the strong writes to a sector.
#[derive(Debug, Default)]
pub(super) struct History {
    chains: Vec<Chain>,
    /// Writes that none can observe any more and none has; and compares that failed, which are only reads. They are ordered
    /// before what synchronisation orders them before.
    unseen: Option<Box<StampSet>>,
    /// Bytes at which narrow atomics may have been forgotten.
    lost: u32,
}

/// Whether two strong accesses are morally strong, one being by the viewing block.
fn linked(view: &View<'_>, old: u64, old_flags: u8, new_flags: u8) -> bool {
    view.same_block(old) || old_flags & new_flags & WIDE != 0
}

impl History {
    /// One lane's strong access has been performed. `flags` say what it was to do, `reads` and `wrote` what it did.
    pub(super) fn perform(&mut self, new: &Stamp, lane: usize, reads: bool, wrote: bool, view: &View<'_>) {
        let (bytes, flags) = (new.bytes, new.flags);
        if flags & WRITE != 0 && !wrote {
            // The shadow took it for a write, before it was known; here it is but a read.
            let read = Stamp::single(new.epoch, new.source, flags & !WRITE | COMPARE, lane, bytes);
            self.unseen.get_or_insert_default().insert_past(&read, view);
        }
        let chain = self.chains.iter_mut().find(|chain| chain.open && chain.bytes == bytes);
        if let Some(chain) = chain.filter(|_| reads)
            && linked(view, chain.last.epoch, chain.last.flags, flags)
        {
            if wrote {
                chain.write(view, new.source, flags, lane);
            } else {
                chain.read(view, lane);
            }
            return;
        }
        if wrote {
            self.end(bytes, view);
            let last = Write { epoch: view.epoch, place: 0, source: new.source, lanes: 1 << lane, flags };
            let (earlier, readers) = (Vec::new(), BTreeMap::new());
            if self.chains.capacity() == 0 {
                self.chains.reserve_exact(1);
            }
            self.chains.push(Chain { bytes, left: bytes, open: true, earlier, last, count: 1, readers });
        }
    }

    /// What these bytes held is overwritten by a write that has not observed it.
    fn end(&mut self, bytes: u32, view: &View<'_>) {
        let mut ended = 0;
        let mut index = 0;
        while let Some(chain) = self.chains.get_mut(index) {
            chain.open &= chain.bytes & bytes == 0;
            if !chain.open && chain.count == 1 && chain.readers.is_empty() {
                let chain = self.chains.remove(index);
                self.abandon(&chain, view);
                continue;
            }
            ended += usize::from(!chain.open);
            index += 1;
        }
        if ended > MOST
            && let Some(oldest) = self.chains.iter().position(|chain| !chain.open)
        {
            let chain = self.chains.remove(oldest);
            self.abandon(&chain, view);
        }
    }

    fn abandon(&mut self, chain: &Chain, view: &View<'_>) {
        for write in chain.writes() {
            self.unseen.get_or_insert_default().insert_past(&write.stamp(write.lanes, chain.left), view);
        }
        if chain.forgotten() > 0 {
            self.lost |= chain.left;
        }
    }

    /// Whether an access is after all ordered after the strong writes that synchronisation does not order it after, of
    /// which `found` is one, or else one that it is not ordered after.
    pub(super) fn check(
        &self,
        new: &Stamp,
        found: Conflict,
        rival: impl Fn(&Stamp) -> bool,
        view: &View<'_>,
    ) -> Result<(), Conflict> {
        let unseen = self.unseen.iter().flat_map(|set| set.recent(view)).filter(|old| rival(old));
        if let Some(conflict) = unseen.filter_map(|old| unordered(old, new, view)).next() {
            return Err(conflict);
        }
        let strong = new.flags & STRONG != 0;
        if strong && self.lost & new.bytes != 0 {
            return Err(found);
        }
        for chain in self.chains.iter().filter(|chain| chain.left & new.bytes != 0) {
            let shared = lanes(chain.left & new.bytes).map(|byte| new.lanes_at(byte as u32));
            for lane in lanes(shared.fold(0, |mask, lanes| mask | lanes)) {
                if let Some(conflict) = chain.unordered(new, view, lane) {
                    return Err(conflict);
                }
                if strong && chain.observed(view, lane) < chain.forgotten() {
                    return Err(found);
                }
            }
        }
        Ok(())
    }

    /// A weak write is ordered after all that was here, or the host has taken over.
    pub(super) fn clear(&mut self, bytes: u32) {
        if let Some(unseen) = &mut self.unseen {
            unseen.clear(bytes);
        }
        self.lost &= !bytes;
        self.chains.retain_mut(|chain| {
            chain.open &= chain.bytes & bytes == 0;
            chain.left &= !bytes;
            chain.left != 0
        });
    }
}
