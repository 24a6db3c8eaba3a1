//! What a module becomes: for each kernel the code of all functions it may reach, every operand resolved.

use super::counters::Class;
use super::fault::Stop;
use super::warp::Lanes;
use crate::isa::Execute;
use crate::ptx::Bounds;

/// What an instruction with effects beyond registers tells the warp that executed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Go on with the next instruction.
    Next,
    /// Not all lanes that must execute this together are here: wait for them at this instruction.
    Gather,
    /// Wait until the groups that wait with this very mask make it up.
    WarpSync(u32),
    /// Arrived at a barrier of the block.
    Barrier(Arrived),
}

/// A group's stay at a barrier of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub barrier: u8,
    /// Where `bar.red` puts its result.
    pub result: Option<(Reduction, u32)>,
}

/// What `bar.red` computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    /// Lanes whose predicate holds, into a 32-bit register.
    Popc,
    /// Whether all hold, into a predicate.
    And,
    /// Whether one holds, into a predicate.
    Or,
}

/// An instruction with effects beyond registers.
pub(crate) type Act = Box<dyn Fn(&mut Lanes<'_>, u32) -> Result<Flow, Stop> + Send + Sync>;

/// What an instruction does.
pub(crate) enum Op {
    /// Registers only.
    Alu(Execute),
    /// Anything else but control flow.
    Act(Act),
    /// First fetches what only the machine knows (special registers, addresses in a frame), then goes on.
    Prepared(Box<(Vec<Act>, Op)>),
    Branch(u32),
    BranchIndexed(Box<BranchIndexed>),
    Call(Box<Call>),
    Return,
    Exit,
    Nop,
}

/// `brx.idx`.
pub(crate) struct BranchIndexed {
    pub index: Source,
    pub targets: Vec<u32>,
}

/// A call site.
pub(crate) struct Call {
    pub target: Target,
    /// Where the arguments lie in the caller's argument area, and their sizes.
    pub arguments: Vec<(usize, usize)>,
    /// Where the results go.
    pub results: Vec<(usize, usize)>,
}

/// Who is called.
pub(crate) enum Target {
    /// Index into [`Kernel::functions`].
    Direct(usize),
    /// A function's address; only functions whose parameters and results have these sizes fit.
    Indirect { address: Source, params: Vec<u64>, returns: Vec<u64> },
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Pred(usize, bool),
    B16(usize),
    B32(usize),
    B64(usize),
    B128(usize),
    Constant(u64),
}

/// One instruction, ready to be executed.
pub(crate) struct Step {
    pub op: Op,
    /// Predicate register, and whether it is negated.
    pub guard: Option<(usize, bool)>,
    pub class: Class,
    /// What [`place`](super::text::place) knows its position by.
    pub source: u32,
}

/// One function.
pub(crate) struct Code {
    pub name: String,
    pub steps: Vec<Step>,
    /// Registers of each class, those that lowering added among them.
    pub registers: [u32; 5],
    pub local_bytes: usize,
    pub argument_bytes: usize,
    pub param_bytes: usize,
    pub return_bytes: usize,
    /// Offset and size of each parameter.
    pub params: Vec<(usize, u64)>,
    /// Offset and size of each result.
    pub returns: Vec<(usize, u64)>,
    /// What indirect calls know it by.
    pub address: u64,
}

/// A kernel with all that it may call.
pub(crate) struct Kernel {
    pub name: String,
    /// The kernel itself first.
    pub functions: Vec<Code>,
    /// Size and offset of each parameter.
    pub params: Vec<(usize, u64)>,
    pub param_bytes: usize,
    pub bounds: Bounds,
    /// Registers of 32 bits that a thread needs: an estimate.
    pub registers: u32,
    /// Bytes of shared memory it declares; dynamic shared memory follows.
    pub static_shared: usize,
    /// Whether blocks may learn of each other: then all run on one thread, interleaved.
    pub communicates: bool,
    /// Whether a function may be entered while it is active.
    pub recursive: bool,
}

impl Kernel {
    /// Bytes of local memory a thread needs; where calls may nest without end and use any, `limit`.
    pub fn stack_bytes(&self, limit: usize) -> usize {
        let sizes = self.functions.iter().map(|f| f.local_bytes.next_multiple_of(16));
        let own = self.functions.first().map_or(0, |f| f.local_bytes.next_multiple_of(16));
        let all = sizes.sum::<usize>();
        if self.recursive && all > own { limit.max(all) } else { all }
    }
}
