//! Instructions that lanes of a warp execute together: shuffles, votes, matches, reductions, elections, `bar.warp.sync`.
//!
//! The member mask must name the executing lane; every lane it names must come to the same instruction with the same
//! mask. Lanes that are elsewhere are waited for; lanes that have exited are reported. Lanes that never existed (the last
//! warp of a block) are left out, as the hardware does, unless a shuffle reads from one.

use super::counters::Class;
use super::fault::{FaultKind, Stop};
use super::lower::{LoadResult, Lower, of_register};
use super::program::{Flow, Op, Source};
use super::warp::{Lanes, lanes};
use crate::memory::WARP;
use crate::ptx::{Operand, Reg, RegClass};

/// The sets of lanes that act together; none if lanes are still to come.
fn teams(l: &Lanes<'_>, mask: u32, members: Source) -> Result<Option<Vec<u32>>, Stop> {
    let mut teams = Vec::with_capacity(1);
    let mut left = mask;
    while let Some(first) = lanes(left).next() {
        let named = l.frame.value(members, first) as u32;
        let same = lanes(mask).filter(|&lane| l.frame.value(members, lane) as u32 == named);
        let team = same.fold(0, |team, lane| team | 1 << lane);
        if let Some(lane) = lanes(team & !named).next() {
            let detail = format!("lane {lane} is not in its own member mask {named:#010x}");
            return Err(l.fault(FaultKind::MissingLanes, lane, detail));
        }
        let wanted = named & l.warp.exists;
        let gone = wanted & !l.warp.live;
        if gone != 0 {
            let detail = format!("the member mask {named:#010x} names lanes that have exited: {gone:#010x}");
            return Err(l.fault(FaultKind::MissingLanes, first, detail));
        }
        let other = wanted & mask & !team;
        if let Some(lane) = lanes(other).next() {
            let theirs = l.frame.value(members, lane) as u32;
            let detail = format!("lane {first} names {named:#010x}, lane {lane} in it names {theirs:#010x}");
            return Err(l.fault(FaultKind::MissingLanes, first, detail));
        }
        if wanted != team {
            return Ok(None);
        }
        teams.push(team);
        left &= !team;
    }
    Ok(Some(teams))
}

/// An instruction whose teams act on their own.
fn together(
    members: Source,
    class: Class,
    act: impl Fn(&mut Lanes<'_>, u32) -> Result<(), Stop> + Send + Sync + 'static,
) -> LoadResult<(Op, Class)> {
    let run = Op::Act(Box::new(move |l, mask| {
        let Some(teams) = teams(l, mask, members)? else { return Ok(Flow::Gather) };
        for team in teams {
            act(l, team)?;
        }
        Ok(Flow::Next)
    }));
    Ok((run, class))
}

impl Lower<'_> {
    /// `d` or `d|p`.
    fn targets(&self, at: usize, class: RegClass) -> LoadResult<(Option<Source>, Option<Source>)> {
        let known = |reg: Option<Reg>| reg.map(of_register);
        match self.operand(at)? {
            Operand::Pair(d, p) if d.is_none_or(|d| d.class == class) => Ok((known(d), known(p))),
            Operand::Reg(d) if d.class == class => Ok((known(Some(d)), None)),
            Operand::Sink => Ok((None, None)),
            _ => Err(self.error(format!("operand {} must be a register of class {class:?}", at + 1))),
        }
    }
}

fn give(l: &mut Lanes<'_>, team: u32, target: Option<Source>, value: u128) {
    if let Some(target) = target {
        lanes(team).for_each(|lane| l.frame.set(target, lane, value));
    }
}

/// `activemask.b32`
pub(crate) fn activemask(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.pick(&["b32"])?;
    let target = l.source(0, RegClass::B32)?;
    let run = Op::Act(Box::new(move |l, mask| {
        give(l, mask, Some(target), mask.into());
        Ok(Flow::Next)
    }));
    Ok((run, Class::Warp))
}

/// `elect.sync d|p, members`: the lowest lane is elected.
pub(crate) fn elect(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.pick(&["sync"])?;
    let (d, p) = l.targets(0, RegClass::B32)?;
    let members = l.source(1, RegClass::B32)?;
    together(members, Class::Warp, move |l, team| {
        let leader = team.trailing_zeros();
        give(l, team, d, leader.into());
        give(l, team, p, 0);
        give(l, 1 << leader, p, 1);
        Ok(())
    })
}

/// `shfl.sync.mode.b32 d|p, a, b, c, members`
pub(crate) fn shuffle(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.pick(&["sync"])?;
    let mode = l.pick(&["up", "down", "bfly", "idx"])?;
    l.pick(&["b32"])?;
    let (d, p) = l.targets(0, RegClass::B32)?;
    let (a, b) = (l.source(1, RegClass::B32)?, l.source(2, RegClass::B32)?);
    let (c, members) = (l.source(3, RegClass::B32)?, l.source(4, RegClass::B32)?);
    together(members, Class::Warp, move |l, team| {
        let values: [u32; WARP] = std::array::from_fn(|lane| l.frame.value(a, lane) as u32);
        for lane in lanes(team) {
            let b = (l.frame.value(b, lane) & 31) as i32;
            let c = l.frame.value(c, lane);
            let (clamp, segment) = ((c & 31) as i32, (c >> 8 & 31) as i32);
            let own = lane as i32;
            let (low, high) = (own & segment, own & segment | clamp & !segment);
            let (from, inside) = match mode {
                "up" => (own - b, own - b >= high),
                "down" => (own + b, own + b <= high),
                "bfly" => (own ^ b, own ^ b <= high),
                _ => (low | b & !segment, low | b & !segment <= high),
            };
            let from = if inside { from } else { own } as usize % WARP;
            if team >> from & 1 == 0 {
                let detail = format!("lane {lane} reads from lane {from}, which takes no part");
                return Err(l.fault(FaultKind::MissingLanes, lane, detail));
            }
            if let Some(d) = d {
                l.frame.set(d, lane, values[from].into());
            }
            if let Some(p) = p {
                l.frame.set(p, lane, inside.into());
            }
        }
        Ok(())
    })
}

/// `vote.sync.all|any|uni.pred` and `vote.sync.ballot.b32`
pub(crate) fn vote(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.pick(&["sync"])?;
    let mode = l.pick(&["all", "any", "uni", "ballot"])?;
    let ballot = mode == "ballot";
    l.pick(if ballot { &["b32"] } else { &["pred"] })?;
    let target = l.source(0, if ballot { RegClass::B32 } else { RegClass::Pred })?;
    let (a, members) = (l.predicate(1)?, l.source(2, RegClass::B32)?);
    together(members, Class::Warp, move |l, team| {
        let holds = lanes(team).filter(|&lane| l.frame.value(a, lane) != 0);
        let holds = holds.fold(0u32, |mask, lane| mask | 1 << lane);
        let value = match mode {
            "all" => (holds == team).into(),
            "any" => (holds != 0).into(),
            "uni" => (holds == 0 || holds == team).into(),
            _ => holds,
        };
        give(l, team, Some(target), value.into());
        Ok(())
    })
}

/// `match.any.sync` and `match.all.sync`
pub(crate) fn matching(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.pick(&["sync"])?;
    let all = l.pick(&["any", "all"])? == "all";
    let class = if l.pick(&["b32", "b64"])? == "b64" { RegClass::B64 } else { RegClass::B32 };
    let (d, p) = l.targets(0, RegClass::B32)?;
    let (a, members) = (l.source(1, class)?, l.source(2, RegClass::B32)?);
    together(members, Class::Warp, move |l, team| {
        let values: [u64; WARP] = std::array::from_fn(|lane| l.frame.value(a, lane));
        let equal = |lane: usize| {
            let same = lanes(team).filter(|&other| values[other] == values[lane]);
            same.fold(0u32, |mask, other| mask | 1 << other)
        };
        if all {
            let agree = equal(team.trailing_zeros() as usize % WARP) == team;
            give(l, team, d, if agree { team.into() } else { 0 });
            give(l, team, p, agree.into());
        } else {
            lanes(team).for_each(|lane| give(l, 1 << lane, d, equal(lane).into()));
        }
        Ok(())
    })
}

/// `redux.sync`
pub(crate) fn redux(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    type Fold = fn(u32, u32) -> u32;
    const TABLE: &[(&str, &[&str], Fold)] = &[
        ("add", &["u32", "s32"], u32::wrapping_add),
        ("min", &["u32"], |a, b| a.min(b)),
        ("max", &["u32"], |a, b| a.max(b)),
        ("min", &["s32"], |a, b| (a as i32).min(b as i32) as u32),
        ("max", &["s32"], |a, b| (a as i32).max(b as i32) as u32),
        ("and", &["b32"], |a, b| a & b),
        ("or", &["b32"], |a, b| a | b),
        ("xor", &["b32"], |a, b| a ^ b),
    ];
    l.pick(&["sync"])?;
    let operation = l.pick(&["add", "min", "max", "and", "or", "xor"])?;
    let ty = l.last()?;
    let row = TABLE.iter().find(|(name, types, _)| *name == operation && types.contains(&ty));
    let &(.., fold) = row.ok_or_else(|| l.unsupported(&format!("{operation} of {ty}")))?;
    let target = l.source(0, RegClass::B32)?;
    let (a, members) = (l.source(1, RegClass::B32)?, l.source(2, RegClass::B32)?);
    together(members, Class::Warp, move |l, team| {
        let value = lanes(team).map(|lane| l.frame.value(a, lane) as u32).reduce(fold).unwrap_or(0);
        give(l, team, Some(target), value.into());
        Ok(())
    })
}

/// `bar.warp.sync members`: lanes may meet at different instructions, and those that have exited are not waited for.
pub(crate) fn warp_barrier(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.pick(&["sync"])?;
    let members = l.source(0, RegClass::B32)?;
    let run = Op::Act(Box::new(move |l, mask| {
        let first = mask.trailing_zeros() as usize % WARP;
        let named = l.frame.value(members, first) as u32;
        if lanes(mask).all(|lane| l.frame.value(members, lane) as u32 == named) {
            if let Some(lane) = lanes(mask & !named).next() {
                let detail = format!("lane {lane} is not in its own member mask {named:#010x}");
                return Err(l.fault(FaultKind::MissingLanes, lane, detail));
            }
            if named & l.warp.live == mask {
                l.block.clock.sync_warp(l.warp.index, mask);
                return Ok(Flow::Next);
            }
            return Ok(Flow::WarpSync(named));
        }
        let Some(teams) = teams(l, mask, members)? else { return Ok(Flow::Gather) };
        for team in teams {
            l.block.clock.sync_warp(l.warp.index, team);
        }
        Ok(Flow::Next)
    }));
    Ok((run, Class::Barrier))
}
