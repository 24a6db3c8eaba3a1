//! Launches: arguments, shapes, shared memory, attributes.

use crate::harness::*;
use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUresult, cudaError_enum::*};
use std::ffi::c_void;
use std::ptr::{null_mut, without_provenance_mut};

const MAX_DYNAMIC: CUfunction_attribute =
    CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

/// `arguments`: stores all it is given; `bounded`: at most 128 threads; `exact`: 32 threads; `fixed`: 16 KiB of shared
/// memory of its own; `dynamic(u32 *to, u32 at)`: touches dynamic shared memory at a place; `nothing`.
const SHAPES: &str = "
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 pool[];

.visible .entry arguments(
    .param .u64 to, .param .u8 a, .param .u16 b, .param .u32 c, .param .u64 d, .param .f64 e,
    .param .align 4 .b8 s[12]
)
{
    .reg .b16 %h<3>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<3>;
    .reg .f64 %f<2>;
    ld.param.u64 %rd1, [to];
    ld.param.u8 %h1, [a];
    st.global.u8 [%rd1], %h1;
    ld.param.u16 %h2, [b];
    st.global.u16 [%rd1+2], %h2;
    ld.param.u32 %r1, [c];
    st.global.u32 [%rd1+4], %r1;
    ld.param.u64 %rd2, [d];
    st.global.u64 [%rd1+8], %rd2;
    ld.param.f64 %f1, [e];
    st.global.f64 [%rd1+16], %f1;
    ld.param.u32 %r2, [s];
    ld.param.u32 %r3, [s+4];
    ld.param.u32 %r4, [s+8];
    st.global.u32 [%rd1+24], %r2;
    st.global.u32 [%rd1+28], %r3;
    st.global.u32 [%rd1+32], %r4;
    ret;
}

.visible .entry bounded() .maxntid 128, 1, 1 { ret; }
.visible .entry exact() .reqntid 32, 1, 1 { ret; }
.visible .entry nothing() { ret; }

.visible .entry fixed()
{
    .shared .align 4 .b8 mine[16384];
    .reg .b32 %r<2>;
    mov.u32 %r1, 1;
    st.shared.u32 [mine+16380], %r1;
    ret;
}

.visible .entry dynamic(.param .u64 to, .param .u32 at)
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r1, [at];
    mov.u32 %r2, pool;
    add.u32 %r2, %r2, %r1;
    mov.u32 %r3, 5;
    st.shared.u32 [%r2], %r3;
    ld.shared.u32 %r4, [%r2];
    st.global.u32 [%rd1], %r4;
    ret;
}
";

fn shaped(function: CUfunction, grid: [u32; 3], block: [u32; 3], shared: u32) -> CUresult {
    let [x, y, z] = grid;
    let [a, b, c] = block;
    unsafe { sys::cuLaunchKernel(function, x, y, z, a, b, c, shared, null_mut(), null_mut(), null_mut()) }
}

fn attribute(function: CUfunction, attribute: CUfunction_attribute) -> i32 {
    let mut value = -7;
    ok(unsafe { sys::cuFuncGetAttribute(&mut value, attribute, function) });
    value
}

/// `extra` of a launch: a buffer and its size.
fn packed(function: CUfunction, buffer: &[u8], mut size: usize) -> CUresult {
    let mut extra = [
        without_provenance_mut::<c_void>(1),
        buffer.as_ptr().cast_mut().cast(),
        2 as _,
        (&raw mut size).cast(),
        null_mut(),
    ];
    unsafe { sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), extra.as_mut_ptr()) }
}

#[test]
fn arguments_arrive_in_both_forms() {
    let session = session(&[]);
    let arguments = function(module(SHAPES), "arguments");
    let expected = {
        let mut bytes = vec![0x12, 0, 0x34, 0x56];
        bytes.extend(0x89ab_cdefu32.to_le_bytes());
        bytes.extend(0x0123_4567_89ab_cdefu64.to_le_bytes());
        bytes.extend((-2.5f64).to_le_bytes());
        bytes.extend([1u32, 2, 3].iter().flat_map(|n| n.to_le_bytes()));
        bytes
    };
    let (a, b, c, d, e, s) =
        (0x12u8, 0x5634u16, 0x89ab_cdefu32, 0x0123_4567_89ab_cdefu64, -2.5f64, [1u32, 2, 3]);
    let to = alloc(36);
    ok(unsafe { sys::cuMemsetD8_v2(to, 0, 36) });
    ok(launch(arguments, 1, 1, null_mut(), &[&to, &a, &b, &c, &d, &e, &s]));
    assert_eq!(get::<u8>(to, 36), expected);
    // Packed as a C structure would be.
    ok(unsafe { sys::cuMemsetD8_v2(to, 0, 36) });
    let mut buffer = to.to_le_bytes().to_vec();
    buffer.extend([a, 0, 0x34, 0x56]);
    buffer.extend(c.to_le_bytes());
    buffer.extend(d.to_le_bytes());
    buffer.extend(e.to_le_bytes());
    buffer.extend(s.iter().flat_map(|n| n.to_le_bytes()));
    assert_eq!(buffer.len(), 44);
    ok(packed(arguments, &buffer, 44));
    assert_eq!(get::<u8>(to, 36), expected);
    // Too few, too many, both forms, none.
    fails(packed(arguments, &buffer, 43), CUDA_ERROR_INVALID_VALUE);
    // "Too many resources requested for launch" is what clients met who counted the padding at the end of a structure
    // (llvm/llvm-project#156229, m4rs-mt/ILGPU#1323).
    for more in [45, 48, 4000] {
        fails(packed(arguments, &buffer, more), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
        assert!(session.last_error().contains("it takes 44"), "{}", session.last_error());
    }
    let mut params = [(&raw const to).cast_mut().cast::<c_void>(); 7];
    let mut extra = [without_provenance_mut::<c_void>(1), buffer.as_mut_ptr().cast(), null_mut()];
    let mut wrong = extra;
    wrong[0] = 9 as _;
    params[3] = null_mut();
    let raw = |params: *mut *mut c_void, extra: *mut *mut c_void| unsafe {
        sys::cuLaunchKernel(arguments, 1, 1, 1, 1, 1, 1, 0, null_mut(), params, extra)
    };
    fails(raw(params.as_mut_ptr(), null_mut()), CUDA_ERROR_INVALID_VALUE);
    assert!(session.last_error().contains("argument 3 is null"), "{}", session.last_error());
    fails(raw(null_mut(), null_mut()), CUDA_ERROR_INVALID_VALUE);
    assert!(session.last_error().contains("7 arguments, none given"), "{}", session.last_error());
    fails(raw(params.as_mut_ptr(), extra.as_mut_ptr()), CUDA_ERROR_INVALID_VALUE);
    fails(raw(null_mut(), extra.as_mut_ptr()), CUDA_ERROR_INVALID_VALUE);
    fails(raw(null_mut(), wrong.as_mut_ptr()), CUDA_ERROR_INVALID_VALUE);
    fails(launch(null_mut(), 1, 1, null_mut(), &[]), CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(session.faults(), [""; 0]);
}

/// The programming guide's table of compute capabilities: 2^31-1, 65535, 65535 blocks; 1024, 1024, 64 threads, 1024 in
/// all.
#[test]
fn shapes_have_limits() {
    let session = session(&[]);
    let module = module(SHAPES);
    let nothing = function(module, "nothing");
    let one = [1; 3];
    for (grid, block) in
        [(one, one), ([1, 65_535, 1], one), (one, [1024, 1, 1]), (one, [2, 8, 64]), (one, [1, 1024, 1])]
    {
        ok(shaped(nothing, grid, block, 0));
    }
    for axis in 0..3 {
        let with = |n| std::array::from_fn(|at| if at == axis { n } else { 1 });
        for n in [0, u32::MAX] {
            fails(shaped(nothing, with(n), one, 0), CUDA_ERROR_INVALID_VALUE);
            fails(shaped(nothing, one, with(n), 0), CUDA_ERROR_INVALID_VALUE);
        }
        fails(shaped(nothing, one, with([1025, 1025, 65][axis]), 0), CUDA_ERROR_INVALID_VALUE);
        fails(shaped(nothing, with([1 << 31, 65_536, 65_536][axis]), one, 0), CUDA_ERROR_INVALID_VALUE);
    }
    fails(shaped(nothing, one, [33, 32, 1], 0), CUDA_ERROR_INVALID_VALUE);
    assert!(session.last_error().contains("1056 threads"), "{}", session.last_error());
    // What the kernel was built for.
    let (bounded, exact) = (function(module, "bounded"), function(module, "exact"));
    ok(shaped(bounded, one, [128, 1, 1], 0));
    ok(shaped(bounded, one, [2, 64, 1], 0));
    fails(shaped(bounded, one, [129, 1, 1], 0), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    assert!(session.last_error().contains("129 threads"), "{}", session.last_error());
    ok(shaped(exact, one, [32, 1, 1], 0));
    assert_ne!(shaped(exact, one, [31, 1, 1], 0), CUDA_SUCCESS);
    use CUfunction_attribute::*;
    assert_eq!(attribute(bounded, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 128);
    assert_eq!(attribute(nothing, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
    assert_eq!(attribute(function(module, "fixed"), CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 16_384);
    assert_eq!(attribute(nothing, CU_FUNC_ATTRIBUTE_PTX_VERSION), 80);
    assert_eq!(attribute(nothing, CU_FUNC_ATTRIBUTE_BINARY_VERSION), 80);
    assert_eq!(attribute(nothing, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES), 0);
    // A refused launch is no fault: the context goes on.
    ok(unsafe { sys::cuCtxSynchronize() });
    let report = session.report();
    let counted = &report["kernels"]["nothing"];
    assert_eq!(counted["launches"], 5);
    for (name, part) in
        [("tensor_flops", counted), ("shared_accesses", counted), ("bank_conflicts", &counted["shared"])]
    {
        assert_eq!(part[name], 0, "{name}");
    }
}

#[test]
fn dynamic_shared_memory_is_48_kib_and_more_when_asked_for() {
    for (card, most) in [("sm_80", 163 << 10), ("sm_90a", 227 << 10)] {
        let session = session(&[("CARD", card)]);
        let module = module(SHAPES);
        let (dynamic, fixed, to) = (function(module, "dynamic"), function(module, "fixed"), alloc(4));
        let run = |bytes: u32, at: u32| unsafe {
            let mut params = [(&raw const to).cast_mut().cast::<c_void>(), (&raw const at).cast_mut().cast()];
            sys::cuLaunchKernel(dynamic, 1, 1, 1, 1, 1, 1, bytes, null_mut(), params.as_mut_ptr(), null_mut())
        };
        let set = |function, bytes| unsafe { sys::cuFuncSetAttribute(function, MAX_DYNAMIC, bytes) };
        assert_eq!((attribute(dynamic, MAX_DYNAMIC), attribute(fixed, MAX_DYNAMIC)), (48 << 10, 32 << 10));
        ok(run(48 << 10, (48 << 10) - 4));
        fails(run((48 << 10) + 1, 0), CUDA_ERROR_INVALID_VALUE);
        assert!(session.last_error().contains("MAX_DYNAMIC_SHARED_SIZE_BYTES"), "{}", session.last_error());
        ok(set(dynamic, most));
        assert_eq!(attribute(dynamic, MAX_DYNAMIC), most);
        ok(run(most as u32, most as u32 - 4));
        assert_eq!(get::<u32>(to, 1), [5]);
        for wrong in [most + 1, -1, i32::MAX] {
            fails(set(dynamic, wrong), CUDA_ERROR_INVALID_VALUE);
        }
        fails(run(most as u32 + 1, 0), CUDA_ERROR_INVALID_VALUE);
        fails(run(u32::MAX, 0), CUDA_ERROR_INVALID_VALUE);
        // What the kernel has of its own counts too.
        fails(set(fixed, most - 16_380), CUDA_ERROR_INVALID_VALUE);
        ok(set(fixed, most - 16_384));
        ok(shaped(fixed, [1; 3], [1; 3], most as u32 - 16_384));
        // It may be lowered as well.
        ok(set(dynamic, 1000));
        ok(run(1000, 996));
        fails(run(1001, 0), CUDA_ERROR_INVALID_VALUE);
        let sizes = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        fails(unsafe { sys::cuFuncSetAttribute(dynamic, sizes, 1) }, CUDA_ERROR_INVALID_VALUE);
        assert_eq!(session.faults(), [""; 0]);
        // One byte beyond what was asked for is out of bounds.
        ok(run(64, 64));
        assert_ne!(unsafe { sys::cuCtxSynchronize() }, CUDA_SUCCESS);
        assert!(session.faults()[0].contains("OutOfBounds"), "{:?}", session.faults());
    }
}

#[test]
fn launches_with_attributes() {
    let session = session(&[("CARD", "sm_90a")]);
    let module = module(SHAPES);
    let nothing = function(module, "nothing");
    let with = |attributes: &mut [sys::CUlaunchAttribute]| {
        let config = sys::CUlaunchConfig {
            gridDimX: 2,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: null_mut(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        unsafe { sys::cuLaunchKernelEx(&config, nothing, null_mut(), null_mut()) }
    };
    let attribute = |id, words: [u32; 3]| {
        let mut attribute = unsafe { std::mem::zeroed::<sys::CUlaunchAttribute>() };
        attribute.id = id;
        attribute.value.clusterDim =
            sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: words[0], y: words[1], z: words[2] };
        attribute
    };
    use sys::CUlaunchAttributeID::*;
    ok(with(&mut []));
    ok(with(&mut [attribute(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, [1, 1, 1])]));
    for cluster in [[2, 1, 1], [1, 2, 1], [1, 1, 2]] {
        fails(
            with(&mut [attribute(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, cluster)]),
            CUDA_ERROR_NOT_SUPPORTED,
        );
        assert!(session.last_error().contains("cluster"), "{}", session.last_error());
    }
    ok(with(&mut [
        attribute(CU_LAUNCH_ATTRIBUTE_IGNORE, [9; 3]),
        attribute(CU_LAUNCH_ATTRIBUTE_PRIORITY, [0; 3]),
    ]));
    ok(with(&mut [attribute(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, [1, 0, 0])]));
    ok(with(&mut [attribute(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, [1, 0, 0])]));
    fails(with(&mut [attribute(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT, [0; 3])]), CUDA_ERROR_NOT_SUPPORTED);
    fails(
        unsafe { sys::cuLaunchKernelEx(std::ptr::null(), nothing, null_mut(), null_mut()) },
        CUDA_ERROR_INVALID_VALUE,
    );
    let none = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: null_mut(),
        attrs: null_mut(),
        numAttrs: 3,
    };
    fails(unsafe { sys::cuLaunchKernelEx(&none, nothing, null_mut(), null_mut()) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(session.report()["kernels"]["nothing"]["launches"], 5);
}

/// All blocks of a cooperative launch are resident at once: two of 1024 threads on each multiprocessor.
#[test]
fn cooperative_launches_have_to_fit() {
    let session = session(&[("CARD", "sm_80,sms=3")]);
    let nothing = function(module(SHAPES), "nothing");
    let run = |grid, block| unsafe {
        sys::cuLaunchCooperativeKernel(nothing, grid, 1, 1, block, 1, 1, 0, null_mut(), null_mut())
    };
    ok(run(6, 1024));
    ok(run(96, 32));
    for (grid, block) in [(7, 1024), (97, 32), (97, 1)] {
        fails(run(grid, block), CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
        assert!(session.last_error().contains("the card holds"), "{}", session.last_error());
    }
}

#[test]
fn stream_and_kernel_must_be_of_one_context() {
    let _session = session(&[]);
    let nothing = function(module(SHAPES), "nothing");
    let mut other = null_mut();
    ok(unsafe { sys::cuCtxCreate_v2(&mut other, 0, 0) });
    let foreign = stream();
    fails(launch(nothing, 1, 1, null_mut(), &[]), CUDA_ERROR_INVALID_HANDLE);
    ok(unsafe { sys::cuCtxPopCurrent_v2(null_mut()) });
    fails(launch(nothing, 1, 1, foreign, &[]), CUDA_ERROR_INVALID_HANDLE);
    fails(launch(nothing, 1, 1, 0xdead0 as _, &[]), CUDA_ERROR_INVALID_HANDLE);
    ok(launch(nothing, 1, 1, null_mut(), &[]));
}
