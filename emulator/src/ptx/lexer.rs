//! PTX text to tokens, one at a time.

use super::{Error, Pos, Result};

/// A token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tok<'a> {
    /// A name, with its `%`, `$` or `_`.
    Ident(&'a str),
    /// `.name` or `.a::b`, without the leading dot.
    Dot(&'a str),
    /// An unsigned integer.
    Int(u64),
    /// `0f........`
    F32(u32),
    /// `0d................`
    F64(u64),
    /// `1.5` or `1e3`.
    Decimal(f64),
    /// A string without its quotes.
    Str(&'a str),
    /// One of the bytes of [`PUNCTUATION`].
    Punct(u8),
    /// The end of the text.
    End,
}

const PUNCTUATION: &[u8] = b",;:{}()[]<>@!|+-=";

/// A token with its text and place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub tok: Tok<'a>,
    pub text: &'a str,
    pub pos: Pos,
}

impl Token<'_> {
    /// The token as an error message shows it.
    pub fn shown(&self) -> String {
        match self.tok {
            Tok::End => "the end of the text".to_string(),
            _ => quote(self.text),
        }
    }
}

/// `text` between backquotes, shortened.
pub(crate) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("`{}...`", &text[..end]),
        None => format!("`{text}`"),
    }
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    line_start: usize,
}

fn is_name_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%')
}

fn is_name(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$')
}

impl<'a> Lexer<'a> {
    /// `text` may hold at most `limits::TEXT` bytes, so that positions fit `u32`.
    pub fn new(text: &'a str) -> Self {
        Lexer { text, at: 0, line: 1, line_start: 0 }
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn pos(&self) -> Pos {
        Pos { line: self.line, column: (self.at - self.line_start) as u32 + 1 }
    }

    fn newline(&mut self) {
        self.line += 1;
        self.line_start = self.at + 1;
    }

    fn skip_blank(&mut self) -> Result<()> {
        let bytes = self.text.as_bytes();
        while let Some(&c) = bytes.get(self.at) {
            match c {
                b'\n' => self.newline(),
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => {}
                b'/' if self.byte(1) == b'/' => {
                    while bytes.get(self.at).is_some_and(|&c| c != b'\n') {
                        self.at += 1;
                    }
                    continue;
                }
                b'/' if self.byte(1) == b'*' => {
                    let start = self.pos();
                    self.at += 2;
                    while !(self.byte(0) == b'*' && self.byte(1) == b'/') {
                        match bytes.get(self.at) {
                            Some(b'\n') => self.newline(),
                            Some(_) => {}
                            None => {
                                return Err(Error::new(start, "expected `*/` before the end of the text"));
                            }
                        }
                        self.at += 1;
                    }
                    self.at += 1;
                }
                _ => break,
            }
            self.at += 1;
        }
        Ok(())
    }

    /// Moves over the bytes that satisfy `keep` and returns them.
    fn take(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.text.as_bytes().get(self.at).is_some_and(|&c| keep(c)) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    pub fn next(&mut self) -> Result<Token<'a>> {
        self.skip_blank()?;
        let (start, pos) = (self.at, self.pos());
        let tok = match self.byte(0) {
            _ if self.at >= self.text.len() => Tok::End,
            c if c.is_ascii_digit() => self.number(pos)?,
            c if is_name_start(c) => {
                self.at += 1;
                let rest = self.take(is_name);
                if rest.is_empty() && matches!(c, b'%' | b'$') {
                    let found = quote(&self.text[start..self.at]);
                    return Err(Error::new(pos, format!("expected a name, found {found} alone")));
                }
                Tok::Ident(&self.text[start..self.at])
            }
            b'.' => Tok::Dot(self.dotted(pos)?),
            b'"' => {
                self.at += 1;
                let text = self.take(|c| !matches!(c, b'"' | b'\n'));
                if self.byte(0) != b'"' {
                    return Err(Error::new(pos, "expected `\"` before the end of the line"));
                }
                self.at += 1;
                Tok::Str(text)
            }
            c if PUNCTUATION.contains(&c) => {
                self.at += 1;
                Tok::Punct(c)
            }
            _ => {
                let found: String = self.text[start..].chars().take(1).collect();
                return Err(Error::new(pos, format!("unexpected character {found:?}")));
            }
        };
        Ok(Token { tok, text: &self.text[start..self.at], pos })
    }

    /// `.shared::cta`: the text after the dot.
    fn dotted(&mut self, pos: Pos) -> Result<&'a str> {
        self.at += 1;
        let start = self.at;
        if self.take(is_name).is_empty() {
            return Err(Error::new(pos, "expected a name after `.`"));
        }
        while self.byte(0) == b':' && self.byte(1) == b':' {
            self.at += 2;
            if self.take(is_name).is_empty() {
                return Err(Error::new(pos, "expected a name after `::`"));
            }
        }
        Ok(&self.text[start..self.at])
    }

    fn number(&mut self, pos: Pos) -> Result<Tok<'a>> {
        let start = self.at;
        let tok = match (self.byte(0), self.byte(1)) {
            (b'0', b'x' | b'X') => self.integer(pos, 16)?,
            (b'0', b'b' | b'B') => self.integer(pos, 2)?,
            (b'0', b'f' | b'F') => Tok::F32(self.float_bits(pos, 8)? as u32),
            (b'0', b'd' | b'D') => Tok::F64(self.float_bits(pos, 16)?),
            _ => {
                self.take(|c| c.is_ascii_digit());
                let fraction = self.byte(0) == b'.' && self.byte(1).is_ascii_digit();
                if fraction {
                    self.at += 1;
                    self.take(|c| c.is_ascii_digit());
                }
                let exponent = matches!(self.byte(0), b'e' | b'E');
                if exponent {
                    self.at += if matches!(self.byte(1), b'+' | b'-') { 2 } else { 1 };
                    if self.take(|c| c.is_ascii_digit()).is_empty() {
                        return Err(Error::new(pos, "expected digits of an exponent"));
                    }
                }
                if fraction || exponent {
                    let text = &self.text[start..self.at];
                    match text.parse::<f64>() {
                        Ok(value) if value.is_finite() => Tok::Decimal(value),
                        _ => return Err(Error::new(pos, format!("{} does not fit 64 bits", quote(text)))),
                    }
                } else {
                    self.at = start;
                    let octal = self.byte(0) == b'0' && self.byte(1).is_ascii_digit();
                    self.integer(pos, if octal { 8 } else { 10 })?
                }
            }
        };
        if is_name(self.byte(0)) {
            self.take(is_name);
            return Err(Error::new(pos, format!("malformed number {}", quote(&self.text[start..self.at]))));
        }
        Ok(tok)
    }

    fn integer(&mut self, pos: Pos, radix: u32) -> Result<Tok<'a>> {
        self.at += if matches!(radix, 2 | 16) { 2 } else { 0 };
        let digits = self.take(|c| (c as char).is_digit(radix));
        if digits.is_empty() {
            return Err(Error::new(pos, format!("expected digits of base {radix}")));
        }
        let value = u64::from_str_radix(digits, radix)
            .map_err(|_| Error::new(pos, format!("{} does not fit 64 bits", quote(digits))))?;
        if self.byte(0) == b'U' {
            self.at += 1;
        }
        Ok(Tok::Int(value))
    }

    fn float_bits(&mut self, pos: Pos, digits: usize) -> Result<u64> {
        self.at += 2;
        let text = self.take(|c| c.is_ascii_hexdigit());
        if text.len() != digits {
            let message = format!(
                "expected {digits} hexadecimal digits of a floating-point number, found {}",
                text.len()
            );
            return Err(Error::new(pos, message));
        }
        u64::from_str_radix(text, 16).map_err(|_| Error::new(pos, "malformed number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Tok<'_>>> {
        let mut lexer = Lexer::new(text);
        let mut out = Vec::new();
        loop {
            match lexer.next()?.tok {
                Tok::End => return Ok(out),
                tok => out.push(tok),
            }
        }
    }

    #[test]
    fn numbers() {
        let text =
            "0 7 010 0x1F 0x1fU 0b101 12U 0f3F800000 0d3FF0000000000000 1.5 2e3 2.5E-1 18446744073709551615";
        let expected = [
            Tok::Int(0),
            Tok::Int(7),
            Tok::Int(8),
            Tok::Int(31),
            Tok::Int(31),
            Tok::Int(5),
            Tok::Int(12),
            Tok::F32(0x3f80_0000),
            Tok::F64(0x3ff0_0000_0000_0000),
            Tok::Decimal(1.5),
            Tok::Decimal(2000.0),
            Tok::Decimal(0.25),
            Tok::Int(u64::MAX),
        ];
        assert_eq!(all(text).unwrap(), expected);
        for bad in
            ["18446744073709551616", "0x", "08", "0b2", "0f3F80000", "0f3F8000000", "1e", "1e999", "12ab"]
        {
            assert!(all(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_modifiers() {
        let text = "ld.shared::cta.b32 %r1, [a+-4]; /* x\n */ $L:// end\n%tid.x _ .L2::cache_hint";
        let words: Vec<String> = all(text).unwrap().iter().map(|t| format!("{t:?}")).collect();
        assert_eq!(words[1], "Dot(\"shared::cta\")");
        assert_eq!(words[3], "Ident(\"%r1\")");
        assert_eq!(
            words[words.len() - 4..],
            ["Ident(\"%tid\")", "Dot(\"x\")", "Ident(\"_\")", "Dot(\"L2::cache_hint\")"]
        );
    }

    #[test]
    fn positions() {
        let mut lexer = Lexer::new("a\n  /* \n\n */ b\r\n\tc");
        let found: Vec<Pos> = (0..3).map(|_| lexer.next().unwrap().pos).collect();
        assert_eq!(found, [(1, 1), (4, 5), (5, 2)].map(|(line, column)| Pos { line, column }));
    }
}
