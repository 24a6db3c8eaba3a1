//! Register-only instructions: what each computes, for the 32 lanes of a warp at once.
//!
//! [`decode`] turns one instruction into a closure over register indices and immediates; nothing is looked up and no
//! type is matched when it runs. Instructions that touch memory, control flow, special registers or other lanes are
//! not here ([`Decoded::NotMine`]). To add an instruction: one row in `table.rs`, its function in the file of its
//! family, its test.
//!
//! Where the PTX ISA leaves a result open, this is what is computed:
//! * a NaN result of a `.f32` instruction is `0x7fffffff`, of a half-precision one `0x7fff`; `mov`, `selp`, `slct`,
//!   `copysign` and bit operations pass bits on. A `.f64` instruction passes the first NaN operand on, quieted; if none
//!   is a NaN the result is `0xfff8000000000000`.
//! * `abs` and `neg` of a `.f64` NaN change its sign only.
//! * integer division by zero gives all ones, the remainder by zero the dividend.
//! * a result that `.ftz` flushes is one that is subnormal after rounding.
//! * `.sat` of -0.0 and `.relu` of -0.0 are +0.0.
//! * approximations (`.approx`, `.full`) are computed in `f64` and rounded once, which is within every documented
//!   error bound; hardware gives other bits.

mod approx;
mod bits;
mod carry;
mod compare;
mod convert;
mod cx;
mod float;
mod fp8;
mod half;
mod integer;
mod lanes;
mod logic;
pub(crate) mod matrix;
mod minmax;
mod moves;
mod pack;
mod select;
mod soft;
mod table;
mod video;

use crate::ptx::{self, Pos};
use std::fmt;

/// Lanes of a warp.
pub const LANES: usize = 32;

/// Registers of one warp. A register holds its 32 lanes side by side, so that an instruction is a loop over lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers {
    /// Predicates: one bit a lane.
    pub pred: Vec<u32>,
    /// 16-bit registers; 8-bit values live here too.
    pub b16: Vec<[u16; LANES]>,
    /// 32-bit registers.
    pub b32: Vec<[u32; LANES]>,
    /// 64-bit registers.
    pub b64: Vec<[u64; LANES]>,
    /// 128-bit registers.
    pub b128: Vec<[u128; LANES]>,
    /// The condition code's carry flag: one bit a lane.
    pub carry: u32,
}

impl Registers {
    /// Zeroed registers, so many of each class by `RegClass as usize`.
    pub fn new(counts: [u32; 5]) -> Self {
        let [pred, b16, b32, b64, b128] = counts.map(|n| n as usize);
        Registers {
            pred: vec![0; pred],
            b16: vec![[0; LANES]; b16],
            b32: vec![[0; LANES]; b32],
            b64: vec![[0; LANES]; b64],
            b128: vec![[0; LANES]; b128],
            carry: 0,
        }
    }
}

/// Executes one instruction for the lanes in the mask; the other lanes keep their values. The registers must be those
/// of the body that was decoded.
pub type Execute = Box<dyn Fn(&mut Registers, u32) + Send + Sync>;

/// What the counters count an instruction as.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    IntegerAlu,
    FloatAlu32,
    FloatAlu64,
    HalfAlu,
    Conversion,
    Move,
    Compare,
    Logic,
    /// Transcendental functions and other approximations.
    Special,
}

/// An instruction, ready to run.
pub enum Decoded {
    /// A register-only instruction.
    Alu {
        /// Runs it.
        run: Execute,
        /// What it counts as.
        class: Class,
    },
    /// Nothing this module executes.
    NotMine,
}

/// Why an instruction was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// Where its opcode stands.
    pub pos: Pos,
    /// Its opcode with all modifiers.
    pub opcode: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.pos, self.opcode, self.message)
    }
}

impl std::error::Error for DecodeError {}

/// Prepares one instruction of `body`. Its guard is the caller's.
pub fn decode(
    module: &ptx::Module,
    body: &ptx::Body,
    instruction: &ptx::Instruction,
) -> Result<Decoded, DecodeError> {
    let opcode = module.text(instruction.opcode);
    let mut rows = table::rows(opcode).peekable();
    if rows.peek().is_none() || instruction.operands.iter().any(cx::is_foreign) {
        return Ok(Decoded::NotMine);
    }
    let mut cx = cx::Cx::new(module, body, instruction);
    let last = cx.last_type();
    let fits = |row: &&table::Row| row.types.is_empty() || last.is_some_and(|ty| row.types.contains(&ty));
    let Some(row) = rows.find(fits) else {
        return Err(cx.error(match last {
            Some(ty) => format!("`{opcode}` has no form for .{}", ty.name()),
            None => format!("`{opcode}` must end in the type of its operands"),
        }));
    };
    cx.class = row.class;
    let run = (row.decode)(&mut cx)?;
    cx.finish()?;
    Ok(Decoded::Alu { run, class: cx.class })
}

/// The opcodes that [`decode`] knows, in the order of the table.
pub fn opcodes() -> Vec<&'static str> {
    let mut names: Vec<&str> = table::ROWS.iter().map(|row| row.name).collect();
    names.dedup();
    names
}
