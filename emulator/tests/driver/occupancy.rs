//! Occupancy, as cuda_occupancy.h computes it: blocks a multiprocessor holds, by threads, shared memory and their number.

use crate::harness::*;
use cudarc::driver::sys::{self, CUfunction, CUresult, cudaError_enum::*};
use std::sync::atomic::{AtomicU64, Ordering};

/// `free`; `own`: 16 KiB of shared memory of its own; `bounded`: at most 128 threads.
const KINDS: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry free() { ret; }
.visible .entry bounded() .maxntid 128, 1, 1 { ret; }
.visible .entry own()
{
    .shared .align 4 .b8 mine[16384];
    .reg .b32 %r<2>;
    mov.u32 %r1, 1;
    st.shared.u32 [mine], %r1;
    ret;
}
";

fn blocks(function: CUfunction, threads: i32, shared: usize) -> Result<i32, CUresult> {
    let (mut blocks, mut same) = (-1, -1);
    let result =
        unsafe { sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, threads, shared) };
    let flagged = unsafe {
        sys::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&mut same, function, threads, shared, 1)
    };
    assert_eq!((result, blocks), (flagged, same));
    if result == CUDA_SUCCESS { Ok(blocks) } else { Err(result) }
}

/// Grid and block.
fn potential(
    function: CUfunction,
    per_block: sys::CUoccupancyB2DSize,
    shared: usize,
    limit: i32,
) -> Result<(i32, i32), CUresult> {
    let (mut grid, mut block) = (-1, -1);
    let result = unsafe {
        sys::cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, function, per_block, shared, limit)
    };
    if result == CUDA_SUCCESS { Ok((grid, block)) } else { Err(result) }
}

fn available(function: CUfunction, blocks: i32, threads: i32) -> Result<usize, CUresult> {
    let mut bytes = 77;
    match unsafe { sys::cuOccupancyAvailableDynamicSMemPerBlock(&mut bytes, function, blocks, threads) } {
        CUDA_SUCCESS => Ok(bytes),
        error => Err(error),
    }
}

fn raise(function: CUfunction, bytes: i32) {
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    ok(unsafe { sys::cuFuncSetAttribute(function, attribute, bytes) });
}

#[test]
fn blocks_are_limited_by_threads_shared_memory_and_number() {
    let _session = session(&[]);
    let module = module(KINDS);
    let [free, bounded, own] = ["free", "bounded", "own"].map(|name| function(module, name));
    // 2048 threads and 32 blocks; warps count whole.
    for (threads, expected) in [
        (1, 32),
        (32, 32),
        (64, 32),
        (65, 21),
        (96, 21),
        (128, 16),
        (512, 4),
        (700, 2),
        (1024, 2),
        (1025, 0),
        (i32::MAX, 0),
    ] {
        assert_eq!(blocks(free, threads, 0), Ok(expected), "{threads}");
    }
    // 164 KiB, of which each block takes what it asks for and 1 KiB more.
    for (shared, expected) in
        [(1 << 10, 32), (10 << 10, 14), (40 << 10, 4), (48 << 10, 3), ((48 << 10) + 1, 0)]
    {
        assert_eq!(blocks(free, 32, shared), Ok(expected), "{shared}");
    }
    raise(free, 163 << 10);
    assert_eq!((blocks(free, 32, 80 << 10), blocks(free, 32, 163 << 10)), (Ok(2), Ok(1)));
    assert_eq!((blocks(own, 32, 0), blocks(own, 32, 16 << 10)), (Ok(9), Ok(4)));
    // No launch may have more threads than the kernel is built for.
    assert_eq!((blocks(bounded, 128, 0), blocks(bounded, 129, 0)), (Ok(16), Ok(0)));
    for wrong in [0, -1] {
        assert_eq!(blocks(free, wrong, 0), Err(CUDA_ERROR_INVALID_VALUE));
    }
    assert_eq!(blocks(std::ptr::null_mut(), 32, 0), Err(CUDA_ERROR_INVALID_HANDLE));
    assert_eq!(blocks(free, 32, usize::MAX), Ok(0));
    let mut one = 0;
    fails(
        unsafe { sys::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&mut one, free, 32, 0, 2) },
        CUDA_ERROR_INVALID_VALUE,
    );
}

static ASKED: AtomicU64 = AtomicU64::new(0);

/// 40 bytes a thread.
unsafe extern "C" fn by_threads(threads: i32) -> usize {
    ASKED.fetch_add(1, Ordering::Relaxed);
    40 * threads as usize
}

/// Too much for any block.
unsafe extern "C" fn too_much(_: i32) -> usize {
    1 << 20
}

/// A function that asks the driver, as a program may well do.
unsafe extern "C" fn asks(threads: i32) -> usize {
    let mut count = 0;
    let result = unsafe { sys::cuDeviceGetCount(&mut count) };
    assert_eq!((result, count), (CUDA_SUCCESS, 1));
    4 * threads as usize
}

#[test]
fn the_block_size_with_the_most_threads() {
    let _session = session(&[("CARD", "sm_80,sms=10")]);
    let module = module(KINDS);
    let [free, bounded, own] = ["free", "bounded", "own"].map(|name| function(module, name));
    assert_eq!(potential(free, None, 0, 0), Ok((20, 1024)));
    assert_eq!(potential(free, None, 0, 5000), Ok((20, 1024)));
    assert_eq!(potential(free, None, 0, 256), Ok((80, 256)));
    // 320 blocks of a warp, or the limit itself where it is less.
    assert_eq!(potential(free, None, 0, 32), Ok((320, 32)));
    assert_eq!(potential(free, None, 0, 20), Ok((320, 20)));
    assert_eq!(potential(bounded, None, 0, 0), Ok((160, 128)));
    // Three blocks hold 48 KiB each.
    assert_eq!(potential(free, None, 48 << 10, 0), Ok((20, 1024)));
    assert_eq!(potential(free, None, 48 << 10, 512), Ok((30, 512)));
    assert_eq!(potential(own, None, 0, 0), Ok((20, 1024)));
    // By the function: 1024 threads take 40 KiB, of which four fit, more than there are threads for.
    assert_eq!(potential(free, Some(by_threads), 7, 0), Ok((20, 1024)));
    assert!(ASKED.load(Ordering::Relaxed) > 0);
    assert_eq!(potential(free, Some(too_much), 0, 0), Err(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    assert_eq!(potential(free, Some(asks), 0, 0), Ok((20, 1024)));
    assert_eq!(potential(std::ptr::null_mut(), None, 0, 0), Err(CUDA_ERROR_INVALID_HANDLE));
    let (mut grid, mut block) = (0, 0);
    let with = |grid, block, flags| unsafe {
        sys::cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, free, None, 0, 64, flags)
    };
    ok(with(&mut grid, &mut block, 1));
    assert_eq!((grid, block), (320, 64));
    fails(with(&mut grid, &mut block, 2), CUDA_ERROR_INVALID_VALUE);
    fails(with(std::ptr::null_mut(), &mut block, 0), CUDA_ERROR_INVALID_VALUE);
}

/// So much that as many blocks are resident with it, and not with 128 bytes more.
#[test]
fn shared_memory_that_so_many_blocks_may_have() {
    for (card, optin) in [("sm_80", 163 << 10), ("sm_90a", 227 << 10)] {
        let _session = session(&[("CARD", card)]);
        let module = module(KINDS);
        let [free, own] = ["free", "own"].map(|name| function(module, name));
        assert_eq!(available(free, 1, 1024), Ok(optin));
        assert_eq!(available(own, 1, 1024), Ok(optin - 16_384));
        raise(free, optin as i32);
        raise(own, optin as i32 - 16_384);
        for function in [free, own] {
            for count in 2..=8 {
                let bytes = available(function, count, 128).unwrap();
                assert!(blocks(function, 128, bytes).unwrap() >= count, "{count} {bytes}");
                assert!(blocks(function, 128, bytes + 128).unwrap() < count, "{count} {bytes}");
            }
        }
        for (count, threads) in [(0, 32), (-1, 32), (3, 1024), (33, 32), (1, 0), (1, 1025)] {
            assert_eq!(available(free, count, threads), Err(CUDA_ERROR_INVALID_VALUE), "{count} {threads}");
        }
    }
}

/// A kernel with more shared memory than a small card has is refused somewhere, and never a reason to panic.
#[test]
fn a_card_with_little_shared_memory() {
    let session = session(&[("CARD", "sm_80,shared=8K")]);
    let text = std::ffi::CString::new(KINDS).unwrap();
    let mut module = std::ptr::null_mut();
    fails(unsafe { sys::cuModuleLoadData(&mut module, text.as_ptr().cast()) }, CUDA_ERROR_INVALID_PTX);
    assert!(session.last_error().contains("own"), "{}", session.last_error());
}
