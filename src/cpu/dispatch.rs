//! Dispatch: capacity dropping and the stable sort by expert.

use std::cmp::Ordering;

use super::Cpu;
use crate::check;
use crate::config::{Capacity, DropPolicy, MoeConfig, Renormalize};
use crate::element::Real;
use crate::error::Result;
use crate::ops::{self, Checked, Dispatch, DispatchInto, RowMapMut};

const DROPPED: i32 = -1;

/// Scratch: every assignment, sorted, and the experts' places.
pub(crate) fn scratch_elements<A>(config: &MoeConfig, tokens: usize) -> usize {
    let integers = tokens * config.top_k() + config.num_experts();
    (integers * size_of::<i32>()).div_ceil(size_of::<A>())
}

impl Dispatch for Cpu {
    fn run_dispatch<A: Real>(&self, arguments: Checked<DispatchInto<'_, Self, A>>) -> Result<()> {
        let DispatchInto {
            config,
            tokens,
            ids,
            weights,
            tiles: _,
            map,
            scratch,
        } = arguments.into_inner();
        let RowMapMut {
            offsets,
            row_to_assignment,
            assignment_to_row,
            row_tiles: _,
        } = map;
        let (experts, top_k) = (config.num_experts(), config.top_k());
        let need = scratch_elements::<A>(config, tokens);
        check::workspace(ops::dispatch::DISPATCH, scratch.len(), need)?;

        let (place, sorted) = bytemuck::cast_slice_mut::<A, i32>(scratch).split_at_mut(experts);

        // Every assignment by (expert, token, slot), dropped ones too; `offsets[e + 1]` is where expert e ends.
        let expert_of = |id: i32| usize::try_from(id).ok().filter(|&e| e < experts);
        offsets.fill(0);
        for expert in ids.iter().filter_map(|&id| expert_of(id)) {
            offsets[expert + 1] += 1;
        }
        for e in 0..experts {
            offsets[e + 1] += offsets[e];
        }
        place.copy_from_slice(&offsets[..experts]);
        for (assignment, &id) in ids.iter().enumerate() {
            if let Some(expert) = expert_of(id) {
                sorted[place[expert] as usize] = assignment as i32;
                place[expert] += 1;
            }
        }

        // Each expert keeps at most its capacity; survivors go back to token order.
        let limit = config.expert_capacity(tokens);
        let mut rows = 0;
        let mut start = 0;
        for e in 0..experts {
            let end = offsets[e + 1] as usize;
            let mut kept = &mut sorted[start..end];
            if let Some(capacity) = config
                .capacity()
                .filter(|_| kept.len() > limit && limit < tokens)
            {
                keep_best(capacity, top_k, weights, kept, limit);
                kept = &mut kept[..limit];
            }
            row_to_assignment[rows..rows + kept.len()].copy_from_slice(kept);
            rows += kept.len();
            offsets[e + 1] = rows as i32;
            start = end;
        }
        row_to_assignment[rows..].fill(DROPPED);
        assignment_to_row.fill(DROPPED);
        for (row, &assignment) in row_to_assignment[..rows].iter().enumerate() {
            assignment_to_row[assignment as usize] = row as i32;
        }

        if config
            .capacity()
            .is_some_and(|c| c.renormalization() == Renormalize::AfterDrop)
        {
            let scale = A::from_f64(config.router().scaling_factor());
            for (weights, rows) in weights
                .chunks_exact_mut(top_k)
                .zip(assignment_to_row.chunks_exact(top_k))
            {
                renormalize(weights, rows, scale);
            }
        }
        Ok(())
    }
}

/// Moves the `limit` assignments that stay to the front, in token order.
fn keep_best<A: Real>(
    capacity: &Capacity,
    top_k: usize,
    weights: &[A],
    assignments: &mut [i32],
    limit: usize,
) {
    let slot = |assignment: i32| assignment as usize % top_k;
    // NaN is the least, as among logits.
    let weight = |assignment: i32| match weights[assignment as usize] {
        weight if weight.is_nan() => A::NEG_INFINITY,
        weight => weight,
    };
    let heavier_first = |&a: &i32, &b: &i32| {
        let order = weight(b).partial_cmp(&weight(a));
        order.unwrap_or(Ordering::Equal).then(a.cmp(&b))
    };
    match capacity.drop_policy() {
        DropPolicy::Position => return, // in token order already
        DropPolicy::Probability => {
            if limit > 0 {
                assignments.select_nth_unstable_by(limit - 1, heavier_first);
            }
        }
        DropPolicy::SlotMajor => {
            if limit > 0 {
                assignments.select_nth_unstable_by_key(limit - 1, |&a| (slot(a), a));
            }
        }
    }
    assignments[..limit].sort_unstable();
}

/// Survivors' weights sum to `scale`; dropped ones become 0.
fn renormalize<A: Real>(weights: &mut [A], rows: &[i32], scale: A) {
    let mut sum = A::ZERO;
    for (weight, &row) in weights.iter_mut().zip(rows) {
        if row < 0 {
            *weight = A::ZERO;
        }
        sum += *weight;
    }
    if sum > A::ZERO {
        for weight in weights {
            *weight = *weight / sum * scale;
        }
    }
}
