//! Copies and fills.

use crate::driver::call::{Handle, HostPtr, Outcome, Required, invalid, unsupported};
use crate::driver::capture;
use crate::driver::result::CUresult;
use crate::driver::schedule::{self, submit};
use crate::driver::state::{Driver, Locked, entry};
use crate::driver::work::{Copy, Fill, Side, Work};

/// The address in device memory of what a program calls a device pointer: also pinned host memory by its host address.
fn device_address(driver: &Driver, address: u64, bytes: usize) -> Outcome<u64> {
    let address = match driver.pinned_at(address as usize) {
        Some((base, p)) if p.device.is_some() => p.device.unwrap_or(0) + (address - base as u64),
        _ => address,
    };
    match driver.memory.check_range(address, bytes as u64) {
        None => Ok(address),
        Some(e) => invalid(e.message),
    }
}

/// Whether the range is page-locked, so that copies may touch it later.
fn is_pinned(driver: &Driver, pointer: HostPtr, bytes: usize) -> bool {
    driver
        .pinned_at(pointer.0)
        .is_some_and(|(base, p)| bytes <= base + p.bytes - pointer.0)
}

/// Refuses what is no memory of the program's: null, and what was pinned memory or lies beyond it.
fn check_host(driver: &Driver, pointer: HostPtr, bytes: usize) -> Outcome {
    if pointer.is_null() {
        return invalid("the host pointer is null");
    }
    if driver.memory.overlaps_arena(pointer.0, bytes) && !is_pinned(driver, pointer, bytes) {
        return invalid(format!(
            "{bytes} bytes at {:#x} are not inside one live allocation of pinned memory",
            pointer.0
        ));
    }
    Ok(())
}

/// Whether it is host memory by its device address.
fn is_host(driver: &Driver, address: u64) -> bool {
    let allocation = driver.memory.allocation_at(address);
    allocation.is_some_and(|(base, _)| {
        driver
            .allocations
            .get(&base)
            .is_some_and(|a| a.host.is_some())
    })
}

/// What a copy waits for before the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    /// The whole copy, unless it is from device to device.
    Synchronous,
    /// Pageable memory is read, or written, before the call returns, and a copy from host to host is done; everything else is later.
    Asynchronous,
}

impl Return {
    /// Refuses a synchronous function in a stream that is captured, as the calling thread's default stream may be.
    fn check_capture(self, driver: &mut Driver, stream: Handle) -> Outcome {
        match self {
            Self::Synchronous => {
                capture::refuse_on(driver, stream, "copies or fills synchronously in")
            }
            Self::Asynchronous => Ok(()),
        }
    }
}

fn copy(driver: &mut Locked, stream: Handle, mut copy: Copy, until: Return) -> Outcome {
    if copy.width == 0 || copy.height == 0 {
        return driver.stream(stream).map(|_| ());
    }
    let stream = driver.stream(stream)?;
    until.check_capture(driver, stream)?;
    for (pitch, name) in [(copy.to_pitch, "destination"), (copy.from_pitch, "source")] {
        if copy.height > 1 && pitch < copy.width {
            return invalid(format!(
                "rows of {} bytes, the {name}'s pitch is {pitch}",
                copy.width
            ));
        }
    }
    let extents = copy.extent(copy.to_pitch).zip(copy.extent(copy.from_pitch));
    let (to_bytes, from_bytes) = extents.need("the size, which overflows,")?;
    let capturing = capture::is_capturing(driver, stream);
    let (mut into_host, mut from_host, mut into_pageable) = (true, true, false);
    if let Side::Device(address) = copy.from {
        let address = device_address(driver, address, from_bytes)?;
        from_host = is_host(driver, address);
        copy.from = Side::Device(address);
    }
    match copy.to {
        Side::Device(address) => {
            let address = device_address(driver, address, to_bytes)?;
            into_host = is_host(driver, address);
            copy.to = Side::Device(address);
        }
        Side::Host(pointer) => {
            check_host(driver, pointer, to_bytes)?;
            into_pageable = !is_pinned(driver, pointer, to_bytes);
        }
        Side::Staged(_) => {}
    }
    // What the documentation calls synchronous goes by the memory, not by the function's name.
    let wait = match until {
        Return::Synchronous => into_host || from_host,
        Return::Asynchronous => (into_pageable || into_host && from_host) && !capturing,
    };
    if wait && until == Return::Synchronous {
        capture::refuse_unsafe(driver)?;
    }
    if let Side::Host(pointer) = copy.from {
        check_host(driver, pointer, from_bytes)?;
        if !capturing && !is_pinned(driver, pointer, from_bytes) {
            copy.stage(pointer)?;
        }
    }
    submit(driver, stream, Work::Copy(copy))?;
    if wait {
        let position = driver.streams.get(&stream).map_or(0, |s| s.submitted);
        schedule::finish(driver, stream, position)?;
    }
    Ok(())
}

fn linear(
    name: &'static str,
    stream: Handle,
    to: Side,
    from: Side,
    bytes: usize,
    until: Return,
) -> CUresult {
    entry(name, |driver| {
        copy(driver, stream, Copy::linear(to, from, bytes), until)
    })
}

/// Host to device, done on return.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyHtoD_v2(to: u64, from: HostPtr, bytes: usize) -> CUresult {
    linear(
        "cuMemcpyHtoD",
        0,
        Side::Device(to),
        Side::Host(from),
        bytes,
        Return::Synchronous,
    )
}

/// Device to host, done on return.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoH_v2(to: HostPtr, from: u64, bytes: usize) -> CUresult {
    linear(
        "cuMemcpyDtoH",
        0,
        Side::Host(to),
        Side::Device(from),
        bytes,
        Return::Synchronous,
    )
}

/// By device addresses, in stream 0; the host waits only where one of them is pinned memory's.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> CUresult {
    linear(
        "cuMemcpyDtoD",
        0,
        Side::Device(to),
        Side::Device(from),
        bytes,
        Return::Synchronous,
    )
}

/// Host to device.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: HostPtr,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    let (to, from) = (Side::Device(to), Side::Host(from));
    linear(
        "cuMemcpyHtoDAsync",
        stream,
        to,
        from,
        bytes,
        Return::Asynchronous,
    )
}

/// Device to host; into pageable memory it is done on return.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoHAsync_v2(
    to: HostPtr,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    let (to, from) = (Side::Host(to), Side::Device(from));
    linear(
        "cuMemcpyDtoHAsync",
        stream,
        to,
        from,
        bytes,
        Return::Asynchronous,
    )
}

/// Device to device.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    let (to, from) = (Side::Device(to), Side::Device(from));
    linear(
        "cuMemcpyDtoDAsync",
        stream,
        to,
        from,
        bytes,
        Return::Asynchronous,
    )
}

/// Host or device by the address.
fn either(driver: &Driver, address: u64) -> Side {
    match driver.memory.allocation_at(address) {
        Some(_) => Side::Device(address),
        None if address >= crate::memory::GLOBAL_BASE
            && address >> 40 == crate::memory::GLOBAL_BASE >> 40 =>
        {
            // In the device's window, though in no allocation: the range check says so.
            Side::Device(address)
        }
        None => Side::Host(HostPtr(address as usize)),
    }
}

/// Either way, by the addresses; done on return unless both are on the device.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> CUresult {
    entry("cuMemcpy", |driver| {
        let (to, from) = (either(driver, to), either(driver, from));
        copy(
            driver,
            0,
            Copy::linear(to, from, bytes),
            Return::Synchronous,
        )
    })
}

/// Either way, by the addresses.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyAsync(
    to: u64,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    entry("cuMemcpyAsync", |driver| {
        let (to, from) = (either(driver, to), either(driver, from));
        copy(
            driver,
            stream,
            Copy::linear(to, from, bytes),
            Return::Asynchronous,
        )
    })
}

/// Between contexts, which share the one device here.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    entry("cuMemcpyPeerAsync", |driver| {
        driver.check_context(to_context)?;
        driver.check_context(from_context)?;
        let linear = Copy::linear(Side::Device(to), Side::Device(from), bytes);
        copy(driver, stream, linear, Return::Asynchronous)
    })
}

/// One side of a [`Rectangle`].
#[repr(C)]
#[derive(Debug)]
pub(super) struct RectangleSide {
    x_bytes: usize,
    y: usize,
    /// 1 host, 2 device, 3 array, 4 by the address.
    memory_type: u32,
    host: HostPtr,
    device: u64,
    array: Handle,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Rectangle {
    from: RectangleSide,
    to: RectangleSide,
    width_bytes: usize,
    height: usize,
}

fn copy_rectangle(
    driver: &mut Locked,
    rectangle: &Rectangle,
    stream: Handle,
    until: Return,
) -> Outcome {
    let side = |s: &RectangleSide| {
        let base = match s.memory_type {
            1 => Side::Host(s.host),
            2 => Side::Device(s.device),
            4 => either(driver, s.device),
            3 => return unsupported("CUDA arrays"),
            other => return invalid(format!("{other} is no CUmemorytype (1 to 4)")),
        };
        let offset =
            s.y.checked_mul(s.pitch)
                .and_then(|y| y.checked_add(s.x_bytes));
        Ok(base.offset(offset.need("an offset, which overflows,")?))
    };
    let (to, from) = (side(&rectangle.to)?, side(&rectangle.from)?);
    // A pitch of 0 means rows without gaps.
    let pitch = |p: usize| if p == 0 { rectangle.width_bytes } else { p };
    let (to_pitch, from_pitch) = (pitch(rectangle.to.pitch), pitch(rectangle.from.pitch));
    let (width, height) = (rectangle.width_bytes, rectangle.height);
    copy(
        driver,
        stream,
        Copy {
            to,
            from,
            width,
            height,
            to_pitch,
            from_pitch,
        },
        until,
    )
}

/// A rectangle, done on return.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy2D_v2(rectangle: Option<&Rectangle>) -> CUresult {
    entry("cuMemcpy2D", |driver| {
        copy_rectangle(driver, rectangle.need("pCopy")?, 0, Return::Synchronous)
    })
}

/// A rectangle, done on return.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy2DUnaligned_v2(rectangle: Option<&Rectangle>) -> CUresult {
    cuMemcpy2D_v2(rectangle)
}

/// A rectangle.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy2DAsync_v2(
    rectangle: Option<&Rectangle>,
    stream: Handle,
) -> CUresult {
    entry("cuMemcpy2DAsync", |driver| {
        copy_rectangle(
            driver,
            rectangle.need("pCopy")?,
            stream,
            Return::Asynchronous,
        )
    })
}

fn fill(
    name: &'static str,
    stream: Handle,
    address: u64,
    pattern: &[u8],
    rows: [usize; 3],
    until: Return,
) -> CUresult {
    entry(name, |driver| {
        let stream = driver.stream(stream)?;
        until.check_capture(driver, stream)?;
        let [width, height, pitch] = rows;
        let size = pattern.len();
        if !address.is_multiple_of(size as u64) || (height > 1 && !pitch.is_multiple_of(size)) {
            return invalid(format!(
                "address {address:#x} or pitch {pitch} is no multiple of {size}"
            ));
        }
        if width == 0 || height == 0 {
            return Ok(());
        }
        let row = width.checked_mul(size).need("the size, which overflows,")?;
        if height > 1 && pitch < row {
            return invalid(format!("rows of {row} bytes, the pitch is {pitch}"));
        }
        let extent = (height - 1)
            .checked_mul(pitch)
            .and_then(|e| e.checked_add(row));
        let address = device_address(driver, address, extent.need("the size, which overflows,")?)?;
        let wait = until == Return::Synchronous && is_host(driver, address);
        if wait {
            capture::refuse_unsafe(driver)?;
        }
        let pattern = pattern.to_vec();
        submit(
            driver,
            stream,
            Work::Fill(Fill {
                address,
                pattern,
                width,
                height,
                pitch,
            }),
        )?;
        if wait {
            let position = driver.streams.get(&stream).map_or(0, |s| s.submitted);
            schedule::finish(driver, stream, position)?;
        }
        Ok(())
    })
}

/// Fills bytes, in stream 0; the host waits where it is pinned memory.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD8_v2(address: u64, value: u8, count: usize) -> CUresult {
    fill(
        "cuMemsetD8",
        0,
        address,
        &[value],
        [count, 1, 0],
        Return::Synchronous,
    )
}

/// Fills 16-bit values, in stream 0; the host waits where it is pinned memory.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD16_v2(address: u64, value: u16, count: usize) -> CUresult {
    fill(
        "cuMemsetD16",
        0,
        address,
        &value.to_le_bytes(),
        [count, 1, 0],
        Return::Synchronous,
    )
}

/// Fills 32-bit values, in stream 0; the host waits where it is pinned memory.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD32_v2(address: u64, value: u32, count: usize) -> CUresult {
    fill(
        "cuMemsetD32",
        0,
        address,
        &value.to_le_bytes(),
        [count, 1, 0],
        Return::Synchronous,
    )
}

/// Fills bytes.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD8Async(
    address: u64,
    value: u8,
    count: usize,
    stream: Handle,
) -> CUresult {
    fill(
        "cuMemsetD8Async",
        stream,
        address,
        &[value],
        [count, 1, 0],
        Return::Asynchronous,
    )
}

/// Fills 16-bit values.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD16Async(
    address: u64,
    value: u16,
    count: usize,
    stream: Handle,
) -> CUresult {
    fill(
        "cuMemsetD16Async",
        stream,
        address,
        &value.to_le_bytes(),
        [count, 1, 0],
        Return::Asynchronous,
    )
}

/// Fills 32-bit values.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD32Async(
    address: u64,
    value: u32,
    count: usize,
    stream: Handle,
) -> CUresult {
    fill(
        "cuMemsetD32Async",
        stream,
        address,
        &value.to_le_bytes(),
        [count, 1, 0],
        Return::Asynchronous,
    )
}

/// Fills rows of 32-bit values.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD2D32_v2(
    address: u64,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
) -> CUresult {
    fill(
        "cuMemsetD2D32",
        0,
        address,
        &value.to_le_bytes(),
        [width, height, pitch],
        Return::Synchronous,
    )
}

/// Fills rows of bytes.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD2D8_v2(
    address: u64,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
) -> CUresult {
    fill(
        "cuMemsetD2D8",
        0,
        address,
        &[value],
        [width, height, pitch],
        Return::Synchronous,
    )
}
