//! Fences, and what only takes time.

use super::counters::Class;
use super::lower::{LoadResult, Lower};
use super::program::{Flow, Op};
use crate::memory::Scope;
use crate::ptx::{Operand, RegClass};

pub(crate) const SCOPES: &[(&str, Scope)] =
    &[("cta", Scope::Cta), ("cluster", Scope::Cluster), ("gpu", Scope::Gpu), ("sys", Scope::Sys)];

/// `membar.cta|gl|sys` and `fence[.sc|.acq_rel|.acquire|.release].scope`.
pub(crate) fn lower(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    if l.has("proxy") || l.has("mbarrier_init") {
        return Err(l.unsupported("proxies are not built yet"));
    }
    let scope = match l.opcode() {
        "membar" => l.pick_of(&[("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Sys)]),
        // All are taken as acq_rel: the happens-before check has no weaker and no stronger one.
        _ => {
            l.pick_of(&[("sc", ()), ("acq_rel", ()), ("acquire", ()), ("release", ())]);
            l.pick_of(SCOPES)
        }
    };
    let scope = scope.ok_or_else(|| l.error("a scope is missing"))?;
    let run = Op::Act(Box::new(move |l, mask| {
        l.block.clock.fence(l.warp.index, mask, scope);
        Ok(Flow::Next)
    }));
    Ok((run, Class::Fence))
}

/// `nanosleep`: says that the warp waits for somebody.
pub(crate) fn nanosleep(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.ty()?;
    l.source(0, RegClass::B32)?;
    let run = Op::Act(Box::new(|l, _| {
        l.warp.spin += l.env.patience / 4;
        Ok(Flow::Next)
    }));
    Ok((run, Class::Other))
}

/// `griddepcontrol.launch_dependents` and `.wait`: launches run one after the other here.
pub(crate) fn griddepcontrol(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.pick(&["launch_dependents", "wait"])?;
    Ok((Op::Nop, Class::Other))
}

/// `pmevent`: nobody counts performance events here.
pub(crate) fn pmevent(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.has("mask");
    match l.operand(0)? {
        Operand::Int(_) => Ok((Op::Nop, Class::Other)),
        _ => Err(l.error("the event must be a constant")),
    }
}
