//! Calls: registers, parameters and the argument area of the lanes that made a call together.

use super::program::{Code, Source};
use crate::isa::Registers;
use crate::memory::WARP;

/// Bytes that each lane has of its own.
#[derive(Debug, Default)]
pub(crate) struct PerLane {
    bytes: Vec<u8>,
    size: usize,
}

impl PerLane {
    pub fn reset(&mut self, size: usize) {
        self.size = size;
        self.bytes.clear();
        self.bytes.resize(size * WARP, 0);
    }

    /// `len` bytes of one lane, if they exist.
    pub fn get(&self, lane: usize, offset: usize, len: usize) -> Option<&[u8]> {
        let end = offset.checked_add(len).filter(|&end| end <= self.size)?;
        self.bytes.get(lane * self.size + offset..lane * self.size + end)
    }

    pub fn get_mut(&mut self, lane: usize, offset: usize, len: usize) -> Option<&mut [u8]> {
        let end = offset.checked_add(len).filter(|&end| end <= self.size)?;
        self.bytes.get_mut(lane * self.size + offset..lane * self.size + end)
    }
}

/// One call by some lanes of a warp.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Index into the kernel's functions.
    pub function: usize,
    pub depth: u32,
    pub regs: Registers,
    pub params: PerLane,
    pub returns: PerLane,
    pub arguments: PerLane,
    /// Where its `.local` variables begin, and end.
    pub local: (usize, usize),
    /// The caller's frame and the call's instruction; none for the kernel itself.
    pub caller: Option<(u32, u32)>,
    /// Lanes that have not returned yet.
    pub inside: u32,
}

impl Default for Frame {
    fn default() -> Self {
        Frame {
            function: 0,
            depth: 0,
            regs: Registers::new([0; 5]),
            params: PerLane::default(),
            returns: PerLane::default(),
            arguments: PerLane::default(),
            local: (0, 0),
            caller: None,
            inside: 0,
        }
    }
}

impl Frame {
    /// Makes this the frame of a call of `code`, everything zero.
    pub fn enter(&mut self, function: usize, code: &Code, mask: u32) {
        self.function = function;
        self.inside = mask;
        let [pred, b16, b32, b64, b128] = code.registers.map(|count| count as usize);
        let regs = &mut self.regs;
        zero(&mut regs.pred, pred, 0);
        zero(&mut regs.b16, b16, [0; WARP]);
        zero(&mut regs.b32, b32, [0; WARP]);
        zero(&mut regs.b64, b64, [0; WARP]);
        zero(&mut regs.b128, b128, [0; WARP]);
        regs.carry = 0;
        self.params.reset(code.param_bytes);
        self.returns.reset(code.return_bytes);
        self.arguments.reset(code.argument_bytes);
    }

    /// One lane's value of a source.
    pub fn value(&self, source: Source, lane: usize) -> u64 {
        let regs = &self.regs;
        match source {
            Source::Constant(value) => value,
            Source::Pred(reg, negated) => {
                u64::from((regs.pred.get(reg).copied().unwrap_or(0) >> lane & 1 != 0) != negated)
            }
            Source::B16(reg) => regs.b16.get(reg).map_or(0, |r| r[lane].into()),
            Source::B32(reg) => regs.b32.get(reg).map_or(0, |r| r[lane].into()),
            Source::B64(reg) => regs.b64.get(reg).map_or(0, |r| r[lane]),
            Source::B128(reg) => regs.b128.get(reg).map_or(0, |r| r[lane] as u64),
        }
    }

    /// All bits of it.
    pub fn wide(&self, source: Source, lane: usize) -> u128 {
        match source {
            Source::B128(reg) => self.regs.b128.get(reg).map_or(0, |r| r[lane]),
            _ => self.value(source, lane).into(),
        }
    }

    /// Writes the register that a source names, in one lane.
    pub fn set(&mut self, target: Source, lane: usize, value: u128) {
        let regs = &mut self.regs;
        match target {
            Source::Pred(reg, _) => {
                if let Some(bits) = regs.pred.get_mut(reg) {
                    *bits = *bits & !(1 << lane) | ((value & 1) as u32) << lane;
                }
            }
            Source::B16(reg) => put(&mut regs.b16, reg, lane, value as u16),
            Source::B32(reg) => put(&mut regs.b32, reg, lane, value as u32),
            Source::B64(reg) => put(&mut regs.b64, reg, lane, value as u64),
            Source::B128(reg) => put(&mut regs.b128, reg, lane, value),
            Source::Constant(_) => {}
        }
    }
}

fn put<T>(class: &mut [[T; WARP]], reg: usize, lane: usize, value: T) {
    if let Some(lanes) = class.get_mut(reg) {
        lanes[lane] = value;
    }
}

fn zero<T: Copy>(class: &mut Vec<T>, count: usize, value: T) {
    class.clear();
    class.resize(count, value);
}
