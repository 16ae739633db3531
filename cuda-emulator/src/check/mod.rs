//! What the checkers found, and the checkers.

mod async_copy;
pub(crate) mod checker;
mod clock;
pub(crate) mod findings;
pub(crate) mod hooks;
mod race;
mod shadow;
mod state;
mod sync;
#[cfg(test)]
mod tests;
pub(crate) mod touched;

use crate::memory::DeviceMemory;

/// One kind of mistake at one place; repeats at the same place are counted, not listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What kind of mistake.
    pub kind: FindingKind,
    /// One sentence: what happened, with sizes and the other party of a race.
    pub message: String,
    /// Name of the entry; empty for what no kernel did, such as a leak.
    pub kernel: String,
    /// Line of the PTX text, from 1; 0 for what no instruction did.
    pub line: u32,
    /// `%ctaid` where it was seen first; zeros for what no thread did.
    pub block: [u32; 3],
    /// `%tid` where it was seen first; zeros for what no thread did.
    pub thread: [u32; 3],
    /// First byte concerned, in the state space that the message names; `None` when it is not about memory.
    pub address: Option<u64>,
    /// How often it was seen at this place, from 1.
    pub count: u64,
}

impl Finding {
    /// What a copy of device memory to the host shows that is undefined.
    pub fn of_host_copy(memory: &DeviceMemory, address: u64, bytes: u64) -> Option<Self> {
        let at = memory.first_undefined(address, bytes)?;
        let (base, len) = memory.allocation_at(at)?;
        let message = format!(
            "a copy of {bytes} bytes to the host: byte {} of the allocation of {len} bytes at {base:#x} was never written, \
             or only with a value that depends on such a byte",
            at - base
        );
        Some(Self::of_host(FindingKind::Uninitialized, message, Some(at)))
    }

    /// What no thread of a kernel did.
    pub(crate) fn of_host(kind: FindingKind, message: String, address: Option<u64>) -> Self {
        Self {
            kind,
            message,
            kernel: String::new(),
            line: 0,
            block: [0; 3],
            thread: [0; 3],
            address,
            count: 1,
        }
    }
}

/// What can be found; `FindingKind::name` is the spelling in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// An access outside every allocation, or past the end of shared, local or parameter memory.
    OutOfBounds,
    /// An access to freed memory, or a launch of a kernel whose module is unloaded.
    UseAfterFree,
    /// An address that is not a multiple of the bytes accessed.
    Misaligned,
    /// A branch, an address or a copy to the host that depends on bits that nothing wrote.
    Uninitialized,
    /// Memory that is still allocated when its context ends.
    Leak,
    /// Two accesses to the same bytes, at least one of them a write, by threads, blocks or streams that nothing orders.
    Race,
    /// An aligned barrier that not all running lanes of a warp execute together.
    DivergentBarrier,
    /// Threads that wait for what can no longer happen: at a barrier, for lanes of a mask, or polling memory.
    Deadlock,
    /// A barrier with a wrong number or thread count, or a `.sync` or `.aligned` operation with the wrong lanes, or whose
    /// operands differ among them.
    BarrierMisuse,
    /// cp.async data used, or shared memory reused, without the wait that makes it safe.
    AsyncHazard,
    /// The kernel was stopped after the instructions that it may execute.
    LimitExceeded,
    /// Results that differ between two orders of execution, say of floating-point atomics.
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
