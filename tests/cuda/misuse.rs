//! Misuse that the other backends cannot have: where memory is and how it is aligned, types and sizes that kernels do not have.

use std::ptr;
use std::sync::Arc;

use millet::cudarc::driver::sys::CUgraphInstantiate_flags;
use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::cudarc::driver::{CudaContext, CudaSlice, sys};
use millet::half::bf16;
use millet::{
    Cuda, Dispatch, DispatchForward, Element, Error, ExpertBias, Experts, ExpertsDown,
    ExpertsDownBackward, ExpertsInputGrad, Logits, Memory, MoeConfig, Permute, PermuteForward,
    Plan, Result, Router, RouterForward, RouterPart, ScoreFunction, stats_elements,
};

use crate::layer::nodes;
use crate::{alone, plan_in_order};

const TOKENS: usize = 4;

/// Permute of `x`, whose first element is the `skip`th of a buffer; rows like that too.
fn permute<T: Element>(
    cuda: &Cuda,
    hidden: usize,
    skip: [usize; 2],
    buffers: [&mut CudaSlice<T>; 2],
) -> Result<()> {
    let config = MoeConfig::builder(hidden, 1, 4, 2).build()?;
    let len = TOKENS * 2;
    let plan = plan_in_order(cuda, &config, TOKENS);
    let [x, rows] = buffers;
    let x = x.slice(skip[0]..skip[0] + TOKENS * hidden);
    let rows = rows.slice_mut(skip[1]..skip[1] + len * hidden);
    cuda.permute(PermuteForward {
        plan: &plan,
        x: (&x).into(),
        rows,
    })
}

#[test]
fn views_that_are_not_aligned() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    let mut x = cuda.upload(&[1.5f32; 64]).unwrap();
    let mut rows = cuda.upload(&[-7.0f32; 128]).unwrap();
    for (skip, name) in [([1, 0], "x"), ([0, 2], "rows"), ([3, 3], "x")] {
        let error = permute::<f32>(&cuda, 8, skip, [&mut x, &mut rows]).unwrap_err();
        let Error::Alignment {
            operation: "permute",
            tensor,
            expected: 16,
            address,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(tensor, name);
        assert!(!address.is_multiple_of(16));
        assert!(
            error.to_string().contains(&format!("{address:#x}")),
            "{error}"
        );
    }
    assert!(
        cuda.read((&rows).into())
            .unwrap()
            .iter()
            .all(|&v| v == -7.0)
    );
    // A view may begin at a vector, and anywhere where rows are no multiple of one.
    permute::<f32>(&cuda, 8, [4, 8], [&mut x, &mut rows]).unwrap();
    permute::<f32>(&cuda, 7, [1, 3], [&mut x, &mut rows]).unwrap();
    let rows = cuda.read((&rows).into()).unwrap();
    assert!(rows[3..8 + 64].iter().all(|&v| v == 1.5) && rows[..3] == [-7.0; 3]);
    let mut x = cuda.upload(&[bf16::ONE; 64]).unwrap();
    let mut rows = cuda.upload(&[bf16::ZERO; 128]).unwrap();
    permute::<bf16>(&cuda, 7, [1, 1], [&mut x, &mut rows]).unwrap();
}

/// The combine comes after the product, and its tensors are looked at before it: nothing is submitted of what is refused.
#[test]
fn an_operation_is_refused_before_its_first_launch() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: everything here is in one stream.
    unsafe { context.disable_event_tracking() };
    let cuda = Cuda::new(&context.new_stream().unwrap()).unwrap();
    // By vectors in all launches, and in the combine only.
    for inner in [8, 5] {
        refuse_before_the_first_launch(&cuda, inner);
    }
}

fn refuse_before_the_first_launch(cuda: &Cuda, inner: usize) {
    let (hidden, experts) = (8, 4);
    let config = MoeConfig::builder(hidden, inner, experts, 2)
        .build()
        .unwrap();
    let plan = plan_in_order(cuda, &config, TOKENS);
    let scratch = cuda.scratch_elements::<f32>(&config, TOKENS);
    let mut scratch = cuda.allocate::<f32>(scratch + 1).unwrap();
    // As long as any tensor here, and one more to begin at.
    let zeros = cuda
        .allocate::<f32>(experts * 2 * inner * hidden + 1)
        .unwrap();
    let mut output = cuda.allocate::<f32>(TOKENS * hidden + 1).unwrap();
    let rows = config.max_rows(TOKENS);
    let tensor = |len: usize, skip: usize| zeros.slice(skip..skip + len);
    let (row, weight) = (tensor(rows * inner, 0), tensor(experts * inner * hidden, 0));
    let (pair, pairs) = (
        tensor(2 * rows * inner, 0),
        tensor(2 * experts * inner * hidden, 0),
    );
    let weights = tensor(2 * TOKENS, 0);

    for (name, [skip_output, skip_dz, skip_router, skip_scratch]) in [
        ("output", [1, 0, 0, 0]),
        ("x_grad", [1, 0, 0, 0]),
        ("logits_grad", [0, 1, 0, 0]),
        ("router weight", [0, 0, 1, 0]),
        ("scratch", [0, 0, 0, 1]),
    ] {
        let (dz, router) = (
            tensor(TOKENS * experts, skip_dz),
            tensor(experts * hidden, skip_router),
        );
        let output = output.slice_mut(skip_output..skip_output + TOKENS * hidden);
        let stream = cuda.stream();
        stream
            .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        let result = match name {
            "output" => cuda.experts_down(ExpertsDown::<Cuda, f32> {
                plan: &plan,
                a: (&row).into(),
                down: (&weight).into(),
                bias: None,
                weights: (&weights).into(),
                output,
                scratch: scratch.slice_mut(skip_scratch..),
            }),
            _ => cuda.experts_input_grad(ExpertsInputGrad::<Cuda, f32> {
                plan: &plan,
                h_grad: (&pair).into(),
                gate_up: (&pairs).into(),
                router: RouterPart {
                    logits_grad: (&dz).into(),
                    weight: (&router).into(),
                },
                x_grad: output,
                scratch: scratch.slice_mut(skip_scratch..),
            }),
        };
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
        let error = result.unwrap_err();
        let wrong = matches!(error, Error::Alignment { tensor, .. } if tensor == name);
        assert!(wrong, "{name}: {error}");
        assert_eq!(
            graph.map_or([0; 2], |graph| nodes(&graph)),
            [0; 2],
            "{name}"
        );
    }
}

/// Tiles are counted in 32 bits. The down product's backward pass begins with the biases' part, so it must look before that.
#[test]
fn more_tiles_than_are_counted_are_refused_before_the_first_launch() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: everything here is in one stream.
    unsafe { context.disable_event_tracking() };
    let cuda = Cuda::new(&context.new_stream().unwrap()).unwrap();
    // Room for 264192 tiles of 64 rows, by 8192 tiles of 128 columns.
    let (hidden, inner, experts, top_k) = (1, 1 << 20, 1 << 16, 2);
    let tokens = 65 * experts / top_k;
    let config = MoeConfig::builder(hidden, inner, experts, top_k)
        .expert_bias(ExpertBias::GateUpAndDown)
        .build()
        .unwrap();
    let plan = plan_in_order(&cuda, &config, tokens);
    let stream = cuda.stream();
    // As long as it says, but nothing is there: what is refused reads and writes nothing.
    let claimed = |len: usize| {
        let address = cuda.allocate::<f32>(4).unwrap().leak();
        // SAFETY: an allocation of its own; no kernel gets it.
        unsafe { stream.upgrade_device_ptr::<f32>(address, len) }
    };
    let (rows, assignments) = (config.max_rows(tokens), tokens * top_k);
    let [output_grad, down] = [tokens * hidden, experts * hidden * inner].map(claimed);
    let [bias, weights] = [experts * hidden, assignments].map(claimed);
    let [mut h, mut weighted_a] = [2 * rows * inner, rows * inner].map(claimed);
    let mut weights_grad = claimed(assignments);
    let mut scratch = claimed(cuda.scratch_elements::<f32>(&config, tokens));
    stream
        .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let result = cuda.experts_down_backward(ExpertsDownBackward::<Cuda, f32> {
        plan: &plan,
        output_grad: (&output_grad).into(),
        down: (&down).into(),
        bias: Some((&bias).into()),
        weights: (&weights).into(),
        h: h.as_view_mut(),
        weighted_a: weighted_a.as_view_mut(),
        weights_grad: weights_grad.as_view_mut(),
        scratch: scratch.as_view_mut(),
    });
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let limit = format!("tiles, over the limit {}", i32::MAX);
    assert!(error.to_string().contains(&limit), "{error}");
    assert_eq!(graph.map_or([0; 2], |graph| nodes(&graph)), [0; 2]);
}

/// A context of device 0 that is not the primary one.
pub(crate) fn second_context() -> Arc<CudaContext> {
    let mut context = ptr::null_mut();
    // SAFETY: an out parameter, no options, the first device; cudarc owns the context from then on.
    unsafe {
        sys::cuCtxCreate_v4(&mut context, ptr::null_mut(), 0, 0)
            .result()
            .unwrap();
        CudaContext::from_raw_context(0, 0, context).unwrap()
    }
}

#[test]
fn memory_of_another_context() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    let context = second_context();
    let other = Cuda::new(&context.new_stream().unwrap()).unwrap();
    let buffers = |cuda: &Cuda| {
        let x = cuda.upload(&[1.0f32; 64]).unwrap();
        (x, cuda.upload(&[0.0f32; 128]).unwrap())
    };
    let ((mut x, mut rows), (mut other_x, mut other_rows)) = (buffers(&cuda), buffers(&other));
    for (result, name) in [
        (
            permute::<f32>(&cuda, 8, [0, 0], [&mut other_x, &mut rows]),
            "x",
        ),
        (
            permute::<f32>(&cuda, 8, [0, 0], [&mut x, &mut other_rows]),
            "rows",
        ),
    ] {
        let error = result.unwrap_err();
        let wrong = matches!(error, Error::WrongContext { tensor, .. } if tensor == name);
        assert!(
            wrong && error.to_string().contains("CudaContext"),
            "{error}"
        );
    }
    // Each in its own.
    permute::<f32>(&cuda, 8, [0, 0], [&mut x, &mut rows]).unwrap();
    permute::<f32>(&other, 8, [0, 0], [&mut other_x, &mut other_rows]).unwrap();
    assert_eq!(other.read((&other_rows).into()).unwrap()[..64], [1.0; 64]);
}

#[test]
fn f64_has_no_kernels() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    let mut x = cuda.upload(&[1.0f64; 64]).unwrap();
    let mut rows = cuda.upload(&[0.0f64; 128]).unwrap();
    let error = permute::<f64>(&cuda, 8, [0, 0], [&mut x, &mut rows]).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("f64"), "{error}");
    for error in [
        route::<f64>(&cuda, 4, 2).unwrap_err(),
        dispatch::<f64>(&cuda, 4, 2).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("f64"), "{error}");
    }
}

/// A router on zeros.
fn route<A: millet::Real>(cuda: &Cuda, experts: usize, top_k: usize) -> Result<Vec<i32>> {
    let config = MoeConfig::builder(1, 1, experts, top_k)
        .score_function(ScoreFunction::SoftmaxBeforeTopK)
        .build()?;
    let floats = |len| cuda.allocate::<A>(len);
    let logits = floats(TOKENS * experts)?;
    let mut ids = cuda.allocate::<i32>(TOKENS * top_k)?;
    let (mut weights, mut lse) = (floats(TOKENS * top_k)?, floats(TOKENS)?);
    let mut counts = cuda.allocate::<i32>(experts)?;
    let mut stats = floats(stats_elements(&config))?;
    let mut scratch = floats(cuda.scratch_elements::<A>(&config, TOKENS))?;
    cuda.router_forward(RouterForward::<Cuda, A> {
        config: &config,
        tokens: TOKENS,
        logits: Logits::Given((&logits).into()),
        selection_bias: None,
        ids: ids.as_view_mut(),
        weights: weights.as_view_mut(),
        lse: lse.as_view_mut(),
        counts: counts.as_view_mut(),
        stats: stats.as_view_mut(),
        logits_output: None,
        scratch: scratch.as_view_mut(),
    })?;
    cuda.read((&ids).into())
}

fn dispatch<A: millet::Real>(cuda: &Cuda, experts: usize, top_k: usize) -> Result<Vec<i32>> {
    let config = MoeConfig::builder(1, 1, experts, top_k).build()?;
    let assignments = TOKENS * top_k;
    let ids = cuda.allocate::<i32>(assignments)?;
    let mut weights = cuda.allocate::<A>(assignments)?;
    let mut scratch = cuda.allocate::<A>(cuda.scratch_elements::<A>(&config, TOKENS))?;
    let mut plan = Plan::new(cuda, &config, TOKENS)?;
    cuda.dispatch(DispatchForward {
        config: &config,
        tokens: TOKENS,
        ids: (&ids).into(),
        weights: weights.as_view_mut(),
        plan: &mut plan,
        scratch: scratch.as_view_mut(),
    })?;
    cuda.read(plan.map().offsets)
}

#[test]
fn the_largest_router_and_one_more() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    // All alike: the first K, in order.
    let ids = route::<f32>(&cuda, 4096, 64).unwrap();
    assert!(
        ids.chunks_exact(64)
            .all(|ids| ids.iter().copied().eq(0..64))
    );
    // Every id is 0.
    let offsets = dispatch::<f32>(&cuda, 4096, 64).unwrap();
    assert_eq!(offsets[0], 0);
    assert!(offsets[1..].iter().all(|&o| o == 4 * 64));
    for (experts, top_k) in [(4097, 2), (65536, 8), (4096, 65), (65, 65)] {
        let error = route::<f32>(&cuda, experts, top_k).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Unsupported {
                    operation: "router forward",
                    ..
                }
            ),
            "E={experts} K={top_k}: {error}"
        );
        let limit = if experts > 4096 { "4096" } else { "64" };
        assert!(error.to_string().contains(limit), "{error}");
    }
}

/// Scratch of absurd sizes is a number, not a panic; and what is enough for some tokens is enough for fewer.
#[test]
fn scratch_grows_with_the_tokens() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    for (experts, top_k) in [(1, 1), (128, 8), (4096, 64), (65536, 65536)] {
        let config = MoeConfig::builder(1 << 20, 1 << 20, experts, top_k)
            .score_function(ScoreFunction::SoftmaxBeforeTopK)
            .build()
            .unwrap();
        let most = [i32::MAX as usize / top_k, 1 << 40, usize::MAX];
        let sizes: Vec<usize> = (0..1000)
            .chain(most)
            .map(|tokens| cuda.scratch_elements::<bf16>(&config, tokens))
            .collect();
        assert!(sizes.is_sorted(), "E={experts} K={top_k}");
    }
}

#[test]
fn a_device_that_is_not_there() {
    let _alone = alone();
    let error = Cuda::device(100).unwrap_err();
    assert!(
        matches!(error, Error::NoDevice { ordinal: 100, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("no CUDA device 100"), "{error}");
}
