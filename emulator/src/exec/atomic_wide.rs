//! `atom` and `red` of vectors, element by element, and of 128 bits.

use super::atomic::{Rule, f32_flushing_add, rule};
use super::counters::Class;
use super::fault::FaultKind;
use super::lower::{LoadResult, Lower};
use super::program::{Flow, Op, Source};
use super::spaces::{Doing, Touch, addresses, space_of};
use super::warp::lanes;
use crate::memory::{WARP, Width};
use crate::ptx::{Operand, RegClass, Space};
use half::{bf16, f16};

type Convert = fn(u16) -> f32;

/// The lesser or, if `greater`, the greater; a NaN only if both are. Zeros are ordered by their signs.
fn extreme(a: u64, b: u64, wide: Convert, greater: bool) -> u64 {
    let (x, y) = (wide(a as u16), wide(b as u16));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => 0x7fff,
        (true, _) => b & 0xffff,
        (_, true) => a & 0xffff,
        _ => {
            let less = x < y || x == y && x.is_sign_negative();
            (if less != greater { a } else { b }) & 0xffff
        }
    }
}

/// Both halves of a pair, or the one that there is.
fn each(a: u64, b: u64, wide: Convert, greater: bool) -> u64 {
    extreme(a, b, wide, greater) | extreme(a >> 16, b >> 16, wide, greater) << 16
}

const F16: Convert = |bits| f16::from_bits(bits).to_f32();
const BF16: Convert = |bits| bf16::from_bits(bits).to_f32();

/// What scalars do not have. Operation, type, bytes, rule.
const EXTREMES: &[(&str, &str, usize, Rule)] = &[
    ("min", "f16", 2, |a, b, _| Some(extreme(a, b, F16, false))),
    ("max", "f16", 2, |a, b, _| Some(extreme(a, b, F16, true))),
    ("min", "bf16", 2, |a, b, _| Some(extreme(a, b, BF16, false))),
    ("max", "bf16", 2, |a, b, _| Some(extreme(a, b, BF16, true))),
    ("min", "f16x2", 4, |a, b, _| Some(each(a, b, F16, false))),
    ("max", "f16x2", 4, |a, b, _| Some(each(a, b, F16, true))),
    ("min", "bf16x2", 4, |a, b, _| Some(each(a, b, BF16, false))),
    ("max", "bf16x2", 4, |a, b, _| Some(each(a, b, BF16, true))),
];

impl Lower<'_> {
    fn since_sm_90(&self) -> LoadResult<()> {
        match self.module.target.arch {
            90.. => Ok(()),
            arch => Err(self.error(format!("it needs .target sm_90 or higher, this is sm_{arch}"))),
        }
    }
}

/// The registers of a vector operand.
fn parts(l: &Lower<'_>, at: usize, count: usize, class: RegClass) -> LoadResult<Vec<Option<Source>>> {
    let Operand::Vector(list) = l.operand(at)? else {
        return Err(l.error(format!("operand {} must be a vector", at + 1)));
    };
    if list.len() != count {
        return Err(l.error(format!("operand {} has {} elements, not {count}", at + 1, list.len())));
    }
    let one = |operand: &Operand| match operand {
        Operand::Sink => Ok(None),
        Operand::Reg(reg) if reg.class == class => l.any(operand).map(Some),
        _ => Err(l.error(format!("operand {} must hold registers of class {class:?}", at + 1))),
    };
    list.iter().map(one).collect()
}

/// `atom.global.add.v4.f32 {d}, [a], {b}` and the like: each element is an atomic of its own.
pub(super) fn vector(
    l: &mut Lower<'_>,
    (operation, ty, count): (&'static str, &str, usize),
    mut touch: Touch,
) -> LoadResult<(Op, Class)> {
    l.since_sm_90()?;
    let returns = l.opcode() == "atom";
    if !matches!(touch.space, None | Some(Space::Global)) {
        return Err(l.error("vectors are for global memory"));
    }
    const FLOATS: [&str; 5] = ["f32", "f16", "bf16", "f16x2", "bf16x2"];
    let found = EXTREMES.iter().find(|(name, of, ..)| *name == operation && *of == ty);
    let found = found.map(|&(_, _, size, rule)| (size, rule));
    let sum = || rule(operation, ty).map(|(width, rule, _)| (width.bytes(), rule));
    let (size, rule) = found
        .or_else(|| sum().filter(|_| operation == "add" && FLOATS.contains(&ty)))
        .ok_or_else(|| l.unsupported(&format!("{operation} of vectors of {ty}")))?;
    let rule = if ty == "f32" { f32_flushing_add } else { rule };
    touch.width = Width::from_bytes(size * count)
        .filter(|_| count < 8 || size == 2)
        .ok_or_else(|| l.unsupported(&format!("{count} elements of {ty}")))?;
    let class = if size == 2 { RegClass::B16 } else { RegClass::B32 };
    let targets = if returns { parts(l, 0, count, class)? } else { Vec::new() };
    let address = l.address(usize::from(returns))?;
    let values = parts(l, usize::from(returns) + 1, count, class)?;
    let values = values.into_iter().collect::<Option<Vec<_>>>();
    let values = values.ok_or_else(|| l.error("a value is missing"))?;
    l.communicates = true;
    let run = Op::Act(Box::new(move |l, mask| {
        let mut at = addresses(l, address);
        let elsewhere = |&lane: &usize| touch.space.is_none() && space_of(at[lane]).0 != Space::Global;
        if let Some(lane) = lanes(mask).find(elsewhere) {
            let detail = format!("a vector atomic at {:#x}, which is not global memory", at[lane]);
            return Err(l.fault(FaultKind::WrongSpace, lane, detail));
        }
        let low = (1u128 << (8 * size)) - 1;
        let operands: [u128; WARP] = std::array::from_fn(|lane| {
            let element = |(index, &source): (usize, &Source)| {
                (u128::from(l.frame.value(source, lane)) & low) << (8 * size * index)
            };
            values.iter().enumerate().map(element).fold(0, |all, element| all | element)
        });
        let mut update = |lane: usize, old: u128| {
            let element = |index: usize| {
                let part = |all: u128| (all >> (8 * size * index) & low) as u64;
                let (old, value) = (part(old), part(operands[lane % WARP]));
                u128::from(rule(old, value, 0).unwrap_or(old)) << (8 * size * index)
            };
            Some((0..count).map(element).fold(0, |all, element| all | element))
        };
        l.touch(touch, &mut at, mask, Doing::Atomic(&mut update))?;
        for (index, target) in targets.iter().enumerate() {
            let Some(target) = *target else { continue };
            for lane in lanes(mask) {
                let old = l.block.bytes.lane(touch.width, lane);
                let mut wide = [0; 16];
                if let Some(old) = old.get(size * index..size * (index + 1)) {
                    wide[..size].copy_from_slice(old);
                }
                l.frame.set(target, lane, u128::from_le_bytes(wide));
            }
        }
        Ok(Flow::Next)
    }));
    Ok((run, Class::Atomic))
}

/// `atom.exch.b128 d, [a], b` and `atom.cas.b128 d, [a], b, c`
pub(super) fn b128(l: &mut Lower<'_>, operation: &'static str, mut touch: Touch) -> LoadResult<(Op, Class)> {
    l.since_sm_90()?;
    if l.opcode() != "atom" || !["exch", "cas"].contains(&operation) {
        return Err(l.unsupported(&format!("{operation} of b128")));
    }
    touch.width = Width::B16;
    let target = match l.operand(0)? {
        Operand::Sink => None,
        _ => Some(l.source(0, RegClass::B128)?),
    };
    let address = l.address(1)?;
    let b = l.source(2, RegClass::B128)?;
    let c = if operation == "cas" { Some(l.source(3, RegClass::B128)?) } else { None };
    l.communicates |= touch.space != Some(Space::Shared);
    let run = Op::Act(Box::new(move |l, mask| {
        let mut at = addresses(l, address);
        let operands: [(u128, Option<u128>); WARP] =
            std::array::from_fn(|lane| (l.frame.wide(b, lane), c.map(|c| l.frame.wide(c, lane))));
        let mut update = |lane: usize, old: u128| match operands[lane % WARP] {
            (new, None) => Some(new),
            (expected, Some(new)) => (old == expected).then_some(new),
        };
        l.touch(touch, &mut at, mask, Doing::Atomic(&mut update))?;
        if let Some(target) = target {
            let old = l.block.bytes.get_u128(Width::B16, 0);
            lanes(mask).for_each(|lane| l.frame.set(target, lane, old[lane]));
        }
        Ok(Flow::Next)
    }));
    Ok((run, Class::Atomic))
}
