//! What the router measured.

use crate::config::ConfigError;
use crate::ops::stats;

/// The instruments of arXiv 2506.02890, from the router's own pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostics {
    /// Mean weight of each slot, first choice first \[K\]: over training, the router's maturation.
    pub slot_weights: Vec<f64>,
    /// Mean share of a token's weight that its first choice has.
    pub top1_share: f64,
    /// Mean entropy, in nats, of a token's distribution over all experts; ln E when uniform.
    pub entropy: f64,
    /// Assignments of each expert before dropping \[E\].
    pub assigned_per_expert: Vec<usize>,
    /// Rows of each expert after dropping \[E\].
    pub kept_per_expert: Vec<usize>,
    /// Rows with a NaN, a +∞ or nothing finite: left out of the means above and of the losses.
    pub bad_rows: usize,
}

impl Diagnostics {
    pub(crate) fn new(
        tokens: usize,
        top_k: usize,
        stats: &[f64],
        counts: &[i32],
        offsets: &[i32],
    ) -> Self {
        let bad_rows = stats[stats::BAD_ROWS] as usize;
        let rows = tokens.saturating_sub(bad_rows).max(1) as f64;
        let slots = &stats[stats::SLOT_WEIGHTS..stats::SLOT_WEIGHTS + top_k];
        Self {
            slot_weights: slots.iter().map(|sum| sum / rows).collect(),
            top1_share: stats[stats::TOP1_SHARE] / rows,
            entropy: stats[stats::ENTROPY] / rows,
            assigned_per_expert: counts.iter().map(|&n| n as usize).collect(),
            kept_per_expert: offsets.windows(2).map(|w| (w[1] - w[0]) as usize).collect(),
            bad_rows,
        }
    }

    /// Share of the assignments that were dropped.
    pub fn dropped_share(&self) -> f64 {
        let assigned: usize = self.assigned_per_expert.iter().sum();
        let kept: usize = self.kept_per_expert.iter().sum();
        if assigned == 0 {
            0.0
        } else {
            (assigned - kept) as f64 / assigned as f64
        }
    }

    /// Largest number of assignments of an expert over the mean; 1 when balanced.
    pub fn expert_imbalance(&self) -> f64 {
        imbalance(self.assigned_per_expert.iter().copied())
    }

    /// The same for expert-parallel groups: experts split evenly over `ranks` in order.
    ///
    /// # Errors
    /// When `ranks` does not divide the number of experts.
    pub fn group_imbalance(&self, ranks: usize) -> Result<f64, ConfigError> {
        let num_experts = self.assigned_per_expert.len();
        if ranks == 0 || !num_experts.is_multiple_of(ranks) {
            let what = "expert-parallel groups";
            return Err(ConfigError::UnevenGroups {
                what,
                groups: ranks,
                num_experts,
            });
        }
        let groups = self.assigned_per_expert.chunks_exact(num_experts / ranks);
        Ok(imbalance(groups.map(|group| group.iter().sum())))
    }
}

fn imbalance(loads: impl ExactSizeIterator<Item = usize>) -> f64 {
    let groups = loads.len() as f64;
    let (max, sum) = loads.fold((0, 0), |(max, sum), n| (n.max(max), sum + n));
    if sum == 0 {
        1.0
    } else {
        max as f64 * groups / sum as f64
    }
}
