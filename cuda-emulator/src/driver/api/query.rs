//! Questions about addresses.

use crate::driver::call::{HostPtr, Out, Outcome, fail, invalid, list_length, unsupported};
use crate::driver::objects::Module;
use crate::driver::result::CUresult;
use crate::driver::state::{Driver, entry};

/// What is known about an address.
#[derive(Debug, Clone, Copy)]
struct Place {
    context: u64,
    /// On the device's side, if kernels can reach it.
    device: Option<u64>,
    /// On the host's side, if the host can.
    host: Option<u64>,
    base: u64,
    bytes: u64,
}

fn place(driver: &Driver, address: u64) -> Option<Place> {
    if let Some((base, p)) = driver.pinned_at(address as usize) {
        let device = p.device.map(|a| a + (address - base as u64));
        let (base, bytes) = (base as u64, p.bytes as u64);
        return Some(Place {
            context: p.context,
            device,
            host: Some(address),
            base,
            bytes,
        });
    }
    let (base, bytes) = driver.memory.allocation_at(address)?;
    let owner = driver.allocations.get(&base);
    let context = match owner {
        Some(a) => a.context,
        None => {
            let holds = |m: &&Module| m.loaded.globals.values().any(|g| g.0 == base);
            driver.modules.values().find(holds).map_or(0, |m| m.context)
        }
    };
    let host = owner
        .and_then(|a| a.host)
        .map(|h| h as u64 + (address - base));
    Some(Place {
        context,
        device: Some(address),
        host,
        base,
        bytes,
    })
}

/// The bytes of an attribute of `CUpointer_attribute`.
fn attribute(place: &Place, attribute: u32) -> Outcome<Vec<u8>> {
    let word = |v: u32| Ok(v.to_le_bytes().to_vec());
    let long = |v: u64| Ok(v.to_le_bytes().to_vec());
    let or_invalid = |v: Option<u64>, side: &str| match v {
        Some(v) => long(v),
        None => invalid(format!("the memory has no {side} address")),
    };
    match attribute {
        1 => long(place.context),
        // 1 host, 2 device.
        2 => word(if place.host.is_some() { 1 } else { 2 }),
        3 => or_invalid(place.device, "device"),
        4 => or_invalid(place.host, "host"),
        6 => word(0),
        // Addresses are not used again while there are fresh ones, so the start tells allocations apart.
        7 => long(place.base),
        8 | 10 => word(0),
        9 => word(0),
        11 => long(place.base),
        12 => long(place.bytes),
        13 => word(1),
        14 => long(0),
        15 => word(0),
        // Read and write.
        16 => word(3),
        5 | 17..=21 => unsupported(format!("pointer attribute {attribute}")),
        _ => invalid(format!("{attribute} is no CUpointer_attribute")),
    }
}

/// An attribute of `CUpointer_attribute` of an address.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuPointerGetAttribute(
    data: HostPtr,
    which: u32,
    address: u64,
) -> CUresult {
    entry("cuPointerGetAttribute", |driver| {
        let Some(p) = place(driver, address) else {
            return invalid(format!("{address:#x} is in no allocation and not pinned"));
        };
        data.write(&attribute(&p, which)?)
    })
}

/// Several attributes; what an address does not have is 0.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuPointerGetAttributes(
    count: u32,
    which: HostPtr,
    data: HostPtr,
    address: u64,
) -> CUresult {
    entry("cuPointerGetAttributes", |driver| {
        let place = place(driver, address);
        for i in 0..list_length(count, "attributes")? {
            let which = which.offset(4 * i).read_u32()?;
            let target = HostPtr(data.offset(8 * i).read_u64()? as usize);
            // The width of an attribute does not depend on the memory.
            let any = Place {
                context: 0,
                device: Some(0),
                host: Some(0),
                base: 0,
                bytes: 0,
            };
            let width = attribute(&any, which)?.len();
            let value = place.and_then(|p| attribute(&p, which).ok());
            let value = value.unwrap_or_else(|| match which {
                // No device.
                9 => (-2i32).to_le_bytes().to_vec(),
                _ => vec![0; width],
            });
            target.write(&value)?;
        }
        Ok(())
    })
}

/// Start and bytes of the allocation that an address is in.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemGetAddressRange_v2(
    base: Out<'_, u64>,
    bytes: Out<'_, usize>,
    address: u64,
) -> CUresult {
    entry("cuMemGetAddressRange", |driver| {
        driver.current()?;
        let Some((start, len)) = driver.memory.allocation_at(address) else {
            return fail(
                CUresult::NOT_FOUND,
                format!("{address:#x} is in no allocation"),
            );
        };
        // Either may be left out.
        base.map(|b| b.write(start));
        bytes.map(|b| b.write(len as usize));
        Ok(())
    })
}

/// Nothing is profiled; accepted so that programs which mark regions run.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuProfilerStart() -> CUresult {
    entry("cuProfilerStart", |driver| driver.current().map(|_| ()))
}

/// Nothing is profiled; accepted so that programs which mark regions run.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuProfilerStop() -> CUresult {
    entry("cuProfilerStop", |driver| driver.current().map(|_| ()))
}

/// What another process exports cannot be imported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuImportExternalMemory(
    _out: Out<'_, u64>,
    _description: HostPtr,
) -> CUresult {
    entry("cuImportExternalMemory", |_| unsupported("external memory"))
}

/// What another process exports cannot be imported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDestroyExternalMemory(_memory: u64) -> CUresult {
    entry("cuDestroyExternalMemory", |_| {
        unsupported("external memory")
    })
}

/// What another process exports cannot be imported.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuExternalMemoryGetMappedBuffer(
    _out: Out<'_, u64>,
    _memory: u64,
    _description: HostPtr,
) -> CUresult {
    entry("cuExternalMemoryGetMappedBuffer", |_| {
        unsupported("external memory")
    })
}

/// Asynchronous tensor copies are not emulated.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuTensorMapEncodeTiled(
    _map: HostPtr,
    _type: u32,
    _rank: u32,
    _address: u64,
    _dims: HostPtr,
    _strides: HostPtr,
    _box: HostPtr,
    _element_strides: HostPtr,
    _interleave: u32,
    _swizzle: u32,
    _promotion: u32,
    _fill: u32,
) -> CUresult {
    entry("cuTensorMapEncodeTiled", |_| unsupported("tensor maps"))
}
