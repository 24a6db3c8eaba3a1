//! Executes kernels: warps in lock-step, blocks in any legal order, every check on the way.
//!
//! A module is lowered once, kernel by kernel: names are resolved, opcodes are looked up in one
//! table (`lower.rs`), and what is not supported is refused with its position. Instructions on registers come from
//! [`isa`](crate::isa), memory and its checks from [`memory`](crate::memory); this module does control flow, warps,
//! barriers, scheduling and reports.
//!
//! Where hardware and the PTX ISA leave room, this is what is done:
//! * `bar.sync` needs all live lanes of a warp at the same instruction; threads that have exited are not waited for.
//! * A member mask of a shuffle, vote, match or reduction must not name lanes that have exited; `bar.warp.sync` may.
//! * Blocks run in parallel only if no global access of the kernel can tell one block about another (strong loads and
//!   stores, atomics whose result is used or whose order matters); else on one thread, as many as the card holds.
//! * Counters depend on the kernel and its data only, unless it spins: then they also depend on the seed.
//! * Clocks count the warp's instructions. A block is a cluster of its own.

mod async_copy;
mod atomic;
mod atomic_wide;
mod barrier;
mod block;
mod branch;
mod card;
mod collective;
mod control;
mod counters;
pub(crate) mod env;
mod fault;
mod fence;
mod flight;
mod frame;
pub(crate) mod image;
pub(crate) mod launch;
mod load_store;
mod lower;
mod printf;
pub(crate) mod program;
mod registers;
mod spaces;
mod special;
mod tensor;
pub(crate) mod text;
mod warp;

#[cfg(feature = "driver")]
pub(crate) use block::Random;
pub(crate) use card::Bad;
pub use card::Card;
#[cfg(feature = "driver")]
pub(crate) use card::{MAX_BLOCK, MAX_GRID, MAX_THREADS};
pub use counters::{Class, Counters, Issued, SharedTraffic, Traffic};
pub use fault::{Fault, FaultKind, Other, Place, ThreadId};
pub use flight::Landing;
pub use lower::{LoadError, LoadErrorKind};
