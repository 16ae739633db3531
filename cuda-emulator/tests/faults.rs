//! What a kernel's mistake does to its context. Each test breaks the primary context, and so they take turns.

use std::sync::{Arc, Mutex, MutexGuard};

use cuda_emulator_loader as _;
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg, result, sys};
use cudarc::nvrtc::Ptx;
use sys::cudaError_enum as Code;

const PTX: &str = include_str!("data/tests.ptx");

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    cuda_emulator_loader::clear().unwrap();
    turn
}

/// Launches `name` with 64-bit arguments in the default stream and waits for it.
fn run(context: &Arc<CudaContext>, name: &str, args: &[u64]) -> Result<(), DriverError> {
    let module = context.load_module(Ptx::from_src(PTX))?;
    let f = module.load_function(name)?;
    let stream = context.default_stream();
    let mut launch = stream.launch_builder(&f);
    for a in args {
        launch.arg(a);
    }
    let one = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: what the kernel does wrong is the point; the emulator keeps it from the process's memory.
    unsafe { launch.launch(one) }?;
    stream.synchronize()
}

/// A fresh context, a kernel that fails with `code`, and the state after: every call fails until the context is gone.
fn breaks(code: Code, what: impl FnOnce(&Arc<CudaContext>) -> Result<(), DriverError>) {
    let context = CudaContext::new(0).unwrap();
    let failed = what(&context).unwrap_err();
    assert_eq!(failed.0, code);
    // SAFETY: nothing is allocated.
    let allocated = unsafe { result::malloc_sync(16) };
    assert_eq!(allocated.unwrap_err().0, code);
    assert_eq!(context.default_stream().synchronize().unwrap_err().0, code);
    assert_eq!(
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
            .unwrap_err()
            .0,
        code
    );
    drop(context);
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    assert_eq!(
        stream
            .clone_dtoh(&stream.clone_htod(&[1, 2]).unwrap())
            .unwrap(),
        [1, 2]
    );
}

fn findings_of(kind: &str) -> usize {
    let kind = format!(r#"{{"kind":"{kind}""#);
    cuda_emulator_loader::findings()
        .unwrap()
        .iter()
        .filter(|f| f.starts_with(&kind))
        .count()
}

#[test]
fn a_null_pointer() {
    let _turn = alone();
    breaks(Code::CUDA_ERROR_ILLEGAL_ADDRESS, |c| {
        run(c, "move", &[0, 0])
    });
}

#[test]
fn an_access_past_the_end() {
    let _turn = alone();
    breaks(Code::CUDA_ERROR_ILLEGAL_ADDRESS, |c| {
        // SAFETY: the context takes the allocation with it.
        let a = unsafe { result::malloc_sync(8) }.unwrap();
        run(c, "move", &[a, a + 8])
    });
    assert_eq!(findings_of("out_of_bounds"), 1);
}

#[test]
fn use_after_free() {
    let _turn = alone();
    breaks(Code::CUDA_ERROR_ILLEGAL_ADDRESS, |c| {
        // SAFETY: used after its end on purpose, by a kernel only.
        let a = unsafe {
            let a = result::malloc_sync(8).unwrap();
            result::free_sync(a).unwrap();
            a
        };
        run(c, "move", &[a, a + 4])
    });
    assert_eq!(findings_of("use_after_free"), 1);
}

#[test]
fn a_misaligned_address() {
    let _turn = alone();
    breaks(Code::CUDA_ERROR_MISALIGNED_ADDRESS, |c| {
        // SAFETY: the context takes the allocation with it.
        let a = unsafe { result::malloc_sync(8) }.unwrap();
        run(c, "move", &[a, a + 2])
    });
}

#[test]
fn a_kernel_that_never_ends() {
    let _turn = alone();
    cuda_emulator_loader::set_option("CUDA_EMULATOR_LIMIT", Some("100000"))
        .unwrap()
        .unwrap();
    breaks(Code::CUDA_ERROR_LAUNCH_TIMEOUT, |c| {
        // SAFETY: the context takes the allocation with it.
        let a = unsafe { result::malloc_sync(4) }.unwrap();
        // SAFETY: a live allocation of 4 bytes.
        unsafe { result::memset_d8_sync(a, 0, 4) }.unwrap();
        run(c, "spin", &[a])
    });
    cuda_emulator_loader::set_option("CUDA_EMULATOR_LIMIT", None)
        .unwrap()
        .unwrap();
}

/// Blocks that end at once, but more of them than anybody waits for.
#[test]
fn a_grid_that_never_ends() {
    let _turn = alone();
    let limit = |value| {
        cuda_emulator_loader::set_option("CUDA_EMULATOR_LIMIT", value)
            .unwrap()
            .unwrap();
    };
    limit(Some("100000"));
    breaks(Code::CUDA_ERROR_LAUNCH_TIMEOUT, |context| {
        let module = context.load_module(Ptx::from_src(PTX))?;
        let f = module.load_function("move")?;
        let stream = context.default_stream();
        // SAFETY: the context takes the allocation with it.
        let a = unsafe { result::malloc_sync(4) }?;
        // SAFETY: a live allocation of 4 bytes.
        unsafe { result::memset_d8_sync(a, 0, 4) }?;
        let most = LaunchConfig {
            grid_dim: (i32::MAX as u32, 65535, 65535),
            block_dim: (1, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: two addresses of the allocation.
        unsafe { stream.launch_builder(&f).arg(&a).arg(&a).launch(most) }?;
        stream.synchronize()
    });
    limit(None);
}

#[test]
fn work_behind_a_failed_kernel_does_not_run() {
    let _turn = alone();
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    // SAFETY: the context takes the allocations with it.
    unsafe {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        let called = Box::leak(Box::new(std::sync::atomic::AtomicBool::new(false)));
        extern "C" fn note(data: *mut std::ffi::c_void) {
            // SAFETY: the flag was leaked.
            let flag = unsafe { &*data.cast::<std::sync::atomic::AtomicBool>() };
            flag.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let f = module.load_function("move").unwrap();
        let own = context.new_stream().unwrap();
        let mut launch = own.launch_builder(&f);
        launch.arg(&0u64).arg(&0u64);
        let one = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (1, 1, 1),
            shared_mem_bytes: 0,
        };
        launch.launch(one).unwrap();
        sys::cuLaunchHostFunc(
            own.cu_stream(),
            Some(note),
            (&raw const *called).cast_mut().cast(),
        )
        .result()
        .unwrap();
        assert_eq!(
            own.synchronize().unwrap_err().0,
            Code::CUDA_ERROR_ILLEGAL_ADDRESS
        );
        assert!(!called.load(std::sync::atomic::Ordering::SeqCst));
        assert!(result::stream::synchronize(stream).is_err());
    }
}
