//! Copies and memsets as operations of a stream: checked for races with kernels and with each other.
//!
//! A transfer is a launch of one thread. It locks all its pages, so that it is one step as seen by everyone else; checks
//! all its bytes; then moves them and leaves its stamps. The host's own accesses (`host.rs`) move bytes in the same way.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::allocation::{Allocation, PAGE};
use super::clock::{BlockClock, Launch, View};
use super::fault::{Action, Fault, FaultKind, NO_SOURCE, Party, Space};
use super::region::Region;
use super::shadow::{READ, WRITE};
use super::{DeviceMemory, HostError};

/// Why a transfer was refused. Nothing has been copied then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// What is wrong with the range, whoever touches it.
    Host(HostError),
    /// A kernel or another transfer, unordered with this one, has touched the bytes before: a [`FaultKind::Race`] or
    /// [`FaultKind::UnorderedRead`]. The fault's address and width are those of the first bytes concerned.
    Race(Box<Fault>),
}

impl From<HostError> for TransferError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(error) => error.fmt(f),
            Self::Race(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for TransferError {}

/// A range of bytes in a live allocation.
pub(super) struct Span {
    allocation: Arc<Allocation>,
    /// From the allocation's start.
    start: u64,
    len: usize,
}

/// A stretch of a span that lies in one page: page, offset in it, position in the span, length.
struct Chunk {
    page: usize,
    offset: usize,
    at: usize,
    len: usize,
}

impl Span {
    /// Page by page.
    fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        self.part(0, self.len)
    }

    /// Page by page, `len` bytes from `skip` on.
    fn part(&self, skip: usize, len: usize) -> impl Iterator<Item = Chunk> + use<> {
        let (start, mut at) = (self.start + skip as u64, 0);
        std::iter::from_fn(move || {
            if at == len {
                return None;
            }
            let from = start + at as u64;
            let (page, offset) = ((from / PAGE as u64) as usize, (from % PAGE as u64) as usize);
            let chunk = Chunk { page, offset, at, len: (PAGE - offset).min(len - at) };
            at += chunk.len;
            Some(chunk)
        })
    }

    fn address(&self, page: usize, offset: usize) -> u64 {
        self.allocation.base + (page * PAGE + offset) as u64
    }
}

/// The pages of some spans, locked. In the order of their addresses, so that two transfers never wait for each other;
/// warps hold one page at a time.
pub(super) struct Pages<'a>(BTreeMap<(u64, usize), MutexGuard<'a, Region>>);

impl<'a> Pages<'a> {
    /// Locks the pages of spans; those that were never touched only if told so.
    pub(super) fn lock(memory: &DeviceMemory, spans: &[(&'a Span, bool)]) -> Result<Self, HostError> {
        let mut wanted = BTreeMap::<_, (&Allocation, bool)>::new();
        for &(span, make) in spans {
            for chunk in span.chunks() {
                let allocation = &*span.allocation;
                wanted.entry((allocation.base, chunk.page)).or_insert((allocation, make)).1 |= make;
            }
        }
        let mut pages = BTreeMap::new();
        for (key, (allocation, make)) in wanted {
            let page =
                if make { allocation.page(key.1, memory.config().checks) } else { allocation.touched(key.1) };
            pages.extend(page.map(|page| (key, page)));
        }
        // Whoever frees now waits for the pages.
        for (span, _) in spans {
            if span.allocation.freed.load(Ordering::Acquire) {
                drop(pages);
                return Err(memory.outside(span.address(0, span.start as usize), span.len as u64).into());
            }
        }
        Ok(Self(pages))
    }

    fn get(&mut self, span: &Span, page: usize) -> Option<&mut Region> {
        self.0.get_mut(&(span.allocation.base, page)).map(|page| &mut **page)
    }

    pub(super) fn write(&mut self, span: &Span, bytes: &[u8], by: Option<&View<'_>>) {
        for chunk in span.chunks() {
            if let Some(page) = self.get(span, chunk.page) {
                page.write(chunk.offset, &bytes[chunk.at..chunk.at + chunk.len], by);
            }
        }
    }

    pub(super) fn read(&mut self, span: &Span, out: &mut [u8], by: Option<&View<'_>>) {
        for chunk in span.chunks() {
            let out = &mut out[chunk.at..chunk.at + chunk.len];
            match self.get(span, chunk.page) {
                Some(page) => {
                    page.read(chunk.offset, out);
                    if let Some(view) = by {
                        page.mark(chunk.offset, chunk.len, READ, view);
                    }
                }
                None => out.fill(0),
            }
        }
    }

    pub(super) fn fill(&mut self, span: &Span, pattern: &[u8], by: Option<&View<'_>>) {
        for chunk in span.chunks() {
            if let Some(page) = self.get(span, chunk.page) {
                page.fill(chunk.offset, chunk.len, pattern, chunk.at % pattern.len(), by);
            }
        }
    }

    pub(super) fn copy(&mut self, to: &Span, from: &Span, by: Option<&View<'_>>) {
        let mut buffer = vec![0; from.len.min(PAGE)];
        for chunk in from.chunks() {
            let buffer = &mut buffer[..chunk.len];
            let mut missing = Vec::new();
            match self.get(from, chunk.page) {
                Some(page) => {
                    page.read(chunk.offset, buffer);
                    missing.extend(page.uninitialised(chunk.offset, chunk.len));
                    if let Some(view) = by {
                        page.mark(chunk.offset, chunk.len, READ, view);
                    }
                }
                None => {
                    buffer.fill(0);
                    missing.push(0..chunk.len);
                }
            }
            for part in to.part(chunk.at, chunk.len) {
                if let Some(page) = self.get(to, part.page) {
                    page.write(part.offset, &buffer[part.at..part.at + part.len], by);
                    for hole in &missing {
                        let hole = hole.start.max(part.at)..hole.end.min(part.at + part.len);
                        if !hole.is_empty() {
                            page.initialise(part.offset + hole.start - part.at, hole.len(), false);
                        }
                    }
                }
            }
        }
    }

    /// The parts of a span that were never written.
    fn holes(&mut self, span: &Span) -> Vec<Range<usize>> {
        let mut holes = Vec::new();
        for chunk in span.chunks() {
            match self.get(span, chunk.page) {
                Some(page) => holes.extend(
                    page.uninitialised(chunk.offset, chunk.len)
                        .into_iter()
                        .map(|hole| chunk.at + hole.start..chunk.at + hole.end),
                ),
                None => holes.push(chunk.at..chunk.at + chunk.len),
            }
        }
        holes
    }

    /// Parts of a span count as never written.
    fn forget(&mut self, span: &Span, holes: &[Range<usize>]) {
        for hole in holes {
            for part in span.part(hole.start, hole.len()) {
                if let Some(page) = self.get(span, part.page) {
                    page.initialise(part.offset, part.len, false);
                }
            }
        }
    }

    pub(super) fn flip(&mut self, span: &Span, bit: u32) {
        for chunk in span.chunks() {
            if let Some(page) = self.get(span, chunk.page) {
                page.flip(chunk.offset, bit);
            }
        }
    }

    /// The address of the first byte that was never written.
    pub(super) fn first_uninitialised(&mut self, span: &Span) -> Option<u64> {
        span.chunks().find_map(|chunk| {
            let missing = match self.get(span, chunk.page) {
                Some(page) => page.first_uninitialised(chunk.offset, chunk.len),
                None => Some(chunk.offset),
            };
            missing.map(|offset| span.address(chunk.page, offset))
        })
    }

    /// The first bytes with which a transfer would race, by address, and how.
    fn admit(&mut self, span: &Span, flags: u8, view: &View<'_>) -> Result<(), (Range<u64>, FaultKind)> {
        for chunk in span.chunks() {
            if let Some(page) = self.get(span, chunk.page) {
                page.admits(chunk.offset, chunk.len, flags, view).map_err(|(bytes, kind)| {
                    (span.address(chunk.page, bytes.start)..span.address(chunk.page, bytes.end), kind)
                })?;
            }
        }
        Ok(())
    }
}

impl DeviceMemory {
    /// The live allocation that holds all of a range, and where.
    pub(super) fn span(&self, address: u64, len: usize) -> Result<Span, HostError> {
        let bytes = (len as u64).max(1);
        let last = address.checked_add(bytes - 1);
        match last.and_then(|last| self.lookup(address, last)) {
            Some(allocation) => Ok(Span { start: address - allocation.base, allocation, len }),
            None => Err(self.outside(address, bytes).into()),
        }
    }

    /// [`write`](Self::write) as an operation of a stream, ordered as `launch` is (one of its own, from
    /// [`begin_transfer`](Self::begin_transfer); all that is done as one launch counts as done in turn). Without the race
    /// check there is no difference.
    pub fn write_as(&self, launch: &Launch, address: u64, bytes: &[u8]) -> Result<(), TransferError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let span = self.span(address, bytes.len())?;
        self.transfer(launch, &[(&span, WRITE)], |pages, by| pages.write(&span, bytes, by))
    }

    /// [`read`](Self::read) as an operation of a stream; see [`write_as`](Self::write_as).
    pub fn read_as(&self, launch: &Launch, address: u64, out: &mut [u8]) -> Result<(), TransferError> {
        if out.is_empty() {
            return Ok(());
        }
        let span = self.span(address, out.len())?;
        self.transfer(launch, &[(&span, READ)], |pages, by| pages.read(&span, out, by))
    }

    /// [`read_as`](Self::read_as) for a copy to another card's memory: also which parts of `out` were never written.
    pub fn read_with_holes_as(
        &self,
        launch: &Launch,
        address: u64,
        out: &mut [u8],
    ) -> Result<Vec<Range<usize>>, TransferError> {
        if out.is_empty() {
            return Ok(Vec::new());
        }
        let span = self.span(address, out.len())?;
        let mut holes = Vec::new();
        self.transfer(launch, &[(&span, READ)], |pages, by| {
            holes = pages.holes(&span);
            pages.read(&span, out, by);
        })?;
        Ok(holes)
    }

    /// [`write_as`](Self::write_as) of what [`read_with_holes_as`](Self::read_with_holes_as) has read elsewhere.
    pub fn write_with_holes_as(
        &self,
        launch: &Launch,
        address: u64,
        bytes: &[u8],
        holes: &[Range<usize>],
    ) -> Result<(), TransferError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let span = self.span(address, bytes.len())?;
        self.transfer(launch, &[(&span, WRITE)], |pages, by| {
            pages.write(&span, bytes, by);
            pages.forget(&span, holes);
        })
    }

    /// [`fill`](Self::fill) as an operation of a stream; see [`write_as`](Self::write_as).
    pub fn fill_as(
        &self,
        launch: &Launch,
        address: u64,
        pattern: &[u8],
        len: usize,
    ) -> Result<(), TransferError> {
        if len == 0 || pattern.is_empty() {
            return Ok(self.check_range(address, len)?);
        }
        let span = self.span(address, len)?;
        self.transfer(launch, &[(&span, WRITE)], |pages, by| pages.fill(&span, pattern, by))
    }

    /// [`copy`](Self::copy) as an operation of a stream; see [`write_as`](Self::write_as). It reads the source and writes
    /// the target.
    pub fn copy_as(&self, launch: &Launch, to: u64, from: u64, len: usize) -> Result<(), TransferError> {
        if len == 0 {
            return Ok(());
        }
        let (source, target) = (self.span(from, len)?, self.span(to, len)?);
        self.transfer(launch, &[(&source, READ), (&target, WRITE)], |pages, by| {
            pages.copy(&target, &source, by);
        })
    }

    /// Locks, checks, moves.
    fn transfer<'a>(
        &self,
        launch: &Launch,
        spans: &[(&'a Span, u8)],
        act: impl FnOnce(&mut Pages<'a>, Option<&View<'_>>),
    ) -> Result<(), TransferError> {
        let clock = BlockClock::new(launch, 0);
        let view = self.config().checks.races.then(|| clock.view(0));
        // Even a page that was never touched must remember who reads it.
        let wanted = spans.iter().map(|&(span, flags)| (span, view.is_some() || flags == WRITE));
        let mut pages = Pages::lock(self, &wanted.collect::<Vec<_>>())?;
        for (span, flags) in spans {
            let Some(view) = &view else { break };
            if let Err(found) = pages.admit(span, *flags, view) {
                drop(pages);
                return Err(self.race(launch, *flags, found));
            }
        }
        act(&mut pages, view.as_ref());
        Ok(())
    }

    /// Whether everything that was done with a range is ordered before `launch`, as it must be before the range is freed:
    /// refused is what a write would be. Nothing is moved, and pages that were never touched stay so.
    pub fn claim_as(&self, launch: &Launch, address: u64, len: usize) -> Result<(), TransferError> {
        let span = self.span(address, len)?;
        if !self.config().checks.races || len == 0 {
            return Ok(());
        }
        let clock = BlockClock::new(launch, 0);
        let found = Pages::lock(self, &[(&span, false)])?.admit(&span, WRITE, &clock.view(0));
        found.map_err(|found| self.race(launch, WRITE, found))
    }

    /// The report of a transfer that races. No page may be locked.
    fn race(&self, launch: &Launch, flags: u8, (bytes, mut kind): (Range<u64>, FaultKind)) -> TransferError {
        self.locate(&mut kind);
        let action = if flags == WRITE { Action::Store } else { Action::Load };
        let (launch, source) = (launch.id(), NO_SOURCE);
        let party = Party { launch, block: 0, warp: 0, lane: 0, source, action, strong: false };
        let (address, width) = (bytes.start, (bytes.end - bytes.start) as u32);
        TransferError::Race(Box::new(Fault { kind, party, space: Space::Global, address, width }))
    }
}
