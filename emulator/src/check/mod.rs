//! What the checkers found, and the checkers.

mod findings;
pub mod hooks;
mod race;

/// One kind of mistake at one place; repeats at the same place are counted, not listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub kind: FindingKind,
    /// One sentence: what happened, with sizes and the other party of a race.
    pub message: String,
    pub kernel: String,
    /// Line of the PTX text.
    pub line: u32,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub address: Option<u64>,
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    OutOfBounds,
    UseAfterFree,
    Misaligned,
    Uninitialized,
    Leak,
    Race,
    DivergentBarrier,
    Deadlock,
    BarrierMisuse,
    /// cp.async data used, or shared memory reused, without the wait that makes it safe.
    AsyncHazard,
    LimitExceeded,
    OrderDependence,
}
