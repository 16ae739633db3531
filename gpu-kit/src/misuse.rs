//! Wrong calls of the driver, and what it answers: the emulator's codes against a card's. None uses a handle that is no longer one, which
//! a driver may follow. Those that break the context are processes of their own.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use millet::cudarc::driver::sys::{self, CUresult};
use millet::cudarc::driver::{CudaContext, CudaStream};
use serde_json::json;

use crate::Result;
use crate::device::{function, launch};
use crate::record::record;

/// What the emulator answered, in the kit: name and code of each call.
pub(crate) const FILE: &str = "misuse.txt";

/// Kernels that do nothing, and the faults that a launch may have.
const KERNELS: &str = r"
.version 7.0
.target sm_80
.address_size 64
.visible .entry nothing()
{
    ret;
}
.visible .entry trap()
{
    trap;
    ret;
}
.visible .entry store(.param .u64 address)
{
    .reg .b64 %to;
    .reg .b32 %value;
    ld.param.u64 %to, [address];
    mov.b32 %value, 7;
    st.global.b32 [%to], %value;
    ret;
}
";

struct Given {
    /// Current as long as this is there.
    _context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Of a live module.
    nothing: sys::CUfunction,
    /// 64 bytes on the device.
    memory: sys::CUdeviceptr,
    /// 64 bytes of the host that the driver knows nothing of.
    host: [u8; 64],
}

impl Given {
    fn new() -> Result<Self> {
        let context = CudaContext::new(0)?;
        let mut memory = 0;
        // SAFETY: the pointer is to a live integer, and a context is current.
        unsafe { sys::cuMemAlloc_v2(&mut memory, 64) }.result()?;
        Ok(Self {
            stream: context.new_stream()?,
            _context: context,
            nothing: function(KERNELS, "nothing")?,
            memory,
            host: [0; 64],
        })
    }

    fn launch(&self, grid: u32, block: [u32; 3], shared: u32) -> CUresult {
        let stream = self.stream.cu_stream();
        // SAFETY: the kernel has no parameters and does nothing; sizes may be wrong, and are checked by the driver.
        unsafe {
            sys::cuLaunchKernel(
                self.nothing,
                grid,
                1,
                1,
                block[0],
                block[1],
                block[2],
                shared,
                stream,
                null_mut(),
                null_mut(),
            )
        }
    }

    fn event(&self, flags: u32) -> sys::CUevent {
        let mut event = null_mut();
        // SAFETY: the pointer is to a live handle. What fails leaves null, which the calls below answer to.
        let _ = unsafe { sys::cuEventCreate(&mut event, flags) };
        event
    }

    fn elapsed(&self, start: sys::CUevent, end: sys::CUevent) -> CUresult {
        let mut milliseconds = 0.0;
        // SAFETY: both are events, if they could be made; the pointer is to a live number.
        unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, start, end) }
    }

    fn record(&self, event: sys::CUevent) -> CUresult {
        // SAFETY: an event, if it could be made, and a live stream.
        unsafe { sys::cuEventRecord(event, self.stream.cu_stream()) }
    }

    fn load(&self, text: &str) -> CUresult {
        let text = format!("{text}\0");
        let mut module = null_mut();
        // SAFETY: the text ends with a zero.
        unsafe { sys::cuModuleLoadData(&mut module, text.as_ptr().cast()) }
    }

    fn attribute(&self, attribute: sys::CUfunction_attribute, value: i32) -> CUresult {
        // SAFETY: the function is of a live module.
        unsafe { sys::cuFuncSetAttribute(self.nothing, attribute, value) }
    }
}

type Call = (&'static str, fn(&Given) -> CUresult);

/// A valid text, but for what is inserted before and after the second line.
fn text(version: &str, target: &str, body: &str) -> String {
    format!(
        ".version {version}\n.target {target}\n.address_size 64\n.visible .entry f() {{ {body} ret; }}\n"
    )
}

// SAFETY of all calls: pointers are to live places of the right type, or null, or addresses that are never dereferenced on the host.
const CALLS: &[Call] = &[
    ("device that is not there", |_| {
        let mut device = 0;
        // SAFETY: above.
        unsafe { sys::cuDeviceGet(&mut device, 1000) }
    }),
    ("device to nowhere", |_| {
        // SAFETY: above.
        unsafe { sys::cuDeviceGet(null_mut(), 0) }
    }),
    ("allocation of nothing", |_| {
        let mut address = 0;
        // SAFETY: above.
        unsafe { sys::cuMemAlloc_v2(&mut address, 0) }
    }),
    ("allocation of 2^50 bytes", |_| {
        let mut address = 0;
        // SAFETY: above.
        unsafe { sys::cuMemAlloc_v2(&mut address, 1 << 50) }
    }),
    ("allocation to nowhere", |_| {
        // SAFETY: above.
        unsafe { sys::cuMemAlloc_v2(null_mut(), 64) }
    }),
    ("freeing what nobody allocated", |_| {
        // SAFETY: above.
        unsafe { sys::cuMemFree_v2(0x1234_5600) }
    }),
    ("freeing the middle of an allocation", |given| {
        // SAFETY: above.
        unsafe { sys::cuMemFree_v2(given.memory + 16) }
    }),
    ("freeing null", |_| {
        // SAFETY: above.
        unsafe { sys::cuMemFree_v2(0) }
    }),
    ("copy to what nobody allocated", |given| {
        // SAFETY: above.
        unsafe { sys::cuMemcpyHtoD_v2(0x1234_5600, given.host.as_ptr().cast(), 64) }
    }),
    ("copy past the end", |given| {
        // SAFETY: above; of the host as many bytes are read as there are.
        unsafe { sys::cuMemcpyDtoD_v2(given.memory, given.memory + (1 << 40), 64) }
    }),
    ("copy of no bytes to null", |given| {
        // SAFETY: above.
        unsafe { sys::cuMemcpyHtoD_v2(0, given.host.as_ptr().cast(), 0) }
    }),
    ("memset of words at an odd address", |given| {
        // SAFETY: above.
        unsafe { sys::cuMemsetD32_v2(given.memory + 1, 0, 4) }
    }),
    ("device address of plain host memory", |given| {
        let mut address = 0;
        // SAFETY: above.
        unsafe {
            sys::cuMemHostGetDevicePointer_v2(
                &mut address,
                given.host.as_ptr().cast_mut().cast(),
                0,
            )
        }
    }),
    ("freeing plain host memory as pinned", |given| {
        // SAFETY: above.
        unsafe { sys::cuMemFreeHost(given.host.as_ptr().cast_mut().cast()) }
    }),
    ("unregistering plain host memory", |given| {
        // SAFETY: above.
        unsafe { sys::cuMemHostUnregister(given.host.as_ptr().cast_mut().cast()) }
    }),
    ("module of null", |_| {
        let mut module = null_mut();
        // SAFETY: above.
        unsafe { sys::cuModuleLoadData(&mut module, null()) }
    }),
    ("module of words", |given| given.load("this is no program")),
    ("module with a syntax error", |given| {
        given.load(&text("7.0", "sm_80", "add.u32 %r1, ;"))
    }),
    ("module with an unknown instruction", |given| {
        given.load(&text("7.0", "sm_80", "frobnicate.b32;"))
    }),
    ("module of a PTX that is too new", |given| {
        given.load(&text("99.0", "sm_80", ""))
    }),
    ("module of a device that is too new", |given| {
        given.load(&text("9.0", "sm_121", ""))
    }),
    ("function that is not there", |_| {
        let text = format!("{}\0", text("7.0", "sm_80", ""));
        let (mut module, mut function) = (null_mut(), null_mut());
        // SAFETY: above; the text ends with a zero.
        unsafe {
            if sys::cuModuleLoadData(&mut module, text.as_ptr().cast()) != CUresult::CUDA_SUCCESS {
                return CUresult::CUDA_ERROR_UNKNOWN;
            }
            let code = sys::cuModuleGetFunction(&mut function, module, c"g".as_ptr());
            let _ = sys::cuModuleUnload(module);
            code
        }
    }),
    ("launch of no blocks", |given| {
        given.launch(0, [32, 1, 1], 0)
    }),
    ("launch of no threads", |given| {
        given.launch(1, [0, 1, 1], 0)
    }),
    ("launch of 2048 threads", |given| {
        given.launch(1, [2048, 1, 1], 0)
    }),
    ("launch of 65 threads in z", |given| {
        given.launch(1, [1, 1, 65], 0)
    }),
    ("launch with 1 MiB of shared memory", |given| {
        given.launch(1, [32, 1, 1], 1 << 20)
    }),
    ("launch with 96 KiB without the attribute", |given| {
        given.launch(1, [32, 1, 1], 96 << 10)
    }),
    ("attribute of 1 MiB of shared memory", |given| {
        given.attribute(
            sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            1 << 20,
        )
    }),
    ("attribute that cannot be set", |given| {
        given.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS, 8)
    }),
    ("occupancy of blocks of 0 threads", |given| {
        let mut blocks = 0;
        // SAFETY: above.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, given.nothing, 0, 0)
        }
    }),
    ("time between events that nobody recorded", |given| {
        given.elapsed(given.event(0), given.event(0))
    }),
    ("time between events without time", |given| {
        let events = [given.event(2), given.event(2)];
        for event in events {
            let _ = given.record(event);
        }
        given.elapsed(events[0], events[1])
    }),
    ("event with unknown flags", |_| {
        let mut event = null_mut();
        // SAFETY: above.
        unsafe { sys::cuEventCreate(&mut event, 0x8000) }
    }),
    ("stream with unknown flags", |_| {
        let mut stream = null_mut();
        // SAFETY: above.
        unsafe { sys::cuStreamCreate(&mut stream, 0x8000) }
    }),
    ("end of a capture that never began", |given| {
        let mut graph = null_mut();
        // SAFETY: above.
        unsafe { sys::cuStreamEndCapture(given.stream.cu_stream(), &mut graph) }
    }),
    ("capture of the default stream", |_| {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: above.
        unsafe { sys::cuStreamBeginCapture_v2(null_mut(), mode) }
    }),
    ("waiting for a stream that is captured", |given| {
        captured(given, false)
    }),
    ("end of a capture that was broken", |given| {
        captured(given, true)
    }),
    ("priority range to nowhere", |_| {
        // SAFETY: above.
        unsafe { sys::cuCtxGetStreamPriorityRange(null_mut(), null_mut()) }
    }),
    ("stack of 2^40 bytes", |_| {
        // SAFETY: above.
        unsafe { sys::cuCtxSetLimit(sys::CUlimit::CU_LIMIT_STACK_SIZE, 1 << 40) }
    }),
];

/// Waits for a stream while it is captured, which breaks the capture; the code of that, or of its end.
fn captured(given: &Given, end: bool) -> CUresult {
    let stream = given.stream.cu_stream();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let mut graph = null_mut();
    // SAFETY: a live stream; the pointer is to a live handle.
    unsafe {
        let _ = sys::cuStreamBeginCapture_v2(stream, mode);
        let waited = sys::cuStreamSynchronize(stream);
        let ended = sys::cuStreamEndCapture(stream, &mut graph);
        if end { ended } else { waited }
    }
}

/// Faults of a kernel, by name. A context is no more use after one.
const FAULTS: [&str; 3] = ["trap", "illegal-address", "misaligned-address"];

/// Prints the code of each call from this one on, until one has broken the context.
pub(crate) fn misuse(from: &str) -> Result<()> {
    let from: usize = from.parse()?;
    let given = Given::new()?;
    for (name, call) in &CALLS[from.min(CALLS.len())..] {
        println!("{name}: {}", call(&given) as u32);
        // SAFETY: it takes nothing.
        if unsafe { sys::cuCtxSynchronize() } != CUresult::CUDA_SUCCESS {
            std::process::exit(0);
        }
    }
    Ok(())
}

/// Launches a kernel with a fault and prints the code of the wait for it.
pub(crate) fn fault(name: &str) -> Result<()> {
    let given = Given::new()?;
    let (kernel, mut address) = match name {
        "trap" => ("trap", 0),
        // An address that no allocation is near.
        "illegal-address" => ("store", 1u64 << 46),
        "misaligned-address" => ("store", given.memory + 2),
        _ => {
            return Err(
                format!("misuse: the faults are {}, not `{name}`", FAULTS.join(", ")).into(),
            );
        }
    };
    let kernel = function(KERNELS, kernel)?;
    let mut parameters: [*mut c_void; 1] = [(&raw mut address).cast()];
    // SAFETY: one parameter at most is read; what the store does is the point, and this process ends after it.
    unsafe { launch(&given.stream, kernel, 1, 1, &mut parameters) }?;
    // SAFETY: a live stream.
    let code = unsafe { sys::cuStreamSynchronize(given.stream.cu_stream()) };
    println!("{name}: {}", code as u32);
    // Destructors would meet the broken context.
    std::process::exit(0);
}

/// Runs this program with arguments, for some seconds at most.
fn child(arguments: &[&str]) -> Result<Output> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output()?)
}

/// The code of every call and fault; `None` for one that this process or the driver did not survive.
fn codes() -> Result<BTreeMap<String, Option<u32>>> {
    let mut codes: BTreeMap<String, Option<u32>> = CALLS
        .iter()
        .map(|(name, _)| String::from(*name))
        .chain(FAULTS.map(String::from))
        .map(|name| (name, None))
        .collect();
    let mut ask = |arguments: &[&str]| -> Result<usize> {
        let output = child(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let answers = text.lines().filter_map(|line| line.rsplit_once(": "));
        let answers: Vec<_> = answers.collect();
        for (name, code) in &answers {
            codes.insert((*name).into(), code.parse().ok());
        }
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            println!(
                "kit {}: {}: {}",
                arguments.join(" "),
                output.status,
                error.trim()
            );
        }
        Ok(answers.len())
    };
    let mut next = 0;
    while next < CALLS.len() {
        // One that ended the process has no answer and is passed over.
        let answers = ask(&["misuse", "calls", &next.to_string()])?;
        next += answers.max(1);
    }
    for name in FAULTS {
        ask(&["misuse", name])?;
    }
    Ok(codes)
}

fn show(code: Option<u32>) -> String {
    code.map_or("no answer".into(), |code| code.to_string())
}

/// Writes what this driver answers into a folder.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let lines: String = codes()?
        .into_iter()
        .map(|(name, code)| format!("{name}: {}\n", show(code)))
        .collect();
    fs::write(folder.join(FILE), lines)?;
    Ok(())
}

/// Lists the calls to which this driver answers otherwise than the emulator did.
pub(crate) fn compare(folder: &Path) -> Result<()> {
    let text = fs::read_to_string(folder.join(FILE))?;
    let recorded: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .collect();
    let (mut calls, mut other, mut silent) = (0, 0, 0);
    for (name, code) in codes()? {
        calls += 1;
        let given = show(code);
        let expected = recorded
            .get(name.as_str())
            .copied()
            .unwrap_or("not recorded");
        silent += usize::from(code.is_none());
        if given != expected {
            other += 1;
            println!("{name}: the driver says {given}, the emulator {expected}");
            record(&json!({"kind": "misuse", "call": name, "given": given, "expected": expected}))?;
        }
    }
    let summary = format!(
        "{calls} wrong calls: {other} answered otherwise than by the emulator, {silent} without an answer"
    );
    record(&json!({"kind": "misused", "calls": calls, "other": other, "silent": silent}))?;
    println!("{summary}");
    Ok(())
}
