//! Router and dispatch in a graph, replayed beside a kernel that leaves them little of the device. Their blocks wait for each other by
//! tickets: it must not matter how many of them run at a time, and each replay must write the same bits.

use std::ffi::c_void;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use millet::cudarc::driver::sys::CUdevice_attribute_enum::{
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
};
use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::cudarc::driver::sys::{self, CUgraphInstantiate_flags};
use millet::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, result};
use millet::half::bf16;
use millet::{
    Capacity, Cuda, Dispatch, DispatchForward, Logits, Losses, Memory, MoeConfig, Plan,
    Renormalize, Router, RouterForward, Scalar, stats_elements,
};
use millet_testing::generate::Rng;
use serde_json::json;

use crate::device::{function, launch};
use crate::record::record;
use crate::{Result, is_emulated};

/// `hog` runs until the host writes a 1, a minute at most: one thread of a block asks, the others wait for it, so that the hog keeps room
/// and not the bus. `differ` counts words that are not the same.
const KERNELS: &str = r"
.version 7.0
.target sm_80
.address_size 64
.visible .entry hog(.param .u64 stop, .param .u64 started)
{
    .reg .pred %p;
    .reg .b32 %value;
    .reg .b64 %stop, %started, %begin, %now;
    ld.param.u64 %stop, [stop];
    ld.param.u64 %started, [started];
    mov.u32 %value, %tid.x;
    setp.ne.u32 %p, %value, 0;
    @%p bra done;
    red.relaxed.sys.global.add.u32 [%started], 1;
    mov.u64 %begin, %globaltimer;
again:
    nanosleep.u32 1000;
    ld.relaxed.sys.global.u32 %value, [%stop];
    setp.ne.u32 %p, %value, 0;
    @%p bra done;
    mov.u64 %now, %globaltimer;
    sub.u64 %now, %now, %begin;
    setp.lt.u64 %p, %now, 60000000000;
    @%p bra again;
done:
    barrier.sync 0;
    ret;
}
.visible .entry differ(.param .u64 first, .param .u64 second, .param .u64 words, .param .u64 count)
{
    .reg .pred %p;
    .reg .b32 %a, %b, %c;
    .reg .b64 %first, %second, %words, %count, %i, %step, %at;
    ld.param.u64 %first, [first];
    ld.param.u64 %second, [second];
    ld.param.u64 %words, [words];
    ld.param.u64 %count, [count];
    mov.u32 %a, %ntid.x;
    mov.u32 %b, %nctaid.x;
    mul.wide.u32 %step, %a, %b;
    mov.u32 %b, %ctaid.x;
    mul.wide.u32 %i, %a, %b;
    mov.u32 %c, %tid.x;
    cvt.u64.u32 %at, %c;
    add.u64 %i, %i, %at;
again:
    setp.ge.u64 %p, %i, %words;
    @%p bra done;
    shl.b64 %at, %i, 2;
    add.u64 %at, %at, %first;
    ld.global.u32 %a, [%at];
    shl.b64 %at, %i, 2;
    add.u64 %at, %at, %second;
    ld.global.u32 %b, [%at];
    add.u64 %i, %i, %step;
    setp.eq.u32 %p, %a, %b;
    @%p bra again;
    red.global.add.u32 [%count], 1;
    bra again;
done:
    ret;
}
";

/// How much the hog takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hog {
    None,
    /// A block on every multiprocessor, with half of its shared memory and threads.
    Half,
    /// All of every multiprocessor but one.
    AllButOne,
}

impl Hog {
    fn name(self) -> &'static str {
        match self {
            Self::None => "alone",
            Self::Half => "half of every multiprocessor",
            Self::AllButOne => "all multiprocessors but one",
        }
    }
}

/// Two words of pinned memory that the device sees: whether the hog is to stop, and how many of its blocks have begun.
struct Words {
    host: *mut u32,
    device: sys::CUdeviceptr,
}

// SAFETY: the memory is pinned until this is dropped, and every access is volatile.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn new() -> Result<Self> {
        let mut host: *mut c_void = std::ptr::null_mut();
        let mut device = 0;
        // SAFETY: pointers to live places; memory of both words; a context is current.
        unsafe {
            sys::cuMemHostAlloc(&mut host, 8, sys::CU_MEMHOSTALLOC_DEVICEMAP).result()?;
            host.cast::<[u32; 2]>().write_volatile([0, 0]);
            sys::cuMemHostGetDevicePointer_v2(&mut device, host, 0).result()?;
        }
        Ok(Self {
            host: host.cast(),
            device,
        })
    }

    fn stop(&self) {
        // SAFETY: live memory, see above.
        unsafe { self.host.write_volatile(1) };
    }

    fn started(&self) -> u32 {
        // SAFETY: live memory of two words, see above.
        unsafe { self.host.add(1).read_volatile() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: what reads the memory ends before it is freed. Errors were told by whoever waited before.
        unsafe {
            let _ = sys::cuCtxSynchronize();
            let _ = sys::cuMemFreeHost(self.host.cast());
        }
    }
}

/// Ends the process, with a word, when nothing has moved for some time.
struct Watchdog {
    /// Replays that have ended.
    moved: Arc<AtomicU64>,
    start: Instant,
    thread: Option<JoinHandle<()>>,
}

/// The kernels themselves give up after 10 seconds.
const PATIENCE: Duration = Duration::from_secs(20);

impl Watchdog {
    fn new(words: Arc<Words>, hog: Hog) -> Self {
        let (moved, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let watched = moved.clone();
        let thread = thread::spawn(move || {
            let (mut last, mut since) = (0, Instant::now());
            loop {
                thread::sleep(Duration::from_millis(100));
                match watched.load(Ordering::Relaxed) {
                    u64::MAX => return,
                    same if same == last => {}
                    more => (last, since) = (more, Instant::now()),
                }
                if since.elapsed() > PATIENCE {
                    words.stop();
                    thread::sleep(Duration::from_secs(2));
                    let after = watched.load(Ordering::Relaxed);
                    let then = if after > last {
                        "went on"
                    } else {
                        "did not go on"
                    };
                    println!(
                        "DEADLOCK: replay {last} and later did not end within {} s beside a kernel that holds {}; \
                         it {then} when that ended",
                        PATIENCE.as_secs(),
                        hog.name()
                    );
                    process::exit(1);
                }
            }
        });
        Self {
            moved,
            start,
            thread: Some(thread),
        }
    }

    fn moved(&self, replays: u64) {
        self.moved.store(replays, Ordering::Relaxed);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.moved.store(u64::MAX, Ordering::Relaxed);
        // It holds memory of a context that is current in this thread only.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Inputs and outputs of the graph.
struct Routing {
    cuda: Cuda,
    config: MoeConfig,
    tokens: usize,
    x: CudaSlice<bf16>,
    weight: CudaSlice<f32>,
    ids: CudaSlice<i32>,
    weights: CudaSlice<f32>,
    lse: CudaSlice<f32>,
    counts: CudaSlice<i32>,
    stats: CudaSlice<f32>,
    plan: Plan<Cuda>,
    scratch: CudaSlice<f32>,
}

impl Routing {
    fn new(cuda: &Cuda, tokens: usize, hidden: usize, experts: usize) -> Result<Self> {
        let config = MoeConfig::builder(hidden, 8, experts, 8)
            .losses(Losses::new(0.3, 0.05))
            .capacity(Capacity::new(1.0).renormalize(Renormalize::AfterDrop))
            .build()?;
        let mut rng = Rng::new(1);
        let mut numbers = |n: usize| {
            (0..n)
                .map(|_| rng.uniform() as f32 - 0.5)
                .collect::<Vec<_>>()
        };
        let x: Vec<bf16> = numbers(tokens * hidden)
            .into_iter()
            .map(bf16::from_f32)
            .collect();
        Ok(Self {
            x: cuda.upload(&x)?,
            weight: cuda.upload(&numbers(experts * hidden))?,
            ids: cuda.allocate(tokens * 8)?,
            weights: cuda.allocate(tokens * 8)?,
            lse: cuda.allocate(tokens)?,
            counts: cuda.allocate(experts)?,
            stats: cuda.allocate(stats_elements(&config))?,
            plan: Plan::new(cuda, &config, tokens)?,
            scratch: cuda.allocate(cuda.scratch_elements::<bf16>(&config, tokens))?,
            cuda: cuda.clone(),
            config,
            tokens,
        })
    }

    fn submit(&mut self) -> Result<()> {
        self.cuda.router_forward(RouterForward::<Cuda, bf16, f32> {
            config: &self.config,
            tokens: self.tokens,
            logits: Logits::FromTokens {
                x: (&self.x).into(),
                weight: (&self.weight).into(),
            },
            selection_bias: None,
            ids: self.ids.as_view_mut(),
            weights: self.weights.as_view_mut(),
            lse: self.lse.as_view_mut(),
            counts: self.counts.as_view_mut(),
            stats: self.stats.as_view_mut(),
            logits_output: None,
            scratch: self.scratch.as_view_mut(),
        })?;
        self.cuda.dispatch(DispatchForward::<Cuda, f32> {
            config: &self.config,
            tokens: self.tokens,
            ids: (&self.ids).into(),
            weights: self.weights.as_view_mut(),
            plan: &mut self.plan,
            scratch: self.scratch.as_view_mut(),
        })?;
        Ok(())
    }

    /// Address and 4-byte words of every output that is written in full.
    fn outputs(&mut self) -> Vec<(sys::CUdeviceptr, usize)> {
        let stream = self.cuda.stream().clone();
        fn of<T: Scalar>(
            slice: &mut CudaSlice<T>,
            stream: &CudaStream,
        ) -> (sys::CUdeviceptr, usize) {
            let words = slice.len();
            (slice.device_ptr_mut(stream).0, words)
        }
        let map = self.plan.map();
        let maps = [map.offsets, map.assignment_to_row, map.row_tiles];
        let mut all: Vec<_> = maps
            .into_iter()
            .map(|view| (view.address(&stream).0, view.len()))
            .collect();
        all.extend([
            of(&mut self.ids, &stream),
            of(&mut self.weights, &stream),
            of(&mut self.lse, &stream),
            of(&mut self.counts, &stream),
            of(&mut self.stats, &stream),
        ]);
        all
    }
}

pub(crate) fn replays() -> Result<()> {
    let (replays, batch, tokens) = if is_emulated() {
        (10, 3, 64)
    } else {
        (10_000, 100, 2048)
    };
    let context = CudaContext::new(0)?;
    // SAFETY: everything is in one stream but the hog, which shares no memory with it.
    unsafe { context.disable_event_tracking() };
    let mut failures = Vec::new();
    for (hog, replays) in [
        (Hog::None, replays / 10),
        (Hog::Half, replays / 2),
        (Hog::AllButOne, replays / 2),
    ] {
        match beside(&context, hog, replays, batch, tokens) {
            Ok(0) => {}
            Ok(differing) => failures.push(format!(
                "{differing} words differ from the first replay's: {}",
                hog.name()
            )),
            Err(error) => failures.push(format!("{}: {error}", hog.name())),
        }
    }
    if !failures.is_empty() {
        return Err(failures.join("; ").into());
    }
    println!("{replays} replays of router and dispatch beside a hog, each with the same bits");
    Ok(())
}

/// Replays beside a hog; how many words differed from the first replay's.
fn beside(
    context: &Arc<CudaContext>,
    hog: Hog,
    replays: u64,
    batch: u64,
    tokens: usize,
) -> Result<u32> {
    let cuda = Cuda::new(&context.new_stream()?)?;
    let stream = cuda.stream().clone();
    let mut routing = Routing::new(&cuda, tokens, 128, 64)?;
    // Whatever is slow the first time has been.
    routing.submit()?;
    stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let captured = routing.submit();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?;
    captured?;
    let graph = graph.ok_or("nothing was captured")?;
    stream.synchronize()?;
    let outputs = routing.outputs();
    let differ = function(KERNELS, "differ")?;
    prefer_shared_memory(differ)?;
    let mut count = stream.alloc_zeros::<u32>(1)?;
    let expected: Vec<CudaSlice<u32>> = outputs
        .iter()
        .map(|&(address, words)| {
            let mut copy = stream.alloc_zeros::<u32>(words)?;
            let to = copy.device_ptr_mut(&stream).0;
            // SAFETY: both are of so many words.
            unsafe { result::memcpy_dtod_async(to, address, 4 * words, stream.cu_stream()) }?;
            Ok(copy)
        })
        .collect::<Result<_>>()?;
    stream.synchronize()?;

    let mut once = || -> Result<()> {
        for &(address, words) in &outputs {
            // SAFETY: the output has so many words; nothing else runs in this stream.
            unsafe { result::memset_d8_async(address, 0xff, 4 * words, stream.cu_stream()) }?;
        }
        graph.launch()?;
        for (&(address, words), expected) in outputs.iter().zip(&expected) {
            let (mut first, mut second) = (address, expected.device_ptr(&stream).0);
            let (mut words, mut count) = (words as u64, count.device_ptr_mut(&stream).0);
            let mut parameters = [
                (&raw mut first).cast(),
                (&raw mut second).cast(),
                (&raw mut words).cast(),
                (&raw mut count).cast(),
            ];
            // SAFETY: two buffers of so many words, and one to add to.
            unsafe { launch(&stream, differ, 8, 256, &mut parameters) }?;
        }
        Ok(())
    };
    // A driver loads kernels at their first launch, and may wait for all others to end before it does.
    once()?;
    stream.synchronize()?;

    let words = Arc::new(Words::new()?);
    let other = context.new_stream()?;
    let blocks = start(context, &other, hog, &words)?;
    if !is_emulated() {
        let since = Instant::now();
        while words.started() < blocks && since.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(1));
        }
        println!(
            "beside a kernel that holds {}: {} of its {blocks} blocks run",
            hog.name(),
            words.started()
        );
        if words.started() < blocks {
            return Err(format!(
                "only {} of the hog's {blocks} blocks began",
                words.started()
            )
            .into());
        }
    }

    let watchdog = Watchdog::new(words.clone(), hog);
    let mut done = 0;
    while done < replays {
        let next = batch.min(replays - done);
        for _ in 0..next {
            once()?;
        }
        stream.synchronize()?;
        done += next;
        watchdog.moved(done);
    }
    let seconds = watchdog.start.elapsed().as_secs_f64();
    drop(watchdog);
    let alive = hog == Hog::None || is_emulated() || !is_complete(&other);
    words.stop();
    other.synchronize()?;
    let differing = stream.clone_dtoh(&count)?[0];
    record(&json!({
        "kind": "replays", "beside": hog.name(), "replays": replays, "differing_words": differing,
        "hog_ran_throughout": alive,
    }))?;
    if !is_emulated() {
        println!("beside {}: {replays} replays in {seconds:.1} s", hog.name());
    }
    if !alive {
        return Err(format!(
            "the kernel that holds {} ended before the replays did",
            hog.name()
        )
        .into());
    }
    Ok(differing)
}

/// A multiprocessor divides its memory between L1 and shared memory, and cannot do so anew while it has blocks: a kernel that takes little
/// of it would leave none for those beside it.
fn prefer_shared_memory(function: sys::CUfunction) -> Result<()> {
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
    // SAFETY: the function is of a live module.
    unsafe { result::function::set_function_attribute(function, attribute, 100) }?;
    Ok(())
}

fn is_complete(stream: &CudaStream) -> bool {
    // SAFETY: a live stream.
    unsafe { sys::cuStreamQuery(stream.cu_stream()) == sys::CUresult::CUDA_SUCCESS }
}

/// Starts the hog in a stream of its own; how many blocks it has.
fn start(context: &Arc<CudaContext>, stream: &CudaStream, hog: Hog, words: &Words) -> Result<u32> {
    let multiprocessors = context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
    let most = context.attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    // A block with all shared memory has a multiprocessor to itself; half of it leaves room for no second one of its kind beside ours.
    let (blocks, threads, shared) = match hog {
        Hog::None => return Ok(0),
        Hog::Half => (multiprocessors, 1024, most / 2 + 1024),
        Hog::AllButOne => (multiprocessors.max(2) - 1, 1024, most),
    };
    let kernel = function(KERNELS, "hog")?;
    prefer_shared_memory(kernel)?;
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let (mut stop, mut started) = (words.device, words.device + 4);
    let mut parameters = [(&raw mut stop).cast(), (&raw mut started).cast()];
    // SAFETY: the function is of a live module; it takes two addresses of pinned words, which live as long as the process.
    unsafe {
        result::function::set_function_attribute(kernel, attribute, shared)?;
        result::launch_kernel(
            kernel,
            (blocks, 1, 1),
            (threads, 1, 1),
            shared as u32,
            stream.cu_stream(),
            &mut parameters,
        )?;
    }
    Ok(blocks)
}
