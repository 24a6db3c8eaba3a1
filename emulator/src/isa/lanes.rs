//! Words, values and operands: what a closure reads and writes.

use super::{LANES, Registers};
use crate::ptx::{Operand, RegClass};

/// A register's 32 lanes.
pub(super) type Lanes<W> = [W; LANES];

/// What a register of one class holds in one lane.
pub(super) trait Word: Copy + Default + Send + Sync + 'static {
    const CLASS: RegClass;
    fn file(regs: &Registers) -> &[Lanes<Self>];
    fn file_mut(regs: &mut Registers) -> &mut [Lanes<Self>];
}

macro_rules! word {
    ($($ty:ty, $class:ident, $file:ident;)*) => {$(
        impl Word for $ty {
            const CLASS: RegClass = RegClass::$class;
            fn file(regs: &Registers) -> &[Lanes<Self>] {
                &regs.$file
            }
            fn file_mut(regs: &mut Registers) -> &mut [Lanes<Self>] {
                &mut regs.$file
            }
        }
    )*};
}

word! {
    u16, B16, b16;
    u32, B32, b32;
    u64, B64, b64;
    u128, B128, b128;
}

/// How an instruction reads a word.
pub(super) trait Value: Copy + Send + Sync + 'static {
    type Word: Word;
    fn of(word: Self::Word) -> Self;
    fn word(self) -> Self::Word;
    /// The constant that an operand is.
    fn constant(operand: &Operand) -> Option<Self::Word>;
}

macro_rules! integer_value {
    ($($ty:ty, $word:ty;)*) => {$(
        impl Value for $ty {
            type Word = $word;
            #[inline(always)]
            fn of(word: $word) -> Self {
                word as $ty
            }
            #[inline(always)]
            fn word(self) -> $word {
                self as $word
            }
            fn constant(operand: &Operand) -> Option<$word> {
                integer_constant(operand, <$word>::BITS).map(|bits| bits as $word)
            }
        }
    )*};
}

integer_value! {
    u16, u16; i16, u16;
    u32, u32; i32, u32;
    u64, u64; i64, u64;
    u128, u128;
}

/// An integer that fits into so many bits, signed or unsigned, or a floating-point constant of just that width.
fn integer_constant(operand: &Operand, bits: u32) -> Option<u64> {
    match *operand {
        Operand::Int(value) if bits < 64 => {
            (-(1_i64 << (bits - 1))..1_i64 << bits).contains(&value).then_some(value as u64)
        }
        Operand::Int(value) => Some(value as u64),
        Operand::F32(value) if bits == 32 => Some(value.into()),
        Operand::F64(value) if bits == 64 => Some(value),
        _ => None,
    }
}

impl Value for f32 {
    type Word = u32;
    #[inline(always)]
    fn of(word: u32) -> f32 {
        f32::from_bits(word)
    }
    #[inline(always)]
    fn word(self) -> u32 {
        self.to_bits()
    }
    fn constant(operand: &Operand) -> Option<u32> {
        match *operand {
            Operand::F32(bits) => Some(bits),
            Operand::F64(bits) => Some((f64::from_bits(bits) as f32).to_bits()),
            _ => None,
        }
    }
}

impl Value for f64 {
    type Word = u64;
    #[inline(always)]
    fn of(word: u64) -> f64 {
        f64::from_bits(word)
    }
    #[inline(always)]
    fn word(self) -> u64 {
        self.to_bits()
    }
    fn constant(operand: &Operand) -> Option<u64> {
        match *operand {
            Operand::F64(bits) => Some(bits),
            Operand::F32(bits) => Some(f64::from(f32::from_bits(bits)).to_bits()),
            _ => None,
        }
    }
}

/// A source operand: a register of class `W`, or a constant in every lane.
pub(super) enum Source<W> {
    Reg(usize),
    Constant(Box<Lanes<W>>),
}

impl<W: Word> Source<W> {
    #[inline(always)]
    pub fn lanes<'a>(&'a self, regs: &'a Registers) -> &'a Lanes<W> {
        match self {
            Source::Reg(index) => &W::file(regs)[*index],
            Source::Constant(lanes) => lanes,
        }
    }
}

/// A predicate operand.
#[derive(Clone, Copy)]
pub(super) enum Predicate {
    Reg { index: usize, flip: u32 },
    Constant(u32),
}

impl Predicate {
    #[inline(always)]
    pub fn lanes(self, regs: &Registers) -> u32 {
        match self {
            Predicate::Reg { index, flip } => regs.pred[index] ^ flip,
            Predicate::Constant(bits) => bits,
        }
    }
}

/// Whether `mask` has lane `lane`.
#[inline(always)]
pub(super) fn bit(mask: u32, lane: usize) -> bool {
    mask >> lane & 1 != 0
}

/// Writes the lanes in `mask`.
#[inline(always)]
pub(super) fn put<W: Word>(regs: &mut Registers, index: usize, values: &Lanes<W>, mask: u32) {
    let into = &mut W::file_mut(regs)[index];
    if mask == u32::MAX {
        *into = *values;
    } else {
        for lane in 0..LANES {
            into[lane] = if bit(mask, lane) { values[lane] } else { into[lane] };
        }
    }
}

/// Writes the lanes in `mask` of a bit per lane.
#[inline(always)]
pub(super) fn put_bits(into: &mut u32, values: u32, mask: u32) {
    *into = *into & !mask | values & mask;
}

/// One bit a lane.
#[inline(always)]
pub(super) fn ballot(test: impl Fn(usize) -> bool) -> u32 {
    let mut bits = 0;
    for lane in 0..LANES {
        bits |= u32::from(test(lane)) << lane;
    }
    bits
}
