//! Asynchronous copies that threads have started and not waited for.
//!
//! From its `cp.async` until the wait that covers it a copy is in flight: its source may be read and its target written at
//! any moment in between, so nobody may write the one or touch the other. When the data lands is [`Landing`]'s to say;
//! a program without mistakes cannot tell. For the race checks a copy writes twice, at its start and at its wait: whatever
//! came before must be ordered before the start, whatever comes later must be ordered after the wait.

use super::block::Random;
use super::fault::{FaultKind, Other, Stop, ThreadId};
use super::warp::{Lanes, lanes};
use crate::memory::{Access, Moment, WARP, Width};

/// When the data of an asynchronous copy (`cp.async`) gets to shared memory, and when its source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Landing {
    /// At the copy's start.
    Early,
    /// At the wait that covers it.
    Late,
    /// At some moment from the one to the other that the seed chooses.
    #[default]
    Random,
}

/// What one `cp.async` of a warp copies.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    /// Lanes that have not waited yet.
    pub lanes: u32,
    /// Groups that these lanes had committed before.
    pub group: u32,
    pub from: [u64; WARP],
    pub to: [u64; WARP],
    /// Bytes that each lane reads; the rest of its width is zeros.
    pub sizes: [u8; WARP],
    pub width: Width,
    /// The instruction.
    pub source: u32,
    pub started: Moment,
    /// When the source was last read for the race checks.
    pub read: Moment,
    pub landed: bool,
}

impl Flight {
    /// The addresses between which all of its sources lie.
    fn reach(&self) -> std::ops::Range<u64> {
        let all = || lanes(self.lanes).map(|lane| self.reads(lane));
        let (start, end) = (all().map(|r| r.start).min(), all().map(|r| r.end).max());
        start.unwrap_or(0)..end.unwrap_or(0)
    }

    fn reads(&self, lane: usize) -> std::ops::Range<u64> {
        self.from[lane]..self.from[lane].saturating_add(self.sizes[lane].into())
    }

    fn writes(&self, lane: usize) -> std::ops::Range<u64> {
        self.to[lane]..self.to[lane].saturating_add(self.width.bytes() as u64)
    }
}

/// The copies of a block.
#[derive(Debug)]
pub(crate) struct Flights {
    /// By warp, in the order in which they were started.
    warps: Vec<Vec<Flight>>,
    /// Groups that each thread has committed.
    committed: Vec<[u32; WARP]>,
    /// All of them.
    count: usize,
    /// Bytes of shared memory that are being written: a bit each, a word for 32.
    targets: Vec<u32>,
    random: Random,
}

/// Bytes that a word of `Flights::targets` stands for.
const WORD: u64 = 32;

/// Word and bits of a lane's bytes. What is aligned to its width lies in one word; whatever is not is a fault elsewhere.
fn bits(address: u64, width: Width) -> (usize, u32) {
    let bits = ((1u64 << width.bytes()) - 1) << (address % WORD);
    ((address / WORD) as usize, bits as u32)
}

impl Flights {
    pub fn new(warps: usize) -> Flights {
        let (flights, committed) = (vec![Vec::new(); warps], vec![[0; WARP]; warps]);
        Flights { warps: flights, committed, count: 0, targets: Vec::new(), random: Random::new(0, 0) }
    }

    /// None, for the next block. `shared`: bytes of its shared memory.
    pub fn reset(&mut self, shared: usize, seed: u64, block: u64) {
        self.warps.iter_mut().for_each(Vec::clear);
        self.committed.fill([0; WARP]);
        self.count = 0;
        self.targets.clear();
        self.targets.resize(shared.div_ceil(WORD as usize), 0);
        // Not the stream that chooses among warps: a kernel's schedule does not depend on how its copies land.
        self.random = Random::new(seed ^ 0x6c61_6e64, block);
    }

    /// Adds a copy: once for each group that its lanes' copies belong to.
    fn add(&mut self, warp: usize, flight: Flight) {
        lanes(flight.lanes).for_each(|lane| {
            let (word, bits) = bits(flight.to[lane], flight.width);
            if let Some(target) = self.targets.get_mut(word) {
                *target |= bits;
            }
        });
        let committed = self.committed[warp];
        let mut left = flight.lanes;
        while let Some(first) = lanes(left).next() {
            let same = lanes(left).filter(|&lane| committed[lane] == committed[first]);
            let here = same.fold(0, |mask, lane| mask | 1 << lane);
            left &= !here;
            self.count += 1;
            self.warps[warp].push(Flight { lanes: here, group: committed[first], ..flight.clone() });
        }
    }

    /// The first copy in flight, if any: its warp, itself, its lowest lane.
    pub fn first(&self) -> Option<(usize, &Flight, usize)> {
        let warp = self.warps.iter().position(|list| !list.is_empty())?;
        let flight = self.warps[warp].iter().min_by_key(|flight| flight.lanes.trailing_zeros())?;
        Some((warp, flight, flight.lanes.trailing_zeros() as usize % WARP))
    }

    /// A copy of which a lane's bytes, as `range` gives them, share some with these.
    fn meeting(
        &self,
        bytes: std::ops::Range<u64>,
        range: impl Fn(&Flight, usize) -> std::ops::Range<u64>,
    ) -> Option<(usize, &Flight, usize)> {
        let all = self.warps.iter().enumerate().flat_map(|(warp, list)| list.iter().map(move |f| (warp, f)));
        let mut all =
            all.flat_map(|(warp, flight)| lanes(flight.lanes).map(move |lane| (warp, flight, lane)));
        let meets = |theirs: std::ops::Range<u64>| theirs.start < bytes.end && bytes.start < theirs.end;
        all.find(|&(_, flight, lane)| meets(range(flight, lane)))
    }
}

impl Lanes<'_> {
    /// Starts a copy that has been checked.
    pub fn take_off(&mut self, mut flight: Flight) -> Result<(), Stop> {
        let warp = self.warp.index;
        self.read_source(&flight, flight.lanes)?;
        if self.env.landing == Landing::Early {
            self.land(&flight, flight.lanes);
            flight.landed = true;
        }
        self.block.flights.add(warp, flight);
        self.pass_time()
    }

    /// `cp.async.commit_group`
    pub fn commit(&mut self, mask: u32) -> Result<(), Stop> {
        let committed = &mut self.block.flights.committed[self.warp.index];
        lanes(mask).for_each(|lane| committed[lane] = committed[lane].saturating_add(1));
        self.pass_time()
    }

    /// Waits for all groups but the last `pending`; none: for everything.
    pub fn wait(&mut self, mask: u32, pending: Option<u32>) -> Result<(), Stop> {
        let warp = self.warp.index;
        let committed = self.block.flights.committed[warp];
        let list = &mut self.block.flights.warps[warp];
        let mut left = Vec::with_capacity(list.len());
        for mut flight in std::mem::take(list) {
            let covered =
                |&lane: &usize| pending.is_none_or(|n| flight.group.saturating_add(n) < committed[lane]);
            let done = lanes(flight.lanes & mask).filter(covered).fold(0, |done, lane| done | 1 << lane);
            if done != 0 {
                self.complete(&flight, done)?;
                flight.lanes &= !done;
            }
            match flight.lanes {
                0 => self.block.flights.count -= 1,
                _ => left.push(flight),
            }
        }
        self.block.flights.warps[warp] = left;
        self.pass_time()
    }

    fn complete(&mut self, flight: &Flight, done: u32) -> Result<(), Stop> {
        let warp = self.warp.index;
        if !flight.landed {
            self.read_source(flight, done)?;
            self.land(flight, done);
        } else if flight.read != self.block.clock.moment(warp) && self.env.checks.races {
            // The source may have been read as late as now, by another engine than the one that landed it.
            self.read_source(flight, done)?;
        }
        for lane in lanes(done) {
            let (word, bits) = bits(flight.to[lane], flight.width);
            if let Some(target) = self.block.flights.targets.get_mut(word) {
                *target &= !bits;
            }
        }
        let access = Access::weak(&flight.to, done, flight.width, flight.source);
        let block = &mut *self.block;
        let result = block.shared.claim(&mut block.clock, warp, &access);
        result.map_err(|fault| self.env.memory_fault(&fault))
    }

    /// Some of the warp's copies land, if chance has it.
    fn pass_time(&mut self) -> Result<(), Stop> {
        if self.env.landing != Landing::Random {
            return Ok(());
        }
        let warp = self.warp.index;
        for index in 0..self.block.flights.warps[warp].len() {
            let flights = &mut self.block.flights;
            if flights.warps[warp][index].landed || flights.random.below(4) != 0 {
                continue;
            }
            let now = self.block.clock.moment(warp);
            let flight = &mut flights.warps[warp][index];
            (flight.landed, flight.read) = (true, now);
            let flight = flight.clone();
            self.read_source(&flight, flight.lanes)?;
            self.land(&flight, flight.lanes);
        }
        Ok(())
    }

    /// Reads the source into the block's scratch space, zeros behind it.
    fn read_source(&mut self, flight: &Flight, mask: u32) -> Result<(), Stop> {
        self.fetch(&flight.from, &flight.sizes, mask, flight.width, flight.source)
    }

    /// Puts what was read where it belongs.
    fn land(&mut self, flight: &Flight, mask: u32) {
        let block = &mut *self.block;
        for lane in lanes(mask) {
            block.shared.land(flight.to[lane], block.bytes.lane(flight.width, lane));
        }
        block.progress += 1;
    }

    /// Reports an access to shared memory that a copy in flight is writing.
    pub fn shared_is_settled(&self, access: &Access<'_>, action: &str) -> Result<(), Stop> {
        let flights = &self.block.flights;
        if !self.env.checks.races || flights.count == 0 {
            return Ok(());
        }
        let busy = |&lane: &usize| {
            let (word, bits) = bits(access.addresses[lane], access.width);
            flights.targets.get(word).is_some_and(|targets| targets & bits != 0)
        };
        match lanes(access.lanes).find(busy) {
            Some(lane) => self.in_flight(access, lane, &format!("shared {action}"), Flight::writes),
            None => Ok(()),
        }
    }

    /// Reports a write to global memory that a copy of this block may still read.
    pub fn global_is_settled(&self, access: &Access<'_>, action: &str) -> Result<(), Stop> {
        if !self.env.checks.races || self.block.flights.count == 0 {
            return Ok(());
        }
        let width = access.width.bytes() as u64;
        let first = lanes(access.lanes).map(|lane| access.addresses[lane]).min().unwrap_or(0);
        let last = lanes(access.lanes).map(|lane| access.addresses[lane]).max().unwrap_or(0);
        let near = |flight: &Flight| {
            let reach = flight.reach();
            reach.start < last.saturating_add(width) && first < reach.end
        };
        if !self.block.flights.warps.iter().flatten().any(near) {
            return Ok(());
        }
        for lane in lanes(access.lanes) {
            self.in_flight(access, lane, &format!("global {action}"), Flight::reads)?;
        }
        Ok(())
    }

    fn in_flight(
        &self,
        access: &Access<'_>,
        lane: usize,
        action: &str,
        range: impl Fn(&Flight, usize) -> std::ops::Range<u64>,
    ) -> Result<(), Stop> {
        let (address, width) = (access.addresses[lane], access.width.bytes());
        let bytes = address..address.saturating_add(width as u64);
        let Some((warp, flight, theirs)) = self.block.flights.meeting(bytes, range) else { return Ok(()) };
        // Whoever does not even know that the copy was started races with it; whoever does should have waited.
        let (own, clock) = (self.warp.index, &self.block.clock);
        let known = warp == own || clock.knows(own, lane, flight.started, theirs);
        let (kind, why) = match known {
            true => (FaultKind::InFlight, "an asynchronous copy that it meets has not been waited for"),
            false => (FaultKind::Race, "unordered with an asynchronous copy that it meets"),
        };
        let mut fault = self.fault(kind, lane, format!("{width}-byte {action} at {address:#x}: {why}"));
        let thread = (warp * WARP + theirs) as u32;
        fault.other = Some(Other {
            launch: self.env.launch.id(),
            thread: Some(ThreadId { block: self.block.id, thread: self.env.thread_id(thread) }),
            action: "asynchronous copy".into(),
            place: self.env.place(flight.source),
        });
        Err(fault)
    }
}
