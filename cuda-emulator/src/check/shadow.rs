//! Who touched a word last: the shadow of shared and global memory.
//!
//! As in FastTrack, one write and one read epoch are enough for most words; reads (or strong writes) that are not ordered with
//! one another go to a list beside. A word that is accessed in parts is split into bytes until it is written as a whole.

use super::clock::{Clock, Time};
use super::hooks::{Dependence, Instance};
use super::touched::Touch;

/// An access in the past: one warp's lanes at one time and PTX line. `time` 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) time: Time,
    /// Index of the warp in the grid.
    pub(super) warp: u32,
    pub(super) lanes: u32,
    /// PTX line and flags.
    site: u32,
}

/// A strong access (atomic, volatile, relaxed or more).
pub(super) const STRONG: u32 = 1;
/// A strong access of block scope.
pub(super) const CTA: u32 = 2;
/// An asynchronous copy that was not waited for.
pub(super) const ASYNC: u32 = 4;
/// A write (in the list beside, where both kinds are).
const WRITE: u32 = 8;
/// An odd execution of an instruction that is told from the one before.
pub(super) const ODD: u32 = 16;
const FLAG_BITS: u32 = 5;
const FLAGS: u32 = (1 << FLAG_BITS) - 1;

impl Mark {
    pub(super) fn line(self) -> u32 {
        self.site >> FLAG_BITS
    }

    pub(super) fn is(self, flag: u32) -> bool {
        self.site & flag != 0
    }

    /// The line as stored with flags.
    pub(super) fn site(line: u32, flags: u32) -> u32 {
        line << FLAG_BITS | flags
    }

    /// An asynchronous copy became an ordinary write at `time`.
    pub(super) fn settle(&mut self, time: Time) {
        self.time = time;
        self.site &= !ASYNC;
    }
}

/// The history of a word or a byte.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct History {
    pub(super) write: Mark,
    read: Mark,
    /// Index + 1 of the list of further marks.
    more: u32,
}

/// The shadow of a word.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cell {
    pub(super) whole: History,
    /// Index + 1 of the histories of the four bytes; then `whole` does not count.
    split: u32,
}

/// What the cells point to.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Marks a list may hold. Beyond, the oldest reads are forgotten: a word of global memory is read by any number of blocks,
    /// and a write that races with all of them races with those kept.
    capacity: usize,
    lists: Vec<Vec<Mark>>,
    free_lists: Vec<u32>,
    splits: Vec<[History; 4]>,
    free_splits: Vec<u32>,
    kept: Vec<Mark>,
}

/// What a warp does to a cell, and what it knows.
pub(super) struct View<'a> {
    pub(super) now: Time,
    /// Index of the warp in the grid, of its block's first warp, warps a block.
    pub(super) warp: u32,
    pub(super) first_warp: u32,
    pub(super) warps: u32,
    /// Everything in the block up to here happened before; everything in the warp likewise.
    pub(super) block_time: Time,
    pub(super) warp_time: Time,
    /// These two times are all that the lanes know: no clock needs to be asked.
    pub(super) no_more: bool,
    pub(super) site: u32,
    pub(super) write: bool,
    /// Shared memory: nobody outside the block matters.
    pub(super) local: bool,
    /// Lanes of the same instruction that write the same bytes (their values were compared).
    pub(super) together: u32,
    pub(super) dependence: Option<&'a dyn Dependence>,
    /// Accesses at different lines do not share a mark: a write may depend on one of them.
    pub(super) by_line: bool,
}

/// Whether a mask has one lane.
fn one(lanes: u32) -> bool {
    lanes & lanes.wrapping_sub(1) == 0
}

impl View<'_> {
    /// Whether `mark` happened before an access by each of `lanes`, which know `clock`.
    #[inline(always)]
    fn ordered(&self, mark: Mark, lanes: u32, clock: &Clock) -> bool {
        // An asynchronous copy is ordered with nothing before it was waited for.
        if mark.is(ASYNC) {
            return false;
        }
        let ours = mark.warp.wrapping_sub(self.first_warp) < self.warps;
        if ours && mark.time <= self.block_time {
            return true;
        }
        // A lane's own accesses; one lane's mark does not help several.
        if mark.warp == self.warp
            && (mark.time <= self.warp_time || mark.lanes == lanes && one(lanes))
        {
            return true;
        }
        !self.no_more && self.ordered_by_clock(mark, lanes, clock)
            || self.dependence.is_some() && self.ordered_by_data(mark, lanes)
    }

    /// Loads of the warp that what each lane does now depends on.
    #[inline(never)]
    fn ordered_by_data(&self, mark: Mark, lanes: u32) -> bool {
        let instance = Instance {
            is_odd: mark.is(ODD),
        };
        let depends = |lane: u32| {
            let others = mark.lanes & !(1 << lane);
            let on =
                |d: &dyn Dependence| d.comes_after(lane as usize, others, mark.line(), instance);
            self.dependence.is_some_and(on)
        };
        mark.warp == self.warp && super::lanes_of(lanes).all(depends)
    }

    #[inline(never)]
    fn ordered_by_clock(&self, mark: Mark, lanes: u32, clock: &Clock) -> bool {
        let (block, warp) = (mark.warp / self.warps, mark.warp % self.warps);
        if clock.saw_warp(block, warp, mark.time) {
            return true;
        }
        let own = if mark.warp == self.warp && one(lanes) {
            lanes
        } else {
            0
        };
        super::lanes_of(mark.lanes & !own).all(|l| clock.saw(block, warp, l, mark.time))
    }

    /// Whether this access, coming after `mark` in order, makes it superfluous: what races with `mark` later races with this
    /// one too. A strong access races with less than a weak one.
    #[inline(always)]
    fn covers(&self, mark: Mark) -> bool {
        let exempt = |site: u32| match site & (STRONG | CTA) {
            0 => 0,
            STRONG => 2,
            _ => 1,
        };
        exempt(self.site) <= exempt(mark.site) || self.local && mark.time <= self.block_time
    }

    /// Two strong accesses do not race, unless one's scope leaves the other out.
    fn both_strong(&self, mark: Mark) -> bool {
        let same_block = mark.warp.wrapping_sub(self.first_warp) < self.warps;
        mark.is(STRONG)
            && self.site & STRONG != 0
            && (same_block || (mark.site | self.site) & CTA == 0)
    }

    /// Whether an access now can share a mark: the line kept is the first one's.
    #[inline(always)]
    fn joins(&self, mark: Mark) -> bool {
        let differs = if self.by_line { !0 } else { FLAGS };
        mark.time == self.now && mark.warp == self.warp && (mark.site ^ self.site) & differs == 0
    }

    fn mine(&self, lanes: u32) -> Mark {
        Mark {
            time: self.now,
            warp: self.warp,
            lanes,
            site: self.site,
        }
    }
}

impl Beside {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    fn list(&mut self, history: &mut History) -> &mut Vec<Mark> {
        if history.more == 0 {
            history.more = match self.free_lists.pop() {
                Some(index) => index,
                None => {
                    self.lists.push(Vec::new());
                    self.lists.len() as u32
                }
            };
        }
        &mut self.lists[history.more as usize - 1]
    }

    fn clear_list(&mut self, history: &mut History) {
        if history.more != 0 {
            self.lists[history.more as usize - 1].clear();
            self.free_lists.push(history.more);
            history.more = 0;
        }
    }

    /// An access by lanes with one clock to the bytes `bytes` (a mask) of a word; several lanes only for reads. Returns an
    /// earlier access that it is not ordered with, and the lane. `same` says whether the store changes nothing.
    #[inline(always)]
    pub(super) fn access(
        &mut self,
        cell: &mut Cell,
        bytes: u8,
        view: &View<'_>,
        lanes: u32,
        clock: &Clock,
        same: impl Fn() -> bool,
    ) -> Option<(u32, Mark)> {
        let whole = bytes == 0xf && cell.split == 0;
        if whole && self.touch(&mut cell.whole, view, lanes, clock) {
            return None;
        }
        let mut conflict = None;
        for lane in super::lanes_of(lanes) {
            let found = if whole {
                self.touch_slow(&mut cell.whole, view, lane, clock, &same)
            } else {
                self.access_parts(cell, bytes, view, lane, clock, &same)
            };
            conflict = conflict.or(found.map(|mark| (lane, mark)));
        }
        conflict
    }

    #[inline(never)]
    fn access_parts(
        &mut self,
        cell: &mut Cell,
        bytes: u8,
        view: &View<'_>,
        lane: u32,
        clock: &Clock,
        same: &dyn Fn() -> bool,
    ) -> Option<Mark> {
        if cell.split == 0 {
            let list = match cell.whole.more {
                0 => None,
                more => Some(self.lists[more as usize - 1].clone()),
            };
            let mut parts = [cell.whole; 4];
            if let Some(list) = list {
                for part in &mut parts[1..] {
                    part.more = 0;
                    self.list(part).clone_from(&list);
                }
            }
            cell.split = match self.free_splits.pop() {
                Some(index) => {
                    self.splits[index as usize - 1] = parts;
                    index
                }
                None => {
                    self.splits.push(parts);
                    self.splits.len() as u32
                }
            };
        }
        let index = cell.split as usize - 1;
        let mut parts = self.splits[index];
        let mut conflict = None;
        for (i, part) in parts.iter_mut().enumerate() {
            if bytes >> i & 1 == 1 {
                let found = if self.touch(part, view, 1 << lane, clock) {
                    None
                } else {
                    self.touch_slow(part, view, lane, clock, same)
                };
                conflict = conflict.or(found);
            }
        }
        let unlike = |h: &History| h.more != 0 || h.read.time != 0 || h.write != parts[0].write;
        if bytes == 0xf && view.write && !parts.iter().any(unlike) {
            // Written as a whole: one history again.
            cell.whole = parts[0];
            self.free_splits.push(cell.split);
            cell.split = 0;
        } else {
            self.splits[index] = parts;
        }
        conflict
    }

    /// The usual cases, all without conflict; false: nothing was done.
    #[inline(always)]
    fn touch(&mut self, history: &mut History, view: &View<'_>, lanes: u32, clock: &Clock) -> bool {
        let (write, read) = (history.write, history.read);
        let before = |mark: Mark| view.covers(mark) && view.ordered(mark, lanes, clock);
        if view.write {
            if (write.time == 0 || before(write)) && (read.time == 0 || before(read)) {
                if history.more != 0 {
                    if !self.lists[history.more as usize - 1]
                        .iter()
                        .all(|&m| before(m))
                    {
                        return false;
                    }
                    self.clear_list(history);
                }
                history.write = view.mine(lanes);
                history.read = Mark::default();
                return true;
            }
            let joins = view.site & STRONG != 0 && read.time == 0 && view.joins(write);
            if joins && history.more == 0 {
                history.write.lanes |= lanes;
                return true;
            }
            return false;
        }
        if write.time != 0 && !view.ordered(write, lanes, clock) {
            return false;
        }
        if view.joins(read) {
            history.read.lanes |= lanes;
            return true;
        }
        if history.more != 0 {
            return self.read_beside(history, view, lanes, clock);
        }
        if read.time != 0 && !before(read) {
            self.list(history).push(read);
        }
        history.read = view.mine(lanes);
        true
    }

    /// A read of a word that several warps have read.
    fn read_beside(
        &mut self,
        history: &mut History,
        view: &View<'_>,
        lanes: u32,
        clock: &Clock,
    ) -> bool {
        let before = |mark: Mark| view.covers(mark) && view.ordered(mark, lanes, clock);
        let list = &mut self.lists[history.more as usize - 1];
        if list.iter().any(|m| m.is(WRITE)) {
            return false;
        }
        if let Some(known) = list
            .iter_mut()
            .find(|m| m.warp == view.warp && view.joins(**m))
        {
            known.lanes |= lanes;
            return true;
        }
        let read = history.read;
        if !before(read) {
            // The warp's own earlier mark gives way, else the list grows.
            match list.iter_mut().find(|m| m.warp == view.warp && before(**m)) {
                Some(known) => *known = read,
                None => {
                    list.push(read);
                    if list.len() + 2 > self.capacity {
                        drop_one(list, view.warps);
                    }
                }
            }
        } else if list.iter().all(|&m| before(m)) {
            self.clear_list(history);
        }
        history.read = view.mine(lanes);
        true
    }

    #[inline(never)]
    fn touch_slow(
        &mut self,
        history: &mut History,
        view: &View<'_>,
        lane: u32,
        clock: &Clock,
        same: &dyn Fn() -> bool,
    ) -> Option<Mark> {
        let bit = 1u32 << lane;
        let mut conflict = None;
        // Earlier marks that stay: not ordered before this access. Those ordered before it are covered by it from now on.
        let mut kept = std::mem::take(&mut self.kept);
        let list: &[Mark] = match history.more {
            0 => &[],
            more => &self.lists[more as usize - 1],
        };
        let first = [(history.write, true), (history.read, false)];
        for (mark, wrote) in first
            .into_iter()
            .chain(list.iter().map(|&m| (m, m.is(WRITE))))
        {
            if mark.time == 0 {
                continue;
            }
            let ordered = view.ordered(mark, bit, clock);
            if !ordered && (wrote || view.write) && !view.both_strong(mark) {
                let same_instruction = wrote
                    && view.write
                    && mark.warp == view.warp
                    && mark.time == view.now
                    && mark.site & !WRITE == view.site
                    && mark.lanes & !bit & !view.together == 0;
                let harmless = same_instruction || wrote && view.write && !mark.is(ASYNC) && same();
                if !harmless {
                    conflict = conflict.or(Some(mark));
                    // Reported: forgotten, so that later accesses are not blamed for it.
                    continue;
                }
            }
            // A write covers what was ordered before it; a read covers only reads.
            let covered = ordered && view.covers(mark) && (view.write || !wrote);
            if !covered {
                kept.push(Mark {
                    site: if wrote { mark.site | WRITE } else { mark.site },
                    ..mark
                });
            }
        }
        let mut mine = view.mine(bit);
        if view.write {
            mine.site |= WRITE;
        }
        let joins = |m: &&mut Mark| {
            let differs = if view.by_line { !0 } else { FLAGS };
            m.time == mine.time && m.warp == mine.warp && (m.site ^ mine.site) & differs == 0
        };
        match kept.iter_mut().find(joins) {
            Some(known) => known.lanes |= bit,
            None => kept.push(mine),
        }
        while kept.len() > self.capacity {
            drop_one(&mut kept, view.warps);
        }
        self.clear_list(history);
        // The latest write and the latest read go to their places.
        history.write = Mark::default();
        history.read = Mark::default();
        for mark in kept.drain(..).rev() {
            let wrote = mark.is(WRITE);
            let place = if wrote {
                &mut history.write
            } else {
                &mut history.read
            };
            if place.time == 0 {
                *place = Mark {
                    site: mark.site & !WRITE,
                    ..mark
                };
            } else {
                self.list(history).push(mark);
            }
        }
        self.kept = kept;
        conflict
    }

    /// A write to one of the bytes `bytes` (a mask) of a word.
    pub(super) fn written(&self, cell: &Cell, bytes: u8) -> Option<Mark> {
        let latest = |h: &History| (h.write.time != 0).then_some(h.write);
        match cell.split {
            0 => latest(&cell.whole),
            split => super::lanes_of(u32::from(bytes))
                .find_map(|i| latest(&self.splits[split as usize - 1][i as usize])),
        }
    }

    /// How a cell's bytes were touched: calls `f` with the kind, the first byte and the number of bytes.
    pub(super) fn touches(&self, cell: &Cell, mut f: impl FnMut(Touch, u64, u64)) {
        let mut history = |h: &History, byte: u64, bytes: u64| {
            let list: &[Mark] = match h.more {
                0 => &[],
                more => &self.lists[more as usize - 1],
            };
            let first = [(h.write, true), (h.read, false)];
            for (mark, wrote) in first
                .into_iter()
                .chain(list.iter().map(|&m| (m, m.is(WRITE))))
            {
                match (mark.time, mark.is(STRONG), wrote) {
                    (0, ..) => {}
                    (_, true, _) => f(Touch::Strong, byte, bytes),
                    (_, false, true) => f(Touch::Write, byte, bytes),
                    (_, false, false) => f(Touch::Read, byte, bytes),
                }
            }
        };
        match cell.split {
            0 => history(&cell.whole, 0, 4),
            split => {
                for (byte, part) in (0..).zip(&self.splits[split as usize - 1]) {
                    history(part, byte, 1);
                }
            }
        }
    }

    /// An asynchronous copy by `lane` of `warp` into this word is complete at `time`.
    pub(super) fn settle(&mut self, cell: &mut Cell, warp: u32, lane: u32, time: Time) {
        let write = &mut cell.whole.write;
        if cell.split == 0 && write.is(ASYNC) && write.warp == warp && write.lanes == 1 << lane {
            write.settle(time);
        }
    }
}

/// Forgets one mark: a read whose block has another mark here, else the oldest read, else the oldest write.
fn drop_one(marks: &mut Vec<Mark>, warps: u32) {
    let block = |m: &Mark| m.warp / warps;
    let spare =
        |m: &Mark| !m.is(WRITE) && marks.iter().filter(|o| block(o) == block(m)).count() > 1;
    let victim = marks.iter().position(spare);
    let victim = victim.or_else(|| marks.iter().position(|m| !m.is(WRITE)));
    marks.remove(victim.unwrap_or(0));
}
