//! Scopes: which name stands for what.

use super::{Error, Pos, Reg, Result, Symbol};
use std::collections::{BTreeMap, HashMap};

/// What a name was declared as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Named {
    /// A register, or the first of a range.
    Reg(Reg),
    Symbol(Symbol),
    Label(Label),
}

/// What stands in front of a colon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Label {
    Instruction(u32),
    BranchTable(u32),
    CallTable(u32),
    Prototype(u32),
}

/// The names of one scope. `%r7` is member 7 of the family `%r`, so that a range takes one entry, whatever its size,
/// and overlapping declarations are found whichever way they are written.
#[derive(Default)]
pub(crate) struct Scope<'a> {
    plain: HashMap<&'a str, Named>,
    /// By family: first member -> (last member, what the first one is).
    numbered: HashMap<&'a str, BTreeMap<u32, (u32, Named)>>,
}

/// Digits that may count as a member's number; more belong to the family's name.
const DIGITS: usize = 9;

/// A name as family and number, if it ends in a number that is written without leading zeros.
fn split(name: &str) -> Option<(&str, u32)> {
    let bytes = name.as_bytes();
    let digits = bytes.iter().rev().take(DIGITS).take_while(|c| c.is_ascii_digit()).count();
    let mut start = bytes.len() - digits;
    while start + 1 < bytes.len() && bytes[start] == b'0' {
        start += 1;
    }
    let number = name[start..].parse().ok()?;
    Some((&name[..start], number))
}

impl<'a> Scope<'a> {
    /// Declares one name; false if it exists here already.
    pub fn declare(&mut self, name: &'a str, named: Named) -> bool {
        match split(name) {
            Some((family, number)) => self.insert(family, number, number, named),
            None => self.plain.insert(name, named).is_none(),
        }
    }

    /// Declares the registers `prefix0` to `prefix{count-1}`, numbered from `first`; false if one exists already.
    pub fn declare_range(&mut self, prefix: &'a str, count: u32, first: Reg) -> bool {
        // All numbers of one length share a family: the digits that end the prefix may belong to the member.
        let (mut low, mut end) = (0, 10);
        while low < count {
            let last = end.min(count) - 1;
            let named = Named::Reg(Reg { index: first.index + low, ..first });
            let ok = match split(prefix) {
                None => {
                    // The usual case: the prefix ends in no digit and all lengths are one run.
                    return self.insert(prefix, 0, count - 1, Named::Reg(first));
                }
                Some(_) => {
                    let digits = (end / 10).ilog10() as usize + 1;
                    let (family, tail) = split_prefix(prefix, digits);
                    let shift = tail * end;
                    self.insert(family, shift + low, shift + last, named)
                }
            };
            if !ok {
                return false;
            }
            (low, end) = (end, end * 10);
        }
        true
    }

    fn insert(&mut self, family: &'a str, first: u32, last: u32, named: Named) -> bool {
        let members = self.numbered.entry(family).or_default();
        let taken = members.range(..=last).next_back().is_some_and(|(_, &(other, _))| other >= first);
        if !taken {
            members.insert(first, (last, named));
        }
        !taken
    }

    /// What a name stands for in this scope.
    pub fn find(&self, name: &str) -> Option<Named> {
        let Some((family, number)) = split(name) else {
            return self.plain.get(name).copied();
        };
        let (&first, &(last, named)) = self.numbered.get(family)?.range(..=number).next_back()?;
        match named {
            _ if number > last => None,
            Named::Reg(reg) => Some(Named::Reg(Reg { index: reg.index + (number - first), ..reg })),
            _ => Some(named),
        }
    }
}

/// How `split` sees `prefix` when a number of `digits` digits follows: the family and the digits of the prefix that
/// belong to the number.
fn split_prefix(prefix: &str, digits: usize) -> (&str, u32) {
    let bytes = prefix.as_bytes();
    let own = bytes.iter().rev().take(DIGITS - digits).take_while(|c| c.is_ascii_digit()).count();
    let mut start = bytes.len() - own;
    while start < bytes.len() && bytes[start] == b'0' {
        start += 1;
    }
    (&prefix[..start], prefix[start..].parse().unwrap_or(0))
}

/// Nested scopes, the innermost last.
#[derive(Default)]
pub(crate) struct Scopes<'a> {
    pub stack: Vec<Scope<'a>>,
}

impl<'a> Scopes<'a> {
    pub fn find(&self, name: &str) -> Option<Named> {
        self.stack.iter().rev().find_map(|scope| scope.find(name))
    }

    pub fn top(&mut self) -> &mut Scope<'a> {
        if self.stack.is_empty() {
            self.stack.push(Scope::default());
        }
        let last = self.stack.len() - 1;
        &mut self.stack[last]
    }

    /// Declares a name in the innermost scope.
    pub fn declare(&mut self, name: &'a str, named: Named, pos: Pos) -> Result<()> {
        match self.top().declare(name, named) {
            true => Ok(()),
            false => Err(duplicate(name, pos)),
        }
    }
}

pub(crate) fn duplicate(name: &str, pos: Pos) -> Error {
    Error::new(pos, format!("{} is declared twice in this scope", super::lexer::quote(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::RegClass;

    const BASE: Reg = Reg { class: RegClass::B32, index: 100 };

    fn index(scope: &Scope, name: &str) -> Option<u32> {
        match scope.find(name)? {
            Named::Reg(reg) => Some(reg.index),
            _ => None,
        }
    }

    /// Whatever digits the prefix ends in, exactly the `count` written names are found, each with its own number.
    #[test]
    fn ranges_against_enumeration() {
        for prefix in
            ["%r", "%r0", "%r1", "%r10", "%r00", "%r19", "%r100", "a123456789", "a1234567890", "a000000000"]
        {
            for count in [1, 2, 9, 10, 11, 99, 100, 101, 1234] {
                let mut scope = Scope::default();
                assert!(scope.declare_range(prefix, count, BASE));
                for k in 0..count {
                    assert_eq!(
                        index(&scope, &format!("{prefix}{k}")),
                        Some(100 + k),
                        "{prefix}<{count}> {k}"
                    );
                }
                for other in [count, count + 1, count * 10] {
                    assert_eq!(index(&scope, &format!("{prefix}{other}")), None, "{prefix}<{count}> {other}");
                }
                for name in
                    [prefix.to_string(), format!("{prefix}00"), format!("{prefix}01"), format!("{prefix}x")]
                {
                    assert_eq!(index(&scope, &name), None, "{prefix}<{count}> {name}");
                }
                assert!(!scope.declare_range(prefix, 1, BASE));
                let last: &'static str = format!("{prefix}{}", count - 1).leak();
                assert!(!scope.declare(last, Named::Reg(BASE)), "{last}");
            }
        }
    }

    #[test]
    fn overlaps() {
        let mut scope = Scope::default();
        assert!(scope.declare("%r5", Named::Label(Label::Instruction(3))));
        assert!(!scope.declare_range("%r", 6, BASE));
        assert!(scope.declare_range("%r", 5, BASE));
        assert!(scope.declare_range("%r1", 10, BASE) && !scope.declare_range("%r1", 11, BASE));
        assert!(scope.declare("%r05", Named::Reg(BASE)) && scope.declare("%r", Named::Reg(BASE)));
    }
}
