//! Every kernel by small calls of the operations, each on inputs of its own: what one does wrong reaches no other. Inputs are made without
//! the functions of the C library and without a product, so that they have the same bits on every machine.

use millet::half::{bf16, f16};
use millet::{
    Capacity, Cuda, DType, Dispatch, DispatchForward, DropPolicy, Element, ExpertBias, Experts,
    ExpertsBiasGrad, ExpertsDown, ExpertsDownBackward, ExpertsDownWeightGrad, ExpertsInputGrad,
    ExpertsUp, ExpertsUpWeightGrad, Logits, LogitsOf, Losses, MoeConfig, MoeConfigBuilder, Permute,
    PermuteBackward, PermuteForward, Plan, Renormalize, Router, RouterBackward, RouterForward,
    RouterPart, RouterWeightGrad, Scalar, ScoreFunction, UnpermuteBackward, UnpermuteForward,
    WeightGrad, stats_elements,
};
use millet_testing::generate::Rng;
use millet_testing::harness::{self, HostPlan, Tensor};

use crate::Result;

/// What an output may differ in between a card and the emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: integers, copies, and arithmetic in f32 in one order.
    Exact,
    /// How tensor cores round the sums within one instruction.
    Products,
}

/// A tensor that an operation wrote, or that it may have written a part of.
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// As Rust writes it.
    pub(crate) element: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// Calls of one or several operations.
pub(crate) struct Case {
    pub(crate) name: String,
    run: Box<Calls>,
}

/// Inputs are drawn from the seed.
type Calls = dyn Fn(&Cuda, u64) -> Result<Vec<Output>>;

impl Case {
    fn new(name: String, run: impl Fn(&Cuda, u64) -> Result<Vec<Output>> + 'static) -> Self {
        Self {
            name,
            run: Box::new(run),
        }
    }

    /// The outputs, the same for each case of this name.
    pub(crate) fn run(&self, cuda: &Cuda) -> Result<Vec<Output>> {
        // FNV-1a.
        let seed = self
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        let outputs = (self.run)(cuda, seed);
        outputs.map_err(|error| format!("{}: {error}", self.name).into())
    }
}

/// How large the calls are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// For the emulator.
    Small,
    /// That a GPU has something to do.
    Large,
}

impl Size {
    fn of(self, small: usize) -> usize {
        match self {
            Self::Small => small,
            Self::Large => 16 * small,
        }
    }

    /// Of widths, whose product is in the sizes of weights.
    fn wide(self, small: usize) -> usize {
        match self {
            Self::Small => small,
            Self::Large => 3 * small,
        }
    }
}

/// Names the types of tokens and router weight, once for each pair.
macro_rules! with_types {
    ([$($types:literal: $t:ty, $w:ty;)+], |$name:ident, $a:ident, $b:ident| $body:expr) => {
        $({
            type $a = $t;
            #[allow(dead_code)] // where there is no router weight
            type $b = $w;
            let $name = $types;
            $body
        })+
    };
}

/// All of them. Every kernel is in one; `cargo xtask gpu-kit` compares with what nvcc compiled.
pub(crate) fn cases(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    // By the tiles of the router: 128, 256 and 512 experts, and more.
    for experts in [100, 300, 600] {
        with_types!(["f32": f32, f32; "bf16": bf16, bf16; "f16": f16, f16;], |types, T, W| {
            cases.push(Case::new(
                format!("router-given-{experts}-{types}"),
                move |cuda, seed| router_given::<T>(cuda, seed, experts, size.of(37)),
            ));
        });
    }
    for experts in [60, 200, 400, 600] {
        with_types!([
            "f32": f32, f32; "bf16": bf16, bf16; "f16": f16, f16; "bf16-f32": bf16, f32; "f16-f32": f16, f32;
        ], |types, T, W| {
            cases.push(Case::new(
                format!("router-tokens-{experts}-{types}"),
                move |cuda, seed| router_tokens::<T, W>(cuda, seed, experts, size.of(70), size.wide(72)),
            ));
        });
    }
    let policies = [
        ("all", None),
        ("probability", Some(DropPolicy::Probability)),
        ("position", Some(DropPolicy::Position)),
        ("slots", Some(DropPolicy::SlotMajor)),
    ];
    for (name, policy) in policies {
        cases.push(Case::new(format!("dispatch-{name}"), move |cuda, seed| {
            dispatch(cuda, seed, policy, size.of(100))
        }));
    }
    with_types!([
        "f32": f32, f32; "bf16": bf16, bf16; "f16": f16, f16; "bf16-f32": bf16, f32; "f16-f32": f16, f32;
    ], |types, T, W| {
        cases.push(Case::new(format!("rows-{types}"), move |cuda, seed| {
            rows::<T, W>(cuda, seed, size.of(40), size.wide(72))
        }));
    });
    // Tokens and experts decide the height of the products' tiles, widths whether rows are whole vectors.
    for (tile, tokens, experts, hidden, inner) in [
        ("large", 70, 2, 136, 72),
        ("small", 30, 3, 136, 72),
        ("any", 30, 3, 133, 71),
    ] {
        with_types!(["f32": f32, f32; "bf16": bf16, bf16; "f16": f16, f16;], |types, T, W| {
            cases.push(Case::new(format!("experts-{tile}-{types}"), move |cuda, seed| {
                let (hidden, inner) = (size.wide(hidden), size.wide(inner));
                let config = MoeConfig::builder(hidden, inner, size.of(experts), 2)
                    .expert_bias(ExpertBias::GateUpAndDown)
                    .build()?;
                experts_of::<T>(cuda, seed, &config, size.of(tokens))
            }));
        });
    }
    cases
}

/// In ±`scale`.
fn numbers(rng: &mut Rng, n: usize, scale: f64) -> Vec<f64> {
    (0..n)
        .map(|_| (2.0 * rng.uniform() - 1.0) * scale)
        .collect()
}

/// In 0.1 to 1.
fn positive(rng: &mut Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| 0.1 + 0.9 * rng.uniform()).collect()
}

/// [T, K], distinct in a token.
fn ids(rng: &mut Rng, tokens: usize, experts: usize, top_k: usize) -> Vec<i32> {
    let of_token = |_| rng.permutation(experts).into_iter().take(top_k);
    (0..tokens).flat_map(of_token).map(|e| e as i32).collect()
}

/// As many of each expert as are in `ids`.
fn counts(ids: &[i32], experts: usize) -> Vec<i32> {
    let mut counts = vec![0; experts];
    for &id in ids {
        counts[id as usize] += 1;
    }
    counts
}

/// Tensors of one case.
struct Tensors<'a> {
    cuda: &'a Cuda,
    rng: Rng,
    outputs: Vec<Output>,
}

impl<'a> Tensors<'a> {
    fn new(cuda: &'a Cuda, seed: u64) -> Self {
        Self {
            cuda,
            rng: Rng::new(seed),
            outputs: Vec::new(),
        }
    }

    fn random<T: Element>(&mut self, n: usize, scale: f64) -> Tensor<Cuda, T> {
        Tensor::from_f64(self.cuda, &numbers(&mut self.rng, n, scale))
    }

    fn positive(&mut self, n: usize) -> Tensor<Cuda, f32> {
        Tensor::from_f64(self.cuda, &positive(&mut self.rng, n))
    }

    fn integers(&self, values: &[i32]) -> Tensor<Cuda, i32> {
        Tensor::new(self.cuda, values)
    }

    /// For an output: NaN, so that whatever is not written is seen.
    fn garbage<T: Element>(&self, n: usize) -> Tensor<Cuda, T> {
        Tensor::garbage(self.cuda, n)
    }

    fn keep<T: Scalar>(&mut self, name: &str, kind: Kind, values: &[T]) {
        self.outputs.push(Output {
            name: name.into(),
            kind,
            element: std::any::type_name::<T>()
                .rsplit("::")
                .next()
                .unwrap_or_default(),
            bytes: bytemuck::cast_slice(values).to_vec(),
        });
    }

    fn output<T: Scalar>(&mut self, name: &str, kind: Kind, tensor: &Tensor<Cuda, T>) {
        let values = tensor.read(self.cuda);
        self.keep(name, kind, &values);
    }
}

fn router_config(hidden: usize, experts: usize) -> MoeConfigBuilder {
    MoeConfig::builder(hidden, 8, experts, 6).losses(Losses::new(0.3, 0.05))
}

/// A router's outputs.
struct Routed {
    ids: Tensor<Cuda, i32>,
    weights: Tensor<Cuda, f32>,
    lse: Tensor<Cuda, f32>,
    counts: Tensor<Cuda, i32>,
    stats: Tensor<Cuda, f32>,
}

impl Routed {
    fn new(tensors: &Tensors, config: &MoeConfig, tokens: usize) -> Self {
        let assignments = tokens * config.top_k();
        Self {
            ids: tensors.integers(&vec![i32::MIN; assignments]),
            weights: tensors.garbage(assignments),
            lse: tensors.garbage(tokens),
            counts: tensors.integers(&vec![i32::MIN; config.num_experts()]),
            stats: tensors.garbage(stats_elements(config)),
        }
    }

    fn keep(&self, tensors: &mut Tensors, kind: Kind) {
        tensors.output("ids", Kind::Exact, &self.ids);
        tensors.output("counts", Kind::Exact, &self.counts);
        tensors.output("weights", kind, &self.weights);
        tensors.output("lse", kind, &self.lse);
        tensors.output("stats", kind, &self.stats);
    }
}

/// What a router's backward reads of a forward that never was.
struct Given {
    ids: Tensor<Cuda, i32>,
    counts: Tensor<Cuda, i32>,
    weights: Tensor<Cuda, f32>,
    lse: Tensor<Cuda, f32>,
    weights_grad: Tensor<Cuda, f32>,
}

impl Given {
    fn new(tensors: &mut Tensors, config: &MoeConfig, tokens: usize) -> Self {
        let (experts, top_k) = (config.num_experts(), config.top_k());
        let ids = ids(&mut tensors.rng, tokens, experts, top_k);
        let lse: Vec<f64> = positive(&mut tensors.rng, tokens);
        Self {
            counts: tensors.integers(&counts(&ids, experts)),
            ids: tensors.integers(&ids),
            weights: tensors.positive(tokens * top_k),
            lse: Tensor::from_f64(
                tensors.cuda,
                &lse.iter().map(|l| 5.0 + l).collect::<Vec<_>>(),
            ),
            weights_grad: tensors.random(tokens * top_k, 1.0),
        }
    }
}

fn router_backward<T: Element<Acc = f32>, W: Element<Acc = f32>>(
    tensors: &mut Tensors<'_>,
    config: &MoeConfig,
    tokens: usize,
    logits: LogitsOf<'_, Cuda, T, W>,
    kind: Kind,
) -> Result<()> {
    let given = Given::new(tensors, config, tokens);
    let mut logits_grad = tensors.garbage(tokens * config.num_experts());
    let mut scratch = harness::scratch::<Cuda, T>(tensors.cuda, config, tokens);
    tensors.cuda.router_backward(RouterBackward::<Cuda, T, W> {
        config,
        tokens,
        logits,
        ids: given.ids.view(),
        weights: given.weights.view(),
        lse: given.lse.view(),
        counts: given.counts.view(),
        weights_grad: given.weights_grad.view(),
        loss_gradient: 0.75,
        logits_grad: logits_grad.view_mut(),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("logits_grad", kind, &logits_grad);
    Ok(())
}

fn router_given<T: Element<Acc = f32>>(
    cuda: &Cuda,
    seed: u64,
    experts: usize,
    tokens: usize,
) -> Result<Vec<Output>> {
    let mut tensors = Tensors::new(cuda, seed);
    let score_function = match experts {
        100 => ScoreFunction::Sigmoid,
        300 => ScoreFunction::SoftmaxBeforeTopK,
        _ => ScoreFunction::SoftmaxAfterTopK,
    };
    let config = router_config(8, experts)
        .score_function(score_function)
        .build()?;
    let values = numbers(&mut tensors.rng, tokens * experts, 4.0);
    let (exact, narrow) = (
        Tensor::<Cuda, f32>::from_f64(cuda, &values),
        Tensor::<Cuda, T>::from_f64(cuda, &values),
    );
    let logits = match T::DTYPE {
        DType::F32 => Logits::Given(exact.view()),
        _ => Logits::GivenNarrow(narrow.view()),
    };
    let bias =
        (score_function == ScoreFunction::Sigmoid).then(|| tensors.random::<f32>(experts, 0.2));
    let mut scratch = harness::scratch::<Cuda, T>(cuda, &config, tokens);
    let mut routed = Routed::new(&tensors, &config, tokens);
    cuda.router_forward(RouterForward::<Cuda, T> {
        config: &config,
        tokens,
        logits,
        selection_bias: bias.as_ref().map(Tensor::view),
        ids: routed.ids.view_mut(),
        weights: routed.weights.view_mut(),
        lse: routed.lse.view_mut(),
        counts: routed.counts.view_mut(),
        stats: routed.stats.view_mut(),
        logits_output: None,
        scratch: scratch.view_mut(),
    })?;
    routed.keep(&mut tensors, Kind::Exact);
    router_backward::<T, T>(&mut tensors, &config, tokens, logits, Kind::Exact)?;
    Ok(tensors.outputs)
}

fn router_tokens<T: Element<Acc = f32>, W: Element<Acc = f32>>(
    cuda: &Cuda,
    seed: u64,
    experts: usize,
    tokens: usize,
    hidden: usize,
) -> Result<Vec<Output>> {
    let mut tensors = Tensors::new(cuda, seed);
    let config = router_config(hidden, experts).build()?;
    let x = tensors.random::<T>(tokens * hidden, 1.0);
    let weight = tensors.random::<W>(experts * hidden, 0.5);
    let logits = Logits::FromTokens {
        x: x.view(),
        weight: weight.view(),
    };
    let mut scratch = harness::scratch::<Cuda, T>(cuda, &config, tokens);
    let mut routed = Routed::new(&tensors, &config, tokens);
    let mut logits_output = tensors.garbage::<f32>(tokens * experts);
    cuda.router_forward(RouterForward::<Cuda, T, W> {
        config: &config,
        tokens,
        logits,
        selection_bias: None,
        ids: routed.ids.view_mut(),
        weights: routed.weights.view_mut(),
        lse: routed.lse.view_mut(),
        counts: routed.counts.view_mut(),
        stats: routed.stats.view_mut(),
        logits_output: Some(logits_output.view_mut()),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("logits", Kind::Products, &logits_output);
    routed.keep(&mut tensors, Kind::Products);
    router_backward::<T, W>(&mut tensors, &config, tokens, logits, Kind::Products)?;
    let logits_grad = tensors.random::<f32>(tokens * experts, 1.0);
    let mut grad = tensors.garbage::<W>(experts * hidden);
    cuda.router_weight_grad(RouterWeightGrad::<Cuda, T, W> {
        config: &config,
        tokens,
        logits_grad: logits_grad.view(),
        x: x.view(),
        grad: WeightGrad::Overwrite(grad.view_mut()),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("weight_grad", Kind::Products, &grad);
    Ok(tensors.outputs)
}

fn dispatch(
    cuda: &Cuda,
    seed: u64,
    policy: Option<DropPolicy>,
    tokens: usize,
) -> Result<Vec<Output>> {
    let mut tensors = Tensors::new(cuda, seed);
    let (experts, top_k) = (24, 4);
    let mut builder = MoeConfig::builder(8, 8, experts, top_k);
    if let Some(policy) = policy {
        builder = builder.capacity(
            Capacity::new(0.8)
                .policy(policy)
                .renormalize(Renormalize::AfterDrop),
        );
    }
    let config = builder.build()?;
    let ids = ids(&mut tensors.rng, tokens, experts, top_k);
    let weights = positive(&mut tensors.rng, ids.len());
    let (plan, weights) = harness::dispatch::<Cuda, f32>(cuda, &config, &ids, &weights);
    let plan = HostPlan::read(cuda, &plan);
    tensors.keep("offsets", Kind::Exact, &plan.offsets);
    let rows = plan.offsets.last().map_or(0, |&rows| rows as usize);
    // The rest is not written.
    let of_rows = &plan.row_to_assignment[..rows];
    tensors.keep("row_to_assignment", Kind::Exact, of_rows);
    tensors.keep("assignment_to_row", Kind::Exact, &plan.assignment_to_row);
    tensors.keep("row_tiles", Kind::Exact, &plan.row_tiles);
    tensors.keep("weights", Kind::Exact, &weights);
    Ok(tensors.outputs)
}

/// A plan of random ids that drops some, with as many weights.
fn plan(
    tensors: &mut Tensors,
    config: &MoeConfig,
    tokens: usize,
) -> Result<(Plan<Cuda>, Tensor<Cuda, f32>)> {
    let (experts, top_k) = (config.num_experts(), config.top_k());
    let ids = ids(&mut tensors.rng, tokens, experts, top_k);
    let ids = tensors.integers(&ids);
    let mut weights = tensors.positive(tokens * top_k);
    let mut plan = Plan::new(tensors.cuda, config, tokens)?;
    let mut scratch = harness::scratch::<Cuda, f32>(tensors.cuda, config, tokens);
    tensors.cuda.dispatch(DispatchForward::<Cuda, f32> {
        config,
        tokens,
        ids: ids.view(),
        weights: weights.view_mut(),
        plan: &mut plan,
        scratch: scratch.view_mut(),
    })?;
    Ok((plan, weights))
}

fn rows<T: Element<Acc = f32>, W: Element<Acc = f32>>(
    cuda: &Cuda,
    seed: u64,
    tokens: usize,
    hidden: usize,
) -> Result<Vec<Output>> {
    let mut tensors = Tensors::new(cuda, seed);
    let config = MoeConfig::builder(hidden, 8, 12, 3)
        .capacity(Capacity::new(0.8))
        .build()?;
    let experts = config.num_experts();
    let (plan, weights) = plan(&mut tensors, &config, tokens)?;
    let rows = config.max_rows(tokens);
    let x = tensors.random::<T>(tokens * hidden, 1.0);
    let mut permuted = tensors.garbage::<T>(rows * hidden);
    cuda.permute(PermuteForward {
        plan: &plan,
        x: x.view(),
        rows: permuted.view_mut(),
    })?;
    tensors.output("permute", Kind::Exact, &permuted);
    let given = tensors.random::<T>(rows * hidden, 1.0);
    let mut output = tensors.garbage::<T>(tokens * hidden);
    cuda.unpermute(UnpermuteForward {
        plan: &plan,
        rows: given.view(),
        weights: weights.view(),
        output: output.view_mut(),
    })?;
    tensors.output("unpermute", Kind::Exact, &output);
    let mut rows_grad = tensors.garbage::<T>(rows * hidden);
    let mut weights_grad = tensors.garbage::<f32>(tokens * config.top_k());
    cuda.unpermute_backward(UnpermuteBackward {
        plan: &plan,
        output_grad: x.view(),
        rows: given.view(),
        weights: weights.view(),
        rows_grad: rows_grad.view_mut(),
        weights_grad: weights_grad.view_mut(),
    })?;
    tensors.output("unpermute-rows_grad", Kind::Exact, &rows_grad);
    tensors.output("unpermute-weights_grad", Kind::Exact, &weights_grad);
    let mut scratch = harness::scratch::<Cuda, T>(cuda, &config, tokens);
    let logits_grad = tensors.random::<f32>(tokens * experts, 1.0);
    let weight = tensors.random::<W>(experts * hidden, 0.5);
    for (name, kind) in [
        ("permute-x_grad", Kind::Exact),
        ("permute-x_grad-router", Kind::Products),
    ] {
        let router = (kind == Kind::Products).then(|| RouterPart {
            logits_grad: logits_grad.view(),
            weight: weight.view(),
        });
        let mut x_grad = tensors.garbage::<T>(tokens * hidden);
        cuda.permute_backward(PermuteBackward::<Cuda, T, W> {
            plan: &plan,
            rows_grad: given.view(),
            router,
            x_grad: x_grad.view_mut(),
            scratch: scratch.view_mut(),
        })?;
        tensors.output(name, kind, &x_grad);
    }
    Ok(tensors.outputs)
}

fn experts_of<T: Element<Acc = f32>>(
    cuda: &Cuda,
    seed: u64,
    config: &MoeConfig,
    tokens: usize,
) -> Result<Vec<Output>> {
    let mut tensors = Tensors::new(cuda, seed);
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let experts = config.num_experts();
    let (plan, weights) = plan(&mut tensors, config, tokens)?;
    let rows = config.max_rows(tokens);
    let mut scratch = harness::scratch::<Cuda, T>(cuda, config, tokens);
    let x = tensors.random::<T>(tokens * hidden, 1.0);
    let gate_up = tensors.random::<T>(experts * 2 * inner * hidden, 0.25);
    let down = tensors.random::<T>(experts * hidden * inner, 0.25);
    let gate_up_bias = tensors.random::<T>(experts * 2 * inner, 0.5);
    let down_bias = tensors.random::<T>(experts * hidden, 0.5);
    let output_grad = tensors.random::<T>(tokens * hidden, 1.0);

    let (mut h, mut a) = (
        tensors.garbage::<T>(rows * 2 * inner),
        tensors.garbage::<T>(rows * inner),
    );
    cuda.experts_up(ExpertsUp {
        plan: &plan,
        x: x.view(),
        gate_up: gate_up.view(),
        bias: Some(gate_up_bias.view()),
        h: Some(h.view_mut()),
        a: a.view_mut(),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("up-h", Kind::Products, &h);
    tensors.output("up-a", Kind::Products, &a);

    let a = tensors.random::<T>(rows * inner, 1.0);
    let mut output = tensors.garbage::<T>(tokens * hidden);
    cuda.experts_down(ExpertsDown {
        plan: &plan,
        a: a.view(),
        down: down.view(),
        bias: Some(down_bias.view()),
        weights: weights.view(),
        output: output.view_mut(),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("down", Kind::Products, &output);

    let mut h = tensors.random::<T>(rows * 2 * inner, 2.0);
    let mut weighted_a = tensors.garbage::<T>(rows * inner);
    let mut weights_grad = tensors.garbage::<f32>(tokens * config.top_k());
    cuda.experts_down_backward(ExpertsDownBackward {
        plan: &plan,
        output_grad: output_grad.view(),
        down: down.view(),
        bias: Some(down_bias.view()),
        weights: weights.view(),
        h: h.view_mut(),
        weighted_a: weighted_a.view_mut(),
        weights_grad: weights_grad.view_mut(),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("down-backward-h_grad", Kind::Products, &h);
    tensors.output("down-backward-weighted_a", Kind::Exact, &weighted_a);
    tensors.output("down-backward-weights_grad", Kind::Products, &weights_grad);

    let weighted_a = tensors.random::<T>(rows * inner, 1.0);
    let mut down_grad = tensors.garbage::<T>(experts * hidden * inner);
    cuda.experts_down_weight_grad(ExpertsDownWeightGrad {
        plan: &plan,
        output_grad: output_grad.view(),
        weighted_a: weighted_a.view(),
        grad: WeightGrad::Overwrite(down_grad.view_mut()),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("down-weight-grad", Kind::Products, &down_grad);

    let h_grad = tensors.random::<T>(rows * 2 * inner, 1.0);
    let mut gate_up_grad = tensors.garbage::<T>(experts * 2 * inner * hidden);
    cuda.experts_up_weight_grad(ExpertsUpWeightGrad {
        plan: &plan,
        x: x.view(),
        h_grad: h_grad.view(),
        grad: WeightGrad::Overwrite(gate_up_grad.view_mut()),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("up-weight-grad", Kind::Products, &gate_up_grad);

    let mut gate_up_bias_grad = tensors.garbage::<T>(experts * 2 * inner);
    let mut down_bias_grad = tensors.garbage::<T>(experts * hidden);
    cuda.experts_bias_grad(ExpertsBiasGrad {
        plan: &plan,
        h_grad: h_grad.view(),
        output_grad: output_grad.view(),
        weights: weights.view(),
        gate_up: WeightGrad::Overwrite(gate_up_bias_grad.view_mut()),
        down: WeightGrad::Overwrite(down_bias_grad.view_mut()),
    })?;
    tensors.output("bias-grad-gate_up", Kind::Exact, &gate_up_bias_grad);
    tensors.output("bias-grad-down", Kind::Exact, &down_bias_grad);

    let logits_grad = tensors.random::<f32>(tokens * experts, 1.0);
    let weight = tensors.random::<T>(experts * hidden, 0.5);
    let mut x_grad = tensors.garbage::<T>(tokens * hidden);
    cuda.experts_input_grad(ExpertsInputGrad::<Cuda, T> {
        plan: &plan,
        h_grad: h_grad.view(),
        gate_up: gate_up.view(),
        router: RouterPart {
            logits_grad: logits_grad.view(),
            weight: weight.view(),
        },
        x_grad: x_grad.view_mut(),
        scratch: scratch.view_mut(),
    })?;
    tensors.output("input-grad", Kind::Products, &x_grad);
    Ok(tensors.outputs)
}
