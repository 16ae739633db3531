//! Router: logits → experts and weights, and back.
//!
//! One total order selects: higher score first, then higher logit, then lower index; −0 = +0, NaN counts as −∞, +∞ as the
//! largest finite value. Row sums are added in the order of [`row_sum`](crate::element::row_sum), which a warp of 32 lanes can follow.

use pulp::Arch;

use super::Cpu;
use super::losses::{self, LossGrad, Shares};
use super::parallel::{self, Disjoint, Inlined, Scratch};
use super::product::{Matrix, Store, padded, product};
use crate::check;
use crate::config::{
    GroupLimit, MoeConfig, Renormalize, RouterConfig, ScoreFunction, SingleExpert,
};
use crate::element::{Element, Real, all_finite, row_sum};
use crate::error::Result;
use crate::ops::{
    self, Checked, Logits, LogitsOf, Router, RouterBackward, RouterForward, RouterWeightGrad,
    stats, stats_elements,
};

/// Tokens of one task.
const PANEL: usize = 128;
/// Rows of scratch that routing one token needs: probabilities, scores, group scores.
const ROWS: usize = 3;
/// Added to a sigmoid row's sum before dividing, as DeepSeek-V3 does.
const SIGMOID_EPSILON: f64 = 1e-20;
/// What the sum of up to 64 weights in f32 may differ from 1 by rounding.
const SUM_ROUNDING: f64 = 4e-6;
/// Id of a slot without an expert.
const NO_EXPERT: i32 = -1;

/// Scratch of forward and backward; see [`Layout`]. Forward also has the panels' statistics, which come first.
pub(crate) fn scratch<T: Element>(config: &MoeConfig, tokens: usize) -> Scratch {
    let tasks = tokens.div_ceil(PANEL);
    let routing = Layout::new::<T>(config, tokens);
    Scratch {
        shared: tasks * padded(stats_elements(config)) + routing.weight,
        lane: routing.lane,
        tasks,
    }
}

/// Scratch of the weight gradient.
pub(crate) fn weight_grad_scratch(config: &MoeConfig) -> Scratch {
    Scratch {
        shared: 0,
        lane: weight_grad_lane(config),
        tasks: config.hidden_size().div_ceil(GRAD_COLUMNS),
    }
}

/// Pieces of scratch: the router weight in the accumulation type, whatever type it is in, and per lane a panel of logits, of
/// tokens, and three rows.
struct Layout {
    weight: usize,
    logits: usize,
    row: usize,
    lane: usize,
}

impl Layout {
    fn new<T: Element>(config: &MoeConfig, tokens: usize) -> Self {
        let (experts, hidden) = (config.num_experts(), config.hidden_size());
        let rows = PANEL.min(tokens);
        let logits = padded(rows * experts);
        let row = padded(experts);
        let tokens = padded(T::widen_scratch(rows * hidden));
        Self {
            weight: padded(experts * hidden),
            logits,
            row,
            lane: logits + ROWS * row + tokens,
        }
    }
}

impl Router for Cpu {
    fn run_router_forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterForward<'_, Self, T, W>>,
    ) -> Result<()> {
        let RouterForward {
            config,
            tokens,
            logits,
            selection_bias,
            ids,
            weights,
            lse,
            counts,
            stats,
            logits_output,
            scratch,
        } = arguments.into_inner();
        let (experts, top_k) = (config.num_experts(), config.top_k());
        let need = self::scratch::<T>(config, tokens);
        check::workspace(ops::router::FORWARD, scratch.len(), need.least())?;

        let panels = tokens.div_ceil(PANEL);
        let row_of_stats = padded(stats_elements(config));
        let (partial, scratch) = scratch.split_at_mut(panels * row_of_stats);
        {
            let (ids, weights) = (Disjoint::new(ids), Disjoint::new(weights));
            let (lse, partial) = (Disjoint::new(lse), Disjoint::new(partial));
            let logits_output = logits_output.map(Disjoint::new);
            for_each_panel(
                config,
                tokens,
                &logits,
                scratch,
                #[inline(always)]
                |panel, first, rows, logits, scratch| {
                    // SAFETY: each panel is one task, and takes only its own rows.
                    let (ids, weights, lse, partial) = unsafe {
                        (
                            ids.part(first * top_k, rows * top_k),
                            weights.part(first * top_k, rows * top_k),
                            lse.part(first, rows),
                            partial.part(panel * row_of_stats, row_of_stats),
                        )
                    };
                    partial.fill(T::Acc::ZERO);
                    if let Some(out) = &logits_output {
                        // SAFETY: as above.
                        let out = unsafe { out.part(first * experts, rows * experts) };
                        out.copy_from_slice(logits);
                    }
                    for (row, logits) in logits.chunks_exact_mut(experts).enumerate() {
                        let slots = row * top_k..(row + 1) * top_k;
                        let (ids, weights) = (&mut ids[slots.clone()], &mut weights[slots]);
                        lse[row] = route(
                            config,
                            logits,
                            selection_bias,
                            scratch,
                            ids,
                            weights,
                            partial,
                        );
                    }
                },
            );
        }

        counts.fill(0);
        for expert in ids.iter().filter_map(|&id| usize::try_from(id).ok()) {
            counts[expert] += 1;
        }
        stats.fill(T::Acc::ZERO);
        for partial in partial.chunks_exact(row_of_stats) {
            for (total, &partial) in stats.iter_mut().zip(partial) {
                *total += partial;
            }
        }
        losses::finish(config, tokens, counts, stats);
        Ok(())
    }

    fn run_router_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterBackward<'_, Self, T, W>>,
    ) -> Result<()> {
        let RouterBackward {
            config,
            tokens,
            logits,
            ids,
            weights,
            lse,
            counts,
            weights_grad,
            loss_gradient,
            logits_grad,
            scratch,
        } = arguments.into_inner();
        let (experts, top_k) = (config.num_experts(), config.top_k());
        let need = self::scratch::<T>(config, tokens);
        check::workspace(ops::router::BACKWARD, scratch.len(), need.least())?;

        let loss = LossGrad::<T::Acc>::new(config, tokens, loss_gradient);
        let logits_grad = Disjoint::new(logits_grad);
        for_each_panel(
            config,
            tokens,
            &logits,
            scratch,
            #[inline(always)]
            |_, first, rows, logits, scratch| {
                // SAFETY: each panel is one task, and takes only its own rows.
                let grad = unsafe { logits_grad.part(first * experts, rows * experts) };
                let rows = logits
                    .chunks_exact_mut(experts)
                    .zip(grad.chunks_exact_mut(experts));
                for (row, (logits, grad)) in rows.enumerate() {
                    let token = first + row;
                    grad.fill(T::Acc::ZERO);
                    if lse[token].is_nan() {
                        continue; // a bad row has no gradient
                    }
                    let slots = token * top_k..(token + 1) * top_k;
                    let row = Row {
                        logits,
                        ids: &ids[slots.clone()],
                        weights: &weights[slots.clone()],
                        weights_grad: &weights_grad[slots],
                        lse: lse[token],
                    };
                    let probability = &mut scratch[..experts];
                    route_backward(config, &row, counts, &loss, probability, grad);
                }
            },
        );
        Ok(())
    }

    fn run_router_weight_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterWeightGrad<'_, Self, T, W>>,
    ) -> Result<()> {
        let RouterWeightGrad {
            config,
            tokens,
            logits_grad,
            x,
            grad,
            scratch,
        } = arguments.into_inner();
        let (experts, hidden) = (config.num_experts(), config.hidden_size());
        let lane = weight_grad_lane(config);
        check::workspace(ops::router::WEIGHT_GRAD, scratch.len(), lane)?;

        // A task is a slice of columns; tokens are gone through in order, so the sum is the same however many lanes there are.
        let grad = super::GradTarget::new(grad);
        let tasks = hidden.div_ceil(GRAD_COLUMNS);
        parallel::for_each(tasks, scratch, lane, |task, scratch| {
            let first = task * GRAD_COLUMNS;
            let columns = GRAD_COLUMNS.min(hidden - first);
            let (sum, panel) = scratch.split_at_mut(padded(experts * GRAD_COLUMNS));
            let sum = &mut sum[..experts * columns];
            sum.fill(T::Acc::ZERO);
            for start in (0..tokens).step_by(GRAD_TOKENS) {
                let rows = GRAD_TOKENS.min(tokens - start);
                for (row, x) in x[start * hidden..]
                    .chunks_exact(hidden)
                    .take(rows)
                    .enumerate()
                {
                    let panel = &mut panel[row * columns..][..columns];
                    T::widen_into(&x[first..first + columns], panel);
                    if all_finite(panel) {
                        continue;
                    }
                    // A dz of 0 leaves out what it is multiplied by: a bad row has no part in the gradient.
                    let dz = &logits_grad[(start + row) * experts..][..experts];
                    for (&dz, sum) in dz.iter().zip(sum.chunks_exact_mut(columns)) {
                        if dz != T::Acc::ZERO {
                            for (sum, &x) in sum.iter_mut().zip(&*panel) {
                                *sum += dz * x;
                            }
                        }
                    }
                    panel.fill(T::Acc::ZERO);
                }
                let dz = Matrix::new(&logits_grad[start * experts..], rows, experts);
                product(
                    sum,
                    columns,
                    Store::Add,
                    dz.t(),
                    Matrix::new(panel, rows, columns),
                );
            }
            for (expert, row) in sum.chunks_exact(columns).enumerate() {
                // SAFETY: tasks own different columns.
                unsafe { grad.store(expert * hidden + first, row) };
            }
        });
        Ok(())
    }
}

/// dz·Wᵣ of the tokens of `dz` [·, E], the router's part of dX, into `out` [·, H].
pub(crate) fn input_grad<A: Real>(config: &MoeConfig, dz: &[A], weight: &[A], out: &mut [A]) {
    let (experts, hidden) = (config.num_experts(), config.hidden_size());
    let weight_matrix = Matrix::new(weight, experts, hidden);
    let dz_matrix = Matrix::new(dz, dz.len() / experts, experts);
    product(out, hidden, Store::Overwrite, dz_matrix, weight_matrix);
    leave_out_zeros(config, dz, |index| weight[index], out);
}

/// Corrects `out` = dz·Wᵣ where it is not finite: a dz of 0 leaves out what it is multiplied by, for the weight of a masked expert may be
/// infinite. `weight` gives an element of Wᵣ.
pub(crate) fn leave_out_zeros<A: Real>(
    config: &MoeConfig,
    dz: &[A],
    weight: impl Fn(usize) -> A,
    out: &mut [A],
) {
    let (experts, hidden) = (config.num_experts(), config.hidden_size());
    for (dz, out) in dz.chunks_exact(experts).zip(out.chunks_exact_mut(hidden)) {
        if all_finite(out) {
            continue;
        }
        for (column, out) in out.iter_mut().enumerate() {
            if !out.is_finite() {
                let counted = dz.iter().enumerate().filter(|&(_, &dz)| dz != A::ZERO);
                let terms = counted.map(|(e, &dz)| dz * weight(e * hidden + column));
                *out = terms.sum();
            }
        }
    }
}

const GRAD_COLUMNS: usize = 128;
const GRAD_TOKENS: usize = 512;

fn weight_grad_lane(config: &MoeConfig) -> usize {
    padded(config.num_experts() * GRAD_COLUMNS) + padded(GRAD_TOKENS * GRAD_COLUMNS)
}

/// Calls `each(panel, first token, rows, logits, rows of scratch)` for every panel of tokens, with its logits in scratch.
fn for_each_panel<T: Element, W: Element<Acc = T::Acc>>(
    config: &MoeConfig,
    tokens: usize,
    source: &LogitsOf<'_, Cpu, T, W>,
    scratch: &mut [T::Acc],
    each: impl Fn(usize, usize, usize, &mut [T::Acc], &mut [T::Acc]) + Sync,
) {
    let (experts, hidden) = (config.num_experts(), config.hidden_size());
    let layout = Layout::new::<T>(config, tokens);
    let (weight_scratch, scratch) = scratch.split_at_mut(layout.weight);
    let weight = match source {
        Logits::FromTokens { weight, .. } => W::widen_slice(weight, weight_scratch),
        Logits::Given(_) | Logits::GivenNarrow(_) => &[],
    };
    let arch = Arch::new();
    parallel::for_each(
        tokens.div_ceil(PANEL),
        scratch,
        layout.lane,
        |panel, scratch| {
            let first = panel * PANEL;
            let rows = PANEL.min(tokens - first);
            let (logits, scratch) = scratch.split_at_mut(layout.logits);
            let (row_scratch, scratch) = scratch.split_at_mut(ROWS * layout.row);
            let logits = &mut logits[..rows * experts];
            match source {
                Logits::FromTokens { x, .. } => {
                    let x = T::widen_slice(&x[first * hidden..(first + rows) * hidden], scratch);
                    let (x, weight) = (
                        Matrix::new(x, rows, hidden),
                        Matrix::new(weight, experts, hidden),
                    );
                    product(logits, experts, Store::Overwrite, x, weight.t());
                }
                Logits::Given(given) => {
                    logits.copy_from_slice(&given[first * experts..(first + rows) * experts]);
                }
                Logits::GivenNarrow(given) => {
                    T::widen_into(&given[first * experts..(first + rows) * experts], logits);
                }
            }
            arch.dispatch(Inlined(
                #[inline(always)]
                || each(panel, first, rows, logits, row_scratch),
            ));
        },
    );
}

/// Makes every value comparable; true for a bad row. A row with nothing finite becomes one of zeros, so that its weights
/// are equal.
#[inline(always)]
fn sanitize<A: Real>(logits: &mut [A]) -> bool {
    let mut bad = false;
    let mut any_finite = false;
    for z in logits.iter_mut() {
        if z.is_nan() {
            (*z, bad) = (A::NEG_INFINITY, true);
        } else if *z > A::MAX {
            (*z, bad) = (A::MAX, true);
        }
        any_finite |= *z > A::NEG_INFINITY;
    }
    if !any_finite {
        logits.fill(A::ZERO);
    }
    bad || !any_finite
}

/// e^(z − max) of each logit into `out`, and (max, sum).
#[inline(always)]
fn exponentials<A: Real>(logits: &[A], out: &mut [A]) -> (A, A) {
    let max = logits
        .iter()
        .fold(A::NEG_INFINITY, |m, &z| if z > m { z } else { m });
    for (out, &z) in out.iter_mut().zip(logits) {
        *out = (z - max).exp();
    }
    (max, row_sum(out.iter().copied()))
}

/// One token: fills its `ids` and `weights`, adds to the statistics, returns its lse (NaN for a bad row).
#[inline(always)]
fn route<A: Real>(
    config: &MoeConfig,
    logits: &mut [A],
    bias: Option<&[A]>,
    scratch: &mut [A],
    ids: &mut [i32],
    weights: &mut [A],
    statistics: &mut [A],
) -> A {
    let router = config.router();
    let bad = sanitize(logits);
    let (probability, scratch) = scratch.split_at_mut(logits.len());
    let (score, scratch) = scratch.split_at_mut(logits.len());

    let (max, sum) = exponentials(logits, probability);
    let lse = max + sum.ln();
    let normalizer = if router.score_function == ScoreFunction::Sigmoid {
        for (p, &z) in probability.iter_mut().zip(logits.iter()) {
            *p = z.sigmoid();
        }
        // Without a bias scores are compared as logits, which do not saturate.
        score.copy_from_slice(logits);
        if let Some(bias) = bias {
            for ((score, &p), &bias) in score.iter_mut().zip(probability.iter()).zip(bias) {
                // A masked expert stays masked whatever its bias.
                if *score > A::NEG_INFINITY {
                    *score = comparable(p + bias);
                }
            }
        }
        row_sum(probability.iter().copied()) + A::from_f64(SIGMOID_EPSILON)
    } else {
        score.copy_from_slice(logits);
        sum
    };

    if let Some(limit) = router.groups {
        mask_groups(router, limit, logits, bias.is_some(), score, scratch);
    }
    select(score, logits, ids);
    if bias.is_some() {
        // Slots go by weight, and the bias is not part of it.
        sort_by_logit(logits, ids);
    }
    weigh(router, logits, probability, normalizer, ids, weights);

    if bad {
        statistics[stats::BAD_ROWS] += A::ONE;
        return A::NAN;
    }
    // A masked expert that was picked, for want of others, takes no row: its slot becomes a sentinel.
    for id in ids.iter_mut() {
        if logits[*id as usize] == A::NEG_INFINITY {
            *id = NO_EXPERT;
        }
    }
    let mut entropy = A::ZERO;
    let expert_sums = &mut statistics[stats::SLOT_WEIGHTS + ids.len()..];
    for (total, &p) in expert_sums.iter_mut().zip(probability.iter()) {
        let p = p / normalizer;
        *total += p;
        if p > A::ZERO {
            entropy += -(p * p.ln());
        }
    }
    statistics[stats::ENTROPY] += entropy;
    statistics[stats::Z_LOSS] += lse * lse;
    let total = row_sum(weights.iter().copied());
    if total > A::ZERO {
        statistics[stats::TOP1_SHARE] += weights[0] / total;
    }
    for (sum, &weight) in statistics[stats::SLOT_WEIGHTS..]
        .iter_mut()
        .zip(weights.iter())
    {
        *sum += weight;
    }
    lse
}

#[inline(always)]
fn comparable<A: Real>(value: A) -> A {
    if value.is_nan() {
        A::NEG_INFINITY
    } else if value > A::MAX {
        A::MAX
    } else {
        value
    }
}

/// Leaves only the experts of the best groups selectable: the others' score becomes NaN, which [`select`] passes over.
#[inline(always)]
fn mask_groups<A: Real>(
    router: &RouterConfig,
    limit: GroupLimit,
    logits: &[A],
    biased: bool,
    score: &mut [A],
    scratch: &mut [A],
) {
    let size = score.len() / limit.groups;
    let group_scores = &mut scratch[..limit.groups];
    for (group_score, scores) in group_scores.iter_mut().zip(score.chunks_exact(size)) {
        *group_score = score_group(router, biased, scores);
    }
    // Equal sums of sigmoids go by what the two highest lack of 1, which tells saturated ones apart.
    let lack = |group: usize| {
        if router.score_function != ScoreFunction::Sigmoid {
            return A::ZERO;
        }
        let (first, second) = two_best(&logits[group * size..(group + 1) * size]);
        (-first).sigmoid() + (-second).sigmoid()
    };
    for (group, scores) in score.chunks_exact_mut(size).enumerate() {
        let own = group_scores[group];
        let first_of_equals = |other: usize| {
            let (theirs, ours) = (lack(other), lack(group));
            theirs < ours || (theirs == ours && other < group)
        };
        let better = |(other, &s): (usize, &A)| {
            s > own || (s == own && other != group && first_of_equals(other))
        };
        let rank = group_scores
            .iter()
            .enumerate()
            .filter(|&pair| better(pair))
            .count();
        if rank >= limit.selected {
            scores.fill(A::NAN);
        }
    }
}

/// The sum of the two best of a sigmoid router's group, the best of a softmax router's.
#[inline(always)]
fn score_group<A: Real>(router: &RouterConfig, biased: bool, scores: &[A]) -> A {
    let (first, second) = two_best(scores);
    if router.score_function != ScoreFunction::Sigmoid {
        return first;
    }
    // Without a bias these are logits.
    let score = |s: A| match !biased && s > A::NEG_INFINITY {
        true => s.sigmoid(),
        false => s,
    };
    comparable(score(first) + score(second))
}

#[inline(always)]
fn two_best<A: Real>(scores: &[A]) -> (A, A) {
    let (mut first, mut second) = (A::NEG_INFINITY, A::NEG_INFINITY);
    for &score in scores {
        if score > first {
            (first, second) = (score, first);
        } else if score > second {
            second = score;
        }
    }
    (first, second)
}

/// The K best scores in order, the higher logit among equals: an insertion sort that experts enter in index order, so that a
/// tie keeps the lower index.
#[inline(always)]
fn select<A: Real>(score: &[A], logits: &[A], ids: &mut [i32]) {
    let before = |expert: usize, other: i32| {
        let other = other as usize;
        score[expert] > score[other]
            || (score[expert] == score[other] && logits[expert] > logits[other])
    };
    let mut filled = 0;
    for (expert, &s) in score.iter().enumerate() {
        if s.is_nan() {
            continue; // excluded
        }
        if filled == ids.len() {
            if before(expert, ids[filled - 1]) {
                filled -= 1;
            } else {
                continue;
            }
        }
        let mut place = filled;
        while place > 0 && before(expert, ids[place - 1]) {
            ids[place] = ids[place - 1];
            place -= 1;
        }
        ids[place] = expert as i32;
        filled += 1;
    }
    debug_assert_eq!(
        filled,
        ids.len(),
        "the configuration guarantees K selectable experts"
    );
}

/// Sorts ids by (logit descending, index): by weight, which never falls where the logit rises, and saturated ones too.
#[inline(always)]
fn sort_by_logit<A: Real>(logits: &[A], ids: &mut [i32]) {
    let before = |a: i32, b: i32| {
        let (za, zb) = (logits[a as usize], logits[b as usize]);
        za > zb || (za == zb && a < b)
    };
    for i in 1..ids.len() {
        let mut place = i;
        while place > 0 && before(ids[place], ids[place - 1]) {
            ids.swap(place, place - 1);
            place -= 1;
        }
    }
}

/// The weights of the picked experts. `probability` is not normalised yet: e^(z−max) or σ(z).
#[inline(always)]
fn weigh<A: Real>(
    router: &RouterConfig,
    logits: &[A],
    probability: &[A],
    normalizer: A,
    ids: &[i32],
    weights: &mut [A],
) {
    let scale = A::from_f64(router.scaling_factor);
    let divisor = match router.score_function {
        ScoreFunction::SoftmaxAfterTopK => {
            let top = logits[ids[0] as usize];
            for (weight, &id) in weights.iter_mut().zip(ids) {
                let z = logits[id as usize];
                // All masked, in the groups that were selected: equal weights.
                *weight = if top > A::NEG_INFINITY {
                    (z - top).exp()
                } else {
                    A::ONE
                };
            }
            row_sum(weights.iter().copied())
        }
        ScoreFunction::SoftmaxBeforeTopK => {
            pick(probability, ids, weights);
            normalizer
        }
        ScoreFunction::Sigmoid => {
            pick(probability, ids, weights);
            if ids.len() > 1 {
                row_sum(weights.iter().copied()) + A::from_f64(SIGMOID_EPSILON)
            } else {
                A::ONE
            }
        }
    };
    for weight in weights.iter_mut() {
        *weight = *weight / divisor * scale;
    }
}

#[inline(always)]
fn pick<A: Real>(values: &[A], ids: &[i32], out: &mut [A]) {
    for (out, &id) in out.iter_mut().zip(ids) {
        *out = values[id as usize];
    }
}

/// What backward knows of one token.
struct Row<'a, A> {
    logits: &'a [A],
    ids: &'a [i32],
    weights: &'a [A],
    weights_grad: &'a [A],
    lse: A,
}

/// Adds the gradient of one good row's logits to `grad`, which is 0.
///
/// Each part is w_i·(v_i − Σ w·v). Where one weight is nearly 1 its two terms are nearly equal, so every v is taken relative to
/// that of the heaviest, whose own term is then exactly 0. A weight of 0 is left out, whatever its v.
#[inline(always)]
fn route_backward<A: Real>(
    config: &MoeConfig,
    row: &Row<'_, A>,
    counts: &[i32],
    loss: &LossGrad<A>,
    probability: &mut [A],
    grad: &mut [A],
) {
    let router = config.router();
    let scale = A::from_f64(router.scaling_factor);
    let experts = grad.len() as i32;
    // Sentinels take part in nothing: their gradient is 0.
    let sentinel = |id: i32| !(0..experts).contains(&id);
    let all_slots = || {
        let slots = row.ids.iter().zip(row.weights).zip(row.weights_grad);
        slots.map(|((&id, &w), &g)| (id, w, g))
    };
    let slots = || all_slots().filter(|&(id, ..)| !sentinel(id));
    let renormalized = config
        .capacity()
        .is_some_and(|c| c.renormalization() == Renormalize::AfterDrop);
    let sigmoid = router.score_function == ScoreFunction::Sigmoid;
    // Are the weights entries of the full softmax (or do they pretend to be, straight-through)?
    let full = !renormalized
        && match router.score_function {
            ScoreFunction::SoftmaxAfterTopK => {
                router.single_expert == SingleExpert::StraightThrough
            }
            ScoreFunction::SoftmaxBeforeTopK => true,
            ScoreFunction::Sigmoid => false,
        };
    // The most probable expert.
    let mut top = 0;
    if full || loss.any() {
        // Not e^(z − lse): lse has lost ln Σ where the logits are large, and p would not sum to 1.
        let (max, sum) = exponentials(row.logits, probability);
        top = row.logits.iter().position(|&z| z == max).unwrap_or(0);
        for p in probability.iter_mut() {
            *p = *p / sum;
        }
    }

    if full {
        for (id, _, g) in slots() {
            grad[id as usize] += g * scale;
        }
        let reference = grad[top];
        let pairs = grad.iter().zip(probability.iter());
        let mean = row_sum(pairs.map(|(&g, &p)| weighted(p, g - reference)));
        for (grad, &p) in grad.iter_mut().zip(probability.iter()) {
            *grad = weighted(p, *grad - reference - mean);
        }
    } else {
        // w/scale is normalised over the picked (or surviving) experts, unless a sigmoid is alone; the slope of a sigmoid's
        // logarithm is σ(−z), that of an exponential's is 1.
        let alone = sigmoid && row.ids.len() == 1;
        let reference = match slots().find(|&(_, w, _)| w > A::ZERO) {
            Some((.., g)) if !alone => g,
            _ => A::ZERO,
        };
        let of_kept = |value: &dyn Fn(i32, A, A) -> A| {
            row_sum(all_slots().map(|(id, w, g)| match sentinel(id) {
                true => A::ZERO,
                false => value(id, w, g),
            }))
        };
        let mut mean = A::ZERO;
        if !alone {
            mean = of_kept(&|_, w, g| weighted(w / scale, g - reference));
        }
        if !alone && !renormalized {
            // The sum of the weights is this much below 1: a sentinel's share, if it was one of the picked and no empty slot, or
            // that of the epsilon.
            let mut missing = A::ZERO;
            if row.ids.iter().any(|&id| sentinel(id)) {
                missing = A::ONE - of_kept(&|_, w, _| w / scale);
            }
            if missing <= A::from_f64(SUM_ROUNDING) {
                missing = A::ZERO;
                if sigmoid {
                    let epsilon = A::from_f64(SIGMOID_EPSILON);
                    let sigma = of_kept(&|id, _, _| row.logits[id as usize].sigmoid());
                    missing = epsilon / (sigma + epsilon);
                }
            }
            mean += -(reference * missing);
        }
        for (id, w, g) in slots() {
            let e = id as usize;
            let slope = if sigmoid {
                (-row.logits[e]).sigmoid()
            } else {
                A::ONE
            };
            grad[e] += weighted(w, g - reference - mean) * slope;
        }
    }

    if loss.any() {
        loss.add_z(row.lse, probability, grad);
        if sigmoid {
            for (p, &z) in probability.iter_mut().zip(row.logits) {
                *p = z.sigmoid();
            }
            let epsilon = A::from_f64(SIGMOID_EPSILON);
            let sum = row_sum(probability.iter().copied()) + epsilon;
            let slope = |e: usize| (-row.logits[e]).sigmoid();
            let shares = Shares {
                values: probability,
                sum,
                rest: epsilon / sum,
            };
            loss.add_aux(counts, top, &shares, slope, grad);
        } else {
            let slope = |_| A::ONE;
            let shares = Shares {
                values: probability,
                sum: A::ONE,
                rest: A::ZERO,
            };
            loss.add_aux(counts, top, &shares, slope, grad);
        }
    }
}

/// weight·value; 0 where the weight is not above 0.
#[inline(always)]
fn weighted<A: Real>(weight: A, value: A) -> A {
    if weight > A::ZERO {
        weight * value
    } else {
        A::ZERO
    }
}
