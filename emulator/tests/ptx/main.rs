//! Tests of the PTX front end.

mod check;
mod errors;
mod fixtures;
mod fuzz;
mod syntax;

use orthant_gpu::ptx::{Function, Instruction, Module, Operand};

/// The PTX files beside this one, with their names.
pub const FIXTURES: [(&str, &str); 9] = [
    ("arith.sm_80", include_str!("fixtures/arith.sm_80.ptx")),
    ("control.sm_80", include_str!("fixtures/control.sm_80.ptx")),
    ("control.sm_90a", include_str!("fixtures/control.sm_90a.ptx")),
    ("debug.sm_80", include_str!("fixtures/debug.sm_80.ptx")),
    ("elementwise.sm_80", include_str!("fixtures/elementwise.sm_80.ptx")),
    ("hopper.sm_90a", include_str!("fixtures/hopper.sm_90a.ptx")),
    ("mma.sm_80", include_str!("fixtures/mma.sm_80.ptx")),
    ("reduce.sm_80", include_str!("fixtures/reduce.sm_80.ptx")),
    ("sync.sm_80", include_str!("fixtures/sync.sm_80.ptx")),
];

/// What every module starts with, on three lines.
pub const HEADER: &str = ".version 8.8\n.target sm_80\n.address_size 64\n";

/// A kernel around statements: its body starts on line 6.
pub fn kernel(body: &str) -> String {
    format!(
        "{HEADER}.global .u32 counter; .func twice(.param .b32 a); .visible .entry k(.param .u64 p) {{\n\
         .reg .pred %p<4>; .reg .b16 %rs<4>; .reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %rd<4>;\n{body}\n}}\n"
    )
}

/// Opcode with modifiers, as the text has it.
pub fn opcode(module: &Module, instruction: &Instruction) -> String {
    let mut text = module.text(instruction.opcode).to_string();
    for &modifier in &instruction.modifiers {
        text.push('.');
        text.push_str(module.text(modifier));
    }
    text
}

/// The function called `name` with its instructions of opcode `text`.
pub fn find<'a>(module: &'a Module, name: &str, text: &str) -> (&'a Function, Vec<&'a Instruction>) {
    let function = module.function(name).unwrap();
    let all = &function.body.as_ref().unwrap().instructions;
    (function, all.iter().filter(|i| opcode(module, i) == text).collect())
}

/// Every operand of an instruction, those inside others included.
pub fn operands(instruction: &Instruction) -> Vec<&Operand> {
    let mut all: Vec<&Operand> = instruction.operands.iter().collect();
    let mut at = 0;
    while at < all.len() {
        match all[at] {
            Operand::Vector(items) | Operand::List(items) => all.extend(items.iter()),
            Operand::Tensor(tensor) => all.extend(tensor.1.iter()),
            _ => {}
        }
        at += 1;
    }
    all
}
