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

    /// Blocks of `threads` threads, with `shared` bytes of shared memory a block and `registers` registers a thread,
    /// that are resident at once on the whole card.
    pub fn resident_blocks(&self, threads: u32, shared: u32, registers: u32) -> u64 {
        let warps = u64::from(threads.div_ceil(32).max(1));
        let by_threads = u64::from(self.threads_per_sm / 32) / warps;
        let by_shared =
            u64::from(self.shared_per_sm) / (u64::from(shared) + u64::from(self.shared_reserved)).max(1);
        // A warp gets its registers in units of 256, from one of the four parts of the multiprocessor.
        let warp = (u64::from(registers.max(1)) * 32).next_multiple_of(REGISTER_UNIT);
        let by_registers = u64::from(self.registers_per_sm) / PARTS / warp * PARTS / warps;
        // An estimate alone keeps no block off the card.
        let by_registers = by_registers.max(1);
        by_threads.min(by_shared).min(by_registers).min(self.blocks_per_sm.into()) * u64::from(self.sms)
    }
}

/// Registers that are given out at once.
const REGISTER_UNIT: u64 = 256;
/// Parts of a multiprocessor, each with a scheduler and a quarter of the registers.
const PARTS: u64 = 4;

/// Why a launch's shape is refused.
pub(crate) enum Bad {
    /// No launch of any kernel may have it.
    Shape(String),
    /// This kernel cannot have it.
    Resources(String),
}

impl Kernel {
    /// Checks grid and block against what cards have and what the kernel was built for. Registers are not looked at:
    /// what is known of them is an estimate.
    pub fn check_shape(&self, grid: [u32; 3], block: [u32; 3]) -> Result<(), Bad> {
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
        Ok(())
    }
}

/// Limits that all cards share.
pub(crate) const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
pub(crate) const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
pub(crate) const MAX_THREADS: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::Card;

    /// Blocks on one multiprocessor, worked out by hand from the rules of NVIDIA's occupancy calculator.
    #[test]
    fn occupancy() {
        let card = Card { sms: 1, ..Card::sm_80() };
        let cases = [
            // threads, shared, registers, blocks
            (256, 0, 32, 8),
            (256, 0, 33, 6),
            (256, 0, 64, 4),
            (256, 0, 255, 1),
            (1024, 0, 64, 1),
            // The assembler would have made do with less: an estimate alone keeps no block off the card.
            (1024, 0, 72, 1),
            (128, 0, 40, 12),
            (32, 0, 16, 32),
            (32, 0, 128, 16),
            (64, 0, 255, 4),
            (192, 0, 96, 3),
            (256, 48 << 10, 32, 3),
            (256, 163 << 10, 32, 1),
            (1, 0, 16, 32),
        ];
        for (threads, shared, registers, blocks) in cases {
            let got = card.resident_blocks(threads, shared, registers);
            assert_eq!(got, blocks, "{threads} threads, {shared} bytes, {registers} registers");
        }
        assert_eq!(Card::sm_90a().resident_blocks(1024, 0, 32), 132 * 2);
    }
}
