//! The router's losses: what every backend multiplies its sums by.

use crate::config::{AuxScale, MoeConfig};

/// Factors of the losses for a number of tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LossFactors {
    /// coeff·E/(K·T²), or without the 1/K: what Σₑ Σₜp·n is multiplied by.
    pub(crate) aux: f64,
    /// coeff/T: what Σₜ lse² is multiplied by.
    pub(crate) z: f64,
}

impl LossFactors {
    pub(crate) fn new(config: &MoeConfig, tokens: usize) -> Self {
        let losses = config.losses();
        let assignments = match losses.scale() {
            AuxScale::PerAssignment => config.top_k() as f64,
            AuxScale::PerToken => 1.0,
        };
        // Without tokens every sum is 0.
        let tokens = tokens.max(1) as f64;
        Self {
            aux: losses.aux() * config.num_experts() as f64 / (assignments * tokens * tokens),
            z: losses.z() / tokens,
        }
    }
}
