//! What NVRTC 12.9.86 made of the CUDA files in `fixtures/`.

use super::{FIXTURES, check::check, find, opcode};
use orthant_gpu::ptx::*;

fn fixture(name: &str) -> Module {
    let (_, text) = FIXTURES.iter().find(|(found, _)| *found == name).unwrap();
    parse(text).unwrap()
}

#[test]
fn every_fixture_parses() {
    for (name, text) in FIXTURES {
        let module = parse(text).unwrap_or_else(|error| panic!("{name}:{error}"));
        check(&module, text);
        assert_eq!(module.version, (8, 8));
        assert_eq!(module.files.len(), 1);
        assert_eq!(module, parse_bytes(text.replace('\n', "\r\n").as_bytes()).unwrap(), "{name} with CRLF");
    }
    let hopper = fixture("hopper.sm_90a");
    assert_eq!(hopper.target, Target { arch: 90, suffix: Some('a'), debug: false });
}

/// Nothing gets lost: every instruction, written back from the module, is the text it came from, and the number of
/// statements agrees.
#[test]
fn instructions_written_back_are_the_text() {
    let mut total = 0;
    for (name, text) in FIXTURES {
        let module = parse(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let mut written_statements = 0;
        for function in &module.functions {
            let Some(body) = &function.body else { continue };
            for instruction in &body.instructions {
                let pos = instruction.pos;
                let mut source = lines[pos.line as usize - 1][pos.column as usize - 1..].to_string();
                let mut line = pos.line as usize;
                while !source.contains(';') {
                    source.push_str(lines[line]);
                    line += 1;
                }
                let source = source.split(';').next().unwrap();
                let written = write(&module, function, body, instruction);
                assert_eq!(normal(source), normal(&written), "{name}:{pos}");
                total += 1;
            }
            written_statements += body.instructions.len() + body.locals.len() + body.arguments.len();
            written_statements += body.reg_decls.len() + body.prototypes.len();
        }
        let plain: Vec<&str> = lines.iter().map(|line| line.split("//").next().unwrap_or("")).collect();
        let semicolons: usize = plain.iter().map(|line| line.matches(';').count()).sum();
        written_statements += module.variables.len() + module.pragmas.len();
        written_statements += module.functions.iter().filter(|f| f.body.is_none()).count();
        // `control` defines two functions after declaring them; `arith` declares two registers in one statement.
        written_statements += if name.starts_with("control") { 2 } else { 0 };
        written_statements -= if name.starts_with("arith") { 1 } else { 0 };
        assert_eq!(semicolons, written_statements, "{name}");
    }
    assert!(total > 1500, "{total} instructions");
}

/// Without blanks, hexadecimal integers as decimal ones and no zero offsets.
fn normal(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    text.replace("0xffffffff", "4294967295").replace("+0]", "]")
}

fn write(module: &Module, function: &Function, body: &Body, instruction: &Instruction) -> String {
    let operands: Vec<String> =
        instruction.operands.iter().map(|o| operand(module, function, body, o)).collect();
    format!("{}{}", opcode(module, instruction), operands.join(","))
}

fn operand(module: &Module, f: &Function, body: &Body, operand_: &Operand) -> String {
    let reg = |reg: Reg| body.register_name(reg).unwrap();
    let side = |side: Option<Reg>| side.map_or("_".to_string(), reg);
    let symbol = |symbol: Symbol| match symbol {
        Symbol::Variable(id) => module.variables[id.0 as usize].name.clone(),
        Symbol::Function(id) => module.functions[id.0 as usize].name.clone(),
        Symbol::Param(index) => f.params[index as usize].name.clone(),
        Symbol::Return(index) => f.returns[index as usize].name.clone(),
        Symbol::Local(index) => body.locals[index as usize].name.clone(),
        Symbol::Argument(index) => body.arguments[index as usize].name.clone(),
    };
    let plus = |offset: i64| if offset == 0 { String::new() } else { format!("+{offset}") };
    let address = |a: &Address| match a.base {
        Base::Reg(r) => format!("{}{}", reg(r), plus(a.offset)),
        Base::Symbol(s) => format!("{}{}", symbol(s), plus(a.offset)),
        Base::Absolute => a.offset.to_string(),
    };
    let list = |items: &[Operand]| {
        let items: Vec<String> = items.iter().map(|o| operand(module, f, body, o)).collect();
        items.join(",")
    };
    match operand_ {
        Operand::Reg(r) => reg(*r),
        Operand::Not(r) => format!("!{}", reg(*r)),
        Operand::Pair(first, second) => format!("{}|{}", side(*first), side(*second)),
        Operand::Special(special) => special.name(),
        Operand::Int(value) => value.to_string(),
        Operand::F32(bits) => format!("0f{bits:08X}"),
        Operand::F64(bits) => format!("0d{bits:016X}"),
        Operand::Symbol(s, offset) => format!("{}{}", symbol(*s), plus(*offset)),
        Operand::Address(a) => format!("[{}]", address(a)),
        Operand::Tensor(tensor) => format!("[{},{}]", address(&tensor.0), list(&tensor.1)),
        Operand::Vector(items) => format!("{{{}}}", list(items)),
        Operand::List(items) => format!("({})", list(items)),
        Operand::Sink => "_".to_string(),
        Operand::Label(index) => {
            // Debug builds put labels of their own beside those that are branched to.
            let here = || body.labels.iter().filter(|(_, at)| at == index).map(|(name, _)| name);
            here().find(|name| name.starts_with("$L__BB")).or(here().next()).unwrap().clone()
        }
        Operand::Prototype(index) => body.prototypes[*index as usize].name.clone(),
        Operand::BranchTable(_) | Operand::CallTable(_) => panic!("no fixture has these"),
    }
}

#[test]
fn parameters_are_laid_out_by_the_abi() {
    let module = fixture("control.sm_80");
    let function = module.function("by_value").unwrap();
    let layout: Vec<(u64, u64, u32)> = function.params.iter().map(|p| (p.offset, p.size, p.align)).collect();
    assert_eq!(layout, [(0, 32, 16), (32, 12, 4), (44, 1, 1), (46, 2, 2), (48, 8, 8)]);
    assert_eq!(function.param_bytes, 56);
    let module = fixture("hopper.sm_90a");
    let layout: Vec<u64> = module.function("pipeline").unwrap().params.iter().map(|p| p.offset).collect();
    assert_eq!(layout, [0, 8, 64, 192]);
    let module = fixture("elementwise.sm_80");
    let lion = module.function("lion_bf16").unwrap();
    assert_eq!(
        (lion.param_bytes, lion.bounds.maxntid, lion.bounds.minnctapersm),
        (48, Some([256, 1, 1]), Some(4))
    );
    let module = fixture("hopper.sm_90a");
    let bounds = &module.function("pipeline").unwrap().bounds;
    assert_eq!((bounds.reqnctapercluster, bounds.explicitcluster), (Some([2, 1, 1]), true));
}

#[test]
fn registers_and_labels() {
    let module = fixture("elementwise.sm_80");
    let body = module.function("vector_add").unwrap().body.as_ref().unwrap();
    assert_eq!(body.registers, [2, 0, 8, 15, 0]);
    let declared: Vec<(&str, Type, Option<u32>)> =
        body.reg_decls.iter().map(|d| (d.name.as_str(), d.ty, d.range)).collect();
    let expected =
        [("%p", Type::Pred, 2), ("%f", Type::F32, 4), ("%r", Type::B32, 4), ("%rd", Type::B64, 15)];
    assert_eq!(declared, expected.map(|(name, ty, count)| (name, ty, Some(count))));
    // `%f` and `%r` share a class: `%r1` follows the four of `%f`.
    let r1 = Reg { class: RegClass::B32, index: 5 };
    assert_eq!(body.register_name(r1).as_deref(), Some("%r1"));
    assert_eq!(body.declaration(r1).unwrap().ty, Type::B32);
    // The guarded branch leaves for the last instruction.
    let branch = body.instructions.iter().find(|i| i.guard.is_some()).unwrap();
    let last = body.instructions.len() - 1;
    assert_eq!(branch.operands[..], [Operand::Label(last as u32)]);
    assert_eq!(opcode(&module, &body.instructions[last]), "ret");

    // Labels inside inline assembly belong to its block.
    let module = fixture("sync.sm_80");
    let body = module.function("inline_labels").unwrap().body.as_ref().unwrap();
    let (_, again) = body.labels.iter().find(|(name, _)| name == "again").unwrap();
    assert_eq!(opcode(&module, &body.instructions[*again as usize]), "ld.acquire.gpu.global.u32");
    let branch = body.instructions.iter().find(|i| i.operands[..] == [Operand::Label(*again)]).unwrap();
    assert!(branch.guard.unwrap().negated);
    assert_eq!(body.register_name(branch.guard.unwrap().reg).as_deref(), Some("ready"));
}

/// `.loc` leads to the line of CUDA that made the instruction.
#[test]
fn locs_point_to_the_source() {
    let cases = [
        ("elementwise.sm_80", "vector_add", "add.f32", "c[i] = a[i] + b[i]"),
        ("elementwise.sm_80", "lion_bf16", "ld.global.cs.v4.u32", "__ldcs"),
        ("elementwise.sm_80", "lion_bf16", "cvt.rn.bf16x2.f32", "cvt.rn.bf16x2.f32"),
        ("reduce.sm_80", "block_sum", "shfl.sync.bfly.b32", "__shfl_xor_sync"),
        ("reduce.sm_80", "warp_tools", "vote.sync.ballot.b32", "__ballot_sync"),
        ("sync.sm_80", "chain", "ld.acquire.gpu.global.u32", "ld.acquire.gpu.global.u32"),
        ("sync.sm_80", "chain", "bar.sync", "__syncthreads"),
        ("control.sm_80", "dispatch", "rcp.rn.f32", "1.f / v"),
        ("arith.sm_80", "doubles", "sqrt.rn.f64", "sqrt(a)"),
        ("mma.sm_80", "mma_16x8", "cp.async.commit_group", "cp.async.commit_group"),
    ];
    let sources = [
        ("elementwise", include_str!("fixtures/elementwise.cu")),
        ("reduce", include_str!("fixtures/reduce.cu")),
        ("sync", include_str!("fixtures/sync.cu")),
        ("control", include_str!("fixtures/control.cu")),
        ("arith", include_str!("fixtures/arith.cu")),
        ("mma", include_str!("fixtures/mma.cu")),
    ];
    for (name, function, text, expected) in cases {
        let module = fixture(name);
        let source = sources.iter().find(|(found, _)| name.starts_with(found)).unwrap().1;
        let body = module.function(function).unwrap().body.as_ref().unwrap();
        let mut found = 0;
        for (index, instruction) in body.instructions.iter().enumerate() {
            if opcode(&module, instruction) == text {
                let loc = body.loc(index).unwrap();
                let line = source.lines().nth(loc.line as usize - 1).unwrap();
                assert!(
                    line.contains(expected),
                    "{name}:{} {text}: line {} is {line}",
                    instruction.pos,
                    loc.line
                );
                assert!(module.file(loc.file).unwrap().ends_with(".cu"));
                found += 1;
            }
        }
        assert!(found > 0, "{name} has no {text}");
    }
}

/// Inlined code knows the function it came from and the call.
#[test]
fn inlined_locs() {
    let module = fixture("sync.sm_80");
    let (function, loads) = find(&module, "chain", "ld.acquire.gpu.global.u32");
    let body = function.body.as_ref().unwrap();
    assert_eq!(loads.len(), 2);
    for load in loads {
        let inlined = body.locs[load.loc.unwrap() as usize].inlined.unwrap();
        let label = module.text(inlined.function);
        let strings = &module.sections[0].strings;
        let (_, name) = strings.iter().find(|(found, _)| found == label).unwrap();
        assert_eq!(name, "_Z10ld_acquirePKj");
        let call = include_str!("fixtures/sync.cu").lines().nth(inlined.line as usize - 1).unwrap();
        assert!(call.contains("while (ld_acquire("), "{call}");
    }
    assert_eq!(module.sections[0].name, ".debug_str");
}

#[test]
fn variables_and_initialisers() {
    let module = fixture("control.sm_80");
    let bits = |name: &str| -> Vec<(u64, u64)> {
        let variable = module.variable(name).unwrap();
        variable
            .init
            .iter()
            .map(|i| (i.offset, if let InitValue::Bits(b) = i.value { b } else { panic!() }))
            .collect()
    };
    assert_eq!(bits("letters"), [(0, 97), (1, 98), (2, 255), (3, 0), (4, 1)]);
    assert_eq!(bits("counter"), [(0, 42)]);
    let text = module.variable("text").unwrap();
    assert_eq!((text.size, text.init.len()), (5, 4));
    let table = module.variable("table").unwrap();
    assert_eq!((table.space, table.align, table.size), (Space::Const, 4, 32));
    let bytes: Vec<u8> = bits("table").iter().map(|&(_, b)| b as u8).collect();
    let floats: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(floats, [0.5, 1.0, 2.0, 4.0, -1.0, 1e-7, 3.4445, -4.775]);
    let Symbol::Variable(_) = address(&module, "pointer_to_counter", 0, true) else { panic!() };
    for (index, name) in ["_Z5f_addff", "_Z5f_mulff"].into_iter().enumerate() {
        let Symbol::Function(id) = address(&module, "operations", index, false) else { panic!() };
        assert_eq!(module.functions[id.0 as usize].name, name);
    }
    let module = fixture("reduce.sm_80");
    let dynamic = module.variable("dynamic_scratch").unwrap();
    assert!(dynamic.is_dynamic() && dynamic.size == 0 && dynamic.align == 16);
    let partial = module.variables.iter().find(|v| v.name.ends_with("partial")).unwrap();
    assert_eq!(module.functions[partial.owner.unwrap().0 as usize].name, "block_sum");
    assert_eq!((partial.space, partial.size), (Space::Shared, 128));
}

fn address(module: &Module, name: &str, index: usize, expected: bool) -> Symbol {
    match module.variable(name).unwrap().init[index].value {
        InitValue::Address { symbol, addend: 0, generic, mask: None } if generic == expected => symbol,
        other => panic!("{other:?}"),
    }
}

#[test]
fn debug_builds() {
    let module = fixture("debug.sm_80");
    assert!(module.target.debug && module.variable("managed").unwrap().managed);
    let names: Vec<&str> = module.sections.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&".debug_info") && names.contains(&".debug_abbrev"), "{names:?}");
    let mixed = module.variable("mixed").unwrap();
    let InitValue::Address { addend: 4, generic: true, .. } = mixed.init[1].value else {
        panic!("{mixed:?}")
    };
    let vprintf = module.function("vprintf").unwrap();
    assert!(vprintf.body.is_none() && vprintf.linkage == Linkage::Extern && vprintf.param_bytes == 16);
    let module = fixture("mma.sm_80");
    assert_eq!((module.pragmas[0].text.as_str(), module.pragmas[0].function), ("nounroll", Some(FuncId(0))));
}

#[test]
fn calls() {
    let module = fixture("control.sm_80");
    let (function, calls) = find(&module, "dispatch", "call");
    let body = function.body.as_ref().unwrap();
    let [call] = calls[..] else { panic!("{calls:?}") };
    assert!(matches!(call.operands[1], Operand::Reg(Reg { class: RegClass::B64, .. })));
    let Operand::Prototype(prototype) = call.operands[3] else { panic!() };
    let prototype = &body.prototypes[prototype as usize];
    assert_eq!((prototype.returns.len(), prototype.params.len()), (1, 2));
    let Operand::List(passed) = &call.operands[2] else { panic!() };
    let names: Vec<&str> = passed
        .iter()
        .map(|o| match o {
            Operand::Symbol(Symbol::Argument(index), 0) => body.arguments[*index as usize].name.as_str(),
            _ => panic!("{o:?}"),
        })
        .collect();
    assert_eq!(names, ["param0", "param1"]);
    // Arguments of different call sequences share bytes; those of one do not.
    assert_eq!(body.argument_bytes, 12);
    assert_eq!(body.arguments.len(), 10);

    let (_, calls) = find(&module, "_Z3fibi", "call.uni");
    let Operand::Symbol(Symbol::Function(id), 0) = calls[0].operands[1] else { panic!() };
    assert_eq!(module.functions[id.0 as usize].name, "_Z3fibi");
}

#[test]
fn shapes_of_operands() {
    let module = fixture("hopper.sm_90a");
    let name = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes";
    let (_, copies) = find(&module, "pipeline", name);
    let Operand::Tensor(tensor) = &copies[0].operands[1] else { panic!() };
    assert!(matches!(&tensor.1[..], [Operand::Vector(items)] if items.len() == 2));
    let (_, elect) = find(&module, "pipeline", "elect.sync");
    assert!(matches!(elect[0].operands[..], [Operand::Pair(None, Some(_)), Operand::Int(0xffff_ffff)]));
    let module = fixture("mma.sm_80");
    let (_, mma) = find(&module, "mma_16x8", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
    let widths: Vec<usize> =
        mma[0].operands.iter().map(|o| if let Operand::Vector(v) = o { v.len() } else { 0 }).collect();
    assert_eq!(widths, [4, 4, 2, 4]);
    let module = fixture("control.sm_80");
    let (_, loads) = find(&module, "local_array", "ld.local.u32");
    assert!(matches!(loads[0].operands[1], Operand::Address(Address { base: Base::Reg(_), offset: -4 })));
    let body = module.function("local_array").unwrap().body.as_ref().unwrap();
    assert_eq!((body.local_bytes, body.locals[0].align), (160, 16));
}
