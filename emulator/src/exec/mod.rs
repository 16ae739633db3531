//! Execution: blocks on threads, warps at once.
//!
//! A worker thread takes blocks in order and turns between the ones it has, so that blocks that wait for one another make
//! progress; inside a block it turns between warps. With a seed there is one worker and the turns are drawn at random, the
//! same for the same seed.

mod alu;
mod async_copy;
mod atomic;
mod barrier;
mod count;
mod cvt;
mod memory;
mod print;
mod rare;
mod registers;
mod run;
mod slow;
mod special;
mod state;
mod wmma;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

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
    stop: AtomicBool,
    executed: AtomicU64,
    fault: Mutex<Option<Fault>>,
    printed: Mutex<String>,
    start: Instant,
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
    /// Counting or checking has to see every instruction.
    pub(crate) profile: bool,
    pub(crate) tally: Option<Box<count::Tally>>,
    fault: Option<Fault>,
    sites: Vec<Site>,
    generation: u64,
    /// Thread instructions already added to the grid's.
    reported: u64,
}

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// How a block's turn ended.
enum Turn {
    Done,
    Again,
    Fault,
}

static LAUNCHES: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(launch: &Launch<'_>) -> Report {
    let failed = |message: String| Report {
        fault: Some(Fault {
            code: FaultCode::LaunchFailed,
            message,
        }),
        ..Report::default()
    };
    let code: &Code = &launch.kernel.code;
    let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    if !(1..=1024).contains(&threads) || blocks == 0 {
        return failed(format!(
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
        return failed(format!(
            "{} takes {needed} bytes of parameters, {} are given",
            launch.kernel.name,
            launch.params.len()
        ));
    }
    if launch.dynamic_shared > 1 << 20 {
        return failed(format!(
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
        true => match launch.memory.allocate_as(64, 256, AllocationKind::Internal) {
            Some(a) => a,
            None => return failed("no device memory for the cooperative grid's workspace".into()),
        },
    };
    if workspace != 0 && launch.memory.fill(workspace, 64, &[0]).is_err() {
        return failed("the cooperative grid's workspace is gone".into());
    }
    let checker = GridChecker::new(GridInfo {
        kernel: &launch.kernel.name,
        grid: launch.grid,
        block: launch.block,
        shared_bytes: shared_len.next_multiple_of(SHARED_UNIT),
        level: launch.options.check,
        memory: launch.memory,
    });
    let mma = match (launch.options.exact_mma, launch.device.compute_capability.0) {
        (false, _) => mma::Mode::Fast,
        (true, ..9) => mma::Mode::Ampere,
        (true, _) => mma::Mode::Hopper,
    };
    let grid = Grid {
        launch,
        code,
        memory: launch.memory,
        params: &launch.params,
        mma,
        mingle: launch.options.check == Check::All,
        workspace,
        id: LAUNCHES.fetch_add(1, Ordering::Relaxed) + 1,
        checker: checker.as_ref(),
        blocks,
        shared_len,
        next_block: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        executed: AtomicU64::new(0),
        fault: Mutex::new(None),
        printed: Mutex::new(String::new()),
        start: Instant::now(),
    };
    let mut report = grid.execute();
    if workspace != 0 {
        // Allocated above; it can only be gone if the program freed it, which was reported to it then.
        let _ = launch.memory.free(workspace);
    }
    report.fault = grid
        .fault
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    report.printed = grid
        .printed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(checker) = checker {
        report.touched = checker.touched();
        report.findings = checker.finish();
    }
    report
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
            tallies.push(self.worker(1));
        } else {
            std::thread::scope(|scope| {
                let handles: Vec<_> = (0..workers)
                    .map(|_| scope.spawn(|| self.worker(workers)))
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

    /// Runs blocks until there are none.
    fn worker(&'a self, workers: usize) -> count::Worker {
        let options = self.launch.options;
        let count = options.count;
        let mut x = Exec {
            grid: self,
            level: Level::detect(),
            warp_instructions: 0,
            thread_instructions: 0,
            clock: 0,
            profile: count,
            tally: count.then(|| Box::new(count::Tally::new(self))),
            fault: None,
            // One more than there are loads and stores: the others share it.
            sites: vec![Site::EMPTY; self.code.mems.len() + 1],
            generation: 0,
            reported: 0,
        };
        let mut random = options.seed.map(Random);
        let most = self.most_resident(workers);
        let mut resident: Vec<Block<'a>> = Vec::new();
        let mut spare: Vec<Block<'a>> = Vec::new();
        let mut at = 0;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let wanted = match random {
                Some(_) => SEEDED_BLOCKS.min(most),
                None if count => most,
                None => 1,
            };
            while resident.len() < wanted
                && let Some(block) = self.start(&mut spare)
            {
                resident.push(block);
            }
            if resident.is_empty() {
                break;
            }
            if let Some(random) = &mut random {
                at = random.below(resident.len() as u64) as usize;
            }
            at %= resident.len();
            match x.turn(&mut resident[at], &mut random) {
                Turn::Done => spare.push(resident.swap_remove(at)),
                Turn::Again => {
                    let block = &resident[at];
                    let mingles = self.mingle && block.exchanged && resident.len() < MINGLED_BLOCKS;
                    if (mingles || block.polls > POLLS)
                        && resident.len() < most
                        && let Some(block) = self.start(&mut spare)
                    {
                        resident.push(block);
                    }
                    at += 1;
                }
                Turn::Fault => {
                    if let Some(fault) = x.fault.take() {
                        self.record(fault);
                    }
                    break;
                }
            }
        }
        x.report_executed();
        count::Worker {
            warp_instructions: x.warp_instructions,
            thread_instructions: x.thread_instructions,
            tally: x.tally,
        }
    }

    /// Blocks that a worker may have started at once: as many as the device would hold.
    fn most_resident(&self, workers: usize) -> usize {
        let device = self.launch.device;
        let threads: u32 = self.launch.block.iter().product();
        let per_sm = (device.max_threads_per_multiprocessor / threads.next_multiple_of(32))
            .clamp(1, device.max_blocks_per_multiprocessor.max(1));
        let device_wide = u64::from(per_sm) * u64::from(device.multiprocessors.max(1));
        // A cooperative launch was checked to fit: all of it is resident.
        let all = if self.launch.cooperative {
            self.blocks
        } else {
            device_wide
        };
        (all.min(self.blocks) as usize).div_ceil(workers).max(1)
    }

    /// Starts the next block.
    fn start(&'a self, spare: &mut Vec<Block<'a>>) -> Option<Block<'a>> {
        let index = self.next_block.fetch_add(1, Ordering::Relaxed);
        if index >= self.blocks {
            return None;
        }
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
            shared_len: self.shared_len,
            checker: None,
            follows,
            next: 0,
            polls: 0,
            exchanged: false,
        });
        block.index = index;
        block.id = id;
        block.checker = checker;
        block.follows = follows;
        block.next = 0;
        block.polls = 0;
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
        block.warps.resize_with(warps, Warp::default);
        for (i, warp) in block.warps.iter_mut().enumerate() {
            let late = self.launch.options.late_async;
            warp.reset(i as u32, self.launch.block, &self.code.functions[0], late);
        }
        Some(block)
    }
}

impl Exec<'_> {
    /// Nanoseconds, or instructions when the run has to be reproducible.
    pub(crate) fn global_timer(&self) -> u64 {
        const SOME_DAY: u64 = 1_700_000_000_000_000_000;
        SOME_DAY
            + match self.grid.launch.options.seed {
                Some(_) => self.clock + self.warp_instructions,
                None => self.grid.start.elapsed().as_nanos() as u64,
            }
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
                block.next = random.below(n as u64) as usize;
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
            self.report(block, warp, kind, message.clone(), pc, mask, None);
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

    /// Records a finding at an instruction.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn report(
        &mut self,
        block: &Block<'_>,
        warp: &Warp,
        kind: FindingKind,
        message: String,
        pc: u32,
        lanes: u32,
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
        space: MemSpace,
        what: What,
        address: u64,
        lane: usize,
    ) {
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
            what.pc,
            lanes,
            Some(address),
        );
        self.fault(block, warp, code, message, what.pc, lanes);
    }
}
