//! Counting what instructions do, when asked to.

use super::memory::What;
use super::{Exec, Grid};
use crate::counters::Counters;
use crate::lower::op::MmaKind;

/// A worker's counts.
#[derive(Debug)]
pub(crate) struct Tally {}

impl Tally {
    pub(crate) fn new(_grid: &Grid<'_>) -> Self {
        Self {}
    }
}

/// What a worker leaves.
pub(crate) struct Worker {
    pub(crate) warp_instructions: u64,
    pub(crate) thread_instructions: u64,
    pub(crate) tally: Option<Box<Tally>>,
}

pub(crate) fn instruction(_x: &mut Exec<'_>, _pc: u32, _m: u32) {}
pub(crate) fn diverged(_x: &mut Exec<'_>) {}
pub(crate) fn barrier(_x: &mut Exec<'_>) {}
pub(crate) fn mma(_x: &mut Exec<'_>, _kind: MmaKind) {}
pub(crate) fn access(
    _x: &mut Exec<'_>,
    _what: What,
    _shared: u32,
    _offsets: &[u32; 32],
    _global: u32,
    _a: &[u64; 32],
) {
}
pub(crate) fn async_copy(
    _x: &mut Exec<'_>,
    _m: u32,
    _size: u32,
    _offsets: &[u32; 32],
    _from: &[u64; 32],
    _read: &[u32; 32],
) {
}

pub(crate) fn collect(_grid: &Grid<'_>, workers: Vec<Worker>, counters: &mut Counters) {
    for w in &workers {
        counters.warp_instructions += w.warp_instructions;
        counters.thread_instructions += w.thread_instructions;
        let _ = &w.tally;
    }
}
