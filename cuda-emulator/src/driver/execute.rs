//! What a command does when its turn has come.

use std::ffi::c_void;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use super::call::{Handle, Outcome, fail, host_function, invalid};
use super::order::Race;
use super::result::CUresult;
use super::state::{Driver, Locked};
use super::work::{Clock, Copy, Fill, HostCall, KernelLaunch, Node, Side, Work};
use crate::check::touched::{Touch, Touched};
use crate::check::{Finding, FindingKind};
use crate::engine;
use crate::memory::{AccessError, AccessErrorKind};
use crate::options::Check;

/// Does the work of a command, or of a node of a graph.
///
/// # Errors
/// What breaks the context; `CUDA_ERROR_INVALID_VALUE` for host memory that cannot be reached, which does not.
pub(super) fn execute(driver: &mut Locked, work: &Work) -> Outcome {
    match work {
        Work::Kernel(kernel) => {
            let ran = run_kernels(driver, &[kernel]);
            ran.into_iter().try_for_each(|ran| note_kernel(driver, ran))
        }
        Work::Copy(copy) => run_copy(driver, copy),
        Work::Fill(fill) => run_fill(driver, fill),
        Work::Free(address) => {
            if let Some((start, bytes)) = driver.memory.allocation_at(*address) {
                note(driver, "a free", |t| t.add(Touch::Write, start, bytes));
            }
            driver.release(*address)
        }
        Work::Record(event, sequence) => {
            let recorded = driver
                .events
                .get_mut(event)
                .and_then(|e| e.recorded.as_mut());
            // A later record has replaced this one when the number differs.
            if let Some(r) = recorded.filter(|r| r.sequence == *sequence) {
                r.time = Some(Instant::now());
            }
            Ok(())
        }
        Work::Nothing => Ok(()),
        Work::Host(call) => {
            let call = *call;
            driver.unlocked(|| {
                host_function(|| match call {
                    HostCall::Function(f, data) => f(data.0 as *mut c_void),
                    HostCall::Callback(f, stream, data) => {
                        f(stream, CUresult::SUCCESS, data.0 as *mut c_void);
                    }
                });
            });
            Ok(())
        }
        Work::Graph(nodes) => execute_graph(driver, nodes),
    }
}

/// Keeps what a launch touched, for the comparison with others.
pub(super) fn note_kernel(driver: &mut Driver, ran: Ran) -> Outcome {
    note(driver, &ran.what, |t| *t = ran.touched);
    ran.outcome
}

/// Notes what the command that runs touches, with `CUDA_EMULATOR_CHECK=all`.
fn note(driver: &mut Driver, what: &str, fill: impl FnOnce(&mut Touched)) {
    if driver.options.check == Check::All {
        let mut touched = Touched::default();
        fill(&mut touched);
        driver.order.note(what, touched);
    }
}

/// Compares the command that ran, whose clock is `after`, with those before it that it does not come after.
///
/// # Errors
/// `CUDA_ERROR_LAUNCH_FAILED` for a race; it is a finding, too.
pub(super) fn compare(
    driver: &mut Driver,
    stream: Handle,
    position: u64,
    after: &Clock,
) -> Outcome {
    let waiting = driver.streams.values().any(|s| !s.queue.is_empty());
    let settled = (!waiting).then_some(&driver.host_clock);
    let lives = |stream: &Handle| driver.streams.contains_key(stream);
    let race = driver
        .order
        .compare(stream, position, after, lives, settled);
    report(driver, race)
}

/// A race is a finding and breaks the context.
fn report(driver: &mut Driver, race: Option<Race>) -> Outcome {
    let Some(Race { address, message }) = race else {
        return Ok(());
    };
    driver.report.find(&Finding::of_host(
        FindingKind::Race,
        message.clone(),
        Some(address),
    ));
    fail(CUresult::LAUNCH_FAILED, message)
}

/// Runs a graph's nodes in an order that its edges allow.
fn execute_graph(driver: &mut Locked, nodes: &[Node]) -> Outcome {
    let mut runs = Vec::with_capacity(nodes.len());
    for node in order_of(driver, nodes) {
        let before = driver.order.noted();
        execute(driver, &nodes[node].work)?;
        runs.push((node, before..driver.order.noted()));
    }
    let race = driver.order.compare_nodes(nodes, &runs);
    report(driver, race)
}

/// An order that the edges allow: without a seed that in which the nodes were added, which edges never go against.
fn order_of(driver: &mut Driver, nodes: &[Node]) -> Vec<usize> {
    let Some(random) = &mut driver.random else {
        return (0..nodes.len()).collect();
    };
    let mut waits_for: Vec<_> = nodes.iter().map(|n| n.after.len()).collect();
    let mut next = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        node.after.iter().for_each(|&before| next[before].push(i));
    }
    let mut ready: Vec<_> = (0..nodes.len()).filter(|&i| waits_for[i] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while !ready.is_empty() {
        let node = ready.swap_remove(random.below(ready.len()));
        order.push(node);
        for &after in &next[node] {
            waits_for[after] -= 1;
            if waits_for[after] == 0 {
                ready.push(after);
            }
        }
    }
    order
}

/// How a launch ended and what it touched.
pub(super) struct Ran {
    outcome: Outcome,
    what: String,
    touched: Touched,
}

/// Runs launches whose turn it is: one, or with a seed several that nothing orders.
pub(super) fn run_kernels(driver: &mut Locked, launches: &[&KernelLaunch]) -> Vec<Ran> {
    let memory = Arc::clone(&driver.memory);
    let mut options = driver.options.clone();
    if options.threads == 0 {
        options.threads = driver.cores;
    }
    let all: Vec<_> = launches
        .iter()
        .map(|launch| engine::Launch {
            kernel: &launch.kernel,
            grid: launch.shape.grid,
            block: launch.shape.block,
            cluster: launch.shape.cluster,
            dynamic_shared: launch.shape.dynamic_shared,
            params: launch.params.clone(),
            cooperative: launch.shape.cooperative,
            memory: &memory,
            device: driver.device,
            options: &options,
        })
        .collect();
    let reports = match &all[..] {
        [one] => vec![engine::run(one)],
        several => engine::run_together(several),
    };
    let ends = launches.iter().zip(reports);
    ends.map(|(launch, report)| tell(driver, launch, report))
        .collect()
}

/// Passes on what a launch printed, counted and found.
fn tell(driver: &mut Locked, launch: &KernelLaunch, report: engine::Report) -> Ran {
    if !report.printed.is_empty() {
        let mut out = std::io::stdout().lock();
        // A closed standard output is no fault of the kernel's.
        let _ = out
            .write_all(report.printed.as_bytes())
            .and_then(|()| out.flush());
    }
    if driver.options.count {
        driver.report.count(
            &launch.kernel.name,
            launch.shape.grid,
            launch.shape.block,
            &report.counters,
        );
    }
    for finding in &report.findings {
        driver.report.find(finding);
    }
    let outcome = if let Some(fault) = report.fault {
        fail(CUresult::of_fault(fault.code), fault.message)
    } else if driver.options.check != Check::Off
        && let Some(first) = report.findings.first()
    {
        fail(
            error_of(first.kind),
            format!("{}: {}", first.kernel, first.message),
        )
    } else {
        Ok(())
    };
    Ran {
        outcome,
        what: format!("kernel {}", launch.kernel.name),
        touched: report.touched,
    }
}

/// What the driver would return for a mistake, if the hardware noticed it.
fn error_of(kind: FindingKind) -> CUresult {
    match kind {
        FindingKind::OutOfBounds | FindingKind::UseAfterFree => CUresult::ILLEGAL_ADDRESS,
        FindingKind::Misaligned => CUresult::MISALIGNED_ADDRESS,
        _ => CUresult::LAUNCH_FAILED,
    }
}

/// Bytes moved at a time between host and device.
const CHUNK: usize = 1 << 20;

fn run_copy(driver: &mut Driver, copy: &Copy) -> Outcome {
    note(driver, "a copy", |touched| {
        for (side, pitch, touch) in [
            (&copy.from, copy.from_pitch, Touch::Read),
            (&copy.to, copy.to_pitch, Touch::Write),
        ] {
            if let Side::Device(start) = side {
                let rows = (0..copy.height).map(|row| start + (row * pitch) as u64);
                rows.for_each(|row| touched.add(touch, row, copy.width as u64));
            }
        }
    });
    for row in 0..copy.height {
        let (to, from) = (row * copy.to_pitch, row * copy.from_pitch);
        let mut at = 0;
        while at < copy.width {
            let bytes = CHUNK.min(copy.width - at);
            piece(
                driver,
                &copy.to.offset(to + at),
                &copy.from.offset(from + at),
                from + at,
                bytes,
            )?;
            at += bytes;
        }
    }
    check_defined(driver, copy)
}

/// Copies a piece; `offset` is its place in staged data.
fn piece(driver: &mut Driver, to: &Side, from: &Side, offset: usize, bytes: usize) -> Outcome {
    let memory = Arc::clone(&driver.memory);
    let result = match (to, from) {
        (Side::Device(to), Side::Device(from)) => memory.copy(*to, *from, bytes as u64),
        (Side::Device(to), Side::Staged(data)) => {
            memory.copy_in(*to, &data[offset..offset + bytes])
        }
        (Side::Device(to), Side::Host(from)) => {
            let mut buffer = vec![0; bytes];
            from.read(&mut buffer)?;
            memory.copy_in(*to, &buffer)
        }
        (Side::Host(to), Side::Device(from)) => {
            let mut buffer = vec![0; bytes];
            match memory.copy_out(*from, &mut buffer) {
                Ok(()) => return to.write(&buffer),
                Err(e) => Err(e),
            }
        }
        (Side::Host(to), Side::Host(from)) => {
            let mut buffer = vec![0; bytes];
            from.read(&mut buffer)?;
            return to.write(&buffer);
        }
        (Side::Host(to), Side::Staged(data)) => return to.write(&data[offset..offset + bytes]),
        (Side::Staged(_), _) => return invalid("staged data is no destination"),
    };
    result.or_else(|e| broken(driver, e))
}

/// A copy to the host that shows what is undefined is a finding, and breaks the context as a kernel's does.
///
/// # Errors
/// `CUDA_ERROR_LAUNCH_FAILED`.
fn check_defined(driver: &mut Driver, copy: &Copy) -> Outcome {
    let shown = match copy.to {
        Side::Host(_) => true,
        Side::Device(address) => driver.memory.is_host(address),
        Side::Staged(_) => false,
    };
    let Side::Device(start) = copy.from else {
        return Ok(());
    };
    if !shown || driver.memory.is_host(start) {
        return Ok(());
    }
    let mut rows = (0..copy.height).map(|row| start + (row * copy.from_pitch) as u64);
    let found = rows.find_map(|row| Finding::of_host_copy(&driver.memory, row, copy.width as u64));
    let Some(finding) = found else {
        return Ok(());
    };
    driver.report.find(&finding);
    fail(CUresult::LAUNCH_FAILED, finding.message)
}

fn run_fill(driver: &mut Driver, fill: &Fill) -> Outcome {
    let bytes = (fill.width * fill.pattern.len()) as u64;
    note(driver, "a fill", |touched| {
        let rows = (0..fill.height).map(|row| fill.address + (row * fill.pitch) as u64);
        rows.for_each(|row| touched.add(Touch::Write, row, bytes));
    });
    for row in 0..fill.height {
        let address = fill.address + (row * fill.pitch) as u64;
        let filled = driver.memory.fill(address, bytes, &fill.pattern);
        filled.or_else(|e| broken(driver, e))?;
    }
    Ok(())
}

/// A copy or fill that found its memory gone: the context breaks, as by a kernel's wild access.
fn broken(driver: &mut Driver, error: AccessError) -> Outcome {
    let kind = match error.kind {
        AccessErrorKind::UseAfterFree => FindingKind::UseAfterFree,
        AccessErrorKind::OutOfBounds | AccessErrorKind::NotAnAllocation => FindingKind::OutOfBounds,
    };
    let message = format!("a copy or fill: {}", error.message);
    driver.report.find(&Finding::of_host(
        kind,
        message.clone(),
        Some(error.address),
    ));
    fail(CUresult::ILLEGAL_ADDRESS, message)
}
