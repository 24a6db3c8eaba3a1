//! The race checker against a brute-force happens-before oracle, on thousands of small random programs.
//!
//! The oracle keeps every access as an event with the set of all events before it (reachability in the happens-before
//! graph, edge by edge from the definitions) and compares each new access with all earlier ones. It knows nothing of
//! clocks, stamps or sectors. Programs are grown one warp instruction at a time: an instruction that the oracle calls
//! racy is mostly thrown away, so that programs get long, and sometimes executed, when it must be reported, with a
//! culprit that is in fact one.

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
            let earlier = self.accesses.iter().map(|(id, old)| (past.contains(*id), old));
            for (ordered, old) in earlier.chain(events[..lane].iter().map(|old| (false, old))) {
                let overlap = old.start < new.start + new.width && new.start < old.start + old.width;
                let exempt =
                    old.strong && new.strong && (old.thread.0 == new.thread.0 || (old.wide && new.wide));
                if overlap && (old.write || new.write) && old.thread != new.thread && !exempt && !ordered {
                    found.push((lane, old.clone()));
                }
            }
        }
        found
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
        self.accesses.push((id, event.clone()));
        if !event.write {
            return;
        }
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

struct Program {
    random: Random,
    target: Target,
    oracle: Oracle,
    clocks: Vec<BlockClock>,
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
        if random.chance(30) {
            // The last block belongs to a second launch that is concurrent with the first.
            let other = memory.begin_launch(1, 32 * warps as u32, After::Launches { before: 0, and: &[] });
            clocks[BLOCKS - 1] = BlockClock::new(&other, 0);
        }
        let target = if shared {
            clocks.truncate(1);
            let mut shared = SharedMemory::new(BYTES as usize, Checks { uninitialised: false, races: true });
            shared.reset();
            Target::Shared(shared)
        } else {
            Target::Global(Box::new(memory), Cache::default(), base)
        };
        Self { random, target, oracle: Oracle::default(), clocks, warps, focused }
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
        let block = self.random.below(self.clocks.len());
        let warp = self.random.below(self.warps);
        let threads = |warp: usize, mask: u32| {
            (0..32).filter(move |lane| mask >> lane & 1 != 0).map(move |lane| (block, warp, lane))
        };
        match self.random.below(100) {
            0..8 => {
                self.clocks[block].sync_warp(warp, u32::MAX);
                self.oracle.sync(&threads(warp, u32::MAX).collect::<Vec<_>>());
            }
            8..13 => {
                let mask = self.mask();
                self.clocks[block].sync_warp(warp, mask);
                self.oracle.sync(&threads(warp, mask).collect::<Vec<_>>());
            }
            13..21 => {
                let mut parts = (0..self.warps).map(|warp| (warp, u32::MAX)).collect::<Vec<_>>();
                if self.random.chance(30) {
                    let keep = 1 + self.random.below(self.warps);
                    parts.truncate(keep);
                }
                self.clocks[block].barrier(&parts);
                let all = parts.iter().flat_map(|&(warp, mask)| threads(warp, mask)).collect::<Vec<_>>();
                self.oracle.sync(&all);
            }
            21..32 => {
                let (mask, scope) =
                    (self.mask(), self.random.pick(&[Scope::Cta, Scope::Gpu, Scope::Gpu, Scope::Sys]));
                self.clocks[block].fence(warp, mask, scope);
                threads(warp, mask).for_each(|thread| self.oracle.fence(thread, scope));
            }
            _ => return self.access(block, warp, source, tolerate),
        }
        None
    }

    fn access(&mut self, block: usize, warp: usize, source: u32, tolerate: bool) -> Option<bool> {
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
        // A location remembers only so many threads' releases for their own later relaxed stores (see `SyncVar`).
        let mask = if matches!(order, Order::Release | Order::AcqRel) { mask & 0xf } else { mask };
        let strong = action == Action::Atomic || order != Order::Weak;
        let wide = order == Order::Volatile || wide(scope);
        let events = (0..32usize).filter(|lane| mask >> lane & 1 != 0).map(|lane| Event {
            thread: (block, warp, lane),
            source,
            start: offsets[lane],
            width: width.bytes() as u64,
            write: action != Action::Load,
            read: action != Action::Store,
            strong,
            wide: strong && wide,
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
        let clock = &mut self.clocks[block];
        let mut update = |_: usize, old: u128| Some(old + 1);
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
                let (FaultKind::Race(other) | FaultKind::UnorderedRead(other)) = fault.kind else {
                    panic!("unexpected {fault}");
                };
                // The oracle's block 2 may be block 0 of launch 1.
                let other_block = if other.launch == 1 { BLOCKS - 1 } else { other.block as usize };
                let thread = (other_block, other.warp as usize, other.lane as usize);
                let real = conflicts.iter().any(|(lane, old)| {
                    events[*lane].thread.2 == fault.party.lane as usize
                        && old.thread == thread
                        && old.source == other.source
                        && old.write == (other.action != Action::Load)
                        && old.strong == other.strong
                });
                assert!(real, "at {source}: reported {fault}, true are {}", describe(&conflicts));
                Some(true)
            }
        }
    }
}

fn describe(conflicts: &[(usize, Event)]) -> String {
    conflicts.iter().map(|(l, e)| format!("[lane {l} with {:?} source {}] ", e.thread, e.source)).collect()
}

fn compare(programs: u64, length: u32, shared: bool) {
    let (mut racy, mut instructions) = (0, 0u64);
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
        assert!(run.is_ok(), "program {seed} of length {length}, shared {shared}");
    }
    println!("{programs} programs, {instructions} instructions, {racy} races, all as the oracle says");
    assert!(racy > programs / 20 && racy < programs * 19 / 20, "the generator has lost its teeth: {racy}");
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
