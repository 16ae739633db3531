//! Launches from their start to their report.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::count;
use super::grid::{Grid, Progress};
use super::turns::Worker;
use crate::check::checker::GridChecker;
use crate::check::hooks::GridInfo;
use crate::launch::{Fault, FaultCode, Launch, Report};
use crate::lower::code::Code;
use crate::memory::{AllocationKind, DeviceMemory, SHARED_UNIT};
use crate::numeric::mma;
use crate::options::Check;
use crate::ptx::ast::volume;
use crate::random::Random;

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
        let (threads, blocks) = (volume(launch.block), volume(launch.grid));
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
        count::collect(grid.code, vec![worker.end()], &mut report.counters);
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
        count::collect(self.code, tallies, &mut report.counters);
        report
    }
}
