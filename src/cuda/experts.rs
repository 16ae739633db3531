//! Experts: grouped products with an activation between them, forward and backward.
//!
//! Scratch: the tiles that a product's blocks have drawn, and then the down product's w·y [R, H], dX̃ [R, H], or the parts of the
//! weights' gradients [I/64, R].

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::CudaViewMut;

use super::arch::{RowProduct, Storage, Tiling, WeightGradient};
use super::catalogue::{Kernel, Operation, Tile};
use super::combine::Gather;
use super::launch::{Launch, Pieces};
use super::router::InputGrad;
use super::{Cuda, F32Products, VECTOR, View, alignment, router, sys};
use crate::check;
use crate::config::{Activation, MoeConfig};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::ops::{
    self, Checked, Experts, ExpertsBiasGrad, ExpertsDown, ExpertsDownBackward,
    ExpertsDownWeightGrad, ExpertsInputGrad, ExpertsUp, ExpertsUpWeightGrad, Plan, WeightGrad,
    WeightGradOf,
};

/// Multiplier and shift with which the device divides by `divisor`: n / d = (hi(n·multiplier) + n) >> shift for n < 2³¹.
fn divider(divisor: usize) -> (u32, u32) {
    let divisor = divisor as u64;
    let shift = divisor.next_power_of_two().trailing_zeros();
    let multiplier = (((1u64 << shift) - divisor) << 32) / divisor + 1;
    (multiplier as u32, shift)
}

/// Threads of a block, where it is not a product's.
const THREADS: usize = sys::MILLET_THREADS as usize;

fn activation(activation: Activation) -> sys::MilletActivation {
    let none = sys::MilletActivation {
        kind: sys::MILLET_SWIGLU as i32,
        alpha: 0.0,
        limit: 0.0,
        offset: 0.0,
    };
    match activation {
        Activation::SwiGlu => none,
        Activation::ClampedSwiGlu {
            alpha,
            limit,
            offset,
        } => sys::MilletActivation {
            kind: sys::MILLET_CLAMPED_SWIGLU as i32,
            alpha: alpha as f32,
            limit: limit as f32,
            offset: offset as f32,
        },
    }
}

/// Parts of a row's ⟨dA', a⟩.
fn dot_parts(config: &MoeConfig) -> usize {
    config
        .intermediate_size()
        .div_ceil(sys::MILLET_DOT_COLUMNS as usize)
}

/// Elements of the accumulation type before everything else in the scratch.
fn tickets_elements<T: Element>() -> usize {
    let mut pieces = Pieces::default();
    pieces.take::<u32>(1);
    pieces.elements::<T::Acc>()
}

/// Elements of the accumulation type that a product [R, H] takes of the scratch.
fn product_elements<T: Element>(config: &MoeConfig, tokens: usize) -> usize {
    let mut pieces = Pieces::default();
    let rows = config.max_rows(tokens);
    pieces.take::<T>(rows.saturating_mul(config.hidden_size()));
    pieces.elements::<T::Acc>()
}

/// Scratch of the operations of this file, in elements of the accumulation type.
pub(super) fn scratch_elements<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    shared_limit: usize,
) -> usize {
    let router = router::scratch_elements::<T::Acc>(config, tokens, shared_limit);
    let product = product_elements::<T>(config, tokens).saturating_add(router);
    let dots = config.max_rows(tokens).saturating_mul(dot_parts(config));
    product.max(dots).saturating_add(tickets_elements::<T>())
}

/// One product being prepared: its tensors' addresses and its parameters.
struct Prepared<'a> {
    launch: Launch<'a>,
    plan: &'a Plan<Cuda>,
    storage: Storage,
    parameters: sys::MilletExperts,
}

impl<'a> Prepared<'a> {
    fn new<T: Element>(
        cuda: &'a Cuda,
        operation: &'static str,
        plan: &'a Plan<Cuda>,
        tickets: CudaViewMut<'a, T::Acc>,
    ) -> Result<Self> {
        let (config, tokens, map) = (plan.config(), plan.tokens(), plan.map());
        let tiles = plan.row_tiles();
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let mut launch = Launch::new(cuda, operation);
        let (top_k_multiplier, top_k_shift) = divider(config.top_k());
        let parameters = sys::MilletExperts {
            // A configuration's sizes are below 2²¹.
            hidden: hidden as i32,
            inner: inner as i32,
            experts: config.num_experts() as i32,
            top_k_multiplier,
            top_k_shift,
            tile_rows: tiles.height as i32,
            row_tiles_bound: tiles.most as u32,
            column_tiles: 0,
            column_band: 0,
            tf32: (cuda.f32_products == F32Products::Tf32).into(),
            activation: activation(config.activation()),
            max_rows: config.max_rows(tokens) as i64,
            assignments: (tokens * config.top_k()) as i64,
            offsets: launch.read("offsets", map.offsets, 4)?,
            row_to_assignment: launch.read("row_to_assignment", map.row_to_assignment, 4)?,
            assignment_to_row: launch.read("assignment_to_row", map.assignment_to_row, 4)?,
            row_tiles: launch.read("row_tiles", map.row_tiles, 8)?,
            tokens: ptr::null(),
            weight: ptr::null(),
            bias: ptr::null(),
            rows_in: ptr::null(),
            rows_out: ptr::null_mut(),
            h: ptr::null_mut(),
            weights: ptr::null(),
            weights_grad: ptr::null_mut(),
            dots: ptr::null_mut(),
            grad: ptr::null_mut(),
            grad_sum: ptr::null_mut(),
            // As the combine reads what lies behind them, so that it is refused here.
            tickets: launch.write("scratch", tickets, VECTOR)?.cast(),
        };
        Ok(Self {
            launch,
            plan,
            storage: Storage::new(T::DTYPE, hidden, inner),
            parameters,
        })
    }

    fn read<T: Element>(
        &mut self,
        tensor: &'static str,
        view: View<'a, T>,
    ) -> Result<*const c_void> {
        let alignment = alignment(T::DTYPE, self.storage.aligned);
        Ok(self.launch.read(tensor, view, alignment)?.cast())
    }

    fn write<T: Element>(
        &mut self,
        tensor: &'static str,
        view: CudaViewMut<'a, T>,
    ) -> Result<*mut c_void> {
        let alignment = alignment(T::DTYPE, self.storage.aligned);
        Ok(self.launch.write(tensor, view, alignment)?.cast())
    }

    /// Where a weight's gradient goes.
    fn gradient<'g: 'a, T: Element>(&mut self, grad: WeightGradOf<'g, Cuda, T>) -> Result<()> {
        let aligned = self.storage.aligned;
        // The tiles are those of the storage type, so pairs of f32 are what is read at a time.
        let alignments = [alignment(T::DTYPE, aligned), if aligned { 8 } else { 4 }];
        (self.parameters.grad, self.parameters.grad_sum) =
            gradient(&mut self.launch, "weight gradient", grad, alignments)?;
        Ok(())
    }

    /// For a product of the plan's rows, of `columns` columns as its tiles count them.
    fn rows_kernel<T: Element>(
        &mut self,
        operation: Operation,
        columns: usize,
    ) -> Result<ProductKernel> {
        let (config, tokens) = (self.plan.config(), self.plan.tokens());
        let shape = RowProduct {
            operation,
            columns,
            row_tiles: self.plan.row_tiles(),
            rows_per_expert: config.max_rows(tokens).div_ceil(config.num_experts()),
        };
        let kernels = &self.launch.cuda().kernels;
        let products = kernels.architecture.products();
        let tiles = products.rows(self.storage, kernels.multiprocessors, shape);
        self.kernel::<T>(operation, tiles)
    }

    /// For the gradient of a weight [rows, columns] of each expert.
    fn weights_kernel<T: Element>(
        &mut self,
        operation: Operation,
        [rows, columns]: [usize; 2],
    ) -> Result<ProductKernel> {
        let shape = WeightGradient {
            operation,
            rows,
            columns,
            experts: self.plan.config().num_experts(),
        };
        let kernels = &self.launch.cuda().kernels;
        let products = kernels.architecture.products();
        let tiles = products.weights(self.storage, kernels.multiprocessors, shape);
        self.kernel::<T>(operation, tiles)
    }

    /// Refuses what the kernels cannot do; tells them the order of the tiles.
    fn kernel<T: Element>(&mut self, operation: Operation, tiles: Tiling) -> Result<ProductKernel> {
        // Kernels count tiles in 32 bits, and a block's next may be a whole wave past the last.
        if tiles.tiles.saturating_add(tiles.blocks) > i32::MAX as usize {
            return Err(Error::Unsupported {
                operation: self.launch.operation(),
                reason: format!("{} tiles, over the limit {}", tiles.tiles, i32::MAX),
            });
        }
        self.parameters.column_tiles = tiles.column_tiles as u32;
        self.parameters.column_band = tiles.column_band as u32;
        let kernel = self.launch.kernel(operation, tiles.tile, T::DTYPE)?;
        Ok(ProductKernel { kernel, tiles })
    }

    /// Submits a product of this plan.
    ///
    /// # Safety
    /// The parameters must be complete, with tensors as large as the kernel takes them to be.
    unsafe fn run(&self, ProductKernel { kernel, tiles }: ProductKernel) -> Result<()> {
        if tiles.blocks == 0 {
            return Ok(());
        }
        // SAFETY: by this function's contract; the tickets are a word of the scratch.
        unsafe {
            self.launch
                .clear(self.parameters.tickets, size_of::<u32>())?;
            self.launch.run(
                kernel,
                [tiles.blocks, 1, 1],
                tiles.threads,
                tiles.shared_bytes,
                &self.parameters,
            )
        }
    }
}

/// A product's kernel, and how it is launched.
struct ProductKernel {
    kernel: Kernel,
    tiles: Tiling,
}

/// Where a gradient goes, one address being null: overwritten in the storage type, or added to in f32. `alignments` of the one and of
/// the other.
fn gradient<'a, T: Element>(
    launch: &mut Launch<'a>,
    tensor: &'static str,
    grad: WeightGradOf<'a, Cuda, T>,
    alignments: [usize; 2],
) -> Result<(*mut c_void, *mut f32)> {
    Ok(match grad {
        WeightGrad::Overwrite(view) => {
            let address = launch.write(tensor, view, alignments[0])?;
            (address.cast(), ptr::null_mut())
        }
        WeightGrad::Accumulate(view) => {
            let address = launch.write(tensor, view, alignments[1])?;
            (ptr::null_mut(), address.cast())
        }
    })
}

/// The scratch of an operation on this plan, behind the tickets.
fn split_scratch<'s, T: Element>(
    cuda: &Cuda,
    operation: &'static str,
    plan: &Plan<Cuda>,
    scratch: &'s mut CudaViewMut<'_, T::Acc>,
) -> Result<[CudaViewMut<'s, T::Acc>; 2]> {
    let need = scratch_elements::<T>(plan.config(), plan.tokens(), cuda.kernels.shared_limit);
    check::workspace(operation, scratch.len(), need)?;
    let (tickets, rest) = scratch.split_at_mut(tickets_elements::<T>());
    Ok([tickets, rest])
}

/// The product [R, H] itself.
fn product_rows<'s, T: Element>(
    plan: &Plan<Cuda>,
    product: &'s mut CudaViewMut<'_, T::Acc>,
) -> CudaViewMut<'s, T> {
    let elements = plan.config().max_rows(plan.tokens()) * plan.config().hidden_size();
    // SAFETY: any bits are an element, and kernels write them before they are read.
    unsafe { product.transmute_mut::<T>(elements) }.expect("scratch_elements counts them")
}

/// What the kernels of the biases need, without tensors.
fn bias_parameters<T: Element>(plan: &Plan<Cuda>) -> sys::MilletExpertBias {
    let config = plan.config();
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let vectorized = Storage::new(T::DTYPE, hidden, inner).aligned;
    let columns = match vectorized {
        true => sys::MILLET_BIAS_BYTES as usize / size_of::<T>(),
        false => sys::MILLET_BIAS_ELEMENTS as usize,
    };
    sys::MilletExpertBias {
        tokens: plan.tokens() as i64,
        top_k: config.top_k() as i32,
        hidden: hidden as i32,
        inner: inner as i32,
        experts: config.num_experts() as i32,
        vectorized: vectorized.into(),
        gate_up_blocks: (2 * inner).div_ceil(columns) as i32,
        down_blocks: hidden.div_ceil(columns) as i32,
        offsets: ptr::null(),
        row_to_assignment: ptr::null(),
        assignment_to_row: ptr::null(),
        output_grad: ptr::null(),
        h_grad: ptr::null(),
        down_bias: ptr::null(),
        weights: ptr::null(),
        weights_grad: ptr::null_mut(),
        gate_up_grad: ptr::null_mut(),
        gate_up_grad_sum: ptr::null_mut(),
        down_grad: ptr::null_mut(),
        down_grad_sum: ptr::null_mut(),
    }
}

impl Experts for Cuda {
    fn run_experts_up<T: Element>(&self, arguments: Checked<ExpertsUp<'_, Self, T>>) -> Result<()> {
        const OPERATION: &str = ops::experts::UP;
        let ExpertsUp {
            plan,
            x,
            gate_up,
            bias,
            h,
            a,
            mut scratch,
        } = arguments.into_inner();
        let [tickets, _] = split_scratch::<T>(self, OPERATION, plan, &mut scratch)?;
        let mut up = Prepared::new::<T>(self, OPERATION, plan, tickets)?;
        up.parameters.tokens = up.read("x", x)?;
        up.parameters.weight = up.read("gate_up", gate_up)?;
        if let Some(bias) = bias {
            up.parameters.bias = up.read("gate_up bias", bias)?;
        }
        up.parameters.rows_out = up.write("a", a)?;
        if let Some(h) = h {
            up.parameters.h = up.write("h", h)?;
        }
        // A tile has both columns of a pair.
        let columns = 2 * plan.config().intermediate_size();
        let kernel = up.rows_kernel::<T>(Operation::ExpertsUp, columns)?;
        // SAFETY: lengths are checked; the plan is as dispatch makes it.
        unsafe { up.run(kernel) }
    }

    fn run_experts_down<T: Element>(
        &self,
        arguments: Checked<ExpertsDown<'_, Self, T>>,
    ) -> Result<()> {
        const OPERATION: &str = ops::experts::DOWN;
        let ExpertsDown {
            plan,
            a,
            down,
            bias,
            weights,
            output,
            mut scratch,
        } = arguments.into_inner();
        let [tickets, mut scratch] = split_scratch::<T>(self, OPERATION, plan, &mut scratch)?;
        let mut weighed = product_rows::<T>(plan, &mut scratch);
        let combine = Gather::new(self, OPERATION, plan, ("output", output))?;
        {
            let mut product = Prepared::new::<T>(self, OPERATION, plan, tickets)?;
            product.parameters.rows_in = product.read("a", a)?;
            product.parameters.weight = product.read("down", down)?;
            if let Some(bias) = bias {
                product.parameters.bias = product.read("down bias", bias)?;
            }
            product.parameters.weights = product.launch.read("weights", weights, 4)?.cast();
            product.parameters.rows_out = product.write("scratch", weighed.slice_mut(..))?;
            let columns = plan.config().hidden_size();
            let kernel = product.rows_kernel::<T>(Operation::ExpertsDown, columns)?;
            // SAFETY: lengths are checked; the plan is as dispatch makes it.
            unsafe { product.run(kernel) }?;
        }
        combine.sum(("scratch", View::from(&weighed.as_view())))
    }

    fn run_experts_down_backward<T: Element>(
        &self,
        arguments: Checked<ExpertsDownBackward<'_, Self, T>>,
    ) -> Result<()> {
        const OPERATION: &str = ops::experts::DOWN_BACKWARD;
        let ExpertsDownBackward {
            plan,
            output_grad,
            down,
            bias,
            weights,
            h,
            weighted_a,
            weights_grad,
            mut scratch,
        } = arguments.into_inner();
        let [tickets, dots] = split_scratch::<T>(self, OPERATION, plan, &mut scratch)?;
        let mut backward = Prepared::new::<T>(self, OPERATION, plan, tickets)?;
        backward.parameters.tokens = backward.read("output_grad", output_grad)?;
        backward.parameters.weight = backward.read("down", down)?;
        backward.parameters.weights = backward.launch.read("weights", weights, 4)?.cast();
        backward.parameters.h = backward.write("h", h)?;
        backward.parameters.rows_out = backward.write("weighted_a", weighted_a)?;
        let weights_grad = backward.launch.write("weights_grad", weights_grad, 4)?;
        backward.parameters.weights_grad = weights_grad.cast();
        backward.parameters.dots = backward.launch.write("scratch", dots, 4)?.cast();
        // All that can be refused, before anything is written.
        let columns = plan.config().intermediate_size();
        let product = backward.rows_kernel::<T>(Operation::ExpertsDownBackward, columns)?;
        let sums = backward.launch.untyped(Operation::ExpertsWeightsGrad)?;
        if let Some(bias) = bias {
            // Not read, but its part of the weights' gradients is there already.
            backward.parameters.bias = backward.read("down bias", bias)?;
            let launch = &backward.launch;
            let dots = launch.kernel(Operation::ExpertsBiasDots, Tile::Only, T::DTYPE)?;
            let parameters = sys::MilletExpertBias {
                offsets: backward.parameters.offsets,
                assignment_to_row: backward.parameters.assignment_to_row,
                output_grad: backward.parameters.tokens,
                down_bias: backward.parameters.bias,
                weights_grad: backward.parameters.weights_grad,
                ..bias_parameters::<T>(plan)
            };
            let grid = [plan.tokens().div_ceil(THREADS / 32), 1, 1];
            // SAFETY: lengths are checked; the plan is as dispatch makes it.
            unsafe { launch.run(dots, grid, THREADS, 0, &parameters) }?;
        }
        // Never fewer than rows.
        let assignments = plan.tokens() * plan.config().top_k();
        let grid = [assignments.div_ceil(THREADS), 1, 1];
        // SAFETY: lengths are checked; the plan is as dispatch makes it.
        unsafe {
            backward.run(product)?;
            backward
                .launch
                .run(sums, grid, THREADS, 0, &backward.parameters)
        }
    }

    fn run_experts_down_weight_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsDownWeightGrad<'_, Self, T>>,
    ) -> Result<()> {
        const OPERATION: &str = ops::experts::DOWN_WEIGHT_GRAD;
        let ExpertsDownWeightGrad {
            plan,
            output_grad,
            weighted_a,
            grad,
            mut scratch,
        } = arguments.into_inner();
        let [tickets, _] = split_scratch::<T>(self, OPERATION, plan, &mut scratch)?;
        let mut product = Prepared::new::<T>(self, OPERATION, plan, tickets)?;
        product.parameters.tokens = product.read("output_grad", output_grad)?;
        product.parameters.rows_in = product.read("weighted_a", weighted_a)?;
        product.gradient(grad)?;
        let config = plan.config();
        let shape = [config.hidden_size(), config.intermediate_size()];
        let kernel = product.weights_kernel::<T>(Operation::ExpertsDownWeightGrad, shape)?;
        // SAFETY: lengths are checked; the plan is as dispatch makes it.
        unsafe { product.run(kernel) }
    }

    fn run_experts_up_weight_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsUpWeightGrad<'_, Self, T>>,
    ) -> Result<()> {
        const OPERATION: &str = ops::experts::UP_WEIGHT_GRAD;
        let ExpertsUpWeightGrad {
            plan,
            x,
            h_grad,
            grad,
            mut scratch,
        } = arguments.into_inner();
        let [tickets, _] = split_scratch::<T>(self, OPERATION, plan, &mut scratch)?;
        let mut product = Prepared::new::<T>(self, OPERATION, plan, tickets)?;
        product.parameters.tokens = product.read("x", x)?;
        product.parameters.rows_in = product.read("h_grad", h_grad)?;
        product.gradient(grad)?;
        let config = plan.config();
        let shape = [2 * config.intermediate_size(), config.hidden_size()];
        let kernel = product.weights_kernel::<T>(Operation::ExpertsUpWeightGrad, shape)?;
        // SAFETY: lengths are checked; the plan is as dispatch makes it.
        unsafe { product.run(kernel) }
    }

    fn run_experts_bias_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsBiasGrad<'_, Self, T>>,
    ) -> Result<()> {
        let ExpertsBiasGrad {
            plan,
            h_grad,
            output_grad,
            weights,
            gate_up,
            down,
        } = arguments.into_inner();
        let (config, map) = (plan.config(), plan.map());
        let mut launch = Launch::new(self, ops::experts::BIAS_GRAD);
        let kernel = launch.kernel(Operation::ExpertsBiasGrad, Tile::Only, T::DTYPE)?;
        let mut parameters = bias_parameters::<T>(plan);
        let alignment = alignment(T::DTYPE, parameters.vectorized != 0);
        parameters.offsets = launch.read("offsets", map.offsets, 4)?;
        parameters.row_to_assignment =
            launch.read("row_to_assignment", map.row_to_assignment, 4)?;
        parameters.h_grad = launch.read("h_grad", h_grad, alignment)?.cast();
        parameters.output_grad = launch.read("output_grad", output_grad, alignment)?.cast();
        parameters.weights = launch.read("weights", weights, 4)?.cast();
        let alignments = [size_of::<T>(), size_of::<f32>()];
        (parameters.gate_up_grad, parameters.gate_up_grad_sum) =
            gradient(&mut launch, "gate_up bias gradient", gate_up, alignments)?;
        (parameters.down_grad, parameters.down_grad_sum) =
            gradient(&mut launch, "down bias gradient", down, alignments)?;
        let blocks = (parameters.gate_up_blocks + parameters.down_blocks) as usize;
        let grid = [blocks * config.num_experts(), 1, 1];
        // SAFETY: lengths are checked; the plan is as dispatch makes it.
        unsafe { launch.run(kernel, grid, THREADS, 0, &parameters) }
    }

    fn run_experts_input_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<ExpertsInputGrad<'_, Self, T, W>>,
    ) -> Result<()> {
        const OPERATION: &str = ops::experts::INPUT_GRAD;
        let ExpertsInputGrad {
            plan,
            h_grad,
            gate_up,
            router,
            x_grad,
            mut scratch,
        } = arguments.into_inner();
        let [tickets, mut scratch] = split_scratch::<T>(self, OPERATION, plan, &mut scratch)?;
        let mut rows_grad = product_rows::<T>(plan, &mut scratch);
        let combine = InputGrad::new(self, OPERATION, plan, router, ("x_grad", x_grad))?;
        {
            let mut product = Prepared::new::<T>(self, OPERATION, plan, tickets)?;
            product.parameters.rows_in = product.read("h_grad", h_grad)?;
            product.parameters.weight = product.read("gate_up", gate_up)?;
            product.parameters.rows_out = product.write("scratch", rows_grad.slice_mut(..))?;
            let columns = plan.config().hidden_size();
            let kernel = product.rows_kernel::<T>(Operation::ExpertsInputGrad, columns)?;
            // SAFETY: lengths are checked; the plan is as dispatch makes it.
            unsafe { product.run(kernel) }?;
        }
        combine.sum(("scratch", View::from(&rows_grad.as_view())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division() {
        let quotient = |n: u32, (multiplier, shift): (u32, u32)| {
            let high = ((u64::from(n) * u64::from(multiplier)) >> 32) as u32;
            (high + n) >> shift
        };
        for divisor in 1..=64usize {
            let magic = divider(divisor);
            let d = divisor as u32;
            let largest = i32::MAX as u32;
            let near = |multiple: u32| [multiple.wrapping_sub(1), multiple, multiple + 1];
            let multiples = (0..5000).chain([largest / d, largest / d - 1, (1 << 30) / d]);
            for n in multiples.flat_map(|m| near(m * d)).chain([largest]) {
                if n <= largest {
                    assert_eq!(quotient(n, magic), n / d, "{n} / {d}");
                }
            }
        }
    }
}
