//! What must hold of every module that the parser returns.

use super::operands;
use orthant_gpu::ptx::*;

/// Panics unless every index of `module` points to something and nothing outgrew the text it came from.
pub fn check(module: &Module, text: &str) {
    let mut things = module.names.len() + module.files.len() + module.variables.len();
    for variable in &module.variables {
        check_variable(module, variable);
        things += variable.init.len() + variable.dims.len();
    }
    for section in &module.sections {
        things += section.tokens;
    }
    for function in &module.functions {
        let mut end = 0;
        for param in &function.params {
            check_variable(module, param);
            assert!(param.offset >= end && param.offset % u64::from(param.align) == 0);
            end = param.offset + param.size;
        }
        assert_eq!(end, function.param_bytes);
        assert!(end <= limits::PARAMS);
        things += function.params.len() + function.returns.len() + 1;
        if let Some(body) = &function.body {
            things += check_body(module, function, body);
        }
    }
    assert!(things <= text.len(), "{things} things from {} bytes", text.len());
    for pragma in &module.pragmas {
        assert!(pragma.function.is_none_or(|id| (id.0 as usize) < module.functions.len()));
    }
}

fn check_variable(module: &Module, variable: &Variable) {
    let elements: u64 = variable.dims.iter().product();
    assert_eq!(variable.size, elements * u64::from(variable.lanes * variable.ty.size()));
    assert!(variable.size <= limits::VARIABLE && variable.align.is_power_of_two());
    assert!(variable.size > 0 || variable.linkage == Linkage::Extern);
    let mut last = None;
    for init in &variable.init {
        assert!(init.offset + u64::from(init.size) <= variable.size && Some(init.offset) > last);
        last = Some(init.offset);
        if let InitValue::Address { symbol, .. } = init.value {
            check_symbol(module, None, symbol);
        }
    }
}

fn check_symbol(module: &Module, function: Option<(&Function, &Body)>, symbol: Symbol) {
    let (index, count) = match (symbol, function) {
        (Symbol::Variable(id), _) => (id.0, module.variables.len()),
        (Symbol::Function(id), _) => (id.0, module.functions.len()),
        (Symbol::Param(index), Some((function, _))) => (index, function.params.len()),
        (Symbol::Return(index), Some((function, _))) => (index, function.returns.len()),
        (Symbol::Local(index), Some((_, body))) => (index, body.locals.len()),
        (Symbol::Argument(index), Some((_, body))) => (index, body.arguments.len()),
        _ => panic!("{symbol:?} outside functions"),
    };
    assert!((index as usize) < count, "{symbol:?} of {count}");
}

fn check_body(module: &Module, function: &Function, body: &Body) -> usize {
    let reg = |reg: Reg| assert!(reg.index < body.registers[reg.class as usize], "{reg:?}");
    let predicate = |r: Reg| {
        reg(r);
        assert_eq!(r.class, RegClass::Pred);
    };
    let label = |index: u32| assert!(index as usize <= body.instructions.len(), "label {index}");
    let mut things =
        body.reg_decls.len() + body.locals.len() + body.arguments.len() + body.instructions.len();
    things += body.locs.len() + body.labels.len();
    let mut declared = [0; 5];
    for decl in &body.reg_decls {
        assert_eq!(
            (decl.first.class, decl.first.index),
            (decl.ty.class(), declared[decl.first.class as usize])
        );
        declared[decl.first.class as usize] += decl.range.unwrap_or(1);
    }
    assert_eq!(declared, body.registers);
    for (variables, bytes) in [(&body.locals, body.local_bytes), (&body.arguments, body.argument_bytes)] {
        for variable in variables {
            assert!(
                variable.offset % u64::from(variable.align) == 0 && variable.offset + variable.size <= bytes
            );
        }
    }
    body.labels.iter().for_each(|(_, index)| label(*index));
    body.branch_tables.iter().flatten().for_each(|index| label(*index));
    body.call_tables.iter().flatten().for_each(|id| check_symbol(module, None, Symbol::Function(*id)));
    for instruction in &body.instructions {
        assert!(!module.text(instruction.opcode).is_empty());
        things += instruction.modifiers.len();
        assert!(instruction.loc.is_none_or(|loc| (loc as usize) < body.locs.len()));
        if let Some(guard) = instruction.guard {
            predicate(guard.reg);
        }
        for operand in operands(instruction) {
            things += 1;
            match *operand {
                Operand::Reg(r) => reg(r),
                Operand::Not(r) => predicate(r),
                Operand::Pair(first, second) => {
                    first.into_iter().for_each(reg);
                    second.into_iter().for_each(predicate);
                }
                Operand::Symbol(symbol, _) => check_symbol(module, Some((function, body)), symbol),
                Operand::Address(address) => check_address(module, function, body, address),
                Operand::Tensor(ref tensor) => check_address(module, function, body, tensor.0),
                Operand::Label(index) => label(index),
                Operand::BranchTable(index) => assert!((index as usize) < body.branch_tables.len()),
                Operand::CallTable(index) => assert!((index as usize) < body.call_tables.len()),
                Operand::Prototype(index) => assert!((index as usize) < body.prototypes.len()),
                Operand::Vector(ref items) => assert!(!items.is_empty()),
                Operand::List(_) | Operand::Sink | Operand::Special(_) => {}
                Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => {}
            }
        }
    }
    for loc in &body.locs {
        assert!(module.file(loc.file).is_some());
    }
    things
}

fn check_address(module: &Module, function: &Function, body: &Body, address: Address) {
    match address.base {
        Base::Reg(reg) => {
            assert!(reg.index < body.registers[reg.class as usize]);
            assert!(matches!(reg.class, RegClass::B32 | RegClass::B64));
        }
        Base::Symbol(symbol) => check_symbol(module, Some((function, body)), symbol),
        Base::Absolute => {}
    }
}
