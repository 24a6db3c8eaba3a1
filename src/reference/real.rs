//! The two types the reference computes in.

use crate::plan::Precision;
use crate::tensor::Element;

/// `f32` or `f64`. All arithmetic is IEEE, rounded to nearest, never fused.
pub trait Real: ndarray::NdFloat + Element {
    /// The type's name in options.
    const PRECISION: Precision;
    /// A scalar hyperparameter, rounded once.
    fn of(value: f64) -> Self;
    /// A stored element.
    fn get<E: Element>(element: E) -> Self;
    /// To storage, rounded to nearest even.
    fn put<E: Element>(self) -> E;
}

impl Real for f32 {
    const PRECISION: Precision = Precision::F32;
    fn of(value: f64) -> Self {
        value as f32
    }
    fn get<E: Element>(element: E) -> Self {
        element.to_f32()
    }
    fn put<E: Element>(self) -> E {
        E::from_f32(self)
    }
}

impl Real for f64 {
    const PRECISION: Precision = Precision::F64;
    fn of(value: f64) -> Self {
        value
    }
    fn get<E: Element>(element: E) -> Self {
        element.to_f64()
    }
    fn put<E: Element>(self) -> E {
        E::from_f64(self)
    }
}

/// `beta^t` by repeated squaring in f64: a fixed order of multiplications, so that every backend has the same bits
/// and a resumed run needs only `t`.
pub fn power(beta: f64, mut t: u64) -> f64 {
    let (mut result, mut square) = (1.0, beta);
    while t > 0 {
        if t & 1 == 1 {
            result *= square;
        }
        square *= square;
        t >>= 1;
    }
    result
}
