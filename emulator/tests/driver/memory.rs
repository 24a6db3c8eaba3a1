//! Device memory, pinned memory, pools: what is given, what is counted, what is refused.

use crate::harness::*;
use crate::tools::*;
use cudarc::driver::sys::{self, CUdeviceptr, CUresult, cudaError_enum::*};
use std::ffi::c_void;
use std::ptr::null_mut;

const CONTEXT: u32 = 1;
const MEMORY_TYPE: u32 = 2;
const DEVICE_POINTER: u32 = 3;
const HOST_POINTER: u32 = 4;
const BUFFER_ID: u32 = 7;
const DEVICE_ORDINAL: u32 = 9;
const RANGE_START: u32 = 11;
const RANGE_SIZE: u32 = 12;
const MAPPED: u32 = 13;
const POOL: u32 = 17;

const USED: u32 = 7;
const USED_HIGH: u32 = 8;

fn free(address: CUdeviceptr) -> CUresult {
    unsafe { sys::cuMemFree_v2(address) }
}

fn info() -> (usize, usize) {
    let (mut free, mut total) = (0, 0);
    ok(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) });
    (free, total)
}

/// An attribute of a pointer, numbers as in `CUpointer_attribute`; the eight bytes begin as zero.
fn attribute(number: u32, address: u64) -> Result<u64, CUresult> {
    type F = unsafe extern "C" fn(*mut u64, u32, u64) -> CUresult;
    let mut value = 0;
    match unsafe { symbol::<F>("cuPointerGetAttribute")(&mut value, number, address) } {
        CUDA_SUCCESS => Ok(value),
        error => Err(error),
    }
}

fn attributes(numbers: &[u32], address: u64) -> Vec<u64> {
    type F = unsafe extern "C" fn(u32, *const u32, *mut *mut u64, u64) -> CUresult;
    let mut values = vec![0u64; numbers.len()];
    let mut to: Vec<_> = values.iter_mut().map(|value| &raw mut *value).collect();
    let f = symbol::<F>("cuPointerGetAttributes");
    ok(unsafe { f(numbers.len() as u32, numbers.as_ptr(), to.as_mut_ptr(), address) });
    values
}

fn range(address: u64) -> Result<(u64, usize), CUresult> {
    let (mut base, mut size) = (0, 0);
    match unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut size, address) } {
        CUDA_SUCCESS => Ok((base, size)),
        error => Err(error),
    }
}

fn pinned(bytes: usize) -> *mut c_void {
    let mut at = null_mut();
    ok(unsafe { sys::cuMemAllocHost_v2(&mut at, bytes) });
    at
}

fn pool_attribute(pool: sys::CUmemoryPool, number: u32) -> u64 {
    type F = unsafe extern "C" fn(sys::CUmemoryPool, u32, *mut u64) -> CUresult;
    let mut value = 0;
    ok(unsafe { symbol::<F>("cuMemPoolGetAttribute")(pool, number, &mut value) });
    value
}

fn set_pool_attribute(pool: sys::CUmemoryPool, number: u32, value: *const u64) -> CUresult {
    type F = unsafe extern "C" fn(sys::CUmemoryPool, u32, *const u64) -> CUresult;
    unsafe { symbol::<F>("cuMemPoolSetAttribute")(pool, number, value) }
}

#[test]
fn memory_is_given_and_taken_back() {
    let session = session(&[("MEMORY", "1M")]);
    assert_eq!(info(), (1 << 20, 1 << 20));
    // In steps of 512 bytes.
    let (a, b) = (alloc(1), alloc(513));
    assert_eq!(info().0, (1 << 20) - 512 - 1024);
    ok(free(a));
    assert_eq!(info().0, (1 << 20) - 1024);
    ok(free(b));
    ok(free(0));
    assert_eq!(info().0, 1 << 20);
    let mut x = 77;
    fails(unsafe { sys::cuMemAlloc_v2(&mut x, 0) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemAlloc_v2(null_mut(), 16) }, CUDA_ERROR_INVALID_VALUE);
    for too_much in [(1 << 20) + 1, 1 << 40, usize::MAX] {
        fails(unsafe { sys::cuMemAlloc_v2(&mut x, too_much) }, CUDA_ERROR_OUT_OF_MEMORY);
    }
    assert_eq!((x, info().0), (77, 1 << 20));
    // All of it, and then nothing more.
    let all = alloc(1 << 20);
    assert_eq!(info(), (0, 1 << 20));
    fails(unsafe { sys::cuMemAlloc_v2(&mut x, 1) }, CUDA_ERROR_OUT_OF_MEMORY);
    assert!(session.last_error().contains("cuMemAlloc"), "{}", session.last_error());
    ok(free(all));
    assert_eq!(session.report()["living"]["allocations"], 0);
    fails(unsafe { sys::cuMemGetInfo_v2(null_mut(), &mut 0) }, CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn what_is_not_the_start_of_an_allocation_is_not_freed() {
    let session = session(&[]);
    alloc(1);
    let x = alloc(1000);
    for (wrong, text) in [
        (x + 8, "inside the allocation"),
        (x + 1000, "past the end of"),
        (x - 8, "8 bytes before"),
        (0x1234, "no device memory"),
        (u64::MAX, "no device memory"),
    ] {
        fails(free(wrong), CUDA_ERROR_INVALID_VALUE);
        assert!(session.last_error().contains(text), "{}", session.last_error());
    }
    put(x, &[5u8; 1000]);
    assert_eq!(get::<u8>(x, 1000), [5; 1000]);
    ok(free(x));
    fails(free(x), CUDA_ERROR_INVALID_VALUE);
    assert!(session.last_error().contains("freed allocation"), "{}", session.last_error());
    // Nor is what is freed copied, or a later allocation put in its place.
    let mut byte = 0u8;
    fails(unsafe { sys::cuMemcpyDtoH_v2((&raw mut byte).cast(), x, 1) }, CUDA_ERROR_INVALID_VALUE);
    assert_ne!(alloc(1000), x);
}

/// The programming guide promises 256 bytes; a program that relies on more is to be caught.
#[test]
fn addresses_are_aligned_to_256_bytes_and_not_always_to_more() {
    let _session = session(&[]);
    let addresses: Vec<u64> = (0..64).map(|n| alloc(1 + 700 * n)).collect();
    assert!(addresses.iter().all(|x| x % 256 == 0));
    assert!(addresses.iter().any(|x| x % 1024 != 0), "{addresses:x?}");
    assert!(addresses.windows(2).all(|pair| pair[0] + 44_000 < pair[1]));
}

#[test]
fn pitched_memory_has_rows_that_are_aligned() {
    let _session = session(&[]);
    for (width, height, element) in [(1, 1, 4), (512, 3, 4), (513, 7, 8), (3000, 2, 16)] {
        let (mut x, mut pitch) = (0, 0);
        ok(unsafe { sys::cuMemAllocPitch_v2(&mut x, &mut pitch, width, height, element) });
        assert!(pitch >= width && pitch.is_multiple_of(256) && pitch < width + 1024, "{pitch}");
        assert_eq!(range(x), Ok((x, pitch * height)));
    }
    let (mut x, mut pitch) = (0, 0);
    for element in [0, 1, 2, 3, 32] {
        fails(
            unsafe { sys::cuMemAllocPitch_v2(&mut x, &mut pitch, 4, 4, element) },
            CUDA_ERROR_INVALID_VALUE,
        );
    }
    for (width, height) in [(0, 4), (4, 0)] {
        let result = unsafe { sys::cuMemAllocPitch_v2(&mut x, &mut pitch, width, height, 4) };
        fails(result, CUDA_ERROR_INVALID_VALUE);
    }
    for (width, height) in [(usize::MAX, 1), (1 << 40, 1 << 40)] {
        assert_ne!(unsafe { sys::cuMemAllocPitch_v2(&mut x, &mut pitch, width, height, 4) }, CUDA_SUCCESS);
    }
    assert_eq!((x, pitch), (0, 0));
}

#[test]
fn pointers_tell_what_they_are() {
    let _session = session(&[("DEVICES", "2")]);
    let mut context = null_mut();
    ok(unsafe { sys::cuCtxGetCurrent(&mut context) });
    let (x, host) = (alloc(1000), pinned(5000) as u64);
    let mut own = vec![0u8; 300];
    let registered = own.as_mut_ptr() as u64;
    ok(unsafe { sys::cuMemHostRegister_v2(own.as_mut_ptr().cast(), 300, 0) });
    for (base, size, kind) in [(x, 1000, 2), (host, 5000, 1), (registered, 300, 1)] {
        for inside in [0, 1, size / 2, size - 1] {
            let p = base + inside;
            assert_eq!(attribute(CONTEXT, p), Ok(context as u64));
            assert_eq!(attribute(MEMORY_TYPE, p), Ok(kind));
            assert_eq!(
                attribute(DEVICE_POINTER, p),
                if kind == 2 { Ok(p) } else { Err(CUDA_ERROR_INVALID_VALUE) }
            );
            assert_eq!(
                attribute(HOST_POINTER, p),
                if kind == 1 { Ok(p) } else { Err(CUDA_ERROR_INVALID_VALUE) }
            );
            assert_eq!(attribute(DEVICE_ORDINAL, p), Ok(0));
            assert_eq!((attribute(RANGE_START, p), attribute(RANGE_SIZE, p)), (Ok(base), Ok(size)));
            assert_eq!(attribute(MAPPED, p), Ok(u64::from(kind == 2)));
            assert_eq!(attributes(&[MEMORY_TYPE, RANGE_SIZE, DEVICE_ORDINAL], p), [kind, size, 0]);
        }
        assert_eq!(attribute(MEMORY_TYPE, base + size), Err(CUDA_ERROR_INVALID_VALUE), "{kind}");
        assert_eq!(attribute(MEMORY_TYPE, base - 1), Err(CUDA_ERROR_INVALID_VALUE), "{kind}");
    }
    // Each buffer has an identity.
    assert_ne!(attribute(BUFFER_ID, x), attribute(BUFFER_ID, alloc(1000)));
    // The manual: of a pointer that CUDA does not know one attribute is an invalid value; of several at once each is
    // given as null, a memory's device as -2.
    for unknown in [0, 8, &raw const context as u64, u64::MAX] {
        for number in [CONTEXT, MEMORY_TYPE, DEVICE_POINTER, DEVICE_ORDINAL, RANGE_SIZE] {
            assert_eq!(attribute(number, unknown), Err(CUDA_ERROR_INVALID_VALUE));
        }
        let values = attributes(&[CONTEXT, MEMORY_TYPE, DEVICE_ORDINAL, POOL], unknown);
        assert_eq!(values, [0, 0, u64::from(-2i32 as u32), 0]);
    }
    assert!(attribute(99, x).is_err());
    type F = unsafe extern "C" fn(*mut u64, u32, u64) -> CUresult;
    let nowhere = unsafe { symbol::<F>("cuPointerGetAttribute")(null_mut(), MEMORY_TYPE, x) };
    fails(nowhere, CUDA_ERROR_INVALID_VALUE);
    // The other card's memory, from a context of this one.
    let mut other = null_mut();
    ok(unsafe { sys::cuCtxCreate_v2(&mut other, 0, 1) });
    let y = alloc(10);
    ok(unsafe { sys::cuCtxSetCurrent(context) });
    assert_eq!(attributes(&[DEVICE_ORDINAL, CONTEXT, MEMORY_TYPE], y), [1, other as u64, 2]);
    // And the variables of modules.
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .global .align 8 .b8 table[40];\n";
    let (mut table, mut size) = (0, 0);
    ok(unsafe { sys::cuModuleGetGlobal_v2(&mut table, &mut size, module(text), c"table".as_ptr()) });
    assert_eq!(attributes(&[DEVICE_ORDINAL, CONTEXT, MEMORY_TYPE], table + 39), [0, context as u64, 2]);
    assert_eq!(range(table + 1), Ok((table, 40)));
}

/// The manual lists CUDA_ERROR_NOT_FOUND for pointers of no allocation.
#[test]
fn ranges_of_addresses() {
    let _session = session(&[]);
    let x = alloc(1000);
    for inside in [0, 1, 999] {
        assert_eq!(range(x + inside), Ok((x, 1000)));
    }
    for outside in [x + 1000, x - 1, 0, u64::MAX] {
        assert_eq!(range(outside), Err(CUDA_ERROR_NOT_FOUND));
    }
    // Both answers may be left out.
    let mut size = 0;
    ok(unsafe { sys::cuMemGetAddressRange_v2(null_mut(), &mut size, x) });
    ok(unsafe { sys::cuMemGetAddressRange_v2(null_mut(), null_mut(), x) });
    assert_eq!(size, 1000);
}

#[test]
fn pinned_memory() {
    let session = session(&[]);
    let a = pinned(5000);
    assert_eq!(a as usize % 4096, 0);
    unsafe { std::slice::from_raw_parts_mut(a.cast::<u8>(), 5000) }.fill(7);
    let mut flags = 9;
    ok(unsafe { sys::cuMemHostGetFlags(&mut flags, a) });
    assert_eq!(flags, 0);
    let (mut b, null) = (null_mut(), null_mut::<c_void>());
    ok(unsafe { sys::cuMemHostAlloc(&mut b, 100, 1 | 4) });
    ok(unsafe { sys::cuMemHostGetFlags(&mut flags, b.wrapping_byte_add(99)) });
    assert_eq!((flags, &session.report()["living"]["pinned"]), (5, &2.into()));
    fails(unsafe { sys::cuMemHostAlloc(&mut b, 100, 8) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemHostAlloc(&mut b, 100, 2) }, CUDA_ERROR_NOT_SUPPORTED);
    fails(unsafe { sys::cuMemAllocHost_v2(&mut b, 0) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemAllocHost_v2(null_mut(), 9) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemAllocHost_v2(&mut null.clone(), usize::MAX) }, CUDA_ERROR_OUT_OF_MEMORY);
    fails(unsafe { sys::cuMemHostGetFlags(&mut flags, a.wrapping_byte_add(5000)) }, CUDA_ERROR_INVALID_VALUE);
    // Only what begins there and is the driver's is freed.
    fails(unsafe { sys::cuMemFreeHost(a.wrapping_byte_add(8)) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemFreeHost(null) }, CUDA_ERROR_INVALID_VALUE);
    fails(free(a as u64), CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemHostUnregister(a) }, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    ok(unsafe { sys::cuMemFreeHost(a) });
    fails(unsafe { sys::cuMemFreeHost(a) }, CUDA_ERROR_INVALID_VALUE);
    ok(unsafe { sys::cuMemFreeHost(b) });
    assert_eq!(session.report()["living"]["pinned"], 0);
}

#[test]
fn registered_memory() {
    let session = session(&[]);
    let mut own = vec![3u8; 1000];
    let at = |offset: usize| own.as_ptr().wrapping_add(offset).cast_mut().cast::<c_void>();
    let register = |offset, bytes| unsafe { sys::cuMemHostRegister_v2(at(offset), bytes, 0) };
    ok(register(100, 200));
    ok(register(300, 10));
    for (offset, bytes) in [(100, 200), (0, 101), (299, 1), (150, 10), (0, 1000), (290, 20)] {
        fails(register(offset, bytes), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    }
    ok(register(0, 100));
    fails(unsafe { sys::cuMemHostRegister_v2(null_mut(), 8, 0) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemHostRegister_v2(at(500), 0, 0) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemHostRegister_v2(at(500), usize::MAX, 0) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemHostRegister_v2(at(500), 8, 64) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemHostUnregister(at(101)) }, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    fails(unsafe { sys::cuMemFreeHost(at(100)) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(session.report()["living"]["pinned"], 3);
    for offset in [100, 300, 0] {
        ok(unsafe { sys::cuMemHostUnregister(at(offset)) });
        fails(unsafe { sys::cuMemHostUnregister(at(offset)) }, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    }
    assert_eq!(session.report()["living"]["pinned"], 0);
    own.fill(4);
}

#[test]
fn memory_of_streams_is_freed_when_its_turn_comes() {
    for seed in ["0", "1", "2", "3"] {
        let session = session(&[("SEED", seed), ("MEMORY", "1M")]);
        let (s, mut x) = (stream(), 0);
        ok(unsafe { sys::cuMemAllocAsync(&mut x, 1000, s) });
        let mut pool = null_mut();
        ok(unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, 0) });
        assert_eq!(attributes(&[POOL, RANGE_SIZE, MEMORY_TYPE], x), [pool as u64, 1000, 2]);
        assert_eq!((pool_attribute(pool, USED), pool_attribute(pool, USED_HIGH)), (1000, 1000));
        ok(unsafe { sys::cuMemsetD8Async(x, 1, 1000, s) });
        ok(unsafe { sys::cuMemFreeAsync(x, s) });
        fails(unsafe { sys::cuMemFreeAsync(x, s) }, CUDA_ERROR_INVALID_VALUE);
        fails(free(x), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(session.report()["living"]["allocations"], 0);
        ok(unsafe { sys::cuStreamSynchronize(s) });
        assert_eq!((info().0, session.faults().len()), (1 << 20, 0));
        assert_eq!((pool_attribute(pool, USED), pool_attribute(pool, USED_HIGH)), (0, 1000));
        // Resetting the high mark is all that may be set to it.
        ok(set_pool_attribute(pool, USED_HIGH, &0));
        assert_eq!(pool_attribute(pool, USED_HIGH), 0);
        fails(set_pool_attribute(pool, USED_HIGH, &1), CUDA_ERROR_INVALID_VALUE);
        // The guide: each way of freeing serves both ways of allocating.
        ok(unsafe { sys::cuMemAllocAsync(&mut x, 1000, s) });
        ok(free(x));
        ok(unsafe { sys::cuMemFreeAsync(alloc(100), s) });
        ok(unsafe { sys::cuMemFreeAsync(0, s) });
        ok(unsafe { sys::cuCtxSynchronize() });
        assert_eq!((pool_attribute(pool, USED), info().0), (0, 1 << 20));
        fails(unsafe { sys::cuMemAllocAsync(&mut x, 2 << 20, s) }, CUDA_ERROR_OUT_OF_MEMORY);
        fails(unsafe { sys::cuMemAllocAsync(&mut x, 0, s) }, CUDA_ERROR_INVALID_VALUE);
        fails(unsafe { sys::cuMemAllocAsync(null_mut(), 8, s) }, CUDA_ERROR_INVALID_VALUE);
        fails(unsafe { sys::cuMemAllocAsync(&mut x, 8, 0xdead0 as _) }, CUDA_ERROR_INVALID_HANDLE);
        assert_eq!((pool_attribute(pool, USED), info().0), (0, 1 << 20));
    }
}

#[test]
fn pools() {
    let session = session(&[("DEVICES", "2"), ("MEMORY", "1M")]);
    let mut properties = unsafe { std::mem::zeroed::<sys::CUmemPoolProps>() };
    properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = 1;
    let mut pool = null_mut();
    fails(unsafe { sys::cuMemPoolCreate(null_mut(), &properties) }, CUDA_ERROR_INVALID_VALUE);
    ok(unsafe { sys::cuMemPoolCreate(&mut pool, &properties) });
    assert_eq!(session.report()["living"]["pools"], 1);
    // Release threshold (4) and reuse (1 to 3) are remembered.
    for (number, first, value) in [(4, 0, u64::MAX), (1, 1, 0), (2, 1, 0), (3, 1, 0)] {
        assert_eq!(pool_attribute(pool, number), first);
        ok(set_pool_attribute(pool, number, &value));
        assert_eq!(pool_attribute(pool, number), value);
    }
    fails(set_pool_attribute(pool, 4, std::ptr::null()), CUDA_ERROR_INVALID_VALUE);
    assert_ne!(set_pool_attribute(pool, 99, &0), CUDA_SUCCESS);
    ok(unsafe { sys::cuMemPoolTrimTo(pool, 0) });
    // It is the other card's.
    let (s, mut x) = (stream(), 0);
    ok(unsafe { sys::cuMemAllocFromPoolAsync(&mut x, 600, pool, s) });
    assert_eq!(attributes(&[DEVICE_ORDINAL, POOL], x), [1, pool as u64]);
    assert_eq!((info().0, pool_attribute(pool, USED)), (1 << 20, 600));
    fails(unsafe { sys::cuMemAllocFromPoolAsync(null_mut(), 600, pool, s) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(pool_attribute(pool, USED), 600);
    ok(unsafe { sys::cuMemFreeAsync(x, s) });
    ok(unsafe { sys::cuStreamSynchronize(s) });
    assert_eq!(pool_attribute(pool, USED), 0);
    // What a card allocates from by default, of its own pools.
    let (mut now, mut first) = (null_mut(), null_mut());
    fails(unsafe { sys::cuDeviceSetMemPool(0, pool) }, CUDA_ERROR_INVALID_VALUE);
    ok(unsafe { sys::cuDeviceSetMemPool(1, pool) });
    ok(unsafe { sys::cuDeviceGetMemPool(&mut now, 1) });
    ok(unsafe { sys::cuDeviceGetDefaultMemPool(&mut first, 1) });
    assert!(now == pool && first != pool);
    ok(unsafe { sys::cuMemPoolDestroy(pool) });
    ok(unsafe { sys::cuDeviceGetMemPool(&mut now, 1) });
    assert_eq!(now, first);
    fails(unsafe { sys::cuMemPoolDestroy(pool) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemPoolDestroy(first) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuMemAllocFromPoolAsync(&mut x, 600, pool, s) }, CUDA_ERROR_INVALID_VALUE);
    // A pool that is destroyed lives on for what was allocated from it.
    properties.location.id = 0;
    ok(unsafe { sys::cuMemPoolCreate(&mut pool, &properties) });
    ok(unsafe { sys::cuMemAllocFromPoolAsync(&mut x, 600, pool, s) });
    ok(unsafe { sys::cuMemPoolDestroy(pool) });
    put(x, &[1u8; 600]);
    ok(unsafe { sys::cuMemFreeAsync(x, s) });
    ok(unsafe { sys::cuStreamSynchronize(s) });
    assert_eq!(info().0, 1 << 20);
    properties.location.id = 7;
    fails(unsafe { sys::cuMemPoolCreate(&mut pool, &properties) }, CUDA_ERROR_INVALID_DEVICE);
    properties.handleTypes = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    fails(unsafe { sys::cuMemPoolCreate(&mut pool, &properties) }, CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(session.report()["living"]["pools"], 0);
}

#[test]
fn leaks_are_reported_with_the_call_that_made_them() {
    let session = session(&[]);
    let calls = session.report()["calls"].as_u64().unwrap();
    let (a, b, s) = (alloc(100), alloc(300), stream());
    let mut c = 0;
    ok(unsafe { sys::cuMemAllocAsync(&mut c, 700, s) });
    ok(free(b));
    let report = session.report();
    let leaks: Vec<[u64; 3]> = report["leaks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|leak| ["address", "bytes", "call"].map(|key| leak[key].as_u64().unwrap()))
        .collect();
    assert_eq!(leaks, [[a, 100, calls + 1], [c, 700, calls + 4]]);
    assert_eq!((&report["living"]["allocations"], &report["memory_used"]), (&2.into(), &(512 + 1024).into()));
}

#[test]
fn a_context_takes_its_memory_along() {
    let session = session(&[("MEMORY", "1M")]);
    let mut context = null_mut();
    ok(unsafe { sys::cuCtxCreate_v2(&mut context, 0, 0) });
    let (x, host) = (alloc(1 << 19), pinned(100));
    let mut kept = 0;
    ok(unsafe { sys::cuCtxPopCurrent_v2(null_mut()) });
    ok(unsafe { sys::cuMemAlloc_v2(&mut kept, 512) });
    ok(unsafe { sys::cuCtxDestroy_v2(context) });
    assert_eq!(info().0, (1 << 20) - 512);
    let living = session.report()["living"].clone();
    assert_eq!((&living["allocations"], &living["pinned"]), (&1.into(), &0.into()));
    assert_eq!(attribute(MEMORY_TYPE, x), Err(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(attribute(MEMORY_TYPE, host as u64), Err(CUDA_ERROR_INVALID_VALUE));
    ok(free(kept));
}

#[test]
fn an_attribute_that_would_change_nothing_is_refused() {
    let session = session(&[]);
    let x = alloc(4);
    let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;
    let set = |value: u32, address| unsafe {
        sys::cuPointerSetAttribute((&raw const value).cast(), attribute, address)
    };
    ok(set(0, x));
    fails(set(1, x), sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert!(session.last_error().contains("SYNC_MEMOPS"));
    fails(set(0, x + 4), sys::CUresult::CUDA_ERROR_INVALID_VALUE);
}
