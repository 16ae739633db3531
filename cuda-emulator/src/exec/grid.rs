//! A launch that runs: what its workers share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::count;
use crate::check::checker::GridChecker;
use crate::launch::{Fault, Launch};
use crate::lower::code::Code;
use crate::memory::DeviceMemory;
use crate::numeric::mma;
use crate::options::Check;
use crate::residency::Needs;

/// Whether the workers get anywhere; shared by grids that run side by side.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Grows when a worker changes memory that others may look at.
    pub(crate) changes: AtomicU64,
    /// Workers, and those of them that only poll.
    pub(crate) workers: AtomicUsize,
    pub(crate) idle: AtomicUsize,
}

/// What the workers share.
pub(crate) struct Grid<'a> {
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) code: &'a Code,
    pub(crate) memory: &'a DeviceMemory,
    pub(crate) params: &'a [u8],
    pub(crate) mma: mma::Mode,
    /// Blocks with atomic operations take short turns.
    pub(crate) mingle: bool,
    /// Device address of a cooperative grid's workspace, or 0.
    pub(crate) workspace: u64,
    /// Counts launches of this process.
    pub(crate) id: u64,
    pub(crate) checker: Option<&'a GridChecker<'a>>,
    pub(crate) blocks: u64,
    pub(crate) shared_len: u32,
    pub(crate) next_block: AtomicU64,
    pub(crate) progress: &'a Progress,
    pub(crate) stop: AtomicBool,
    pub(crate) executed: AtomicU64,
    pub(crate) fault: Mutex<Option<Fault>>,
    pub(crate) printed: Mutex<String>,
}

impl Grid<'_> {
    pub(crate) fn print(&self, text: &str) {
        self.printed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_str(text);
    }

    pub(crate) fn record(&self, fault: Fault) {
        self.stop.store(true, Ordering::Relaxed);
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(fault);
    }

    /// Whether it is followed which values are defined.
    pub(crate) fn follows_defined(&self) -> bool {
        self.launch.options.check == Check::All && self.memory.tracks_defined()
    }

    /// Blocks that a worker may have started at once: as many as the device would hold.
    pub(crate) fn most_resident(&self, workers: usize) -> usize {
        let device_wide = self.device_wide();
        // A cooperative launch was checked to fit: all of it is resident.
        let all = if self.launch.cooperative {
            self.blocks
        } else {
            device_wide
        };
        (all.min(self.blocks) as usize).div_ceil(workers).max(1)
    }

    /// Blocks of the kernel that the whole device holds at once, by threads, registers, shared memory and number.
    pub(crate) fn device_wide(&self) -> u64 {
        let (launch, device) = (self.launch, self.launch.device);
        let threads: u32 = launch.block.iter().product();
        let needs = Needs::of(launch.kernel);
        let each = needs.resident_blocks(device, threads, launch.dynamic_shared);
        // Something must run, also what the driver would have refused.
        u64::from(each.max(1)) * u64::from(device.multiprocessors.max(1))
    }

    /// Empty counts for a worker.
    pub(crate) fn tally(&self) -> count::Tally {
        count::Tally::new(self.code, u64::from(self.launch.device.l2_bytes))
    }
}
