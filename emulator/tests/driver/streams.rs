//! Streams and events: work comes in every legal order, and what nothing orders is reported.

use crate::harness::*;
use cudarc::driver::sys::{self, CUresult, CUstream};

const N: u32 = 1000;

fn seeds() -> impl Iterator<Item = String> {
    (0..12).map(|seed| seed.to_string())
}

fn wait(stream: CUstream) {
    ok(unsafe { sys::cuStreamSynchronize(stream) });
}

/// x = 1; on one stream + 2, on another * 3: with an event between them 9 under every seed; without one reported.
fn two_streams(ordered: bool, seed: &str) -> (Session, Vec<u32>) {
    let session = session(&[("SEED", seed)]);
    let module = module(KERNELS);
    let (add, scale) = (function(module, "add"), function(module, "scale"));
    let x = alloc(4 * N as usize);
    put(x, &vec![1u32; N as usize]);
    let (a, b) = (stream(), stream());
    ok(launch(add, 4, 256, a, &[&x, &N, &2u32]));
    if ordered {
        let event = event();
        ok(unsafe { sys::cuEventRecord(event, a) });
        ok(unsafe { sys::cuStreamWaitEvent(b, event, 0) });
    }
    _ = launch(scale, 4, 256, b, &[&x, &N, &3u32]);
    let synchronised = [a, b].map(|stream| unsafe { sys::cuStreamSynchronize(stream) });
    let values = if synchronised == [CUresult::CUDA_SUCCESS; 2] { get(x, N as usize) } else { Vec::new() };
    (session, values)
}

#[test]
fn an_event_orders_two_streams_under_every_seed() {
    for seed in seeds() {
        let (session, values) = two_streams(true, &seed);
        assert_eq!(session.faults(), [""; 0]);
        assert!(values.iter().all(|&x| x == 9), "seed {seed}");
    }
}

#[test]
fn without_it_the_race_is_reported_under_every_seed() {
    for seed in seeds() {
        let (session, values) = two_streams(false, &seed);
        let faults = session.faults();
        assert!(values.is_empty(), "seed {seed}");
        assert!(faults[0].contains("Race") || faults[0].contains("UnorderedRead"), "{faults:?}");
        assert!(faults[0].contains("work 1 of the device was `"), "{faults:?}");
    }
}

#[test]
fn work_runs_late_with_a_seed_and_at_once_without() {
    let mut late = 0;
    for seed in seeds() {
        let _session = session(&[("SEED", &seed)]);
        let module = module(KERNELS);
        let add = function(module, "add");
        let x = alloc(4 * N as usize);
        put(x, &vec![1u32; N as usize]);
        let a = stream();
        for _ in 0..3 {
            ok(launch(add, 4, 256, a, &[&x, &N, &1u32]));
        }
        let asked = unsafe { sys::cuStreamQuery(a) };
        assert!(seed != "0" || asked == CUresult::CUDA_SUCCESS);
        late += usize::from(asked == CUresult::CUDA_ERROR_NOT_READY);
        // Asking in a loop ends.
        while unsafe { sys::cuStreamQuery(a) } == CUresult::CUDA_ERROR_NOT_READY {}
        assert_eq!(get::<u32>(x, 2), [4, 4]);
    }
    assert!(late >= 3, "{late} of 11 seeds were late");
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs_and_pageable_memory_when_it_is_asked_for() {
    let mut changed = 0;
    for seed in seeds() {
        let _session = session(&[("SEED", &seed)]);
        let (x, y, a) = (alloc(4), alloc(4), stream());
        let mut pinned: *mut u32 = std::ptr::null_mut();
        ok(unsafe { sys::cuMemAllocHost_v2((&raw mut pinned).cast(), 4) });
        let mut pageable = 1u32;
        unsafe { pinned.write(1) };
        ok(unsafe { sys::cuMemcpyHtoDAsync_v2(x, pinned.cast_const().cast(), 4, a) });
        ok(unsafe { sys::cuMemcpyHtoDAsync_v2(y, (&raw const pageable).cast(), 4, a) });
        unsafe { pinned.write(2) };
        pageable += 1;
        wait(a);
        assert_eq!(pageable, 2);
        assert_eq!(get::<u32>(y, 1), [1], "seed {seed}");
        let seen = get::<u32>(x, 1)[0];
        assert!(seed != "0" || seen == 1);
        changed += usize::from(seen == 2);
        ok(unsafe { sys::cuMemFreeHost(pinned.cast()) });
    }
    assert!(changed >= 2, "{changed} of 11 seeds let the later value through");
}

#[test]
fn copies_and_memsets_race_like_kernels() {
    for seed in seeds() {
        for kind in ["copy in", "copy out", "memset"] {
            for ordered in [true, false] {
                let session = session(&[("SEED", &seed)]);
                let module = module(KERNELS);
                let add = function(module, "add");
                let x = alloc(4 * N as usize);
                put(x, &vec![1u32; N as usize]);
                let mut pinned: *mut u32 = std::ptr::null_mut();
                ok(unsafe { sys::cuMemAllocHost_v2((&raw mut pinned).cast(), 4 * N as usize) });
                let (a, b) = (stream(), stream());
                ok(launch(add, 4, 256, a, &[&x, &N, &1u32]));
                if ordered {
                    wait(a);
                }
                // With a fault already reported the call may say so.
                _ = unsafe {
                    match kind {
                        "copy in" => sys::cuMemcpyHtoDAsync_v2(x, pinned.cast(), 4 * N as usize, b),
                        "copy out" => sys::cuMemcpyDtoHAsync_v2(pinned.cast(), x, 4 * N as usize, b),
                        _ => sys::cuMemsetD32Async(x, 7, N as usize, b),
                    }
                };
                let done = [a, b].map(|stream| unsafe { sys::cuStreamSynchronize(stream) });
                assert_eq!(done.iter().all(|&r| r == CUresult::CUDA_SUCCESS), ordered, "{kind} {seed}");
                assert_eq!(session.faults().len(), usize::from(!ordered), "{kind} {seed}");
            }
        }
    }
}

#[test]
fn the_legacy_stream_orders_blocking_streams_and_no_others() {
    for seed in seeds() {
        for flags in [0, 1] {
            let session = session(&[("SEED", &seed)]);
            let module = module(KERNELS);
            let (add, scale) = (function(module, "add"), function(module, "scale"));
            let x = alloc(4 * N as usize);
            put(x, &vec![1u32; N as usize]);
            let mut a = std::ptr::null_mut();
            ok(unsafe { sys::cuStreamCreate(&mut a, flags) });
            ok(launch(add, 4, 256, a, &[&x, &N, &2u32]));
            _ = launch(scale, 4, 256, std::ptr::null_mut(), &[&x, &N, &3u32]);
            _ = launch(add, 4, 256, a, &[&x, &N, &2u32]);
            let done = unsafe { sys::cuCtxSynchronize() } == CUresult::CUDA_SUCCESS;
            assert_eq!(done, flags == 0, "seed {seed}: {:?}", session.faults());
            assert!(!done || get::<u32>(x, N as usize).iter().all(|&x| x == 11));
        }
    }
}

#[test]
fn a_destroyed_stream_finishes_its_work() {
    for seed in seeds() {
        let session = session(&[("SEED", &seed)]);
        let module = module(KERNELS);
        let add = function(module, "add");
        let x = alloc(4 * N as usize);
        put(x, &vec![1u32; N as usize]);
        let mut a = std::ptr::null_mut();
        ok(unsafe { sys::cuStreamCreate(&mut a, 0) });
        ok(launch(add, 4, 256, a, &[&x, &N, &2u32]));
        ok(unsafe { sys::cuStreamDestroy_v2(a) });
        fails(unsafe { sys::cuStreamSynchronize(a) }, CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert!(get::<u32>(x, N as usize).iter().all(|&x| x == 3), "seed {seed}: {:?}", session.faults());
    }
}

#[test]
fn host_functions_run_in_order_and_may_not_call_the_driver() {
    extern "C" fn push(data: *mut std::ffi::c_void) {
        let list = unsafe { &mut *data.cast::<Vec<(u32, CUresult)>>() };
        let called = unsafe { sys::cuCtxSynchronize() };
        list.push((list.len() as u32, called));
    }
    for seed in seeds() {
        let _session = session(&[("SEED", &seed)]);
        let module = module(KERNELS);
        let add = function(module, "add");
        let x = alloc(4);
        put(x, &[1u32]);
        let a = stream();
        let mut list: Vec<(u32, CUresult)> = Vec::new();
        for _ in 0..3 {
            ok(launch(add, 1, 32, a, &[&x, &1u32, &1u32]));
            ok(unsafe { sys::cuLaunchHostFunc(a, Some(push), (&raw mut list).cast()) });
        }
        wait(a);
        assert_eq!(list, [0, 1, 2].map(|k| (k, CUresult::CUDA_ERROR_NOT_PERMITTED)), "seed {seed}");
        assert_eq!(get::<u32>(x, 1), [4]);
    }
}

#[test]
fn work_goes_on_by_itself_when_nobody_calls() {
    let _session = session(&[("SEED", "5"), ("IDLE_MS", "5")]);
    let a = stream();
    let (x, mut pinned) = (alloc(4), std::ptr::null_mut::<u32>());
    ok(unsafe { sys::cuMemAllocHost_v2((&raw mut pinned).cast(), 4) });
    unsafe { pinned.write_volatile(0) };
    for _ in 0..20 {
        ok(unsafe { sys::cuMemsetD32Async(x, 9, 1, a) });
    }
    ok(unsafe { sys::cuMemcpyDtoHAsync_v2(pinned.cast(), x, 4, a) });
    let start = std::time::Instant::now();
    while unsafe { pinned.read_volatile() } != 9 {
        assert!(start.elapsed().as_secs() < 20, "the work stands still");
        std::thread::yield_now();
    }
}

#[test]
fn events_tell_whether_and_in_which_order() {
    for seed in seeds() {
        let _session = session(&[("SEED", &seed)]);
        let a = stream();
        let (first, second) = (event(), event());
        // Never recorded: done, and nothing to wait for; but no time.
        ok(unsafe { sys::cuEventQuery(first) });
        ok(unsafe { sys::cuStreamWaitEvent(a, first, 0) });
        let mut time = 0.0;
        let untimed = unsafe { sys::cuEventElapsedTime(&mut time, first, second) };
        fails(untimed, CUresult::CUDA_ERROR_INVALID_HANDLE);
        let x = alloc(1 << 20);
        ok(unsafe { sys::cuEventRecord(first, a) });
        ok(unsafe { sys::cuMemsetD8Async(x, 1, 1 << 20, a) });
        ok(unsafe { sys::cuEventRecord(second, a) });
        ok(unsafe { sys::cuEventSynchronize(second) });
        ok(unsafe { sys::cuEventQuery(first) });
        ok(unsafe { sys::cuEventElapsedTime(&mut time, first, second) });
        assert!(time >= 0.0);
        ok(unsafe { sys::cuEventDestroy_v2(first) });
        fails(unsafe { sys::cuEventQuery(first) }, CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
}

#[test]
fn memory_is_freed_after_all_work_on_it_or_the_free_is_reported() {
    for ordered in [true, false] {
        for seed in seeds() {
            let session = session(&[("SEED", &seed)]);
            let module = module(KERNELS);
            let add = function(module, "add");
            let (a, b) = (stream(), stream());
            let mut x = 0;
            ok(unsafe { sys::cuMemAllocAsync(&mut x, 4 * N as usize, a) });
            ok(unsafe { sys::cuMemsetD32Async(x, 1, N as usize, a) });
            wait(a);
            ok(launch(add, 4, 256, b, &[&x, &N, &1u32]));
            if ordered {
                let event = event();
                ok(unsafe { sys::cuEventRecord(event, b) });
                ok(unsafe { sys::cuStreamWaitEvent(a, event, 0) });
            }
            ok(unsafe { sys::cuMemFreeAsync(x, a) });
            let again = unsafe { sys::cuMemFree_v2(x) };
            assert!(again != CUresult::CUDA_SUCCESS);
            _ = unsafe { sys::cuCtxSynchronize() };
            // Whichever of the two ran first, the other finds it out.
            let faults = session.faults();
            assert_eq!(faults.len(), usize::from(!ordered), "seed {seed}: {faults:?}");
            let says = |text: &String| text.contains("UseAfterFree") || text.starts_with("free: ");
            assert!(faults.iter().all(says), "{faults:?}");
            assert_eq!(session.report()["living"]["allocations"], 0);
        }
    }
}
