//! Declarations: variables, parameters, registers and the heads of functions.

use super::lexer::{Tok, quote};
use super::names::{Named, Scope, duplicate};
use super::parser::Parser;
use super::*;

/// A list of parameters.
#[derive(Default)]
pub(crate) struct Params<'a> {
    pub variables: Vec<Variable>,
    pub names: Vec<(&'a str, Pos)>,
    /// End of the last one.
    pub bytes: u64,
}

/// What precedes a variable's name.
#[derive(Clone, Copy)]
struct Head {
    align: Option<u32>,
    lanes: u32,
    ty: Type,
    managed: bool,
    pointer: Option<Pointer>,
}

impl<'a> Parser<'a> {
    /// `.global .align 4 .u32 a, b[2] = {1, 2};`: variables of the module or, inside `owner`, of a function.
    pub fn variables(&mut self, linkage: Linkage, owner: Option<(FuncId, &mut Body)>) -> Result<()> {
        let (name, start) = self.dot("a state space")?;
        let Some(space) = Space::from_name(name) else {
            return self.expected("a state space");
        };
        let framed = matches!(space, Space::Local | Space::Param);
        if framed && linkage != Linkage::Internal {
            return Err(Error::new(start, format!("`.{name}` variables are seen in their function only")));
        }
        let head = self.variable_head(false)?;
        if head.managed && space != Space::Global {
            return Err(Error::new(start, format!("`.{name}` variables may not be managed")));
        }
        let (id, mut body) = owner.map_or((None, None), |(id, body)| (Some(id), Some(body)));
        loop {
            let (name, pos) = self.ident("the name of a variable")?;
            let mut variable = self.variable_shape(name, pos, space, head, linkage)?;
            variable.owner = id;
            if framed && variable.is_unsized() {
                return Err(open_size(&variable));
            }
            let slot = match (space, &mut body) {
                (Space::Local, Some(body)) => {
                    place(&mut variable, &mut body.local_bytes, limits::LOCAL)?;
                    body.locals.push(variable);
                    Slot::Local(body.locals.len() - 1)
                }
                (Space::Param, Some(body)) => {
                    place(&mut variable, &mut body.argument_bytes, limits::PARAMS)?;
                    body.arguments.push(variable);
                    Slot::Argument(body.arguments.len() - 1)
                }
                _ => Slot::Module(self.add_variable(name, variable)?),
            };
            match slot {
                Slot::Local(index) => {
                    self.scopes.declare(name, Named::Symbol(Symbol::Local(index as u32)), pos)?
                }
                Slot::Argument(index) => {
                    self.scopes.declare(name, Named::Symbol(Symbol::Argument(index as u32)), pos)?;
                }
                Slot::Module(_) => {}
            }
            if self.at(b'=') {
                match slot {
                    Slot::Module(index) => self.initialiser(index, linkage)?,
                    _ => {
                        return self
                            .expected(&format!("no initialiser: `.{}` variables take none", space.name()));
                    }
                }
            }
            if let Slot::Module(index) = slot {
                self.check_sized(index)?;
            }
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b';', "after the variable").map(|_| ())
    }

    /// Adds a variable to the module, or completes what an `.extern` announced.
    fn add_variable(&mut self, name: &'a str, variable: Variable) -> Result<usize> {
        let pos = variable.pos;
        if let Some(Named::Symbol(Symbol::Variable(VarId(index)))) = self.scopes.top().find(name) {
            let old = &mut self.module.variables[index as usize];
            let external = old.linkage == Linkage::Extern || variable.linkage == Linkage::Extern;
            if external && old.same_shape(&variable) {
                if old.linkage == Linkage::Extern {
                    *old = variable;
                }
                return Ok(index as usize);
            }
            return Err(duplicate(name, pos));
        }
        let index = self.module.variables.len();
        self.scopes.declare(name, Named::Symbol(Symbol::Variable(VarId(index as u32))), pos)?;
        self.module.variables.push(variable);
        Ok(index)
    }

    fn check_sized(&self, index: usize) -> Result<()> {
        let variable = &self.module.variables[index];
        if variable.is_unsized() && variable.linkage != Linkage::Extern {
            return Err(open_size(variable));
        }
        Ok(())
    }

    /// `.align 8 .v2 .f32` with the attributes that may stand between.
    fn variable_head(&mut self, param: bool) -> Result<Head> {
        let mut head = Head { align: None, lanes: 1, ty: Type::B8, managed: false, pointer: None };
        loop {
            match self.token.tok {
                Tok::Dot("align") if head.align.is_none() => {
                    self.next()?;
                    head.align = Some(self.alignment()?);
                }
                Tok::Dot("attribute") if !param && !head.managed => {
                    self.next()?;
                    self.expect(b'(', "after `.attribute`")?;
                    match self.dot("an attribute")? {
                        ("managed", _) => head.managed = true,
                        (name, pos) => {
                            let message = format!("attribute {} is not supported", quote(name));
                            return Err(Error::new(pos, message));
                        }
                    }
                    self.expect(b')', "after the attribute")?;
                }
                _ => break,
            }
        }
        head.lanes = match self.token.tok {
            Tok::Dot("v2") => 2,
            Tok::Dot("v4") => 4,
            _ => 1,
        };
        if head.lanes > 1 {
            self.next()?;
        }
        let start = self.token.pos;
        if self.at_dot("pred") {
            return self.expected("a type that has a size in memory");
        }
        head.ty = self.type_name()?;
        if head.ty.size() * head.lanes > 16 {
            return Err(Error::new(start, "a vector holds at most 16 bytes"));
        }
        if param && self.accept_dot("ptr")? {
            let space = match self.token.tok {
                Tok::Dot(name) => Space::from_name(name),
                _ => None,
            };
            if space.is_some() {
                self.next()?;
            }
            let align = if self.accept_dot("align")? { self.alignment()? } else { 4 };
            head.pointer = Some(Pointer { space, align });
        }
        Ok(head)
    }

    fn alignment(&mut self) -> Result<u32> {
        match self.token.tok {
            Tok::Int(n) if n.is_power_of_two() && n <= limits::ALIGN.into() => self.u32("an alignment"),
            _ => self.expected(&format!("an alignment (a power of two up to {})", limits::ALIGN)),
        }
    }

    /// The dimensions behind a name and what follows from them.
    fn variable_shape(
        &mut self,
        name: &str,
        pos: Pos,
        space: Space,
        head: Head,
        linkage: Linkage,
    ) -> Result<Variable> {
        let element = u64::from(head.ty.size()) * u64::from(head.lanes);
        let (mut dims, mut size) = (Vec::new(), element);
        while self.accept(b'[')? {
            if dims.len() == limits::DIMENSIONS {
                return self.expected(&format!("at most {} dimensions", limits::DIMENSIONS));
            }
            let extent = match self.token.tok {
                Tok::Punct(b']') if dims.is_empty() => 0,
                Tok::Int(0) | Tok::Punct(_) => return self.expected("the extent of a dimension, at least 1"),
                _ => self.u64("the extent of a dimension")?,
            };
            self.expect(b']', "after the extent")?;
            size = match size.checked_mul(extent.max(1)) {
                Some(size) if size <= limits::VARIABLE => size,
                _ => {
                    let message = format!("{} is larger than {} bytes", quote(name), limits::VARIABLE);
                    return Err(Error::new(pos, message));
                }
            };
            dims.push(extent);
        }
        if dims.first() == Some(&0) {
            size = 0;
        }
        Ok(Variable {
            name: name.to_string(),
            space,
            ty: head.ty,
            lanes: head.lanes,
            dims,
            align: head.align.unwrap_or(element as u32),
            size,
            offset: 0,
            linkage,
            init: Vec::new(),
            owner: None,
            managed: head.managed,
            pointer: head.pointer,
            pos,
        })
    }

    /// `.reg .b32 %r<10>, a;`
    pub fn registers(&mut self, body: &mut Body) -> Result<()> {
        self.next()?;
        if self.at_dot("v2") || self.at_dot("v4") {
            return self.expected("a scalar type: vector registers are not supported");
        }
        let ty = self.type_name()?;
        loop {
            let (name, pos) = self.ident("the name of a register")?;
            let range = match self.accept(b'<')? {
                true => {
                    let count = match self.token.tok {
                        Tok::Int(0) => return self.expected("the number of registers, at least 1"),
                        _ => self.u32("the number of registers")?,
                    };
                    self.expect(b'>', "after the number of registers")?;
                    Some(count)
                }
                false => None,
            };
            if range.is_none() && Special::is_special(name) {
                return Err(Error::new(pos, format!("{} is a special register", quote(name))));
            }
            let class = ty.class();
            let total = &mut body.registers[class as usize];
            let first = Reg { class, index: *total };
            *total = match total.checked_add(range.unwrap_or(1)) {
                Some(total) if total <= limits::REGISTERS => total,
                _ => {
                    let message =
                        format!("more than {} registers of type `.{}`", limits::REGISTERS, ty.name());
                    return Err(Error::new(pos, message));
                }
            };
            let fresh = match range {
                Some(count) => self.scopes.top().declare_range(name, count, first),
                None => self.scopes.top().declare(name, Named::Reg(first)),
            };
            if !fresh {
                return Err(duplicate(name, pos));
            }
            body.reg_decls.push(RegDecl { name: name.to_string(), ty, first, range, pos });
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b';', "after the registers").map(|_| ())
    }

    /// `( .param .u64 a, .param .b32 b )`, laid out; `_` may stand for a name in prototypes.
    /// Without parentheses there are none.
    pub fn params(&mut self) -> Result<Params<'a>> {
        let (mut params, mut seen) = (Params::default(), Scope::default());
        if !self.accept(b'(')? {
            return Ok(params);
        }
        let mut more = !self.at(b')');
        while more {
            if !self.accept_dot("param")? {
                return self.expected("`.param`");
            }
            let head = self.variable_head(true)?;
            let Tok::Ident(name) = self.token.tok else {
                return self.expected("the name of a parameter");
            };
            let pos = self.next()?.pos;
            let mut param = self.variable_shape(name, pos, Space::Param, head, Linkage::Internal)?;
            if param.is_unsized() {
                return Err(open_size(&param));
            }
            place(&mut param, &mut params.bytes, limits::PARAMS)?;
            if name != "_" && !seen.declare(name, Named::Symbol(Symbol::Param(0))) {
                return Err(duplicate(name, pos));
            }
            params.variables.push(param);
            params.names.push((name, pos));
            more = self.accept(b',')?;
        }
        self.expect(b')', "after parameters")?;
        Ok(params)
    }

    /// `.entry name (params) bounds { body }` or `.func (returns) name (params) bounds { body }`.
    pub fn function(&mut self, linkage: Linkage) -> Result<()> {
        let entry = self.next()?.tok == Tok::Dot("entry");
        let returns = if entry { Params::default() } else { self.params()? };
        let (name, pos) = self.ident("the name of a function")?;
        let params = self.params()?;
        let first_pragma = self.module.pragmas.len();
        let function = Function {
            name: name.to_string(),
            entry,
            linkage,
            returns: returns.variables,
            params: params.variables,
            param_bytes: params.bytes,
            bounds: self.bounds()?,
            body: None,
            pos,
        };
        let id = self.add_function(name, function)?;
        for pragma in &mut self.module.pragmas[first_pragma..] {
            pragma.function = Some(id);
        }
        if !entry && self.accept(b';')? {
            return Ok(());
        }
        if !self.at(b'{') {
            return self.expected(if entry { "`{`" } else { "`{` or `;`" });
        }
        let function = &self.module.functions[id.0 as usize];
        if function.linkage == Linkage::Extern {
            return self.expected("`;` after an `.extern` function");
        }
        if function.body.is_some() {
            return Err(Error::new(pos, format!("{} has a body already", quote(name))));
        }
        let bind = |names: Vec<(&'a str, Pos)>, symbol: fn(u32) -> Symbol| {
            names.into_iter().enumerate().map(move |(index, (name, pos))| (name, symbol(index as u32), pos))
        };
        let names = bind(returns.names, Symbol::Return).chain(bind(params.names, Symbol::Param)).collect();
        let body = self.body(id, names)?;
        self.module.functions[id.0 as usize].body = Some(body);
        Ok(())
    }

    fn add_function(&mut self, name: &'a str, function: Function) -> Result<FuncId> {
        let pos = function.pos;
        let Some(named) = self.scopes.find(name) else {
            let id = FuncId(self.module.functions.len() as u32);
            self.module.functions.push(function);
            self.scopes.declare(name, Named::Symbol(Symbol::Function(id)), pos)?;
            return Ok(id);
        };
        let Named::Symbol(Symbol::Function(id)) = named else {
            return Err(duplicate(name, pos));
        };
        let old = &mut self.module.functions[id.0 as usize];
        let same = |a: &[Variable], b: &[Variable]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_shape(b))
        };
        if old.entry != function.entry
            || !same(&old.returns, &function.returns)
            || !same(&old.params, &function.params)
        {
            let message = format!("{} differs from its declaration at {}", quote(name), old.pos);
            return Err(Error::new(pos, message));
        }
        if old.body.is_none() {
            *old = function;
        }
        Ok(id)
    }

    fn bounds(&mut self) -> Result<Bounds> {
        let mut bounds = Bounds::default();
        loop {
            let Tok::Dot(name) = self.token.tok else {
                return Ok(bounds);
            };
            let pos = self.token.pos;
            let fresh = match name {
                "maxntid" => set(&mut bounds.maxntid, self.extents()?),
                "reqntid" => set(&mut bounds.reqntid, self.extents()?),
                "reqnctapercluster" => set(&mut bounds.reqnctapercluster, self.extents()?),
                "minnctapersm" => set(&mut bounds.minnctapersm, self.bound()?),
                "maxnreg" => set(&mut bounds.maxnreg, self.bound()?),
                "maxclusterrank" => set(&mut bounds.maxclusterrank, self.bound()?),
                "explicitcluster" | "blocksareclusters" | "noreturn" => {
                    self.next()?;
                    let flag = match name {
                        "explicitcluster" => &mut bounds.explicitcluster,
                        "blocksareclusters" => &mut bounds.blocksareclusters,
                        _ => &mut bounds.noreturn,
                    };
                    !std::mem::replace(flag, true)
                }
                "pragma" => {
                    self.pragma(None)?;
                    true
                }
                _ => return self.expected("a performance directive, `{` or `;`"),
            };
            if !fresh {
                return Err(Error::new(pos, format!("`.{name}` stands twice")));
            }
        }
    }

    fn bound(&mut self) -> Result<u32> {
        self.next()?;
        match self.token.tok {
            Tok::Int(0) => self.expected("a number, at least 1"),
            _ => self.u32("a number"),
        }
    }

    fn extents(&mut self) -> Result<[u32; 3]> {
        let mut extents = [self.bound()?, 1, 1];
        for extent in &mut extents[1..] {
            if !self.at(b',') {
                break;
            }
            *extent = self.bound()?;
        }
        Ok(extents)
    }
}

fn set<T>(slot: &mut Option<T>, value: T) -> bool {
    slot.replace(value).is_none()
}

fn open_size(variable: &Variable) -> Error {
    let message =
        format!("the size of {} is open, which only `.extern` variables may leave so", quote(&variable.name));
    Error::new(variable.pos, message)
}

/// Where a declaration puts a variable.
enum Slot {
    Local(usize),
    Argument(usize),
    Module(usize),
}

/// Gives a variable its offset behind `cursor`, which moves to its end.
fn place(variable: &mut Variable, cursor: &mut u64, limit: u64) -> Result<()> {
    variable.offset = cursor.next_multiple_of(variable.align.into());
    // Neither sum can overflow: the cursor is below the limit, alignment and size have small bounds of their own.
    *cursor = variable.offset + variable.size;
    if *cursor > limit {
        let message =
            format!("{} ends beyond {limit} bytes of `.{}`", quote(&variable.name), variable.space.name());
        return Err(Error::new(variable.pos, message));
    }
    Ok(())
}
