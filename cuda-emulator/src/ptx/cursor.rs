//! One token of look-ahead over the lexer, and the constants of PTX: numbers and constant expressions.

use super::ast::{Immediate, ParseError};
use super::lexer::{Kind, Lexer, Token};

/// Parentheses, braces and unary operators may nest this deep; more would only be an attack on the stack.
pub(super) const MAX_DEPTH: u32 = 200;

pub(super) struct Cursor<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
}

/// A constant integer with its type: all of PTX's constants are 64 bits wide.
#[derive(Clone, Copy)]
struct Constant {
    bits: i64,
    unsigned: bool,
}

/// An operator, how tightly it binds (10 tightest), and what it does. The flag says whether either side is unsigned.
type Binary = (&'static str, u32, fn(i64, i64, bool) -> Option<i64>);

const BINARY: [Binary; 18] = [
    ("||", 1, |a, b, _| Some((a != 0 || b != 0).into())),
    ("&&", 2, |a, b, _| Some((a != 0 && b != 0).into())),
    ("|", 3, |a, b, _| Some(a | b)),
    ("^", 4, |a, b, _| Some(a ^ b)),
    ("&", 5, |a, b, _| Some(a & b)),
    ("==", 6, |a, b, _| Some((a == b).into())),
    ("!=", 6, |a, b, _| Some((a != b).into())),
    ("<", 7, |a, b, u| {
        Some(if u { (a as u64) < b as u64 } else { a < b }.into())
    }),
    ("<=", 7, |a, b, u| {
        Some(if u { a as u64 <= b as u64 } else { a <= b }.into())
    }),
    (">", 7, |a, b, u| {
        Some(if u { a as u64 > b as u64 } else { a > b }.into())
    }),
    (">=", 7, |a, b, u| {
        Some(if u { a as u64 >= b as u64 } else { a >= b }.into())
    }),
    ("<<", 8, |a, b, _| {
        Some(if (0..64).contains(&b) { a << b } else { 0 })
    }),
    (">>", 8, |a, b, u| match u {
        true => Some((a as u64).checked_shr(u32::try_from(b).ok()?).unwrap_or(0) as i64),
        false => Some(a >> b.clamp(0, 63)),
    }),
    ("+", 9, |a, b, _| Some(a.wrapping_add(b))),
    ("-", 9, |a, b, _| Some(a.wrapping_sub(b))),
    ("*", TIGHTEST, |a, b, _| Some(a.wrapping_mul(b))),
    ("/", TIGHTEST, |a, b, u| match u {
        true => Some((a as u64).checked_div(b as u64)? as i64),
        false => a.checked_div(b),
    }),
    ("%", TIGHTEST, |a, b, u| match u {
        true => Some((a as u64).checked_rem(b as u64)? as i64),
        false => a.checked_rem(b),
    }),
];

const TIGHTEST: u32 = 10;

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Result<Self, ParseError> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Cursor { lexer, token })
    }

    pub(super) fn peek(&self) -> Token<'a> {
        self.token
    }

    /// Takes the current token.
    pub(super) fn advance(&mut self) -> Result<Token<'a>, ParseError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// Whether the current token is this mark.
    pub(super) fn at(&self, mark: &str) -> bool {
        self.token.kind == Kind::Mark && self.token.text == mark
    }

    /// Whether the current token is this word (without its dot).
    pub(super) fn at_word(&self, word: &str) -> bool {
        self.token.kind == Kind::Word && self.token.text == word
    }

    /// Takes the mark if it is there.
    pub(super) fn eat(&mut self, mark: &str) -> Result<bool, ParseError> {
        let found = self.at(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Takes the word if it is there.
    pub(super) fn eat_word(&mut self, word: &str) -> Result<bool, ParseError> {
        let found = self.at_word(word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn expect(&mut self, mark: &str) -> Result<Token<'a>, ParseError> {
        match self.at(mark) {
            true => self.advance(),
            false => Err(self.expected(&format!("`{mark}`"))),
        }
    }

    /// Takes a token of this kind; `what` completes "expected …".
    pub(super) fn expect_kind(&mut self, kind: Kind, what: &str) -> Result<Token<'a>, ParseError> {
        match self.token.kind == kind {
            true => self.advance(),
            false => Err(self.expected(what)),
        }
    }

    /// The error "expected …, found the current token".
    pub(super) fn expected(&self, what: &str) -> ParseError {
        let message = format!("expected {what}, found {}", self.token.describe());
        self.error(self.token, message)
    }

    pub(super) fn error(&self, token: Token<'_>, message: impl Into<String>) -> ParseError {
        self.lexer.error_at(token.start, token.line, message.into())
    }

    /// A constant expression over integers.
    pub(super) fn integer(&mut self) -> Result<i64, ParseError> {
        Ok(self.expression(0)?.bits)
    }

    /// `+ n - m …` as it follows a name in an address.
    pub(super) fn offset(&mut self) -> Result<i64, ParseError> {
        let mut sum = 0i64;
        while self.at("+") || self.at("-") {
            let minus = self.advance()?.text == "-";
            let term = self.binary(TIGHTEST, 0)?.bits;
            sum = if minus {
                sum.wrapping_sub(term)
            } else {
                sum.wrapping_add(term)
            };
        }
        Ok(sum)
    }

    /// Whether a constant can begin at the current token.
    pub(super) fn at_constant(&self) -> bool {
        match self.token.kind {
            Kind::Number => true,
            Kind::Name => self.token.text == "WARP_SZ",
            Kind::Mark => matches!(self.token.text, "-" | "+" | "~" | "("),
            _ => false,
        }
    }

    /// An integer expression, or a float with an optional sign.
    pub(super) fn immediate(&mut self) -> Result<Immediate, ParseError> {
        let negative = self.at("-");
        let number = match negative {
            true => self.lexer.clone().next()?,
            false => self.token,
        };
        let value = match number.kind {
            Kind::Number => float(number.text),
            _ => None,
        };
        let Some(value) = value else {
            return Ok(Immediate::Integer(self.integer()?));
        };
        if negative {
            self.advance()?;
        }
        self.advance()?;
        Ok(match (value, negative) {
            (Immediate::F32(bits), true) => Immediate::F32(bits ^ 1 << 31),
            (Immediate::F64(bits), true) => Immediate::F64(bits ^ 1 << 63),
            (value, _) => value,
        })
    }

    /// A number alone, where `>` may follow it as a bracket.
    pub(super) fn count(&mut self) -> Result<u32, ParseError> {
        let value = integer(self.token.text).and_then(|value| u32::try_from(value.bits).ok());
        match value {
            Some(value) if self.token.kind == Kind::Number => {
                self.advance()?;
                Ok(value)
            }
            _ => Err(self.expected("a 32-bit number")),
        }
    }

    fn expression(&mut self, depth: u32) -> Result<Constant, ParseError> {
        let condition = self.binary(1, depth)?;
        if !self.eat("?")? {
            return Ok(condition);
        }
        let yes = self.expression(depth + 1)?;
        self.expect(":")?;
        let no = self.expression(depth + 1)?;
        Ok(Constant {
            bits: if condition.bits != 0 {
                yes.bits
            } else {
                no.bits
            },
            unsigned: yes.unsigned || no.unsigned,
        })
    }

    /// Operators that bind at least as tightly as `weakest`.
    fn binary(&mut self, weakest: u32, depth: u32) -> Result<Constant, ParseError> {
        let mut left = self.unary(depth)?;
        while self.token.kind == Kind::Mark {
            let found = BINARY.iter().find(|(mark, ..)| *mark == self.token.text);
            let Some((mark, tightness, apply)) = found.filter(|(_, t, _)| *t >= weakest) else {
                break;
            };
            let operator = self.advance()?;
            let right = self.binary(tightness + 1, depth + 1)?;
            // A shift has the type of its left side.
            let unsigned = left.unsigned || (right.unsigned && *mark != ">>");
            let Some(bits) = apply(left.bits, right.bits, unsigned) else {
                let message = format!("{} {mark} {} has no value", left.bits, right.bits);
                return Err(self.error(operator, message));
            };
            left = Constant { bits, unsigned };
        }
        Ok(left)
    }

    fn unary(&mut self, depth: u32) -> Result<Constant, ParseError> {
        let token = self.token;
        self.check_depth(token, depth)?;
        match (token.kind, token.text) {
            (Kind::Number, text) => {
                let Some(value) = integer(text) else {
                    let message = format!("expected an integer, found {}", token.describe());
                    return Err(self.error(token, message));
                };
                self.advance()?;
                Ok(value)
            }
            (Kind::Name, "WARP_SZ") => {
                self.advance()?;
                Ok(Constant {
                    bits: 32,
                    unsigned: false,
                })
            }
            (Kind::Mark, "(") => {
                self.advance()?;
                // A cast: `(.u64) 1`.
                if self.token.kind == Kind::Word && matches!(self.token.text, "s64" | "u64") {
                    let unsigned = self.advance()?.text == "u64";
                    self.expect(")")?;
                    let bits = self.unary(depth + 1)?.bits;
                    return Ok(Constant { bits, unsigned });
                }
                let value = self.expression(depth + 1)?;
                self.expect(")")?;
                Ok(value)
            }
            (Kind::Mark, "-" | "+" | "~" | "!") => {
                self.advance()?;
                let Constant { bits, unsigned } = self.unary(depth + 1)?;
                let bits = match token.text {
                    "-" => bits.wrapping_neg(),
                    "~" => !bits,
                    "!" => (bits == 0).into(),
                    _ => bits,
                };
                Ok(Constant { bits, unsigned })
            }
            _ => Err(self.expected("a constant")),
        }
    }

    fn check_depth(&self, token: Token<'_>, depth: u32) -> Result<(), ParseError> {
        match depth <= MAX_DEPTH {
            true => Ok(()),
            false => Err(self.error(token, format!("nested deeper than {MAX_DEPTH}"))),
        }
    }
}

/// `0f` and eight, `0d` and sixteen hexadecimal digits, or a decimal number with a point or an exponent.
fn float(text: &str) -> Option<Immediate> {
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).ok();
    match text.get(..2) {
        Some("0f" | "0F") if text.len() == 10 => Some(Immediate::F32(
            u32::try_from(hexadecimal(&text[2..])?).ok()?,
        )),
        Some("0d" | "0D") if text.len() == 18 => Some(Immediate::F64(hexadecimal(&text[2..])?)),
        Some("0x" | "0X" | "0b" | "0B") => None,
        _ if text.contains(['.', 'e', 'E']) => {
            Some(Immediate::F64(text.parse::<f64>().ok()?.to_bits()))
        }
        _ => None,
    }
}

fn integer(text: &str) -> Option<Constant> {
    let (digits, suffix) = match text.strip_suffix('U') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let value = match digits.get(..2) {
        Some("0x" | "0X") => u64::from_str_radix(&digits[2..], 16),
        Some("0b" | "0B") => u64::from_str_radix(&digits[2..], 2),
        Some(_) if digits.starts_with('0') => u64::from_str_radix(&digits[1..], 8),
        _ => digits.parse(),
    }
    .ok()?;
    Some(Constant {
        bits: value as i64,
        unsigned: suffix || value > i64::MAX as u64,
    })
}
