//! Faults to order: every call of a scenario fails once with every kind of code, and nothing is lost.

use crate::harness::*;
use cudarc::driver::sys::{self, CUresult};
use std::ptr::null_mut;

/// One error of each class: the caller's, a resource's, a context's, the environment's.
const CODES: [u32; 9] = [1, 2, 3, 100, 201, 600, 700, 719, 999];
/// Those after which a context is of no use.
const STICKY: [u32; 2] = [700, 719];

/// What a scenario got: the code of each call, and how many calls led up to the first that only gives things back.
#[derive(Default)]
struct Run {
    results: Vec<u32>,
    forward: usize,
    value: Option<u32>,
}

impl Run {
    /// Whether the call went well. After a failure the scenario makes no further calls but those that give back.
    fn ok(&mut self, call: impl FnOnce() -> CUresult) -> bool {
        if self.results.iter().any(|&code| code != 0) {
            return false;
        }
        self.always(call)
    }

    fn always(&mut self, call: impl FnOnce() -> CUresult) -> bool {
        self.results.push(call() as u32);
        self.results.last() == Some(&0)
    }
}

/// A program of every family of calls, which gives back what it got.
fn scenario() -> Run {
    let mut run = Run::default();
    let r = &mut run;
    let text = std::ffi::CString::new(KERNELS).unwrap();
    let (mut context, mut module, mut function) = (null_mut(), null_mut(), null_mut());
    let (mut x, mut y, mut pinned) = (0u64, 0u64, null_mut::<u32>());
    let (mut stream, mut event, mut graph, mut exec) = (null_mut(), null_mut(), null_mut(), null_mut());
    let mut back = 0u32;
    unsafe {
        r.ok(|| sys::cuInit(0));
        let retained = r.ok(|| sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        r.ok(|| sys::cuCtxSetCurrent(context));
        let loaded = r.ok(|| sys::cuModuleLoadData(&mut module, text.as_ptr().cast()));
        r.ok(|| sys::cuModuleGetFunction(&mut function, module, c"add".as_ptr()));
        let allocated = r.ok(|| sys::cuMemAlloc_v2(&mut x, 4));
        let streaming = r.ok(|| sys::cuStreamCreate(&mut stream, 1));
        let pooled = r.ok(|| sys::cuMemAllocAsync(&mut y, 4, stream));
        let pinning = r.ok(|| sys::cuMemAllocHost_v2((&raw mut pinned).cast(), 4));
        let timing = r.ok(|| sys::cuEventCreate(&mut event, 0));
        if pinning {
            pinned.write(40);
        }
        r.ok(|| sys::cuMemcpyHtoDAsync_v2(x, pinned.cast(), 4, stream));
        r.ok(|| sys::cuMemsetD32Async(y, 1, 1, stream));
        r.ok(|| launch(function, 1, 32, stream, &[&x, &1u32, &1u32]));
        r.ok(|| sys::cuEventRecord(event, stream));
        r.ok(|| sys::cuStreamWaitEvent(stream, event, 0));
        let capturing = r.ok(|| {
            sys::cuStreamBeginCapture_v2(stream, sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_GLOBAL)
        });
        r.ok(|| launch(function, 1, 32, stream, &[&x, &1u32, &1u32]));
        if capturing {
            // A capture has to be ended however it went.
            r.always(|| sys::cuStreamEndCapture(stream, &mut graph));
        }
        let instantiated = r.ok(|| sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        r.ok(|| sys::cuGraphLaunch(exec, stream));
        r.ok(|| sys::cuMemcpyDtoHAsync_v2(pinned.cast(), x, 4, stream));
        r.ok(|| sys::cuStreamSynchronize(stream));
        let read = r.ok(|| sys::cuMemcpyDtoH_v2((&raw mut back).cast(), x, 4));
        if read {
            assert_eq!(pinned.read(), back);
        }
        r.forward = r.results.len();
        if instantiated {
            r.always(|| sys::cuGraphExecDestroy(exec));
        }
        if !graph.is_null() {
            r.always(|| sys::cuGraphDestroy(graph));
        }
        if timing {
            r.always(|| sys::cuEventDestroy_v2(event));
        }
        if pinning {
            r.always(|| sys::cuMemFreeHost(pinned.cast()));
        }
        if pooled {
            r.always(|| sys::cuMemFreeAsync(y, stream));
        }
        if allocated {
            r.always(|| sys::cuMemFree_v2(x));
        }
        if streaming {
            r.always(|| sys::cuStreamDestroy_v2(stream));
        }
        if loaded {
            r.always(|| sys::cuModuleUnload(module));
        }
        if retained {
            r.always(|| sys::cuDevicePrimaryCtxRelease_v2(0));
        }
        run.value = read.then_some(back);
    }
    run
}

fn living(session: &Session) -> u64 {
    session.report()["living"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

#[test]
fn the_scenario_works() {
    for seed in ["0", "3"] {
        let session = bare(&[("SEED", seed)]);
        let run = scenario();
        assert_eq!((run.value, living(&session)), (Some(42), 0));
        assert!(run.results.iter().all(|&code| code == 0));
    }
}

#[test]
fn every_call_may_fail_with_every_code_and_nothing_is_lost() {
    let mut tried = 0;
    let calls = {
        let _session = bare(&[]);
        scenario().results.len()
    };
    for seed in ["0", "3"] {
        for call in 1..=calls {
            for code in CODES {
                let session = bare(&[("SEED", seed), ("FAULTS", &format!("*#{call}={code}"))]);
                let run = scenario();
                let what = format!("call {call}, code {code}, seed {seed}: {:?}", run.results);
                assert_eq!(run.results[call - 1], code, "{what}");
                let others = run.results.iter().enumerate().filter(|(index, _)| *index != call - 1);
                for (index, &result) in others {
                    // Once a context is lost every call under it says so; else nothing but the one call fails.
                    let lost = STICKY.contains(&code) && index >= call && result == code;
                    // A capture that failed on the way says so at its end.
                    let capture = index == call && result == 901;
                    assert!(result == 0 || lost || capture, "{what}");
                }
                if call <= run.forward {
                    assert_eq!(living(&session), 0, "{what}");
                }
                // Whatever a failed release left goes with its context.
                _ = unsafe { sys::cuDevicePrimaryCtxReset_v2(0) };
                assert_eq!(living(&session), 0, "{what}");
                // And the emulator works on.
                session.emulator.forget_faults().unwrap();
                assert_eq!(scenario().value, Some(42), "{what}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 500, "{tried}");
}

#[test]
fn faults_are_ordered_by_name_and_from_the_host_language_too() {
    let session = session(&[("FAULTS", "cuMemAlloc_v2#2=CUDA_ERROR_OUT_OF_MEMORY")]);
    let mut x = 0;
    ok(unsafe { sys::cuMemAlloc_v2(&mut x, 4) });
    ok(unsafe { sys::cuMemsetD8_v2(x, 0, 4) });
    fails(unsafe { sys::cuMemAlloc_v2(&mut x, 4) }, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(session.last_error(), "cuMemAlloc_v2: made to fail");
    ok(unsafe { sys::cuMemAlloc_v2(&mut x, 4) });
    session.emulator.inject("cuMemFree_v2", 1, 999).unwrap();
    fails(unsafe { sys::cuMemFree_v2(x) }, CUresult::CUDA_ERROR_UNKNOWN);
    ok(unsafe { sys::cuMemFree_v2(x) });
    for (name, nth, code) in [("cuInit", 0, 2), ("cuInit", 1, 0), ("cuInit", 1, 12345)] {
        assert!(session.emulator.inject(name, nth, code).is_err(), "{name} {nth} {code}");
    }
}

#[test]
fn a_lost_device_answers_nothing_but_lets_go() {
    let session = session(&[("DEVICES", "2")]);
    let (x, a) = (alloc(4), stream());
    session.emulator.lose_device(0, 46).unwrap();
    let unavailable = CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE;
    let mut y = 0;
    let mut context = null_mut();
    unsafe {
        fails(sys::cuMemAlloc_v2(&mut y, 4), unavailable);
        fails(sys::cuMemsetD8Async(x, 0, 4, a), unavailable);
        fails(sys::cuCtxSynchronize(), unavailable);
        fails(sys::cuMemFree_v2(x), unavailable);
        fails(sys::cuStreamDestroy_v2(a), unavailable);
        fails(sys::cuDevicePrimaryCtxRetain(&mut context, 0), unavailable);
        assert_eq!(living(&session), 1, "the context alone");
        // The other card is none the worse for it.
        ok(sys::cuDevicePrimaryCtxRetain(&mut context, 1));
        ok(sys::cuCtxSetCurrent(context));
        ok(sys::cuMemAlloc_v2(&mut y, 4));
        ok(sys::cuMemsetD8_v2(y, 0, 4));
        ok(sys::cuMemFree_v2(y));
        ok(sys::cuDevicePrimaryCtxRelease_v2(1));
        ok(sys::cuDevicePrimaryCtxRelease_v2(0));
    }
    assert_eq!(living(&session), 0);
}

#[test]
fn bits_flip_to_order() {
    let emulator = session(&[]);
    let x = alloc(8);
    put(x, &[0u64]);
    emulator.emulator.flip_bit(x + 2, 3).unwrap();
    assert_eq!(get::<u64>(x, 1), [1 << 19]);
    assert!(emulator.emulator.flip_bit(x + 8, 0).is_err());
    assert!(emulator.emulator.flip_bit(64, 0).is_err());
    drop(emulator);
    // By the settings: a bit of the second allocation, before the eighth call (setup takes three, the lines below four).
    let _session = session(&[("FLIPS", "1+5.7@8")]);
    let (x, y) = (alloc(8), alloc(8));
    put(x, &[0u64]);
    put(y, &[0u64]);
    assert_eq!((get::<u64>(x, 1)[0], get::<u64>(y, 1)[0]), (0, 1 << 47));
}

#[test]
fn a_process_that_forks_has_no_driver_in_the_child() {
    let _session = session(&[]);
    let (result, status) = unsafe {
        let child = libc::fork();
        if child == 0 {
            // Nothing that allocates or locks: only the answer.
            let answer = sys::cuCtxSynchronize() as u32;
            libc::_exit(if answer == 3 { 7 } else { 8 });
        }
        let mut status = 0;
        (libc::waitpid(child, &mut status, 0) == child, status)
    };
    assert!(result && libc::WIFEXITED(status));
    assert_eq!(libc::WEXITSTATUS(status), 7, "CUDA_ERROR_NOT_INITIALIZED is 3");
}
