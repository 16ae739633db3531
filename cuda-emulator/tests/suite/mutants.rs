//! Correct kernels give no finding, whatever the interleaving; with any one barrier, wait, warp synchronisation or fence removed,
//! something is reported: a finding, a failed launch or a wrong result.

use crate::gpu::{Gpu, checked, describe};
use cuda_emulator::check::{Finding, FindingKind};
use cuda_emulator::options::{Check, Options};

const TEXT: &str = include_str!("../data/sync_kernels.ptx");

/// What a run showed: findings and failures, or the first wrong value.
enum Outcome {
    Clean,
    Reported(String),
}

fn judge<T: PartialEq + std::fmt::Debug>(
    report: &cuda_emulator::engine::Report,
    got: &[T],
    expected: &[T],
) -> Outcome {
    if let Some(fault) = &report.fault {
        return Outcome::Reported(format!(
            "  fault: {}\n{}",
            fault.message,
            describe(&report.findings)
        ));
    }
    if !report.findings.is_empty() {
        return Outcome::Reported(describe(&report.findings));
    }
    match got.iter().zip(expected).position(|(g, e)| g != e) {
        Some(i) => Outcome::Reported(format!(
            "  element {i} is {:?}, not {:?}\n",
            got[i], expected[i]
        )),
        None => Outcome::Clean,
    }
}

/// Small whole numbers that look irregular.
fn whole(i: usize) -> i32 {
    ((i.wrapping_mul(2_654_435_761) >> 7) % 9) as i32 - 4
}

type Run = fn(&Gpu, u64) -> Outcome;

fn tiled_gemm(gpu: &Gpu, seed: u64) -> Outcome {
    const N: usize = 32;
    let a: Vec<f32> = (0..N * N).map(|i| whole(i) as f32).collect();
    let b: Vec<f32> = (0..N * N).map(|i| whole(i + 7777) as f32).collect();
    let out = gpu.allocate(4 * (N * N) as u64);
    let arguments = [gpu.upload(&a), gpu.upload(&b), out, N as u64];
    let report = gpu.launch(
        "tiled_gemm",
        [2, 2, 1],
        [16, 16, 1],
        &arguments,
        &checked(seed),
    );
    let expected: Vec<f32> = (0..N * N)
        .map(|i| (0..N).map(|k| a[i / N * N + k] * b[k * N + i % N]).sum())
        .collect();
    judge(&report, &gpu.download::<f32>(out, N * N), &expected)
}

fn block_reduce(gpu: &Gpu, seed: u64) -> Outcome {
    let input: Vec<i32> = (0..512).map(whole).collect();
    let out = gpu.allocate(8);
    let report = gpu.launch(
        "block_reduce",
        [2, 1, 1],
        [256, 1, 1],
        &[gpu.upload(&input), out],
        &checked(seed),
    );
    let expected: Vec<i32> = input.chunks(256).map(|c| c.iter().sum()).collect();
    judge(&report, &gpu.download::<i32>(out, 2), &expected)
}

fn prefix_sums(input: &[i32]) -> Vec<i32> {
    input
        .iter()
        .scan(0, |sum, x| {
            *sum += x;
            Some(*sum)
        })
        .collect()
}

fn block_scan(gpu: &Gpu, seed: u64) -> Outcome {
    let input: Vec<i32> = (0..256).map(whole).collect();
    let out = gpu.allocate(1024);
    let report = gpu.launch(
        "block_scan",
        [2, 1, 1],
        [128, 1, 1],
        &[gpu.upload(&input), out],
        &checked(seed),
    );
    let expected: Vec<i32> = input.chunks(128).flat_map(prefix_sums).collect();
    judge(&report, &gpu.download::<i32>(out, 256), &expected)
}

fn pipelined_gemm(gpu: &Gpu, seed: u64) -> Outcome {
    const K: usize = 96;
    let bf16 = |x: i32| ((x as f32).to_bits() >> 16) as u16;
    let a: Vec<i32> = (0..64 * K).map(whole).collect();
    let b: Vec<i32> = (0..32 * K).map(|i| whole(i + 5555)).collect();
    let half = |v: &[i32]| v.iter().map(|&x| bf16(x)).collect::<Vec<u16>>();
    let out = gpu.allocate(64 * 32 * 4);
    let arguments = [gpu.upload(&half(&a)), gpu.upload(&half(&b)), out, K as u64];
    let report = gpu.launch(
        "pipelined_gemm",
        [1, 2, 1],
        [128, 1, 1],
        &arguments,
        &checked(seed),
    );
    let expected: Vec<f32> = (0..64 * 32)
        .map(|i| {
            (0..K)
                .map(|k| a[i / 32 * K + k] * b[i % 32 * K + k])
                .sum::<i32>() as f32
        })
        .collect();
    judge(&report, &gpu.download::<f32>(out, 64 * 32), &expected)
}

fn warp_transpose(gpu: &Gpu, seed: u64) -> Outcome {
    let input: Vec<i32> = (0..4096).collect();
    let out = gpu.allocate(4 * 4096);
    let report = gpu.launch(
        "warp_transpose",
        [1, 1, 1],
        [128, 1, 1],
        &[gpu.upload(&input), out],
        &checked(seed),
    );
    let expected: Vec<i32> = (0..4096)
        .map(|i| input[i / 1024 * 1024 + i % 32 * 32 + i / 32 % 32])
        .collect();
    judge(&report, &gpu.download::<i32>(out, 4096), &expected)
}

fn matrix_transpose(gpu: &Gpu, seed: u64) -> Outcome {
    let input: Vec<u16> = (0..512).collect();
    let out = gpu.allocate(1024);
    let report = gpu.launch(
        "matrix_transpose",
        [1, 1, 1],
        [64, 1, 1],
        &[gpu.upload(&input), out],
        &checked(seed),
    );
    let expected: Vec<u16> = (0..512usize)
        .map(|i| input[i / 64 * 64 + i % 8 * 8 + i / 8 % 8])
        .collect();
    judge(&report, &gpu.download::<u16>(out, 512), &expected)
}

fn producer_consumer(gpu: &Gpu, seed: u64) -> Outcome {
    const ROUNDS: usize = 5;
    let input: Vec<i32> = (0..64 * ROUNDS).map(whole).collect();
    let out = gpu.allocate(256);
    let arguments = [gpu.upload(&input), out, ROUNDS as u64];
    let report = gpu.launch(
        "producer_consumer",
        [1, 1, 1],
        [128, 1, 1],
        &arguments,
        &checked(seed),
    );
    let expected: Vec<i32> = (0..64)
        .map(|t: usize| (0..ROUNDS).map(|r| input[r * 64 + (t ^ 63)]).sum())
        .collect();
    judge(&report, &gpu.download::<i32>(out, 64), &expected)
}

fn lookback_scan(gpu: &Gpu, seed: u64) -> Outcome {
    const TILES: usize = 8;
    let input: Vec<i32> = (0..64 * TILES).map(whole).collect();
    let out = gpu.allocate(4 * 64 * TILES as u64);
    let zeros = [0i32; TILES];
    let arguments = [
        gpu.upload(&input),
        out,
        gpu.allocate(4 * TILES as u64),
        gpu.allocate(4 * TILES as u64),
        gpu.upload(&zeros),
        gpu.upload(&[0i32]),
    ];
    let report = gpu.launch(
        "lookback_scan",
        [TILES as u32, 1, 1],
        [64, 1, 1],
        &arguments,
        &checked(seed),
    );
    judge(
        &report,
        &gpu.download::<i32>(out, 64 * TILES),
        &prefix_sums(&input),
    )
}

fn locked_counters(gpu: &Gpu, seed: u64) -> Outcome {
    let counters = gpu.upload(&[0i32; 32]);
    let report = gpu.launch(
        "locked_counters",
        [6, 1, 1],
        [32, 1, 1],
        &[gpu.upload(&[0i32]), counters],
        &checked(seed),
    );
    judge(&report, &gpu.download::<i32>(counters, 32), &[6; 32])
}

fn last_block_sum(gpu: &Gpu, seed: u64) -> Outcome {
    let input: Vec<i32> = (0..256).map(whole).collect();
    let out = gpu.allocate(4);
    let arguments = [
        gpu.upload(&input),
        gpu.allocate(32),
        gpu.upload(&[0u32]),
        out,
    ];
    let report = gpu.launch(
        "last_block_sum",
        [8, 1, 1],
        [32, 1, 1],
        &arguments,
        &checked(seed),
    );
    judge(&report, &gpu.download::<i32>(out, 1), &[input.iter().sum()])
}

fn grid_exchange(gpu: &Gpu, seed: u64) -> Outcome {
    const BLOCKS: usize = 5;
    let (data, out) = (gpu.allocate(1280), gpu.allocate(1280));
    let arguments = [data, out, gpu.upload(&[0u32])];
    let report = gpu.launch(
        "grid_exchange",
        [BLOCKS as u32, 1, 1],
        [64, 1, 1],
        &arguments,
        &checked(seed),
    );
    let expected: Vec<i32> = (0..64 * BLOCKS)
        .map(|i| ((i / 64 + 1) % BLOCKS * 100 + ((i % 64) ^ 33)) as i32)
        .collect();
    judge(&report, &gpu.download::<i32>(out, 64 * BLOCKS), &expected)
}

const PIECES: usize = 6;
const PHASES: usize = 4;

/// Arguments of `phases_by_tickets`: the rows of data, of which the first is the input, are the third.
fn phase_arguments(gpu: &Gpu) -> [u64; 5] {
    let row = 64 * PIECES;
    let data = gpu.allocate(4 * (row * (PHASES + 1)) as u64);
    let input: Vec<u8> = (0..row).flat_map(|i| whole(i).to_le_bytes()).collect();
    gpu.memory.copy_in(data, &input).expect("an allocation");
    [
        gpu.upload(&[0u32]),
        gpu.upload(&[0u32; PHASES]),
        data,
        PIECES as u64,
        PHASES as u64,
    ]
}

fn phase_results() -> Vec<i32> {
    let mut row: Vec<i32> = (0..64 * PIECES).map(whole).collect();
    for _ in 0..PHASES {
        row = (0..64 * PIECES)
            .map(|i| {
                let (piece, t) = (i / 64, i % 64);
                let parts = (0..3).map(|k| row[(piece + k * 5) % PIECES * 64 + (t ^ 21)]);
                parts.sum::<i32>() % 1000 + 1
            })
            .collect();
    }
    row
}

fn last_row(gpu: &Gpu, arguments: &[u64; 5]) -> Vec<i32> {
    let row = 64 * PIECES;
    gpu.download::<i32>(arguments[2] + (4 * row * PHASES) as u64, row)
}

fn phases_by_tickets(gpu: &Gpu, seed: u64) -> Outcome {
    let arguments = phase_arguments(gpu);
    let report = gpu.launch(
        "phases_by_tickets",
        [5, 1, 1],
        [64, 1, 1],
        &arguments,
        &checked(seed),
    );
    judge(&report, &last_row(gpu, &arguments), &phase_results())
}

const KERNELS: [(&str, Run); 12] = [
    ("tiled_gemm", tiled_gemm),
    ("block_reduce", block_reduce),
    ("block_scan", block_scan),
    ("pipelined_gemm", pipelined_gemm),
    ("warp_transpose", warp_transpose),
    ("matrix_transpose", matrix_transpose),
    ("producer_consumer", producer_consumer),
    ("lookback_scan", lookback_scan),
    ("locked_counters", locked_counters),
    ("last_block_sum", last_block_sum),
    ("grid_exchange", grid_exchange),
    ("phases_by_tickets", phases_by_tickets),
];

#[test]
fn correct_kernels_have_no_findings_over_100_seeds() {
    for (name, run) in KERNELS {
        for seed in 0..100 {
            let gpu = Gpu::new(TEXT);
            if let Outcome::Reported(what) = run(&gpu, seed) {
                panic!("{name}, seed {seed}:\n{what}");
            }
        }
    }
}

/// One thread or several, checked or not, a few blocks or more than a device holds at once: blocks that wait for others' pieces get on.
#[test]
fn phases_by_tickets_end_in_natural_order() {
    let natural = Options {
        seed: None,
        ..checked(0)
    };
    let parallel = Options {
        check: Check::Off,
        threads: 4,
        ..natural.clone()
    };
    let usual = Options {
        check: Check::Fast,
        ..parallel.clone()
    };
    for options in [natural, parallel, usual] {
        for blocks in [1, 2, 7, 40, 3000] {
            let gpu = Gpu::new(TEXT);
            let arguments = phase_arguments(&gpu);
            let (grid, block) = ([blocks, 1, 1], [64, 1, 1]);
            let report = gpu.launch("phases_by_tickets", grid, block, &arguments, &options);
            let results = phase_results();
            if let Outcome::Reported(what) = judge(&report, &last_row(&gpu, &arguments), &results) {
                panic!("{blocks} blocks:\n{what}");
            }
        }
    }
}

#[test]
fn phases_without_release_or_acquire_are_races() {
    let start = TEXT.find("entry phases_by_tickets").expect("the kernel");
    let (before, kernel) = TEXT.split_at(start);
    for (from, to) in [
        (
            "red.release.gpu.global.add.u32",
            "red.relaxed.gpu.global.add.u32",
        ),
        (
            "red.release.gpu.global.add.u32",
            "red.release.cta.global.add.u32",
        ),
        ("ld.acquire.gpu.global.u32", "ld.relaxed.gpu.global.u32"),
    ] {
        assert!(kernel.contains(from));
        let text = format!("{before}{}", kernel.replace(from, to));
        for seed in [None, Some(1), Some(2), Some(3)] {
            let options = Options { seed, ..checked(0) };
            let gpu = Gpu::new(&text);
            let arguments = phase_arguments(&gpu);
            let (grid, block) = ([5, 1, 1], [64, 1, 1]);
            let report = gpu.launch("phases_by_tickets", grid, block, &arguments, &options);
            let is_race = |f: &Finding| f.kind == FindingKind::Race;
            let found = describe(&report.findings);
            assert!(
                report.findings.iter().any(is_race),
                "{to}, {seed:?}:\n{found}"
            );
        }
    }
}

/// Instructions that order things, by their first words.
fn orders(instruction: &str) -> bool {
    [
        "bar.",
        "barrier.",
        "membar",
        "fence.",
        "cp.async.wait",
        "cp.async.commit",
    ]
    .iter()
    .any(|word| instruction.starts_with(word))
}

/// A text with one line changed, and the kernel that has it.
fn mutant(line: usize, replacement: &str) -> (String, &'static str, Run) {
    let mut lines: Vec<&str> = TEXT.lines().collect();
    let entry = lines[..line]
        .iter()
        .rev()
        .find_map(|l| l.trim().strip_prefix(".visible .entry "))
        .expect("an instruction is in a kernel")
        .trim_end_matches('(');
    lines[line] = replacement;
    let (name, run) = KERNELS
        .iter()
        .find(|k| k.0 == entry)
        .expect("a kernel with a test");
    (lines.join("\n"), name, *run)
}

/// Makes a mutant of every line that `change` changes. Each must be reported by every one of a few interleavings, but for the look-back's:
/// in some the data that is not protected any more is never read (who finds a prefix ready needs no sum), and there no mistake
/// happened.
fn all_reported(change: impl Fn(&str) -> Option<String>) -> usize {
    let mut mutants = 0;
    let mut missed = String::new();
    for (i, line) in TEXT.lines().enumerate() {
        let Some(replacement) = change(line.trim()) else {
            continue;
        };
        mutants += 1;
        let (text, name, run) = mutant(i, &replacement);
        let reports = |seed: &u64| matches!(run(&Gpu::new(&text), *seed), Outcome::Reported(_));
        let reported = (0..5).filter(reports).count();
        let needed = if name == "lookback_scan" { 4 } else { 5 };
        if reported < needed {
            missed += &format!(
                "line {} of {name}: {replacement:?} instead of {} is reported by {reported} seeds of 5\n",
                i + 1,
                line.trim()
            );
        }
    }
    assert!(missed.is_empty(), "not reported:\n{missed}");
    mutants
}

#[test]
fn every_mutant_is_reported() {
    let removed = all_reported(|line| orders(line).then(String::new));
    assert!(removed >= 30, "only {removed} mutants were made");
}

#[test]
fn fences_of_too_small_a_scope_are_reported() {
    let narrowed = all_reported(|line| (line == "membar.gl;").then(|| "membar.cta;".into()));
    assert!(narrowed >= 7, "only {narrowed} mutants were made");
}

#[test]
fn half_fences_order_one_way() {
    let start = TEXT.find("entry locked_counters").expect("the kernel");
    let (before, rest) = TEXT.split_at(start);
    // The lock is taken, then there is a fence; the second stands before it is given back.
    let text = |first: &str, second: &str| {
        let rest = rest.replacen("membar.gl;", &format!("fence.{first}.gpu;"), 1);
        let rest = rest.replacen("membar.gl;", &format!("fence.{second}.gpu;"), 1);
        format!("{before}{rest}")
    };
    for seed in 0..5 {
        let run = |first, second| locked_counters(&Gpu::new(&text(first, second)), seed);
        if let Outcome::Reported(what) = run("acquire", "release") {
            panic!("seed {seed}:\n{what}");
        }
        for (first, second) in [("release", "release"), ("acquire", "acquire")] {
            let outcome = run(first, second);
            assert!(
                matches!(outcome, Outcome::Reported(_)),
                "{first}, {second}, seed {seed}"
            );
        }
    }
}

#[test]
fn messages_without_release_or_acquire_are_reported() {
    let weakened = |line: &str| {
        let words = [".release.", ".acquire."];
        let word = words.iter().find(|w| line.contains(*w))?;
        Some(line.replace(word, ".relaxed."))
    };
    assert_eq!(all_reported(weakened), 5);
}

#[test]
fn a_wait_that_leaves_one_group_too_many_is_reported() {
    let later =
        |line: &str| (line == "cp.async.wait_group 1;").then(|| "cp.async.wait_group 2;".into());
    assert_eq!(all_reported(later), 1);
}

#[test]
fn a_barrier_for_too_few_threads_is_reported() {
    let fewer = |line: &str| match line {
        "bar.sync 1, 128;" => Some("bar.sync 1, 96;".into()),
        "bar.arrive 2, 128;" => Some("bar.arrive 2, 64;".into()),
        _ => None,
    };
    assert_eq!(all_reported(fewer), 2);
}

/// Every thread stores and fences; one takes a ticket for its block; the block with the last one fences and reads what all have stored.
const LAST_BLOCK: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry last_block(.param .u64 parts, .param .u64 tickets, .param .u64 out) {
.reg .b32 %r<16>; .reg .b64 %d<16>; .reg .pred %p<4>;
.shared .align 4 .b8 last[4];
ld.param.u64 %d0, [parts]; ld.param.u64 %d1, [tickets]; ld.param.u64 %d2, [out];
mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 64, %r0;
mul.wide.u32 %d3, %r2, 4; add.u64 %d3, %d0, %d3; add.u32 %r3, %r2, 1;
st.global.u32 [%d3], %r3;
fence.sc.gpu; // of those who wrote
bar.sync 0; // before the ticket
setp.ne.u32 %p0, %r0, 0; @%p0 bra told;
atom.global.add.u32 %r4, [%d1], 1; st.shared.u32 [last], %r4;
told: bar.sync 0; // after the ticket
ld.shared.u32 %r4, [last]; setp.ne.u32 %p1, %r4, 1; @%p1 ret;
fence.sc.gpu; // of those who read
mul.wide.u32 %d4, %r0, 4; add.u64 %d5, %d0, %d4;
ld.global.u32 %r5, [%d5]; ld.global.u32 %r6, [%d5+256]; add.u32 %r7, %r5, %r6;
add.u64 %d6, %d2, %d4; st.global.u32 [%d6], %r7;
ret;
}
";

#[test]
fn sequentially_consistent_fences_order_what_barriers_join_to_them() {
    // Blocks of two warps, then the same of one, for which its own barrier does.
    let warps = LAST_BLOCK
        .replace("bar.sync 0;", "bar.warp.sync -1;")
        .replace("%r1, 64", "%r1, 32")
        .replace("+256", "+128");
    for (text, threads) in [(LAST_BLOCK, 64), (warps.as_str(), 32)] {
        last_block(text, threads);
    }
}

fn last_block(correct: &str, threads: u32) {
    let run = |text: &str, seed: u64| {
        let gpu = Gpu::new(text);
        let bytes = 4 * u64::from(threads);
        let out = gpu.allocate(bytes);
        let arguments = [gpu.allocate(2 * bytes), gpu.upload(&[0u32]), out];
        let (grid, block) = ([2, 1, 1], [threads, 1, 1]);
        let report = gpu.launch("last_block", grid, block, &arguments, &checked(seed));
        let expected: Vec<u32> = (0..threads).map(|t| 2 * t + threads + 2).collect();
        judge(
            &report,
            &gpu.download::<u32>(out, threads as usize),
            &expected,
        )
    };
    let mutants: Vec<String> = correct
        .lines()
        .filter(|line| line.contains("; // "))
        .flat_map(|line| {
            let weaker = line.replace("fence.sc", "fence.acq_rel");
            let without = correct.replace(
                line,
                if line.starts_with("told") {
                    "told:"
                } else {
                    ""
                },
            );
            [without, correct.replace(line, &weaker)]
        })
        .filter(|text| text != correct)
        .collect();
    assert_eq!(mutants.len(), 6, "four lines left out, two fences weakened");
    for seed in 0..5 {
        if let Outcome::Reported(what) = run(correct, seed) {
            panic!("seed {seed}:\n{what}");
        }
        for text in &mutants {
            let outcome = run(text, seed);
            assert!(
                matches!(outcome, Outcome::Reported(_)),
                "seed {seed}:\n{text}"
            );
        }
    }
}
