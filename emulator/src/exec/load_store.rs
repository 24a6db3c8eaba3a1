//! Loads, stores, prefetches, and conversions of addresses.

use super::atomic::is_dead;
use super::counters::Class;
use super::env::{LOCAL_WINDOW, PARAM_WINDOW, RETURNS_AT, SHARED_WINDOW};
use super::fault::FaultKind;
use super::fence::SCOPES;
use super::lower::{Base, LoadResult, Lower, of_register};
use super::program::{Flow, Op, Source};
use super::spaces::{Doing, Touch, addresses, space_of};
use super::warp::{Lanes, lanes};
use crate::memory::{Order, Scope, WARP, Width};
use crate::ptx::{Operand, RegClass, Space, Type};

/// Where the spaces begin in generic addressing; global and constant addresses are generic ones already.
const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("const", Space::Const),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("param::func", Space::Param),
];

/// Cache operators and hints: they change when bytes move, never which.
fn is_hint(name: &str) -> bool {
    const HINTS: &[&str] = &[
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "wb",
        "wt",
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::evict_normal",
        "L2::evict_first",
        "L2::evict_last",
        "L2::cache_hint",
        "L2::64B",
        "L2::128B",
        "L2::256B",
        "evict_normal",
        "evict_last",
    ];
    HINTS.contains(&name)
}

impl Lower<'_> {
    /// Takes the state space; none means generic.
    pub fn space(&mut self) -> LoadResult<Option<Space>> {
        match self.has("shared::cluster") {
            true => Err(self.unsupported("other blocks' shared memory is not built yet")),
            false => Ok(self.pick_of(SPACES)),
        }
    }

    /// Takes `.relaxed.gpu` and the like.
    pub fn order(&mut self, orders: &[(&str, Order)], default: Order) -> (Order, Scope) {
        let order = self.pick_of(orders).unwrap_or(default);
        (order, self.pick_of(SCOPES).unwrap_or(Scope::Gpu))
    }

    /// Whether accesses of this order and space may tell one block about another.
    pub fn note_order(&mut self, space: Option<Space>, order: Order) {
        let strong = order != Order::Weak && order != Order::NonCoherent;
        self.communicates |= strong && matches!(space, None | Some(Space::Global));
    }
}

/// A load's or store's registers: one for each component of the vector, none for a sink.
struct Moved {
    parts: Vec<Option<Source>>,
    /// Bytes of one component.
    size: usize,
    signed: bool,
    width: Width,
}

fn moved(l: &mut Lower<'_>, at: usize) -> LoadResult<Moved> {
    let ty = l.ty()?;
    let count = l.pick_of(&[("v2", 2), ("v4", 4), ("v8", 8)]);
    let part = |l: &Lower<'_>, operand: &Operand| match operand {
        Operand::Sink => Ok(None),
        operand => l.any(operand).map(Some),
    };
    let parts = match l.operand(at)? {
        Operand::Vector(list) => {
            list.iter().map(|operand| part(l, operand)).collect::<LoadResult<Vec<_>>>()?
        }
        operand => vec![part(l, &operand)?],
    };
    let size = ty.size() as usize;
    let width = Width::from_bytes(size * parts.len());
    let (Some(width), true) = (width, parts.len() == count.unwrap_or(1)) else {
        return Err(l.error("the operand does not fit the vector, or it is wider than 16 bytes"));
    };
    for source in parts.iter().flatten() {
        let bits = match source {
            Source::Pred(..) => 0,
            Source::B16(_) => 16,
            Source::B32(_) => 32,
            Source::B64(_) => 64,
            Source::B128(_) | Source::Constant(_) => 128,
        };
        if bits < size * 8 {
            return Err(l.error("a register is too narrow"));
        }
    }
    let signed = matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64);
    Ok(Moved { parts, size, signed, width })
}

/// The cache policy operand, which must be a 64-bit register.
fn policy(l: &mut Lower<'_>, at: usize) -> LoadResult<()> {
    if l.has("L2::cache_hint") {
        l.source(at, RegClass::B64)?;
    }
    Ok(())
}

const LOADS: &[(&str, Order)] = &[
    ("weak", Order::Weak),
    ("volatile", Order::Volatile),
    ("relaxed", Order::Relaxed),
    ("acquire", Order::Acquire),
    ("nc", Order::NonCoherent),
];
const STORES: &[(&str, Order)] = &[
    ("weak", Order::Weak),
    ("volatile", Order::Volatile),
    ("relaxed", Order::Relaxed),
    ("release", Order::Release),
];

/// `ld`, `ldu`
pub(crate) fn load(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    if l.has("mmio") {
        return Err(l.unsupported("there is no memory-mapped hardware"));
    }
    let space = l.space()?;
    let (order, scope) = l.order(LOADS, Order::Weak);
    l.note_order(space, order);
    policy(l, 2)?;
    l.ignore(is_hint);
    let moved = moved(l, 0)?;
    let address = l.address(1)?;
    let touch = Touch { space, width: moved.width, order, scope };
    if let (Some(Space::Param), true, Base::Constant) = (space, l.function.entry, address.base)
        && usize::try_from(address.offset).is_ok_and(|at| at + moved.width.bytes() <= PARAMETERS)
    {
        return Ok((parameter(moved, address.offset as usize), Class::Load));
    }
    let run = Op::Act(Box::new(move |l, mask| {
        let mut at = addresses(l, address);
        l.touch(touch, &mut at, mask, Doing::Load)?;
        for (index, part) in moved.parts.iter().enumerate() {
            if let Some(target) = *part {
                unpack(l, target, index, &moved, mask);
            }
        }
        Ok(Flow::Next)
    }));
    Ok((run, Class::Load))
}

/// Addresses below this are parameters, above it results and arguments of calls.
const PARAMETERS: usize = RETURNS_AT as usize;

/// A load of a kernel's parameter: the same for all lanes.
fn parameter(moved: Moved, at: usize) -> Op {
    Op::Act(Box::new(move |l, mask| {
        for (index, part) in moved.parts.iter().enumerate() {
            let Some(target) = *part else { continue };
            let (start, size) = (at + index * moved.size, moved.size);
            let Some(bytes) = l.env.params.get(start..start + size) else {
                let detail = format!("{size} bytes at {start:#x} of the parameter area");
                return Err(l.fault(FaultKind::OutOfBounds, mask.trailing_zeros() as usize, detail));
            };
            let mut wide = [0; 16];
            wide[..size].copy_from_slice(bytes);
            let value = extend(u128::from_le_bytes(wide), size, moved.signed);
            let regs = &mut l.frame.regs;
            match target {
                Source::B32(reg) => blend(regs.b32.get_mut(reg), &[value as u32; WARP], mask),
                Source::B64(reg) => blend(regs.b64.get_mut(reg), &[value as u64; WARP], mask),
                _ => lanes(mask).for_each(|lane| l.frame.set(target, lane, value)),
            }
        }
        Ok(Flow::Next)
    }))
}

/// The low `size` bytes as a value of a wider register.
fn extend(value: u128, size: usize, signed: bool) -> u128 {
    let shift = 128 - 8 * size as u32;
    if signed { ((value << shift) as i128 >> shift) as u128 } else { value }
}

/// Takes one component of every lane's bytes to its register.
fn unpack(l: &mut Lanes<'_>, target: Source, index: usize, moved: &Moved, mask: u32) {
    let (bytes, regs) = (&l.block.bytes, &mut l.frame.regs);
    match (moved.size, target) {
        (4, Source::B32(reg)) => blend(regs.b32.get_mut(reg), &bytes.get_u32(moved.width, index), mask),
        (8, Source::B64(reg)) => blend(regs.b64.get_mut(reg), &bytes.get_u64(moved.width, index), mask),
        (2, Source::B16(reg)) => blend(regs.b16.get_mut(reg), &bytes.get_u16(moved.width, index), mask),
        (16, Source::B128(reg)) => blend(regs.b128.get_mut(reg), &bytes.get_u128(moved.width, index), mask),
        _ => {
            // Wider registers: the value is extended as its type says.
            let (size, signed) = (moved.size, moved.signed);
            for lane in lanes(mask) {
                let mut wide = [0; 16];
                let found = l.block.bytes.lane(moved.width, lane).get(index * size..(index + 1) * size);
                wide[..size].copy_from_slice(found.unwrap_or(&[0; 16][..size]));
                l.frame.set(target, lane, extend(u128::from_le_bytes(wide), size, signed));
            }
        }
    }
}

/// Writes the lanes in `mask` of a register.
pub(crate) fn blend<T: Copy>(target: Option<&mut [T; WARP]>, values: &[T; WARP], mask: u32) {
    match target {
        Some(target) if mask == u32::MAX => *target = *values,
        Some(target) => {
            for lane in 0..WARP {
                target[lane] = if mask >> lane & 1 != 0 { values[lane] } else { target[lane] };
            }
        }
        None => {}
    }
}

/// `st`
pub(crate) fn store(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    if l.has("mmio") || l.has("async") {
        return Err(l.unsupported("not built yet"));
    }
    let space = l.space()?;
    if space == Some(Space::Const) {
        return Err(l.error("constants cannot be written"));
    }
    let (order, scope) = l.order(STORES, Order::Weak);
    l.note_order(space, order);
    policy(l, 2)?;
    l.ignore(is_hint);
    let moved = moved(l, 1)?;
    let address = l.address(0)?;
    let touch = Touch { space, width: moved.width, order, scope };
    let run = Op::Act(Box::new(move |l, mask| {
        for (index, part) in moved.parts.iter().enumerate() {
            if let Some(source) = *part {
                pack(l, source, index, &moved);
            }
        }
        let mut at = addresses(l, address);
        l.touch(touch, &mut at, mask, Doing::Store)?;
        Ok(Flow::Next)
    }));
    Ok((run, Class::Store))
}

/// Puts one component of every lane's value into the bytes.
fn pack(l: &mut Lanes<'_>, source: Source, index: usize, moved: &Moved) {
    let (bytes, regs) = (&mut l.block.bytes, &l.frame.regs);
    match (moved.size, source) {
        (4, Source::B32(reg)) => bytes.put_u32(moved.width, index, regs.b32.get(reg).unwrap_or(&[0; WARP])),
        (8, Source::B64(reg)) => bytes.put_u64(moved.width, index, regs.b64.get(reg).unwrap_or(&[0; WARP])),
        (2, Source::B16(reg)) => bytes.put_u16(moved.width, index, regs.b16.get(reg).unwrap_or(&[0; WARP])),
        (size, source) => {
            let values: [u128; WARP] = std::array::from_fn(|lane| l.frame.wide(source, lane));
            match size {
                1 => bytes.put_u8(moved.width, index, &values.map(|v| v as u8)),
                2 => bytes.put_u16(moved.width, index, &values.map(|v| v as u16)),
                4 => bytes.put_u32(moved.width, index, &values.map(|v| v as u32)),
                8 => bytes.put_u64(moved.width, index, &values.map(|v| v as u64)),
                _ => bytes.put_u128(moved.width, index, &values),
            }
        }
    }
}

/// `prefetch`, `prefetchu`, `discard`: nothing moves, but the address must be one.
pub(crate) fn prefetch(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    if l.has("tensormap") {
        return Err(l.unsupported("tensor maps are not built yet"));
    }
    if l.opcode() == "discard" {
        return Err(l.unsupported("it makes memory undefined"));
    }
    let space = l.space()?;
    l.pick(&["L1", "L2", "L2::evict_last", "L2::evict_normal"])?;
    let address = l.address(0)?;
    let run = Op::Act(Box::new(move |l, mask| {
        let at = addresses(l, address);
        for lane in lanes(mask) {
            let global =
                !matches!(space, None | Some(Space::Global)) || space_of(at[lane]).0 != Space::Global;
            if !global && l.env.memory.find(at[lane]).is_none() {
                let detail = format!("prefetch of {:#x}", at[lane]);
                return Err(l.fault(FaultKind::OutOfBounds, lane, detail));
            }
        }
        Ok(Flow::Next)
    }));
    Ok((run, Class::Load))
}

fn window(space: Space) -> u64 {
    match space {
        Space::Global | Space::Const => 0,
        Space::Shared => SHARED_WINDOW.start,
        Space::Local => LOCAL_WINDOW.start,
        Space::Param => PARAM_WINDOW.start,
    }
}

/// `cvta.space` and `cvta.to.space`
pub(crate) fn cvta(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    let to = l.has("to");
    let space = l.space()?.ok_or_else(|| l.error("a space is missing"))?;
    if l.ty()? != Type::U64 {
        return Err(l.unsupported("addresses have 64 bits"));
    }
    let target = l.register(0, RegClass::B64)? as usize;
    let source = l.source(1, RegClass::B64)?;
    let start = window(space);
    let shift = if to { start.wrapping_neg() } else { start };
    let run = Op::Act(Box::new(move |l, mask| {
        let regs = &mut l.frame.regs;
        let from = match source {
            Source::B64(reg) => regs.b64.get(reg).copied().unwrap_or_default(),
            Source::Constant(value) => [value; WARP],
            _ => [0; WARP],
        };
        blend(regs.b64.get_mut(target), &from.map(|address| address.wrapping_add(shift)), mask);
        Ok(Flow::Next)
    }));
    Ok((run, Class::Convert))
}

/// `isspacep.space`
pub(crate) fn isspacep(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    let space = l.space()?.ok_or_else(|| l.error("a space is missing"))?;
    let target =
        of_register(crate::ptx::Reg { class: RegClass::Pred, index: l.register(0, RegClass::Pred)? });
    let source = l.source(1, RegClass::B64)?;
    let run = Op::Act(Box::new(move |l, mask| {
        for lane in lanes(mask) {
            let address = l.frame.value(source, lane);
            let constant = l.env.constants.iter().any(|range| range.contains(&address));
            let found = match space_of(address).0 {
                Space::Global if constant => Space::Const,
                found => found,
            };
            l.frame.set(target, lane, (found == space).into());
        }
        Ok(Flow::Next)
    }));
    Ok((run, Class::Compare))
}

/// Whether nothing reads what operand 0 receives.
pub(crate) fn result_unused(l: &Lower<'_>) -> bool {
    match l.operands().first() {
        Some(&Operand::Reg(reg)) => is_dead(l, reg),
        Some(Operand::Sink) => true,
        _ => false,
    }
}
