//! Damaged modules and absurd launches: an error and a line that explains it, never a crash.
//!
//! Texts are cut, and bytes, numbers and lines of them changed at random. What still loads runs, with and without checks: whatever
//! the kernel does, the host survives.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_emulator::device::Device;
use cuda_emulator::engine::{self, Launch};
use cuda_emulator::memory::DeviceMemory;
use cuda_emulator::options::{Check, Options};
use cuda_emulator::ptx;

const TEXTS: [&str; 4] = [
    include_str!("../data/sync_kernels.ptx"),
    include_str!("../data/tests.ptx"),
    include_str!("../ptx/mix.ptx"),
    include_str!("../ptx/debug.ptx"),
];

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n.max(1) as u64) as usize
    }
}

const MARKS: &[u8] = b" \t\n{}[](),;.:%$@!|+-_<>=\"0179abfrxZ/*";

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

/// A text with one or a few things wrong.
fn damage(text: &str, random: &mut Random) -> String {
    let mut text = text.to_owned();
    for _ in 0..1 + random.below(3) {
        let lines: Vec<&str> = text.lines().collect();
        let (a, b) = (random.below(lines.len()), random.below(lines.len()));
        text = match random.below(7) {
            0 => text[..random.below(text.len())].to_owned(),
            1 => {
                let mut bytes = text.into_bytes();
                let at = random.below(bytes.len());
                bytes[at] = MARKS[random.below(MARKS.len())];
                String::from_utf8(bytes).expect("ASCII for ASCII")
            }
            2 => {
                let mut lines = lines;
                lines.remove(a);
                lines.join("\n")
            }
            3 => {
                let mut lines = lines;
                lines.insert(b, lines[a]);
                lines.join("\n")
            }
            4 => {
                let mut lines = lines;
                lines.swap(a, b);
                lines.join("\n")
            }
            // Numbers are what is most often wrong in an instruction that still parses.
            _ => {
                let places = numbers(&text);
                let Some(&(start, end)) = places.get(random.below(places.len())) else {
                    continue;
                };
                let number = NUMBERS[random.below(NUMBERS.len())];
                format!("{}{number}{}", &text[..start], &text[end..])
            }
        };
        if text.is_empty() {
            break;
        }
    }
    text
}

/// Loads a text and runs all of its kernels; how many ran. An error must say something.
fn survive(text: &str, options: &[Options]) -> usize {
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

fn runs() -> [Options; 2] {
    let checked = Options {
        instruction_limit: 100_000,
        ..crate::gpu::checked(5)
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

#[test]
fn damaged_text_is_an_error_or_runs_to_some_end() {
    let options = runs();
    let mut ran = 0;
    for seed in 0..600 {
        let mut random = Random(seed);
        let original = TEXTS[random.below(TEXTS.len())];
        let text = damage(original, &mut random);
        let result = catch_unwind(AssertUnwindSafe(|| survive(&text, &options)));
        ran += result.unwrap_or_else(|_| panic!("seed {seed} is a panic"));
    }
    assert!(
        ran > 500,
        "only {ran} kernels ran: the damage is too great to test the executor"
    );
}

#[test]
fn text_cut_anywhere_is_an_error() {
    let text = include_str!("../data/tests.ptx");
    let end = text.trim_end().len();
    for cut in (0..end).step_by(7) {
        let outcome = ptx::parse(&text[..cut]);
        if let Ok(module) = outcome {
            // Cut between two functions.
            let complete = text[..cut].trim_end();
            let at_a_border = complete.is_empty()
                || complete.ends_with(['}', ';'])
                || text[..cut]
                    .lines()
                    .next_back()
                    .is_some_and(|l| l.trim_start().starts_with("//"))
                || module.functions.iter().all(|f| f.body.is_some());
            assert!(
                at_a_border,
                "cut at {cut}: {:?}",
                &text[cut.saturating_sub(40)..cut]
            );
        }
    }
}

/// A module with a kernel that uses what `declarations` declares.
fn module(declarations: &str, parameters: &str, body: &str) -> String {
    format!(
        ".version 8.7\n.target sm_80\n.address_size 64\n{declarations}\n\
         .visible .entry k({parameters})\n{{\n.reg .b32 %r<4>;\n.reg .b64 %q<4>;\n{body}\nret;\n}}\n"
    )
}

#[test]
fn absurd_sizes_are_errors_or_cost_nothing() {
    let options = runs();
    let refused = [
        module(
            ".shared .b8 x[18446744073709551615];",
            "",
            "mov.u64 %q0, x;",
        ),
        module(".shared .b8 x[4294967296];", "", "mov.u64 %q0, x;"),
        module(
            ".shared .b8 x[4294967295];\n.shared .b8 y[8];",
            "",
            "mov.u64 %q0, x;\nmov.u64 %q1, y;",
        ),
        module("", "", ".local .b8 x[1099511627776];\nmov.u64 %q0, x;"),
        module(
            "",
            ".param .b8 x[4294967295], .param .u64 y",
            "ld.param.u64 %q0, [y];",
        ),
        module("", ".param .align 8 .b8 x[40000]", "ld.param.u64 %q0, [x];"),
        module(".global .b8 x[4611686018427387904];", "", "mov.u64 %q0, x;"),
        module(
            ".global .u64 x[2305843009213693952];",
            "",
            "mov.u64 %q0, x;",
        ),
        module(".global .align 4294967296 .b8 x[4];", "", "mov.u64 %q0, x;"),
        module(".global .align 3 .b8 x[4];", "", "mov.u64 %q0, x;"),
        module(
            "",
            "",
            &format!(
                "mov.u32 %r0, {}1{};",
                "(".repeat(100_000),
                ")".repeat(100_000)
            ),
        ),
        module("", "", &"{ ".repeat(100_000)),
        module(&"/*".repeat(100_000), "", ""),
    ];
    for text in &refused {
        let shown = &text[..text.len().min(300)];
        let outcome = catch_unwind(|| {
            ptx::parse(text).map_err(|e| e.to_string()).and_then(|m| {
                let memory = DeviceMemory::with_tracking(1 << 24, true).expect("memory");
                engine::load(&m, &memory)
                    .map(|_| ())
                    .map_err(|e| e.to_string())
            })
        });
        let message = outcome.unwrap_or_else(|_| panic!("a panic: {shown}"));
        let message = message.expect_err(shown);
        assert!(message.len() > 10 && message.len() < 1000, "{message}");
    }
    let accepted = [
        module(
            "",
            "",
            ".reg .b32 %x<4294967295>;\nmov.u32 %x4294967294, 1;",
        ),
        module("", "", &"{ .reg .b32 %x; mov.u32 %x, 1; }\n".repeat(5000)),
    ];
    for text in &accepted {
        assert_eq!(survive(text, &options), 2);
    }
}

#[test]
fn recursion_without_end_is_a_stack_error() {
    let text = |frame: u32| {
        module(
            &format!(
                ".func down(.param .b32 n) {{\n.reg .b32 %n;\n.local .b8 big[{frame}];\nld.param.u32 %n, [n];\n\
                 add.u32 %n, %n, 1;\nst.local.u32 [big], %n;\n{{\n.param .b32 a;\nst.param.b32 [a], %n;\ncall down, (a);\n}}\nret;\n}}"
            ),
            "",
            "{\n.param .b32 a;\nst.param.b32 [a], 0;\ncall down, (a);\n}",
        )
    };
    for frame in [16, 100_000] {
        let gpu = crate::gpu::Gpu::new(&text(frame));
        for options in runs() {
            let options = Options {
                instruction_limit: 10_000_000,
                ..options
            };
            let report = gpu.launch("k", [2, 1, 1], [64, 1, 1], &[], &options);
            let fault = report.fault.expect("a stack overflow");
            assert_eq!(fault.code as u32, 714, "{}", fault.message);
            assert!(fault.message.contains("down"), "{}", fault.message);
        }
    }
}
