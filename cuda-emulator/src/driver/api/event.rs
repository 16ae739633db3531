//! Events.

use crate::driver::call::{Handle, Out, Outcome, Required, answer, fail, invalid, unsupported};
use crate::driver::capture;
use crate::driver::objects::{Event, Kind};
use crate::driver::result::CUresult;
use crate::driver::schedule::{self, completed, submit};
use crate::driver::state::{Driver, Locked, entry};
use crate::driver::work::Work;

const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;

/// A new event, complete as long as it is not recorded.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventCreate(event: Out<'_, Handle>, flags: u32) -> CUresult {
    entry("cuEventCreate", |driver| {
        let event = event.need("phEvent")?;
        if flags & INTERPROCESS != 0 {
            return unsupported("events for other processes");
        }
        if flags & !7 != 0 {
            return invalid(format!("flags {flags:#x} have bits that are not defined"));
        }
        let context = driver.current()?;
        let handle = driver.handle(Kind::Event);
        let timing = flags & DISABLE_TIMING == 0;
        driver.events.insert(
            handle,
            Event {
                context,
                timing,
                recorded: None,
                captured: None,
            },
        );
        event.write(handle);
        Ok(())
    })
}

/// Ends an event. A record or wait that was submitted keeps its meaning.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventDestroy_v2(event: Handle) -> CUresult {
    entry("cuEventDestroy", |driver| {
        driver.event(event)?;
        driver.events.remove(&event);
        Ok(())
    })
}

/// The older name of [`cuEventDestroy_v2`].
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventDestroy(event: Handle) -> CUresult {
    cuEventDestroy_v2(event)
}

fn record(driver: &mut Locked, event: Handle, stream: Handle) -> Outcome {
    let context = driver.event(event)?.context;
    let stream = driver.stream(stream)?;
    if driver
        .streams
        .get(&stream)
        .is_some_and(|s| s.context != context)
    {
        return fail(
            CUresult::INVALID_HANDLE,
            "event and stream belong to different contexts",
        );
    }
    submit(driver, stream, Work::Record(event, 0))
}

/// Records the stream's work so far.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CUresult {
    entry("cuEventRecord", |driver| record(driver, event, stream))
}

/// As [`cuEventRecord`]; recording as a node of a graph is not supported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventRecordWithFlags(
    event: Handle,
    stream: Handle,
    flags: u32,
) -> CUresult {
    entry("cuEventRecordWithFlags", |driver| match flags {
        0 => record(driver, event, stream),
        1 => unsupported("events recorded by graph nodes"),
        _ => invalid(format!("flags {flags:#x} have bits that are not defined")),
    })
}

/// Stream and position of the event's last record; `None` if it was never recorded.
fn place(driver: &mut Driver, event: Handle) -> Outcome<Option<(Handle, u64)>> {
    let e = driver.event(event)?;
    if e.captured.is_some() {
        let message = "the event was last recorded in a capture, whose work does not run";
        return fail(CUresult::CAPTURED_EVENT, message);
    }
    Ok(e.recorded.as_ref().map(|r| (r.stream, r.position)))
}

/// Whether the recorded work is done.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventQuery(event: Handle) -> CUresult {
    entry("cuEventQuery", |driver| {
        let place = place(driver, event)?;
        capture::refuse_unsafe(driver)?;
        let Some((stream, position)) = place else {
            return Ok(());
        };
        if !completed(driver, stream, position) && !schedule::poll(driver, stream, position) {
            return answer(CUresult::NOT_READY);
        }
        driver.event(event)?;
        wait_on_host(driver, event);
        Ok(())
    })
}

/// The host has seen the event complete.
fn wait_on_host(driver: &mut Driver, event: Handle) {
    if let Some(r) = driver.events.get(&event).and_then(|e| e.recorded.clone()) {
        driver.host_clock.merge(&r.clock);
    }
}

/// Waits until the recorded work is done.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventSynchronize(event: Handle) -> CUresult {
    entry("cuEventSynchronize", |driver| {
        if let Some((stream, position)) = place(driver, event)? {
            schedule::run_to(driver, stream, position)?;
            wait_on_host(driver, event);
        }
        Ok(())
    })
}

fn elapsed(milliseconds: Out<'_, f32>, start: Handle, end: Handle) -> CUresult {
    entry("cuEventElapsedTime", |driver| {
        let out = milliseconds.need("pMilliseconds")?;
        let mut times = [None; 2];
        for (time, event) in times.iter_mut().zip([start, end]) {
            place(driver, event)?;
            let e = driver.event(event)?;
            if !e.timing {
                return fail(
                    CUresult::INVALID_HANDLE,
                    "an event was created without timing",
                );
            }
            let Some(recorded) = &e.recorded else {
                return fail(CUresult::INVALID_HANDLE, "an event was never recorded");
            };
            *time = recorded.time;
        }
        let [Some(start), Some(end)] = times else {
            return answer(CUresult::NOT_READY);
        };
        let seconds = match end.checked_duration_since(start) {
            Some(later) => later.as_secs_f32(),
            None => -start.duration_since(end).as_secs_f32(),
        };
        out.write(seconds * 1e3);
        Ok(())
    })
}

/// Host time between two events: says nothing about a card.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventElapsedTime(
    out: Out<'_, f32>,
    start: Handle,
    end: Handle,
) -> CUresult {
    elapsed(out, start, end)
}

/// Host time between two events: says nothing about a card.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventElapsedTime_v2(
    out: Out<'_, f32>,
    start: Handle,
    end: Handle,
) -> CUresult {
    elapsed(out, start, end)
}
