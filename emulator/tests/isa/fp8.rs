//! Conversions from and to 8-bit floating point: the nearest of all numbers of the format, by search.

use crate::harness::{Rng, decoded, op};
use half::f16;

/// All finite numbers of a format that are not negative, with their bits in order, by the definition of its fields.
fn numbers(fraction: u32, bias: i32, most: u32) -> Vec<f64> {
    (0..=most)
        .map(|bits| {
            let part = f64::from(bits & ((1 << fraction) - 1)) / f64::from(1 << fraction);
            match (bits >> fraction) as i32 {
                0 => part * 2f64.powi(1 - bias),
                exponent => (1.0 + part) * 2f64.powi(exponent - bias),
            }
        })
        .collect()
}

fn nearest(all: &[f64], value: f64) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    let distance = |bits: &usize| (all[*bits] - value.abs().min(1e6)).abs();
    // Of two as near the one with an even fraction.
    let order = |a: &usize, b: &usize| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)));
    let bits = (0..all.len()).min_by(order).unwrap() as u8;
    bits | u8::from(value.is_sign_negative()) << 7
}

const FORMATS: [(&str, u32, i32, u32); 2] = [("e4m3", 3, 7, 0x7e), ("e5m2", 2, 15, 0x7b)];

fn inputs(all: &[f64]) -> Vec<f32> {
    let mut rng = Rng(8);
    let mut list: Vec<f32> = (0..2000).map(|_| f32::from_bits(rng.integer(32) as u32)).collect();
    // Each number, the ties between neighbours, and what lies beside them.
    for (at, &low) in all.iter().enumerate() {
        let high = all.get(at + 1).copied().unwrap_or(low * 1.125);
        let tie = ((low + high) / 2.0) as f32;
        list.extend([low as f32, tie, tie.next_up(), tie.next_down(), -tie, -low as f32]);
    }
    list.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1e-45, -0.0]);
    list
}

#[test]
fn to_eight_bits() {
    for (name, fraction, bias, most) in FORMATS {
        let all = numbers(fraction, bias, most);
        let list = inputs(&all);
        let pairs = list.iter().zip(list.iter().rev()).map(|(a, b)| (a.to_bits(), b.to_bits()));
        let byte = |bits: u32| u16::from(nearest(&all, f32::from_bits(bits).into()));
        op(&format!("cvt.rn.satfinite.{name}x2.f32 %h0, %r1, %r2;"))
            .check(pairs.clone(), |(a, b)| byte(a) << 8 | byte(b));
        let relu = |bits: u16| if bits & 0x80 != 0 { 0 } else { bits };
        op(&format!("cvt.rn.satfinite.relu.{name}x2.f32 %h0, %r1, %r2;"))
            .check(pairs, |(a, b)| relu(byte(a)) << 8 | relu(byte(b)));
        let half = |bits: u32| u16::from(nearest(&all, f16::from_bits(bits as u16).to_f64()));
        let words = (0..=u16::MAX).map(|low| (u32::from(low.wrapping_mul(7)) << 16 | u32::from(low),));
        op(&format!("cvt.rn.satfinite.{name}x2.f16x2 %h0, %r1;"))
            .check(words, |(a,)| half(a >> 16) << 8 | half(a & 0xffff));
    }
}

#[test]
fn from_eight_bits() {
    for (name, fraction, bias, most) in FORMATS {
        let all = numbers(fraction, bias, most);
        let half = |bits: u16| -> u32 {
            let sign = u32::from(bits & 0x80) << 8;
            match all.get(usize::from(bits & 0x7f)) {
                Some(&value) => sign | u32::from(f16::from_f64(value).to_bits()),
                None if name == "e5m2" && bits & 0x7f == 0x7c => sign | 0x7c00,
                None => 0x7fff,
            }
        };
        let words = (0..=u16::MAX).map(|a| (a,));
        op(&format!("cvt.rn.f16x2.{name}x2 %r0, %h1;"))
            .check(words.clone(), |(a,)| half(a >> 8) << 16 | half(a & 0xff));
        let relu = |bits: u32| if bits & 0x8000 != 0 { 0 } else { bits };
        op(&format!("cvt.rn.relu.f16x2.{name}x2 %r0, %h1;"))
            .check(words, |(a,)| relu(half(a >> 8)) << 16 | relu(half(a & 0xff)));
    }
}

#[test]
fn what_there_is_not() {
    for text in [
        "cvt.rn.e4m3x2.f32 %h0, %r1, %r2;",
        "cvt.satfinite.e4m3x2.f32 %h0, %r1, %r2;",
        "cvt.rn.satfinite.f16x2.e4m3x2 %r0, %h1;",
        "cvt.rn.f32.e5m2x2 %r0, %h1;",
        "cvt.rn.satfinite.e5m2x2.f64 %h0, %d1, %d2;",
        "cvt.rz.satfinite.e5m2x2.f32 %h0, %r1, %r2;",
    ] {
        assert!(decoded(text).is_err(), "{text}");
    }
}
