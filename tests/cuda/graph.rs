//! Capture of the whole routing pipeline in a CUDA graph: replayed on other inputs it computes what launches compute.

use millet::Cuda;
use millet::cudarc::driver::CudaContext;
use millet::cudarc::driver::sys::CUgraphInstantiate_flags;
use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::half::bf16;

use crate::alone;
use crate::pipeline::{Pipeline, Source, assert_same, config};

#[test]
fn a_captured_pipeline_computes_what_launches_do() {
    captured(Source::Given);
}

#[test]
fn a_captured_pipeline_from_tokens_computes_what_launches_do() {
    captured(Source::Tokens);
}

fn captured(source: Source) {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: everything here is in one stream.
    unsafe { context.disable_event_tracking() };
    let cuda = Cuda::new(&context.new_stream().unwrap()).unwrap();
    let mut pipeline = Pipeline::<bf16>::new(&cuda, &config(40, 12, 3), 50, source);

    let mut launched = Vec::new();
    for seed in 0..3 {
        pipeline.fill(seed);
        pipeline.submit().unwrap();
        launched.push(pipeline.results());
    }
    assert_ne!(launched[0], launched[1]);

    pipeline.fill(9);
    let untouched = pipeline.results();
    let stream = cuda.stream();
    stream
        .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    pipeline.submit().unwrap();
    let graph = stream
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    assert_same(&pipeline.results(), &untouched, "capturing runs nothing");

    for seed in [1, 2, 0] {
        pipeline.fill(seed);
        graph.launch().unwrap();
        let what = format!("replayed on inputs {seed}");
        assert_same(&pipeline.results(), &launched[seed as usize], &what);
    }
    // Once more on what the last replay left: nothing carries over.
    graph.launch().unwrap();
    assert_same(&pipeline.results(), &launched[0], "replayed twice");
}
