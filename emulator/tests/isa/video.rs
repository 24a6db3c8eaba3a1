//! SIMD video instructions: against loops over lanes as the ISA's pseudocode has them.

use crate::harness::{Rng, op};

fn words(n: usize) -> Vec<(u32, u32, u32)> {
    let mut rng = Rng(77);
    (0..n).map(|_| [(); 3].map(|()| rng.integer(32) as u32).into()).collect()
}

fn lane(x: u32, at: u32, bits: u32, signed: bool) -> i64 {
    let raw = i64::from(x >> (at * bits)) & ((1 << bits) - 1);
    if signed && raw >> (bits - 1) & 1 != 0 { raw - (1 << bits) } else { raw }
}

#[test]
fn lanes_side_by_side() {
    type Rule = fn(i64, i64) -> i64;
    let rules: [(&str, Rule); 6] = [
        ("vadd", |a, b| a + b),
        ("vsub", |a, b| a - b),
        ("vavrg", |a, b| if a + b >= 0 { (a + b + 1).div_euclid(2) } else { (a + b).div_euclid(2) }),
        ("vabsdiff", |a, b| if a > b { a - b } else { b - a }),
        ("vmin", i64::min),
        ("vmax", i64::max),
    ];
    for (name, rule) in rules {
        for (count, bits) in [(2, 16), (4, 8)] {
            for signs in 0..8 {
                let [d, a, b] = [1, 2, 4].map(|bit| signs & bit != 0);
                let [td, ta, tb] = [d, a, b].map(|signed| if signed { "s32" } else { "u32" });
                let results = move |x: u32, y: u32| {
                    (0..count).map(move |at| rule(lane(x, at, bits, a), lane(y, at, bits, b)))
                };
                let joined = move |values: &mut dyn Iterator<Item = i64>| {
                    values
                        .enumerate()
                        .fold(0u32, |all, (at, v)| all | (v as u32 & ((1 << bits) - 1)) << (at as u32 * bits))
                };
                let text = format!("{name}{count}.{td}.{ta}.{tb}");
                let plain = move |(x, y, _): (u32, u32, u32)| joined(&mut results(x, y));
                op(&format!("{text} %r0, %r1, %r2, %r3;")).check(words(500), plain);
                op(&format!("{text}.add %r0, %r1, %r2, %r3;"))
                    .check(words(500), |(x, y, z)| results(x, y).fold(z, |s, v| s.wrapping_add(v as u32)));
                let (low, high) = if d { (-(1 << (bits - 1)), 1 << (bits - 1)) } else { (0, 1 << bits) };
                op(&format!("{text}.sat %r0, %r1, %r2, %r3;")).check(words(500), |(x, y, _)| {
                    joined(&mut results(x, y).map(|v| v.max(low).min(high - 1)))
                });
            }
        }
    }
}

#[test]
fn comparisons() {
    op("vset4.s32.u32.lt %r0, %r1, %r2, %r3;")
        .check([(0x8000_7f05u32, 0x8000_7f06u32, 9u32)], |_| 0x0100_0001u32);
    op("vset2.u32.u32.ge.add %r0, %r1, %r2, %r3;").check([(0x8000_0000u32, 0x7fff_0001u32, 9u32)], |_| 10u32);
}

/// NVRTC writes `.relu` behind the type here.
#[test]
fn relu_behind_the_type() {
    op("min.s16x2.relu %r0, %r1, %r2;").check([(0xffff_0005u32, 0x0007_0009u32)], |_| 5u32);
}
