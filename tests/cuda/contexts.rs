//! Which context a tensor is of, and that no memory goes away under a kernel.

use std::sync::Arc;

use millet::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, result};
use millet::{
    Cuda, Dispatch, DispatchForward, Error, Keep, Memory, MoeConfig, MoeLayer, Permute,
    PermuteForward, Plan, Result, Saved, Weights, Workspace,
};

use crate::{alone, plan_in_order};

const TOKENS: usize = 300;
const HIDDEN: usize = 64;

/// Permute of tokens to rows, with a plan in the backend's stream.
fn permute(cuda: &Cuda, x: &CudaSlice<f32>, rows: &mut CudaSlice<f32>) -> Result<()> {
    let config = MoeConfig::builder(HIDDEN, 1, 4, 2).build()?;
    let plan = plan_in_order(cuda, &config, TOKENS);
    cuda.permute(PermuteForward {
        plan: &plan,
        x: x.into(),
        rows: rows.as_view_mut(),
    })
}

fn tensors(stream: &Arc<CudaStream>) -> (CudaSlice<f32>, CudaSlice<f32>) {
    let x = stream.clone_htod(&vec![1.5; TOKENS * HIDDEN]).unwrap();
    (x, stream.alloc_zeros(2 * TOKENS * HIDDEN).unwrap())
}

#[test]
fn another_hold_of_the_same_context_is_another_context() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    // Has the same handle, but no streams of its own: it would free `x` as soon as it is dropped.
    let other = CudaContext::new(0).unwrap();
    assert_eq!(&other, cuda.stream().context());
    let (mut x, mut rows) = tensors(cuda.stream());
    let (other_x, mut other_rows) = tensors(&other.default_stream());
    for (result, name) in [
        (permute(&cuda, &other_x, &mut rows), "x"),
        (permute(&cuda, &x, &mut other_rows), "rows"),
        (cuda.read((&other_x).into()).map(drop), "view"),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::WrongContext { tensor, ordinal: 0, .. } if tensor == name),
            "{error}"
        );
        assert!(error.to_string().contains("another CudaContext"), "{error}");
    }
    drop((other_x, other_rows, other));
    permute(&cuda, &x, &mut rows).unwrap();
    x = cuda.upload(&[0.0]).unwrap();
    assert_eq!(cuda.read((&rows).into()).unwrap()[..9], [1.5; 9]);
    drop(x);
}

#[test]
fn a_backend_has_one_order() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    let error = Cuda::new(&context.per_thread_stream()).unwrap_err();
    assert!(
        matches!(error, Error::Unsupported { .. }) && error.to_string().contains("per-thread"),
        "{error}"
    );
    // The default stream is one for all.
    let cuda = Cuda::new(&context.default_stream()).unwrap();
    let (x, mut rows) = tensors(cuda.stream());
    permute(&cuda, &x, &mut rows).unwrap();
    drop(x);
    assert_eq!(cuda.read((&rows).into()).unwrap()[..9], [1.5; 9]);
}

/// What operations leave for later ones is ordered by their stream alone.
#[test]
fn what_is_kept_between_operations_is_of_one_stream() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    let [first, second] = [(); 2].map(|()| Cuda::new(&context.new_stream().unwrap()).unwrap());
    let refused = |result: Result<()>, name: &str| {
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::WrongStream { object, .. } if object == name),
            "{error}"
        );
        assert!(error.to_string().contains("another stream"), "{error}");
    };

    let config = MoeConfig::builder(HIDDEN, 1, 4, 2).build().unwrap();
    let mut plan = plan_in_order(&first, &config, TOKENS);
    let (x, mut rows) = tensors(second.stream());
    let mut permute = |cuda: &Cuda, plan: &Plan<Cuda>| {
        cuda.permute(PermuteForward {
            plan,
            x: (&x).into(),
            rows: rows.as_view_mut(),
        })
    };
    refused(permute(&second, &plan), "Plan");
    permute(&first, &plan).unwrap();
    let ids = second.allocate(2).unwrap();
    let [mut weights, mut scratch] = [2, 1 << 16].map(|len| second.allocate::<f32>(len).unwrap());
    let mut dispatch = |cuda: &Cuda, plan: &mut Plan<Cuda>| {
        cuda.dispatch(DispatchForward {
            config: &config,
            tokens: 1,
            ids: (&ids).into(),
            weights: weights.as_view_mut(),
            plan,
            scratch: scratch.as_view_mut(),
        })
    };
    refused(dispatch(&second, &mut plan), "Plan");
    dispatch(&first, &mut plan).unwrap();

    let [own, other] = [&first, &second].map(|cuda| MoeLayer::new(cuda.clone(), config.clone()));
    let tensor = |len: usize| first.allocate::<f32>(len).unwrap();
    let (router, gate_up) = (tensor(4 * HIDDEN), tensor(4 * 2 * HIDDEN));
    let (down, mut output) = (tensor(4 * HIDDEN), tensor(TOKENS * HIDDEN));
    let mut forward = |saved: &mut Saved<Cuda, f32>, workspace: &mut Workspace<Cuda, f32>| {
        let weights = Weights {
            router: (&router).into(),
            selection_bias: None,
            gate_up: (&gate_up).into(),
            down: (&down).into(),
            expert_bias: None,
        };
        own.forward(weights, (&x).into(), output.as_view_mut(), saved, workspace)
    };
    let saved = |layer: &MoeLayer<Cuda>| layer.saved(TOKENS, Keep::Nothing).unwrap();
    let workspace = |layer: &MoeLayer<Cuda>| layer.workspace(TOKENS, Keep::Nothing).unwrap();
    refused(forward(&mut saved(&other), &mut workspace(&own)), "Saved");
    refused(
        forward(&mut saved(&own), &mut workspace(&other)),
        "Workspace",
    );
    let mut kept = saved(&own);
    forward(&mut kept, &mut workspace(&own)).unwrap();
    refused(other.losses(&kept).map(drop), "Saved");
    own.losses(&kept).unwrap();
}

/// cudarc tells a tensor who uses it only while the context has streams other than the default one, so a backend that takes the last
/// one along leaves no work in it.
#[test]
fn the_last_clone_of_a_backend_waits_for_its_stream() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    let stream = cuda.stream().clone();
    // Keeps the kernels loaded: unloading waits for everything.
    let _loaded = Cuda::new(&stream.context().default_stream()).unwrap();
    let (x, mut rows) = tensors(&stream);
    permute(&cuda, &x, &mut rows).unwrap();
    // SAFETY: pinned memory, which a copy writes when the stream comes to it, and which is freed when nothing uses it any more.
    unsafe {
        let host = result::malloc_host(4, 0).unwrap().cast::<f32>();
        host.write(0.0);
        let (address, guard) = rows.device_ptr(&stream);
        let to = std::slice::from_raw_parts_mut(host, 1);
        result::memcpy_dtoh_async(to, address, stream.cu_stream()).unwrap();
        drop(guard);
        drop(cuda.clone());
        drop(cuda);
        assert_eq!(host.read_volatile(), 1.5);
        stream.synchronize().unwrap();
        result::free_host(host.cast()).unwrap();
    }
}
