//! The cards that can be played.

use super::program::Kernel;
use serde::Serialize;

/// What a card has. The figures are those of the programming guide's table of compute capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Card {
    /// What it calls itself; always says that it is emulated.
    pub name: String,
    /// Compute capability times ten.
    pub arch: u32,
    /// Whether code for `sm_XXa` runs.
    pub arch_specific: bool,
    /// Multiprocessors.
    pub sms: u32,
    /// Threads resident on a multiprocessor.
    pub threads_per_sm: u32,
    /// Blocks resident on a multiprocessor.
    pub blocks_per_sm: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_sm: u32,
    /// Bytes of shared memory a block may have without asking.
    pub shared_per_block: u32,
    /// Bytes of shared memory a block may have at most.
    pub shared_per_block_optin: u32,
    /// Bytes of shared memory that the system takes from every block.
    pub shared_reserved: u32,
    /// Registers of a multiprocessor.
    pub registers_per_sm: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: u64,
    /// Bytes of device memory.
    pub memory_bytes: u64,
}

impl Card {
    /// An A100-like card.
    pub fn sm_80() -> Card {
        Card {
            name: "Orthant emulated sm_80".into(),
            arch: 80,
            arch_specific: false,
            sms: 108,
            threads_per_sm: 2048,
            blocks_per_sm: 32,
            shared_per_sm: 164 << 10,
            shared_per_block: 48 << 10,
            shared_per_block_optin: 163 << 10,
            shared_reserved: 1 << 10,
            registers_per_sm: 64 << 10,
            l2_bytes: 40 << 20,
            memory_bytes: 40 << 30,
        }
    }

    /// An H100/H200-like card.
    pub fn sm_90a() -> Card {
        Card {
            name: "Orthant emulated sm_90a".into(),
            arch: 90,
            arch_specific: true,
            sms: 132,
            shared_per_sm: 228 << 10,
            shared_per_block_optin: 227 << 10,
            l2_bytes: 50 << 20,
            memory_bytes: 80 << 30,
            ..Card::sm_80()
        }
    }

    /// Whether code built for `.target sm_<arch><suffix>` may run here.
    pub fn runs(&self, arch: u32, suffix: Option<char>) -> bool {
        match suffix {
            None => arch <= self.arch,
            Some('f') => arch / 10 == self.arch / 10 && arch <= self.arch,
            Some(_) => arch == self.arch && self.arch_specific,
        }
    }

    /// Blocks of `threads` threads and `shared` bytes of shared memory that are resident at once on the whole card.
    pub fn resident_blocks(&self, threads: u32, shared: u32, _registers: u32) -> u64 {
        let by_threads = self.threads_per_sm / threads.next_multiple_of(32).max(32);
        let by_shared = self.shared_per_sm / (shared + self.shared_reserved).max(1);
        u64::from(by_threads.min(by_shared).min(self.blocks_per_sm)) * u64::from(self.sms)
    }
}

/// Why a launch's shape is refused.
pub(crate) enum Bad {
    /// No launch of any kernel may have it.
    Shape(String),
    /// This kernel cannot have it.
    Resources(String),
}

impl Kernel {
    /// Checks grid and block against the card and against what the kernel was built for.
    pub fn check_shape(&self, card: &Card, grid: [u32; 3], block: [u32; 3]) -> Result<(), Bad> {
        for (what, size, most) in [("grid", grid, MAX_GRID), ("block", block, MAX_BLOCK)] {
            if (0..3).any(|axis| size[axis] == 0 || size[axis] > most[axis]) {
                return Err(Bad::Shape(format!("{what} {size:?}: every size is from 1 to {most:?}")));
            }
        }
        let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
        if threads > MAX_THREADS.into() {
            return Err(Bad::Shape(format!("{threads} threads in a block, at most {MAX_THREADS}")));
        }
        if let Some(most) = self.bounds.maxntid
            && threads > most.iter().map(|&n| u64::from(n.max(1))).product()
        {
            let text = format!("{threads} threads in a block, the kernel is built for {most:?}");
            return Err(Bad::Resources(text));
        }
        if let Some(exactly) = self.bounds.reqntid
            && block != exactly.map(|n| n.max(1))
        {
            return Err(Bad::Shape(format!("block {block:?}, the kernel is built for exactly {exactly:?}")));
        }
        let registers = threads.next_multiple_of(32) * u64::from(self.registers);
        if registers > card.registers_per_sm.into() {
            let text = format!("{registers} registers in a block, the card has {}", card.registers_per_sm);
            return Err(Bad::Resources(text));
        }
        Ok(())
    }
}

/// Limits that all cards share.
pub(crate) const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
pub(crate) const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
pub(crate) const MAX_THREADS: u32 = 1024;
