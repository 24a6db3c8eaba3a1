//! What the tests share: the emulator, one test at a time, and short ways to call the API.

use cudarc::driver::sys::{self, CUresult};
use orthant_gpu::preload::Emulator;
use serde_json::Value;
use std::ffi::{CString, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

static EMULATOR: LazyLock<Emulator> =
    LazyLock::new(|| Emulator::preload(None).unwrap_or_else(|error| panic!("{error}")));
static ONE: Mutex<()> = Mutex::new(());

/// The emulator of this process, for one test.
pub struct Session {
    pub emulator: &'static Emulator,
    _one: MutexGuard<'static, ()>,
}

/// Begins anew with these settings, initialises, and makes the first card's primary context current.
pub fn session(settings: &[(&str, &str)]) -> Session {
    let session = bare(settings);
    ok(unsafe { sys::cuInit(0) });
    let mut context = std::ptr::null_mut();
    ok(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, 0) });
    ok(unsafe { sys::cuCtxSetCurrent(context) });
    session
}

/// The same without `cuInit` and context.
pub fn bare(settings: &[(&str, &str)]) -> Session {
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let quiet = [("QUIET", "1")].into_iter().chain(settings.iter().copied()).collect::<Vec<_>>();
    EMULATOR.configure(&quiet).unwrap_or_else(|error| panic!("{error}"));
    Session { emulator: &EMULATOR, _one: one }
}

impl Session {
    pub fn report(&self) -> Value {
        let report = self.emulator.report();
        serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"))
    }

    /// What the last refused call was told.
    pub fn last_error(&self) -> String {
        self.report()["last_error"].as_str().unwrap().to_string()
    }

    /// The texts of the faults reported so far.
    pub fn faults(&self) -> Vec<String> {
        let report = self.report();
        let faults = report["faults"].as_array().unwrap().iter();
        faults.map(|fault| fault["text"].as_str().unwrap().to_string()).collect()
    }
}

#[track_caller]
pub fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS, "{}", EMULATOR.report());
}

#[track_caller]
pub fn fails(result: CUresult, expected: CUresult) {
    assert_eq!(result, expected, "{}", EMULATOR.report());
}

pub fn alloc(bytes: usize) -> u64 {
    let mut address = 0;
    ok(unsafe { sys::cuMemAlloc_v2(&mut address, bytes) });
    address
}

pub fn put<T: Copy>(address: u64, values: &[T]) {
    ok(unsafe { sys::cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)) });
}

pub fn get<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    ok(unsafe { sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, size_of::<T>() * count) });
    values
}

/// A stream that takes no part in the legacy stream's implicit order.
pub fn stream() -> sys::CUstream {
    let mut stream = std::ptr::null_mut();
    ok(unsafe { sys::cuStreamCreate(&mut stream, 1) });
    stream
}

pub fn event() -> sys::CUevent {
    let mut event = std::ptr::null_mut();
    ok(unsafe { sys::cuEventCreate(&mut event, 0) });
    event
}

pub fn module(ptx: &str) -> sys::CUmodule {
    let text = CString::new(ptx).unwrap();
    let mut module = std::ptr::null_mut();
    ok(unsafe { sys::cuModuleLoadData(&mut module, text.as_ptr().cast()) });
    module
}

pub fn function(module: sys::CUmodule, name: &str) -> sys::CUfunction {
    let name = CString::new(name).unwrap();
    let mut function = std::ptr::null_mut();
    ok(unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) });
    function
}

/// An argument's bytes.
pub trait Argument {
    fn address(&self) -> *mut c_void;
}

impl<T: Copy> Argument for T {
    fn address(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

/// `grid` blocks of `block` threads on `stream`.
pub fn launch(
    function: sys::CUfunction,
    grid: u32,
    block: u32,
    stream: sys::CUstream,
    arguments: &[&dyn Argument],
) -> CUresult {
    let mut params: Vec<*mut c_void> =
        arguments.iter().map(|argument| <dyn Argument>::address(*argument)).collect();
    unsafe {
        sys::cuLaunchKernel(
            function,
            grid,
            1,
            1,
            block,
            1,
            1,
            0,
            stream,
            params.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    }
}

/// `NAME(u32 *x, u32 n, u32 k)`: x[i] = x[i] OP k for i < n.
macro_rules! elementwise {
    ($name:literal, $op:literal) => {
        concat!(
            r#".visible .entry "#,
            $name,
            r#"(.param .u64 x, .param .u32 n, .param .u32 k)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [k];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd2, %r6, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r7, [%rd3];
    "#,
            $op,
            r#" %r7, %r7, %r2;
    st.global.u32 [%rd3], %r7;
DONE:
    ret;
}

"#
        )
    };
}

/// `add(u32 *x, u32 n, u32 k)`: x[i] += k for i < n; `bad(u32 *x)`: writes x[2^20]; `scale(u32 *x, u32 n, u32 k)`: x[i] *= k.
pub const KERNELS: &str = concat!(
    r#"
.version 8.0
.target sm_80
.address_size 64

"#,
    elementwise!("add", "add.u32"),
    elementwise!("scale", "mul.lo.u32"),
    r#".visible .entry bad(.param .u64 x)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [x];
    mov.u32 %r1, 1;
    st.global.u32 [%rd1+4194304], %r1;
    ret;
}
"#
);
