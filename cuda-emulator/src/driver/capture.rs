//! The rules of stream capture: what goes into a graph instead of a queue, and what else may happen meanwhile.

use std::cell::Cell;

use super::call::{Handle, Outcome, fail};
use super::objects::{Mode, StreamCapture};
use super::result::CUresult;
use super::state::Driver;
use super::work::{Node, Work};

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set.
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// Sets the calling thread's mode and returns the one before.
pub(super) fn exchange_thread_mode(mode: Mode) -> Mode {
    THREAD_MODE.replace(mode)
}

/// Whether the stream is being captured.
pub(super) fn is_capturing(driver: &Driver, stream: Handle) -> bool {
    driver
        .streams
        .get(&stream)
        .is_some_and(|s| s.capture.is_some())
}

/// The stream's part in its capture, which must be valid.
fn part(driver: &Driver, stream: Handle) -> Outcome<Option<StreamCapture>> {
    let Some(part) = driver.streams.get(&stream).and_then(|s| s.capture.clone()) else {
        return Ok(None);
    };
    if driver.captures.get(&part.capture).is_none_or(|c| c.invalid) {
        let message = "an earlier call has invalidated the stream's capture";
        return fail(CUresult::STREAM_CAPTURE_INVALIDATED, message);
    }
    Ok(Some(part))
}

/// Adds work to the graph that the stream is captured into.
pub(super) fn add(driver: &mut Driver, stream: Handle, work: Work) -> Outcome {
    let Some(part) = part(driver, stream)? else {
        return Ok(());
    };
    let after = part.frontier;
    if let Work::Record(event, _) = work {
        // A captured event is no node: it names the nodes before it.
        if let Some(e) = driver.events.get_mut(&event) {
            e.captured = Some((part.capture, after));
            e.recorded = None;
        }
        return Ok(());
    }
    let Some(capture) = driver.captures.get_mut(&part.capture) else {
        return Ok(());
    };
    capture.nodes.push(Node { work, after });
    let frontier = vec![capture.nodes.len() - 1];
    if let Some(s) = driver.streams.get_mut(&stream) {
        s.capture = Some(StreamCapture {
            capture: part.capture,
            frontier,
        });
    }
    Ok(())
}

/// A wait for an event where the event or the stream is captured; false where neither is.
pub(super) fn wait(driver: &mut Driver, stream: Handle, event: Handle) -> Outcome<bool> {
    let own = part(driver, stream)?;
    let (captured, recorded) = match driver.events.get(&event) {
        Some(e) => (e.captured.clone(), e.recorded.is_some()),
        None => (None, false),
    };
    // What was captured in a capture that has ended is as good as never recorded.
    let captured = captured.filter(|(c, _)| driver.captures.contains_key(c));
    match (own, captured) {
        (None, None) => Ok(false),
        (Some(part), None) if recorded => {
            invalidate(driver, part.capture);
            let message = "the captured stream waits for an event recorded outside its capture; graphs cannot depend on work \
                           outside (cudarc: slices made while event tracking is on cause this)";
            fail(CUresult::STREAM_CAPTURE_ISOLATION, message)
        }
        // An event that was never recorded is complete.
        (Some(_), None) => Ok(true),
        (Some(part), Some((capture, _))) if part.capture != capture => {
            invalidate(driver, part.capture);
            invalidate(driver, capture);
            fail(
                CUresult::STREAM_CAPTURE_MERGE,
                "the event belongs to another capture",
            )
        }
        (own, Some((capture, nodes))) => {
            let mut frontier = own.map(|p| p.frontier).unwrap_or_default();
            for node in nodes {
                if !frontier.contains(&node) {
                    frontier.push(node);
                }
            }
            let legacy = driver.contexts.values().any(|c| c.legacy == stream);
            if legacy {
                invalidate(driver, capture);
                let message = "the legacy default stream cannot join a capture";
                return fail(CUresult::STREAM_CAPTURE_IMPLICIT, message);
            }
            if let Some(s) = driver.streams.get_mut(&stream) {
                s.capture = Some(StreamCapture { capture, frontier });
            }
            Ok(true)
        }
    }
}

/// Spoils a capture.
pub(super) fn invalidate(driver: &mut Driver, capture: Handle) {
    if let Some(c) = driver.captures.get_mut(&capture) {
        c.invalid = true;
    }
}

/// Refuses a call that would wait for a captured stream, whose work never runs.
pub(super) fn refuse_on(driver: &mut Driver, stream: Handle, what: &str) -> Outcome {
    match part(driver, stream)? {
        None => Ok(()),
        Some(part) => {
            invalidate(driver, part.capture);
            fail(
                CUresult::STREAM_CAPTURE_UNSUPPORTED,
                format!("{what} a stream that is being captured"),
            )
        }
    }
}

/// Refuses a call that would wait for all streams of a context while one is captured.
pub(super) fn refuse_in_context(driver: &mut Driver, context: Handle) -> Outcome {
    let mut captures = driver
        .captures
        .values_mut()
        .filter(|c| c.context == context)
        .peekable();
    if captures.peek().is_none() {
        return Ok(());
    }
    captures.for_each(|c| c.invalid = true);
    fail(
        CUresult::STREAM_CAPTURE_UNSUPPORTED,
        "a stream of the context is being captured",
    )
}

/// Refuses a call that may wait for other work, as the modes of the captures that go on demand.
pub(super) fn refuse_unsafe(driver: &mut Driver) -> Outcome {
    if driver.captures.is_empty() || THREAD_MODE.get() == Mode::Relaxed {
        return Ok(());
    }
    let thread = std::thread::current().id();
    let global = THREAD_MODE.get() == Mode::Global;
    let mut conflict = false;
    for c in driver.captures.values_mut() {
        let own = c.thread == thread && c.mode != Mode::Relaxed;
        if own || (global && c.mode == Mode::Global) {
            c.invalid = true;
            conflict = true;
        }
    }
    match conflict {
        false => Ok(()),
        true => {
            let message = "may wait for other work, which the mode of a capture that goes on forbids (cuThreadExchangeStreamCaptureMode)";
            fail(CUresult::STREAM_CAPTURE_UNSUPPORTED, message)
        }
    }
}

/// Refuses work in the legacy default stream while a stream that it would wait for is captured.
pub(super) fn check_legacy(driver: &mut Driver, stream: Handle) -> Outcome {
    let Some(s) = driver.streams.get(&stream) else {
        return Ok(());
    };
    let context = s.context;
    if driver.captures.is_empty()
        || driver
            .contexts
            .get(&context)
            .is_none_or(|c| c.legacy != stream)
    {
        return Ok(());
    }
    let others = driver
        .streams
        .values()
        .filter(|s| s.context == context && s.blocking);
    let captures: Vec<_> = others
        .filter_map(|s| s.capture.as_ref())
        .map(|p| p.capture)
        .collect();
    if captures.is_empty() {
        return Ok(());
    }
    captures.into_iter().for_each(|c| invalidate(driver, c));
    let message =
        "the legacy default stream would wait for a blocking stream that is being captured";
    fail(CUresult::STREAM_CAPTURE_IMPLICIT, message)
}

/// 0 not captured, 1 active, 2 invalidated; and the capture's number.
pub(super) fn status(driver: &Driver, stream: Handle) -> (u32, u64) {
    match driver.streams.get(&stream).and_then(|s| s.capture.as_ref()) {
        None => (0, 0),
        Some(p) if driver.captures.get(&p.capture).is_some_and(|c| !c.invalid) => (1, p.capture),
        Some(p) => (2, p.capture),
    }
}
