//! Device memory and page-locked host memory.

use crate::driver::call::{Handle, HostPtr, Out, Outcome, Required, fail, invalid, unsupported};
use crate::driver::capture;
use crate::driver::objects::{Allocation, Pinned, find};
use crate::driver::result::CUresult;
use crate::driver::schedule::{finish_context, submit};
use crate::driver::state::{Driver, Locked, entry};
use crate::driver::work::Work;

/// Flags of `cuMemHostAlloc` and `cuMemHostRegister` that are defined.
const HOST_FLAGS: u32 = 0xf;

/// Alignment of device memory on cards, which programs rely on: small allocations, and those from [`LARGE`] bytes on.
const ALIGNMENT: u64 = 512;
const LARGE: u64 = 2 << 20;

/// Allocates, doing submitted work (which may free) when nothing is left.
fn allocate(driver: &mut Locked, context: Handle, bytes: usize) -> Outcome<u64> {
    if bytes == 0 {
        return invalid("0 bytes");
    }
    let align = if bytes as u64 >= LARGE {
        LARGE
    } else {
        ALIGNMENT
    };
    let mut address = driver.memory.allocate(bytes as u64, align);
    if address.is_none() {
        let contexts: Vec<_> = driver.contexts.keys().copied().collect();
        for c in contexts {
            // What is broken elsewhere is not this call's to tell.
            let _ = finish_context(driver, c);
        }
        address = driver.memory.allocate(bytes as u64, align);
    }
    let Some(address) = address else {
        let (used, all) = (driver.memory.used(), driver.memory.capacity());
        let message = format!("{bytes} bytes, {used} of {all} are in use");
        return fail(CUresult::OUT_OF_MEMORY, message);
    };
    let new = Allocation {
        context,
        bytes: bytes as u64,
        host: None,
        freed: false,
        pool: None,
    };
    driver.allocations.insert(address, new);
    Ok(address)
}

/// The program's live allocation that starts at `address`.
fn allocation(driver: &mut Driver, address: u64) -> Outcome<&mut Allocation> {
    match driver.allocations.get_mut(&address) {
        Some(a) if a.freed => invalid(format!("{address:#x} was freed before")),
        Some(a) => Ok(a),
        None => {
            let inside = driver.memory.allocation_at(address);
            let hint = inside.map_or(String::new(), |(b, n)| {
                format!(", but inside the {n} bytes at {b:#x}")
            });
            invalid(format!(
                "{address:#x} is not the start of a live allocation{hint}"
            ))
        }
    }
}

/// Allocates device memory.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAlloc_v2(out: Out<'_, u64>, bytes: usize) -> CUresult {
    entry("cuMemAlloc", |driver| {
        let out = out.need("dptr")?;
        let context = driver.current()?;
        capture::refuse_unsafe(driver)?;
        out.write(allocate(driver, context, bytes)?);
        Ok(())
    })
}

/// Allocates rows with a pitch that is a multiple of 512 bytes.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocPitch_v2(
    out: Out<'_, u64>,
    pitch: Out<'_, usize>,
    width: usize,
    height: usize,
    element: u32,
) -> CUresult {
    entry("cuMemAllocPitch", |driver| {
        let (out, pitch) = (out.need("dptr")?, pitch.need("pPitch")?);
        if ![4, 8, 16].contains(&element) {
            return invalid(format!("elements of {element} bytes, expected 4, 8 or 16"));
        }
        let context = driver.current()?;
        capture::refuse_unsafe(driver)?;
        let row = width.checked_next_multiple_of(512);
        let bytes = row
            .and_then(|r| r.checked_mul(height))
            .need("the size, which overflows,")?;
        out.write(allocate(driver, context, bytes)?);
        pitch.write(row.unwrap_or(0));
        Ok(())
    })
}

/// Frees device memory; submitted work is done first.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    entry("cuMemFree", |driver| {
        let context = driver.current()?;
        capture::refuse_unsafe(driver)?;
        let a = allocation(driver, address)?;
        if a.host.is_some() {
            return invalid("pinned host memory is freed by cuMemFreeHost");
        }
        let owner = a.context;
        finish_both(driver, context, owner)?;
        driver.release(address)
    })
}

/// Does what is submitted in the calling thread's context and in the one that owns memory which is about to go.
fn finish_both(driver: &mut Locked, context: Handle, owner: Handle) -> Outcome {
    finish_context(driver, context)?;
    if owner != context {
        finish_context(driver, owner)?;
    }
    Ok(())
}

/// Allocates in a stream's order: other streams must wait before they use it.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocAsync(
    out: Out<'_, u64>,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    entry("cuMemAllocAsync", |driver| {
        let out = out.need("dptr")?;
        let address = allocate_in(driver, bytes, stream)?;
        out.write(address);
        Ok(())
    })
}

fn allocate_in(driver: &mut Locked, bytes: usize, stream: Handle) -> Outcome<u64> {
    let stream = driver.stream(stream)?;
    capture::check_legacy(driver, stream)?;
    if capture::is_capturing(driver, stream) {
        capture::refuse_on(driver, stream, "allocates in (allocate before the capture)")?;
    }
    let context = driver.streams.get(&stream).map_or(0, |s| s.context);
    allocate(driver, context, bytes)
}

/// Allocates from a pool in a stream's order.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocFromPoolAsync(
    out: Out<'_, u64>,
    bytes: usize,
    pool: Handle,
    stream: Handle,
) -> CUresult {
    entry("cuMemAllocFromPoolAsync", |driver| {
        let out = out.need("dptr")?;
        find(&mut driver.pools, pool, "memory pool")?;
        let address = allocate_in(driver, bytes, stream)?;
        if let Some(a) = driver.allocations.get_mut(&address) {
            a.pool = Some(pool);
        }
        out.write(address);
        Ok(())
    })
}

/// Frees in a stream's order.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> CUresult {
    entry("cuMemFreeAsync", |driver| {
        let stream = driver.stream(stream)?;
        if capture::is_capturing(driver, stream) {
            capture::refuse_on(driver, stream, "frees in (free after the capture)")?;
        }
        capture::check_legacy(driver, stream)?;
        let a = allocation(driver, address)?;
        if a.host.is_some() {
            return invalid("pinned host memory is freed by cuMemFreeHost");
        }
        a.freed = true;
        submit(driver, stream, Work::Free(address))
    })
}

/// Free and all bytes of the device.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemGetInfo_v2(free: Out<'_, usize>, total: Out<'_, usize>) -> CUresult {
    entry("cuMemGetInfo", |driver| {
        let (free, total) = (free.need("free")?, total.need("total")?);
        driver.current()?;
        let all = driver.memory.capacity();
        let host = driver
            .allocations
            .values()
            .filter(|a| a.host.is_some())
            .map(|a| a.bytes)
            .sum::<u64>();
        free.write((all + host).saturating_sub(driver.memory.used()).min(all) as usize);
        total.write(all as usize);
        Ok(())
    })
}

fn host_alloc(out: Out<'_, u64>, bytes: usize, flags: u32) -> CUresult {
    entry("cuMemHostAlloc", |driver| {
        let out = out.need("pp")?;
        if flags & !HOST_FLAGS != 0 {
            return invalid(format!("flags {flags:#x} have bits that are not defined"));
        }
        let context = driver.current()?;
        capture::refuse_unsafe(driver)?;
        let address = allocate(driver, context, bytes)?;
        driver.memory.share_with_host(address);
        let host = driver.memory.host(address) as usize;
        if let Some(a) = driver.allocations.get_mut(&address) {
            a.host = Some(host);
        }
        driver.pinned.insert(
            host,
            Pinned {
                bytes,
                flags,
                context,
                device: Some(address),
            },
        );
        out.write(host as u64);
        Ok(())
    })
}

/// Page-locked host memory, which kernels reach by the address of [`cuMemHostGetDevicePointer_v2`].
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostAlloc(out: Out<'_, u64>, bytes: usize, flags: u32) -> CUresult {
    host_alloc(out, bytes, flags)
}

/// As [`cuMemHostAlloc`] without flags.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocHost_v2(out: Out<'_, u64>, bytes: usize) -> CUresult {
    host_alloc(out, bytes, 0)
}

/// Frees page-locked host memory; submitted work is done first.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFreeHost(pointer: HostPtr) -> CUresult {
    entry("cuMemFreeHost", |driver| {
        let context = driver.current()?;
        capture::refuse_unsafe(driver)?;
        let Some(Pinned {
            device: Some(address),
            context: owner,
            ..
        }) = driver.pinned.get(&pointer.0).copied()
        else {
            return invalid(format!(
                "{:#x} is not the start of pinned memory",
                pointer.0
            ));
        };
        finish_both(driver, context, owner)?;
        driver.pinned.remove(&pointer.0);
        driver.release(address)
    })
}

/// Page-locks host memory of the program's: copies from and to it become asynchronous.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostRegister_v2(
    pointer: HostPtr,
    bytes: usize,
    flags: u32,
) -> CUresult {
    entry("cuMemHostRegister", |driver| {
        let context = driver.current()?;
        capture::refuse_unsafe(driver)?;
        if flags & !HOST_FLAGS != 0 || pointer.is_null() || bytes == 0 {
            return invalid(format!(
                "pointer {:#x}, {bytes} bytes, flags {flags:#x}",
                pointer.0
            ));
        }
        let end = pointer
            .0
            .checked_add(bytes)
            .need("the size, which overflows,")?;
        // What is not mapped cannot be page-locked.
        for byte in [pointer, HostPtr(end - 1)] {
            byte.read(&mut [0])?;
        }
        let before = driver.pinned.range(..end).next_back();
        if before.is_some_and(|(base, p)| base + p.bytes > pointer.0) {
            return fail(
                CUresult::HOST_MEMORY_ALREADY_REGISTERED,
                "part of the range is pinned",
            );
        }
        if driver.memory.overlaps_arena(pointer.0, bytes) {
            return invalid(format!("{:#x} was pinned memory and is freed", pointer.0));
        }
        driver.pinned.insert(
            pointer.0,
            Pinned {
                bytes,
                flags,
                context,
                device: None,
            },
        );
        Ok(())
    })
}

/// Ends what [`cuMemHostRegister_v2`] began; submitted work is done first.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostUnregister(pointer: HostPtr) -> CUresult {
    entry("cuMemHostUnregister", |driver| {
        let context = driver.current()?;
        capture::refuse_unsafe(driver)?;
        let pinned = driver.pinned.get(&pointer.0);
        let Some(owner) = pinned.filter(|p| p.device.is_none()).map(|p| p.context) else {
            let message = format!("{:#x} is not the start of registered memory", pointer.0);
            return fail(CUresult::HOST_MEMORY_NOT_REGISTERED, message);
        };
        finish_both(driver, context, owner)?;
        driver.pinned.remove(&pointer.0);
        Ok(())
    })
}

/// The address by which kernels reach pinned memory.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostGetDevicePointer_v2(
    out: Out<'_, u64>,
    pointer: HostPtr,
    flags: u32,
) -> CUresult {
    entry("cuMemHostGetDevicePointer", |driver| {
        let out = out.need("pdptr")?;
        driver.current()?;
        if flags != 0 {
            return invalid(format!("flags must be 0, not {flags}"));
        }
        match driver.pinned_at(pointer.0) {
            Some((
                base,
                Pinned {
                    device: Some(address),
                    ..
                },
            )) => {
                out.write(address + (pointer.0 - base) as u64);
                Ok(())
            }
            Some(_) => {
                unsupported("kernels cannot reach registered host memory: use cuMemHostAlloc")
            }
            None => invalid(format!("{:#x} is not pinned memory", pointer.0)),
        }
    })
}

/// The flags pinned memory was allocated with.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostGetFlags(out: Out<'_, u32>, pointer: HostPtr) -> CUresult {
    entry("cuMemHostGetFlags", |driver| {
        let out = out.need("pFlags")?;
        match driver.pinned_at(pointer.0) {
            Some((
                _,
                Pinned {
                    flags,
                    device: Some(_),
                    ..
                },
            )) => {
                out.write(flags);
                Ok(())
            }
            _ => invalid(format!("{:#x} was not given by cuMemHostAlloc", pointer.0)),
        }
    })
}

/// Memory that host and device share by one address is not supported (attribute 83 says so).
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocManaged(
    _out: Out<'_, u64>,
    _bytes: usize,
    _flags: u32,
) -> CUresult {
    entry("cuMemAllocManaged", |_| unsupported("managed memory"))
}

/// Managed memory is not supported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAdvise_v2(
    _address: u64,
    _bytes: usize,
    _advice: u32,
    _location: u64,
) -> CUresult {
    entry("cuMemAdvise", |_| unsupported("managed memory"))
}

/// Managed memory is not supported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPrefetchAsync_v2(
    _address: u64,
    _bytes: usize,
    _location: u64,
    _flags: u32,
    _stream: Handle,
) -> CUresult {
    entry("cuMemPrefetchAsync", |_| unsupported("managed memory"))
}

/// Managed memory is not supported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAdvise(
    _address: u64,
    _bytes: usize,
    _advice: u32,
    _device: i32,
) -> CUresult {
    entry("cuMemAdvise", |_| unsupported("managed memory"))
}

/// Managed memory is not supported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPrefetchAsync(
    _address: u64,
    _bytes: usize,
    _device: i32,
    _stream: Handle,
) -> CUresult {
    entry("cuMemPrefetchAsync", |_| unsupported("managed memory"))
}
