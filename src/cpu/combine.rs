//! Combine: each token gathers its K rows, weighted, slots in order, one rounding.

use pulp::Arch;

use super::Cpu;
use super::parallel::{self, Disjoint, Inlined};
use super::permute;
use crate::backend::RowMap;
use crate::check;
use crate::config::MoeConfig;
use crate::element::{Element, Real, row_sum};
use crate::error::Result;

/// Tokens, or rows, of one task.
const PANEL: usize = 128;
/// Columns summed at a time, in registers or first-level cache.
const COLUMNS: usize = 256;

/// See [`Backend::unpermute`](crate::Backend::unpermute).
pub(crate) fn unpermute<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    rows: &[T],
    weights: &[T::Acc],
    map: RowMap<'_, Cpu>,
    output: &mut [T],
) -> Result<()> {
    const OPERATION: &str = "unpermute";
    let (hidden, top_k) = (config.hidden_size(), config.top_k());
    check::rows(
        OPERATION,
        config,
        tokens,
        "rows",
        rows.len(),
        ("H", hidden),
        &map,
    )?;
    check::matrix(
        OPERATION,
        "weights",
        weights.len(),
        ("T", tokens),
        ("K", top_k),
    )?;
    check::matrix(
        OPERATION,
        "output",
        output.len(),
        ("T", tokens),
        ("H", hidden),
    )?;
    gather_sum(
        config,
        tokens,
        rows,
        |assignment| weights[assignment],
        &map,
        output,
    );
    Ok(())
}

/// See [`Backend::unpermute_backward`](crate::Backend::unpermute_backward).
#[allow(clippy::too_many_arguments)]
pub(crate) fn unpermute_backward<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    output_grad: &[T],
    rows: &[T],
    weights: &[T::Acc],
    map: RowMap<'_, Cpu>,
    rows_grad: &mut [T],
    weights_grad: &mut [T::Acc],
) -> Result<()> {
    const OPERATION: &str = "unpermute backward";
    let (hidden, top_k) = (config.hidden_size(), config.top_k());
    let (t, k) = (("T", tokens), ("K", top_k));
    check::matrix(
        OPERATION,
        "output_grad",
        output_grad.len(),
        t,
        ("H", hidden),
    )?;
    check::rows(
        OPERATION,
        config,
        tokens,
        "rows",
        rows.len(),
        ("H", hidden),
        &map,
    )?;
    check::rows(
        OPERATION,
        config,
        tokens,
        "rows_grad",
        rows_grad.len(),
        ("H", hidden),
        &map,
    )?;
    check::matrix(OPERATION, "weights", weights.len(), t, k)?;
    check::matrix(OPERATION, "weights_grad", weights_grad.len(), t, k)?;

    // Two passes, by row and by token, so that what a task writes is its own whatever the maps say.
    let count = permute::rows(&map);
    let rows_grad = Disjoint::new(rows_grad);
    parallel::for_each(count.div_ceil(PANEL), &mut [] as &mut [T], 0, |task, _| {
        for row in task * PANEL..count.min((task + 1) * PANEL) {
            let assignment = map.row_to_assignment[row] as usize;
            let token = assignment / top_k;
            let grad = &output_grad[token * hidden..(token + 1) * hidden];
            // SAFETY: rows of different tasks differ.
            let out = unsafe { rows_grad.part(row * hidden, hidden) };
            let weight = weights[assignment];
            if weight == T::Acc::ZERO {
                out.fill(T::zeroed());
                continue;
            }
            for (out, &grad) in out.iter_mut().zip(grad) {
                *out = T::narrow(weight * grad.widen());
            }
        }
    });
    let weights_grad = Disjoint::new(weights_grad);
    parallel::for_each(tokens.div_ceil(PANEL), &mut [] as &mut [T], 0, |task, _| {
        for token in task * PANEL..tokens.min((task + 1) * PANEL) {
            let slots = token * top_k..(token + 1) * top_k;
            let grad = &output_grad[token * hidden..(token + 1) * hidden];
            // SAFETY: tokens of different tasks differ.
            let out = unsafe { weights_grad.part(slots.start, top_k) };
            for (out, &row) in out.iter_mut().zip(&map.assignment_to_row[slots]) {
                *out = match usize::try_from(row) {
                    Ok(row) => dot(grad, &rows[row * hidden..(row + 1) * hidden]),
                    Err(_) => T::Acc::ZERO,
                };
            }
        }
    });
    Ok(())
}

/// ⟨a, b⟩ in the accumulation type.
fn dot<T: Element>(a: &[T], b: &[T]) -> T::Acc {
    row_sum(a.iter().zip(b).map(|(&a, &b)| a.widen() * b.widen()))
}

/// output\[t\] = Σ_slot weight(assignment)·rows[row], slots in order.
pub(crate) fn gather_sum<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    rows: &[T],
    weight: impl Fn(usize) -> T::Acc + Sync,
    map: &RowMap<'_, Cpu>,
    output: &mut [T],
) {
    let hidden = config.hidden_size();
    let output = Disjoint::new(output);
    let arch = Arch::new();
    let row = |assignment: usize| {
        let row = usize::try_from(map.assignment_to_row[assignment]).ok()?;
        Some(&rows[row * hidden..(row + 1) * hidden])
    };
    parallel::for_each(tokens.div_ceil(PANEL), &mut [] as &mut [T], 0, |task, _| {
        arch.dispatch(Inlined(
            #[inline(always)]
            || {
                for token in task * PANEL..tokens.min((task + 1) * PANEL) {
                    // SAFETY: tokens of different tasks differ.
                    let out = unsafe { output.part(token * hidden, hidden) };
                    combine_token(config, token, row, &weight, |_, _| {}, out);
                }
            },
        ));
    });
}

/// One token's gather-sum. `row` is an assignment's row, `None` for a dropped one; a weight of 0 leaves its row out; `finish` may change the sums of
/// columns `first..` before they are rounded.
#[inline(always)]
pub(crate) fn combine_token<'r, T: Element, R: Element<Acc = T::Acc>>(
    config: &MoeConfig,
    token: usize,
    row: impl Fn(usize) -> Option<&'r [R]>,
    weight: impl Fn(usize) -> T::Acc,
    mut finish: impl FnMut(usize, &mut [T::Acc]),
    out: &mut [T],
) {
    let top_k = config.top_k();
    for (chunk, out) in out.chunks_mut(COLUMNS).enumerate() {
        let first = chunk * COLUMNS;
        let mut sums = [T::Acc::ZERO; COLUMNS];
        let sums = &mut sums[..out.len()];
        for assignment in token * top_k..(token + 1) * top_k {
            let Some(values) = row(assignment) else {
                continue;
            };
            let weight = weight(assignment);
            if weight == T::Acc::ZERO {
                continue; // adds 0, whatever the row holds
            }
            for (sum, &value) in sums.iter_mut().zip(&values[first..]) {
                *sum += weight * value.widen();
            }
        }
        finish(first, sums);
        T::narrow_into(sums, out);
    }
}
