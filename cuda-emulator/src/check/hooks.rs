//! What the executor tells the checkers: one call per warp instruction that touches memory or synchronises.
//!
//! A launch makes one [`GridChecker`](super::checker::GridChecker), each block asks it for a
//! [`BlockChecker`](super::checker::BlockChecker) when it starts. The executor holds an
//! `Option<BlockChecker>`: `None` costs one predictable branch. With `Check::Fast` only synchronisation is followed, and
//! `BlockChecker::follows_memory` is false: then the calls for memory, fences and asynchronous copies may be left out.
//!
//! Order of calls: a call for a *write* comes before the bytes change, a call for a *read* after they were read. An atomic
//! operation, and any access with acquire or release semantics, must not interleave with another block's on the same address
//! between call and effect; simplest is to run the blocks of a checked launch on one thread.

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
