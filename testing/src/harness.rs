//! Runs a backend on host tensors. Every value goes in and comes out as `f64`, which holds all types exactly.

#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

use millet::{
    Backend, BackwardInput, Cpu, DType, DispatchForward, Element, ExpertBias, ExpertBiasGrads,
    ExpertBiases, Gradients, Keep, Logits, MoeConfig, MoeLayer, Plan, Real, Result, RouterBackward,
    RouterForward, RowTiles, Saved, Scalar, ScoreFunction, UnpermuteForward, WeightGrad, Weights,
    Workspace, stats_elements,
};

use crate::generate::Rng;
use crate::oracle::Number;

/// A backend that tests can fill.
pub trait TestBackend: Backend + Sized {
    /// The most exact type it computes in: results in it are held against what is right.
    type Exact: Real + Number;
    /// Largest E and K that its router takes. Tests go as far as E = 1000 and K = 64, so it must take at least these.
    const LIMITS: (usize, usize);
    /// Whether a router weight may be of any type that accumulates as the tokens' does. Otherwise it is of the tokens' type or of the
    /// accumulation type, and everything else is refused.
    const ANY_ROUTER_WEIGHT: bool;
    /// A test that does something many times does it as much less often.
    const SLOWNESS: u32;

    /// The backend that every test uses; called often, and by several threads.
    fn create() -> Self;

    /// The tolerance of a test, by the type that [`Exact`](Self::Exact) is.
    fn tolerance(f64: f64, f32: f64) -> f64 {
        match Self::Exact::DTYPE {
            DType::F64 => f64,
            _ => f32,
        }
    }
}

impl TestBackend for Cpu {
    type Exact = f64;
    const LIMITS: (usize, usize) = (usize::MAX, usize::MAX);
    const ANY_ROUTER_WEIGHT: bool = true;
    const SLOWNESS: u32 = 1;

    fn create() -> Self {
        Self
    }
}

/// One stream for the whole process.
#[cfg(feature = "cuda")]
impl TestBackend for millet::Cuda {
    type Exact = f32;
    const LIMITS: (usize, usize) = (4096, 64);
    const ANY_ROUTER_WEIGHT: bool = false;
    // On the emulator a kernel is about a thousand times slower than a CPU.
    const SLOWNESS: u32 = 4;

    fn create() -> Self {
        static CUDA: Mutex<Option<millet::Cuda>> = Mutex::new(None);
        let mut cuda = CUDA.lock().unwrap_or_else(PoisonError::into_inner);
        // A fault on a GPU, and what a checker of the emulator finds, break the context; once nobody holds it there is a new one.
        cuda.take_if(|cuda| cuda.stream().synchronize().is_err());
        cuda.get_or_insert_with(|| millet::Cuda::device(0).unwrap())
            .clone()
    }
}

/// Device memory that knows its length.
pub struct Tensor<B: TestBackend, T: Scalar> {
    buffer: B::Buffer<T>,
    len: usize,
}

impl<B: TestBackend, T: Scalar> Tensor<B, T> {
    /// A copy of `host` on the device.
    pub fn new(backend: &B, host: &[T]) -> Self {
        Self {
            buffer: backend.upload(host).unwrap(),
            len: host.len(),
        }
    }

    /// Zeros, without a copy of them on the host.
    pub fn zeroed(backend: &B, len: usize) -> Self {
        Self {
            buffer: backend.allocate(len).unwrap(),
            len,
        }
    }

    /// Filled with something that is not a result.
    pub fn filled(backend: &B, len: usize, value: T) -> Self {
        Self::new(backend, &vec![value; len])
    }

    /// All of it, to read.
    pub fn view(&self) -> B::View<'_, T> {
        B::view(&self.buffer, self.len)
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> B::ViewMut<'_, T> {
        B::view_mut(&mut self.buffer, self.len)
    }

    /// A copy on the host.
    pub fn read(&self, backend: &B) -> Vec<T> {
        backend.read(self.view()).unwrap()
    }
}

/// Rounded to `T` through its accumulation type, as kernels do.
pub fn narrow<T: Element>(values: &[f64]) -> Vec<T> {
    values
        .iter()
        .map(|&v| T::narrow(T::Acc::from_f64(v)))
        .collect()
}

/// Exactly.
pub fn widen<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.widen().to_f64()).collect()
}

/// Rounded to the backend's exact type.
pub fn exact<B: TestBackend>(values: &[f64]) -> Vec<f64> {
    widen(&narrow::<B::Exact>(values))
}

impl<B: TestBackend, T: Element> Tensor<B, T> {
    /// A copy of `values`, rounded to `T`.
    pub fn from_f64(backend: &B, values: &[f64]) -> Self {
        Self::new(backend, &narrow::<T>(values))
    }

    /// NaN everywhere: whatever is not written is seen.
    pub fn garbage(backend: &B, len: usize) -> Self {
        Self::filled(backend, len, T::narrow(T::Acc::NAN))
    }

    /// A copy on the host, widened.
    pub fn to_f64(&self, backend: &B) -> Vec<f64> {
        widen(&self.read(backend))
    }
}

/// Everything a layer's forward and backward read.
#[derive(Debug, Clone)]
pub struct Problem {
    /// T.
    pub tokens: usize,
    /// \[T, H\].
    pub x: Vec<f64>,
    /// \[E, H\].
    pub router: Vec<f64>,
    /// The router's selection bias \[E\].
    pub bias: Option<Vec<f64>>,
    /// \[E, 2I, H\].
    pub gate_up: Vec<f64>,
    /// \[E, H, I\].
    pub down: Vec<f64>,
    /// \[E, 2I\], or empty where the configuration has no expert biases.
    pub gate_up_bias: Vec<f64>,
    /// \[E, H\], or empty likewise.
    pub down_bias: Vec<f64>,
    /// \[T, H\].
    pub output_grad: Vec<f64>,
}

impl Problem {
    /// Scaled so that every intermediate is of order 1. A sigmoid router gets a selection bias.
    pub fn random(config: &MoeConfig, tokens: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let experts = config.num_experts();
        let over_root = |n: usize| 1.0 / (n as f64).sqrt();
        let mut problem = Self {
            tokens,
            x: rng.normals(tokens * hidden, 1.0),
            router: rng.normals(experts * hidden, over_root(hidden)),
            bias: (config.router().score_function() == ScoreFunction::Sigmoid)
                .then(|| rng.normals(experts, 0.2)),
            gate_up: rng.normals(experts * 2 * inner * hidden, 1.4 * over_root(hidden)),
            down: rng.normals(experts * hidden * inner, 1.4 * over_root(inner)),
            gate_up_bias: Vec::new(),
            down_bias: Vec::new(),
            output_grad: rng.normals(tokens * hidden, 1.0),
        };
        if config.expert_bias() != ExpertBias::None {
            problem.gate_up_bias = rng.normals(experts * 2 * inner, 0.5);
            problem.down_bias = rng.normals(experts * hidden, 0.5);
        }
        problem
    }

    /// The expert biases on a backend, where there are any.
    pub fn expert_biases<B: TestBackend, T: Element>(
        &self,
        backend: &B,
    ) -> Option<[Tensor<B, T>; 2]> {
        let biases = [&self.gate_up_bias, &self.down_bias];
        (!self.gate_up_bias.is_empty()).then(|| biases.map(|bias| Tensor::from_f64(backend, bias)))
    }

    /// Its tensors in a backend's memory.
    pub fn upload<B: TestBackend, T: Element, W: Element<Acc = T::Acc>>(
        &self,
        backend: &B,
    ) -> Inputs<B, T, W> {
        let tensor = |values: &Vec<f64>| Tensor::<B, T>::from_f64(backend, values);
        let bias = self.bias.as_deref();
        Inputs {
            x: tensor(&self.x),
            router: Tensor::from_f64(backend, &self.router),
            bias: bias.map(|bias| Tensor::from_f64(backend, bias)),
            gate_up: tensor(&self.gate_up),
            down: tensor(&self.down),
            expert_bias: self.expert_biases(backend),
            output_grad: tensor(&self.output_grad),
        }
    }

    /// Every tensor rounded to the type it will have.
    pub fn rounded<T: Element, W: Element<Acc = T::Acc>>(&self) -> Self {
        let round = |values: &[f64]| widen(&narrow::<T>(values));
        Self {
            tokens: self.tokens,
            x: round(&self.x),
            router: widen(&narrow::<W>(&self.router)),
            bias: self
                .bias
                .as_deref()
                .map(|bias| widen(&narrow::<T::Acc>(bias))),
            gate_up: round(&self.gate_up),
            down: round(&self.down),
            gate_up_bias: round(&self.gate_up_bias),
            down_bias: round(&self.down_bias),
            output_grad: round(&self.output_grad),
        }
    }
}

/// A [`Problem`] in a backend's memory.
pub struct Inputs<B: TestBackend, T: Element, W: Element<Acc = T::Acc>> {
    /// \[T, H\].
    pub x: Tensor<B, T>,
    router: Tensor<B, W>,
    bias: Option<Tensor<B, T::Acc>>,
    gate_up: Tensor<B, T>,
    down: Tensor<B, T>,
    expert_bias: Option<[Tensor<B, T>; 2]>,
    /// \[T, H\].
    pub output_grad: Tensor<B, T>,
}

impl<B: TestBackend, T: Element, W: Element<Acc = T::Acc>> Inputs<B, T, W> {
    /// What a layer's passes take.
    pub fn weights(&self) -> Weights<'_, B, T, W> {
        Weights {
            router: self.router.view(),
            selection_bias: self.bias.as_ref().map(Tensor::view),
            gate_up: self.gate_up.view(),
            down: self.down.view(),
            expert_bias: self.expert_bias.as_ref().map(expert_bias_views),
        }
    }
}

/// As a layer takes [`Problem::expert_biases`].
pub fn expert_bias_views<B: TestBackend, T: Element>(
    [gate_up, down]: &[Tensor<B, T>; 2],
) -> ExpertBiases<'_, B, T> {
    ExpertBiases {
        gate_up: gate_up.view(),
        down: down.view(),
    }
}

/// Everything they write.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// \[T, H\].
    pub output: Vec<f64>,
    /// \[T, K\].
    pub ids: Vec<i32>,
    /// As the combine used them.
    pub weights: Vec<f64>,
    /// \[T·K\].
    pub assignment_to_row: Vec<i32>,
    /// \[E + 1\].
    pub offsets: Vec<i32>,
    /// Load balancing, z.
    pub losses: Vec<f64>,
    /// \[T, H\].
    pub x_grad: Vec<f64>,
    /// \[E, H\].
    pub router_grad: Vec<f64>,
    /// \[E, 2I, H\].
    pub gate_up_grad: Vec<f64>,
    /// \[E, H, I\].
    pub down_grad: Vec<f64>,
    /// \[E, 2I\], or empty where the configuration has no expert biases.
    pub gate_up_bias_grad: Vec<f64>,
    /// \[E, H\], or empty likewise.
    pub down_bias_grad: Vec<f64>,
}

impl Outcome {
    /// Everything that is a number with a fraction, with its name.
    pub fn floats(&self) -> [(&'static str, &[f64]); 9] {
        [
            ("output", &self.output),
            ("weights", &self.weights),
            ("losses", &self.losses),
            ("x_grad", &self.x_grad),
            ("router_grad", &self.router_grad),
            ("gate_up_grad", &self.gate_up_grad),
            ("down_grad", &self.down_grad),
            ("gate_up_bias_grad", &self.gate_up_bias_grad),
            ("down_bias_grad", &self.down_bias_grad),
        ]
    }

    /// Equal ids and maps.
    pub fn assert_same_routing(&self, other: &Self, what: &str) {
        assert_eq!(self.ids, other.ids, "ids: {what}");
        assert_eq!(self.offsets, other.offsets, "offsets: {what}");
        assert_eq!(
            self.assignment_to_row, other.assignment_to_row,
            "maps: {what}"
        );
    }

    /// Bit for bit: −0 is not +0.
    pub fn assert_same_bits(&self, other: &Self, what: &str) {
        self.assert_same_routing(other, what);
        for ((name, mine), (_, theirs)) in self.floats().into_iter().zip(other.floats()) {
            let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert!(bits(mine) == bits(theirs), "{name} differs in bits: {what}");
        }
    }
}

/// Forward and backward of a layer, weight gradients overwritten over garbage.
pub fn run<B: TestBackend, T: Element, W: Element<Acc = T::Acc>>(
    config: &MoeConfig,
    problem: &Problem,
    keep: Keep,
    loss_gradient: f64,
) -> Outcome {
    let layer = MoeLayer::new(B::create(), config.clone());
    let mut saved = layer.saved::<T>(problem.tokens, keep).unwrap();
    let mut workspace = layer.workspace::<T>(problem.tokens, keep).unwrap();
    run_with::<B, T, W>(&layer, problem, &mut saved, &mut workspace, loss_gradient)
}

/// The same in memory that is there already.
pub fn run_with<B: TestBackend, T: Element, W: Element<Acc = T::Acc>>(
    layer: &MoeLayer<B>,
    problem: &Problem,
    saved: &mut Saved<B, T>,
    workspace: &mut Workspace<B, T>,
    loss_gradient: f64,
) -> Outcome {
    let backend = layer.backend();
    let inputs = problem.upload::<B, T, W>(backend);
    let (weights, x) = (inputs.weights(), inputs.x.view());
    let mut output = Tensor::<B, T>::garbage(backend, problem.x.len());
    layer
        .forward(weights, x, output.view_mut(), saved, workspace)
        .unwrap();
    let routing = layer.routing(saved).unwrap();
    let (aux, z) = layer.losses(saved).unwrap();

    let mut grads = GradTensors::<B, T, W>::garbage(backend, problem);
    let gradients = grads.overwritten(weights.expert_bias.is_some());
    let input = BackwardInput {
        x,
        output_grad: inputs.output_grad.view(),
        loss_gradient,
    };
    layer
        .backward(weights, input, saved, workspace, gradients)
        .unwrap();
    let [
        x_grad,
        router_grad,
        gate_up_grad,
        down_grad,
        gate_up_bias_grad,
        down_bias_grad,
    ] = grads.to_f64(backend);
    Outcome {
        output: output.to_f64(backend),
        ids: routing.ids,
        weights: widen(&routing.weights),
        assignment_to_row: routing.assignment_to_row,
        offsets: routing.offsets,
        losses: vec![aux.to_f64(), z.to_f64()],
        x_grad,
        router_grad,
        gate_up_grad,
        down_grad,
        gate_up_bias_grad,
        down_bias_grad,
    }
}

/// Tensors for the gradients of a layer.
pub struct GradTensors<B: TestBackend, T: Element, W: Element<Acc = T::Acc>> {
    /// \[T, H\].
    pub x: Tensor<B, T>,
    /// \[E, H\].
    pub router: Tensor<B, W>,
    /// \[E, 2I, H\].
    pub gate_up: Tensor<B, T>,
    /// \[E, H, I\].
    pub down: Tensor<B, T>,
    /// \[E, 2I\], or empty.
    pub gate_up_bias: Tensor<B, T>,
    /// \[E, H\], or empty.
    pub down_bias: Tensor<B, T>,
}

impl<B: TestBackend, T: Element, W: Element<Acc = T::Acc>> GradTensors<B, T, W> {
    /// As many as the problem has, of what backward must not leave there.
    pub fn garbage(backend: &B, problem: &Problem) -> Self {
        let garbage = |values: &[f64]| Tensor::garbage(backend, values.len());
        Self {
            x: garbage(&problem.x),
            router: Tensor::garbage(backend, problem.router.len()),
            gate_up: garbage(&problem.gate_up),
            down: garbage(&problem.down),
            gate_up_bias: garbage(&problem.gate_up_bias),
            down_bias: garbage(&problem.down_bias),
        }
    }

    /// All of them to be overwritten, those of the biases where the layer has biases.
    pub fn overwritten(&mut self, has_expert_bias: bool) -> Gradients<'_, B, T, W> {
        Gradients {
            x: self.x.view_mut(),
            router: WeightGrad::Overwrite(self.router.view_mut()),
            gate_up: WeightGrad::Overwrite(self.gate_up.view_mut()),
            down: WeightGrad::Overwrite(self.down.view_mut()),
            expert_bias: has_expert_bias.then(|| ExpertBiasGrads {
                gate_up: WeightGrad::Overwrite(self.gate_up_bias.view_mut()),
                down: WeightGrad::Overwrite(self.down_bias.view_mut()),
            }),
        }
    }

    /// In the order of the fields.
    pub fn to_f64(&self, backend: &B) -> [Vec<f64>; 6] {
        [
            self.x.to_f64(backend),
            self.router.to_f64(backend),
            self.gate_up.to_f64(backend),
            self.down.to_f64(backend),
            self.gate_up_bias.to_f64(backend),
            self.down_bias.to_f64(backend),
        ]
    }
}

/// A router's results on given logits.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterOutcome {
    /// \[T, K\].
    pub ids: Vec<i32>,
    /// \[T, K\], before dispatch.
    pub weights: Vec<f64>,
    /// \[T\].
    pub lse: Vec<f64>,
    /// \[E\], before anything is dropped.
    pub counts: Vec<i32>,
    /// All that the router writes of it; the methods name its parts.
    pub stats: Vec<f64>,
}

impl RouterOutcome {
    /// The load-balancing loss.
    pub fn aux(&self) -> f64 {
        self.stats[0]
    }
    /// The z loss.
    pub fn z(&self) -> f64 {
        self.stats[1]
    }
    /// How many rows are bad.
    pub fn bad_rows(&self) -> f64 {
        self.stats[2]
    }
    /// Sum of the entropies of the distributions over experts.
    pub fn entropy(&self) -> f64 {
        self.stats[3]
    }
    /// Sum over tokens of the share that the largest weight has.
    pub fn top1_share(&self) -> f64 {
        self.stats[4]
    }
    /// Sum over tokens of the weight of each slot \[K\].
    pub fn slot_weights(&self, config: &MoeConfig) -> &[f64] {
        &self.stats[5..5 + config.top_k()]
    }
    /// Sum over tokens of the probability of each expert \[E\].
    pub fn expert_sums(&self, config: &MoeConfig) -> &[f64] {
        &self.stats[5 + config.top_k()..]
    }
}

/// Scratch for any operation of the layer, filled with NaN.
pub fn scratch<B: TestBackend, T: Element>(
    backend: &B,
    config: &MoeConfig,
    tokens: usize,
) -> Tensor<B, T::Acc> {
    Tensor::garbage(backend, backend.scratch_elements::<T>(config, tokens))
}

/// Router forward on logits [T, E].
#[track_caller]
pub fn route<B: TestBackend, A: Real>(
    config: &MoeConfig,
    logits: &[f64],
    bias: Option<&[f64]>,
) -> RouterOutcome {
    try_route::<B, A>(config, logits, bias).unwrap()
}

/// The same, or why not.
pub fn try_route<B: TestBackend, A: Real>(
    config: &MoeConfig,
    logits: &[f64],
    bias: Option<&[f64]>,
) -> Result<RouterOutcome> {
    let backend = &B::create();
    let (experts, top_k) = (config.num_experts(), config.top_k());
    let tokens = logits.len() / experts;
    let logits = Tensor::<B, A>::from_f64(backend, logits);
    let bias = bias.map(|bias| Tensor::<B, A>::from_f64(backend, bias));
    let mut ids = Tensor::<B, i32>::filled(backend, tokens * top_k, -7);
    let mut weights = Tensor::<B, A>::garbage(backend, tokens * top_k);
    let mut lse = Tensor::<B, A>::garbage(backend, tokens);
    let mut counts = Tensor::<B, i32>::filled(backend, experts, -7);
    let mut stats = Tensor::<B, A>::garbage(backend, stats_elements(config));
    let mut scratch = scratch::<B, A>(backend, config, tokens);
    backend.router_forward(RouterForward::<B, A> {
        config,
        tokens,
        logits: Logits::Given(logits.view()),
        selection_bias: bias.as_ref().map(|bias| bias.view()),
        ids: ids.view_mut(),
        weights: weights.view_mut(),
        lse: lse.view_mut(),
        counts: counts.view_mut(),
        stats: stats.view_mut(),
        logits_output: None,
        scratch: scratch.view_mut(),
    })?;
    Ok(RouterOutcome {
        ids: ids.read(backend),
        weights: weights.to_f64(backend),
        lse: lse.to_f64(backend),
        counts: counts.read(backend),
        stats: stats.to_f64(backend),
    })
}

/// Router backward on logits [T, E]; `weights` as dispatch left them.
pub fn route_backward<B: TestBackend, A: Real>(
    config: &MoeConfig,
    logits: &[f64],
    forward: &RouterOutcome,
    weights: &[f64],
    weights_grad: &[f64],
    loss_gradient: f64,
) -> Vec<f64> {
    let backend = &B::create();
    let tokens = logits.len() / config.num_experts();
    let device = |values: &[f64]| Tensor::<B, A>::from_f64(backend, values);
    let (logits, weights) = (device(logits), device(weights));
    let (lse, weights_grad) = (device(&forward.lse), device(weights_grad));
    let ids = Tensor::<B, i32>::new(backend, &forward.ids);
    let counts = Tensor::<B, i32>::new(backend, &forward.counts);
    let mut logits_grad = Tensor::<B, A>::garbage(backend, tokens * config.num_experts());
    let mut scratch = scratch::<B, A>(backend, config, tokens);
    backend
        .router_backward(RouterBackward::<B, A> {
            config,
            tokens,
            logits: Logits::Given(logits.view()),
            ids: ids.view(),
            weights: weights.view(),
            lse: lse.view(),
            counts: counts.view(),
            weights_grad: weights_grad.view(),
            loss_gradient,
            logits_grad: logits_grad.view_mut(),
            scratch: scratch.view_mut(),
        })
        .unwrap();
    logits_grad.to_f64(backend)
}

/// Dispatch of ids [T, K]; weights [T, K] come back as it left them.
pub fn dispatch<B: TestBackend, A: Real>(
    backend: &B,
    config: &MoeConfig,
    ids: &[i32],
    weights: &[f64],
) -> (Plan<B>, Vec<f64>) {
    let tokens = ids.len() / config.top_k();
    let garbage = |len: usize| backend.upload(&vec![i32::MIN; len]).unwrap();
    // SAFETY: dispatch writes all of it before anything follows it.
    let mut plan = unsafe {
        Plan::from_parts(
            backend,
            config.clone(),
            tokens,
            garbage(config.num_experts() + 1),
            garbage(config.max_rows(tokens)),
            garbage(ids.len()),
            garbage(2 * backend.row_tiles(config, tokens).most),
        )
    };
    let ids = Tensor::<B, i32>::new(backend, ids);
    let mut weights = Tensor::<B, A>::from_f64(backend, weights);
    let mut scratch = scratch::<B, A>(backend, config, tokens);
    backend
        .dispatch(DispatchForward::<B, A> {
            config,
            tokens,
            ids: ids.view(),
            weights: weights.view_mut(),
            plan: &mut plan,
            scratch: scratch.view_mut(),
        })
        .unwrap();
    let weights = weights.to_f64(backend);
    (plan, weights)
}

/// What a plan with these offsets lists: expert and first row of every tile, then −1.
///
/// # Panics
/// When there are more tiles than `tiles.most`.
pub fn list_tiles(tiles: RowTiles, offsets: &[i32]) -> Vec<i32> {
    let mut list = Vec::new();
    if tiles.most > 0 {
        for (expert, rows) in offsets.windows(2).enumerate() {
            let starts = (rows[0]..rows[1]).step_by(tiles.height);
            list.extend(starts.flat_map(|row| [expert as i32, row]));
        }
    }
    assert!(list.len() <= 2 * tiles.most, "{tiles:?} for {offsets:?}");
    list.resize(2 * tiles.most, -1);
    list
}

/// Unpermute of rows \[max rows, H\] with weights \[T, K\] → \[T, H\].
pub fn unpermute<B: TestBackend, T: Element>(
    backend: &B,
    plan: &Plan<B>,
    rows: &Tensor<B, T>,
    weights: &Tensor<B, T::Acc>,
) -> Vec<f64> {
    let elements = plan.tokens() * plan.config().hidden_size();
    let mut output = Tensor::<B, T>::garbage(backend, elements);
    backend
        .unpermute(UnpermuteForward::<B, T> {
            plan,
            rows: rows.view(),
            weights: weights.view(),
            output: output.view_mut(),
        })
        .unwrap();
    output.to_f64(backend)
}

/// A plan's tensors on the host.
pub struct HostPlan {
    /// \[E + 1\].
    pub offsets: Vec<i32>,
    /// \[max rows\].
    pub row_to_assignment: Vec<i32>,
    /// \[T·K\].
    pub assignment_to_row: Vec<i32>,
    /// \[most, 2\].
    pub row_tiles: Vec<i32>,
}

impl HostPlan {
    /// Copies them.
    pub fn read<B: TestBackend>(backend: &B, plan: &Plan<B>) -> Self {
        let (read, map) = (|view| backend.read(view).unwrap(), plan.map());
        Self {
            offsets: read(map.offsets),
            row_to_assignment: read(map.row_to_assignment),
            assignment_to_row: read(map.assignment_to_row),
            row_tiles: read(map.row_tiles),
        }
    }
}
