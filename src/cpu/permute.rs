//! Permutation: tokens to rows in expert order, and the gradient back.

use super::Cpu;
use super::combine;
use super::parallel::{self, Disjoint};
use crate::backend::RowMap;
use crate::check;
use crate::config::MoeConfig;
use crate::element::{Element, Real};
use crate::error::Result;

/// Rows of one task.
const PANEL: usize = 256;

/// Rows of a plan.
pub(crate) fn rows(map: &RowMap<'_, Cpu>) -> usize {
    map.offsets.last().map_or(0, |&rows| rows as usize)
}

/// See [`Backend::permute`](crate::Backend::permute).
pub(crate) fn forward<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    x: &[T],
    map: RowMap<'_, Cpu>,
    out: &mut [T],
) -> Result<()> {
    const OPERATION: &str = "permute";
    let hidden = config.hidden_size();
    check::matrix(OPERATION, "x", x.len(), ("T", tokens), ("H", hidden))?;
    check_rows(
        OPERATION,
        config,
        tokens,
        "rows",
        out.len(),
        ("H", hidden),
        &map,
    )?;
    let rows = rows(&map);
    let out = Disjoint::new(out);
    parallel::for_each(rows.div_ceil(PANEL), &mut [] as &mut [T], 0, |task, _| {
        let first = task * PANEL;
        let count = PANEL.min(rows - first);
        // SAFETY: each panel of rows is one task.
        let out = unsafe { out.part(first * hidden, count * hidden) };
        let assignments = &map.row_to_assignment[first..first + count];
        for (out, &assignment) in out.chunks_exact_mut(hidden).zip(assignments) {
            let token = assignment as usize / config.top_k();
            out.copy_from_slice(&x[token * hidden..(token + 1) * hidden]);
        }
    });
    Ok(())
}

/// See [`Backend::permute_backward`](crate::Backend::permute_backward).
pub(crate) fn backward<T: Element>(
    config: &MoeConfig,
    tokens: usize,
    rows_grad: &[T],
    map: RowMap<'_, Cpu>,
    x_grad: &mut [T],
) -> Result<()> {
    const OPERATION: &str = "permute backward";
    let hidden = config.hidden_size();
    check_rows(
        OPERATION,
        config,
        tokens,
        "rows_grad",
        rows_grad.len(),
        ("H", hidden),
        &map,
    )?;
    check::matrix(
        OPERATION,
        "x_grad",
        x_grad.len(),
        ("T", tokens),
        ("H", hidden),
    )?;
    combine::gather_sum(config, tokens, rows_grad, |_| T::Acc::ONE, &map, x_grad);
    Ok(())
}

/// Checks a plan and a tensor of its rows.
pub(crate) fn check_rows(
    operation: &'static str,
    config: &MoeConfig,
    tokens: usize,
    tensor: &'static str,
    given: usize,
    columns: (&'static str, usize),
    map: &RowMap<'_, Cpu>,
) -> Result<()> {
    check::tokens(operation, config, tokens)?;
    let (experts, top_k) = (config.num_experts(), config.top_k());
    let max_rows = config.max_rows(tokens);
    check::vector(
        operation,
        "offsets",
        map.offsets.len(),
        ("E + 1", experts + 1),
    )?;
    let rows = map.row_to_assignment.len();
    check::vector(operation, "row_to_assignment", rows, ("max rows", max_rows))?;
    let assignments = map.assignment_to_row.len();
    check::matrix(
        operation,
        "assignment_to_row",
        assignments,
        ("T", tokens),
        ("K", top_k),
    )?;
    check::matrix(operation, tensor, given, ("max rows", max_rows), columns)
}
