//! Capture of the whole routing pipeline in a CUDA graph: replayed on other inputs it computes what launches compute.

use millet::cudarc::driver::sys::CUgraphInstantiate_flags;
use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::cudarc::driver::{CudaContext, CudaGraph, CudaSlice};
use millet::half::bf16;
use millet::{
    Capacity, Cuda, Dispatch, DispatchForward, Error, Memory, MoeConfig, Permute, PermuteForward,
    Plan, Result,
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

/// A device, and what a dispatch of top-2 over 4 experts takes for up to 16 tokens.
struct Dispatching {
    cuda: Cuda,
    ids: CudaSlice<i32>,
    weights: CudaSlice<f32>,
    scratch: CudaSlice<f32>,
}

impl Dispatching {
    const HIDDEN: usize = 64;

    fn new() -> Self {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: everything here is in one stream.
        unsafe { context.disable_event_tracking() };
        let cuda = Cuda::new(&context.new_stream().unwrap()).unwrap();
        let scratch = cuda.scratch_elements::<f32>(&Self::config(), 16);
        Self {
            ids: cuda.upload(&[1; 32]).unwrap(),
            weights: cuda.upload(&[0.5; 32]).unwrap(),
            scratch: cuda.allocate(scratch).unwrap(),
            cuda,
        }
    }

    fn config() -> MoeConfig {
        MoeConfig::builder(Self::HIDDEN, 1, 4, 2).build().unwrap()
    }

    /// A plan with room for 16 tokens.
    fn plan(&self, config: &MoeConfig) -> Plan<Cuda> {
        Plan::new(&self.cuda, config, 16).unwrap()
    }

    fn dispatch(&mut self, config: &MoeConfig, plan: &mut Plan<Cuda>, tokens: usize) -> Result<()> {
        self.cuda.dispatch(DispatchForward::<Cuda, f32> {
            config,
            tokens,
            ids: Cuda::view(&self.ids, 2 * tokens),
            weights: Cuda::view_mut(&mut self.weights, 2 * tokens),
            plan,
            scratch: self.scratch.as_view_mut(),
        })
    }

    /// Into as many rows as the plan's tokens may have.
    fn permute(&self, plan: &Plan<Cuda>) -> Result<()> {
        let (x, rows) = (plan.tokens(), plan.config().max_rows(plan.tokens()));
        let x = self.cuda.allocate::<f32>(x * Self::HIDDEN)?;
        let mut into = self.cuda.allocate::<f32>(rows * Self::HIDDEN)?;
        self.cuda.permute(PermuteForward {
            plan,
            x: Cuda::view(&x, plan.tokens() * Self::HIDDEN),
            rows: Cuda::view_mut(&mut into, rows * Self::HIDDEN),
        })
    }

    fn capture(&mut self, submit: impl FnOnce(&mut Self)) -> CudaGraph {
        let stream = self.cuda.stream().clone();
        stream
            .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        submit(self);
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
        graph.unwrap()
    }
}

#[track_caller]
fn refused(result: Result<()>, given: &str, expected: &str) {
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
}

/// What a captured dispatch writes is there when its graph has run, and again each time: the plan keeps its number of tokens.
#[test]
fn a_plan_that_a_graph_fills_keeps_its_number_of_tokens() {
    let _alone = alone();
    let mut on = Dispatching::new();
    let config = Dispatching::config();

    // Filled by a launch first: a graph may fill it for as many tokens, not for others.
    let mut plan = on.plan(&config);
    on.dispatch(&config, &mut plan, 8).unwrap();
    let graph = on.capture(|on| {
        refused(on.dispatch(&config, &mut plan, 1), "8 tokens", "1 tokens");
        on.dispatch(&config, &mut plan, 8).unwrap();
        // Copies would be made by the graph, from and to memory that is gone by then.
        for error in [
            on.cuda.read(Cuda::view(&on.ids, 4)).err().unwrap(),
            on.cuda.upload(&[1.0f32]).err().unwrap(),
        ] {
            assert!(error.to_string().contains("captured"), "{error}");
        }
    });
    refused(on.dispatch(&config, &mut plan, 1), "8 tokens", "1 tokens");
    on.dispatch(&config, &mut plan, 8).unwrap();
    graph.launch().unwrap();
    on.cuda.stream().synchronize().unwrap();
    assert_eq!(plan.tokens(), 8);

    // Filled by a graph that never ran.
    let mut plan = on.plan(&config);
    drop(on.capture(|on| on.dispatch(&config, &mut plan, 3).unwrap()));
    refused(on.dispatch(&config, &mut plan, 8), "3 tokens", "8 tokens");
    on.dispatch(&config, &mut plan, 3).unwrap();
    on.permute(&plan).unwrap();
}

/// A graph that follows a plan has buffers for its number of tokens then: more would be written beside them.
#[test]
fn a_plan_that_a_graph_follows_keeps_its_number_of_tokens() {
    let _alone = alone();
    let mut on = Dispatching::new();
    let config = Dispatching::config();
    let mut plan = on.plan(&config);
    on.dispatch(&config, &mut plan, 4).unwrap();
    let x = on.cuda.allocate::<f32>(4 * 64).unwrap();
    let mut rows = on.cuda.allocate::<f32>(8 * 64).unwrap();
    let graph = on.capture(|on| {
        let (x, rows) = ((&x).into(), rows.as_view_mut());
        let plan = &plan;
        on.cuda.permute(PermuteForward { plan, x, rows }).unwrap();
    });
    refused(on.dispatch(&config, &mut plan, 16), "4 tokens", "16 tokens");
    on.dispatch(&config, &mut plan, 4).unwrap();
    graph.launch().unwrap();
    on.cuda.stream().synchronize().unwrap();
}

/// What a plan holds when a graph first fills it must be in bounds for the graph's tokens, since nothing makes the graph run.
#[test]
fn a_graph_takes_a_plan_that_is_in_bounds_already() {
    let _alone = alone();
    let mut on = Dispatching::new();
    let config = Dispatching::config();

    // No tokens last, but the maps are those of 8.
    let mut plan = on.plan(&config);
    on.dispatch(&config, &mut plan, 8).unwrap();
    on.dispatch(&config, &mut plan, 0).unwrap();
    on.capture(|on| refused(on.dispatch(&config, &mut plan, 4), "0 tokens", "4 tokens"));

    // No tokens at all: as new.
    let mut plan = on.plan(&config);
    on.dispatch(&config, &mut plan, 0).unwrap();
    drop(on.capture(|on| on.dispatch(&config, &mut plan, 4).unwrap()));
    on.permute(&plan).unwrap();

    // A new plan points at the first row, which is none where everything is dropped.
    let nothing = MoeConfig::builder(64, 1, 4, 2)
        .capacity(Capacity::new(0.0))
        .build()
        .unwrap();
    assert_eq!(nothing.max_rows(4), 0);
    let mut plan = on.plan(&nothing);
    drop(on.capture(|on| {
        let error = on.dispatch(&nothing, &mut plan, 4).unwrap_err();
        assert!(error.to_string().contains("before the capture"), "{error}");
    }));
    on.dispatch(&nothing, &mut plan, 4).unwrap();
    drop(on.capture(|on| on.dispatch(&nothing, &mut plan, 4).unwrap()));
    on.permute(&plan).unwrap();
    on.cuda.stream().synchronize().unwrap();
}

/// During a capture nothing can be waited for, so the kernels that run stay loaded.
#[test]
fn a_backend_dropped_in_a_capture_leaves_its_kernels_to_what_runs() {
    let _alone = alone();
    let mut on = Dispatching::new();
    let config = Dispatching::config();
    let mut plan = on.plan(&config);
    let stream = on.cuda.stream().clone();
    on.dispatch(&config, &mut plan, 16).unwrap();
    on.permute(&plan).unwrap();
    stream
        .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    // The last backend; the tensors live on.
    let Dispatching {
        cuda,
        ids,
        weights,
        scratch,
    } = on;
    drop(cuda);
    stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
    stream.synchronize().unwrap();
    drop((ids, weights, scratch));
}
