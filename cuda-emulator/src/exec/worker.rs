//! A worker: a thread's part of a launch, and how what goes wrong in it is told.

use super::access::What;
use super::defined::origins::Origins;
use super::grid::Grid;
use super::state::{Block, Warp, line_of};
use super::{awaited, count};
use crate::check::FindingKind;
use crate::check::{findings, hooks};
use crate::launch::{Fault, FaultCode};
use crate::lower::op::MemSpace;
use crate::memory::{AccessErrorKind, SHARED_WINDOW};

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Budget,
    /// Every group waits.
    Blocked,
    Done,
    /// `Exec::fault` says why.
    Fault,
}

/// What an operation outside the inner loop does to control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// On to the next instruction.
    Next,
    /// Groups changed (the running one was written back with the place to go on).
    Regroup,
    Fault,
}

/// What a poll counts of that.
pub(crate) const POLL: u32 = 50;

/// Instructions that a poll costs of the budget: a loop that waits soon lets others run.
pub(crate) const POLL_COST: i64 = 100;

/// Which version of the inner loop the CPU can run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Level {
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("f16c")
        {
            return Self::Avx2;
        }
        Self::Portable
    }
}

/// The piece of global memory that an instruction used last: nothing before the first use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    base: u64,
    end: u64,
}

impl Site {
    pub(crate) const EMPTY: Self = Self { base: 1, end: 0 };
}

/// A worker's state.
pub(crate) struct Exec<'a> {
    pub(crate) grid: &'a Grid<'a>,
    pub(crate) level: Level,
    pub(crate) warp_instructions: u64,
    pub(crate) thread_instructions: u64,
    /// Start of the clock that kernels read.
    pub(crate) clock: u64,
    /// Instructions and accesses are counted.
    pub(crate) profile: bool,
    pub(crate) tally: Option<Box<count::Tally>>,
    /// Every instruction is looked at before it is executed: counted, or its operands may be undefined.
    pub(crate) watched: bool,
    pub(crate) origins: Origins,
    pub(crate) awaited: awaited::Sets,
    pub(crate) fault: Option<Fault>,
    pub(crate) sites: Vec<Site>,
    pub(crate) generation: u64,
    /// Thread instructions already added to the grid's.
    pub(crate) reported: u64,
    /// Changes of memory that this worker has made or heard of; those that it has told, and how many all workers had told then.
    pub(crate) changes: u64,
    pub(crate) told: u64,
    pub(crate) heard: u64,
}

impl Exec<'_> {
    /// Counts, if that was asked for.
    #[inline(always)]
    pub(crate) fn count(&mut self, count: impl FnOnce(&mut count::Tally)) {
        if let Some(tally) = &mut self.tally {
            count(tally);
        }
    }

    /// The allocation that an instruction's address is in: start, end, and the host address of the start.
    #[inline(always)]
    pub(crate) fn global_piece(
        &mut self,
        site: usize,
        address: u64,
    ) -> Option<(u64, u64, *mut u8)> {
        let memory = self.grid.memory;
        let generation = memory.generation();
        if generation != self.generation {
            self.sites.fill(Site::EMPTY);
            self.generation = generation;
        }
        let mut piece = self.sites[site];
        if address < piece.base || address >= piece.end {
            let view = memory.view(address)?;
            piece = Site {
                base: view.base,
                end: view.end,
            };
            self.sites[site] = piece;
        }
        Some((piece.base, piece.end, memory.host(piece.base)))
    }

    /// Instructions for nanoseconds, so that a program that gives up after a time does not because we are slow. With a seed, when
    /// blocks take turns, the time that this one slept too.
    pub(crate) fn global_timer(&self, block: &Block<'_>) -> u64 {
        const SOME_DAY: u64 = 1_700_000_000_000_000_000;
        let slept = self.grid.launch.options.seed.map_or(0, |_| block.slept);
        SOME_DAY + self.clock + self.warp_instructions + slept
    }

    /// Records a finding at an instruction, of lanes.
    pub(crate) fn report(
        &mut self,
        block: &Block<'_>,
        warp: &Warp,
        kind: FindingKind,
        message: String,
        (pc, lanes): (u32, u32),
        address: Option<u64>,
    ) {
        if let Some(checker) = &block.checker {
            checker.report(findings::Report {
                kind,
                message,
                line: line_of(self.grid.code, pc),
                other_line: None,
                block: block.index as u32,
                thread: warp.index * 32 + (lanes.trailing_zeros() & 31),
                address,
            });
        }
    }

    /// Ends the launch.
    pub(crate) fn fault(
        &mut self,
        block: &Block<'_>,
        warp: &Warp,
        code: FaultCode,
        message: String,
        pc: u32,
        lanes: u32,
    ) -> Flow {
        let lane = (lanes.trailing_zeros() & 31) as usize;
        let message = format!(
            "{}, PTX line {}, block {:?}, thread {:?}: {message}",
            self.grid.launch.kernel.name,
            line_of(self.grid.code, pc),
            block.id,
            warp.tid.map(|t| t[lane])
        );
        self.fault = Some(Fault { code, message });
        Flow::Fault
    }

    /// Ends the launch at an instruction that cannot be executed so.
    pub(crate) fn illegal(
        &mut self,
        block: &Block<'_>,
        warp: &Warp,
        (pc, lanes): (u32, u32),
        message: String,
    ) -> Flow {
        let code = FaultCode::IllegalInstruction;
        self.fault(block, warp, code, message, pc, lanes)
    }

    /// A load, store or atomic that cannot be done: says why, as a finding and as the launch's error.
    pub(crate) fn memory_fault(
        &mut self,
        block: &Block<'_>,
        warp: &Warp,
        what: What,
        address: u64,
        lane: usize,
    ) {
        let space = what.space;
        let verb = match what.kind {
            hooks::Kind::Read => "read",
            hooks::Kind::Write => "write",
            hooks::Kind::Atomic => "atomic operation",
        };
        let size = u64::from(what.size);
        let misaligned = size.is_power_of_two() && address & (size - 1) != 0;
        let global = match space {
            MemSpace::Global => true,
            MemSpace::Generic => address < SHARED_WINDOW,
            _ => false,
        };
        let name = match space {
            MemSpace::Generic if global => "global",
            MemSpace::Generic if address >> 48 == SHARED_WINDOW >> 48 => "shared",
            MemSpace::Generic => "generic",
            MemSpace::Global => "global",
            MemSpace::Shared => "shared",
            MemSpace::Local => "local",
            MemSpace::Param => "parameter",
        };
        let (kind, code, message) = if misaligned {
            let message = format!(
                "misaligned {name} {verb} of {size} bytes at {address:#x}: the address is not a multiple of {size}"
            );
            (
                FindingKind::Misaligned,
                FaultCode::MisalignedAddress,
                message,
            )
        } else if global && let Some(e) = self.grid.memory.check_range(address, size) {
            let kind = match e.kind {
                AccessErrorKind::UseAfterFree => FindingKind::UseAfterFree,
                _ => FindingKind::OutOfBounds,
            };
            (
                kind,
                FaultCode::IllegalAddress,
                format!("global {verb}: {e}"),
            )
        } else {
            let have = match name {
                "shared" => format!("; the block has {} bytes from 0x400 on", block.shared_len),
                "parameter" => format!("; there are {} bytes", self.grid.params.len()),
                _ => String::new(),
            };
            let message =
                format!("{name} {verb} of {size} bytes at {address:#x} is out of bounds{have}");
            (FindingKind::OutOfBounds, FaultCode::IllegalAddress, message)
        };
        let lanes = 1 << lane;
        self.report(
            block,
            warp,
            kind,
            message.clone(),
            (what.pc, lanes),
            Some(address),
        );
        self.fault(block, warp, code, message, what.pc, lanes);
    }
}
