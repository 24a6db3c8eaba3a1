//! Host tensors: typed storage shared between the training loop and the optimizer, and strided views of it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use half::{bf16, f16};

use crate::error::{Error, Result};

/// Element type of parameters, gradients and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

impl Dtype {
    /// Name in JSON, configurations and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Whether the type has 16 bits.
    pub fn is_half(self) -> bool {
        self.size() == 2
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f64 {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// A type that tensors can hold: `f64`, `f32`, `half::bf16`, `half::f16`.
pub trait Element: sealed::Sealed + bytemuck::Pod + Default + Send + Sync {
    /// The type's tag.
    const DTYPE: Dtype;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Exact but for `f64`, which rounds to nearest even.
    fn to_f32(self) -> f32;
    /// Rounds to nearest even.
    fn from_f64(value: f64) -> Self;
    /// Rounds to nearest even.
    fn from_f32(value: f32) -> Self;
    #[doc(hidden)]
    fn wrap(values: Vec<Self>) -> Storage;
    #[doc(hidden)]
    fn peek(storage: &Storage) -> Option<&[Self]>;
    #[doc(hidden)]
    fn peek_mut(storage: &mut Storage) -> Option<&mut [Self]>;
}

macro_rules! element {
    ($type:ty, $variant:ident, $to_f64:expr, $to_f32:expr, $from_f64:expr, $from_f32:expr) => {
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$variant;
            fn to_f64(self) -> f64 {
                $to_f64(self)
            }
            fn to_f32(self) -> f32 {
                $to_f32(self)
            }
            fn from_f64(value: f64) -> Self {
                $from_f64(value)
            }
            fn from_f32(value: f32) -> Self {
                $from_f32(value)
            }
            fn wrap(values: Vec<Self>) -> Storage {
                Storage::$variant(values)
            }
            fn peek(storage: &Storage) -> Option<&[Self]> {
                if let Storage::$variant(values) = storage { Some(values) } else { None }
            }
            fn peek_mut(storage: &mut Storage) -> Option<&mut [Self]> {
                if let Storage::$variant(values) = storage { Some(values) } else { None }
            }
        }
    };
}
element!(f64, F64, |x| x, |x| x as f32, |x| x, f64::from);
element!(f32, F32, f64::from, |x| x, |x| x as f32, |x| x);
element!(bf16, Bf16, bf16::to_f64, bf16::to_f32, |x| bf16::from_f32(to_odd(x)), bf16::from_f32);
element!(f16, F16, f16::to_f64, f16::to_f32, |x| f16::from_f32(to_odd(x)), f16::from_f32);

/// f64 to f32, rounded to odd (truncated, and the last bit set where digits were lost), so that rounding the result to
/// 16 bits is rounding the f64 once. (`half`'s own conversions drop the lower 32 bits first.)
fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) == x || x.is_nan() {
        return nearest;
    }
    let truncated = nearest.to_bits() - u32::from(f64::from(nearest).abs() > x.abs());
    f32::from_bits(truncated | 1)
}

/// A typed buffer in host memory.
#[derive(Debug, Clone, PartialEq)]
pub enum Storage {
    /// IEEE double.
    F64(Vec<f64>),
    /// IEEE single.
    F32(Vec<f32>),
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// IEEE half.
    F16(Vec<f16>),
}

/// Runs `$body` with `$values` bound to the typed vector or slice inside.
macro_rules! with_elements {
    ($enum:ident, $storage:expr, $values:ident => $body:expr) => {
        match $storage {
            $enum::F64($values) => $body,
            $enum::F32($values) => $body,
            $enum::Bf16($values) => $body,
            $enum::F16($values) => $body,
        }
    };
}
pub(crate) use with_elements;

impl Storage {
    /// `len` zeros.
    pub fn zeros(dtype: Dtype, len: usize) -> Self {
        match dtype {
            Dtype::F64 => Self::F64(vec![0.0; len]),
            Dtype::F32 => Self::F32(vec![0.0; len]),
            Dtype::Bf16 => Self::Bf16(vec![bf16::ZERO; len]),
            Dtype::F16 => Self::F16(vec![f16::ZERO; len]),
        }
    }

    /// Values from little-endian bytes.
    ///
    /// # Errors
    /// When the byte count is not a multiple of the element size.
    pub fn from_le_bytes(dtype: Dtype, bytes: &[u8]) -> Result<Self> {
        if !bytes.len().is_multiple_of(dtype.size()) {
            return Err(Error::Tensor(format!(
                "{} bytes are no whole number of {dtype} elements",
                bytes.len()
            )));
        }
        let mut out = Self::zeros(dtype, bytes.len() / dtype.size());
        with_elements!(Self, &mut out, values => bytemuck::cast_slice_mut(values).copy_from_slice(bytes));
        Ok(out)
    }

    /// The elements as little-endian bytes, as safetensors stores them.
    pub fn as_le_bytes(&self) -> &[u8] {
        const { assert!(cfg!(target_endian = "little"), "files are little-endian and written without swapping") };
        with_elements!(Self, self, values => bytemuck::cast_slice(values))
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn as_le_bytes_mut(&mut self) -> &mut [u8] {
        with_elements!(Self, self, values => bytemuck::cast_slice_mut(values))
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F64(_) => Dtype::F64,
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::F16(_) => Dtype::F16,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        with_elements!(Self, self, values => values.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`, exactly, or `None` outside the buffer.
    pub fn get_f64(&self, index: usize) -> Option<f64> {
        with_elements!(Self, self, values => values.get(index).map(|v| v.to_f64()))
    }
}

/// A view of shared host storage: a shape, a stride (in elements) for every dimension, and an offset. Cloning shares
/// the storage; the training loop keeps one clone and the optimizer another.
///
/// ```
/// use orthant::Tensor;
/// let weight = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
/// let first_two_columns = weight.view(0, &[2, 2], &[3, 1])?;
/// assert_eq!(first_two_columns.to_vec::<f32>()?, [1.0, 2.0, 4.0, 5.0]);
/// # Ok::<(), orthant::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tensor {
    storage: Arc<RwLock<Storage>>,
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

/// Number of elements of a shape.
///
/// # Errors
/// When the product does not fit, or `size_of_element` times it does not.
pub(crate) fn checked_numel(shape: &[usize], size_of_element: usize) -> Result<usize> {
    // A zero anywhere makes the tensor empty whatever the other dimensions are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|n| n.checked_mul(size_of_element).is_some_and(|b| b <= isize::MAX as usize))
        .ok_or_else(|| Error::Tensor(format!("shape {shape:?} has more bytes than the address space")))
}

/// Number of elements of a shape that has been checked: zero when any dimension is, whatever the others are.
pub(crate) fn numel(shape: &[usize]) -> usize {
    if shape.contains(&0) { 0 } else { shape.iter().product() }
}

pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d].saturating_mul(shape[d].max(1));
    }
    strides
}

impl Tensor {
    /// A row-major tensor that owns `values`.
    ///
    /// # Errors
    /// When `shape` does not have `values.len()` elements.
    pub fn from_vec<E: Element>(values: Vec<E>, shape: &[usize]) -> Result<Self> {
        Self::from_storage(E::wrap(values), shape)
    }

    /// A row-major tensor that owns `storage`.
    ///
    /// # Errors
    /// When `shape` does not have as many elements as the storage.
    pub fn from_storage(storage: Storage, shape: &[usize]) -> Result<Self> {
        let numel = checked_numel(shape, storage.dtype().size())?;
        if numel != storage.len() {
            return Err(Error::Tensor(format!(
                "shape {shape:?} has {numel} elements, the storage {}",
                storage.len()
            )));
        }
        Ok(Self {
            dtype: storage.dtype(),
            storage: Arc::new(RwLock::new(storage)),
            shape: shape.to_vec(),
            strides: row_major(shape),
            offset: 0,
        })
    }

    /// A row-major tensor of zeros.
    ///
    /// # Errors
    /// When the shape is too large for the address space.
    pub fn zeros(dtype: Dtype, shape: &[usize]) -> Result<Self> {
        Self::from_storage(Storage::zeros(dtype, checked_numel(shape, dtype.size())?), shape)
    }

    /// Another view of the same storage. `offset` and `strides` count elements of the storage.
    ///
    /// # Errors
    /// When lengths differ or an element lies outside the storage.
    pub fn view(&self, offset: usize, shape: &[usize], strides: &[usize]) -> Result<Self> {
        if shape.len() != strides.len() {
            return Err(Error::Tensor(format!(
                "{} dimensions but {} strides were given",
                shape.len(),
                strides.len()
            )));
        }
        let numel = checked_numel(shape, self.dtype.size())?;
        let last = shape
            .iter()
            .zip(strides)
            .try_fold(offset, |at, (&d, &s)| at.checked_add(d.saturating_sub(1).checked_mul(s)?));
        let len = self.read().len();
        if numel > 0 && last.is_none_or(|last| last >= len) {
            return Err(Error::Tensor(format!(
                "view at offset {offset} with shape {shape:?} and strides {strides:?} leaves its storage of {len} elements"
            )));
        }
        Ok(Self {
            storage: Arc::clone(&self.storage),
            dtype: self.dtype,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            // An empty view may lie anywhere; at 0 its (empty) range is inside every storage.
            offset: if numel == 0 { 0 } else { offset },
        })
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Stride of every dimension, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        numel(&self.shape)
    }

    /// Whether the elements lie one after the other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.numel() == 0
            || self
                .shape
                .iter()
                .zip(&self.strides)
                .zip(row_major(&self.shape))
                .all(|((&d, &s), r)| d == 1 || s == r)
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// When `E` is not the tensor's element type.
    pub fn to_vec<E: Element>(&self) -> Result<Vec<E>> {
        let guard = self.read();
        let values = E::peek(&guard).ok_or_else(|| self.wrong_dtype(E::DTYPE))?;
        Ok(match self.is_contiguous() {
            true => values[self.offset..self.offset + self.numel()].to_vec(),
            false => self.indices().map(|i| values[i]).collect(),
        })
    }

    /// The elements in row-major order as f64, exactly.
    pub fn to_vec_f64(&self) -> Vec<f64> {
        let guard = self.read();
        with_elements!(Storage, &*guard, values => self.indices().map(|i| values[i].to_f64()).collect())
    }

    /// Overwrites the elements, given in row-major order.
    ///
    /// # Errors
    /// When `E` is not the tensor's element type or the count differs.
    pub fn copy_from_slice<E: Element>(&self, source: &[E]) -> Result<()> {
        if source.len() != self.numel() {
            return Err(Error::Tensor(format!(
                "{} values were given for {} elements",
                source.len(),
                self.numel()
            )));
        }
        let mut guard = self.write();
        let values = E::peek_mut(&mut guard).ok_or_else(|| self.wrong_dtype(E::DTYPE))?;
        if self.is_contiguous() {
            values[self.offset..self.offset + source.len()].copy_from_slice(source);
        } else {
            for (i, &v) in self.indices().zip(source) {
                values[i] = v;
            }
        }
        Ok(())
    }

    /// A row-major copy of the elements.
    pub fn to_storage(&self) -> Storage {
        let guard = self.read();
        with_elements!(Storage, &*guard, values => {
            if self.is_contiguous() {
                Element::wrap(values[self.offset..self.offset + self.numel()].to_vec())
            } else {
                Element::wrap(self.indices().map(|i| values[i]).collect())
            }
        })
    }

    /// Overwrites the elements with those of `source`, row-major and of the same type.
    ///
    /// # Errors
    /// When the element type or the count differs.
    pub fn assign(&self, source: &Storage) -> Result<()> {
        with_elements!(Storage, source, values => self.copy_from_slice(values))
    }

    fn wrong_dtype(&self, asked: Dtype) -> Error {
        Error::Tensor(format!("it holds {}, not {asked}", self.dtype))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Storage> {
        self.storage.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Storage> {
        self.storage.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Identity of the storage, equal for all views of it.
    pub(crate) fn storage_id(&self) -> usize {
        Arc::as_ptr(&self.storage) as usize
    }

    /// Storage indices in row-major order.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        let mut counter = vec![0usize; self.shape.len()];
        let mut at = self.offset;
        (0..self.numel()).map(move |_| {
            let here = at;
            for d in (0..counter.len()).rev() {
                counter[d] += 1;
                at += self.strides[d];
                if counter[d] < self.shape[d] {
                    break;
                }
                at -= self.strides[d] * self.shape[d];
                counter[d] = 0;
            }
            here
        })
    }

    /// The storage elements the view covers, as sorted ranges: one per contiguous run.
    pub(crate) fn runs(&self) -> Vec<std::ops::Range<usize>> {
        if self.numel() == 0 {
            return vec![];
        }
        let length = match (self.shape.last(), self.strides.last()) {
            (Some(&d), Some(&1)) => d,
            _ => 1,
        };
        let contiguous = if self.is_contiguous() { self.numel() } else { length };
        let mut runs: Vec<_> = self.indices().step_by(contiguous).map(|i| i..i + contiguous).collect();
        runs.sort_by_key(|r| r.start);
        runs
    }
}
