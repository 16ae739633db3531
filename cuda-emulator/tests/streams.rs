//! The order of work: streams, events, default streams, host functions. No kernels are needed: copies show what ran before what.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cuda_emulator_loader as _;
use cudarc::driver::{CudaContext, result, sys};
use result::stream::StreamKind;
use sys::cudaError_enum as Code;

/// The seed is the process's: tests that set it take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

fn context() -> Arc<CudaContext> {
    // What races here does so on purpose.
    cuda_emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some("fast"))
        .unwrap()
        .unwrap();
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    context
}

/// A 4-byte cell of device memory, and streams that live as long.
struct Cell(u64);

impl Cell {
    fn new() -> Self {
        // SAFETY: freed in `drop`.
        let cell = Self(unsafe { result::malloc_sync(4) }.unwrap());
        cell.set(0, null_mut());
        // SAFETY: the current context's.
        unsafe { sys::cuCtxSynchronize() }.result().unwrap();
        cell
    }

    /// Sets the cell in a stream's order; a memset, so that nothing waits.
    fn set(&self, value: u32, stream: sys::CUstream) {
        // SAFETY: the cell is live and 4-byte aligned.
        unsafe { sys::cuMemsetD32Async(self.0, value, 1, stream) }
            .result()
            .unwrap();
    }

    /// Copies another cell to this one in a stream's order.
    fn copy(&self, from: &Cell, stream: sys::CUstream) {
        // SAFETY: both cells are live.
        unsafe { result::memcpy_dtod_async(self.0, from.0, 4, stream) }.unwrap();
    }

    /// The value after the stream's work.
    fn get(&self, stream: sys::CUstream) -> u32 {
        let mut value = [0u32];
        // SAFETY: `value` lives until the copy into pageable memory is done, which is on return.
        unsafe { result::memcpy_dtoh_async(&mut value, self.0, stream) }.unwrap();
        value[0]
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // SAFETY: from malloc_sync.
        unsafe { result::free_sync(self.0) }.unwrap();
    }
}

fn non_blocking() -> sys::CUstream {
    result::stream::create(StreamKind::NonBlocking).unwrap()
}

fn event() -> sys::CUevent {
    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap()
}

/// A producer in one stream, a consumer in another; what the consumer saw.
fn handover(wait: bool) -> u32 {
    let (source, target) = (Cell::new(), Cell::new());
    let (a, b) = (non_blocking(), non_blocking());
    let ready = event();
    source.set(42, a);
    // SAFETY: stream and event are live.
    unsafe {
        result::event::record(ready, a).unwrap();
        if wait {
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            result::stream::wait_event(b, ready, flags).unwrap();
        }
        target.copy(&source, b);
        let seen = target.get(b);
        result::stream::synchronize(a).unwrap();
        result::stream::destroy(a).unwrap();
        result::stream::destroy(b).unwrap();
        result::event::destroy(ready).unwrap();
        seen
    }
}

#[test]
fn an_event_orders_two_streams_whatever_the_seed() {
    let _turn = alone();
    let _context = context();
    for seed in (0..100).map(Some).chain([None]) {
        cuda_emulator_loader::set_seed(seed).unwrap();
        assert_eq!(handover(true), 42, "seed {seed:?}");
    }
    cuda_emulator_loader::set_seed(None).unwrap();
}

#[test]
fn a_missing_wait_shows() {
    let _turn = alone();
    let _context = context();
    let mut seen = [0, 0];
    for seed in 0..64 {
        cuda_emulator_loader::set_seed(Some(seed)).unwrap();
        seen[usize::from(handover(false) == 42)] += 1;
    }
    assert!(
        seen[0] > 5 && seen[1] > 5,
        "late and early in {seen:?} of 64 seeds"
    );
    // Without a seed only what is waited for runs.
    cuda_emulator_loader::set_seed(None).unwrap();
    assert_eq!(handover(false), 0);
}

#[test]
fn the_same_seed_gives_the_same_order() {
    let _turn = alone();
    let _context = context();
    let order = |seed| {
        cuda_emulator_loader::set_seed(Some(seed)).unwrap();
        let cell = Cell::new();
        let streams: Vec<_> = (0..8).map(|_| non_blocking()).collect();
        for (i, &s) in streams.iter().enumerate() {
            cell.set(i as u32, s);
        }
        // SAFETY: the streams are live.
        let last = unsafe {
            sys::cuCtxSynchronize().result().unwrap();
            streams
                .iter()
                .for_each(|&s| result::stream::destroy(s).unwrap());
            cell.get(null_mut())
        };
        cuda_emulator_loader::set_seed(None).unwrap();
        last
    };
    let orders: Vec<_> = (0..20).map(order).collect();
    assert_eq!((0..20).map(order).collect::<Vec<_>>(), orders);
    assert!(orders.iter().any(|o| *o != orders[0]), "{orders:?}");
}

#[test]
fn the_legacy_default_stream_waits_for_blocking_streams_only() {
    let _turn = alone();
    let _context = context();
    let mut late = [0; 2];
    for seed in 0..40 {
        cuda_emulator_loader::set_seed(Some(seed)).unwrap();
        for (i, kind) in [StreamKind::Default, StreamKind::NonBlocking]
            .into_iter()
            .enumerate()
        {
            let (source, target) = (Cell::new(), Cell::new());
            let stream = result::stream::create(kind).unwrap();
            source.set(1, stream);
            target.copy(&source, null_mut());
            source.set(2, stream);
            late[i] += u32::from(target.get(null_mut()) != 1);
            // SAFETY: the stream is live.
            unsafe { result::stream::destroy(stream) }.unwrap();
        }
    }
    cuda_emulator_loader::set_seed(None).unwrap();
    assert_eq!(late[0], 0);
    assert!(late[1] > 5, "{late:?}");
}

#[test]
fn per_thread_default_streams_are_unordered_between_threads() {
    let _turn = alone();
    let context = context();
    // CU_STREAM_PER_THREAD.
    let per_thread = || 2 as sys::CUstream;
    let (source, target) = (Cell::new(), Cell::new());
    source.set(5, per_thread());
    let seen = std::thread::scope(|s| {
        let other = s.spawn(|| {
            context.bind_to_thread().unwrap();
            target.copy(&source, per_thread());
            target.get(per_thread())
        });
        other.join().unwrap()
    });
    assert_eq!(seen, 0, "the other thread's stream has no reason to run");
    assert_eq!(source.get(per_thread()), 5);
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs() {
    let _turn = alone();
    let context = context();
    cuda_emulator_loader::set_seed(None).unwrap();
    let cell = Cell::new();
    // SAFETY: written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(1) }.unwrap();
    pinned.as_mut_slice().unwrap()[0] = 1;
    let stream = non_blocking();
    let pointer = pinned.as_mut_ptr().unwrap();
    // SAFETY: pinned memory outlives the copy; changing it too early is the mistake under test.
    unsafe {
        sys::cuMemcpyHtoDAsync_v2(cell.0, pointer.cast(), 4, stream)
            .result()
            .unwrap();
        pointer.write(2);
    }
    assert_eq!(cell.get(stream), 2, "the copy had not run yet");
    let pageable = vec![3u32];
    // SAFETY: pageable memory is read before the call returns.
    unsafe { result::memcpy_htod_async(cell.0, &pageable, stream) }.unwrap();
    drop(pageable);
    assert_eq!(cell.get(stream), 3);
    // SAFETY: the stream is live.
    unsafe { result::stream::destroy(stream) }.unwrap();
}

#[test]
fn queries_make_progress() {
    let _turn = alone();
    let _context = context();
    let cell = Cell::new();
    let stream = non_blocking();
    let done = event();
    // SAFETY: stream and event are live.
    unsafe {
        assert_eq!(
            sys::cuEventQuery(done),
            Code::CUDA_SUCCESS,
            "never recorded"
        );
        for i in 0..5 {
            cell.set(i, stream);
        }
        result::event::record(done, stream).unwrap();
        let mut asked = 0;
        loop {
            match sys::cuEventQuery(done) {
                Code::CUDA_SUCCESS => break,
                other => assert_eq!(other, Code::CUDA_ERROR_NOT_READY),
            }
            asked += 1;
            assert!(asked < 100);
        }
        assert!(asked > 0, "the work was not waited for, and yet done");
        assert_eq!(sys::cuStreamQuery(stream), Code::CUDA_SUCCESS);
        result::stream::destroy(stream).unwrap();
        result::event::destroy(done).unwrap();
    }
}

#[test]
fn event_times() {
    let _turn = alone();
    let _context = context();
    let cell = Cell::new();
    let timed = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
    let (a, b, untimed) = (timed(), timed(), event());
    let invalid = Code::CUDA_ERROR_INVALID_HANDLE;
    let mut time = -1.0;
    // SAFETY: the events are live.
    unsafe {
        assert_eq!(
            sys::cuEventElapsedTime_v2(&mut time, a, b),
            invalid,
            "never recorded"
        );
        result::event::record(a, null_mut()).unwrap();
        cell.set(1, null_mut());
        result::event::record(b, null_mut()).unwrap();
        assert_eq!(
            sys::cuEventElapsedTime_v2(&mut time, a, b),
            Code::CUDA_ERROR_NOT_READY
        );
        result::event::synchronize(b).unwrap();
        assert_eq!(
            sys::cuEventElapsedTime_v2(&mut time, a, b),
            Code::CUDA_SUCCESS
        );
        assert!((0.0..1e4).contains(&time), "{time}");
        result::event::record(untimed, null_mut()).unwrap();
        assert_eq!(sys::cuEventElapsedTime_v2(&mut time, a, untimed), invalid);
        for e in [a, b, untimed] {
            result::event::destroy(e).unwrap();
        }
    }
}

static CALLED: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn note(data: *mut c_void) {
    CALLED.store(data as usize as u32, Ordering::SeqCst);
    let mut free = 0;
    let mut all = 0;
    // SAFETY: the pointers are live; the call is forbidden here, which is the point.
    let refused = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut all) };
    assert_eq!(refused, Code::CUDA_ERROR_NOT_PERMITTED);
}

#[test]
fn host_functions_run_in_order_and_may_not_call_the_driver() {
    let _turn = alone();
    let _context = context();
    let stream = non_blocking();
    let cell = Cell::new();
    cell.set(1, stream);
    // SAFETY: `note` takes any number as its data.
    unsafe { sys::cuLaunchHostFunc(stream, Some(note), 17 as *mut c_void) }
        .result()
        .unwrap();
    // SAFETY: the stream is live.
    unsafe { result::stream::synchronize(stream) }.unwrap();
    assert_eq!(CALLED.load(Ordering::SeqCst), 17);
    // SAFETY: the stream is live.
    unsafe { result::stream::destroy(stream) }.unwrap();
}

unsafe extern "C" fn send(data: *mut c_void) {
    // SAFETY: the data is the sender that the test leaked for this one call.
    let sender = unsafe { Box::from_raw(data.cast::<std::sync::mpsc::Sender<()>>()) };
    sender.send(()).unwrap();
}

#[test]
fn a_program_may_wait_for_its_host_function_by_itself() {
    let _turn = alone();
    let _context = context();
    let stream = non_blocking();
    let cell = Cell::new();
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    cell.set(1, stream);
    let data = Box::into_raw(Box::new(sender)).cast();
    // SAFETY: `send` takes a leaked sender.
    unsafe { sys::cuLaunchHostFunc(stream, Some(send), data) }
        .result()
        .unwrap();
    receiver
        .recv_timeout(std::time::Duration::from_secs(60))
        .unwrap();
    // SAFETY: the stream is live.
    unsafe { result::stream::destroy(stream) }.unwrap();
}

#[test]
fn stream_ordered_allocations() {
    let _turn = alone();
    let _context = context();
    for seed in 0..20 {
        cuda_emulator_loader::set_seed(Some(seed)).unwrap();
        let stream = non_blocking();
        // SAFETY: used in the stream's order, and after the free only to see it refused.
        unsafe {
            let a = result::malloc_async(stream, 64).unwrap();
            result::memset_d8_async(a, 9, 64, stream).unwrap();
            let mut back = [0u8; 64];
            result::memcpy_dtoh_async(&mut back, a, stream).unwrap();
            assert_eq!(back, [9; 64]);
            result::free_async(a, stream).unwrap();
            let again = result::free_async(a, stream).unwrap_err();
            assert_eq!(again.0, Code::CUDA_ERROR_INVALID_VALUE);
            result::stream::synchronize(stream).unwrap();
            let late = result::memset_d8_async(a, 0, 64, stream).unwrap_err();
            assert_eq!(late.0, Code::CUDA_ERROR_INVALID_VALUE);
            result::stream::destroy(stream).unwrap();
        }
    }
    cuda_emulator_loader::set_seed(None).unwrap();
}

#[test]
fn many_threads_share_a_context() {
    let _turn = alone();
    let context = context();
    std::thread::scope(|s| {
        for t in 0..8u32 {
            let context = &context;
            s.spawn(move || {
                let stream = context.new_stream().unwrap();
                for i in 0..50 {
                    let data = vec![t * 1000 + i; 100];
                    let a = stream.clone_htod(&data).unwrap();
                    let mut b = stream.alloc_zeros::<u32>(100).unwrap();
                    stream.memcpy_dtod(&a, &mut b).unwrap();
                    assert_eq!(stream.clone_dtoh(&b).unwrap(), data);
                }
            });
        }
    });
}

unsafe extern "C" fn receive(data: *mut c_void) {
    // SAFETY: the data is the receiver that the test leaked for this one call.
    let receiver = unsafe { Box::from_raw(data.cast::<std::sync::mpsc::Receiver<()>>()) };
    // A program that never sends fails the test, and does not hang it.
    let _ = receiver.recv_timeout(std::time::Duration::from_secs(20));
}

#[test]
fn neither_a_query_nor_a_submission_waits_for_a_host_function() {
    let _turn = alone();
    let _context = context();
    let start = std::time::Instant::now();
    for seed in (0..20).map(Some).chain([None]) {
        cuda_emulator_loader::set_seed(seed).unwrap();
        let (stream, done, cell) = (non_blocking(), event(), Cell::new());
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let data = Box::into_raw(Box::new(receiver)).cast();
        // SAFETY: stream and event are live; `receive` takes a leaked receiver.
        unsafe {
            sys::cuLaunchHostFunc(stream, Some(receive), data)
                .result()
                .unwrap();
            cell.set(3, stream);
            result::event::record(done, stream).unwrap();
            assert_eq!(sys::cuEventQuery(done), Code::CUDA_ERROR_NOT_READY);
            assert_eq!(sys::cuStreamQuery(stream), Code::CUDA_ERROR_NOT_READY);
            sender.send(()).unwrap();
            while sys::cuEventQuery(done) == Code::CUDA_ERROR_NOT_READY {
                assert!(start.elapsed().as_secs() < 20, "polling comes to no end");
                std::thread::yield_now();
            }
            assert_eq!(cell.get(stream), 3);
            result::stream::destroy(stream).unwrap();
            result::event::destroy(done).unwrap();
        }
    }
    cuda_emulator_loader::set_seed(None).unwrap();
    assert!(start.elapsed().as_secs() < 20, "something waited");
}
