//! Cards and contexts: what they say of themselves, who is current, what goes when they go.

use crate::harness::*;
use crate::tools::*;
use cudarc::driver::sys::{self, CUcontext, CUresult, cudaError_enum::*};
use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

fn attribute(number: u32, device: i32) -> Result<i32, CUresult> {
    type F = unsafe extern "C" fn(*mut i32, u32, i32) -> CUresult;
    let mut value = 0;
    match unsafe { symbol::<F>("cuDeviceGetAttribute")(&mut value, number, device) } {
        CUDA_SUCCESS => Ok(value),
        error => Err(error),
    }
}

fn name(device: i32) -> String {
    let mut text = [1; 64];
    ok(unsafe { sys::cuDeviceGetName(text.as_mut_ptr(), 64, device) });
    unsafe { CStr::from_ptr(text.as_ptr()) }.to_str().unwrap().into()
}

fn uuid(device: i32) -> [c_char; 16] {
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    ok(unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) });
    uuid.bytes
}

fn current() -> CUcontext {
    let mut context = null_mut();
    ok(unsafe { sys::cuCtxGetCurrent(&mut context) });
    context
}

fn create(flags: u32, device: i32) -> CUcontext {
    let mut context = null_mut();
    ok(unsafe { sys::cuCtxCreate_v2(&mut context, flags, device) });
    context
}

fn retain(device: i32) -> CUcontext {
    let mut context = null_mut();
    ok(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) });
    context
}

fn state(device: i32) -> (u32, bool) {
    let (mut flags, mut active) = (99, 99);
    ok(unsafe { sys::cuDevicePrimaryCtxGetState(device, &mut flags, &mut active) });
    (flags, active == 1)
}

fn total(device: i32) -> usize {
    let mut bytes = 0;
    ok(unsafe { sys::cuDeviceTotalMem_v2(&mut bytes, device) });
    bytes
}

/// Numbers of `CUdevice_attribute` in cuda.h; values of the programming guide's table of compute capabilities.
#[test]
fn cards_describe_themselves() {
    for (card, major, sms, shared_sm, shared_block) in [
        ("sm_80", 8, 108, 167_936, 166_912),
        ("sm_90a", 9, 132, 233_472, 232_448),
        ("sm_80,sms=7", 8, 7, 167_936, 166_912),
    ] {
        let session = session(&[("CARD", card)]);
        assert!(name(0).contains("emulated"), "{}", name(0));
        for (number, value) in [
            (1, 1024),
            (2, 1024),
            (3, 1024),
            (4, 64),
            (5, i32::MAX),
            (6, 65_535),
            (7, 65_535),
            (8, 49_152),
            (9, 65_536),
            (10, 32),
            (12, 65_536),
            (16, sms),
            (39, 2048),
            (41, 1),
            (75, major),
            (76, 0),
            (81, shared_sm),
            (82, 65_536),
            (95, 1),
            (97, shared_block),
            (106, 32),
            (111, 1024),
            (115, 1),
            (120, 0),
        ] {
            assert_eq!(attribute(number, 0), Ok(value), "{card} attribute {number}");
        }
        assert_eq!(session.report()["device"]["sms"], sms);
        let (mut a, mut b) = (0, 0);
        ok(unsafe { sys::cuDeviceComputeCapability(&mut a, &mut b, 0) });
        assert_eq!((a, b), (major, 0));
        let mut properties = unsafe { std::mem::zeroed::<sys::CUdevprop>() };
        ok(unsafe { sys::cuDeviceGetProperties(&mut properties, 0) });
        assert_eq!(properties.maxThreadsPerBlock, 1024);
        assert_eq!(
            (properties.maxThreadsDim, properties.maxGridSize),
            ([1024, 1024, 64], [i32::MAX, 65_535, 65_535])
        );
        assert_eq!(
            (properties.sharedMemPerBlock, properties.SIMDWidth, properties.regsPerBlock),
            (49_152, 32, 65_536)
        );
        // Every number up to the last known one has a value, others are invalid.
        assert!((1..=100).all(|number| attribute(number, 0).is_ok()));
        for wrong in [0, 1000, u32::MAX] {
            assert_eq!(attribute(wrong, 0), Err(CUDA_ERROR_INVALID_VALUE));
        }
    }
}

#[test]
fn settings_change_the_card() {
    let _session = session(&[("CARD", "sm_90a,l2=1M,shared=100K,registers=32K"), ("MEMORY", "3M")]);
    assert_eq!(attribute(38, 0), Ok(1 << 20));
    assert_eq!(
        (attribute(97, 0), attribute(81, 0), attribute(12, 0)),
        (Ok(102_400), Ok(103_424), Ok(32_768))
    );
    assert_eq!(total(0), 3 << 20);
}

#[test]
fn several_cards_are_told_apart() {
    let _session = session(&[("DEVICES", "3")]);
    let mut count = 0;
    ok(unsafe { sys::cuDeviceGetCount(&mut count) });
    assert_eq!(count, 3);
    assert!(uuid(0) != uuid(1) && uuid(1) != uuid(2) && uuid(0) != uuid(2));
    let mut old = sys::CUuuid { bytes: [0; 16] };
    ok(unsafe { sys::cuDeviceGetUuid(&mut old, 1) });
    assert_eq!(old.bytes, uuid(1));
    for device in 0..3 {
        let (mut found, mut text) = (-1, [0; 16]);
        ok(unsafe { sys::cuDeviceGet(&mut found, device) });
        assert_eq!(found, device);
        ok(unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), 16, device) });
        ok(unsafe { sys::cuDeviceGetByPCIBusId(&mut found, text.as_ptr()) });
        assert_eq!(found, device);
        assert_eq!(total(device), total(0));
        // A card does not reach another's memory, nor is it its own peer.
        for peer in 0..3 {
            let mut can = 9;
            ok(unsafe { sys::cuDeviceCanAccessPeer(&mut can, device, peer) });
            assert_eq!(can, 0);
        }
    }
    // The manual's three forms of a bus id; the card's attribute (33) agrees with it.
    for (text, device) in [(c"0000:02:00.0", 1), (c"0:2:0", 1), (c"03:00.0", 2), (c"0000:03:00", 2)] {
        let mut found = -1;
        ok(unsafe { sys::cuDeviceGetByPCIBusId(&mut found, text.as_ptr()) });
        assert_eq!(found, device, "{text:?}");
        assert_eq!(attribute(33, device), Ok(device + 1));
    }
    let mut found = 0;
    for wrong in [c"", c"x", c"02", c"0000:02:00.x", c"1:2:3:4.5"] {
        let result = unsafe { sys::cuDeviceGetByPCIBusId(&mut found, wrong.as_ptr()) };
        fails(result, CUDA_ERROR_INVALID_DEVICE);
    }
    fails(
        unsafe { sys::cuDeviceGetByPCIBusId(&mut found, c"0000:77:00.0".as_ptr()) },
        CUDA_ERROR_INVALID_DEVICE,
    );
    let other = retain(1);
    fails(unsafe { sys::cuCtxEnablePeerAccess(other, 0) }, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
}

#[test]
fn ordinals_that_do_not_exist_are_refused() {
    let session = session(&[("DEVICES", "2")]);
    for device in [2, -1, i32::MAX, i32::MIN] {
        let (mut number, mut other, mut bytes) = (0, 0u32, 0);
        let (mut context, mut text, mut uuid) = (null_mut(), [0; 64], sys::CUuuid { bytes: [0; 16] });
        let calls = unsafe {
            [
                sys::cuDeviceGet(&mut number, device),
                sys::cuDeviceGetName(text.as_mut_ptr(), 64, device),
                sys::cuDeviceGetUuid_v2(&mut uuid, device),
                sys::cuDeviceTotalMem_v2(&mut bytes, device),
                sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), 64, device),
                sys::cuDeviceCanAccessPeer(&mut number, 0, device),
                sys::cuDeviceCanAccessPeer(&mut number, device, 0),
                sys::cuDevicePrimaryCtxRetain(&mut context, device),
                sys::cuDevicePrimaryCtxRelease_v2(device),
                sys::cuDevicePrimaryCtxReset_v2(device),
                sys::cuDevicePrimaryCtxSetFlags_v2(device, 0),
                sys::cuDevicePrimaryCtxGetState(device, &mut other, &mut number),
                sys::cuCtxCreate_v2(&mut context, 0, device),
            ]
        };
        assert_eq!(calls, [CUDA_ERROR_INVALID_DEVICE; 13], "{device}");
        assert_eq!(attribute(1, device), Err(CUDA_ERROR_INVALID_DEVICE));
    }
    assert_eq!(session.report()["living"]["contexts"], 1);
}

#[test]
fn names_are_cut_to_the_room_there_is() {
    let _session = session(&[]);
    let full = name(0);
    let mut text = [1 as c_char; 8];
    ok(unsafe { sys::cuDeviceGetName(text.as_mut_ptr(), 8, 0) });
    assert_eq!(unsafe { CStr::from_ptr(text.as_ptr()) }.to_str().unwrap(), &full[..7]);
    for (to, len) in [(text.as_mut_ptr(), 0), (text.as_mut_ptr(), -1), (null_mut(), 8)] {
        fails(unsafe { sys::cuDeviceGetName(to, len, 0) }, CUDA_ERROR_INVALID_VALUE);
    }
}

/// The manual of the primary context: counted, active while it is retained; a reset destroys what is in it but not the
/// count, and releasing after a reset is safe.
#[test]
fn primary_contexts_are_counted() {
    let session = bare(&[("DEVICES", "2")]);
    ok(unsafe { sys::cuInit(0) });
    ok(unsafe { sys::cuCtxSetCurrent(null_mut()) });
    assert_eq!(state(0), (0, false));
    fails(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) }, CUDA_ERROR_INVALID_CONTEXT);
    fails(unsafe { sys::cuDevicePrimaryCtxRetain(null_mut(), 0) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!((state(0), session.report()["living"]["contexts"].as_u64()), ((0, false), Some(0)));
    let first = retain(0);
    // Retaining makes nothing current.
    assert_eq!((current(), state(0), state(1)), (null_mut(), (0, true), (0, false)));
    assert_eq!(retain(0), first);
    assert_ne!(retain(1), first);
    ok(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) });
    assert_eq!(state(0), (0, true));
    ok(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) });
    assert_eq!((state(0), state(1)), ((0, false), (0, true)));
    fails(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) }, CUDA_ERROR_INVALID_CONTEXT);
    // Flags stay for the next one.
    ok(unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(0, 4) });
    assert_eq!(state(0), (4, false));
    let second = retain(0);
    ok(unsafe { sys::cuCtxSetCurrent(second) });
    let mut flags = 0;
    ok(unsafe { sys::cuCtxGetFlags(&mut flags) });
    assert_eq!(flags, 4);
    ok(unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(0, 1) });
    assert_eq!(state(0), (1, true));
    fails(unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(0, 1 << 20) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuCtxDestroy_v2(second) }, CUDA_ERROR_INVALID_CONTEXT);
    alloc(100);
    ok(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) });
    assert_eq!(state(0), (1, false));
    assert_eq!(session.report()["living"]["allocations"], 0);
    // Still retained once: releasing it is no error, releasing it again is one.
    ok(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) });
    fails(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) }, CUDA_ERROR_INVALID_CONTEXT);
    // Without any context: nothing to do.
    ok(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) });
}

#[test]
fn a_reset_context_is_made_anew_by_the_next_retain() {
    let _session = session(&[]);
    let mut free = [0; 2];
    let x = alloc(1 << 20);
    ok(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) });
    // cuda.h of CUDA_ERROR_CONTEXT_IS_DESTROYED: the thread's context has been destroyed, or is a primary context that
    // is not initialised.
    fails(unsafe { sys::cuCtxSynchronize() }, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    let context = retain(0);
    ok(unsafe { sys::cuCtxSetCurrent(context) });
    ok(unsafe { sys::cuMemGetInfo_v2(&mut free[0], &mut free[1]) });
    assert_eq!(free[0], free[1]);
    fails(unsafe { sys::cuMemFree_v2(x) }, CUDA_ERROR_INVALID_VALUE);
    let y = alloc(16);
    put(y, &[1u32, 2, 3, 4]);
    assert_eq!(get::<u32>(y, 4), [1, 2, 3, 4]);
    // It was retained twice.
    ok(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) });
    ok(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) });
    fails(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) }, CUDA_ERROR_INVALID_CONTEXT);
}

#[test]
fn threads_have_stacks_of_contexts() {
    let _session = session(&[("DEVICES", "2")]);
    let primary = current();
    let device = || {
        let mut device = -1;
        ok(unsafe { sys::cuCtxGetDevice(&mut device) });
        device
    };
    let a = create(0, 1);
    assert_eq!((current(), device()), (a, 1));
    let b = create(0, 0);
    assert_eq!((current(), device()), (b, 0));
    let mut popped = null_mut();
    ok(unsafe { sys::cuCtxPopCurrent_v2(&mut popped) });
    assert_eq!((popped, current()), (b, a));
    ok(unsafe { sys::cuCtxPushCurrent_v2(b) });
    ok(unsafe { sys::cuCtxPushCurrent_v2(b) });
    ok(unsafe { sys::cuCtxPopCurrent_v2(null_mut()) });
    assert_eq!(current(), b);
    // Setting replaces the top, setting nothing pops it.
    ok(unsafe { sys::cuCtxSetCurrent(primary) });
    assert_eq!(current(), primary);
    ok(unsafe { sys::cuCtxSetCurrent(null_mut()) });
    assert_eq!(current(), a);
    // Another thread has a stack of its own.
    let address = a as usize;
    std::thread::spawn(move || {
        assert_eq!(current(), null_mut());
        ok(unsafe { sys::cuCtxSetCurrent(null_mut()) });
        fails(unsafe { sys::cuCtxPopCurrent_v2(null_mut()) }, CUDA_ERROR_INVALID_CONTEXT);
        ok(unsafe { sys::cuCtxPushCurrent_v2(address as CUcontext) });
        assert_eq!(current() as usize, address);
    })
    .join()
    .unwrap();
    for wrong in [0xdead0 as CUcontext, null_mut()] {
        fails(unsafe { sys::cuCtxPushCurrent_v2(wrong) }, CUDA_ERROR_INVALID_CONTEXT);
        fails(unsafe { sys::cuCtxDestroy_v2(wrong) }, CUDA_ERROR_INVALID_CONTEXT);
    }
    fails(unsafe { sys::cuCtxSetCurrent(0xdead0 as CUcontext) }, CUDA_ERROR_INVALID_CONTEXT);
    // Destroying the current one pops it; destroying one that is not current leaves the stack alone.
    ok(unsafe { sys::cuCtxDestroy_v2(b) });
    assert_eq!(current(), a);
    fails(unsafe { sys::cuCtxDestroy_v2(b) }, CUDA_ERROR_INVALID_CONTEXT);
    ok(unsafe { sys::cuCtxDestroy_v2(a) });
    assert_eq!(current(), primary);
    ok(unsafe { sys::cuCtxSynchronize() });
    fails(unsafe { sys::cuCtxCreate_v2(null_mut(), 0, 0) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuCtxCreate_v2(&mut popped, 1 << 20, 0) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(current(), primary);
}

/// cuda.h: CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context current to the calling thread has been destroyed".
#[test]
fn a_context_that_another_thread_destroyed_is_known_as_destroyed() {
    let session = session(&[]);
    let a = create(0, 0) as usize;
    std::thread::spawn(move || ok(unsafe { sys::cuCtxDestroy_v2(a as CUcontext) })).join().unwrap();
    let mut x = 0;
    fails(unsafe { sys::cuMemAlloc_v2(&mut x, 4) }, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    assert!(session.last_error().contains("destroyed"), "{}", session.last_error());
    ok(unsafe { sys::cuCtxPopCurrent_v2(null_mut()) });
    ok(unsafe { sys::cuMemAlloc_v2(&mut x, 4) });
}

#[test]
fn all_that_is_alive_goes_with_its_context() {
    for seed in ["0", "3"] {
        let session = session(&[("SEED", seed), ("DEVICES", "2")]);
        let before = session.report()["living"].clone();
        let a = create(0, 0);
        let module = module(KERNELS);
        let add = function(module, "add");
        let (x, s, e) = (alloc(4000), stream(), event());
        put(x, &[1u32; 1000]);
        let (mut y, mut pinned) = (0, null_mut());
        ok(unsafe { sys::cuMemAllocAsync(&mut y, 100, s) });
        ok(unsafe { sys::cuMemAllocHost_v2(&mut pinned, 100) });
        // From the other card's pool: it must be given back to that card.
        let (mut pool, mut z) = (null_mut(), 0);
        ok(unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, 1) });
        ok(unsafe { sys::cuMemAllocFromPoolAsync(&mut z, 1000, pool, s) });
        let mut own = vec![0u8; 100];
        ok(unsafe { sys::cuMemHostRegister_v2(own.as_mut_ptr().cast(), 100, 0) });
        ok(launch(add, 4, 256, s, &[&x, &1000u32, &1u32]));
        ok(unsafe { sys::cuEventRecord(e, s) });
        let living = session.report()["living"].clone();
        assert_eq!(
            (&living["contexts"], &living["allocations"], &living["pinned"]),
            (&2.into(), &3.into(), &2.into())
        );
        assert_eq!(
            (&living["streams"], &living["events"], &living["modules"]),
            (&1.into(), &1.into(), &1.into())
        );
        ok(unsafe { sys::cuCtxDestroy_v2(a) });
        let report = session.report();
        assert_eq!((&report["living"], &report["memory_used"]), (&before, &0.into()), "seed {seed}");
        // What only the end of the context freed was forgotten.
        let leaks = report["leaks"].as_array().unwrap();
        let bytes: Vec<u64> = leaks.iter().map(|leak| leak["bytes"].as_u64().unwrap()).collect();
        assert_eq!(bytes, [4000, 100, 1000]);
        assert!(leaks.iter().all(|leak| leak["ended"] == true));
        let mut used = 7u64;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        ok(unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut used).cast()) });
        assert_eq!(used, 0);
        fails(unsafe { sys::cuModuleUnload(module) }, CUDA_ERROR_INVALID_HANDLE);
        fails(launch(add, 1, 1, null_mut(), &[&x, &1000u32, &1u32]), CUDA_ERROR_INVALID_HANDLE);
        fails(unsafe { sys::cuStreamSynchronize(s) }, CUDA_ERROR_INVALID_HANDLE);
        fails(unsafe { sys::cuEventQuery(e) }, CUDA_ERROR_INVALID_HANDLE);
        fails(unsafe { sys::cuMemFree_v2(x) }, CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn limits_and_other_properties_of_contexts() {
    type Get = unsafe extern "C" fn(*mut usize, u32) -> CUresult;
    type Set = unsafe extern "C" fn(u32, usize) -> CUresult;
    let _session = session(&[]);
    let (get, set) = (symbol::<Get>("cuCtxGetLimit"), symbol::<Set>("cuCtxSetLimit"));
    let read = |limit| {
        let mut value = 0;
        ok(unsafe { get(&mut value, limit) });
        value
    };
    // The stack's 1024 bytes are the programming guide's default.
    assert_eq!(read(0), 1024);
    for limit in 0..=5 {
        ok(unsafe { set(limit, 1 << 14) });
        assert_eq!(read(limit), 1 << 14);
    }
    let mut value = 0;
    for limit in [99, u32::MAX] {
        fails(unsafe { get(&mut value, limit) }, CUDA_ERROR_UNSUPPORTED_LIMIT);
        fails(unsafe { set(limit, 1) }, CUDA_ERROR_UNSUPPORTED_LIMIT);
    }
    fails(unsafe { get(null_mut(), 0) }, CUDA_ERROR_INVALID_VALUE);
    let (mut least, mut greatest) = (9, 9);
    ok(unsafe { sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest) });
    assert!(least == 0 && greatest < 0);
    ok(unsafe { sys::cuCtxGetStreamPriorityRange(null_mut(), null_mut()) });
    let (mut a, mut b) = (0, 0);
    ok(unsafe { sys::cuCtxGetId(null_mut(), &mut a) });
    let other = create(0, 0);
    ok(unsafe { sys::cuCtxGetId(other, &mut b) });
    assert_ne!(a, b);
    // Limits belong to a context.
    assert_eq!(read(0), 1024);
    let mut version = 0;
    ok(unsafe { sys::cuCtxGetApiVersion(other, &mut version) });
    assert!(version >= 3010);
    let config = sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1;
    let mut read = sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_NONE;
    ok(unsafe { sys::cuCtxSetCacheConfig(config) });
    ok(unsafe { sys::cuCtxGetCacheConfig(&mut read) });
    assert_eq!(read, config);
}
