//! The C side of the API: what callers pass as pointers. All of the driver's `unsafe` is here and in the attribute that
//! exports a function.
//!
//! A driver has to believe its callers: every pointer in the API comes with a promise of its documentation. The types
//! here hold such pointers; reading and writing through them refuses null and otherwise relies on that promise.

use super::{Answer, codes};
use std::ffi::{CStr, c_char, c_void};

/// Where the API writes a `T` to.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    pub fn null() -> Out<T> {
        Out(std::ptr::null_mut())
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Refuses null before anything is made that could not be told.
    pub fn given(self) -> Answer {
        if self.0.is_null() { Err(codes::INVALID_VALUE.into()) } else { Ok(()) }
    }

    /// Writes; null is an invalid value.
    pub fn set(self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        // SAFETY: not null; the caller of the API promises that a T may be written here. Alignment is not relied on.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes unless null.
    pub fn set_if(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `set`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Writes the element `index` of an array.
    pub fn set_at(self, index: usize, value: T) -> Answer {
        if self.0.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        // SAFETY: not null; the caller promises an array of the length it gave, which `index` was checked against.
        unsafe { self.0.wrapping_add(index).write_unaligned(value) };
        Ok(())
    }
}

impl<T: Copy> Out<T> {
    /// What is there: for values that go both ways.
    pub fn get(self) -> Answer<T> {
        self.get_at(0)
    }

    /// The element `index` of an array of such values.
    pub fn get_at(self, index: usize) -> Answer<T> {
        In(self.0.cast_const()).at(index)
    }
}

/// Where the API reads a `T`, or several, from.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T> In<T> {
    pub fn null() -> In<T> {
        In(std::ptr::null())
    }

    /// What a structure of the caller's points to.
    pub fn from(pointer: *const T) -> In<T> {
        In(pointer)
    }

    /// An address in an array of the caller's.
    pub fn to(address: usize) -> In<T> {
        In(address as *const T)
    }
}

impl<T: Copy> In<T> {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn get(self) -> Answer<T> {
        self.at(0)
    }

    /// The element `index` of an array.
    pub fn at(self, index: usize) -> Answer<T> {
        if self.0.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        // SAFETY: not null; the caller promises an array that reaches beyond `index`. Alignment is not relied on.
        Ok(unsafe { self.0.wrapping_add(index).read_unaligned() })
    }

    /// All elements of an array of `len`.
    pub fn list(self, len: usize) -> Answer<Vec<T>> {
        (0..len).map(|index| self.at(index)).collect()
    }
}

/// A C string from the caller.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub fn get(self) -> Answer<String> {
        if self.0.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        // SAFETY: not null; the caller promises a string that ends in NUL.
        let text = unsafe { CStr::from_ptr(self.0) };
        Ok(text.to_string_lossy().into_owned())
    }
}

/// An address in the memory of the host process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Host(pub *const c_void);

impl Host {
    pub fn address(self) -> usize {
        self.0 as usize
    }
}

/// Copies `len` bytes of host memory.
pub(crate) fn read_host(address: usize, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    let mut bytes = Vec::<u8>::with_capacity(len);
    // SAFETY: the caller of a copy promises `len` readable bytes at `address`, and that they stay until the copy is
    // done (for pinned memory the driver finishes the copies before it frees it). They may be written meanwhile as by
    // DMA: a torn value is what a card would read as well.
    unsafe {
        std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), len);
        bytes.set_len(len);
    }
    bytes
}

/// Writes to host memory.
pub(crate) fn write_host(address: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        // SAFETY: as in `read_host`, with writable bytes; `bytes` is the driver's own and does not overlap them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }
}

/// Text that the caller wants in a buffer of `size` bytes, cut to fit, with a NUL at its end.
pub(crate) fn write_text(to: usize, size: usize, text: &str) {
    if let Some(room) = size.checked_sub(1).filter(|_| to != 0) {
        let text = text.as_bytes();
        let cut = text.iter().position(|&byte| byte == 0).unwrap_or(text.len()).min(room);
        write_host(to, &[&text[..cut], &[0]].concat());
    }
}

/// A module image: PTX text up to its NUL, or the first bytes of something else.
pub(crate) fn image(address: usize) -> Answer<Vec<u8>> {
    if address == 0 {
        return Err(codes::INVALID_VALUE.into());
    }
    const MAGIC: [[u8; 4]; 2] = [*b"\x7fELF", [0x50, 0xed, 0x55, 0xba]];
    // SAFETY: the caller promises an image. Every kind of image is longer than the four bytes of its magic number but
    // for a shorter text, whose NUL ends the comparison before anything beyond it is read.
    let byte = |index: usize| unsafe { (address as *const u8).wrapping_add(index).read() };
    for magic in MAGIC {
        if (0..4).all(|index| byte(index) == magic[index]) {
            return Ok(magic.to_vec());
        }
    }
    // SAFETY: no binary image, hence a text that ends in NUL, as the caller promises.
    Ok(unsafe { CStr::from_ptr(address as *const c_char) }.to_bytes().to_vec())
}

/// Pinned host memory of the driver's own.
pub(crate) fn allocate_host(bytes: usize) -> Option<usize> {
    let layout = std::alloc::Layout::from_size_align(bytes, 4096).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout's size is not zero.
    let at = unsafe { std::alloc::alloc_zeroed(layout) };
    (!at.is_null()).then_some(at as usize)
}

/// Gives it back.
pub(crate) fn free_host(address: usize, bytes: usize) {
    if let Ok(layout) = std::alloc::Layout::from_size_align(bytes, 4096) {
        // SAFETY: `address` comes from `allocate_host` with the same size; the driver's ledger holds it exactly once.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) };
    }
}

/// What a function of the host program is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// `cuLaunchHostFunc`, whose manual says: not after an error in the context.
    Function,
    /// `cuStreamAddCallback`: the stream. It is told of errors.
    Callback(u64),
    /// A user object's destructor: whatever happens.
    Destructor,
}

/// A function of the host program, `void (*)(void *)`, or `void (*)(CUstream, CUresult, void *)` for a stream's callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Callback {
    pub function: usize,
    pub data: usize,
    pub calls: Calls,
}

impl Callback {
    pub fn call(self, status: u32) {
        match self.calls {
            Calls::Function | Calls::Destructor => {
                // SAFETY: the caller passed a function of this type, and promises that it may be called with `data`.
                let function: extern "C" fn(usize) = unsafe { std::mem::transmute(self.function) };
                function(self.data);
            }
            Calls::Callback(stream) => {
                // SAFETY: as above.
                let function: extern "C" fn(u64, u32, usize) = unsafe { std::mem::transmute(self.function) };
                function(stream, status, self.data);
            }
        }
    }
}

/// The file that the driver was loaded from, if it was loaded as a library.
pub(crate) fn own_path() -> Option<String> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let address = own_path as fn() -> Option<String> as *const c_void;
    // SAFETY: `address` is code of this library and `info` may be written; on success it is filled in.
    unsafe {
        if libc::dladdr(address, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Calls `function` when the process ends.
pub(crate) fn at_exit(function: extern "C" fn()) {
    // SAFETY: a plain registration; the function lives as long as this library, which is never unloaded before exit.
    _ = unsafe { libc::atexit(function) };
}

/// Asks the caller's `size_t (*)(int)` how much shared memory a block of so many threads needs.
pub(crate) fn shared_for_block(function: usize, threads: i32) -> usize {
    // SAFETY: the caller passed a function of this type, to be called with block sizes.
    let function: extern "C" fn(i32) -> usize = unsafe { std::mem::transmute(function) };
    function(threads)
}
