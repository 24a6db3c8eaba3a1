//! What a warp instruction costs in memory transactions. Pure functions of addresses, mask and width, so that the
//! counts are deterministic and the figures of a kernel can be tested exactly.

use super::{WARP, Width};

/// Number of shared-memory banks; each is 4 bytes wide.
pub const BANKS: usize = 32;
/// Bytes of a global-memory sector, the unit of DRAM and L2 traffic.
pub const SECTOR_BYTES: u64 = 32;

/// Global-memory traffic of one warp instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Distinct 32-byte sectors touched.
    pub sectors: u32,
    /// Bytes requested: active lanes times width (a broadcast counts once for each lane).
    pub bytes: u32,
}

/// Shared-memory passes of one warp instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Passes needed without any conflict: one for each quarter, half or whole warp that has an active lane.
    pub ideal: u32,
    /// Passes needed in fact: for each such part the largest number of distinct words that share a bank.
    pub taken: u32,
}

impl Passes {
    /// Extra passes, which is what profilers call bank conflicts.
    pub fn conflicts(self) -> u32 {
        self.taken - self.ideal
    }
}

/// Counts the sectors that `mask`'s lanes touch.
pub fn sectors(addresses: &[u64; WARP], mask: u32, width: Width) -> Traffic {
    let bytes = mask.count_ones() * width.bytes() as u32;
    let mut seen = [0u64; WARP * 2];
    let (mut count, mut sorted) = (0usize, true);
    for lane in lanes(mask) {
        let first = addresses[lane] / SECTOR_BYTES;
        // A misaligned access straddles; it is a fault elsewhere, but the count stays true.
        let last = addresses[lane].saturating_add(width.bytes() as u64 - 1) / SECTOR_BYTES;
        for sector in first..=last {
            if count > 0 {
                if seen[count - 1] == sector {
                    continue;
                }
                sorted &= seen[count - 1] < sector;
            }
            seen[count] = sector;
            count += 1;
        }
    }
    let seen = &mut seen[..count];
    if !sorted {
        seen.sort_unstable();
        count = 1 + seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
    }
    Traffic { sectors: count as u32, bytes }
}

/// Counts the passes over the banks: lanes that read the same 4-byte word share it (broadcast), distinct words in one
/// bank take turns. 8-byte accesses go by half warps, 16-byte accesses by quarter warps.
pub fn bank_passes(addresses: &[u64; WARP], mask: u32, width: Width) -> Passes {
    let part = match width {
        Width::B8 => WARP / 2,
        Width::B16 => WARP / 4,
        _ => WARP,
    };
    let words = width.bytes().div_ceil(4) as u64;
    let mut passes = Passes::default();
    for start in (0..WARP).step_by(part) {
        let group = mask & ((((1u64 << part) - 1) as u32) << start);
        if group == 0 {
            continue;
        }
        passes.ideal += 1;
        if disjoint(addresses, group, width) {
            passes.taken += 1;
            continue;
        }
        let mut seen = [0u64; WARP];
        let mut count = 0;
        let mut load = [0u32; BANKS];
        for lane in lanes(group) {
            let first = addresses[lane] / 4;
            for word in first..first.saturating_add(words) {
                if seen[..count].contains(&word) {
                    continue;
                }
                // At most 32 words: 32 lanes x 1, 16 x 2 or 8 x 4.
                seen[count] = word;
                count += 1;
                load[(word % BANKS as u64) as usize] += 1;
            }
        }
        passes.taken += load.iter().copied().max().unwrap_or(1).max(1);
    }
    passes
}

/// Whether no two lanes share a bank: the usual case, and cheap to see.
fn disjoint(addresses: &[u64; WARP], group: u32, width: Width) -> bool {
    let mut taken = 0u32;
    lanes(group).all(|lane| {
        // What is aligned to its width does not wrap around the banks.
        let words = (width.bytes() as u64).div_ceil(4);
        let banks = (((1u64 << words) - 1) << (addresses[lane] / 4 % BANKS as u64)) as u32;
        let free = taken & banks == 0;
        taken |= banks;
        free
    })
}

/// The set bits of a lane mask, lowest first.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(lane)
    })
}
