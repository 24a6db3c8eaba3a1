//! `atom` and `red`: what is computed stands in a table.

use super::atomic_wide;
use super::counters::Class;
use super::load_store::result_unused;
use super::lower::{LoadResult, Lower};
use super::program::{Flow, Op, Source};
use super::spaces::{Doing, Touch, addresses};
use super::warp::lanes;
use crate::memory::{Order, WARP, Width};
use crate::ptx::{Base, Operand, Reg, RegClass, Space};
use half::{bf16, f16};

/// New value from the old one and the operands; none leaves it as it is.
pub(super) type Rule = fn(u64, u64, u64) -> Option<u64>;

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn canonical(value: f32) -> u64 {
    if value.is_nan() { 0x7fff_ffff } else { value.to_bits().into() }
}

/// Subnormals to zero, with their sign.
fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

/// A sum in global memory: subnormals are flushed.
pub(super) fn f32_flushing_add(a: u64, b: u64, _: u64) -> Option<u64> {
    Some(canonical(flush(flush(f32_of(a)) + flush(f32_of(b)))))
}

/// Width and rule of an operation on a type, and whether its order makes no difference.
pub(super) fn rule(operation: &str, ty: &str) -> Option<(Width, Rule, bool)> {
    let row = TABLE.iter().find(|(name, of, ..)| *name == operation && *of == ty);
    row.map(|&(_, _, width, rule, commutes)| (width, rule, commutes))
}

fn f16_add(a: u64, b: u64) -> u64 {
    // The sum of two halves rounded to 24 bits and then to 11 is the sum rounded once.
    let sum = f16::from_f32(f16::from_bits(a as u16).to_f32() + f16::from_bits(b as u16).to_f32());
    if sum.is_nan() { 0x7fff } else { sum.to_bits().into() }
}

fn bf16_add(a: u64, b: u64) -> u64 {
    let sum = bf16::from_f32(bf16::from_bits(a as u16).to_f32() + bf16::from_bits(b as u16).to_f32());
    if sum.is_nan() { 0x7fff } else { sum.to_bits().into() }
}

fn twice(f: fn(u64, u64) -> u64, a: u64, b: u64) -> u64 {
    f(a & 0xffff, b & 0xffff) | f(a >> 16 & 0xffff, b >> 16 & 0xffff) << 16
}

fn f64_add(a: u64, b: u64) -> u64 {
    let sum = f64::from_bits(a) + f64::from_bits(b);
    if sum.is_nan() { 0xfff8_0000_0000_0000 } else { sum.to_bits() }
}

/// Operation, type, bytes, rule, whether the order of many makes no difference to the final value.
const TABLE: &[(&str, &str, Width, Rule, bool)] = &[
    ("add", "u32", Width::B4, |a, b, _| Some((a as u32).wrapping_add(b as u32).into()), true),
    ("add", "s32", Width::B4, |a, b, _| Some((a as u32).wrapping_add(b as u32).into()), true),
    ("add", "u64", Width::B8, |a, b, _| Some(a.wrapping_add(b)), true),
    ("add", "s64", Width::B8, |a, b, _| Some(a.wrapping_add(b)), true),
    ("add", "f32", Width::B4, |a, b, _| Some(canonical(f32_of(a) + f32_of(b))), false),
    ("add", "f64", Width::B8, |a, b, _| Some(f64_add(a, b)), false),
    ("add", "f16", Width::B2, |a, b, _| Some(f16_add(a, b)), false),
    ("add", "bf16", Width::B2, |a, b, _| Some(bf16_add(a, b)), false),
    ("add", "f16x2", Width::B4, |a, b, _| Some(twice(f16_add, a, b)), false),
    ("add", "bf16x2", Width::B4, |a, b, _| Some(twice(bf16_add, a, b)), false),
    ("inc", "u32", Width::B4, |a, b, _| Some(if a >= b & 0xffff_ffff { 0 } else { a + 1 }), false),
    ("dec", "u32", Width::B4, |a, b, _| Some(if a == 0 || a > b & 0xffff_ffff { b } else { a - 1 }), false),
    ("min", "u32", Width::B4, |a, b, _| Some((a as u32).min(b as u32).into()), true),
    ("min", "s32", Width::B4, |a, b, _| Some((a as i32).min(b as i32) as u32 as u64), true),
    ("min", "u64", Width::B8, |a, b, _| Some(a.min(b)), true),
    ("min", "s64", Width::B8, |a, b, _| Some((a as i64).min(b as i64) as u64), true),
    ("max", "u32", Width::B4, |a, b, _| Some((a as u32).max(b as u32).into()), true),
    ("max", "s32", Width::B4, |a, b, _| Some((a as i32).max(b as i32) as u32 as u64), true),
    ("max", "u64", Width::B8, |a, b, _| Some(a.max(b)), true),
    ("max", "s64", Width::B8, |a, b, _| Some((a as i64).max(b as i64) as u64), true),
    ("and", "b32", Width::B4, |a, b, _| Some(a & b), true),
    ("and", "b64", Width::B8, |a, b, _| Some(a & b), true),
    ("or", "b32", Width::B4, |a, b, _| Some(a | b), true),
    ("or", "b64", Width::B8, |a, b, _| Some(a | b), true),
    ("xor", "b32", Width::B4, |a, b, _| Some(a ^ b), true),
    ("xor", "b64", Width::B8, |a, b, _| Some(a ^ b), true),
    ("exch", "b32", Width::B4, |_, b, _| Some(b), false),
    ("exch", "b64", Width::B8, |_, b, _| Some(b), false),
    ("cas", "b16", Width::B2, |a, b, c| (a == b & 0xffff).then_some(c), false),
    ("cas", "b32", Width::B4, |a, b, c| (a == b & 0xffff_ffff).then_some(c), false),
    ("cas", "b64", Width::B8, |a, b, c| (a == b).then_some(c), false),
];

const OPERATIONS: &[&str] = &["add", "inc", "dec", "min", "max", "and", "or", "xor", "exch", "cas"];
const ORDERS: &[(&str, Order)] = &[
    ("relaxed", Order::Relaxed),
    ("acquire", Order::Acquire),
    ("release", Order::Release),
    ("acq_rel", Order::AcqRel),
];

/// `atom` and `red`
pub(crate) fn lower(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    let returns = l.opcode() == "atom";
    if l.has("async") {
        return Err(l.unsupported("not built yet"));
    }
    let space = l.space()?;
    if !matches!(space, None | Some(Space::Global | Space::Shared)) {
        return Err(l.error("atomics work on global and shared memory"));
    }
    let (order, scope) = l.order(ORDERS, Order::Relaxed);
    let operation = l.pick(OPERATIONS)?;
    l.has("noftz");
    let count = l.pick_of(&[("v2", 2), ("v4", 4), ("v8", 8)]);
    let ty = l.last()?;
    if l.has("L2::cache_hint") {
        l.source(l.operands().len() - 1, RegClass::B64)?;
    }
    let touch = Touch { space, width: Width::B16, order, scope };
    if let Some(count) = count {
        return atomic_wide::vector(l, (operation, ty, count), touch);
    }
    if ty == "b128" {
        return atomic_wide::b128(l, operation, touch);
    }
    let (width, rule, commutes) =
        rule(operation, ty).ok_or_else(|| l.unsupported(&format!("{operation} of {ty}")))?;
    // Sums in shared memory keep subnormals, those in global memory do not.
    let flushes = operation == "add" && ty == "f32" && space != Some(Space::Shared);
    let rule = if flushes { f32_flushing_add } else { rule };
    let class = crate::ptx::Type::from_name(ty)
        .map_or(if width == Width::B2 { RegClass::B16 } else { RegClass::B32 }, |ty| ty.class());
    let first = usize::from(returns);
    let target = match l.operand(0)? {
        Operand::Reg(_) if returns => Some(l.source(0, class)?),
        _ => None,
    };
    let address = l.address(first)?;
    let b = l.source(first + 1, class)?;
    let c = if operation == "cas" { l.source(first + 2, class)? } else { Source::Constant(0) };
    let unseen = !returns || result_unused(l);
    let silent = unseen && commutes && order == Order::Relaxed;
    l.communicates |= space != Some(Space::Shared) && !silent;
    let touch = Touch { width, ..touch };
    let run = Op::Act(Box::new(move |l, mask| {
        let mut at = addresses(l, address);
        let operands: [[u64; 2]; WARP] =
            std::array::from_fn(|lane| [l.frame.value(b, lane), l.frame.value(c, lane)]);
        let mut update = |lane: usize, old: u128| {
            let [b, c] = operands[lane % WARP];
            rule(old as u64, b, c).map(u128::from)
        };
        l.touch(touch, &mut at, mask, Doing::Atomic(&mut update))?;
        if let Some(target) = target {
            for lane in lanes(mask) {
                let mut wide = [0; 16];
                wide[..width.bytes()].copy_from_slice(l.block.bytes.lane(width, lane));
                l.frame.set(target, lane, u128::from_le_bytes(wide));
            }
        }
        Ok(Flow::Next)
    }));
    Ok((run, Class::Atomic))
}

/// Whether the one place in the function that names `reg` is the instruction being lowered.
pub(crate) fn is_dead(l: &Lower<'_>, reg: Reg) -> bool {
    fn names(operand: &Operand, reg: Reg) -> usize {
        match operand {
            Operand::Reg(r) | Operand::Not(r) => usize::from(*r == reg),
            Operand::Pair(a, b) => usize::from(*a == Some(reg)) + usize::from(*b == Some(reg)),
            Operand::Address(address) => usize::from(address.base == Base::Reg(reg)),
            Operand::Vector(parts) | Operand::List(parts) => parts.iter().map(|part| names(part, reg)).sum(),
            Operand::Tensor(parts) => {
                usize::from(parts.0.base == Base::Reg(reg))
                    + parts.1.iter().map(|part| names(part, reg)).sum::<usize>()
            }
            _ => 0,
        }
    }
    let all = l.original.instructions.iter().flat_map(|instruction| instruction.operands.iter());
    let mut count = 0;
    for operand in all {
        count += names(operand, reg);
        if count > 1 {
            return false;
        }
    }
    true
}
