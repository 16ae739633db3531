//! Kernels of different streams on the device at once, and modules that go while their kernels are wanted. The seed and the context are
//! the process's, and so the tests take turns.

use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard};

use cuda_emulator_loader as _;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg, result, sys,
};
use cudarc::nvrtc::Ptx;
use result::stream::StreamKind;
use sys::cudaError_enum as Code;

/// `meet`: says that it is there, and waits for the other. `count`: writes 1, 2, … to so many words.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry meet(.param .u64 mine, .param .u64 other)
{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [mine];
    ld.param.u64 %rd2, [other];
    mov.u32 %r1, 1;
    st.relaxed.gpu.global.u32 [%rd1], %r1;
POLL:
    ld.relaxed.gpu.global.u32 %r2, [%rd2];
    setp.eq.u32 %p1, %r2, 0;
    @%p1 bra POLL;
    ret;
}
.visible .entry count(.param .u64 words, .param .u32 number)
{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [words];
    ld.param.u32 %r1, [number];
    mov.u32 %r2, 0;
NEXT:
    add.u32 %r2, %r2, 1;
    st.global.u32 [%rd1], %r2;
    add.u64 %rd1, %rd1, 4;
    setp.lt.u32 %p1, %r2, %r1;
    @%p1 bra NEXT;
    ret;
}
";

fn alone(seed: Option<u64>) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    cuda_emulator_loader::set_seed(seed).unwrap();
    cuda_emulator_loader::clear().unwrap();
    turn
}

fn kernel(context: &Arc<CudaContext>) -> CudaFunction {
    let module = context.load_module(Ptx::from_src(PTX)).unwrap();
    module.load_function("meet").unwrap()
}

/// A context with a stream, the kernel `count` and words for it.
struct Counter {
    context: sys::CUcontext,
    stream: sys::CUstream,
    count: sys::CUfunction,
    words: u64,
}

/// Words of a [`Counter`].
const WORDS: usize = 300;

impl Counter {
    fn new() -> Self {
        let mut context = null_mut();
        // SAFETY: the text ends with a NUL, and everything else was made just before.
        unsafe {
            sys::cuCtxCreate_v4(&mut context, null_mut(), 0, 0)
                .result()
                .unwrap();
            let text = CString::new(PTX).unwrap();
            let module = result::module::load_data(text.as_ptr().cast()).unwrap();
            let count = result::module::get_function(module, c"count".to_owned()).unwrap();
            let stream = result::stream::create(StreamKind::NonBlocking).unwrap();
            let words = result::malloc_sync(4 * WORDS).unwrap();
            result::memset_d8_sync(words, 0, 4 * WORDS).unwrap();
            result::ctx::synchronize().unwrap();
            Self {
                context,
                stream,
                count,
                words,
            }
        }
    }

    /// Submits the kernel for so many words.
    fn launch(&self, mut number: usize) -> Result<(), Code> {
        let mut words = self.words;
        let params = &mut [(&raw mut words).cast(), (&raw mut number).cast()];
        let one = (1, 1, 1);
        // SAFETY: the kernel takes an address and a number, of which it reads the lower half.
        unsafe { result::launch_kernel(self.count, one, one, 0, self.stream, params) }
            .map_err(|e| e.0)
    }

    fn synchronize(&self) -> Result<(), Code> {
        // SAFETY: the stream is live.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| e.0)
    }

    fn read(&self) -> Vec<u32> {
        let mut words = vec![0; WORDS];
        // SAFETY: the context and its words are live.
        unsafe {
            result::ctx::set_current(self.context).unwrap();
            result::memcpy_dtoh_sync(&mut words, self.words).unwrap();
        }
        words
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: the context was made in `new`, and everything in it goes with it.
        unsafe {
            result::free_sync(self.words).ok();
            sys::cuCtxDestroy_v2(self.context).result().ok();
        }
    }
}

fn meet(
    stream: &Arc<CudaStream>,
    kernel: &CudaFunction,
    mine: &CudaSlice<u32>,
    other: &CudaSlice<u32>,
) -> Result<(), Code> {
    let one = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: both are live words.
    unsafe {
        stream
            .launch_builder(kernel)
            .arg(mine)
            .arg(other)
            .launch(one)
    }
    .map(drop)
    .map_err(|e| e.0)
}

/// Two kernels that need each other, in two streams or in one.
fn pair(streams: usize) -> Result<(), Code> {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the words are used by these kernels only, and go after them.
    unsafe { context.disable_event_tracking() };
    let kernel = kernel(&context);
    let a = context.new_stream().unwrap();
    let b = if streams == 2 {
        context.new_stream().unwrap()
    } else {
        a.clone()
    };
    let words = [(); 2].map(|()| a.alloc_zeros::<u32>(1).unwrap());
    context.synchronize().unwrap();
    meet(&a, &kernel, &words[0], &words[1])?;
    meet(&b, &kernel, &words[1], &words[0])?;
    context.synchronize().map_err(|e| e.0)
}

#[test]
fn with_a_seed_kernels_of_two_streams_meet() {
    let met = |streams, seeds: std::ops::Range<u64>| {
        let ends = seeds.map(|seed| {
            let _turn = alone(Some(seed));
            match pair(streams) {
                Ok(()) => true,
                Err(code) => {
                    assert_eq!(code, Code::CUDA_ERROR_LAUNCH_TIMEOUT);
                    false
                }
            }
        });
        ends.filter(|&met| met).count()
    };
    let both = met(2, 0..8);
    assert!(both > 0, "no seed of 8 let them meet");
    assert_eq!(
        met(1, 0..2),
        0,
        "a stream's kernels run one after the other"
    );
    let _turn = alone(None);
}

#[test]
fn a_failure_stays_in_its_context() {
    let _turn = alone(None);
    result::init().unwrap();
    let counted: Vec<_> = (1..=WORDS as u32).collect();
    for seed in (0..16).map(Some).chain([None]) {
        cuda_emulator_loader::set_seed(seed).unwrap();
        let (bad, good) = (Counter::new(), Counter::new());
        // With a seed the kernel may run, and fail, before the call returns. It fails when the other is half done.
        let early = bad.launch(WORDS + 1);
        assert!([Ok(()), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS)].contains(&early));
        good.launch(WORDS).unwrap();
        good.synchronize()
            .unwrap_or_else(|e| panic!("seed {seed:?}: {e:?}"));
        assert_eq!(good.read(), counted, "seed {seed:?}");
        assert_eq!(bad.synchronize(), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_eq!(bad.launch(1), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
        good.launch(WORDS).unwrap();
        assert_eq!(good.synchronize(), Ok(()), "seed {seed:?}");
    }
    cuda_emulator_loader::set_seed(None).unwrap();
}

#[test]
fn without_a_seed_a_kernel_that_waits_for_another_is_a_deadlock() {
    let _turn = alone(None);
    assert_eq!(pair(2), Err(Code::CUDA_ERROR_LAUNCH_TIMEOUT));
    let findings = cuda_emulator_loader::findings().unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].contains("nothing changes what they look at"),
        "{findings:?}"
    );
}

fn findings() -> Vec<String> {
    cuda_emulator_loader::findings().unwrap()
}

#[test]
fn a_module_is_unloaded_after_its_work() {
    let _turn = alone(None);
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let word = stream.clone_htod(&[1u32]).unwrap();
    for wait in [true, false] {
        let kernel = kernel(&context);
        meet(&stream, &kernel, &word, &word).unwrap();
        if wait {
            stream.synchronize().unwrap();
        }
        drop(kernel);
        let found = findings();
        assert_eq!(found.len(), usize::from(!wait), "{found:?}");
        assert!(
            found
                .iter()
                .all(|f| f.contains("use_after_free") && f.contains("synchronise first")),
            "{found:?}"
        );
        stream.synchronize().unwrap();
    }
}

#[test]
fn a_graph_needs_the_modules_of_its_kernels() {
    let _turn = alone(None);
    let context = CudaContext::new(0).unwrap();
    // SAFETY: one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let word = stream.clone_htod(&[1u32]).unwrap();
    let kernel = kernel(&context);
    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    meet(&stream, &kernel, &word, &word).unwrap();
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    assert_eq!(findings(), [""; 0]);
    drop(kernel);
    assert_eq!(
        graph.launch().unwrap_err().0,
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
    );
    let found = findings();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("was unloaded after the graph was instantiated"),
        "{found:?}"
    );
}
