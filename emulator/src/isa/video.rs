//! SIMD video instructions, the ones without byte selectors: `__vabsdiffu4` and the like still become them.

use super::Execute;
use super::cx::{Cx, Result, Ty};

type Rule = fn(i32, i32) -> i32;

/// Lane `at` of so many bits.
fn part(x: u32, at: u32, bits: u32, signed: bool) -> i32 {
    let up = x << (32 - bits * (at + 1));
    if signed { up as i32 >> (32 - bits) } else { (up >> (32 - bits)) as i32 }
}

/// What becomes of the lanes' results.
#[derive(Clone, Copy)]
enum Then {
    /// Their low bits stand side by side.
    Wrap,
    /// They are clamped to what a lane holds, signed or not.
    Saturate(bool),
    /// They are added to the third operand.
    Add,
}

fn lanes(cx: &mut Cx, bits: u32, signs: (bool, bool), then: Then, rule: Rule) -> Result<Execute> {
    cx.finish()?;
    cx.ternary(move |a: u32, b: u32, c: u32| {
        let results =
            (0..32 / bits).map(|at| (at, rule(part(a, at, bits, signs.0), part(b, at, bits, signs.1))));
        match then {
            Then::Add => results.fold(c, |sum, (_, value)| sum.wrapping_add(value as u32)),
            _ => results.fold(0, |all, (at, value)| {
                let value = match then {
                    Then::Saturate(true) => value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
                    Then::Saturate(false) => value.clamp(0, (1 << bits) - 1),
                    _ => value,
                };
                all | (value as u32 & ((1 << bits) - 1)) << (bits * at)
            }),
        }
    })
}

/// `vadd4.d.a.b{.sat|.add} d, a, b, c` and the like.
fn arithmetic(cx: &mut Cx, bits: u32, rule: Rule) -> Result<Execute> {
    const WORDS: [Ty; 2] = [Ty::U32, Ty::S32];
    let (d, a, b) = (cx.only(&WORDS)?, cx.only(&WORDS)?, cx.only(&WORDS)?);
    let then = match (cx.flag("sat"), cx.flag("add")) {
        (true, true) => return Err(cx.error(".sat and .add exclude each other")),
        (true, _) => Then::Saturate(d.is_signed()),
        (_, true) => Then::Add,
        _ => Then::Wrap,
    };
    lanes(cx, bits, (a.is_signed(), b.is_signed()), then, rule)
}

fn compare(cx: &mut Cx, bits: u32) -> Result<Execute> {
    const WORDS: [Ty; 2] = [Ty::U32, Ty::S32];
    let (a, b) = (cx.only(&WORDS)?, cx.only(&WORDS)?);
    let rules: [(&str, Rule); 6] = [
        ("eq", |a, b| (a == b).into()),
        ("ne", |a, b| (a != b).into()),
        ("lt", |a, b| (a < b).into()),
        ("le", |a, b| (a <= b).into()),
        ("gt", |a, b| (a > b).into()),
        ("ge", |a, b| (a >= b).into()),
    ];
    let rule = cx.need(&rules)?;
    let then = if cx.flag("add") { Then::Add } else { Then::Wrap };
    lanes(cx, bits, (a.is_signed(), b.is_signed()), then, rule)
}

macro_rules! instructions {
    ($($two:ident $four:ident $rule:expr;)*) => {$(
        pub(super) fn $two(cx: &mut Cx) -> Result<Execute> {
            arithmetic(cx, 16, $rule)
        }
        pub(super) fn $four(cx: &mut Cx) -> Result<Execute> {
            arithmetic(cx, 8, $rule)
        }
    )*};
}

instructions! {
    vadd2 vadd4 |a, b| a + b;
    vsub2 vsub4 |a, b| a - b;
    vavrg2 vavrg4 |a, b| if a + b >= 0 { (a + b + 1) >> 1 } else { (a + b) >> 1 };
    vabsdiff2 vabsdiff4 |a, b| (a - b).abs();
    vmin2 vmin4 |a, b| a.min(b);
    vmax2 vmax4 |a, b| a.max(b);
}

pub(super) fn vset2(cx: &mut Cx) -> Result<Execute> {
    compare(cx, 16)
}

pub(super) fn vset4(cx: &mut Cx) -> Result<Execute> {
    compare(cx, 8)
}
