//! The layer once more, from its definition: scalar loops, no blocks, no shared code. In `f64` it is what is right; in `f32`
//! with storage rounded where a kernel would store (h, a, w·y, w·a, dh, dX̃ and the results), it shows what error is to be
//! expected of a type.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use millet::{
    Activation, AuxScale, DropPolicy, MoeConfig, Renormalize, ScoreFunction, SingleExpert,
};

use crate::harness::{Outcome, Problem};

/// `f32` or `f64`.
pub trait Number:
    Copy
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// The largest finite one.
    const MAX: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// Rounded to this type.
    fn of(value: f64) -> Self;
    /// Widened, which is exact.
    fn f64(self) -> f64;
    /// e to this power.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
}

macro_rules! number {
    ($type:ty) => {
        impl Number for $type {
            const MAX: Self = <$type>::MAX;
            const NEG_INFINITY: Self = <$type>::NEG_INFINITY;
            fn of(value: f64) -> Self {
                value as $type
            }
            fn f64(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> Self {
                <$type>::exp(self)
            }
            fn ln(self) -> Self {
                <$type>::ln(self)
            }
        }
    };
}
number!(f32);
number!(f64);

fn sigmoid<N: Number>(z: N) -> N {
    N::of(1.0) / (N::of(1.0) + (-z).exp())
}

fn sum<N: Number>(values: impl IntoIterator<Item = N>) -> N {
    values
        .into_iter()
        .fold(N::of(0.0), |sum, value| sum + value)
}

/// The layer of a configuration, computed in `N`.
pub struct Oracle<'a, N> {
    /// What the layer is.
    pub config: &'a MoeConfig,
    /// To the tokens' storage type and back.
    pub store: fn(N) -> N,
    /// To the router weight's storage type and back.
    pub store_router: fn(N) -> N,
}

/// What the router makes of logits.
#[derive(Debug, Clone)]
pub struct Routed<N> {
    /// Logits with every value comparable.
    pub logits: Vec<Vec<N>>,
    /// Of each token, whether its row is bad: it has a NaN or +∞, or nothing finite.
    pub bad: Vec<bool>,
    /// The experts picked \[T, K\], −1 where a masked one was.
    pub ids: Vec<i32>,
    /// Their combine weights \[T, K\], before anything is dropped.
    pub weights: Vec<N>,
    /// Of each token, the logarithm of the sum of exponentials.
    pub lse: Vec<N>,
    /// Tokens per expert, before anything is dropped.
    pub counts: Vec<i32>,
    /// Softmax over all experts, of each token.
    pub softmax: Vec<Vec<N>>,
    /// The distribution whose balance is the auxiliary loss.
    pub distribution: Vec<Vec<N>>,
    /// Its sums over the rows that are not bad.
    pub expert_sums: Vec<N>,
    /// The load-balancing loss.
    pub aux: N,
    /// The z loss.
    pub z: N,
}

/// What dispatch makes of a routing.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<N> {
    /// Exclusive prefix sums of rows per expert \[E + 1\].
    pub offsets: Vec<i32>,
    /// Of each row, its assignment t·K + slot.
    pub row_to_assignment: Vec<i32>,
    /// Of each assignment its row, −1 where it has none.
    pub assignment_to_row: Vec<i32>,
    /// The combine weights \[T, K\], renormalised if the configuration says so.
    pub weights: Vec<N>,
}

impl<'a> Oracle<'a, f64> {
    /// What is right: f64, and nothing rounded.
    pub fn exact(config: &'a MoeConfig) -> Self {
        Self {
            config,
            store: |v| v,
            store_router: |v| v,
        }
    }
}

impl<N: Number> Oracle<'_, N> {
    fn scale(&self) -> N {
        N::of(self.config.router().scaling_factor())
    }

    /// Rows that an expert takes at most, where that is fewer than there are tokens.
    pub fn capacity(&self, tokens: usize) -> Option<usize> {
        let capacity = self.config.capacity()?;
        let mean = (tokens * self.config.top_k()) as f64 / self.config.num_experts() as f64;
        let limit = (mean * capacity.factor()).ceil() as usize;
        (limit < tokens).then_some(limit)
    }

    /// A row's comparable logits, and whether it is bad.
    fn clean(&self, row: &[N]) -> (Vec<N>, bool) {
        let mut bad = false;
        let row: Vec<N> = row
            .iter()
            .map(|&z| match z.f64() {
                v if v.is_nan() => {
                    bad = true;
                    N::NEG_INFINITY
                }
                v if v == f64::INFINITY => {
                    bad = true;
                    N::MAX
                }
                _ => z,
            })
            .collect();
        if row.iter().all(|&z| z == N::NEG_INFINITY) {
            return (vec![N::of(0.0); row.len()], true);
        }
        (row, bad)
    }

    fn softmax(row: &[N]) -> (Vec<N>, N) {
        let max = row
            .iter()
            .fold(N::NEG_INFINITY, |m, &z| if z > m { z } else { m });
        let exps: Vec<N> = row.iter().map(|&z| (z - max).exp()).collect();
        let total = sum(exps.iter().copied());
        (exps.iter().map(|&e| e / total).collect(), max + total.ln())
    }

    /// The K best of `allowed`, by (score, what decides between equal ones, lower index).
    fn best(
        scores: &[N],
        ties: &[N],
        allowed: impl Iterator<Item = usize>,
        count: usize,
    ) -> Vec<usize> {
        let mut order: Vec<usize> = allowed.collect();
        let higher = |values: &[N], a: usize, b: usize| values[b].partial_cmp(&values[a]).unwrap();
        order.sort_by(|&a, &b| {
            let by_score = higher(scores, a, b);
            by_score.then(higher(ties, a, b)).then(a.cmp(&b))
        });
        order.truncate(count);
        order
    }

    fn pick(&self, logits: &[N], bias: Option<&[N]>) -> Vec<usize> {
        let (experts, top_k) = (self.config.num_experts(), self.config.top_k());
        let sigmoid_router = self.config.router().score_function() == ScoreFunction::Sigmoid;
        let scores: Vec<N> = (0..experts)
            .map(|e| match (sigmoid_router, bias) {
                (false, _) => logits[e],
                _ if logits[e] == N::NEG_INFINITY => N::NEG_INFINITY,
                (true, None) => sigmoid(logits[e]),
                (true, Some(bias)) => sigmoid(logits[e]) + bias[e],
            })
            .collect();
        // What is compared: scores are known by their logits where those order them alike.
        let compared = if bias.is_none() { logits } else { &scores };
        let mut picked = match self.config.router().groups() {
            None => Self::best(compared, logits, 0..experts, top_k),
            Some(limit) => {
                let size = experts / limit.groups;
                let group_scores: Vec<N> = (0..limit.groups)
                    .map(|g| {
                        let members = g * size..(g + 1) * size;
                        let count = if sigmoid_router { 2 } else { 1 };
                        sum(Self::best(compared, logits, members, count)
                            .iter()
                            .map(|&e| scores[e]))
                    })
                    .collect();
                // Of equal sums of sigmoids the one whose two highest lack the least of 1.
                let lacks: Vec<N> = (0..limit.groups)
                    .map(|g| match sigmoid_router {
                        false => N::of(0.0),
                        true => {
                            let members = g * size..(g + 1) * size;
                            let two = Self::best(logits, logits, members, 2);
                            -sum(two.iter().map(|&e| sigmoid(-logits[e])))
                        }
                    })
                    .collect();
                let groups = Self::best(&group_scores, &lacks, 0..limit.groups, limit.selected);
                let allowed = (0..experts).filter(|e| groups.contains(&(e / size)));
                Self::best(compared, logits, allowed, top_k)
            }
        };
        if bias.is_some() {
            // Slots are ordered by weight, which does not know the bias.
            picked = Self::best(logits, logits, picked.into_iter(), top_k);
        }
        picked
    }

    fn weigh(&self, logits: &[N], softmax: &[N], picked: &[usize]) -> Vec<N> {
        let scale = self.scale();
        match self.config.router().score_function() {
            ScoreFunction::SoftmaxAfterTopK => {
                let own: Vec<N> = picked.iter().map(|&e| logits[e]).collect();
                Self::softmax(&own)
                    .0
                    .into_iter()
                    .map(|w| w * scale)
                    .collect()
            }
            ScoreFunction::SoftmaxBeforeTopK => {
                picked.iter().map(|&e| softmax[e] * scale).collect()
            }
            ScoreFunction::Sigmoid => {
                let own: Vec<N> = picked.iter().map(|&e| sigmoid(logits[e])).collect();
                let total = match own.len() {
                    1 => N::of(1.0),
                    _ => sum(own.iter().copied()) + N::of(1e-20),
                };
                own.into_iter().map(|s| s / total * scale).collect()
            }
            other => panic!("the oracle does not know {other:?}"),
        }
    }

    fn aux_factor(&self, tokens: usize) -> f64 {
        let (experts, tokens) = (self.config.num_experts() as f64, tokens as f64);
        let losses = self.config.losses();
        let per = match losses.scale() {
            AuxScale::PerAssignment => self.config.top_k() as f64,
            AuxScale::PerToken => 1.0,
            other => panic!("the oracle does not know {other:?}"),
        };
        losses.aux() * experts / (per * tokens * tokens)
    }

    /// Logits [T, E] → routing and losses.
    pub fn route(&self, logits: &[N], bias: Option<&[N]>) -> Routed<N> {
        let experts = self.config.num_experts();
        let tokens = logits.len() / experts;
        let zero = N::of(0.0);
        let mut routed = Routed {
            logits: Vec::new(),
            bad: Vec::new(),
            ids: Vec::new(),
            weights: Vec::new(),
            lse: Vec::new(),
            counts: vec![0; experts],
            softmax: Vec::new(),
            distribution: Vec::new(),
            expert_sums: vec![zero; experts],
            aux: zero,
            z: zero,
        };
        let mut squares = zero;
        for row in logits.chunks_exact(experts) {
            let (row, bad) = self.clean(row);
            let (softmax, lse) = Self::softmax(&row);
            let picked = self.pick(&row, bias);
            routed.weights.extend(self.weigh(&row, &softmax, &picked));
            let distribution = match self.config.router().score_function() {
                ScoreFunction::Sigmoid => {
                    let total = sum(row.iter().map(|&z| sigmoid(z))) + N::of(1e-20);
                    row.iter().map(|&z| sigmoid(z) / total).collect()
                }
                _ => softmax.clone(),
            };
            for e in picked {
                // A masked expert that was picked leaves its slot empty.
                if !bad && row[e] == N::NEG_INFINITY {
                    routed.ids.push(-1);
                    continue;
                }
                routed.ids.push(e as i32);
                routed.counts[e] += 1;
            }
            if !bad {
                squares += lse * lse;
                for (total, &p) in routed.expert_sums.iter_mut().zip(&distribution) {
                    *total += p;
                }
            }
            routed.logits.push(row);
            routed.bad.push(bad);
            routed.lse.push(lse);
            routed.softmax.push(softmax);
            routed.distribution.push(distribution);
        }
        if tokens > 0 {
            let pairs = routed.expert_sums.iter().zip(&routed.counts);
            let balance = sum(pairs.map(|(&p, &n)| p * N::of(f64::from(n))));
            routed.aux = N::of(self.aux_factor(tokens)) * balance;
            let z = self.config.losses().z() / tokens as f64;
            // A loss that is off is 0, also where the sum of squares is infinite.
            routed.z = if z == 0.0 {
                N::of(0.0)
            } else {
                N::of(z) * squares
            };
        }
        routed
    }

    /// Routing → plan. Ids outside 0..E are sentinels.
    pub fn dispatch(&self, ids: &[i32], weights: &[N]) -> Plan<N> {
        let (experts, top_k) = (self.config.num_experts(), self.config.top_k());
        let tokens = ids.len() / top_k;
        let mut plan = Plan {
            offsets: vec![0],
            row_to_assignment: Vec::new(),
            assignment_to_row: vec![-1; ids.len()],
            weights: weights.to_vec(),
        };
        for e in 0..experts {
            let mut own: Vec<usize> = (0..ids.len()).filter(|&a| ids[a] == e as i32).collect();
            if let Some(limit) = self.capacity(tokens) {
                let policy = self.config.capacity().unwrap().drop_policy();
                match policy {
                    DropPolicy::Position => {}
                    // Sorting is stable, so ties go to the lower token.
                    DropPolicy::Probability => {
                        own.sort_by(|&a, &b| weights[b].partial_cmp(&weights[a]).unwrap());
                    }
                    DropPolicy::SlotMajor => own.sort_by_key(|a| a % top_k),
                    other => panic!("the oracle does not know {other:?}"),
                }
                own.truncate(limit);
                own.sort();
            }
            for assignment in own {
                plan.assignment_to_row[assignment] = plan.row_to_assignment.len() as i32;
                plan.row_to_assignment.push(assignment as i32);
            }
            plan.offsets.push(plan.row_to_assignment.len() as i32);
        }
        if self.renormalizes() {
            for token in 0..tokens {
                let slots = token * top_k..(token + 1) * top_k;
                let kept = |a: usize| plan.assignment_to_row[a] >= 0;
                let total = sum(slots.clone().filter(|&a| kept(a)).map(|a| weights[a]));
                for a in slots {
                    plan.weights[a] = match kept(a) {
                        false => N::of(0.0),
                        true if total > N::of(0.0) => weights[a] / total * self.scale(),
                        true => weights[a],
                    };
                }
            }
        }
        plan
    }

    fn renormalizes(&self) -> bool {
        let capacity = self.config.capacity();
        capacity.is_some_and(|c| c.renormalization() == Renormalize::AfterDrop)
    }

    /// ∂w_i/∂z_e of one token [K][E], before anything is dropped.
    fn weight_jacobian(&self, logits: &[N], softmax: &[N], picked: &[usize]) -> Vec<Vec<N>> {
        let (zero, one, scale) = (N::of(0.0), N::of(1.0), self.scale());
        let router = self.config.router();
        let mut jacobian = vec![vec![zero; logits.len()]; picked.len()];
        let delta = |same: bool| if same { one } else { zero };
        let full = router.score_function() == ScoreFunction::SoftmaxBeforeTopK
            || router.single_expert() == SingleExpert::StraightThrough;
        for (i, row) in jacobian.iter_mut().enumerate() {
            let own = picked[i];
            if full {
                for (e, d) in row.iter_mut().enumerate() {
                    *d = scale * softmax[own] * (delta(e == own) - softmax[e]);
                }
            } else if router.score_function() == ScoreFunction::SoftmaxAfterTopK {
                let chosen: Vec<N> = picked.iter().map(|&e| logits[e]).collect();
                let (w, _) = Self::softmax(&chosen);
                for (j, &e) in picked.iter().enumerate() {
                    row[e] = scale * w[i] * (delta(i == j) - w[j]);
                }
            } else {
                let s: Vec<N> = picked.iter().map(|&e| sigmoid(logits[e])).collect();
                let total = sum(s.iter().copied()) + N::of(1e-20);
                for (j, &e) in picked.iter().enumerate() {
                    let slope = s[j] * (one - s[j]);
                    let outer = match self.config.top_k() {
                        1 => one,
                        _ => delta(i == j) / total - s[i] / total / total,
                    };
                    row[e] = scale * outer * slope;
                }
            }
        }
        jacobian
    }

    /// Gradients of the combine weights and of `loss_gradient`·(aux + z) → gradient of the logits [T, E].
    pub fn route_backward(
        &self,
        routed: &Routed<N>,
        plan: &Plan<N>,
        weights_grad: &[N],
        loss_gradient: f64,
    ) -> Vec<N> {
        let (experts, top_k) = (self.config.num_experts(), self.config.top_k());
        let tokens = routed.bad.len();
        let (zero, one) = (N::of(0.0), N::of(1.0));
        let mut grads = vec![zero; tokens * experts];
        for (token, grad) in grads.chunks_exact_mut(experts).enumerate() {
            if routed.bad[token] {
                continue;
            }
            let slots = token * top_k..(token + 1) * top_k;
            let (logits, softmax) = (&routed.logits[token], &routed.softmax[token]);
            let (filled, picked): (Vec<usize>, Vec<usize>) = (routed.ids[slots.clone()].iter())
                .enumerate()
                .filter(|&(_, &e)| e >= 0)
                .map(|(slot, &e)| (slot, e as usize))
                .unzip();
            let jacobian = self.weight_jacobian(logits, softmax, &picked);
            let mut g = weights_grad[slots.clone()].to_vec();
            if self.renormalizes() {
                // w'_i = scale·w_i/W over the kept: pull g back through that first.
                let raw = &routed.weights[slots.clone()];
                let kept: Vec<bool> = slots.map(|a| plan.assignment_to_row[a] >= 0).collect();
                let total = sum((0..top_k).filter(|&i| kept[i]).map(|i| raw[i]));
                let outer = g.clone();
                for j in 0..top_k {
                    let terms = (0..top_k).filter(|&i| kept[i]).map(|i| {
                        let same = if i == j { one / total } else { zero };
                        outer[i] * self.scale() * (same - raw[i] / total / total)
                    });
                    g[j] = if kept[j] { sum(terms) } else { zero };
                }
            }
            for (&slot, row) in filled.iter().zip(&jacobian) {
                for (total, &d) in grad.iter_mut().zip(row) {
                    *total += g[slot] * d;
                }
            }

            let v: Vec<N> = (routed.counts.iter())
                .map(|&n| N::of(self.aux_factor(tokens) * loss_gradient * f64::from(n)))
                .collect();
            let p = &routed.distribution[token];
            let mean = sum(p.iter().zip(&v).map(|(&p, &v)| p * v));
            let z_factor = N::of(2.0 * self.config.losses().z() / tokens as f64 * loss_gradient);
            for e in 0..experts {
                let slope = match self.config.router().score_function() {
                    ScoreFunction::Sigmoid => one - sigmoid(logits[e]),
                    _ => one,
                };
                grad[e] += p[e] * slope * (v[e] - mean);
                grad[e] += z_factor * routed.lse[token] * softmax[e];
            }
        }
        grads
    }

    /// a of gate and up, and its derivatives with respect to both.
    pub(crate) fn activation(&self, gate: N, up: N) -> [N; 3] {
        let (zero, one) = (N::of(0.0), N::of(1.0));
        match self.config.activation() {
            Activation::SwiGlu => {
                let s = sigmoid(gate);
                [gate * s * up, up * (s + gate * s * (one - s)), gate * s]
            }
            Activation::ClampedSwiGlu {
                alpha,
                limit,
                offset,
            } => {
                let (alpha, limit, offset) = (N::of(alpha), N::of(limit), N::of(offset));
                let (gate, gate_slope) = match gate > limit {
                    true => (limit, zero),
                    false => (gate, one),
                };
                let (up, up_slope) = match up {
                    up if up > limit => (limit, zero),
                    up if up < -limit => (-limit, zero),
                    up => (up, one),
                };
                let s = sigmoid(alpha * gate);
                let slope = s + alpha * gate * s * (one - s);
                let glu = gate * s;
                [
                    glu * (up + offset),
                    gate_slope * (up + offset) * slope,
                    up_slope * glu,
                ]
            }
            other => panic!("the oracle does not know {other:?}"),
        }
    }

    /// The whole layer, forward and backward of ⟨output, output_grad⟩ + `loss_gradient`·(aux + z).
    pub fn layer(&self, problem: &Problem, loss_gradient: f64) -> Outcome {
        let (hidden, inner) = (self.config.hidden_size(), self.config.intermediate_size());
        let (experts, top_k) = (self.config.num_experts(), self.config.top_k());
        let tokens = problem.tokens;
        let convert = |values: &[f64]| values.iter().map(|&v| N::of(v)).collect::<Vec<N>>();
        let (x, router) = (convert(&problem.x), convert(&problem.router));
        let (gate_up, down) = (convert(&problem.gate_up), convert(&problem.down));
        let output_grad = convert(&problem.output_grad);
        // None is a bias of zeros.
        let or_zeros = |bias: &[f64], len: usize| match bias.is_empty() {
            true => vec![N::of(0.0); len],
            false => convert(bias),
        };
        let gate_up_bias = or_zeros(&problem.gate_up_bias, experts * 2 * inner);
        let down_bias = or_zeros(&problem.down_bias, experts * hidden);
        let bias = problem.bias.as_deref().map(convert);
        let zero = N::of(0.0);
        let store = self.store;

        let mut logits = vec![zero; tokens * experts];
        for t in 0..tokens {
            for e in 0..experts {
                let terms = (0..hidden).map(|i| x[t * hidden + i] * router[e * hidden + i]);
                logits[t * experts + e] = sum(terms);
            }
        }
        let routed = self.route(&logits, bias.as_deref());
        let plan = self.dispatch(&routed.ids, &routed.weights);

        let mut output = vec![zero; tokens * hidden];
        let mut weights_grad = vec![zero; tokens * top_k];
        let mut x_sums = vec![zero; tokens * hidden];
        let mut gate_up_grad = vec![zero; gate_up.len()];
        let mut down_grad = vec![zero; down.len()];
        let mut gate_up_bias_grad = vec![zero; gate_up_bias.len()];
        let mut down_bias_grad = vec![zero; down_bias.len()];
        for t in 0..tokens {
            let x = &x[t * hidden..(t + 1) * hidden];
            let d_out = &output_grad[t * hidden..(t + 1) * hidden];
            for slot in 0..top_k {
                let assignment = t * top_k + slot;
                if plan.assignment_to_row[assignment] < 0 {
                    continue;
                }
                let (e, w) = (routed.ids[assignment] as usize, plan.weights[assignment]);
                let gate_up_at = |j: usize, i: usize| (e * 2 * inner + j) * hidden + i;
                let down_at = |i: usize, j: usize| (e * hidden + i) * inner + j;

                let h: Vec<N> = (0..2 * inner)
                    .map(|j| {
                        let product = sum((0..hidden).map(|i| x[i] * gate_up[gate_up_at(j, i)]));
                        store(product + gate_up_bias[e * 2 * inner + j])
                    })
                    .collect();
                let a: Vec<N> = (0..inner)
                    .map(|j| store(self.activation(h[j], h[inner + j])[0]))
                    .collect();
                for i in 0..hidden {
                    let y = sum((0..inner).map(|j| a[j] * down[down_at(i, j)]));
                    output[t * hidden + i] += store(w * (y + down_bias[e * hidden + i]));
                }

                let a_grad: Vec<N> = (0..inner)
                    .map(|j| sum((0..hidden).map(|i| d_out[i] * down[down_at(i, j)])))
                    .collect();
                let through_bias = sum((0..hidden).map(|i| d_out[i] * down_bias[e * hidden + i]));
                weights_grad[assignment] = sum((0..inner).map(|j| a_grad[j] * a[j])) + through_bias;
                let mut h_grad = vec![zero; 2 * inner];
                for j in 0..inner {
                    let [_, gate, up] = self.activation(h[j], h[inner + j]);
                    let d = w * a_grad[j];
                    h_grad[j] = store(d * gate);
                    h_grad[inner + j] = store(d * up);
                }
                for j in 0..inner {
                    let weighted = store(w * a[j]);
                    for i in 0..hidden {
                        down_grad[down_at(i, j)] += d_out[i] * weighted;
                    }
                }
                for i in 0..hidden {
                    down_bias_grad[e * hidden + i] += w * d_out[i];
                }
                for j in 0..2 * inner {
                    gate_up_bias_grad[e * 2 * inner + j] += h_grad[j];
                    for i in 0..hidden {
                        gate_up_grad[gate_up_at(j, i)] += h_grad[j] * x[i];
                    }
                }
                for i in 0..hidden {
                    let terms = (0..2 * inner).map(|j| h_grad[j] * gate_up[gate_up_at(j, i)]);
                    x_sums[t * hidden + i] += store(sum(terms));
                }
            }
        }

        if problem.gate_up_bias.is_empty() {
            (gate_up_bias_grad, down_bias_grad) = (Vec::new(), Vec::new());
        }
        let logits_grad = self.route_backward(&routed, &plan, &weights_grad, loss_gradient);
        let mut router_grad = vec![zero; router.len()];
        for t in 0..tokens {
            for e in 0..experts {
                let dz = logits_grad[t * experts + e];
                for i in 0..hidden {
                    x_sums[t * hidden + i] += dz * router[e * hidden + i];
                    router_grad[e * hidden + i] += dz * x[t * hidden + i];
                }
            }
        }

        let stored = |values: Vec<N>| values.into_iter().map(|v| store(v).f64()).collect();
        let plain = |values: Vec<N>| values.into_iter().map(N::f64).collect();
        Outcome {
            output: stored(output),
            ids: routed.ids,
            weights: plain(plan.weights),
            assignment_to_row: plan.assignment_to_row,
            offsets: plan.offsets,
            losses: vec![routed.aux.f64(), routed.z.f64()],
            x_grad: stored(x_sums),
            router_grad: router_grad
                .into_iter()
                .map(|v| (self.store_router)(v).f64())
                .collect(),
            gate_up_grad: stored(gate_up_grad),
            down_grad: stored(down_grad),
            gate_up_bias_grad: stored(gate_up_bias_grad),
            down_bias_grad: stored(down_bias_grad),
        }
    }
}
