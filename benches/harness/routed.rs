//! Routed tokens: what the router and dispatch read and write, which every other operation needs.

use millet::{
    DispatchForward, Element, Logits, LogitsOf, MoeConfig, Plan, RouterBackward, RouterForward,
    RouterPart, RouterWeightGrad, ScoreFunction, WeightGrad, stats_elements,
};
use millet_testing::cases::{Case, values};
use millet_testing::harness::{Tensor, narrow, widen};

use super::{Device, Result, Work};

/// Where the router has its logits from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// x and the router's weight.
    Tokens,
    /// Logits in f32.
    Given,
    /// Logits in the storage type.
    GivenNarrow,
}

/// Tokens with their routing and the plan of it, and room for the router's gradients.
pub(crate) struct Routed<B: Device, T: Element<Acc = f32>> {
    pub(crate) config: MoeConfig,
    pub(crate) tokens: usize,
    pub(crate) inputs: Inputs<B, T>,
    pub(crate) ids: Tensor<B, i32>,
    /// [T, K].
    pub(crate) weights: Tensor<B, f32>,
    pub(crate) lse: Tensor<B, f32>,
    pub(crate) counts: Tensor<B, i32>,
    pub(crate) stats: Tensor<B, f32>,
    pub(crate) plan: Plan<B>,
    /// [T, K].
    pub(crate) weights_grad: Tensor<B, f32>,
    /// [T, E].
    pub(crate) logits_grad: Tensor<B, f32>,
    /// [E, H].
    pub(crate) router_grad: Tensor<B, T>,
    pub(crate) scratch: Tensor<B, f32>,
    /// Rows that were kept.
    pub(crate) rows: usize,
    /// Experts that have some.
    pub(crate) loaded_experts: usize,
}

/// What the router reads.
pub(crate) struct Inputs<B: Device, T: Element<Acc = f32>> {
    /// [T, H].
    pub(crate) x: Tensor<B, T>,
    /// [E, H].
    pub(crate) router: Tensor<B, T>,
    /// \[E\], for a sigmoid.
    pub(crate) bias: Option<Tensor<B, f32>>,
    /// [T, E].
    logits: Tensor<B, f32>,
    /// The same, rounded.
    narrow_logits: Tensor<B, T>,
}

impl<B: Device, T: Element<Acc = f32>> Inputs<B, T> {
    fn logits(&self, source: Source) -> LogitsOf<'_, B, T> {
        match source {
            Source::Tokens => Logits::FromTokens {
                x: self.x.view(),
                weight: self.router.view(),
            },
            Source::Given => Logits::Given(self.logits.view()),
            Source::GivenNarrow => Logits::GivenNarrow(self.narrow_logits.view()),
        }
    }
}

impl<B: Device, T: Element<Acc = f32>> Routed<B, T> {
    /// Bytes that it takes.
    pub(crate) fn bytes(case: &Case, element: usize) -> usize {
        let [tokens, hidden, _, experts, top_k] = case.sizes();
        let x = tokens * hidden * element;
        let router = 2 * experts * hidden * element;
        x + router + tokens * experts * (8 + element) + 28 * tokens * top_k
    }

    /// A batch, routed and dispatched.
    pub(crate) fn new(backend: &B, case: &Case, seed: u64) -> Result<Self> {
        let [tokens, _, _, experts, top_k] = case.sizes();
        let config = case.config.clone();
        let (x, router) = case.tokens_and_router::<T>(seed);
        let assignments = tokens * top_k;
        let floats = |len| Tensor::<B, f32>::zeroed(backend, len);
        let integers = |len| Tensor::<B, i32>::zeroed(backend, len);
        let biased = config.router().score_function() == ScoreFunction::Sigmoid;
        let bias = values::<f32>(experts, 0.01, seed + 2);
        let scratch = backend.scratch_elements::<T>(&config, tokens);
        let weights_grad = values::<f32>(assignments, 1.0, seed + 3);
        let logits_grad = values::<f32>(tokens * experts, 0.01, seed + 4);
        let mut routed = Self {
            tokens,
            inputs: Inputs {
                router: Tensor::new(backend, &router),
                x: Tensor::new(backend, &x),
                bias: biased.then(|| Tensor::new(backend, &bias)),
                logits: floats(tokens * experts),
                narrow_logits: Tensor::zeroed(backend, 0),
            },
            ids: integers(assignments),
            weights: floats(assignments),
            lse: floats(tokens),
            counts: integers(experts),
            stats: floats(stats_elements(&config)),
            plan: Plan::new(backend, &config, tokens)?,
            weights_grad: Tensor::new(backend, &weights_grad),
            logits_grad: Tensor::new(backend, &logits_grad),
            router_grad: Tensor::zeroed(backend, router.len()),
            scratch: floats(scratch),
            rows: 0,
            loaded_experts: 0,
            config,
        };
        let mut logits = floats(tokens * experts);
        routed.route(backend, Source::Tokens, Some(&mut logits))?;
        let rounded = narrow::<T>(&widen(&logits.read(backend)));
        routed.inputs.narrow_logits = Tensor::new(backend, &rounded);
        routed.inputs.logits = logits;
        routed.dispatch(backend)?;
        let offsets = backend.read(routed.plan.map().offsets)?;
        let loads = offsets.windows(2).map(|pair| pair[1] - pair[0]);
        routed.loaded_experts = loads.filter(|&rows| rows > 0).count();
        routed.rows = offsets[experts] as usize;
        Ok(routed)
    }

    pub(crate) fn forward(&mut self, backend: &B, source: Source) -> Result<()> {
        self.route(backend, source, None)
    }

    fn route(
        &mut self,
        backend: &B,
        source: Source,
        logits: Option<&mut Tensor<B, f32>>,
    ) -> Result<()> {
        backend.router_forward(RouterForward::<B, T> {
            config: &self.config,
            tokens: self.tokens,
            logits: self.inputs.logits(source),
            selection_bias: self.inputs.bias.as_ref().map(Tensor::view),
            ids: self.ids.view_mut(),
            weights: self.weights.view_mut(),
            lse: self.lse.view_mut(),
            counts: self.counts.view_mut(),
            stats: self.stats.view_mut(),
            logits_output: logits.map(Tensor::view_mut),
            scratch: self.scratch.view_mut(),
        })?;
        Ok(())
    }

    pub(crate) fn dispatch(&mut self, backend: &B) -> Result<()> {
        backend.dispatch(DispatchForward {
            config: &self.config,
            tokens: self.tokens,
            ids: self.ids.view(),
            weights: self.weights.view_mut(),
            plan: &mut self.plan,
            scratch: self.scratch.view_mut(),
        })?;
        Ok(())
    }

    pub(crate) fn backward(&mut self, backend: &B, source: Source) -> Result<()> {
        backend.router_backward(RouterBackward::<B, T> {
            config: &self.config,
            tokens: self.tokens,
            logits: self.inputs.logits(source),
            ids: self.ids.view(),
            weights: self.weights.view(),
            lse: self.lse.view(),
            counts: self.counts.view(),
            weights_grad: self.weights_grad.view(),
            loss_gradient: 1.0,
            logits_grad: self.logits_grad.view_mut(),
            scratch: self.scratch.view_mut(),
        })?;
        Ok(())
    }

    pub(crate) fn weight_grad(&mut self, backend: &B) -> Result<()> {
        backend.router_weight_grad(RouterWeightGrad::<B, T> {
            config: &self.config,
            tokens: self.tokens,
            logits_grad: self.logits_grad.view(),
            x: self.inputs.x.view(),
            grad: WeightGrad::Overwrite(self.router_grad.view_mut()),
            scratch: self.scratch.view_mut(),
        })?;
        Ok(())
    }

    /// dz and the router's weight, as the gradient of x takes them.
    pub(crate) fn router_part(&self) -> RouterPart<'_, B, T> {
        RouterPart {
            logits_grad: self.logits_grad.view(),
            weight: self.inputs.router.view(),
        }
    }

    /// Sizes as numbers to calculate with.
    pub(crate) fn sizes(&self) -> Sizes {
        let config = &self.config;
        let of = |n: usize| n as f64;
        Sizes {
            element: of(T::DTYPE.size()),
            tokens: of(self.tokens),
            hidden: of(config.hidden_size()),
            inner: of(config.intermediate_size()),
            experts: of(config.num_experts()),
            assignments: of(self.tokens * config.top_k()),
            rows: of(self.rows),
            loaded_experts: of(self.loaded_experts),
        }
    }

    /// Least work of the router forward.
    pub(crate) fn forward_work(&self, source: Source) -> Work {
        let size = self.sizes();
        let statistics = (stats_elements(&self.config) + self.config.num_experts()) as f64;
        let results = 8.0 * size.assignments + 4.0 * size.tokens + 4.0 * statistics;
        size.logits(source).and_bytes(results)
    }

    /// Least work of the router backward.
    pub(crate) fn backward_work(&self, source: Source) -> Work {
        let size = self.sizes();
        let saved = 12.0 * size.assignments + 4.0 * size.tokens + 4.0 * size.experts;
        let logits_grad = 4.0 * size.tokens * size.experts;
        size.logits(source).and_bytes(saved + logits_grad)
    }

    /// Least work of dispatch.
    pub(crate) fn dispatch_work(&self) -> Work {
        let map = self.plan.map();
        let written = [
            B::len(map.offsets),
            B::len(map.row_to_assignment),
            B::len(map.assignment_to_row),
            B::len(map.row_tiles),
        ];
        let written = written.into_iter().sum::<usize>() as f64;
        Work::new(0.0, 4.0 * (self.sizes().assignments + written))
    }

    /// Least work of the gradient of the router's weight.
    pub(crate) fn weight_grad_work(&self) -> Work {
        let size = self.sizes();
        size.logits(Source::Tokens)
            .and_bytes(4.0 * size.tokens * size.experts)
    }
}

/// Sizes of a case, as numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Bytes of an element.
    pub(crate) element: f64,
    pub(crate) tokens: f64,
    pub(crate) hidden: f64,
    pub(crate) inner: f64,
    pub(crate) experts: f64,
    pub(crate) assignments: f64,
    /// Rows that were kept.
    pub(crate) rows: f64,
    /// Experts that have some.
    pub(crate) loaded_experts: f64,
}

impl Sizes {
    /// Bytes of [T, H].
    pub(crate) fn token_bytes(&self) -> f64 {
        self.element * self.tokens * self.hidden
    }

    /// Bytes of [R, H].
    pub(crate) fn row_bytes(&self) -> f64 {
        self.element * self.rows * self.hidden
    }

    /// What logits take: FLOPs, and bytes read.
    fn logits(&self, source: Source) -> Work {
        let logits = self.tokens * self.experts;
        match source {
            Source::Tokens => Work::new(
                2.0 * logits * self.hidden,
                self.token_bytes() + self.element * self.experts * self.hidden,
            ),
            Source::Given => Work::new(0.0, 4.0 * logits),
            Source::GivenNarrow => Work::new(0.0, self.element * logits),
        }
    }

    /// dz·Wᵣ: FLOPs, and bytes of both.
    pub(crate) fn router_part(&self) -> Work {
        let (logits, weight) = (self.tokens * self.experts, self.experts * self.hidden);
        Work::new(
            2.0 * logits * self.hidden,
            4.0 * logits + self.element * weight,
        )
    }
}

impl Work {
    pub(crate) fn and_bytes(self, bytes: f64) -> Self {
        Self {
            bytes: self.bytes + bytes,
            ..self
        }
    }
}
