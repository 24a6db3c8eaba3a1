//! Operands of instructions.

use super::body::unknown;
use super::lexer::{Tok, quote};
use super::names::Named;
use super::parser::{Parser, signed};
use super::*;

/// An operand, or a name that must be a label.
type Parsed<'a> = std::result::Result<Operand, (&'a str, Pos)>;

impl<'a> Parser<'a> {
    /// Any operand. With `branch`, a name is a label before it is a variable.
    pub fn operand(&mut self, branch: bool) -> Result<Parsed<'a>> {
        Ok(Ok(match self.token.tok {
            Tok::Punct(b'[') => self.address()?,
            Tok::Punct(b'{') => Operand::Vector(self.group(b'}')?),
            Tok::Punct(b'(') => Operand::List(self.group(b')')?),
            Tok::Punct(b'!') => {
                self.next()?;
                Operand::Not(self.predicate()?)
            }
            _ => return self.simple(branch),
        }))
    }

    /// `{a, b}` or `(a, b)`: operands without brackets of their own, so that nothing nests.
    fn group(&mut self, close: u8) -> Result<Box<[Operand]>> {
        self.next()?;
        let mut items = Vec::new();
        // A call may pass nothing; a vector has at least one element.
        let mut more = close == b'}' || !self.at(close);
        while more {
            items.push(self.item()?);
            more = self.accept(b',')?;
        }
        self.expect(close, "to close the list")?;
        Ok(items.into())
    }

    /// An operand without brackets that is no label.
    fn item(&mut self) -> Result<Operand> {
        self.simple(false)?.map_err(|(name, pos)| unknown(name, pos))
    }

    /// A name or a number.
    fn simple(&mut self, branch: bool) -> Result<Parsed<'a>> {
        let token = self.token;
        Ok(Ok(match token.tok {
            Tok::Ident("_") => {
                self.next()?;
                if self.at(b'|') { self.pair(None)? } else { Operand::Sink }
            }
            Tok::Ident(name) => {
                self.next()?;
                match self.scopes.find(name) {
                    Some(Named::Reg(reg)) => {
                        if self.at(b'|') {
                            self.pair(Some(reg))?
                        } else {
                            Operand::Reg(reg)
                        }
                    }
                    Some(Named::Symbol(symbol)) if !branch => Operand::Symbol(symbol, self.offset()?),
                    Some(_) => return Ok(Err((name, token.pos))),
                    None if name.starts_with('%') => self.special(name, token.pos)?,
                    None if name == "WARP_SZ" => Operand::Int(32),
                    None => return Ok(Err((name, token.pos))),
                }
            }
            _ => self.number()?,
        }))
    }

    fn special(&mut self, name: &str, pos: Pos) -> Result<Operand> {
        if Special::is_vector(name) {
            let axis = match self.token.tok {
                Tok::Dot(axis) => Axis::from_name(axis),
                _ => None,
            };
            return match axis.and_then(|axis| Special::component(name, axis)) {
                Some(special) => {
                    self.next()?;
                    Ok(Operand::Special(special))
                }
                None => self.expected(&format!("`.x`, `.y`, `.z` or `.w` after {}", quote(name))),
            };
        }
        match Special::scalar(name) {
            Some(special) => Ok(Operand::Special(special)),
            None => Err(Error::new(pos, format!("unknown register {}", quote(name)))),
        }
    }

    /// `|%p` behind `first`.
    fn pair(&mut self, first: Option<Reg>) -> Result<Operand> {
        self.next()?;
        let second = match self.token.tok {
            Tok::Ident("_") => {
                self.next()?;
                None
            }
            _ => Some(self.predicate()?),
        };
        Ok(Operand::Pair(first, second))
    }

    fn number(&mut self) -> Result<Operand> {
        let negative = self.accept(b'-')?;
        let token = self.token;
        let operand = match token.tok {
            Tok::Int(value) => match signed(value, negative) {
                Some(bits) => Operand::Int(bits),
                None => return Err(Error::new(token.pos, format!("-{} does not fit 64 bits", token.text))),
            },
            Tok::F32(bits) => Operand::F32(bits ^ u32::from(negative) << 31),
            Tok::F64(bits) => Operand::F64(bits ^ u64::from(negative) << 63),
            Tok::Decimal(value) => Operand::F64(value.to_bits() ^ u64::from(negative) << 63),
            _ => return self.expected(if negative { "a number" } else { "an operand" }),
        };
        self.next()?;
        Ok(operand)
    }

    /// `+4`, `-4`, `+-4` or nothing.
    fn offset(&mut self) -> Result<i64> {
        match self.token.tok {
            Tok::Punct(b'+') => {
                self.next()?;
                self.signed("an offset")
            }
            Tok::Punct(b'-') => self.signed("an offset"),
            _ => Ok(0),
        }
    }

    /// `[base+offset]` or `[base+offset, more]`.
    fn address(&mut self) -> Result<Operand> {
        self.next()?;
        let address = match self.token.tok {
            Tok::Ident(_) => {
                let (name, pos) = self.ident("a register, a variable or a number")?;
                let base = match self.scopes.find(name) {
                    Some(Named::Reg(reg)) if matches!(reg.class, RegClass::B32 | RegClass::B64) => {
                        Base::Reg(reg)
                    }
                    Some(Named::Reg(reg)) => {
                        let shown = quote(name);
                        let message = format!(
                            "expected a 32- or 64-bit register, found {shown} of class {:?}",
                            reg.class
                        );
                        return Err(Error::new(pos, message));
                    }
                    Some(Named::Symbol(symbol)) if !matches!(symbol, Symbol::Function(_)) => {
                        Base::Symbol(symbol)
                    }
                    Some(_) => {
                        let message = format!("expected a register or a variable, found {}", quote(name));
                        return Err(Error::new(pos, message));
                    }
                    None if name.starts_with('%') => {
                        return Err(Error::new(pos, format!("unknown register {}", quote(name))));
                    }
                    None => {
                        let message =
                            format!("unknown name {}: expected a register or a variable", quote(name));
                        return Err(Error::new(pos, message));
                    }
                };
                Address { base, offset: self.offset()? }
            }
            _ => Address { base: Base::Absolute, offset: self.signed("a register, a variable or a number")? },
        };
        let mut more = Vec::new();
        while self.accept(b',')? {
            more.push(match self.at(b'{') {
                true => Operand::Vector(self.group(b'}')?),
                false => self.item()?,
            });
        }
        self.expect(b']', "to close the address")?;
        Ok(match more.is_empty() {
            true => Operand::Address(address),
            false => Operand::Tensor(Box::new((address, more))),
        })
    }
}
