//! Arithmetic with the carry flag. After a subtraction the flag holds the borrow.

use super::cx::{Cx, Result, Ty};
use super::lanes::{Lanes, Value, bit, put, put_bits};
use super::{Execute, LANES};

/// `f(a, b, c, carry in)` gives the result and the carry out. Only with `writes` does the flag change.
fn carried<T: Value>(
    cx: &Cx,
    sources: usize,
    reads: bool,
    writes: bool,
    f: impl Fn(T, T, T, bool) -> (T, bool) + Send + Sync + 'static,
) -> Result<Execute> {
    cx.count(sources + 1)?;
    let d = cx.target::<T>(0)?;
    // An instruction of two operands sees the second twice.
    let (a, b, c) = (cx.source::<T>(1)?, cx.source::<T>(2)?, cx.source::<T>(sources)?);
    Ok(Box::new(move |regs, mask| {
        let mut out: Lanes<T::Word> = Default::default();
        let flag = if reads { regs.carry } else { 0 };
        let mut carry = 0;
        let (a, b, c) = (a.lanes(regs), b.lanes(regs), c.lanes(regs));
        for lane in 0..LANES {
            let (value, over) = f(T::of(a[lane]), T::of(b[lane]), T::of(c[lane]), bit(flag, lane));
            out[lane] = value.word();
            carry |= u32::from(over) << lane;
        }
        put(regs, d, &out, mask);
        if writes {
            put_bits(&mut regs.carry, carry, mask);
        }
    }))
}

/// An instruction of two operands in either width.
macro_rules! carrying {
    ($cx:ident, $reads:expr, $writes:expr, |$a:ident, $b:ident, $carry:ident| $body:expr) => {{
        let ty = $cx.ty()?;
        $cx.finish()?;
        match ty {
            Ty::U32 | Ty::S32 => carried($cx, 2, $reads, $writes, |$a: u32, $b: u32, _, $carry: bool| $body),
            Ty::U64 | Ty::S64 => carried($cx, 2, $reads, $writes, |$a: u64, $b: u64, _, $carry: bool| $body),
            ty => Err($cx.unsupported(ty)),
        }
    }};
}

fn add(cx: &mut Cx, reads: bool, writes: bool) -> Result<Execute> {
    carrying!(cx, reads, writes, |a, b, carry| {
        let (sum, first) = b.overflowing_add(a);
        let (sum, second) = sum.overflowing_add(carry.into());
        (sum, first | second)
    })
}

fn sub(cx: &mut Cx, reads: bool, writes: bool) -> Result<Execute> {
    carrying!(cx, reads, writes, |a, b, carry| {
        let (difference, first) = a.overflowing_sub(b);
        let (difference, second) = difference.overflowing_sub(carry.into());
        (difference, first | second)
    })
}

pub(super) fn add_cc(cx: &mut Cx) -> Result<Execute> {
    add(cx, false, true)
}

pub(super) fn addc(cx: &mut Cx) -> Result<Execute> {
    let writes = cx.flag("cc");
    add(cx, true, writes)
}

pub(super) fn sub_cc(cx: &mut Cx) -> Result<Execute> {
    sub(cx, false, true)
}

pub(super) fn subc(cx: &mut Cx) -> Result<Execute> {
    let writes = cx.flag("cc");
    sub(cx, true, writes)
}

/// `mad{.lo|.hi}.cc` and `madc`.
pub(super) fn mad(cx: &mut Cx, high: bool, reads: bool, writes: bool) -> Result<Execute> {
    match cx.ty()? {
        ty @ (Ty::U32 | Ty::S32) => {
            cx.finish()?;
            let signed = ty.is_signed();
            carried(cx, 3, reads, writes, move |a: u32, b, c, carry| {
                let product = match signed {
                    true => (i64::from(a as i32) * i64::from(b as i32)) as u64,
                    false => u64::from(a) * u64::from(b),
                };
                let part = if high { product >> 32 } else { product & 0xffff_ffff };
                let sum = part + u64::from(c) + u64::from(carry);
                (sum as u32, sum >> 32 != 0)
            })
        }
        ty @ (Ty::U64 | Ty::S64) => {
            cx.finish()?;
            let signed = ty.is_signed();
            carried(cx, 3, reads, writes, move |a: u64, b, c, carry| {
                let product = match signed {
                    true => (i128::from(a as i64) * i128::from(b as i64)) as u128,
                    false => u128::from(a) * u128::from(b),
                };
                let part = if high { product >> 64 } else { product & u128::from(u64::MAX) };
                let sum = part + u128::from(c) + u128::from(carry);
                (sum as u64, sum >> 64 != 0)
            })
        }
        ty => Err(cx.unsupported(ty)),
    }
}

pub(super) fn madc(cx: &mut Cx) -> Result<Execute> {
    let high = cx.need(&[("lo", false), ("hi", true)])?;
    let writes = cx.flag("cc");
    mad(cx, high, true, writes)
}
