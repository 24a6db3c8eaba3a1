//! The driver's functions, each a call that returns its result or names itself and the code. Everything unsafe about them is
//! in this file; nothing here decides anything.
#![allow(unsafe_code, reason = "the driver is a C library")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys;

/// A call that failed. The code is a number: newer drivers have codes that cudarc's enumeration lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub call: &'static str,
    pub code: u32,
}

pub(crate) type Answer<T> = Result<T, Fault>;

pub(crate) use sys::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUstream,
};

/// Everything of the driver that the backend calls, beside the probe. cudarc panics at the first call of a symbol that an
/// old driver lacks: all are looked for beforehand.
pub(super) const SYMBOLS: [&str; 42] = [
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxSynchronize",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuLaunchKernel",
    "cuMemAllocHost_v2",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD16Async",
    "cuMemsetD32Async",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuPointerGetAttribute",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuStreamGetCaptureInfo_v2",
    "cuStreamIsCapturing",
    "cuStreamWaitEvent",
];
/// The same, of streams.
pub(super) const STREAM_SYMBOLS: [&str; 4] =
    ["cuStreamCreate", "cuStreamDestroy_v2", "cuStreamGetCtx", "cuStreamSynchronize"];

macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the driver checks handles; places for results are locals or the caller's own.
        match unsafe { sys::$name($($argument),*) } as u32 {
            0 => Ok(()),
            code => Err(Fault { call: stringify!($name), code }),
        }
    };
}

/// Codes after which a context, or the driver, answers nothing but errors: deinitialised (4), uncorrectable ECC and NVLink
/// errors (214, 220), contained (226), illegal address, timeout, destroyed context, assertion, the faults of running code,
/// tensor memory leak (700 to 721), MPS client gone (810), external device (911), unknown (999).
const STICKY: [u32; 17] = [4, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911];
const UNKNOWN: u32 = 999;
pub(super) const NOT_READY: u32 = 600;
pub(crate) const OUT_OF_MEMORY: u32 = 2;

pub(super) fn is_sticky(code: u32) -> bool {
    STICKY.contains(&code) || code == UNKNOWN
}

impl Fault {
    /// The code's name.
    pub fn name(self) -> String {
        self.text(b"cuGetErrorName\0").unwrap_or_else(|| format!("error {}", self.code))
    }

    /// The driver's words for the code.
    pub fn meaning(self) -> String {
        self.text(b"cuGetErrorString\0").unwrap_or_else(|| "unknown to the driver".into())
    }

    fn text(self, function: &[u8]) -> Option<String> {
        type Ask = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;
        let mut text = std::ptr::null();
        // SAFETY: a call has failed, so the driver is loaded; the functions have this type, but for the code's being an
        // enumeration there; the text is a constant that ends in NUL.
        unsafe {
            let ask = sys::culib().get::<Ask>(function).ok()?;
            if ask(self.code, &mut text) != 0 || text.is_null() {
                return None;
            }
            Some(CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }

    /// Whether the context is of no use after it.
    pub fn is_sticky(self) -> bool {
        is_sticky(self.code)
    }

    /// Whether it says that an image is for another card or driver, so that another image may do: invalid image, no binary
    /// for the card, invalid or unsupported PTX, no compiler, invalid source.
    pub fn refuses_image(self) -> bool {
        [200, 209, 218, 221, 222, 300].contains(&self.code)
    }
}

pub(crate) fn primary_context(device: CUdevice) -> Answer<CUcontext> {
    let mut context = null_mut();
    call!(cuDevicePrimaryCtxRetain(&mut context, device))?;
    Ok(context)
}

pub(crate) fn release_primary_context(device: CUdevice) -> Answer<()> {
    call!(cuDevicePrimaryCtxRelease_v2(device))
}

pub(crate) fn current_context() -> Answer<CUcontext> {
    let mut context = null_mut();
    call!(cuCtxGetCurrent(&mut context))?;
    Ok(context)
}

pub(crate) fn push_context(context: CUcontext) -> Answer<()> {
    call!(cuCtxPushCurrent_v2(context))
}

pub(crate) fn pop_context() -> Answer<()> {
    let mut popped = null_mut();
    call!(cuCtxPopCurrent_v2(&mut popped))
}

/// The device of the current context.
pub(crate) fn context_device() -> Answer<CUdevice> {
    let mut device = 0;
    call!(cuCtxGetDevice(&mut device))?;
    Ok(device)
}

pub(crate) fn synchronize_context() -> Answer<()> {
    call!(cuCtxSynchronize())
}

/// Free and all memory of the current context's card.
pub(crate) fn memory_info() -> Answer<(usize, usize)> {
    let (mut free, mut total) = (0, 0);
    call!(cuMemGetInfo_v2(&mut free, &mut total))?;
    Ok((free, total))
}

pub(crate) fn alloc(bytes: usize) -> Answer<CUdeviceptr> {
    let mut address = 0;
    call!(cuMemAlloc_v2(&mut address, bytes))?;
    Ok(address)
}

pub(crate) fn free(address: CUdeviceptr) -> Answer<()> {
    call!(cuMemFree_v2(address))
}

pub(crate) fn alloc_pinned(bytes: usize) -> Answer<*mut u8> {
    let mut address: *mut c_void = null_mut();
    call!(cuMemAllocHost_v2(&mut address, bytes))?;
    Ok(address.cast())
}

pub(crate) fn free_pinned(address: *mut u8) -> Answer<()> {
    call!(cuMemFreeHost(address.cast()))
}

/// Whether an address is device memory.
pub(crate) fn is_device_memory(address: CUdeviceptr) -> Answer<bool> {
    let mut kind: u32 = 0;
    let place: *mut u32 = &mut kind;
    call!(cuPointerGetAttribute(
        place.cast(),
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        address
    ))?;
    Ok(kind == sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32)
}

/// The ordinal of the card that an address belongs to.
pub(crate) fn device_of_pointer(address: CUdeviceptr) -> Answer<i32> {
    let mut ordinal: i32 = 0;
    let place: *mut i32 = &mut ordinal;
    call!(cuPointerGetAttribute(
        place.cast(),
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
        address
    ))?;
    Ok(ordinal)
}

/// The context that an address belongs to.
pub(crate) fn context_of_pointer(address: CUdeviceptr) -> Answer<CUcontext> {
    let mut context: CUcontext = null_mut();
    let place: *mut CUcontext = &mut context;
    call!(cuPointerGetAttribute(
        place.cast(),
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT,
        address
    ))?;
    Ok(context)
}

pub(crate) fn load_module(image: &[u8]) -> Result<CUmodule, (Fault, String)> {
    let mut module = null_mut();
    let mut log = vec![0u8; 4096];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
    let loaded = call!(cuModuleLoadDataEx(
        &mut module,
        image.as_ptr().cast(),
        2,
        options.as_mut_ptr(),
        values.as_mut_ptr()
    ));
    let said =
        || CStr::from_bytes_until_nul(&log).map_or(String::new(), |s| s.to_string_lossy().into_owned());
    loaded.map(|()| module).map_err(|fault| (fault, said()))
}

pub(crate) fn unload_module(module: CUmodule) -> Answer<()> {
    call!(cuModuleUnload(module))
}

pub(crate) fn function(module: CUmodule, name: &str) -> Answer<CUfunction> {
    let mut function = null_mut();
    let name = CString::new(name).unwrap_or_default();
    call!(cuModuleGetFunction(&mut function, module, name.as_ptr()))?;
    Ok(function)
}

/// Lets launches ask for more shared memory than a kernel has without being asked.
pub(crate) fn allow_shared_memory(function: CUfunction, bytes: u32) -> Answer<()> {
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    call!(cuFuncSetAttribute(function, attribute, bytes as i32))
}

pub(crate) fn blocks_per_multiprocessor(function: CUfunction, threads: u32, shared: u32) -> Answer<u32> {
    let mut blocks = 0;
    call!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &mut blocks,
        function,
        threads as i32,
        shared as usize
    ))?;
    Ok(blocks.max(1) as u32)
}

/// A kernel's argument: up to 8 bytes, as they lie in its parameter space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument(u64);

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument(value)
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        // Little-endian: the first 4 bytes are the value's.
        const { assert!(cfg!(target_endian = "little")) };
        Argument(value.into())
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument(value.to_bits().into())
    }
}

/// Launches `blocks` blocks of `threads` threads. The callers' tests hold arguments against the PTX's parameter lists.
pub(crate) fn launch(
    function: CUfunction,
    blocks: u32,
    threads: u32,
    shared: u32,
    stream: CUstream,
    arguments: &mut [Argument],
) -> Answer<()> {
    const MOST: usize = 16;
    let mut places = [null_mut::<c_void>(); MOST];
    for (place, argument) in places.iter_mut().zip(arguments.iter_mut()) {
        *place = std::ptr::from_mut(&mut argument.0).cast();
    }
    debug_assert!(arguments.len() <= MOST);
    call!(cuLaunchKernel(
        function,
        blocks,
        1,
        1,
        threads,
        1,
        1,
        shared,
        stream,
        places.as_mut_ptr(),
        null_mut()
    ))
}

pub(crate) fn create_stream() -> Answer<CUstream> {
    let mut stream = null_mut();
    call!(cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32))?;
    Ok(stream)
}

pub(crate) fn destroy_stream(stream: CUstream) -> Answer<()> {
    call!(cuStreamDestroy_v2(stream))
}

pub(crate) fn synchronize_stream(stream: CUstream) -> Answer<()> {
    call!(cuStreamSynchronize(stream))
}

pub(crate) fn stream_context(stream: CUstream) -> Answer<CUcontext> {
    let mut context = null_mut();
    call!(cuStreamGetCtx(stream, &mut context))?;
    Ok(context)
}

pub(crate) fn is_capturing(stream: CUstream) -> Answer<bool> {
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    call!(cuStreamIsCapturing(stream, &mut status))?;
    Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// Which capture of the driver's a stream is in.
pub(crate) fn capture_id(stream: CUstream) -> Answer<Option<u64>> {
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let mut id = 0;
    call!(cuStreamGetCaptureInfo_v2(stream, &mut status, &mut id, null_mut(), null_mut(), null_mut()))?;
    Ok((status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE).then_some(id))
}

pub(crate) fn begin_capture(stream: CUstream) -> Answer<()> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    call!(cuStreamBeginCapture_v2(stream, mode))
}

pub(crate) fn end_capture(stream: CUstream) -> Answer<CUgraph> {
    let mut graph = null_mut();
    call!(cuStreamEndCapture(stream, &mut graph))?;
    Ok(graph)
}

pub(crate) fn instantiate(graph: CUgraph) -> Answer<CUgraphExec> {
    let mut exec = null_mut();
    call!(cuGraphInstantiateWithFlags(&mut exec, graph, 0))?;
    Ok(exec)
}

pub(crate) fn launch_graph(exec: CUgraphExec, stream: CUstream) -> Answer<()> {
    call!(cuGraphLaunch(exec, stream))
}

pub(crate) fn destroy_graph(graph: CUgraph) -> Answer<()> {
    call!(cuGraphDestroy(graph))
}

pub(crate) fn destroy_exec(exec: CUgraphExec) -> Answer<()> {
    call!(cuGraphExecDestroy(exec))
}

pub(crate) fn create_event(timed: bool) -> Answer<CUevent> {
    let flags = if timed { 0 } else { sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 };
    let mut event = null_mut();
    call!(cuEventCreate(&mut event, flags))?;
    Ok(event)
}

pub(crate) fn destroy_event(event: CUevent) -> Answer<()> {
    call!(cuEventDestroy_v2(event))
}

pub(crate) fn record_event(event: CUevent, stream: CUstream) -> Answer<()> {
    call!(cuEventRecord(event, stream))
}

pub(crate) fn wait_event(stream: CUstream, event: CUevent) -> Answer<()> {
    call!(cuStreamWaitEvent(stream, event, 0))
}

pub(crate) fn synchronize_event(event: CUevent) -> Answer<()> {
    call!(cuEventSynchronize(event))
}

/// Whether everything before an event is done.
pub(crate) fn event_is_done(event: CUevent) -> Answer<bool> {
    match call!(cuEventQuery(event)) {
        Err(Fault { code: NOT_READY, .. }) => Ok(false),
        answer => answer.map(|()| true),
    }
}

pub(crate) fn elapsed_ms(start: CUevent, end: CUevent) -> Answer<f32> {
    let mut ms = 0.0;
    call!(cuEventElapsedTime(&mut ms, start, end))?;
    Ok(ms)
}

/// Copies to device memory. From pageable memory the source may be reused when the call returns; from pinned memory only
/// when the copy is done.
pub(crate) fn copy_in(to: CUdeviceptr, from: &[u8], stream: CUstream) -> Answer<()> {
    if from.is_empty() {
        return Ok(());
    }
    call!(cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream))
}

/// Copies from device memory into pageable memory, and waits.
pub(crate) fn copy_out(to: &mut [u8], from: CUdeviceptr, stream: CUstream) -> Answer<()> {
    if to.is_empty() {
        return Ok(());
    }
    call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), stream))?;
    synchronize_stream(stream)
}

/// A copy within the card's memory.
pub(crate) fn copy_on_device(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> Answer<()> {
    if bytes == 0 {
        return Ok(());
    }
    call!(cuMemcpyDtoDAsync_v2(to, from, bytes, stream))
}

/// A copy from pinned memory, which must stay as it is until it is done.
pub(crate) fn copy_from_pinned(
    to: CUdeviceptr,
    from: *const u8,
    bytes: usize,
    stream: CUstream,
) -> Answer<()> {
    call!(cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, stream))
}

/// A copy into pinned memory; it is done when the stream has come so far.
pub(crate) fn copy_to_pinned(to: *mut u8, from: CUdeviceptr, bytes: usize, stream: CUstream) -> Answer<()> {
    call!(cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, stream))
}

pub(crate) fn zero(to: CUdeviceptr, bytes: usize, stream: CUstream) -> Answer<()> {
    if bytes == 0 {
        return Ok(());
    }
    call!(cuMemsetD8Async(to, 0, bytes, stream))
}

pub(crate) fn fill_32(to: CUdeviceptr, value: u32, count: usize, stream: CUstream) -> Answer<()> {
    if count == 0 {
        return Ok(());
    }
    call!(cuMemsetD32Async(to, value, count, stream))
}

pub(crate) fn fill_16(to: CUdeviceptr, value: u16, count: usize, stream: CUstream) -> Answer<()> {
    if count == 0 {
        return Ok(());
    }
    call!(cuMemsetD16Async(to, value, count, stream))
}

/// A 64-bit word of pinned memory that the card may be writing.
pub(crate) fn read_word(at: *const u64) -> u64 {
    // SAFETY: the callers' addresses lie in pinned memory of their own, aligned.
    unsafe { at.read_volatile() }
}

/// Writes pinned memory that no copy reads at the moment.
pub(crate) fn write_pinned(to: *mut u8, bytes: &[u8]) {
    // SAFETY: the callers' addresses lie in pinned memory of their own, with room for the bytes.
    unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
}
