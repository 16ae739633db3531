//! The detector against small scripts, and against a plain happens-before relation on random traces.

use super::checker::{BlockChecker, GridChecker};
use super::hooks::*;
use super::{Finding, FindingKind};
use crate::memory::DeviceMemory;
use crate::numeric::testing::Numbers;
use crate::options::Check;

const GPU: Scope = Scope::Gpu;

fn info(threads: u32, blocks: u32) -> GridInfo<'static> {
    GridInfo {
        kernel: "k",
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 4096,
        level: Check::All,
    }
}

/// Runs a script on a grid of `blocks` blocks and returns the findings.
fn findings(
    threads: u32,
    blocks: u32,
    script: impl Fn(&mut [BlockChecker<'_>], u64),
) -> Vec<Finding> {
    let memory = DeviceMemory::with_tracking(1 << 20, true).unwrap();
    let address = memory.allocate(4096, 256).unwrap();
    memory.fill(address, 4096, &[0]).unwrap();
    let grid = GridChecker::new(info(threads, blocks)).unwrap();
    let mut checkers: Vec<_> = (0..blocks).map(|b| grid.block(b)).collect();
    script(&mut checkers, address);
    drop(checkers);
    grid.finish()
}

fn kinds(list: &[Finding]) -> Vec<(FindingKind, u32)> {
    list.iter().map(|f| (f.kind, f.line)).collect()
}

fn access(kind: Kind, lanes: Lanes, size: u32, line: u32) -> Access<'static> {
    Access {
        line,
        kind,
        order: Order::Weak,
        read_only: false,
        lanes,
        size,
        values: None,
        dependence: None,
        instance: None,
    }
}

fn strong(kind: Kind, lane: u32, semantics: Semantics, scope: Scope, line: u32) -> Access<'static> {
    Access {
        order: Order::Strong(semantics, scope),
        ..access(kind, 1 << lane, 4, line)
    }
}

/// Lane l at `base + stride·l`.
fn strided(base: u32, stride: u32) -> [u32; 32] {
    std::array::from_fn(|l| base + stride * l as u32)
}

fn at(address: u64) -> [u64; 32] {
    [address; 32]
}

fn barrier(id: u32, threads: u32, waits: bool, line: u32) -> Barrier {
    Barrier {
        id,
        threads,
        waits,
        aligned: true,
        line,
    }
}

fn sync_block(c: &mut BlockChecker<'_>, warps: u32) {
    for w in 0..warps {
        c.barrier_arrive(w, !0, &barrier(0, 0, true, 99));
    }
    c.barrier_complete(0);
}

#[test]
fn lanes_of_a_warp_need_a_warp_sync() {
    let script = |sync: bool| {
        findings(32, 1, move |c, _| {
            let c = &mut c[0];
            c.shared(0, &access(Kind::Write, !0, 4, 10), &strided(0, 4));
            if sync {
                c.warp_sync(0, !0);
            }
            // Each lane reads its neighbour's word.
            let next = std::array::from_fn(|l| (l as u32 + 1) % 32 * 4);
            c.shared(0, &access(Kind::Read, !0, 4, 11), &next);
            if sync {
                c.warp_sync(0, !0);
            }
            c.shared(0, &access(Kind::Write, !0, 4, 12), &strided(0, 4));
        })
    };
    let found = script(false);
    assert_eq!(
        kinds(&found),
        [(FindingKind::Race, 11), (FindingKind::Race, 12)]
    );
    assert_eq!(found[0].count, 32);
    assert!(found[0].message.contains("line 10"), "{}", found[0].message);
    assert!(script(true).is_empty());
}

#[test]
fn a_partial_warp_sync_orders_only_its_lanes() {
    let found = findings(32, 1, |c, _| {
        let c = &mut c[0];
        c.shared(0, &access(Kind::Write, 0x3, 4, 10), &strided(0, 4));
        c.warp_sync(0, 0x5);
        // Lane 2 met lane 0, not lane 1.
        c.shared(0, &access(Kind::Read, 0x4, 4, 11), &[0; 32]);
        c.shared(0, &access(Kind::Read, 0x4, 4, 12), &[4; 32]);
    });
    assert_eq!(kinds(&found), [(FindingKind::Race, 12)]);
}

#[test]
fn warps_need_a_barrier() {
    let script = |sync: bool| {
        findings(64, 1, move |c, _| {
            let c = &mut c[0];
            for stage in 0..3 {
                c.shared(0, &access(Kind::Write, !0, 4, 10), &strided(0, 4));
                if sync || stage == 0 {
                    sync_block(c, 2);
                }
                c.shared(1, &access(Kind::Read, !0, 16, 11), &[0; 32]);
                if sync {
                    sync_block(c, 2);
                }
            }
        })
    };
    assert!(script(true).is_empty());
    let found = script(false);
    assert!(
        kinds(&found).contains(&(FindingKind::Race, 10)),
        "{found:?}"
    );
}

#[test]
fn producer_and_consumer_by_named_barriers() {
    let script = |arrive: bool| {
        findings(64, 1, move |c, _| {
            let c = &mut c[0];
            c.shared(0, &access(Kind::Write, !0, 4, 10), &strided(0, 4));
            c.barrier_arrive(0, !0, &barrier(1, 64, false, 20));
            if !arrive {
                // After the arrival: not covered by it.
                c.shared(0, &access(Kind::Write, !0, 4, 12), &strided(0, 4));
            }
            c.barrier_arrive(1, !0, &barrier(1, 64, true, 21));
            c.barrier_complete(1);
            c.shared(1, &access(Kind::Read, !0, 4, 11), &strided(0, 4));
        })
    };
    assert!(script(true).is_empty());
    assert_eq!(kinds(&script(false)), [(FindingKind::Race, 11)]);
}

fn copy(c: &mut BlockChecker<'_>, warp: u32, offset: u32, source: u64, line: u32) {
    let sources = std::array::from_fn(|l| source + 16 * l as u64);
    c.async_copy(
        warp,
        &AsyncCopy {
            line,
            lanes: !0,
            size: 16,
            offsets: &strided(offset, 16),
            sources: &sources,
            read: &[16; 32],
        },
    );
}

#[test]
fn asynchronous_copies_need_wait_and_barrier() {
    let script = |pending: u32, sync: bool, other: bool| {
        findings(64, 1, move |c, source| {
            let c = &mut c[0];
            for stage in 0..2 {
                copy(c, 0, 512 * stage, source, 10);
                c.async_commit(0, !0);
            }
            c.async_wait(0, !0, pending);
            if sync {
                sync_block(c, 2);
            }
            let reader = u32::from(other);
            c.shared(reader, &access(Kind::Read, !0, 16, 11), &strided(0, 16));
        })
    };
    assert!(
        script(1, false, false).is_empty(),
        "own data after the wait"
    );
    assert!(script(1, true, true).is_empty());
    assert_eq!(kinds(&script(1, false, true)), [(FindingKind::Race, 11)]);
    assert_eq!(
        kinds(&script(2, true, true)),
        [(FindingKind::AsyncHazard, 11)]
    );
    assert_eq!(
        kinds(&script(2, false, false)),
        [(FindingKind::AsyncHazard, 11)]
    );
}

#[test]
fn a_buffer_is_reused_only_after_its_readers() {
    let script = |sync: bool| {
        findings(64, 1, move |c, source| {
            let c = &mut c[0];
            copy(c, 0, 0, source, 10);
            c.async_commit(0, !0);
            c.async_wait(0, !0, 0);
            sync_block(c, 2);
            c.shared(1, &access(Kind::Read, !0, 16, 11), &strided(0, 16));
            if sync {
                sync_block(c, 2);
            }
            copy(c, 0, 0, source, 10);
        })
    };
    assert!(script(true).is_empty());
    assert_eq!(kinds(&script(false)), [(FindingKind::Race, 10)]);
}

#[test]
fn messages_between_blocks() {
    use Semantics::{Acquire, Relaxed, Release};
    let script = |release: Semantics,
                  fences: (Option<Scope>, Option<Scope>),
                  acquire: Semantics,
                  scope: Scope| {
        findings(32, 2, move |c, data| {
            let flag = data + 1024;
            c[0].global(0, &access(Kind::Write, 1, 4, 10), &at(data));
            if let Some(scope) = fences.0 {
                c[0].fence(0, 1, scope, Semantics::AcquireRelease);
            }
            c[0].global(0, &strong(Kind::Write, 0, release, scope, 20), &at(flag));
            c[1].global(0, &strong(Kind::Read, 0, acquire, scope, 21), &at(flag));
            if let Some(scope) = fences.1 {
                c[1].fence(0, 1, scope, Semantics::AcquireRelease);
            }
            c[1].global(0, &access(Kind::Read, 1, 4, 11), &at(data));
        })
    };
    let race = [(FindingKind::Race, 11)];
    assert!(script(Release, (None, None), Acquire, GPU).is_empty());
    assert!(script(Relaxed, (Some(GPU), Some(GPU)), Relaxed, GPU).is_empty());
    assert!(script(Release, (None, Some(GPU)), Relaxed, GPU).is_empty());
    assert!(script(Relaxed, (Some(Scope::Sys), None), Acquire, GPU).is_empty());
    assert_eq!(
        kinds(&script(Relaxed, (None, Some(GPU)), Relaxed, GPU)),
        race
    );
    assert_eq!(
        kinds(&script(Relaxed, (Some(GPU), None), Relaxed, GPU)),
        race
    );
    assert_eq!(
        kinds(&script(
            Relaxed,
            (Some(Scope::Cta), Some(GPU)),
            Relaxed,
            GPU
        )),
        race
    );
    let narrow = kinds(&script(Release, (None, None), Acquire, Scope::Cta));
    assert!(narrow.contains(&race[0]), "{narrow:?}");
}

#[test]
fn a_chain_through_three_blocks_and_a_barrier() {
    let found = findings(64, 3, |c, data| {
        let flag = data + 1024;
        // Warp 1 writes; after a barrier lane 0 of warp 0 releases for the block.
        c[0].global(
            1,
            &access(Kind::Write, !0, 4, 10),
            &std::array::from_fn(|l| data + 4 * l as u64),
        );
        sync_block(&mut c[0], 2);
        c[0].fence(0, 1, GPU, Semantics::AcquireRelease);
        c[0].global(
            0,
            &strong(Kind::Atomic, 0, Semantics::Relaxed, GPU, 20),
            &at(flag),
        );
        // A relaxed update by another block keeps what was released.
        c[1].global(
            0,
            &strong(Kind::Atomic, 3, Semantics::Relaxed, GPU, 20),
            &at(flag),
        );
        c[2].global(
            0,
            &strong(Kind::Read, 5, Semantics::Acquire, GPU, 21),
            &at(flag),
        );
        sync_block(&mut c[2], 2);
        c[2].global(
            1,
            &access(Kind::Read, !0, 4, 11),
            &std::array::from_fn(|l| data + 4 * l as u64),
        );
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn atomics_race_only_with_weak_accesses() {
    let found = findings(64, 2, |c, data| {
        for c in c.iter_mut() {
            for warp in 0..2 {
                let update = Access {
                    lanes: !0,
                    ..strong(Kind::Atomic, 0, Semantics::Relaxed, GPU, 10)
                };
                c.global(warp, &update, &at(data));
                c.shared(warp, &access(Kind::Write, 1, 4, 9), &[4 * warp; 32]);
            }
        }
        c[1].global(0, &access(Kind::Read, 1, 4, 11), &at(data));
    });
    assert_eq!(kinds(&found), [(FindingKind::Race, 11)]);
}

struct Bytes {
    stored: [u8; 32],
    present: u8,
}

impl Values for Bytes {
    fn stored(&self, lane: usize, _: usize) -> u8 {
        self.stored[lane]
    }
    fn present(&self, _: usize, _: usize) -> u8 {
        self.present
    }
}

#[test]
fn equal_values_are_no_conflict() {
    let store = |stored: [u8; 32], present: u8| {
        findings(64, 1, move |c, _| {
            let values = Bytes { stored, present };
            let write = Access {
                values: Some(&values),
                ..access(Kind::Write, 0x6, 4, 10)
            };
            c[0].shared(0, &write, &[8; 32]);
            let first = Bytes {
                present: 7,
                ..values
            };
            let write = Access {
                values: Some(&first),
                ..write
            };
            c[0].shared(1, &Access { line: 11, ..write }, &[8; 32]);
        })
    };
    assert!(store([7; 32], 0).is_empty());
    let mut differing = [7; 32];
    differing[2] = 8;
    let found = store(differing, 0);
    assert!(
        kinds(&found).contains(&(FindingKind::Race, 10)),
        "{found:?}"
    );
    assert!(found[0].message.contains("in one instruction"));
    let found = store([9; 32], 0);
    assert_eq!(kinds(&found), [(FindingKind::Race, 11)]);
}

#[test]
fn parts_of_words_belong_to_different_threads() {
    let found = findings(32, 1, |c, _| {
        let c = &mut c[0];
        for _ in 0..3 {
            c.shared(0, &access(Kind::Write, !0, 2, 10), &strided(0, 2));
            c.shared(0, &access(Kind::Read, !0, 2, 11), &strided(0, 2));
            c.shared(0, &access(Kind::Write, !0, 1, 12), &strided(64, 1));
        }
        c.warp_sync(0, !0);
        c.shared(0, &access(Kind::Read, 0xffff, 4, 13), &strided(0, 4));
        c.shared(0, &access(Kind::Write, 1, 2, 14), &[2; 32]);
    });
    // Lane 0 read that word itself.
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn misused_barriers() {
    let found = findings(96, 1, |c, _| {
        let c = &mut c[0];
        c.barrier_arrive(0, 0xffff, &barrier(0, 0, true, 10));
        c.barrier_arrive(
            0,
            0xffff_0000,
            &Barrier {
                aligned: false,
                ..barrier(0, 0, true, 11)
            },
        );
        c.barrier_arrive(0, !0, &barrier(1, 64, true, 12));
        c.barrier_arrive(1, !0, &barrier(1, 96, true, 13));
        c.barrier_arrive(1, !0, &barrier(2, 50, true, 14));
        c.barrier_arrive(1, !0, &barrier(3, 128, true, 15));
        c.barrier_arrive(1, !0, &barrier(16, 0, true, 16));
        c.exit(2, 0xff);
        c.barrier_arrive(2, 0xffff_ff00, &barrier(4, 0, true, 17));
    });
    assert_eq!(
        kinds(&found),
        [
            (FindingKind::DivergentBarrier, 10),
            (FindingKind::BarrierMisuse, 13),
            (FindingKind::BarrierMisuse, 14),
            (FindingKind::BarrierMisuse, 15),
            (FindingKind::BarrierMisuse, 16),
        ]
    );
}

/// Plain happens-before: every thread knows, for every thread, how many of its accesses came before; every access of every
/// byte is kept.
struct Plain {
    /// `knows[t][u]`: accesses of u that happened before t's next.
    knows: Vec<Vec<u64>>,
    count: Vec<u64>,
    history: Vec<(usize, u64, u32, bool, bool)>,
    released: Vec<Vec<u64>>,
}

impl Plain {
    fn new(threads: usize, flags: usize) -> Self {
        Self {
            knows: vec![vec![0; threads]; threads],
            count: vec![0; threads],
            history: vec![],
            released: vec![vec![0; threads]; flags],
        }
    }

    /// Returns whether the access races.
    fn access(&mut self, t: usize, byte: u32, write: bool, strong: bool) -> bool {
        let race = self.history.iter().any(|&(u, n, b, wrote, was_strong)| {
            b == byte
                && u != t
                && (write || wrote)
                && !(strong && was_strong)
                && self.knows[t][u] < n
        });
        self.count[t] += 1;
        self.history.push((t, self.count[t], byte, write, strong));
        race
    }

    fn meet(&mut self, threads: &[usize]) {
        let mut all = vec![0; self.count.len()];
        for &t in threads {
            for (a, k) in all.iter_mut().zip(&self.knows[t]) {
                *a = (*a).max(*k);
            }
            all[t] = all[t].max(self.count[t]);
        }
        for &t in threads {
            self.knows[t].clone_from(&all);
        }
    }

    fn update(&mut self, t: usize, flag: usize) {
        for u in 0..self.count.len() {
            let known = self.knows[t][u].max(self.released[flag][u]);
            self.knows[t][u] = known;
            self.released[flag][u] = known;
        }
        self.released[flag][t] = self.count[t];
    }
}

#[test]
fn agrees_with_plain_happens_before_on_random_traces() {
    const WARPS: u64 = 3;
    const LANES: u64 = 4;
    let mut numbers = Numbers::new(20);
    let (mut racy, mut clean) = (0, 0);
    for trace in 0..6000 {
        let memory = DeviceMemory::new(1 << 20).unwrap();
        let base = memory.allocate(4096, 256).unwrap();
        let blocks = 1 + trace % 2;
        // Four lanes a warp live; the others have ended.
        let grid = GridChecker::new(info(WARPS as u32 * 32, blocks as u32)).unwrap();
        let mut c: Vec<_> = (0..blocks).map(|b| grid.block(b as u32)).collect();
        for c in &mut c {
            for w in 0..WARPS {
                c.exit(w as u32, !0xf);
            }
        }
        let per_block = (WARPS * LANES) as usize;
        let mut plain = Plain::new(per_block * blocks as usize, 2);
        let mut log = vec![];
        let global_only = blocks == 2;
        // Few words: conflicts; many syncs on some traces, so that both outcomes occur.
        let sync_weight = 1 + numbers.below(4) * numbers.below(60);
        let words = 1 + numbers.below(30);
        for _ in 0..60 {
            let (b, w, l) = (
                numbers.below(blocks) as usize,
                numbers.below(WARPS),
                numbers.below(LANES),
            );
            let t = b * per_block + (w * LANES + l) as usize;
            let block_threads = |b: usize| (b * per_block..(b + 1) * per_block).collect::<Vec<_>>();
            let event = numbers.below(10 + sync_weight);
            let mut expected = false;
            let before = grid_count(&grid);
            let checker = &mut c[b];
            match event {
                0..10 => {
                    let write = numbers.below(3) == 0;
                    let is_strong = numbers.below(5) == 0;
                    let size = [1, 2, 4, 4, 8][numbers.below(5) as usize];
                    let offset = numbers.below(words) as u32 * 8
                        + numbers.below(u64::from(8 / size)) as u32 * size;
                    let kind = match (write, is_strong) {
                        (true, true) => Kind::Atomic,
                        (true, false) => Kind::Write,
                        _ => Kind::Read,
                    };
                    // Several lanes may read together.
                    let others = numbers.below(16) as u32 & numbers.below(16) as u32;
                    let mask = 1 << l | if kind == Kind::Read { others } else { 0 };
                    let mut a = access(kind, mask, size, 5);
                    if is_strong {
                        a.order = Order::Strong(Semantics::Relaxed, GPU);
                    }
                    if global_only {
                        checker.global(w as u32, &a, &at(base + u64::from(offset)));
                    } else {
                        checker.shared(w as u32, &a, &[offset; 32]);
                    }
                    for lane in super::lanes_of(mask) {
                        let t = b * per_block + (w * LANES) as usize + lane as usize;
                        for byte in offset..offset + size {
                            expected |= plain.access(t, byte, write, is_strong);
                        }
                    }
                    log.push(format!(
                        "{t} {mask:#x} {kind:?} {offset}+{size} strong {is_strong}"
                    ));
                }
                e if e % 4 == 2 => {
                    let mask = 1 + numbers.below(15) as u32;
                    checker.warp_sync(w as u32, mask);
                    let lanes: Vec<_> = super::lanes_of(mask)
                        .map(|l| b * per_block + (w * LANES) as usize + l as usize)
                        .collect();
                    plain.meet(&lanes);
                    log.push(format!("warp sync {lanes:?}"));
                }
                e if e % 4 == 3 => {
                    let skip = numbers.below(WARPS + 1);
                    let mut all = vec![];
                    for warp in 0..WARPS {
                        if warp != skip {
                            checker.barrier_arrive(warp as u32, 0xf, &barrier(1, 0, true, 6));
                            let first = b * per_block + (warp * LANES) as usize;
                            all.extend(first..first + LANES as usize);
                        }
                    }
                    checker.barrier_complete(1);
                    plain.meet(&all);
                    log.push(format!("barrier {all:?}"));
                }
                e if e % 4 == 0 => {
                    // A lock-like update with acquire and release.
                    let flag = numbers.below(2);
                    let mut a = strong(Kind::Atomic, l as u32, Semantics::AcquireRelease, GPU, 7);
                    a.size = 4;
                    if global_only {
                        checker.global(w as u32, &a, &at(base + 2048 + 4 * flag));
                    } else {
                        checker.shared(w as u32, &a, &[2048 + 4 * flag as u32; 32]);
                    }
                    plain.update(t, flag as usize);
                    log.push(format!("{t} updates flag {flag}"));
                }
                _ => {
                    for warp in 0..WARPS {
                        checker.barrier_arrive(warp as u32, 0xf, &barrier(0, 0, true, 8));
                    }
                    checker.barrier_complete(0);
                    plain.meet(&block_threads(b));
                    log.push(format!("block barrier {b}"));
                }
            }
            let found = grid_count(&grid) > before;
            assert_eq!(found, expected, "trace {trace}: {log:#?}");
            if expected {
                racy += 1;
                break;
            }
        }
        clean += 1;
    }
    clean -= racy;
    assert!(
        racy > 300 && clean > 300,
        "{racy} racy traces, {clean} clean ones"
    );
}

/// Races found so far, repeats counted.
fn grid_count(grid: &GridChecker<'_>) -> u64 {
    grid.findings.lock().unwrap().total(FindingKind::Race)
}
