//! Which blocks are on the device at once, in what order they start, and waits that nothing can end.

use crate::machine::{Machine, checked};
use cuda_emulator::check::FindingKind;
use cuda_emulator::engine::{FaultCode, Report};
use cuda_emulator::options::{Check, Options};

/// `wait_for`: block 0 polls until block `other` has set its flag. `chain`: each block waits for the one before it, and counts.
/// `order`: each block notes when it started. `until`: polls for what never comes, for a while by the clock.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 room[];

.visible .entry wait_for(.param .u64 flags, .param .u32 other)
{
    .reg .pred %p<3>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [flags];
    ld.param.u32 %r1, [other];
    mov.u32 %r2, %ctaid.x;
    setp.ne.u32 %p1, %r2, %r1;
    mov.u32 %r3, 1;
    @!%p1 st.release.gpu.global.u32 [%rd1], %r3;
    setp.ne.u32 %p2, %r2, 0;
    @%p2 bra DONE;
POLL:
    ld.acquire.gpu.global.u32 %r4, [%rd1];
    setp.eq.u32 %p1, %r4, 0;
    @%p1 bra POLL;
DONE:
    ret;
}

.visible .entry chain(.param .u64 flags)
{
    .reg .pred %p<3>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [flags];
    mov.u32 %r1, %ctaid.x;
POLL:
    ld.acquire.gpu.global.u32 %r2, [%rd1];
    setp.ne.u32 %p1, %r2, %r1;
    @%p1 bra POLL;
    add.u32 %r3, %r1, 1;
    st.release.gpu.global.u32 [%rd1], %r3;
    ret;
}

.visible .entry order(.param .u64 places)
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [places];
    mov.u32 %r1, %ctaid.x;
    atom.relaxed.gpu.global.add.u32 %r2, [%rd1], 1;
    add.u32 %r2, %r2, 1;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}

.visible .entry until(.param .u64 flags)
{
    .reg .pred %p<3>;
    .reg .b32 %r<3>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [flags];
    mov.u64 %rd2, %globaltimer;
POLL:
    ld.acquire.gpu.global.u32 %r1, [%rd1];
    mov.u64 %rd3, %globaltimer;
    sub.s64 %rd4, %rd3, %rd2;
    setp.lt.u64 %p1, %rd4, 1000000;
    @%p1 bra POLL;
    mov.u32 %r2, 7;
    st.global.u32 [%rd1], %r2;
    ret;
}
";

/// Bytes of shared memory of which a multiprocessor of an A100 has room for one block: 108 blocks on the device.
const WHOLE: u32 = 100 << 10;
const ROOM: u32 = 108;

/// Blocks of one thread, launched with the address of `words` and what else the kernel takes; the report, and the words after.
fn run(
    kernel: &str,
    blocks: u32,
    shared: u32,
    options: Options,
    words: &[u32],
    others: &[u64],
) -> (Report, Vec<u32>) {
    let machine = Machine::new(PTX, options);
    let buffer = machine.words(words);
    let args = [&[buffer], others].concat();
    let report = machine.launch_with(kernel, [blocks, 1, 1], [1; 3], shared, false, &args);
    (report, machine.read(buffer, words.len()))
}

fn options() -> Vec<Options> {
    let seeded = (0..3).map(|seed| Options {
        seed: Some(seed),
        ..checked()
    });
    let threads = [1, 2].map(|threads| Options {
        check: Check::Fast,
        threads,
        ..checked()
    });
    let all = seeded.chain([checked()]).chain(threads);
    all.map(|options| Options {
        instruction_limit: Options::default().instruction_limit,
        ..options
    })
    .collect()
}

#[test]
fn a_block_may_wait_for_one_that_is_resident_with_it() {
    for options in options() {
        for (shared, blocks) in [(WHOLE, ROOM), (0, 32 * ROOM)] {
            let last = u64::from(blocks - 1);
            let (report, _) = run("wait_for", blocks, shared, options.clone(), &[0], &[last]);
            assert_eq!(report.fault, None, "{options:?}");
            assert_eq!(report.findings, [], "{options:?}");
        }
    }
}

#[test]
fn a_wait_for_a_block_that_cannot_start_is_a_deadlock() {
    for options in options() {
        // All of the first 108 blocks must stay, or the last would start in the place of one that has ended.
        let chain = |first| run("chain", ROOM + 1, WHOLE, options.clone(), &[first], &[]).0;
        let report = chain(0);
        assert_eq!(
            report.fault, None,
            "going down the grid is fine: {options:?}"
        );

        // No block has this number, so nobody ends.
        let report = chain(1000);
        let fault = report.fault.expect("nothing sets the flag");
        assert_eq!(fault.code, FaultCode::LaunchTimeout);
        let cannot = "1 of 109 blocks cannot start before one of these ends, for the device holds 108 at once";
        assert!(fault.message.contains(cannot), "{}", fault.message);
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        assert_eq!(report.findings[0].kind, FindingKind::Deadlock);
    }
}

#[test]
fn a_wait_that_looks_at_the_clock_ends_by_itself() {
    for options in options() {
        let (report, words) = run("until", 1, 0, options.clone(), &[0], &[]);
        assert_eq!((report.fault, words[0]), (None, 7), "{options:?}");
    }
}

#[test]
fn blocks_start_in_the_order_of_the_seed_within_what_is_resident() {
    let blocks = 2 * ROOM + 5;
    let order = |seed| {
        let options = Options { seed, ..checked() };
        let places = vec![0; blocks as usize + 1];
        let (report, words) = run("order", blocks, WHOLE, options, &places, &[]);
        assert_eq!((report.fault, report.findings), (None, vec![]));
        words[1..].to_vec()
    };
    let ascending: Vec<u32> = (0..blocks).collect();
    assert_eq!(order(None), ascending);
    let first = order(Some(1));
    assert_ne!(first, ascending);
    assert_eq!(first, order(Some(1)), "the same seed, the same order");
    assert_ne!(first, order(Some(2)));
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ascending);
    // Blocks of a window begin before those of the next: at most a few turns apart.
    let late = first[..ROOM as usize / 2]
        .iter()
        .filter(|&&b| b >= ROOM)
        .count();
    assert_eq!(late, 0, "{first:?}");
}
