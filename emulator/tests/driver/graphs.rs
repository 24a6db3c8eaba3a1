//! Graphs that are made node by node, instantiated, updated, launched.

use crate::captures::{begin, end, instantiate};
use crate::harness::*;
use cudarc::driver::sys::{
    self, CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUcontext,
    CUfunction, CUgraph, CUgraphNode, CUmemorytype, CUresult, CUstreamCaptureMode,
};
use std::ffi::c_void;
use std::ptr::{null, null_mut};

const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const INVALID_HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;
const N: u32 = 40;

fn graph() -> CUgraph {
    let mut graph = null_mut();
    ok(unsafe { sys::cuGraphCreate(&mut graph, 0) });
    graph
}

fn context() -> CUcontext {
    let mut context = null_mut();
    ok(unsafe { sys::cuCtxGetCurrent(&mut context) });
    context
}

/// Calls `body` with the parameters of a launch of `f(x, N, k)`.
fn with_kernel<T>(
    f: CUfunction,
    x: u64,
    k: u32,
    body: impl FnOnce(*const CUDA_KERNEL_NODE_PARAMS) -> T,
) -> T {
    let mut arguments = [x.address(), N.address(), k.address()];
    body(&CUDA_KERNEL_NODE_PARAMS {
        func: f,
        gridDimX: 2,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: arguments.as_mut_ptr(),
        extra: null_mut(),
        kern: null_mut(),
        ctx: null_mut(),
    })
}

fn kernel(graph: CUgraph, after: &[CUgraphNode], f: CUfunction, x: u64, k: u32) -> CUgraphNode {
    let mut node = null_mut();
    ok(with_kernel(f, x, k, |params| unsafe {
        sys::cuGraphAddKernelNode_v2(&mut node, graph, after.as_ptr(), after.len(), params)
    }));
    node
}

/// One end of a copy.
#[derive(Clone, Copy)]
enum End {
    Host(*mut u32),
    Device(u64),
}

fn copy_of(to: End, from: End, bytes: usize, rows: usize) -> CUDA_MEMCPY3D {
    type Half = (CUmemorytype, *mut u32, u64);
    let half = |end| -> Half {
        match end {
            End::Host(at) => (CUmemorytype::CU_MEMORYTYPE_HOST, at, 0),
            End::Device(at) => (CUmemorytype::CU_MEMORYTYPE_DEVICE, null_mut(), at),
        }
    };
    let (from, to) = (half(from), half(to));
    CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: from.0,
        srcHost: from.1.cast(),
        srcDevice: from.2,
        srcArray: null_mut(),
        reserved0: null_mut(),
        srcPitch: 0,
        srcHeight: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: to.0,
        dstHost: to.1.cast(),
        dstDevice: to.2,
        dstArray: null_mut(),
        reserved1: null_mut(),
        dstPitch: 0,
        dstHeight: 0,
        WidthInBytes: bytes,
        Height: rows,
        Depth: 1,
    }
}

fn copy(graph: CUgraph, after: &[CUgraphNode], params: &CUDA_MEMCPY3D) -> CUgraphNode {
    let mut node = null_mut();
    ok(unsafe {
        sys::cuGraphAddMemcpyNode(&mut node, graph, after.as_ptr(), after.len(), params, context())
    });
    node
}

fn fill_of(dst: u64, value: u32, width: usize, height: usize) -> CUDA_MEMSET_NODE_PARAMS {
    CUDA_MEMSET_NODE_PARAMS { dst, pitch: 4 * width, value, elementSize: 4, width, height }
}

fn fill(graph: CUgraph, after: &[CUgraphNode], params: &CUDA_MEMSET_NODE_PARAMS) -> CUgraphNode {
    let mut node = null_mut();
    ok(unsafe {
        sys::cuGraphAddMemsetNode(&mut node, graph, after.as_ptr(), after.len(), params, context())
    });
    node
}

fn empty(graph: CUgraph, after: &[CUgraphNode]) -> CUgraphNode {
    let mut node = null_mut();
    ok(unsafe { sys::cuGraphAddEmptyNode(&mut node, graph, after.as_ptr(), after.len()) });
    node
}

fn kernels() -> (CUfunction, CUfunction) {
    let module = module(KERNELS);
    (function(module, "add"), function(module, "scale"))
}

unsafe extern "C" fn double(data: *mut c_void) {
    let value = unsafe { &mut *data.cast::<u32>() };
    *value *= 2;
}

#[test]
fn every_kind_of_node_does_its_work_in_the_order_of_the_edges() {
    for seed in 0..12 {
        let session = session(&[("SEED", &seed.to_string())]);
        let (add, scale) = kernels();
        let (x, a, started) = (alloc(4 * N as usize), stream(), event());
        let mut word = 0u32;
        let at = &raw mut word;
        let graph = graph();
        let set = fill(graph, &[], &fill_of(x, 5, N as usize, 1));
        let added = kernel(graph, &[set], add, x, 2);
        let scaled = kernel(graph, &[added], scale, x, 3);
        let out = copy(graph, &[scaled], &copy_of(End::Host(at), End::Device(x), 4, 1));
        let mut doubled = null_mut();
        let host = CUDA_HOST_NODE_PARAMS { fn_: Some(double), userData: at.cast() };
        ok(unsafe { sys::cuGraphAddHostNode(&mut doubled, graph, &out, 1, &host) });
        let none = empty(graph, &[doubled]);
        let back = copy(graph, &[none], &copy_of(End::Device(x), End::Host(at), 4, 1));
        let (mut recorded, mut waited) = (null_mut(), null_mut());
        ok(unsafe { sys::cuGraphAddEventRecordNode(&mut recorded, graph, &back, 1, started) });
        ok(unsafe { sys::cuGraphAddEventWaitNode(&mut waited, graph, &recorded, 1, event()) });
        let exec = instantiate(graph);
        // The executable does not need the graph.
        ok(unsafe { sys::cuGraphDestroy(graph) });
        for _ in 0..2 {
            ok(unsafe { sys::cuGraphLaunch(exec, a) });
        }
        ok(unsafe { sys::cuStreamSynchronize(a) });
        ok(unsafe { sys::cuEventQuery(started) });
        assert_eq!(get::<u32>(x, 3), [42, 21, 21], "seed {seed}: {:?}", session.faults());
        assert_eq!(unsafe { at.read_volatile() }, 42);
        let launch = |exec| unsafe { sys::cuGraphLaunch(exec, a) };
        ok(unsafe { sys::cuGraphExecDestroy(exec) });
        fails(launch(exec), INVALID_HANDLE);
        fails(unsafe { sys::cuGraphExecDestroy(exec) }, INVALID_HANDLE);
        fails(unsafe { sys::cuGraphDestroy(graph) }, INVALID_HANDLE);
        fails(unsafe { sys::cuGraphInstantiateWithFlags(&mut null_mut(), graph, 0) }, INVALID_HANDLE);
        fails(launch(null_mut()), INVALID_HANDLE);
        ok(unsafe { sys::cuStreamDestroy_v2(a) });
        fails(launch(exec), INVALID_HANDLE);
    }
}

#[test]
fn branches_without_an_edge_race_and_an_edge_orders_them() {
    for seed in 0..12 {
        for edge in [false, true] {
            let session = session(&[("SEED", &seed.to_string())]);
            let (add, scale) = kernels();
            let (x, a) = (alloc(4 * N as usize), stream());
            put(x, &[1u32; N as usize]);
            let graph = graph();
            let (first, second) = (kernel(graph, &[], add, x, 1), kernel(graph, &[], scale, x, 3));
            if edge {
                ok(unsafe { sys::cuGraphAddDependencies(graph, &first, &second, 1) });
            }
            let exec = instantiate(graph);
            _ = unsafe { sys::cuGraphLaunch(exec, a) };
            let done = unsafe { sys::cuStreamSynchronize(a) };
            assert_eq!(done == CUresult::CUDA_SUCCESS, edge, "seed {seed}");
            assert_eq!(session.faults().len(), usize::from(!edge));
            if edge {
                assert_eq!(get::<u32>(x, 2), [6, 6]);
            } else {
                // The context is done for.
                fails(unsafe { sys::cuGraphLaunch(exec, a) }, done);
                fails(unsafe { sys::cuMemAlloc_v2(&mut 0, 4) }, done);
            }
        }
    }
}

#[test]
fn a_faulting_kernel_ends_the_context_and_says_where() {
    for seed in 0..12 {
        let session = session(&[("SEED", &seed.to_string())]);
        let bad = function(module(KERNELS), "bad");
        let (x, y, a) = (alloc(4), alloc(4), stream());
        begin(a, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL);
        ok(launch(bad, 1, 1, a, &[&x]));
        ok(unsafe { sys::cuMemsetD32Async(y, 1, 1, a) });
        let exec = instantiate(end(a));
        _ = unsafe { sys::cuGraphLaunch(exec, a) };
        fails(unsafe { sys::cuStreamSynchronize(a) }, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(session.faults()[0].contains("bad"), "{:?}", session.faults());
        fails(unsafe { sys::cuCtxSynchronize() }, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    }
}

#[test]
fn a_graph_tells_its_nodes_edges_and_roots() {
    let _session = session(&[]);
    let graph = graph();
    let a = empty(graph, &[]);
    let b = empty(graph, &[]);
    let c = empty(graph, &[a, b]);
    let d = empty(graph, &[c]);
    let list = |query: &dyn Fn(*mut CUgraphNode, &mut usize) -> CUresult| {
        let mut count = 0;
        ok(query(null_mut(), &mut count));
        // Room for more than there is: the rest becomes null.
        let mut nodes = vec![std::ptr::dangling_mut::<u64>().cast(); count + 1];
        let mut given = count + 1;
        ok(query(nodes.as_mut_ptr(), &mut given));
        assert_eq!((given, nodes.pop()), (count, Some(null_mut())));
        // And for less.
        let mut few = count.saturating_sub(1);
        ok(query(vec![null_mut(); count].as_mut_ptr(), &mut few));
        assert_eq!(few, count.saturating_sub(1));
        nodes
    };
    assert_eq!(list(&|nodes, count| unsafe { sys::cuGraphGetNodes(graph, nodes, count) }), [a, b, c, d]);
    assert_eq!(list(&|nodes, count| unsafe { sys::cuGraphGetRootNodes(graph, nodes, count) }), [a, b]);
    assert_eq!(list(&|nodes, count| unsafe { sys::cuGraphNodeGetDependencies(c, nodes, count) }), [a, b]);
    let mut count = 4;
    let (mut from, mut to) = ([a; 4], [a; 4]);
    ok(unsafe { sys::cuGraphGetEdges(graph, from.as_mut_ptr(), to.as_mut_ptr(), &mut count) });
    assert_eq!((count, from, to), (3, [a, b, c, null_mut()], [c, c, d, null_mut()]));
    ok(unsafe { sys::cuGraphGetEdges(graph, null_mut(), null_mut(), &mut count) });
    assert_eq!(count, 3);
    // A copy has nodes of its own.
    let mut clone = null_mut();
    ok(unsafe { sys::cuGraphClone(&mut clone, graph) });
    let mut cloned = [null_mut(); 4];
    let mut four = 4;
    ok(unsafe { sys::cuGraphGetNodes(clone, cloned.as_mut_ptr(), &mut four) });
    assert!(cloned.iter().all(|node| ![a, b, c, d, null_mut()].contains(node)));
    ok(unsafe { sys::cuGraphGetEdges(clone, null_mut(), null_mut(), &mut count) });
    assert_eq!(count, 3);
    ok(unsafe { sys::cuGraphDestroy(graph) });
    let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL;
    fails(unsafe { sys::cuGraphNodeGetType(a, &mut kind) }, INVALID_HANDLE);
    ok(unsafe { sys::cuGraphNodeGetType(cloned[0], &mut kind) });
    assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY);
}

#[test]
fn edges_that_make_no_sense_are_refused() {
    let _session = session(&[]);
    let (graph, other) = (graph(), graph());
    let a = empty(graph, &[]);
    let b = empty(graph, &[a]);
    let stranger = empty(other, &[]);
    let edge =
        |from: CUgraphNode, to: CUgraphNode| unsafe { sys::cuGraphAddDependencies(graph, &from, &to, 1) };
    fails(edge(a, b), INVALID_VALUE);
    fails(edge(a, a), INVALID_VALUE);
    fails(edge(a, stranger), INVALID_VALUE);
    let twice = [a, a];
    let add = |after: &[CUgraphNode]| unsafe {
        sys::cuGraphAddEmptyNode(&mut null_mut(), graph, after.as_ptr(), after.len())
    };
    fails(add(&twice), INVALID_VALUE);
    fails(add(&[stranger]), INVALID_VALUE);
    fails(unsafe { sys::cuGraphAddEmptyNode(&mut null_mut(), graph, null(), 1) }, INVALID_VALUE);
    fails(unsafe { sys::cuGraphCreate(&mut null_mut(), 1) }, INVALID_VALUE);
    instantiate(graph);
    ok(edge(b, a));
    let mut exec = null_mut();
    fails(unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) }, INVALID_VALUE);
    let mut params: sys::CUDA_GRAPH_INSTANTIATE_PARAMS = unsafe { std::mem::zeroed() };
    let mut with = |graph| unsafe {
        let code = sys::cuGraphInstantiateWithParams(&mut exec, graph, &mut params);
        (code, params.result_out as u32)
    };
    assert_eq!(with(graph), (INVALID_VALUE, 2));
    assert_eq!(with(other), (CUresult::CUDA_SUCCESS, 0));
}

#[test]
fn parameters_change_and_kinds_do_not() {
    let session = session(&[("DEVICES", "2")]);
    let (add, scale) = kernels();
    let (x, y, a) = (alloc(4 * N as usize), alloc(4 * N as usize), stream());
    let mut word = 0u32;
    let at = &raw mut word;
    let graph = graph();
    let set = fill(graph, &[], &fill_of(x, 5, N as usize, 1));
    let node = kernel(graph, &[set], add, x, 2);
    let out = copy(graph, &[node], &copy_of(End::Host(at), End::Device(x), 4, 1));
    let exec = instantiate(graph);
    let run = || {
        ok(unsafe { sys::cuGraphLaunch(exec, a) });
        ok(unsafe { sys::cuStreamSynchronize(a) });
        unsafe { at.read_volatile() }
    };
    assert_eq!(run(), 7);
    let set_kernel = |node, f, x, k| {
        with_kernel(f, x, k, |params| unsafe { sys::cuGraphExecKernelNodeSetParams_v2(exec, node, params) })
    };
    let set_fill =
        |node, params| unsafe { sys::cuGraphExecMemsetNodeSetParams(exec, node, &params, context()) };
    let set_copy =
        |node, params| unsafe { sys::cuGraphExecMemcpyNodeSetParams(exec, node, &params, context()) };
    ok(set_kernel(node, scale, x, 4));
    assert_eq!(run(), 20);
    ok(set_fill(set, fill_of(y, 9, 1, 1)));
    assert_eq!(run(), 80, "x is no longer filled");
    ok(set_copy(out, copy_of(End::Host(at), End::Device(y), 4, 1)));
    assert_eq!(run(), 9);
    // The graph itself has stayed, and its nodes change by themselves.
    ok(with_kernel(add, x, 30, |params| unsafe { sys::cuGraphKernelNodeSetParams_v2(node, params) }));
    assert_eq!(run(), 9);
    let second = instantiate(graph);
    ok(unsafe { sys::cuGraphLaunch(second, a) });
    ok(unsafe { sys::cuStreamSynchronize(a) });
    assert_eq!(unsafe { at.read_volatile() }, 35);
    // Kinds, memories and dimensions stay.
    fails(set_kernel(set, add, x, 1), INVALID_VALUE);
    fails(set_fill(node, fill_of(x, 1, 1, 1)), INVALID_VALUE);
    fails(set_fill(set, fill_of(x, 1, 2, 2)), INVALID_VALUE);
    fails(set_copy(out, copy_of(End::Device(x), End::Host(at), 4, 1)), INVALID_VALUE);
    fails(set_copy(out, copy_of(End::Host(at), End::Device(y), 2, 2)), INVALID_VALUE);
    let stranger = empty(graph, &[]);
    fails(set_kernel(stranger, add, x, 1), INVALID_VALUE);
    fails(
        with_kernel(add, x, 1, |params| unsafe { sys::cuGraphKernelNodeSetParams_v2(set, params) }),
        INVALID_VALUE,
    );
    assert_eq!(run(), 9);
    // A kernel of another device has no place in the graph.
    let mut other = null_mut();
    ok(unsafe { sys::cuDevicePrimaryCtxRetain(&mut other, 1) });
    ok(unsafe { sys::cuCtxSetCurrent(other) });
    let (foreign, _) = kernels();
    let added = with_kernel(foreign, x, 1, |params| unsafe {
        sys::cuGraphAddKernelNode_v2(&mut null_mut(), graph, null(), 0, params)
    });
    fails(added, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert!(session.last_error().contains("kernels of several devices"), "{}", session.last_error());
    fails(set_kernel(node, foreign, x, 1), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(session.faults(), [""; 0]);
}

#[test]
fn an_executable_takes_over_a_graph_of_the_same_form() {
    let _session = session(&[]);
    let (add, scale) = kernels();
    let (x, a) = (alloc(4 * N as usize), stream());
    let made = |f, k, extra: bool, flipped: bool| {
        let graph = graph();
        let set = fill(graph, &[], &fill_of(x, 5, N as usize, 1));
        let node = kernel(graph, if flipped { &[] } else { std::slice::from_ref(&set) }, f, x, k);
        if flipped {
            ok(unsafe { sys::cuGraphAddDependencies(graph, &node, &set, 1) });
        }
        if extra {
            empty(graph, &[node]);
        }
        (graph, set, node)
    };
    let exec = instantiate(made(add, 2, false, false).0);
    let run = || {
        ok(unsafe { sys::cuGraphLaunch(exec, a) });
        ok(unsafe { sys::cuStreamSynchronize(a) });
        get::<u32>(x, 1)[0]
    };
    let update = |graph| {
        let mut info: sys::CUgraphExecUpdateResultInfo = unsafe { std::mem::zeroed() };
        let code = unsafe { sys::cuGraphExecUpdate_v2(exec, graph, &mut info) };
        (code, info.result as u32, info.errorNode, info.errorFromNode)
    };
    assert_eq!(run(), 7);
    let none = null_mut();
    let failed = CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    assert_eq!(update(made(scale, 6, false, false).0), (CUresult::CUDA_SUCCESS, 0, none, none));
    assert_eq!(run(), 30);
    assert_eq!(update(made(add, 1, true, false).0), (failed, 2, none, none));
    let (graph, set, node) = made(add, 1, false, true);
    assert_eq!(update(graph), (failed, 2, set, node));
    let kinds = {
        let graph = self::graph();
        let set = fill(graph, &[], &fill_of(x, 5, N as usize, 1));
        let other = empty(graph, &[set]);
        (graph, other)
    };
    assert_eq!(update(kinds.0), (failed, 3, kinds.1, none));
    let shape = {
        let graph = self::graph();
        let set = fill(graph, &[], &fill_of(x, 5, N as usize / 2, 2));
        kernel(graph, &[set], add, x, 1);
        (graph, set)
    };
    assert_eq!(update(shape.0), (failed, 5, shape.1, none));
    assert_eq!(run(), 30, "a failed update changes nothing");
    ok(unsafe { sys::cuGraphDestroy(graph) });
    assert_eq!(update(graph).0, INVALID_HANDLE);
}

#[test]
fn user_objects_live_until_nobody_needs_them() {
    unsafe extern "C" fn gone(data: *mut c_void) {
        unsafe { &*data.cast::<std::sync::atomic::AtomicU32>() }
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    for seed in 0..12 {
        let _session = session(&[("SEED", &seed.to_string())]);
        let (add, _) = kernels();
        let (x, a) = (alloc(4 * N as usize), stream());
        put(x, &[1u32; N as usize]);
        let deaths: &std::sync::atomic::AtomicU32 = Box::leak(Box::default());
        let dead = || deaths.load(std::sync::atomic::Ordering::SeqCst);
        let mut object = null_mut();
        let data = std::ptr::from_ref(deaths).cast_mut().cast();
        let create =
            |flags, object: &mut _| unsafe { sys::cuUserObjectCreate(object, data, Some(gone), 2, flags) };
        fails(create(0, &mut object), INVALID_VALUE);
        ok(create(1, &mut object));
        let graph = graph();
        kernel(graph, &[], add, x, 1);
        // One of the caller's two references moves, one more is made.
        ok(unsafe { sys::cuGraphRetainUserObject(graph, object, 1, 1) });
        ok(unsafe { sys::cuGraphRetainUserObject(graph, object, 1, 0) });
        fails(unsafe { sys::cuGraphReleaseUserObject(graph, object, 3) }, INVALID_VALUE);
        ok(unsafe { sys::cuGraphReleaseUserObject(graph, object, 1) });
        ok(unsafe { sys::cuUserObjectRelease(object, 1) });
        let exec = instantiate(graph);
        ok(unsafe { sys::cuGraphDestroy(graph) });
        ok(unsafe { sys::cuGraphLaunch(exec, a) });
        assert_eq!(dead(), 0);
        ok(unsafe { sys::cuGraphExecDestroy(exec) });
        ok(unsafe { sys::cuCtxSynchronize() });
        let start = std::time::Instant::now();
        while dead() == 0 {
            assert!(start.elapsed().as_secs() < 20, "seed {seed}: nobody was told");
            std::thread::yield_now();
        }
        assert_eq!((dead(), get::<u32>(x, 1)), (1, vec![2]));
        fails(unsafe { sys::cuUserObjectRelease(object, 1) }, INVALID_VALUE);
    }
}
