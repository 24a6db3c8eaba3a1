//! Memory of a card, described by its address.

use crate::error::{Error, Result};
use crate::tensor::{Dtype, checked_numel, row_major};

/// A tensor in the memory of a card that the training loop owns: address, type, shape and strides. Nothing is owned or freed
/// here.
///
/// What it holds when it is registered is read where the optimizer keeps a full-precision copy (masters, extrapolated points), in
/// the builder's stream, or, without one, in a stream that nothing of the caller's is ordered before.
///
/// Strided views are taken where the elements of each row are adjacent: two dimensions with any distance between rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTensor {
    address: u64,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Elements from one row to the next, where rows have gaps between them.
    row_stride: Option<usize>,
}

impl DeviceTensor {
    /// A row-major tensor at `address` (a `CUdeviceptr`).
    ///
    /// # Errors
    /// A shape beyond the address space, f64, an address that is no multiple of the element's size, address 0 for elements.
    ///
    /// # Safety
    /// The memory must belong to the card that the tensor is used on and stay valid for as long as an optimizer that it is
    /// registered with steps. What steps read and write there is ordered by the streams they are given, and by nothing else.
    #[allow(unsafe_code, reason = "the caller promises what nobody can check")]
    pub unsafe fn new(address: u64, dtype: Dtype, shape: &[usize]) -> Result<Self> {
        Self::checked(address, dtype, shape, &row_major(shape))
    }

    /// A view with a stride, in elements, for every dimension.
    ///
    /// # Errors
    /// As [`new`](Self::new); strides that are neither row-major nor those of a matrix whose rows lie apart.
    ///
    /// # Safety
    /// As [`new`](Self::new), for every element of the view.
    #[allow(unsafe_code, reason = "the caller promises what nobody can check")]
    pub unsafe fn strided(address: u64, dtype: Dtype, shape: &[usize], strides: &[usize]) -> Result<Self> {
        Self::checked(address, dtype, shape, strides)
    }

    fn checked(address: u64, dtype: Dtype, shape: &[usize], strides: &[usize]) -> Result<Self> {
        let numel = checked_numel(shape, dtype.size())?;
        let refuse = |reason: String| Err(Error::Tensor(reason));
        if dtype == Dtype::F64 {
            return refuse("cards compute in f32: f64 tensors stay on the CPU".into());
        }
        if shape.len() != strides.len() {
            return refuse(format!("{} dimensions but {} strides were given", shape.len(), strides.len()));
        }
        if numel > 0 && address == 0 {
            return refuse("address 0 was given for a tensor that has elements".into());
        }
        if !address.is_multiple_of(dtype.size() as u64) {
            return refuse(format!(
                "address {address:#x} is no multiple of {dtype}'s {} bytes",
                dtype.size()
            ));
        }
        let adjacent = |d: usize, stride: usize| shape[d] == 1 || strides[d] == stride;
        let contiguous = numel == 0 || row_major(shape).iter().enumerate().all(|(d, &s)| adjacent(d, s));
        let row_stride = match (contiguous, shape) {
            (true, _) => None,
            (false, &[rows, columns]) if adjacent(1, 1) && strides[0] >= columns => {
                let last = (rows - 1).checked_mul(strides[0]).and_then(|n| n.checked_add(columns));
                if last.and_then(|n| n.checked_mul(dtype.size())).is_none_or(|b| b > isize::MAX as usize) {
                    return refuse(format!(
                        "shape {shape:?} with strides {strides:?} leaves the address space"
                    ));
                }
                Some(strides[0])
            }
            _ => {
                return refuse(format!(
                    "shape {shape:?} with strides {strides:?} is neither row-major nor a matrix whose rows lie apart"
                ));
            }
        };
        let elements = match (row_stride, shape) {
            (Some(stride), &[rows, columns]) => (rows - 1) * stride + columns,
            _ => numel,
        };
        if address.checked_add((elements * dtype.size()) as u64).is_none() {
            return refuse(format!(
                "a tensor of shape {shape:?} at address {address:#x} leaves the address space"
            ));
        }
        Ok(Self { address, dtype, shape: shape.to_vec(), row_stride })
    }

    /// Address of the first element.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements from one row to the next, where rows have gaps between them.
    pub fn row_stride(&self) -> Option<usize> {
        self.row_stride
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        crate::tensor::numel(&self.shape)
    }

    /// The bytes that the elements take: a range, or one for each row.
    pub(crate) fn runs(&self) -> Vec<std::ops::Range<u64>> {
        let size = self.dtype.size() as u64;
        match (self.row_stride, self.shape.as_slice()) {
            (Some(stride), &[rows, columns]) => (0..rows)
                .map(|row| {
                    let start = self.address + (row * stride) as u64 * size;
                    start..start + columns as u64 * size
                })
                .collect(),
            _ if self.numel() == 0 => vec![],
            _ => std::iter::once(self.address..self.address + self.numel() as u64 * size).collect(),
        }
    }
}
