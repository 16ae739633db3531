//! Experts: grouped products and an activation over the rows of a plan, forward and backward.

use super::{Checked, Memory, Plan, RouterPart, WeightGradOf};
use crate::check::Dim::*;
use crate::element::Element;
use crate::error::Result;

pub(crate) const UP: &str = "experts up";
pub(crate) const DOWN: &str = "experts down";
pub(crate) const DOWN_BACKWARD: &str = "experts down backward";
pub(crate) const DOWN_WEIGHT_GRAD: &str = "experts down weight gradient";
pub(crate) const UP_WEIGHT_GRAD: &str = "experts up weight gradient";
pub(crate) const BIAS_GRAD: &str = "experts bias gradient";
pub(crate) const INPUT_GRAD: &str = "experts input gradient";

/// What experts compute: up with the gather and the activation, down with the combine, and their gradients.
pub trait Experts: Memory {
    /// See [`ExpertsUp`].
    fn experts_up<T: Element>(&self, arguments: ExpertsUp<'_, Self, T>) -> Result<()> {
        self.run_experts_up(arguments.check(self)?)
    }

    /// See [`ExpertsDown`].
    fn experts_down<T: Element>(&self, arguments: ExpertsDown<'_, Self, T>) -> Result<()> {
        self.run_experts_down(arguments.check(self)?)
    }

    /// See [`ExpertsDownBackward`].
    fn experts_down_backward<T: Element>(
        &self,
        arguments: ExpertsDownBackward<'_, Self, T>,
    ) -> Result<()> {
        self.run_experts_down_backward(arguments.check(self)?)
    }

    /// See [`ExpertsDownWeightGrad`].
    fn experts_down_weight_grad<T: Element>(
        &self,
        arguments: ExpertsDownWeightGrad<'_, Self, T>,
    ) -> Result<()> {
        self.run_experts_down_weight_grad(arguments.check(self)?)
    }

    /// See [`ExpertsUpWeightGrad`].
    fn experts_up_weight_grad<T: Element>(
        &self,
        arguments: ExpertsUpWeightGrad<'_, Self, T>,
    ) -> Result<()> {
        self.run_experts_up_weight_grad(arguments.check(self)?)
    }

    /// See [`ExpertsBiasGrad`].
    fn experts_bias_grad<T: Element>(&self, arguments: ExpertsBiasGrad<'_, Self, T>) -> Result<()> {
        self.run_experts_bias_grad(arguments.check(self)?)
    }

    /// See [`ExpertsInputGrad`].
    fn experts_input_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: ExpertsInputGrad<'_, Self, T, W>,
    ) -> Result<()> {
        self.run_experts_input_grad(arguments.check(self)?)
    }

    /// [`experts_up`](Self::experts_up), checked.
    fn run_experts_up<T: Element>(&self, arguments: Checked<ExpertsUp<'_, Self, T>>) -> Result<()>;

    /// [`experts_down`](Self::experts_down), checked.
    fn run_experts_down<T: Element>(
        &self,
        arguments: Checked<ExpertsDown<'_, Self, T>>,
    ) -> Result<()>;

    /// [`experts_down_backward`](Self::experts_down_backward), checked.
    fn run_experts_down_backward<T: Element>(
        &self,
        arguments: Checked<ExpertsDownBackward<'_, Self, T>>,
    ) -> Result<()>;

    /// [`experts_down_weight_grad`](Self::experts_down_weight_grad), checked.
    fn run_experts_down_weight_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsDownWeightGrad<'_, Self, T>>,
    ) -> Result<()>;

    /// [`experts_up_weight_grad`](Self::experts_up_weight_grad), checked.
    fn run_experts_up_weight_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsUpWeightGrad<'_, Self, T>>,
    ) -> Result<()>;

    /// [`experts_bias_grad`](Self::experts_bias_grad), checked.
    fn run_experts_bias_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsBiasGrad<'_, Self, T>>,
    ) -> Result<()>;

    /// [`experts_input_grad`](Self::experts_input_grad), checked.
    fn run_experts_input_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<ExpertsInputGrad<'_, Self, T, W>>,
    ) -> Result<()>;
}

/// Up product and activation.
///
/// # Math
/// h\[r\] = x\[t\]·gate_up\[e\]ᵀ + bias\[e\] for each row r of token t and expert e; a = f(gate, up), with
/// h = (gate, up) and f the configuration's [`Activation`](crate::Activation).
///
/// # Shapes
/// `x` \[T, H\], `gate_up` \[E, 2I, H\], `bias` \[E, 2I\] → `h` \[max rows, 2I\] where it is wanted, `a` \[max rows, I\]. Rows after
/// the last are not written.
///
/// # Numerics
/// Summed in the accumulation type, the bias last. h is rounded, and a is made of the rounded h and rounded: the same whether h is
/// wanted or not, and in backward.
///
/// # Errors
/// When a length does not fit, memory is of another place, the plan of another stream, scratch is too small, or the backend cannot do
/// this configuration.
pub struct ExpertsUp<'a, B: Memory, T: Element> {
    /// Which row is whose; sizes are its own.
    pub plan: &'a Plan<B>,
    /// [T, H].
    pub x: B::View<'a, T>,
    /// [E, 2I, H], gate rows first, then up rows.
    pub gate_up: B::View<'a, T>,
    /// [E, 2I], if the configuration has it.
    pub bias: Option<B::View<'a, T>>,
    /// [max rows, 2I], for whoever wants it.
    pub h: Option<B::ViewMut<'a, T>>,
    /// [max rows, I].
    pub a: B::ViewMut<'a, T>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

/// Down product and combine.
///
/// # Math
/// out\[t\] = Σ_slot w\[t, slot\]·(a\[r\]·down\[e\]ᵀ + bias\[e\]) over the assignments that have a row.
///
/// # Shapes
/// `a` \[max rows, I\], `down` \[E, H, I\], `bias` \[E, H\], `weights` \[T, K\] → `output` \[T, H\]. A token with nothing kept gets 0.
///
/// # Numerics
/// A row's product is summed in the accumulation type, the bias last, weighed, then rounded; slots are added in order, one rounding. A
/// weight of exactly 0 leaves its row out.
///
/// # Errors
/// As [`ExpertsUp`].
pub struct ExpertsDown<'a, B: Memory, T: Element> {
    /// As up had it.
    pub plan: &'a Plan<B>,
    /// [max rows, I].
    pub a: B::View<'a, T>,
    /// [E, H, I].
    pub down: B::View<'a, T>,
    /// [E, H], if the configuration has it.
    pub bias: Option<B::View<'a, T>>,
    /// [T, K].
    pub weights: B::View<'a, T::Acc>,
    /// [T, H].
    pub output: B::ViewMut<'a, T>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

/// Backward through combine, down product and activation, by row.
///
/// # Math
/// da = w·(dO\[t\]·down\[e\]), dh = da through the activation at h, and
/// dw\[t, slot\] = ⟨dO\[t\]·down\[e\], a⟩ + ⟨dO\[t\], bias\[e\]⟩.
///
/// # Shapes
/// `output_grad` \[T, H\], `down` \[E, H, I\], its `bias` \[E, H\], `weights` \[T, K\], `h` \[max rows, 2I\] in and dh out →
/// `weighted_a` \[max rows, I\] = w·a, `weights_grad` \[T, K\], 0 for an assignment without a row.
///
/// # Numerics
/// Summed in the accumulation type; dh and w·a are rounded once. Both are exactly 0 for a weight of 0, whatever it would be multiplied
/// by.
///
/// # Errors
/// As [`ExpertsUp`].
pub struct ExpertsDownBackward<'a, B: Memory, T: Element> {
    /// As forward had it.
    pub plan: &'a Plan<B>,
    /// [T, H].
    pub output_grad: B::View<'a, T>,
    /// [E, H, I].
    pub down: B::View<'a, T>,
    /// [E, H], if the configuration has it.
    pub bias: Option<B::View<'a, T>>,
    /// [T, K].
    pub weights: B::View<'a, T::Acc>,
    /// [max rows, 2I]: h, then dh.
    pub h: B::ViewMut<'a, T>,
    /// [max rows, I].
    pub weighted_a: B::ViewMut<'a, T>,
    /// [T, K].
    pub weights_grad: B::ViewMut<'a, T::Acc>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

/// The gradient of the down weights.
///
/// # Math
/// d_down\[e\] = Σᵣ dO\[t\]ᵀ·(w·a)\[r\] over the expert's rows.
///
/// # Shapes
/// `output_grad` \[T, H\], `weighted_a` \[max rows, I\] → \[E, H, I\]. An expert without rows gets exactly 0: written, or added.
///
/// # Numerics
/// Summed in the accumulation type in row order. A row of w·a that is exactly 0 is left out, whatever dO.
///
/// # Errors
/// As [`ExpertsUp`].
pub struct ExpertsDownWeightGrad<'a, B: Memory, T: Element> {
    /// As forward had it.
    pub plan: &'a Plan<B>,
    /// [T, H].
    pub output_grad: B::View<'a, T>,
    /// [max rows, I], from [`ExpertsDownBackward`].
    pub weighted_a: B::View<'a, T>,
    /// [E, H, I].
    pub grad: WeightGradOf<'a, B, T>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

/// The gradient of the gate and up weights.
///
/// # Math
/// d_gate_up\[e\] = Σᵣ dh\[r\]ᵀ·x\[t\] over the expert's rows.
///
/// # Shapes
/// `x` \[T, H\], `h_grad` \[max rows, 2I\] → \[E, 2I, H\]. An expert without rows gets exactly 0: written, or added.
///
/// # Numerics
/// Summed in the accumulation type in row order. A row of dh that is exactly 0 is left out, whatever x.
///
/// # Errors
/// As [`ExpertsUp`].
pub struct ExpertsUpWeightGrad<'a, B: Memory, T: Element> {
    /// As forward had it.
    pub plan: &'a Plan<B>,
    /// [T, H].
    pub x: B::View<'a, T>,
    /// [max rows, 2I], from [`ExpertsDownBackward`].
    pub h_grad: B::View<'a, T>,
    /// [E, 2I, H].
    pub grad: WeightGradOf<'a, B, T>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

/// The gradients of the experts' biases.
///
/// # Math
/// d_gate_up_bias\[e\] = Σᵣ dh\[r\] and d_down_bias\[e\] = Σᵣ w·dO\[t\] over the expert's rows.
///
/// # Shapes
/// `h_grad` \[max rows, 2I\], `output_grad` \[T, H\], `weights` \[T, K\] → \[E, 2I\] and \[E, H\]. An expert without rows gets exactly 0:
/// written, or added.
///
/// # Numerics
/// Summed in the accumulation type, in one order, then rounded. A weight of exactly 0 leaves its row out, whatever dO.
///
/// # Errors
/// As [`ExpertsUp`], and when the configuration has no biases.
pub struct ExpertsBiasGrad<'a, B: Memory, T: Element> {
    /// As forward had it.
    pub plan: &'a Plan<B>,
    /// [max rows, 2I], from [`ExpertsDownBackward`].
    pub h_grad: B::View<'a, T>,
    /// [T, H].
    pub output_grad: B::View<'a, T>,
    /// [T, K].
    pub weights: B::View<'a, T::Acc>,
    /// [E, 2I].
    pub gate_up: WeightGradOf<'a, B, T>,
    /// [E, H].
    pub down: WeightGradOf<'a, B, T>,
}

/// The gradient of x, the router's part included.
///
/// # Math
/// dx\[t\] = Σ_slot dh\[r\]·gate_up\[e\] + dz\[t\]·Wᵣ.
///
/// # Shapes
/// `h_grad` \[max rows, 2I\], `gate_up` \[E, 2I, H\], dz \[T, E\], Wᵣ \[E, H\] → `x_grad` \[T, H\].
///
/// # Numerics
/// A row's product is summed in the accumulation type and rounded; slots are added in order, then the router's part, one rounding. Where
/// a row of dh or a dz is exactly 0, its product is left out, so that NaN and ∞ do not spread.
///
/// # Errors
/// As [`ExpertsUp`].
pub struct ExpertsInputGrad<'a, B: Memory, T: Element, W: Element<Acc = T::Acc> = T> {
    /// As forward had it.
    pub plan: &'a Plan<B>,
    /// [max rows, 2I], from [`ExpertsDownBackward`].
    pub h_grad: B::View<'a, T>,
    /// [E, 2I, H].
    pub gate_up: B::View<'a, T>,
    /// dz and Wᵣ.
    pub router: RouterPart<'a, B, W>,
    /// [T, H].
    pub x_grad: B::ViewMut<'a, T>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

impl<B: Memory, T: Element> ExpertsUp<'_, B, T> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, UP)?;
        check.read("x", self.x, &[Tokens, Hidden])?;
        check.read("gate_up", self.gate_up, &[Experts, GateUp, Hidden])?;
        check.expert_bias("gate_up bias", self.bias, &[Experts, GateUp])?;
        if let Some(h) = &self.h {
            check.write("h", h, &[MaxRows, GateUp])?;
        }
        check.write("a", &self.a, &[MaxRows, Inner])?;
        check.place("scratch", &self.scratch)?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element> ExpertsDown<'_, B, T> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, DOWN)?;
        check.read("a", self.a, &[MaxRows, Inner])?;
        check.read("down", self.down, &[Experts, Hidden, Inner])?;
        check.expert_bias("down bias", self.bias, &[Experts, Hidden])?;
        check.read("weights", self.weights, &[Tokens, TopK])?;
        check.write("output", &self.output, &[Tokens, Hidden])?;
        check.place("scratch", &self.scratch)?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element> ExpertsDownBackward<'_, B, T> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, DOWN_BACKWARD)?;
        check.read("output_grad", self.output_grad, &[Tokens, Hidden])?;
        check.read("down", self.down, &[Experts, Hidden, Inner])?;
        check.expert_bias("down bias", self.bias, &[Experts, Hidden])?;
        check.read("weights", self.weights, &[Tokens, TopK])?;
        check.write("h", &self.h, &[MaxRows, GateUp])?;
        check.write("weighted_a", &self.weighted_a, &[MaxRows, Inner])?;
        check.write("weights_grad", &self.weights_grad, &[Tokens, TopK])?;
        check.place("scratch", &self.scratch)?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element> ExpertsDownWeightGrad<'_, B, T> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, DOWN_WEIGHT_GRAD)?;
        check.read("output_grad", self.output_grad, &[Tokens, Hidden])?;
        check.read("weighted_a", self.weighted_a, &[MaxRows, Inner])?;
        check.grad::<T>("weight gradient", &self.grad, &[Experts, Hidden, Inner])?;
        check.place("scratch", &self.scratch)?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element> ExpertsUpWeightGrad<'_, B, T> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, UP_WEIGHT_GRAD)?;
        check.read("x", self.x, &[Tokens, Hidden])?;
        check.read("h_grad", self.h_grad, &[MaxRows, GateUp])?;
        check.grad::<T>("weight gradient", &self.grad, &[Experts, GateUp, Hidden])?;
        check.place("scratch", &self.scratch)?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element> ExpertsBiasGrad<'_, B, T> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, BIAS_GRAD)?;
        check.has_expert_bias("bias gradient", true)?;
        check.read("h_grad", self.h_grad, &[MaxRows, GateUp])?;
        check.read("output_grad", self.output_grad, &[Tokens, Hidden])?;
        check.read("weights", self.weights, &[Tokens, TopK])?;
        check.grad::<T>("gate_up bias gradient", &self.gate_up, &[Experts, GateUp])?;
        check.grad::<T>("down bias gradient", &self.down, &[Experts, Hidden])?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element, W: Element<Acc = T::Acc>> ExpertsInputGrad<'_, B, T, W> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, INPUT_GRAD)?;
        check.read("h_grad", self.h_grad, &[MaxRows, GateUp])?;
        check.read("gate_up", self.gate_up, &[Experts, GateUp, Hidden])?;
        check.router_part(&self.router)?;
        check.write("x_grad", &self.x_grad, &[Tokens, Hidden])?;
        check.place("scratch", &self.scratch)?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}
