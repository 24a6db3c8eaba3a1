//! Branches, calls and ends.

use super::counters::Class;
use super::fault::FaultKind;
use super::lower::{LoadResult, Lower};
use super::program::{BranchIndexed, Call, Op, Target};
use crate::memory::DeviceMemory;
use crate::ptx::{Operand, RegClass, Symbol, Variable};

const CONTROL: Class = Class::Control;

/// `bra`
pub(crate) fn bra(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.has("uni");
    match l.operand(0)? {
        Operand::Label(target) => Ok((Op::Branch(target), CONTROL)),
        _ => Err(l.error("the target must be a label")),
    }
}

/// `brx.idx`
pub(crate) fn brx(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.pick(&["idx"])?;
    l.has("uni");
    let index = l.source(0, RegClass::B32)?;
    let Operand::BranchTable(table) = l.operand(1)? else {
        return Err(l.error("the targets must be a list"));
    };
    let targets = l.original.branch_tables.get(table as usize).cloned().unwrap_or_default();
    Ok((Op::BranchIndexed(Box::new(BranchIndexed { index, targets })), CONTROL))
}

/// `ret`
pub(crate) fn ret(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.has("uni");
    Ok((Op::Return, CONTROL))
}

/// `exit`
pub(crate) fn exit(_: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    Ok((Op::Exit, CONTROL))
}

/// `trap`, `brkpt`
pub(crate) fn stop(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    let (kind, detail) = match l.opcode() {
        "trap" => (FaultKind::Trap, "the kernel gave up"),
        _ => (FaultKind::Breakpoint, "there is no debugger"),
    };
    Ok((
        Op::Act(Box::new(move |l, mask| Err(l.fault(kind, mask.trailing_zeros() as usize, detail)))),
        CONTROL,
    ))
}

/// The places of a list of call operands in the argument area: offset and size.
fn places(l: &Lower<'_>, list: &[Operand]) -> LoadResult<Vec<(usize, usize)>> {
    let place = |operand: &Operand| match operand {
        Operand::Symbol(Symbol::Argument(at), 0) => {
            let variable = l.original.arguments.get(*at as usize)?;
            Some((variable.offset as usize, variable.size as usize))
        }
        _ => None,
    };
    let found = list.iter().map(place).collect::<Option<Vec<_>>>();
    found.ok_or_else(|| l.error("arguments and results must be .param variables"))
}

/// `call (results), function, (arguments);` and the same through a register, with a prototype.
pub(crate) fn call(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    l.has("uni");
    let mut operands = l.operands().to_vec();
    let table = match operands.last() {
        Some(Operand::Prototype(_) | Operand::CallTable(_)) => operands.pop(),
        _ => None,
    };
    let mut lists = [Vec::new(), Vec::new()];
    let is_list = |operand: &Operand| matches!(operand, Operand::List(_));
    if operands.first().is_some_and(is_list)
        && let Operand::List(list) = operands.remove(0)
    {
        lists[0] = places(l, &list)?;
    }
    if operands.last().is_some_and(is_list)
        && let Some(Operand::List(list)) = operands.pop()
    {
        lists[1] = places(l, &list)?;
    }
    let [callee] = &operands[..] else { return Err(l.error("one function must be named")) };
    let [results, arguments] = lists;
    let sizes = |list: &[Variable]| list.iter().map(|v| v.size).collect::<Vec<u64>>();
    let (target, returns, params) = match (callee, table) {
        (Operand::Symbol(Symbol::Function(id), 0), _) => {
            let function =
                l.module.functions.get(id.0 as usize).ok_or_else(|| l.error("no such function"))?;
            let Some(&index) = l.layout.functions.get(id) else {
                if function.name == "__assertfail" {
                    return Ok((assertion(arguments), CONTROL));
                }
                if function.name == "vprintf" {
                    return super::printf::vprintf(l, &arguments, &results);
                }
                return Err(l.unsupported(&format!("{} is declared here but defined nowhere", function.name)));
            };
            (Target::Direct(index), sizes(&function.returns), sizes(&function.params))
        }
        (Operand::Reg(_), Some(table)) => {
            let address = l.any(callee)?;
            let (returns, params) = match table {
                Operand::Prototype(at) => {
                    let prototype = l.original.prototypes.get(at as usize);
                    let prototype = prototype.ok_or_else(|| l.error("no such prototype"))?;
                    (sizes(&prototype.returns), sizes(&prototype.params))
                }
                Operand::CallTable(at) => {
                    let first = l.original.call_tables.get(at as usize).and_then(|table| table.first());
                    let function = first.and_then(|id| l.module.functions.get(id.0 as usize));
                    let function = function.ok_or_else(|| l.error("the table names no function"))?;
                    (sizes(&function.returns), sizes(&function.params))
                }
                _ => return Err(l.error("a prototype is missing")),
            };
            let target = Target::Indirect { address, params: params.clone(), returns: returns.clone() };
            (target, returns, params)
        }
        _ => return Err(l.error("a function, or a register and a prototype, must be named")),
    };
    let given = |list: &[(usize, usize)]| list.iter().map(|&(_, size)| size as u64).collect::<Vec<_>>();
    if given(&results) != returns || given(&arguments) != params {
        return Err(l.error("arguments or results differ from the function's in number or size"));
    }
    Ok((Op::Call(Box::new(Call { target, arguments, results })), CONTROL))
}

/// `assert` of device code: `__assertfail(message, file, line, function, size)`.
fn assertion(arguments: Vec<(usize, usize)>) -> Op {
    Op::Act(Box::new(move |l, mask| {
        let lane = mask.trailing_zeros() as usize;
        let argument = |index: usize| {
            let &(at, size) = arguments.get(index)?;
            let mut wide = [0; 8];
            wide.get_mut(..size)?.copy_from_slice(l.frame.arguments.get(lane, at, size)?);
            Some(u64::from_le_bytes(wide))
        };
        let text = |index: usize| text_at(l.env.memory, argument(index).unwrap_or(0));
        let detail = format!("{} at {}:{}", text(0), text(1), argument(2).unwrap_or(0));
        Err(l.fault(FaultKind::Assertion, lane, detail))
    }))
}

/// A text in device memory, as far as it can be read.
fn text_at(memory: &DeviceMemory, address: u64) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.len() < 1024 && memory.read(address.wrapping_add(bytes.len() as u64), &mut byte).is_ok() {
        if byte == [0] {
            break;
        }
        bytes.extend(byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
