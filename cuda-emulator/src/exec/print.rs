//! `vprintf` and `__assertfail`.

use std::fmt::Write;

use super::access::is_local;
use super::frame::Frame;
use super::registers::Regs;
use super::state::{Block, Warp};
use super::worker::Exec;
use crate::lower::op::{Reg, Value};
use crate::memory::LOCAL_WINDOW;

/// Longest string that is read from device memory.
const MAX_STRING: usize = 1 << 16;

/// Bytes at a generic address in global or local memory.
fn bytes(
    exec: &Exec<'_>,
    warp: &Warp,
    lane: usize,
    address: u64,
    len: usize,
) -> Result<Vec<u8>, String> {
    let mut data = vec![0; len];
    if is_local(address) {
        let at = (address - LOCAL_WINDOW) as usize;
        let start = lane * warp.files.stride as usize;
        let own = &warp.files.local[start..start + warp.files.stride as usize];
        let from = own.get(at..).and_then(|p| p.get(..len));
        data.copy_from_slice(from.ok_or("printf reads past the end of local memory")?);
    } else {
        exec.grid
            .memory
            .copy_out(address, &mut data)
            .map_err(|e| format!("printf reads {e}"))?;
    }
    Ok(data)
}

fn string(exec: &Exec<'_>, warp: &Warp, lane: usize, address: u64) -> Result<String, String> {
    let mut text = Vec::new();
    while text.len() < MAX_STRING {
        let byte = bytes(exec, warp, lane, address.wrapping_add(text.len() as u64), 1)?[0];
        if byte == 0 {
            break;
        }
        text.push(byte);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A parameter variable of the frame.
fn param(warp: &Warp, frame: Frame, lane: usize, offset: u32, len: usize) -> u64 {
    let at = lane * warp.files.stride as usize + (frame.local + offset) as usize;
    let mut word = [0; 8];
    word[..len].copy_from_slice(&warp.files.local[at..at + len]);
    u64::from_le_bytes(word)
}

/// Prints for each lane; the result is the number of conversions, as CUDA's printf returns it.
pub(crate) fn vprintf(
    exec: &mut Exec<'_>,
    warp: &mut Warp,
    regs: Regs,
    frame: Frame,
    [format, args]: [u32; 2],
    ret: Option<Value>,
    lanes: u32,
) -> Result<(), String> {
    let mut counts = [0u32; 32];
    let mut printed = String::new();
    for lane in (0..32).filter(|l| lanes >> l & 1 != 0) {
        let format = param(warp, frame, lane, format, 8);
        let args = param(warp, frame, lane, args, 8);
        let format = string(exec, warp, lane, format)?;
        counts[lane] = one(exec, warp, lane, &format, args, &mut printed)?;
    }
    exec.grid.print(&printed);
    match ret {
        Some(Value::Frame(offset, 4)) => {
            for lane in (0..32).filter(|l| lanes >> l & 1 != 0) {
                let at = lane * warp.files.stride as usize + (frame.local + offset) as usize;
                warp.files.local[at..at + 4].copy_from_slice(&counts[lane].to_le_bytes());
            }
        }
        // SAFETY: a slot of the frame.
        Some(Value::Reg(Reg::R32(d))) => unsafe { regs.set32(d, &counts, lanes) },
        _ => {}
    }
    Ok(())
}

/// A conversion specification of C.
#[derive(Debug, Default)]
struct Spec {
    minus: bool,
    plus: bool,
    space: bool,
    sharp: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    /// Arguments of 8 bytes.
    long: bool,
    /// `h` and `hh`: bits of the value that count.
    bits: u32,
}

impl Spec {
    /// Sign or prefix, then digits, padded to the width.
    fn pad(&self, prefix: &str, digits: &str, number: bool) -> String {
        let len = prefix.len() + digits.chars().count();
        let fill = self.width.saturating_sub(len);
        if self.minus {
            format!("{prefix}{digits}{}", " ".repeat(fill))
        } else if self.zero && number {
            format!("{prefix}{}{digits}", "0".repeat(fill))
        } else {
            format!("{}{prefix}{digits}", " ".repeat(fill))
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        }
    }

    fn integer(&self, prefix: &str, mut digits: String) -> String {
        if let Some(precision) = self.precision {
            let missing = precision.saturating_sub(digits.len());
            digits = "0".repeat(missing) + &digits;
            let unzero = Spec {
                zero: false,
                width: self.width,
                minus: self.minus,
                ..Spec::default()
            };
            return unzero.pad(prefix, &digits, true);
        }
        self.pad(prefix, &digits, true)
    }

    fn float(&self, conversion: char, value: f64) -> String {
        let prefix = self.sign(value.is_sign_negative());
        let upper = conversion.is_ascii_uppercase();
        let magnitude = value.abs();
        let digits = if value.is_nan() {
            "nan".into()
        } else if value.is_infinite() {
            "inf".into()
        } else {
            let precision = self.precision.unwrap_or(6);
            match conversion.to_ascii_lowercase() {
                'f' => format!("{magnitude:.precision$}"),
                'e' => exponential(magnitude, precision),
                'g' => general(magnitude, precision, self.sharp),
                _ => hexadecimal(magnitude, self.precision),
            }
        };
        let digits = if upper { digits.to_uppercase() } else { digits };
        self.pad(prefix, &digits, value.is_finite())
    }
}

fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn general(value: f64, precision: usize, keep: bool) -> String {
    let precision = precision.max(1);
    let text = exponential(value, precision - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') && !keep {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (sign, digits) = if exponent < 0 {
            ('-', -exponent)
        } else {
            ('+', exponent)
        };
        return format!("{}e{sign}{digits:02}", trim(mantissa));
    }
    let places = (precision as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{value:.places$}"))
}

/// `%a`: the bits, so rounding to fewer digits is to nearest even.
fn hexadecimal(value: f64, precision: Option<usize>) -> String {
    if value == 0.0 {
        let zeros = "0".repeat(precision.unwrap_or(0));
        return if zeros.is_empty() {
            "0x0p+0".into()
        } else {
            format!("0x0.{zeros}p+0")
        };
    }
    let bits = value.to_bits();
    let biased = (bits >> 52) as i32;
    let exponent = if biased == 0 { -1022 } else { biased - 1023 };
    let mut significand = bits & ((1 << 52) - 1) | u64::from(biased != 0) << 52;
    let mut digits = 13;
    if let Some(p) = precision.filter(|&p| p < 13) {
        let drop = 4 * (13 - p) as u32;
        let half = 1u64 << (drop - 1);
        let odd = significand >> drop & 1;
        significand = (significand + half - 1 + odd) >> drop;
        digits = p;
    }
    let lead = significand >> (4 * digits);
    let rest = significand & ((1u64 << (4 * digits)) - 1);
    let mut fraction = if digits == 0 {
        String::new()
    } else {
        format!("{rest:0digits$x}")
    };
    match precision {
        None => fraction.truncate(fraction.trim_end_matches('0').len()),
        Some(p) => fraction += &"0".repeat(p.saturating_sub(digits)),
    }
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("0x{lead}{dot}{fraction}p{exponent:+}")
}

/// What is left of a format.
struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.0.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.0 = &self.0[c.len_utf8()..];
        Some(c)
    }

    fn next_if_eq(&mut self, c: char) -> bool {
        let is = self.peek() == Some(c);
        if is {
            self.next();
        }
        is
    }
}

/// One thread's printf; the number of conversions.
fn one(
    exec: &Exec<'_>,
    warp: &Warp,
    lane: usize,
    format: &str,
    args: u64,
    out: &mut String,
) -> Result<u32, String> {
    let mut at = args;
    let mut next = |size: u64| -> Result<u64, String> {
        at = at.next_multiple_of(size);
        let data = bytes(exec, warp, lane, at, size as usize)?;
        at += size;
        let mut word = [0; 8];
        word[..data.len()].copy_from_slice(&data);
        Ok(u64::from_le_bytes(word))
    };
    let mut count = 0;
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        let mut chars = Cursor(&rest[percent + 1..]);
        let mut spec = Spec {
            bits: 64,
            ..Spec::default()
        };
        while let Some(c) = chars.peek() {
            match c {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                '#' => spec.sharp = true,
                '0' => spec.zero = true,
                _ => break,
            }
            chars.next();
        }
        let number = |chars: &mut Cursor<'_>,
                      next: &mut dyn FnMut(u64) -> Result<u64, String>|
         -> Result<i64, String> {
            if chars.next_if_eq('*') {
                return Ok(i64::from(next(4)? as i32));
            }
            let mut n = 0i64;
            while let Some(d) = chars.peek().and_then(|c| c.to_digit(10)) {
                n = (10 * n + i64::from(d)).min(1 << 16);
                chars.next();
            }
            Ok(n)
        };
        let width = number(&mut chars, &mut next)?;
        spec.minus |= width < 0;
        spec.width = width.unsigned_abs().min(1 << 16) as usize;
        if chars.next_if_eq('.') {
            let precision = number(&mut chars, &mut next)?;
            spec.precision = usize::try_from(precision).ok();
        }
        while let Some(c) = chars.peek() {
            match c {
                'l' | 'j' | 'z' | 't' => spec.long = true,
                'h' => spec.bits = if spec.bits == 16 { 8 } else { 16 },
                'L' => {}
                _ => break,
            }
            chars.next();
        }
        let conversion = chars.next();
        rest = chars.0;
        let word = if spec.long { 8 } else { 4 };
        let Some(conversion) = conversion else { break };
        match conversion {
            '%' => {
                out.push('%');
                continue;
            }
            'd' | 'i' => {
                let raw = next(word)?;
                let bits = spec.bits.min(8 * word as u32);
                let value = (raw << (64 - bits)) as i64 >> (64 - bits);
                let prefix = spec.sign(value < 0);
                *out += &spec.integer(prefix, value.unsigned_abs().to_string());
            }
            'u' | 'x' | 'X' | 'o' => {
                let raw = next(word)?;
                let bits = spec.bits.min(8 * word as u32);
                let value = raw << (64 - bits) >> (64 - bits);
                let (prefix, digits) = match conversion {
                    'x' => ("0x", format!("{value:x}")),
                    'X' => ("0X", format!("{value:X}")),
                    'o' => ("0", format!("{value:o}")),
                    _ => ("", value.to_string()),
                };
                let prefix = if spec.sharp && value != 0 { prefix } else { "" };
                *out += &spec.integer(prefix, digits);
            }
            'c' => {
                let c = next(4)? as u8 as char;
                *out += &spec.pad("", &c.to_string(), false);
            }
            's' => {
                let address = next(8)?;
                let mut text = string(exec, warp, lane, address)?;
                if let Some(precision) = spec.precision {
                    text = text.chars().take(precision).collect();
                }
                *out += &spec.pad("", &text, false);
            }
            'p' => {
                let value = next(8)?;
                *out += &spec.pad("0x", &format!("{value:x}"), false);
            }
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'a' | 'A' => {
                let value = f64::from_bits(next(8)?);
                *out += &spec.float(conversion, value);
            }
            other => {
                let _ = write!(out, "%{other}");
                continue;
            }
        }
        count += 1;
    }
    out.push_str(rest);
    Ok(count)
}

/// The message of a failed assertion, as the CUDA runtime prints it, for the first lane.
pub(crate) fn assertion(
    exec: &Exec<'_>,
    block: &Block<'_>,
    warp: &Warp,
    frame: Frame,
    slots: &[u32; 4],
    lanes: u32,
) -> String {
    let lane = lanes.trailing_zeros() as usize;
    let text = |slot: u32| {
        let address = param(warp, frame, lane, slot, 8);
        string(exec, warp, lane, address).unwrap_or_else(|e| e)
    };
    let [message, file, line, function] = *slots;
    let line = param(warp, frame, lane, line, 4);
    let [bx, by, bz] = block.id;
    let [tx, ty, tz] = warp.tid.map(|t| t[lane]);
    let text = format!(
        "{}:{line}: {}: block: [{bx},{by},{bz}], thread: [{tx},{ty},{tz}] Assertion `{}` failed.",
        text(file),
        text(function),
        text(message)
    );
    exec.grid.print(&format!("{text}\n"));
    text
}
