//! What NVRTC may write but the fixtures do not show.

use super::{HEADER, check::check, find, kernel, opcode};
use orthant_gpu::ptx::*;

fn module(text: &str) -> Module {
    let module = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    check(&module, text);
    module
}

fn body(text: &str) -> (Module, Body) {
    let module = module(&kernel(text));
    let body = module.function("k").unwrap().body.clone().unwrap();
    (module, body)
}

#[test]
fn immediates() {
    let (_, body) = body(
        "add.s32 %r1, %r2, -7; add.s32 %r1, %r2, 0x1fU; add.s32 %r1, %r2, 017; add.s32 %r1, %r2, 0b11;\
         mov.u64 %rd1, 0xffffffffffffffff; mov.u64 %rd1, -9223372036854775808; mov.f32 %f1, 0f3F800000;\
         mov.f64 %rd1, 0d3FF0000000000000; mov.f32 %f1, 1.5; mov.f32 %f1, -2e3; mov.u32 %r1, WARP_SZ;\
         mov.f32 %f1, -0f00000000;",
    );
    let last: Vec<Operand> =
        body.instructions.iter().map(|i| i.operands[i.operands.len() - 1].clone()).collect();
    let expected = [
        Operand::Int(-7),
        Operand::Int(31),
        Operand::Int(15),
        Operand::Int(3),
        Operand::Int(-1),
        Operand::Int(i64::MIN),
        Operand::F32(1f32.to_bits()),
        Operand::F64(1f64.to_bits()),
        Operand::F64(1.5f64.to_bits()),
        Operand::F64((-2000f64).to_bits()),
        Operand::Int(32),
        Operand::F32((-0f32).to_bits()),
    ];
    assert_eq!(last, expected);
}

#[test]
fn addresses() {
    let (module, body) = body(
        "ld.u32 %r1, [%rd1]; ld.u32 %r1, [%rd1+8]; ld.u32 %r1, [%rd1+-8]; ld.u32 %r1, [%rd1-8]; ld.u32 %r1, [%r1+0x10];\
         ld.u32 %r1, [counter]; ld.u32 %r1, [counter+4]; ld.u32 %r1, [256]; ld.u32 %r1, [-1]; ld.param.u64 %rd1, [p];\
         mov.u64 %rd1, counter+12; mov.u64 %rd1, counter;",
    );
    let reg = |operand: &Operand| match operand {
        Operand::Address(Address { base: Base::Reg(reg), offset }) => Some((reg.class, *offset)),
        _ => None,
    };
    let last: Vec<&Operand> = body.instructions.iter().map(|i| &i.operands[1]).collect();
    let registers: Vec<_> = last[..5].iter().map(|o| reg(o).unwrap()).collect();
    let wide = RegClass::B64;
    assert_eq!(registers, [(wide, 0), (wide, 8), (wide, -8), (wide, -8), (RegClass::B32, 16)]);
    let counter = Symbol::Variable(VarId(0));
    assert_eq!(module.variables[0].name, "counter");
    let symbol = |base, offset| Operand::Address(Address { base, offset });
    assert_eq!(*last[5], symbol(Base::Symbol(counter), 0));
    assert_eq!(*last[6], symbol(Base::Symbol(counter), 4));
    assert_eq!(*last[7], symbol(Base::Absolute, 256));
    assert_eq!(*last[8], symbol(Base::Absolute, -1));
    assert_eq!(*last[9], symbol(Base::Symbol(Symbol::Param(0)), 0));
    assert_eq!(*last[10], Operand::Symbol(counter, 12));
    assert_eq!(*last[11], Operand::Symbol(counter, 0));
}

#[test]
fn predicates_pairs_and_sinks() {
    let (module, body) = body(
        "@%p1 bra L; @!%p1 exit; setp.lt.and.s32 %p1|%p2, %r1, %r2, !%p3; setp.lt.s32 %p1|_, %r1, 2;\
         mov.b64 {%r1, _}, %rd1; L: ret;",
    );
    let guards: Vec<Option<bool>> = body.instructions.iter().map(|i| i.guard.map(|g| g.negated)).collect();
    assert_eq!(guards, [Some(false), Some(true), None, None, None, None]);
    let p = |index| Reg { class: RegClass::Pred, index };
    assert_eq!(body.instructions[2].operands[0], Operand::Pair(Some(p(1)), Some(p(2))));
    assert_eq!(body.instructions[2].operands[3], Operand::Not(p(3)));
    assert_eq!(body.instructions[3].operands[0], Operand::Pair(Some(p(1)), None));
    assert!(matches!(&body.instructions[4].operands[0], Operand::Vector(v) if v[1] == Operand::Sink));
    assert_eq!(body.instructions[0].operands[0], Operand::Label(5));
    assert_eq!(opcode(&module, &body.instructions[1]), "exit");
}

#[test]
fn scopes_nest_and_shadow() {
    let (_, body) = body(
        "mov.u32 %r1, 0; { .reg .b32 %r<2>; .reg .b32 t; mov.u32 %r1, t; L: bra L; { bra OUT; L: bra L; } }\
         { .reg .b64 t; mov.u64 t, 0; L: bra L; } OUT:",
    );
    let index = |at: usize| match body.instructions[at].operands[0] {
        Operand::Reg(reg) => (reg.class, reg.index),
        _ => panic!(),
    };
    assert_eq!(index(0), (RegClass::B32, 1));
    assert_eq!(index(1), (RegClass::B32, 8 + 4 + 1));
    let label = |at: usize| body.instructions[at].operands[0].clone();
    assert_eq!(label(2), Operand::Label(2));
    assert_eq!(label(3), Operand::Label(7));
    assert_eq!(label(4), Operand::Label(4));
    assert_eq!(label(6), Operand::Label(6));
    assert_eq!(body.instructions.len(), 7);
}

#[test]
fn tables_of_targets() {
    let text = format!(
        "{HEADER}.func f(); .func g(); .func f() {{ ret; }} .func g() {{ ret; }}\n\
         .entry k() {{ .reg .b32 %r<2>; .reg .b64 %rd<2>; A: ret; T: .branchtargets A, B, A; brx.idx.uni %r1, T; B: \n\
         C: .calltargets f, g; call %rd1, (), C; P: .callprototype _ () .noreturn; call %rd1, P; }}"
    );
    let module = module(&text);
    let (function, jumps) = find(&module, "k", "brx.idx.uni");
    let body = function.body.as_ref().unwrap();
    assert_eq!(jumps[0].operands[1], Operand::BranchTable(0));
    assert_eq!(body.branch_tables, [vec![0, 2, 0]]);
    assert_eq!(body.call_tables, [vec![FuncId(0), FuncId(1)]]);
    let (_, calls) = find(&module, "k", "call");
    assert_eq!(calls[0].operands[2], Operand::CallTable(0));
    assert_eq!(calls[1].operands[1], Operand::Prototype(0));
    assert!(body.prototypes[0].noreturn);
}

#[test]
fn variables() {
    let text = format!(
        "{HEADER}.extern .global .align 4 .b8 there[16]; .global .v4 .f32 v = {{1.0, -0f3F800000, 0.5, 2e1}};\n\
         .const .s16 m[][2] = {{ {{-1, 2}}, {{3, -32768}}, {{5}} }}; .global .u8 b[2] = {{0xFF(v), 0xFF00(generic(v)+8)}};\n\
         .visible .global .align 4 .b8 there[16] = {{1}}; .weak .global .u64 q[2] = {{v-8, generic(there)+4}};\n\
         .global .attribute(.managed) .align 4 .u32 managed = 3; .extern .const .u32 open[];"
    );
    let module = module(&text);
    let init = |name: &str| module.variable(name).unwrap().init.clone();
    let bits = |name: &str| -> Vec<(u64, u64)> {
        let value = |i: &Init| if let InitValue::Bits(b) = i.value { b } else { panic!("{i:?}") };
        init(name).iter().map(|i| (i.offset, value(i))).collect()
    };
    let float = |x: f32| u64::from(x.to_bits());
    assert_eq!(bits("v"), [(0, float(1.0)), (4, float(-1.0)), (8, float(0.5)), (12, float(20.0))]);
    assert_eq!(bits("m"), [(0, 0xffff), (2, 2), (4, 3), (6, 0x8000), (8, 5)]);
    let m = module.variable("m").unwrap();
    assert_eq!((&m.dims[..], m.size, m.align), (&[3, 2][..], 12, 2));
    let there = module.variable("there").unwrap();
    assert_eq!((there.linkage, there.init.len()), (Linkage::Visible, 1));
    let v = Symbol::Variable(VarId(1));
    let value = |i: usize, name: &str| init(name)[i].value;
    let plain = |symbol, addend, generic, mask| InitValue::Address { symbol, addend, generic, mask };
    assert_eq!(value(0, "b"), plain(v, 0, false, Some(0xff)));
    assert_eq!(value(1, "b"), plain(v, 8, true, Some(0xff00)));
    assert_eq!(value(0, "q"), plain(v, -8, false, None));
    assert_eq!(value(1, "q"), plain(Symbol::Variable(VarId(0)), 4, true, None));
    assert!(module.variable("managed").unwrap().managed);
    assert!(module.variable("open").unwrap().is_unsized());
}

#[test]
fn heads_of_functions() {
    let text = format!(
        "{HEADER}.extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n\
         .entry k(.param .u64 .ptr .global .align 16 a, .param .u64 .ptr .align 1 b, .param .u8 c, .param .v2 .f32 d)\n\
         .maxntid 256 .reqntid 8, 4 .minnctapersm 2 .maxnreg 64 .maxclusterrank 8 .pragma \"x\", \"y\";\n\
         {{ .pragma \"nounroll\"; ret; }} .func trap() .noreturn {{ trap; }}"
    );
    let module = module(&text);
    let k = module.function("k").unwrap();
    assert_eq!(k.params[0].pointer, Some(Pointer { space: Some(Space::Global), align: 16 }));
    assert_eq!(k.params[1].pointer, Some(Pointer { space: None, align: 1 }));
    assert_eq!((k.params[3].offset, k.params[3].size, k.params[3].align), (24, 8, 8));
    let bounds = &k.bounds;
    assert_eq!((bounds.maxntid, bounds.reqntid), (Some([256, 1, 1]), Some([8, 4, 1])));
    assert_eq!((bounds.minnctapersm, bounds.maxnreg, bounds.maxclusterrank), (Some(2), Some(64), Some(8)));
    let pragmas: Vec<(&str, Option<FuncId>)> =
        module.pragmas.iter().map(|p| (p.text.as_str(), p.function)).collect();
    assert_eq!(pragmas, ["x", "y", "nounroll"].map(|text| (text, Some(FuncId(1)))));
    assert!(module.function("vprintf").unwrap().body.is_none());
    assert!(module.function("trap").unwrap().bounds.noreturn);
}

#[test]
fn files_sections_and_locs() {
    let text = format!(
        "{}.file 1 \"a.cu\", 1700000000, 123\n.section .debug_abbrev {{ .b8 1, 2; $L: .b64 $L+4 }}\n.section .debug_str \
         {{ s0: .b8 104,105,0 s1: .b8 0 }}",
        kernel(
            ".loc 1 10 3\nret;\n.loc 1 5 2, function_name s0, inlined_at 1 10 3\nret;\n.loc 1 6 0, function_name s0+2, \
                inlined_at 1 11 1\nret;\n"
        )
    );
    let module = module(&text);
    assert_eq!(
        module.files,
        [SourceFile { index: 1, name: "a.cu".into(), stamp: Some((1_700_000_000, 123)) }]
    );
    assert_eq!(module.sections[0].name, ".debug_abbrev");
    assert_eq!(module.sections[1].strings, [("s0".into(), "hi".into()), ("s1".into(), String::new())]);
    let body = module.function("k").unwrap().body.as_ref().unwrap();
    assert_eq!(body.loc(0), Some(&Loc { file: 1, line: 10, column: 3, inlined: None }));
    let inlined = body.loc(1).unwrap().inlined.unwrap();
    assert_eq!((module.text(inlined.function), inlined.line), ("s0", 10));
    assert_eq!(body.loc(2).unwrap().inlined.unwrap().offset, 2);
    assert_eq!(body.instructions[0].pos, Pos { line: 7, column: 1 });
}

#[test]
fn special_registers() {
    let (_, body) = body(
        "mov.u32 %r1, %tid.x; mov.u32 %r1, %nctaid.z; mov.u32 %r1, %laneid; mov.u64 %rd1, %clock64;\
         mov.u32 %r1, %cluster_ctaid.y; mov.u64 %rd1, %globaltimer; mov.u32 %r1, %envreg3;",
    );
    let found: Vec<Special> = body
        .instructions
        .iter()
        .map(|i| if let Operand::Special(special) = i.operands[1] { special } else { panic!("{i:?}") })
        .collect();
    let expected = [
        Special::Tid(Axis::X),
        Special::Nctaid(Axis::Z),
        Special::Laneid,
        Special::Clock64,
        Special::ClusterCtaid(Axis::Y),
        Special::Globaltimer,
        Special::Env(3),
    ];
    assert_eq!(found, expected);
    let names: Vec<String> = found.iter().map(|s| s.name()).collect();
    assert_eq!(names[..3], ["%tid.x", "%nctaid.z", "%laneid"]);
}

/// Any opcode with any modifiers and any number of operands is taken as it stands.
#[test]
fn unknown_opcodes_are_kept() {
    let (module, body) = body("frob.x.y::z.L2::128B %r1, {%r1, %r2}, [%rd1], 1, 2, 3, 4, 5; nothing;");
    assert_eq!(opcode(&module, &body.instructions[0]), "frob.x.y::z.L2::128B");
    assert_eq!(body.instructions[0].operands.len(), 8);
    assert!(body.instructions[1].operands.is_empty());
}
