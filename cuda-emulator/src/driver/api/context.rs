//! Initialisation, the device, and contexts.

use std::ffi::c_int;

use super::stream::PRIORITIES;
use crate::check::{Finding, FindingKind};
use crate::driver::call::{
    Handle, HostPtr, Out, Outcome, Required, fail, guarded, invalid, unsupported,
};
use crate::driver::capture;
use crate::driver::result::CUresult;
use crate::driver::schedule::finish_context;
use crate::driver::state::{
    Driver, Locked, current_handle, entry, pop_current, push_current, set_current,
};
use crate::memory::AllocationKind;
use crate::options::Check;

/// `cuDriverGetVersion`: CUDA 13.0.
pub(super) const VERSION: c_int = 13_000;

/// Reads the environment and makes the device.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuInit(flags: u32) -> CUresult {
    guarded("cuInit", || {
        if flags != 0 {
            return invalid(format!("flags must be 0, not {flags}"));
        }
        Locked::lock_or_init().map(|_| ())
    })
}

/// The CUDA version whose driver this stands in for.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDriverGetVersion(version: Out<'_, c_int>) -> CUresult {
    guarded("cuDriverGetVersion", || {
        version.need("driverVersion")?.write(VERSION);
        Ok(())
    })
}

/// There is one device, number 0.
pub(super) fn check_device(device: c_int) -> Outcome {
    match device {
        0 => Ok(()),
        _ => fail(
            CUresult::INVALID_DEVICE,
            format!("there is no device {device}, only device 0"),
        ),
    }
}

/// A question about the device whose answer is one value.
fn ask<T>(
    name: &'static str,
    out: Out<'_, T>,
    device: c_int,
    answer: impl FnOnce(&mut Driver) -> Outcome<T>,
) -> CUresult {
    entry(name, |driver| {
        let out = out.need("the result")?;
        check_device(device)?;
        out.write(answer(driver)?);
        Ok(())
    })
}

/// The handle of a device by its number.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGet(out: Out<'_, c_int>, ordinal: c_int) -> CUresult {
    ask("cuDeviceGet", out, ordinal, |_| Ok(0))
}

/// The number of devices.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetCount(out: Out<'_, c_int>) -> CUresult {
    ask("cuDeviceGetCount", out, 0, |_| Ok(1))
}

/// The card's name with a mark that it is emulated.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetName(name: HostPtr, length: c_int, device: c_int) -> CUresult {
    entry("cuDeviceGetName", |driver| {
        check_device(device)?;
        let full = format!("{} (emulated)", driver.device.name);
        write_string(name, length, &full)
    })
}

/// Writes a string and its NUL into a buffer of `length` bytes, cut if it is too long.
fn write_string(buffer: HostPtr, length: c_int, text: &str) -> Outcome {
    let Some(room) = usize::try_from(length).ok().filter(|&n| n > 0) else {
        return invalid(format!("a buffer of {length} bytes"));
    };
    let mut bytes = text.as_bytes()[..text.len().min(room - 1)].to_vec();
    bytes.push(0);
    buffer.write(&bytes)
}

/// Bytes that name the imitated card; the same in every process.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetUuid_v2(out: Out<'_, [u8; 16]>, device: c_int) -> CUresult {
    ask("cuDeviceGetUuid", out, device, |driver| {
        let mut uuid = *b"emulated\0\0\0\0\0\0\0\0";
        for (to, from) in uuid[8..].iter_mut().zip(driver.device.key.bytes()) {
            *to = from;
        }
        Ok(uuid)
    })
}

/// Bytes that name the imitated card; the same in every process.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetUuid(out: Out<'_, [u8; 16]>, device: c_int) -> CUresult {
    cuDeviceGetUuid_v2(out, device)
}

/// The place on the bus that the attributes tell.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetPCIBusId(
    id: HostPtr,
    length: c_int,
    device: c_int,
) -> CUresult {
    entry("cuDeviceGetPCIBusId", |_| {
        check_device(device)?;
        write_string(id, length, "0000:01:00.0")
    })
}

/// Bytes of device memory.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceTotalMem_v2(out: Out<'_, usize>, device: c_int) -> CUresult {
    ask("cuDeviceTotalMem", out, device, |driver| {
        Ok(driver.memory.capacity() as usize)
    })
}

/// An attribute of `CUdevice_attribute`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetAttribute(
    out: Out<'_, c_int>,
    attribute: c_int,
    device: c_int,
) -> CUresult {
    ask("cuDeviceGetAttribute", out, device, |driver| {
        match driver.device.attribute(attribute) {
            Some(value) => Ok(value),
            None => invalid(format!("{attribute} is no CUdevice_attribute")),
        }
    })
}

/// Major and minor compute capability.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceComputeCapability(
    major: Out<'_, c_int>,
    minor: Out<'_, c_int>,
    device: c_int,
) -> CUresult {
    entry("cuDeviceComputeCapability", |driver| {
        let (major, minor) = (major.need("major")?, minor.need("minor")?);
        check_device(device)?;
        major.write(driver.device.compute_capability.0 as c_int);
        minor.write(driver.device.compute_capability.1 as c_int);
        Ok(())
    })
}

/// A device has no peer in itself.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceCanAccessPeer(
    out: Out<'_, c_int>,
    device: c_int,
    peer: c_int,
) -> CUresult {
    ask("cuDeviceCanAccessPeer", out, device, |_| {
        check_device(peer).map(|()| 0)
    })
}

/// There is no second device that a link could lead to.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetP2PAttribute(
    out: Out<'_, c_int>,
    _attribute: c_int,
    from: c_int,
    to: c_int,
) -> CUresult {
    ask("cuDeviceGetP2PAttribute", out, from, |_| {
        check_device(to)?;
        fail(CUresult::INVALID_DEVICE, "both devices are the same")
    })
}

/// There is no second device.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxEnablePeerAccess(_context: Handle, _flags: u32) -> CUresult {
    entry("cuCtxEnablePeerAccess", |_| {
        fail(
            CUresult::PEER_ACCESS_UNSUPPORTED,
            "there is only one device",
        )
    })
}

/// Makes the primary context, or takes another hold of it.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxRetain(out: Out<'_, Handle>, device: c_int) -> CUresult {
    ask("cuDevicePrimaryCtxRetain", out, device, |driver| {
        let context = match driver.primary.context {
            Some(context) => context,
            None => {
                let context = driver.new_context(driver.primary.flags, true);
                driver.primary.context = Some(context);
                context
            }
        };
        driver.primary.retained += 1;
        Ok(context)
    })
}

/// Lets a hold of the primary context go; with the last one it is destroyed.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> CUresult {
    entry("cuDevicePrimaryCtxRelease", |driver| {
        check_device(device)?;
        let Some(context) = driver
            .primary
            .context
            .filter(|_| driver.primary.retained > 0)
        else {
            return fail(
                CUresult::INVALID_CONTEXT,
                "the primary context is not retained",
            );
        };
        driver.primary.retained -= 1;
        if driver.primary.retained == 0 {
            driver.primary.context = None;
            destroy(driver, context);
        }
        Ok(())
    })
}

/// The older name of [`cuDevicePrimaryCtxRelease_v2`].
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxRelease(device: c_int) -> CUresult {
    cuDevicePrimaryCtxRelease_v2(device)
}

/// Destroys the primary context whoever holds it.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> CUresult {
    entry("cuDevicePrimaryCtxReset", |driver| {
        check_device(device)?;
        driver.primary.retained = 0;
        if let Some(context) = driver.primary.context.take() {
            destroy(driver, context);
        }
        Ok(())
    })
}

/// Flags that a context may have: scheduling, mapping, local memory and the like.
fn check_flags(flags: u32) -> Outcome {
    match flags & !0xff {
        0 => Ok(()),
        _ => invalid(format!("flags {flags:#x} have bits that are not defined")),
    }
}

/// Flags of the primary context.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: u32) -> CUresult {
    entry("cuDevicePrimaryCtxSetFlags", |driver| {
        check_device(device)?;
        check_flags(flags)?;
        driver.primary.flags = flags;
        Ok(())
    })
}

/// Flags of the primary context, and whether it exists.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int,
    flags: Out<'_, u32>,
    active: Out<'_, c_int>,
) -> CUresult {
    entry("cuDevicePrimaryCtxGetState", |driver| {
        let (flags, active) = (flags.need("flags")?, active.need("active")?);
        check_device(device)?;
        flags.write(driver.primary.flags);
        active.write(c_int::from(driver.primary.context.is_some()));
        Ok(())
    })
}

fn create(out: Out<'_, Handle>, flags: u32, device: c_int) -> CUresult {
    ask("cuCtxCreate", out, device, |driver| {
        check_flags(flags)?;
        let context = driver.new_context(flags, false);
        push_current(context);
        Ok(context)
    })
}

/// A new context, current to the calling thread.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxCreate_v2(
    out: Out<'_, Handle>,
    flags: u32,
    device: c_int,
) -> CUresult {
    create(out, flags, device)
}

/// A new context, current to the calling thread; without execution affinities.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxCreate_v3(
    out: Out<'_, Handle>,
    _affinities: HostPtr,
    count: c_int,
    flags: u32,
    device: c_int,
) -> CUresult {
    match count {
        0 => create(out, flags, device),
        _ => entry("cuCtxCreate", |_| unsupported("execution affinities")),
    }
}

/// A new context, current to the calling thread; without creation parameters.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxCreate_v4(
    out: Out<'_, Handle>,
    params: HostPtr,
    flags: u32,
    device: c_int,
) -> CUresult {
    match params.is_null() {
        true => create(out, flags, device),
        false => entry("cuCtxCreate", |_| {
            unsupported("context creation parameters")
        }),
    }
}

/// Ends a context and everything in it.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxDestroy_v2(context: Handle) -> CUresult {
    entry("cuCtxDestroy", |driver| {
        if driver.context(context)?.primary {
            let message = "this is the primary context: cuDevicePrimaryCtxRelease";
            return fail(CUresult::INVALID_CONTEXT, message);
        }
        if current_handle() == context {
            pop_current();
        }
        destroy(driver, context);
        Ok(())
    })
}

/// Does a context's submitted work, reports what it leaks, and takes everything in it away.
fn destroy(driver: &mut Locked, context: Handle) {
    // A broken context is destroyed all the same.
    let _ = finish_context(driver, context);
    let own = |c: &Handle| *c == context;
    let modules: Vec<_> = driver
        .modules
        .iter()
        .filter(|(_, m)| own(&m.context))
        .map(|(&h, _)| h)
        .collect();
    modules.into_iter().for_each(|m| driver.remove_module(m));
    let left: Vec<_> = driver
        .allocations
        .iter()
        .filter(|(_, a)| own(&a.context))
        .map(|(&at, a)| (at, *a))
        .collect();
    let report = driver.options.check != Check::Off
        && driver
            .contexts
            .get(&context)
            .is_some_and(|c| c.broken.is_none());
    for (address, a) in left {
        if report {
            let what = if a.host.is_some() {
                "pinned host"
            } else {
                "device"
            };
            let message = format!(
                "{} bytes of {what} memory were not freed before the context ended",
                a.bytes
            );
            driver
                .report
                .find(&Finding::of_host(FindingKind::Leak, message, Some(address)));
        }
        driver.allocations.remove(&address);
        // It is live: it was in the table.
        let _ = driver.memory.free(address);
    }
    let driver = &mut **driver;
    driver.pinned.retain(|_, p| p.context != context);
    driver.events.retain(|_, e| e.context != context);
    driver.streams.retain(|_, s| s.context != context);
    driver
        .host_clock
        .forget_all_but(|s| driver.streams.contains_key(s));
    driver.functions.retain(|_, f| f.context != context);
    driver.graphs.retain(|_, g| g.context != context);
    driver
        .nodes
        .retain(|_, (g, _)| driver.graphs.contains_key(g));
    driver.executables.retain(|_, e| e.context != context);
    driver.captures.retain(|_, c| c.context != context);
    driver.contexts.remove(&context);
    debug_assert!(
        !driver.contexts.is_empty()
            || driver
                .memory
                .live()
                .iter()
                .all(|a| a.kind == AllocationKind::Internal)
    );
}

/// Makes a context current to the calling thread; null takes the current one away.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetCurrent(context: Handle) -> CUresult {
    entry("cuCtxSetCurrent", |driver| {
        if context != 0 {
            driver.context(context)?;
        }
        set_current(context);
        Ok(())
    })
}

/// The calling thread's context; null if it has none.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetCurrent(out: Out<'_, Handle>) -> CUresult {
    entry("cuCtxGetCurrent", |_| {
        out.need("pctx")?.write(current_handle());
        Ok(())
    })
}

/// Puts a context on the calling thread's stack.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> CUresult {
    entry("cuCtxPushCurrent", |driver| {
        driver.context(context)?;
        push_current(context);
        Ok(())
    })
}

/// Takes the current context off the calling thread's stack.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxPopCurrent_v2(out: Out<'_, Handle>) -> CUresult {
    entry("cuCtxPopCurrent", |_| match pop_current() {
        Some(context) => {
            // The result is optional.
            out.map(|o| o.write(context));
            Ok(())
        }
        None => fail(
            CUresult::INVALID_CONTEXT,
            "no context is current to the calling thread",
        ),
    })
}

/// The device of the current context.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetDevice(out: Out<'_, c_int>) -> CUresult {
    ask("cuCtxGetDevice", out, 0, |driver| {
        driver.context(current_handle()).map(|_| 0)
    })
}

/// What a program means by a context: null is the calling thread's.
fn or_current(context: Handle) -> Handle {
    match context {
        0 => current_handle(),
        context => context,
    }
}

/// A number for a context that no other gets.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetId(context: Handle, out: Out<'_, u64>) -> CUresult {
    ask("cuCtxGetId", out, 0, |driver| {
        let context = or_current(context);
        driver.context(context).map(|_| context)
    })
}

/// The interface version that a context was made for.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetApiVersion(context: Handle, out: Out<'_, u32>) -> CUresult {
    ask("cuCtxGetApiVersion", out, 0, |driver| {
        driver.context(or_current(context)).map(|_| 3020)
    })
}

/// The current context's flags.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetFlags(out: Out<'_, u32>) -> CUresult {
    ask("cuCtxGetFlags", out, 0, |driver| {
        Ok(driver.context(current_handle())?.flags)
    })
}

/// Sets the current context's flags.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetFlags(flags: u32) -> CUresult {
    entry("cuCtxSetFlags", |driver| {
        check_flags(flags)?;
        driver.context(current_handle())?.flags = flags;
        Ok(())
    })
}

/// Waits for everything submitted in the current context.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSynchronize() -> CUresult {
    entry("cuCtxSynchronize", |driver| {
        let context = driver.current()?;
        capture::refuse_in_context(driver, context)?;
        finish_context(driver, context)
    })
}

/// Limits of `CUlimit` that can be asked for, with their values at first: stack of a thread, printf buffer, heap, L2 fetch, L2 kept.
const LIMITS: [(u32, usize); 5] = [(0, 1024), (1, 1 << 20), (2, 8 << 20), (5, 64), (6, 0)];

/// A limit; those that can be set are kept, though nothing here depends on them.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetLimit(out: Out<'_, usize>, limit: u32) -> CUresult {
    ask("cuCtxGetLimit", out, 0, |driver| {
        let context = driver.current()?;
        let set = driver.context(context)?.limits.get(&limit).copied();
        match set.or_else(|| LIMITS.iter().find(|l| l.0 == limit).map(|l| l.1)) {
            Some(value) => Ok(value),
            None => fail(CUresult::UNSUPPORTED_LIMIT, format!("limit {limit}")),
        }
    })
}

/// Sets a limit; nothing here depends on it.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> CUresult {
    entry("cuCtxSetLimit", |driver| {
        let context = driver.current()?;
        if !LIMITS.iter().any(|l| l.0 == limit) {
            return fail(CUresult::UNSUPPORTED_LIMIT, format!("limit {limit}"));
        }
        driver.context(context)?.limits.insert(limit, value);
        Ok(())
    })
}

/// A preference that nothing depends on.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetCacheConfig(out: Out<'_, u32>) -> CUresult {
    ask("cuCtxGetCacheConfig", out, 0, |driver| {
        let context = driver.current()?;
        Ok(driver.context(context)?.cache_config)
    })
}

/// A preference that nothing depends on.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetCacheConfig(config: u32) -> CUresult {
    entry("cuCtxSetCacheConfig", |driver| {
        let context = driver.current()?;
        match config {
            0..=3 => driver.context(context)?.cache_config = config,
            _ => return invalid(format!("{config} is no CUfunc_cache (0 to 3)")),
        }
        Ok(())
    })
}

/// Lowest and highest priority of a stream.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetStreamPriorityRange(
    least: Out<'_, c_int>,
    greatest: Out<'_, c_int>,
) -> CUresult {
    entry("cuCtxGetStreamPriorityRange", |driver| {
        driver.current()?;
        // Either may be left out.
        least.map(|l| l.write(PRIORITIES.0));
        greatest.map(|g| g.write(PRIORITIES.1));
        Ok(())
    })
}
