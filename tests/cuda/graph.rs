//! Capture of the whole routing pipeline in a CUDA graph: replayed on other inputs it computes what launches compute.

use millet::cudarc::driver::CudaContext;
use millet::cudarc::driver::sys::CUgraphInstantiate_flags;
use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::half::bf16;
use millet::{
    Cuda, Dispatch, DispatchForward, Error, Memory, MoeConfig, Permute, PermuteForward, Plan,
    Result,
};

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

/// What a captured dispatch writes is there when its graph has run, and again each time: the plan keeps its number of tokens.
#[test]
fn a_plan_that_a_graph_fills_keeps_its_number_of_tokens() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: everything here is in one stream.
    unsafe { context.disable_event_tracking() };
    let cuda = Cuda::new(&context.new_stream().unwrap()).unwrap();
    let stream = cuda.stream();
    let config = MoeConfig::builder(64, 1, 4, 2).build().unwrap();
    let ids = cuda.upload(&[1; 16]).unwrap();
    let mut weights = cuda.upload(&[0.5f32; 16]).unwrap();
    let mut scratch = cuda
        .allocate::<f32>(cuda.scratch_elements::<f32>(&config, 8))
        .unwrap();
    let mut dispatch = |plan: &mut Plan<Cuda>, tokens: usize| -> Result<()> {
        cuda.dispatch(DispatchForward::<Cuda, f32> {
            config: &config,
            tokens,
            ids: Cuda::view(&ids, 2 * tokens),
            weights: Cuda::view_mut(&mut weights, 2 * tokens),
            plan,
            scratch: scratch.as_view_mut(),
        })
    };
    let mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let refused = |result: Result<()>, given: &str, expected: &str| {
        let error = result.unwrap_err();
        let Error::WrongConfiguration {
            operation: "dispatch",
            object: "Plan",
            given: have,
            expected: want,
        } = &error
        else {
            panic!("{error}");
        };
        assert!(have.starts_with(given) && want == expected, "{error}");
    };

    // Filled by a launch first: a graph may fill it for as many tokens, not for others.
    let mut plan = Plan::new(&cuda, &config, 8).unwrap();
    dispatch(&mut plan, 8).unwrap();
    stream.begin_capture(mode).unwrap();
    refused(dispatch(&mut plan, 1), "8 tokens", "1 tokens");
    dispatch(&mut plan, 8).unwrap();
    // Copies would be made by the graph, from and to memory that is gone by then.
    for error in [
        cuda.read(Cuda::view(&ids, 4)).err().unwrap(),
        cuda.upload(&[1.0f32]).err().unwrap(),
    ] {
        assert!(error.to_string().contains("captured"), "{error}");
    }
    let graph = stream
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    refused(dispatch(&mut plan, 1), "8 tokens", "1 tokens");
    dispatch(&mut plan, 8).unwrap();
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    assert_eq!(plan.tokens(), 8);

    // Filled by a graph that never ran.
    let mut plan = Plan::new(&cuda, &config, 8).unwrap();
    stream.begin_capture(mode).unwrap();
    dispatch(&mut plan, 3).unwrap();
    drop(stream.end_capture(CUgraphInstantiate_flags(0)).unwrap());
    refused(dispatch(&mut plan, 8), "3 tokens", "8 tokens");
    dispatch(&mut plan, 3).unwrap();
}
