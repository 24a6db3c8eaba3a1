//! What a decode function sees of its instruction.

use super::lanes::{Lanes, Predicate, Source, Value, Word, ballot, put};
use super::{Class, DecodeError, Execute, LANES, Registers};
use crate::ptx::{Body, Instruction, Module, Operand, Reg, RegClass};

macro_rules! types {
    ($($variant:ident $name:literal $bits:literal,)*) => {
        /// The type an instruction works on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Ty {
            $($variant,)*
        }

        impl Ty {
            pub fn from_name(name: &str) -> Option<Ty> {
                match name {
                    $($name => Some(Ty::$variant),)*
                    _ => None,
                }
            }

            pub fn name(self) -> &'static str {
                match self {
                    $(Ty::$variant => $name,)*
                }
            }

            pub fn bits(self) -> u32 {
                match self {
                    $(Ty::$variant => $bits,)*
                }
            }
        }
    };
}

types! {
    Pred "pred" 1,
    B8 "b8" 8,
    B16 "b16" 16,
    B32 "b32" 32,
    B64 "b64" 64,
    B128 "b128" 128,
    U8 "u8" 8,
    U16 "u16" 16,
    U32 "u32" 32,
    U64 "u64" 64,
    S8 "s8" 8,
    S16 "s16" 16,
    S32 "s32" 32,
    S64 "s64" 64,
    U16x2 "u16x2" 32,
    S16x2 "s16x2" 32,
    F16 "f16" 16,
    F16x2 "f16x2" 32,
    Bf16 "bf16" 16,
    Bf16x2 "bf16x2" 32,
    Tf32 "tf32" 32,
    F32 "f32" 32,
    F64 "f64" 64,
}

impl Ty {
    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn is_integer(self) -> bool {
        self.is_signed() || matches!(self, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64)
    }
}

pub(super) type Result<T, E = DecodeError> = std::result::Result<T, E>;

/// Whether only the executor knows what an operand is worth.
pub(super) fn is_foreign(operand: &Operand) -> bool {
    match operand {
        Operand::Reg(_) | Operand::Not(_) | Operand::Pair(..) | Operand::Sink => false,
        Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => false,
        Operand::Vector(parts) => parts.iter().any(is_foreign),
        _ => true,
    }
}

/// A condition: one bit a lane.
pub(super) type Test = Box<dyn Fn(&Registers) -> u32 + Send + Sync>;

/// One instruction on its way to a closure. Modifiers are taken one by one; any that is left over is an error.
pub(super) struct Cx<'a> {
    module: &'a Module,
    body: &'a Body,
    instruction: &'a Instruction,
    modifiers: Vec<&'a str>,
    /// What it counts as.
    pub class: Class,
}

impl<'a> Cx<'a> {
    pub fn new(module: &'a Module, body: &'a Body, instruction: &'a Instruction) -> Self {
        let class = Class::Move;
        let modifiers = instruction.modifiers.iter().map(|&name| module.text(name)).collect();
        Cx { module, body, instruction, modifiers, class }
    }

    pub fn error(&self, message: impl Into<String>) -> DecodeError {
        let text = |name| self.module.text(name);
        let modifiers = self.instruction.modifiers.iter().map(|&name| text(name));
        let opcode: Vec<&str> = std::iter::once(text(self.instruction.opcode)).chain(modifiers).collect();
        DecodeError { pos: self.instruction.pos, opcode: opcode.join("."), message: message.into() }
    }

    /// The type that the modifiers end in; `__vimin_s16x2_relu` puts `.relu` behind it.
    pub fn last_type(&self) -> Option<Ty> {
        let last = self.modifiers.iter().rev().find(|name| **name != "relu");
        last.and_then(|name| Ty::from_name(name))
    }

    /// Whether modifier `name` is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let found = self.modifiers.iter().position(|&m| m == name);
        found.map(|at| self.modifiers.remove(at)).is_some()
    }

    /// The first modifier that `table` has.
    pub fn pick<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let known = |name: &&str| table.iter().find(|(text, _)| text == name).map(|&(_, value)| value);
        let at = self.modifiers.iter().position(|name| known(name).is_some())?;
        known(&self.modifiers.remove(at))
    }

    /// As [`Cx::pick`], where one of them must be.
    pub fn need<T: Copy>(&mut self, table: &[(&str, T)]) -> Result<T> {
        self.pick(table).ok_or_else(|| {
            let names: Vec<String> = table.iter().map(|(name, _)| format!(".{name}")).collect();
            self.error(format!("one of {} is missing", names.join(" ")))
        })
    }

    /// The next type.
    pub fn ty(&mut self) -> Result<Ty> {
        match self.modifiers.first().copied() {
            Some(name) => match Ty::from_name(name) {
                Some(ty) => {
                    self.modifiers.remove(0);
                    Ok(ty)
                }
                None => Err(self.error(format!("modifier .{name} is not supported here"))),
            },
            None => Err(self.error("a type is missing")),
        }
    }

    /// The next type, which must be the last and one of `allowed`.
    pub fn only(&mut self, allowed: &[Ty]) -> Result<Ty> {
        let ty = self.ty()?;
        self.check(ty, allowed)?;
        Ok(ty)
    }

    pub fn check(&self, ty: Ty, allowed: &[Ty]) -> Result<()> {
        match allowed.contains(&ty) {
            true => Ok(()),
            false => Err(self.unsupported(ty)),
        }
    }

    pub fn unsupported(&self, ty: Ty) -> DecodeError {
        self.error(format!("type .{} is not allowed here", ty.name()))
    }

    /// Refuses what no one took.
    pub fn finish(&self) -> Result<()> {
        match self.modifiers.first() {
            None => Ok(()),
            Some(name) => Err(self.error(format!("modifier .{name} is not supported here"))),
        }
    }

    pub fn operands(&self) -> &'a [Operand] {
        &self.instruction.operands
    }

    pub fn count(&self, wanted: usize) -> Result<()> {
        match self.operands().len() {
            n if n == wanted => Ok(()),
            n => Err(self.error(format!("{wanted} operands are needed, there are {n}"))),
        }
    }

    pub fn operand(&self, at: usize) -> Result<&'a Operand> {
        self.operands().get(at).ok_or_else(|| self.error(format!("operand {} is missing", at + 1)))
    }

    /// The index of `reg`, which must be of `class`.
    pub fn index(&self, reg: Reg, class: RegClass) -> Result<usize> {
        let name = || self.body.register_name(reg).unwrap_or_else(|| format!("{reg:?}"));
        if reg.class != class {
            return Err(self.error(format!("register {} is {:?}, {class:?} is needed", name(), reg.class)));
        }
        match reg.index < self.body.registers[class as usize] {
            true => Ok(reg.index as usize),
            false => Err(self.error(format!("register {} does not exist", name()))),
        }
    }

    /// Bits of the type that `reg` was declared with.
    pub fn declared_bits(&self, reg: Reg) -> Option<u32> {
        self.body.declaration(reg).map(|declaration| 8 * declaration.ty.size())
    }

    pub fn target<V: Value>(&self, at: usize) -> Result<usize> {
        match *self.operand(at)? {
            Operand::Reg(reg) => self.index(reg, V::Word::CLASS),
            _ => Err(self.error(format!("operand {} must be a {:?} register", at + 1, V::Word::CLASS))),
        }
    }

    pub fn source<V: Value>(&self, at: usize) -> Result<Source<V::Word>> {
        self.source_of::<V>(self.operand(at)?, at)
    }

    pub fn source_of<V: Value>(&self, operand: &Operand, at: usize) -> Result<Source<V::Word>> {
        if let Operand::Reg(reg) = *operand {
            return self.index(reg, V::Word::CLASS).map(Source::Reg);
        }
        let constant = V::constant(operand).ok_or_else(|| {
            let class = V::Word::CLASS;
            self.error(format!("operand {} must be a {class:?} register or a constant that fits", at + 1))
        })?;
        Ok(Source::Constant(Box::new([constant; LANES])))
    }

    pub fn predicate(&self, at: usize) -> Result<Predicate> {
        Ok(match *self.operand(at)? {
            Operand::Reg(reg) => Predicate::Reg { index: self.index(reg, RegClass::Pred)?, flip: 0 },
            Operand::Not(reg) => Predicate::Reg { index: self.index(reg, RegClass::Pred)?, flip: u32::MAX },
            Operand::Int(value) => Predicate::Constant(if value != 0 { u32::MAX } else { 0 }),
            _ => return Err(self.error(format!("operand {} must be a predicate", at + 1))),
        })
    }

    pub fn predicate_target(&self, at: usize) -> Result<usize> {
        match *self.operand(at)? {
            Operand::Reg(reg) => self.index(reg, RegClass::Pred),
            _ => Err(self.error(format!("operand {} must be a predicate register", at + 1))),
        }
    }

    /// `d = f(a)` in every lane.
    pub fn unary<D: Value, A: Value>(&self, f: impl Fn(A) -> D + Send + Sync + 'static) -> Result<Execute> {
        self.count(2)?;
        let (d, a) = (self.target::<D>(0)?, self.source::<A>(1)?);
        Ok(Box::new(move |regs, mask| {
            let mut out: Lanes<D::Word> = Default::default();
            let a = a.lanes(regs);
            for lane in 0..LANES {
                out[lane] = f(A::of(a[lane])).word();
            }
            put(regs, d, &out, mask);
        }))
    }

    /// `d = f(a, b)` in every lane.
    pub fn binary<D: Value, A: Value, B: Value>(
        &self,
        f: impl Fn(A, B) -> D + Send + Sync + 'static,
    ) -> Result<Execute> {
        self.count(3)?;
        let (d, a, b) = (self.target::<D>(0)?, self.source::<A>(1)?, self.source::<B>(2)?);
        Ok(Box::new(move |regs, mask| {
            let mut out: Lanes<D::Word> = Default::default();
            let (a, b) = (a.lanes(regs), b.lanes(regs));
            for lane in 0..LANES {
                out[lane] = f(A::of(a[lane]), B::of(b[lane])).word();
            }
            put(regs, d, &out, mask);
        }))
    }

    /// `d = f(a, b, c)` in every lane.
    pub fn ternary<D: Value, A: Value, B: Value, C: Value>(
        &self,
        f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
    ) -> Result<Execute> {
        self.count(4)?;
        let d = self.target::<D>(0)?;
        let (a, b, c) = (self.source::<A>(1)?, self.source::<B>(2)?, self.source::<C>(3)?);
        Ok(Box::new(move |regs, mask| {
            let mut out: Lanes<D::Word> = Default::default();
            let (a, b, c) = (a.lanes(regs), b.lanes(regs), c.lanes(regs));
            for lane in 0..LANES {
                out[lane] = f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane])).word();
            }
            put(regs, d, &out, mask);
        }))
    }

    /// `d = f(a, b, c, e)` in every lane, where `c` and `e` are 32 bits wide.
    pub fn quaternary<D: Value, A: Value, B: Value>(
        &self,
        f: impl Fn(A, B, u32, u32) -> D + Send + Sync + 'static,
    ) -> Result<Execute> {
        self.count(5)?;
        let (d, a, b) = (self.target::<D>(0)?, self.source::<A>(1)?, self.source::<B>(2)?);
        let (c, e) = (self.source::<u32>(3)?, self.source::<u32>(4)?);
        Ok(Box::new(move |regs, mask| {
            let mut out: Lanes<D::Word> = Default::default();
            let (a, b, c, e) = (a.lanes(regs), b.lanes(regs), c.lanes(regs), e.lanes(regs));
            for lane in 0..LANES {
                out[lane] = f(A::of(a[lane]), B::of(b[lane]), c[lane], e[lane]).word();
            }
            put(regs, d, &out, mask);
        }))
    }

    /// One bit a lane from operands `at` and `at + 1`.
    pub fn test<A: Value>(
        &self,
        at: usize,
        f: impl Fn(A, A) -> bool + Send + Sync + 'static,
    ) -> Result<Test> {
        let (a, b) = (self.source::<A>(at)?, self.source::<A>(at + 1)?);
        Ok(Box::new(move |regs| {
            let (a, b) = (a.lanes(regs), b.lanes(regs));
            ballot(|lane| f(A::of(a[lane]), A::of(b[lane])))
        }))
    }
}
