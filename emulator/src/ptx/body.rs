//! Function bodies: scopes, labels, source positions and instructions.

use super::lexer::{Tok, quote};
use super::names::{Label, Named, Scope, duplicate};
use super::parser::Parser;
use super::*;

/// The function being parsed.
pub(crate) struct Code<'a> {
    pub body: Body,
    id: FuncId,
    /// The source position in force.
    loc: Option<u32>,
    /// Open braces, the function's own first.
    blocks: Vec<Block<'a>>,
    /// Largest end of the argument area so far; the body's own field is where the next argument goes.
    argument_bytes: u64,
}

struct Block<'a> {
    open: Pos,
    /// Names that must turn out to be labels of this block or of one around it.
    pending: Vec<Use<'a>>,
    /// Where the argument area ended before the block.
    arguments: u64,
}

/// A name that is not known yet.
struct Use<'a> {
    name: &'a str,
    pos: Pos,
    place: Place,
}

enum Place {
    /// Operand of an instruction.
    Operand(usize, usize),
    /// Item of a branch table.
    Branch(usize, usize),
}

impl<'a> Parser<'a> {
    /// `{ ... }` of function `id`, whose parameters are `params`.
    pub fn body(&mut self, id: FuncId, params: Vec<(&'a str, Symbol, Pos)>) -> Result<Body> {
        let mut code = Code { body: Body::default(), id, loc: None, blocks: Vec::new(), argument_bytes: 0 };
        self.open(&mut code)?;
        for (name, symbol, pos) in params {
            if name != "_" {
                self.scopes.declare(name, Named::Symbol(symbol), pos)?;
            }
        }
        while !code.blocks.is_empty() {
            self.body_statement(&mut code)?;
        }
        code.body.argument_bytes = code.argument_bytes;
        Ok(code.body)
    }

    fn open(&mut self, code: &mut Code<'a>) -> Result<()> {
        if code.blocks.len() > limits::DEPTH {
            return self.expected(&format!("at most {} nested blocks", limits::DEPTH));
        }
        let open = self.expect(b'{', "to open a block")?;
        self.scopes.stack.push(Scope::default());
        code.blocks.push(Block { open, pending: Vec::new(), arguments: code.body.argument_bytes });
        Ok(())
    }

    fn close(&mut self, code: &mut Code<'a>) -> Result<()> {
        self.next()?;
        let (Some(block), Some(scope)) = (code.blocks.pop(), self.scopes.stack.pop()) else {
            return self.expected("an open block");
        };
        code.argument_bytes = code.argument_bytes.max(code.body.argument_bytes);
        code.body.argument_bytes = block.arguments;
        for used in block.pending {
            match (scope.find(used.name), code.blocks.last_mut()) {
                (Some(Named::Label(label)), _) => code.resolve(&used, label)?,
                (_, Some(outer)) => outer.pending.push(used),
                _ => return Err(unknown(used.name, used.pos)),
            }
        }
        Ok(())
    }

    fn body_statement(&mut self, code: &mut Code<'a>) -> Result<()> {
        match self.token.tok {
            Tok::Punct(b'{') => self.open(code),
            Tok::Punct(b'}') => self.close(code),
            Tok::Dot("reg") => self.registers(&mut code.body),
            Tok::Dot("loc") => self.loc(code),
            Tok::Dot("pragma") => self.pragma(Some(code.id)),
            Tok::Dot(name)
                if Space::from_name(name).is_some() || matches!(name, "visible" | "extern" | "weak") =>
            {
                let linkage = self.linkage()?;
                self.variables(linkage, Some((code.id, &mut code.body)))
            }
            Tok::Dot(_) => {
                let message = format!("unknown directive {} in a function", self.token.shown());
                Err(Error::new(self.token.pos, message))
            }
            Tok::Punct(b'@') => {
                self.next()?;
                let negated = self.accept(b'!')?;
                let reg = self.predicate()?;
                let (opcode, pos) = self.ident("an instruction")?;
                self.instruction(code, opcode, pos, Some(Guard { reg, negated }))
            }
            Tok::Ident(_) => {
                let (name, pos) = self.ident("an instruction or a label")?;
                match self.accept(b':')? {
                    true => self.label(code, name, pos),
                    false => self.instruction(code, name, pos, None),
                }
            }
            Tok::End => {
                let open = code.blocks.last().map_or(Pos::default(), |block| block.open);
                self.expected(&format!("`}}` that closes the block at {open}"))
            }
            _ => self.expected("an instruction, a label, a declaration or `}`"),
        }
    }

    /// A predicate register.
    pub fn predicate(&mut self) -> Result<Reg> {
        let (name, pos) = self.ident("a predicate register")?;
        let class = match self.scopes.find(name) {
            Some(Named::Reg(reg)) if reg.class == RegClass::Pred => return Ok(reg),
            Some(Named::Reg(reg)) => format!(" of class {:?}", reg.class),
            _ => String::new(),
        };
        Err(Error::new(pos, format!("expected a predicate register, found {}{class}", quote(name))))
    }

    /// What follows `name:`.
    fn label(&mut self, code: &mut Code<'a>, name: &'a str, pos: Pos) -> Result<()> {
        let body = &mut code.body;
        let label = match self.token.tok {
            Tok::Dot("branchtargets") => {
                let table = body.branch_tables.len();
                let mut count = 0;
                loop {
                    self.next()?;
                    let (name, pos) = self.ident("a label")?;
                    let used = Use { name, pos, place: Place::Branch(table, count) };
                    if let Some(block) = code.blocks.last_mut() {
                        block.pending.push(used);
                    }
                    count += 1;
                    if !self.at(b',') {
                        break;
                    }
                }
                body.branch_tables.push(vec![u32::MAX; count]);
                Label::BranchTable(table as u32)
            }
            Tok::Dot("calltargets") => {
                let mut table = Vec::new();
                loop {
                    self.next()?;
                    let (name, pos) = self.ident("a function")?;
                    match self.symbol(name) {
                        Some(Symbol::Function(id)) => table.push(id),
                        _ => {
                            return Err(Error::new(
                                pos,
                                format!("expected a function, found {}", quote(name)),
                            ));
                        }
                    }
                    if !self.at(b',') {
                        break;
                    }
                }
                body.call_tables.push(table);
                Label::CallTable(body.call_tables.len() as u32 - 1)
            }
            Tok::Dot("callprototype") => {
                self.next()?;
                let returns = self.params()?.variables;
                match self.token.tok {
                    Tok::Ident(_) => self.next()?,
                    _ => return self.expected("`_`"),
                };
                let params = self.params()?.variables;
                let noreturn = self.accept_dot("noreturn")?;
                body.prototypes.push(Prototype { name: name.to_string(), returns, params, noreturn });
                Label::Prototype(body.prototypes.len() as u32 - 1)
            }
            _ => {
                let index = body.instructions.len() as u32;
                body.labels.push((name.to_string(), index));
                Label::Instruction(index)
            }
        };
        if !matches!(label, Label::Instruction(_)) {
            self.expect(b';', "after the list")?;
        }
        match self.scopes.top().declare(name, Named::Label(label)) {
            true => Ok(()),
            false => Err(duplicate(name, pos)),
        }
    }

    /// `.loc 1 20 5, function_name $L__info_string0, inlined_at 1 26 9`
    fn loc(&mut self, code: &mut Code<'a>) -> Result<()> {
        self.next()?;
        let (file, line, column) = self.place_in_source()?;
        let mut inlined = None;
        if self.accept(b',')? {
            self.keyword("function_name")?;
            let (name, _) = self.ident("the label of a function's name")?;
            let offset = if self.accept(b'+')? { self.u32("bytes added to the label")? } else { 0 };
            let function = self.name(name);
            self.expect(b',', "before `inlined_at`")?;
            self.keyword("inlined_at")?;
            let (file, line, column) = self.place_in_source()?;
            inlined = Some(Inlined { function, offset, file, line, column });
        }
        let loc = Loc { file, line, column, inlined };
        if code.body.locs.last() != Some(&loc) {
            code.body.locs.push(loc);
        }
        code.loc = Some(code.body.locs.len() as u32 - 1);
        Ok(())
    }

    fn keyword(&mut self, word: &str) -> Result<()> {
        match self.token.tok {
            Tok::Ident(found) if found == word => self.next().map(|_| ()),
            _ => self.expected(&format!("`{word}`")),
        }
    }

    fn place_in_source(&mut self) -> Result<(u32, u32, u32)> {
        let pos = self.token.pos;
        let file = self.u32("the number of a file")?;
        self.used_files.entry(file).or_insert(pos);
        Ok((file, self.u32("a line")?, self.u32("a column")?))
    }

    fn instruction(
        &mut self,
        code: &mut Code<'a>,
        opcode: &'a str,
        pos: Pos,
        guard: Option<Guard>,
    ) -> Result<()> {
        if !opcode.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(Error::new(pos, format!("expected an instruction, found {}", quote(opcode))));
        }
        let name = self.name(opcode);
        let mut modifiers = Vec::new();
        while let Tok::Dot(modifier) = self.token.tok {
            self.next()?;
            modifiers.push(self.name(modifier));
        }
        let mut operands = Vec::new();
        if !self.at(b';') {
            loop {
                match self.operand(opcode == "bra")? {
                    Ok(operand) => operands.push(operand),
                    Err((name, pos)) => {
                        let place = Place::Operand(code.body.instructions.len(), operands.len());
                        if let Some(block) = code.blocks.last_mut() {
                            block.pending.push(Use { name, pos, place });
                        }
                        operands.push(Operand::Sink);
                    }
                }
                if !self.accept(b',')? {
                    break;
                }
            }
        }
        self.expect(b';', "after the instruction")?;
        code.body.instructions.push(Instruction {
            opcode: name,
            modifiers: modifiers.into(),
            guard,
            operands: operands.into(),
            loc: code.loc,
            pos,
        });
        Ok(())
    }
}

impl Code<'_> {
    /// Puts what `used` turned out to be in its place.
    fn resolve(&mut self, used: &Use<'_>, label: Label) -> Result<()> {
        match (&used.place, label) {
            (&Place::Operand(instruction, operand), _) => {
                self.body.instructions[instruction].operands[operand] = match label {
                    Label::Instruction(index) => Operand::Label(index),
                    Label::BranchTable(index) => Operand::BranchTable(index),
                    Label::CallTable(index) => Operand::CallTable(index),
                    Label::Prototype(index) => Operand::Prototype(index),
                };
                Ok(())
            }
            (&Place::Branch(table, item), Label::Instruction(index)) => {
                self.body.branch_tables[table][item] = index;
                Ok(())
            }
            _ => Err(Error::new(
                used.pos,
                format!("expected the label of an instruction, found {}", quote(used.name)),
            )),
        }
    }
}

pub(crate) fn unknown(name: &str, pos: Pos) -> Error {
    let message =
        format!("unknown name {}: expected a register, a label, a variable or a function", quote(name));
    Error::new(pos, message)
}
