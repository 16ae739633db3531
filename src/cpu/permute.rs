//! Permutation: tokens to rows in expert order, and the gradient back.

use super::Cpu;
use super::combine;
use super::parallel::{self, Disjoint, Scratch};
use super::product::padded;
use super::router;
use crate::backend::{RouterPart, RowMap};
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
    check::rows(
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

/// Scratch of the backward pass with the router's part: its weight, of whatever type, and per lane a panel of dz·Wᵣ.
pub(crate) fn scratch(config: &MoeConfig, tokens: usize) -> Scratch {
    let (experts, hidden) = (config.num_experts(), config.hidden_size());
    Scratch {
        shared: padded(experts * hidden),
        lane: padded(PANEL.min(tokens) * hidden),
        tasks: tokens.div_ceil(PANEL),
    }
}

/// See [`Backend::permute_backward`](crate::Backend::permute_backward).
pub(crate) fn backward<T: Element, W: Element<Acc = T::Acc>>(
    config: &MoeConfig,
    tokens: usize,
    rows_grad: &[T],
    map: RowMap<'_, Cpu>,
    router: Option<RouterPart<'_, '_, Cpu, W>>,
    x_grad: &mut [T],
    scratch: &mut [T::Acc],
) -> Result<()> {
    const OPERATION: &str = "permute backward";
    let hidden = config.hidden_size();
    check::rows(
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
    let one = |_| T::Acc::ONE;
    let Some(source) = router else {
        combine::gather_sum(config, tokens, rows_grad, one, &map, x_grad);
        return Ok(());
    };
    check::router_part(OPERATION, config, tokens, &source)?;
    let need = self::scratch(config, tokens);
    check::workspace(OPERATION, scratch.len(), need.least())?;

    let experts = config.num_experts();
    let (weight_scratch, scratch) = scratch.split_at_mut(need.shared);
    let weight = W::widen_slice(source.weight, weight_scratch);
    let x_grad = Disjoint::new(x_grad);
    let row = |assignment: usize| {
        let row = usize::try_from(map.assignment_to_row[assignment]).ok()?;
        Some(&rows_grad[row * hidden..(row + 1) * hidden])
    };
    parallel::for_each(need.tasks, scratch, need.lane, |task, part| {
        let first = task * PANEL;
        let last = tokens.min(first + PANEL);
        let dz = &source.logits_grad[first * experts..last * experts];
        router::input_grad(config, dz, weight, part);
        for token in first..last {
            // SAFETY: tokens of different tasks differ.
            let out = unsafe { x_grad.part(token * hidden, hidden) };
            let add_part = |column: usize, sums: &mut [T::Acc]| {
                let from = &part[(token - first) * hidden + column..];
                for (sum, &r) in sums.iter_mut().zip(from) {
                    *sum += r;
                }
            };
            combine::combine_token(config, token, row, one, add_part, out);
        }
    });
    Ok(())
}
