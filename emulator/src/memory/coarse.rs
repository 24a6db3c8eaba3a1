//! The shadow of memory that only transfers have touched: whole stretches, so that a copy of gigabytes costs no more than
//! its bytes. The first access by a kernel, or too many stretches, turn it into sectors.

use std::ops::Range;

use super::clock::View;
use super::shadow::{Conflict, READ, Stamp, WRITE, unordered};

/// Stretches beyond which sectors do better. Less than the stamps a sector keeps in a plain list.
const MOST: usize = 8;

/// What transfers did to a region. The stamps' own bytes mean nothing.
#[derive(Debug, Default)]
pub(super) struct Strips(Vec<(Range<usize>, Stamp)>);

/// Where a transfer meets an earlier one that it is unordered with.
pub(super) struct Clash {
    pub(super) bytes: Range<usize>,
    pub(super) conflict: Conflict,
}

impl Strips {
    /// Checks a transfer against all earlier ones: the first bytes at which it is unordered.
    pub(super) fn check(&self, range: &Range<usize>, new: &Stamp, view: &View<'_>) -> Result<(), Clash> {
        let clash = |(old, stamp): &(Range<usize>, Stamp)| {
            let bytes = old.start.max(range.start)..old.end.min(range.end);
            if bytes.is_empty() || (stamp.flags | new.flags) & WRITE == 0 {
                return None;
            }
            unordered(stamp, new, view).map(|conflict| Clash { bytes, conflict })
        };
        let first = self.0.iter().filter_map(clash).min_by_key(|clash| clash.bytes.start);
        first.map_or(Ok(()), Err)
    }

    /// Records one that has been checked. False if there are too many now.
    pub(super) fn record(&mut self, range: Range<usize>, new: &Stamp, view: &View<'_>) -> bool {
        let write = new.flags & WRITE != 0;
        self.cut(&range, |old| write || (old.flags & READ != 0 && old.precedes(new, view)));
        match self.0.last_mut() {
            Some((last, old))
                if last.end == range.start && old.epoch == new.epoch && old.flags == new.flags =>
            {
                last.end = range.end;
            }
            _ => self.0.push((range, *new)),
        }
        self.0.len() <= MOST
    }

    /// Forgets what happened to a range.
    pub(super) fn forget(&mut self, range: &Range<usize>) {
        self.cut(range, |_| true);
    }

    /// All of it, to be kept elsewhere.
    pub(super) fn take(&mut self) -> Vec<(Range<usize>, Stamp)> {
        std::mem::take(&mut self.0)
    }

    fn cut(&mut self, range: &Range<usize>, gone: impl Fn(&Stamp) -> bool) {
        for (old, stamp) in self.take() {
            if old.end <= range.start || range.end <= old.start || !gone(&stamp) {
                self.0.push((old, stamp));
                continue;
            }
            let parts = [old.start..range.start, range.end..old.end];
            self.0.extend(parts.into_iter().filter(|part| !part.is_empty()).map(|part| (part, stamp)));
        }
    }
}
