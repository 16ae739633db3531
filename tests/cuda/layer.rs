//! The whole layer on CUDA: what it launches and keeps, that it neither allocates nor waits, and that no interleaving changes a
//! bit.

use std::ptr;

use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use millet::cudarc::driver::sys::{CUgraphInstantiate_flags, CUgraphNodeType};
use millet::cudarc::driver::{CudaContext, CudaGraph, CudaSlice, result, sys};
use millet::half::{bf16, f16};
use millet::{
    Activation, BackwardInput, Capacity, Cuda, DropPolicy, Element, ExpertBias, ExpertBiasGrads,
    ExpertBiases, Gradients, Keep, Losses, Memory, MoeConfig, MoeConfigBuilder, MoeLayer, Real,
    Renormalize, Result, Saved, Scalar, ScoreFunction, WeightGrad, Weights, Workspace,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::alone;

/// A device with a stream of its own and memory that can be part of a graph.
fn cuda() -> Cuda {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: everything here is in one stream.
    unsafe { context.disable_event_tracking() };
    Cuda::new(&context.new_stream().unwrap()).unwrap()
}

/// A layer with everything in it: biases, clamps, dropping, renormalisation, both losses.
fn full(hidden: usize, inner: usize, experts: usize, top_k: usize) -> MoeConfig {
    let capacity = Capacity::new(0.8)
        .policy(DropPolicy::Probability)
        .renormalize(Renormalize::AfterDrop);
    plain(hidden, inner, experts, top_k)
        .activation(Activation::GPT_OSS)
        .expert_bias(ExpertBias::GateUpAndDown)
        .score_function(ScoreFunction::Sigmoid)
        .capacity(capacity)
        .build()
        .unwrap()
}

fn plain(hidden: usize, inner: usize, experts: usize, top_k: usize) -> MoeConfigBuilder {
    MoeConfig::builder(hidden, inner, experts, top_k).losses(Losses::new(0.3, 0.05))
}

/// A layer's tensors, with a router weight in f32. The gradient of down is added to what is there, the others are written.
struct Step<T: Element> {
    layer: MoeLayer<Cuda>,
    x: CudaSlice<T>,
    router: CudaSlice<f32>,
    bias: Option<CudaSlice<f32>>,
    gate_up: CudaSlice<T>,
    down: CudaSlice<T>,
    /// Of gate_up and of down.
    expert_bias: Option<[CudaSlice<T>; 2]>,
    output_grad: CudaSlice<T>,
    output: CudaSlice<T>,
    x_grad: CudaSlice<T>,
    router_grad: CudaSlice<f32>,
    gate_up_grad: CudaSlice<T>,
    down_sum: CudaSlice<f32>,
    gate_up_bias_grad: CudaSlice<T>,
    down_bias_sum: CudaSlice<f32>,
    saved: Saved<Cuda, T>,
    workspace: Workspace<Cuda, T>,
}

fn views<T: Element>([gate_up, down]: &[CudaSlice<T>; 2]) -> ExpertBiases<'_, Cuda, T> {
    ExpertBiases {
        gate_up: gate_up.into(),
        down: down.into(),
    }
}

impl<T: Element<Acc = f32>> Step<T> {
    fn new(cuda: &Cuda, config: &MoeConfig, tokens: usize, keep: Keep) -> Self {
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let experts = config.num_experts();
        let stored = |len| cuda.allocate::<T>(len).unwrap();
        let floats = |len| cuda.allocate::<f32>(len).unwrap();
        let layer = MoeLayer::new(cuda.clone(), config.clone());
        let has_bias = config.router().score_function() == ScoreFunction::Sigmoid;
        Self {
            x: stored(tokens * hidden),
            router: floats(experts * hidden),
            bias: has_bias.then(|| floats(experts)),
            gate_up: stored(experts * 2 * inner * hidden),
            down: stored(experts * hidden * inner),
            expert_bias: (config.expert_bias() != ExpertBias::None)
                .then(|| [stored(experts * 2 * inner), stored(experts * hidden)]),
            output_grad: stored(tokens * hidden),
            output: stored(tokens * hidden),
            x_grad: stored(tokens * hidden),
            router_grad: floats(experts * hidden),
            gate_up_grad: stored(experts * 2 * inner * hidden),
            down_sum: floats(experts * hidden * inner),
            gate_up_bias_grad: stored(experts * 2 * inner),
            down_bias_sum: floats(experts * hidden),
            saved: layer.saved(tokens, keep).unwrap(),
            workspace: layer.workspace(tokens, keep).unwrap(),
            layer,
        }
    }

    /// Other inputs in the same memory, and garbage where results go.
    fn fill(&mut self, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let cuda = self.layer.backend();
        let config = self.layer.config();
        let over_root = |n: usize| 1.0 / (n as f32).sqrt();
        let hidden = over_root(config.hidden_size());
        numbers(cuda, &mut self.x, 1.0, &mut rng);
        numbers(cuda, &mut self.router, hidden, &mut rng);
        if let Some(bias) = &mut self.bias {
            numbers(cuda, bias, 0.2, &mut rng);
        }
        numbers(cuda, &mut self.gate_up, 1.4 * hidden, &mut rng);
        let inner = over_root(config.intermediate_size());
        numbers(cuda, &mut self.down, 1.4 * inner, &mut rng);
        numbers(cuda, &mut self.output_grad, 1.0, &mut rng);
        numbers(cuda, &mut self.down_sum, 1.0, &mut rng);
        if let Some(biases) = &mut self.expert_bias {
            for bias in biases {
                numbers(cuda, bias, 0.5, &mut rng);
            }
        }
        numbers(cuda, &mut self.down_bias_sum, 1.0, &mut rng);
        constant(cuda, &mut self.gate_up_bias_grad, T::narrow(f32::NAN));
        constant(cuda, &mut self.router_grad, f32::NAN);
        for stored in [&mut self.output, &mut self.x_grad, &mut self.gate_up_grad] {
            constant(cuda, stored, T::narrow(f32::NAN));
        }
    }

    fn forward(&mut self) -> Result<()> {
        let weights = Weights {
            router: (&self.router).into(),
            selection_bias: self.bias.as_ref().map(Into::into),
            gate_up: (&self.gate_up).into(),
            down: (&self.down).into(),
            expert_bias: self.expert_bias.as_ref().map(views),
        };
        let output = self.output.as_view_mut();
        let (saved, workspace) = (&mut self.saved, &mut self.workspace);
        self.layer
            .forward::<T, f32>(weights, (&self.x).into(), output, saved, workspace)
    }

    fn backward(&mut self) -> Result<()> {
        let weights = Weights {
            router: (&self.router).into(),
            selection_bias: self.bias.as_ref().map(Into::into),
            gate_up: (&self.gate_up).into(),
            down: (&self.down).into(),
            expert_bias: self.expert_bias.as_ref().map(views),
        };
        let input = BackwardInput {
            x: (&self.x).into(),
            output_grad: (&self.output_grad).into(),
            loss_gradient: 0.7,
        };
        let gradients = Gradients {
            x: self.x_grad.as_view_mut(),
            router: WeightGrad::Overwrite(self.router_grad.as_view_mut()),
            gate_up: WeightGrad::Overwrite(self.gate_up_grad.as_view_mut()),
            down: WeightGrad::Accumulate(self.down_sum.as_view_mut()),
            expert_bias: self.expert_bias.is_some().then(|| ExpertBiasGrads {
                gate_up: WeightGrad::Overwrite(self.gate_up_bias_grad.as_view_mut()),
                down: WeightGrad::Accumulate(self.down_bias_sum.as_view_mut()),
            }),
        };
        let (saved, workspace) = (&mut self.saved, &mut self.workspace);
        self.layer
            .backward::<T, f32>(weights, input, saved, workspace, gradients)
    }

    fn submit(&mut self) {
        self.forward().unwrap();
        self.backward().unwrap();
    }

    /// Everything that was written and can be seen, to the bit.
    fn results(&self) -> Vec<(&'static str, Vec<u8>)> {
        let routing = self.layer.routing(&self.saved).unwrap();
        let losses = self.layer.losses(&self.saved).unwrap();
        vec![
            ("ids", bytemuck::cast_slice(&routing.ids).to_vec()),
            ("weights", bytemuck::cast_slice(&routing.weights).to_vec()),
            (
                "assignment to row",
                bytemuck::cast_slice(&routing.assignment_to_row).to_vec(),
            ),
            ("offsets", bytemuck::cast_slice(&routing.offsets).to_vec()),
            (
                "losses",
                bytemuck::cast_slice(&[losses.0, losses.1]).to_vec(),
            ),
            ("output", self.bytes(&self.output)),
            ("dX", self.bytes(&self.x_grad)),
            ("dWr", self.bytes(&self.router_grad)),
            ("d gate_up", self.bytes(&self.gate_up_grad)),
            ("d down", self.bytes(&self.down_sum)),
            ("d gate_up bias", self.bytes(&self.gate_up_bias_grad)),
            ("d down bias", self.bytes(&self.down_bias_sum)),
        ]
    }

    /// No garbage is left where results go.
    fn assert_written(&self) {
        let read = |slice: &CudaSlice<T>| self.layer.backend().read(slice.into()).unwrap();
        for (name, values) in [
            ("output", read(&self.output)),
            ("dX", read(&self.x_grad)),
            ("d gate_up", read(&self.gate_up_grad)),
        ] {
            assert!(values.iter().all(|v| v.widen().is_finite()), "{name}");
        }
    }

    fn bytes<S: Scalar>(&self, slice: &CudaSlice<S>) -> Vec<u8> {
        let values = self.layer.backend().read(slice.into()).unwrap();
        bytemuck::cast_slice(&values).to_vec()
    }
}

fn numbers<S: Element<Acc = f32>>(
    cuda: &Cuda,
    slice: &mut CudaSlice<S>,
    scale: f32,
    rng: &mut SmallRng,
) {
    let values: Vec<S> = (0..slice.len())
        .map(|_| S::narrow(f32::from_f64(rng.random_range(-1.7..1.7)) * scale))
        .collect();
    cuda.stream().memcpy_htod(&values, slice).unwrap();
}

fn constant<S: Scalar>(cuda: &Cuda, slice: &mut CudaSlice<S>, value: S) {
    let values = vec![value; slice.len()];
    cuda.stream().memcpy_htod(&values, slice).unwrap();
}

#[track_caller]
fn assert_same(got: &[(&'static str, Vec<u8>)], want: &[(&'static str, Vec<u8>)], what: &str) {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert!(got == want, "{name} differs: {what}");
    }
}

/// What `submit` submits, as a graph; nothing of it runs.
fn capture(cuda: &Cuda, submit: impl FnOnce() -> Result<()>) -> CudaGraph {
    let stream = cuda.stream();
    stream
        .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    submit().unwrap();
    stream
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap()
}

/// Kernels and memsets of a graph, which has nothing else in it: an allocation or a copy would be a node of its own.
pub(crate) fn nodes(graph: &CudaGraph) -> [usize; 2] {
    let mut count = 0;
    // SAFETY: without a list, only the number is written.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), ptr::null_mut(), &mut count) }
        .result()
        .unwrap();
    let mut nodes = vec![ptr::null_mut(); count];
    // SAFETY: a list as long as said.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), nodes.as_mut_ptr(), &mut count) }
        .result()
        .unwrap();
    let mut found = [0; 2];
    for node in nodes {
        let mut kind = CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
        // SAFETY: a node of the graph, which lives.
        unsafe { sys::cuGraphNodeGetType(node, &mut kind) }
            .result()
            .unwrap();
        match kind {
            CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL => found[0] += 1,
            CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET => found[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    found
}

/// Kernels and memsets of forward, then of backward.
fn launches<T: Element<Acc = f32>>(cuda: &Cuda, config: &MoeConfig, keep: Keep) -> [[usize; 2]; 2] {
    let mut step = Step::<T>::new(cuda, config, 40, keep);
    let forward = capture(cuda, || step.forward());
    let backward = capture(cuda, || step.backward());
    [nodes(&forward), nodes(&backward)]
}

/// At most 6 kernels forward and 9 backward; with [`Keep::Routing`] one more, with expert biases two more in backward, and with another
/// activation none. Beside them memsets of a few words: one for each product of the experts, and one each for routing, dispatch and the
/// router's weight gradient.
#[test]
fn few_kernels_are_launched() {
    let _alone = alone();
    let cuda = cuda();
    let few = plain(64, 32, 16, 4).build().unwrap();
    let dropping = full(40, 24, 12, 3);
    let odd = plain(7, 5, 6, 2).build().unwrap();
    // More experts than one kernel makes logits of and routes to.
    let many = plain(16, 8, 600, 4).build().unwrap();
    let clamped = plain(64, 32, 16, 4).activation(Activation::GPT_OSS);
    let biased = clamped.clone().expert_bias(ExpertBias::GateUpAndDown);
    let [clamped, biased] = [clamped, biased].map(|builder| builder.build().unwrap());
    for (name, config, kernels) in [
        ("few", few, [5, 8]),
        ("dropping", dropping, [5, 10]),
        ("odd", odd, [5, 8]),
        ("many", many, [6, 9]),
        ("clamped", clamped, [5, 8]),
        ("biased", biased, [5, 10]),
    ] {
        for (dtype, counted) in [
            ("bf16", launches::<bf16>(&cuda, &config, Keep::Hidden)),
            ("f16", launches::<f16>(&cuda, &config, Keep::Hidden)),
            ("f32", launches::<f32>(&cuda, &config, Keep::Hidden)),
        ] {
            let [forward, backward] = counted;
            println!(
                "{name} {dtype}: [kernels, memsets] {forward:?} forward, {backward:?} backward"
            );
            assert_eq!([forward[0], backward[0]], kernels, "{name} {dtype}");
            assert_eq!([forward[1], backward[1]], [4, 5], "{name} {dtype}");
        }
        // h is made again: one product more.
        let [forward, backward] = launches::<bf16>(&cuda, &config, Keep::Routing);
        assert_eq!(forward[0], kernels[0], "{name}");
        assert_eq!(backward[0], kernels[1] + 1, "{name}");
    }
}

/// The bytes that `saved` takes of the device are those that the configuration counts, without the caller's x.
#[test]
fn saved_takes_what_the_configuration_counts() {
    let _alone = alone();
    if !cuda_emulator_loader::is_emulated() {
        return; // a pool takes memory in large pieces
    }
    let cuda = cuda();
    let free = || {
        cuda.stream().synchronize().unwrap();
        result::mem_get_info().unwrap().0
    };
    for config in [plain(64, 32, 16, 4).build().unwrap(), full(40, 24, 12, 3)] {
        for tokens in [1, 100] {
            let layer = MoeLayer::new(cuda.clone(), config.clone());
            let counted = layer.saved_bytes::<bf16>(tokens);
            for (keep, expected) in [
                (Keep::Hidden, counted.total() - counted.x),
                (Keep::Routing, counted.total_without_h() - counted.x),
                (Keep::Nothing, counted.total_without_h() - counted.x),
            ] {
                let before = free();
                let saved = layer.saved::<bf16>(tokens, keep).unwrap();
                let taken = before - free();
                assert_eq!(taken as u64, expected, "{keep:?} of {tokens} tokens");
                drop(saved);
                assert_eq!(free(), before);
            }
        }
    }
}

/// Forward and backward as one graph: neither allocates or waits, which would break the capture. Replayed on other inputs it
/// computes what launches compute.
#[test]
fn a_captured_step_computes_what_launches_do() {
    fn check<T: Element<Acc = f32>>(cuda: &Cuda, config: &MoeConfig, keep: Keep) {
        let what = format!("{} {keep:?}", T::DTYPE);
        let mut step = Step::<T>::new(cuda, config, 50, keep);
        let mut launched = Vec::new();
        for seed in 0..3 {
            step.fill(seed);
            step.submit();
            step.assert_written();
            launched.push(step.results());
        }
        assert!(launched[0].iter().zip(&launched[1]).all(|(a, b)| a != b));

        step.fill(9);
        let output = step.bytes(&step.output);
        let graph = capture(cuda, || {
            step.forward()?;
            step.backward()
        });
        assert!(step.bytes(&step.output) == output, "capturing runs nothing");
        for seed in [1, 2, 0] {
            step.fill(seed);
            graph.launch().unwrap();
            let what = format!("{what}: replayed on inputs {seed}");
            assert_same(&step.results(), &launched[seed as usize], &what);
        }
        // Once more on what the last replay left: nothing carries over.
        step.fill(0);
        graph.launch().unwrap();
        assert_same(&step.results(), &launched[0], &what);
    }
    let _alone = alone();
    let cuda = cuda();
    check::<bf16>(&cuda, &full(40, 24, 12, 3), Keep::Hidden);
    check::<bf16>(&cuda, &full(40, 24, 12, 3), Keep::Routing);
    check::<f32>(&cuda, &full(7, 5, 6, 2), Keep::Hidden);
    // More tiles of a weight's gradient than blocks: who takes which is drawn.
    check::<bf16>(&cuda, &full(8, 8, 300, 2), Keep::Hidden);
}

/// Warps and blocks in other orders: the same bits, and nothing for the checkers to find.
#[test]
fn no_interleaving_changes_a_bit() {
    fn check<T: Element<Acc = f32>>(cuda: &Cuda, config: &MoeConfig, seeds: u64) {
        let mut step = Step::<T>::new(cuda, config, 37, Keep::Hidden);
        step.fill(1);
        step.submit();
        let want = step.results();
        for seed in 0..seeds {
            cuda_emulator_loader::set_seed(Some(seed));
            step.fill(1);
            step.submit();
            let what = format!("seed {seed}, {}", T::DTYPE);
            assert_same(&step.results(), &want, &what);
            let findings = cuda_emulator_loader::findings().unwrap_or_default();
            assert!(findings.is_empty(), "{what}: {findings:#?}");
        }
        cuda_emulator_loader::set_seed(None);
    }
    let _alone = alone();
    let cuda = cuda();
    check::<bf16>(&cuda, &full(24, 16, 6, 2), 10);
    check::<f16>(&cuda, &full(7, 5, 6, 2), 5);
    check::<f32>(&cuda, &full(12, 8, 6, 2), 5);
    check::<bf16>(&cuda, &full(8, 8, 300, 2), 3);
}

/// Layers of one model share a workspace: what one leaves in it is nothing to another.
#[test]
fn layers_share_a_workspace() {
    let _alone = alone();
    let cuda = cuda();
    let config = full(24, 16, 6, 2);
    let mut layers = [1, 2].map(|seed| {
        let mut step = Step::<bf16>::new(&cuda, &config, 37, Keep::Hidden);
        step.fill(seed);
        step
    });
    let alone = layers.each_mut().map(|step| {
        step.submit();
        step.results()
    });
    for (step, seed) in layers.iter_mut().zip([1, 2]) {
        step.fill(seed);
    }
    // Forward through both, then back, in the workspace of the first.
    let [first, second] = &mut layers;
    let swap = |first: &mut Step<bf16>, second: &mut Step<bf16>| {
        std::mem::swap(&mut first.workspace, &mut second.workspace);
    };
    first.forward().unwrap();
    swap(first, second);
    second.forward().unwrap();
    second.backward().unwrap();
    swap(first, second);
    first.backward().unwrap();
    assert_same(&first.results(), &alone[0], "the first");
    assert_same(&second.results(), &alone[1], "the second");
}
