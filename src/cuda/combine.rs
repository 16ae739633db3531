//! Combine: each token gathers its K rows, weighted, slots in order, one rounding.

use cudarc::driver::CudaViewMut;

use super::catalogue::{Kernel, Operation, Tile};
use super::launch::Launch;
use super::permute::Columns;
use super::{Cuda, View, sys};
use crate::element::{Element, Real};
use crate::error::Result;
use crate::ops::{self, Checked, Plan, UnpermuteBackward, UnpermuteForward};

const THREADS: usize = sys::MILLET_THREADS as usize;

/// A gather-sum: output\[t\] = Σ_slot weight·rows[row], weights of 1 if there are none.
///
/// Made before the product that writes the rows, so that everything is refused before anything is launched.
pub(super) struct Gather<'a> {
    launch: Launch<'a>,
    kernel: Kernel,
    columns: Columns,
    tokens: usize,
    parameters: sys::MilletRows,
}

impl<'a> Gather<'a> {
    /// Into `output` [T, H], by its name in errors.
    pub(super) fn new<T: Element>(
        cuda: &'a Cuda,
        operation: &'static str,
        plan: &'a Plan<Cuda>,
        (name, output): (&'static str, CudaViewMut<'a, T>),
    ) -> Result<Self> {
        let (config, tokens) = (plan.config(), plan.tokens());
        let columns = Columns::split::<T>(cuda, tokens, config.hidden_size());
        let mut launch = Launch::new(cuda, operation);
        let kernel = launch.kernel(Operation::Unpermute, Tile::Only, T::DTYPE)?;
        let to_row = plan.map().assignment_to_row;
        let parameters = sys::MilletRows {
            assignment_to_row: launch.read("assignment_to_row", to_row, 4)?,
            tokens_out: launch.write(name, output, columns.alignment)?.cast(),
            ..columns.parameters(config, tokens)
        };
        Ok(Self {
            launch,
            kernel,
            columns,
            tokens,
            parameters,
        })
    }

    /// With weights [T, K].
    pub(super) fn weighed<A: Real>(mut self, weights: View<'a, A>) -> Result<Self> {
        self.parameters.weights = self.launch.read("weights", weights, 4)?.cast();
        Ok(self)
    }

    /// Submits it, for rows [max rows, H] by their name in errors.
    pub(super) fn sum<T: Element>(
        mut self,
        (name, rows): (&'static str, View<'a, T>),
    ) -> Result<()> {
        let rows = self.launch.read(name, rows, self.columns.alignment)?;
        self.parameters.rows_in = rows.cast();
        let grid = self.columns.grid(self.tokens);
        // SAFETY: lengths were checked by the operation; a plan's rows are below the number of rows, or −1.
        unsafe {
            self.launch
                .run(self.kernel, grid, THREADS, 0, &self.parameters)
        }
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
    Gather::new(cuda, ops::combine::UNPERMUTE, plan, ("output", output))?
        .weighed(weights)?
        .sum(("rows", rows))
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
