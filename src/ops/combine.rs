//! Combine: each token gathers its K rows, weighted. As an operation of its own it is unpermute.

use super::{Checked, Memory, Plan};
use crate::check::Dim::*;
use crate::element::Element;
use crate::error::Result;

pub(crate) const UNPERMUTE: &str = "unpermute";
pub(crate) const UNPERMUTE_BACKWARD: &str = "unpermute backward";

/// Weighted gather-sum.
///
/// # Math
/// out\[t\] = Σ_slot w\[t, slot\]·rows\[r\] over the assignments that have a row.
///
/// # Shapes
/// `rows` \[max rows, H\], `weights` \[T, K\] → `output` \[T, H\]. A token with nothing kept gets 0.
///
/// # Numerics
/// Slots are added in order in the accumulation type; one rounding. A weight of exactly 0 leaves its row out, whatever it holds.
///
/// # Errors
/// When a length does not fit, memory is of another place, or the plan of another stream.
pub struct UnpermuteForward<'a, B: Memory, T: Element> {
    /// Which row is whose; T, H, K and max rows are its own.
    pub plan: &'a Plan<B>,
    /// [max rows, H].
    pub rows: B::View<'a, T>,
    /// [T, K].
    pub weights: B::View<'a, T::Acc>,
    /// [T, H].
    pub output: B::ViewMut<'a, T>,
}

/// Backward of [`UnpermuteForward`].
///
/// # Math
/// drows\[r\] = w·dO\[t\] and dw\[t, slot\] = ⟨dO\[t\], rows\[r\]⟩, 0 for an assignment without a row.
///
/// # Shapes
/// `output_grad` \[T, H\], `rows` \[max rows, H\], `weights` \[T, K\] → `rows_grad` \[max rows, H\], `weights_grad` \[T, K\]. Rows after
/// the last are not written.
///
/// # Numerics
/// Products and sums in the accumulation type. The gradient of a row of weight 0 is exactly 0, whatever dO.
///
/// # Errors
/// As [`UnpermuteForward`].
pub struct UnpermuteBackward<'a, B: Memory, T: Element> {
    /// As forward had it.
    pub plan: &'a Plan<B>,
    /// [T, H].
    pub output_grad: B::View<'a, T>,
    /// [max rows, H].
    pub rows: B::View<'a, T>,
    /// [T, K].
    pub weights: B::View<'a, T::Acc>,
    /// [max rows, H].
    pub rows_grad: B::ViewMut<'a, T>,
    /// [T, K].
    pub weights_grad: B::ViewMut<'a, T::Acc>,
}

impl<B: Memory, T: Element> UnpermuteForward<'_, B, T> {
    pub(super) fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, UNPERMUTE)?;
        check.read("rows", self.rows, &[MaxRows, Hidden])?;
        check.read("weights", self.weights, &[Tokens, TopK])?;
        check.write("output", &self.output, &[Tokens, Hidden])?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element> UnpermuteBackward<'_, B, T> {
    pub(super) fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, UNPERMUTE_BACKWARD)?;
        check.read("output_grad", self.output_grad, &[Tokens, Hidden])?;
        check.read("rows", self.rows, &[MaxRows, Hidden])?;
        check.read("weights", self.weights, &[Tokens, TopK])?;
        check.write("rows_grad", &self.rows_grad, &[MaxRows, Hidden])?;
        check.write("weights_grad", &self.weights_grad, &[Tokens, TopK])?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}
