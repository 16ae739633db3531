//! Experts: grouped products with an activation between them, forward and backward.
//!
//! h = x·gate_upᵀ, with its bias, is rounded to the storage type; a (`activation.rs`) is made from the rounded h, and rounded, wherever
//! it appears, so forward and backward see the same a. w·y, w·a, dh and dX̃ are rounded once, when they would be stored; dA' never is.

use std::ops::Range;

use half::bf16;
use pulp::Arch;

use super::combine::combine_token;
use super::parallel::{self, Disjoint, Inlined, Scratch, locate};
use super::product::{Matrix, Store, padded, product};
use super::{Cpu, GradTarget, activation, router};
use crate::check;
use crate::config::MoeConfig;
use crate::element::{Element, Real, row_sum};
use crate::error::Result;
use crate::ops::{
    self, Checked, Experts, ExpertsBiasGrad, ExpertsDown, ExpertsDownBackward,
    ExpertsDownWeightGrad, ExpertsInputGrad, ExpertsUp, ExpertsUpWeightGrad, Plan, RouterPart,
    RowMap, WeightGradOf,
};

/// Rows of an expert that one task multiplies.
const PANEL: usize = 256;
/// Rows of an expert that a weight gradient adds at a time, and columns of H that one of its tasks owns.
const GRAD_ROWS: usize = 512;
const GRAD_COLUMNS: usize = 256;

/// Tokens combined by one task: enough that an expert has about 64 rows among them, few enough that their K rows stay
/// small beside what a layer saves.
fn block_tokens(config: &MoeConfig) -> usize {
    (64 * config.num_experts())
        .div_ceil(config.top_k())
        .clamp(64, 1024)
}

/// Elements of an expert's weight that are widened at a time, about: enough for a product to be worth its start, few enough
/// to stay in cache.
const WEIGHT_BLOCK: usize = 1 << 20;
/// Columns of h, or of a, that a weight gradient's task owns at most.
const GRAD_INNER: usize = 4096;

/// Scratch of every operation of this file.
pub(crate) fn scratch<T: Element>(config: &MoeConfig, tokens: usize) -> [Scratch; 4] {
    [
        up_scratch::<T>(config, tokens),
        CombineLayout::new::<T>(config, tokens).scratch(tokens),
        down_backward_scratch::<T>(config, tokens),
        weight_grad_scratch::<T>(config, tokens),
    ]
}

/// Most rows of a panel of up to `limit`: an expert has no more than there are in all.
fn panel_rows(config: &MoeConfig, tokens: usize, limit: usize) -> usize {
    limit.min(config.max_rows(tokens))
}

/// Most panels that [`for_each_panel`] makes.
fn max_panels(config: &MoeConfig, tokens: usize) -> usize {
    let rows = config.max_rows(tokens);
    rows.min(rows / PANEL + config.num_experts())
}

/// Rows of a block of a weight [rows, columns].
fn block_rows<W: Element>(rows: usize, columns: usize) -> usize {
    if W::widen_scratch(1) == 0 {
        return rows;
    }
    // Whole tiles of the products.
    let block = (WEIGHT_BLOCK / columns / 48 * 48).max(48);
    if rows * columns <= WEIGHT_BLOCK {
        rows
    } else {
        block.min(rows)
    }
}

/// Scratch of [`for_each_block`].
fn block_scratch<W: Element>(rows: usize, columns: usize) -> usize {
    padded(W::widen_scratch(block_rows::<W>(rows, columns) * columns))
}

/// Runs `each(first row, block)` for every block of rows of a weight [rows, columns], in order. Widened whole, an expert of
/// Mixtral-8x22B would take 800 MB.
fn for_each_block<W: Element>(
    weight: &[W],
    columns: usize,
    scratch: &mut [W::Acc],
    mut each: impl FnMut(usize, Matrix<'_, W::Acc>),
) {
    let rows = block_rows::<W>(weight.len() / columns, columns);
    for (index, block) in weight.chunks(rows * columns).enumerate() {
        let count = block.len() / columns;
        let block = Matrix::new(W::widen_slice(block, scratch), count, columns);
        each(index * rows, block);
    }
}

/// `out` = `a`·`weight`, `weight` [a's columns, columns] a block of rows at a time: `out` takes up the sums in row order.
/// `a` is [rows, weight's rows].
fn product_by_rows<W: Element>(
    out: &mut [W::Acc],
    a: &[W::Acc],
    rows: usize,
    weight: &[W],
    columns: usize,
    scratch: &mut [W::Acc],
) {
    let reduction = weight.len() / columns;
    for_each_block(weight, columns, scratch, |first, block| {
        let a = Matrix::with_stride(&a[first..], rows, block.rows(), reduction);
        let store = match first {
            0 => Store::Overwrite,
            _ => Store::Add,
        };
        product(out, columns, store, a, block);
    });
}

/// `out` = `a`·`weight`ᵀ, `weight` [out's columns, reduction] a block of rows, which are `out`'s columns, at a time.
fn product_by_columns<W: Element>(
    out: &mut [W::Acc],
    a: &[W::Acc],
    rows: usize,
    weight: &[W],
    reduction: usize,
    scratch: &mut [W::Acc],
) {
    let columns = weight.len() / reduction;
    for_each_block(weight, reduction, scratch, |first, block| {
        let a = Matrix::new(a, rows, reduction);
        product(&mut out[first..], columns, Store::Overwrite, a, block.t());
    });
}

/// Columns `first..first + columns` of `rows` [count, stride] in the accumulation type.
fn widen_columns<'s, T: Element>(
    rows: &'s [T],
    stride: usize,
    first: usize,
    columns: usize,
    scratch: &'s mut [T::Acc],
) -> Matrix<'s, T::Acc> {
    let count = rows.len() / stride;
    if T::widen_scratch(1) == 0 {
        let rows = T::widen_slice(rows, scratch);
        return Matrix::with_stride(&rows[first..], count, columns, stride);
    }
    let scratch = &mut scratch[..count * columns];
    for (row, out) in rows
        .chunks_exact(stride)
        .zip(scratch.chunks_exact_mut(columns))
    {
        T::widen_into(&row[first..first + columns], out);
    }
    Matrix::new(scratch, count, columns)
}

/// Rows of expert `e`.
fn rows_of(map: &RowMap<'_, Cpu>, e: usize) -> Range<usize> {
    map.offsets[e] as usize..map.offsets[e + 1] as usize
}

/// Runs `task(expert, rows, scratch)` for every panel of every expert's rows.
fn for_each_panel<A: Send>(
    config: &MoeConfig,
    map: &RowMap<'_, Cpu>,
    scratch: &mut [A],
    lane: usize,
    task: impl Fn(usize, Range<usize>, &mut [A]) + Sync,
) {
    let experts = config.num_experts();
    let panels = |e: usize| rows_of(map, e).len().div_ceil(PANEL);
    let tasks = (0..experts).map(panels).sum();
    parallel::for_each(tasks, scratch, lane, |index, scratch| {
        let (e, panel) = locate(index, experts, panels);
        let rows = rows_of(map, e);
        let first = rows.start + panel * PANEL;
        task(e, first..rows.end.min(first + PANEL), scratch);
    });
}

/// The tokens' rows (of `columns`, from `first` on) of a panel, gathered and widened.
fn gather<T: Element>(
    config: &MoeConfig,
    source: &[T],
    first: usize,
    columns: usize,
    assignments: &[i32],
    out: &mut [T::Acc],
) {
    let hidden = config.hidden_size();
    for (out, &assignment) in out.chunks_exact_mut(columns).zip(assignments) {
        let start = assignment as usize / config.top_k() * hidden + first;
        T::widen_into(&source[start..start + columns], out);
    }
}

fn up_scratch<T: Element>(config: &MoeConfig, tokens: usize) -> Scratch {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let rows = panel_rows(config, tokens, PANEL);
    Scratch {
        shared: 0,
        lane: padded(rows * hidden)
            + padded(rows * 2 * inner)
            + block_scratch::<T>(2 * inner, hidden),
        tasks: max_panels(config, tokens),
    }
}

impl Experts for Cpu {
    fn run_experts_up<T: Element>(&self, arguments: Checked<ExpertsUp<'_, Self, T>>) -> Result<()> {
        let ExpertsUp {
            plan,
            x,
            gate_up,
            bias,
            h,
            a,
            scratch,
        } = arguments.into_inner();
        let (config, tokens, map) = (plan.config(), plan.tokens(), plan.map());
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let need = up_scratch::<T>(config, tokens);
        check::workspace(ops::experts::UP, scratch.len(), need.least())?;

        let most_rows = panel_rows(config, tokens, PANEL);
        let (h, a) = (h.map(Disjoint::new), Disjoint::new(a));
        let arch = Arch::new();
        for_each_panel(config, &map, scratch, need.lane, |e, rows, scratch| {
            let (x_panel, scratch) = scratch.split_at_mut(padded(most_rows * hidden));
            let (h_panel, scratch) = scratch.split_at_mut(padded(most_rows * 2 * inner));
            gather(
                config,
                x,
                0,
                hidden,
                &map.row_to_assignment[rows.clone()],
                x_panel,
            );
            let weight = &gate_up[e * 2 * inner * hidden..(e + 1) * 2 * inner * hidden];
            product_by_columns(h_panel, x_panel, rows.len(), weight, hidden, scratch);

            // SAFETY: panels do not overlap.
            let a = unsafe { a.part(rows.start * inner, rows.len() * inner) };
            arch.dispatch(Inlined(
                #[inline(always)]
                || {
                    for (h, a) in h_panel
                        .chunks_exact_mut(2 * inner)
                        .zip(a.chunks_exact_mut(inner))
                    {
                        add::<T>(h, bias.map(|bias| &bias[e * 2 * inner..]));
                        round::<T>(h);
                        activation::forward(config.activation(), h, a);
                    }
                },
            ));
            if let Some(h) = &h {
                // SAFETY: panels do not overlap.
                let h = unsafe { h.part(rows.start * 2 * inner, rows.len() * 2 * inner) };
                T::narrow_into(&h_panel[..h.len()], h);
            }
        });
        Ok(())
    }

    fn run_experts_down<T: Element>(
        &self,
        arguments: Checked<ExpertsDown<'_, Self, T>>,
    ) -> Result<()> {
        let ExpertsDown {
            plan,
            a,
            down,
            bias,
            weights,
            output,
            scratch,
        } = arguments.into_inner();
        let inner = plan.config().intermediate_size();
        let need = CombineLayout::of::<T>(plan);
        check::workspace(ops::experts::DOWN, scratch.len(), need.least())?;

        let map = plan.map();
        let weight = |row: usize| weights[map.row_to_assignment[row] as usize];
        let product = ExpertProduct {
            rows: a,
            inner,
            weight: down,
            bias,
            multiply: |out: &mut _, rows: &_, count, weight: &_, scratch: &mut _| {
                product_by_columns::<T>(out, rows, count, weight, inner, scratch);
            },
        };
        let no_residual = None::<RouterPart<'_, Self, T::Acc>>;
        product_combine(plan, product, weight, no_residual, output, scratch);
        Ok(())
    }

    fn run_experts_down_backward<T: Element>(
        &self,
        arguments: Checked<ExpertsDownBackward<'_, Self, T>>,
    ) -> Result<()> {
        let ExpertsDownBackward {
            plan,
            output_grad,
            down,
            bias,
            weights,
            h,
            weighted_a,
            weights_grad,
            scratch,
        } = arguments.into_inner();
        let (config, tokens, map) = (plan.config(), plan.tokens(), plan.map());
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let need = down_backward_scratch::<T>(config, tokens);
        check::workspace(ops::experts::DOWN_BACKWARD, scratch.len(), need.least())?;

        let (row_grads, scratch) = scratch.split_at_mut(need.shared);
        let most_rows = panel_rows(config, tokens, PANEL);
        {
            let (h, weighted_a) = (Disjoint::new(h), Disjoint::new(weighted_a));
            let row_grads = Disjoint::new(row_grads);
            let arch = Arch::new();
            for_each_panel(config, &map, scratch, need.lane, |e, rows, scratch| {
                let (grad_panel, scratch) = scratch.split_at_mut(padded(most_rows * hidden));
                let (a_grads, scratch) = scratch.split_at_mut(padded(most_rows * inner));
                let (h_row, scratch) = scratch.split_at_mut(padded(2 * inner));
                let assignments = &map.row_to_assignment[rows.clone()];
                gather(config, output_grad, 0, hidden, assignments, grad_panel);
                let weight = &down[e * hidden * inner..(e + 1) * hidden * inner];
                product_by_rows(a_grads, grad_panel, rows.len(), weight, inner, scratch);

                // SAFETY: panels do not overlap.
                let (h, weighted_a, row_grads) = unsafe {
                    (
                        h.part(rows.start * 2 * inner, rows.len() * 2 * inner),
                        weighted_a.part(rows.start * inner, rows.len() * inner),
                        row_grads.part(rows.start, rows.len()),
                    )
                };
                let h_row = &mut h_row[..2 * inner];
                arch.dispatch(Inlined(
                    #[inline(always)]
                    || {
                        for (row, &assignment) in assignments.iter().enumerate() {
                            row_grads[row] = activation::backward(
                                config.activation(),
                                weights[assignment as usize],
                                &mut a_grads[row * inner..(row + 1) * inner],
                                &mut h[row * 2 * inner..(row + 1) * 2 * inner],
                                &mut weighted_a[row * inner..(row + 1) * inner],
                                h_row,
                            );
                            if let Some(bias) = bias {
                                let grad = &grad_panel[row * hidden..(row + 1) * hidden];
                                row_grads[row] += dot(grad, &bias[e * hidden..]);
                            }
                        }
                    },
                ));
            });
        }
        for (grad, &row) in weights_grad.iter_mut().zip(map.assignment_to_row) {
            *grad = usize::try_from(row).map_or(T::Acc::ZERO, |row| row_grads[row]);
        }
        Ok(())
    }

    fn run_experts_down_weight_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsDownWeightGrad<'_, Self, T>>,
    ) -> Result<()> {
        let ExpertsDownWeightGrad {
            plan,
            output_grad,
            weighted_a,
            grad,
            scratch,
        } = arguments.into_inner();
        let (hidden, inner) = (
            plan.config().hidden_size(),
            plan.config().intermediate_size(),
        );
        let need = weight_grad_scratch::<T>(plan.config(), plan.tokens());
        check::workspace(ops::experts::DOWN_WEIGHT_GRAD, scratch.len(), need.least())?;

        let grad = GradTarget::new(grad);
        weight_grad(
            plan,
            output_grad,
            weighted_a,
            inner,
            scratch,
            |part, x, rows, sum| match rows {
                Some(rows) => product(sum, part.inner.len(), Store::Add, x.t(), rows),
                None => {
                    let rows = sum.chunks_exact(part.inner.len());
                    for (column, row) in part.hidden.clone().zip(rows) {
                        let start = (part.expert * hidden + column) * inner + part.inner.start;
                        // SAFETY: tasks differ in expert or part.
                        unsafe { grad.store(start, row) };
                    }
                }
            },
        );
        Ok(())
    }

    fn run_experts_up_weight_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsUpWeightGrad<'_, Self, T>>,
    ) -> Result<()> {
        let ExpertsUpWeightGrad {
            plan,
            x,
            h_grad,
            grad,
            scratch,
        } = arguments.into_inner();
        let (hidden, inner) = (
            plan.config().hidden_size(),
            2 * plan.config().intermediate_size(),
        );
        let need = weight_grad_scratch::<T>(plan.config(), plan.tokens());
        check::workspace(ops::experts::UP_WEIGHT_GRAD, scratch.len(), need.least())?;

        let grad = GradTarget::new(grad);
        weight_grad(
            plan,
            x,
            h_grad,
            inner,
            scratch,
            |part, x, rows, sum| match rows {
                Some(rows) => product(sum, part.hidden.len(), Store::Add, rows.t(), x),
                None => {
                    let rows = sum.chunks_exact(part.hidden.len());
                    for (column, row) in part.inner.clone().zip(rows) {
                        let start = (part.expert * inner + column) * hidden + part.hidden.start;
                        // SAFETY: tasks differ in expert or part.
                        unsafe { grad.store(start, row) };
                    }
                }
            },
        );
        Ok(())
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
        let (hidden, inner) = (config.hidden_size(), 2 * config.intermediate_size());
        sum_rows::<T>(config, &map, inner, gate_up, |row, columns, sum| {
            let row = &h_grad[row * inner..(row + 1) * inner];
            for (sum, grad) in sum.iter_mut().zip(&row[columns]) {
                *sum += grad.widen();
            }
        });
        sum_rows::<T>(config, &map, hidden, down, |row, columns, sum| {
            let assignment = map.row_to_assignment[row] as usize;
            let (token, weight) = (assignment / config.top_k(), weights[assignment]);
            if weight == T::Acc::ZERO {
                return;
            }
            let row = &output_grad[token * hidden..(token + 1) * hidden];
            for (sum, grad) in sum.iter_mut().zip(&row[columns]) {
                *sum += weight * grad.widen();
            }
        });
        Ok(())
    }

    fn run_experts_input_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<ExpertsInputGrad<'_, Self, T, W>>,
    ) -> Result<()> {
        let ExpertsInputGrad {
            plan,
            h_grad,
            gate_up,
            router,
            x_grad,
            scratch,
        } = arguments.into_inner();
        let (hidden, inner) = (
            plan.config().hidden_size(),
            2 * plan.config().intermediate_size(),
        );
        let need = CombineLayout::of::<T>(plan);
        check::workspace(ops::experts::INPUT_GRAD, scratch.len(), need.least())?;

        // A dh of 0 gives 0, whatever the weight.
        let one_or_zero = |row: usize| match is_zero(&h_grad[row * inner..(row + 1) * inner]) {
            true => T::Acc::ZERO,
            false => T::Acc::ONE,
        };
        let product = ExpertProduct {
            rows: h_grad,
            inner,
            weight: gate_up,
            bias: None,
            multiply: |out: &mut _, rows: &_, count, weight: &_, scratch: &mut _| {
                product_by_rows::<T>(out, rows, count, weight, hidden, scratch);
            },
        };
        product_combine(plan, product, one_or_zero, Some(router), x_grad, scratch);
        Ok(())
    }
}

/// Adds the first elements of a bias to a row.
#[inline(always)]
fn add<T: Element>(row: &mut [T::Acc], bias: Option<&[T]>) {
    for (value, bias) in row.iter_mut().zip(bias.unwrap_or(&[])) {
        *value += bias.widen();
    }
}

/// ⟨row, the first elements of a bias⟩.
#[inline(always)]
fn dot<T: Element>(row: &[T::Acc], bias: &[T]) -> T::Acc {
    row_sum(
        row.iter()
            .zip(bias)
            .map(|(&value, bias)| value * bias.widen()),
    )
}

/// To the storage type and back.
#[inline(always)]
fn round<T: Element>(values: &mut [T::Acc]) {
    if T::widen_scratch(1) > 0 {
        for value in values {
            *value = T::narrow(*value).widen();
        }
    }
}

/// A weight of 0 gives 0, whatever the values.
#[inline(always)]
fn weigh<A: Real>(weight: A, values: &mut [A]) {
    if weight == A::ZERO {
        return values.fill(A::ZERO);
    }
    for value in values {
        *value = weight * *value;
    }
}

/// Is a row exactly 0?
fn is_zero<T: Element>(row: &[T]) -> bool {
    row.iter().all(|v| v.widen() == T::Acc::ZERO)
}

/// Pieces of a lane's scratch for [`product_combine`].
struct CombineLayout {
    block: usize,
    products: usize,
    places: usize,
    residual: usize,
    panel: usize,
    weight: usize,
    lane: usize,
}

impl CombineLayout {
    fn new<T: Element>(config: &MoeConfig, tokens: usize) -> Self {
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let block = block_tokens(config).min(tokens);
        let rows = block * config.top_k();
        let products = padded(rows * hidden);
        let places = padded(rows);
        let residual = padded(block * hidden);
        let panel = padded(T::widen_scratch(PANEL.min(rows) * 2 * inner));
        // A block of down [H, I], of gate_up [2I, H], or of a router weight [E, H] of whatever type.
        let router = block_rows::<bf16>(config.num_experts(), hidden) * hidden;
        let weight = block_scratch::<T>(hidden, inner)
            .max(block_scratch::<T>(2 * inner, hidden))
            .max(padded(router));
        let lane = products + places + residual + panel + weight;
        Self {
            block,
            products,
            places,
            residual,
            panel,
            weight,
            lane,
        }
    }

    fn of<T: Element>(plan: &Plan<Cpu>) -> Scratch {
        Self::new::<T>(plan.config(), plan.tokens()).scratch(plan.tokens())
    }

    fn scratch(&self, tokens: usize) -> Scratch {
        Scratch {
            shared: 0,
            lane: self.lane,
            tasks: tokens.div_ceil(self.block.max(1)),
        }
    }
}

/// A product of every row with its expert's matrix: `rows` [max rows, inner] and the experts' `weight`; `multiply(out, rows, their
/// number, an expert's weight, scratch)` makes [rows, H] of them, to which `bias` [E, H] is added.
struct ExpertProduct<'a, T, M> {
    rows: &'a [T],
    inner: usize,
    weight: &'a [T],
    bias: Option<&'a [T]>,
    multiply: M,
}

/// output\[t\] = Σ_slot weight(r)·(rows\[r\]·expert's matrix) + residual, a block of tokens at a time: the products of a block
/// are combined while they are in cache, and the whole of them never exists. A row's product is weighed, then rounded.
fn product_combine<T, W, M>(
    plan: &Plan<Cpu>,
    product: ExpertProduct<'_, T, M>,
    row_weight: impl Fn(usize) -> T::Acc + Sync,
    residual: Option<RouterPart<'_, Cpu, W>>,
    output: &mut [T],
    scratch: &mut [T::Acc],
) where
    T: Element,
    W: Element<Acc = T::Acc>,
    M: Fn(&mut [T::Acc], &[T::Acc], usize, &[T], &mut [T::Acc]) + Sync,
{
    let ExpertProduct {
        rows,
        inner,
        weight,
        bias,
        multiply,
    } = product;
    let (config, tokens, map) = (plan.config(), plan.tokens(), &plan.map());
    let (hidden, experts, top_k) = (config.hidden_size(), config.num_experts(), config.top_k());
    let layout = CombineLayout::new::<T>(config, tokens);
    let output = Disjoint::new(output);
    let arch = Arch::new();
    let blocks = tokens.div_ceil(layout.block.max(1));
    parallel::for_each(blocks, scratch, layout.lane, |index, scratch| {
        let (products, scratch) = scratch.split_at_mut(layout.products);
        let (places, scratch) = scratch.split_at_mut(layout.places);
        let (residual_sum, scratch) = scratch.split_at_mut(layout.residual);
        let (panel_scratch, scratch) = scratch.split_at_mut(layout.panel);
        let weight_scratch = &mut scratch[..layout.weight];
        let first = index * layout.block;
        let last = tokens.min(first + layout.block);

        // Where each assignment's product is; −1: nowhere.
        let places: &mut [i32] = &mut bytemuck::cast_slice_mut(places)[..(last - first) * top_k];
        places.fill(-1);
        let mut filled = 0;
        for e in 0..experts {
            // An expert's rows are in token order, so those of the block are neighbours.
            let all = rows_of(map, e);
            let assignments = &map.row_to_assignment[all.clone()];
            let start = all.start + assignments.partition_point(|&a| (a as usize) < first * top_k);
            let end = all.start + assignments.partition_point(|&a| (a as usize) < last * top_k);
            if start == end {
                continue;
            }
            for (row, &assignment) in map.row_to_assignment[start..end].iter().enumerate() {
                places[assignment as usize - first * top_k] = (filled + row) as i32;
            }
            let size = inner * hidden;
            let expert = &weight[e * size..(e + 1) * size];
            for panel in (start..end).step_by(PANEL) {
                let count = PANEL.min(end - panel);
                let rows = &rows[panel * inner..(panel + count) * inner];
                let rows = T::widen_slice(rows, panel_scratch);
                let out = &mut products[filled * hidden..(filled + count) * hidden];
                multiply(out, rows, count, expert, weight_scratch);
                arch.dispatch(Inlined(
                    #[inline(always)]
                    || {
                        for (row, out) in out.chunks_exact_mut(hidden).enumerate() {
                            add::<T>(out, bias.map(|bias| &bias[e * hidden..]));
                            weigh(row_weight(panel + row), out);
                            round::<T>(out);
                        }
                    },
                ));
                filled += count;
            }
        }
        if let Some(RouterPart {
            logits_grad,
            weight,
        }) = &residual
        {
            let dz = &logits_grad[first * experts..last * experts];
            product_by_rows(
                residual_sum,
                dz,
                last - first,
                weight,
                hidden,
                weight_scratch,
            );
            router::leave_out_zeros(config, dz, |index| weight[index].widen(), residual_sum);
        }

        let (products, one) = (&*products, |_| T::Acc::ONE);
        let row = |assignment: usize| {
            let place = usize::try_from(places[assignment - first * top_k]).ok()?;
            Some(&products[place * hidden..(place + 1) * hidden])
        };
        arch.dispatch(Inlined(
            #[inline(always)]
            || {
                for token in first..last {
                    // SAFETY: tokens of different blocks differ.
                    let out = unsafe { output.part(token * hidden, hidden) };
                    let add_residual = |column: usize, sums: &mut [T::Acc]| {
                        if residual.is_some() {
                            let from = &residual_sum[(token - first) * hidden + column..];
                            for (sum, &r) in sums.iter_mut().zip(from) {
                                *sum += r;
                            }
                        }
                    };
                    combine_token(config, token, row, one, add_residual, out);
                }
            },
        ));
    });
}

/// Sums over each expert's rows, of which `add(row, columns, sum)` adds one, in row order: the gradient of a bias [E, width].
fn sum_rows<T: Element>(
    config: &MoeConfig,
    map: &RowMap<'_, Cpu>,
    width: usize,
    grad: WeightGradOf<'_, Cpu, T>,
    add: impl Fn(usize, Range<usize>, &mut [T::Acc]) + Sync,
) {
    let (grad, parts) = (GradTarget::new(grad), width.div_ceil(GRAD_COLUMNS));
    let (tasks, arch) = (config.num_experts() * parts, Arch::new());
    parallel::for_each(tasks, &mut [] as &mut [T], 0, |task, _| {
        let (e, first) = (task / parts, task % parts * GRAD_COLUMNS);
        let columns = first..width.min(first + GRAD_COLUMNS);
        let sum = &mut [T::Acc::ZERO; GRAD_COLUMNS][..columns.len()];
        arch.dispatch(Inlined(
            #[inline(always)]
            || {
                for row in rows_of(map, e) {
                    add(row, columns.clone(), sum);
                }
            },
        ));
        // SAFETY: tasks differ in expert or columns.
        unsafe { grad.store(e * width + first, sum) };
    });
}

fn down_backward_scratch<T: Element>(config: &MoeConfig, tokens: usize) -> Scratch {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let rows = panel_rows(config, tokens, PANEL);
    Scratch {
        shared: padded(config.max_rows(tokens)),
        lane: padded(rows * hidden)
            + padded(rows * inner)
            + padded(2 * inner)
            + block_scratch::<T>(hidden, inner),
        tasks: max_panels(config, tokens),
    }
}

fn weight_grad_scratch<T: Element>(config: &MoeConfig, tokens: usize) -> Scratch {
    let (hidden, inner) = (config.hidden_size(), 2 * config.intermediate_size());
    let columns = GRAD_COLUMNS.min(hidden);
    let rows = panel_rows(config, tokens, GRAD_ROWS);
    let part = GRAD_INNER.min(inner);
    Scratch {
        shared: 0,
        lane: padded(rows * columns)
            + padded(columns * part)
            + padded(T::widen_scratch(rows * part)),
        tasks: config.num_experts() * hidden.div_ceil(GRAD_COLUMNS) * inner.div_ceil(GRAD_INNER),
    }
}

/// What one task of a weight gradient owns: these columns of H and of the rows, of one expert.
struct GradPart {
    expert: usize,
    hidden: Range<usize>,
    inner: Range<usize>,
}

/// Weight gradients: for each part, `step` gets panels of the gathered slice of `source` [rows, part of H] and of
/// `rows` [rows, part of inner] to add to the sum, then `None` to store it.
fn weight_grad<T: Element>(
    plan: &Plan<Cpu>,
    source: &[T],
    rows: &[T],
    inner: usize,
    scratch: &mut [T::Acc],
    step: impl Fn(&GradPart, Matrix<'_, T::Acc>, Option<Matrix<'_, T::Acc>>, &mut [T::Acc]) + Sync,
) {
    let (config, tokens, map) = (plan.config(), plan.tokens(), &plan.map());
    let hidden = config.hidden_size();
    let (slices, inner_slices) = (hidden.div_ceil(GRAD_COLUMNS), inner.div_ceil(GRAD_INNER));
    let most_rows = panel_rows(config, tokens, GRAD_ROWS);
    let lane = weight_grad_scratch::<T>(config, tokens).lane;
    let tasks = config.num_experts() * slices * inner_slices;
    parallel::for_each(tasks, scratch, lane, |task, scratch| {
        let first = task / inner_slices % slices * GRAD_COLUMNS;
        let first_inner = task % inner_slices * GRAD_INNER;
        let part = GradPart {
            expert: task / inner_slices / slices,
            hidden: first..hidden.min(first + GRAD_COLUMNS),
            inner: first_inner..inner.min(first_inner + GRAD_INNER),
        };
        let columns = part.hidden.len();
        let (gathered, scratch) = scratch.split_at_mut(padded(most_rows * columns));
        let (sum, scratch) = scratch.split_at_mut(padded(columns * part.inner.len()));
        let sum = &mut sum[..columns * part.inner.len()];
        sum.fill(T::Acc::ZERO);
        let range = rows_of(map, part.expert);
        for start in range.clone().step_by(GRAD_ROWS) {
            let count = GRAD_ROWS.min(range.end - start);
            let assignments = &map.row_to_assignment[start..start + count];
            gather(config, source, first, columns, assignments, gathered);
            let rows = &rows[start * inner..(start + count) * inner];
            // A row of 0 leaves out what it is multiplied by.
            for (gathered, row) in gathered
                .chunks_exact_mut(columns)
                .zip(rows.chunks_exact(inner))
            {
                if is_zero(row) {
                    gathered.fill(T::Acc::ZERO);
                }
            }
            let rows = widen_columns(rows, inner, first_inner, part.inner.len(), scratch);
            let x = Matrix::new(gathered, count, columns);
            step(&part, x, Some(rows), sum);
        }
        step(&part, Matrix::new(&[], 0, columns), None, sum);
    });
}
