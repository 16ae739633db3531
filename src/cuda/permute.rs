//! Permutation: tokens to rows in expert order, and the gradient back.

use std::ptr;

use cudarc::driver::CudaViewMut;

use super::launch::Launch;
use super::module::{Typed, typed};
use super::{Cuda, VECTOR, View, combine, router, sys};
use crate::backend::{RouterPart, RowMap};
use crate::check;
use crate::config::MoeConfig;
use crate::element::{Element, Scalar};
use crate::error::Result;

pub(super) const PERMUTE: Typed = typed!("permute");

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
    pub(super) fn whole<T: Scalar>(hidden: usize) -> Self {
        let vectorized = (hidden * size_of::<T>()).is_multiple_of(VECTOR);
        let alignment = if vectorized { VECTOR } else { size_of::<T>() };
        let vectors = hidden * size_of::<T>() / alignment;
        Self {
            alignment,
            vectorized,
            vectors,
            block_vectors: vectors.next_multiple_of(32),
        }
    }

    /// Split so that few tokens, too, keep the device busy.
    pub(super) fn split<T: Scalar>(cuda: &Cuda, tokens: usize, hidden: usize) -> Self {
        let whole = Self::whole::<T>(hidden);
        let parts = (cuda.kernels.multiprocessors as usize * WARPS) / tokens.max(1);
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

/// See [`Backend::permute`](crate::Backend::permute).
pub(super) fn forward<T: Element>(
    cuda: &Cuda,
    config: &MoeConfig,
    tokens: usize,
    x: View<'_, T>,
    map: RowMap<'_, Cuda>,
    rows: CudaViewMut<'_, T>,
) -> Result<()> {
    const OPERATION: &str = "permute";
    let hidden = config.hidden_size();
    check::hidden(OPERATION, config, tokens, "x", x.len())?;
    let h = ("H", hidden);
    check::rows(OPERATION, config, tokens, "rows", rows.len(), h, &map)?;

    let columns = Columns::split::<T>(cuda, tokens, hidden);
    let mut launch = Launch::new(cuda, OPERATION);
    let kernel = launch.kernel::<T>(PERMUTE)?;
    let parameters = sys::MilletRows {
        assignment_to_row: launch.read("assignment_to_row", map.assignment_to_row, 4)?,
        tokens_in: launch.read("x", x, columns.alignment)?.cast(),
        rows_out: launch.write("rows", rows, columns.alignment)?.cast(),
        ..columns.parameters(config, tokens)
    };
    // SAFETY: lengths were checked above; the map's rows are below the number of rows, or −1, as dispatch makes them.
    unsafe { launch.run(kernel, columns.grid(tokens), THREADS, 0, &parameters) }
}

/// See [`Backend::permute_backward`](crate::Backend::permute_backward).
#[allow(clippy::too_many_arguments)]
pub(super) fn backward<T: Element, W: Element<Acc = T::Acc>>(
    cuda: &Cuda,
    config: &MoeConfig,
    tokens: usize,
    rows_grad: View<'_, T>,
    map: RowMap<'_, Cuda>,
    router: Option<RouterPart<'_, '_, Cuda, W>>,
    x_grad: CudaViewMut<'_, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    const OPERATION: &str = "permute backward";
    let h = ("H", config.hidden_size());
    let given = rows_grad.len();
    check::rows(OPERATION, config, tokens, "rows_grad", given, h, &map)?;
    check::hidden(OPERATION, config, tokens, "x_grad", x_grad.len())?;
    match router {
        None => {
            let (no_weights, out) = (None, ("x_grad", x_grad));
            combine::gather(
                cuda,
                OPERATION,
                config,
                tokens,
                ("rows_grad", rows_grad),
                no_weights,
                map,
                out,
            )
        }
        Some(part) => {
            check::router_part(OPERATION, config, tokens, &part)?;
            let (rows, out) = (("rows_grad", rows_grad), ("x_grad", x_grad));
            router::input_grad(cuda, OPERATION, config, tokens, rows, map, part, out)
        }
    }
}
