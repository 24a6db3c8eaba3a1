//! A block: its warps take turns in an order that depends on the seed.

use super::barrier::{Barrier, BlockState};
use super::counters::Tally;
use super::env::Env;
use super::fault::{FaultKind, Stop};
use super::flight::Flights;
use super::frame::Frame;
use super::warp::{Group, Outcome, State, Warp, WarpState, lanes};
use crate::memory::{BlockClock, Cache, LaneBytes, LocalMemory, SharedMemory, WARP};

/// A block being executed.
pub(crate) struct Block {
    pub state: BlockState,
    pub warps: Vec<Warp>,
    random: Random,
    /// Rounds since something changed, and what had changed by then.
    fruitless: u64,
    seen: u64,
}

/// How far a block got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// Some warps could go on.
    Running,
    /// Whoever could go on looks as if it waited for another block.
    Spinning,
    /// Nobody can go on.
    Stuck,
}

/// splitmix64: the order of everything that may come in any order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// A warp that has executed a strong access among so many last instructions may be waiting for its result to change.
const RECENT: u64 = 4096;
/// Instructions of a turn with seed 0: warps run as far as they can.
const LONG_TURN: u64 = 1 << 20;

impl Block {
    pub fn new(env: &Env<'_>, index: u64) -> Block {
        let warps = env.warps();
        let mut block = Block {
            state: BlockState {
                index,
                id: [0; 3],
                sm: 0,
                shared: SharedMemory::new(env.shared_bytes(), env.checks),
                flights: Flights::new(warps),
                clock: BlockClock::new(&env.launch, index),
                cache: Cache::default(),
                bytes: LaneBytes::default(),
                live: vec![0; warps],
                barriers: (0..16).map(|_| Barrier::default()).collect(),
                changed: false,
                progress: 0,
                printed: Vec::new(),
            },
            warps: (0..warps).map(|warp| new_warp(env, warp)).collect(),
            random: Random::new(0, 0),
            fruitless: 0,
            seen: 0,
        };
        block.restart(env, index);
        block
    }

    /// Begins another block of the same launch.
    pub fn restart(&mut self, env: &Env<'_>, index: u64) {
        let state = &mut self.state;
        (state.index, state.id) = (index, env.block_id(index));
        state.sm = (index % u64::from(env.card.sms.max(1))) as u32;
        state.shared.reset();
        state.flights.reset(env.shared_bytes(), env.seed, index);
        state.clock = BlockClock::new(&env.launch, index);
        state.barriers.iter_mut().for_each(|barrier| *barrier = Barrier::default());
        (state.changed, state.progress) = (false, 0);
        state.printed.clear();
        for (index, warp) in self.warps.iter_mut().enumerate() {
            warp.restart(env);
            state.live[index] = warp.state.live;
        }
        (self.fruitless, self.seen) = (0, 0);
        self.random = Random::new(env.seed, index);
    }

    /// Gives every warp that can run a turn.
    pub fn round(&mut self, env: &Env<'_>, tally: &mut Tally) -> Result<Progress, Stop> {
        let mut order: Vec<usize> =
            (0..self.warps.len()).filter(|&w| !self.warps[w].groups.is_empty()).collect();
        if env.seed != 0 {
            self.random.shuffle(&mut order);
        }
        let (mut running, mut spinning) = (false, false);
        for warp in order {
            let turn = if env.seed == 0 { LONG_TURN } else { 1 + self.random.next() % 400 };
            match self.warps[warp].run(&mut self.state, env, tally, turn)? {
                Outcome::Done => running = true,
                Outcome::Preempted => running = true,
                Outcome::Spinning => spinning = true,
                Outcome::Blocked => self.warps[warp].diverged(&self.state, env)?,
            }
            if self.warps[warp].state.clock > env.warp_limit {
                return Err(self.warps[warp].endless(&self.state, env));
            }
            if self.state.changed {
                let before = self.state.progress;
                self.state.release(&mut self.warps);
                running |= self.state.progress != before;
            }
        }
        if self.warps.iter().all(|warp| warp.groups.is_empty()) {
            return self.landed(env).map(|()| Progress::Done);
        }
        Ok(match (running, spinning) {
            (true, _) => Progress::Running,
            (_, true) => Progress::Spinning,
            _ => Progress::Stuck,
        })
    }

    /// Reports a copy that is still in flight when all threads have ended.
    fn landed(&self, env: &Env<'_>) -> Result<(), Stop> {
        match self.state.flights.first() {
            Some((warp, flight, lane)) if env.checks.races => {
                let thread = (warp * WARP + lane) as u32;
                let detail = "the thread has ended and never waited for this copy".to_string();
                Err(env.fault(FaultKind::NeverWaited, self.state.index, thread, flight.source, detail))
            }
            _ => Ok(()),
        }
    }

    /// Executes the whole block, given that it needs no other.
    pub fn run(&mut self, env: &Env<'_>, tally: &mut Tally) -> Result<(), Stop> {
        loop {
            match self.round(env, tally)? {
                Progress::Done => return Ok(()),
                Progress::Stuck => return Err(self.deadlock(env, self.waiting(env))),
                Progress::Running | Progress::Spinning => {
                    let waits = self.state.progress == self.seen && self.waits();
                    self.fruitless = if waits { self.fruitless + 1 } else { 0 };
                    self.seen = self.state.progress;
                    if self.fruitless > env.hopeless_rounds() {
                        return Err(self.deadlock(env, self.waiting(env)));
                    }
                }
            }
        }
    }

    /// Whether all its warps wait, at barriers or for memory to change, rather than compute for long.
    pub fn waits(&self) -> bool {
        let waits = |w: &Warp| {
            let recent = |&(_, _, clock): &(u64, u32, u64)| w.state.clock - clock < RECENT;
            w.state.waits_at.as_ref().is_some_and(recent) || w.groups.iter().all(|g| g.state != State::Ready)
        };
        self.warps.iter().all(waits)
    }

    /// The report that nothing goes on.
    pub fn deadlock(&self, env: &Env<'_>, waiting: Vec<String>) -> Stop {
        // Who spins says more than who waits at a barrier for him.
        let groups = || self.warps.iter().flat_map(|warp| warp.groups.iter().map(move |group| (warp, group)));
        let stuck = groups().find(|(_, group)| group.state == State::Ready).or_else(|| groups().next());
        let (thread, source) = stuck.map_or((0, u32::MAX), |(warp, group)| {
            (warp.state.index as u32 * 32 + group.mask.trailing_zeros(), warp.source_of(env, group))
        });
        let lone = |warp: &Warp| warp.groups.iter().find(|g| g.state == State::Gather).copied();
        if let Some((warp, group)) = self.warps.iter().find_map(|warp| Some((warp, lone(warp)?))) {
            return warp.lonely(&self.state, env, &group);
        }
        let detail = "nothing can go on".to_string();
        let mut fault = env.fault(FaultKind::Deadlock, self.state.index, thread, source, detail);
        fault.waiting = waiting;
        fault
    }

    /// What every warp waits for, a line each.
    pub fn waiting(&self, env: &Env<'_>) -> Vec<String> {
        let mut lines = Vec::new();
        for warp in &self.warps {
            for group in &warp.groups {
                let what = match group.state {
                    State::Ready => match warp.state.waits_at {
                        Some((address, ..)) => format!("spins on {address:#x}"),
                        None => "spins".to_string(),
                    },
                    State::Gather => "waits for other lanes of the warp".to_string(),
                    State::WarpSync(mask) => format!("waits for lanes {mask:#010x}"),
                    State::Barrier(arrived) => {
                        let barrier = &self.state.barriers[usize::from(arrived.barrier) % 16];
                        format!(
                            "waits at barrier {}: {}",
                            arrived.barrier,
                            barrier.describe(&self.state.live)
                        )
                    }
                };
                let [x, y, z] = self.state.id;
                let place = env.place(warp.source_of(env, group));
                lines.push(format!(
                    "block ({x},{y},{z}) warp {} lanes {:#010x} {what}, at {place}",
                    warp.state.index, group.mask
                ));
            }
        }
        lines
    }
}

fn new_warp(env: &Env<'_>, index: usize) -> Warp {
    let first = index as u32 * 32;
    let count = env.threads().saturating_sub(first).min(32);
    let exists = ((1u64 << count) - 1) as u32;
    let tid = [0, 1, 2].map(|axis| std::array::from_fn(|lane| env.thread_id(first + lane as u32)[axis]));
    let local = LocalMemory::new(env.kernel.stack_bytes(env.stack_bytes), env.checks);
    let state =
        WarpState { index, exists, live: 0, tid, local, clock: 0, spin: 0, interrupt: false, waits_at: None };
    Warp { state, groups: Vec::new(), frames: vec![Frame::default()], free: Vec::new() }
}

impl Warp {
    fn restart(&mut self, env: &Env<'_>) {
        let state = &mut self.state;
        (state.live, state.clock, state.spin) = (state.exists, 0, 0);
        (state.interrupt, state.waits_at) = (false, None);
        if env.kernel.stack_bytes(env.stack_bytes) > 0 {
            state.local.reset();
        }
        self.groups.clear();
        self.groups.push(Group { frame: 0, pc: 0, mask: state.exists, state: State::Ready, yielded: false });
        self.free.clear();
        self.free.extend((1..self.frames.len() as u32).rev());
        if let (Some(frame), Some(code)) = (self.frames.first_mut(), env.kernel.functions.first()) {
            frame.enter(0, code, state.exists);
            (frame.depth, frame.caller, frame.local) = (0, None, (0, code.local_bytes));
        }
    }

    pub fn source_of(&self, env: &Env<'_>, group: &Group) -> u32 {
        let function = self.frames.get(group.frame as usize).map_or(0, |frame| frame.function);
        let step = env.kernel.functions.get(function).and_then(|code| code.steps.get(group.pc as usize));
        step.map_or(u32::MAX, |step| step.source)
    }

    /// Reports a warp whose lanes wait for each other at different places: nobody outside can help them.
    fn diverged(&self, block: &BlockState, env: &Env<'_>) -> Result<(), Stop> {
        let held = |g: &&Group| g.state == State::Gather;
        let outside = self.groups.iter().any(|g| matches!(g.state, State::Barrier(_)));
        match self.groups.iter().filter(held).min_by_key(|g| (g.mask.trailing_zeros(), g.pc)) {
            Some(group) if !outside => Err(self.lonely(block, env, group)),
            _ => Ok(()),
        }
    }

    /// The report about a loop that goes on for too long.
    fn endless(&self, block: &BlockState, env: &Env<'_>) -> Stop {
        let group = self.groups.iter().find(|g| g.state == State::Ready).or(self.groups.first());
        let lane = group.map_or(0, |g| g.mask.trailing_zeros());
        let source = group.map_or(u32::MAX, |g| self.source_of(env, g));
        let detail = format!("the warp has executed {} instructions", self.state.clock);
        env.fault(FaultKind::Timeout, block.index, self.state.index as u32 * 32 + lane, source, detail)
    }

    /// The report about lanes that wait for company in vain.
    fn lonely(&self, block: &BlockState, env: &Env<'_>, group: &Group) -> Stop {
        let source = self.source_of(env, group);
        let place = env.place(source);
        let barrier = place.instruction.starts_with("bar");
        let kind = if barrier { FaultKind::DivergentBarrier } else { FaultKind::MissingLanes };
        let others = self.groups.iter().filter(|g| g.mask & group.mask == 0);
        let others: Vec<String> = others
            .map(|g| format!("lanes {:#010x} at {}", g.mask, env.place(self.source_of(env, g))))
            .collect();
        let detail = format!("only lanes {:#010x} of the warp are here, {}", group.mask, others.join(", "));
        let lane = lanes(group.mask).next().unwrap_or(0) as u32;
        env.fault(kind, block.index, self.state.index as u32 * 32 + lane, source, detail)
    }
}
