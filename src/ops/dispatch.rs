//! Dispatch: capacity dropping and the stable sort by expert.

use super::{Checked, Memory, Plan, RowMapMut, RowTiles};
use crate::check::{self, Check, Dim::*};
use crate::config::MoeConfig;
use crate::element::Real;
use crate::error::Result;

pub(crate) const DISPATCH: &str = "dispatch";

/// Capacity dropping and the stable sort of assignments by expert: ids → a [`Plan`].
pub trait Dispatch: Memory {
    /// See [`DispatchForward`]. On an error nothing was written, and the plan is of what it was; but where a graph is captured, an error
    /// of the backend leaves the plan with the graph's number of tokens, as a part of it may have been recorded.
    fn dispatch<A: Real>(&self, arguments: DispatchForward<'_, Self, A>) -> Result<()> {
        arguments.check(self)?;
        let DispatchForward {
            config,
            tokens,
            ids,
            weights,
            plan,
            scratch,
        } = arguments;
        let tiles = self.row_tiles(config, tokens);
        if plan.check_graph(self, DISPATCH, config, tokens)? {
            plan.filled_by_graph(config, tokens, tiles);
        }
        self.run_dispatch(Checked(DispatchInto {
            config,
            tokens,
            ids: Self::shorten(ids),
            weights: Self::shorten_mut(weights),
            tiles,
            map: plan.map_mut(config, tokens, tiles),
            scratch: Self::shorten_mut(scratch),
        }))?;
        plan.filled(config, tokens, tiles);
        Ok(())
    }

    /// [`dispatch`](Self::dispatch), checked. Nothing may have been written on an error.
    fn run_dispatch<A: Real>(&self, arguments: Checked<DispatchInto<'_, Self, A>>) -> Result<()>;
}

/// Ids → a plan.
///
/// # Math
/// An assignment a = t·K + slot goes to expert ids\[a\]. Each expert keeps at most
/// [`MoeConfig::expert_capacity`] of them, chosen by the configuration's [`DropPolicy`](crate::DropPolicy); kept assignments get
/// rows in order of expert, then of assignment. With [`Renormalize::AfterDrop`](crate::Renormalize::AfterDrop) a token's kept weights
/// are scaled to sum to the router's scaling factor, unless their sum is not above 0, and dropped ones become 0.
///
/// # Shapes
/// `ids` \[T, K\]; an id outside 0..E is a sentinel: it takes no row and no capacity. `weights` \[T, K\], read where the policy goes by
/// weight, written where they are renormalised. `plan` has room for T tokens of a configuration of the same sizes.
///
/// # Numerics
/// Integers, and a sum of K weights in slot order. Ties go to the lower assignment; NaN is the least weight.
///
/// # Errors
/// When a length does not fit, memory is of another place, the plan is too small, of other sizes or of another stream, a graph has it
/// with another number of tokens, scratch is too small, or the backend cannot do this configuration.
pub struct DispatchForward<'a, B: Memory, A: Real> {
    /// E, K and capacity.
    pub config: &'a MoeConfig,
    /// T.
    pub tokens: usize,
    /// [T, K], from a router.
    pub ids: B::View<'a, i32>,
    /// [T, K].
    pub weights: B::ViewMut<'a, A>,
    /// Filled.
    pub plan: &'a mut Plan<B>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, A>,
}

/// [`DispatchForward`] as a backend gets it: the plan's tensors in place of the plan.
pub struct DispatchInto<'a, B: Memory, A: Real> {
    /// E, K and capacity.
    pub config: &'a MoeConfig,
    /// T.
    pub tokens: usize,
    /// [T, K].
    pub ids: B::View<'a, i32>,
    /// [T, K].
    pub weights: B::ViewMut<'a, A>,
    /// Which tiles to list: this backend's [`Memory::row_tiles`].
    pub tiles: RowTiles,
    /// To be written whole.
    pub map: RowMapMut<'a, B>,
    /// See [`Memory::scratch_elements`].
    pub scratch: B::ViewMut<'a, A>,
}

impl<B: Memory, A: Real> DispatchForward<'_, B, A> {
    fn check(&self, backend: &B) -> Result<()> {
        let (operation, config, tokens) = (DISPATCH, self.config, self.tokens);
        check::tokens(operation, config, tokens)?;
        let check = Check {
            backend,
            operation,
            config,
            tokens,
        };
        check.read("ids", self.ids, &[Tokens, TopK])?;
        check.write("weights", &self.weights, &[Tokens, TopK])?;
        self.plan.check_room(&check)?;
        check.place("scratch", &self.scratch)
    }
}
