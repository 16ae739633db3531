//! Stream capture: work that goes into a graph instead of a queue, and the rules about what else may happen meanwhile.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::thread::ThreadId;

use super::call::{Handle, Out, Outcome, Required, entry, fail, invalid};
use super::graph::Graph;
use super::result::CUresult;
use super::schedule::{Node, StreamCapture, Work};
use super::state::{Driver, Kind};

/// `CUstreamCaptureMode`: what else is forbidden while a capture goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn from_number(number: u32) -> Outcome<Self> {
        match number {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => invalid(format!("{number} is no CUstreamCaptureMode (0, 1, 2)")),
        }
    }
}

/// A capture that goes on.
#[derive(Debug)]
pub(super) struct Capture {
    context: Handle,
    mode: Mode,
    origin: Handle,
    thread: ThreadId,
    nodes: Vec<Node>,
    /// A forbidden call has spoilt it.
    invalid: bool,
}

impl Capture {
    pub(super) fn is_of(&self, context: Handle) -> bool {
        self.context == context
    }
}

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set.
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

pub(super) fn is_capturing(d: &Driver, stream: Handle) -> bool {
    d.streams.get(&stream).is_some_and(|s| s.capture.is_some())
}

/// The stream's part in its capture, which must be valid.
fn part(d: &Driver, stream: Handle) -> Outcome<Option<StreamCapture>> {
    let Some(part) = d.streams.get(&stream).and_then(|s| s.capture.clone()) else {
        return Ok(None);
    };
    if d.captures.get(&part.capture).is_none_or(|c| c.invalid) {
        let message = "an earlier call has invalidated the stream's capture";
        return fail(CUresult::STREAM_CAPTURE_INVALIDATED, message);
    }
    Ok(Some(part))
}

/// Adds work to the graph that the stream is captured into.
pub(super) fn add(d: &mut Driver, stream: Handle, work: Work) -> Outcome {
    let Some(part) = part(d, stream)? else {
        return Ok(());
    };
    let after = part.frontier;
    if let Work::Record(event, _) = work {
        // A captured event is no node: it names the nodes before it.
        if let Some(e) = d.events.get_mut(&event) {
            e.captured = Some((part.capture, after));
            e.recorded = None;
        }
        return Ok(());
    }
    let Some(capture) = d.captures.get_mut(&part.capture) else {
        return Ok(());
    };
    capture.nodes.push(Node { work, after });
    let frontier = vec![capture.nodes.len() - 1];
    if let Some(s) = d.streams.get_mut(&stream) {
        s.capture = Some(StreamCapture {
            capture: part.capture,
            frontier,
        });
    }
    Ok(())
}

/// A wait for an event where the event or the stream is captured; false where neither is.
pub(super) fn wait(d: &mut Driver, stream: Handle, event: Handle) -> Outcome<bool> {
    let own = part(d, stream)?;
    let (captured, recorded) = match d.events.get(&event) {
        Some(e) => (e.captured.clone(), e.recorded.is_some()),
        None => (None, false),
    };
    // What was captured in a capture that has ended is as good as never recorded.
    let captured = captured.filter(|(c, _)| d.captures.contains_key(c));
    match (own, captured) {
        (None, None) => Ok(false),
        (Some(part), None) if recorded => {
            invalidate(d, part.capture);
            let message = "the captured stream waits for an event recorded outside its capture; graphs cannot depend on work \
                           outside (cudarc: slices made while event tracking is on cause this)";
            fail(CUresult::STREAM_CAPTURE_ISOLATION, message)
        }
        // An event that was never recorded is complete.
        (Some(_), None) => Ok(true),
        (Some(part), Some((capture, _))) if part.capture != capture => {
            invalidate(d, part.capture);
            invalidate(d, capture);
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
            let legacy = d.contexts.values().any(|c| c.legacy == stream);
            if legacy {
                invalidate(d, capture);
                let message = "the legacy default stream cannot join a capture";
                return fail(CUresult::STREAM_CAPTURE_IMPLICIT, message);
            }
            if let Some(s) = d.streams.get_mut(&stream) {
                s.capture = Some(StreamCapture { capture, frontier });
            }
            Ok(true)
        }
    }
}

fn invalidate(d: &mut Driver, capture: Handle) {
    if let Some(c) = d.captures.get_mut(&capture) {
        c.invalid = true;
    }
}

/// Refuses a call that would wait for a captured stream, whose work never runs.
pub(super) fn refuse_on(d: &mut Driver, stream: Handle, what: &str) -> Outcome {
    match part(d, stream)? {
        None => Ok(()),
        Some(part) => {
            invalidate(d, part.capture);
            fail(
                CUresult::STREAM_CAPTURE_UNSUPPORTED,
                format!("{what} a stream that is being captured"),
            )
        }
    }
}

/// Refuses a call that would wait for all streams of a context while one is captured.
pub(super) fn refuse_in_context(d: &mut Driver, context: Handle) -> Outcome {
    let mut captures = d
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
pub(super) fn refuse_unsafe(d: &mut Driver) -> Outcome {
    if d.captures.is_empty() || THREAD_MODE.get() == Mode::Relaxed {
        return Ok(());
    }
    let thread = std::thread::current().id();
    let global = THREAD_MODE.get() == Mode::Global;
    let mut conflict = false;
    for c in d.captures.values_mut() {
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
pub(super) fn check_legacy(d: &mut Driver, stream: Handle) -> Outcome {
    let Some(s) = d.streams.get(&stream) else {
        return Ok(());
    };
    let context = s.context;
    if d.captures.is_empty() || d.contexts.get(&context).is_none_or(|c| c.legacy != stream) {
        return Ok(());
    }
    let others = d
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
    captures.into_iter().for_each(|c| invalidate(d, c));
    let message =
        "the legacy default stream would wait for a blocking stream that is being captured";
    fail(CUresult::STREAM_CAPTURE_IMPLICIT, message)
}

/// Starts to capture a stream.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) -> CUresult {
    entry("cuStreamBeginCapture", |d| {
        let mode = Mode::from_number(mode)?;
        let stream = d.stream(stream)?;
        let context = d.streams.get(&stream).map_or(0, |s| s.context);
        if d.context(context)?.legacy == stream {
            let message = "the legacy default stream cannot be captured: create a stream";
            return fail(CUresult::STREAM_CAPTURE_UNSUPPORTED, message);
        }
        if is_capturing(d, stream) {
            return fail(
                CUresult::ILLEGAL_STATE,
                "the stream is being captured already",
            );
        }
        let capture = d.handle(Kind::Capture);
        let thread = std::thread::current().id();
        let new = Capture {
            context,
            mode,
            origin: stream,
            thread,
            nodes: Vec::new(),
            invalid: false,
        };
        d.captures.insert(capture, new);
        if let Some(s) = d.streams.get_mut(&stream) {
            s.capture = Some(StreamCapture {
                capture,
                frontier: Vec::new(),
            });
        }
        Ok(())
    })
}

/// As [`cuStreamBeginCapture_v2`] with the global mode.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamBeginCapture(stream: Handle) -> CUresult {
    cuStreamBeginCapture_v2(stream, 0)
}

/// Ends a capture and returns its graph.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamEndCapture(stream: Handle, graph: Out<'_, Handle>) -> CUresult {
    entry("cuStreamEndCapture", |d| {
        let graph = graph.need("phGraph")?;
        graph.write(0);
        let stream = d.stream(stream)?;
        let Some(part) = d.streams.get(&stream).and_then(|s| s.capture.clone()) else {
            return fail(CUresult::ILLEGAL_STATE, "the stream is not being captured");
        };
        let capture = d.captures.get(&part.capture);
        if let Some(c) = capture.filter(|c| c.origin != stream && !c.invalid) {
            let message = format!(
                "the capture began in stream {:#x}, not in {stream:#x}",
                c.origin
            );
            invalidate(d, part.capture);
            return fail(CUresult::STREAM_CAPTURE_UNMATCHED, message);
        }
        if capture
            .is_some_and(|c| c.mode != Mode::Relaxed && c.thread != std::thread::current().id())
        {
            let message = "the capture was begun by another thread and is not in relaxed mode";
            return fail(CUresult::STREAM_CAPTURE_WRONG_THREAD, message);
        }
        for s in d.streams.values_mut() {
            if s.capture
                .as_ref()
                .is_some_and(|p| p.capture == part.capture)
            {
                s.capture = None;
            }
        }
        let Some(capture) = d.captures.remove(&part.capture).filter(|c| !c.invalid) else {
            return fail(
                CUresult::STREAM_CAPTURE_INVALIDATED,
                "an earlier call has invalidated the capture",
            );
        };
        let mut joined = vec![false; capture.nodes.len()];
        part.frontier.iter().for_each(|&i| joined[i] = true);
        for i in (0..joined.len()).rev() {
            if joined[i] {
                capture.nodes[i]
                    .after
                    .iter()
                    .for_each(|&a| joined[a] = true);
            }
        }
        let loose = joined.iter().filter(|&&j| !j).count();
        if loose > 0 {
            let message = format!(
                "{loose} of {} captured operations are in other streams that the capturing stream did not wait for",
                joined.len()
            );
            return fail(CUresult::STREAM_CAPTURE_UNJOINED, message);
        }
        let handle = d.handle(Kind::Graph);
        d.graphs.insert(
            handle,
            Graph {
                context: capture.context,
                nodes: capture.nodes,
            },
        );
        graph.write(handle);
        Ok(())
    })
}

/// 0 not captured, 1 active, 2 invalidated; and the capture's number.
fn status(d: &Driver, stream: Handle) -> (u32, u64) {
    match d.streams.get(&stream).and_then(|s| s.capture.as_ref()) {
        None => (0, 0),
        Some(p) if d.captures.get(&p.capture).is_some_and(|c| !c.invalid) => (1, p.capture),
        Some(p) => (2, p.capture),
    }
}

/// Whether the stream is being captured.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamIsCapturing(stream: Handle, out: Out<'_, u32>) -> CUresult {
    entry("cuStreamIsCapturing", |d| {
        let out = out.need("captureStatus")?;
        let stream = d.stream(stream)?;
        check_legacy(d, stream)?;
        out.write(status(d, stream).0);
        Ok(())
    })
}

/// Whether the stream is being captured, and the capture's number. Its graph and frontier are not given out.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: Handle,
    out: Out<'_, u32>,
    id: Out<'_, u64>,
    graph: Out<'_, Handle>,
    dependencies: Out<'_, *const Handle>,
    count: Out<'_, usize>,
) -> CUresult {
    entry("cuStreamGetCaptureInfo", |d| {
        let out = out.need("captureStatus_out")?;
        if graph.is_some() || dependencies.is_some() || count.is_some() {
            return super::call::unsupported(
                "the graph of a capture that goes on is not given out",
            );
        }
        let stream = d.stream(stream)?;
        let (status, number) = status(d, stream);
        out.write(status);
        id.map(|id| id.write(number));
        Ok(())
    })
}

/// Exchanges the calling thread's capture mode.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<'_, u32>) -> CUresult {
    entry("cuThreadExchangeStreamCaptureMode", |_| {
        let mode: &mut MaybeUninit<u32> = mode.need("mode")?;
        // SAFETY: the parameter is read and written, so the caller has initialised it.
        let new = Mode::from_number(unsafe { mode.assume_init() })?;
        mode.write(THREAD_MODE.replace(new) as u32);
        Ok(())
    })
}
