//! The scaling law for fine-grained Mixture-of-Experts of arXiv 2402.07871 (Krajewski et al., 2024): loss as a function of
//! model size, training tokens and granularity, and the granularity that a training budget should buy.
//!
//! # Math
//! Loss L(N, D, G) = c + (g/G^γ + a)/N^α + b/D^β, with N total non-embedding parameters, D training tokens, granularity
//! G = d_ff/d_expert and d_ff = 4·d: the dense layer is split into G parts, there are G·E experts, and a token uses G of
//! them. E, the expansion rate, counts dense layers' worth of experts.
//!
//! FLOPs F = (12·d²·c_f + d·E·G·c_r)·D·blocks with d = 64·blocks. c_f = 6 FLOPs a parameter and token, forward and backward;
//! c_r = 14 for routing.
//!
//! # Evidence
//! From the paper: both equations, every constant of [`ScalingLaw`], c_f and c_r, d = 64·blocks, the table of
//! compute-optimal models that the tests compare with. The law was fitted on 129M to 3.7B parameters, 16 to 130 billion
//! tokens and G from 1 to 16, with Expert Choice routing and experts without a gate matrix; everything beyond that is its
//! extrapolation, the larger rows of the table included.
//!
//! Calculated here: the optimum for a budget, with d continuous as the table needs; N = d²·(8·E + 4)·blocks, the reading under
//! which the table's rows agree with the equations (a model that the table calls 64×100M has 43 times its 100M active
//! parameters, not 64 times). With it the table's FLOPs come out within 1 %, its losses .011 to .024 lower than printed, as
//! the constants are rounded; the optimal granularity of all seven budgets agrees, N and D within 3 %. At 1e20 FLOPs a dense
//! model needs 21 times the compute for the same loss (paper: 20); at 1e25 we get 32 times, where the paper says over 40.
//!
//! c_r is the authors' estimate (they allow 6 to 20) and counts operations. Dispatch and combine cost mostly memory traffic,
//! so a figure measured on one's own machine is better: set [`FlopCost::routing`].
//!
//! ```
//! use millet::scaling_law::{FlopCost, ScalingLaw};
//!
//! // How finely should the experts be split when 1.93e20 FLOPs are there to train with?
//! let best = ScalingLaw::MOE_E64.compute_optimal_granularity(
//!     &FlopCost::default(),
//!     1.93e20,
//!     &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
//! )?;
//! assert_eq!(best.model.granularity, 16.0);
//! assert_eq!(best.model.expert_width().round(), 440.0);
//! # Ok::<(), millet::ConfigError>(())
//! ```

use crate::ConfigError;

/// Constants of the loss L(N, D, G) = c + (g/G^γ + a)/N^α + b/D^β, fitted at one expansion rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalingLaw {
    /// E, dense layers' worth of experts; 1 for a dense model.
    pub expansion_rate: f64,
    /// Weight of the term in N.
    pub a: f64,
    /// Exponent of N.
    pub alpha: f64,
    /// Weight of the term in D.
    pub b: f64,
    /// Exponent of D.
    pub beta: f64,
    /// Weight of granularity.
    pub g: f64,
    /// Exponent of granularity.
    pub gamma: f64,
    /// Irreducible loss, nats per token.
    pub c: f64,
}

impl ScalingLaw {
    /// Mixture of experts, expansion rate 64: the paper's main fit.
    pub const MOE_E64: Self = Self {
        expansion_rate: 64.0,
        a: 18.1,
        alpha: 0.115,
        b: 30.8,
        beta: 0.147,
        g: 2.1,
        gamma: 0.58,
        c: 0.47,
    };

    /// Expansion rate 64, fitted without the fifth of the runs that had the lowest perplexity.
    pub const MOE_E64_WITHOUT_BEST_RUNS: Self = Self {
        expansion_rate: 64.0,
        a: 17.6,
        alpha: 0.114,
        b: 26.7,
        beta: 0.140,
        g: 2.07,
        gamma: 0.570,
        c: 0.472,
    };

    /// Mixture of experts, expansion rate 16.
    pub const MOE_E16: Self = Self {
        expansion_rate: 16.0,
        a: 19.64,
        alpha: 0.124,
        b: 57.07,
        beta: 0.169,
        g: 1.18,
        gamma: 0.986,
        c: 0.472,
    };

    /// The dense models of the same paper: no term in G, so use it with G = 1 only.
    pub const DENSE: Self = Self {
        expansion_rate: 1.0,
        a: 16.3,
        alpha: 0.126,
        b: 26.7,
        beta: 0.127,
        g: 0.0,
        gamma: 0.0,
        c: 0.47,
    };

    /// Loss in nats per token for N total non-embedding `parameters`, D training `tokens` and `granularity` G, all above 0.
    pub fn loss(&self, parameters: f64, tokens: f64, granularity: f64) -> f64 {
        self.c + self.parameter_term(parameters, granularity) + self.b / tokens.powf(self.beta)
    }

    fn parameter_term(&self, parameters: f64, granularity: f64) -> f64 {
        (self.g / granularity.powf(self.gamma) + self.a) / parameters.powf(self.alpha)
    }

    /// The model and number of tokens of lowest loss that `flops` FLOPs of training can buy at one granularity, d continuous.
    ///
    /// # Math
    /// With F fixed, D is a function of d, and the loss is convex in ln d: (…)/N^α is an exponential of it, b/D^β a power of
    /// a sum of two exponentials. The optimum is where
    /// 3·α·(g/G^γ + a)/N^α = (3 − r)·β·b/D^β, r being routing's share of the FLOPs; found by bisection.
    ///
    /// # Errors
    /// When the budget is not finite and above 0, or the granularity not finite and at least 1.
    pub fn compute_optimal(
        &self,
        cost: &FlopCost,
        flops: f64,
        granularity: f64,
    ) -> Result<Optimum, ConfigError> {
        require(flops > 0.0, "FLOP budget", "finite and above 0", flops)?;
        require(
            granularity >= 1.0,
            "granularity",
            "finite and at least 1",
            granularity,
        )?;
        let purchase = |log_hidden_size: f64| {
            let model = Transformer::new(log_hidden_size.exp(), self.expansion_rate, granularity);
            (model, flops / model.flops_per_token(cost))
        };
        let loss_grows_with_size = |log_hidden_size: f64| {
            let (model, tokens) = purchase(log_hidden_size);
            let gain = 3.0 * self.alpha * self.parameter_term(model.parameters(), granularity);
            let routing_share = model.routing_share(cost);
            let price = (3.0 - routing_share) * self.beta * self.b / tokens.powf(self.beta);
            price > gain
        };
        // e^±100 encloses the d of every budget that an f64 can hold; 64 halvings of that interval reach its precision.
        let (mut low, mut high) = (-100.0, 100.0);
        for _ in 0..64 {
            let middle = 0.5 * (low + high);
            if loss_grows_with_size(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        let (model, tokens) = purchase(0.5 * (low + high));
        Ok(Optimum {
            model,
            tokens,
            loss: self.loss(model.parameters(), tokens, granularity),
        })
    }

    /// The best of [`compute_optimal`](Self::compute_optimal) over the granularities given; the first of equals.
    ///
    /// # Errors
    /// As [`compute_optimal`](Self::compute_optimal), or when no granularity is given.
    pub fn compute_optimal_granularity(
        &self,
        cost: &FlopCost,
        flops: f64,
        granularities: &[f64],
    ) -> Result<Optimum, ConfigError> {
        let mut best: Option<Optimum> = None;
        for &granularity in granularities {
            let candidate = self.compute_optimal(cost, flops, granularity)?;
            if best.is_none_or(|best| candidate.loss < best.loss) {
                best = Some(candidate);
            }
        }
        best.ok_or(ConfigError::Zero {
            what: "number of granularities",
        })
    }
}

/// What a token costs in training FLOPs, forward and backward together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlopCost {
    /// c_f, FLOPs for each active parameter and token.
    pub compute: f64,
    /// c_r, FLOPs for each element of d times each expert and token.
    pub routing: f64,
}

impl Default for FlopCost {
    /// c_f = 6 and the paper's estimate c_r = 14: 6 for the router's logits, 4 each for dispatch and combine.
    fn default() -> Self {
        Self {
            compute: 6.0,
            routing: 14.0,
        }
    }
}

/// The paper's transformer: d = 64·blocks, attention of 4·d² and an ungated feed-forward layer of 8·d² parameters per block, the
/// latter split by G and multiplied by E. Sizes are continuous.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transformer {
    /// d.
    pub hidden_size: f64,
    /// E, dense layers' worth of experts; 1 with G = 1 is dense and has no router.
    pub expansion_rate: f64,
    /// G.
    pub granularity: f64,
}

impl Transformer {
    /// A model of width d.
    pub fn new(hidden_size: f64, expansion_rate: f64, granularity: f64) -> Self {
        Self {
            hidden_size,
            expansion_rate,
            granularity,
        }
    }

    /// The model that has `active_parameters`, by which the paper names its models: 1e8 in 64×100M.
    ///
    /// ```
    /// # use millet::scaling_law::Transformer;
    /// let model = Transformer::with_active_parameters(1e8, 64.0, 8.0);
    /// assert_eq!(model.hidden_size.round(), 811.0);
    /// ```
    pub fn with_active_parameters(
        active_parameters: f64,
        expansion_rate: f64,
        granularity: f64,
    ) -> Self {
        let hidden_size = (active_parameters * 64.0 / 12.0).cbrt();
        Self::new(hidden_size, expansion_rate, granularity)
    }

    /// Transformer blocks: d/64.
    pub fn blocks(&self) -> f64 {
        self.hidden_size / 64.0
    }

    /// Experts in a block: E·G.
    pub fn num_experts(&self) -> f64 {
        self.expansion_rate * self.granularity
    }

    /// Width of one expert: 4·d/G.
    pub fn expert_width(&self) -> f64 {
        4.0 * self.hidden_size / self.granularity
    }

    /// N, all parameters but embeddings and router: d²·(8·E + 4)·blocks.
    pub fn parameters(&self) -> f64 {
        self.hidden_size.powi(2) * (8.0 * self.expansion_rate + 4.0) * self.blocks()
    }

    /// Parameters that one token uses, embeddings and router excepted: 12·d²·blocks.
    pub fn active_parameters(&self) -> f64 {
        12.0 * self.hidden_size.powi(2) * self.blocks()
    }

    /// Training FLOPs per token: (12·d²·c_f + d·E·G·c_r)·blocks.
    pub fn flops_per_token(&self, cost: &FlopCost) -> f64 {
        self.compute_flops_per_token(cost) + self.routing_flops_per_token(cost)
    }

    /// Routing's share of [`flops_per_token`](Self::flops_per_token).
    pub fn routing_share(&self, cost: &FlopCost) -> f64 {
        self.routing_flops_per_token(cost) / self.flops_per_token(cost)
    }

    fn compute_flops_per_token(&self, cost: &FlopCost) -> f64 {
        self.active_parameters() * cost.compute
    }

    fn routing_flops_per_token(&self, cost: &FlopCost) -> f64 {
        if self.num_experts() == 1.0 {
            return 0.0; // dense: nothing to route
        }
        self.hidden_size * self.num_experts() * cost.routing * self.blocks()
    }
}

/// What a budget buys best.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Optimum {
    /// The model.
    pub model: Transformer,
    /// D, tokens to train it on.
    pub tokens: f64,
    /// The loss predicted, nats per token.
    pub loss: f64,
}

fn require(
    ok: bool,
    what: &'static str,
    expected: &'static str,
    given: f64,
) -> Result<(), ConfigError> {
    if ok && given.is_finite() {
        Ok(())
    } else {
        Err(ConfigError::Value {
            what,
            expected,
            given,
        })
    }
}
