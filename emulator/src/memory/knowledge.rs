//! What a thread knows of the others: the vector clocks, kept small.

use std::sync::Arc;

use super::WARP;
use super::counters::lanes;

/// What is known of one block's warps: accesses with a time below the entry are ordered.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    all: Vec<u32>,
    /// Warps of which some lanes are known better than the rest, sorted by warp.
    lanes: Vec<(u32, Box<[u32; WARP]>)>,
}

impl Known {
    fn of(&self, warp: usize) -> u32 {
        self.all.get(warp).copied().unwrap_or(0)
    }

    fn knows(&self, warp: usize, lane: usize, time: u32) -> bool {
        time < self.of(warp)
            || self
                .lanes
                .iter()
                .any(|(w, times)| *w as usize == warp && times.get(lane).is_some_and(|&t| time < t))
    }

    fn raise(&mut self, warp: usize, time: u32) {
        if self.all.len() <= warp {
            self.all.resize(warp + 1, 0);
        }
        self.all[warp] = self.all[warp].max(time);
        // Lanes that are known no better than their warp are redundant.
        self.lanes.retain(|(w, times)| *w as usize != warp || times.iter().any(|&t| t > time));
    }

    fn raise_lanes(&mut self, warp: usize, mask: u32, time: u32) {
        let position = match self.lanes.binary_search_by_key(&(warp as u32), |(w, _)| *w) {
            Ok(position) => position,
            Err(position) => {
                self.lanes.insert(position, (warp as u32, Box::new([0; WARP])));
                position
            }
        };
        for lane in lanes(mask) {
            let slot = &mut self.lanes[position].1[lane];
            *slot = (*slot).max(time);
        }
    }

    fn covers(&self, other: &Known) -> bool {
        other.all.iter().enumerate().all(|(warp, &time)| time <= self.of(warp))
            && other.lanes.iter().all(|(warp, times)| {
                let mut known = times.iter().enumerate();
                known.all(|(lane, &time)| time == 0 || self.knows(*warp as usize, lane, time - 1))
            })
    }

    fn join(&mut self, other: &Known) {
        for (warp, &time) in other.all.iter().enumerate() {
            if time > self.of(warp) {
                self.raise(warp, time);
            }
        }
        for (warp, times) in &other.lanes {
            for (lane, &time) in times.iter().enumerate() {
                if time > 0 && !self.knows(*warp as usize, lane, time - 1) {
                    self.raise_lanes(*warp as usize, 1 << lane, time);
                }
            }
        }
    }
}

/// What a thread knows: blocks by the number of their first warp, sorted. Parts are shared, so copies are cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    blocks: Vec<(u64, Arc<Known>)>,
}

impl Clock {
    /// Whether an access by `lane` (or by any lane) of warp `agent` at `time` is known.
    pub(super) fn knows(&self, agent: u64, lane: Option<usize>, time: u32) -> bool {
        // A block owns the warps from its key up to the next block's; `Known` answers 0 beyond its own.
        let position = self.blocks.partition_point(|(key, _)| *key <= agent);
        let Some((key, known)) = position.checked_sub(1).and_then(|p| self.blocks.get(p)) else {
            return false;
        };
        let warp = (agent - key) as usize;
        match lane {
            None => time < known.of(warp),
            Some(lane) => known.knows(warp, lane, time),
        }
    }

    fn block(&mut self, key: u64) -> &mut Known {
        let position = match self.blocks.binary_search_by_key(&key, |(k, _)| *k) {
            Ok(position) => position,
            Err(position) => {
                self.blocks.insert(position, (key, Arc::default()));
                position
            }
        };
        Arc::make_mut(&mut self.blocks[position].1)
    }

    /// Takes in all that `other` knows.
    pub(super) fn join(&mut self, other: &Clock) {
        // Two sorted lists: walk both, insert what is missing at the end of the walk.
        let mut mine = 0;
        let mut missing = false;
        for (key, theirs) in &other.blocks {
            while self.blocks.get(mine).is_some_and(|(k, _)| k < key) {
                mine += 1;
            }
            match self.blocks.get_mut(mine) {
                Some((k, known)) if k == key => {
                    if !Arc::ptr_eq(known, theirs) && !known.covers(theirs) {
                        if theirs.covers(known) {
                            *known = theirs.clone();
                        } else {
                            Arc::make_mut(known).join(theirs);
                        }
                    }
                }
                _ => missing = true,
            }
        }
        if missing {
            let mut merged = Vec::with_capacity(self.blocks.len() + other.blocks.len());
            let mut left = std::mem::take(&mut self.blocks).into_iter().peekable();
            for (key, theirs) in &other.blocks {
                while left.peek().is_some_and(|(k, _)| k < key) {
                    merged.extend(left.next());
                }
                if left.peek().is_some_and(|(k, _)| k == key) {
                    merged.extend(left.next());
                } else {
                    merged.push((*key, theirs.clone()));
                }
            }
            merged.extend(left);
            self.blocks = merged;
        }
    }

    /// Whether nothing in `other` is news.
    pub(super) fn covers(&self, other: &Clock) -> bool {
        other.blocks.iter().all(|(key, known)| {
            let position = self.blocks.binary_search_by_key(key, |(k, _)| *k);
            position.is_ok_and(|p| Arc::ptr_eq(&self.blocks[p].1, known) || self.blocks[p].1.covers(known))
        })
    }

    /// Takes in all accesses of a warp before `time`.
    pub(super) fn raise(&mut self, key: u64, warp: usize, time: u32) {
        self.block(key).raise(warp, time);
    }

    /// Takes in those of some of its lanes.
    pub(super) fn raise_lanes(&mut self, key: u64, warp: usize, mask: u32, time: u32) {
        self.block(key).raise_lanes(warp, mask, time);
    }
}

/// Joins into a clock that may not exist yet.
pub(super) fn join_into(slot: &mut Option<Arc<Clock>>, other: &Arc<Clock>) {
    match slot {
        None => *slot = Some(other.clone()),
        Some(clock) if Arc::ptr_eq(clock, other) => {}
        Some(clock) => Arc::make_mut(clock).join(other),
    }
}
