//! What goes wrong while a kernel runs, and where.

use crate::memory;
use crate::ptx::Pos;
use serde::Serialize;
use std::fmt;

/// How an execution ends early. Boxed: the way without it should be short.
pub(crate) type Stop = Box<Fault>;

/// A place in a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Place {
    /// The function as it is called in the PTX.
    pub function: String,
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// The instruction, as opcode and modifiers.
    pub instruction: String,
    /// CUDA source file, where known.
    pub file: Option<String>,
    /// Line of that file; 0 if the compiler had none.
    pub line: u32,
    /// Where the code was inlined, if it was: file and line.
    pub inlined_at: Option<(String, u32)>,
}

impl Place {
    /// Places `pos` for a load error.
    pub(crate) fn of(function: &str, pos: Pos) -> Place {
        Place { function: function.into(), ptx_line: pos.line, ..Place::default() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = self.file.as_ref().filter(|_| self.line > 0) {
            write!(f, "{file}:{}", self.line)?;
            if let Some((file, line)) = &self.inlined_at {
                write!(f, " (inlined at {file}:{line})")?;
            }
            f.write_str(", ")?;
        }
        write!(f, "`{}` at PTX line {} of {}", self.instruction, self.ptx_line, self.function)
    }
}

/// What was wrong.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum FaultKind {
    OutOfBounds,
    UseAfterFree,
    Misaligned,
    Uninitialised,
    Race,
    UnorderedRead,
    NonCoherentRead,
    /// A write to constant memory or kernel parameters.
    ReadOnly,
    /// A generic address in a space that the instruction cannot use.
    WrongSpace,
    DivergentBarrier,
    BarrierCount,
    /// A warp-wide instruction names lanes that do not take part.
    MissingLanes,
    /// An asynchronous copy is to read more bytes than it writes.
    CopySize,
    /// Bytes that an asynchronous copy writes are touched, or bytes that it reads are written, before it was waited for.
    InFlight,
    /// A thread has ended without waiting for an asynchronous copy that it started.
    NeverWaited,
    Deadlock,
    /// A warp has executed more instructions than it may.
    Timeout,
    StackOverflow,
    BadCall,
    BadBranch,
    Trap,
    Breakpoint,
    Assertion,
}

/// A thread of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ThreadId {
    /// `%ctaid`
    pub block: [u32; 3],
    /// `%tid`
    pub thread: [u32; 3],
}

/// The other side of a race, or the copy in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Other {
    /// Number of its launch; that of a copy or memset, if it belongs to one.
    pub launch: u64,
    /// Which thread; none if it belongs to another launch.
    pub thread: Option<ThreadId>,
    /// `load`, `store`, `atomic` or `asynchronous copy`.
    pub action: String,
    /// Where.
    pub place: Place,
}

/// A report. It stops the launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What was wrong.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// The thread; of several the lowest.
    pub thread: ThreadId,
    /// The instruction.
    pub place: Place,
    /// The rest in words.
    pub detail: String,
    /// The other side of a race, or the copy in flight.
    pub other: Option<Other>,
    /// In a deadlock: what every warp waits for.
    pub waiting: Vec<String>,
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, "block ({bx},{by},{bz}) thread ({tx},{ty},{tz})")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} in kernel {}, {}: {}: {}",
            self.kind, self.kernel, self.thread, self.place, self.detail
        )?;
        if let Some(other) = &self.other {
            write!(f, "; the other: {}", other.action)?;
            match &other.thread {
                Some(thread) => write!(f, " by {thread}, {}", other.place)?,
                // A copy or memset has no place.
                None if other.place.function.is_empty() => write!(f, " by transfer {}", other.launch)?,
                None => write!(f, " by launch {}, {}", other.launch, other.place)?,
            }
        }
        for line in &self.waiting {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// How the memory's finding is called here.
pub(crate) fn memory_kind(kind: &memory::FaultKind) -> (FaultKind, Option<memory::Party>) {
    use memory::FaultKind as M;
    match *kind {
        M::OutOfBounds(_) => (FaultKind::OutOfBounds, None),
        M::UseAfterFree(_) => (FaultKind::UseAfterFree, None),
        M::Misaligned => (FaultKind::Misaligned, None),
        M::Uninitialised(_) => (FaultKind::Uninitialised, None),
        M::Race(other) => (FaultKind::Race, Some(other)),
        M::UnorderedRead(other) => (FaultKind::UnorderedRead, Some(other)),
        M::NonCoherentRead(other) => (FaultKind::NonCoherentRead, Some(other)),
    }
}
