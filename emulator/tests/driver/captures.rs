//! Stream capture: what cannot be captured is refused with the code that the manual gives it.

use crate::harness::*;
use cudarc::driver::sys::{
    self, CUevent, CUgraph, CUgraphExec, CUresult, CUstream, CUstreamCaptureMode as Mode,
    CUstreamCaptureStatus,
};
use std::ptr::{null, null_mut};

pub const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD_LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;

const UNSUPPORTED: CUresult = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
const INVALIDATED: CUresult = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
const IMPLICIT: CUresult = CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
const CAPTURED_EVENT: CUresult = CUresult::CUDA_ERROR_CAPTURED_EVENT;

pub fn begin(stream: CUstream, mode: Mode) {
    ok(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) });
}

pub fn end(stream: CUstream) -> CUgraph {
    let mut graph = null_mut();
    ok(unsafe { sys::cuStreamEndCapture(stream, &mut graph) });
    graph
}

#[track_caller]
fn end_fails(stream: CUstream, expected: CUresult) {
    let mut graph = std::ptr::dangling_mut::<u64>().cast();
    fails(unsafe { sys::cuStreamEndCapture(stream, &mut graph) }, expected);
    assert!(graph.is_null());
}

pub fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut exec = null_mut();
    ok(unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) });
    exec
}

pub fn record(event: CUevent, stream: CUstream) {
    ok(unsafe { sys::cuEventRecord(event, stream) });
}

pub fn wait_for(stream: CUstream, event: CUevent) -> CUresult {
    unsafe { sys::cuStreamWaitEvent(stream, event, 0) }
}

fn blocking() -> CUstream {
    let mut stream = null_mut();
    ok(unsafe { sys::cuStreamCreate(&mut stream, 0) });
    stream
}

fn status(stream: CUstream) -> CUstreamCaptureStatus {
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    ok(unsafe { sys::cuStreamIsCapturing(stream, &mut status) });
    status
}

fn exchange(mut mode: Mode) -> Mode {
    ok(unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) });
    mode
}

fn on_another_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let mut context = null_mut();
    ok(unsafe { sys::cuCtxGetCurrent(&mut context) });
    let context = context as usize;
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            ok(unsafe { sys::cuCtxSetCurrent(context as _) });
            work()
        });
        thread.join()
    });
    made.unwrap()
}

#[test]
fn what_a_capture_forbids() {
    let machine = |session: &Session| {
        assert_eq!(session.faults(), [""; 0]);
        (stream(), stream(), alloc(4))
    };
    type Act = fn(CUstream, CUstream, u64) -> CUresult;
    let mut address = 0u64;
    let forbidden: [(&str, Act); 7] = [
        ("synchronise", |a, _, _| unsafe { sys::cuStreamSynchronize(a) }),
        ("query", |a, _, _| unsafe { sys::cuStreamQuery(a) }),
        ("synchronise another", |_, b, _| unsafe { sys::cuStreamSynchronize(b) }),
        ("synchronise the context", |_, _, _| unsafe { sys::cuCtxSynchronize() }),
        ("allocate", |_, _, _| unsafe { sys::cuMemAlloc_v2(&mut 0, 4) }),
        ("free", |_, _, x| unsafe { sys::cuMemFree_v2(x) }),
        ("query an event", |_, _, _| unsafe { sys::cuEventQuery(event()) }),
    ];
    for mode in [GLOBAL, THREAD_LOCAL] {
        for (name, act) in forbidden {
            let session = session(&[]);
            let (a, b, x) = machine(&session);
            begin(a, mode);
            assert_eq!(act(a, b, x), UNSUPPORTED, "{name}");
            assert_eq!(status(a), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
            fails(unsafe { sys::cuMemsetD32Async(x, 1, 1, a) }, INVALIDATED);
            end_fails(a, INVALIDATED);
            assert_eq!(status(a), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
            ok(act(a, b, x));
        }
    }
    // Relaxed, or with a thread that says it knows what it does, the unsafe calls are let through; what waits for the
    // captured stream itself is not.
    for relaxed in [true, false] {
        let session = session(&[]);
        let (a, b, _) = machine(&session);
        begin(a, if relaxed { RELAXED } else { GLOBAL });
        let before = if relaxed { GLOBAL } else { exchange(RELAXED) };
        assert_eq!(before, GLOBAL);
        ok(unsafe { sys::cuMemAlloc_v2(&mut address, 4) });
        ok(unsafe { sys::cuStreamSynchronize(b) });
        fails(unsafe { sys::cuStreamSynchronize(a) }, UNSUPPORTED);
        end_fails(a, INVALIDATED);
        if !relaxed {
            assert_eq!(exchange(GLOBAL), RELAXED);
        }
    }
}

#[test]
fn other_threads_are_held_back_by_global_captures_alone() {
    let allocate = || on_another_thread(|| unsafe { sys::cuMemAlloc_v2(&mut 0, 4) });
    let _session = session(&[]);
    let a = stream();
    for (mode, expected) in
        [(GLOBAL, UNSUPPORTED), (THREAD_LOCAL, CUresult::CUDA_SUCCESS), (RELAXED, CUresult::CUDA_SUCCESS)]
    {
        begin(a, mode);
        assert_eq!(allocate(), expected, "{mode:?}");
        if expected == UNSUPPORTED { end_fails(a, INVALIDATED) } else { _ = end(a) }
    }
    begin(a, GLOBAL);
    let local = on_another_thread(|| {
        assert_eq!(exchange(THREAD_LOCAL), GLOBAL);
        assert_eq!(exchange(THREAD_LOCAL), THREAD_LOCAL);
        unsafe { sys::cuMemAlloc_v2(&mut 0, 4) }
    });
    ok(local);
    end(a);
    // Only a relaxed capture may end in another thread.
    for mode in [GLOBAL, THREAD_LOCAL] {
        begin(a, mode);
        let stream = a as usize;
        let other =
            on_another_thread(move || unsafe { sys::cuStreamEndCapture(stream as _, &mut null_mut()) });
        fails(other, CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        end(a);
    }
    begin(a, RELAXED);
    let stream = a as usize;
    ok(on_another_thread(move || unsafe { sys::cuStreamEndCapture(stream as _, &mut null_mut()) }));
}

#[test]
fn streams_that_cannot_be_captured_and_ends_that_do_not_fit() {
    let _session = session(&[]);
    let (a, b, x) = (stream(), stream(), alloc(4));
    fails(unsafe { sys::cuStreamBeginCapture_v2(null_mut(), RELAXED) }, UNSUPPORTED);
    fails(unsafe { sys::cuStreamBeginCapture_v2(1 as _, RELAXED) }, UNSUPPORTED);
    end_fails(a, CUresult::CUDA_ERROR_ILLEGAL_STATE);
    begin(a, GLOBAL);
    fails(unsafe { sys::cuStreamBeginCapture_v2(a, GLOBAL) }, CUresult::CUDA_ERROR_ILLEGAL_STATE);
    fails(unsafe { sys::cuStreamEndCapture(a, null_mut()) }, CUresult::CUDA_ERROR_INVALID_VALUE);
    // Two captures stay apart.
    begin(b, GLOBAL);
    let (first, second) = (event(), event());
    record(second, b);
    fails(wait_for(a, second), CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
    end_fails(a, INVALIDATED);
    end(b);
    // A fork ends where it began, and joined.
    begin(a, GLOBAL);
    record(first, a);
    ok(wait_for(b, first));
    ok(unsafe { sys::cuMemsetD32Async(x, 1, 1, b) });
    end_fails(b, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    end_fails(a, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    ok(unsafe { sys::cuStreamSynchronize(b) });
    // What was recorded outside stays outside.
    record(first, b);
    begin(a, GLOBAL);
    fails(wait_for(a, first), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    end_fails(a, INVALIDATED);
    // A fork that is destroyed before the end.
    let c = stream();
    begin(a, GLOBAL);
    record(first, a);
    ok(wait_for(c, first));
    ok(unsafe { sys::cuStreamDestroy_v2(c) });
    end_fails(a, INVALIDATED);
}

#[test]
fn the_legacy_stream_cannot_be_used_while_a_blocking_one_is_captured() {
    let _session = session(&[]);
    let (a, x) = (blocking(), alloc(4));
    let legacy = null_mut();
    let mut status_of = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    begin(a, RELAXED);
    // The manual: asking is an error, and the capture is not invalidated.
    fails(unsafe { sys::cuStreamIsCapturing(legacy, &mut status_of) }, IMPLICIT);
    let (info, none) = (sys::cuStreamGetCaptureInfo_v2, null_mut());
    fails(unsafe { info(legacy, &mut status_of, null_mut(), none, null_mut(), null_mut()) }, IMPLICIT);
    assert_eq!(status(a), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    end(a);
    type Act = fn(u64) -> CUresult;
    let uses: [Act; 5] = [
        |x| unsafe { sys::cuMemsetD32Async(x, 1, 1, null_mut()) },
        |x| unsafe { sys::cuMemcpyDtoH_v2((&raw mut *Box::leak(Box::new(0u32))).cast(), x, 4) },
        |_| unsafe { sys::cuStreamSynchronize(null_mut()) },
        |_| unsafe { sys::cuEventRecord(event(), null_mut()) },
        |_| unsafe { sys::cuStreamQuery(null_mut()) },
    ];
    put(x, &[1u32]);
    for (index, act) in uses.into_iter().enumerate() {
        begin(a, RELAXED);
        assert_eq!(act(x), IMPLICIT, "use {index}");
        end_fails(a, INVALIDATED);
    }
    // A non-blocking stream has nothing to do with it.
    let b = stream();
    begin(b, RELAXED);
    ok(unsafe { sys::cuMemsetD32Async(x, 1, 1, null_mut()) });
    ok(unsafe { sys::cuStreamIsCapturing(legacy, &mut status_of) });
    end(b);
}

#[test]
fn captured_events_are_no_others_business() {
    let _session = session(&[]);
    let (a, b, e) = (stream(), stream(), event());
    let mut time = 0.0;
    for act in [
        (|e, _| unsafe { sys::cuEventQuery(e) }) as fn(CUevent, &mut f32) -> CUresult,
        |e, _| unsafe { sys::cuEventSynchronize(e) },
        |e, time| unsafe { sys::cuEventElapsedTime(time, e, e) },
    ] {
        begin(a, RELAXED);
        record(e, a);
        fails(act(e, &mut time), CAPTURED_EVENT);
        end_fails(a, INVALIDATED);
    }
    // It stays so until it is recorded anew.
    begin(a, GLOBAL);
    record(e, a);
    end(a);
    fails(unsafe { sys::cuEventQuery(e) }, CAPTURED_EVENT);
    fails(wait_for(b, e), CAPTURED_EVENT);
    record(e, b);
    ok(unsafe { sys::cuEventSynchronize(e) });
    ok(wait_for(a, e));
}

#[test]
fn a_capture_says_how_it_is() {
    let _session = session(&[]);
    let (a, b) = (stream(), stream());
    let info = |stream| {
        let (mut status, mut id) = (CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE, 0);
        let nothing = null_mut();
        ok(unsafe {
            sys::cuStreamGetCaptureInfo_v2(stream, &mut status, &mut id, nothing, null_mut(), null_mut())
        });
        (status as u32, id)
    };
    assert_eq!(info(a).0, 0);
    begin(a, GLOBAL);
    let (active, id) = info(a);
    assert_eq!(active, 1);
    begin(b, GLOBAL);
    assert_ne!(info(b).1, id, "every capture has a number of its own");
    end(b);
    fails(unsafe { sys::cuStreamQuery(a) }, UNSUPPORTED);
    assert_eq!(info(a).0, 2);
    end_fails(a, INVALIDATED);
    assert_eq!(info(a).0, 0);
    let mut mode = 3u32;
    let wrong = unsafe { sys::cuThreadExchangeStreamCaptureMode((&raw mut mode).cast()) };
    fails(wrong, CUresult::CUDA_ERROR_INVALID_VALUE);
    fails(
        unsafe { sys::cuThreadExchangeStreamCaptureMode(null::<Mode>().cast_mut()) },
        CUresult::CUDA_ERROR_INVALID_VALUE,
    );
}

#[test]
fn a_graph_can_be_looked_at_and_led_elsewhere_while_it_is_captured() {
    for seed in 0..12 {
        let session = session(&[("SEED", &seed.to_string())]);
        let (a, x, y) = (stream(), alloc(4), alloc(4));
        let look = || {
            let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
            let (mut id, mut graph, mut nodes, mut count) = (0, null_mut(), null(), 9);
            ok(unsafe {
                sys::cuStreamGetCaptureInfo_v2(a, &mut status, &mut id, &mut graph, &mut nodes, &mut count)
            });
            (graph, unsafe { std::slice::from_raw_parts(nodes, count) }.to_vec())
        };
        begin(a, GLOBAL);
        let (graph, nodes) = look();
        assert_eq!(nodes, []);
        ok(unsafe { sys::cuMemsetD32Async(x, 1, 1, a) });
        let (same, first) = look();
        assert_eq!((same, first.len()), (graph, 1));
        // Back to the beginning: the next has nothing to do with the first.
        ok(unsafe { sys::cuStreamUpdateCaptureDependencies(a, null_mut(), 0, 1) });
        assert_eq!(look().1, []);
        ok(unsafe { sys::cuMemsetD32Async(y, 2, 1, a) });
        let second = look().1;
        let mut added = first.clone();
        ok(unsafe { sys::cuStreamUpdateCaptureDependencies(a, added.as_mut_ptr(), 1, 0) });
        assert_eq!(look().1, [second[0], first[0]]);
        ok(unsafe { sys::cuMemcpyDtoDAsync_v2(x, y, 4, a) });
        fails(unsafe { sys::cuGraphDestroy(graph) }, CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(end(a), graph);
        let update = unsafe { sys::cuStreamUpdateCaptureDependencies(a, null_mut(), 0, 1) };
        fails(update, CUresult::CUDA_ERROR_ILLEGAL_STATE);
        let mut edges = 0;
        ok(unsafe { sys::cuGraphGetEdges(graph, null_mut(), null_mut(), &mut edges) });
        assert_eq!(edges, 2);
        ok(unsafe { sys::cuGraphLaunch(instantiate(graph), a) });
        ok(unsafe { sys::cuStreamSynchronize(a) });
        assert_eq!(get::<u32>(x, 1), [2], "seed {seed}: {:?}", session.faults());
    }
    // A capture that fails leaves no graph behind.
    let session = session(&[]);
    let a = stream();
    begin(a, GLOBAL);
    assert_eq!(session.report()["living"]["graphs"], 1);
    fails(unsafe { sys::cuStreamQuery(a) }, UNSUPPORTED);
    end_fails(a, INVALIDATED);
    assert_eq!(session.report()["living"]["graphs"], 0);
}
