//! Counting, finding, extracting and permuting bits.

use super::Execute;
use super::cx::{Cx, Result, Ty};

/// The type at the end, 32 or 64 bits wide.
fn last(cx: &mut Cx, allowed: &[Ty]) -> Result<Ty> {
    let ty = cx.only(allowed)?;
    cx.finish()?;
    Ok(ty)
}

const B: [Ty; 2] = [Ty::B32, Ty::B64];
const SIGNS: [Ty; 4] = [Ty::U32, Ty::U64, Ty::S32, Ty::S64];

pub(super) fn popc(cx: &mut Cx) -> Result<Execute> {
    match last(cx, &B)? {
        Ty::B32 => cx.unary(u32::count_ones),
        _ => cx.unary(|a: u64| a.count_ones()),
    }
}

pub(super) fn clz(cx: &mut Cx) -> Result<Execute> {
    match last(cx, &B)? {
        Ty::B32 => cx.unary(u32::leading_zeros),
        _ => cx.unary(|a: u64| a.leading_zeros()),
    }
}

pub(super) fn brev(cx: &mut Cx) -> Result<Execute> {
    match last(cx, &B)? {
        Ty::B32 => cx.unary(u32::reverse_bits),
        _ => cx.unary(u64::reverse_bits),
    }
}

/// The place of the highest bit that is not a copy of the sign, or the left shift that brings it to the top.
fn find(zeros: u32, bits: u32, shift: bool) -> u32 {
    match zeros == bits {
        true => u32::MAX,
        false if shift => zeros,
        false => bits - 1 - zeros,
    }
}

pub(super) fn bfind(cx: &mut Cx) -> Result<Execute> {
    let shift = cx.flag("shiftamt");
    match last(cx, &SIGNS)? {
        Ty::U32 => cx.unary(move |a: u32| find(a.leading_zeros(), 32, shift)),
        Ty::S32 => cx.unary(move |a: i32| find((a ^ (a >> 31)).leading_zeros(), 32, shift)),
        Ty::U64 => cx.unary(move |a: u64| find(a.leading_zeros(), 64, shift)),
        _ => cx.unary(move |a: i64| find((a ^ (a >> 63)).leading_zeros(), 64, shift)),
    }
}

/// The place of the n-th set bit, counted from `base` upwards or downwards.
pub(super) fn fns(cx: &mut Cx) -> Result<Execute> {
    last(cx, &[Ty::B32])?;
    cx.ternary(|mask: u32, base: u32, offset: i32| {
        if base > 31 {
            return u32::MAX;
        }
        if offset == 0 {
            return if mask >> base & 1 != 0 { base } else { u32::MAX };
        }
        let step = offset.signum();
        let mut place = base as i32;
        let mut left = offset.unsigned_abs();
        while (0..32).contains(&place) {
            left -= mask >> place & 1;
            if left == 0 {
                return place as u32;
            }
            place += step;
        }
        u32::MAX
    })
}

/// `len` bits from place `pos` on, sign-extended if so asked. Both are taken modulo 256.
fn extract(a: u64, pos: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let top = (pos + len).clamp(1, bits) - 1;
    let fill = signed && len != 0 && a >> top & 1 != 0;
    let field = if pos < bits { a >> pos } else { 0 };
    // What is above the field, or above the source, is filled.
    let kept = len.min(bits.saturating_sub(pos));
    let mask = low_bits(kept);
    if fill { field & mask | !mask } else { field & mask }
}

/// A mask of the lowest `count` bits.
fn low_bits(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

pub(super) fn bfe(cx: &mut Cx) -> Result<Execute> {
    let ty = last(cx, &SIGNS)?;
    let signed = ty.is_signed();
    match ty.bits() {
        32 => cx.ternary(move |a: u32, pos: u32, len: u32| extract(a.into(), pos, len, 32, signed) as u32),
        _ => cx.ternary(move |a: u64, pos: u32, len: u32| extract(a, pos, len, 64, signed)),
    }
}

/// `b` with `len` bits of `a` inserted at place `pos`.
fn insert(a: u64, b: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= 64 {
        return b;
    }
    let mask = low_bits(len) << pos;
    b & !mask | a << pos & mask
}

pub(super) fn bfi(cx: &mut Cx) -> Result<Execute> {
    match last(cx, &B)? {
        Ty::B32 => cx.quaternary(|a: u32, b: u32, pos, len| insert(a.into(), b.into(), pos, len) as u32),
        _ => cx.quaternary(insert),
    }
}

/// Whether counts above 31 count as 32 or are taken modulo 32.
const CLAMP: [(&str, bool); 2] = [("clamp", true), ("wrap", false)];

fn count(n: u32, clamp: bool) -> u32 {
    if clamp { n.min(32) } else { n & 31 }
}

/// The lowest `n` bits, sign- or zero-extended.
pub(super) fn szext(cx: &mut Cx) -> Result<Execute> {
    let clamp = cx.need(&CLAMP)?;
    let signed = last(cx, &[Ty::U32, Ty::S32])?.is_signed();
    cx.binary(move |a: u32, n: u32| match (count(n, clamp), signed) {
        (0, _) => 0,
        (n, true) => ((a << (32 - n)) as i32 >> (32 - n)) as u32,
        (n, false) => a << (32 - n) >> (32 - n),
    })
}

/// `b` ones from place `a` on.
pub(super) fn bmsk(cx: &mut Cx) -> Result<Execute> {
    let clamp = cx.need(&CLAMP)?;
    last(cx, &[Ty::B32])?;
    cx.binary(move |a: u32, b: u32| (low_bits(count(b, clamp)) << count(a, clamp)) as u32)
}

/// How `prmt` picks bytes.
#[derive(Clone, Copy)]
enum Permute {
    Selector,
    Fixed(&'static [u32; 4]),
}

/// `prmt`: bytes 0 to 3 are those of `a`, 4 to 7 those of `b`. A nibble of the selector takes a byte, or eight copies
/// of its sign. The named modes are selectors too, one for each value of the lowest two bits.
pub(super) fn prmt(cx: &mut Cx) -> Result<Execute> {
    cx.only(&[Ty::B32])?;
    let mode = cx.pick(&[
        ("f4e", Permute::Fixed(&[0x3210, 0x4321, 0x5432, 0x6543])),
        ("b4e", Permute::Fixed(&[0x5670, 0x6701, 0x7012, 0x0123])),
        ("rc8", Permute::Fixed(&[0x0000, 0x1111, 0x2222, 0x3333])),
        ("ecl", Permute::Fixed(&[0x3210, 0x3211, 0x3222, 0x3333])),
        ("ecr", Permute::Fixed(&[0x0000, 0x1110, 0x2210, 0x3210])),
        ("rc16", Permute::Fixed(&[0x1010, 0x3232, 0x1010, 0x3232])),
    ]);
    cx.finish()?;
    match mode.unwrap_or(Permute::Selector) {
        Permute::Selector => cx.ternary(permute),
        Permute::Fixed(table) => {
            cx.ternary(move |a: u32, b: u32, c: u32| permute(a, b, table[(c & 3) as usize]))
        }
    }
}

fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut result = 0;
    for at in 0..4 {
        let nibble = selector >> (4 * at) & 15;
        let byte = (bytes >> (8 * (nibble & 7))) as u8;
        let byte = if nibble & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 };
        result |= u32::from(byte) << (8 * at);
    }
    result
}
