//! The layer: router → dispatch → up → down → combine, and back, written once over a backend's operations.

use crate::check::{self, Check, Dim::*};
use crate::config::MoeConfig;
use crate::cost::SavedBytes;
use crate::diagnostics::Diagnostics;
use crate::element::{Element, Real};
use crate::error::{Error, Result};
use crate::ops::{
    Backend, DispatchForward, ExpertsBiasGrad, ExpertsDown, ExpertsDownBackward,
    ExpertsDownWeightGrad, ExpertsInputGrad, ExpertsUp, ExpertsUpWeightGrad, Logits, Memory, Plan,
    RouterBackward, RouterForward, RouterPart, RouterWeightGrad, WeightGrad, WeightGradOf, stats,
    stats_elements,
};

/// A Mixture-of-Experts layer on a backend. It holds no weights: the trainer owns them, their gradients and their
/// optimiser, and lends views of them.
///
/// ```
/// use millet::{BackwardInput, Cpu, Gradients, Keep, MoeConfig, MoeLayer, WeightGrad, Weights};
///
/// let (tokens, hidden, inner, experts) = (6, 8, 4, 4);
/// let layer = MoeLayer::new(Cpu, MoeConfig::builder(hidden, inner, experts, 2).build()?);
/// let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
/// let (x, router) = (wave(tokens * hidden), wave(experts * hidden));
/// let (gate_up, down) = (wave(experts * 2 * inner * hidden), wave(experts * hidden * inner));
/// let weights = Weights::<Cpu, f32> {
///     router: &router,
///     selection_bias: None,
///     gate_up: &gate_up,
///     down: &down,
///     expert_bias: None,
/// };
///
/// let mut saved = layer.saved::<f32>(tokens, Keep::Hidden)?;
/// let mut workspace = layer.workspace::<f32>(tokens, Keep::Hidden)?;
/// let mut output = vec![0.0; tokens * hidden];
/// layer.forward(weights, &x, &mut output, &mut saved, &mut workspace)?;
///
/// let output_grad = wave(tokens * hidden);
/// let (mut x_grad, mut router_grad) = (vec![0.0; x.len()], vec![0.0; router.len()]);
/// let (mut gate_up_grad, mut down_grad) = (vec![0.0; gate_up.len()], vec![0.0; down.len()]);
/// let gradients = Gradients::<Cpu, f32> {
///     x: &mut x_grad,
///     router: WeightGrad::Overwrite(&mut router_grad),
///     gate_up: WeightGrad::Overwrite(&mut gate_up_grad),
///     down: WeightGrad::Overwrite(&mut down_grad),
///     expert_bias: None,
/// };
/// let input = BackwardInput { x: &x[..], output_grad: &output_grad[..], loss_gradient: 1.0 };
/// layer.backward(weights, input, &mut saved, &mut workspace, gradients)?;
/// assert!(router_grad.iter().any(|&g| g != 0.0));
/// # Ok::<(), millet::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MoeLayer<B: Backend> {
    backend: B,
    config: MoeConfig,
}

/// What forward keeps for backward, beside the caller's x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Keep {
    /// Nothing: inference.
    Nothing,
    /// Routing only: backward makes h again from x (7 products per step instead of 6: two ninths more FLOPs, no [R, 2I] kept).
    Routing,
    /// Routing and h: 4·I·K bytes per token in bf16 more.
    Hidden,
}

/// Views of a layer's weights.
///
/// The router weight is in the tokens' type `T` or in its accumulation type.
pub struct Weights<'a, B: Memory, T: Element, W: Element<Acc = T::Acc> = T> {
    /// [E, H].
    pub router: B::View<'a, W>,
    /// \[E\], with [`ScoreFunction::Sigmoid`](crate::ScoreFunction::Sigmoid) only.
    pub selection_bias: Option<B::View<'a, T::Acc>>,
    /// [E, 2I, H], gate rows first, then up rows.
    pub gate_up: B::View<'a, T>,
    /// [E, H, I].
    pub down: B::View<'a, T>,
    /// With [`ExpertBias::GateUpAndDown`](crate::ExpertBias::GateUpAndDown), and only then.
    pub expert_bias: Option<ExpertBiases<'a, B, T>>,
}

/// Views of the experts' biases.
pub struct ExpertBiases<'a, B: Memory, T: Element> {
    /// [E, 2I], gates first, then ups.
    pub gate_up: B::View<'a, T>,
    /// [E, H].
    pub down: B::View<'a, T>,
}

impl<B: Memory, T: Element> Clone for ExpertBiases<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Memory, T: Element> Copy for ExpertBiases<'_, B, T> {}

impl<B: Memory, T: Element, W: Element<Acc = T::Acc>> Clone for Weights<'_, B, T, W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Memory, T: Element, W: Element<Acc = T::Acc>> Copy for Weights<'_, B, T, W> {}

/// Where backward writes.
pub struct Gradients<'a, B: Memory, T: Element, W: Element<Acc = T::Acc> = T> {
    /// [T, H], overwritten.
    pub x: B::ViewMut<'a, T>,
    /// [E, H].
    pub router: WeightGradOf<'a, B, W>,
    /// [E, 2I, H].
    pub gate_up: WeightGradOf<'a, B, T>,
    /// [E, H, I].
    pub down: WeightGradOf<'a, B, T>,
    /// Where the weights have it.
    pub expert_bias: Option<ExpertBiasGrads<'a, B, T>>,
}

/// Where backward writes the gradients of the experts' biases.
pub struct ExpertBiasGrads<'a, B: Memory, T: Element> {
    /// [E, 2I].
    pub gate_up: WeightGradOf<'a, B, T>,
    /// [E, H].
    pub down: WeightGradOf<'a, B, T>,
}

/// What backward starts from.
pub struct BackwardInput<'a, B: Memory, T: Element> {
    /// The x of forward, [T, H].
    pub x: B::View<'a, T>,
    /// Gradient of the output, [T, H].
    pub output_grad: B::View<'a, T>,
    /// Gradient of the sum of the auxiliary losses: 1, or the loss scale of mixed-precision training.
    pub loss_gradient: f64,
}

/// One layer's memory between forward and backward. Many layers of a model have one each, and share a [`Workspace`].
///
/// Forward takes one that was made for the same sizes (H, I, E, K and capacity factor) and in the same stream, whatever the layer's
/// other choices; what reads it afterwards must have the whole configuration of that forward pass.
#[derive(Debug)]
pub struct Saved<B: Memory, T: Element> {
    plan: Plan<B>,
    keep: Keep,
    stage: Stage,
    ids: B::Buffer<i32>,
    weights: B::Buffer<T::Acc>,
    lse: B::Buffer<T::Acc>,
    counts: B::Buffer<i32>,
    stats: B::Buffer<T::Acc>,
    h: Option<B::Buffer<T>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Empty,
    Forward,
    Backward,
}

/// Memory that is free again when forward or backward returns. It serves every layer of the same sizes (H, I, E, K and capacity
/// factor) in the stream of the backend that made it, captured steps and others: a graph runs in the stream that it was captured
/// in, so that none of them is in flight with another.
#[derive(Debug)]
pub struct Workspace<B: Memory, T: Element> {
    config: MoeConfig,
    keep: Keep,
    max_tokens: usize,
    a: B::Buffer<T>,
    h: Option<B::Buffer<T>>,
    weights_grad: B::Buffer<T::Acc>,
    logits_grad: B::Buffer<T::Acc>,
    scratch: B::Buffer<T::Acc>,
    scratch_elements: usize,
}

impl<B: Backend> MoeLayer<B> {
    /// A layer of this configuration on this backend.
    pub fn new(backend: B, config: MoeConfig) -> Self {
        Self { backend, config }
    }

    /// The configuration.
    pub fn config(&self) -> &MoeConfig {
        &self.config
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Memory for up to `max_tokens` tokens between forward and backward: what
    /// [`MoeConfig::saved_bytes`](crate::MoeConfig::saved_bytes) counts, without the caller's x.
    ///
    /// # Errors
    /// When T·K would reach 2³¹ − 4096 or there is too little memory.
    pub fn saved<T: Element>(&self, max_tokens: usize, keep: Keep) -> Result<Saved<B, T>> {
        check::tokens("saved", &self.config, max_tokens)?;
        let backend = &self.backend;
        let (experts, top_k) = (self.config.num_experts(), self.config.top_k());
        let rows = self.config.max_rows(max_tokens);
        let h = (keep == Keep::Hidden)
            .then(|| backend.allocate(rows * 2 * self.config.intermediate_size()));
        Ok(Saved {
            plan: Plan::new(backend, &self.config, max_tokens)?,
            keep,
            stage: Stage::Empty,
            ids: backend.allocate(max_tokens * top_k)?,
            weights: backend.allocate(max_tokens * top_k)?,
            lse: backend.allocate(max_tokens)?,
            counts: backend.allocate(experts)?,
            stats: backend.allocate(stats_elements(&self.config))?,
            h: h.transpose()?,
        })
    }

    /// Bytes kept from forward to backward for `tokens` tokens on this backend: [`MoeConfig::saved_bytes`], and the plan's tiles.
    pub fn saved_bytes<T: Element>(&self, tokens: usize) -> SavedBytes {
        let tiles = self.backend.row_tiles(&self.config, tokens);
        SavedBytes {
            row_tiles: 8 * tiles.most as u64,
            ..self.config.saved_bytes(tokens, size_of::<T>())
        }
    }

    /// Memory for forward and backward of up to `max_tokens` tokens, for all layers of these sizes; see
    /// [`Memory::scratch_elements`] for what its size depends on.
    ///
    /// # Errors
    /// As [`saved`](Self::saved).
    pub fn workspace<T: Element>(&self, max_tokens: usize, keep: Keep) -> Result<Workspace<B, T>> {
        check::tokens("workspace", &self.config, max_tokens)?;
        let backend = &self.backend;
        let (experts, top_k) = (self.config.num_experts(), self.config.top_k());
        let (rows, inner) = (
            self.config.max_rows(max_tokens),
            self.config.intermediate_size(),
        );
        let scratch_elements = backend.scratch_elements::<T>(&self.config, max_tokens);
        let h = (keep == Keep::Routing).then(|| backend.allocate(rows * 2 * inner));
        let training = |elements: usize| if keep == Keep::Nothing { 0 } else { elements };
        Ok(Workspace {
            config: self.config.clone(),
            keep,
            max_tokens,
            a: backend.allocate(rows * inner)?,
            h: h.transpose()?,
            weights_grad: backend.allocate(training(max_tokens * top_k))?,
            logits_grad: backend.allocate(training(max_tokens * experts))?,
            scratch: backend.allocate(scratch_elements)?,
            scratch_elements,
        })
    }

    /// `x` [T, H] → `output` [T, H]; T is taken from x's length.
    ///
    /// # Errors
    /// When a shape does not fit, memory is of another device or context, `saved` or `workspace` was made for fewer tokens, other
    /// sizes or another stream, or a graph has `saved` with another number of tokens: then nothing was written. When the backend cannot
    /// do this configuration or a tensor is not aligned, which an operation finds when it comes to it: then `saved` holds no forward pass.
    pub fn forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        weights: Weights<'_, B, T, W>,
        x: B::View<'_, T>,
        output: B::ViewMut<'_, T>,
        saved: &mut Saved<B, T>,
        workspace: &mut Workspace<B, T>,
    ) -> Result<()> {
        const OPERATION: &str = "layer forward";
        let config = &self.config;
        self.check_memory(OPERATION, saved, workspace)?;
        let tokens = B::len(x) / config.hidden_size();
        let check = self.check(OPERATION, tokens);
        check.room(saved.plan.max_tokens(), "`Saved` was made for so many")?;
        check.room(workspace.max_tokens, WORKSPACE_ROOM)?;
        check.read("x", x, &[Tokens, Hidden])?;
        check.weights::<T, W>(&weights)?;
        check.write("output", &output, &[Tokens, Hidden])?;
        saved
            .plan
            .check_graph(&self.backend, OPERATION, config, tokens)?;
        saved.stage = Stage::Empty;

        let size = Sizes::new(config, tokens);
        let scratch_elements = workspace.scratch_elements;
        let scratch = &mut workspace.scratch;
        self.backend.router_forward(RouterForward::<B, T, W> {
            config,
            tokens,
            logits: Logits::FromTokens {
                x: B::shorten(x),
                weight: B::shorten(weights.router),
            },
            selection_bias: weights.selection_bias.map(B::shorten),
            ids: B::view_mut(&mut saved.ids, size.assignments),
            weights: B::view_mut(&mut saved.weights, size.assignments),
            lse: B::view_mut(&mut saved.lse, tokens),
            counts: B::view_mut(&mut saved.counts, size.experts),
            stats: B::view_mut(&mut saved.stats, stats_elements(config)),
            logits_output: None,
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        self.backend.dispatch(DispatchForward {
            config,
            tokens,
            ids: B::view(&saved.ids, size.assignments),
            weights: B::view_mut(&mut saved.weights, size.assignments),
            plan: &mut saved.plan,
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        let plan = &saved.plan;
        self.backend.experts_up(ExpertsUp::<B, T> {
            plan,
            x: B::shorten(x),
            gate_up: B::shorten(weights.gate_up),
            bias: weights.expert_bias.map(|bias| B::shorten(bias.gate_up)),
            h: saved.h.as_mut().map(|h| B::view_mut(h, size.h)),
            a: B::view_mut(&mut workspace.a, size.a),
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        self.backend.experts_down(ExpertsDown::<B, T> {
            plan,
            a: B::view(&workspace.a, size.a),
            down: B::shorten(weights.down),
            bias: weights.expert_bias.map(|bias| B::shorten(bias.down)),
            weights: B::view(&saved.weights, size.assignments),
            output: B::shorten_mut(output),
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        saved.stage = Stage::Forward;
        Ok(())
    }

    /// Gradients of ⟨output, output_grad⟩ + loss_gradient·(aux + z).
    ///
    /// Uses `saved` up: dh takes the place of h.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); and when `saved` does not hold a forward pass of this configuration that kept what backward
    /// needs.
    pub fn backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        weights: Weights<'_, B, T, W>,
        input: BackwardInput<'_, B, T>,
        saved: &mut Saved<B, T>,
        workspace: &mut Workspace<B, T>,
        gradients: Gradients<'_, B, T, W>,
    ) -> Result<()> {
        const OPERATION: &str = "layer backward";
        let config = &self.config;
        let BackwardInput {
            x,
            output_grad,
            loss_gradient,
        } = input;
        let refuse = |reason| Error::NotSaved {
            operation: OPERATION,
            reason,
        };
        self.check_memory(OPERATION, saved, workspace)?;
        let tokens = match saved.stage {
            Stage::Forward => saved.plan.tokens(),
            Stage::Empty => return Err(refuse("there was no forward pass with this `Saved`")),
            Stage::Backward => {
                return Err(refuse(
                    "this `Saved` was used up by an earlier backward; run forward again",
                ));
            }
        };
        check::same_configuration(
            OPERATION,
            "Saved",
            config,
            saved.plan.config(),
            MoeConfig::fields,
        )?;
        if saved.keep == Keep::Nothing {
            return Err(refuse(
                "the `Saved` was made with Keep::Nothing; make it with Keep::Hidden or Keep::Routing to train",
            ));
        }
        if workspace.keep == Keep::Nothing {
            return Err(refuse(
                "the `Workspace` was made with Keep::Nothing; make it with Keep::Hidden or Keep::Routing to train",
            ));
        }
        if saved.keep == Keep::Routing && workspace.h.is_none() {
            return Err(refuse(
                "the `Saved` was made with Keep::Routing and has no h, and the `Workspace` was not: it has no room to make h again",
            ));
        }
        let check = self.check(OPERATION, tokens);
        check.room(workspace.max_tokens, WORKSPACE_ROOM)?;
        check.read("x", x, &[Tokens, Hidden])?;
        check.read("output_grad", output_grad, &[Tokens, Hidden])?;
        check.weights::<T, W>(&weights)?;
        check.gradients::<T, W>(&gradients)?;
        if !loss_gradient.is_finite() {
            let reason = format!("loss_gradient must be finite, but is {loss_gradient}");
            return Err(Error::Unsupported {
                operation: OPERATION,
                reason,
            });
        }

        let backend = &self.backend;
        let (plan, size) = (&saved.plan, Sizes::new(config, tokens));
        let scratch_elements = workspace.scratch_elements;
        let scratch = &mut workspace.scratch;
        let h = match (&mut saved.h, &mut workspace.h) {
            (Some(h), _) => h,
            (None, Some(h)) => {
                backend.experts_up(ExpertsUp::<B, T> {
                    plan,
                    x: B::shorten(x),
                    gate_up: B::shorten(weights.gate_up),
                    bias: weights.expert_bias.map(|bias| B::shorten(bias.gate_up)),
                    h: Some(B::view_mut(h, size.h)),
                    a: B::view_mut(&mut workspace.a, size.a),
                    scratch: B::view_mut(scratch, scratch_elements),
                })?;
                h
            }
            (None, None) => return Err(refuse("neither the `Saved` nor the `Workspace` has h")),
        };
        // From here on h is being overwritten: an error leaves nothing to go back to.
        saved.stage = Stage::Backward;
        backend.experts_down_backward(ExpertsDownBackward::<B, T> {
            plan,
            output_grad: B::shorten(output_grad),
            down: B::shorten(weights.down),
            bias: weights.expert_bias.map(|bias| B::shorten(bias.down)),
            weights: B::view(&saved.weights, size.assignments),
            h: B::view_mut(h, size.h),
            weighted_a: B::view_mut(&mut workspace.a, size.a),
            weights_grad: B::view_mut(&mut workspace.weights_grad, size.assignments),
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        backend.router_backward(RouterBackward::<B, T, W> {
            config,
            tokens,
            logits: Logits::FromTokens {
                x: B::shorten(x),
                weight: B::shorten(weights.router),
            },
            ids: B::view(&saved.ids, size.assignments),
            weights: B::view(&saved.weights, size.assignments),
            lse: B::view(&saved.lse, tokens),
            counts: B::view(&saved.counts, size.experts),
            weights_grad: B::view(&workspace.weights_grad, size.assignments),
            loss_gradient,
            logits_grad: B::view_mut(&mut workspace.logits_grad, size.logits),
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        backend.experts_down_weight_grad(ExpertsDownWeightGrad::<B, T> {
            plan,
            output_grad: B::shorten(output_grad),
            weighted_a: B::view(&workspace.a, size.a),
            grad: shorten_grad::<B, T>(gradients.down),
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        backend.experts_up_weight_grad(ExpertsUpWeightGrad::<B, T> {
            plan,
            x: B::shorten(x),
            h_grad: B::view(h, size.h),
            grad: shorten_grad::<B, T>(gradients.gate_up),
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        if let Some(grads) = gradients.expert_bias {
            backend.experts_bias_grad(ExpertsBiasGrad::<B, T> {
                plan,
                h_grad: B::view(h, size.h),
                output_grad: B::shorten(output_grad),
                weights: B::view(&saved.weights, size.assignments),
                gate_up: shorten_grad::<B, T>(grads.gate_up),
                down: shorten_grad::<B, T>(grads.down),
            })?;
        }
        backend.experts_input_grad(ExpertsInputGrad::<B, T, W> {
            plan,
            h_grad: B::view(h, size.h),
            gate_up: B::shorten(weights.gate_up),
            router: RouterPart {
                logits_grad: B::view(&workspace.logits_grad, size.logits),
                weight: B::shorten(weights.router),
            },
            x_grad: B::shorten_mut(gradients.x),
            scratch: B::view_mut(scratch, scratch_elements),
        })?;
        backend.router_weight_grad(RouterWeightGrad::<B, T, W> {
            config,
            tokens,
            logits_grad: B::view(&workspace.logits_grad, size.logits),
            x: B::shorten(x),
            grad: shorten_grad::<B, W>(gradients.router),
            scratch: B::view_mut(scratch, scratch_elements),
        })
    }

    /// The losses of the last forward pass, coefficients included: (load balancing, z). Waits for the device.
    ///
    /// # Errors
    /// When there was no forward pass of this configuration, or one failed on the device.
    pub fn losses<T: Element>(&self, saved: &Saved<B, T>) -> Result<(T::Acc, T::Acc)> {
        self.forward_tokens("losses", saved)?;
        let stats = self
            .backend
            .read(B::view(&saved.stats, stats_elements(&self.config)))?;
        Ok((stats[stats::AUX_LOSS], stats[stats::Z_LOSS]))
    }

    /// What the router measured in the last forward pass. Waits for the device.
    ///
    /// # Errors
    /// As [`losses`](Self::losses).
    pub fn diagnostics<T: Element>(&self, saved: &Saved<B, T>) -> Result<Diagnostics> {
        let tokens = self.forward_tokens("diagnostics", saved)?;
        let experts = self.config.num_experts();
        let stats = self
            .backend
            .read(B::view(&saved.stats, stats_elements(&self.config)))?;
        let counts = self.backend.read(B::view(&saved.counts, experts))?;
        let offsets = self.backend.read(saved.plan.map().offsets)?;
        let stats: Vec<f64> = stats.iter().map(|s| s.to_f64()).collect();
        Ok(Diagnostics::new(
            tokens,
            self.config.top_k(),
            &stats,
            &counts,
            &offsets,
        ))
    }

    /// The routing of the last forward pass, read to the host: what was picked and what was kept. Waits for the device.
    ///
    /// # Errors
    /// As [`losses`](Self::losses).
    pub fn routing<T: Element>(&self, saved: &Saved<B, T>) -> Result<Routing<T::Acc>> {
        let tokens = self.forward_tokens("routing", saved)?;
        let size = Sizes::new(&self.config, tokens);
        let (backend, map) = (&self.backend, saved.plan.map());
        Ok(Routing {
            ids: backend.read(B::view(&saved.ids, size.assignments))?,
            weights: backend.read(B::view(&saved.weights, size.assignments))?,
            assignment_to_row: backend.read(map.assignment_to_row)?,
            offsets: backend.read(map.offsets)?,
        })
    }

    fn forward_tokens<T: Element>(
        &self,
        operation: &'static str,
        saved: &Saved<B, T>,
    ) -> Result<usize> {
        check::same_configuration(
            operation,
            "Saved",
            &self.config,
            saved.plan.config(),
            MoeConfig::fields,
        )?;
        self.backend
            .check_stream(operation, "Saved", B::view(&saved.counts, 1))?;
        match saved.stage {
            Stage::Forward | Stage::Backward => Ok(saved.plan.tokens()),
            Stage::Empty => {
                let reason = "there was no forward pass with this `Saved`";
                Err(Error::NotSaved { operation, reason })
            }
        }
    }

    /// Memory of these sizes, of the backend's stream.
    fn check_memory<T: Element>(
        &self,
        operation: &'static str,
        saved: &Saved<B, T>,
        workspace: &Workspace<B, T>,
    ) -> Result<()> {
        let sizes = MoeConfig::size_fields;
        check::same_configuration(operation, "Saved", &self.config, saved.plan.config(), sizes)?;
        check::same_configuration(
            operation,
            "Workspace",
            &self.config,
            &workspace.config,
            sizes,
        )?;
        let scratch = B::view(&workspace.scratch, workspace.scratch_elements);
        let backend = &self.backend;
        backend.check_stream(operation, "Workspace", scratch)?;
        backend.check_stream(operation, "Saved", B::view(&saved.counts, 1))
    }

    /// Begins the check of a pass's tensors.
    fn check(&self, operation: &'static str, tokens: usize) -> Check<'_, B> {
        Check {
            backend: &self.backend,
            operation,
            config: &self.config,
            tokens,
        }
    }
}

const WORKSPACE_ROOM: &str = "`Workspace` was made for so many";

impl<B: Memory> Check<'_, B> {
    fn weights<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        weights: &Weights<'_, B, T, W>,
    ) -> Result<()> {
        self.read("router weight", weights.router, &[Experts, Hidden])?;
        self.selection_bias(weights.selection_bias)?;
        self.read("gate_up", weights.gate_up, &[Experts, GateUp, Hidden])?;
        self.read("down", weights.down, &[Experts, Hidden, Inner])?;
        let biases = weights.expert_bias;
        self.has_expert_bias("expert_bias", biases.is_some())?;
        let Some(ExpertBiases { gate_up, down }) = biases else {
            return Ok(());
        };
        self.read("gate_up bias", gate_up, &[Experts, GateUp])?;
        self.read("down bias", down, &[Experts, Hidden])
    }

    fn gradients<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        gradients: &Gradients<'_, B, T, W>,
    ) -> Result<()> {
        self.write("x gradient", &gradients.x, &[Tokens, Hidden])?;
        self.grad::<W>("router gradient", &gradients.router, &[Experts, Hidden])?;
        let (gate_up, down) = (&gradients.gate_up, &gradients.down);
        self.grad::<T>("gate_up gradient", gate_up, &[Experts, GateUp, Hidden])?;
        self.grad::<T>("down gradient", down, &[Experts, Hidden, Inner])?;
        let biases = &gradients.expert_bias;
        self.has_expert_bias("expert_bias gradients", biases.is_some())?;
        let Some(ExpertBiasGrads { gate_up, down }) = biases else {
            return Ok(());
        };
        self.grad::<T>("gate_up bias gradient", gate_up, &[Experts, GateUp])?;
        self.grad::<T>("down bias gradient", down, &[Experts, Hidden])
    }
}

fn shorten_grad<'short, 'long: 'short, B: Memory, W: Element>(
    grad: WeightGradOf<'long, B, W>,
) -> WeightGradOf<'short, B, W> {
    match grad {
        WeightGrad::Overwrite(grad) => WeightGrad::Overwrite(B::shorten_mut(grad)),
        WeightGrad::Accumulate(grad) => WeightGrad::Accumulate(B::shorten_mut(grad)),
    }
}

/// A routing on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Routing<A> {
    /// [T, K], weight descending; −1 in a slot that only masked experts were left for.
    pub ids: Vec<i32>,
    /// [T, K] as the combine used them: with [`Renormalize::AfterDrop`](crate::Renormalize::AfterDrop) renormalised, dropped ones 0.
    pub weights: Vec<A>,
    /// \[T·K\] assignment → row; −1: dropped.
    pub assignment_to_row: Vec<i32>,
    /// \[E + 1\] exclusive prefix sums of kept rows.
    pub offsets: Vec<i32>,
}

/// Elements of the tensors of one pass.
struct Sizes {
    experts: usize,
    assignments: usize,
    h: usize,
    a: usize,
    logits: usize,
}

impl Sizes {
    fn new(config: &MoeConfig, tokens: usize) -> Self {
        let (experts, inner) = (config.num_experts(), config.intermediate_size());
        let rows = config.max_rows(tokens);
        Self {
            experts,
            assignments: tokens * config.top_k(),
            h: rows * 2 * inner,
            a: rows * inner,
            logits: tokens * experts,
        }
    }
}
