//! Modules and launches through cudarc, as a product uses them.

use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard};

use cuda_emulator_loader as _;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;
use sys::CUfunction_attribute_enum as Attribute;
use sys::cudaError_enum as Code;

const PTX: &str = include_str!("data/tests.ptx");

fn setup() -> (Arc<CudaContext>, Arc<CudaModule>) {
    let context = CudaContext::new(0).unwrap();
    let module = context.load_module(Ptx::from_src(PTX)).unwrap();
    (context, module)
}

fn function(module: &Arc<CudaModule>, name: &str) -> CudaFunction {
    module.load_function(name).unwrap()
}

fn shape(grid: u32, block: u32, shared: u32) -> LaunchConfig {
    let (grid_dim, block_dim) = ((grid, 1, 1), (block, 1, 1));
    LaunchConfig {
        grid_dim,
        block_dim,
        shared_mem_bytes: shared,
    }
}

/// The seed is the process's: tests that set it take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // What races here does so on purpose.
    cuda_emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some("fast"))
        .unwrap()
        .unwrap();
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

#[test]
fn a_kernel_adds() {
    let (context, module) = setup();
    let stream = context.default_stream();
    let n = 1000;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| 0.5 * i as f32).collect();
    let (a, b) = (
        stream.clone_htod(&a).unwrap(),
        stream.clone_htod(&b).unwrap(),
    );
    let mut out = stream.alloc_zeros::<f32>(1024).unwrap();
    let add = function(&module, "add");
    let mut launch = stream.launch_builder(&add);
    launch.arg(&mut out).arg(&a).arg(&b).arg(&n);
    // SAFETY: the arguments are the kernel's, the slices hold n elements.
    unsafe { launch.launch(shape(8, 128, 0)) }.unwrap();
    let out = stream.clone_dtoh(&out).unwrap();
    for (i, value) in out.into_iter().enumerate() {
        assert_eq!(value, if i < 1000 { 1.5 * i as f32 } else { 0.0 }, "{i}");
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Pair {
    x: f64,
    y: i8,
}

// SAFETY: plain numbers in C layout.
unsafe impl DeviceRepr for Pair {}

#[test]
fn parameters_of_every_size() {
    let (context, module) = setup();
    let stream = context.default_stream();
    let mut out = stream.alloc_zeros::<i64>(6).unwrap();
    let parameters = function(&module, "parameters");
    let (a, b, c, d, e) = (-1i8, -300i16, 1 << 30, i64::MIN, Pair { x: 7.0, y: -8 });
    let mut launch = stream.launch_builder(&parameters);
    launch.arg(&mut out).arg(&a).arg(&b).arg(&c).arg(&d).arg(&e);
    // SAFETY: the arguments are the kernel's.
    unsafe { launch.launch(shape(1, 1, 0)) }.unwrap();
    assert_eq!(
        stream.clone_dtoh(&out).unwrap(),
        [-1, -300, 1 << 30, i64::MIN, 7, -8]
    );
}

fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    std::fs::read(path).unwrap()
}

#[test]
fn fat_binaries_of_every_kind() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    for name in [
        "scale_zstd.fatbin",
        "scale_lz4.fatbin",
        "scale_plain.fatbin",
    ] {
        let module = context.load_module(Ptx::from_binary(data(name))).unwrap();
        let mut offset = module.get_global("offset", &stream).unwrap();
        assert_eq!(offset.len(), 4);
        let initial = stream.clone_dtoh(&offset).unwrap();
        assert_eq!(initial, 0.5f32.to_le_bytes());
        stream
            .memcpy_htod(&0.25f32.to_le_bytes(), &mut offset)
            .unwrap();
        let scale = function(&module, "scale");
        let input = stream.clone_htod(&[1.0f32, 2.0, 3.0]).unwrap();
        let mut out = stream.alloc_zeros::<f32>(3).unwrap();
        let mut launch = stream.launch_builder(&scale);
        launch.arg(&mut out).arg(&input).arg(&2i32).arg(&3i32);
        // SAFETY: the arguments are the kernel's, the slices hold 3 elements.
        unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
        assert_eq!(
            stream.clone_dtoh(&out).unwrap(),
            [3.25, 6.25, 9.25],
            "{name}"
        );
        let architecture = function(&module, "architecture");
        let mut out = stream.alloc_zeros::<i32>(1).unwrap();
        let mut launch = stream.launch_builder(&architecture);
        launch.arg(&mut out);
        // SAFETY: the argument is the kernel's.
        unsafe { launch.launch(shape(1, 1, 0)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&out).unwrap(), [800]);
        assert_eq!(
            module.load_function("missing").err().unwrap().0,
            Code::CUDA_ERROR_NOT_FOUND
        );
        assert!(module.get_global("missing", &stream).is_err());
    }
    for name in ["scale_machine_code.fatbin", "scale_90a.fatbin"] {
        let failed = context
            .load_module(Ptx::from_binary(data(name)))
            .err()
            .unwrap();
        assert_eq!(failed.0, Code::CUDA_ERROR_NO_BINARY_FOR_GPU, "{name}");
    }
}

#[test]
fn images_that_do_not_load() {
    let context = CudaContext::new(0).unwrap();
    let load = |text: &str| context.load_module(Ptx::from_src(text)).err().unwrap().0;
    let half = &PTX[..PTX.len() / 2];
    assert_eq!(load(half), Code::CUDA_ERROR_INVALID_PTX);
    assert_eq!(load("float add(float x)"), Code::CUDA_ERROR_INVALID_PTX);
    let newer = PTX.replace(".target sm_80", ".target sm_90");
    assert_eq!(load(&newer), Code::CUDA_ERROR_INVALID_PTX);
    let future = PTX.replace(".version 9.5", ".version 99.0");
    assert_eq!(load(&future), Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    let unknown = PTX.replace("add.f32", "bewilder.f32");
    assert_ne!(unknown, PTX);
    assert_eq!(load(&unknown), Code::CUDA_ERROR_INVALID_PTX);
    let failed = context
        .load_module(Ptx::from_file("/does/not/exist.ptx"))
        .err()
        .unwrap();
    assert_eq!(failed.0, Code::CUDA_ERROR_FILE_NOT_FOUND);
    let elf = b"\x7fELF\x02\x01\x01\x00".to_vec();
    let failed = context.load_module(Ptx::from_binary(elf)).err().unwrap();
    assert_eq!(failed.0, Code::CUDA_ERROR_NO_BINARY_FOR_GPU);
}

#[test]
fn the_error_log_names_the_line() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let text = CString::new(PTX.replacen("add.f32", "bewilder.f32", 1)).unwrap();
    let line = 1 + PTX[..PTX.find("add.f32").unwrap()].matches('\n').count();
    let mut log = [0u8; 512];
    use sys::CUjit_option_enum as Option;
    let mut options = [
        Option::CU_JIT_ERROR_LOG_BUFFER,
        Option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut module = null_mut();
    // SAFETY: two options with their values; the buffer has the size given.
    let result = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!(result, Code::CUDA_ERROR_INVALID_PTX);
    let log = std::str::from_utf8(&log[..values[1] as usize]).unwrap();
    assert!(
        log.contains(&format!("line {line}")) && log.contains("bewilder"),
        "{log}"
    );
}

#[test]
fn attributes_and_occupancy() {
    let (_context, module) = setup();
    let bounded = function(&module, "bounded");
    assert_eq!(bounded.shared_size_bytes().unwrap(), 512);
    assert_eq!(bounded.max_threads_per_block().unwrap(), 128);
    assert_eq!(bounded.ptx_version().unwrap(), 80);
    assert_eq!(bounded.binary_version().unwrap(), 80);
    assert!((1..=255).contains(&bounded.num_regs().unwrap()));
    let blocks = |f: &CudaFunction, threads, shared| {
        f.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None)
            .unwrap()
    };
    assert_eq!(blocks(&bounded, 128, 0), 16);
    assert_eq!(blocks(&bounded, 129, 0), 0);
    let add = function(&module, "add");
    assert_eq!(blocks(&add, 1024, 0), 2);
    assert_eq!(blocks(&add, 64, 100 << 10), 1);
    extern "C" fn none(_block: i32) -> usize {
        0
    }
    let (grid, block) = add
        .occupancy_max_potential_block_size(none, 0, 0, None)
        .unwrap();
    assert_eq!((grid, block), (216, 1024));
    let shared = add
        .occupancy_available_dynamic_smem_per_block(2, 64)
        .unwrap();
    assert_eq!(shared, 82 * 1024 - 1024);
}

#[test]
fn shared_memory_beyond_48_kib_is_opted_into() {
    let (context, module) = setup();
    let stream = context.default_stream();
    let reverse = function(&module, "reverse");
    let host: Vec<i32> = (0..64).collect();
    let mut device = stream.clone_htod(&host).unwrap();
    let mut run = |shared| {
        let mut launch = stream.launch_builder(&reverse);
        launch.arg(&mut device);
        // SAFETY: the argument is the kernel's, 2 blocks of 32 elements.
        unsafe { launch.launch(shape(2, 32, shared)) }.map_err(|e| e.0)
    };
    assert_eq!(run(48 << 10).err(), None);
    assert_eq!(
        run((48 << 10) + 4).err(),
        Some(Code::CUDA_ERROR_INVALID_VALUE)
    );
    let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert!(reverse.set_attribute(attribute, 166_913).is_err());
    reverse.set_attribute(attribute, 100 << 10).unwrap();
    assert_eq!(run((48 << 10) + 4).err(), None);
    assert_eq!(
        run((100 << 10) + 4).err(),
        Some(Code::CUDA_ERROR_INVALID_VALUE)
    );
    // Reversed twice.
    assert_eq!(stream.clone_dtoh(&device).unwrap(), host);
}

#[test]
fn launches_beyond_the_limits() {
    let (context, module) = setup();
    let stream = context.default_stream();
    let mut device = stream.alloc_zeros::<i32>(128).unwrap();
    let mut run = |f: &CudaFunction, grid_dim, block_dim, cooperative| {
        let config = LaunchConfig {
            grid_dim,
            block_dim,
            shared_mem_bytes: 0,
        };
        let mut launch = stream.launch_builder(f);
        launch.arg(&mut device);
        // SAFETY: the argument is the kernel's; nothing runs.
        let result = unsafe {
            if cooperative {
                launch.launch_cooperative(config)
            } else {
                launch.launch(config)
            }
        };
        result.err().map(|e| e.0)
    };
    let bounded = function(&module, "bounded");
    let invalid = Some(Code::CUDA_ERROR_INVALID_VALUE);
    for (grid, block) in [
        ((0, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (0, 1, 1)),
        ((1, 65536, 1), (1, 1, 1)),
        ((1, 1, u32::MAX), (1, 1, 1)),
        ((u32::MAX, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (1025, 1, 1)),
        ((1, 1, 1), (1, 1, 65)),
        ((1, 1, 1), (64, 32, 1)),
        ((1, 1, 1), (129, 1, 1)),
    ] {
        assert_eq!(
            run(&bounded, grid, block, false),
            invalid,
            "{grid:?} {block:?}"
        );
    }
    // 16 blocks on each of 108 multiprocessors.
    let too_large = Some(Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    assert_eq!(
        run(&bounded, (16 * 108 + 1, 1, 1), (128, 1, 1), true),
        too_large
    );
    assert_eq!(run(&bounded, (16 * 108, 1, 1), (128, 1, 1), true), None);
    stream.synchronize().unwrap();
}

#[test]
fn parameters_that_are_missing() {
    let (context, module) = setup();
    let stream = context.default_stream();
    let name = CString::new("move").unwrap();
    context.bind_to_thread().unwrap();
    let out = stream.alloc_zeros::<u32>(2).unwrap();
    let mut f = null_mut();
    // A module of the raw interface, since cudarc hides its own.
    let text = CString::new(PTX).unwrap();
    let mut raw = null_mut();
    // SAFETY: the pointers are live; wrong parameters are the point, and refused.
    unsafe {
        sys::cuModuleLoadData(&mut raw, text.as_ptr().cast())
            .result()
            .unwrap();
        sys::cuModuleGetFunction(&mut f, raw, name.as_ptr())
            .result()
            .unwrap();
        let launch = |params: *mut *mut c_void, extra: *mut *mut c_void| {
            sys::cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, stream.cu_stream(), params, extra)
        };
        assert_eq!(
            launch(null_mut(), null_mut()),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        let mut with_null = [null_mut(), null_mut()];
        assert_eq!(
            launch(with_null.as_mut_ptr(), null_mut()),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        let guard = stream.clone();
        let (address, _sync) = cudarc::driver::DevicePtr::device_ptr(&out, &guard);
        let packed = |mut size: usize| {
            let mut buffer = [address, address + 4];
            let (buffer, size) = (buffer.as_mut_ptr().cast(), (&raw mut size).cast());
            // CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE, _END.
            let [pointer_key, size_key] = [1usize, 2].map(|key| key as *mut c_void);
            let mut extra = [pointer_key, buffer, size_key, size, null_mut()];
            launch(null_mut(), extra.as_mut_ptr())
        };
        assert_eq!(packed(8), Code::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(packed(16), Code::CUDA_SUCCESS);
        stream.synchronize().unwrap();
        sys::cuModuleUnload(raw).result().unwrap();
        assert_eq!(packed(16), Code::CUDA_ERROR_INVALID_HANDLE);
    }
    drop(module);
}

/// What `move` in a second stream sees of `move` in a first one.
fn handover(module: &Arc<CudaModule>, a: &Arc<CudaStream>, b: &Arc<CudaStream>, wait: bool) -> i32 {
    let relay = function(module, "move");
    let start = a.clone_htod(&[42]).unwrap();
    let mut middle = a.alloc_zeros::<i32>(1).unwrap();
    let mut end = b.alloc_zeros::<i32>(1).unwrap();
    a.synchronize().unwrap();
    b.synchronize().unwrap();
    let mut first = a.launch_builder(&relay);
    first.arg(&mut middle).arg(&start);
    // SAFETY: the arguments are the kernel's.
    unsafe { first.launch(shape(1, 1, 0)) }.unwrap();
    if wait {
        b.join(a).unwrap();
    }
    let mut second = b.launch_builder(&relay);
    second.arg(&mut end).arg(&middle);
    // SAFETY: the arguments are the kernel's.
    unsafe { second.launch(shape(1, 1, 0)) }.unwrap();
    let seen = b.clone_dtoh(&end).unwrap()[0];
    a.synchronize().unwrap();
    seen
}

#[test]
fn kernels_in_two_streams_need_an_event() {
    let _turn = alone();
    let (context, module) = setup();
    // SAFETY: the order is this test's subject.
    unsafe { context.disable_event_tracking() };
    let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut missed = 0;
    for seed in 0..40 {
        cuda_emulator_loader::set_seed(Some(seed)).unwrap();
        assert_eq!(handover(&module, &a, &b, true), 42, "seed {seed}");
        missed += u32::from(handover(&module, &a, &b, false) != 42);
    }
    cuda_emulator_loader::set_seed(None).unwrap();
    assert!((1..40).contains(&missed), "{missed} of 40 seeds");
}

#[test]
fn event_tracking_of_cudarc_orders_streams_itself() {
    let _turn = alone();
    let (context, module) = setup();
    let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    for seed in 0..20 {
        cuda_emulator_loader::set_seed(Some(seed)).unwrap();
        assert_eq!(handover(&module, &a, &b, false), 42, "seed {seed}");
    }
    cuda_emulator_loader::set_seed(None).unwrap();
}

#[test]
fn kernels_in_a_graph() {
    let (context, module) = setup();
    // SAFETY: one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let relay = function(&module, "move");
    let mut cells: Vec<_> = (0..4).map(|i| stream.clone_htod(&[i]).unwrap()).collect();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).unwrap();
    for i in 1..4 {
        let (before, after) = cells.split_at_mut(i);
        let mut launch = stream.launch_builder(&relay);
        launch.arg(&mut after[0]).arg(&before[i - 1]);
        // SAFETY: the arguments are the kernel's.
        unsafe { launch.launch(shape(1, 1, 0)) }.unwrap();
    }
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    assert_eq!(stream.clone_dtoh(&cells[3]).unwrap(), [3]);
    for value in [7, 8] {
        stream.memcpy_htod(&[value], &mut cells[0]).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&cells[3]).unwrap(), [value]);
    }
}

#[test]
fn launches_are_counted() {
    let _turn = alone();
    let (context, module) = setup();
    cuda_emulator_loader::set_option("CUDA_EMULATOR_COUNT", Some("1"))
        .unwrap()
        .unwrap();
    let stream = context.default_stream();
    let bounded = function(&module, "bounded");
    let mut out = stream.alloc_zeros::<i32>(128).unwrap();
    let mut launch = stream.launch_builder(&bounded);
    launch.arg(&mut out);
    // SAFETY: the argument is the kernel's.
    unsafe { launch.launch(shape(1, 128, 0)) }.unwrap();
    stream.synchronize().unwrap();
    cuda_emulator_loader::set_option("CUDA_EMULATOR_COUNT", None)
        .unwrap()
        .unwrap();
    let reversed: Vec<_> = (0..128).rev().collect();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), reversed);
    let counters = cuda_emulator_loader::counters().unwrap();
    let of_bounded = |c: &&String| c.contains(r#""kernel":"bounded","grid":[1, 1, 1]"#);
    let line = counters.iter().find(of_bounded).unwrap();
    let (_, rest) = line.split_once(r#""thread_instructions":"#).unwrap();
    let number: u64 = rest.split([',', '}']).next().unwrap().parse().unwrap();
    // Each of 128 threads executes every instruction between the kernel's braces once.
    let body = PTX.split(".entry bounded(").nth(1).unwrap();
    let body = body.split('{').nth(1).unwrap().split('}').next().unwrap();
    let lines = body.lines().map(str::trim);
    let instructions = lines
        .filter(|l| l.ends_with(';') && !l.starts_with('.'))
        .count();
    assert_eq!(number, 128 * instructions as u64, "{line}");
}
