//! Occupancy. Registers are an estimate: only the assembler knows them.

use super::function::{dynamic_limit, found, kernel_of, most_threads};
use crate::driver::raw::Out;
use crate::driver::{Answer, Call, Refusal, codes};
use crate::exec::MAX_THREADS;
use std::ffi::{c_int, c_uint};

api! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<c_int>,
        function: u64,
        threads: c_int,
        shared: usize,
    ) Context |call| {
        blocks.set(resident(call, function, threads, shared)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>,
        function: u64,
        threads: c_int,
        shared: usize,
        flags: c_uint,
    ) Context |call| {
        known_flags(flags)?;
        blocks.set(resident(call, function, threads, shared)?)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<c_int>,
        block: Out<c_int>,
        function: u64,
        shared_for: usize,
        shared: usize,
        limit: c_int,
    ) Context |call| {
        potential(call, (grid, block), function, (shared_for, shared), limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<c_int>,
        block: Out<c_int>,
        function: u64,
        shared_for: usize,
        shared: usize,
        limit: c_int,
        flags: c_uint,
    ) Context |call| {
        known_flags(flags)?;
        potential(call, (grid, block), function, (shared_for, shared), limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>,
        function: u64,
        blocks: c_int,
        threads: c_int,
    ) Context |call| {
        if blocks <= 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        if resident(call, function, threads, 0)? < blocks {
            return Err(Refusal::new(codes::INVALID_VALUE, "so many blocks do not fit whatever they share"));
        }
        let function = found(call, function)?;
        let card = &call.devices[function.code.device].card;
        let share = (card.shared_per_sm / blocks as u32) / 128 * 128;
        let own = kernel_of(function)?.static_shared as u32 + card.shared_reserved;
        let most = card.shared_per_block_optin.saturating_sub(kernel_of(function)?.static_shared as u32);
        bytes.set(share.saturating_sub(own).min(most) as usize)
    }
}

fn known_flags(flags: c_uint) -> Answer {
    if flags > 1 { Err(codes::INVALID_VALUE.into()) } else { Ok(()) }
}

/// Blocks of `threads` threads that a multiprocessor holds.
fn resident(call: &Call, handle: u64, threads: c_int, shared: usize) -> Answer<c_int> {
    let function = found(call, handle)?;
    let kernel = kernel_of(function)?;
    let card = &call.devices[function.code.device].card;
    let threads = u32::try_from(threads).ok().filter(|&threads| threads > 0);
    let threads = threads.ok_or(Refusal::from(codes::INVALID_VALUE))?;
    let shared = u32::try_from(shared).unwrap_or(u32::MAX);
    if threads > most_threads(kernel) || shared > dynamic_limit(call, function)? {
        return Ok(0);
    }
    let all = card.resident_blocks(threads, kernel.static_shared as u32 + shared, kernel.registers);
    Ok((all / u64::from(card.sms)) as c_int)
}

/// The block size with the most threads on a multiprocessor; of several the largest.
fn potential(
    call: &mut Call,
    (grid, block): (Out<c_int>, Out<c_int>),
    function: u64,
    (shared_for, shared): (usize, usize),
    limit: c_int,
) -> Answer {
    if limit < 0 {
        return Err(codes::INVALID_VALUE.into());
    }
    let most = if limit == 0 { MAX_THREADS as c_int } else { limit.min(MAX_THREADS as c_int) };
    let (mut best, mut threads_best) = ((0, 0), 0);
    for threads in (1..=most).rev().filter(|&threads| threads == most || threads % 32 == 0) {
        let dynamic = match shared_for {
            0 => shared,
            callback => call.unlocked(|| crate::driver::raw::shared_for_block(callback, threads)),
        };
        let blocks = resident(call, function, threads, dynamic)?;
        if blocks * threads > threads_best {
            (best, threads_best) = ((blocks, threads), blocks * threads);
        }
    }
    if best.0 == 0 {
        return Err(Refusal::new(codes::LAUNCH_OUT_OF_RESOURCES, "no block of this kernel fits the card"));
    }
    let sms = call.devices[found(call, function)?.code.device].card.sms;
    grid.set(best.0 * sms as c_int)?;
    block.set(best.1)
}
