//! The driver's result codes.
//!
//! Numbers and names are those of `CUresult` in `cuda.h` of CUDA 13.5; the descriptions are our own.

pub(crate) const SUCCESS: u32 = 0;
pub(crate) const INVALID_VALUE: u32 = 1;
pub(crate) const OUT_OF_MEMORY: u32 = 2;
pub(crate) const NOT_INITIALIZED: u32 = 3;
pub(crate) const DEINITIALIZED: u32 = 4;
pub(crate) const PROFILER_DISABLED: u32 = 5;
pub(crate) const PROFILER_NOT_INITIALIZED: u32 = 6;
pub(crate) const PROFILER_ALREADY_STARTED: u32 = 7;
pub(crate) const PROFILER_ALREADY_STOPPED: u32 = 8;
pub(crate) const STUB_LIBRARY: u32 = 34;
pub(crate) const CALL_REQUIRES_NEWER_DRIVER: u32 = 36;
pub(crate) const DEVICE_UNAVAILABLE: u32 = 46;
pub(crate) const MULTICAST_RESOURCE_FULL: u32 = 47;
pub(crate) const NO_DEVICE: u32 = 100;
pub(crate) const INVALID_DEVICE: u32 = 101;
pub(crate) const DEVICE_NOT_LICENSED: u32 = 102;
pub(crate) const INVALID_IMAGE: u32 = 200;
pub(crate) const INVALID_CONTEXT: u32 = 201;
pub(crate) const CONTEXT_ALREADY_CURRENT: u32 = 202;
pub(crate) const MAP_FAILED: u32 = 205;
pub(crate) const UNMAP_FAILED: u32 = 206;
pub(crate) const ARRAY_IS_MAPPED: u32 = 207;
pub(crate) const ALREADY_MAPPED: u32 = 208;
pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
pub(crate) const ALREADY_ACQUIRED: u32 = 210;
pub(crate) const NOT_MAPPED: u32 = 211;
pub(crate) const NOT_MAPPED_AS_ARRAY: u32 = 212;
pub(crate) const NOT_MAPPED_AS_POINTER: u32 = 213;
pub(crate) const ECC_UNCORRECTABLE: u32 = 214;
pub(crate) const UNSUPPORTED_LIMIT: u32 = 215;
pub(crate) const CONTEXT_ALREADY_IN_USE: u32 = 216;
pub(crate) const PEER_ACCESS_UNSUPPORTED: u32 = 217;
pub(crate) const INVALID_PTX: u32 = 218;
pub(crate) const INVALID_GRAPHICS_CONTEXT: u32 = 219;
pub(crate) const NVLINK_UNCORRECTABLE: u32 = 220;
pub(crate) const JIT_COMPILER_NOT_FOUND: u32 = 221;
pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
pub(crate) const JIT_COMPILATION_DISABLED: u32 = 223;
pub(crate) const UNSUPPORTED_EXEC_AFFINITY: u32 = 224;
pub(crate) const UNSUPPORTED_DEVSIDE_SYNC: u32 = 225;
pub(crate) const CONTAINED: u32 = 226;
pub(crate) const INSUFFICIENT_LOADER_VERSION: u32 = 227;
pub(crate) const INVALID_SOURCE: u32 = 300;
pub(crate) const FILE_NOT_FOUND: u32 = 301;
pub(crate) const SHARED_OBJECT_SYMBOL_NOT_FOUND: u32 = 302;
pub(crate) const SHARED_OBJECT_INIT_FAILED: u32 = 303;
pub(crate) const OPERATING_SYSTEM: u32 = 304;
pub(crate) const INVALID_HANDLE: u32 = 400;
pub(crate) const ILLEGAL_STATE: u32 = 401;
pub(crate) const LOSSY_QUERY: u32 = 402;
pub(crate) const NOT_FOUND: u32 = 500;
pub(crate) const NOT_READY: u32 = 600;
pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
pub(crate) const LAUNCH_OUT_OF_RESOURCES: u32 = 701;
pub(crate) const LAUNCH_TIMEOUT: u32 = 702;
pub(crate) const LAUNCH_INCOMPATIBLE_TEXTURING: u32 = 703;
pub(crate) const PEER_ACCESS_ALREADY_ENABLED: u32 = 704;
pub(crate) const PEER_ACCESS_NOT_ENABLED: u32 = 705;
pub(crate) const PRIMARY_CONTEXT_ACTIVE: u32 = 708;
pub(crate) const CONTEXT_IS_DESTROYED: u32 = 709;
pub(crate) const ASSERT: u32 = 710;
pub(crate) const TOO_MANY_PEERS: u32 = 711;
pub(crate) const HOST_MEMORY_ALREADY_REGISTERED: u32 = 712;
pub(crate) const HOST_MEMORY_NOT_REGISTERED: u32 = 713;
pub(crate) const HARDWARE_STACK_ERROR: u32 = 714;
pub(crate) const ILLEGAL_INSTRUCTION: u32 = 715;
pub(crate) const MISALIGNED_ADDRESS: u32 = 716;
pub(crate) const INVALID_ADDRESS_SPACE: u32 = 717;
pub(crate) const INVALID_PC: u32 = 718;
pub(crate) const LAUNCH_FAILED: u32 = 719;
pub(crate) const COOPERATIVE_LAUNCH_TOO_LARGE: u32 = 720;
pub(crate) const TENSOR_MEMORY_LEAK: u32 = 721;
pub(crate) const NOT_PERMITTED: u32 = 800;
pub(crate) const NOT_SUPPORTED: u32 = 801;
pub(crate) const SYSTEM_NOT_READY: u32 = 802;
pub(crate) const SYSTEM_DRIVER_MISMATCH: u32 = 803;
pub(crate) const COMPAT_NOT_SUPPORTED_ON_DEVICE: u32 = 804;
pub(crate) const MPS_CONNECTION_FAILED: u32 = 805;
pub(crate) const MPS_RPC_FAILURE: u32 = 806;
pub(crate) const MPS_SERVER_NOT_READY: u32 = 807;
pub(crate) const MPS_MAX_CLIENTS_REACHED: u32 = 808;
pub(crate) const MPS_MAX_CONNECTIONS_REACHED: u32 = 809;
pub(crate) const MPS_CLIENT_TERMINATED: u32 = 810;
pub(crate) const CDP_NOT_SUPPORTED: u32 = 811;
pub(crate) const CDP_VERSION_MISMATCH: u32 = 812;
pub(crate) const STREAM_CAPTURE_UNSUPPORTED: u32 = 900;
pub(crate) const STREAM_CAPTURE_INVALIDATED: u32 = 901;
pub(crate) const STREAM_CAPTURE_MERGE: u32 = 902;
pub(crate) const STREAM_CAPTURE_UNMATCHED: u32 = 903;
pub(crate) const STREAM_CAPTURE_UNJOINED: u32 = 904;
pub(crate) const STREAM_CAPTURE_ISOLATION: u32 = 905;
pub(crate) const STREAM_CAPTURE_IMPLICIT: u32 = 906;
pub(crate) const CAPTURED_EVENT: u32 = 907;
pub(crate) const STREAM_CAPTURE_WRONG_THREAD: u32 = 908;
pub(crate) const TIMEOUT: u32 = 909;
pub(crate) const GRAPH_EXEC_UPDATE_FAILURE: u32 = 910;
pub(crate) const EXTERNAL_DEVICE: u32 = 911;
pub(crate) const INVALID_CLUSTER_SIZE: u32 = 912;
pub(crate) const FUNCTION_NOT_LOADED: u32 = 913;
pub(crate) const INVALID_RESOURCE_TYPE: u32 = 914;
pub(crate) const INVALID_RESOURCE_CONFIGURATION: u32 = 915;
pub(crate) const KEY_ROTATION: u32 = 916;
pub(crate) const STREAM_DETACHED: u32 = 917;
pub(crate) const GRAPH_RECAPTURE_FAILURE: u32 = 918;
pub(crate) const FABRIC_NOT_READY: u32 = 919;
pub(crate) const UNKNOWN: u32 = 999;

/// A result code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code {
    pub code: u32,
    /// What `cuGetErrorName` answers.
    pub name: &'static str,
    /// What `cuGetErrorString` answers.
    pub text: &'static str,
}

const fn c(code: u32, name: &'static str, text: &'static str) -> Code {
    Code { code, name, text }
}

/// Every code, by number.
pub(crate) const CODES: &[Code] = &[
    c(SUCCESS, "CUDA_SUCCESS", "the call succeeded"),
    c(INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "an argument is outside the range that the call accepts"),
    c(
        OUT_OF_MEMORY,
        "CUDA_ERROR_OUT_OF_MEMORY",
        "there is not enough memory, or not enough of another resource",
    ),
    c(NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "the driver has not been initialised"),
    c(DEINITIALIZED, "CUDA_ERROR_DEINITIALIZED", "the driver is shutting down"),
    c(PROFILER_DISABLED, "CUDA_ERROR_PROFILER_DISABLED", "profiling is not available in this run"),
    c(
        PROFILER_NOT_INITIALIZED,
        "CUDA_ERROR_PROFILER_NOT_INITIALIZED",
        "the profiler has not been initialised",
    ),
    c(PROFILER_ALREADY_STARTED, "CUDA_ERROR_PROFILER_ALREADY_STARTED", "the profiler is already running"),
    c(PROFILER_ALREADY_STOPPED, "CUDA_ERROR_PROFILER_ALREADY_STOPPED", "the profiler is already stopped"),
    c(STUB_LIBRARY, "CUDA_ERROR_STUB_LIBRARY", "the library that was loaded is a stub, not a driver"),
    c(CALL_REQUIRES_NEWER_DRIVER, "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", "the call needs a newer driver"),
    c(DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "the device cannot be used at present"),
    c(
        MULTICAST_RESOURCE_FULL,
        "CUDA_ERROR_MULTICAST_RESOURCE_FULL",
        "the hardware has no room for another multicast binding",
    ),
    c(NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no device was found"),
    c(INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "there is no such device, or it cannot do this"),
    c(DEVICE_NOT_LICENSED, "CUDA_ERROR_DEVICE_NOT_LICENSED", "the device has no licence"),
    c(INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "the image is not a valid module"),
    c(INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "there is no valid current context"),
    c(
        CONTEXT_ALREADY_CURRENT,
        "CUDA_ERROR_CONTEXT_ALREADY_CURRENT",
        "the context is already the current one",
    ),
    c(MAP_FAILED, "CUDA_ERROR_MAP_FAILED", "mapping or registering failed"),
    c(UNMAP_FAILED, "CUDA_ERROR_UNMAP_FAILED", "unmapping or unregistering failed"),
    c(ARRAY_IS_MAPPED, "CUDA_ERROR_ARRAY_IS_MAPPED", "the array is mapped, so it cannot be destroyed"),
    c(ALREADY_MAPPED, "CUDA_ERROR_ALREADY_MAPPED", "the resource is already mapped"),
    c(NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no code in the image suits this device"),
    c(ALREADY_ACQUIRED, "CUDA_ERROR_ALREADY_ACQUIRED", "the resource has already been acquired"),
    c(NOT_MAPPED, "CUDA_ERROR_NOT_MAPPED", "the resource is not mapped"),
    c(
        NOT_MAPPED_AS_ARRAY,
        "CUDA_ERROR_NOT_MAPPED_AS_ARRAY",
        "the resource is not mapped for access as an array",
    ),
    c(
        NOT_MAPPED_AS_POINTER,
        "CUDA_ERROR_NOT_MAPPED_AS_POINTER",
        "the resource is not mapped for access as a pointer",
    ),
    c(
        ECC_UNCORRECTABLE,
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "memory lost data that error correction could not restore",
    ),
    c(UNSUPPORTED_LIMIT, "CUDA_ERROR_UNSUPPORTED_LIMIT", "the device does not have this limit"),
    c(CONTEXT_ALREADY_IN_USE, "CUDA_ERROR_CONTEXT_ALREADY_IN_USE", "the context is bound to another thread"),
    c(
        PEER_ACCESS_UNSUPPORTED,
        "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
        "these devices cannot reach each other's memory",
    ),
    c(INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "the PTX could not be compiled"),
    c(INVALID_GRAPHICS_CONTEXT, "CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", "the graphics context is not valid"),
    c(NVLINK_UNCORRECTABLE, "CUDA_ERROR_NVLINK_UNCORRECTABLE", "an NVLink error could not be corrected"),
    c(JIT_COMPILER_NOT_FOUND, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "the compiler for PTX was not found"),
    c(
        UNSUPPORTED_PTX_VERSION,
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "the PTX is of a version that is not supported",
    ),
    c(JIT_COMPILATION_DISABLED, "CUDA_ERROR_JIT_COMPILATION_DISABLED", "compiling PTX is switched off"),
    c(
        UNSUPPORTED_EXEC_AFFINITY,
        "CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY",
        "the device does not support this execution affinity",
    ),
    c(
        UNSUPPORTED_DEVSIDE_SYNC,
        "CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC",
        "the code waits for the device on the device, which is not supported",
    ),
    c(
        CONTAINED,
        "CUDA_ERROR_CONTAINED",
        "the device contained a hardware or peer access error; the process must restart",
    ),
    c(
        INSUFFICIENT_LOADER_VERSION,
        "CUDA_ERROR_INSUFFICIENT_LOADER_VERSION",
        "the loader is too old for this fat binary",
    ),
    c(INVALID_SOURCE, "CUDA_ERROR_INVALID_SOURCE", "the source is not valid"),
    c(FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "the file was not found"),
    c(
        SHARED_OBJECT_SYMBOL_NOT_FOUND,
        "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND",
        "a shared object lacks a symbol that it should have",
    ),
    c(
        SHARED_OBJECT_INIT_FAILED,
        "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED",
        "a shared object could not be initialised",
    ),
    c(OPERATING_SYSTEM, "CUDA_ERROR_OPERATING_SYSTEM", "a call to the operating system failed"),
    c(INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "the handle is not valid"),
    c(ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "something that the call needs is not in the right state"),
    c(LOSSY_QUERY, "CUDA_ERROR_LOSSY_QUERY", "the answer would leave out information that matters"),
    c(NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "there is nothing of this name"),
    c(NOT_READY, "CUDA_ERROR_NOT_READY", "the work has not finished yet"),
    c(
        ILLEGAL_ADDRESS,
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "a kernel accessed memory at an address that is not valid",
    ),
    c(
        LAUNCH_OUT_OF_RESOURCES,
        "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        "the launch needs more resources than the device has",
    ),
    c(LAUNCH_TIMEOUT, "CUDA_ERROR_LAUNCH_TIMEOUT", "a kernel ran for longer than is allowed"),
    c(
        LAUNCH_INCOMPATIBLE_TEXTURING,
        "CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING",
        "the launch uses textures in an incompatible way",
    ),
    c(
        PEER_ACCESS_ALREADY_ENABLED,
        "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED",
        "access to this peer is already enabled",
    ),
    c(
        PEER_ACCESS_NOT_ENABLED,
        "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED",
        "access to this peer has not been enabled",
    ),
    c(PRIMARY_CONTEXT_ACTIVE, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "the primary context is already in use"),
    c(
        CONTEXT_IS_DESTROYED,
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "the context has been destroyed or has not been initialised",
    ),
    c(ASSERT, "CUDA_ERROR_ASSERT", "an assertion in a kernel failed"),
    c(TOO_MANY_PEERS, "CUDA_ERROR_TOO_MANY_PEERS", "no more peers can be accessed"),
    c(
        HOST_MEMORY_ALREADY_REGISTERED,
        "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
        "the host memory is already registered",
    ),
    c(
        HOST_MEMORY_NOT_REGISTERED,
        "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
        "the host memory has not been registered",
    ),
    c(
        HARDWARE_STACK_ERROR,
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "a kernel's call stack was corrupted or overflowed",
    ),
    c(
        ILLEGAL_INSTRUCTION,
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "a kernel executed an instruction that is not valid",
    ),
    c(
        MISALIGNED_ADDRESS,
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "a kernel accessed memory at a misaligned address",
    ),
    c(
        INVALID_ADDRESS_SPACE,
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "a kernel used an address of a state space that the instruction does not allow",
    ),
    c(INVALID_PC, "CUDA_ERROR_INVALID_PC", "a kernel's program counter is not valid"),
    c(LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "a kernel failed while it ran"),
    c(
        COOPERATIVE_LAUNCH_TOO_LARGE,
        "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
        "a cooperative launch has more blocks than can be resident at once",
    ),
    c(
        TENSOR_MEMORY_LEAK,
        "CUDA_ERROR_TENSOR_MEMORY_LEAK",
        "a kernel ended without freeing its tensor memory",
    ),
    c(NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "the operation is not permitted"),
    c(NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "the operation is not supported"),
    c(SYSTEM_NOT_READY, "CUDA_ERROR_SYSTEM_NOT_READY", "the system is not ready"),
    c(
        SYSTEM_DRIVER_MISMATCH,
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "the driver's parts are of different versions",
    ),
    c(
        COMPAT_NOT_SUPPORTED_ON_DEVICE,
        "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "the device does not support forward compatibility",
    ),
    c(
        MPS_CONNECTION_FAILED,
        "CUDA_ERROR_MPS_CONNECTION_FAILED",
        "there is no connection to the multi-process service",
    ),
    c(MPS_RPC_FAILURE, "CUDA_ERROR_MPS_RPC_FAILURE", "a call to the multi-process service failed"),
    c(MPS_SERVER_NOT_READY, "CUDA_ERROR_MPS_SERVER_NOT_READY", "the multi-process service is not ready"),
    c(
        MPS_MAX_CLIENTS_REACHED,
        "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED",
        "the multi-process service has as many clients as it can",
    ),
    c(
        MPS_MAX_CONNECTIONS_REACHED,
        "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED",
        "the multi-process service has as many connections as it can",
    ),
    c(
        MPS_CLIENT_TERMINATED,
        "CUDA_ERROR_MPS_CLIENT_TERMINATED",
        "the multi-process service ended this client",
    ),
    c(
        CDP_NOT_SUPPORTED,
        "CUDA_ERROR_CDP_NOT_SUPPORTED",
        "launching kernels from kernels is not supported here",
    ),
    c(
        CDP_VERSION_MISMATCH,
        "CUDA_ERROR_CDP_VERSION_MISMATCH",
        "the module mixes versions of launching kernels from kernels",
    ),
    c(
        STREAM_CAPTURE_UNSUPPORTED,
        "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        "the operation is not permitted while a stream is capturing",
    ),
    c(
        STREAM_CAPTURE_INVALIDATED,
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        "an earlier error spoilt the capture",
    ),
    c(STREAM_CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "the operation would merge two captures"),
    c(
        STREAM_CAPTURE_UNMATCHED,
        "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
        "the capture did not begin in this stream",
    ),
    c(
        STREAM_CAPTURE_UNJOINED,
        "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
        "a stream that the capture forked to was not joined again",
    ),
    c(
        STREAM_CAPTURE_ISOLATION,
        "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
        "the operation would make a dependency across the capture's border",
    ),
    c(
        STREAM_CAPTURE_IMPLICIT,
        "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
        "the operation would make the capture depend on the legacy stream",
    ),
    c(CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "the event was last recorded in a capture"),
    c(
        STREAM_CAPTURE_WRONG_THREAD,
        "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
        "another thread began this capture",
    ),
    c(TIMEOUT, "CUDA_ERROR_TIMEOUT", "the wait took longer than was allowed"),
    c(
        GRAPH_EXEC_UPDATE_FAILURE,
        "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE",
        "the instantiated graph cannot be updated to this graph",
    ),
    c(EXTERNAL_DEVICE, "CUDA_ERROR_EXTERNAL_DEVICE", "a device other than the GPU failed"),
    c(
        INVALID_CLUSTER_SIZE,
        "CUDA_ERROR_INVALID_CLUSTER_SIZE",
        "the cluster's size is not valid for this launch",
    ),
    c(FUNCTION_NOT_LOADED, "CUDA_ERROR_FUNCTION_NOT_LOADED", "the function has not been loaded"),
    c(
        INVALID_RESOURCE_TYPE,
        "CUDA_ERROR_INVALID_RESOURCE_TYPE",
        "the resource is not of a type that the operation accepts",
    ),
    c(
        INVALID_RESOURCE_CONFIGURATION,
        "CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION",
        "the resource's configuration does not suit the operation",
    ),
    c(KEY_ROTATION, "CUDA_ERROR_KEY_ROTATION", "the rotation of keys failed"),
    c(STREAM_DETACHED, "CUDA_ERROR_STREAM_DETACHED", "the stream is detached"),
    c(GRAPH_RECAPTURE_FAILURE, "CUDA_ERROR_GRAPH_RECAPTURE_FAILURE", "the graph could not be captured again"),
    c(FABRIC_NOT_READY, "CUDA_ERROR_FABRIC_NOT_READY", "the fabric is not ready"),
    c(UNKNOWN, "CUDA_ERROR_UNKNOWN", "the cause is not known"),
];

/// The codes after which a context is of no more use: every later call that uses it answers the same. Those of which
/// `cuda.h` says that the context cannot be used or that the process has to start again, and the two uncorrectable
/// hardware errors (`ECC_UNCORRECTABLE`, `NVLINK_UNCORRECTABLE`).
pub(crate) const STICKY: &[u32] = &[
    ECC_UNCORRECTABLE,
    NVLINK_UNCORRECTABLE,
    CONTAINED,
    ILLEGAL_ADDRESS,
    LAUNCH_TIMEOUT,
    ASSERT,
    HARDWARE_STACK_ERROR,
    ILLEGAL_INSTRUCTION,
    MISALIGNED_ADDRESS,
    INVALID_ADDRESS_SPACE,
    INVALID_PC,
    LAUNCH_FAILED,
    TENSOR_MEMORY_LEAK,
    MPS_CLIENT_TERMINATED,
    EXTERNAL_DEVICE,
];

/// The row of a code.
pub(crate) fn find(code: u32) -> Option<&'static Code> {
    CODES.binary_search_by_key(&code, |row| row.code).ok().map(|at| &CODES[at])
}

/// The code that `name` means: `CUDA_ERROR_OUT_OF_MEMORY`, `OUT_OF_MEMORY` or `2`. A number must be one of the codes.
pub(crate) fn by_name(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return find(number).map(|row| row.code);
    }
    let short = |name| str::strip_prefix(name, "CUDA_ERROR_").or_else(|| str::strip_prefix(name, "CUDA_"));
    let row = CODES.iter().find(|row| row.name == name || short(row.name) == Some(name))?;
    Some(row.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_sticky_codes_are_in_it() {
        assert!(CODES.is_sorted_by(|a, b| a.code < b.code));
        assert!(STICKY.is_sorted_by(|a, b| a < b));
        assert!(STICKY.iter().all(|&code| find(code).is_some()));
    }

    #[test]
    fn names_and_numbers_are_understood() {
        for (name, code) in [
            ("CUDA_SUCCESS", Some(SUCCESS)),
            ("SUCCESS", Some(SUCCESS)),
            ("CUDA_ERROR_OUT_OF_MEMORY", Some(OUT_OF_MEMORY)),
            ("OUT_OF_MEMORY", Some(OUT_OF_MEMORY)),
            ("700", Some(ILLEGAL_ADDRESS)),
            ("CUDA_ERROR_CUDA_ERROR_ASSERT", None),
            ("ERROR_ASSERT", None),
            ("9999", None),
            ("", None),
        ] {
            assert_eq!(by_name(name), code, "{name}");
        }
    }
}
