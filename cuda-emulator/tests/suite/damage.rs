//! Damaged modules and absurd launches: an error and a line that explains it, never a crash. Random damage is of
//! [`cuda_emulator_damage`].

use std::cell::Cell;
use std::panic::catch_unwind;

use cuda_emulator::engine;
use cuda_emulator::memory::DeviceMemory;
use cuda_emulator::options::Options;
use cuda_emulator::ptx;
use cuda_emulator_damage::{binaries, runs, survive, survive_binary, texts};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// The same damage every time.
fn damaged<S: Strategy>(cases: u32, modules: S, test: impl Fn(S::Value)) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[0; 32]);
    let result = TestRunner::new_with_rng(config, rng).run(&modules, |module| {
        test(module);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn damaged_text_is_an_error_or_runs_to_some_end() {
    let (options, ran) = (runs(), Cell::new(0));
    damaged(600, texts(), |damaged| {
        ran.set(ran.get() + survive(&damaged.text(), &options))
    });
    let ran = ran.get();
    assert!(
        ran > 500,
        "only {ran} kernels ran: the damage is too great to test the executor"
    );
}

#[test]
fn a_damaged_fat_binary_is_an_error_or_runs_to_some_end() {
    let (options, ran) = (runs(), Cell::new(0));
    damaged(600, binaries(), |damaged| {
        ran.set(ran.get() + survive_binary(&damaged.bytes(), &options))
    });
    assert!(ran.get() > 100, "only {} kernels ran", ran.get());
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
