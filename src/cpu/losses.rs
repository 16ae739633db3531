//! The router's losses: load balancing and z-loss (Megatron's constants), value and gradient.

use crate::config::MoeConfig;
use crate::element::{Real, row_sum};
use crate::losses::LossFactors;
use crate::ops::stats;

/// Turns the sums in `statistics` into the losses: its z entry holds Σ lse² until then.
pub(crate) fn finish<A: Real>(
    config: &MoeConfig,
    tokens: usize,
    counts: &[i32],
    statistics: &mut [A],
) {
    let probability = &statistics[stats::SLOT_WEIGHTS + config.top_k()..];
    let balance: f64 = probability
        .iter()
        .zip(counts)
        .map(|(p, &n)| p.to_f64() * f64::from(n))
        .sum();
    let factors = LossFactors::new(config, tokens);
    statistics[stats::AUX_LOSS] = A::from_f64(factors.aux * balance);
    // Without a z-loss it is 0, also where the sum of squares is infinite.
    let squares = match factors.z {
        0.0 => 0.0,
        _ => statistics[stats::Z_LOSS].to_f64(),
    };
    statistics[stats::Z_LOSS] = A::from_f64(factors.z * squares);
}

/// A token's probabilities p = `values`/`sum`, which sum to 1 − `rest`.
pub(crate) struct Shares<'a, A> {
    pub(crate) values: &'a [A],
    pub(crate) sum: A,
    pub(crate) rest: A,
}

/// Factors of the losses' gradients.
pub(crate) struct LossGrad<A> {
    aux: A,
    z: A,
}

impl<A: Real> LossGrad<A> {
    /// `gradient` is that of the sum of both losses.
    pub(crate) fn new(config: &MoeConfig, tokens: usize, gradient: f64) -> Self {
        let factors = LossFactors::new(config, tokens);
        Self {
            aux: A::from_f64(factors.aux * gradient),
            z: A::from_f64(2.0 * factors.z * gradient),
        }
    }

    /// Is there anything to add?
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        self.aux != A::ZERO || self.z != A::ZERO
    }

    /// Adds 2·coeff/T·lse·softmax.
    #[inline(always)]
    pub(crate) fn add_z(&self, lse: A, softmax: &[A], grad: &mut [A]) {
        let factor = self.z * lse;
        for (grad, &p) in grad.iter_mut().zip(softmax) {
            *grad += factor * p;
        }
    }

    /// Adds p_j·slope_j·(v_j − Σ p·v) with v_e = factor·n_e; the slope is 1 for a softmax. Every v is taken relative to that of
    /// `top`, the most probable expert.
    #[inline(always)]
    pub(crate) fn add_aux(
        &self,
        counts: &[i32],
        top: usize,
        shares: &Shares<'_, A>,
        slope: impl Fn(usize) -> A,
        grad: &mut [A],
    ) {
        let Shares { values, sum, rest } = *shares;
        let reference = f64::from(counts[top]);
        let v = |n: f64| self.aux * A::from_f64(n);
        let relative = |n: i32| v(f64::from(n) - reference);
        let mean = row_sum(
            values
                .iter()
                .zip(counts)
                .map(|(&p, &n)| p / sum * relative(n)),
        ) - v(reference) * rest;
        for (e, grad) in grad.iter_mut().enumerate() {
            *grad += values[e] / sum * slope(e) * (relative(counts[e]) - mean);
        }
    }
}
