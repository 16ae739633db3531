//! Happens-before between threads, and what follows from it: races, uninitialised reads, hazards of asynchronous copies.

use super::hooks::{Access, AsyncCopy, Barrier, BlockChecker, GridInfo, Lanes, Scope};

/// State of a launch's global memory.
#[derive(Debug)]
pub(super) struct Global {}

impl Global {
    pub(super) fn new(_info: &GridInfo<'_>) -> Self {
        Self {}
    }
}

/// State of a block.
#[derive(Debug)]
pub(super) struct BlockState {}

impl BlockState {
    pub(super) fn new(_info: &GridInfo<'_>, _index: u32) -> Self {
        Self {}
    }
}

pub(super) fn shared(_: &mut BlockChecker<'_>, _: u32, _: &Access<'_>, _: &[u32; 32]) {}
pub(super) fn global(_: &mut BlockChecker<'_>, _: u32, _: &Access<'_>, _: &[u64; 32]) {}
pub(super) fn fence(_: &mut BlockChecker<'_>, _: u32, _: Lanes, _: Scope) {}
pub(super) fn barrier_arrive(_: &mut BlockChecker<'_>, _: u32, _: Lanes, _: &Barrier) {}
pub(super) fn barrier_complete(_: &mut BlockChecker<'_>, _: u32) {}
pub(super) fn warp_sync(_: &mut BlockChecker<'_>, _: u32, _: Lanes) {}
pub(super) fn async_copy(_: &mut BlockChecker<'_>, _: u32, _: &AsyncCopy<'_>) {}
pub(super) fn async_commit(_: &mut BlockChecker<'_>, _: u32, _: Lanes) {}
pub(super) fn async_wait(_: &mut BlockChecker<'_>, _: u32, _: Lanes, _: u32) {}
pub(super) fn exit(_: &mut BlockChecker<'_>, _: u32, _: Lanes) {}
