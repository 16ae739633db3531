//! Capture of the whole routing pipeline in a CUDA graph: replayed on other inputs it computes what launches compute.

use millet::cudarc::driver::CudaContext;
use millet::cudarc::driver::sys::CUgraphInstantiate_flags;
use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::half::bf16;
use millet::{Cuda, MoeConfig, Permute, PermuteForward};

use crate::pipeline::{Pipeline, Source, assert_same, config};
use crate::{alone, plan_in_order};

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

/// The graph has the kernels' handles; the backends that loaded them may be gone.
#[test]
fn a_graph_outlives_the_backends() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: everything here is in one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let hidden = 64;
    let x = stream.clone_htod(&vec![1.5f32; 4 * hidden]).unwrap();
    let mut rows = stream.alloc_zeros::<f32>(8 * hidden).unwrap();
    let config = MoeConfig::builder(hidden, 1, 4, 2).build().unwrap();
    let cuda = Cuda::new(&stream).unwrap();
    let plan = plan_in_order(&cuda, &config, 4);
    stream
        .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    cuda.permute(PermuteForward {
        plan: &plan,
        x: (&x).into(),
        rows: rows.as_view_mut(),
    })
    .unwrap();
    // The last backend; what is captured cannot be waited for.
    drop(cuda);
    let graph = stream
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    assert_eq!(stream.clone_dtoh(&rows).unwrap(), vec![1.5; 8 * hidden]);
    // Other backends come and go.
    drop(Cuda::new(&stream).unwrap());
    drop(Cuda::new(&CudaContext::new(0).unwrap().new_stream().unwrap()).unwrap());
    stream.memset_zeros(&mut rows).unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&rows).unwrap(), vec![1.5; 8 * hidden]);
}
