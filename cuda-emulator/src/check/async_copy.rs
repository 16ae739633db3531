//! `cp.async`: what a copy writes some time before it is waited for.

use super::checker::BlockChecker;
use super::hooks::{Access, AsyncCopy, Kind, Lanes, Order};
use super::lanes_of;
use super::shadow::ASYNC;
use super::state::PendingCopy;
use super::sync::Space;

impl BlockChecker<'_> {
    /// `cp.async` issues: `size` bytes of shared memory at `offsets` will be written, of which the first `read[lane]` come from
    /// `sources[lane]` and the rest is zero.
    pub(crate) fn async_copy(&mut self, warp: u32, copy: &AsyncCopy<'_>) {
        // The source is read by the issuing thread, as far as it is read at all.
        let mut left = copy.lanes;
        while left != 0 {
            let read = copy.read[left.trailing_zeros() as usize];
            let lanes = lanes_of(left)
                .filter(|&l| copy.read[l as usize] == read)
                .fold(0, |m, l| m | 1 << l);
            left &= !lanes;
            if read != 0 {
                let access = Access {
                    read_only: false,
                    line: copy.line,
                    kind: Kind::Read,
                    order: Order::Weak,
                    lanes,
                    size: read,
                    values: None,
                    dependence: None,
                    instance: None,
                };
                self.global(warp, &access, copy.sources);
            }
        }
        let view = self.view(Space::Shared, warp, copy.line, ASYNC, Kind::Write, 0);
        let access = Access {
            read_only: false,
            line: copy.line,
            kind: Kind::Write,
            order: Order::Weak,
            lanes: copy.lanes,
            size: copy.size,
            values: None,
            dependence: None,
            instance: None,
        };
        for lane in lanes_of(copy.lanes) {
            let at = copy.offsets[lane as usize];
            for word in at / 4..(at + copy.size) / 4 {
                let state = &mut self.state;
                let Some(cell) = state.cells.get_mut(word as usize) else {
                    continue;
                };
                let clock = state.warps[warp as usize].knows.of(lane);
                let found = state
                    .beside
                    .access(cell, 0xf, &view, 1 << lane, clock, || false);
                if let Some((_, mark)) = found {
                    self.conflict("shared", &access, warp, lane, u64::from(at), mark);
                }
            }
        }
        let copies = &mut self.state.warps[warp as usize].copies;
        let mut left = copy.lanes;
        while left != 0 {
            let group = copies.committed[left.trailing_zeros() as usize];
            let lanes = lanes_of(left)
                .filter(|&l| copies.committed[l as usize] == group)
                .fold(0, |m, l| m | 1 << l);
            left &= !lanes;
            copies.pending.push(PendingCopy {
                lanes,
                group,
                size: copy.size,
                offsets: *copy.offsets,
            });
        }
    }

    /// `cp.async.commit_group`.
    pub(crate) fn async_commit(&mut self, warp: u32, lanes: Lanes) {
        let committed = &mut self.state.warps[warp as usize].copies.committed;
        for lane in lanes_of(lanes) {
            committed[lane as usize] += 1;
        }
    }

    /// `cp.async.wait_group pending`; `cp.async.wait_all` is a commit and then `pending` = 0.
    pub(crate) fn async_wait(&mut self, warp: u32, lanes: Lanes, pending: u32) {
        let grid_warp = self.index * self.state.warps.len() as u32 + warp;
        let state = &mut self.state;
        let now = state.now;
        let copies = &mut state.warps[warp as usize].copies;
        let (cells, beside) = (&mut state.cells, &mut state.beside);
        for copy in &mut copies.pending {
            for lane in lanes_of(copy.lanes & lanes) {
                if copy.group + pending >= copies.committed[lane as usize] {
                    continue;
                }
                copy.lanes &= !(1 << lane);
                let at = copy.offsets[lane as usize];
                for word in at / 4..(at + copy.size) / 4 {
                    if let Some(cell) = cells.get_mut(word as usize) {
                        beside.settle(cell, grid_warp, lane, now);
                    }
                }
            }
        }
        copies.pending.retain(|c| c.lanes != 0);
    }
}
