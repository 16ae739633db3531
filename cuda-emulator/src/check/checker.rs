//! The checkers of a launch and of a block.

use std::sync::{Mutex, PoisonError};

use super::Finding;
use super::findings::{Findings, Report};
use super::hooks::GridInfo;
use super::state::{BlockState, Global};
use super::touched::Touched;
use crate::options::Check;

/// Checks one launch. Shared by the threads that run its blocks.
#[derive(Debug)]
pub(crate) struct GridChecker<'a> {
    pub(super) info: GridInfo<'a>,
    pub(super) findings: Mutex<Findings>,
    pub(super) global: Mutex<Global>,
}

impl<'a> GridChecker<'a> {
    /// A checker for a launch; `None` with `Check::Off`.
    pub(crate) fn new(info: GridInfo<'a>) -> Option<Self> {
        if info.level == Check::Off {
            return None;
        }
        let global = Mutex::new(Global::new());
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
            state: BlockState::new(&self.info),
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
            .count(finding)
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

/// Checks one block. `warp` is the warp's index in the block; lane l of it is thread `warp * 32 + l`.
#[derive(Debug)]
pub(crate) struct BlockChecker<'a> {
    pub(super) grid: &'a GridChecker<'a>,
    pub(super) index: u32,
    pub(super) state: BlockState,
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
}
