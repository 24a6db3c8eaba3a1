//! Calls, returns, exits and jumps through tables.

use super::barrier::BlockState;
use super::counters::Tally;
use super::env::Env;
use super::fault::{FaultKind, Stop};
use super::frame::Frame;
use super::program::{BranchIndexed, Call, Op, Step, Target};
use super::warp::{Group, State, Warp, lanes};

impl Warp {
    /// Executes an instruction that moves the `active` lanes of a group elsewhere.
    pub(super) fn transfer(
        &mut self,
        index: usize,
        step: &Step,
        active: u32,
        block: &mut BlockState,
        env: &Env<'_>,
        tally: &mut Tally,
    ) -> Result<(), Stop> {
        match &step.op {
            Op::Return if active != 0 => self.leave(index, active, block, env, step.source),
            Op::Exit if active != 0 => {
                self.exit(index, active, block);
                Ok(())
            }
            Op::Call(call) if active != 0 => self.call(index, call, step.source, active, block, env),
            Op::BranchIndexed(branch) if active != 0 => {
                self.jump(index, branch, step.source, active, block, env, tally)
            }
            _ => {
                self.groups[index].pc += 1;
                Ok(())
            }
        }
    }

    /// Takes lanes out of a group; what is left of it goes on behind the instruction.
    fn take(&mut self, index: usize, lanes: u32) -> Group {
        let group = self.groups[index];
        let rest = group.mask & !lanes;
        if rest == 0 {
            self.groups.swap_remove(index);
        } else {
            self.groups[index] = Group { mask: rest, pc: group.pc + 1, ..group };
        }
        Group { mask: lanes, ..group }
    }

    fn exit(&mut self, index: usize, active: u32, block: &mut BlockState) {
        let group = self.take(index, active);
        let mut frame = Some(group.frame);
        while let Some(at) = frame {
            let slot = &mut self.frames[at as usize];
            slot.inside &= !active;
            frame = slot.caller.map(|(caller, _)| caller);
            if slot.inside == 0 {
                self.free.push(at);
            }
        }
        self.state.live &= !active;
        block.exited(self.state.index, active);
        self.wake(block);
    }

    /// `ret`, or the end of a function.
    pub(super) fn leave(
        &mut self,
        index: usize,
        active: u32,
        block: &mut BlockState,
        env: &Env<'_>,
        source: u32,
    ) -> Result<(), Stop> {
        let frame = self.groups[index].frame;
        let Some((caller, pc)) = self.frames[frame as usize].caller else {
            self.exit(index, active, block);
            return Ok(());
        };
        self.take(index, active);
        let function = self.frames[caller as usize].function;
        let call = env.kernel.functions.get(function).and_then(|code| code.steps.get(pc as usize));
        if let Some(Step { op: Op::Call(call), .. }) = call {
            let (from, to) = two(&mut self.frames, frame as usize, caller as usize);
            let returns = env.kernel.functions.get(from.function).map_or(&[][..], |code| &code.returns);
            for (&(place, bytes), &(offset, _)) in call.results.iter().zip(returns) {
                for lane in lanes(active) {
                    match (from.returns.get(lane, offset, bytes), to.arguments.get_mut(lane, place, bytes)) {
                        (Some(from), Some(to)) => to.copy_from_slice(from),
                        _ => {
                            let thread = (self.state.index * 32 + lane) as u32;
                            let detail = "the result does not fit where the call puts it".into();
                            return Err(env.fault(FaultKind::BadCall, block.index, thread, source, detail));
                        }
                    }
                }
            }
        }
        let slot = &mut self.frames[frame as usize];
        slot.inside &= !active;
        if slot.inside == 0 {
            self.free.push(frame);
        }
        self.groups.push(Group {
            frame: caller,
            pc: pc + 1,
            mask: active,
            state: State::Ready,
            yielded: false,
        });
        Ok(())
    }

    fn call(
        &mut self,
        index: usize,
        call: &Call,
        source: u32,
        active: u32,
        block: &mut BlockState,
        env: &Env<'_>,
    ) -> Result<(), Stop> {
        let group = self.take(index, active);
        let mut left = active;
        while let Some(lane) = lanes(left).next() {
            let fault = |kind, detail| {
                let thread = (self.state.index * 32 + lane) as u32;
                Err(env.fault(kind, block.index, thread, source, detail))
            };
            let caller = &self.frames[group.frame as usize];
            let (function, together) = match &call.target {
                Target::Direct(function) => (*function, left),
                Target::Indirect { address, params, returns } => {
                    let wanted = caller.value(*address, lane);
                    let Some(function) = env.kernel.functions.iter().position(|f| f.address == wanted) else {
                        return fault(FaultKind::BadCall, format!("{wanted:#x} is no function's address"));
                    };
                    let code = &env.kernel.functions[function];
                    let sizes =
                        |list: &[(usize, u64)]| list.iter().map(|&(_, size)| size).collect::<Vec<_>>();
                    if sizes(&code.params) != *params || sizes(&code.returns) != *returns {
                        return fault(
                            FaultKind::BadCall,
                            format!("{} does not fit the prototype", code.name),
                        );
                    }
                    let same = lanes(left).filter(|&l| caller.value(*address, l) == wanted);
                    (function, same.fold(0, |mask, l| mask | 1 << l))
                }
            };
            let (depth, base) = (caller.depth + 1, caller.local.1);
            let code = &env.kernel.functions[function];
            let top = base.next_multiple_of(16) + code.local_bytes;
            if depth > env.call_depth || top > env.kernel.stack_bytes(env.stack_bytes) {
                let detail = format!("calling {} at depth {depth} needs {top} bytes of stack", code.name);
                return fault(FaultKind::StackOverflow, detail);
            }
            let slot = self.new_frame();
            let (from, to) = two(&mut self.frames, group.frame as usize, slot as usize);
            to.enter(function, code, together);
            to.depth = depth;
            to.local = (base.next_multiple_of(16), top);
            to.caller = Some((group.frame, group.pc));
            let parameters = call.arguments.iter().zip(&code.params);
            for (&(offset, bytes), &(place, size)) in parameters {
                for lane in lanes(together) {
                    let bytes = bytes.min(size as usize);
                    let ends =
                        (from.arguments.get(lane, offset, bytes), to.params.get_mut(lane, place, bytes));
                    if let (Some(from), Some(to)) = ends {
                        to.copy_from_slice(from);
                    }
                }
            }
            self.groups.push(Group {
                frame: slot,
                pc: 0,
                mask: together,
                state: State::Ready,
                yielded: false,
            });
            left &= !together;
        }
        Ok(())
    }

    fn new_frame(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.frames.push(Frame::default());
            self.frames.len() as u32 - 1
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn jump(
        &mut self,
        index: usize,
        branch: &BranchIndexed,
        source: u32,
        active: u32,
        block: &mut BlockState,
        env: &Env<'_>,
        tally: &mut Tally,
    ) -> Result<(), Stop> {
        let whole = self.groups[index].mask == active;
        let group = self.take(index, active);
        let mut left = active;
        let mut parts = 0;
        while let Some(lane) = lanes(left).next() {
            let frame = &self.frames[group.frame as usize];
            let wanted = frame.value(branch.index, lane);
            let Some(&pc) = branch.targets.get(wanted as usize) else {
                let detail = format!("index {wanted} of {} branch targets", branch.targets.len());
                let thread = (self.state.index * 32 + lane) as u32;
                return Err(env.fault(FaultKind::BadBranch, block.index, thread, source, detail));
            };
            let same = lanes(left).filter(|&l| frame.value(branch.index, l) == wanted);
            let mask = same.fold(0, |mask, l| mask | 1 << l);
            self.state.spin += u64::from(pc <= group.pc);
            self.groups.push(Group { pc, mask, ..group });
            left &= !mask;
            parts += 1;
        }
        tally.divergences += u64::from(parts > 1 || !whole);
        Ok(())
    }
}

/// Two different elements at once.
fn two(frames: &mut [Frame], a: usize, b: usize) -> (&mut Frame, &mut Frame) {
    if a < b {
        let (low, high) = frames.split_at_mut(b);
        (&mut low[a], &mut high[0])
    } else {
        let (low, high) = frames.split_at_mut(a);
        (&mut high[0], &mut low[b])
    }
}
