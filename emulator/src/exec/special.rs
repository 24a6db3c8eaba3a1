//! Special registers, addresses in a frame, and the `mov`s that read them.

use super::counters::Class;
use super::load_store::blend;
use super::lower::{Base, LoadResult, Lower, of_register};
use super::program::{Act, Flow, Op, Source};
use super::warp::{Lanes, lanes};
use crate::memory::WARP;
use crate::ptx::{Axis, Operand, RegClass, Special};

/// How a special register is read.
enum Read {
    Uniform(fn(&Lanes<'_>) -> u64),
    PerLane(fn(&Lanes<'_>, usize) -> u64),
    /// Component of `%tid`.
    Tid(usize),
}

fn axis(axis: Axis) -> Option<usize> {
    [Axis::X, Axis::Y, Axis::Z].iter().position(|&a| a == axis)
}

/// Which lanes `%lanemask_xx` names, by how they compare with the own one.
fn lane_bits(lane: usize, below: bool, equal: bool, above: bool) -> u64 {
    let own = 1u64 << lane;
    let (low, high) = (own - 1, 0xffff_ffff & !(own | (own - 1)));
    (u64::from(below) * low) | (u64::from(equal) * own) | (u64::from(above) * high)
}

fn read(special: Special) -> Option<Read> {
    use Read::{PerLane, Tid, Uniform};
    Some(match special {
        Special::Tid(Axis::W) | Special::Ctaid(Axis::W) => Uniform(|_| 0),
        Special::Ntid(Axis::W) | Special::Nctaid(Axis::W) => Uniform(|_| 1),
        Special::Tid(a) => Tid(axis(a)?),
        Special::Ntid(Axis::X) => Uniform(|l| l.env.block[0].into()),
        Special::Ntid(Axis::Y) => Uniform(|l| l.env.block[1].into()),
        Special::Ntid(Axis::Z) => Uniform(|l| l.env.block[2].into()),
        // Every block is a cluster of its own.
        Special::Ctaid(Axis::X) | Special::Clusterid(Axis::X) => Uniform(|l| l.block.id[0].into()),
        Special::Ctaid(Axis::Y) | Special::Clusterid(Axis::Y) => Uniform(|l| l.block.id[1].into()),
        Special::Ctaid(Axis::Z) | Special::Clusterid(Axis::Z) => Uniform(|l| l.block.id[2].into()),
        Special::Nctaid(Axis::X) | Special::Nclusterid(Axis::X) => Uniform(|l| l.env.grid[0].into()),
        Special::Nctaid(Axis::Y) | Special::Nclusterid(Axis::Y) => Uniform(|l| l.env.grid[1].into()),
        Special::Nctaid(Axis::Z) | Special::Nclusterid(Axis::Z) => Uniform(|l| l.env.grid[2].into()),
        Special::ClusterCtaid(_) | Special::ClusterCtarank | Special::Clusterid(Axis::W) => Uniform(|_| 0),
        Special::ClusterNctaid(_) | Special::ClusterNctarank | Special::Nclusterid(Axis::W) => Uniform(|_| 1),
        Special::IsExplicitCluster => Uniform(|_| 0),
        Special::Laneid => PerLane(|_, lane| lane as u64),
        Special::Warpid => Uniform(|l| l.warp.index as u64),
        Special::Nwarpid => Uniform(|l| (l.env.card.threads_per_sm / 32).into()),
        Special::Smid => Uniform(|l| l.block.sm.into()),
        Special::Nsmid => Uniform(|l| l.env.card.sms.into()),
        Special::Gridid => Uniform(|l| l.env.launch.id()),
        Special::LanemaskEq => PerLane(|_, lane| lane_bits(lane, false, true, false)),
        Special::LanemaskLe => PerLane(|_, lane| lane_bits(lane, true, true, false)),
        Special::LanemaskLt => PerLane(|_, lane| lane_bits(lane, true, false, false)),
        Special::LanemaskGe => PerLane(|_, lane| lane_bits(lane, false, true, true)),
        Special::LanemaskGt => PerLane(|_, lane| lane_bits(lane, false, false, true)),
        // Clocks count the warp's own instructions: the same for every seed, and they always advance.
        Special::Clock | Special::Clock64 => Uniform(|l| l.warp.clock),
        Special::ClockHi => Uniform(|l| l.warp.clock >> 32),
        Special::Globaltimer | Special::GlobaltimerLo => Uniform(|l| l.warp.clock),
        Special::GlobaltimerHi => Uniform(|l| l.warp.clock >> 32),
        // Where cooperative groups find the workspace of the grid; the other registers are the driver's own.
        Special::Env(1) => Uniform(|l| l.env.grid_workspace >> 32),
        Special::Env(2) => Uniform(|l| l.env.grid_workspace & 0xffff_ffff),
        Special::DynamicSmemSize => Uniform(|l| l.env.dynamic_shared.into()),
        Special::TotalSmemSize | Special::AggrSmemSize => Uniform(|l| {
            (l.env.shared_bytes() + l.env.card.shared_reserved as usize).next_multiple_of(128) as u64
        }),
        _ => return None,
    })
}

/// Puts a special register's value into a register.
pub(crate) fn fetch(l: &Lower<'_>, special: Special, target: Source) -> LoadResult<Act> {
    let read = read(special).ok_or_else(|| {
        l.unsupported(&format!("special register {special:?} means nothing on this machine"))
    })?;
    Ok(Box::new(move |l, mask| {
        if let Source::B32(reg) = target
            && let Some(slot) = l.frame.regs.b32.get_mut(reg)
        {
            // The usual case, without a detour over 64 bits where that can be.
            if let Read::Tid(axis) = read {
                blend(Some(slot), &l.warp.tid[axis], mask);
                return Ok(Flow::Next);
            }
        }
        let values: [u64; WARP] = match &read {
            Read::Uniform(f) => [f(l); WARP],
            Read::PerLane(f) => std::array::from_fn(|lane| f(l, lane)),
            Read::Tid(axis) => l.warp.tid[*axis].map(u64::from),
        };
        match target {
            Source::B32(reg) => blend(l.frame.regs.b32.get_mut(reg), &values.map(|v| v as u32), mask),
            Source::B64(reg) => blend(l.frame.regs.b64.get_mut(reg), &values, mask),
            _ => lanes(mask).for_each(|lane| l.frame.set(target, lane, values[lane].into())),
        }
        Ok(Flow::Next)
    }))
}

/// Puts the address of a local variable, in local space, into a register.
pub(crate) fn local_address(target: Source, offset: u64) -> Act {
    Box::new(move |l, mask| {
        let address = (l.frame.local.0 as u64).wrapping_add(offset);
        lanes(mask).for_each(|lane| l.frame.set(target, lane, address.into()));
        Ok(Flow::Next)
    })
}

/// `mov`: special registers and local addresses straight into the target, everything else by the register unit.
pub(crate) fn mov(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    let target = match l.operands().first() {
        Some(&Operand::Reg(reg)) => Some(reg),
        _ => None,
    };
    match (target, l.operand(1)?) {
        (Some(reg), Operand::Special(special)) => {
            let bits = match reg.class {
                RegClass::B64 => 64,
                RegClass::B32 => 32,
                RegClass::Pred => 1,
                _ => 0,
            };
            // `mov.u32 %r, %clock64` is not PTX, but a 64-bit register takes a 32-bit one by `mov.u64` of old.
            if bits < special.bits() {
                return Err(l.error(format!("the register is too narrow for {special:?}")));
            }
            Ok((Op::Act(fetch(l, special, of_register(reg))?), Class::Move))
        }
        (Some(reg), Operand::Symbol(symbol, offset)) => match l.symbol(symbol)? {
            (Base::Local, at) => {
                Ok((Op::Act(local_address(of_register(reg), at.wrapping_add(offset as u64))), Class::Move))
            }
            _ => {
                let value = l.resolved(Operand::Symbol(symbol, offset))?;
                l.instruction.operands[1] = value;
                l.registers_only()
            }
        },
        (_, Operand::Vector(parts)) => {
            let parts = parts.iter().map(|part| l.resolved(part.clone())).collect::<LoadResult<_>>()?;
            l.instruction.operands[1] = Operand::Vector(parts);
            l.registers_only()
        }
        _ => l.registers_only(),
    }
}
