//! The layer with everything it needs, as a trainer holds it, forward and backward.

use millet::{
    BackwardInput, Element, ExpertBias, ExpertBiasGrads, ExpertBiases, Gradients, Keep, MoeLayer,
    Saved, SavedBytes, ScoreFunction, WeightGrad, Weights, Workspace,
};
use millet_testing::cases::{Case, values};
use millet_testing::harness::Tensor;

use super::{Device, Family, Operation, Result, Routed, Source, Work};

pub(crate) struct Layer;

/// Tensors of a layer and the passes over them.
pub(crate) struct Set<B: Device, T: Element<Acc = f32>> {
    layer: MoeLayer<B>,
    tokens: usize,
    pub(crate) x: Tensor<B, T>,
    pub(crate) output: Tensor<B, T>,
    pub(crate) output_grad: Tensor<B, T>,
    pub(crate) weights: Parameters<B, T>,
    pub(crate) x_grad: Tensor<B, T>,
    /// Of the weights, but for the selection bias, which has none.
    pub(crate) gradients: Parameters<B, T>,
    saved: Saved<B, T>,
    /// Without h.
    saved_routing: Saved<B, T>,
    /// Of a pass that no backward follows.
    saved_nothing: Saved<B, T>,
    /// Has room for h, for whom does not save it.
    workspace: Workspace<B, T>,
    /// Experts that have rows, and those rows.
    loads: (usize, usize),
    /// The same tokens, to route by themselves.
    routed: Routed<B, T>,
}

/// Tensors of the shapes of a layer's weights.
pub(crate) struct Parameters<B: Device, T: Element<Acc = f32>> {
    /// Of gate_up and down.
    expert_bias: Option<[Tensor<B, T>; 2]>,
    pub(crate) router: Tensor<B, T>,
    selection_bias: Option<Tensor<B, f32>>,
    pub(crate) gate_up: Tensor<B, T>,
    pub(crate) down: Tensor<B, T>,
}

impl<B: Device, T: Element<Acc = f32>> Parameters<B, T> {
    fn view(&self) -> Weights<'_, B, T> {
        Weights {
            router: self.router.view(),
            selection_bias: self.selection_bias.as_ref().map(Tensor::view),
            gate_up: self.gate_up.view(),
            down: self.down.view(),
            expert_bias: self
                .expert_bias
                .as_ref()
                .map(|[gate_up, down]| ExpertBiases {
                    gate_up: gate_up.view(),
                    down: down.view(),
                }),
        }
    }

    fn overwritten<'a>(&'a mut self, x: &'a mut Tensor<B, T>) -> Gradients<'a, B, T> {
        Gradients {
            x: x.view_mut(),
            router: WeightGrad::Overwrite(self.router.view_mut()),
            gate_up: WeightGrad::Overwrite(self.gate_up.view_mut()),
            down: WeightGrad::Overwrite(self.down.view_mut()),
            expert_bias: self
                .expert_bias
                .as_mut()
                .map(|[gate_up, down]| ExpertBiasGrads {
                    gate_up: WeightGrad::Overwrite(gate_up.view_mut()),
                    down: WeightGrad::Overwrite(down.view_mut()),
                }),
        }
    }
}

impl<B: Device, T: Element<Acc = f32>> Set<B, T> {
    pub(crate) fn forward(&mut self, keep: Keep) -> Result<()> {
        let saved = match keep {
            Keep::Hidden => &mut self.saved,
            Keep::Routing => &mut self.saved_routing,
            _ => &mut self.saved_nothing,
        };
        self.layer.forward(
            self.weights.view(),
            self.x.view(),
            self.output.view_mut(),
            saved,
            &mut self.workspace,
        )?;
        Ok(())
    }

    pub(crate) fn backward(&mut self, keep: Keep) -> Result<()> {
        let saved = match keep {
            Keep::Hidden => &mut self.saved,
            _ => &mut self.saved_routing,
        };
        let input = BackwardInput {
            x: self.x.view(),
            output_grad: self.output_grad.view(),
            loss_gradient: 1.0,
        };
        let gradients = self.gradients.overwritten(&mut self.x_grad);
        self.layer.backward(
            self.weights.view(),
            input,
            saved,
            &mut self.workspace,
            gradients,
        )?;
        Ok(())
    }

    /// FLOPs of the experts for each row of I·H, as the literature counts: 6 forward, 12 backward. Bytes: the tokens, so many times;
    /// the weights of experts with rows, and the gradients of all; what is saved.
    fn work(&self, flops: f64, tokens: f64, gradients: f64, saved: fn(&SavedBytes) -> u64) -> Work {
        let config = self.layer.config();
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let (experts, rows) = self.loads;
        let saved = saved(&self.layer.saved_bytes::<T>(self.tokens));
        let parameters = config.parameters();
        let router = parameters.router as f64;
        let elements = tokens * (self.tokens * hidden) as f64
            + router
            + (3 * experts * inner * hidden) as f64
            + gradients * (router + parameters.experts as f64);
        let flops = flops * (rows * inner) as f64 * hidden as f64;
        Work::new(flops, T::DTYPE.size() as f64 * elements + saved as f64)
    }
}

impl Family for Layer {
    const NAME: &'static str = "layer";
    const DEFAULT: &'static str = "small,systems";
    type Set<B: Device, T: Element<Acc = f32>> = Set<B, T>;

    fn bytes(case: &Case, element: usize) -> usize {
        let [tokens, hidden, inner, experts, top_k] = case.sizes();
        let rows = tokens * top_k;
        let elements = 6 * experts * inner * hidden + 4 * tokens * hidden;
        // h twice, a, and the scratch of CUDA.
        let rows = rows * (5 * inner + hidden);
        2 * Routed::<millet::Cpu, f32>::bytes(case, element) + (elements + rows) * element
    }

    /// Whole where that takes less than a minute, so that layers of equal FLOPs can be compared.
    fn emulated(case: &Case) -> Case {
        const MOST_FLOPS: f64 = 6e10;
        match 3.0 * case.config.forward_flops(case.tokens).experts <= MOST_FLOPS {
            true => case.clone(),
            false => case.with_fewer_experts(),
        }
    }

    fn set<B: Device, T: Element<Acc = f32>>(
        backend: &B,
        case: &Case,
        seed: u64,
    ) -> Result<Set<B, T>> {
        let config = case.config.clone();
        let [tokens, hidden, inner, experts, _] = case.sizes();
        let (x, router) = case.tokens_and_router::<T>(seed);
        let upload = |len, scale, seed| Tensor::new(backend, &values::<T>(len, scale, seed));
        let zeroed = |len| Tensor::zeroed(backend, len);
        let over_root = |n: usize| (n as f64).powf(-0.5);
        let weight = experts * inner * hidden;
        let biased = config.router().score_function() == ScoreFunction::Sigmoid;
        let bias = values::<f32>(experts, 0.01, seed + 2);
        let expert_bias = (config.expert_bias() != ExpertBias::None)
            .then_some([experts * 2 * inner, experts * hidden]);
        let layer = MoeLayer::new(backend.clone(), config);
        let mut set = Set {
            tokens,
            x: Tensor::new(backend, &x),
            output: zeroed(x.len()),
            output_grad: upload(x.len(), 1.0, seed + 10),
            weights: Parameters {
                router: Tensor::new(backend, &router),
                selection_bias: biased.then(|| Tensor::new(backend, &bias)),
                expert_bias: expert_bias.map(|[gate_up, down]| {
                    [
                        upload(gate_up, 0.1, seed + 13),
                        upload(down, 0.1, seed + 14),
                    ]
                }),
                gate_up: upload(2 * weight, 1.4 * over_root(hidden), seed + 11),
                down: upload(weight, 1.4 * over_root(inner), seed + 12),
            },
            x_grad: zeroed(x.len()),
            gradients: Parameters {
                router: zeroed(router.len()),
                selection_bias: None,
                expert_bias: expert_bias.map(|sizes| sizes.map(zeroed)),
                gate_up: zeroed(2 * weight),
                down: zeroed(weight),
            },
            saved: layer.saved(tokens, Keep::Hidden)?,
            saved_routing: layer.saved(tokens, Keep::Routing)?,
            saved_nothing: layer.saved(tokens, Keep::Nothing)?,
            workspace: layer.workspace(tokens, Keep::Routing)?,
            loads: (0, 0),
            routed: Routed::new(backend, case, seed)?,
            layer,
        };
        set.loads = (set.routed.loaded_experts, set.routed.rows);
        Ok(set)
    }

    fn operations<B: Device, T: Element<Acc = f32>>(_case: &Case) -> Vec<Operation<B, Set<B, T>>> {
        vec![
            Operation::new(
                "forward",
                |set: &Set<B, T>| set.work(6.0, 1.0, 0.0, SavedBytes::total),
                |_, set| set.forward(Keep::Hidden),
            ),
            Operation::new(
                "backward",
                // dh is written over h.
                |set: &Set<B, T>| {
                    let h = set.layer.saved_bytes::<T>(set.tokens).h as f64;
                    let work = set.work(12.0, 2.0, 1.0, SavedBytes::total);
                    work.and_bytes(h).rewriting(h)
                },
                |_: &B, set| set.backward(Keep::Hidden),
            )
            .restore(|_, set| set.forward(Keep::Hidden)),
            Operation::new(
                "inference",
                |set| set.work(6.0, 1.0, 0.0, SavedBytes::total_without_h),
                |_, set| set.forward(Keep::Nothing),
            ),
            Operation::new(
                "backward-recomputing",
                |set: &Set<B, T>| set.work(16.0, 2.0, 1.0, SavedBytes::total_without_h),
                |_: &B, set| set.backward(Keep::Routing),
            )
            .restore(|_, set| set.forward(Keep::Routing)),
            // All but the experts' products, to see what it takes of the layer.
            Operation::new(
                "routing",
                |set| {
                    let routed = &set.routed;
                    let works = [
                        routed.forward_work(Source::Tokens),
                        routed.dispatch_work(),
                        routed.backward_work(Source::Tokens),
                        routed.weight_grad_work(),
                    ];
                    let sum = |of: fn(&Work) -> f64| works.iter().map(of).sum();
                    Work::new(sum(|work| work.flops), sum(|work| work.bytes))
                },
                |backend, set| {
                    let routed = &mut set.routed;
                    routed.forward(backend, Source::Tokens)?;
                    routed.dispatch(backend)?;
                    routed.backward(backend, Source::Tokens)?;
                    routed.weight_grad(backend)
                },
            ),
        ]
    }
}
