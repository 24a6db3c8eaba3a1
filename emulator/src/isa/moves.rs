//! `mov`: copies, and packing and unpacking of vectors. Addresses and special registers are the executor's.

use super::cx::{Cx, Result, Ty};
use super::lanes::{Lanes, Source, Value, Word, put, put_bits};
use super::{Execute, LANES, Registers};
use crate::ptx::{Operand, RegClass};

pub(super) fn mov(cx: &mut Cx) -> Result<Execute> {
    let ty = cx.ty()?;
    cx.finish()?;
    cx.count(2)?;
    let vector = cx.operands().iter().any(|operand| matches!(operand, Operand::Vector(_)));
    match ty {
        Ty::Pred => {
            let (d, a) = (cx.predicate_target(0)?, cx.predicate(1)?);
            Ok(Box::new(move |regs, mask| {
                let bits = a.lanes(regs);
                put_bits(&mut regs.pred[d], bits, mask);
            }))
        }
        Ty::B16 if vector => parts::<u16>(cx),
        Ty::B32 if vector => parts::<u32>(cx),
        Ty::B64 if vector => parts::<u64>(cx),
        Ty::B128 if vector => parts::<u128>(cx),
        _ if vector => Err(cx.error("vectors need a .b type")),
        Ty::B16 | Ty::U16 | Ty::S16 => cx.unary(|a: u16| a),
        Ty::B32 | Ty::U32 | Ty::S32 => cx.unary(|a: u32| a),
        Ty::B64 | Ty::U64 | Ty::S64 => cx.unary(|a: u64| a),
        Ty::B128 => cx.unary(|a: u128| a),
        Ty::F32 => cx.unary::<f32, f32>(|a| a),
        Ty::F64 => cx.unary::<f64, f64>(|a| a),
        ty => Err(cx.unsupported(ty)),
    }
}

/// The whole that a vector's elements are the parts of.
trait Whole: Value<Word = Self> + Word {
    const BITS: u32;
    fn place(part: u64, at: u32) -> Self;
    fn part(self, at: u32) -> u64;
    fn with(self, other: Self) -> Self;
}

macro_rules! whole {
    ($($ty:ty)*) => {$(
        impl Whole for $ty {
            const BITS: u32 = <$ty>::BITS;
            #[inline(always)]
            fn place(part: u64, at: u32) -> $ty {
                (part as $ty) << at
            }
            #[inline(always)]
            fn part(self, at: u32) -> u64 {
                (self >> at) as u64
            }
            #[inline(always)]
            fn with(self, other: $ty) -> $ty {
                self | other
            }
        }
    )*};
}

whole! { u16 u32 u64 u128 }

/// An element that is read.
enum Part {
    Half(Source<u16>),
    Word(Source<u32>),
    Double(Source<u64>),
}

/// An element that is written.
#[derive(Clone, Copy)]
enum Into {
    Half(usize),
    Word(usize),
    Double(usize),
    Nowhere,
}

impl Part {
    fn add<W: Whole>(&self, regs: &Registers, out: &mut Lanes<W>, at: u32, mask: u64) {
        fn or<W: Whole, P: Word + Into64>(part: &Lanes<P>, out: &mut Lanes<W>, at: u32, mask: u64) {
            for lane in 0..LANES {
                out[lane] = out[lane].with(W::place(part[lane].wide() & mask, at));
            }
        }
        match self {
            Part::Half(source) => or(source.lanes(regs), out, at, mask),
            Part::Word(source) => or(source.lanes(regs), out, at, mask),
            Part::Double(source) => or(source.lanes(regs), out, at, mask),
        }
    }
}

trait Into64 {
    fn wide(self) -> u64;
}

macro_rules! into64 {
    ($($ty:ty)*) => {$(impl Into64 for $ty {
        #[inline(always)]
        fn wide(self) -> u64 {
            self.into()
        }
    })*};
}

into64! { u16 u32 u64 }

fn parts<W: Whole>(cx: &Cx) -> Result<Execute> {
    match (cx.operand(0)?, cx.operand(1)?) {
        (Operand::Reg(_), Operand::Vector(parts)) => pack::<W>(cx, parts),
        (Operand::Vector(parts), _) => unpack::<W>(cx, parts),
        _ => Err(cx.error("one side must be a register, the other a vector")),
    }
}

/// Bits of one of `count` elements.
fn width<W: Whole>(cx: &Cx, count: usize) -> Result<u32> {
    match (count, W::BITS / count.max(1) as u32) {
        (2 | 4, bits @ (8 | 16 | 32 | 64)) => Ok(bits),
        _ => Err(cx.error(format!("{count} elements do not make up {} bits", W::BITS))),
    }
}

/// An element's register. Eight-bit elements need registers declared so, though these are 16 bits wide.
fn check_width(cx: &Cx, operand: &Operand, bits: u32) -> Result<()> {
    match operand {
        Operand::Reg(reg) if bits <= 16 && cx.declared_bits(*reg) != Some(bits) => {
            Err(cx.error(format!("the elements must be {bits}-bit registers")))
        }
        _ => Ok(()),
    }
}

fn pack<W: Whole>(cx: &Cx, parts: &[Operand]) -> Result<Execute> {
    let bits = width::<W>(cx, parts.len())?;
    let d = cx.target::<W>(0)?;
    let part = |operand: &Operand| {
        check_width(cx, operand, bits)?;
        Ok(match bits {
            8 | 16 => Part::Half(cx.source_of::<u16>(operand, 1)?),
            32 => Part::Word(cx.source_of::<u32>(operand, 1)?),
            _ => Part::Double(cx.source_of::<u64>(operand, 1)?),
        })
    };
    let parts = parts.iter().map(part).collect::<Result<Vec<_>>>()?;
    let mask = u64::MAX >> (64 - bits);
    Ok(Box::new(move |regs, lanes| {
        let mut out: Lanes<W> = Default::default();
        for (part, at) in parts.iter().zip((0..).step_by(bits as usize)) {
            part.add(regs, &mut out, at, mask);
        }
        put(regs, d, &out, lanes);
    }))
}

fn unpack<W: Whole>(cx: &Cx, parts: &[Operand]) -> Result<Execute> {
    let bits = width::<W>(cx, parts.len())?;
    let a = cx.source::<W>(1)?;
    let part = |operand: &Operand| {
        check_width(cx, operand, bits)?;
        let reg = match operand {
            Operand::Sink => return Ok(Into::Nowhere),
            Operand::Reg(reg) => *reg,
            _ => return Err(cx.error("an element must be a register or _")),
        };
        Ok(match bits {
            8 | 16 => Into::Half(cx.index(reg, RegClass::B16)?),
            32 => Into::Word(cx.index(reg, RegClass::B32)?),
            _ => Into::Double(cx.index(reg, RegClass::B64)?),
        })
    };
    let parts = parts.iter().map(part).collect::<Result<Vec<_>>>()?;
    let mask = u64::MAX >> (64 - bits);
    Ok(Box::new(move |regs, lanes| {
        // A copy: an element may be the register itself.
        let a = *a.lanes(regs);
        for (part, at) in parts.iter().zip((0..).step_by(bits as usize)) {
            let element = |lane: usize| a[lane].part(at) & mask;
            match *part {
                Into::Half(d) => put::<u16>(regs, d, &std::array::from_fn(|l| element(l) as u16), lanes),
                Into::Word(d) => put::<u32>(regs, d, &std::array::from_fn(|l| element(l) as u32), lanes),
                Into::Double(d) => put::<u64>(regs, d, &std::array::from_fn(element), lanes),
                Into::Nowhere => {}
            }
        }
    }))
}
