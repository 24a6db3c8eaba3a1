//! Device memory and pinned host memory, each with one owner that frees it.

use std::cell::Cell;

use super::api;
use super::context::{Context, Handle};
use super::stream::Stream;
use crate::error::{Error, Result};

/// Device memory, freed when dropped. Whoever gave work on it to a stream waits for that work first.
#[derive(Debug)]
pub struct DeviceBuffer {
    context: Context,
    address: u64,
    bytes: usize,
}

impl DeviceBuffer {
    /// `bytes` bytes of any content. None are asked of the driver where 0 are wanted.
    ///
    /// # Errors
    /// [`Error::Driver`], out of memory among others.
    pub fn new(context: &Context, bytes: usize) -> Result<Self> {
        let address = match bytes {
            0 => 0,
            _ => context.run("allocating device memory", || api::alloc(bytes))?,
        };
        Ok(Self { context: context.clone(), address, bytes })
    }

    /// Address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `from` to the bytes from `at` on, in the stream's order.
    ///
    /// # Errors
    /// A range that is not inside; what the driver says.
    pub fn write(&self, stream: &Stream, at: usize, from: &[u8]) -> Result<()> {
        let to = self.range(at, from.len())?;
        self.context.run("copying to the card", || api::copy_in(to, from, stream.raw()))
    }

    /// Copies `bytes` bytes of another buffer of the card, from `from_at` on, to the bytes from `at` on, in the stream's order.
    /// Ranges of one buffer may not overlap.
    ///
    /// # Errors
    /// A range that is not inside; what the driver says.
    pub fn copy(
        &self,
        stream: &Stream,
        at: usize,
        from: &DeviceBuffer,
        from_at: usize,
        bytes: usize,
    ) -> Result<()> {
        let (to, from) = (self.range(at, bytes)?, from.range(from_at, bytes)?);
        self.context.run("copying on the card", || api::copy_on_device(to, from, bytes, stream.raw()))
    }

    /// Copies the bytes from `at` on into `to`, after all work before in the stream, and waits.
    ///
    /// # Errors
    /// A range that is not inside; what the driver or work before in the stream failed with.
    pub fn read(&self, stream: &Stream, at: usize, to: &mut [u8]) -> Result<()> {
        let from = self.range(at, to.len())?;
        self.context.run("copying from the card", || api::copy_out(to, from, stream.raw()))
    }

    fn range(&self, at: usize, len: usize) -> Result<u64> {
        match at.checked_add(len) {
            Some(end) if end <= self.bytes => Ok(self.address + at as u64),
            _ => {
                Err(Error::Tensor(format!("bytes {at} to {at} + {len} of a device buffer of {}", self.bytes)))
            }
        }
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.context.give_back(|| api::free(self.address));
        }
    }
}

/// Pinned host memory.
#[derive(Debug)]
pub(crate) struct Pinned {
    context: Context,
    address: Handle<*mut u8>,
    bytes: usize,
    /// Words that were seen, so that the type is not `Sync` by accident.
    _single: std::marker::PhantomData<Cell<u8>>,
}

impl Pinned {
    /// `bytes` bytes of zero.
    pub fn new(context: &Context, bytes: usize) -> Result<Self> {
        let address = context.run("allocating pinned memory", || api::alloc_pinned(bytes))?;
        api::write_pinned(address, &vec![0; bytes]);
        let _single = std::marker::PhantomData;
        Ok(Self { context: context.clone(), address: Handle(address), bytes, _single })
    }

    pub fn at(&self, byte: usize) -> *mut u8 {
        debug_assert!(byte < self.bytes);
        self.address.0.wrapping_add(byte)
    }

    /// The words from `byte` on, each as it is at some moment during the call.
    pub fn words<const N: usize>(&self, byte: usize) -> [u64; N] {
        debug_assert!(byte.is_multiple_of(8) && byte + 8 * N <= self.bytes);
        std::array::from_fn(|i| api::read_word(self.at(byte + 8 * i).cast_const().cast()))
    }

    /// Overwrites bytes that no copy reads at the moment.
    pub fn write(&self, byte: usize, from: &[u8]) {
        debug_assert!(byte + from.len() <= self.bytes);
        api::write_pinned(self.at(byte), from);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.context.give_back(|| api::free_pinned(self.address.0));
    }
}
