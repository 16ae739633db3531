//! Where the memory of a layer's pass is: every tensor in the backend's context, the workspace in its stream.

use std::mem::swap;
use std::sync::Arc;

use millet::cudarc::driver::sys::CUgraphInstantiate_flags;
use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::cudarc::driver::{CudaContext, CudaSlice};
use millet::{
    BackwardInput, Cuda, Error, Gradients, Keep, Memory, MoeConfig, MoeLayer, Result, Saved,
    ScoreFunction, WeightGrad, Weights, Workspace,
};

use crate::alone;
use crate::misuse::second_context;

const TOKENS: usize = 12;
const HIDDEN: usize = 16;
const INNER: usize = 8;
const EXPERTS: usize = 4;

fn layer(cuda: &Cuda) -> MoeLayer<Cuda> {
    let config = MoeConfig::builder(HIDDEN, INNER, EXPERTS, 2)
        .score_function(ScoreFunction::Sigmoid)
        .build()
        .unwrap();
    MoeLayer::new(cuda.clone(), config)
}

/// Everything that forward and backward take, in the memory of one backend.
struct Pass {
    x: CudaSlice<f32>,
    router: CudaSlice<f32>,
    bias: CudaSlice<f32>,
    gate_up: CudaSlice<f32>,
    down: CudaSlice<f32>,
    output: CudaSlice<f32>,
    output_grad: CudaSlice<f32>,
    x_grad: CudaSlice<f32>,
    router_grad: CudaSlice<f32>,
    gate_up_grad: CudaSlice<f32>,
    down_grad: CudaSlice<f32>,
    saved: Saved<Cuda, f32>,
    workspace: Workspace<Cuda, f32>,
}

impl Pass {
    fn new(cuda: &Cuda) -> Self {
        let wave = |len: usize| {
            let values: Vec<f32> = (0..len).map(|i| (0.7 * i as f32).sin()).collect();
            cuda.upload(&values).unwrap()
        };
        let zeros = |len: usize| cuda.allocate(len).unwrap();
        let layer = layer(cuda);
        Self {
            x: wave(TOKENS * HIDDEN),
            router: wave(EXPERTS * HIDDEN),
            bias: zeros(EXPERTS),
            gate_up: wave(EXPERTS * 2 * INNER * HIDDEN),
            down: wave(EXPERTS * HIDDEN * INNER),
            output: zeros(TOKENS * HIDDEN),
            output_grad: wave(TOKENS * HIDDEN),
            x_grad: zeros(TOKENS * HIDDEN),
            router_grad: zeros(EXPERTS * HIDDEN),
            gate_up_grad: zeros(EXPERTS * 2 * INNER * HIDDEN),
            down_grad: zeros(EXPERTS * HIDDEN * INNER),
            saved: layer.saved(TOKENS, Keep::Hidden).unwrap(),
            workspace: layer.workspace(TOKENS, Keep::Hidden).unwrap(),
        }
    }

    fn forward(&mut self, cuda: &Cuda) -> Result<()> {
        let weights = Weights {
            router: (&self.router).into(),
            selection_bias: Some((&self.bias).into()),
            gate_up: (&self.gate_up).into(),
            down: (&self.down).into(),
            expert_bias: None,
        };
        let (saved, workspace) = (&mut self.saved, &mut self.workspace);
        let output = self.output.as_view_mut();
        layer(cuda).forward(weights, (&self.x).into(), output, saved, workspace)
    }

    fn backward(&mut self, cuda: &Cuda) -> Result<()> {
        let weights = Weights {
            router: (&self.router).into(),
            selection_bias: Some((&self.bias).into()),
            gate_up: (&self.gate_up).into(),
            down: (&self.down).into(),
            expert_bias: None,
        };
        let input = BackwardInput {
            x: (&self.x).into(),
            output_grad: (&self.output_grad).into(),
            loss_gradient: 1.0,
        };
        let gradients = Gradients {
            x: self.x_grad.as_view_mut(),
            router: WeightGrad::Overwrite(self.router_grad.as_view_mut()),
            gate_up: WeightGrad::Overwrite(self.gate_up_grad.as_view_mut()),
            down: WeightGrad::Accumulate(self.down_grad.as_view_mut()),
            expert_bias: None,
        };
        let (saved, workspace) = (&mut self.saved, &mut self.workspace);
        layer(cuda).backward(weights, input, saved, workspace, gradients)
    }
}

type Swap = (&'static str, fn(&mut Pass, &mut Pass));

/// What both passes take.
const BOTH: [Swap; 7] = [
    ("x", |a, b| swap(&mut a.x, &mut b.x)),
    ("router weight", |a, b| swap(&mut a.router, &mut b.router)),
    ("selection bias", |a, b| swap(&mut a.bias, &mut b.bias)),
    ("gate_up", |a, b| swap(&mut a.gate_up, &mut b.gate_up)),
    ("down", |a, b| swap(&mut a.down, &mut b.down)),
    ("Saved", |a, b| swap(&mut a.saved, &mut b.saved)),
    ("Workspace", |a, b| swap(&mut a.workspace, &mut b.workspace)),
];
const FORWARD: [Swap; 1] = [("output", |a, b| swap(&mut a.output, &mut b.output))];
const BACKWARD: [Swap; 5] = [
    ("output_grad", |a, b| {
        swap(&mut a.output_grad, &mut b.output_grad)
    }),
    ("x gradient", |a, b| swap(&mut a.x_grad, &mut b.x_grad)),
    ("router gradient", |a, b| {
        swap(&mut a.router_grad, &mut b.router_grad)
    }),
    ("gate_up gradient", |a, b| {
        swap(&mut a.gate_up_grad, &mut b.gate_up_grad)
    }),
    ("down gradient", |a, b| {
        swap(&mut a.down_grad, &mut b.down_grad)
    }),
];

/// Refused before anything is launched: what an earlier pass saved is still there, and can be used.
#[test]
fn every_tensor_of_a_layer_is_of_its_context() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    // The same handle held a second time, and a context of its own.
    for context in [CudaContext::new(0).unwrap(), second_context()] {
        let other = Cuda::new(&context.new_stream().unwrap()).unwrap();
        let (mut own, mut others) = (Pass::new(&cuda), Pass::new(&other));
        own.forward(&cuda).unwrap();
        others.forward(&other).unwrap();
        let output = cuda.read((&own.output).into()).unwrap();
        assert!(output.iter().any(|&value| value != 0.0));
        cuda.stream().memset_zeros(&mut own.output).unwrap();

        let mut refused = |pass: fn(&mut Pass, &Cuda) -> Result<()>, (name, swap): Swap| {
            swap(&mut own, &mut others);
            let error = pass(&mut own, &cuda).unwrap_err();
            swap(&mut own, &mut others);
            assert!(
                matches!(error, Error::WrongContext { tensor, .. } if tensor == name),
                "{name}: {error}"
            );
            layer(&cuda).losses(&own.saved).expect(name);
        };
        for swap in BOTH.into_iter().chain(FORWARD) {
            refused(Pass::forward, swap);
        }
        for swap in BOTH.into_iter().chain(BACKWARD) {
            refused(Pass::backward, swap);
        }
        assert!(
            cuda.read((&own.output).into())
                .unwrap()
                .iter()
                .all(|&value| value == 0.0)
        );
        own.backward(&cuda).unwrap();
        own.forward(&cuda).unwrap();
        assert_eq!(cuda.read((&own.output).into()).unwrap(), output);
    }
}

/// A graph in flight and other work never share scratch: a graph runs in the stream that it was captured in.
#[test]
fn a_workspace_is_of_one_stream() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: what two streams share is waited for.
    unsafe { context.disable_event_tracking() };
    let cuda = |stream| Cuda::new(&stream).unwrap();
    let (first, second) = (
        cuda(context.new_stream().unwrap()),
        cuda(context.new_stream().unwrap()),
    );
    let mut pass = Pass::new(&first);
    let results = |pass: &Pass| {
        let read = |slice: &CudaSlice<f32>| first.read(slice.into()).unwrap();
        [
            read(&pass.output),
            read(&pass.x_grad),
            read(&pass.gate_up_grad),
        ]
    };
    pass.forward(&first).unwrap();
    pass.backward(&first).unwrap();
    let want = results(&pass);

    let stream = first.stream();
    stream
        .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    pass.forward(&first).unwrap();
    pass.backward(&first).unwrap();
    let graph = stream
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    stream.memset_zeros(&mut pass.output).unwrap();
    graph.launch().unwrap();
    for error in [pass.forward(&second), pass.backward(&second)] {
        let error = error.unwrap_err();
        assert!(
            matches!(
                error,
                Error::WrongStream {
                    object: "Workspace",
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("one for each stream"), "{error}");
    }
    assert_eq!(results(&pass), want, "replayed");

    // In the graph's stream: between two replays, and nobody waits.
    let mut other = Pass::new(&first);
    swap(&mut pass.workspace, &mut other.workspace);
    graph.launch().unwrap();
    other.forward(&first).unwrap();
    graph.launch().unwrap();
    other.backward(&first).unwrap();
    assert_eq!(results(&pass), want, "replayed again");
    assert_eq!(results(&other), want, "beside it");

    // In the other stream, with a workspace of that.
    graph.launch().unwrap();
    let mut other = Pass::new(&second);
    second.stream().synchronize().unwrap();
    other.forward(&second).unwrap();
    other.backward(&second).unwrap();
    second.stream().synchronize().unwrap();
    assert_eq!(results(&pass), want);
    assert_eq!(results(&other), want);
}

#[test]
fn the_default_stream_is_one_stream() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    let cuda = || Cuda::new(&context.default_stream()).unwrap();
    let (first, second) = (cuda(), cuda());
    assert!(!Arc::ptr_eq(first.stream(), second.stream()));
    let mut pass = Pass::new(&first);
    pass.forward(&first).unwrap();
    pass.backward(&second).unwrap();
}
