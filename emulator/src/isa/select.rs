//! `selp` and `slct`.

use super::cx::{Cx, Result, Ty};
use super::float::flush;
use super::lanes::{Lanes, Value, bit, put};
use super::{Execute, LANES};

/// `d = c ? a : b`.
pub(super) fn selp(cx: &mut Cx) -> Result<Execute> {
    fn of<T: Value>(cx: &Cx) -> Result<Execute> {
        cx.count(4)?;
        let (d, a, b) = (cx.target::<T>(0)?, cx.source::<T>(1)?, cx.source::<T>(2)?);
        let c = cx.predicate(3)?;
        Ok(Box::new(move |regs, mask| {
            let mut out: Lanes<T::Word> = Default::default();
            let (a, b, c) = (a.lanes(regs), b.lanes(regs), c.lanes(regs));
            for lane in 0..LANES {
                out[lane] = if bit(c, lane) { a[lane] } else { b[lane] };
            }
            put(regs, d, &out, mask);
        }))
    }
    let ty = cx.ty()?;
    cx.finish()?;
    match ty {
        Ty::B16 | Ty::U16 | Ty::S16 => of::<u16>(cx),
        Ty::B32 | Ty::U32 | Ty::S32 => of::<u32>(cx),
        Ty::B64 | Ty::U64 | Ty::S64 => of::<u64>(cx),
        Ty::F32 => of::<f32>(cx),
        Ty::F64 => of::<f64>(cx),
        ty => Err(cx.unsupported(ty)),
    }
}

/// `d = c >= 0 ? a : b`; a NaN is not, -0.0 is.
pub(super) fn slct(cx: &mut Cx) -> Result<Execute> {
    fn of<T: Value>(cx: &Cx, by: Ty, ftz: bool) -> Result<Execute> {
        match (by, ftz) {
            (Ty::S32, false) => cx.ternary(|a: T, b: T, c: i32| if c >= 0 { a } else { b }),
            (Ty::F32, false) => cx.ternary(|a: T, b: T, c: f32| if c >= 0.0 { a } else { b }),
            (Ty::F32, true) => cx.ternary(|a: T, b: T, c: f32| if flush(c) >= 0.0 { a } else { b }),
            _ => Err(cx.error("the type of the last operand must be .s32 or .f32, and .ftz needs .f32")),
        }
    }
    let ftz = cx.flag("ftz");
    let (ty, by) = (cx.ty()?, cx.ty()?);
    cx.finish()?;
    match ty {
        Ty::B16 | Ty::U16 | Ty::S16 => of::<u16>(cx, by, ftz),
        Ty::B32 | Ty::U32 | Ty::S32 => of::<u32>(cx, by, ftz),
        Ty::B64 | Ty::U64 | Ty::S64 => of::<u64>(cx, by, ftz),
        Ty::F32 => of::<f32>(cx, by, ftz),
        Ty::F64 => of::<f64>(cx, by, ftz),
        ty => Err(cx.unsupported(ty)),
    }
}
