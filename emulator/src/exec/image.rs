//! Loading: variables get addresses and contents, kernels become executable.

use super::env::{FUNCTION_STRIDE, FUNCTIONS};
use super::lower::{Layout, LoadError, LoadErrorKind, LoadResult, lower};
use super::program::{Code, Kernel, Op, Step, Target};
use super::registers;
use super::text::{Kernels, Program};
use crate::memory::DeviceMemory;
use crate::ptx::{
    Base, Body, FuncId, Function, InitValue, Module, Operand, Pos, Space, Symbol, VarId, Variable,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// A loaded module.
pub(crate) struct Image {
    pub kernels: Arc<Kernels>,
    /// Address and size of each global and constant variable, by name.
    pub globals: BTreeMap<String, (u64, u64)>,
    /// Where `.const` variables lie.
    pub constants: Vec<Range<u64>>,
    /// Allocations that go with the module.
    pub owned: Vec<u64>,
    /// PTX version of the text.
    #[cfg(feature = "driver")]
    pub version: (u32, u32),
}

/// Loads a module: its variables into `memory`.
pub(crate) fn load(program: &Program, memory: &DeviceMemory) -> LoadResult<Image> {
    let mut image = Image {
        kernels: Arc::default(),
        globals: BTreeMap::new(),
        constants: Vec::new(),
        owned: Vec::new(),
        #[cfg(feature = "driver")]
        version: program.module.version,
    };
    let done = fill(program, memory, &mut image);
    if done.is_err() {
        image.owned.iter().for_each(|&base| _ = memory.free(base));
    }
    done.map(|()| image)
}

fn fill(program: &Program, memory: &DeviceMemory, image: &mut Image) -> LoadResult<()> {
    let addresses = place(&program.module, memory, image)?;
    initialise(&program.module, memory, &addresses)?;
    image.kernels = program.kernels(addresses)?;
    Ok(())
}

fn failed(pos: Pos, message: String) -> LoadError {
    LoadError { kind: LoadErrorKind::Invalid, pos, function: String::new(), message }
}

/// Gives every variable of global and constant memory an allocation of its own: overruns are found.
fn place(module: &Module, memory: &DeviceMemory, image: &mut Image) -> LoadResult<HashMap<VarId, u64>> {
    let mut addresses = HashMap::new();
    for (index, variable) in module.variables.iter().enumerate() {
        if !matches!(variable.space, Space::Global | Space::Const)
            || variable.is_unsized()
            || variable.size == 0
        {
            continue;
        }
        let base = memory.allocate(variable.size).map_err(|e| LoadError {
            kind: LoadErrorKind::OutOfMemory,
            ..failed(variable.pos, format!("no memory for {}: {e}", variable.name))
        })?;
        image.owned.push(base);
        if base % u64::from(variable.align.max(1)) != 0 {
            return Err(failed(
                variable.pos,
                format!("{} cannot be aligned to {}", variable.name, variable.align),
            ));
        }
        if variable.space == Space::Const {
            image.constants.push(base..base + variable.size);
        }
        image.globals.insert(variable.name.clone(), (base, variable.size));
        addresses.insert(VarId(index as u32), base);
    }
    Ok(addresses)
}

fn initialise(module: &Module, memory: &DeviceMemory, addresses: &HashMap<VarId, u64>) -> LoadResult<()> {
    for (index, variable) in module.variables.iter().enumerate() {
        let Some(&base) = addresses.get(&VarId(index as u32)) else { continue };
        let refused = |what: String| failed(variable.pos, format!("{}: {what}", variable.name));
        // Whatever has no initialiser is zero.
        let size = usize::try_from(variable.size).map_err(|e| refused(e.to_string()))?;
        memory.fill(base, &[0], size).map_err(|e| refused(format!("{e:?}")))?;
        for init in &variable.init {
            let value = match init.value {
                InitValue::Bits(bits) => bits,
                InitValue::Address { symbol, addend, mask, .. } => {
                    let address = match symbol {
                        Symbol::Variable(id) => addresses.get(&id).copied(),
                        Symbol::Function(id) => Some(FUNCTIONS + u64::from(id.0) * FUNCTION_STRIDE),
                        _ => None,
                    };
                    let address =
                        address.ok_or_else(|| refused("is initialised with an unknown address".into()))?;
                    let address = address.wrapping_add(addend as u64);
                    mask.map_or(address, |mask| (address & mask) >> mask.trailing_zeros().min(63))
                }
            };
            let bytes = value.to_le_bytes();
            let bytes = &bytes[..(init.size as usize).min(8)];
            memory.write(base + init.offset, bytes).map_err(|e| refused(format!("{e:?}")))?;
        }
    }
    Ok(())
}

/// What a body mentions.
fn symbols(body: &Body) -> impl Iterator<Item = Symbol> + '_ {
    fn of(operand: &Operand, out: &mut Vec<Symbol>) {
        match operand {
            Operand::Symbol(symbol, _) => out.push(*symbol),
            Operand::Address(address) => out.extend(base(&address.base)),
            Operand::Tensor(parts) => {
                out.extend(base(&parts.0.base));
                parts.1.iter().for_each(|part| of(part, out));
            }
            Operand::Vector(parts) | Operand::List(parts) => parts.iter().for_each(|part| of(part, out)),
            _ => {}
        }
    }
    fn base(base: &Base) -> Option<Symbol> {
        match base {
            Base::Symbol(symbol) => Some(*symbol),
            _ => None,
        }
    }
    body.instructions.iter().flat_map(|instruction| {
        let mut found = Vec::new();
        instruction.operands.iter().for_each(|operand| of(operand, &mut found));
        found
    })
}

/// The variables that a body mentions.
pub(crate) fn mentioned_by(body: &Body) -> impl Iterator<Item = VarId> + '_ {
    symbols(body).filter_map(|symbol| match symbol {
        Symbol::Variable(id) => Some(id),
        _ => None,
    })
}

fn body_of(module: &Module, id: FuncId) -> Option<(&Function, &Body)> {
    let function = module.functions.get(id.0 as usize)?;
    Some((function, function.body.as_ref()?))
}

fn calls_indirectly(module: &Module, body: &Body) -> bool {
    body.instructions.iter().any(|instruction| {
        module.text(instruction.opcode) == "call"
            && instruction.operands.iter().any(|operand| matches!(operand, Operand::Reg(_)))
    })
}

/// The functions a kernel may reach, itself first, and whether calls may nest without end.
fn reachable(module: &Module, entry: FuncId) -> (Vec<FuncId>, bool) {
    let mut found = vec![entry];
    let mut edges: BTreeMap<FuncId, BTreeSet<FuncId>> = BTreeMap::new();
    let mut indirect = false;
    let mut at = 0;
    while let Some(&id) = found.get(at) {
        at += 1;
        let Some((_, body)) = body_of(module, id) else { continue };
        let mut next: BTreeSet<FuncId> = symbols(body)
            .filter_map(|symbol| match symbol {
                Symbol::Function(callee) => Some(callee),
                _ => None,
            })
            .collect();
        if calls_indirectly(module, body) {
            // Anything whose address is taken may be meant, and that may be in a table of another module part.
            indirect = true;
            let all = (0..module.functions.len() as u32).map(FuncId);
            next.extend(all.filter(|&id| module.functions.get(id.0 as usize).is_some_and(|f| !f.entry)));
        }
        next.retain(|&id| body_of(module, id).is_some());
        for &callee in &next {
            if !found.contains(&callee) {
                found.push(callee);
            }
        }
        edges.insert(id, next);
    }
    // Strip functions that call nothing left, until nothing changes: what remains is cyclic.
    while let Some(leaf) = edges.iter().find(|(_, next)| next.is_empty()).map(|(&id, _)| id) {
        edges.remove(&leaf);
        edges.values_mut().for_each(|next| _ = next.remove(&leaf));
    }
    (found, indirect || !edges.is_empty())
}

/// Lays out the shared variables that `functions` use: offsets, and where dynamic shared memory begins.
fn shared(module: &Module, functions: &[FuncId], variables: &mut HashMap<VarId, u64>) -> u64 {
    let mentioned: BTreeSet<VarId> = functions
        .iter()
        .filter_map(|&id| body_of(module, id))
        .flat_map(|(_, body)| mentioned_by(body))
        .collect();
    let used: Vec<(VarId, &Variable)> = mentioned
        .into_iter()
        .filter_map(|id| Some((id, module.variables.get(id.0 as usize)?)))
        .filter(|(_, variable)| variable.space == Space::Shared)
        .collect();
    let mut end = 0u64;
    for (id, variable) in used.iter().filter(|(_, variable)| !variable.is_dynamic()) {
        let at = end.next_multiple_of(variable.align.max(1).into());
        variables.insert(*id, at);
        end = at + variable.size;
    }
    let dynamic = || used.iter().filter(|(_, variable)| variable.is_dynamic());
    let align = dynamic().map(|(_, variable)| variable.align).max().unwrap_or(1).max(1);
    if dynamic().next().is_some() {
        end = end.next_multiple_of(align.into());
    }
    dynamic().for_each(|(id, _)| _ = variables.insert(*id, end));
    end
}

pub(crate) fn kernel(
    program: &Program,
    entry: FuncId,
    addresses: &HashMap<VarId, u64>,
) -> LoadResult<Kernel> {
    let module = &program.module;
    let (ids, recursive) = reachable(module, entry);
    let mut layout = Layout { variables: addresses.clone(), functions: HashMap::new() };
    layout.functions.extend(ids.iter().enumerate().map(|(index, &id)| (id, index)));
    let static_shared = shared(module, &ids, &mut layout.variables) as usize;
    let mut communicates = false;
    let mut functions = Vec::with_capacity(ids.len());
    for &id in &ids {
        let Some((function, body)) = body_of(module, id) else { continue };
        functions.push(code(program, id, function, body, &layout, &mut communicates)?);
    }
    let Some(main) = functions.first() else {
        return Err(failed(Pos::default(), "a kernel without a body".into()));
    };
    let function = module.functions.get(entry.0 as usize);
    if let Some(function) = function
        && (function.bounds.reqnctapercluster.is_some_and(|n| n != [1, 1, 1])
            || function.bounds.explicitcluster)
    {
        let message = format!("{}: not supported: clusters are not built yet", function.name);
        return Err(LoadError { kind: LoadErrorKind::Unsupported, ..failed(function.pos, message) });
    }
    let indirect = functions
        .iter()
        .flat_map(|f| &f.steps)
        .any(|step| matches!(&step.op, Op::Call(call) if matches!(call.target, Target::Indirect { .. })));
    let bounds = function.map(|f| f.bounds.clone()).unwrap_or_default();
    let bodies: Vec<&Body> = ids.iter().filter_map(|&id| body_of(module, id)).map(|(_, body)| body).collect();
    Ok(Kernel {
        registers: registers::estimate(module, &bodies, &bounds),
        name: main.name.clone(),
        params: main.params.clone(),
        param_bytes: main.param_bytes,
        bounds,
        functions,
        static_shared,
        communicates,
        recursive: recursive || indirect,
    })
}

fn offsets(list: &[Variable]) -> Vec<(usize, u64)> {
    list.iter().map(|v| (v.offset as usize, v.size)).collect()
}

fn extent(list: &[Variable]) -> usize {
    list.iter().map(|v| (v.offset + v.size) as usize).max().unwrap_or(0)
}

fn code(
    program: &Program,
    id: FuncId,
    function: &Function,
    original: &Body,
    layout: &Layout,
    communicates: &mut bool,
) -> LoadResult<Code> {
    let module = &program.module;
    // The copy is what instructions are decoded against: it grows registers. Its instructions are not looked at.
    let mut body =
        Body { registers: original.registers, reg_decls: original.reg_decls.clone(), ..Body::default() };
    let mut steps = Vec::with_capacity(original.instructions.len());
    for (index, instruction) in original.instructions.iter().enumerate() {
        let (op, class, tells) = lower(module, function, &mut body, original, layout, instruction)?;
        *communicates |= tells;
        let guard = instruction.guard.map(|guard| (guard.reg.index as usize, guard.negated));
        steps.push(Step { op, guard, class, source: program.source(id, index) });
    }
    Ok(Code {
        name: function.name.clone(),
        steps,
        registers: body.registers,
        local_bytes: original.local_bytes as usize,
        argument_bytes: original.argument_bytes as usize,
        param_bytes: if function.entry { function.param_bytes as usize } else { extent(&function.params) },
        return_bytes: extent(&function.returns),
        params: offsets(&function.params),
        returns: offsets(&function.returns),
        address: FUNCTIONS + u64::from(id.0) * FUNCTION_STRIDE,
    })
}
