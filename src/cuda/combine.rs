//! Combine: each token gathers its K rows, weighted, slots in order, one rounding.

use cudarc::driver::CudaViewMut;

use super::launch::Launch;
use super::module::{Typed, typed};
use super::permute::Columns;
use super::{Cuda, View, sys};
use crate::backend::RowMap;
use crate::check;
use crate::config::MoeConfig;
use crate::element::Element;
use crate::error::Result;

pub(super) const UNPERMUTE: Typed = typed!("unpermute");
pub(super) const UNPERMUTE_BACKWARD: Typed = typed!("unpermute_backward");

const THREADS: usize = sys::MILLET_THREADS as usize;

/// See [`Backend::unpermute`](crate::Backend::unpermute).
pub(super) fn unpermute<T: Element>(
    cuda: &Cuda,
    config: &MoeConfig,
    tokens: usize,
    rows: View<'_, T>,
    weights: View<'_, T::Acc>,
    map: RowMap<'_, Cuda>,
    output: CudaViewMut<'_, T>,
) -> Result<()> {
    const OPERATION: &str = "unpermute";
    let h = ("H", config.hidden_size());
    check::rows(OPERATION, config, tokens, "rows", rows.len(), h, &map)?;
    check::assignments(OPERATION, config, tokens, "weights", weights.len())?;
    check::hidden(OPERATION, config, tokens, "output", output.len())?;
    let (rows, output) = (("rows", rows), ("output", output));
    gather(
        cuda,
        OPERATION,
        config,
        tokens,
        rows,
        Some(weights),
        map,
        output,
    )
}

/// output\[t\] = Σ_slot weight·rows[row], weights of 1 if there are none; lengths are checked by the caller.
#[allow(clippy::too_many_arguments)]
pub(super) fn gather<T: Element>(
    cuda: &Cuda,
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    (rows_name, rows): (&'static str, View<'_, T>),
    weights: Option<View<'_, T::Acc>>,
    map: RowMap<'_, Cuda>,
    (output_name, output): (&'static str, CudaViewMut<'_, T>),
) -> Result<()> {
    let columns = Columns::split::<T>(cuda, tokens, config.hidden_size());
    let mut launch = Launch::new(cuda, operation);
    let kernel = launch.kernel::<T>(UNPERMUTE)?;
    let mut parameters = sys::MilletRows {
        assignment_to_row: launch.read("assignment_to_row", map.assignment_to_row, 4)?,
        rows_in: launch.read(rows_name, rows, columns.alignment)?.cast(),
        tokens_out: launch.write(output_name, output, columns.alignment)?.cast(),
        ..columns.parameters(config, tokens)
    };
    if let Some(weights) = weights {
        parameters.weights = launch.read("weights", weights, 4)?.cast();
    }
    // SAFETY: lengths were checked by the caller; the map's rows are below the number of rows, or −1.
    unsafe { launch.run(kernel, columns.grid(tokens), THREADS, 0, &parameters) }
}

/// See [`Backend::unpermute_backward`](crate::Backend::unpermute_backward).
#[allow(clippy::too_many_arguments)]
pub(super) fn unpermute_backward<T: Element>(
    cuda: &Cuda,
    config: &MoeConfig,
    tokens: usize,
    output_grad: View<'_, T>,
    rows: View<'_, T>,
    weights: View<'_, T::Acc>,
    map: RowMap<'_, Cuda>,
    rows_grad: CudaViewMut<'_, T>,
    weights_grad: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    const OPERATION: &str = "unpermute backward";
    let hidden = config.hidden_size();
    let h = ("H", hidden);
    check::hidden(OPERATION, config, tokens, "output_grad", output_grad.len())?;
    check::rows(OPERATION, config, tokens, "rows", rows.len(), h, &map)?;
    let given = rows_grad.len();
    check::rows(OPERATION, config, tokens, "rows_grad", given, h, &map)?;
    check::assignments(OPERATION, config, tokens, "weights", weights.len())?;
    let given = weights_grad.len();
    check::assignments(OPERATION, config, tokens, "weights_grad", given)?;

    let columns = Columns::whole::<T>(hidden);
    let alignment = columns.alignment;
    let mut launch = Launch::new(cuda, OPERATION);
    let kernel = launch.kernel::<T>(UNPERMUTE_BACKWARD)?;
    let parameters = sys::MilletRows {
        assignment_to_row: launch.read("assignment_to_row", map.assignment_to_row, 4)?,
        tokens_in: launch.read("output_grad", output_grad, alignment)?.cast(),
        rows_in: launch.read("rows", rows, alignment)?.cast(),
        rows_out: launch.write("rows_grad", rows_grad, alignment)?.cast(),
        weights: launch.read("weights", weights, 4)?.cast(),
        weights_grad: launch.write("weights_grad", weights_grad, 4)?.cast(),
        ..columns.parameters(config, tokens)
    };
    // SAFETY: lengths were checked above; the map's rows are below the number of rows, or −1.
    unsafe { launch.run(kernel, columns.grid(tokens), THREADS, 0, &parameters) }
}
