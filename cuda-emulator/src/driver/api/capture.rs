//! Stream capture.

use std::mem::MaybeUninit;

use crate::driver::call::{Handle, Out, Required, fail, unsupported};
use crate::driver::capture::{
    check_legacy, exchange_thread_mode, invalidate, is_capturing, status,
};
use crate::driver::objects::{Capture, Graph, Kind, Mode, StreamCapture};
use crate::driver::result::CUresult;
use crate::driver::state::entry;

/// Starts to capture a stream.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) -> CUresult {
    entry("cuStreamBeginCapture", |driver| {
        let mode = Mode::from_number(mode)?;
        let stream = driver.stream(stream)?;
        let context = driver.streams.get(&stream).map_or(0, |s| s.context);
        if driver.context(context)?.legacy == stream {
            let message = "the legacy default stream cannot be captured: create a stream";
            return fail(CUresult::STREAM_CAPTURE_UNSUPPORTED, message);
        }
        if is_capturing(driver, stream) {
            return fail(
                CUresult::ILLEGAL_STATE,
                "the stream is being captured already",
            );
        }
        let capture = driver.handle(Kind::Capture);
        let thread = std::thread::current().id();
        let new = Capture {
            context,
            mode,
            origin: stream,
            thread,
            nodes: Vec::new(),
            invalid: false,
        };
        driver.captures.insert(capture, new);
        if let Some(s) = driver.streams.get_mut(&stream) {
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
    entry("cuStreamEndCapture", |driver| {
        let graph = graph.need("phGraph")?;
        graph.write(0);
        let stream = driver.stream(stream)?;
        let Some(part) = driver.streams.get(&stream).and_then(|s| s.capture.clone()) else {
            return fail(CUresult::ILLEGAL_STATE, "the stream is not being captured");
        };
        let capture = driver.captures.get(&part.capture);
        if let Some(c) = capture.filter(|c| c.origin != stream && !c.invalid) {
            let message = format!(
                "the capture began in stream {:#x}, not in {stream:#x}",
                c.origin
            );
            invalidate(driver, part.capture);
            return fail(CUresult::STREAM_CAPTURE_UNMATCHED, message);
        }
        if capture
            .is_some_and(|c| c.mode != Mode::Relaxed && c.thread != std::thread::current().id())
        {
            let message = "the capture was begun by another thread and is not in relaxed mode";
            return fail(CUresult::STREAM_CAPTURE_WRONG_THREAD, message);
        }
        for s in driver.streams.values_mut() {
            if s.capture
                .as_ref()
                .is_some_and(|p| p.capture == part.capture)
            {
                s.capture = None;
            }
        }
        let Some(capture) = driver.captures.remove(&part.capture).filter(|c| !c.invalid) else {
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
        let handle = driver.handle(Kind::Graph);
        let captured = Graph::new(capture.context, capture.nodes);
        driver.graphs.insert(handle, captured);
        graph.write(handle);
        Ok(())
    })
}

/// Whether the stream is being captured.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamIsCapturing(stream: Handle, out: Out<'_, u32>) -> CUresult {
    entry("cuStreamIsCapturing", |driver| {
        let out = out.need("captureStatus")?;
        let stream = driver.stream(stream)?;
        check_legacy(driver, stream)?;
        out.write(status(driver, stream).0);
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
    entry("cuStreamGetCaptureInfo", |driver| {
        let out = out.need("captureStatus_out")?;
        if graph.is_some() || dependencies.is_some() || count.is_some() {
            return unsupported("the graph of a capture that goes on is not given out");
        }
        let stream = driver.stream(stream)?;
        let (status, number) = status(driver, stream);
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
        mode.write(exchange_thread_mode(new) as u32);
        Ok(())
    })
}
