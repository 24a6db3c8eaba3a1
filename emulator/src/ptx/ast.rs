//! The resolved module. Nothing here needs a string to be executed: names are kept for reports only.

pub use super::types::*;
use super::{Pos, special::Special};

/// An interned opcode or modifier; [`Module::text`] gives it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub u32);

/// Index into [`Module::variables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarId(pub u32);

/// Index into [`Module::functions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FuncId(pub u32);

/// One PTX text.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// `.version`, as (major, minor).
    pub version: (u32, u32),
    /// `.target`.
    pub target: Target,
    /// `.file` entries in the order of the text.
    pub files: Vec<SourceFile>,
    /// Every `.global`, `.const` and `.shared` variable, those declared inside functions among them.
    pub variables: Vec<Variable>,
    /// Every function, entry points and bodiless declarations among them.
    pub functions: Vec<Function>,
    /// Sections that were skipped as a whole.
    pub sections: Vec<Section>,
    /// Pragmas; none changes what a program means.
    pub pragmas: Vec<Pragma>,
    /// The texts of [`Name`]s. Opcodes have no dot in front, modifiers none either.
    pub names: Vec<String>,
}

impl Module {
    /// The text of an opcode or modifier, without its dot.
    pub fn text(&self, name: Name) -> &str {
        self.names.get(name.0 as usize).map_or("", String::as_str)
    }

    /// The function called `name`.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name)
    }

    /// The module-scope variable called `name`.
    pub fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().find(|v| v.owner.is_none() && v.name == name)
    }

    /// The name of source file `index` as `.loc` counts them.
    pub fn file(&self, index: u32) -> Option<&str> {
        self.files.iter().find(|f| f.index == index).map(|f| f.name.as_str())
    }
}

/// `.target sm_90a, debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The number behind `sm_`.
    pub arch: u32,
    /// `a` (this architecture only), `f` (this family only) or none.
    pub suffix: Option<char>,
    /// Whether the module says that it carries debug information.
    pub debug: bool,
}

/// `.file 1 "kernel.cu"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// What `.loc` calls it.
    pub index: u32,
    /// Its path as the compiler was given it.
    pub name: String,
    /// Modification time and size, where stated.
    pub stamp: Option<(u64, u64)>,
}

/// A section that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, with the dot.
    pub name: String,
    /// Where it starts.
    pub pos: Pos,
    /// Tokens between its braces.
    pub tokens: usize,
    /// NUL-terminated texts of `.debug_str`, by label: the only thing of a section that is kept, since `.loc` names
    /// inlined functions through it.
    pub strings: Vec<(String, String)>,
}

/// `.pragma "nounroll";`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pragma {
    /// The text between the quotes.
    pub text: String,
    /// Where it stands.
    pub pos: Pos,
    /// The function it stands in, if any.
    pub function: Option<FuncId>,
}

/// A variable or a parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Its name; `_` for a parameter of a prototype.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Type of one element.
    pub ty: Type,
    /// Lanes of the vector type: 1, 2 or 4.
    pub lanes: u32,
    /// Array dimensions; none for a scalar. An unsized first dimension is 0.
    pub dims: Vec<u64>,
    /// Alignment in bytes, as declared or natural.
    pub align: u32,
    /// Bytes; 0 for an unsized array.
    pub size: u64,
    /// Byte offset: of a parameter in its parameter block, of a `.local` variable in the function's frame, of an
    /// outgoing argument in the argument area. 0 in the other spaces, whose layout is the loader's.
    pub offset: u64,
    /// Who may see it.
    pub linkage: Linkage,
    /// The initialised elements in the order of the text; all other bytes are zero.
    pub init: Vec<Init>,
    /// The function it was declared in.
    pub owner: Option<FuncId>,
    /// `.attribute(.managed)`.
    pub managed: bool,
    /// `.ptr`: what a parameter points to.
    pub pointer: Option<Pointer>,
    /// Where its name stands.
    pub pos: Pos,
}

impl Variable {
    /// Whether its size is chosen at launch: `.extern .shared x[]`.
    pub fn is_dynamic(&self) -> bool {
        self.space == Space::Shared && self.is_unsized()
    }

    /// Whether its first dimension was left open.
    pub fn is_unsized(&self) -> bool {
        self.dims.first() == Some(&0)
    }

    /// Whether `other` declares the same thing, whatever its name, place and initialiser.
    pub fn same_shape(&self, other: &Variable) -> bool {
        (self.space, self.ty, self.lanes, &self.dims, self.align)
            == (other.space, other.ty, other.lanes, &other.dims, other.align)
    }
}

/// `.ptr .global .align 16` of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// The space pointed into; none means generic.
    pub space: Option<Space>,
    /// The alignment promised.
    pub align: u32,
}

/// One initialised element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Init {
    /// Byte offset in the variable.
    pub offset: u64,
    /// Bytes written, little end first.
    pub size: u32,
    /// What is written.
    pub value: InitValue,
}

/// The value of an initialised element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum InitValue {
    /// These bits.
    Bits(u64),
    /// The address of `symbol` plus `addend`.
    Address {
        /// A variable or a function.
        symbol: Symbol,
        /// Bytes added.
        addend: i64,
        /// A generic address rather than one in the symbol's own space.
        generic: bool,
        /// `0xFF00(symbol)`: only these bits of the address, shifted down.
        mask: Option<u64>,
    },
}

/// A register of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg {
    /// Its class.
    pub class: RegClass,
    /// Its number in that class.
    pub index: u32,
}

/// `.reg .f32 %f<10>;` or one name of `.reg .b32 a, b;`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegDecl {
    /// The name, or what the numbers follow.
    pub name: String,
    /// The declared type.
    pub ty: Type,
    /// The first register.
    pub first: Reg,
    /// How many follow a prefix; none for a plain name.
    pub range: Option<u32>,
    /// Where the name stands.
    pub pos: Pos,
}

/// A function or a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its name, as mangled.
    pub name: String,
    /// `.entry` rather than `.func`.
    pub entry: bool,
    /// Who may see it.
    pub linkage: Linkage,
    /// What it returns.
    pub returns: Vec<Variable>,
    /// What it takes.
    pub params: Vec<Variable>,
    /// Bytes of the parameter block (of a kernel: what a launch must supply).
    pub param_bytes: u64,
    /// Launch bounds and the like.
    pub bounds: Bounds,
    /// Its code; none for a declaration.
    pub body: Option<Body>,
    /// Where its name stands.
    pub pos: Pos,
}

/// Performance directives of a function.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// `.maxntid`: most threads in a block, by axis.
    pub maxntid: Option<[u32; 3]>,
    /// `.reqntid`: exactly these.
    pub reqntid: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub minnctapersm: Option<u32>,
    /// `.maxnreg`.
    pub maxnreg: Option<u32>,
    /// `.reqnctapercluster`: blocks of a cluster, by axis.
    pub reqnctapercluster: Option<[u32; 3]>,
    /// `.maxclusterrank`.
    pub maxclusterrank: Option<u32>,
    /// `.explicitcluster`.
    pub explicitcluster: bool,
    /// `.blocksareclusters`.
    pub blocksareclusters: bool,
    /// `.noreturn`.
    pub noreturn: bool,
}

/// The code of a function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Body {
    /// Registers of each class, by `RegClass as usize`.
    pub registers: [u32; 5],
    /// Their declarations, nested scopes among them, in the order of the text.
    pub reg_decls: Vec<RegDecl>,
    /// `.local` variables.
    pub locals: Vec<Variable>,
    /// Bytes of the frame that holds them.
    pub local_bytes: u64,
    /// `.param` variables of call sequences. Those of sequences that are never open together share offsets.
    pub arguments: Vec<Variable>,
    /// Bytes of the area that holds them.
    pub argument_bytes: u64,
    /// The instructions of all scopes, in the order of the text.
    pub instructions: Vec<Instruction>,
    /// The `.loc`s that [`Instruction::loc`] counts.
    pub locs: Vec<Loc>,
    /// Labels of instructions; an index may be one past the last instruction.
    pub labels: Vec<(String, u32)>,
    /// `.branchtargets` lists, as instruction indices.
    pub branch_tables: Vec<Vec<u32>>,
    /// `.calltargets` lists.
    pub call_tables: Vec<Vec<FuncId>>,
    /// `.callprototype`s.
    pub prototypes: Vec<Prototype>,
}

impl Body {
    /// The declaration of `reg`.
    pub fn declaration(&self, reg: Reg) -> Option<&RegDecl> {
        self.reg_decls.iter().find(|d| {
            d.first.class == reg.class
                && (d.first.index..d.first.index + d.range.unwrap_or(1)).contains(&reg.index)
        })
    }

    /// The name of `reg` in the text.
    pub fn register_name(&self, reg: Reg) -> Option<String> {
        self.declaration(reg).map(|d| match d.range {
            Some(_) => format!("{}{}", d.name, reg.index - d.first.index),
            None => d.name.clone(),
        })
    }

    /// The source position in force at instruction `index`.
    pub fn loc(&self, index: usize) -> Option<&Loc> {
        self.locs.get(self.instructions.get(index)?.loc? as usize)
    }
}

/// `.callprototype`: what an indirect call passes.
#[derive(Debug, Clone, PartialEq)]
pub struct Prototype {
    /// Its label.
    pub name: String,
    /// What is returned.
    pub returns: Vec<Variable>,
    /// What is passed.
    pub params: Vec<Variable>,
    /// `.noreturn`.
    pub noreturn: bool,
}

/// `.loc`: a place in a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Loc {
    /// The file, as [`Module::file`] counts.
    pub file: u32,
    /// The line; 0 where the compiler has none.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// Set for code that was inlined.
    pub inlined: Option<Inlined>,
}

/// Where inlined code came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inlined {
    /// Label of the inlined function's name; see [`Section::strings`].
    pub function: Name,
    /// Bytes added to the label.
    pub offset: u32,
    /// File of the call.
    pub file: u32,
    /// Line of the call.
    pub line: u32,
    /// Column of the call.
    pub column: u32,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// What stands before the first dot.
    pub opcode: Name,
    /// What follows it, without dots.
    pub modifiers: Box<[Name]>,
    /// `@%p` or `@!%p`.
    pub guard: Option<Guard>,
    /// The operands between commas.
    pub operands: Box<[Operand]>,
    /// Index into [`Body::locs`].
    pub loc: Option<u32>,
    /// Where the opcode stands.
    pub pos: Pos,
}

/// The predicate of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Register of class [`RegClass::Pred`].
    pub reg: Reg,
    /// `@!`.
    pub negated: bool,
}

/// What a name that is not a register or a label stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// A `.global`, `.const` or `.shared` variable.
    Variable(VarId),
    /// A function.
    Function(FuncId),
    /// The function's own parameter, by position.
    Param(u32),
    /// The function's own return parameter, by position.
    Return(u32),
    /// One of [`Body::locals`].
    Local(u32),
    /// One of [`Body::arguments`].
    Argument(u32),
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// `%r1`.
    Reg(Reg),
    /// `!%p1`.
    Not(Reg),
    /// `%p1|%p2`; a side may be `_`.
    Pair(Option<Reg>, Option<Reg>),
    /// `%tid.x`.
    Special(Special),
    /// An integer: the low 64 bits, two's complement.
    Int(i64),
    /// `0f3F800000`, as bits.
    F32(u32),
    /// `0d3FF0000000000000` or a decimal number, as bits.
    F64(u64),
    /// A symbol's address plus so many bytes, or the function called.
    Symbol(Symbol, i64),
    /// `[base+offset]`.
    Address(Address),
    /// `[base+offset, {x, y}]`: a tensor map or the like and what follows in the brackets.
    Tensor(Box<(Address, Vec<Operand>)>),
    /// `{a, b, c, d}`.
    Vector(Box<[Operand]>),
    /// `(a, b)` of a call.
    List(Box<[Operand]>),
    /// `_`.
    Sink,
    /// Index of an instruction (or one past the last).
    Label(u32),
    /// Index into [`Body::branch_tables`].
    BranchTable(u32),
    /// Index into [`Body::call_tables`].
    CallTable(u32),
    /// Index into [`Body::prototypes`].
    Prototype(u32),
}

/// A memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// What the offset counts from.
    pub base: Base,
    /// Bytes added.
    pub offset: i64,
}

/// What an address counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// A 32- or 64-bit register.
    Reg(Reg),
    /// A variable or parameter.
    Symbol(Symbol),
    /// Nothing: the offset is the address.
    Absolute,
}
