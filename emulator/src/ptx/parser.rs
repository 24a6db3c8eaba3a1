//! The parser's frame: tokens, the module's header and its top-level statements.

use super::lexer::{Lexer, Tok, Token, quote};
use super::names::{Named, Scopes};
use super::*;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Parses a PTX text.
pub fn parse(text: &str) -> Result<Module, Error> {
    if text.len() > limits::TEXT {
        let message = format!("the text is {} bytes long; at most {} are read", text.len(), limits::TEXT);
        return Err(Error::new(Pos { line: 1, column: 1 }, message));
    }
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let module = Module {
        version: (0, 0),
        target: Target { arch: 0, suffix: None, debug: false },
        files: Vec::new(),
        variables: Vec::new(),
        functions: Vec::new(),
        sections: Vec::new(),
        pragmas: Vec::new(),
        names: Vec::new(),
    };
    let mut parser = Parser {
        lexer,
        token,
        module,
        names: HashMap::new(),
        scopes: Scopes::default(),
        files: HashSet::new(),
        used_files: BTreeMap::new(),
    };
    parser.run()?;
    Ok(parser.module)
}

/// Parses a PTX text that may not be UTF-8, which is an error at the first byte that is not.
pub fn parse_bytes(bytes: &[u8]) -> Result<Module, Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line_start = good.iter().rposition(|&c| c == b'\n').map_or(0, |at| at + 1);
            let line = good.iter().filter(|&&c| c == b'\n').count() as u32 + 1;
            let pos = Pos { line, column: (good.len() - line_start) as u32 + 1 };
            Err(Error::new(pos, format!("byte 0x{:02x} is not UTF-8", bytes[good.len()])))
        }
    }
}

pub(crate) struct Parser<'a> {
    pub lexer: Lexer<'a>,
    /// The token that comes next.
    pub token: Token<'a>,
    pub module: Module,
    names: HashMap<&'a str, Name>,
    /// The module's scope, then those of the function being parsed.
    pub scopes: Scopes<'a>,
    /// Files that a `.file` declared.
    files: HashSet<u32>,
    /// Files that a `.loc` named, with the first place.
    pub used_files: BTreeMap<u32, Pos>,
}

/// Statements of a function's head that a module-level error lists.
const TOP_LEVEL: &str = "`.entry`, `.func`, a variable, `.file`, `.section` or `.pragma`";

impl<'a> Parser<'a> {
    /// Takes the next token.
    pub fn next(&mut self) -> Result<Token<'a>> {
        let token = self.token;
        self.token = self.lexer.next()?;
        Ok(token)
    }

    /// An error at the next token.
    pub fn expected<T>(&self, what: &str) -> Result<T> {
        Err(Error::new(self.token.pos, format!("expected {what}, found {}", self.token.shown())))
    }

    pub fn at(&self, punct: u8) -> bool {
        self.token.tok == Tok::Punct(punct)
    }

    pub fn at_dot(&self, name: &str) -> bool {
        self.token.tok == Tok::Dot(name)
    }

    /// Takes the next token if it is `punct`.
    pub fn accept(&mut self, punct: u8) -> Result<bool> {
        let found = self.at(punct);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    /// Takes the next token if it is `.name`.
    pub fn accept_dot(&mut self, name: &str) -> Result<bool> {
        let found = self.at_dot(name);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    pub fn expect(&mut self, punct: u8, after: &str) -> Result<Pos> {
        if !self.at(punct) {
            return self.expected(&format!("`{}` {after}", punct as char));
        }
        Ok(self.next()?.pos)
    }

    /// A name, `_` excluded.
    pub fn ident(&mut self, what: &str) -> Result<(&'a str, Pos)> {
        match self.token.tok {
            Tok::Ident(name) if name != "_" => Ok((name, self.next()?.pos)),
            _ => self.expected(what),
        }
    }

    pub fn dot(&mut self, what: &str) -> Result<(&'a str, Pos)> {
        match self.token.tok {
            Tok::Dot(name) => Ok((name, self.next()?.pos)),
            _ => self.expected(what),
        }
    }

    pub fn string(&mut self, what: &str) -> Result<(&'a str, Pos)> {
        match self.token.tok {
            Tok::Str(text) => Ok((text, self.next()?.pos)),
            _ => self.expected(what),
        }
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        match self.token.tok {
            Tok::Int(value) => {
                self.next()?;
                Ok(value)
            }
            _ => self.expected(what),
        }
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        let token = self.token;
        let value = self.u64(what)?;
        u32::try_from(value)
            .map_err(|_| Error::new(token.pos, format!("{} does not fit 32 bits", token.shown())))
    }

    /// A number that may be negative, as 64 bits.
    pub fn signed(&mut self, what: &str) -> Result<i64> {
        let negative = self.accept(b'-')?;
        let token = self.token;
        let value = self.u64(what)?;
        signed(value, negative)
            .ok_or_else(|| Error::new(token.pos, format!("-{} does not fit 64 bits", token.text)))
    }

    pub fn name(&mut self, text: &'a str) -> Name {
        let fresh = Name(self.module.names.len() as u32);
        let name = *self.names.entry(text).or_insert(fresh);
        if name == fresh {
            self.module.names.push(text.to_string());
        }
        name
    }

    fn run(&mut self) -> Result<()> {
        self.scopes.top();
        self.header()?;
        while self.token.tok != Tok::End {
            self.statement()?;
        }
        for (index, pos) in &self.used_files {
            if !self.files.contains(index) {
                return Err(Error::new(
                    *pos,
                    format!("`.loc` names file {index}, which no `.file` declares"),
                ));
            }
        }
        Ok(())
    }

    fn directive(&mut self, name: &str) -> Result<()> {
        match self.accept_dot(name)? {
            true => Ok(()),
            false => self.expected(&format!("`.{name}`")),
        }
    }

    fn header(&mut self) -> Result<()> {
        self.directive("version")?;
        let token = self.token;
        let version = match token.tok {
            Tok::Decimal(_) => {
                token.text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
            }
            _ => None,
        };
        let Some(version) = version else {
            return self.expected("a version such as `8.8`");
        };
        if !((6, 0)..(10, 0)).contains(&version) {
            return self.expected("a PTX version from 6.0 to 9.x");
        }
        self.next()?;
        self.module.version = version;

        self.directive("target")?;
        let (name, pos) = self.ident("a target such as `sm_80`")?;
        self.module.target = target(name).ok_or_else(|| {
            Error::new(pos, format!("expected a target such as `sm_80`, found {}", quote(name)))
        })?;
        while self.accept(b',')? {
            match self.ident("a target option")? {
                ("debug", _) => self.module.target.debug = true,
                (name, pos) => {
                    return Err(Error::new(pos, format!("target option {} is not supported", quote(name))));
                }
            }
        }

        self.directive("address_size")?;
        match self.token.tok {
            Tok::Int(64) => self.next().map(|_| ()),
            _ => self.expected("`64`: 32-bit addresses are not supported"),
        }
    }

    fn statement(&mut self) -> Result<()> {
        match self.token.tok {
            Tok::Dot("file") => self.file(),
            Tok::Dot("section") => self.section(),
            Tok::Dot("pragma") => self.pragma(None),
            Tok::Dot("version" | "target" | "address_size") => Err(Error::new(
                self.token.pos,
                format!("{} may stand only once, at the top", self.token.shown()),
            )),
            Tok::Dot(_) => {
                let start = self.token;
                let linkage = self.linkage()?;
                match self.token.tok {
                    Tok::Dot("entry" | "func") => self.function(linkage),
                    Tok::Dot(name)
                        if matches!(
                            Space::from_name(name),
                            Some(Space::Global | Space::Const | Space::Shared)
                        ) =>
                    {
                        self.variables(linkage, None)
                    }
                    Tok::Dot("local" | "param") => {
                        let shown = self.token.shown();
                        Err(Error::new(
                            self.token.pos,
                            format!("{shown} variables may stand in functions only"),
                        ))
                    }
                    Tok::Dot(_) if linkage == Linkage::Internal => Err(Error::new(
                        start.pos,
                        format!("unknown directive {}: expected {TOP_LEVEL}", start.shown()),
                    )),
                    _ => self.expected("`.entry`, `.func` or a state space"),
                }
            }
            _ => self.expected(TOP_LEVEL),
        }
    }

    pub fn linkage(&mut self) -> Result<Linkage> {
        let linkage = match self.token.tok {
            Tok::Dot("visible") => Linkage::Visible,
            Tok::Dot("extern") => Linkage::Extern,
            Tok::Dot("weak") => Linkage::Weak,
            _ => return Ok(Linkage::Internal),
        };
        self.next()?;
        Ok(linkage)
    }

    /// `.file 1 "name", time, size`
    fn file(&mut self) -> Result<()> {
        self.next()?;
        let pos = self.token.pos;
        let index = self.u32("the number of the file")?;
        let (name, _) = self.string("the name of the file")?;
        let mut stamp = None;
        if self.accept(b',')? {
            let time = self.u64("a modification time")?;
            self.expect(b',', "before the size of the file")?;
            stamp = Some((time, self.u64("the size of the file")?));
        }
        if !self.files.insert(index) {
            return Err(Error::new(pos, format!("file {index} is declared twice")));
        }
        self.module.files.push(SourceFile { index, name: name.to_string(), stamp });
        Ok(())
    }

    /// Skips `.section .debug_x { ... }`, keeping only the texts of `.debug_str`.
    fn section(&mut self) -> Result<()> {
        let pos = self.next()?.pos;
        let (name, _) = self.dot("the name of the section")?;
        let mut section = Section { name: format!(".{name}"), pos, tokens: 0, strings: Vec::new() };
        self.expect(b'{', "to open the section")?;
        let (mut depth, mut text) = (1u32, Vec::new());
        let (mut previous, mut label) = (self.token, None);
        loop {
            let token = self.token;
            match token.tok {
                Tok::End => return self.expected(&format!("`}}` that closes the section at {pos}")),
                Tok::Punct(b'{') => depth = depth.saturating_add(1),
                Tok::Punct(b'}') => depth -= 1,
                Tok::Punct(b':') if name == "debug_str" => label = Some(previous.text),
                Tok::Int(value @ 1..=255) if name == "debug_str" => text.push(value as u8),
                Tok::Int(0) if name == "debug_str" => {
                    let string = String::from_utf8_lossy(&std::mem::take(&mut text)).into_owned();
                    section.strings.extend(label.take().map(|label| (label.to_string(), string)));
                }
                _ => {}
            }
            self.next()?;
            if depth == 0 {
                break;
            }
            section.tokens += 1;
            previous = token;
        }
        self.module.sections.push(section);
        Ok(())
    }

    /// `.pragma "a", "b";`
    pub fn pragma(&mut self, function: Option<FuncId>) -> Result<()> {
        self.next()?;
        loop {
            let (text, pos) = self.string("a string")?;
            self.module.pragmas.push(Pragma { text: text.to_string(), pos, function });
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b';', "after the pragma").map(|_| ())
    }

    /// A type written as `.u32`.
    pub fn type_name(&mut self) -> Result<Type> {
        match self.token.tok {
            Tok::Dot(name) => match Type::from_name(name) {
                Some(ty) => {
                    self.next()?;
                    Ok(ty)
                }
                None => self.expected("a type such as `.b32`"),
            },
            _ => self.expected("a type such as `.b32`"),
        }
    }

    /// Resolves a variable or a function.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        match self.scopes.find(name) {
            Some(Named::Symbol(symbol)) => Some(symbol),
            _ => None,
        }
    }
}

/// The low 64 bits of a literal with its sign; none if it has no 64-bit form.
pub(crate) fn signed(value: u64, negative: bool) -> Option<i64> {
    match negative {
        false => Some(value as i64),
        true if value <= 1 << 63 => Some((value as i64).wrapping_neg()),
        true => None,
    }
}

fn target(name: &str) -> Option<Target> {
    let rest = name.strip_prefix("sm_")?;
    let digits = rest.trim_end_matches(['a', 'f']);
    let suffix = rest[digits.len()..].chars().next();
    let plain =
        !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) && rest.len() - digits.len() <= 1;
    let arch = digits.parse().ok().filter(|_| plain)?;
    Some(Target { arch, suffix, debug: false })
}
