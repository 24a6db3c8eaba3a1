//! Before and around `cuInit`: versions, names of errors, entry points, what is not supported, settings that are refused.

use crate::harness::*;
use crate::tools::*;
use cudarc::driver::sys::{self, CUresult, cudaError_enum::*};
use orthant_gpu::preload::Emulator;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

/// `cuGetProcAddress_v2`: result, address, status.
fn ask(name: &str, version: c_int, flags: u64) -> (CUresult, usize, u32) {
    type F = unsafe extern "C" fn(*const c_char, *mut usize, c_int, u64, *mut u32) -> CUresult;
    let text = CString::new(name).unwrap();
    let (mut address, mut status) = (7, 7);
    let result = unsafe {
        symbol::<F>("cuGetProcAddress_v2")(text.as_ptr(), &mut address, version, flags, &mut status)
    };
    (result, address, status)
}

#[test]
fn init_takes_no_flags_and_may_be_repeated() {
    let _session = bare(&[]);
    fails(unsafe { sys::cuInit(1) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { sys::cuInit(u32::MAX) }, CUDA_ERROR_INVALID_VALUE);
    let mut count = 0;
    fails(unsafe { sys::cuDeviceGetCount(&mut count) }, CUDA_ERROR_NOT_INITIALIZED);
    ok(unsafe { sys::cuInit(0) });
    ok(unsafe { sys::cuInit(0) });
    ok(unsafe { sys::cuDeviceGetCount(&mut count) });
    assert_eq!(count, 1);
}

#[test]
fn calls_before_init_say_so() {
    let session = bare(&[]);
    let mut number = 0;
    let mut handle = std::ptr::null_mut::<c_void>();
    let out = (&raw mut handle).cast::<c_void>();
    let calls = unsafe {
        [
            sys::cuDeviceGet(&mut number, 0),
            sys::cuDeviceGetCount(&mut number),
            sys::cuDevicePrimaryCtxRetain(out.cast(), 0),
            sys::cuDevicePrimaryCtxReset_v2(0),
            sys::cuCtxCreate_v2(out.cast(), 0, 0),
            sys::cuCtxGetCurrent(out.cast()),
            sys::cuCtxSetCurrent(std::ptr::null_mut()),
            sys::cuCtxSynchronize(),
            sys::cuMemAlloc_v2(out.cast(), 4),
            sys::cuMemFree_v2(0),
            sys::cuMemAllocHost_v2(out.cast(), 4),
            sys::cuMemcpyHtoD_v2(0, out, 0),
            sys::cuMemsetD8_v2(0, 0, 0),
            sys::cuModuleLoadData(out.cast(), out),
            sys::cuModuleUnload(std::ptr::null_mut()),
            sys::cuLaunchKernel(
                std::ptr::null_mut(),
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            ),
            sys::cuStreamCreate(out.cast(), 0),
            sys::cuEventCreate(out.cast(), 0),
            sys::cuPointerGetAttribute(out, sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT, 0),
        ]
    };
    assert_eq!(calls, [CUDA_ERROR_NOT_INITIALIZED; 19]);
    // And with it, but without a context, what needs one says that.
    ok(unsafe { sys::cuInit(0) });
    ok(unsafe { sys::cuCtxSetCurrent(std::ptr::null_mut()) });
    fails(unsafe { sys::cuMemAlloc_v2(out.cast(), 4) }, CUDA_ERROR_INVALID_CONTEXT);
    fails(unsafe { sys::cuCtxSynchronize() }, CUDA_ERROR_INVALID_CONTEXT);
    assert!(session.last_error().starts_with("cuCtxSynchronize"), "{}", session.last_error());
}

#[test]
fn the_version_is_the_settings() {
    for (setting, expected) in [("12.4", 12_040), ("13.5", 13_050), ("11000", 11_000)] {
        let _session = bare(&[("DRIVER", setting)]);
        let mut version = 0;
        ok(unsafe { sys::cuDriverGetVersion(&mut version) });
        assert_eq!(version, expected);
        fails(unsafe { sys::cuDriverGetVersion(std::ptr::null_mut()) }, CUDA_ERROR_INVALID_VALUE);
    }
    let session = bare(&[]);
    for wrong in ["14.0", "10.2", "x", ""] {
        let error = session.emulator.configure(&[("DRIVER", wrong)]).unwrap_err().to_string();
        assert!(error.contains("DRIVER"), "{error}");
    }
}

/// The names of `cuda.h`; cudarc's enumeration is made from it, and its `Debug` prints them.
#[test]
fn every_error_has_its_name_and_a_text() {
    type F = unsafe extern "C" fn(u32, *mut *const c_char) -> CUresult;
    let _session = bare(&[]);
    let [name_of, text_of] = ["cuGetErrorName", "cuGetErrorString"].map(symbol::<F>);
    let read = |f: F, code: u32| {
        let mut text = std::ptr::dangling();
        let result = unsafe { f(code, &mut text) };
        assert_eq!(result == CUDA_SUCCESS, !text.is_null());
        assert!(result == CUDA_SUCCESS || result == CUDA_ERROR_INVALID_VALUE);
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_string())
    };
    let known = [
        CUDA_SUCCESS,
        CUDA_ERROR_INVALID_VALUE,
        CUDA_ERROR_OUT_OF_MEMORY,
        CUDA_ERROR_NOT_INITIALIZED,
        CUDA_ERROR_DEINITIALIZED,
        CUDA_ERROR_PROFILER_DISABLED,
        CUDA_ERROR_PROFILER_NOT_INITIALIZED,
        CUDA_ERROR_PROFILER_ALREADY_STARTED,
        CUDA_ERROR_PROFILER_ALREADY_STOPPED,
        CUDA_ERROR_STUB_LIBRARY,
        CUDA_ERROR_DEVICE_UNAVAILABLE,
        CUDA_ERROR_NO_DEVICE,
        CUDA_ERROR_INVALID_DEVICE,
        CUDA_ERROR_DEVICE_NOT_LICENSED,
        CUDA_ERROR_INVALID_IMAGE,
        CUDA_ERROR_INVALID_CONTEXT,
        CUDA_ERROR_CONTEXT_ALREADY_CURRENT,
        CUDA_ERROR_MAP_FAILED,
        CUDA_ERROR_UNMAP_FAILED,
        CUDA_ERROR_ARRAY_IS_MAPPED,
        CUDA_ERROR_ALREADY_MAPPED,
        CUDA_ERROR_NO_BINARY_FOR_GPU,
        CUDA_ERROR_ALREADY_ACQUIRED,
        CUDA_ERROR_NOT_MAPPED,
        CUDA_ERROR_NOT_MAPPED_AS_ARRAY,
        CUDA_ERROR_NOT_MAPPED_AS_POINTER,
        CUDA_ERROR_ECC_UNCORRECTABLE,
        CUDA_ERROR_UNSUPPORTED_LIMIT,
        CUDA_ERROR_CONTEXT_ALREADY_IN_USE,
        CUDA_ERROR_PEER_ACCESS_UNSUPPORTED,
        CUDA_ERROR_INVALID_PTX,
        CUDA_ERROR_INVALID_GRAPHICS_CONTEXT,
        CUDA_ERROR_NVLINK_UNCORRECTABLE,
        CUDA_ERROR_JIT_COMPILER_NOT_FOUND,
        CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
        CUDA_ERROR_JIT_COMPILATION_DISABLED,
        CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY,
        CUDA_ERROR_INVALID_SOURCE,
        CUDA_ERROR_FILE_NOT_FOUND,
        CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND,
        CUDA_ERROR_SHARED_OBJECT_INIT_FAILED,
        CUDA_ERROR_OPERATING_SYSTEM,
        CUDA_ERROR_INVALID_HANDLE,
        CUDA_ERROR_ILLEGAL_STATE,
        CUDA_ERROR_NOT_FOUND,
        CUDA_ERROR_NOT_READY,
        CUDA_ERROR_ILLEGAL_ADDRESS,
        CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
        CUDA_ERROR_LAUNCH_TIMEOUT,
        CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING,
        CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED,
        CUDA_ERROR_PEER_ACCESS_NOT_ENABLED,
        CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE,
        CUDA_ERROR_CONTEXT_IS_DESTROYED,
        CUDA_ERROR_ASSERT,
        CUDA_ERROR_TOO_MANY_PEERS,
        CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
        CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
        CUDA_ERROR_HARDWARE_STACK_ERROR,
        CUDA_ERROR_ILLEGAL_INSTRUCTION,
        CUDA_ERROR_MISALIGNED_ADDRESS,
        CUDA_ERROR_INVALID_ADDRESS_SPACE,
        CUDA_ERROR_INVALID_PC,
        CUDA_ERROR_LAUNCH_FAILED,
        CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
        CUDA_ERROR_NOT_PERMITTED,
        CUDA_ERROR_NOT_SUPPORTED,
        CUDA_ERROR_SYSTEM_NOT_READY,
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
        CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
        CUDA_ERROR_MPS_CONNECTION_FAILED,
        CUDA_ERROR_MPS_RPC_FAILURE,
        CUDA_ERROR_MPS_SERVER_NOT_READY,
        CUDA_ERROR_MPS_MAX_CLIENTS_REACHED,
        CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED,
        CUDA_ERROR_MPS_CLIENT_TERMINATED,
        CUDA_ERROR_CDP_NOT_SUPPORTED,
        CUDA_ERROR_CDP_VERSION_MISMATCH,
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        CUDA_ERROR_STREAM_CAPTURE_MERGE,
        CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
        CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
        CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
        CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
        CUDA_ERROR_CAPTURED_EVENT,
        CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
        CUDA_ERROR_TIMEOUT,
        CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE,
        CUDA_ERROR_EXTERNAL_DEVICE,
        CUDA_ERROR_INVALID_CLUSTER_SIZE,
        CUDA_ERROR_UNKNOWN,
    ];
    for code in known {
        assert_eq!(read(name_of, code as u32), Some(format!("{code:?}")));
        assert!(read(text_of, code as u32).is_some_and(|text| text.len() > 5), "{code:?}");
    }
    let named = (0..2000).filter(|&code| read(name_of, code).is_some()).count();
    let described = (0..2000).filter(|&code| read(text_of, code).is_some()).count();
    assert!(named >= known.len() && named < 130 && named == described, "{named} {described}");
    for code in [9, 99, 1000, 123_456, u32::MAX] {
        assert_eq!((read(name_of, code), read(text_of, code)), (None, None), "{code}");
    }
    fails(unsafe { name_of(0, std::ptr::null_mut()) }, CUDA_ERROR_INVALID_VALUE);
}

/// Names and versions as `cudaTypedefs.h` pairs them (`PFN_cuMemAlloc_v3020` and so on).
#[test]
fn names_and_versions_give_the_function_of_that_time() {
    let _session = bare(&[]);
    for (base, version, exported) in [
        ("cuInit", 2000, "cuInit"),
        ("cuInit", 13_000, "cuInit"),
        ("cuMemAlloc", 2000, "cuMemAlloc"),
        ("cuMemAlloc", 3010, "cuMemAlloc"),
        ("cuMemAlloc", 3020, "cuMemAlloc_v2"),
        ("cuMemAlloc", 12_000, "cuMemAlloc_v2"),
        ("cuMemcpyHtoD", 3020, "cuMemcpyHtoD_v2"),
        ("cuMemHostRegister", 4000, "cuMemHostRegister"),
        ("cuMemHostRegister", 6050, "cuMemHostRegister_v2"),
        ("cuCtxCreate", 2000, "cuCtxCreate"),
        ("cuCtxCreate", 11_030, "cuCtxCreate_v2"),
        ("cuCtxCreate", 11_040, "cuCtxCreate_v3"),
        ("cuCtxCreate", 12_040, "cuCtxCreate_v3"),
        ("cuCtxCreate", 12_050, "cuCtxCreate_v4"),
        ("cuCtxDestroy", 4000, "cuCtxDestroy_v2"),
        ("cuStreamDestroy", 4000, "cuStreamDestroy_v2"),
        ("cuEventDestroy", 4000, "cuEventDestroy_v2"),
        ("cuDevicePrimaryCtxRelease", 7000, "cuDevicePrimaryCtxRelease"),
        ("cuDevicePrimaryCtxRelease", 11_000, "cuDevicePrimaryCtxRelease_v2"),
        ("cuDeviceGetUuid", 9020, "cuDeviceGetUuid"),
        ("cuDeviceGetUuid", 11_040, "cuDeviceGetUuid_v2"),
        ("cuGetProcAddress", 11_030, "cuGetProcAddress"),
        ("cuGetProcAddress", 12_000, "cuGetProcAddress_v2"),
        ("cuLaunchKernel", 4000, "cuLaunchKernel"),
        ("cuLaunchKernelEx", 11_060, "cuLaunchKernelEx"),
        ("cuLibraryLoadData", 12_000, "cuLibraryLoadData"),
        ("cuFuncGetName", 12_030, "cuFuncGetName"),
    ] {
        for flags in [0, LEGACY] {
            assert_eq!(ask(base, version, flags), (CUDA_SUCCESS, address(exported), 0), "{base} {version}");
        }
    }
    // Streams of threads: a variant where there is one, else the one function that there is.
    for (base, version, exported) in [
        ("cuMemcpyHtoD", 12_000, "cuMemcpyHtoD_v2_ptds"),
        ("cuMemcpyHtoDAsync", 12_000, "cuMemcpyHtoDAsync_v2_ptsz"),
        ("cuLaunchKernel", 12_000, "cuLaunchKernel_ptsz"),
        ("cuStreamSynchronize", 12_000, "cuStreamSynchronize_ptsz"),
        ("cuStreamSynchronize", 6050, "cuStreamSynchronize"),
        ("cuMemAlloc", 12_000, "cuMemAlloc_v2"),
    ] {
        assert_eq!(ask(base, version, PER_THREAD), (CUDA_SUCCESS, address(exported), 0), "{base} {version}");
    }
}

/// The manual: success and a null pointer for what is not there, with the reason in the status; a version that is newer
/// than the driver is an invalid value.
#[test]
fn entry_points_that_are_not_there() {
    let session = bare(&[]);
    assert_eq!(ask("cuMemAlloc", 1000, 0), (CUDA_SUCCESS, 0, 2));
    assert_eq!(ask("cuLibraryLoadData", 11_080, 0), (CUDA_SUCCESS, 0, 2));
    assert_eq!(ask("cuNothing", 12_000, 0), (CUDA_SUCCESS, 0, 1));
    assert_eq!(ask("", 12_000, 0), (CUDA_SUCCESS, 0, 1));
    // Base names, not exported ones.
    assert_eq!(ask("cuMemAlloc_v2", 12_000, 0), (CUDA_SUCCESS, 0, 1));
    assert_eq!(ask("cuInit", 13_060, 0).0, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(ask("cuInit", -1, 0).1, 0);
    let f = symbol::<unsafe extern "C" fn(*const c_char, *mut usize, c_int, u64, *mut u32) -> CUresult>(
        "cuGetProcAddress_v2",
    );
    let mut at = 0;
    let null = std::ptr::null_mut();
    fails(unsafe { f(std::ptr::null(), &mut at, 12_000, 0, null) }, CUDA_ERROR_INVALID_VALUE);
    fails(unsafe { f(c"cuInit".as_ptr(), null.cast(), 12_000, 0, null) }, CUDA_ERROR_INVALID_VALUE);
    ok(unsafe { f(c"cuInit".as_ptr(), &mut at, 12_000, 0, null) });
    assert_eq!(at, address("cuInit"));
    // The first form has nowhere to put a status.
    let first =
        symbol::<unsafe extern "C" fn(*const c_char, *mut usize, c_int, u64) -> CUresult>("cuGetProcAddress");
    ok(unsafe { first(c"cuMemAlloc".as_ptr(), &mut at, 11_030, 0) });
    assert_eq!(at, address("cuMemAlloc_v2"));
    fails(unsafe { first(c"cuNothing".as_ptr(), &mut at, 11_030, 0) }, CUDA_ERROR_NOT_FOUND);
    assert_eq!(at, 0);
    assert!(session.last_error().contains("cuNothing"), "{}", session.last_error());
}

#[test]
fn settings_hide_entry_points() {
    {
        let _session = bare(&[("MISSING", "cuMemAllocAsync,cuCtxCreate_v4")]);
        assert_eq!(ask("cuMemAllocAsync", 12_000, 0), (CUDA_SUCCESS, 0, 1));
        assert_eq!(ask("cuMemFreeAsync", 12_000, 0).1, address("cuMemFreeAsync"));
        assert_eq!(ask("cuCtxCreate", 12_050, 0).1, 0);
        assert_eq!(ask("cuCtxCreate", 12_040, 0).1, address("cuCtxCreate_v3"));
    }
    let _session = bare(&[("DRIVER", "12.0")]);
    // To a driver that is older than a function its name means nothing.
    assert_eq!(ask("cuFuncGetName", 12_000, 0), (CUDA_SUCCESS, 0, 1));
    assert_eq!(ask("cuFuncGetName", 12_030, 0).0, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(ask("cuCtxCreate", 12_000, 0).1, address("cuCtxCreate_v3"));
    assert_eq!(ask("cuLibraryLoadData", 11_080, 0), (CUDA_SUCCESS, 0, 2));
}

#[test]
fn every_symbol_of_the_driver_is_exported() {
    let _session = bare(&[]);
    let all = orthant_gpu::driver::symbols_after("0.0").unwrap();
    assert!(all.len() > 700, "{}", all.len());
    for name in &all {
        assert_ne!(address(name), 0, "{name}");
    }
    // What a program of CUDA 12 or 13 asks for by name, old forms included.
    for name in [
        "cuGetExportTable",
        "cuMemAllocManaged",
        "cuTexObjectCreate",
        "cuLinkCreate_v2",
        "cuGreenCtxCreate",
        "cuTensorMapEncodeTiled",
        "cuMulticastCreate",
        "cuGLCtxCreate_v2",
        "cuEGLStreamConsumerConnect",
        "cuVDPAUCtxCreate_v2",
        "cuMemcpy3DPeer_ptds",
        "cuParamSetv",
        "cuLaunchGridAsync",
        "cuProfilerInitialize",
        "cuDeviceGetP2PAttribute",
        "cuStreamWriteValue64_v2_ptsz",
        "cuMemCreate",
    ] {
        assert!(all.iter().any(|known| known == name), "{name}");
    }
}

#[test]
fn what_is_not_supported_says_so_by_name() {
    let session = session(&[]);
    let kinds = [
        "cuTex",
        "cuSurf",
        "cuArray",
        "cuGL",
        "cuEGL",
        "cuVDPAU",
        "cuMulticast",
        "cuLink",
        "cuGreen",
        "cuParam",
    ];
    let all = orthant_gpu::driver::symbols_after("0.0").unwrap();
    let chosen = all.iter().filter(|name| {
        kinds.iter().any(|kind| name.starts_with(kind)) || name.ends_with("_ptsz") || name.ends_with("_ptds")
    });
    let mut count = 0;
    for name in chosen {
        fails(unsafe { symbol::<unsafe extern "C" fn() -> CUresult>(name)() }, CUDA_ERROR_NOT_SUPPORTED);
        let error = session.last_error();
        assert!(error.starts_with(&format!("{name}: not supported")), "{error}");
        count += 1;
    }
    assert!(count > 200, "{count}");
}

#[test]
fn settings_that_are_wrong_are_refused_at_init() {
    if is_child() {
        let emulator = Emulator::preload(None).unwrap();
        for _ in 0..2 {
            assert_eq!(unsafe { sys::cuInit(0) }, CUDA_ERROR_INVALID_VALUE);
        }
        let mut count = 0;
        assert_ne!(unsafe { sys::cuDeviceGetCount(&mut count) }, CUDA_SUCCESS);
        assert!(emulator.configure(&[]).is_err());
        return;
    }
    let name = "init::settings_that_are_wrong_are_refused_at_init";
    for (variable, value) in [("SEED", "x"), ("CARD", "sm_70"), ("FAULTS", "cuInit"), ("MEMORY", "")] {
        let variable = format!("ORTHANT_EMULATOR_{variable}");
        let stderr = passed(&child(name, &[(&variable, value)]));
        let lines: Vec<_> = stderr.lines().filter(|line| line.contains(&variable)).collect();
        // Said once.
        assert_eq!(lines.len(), 1, "{stderr}");
        assert!(lines[0].contains(value), "{stderr}");
    }
}

#[test]
fn no_visible_device_is_no_device() {
    if is_child() {
        let _emulator = Emulator::preload(None).unwrap();
        let mut count = 0;
        let hidden =
            std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|visible| visible.is_empty() || visible == "-1");
        if hidden {
            assert_eq!(unsafe { sys::cuInit(0) }, CUDA_ERROR_NO_DEVICE);
            assert_eq!(unsafe { sys::cuDeviceGetCount(&mut count) }, CUDA_ERROR_NOT_INITIALIZED);
        } else {
            assert_eq!(unsafe { sys::cuInit(0) }, CUDA_SUCCESS);
            assert_eq!(unsafe { sys::cuDeviceGetCount(&mut count) }, CUDA_SUCCESS);
            assert_eq!(count, 2);
        }
        return;
    }
    for (devices, visible) in [("1", ""), ("1", "-1"), ("2", "1,0"), ("3", "0,2,7,1")] {
        let variables = [("ORTHANT_EMULATOR_DEVICES", devices), ("CUDA_VISIBLE_DEVICES", visible)];
        passed(&child("init::no_visible_device_is_no_device", &variables));
    }
}

#[test]
fn the_report_is_written_at_exit_and_calls_are_traced() {
    if is_child() {
        let _emulator = Emulator::preload(None).unwrap();
        assert_eq!(unsafe { sys::cuInit(0) }, CUDA_SUCCESS);
        assert_eq!(unsafe { sys::cuInit(3) }, CUDA_ERROR_INVALID_VALUE);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let variables = [("ORTHANT_EMULATOR_REPORT", path.to_str().unwrap()), ("ORTHANT_EMULATOR_TRACE", "1")];
    let stderr = passed(&child("init::the_report_is_written_at_exit_and_calls_are_traced", &variables));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!((&report["emulated"], &report["calls_by_name"]["cuInit"]), (&true.into(), &2.into()));
    assert!(stderr.contains("cuInit -> 0") && stderr.contains("cuInit -> 1"), "{stderr}");
}

#[test]
fn a_report_may_be_asked_for_while_the_process_runs() {
    if is_child() {
        let path = std::env::var("REPORT_PATH").unwrap();
        let emulator = Emulator::preload(None).unwrap();
        emulator.configure(&[("REPORT", &path)]).unwrap();
        assert_eq!(unsafe { sys::cuInit(0) }, CUDA_SUCCESS);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let variables = [("REPORT_PATH", path.to_str().unwrap())];
    passed(&child("init::a_report_may_be_asked_for_while_the_process_runs", &variables));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(report["calls_by_name"]["cuInit"], 1);
}
