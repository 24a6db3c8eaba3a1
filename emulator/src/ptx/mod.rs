//! The PTX front end: text in, a resolved [`Module`] or a positioned [`Error`] out.
//!
//! It reads what NVRTC 12 and 13 emit (PTX ISA 8 and 9, 64-bit addresses). Names are resolved while parsing:
//! registers become a class and an index, labels instruction indices, variables and functions ids, opcodes and
//! their modifiers interned [`Name`]s. What an opcode means is not decided here; any opcode, any modifiers and any
//! number of operands are accepted. Everything else that is not understood is an error, never ignored: what is
//! skipped on purpose (debug sections, pragmas) is listed in the module.
//!
//! Refused, because NVRTC does not write them: 32-bit addresses, vector registers, `.reg` parameters, constant
//! expressions, texture and surface references, `.alias`, `.common`, target options other than `debug`.

pub mod ast;
mod body;
mod decl;
mod init;
mod lexer;
mod names;
mod operand;
mod parser;
mod special;
mod types;

pub use ast::*;
pub use parser::{parse, parse_bytes};
pub use special::{Axis, Special};

use std::fmt;

/// A place in the PTX text. Lines and columns count from 1, columns in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pos {
    /// Line of the PTX text.
    pub line: u32,
    /// Byte column in that line.
    pub column: u32,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a PTX text was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Where the offending token starts.
    pub pos: Pos,
    /// What was expected and what was found.
    pub message: String,
}

impl Error {
    pub(crate) fn new(pos: Pos, message: impl Into<String>) -> Self {
        Error { pos, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pos, self.message)
    }
}

impl std::error::Error for Error {}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What a text may ask for before it is refused. All are far above anything that NVRTC emits.
pub mod limits {
    /// Bytes of PTX text.
    pub const TEXT: usize = 256 << 20;
    /// Registers of one class in one function.
    pub const REGISTERS: u32 = 1 << 20;
    /// Bytes of one variable.
    pub const VARIABLE: u64 = 1 << 40;
    /// Bytes of one parameter block, and of one function's outgoing arguments.
    pub const PARAMS: u64 = 32_764;
    /// Bytes of the `.local` variables of one function (512 KiB a thread is what the hardware has).
    pub const LOCAL: u64 = 512 << 10;
    /// Alignment in bytes.
    pub const ALIGN: u32 = 1 << 16;
    /// Nested `{ }` in a function.
    pub const DEPTH: usize = 64;
    /// Dimensions of one array.
    pub const DIMENSIONS: usize = 8;
}
