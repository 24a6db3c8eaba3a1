//! Bitwise operations and shifts.

use super::cx::{Cx, Result, Ty};
use super::lanes::{Lanes, put, put_bits};
use super::{Execute, LANES};
use crate::ptx::{Operand, RegClass};

/// The type at the end.
fn last(cx: &mut Cx) -> Result<Ty> {
    let ty = cx.ty()?;
    cx.finish()?;
    Ok(ty)
}

fn predicates(cx: &Cx, f: impl Fn(u32, u32) -> u32 + Send + Sync + 'static) -> Result<Execute> {
    cx.count(3)?;
    let (d, a, b) = (cx.predicate_target(0)?, cx.predicate(1)?, cx.predicate(2)?);
    Ok(Box::new(move |regs, mask| {
        let bits = f(a.lanes(regs), b.lanes(regs));
        put_bits(&mut regs.pred[d], bits, mask);
    }))
}

macro_rules! bitwise {
    ($name:ident, $op:tt) => {
        pub(super) fn $name(cx: &mut Cx) -> Result<Execute> {
            match last(cx)? {
                Ty::Pred => predicates(cx, |a, b| a $op b),
                Ty::B16 => cx.binary(|a: u16, b: u16| a $op b),
                Ty::B32 => cx.binary(|a: u32, b: u32| a $op b),
                Ty::B64 => cx.binary(|a: u64, b: u64| a $op b),
                ty => Err(cx.unsupported(ty)),
            }
        }
    };
}

bitwise!(and, &);
bitwise!(or, |);
bitwise!(xor, ^);

pub(super) fn not(cx: &mut Cx) -> Result<Execute> {
    match last(cx)? {
        Ty::Pred => {
            cx.count(2)?;
            let (d, a) = (cx.predicate_target(0)?, cx.predicate(1)?);
            Ok(Box::new(move |regs, mask| {
                let bits = !a.lanes(regs);
                put_bits(&mut regs.pred[d], bits, mask);
            }))
        }
        Ty::B16 => cx.unary(|a: u16| !a),
        Ty::B32 => cx.unary(|a: u32| !a),
        Ty::B64 => cx.unary(|a: u64| !a),
        ty => Err(cx.unsupported(ty)),
    }
}

/// C's `!`.
pub(super) fn cnot(cx: &mut Cx) -> Result<Execute> {
    match last(cx)? {
        Ty::B16 => cx.unary(|a: u16| u16::from(a == 0)),
        Ty::B32 => cx.unary(|a: u32| u32::from(a == 0)),
        Ty::B64 => cx.unary(|a: u64| u64::from(a == 0)),
        ty => Err(cx.unsupported(ty)),
    }
}

/// A function of three bits, by its table: bit `4a + 2b + c` of `table` is the result.
fn lookup(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let row = |at: u8| if table >> at & 1 != 0 { u32::MAX } else { 0 };
    let pick = |x: u32, one: u32, none: u32| x & one | !x & none;
    let half = |at: u8| pick(b, pick(c, row(at + 3), row(at + 2)), pick(c, row(at + 1), row(at)));
    pick(a, half(4), half(0))
}

/// `lop3.b32`, and `lop3.or.b32 d|p, a, b, c, table, q`, where `p` is `(d != 0) or q`.
pub(super) fn lop3(cx: &mut Cx) -> Result<Execute> {
    let and = cx.pick(&[("or", false), ("and", true)]);
    cx.flag("lut");
    cx.only(&[Ty::B32])?;
    cx.finish()?;
    cx.count(if and.is_some() { 6 } else { 5 })?;
    let table = match *cx.operand(4)? {
        Operand::Int(value @ 0..256) => value as u8,
        _ => return Err(cx.error("the table must be a constant from 0 to 255")),
    };
    let (d, p) = match (cx.operand(0)?, and) {
        (&Operand::Reg(d), None) => (Some(d), None),
        (&Operand::Pair(d, p), Some(_)) => (d, p),
        _ => return Err(cx.error("operand 1 must be a register, or d|p with .or and .and")),
    };
    let d = d.map(|d| cx.index(d, RegClass::B32)).transpose()?;
    let p = p.map(|p| cx.index(p, RegClass::Pred)).transpose()?;
    let q = and.map(|and| Ok((and, cx.predicate(5)?))).transpose()?;
    let (a, b, c) = (cx.source::<u32>(1)?, cx.source::<u32>(2)?, cx.source::<u32>(3)?);
    Ok(Box::new(move |regs, mask| {
        let mut out: Lanes<u32> = [0; LANES];
        let (a, b, c) = (a.lanes(regs), b.lanes(regs), c.lanes(regs));
        for lane in 0..LANES {
            out[lane] = lookup(a[lane], b[lane], c[lane], table);
        }
        if let (Some(p), Some((and, q))) = (p, q) {
            let some = super::lanes::ballot(|lane| out[lane] != 0);
            let q = q.lanes(regs);
            put_bits(&mut regs.pred[p], if and { some & q } else { some | q }, mask);
        }
        if let Some(d) = d {
            put(regs, d, &out, mask);
        }
    }))
}

/// Shifting by the width or more leaves nothing.
pub(super) fn shl(cx: &mut Cx) -> Result<Execute> {
    match last(cx)? {
        Ty::B16 => cx.binary(|a: u16, n: u32| a.checked_shl(n).unwrap_or(0)),
        Ty::B32 => cx.binary(|a: u32, n: u32| a.checked_shl(n).unwrap_or(0)),
        Ty::B64 => cx.binary(|a: u64, n: u32| a.checked_shl(n).unwrap_or(0)),
        ty => Err(cx.unsupported(ty)),
    }
}

/// Shifting by the width or more leaves nothing but copies of the sign.
pub(super) fn shr(cx: &mut Cx) -> Result<Execute> {
    match last(cx)? {
        Ty::B16 | Ty::U16 => cx.binary(|a: u16, n: u32| a.checked_shr(n).unwrap_or(0)),
        Ty::B32 | Ty::U32 => cx.binary(|a: u32, n: u32| a.checked_shr(n).unwrap_or(0)),
        Ty::B64 | Ty::U64 => cx.binary(|a: u64, n: u32| a.checked_shr(n).unwrap_or(0)),
        Ty::S16 => cx.binary(|a: i16, n: u32| a >> n.min(15)),
        Ty::S32 => cx.binary(|a: i32, n: u32| a >> n.min(31)),
        Ty::S64 => cx.binary(|a: i64, n: u32| a >> n.min(63)),
        ty => Err(cx.unsupported(ty)),
    }
}

/// Shifts the 64 bits `b:a`: the high word of a left shift, the low one of a right shift.
pub(super) fn shf(cx: &mut Cx) -> Result<Execute> {
    let left = cx.need(&[("l", true), ("r", false)])?;
    let clamp = cx.need(&[("clamp", true), ("wrap", false)])?;
    cx.only(&[Ty::B32])?;
    cx.finish()?;
    cx.ternary(move |a: u32, b: u32, n: u32| {
        let n = if clamp { n.min(32) } else { n & 31 };
        let both = u64::from(b) << 32 | u64::from(a);
        if left { (both << n >> 32) as u32 } else { (both >> n) as u32 }
    })
}
