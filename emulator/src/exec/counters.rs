//! What a launch did, in numbers that depend on the kernel and its data only.

use serde::Serialize;
use std::collections::BTreeMap;

macro_rules! classes {
    ($($name:ident $text:literal,)*) => {
        /// What kind of work an instruction is.
        #[allow(missing_docs)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Class { $($name,)* }

        impl Class {
            /// All of them.
            pub const ALL: [Class; [$($text,)*].len()] = [$(Class::$name,)*];

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                match self { $(Class::$name => $text,)* }
            }
        }
    };
}

classes! {
    Integer "integer",
    Logic "logic",
    Float "f32",
    Double "f64",
    Half "half",
    Special "special function",
    Convert "convert",
    Compare "compare",
    Move "move",
    Load "load",
    Store "store",
    Atomic "atomic",
    Fence "fence",
    Barrier "barrier",
    Warp "warp",
    Tensor "tensor",
    Copy "asynchronous copy",
    Control "control",
    Other "other",
}

/// Instructions of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Issued {
    /// By warps.
    pub warp: u64,
    /// By lanes that their predicate let through.
    pub lane: u64,
}

/// Global-memory traffic in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Warp instructions.
    pub requests: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Distinct 32-byte sectors, counted per warp instruction.
    pub sectors: u64,
    /// Lane accesses by their width in bytes.
    pub widths: BTreeMap<u32, u64>,
}

impl Traffic {
    /// Bytes asked for over bytes moved; 1 when nothing moved.
    pub fn efficiency(&self) -> f64 {
        if self.sectors == 0 { 1.0 } else { self.bytes as f64 / (self.sectors * 32) as f64 }
    }

    fn add(&mut self, other: &Traffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        for (&width, &count) in &other.widths {
            *self.widths.entry(width).or_default() += count;
        }
    }
}

/// Shared-memory traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SharedTraffic {
    /// Bytes loaded by lanes.
    pub load_bytes: u64,
    /// Bytes stored by lanes.
    pub store_bytes: u64,
    /// Passes over the banks beyond those that a conflict-free access takes.
    pub bank_conflicts: u64,
}

/// The counters of one launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Instructions by class.
    pub instructions: BTreeMap<&'static str, Issued>,
    /// Loads from global memory.
    pub global_loads: Traffic,
    /// Stores to global memory.
    pub global_stores: Traffic,
    /// Shared memory.
    pub shared: SharedTraffic,
    /// Passes over the banks of shared memory, those for conflicts (`shared.bank_conflicts`) among them.
    pub shared_accesses: u64,
    /// Floating-point operations of tensor cores: two for each element of each product, `2 * m * n * k` for an `mma`.
    pub tensor_flops: u64,
    /// Atomics and reductions on global memory, by lanes.
    pub global_atomics: u64,
    /// Atomics and reductions on shared memory, by lanes.
    pub shared_atomics: u64,
    /// Arrivals of warps at barriers of the block.
    pub barriers: u64,
    /// Branches at which a warp split.
    pub divergences: u64,
    /// Blocks.
    pub blocks: u64,
    /// Warps.
    pub warps: u64,
}

impl Counters {
    /// Adds those of another launch.
    pub fn add(&mut self, other: &Counters) {
        for (class, issued) in &other.instructions {
            let sum = self.instructions.entry(class).or_default();
            sum.warp += issued.warp;
            sum.lane += issued.lane;
        }
        self.global_loads.add(&other.global_loads);
        self.global_stores.add(&other.global_stores);
        self.shared.load_bytes += other.shared.load_bytes;
        self.shared.store_bytes += other.shared.store_bytes;
        self.shared.bank_conflicts += other.shared.bank_conflicts;
        self.shared_accesses += other.shared_accesses;
        self.tensor_flops += other.tensor_flops;
        self.global_atomics += other.global_atomics;
        self.shared_atomics += other.shared_atomics;
        self.barriers += other.barriers;
        self.divergences += other.divergences;
        self.blocks += other.blocks;
        self.warps += other.warps;
    }

    /// All instructions.
    pub fn total(&self) -> Issued {
        self.instructions
            .values()
            .fold(Issued::default(), |sum, i| Issued { warp: sum.warp + i.warp, lane: sum.lane + i.lane })
    }
}

/// The same while a launch runs: plain arrays, one set for each thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub issued: [Issued; Class::ALL.len()],
    pub loads: Direction,
    pub stores: Direction,
    pub shared: SharedTraffic,
    pub shared_accesses: u64,
    pub tensor_flops: u64,
    pub global_atomics: u64,
    pub shared_atomics: u64,
    pub barriers: u64,
    pub divergences: u64,
    pub blocks: u64,
    pub warps: u64,
}

/// [`Traffic`] with an array for a map: widths of 1, 2, 4, 8 and 16 bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Direction {
    pub requests: u64,
    pub bytes: u64,
    pub sectors: u64,
    pub widths: [u64; 5],
}

impl Direction {
    pub fn count(&mut self, width: usize, lanes: u32, sectors: u32) {
        self.count_parts(width, lanes, u64::from(lanes) * width as u64, sectors);
    }

    /// Of an access whose lanes need not ask for all of their width.
    pub fn count_parts(&mut self, width: usize, lanes: u32, bytes: u64, sectors: u32) {
        self.requests += 1;
        self.bytes += bytes;
        self.sectors += u64::from(sectors);
        self.widths[(width.trailing_zeros() as usize).min(4)] += u64::from(lanes);
    }

    fn finish(&self) -> Traffic {
        let widths = self.widths.iter().enumerate().filter(|(_, count)| **count > 0);
        Traffic {
            requests: self.requests,
            bytes: self.bytes,
            sectors: self.sectors,
            widths: widths.map(|(log, &count)| (1 << log, count)).collect(),
        }
    }
}

impl Tally {
    /// Adds this thread's share to the launch's counters.
    pub fn add_to(&self, counters: &mut Counters) {
        for (class, issued) in Class::ALL.iter().zip(&self.issued).filter(|(_, issued)| issued.warp > 0) {
            let sum = counters.instructions.entry(class.name()).or_default();
            sum.warp += issued.warp;
            sum.lane += issued.lane;
        }
        counters.global_loads.add(&self.loads.finish());
        counters.global_stores.add(&self.stores.finish());
        counters.shared.load_bytes += self.shared.load_bytes;
        counters.shared.store_bytes += self.shared.store_bytes;
        counters.shared.bank_conflicts += self.shared.bank_conflicts;
        counters.shared_accesses += self.shared_accesses;
        counters.tensor_flops += self.tensor_flops;
        counters.global_atomics += self.global_atomics;
        counters.shared_atomics += self.shared_atomics;
        counters.barriers += self.barriers;
        counters.divergences += self.divergences;
        counters.blocks += self.blocks;
        counters.warps += self.warps;
    }
}
