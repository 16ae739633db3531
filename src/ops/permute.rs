//! Permute: tokens to rows in expert order, and the gradient back.

use super::{Checked, Memory, Plan, RouterPart, UnpermuteBackward, UnpermuteForward};
use crate::check::Dim::*;
use crate::element::Element;
use crate::error::Result;

pub(crate) const PERMUTE: &str = "permute";
pub(crate) const PERMUTE_BACKWARD: &str = "permute backward";

/// Rows in expert order and back, for trainers that run the experts themselves.
pub trait Permute: Memory {
    /// See [`PermuteForward`].
    fn permute<T: Element>(&self, arguments: PermuteForward<'_, Self, T>) -> Result<()> {
        self.run_permute(arguments.check(self)?)
    }

    /// See [`PermuteBackward`].
    fn permute_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: PermuteBackward<'_, Self, T, W>,
    ) -> Result<()> {
        self.run_permute_backward(arguments.check(self)?)
    }

    /// See [`UnpermuteForward`].
    fn unpermute<T: Element>(&self, arguments: UnpermuteForward<'_, Self, T>) -> Result<()> {
        self.run_unpermute(arguments.check(self)?)
    }

    /// See [`UnpermuteBackward`].
    fn unpermute_backward<T: Element>(
        &self,
        arguments: UnpermuteBackward<'_, Self, T>,
    ) -> Result<()> {
        self.run_unpermute_backward(arguments.check(self)?)
    }

    /// [`permute`](Self::permute), checked.
    fn run_permute<T: Element>(
        &self,
        arguments: Checked<PermuteForward<'_, Self, T>>,
    ) -> Result<()>;

    /// [`permute_backward`](Self::permute_backward), checked.
    fn run_permute_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<PermuteBackward<'_, Self, T, W>>,
    ) -> Result<()>;

    /// [`unpermute`](Self::unpermute), checked.
    fn run_unpermute<T: Element>(
        &self,
        arguments: Checked<UnpermuteForward<'_, Self, T>>,
    ) -> Result<()>;

    /// [`unpermute_backward`](Self::unpermute_backward), checked.
    fn run_unpermute_backward<T: Element>(
        &self,
        arguments: Checked<UnpermuteBackward<'_, Self, T>>,
    ) -> Result<()>;
}

/// Gather copy.
///
/// # Math
/// rows\[r\] = x\[t\] for the token t of each row's assignment.
///
/// # Shapes
/// `x` \[T, H\] → `rows` \[max rows, H\]. Rows after the last are not written.
///
/// # Numerics
/// A copy.
///
/// # Errors
/// When a length does not fit, memory is of another place, or the plan of another stream.
pub struct PermuteForward<'a, B: Memory, T: Element> {
    /// Which row is whose; T, H and max rows are its own.
    pub plan: &'a Plan<B>,
    /// [T, H].
    pub x: B::View<'a, T>,
    /// [max rows, H].
    pub rows: B::ViewMut<'a, T>,
}

/// The gradient of x from that of its rows, and the router's part of it.
///
/// # Math
/// dx\[t\] = Σ_slot drows\[r\] + dz\[t\]·Wᵣ, without the last term where no router is given.
///
/// # Shapes
/// `rows_grad` \[max rows, H\] → `x_grad` \[T, H\]; dz \[T, E\], Wᵣ \[E, H\].
///
/// # Numerics
/// Slots are added in order, then the router's part, in the accumulation type; one rounding. A dz of exactly 0 leaves out what it is
/// multiplied by.
///
/// # Errors
/// As [`PermuteForward`], and when scratch is too small.
pub struct PermuteBackward<'a, B: Memory, T: Element, W: Element<Acc = T::Acc> = T> {
    /// As forward had it.
    pub plan: &'a Plan<B>,
    /// [max rows, H].
    pub rows_grad: B::View<'a, T>,
    /// The router's part, where there is one.
    pub router: Option<RouterPart<'a, B, W>>,
    /// [T, H].
    pub x_grad: B::ViewMut<'a, T>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, T::Acc>,
}

impl<B: Memory, T: Element> PermuteForward<'_, B, T> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, PERMUTE)?;
        check.read("x", self.x, &[Tokens, Hidden])?;
        check.write("rows", &self.rows, &[MaxRows, Hidden])?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}

impl<B: Memory, T: Element, W: Element<Acc = T::Acc>> PermuteBackward<'_, B, T, W> {
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        let check = self.plan.check(backend, PERMUTE_BACKWARD)?;
        check.read("rows_grad", self.rows_grad, &[MaxRows, Hidden])?;
        if let Some(router) = &self.router {
            check.router_part(router)?;
        }
        check.write("x_grad", &self.x_grad, &[Tokens, Hidden])?;
        check.place("scratch", &self.scratch)?;
        self.plan.note_capture(backend)?;
        Ok(Checked(self))
    }
}
