//! What a launch costs: of the smallest layer, call after call and as a graph.

use std::sync::Arc;
use std::time::Instant;

use millet::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use millet::cudarc::driver::sys::CUgraphInstantiate_flags;
use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::cudarc::driver::{CudaContext, CudaGraph, CudaStream, sys};
use millet::half::bf16;
use millet::{Cuda, Keep, MoeLayer, Weights};
use millet_testing::cases::{self, values};
use millet_testing::harness::Tensor;
use serde_json::json;

use crate::record::{quartiles, record};
use crate::{Result, is_emulated};

pub(crate) fn overhead() -> Result<()> {
    let (calls, samples) = match is_emulated() {
        true => (2, 3),
        false => (50, 30),
    };
    let context = CudaContext::new(0)?;
    // SAFETY: everything here is in one stream.
    unsafe { context.disable_event_tracking() };
    let cuda = Cuda::new(&context.new_stream()?)?;
    let case = &cases::select("tiny")?[0];
    let [tokens, hidden, inner, experts, _] = case.sizes();
    let (x, router) = case.tokens_and_router::<bf16>(1);
    let scale = |width: usize| 1.4 * (width as f64).powf(-0.5);
    let weight = experts * inner * hidden;
    let gate_up = Tensor::new(&cuda, &values::<bf16>(2 * weight, scale(hidden), 2));
    let down = Tensor::new(&cuda, &values::<bf16>(weight, scale(inner), 3));
    let (x, router) = (Tensor::new(&cuda, &x), Tensor::new(&cuda, &router));
    let mut output = Tensor::<Cuda, bf16>::zeroed(&cuda, tokens * hidden);
    let layer = MoeLayer::new(cuda.clone(), case.config.clone());
    let mut saved = layer.saved(tokens, Keep::Nothing)?;
    let mut workspace = layer.workspace(tokens, Keep::Nothing)?;
    let mut forward = || {
        let weights = Weights {
            router: router.view(),
            selection_bias: None,
            gate_up: gate_up.view(),
            down: down.view(),
            expert_bias: None,
        };
        layer.forward(
            weights,
            x.view(),
            output.view_mut(),
            &mut saved,
            &mut workspace,
        )
    };
    let stream = cuda.stream();
    forward()?;
    let one = captured(stream, || Ok(forward()?))?;
    let launches = nodes(&one)?;
    let many = captured(stream, || Ok((0..calls).try_for_each(|_| forward())?))?;
    let per_launch = f64::from(calls) * launches as f64;
    let (mut host, mut alone, mut graph) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..samples {
        stream.synchronize()?;
        let start = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        let began = Instant::now();
        for _ in 0..calls {
            forward()?;
        }
        host.push(began.elapsed().as_secs_f64() / per_launch);
        let end = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        alone.push(f64::from(start.elapsed_ms(&end)?) / 1e3 / per_launch);
        let start = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        many.launch()?;
        let end = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        graph.push(f64::from(start.elapsed_ms(&end)?) / 1e3 / per_launch);
    }
    let spread = |samples: &mut Vec<f64>| {
        quartiles(samples)
            .map(|[low, median, high]| json!({ "median": median, "low": low, "high": high }))
    };
    let object = json!({
        "kind": "overhead", "case": case.name, "operation": "inference", "launches": launches, "samples": samples,
        "emulated": is_emulated(),
        "seconds_per_launch": { "host": spread(&mut host), "alone": spread(&mut alone), "graph": spread(&mut graph) },
    });
    record(&object)?;
    let of = |samples: &[f64]| 1e6 * samples[samples.len() / 2];
    match is_emulated() {
        true => println!("{launches} launches of a layer ran by themselves and as a graph"),
        false => println!(
            "a launch: {:.2} µs by itself ({:.2} of the host), {:.2} µs in a graph",
            of(&alone),
            of(&host),
            of(&graph)
        ),
    }
    Ok(())
}

/// A graph of what `run` submits.
fn captured(stream: &Arc<CudaStream>, run: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
    stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let captured = run();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?;
    captured?;
    let graph = graph.ok_or("nothing was captured")?;
    graph.launch()?;
    stream.synchronize()?;
    Ok(graph)
}

fn nodes(graph: &CudaGraph) -> Result<usize> {
    let mut count = 0;
    // SAFETY: the graph lives, and without a place for nodes only their number is written.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count) }.result()?;
    Ok(count)
}
