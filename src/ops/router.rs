//! Router: logits → experts and weights, and back.

use super::{Checked, Memory, WeightGradOf};
use crate::check::{self, Check, Dim::*};
use crate::config::MoeConfig;
use crate::element::Element;
use crate::error::Result;

pub(crate) const FORWARD: &str = "router forward";
pub(crate) const BACKWARD: &str = "router backward";
pub(crate) const WEIGHT_GRAD: &str = "router weight gradient";

/// Which experts a token goes to, and with which weights.
pub trait Router: Memory {
    /// See [`RouterForward`].
    fn router_forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: RouterForward<'_, Self, T, W>,
    ) -> Result<()> {
        self.run_router_forward(arguments.check(self)?)
    }

    /// See [`RouterBackward`].
    fn router_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: RouterBackward<'_, Self, T, W>,
    ) -> Result<()> {
        self.run_router_backward(arguments.check(self)?)
    }

    /// See [`RouterWeightGrad`].
    fn router_weight_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: RouterWeightGrad<'_, Self, T, W>,
    ) -> Result<()> {
        self.run_router_weight_grad(arguments.check(self)?)
    }

    /// [`router_forward`](Self::router_forward), checked.
    fn run_router_forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterForward<'_, Self, T, W>>,
    ) -> Result<()>;

    /// [`router_backward`](Self::router_backward), checked.
    fn run_router_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterBackward<'_, Self, T, W>>,
    ) -> Result<()>;

    /// [`router_weight_grad`](Self::router_weight_grad), checked.
    fn run_router_weight_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterWeightGrad<'_, Self, T, W>>,
    ) -> Result<()>;
}

/// The router's logits: views of the tokens, of the router's weight and of values in the accumulation type. [`LogitsOf`] names
/// a backend's.
///
/// The parameters are the views themselves, so that a backend whose views are slices takes a `&Vec` here too.
#[derive(Clone, Copy)]
pub enum Logits<X, W, A> {
    /// z = x·Wᵣᵀ, never stored.
    FromTokens {
        /// [T, H].
        x: X,
        /// [E, H], in the tokens' type or the accumulation type.
        weight: W,
    },
    /// Given by the caller, [T, E].
    Given(A),
    /// Given by the caller in the tokens' type, [T, E]: read as they are, computed with in the accumulation type.
    GivenNarrow(X),
}

/// [`Logits`] of a backend, for tokens of type `T` and a weight of type `W`.
pub type LogitsOf<'a, B, T, W = T> = Logits<
    <B as Memory>::View<'a, T>,
    <B as Memory>::View<'a, W>,
    <B as Memory>::View<'a, <T as Element>::Acc>,
>;

/// Logits → experts, weights, statistics and losses.
///
/// # Math
/// A token's score of an expert is its logit z, or σ(z) + bias; only experts of the selected groups take part. The K best are picked, and
/// weighed as the [score function](crate::ScoreFunction) says. The load-balancing loss is coeff·E/(K·T²)·Σₑ nₑ·Σₜ pₑ, times K with
/// [`AuxScale::PerToken`](crate::AuxScale::PerToken); p is the softmax of all logits, or σ(z) over its sum. The z-loss is coeff/T·Σₜ lse².
///
/// # Shapes
/// Logits \[T, E\], or `x` \[T, H\] and Wᵣ \[E, H\]; bias \[E\] → `ids` and `weights` \[T, K\], `lse` \[T\], `counts` \[E\], `stats`
/// ([`stats_elements`](super::stats_elements)), and the logits \[T, E\] where they are asked for.
///
/// # Numerics
/// One total order selects: higher score first, then higher logit, then lower index; −0 = +0, NaN counts as −∞, +∞ as the largest
/// finite value. Exponentials and sums have one order in every backend, so that in f32 all give the same ids and weights, to the bit,
/// for the same logits. A row with a NaN, a +∞ or nothing finite is bad: it is routed and counted, its lse is NaN, and it has no
/// part in the losses. In other rows a masked expert (−∞) takes no slot: −1 stands there.
///
/// # Errors
/// When a length does not fit, there are too many tokens, memory is of another place, scratch is too small, a bias goes with a softmax,
/// or the backend cannot do this configuration.
pub struct RouterForward<'a, B: Memory, T: Element, W: Element<Acc = T::Acc> = T> {
    /// E, K, H, score function, groups and losses.
    pub config: &'a MoeConfig,
    /// T.
    pub tokens: usize,
    /// Logits, or what they are made of.
    pub logits: LogitsOf<'a, B, T, W>,
    /// Per-expert bias \[E\] of the selection, with [`ScoreFunction::Sigmoid`](crate::ScoreFunction::Sigmoid) only.
    pub selection_bias: Option<B::View<'a, T::Acc>>,
    /// [T, K], weight descending; −1 in a slot that only masked experts were left for.
    pub ids: B::ViewMut<'a, i32>,
    /// [T, K], descending.
    pub weights: B::ViewMut<'a, T::Acc>,
    /// logsumexp of each row's logits \[T\]; NaN marks a bad row.
    pub lse: B::ViewMut<'a, T::Acc>,
    /// Assignments of each expert before dropping \[E\].
    pub counts: B::ViewMut<'a, i32>,
    /// See [`stats_elements`](super::stats_elements).
    pub stats: B::ViewMut<'a, T::Acc>,
    /// [T, E], for whoever wants them: given to [`RouterBackward`], they are not computed again.
    pub logits_output: Option<B::ViewMut<'a, T::Acc>>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

/// Backward of [`RouterForward`] to the logits.
///
/// # Math
/// dz = ∂(⟨weights, dweights⟩ + g·(load-balancing loss + z-loss))/∂z, with g = `loss_gradient` and the picked experts held.
///
/// # Shapes
/// As forward had them; `weights_grad` \[T, K\] → `logits_grad` \[T, E\].
///
/// # Numerics
/// Logits are made again where they are not given. A bad row has gradient 0; an id outside 0..E, and a weight of 0, take part in
/// nothing.
///
/// # Errors
/// As [`RouterForward`].
pub struct RouterBackward<'a, B: Memory, T: Element, W: Element<Acc = T::Acc> = T> {
    /// As forward had it.
    pub config: &'a MoeConfig,
    /// T.
    pub tokens: usize,
    /// As forward had them.
    pub logits: LogitsOf<'a, B, T, W>,
    /// [T, K].
    pub ids: B::View<'a, i32>,
    /// [T, K], as [`Dispatch::dispatch`](super::Dispatch::dispatch) left them.
    pub weights: B::View<'a, T::Acc>,
    /// \[T\].
    pub lse: B::View<'a, T::Acc>,
    /// \[E\].
    pub counts: B::View<'a, i32>,
    /// [T, K].
    pub weights_grad: B::View<'a, T::Acc>,
    /// Gradient of the sum of both losses.
    pub loss_gradient: f64,
    /// [T, E].
    pub logits_grad: B::ViewMut<'a, T::Acc>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

/// The gradient of the router's weight.
///
/// # Math
/// dWᵣ = dzᵀ·x.
///
/// # Shapes
/// `logits_grad` \[T, E\], `x` \[T, H\] → \[E, H\].
///
/// # Numerics
/// Summed in the accumulation type in an order that the sizes fix. A dz of exactly 0 leaves out what it is multiplied by, NaN too.
///
/// # Errors
/// As [`RouterForward`].
pub struct RouterWeightGrad<'a, B: Memory, T: Element, W: Element<Acc = T::Acc> = T> {
    /// E and H.
    pub config: &'a MoeConfig,
    /// T.
    pub tokens: usize,
    /// dz [T, E].
    pub logits_grad: B::View<'a, T::Acc>,
    /// [T, H].
    pub x: B::View<'a, T>,
    /// [E, H].
    pub grad: WeightGradOf<'a, B, W>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

/// The router's part of the gradient of x: dz·Wᵣ.
pub struct RouterPart<'a, B: Memory, W: Element> {
    /// dz [T, E], from [`Router::router_backward`].
    pub logits_grad: B::View<'a, W::Acc>,
    /// Wᵣ [E, H].
    pub weight: B::View<'a, W>,
}

impl<B: Memory, W: Element> Clone for RouterPart<'_, B, W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Memory, W: Element> Copy for RouterPart<'_, B, W> {}

/// Begins the check of an operation of the router.
fn checking<'a, B: Memory>(
    backend: &'a B,
    operation: &'static str,
    config: &'a MoeConfig,
    tokens: usize,
) -> Result<Check<'a, B>> {
    check::tokens(operation, config, tokens)?;
    Ok(Check {
        backend,
        operation,
        config,
        tokens,
    })
}

impl<B: Memory> Check<'_, B> {
    fn logits<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        logits: &LogitsOf<'_, B, T, W>,
    ) -> Result<()> {
        match *logits {
            Logits::FromTokens { x, weight } => {
                self.read("x", x, &[Tokens, Hidden])?;
                self.read("router weight", weight, &[Experts, Hidden])
            }
            Logits::Given(logits) => self.read("logits", logits, &[Tokens, Experts]),
            Logits::GivenNarrow(logits) => self.read("logits", logits, &[Tokens, Experts]),
        }
    }
}

impl<B: Memory, T: Element, W: Element<Acc = T::Acc>> RouterForward<'_, B, T, W> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = checking(backend, FORWARD, self.config, self.tokens)?;
        check.logits::<T, W>(&self.logits)?;
        check.selection_bias(self.selection_bias)?;
        check.write("ids", &self.ids, &[Tokens, TopK])?;
        check.write("weights", &self.weights, &[Tokens, TopK])?;
        check.write("lse", &self.lse, &[Tokens])?;
        check.write("counts", &self.counts, &[Experts])?;
        check.write("stats", &self.stats, &[Stats])?;
        if let Some(logits) = &self.logits_output {
            check.write("logits output", logits, &[Tokens, Experts])?;
        }
        check.place("scratch", &self.scratch)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element, W: Element<Acc = T::Acc>> RouterBackward<'_, B, T, W> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = checking(backend, BACKWARD, self.config, self.tokens)?;
        check.logits::<T, W>(&self.logits)?;
        check.read("ids", self.ids, &[Tokens, TopK])?;
        check.read("weights", self.weights, &[Tokens, TopK])?;
        check.read("lse", self.lse, &[Tokens])?;
        check.read("counts", self.counts, &[Experts])?;
        check.read("weights_grad", self.weights_grad, &[Tokens, TopK])?;
        check.write("logits_grad", &self.logits_grad, &[Tokens, Experts])?;
        check.place("scratch", &self.scratch)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element, W: Element<Acc = T::Acc>> RouterWeightGrad<'_, B, T, W> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = checking(backend, WEIGHT_GRAD, self.config, self.tokens)?;
        check.read("logits_grad", self.logits_grad, &[Tokens, Experts])?;
        check.read("x", self.x, &[Tokens, Hidden])?;
        check.grad::<W>("weight gradient", &self.grad, &[Experts, Hidden])?;
        check.place("scratch", &self.scratch)?;
        Ok(Checked(self))
    }
}
