//! Initialisers of variables.

use super::lexer::{Tok, quote};
use super::parser::{Parser, signed};
use super::*;

impl Parser<'_> {
    /// `= value` or `= {value, ...}` of module variable `index`.
    pub fn initialiser(&mut self, index: usize, linkage: Linkage) -> Result<()> {
        let equals = self.next()?;
        let variable = &self.module.variables[index];
        if linkage == Linkage::Extern || variable.space == Space::Shared {
            let message = format!("{} may have no initialiser", quote(&variable.name));
            return Err(Error::new(equals.pos, message));
        }
        let (ty, open) = (variable.ty, variable.is_unsized());
        // A vector counts as one more dimension.
        let mut dims = variable.dims.clone();
        if variable.lanes > 1 {
            dims.push(variable.lanes.into());
        }
        let mut init = Vec::new();
        let size = self.init_level(ty, &dims, 0, &mut init)?;
        let variable = &mut self.module.variables[index];
        variable.init = init;
        if open {
            let stride = dims[1..].iter().product::<u64>() * u64::from(ty.size());
            variable.dims[0] = size / stride;
            variable.size = size;
        }
        Ok(())
    }

    /// What fills `dims` from byte `offset` on; returns how many bytes. As deep as there are dimensions.
    fn init_level(&mut self, ty: Type, dims: &[u64], offset: u64, init: &mut Vec<Init>) -> Result<u64> {
        let size = ty.size();
        let Some((&extent, inner)) = dims.split_first() else {
            let value = self.init_value(ty)?;
            init.push(Init { offset, size, value });
            return Ok(size.into());
        };
        // Both factors were checked with the variable's size; only an open extent needs care below.
        let stride = inner.iter().product::<u64>() * u64::from(size);
        self.expect(b'{', "to open an initialiser")?;
        let mut done = 0u64;
        loop {
            let full = if extent == 0 { (done + 1) * stride > limits::VARIABLE } else { done == extent };
            if full {
                return self.expected(&format!("`}}` after {done} elements"));
            }
            self.init_level(ty, inner, offset + done * stride, init)?;
            done += 1;
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b'}', "to close an initialiser")?;
        Ok(done * stride)
    }

    fn init_value(&mut self, ty: Type) -> Result<InitValue> {
        let negative = self.accept(b'-')?;
        let token = self.token;
        let bits = match token.tok {
            Tok::Int(value) if !ty.is_float() && ty != Type::B128 => {
                self.next()?;
                if !negative && self.at(b'(') {
                    return self.init_address(ty, Some(value));
                }
                let width = ty.size() * 8;
                let max = u64::MAX >> (64 - width);
                match signed(value, negative) {
                    Some(bits) if !negative && value <= max => bits as u64,
                    Some(bits) if negative && value <= 1 << (width - 1) => bits as u64 & max,
                    _ => {
                        let sign = if negative { "-" } else { "" };
                        let message = format!("{sign}{} does not fit `.{}`", token.text, ty.name());
                        return Err(Error::new(token.pos, message));
                    }
                }
            }
            Tok::F32(bits) if ty == Type::F32 => u64::from(bits ^ u32::from(negative) << 31),
            Tok::F64(bits) if ty == Type::F64 => bits ^ u64::from(negative) << 63,
            Tok::Decimal(value) if ty == Type::F32 => {
                u64::from((value as f32).to_bits() ^ u32::from(negative) << 31)
            }
            Tok::Decimal(value) if ty == Type::F64 => value.to_bits() ^ u64::from(negative) << 63,
            Tok::Ident(_) if !negative && !ty.is_float() && matches!(ty.size(), 4 | 8) => {
                return self.init_address(ty, None);
            }
            _ => return self.expected(&format!("an initialiser of type `.{}`", ty.name())),
        };
        if !matches!(token.tok, Tok::Int(_)) {
            self.next()?;
        }
        Ok(InitValue::Bits(bits))
    }

    /// `symbol+4`, `generic(symbol)+4` or, when a mask precedes, `(symbol)` or `(generic(symbol)+4)`.
    fn init_address(&mut self, ty: Type, mask: Option<u64>) -> Result<InitValue> {
        if let Some(mask) = mask {
            self.next()?;
            let byte = mask != 0 && mask.trailing_zeros() % 8 == 0 && mask >> mask.trailing_zeros() == 0xff;
            if !byte || ty.size() != 1 {
                return self.expected("a mask of one byte, such as `0xFF00`, before `(` in a byte array");
            }
        }
        let (mut name, mut pos) = self.ident("a variable or a function")?;
        let generic = name == "generic" && self.accept(b'(')?;
        if generic {
            (name, pos) = self.ident("a variable or a function")?;
        }
        let Some(symbol @ (Symbol::Variable(_) | Symbol::Function(_))) = self.symbol(name) else {
            return Err(Error::new(pos, format!("expected a variable or a function, found {}", quote(name))));
        };
        if generic {
            self.expect(b')', "after `generic(`")?;
        }
        let addend = match self.token.tok {
            Tok::Punct(b'+') => {
                self.next()?;
                self.signed("the number of bytes added")?
            }
            Tok::Punct(b'-') => self.signed("the number of bytes subtracted")?,
            _ => 0,
        };
        if mask.is_some() {
            self.expect(b')', "after the masked address")?;
        }
        Ok(InitValue::Address { symbol, addend, generic, mask })
    }
}
