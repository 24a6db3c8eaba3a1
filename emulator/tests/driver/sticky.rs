//! What a faulty kernel leaves behind: a report, a context that answers with the first error, and nothing else.

use crate::harness::*;
use cudarc::driver::sys::{self, CUcontext, CUfunction, CUresult, cudaError_enum::*};
use std::ffi::c_void;
use std::ptr::null_mut;

/// One kernel for each way to fail, all with a pointer to 64 bytes; line numbers count from the first line.
const FAULTS: &str = "//
.version 8.0
.target sm_80
.address_size 64
.extern .func __assertfail (.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
.visible .entry beyond(.param .u64 x)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<4>;
    .reg .pred %p<2>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %tid.x;
    setp.ne.u32 %p1, %r1, 1;
    @%p1 bra DONE;
    setp.ne.u32 %p1, %r2, 2;
    @%p1 bra DONE;
    ld.param.u64 %rd1, [x];
    st.global.u32 [%rd1+64], %r1;
DONE:
    ret;
}
.visible .entry crooked(.param .u64 x)
{
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [x];
    st.global.u32 [%rd1+2], 1;
    ret;
}
.visible .entry traps(.param .u64 x)
{
    trap;
}
.visible .entry asserts(.param .u64 x)
{
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [x];
    { .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
    st.param.b64 [a], %rd1; st.param.b64 [b], %rd1; st.param.b32 [c], 7; st.param.b64 [d], %rd1; st.param.b64 [e], 1;
    call.uni __assertfail, (a, b, c, d, e);
    }
    ret;
}
.visible .entry spins(.param .u64 x)
{
AGAIN:
    bra AGAIN;
}
.visible .entry unwritten(.param .u64 x)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [x];
    ld.global.u32 %r1, [%rd1+32];
    st.global.u32 [%rd1], %r1;
    ret;
}
.visible .entry stuck(.param .u64 x)
{
    .reg .b32 %r<2>;
    .reg .pred %p<2>;
    mov.u32 %r1, %tid.x;
    setp.lt.u32 %p1, %r1, 32;
    @%p1 bra OTHER;
    bar.sync 1, 64;
    ret;
OTHER:
    bar.sync 2, 64;
    ret;
}
";

/// Every call that needs the context, after a fault.
fn calls(x: u64, kernel: CUfunction, stream: sys::CUstream, event: sys::CUevent) -> Vec<CUresult> {
    let (mut word, mut out, mut at) = (0u32, null_mut::<c_void>(), 0u64);
    let host = (&raw mut word).cast::<c_void>();
    unsafe {
        vec![
            sys::cuCtxSynchronize(),
            sys::cuStreamSynchronize(stream),
            sys::cuStreamQuery(stream),
            sys::cuEventRecord(event, stream),
            sys::cuMemAlloc_v2(&mut at, 64),
            sys::cuMemAllocHost_v2(&mut out, 64),
            sys::cuMemAllocAsync(&mut at, 64, stream),
            sys::cuMemcpyHtoD_v2(x, host, 4),
            sys::cuMemcpyDtoH_v2(host, x, 4),
            sys::cuMemcpyDtoHAsync_v2(host, x, 4, stream),
            sys::cuMemsetD8_v2(x, 1, 4),
            sys::cuMemGetInfo_v2(&mut 0, &mut 0),
            sys::cuModuleLoadData((&raw mut out).cast(), c"x".as_ptr().cast()),
            launch(kernel, 1, 1, stream, &[&x]),
            sys::cuStreamCreate((&raw mut out).cast(), 0),
            sys::cuEventCreate((&raw mut out).cast(), 0),
        ]
    }
}

#[test]
fn a_fault_ends_its_context_and_no_other() {
    let kinds = [
        ("beyond", CUDA_ERROR_ILLEGAL_ADDRESS, "OutOfBounds", 18),
        ("crooked", CUDA_ERROR_MISALIGNED_ADDRESS, "Misaligned", 26),
        ("traps", CUDA_ERROR_LAUNCH_FAILED, "Trap", 31),
        ("asserts", CUDA_ERROR_ASSERT, "Assertion", 39),
        ("spins", CUDA_ERROR_LAUNCH_TIMEOUT, "Timeout", 46),
        ("unwritten", CUDA_ERROR_LAUNCH_FAILED, "Uninitialised", 53),
        ("stuck", CUDA_ERROR_LAUNCH_TIMEOUT, "Deadlock", 0),
    ];
    for (seed, (name, code, kind, line)) in
        ["0", "6"].into_iter().flat_map(|seed| kinds.map(|kind| (seed, kind)))
    {
        let session = session(&[("SEED", seed), ("WARP_LIMIT", "20000"), ("MEMORY", "1M")]);
        let mut other: CUcontext = null_mut();
        let mut primary = null_mut();
        ok(unsafe { sys::cuCtxGetCurrent(&mut primary) });
        ok(unsafe { sys::cuCtxCreate_v2(&mut other, 0, 0) });
        let (bystander, add) = (alloc(64), function(module(KERNELS), "add"));
        put(bystander, &[1u32; 16]);
        ok(unsafe { sys::cuCtxSetCurrent(primary) });
        let module = module(FAULTS);
        let (kernel, traps, x, s, e) =
            (function(module, name), function(module, "traps"), alloc(64), stream(), event());
        let (mut y, mut pinned) = (0, null_mut());
        ok(unsafe { sys::cuMemAllocAsync(&mut y, 64, s) });
        ok(unsafe { sys::cuMemAllocHost_v2(&mut pinned, 64) });
        // The launch itself is no error; the work behind it is lost, and its frees are not.
        ok(launch(kernel, 2, 64, s, &[&x]));
        let mut z = 0;
        if unsafe { sys::cuMemAllocAsync(&mut z, 64, s) } == CUDA_SUCCESS {
            _ = unsafe { sys::cuMemFreeAsync(z, s) };
        }
        fails(unsafe { sys::cuCtxSynchronize() }, code);
        let results = calls(x, traps, s, e);
        assert_eq!(results, vec![code; results.len()], "{name}");
        // The first error stays, and is reported once with its place.
        let report = session.report();
        let faults = report["faults"].as_array().unwrap();
        assert_eq!(faults.len(), 1, "{name}: {faults:?}");
        let fault = &faults[0]["fault"];
        assert_eq!((&faults[0]["code"], &fault["kind"]), (&(code as u32).into(), &kind.into()));
        assert_eq!(fault["kernel"], name);
        assert!(line == 0 || fault["place"]["ptx_line"] == line, "{name}: {fault}");
        if name == "beyond" {
            assert_eq!(fault["thread"]["block"], serde_json::json!([1, 0, 0]));
            assert_eq!(fault["thread"]["thread"], serde_json::json!([2, 0, 0]));
        }
        assert!(faults[0]["text"].as_str().unwrap().contains(name), "{}", faults[0]["text"]);
        // Another context works on.
        ok(unsafe { sys::cuCtxSetCurrent(other) });
        ok(launch(add, 1, 32, null_mut(), &[&bystander, &16u32, &1u32]));
        assert_eq!(get::<u32>(bystander, 16), [2; 16]);
        ok(unsafe { sys::cuMemFree_v2(bystander) });
        ok(unsafe { sys::cuCtxDestroy_v2(other) });
        // Frees say the same code, and give back what they are given all the same.
        ok(unsafe { sys::cuCtxSetCurrent(primary) });
        fails(unsafe { sys::cuMemFree_v2(x) }, code);
        fails(unsafe { sys::cuMemFreeAsync(y, s) }, code);
        fails(unsafe { sys::cuMemFreeHost(pinned) }, code);
        fails(unsafe { sys::cuModuleUnload(module) }, code);
        _ = unsafe { sys::cuEventDestroy_v2(e) };
        _ = unsafe { sys::cuStreamDestroy_v2(s) };
        let report = session.report();
        for kind in ["allocations", "pinned", "modules", "events", "streams"] {
            assert_eq!(report["living"][kind], 0, "{name} {kind}");
        }
        assert_eq!(report["memory_used"], 0, "{name}");
        // After a reset there is a new one.
        ok(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) });
        ok(unsafe { sys::cuDevicePrimaryCtxRetain(&mut primary, 0) });
        ok(unsafe { sys::cuCtxSetCurrent(primary) });
        let x = alloc(4);
        put(x, &[1u32]);
        ok(launch(function(crate::harness::module(KERNELS), "add"), 1, 32, null_mut(), &[&x, &1u32, &1u32]));
        assert_eq!(get::<u32>(x, 1), [2]);
    }
}

/// `recurse(u32 n)`: n calls deep, each with 128 bytes of local memory.
const DEEP: &str = "
.version 8.0
.target sm_80
.address_size 64
.func deep(.param .b32 n)
{
    .local .align 4 .b8 frame[128];
    .reg .b32 %r<3>;
    .reg .pred %p<2>;
    ld.param.u32 %r1, [n];
    st.local.u32 [frame], %r1;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra DONE;
    sub.u32 %r2, %r1, 1;
    { .param .b32 a; st.param.b32 [a], %r2; call deep, (a); }
DONE:
    ret;
}
.visible .entry recurse(.param .u32 n)
{
    .reg .b32 %r<2>;
    ld.param.u32 %r1, [n];
    { .param .b32 a; st.param.b32 [a], %r1; call deep, (a); }
    ret;
}
";

/// CU_LIMIT_STACK_SIZE is of a context; what goes beyond it is CUDA_ERROR_HARDWARE_STACK_ERROR.
#[test]
fn the_stack_is_as_large_as_the_context_says() {
    let session = session(&[]);
    let limit = sys::CUlimit::CU_LIMIT_STACK_SIZE;
    let run = |n: u32| {
        ok(launch(function(module(DEEP), "recurse"), 1, 1, null_mut(), &[&n]));
        unsafe { sys::cuCtxSynchronize() }
    };
    ok(run(20));
    ok(unsafe { sys::cuCtxSetLimit(limit, 60_000) });
    ok(run(300));
    let mut other = null_mut();
    ok(unsafe { sys::cuCtxCreate_v2(&mut other, 0, 0) });
    fails(run(300), CUDA_ERROR_HARDWARE_STACK_ERROR);
    assert!(session.faults()[0].contains("StackOverflow"), "{:?}", session.faults());
    ok(unsafe { sys::cuCtxPopCurrent_v2(null_mut()) });
    ok(run(300));
}

/// A context's first error is the one it keeps.
#[test]
fn later_errors_do_not_hide_the_first() {
    let session = session(&[]);
    let x = alloc(64);
    ok(launch(function(module(FAULTS), "beyond"), 2, 64, null_mut(), &[&x]));
    fails(unsafe { sys::cuCtxSynchronize() }, CUDA_ERROR_ILLEGAL_ADDRESS);
    session.emulator.inject("cuCtxSynchronize", 1, CUDA_ERROR_LAUNCH_FAILED as u32).unwrap();
    fails(unsafe { sys::cuCtxSynchronize() }, CUDA_ERROR_LAUNCH_FAILED);
    fails(unsafe { sys::cuCtxSynchronize() }, CUDA_ERROR_ILLEGAL_ADDRESS);
    // Nor does a context with an error keep what it is asked to give up.
    let mut own = null_mut();
    ok(unsafe { sys::cuCtxCreate_v2(&mut own, 0, 0) });
    let y = alloc(64);
    ok(launch(function(module(FAULTS), "traps"), 1, 1, null_mut(), &[&y]));
    fails(unsafe { sys::cuCtxSynchronize() }, CUDA_ERROR_LAUNCH_FAILED);
    ok(unsafe { sys::cuCtxDestroy_v2(own) });
    let report = session.report();
    assert_eq!((&report["living"]["contexts"], &report["living"]["allocations"]), (&1.into(), &1.into()));
}
