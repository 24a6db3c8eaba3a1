//! `cvt` to packed types.

use super::Execute;
use super::convert::{Mode, is_nearest, narrow};
use super::cx::{Cx, Result, Ty};
use super::half::{Half, join};
use super::soft::{Bf16, F16, Rounding};

/// `cvt.rn.bf16x2.f32 d, a, b`: `a` becomes the high half, `b` the low one.
pub(super) fn cvt_pair(cx: &Cx, to: Ty, mode: Mode) -> Result<Execute> {
    fn of<H: Half>(cx: &Cx, mode: Mode) -> Result<Execute> {
        match is_nearest(mode) {
            true => cx.binary(|a: f32, b: f32| join(H::nearest(b), H::nearest(a))),
            false => cx.binary(move |a: f32, b: f32| join(narrow::<H>(b, mode), narrow::<H>(a, mode))),
        }
    }
    if !matches!(mode.rounding, Some(Rounding::Nearest | Rounding::Zero)) || mode.integral.is_some() {
        return Err(cx.error("a conversion to a pair needs .rn or .rz"));
    }
    if mode.ftz || mode.sat {
        return Err(cx.error("a conversion to a pair has neither .ftz nor .sat"));
    }
    match to {
        Ty::F16x2 => of::<F16>(cx, mode),
        _ => of::<Bf16>(cx, mode),
    }
}

/// `cvt.pack.sat.u8.s32.b32 d, a, b, c`: `b` and `a`, saturated, below what fits of `c`.
pub(super) fn cvt_pack(cx: &mut Cx) -> Result<Execute> {
    cx.need(&[("sat", ())])?;
    let narrowest = [
        ("u2", (2, false)),
        ("s2", (2, true)),
        ("u4", (4, false)),
        ("s4", (4, true)),
        ("u8", (8, false)),
        ("s8", (8, true)),
        ("u16", (16, false)),
        ("s16", (16, true)),
    ];
    let (bits, signed): (u32, bool) = cx.need(&narrowest)?;
    cx.only(&[Ty::S32])?;
    let (least, most) = match signed {
        true => (-(1_i32 << (bits - 1)), (1_i32 << (bits - 1)) - 1),
        false => (0, (1_i32 << bits) - 1),
    };
    let mask = (1_u32 << bits) - 1;
    let pair = move |a: i32, b: i32| {
        let part = |x: i32| x.clamp(least, most) as u32 & mask;
        part(a) << bits | part(b)
    };
    if bits == 16 {
        cx.finish()?;
        return cx.binary(pair);
    }
    cx.only(&[Ty::B32])?;
    cx.finish()?;
    cx.ternary(move |a: i32, b: i32, c: u32| c << (2 * bits) | pair(a, b))
}
