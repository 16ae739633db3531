//! Streams.

use std::ffi::c_void;
use std::sync::Arc;

use crate::driver::call::{
    Handle, HostPtr, Out, Outcome, Required, answer, fail, invalid, unsupported,
};
use crate::driver::capture;
use crate::driver::result::CUresult;
use crate::driver::schedule::{self, submit};
use crate::driver::state::{Locked, entry};
use crate::driver::work::{HostCall, Work};

/// Lowest and highest priority; lower numbers are higher priorities.
pub(super) const PRIORITIES: (i32, i32) = (0, -5);

fn create(out: Out<'_, Handle>, flags: u32, priority: i32) -> CUresult {
    entry("cuStreamCreate", |driver| {
        let out = out.need("phStream")?;
        if flags > 1 {
            return invalid(format!(
                "flags {flags:#x}: expected 0 or CU_STREAM_NON_BLOCKING (1)"
            ));
        }
        let context = driver.current()?;
        let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
        out.write(driver.new_stream(context, flags == 0, priority));
        Ok(())
    })
}

/// A new stream.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamCreate(stream: Out<'_, Handle>, flags: u32) -> CUresult {
    create(stream, flags, 0)
}

/// A new stream with a priority, which is kept but does not change the order of work.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamCreateWithPriority(
    stream: Out<'_, Handle>,
    flags: u32,
    priority: i32,
) -> CUresult {
    create(stream, flags, priority)
}

/// Ends a stream; its work is done first.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CUresult {
    entry("cuStreamDestroy", |driver| {
        if stream <= 2 {
            return fail(
                CUresult::INVALID_HANDLE,
                "a default stream cannot be destroyed",
            );
        }
        let stream = driver.stream(stream)?;
        if capture::is_capturing(driver, stream) {
            capture::refuse_on(driver, stream, "destroys")?;
        }
        let position = driver.streams.get(&stream).map_or(0, |s| s.submitted);
        // An error stays with the context; the stream goes all the same.
        let result = schedule::run_to(driver, stream, position);
        let driver = &mut **driver;
        driver.streams.remove(&stream);
        driver
            .host_clock
            .forget_all_but(|s| driver.streams.contains_key(s));
        result
    })
}

/// The older name of [`cuStreamDestroy_v2`].
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamDestroy(stream: Handle) -> CUresult {
    cuStreamDestroy_v2(stream)
}

/// Waits until the stream's work is done.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamSynchronize(stream: Handle) -> CUresult {
    entry("cuStreamSynchronize", |driver| {
        let stream = driver.stream(stream)?;
        synchronize(driver, stream)
    })
}

/// Waits until the stream's work is done; for the legacy default stream also that of the streams it waits for.
pub(super) fn synchronize(driver: &mut Locked, stream: Handle) -> Outcome {
    capture::refuse_on(driver, stream, "waits for")?;
    let legacy = driver.contexts.values().any(|c| c.legacy == stream);
    let position = match legacy {
        true => schedule::enqueue(driver, stream, Work::Nothing)?,
        false => driver.streams.get(&stream).map_or(0, |s| s.submitted),
    };
    schedule::finish(driver, stream, position)
}

/// Whether the stream's work is done.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamQuery(stream: Handle) -> CUresult {
    entry("cuStreamQuery", |driver| {
        let stream = driver.stream(stream)?;
        capture::refuse_on(driver, stream, "queries")?;
        let position = driver.streams.get(&stream).map_or(0, |s| s.submitted);
        if !schedule::completed(driver, stream, position)
            && !schedule::poll(driver, stream, position)
        {
            return answer(CUresult::NOT_READY);
        }
        // Nothing is left to run; this notes that the host knows.
        schedule::finish(driver, stream, position)
    })
}

/// The stream's later work waits for the event.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> CUresult {
    entry("cuStreamWaitEvent", |driver| {
        match flags {
            0 => {}
            1 => return unsupported("waits for events by graph nodes"),
            _ => return invalid(format!("flags {flags:#x} have bits that are not defined")),
        }
        let stream = driver.stream(stream)?;
        let recorded = driver.event(event)?.recorded.clone();
        if capture::wait(driver, stream, event)? {
            return Ok(());
        }
        // An event that was never recorded is complete.
        let Some(recorded) = recorded else {
            return Ok(());
        };
        let clock = Arc::clone(&recorded.clock);
        if let Some(s) = driver.streams.get_mut(&stream) {
            s.clock.merge(&clock);
        }
        submit(driver, stream, Work::Nothing)
    })
}

/// The context a stream was created in.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCtx(stream: Handle, context: Out<'_, Handle>) -> CUresult {
    entry("cuStreamGetCtx", |driver| {
        let context = context.need("pctx")?;
        let stream = driver.stream(stream)?;
        context.write(driver.streams.get(&stream).map_or(0, |s| s.context));
        Ok(())
    })
}

/// The device of a stream's context.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetDevice(stream: Handle, device: Out<'_, i32>) -> CUresult {
    entry("cuStreamGetDevice", |driver| {
        let device = device.need("device")?;
        driver.stream(stream)?;
        device.write(0);
        Ok(())
    })
}

/// The stream's flags.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetFlags(stream: Handle, flags: Out<'_, u32>) -> CUresult {
    entry("cuStreamGetFlags", |driver| {
        let flags = flags.need("flags")?;
        let stream = driver.stream(stream)?;
        flags.write(
            driver
                .streams
                .get(&stream)
                .map_or(0, |s| u32::from(!s.blocking)),
        );
        Ok(())
    })
}

/// The stream's priority.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetPriority(stream: Handle, priority: Out<'_, i32>) -> CUresult {
    entry("cuStreamGetPriority", |driver| {
        let priority = priority.need("priority")?;
        let stream = driver.stream(stream)?;
        priority.write(driver.streams.get(&stream).map_or(0, |s| s.priority));
        Ok(())
    })
}

/// A number for the stream that no other stream gets.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetId(stream: Handle, id: Out<'_, u64>) -> CUresult {
    entry("cuStreamGetId", |driver| {
        let id = id.need("streamId")?;
        id.write(driver.stream(stream)?);
        Ok(())
    })
}

/// Runs a host function in the stream's order. It may not call the driver.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: Option<extern "C" fn(*mut c_void)>,
    data: HostPtr,
) -> CUresult {
    entry("cuLaunchHostFunc", |driver| {
        let function = function.need("fn")?;
        let stream = driver.stream(stream)?;
        submit(
            driver,
            stream,
            Work::Host(HostCall::Function(function, data)),
        )
    })
}

/// Runs a host function with the stream's status in the stream's order. It may not call the driver.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamAddCallback(
    stream: Handle,
    callback: Option<extern "C" fn(Handle, CUresult, *mut c_void)>,
    data: HostPtr,
    flags: u32,
) -> CUresult {
    entry("cuStreamAddCallback", |driver| {
        let callback = callback.need("callback")?;
        if flags != 0 {
            return invalid(format!("flags must be 0, not {flags}"));
        }
        let handle = stream;
        let stream = driver.stream(handle)?;
        capture::refuse_on(driver, stream, "adds a callback to")?;
        submit(
            driver,
            stream,
            Work::Host(HostCall::Callback(callback, handle, data)),
        )
    })
}

/// Managed memory, which this would attach, is not supported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamAttachMemAsync(
    _stream: Handle,
    _address: u64,
    _bytes: usize,
    _flags: u32,
) -> CUresult {
    entry("cuStreamAttachMemAsync", |_| unsupported("managed memory"))
}
