//! Compact masters: splitting and joining lose nothing.

use half::bf16;
use orthant::reference::compact::{join, split};

/// Everything that splitting says of one number.
fn check(bits: u32) {
    let master = f32::from_bits(bits);
    let (high, low) = split(master);
    if master.is_nan() {
        assert_eq!((high.to_bits(), low), ((bits >> 16) as u16 & 0x8000 | 0x7fc0, 0), "{bits:#x}");
        assert!(join(high, low).is_nan() && high.is_nan(), "{bits:#x}");
        return;
    }
    assert_eq!(join(high, low).to_bits(), bits, "{bits:#x} is {high:?} and {low}");
    assert_eq!((u32::from(high.to_bits()) << 16).wrapping_add(i32::from(low) as u32), bits);
    // To nearest; of two equally near the one further from zero, where IEEE takes the even one.
    let expected = match bits & 0xffff {
        0x8000 => bf16::from_bits((bits >> 16) as u16 + 1),
        _ => bf16::from_f32(master),
    };
    assert_eq!(high.to_bits(), expected.to_bits(), "{bits:#x}");
}

#[test]
fn split_and_join_are_inverse_for_every_f32() {
    // A stride that is coprime to every power of two meets every low word and every high one.
    for bits in (0..=u32::MAX).step_by(211) {
        check(bits);
    }
    let edges = [
        0.0,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        f32::from_bits(0x7fff),
        f32::from_bits(0x8000),
        f32::from_bits(0x8001),
        f32::from_bits(0x007f_ffff),
        1.0,
        f32::from_bits(0x3f80_8000),
        f32::from_bits(0x3f81_8000),
        f32::MAX,
        f32::from_bits(0x7f7f_7fff),
        f32::from_bits(0x7f7f_8000),
        f32::INFINITY,
        f32::NAN,
        f32::from_bits(0x7f80_0001),
        f32::from_bits(0x7fff_8000),
        f32::from_bits(0x7fff_ffff),
    ];
    for edge in edges {
        check(edge.to_bits());
        check(edge.to_bits() | 0x8000_0000);
    }
}

/// No pair of a parameter and a low word is illegal, so that a parameter may be assigned between steps.
#[test]
fn join_and_split_are_inverse_for_every_pair() {
    for high in 0..=u16::MAX {
        for low in (i16::MIN..=i16::MAX).step_by(251).chain([-1, 0, 1, i16::MAX]) {
            let master = join(bf16::from_bits(high), low);
            if !master.is_nan() {
                let (h, l) = split(master);
                assert_eq!((h.to_bits(), l), (high, low), "{high:#x} {low}");
            }
        }
        assert_eq!(join(bf16::from_bits(high), 0).to_bits(), u32::from(high) << 16);
    }
}
