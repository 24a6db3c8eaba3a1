//! What the host does to a region, and what transfers on streams leave in its shadow.

use std::ops::Range;

use super::super::clock::View;
use super::super::coarse::Clash;
use super::super::shadow::{SECTOR, Sector, Stamp, WRITE, bytes_at};
use super::{GRANULE, Region, race};
use crate::memory::FaultKind;

impl Region {
    /// Bytes out.
    pub(in crate::memory) fn read(&self, offset: usize, out: &mut [u8]) {
        if let Some(bytes) = self.data.get(offset..offset + out.len()) {
            out.copy_from_slice(bytes);
        }
    }

    /// Bytes in. They count as initialised, and as written by the transfer `by`, or else as ordered with everything.
    pub(in crate::memory) fn write(&mut self, offset: usize, bytes: &[u8], by: Option<&View<'_>>) {
        if let Some(slot) = self.data.get_mut(offset..offset + bytes.len()) {
            slot.copy_from_slice(bytes);
            self.initialise(offset, bytes.len(), true);
            self.take_over(offset, bytes.len(), by);
        }
    }

    /// The same with `len` bytes of a repeated pattern, of which `phase` bytes lie before `offset`.
    pub(in crate::memory) fn fill(
        &mut self,
        offset: usize,
        len: usize,
        pattern: &[u8],
        phase: usize,
        by: Option<&View<'_>>,
    ) {
        let Some(slot) = self.data.get_mut(offset..offset + len) else { return };
        match pattern {
            [] => return,
            [byte] => slot.fill(*byte),
            _ => {
                let mut done = pattern.len().min(len);
                for (index, byte) in slot[..done].iter_mut().enumerate() {
                    *byte = pattern[(phase + index) % pattern.len()];
                }
                while done < len {
                    let more = done.min(len - done);
                    slot.copy_within(..more, done);
                    done += more;
                }
            }
        }
        self.initialise(offset, len, true);
        self.take_over(offset, len, by);
    }

    /// The first uninitialised byte in a range, if that is known.
    pub(in crate::memory) fn first_uninitialised(&self, offset: usize, len: usize) -> Option<usize> {
        let sectors = sectors(offset, len);
        for (index, init) in self.init.get(sectors.clone())?.iter().enumerate() {
            let start = (sectors.start + index) * SECTOR;
            let missing = !init & within(start, offset, len);
            if missing != 0 {
                return Some(start + missing.trailing_zeros() as usize);
            }
        }
        None
    }

    /// The stretches of a range that were never written, relative to its start.
    pub(in crate::memory) fn uninitialised(&self, offset: usize, len: usize) -> Vec<Range<usize>> {
        let mut holes = Vec::<Range<usize>>::new();
        for index in sectors(offset, len) {
            let start = index * SECTOR;
            let mut missing = self.init.get(index).map_or(0, |init| !init & within(start, offset, len));
            while missing != 0 {
                let first = missing.trailing_zeros();
                let count = (missing >> first).trailing_ones();
                missing &= !bytes_at(first, count);
                let from = start + first as usize - offset;
                match holes.last_mut() {
                    Some(last) if last.end == from => last.end += count as usize,
                    _ => holes.push(from..from + count as usize),
                }
            }
        }
        holes
    }

    /// Marks a range as initialised or not.
    pub(in crate::memory) fn initialise(&mut self, offset: usize, len: usize, initialised: bool) {
        for index in sectors(offset, len) {
            let bytes = within(index * SECTOR, offset, len);
            if let Some(init) = self.init.get_mut(index) {
                *init = if initialised { *init | bytes } else { *init & !bytes };
            }
        }
    }

    /// Forgets who touched a range, or says that the transfer `by` has written it.
    fn take_over(&mut self, offset: usize, len: usize, by: Option<&View<'_>>) {
        match by {
            Some(view) => self.mark(offset, len, WRITE, view),
            None => {
                self.strips.forget(&(offset..offset + len));
                for index in sectors(offset, len) {
                    if let Some(sector) = self.sectors.get_mut(index) {
                        sector.forget(within(index * SECTOR, offset, len));
                    }
                }
            }
        }
        if !self.sync.is_empty() {
            let range = (offset as u32 / GRANULE * GRANULE)..(offset + len) as u32;
            self.sync.retain(|granule, _| !range.contains(granule));
        }
    }

    /// Whether a transfer that reads or writes a range would race with what was done to it before: the first bytes with
    /// which it would.
    pub(in crate::memory) fn admits(
        &self,
        offset: usize,
        len: usize,
        flags: u8,
        view: &View<'_>,
    ) -> Result<(), (Range<usize>, FaultKind)> {
        let new = stamp(flags, view);
        if self.sectors.is_empty() {
            let clash = self.strips.check(&(offset..offset + len), &new, view);
            return clash.map_err(|Clash { bytes, conflict }| (bytes, race(&new, &conflict, view).kind));
        }
        for index in sectors(offset, len) {
            let start = index * SECTOR;
            let new = new.on(within(start, offset, len));
            if let Some(Err(conflict)) = self.sectors.get(index).map(|sector| sector.check(&new, view)) {
                let shared = conflict.other.bytes & new.bytes;
                let first = shared.trailing_zeros();
                let count = shared.checked_shr(first).unwrap_or(0).trailing_ones();
                let from = start + first as usize;
                return Err((from..from + count as usize, race(&new, &conflict, view).kind));
            }
        }
        Ok(())
    }

    /// Records what [`admits`](Self::admits) has checked.
    pub(in crate::memory) fn mark(&mut self, offset: usize, len: usize, flags: u8, view: &View<'_>) {
        let new = stamp(flags, view);
        if self.sectors.is_empty() {
            if !self.strips.record(offset..offset + len, &new, view) {
                self.refine();
            }
            return;
        }
        for index in sectors(offset, len) {
            if let Some(sector) = self.sectors.get_mut(index) {
                sector.record(&new.on(within(index * SECTOR, offset, len)), view);
            }
        }
    }

    /// Makes the sectors, with what transfers have left.
    pub(super) fn refine(&mut self) {
        self.sectors.resize_with(self.data.len() / SECTOR, Sector::default);
        for (range, stamp) in self.strips.take() {
            for index in sectors(range.start, range.len()) {
                if let Some(sector) = self.sectors.get_mut(index) {
                    sector.adopt(&stamp.on(within(index * SECTOR, range.start, range.len())));
                }
            }
        }
    }

    /// Flips one bit behind everyone's back.
    pub(in crate::memory) fn flip(&mut self, offset: usize, bit: u32) {
        if let Some(byte) = self.data.get_mut(offset) {
            *byte ^= 1 << (bit % 8);
        }
    }
}

/// A transfer is one thread of its launch, so that its parts are ordered.
fn stamp(flags: u8, view: &View<'_>) -> Stamp {
    Stamp::single(view.epoch, crate::memory::NO_SOURCE, flags, 0, u32::MAX)
}

/// The sectors in which a range lies.
fn sectors(offset: usize, len: usize) -> Range<usize> {
    offset / SECTOR..(offset + len).div_ceil(SECTOR)
}

/// The bytes of the sector at `start` that lie in a range.
fn within(start: usize, offset: usize, len: usize) -> u32 {
    let from = offset.max(start) - start;
    let to = (offset + len).min(start + SECTOR).saturating_sub(start);
    if to <= from { 0 } else { bytes_at(from as u32, (to - from) as u32) }
}
