//! A block as its warps see it, and its sixteen barriers.

use super::counters::Class;
use super::fault::{FaultKind, Stop};
use super::flight::Flights;
use super::lower::{LoadResult, Lower};
use super::program::{Arrived, Flow, Op, Reduction, Source};
use super::warp::{Lanes, State, Warp, lanes};
use crate::memory::{BlockClock, Cache, Join, LaneBytes, SharedMemory};
use crate::ptx::{Operand, RegClass};

/// What the warps of a block share.
pub(crate) struct BlockState {
    /// Linear index in the grid.
    pub index: u64,
    pub id: [u32; 3],
    /// The multiprocessor it would run on.
    pub sm: u32,
    pub shared: SharedMemory,
    pub flights: Flights,
    pub clock: BlockClock,
    pub cache: Cache,
    /// Scratch space of memory instructions.
    pub bytes: LaneBytes,
    /// Lanes of each warp that exist and have not exited.
    pub live: Vec<u32>,
    pub barriers: Vec<Barrier>,
    /// Whether a barrier may have become complete.
    pub changed: bool,
    /// Changes to memory that others can see: what tells waiting from being stuck.
    pub progress: u64,
    /// What its threads have printed and no one has taken yet.
    pub printed: Vec<u8>,
}

/// One barrier.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Lanes of each warp that have arrived.
    arrived: Vec<u32>,
    /// Threads it waits for; none: all that live.
    expected: Option<u32>,
    /// Those of them that go on without waiting (`bar.arrive`).
    passed: bool,
    join: Join,
    popc: u32,
    all: bool,
    any: bool,
}

impl Barrier {
    fn is_idle(&self) -> bool {
        self.arrived.iter().all(|&mask| mask == 0)
    }

    /// Threads that count as arrived: warps count whole as soon as all their live lanes are here.
    fn count(&self, live: &[u32]) -> u32 {
        let warps = self.arrived.iter().zip(live).filter(|(arrived, _)| **arrived != 0);
        warps.map(|(&here, &live)| if live & !here == 0 { 32 } else { here.count_ones() }).sum()
    }

    fn complete(&self, live: &[u32]) -> bool {
        match self.expected {
            _ if self.is_idle() => false,
            Some(expected) => self.count(live) >= expected,
            None => self.arrived.iter().zip(live).all(|(&here, &live)| live & !here == 0),
        }
    }

    /// For reports.
    pub fn describe(&self, live: &[u32]) -> String {
        let here = self.count(live);
        match self.expected {
            Some(expected) => format!("{here} of {expected} threads have arrived"),
            None => {
                let missing = self
                    .arrived
                    .iter()
                    .zip(live)
                    .enumerate()
                    .filter(|(_, (here, live))| **live & !**here != 0);
                let warps: Vec<String> = missing.map(|(warp, _)| warp.to_string()).collect();
                format!("warps {} have not arrived", warps.join(", "))
            }
        }
    }
}

impl BlockState {
    /// Lanes of a warp have exited.
    pub fn exited(&mut self, warp: usize, mask: u32) {
        if let Some(live) = self.live.get_mut(warp) {
            *live &= !mask;
        }
        self.clock.exit(warp, mask);
        self.changed = true;
        self.progress += 1;
    }

    /// Lets everyone go on who waits at a barrier that is complete.
    pub fn release(&mut self, warps: &mut [Warp]) {
        self.changed = false;
        for id in 0..self.barriers.len() {
            if !self.barriers[id].complete(&self.live) {
                continue;
            }
            let mut barrier = std::mem::take(&mut self.barriers[id]);
            let here = |state| matches!(state, State::Barrier(arrived) if arrived.barrier as usize == id);
            let waiting = |warp: &Warp| {
                let groups = warp.groups.iter().filter(|g| here(g.state));
                groups.fold(0, |mask, g| mask | g.mask)
            };
            let masks: Vec<(usize, u32)> =
                warps.iter().map(|w| (w.state.index, waiting(w))).filter(|(_, mask)| *mask != 0).collect();
            if barrier.passed {
                for &(warp, mask) in &masks {
                    self.clock.arrive(&mut barrier.join, warp, mask);
                }
                for &(warp, mask) in &masks {
                    self.clock.depart(&barrier.join, warp, mask);
                }
            } else {
                self.clock.barrier(&masks);
            }
            for warp in warps.iter_mut() {
                let frames = &mut warp.frames;
                for group in warp.groups.iter_mut().filter(|g| here(g.state)) {
                    if let (State::Barrier(Arrived { result: Some((kind, reg)), .. }), Some(frame)) =
                        (group.state, frames.get_mut(group.frame as usize))
                    {
                        let (target, value) = match kind {
                            Reduction::Popc => (Source::B32(reg as usize), barrier.popc),
                            Reduction::And => (Source::Pred(reg as usize, false), barrier.all.into()),
                            Reduction::Or => (Source::Pred(reg as usize, false), barrier.any.into()),
                        };
                        lanes(group.mask).for_each(|lane| frame.set(target, lane, value.into()));
                    }
                    group.state = State::Ready;
                    group.pc += 1;
                }
            }
            self.progress += 1;
        }
    }
}

/// What a barrier instruction does.
struct Form {
    barrier: Source,
    count: Option<Source>,
    waits: bool,
    aligned: bool,
    reduce: Option<(Reduction, u32, Source)>,
}

/// `bar`, `barrier`: `bar.X` is `barrier.X.aligned`.
pub(crate) fn lower(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    let name = l.opcode();
    if l.has("warp") {
        return super::collective::warp_barrier(l);
    }
    let block = l.has("cta");
    if l.has("cluster") && !block {
        return Err(l.unsupported("clusters are not built yet"));
    }
    let aligned = l.has("aligned") || name == "bar";
    let kind = l.pick(&["sync", "arrive", "red"])?;
    let mut reduce = None;
    let mut at = 0;
    if kind == "red" {
        let op = l.pick(&["popc", "and", "or"])?;
        l.pick(&["u32", "pred"])?;
        let (class, reduction) = match op {
            "popc" => (RegClass::B32, Reduction::Popc),
            "and" => (RegClass::Pred, Reduction::And),
            _ => (RegClass::Pred, Reduction::Or),
        };
        let target = l.register(0, class)?;
        let last = l.operands().len().max(1) - 1;
        reduce = Some((reduction, target, l.predicate(last)?));
        at = 1;
    }
    let barrier = l.source(at, RegClass::B32)?;
    let counts = l.operands().len() > at + 1 + usize::from(reduce.is_some());
    let count = if counts { Some(l.source(at + 1, RegClass::B32)?) } else { None };
    if kind == "arrive" && count.is_none() {
        return Err(l.error("bar.arrive needs a thread count"));
    }
    let form = Form { barrier, count, waits: kind != "arrive", aligned, reduce };
    Ok((Op::Act(Box::new(move |lanes, mask| arrive(lanes, mask, &form))), Class::Barrier))
}

fn arrive(l: &mut Lanes<'_>, mask: u32, form: &Form) -> Result<Flow, Stop> {
    let first = mask.trailing_zeros() as usize;
    let warp = l.warp.index;
    let live = l.block.live.get(warp).copied().unwrap_or(0);
    if form.aligned && mask != live {
        return Ok(Flow::Gather);
    }
    let id = l.frame.value(form.barrier, first);
    let count = form.count.map(|count| l.frame.value(count, first));
    let same = |lane: usize| {
        l.frame.value(form.barrier, lane) == id && form.count.map(|c| l.frame.value(c, lane)) == count
    };
    if !lanes(mask).all(same) {
        return Err(l.fault(
            FaultKind::BarrierCount,
            first,
            "lanes of one warp name different barriers or counts",
        ));
    }
    let threads = l.env.warps() as u64 * 32;
    if id > 15 || count.is_some_and(|count| count == 0 || count % 32 != 0 || count > threads) {
        let count = count.map_or(String::new(), |count| format!(", {count} threads"));
        let detail = format!(
            "barrier {id}{count}: there are 16 barriers, and a count is a positive multiple of 32 up to {threads}"
        );
        return Err(l.fault(FaultKind::BarrierCount, first, detail));
    }
    let expected = count.map(|count| count as u32);
    let barrier = &mut l.block.barriers[id as usize];
    if barrier.is_idle() {
        *barrier = Barrier { arrived: vec![0; l.env.warps()], expected, all: true, ..Barrier::default() };
    } else if barrier.expected != expected {
        let shown =
            |count: Option<u32>| count.map_or("all threads".to_string(), |count| format!("{count} threads"));
        let detail = format!(
            "barrier {id} waits for {} and is arrived at for {}",
            shown(barrier.expected),
            shown(expected)
        );
        return Err(l.fault(FaultKind::BarrierCount, first, detail));
    }
    if barrier.arrived[warp] & mask != 0 {
        let detail = format!("barrier {id}: this warp has arrived already and the barrier is not complete");
        return Err(l.fault(FaultKind::BarrierCount, first, detail));
    }
    barrier.arrived[warp] |= mask;
    let here = barrier.count(&l.block.live);
    if expected.is_some_and(|expected| here > expected) {
        let detail =
            format!("barrier {id}: {here} threads have arrived, {} are expected", expected.unwrap_or(0));
        return Err(l.fault(FaultKind::BarrierCount, first, detail));
    }
    let mut result = None;
    if let Some((kind, target, predicate)) = form.reduce {
        let holds = lanes(mask).filter(|&lane| l.frame.value(predicate, lane) != 0).count() as u32;
        barrier.popc += holds;
        barrier.any |= holds != 0;
        barrier.all &= holds == mask.count_ones();
        result = Some((kind, target));
    }
    l.tally.barriers += 1;
    l.block.changed = true;
    if form.waits {
        return Ok(Flow::Barrier(Arrived { barrier: id as u8, result }));
    }
    barrier.passed = true;
    l.block.clock.arrive(&mut barrier.join, warp, mask);
    // If that completed it, the others are let go before this warp can arrive again.
    l.warp.interrupt = true;
    Ok(Flow::Next)
}

/// The predicate operand of `bar.red` may be negated.
pub(crate) fn is_predicate(operand: &Operand) -> bool {
    matches!(operand, Operand::Not(_)) || matches!(operand, Operand::Reg(reg) if reg.class == RegClass::Pred)
}
