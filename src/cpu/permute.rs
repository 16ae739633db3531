//! Permutation: tokens to rows in expert order, and the gradient back.

use super::Cpu;
use super::combine;
use super::parallel::{self, Disjoint, Scratch};
use super::product::padded;
use super::router;
use crate::check;
use crate::config::MoeConfig;
use crate::element::{Element, Real};
use crate::error::Result;
use crate::ops::{
    self, Checked, Permute, PermuteBackward, PermuteForward, RowMap, UnpermuteBackward,
    UnpermuteForward,
};

/// Rows of one task.
const PANEL: usize = 256;

/// Rows of a plan.
pub(crate) fn rows(map: &RowMap<'_, Cpu>) -> usize {
    map.offsets.last().map_or(0, |&rows| rows as usize)
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

impl Permute for Cpu {
    fn run_permute<T: Element>(
        &self,
        arguments: Checked<PermuteForward<'_, Self, T>>,
    ) -> Result<()> {
        let PermuteForward { plan, x, rows: out } = arguments.into_inner();
        let (hidden, top_k) = (plan.config().hidden_size(), plan.config().top_k());
        let map = plan.map();
        let rows = rows(&map);
        let out = Disjoint::new(out);
        parallel::for_each(rows.div_ceil(PANEL), &mut [] as &mut [T], 0, |task, _| {
            let first = task * PANEL;
            let count = PANEL.min(rows - first);
            // SAFETY: each panel of rows is one task.
            let out = unsafe { out.part(first * hidden, count * hidden) };
            let assignments = &map.row_to_assignment[first..first + count];
            for (out, &assignment) in out.chunks_exact_mut(hidden).zip(assignments) {
                let token = assignment as usize / top_k;
                out.copy_from_slice(&x[token * hidden..(token + 1) * hidden]);
            }
        });
        Ok(())
    }

    fn run_permute_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<PermuteBackward<'_, Self, T, W>>,
    ) -> Result<()> {
        let PermuteBackward {
            plan,
            rows_grad,
            router,
            x_grad,
            scratch,
        } = arguments.into_inner();
        let (config, tokens) = (plan.config(), plan.tokens());
        let one = |_| T::Acc::ONE;
        let Some(source) = router else {
            combine::gather_sum(plan, rows_grad, one, x_grad);
            return Ok(());
        };
        let need = self::scratch(config, tokens);
        check::workspace(ops::permute::PERMUTE_BACKWARD, scratch.len(), need.least())?;

        let (experts, hidden) = (config.num_experts(), config.hidden_size());
        let (weight_scratch, scratch) = scratch.split_at_mut(need.shared);
        let weight = W::widen_slice(source.weight, weight_scratch);
        let x_grad = Disjoint::new(x_grad);
        let map = plan.map();
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

    fn run_unpermute<T: Element>(
        &self,
        arguments: Checked<UnpermuteForward<'_, Self, T>>,
    ) -> Result<()> {
        combine::unpermute(arguments);
        Ok(())
    }

    fn run_unpermute_backward<T: Element>(
        &self,
        arguments: Checked<UnpermuteBackward<'_, Self, T>>,
    ) -> Result<()> {
        combine::unpermute_backward(arguments);
        Ok(())
    }
}
