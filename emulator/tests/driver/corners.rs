//! What is easily forgotten: the ends of threads and of the process, settings anew while something runs, arguments that
//! nobody would give.

use crate::harness::*;
use crate::tools::{child, is_child, passed};
use cudarc::driver::sys::{self, CUresult::*};
use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

/// Destructors of a thread's variables still have its current context, in whatever order they come.
#[test]
fn a_thread_frees_what_it_has_when_it_ends() {
    struct Owner(u64);
    impl Drop for Owner {
        fn drop(&mut self) {
            ok(unsafe { sys::cuCtxSynchronize() });
            ok(unsafe { sys::cuMemFree_v2(self.0) });
        }
    }
    thread_local!(static OWNER: RefCell<Owner> = const { RefCell::new(Owner(0)) });
    let session = session(&[]);
    let mut context = null_mut();
    ok(unsafe { sys::cuCtxGetCurrent(&mut context) });
    let context = context as usize;
    std::thread::spawn(move || {
        OWNER.with(|_| ());
        ok(unsafe { sys::cuCtxSetCurrent(context as _) });
        OWNER.with_borrow_mut(|owner| owner.0 = alloc(64));
    })
    .join()
    .unwrap();
    assert_eq!(session.report()["living"]["allocations"], 0);
}

#[test]
fn a_report_that_is_asked_for_later_is_written_too() {
    if is_child() {
        let path = std::env::var("REPORT_PATH").unwrap();
        let _session = session(&[("REPORT", &path)]);
        alloc(64);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let variables = [("REPORT_PATH", path.to_str().unwrap())];
    passed(&child("corners::a_report_that_is_asked_for_later_is_written_too", &variables));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(report["calls_by_name"]["cuMemAlloc_v2"], 1);
}

/// A host function that is under way when all begins anew is no concern of what comes after.
#[test]
fn settings_may_change_while_a_host_function_runs() {
    static GO: AtomicBool = AtomicBool::new(false);
    static ENDED: AtomicU32 = AtomicU32::new(0);
    extern "C" fn slow(_: *mut c_void) {
        while !GO.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        ENDED.fetch_add(1, SeqCst);
    }
    extern "C" fn quick(_: *mut c_void) {
        ENDED.fetch_add(10, SeqCst);
    }
    for seed in ["0", "3"] {
        GO.store(false, SeqCst);
        ENDED.store(0, SeqCst);
        let first = session(&[("SEED", seed), ("IDLE_MS", "1")]);
        ok(unsafe { sys::cuLaunchHostFunc(null_mut(), Some(slow), null_mut()) });
        // By now it runs.
        std::thread::sleep(Duration::from_millis(50));
        first.emulator.configure(&[("QUIET", "1"), ("SEED", seed)]).unwrap();
        ok(unsafe { sys::cuInit(0) });
        let mut context = null_mut();
        ok(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, 0) });
        ok(unsafe { sys::cuCtxSetCurrent(context) });
        let stream = stream();
        for _ in 0..3 {
            ok(unsafe { sys::cuLaunchHostFunc(stream, Some(quick), null_mut()) });
        }
        GO.store(true, SeqCst);
        ok(unsafe { sys::cuStreamSynchronize(stream) });
        assert_eq!(ENDED.load(SeqCst), 31, "seed {seed}");
    }
}

/// The manual: it "will not be called in the event of an error in the CUDA context"; a stream's callback is, with the
/// error.
#[test]
fn host_functions_are_not_called_after_an_error_but_callbacks_are() {
    extern "C" fn function(data: *mut c_void) {
        unsafe { (*data.cast::<AtomicU32>()).fetch_add(1, SeqCst) };
    }
    unsafe extern "C" fn callback(_: sys::CUstream, status: sys::CUresult, data: *mut c_void) {
        unsafe { (*data.cast::<AtomicU32>()).store(status as u32, SeqCst) };
    }
    for seed in ["0", "1", "2", "3"] {
        let _session = session(&[("SEED", seed)]);
        let bad = function_of(KERNELS, "bad");
        let (called, status) = (AtomicU32::new(0), AtomicU32::new(0));
        let (s, x) = (stream(), alloc(64));
        let (called_at, status_at) =
            ((&raw const called).cast_mut().cast(), (&raw const status).cast_mut().cast());
        // With no seed the first function keeps the kernel from running before all is asked for.
        extern "C" fn wait(_: *mut c_void) {
            std::thread::sleep(Duration::from_millis(100));
        }
        ok(unsafe { sys::cuLaunchHostFunc(s, Some(wait), null_mut()) });
        ok(launch(bad, 1, 1, s, &[&x]));
        ok(unsafe { sys::cuLaunchHostFunc(s, Some(function), called_at) });
        ok(unsafe { sys::cuStreamAddCallback(s, Some(callback), status_at, 0) });
        fails(unsafe { sys::cuStreamSynchronize(s) }, CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!((called.load(SeqCst), status.load(SeqCst)), (0, 700), "seed {seed}");
    }
}

fn function_of(ptx: &str, name: &str) -> sys::CUfunction {
    function(module(ptx), name)
}

/// Whoever waits for the context has waited for its destroyed streams, of either kind.
#[test]
fn waiting_for_the_context_waits_for_destroyed_streams() {
    for seed in (0..8).map(|seed: u32| seed.to_string()) {
        for flags in [0, 1] {
            let session = session(&[("SEED", &seed)]);
            let add = function_of(KERNELS, "add");
            let x = alloc(4000);
            put(x, &[1u32; 1000]);
            let (mut s, mut other) = (null_mut(), null_mut());
            ok(unsafe { sys::cuStreamCreate(&mut s, flags) });
            ok(launch(add, 4, 256, s, &[&x, &1000u32, &2u32]));
            ok(unsafe { sys::cuStreamDestroy_v2(s) });
            ok(unsafe { sys::cuCtxSynchronize() });
            ok(unsafe { sys::cuStreamCreate(&mut other, 1) });
            ok(launch(add, 4, 256, other, &[&x, &1000u32, &2u32]));
            ok(unsafe { sys::cuStreamSynchronize(other) });
            assert_eq!(get::<u32>(x, 1000), [5; 1000], "seed {seed}: {:?}", session.faults());
        }
    }
}

/// To destroy a stream orders nothing but the legacy stream's next behind its work.
#[test]
fn a_destroyed_stream_does_not_order_the_others() {
    for (seed, legacy) in (0..8).flat_map(|seed: u32| [(seed.to_string(), false), (seed.to_string(), true)]) {
        let session = session(&[("SEED", &seed)]);
        let add = function_of(KERNELS, "add");
        let x = alloc(4000);
        put(x, &[1u32; 1000]);
        let (mut a, mut b) = (null_mut(), null_mut());
        ok(unsafe { sys::cuStreamCreate(&mut a, 0) });
        ok(unsafe { sys::cuStreamCreate(&mut b, 0) });
        ok(launch(add, 4, 256, a, &[&x, &1000u32, &2u32]));
        ok(unsafe { sys::cuStreamDestroy_v2(a) });
        _ = launch(add, 4, 256, if legacy { null_mut() } else { b }, &[&x, &1000u32, &2u32]);
        let waited = unsafe { sys::cuCtxSynchronize() };
        assert_eq!(waited == CUDA_SUCCESS, legacy, "seed {seed}: {:?}", session.faults());
    }
}

/// The same seed gives the same order, however long host functions take.
#[test]
fn orders_do_not_depend_on_how_long_host_functions_take() {
    struct Note {
        number: u32,
        pause: u64,
        list: *const std::sync::Mutex<Vec<u32>>,
    }
    extern "C" fn note(data: *mut c_void) {
        let note = unsafe { &*data.cast::<Note>() };
        std::thread::sleep(Duration::from_micros(note.pause));
        unsafe { &*note.list }.lock().unwrap().push(note.number);
    }
    let run = |seed: u32, pause: u64, between: u64| {
        let _session = session(&[("SEED", &seed.to_string()), ("IDLE_MS", "10000")]);
        let list = std::sync::Mutex::new(Vec::new());
        let streams = [stream(), stream(), stream()];
        let notes: Vec<Note> = (0..24).map(|number| Note { number, pause, list: &raw const list }).collect();
        for (index, note_of) in notes.iter().enumerate() {
            let data = std::ptr::from_ref(note_of).cast_mut().cast();
            ok(unsafe { sys::cuLaunchHostFunc(streams[index % 3], Some(note), data) });
            std::thread::sleep(Duration::from_micros(between));
        }
        ok(unsafe { sys::cuCtxSynchronize() });
        list.into_inner().unwrap()
    };
    let mut orders = std::collections::BTreeSet::new();
    for seed in 1..=6 {
        let order = run(seed, 0, 2000);
        assert_eq!(run(seed, 3000, 0), order, "seed {seed}");
        assert_eq!(run(seed, 500, 300), order, "seed {seed}");
        orders.insert(order);
    }
    assert!(orders.len() > 3, "{orders:?}");
}

/// One that takes long may wait for what other streams do, as on a card.
#[test]
fn a_host_function_may_wait_for_another_stream() {
    static GO: AtomicBool = AtomicBool::new(false);
    extern "C" fn slow(_: *mut c_void) {
        while !GO.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    for seed in (0..8).map(|seed: u32| seed.to_string()) {
        GO.store(false, SeqCst);
        let _session = session(&[("SEED", &seed), ("IDLE_MS", "20")]);
        let (x, a, b) = (alloc(4), stream(), stream());
        ok(unsafe { sys::cuLaunchHostFunc(a, Some(slow), null_mut()) });
        ok(unsafe { sys::cuMemsetD32Async(x, 7, 1, b) });
        ok(unsafe { sys::cuStreamSynchronize(b) });
        GO.store(true, SeqCst);
        ok(unsafe { sys::cuStreamSynchronize(a) });
        assert_eq!(get::<u32>(x, 1), [7]);
    }
}
