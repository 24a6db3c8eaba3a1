//! `setp` and `set`.

use super::cx::{Cx, Result, Test, Ty};
use super::half::{self, Half, join};
use super::lanes::{Lanes, Predicate, Value, bit, put, put_bits};
use super::soft::{Bf16, F16};
use super::{Execute, LANES, Registers, float};
use crate::ptx::{Operand, RegClass};

/// A comparison. Those with `u` at the end also hold if an operand is a NaN, the others do not.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// The first two are for bits, the first six for signed integers, the first ten for unsigned ones; floating-point
/// types have all but the four that follow the sixth.
const COMPARISONS: [(&str, Cmp); 18] = [
    ("eq", Cmp::Eq),
    ("ne", Cmp::Ne),
    ("lt", Cmp::Lt),
    ("le", Cmp::Le),
    ("gt", Cmp::Gt),
    ("ge", Cmp::Ge),
    ("lo", Cmp::Lt),
    ("ls", Cmp::Le),
    ("hi", Cmp::Gt),
    ("hs", Cmp::Ge),
    ("equ", Cmp::Equ),
    ("neu", Cmp::Neu),
    ("ltu", Cmp::Ltu),
    ("leu", Cmp::Leu),
    ("gtu", Cmp::Gtu),
    ("geu", Cmp::Geu),
    ("num", Cmp::Num),
    ("nan", Cmp::Nan),
];

fn comparison(cx: &mut Cx, ty: Ty) -> Result<Cmp> {
    let bits = matches!(ty, Ty::B16 | Ty::B32 | Ty::B64);
    let found = match ty {
        _ if bits => cx.pick(&COMPARISONS[..2]),
        _ if ty.is_signed() => cx.pick(&COMPARISONS[..6]),
        _ if ty.is_integer() => cx.pick(&COMPARISONS[..10]),
        _ => cx.pick(&COMPARISONS[..6]).or_else(|| cx.pick(&COMPARISONS[10..])),
    };
    found.ok_or_else(|| cx.error(format!("a comparison for .{} is missing", ty.name())))
}

/// The comparison of operands `at` and `at + 1`, each seen through `view`.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::eq_op)]
fn test<A: Value, K: PartialOrd>(
    cx: &Cx,
    cmp: Cmp,
    view: impl Fn(A) -> K + Copy + Send + Sync + 'static,
) -> Result<Test> {
    let v = view;
    match cmp {
        Cmp::Eq => cx.test(1, move |a, b| v(a) == v(b)),
        Cmp::Ne => cx.test(1, move |a, b| v(a) < v(b) || v(a) > v(b)),
        Cmp::Lt => cx.test(1, move |a, b| v(a) < v(b)),
        Cmp::Le => cx.test(1, move |a, b| v(a) <= v(b)),
        Cmp::Gt => cx.test(1, move |a, b| v(a) > v(b)),
        Cmp::Ge => cx.test(1, move |a, b| v(a) >= v(b)),
        Cmp::Equ => cx.test(1, move |a, b| !(v(a) < v(b) || v(a) > v(b))),
        Cmp::Neu => cx.test(1, move |a, b| v(a) != v(b)),
        Cmp::Ltu => cx.test(1, move |a, b| !(v(a) >= v(b))),
        Cmp::Leu => cx.test(1, move |a, b| !(v(a) > v(b))),
        Cmp::Gtu => cx.test(1, move |a, b| !(v(a) <= v(b))),
        Cmp::Geu => cx.test(1, move |a, b| !(v(a) < v(b))),
        Cmp::Num => cx.test(1, move |a, b| v(a) == v(a) && v(b) == v(b)),
        Cmp::Nan => cx.test(1, move |a, b| v(a) != v(a) || v(b) != v(b)),
    }
}

/// The tests of a source type: one, or one for each half of a pair.
fn tests(cx: &Cx, ty: Ty, cmp: Cmp, ftz: bool) -> Result<(Test, Option<Test>)> {
    fn of<H: Half>(bits: u16, ftz: bool) -> f32 {
        H::value(if ftz { half::flush::<H>(bits) } else { bits })
    }
    if ftz && !matches!(ty, Ty::F32 | Ty::F16 | Ty::F16x2) {
        return Err(cx.error(format!(".{} has no .ftz", ty.name())));
    }
    Ok(match ty {
        Ty::B16 | Ty::U16 => (test(cx, cmp, |a: u16| a)?, None),
        Ty::B32 | Ty::U32 => (test(cx, cmp, |a: u32| a)?, None),
        Ty::B64 | Ty::U64 => (test(cx, cmp, |a: u64| a)?, None),
        Ty::S16 => (test(cx, cmp, |a: i16| a)?, None),
        Ty::S32 => (test(cx, cmp, |a: i32| a)?, None),
        Ty::S64 => (test(cx, cmp, |a: i64| a)?, None),
        Ty::F32 if ftz => (test(cx, cmp, float::flush)?, None),
        Ty::F32 => (test(cx, cmp, |a: f32| a)?, None),
        Ty::F64 => (test(cx, cmp, |a: f64| a)?, None),
        Ty::F16 => (test(cx, cmp, move |a| of::<F16>(a, ftz))?, None),
        Ty::Bf16 => (test(cx, cmp, Bf16::value)?, None),
        Ty::F16x2 => {
            let low = test(cx, cmp, move |a| of::<F16>(half::low(a), ftz))?;
            (low, Some(test(cx, cmp, move |a| of::<F16>(half::high(a), ftz))?))
        }
        Ty::Bf16x2 => {
            let low = test(cx, cmp, |a| Bf16::value(half::low(a)))?;
            (low, Some(test(cx, cmp, |a| Bf16::value(half::high(a)))?))
        }
        ty => return Err(cx.unsupported(ty)),
    })
}

/// What is done with the third operand.
#[derive(Clone, Copy)]
enum Combine {
    None,
    And(Predicate),
    Or(Predicate),
    Xor(Predicate),
}

impl Combine {
    fn take(cx: &mut Cx) -> Result<Combine> {
        let make = cx.pick(&[
            ("and", Combine::And as fn(Predicate) -> Combine),
            ("or", Combine::Or),
            ("xor", Combine::Xor),
        ]);
        match make {
            Some(make) => {
                cx.count(4)?;
                Ok(make(cx.predicate(3)?))
            }
            None => cx.count(3).map(|()| Combine::None),
        }
    }

    fn apply(self, bits: u32, regs: &Registers) -> u32 {
        match self {
            Combine::None => bits,
            Combine::And(c) => bits & c.lanes(regs),
            Combine::Or(c) => bits | c.lanes(regs),
            Combine::Xor(c) => bits ^ c.lanes(regs),
        }
    }
}

/// `setp.lt.and.f32 p|q, a, b, c`: `p` gets the comparison, `q` its opposite, each combined with `c`. Of a pair `p`
/// gets the low half's comparison and `q` the high half's.
pub(super) fn setp(cx: &mut Cx) -> Result<Execute> {
    let combine = Combine::take(cx)?;
    let ftz = cx.flag("ftz");
    let source = cx.last_type().ok_or_else(|| cx.error("the type is missing"))?;
    let cmp = comparison(cx, source)?;
    cx.ty()?;
    cx.finish()?;
    let (low, high) = tests(cx, source, cmp, ftz)?;
    let (p, q) = match *cx.operand(0)? {
        Operand::Reg(p) => (Some(p), None),
        Operand::Pair(p, q) => (p, q),
        _ => return Err(cx.error("operand 1 must be p or p|q")),
    };
    let two = matches!(cx.operand(0)?, Operand::Pair(..));
    if high.is_some() && !two {
        return Err(cx.error("a comparison of pairs needs p|q"));
    }
    if two && matches!(source, Ty::F16 | Ty::Bf16) {
        return Err(cx.error(format!("a comparison of .{} has one target", source.name())));
    }
    let p = p.map(|p| cx.index(p, RegClass::Pred)).transpose()?;
    let q = q.map(|q| cx.index(q, RegClass::Pred)).transpose()?;
    if let (Some(p), None, None, Combine::None) = (p, q, &high, combine) {
        return Ok(Box::new(move |regs, mask| {
            let bits = low(regs);
            put_bits(&mut regs.pred[p], bits, mask);
        }));
    }
    Ok(Box::new(move |regs, mask| {
        let first = low(regs);
        let second = high.as_ref().map_or(!first, |high| high(regs));
        let (first, second) = (combine.apply(first, regs), combine.apply(second, regs));
        if let Some(p) = p {
            put_bits(&mut regs.pred[p], first, mask);
        }
        if let Some(q) = q {
            put_bits(&mut regs.pred[q], second, mask);
        }
    }))
}

/// What stands for true in a type, in its own bits.
fn truth(ty: Ty) -> Option<u64> {
    Some(match ty {
        Ty::U16 | Ty::S16 => 0xffff,
        Ty::U32 | Ty::S32 => 0xffff_ffff,
        Ty::F32 => 0x3f80_0000,
        Ty::F16 | Ty::F16x2 => 0x3c00,
        Ty::Bf16 | Ty::Bf16x2 => 0x3f80,
        _ => return None,
    })
}

/// `set.lt.and.u32.f32 d, a, b, c`.
pub(super) fn set(cx: &mut Cx) -> Result<Execute> {
    let combine = Combine::take(cx)?;
    let ftz = cx.flag("ftz");
    let source = cx.last_type().ok_or_else(|| cx.error("the types are missing"))?;
    let cmp = comparison(cx, source)?;
    let target = cx.ty()?;
    cx.ty()?;
    cx.finish()?;
    let (low, high) = tests(cx, source, cmp, ftz)?;
    let allowed: &[Ty] = match source {
        Ty::F16 => &[Ty::F16, Ty::U16, Ty::S16, Ty::U32, Ty::S32],
        Ty::Bf16 => &[Ty::Bf16, Ty::U16, Ty::S16, Ty::U32, Ty::S32],
        Ty::F16x2 => &[Ty::F16x2, Ty::U32, Ty::S32],
        Ty::Bf16x2 => &[Ty::Bf16x2, Ty::U32, Ty::S32],
        _ => &[Ty::U32, Ty::S32, Ty::F32, Ty::F16, Ty::Bf16],
    };
    cx.check(target, allowed)?;
    let Some(one) = truth(target) else {
        return Err(cx.unsupported(target));
    };
    if let Some(high) = high {
        let one = one as u16;
        let d = cx.target::<u32>(0)?;
        return Ok(Box::new(move |regs, mask| {
            let (first, second) = (combine.apply(low(regs), regs), combine.apply(high(regs), regs));
            let pick = |bits, lane| if bit(bits, lane) { one } else { 0 };
            let out: Lanes<u32> = std::array::from_fn(|lane| join(pick(first, lane), pick(second, lane)));
            put(regs, d, &out, mask);
        }));
    }
    if target.bits() == 16 {
        let (d, one) = (cx.target::<u16>(0)?, one as u16);
        return Ok(Box::new(move |regs, mask| {
            let bits = combine.apply(low(regs), regs);
            let out: [u16; LANES] = std::array::from_fn(|lane| if bit(bits, lane) { one } else { 0 });
            put(regs, d, &out, mask);
        }));
    }
    let (d, one) = (cx.target::<u32>(0)?, one as u32);
    Ok(Box::new(move |regs, mask| {
        let bits = combine.apply(low(regs), regs);
        let out: [u32; LANES] = std::array::from_fn(|lane| if bit(bits, lane) { one } else { 0 });
        put(regs, d, &out, mask);
    }))
}
