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
    entry("cuStreamCreate", |d| {
        let out = out.need("phStream")?;
        if flags > 1 {
            return invalid(format!(
                "flags {flags:#x}: expected 0 or CU_STREAM_NON_BLOCKING (1)"
            ));
        }
        let context = d.current()?;
        let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
        out.write(d.new_stream(context, flags == 0, priority));
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
    entry("cuStreamDestroy", |d| {
        if stream <= 2 {
            return fail(
                CUresult::INVALID_HANDLE,
                "a default stream cannot be destroyed",
            );
        }
        let stream = d.stream(stream)?;
        if capture::is_capturing(d, stream) {
            capture::refuse_on(d, stream, "destroys")?;
        }
        let position = d.streams.get(&stream).map_or(0, |s| s.submitted);
        // An error stays with the context; the stream goes all the same.
        let result = schedule::run_to(d, stream, position);
        let d = &mut **d;
        d.streams.remove(&stream);
        d.host_clock.forget_all_but(|s| d.streams.contains_key(s));
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
    entry("cuStreamSynchronize", |d| {
        let stream = d.stream(stream)?;
        synchronize(d, stream)
    })
}

/// Waits until the stream's work is done; for the legacy default stream also that of the streams it waits for.
pub(super) fn synchronize(d: &mut Locked, stream: Handle) -> Outcome {
    capture::refuse_on(d, stream, "waits for")?;
    let legacy = d.contexts.values().any(|c| c.legacy == stream);
    let position = match legacy {
        true => schedule::enqueue(d, stream, Work::Nothing)?,
        false => d.streams.get(&stream).map_or(0, |s| s.submitted),
    };
    schedule::finish(d, stream, position)
}

/// Whether the stream's work is done.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamQuery(stream: Handle) -> CUresult {
    entry("cuStreamQuery", |d| {
        let stream = d.stream(stream)?;
        capture::refuse_on(d, stream, "queries")?;
        let position = d.streams.get(&stream).map_or(0, |s| s.submitted);
        if !schedule::completed(d, stream, position) && !schedule::poll(d, stream, position) {
            return answer(CUresult::NOT_READY);
        }
        // Nothing is left to run; this notes that the host knows.
        schedule::finish(d, stream, position)
    })
}

/// The stream's later work waits for the event.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> CUresult {
    entry("cuStreamWaitEvent", |d| {
        match flags {
            0 => {}
            1 => return unsupported("waits for events by graph nodes"),
            _ => return invalid(format!("flags {flags:#x} have bits that are not defined")),
        }
        let stream = d.stream(stream)?;
        let recorded = d.event(event)?.recorded.clone();
        if capture::wait(d, stream, event)? {
            return Ok(());
        }
        // An event that was never recorded is complete.
        let Some(recorded) = recorded else {
            return Ok(());
        };
        let clock = Arc::clone(&recorded.clock);
        if let Some(s) = d.streams.get_mut(&stream) {
            s.clock.merge(&clock);
        }
        submit(d, stream, Work::Nothing)
    })
}

/// The context a stream was created in.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCtx(stream: Handle, context: Out<'_, Handle>) -> CUresult {
    entry("cuStreamGetCtx", |d| {
        let context = context.need("pctx")?;
        let stream = d.stream(stream)?;
        context.write(d.streams.get(&stream).map_or(0, |s| s.context));
        Ok(())
    })
}

/// The device of a stream's context.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetDevice(stream: Handle, device: Out<'_, i32>) -> CUresult {
    entry("cuStreamGetDevice", |d| {
        let device = device.need("device")?;
        d.stream(stream)?;
        device.write(0);
        Ok(())
    })
}

/// The stream's flags.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetFlags(stream: Handle, flags: Out<'_, u32>) -> CUresult {
    entry("cuStreamGetFlags", |d| {
        let flags = flags.need("flags")?;
        let stream = d.stream(stream)?;
        flags.write(d.streams.get(&stream).map_or(0, |s| u32::from(!s.blocking)));
        Ok(())
    })
}

/// The stream's priority.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetPriority(stream: Handle, priority: Out<'_, i32>) -> CUresult {
    entry("cuStreamGetPriority", |d| {
        let priority = priority.need("priority")?;
        let stream = d.stream(stream)?;
        priority.write(d.streams.get(&stream).map_or(0, |s| s.priority));
        Ok(())
    })
}

/// A number for the stream that no other stream gets.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetId(stream: Handle, id: Out<'_, u64>) -> CUresult {
    entry("cuStreamGetId", |d| {
        let id = id.need("streamId")?;
        id.write(d.stream(stream)?);
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
    entry("cuLaunchHostFunc", |d| {
        let function = function.need("fn")?;
        let stream = d.stream(stream)?;
        submit(d, stream, Work::Host(HostCall::Function(function, data)))
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
    entry("cuStreamAddCallback", |d| {
        let callback = callback.need("callback")?;
        if flags != 0 {
            return invalid(format!("flags must be 0, not {flags}"));
        }
        let handle = stream;
        let stream = d.stream(handle)?;
        capture::refuse_on(d, stream, "adds a callback to")?;
        submit(
            d,
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
