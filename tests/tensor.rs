//! Tests of `src/tensor.rs`: views against plain index arithmetic.

use half::{bf16, f16};
use orthant::{Dtype, Element, Storage, Tensor};
use proptest::prelude::*;

fn naive(data: &[f64], offset: usize, shape: &[usize], strides: &[usize]) -> Vec<f64> {
    let numel: usize = shape.iter().product();
    (0..numel)
        .map(|mut i| {
            let mut at = offset;
            for (d, s) in shape.iter().zip(strides).rev() {
                at += i % d * s;
                i /= d;
            }
            data[at]
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_read_and_write_what_index_arithmetic_says(
        shape in prop::collection::vec(0usize..5, 0..4),
        strides in prop::collection::vec(0usize..9, 4),
        offset in 0usize..20,
        len in 1usize..200,
    ) {
        let strides = &strides[..shape.len()];
        let data: Vec<f64> = (0..len).map(|i| i as f64).collect();
        let base = Tensor::from_vec(data.clone(), &[len]).unwrap();
        let empty = shape.contains(&0);
        let last = offset + shape.iter().zip(strides).map(|(d, s)| d.saturating_sub(1) * s).sum::<usize>();
        match base.view(offset, &shape, strides) {
            Err(_) => prop_assert!(!empty && last >= len),
            Ok(view) => {
                prop_assert!(empty || last < len);
                let expected = naive(&data, offset, &shape, strides);
                prop_assert_eq!(view.to_vec::<f64>().unwrap(), expected.clone());
                prop_assert_eq!(view.to_vec_f64(), expected.clone());
                let Storage::F64(copy) = view.to_storage() else { panic!("dtype changed") };
                prop_assert_eq!(copy, expected.clone());
                let negated: Vec<f64> = expected.iter().map(|v| -v).collect();
                view.copy_from_slice(&negated).unwrap();
                prop_assert_eq!(view.to_vec::<f64>().unwrap(), negated);
                // Elements outside the view are as they were.
                let inside: Vec<f64> = expected;
                for (i, v) in base.to_vec::<f64>().unwrap().into_iter().enumerate() {
                    let touched = inside.contains(&(i as f64));
                    prop_assert_eq!(v, if touched { -(i as f64) } else { i as f64 });
                }
            }
        }
    }

    #[test]
    fn bytes_round_trip(values in prop::collection::vec(any::<f64>(), 0..40)) {
        for storage in [
            Storage::F64(values.clone()),
            Storage::F32(values.iter().map(|v| *v as f32).collect()),
            Storage::Bf16(values.iter().map(|v| bf16::from_f64(*v)).collect()),
            Storage::F16(values.iter().map(|v| f16::from_f64(*v)).collect()),
        ] {
            let back = Storage::from_le_bytes(storage.dtype(), storage.as_le_bytes()).unwrap();
            prop_assert_eq!(back.as_le_bytes(), storage.as_le_bytes());
        }
    }
}

#[test]
fn sizes_are_checked_before_anything_is_allocated() {
    let huge = 1usize << 62;
    for shape in [vec![huge, 4], vec![usize::MAX, 2], vec![1 << 31, 1 << 31]] {
        let error = Tensor::zeros(Dtype::F32, &shape).unwrap_err().to_string();
        assert!(error.contains("address space"), "{error}");
    }
    assert_eq!(Tensor::zeros(Dtype::F32, &[huge, 0, 5]).unwrap().numel(), 0);
    assert_eq!(Tensor::zeros(Dtype::F32, &[huge, huge, 0]).unwrap().numel(), 0);
    let t = Tensor::zeros(Dtype::F32, &[4]).unwrap();
    assert!(t.view(0, &[2, 3], &[3]).is_err());
    assert!(t.view(usize::MAX, &[2], &[1]).is_err());
    assert!(t.view(1, &[2], &[usize::MAX]).is_err());
    assert!(Tensor::from_vec(vec![1.0f32; 5], &[2, 3]).is_err());
    assert!(Storage::from_le_bytes(Dtype::F32, &[0; 6]).is_err());
}

#[test]
fn types_are_not_reinterpreted() {
    let t = Tensor::zeros(Dtype::Bf16, &[4]).unwrap();
    assert!(t.to_vec::<f16>().unwrap_err().to_string().contains("bf16"));
    assert!(t.copy_from_slice(&[1.0f32; 4]).is_err());
    assert!(t.copy_from_slice(&[bf16::ONE; 3]).is_err());
    assert_eq!(<bf16 as Element>::DTYPE, Dtype::Bf16);
}

#[test]
fn contiguity() {
    let t = Tensor::zeros(Dtype::F32, &[4, 6]).unwrap();
    assert!(t.is_contiguous());
    assert!(t.view(6, &[2, 6], &[6, 1]).unwrap().is_contiguous());
    assert!(!t.view(0, &[4, 3], &[6, 1]).unwrap().is_contiguous());
    assert!(!t.view(0, &[6, 4], &[1, 6]).unwrap().is_contiguous());
    assert!(t.view(0, &[1, 3], &[999, 1]).is_ok_and(|v| v.is_contiguous()));
}

/// `half`'s own conversions from f64 drop the lower 32 bits before rounding.
#[test]
fn sixteen_bit_types_round_f64_to_nearest_even() {
    let near = |exponent: i32| 1.0 + 2f64.powi(exponent) + 2f64.powi(-40);
    assert_eq!(bf16::from_f32(1.0 + 2f32.powi(-7)), <bf16 as Element>::from_f64(near(-8)));
    assert_eq!(f16::from_f32(1.0 + 2f32.powi(-10)), <f16 as Element>::from_f64(near(-11)));
    assert_eq!(bf16::ONE, <bf16 as Element>::from_f64(1.0 + 2f64.powi(-8)));
    // Every f16 and bf16, and the points just around the middle of each gap, against the definition.
    fn check<E: Element + PartialEq>(of_bits: impl Fn(u16) -> E) {
        let mut values: Vec<f64> =
            (0..=u16::MAX).map(|b| of_bits(b).to_f64()).filter(|v| v.is_finite() && *v >= 0.0).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        for pair in values.windows(2) {
            let (low, high) = (pair[0], pair[1]);
            let middle = f64::midpoint(low, high);
            for (x, expected) in [
                (low, low),
                (middle.next_down(), low),
                (middle.next_up(), high),
                (-middle.next_down(), -low),
                (-middle.next_up(), -high),
            ] {
                assert_eq!(E::from_f64(x).to_f64(), expected, "{x:e}");
            }
        }
    }
    check(bf16::from_bits);
    check(f16::from_bits);
    assert!(<bf16 as Element>::from_f64(f64::NAN).to_f64().is_nan());
    assert_eq!(<f16 as Element>::from_f64(f64::INFINITY).to_f64(), f64::INFINITY);
    assert_eq!(<f16 as Element>::from_f64(-1e300).to_f64(), f64::NEG_INFINITY);
}
