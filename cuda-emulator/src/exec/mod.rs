//! Execution: blocks on threads, warps at once.
//!
//! A worker thread takes blocks in order and turns between the ones it has, so that blocks that wait for one another make
//! progress; inside a block it turns between warps. With a seed there is one worker and the turns are drawn at random, the
//! same for the same seed.

mod alu;
mod arithmetic;
mod async_copy;
mod atomic;
pub(crate) mod awaited;
mod barrier;
mod collective;
mod compare;
mod control;
mod count;
mod cvt;
mod defined;
mod float;
mod integer;
mod lanes;
mod matrix;
mod memory;
mod outside;
mod print;
mod registers;
mod run;
mod special;
mod state;
mod wmma;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::memory::{Site, What};
use self::registers::Lanes32;
use self::run::{Flow, Level, Stop};
use self::state::{Block, Wait, Warp, line_of};
use crate::check::FindingKind;
use crate::check::hooks::{self, GridChecker, GridInfo};
use crate::engine::{Fault, FaultCode, Launch, Report};
use crate::lower::op::{Code, MemSpace};
use crate::memory::{AccessErrorKind, AllocationKind, DeviceMemory, SHARED_UNIT, SHARED_WINDOW};
use crate::numeric::mma;
use crate::options::Check;
use crate::random::Random;
use crate::residency::Needs;

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

/// Whether the workers get anywhere; shared by grids that run side by side.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Grows when a worker changes memory that others may look at.
    changes: AtomicU64,
    /// Workers, and those of them that only poll.
    workers: AtomicUsize,
    idle: AtomicUsize,
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
    checker: Option<&'a GridChecker<'a>>,
    blocks: u64,
    shared_len: u32,
    next_block: AtomicU64,
    progress: &'a Progress,
    stop: AtomicBool,
    executed: AtomicU64,
    fault: Mutex<Option<Fault>>,
    printed: Mutex<String>,
}

impl Grid<'_> {
    pub(crate) fn print(&self, text: &str) {
        self.printed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_str(text);
    }
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
    pub(crate) origins: defined::Origins,
    pub(crate) awaited: awaited::Sets,
    fault: Option<Fault>,
    sites: Vec<Site>,
    generation: u64,
    /// Thread instructions already added to the grid's.
    reported: u64,
    /// Changes of memory that this worker has made or heard of; those that it has told, and how many all workers had told then.
    pub(crate) changes: u64,
    told: u64,
    heard: u64,
}

/// How a block's turn ended.
enum Turn {
    Done,
    Again,
    Fault,
}

static LAUNCHES: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(launch: &Launch<'_>) -> Report {
    run_together(std::slice::from_ref(launch)).remove(0)
}

/// Runs launches that nothing orders: by turns, so that their blocks meet, if there are several. Their options must be the same and
/// have a seed then.
pub(crate) fn run_together(launches: &[Launch<'_>]) -> Vec<Report> {
    let progress = Progress::default();
    let prepared: Vec<Result<Prepared<'_>, String>> = launches.iter().map(Prepared::new).collect();
    let grids: Vec<Option<Grid<'_>>> = launches
        .iter()
        .zip(&prepared)
        .map(|(launch, prepared)| Some(prepared.as_ref().ok()?.grid(launch, &progress)))
        .collect();
    let running: Vec<&Grid<'_>> = grids.iter().flatten().collect();
    let mut counted = match running[..] {
        [grid] => vec![grid.execute()],
        _ => execute_by_turns(&running),
    }
    .into_iter();
    drop(running);
    let ended: Vec<Option<Report>> = grids
        .into_iter()
        .map(|grid| {
            let grid = grid?;
            let fault = grid
                .fault
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            let printed = grid
                .printed
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            Some(Report {
                fault,
                printed,
                ..counted.next().unwrap_or_default()
            })
        })
        .collect();
    prepared
        .into_iter()
        .zip(ended)
        .map(|(prepared, ended)| match (prepared, ended) {
            (Ok(prepared), Some(report)) => prepared.finish(report),
            (Err(message), _) => failed(message),
            (Ok(_), None) => failed("the launch was not executed".into()),
        })
        .collect()
}

fn failed(message: String) -> Report {
    Report {
        fault: Some(Fault {
            code: FaultCode::LaunchFailed,
            message,
        }),
        ..Report::default()
    }
}

/// A launch that can run.
struct Prepared<'a> {
    checker: Option<GridChecker<'a>>,
    memory: &'a DeviceMemory,
    shared_len: u32,
    workspace: u64,
    blocks: u64,
    /// The memory has a record of what is defined, which this launch does not keep.
    unfollowed: bool,
}

impl<'a> Prepared<'a> {
    fn new(launch: &'a Launch<'_>) -> Result<Self, String> {
        let code: &Code = &launch.kernel.code;
        let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
        let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
        if !(1..=1024).contains(&threads) || blocks == 0 {
            return Err(format!(
                "grid {:?} of blocks {:?}: a block has 1 to 1024 threads, and a grid at least one block",
                launch.grid, launch.block
            ));
        }
        let needed = launch
            .kernel
            .params
            .iter()
            .map(|p| p.offset + p.size)
            .max()
            .unwrap_or(0);
        if launch.params.len() < needed as usize {
            return Err(format!(
                "{} takes {needed} bytes of parameters, {} are given",
                launch.kernel.name,
                launch.params.len()
            ));
        }
        if launch.dynamic_shared > 1 << 20 {
            return Err(format!(
                "{} bytes of shared memory are too many",
                launch.dynamic_shared
            ));
        }
        let shared_len = match launch.dynamic_shared {
            0 => code.static_shared,
            n => code.dynamic_offset + n,
        };
        let workspace = match launch.cooperative {
            false => 0,
            true => launch
                .memory
                .allocate_as(64, 256, AllocationKind::Internal)
                .ok_or("no device memory for the cooperative grid's workspace")?,
        };
        if workspace != 0 && launch.memory.fill(workspace, 64, &[0]).is_err() {
            return Err("the cooperative grid's workspace is gone".into());
        }
        launch.memory.define_host();
        let checker = GridChecker::new(GridInfo {
            kernel: &launch.kernel.name,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: shared_len.next_multiple_of(SHARED_UNIT),
            level: launch.options.check,
        });
        Ok(Self {
            checker,
            memory: launch.memory,
            shared_len,
            workspace,
            blocks,
            unfollowed: launch.options.check != Check::All && launch.memory.tracks_defined(),
        })
    }

    fn grid(&'a self, launch: &'a Launch<'a>, progress: &'a Progress) -> Grid<'a> {
        let mma = match (launch.options.exact_mma, launch.device.compute_capability.0) {
            (false, _) => mma::Mode::Fast,
            (true, ..9) => mma::Mode::Ampere,
            (true, _) => mma::Mode::Hopper,
        };
        Grid {
            launch,
            code: &launch.kernel.code,
            memory: launch.memory,
            params: &launch.params,
            mma,
            mingle: launch.options.check == Check::All,
            workspace: self.workspace,
            id: LAUNCHES.fetch_add(1, Ordering::Relaxed) + 1,
            checker: self.checker.as_ref(),
            blocks: self.blocks,
            shared_len: self.shared_len,
            next_block: AtomicU64::new(0),
            progress,
            stop: AtomicBool::new(false),
            executed: AtomicU64::new(0),
            fault: Mutex::new(None),
            printed: Mutex::new(String::new()),
        }
    }

    fn finish(self, mut report: Report) -> Report {
        if self.workspace != 0 {
            // Allocated when it was prepared; it can only be gone if the program freed it, which was reported to it then.
            let _ = self.memory.free(self.workspace);
        }
        if let Some(checker) = self.checker {
            report.touched = checker.touched();
            report.findings = checker.finish();
        }
        if self.unfollowed {
            self.memory.define_all();
        }
        report
    }
}

/// One worker for each grid, which take turns at random until all have ended or one has failed.
fn execute_by_turns(grids: &[&Grid<'_>]) -> Vec<Report> {
    let seed = grids.first().and_then(|grid| grid.launch.options.seed);
    let mut random = Random::new(seed.unwrap_or(0) ^ 0x0005_eed0_fa11);
    let mut workers: Vec<_> = grids.iter().map(|grid| Worker::new(grid, 1)).collect();
    let mut running: Vec<usize> = (0..workers.len()).collect();
    while !running.is_empty() {
        let pick = random.below(running.len());
        let worker = &mut workers[running[pick]];
        if worker.step() {
            continue;
        }
        if worker.grid.stop.load(Ordering::Relaxed) {
            break;
        }
        worker.leave();
        running.swap_remove(pick);
    }
    let ends = workers.into_iter().zip(grids);
    ends.map(|(worker, grid)| {
        let mut report = Report::default();
        count::collect(grid, vec![worker.end()], &mut report.counters);
        report
    })
    .collect()
}

impl<'a> Grid<'a> {
    fn execute(&'a self) -> Report {
        let options = self.launch.options;
        // The checkers' view of memory must not interleave with another block's, a seed means one order, and the counters'
        // cache sees one.
        let one = options.check == Check::All || options.seed.is_some() || options.count;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = match (one, options.threads) {
            (true, _) => 1,
            (false, 0) => cores(),
            (false, n) => n,
        };
        let workers = workers
            .min(usize::try_from(self.blocks).unwrap_or(usize::MAX))
            .max(1);
        let mut tallies = Vec::new();
        if workers == 1 {
            tallies.push(Worker::new(self, 1).run());
        } else {
            std::thread::scope(|scope| {
                let handles: Vec<_> = (0..workers)
                    .map(|_| scope.spawn(|| Worker::new(self, workers).run()))
                    .collect();
                for handle in handles {
                    match handle.join() {
                        Ok(tally) => tallies.push(tally),
                        Err(_) => self.record(Fault {
                            code: FaultCode::LaunchFailed,
                            message: "the emulator itself failed (a panic in a worker)".into(),
                        }),
                    }
                }
            });
        }
        let mut report = Report::default();
        count::collect(self, tallies, &mut report.counters);
        report
    }

    fn record(&self, fault: Fault) {
        self.stop.store(true, Ordering::Relaxed);
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(fault);
    }

    /// Whether it is followed which values are defined.
    fn follows_defined(&self) -> bool {
        self.launch.options.check == Check::All && self.memory.tracks_defined()
    }

    /// Blocks that a worker may have started at once: as many as the device would hold.
    fn most_resident(&self, workers: usize) -> usize {
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
    fn device_wide(&self) -> u64 {
        let (launch, device) = (self.launch, self.launch.device);
        let threads: u32 = launch.block.iter().product();
        let needs = Needs::of(launch.kernel);
        let each = needs.resident_blocks(device, threads, launch.dynamic_shared);
        // Something must run, also what the driver would have refused.
        u64::from(each.max(1)) * u64::from(device.multiprocessors.max(1))
    }

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
struct Worker<'a> {
    grid: &'a Grid<'a>,
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
    fn new(grid: &'a Grid<'a>, workers: usize) -> Self {
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
                tally: options.count.then(|| Box::new(count::Tally::new(grid))),
                watched: options.count || grid.follows_defined(),
                origins: defined::Origins::new(),
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
    fn run(mut self) -> count::Worker {
        while self.step() {}
        self.end()
    }

    /// Gives one block a turn; false: there is nothing more to do.
    fn step(&mut self) -> bool {
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
            checker.report(hooks::Report {
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
    fn leave(&mut self) {
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

    fn end(mut self) -> count::Worker {
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
    /// Instructions for nanoseconds, so that a program that gives up after a time does not because we are slow. With a seed, when
    /// blocks take turns, the time that this one slept too.
    pub(crate) fn global_timer(&self, block: &Block<'_>) -> u64 {
        const SOME_DAY: u64 = 1_700_000_000_000_000_000;
        let slept = self.grid.launch.options.seed.map_or(0, |_| block.slept);
        SOME_DAY + self.clock + self.warp_instructions + slept
    }

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
        let message = format!(
            "{}, block {:?}: {message}",
            self.grid.launch.kernel.name, block.id
        );
        self.fault = Some(Fault {
            code: FaultCode::LaunchTimeout,
            message,
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
            checker.report(hooks::Report {
                kind: FindingKind::Deadlock,
                message: message.clone(),
                line,
                other_line: None,
                block: block.index as u32,
                thread,
                address: None,
            });
        }
        let message = format!(
            "{}, block {:?}: {message}",
            self.grid.launch.kernel.name, block.id
        );
        self.fault = Some(Fault {
            code: FaultCode::LaunchTimeout,
            message,
        });
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
            checker.report(hooks::Report {
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
