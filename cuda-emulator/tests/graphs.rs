//! Stream capture and graphs.

use std::ptr::null_mut;
use std::sync::Arc;

use cuda_emulator_loader as _;
use cudarc::driver::{CudaContext, CudaStream, result, sys};
use sys::CUstreamCaptureMode as Mode;
use sys::cudaError_enum as Code;

const NO_FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

/// A context without event tracking, which would make captured work wait for events from before, and a stream.
fn setup() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: each test uses its slices in one stream, or orders the streams itself.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    (context, stream)
}

#[test]
fn captured_work_runs_at_every_launch_and_not_before() {
    let (_context, stream) = setup();
    let mut a = stream.clone_htod(&[1u32; 8]).unwrap();
    let b = stream.clone_htod(&[2u32; 8]).unwrap();
    stream
        .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    assert_eq!(
        stream.capture_status().unwrap(),
        sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE
    );
    stream.memcpy_dtod(&b, &mut a).unwrap();
    let graph = stream.end_capture(NO_FLAGS).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&a).unwrap(), [1; 8]);
    graph.upload().unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&a).unwrap(), [2; 8]);
    stream.memcpy_htod(&[3; 8], &mut a).unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&a).unwrap(), [2; 8]);
    let mut nodes = 0;
    // SAFETY: the graph is live; a null array asks for the number.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), null_mut(), &mut nodes) }
        .result()
        .unwrap();
    assert_eq!(nodes, 1);
}

#[test]
fn a_fork_must_be_joined() {
    let (context, stream) = setup();
    let other = context.new_stream().unwrap();
    let mut a = stream.clone_htod(&[1u32]).unwrap();
    let mut b = stream.clone_htod(&[2u32]).unwrap();
    stream.synchronize().unwrap();
    let event = || context.new_event(None).unwrap();
    for join in [true, false] {
        stream
            .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        let (fork, done) = (event(), event());
        stream.memset_zeros(&mut a).unwrap();
        fork.record(&stream).unwrap();
        other.wait(&fork).unwrap();
        other.memset_zeros(&mut b).unwrap();
        if join {
            done.record(&other).unwrap();
            stream.wait(&done).unwrap();
        }
        let graph = stream.end_capture(NO_FLAGS);
        if join {
            graph.unwrap().unwrap().launch().unwrap();
            assert_eq!(stream.clone_dtoh(&a).unwrap(), [0]);
            assert_eq!(stream.clone_dtoh(&b).unwrap(), [0]);
        } else {
            assert_eq!(
                graph.err().unwrap().0,
                Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
            );
        }
        // Both streams work as before.
        other.memset_zeros(&mut b).unwrap();
        other.synchronize().unwrap();
    }
}

#[test]
fn waiting_for_an_event_from_outside_breaks_isolation() {
    let (context, stream) = setup();
    let event = context.new_event(None).unwrap();
    event.record(&stream).unwrap();
    stream
        .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED)
        .unwrap();
    assert_eq!(
        stream.wait(&event).unwrap_err().0,
        Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION
    );
    let ended = stream.end_capture(NO_FLAGS).err().unwrap();
    assert_eq!(ended.0, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    stream.synchronize().unwrap();
}

#[test]
fn what_a_capture_forbids() {
    let (context, stream) = setup();
    context.bind_to_thread().unwrap();
    let raw = stream.cu_stream();
    let unsupported = Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let begin = |mode| stream.begin_capture(mode).unwrap();
    let invalidated = |what: &str| {
        let ended = stream.end_capture(NO_FLAGS).err().unwrap();
        assert_eq!(
            ended.0,
            Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            "{what}"
        );
    };
    // SAFETY: handles are live, and memory is freed.
    unsafe {
        begin(Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
        assert_eq!(sys::cuStreamSynchronize(raw), unsupported);
        invalidated("synchronising the stream");

        begin(Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
        assert_eq!(sys::cuStreamQuery(raw), unsupported);
        invalidated("querying the stream");

        begin(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        assert_eq!(result::malloc_sync(16).unwrap_err().0, unsupported);
        invalidated("allocating");

        begin(Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
        let a = result::malloc_sync(16).unwrap();
        assert!(stream.end_capture(NO_FLAGS).unwrap().is_some());
        result::free_sync(a).unwrap();

        begin(Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
        let event = context.new_event(None).unwrap();
        event.record(&stream).unwrap();
        assert_eq!(
            sys::cuEventSynchronize(event.cu_event()),
            Code::CUDA_ERROR_CAPTURED_EVENT
        );
        assert_eq!(
            stream
                .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED)
                .unwrap_err()
                .0,
            Code::CUDA_ERROR_ILLEGAL_STATE
        );
        stream.end_capture(NO_FLAGS).unwrap();
        let mut graph = null_mut();
        assert_eq!(
            sys::cuStreamEndCapture(raw, &mut graph),
            Code::CUDA_ERROR_ILLEGAL_STATE
        );
        assert_eq!(
            sys::cuStreamBeginCapture_v2(null_mut(), Mode::CU_STREAM_CAPTURE_MODE_RELAXED),
            unsupported
        );
    }
}

#[test]
fn the_legacy_stream_may_not_wait_for_a_capture() {
    let (context, _) = setup();
    context.bind_to_thread().unwrap();
    let kind = result::stream::StreamKind::Default;
    let blocking = result::stream::create(kind).unwrap();
    // SAFETY: handles are live, and memory is freed.
    unsafe {
        let a = result::malloc_sync(16).unwrap();
        let mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
        result::stream::begin_capture(blocking, mode).unwrap();
        let refused = sys::cuMemsetD8Async(a, 0, 16, null_mut());
        assert_eq!(refused, Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        let mut graph = null_mut();
        let ended = sys::cuStreamEndCapture(blocking, &mut graph);
        assert_eq!(
            (ended, graph),
            (Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, null_mut())
        );
        result::stream::destroy(blocking).unwrap();
        result::free_sync(a).unwrap();
    }
}

#[test]
fn a_capture_is_ended_where_it_began() {
    let (context, stream) = setup();
    let other = context.new_stream().unwrap();
    stream
        .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    std::thread::scope(|s| {
        let refused = s
            .spawn(|| stream.end_capture(NO_FLAGS).err().unwrap().0)
            .join()
            .unwrap();
        assert_eq!(refused, Code::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    });
    let fork = context.new_event(None).unwrap();
    fork.record(&stream).unwrap();
    other.wait(&fork).unwrap();
    let unmatched = other.end_capture(NO_FLAGS).err().unwrap().0;
    assert_eq!(unmatched, Code::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    stream.end_capture(NO_FLAGS).err().unwrap();
}
