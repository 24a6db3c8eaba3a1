//! A warp: lanes in lock-step as far as they agree on where they are.
//!
//! Lanes at the same instruction of the same call form a group; groups are what is executed. Of the groups that can run
//! the one in the deepest call goes first, and of those the one at the lowest instruction: code is laid out so that
//! groups meet again where their paths join. A group that goes around a loop for long, or that looks as if it waited
//! for somebody (strong loads, atomics, sleeps), lets the others go first for once, so lanes may wait for each other.
//! All of this depends on the warp's own history only, never on the seed: the counters stay the same.

use super::barrier::BlockState;
use super::counters::Tally;
use super::env::Env;
use super::fault::Stop;
use super::frame::Frame;
use super::program::{Arrived, Flow, Op, Step};
use crate::memory::{LocalMemory, WARP};

/// Why a group is not being executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Gather,
    WarpSync(u32),
    Barrier(Arrived),
}

/// Lanes at the same instruction of the same call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub frame: u32,
    pub pc: u32,
    pub mask: u32,
    pub state: State,
    /// Has let the others go first.
    pub yielded: bool,
}

/// What belongs to a warp beside its calls and groups.
pub(crate) struct WarpState {
    pub index: usize,
    /// Lanes that the block's threads fill.
    pub exists: u32,
    /// Those of them that have not exited.
    pub live: u32,
    pub tid: [[u32; WARP]; 3],
    pub local: LocalMemory,
    /// Instructions executed so far: what `%clock` shows.
    pub clock: u64,
    /// How long the running group has looked as if it waited.
    pub spin: u64,
    /// Set to make the block look at its barriers before the warp goes on.
    pub interrupt: bool,
    /// Address, source and time of the last strong access; to tell waiting from computing.
    pub waits_at: Option<(u64, u32, u64)>,
}

/// What an instruction may touch.
pub(crate) struct Lanes<'a> {
    pub frame: &'a mut Frame,
    pub warp: &'a mut WarpState,
    pub block: &'a mut BlockState,
    pub env: &'a Env<'a>,
    pub tally: &'a mut Tally,
    /// Which position is being executed.
    pub source: u32,
}

/// A warp.
pub(crate) struct Warp {
    pub state: WarpState,
    pub groups: Vec<Group>,
    pub frames: Vec<Frame>,
    /// Slots of `frames` that no lane is in.
    pub free: Vec<u32>,
}

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Blocked,
    /// Used up its turn, with an instruction that could go on.
    Preempted,
    /// All its groups look as if they waited for somebody.
    Spinning,
}

impl Warp {
    /// Executes until the warp is done, blocked or spinning, or `turn` instructions have been executed.
    pub fn run(
        &mut self,
        block: &mut BlockState,
        env: &Env<'_>,
        tally: &mut Tally,
        mut turn: u64,
    ) -> Result<Outcome, Stop> {
        loop {
            let Some(index) = self.select() else {
                if self.groups.is_empty() {
                    return Ok(Outcome::Done);
                }
                let mut yielded =
                    self.groups.iter_mut().filter(|g| g.yielded && g.state == State::Ready).peekable();
                if yielded.peek().is_none() {
                    return Ok(Outcome::Blocked);
                }
                yielded.for_each(|g| g.yielded = false);
                self.state.spin = 0;
                return Ok(Outcome::Spinning);
            };
            if turn == 0 {
                return Ok(Outcome::Preempted);
            }
            self.run_group(index, block, env, tally, &mut turn)?;
        }
    }

    /// The group to run next, after merging those that have met.
    fn select(&mut self) -> Option<usize> {
        if let [group] = self.groups[..] {
            return (group.state == State::Ready && !group.yielded).then_some(0);
        }
        self.merge();
        let depth = |g: &Group| self.frames[g.frame as usize].depth;
        let ready = self.groups.iter().enumerate().filter(|(_, g)| g.state == State::Ready && !g.yielded);
        ready.min_by_key(|(_, g)| (u32::MAX - depth(g), g.pc, g.frame)).map(|(index, _)| index)
    }

    fn merge(&mut self) {
        let mut i = 0;
        while i < self.groups.len() {
            let mut j = i + 1;
            while j < self.groups.len() {
                let (a, b) = (self.groups[i], self.groups[j]);
                let open = |g: &Group| matches!(g.state, State::Ready | State::Gather);
                if a.frame == b.frame && a.pc == b.pc && open(&a) && open(&b) {
                    let yielded = a.yielded && b.yielded;
                    self.groups[i] = Group { mask: a.mask | b.mask, state: State::Ready, yielded, ..a };
                    self.groups.swap_remove(j);
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }

    /// Where in `frame` the next group waits that the one at `pc` may meet or pass.
    fn horizon(&self, index: usize) -> u32 {
        let me = self.groups[index];
        let others = self
            .groups
            .iter()
            .enumerate()
            .filter(|(i, g)| *i != index && g.frame == me.frame && g.pc > me.pc);
        let open = others.filter(|(_, g)| matches!(g.state, State::Ready | State::Gather));
        open.map(|(_, g)| g.pc).min().unwrap_or(u32::MAX)
    }

    /// Executes one group until it meets, passes or leaves another, splits, blocks or yields.
    fn run_group(
        &mut self,
        index: usize,
        block: &mut BlockState,
        env: &Env<'_>,
        tally: &mut Tally,
        turn: &mut u64,
    ) -> Result<(), Stop> {
        let horizon = self.horizon(index);
        let alone = self.groups.len() == 1;
        let Group { frame: frame_index, mut pc, mask, .. } = self.groups[index];
        let function = self.frames[frame_index as usize].function;
        let code: &[Step] = &env.kernel.functions[function].steps;
        loop {
            let Some(step) = code.get(pc as usize) else {
                // Falling off the end returns.
                self.groups[index].pc = pc;
                return self.leave(index, mask, block, env, u32::MAX);
            };
            let frame = &mut self.frames[frame_index as usize];
            let active = match step.guard {
                None => mask,
                Some((reg, negated)) => {
                    let bits = frame.regs.pred.get(reg).copied().unwrap_or(0);
                    mask & if negated { !bits } else { bits }
                }
            };
            let issued = &mut tally.issued[step.class as usize];
            issued.warp += 1;
            issued.lane += u64::from(active.count_ones());
            self.state.clock += 1;
            *turn -= 1;
            let mut flow = Flow::Next;
            match &step.op {
                Op::Alu(run) => run(&mut frame.regs, active),
                Op::Act(run) => {
                    if active != 0 {
                        let mut lanes =
                            Lanes { frame, warp: &mut self.state, block, env, tally, source: step.source };
                        flow = run(&mut lanes, active)?;
                    }
                }
                Op::Nop => {}
                Op::Branch(target) => {
                    let target = *target;
                    let stay = mask & !active;
                    if active != 0 && target <= pc {
                        self.state.spin += 1;
                    }
                    let next = if active == 0 {
                        pc + 1
                    } else if stay == 0 {
                        target
                    } else {
                        tally.divergences += 1;
                        self.groups[index] = Group { pc: pc + 1, mask: stay, ..self.groups[index] };
                        self.groups.push(Group { pc: target, mask: active, ..self.groups[index] });
                        // The one that goes back is the one that may be waiting.
                        if target <= pc && self.state.spin >= env.patience {
                            self.tired(self.groups.len() - 1);
                        }
                        return Ok(());
                    };
                    let back = next <= pc;
                    pc = next;
                    if back && self.state.spin >= env.patience {
                        self.groups[index].pc = pc;
                        self.tired(index);
                        return Ok(());
                    }
                    if (back && !alone) || pc >= horizon || *turn == 0 {
                        self.groups[index].pc = pc;
                        return Ok(());
                    }
                    continue;
                }
                Op::Prepared(parts) => {
                    if active != 0 {
                        let mut lanes =
                            Lanes { frame, warp: &mut self.state, block, env, tally, source: step.source };
                        for act in &parts.0 {
                            act(&mut lanes, active)?;
                        }
                        match &parts.1 {
                            Op::Alu(run) => run(&mut lanes.frame.regs, active),
                            Op::Act(run) => flow = run(&mut lanes, active)?,
                            _ => {}
                        }
                    }
                }
                Op::BranchIndexed(_) | Op::Call(_) | Op::Return | Op::Exit => {
                    self.groups[index].pc = pc;
                    return self.transfer(index, step, active, block, env, tally);
                }
            }
            match flow {
                Flow::Next => pc += 1,
                Flow::Gather => {
                    self.groups[index].pc = pc;
                    self.park(index, active, State::Gather);
                    // It will be issued again when it is complete.
                    let issued = &mut tally.issued[step.class as usize];
                    issued.warp -= 1;
                    issued.lane -= u64::from(active.count_ones());
                    self.state.clock -= 1;
                    return Ok(());
                }
                Flow::WarpSync(lanes) => {
                    self.groups[index].pc = pc;
                    return self.warp_sync(index, active, lanes, block);
                }
                Flow::Barrier(arrived) => {
                    self.groups[index].pc = pc;
                    self.park(index, active, State::Barrier(arrived));
                    return Ok(());
                }
            }
            if std::mem::take(&mut self.state.interrupt) {
                *turn = 0;
            }
            if pc >= horizon || *turn == 0 {
                self.groups[index].pc = pc;
                return Ok(());
            }
        }
    }

    fn tired(&mut self, index: usize) {
        self.groups[index].yielded = true;
        self.state.spin = 0;
    }

    /// Blocks the `active` lanes of a group at its instruction; those that a predicate held back go on.
    pub fn park(&mut self, index: usize, active: u32, state: State) {
        let group = self.groups[index];
        let rest = group.mask & !active;
        self.groups[index] = Group { mask: active, state, ..group };
        if rest != 0 {
            self.groups.push(Group { mask: rest, pc: group.pc + 1, ..group });
        }
    }

    /// `bar.warp.sync`: the lanes may wait at different instructions.
    fn warp_sync(
        &mut self,
        index: usize,
        active: u32,
        lanes: u32,
        block: &mut BlockState,
    ) -> Result<(), Stop> {
        self.park(index, active, State::WarpSync(lanes));
        self.meet(lanes, block);
        Ok(())
    }

    /// Lets the lanes of a `bar.warp.sync` go on if all are there.
    fn meet(&mut self, lanes: u32, block: &mut BlockState) {
        let waiting = self.groups.iter().filter(|g| g.state == State::WarpSync(lanes));
        let here = waiting.fold(0, |sum, g| sum | g.mask);
        if here == lanes & self.state.live {
            block.clock.sync_warp(self.state.index, here);
            for group in self.groups.iter_mut().filter(|g| g.state == State::WarpSync(lanes)) {
                group.state = State::Ready;
                group.pc += 1;
            }
        }
    }

    /// Lanes have gone: whoever waits for company looks again.
    pub fn wake(&mut self, block: &mut BlockState) {
        for index in 0..self.groups.len() {
            match self.groups[index].state {
                State::Gather => self.groups[index].state = State::Ready,
                State::WarpSync(lanes) => self.meet(lanes, block),
                _ => {}
            }
        }
    }
}

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> + Clone {
    (0..WARP).filter(move |lane| mask >> lane & 1 != 0)
}
