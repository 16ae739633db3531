//! The driver as a program calls it that was compiled for per-thread default streams: by the names that end in `_ptds` and `_ptsz`.

use std::ffi::{CStr, CString, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard};

use cuda_emulator_loader as _;
use cudarc::driver::{CudaContext, result, sys};
use sys::cudaError_enum as Code;

/// What `cuGetProcAddress` gives for `flags`.
fn find(name: &CStr, flags: u64) -> Result<*mut c_void, Code> {
    let mut address = null_mut();
    let mut status = MaybeUninit::uninit();
    let version = 13_000;
    // SAFETY: all pointers are live.
    let code = unsafe {
        sys::cuGetProcAddress_v2(
            name.as_ptr(),
            &mut address,
            version,
            flags,
            status.as_mut_ptr(),
        )
    };
    code.result().map(|()| address).map_err(|e| e.0)
}

/// A function's variant for per-thread default streams.
///
/// # Safety
/// `F` must be the function's type.
unsafe fn variant<F: Copy>(name: &CStr) -> F {
    let address = find(name, 2).unwrap();
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: the caller promises the type; a function pointer has the size of an address.
    unsafe { std::mem::transmute_copy(&address) }
}

/// The variants that the tests call.
#[derive(Clone, Copy)]
struct Driver {
    launch: unsafe extern "C" fn(
        sys::CUfunction,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        sys::CUstream,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> Code,
    set: unsafe extern "C" fn(u64, u32, usize) -> Code,
    set_async: unsafe extern "C" fn(u64, u32, usize, sys::CUstream) -> Code,
    htod: unsafe extern "C" fn(u64, *const c_void, usize) -> Code,
    dtoh: unsafe extern "C" fn(*mut c_void, u64, usize) -> Code,
    id: unsafe extern "C" fn(sys::CUstream, *mut u64) -> Code,
    synchronize: unsafe extern "C" fn(sys::CUstream) -> Code,
    wait: unsafe extern "C" fn(sys::CUstream, sys::CUevent, u32) -> Code,
    record: unsafe extern "C" fn(sys::CUevent, sys::CUstream) -> Code,
    begin: unsafe extern "C" fn(sys::CUstream, u32) -> Code,
    end: unsafe extern "C" fn(sys::CUstream, *mut sys::CUgraph) -> Code,
    launch_graph: unsafe extern "C" fn(sys::CUgraphExec, sys::CUstream) -> Code,
}

/// Stream 0, `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const ZERO: sys::CUstream = null_mut();
const LEGACY: sys::CUstream = 1 as sys::CUstream;
const PER_THREAD: sys::CUstream = 2 as sys::CUstream;

/// A context with two cells; the tests take turns, since the options are the process's.
struct Setup {
    context: Arc<CudaContext>,
    driver: Driver,
    a: u64,
    b: u64,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Setup {
    fn drop(&mut self) {
        // SAFETY: from malloc_sync.
        unsafe { result::free_sync(self.a) }.unwrap();
    }
}

impl Setup {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
        // What races here does so on purpose, and only what is waited for runs.
        cuda_emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some("fast"))
            .unwrap()
            .unwrap();
        cuda_emulator_loader::set_seed(None).unwrap();
        let context = CudaContext::new(0).unwrap();
        context.bind_to_thread().unwrap();
        // SAFETY: freed in `drop`.
        let a = unsafe { result::malloc_sync(8) }.unwrap();
        // SAFETY: both cells are live.
        unsafe { result::memcpy_htod_sync(a, &[0u32; 2]) }.unwrap();
        // SAFETY: the types are those of cuda.h.
        let driver = unsafe {
            Driver {
                launch: variant(c"cuLaunchKernel"),
                set: variant(c"cuMemsetD32"),
                set_async: variant(c"cuMemsetD32Async"),
                htod: variant(c"cuMemcpyHtoD"),
                dtoh: variant(c"cuMemcpyDtoH"),
                id: variant(c"cuStreamGetId"),
                synchronize: variant(c"cuStreamSynchronize"),
                wait: variant(c"cuStreamWaitEvent"),
                record: variant(c"cuEventRecord"),
                begin: variant(c"cuStreamBeginCapture"),
                end: variant(c"cuStreamEndCapture"),
                launch_graph: variant(c"cuGraphLaunch"),
            }
        };
        Self {
            context,
            driver,
            a,
            b: a + 4,
            _turn: turn,
        }
    }

    /// Runs `body` on another thread.
    fn elsewhere<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|s| {
            let other = s.spawn(|| {
                self.context.bind_to_thread().unwrap();
                body()
            });
            other.join().unwrap()
        })
    }
}

impl Driver {
    /// The cell at `address`, read by the synchronous copy of the thread's default stream.
    fn get(&self, address: u64) -> u32 {
        let mut value = 0u32;
        // SAFETY: 4 bytes of a live allocation into a live variable.
        unsafe { (self.dtoh)((&raw mut value).cast(), address, 4) }
            .result()
            .unwrap();
        value
    }

    /// Fills the cell at `address` in the order of the thread's default stream.
    fn put(&self, address: u64, value: u32) {
        // SAFETY: the cell is live and 4-byte aligned.
        unsafe { (self.set_async)(address, value, 1, ZERO) }
            .result()
            .unwrap();
    }

    /// The number of a stream as this thread names it.
    fn number(&self, stream: sys::CUstream) -> u64 {
        let mut id = 0;
        // SAFETY: `id` is live.
        unsafe { (self.id)(stream, &mut id) }.result().unwrap();
        id
    }
}

fn legacy_number(stream: sys::CUstream) -> u64 {
    let mut id = 0;
    // SAFETY: `id` is live.
    unsafe { sys::cuStreamGetId(stream, &mut id) }
        .result()
        .unwrap();
    id
}

#[test]
fn the_flag_chooses_the_variant() {
    let _setup = Setup::new();
    // SAFETY: the library is loaded; this only counts one more user.
    let library = unsafe { libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW) };
    let exported = |name: &str| {
        let name = CString::new(name).unwrap();
        // SAFETY: the handle is dlopen's, the name a C string.
        unsafe { libc::dlsym(library, name.as_ptr()) }
    };
    for (name, plain, variant) in [
        (c"cuLaunchKernel", "cuLaunchKernel", "cuLaunchKernel_ptsz"),
        (c"cuMemcpyHtoD", "cuMemcpyHtoD_v2", "cuMemcpyHtoD_v2_ptds"),
        (c"cuMemsetD8", "cuMemsetD8_v2", "cuMemsetD8_v2_ptds"),
        (c"cuGraphLaunch", "cuGraphLaunch", "cuGraphLaunch_ptsz"),
        (c"cuMemAlloc", "cuMemAlloc_v2", "cuMemAlloc_v2"),
        (c"cuStreamCreate", "cuStreamCreate", "cuStreamCreate"),
    ] {
        for (flags, expected) in [(0, plain), (1, plain), (2, variant)] {
            let address = exported(expected);
            assert!(!address.is_null(), "{expected}");
            assert_eq!(find(name, flags), Ok(address), "{expected}, flags {flags}");
        }
    }
    assert_eq!(
        find(c"cuNoSuchFunction", 2),
        Err(Code::CUDA_ERROR_NOT_FOUND)
    );
    assert_eq!(
        find(c"cuLaunchKernel", 3),
        Err(Code::CUDA_ERROR_INVALID_VALUE)
    );
}

#[test]
fn stream_0_is_the_threads_own() {
    let s = Setup::new();
    let d = s.driver;
    let numbers = move || {
        assert_eq!(d.number(ZERO), legacy_number(PER_THREAD));
        assert_eq!(d.number(LEGACY), legacy_number(ZERO));
        assert_eq!(legacy_number(ZERO), legacy_number(LEGACY));
        (d.number(ZERO), d.number(LEGACY))
    };
    let (here, legacy) = numbers();
    let (there, same) = s.elsewhere(numbers);
    assert_eq!(legacy, same);
    assert_ne!(here, there);
    assert_ne!(here, legacy);
    // A refused call leaves nothing behind.
    let mut id = 0;
    // SAFETY: the driver looks the handle up.
    let refused = unsafe { (d.id)(0x1234 as _, &mut id) };
    assert_eq!(refused, Code::CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(legacy_number(ZERO), legacy);
}

#[test]
fn kernels_of_two_threads_are_not_ordered() {
    let s = Setup::new();
    let (d, a, b) = (s.driver, s.a, s.b);
    let text = CString::new(include_str!("data/tests.ptx")).unwrap();
    // SAFETY: NUL-terminated text.
    let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.unwrap();
    // SAFETY: the module is live.
    let relay = unsafe { result::module::get_function(module, c"move".to_owned()) };
    let relay = relay.unwrap() as usize;
    let launch = move |mut to: u64, mut from: u64| {
        let mut params: [*mut c_void; 2] = [(&raw mut to).cast(), (&raw mut from).cast()];
        let (params, none) = (params.as_mut_ptr(), null_mut());
        // SAFETY: the kernel takes two addresses of live cells.
        unsafe { (d.launch)(relay as _, 1, 1, 1, 1, 1, 1, 0, ZERO, params, none) }
            .result()
            .unwrap();
    };
    d.put(a, 7);
    let seen = s.elsewhere(|| {
        launch(b, a);
        d.get(b)
    });
    assert_eq!(seen, 0, "nothing waited for the fill of the other thread");
    launch(b, a);
    assert_eq!(d.get(b), 7, "a thread's own order");
    // SAFETY: the kernels are done.
    unsafe { result::module::unload(module) }.unwrap();
}

#[test]
fn the_legacy_stream_waits_for_the_threads_streams_and_they_for_it() {
    let s = Setup::new();
    let (d, a, b) = (s.driver, s.a, s.b);
    d.put(a, 1);
    // SAFETY: the cells are live.
    unsafe { result::memcpy_dtod_async(b, a, 4, LEGACY) }.unwrap();
    d.put(a, 2);
    assert_eq!(s.elsewhere(|| d.get(b)), 1, "the copy is between the fills");
    assert_eq!(d.get(a), 2);
    // A non-blocking stream has no part in it.
    let free = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    // SAFETY: the stream and the cells are live.
    unsafe {
        sys::cuMemsetD32Async(a, 3, 1, free).result().unwrap();
        assert_eq!(d.get(a), 2);
        (d.synchronize)(free).result().unwrap();
        assert_eq!(d.get(a), 3);
        result::stream::destroy(free).unwrap();
    }
}

#[test]
fn synchronous_functions_wait_for_the_threads_stream_only() {
    let s = Setup::new();
    let (d, a, b) = (s.driver, s.a, s.b);
    // SAFETY: the cells are live; `value` is until the call returns.
    unsafe {
        // A fill of device memory is ordered by the stream, but not waited for.
        (d.set)(a, 5, 1).result().unwrap();
        assert_eq!(s.elsewhere(|| d.get(a)), 0);
        (d.synchronize)(ZERO).result().unwrap();
        assert_eq!(s.elsewhere(|| d.get(a)), 5);
        // A copy from the host is done on return, whatever another thread has left to do.
        s.elsewhere(|| d.put(a, 6));
        let value = 8u32;
        (d.htod)(b, (&raw const value).cast(), 4).result().unwrap();
        assert_eq!(s.elsewhere(|| d.get(b)), 8);
        assert_eq!(d.get(a), 5, "the other thread's fill still waits");
        // The plain function's copy is in the legacy stream, and comes after every thread's work.
        let mut seen = [0u32];
        result::memcpy_dtoh_sync(&mut seen, a).unwrap();
        assert_eq!(seen, [6]);
    }
}

#[test]
fn events_and_captures_in_stream_0() {
    let s = Setup::new();
    let (d, a, b) = (s.driver, s.a, s.b);
    let ready = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    let event = ready as usize;
    let (mut graph, mut run) = (null_mut(), null_mut());
    // SAFETY: cells, event and graph are live.
    unsafe {
        d.put(a, 4);
        (d.record)(ready, ZERO).result().unwrap();
        let seen = s.elsewhere(|| {
            (d.wait)(ZERO, event as _, 0).result().unwrap();
            d.get(a)
        });
        assert_eq!(seen, 4);
        result::event::destroy(ready).unwrap();

        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let refused = sys::cuStreamBeginCapture_v2(ZERO, mode);
        assert_eq!(refused, Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        (d.begin)(ZERO, mode as u32).result().unwrap();
        d.put(b, 9);
        (d.end)(ZERO, &mut graph).result().unwrap();
        assert_eq!(d.get(b), 0, "captured, not run");
        sys::cuGraphInstantiateWithFlags(&mut run, graph, 0)
            .result()
            .unwrap();
        (d.launch_graph)(run, ZERO).result().unwrap();
        assert_eq!(s.elsewhere(|| d.get(b)), 0, "the graph is in this stream");
        assert_eq!(d.get(b), 9);
        sys::cuGraphExecDestroy(run).result().unwrap();
        sys::cuGraphDestroy(graph).result().unwrap();

        // Synchronous functions have no place in a capture, and spoil it.
        (d.begin)(ZERO, mode as u32).result().unwrap();
        let refused = (d.set)(a, 1, 1);
        assert_eq!(refused, Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let spoilt = (d.end)(ZERO, &mut graph);
        assert_eq!(spoilt, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(d.get(a), 4);
    }
}
