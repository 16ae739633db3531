//! The device and its driver; how fast memory is copied.

use std::ffi::{CString, c_void};
use std::process::Command;
use std::sync::Arc;

use millet::cudarc::driver::sys::CUdevice_attribute_enum::{
    CU_DEVICE_ATTRIBUTE_CLOCK_RATE, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
    CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
};
use millet::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use millet::cudarc::driver::{CudaContext, CudaStream, result, sys};
use serde_json::json;

use crate::record::{quartiles, record};
use crate::{Result, is_emulated};

/// One line: whose driver it is, and the device.
pub(crate) fn driver() -> Result<String> {
    let context = CudaContext::new(0)?;
    let (name, (major, minor)) = (context.name()?, context.compute_capability()?);
    if is_emulated() {
        return Ok(format!(
            "emulated, as {name} (sm_{major}{minor}): nothing here is evidence of a GPU"
        ));
    }
    Ok(format!(
        "{name} (sm_{major}{minor}), CUDA driver {}",
        driver_version()?
    ))
}

/// Of the driver's interface, as in 13.0.
fn driver_version() -> Result<String> {
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

pub(crate) fn device() -> Result<()> {
    let context = CudaContext::new(0)?;
    let attribute = |which| context.attribute(which);
    let (free, total) = result::mem_get_info()?;
    let (major, minor) = context.compute_capability()?;
    let object = json!({
        "kind": "device",
        "emulated": is_emulated(),
        "device": context.name()?,
        "compute_capability": format!("{major}.{minor}"),
        "multiprocessors": attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        "l2_bytes": attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        "memory_bytes": total,
        "free_bytes": free,
        "clock_kHz": attribute(CU_DEVICE_ATTRIBUTE_CLOCK_RATE).ok(),
        "memory_clock_kHz": attribute(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE).ok(),
        "cuda": driver_version()?,
        "smi": smi(),
    });
    println!("{object:#}");
    record(&object)?;
    copies(&context, free)
}

/// What `nvidia-smi` says of the first device, where there is one.
fn smi() -> Option<serde_json::Value> {
    const WHAT: &str = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu,\
                        persistence_mode,ecc.mode.current,mig.mode.current,clocks_event_reasons.active";
    if is_emulated() {
        return None;
    }
    let output = Command::new("nvidia-smi")
        .args([
            &format!("--query-gpu={WHAT}"),
            "--format=csv,noheader",
            "--id=0",
        ])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let values = text.trim().split(", ").map(|value| json!(value));
    Some(WHAT.split(',').map(String::from).zip(values).collect())
}

/// Copies as many 16-byte words as there are, one after the other by each thread.
const COPY: &str = r"
.version 7.0
.target sm_80
.address_size 64
.visible .entry copy(.param .u64 to, .param .u64 from, .param .u64 words)
{
    .reg .pred %p;
    .reg .b32 %thread, %block, %threads, %blocks, %v<4>;
    .reg .b64 %to, %from, %words, %i, %step, %at, %wide;
    ld.param.u64 %to, [to];
    ld.param.u64 %from, [from];
    ld.param.u64 %words, [words];
    cvta.to.global.u64 %to, %to;
    cvta.to.global.u64 %from, %from;
    mov.u32 %thread, %tid.x;
    mov.u32 %block, %ctaid.x;
    mov.u32 %threads, %ntid.x;
    mov.u32 %blocks, %nctaid.x;
    mul.wide.u32 %step, %threads, %blocks;
    mul.wide.u32 %i, %block, %threads;
    cvt.u64.u32 %wide, %thread;
    add.u64 %i, %i, %wide;
loop:
    setp.ge.u64 %p, %i, %words;
    @%p bra done;
    shl.b64 %at, %i, 4;
    add.u64 %wide, %from, %at;
    ld.global.v4.b32 {%v0, %v1, %v2, %v3}, [%wide];
    add.u64 %wide, %to, %at;
    st.global.v4.b32 [%wide], {%v0, %v1, %v2, %v3};
    add.u64 %i, %i, %step;
    bra loop;
done:
    ret;
}
";

/// A module of PTX text, for as long as the process lives.
pub(crate) fn function(text: &str, name: &str) -> Result<sys::CUfunction> {
    let (text, name) = (CString::new(text)?, CString::new(name)?);
    // SAFETY: the text ends with a zero, and a context is current; a module that is not unloaded keeps its functions.
    let module = unsafe { result::module::load_data(text.as_ptr().cast()) }?;
    // SAFETY: the module is loaded.
    Ok(unsafe { result::module::get_function(module, name) }?)
}

/// Launches with one dimension of blocks and threads.
///
/// # Safety
/// The parameters are what the function takes, and what they point to on the device may be used by it.
pub(crate) unsafe fn launch(
    stream: &CudaStream,
    function: sys::CUfunction,
    blocks: u32,
    threads: u32,
    parameters: &mut [*mut c_void],
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe {
        result::launch_kernel(
            function,
            (blocks, 1, 1),
            (threads, 1, 1),
            0,
            stream.cu_stream(),
            parameters,
        )
    }?;
    Ok(())
}

/// Times of copies by the driver and by a kernel, which reads and writes as ours do.
fn copies(context: &Arc<CudaContext>, free: usize) -> Result<()> {
    // 4 GiB are far more than any cache; a card in use may have less.
    let bytes = if is_emulated() {
        1 << 20
    } else {
        (free / 4).min(4 << 30) & !15
    };
    let stream = context.new_stream()?;
    let from = stream.alloc_zeros::<u8>(bytes)?;
    let to = stream.alloc_zeros::<u8>(bytes)?;
    let copy = function(COPY, "copy")?;
    let multiprocessors = context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
    let address = |slice: &millet::cudarc::driver::CudaSlice<u8>| {
        use millet::cudarc::driver::DevicePtr;
        slice.device_ptr(&stream).0
    };
    let (mut from, mut to, mut words) = (address(&from), address(&to), bytes as u64 / 16);
    // Random bits, by doubling: zeros may cost less power.
    let noise: Vec<u8> = (0..4096u64)
        .flat_map(|i| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    // SAFETY: both buffers are of `bytes`, a multiple of 16 and at least 1 MiB; everything is in one stream.
    unsafe {
        result::memcpy_htod_async(from, &noise, stream.cu_stream())?;
        let mut done = noise.len();
        while done < bytes {
            let more = done.min(bytes - done);
            result::memcpy_dtod_async(from + done as u64, from, more, stream.cu_stream())?;
            done += more;
        }
    }
    stream.synchronize()?;
    for method in ["driver", "kernel"] {
        let mut once = || -> Result<()> {
            // SAFETY: as above; the kernel takes two addresses and a number of words.
            unsafe {
                if method == "driver" {
                    result::memcpy_dtod_async(to, from, bytes, stream.cu_stream())?;
                    return Ok(());
                }
                let mut parameters = [
                    (&raw mut to).cast(),
                    (&raw mut from).cast(),
                    (&raw mut words).cast(),
                ];
                launch(&stream, copy, 16 * multiprocessors, 256, &mut parameters)
            }
        };
        for _ in 0..3 {
            once()?;
        }
        let mut samples = Vec::new();
        for _ in 0..if is_emulated() { 1 } else { 11 } {
            let start = stream.record_event(Some(CU_EVENT_DEFAULT))?;
            for _ in 0..3 {
                once()?;
            }
            let end = stream.record_event(Some(CU_EVENT_DEFAULT))?;
            samples.push(f64::from(start.elapsed_ms(&end)?) / 3e3);
        }
        // The first and the last bytes have arrived.
        for offset in [0, bytes - 64] {
            let (mut sent, mut got) = ([0u8; 64], [0u8; 64]);
            // SAFETY: both lie within the buffers, and `samples` waited for the copies.
            unsafe {
                result::memcpy_dtoh_sync(&mut sent, from + offset as u64)?;
                result::memcpy_dtoh_sync(&mut got, to + offset as u64)?;
            }
            if sent != got {
                return Err(format!("the copy by the {method} is wrong at byte {offset}").into());
            }
        }
        if is_emulated() {
            println!("copy by the {method}: right; an emulator has no times");
            continue;
        }
        let [low, median, high] = quartiles(&mut samples).ok_or("no samples")?;
        let rate = 2.0 * bytes as f64 / median;
        println!(
            "copy by the {method}: {:.2} TB/s read and written",
            rate / 1e12
        );
        record(&json!({
            "kind": "bandwidth",
            "method": method,
            "bytes": 2 * bytes,
            "seconds": {"median": median, "low": low, "high": high},
            "samples": samples.len(),
            "bytes_per_second": rate,
        }))?;
    }
    Ok(())
}
