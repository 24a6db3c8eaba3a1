//! Types, state spaces, linkage and register classes.

/// A fundamental type.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    F32,
    F64,
}

impl Type {
    const TABLE: [(&'static str, Type, u32); 18] = [
        ("pred", Type::Pred, 1),
        ("b8", Type::B8, 1),
        ("b16", Type::B16, 2),
        ("b32", Type::B32, 4),
        ("b64", Type::B64, 8),
        ("b128", Type::B128, 16),
        ("u8", Type::U8, 1),
        ("u16", Type::U16, 2),
        ("u32", Type::U32, 4),
        ("u64", Type::U64, 8),
        ("s8", Type::S8, 1),
        ("s16", Type::S16, 2),
        ("s32", Type::S32, 4),
        ("s64", Type::S64, 8),
        ("f16", Type::F16, 2),
        ("f16x2", Type::F16x2, 4),
        ("f32", Type::F32, 4),
        ("f64", Type::F64, 8),
    ];

    /// The type called `name`, without its dot.
    pub fn from_name(name: &str) -> Option<Type> {
        Self::TABLE.iter().find(|(text, ..)| *text == name).map(|&(_, ty, _)| ty)
    }

    /// Its name, without the dot.
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].0
    }

    /// Bytes in memory (a predicate has none; it counts as 1).
    pub fn size(self) -> u32 {
        Self::TABLE[self as usize].2
    }

    /// The register class that holds it. 8-bit values live in 16-bit registers.
    pub fn class(self) -> RegClass {
        match (self, self.size()) {
            (Type::Pred, _) => RegClass::Pred,
            (_, 1 | 2) => RegClass::B16,
            (_, 4) => RegClass::B32,
            (_, 8) => RegClass::B64,
            _ => RegClass::B128,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::F16x2 | Type::F32 | Type::F64)
    }
}

/// A state space of memory.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

impl Space {
    const TABLE: [(&'static str, Space); 5] = [
        ("global", Space::Global),
        ("const", Space::Const),
        ("shared", Space::Shared),
        ("local", Space::Local),
        ("param", Space::Param),
    ];

    /// The space called `name`, without its dot.
    pub fn from_name(name: &str) -> Option<Space> {
        Self::TABLE.iter().find(|(text, _)| *text == name).map(|&(_, space)| space)
    }

    /// Its name, without the dot.
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].0
    }
}

/// Who else may see a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linkage {
    /// This module only.
    #[default]
    Internal,
    /// `.visible`.
    Visible,
    /// `.extern`: defined elsewhere, or, for an unsized shared array, sized by the launch.
    Extern,
    /// `.weak`.
    Weak,
}

/// A register class: registers are numbered from 0 in each.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegClass {
    Pred,
    B16,
    B32,
    B64,
    B128,
}
