//! PTX text to tokens, on demand. The lexer never looks back, so that parsing takes linear time.

use super::ast::ParseError;

/// What a token is; its text is a slice of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `ld`, `%r1`, `$L__BB0_2`, `_`.
    Name,
    /// `.global`, `.shared::cta`, `.L2::128B`: the text is without its first dot.
    Word,
    /// Integer, `0f…`, `0d…` or decimal number.
    Number,
    /// The text is between the quotes.
    Text,
    /// A punctuation mark of one or two characters.
    Mark,
    End,
}

/// A token and its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    /// Byte offset in the source.
    pub(super) start: usize,
    pub(super) line: u32,
}

impl Token<'_> {
    /// How an error message names the token.
    pub(super) fn describe(&self) -> String {
        const LONGEST: usize = 60;
        let dot = if self.kind == Kind::Word { "." } else { "" };
        match self.kind {
            Kind::End => "the end of the text".into(),
            _ if self.text.chars().count() > LONGEST => {
                let head: String = self.text.chars().take(LONGEST).collect();
                format!("`{dot}{head}…`")
            }
            _ => format!("`{dot}{}`", self.text),
        }
    }
}

#[derive(Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    position: usize,
    line: u32,
}

/// Marks of two characters; all other punctuation is single.
const PAIRS: [&[u8; 2]; 8] = [b"<<", b">>", b"<=", b">=", b"==", b"!=", b"&&", b"||"];

const SINGLES: &[u8] = b"{}()[]<>,;:=+-*/%&|^~!?@";

fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer {
            text,
            position: 0,
            line: 1,
        }
    }

    /// An error at a byte offset of the source.
    pub(super) fn error_at(&self, start: usize, line: u32, message: String) -> ParseError {
        let head = &self.text[..start];
        let line_start = head.rfind('\n').map_or(0, |newline| newline + 1);
        let column = head[line_start..].chars().count() as u32 + 1;
        ParseError {
            line,
            column,
            message,
        }
    }

    fn byte(&self, ahead: usize) -> u8 {
        // PTX has no use for NUL, so it can stand for the end.
        let bytes = self.text.as_bytes();
        bytes.get(self.position + ahead).copied().unwrap_or(0)
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            match self.byte(0) {
                b'\n' => {
                    self.line += 1;
                    self.position += 1;
                }
                b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' => self.position += 1,
                b'/' if self.byte(1) == b'/' => {
                    let rest = &self.text[self.position..];
                    self.position += rest.find('\n').unwrap_or(rest.len());
                }
                b'/' if self.byte(1) == b'*' => {
                    let (start, line) = (self.position, self.line);
                    let body = &self.text[start + 2..];
                    let Some(length) = body.find("*/") else {
                        return Err(self.error_at(start, line, "comment without `*/`".into()));
                    };
                    self.line += body[..length].bytes().filter(|b| *b == b'\n').count() as u32;
                    self.position += length + 4;
                }
                // A C string's terminator, which callers of the driver may have left in.
                0 if self.text[self.position..].bytes().all(|b| b == 0) => {
                    self.position = self.text.len();
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blanks()?;
        let (start, line) = (self.position, self.line);
        let token = |kind, text| Token {
            kind,
            text,
            start,
            line,
        };
        if start == self.text.len() {
            return Ok(token(Kind::End, ""));
        }
        let first = self.byte(0);
        // `%` is also the remainder in a constant expression.
        let name = first.is_ascii_alphabetic()
            || matches!(first, b'_' | b'$')
            || (first == b'%' && in_name(self.byte(1)) && !self.byte(1).is_ascii_digit());
        if name {
            self.position += 1;
            self.skip_while(in_name);
            return Ok(token(Kind::Name, &self.text[start..self.position]));
        }
        if first == b'.' && in_name(self.byte(1)) {
            self.position += 1;
            loop {
                self.skip_while(in_name);
                if self.byte(0) != b':' || self.byte(1) != b':' || !in_name(self.byte(2)) {
                    break;
                }
                self.position += 2;
            }
            return Ok(token(Kind::Word, &self.text[start + 1..self.position]));
        }
        if first.is_ascii_digit() {
            self.number();
            return Ok(token(Kind::Number, &self.text[start..self.position]));
        }
        if first == b'"' {
            return self.text_token(start, line);
        }
        let pair = [first, self.byte(1)];
        let length = match PAIRS.contains(&&pair) {
            true => 2,
            false if SINGLES.contains(&first) => 1,
            false => {
                let found = self.text[start..].chars().next().unwrap_or('\0');
                let message = format!("character {found:?} has no meaning in PTX");
                return Err(self.error_at(start, line, message));
            }
        };
        self.position += length;
        Ok(token(Kind::Mark, &self.text[start..self.position]))
    }

    fn skip_while(&mut self, accept: impl Fn(u8) -> bool) {
        while accept(self.byte(0)) {
            self.position += 1;
        }
    }

    /// Takes all that could belong to a number; whether it is one is seen when its value is needed.
    fn number(&mut self) {
        let radix_letter =
            self.byte(0) == b'0' && matches!(self.byte(1) | 0x20, b'x' | b'f' | b'd');
        self.skip_while(in_name);
        if radix_letter {
            return;
        }
        if self.byte(0) == b'.' && !(self.byte(1).is_ascii_alphabetic() || self.byte(1) == b'_') {
            self.position += 1;
            self.skip_while(in_name);
        }
        let before = self.text.as_bytes()[self.position - 1];
        if matches!(before, b'e' | b'E') && matches!(self.byte(0), b'+' | b'-') {
            self.position += 1;
            self.skip_while(in_name);
        }
    }

    fn text_token(&mut self, start: usize, line: u32) -> Result<Token<'a>, ParseError> {
        self.position += 1;
        loop {
            match self.byte(0) {
                b'"' => break,
                b'\\' if !matches!(self.byte(1), 0 | b'\n') => self.position += 2,
                b'\n' | 0 => {
                    return Err(self.error_at(start, line, "string without closing `\"`".into()));
                }
                _ => self.position += 1,
            }
        }
        let text = &self.text[start + 1..self.position];
        self.position += 1;
        Ok(Token {
            kind: Kind::Text,
            text,
            start,
            line,
        })
    }
}
