//! Turns: which block a worker runs next, which warp of it, and what it means when none can go on.
//!
//! A worker takes blocks in order and turns between the ones it has, so that blocks that wait for one another make progress; inside a
//! block it turns between warps. With a seed there is one worker and the turns are drawn at random, the same for the same seed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::grid::Grid;
use super::registers::Lanes32;
use super::state::{Block, Wait, Warp, line_of};
use super::worker::{Exec, Level, Site, Stop};
use super::{awaited, count, defined, run};
use crate::check::FindingKind;
use crate::check::findings;
use crate::launch::{Fault, FaultCode};
use crate::memory::SHARED_UNIT;
use crate::options::Check;
use crate::random::Random;

/// Thread-instructions of finished blocks that a worker may keep to itself.
const UNREPORTED: u64 = 1 << 14;

/// Instructions that a warp runs before another of its block does, and a block's warps together before another block.
const WARP_QUANTUM: i64 = 20_000;
const BLOCK_QUANTUM: u64 = 400_000;

/// The same when counting: short, so that the cache model sees the blocks that a device would hold side by side.
const COUNTED_QUANTUM: u64 = 1_000;

/// Polls in a turn after which the block is thought to wait for another.
const POLLS: u64 = 64;

/// Blocks that take short turns in a checked launch, once they use atomic operations: one that did all the work before another
/// began would hide what is missing between them.
const MINGLED_BLOCKS: usize = 4;

/// Blocks that a worker keeps at once with a seed.
const SEEDED_BLOCKS: usize = 6;

/// Polls by each warp that can run, with no change of memory by anyone, after which they are thought to wait for ever; and how
/// long that must last, for another thread of the program may write what they look at.
const IDLE_POLLS: u32 = 2_000;
const IDLE_TIME: Duration = Duration::from_millis(500);

/// How a block's turn ended.
enum Turn {
    Done,
    Again,
    Fault,
}

impl<'a> Grid<'a> {
    /// Starts the block that is next, in the order that `order` says.
    fn start(&'a self, order: &mut StartOrder, spare: &mut Vec<Block<'a>>) -> Option<Block<'a>> {
        let place = self.next_block.fetch_add(1, Ordering::Relaxed);
        if place >= self.blocks {
            return None;
        }
        let index = order.block(place, self.blocks);
        let [gx, gy, _] = self.launch.grid.map(u64::from);
        let id = [index % gx, index / gx % gy, index / gx / gy].map(|n| n as u32);
        let checker = self.checker.map(|c| c.block(index as u32));
        let follows = checker.as_ref().is_some_and(|c| c.follows_memory());
        let threads: u32 = self.launch.block.iter().product();
        let warps = threads.div_ceil(32) as usize;
        let mut block = spare.pop().unwrap_or_else(|| Block {
            index,
            id,
            warps: Vec::new(),
            barriers: Default::default(),
            shared: Vec::new(),
            undefined: Vec::new(),
            shared_len: self.shared_len,
            checker: None,
            follows,
            next: 0,
            polls: 0,
            slept: 0,
            exchanged: false,
        });
        block.index = index;
        block.id = id;
        block.checker = checker;
        block.follows = follows;
        block.next = 0;
        block.polls = 0;
        block.slept = 0;
        block.exchanged = false;
        block.barriers = Default::default();
        // What shared memory holds at the start is undefined; zero is the kindest, so checked runs get something else.
        let fill = match self.launch.options.check {
            Check::All => Lanes32([0xffff_ffff; 32]),
            _ => Lanes32::ZERO,
        };
        block.shared.clear();
        block
            .shared
            .resize(self.shared_len.div_ceil(SHARED_UNIT) as usize, fill);
        block.undefined.clear();
        if self.follows_defined() {
            block
                .undefined
                .resize(block.shared.len(), Lanes32([!0; 32]));
        }
        block.warps.resize_with(warps, Warp::default);
        for (i, warp) in block.warps.iter_mut().enumerate() {
            let late = self.launch.options.late_async;
            warp.reset(
                i as u32,
                self.launch.block,
                &self.code.functions[0],
                late,
                self.follows_defined(),
            );
        }
        Some(block)
    }
}

/// Which block starts next. Without a seed the lowest; with one, any of as many as the device holds at once: PTX promises no order, but
/// work that goes down a grid from block to block must not wait for what cannot be resident with it.
struct StartOrder {
    random: Option<Random>,
    window: u64,
    /// Of the window that is being started, the first block and the order.
    first: u64,
    order: Vec<u64>,
}

impl StartOrder {
    fn block(&mut self, place: u64, blocks: u64) -> u64 {
        let Some(random) = &mut self.random else {
            return place;
        };
        let first = place / self.window * self.window;
        if self.order.is_empty() || first != self.first {
            self.first = first;
            self.order = (first..blocks.min(first + self.window)).collect();
            for i in (1..self.order.len()).rev() {
                self.order.swap(i, random.below(i + 1));
            }
        }
        self.order[(place - first) as usize]
    }
}

/// A thread's part of a grid: the blocks that it has started.
pub(super) struct Worker<'a> {
    pub(super) grid: &'a Grid<'a>,
    x: Exec<'a>,
    random: Option<Random>,
    order: StartOrder,
    most: usize,
    resident: Vec<Block<'a>>,
    spare: Vec<Block<'a>>,
    /// The block whose turn it is.
    at: usize,
    /// Since when, and since which change of memory, it only polls.
    idle: Option<(u64, Instant)>,
    /// Turns since it was last asked whether it only polls.
    turns: usize,
    left: bool,
}

impl<'a> Worker<'a> {
    pub(super) fn new(grid: &'a Grid<'a>, workers: usize) -> Self {
        let options = grid.launch.options;
        grid.progress.workers.fetch_add(1, Ordering::Relaxed);
        let most = grid.most_resident(workers);
        Self {
            grid,
            x: Exec {
                grid,
                level: Level::detect(),
                warp_instructions: 0,
                thread_instructions: 0,
                clock: 0,
                profile: options.count,
                tally: options.count.then(|| Box::new(grid.tally())),
                watched: options.count || grid.follows_defined(),
                origins: defined::origins::Origins::new(),
                awaited: awaited::Sets::new(),
                fault: None,
                // One more than there are loads and stores: the others share it.
                sites: vec![Site::EMPTY; grid.code.mems.len() + 1],
                generation: 0,
                reported: 0,
                changes: 1,
                told: 1,
                heard: 0,
            },
            random: options.seed.map(Random::new),
            order: StartOrder {
                random: options
                    .seed
                    .map(|seed| Random::new(seed.wrapping_add(0x5a7e))),
                window: most as u64,
                first: 0,
                order: Vec::new(),
            },
            most,
            resident: Vec::new(),
            spare: Vec::new(),
            at: 0,
            idle: None,
            turns: 0,
            left: false,
        }
    }

    /// Runs blocks until there are none.
    pub(super) fn run(mut self) -> count::Worker {
        while self.step() {}
        self.end()
    }

    /// Gives one block a turn; false: there is nothing more to do.
    pub(super) fn step(&mut self) -> bool {
        let grid = self.grid;
        if grid.stop.load(Ordering::Relaxed) {
            return false;
        }
        let wanted = match self.random {
            Some(_) => SEEDED_BLOCKS.min(self.most),
            None if grid.launch.options.count => self.most,
            None => 1,
        };
        while self.resident.len() < wanted && self.start() {}
        if self.resident.is_empty() {
            return false;
        }
        if let Some(random) = &mut self.random {
            self.at = random.below(self.resident.len());
        }
        self.at %= self.resident.len();
        match self.x.turn(&mut self.resident[self.at], &mut self.random) {
            Turn::Done => {
                // Its end lets another block start.
                self.x.changes += 1;
                self.spare.push(self.resident.swap_remove(self.at));
            }
            Turn::Again => {
                let block = &self.resident[self.at];
                let mingles =
                    grid.mingle && block.exchanged && self.resident.len() < MINGLED_BLOCKS;
                let waits = block.polls > POLLS
                    || (block.polls > 0 && block.only_polls(self.x.changes, POLLS as u32));
                let started = (mingles || waits) && self.start();
                self.at += 1;
                self.exchange();
                if waits && !started && self.waits_for_ever() {
                    self.livelock();
                    return false;
                }
            }
            Turn::Fault => {
                if let Some(fault) = self.x.fault.take() {
                    grid.record(fault);
                }
                return false;
            }
        }
        true
    }

    fn start(&mut self) -> bool {
        if self.resident.len() >= self.most {
            return false;
        }
        let block = self.grid.start(&mut self.order, &mut self.spare);
        block.map(|block| self.resident.push(block)).is_some()
    }

    /// Tells the other workers of changes, and hears of theirs.
    fn exchange(&mut self) {
        let x = &mut self.x;
        let changes = &self.grid.progress.changes;
        if x.changes != x.told {
            let before = changes.fetch_add(1, Ordering::Relaxed);
            x.changes += u64::from(before != x.heard);
            x.heard = before + 1;
        } else {
            let now = changes.load(Ordering::Relaxed);
            x.changes += u64::from(now != x.heard);
            x.heard = now;
        }
        x.told = x.changes;
        if self.idle.is_some_and(|(since, _)| since != self.x.changes) {
            self.idle = None;
            self.grid.progress.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether nothing is left but polling, here and in all other workers, and has been for a while.
    fn waits_for_ever(&mut self) -> bool {
        // Looking at all blocks costs as much as a turn of some.
        self.turns += 1;
        if self.turns < self.resident.len() {
            return false;
        }
        self.turns = 0;
        let changes = self.x.changes;
        let idle = |block: &Block<'_>| block.only_polls(changes, IDLE_POLLS);
        if !self.resident.iter().all(idle) {
            return false;
        }
        let progress = self.grid.progress;
        let (_, since) = *self.idle.get_or_insert_with(|| {
            progress.idle.fetch_add(1, Ordering::Relaxed);
            (changes, Instant::now())
        });
        progress.idle.load(Ordering::Relaxed) >= progress.workers.load(Ordering::Relaxed)
            && since.elapsed() >= IDLE_TIME
    }

    /// Every resident block polls what nobody changes.
    fn livelock(&mut self) {
        let grid = self.grid;
        let started = grid.next_block.load(Ordering::Relaxed).min(grid.blocks);
        let holds = match grid.launch.cooperative {
            true => grid.blocks,
            false => grid.device_wide(),
        };
        let mut places = Vec::new();
        let mut first = None;
        for block in &self.resident {
            for warp in block.warps.iter().filter(|w| w.live != 0 && !w.blocked) {
                let Some(group) = warp.groups.iter().find(|g| g.mask != 0) else {
                    continue;
                };
                let line = line_of(grid.code, group.pc);
                let thread = warp.index * 32 + group.mask.trailing_zeros();
                first.get_or_insert((line, thread, block.index));
                if places.len() < 4 {
                    places.push(format!(
                        "block {:?} warp {} at PTX line {line}",
                        block.id, warp.index
                    ));
                }
            }
        }
        let rest = match started < grid.blocks {
            true => format!(
                "{} of {} blocks cannot start before one of these ends, for the device holds {holds} at once",
                grid.blocks - started,
                grid.blocks
            ),
            false => format!("all of the {} blocks have started", grid.blocks),
        };
        let message = format!(
            "deadlock: every block that runs polls, and nothing changes what they look at ({}); {rest}",
            places.join("; ")
        );
        let (line, thread, block) = first.unwrap_or_default();
        if let Some(checker) = grid.checker {
            checker.report(findings::Report {
                kind: FindingKind::Deadlock,
                message: message.clone(),
                line,
                other_line: None,
                block: block as u32,
                thread,
                address: None,
            });
        }
        grid.record(Fault {
            code: FaultCode::LaunchTimeout,
            message: format!("{}: {message}", grid.launch.kernel.name),
        });
    }

    /// The others no longer wait for this worker.
    pub(super) fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        let progress = self.grid.progress;
        progress.workers.fetch_sub(1, Ordering::Relaxed);
        if self.idle.take().is_some() {
            progress.idle.fetch_sub(1, Ordering::Relaxed);
        }
        progress.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(mut self) -> count::Worker {
        self.leave();
        self.x.report_executed();
        count::Worker {
            warp_instructions: self.x.warp_instructions,
            thread_instructions: self.x.thread_instructions,
            tally: self.x.tally,
        }
    }
}

impl Exec<'_> {
    /// Runs a block for a while.
    fn turn(&mut self, block: &mut Block<'_>, random: &mut Option<Random>) -> Turn {
        block.polls = 0;
        let counted = self.grid.launch.options.count;
        let quantum = if counted {
            COUNTED_QUANTUM
        } else {
            BLOCK_QUANTUM
        };
        let end = self.warp_instructions + quantum;
        let mut runs = 0;
        loop {
            let n = block.warps.len();
            if let Some(random) = random {
                block.next = random.below(n);
            }
            // The next warp that can run.
            let Some(i) = (0..n)
                .map(|k| (block.next + k) % n)
                .find(|&i| block.warps[i].live != 0 && !block.warps[i].blocked)
            else {
                if block.warps.iter().all(|w| w.live == 0) {
                    // Short blocks never use up a budget, however many they are.
                    if self.thread_instructions - self.reported > UNREPORTED && self.over_limit() {
                        let limit = self.grid.launch.options.instruction_limit;
                        let message = format!("stopped after {limit} thread-instructions");
                        if let Some(checker) = &block.checker {
                            checker.report(findings::Report {
                                kind: FindingKind::LimitExceeded,
                                message: message.clone(),
                                line: 0,
                                other_line: None,
                                block: block.index as u32,
                                thread: 0,
                                address: None,
                            });
                        }
                        self.give_up(block, message);
                        return Turn::Fault;
                    }
                    return Turn::Done;
                }
                self.deadlock(block);
                return Turn::Fault;
            };
            let quantum = match random {
                // Mostly short turns, some long ones.
                Some(random) => match random.below(4) {
                    0 => 1 + random.below(2000) as i64,
                    _ => 1 + random.below(60) as i64,
                },
                None => WARP_QUANTUM,
            };
            let mut warp = std::mem::take(&mut block.warps[i]);
            let stop = run::run(self, block, &mut warp, quantum);
            if stop == Stop::Budget && self.over_limit() {
                self.timeout(block, &warp);
                block.warps[i] = warp;
                return Turn::Fault;
            }
            warp.blocked = stop == Stop::Blocked;
            block.warps[i] = warp;
            block.next = (i + 1) % n;
            if stop == Stop::Fault {
                return Turn::Fault;
            }
            runs += 1;
            let seeded_end = random.is_some() && runs >= 8;
            let waits = random.is_none() && block.polls > POLLS && runs >= n;
            let mingles = random.is_none() && self.grid.mingle && block.exchanged && runs >= n;
            if seeded_end || waits || mingles || self.warp_instructions >= end {
                // Warps that meet at barriers for ever never use up a budget of their own.
                if self.over_limit() {
                    self.timeout(block, &block.warps[i]);
                    return Turn::Fault;
                }
                return Turn::Again;
            }
            if runs % 64 == 0 && self.grid.stop.load(Ordering::Relaxed) {
                return Turn::Again;
            }
        }
    }

    fn report_executed(&mut self) {
        let new = self.thread_instructions - self.reported;
        self.reported = self.thread_instructions;
        self.grid.executed.fetch_add(new, Ordering::Relaxed);
    }

    fn over_limit(&mut self) -> bool {
        self.report_executed();
        // Instructions of no thread (all predicated off) end too.
        let limit = self.grid.launch.options.instruction_limit;
        self.grid.executed.load(Ordering::Relaxed) > limit
            || self.warp_instructions > limit.saturating_mul(2)
    }

    fn timeout(&mut self, block: &Block<'_>, warp: &Warp) {
        let limit = self.grid.launch.options.instruction_limit;
        let places: Vec<_> = warp
            .groups
            .iter()
            .map(|g| {
                format!(
                    "lanes {:#010x} at PTX line {}",
                    g.mask,
                    line_of(self.grid.code, g.pc)
                )
            })
            .collect();
        let message = format!(
            "stopped after {limit} thread-instructions: warp {}: {}",
            warp.index,
            places.join("; ")
        );
        if let Some(g) = warp.groups.iter().find(|g| g.mask != 0) {
            let (pc, mask) = (g.pc, g.mask);
            let kind = FindingKind::LimitExceeded;
            self.report(block, warp, kind, message.clone(), (pc, mask), None);
        }
        self.give_up(block, message);
    }

    /// Ends the launch at this block.
    fn give_up(&mut self, block: &Block<'_>, message: String) {
        let kernel = &self.grid.launch.kernel.name;
        self.fault = Some(Fault {
            code: FaultCode::LaunchTimeout,
            message: format!("{kernel}, block {:?}: {message}", block.id),
        });
    }

    /// No warp of the block can run: where each waits.
    fn deadlock(&mut self, block: &mut Block<'_>) {
        let code = self.grid.code;
        let mut places = Vec::new();
        let mut first = None;
        for warp in block.warps.iter().filter(|w| w.live != 0) {
            for g in warp.groups.iter().filter(|g| g.mask != 0) {
                let line = line_of(code, g.pc);
                let thread = warp.index * 32 + g.mask.trailing_zeros();
                first.get_or_insert((line, thread));
                let what = match g.wait {
                    Wait::Nothing => "can run".to_owned(),
                    Wait::Members { mask, .. } => {
                        format!(
                            "wait for lanes {:#010x} of their mask",
                            mask & warp.live & !g.mask
                        )
                    }
                    Wait::Gather { id } => format!(
                        "wait at barrier {id} for lanes {:#010x} of their warp",
                        warp.live & !g.mask
                    ),
                    Wait::Barrier { id } => {
                        let state = &block.barriers[id as usize];
                        match state.expected {
                            Some(n @ 1..) => {
                                format!(
                                    "wait at barrier {id}, {} of {n} threads arrived",
                                    state.arrived
                                )
                            }
                            _ => format!("wait at barrier {id} for all threads"),
                        }
                    }
                };
                places.push(format!(
                    "warp {} lanes {:#010x} at PTX line {line} {what}",
                    warp.index, g.mask
                ));
            }
        }
        let (line, thread) = first.unwrap_or((0, 0));
        let message = format!(
            "deadlock: no warp of the block can go on: {}",
            places.join("; ")
        );
        if let Some(checker) = &block.checker {
            checker.report(findings::Report {
                kind: FindingKind::Deadlock,
                message: message.clone(),
                line,
                other_line: None,
                block: block.index as u32,
                thread,
                address: None,
            });
        }
        self.give_up(block, message);
    }
}
