//! What the race detector keeps of a launch, of its blocks and of their warps.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::clock::{Agent, Clock, Knowledge, Time};
use super::hooks::{GridInfo, Lanes, Scope};
use super::lanes_of;
use super::shadow::{Beside, Cell};
use super::touched::Touched;
use crate::options::Check;

/// Multiplies: addresses are well spread by that.
#[derive(Debug, Default)]
pub(super) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }

    fn write_u64(&mut self, x: u64) {
        self.0 = (self.0 ^ x)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

pub(super) type AddressMap<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

/// What was released at an address.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// To the whole device.
    pub(super) device: Clock,
    /// To the releaser's block only; what that block released to the device is here too.
    pub(super) blocks: Vec<(u32, Clock)>,
}

/// Unordered accesses remembered for a word of global memory (more in tests, which compare with a complete record).
pub(super) const GLOBAL_MARKS: usize = if cfg!(test) { 64 } else { 4 };

/// Words and bytes of a page of cells.
pub(super) const PAGE_WORDS: u64 = 1024;
pub(super) const PAGE_BYTES: u64 = 4 * PAGE_WORDS;

/// State of a launch's global memory.
#[derive(Debug)]
pub(super) struct Global {
    pub(super) pages: Vec<Box<[Cell]>>,
    pub(super) page_of: AddressMap<u32>,
    /// The page used last: its number and place.
    pub(super) last: (u64, u32),
    pub(super) beside: Beside,
    pub(super) released: AddressMap<Released>,
}

impl Global {
    pub(super) fn new() -> Self {
        Self {
            pages: Vec::new(),
            page_of: AddressMap::default(),
            last: (u64::MAX, 0),
            beside: Beside::new(GLOBAL_MARKS),
            released: AddressMap::default(),
        }
    }

    #[inline(always)]
    pub(super) fn page(&mut self, number: u64) -> usize {
        if self.last.0 != number {
            self.last = (number, self.find_page(number));
        }
        self.last.1 as usize
    }

    #[inline(never)]
    pub(super) fn find_page(&mut self, number: u64) -> u32 {
        let pages = &mut self.pages;
        *self.page_of.entry(number).or_insert_with(|| {
            pages.push(vec![Cell::default(); PAGE_WORDS as usize].into());
            pages.len() as u32 - 1
        })
    }
}

impl Global {
    /// What the launch has touched, by byte.
    pub(super) fn touched(&self) -> Touched {
        let mut touched = Touched::default();
        let mut pages: Vec<_> = self.page_of.iter().collect();
        pages.sort_unstable();
        for (number, &page) in pages {
            for (i, cell) in self.pages[page as usize].iter().enumerate() {
                let address = number * PAGE_BYTES + 4 * i as u64;
                self.beside.touches(cell, |touch, byte, bytes| {
                    touched.add(touch, address + byte, bytes);
                });
            }
        }
        touched
    }
}

/// A fence's effect on later strong writes: what was known then, and the thread's own time.
pub(super) type Fenced = Option<(Arc<Clock>, Time)>;

#[derive(Debug)]
pub(super) struct Warp {
    /// Lanes that exist, and those that have ended.
    pub(super) all: Lanes,
    pub(super) exited: Lanes,
    pub(super) knows: Knowledge,
    /// Latest fence of block scope or more, and of device scope or more.
    pub(super) fenced: Box<[[Fenced; 2]; 32]>,
    /// Whether any lane fenced at all.
    pub(super) any_fence: bool,
    /// Released by others at addresses that the lane has read strongly, until a fence makes it known: by block scope, by more.
    pub(super) observed: Vec<(u32, Scope, Arc<Clock>)>,
    pub(super) sequential: Sequential,
    /// All lanes know everything in the block / in their warp up to here.
    pub(super) block_time: Time,
    pub(super) warp_time: Time,
    pub(super) copies: Copies,
}

impl Warp {
    /// Lanes that can still run.
    pub(super) fn live(&self) -> Lanes {
        self.all & !self.exited
    }

    /// Gives `lanes` a clock.
    pub(super) fn learn(&mut self, block: u32, warp: u32, lanes: Lanes, clock: Arc<Clock>) {
        let live = self.live();
        self.knows.set(lanes, live, clock);
        let (mut block_time, mut warp_time) = (Time::MAX, Time::MAX);
        self.knows.each(live, |clock| {
            block_time = block_time.min(clock.get(Agent::block(block)));
            warp_time = warp_time.min(clock.get(Agent::warp(block, warp)));
        });
        self.block_time = block_time;
        self.warp_time = warp_time;
    }

    /// The clock of `lanes` together, with their own past up to `now`.
    pub(super) fn together(&self, block: u32, warp: u32, lanes: Lanes, now: Time) -> Clock {
        let mut clock: Option<Clock> = None;
        self.knows.each(lanes, |c| match &mut clock {
            None => clock = Some((**c).clone()),
            Some(clock) => clock.join(c),
        });
        let mut clock = clock.unwrap_or_default();
        if lanes | self.exited == self.all | self.exited {
            clock.raise_warp(block, warp, now);
        } else {
            for lane in lanes_of(lanes) {
                clock.raise(Agent::lane(block, warp, lane), now);
            }
        }
        clock
    }
}

/// Asynchronous copies of a warp that were not waited for.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Groups committed, per lane.
    pub(super) committed: [u32; 32],
    pub(super) pending: Vec<PendingCopy>,
}

#[derive(Debug)]
pub(super) struct PendingCopy {
    pub(super) lanes: Lanes,
    pub(super) group: u32,
    pub(super) size: u32,
    pub(super) offsets: [u32; 32],
}

/// A barrier that some have arrived at.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrivals {
    pub(super) clock: Clock,
    /// Lanes that arrived and lanes that wait, by warp.
    pub(super) arrived: Vec<Lanes>,
    pub(super) waiting: Vec<Lanes>,
    /// Of the first arrival.
    pub(super) threads: Option<(u32, u32)>,
}

/// State of a block.
#[derive(Debug)]
pub(super) struct BlockState {
    pub(super) now: Time,
    pub(super) warps: Vec<Warp>,
    pub(super) cells: Vec<Cell>,
    pub(super) beside: Beside,
    pub(super) released: AddressMap<Clock>,
    pub(super) barriers: Vec<Arrivals>,
    pub(super) sequential: Sequential,
}

/// Barriers of a block.
pub(super) const BARRIERS: usize = 16;

impl BlockState {
    pub(super) fn new(info: &GridInfo<'_>) -> Self {
        let threads: u32 = info.block.iter().product();
        let count = threads.div_ceil(32);
        let warp = |w: u32| Warp {
            all: if threads - 32 * w >= 32 {
                !0
            } else {
                (1 << (threads - 32 * w)) - 1
            },
            exited: 0,
            knows: Knowledge::new(),
            fenced: Box::new(std::array::from_fn(|_| [None, None])),
            any_fence: false,
            observed: Vec::new(),
            sequential: Sequential::default(),
            block_time: 0,
            warp_time: 0,
            copies: Copies::default(),
        };
        let words = if info.level == Check::All {
            info.shared_bytes.div_ceil(4)
        } else {
            0
        };
        Self {
            now: 1,
            warps: (0..count).map(warp).collect(),
            cells: vec![Cell::default(); words as usize],
            beside: Beside::new(64),
            released: AddressMap::default(),
            barriers: vec![Arrivals::default(); BARRIERS],
            sequential: Sequential::default(),
        }
    }
}

/// What `fence.sc` orders beyond the thread that executes it. Such fences have one order that agrees with what is read: if a thread
/// writes strongly after a barrier, before which others have fenced, and somebody reads it who meets at a barrier with those who then
/// fence, the first fences come before the others, whoever wrote and whoever read. Of a block and its barriers for all threads, and of a
/// warp and `bar.warp.sync` for all lanes.
#[derive(Debug, Default)]
pub(super) struct Sequential {
    /// Known to those who have fenced: since the last barrier, and before it.
    pub(super) fenced: Clock,
    pub(super) before: Clock,
    /// Released at what was read before the last barrier.
    pub(super) seen: Clock,
}

impl Sequential {
    /// A barrier for all; what they have read strongly.
    pub(super) fn meet<'a>(
        &mut self,
        observed: impl Iterator<Item = &'a (u32, Scope, Arc<Clock>)>,
    ) {
        self.before.join(&std::mem::take(&mut self.fenced));
        for (_, _, clock) in observed {
            self.seen.join(clock);
        }
    }
}
