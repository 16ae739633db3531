//! What a program may do for days must not make the process grow: things that are made, used and given back, many times over. In one test,
//! for memory is the process's.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use cuda_emulator_loader as _;
use cudarc::driver::{CudaContext, result, sys};
use result::stream::StreamKind;
use sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED as RELAXED;

const PTX: &str = include_str!("data/tests.ptx");

/// Bytes of the process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A context with the kernel `move`, which takes a word from one place to another.
struct Setup {
    context: Arc<CudaContext>,
    text: CString,
    module: sys::CUmodule,
    function: sys::CUfunction,
    words: u64,
}

impl Setup {
    fn new() -> Self {
        let context = CudaContext::new(0).unwrap();
        context.bind_to_thread().unwrap();
        let text = CString::new(PTX).unwrap();
        let module = load(&text);
        // SAFETY: the module is live.
        let function = unsafe { result::module::get_function(module, c"move".to_owned()) }.unwrap();
        // SAFETY: freed in `drop`.
        let words = unsafe { result::malloc_sync(8) }.unwrap();
        // SAFETY: 8 bytes of a live allocation.
        unsafe { result::memcpy_htod_sync(words, &[7u32, 0]) }.unwrap();
        Self {
            context,
            text,
            module,
            function,
            words,
        }
    }

    fn launch(&self, stream: sys::CUstream) {
        let (mut to, mut from) = (self.words + 4, self.words);
        let mut params: [*mut c_void; 2] = [(&raw mut to).cast(), (&raw mut from).cast()];
        let (one, none) = ((1, 1, 1), 0);
        // SAFETY: the kernel's parameters are two addresses.
        unsafe { result::launch_kernel(self.function, one, one, none, stream, &mut params) }
            .unwrap();
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        unsafe {
            result::free_sync(self.words).unwrap();
            result::module::unload(self.module).unwrap();
        }
    }
}

fn load(text: &CString) -> sys::CUmodule {
    // SAFETY: NUL-terminated text.
    unsafe { result::module::load_data(text.as_ptr().cast()) }.unwrap()
}

fn stream() -> sys::CUstream {
    result::stream::create(StreamKind::NonBlocking).unwrap()
}

fn event() -> sys::CUevent {
    result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap()
}

/// Does it so many times, of which the first ones fill what is kept for later.
#[track_caller]
fn does_not_grow(what: &str, times: usize, body: impl FnMut()) {
    grows_below(NOISE, what, times, body);
}

#[track_caller]
fn grows_below(most: usize, what: &str, times: usize, mut body: impl FnMut()) {
    for _ in 0..times / 10 {
        body();
    }
    let before = resident();
    for _ in 0..times {
        body();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < most, "{what}, {times} times: {grown} bytes more");
}

/// Bytes that may come by chance: commands that wait, stacks of threads. An object that stays costs a hundred, 10 000 times over.
const NOISE: usize = 512 << 10;
/// Bytes that may come with time: freed allocations are remembered, up to a number.
const REMEMBERED: usize = 2 << 20;

#[test]
fn nothing_grows() {
    let setup = Setup::new();
    let null = null_mut();
    let finish = || result::ctx::synchronize().unwrap();

    does_not_grow("launches", 100_000, || setup.launch(null));
    finish();
    does_not_grow("launches, each waited for", 100_000, || {
        setup.launch(null);
        finish();
    });
    does_not_grow("modules", 10_000, || {
        let module = load(&setup.text);
        // SAFETY: the module is live, and nothing of it runs.
        unsafe {
            result::module::get_function(module, c"move".to_owned()).unwrap();
            result::module::unload(module).unwrap();
        }
    });
    does_not_grow("streams", 10_000, || {
        let stream = stream();
        setup.launch(stream);
        // SAFETY: the stream is live.
        unsafe { result::stream::destroy(stream) }.unwrap();
    });
    // SAFETY: streams and events are live until they are destroyed here.
    unsafe {
        let long_lived = stream();
        does_not_grow("streams that another waits for", 10_000, || {
            let (stream, event) = (stream(), event());
            setup.launch(stream);
            result::event::record(event, stream).unwrap();
            result::stream::wait_event(
                long_lived,
                event,
                sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT,
            )
            .unwrap();
            setup.launch(long_lived);
            result::stream::synchronize(long_lived).unwrap();
            result::event::destroy(event).unwrap();
            result::stream::destroy(stream).unwrap();
        });
        let again = event();
        does_not_grow("an event of many streams", 10_000, || {
            let stream = stream();
            result::event::record(again, stream).unwrap();
            result::event::synchronize(again).unwrap();
            result::stream::destroy(stream).unwrap();
        });
        does_not_grow("records of one event", 100_000, || {
            result::event::record(again, long_lived).unwrap();
        });
        result::event::destroy(again).unwrap();
        result::stream::synchronize(long_lived).unwrap();

        does_not_grow("graphs", 10_000, || {
            result::stream::begin_capture(long_lived, RELAXED).unwrap();
            for _ in 0..4 {
                setup.launch(long_lived);
            }
            let graph = result::stream::end_capture(long_lived).unwrap();
            let mut nodes = [null_mut(); 4];
            let mut count = 4;
            sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count)
                .result()
                .unwrap();
            let mut executable = null_mut();
            sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0)
                .result()
                .unwrap();
            sys::cuGraphLaunch(executable, long_lived).result().unwrap();
            result::stream::synchronize(long_lived).unwrap();
            sys::cuGraphExecDestroy(executable).result().unwrap();
            sys::cuGraphDestroy(graph).result().unwrap();
        });
        result::stream::synchronize(long_lived).unwrap();
        does_not_grow("small allocations", 20_000, || {
            let at = result::malloc_sync(100).unwrap();
            result::memcpy_htod_sync(at, &[1u8; 100]).unwrap();
            result::free_sync(at).unwrap();
        });
        grows_below(REMEMBERED, "large allocations", 1000, || {
            let at = result::malloc_sync(1 << 20).unwrap();
            result::memset_d8_sync(at, 1, 1 << 20).unwrap();
            result::free_sync(at).unwrap();
        });
        grows_below(REMEMBERED, "allocations of a stream", 20_000, || {
            let at = result::malloc_async(long_lived, 100).unwrap();
            result::memset_d8_async(at, 1, 100, long_lived).unwrap();
            result::free_async(at, long_lived).unwrap();
        });
        result::stream::synchronize(long_lived).unwrap();
        does_not_grow("pinned memory", 20_000, || {
            let at = result::malloc_host(100, 0).unwrap();
            at.cast::<u8>().write_bytes(1, 100);
            result::free_host(at).unwrap();
        });
        does_not_grow("copies from memory that is not there", 10_000, || {
            let code = sys::cuMemcpyHtoD_v2(setup.words, 16 as *const c_void, 4);
            assert!(code.result().is_err());
        });
        does_not_grow("host functions", 2000, || {
            extern "C" fn nothing(_: *mut c_void) {}
            sys::cuLaunchHostFunc(long_lived, Some(nothing), null_mut())
                .result()
                .unwrap();
        });
        result::stream::synchronize(long_lived).unwrap();
        let (context, words) = (&setup.context, setup.words);
        does_not_grow("threads with a default stream", 1000, || {
            std::thread::scope(|s| {
                s.spawn(|| {
                    context.bind_to_thread().unwrap();
                    let own = 2 as sys::CUstream;
                    result::memset_d8_async(words, 1, 4, own).unwrap();
                    result::stream::synchronize(own).unwrap();
                });
            });
        });
        result::stream::destroy(long_lived).unwrap();
        does_not_grow("contexts", 10_000, || {
            let mut context = null_mut();
            sys::cuCtxCreate_v4(&mut context, null_mut(), 0, 0)
                .result()
                .unwrap();
            let at = result::malloc_sync(100).unwrap();
            result::free_sync(at).unwrap();
            sys::cuCtxDestroy_v2(context).result().unwrap();
        });
    }
}
