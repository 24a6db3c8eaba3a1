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

fn memset_node(
    graph: sys::CUgraph,
    node: *mut sys::CUgraphNode,
    x: u64,
    width: usize,
    height: usize,
) -> sys::CUresult {
    let params =
        sys::CUDA_MEMSET_NODE_PARAMS_st { dst: x, pitch: 4, value: 7, elementSize: 1, width, height };
    let mut context = null_mut();
    ok(unsafe { sys::cuCtxGetCurrent(&mut context) });
    unsafe { sys::cuGraphAddMemsetNode(node, graph, std::ptr::null(), 0, &params, context) }
}

#[test]
fn a_memset_of_no_bytes_takes_no_memory_however_many_rows_it_has() {
    let _session = session(&[]);
    let (x, mut graph, mut exec, mut node) = (alloc(64), null_mut(), null_mut(), null_mut());
    ok(unsafe { sys::cuGraphCreate(&mut graph, 0) });
    ok(memset_node(graph, &mut node, x, 0, 1 << 44));
    ok(unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) });
    ok(unsafe { sys::cuGraphLaunch(exec, null_mut()) });
    ok(unsafe { sys::cuCtxSynchronize() });
}

/// What nobody could name is not made.
#[test]
fn without_a_place_for_its_handle_nothing_is_added_to_a_graph() {
    let session = session(&[]);
    let (x, mut graph) = (alloc(64), null_mut());
    ok(unsafe { sys::cuGraphCreate(&mut graph, 0) });
    fails(memset_node(graph, null_mut(), x, 1, 1), CUDA_ERROR_INVALID_VALUE);
    let mut count = 9;
    ok(unsafe { sys::cuGraphGetNodes(graph, null_mut(), &mut count) });
    assert_eq!(count, 0);
    fails(unsafe { sys::cuGraphClone(null_mut(), graph) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(session.report()["living"]["graphs"], 1);
}

/// Attributes that are not there are refused, whatever the pointer: how much to write for them nobody can say.
#[test]
fn unknown_attributes_of_unknown_pointers_are_not_written() {
    let _session = session(&[]);
    let mut room = [0x55u8; 16];
    for address in [alloc(4), 64] {
        let mut attributes = [sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS];
        let mut to = [room.as_mut_ptr().cast::<c_void>()];
        let asked =
            unsafe { sys::cuPointerGetAttributes(1, attributes.as_mut_ptr(), to.as_mut_ptr(), address) };
        fails(asked, CUDA_ERROR_NOT_SUPPORTED);
        assert_eq!(room, [0x55; 16]);
    }
}

/// A bit beyond its allocation is nowhere.
#[test]
fn flips_beyond_their_allocation_do_nothing() {
    let _session = session(&[("FLIPS", "0+18446744073709551615.0@5, 0+64.1@5")]);
    let (x, y) = (alloc(8), alloc(8));
    put(x, &[1u64]);
    put(y, &[1u64]);
    assert_eq!((get::<u64>(x, 1), get::<u64>(y, 1)), (vec![1], vec![1]));
}

#[test]
fn the_end_of_a_context_ends_its_graphs_and_tells_their_objects() {
    static GONE: AtomicU32 = AtomicU32::new(0);
    extern "C" fn gone(_: *mut c_void) {
        GONE.fetch_add(1, SeqCst);
    }
    let session = session(&[]);
    let (mut context, mut primary) = (null_mut(), null_mut());
    ok(unsafe { sys::cuCtxGetCurrent(&mut primary) });
    ok(unsafe { sys::cuCtxCreate_v2(&mut context, 0, 0) });
    let (mut graph, mut exec, mut object) = (null_mut(), null_mut(), null_mut());
    ok(unsafe { sys::cuGraphCreate(&mut graph, 0) });
    ok(unsafe { sys::cuUserObjectCreate(&mut object, null_mut(), Some(gone), 1, 1) });
    ok(unsafe { sys::cuGraphRetainUserObject(graph, object, 1, 1) });
    ok(unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) });
    ok(unsafe { sys::cuCtxDestroy_v2(context) });
    let start = std::time::Instant::now();
    while GONE.load(SeqCst) == 0 && start.elapsed().as_secs() < 5 {
        std::thread::yield_now();
    }
    assert_eq!(GONE.load(SeqCst), 1);
    assert_eq!(session.report()["living"]["graphs"], 0);
}

/// Any context may copy from pinned memory: it is freed when all have done so.
#[test]
fn pinned_memory_is_freed_after_the_copies_of_all_contexts() {
    for seed in (1..12).map(|seed: u32| seed.to_string()) {
        let _session = session(&[("SEED", &seed), ("IDLE_MS", "10000")]);
        let (mut primary, mut other, mut pinned) = (null_mut(), null_mut(), null_mut::<c_void>());
        ok(unsafe { sys::cuCtxGetCurrent(&mut primary) });
        ok(unsafe { sys::cuMemHostAlloc(&mut pinned, 1 << 20, 1) });
        unsafe { pinned.cast::<u8>().write_bytes(7, 1 << 20) };
        ok(unsafe { sys::cuCtxCreate_v2(&mut other, 0, 0) });
        let (x, s) = (alloc(1 << 20), stream());
        ok(unsafe { sys::cuMemcpyHtoDAsync_v2(x, pinned, 1 << 20, s) });
        ok(unsafe { sys::cuMemFreeHost(pinned) });
        ok(unsafe { sys::cuCtxSynchronize() });
        assert_eq!(get::<u8>(x, 1 << 20), vec![7; 1 << 20], "seed {seed}");
    }
}

/// Kernels stay on their device, also when all of a graph is updated.
#[test]
fn a_graph_of_another_device_cannot_take_an_executable_ones_place() {
    let _session = session(&[("DEVICES", "2")]);
    let kernel_graph = || {
        let (add, x, mut graph) = (function_of(KERNELS, "add"), alloc(4), null_mut());
        put(x, &[1u32]);
        let s = stream();
        ok(unsafe {
            sys::cuStreamBeginCapture_v2(s, sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED)
        });
        ok(launch(add, 1, 1, s, &[&x, &1u32, &1u32]));
        ok(unsafe { sys::cuStreamEndCapture(s, &mut graph) });
        graph
    };
    let (mut exec, mut other) = (null_mut(), null_mut());
    ok(unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, kernel_graph(), 0) });
    ok(unsafe { sys::cuCtxCreate_v2(&mut other, 0, 1) });
    let mut info = unsafe { std::mem::zeroed::<sys::CUgraphExecUpdateResultInfo>() };
    fails(unsafe { sys::cuGraphExecUpdate_v2(exec, kernel_graph(), &mut info) }, CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(info.result, sys::CUgraphExecUpdateResult_enum::CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED);
    ok(unsafe { sys::cuCtxDestroy_v2(other) });
}

#[test]
fn options_of_libraries_from_files_are_looked_at_too() {
    let _session = session(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KERNELS).unwrap();
    let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
    let mut option = sys::CUlibraryOption::CU_LIBRARY_HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE;
    let mut library = null_mut();
    let mut load = |count| unsafe {
        let (none, values) = (null_mut(), null_mut());
        sys::cuLibraryLoadFromFile(
            &mut library,
            path.as_ptr(),
            none,
            values,
            0,
            &mut option,
            null_mut(),
            count,
        )
    };
    fails(load(1), CUDA_ERROR_NOT_SUPPORTED);
    ok(load(0));
}

#[test]
fn the_order_of_settings_does_not_matter() {
    for settings in [[("CARD", "sm_90a"), ("MEMORY", "1M")], [("MEMORY", "1M"), ("CARD", "sm_90a")]] {
        let _session = session(&settings);
        let mut bytes = 0;
        ok(unsafe { sys::cuDeviceTotalMem_v2(&mut bytes, 0) });
        assert_eq!(bytes, 1 << 20);
    }
}

#[test]
fn faults_of_calls_that_do_not_exist_are_refused() {
    let session = session(&[]);
    assert!(session.emulator.inject("cuMemAllok", 1, 2).is_err());
    assert!(session.emulator.configure(&[("FAULTS", "cuMemAllok#1=2")]).is_err());
    assert!(session.emulator.configure(&[("SEED", "1\0")]).is_err());
    session.emulator.inject("cuMemAlloc_v2", 1, 2).unwrap();
    session.emulator.inject("*", 1, 2).unwrap();
    // The emulator's own functions are not meant.
    session.emulator.forget_faults().unwrap();
    alloc(4);
}

/// What threads cannot have is refused, not tried.
#[test]
fn stacks_have_a_limit() {
    let _session = session(&[]);
    let limit = sys::CUlimit::CU_LIMIT_STACK_SIZE;
    for bytes in [(512 << 10) + 1, 1 << 60, usize::MAX] {
        fails(unsafe { sys::cuCtxSetLimit(limit, bytes) }, CUDA_ERROR_INVALID_VALUE);
    }
    ok(unsafe { sys::cuCtxSetLimit(limit, 512 << 10) });
}

#[test]
fn printing_from_the_last_addresses_is_a_fault() {
    let _session = session(&[]);
    let print = function_of(
        r#"
.version 8.0
.target sm_80
.address_size 64
.extern .func (.param .b32 result) vprintf (.param .b64 text, .param .b64 values);
.global .align 1 .b8 text[4] = {37, 108, 100, 0};
.visible .entry print()
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<2>;
    mov.u64 %rd1, text;
    cvta.global.u64 %rd2, %rd1;
    mov.u64 %rd3, 0xfffffffffffffffd;
    {
        .param .b64 a;
        .param .b64 b;
        .param .b32 c;
        st.param.b64 [a], %rd2;
        st.param.b64 [b], %rd3;
        call.uni (c), vprintf, (a, b);
        ld.param.b32 %r1, [c];
    }
    ret;
}
"#,
        "print",
    );
    ok(launch(print, 1, 1, null_mut(), &[]));
    let waited = unsafe { sys::cuCtxSynchronize() };
    assert!([CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_MISALIGNED_ADDRESS].contains(&waited), "{waited:?}");
}
