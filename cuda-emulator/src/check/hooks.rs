//! What the executor tells the checkers: one call per warp instruction that touches memory or synchronises.
//!
//! A launch makes one [`GridChecker`], each block asks it for a [`BlockChecker`] when it starts. The executor holds an
//! `Option<BlockChecker>`: `None` costs one predictable branch. With `Check::Fast` only synchronisation is followed, and
//! [`BlockChecker::follows_memory`] is false: then the calls for memory, fences and asynchronous copies may be left out.
//!
//! Order of calls: a call for a *write* comes before the bytes change, a call for a *read* after they were read. An atomic
//! operation, and any access with acquire or release semantics, must not interleave with another block's on the same address
//! between call and effect; simplest is to run the blocks of a checked launch on one thread.

use std::sync::{Mutex, PoisonError};

use super::findings::{Findings, Place};
use super::touched::Touched;
use super::{Finding, FindingKind, race};
use crate::options::Check;

/// Lanes of a warp as a mask.
pub(crate) type Lanes = u32;

/// `.cta`, `.cluster`, `.gpu`, `.sys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

/// What a memory instruction does to its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Read,
    Write,
    /// `atom` and `red`: read, modify, write.
    Atomic,
}

/// `.weak`, or a strong operation's semantics. `ld.volatile`/`st.volatile` count as `Strong(Relaxed, Sys)`, `atom` and `red`
/// without a qualifier as `Strong(Relaxed, Gpu)`, `ld.acquire` as `Acquire`, `st.release` as `Release`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    Weak,
    Strong(Semantics, Scope),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Semantics {
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
    /// `fence.sc`, `membar`.
    SequentiallyConsistent,
}

/// One warp instruction's access. Lanes outside `lanes` have no address.
#[derive(Clone, Copy)]
pub(crate) struct Access<'a> {
    /// PTX line.
    pub line: u32,
    pub kind: Kind,
    pub order: Order,
    /// `ld.global.nc`, `ldu`, `ld.const`: the bytes may not be written during the launch.
    pub read_only: bool,
    pub lanes: Lanes,
    /// Contiguous bytes from each lane's address (a `.v4.f32` is 16), at most 128.
    pub size: u32,
    /// For writes (not atomics): the bytes, so that writing the same value twice is told from a conflict.
    pub values: Option<&'a dyn Values>,
    /// Of a load that writes may depend on.
    pub instance: Option<Instance>,
    /// For writes and atomics: what they depend on.
    pub dependence: Option<&'a dyn Dependence>,
}

/// The bytes that a store writes, and those that are there before it. Asked only when a conflict shows.
pub(crate) trait Values {
    /// Byte `byte` of what `lane` stores.
    fn stored(&self, lane: usize, byte: usize) -> u8;
    /// What memory holds now at that lane's byte.
    fn present(&self, lane: usize, byte: usize) -> u8;
}

/// What a store's value, address or guard depends on. Asked only when a conflict shows.
pub(crate) trait Dependence {
    /// Whether what `lane` does depends on a load at a PTX line by all of `others`, lanes of its warp.
    fn comes_after(&self, lane: usize, others: Lanes, line: u32, instance: Instance) -> bool;
}

/// Which of a warp's executions of an instruction: an odd or an even one, so that it is told from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instance {
    pub is_odd: bool,
}

/// What a checker needs to know about a launch.
#[derive(Debug, Clone)]
pub(crate) struct GridInfo<'a> {
    pub kernel: &'a str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of static and dynamic shared memory of a block; offsets in calls are below it.
    pub shared_bytes: u32,
    pub level: Check,
}

/// Checks one launch. Shared by the threads that run its blocks.
#[derive(Debug)]
pub(crate) struct GridChecker<'a> {
    pub(super) info: GridInfo<'a>,
    pub(super) findings: Mutex<Findings>,
    pub(super) global: Mutex<race::Global>,
}

impl<'a> GridChecker<'a> {
    /// A checker for a launch; `None` with `Check::Off`.
    pub(crate) fn new(info: GridInfo<'a>) -> Option<Self> {
        if info.level == Check::Off {
            return None;
        }
        let global = Mutex::new(race::Global::new(&info));
        let findings = Mutex::new(Findings::new(info.kernel, info.grid, info.block));
        Some(Self {
            info,
            findings,
            global,
        })
    }

    /// A block starts; `index` is its linear index in the grid (x fastest).
    pub(crate) fn block(&self, index: u32) -> BlockChecker<'_> {
        BlockChecker {
            grid: self,
            index,
            state: race::BlockState::new(&self.info, index),
        }
    }

    /// A finding that the executor made itself (bounds, alignment, deadlock). Deduplicated like all others.
    pub(crate) fn report(&self, finding: Report) {
        self.findings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(finding);
    }

    /// Counts a repeat of a finding; false if it is new.
    pub(super) fn known(&self, finding: &Report) -> bool {
        self.findings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(finding.place())
    }

    /// What the launch touched in global memory, as far as memory was followed.
    pub(crate) fn touched(&self) -> Touched {
        self.global
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .touched()
    }

    /// All findings of the launch, by PTX line.
    pub(crate) fn finish(self) -> Vec<Finding> {
        self.findings
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_list()
    }
}

/// One observation, before deduplication.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub kind: FindingKind,
    pub message: String,
    /// PTX line, and of a conflict the other party's.
    pub line: u32,
    pub other_line: Option<u32>,
    /// Linear index of the block, and of the thread in it.
    pub block: u32,
    pub thread: u32,
    pub address: Option<u64>,
}

impl Report {
    pub(super) fn place(&self) -> Place {
        Place {
            kind: self.kind,
            line: self.line,
            other_line: self.other_line,
        }
    }
}

/// Checks one block. `warp` is the warp's index in the block; lane l of it is thread `warp * 32 + l`.
#[derive(Debug)]
pub(crate) struct BlockChecker<'a> {
    pub(super) grid: &'a GridChecker<'a>,
    pub(super) index: u32,
    pub(super) state: race::BlockState,
}

impl BlockChecker<'_> {
    /// Whether calls for memory, fences and asynchronous copies are wanted.
    pub(crate) fn follows_memory(&self) -> bool {
        self.grid.info.level == Check::All
    }

    /// A finding that the executor made itself.
    pub(crate) fn report(&self, finding: Report) {
        self.grid.report(finding);
    }

    /// Counts a repeat of a finding; false if it is new, and its message is worth making.
    pub(crate) fn known(&self, finding: &Report) -> bool {
        self.grid.known(finding)
    }

    /// An access to shared memory; `offsets` count from the start of the block's shared memory (not from the window's base).
    #[inline]
    pub(crate) fn shared(&mut self, warp: u32, access: &Access<'_>, offsets: &[u32; 32]) {
        race::shared(self, warp, access, offsets);
    }

    /// An access to global memory, inside live allocations (bounds were checked).
    #[inline]
    pub(crate) fn global(&mut self, warp: u32, access: &Access<'_>, addresses: &[u64; 32]) {
        race::global(self, warp, access, addresses);
    }

    /// `fence`, `membar`.
    pub(crate) fn fence(&mut self, warp: u32, lanes: Lanes, scope: Scope, semantics: Semantics) {
        race::fence(self, warp, lanes, scope, semantics);
    }

    /// Lanes arrive at barrier `id` (`bar.sync`, `bar.arrive`, `bar.red`, `barrier…`). `threads` is the operand, 0 if there
    /// is none (all threads); `waits` is false for `arrive`; `aligned` is true for `bar.*` and `barrier.*.aligned`.
    pub(crate) fn barrier_arrive(&mut self, warp: u32, lanes: Lanes, barrier: &Barrier) {
        race::barrier_arrive(self, warp, lanes, barrier);
    }

    /// The last expected thread arrived: those waiting go on.
    pub(crate) fn barrier_complete(&mut self, id: u32) {
        race::barrier_complete(self, id);
    }

    /// All lanes of a `bar.warp.sync` mask (those that have not exited) have met.
    pub(crate) fn warp_sync(&mut self, warp: u32, lanes: Lanes) {
        race::warp_sync(self, warp, lanes);
    }

    /// `cp.async` issues: `size` bytes of shared memory at `offsets` will be written, of which the first `read[lane]` come from
    /// `sources[lane]` and the rest is zero.
    pub(crate) fn async_copy(&mut self, warp: u32, copy: &AsyncCopy<'_>) {
        race::async_copy(self, warp, copy);
    }

    /// `cp.async.commit_group`.
    pub(crate) fn async_commit(&mut self, warp: u32, lanes: Lanes) {
        race::async_commit(self, warp, lanes);
    }

    /// `cp.async.wait_group pending`; `cp.async.wait_all` is a commit and then `pending` = 0.
    pub(crate) fn async_wait(&mut self, warp: u32, lanes: Lanes, pending: u32) {
        race::async_wait(self, warp, lanes, pending);
    }

    /// Lanes end (`ret`, `exit`).
    pub(crate) fn exit(&mut self, warp: u32, lanes: Lanes) {
        race::exit(self, warp, lanes);
    }
}

/// Operands of a barrier instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Barrier {
    pub id: u32,
    pub threads: u32,
    pub waits: bool,
    pub aligned: bool,
    pub line: u32,
}

/// One warp's `cp.async`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsyncCopy<'a> {
    pub line: u32,
    pub lanes: Lanes,
    /// 4, 8 or 16.
    pub size: u32,
    pub offsets: &'a [u32; 32],
    pub sources: &'a [u64; 32],
    /// Bytes read from the source, at most `size`.
    pub read: &'a [u32; 32],
}
