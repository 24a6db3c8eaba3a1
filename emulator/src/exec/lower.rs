//! From parsed instructions to executable ones. What an opcode becomes stands in [`TABLE`]; opcodes that are not in it
//! are offered to [`isa`]. To add an instruction: a row here and its function in the file of its family.

use super::counters::Class;
use super::env::{ARGUMENTS_AT, FUNCTION_STRIDE, FUNCTIONS, RETURNS_AT};
use super::program::{Act, Op, Source};
use super::{async_copy, atomic, barrier, branch, collective, fence, load_store, special, tensor};
use crate::isa;
use crate::ptx::{
    Body, FuncId, Function, Instruction, Module, Operand, Pos, Reg, RegClass, Symbol, Type, VarId,
};
use std::collections::HashMap;
use std::fmt;

/// What is wrong with a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// It breaks the rules of PTX.
    Invalid,
    /// It asks for what is not built.
    Unsupported,
    /// Its variables do not fit into device memory.
    OutOfMemory,
}

/// Why a module was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// Of what kind.
    pub kind: LoadErrorKind,
    /// Where.
    pub pos: Pos,
    /// The function, if it is about one.
    pub function: String,
    /// What.
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.function.is_empty() {
            true => write!(f, "{}: {}", self.pos, self.message),
            false => write!(f, "{}: in {}: {}", self.pos, self.function, self.message),
        }
    }
}

impl std::error::Error for LoadError {}

pub(crate) type LoadResult<T> = Result<T, LoadError>;

/// Makes an instruction executable.
pub(crate) type Row = fn(&mut Lower<'_>) -> LoadResult<(Op, Class)>;

/// What each opcode becomes.
pub(crate) const TABLE: &[(&str, Row)] = &[
    ("activemask", collective::activemask),
    ("atom", atomic::lower),
    ("bar", barrier::lower),
    ("barrier", barrier::lower),
    ("bra", branch::bra),
    ("brkpt", branch::stop),
    ("brx", branch::brx),
    ("call", branch::call),
    ("cp", async_copy::lower),
    ("cvta", load_store::cvta),
    ("discard", load_store::prefetch),
    ("elect", collective::elect),
    ("exit", branch::exit),
    ("fence", fence::lower),
    ("griddepcontrol", fence::griddepcontrol),
    ("isspacep", load_store::isspacep),
    ("ld", load_store::load),
    ("ldmatrix", tensor::ldmatrix),
    ("ldu", load_store::load),
    ("match", collective::matching),
    ("membar", fence::lower),
    ("mma", tensor::mma),
    ("mov", special::mov),
    ("movmatrix", tensor::movmatrix),
    ("nanosleep", fence::nanosleep),
    ("pmevent", fence::pmevent),
    ("prefetch", load_store::prefetch),
    ("prefetchu", load_store::prefetch),
    ("red", atomic::lower),
    ("redux", collective::redux),
    ("ret", branch::ret),
    ("shfl", collective::shuffle),
    ("st", load_store::store),
    ("trap", branch::stop),
    ("vote", collective::vote),
];

/// Opcodes that later work brings.
const LATER: &[&str] = &[
    "stmatrix",
    "wmma",
    "wgmma",
    "mbarrier",
    "multimem",
    "mapa",
    "getctarank",
    "setmaxnreg",
    "tensormap",
    "clusterlaunchcontrol",
    "applypriority",
    "createpolicy",
    "tcgen05",
];

/// Where the variables and functions of a module lie.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// Addresses of `.global` and `.const` variables; offsets of `.shared` ones that the kernel uses.
    pub variables: HashMap<VarId, u64>,
    /// Index in the kernel of each function it may reach.
    pub functions: HashMap<FuncId, usize>,
}

/// An address operand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AddressOf {
    pub base: Base,
    pub offset: i64,
}

/// What an address counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Constant,
    Reg32(usize),
    Reg64(usize),
    /// The frame's local variables.
    Local,
}

/// One instruction on its way. Modifiers are taken one by one; any left over is an error.
pub(crate) struct Lower<'a> {
    pub module: &'a Module,
    pub function: &'a Function,
    /// The function's, with registers added as they are needed; its instructions are not in it.
    pub body: &'a mut Body,
    pub original: &'a Body,
    pub layout: &'a Layout,
    pub instruction: Instruction,
    modifiers: Vec<&'a str>,
    pub before: Vec<Act>,
    /// Set by what lets blocks learn of each other.
    pub communicates: bool,
}

/// Makes one instruction executable.
pub(crate) fn lower<'a>(
    module: &'a Module,
    function: &'a Function,
    body: &'a mut Body,
    original: &'a Body,
    layout: &'a Layout,
    instruction: &Instruction,
) -> LoadResult<(Op, Class, bool)> {
    let modifiers = instruction.modifiers.iter().map(|&name| module.text(name)).collect();
    let instruction = instruction.clone();
    let (before, communicates) = (Vec::new(), false);
    let mut l =
        Lower { module, function, body, original, layout, instruction, modifiers, before, communicates };
    let opcode = l.opcode();
    let row = TABLE.iter().find(|(name, _)| *name == opcode).map(|&(_, row)| row);
    if row.is_none_or(|_| opcode != "mov" && opcode != "call") {
        l.resolve()?;
    }
    let (op, class) = match row {
        Some(row) => {
            let done = row(&mut l)?;
            if opcode != "mov"
                && let Some(left) = l.modifiers.first()
            {
                let error = l.error(format!("modifier .{left} is not supported here"));
                return Err(LoadError { kind: LoadErrorKind::Unsupported, ..error });
            }
            done
        }
        None if LATER.contains(&opcode) => return Err(l.unsupported("not built yet")),
        None => l.registers_only()?,
    };
    let op = if l.before.is_empty() { op } else { Op::Prepared(Box::new((l.before, op))) };
    Ok((op, class, l.communicates))
}

impl<'a> Lower<'a> {
    pub fn opcode(&self) -> &'a str {
        self.module.text(self.instruction.opcode)
    }

    /// The opcode with all its modifiers.
    pub fn spelled(&self) -> String {
        spelled(self.module, &self.instruction)
    }

    pub fn error(&self, message: impl fmt::Display) -> LoadError {
        LoadError {
            kind: LoadErrorKind::Invalid,
            pos: self.instruction.pos,
            function: self.function.name.clone(),
            message: format!("{}: {message}", self.spelled()),
        }
    }

    pub fn unsupported(&self, why: &str) -> LoadError {
        LoadError { kind: LoadErrorKind::Unsupported, ..self.error(format!("not supported: {why}")) }
    }

    /// What [`isa`] makes of it.
    pub fn registers_only(&mut self) -> LoadResult<(Op, Class)> {
        // A form of an instruction that is not known here: which of them PTX has and which not is not told apart.
        let kind = LoadErrorKind::Unsupported;
        let error =
            |pos, message: String| LoadError { kind, pos, function: self.function.name.clone(), message };
        match isa::decode(self.module, self.body, &self.instruction) {
            Ok(isa::Decoded::Alu { run, class }) => Ok((Op::Alu(run), class_of(class))),
            Ok(isa::Decoded::NotMine) => Err(self.unsupported("no such instruction is known")),
            Err(e) => Err(error(e.pos, format!("{}: {}", e.opcode, e.message))),
        }
    }

    /// Takes a modifier.
    pub fn has(&mut self, name: &str) -> bool {
        let at = self.modifiers.iter().position(|&m| m == name);
        at.map(|at| self.modifiers.remove(at)).is_some()
    }

    /// Takes the first modifier that `known` has.
    pub fn pick_of<T: Copy>(&mut self, known: &[(&str, T)]) -> Option<T> {
        let value = |name: &str| known.iter().find(|(text, _)| *text == name).map(|&(_, value)| value);
        let at = self.modifiers.iter().position(|name| value(name).is_some())?;
        value(self.modifiers.remove(at))
    }

    /// Takes one of these modifiers.
    pub fn pick(&mut self, known: &'static [&'static str]) -> LoadResult<&'static str> {
        for &name in known {
            if self.has(name) {
                return Ok(name);
            }
        }
        Err(self.error(format!("one of .{} is missing", known.join(" ."))))
    }

    /// Takes all modifiers that `accept` knows, which mean nothing here.
    pub fn ignore(&mut self, accept: impl Fn(&str) -> bool) {
        self.modifiers.retain(|name| !accept(name));
    }

    /// Takes the last modifier as a type.
    pub fn ty(&mut self) -> LoadResult<Type> {
        let ty = self.modifiers.last().and_then(|name| Type::from_name(name));
        match ty {
            Some(ty) => {
                self.modifiers.pop();
                Ok(ty)
            }
            None => Err(self.error("a type is missing")),
        }
    }

    /// Takes the last modifier, whatever it is.
    pub fn last(&mut self) -> LoadResult<&'a str> {
        self.modifiers.pop().ok_or_else(|| self.error("a type is missing"))
    }

    pub fn operands(&self) -> &[Operand] {
        &self.instruction.operands
    }

    pub fn operand(&self, at: usize) -> LoadResult<Operand> {
        self.operands().get(at).cloned().ok_or_else(|| self.error(format!("operand {} is missing", at + 1)))
    }

    /// The register that operand `at` must be.
    pub fn register(&self, at: usize, class: RegClass) -> LoadResult<u32> {
        match self.operand(at)? {
            Operand::Reg(reg) if reg.class == class => Ok(reg.index),
            _ => Err(self.error(format!("operand {} must be a register of class {class:?}", at + 1))),
        }
    }

    pub fn source(&self, at: usize, class: RegClass) -> LoadResult<Source> {
        let source = self.any(&self.operand(at)?)?;
        let fits = match source {
            Source::Constant(_) => true,
            Source::B16(_) => class == RegClass::B16,
            Source::B32(_) => class == RegClass::B32,
            Source::B64(_) => class == RegClass::B64,
            Source::B128(_) => class == RegClass::B128,
            Source::Pred(..) => class == RegClass::Pred,
        };
        match fits {
            true => Ok(source),
            false => Err(self.error(format!("operand {} must be of class {class:?}", at + 1))),
        }
    }

    pub fn predicate(&self, at: usize) -> LoadResult<Source> {
        match self.operand(at)? {
            operand if barrier::is_predicate(&operand) => self.any(&operand),
            Operand::Int(value) => Ok(Source::Constant((value != 0).into())),
            _ => Err(self.error(format!("operand {} must be a predicate", at + 1))),
        }
    }

    /// A register of any class or a constant.
    pub fn any(&self, operand: &Operand) -> LoadResult<Source> {
        Ok(match *operand {
            Operand::Reg(reg) => of_register(reg),
            Operand::Not(reg) => Source::Pred(reg.index as usize, true),
            Operand::Int(value) => Source::Constant(value as u64),
            Operand::F32(bits) => Source::Constant(bits.into()),
            Operand::F64(bits) => Source::Constant(bits),
            _ => return Err(self.error("an operand must be a register or a constant")),
        })
    }

    pub fn address(&self, at: usize) -> LoadResult<AddressOf> {
        let Operand::Address(address) = self.operand(at)? else {
            return Err(self.error(format!("operand {} must be an address", at + 1)));
        };
        use crate::ptx::Base as B;
        Ok(match address.base {
            B::Reg(Reg { class: RegClass::B32, index }) => {
                AddressOf { base: Base::Reg32(index as usize), offset: address.offset }
            }
            B::Reg(reg) => AddressOf { base: Base::Reg64(reg.index as usize), offset: address.offset },
            B::Absolute => AddressOf { base: Base::Constant, offset: address.offset },
            B::Symbol(symbol) => {
                let (base, at) = self.symbol(symbol)?;
                AddressOf { base, offset: address.offset.wrapping_add(at as i64) }
            }
        })
    }

    /// A symbol's address in its own space.
    pub fn symbol(&self, symbol: Symbol) -> LoadResult<(Base, u64)> {
        let offset = |list: &[crate::ptx::Variable], at: u32| list.get(at as usize).map(|v| v.offset);
        let address = match symbol {
            Symbol::Variable(id) => self.layout.variables.get(&id).copied(),
            Symbol::Function(id) => Some(FUNCTIONS + u64::from(id.0) * FUNCTION_STRIDE),
            Symbol::Param(at) => offset(&self.function.params, at),
            Symbol::Return(at) => offset(&self.function.returns, at).map(|o| RETURNS_AT + o),
            Symbol::Argument(at) => offset(&self.original.arguments, at).map(|o| ARGUMENTS_AT + o),
            Symbol::Local(at) => {
                let offset = offset(&self.original.locals, at);
                return offset.map(|o| (Base::Local, o)).ok_or_else(|| self.error("no such variable"));
            }
        };
        let missing = || self.error("names a variable that is declared here but defined nowhere");
        address.map(|address| (Base::Constant, address)).ok_or_else(missing)
    }

    /// A register that the text does not have.
    pub fn temporary(&mut self, class: RegClass) -> Reg {
        let index = self.body.registers[class as usize];
        self.body.registers[class as usize] += 1;
        Reg { class, index }
    }

    /// Puts registers and constants in the place of what only the machine knows.
    fn resolve(&mut self) -> LoadResult<()> {
        for at in 0..self.instruction.operands.len() {
            let operand = match self.instruction.operands[at].clone() {
                Operand::Vector(mut parts) => {
                    for part in parts.iter_mut() {
                        *part = self.resolved(part.clone())?;
                    }
                    Operand::Vector(parts)
                }
                operand => self.resolved(operand)?,
            };
            self.instruction.operands[at] = operand;
        }
        Ok(())
    }

    pub fn resolved(&mut self, operand: Operand) -> LoadResult<Operand> {
        Ok(match operand {
            Operand::Special(special) => {
                let class = match special.bits() {
                    1 => RegClass::Pred,
                    64 => RegClass::B64,
                    _ => RegClass::B32,
                };
                let reg = self.temporary(class);
                let act = special::fetch(self, special, of_register(reg))?;
                self.before.push(act);
                Operand::Reg(reg)
            }
            Operand::Symbol(Symbol::Param(_) | Symbol::Return(_) | Symbol::Argument(_), _)
                if !self.function.entry =>
            {
                return Err(self.unsupported("only a kernel's parameters have addresses"));
            }
            Operand::Symbol(symbol, offset) => match self.symbol(symbol)? {
                (Base::Local, at) => {
                    let reg = self.temporary(RegClass::B64);
                    self.before
                        .push(special::local_address(of_register(reg), at.wrapping_add(offset as u64)));
                    Operand::Reg(reg)
                }
                (_, at) => Operand::Int(at.wrapping_add(offset as u64) as i64),
            },
            other => other,
        })
    }
}

/// The register as a source.
pub(crate) fn of_register(reg: Reg) -> Source {
    let index = reg.index as usize;
    match reg.class {
        RegClass::Pred => Source::Pred(index, false),
        RegClass::B16 => Source::B16(index),
        RegClass::B32 => Source::B32(index),
        RegClass::B64 => Source::B64(index),
        RegClass::B128 => Source::B128(index),
    }
}

/// An instruction as opcode and modifiers.
pub(crate) fn spelled(module: &Module, instruction: &Instruction) -> String {
    let modifiers = instruction.modifiers.iter().map(|&name| module.text(name));
    let parts: Vec<&str> = std::iter::once(module.text(instruction.opcode)).chain(modifiers).collect();
    parts.join(".")
}

fn class_of(class: isa::Class) -> Class {
    match class {
        isa::Class::IntegerAlu => Class::Integer,
        isa::Class::FloatAlu32 => Class::Float,
        isa::Class::FloatAlu64 => Class::Double,
        isa::Class::HalfAlu => Class::Half,
        isa::Class::Conversion => Class::Convert,
        isa::Class::Move => Class::Move,
        isa::Class::Compare => Class::Compare,
        isa::Class::Logic => Class::Logic,
        isa::Class::Special => Class::Special,
    }
}
