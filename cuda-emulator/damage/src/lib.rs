//! Modules with something wrong: texts and fat binaries that are cut, and bytes, numbers and lines of them changed at random. What still
//! loads runs, with and without checks: whatever the kernel does, the host survives.
//!
//! Tests of the emulator run some of them, and `cargo xtask fuzz` new ones.

#![warn(missing_docs)]

use cuda_emulator::device::Device;
use cuda_emulator::engine::{self, Launch};
use cuda_emulator::memory::DeviceMemory;
use cuda_emulator::options::{Check, Options};
use cuda_emulator::{module_text, ptx};
use proptest::prelude::*;

const TEXTS: [(&str, &str); 4] = [
    (
        "tests/data/sync_kernels.ptx",
        include_str!("../../tests/data/sync_kernels.ptx"),
    ),
    (
        "tests/data/tests.ptx",
        include_str!("../../tests/data/tests.ptx"),
    ),
    ("tests/ptx/mix.ptx", include_str!("../../tests/ptx/mix.ptx")),
    (
        "tests/ptx/debug.ptx",
        include_str!("../../tests/ptx/debug.ptx"),
    ),
];

const BINARIES: [(&str, &[u8]); 5] = [
    (
        "scale_plain.fatbin",
        include_bytes!("../../tests/data/scale_plain.fatbin"),
    ),
    (
        "scale_lz4.fatbin",
        include_bytes!("../../tests/data/scale_lz4.fatbin"),
    ),
    (
        "scale_zstd.fatbin",
        include_bytes!("../../tests/data/scale_zstd.fatbin"),
    ),
    (
        "scale_90a.fatbin",
        include_bytes!("../../tests/data/scale_90a.fatbin"),
    ),
    (
        "scale_machine_code.fatbin",
        include_bytes!("../../tests/data/scale_machine_code.fatbin"),
    ),
];

const MARKS: &[u8] = b" \t\n{}[](),;:.%$@!|+-_<>=\"0179abfrxZ/*";

/// Numbers that are too large, too small, or just beside what is allowed.
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "3",
    "31",
    "33",
    "64",
    "65537",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "-1",
    "0x7fffffffffffffff",
];

/// One thing that is wrong with a text. Places are counted round.
#[derive(Debug, Clone)]
pub enum TextEdit {
    /// Ends after so many bytes.
    Cut(usize),
    /// This byte instead of the one at a place.
    Mark(usize, u8),
    /// Without this line.
    Remove(usize),
    /// The first line once more, at the place of the second.
    Repeat(usize, usize),
    /// Two lines in each other's place.
    Swap(usize, usize),
    /// This instead of the number that is the n-th of the text: what is most often wrong in an instruction that still parses.
    Number(usize, &'static str),
}

/// A text with one or a few things wrong.
#[derive(Debug, Clone)]
pub struct DamagedText {
    /// File of the emulator's package.
    pub original: &'static str,
    /// What is wrong with it, in this order.
    pub edits: Vec<TextEdit>,
}

/// Damaged texts.
pub fn texts() -> impl Strategy<Value = DamagedText> {
    let place = || 0usize..1 << 20;
    let number = || {
        (place(), prop::sample::select(NUMBERS.to_vec()))
            .prop_map(|(at, n)| TextEdit::Number(at, n))
    };
    let edit = prop_oneof![
        2 => number(),
        1 => (place(), prop::sample::select(MARKS.to_vec())).prop_map(|(at, mark)| TextEdit::Mark(at, mark)),
        1 => place().prop_map(TextEdit::Remove),
        1 => (place(), place()).prop_map(|(a, b)| TextEdit::Repeat(a, b)),
        1 => (place(), place()).prop_map(|(a, b)| TextEdit::Swap(a, b)),
        1 => place().prop_map(TextEdit::Cut),
    ];
    let original = prop::sample::select(TEXTS.map(|(name, _)| name).to_vec());
    let edits = prop::collection::vec(edit, 1..=3);
    (original, edits).prop_map(|(original, edits)| DamagedText { original, edits })
}

impl DamagedText {
    /// What it says.
    pub fn text(&self) -> String {
        let (_, text) = TEXTS
            .iter()
            .find(|(name, _)| *name == self.original)
            .expect("one of these");
        self.edits
            .iter()
            .fold(String::from(*text), |text, edit| edit.apply(text))
    }
}

impl TextEdit {
    fn apply(&self, mut text: String) -> String {
        let mut lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return text;
        }
        let count = lines.len();
        match *self {
            Self::Cut(at) => text.truncate(at % text.len()),
            Self::Mark(at, mark) => {
                let mut bytes = text.into_bytes();
                let at = at % bytes.len();
                bytes[at] = mark;
                return String::from_utf8(bytes).expect("ASCII for ASCII");
            }
            Self::Remove(line) => {
                lines.remove(line % count);
                return lines.join("\n");
            }
            Self::Repeat(line, at) => {
                lines.insert(at % count, lines[line % count]);
                return lines.join("\n");
            }
            Self::Swap(a, b) => {
                lines.swap(a % count, b % count);
                return lines.join("\n");
            }
            Self::Number(at, number) => {
                let places = numbers(&text);
                if !places.is_empty() {
                    let (start, end) = places[at % places.len()];
                    text.replace_range(start..end, number);
                }
            }
        }
        text
    }
}

/// Places of numbers in a text: start and end.
fn numbers(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let starts = bytes[i].is_ascii_digit()
            && (i == 0
                || !(bytes[i - 1].is_ascii_alphanumeric() || b"_%$.".contains(&bytes[i - 1])));
        let start = i;
        while i < bytes.len() && bytes[i].is_ascii_digit() {
            i += 1;
        }
        match starts {
            true => found.push((start, i)),
            false => i = i.max(start + 1),
        }
    }
    found
}

/// One thing that is wrong with a fat binary. Places are counted round.
#[derive(Debug, Clone)]
pub enum BinaryEdit {
    /// Ends after so many bytes.
    Cut(usize),
    /// This byte instead of the one at a place.
    Byte(usize, u8),
    /// A field of so many bytes, whose place is a multiple of that, has this value: sizes, offsets, flags.
    Field(usize, usize, u64),
    /// So many bytes from a place are left out.
    Remove(usize, usize),
    /// So many bytes from a place are there twice.
    Repeat(usize, usize),
}

/// A fat binary with one or a few things wrong.
#[derive(Debug, Clone)]
pub struct DamagedBinary {
    /// File below `tests/data` of the emulator's package.
    pub original: &'static str,
    /// What is wrong with it, in this order.
    pub edits: Vec<BinaryEdit>,
}

/// Damaged fat binaries.
pub fn binaries() -> impl Strategy<Value = DamagedBinary> {
    // Half of the edits are in headers, which are at the front.
    let place = || prop_oneof![0usize..96, 0usize..1 << 14];
    let values = [
        0,
        1,
        15,
        16,
        63,
        64,
        65,
        0x7fff_ffff,
        0xffff_ffff,
        1 << 32,
        i64::MAX as u64,
        u64::MAX,
    ];
    let value = prop_oneof![prop::sample::select(values.to_vec()), any::<u64>()];
    let edit = prop_oneof![
        2 => (place(), any::<u8>()).prop_map(|(at, byte)| BinaryEdit::Byte(at, byte)),
        4 => (place(), prop::sample::select(vec![2usize, 4, 8]), value).prop_map(|(at, size, v)| BinaryEdit::Field(at, size, v)),
        1 => place().prop_map(BinaryEdit::Cut),
        1 => (place(), 1usize..80).prop_map(|(at, n)| BinaryEdit::Remove(at, n)),
        1 => (place(), 1usize..80).prop_map(|(at, n)| BinaryEdit::Repeat(at, n)),
    ];
    let original = prop::sample::select(BINARIES.map(|(name, _)| name).to_vec());
    let edits = prop::collection::vec(edit, 1..=3);
    (original, edits).prop_map(|(original, edits)| DamagedBinary { original, edits })
}

impl DamagedBinary {
    /// What it holds.
    pub fn bytes(&self) -> Vec<u8> {
        let (_, bytes) = BINARIES
            .iter()
            .find(|(name, _)| *name == self.original)
            .expect("one of these");
        let mut bytes = bytes.to_vec();
        for edit in &self.edits {
            edit.apply(&mut bytes);
        }
        bytes
    }
}

impl BinaryEdit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        match *self {
            Self::Cut(at) => bytes.truncate(at % len),
            Self::Byte(at, byte) => bytes[at % len] = byte,
            Self::Field(at, size, value) => {
                let at = at % len / size * size;
                let field = &mut bytes[at..len.min(at + size)];
                field.copy_from_slice(&value.to_le_bytes()[..field.len()]);
            }
            Self::Remove(at, n) => drop(bytes.drain(at % len..len.min(at % len + n))),
            Self::Repeat(at, n) => {
                let at = at % len;
                let copy = bytes[at..len.min(at + n)].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

/// How what still loads is run: with every check and one interleaving, and on two threads without.
pub fn runs() -> [Options; 2] {
    let checked = Options {
        check: Check::All,
        late_async: true,
        seed: Some(5),
        threads: 1,
        instruction_limit: 100_000,
        ..Options::default()
    };
    let parallel = Options {
        check: Check::Off,
        late_async: false,
        seed: None,
        threads: 2,
        ..checked.clone()
    };
    [checked, parallel]
}

/// Reads a fat binary, and loads and runs what PTX text it has for an A100; how many kernels ran.
///
/// # Panics
/// When an error says nothing, or the emulator fails instead of the kernel.
pub fn survive_binary(bytes: &[u8], options: &[Options]) -> usize {
    let device = Device::from_key("a100").expect("a known card");
    match module_text(bytes, device) {
        Ok(text) => survive(&text, options),
        Err(message) => {
            assert!(message.len() > 10, "{message}");
            0
        }
    }
}

/// Loads a text and runs all of its kernels; how many ran.
///
/// # Panics
/// When an error says nothing, or the emulator fails instead of the kernel.
pub fn survive(text: &str, options: &[Options]) -> usize {
    let module = match ptx::parse(text) {
        Ok(module) => module,
        Err(e) => {
            assert!(e.message.len() > 5, "{e}");
            return 0;
        }
    };
    let memory = DeviceMemory::with_tracking(1 << 24, true).expect("memory");
    let loaded = match engine::load(&module, &memory) {
        Ok(loaded) => loaded,
        Err(e) => {
            assert!(e.to_string().len() > 5, "{e}");
            return 0;
        }
    };
    let buffer = memory.allocate(1 << 16, 256).expect("memory");
    memory.fill(buffer, 1 << 16, &[0]).expect("an allocation");
    let mut ran = 0;
    let pairs = |kernel| options.iter().map(move |o| (kernel, o));
    for (kernel, options) in loaded.program.kernels.iter().flat_map(pairs) {
        let size = kernel.params.iter().map(|p| p.offset + p.size).max();
        let size = size.unwrap_or(0) as usize;
        // What the driver refuses before a kernel runs.
        if size > 4352 || kernel.static_shared > 48 << 10 {
            continue;
        }
        let mut params = vec![0; size];
        for p in &kernel.params {
            let value = if p.size == 8 { buffer } else { 3 };
            let (from, n) = (p.offset as usize, (p.size as usize).min(8));
            params[from..from + n].copy_from_slice(&value.to_le_bytes()[..n]);
        }
        let report = engine::run(&Launch {
            kernel,
            grid: [3, 1, 1],
            block: [64, 1, 1],
            cluster: [1; 3],
            dynamic_shared: 1024,
            params,
            cooperative: false,
            memory: &memory,
            device: Device::from_key("a100").expect("a known card"),
            options,
        });
        if let Some(fault) = report.fault {
            assert!(
                !fault.message.contains("the emulator itself failed"),
                "{fault:?}"
            );
            assert!(fault.message.len() > 10, "{fault:?}");
        }
        ran += 1;
    }
    ran
}
