//! The race checker against a brute-force happens-before oracle, on thousands of small random programs.
//!
//! The oracle keeps every access as an event with the set of all events before it (reachability in the happens-before
//! graph, edge by edge from the definitions), and every read with the set of all writes that it observed, and compares each
//! new access with all earlier ones. It knows nothing of clocks, stamps or sectors. Programs are grown one warp instruction at a time: an instruction that the oracle calls
//! racy is mostly thrown away, so that programs get long, and sometimes executed, when it must be reported, with a
//! culprit that is in fact one. In some programs launches end, others that follow some of them begin, and so do copies
//! and memsets.

use orthant_gpu::memory::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A set of events.
#[derive(Clone, Default)]
struct Set(Vec<u64>);

impl Set {
    fn insert(&mut self, i: usize) {
        if self.0.len() <= i / 64 {
            self.0.resize(i / 64 + 1, 0);
        }
        self.0[i / 64] |= 1 << (i % 64);
    }

    fn contains(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 != 0)
    }

    fn join(&mut self, other: &Set) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }
}

type Thread = (usize, usize, usize);

#[derive(Clone)]
struct Event {
    thread: Thread,
    source: u32,
    start: u64,
    width: u64,
    write: bool,
    read: bool,
    strong: bool,
    wide: bool,
    atomic: bool,
    /// An atomic that leaves the old value: it counts as a write when it comes, and as a read ever after.
    fails: bool,
}

/// Whether one access's scope includes the other's thread and the other way round, or program order relates them; and both
/// are to the same bytes.
fn morally_strong(a: &Event, b: &Event) -> bool {
    let related = a.thread == b.thread;
    let scopes = a.strong && b.strong && (a.thread.0 == b.thread.0 || (a.wide && b.wide));
    (related || scopes) && (a.start, a.width) == (b.start, b.width)
}

/// A release pattern that a location's value carries: where it begins, whether all its parts have a wide scope.
#[derive(Clone, Copy)]
struct Release {
    point: usize,
    block: usize,
    wide: bool,
}

#[derive(Default)]
struct Oracle {
    /// Events strictly before each, and itself.
    before: Vec<Set>,
    accesses: Vec<(usize, Event)>,
    last: std::collections::HashMap<Thread, Set>,
    fences: Vec<(Thread, usize, bool)>,
    /// Releases in effect at each 4-byte granule, and release operations ever made on it.
    chain: std::collections::HashMap<u64, Vec<Release>>,
    released: Vec<(Thread, u64, usize, bool)>,
    /// What relaxed reads have seen: reader, pattern, whether the read had a wide scope.
    seen: Vec<(Thread, Release, bool)>,
    /// The last write to each byte.
    values: std::collections::HashMap<u64, usize>,
    /// What each read observed: the write whose value it read, and if that was an atomic's, what the atomic observed.
    observed: std::collections::HashMap<usize, Set>,
    /// Pairs of accesses that only observation orders.
    excused: std::cell::Cell<u64>,
}

fn wide(scope: Scope) -> bool {
    matches!(scope, Scope::Gpu | Scope::Sys)
}

impl Oracle {
    fn event(&mut self, mut before: Set) -> usize {
        let id = self.before.len();
        before.insert(id);
        self.before.push(before);
        id
    }

    fn past(&self, thread: Thread) -> Set {
        self.last.get(&thread).cloned().unwrap_or_default()
    }

    fn step(&mut self, thread: Thread, before: Set) -> usize {
        let id = self.event(before);
        self.last.insert(thread, self.before[id].clone());
        id
    }

    fn sync(&mut self, threads: &[Thread]) {
        let mut before = Set::default();
        threads.iter().for_each(|&thread| before.join(&self.past(thread)));
        let id = self.event(before);
        for &thread in threads {
            let mut past = self.past(thread);
            past.join(&self.before[id]);
            self.last.insert(thread, past);
        }
    }

    fn fence(&mut self, thread: Thread, scope: Scope) {
        let mut past = self.past(thread);
        for (reader, release, read_wide) in &self.seen {
            let reaches = release.block == thread.0 || (release.wide && *read_wide && wide(scope));
            if *reader == thread && reaches {
                past.join(&self.before[release.point]);
            }
        }
        let id = self.step(thread, past);
        self.fences.push((thread, id, wide(scope)));
    }

    /// All earlier accesses that the given instruction's lanes race with, its own lower lanes included.
    fn conflicts(&self, events: &[Event]) -> Vec<(usize, Event)> {
        let mut found = Vec::new();
        for (lane, new) in events.iter().enumerate() {
            let past = self.past(new.thread);
            let earlier = self.accesses.iter().map(|(id, old)| (Some(*id), old));
            for (id, old) in earlier.chain(events[..lane].iter().map(|old| (None, old))) {
                let overlap = old.start < new.start + new.width && new.start < old.start + old.width;
                let exempt =
                    old.strong && new.strong && (old.thread.0 == new.thread.0 || (old.wide && new.wide));
                if !overlap || !(old.write || new.write) || old.thread == new.thread || exempt {
                    continue;
                }
                if id.is_some_and(|id| past.contains(id)) {
                    continue;
                }
                // Observation order, then program order and synchronisation.
                if id.is_some_and(|id| old.write && self.observed(id, &past)) {
                    self.excused.set(self.excused.get() + 1);
                    continue;
                }
                found.push((lane, old.clone()));
            }
        }
        found
    }

    /// Whether a read that is in `past` has observed the write.
    fn observed(&self, write: usize, past: &Set) -> bool {
        self.observed.iter().any(|(&read, seen)| past.contains(read) && seen.contains(write))
    }

    /// The write whose value an access reads, if that is one write's and observable to it, and what that one observed.
    fn observe(&self, read: &Event) -> Option<Set> {
        let writer = *self.values.get(&read.start)?;
        let bytes = read.start..read.start + read.width;
        let whole = bytes.into_iter().all(|byte| self.values.get(&byte) == Some(&writer));
        let (_, write) = self.accesses.iter().find(|(id, _)| *id == writer)?;
        if !whole || !morally_strong(write, read) {
            return None;
        }
        let mut seen = Set::default();
        if write.atomic {
            seen = self.observed.get(&writer).cloned().unwrap_or_default();
        }
        seen.insert(writer);
        Some(seen)
    }

    fn perform(&mut self, event: &Event, order: Order) {
        let thread = event.thread;
        let mut past = self.past(thread);
        let acquire = event.read && event.strong && matches!(order, Order::Acquire | Order::AcqRel);
        let release = event.write && event.strong && matches!(order, Order::Release | Order::AcqRel);
        let granules = (event.start / 4..=(event.start + event.width - 1) / 4).collect::<Vec<_>>();
        if event.read && event.strong {
            for granule in &granules {
                for &carried in self.chain.get(granule).into_iter().flatten() {
                    if !acquire {
                        self.seen.push((thread, carried, event.wide));
                    } else if carried.block == thread.0 || (carried.wide && event.wide) {
                        past.join(&self.before[carried.point]);
                    }
                }
            }
        }
        let id = self.step(thread, past);
        if event.read
            && let Some(seen) = self.observe(event)
        {
            self.observed.insert(id, seen);
        }
        let wrote = event.write && !event.fails;
        self.accesses.push((id, Event { write: wrote, ..event.clone() }));
        if !wrote {
            return;
        }
        (event.start..event.start + event.width).for_each(|byte| {
            self.values.insert(byte, id);
        });
        for granule in granules {
            let chain = self.chain.entry(granule).or_default();
            if !event.strong || !event.read {
                chain.clear();
            }
            if !event.strong {
                continue;
            }
            if release {
                chain.push(Release { point: id, block: thread.0, wide: event.wide });
                self.released.push((thread, granule, id, event.wide));
            }
            let own =
                self.released.iter().filter(|(t, g, ..)| *t == thread && *g == granule).map(|r| (r.2, r.3));
            let fences = self.fences.iter().filter(|(t, ..)| *t == thread).map(|f| (f.1, f.2));
            for (point, point_wide) in own.chain(fences) {
                chain.push(Release { point, block: thread.0, wide: point_wide && event.wide });
            }
        }
    }
}

/// Device memory, or the shared memory of a single block.
enum Target {
    Global(Box<DeviceMemory>, Cache, u64),
    Shared(SharedMemory),
}

const BYTES: u64 = 96;
const BLOCKS: usize = 3;

/// A launch or a transfer.
struct Begun {
    ended: bool,
    /// What it is ordered after.
    before: Vec<bool>,
}

struct Program {
    random: Random,
    target: Target,
    oracle: Oracle,
    clocks: Vec<BlockClock>,
    /// Each block of each launch has its number in the oracle; here those of the running blocks,
    running: Vec<usize>,
    /// and here launch and block index of each.
    blocks: Vec<(u64, u64)>,
    begun: Vec<Begun>,
    /// Launches end and begin. No synchronisation goes beyond a block then: what one launch learns from another beside
    /// it, the memory does not pass on to those that follow.
    streams: bool,
    warps: usize,
    /// Few threads, words and scopes: programs of messages, where chains of releases and acquires get long.
    focused: bool,
}

impl Program {
    fn new(seed: u64, shared: bool) -> Self {
        let mut random = Random(seed);
        let memory = DeviceMemory::new(MemoryConfig::default());
        let base = memory.allocate(BYTES).unwrap();
        memory.write(base, &[0; BYTES as usize]).unwrap();
        let focused = random.chance(50);
        let warps = if focused { 1 } else { 1 + random.below(3) };
        let launch = memory.begin_launch(BLOCKS as u64, 32 * warps as u32, After::Everything);
        let mut clocks = (0..BLOCKS as u64).map(|b| BlockClock::new(&launch, b)).collect::<Vec<_>>();
        let mut begun = vec![Begun { ended: false, before: Vec::new() }];
        let streams = !shared && random.chance(40);
        if random.chance(30) {
            // The last block belongs to a second launch that is concurrent with the first.
            let other = memory.begin_launch(1, 32 * warps as u32, After::Launches { before: 0, and: &[] });
            clocks[BLOCKS - 1] = BlockClock::new(&other, 0);
            begun.push(Begun { ended: false, before: vec![false] });
        }
        let target = if shared {
            clocks.truncate(1);
            let mut shared = SharedMemory::new(BYTES as usize, Checks { uninitialised: false, races: true });
            shared.reset();
            Target::Shared(shared)
        } else {
            Target::Global(Box::new(memory), Cache::default(), base)
        };
        let blocks = clocks.iter().map(|clock| (clock.launch().id(), clock.block())).collect::<Vec<_>>();
        let (oracle, running) = (Oracle::default(), (0..blocks.len()).collect());
        Self { random, target, oracle, clocks, running, blocks, begun, streams, warps, focused }
    }

    /// Some of the launches that have ended, and all that they are ordered after.
    fn some_ended(&mut self) -> Vec<bool> {
        let percent = self.random.pick(&[20, 70, 100]);
        let mut before = vec![false; self.begun.len()];
        for id in 0..before.len() {
            if self.begun[id].ended && self.random.chance(percent) {
                before[id] = true;
                self.begun[id].before.iter().enumerate().for_each(|(id, &known)| before[id] |= known);
            }
        }
        before
    }

    /// The same as it is told to the memory: a bound that is not always the best, and ranges in no order.
    fn after(&mut self, before: &[bool]) -> (u64, Vec<std::ops::Range<u64>>) {
        let prefix = before.iter().take_while(|known| **known).count() as u64;
        let bound = if self.random.chance(50) { prefix } else { 0 };
        let mut ranges = Vec::<std::ops::Range<u64>>::new();
        for id in (bound..before.len() as u64).filter(|&id| before[id as usize]) {
            match ranges.last_mut() {
                Some(last) if last.end == id && self.random.chance(60) => last.end += 1,
                _ => ranges.push(id..id + 1),
            }
        }
        if self.random.chance(30) {
            ranges.reverse();
        }
        (bound, ranges)
    }

    /// All accesses of launches.
    fn accesses_of(&self, launches: &[bool]) -> Set {
        let mut set = Set::default();
        let of = |event: &Event| self.blocks[event.thread.0].0 as usize;
        self.oracle
            .accesses
            .iter()
            .filter(|(_, event)| launches[of(event)])
            .for_each(|(id, _)| set.insert(*id));
        set
    }

    /// One of the running launches ends, and one with as many blocks begins.
    fn next_launch(&mut self) {
        let Target::Global(..) = &self.target else { return };
        let slot = self.random.below(self.clocks.len());
        let old = self.clocks[slot].launch().id();
        self.begun[old as usize].ended = true;
        let before = self.some_ended();
        let (bound, ranges) = self.after(&before);
        let past = self.accesses_of(&before);
        let slots = (0..self.clocks.len()).filter(|&slot| self.clocks[slot].launch().id() == old);
        let slots = slots.collect::<Vec<_>>();
        let Target::Global(memory, ..) = &self.target else { return };
        let after = After::Launches { before: bound, and: &ranges };
        let launch = memory.begin_launch(slots.len() as u64, 32 * self.warps as u32, after);
        self.begun.push(Begun { ended: false, before });
        for (index, slot) in slots.into_iter().enumerate() {
            self.clocks[slot] = BlockClock::new(&launch, index as u64);
            self.running[slot] = self.blocks.len();
            for warp in 0..self.warps {
                (0..32).for_each(|lane| {
                    self.oracle.last.insert((self.running[slot], warp, lane), past.clone());
                });
            }
            self.blocks.push((launch.id(), index as u64));
        }
    }

    /// A copy or memset. `Some` when a racy one was executed.
    fn transfer(&mut self, tolerate: bool) -> Option<bool> {
        let before = self.some_ended();
        let (bound, ranges) = self.after(&before);
        let thread = (self.blocks.len(), 0, 0);
        let start = self.random.below(BYTES as usize) as u64;
        let width = 1 + self.random.below((BYTES - start) as usize) as u64;
        let width = if self.random.chance(50) { width } else { width.min(9) };
        let from = self.random.below((BYTES - width + 1) as usize) as u64;
        let access = |start, write| Event {
            thread,
            source: NO_SOURCE,
            start,
            width,
            write,
            read: !write,
            strong: false,
            wide: false,
            atomic: false,
            fails: false,
        };
        let action = self.random.below(4);
        let events = match action {
            0 => vec![access(start, false)],
            1 | 2 => vec![access(start, true)],
            _ => vec![access(from, false), access(start, true)],
        };
        self.oracle.last.insert(thread, self.accesses_of(&before));
        let conflicts = self.oracle.conflicts(&events);
        if !conflicts.is_empty() && tolerate {
            return None;
        }
        let Target::Global(memory, _, base) = &self.target else { return None };
        let launch = memory.begin_transfer(After::Launches { before: bound, and: &ranges });
        self.blocks.push((launch.id(), 0));
        self.begun.push(Begun { ended: true, before });
        let mut bytes = vec![0; width as usize];
        let at = base + start;
        let result = match action {
            0 => memory.read_as(&launch, at, &mut bytes),
            1 => memory.write_as(&launch, at, &bytes),
            2 => memory.fill_as(&launch, at, &[1, 2], width as usize),
            _ => memory.copy_as(&launch, at, base + from, width as usize),
        };
        match result {
            Ok(()) => {
                assert!(conflicts.is_empty(), "missed: transfer against {}", describe(&conflicts));
                events.iter().for_each(|event| self.oracle.perform(event, Order::Weak));
                None
            }
            Err(TransferError::Race(fault)) => {
                let same = |index: usize| events[index].write == (fault.party.action == Action::Store);
                let conflicts = conflicts.into_iter().filter(|(index, _)| same(*index)).collect::<Vec<_>>();
                assert_eq!(fault.party.source, NO_SOURCE);
                self.justify(&fault, &conflicts);
                Some(true)
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The fault's other side must be in fact one.
    fn justify(&self, fault: &Fault, conflicts: &[(usize, Event)]) {
        let (FaultKind::Race(other) | FaultKind::UnorderedRead(other)) = fault.kind else {
            panic!("unexpected {fault}");
        };
        let block = self.blocks.iter().position(|&block| block == (other.launch, other.block));
        let thread = (block.unwrap(), other.warp as usize, other.lane as usize);
        let real = conflicts.iter().any(|(_, old)| {
            old.thread == thread
                && old.source == other.source
                && (old.write || old.atomic) == (other.action != Action::Load)
                && old.strong == other.strong
        });
        assert!(real, "reported {fault}, true are {}", describe(conflicts));
    }

    fn addresses(&mut self, width: u64) -> [u64; 32] {
        let slots = BYTES / width;
        let start = self.random.below(slots as usize) as u64;
        let mode = self.random.below(6);
        std::array::from_fn(|lane| {
            let slot = match mode {
                0 | 1 => start + lane as u64,
                2 => start,
                3 => start + 2 * lane as u64,
                4 => start + slots * 32 - lane as u64,
                _ => self.random.next(),
            };
            slot % slots * width
        })
    }

    fn mask(&mut self) -> u32 {
        if self.focused {
            return self.random.pick(&[1, 1, 1, 2, 3]);
        }
        match self.random.below(5) {
            0 => 1 << self.random.below(4),
            1 => 0xf,
            2 => u32::MAX,
            3 => self.random.below(16) as u32,
            _ => 0x3,
        }
    }

    /// One instruction. `Some(fault)` when a racy one was executed.
    fn instruction(&mut self, source: u32, tolerate: bool) -> Option<bool> {
        let slot = self.random.below(self.clocks.len());
        let block = self.running[slot];
        let warp = self.random.below(self.warps);
        if self.streams {
            match self.random.below(100) {
                0..10 => return self.transfer(tolerate),
                10..16 => {
                    self.next_launch();
                    return None;
                }
                _ => {}
            }
        }
        let threads = |warp: usize, mask: u32| {
            (0..32).filter(move |lane| mask >> lane & 1 != 0).map(move |lane| (block, warp, lane))
        };
        match self.random.below(100) {
            0..8 => {
                self.clocks[slot].sync_warp(warp, u32::MAX);
                self.oracle.sync(&threads(warp, u32::MAX).collect::<Vec<_>>());
            }
            8..13 => {
                let mask = self.mask();
                self.clocks[slot].sync_warp(warp, mask);
                self.oracle.sync(&threads(warp, mask).collect::<Vec<_>>());
            }
            13..21 => {
                let mut parts = (0..self.warps).map(|warp| (warp, u32::MAX)).collect::<Vec<_>>();
                if self.random.chance(30) {
                    let keep = 1 + self.random.below(self.warps);
                    parts.truncate(keep);
                }
                self.clocks[slot].barrier(&parts);
                let all = parts.iter().flat_map(|&(warp, mask)| threads(warp, mask)).collect::<Vec<_>>();
                self.oracle.sync(&all);
            }
            21..32 => {
                let mask = self.mask();
                let scope = self.random.pick(&[Scope::Cta, Scope::Gpu, Scope::Gpu, Scope::Sys]);
                let scope = if self.streams { Scope::Cta } else { scope };
                self.clocks[slot].fence(warp, mask, scope);
                threads(warp, mask).for_each(|thread| self.oracle.fence(thread, scope));
            }
            _ => return self.access(slot, warp, source, tolerate),
        }
        None
    }

    fn access(&mut self, slot: usize, warp: usize, source: u32, tolerate: bool) -> Option<bool> {
        let block = self.running[slot];
        let mut width =
            self.random.pick(&[Width::B1, Width::B2, Width::B4, Width::B4, Width::B4, Width::B8, Width::B16]);
        let mut offsets = self.addresses(width.bytes() as u64);
        let mask = self.mask();
        let action =
            self.random.pick(&[Action::Load, Action::Load, Action::Store, Action::Store, Action::Atomic]);
        let mut order = self.random.pick(&[Order::Weak, Order::Volatile, Order::Relaxed, Order::AcqRel]);
        if self.random.chance(50) {
            // Flags: strong accesses that meet at one word.
            offsets = [self.random.pick(&[0, 0, 64]); 32];
        }
        if self.focused {
            let weak = order == Order::Weak && action != Action::Atomic;
            let weak = weak && self.random.chance(60);
            width = Width::B4;
            offsets = if weak {
                [self.random.pick(&[32, 36, 40]); 32]
            } else {
                [self.random.pick(&[0, 0, 64]); 32]
            };
        }
        let scope = self.random.pick(&[Scope::Cta, Scope::Gpu, Scope::Gpu, Scope::Sys]);
        order = match (action, order) {
            (Action::Load, Order::AcqRel) => Order::Acquire,
            (Action::Store, Order::AcqRel) => Order::Release,
            (Action::Atomic, Order::Weak) => self.random.pick(&[Order::Acquire, Order::Release]),
            (_, order) => order,
        };
        let synchronises = matches!(order, Order::Acquire | Order::Release | Order::AcqRel);
        let scope = if self.streams && synchronises { Scope::Cta } else { scope };
        // A location remembers only so many threads' releases for their own later relaxed stores (see `SyncVar`).
        let mask = if matches!(order, Order::Release | Order::AcqRel) { mask & 0xf } else { mask };
        let strong = action == Action::Atomic || order != Order::Weak;
        let wide = order == Order::Volatile || wide(scope);
        // Atomics that leave the old value are compares that failed.
        let fails = if self.random.chance(25) { self.random.next() as u32 } else { 0 };
        let events = (0..32usize).filter(|lane| mask >> lane & 1 != 0).map(|lane| Event {
            thread: (block, warp, lane),
            source,
            start: offsets[lane],
            width: width.bytes() as u64,
            write: action != Action::Load,
            read: action != Action::Store,
            strong,
            wide: strong && wide,
            atomic: action == Action::Atomic,
            fails: action == Action::Atomic && fails >> lane & 1 != 0,
        });
        let events = events.collect::<Vec<_>>();
        let conflicts = self.oracle.conflicts(&events);
        if !conflicts.is_empty() && tolerate {
            return None;
        }
        let base = if let Target::Global(_, _, base) = &self.target { *base } else { 0 };
        let addresses = offsets.map(|offset| base + offset);
        let access = Access { addresses: &addresses, lanes: mask, width, order, scope, source };
        let mut bytes = LaneBytes::default();
        let clock = &mut self.clocks[slot];
        let mut update = |lane: usize, old: u128| (fails >> lane & 1 == 0).then_some(old + 1);
        let result = match (&mut self.target, action) {
            (Target::Global(m, c, _), Action::Load) => m.load(c, clock, warp, &access, &mut bytes),
            (Target::Global(m, c, _), Action::Store) => m.store(c, clock, warp, &access, &bytes),
            (Target::Global(m, c, _), Action::Atomic) => {
                m.atomic(c, clock, warp, &access, &mut bytes, &mut update)
            }
            (Target::Shared(m), Action::Load) => m.load(clock, warp, &access, &mut bytes),
            (Target::Shared(m), Action::Store) => m.store(clock, warp, &access, &bytes),
            (Target::Shared(m), Action::Atomic) => m.atomic(clock, warp, &access, &mut bytes, &mut update),
        };
        match result {
            Ok(()) => {
                assert!(
                    conflicts.is_empty(),
                    "missed at {source}: {access:?} against {}",
                    describe(&conflicts)
                );
                events.iter().for_each(|event| self.oracle.perform(event, order));
                None
            }
            Err(fault) => {
                let lane = fault.party.lane as usize;
                let conflicts = conflicts.into_iter().filter(|(index, _)| events[*index].thread.2 == lane);
                self.justify(&fault, &conflicts.collect::<Vec<_>>());
                Some(true)
            }
        }
    }
}

fn describe(conflicts: &[(usize, Event)]) -> String {
    conflicts.iter().map(|(l, e)| format!("[lane {l} with {:?} source {}] ", e.thread, e.source)).collect()
}

fn compare(programs: u64, length: u32, shared: bool) {
    let (mut racy, mut instructions, mut excused) = (0, 0u64, 0);
    for seed in 0..programs {
        let mut program = Program::new(seed * 77 + u64::from(shared), shared);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for source in 0..length {
                instructions += 1;
                let tolerate = program.random.chance(97);
                if program.instruction(source, tolerate).is_some() {
                    racy += 1;
                    break;
                }
            }
        }));
        excused += u64::from(program.oracle.excused.get() > 0);
        assert!(run.is_ok(), "program {seed} of length {length}, shared {shared}");
    }
    println!("{programs} programs, {instructions} instructions, {racy} races, all as the oracle says");
    println!("observation matters in {excused} programs");
    assert!(racy > programs / 20 && racy < programs * 19 / 20, "the generator has lost its teeth: {racy}");
    assert!(excused > programs / 20, "observation matters in no more than {excused} programs");
}

#[test]
fn global_memory_agrees_with_the_oracle() {
    compare(12000, 60, false);
}

#[test]
fn long_programs_agree_with_the_oracle() {
    compare(1000, 300, false);
}

#[test]
fn shared_memory_agrees_with_the_oracle() {
    compare(6000, 80, true);
}
