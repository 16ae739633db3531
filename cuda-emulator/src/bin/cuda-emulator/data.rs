//! Elements of buffers: from JSON to bytes and back to numbers.

use std::fmt;
use std::path::Path;

use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

use crate::case::{Expectation, Pattern, Random};

/// The type of an element.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Element {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

/// The value of an element.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Number {
    Integer(i128),
    Float(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Integer(value) => value.fmt(f),
            Number::Float(value) => value.fmt(f),
        }
    }
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Number::Integer(value) => value as f64,
            Number::Float(value) => value,
        }
    }

    /// For reports; infinities and NaN are strings, since JSON has no numbers for them.
    pub(crate) fn json(self) -> Value {
        match self {
            Number::Integer(value) => {
                i64::try_from(value).map_or_else(|_| Value::from(value as u64), Value::from)
            }
            Number::Float(value) if value.is_finite() => Value::from(value),
            Number::Float(value) => Value::from(value.to_string()),
        }
    }
}

impl Element {
    pub(crate) fn size(self) -> usize {
        match self {
            Element::U8 | Element::S8 => 1,
            Element::U16 | Element::S16 | Element::F16 | Element::Bf16 => 2,
            Element::U32 | Element::S32 | Element::F32 => 4,
            Element::U64 | Element::S64 | Element::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(
            self,
            Element::F16 | Element::Bf16 | Element::F32 | Element::F64
        )
    }

    fn signed(self) -> bool {
        matches!(
            self,
            Element::S8 | Element::S16 | Element::S32 | Element::S64
        )
    }

    /// Appends a number, rounded to the nearest float; an integer must be in range.
    fn push(self, number: Number, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Element::F64 => out.extend(number.float().to_le_bytes()),
            Element::F32 => out.extend((number.float() as f32).to_le_bytes()),
            Element::F16 => out.extend(f16::from_f64(number.float()).to_le_bytes()),
            Element::Bf16 => out.extend(bf16::from_f64(number.float()).to_le_bytes()),
            _ => {
                let bits = 8 * self.size() as u32 - u32::from(self.signed());
                let low = if self.signed() { -(1i128 << bits) } else { 0 };
                match number {
                    Number::Integer(value) if (low..1i128 << bits).contains(&value) => {
                        out.extend(&value.to_le_bytes()[..self.size()]);
                    }
                    _ => return Err(format!("{number} is no value of type {self:?}")),
                }
            }
        }
        Ok(())
    }

    /// A number of JSON, or `"nan"`, `"inf"`, `"-inf"`.
    pub(crate) fn encode(self, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
        let number = match value {
            Value::String(text) if self.is_float() => match text.as_str() {
                "nan" => Some(Number::Float(f64::NAN)),
                "inf" => Some(Number::Float(f64::INFINITY)),
                "-inf" => Some(Number::Float(f64::NEG_INFINITY)),
                _ => None,
            },
            _ => (value.as_i64().map(i128::from))
                .or(value.as_u64().map(i128::from))
                .map(Number::Integer)
                .or(value.as_f64().map(Number::Float)),
        };
        let number =
            number.ok_or_else(|| format!("expected a number of type {self:?}, found {value}"))?;
        self.push(number, out)
    }

    /// The numbers in a buffer's bytes.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<Number> {
        let one = |bytes: &[u8]| {
            let mut wide = [0; 16];
            wide[..bytes.len()].copy_from_slice(bytes);
            if self.signed() && bytes.last().is_some_and(|b| b & 0x80 != 0) {
                wide[bytes.len()..].fill(0xff);
            }
            let integer = i128::from_le_bytes(wide);
            match self {
                Element::F64 => Number::Float(f64::from_bits(integer as u64)),
                Element::F32 => Number::Float(f32::from_bits(integer as u32).into()),
                Element::F16 => Number::Float(f16::from_bits(integer as u16).into()),
                Element::Bf16 => Number::Float(bf16::from_bits(integer as u16).into()),
                _ => Number::Integer(integer),
            }
        };
        bytes.chunks_exact(self.size()).map(one).collect()
    }
}

/// SplitMix64: the same data on every machine.
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl Random {
    fn numbers(
        &self,
        element: Element,
        len: u64,
    ) -> Result<impl Iterator<Item = Number> + use<>, String> {
        let (low, high) = (self.low, self.high);
        if low > high || !low.is_finite() || !high.is_finite() {
            return Err(format!(
                "random: expected low <= high, found {low} and {high}"
            ));
        }
        let mut generator = Generator(self.seed);
        let float = element.is_float();
        Ok((0..len).map(move |_| {
            let unit = (generator.next() >> 11) as f64 / (1u64 << 53) as f64;
            match float {
                true => Number::Float(low + unit * (high - low)),
                false => Number::Integer((low + unit * (high - low + 1.0)).floor() as i128),
            }
        }))
    }
}

/// The bytes of a pattern, `None` for `uninitialized`; relative files are in `folder`.
pub(crate) fn bytes(
    pattern: &Pattern,
    element: Element,
    len: Option<u64>,
    folder: &Path,
) -> Result<Option<Vec<u8>>, String> {
    let known = || len.ok_or_else(|| "the length is missing (`len`)".to_owned());
    let mut out = Vec::new();
    match pattern {
        Pattern::Uninitialized => {
            known()?;
            return Ok(None);
        }
        Pattern::Zeros => out.resize(byte_count(known()?, element)?, 0),
        Pattern::Iota => {
            for i in 0..known()? {
                element.push(Number::Integer(i.into()), &mut out)?;
            }
        }
        Pattern::Fill(value) => {
            element.encode(value, &mut out)?;
            out = out.repeat(byte_count(known()?, element)? / element.size());
        }
        Pattern::Random(random) => {
            for number in random.numbers(element, known()?)? {
                element.push(number, &mut out)?;
            }
        }
        Pattern::Values(values) => {
            for value in values {
                element.encode(value, &mut out)?;
            }
        }
        Pattern::File(path) => {
            let path = folder.join(path);
            out = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    let (found, size) = (out.len(), element.size());
    if found % size != 0 {
        return Err(format!(
            "{found} bytes are no whole number of elements of {size} bytes"
        ));
    }
    if let Some(len) = len
        && (found / size) as u64 != len
    {
        return Err(format!("expected {len} elements, found {}", found / size));
    }
    Ok(Some(out))
}

fn byte_count(len: u64, element: Element) -> Result<usize, String> {
    // More than a card has: a slip of the keyboard, not a case.
    const MOST: u64 = 1 << 38;
    match len.checked_mul(element.size() as u64) {
        Some(bytes) if bytes <= MOST => Ok(bytes as usize),
        _ => Err(format!("{len} elements do not fit device memory")),
    }
}

/// Compares a buffer with what was expected. The error says how many elements differ and shows the first.
pub(crate) fn compare(
    found: &[Number],
    expectation: &Expectation,
    element: Element,
    folder: &Path,
) -> Result<(), String> {
    let Some(expected) = bytes(&expectation.data, element, Some(found.len() as u64), folder)?
    else {
        return Err("`uninitialized` cannot be expected".into());
    };
    let expected = element.decode(&expected);
    let mut wrong = found
        .iter()
        .zip(&expected)
        .enumerate()
        .filter(|(_, (found, expected))| {
            let same = match (found, expected) {
                (Number::Integer(a), Number::Integer(b)) => a == b,
                (a, b) => a.float() == b.float() || (a.float().is_nan() && b.float().is_nan()),
            };
            let (a, b) = (found.float(), expected.float());
            let within =
                b.is_finite() && (a - b).abs() <= expectation.atol + expectation.rtol * b.abs();
            !same && !within
        });
    let Some((index, (a, b))) = wrong.next() else {
        return Ok(());
    };
    let count = 1 + wrong.count();
    let total = found.len();
    Err(format!(
        "{count} of {total} elements differ, first [{index}]: expected {b}, found {a}"
    ))
}
