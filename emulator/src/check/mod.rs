//! What the checkers found, and the checkers.

mod clock;
mod findings;
pub(crate) mod hooks;
mod race;
mod shadow;
#[cfg(test)]
mod tests;
pub(crate) mod touched;

use crate::memory::DeviceMemory;

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

impl Finding {
    /// What a copy of device memory to the host shows that is undefined.
    pub fn of_host_copy(memory: &DeviceMemory, address: u64, bytes: u64) -> Option<Self> {
        let at = memory.first_undefined(address, bytes)?;
        let (base, len) = memory.allocation_at(at)?;
        Some(Self {
            kind: FindingKind::Uninitialized,
            message: format!(
                "a copy of {bytes} bytes to the host: byte {} of the allocation of {len} bytes at {base:#x} was never written, or only with a value that depends on such a byte",
                at - base
            ),
            kernel: String::new(),
            line: 0,
            block: [0; 3],
            thread: [0; 3],
            address: Some(at),
            count: 1,
        })
    }
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
    /// The kernel was stopped after the instructions that it may execute.
    LimitExceeded,
    OrderDependence,
    /// A load by way of read-only caches of bytes that the launch wrote.
    NonCoherent,
}

/// The set bits of a lane mask, lowest first.
#[inline(always)]
pub(crate) fn lanes_of(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane)
    })
}
