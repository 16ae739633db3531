//! Warps and blocks: registers, groups of lanes, what they wait for.

use std::collections::VecDeque;

use super::defined::shadow::Shadow;
use super::frame::{At, Files, Frame};
use super::registers::{Lanes32, Regs};
use crate::check::checker::BlockChecker;
use crate::lower::code::Code;
use crate::lower::op::{BarRed, Function};

/// A caller that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Return {
    /// The call instruction.
    pub(crate) pc: u32,
    pub(crate) frame: Frame,
}

/// What keeps a group from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Nothing,
    /// Until all live lanes of the mask are in the group, at this instruction (`any_place`: at any instruction that waits so).
    Members {
        mask: u32,
        any_place: bool,
    },
    /// At a barrier, until the other lanes of the warp are there too.
    Gather {
        id: u32,
    },
    /// The warp has arrived; until the barrier completes.
    Barrier {
        id: u32,
    },
}

/// Lanes that are at the same instruction of the same call.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) frame: Frame,
    pub(crate) stack: Vec<Return>,
    pub(crate) wait: Wait,
    /// When the group last gave way, for fairness.
    pub(crate) yielded: u64,
    /// At a reducing barrier: operation and destination.
    pub(crate) reduce: Option<(BarRed, u32)>,
}

impl Group {
    fn same_place(&self, other: &Self) -> bool {
        self.pc == other.pc && self.frame == other.frame && self.stack == other.stack
    }
}

/// A copy of `cp.async` that has not been made yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    /// Group of the lane's copies it belongs to.
    pub(crate) group: u32,
    /// Offset in the block's shared memory.
    pub(crate) to: u32,
    /// Device address.
    pub(crate) from: u64,
    pub(crate) size: u32,
    pub(crate) read: u32,
}

/// Copies of one lane, and the number of groups it committed.
#[derive(Debug, Clone, Default)]
pub(crate) struct LaneCopies {
    pub(crate) committed: u32,
    pub(crate) pending: VecDeque<Pending>,
}

#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub(crate) index: u32,
    pub(crate) files: Files,
    /// What of them is undefined, if that is followed.
    pub(crate) shadow: Option<Box<Shadow>>,
    /// The condition code's carry, a bit a lane.
    pub(crate) carry: u32,
    /// Lanes that exist and have not exited.
    pub(crate) live: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) tid: [[u32; 32]; 3],
    /// Late copies, by lane; empty in eager mode.
    pub(crate) copies: Vec<LaneCopies>,
    pub(crate) clock: u64,
    /// Backward branches (and, weighted, polls) since a group last gave way to the others.
    pub(crate) backward: u32,
    /// Choices of a group that still go by who waited longest.
    pub(crate) fair: u32,
    /// Lanes that met at `bar.warp.sync` in the last choice of a group.
    pub(crate) met: u32,
    /// No group can run until a barrier completes.
    pub(crate) blocked: bool,
    /// Polls since memory last changed, and the count of changes then (`Exec::changes`).
    pub(crate) idle_polls: u32,
    pub(crate) idle_since: u64,
}

impl Warp {
    /// The warp has looked for a change of memory once more, `changes` of which there have been.
    #[inline(always)]
    pub(crate) fn poll(&mut self, changes: u64) {
        if self.idle_since != changes {
            self.idle_since = changes;
            self.idle_polls = 0;
        }
        self.idle_polls = self.idle_polls.saturating_add(1);
    }

    /// Where a group is, with the lanes for which the guard holds.
    pub(crate) fn at(&mut self, group: usize, lanes: u32) -> At {
        let (pc, frame) = (self.groups[group].pc, self.groups[group].frame);
        let regs = self.regs(frame);
        At {
            pc,
            lanes,
            frame,
            regs,
        }
    }

    /// Registers of a frame.
    pub(crate) fn regs(&mut self, frame: Frame) -> Regs {
        self.files.regs(frame)
    }

    /// Makes the warp new, for lanes of threads from `index * 32` on.
    pub(crate) fn reset(
        &mut self,
        index: u32,
        block: [u32; 3],
        function: &Function,
        late: bool,
        follows_defined: bool,
    ) {
        let threads = block[0] * block[1] * block[2];
        let first = index * 32;
        self.index = index;
        self.live = match threads - first {
            0..32 => (1 << (threads - first)) - 1,
            _ => !0,
        };
        for l in 0..32 {
            let t = first + l as u32;
            self.tid[0][l] = t % block[0];
            self.tid[1][l] = t / block[0] % block[1];
            self.tid[2][l] = t / block[0] / block[1];
        }
        self.files.clear();
        match follows_defined {
            true => self.shadow.get_or_insert_default().clear(),
            false => self.shadow = None,
        }
        self.carry = 0;
        self.clock = 0;
        self.backward = 0;
        self.fair = 0;
        self.met = 0;
        self.blocked = false;
        self.idle_polls = 0;
        self.idle_since = 0;
        self.groups.clear();
        self.groups.push(Group {
            pc: function.entry,
            mask: self.live,
            frame: Frame::default(),
            stack: Vec::new(),
            wait: Wait::Nothing,
            yielded: 0,
            reduce: None,
        });
        self.copies.clear();
        if late {
            self.copies.resize(32, LaneCopies::default());
        }
        self.open(Frame::default(), function, !0);
    }

    /// Makes room for a frame and sets its constants for the lanes.
    pub(crate) fn open(&mut self, frame: Frame, function: &Function, lanes: u32) {
        self.files.reserve(frame, function);
        let regs = self.regs(frame);
        // SAFETY: the files were made large enough for the function's slots just above.
        unsafe {
            regs.set_pred(0, !0, lanes);
            for &(slot, value) in &function.const32 {
                regs.set32(slot, &[value; 32], lanes);
            }
            for &(slot, value) in &function.const64 {
                regs.set64(slot, &[value; 32], lanes);
            }
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.open(frame, function, lanes & self.live);
        }
    }

    /// The group's lanes wait for others in a loop: let the others run.
    pub(crate) fn give_way(&mut self, group: usize) {
        self.clock += 1;
        self.groups[group].yielded = self.clock;
        self.backward = 0;
        self.fair = 32;
    }

    /// Takes lanes out of a group into one of their own; its index.
    pub(crate) fn split(&mut self, group: usize, lanes: u32) -> usize {
        let mut new = self.groups[group].clone();
        new.mask = lanes;
        self.groups[group].mask &= !lanes;
        self.groups.push(new);
        self.groups.len() - 1
    }

    /// Unites groups at the same place that wait for the same.
    pub(crate) fn unite(&mut self) {
        self.groups.retain(|g| g.mask != 0);
        let mut i = 0;
        while i < self.groups.len() {
            let mut j = i + 1;
            while j < self.groups.len() {
                let (a, b) = (&self.groups[i], &self.groups[j]);
                if a.wait == b.wait && a.same_place(b) {
                    self.groups[i].mask |= self.groups[j].mask;
                    self.groups[i].yielded = self.groups[i].yielded.min(self.groups[j].yielded);
                    self.groups.swap_remove(j);
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }

    /// Unites groups, wakes those whose lanes have met, and chooses the group to run: the innermost call and
    /// there the lowest instruction; while the warp is `fair` the one that waited longest. Also the instruction at which another
    /// group has to be looked at again.
    pub(crate) fn pick(&mut self) -> Option<(usize, u32)> {
        if let [g] = &self.groups[..]
            && g.wait == Wait::Nothing
            && g.mask != 0
        {
            self.backward = 0;
            self.fair = 0;
            return Some((0, u32::MAX));
        }
        let give_way = self.fair > 0;
        self.fair = self.fair.saturating_sub(1);
        self.unite();
        self.meet();
        let runnable = |g: &&Group| g.wait == Wait::Nothing;
        let chosen = if give_way {
            let key = |g: &Group| g.yielded;
            self.groups
                .iter()
                .filter(runnable)
                .map(key)
                .min()
                .and_then(|k| {
                    self.groups
                        .iter()
                        .position(|g| g.wait == Wait::Nothing && g.yielded == k)
                })
        } else {
            let key = |g: &Group| (usize::MAX - g.stack.len(), g.pc);
            self.groups
                .iter()
                .filter(runnable)
                .map(key)
                .min()
                .and_then(|k| {
                    self.groups
                        .iter()
                        .position(|g| g.wait == Wait::Nothing && key(g) == k)
                })
        }?;
        let depth = self.groups[chosen].stack.len();
        let others = self.groups.iter().enumerate().filter(|&(i, g)| {
            i != chosen && g.wait == Wait::Nothing && g.stack.len() == depth && !give_way
        });
        let stop = others.map(|(_, g)| g.pc).min().unwrap_or(u32::MAX);
        Some((chosen, stop))
    }

    /// Wakes groups that wait for lanes that are there now, or have exited.
    fn meet(&mut self) {
        let live = self.live;
        let mut anywhere = 0;
        for g in &self.groups {
            if let Wait::Members {
                any_place: true, ..
            } = g.wait
            {
                anywhere |= g.mask;
            }
        }
        let mut woken = Vec::new();
        for (i, g) in self.groups.iter().enumerate() {
            if let Wait::Members { mask, any_place } = g.wait {
                let here = if any_place { anywhere } else { g.mask };
                if mask & live & !here == 0 {
                    woken.push((i, any_place));
                }
            }
        }
        for (i, any_place) in woken {
            let g = &mut self.groups[i];
            g.wait = Wait::Nothing;
            // `bar.warp.sync` is done with the meeting; the others execute now.
            if any_place {
                g.pc += 1;
                self.met |= g.mask;
            }
        }
    }
}

/// One of a block's 16 barriers.
#[derive(Debug, Clone)]
pub(crate) struct BarrierState {
    /// Threads expected; `None` while nobody has arrived, `Some(0)` for all.
    pub(crate) expected: Option<u32>,
    /// Warps that have arrived, a count of threads, and a bit for each warp (of the first 64) that waits.
    pub(crate) arrived: u32,
    pub(crate) warps: u64,
    pub(crate) and: bool,
    pub(crate) or: bool,
    pub(crate) popc: u32,
    /// Of the reduction's sources: whether some lane's is defined and true, defined and false, and where one that is undefined comes from.
    pub(crate) sure: bool,
    pub(crate) never: bool,
    pub(crate) unknown: u32,
}

impl Default for BarrierState {
    fn default() -> Self {
        // Neutral for the reductions.
        Self {
            expected: None,
            arrived: 0,
            warps: 0,
            and: true,
            or: false,
            popc: 0,
            sure: false,
            never: false,
            unknown: 0,
        }
    }
}

pub(crate) struct Block<'a> {
    /// Linear index, and coordinates.
    pub(crate) index: u64,
    pub(crate) id: [u32; 3],
    pub(crate) warps: Vec<Warp>,
    pub(crate) barriers: [BarrierState; 16],
    pub(crate) shared: Vec<Lanes32>,
    /// What of it is undefined, if that is followed: a set bit is.
    pub(crate) undefined: Vec<Lanes32>,
    /// Bytes.
    pub(crate) shared_len: u32,
    pub(crate) checker: Option<BlockChecker<'a>>,
    /// The checker wants to hear of memory.
    pub(crate) follows: bool,
    /// Warp to run next.
    pub(crate) next: usize,
    /// Polls since the block last started its turn.
    pub(crate) polls: u64,
    /// Nanoseconds that it has slept.
    pub(crate) slept: u64,
    /// Whether it executed an atomic operation in its turn.
    pub(crate) exchanged: bool,
}

impl Block<'_> {
    /// Whether every warp that could run has polled `polls` times since memory last changed.
    pub(crate) fn only_polls(&self, changes: u64, polls: u32) -> bool {
        let mut runnable = self.warps.iter().filter(|w| w.live != 0 && !w.blocked);
        runnable.all(|w| w.idle_since == changes && w.idle_polls >= polls)
    }

    /// Host address of shared memory's first byte.
    pub(crate) fn shared_ptr(&mut self) -> *mut u8 {
        self.shared.as_mut_ptr().cast()
    }
}

/// Name and line of an instruction's place, for messages.
pub(crate) fn line_of(code: &Code, pc: u32) -> u32 {
    code.lines.get(pc as usize).copied().unwrap_or(0)
}
