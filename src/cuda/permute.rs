//! Permutation: tokens to rows in expert order, and the gradient back.

use std::ptr;

use super::catalogue::{Operation, Tile};
use super::combine::{self, Gather};
use super::launch::Launch;
use super::router::InputGrad;
use super::{Cuda, alignment, is_vectors, sys};
use crate::config::MoeConfig;
use crate::element::Element;
use crate::error::Result;
use crate::ops::{
    self, Checked, Permute, PermuteBackward, PermuteForward, UnpermuteBackward, UnpermuteForward,
};

/// Threads of a block, and the tokens it has: a warp each.
const THREADS: usize = sys::MILLET_THREADS as usize;
const BLOCK_TOKENS: usize = THREADS / 32;

/// Warps that a device should have to hide the latency of memory, for each multiprocessor.
const WARPS: usize = 16;

/// How the rows of `hidden` elements of `T` are moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    /// Bytes at a time, which tensors must be aligned to.
    pub(super) alignment: usize,
    vectorized: bool,
    vectors: usize,
    /// Vectors of one block.
    block_vectors: usize,
}

impl Columns {
    /// All columns of a row for one warp.
    pub(super) fn whole<T: Element>(hidden: usize) -> Self {
        let vectorized = is_vectors(T::DTYPE, hidden);
        let alignment = alignment(T::DTYPE, vectorized);
        let vectors = hidden * size_of::<T>() / alignment;
        Self {
            alignment,
            vectorized,
            vectors,
            block_vectors: vectors.next_multiple_of(32),
        }
    }

    /// Split so that few tokens, too, keep the device busy.
    pub(super) fn split<T: Element>(cuda: &Cuda, tokens: usize, hidden: usize) -> Self {
        let whole = Self::whole::<T>(hidden);
        let parts = (cuda.kernels.multiprocessors * WARPS) / tokens.max(1);
        let block_vectors = whole.vectors.div_ceil(parts.max(1)).next_multiple_of(32);
        Self {
            block_vectors,
            ..whole
        }
    }

    pub(super) fn grid(&self, tokens: usize) -> [usize; 3] {
        let parts = self.vectors.div_ceil(self.block_vectors);
        [tokens.div_ceil(BLOCK_TOKENS), parts, 1]
    }

    /// Parameters without tensors.
    pub(super) fn parameters(&self, config: &MoeConfig, tokens: usize) -> sys::MilletRows {
        sys::MilletRows {
            tokens: tokens as i64,
            top_k: config.top_k() as i32,
            hidden: config.hidden_size() as i32,
            vectorized: self.vectorized.into(),
            column_vectors: self.block_vectors as i32,
            assignment_to_row: ptr::null(),
            tokens_in: ptr::null(),
            tokens_out: ptr::null_mut(),
            rows_in: ptr::null(),
            rows_out: ptr::null_mut(),
            weights: ptr::null(),
            weights_grad: ptr::null_mut(),
        }
    }
}

impl Permute for Cuda {
    fn run_permute<T: Element>(
        &self,
        arguments: Checked<PermuteForward<'_, Self, T>>,
    ) -> Result<()> {
        let PermuteForward { plan, x, rows } = arguments.into_inner();
        let (config, tokens) = (plan.config(), plan.tokens());
        let columns = Columns::split::<T>(self, tokens, config.hidden_size());
        let mut launch = Launch::new(self, ops::permute::PERMUTE);
        let kernel = launch.kernel(Operation::Permute, Tile::Only, T::DTYPE)?;
        let to_row = plan.map().assignment_to_row;
        let parameters = sys::MilletRows {
            assignment_to_row: launch.read("assignment_to_row", to_row, 4)?,
            tokens_in: launch.read("x", x, columns.alignment)?.cast(),
            rows_out: launch.write("rows", rows, columns.alignment)?.cast(),
            ..columns.parameters(config, tokens)
        };
        // SAFETY: lengths are checked, and a plan's rows are below the number of rows, or −1.
        unsafe { launch.run(kernel, columns.grid(tokens), THREADS, 0, &parameters) }
    }

    fn run_permute_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<PermuteBackward<'_, Self, T, W>>,
    ) -> Result<()> {
        let PermuteBackward {
            plan,
            rows_grad,
            router,
            x_grad,
            scratch: _,
        } = arguments.into_inner();
        const OPERATION: &str = ops::permute::PERMUTE_BACKWARD;
        let (rows, output) = (("rows_grad", rows_grad), ("x_grad", x_grad));
        match router {
            None => Gather::new(self, OPERATION, plan, output)?.sum(rows),
            Some(part) => InputGrad::new(self, OPERATION, plan, part, output)?.sum(rows),
        }
    }

    fn run_unpermute<T: Element>(
        &self,
        arguments: Checked<UnpermuteForward<'_, Self, T>>,
    ) -> Result<()> {
        combine::unpermute(self, arguments)
    }

    fn run_unpermute_backward<T: Element>(
        &self,
        arguments: Checked<UnpermuteBackward<'_, Self, T>>,
    ) -> Result<()> {
        combine::unpermute_backward(self, arguments)
    }
}
