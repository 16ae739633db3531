//! Streams: queues of commands, and what decides which command runs next.
//!
//! A command carries a [`Clock`]: how far every other stream must have come before it may run. Events, the legacy default stream's
//! implicit waits and the host's own waits all end up in it, so that "may run" and "happens after" are one question.
//!
//! Without a seed only what is waited for runs, oldest first: work that a program forgot to wait for has not happened yet. With a
//! seed any command that may run can be next, and some run early, at submission.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};

use super::call::{Failure, Handle, Outcome, fail, guarded};
use super::capture;
use super::execute::{compare, execute, note_kernel, run_kernels};
use super::objects::{Broken, Recorded, Stream};
use super::result::CUresult;
use super::state::{Driver, Locked};
use super::work::{Clock, Command, Work};

/// Commands that may wait in all queues together before the oldest are run.
const MOST_PENDING: usize = 4096;
/// Bytes of copied host data that may wait.
const MOST_STAGED: usize = 256 << 20;

/// Submits work to a stream, or adds it to the graph that the stream is captured into.
pub(super) fn submit(driver: &mut Locked, stream: Handle, work: Work) -> Outcome {
    if capture::is_capturing(driver, stream) {
        return capture::add(driver, stream, work);
    }
    let calls_host = work.calls_host();
    let position = enqueue(driver, stream, work)?;
    if calls_host {
        drive(stream, position);
    }
    run_early(driver);
    limit_pending(driver);
    let context = driver.streams.get(&stream).map_or(0, |s| s.context);
    driver.check_context(context)
}

thread_local! {
    /// The thread that runs the program's functions.
    static RUNS_HOST_FUNCTIONS: Cell<bool> = const { Cell::new(false) };
}

/// Has a stream come to `position` though nobody waits for it there: a program may wait for its own function by other means than the
/// driver's, and would wait for ever. The program's functions run on this one thread of the driver's and on no other: a call that
/// only asks or submits must not wait for what a function waits for.
fn drive(stream: Handle, position: u64) {
    static DRIVER: OnceLock<Sender<(Handle, u64)>> = OnceLock::new();
    let driver = DRIVER.get_or_init(|| {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            RUNS_HOST_FUNCTIONS.set(true);
            for goal in receiver {
                // A failure stays with the context, which tells the program.
                guarded("a host function", || {
                    run_until(&mut Locked::lock()?, vec![goal]);
                    Ok(())
                });
            }
        });
        sender
    });
    // The thread lives as long as the process.
    let _ = driver.send((stream, position));
}

/// Puts a command into a stream's queue and returns its position.
pub(super) fn enqueue(driver: &mut Driver, stream: Handle, work: Work) -> Outcome<u64> {
    capture::check_legacy(driver, stream)?;
    let after = join(driver, stream);
    let sequence = driver.sequence;
    driver.sequence += 1;
    let Some(s) = driver.streams.get_mut(&stream) else {
        return fail(CUresult::INVALID_HANDLE, "the stream is gone");
    };
    s.submitted += 1;
    let position = s.submitted;
    let work = match work {
        // The record's place is known only now.
        Work::Record(event, _) => Work::Record(event, sequence),
        work => work,
    };
    if let Work::Record(event, _) = work
        && let Some(e) = driver.events.get_mut(&event)
    {
        let mut clock = Clock::clone(&after);
        clock.advance(stream, position);
        e.captured = None;
        let clock = Arc::new(clock);
        e.recorded = Some(Recorded {
            stream,
            position,
            sequence,
            clock,
            time: None,
        });
    }
    s.queue.push_back(Command {
        position,
        sequence,
        after,
        work,
    });
    Ok(position)
}

/// What the stream's next command comes after: its own order, the host's waits, and the legacy default stream's rule.
fn join(driver: &mut Driver, stream: Handle) -> Arc<Clock> {
    let mut clock = driver.host_clock.clone();
    let Some((context, blocking, own)) = driver
        .streams
        .get(&stream)
        .map(|s| (s.context, s.blocking, &s.clock))
    else {
        return Arc::default();
    };
    clock.merge(own);
    let legacy = driver.contexts.get(&context).map(|c| c.legacy);
    if blocking {
        let waits = |other: &Handle| Some(stream) == legacy || Some(*other) == legacy;
        let others = driver
            .streams
            .iter()
            .filter(|(h, s)| **h != stream && s.context == context);
        for (&other, s) in others.filter(|(h, s)| s.blocking && waits(h)) {
            clock.merge(&s.clock);
            clock.advance(other, s.submitted);
        }
    }
    clock.forget_all_but(|s| driver.streams.contains_key(s));
    if let Some(s) = driver.streams.get_mut(&stream) {
        s.clock = clock.clone();
    }
    Arc::new(clock)
}

/// Runs commands until the stream has completed its last position, `position`; the host has then waited for all that the stream
/// waited for. Says whether the context still works.
pub(super) fn finish(driver: &mut Locked, stream: Handle, position: u64) -> Outcome {
    let context = driver.streams.get(&stream).map_or(0, |s| s.context);
    run_until(driver, vec![(stream, position)]);
    driver.check_context(context)?;
    if let Some(clock) = driver.streams.get(&stream).map(|s| s.clock.clone()) {
        driver.host_clock.merge(&clock);
        driver.host_clock.advance(stream, position);
    }
    match driver.refused.take() {
        None => Ok(()),
        Some(failure) => Err(failure),
    }
}

/// A kernel of the module that a stream has yet to run, and the stream.
pub(super) fn waiting_kernel(driver: &Driver, module: Handle) -> Option<(Handle, &str)> {
    driver.streams.iter().find_map(|(&stream, s)| {
        let mut commands = s.queue.iter();
        let kernel = commands.find_map(|c| c.work.kernel(&|k| k.module == module))?;
        Some((stream, kernel.name()))
    })
}

/// As [`finish`], for a position that may be older than the stream's last.
pub(super) fn run_to(driver: &mut Locked, stream: Handle, position: u64) -> Outcome {
    let context = driver.streams.get(&stream).map(|s| s.context);
    run_until(driver, vec![(stream, position)]);
    context.map_or(Ok(()), |c| driver.check_context(c))
}

/// Runs everything in the context's streams.
pub(super) fn finish_context(driver: &mut Locked, context: Handle) -> Outcome {
    let goals = || -> Vec<_> {
        let streams = driver.streams.iter().filter(|(_, s)| s.context == context);
        streams.map(|(&h, s)| (h, s.submitted)).collect()
    };
    let goals = goals();
    run_until(driver, goals.clone());
    for (stream, position) in goals {
        driver.host_clock.advance(stream, position);
    }
    driver.check_context(context)
}

/// Whether the stream has come to `position`.
pub(super) fn completed(driver: &Driver, stream: Handle, position: u64) -> bool {
    driver
        .streams
        .get(&stream)
        .is_none_or(|s| s.completed >= position)
}

/// Runs one command that the position needs, if it has not been reached: how a program that only polls makes progress. Functions of
/// the program's are left to their thread.
pub(super) fn poll(driver: &mut Locked, stream: Handle, position: u64) -> bool {
    let needed = needed(driver, &[(stream, position)]);
    if let Some(next) = choose(driver, &needed) {
        step(driver, next);
    }
    completed(driver, stream, position)
}

fn run_until(driver: &mut Locked, goals: Vec<(Handle, u64)>) {
    let needed = needed(driver, &goals);
    while needed.iter().any(|(&s, &p)| !completed(driver, s, p)) {
        match choose(driver, &needed) {
            Some(stream) => step(driver, stream),
            None => {
                let calls_host = |s: &Stream| s.queue.front().is_some_and(|c| c.work.calls_host());
                let elsewhere = driver.streams.values().any(|s| s.running || calls_host(s));
                assert!(elsewhere, "no command can run, yet some wait");
                driver.wait_for_others();
            }
        }
    }
}

/// How far each stream must come for the goals, their dependencies included.
fn needed(driver: &Driver, goals: &[(Handle, u64)]) -> HashMap<Handle, u64> {
    let mut needed = HashMap::new();
    let mut open = goals.to_vec();
    while let Some((stream, position)) = open.pop() {
        let Some(s) = driver.streams.get(&stream) else {
            continue;
        };
        let before = needed.get(&stream).copied().unwrap_or(s.completed);
        if position <= before {
            continue;
        }
        needed.insert(stream, position);
        let new = s
            .queue
            .iter()
            .filter(|c| c.position > before && c.position <= position);
        open.extend(new.flat_map(|c| c.after.0.iter().map(|(&h, &p)| (h, p))));
    }
    needed
}

/// The stream whose head runs next.
fn choose(driver: &mut Driver, needed: &HashMap<Handle, u64>) -> Option<Handle> {
    if driver.random.is_some() {
        let mut ready = ready(driver);
        ready.sort_unstable();
        let random = driver.random.as_mut()?;
        return (!ready.is_empty()).then(|| ready[random.below(ready.len())].1);
    }
    let ready = ready(driver).into_iter();
    ready
        .filter(|(_, h)| needed.get(h).is_some_and(|&p| !completed(driver, *h, p)))
        .min()
        .map(|(_, h)| h)
}

/// Streams whose head may run on this thread, with the head's place among all commands.
fn ready(driver: &Driver) -> Vec<(u64, Handle)> {
    let host = RUNS_HOST_FUNCTIONS.get();
    let streams = driver.streams.iter().filter(|(_, s)| !s.running);
    let heads = streams.filter_map(|(&h, s)| s.queue.front().map(|c| (h, c)));
    heads
        .filter(|(_, c)| host || !c.work.calls_host())
        .filter(|(h, c)| {
            c.after
                .0
                .iter()
                .all(|(&s, &p)| s == *h || completed(driver, s, p))
        })
        .map(|(h, c)| (c.sequence, h))
        .collect()
}

/// With a seed, some commands run before anything waits for them, as on a card that is quick.
fn run_early(driver: &mut Locked) {
    while driver.random.as_mut().is_some_and(|r| r.below(2) == 0) {
        match choose(driver, &HashMap::new()) {
            Some(stream) => step(driver, stream),
            None => return,
        }
    }
}

/// Keeps the queues' size in bounds.
fn limit_pending(driver: &mut Locked) {
    let over = |driver: &Driver| {
        let queues = || driver.streams.values().map(|s| &s.queue);
        let staged = |c: &Command| {
            if let Work::Copy(copy) = &c.work {
                copy.staged()
            } else {
                0
            }
        };
        queues().map(VecDeque::len).sum::<usize>() > MOST_PENDING
            || queues().flatten().map(staged).sum::<usize>() > MOST_STAGED
    };
    // The sum costs as much as the queues are long, so it is not taken every time.
    if !driver.sequence.is_multiple_of(64) || !over(driver) {
        return;
    }
    let all = driver
        .streams
        .iter()
        .map(|(&h, s)| (h, s.submitted))
        .collect();
    run_until(driver, all);
}

/// Executes the head of a stream's queue. With a seed, kernels at the head of other streams that may run, too, are on the device at the
/// same time at random.
fn step(driver: &mut Locked, stream: Handle) {
    let Some((context, command)) = take_head(driver, stream) else {
        return;
    };
    if driver.random.is_some() && matches!(command.work, Work::Kernel(_)) {
        let mut heads = vec![(stream, context, command)];
        let mut others = ready(driver);
        others.sort_unstable();
        for (_, other) in others {
            // Of the same context: a failure of one stops all of them where they are, and breaks their context.
            let is_kernel = |s: &Stream| {
                s.context == context
                    && matches!(s.queue.front().map(|c| &c.work), Some(Work::Kernel(_)))
            };
            let joins = driver.streams.get(&other).is_some_and(is_kernel)
                && driver.random.as_mut().is_some_and(|r| r.below(2) == 0);
            if joins && let Some((context, command)) = take_head(driver, other) {
                heads.push((other, context, command));
            }
        }
        let kernels = heads.iter().filter_map(|(.., c)| match &c.work {
            Work::Kernel(kernel) => Some(&**kernel),
            _ => None,
        });
        let ran = run_kernels(driver, &kernels.collect::<Vec<_>>());
        for ((stream, context, command), ran) in heads.iter().zip(ran) {
            let result = note_kernel(driver, ran)
                .and_then(|()| compare(driver, *stream, command.position, &command.after));
            complete(driver, *stream, *context, command, result);
        }
        return;
    }
    let result = execute(driver, &command.work)
        .and_then(|()| compare(driver, stream, command.position, &command.after));
    if let Work::Host(_) = command.work {
        // What the function tells the rest of the program comes after all that the function came after.
        driver.host_clock.merge(&command.after);
        driver.host_clock.advance(stream, command.position);
    }
    complete(driver, stream, context, &command, result);
}

/// Takes the head of a stream's queue, which is running from now on.
fn take_head(driver: &mut Driver, stream: Handle) -> Option<(Handle, Command)> {
    let s = driver.streams.get_mut(&stream)?;
    let command = s.queue.pop_front()?;
    s.running = true;
    Some((s.context, command))
}

/// A command of a stream has ended.
fn complete(
    driver: &mut Locked,
    stream: Handle,
    context: Handle,
    command: &Command,
    result: Outcome,
) {
    driver.order.forget();
    if let Some(s) = driver.streams.get_mut(&stream) {
        s.running = false;
        s.completed = s.completed.max(command.position);
    }
    match result {
        Ok(()) => {}
        // Not the device's doing: host memory that cannot be reached.
        Err(failure) if failure.code == CUresult::INVALID_VALUE => driver.refused = Some(failure),
        Err(failure) => break_context(driver, context, failure, command.work.what()),
    }
    driver.announce();
}

/// A kernel failed: nothing else of its context runs, and every later call returns the error.
fn break_context(driver: &mut Driver, context: Handle, failure: Failure, what: String) {
    for s in driver.streams.values_mut().filter(|s| s.context == context) {
        s.queue.clear();
        s.completed = s.submitted;
    }
    if let Some(c) = driver.contexts.get_mut(&context) {
        c.broken.get_or_insert(Broken {
            failure,
            what,
            told: false,
        });
    }
}
