//! Typed slices of any dtype behind one face, so that one sweep serves every mixture of dtypes.

use super::compact;
use super::real::Real;
use super::rounding::Dither;
use crate::tensor::{Storage, with_elements};
use half::{bf16, f16};

/// A shared slice of storage.
#[derive(Debug, Clone, Copy)]
pub enum Slice<'a> {
    F64(&'a [f64]),
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// An exclusive slice of storage.
#[derive(Debug)]
pub enum SliceMut<'a> {
    F64(&'a mut [f64]),
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
}

macro_rules! rewrap {
    ($enum:ident, $storage:expr, $values:ident => $body:expr) => {
        match $storage {
            $enum::F64($values) => $enum::F64($body),
            $enum::F32($values) => $enum::F32($body),
            $enum::Bf16($values) => $enum::Bf16($body),
            $enum::F16($values) => $enum::F16($body),
        }
    };
}

impl<'a> Slice<'a> {
    /// Elements `start..start + len` of the storage.
    pub fn of(storage: &'a Storage, start: usize, len: usize) -> Self {
        match storage {
            Storage::F64(v) => Self::F64(&v[start..start + len]),
            Storage::F32(v) => Self::F32(&v[start..start + len]),
            Storage::Bf16(v) => Self::Bf16(&v[start..start + len]),
            Storage::F16(v) => Self::F16(&v[start..start + len]),
        }
    }

    /// Elements `start..start + len` of the slice.
    pub fn sub(self, start: usize, len: usize) -> Self {
        rewrap!(Self, self, values => &values[start..start + len])
    }

    /// Fills `out` with the elements from `start` on.
    pub fn load<T: Real>(&self, start: usize, out: &mut [T]) {
        with_elements!(Self, self, values => {
            for (o, v) in out.iter_mut().zip(&values[start..]) {
                *o = T::get(*v);
            }
        });
    }
}

impl<'a> SliceMut<'a> {
    /// Elements `start..start + len` of the storage.
    pub fn of(storage: &'a mut Storage, start: usize, len: usize) -> Self {
        match storage {
            Storage::F64(v) => Self::F64(&mut v[start..start + len]),
            Storage::F32(v) => Self::F32(&mut v[start..start + len]),
            Storage::Bf16(v) => Self::Bf16(&mut v[start..start + len]),
            Storage::F16(v) => Self::F16(&mut v[start..start + len]),
        }
    }

    /// The first `len` elements; the rest stays in `self`.
    pub fn take_front(&mut self, len: usize) -> Self {
        match self {
            Self::F64(v) => Self::F64(v.split_off_mut(..len).unwrap_or_default()),
            Self::F32(v) => Self::F32(v.split_off_mut(..len).unwrap_or_default()),
            Self::Bf16(v) => Self::Bf16(v.split_off_mut(..len).unwrap_or_default()),
            Self::F16(v) => Self::F16(v.split_off_mut(..len).unwrap_or_default()),
        }
    }

    /// Fills `out` with the elements from `start` on.
    pub fn load<T: Real>(&self, start: usize, out: &mut [T]) {
        with_elements!(Self, self, values => {
            for (o, v) in out.iter_mut().zip(&values[start..]) {
                *o = T::get(*v);
            }
        });
    }

    /// Stores `values` from `start` on, rounded to nearest, or by `dither` (bf16 only) with `index` the position of
    /// the first one in its parameter.
    pub fn store<T: Real>(&mut self, start: usize, values: &[T], dither: Option<&Dither>, index: u64) {
        match (self, dither) {
            (Self::Bf16(target), Some(dither)) => {
                for ((t, v), i) in target[start..].iter_mut().zip(values).zip(index..) {
                    *t = dither.round((*v).to_f32(), i);
                }
            }
            (target, _) => with_elements!(Self, target, target => {
                for (t, v) in target[start..].iter_mut().zip(values) {
                    *t = v.put();
                }
            }),
        }
    }

    /// Fills `out` with compact masters from `start` on: `self` is the parameter, `low` the words below it.
    pub fn load_joined<T: Real>(&self, low: &Self, start: usize, out: &mut [T]) {
        // The planner gives compact masters to bf16 parameters only.
        let (Self::Bf16(high), Self::Bf16(low)) = (self, low) else { return debug_assert!(false, "bf16") };
        for ((o, h), l) in out.iter_mut().zip(&high[start..]).zip(&low[start..]) {
            *o = T::get(compact::join(*h, l.to_bits() as i16));
        }
    }

    /// Stores compact masters from `start` on.
    pub fn store_split<T: Real>(&mut self, low: &mut Self, start: usize, masters: &[T]) {
        let (Self::Bf16(high), Self::Bf16(low)) = (self, low) else { return debug_assert!(false, "bf16") };
        for ((h, l), master) in high[start..].iter_mut().zip(&mut low[start..]).zip(masters) {
            let (upper, lower) = compact::split((*master).to_f32());
            (*h, *l) = (upper, bf16::from_bits(lower as u16));
        }
    }
}
