//! Experts: grouped SwiGLU products, forward and backward.
//!
//! h = x·gate_upᵀ is rounded to the storage type; a = silu(gate)·up is made from the rounded h, and rounded, wherever it
//! appears, so forward and backward see the same a. y, w·a, dh and dX̃ are rounded once, when they would be stored; dA'
//! never is.

use pulp::Arch;

use super::combine::combine_token;
use super::parallel::{self, Disjoint, Inlined, locate};
use super::product::{Matrix, Store, padded, product};
use super::{Cpu, GradTarget, router};
use crate::backend::{RouterPart, RowMap, WeightGrad};
use crate::check;
use crate::config::MoeConfig;
use crate::element::{Element, Real, row_sum};
use crate::error::Result;

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

/// Scratch of the operations of this file, in elements of the accumulation type.
pub(crate) fn scratch_elements<T: Element>(config: &MoeConfig, tokens: usize) -> usize {
    let lane = up_lane::<T>(config)
        .max(down_backward_lane::<T>(config))
        .max(weight_grad_lane::<T>(config))
        .max(CombineLayout::new::<T, T>(config, tokens).lane)
        .max(CombineLayout::new::<T, T::Acc>(config, tokens).lane);
    padded(config.max_rows(tokens)) + parallel::lanes() * lane
}

/// Rows of expert `e`.
fn rows_of(map: &RowMap<'_, Cpu>, e: usize) -> std::ops::Range<usize> {
    map.offsets[e] as usize..map.offsets[e + 1] as usize
}

/// Runs `task(expert, rows, scratch)` for every panel of every expert's rows.
fn for_each_panel<A: Send>(
    config: &MoeConfig,
    map: &RowMap<'_, Cpu>,
    scratch: &mut [A],
    lane: usize,
    task: impl Fn(usize, std::ops::Range<usize>, &mut [A]) + Sync,
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

fn up_lane<T: Element>(config: &MoeConfig) -> usize {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    padded(PANEL * hidden)
        + padded(PANEL * 2 * inner)
        + padded(T::widen_scratch(2 * inner * hidden))
}

/// See [`Backend::experts_up`](crate::Backend::experts_up).
#[allow(clippy::too_many_arguments)]
pub(crate) fn up<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    x: &[T],
    gate_up: &[T],
    map: RowMap<'_, Cpu>,
    h: Option<&mut [T]>,
    a: &mut [T],
    scratch: &mut [T::Acc],
) -> Result<()> {
    const OPERATION: &str = "experts up";
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    check::matrix(OPERATION, "x", x.len(), ("T", tokens), ("H", hidden))?;
    check::experts(
        OPERATION,
        "gate_up",
        gate_up.len(),
        config,
        ("2I", 2 * inner),
        ("H", hidden),
    )?;
    check::rows(OPERATION, config, tokens, "a", a.len(), ("I", inner), &map)?;
    if let Some(h) = &h {
        check::rows(
            OPERATION,
            config,
            tokens,
            "h",
            h.len(),
            ("2I", 2 * inner),
            &map,
        )?;
    }
    check::workspace(
        OPERATION,
        scratch.len(),
        scratch_elements::<T>(config, tokens),
    )?;

    let (h, a) = (h.map(Disjoint::new), Disjoint::new(a));
    let arch = Arch::new();
    for_each_panel(
        config,
        &map,
        scratch,
        up_lane::<T>(config),
        |e, rows, scratch| {
            let (x_panel, scratch) = scratch.split_at_mut(padded(PANEL * hidden));
            let (h_panel, scratch) = scratch.split_at_mut(padded(PANEL * 2 * inner));
            gather(
                config,
                x,
                0,
                hidden,
                &map.row_to_assignment[rows.clone()],
                x_panel,
            );
            let weight = &gate_up[e * 2 * inner * hidden..(e + 1) * 2 * inner * hidden];
            let weight = Matrix::new(T::widen_slice(weight, scratch), 2 * inner, hidden);
            let x_panel = Matrix::new(x_panel, rows.len(), hidden);
            product(h_panel, 2 * inner, Store::Overwrite, x_panel, weight.t());

            // SAFETY: panels do not overlap.
            let a = unsafe { a.part(rows.start * inner, rows.len() * inner) };
            arch.dispatch(Inlined(
                #[inline(always)]
                || {
                    for (h, a) in h_panel
                        .chunks_exact_mut(2 * inner)
                        .zip(a.chunks_exact_mut(inner))
                    {
                        round::<T>(h);
                        let (gate, up) = h.split_at(inner);
                        for ((a, &gate), &up) in a.iter_mut().zip(gate).zip(up) {
                            *a = T::narrow(gate * gate.sigmoid() * up);
                        }
                    }
                },
            ));
            if let Some(h) = &h {
                // SAFETY: panels do not overlap.
                let h = unsafe { h.part(rows.start * 2 * inner, rows.len() * 2 * inner) };
                T::narrow_into(&h_panel[..h.len()], h);
            }
        },
    );
    Ok(())
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

/// See [`Backend::experts_down`](crate::Backend::experts_down).
#[allow(clippy::too_many_arguments)]
pub(crate) fn down<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    a: &[T],
    down: &[T],
    weights: &[T::Acc],
    map: RowMap<'_, Cpu>,
    output: &mut [T],
    scratch: &mut [T::Acc],
) -> Result<()> {
    const OPERATION: &str = "experts down";
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    check::rows(OPERATION, config, tokens, "a", a.len(), ("I", inner), &map)?;
    check::experts(
        OPERATION,
        "down",
        down.len(),
        config,
        ("H", hidden),
        ("I", inner),
    )?;
    check::matrix(
        OPERATION,
        "weights",
        weights.len(),
        ("T", tokens),
        ("K", config.top_k()),
    )?;
    check::matrix(
        OPERATION,
        "output",
        output.len(),
        ("T", tokens),
        ("H", hidden),
    )?;
    check::workspace(
        OPERATION,
        scratch.len(),
        scratch_elements::<T>(config, tokens),
    )?;

    let weight = |assignment: usize| weights[assignment];
    let no_residual = None::<RouterPart<'_, '_, Cpu, T::Acc>>;
    product_combine(
        config,
        tokens,
        a,
        inner,
        down,
        |weight| Matrix::new(weight, hidden, inner).t(),
        weight,
        no_residual,
        &map,
        output,
        scratch,
    );
    Ok(())
}

/// See [`Backend::experts_input_grad`](crate::Backend::experts_input_grad).
#[allow(clippy::too_many_arguments)]
pub(crate) fn input_grad<T: Element, W: Element<Acc = T::Acc>>(
    config: &MoeConfig,
    tokens: usize,
    h_grad: &[T],
    gate_up: &[T],
    map: RowMap<'_, Cpu>,
    router: RouterPart<'_, '_, Cpu, W>,
    x_grad: &mut [T],
    scratch: &mut [T::Acc],
) -> Result<()> {
    const OPERATION: &str = "experts input gradient";
    let (hidden, inner) = (config.hidden_size(), 2 * config.intermediate_size());
    check::rows(
        OPERATION,
        config,
        tokens,
        "h_grad",
        h_grad.len(),
        ("2I", inner),
        &map,
    )?;
    check::experts(
        OPERATION,
        "gate_up",
        gate_up.len(),
        config,
        ("2I", inner),
        ("H", hidden),
    )?;
    check::router_part(OPERATION, config, tokens, &router)?;
    check::matrix(
        OPERATION,
        "x_grad",
        x_grad.len(),
        ("T", tokens),
        ("H", hidden),
    )?;
    check::workspace(
        OPERATION,
        scratch.len(),
        scratch_elements::<T>(config, tokens),
    )?;

    // A dh of 0 gives 0, whatever the weight.
    let one_or_zero = |assignment: usize| {
        let row = map.assignment_to_row[assignment] as usize; // asked of kept ones only
        match is_zero(&h_grad[row * inner..(row + 1) * inner]) {
            true => T::Acc::ZERO,
            false => T::Acc::ONE,
        }
    };
    let residual = Some(router);
    product_combine(
        config,
        tokens,
        h_grad,
        inner,
        gate_up,
        |weight| Matrix::new(weight, inner, hidden),
        one_or_zero,
        residual,
        &map,
        x_grad,
        scratch,
    );
    Ok(())
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
    fn new<T: Element, W: Element<Acc = T::Acc>>(config: &MoeConfig, tokens: usize) -> Self {
        let (hidden, inner) = (config.hidden_size(), 2 * config.intermediate_size());
        let block = block_tokens(config).min(tokens);
        let rows = block * config.top_k();
        let products = padded(rows * hidden);
        let places = padded(rows);
        let residual = padded(block * hidden);
        let panel = padded(T::widen_scratch(PANEL * inner));
        let router = W::widen_scratch(config.num_experts() * hidden);
        let weight = padded(T::widen_scratch(inner * hidden).max(router));
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
}

/// output\[t\] = Σ_slot weight·(rows\[r\]·expert's matrix) + residual, a block of tokens at a time: the products of a block are
/// combined while they are in cache, and the whole of them never exists.
///
/// `rows` [R, inner]; `expert` makes a matrix [inner, H] of an expert's weight.
#[allow(clippy::too_many_arguments)]
fn product_combine<T: Element, W: Element<Acc = T::Acc>>(
    config: &MoeConfig,
    tokens: usize,
    rows: &[T],
    inner: usize,
    weight: &[T],
    expert: impl Fn(&[T::Acc]) -> Matrix<'_, T::Acc> + Sync,
    combine_weight: impl Fn(usize) -> T::Acc + Sync,
    residual: Option<RouterPart<'_, '_, Cpu, W>>,
    map: &RowMap<'_, Cpu>,
    output: &mut [T],
    scratch: &mut [T::Acc],
) {
    let (hidden, experts, top_k) = (config.hidden_size(), config.num_experts(), config.top_k());
    let layout = CombineLayout::new::<T, W>(config, tokens);
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
            let matrix = T::widen_slice(&weight[e * size..(e + 1) * size], weight_scratch);
            for panel in (start..end).step_by(PANEL) {
                let count = PANEL.min(end - panel);
                let rows = &rows[panel * inner..(panel + count) * inner];
                let rows = Matrix::new(T::widen_slice(rows, panel_scratch), count, inner);
                let out = &mut products[filled * hidden..(filled + count) * hidden];
                product(out, hidden, Store::Overwrite, rows, expert(matrix));
                arch.dispatch(Inlined(
                    #[inline(always)]
                    || round::<T>(out),
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
            let weight = W::widen_slice(weight, weight_scratch);
            router::input_grad(config, dz, weight, residual_sum);
        }

        let products = &*products;
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
                    combine_token(config, token, row, &combine_weight, add_residual, out);
                }
            },
        ));
    });
}

fn down_backward_lane<T: Element>(config: &MoeConfig) -> usize {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    padded(PANEL * hidden)
        + padded(PANEL * inner)
        + padded(2 * inner)
        + padded(T::widen_scratch(inner * hidden))
}

/// See [`Backend::experts_down_backward`](crate::Backend::experts_down_backward).
#[allow(clippy::too_many_arguments)]
pub(crate) fn down_backward<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    output_grad: &[T],
    down: &[T],
    weights: &[T::Acc],
    map: RowMap<'_, Cpu>,
    h: &mut [T],
    weighted_a: &mut [T],
    weights_grad: &mut [T::Acc],
    scratch: &mut [T::Acc],
) -> Result<()> {
    const OPERATION: &str = "experts down backward";
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let (t, k) = (("T", tokens), ("K", config.top_k()));
    check::matrix(
        OPERATION,
        "output_grad",
        output_grad.len(),
        t,
        ("H", hidden),
    )?;
    check::experts(
        OPERATION,
        "down",
        down.len(),
        config,
        ("H", hidden),
        ("I", inner),
    )?;
    check::matrix(OPERATION, "weights", weights.len(), t, k)?;
    check::rows(
        OPERATION,
        config,
        tokens,
        "h",
        h.len(),
        ("2I", 2 * inner),
        &map,
    )?;
    check::rows(
        OPERATION,
        config,
        tokens,
        "weighted_a",
        weighted_a.len(),
        ("I", inner),
        &map,
    )?;
    check::matrix(OPERATION, "weights_grad", weights_grad.len(), t, k)?;
    check::workspace(
        OPERATION,
        scratch.len(),
        scratch_elements::<T>(config, tokens),
    )?;

    let (row_grads, scratch) = scratch.split_at_mut(padded(config.max_rows(tokens)));
    {
        let (h, weighted_a) = (Disjoint::new(h), Disjoint::new(weighted_a));
        let row_grads = Disjoint::new(row_grads);
        let arch = Arch::new();
        let lane = down_backward_lane::<T>(config);
        for_each_panel(config, &map, scratch, lane, |e, rows, scratch| {
            let (grad_panel, scratch) = scratch.split_at_mut(padded(PANEL * hidden));
            let (a_grads, scratch) = scratch.split_at_mut(padded(PANEL * inner));
            let (h_row, scratch) = scratch.split_at_mut(padded(2 * inner));
            let assignments = &map.row_to_assignment[rows.clone()];
            gather(config, output_grad, 0, hidden, assignments, grad_panel);
            let weight = &down[e * hidden * inner..(e + 1) * hidden * inner];
            let weight = Matrix::new(T::widen_slice(weight, scratch), hidden, inner);
            let grads = Matrix::new(grad_panel, rows.len(), hidden);
            product(a_grads, inner, Store::Overwrite, grads, weight);

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
                        row_grads[row] = swiglu_backward(
                            weights[assignment as usize],
                            &mut a_grads[row * inner..(row + 1) * inner],
                            &mut h[row * 2 * inner..(row + 1) * 2 * inner],
                            &mut weighted_a[row * inner..(row + 1) * inner],
                            h_row,
                        );
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

/// One row: h becomes dh, `weighted_a` = w·a, both 0 where the weight is, whatever it would be multiplied by; returns ⟨dA', a⟩.
/// `a_grad` holds dA' and is used up.
#[inline(always)]
fn swiglu_backward<T: Element>(
    weight: T::Acc,
    a_grad: &mut [T::Acc],
    h: &mut [T],
    weighted_a: &mut [T],
    h_row: &mut [T::Acc],
) -> T::Acc {
    let inner = a_grad.len();
    let one = T::Acc::ONE;
    T::widen_into(h, h_row);
    let (gates, ups) = h_row.split_at_mut(inner);
    for i in 0..inner {
        let (gate, up) = (gates[i], ups[i]);
        let sigmoid = gate.sigmoid();
        let silu = gate * sigmoid;
        let a = T::narrow(silu * up).widen();
        let grad = a_grad[i];
        let d = weight * grad;
        weighted_a[i] = T::narrow(weight * a);
        a_grad[i] = grad * a;
        gates[i] = d * up * (sigmoid * (one + gate * (one - sigmoid)));
        ups[i] = d * silu;
    }
    if weight == T::Acc::ZERO {
        h_row.fill(T::Acc::ZERO);
        weighted_a.fill(T::zeroed());
    }
    T::narrow_into(h_row, h);
    row_sum(a_grad.iter().copied())
}

fn weight_grad_lane<T: Element>(config: &MoeConfig) -> usize {
    let inner = 2 * config.intermediate_size();
    let columns = GRAD_COLUMNS.min(config.hidden_size());
    padded(GRAD_ROWS * columns)
        + padded(columns * inner)
        + padded(T::widen_scratch(GRAD_ROWS * inner))
}

/// See [`Backend::experts_down_weight_grad`](crate::Backend::experts_down_weight_grad).
pub(crate) fn down_weight_grad<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    output_grad: &[T],
    weighted_a: &[T],
    map: RowMap<'_, Cpu>,
    grad: WeightGrad<'_, Cpu, T>,
    scratch: &mut [T::Acc],
) -> Result<()> {
    const OPERATION: &str = "experts down weight gradient";
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let experts = config.num_experts();
    check::matrix(
        OPERATION,
        "output_grad",
        output_grad.len(),
        ("T", tokens),
        ("H", hidden),
    )?;
    check::rows(
        OPERATION,
        config,
        tokens,
        "weighted_a",
        weighted_a.len(),
        ("I", inner),
        &map,
    )?;
    check::weight_grad(
        OPERATION,
        "weight gradient",
        &grad,
        experts * hidden * inner,
        || format!("[E={experts}, H={hidden}, I={inner}]"),
    )?;
    check::workspace(
        OPERATION,
        scratch.len(),
        scratch_elements::<T>(config, tokens),
    )?;

    let grad = GradTarget::new(grad);
    weight_grad(
        config,
        output_grad,
        weighted_a,
        inner,
        &map,
        scratch,
        |e, first, columns, x, rows, sum| {
            // A task owns the rows first.. of the expert's [H, I].
            match rows {
                Some(rows) => product(sum, inner, Store::Add, x.t(), rows),
                // SAFETY: tasks differ in expert or slice.
                None => unsafe {
                    grad.store((e * hidden + first) * inner, &sum[..columns * inner])
                },
            }
        },
    );
    Ok(())
}

/// See [`Backend::experts_up_weight_grad`](crate::Backend::experts_up_weight_grad).
pub(crate) fn up_weight_grad<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    x: &[T],
    h_grad: &[T],
    map: RowMap<'_, Cpu>,
    grad: WeightGrad<'_, Cpu, T>,
    scratch: &mut [T::Acc],
) -> Result<()> {
    const OPERATION: &str = "experts up weight gradient";
    let (hidden, inner) = (config.hidden_size(), 2 * config.intermediate_size());
    let experts = config.num_experts();
    check::matrix(OPERATION, "x", x.len(), ("T", tokens), ("H", hidden))?;
    check::rows(
        OPERATION,
        config,
        tokens,
        "h_grad",
        h_grad.len(),
        ("2I", inner),
        &map,
    )?;
    check::weight_grad(
        OPERATION,
        "weight gradient",
        &grad,
        experts * inner * hidden,
        || format!("[E={experts}, 2I={inner}, H={hidden}]"),
    )?;
    check::workspace(
        OPERATION,
        scratch.len(),
        scratch_elements::<T>(config, tokens),
    )?;

    let grad = GradTarget::new(grad);
    weight_grad(
        config,
        x,
        h_grad,
        inner,
        &map,
        scratch,
        |e, first, columns, x, rows, sum| {
            // A task owns the columns first.. of the expert's [2I, H].
            match rows {
                Some(rows) => product(sum, columns, Store::Add, rows.t(), x),
                None => {
                    for (i, row) in sum[..inner * columns].chunks_exact(columns).enumerate() {
                        // SAFETY: tasks differ in expert or slice.
                        unsafe { grad.store((e * inner + i) * hidden + first, row) };
                    }
                }
            }
        },
    );
    Ok(())
}

/// Weight gradients: for each expert and slice of H, `step` gets panels of the gathered slice of `source` [rows, columns] and of
/// `rows` [rows, inner] to add to the sum, then `None` to store it.
fn weight_grad<T: Element>(
    config: &MoeConfig,
    source: &[T],
    rows: &[T],
    inner: usize,
    map: &RowMap<'_, Cpu>,
    scratch: &mut [T::Acc],
    step: impl Fn(usize, usize, usize, Matrix<'_, T::Acc>, Option<Matrix<'_, T::Acc>>, &mut [T::Acc])
    + Sync,
) {
    let hidden = config.hidden_size();
    let slices = hidden.div_ceil(GRAD_COLUMNS);
    let lane = weight_grad_lane::<T>(config);
    parallel::for_each(
        config.num_experts() * slices,
        scratch,
        lane,
        |task, scratch| {
            let (e, first) = (task / slices, task % slices * GRAD_COLUMNS);
            let columns = GRAD_COLUMNS.min(hidden - first);
            let (gathered, scratch) = scratch.split_at_mut(padded(GRAD_ROWS * columns));
            let (sum, scratch) = scratch.split_at_mut(padded(columns * inner));
            sum.fill(T::Acc::ZERO);
            let range = rows_of(map, e);
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
                let rows = Matrix::new(T::widen_slice(rows, scratch), count, inner);
                let x = Matrix::new(gathered, count, columns);
                step(e, first, columns, x, Some(rows), sum);
            }
            step(e, first, columns, Matrix::new(&[], 0, columns), None, sum);
        },
    );
}
