//! Kernels of different streams on the device at once, and modules that go while their kernels are wanted. The seed and the context are
//! the process's, and so the tests take turns.

use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;
use emulator_loader as _;
use sys::cudaError_enum as Code;

/// `meet`: says that it is there, and waits for the other.
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
";

fn alone(seed: Option<u64>) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    emulator_loader::set_seed(seed).unwrap();
    emulator_loader::clear().unwrap();
    turn
}

fn kernel(context: &Arc<CudaContext>) -> CudaFunction {
    let module = context.load_module(Ptx::from_src(PTX)).unwrap();
    module.load_function("meet").unwrap()
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
fn without_a_seed_a_kernel_that_waits_for_another_is_a_deadlock() {
    let _turn = alone(None);
    assert_eq!(pair(2), Err(Code::CUDA_ERROR_LAUNCH_TIMEOUT));
    let findings = emulator_loader::findings().unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].contains("nothing changes what they look at"),
        "{findings:?}"
    );
}

fn findings() -> Vec<String> {
    emulator_loader::findings().unwrap()
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
