//! Combine: each token gathers its K rows, weighted, slots in order, one rounding.

use cudarc::driver::CudaViewMut;

use super::catalogue::{Operation, Tile};
use super::launch::Launch;
use super::permute::Columns;
use super::{Cuda, View, sys};
use crate::element::Element;
use crate::error::Result;
use crate::ops::{self, Checked, Plan, UnpermuteBackward, UnpermuteForward};

const THREADS: usize = sys::MILLET_THREADS as usize;

/// A gather-sum: each token's rows [max rows, H] into the output [T, H], with the names that errors give them.
pub(super) struct Gather<'a, T: Element> {
    pub(super) operation: &'static str,
    pub(super) plan: &'a Plan<Cuda>,
    pub(super) rows: (&'static str, View<'a, T>),
    pub(super) output: (&'static str, CudaViewMut<'a, T>),
}

impl<T: Element> Gather<'_, T> {
    /// output\[t\] = Σ_slot weight·rows[row], weights of 1 if there are none.
    pub(super) fn sum(self, cuda: &Cuda, weights: Option<View<'_, T::Acc>>) -> Result<()> {
        let (config, tokens) = (self.plan.config(), self.plan.tokens());
        let columns = Columns::split::<T>(cuda, tokens, config.hidden_size());
        let mut launch = Launch::new(cuda, self.operation);
        let kernel = launch.kernel(Operation::Unpermute, Tile::Only, T::DTYPE)?;
        let (rows_name, rows) = self.rows;
        let (output_name, output) = self.output;
        let to_row = self.plan.map().assignment_to_row;
        let mut parameters = sys::MilletRows {
            assignment_to_row: launch.read("assignment_to_row", to_row, 4)?,
            rows_in: launch.read(rows_name, rows, columns.alignment)?.cast(),
            tokens_out: launch.write(output_name, output, columns.alignment)?.cast(),
            ..columns.parameters(config, tokens)
        };
        if let Some(weights) = weights {
            parameters.weights = launch.read("weights", weights, 4)?.cast();
        }
        // SAFETY: lengths were checked by the operation; a plan's rows are below the number of rows, or −1.
        unsafe { launch.run(kernel, columns.grid(tokens), THREADS, 0, &parameters) }
    }
}

pub(super) fn unpermute<T: Element>(
    cuda: &Cuda,
    arguments: Checked<UnpermuteForward<'_, Cuda, T>>,
) -> Result<()> {
    let UnpermuteForward {
        plan,
        rows,
        weights,
        output,
    } = arguments.into_inner();
    let gather = Gather {
        operation: ops::combine::UNPERMUTE,
        plan,
        rows: ("rows", rows),
        output: ("output", output),
    };
    gather.sum(cuda, Some(weights))
}

pub(super) fn unpermute_backward<T: Element>(
    cuda: &Cuda,
    arguments: Checked<UnpermuteBackward<'_, Cuda, T>>,
) -> Result<()> {
    let UnpermuteBackward {
        plan,
        output_grad,
        rows,
        weights,
        rows_grad,
        weights_grad,
    } = arguments.into_inner();
    let (config, tokens) = (plan.config(), plan.tokens());
    let columns = Columns::whole::<T>(config.hidden_size());
    let alignment = columns.alignment;
    let mut launch = Launch::new(cuda, ops::combine::UNPERMUTE_BACKWARD);
    let kernel = launch.kernel(Operation::UnpermuteBackward, Tile::Only, T::DTYPE)?;
    let to_row = plan.map().assignment_to_row;
    let parameters = sys::MilletRows {
        assignment_to_row: launch.read("assignment_to_row", to_row, 4)?,
        tokens_in: launch.read("output_grad", output_grad, alignment)?.cast(),
        rows_in: launch.read("rows", rows, alignment)?.cast(),
        rows_out: launch.write("rows_grad", rows_grad, alignment)?.cast(),
        weights: launch.read("weights", weights, 4)?.cast(),
        weights_grad: launch.write("weights_grad", weights_grad, 4)?.cast(),
        ..columns.parameters(config, tokens)
    };
    // SAFETY: lengths are checked, and a plan's rows are below the number of rows, or −1.
    unsafe { launch.run(kernel, columns.grid(tokens), THREADS, 0, &parameters) }
}
