//! `mov`, and registers as `Registers` lays them out.

use crate::harness::{P, Rng, decoded, op};
use orthant_gpu::isa::{Class, Decoded, Registers};

#[test]
fn copies() {
    let mut rng = Rng(61);
    let values: Vec<u64> = (0..64).map(|_| rng.next()).collect();
    for ty in ["b16", "u16", "s16"] {
        op(&format!("mov.{ty} %h0, %h1;")).check(values.iter().map(|&x| (x as u16,)), |(a,)| a);
    }
    for ty in ["b32", "u32", "s32", "f32"] {
        let op = op(&format!("mov.{ty} %r0, %r1;"));
        assert_eq!(op.class, Class::Move);
        // Not even a signalling NaN changes.
        op.check(values.iter().map(|&x| (x as u32,)).chain([(0x7f80_0001,)]), |(a,)| a);
    }
    for ty in ["b64", "u64", "s64", "f64"] {
        op(&format!("mov.{ty} %d0, %d1;"))
            .check(values.iter().map(|&x| (x,)).chain([(0x7ff0_0000_0000_0001,)]), |(a,)| a);
    }
    op("mov.b128 %q0, %q1;").check(values.iter().map(|&x| (u128::from(x) * u128::from(!x),)), |(a,)| a);
    op("mov.pred %p0, %p1;").check([(P(true),), (P(false),)], |(a,)| a);
    op("mov.pred %p0, !%p1;").check([(P(true),), (P(false),)], |(a,)| P(!a.0));
    op("mov.pred %p0, 1;").check([(P(false),)], |_| P(true));
}

#[test]
fn constants() {
    let any = [(0_u32,)];
    op("mov.u32 %r0, -1;").check(any, |_| u32::MAX);
    op("mov.b32 %r0, 4294967295;").check(any, |_| u32::MAX);
    op("mov.f32 %r0, 0f40490FDB;").check(any, |_| 0x4049_0fdb_u32);
    op("mov.b32 %r0, 0f40490FDB;").check(any, |_| 0x4049_0fdb_u32);
    op("mov.f32 %r0, 0.1;").check(any, |_| 0.1_f32.to_bits());
    op("mov.f64 %d0, 0d400921FB54442D18;").check(any, |_| std::f64::consts::PI.to_bits());
    op("mov.u64 %d0, -2;").check(any, |_| u64::MAX - 1);
    op("mov.b16 %h0, 0x3C00;").check(any, |_| 0x3c00_u16);
    op("mov.s16 %h0, -3;").check(any, |_| 0xfffd_u16);
}

#[test]
fn packing() {
    op("mov.b32 %r0, {%h1, %h2};")
        .check([(0x1234_u16, 0xabcd_u16)], |(a, b)| u32::from(b) << 16 | u32::from(a));
    op("mov.b32 %r0, {%h1, 7};").check([(0x1234_u16,)], |(a,)| 7 << 16 | u32::from(a));
    op("mov.b64 %d0, {%r1, %r2};")
        .check([(0x1234_5678_u32, 0x9abc_def0_u32)], |(a, b)| u64::from(b) << 32 | u64::from(a));
    op("mov.b64 %d0, {%h1, %h2, %h3, %h4};").check([(1_u16, 2_u16, 3_u16, 0x8004_u16)], |(a, b, c, d)| {
        [d, c, b, a].into_iter().fold(0_u64, |whole, part| whole << 16 | u64::from(part))
    });
    op("mov.b128 %q0, {%d1, %d2};").check([(u64::MAX, 5_u64)], |(a, b)| u128::from(b) << 64 | u128::from(a));
    op("mov.b128 %q0, {%r1, %r2, %r3, %r4};").check([(1_u32, 2_u32, 3_u32, 4_u32)], |(a, b, c, d)| {
        [d, c, b, a].into_iter().fold(0_u128, |whole, part| whole << 32 | u128::from(part))
    });
    // Elements of eight bits live in 16-bit registers; what is above them does not count.
    let regs = run("mov.b32 %r0, {%b1, %b2, %b3, %b4};", |regs| {
        (9..13).for_each(|i| regs.b16[i] = [0xf00 + i as u16; 32]);
    });
    assert_eq!(regs.b32[0][3], 0x0c0b_0a09);
    let regs = run("mov.b16 %h0, {%b1, %b2};", |regs| (regs.b16[9], regs.b16[10]) = ([0x11; 32], [0x22; 32]));
    assert_eq!(regs.b16[0][3], 0x2211);
}

fn run(text: &str, fill: impl Fn(&mut Registers)) -> Registers {
    let op = op(text);
    let mut regs = op.registers();
    fill(&mut regs);
    op.execute(&mut regs, 0x0000_ffff);
    regs
}

#[test]
fn unpacking() {
    let regs = run("mov.b32 {%h0, %h3}, %r1;", |regs| regs.b32[1] = [0xabcd_1234; 32]);
    assert_eq!((regs.b16[0][15], regs.b16[3][15], regs.b16[3][16]), (0x1234, 0xabcd, 0));
    let regs = run("mov.b64 {%r0, %r3}, %d1;", |regs| regs.b64[1] = [0x1111_2222_3333_4444; 32]);
    assert_eq!((regs.b32[0][0], regs.b32[3][0], regs.b32[0][31]), (0x3333_4444, 0x1111_2222, 0));
    let regs = run("mov.b64 {_, %r3}, %d1;", |regs| regs.b64[1] = [0x1111_2222_3333_4444; 32]);
    assert_eq!((regs.b32[0][0], regs.b32[3][0]), (0, 0x1111_2222));
    let regs = run("mov.b64 {%h0, %h1, %h2, %h3}, %d1;", |regs| regs.b64[1] = [0x1111_2222_3333_4444; 32]);
    assert_eq!([0, 1, 2, 3].map(|i| regs.b16[i][0]), [0x4444, 0x3333, 0x2222, 0x1111]);
    let regs = run("mov.b128 {%d0, %d2}, %q1;", |regs| regs.b128[1] = [u128::MAX << 65; 32]);
    assert_eq!((regs.b64[0][0], regs.b64[2][0]), (0, u64::MAX - 1));
    let regs = run("mov.b32 {%b0, %b1, %b2, %b3}, %r1;", |regs| regs.b32[1] = [0x4433_2211; 32]);
    assert_eq!([8, 9, 10, 11].map(|i| regs.b16[i][0]), [0x11, 0x22, 0x33, 0x44]);
}

/// Values that only the executor knows.
#[test]
fn others() {
    for text in [
        "mov.u32 %r0, %tid.x;",
        "mov.u64 %d0, k;",
        "bar.sync 0;",
        "ld.global.u32 %r0, [%d1];",
        "cvt.u64.u32 %d0, %laneid;",
    ] {
        assert!(matches!(decoded(text), Ok((Decoded::NotMine, _))), "{text}");
    }
}

#[test]
fn layout() {
    let regs = Registers::new([3, 4, 5, 6, 7]);
    let sizes = (regs.pred.len(), regs.b16.len(), regs.b32.len(), regs.b64.len(), regs.b128.len());
    assert_eq!((sizes, regs.carry), ((3, 4, 5, 6, 7), 0));
}
