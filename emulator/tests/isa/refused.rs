//! What is not an instruction is refused, with its name, its place and the reason.

use crate::harness::decoded;
use orthant_gpu::isa::{Decoded, decode, opcodes};

#[test]
fn refusals() {
    let texts = [
        "add %r0, %r1, %r2;",
        "add.b32 %r0, %r1, %r2;",
        "add.f32x2 %d0, %d1, %d2;",
        "add.s32 %r0, %r1;",
        "add.s32 %r0, %r1, %r2, %r3;",
        "add.s32 %r0, %r1, %d2;",
        "add.s32 %d0, %r1, %r2;",
        "add.s32 5, %r1, %r2;",
        "add.s32 %r0, %r1, 4294967296;",
        "add.s16 %h0, %h1, 65536;",
        "add.sat.u32 %r0, %r1, %r2;",
        "add.rn.s32 %r0, %r1, %r2;",
        "add.rn.rz.f32 %r0, %r1, %r2;",
        "add.ftz.f64 %d0, %d1, %d2;",
        "add.sat.f64 %d0, %d1, %d2;",
        "add.f32 %r0, %r1, 1;",
        "add.rz.f16 %h0, %h1, %h2;",
        "add.sat.bf16 %h0, %h1, %h2;",
        "add.volatile.s32 %r0, %r1, %r2;",
        "add.sat.sat.s32 %r0, %r1, %r2;",
        "mul.s32 %r0, %r1, %r2;",
        "mul.wide.u64 %d0, %d1, %d2;",
        "mad.lo.sat.s32 %r0, %r1, %r2, %r3;",
        "mad24.lo.sat.s32 %r0, %r1, %r2, %r3;",
        "fma.f32 %r0, %r1, %r2, %r3;",
        "fma.rn.oob.f16 %h0, %h1, %h2, %h3;",
        "fma.rn.sat.relu.f16 %h0, %h1, %h2, %h3;",
        "div.f32 %r0, %r1, %r2;",
        "div.approx.f64 %d0, %d1, %d2;",
        "sqrt.approx.f64 %d0, %d1;",
        "rcp.approx.f64 %d0, %d1;",
        "ex2.f32 %r0, %r1;",
        "ex2.approx.ftz.f16 %h0, %h1;",
        "ex2.approx.bf16 %h0, %h1;",
        "tanh.approx.ftz.f32 %r0, %r1;",
        "min.relu.u32 %r0, %r1, %r2;",
        "min.abs.f32 %r0, %r1, %r2;",
        "min.NaN.f64 %d0, %d1, %d2;",
        "setp.lo.s32 %p0, %r1, %r2;",
        "setp.lt.b32 %p0, %r1, %r2;",
        "setp.ltu.s32 %p0, %r1, %r2;",
        "setp.lt.ftz.s32 %p0, %r1, %r2;",
        "setp.lt.f16x2 %p0, %r1, %r2;",
        "setp.lt.f16 %p0|%p1, %h1, %h2;",
        "setp.lt.and.s32 %p0, %r1, %r2;",
        "setp.s32 %p0, %r1, %r2;",
        "set.lt.u64.s32 %d0, %r1, %r2;",
        "selp.b32 %r0, %r1, %r2, %r3;",
        "slct.ftz.s32.s32 %r0, %r1, %r2, %r3;",
        "lop3.b32 %r0, %r1, %r2, %r3, 256;",
        "lop3.b32 %r0, %r1, %r2, %r3, %r4;",
        "prmt.b32.f5e %r0, %r1, %r2, %r3;",
        "shf.l.b32 %r0, %r1, %r2, %r3;",
        "popc.u32 %r0, %r1;",
        "mov.b32 %r0, {%h1, %h2, %h3};",
        "mov.b32 %r0, {%h1, %h2, %h3, %h4};",
        "mov.b32 %r0, {%b1, %b2};",
        "mov.u32 %r0, {%h1, %h2};",
        "mov.b64 {%r0, %r1, %r2, %r3}, %d1;",
        "cvt.f32.s32 %r0, %r1;",
        "cvt.s32.f32 %r0, %r1;",
        "cvt.rn.s32.f32 %r0, %r1;",
        "cvt.rni.f32.s32 %r0, %r1;",
        "cvt.f32.f64 %r0, %d1;",
        "cvt.rn.f64.f32 %d0, %r1;",
        "cvt.rn.s32.s64 %r0, %d1;",
        "cvt.u32.u16 %h0, %h1;",
        "cvt.rn.relu.f32.f64 %r0, %d1;",
        "cvt.rna.f16.f32 %h0, %r1;",
        "cvt.rna.relu.tf32.f32 %r0, %r1;",
        "cvt.rm.bf16x2.f32 %r0, %r1, %r2;",
        "cvt.rs.f16x2.f32 %r0, %r1, %r2, %r3;",
        "cvt.rn.satfinite.e2m1x2.f32 %h0, %r1, %r2;",
        "cvt.rn.f16x2.e2m1x2 %r0, %h1;",
        "cvt.sat.s32.u16 %r0, %h1;",
        "cvt.rn.sat.bf16.f32 %h0, %r1;",
        "cvt.rn.bf16.u8 %h0, %h1;",
        "cvt.rzi.s8.bf16 %h0, %h1;",
        "cvt.ftz.s32.s32 %r0, %r1;",
        "cvt.pack.u8.s32.b32 %r0, %r1, %r2, %r3;",
        "cvt.pack.sat.u16.s32.b32 %r0, %r1, %r2, %r3;",
        "copysign.ftz.f32 %r0, %r1, %r2;",
        "testp.zero.f32 %p0, %r1;",
        "sad.f32 %r0, %r1, %r2, %r3;",
        "brev.b16 %h0, %h1;",
        "dp4a.s32 %r0, %r1, %r2, %r3;",
        "dp2a.s32.s32 %r0, %r1, %r2, %r3;",
        "madc.s32 %r0, %r1, %r2, %r3;",
        "addc.s16 %h0, %h1, %h2;",
        "bfe.b32 %r0, %r1, %r2, %r3;",
        "fns.b64 %d0, %d1, %r2, %r3;",
    ];
    for text in texts {
        match decoded(text) {
            Ok(_) => panic!("{text} is accepted"),
            Err(e) => {
                let opcode = text.split(' ').next().expect("an opcode");
                assert_eq!((e.opcode.as_str(), e.pos.line), (opcode, 11), "{text}");
                assert!(
                    e.to_string().starts_with(&format!("11:1: {opcode}: ")) && !e.message.is_empty(),
                    "{e}"
                );
            }
        }
    }
}

#[test]
fn messages() {
    let message = |text| decoded(text).err().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(
        message("add.volatile.s32 %r0, %r1, %r2;"),
        "11:1: add.volatile.s32: modifier .volatile is not supported here"
    );
    assert_eq!(message("add.s32 %r0, %r1, %d2;"), "11:1: add.s32: register %d2 is B64, B32 is needed");
    assert_eq!(
        message("add.f32x2 %d0, %d1, %d2;"),
        "11:1: add.f32x2: `add` must end in the type of its operands"
    );
    assert_eq!(
        message("cvt.rn.satfinite.e2m1x2.f32 %h0, %r1, %r2;"),
        "11:1: cvt.rn.satfinite.e2m1x2.f32: modifier .e2m1x2 is not supported here"
    );
}

/// Nothing that NVRTC emits is refused, and what is passed on is what other modules execute.
#[test]
fn compiled_kernels() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ptx/fixtures");
    let mut mine = 0;
    for entry in std::fs::read_dir(folder).expect("the fixtures") {
        let path = entry.expect("a fixture").path();
        if path.extension().is_none_or(|extension| extension != "ptx") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a text");
        let module = orthant_gpu::ptx::parse(&text).expect("a module");
        for body in module.functions.iter().filter_map(|f| f.body.as_ref()) {
            for instruction in &body.instructions {
                let opcode = module.text(instruction.opcode);
                match decode(&module, body, instruction) {
                    Ok(Decoded::Alu { .. }) => mine += 1,
                    Ok(Decoded::NotMine) => {
                        assert!(opcode == "mov" || !opcodes().contains(&opcode), "{opcode}")
                    }
                    Err(e) => panic!("{}: {e}", path.display()),
                }
            }
        }
    }
    assert!(mine > 1000, "{mine}");
}
