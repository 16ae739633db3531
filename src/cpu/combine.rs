//! Combine: each token gathers its K rows, weighted, slots in order, one rounding.

use pulp::Arch;

use super::Cpu;
use super::parallel::{self, Disjoint, Inlined};
use super::permute;
use crate::config::MoeConfig;
use crate::element::{Element, Real, row_sum};
use crate::ops::{Checked, Plan, UnpermuteBackward, UnpermuteForward};

/// Tokens, or rows, of one task.
const PANEL: usize = 128;
/// Columns summed at a time, in registers or first-level cache.
const COLUMNS: usize = 256;

pub(crate) fn unpermute<T: Element>(arguments: Checked<UnpermuteForward<'_, Cpu, T>>) {
    let UnpermuteForward {
        plan,
        rows,
        weights,
        output,
    } = arguments.into_inner();
    gather_sum(plan, rows, |assignment| weights[assignment], output);
}

pub(crate) fn unpermute_backward<T: Element>(arguments: Checked<UnpermuteBackward<'_, Cpu, T>>) {
    let UnpermuteBackward {
        plan,
        output_grad,
        rows,
        weights,
        rows_grad,
        weights_grad,
    } = arguments.into_inner();
    let (hidden, top_k) = (plan.config().hidden_size(), plan.config().top_k());
    let (tokens, map) = (plan.tokens(), plan.map());
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
}

/// ⟨a, b⟩ in the accumulation type.
fn dot<T: Element>(a: &[T], b: &[T]) -> T::Acc {
    row_sum(a.iter().zip(b).map(|(&a, &b)| a.widen() * b.widen()))
}

/// output\[t\] = Σ_slot weight(assignment)·rows[row], slots in order.
pub(crate) fn gather_sum<T: Element>(
    plan: &Plan<Cpu>,
    rows: &[T],
    weight: impl Fn(usize) -> T::Acc + Sync,
    output: &mut [T],
) {
    let (config, tokens, map) = (plan.config(), plan.tokens(), plan.map());
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

/// One token's gather-sum. `row` is an assignment's row, `None` for a dropped one; a weight of 0 leaves its row out; `finish` may change
/// the sums of columns `first..` before they are rounded.
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
