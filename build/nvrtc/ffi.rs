//! NVRTC's C interface, as much of it as is used. All of the module's unsafe code is in this file.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;

/// `NVRTC_ERROR_INVALID_INPUT`.
pub const INVALID_INPUT: c_int = 3;
const SUCCESS: c_int = 0;

type Handle = *mut c_void;
type SizeOf = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Read = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type ErrorString = unsafe extern "C" fn(c_int) -> *const c_char;
type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Handle) -> c_int;

/// An open library whose version is not known yet. It is never closed: a program needs one compiler at most, and
/// threads that used it may still hold its thread-local state.
pub struct Library(ManuallyDrop<libloading::Library>);

impl Library {
    /// Opens the builtins, then NVRTC, all by absolute path.
    pub fn open(library: &Path, builtins: &[PathBuf]) -> Result<Self, libloading::Error> {
        let open = |path: &Path| {
            // SAFETY: opening runs the library's initialisers. The file is one that the user named or installed,
            // or the checked wheel's; NVRTC's initialisers ask nothing of the process.
            unsafe { libloading::Library::new(path) }.map(ManuallyDrop::new)
        };
        for path in builtins {
            // Never closed either: NVRTC finds it by name among the open libraries.
            open(path)?;
        }
        open(library).map(Self)
    }

    /// Major and minor version.
    pub fn version(&self) -> Result<(c_int, c_int), libloading::Error> {
        // SAFETY: `Version` is this function's signature in every release's nvrtc.h.
        let version = unsafe { self.0.get::<Version>(b"nvrtcVersion\0") }?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to live integers. A failure leaves 0.0, which no caller supports.
        unsafe { version(&raw mut major, &raw mut minor) };
        Ok((major, minor))
    }

    /// The functions of a library whose version is supported.
    pub fn api(self) -> Result<Api, libloading::Error> {
        // SAFETY: each type is the function's signature in nvrtc.h of releases 12.0 to 13.x, which is what the
        // caller has checked. The pointers stay valid because the library is never closed.
        unsafe {
            Ok(Api {
                error_string: *self.0.get::<ErrorString>(b"nvrtcGetErrorString\0")?,
                create: *self.0.get::<Create>(b"nvrtcCreateProgram\0")?,
                compile: *self.0.get::<Compile>(b"nvrtcCompileProgram\0")?,
                destroy: *self.0.get::<Destroy>(b"nvrtcDestroyProgram\0")?,
                log: (*self.0.get(b"nvrtcGetProgramLogSize\0")?, *self.0.get(b"nvrtcGetProgramLog\0")?),
                ptx: (*self.0.get(b"nvrtcGetPTXSize\0")?, *self.0.get(b"nvrtcGetPTX\0")?),
                cubin: (*self.0.get(b"nvrtcGetCUBINSize\0")?, *self.0.get(b"nvrtcGetCUBIN\0")?),
            })
        }
    }
}

/// NVRTC's functions. NVRTC may be called from several threads at once, each with its own program.
pub struct Api {
    error_string: ErrorString,
    create: Create,
    compile: Compile,
    destroy: Destroy,
    log: (SizeOf, Read),
    ptx: (SizeOf, Read),
    cubin: (SizeOf, Read),
}

impl Api {
    /// Name of a status.
    pub fn error_name(&self, code: c_int) -> String {
        // SAFETY: takes any number; gives a static string for all of them.
        let name = unsafe { (self.error_string)(code) };
        if name.is_null() {
            return "unknown NVRTC status".into();
        }
        // SAFETY: not null, so a static NUL-terminated string.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    /// A program of one source and no headers in memory.
    pub fn program(&self, source: &CStr, name: &CStr) -> Result<Program<'_>, c_int> {
        let mut handle = ptr::null_mut();
        // SAFETY: the strings end with NUL and NVRTC copies them; with 0 headers both arrays may be null.
        let status = unsafe {
            let (source, name) = (source.as_ptr(), name.as_ptr());
            (self.create)(&raw mut handle, source, name, 0, ptr::null(), ptr::null())
        };
        check(status).map(|()| Program { api: self, handle, one_thread: PhantomData })
    }
}

/// A program of NVRTC's, destroyed with this value.
pub struct Program<'a> {
    api: &'a Api,
    handle: Handle,
    one_thread: PhantomData<*mut ()>,
}

impl Program<'_> {
    /// Compiles; the log is there afterwards in any case.
    pub fn compile(&self, options: &[CString]) -> Result<(), c_int> {
        let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| INVALID_INPUT)?;
        // SAFETY: the handle is live, and `count` pointers to NUL-terminated strings outlive the call.
        check(unsafe { (self.api.compile)(self.handle, count, pointers.as_ptr()) })
    }

    /// What compiler and assembler said.
    pub fn log(&self) -> Result<String, c_int> {
        self.read(self.api.log).map(text)
    }

    /// The PTX of a compiled program.
    pub fn ptx(&self) -> Result<String, c_int> {
        self.read(self.api.ptx).map(text)
    }

    /// The machine code of a compiled program; empty for a virtual architecture.
    pub fn cubin(&self) -> Result<Vec<u8>, c_int> {
        self.read(self.api.cubin)
    }

    fn read(&self, (size_of, read): (SizeOf, Read)) -> Result<Vec<u8>, c_int> {
        let mut size = 0;
        // SAFETY: the handle is live and the pointer is to a live integer.
        check(unsafe { size_of(self.handle, &raw mut size) })?;
        let mut bytes = vec![0u8; size];
        if size > 0 {
            // SAFETY: the handle is live and the buffer has as many bytes as NVRTC has just asked for.
            check(unsafe { read(self.handle, bytes.as_mut_ptr().cast()) })?;
        }
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again. NVRTC gives no reason to fail here.
        unsafe { (self.api.destroy)(&raw mut self.handle) };
    }
}

fn check(status: c_int) -> Result<(), c_int> {
    if status == SUCCESS { Ok(()) } else { Err(status) }
}

/// Text up to the NUL that NVRTC counts in.
fn text(bytes: Vec<u8>) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
