//! What a layer is: sizes, router, capacity, losses; validated once, when built.
//!
//! ```
//! use millet::{Capacity, DropPolicy, Losses, MoeConfig, ScoreFunction};
//!
//! // 64 experts of width 1024 in a model of width 2048, 8 of them per token: the 1xFLOPs-G8 recipe.
//! let config = MoeConfig::builder(2048, 1024, 64, 8)
//!     .score_function(ScoreFunction::SoftmaxAfterTopK)
//!     .capacity(Capacity::new(1.5).policy(DropPolicy::Probability))
//!     .losses(Losses::new(1e-2, 1e-3))
//!     .build()?;
//! // The same sizes from the dense layer they refine: E0 = 8, d_ff = 8192, k0 = 1 at granularity 8.
//! let same = MoeConfig::from_dense(2048, 8192, 8, 1, 8)?.build()?;
//! assert_eq!((same.num_experts(), same.intermediate_size(), same.top_k()), (64, 1024, 8));
//! # Ok::<(), millet::ConfigError>(())
//! ```

/// How logits become expert weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ScoreFunction {
    /// Softmax over the K picked logits (Mixtral, Qwen3, GPT-OSS, arXiv 2506.02890). The same value and gradient as softmax
    /// over all experts, top-k, renormalise.
    #[default]
    SoftmaxAfterTopK,
    /// Softmax over all E logits, not renormalised (Switch, OLMoE, DeepSeek-V2). Its gradient is dense over the experts.
    SoftmaxBeforeTopK,
    /// σ(z), selected with an optional per-expert bias that gets no gradient and does not enter the weight, renormalised
    /// over the K picked when K > 1 (DeepSeek-V3).
    Sigmoid,
}

/// What K = 1 with [`ScoreFunction::SoftmaxAfterTopK`] means: its weight is always 1, so its gradient is always 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SingleExpert {
    /// Refuse the configuration.
    #[default]
    Refuse,
    /// Forward weight 1; backward the gradient of the full softmax probability.
    StraightThrough,
}

/// Group-limited selection: experts are split evenly into `groups` in index order, the best `selected` groups stay, and
/// the K experts are picked among those. A group's score is the sum of its two best biased scores with
/// [`ScoreFunction::Sigmoid`] (DeepSeek-V3) and its best score with the softmaxes (DeepSeek-V2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimit {
    /// Number of groups; divides E.
    pub groups: usize,
    /// Groups that stay; at most `groups`, and they must hold at least K experts.
    pub selected: usize,
}

/// Which assignments an expert over its capacity keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DropPolicy {
    /// Those of largest weight, ties to the lower token (Megatron's `probs`).
    #[default]
    Probability,
    /// The first by token.
    Position,
    /// All first choices before second choices, by token within a slot (GShard).
    SlotMajor,
}

/// Whether the weights of a token that lost assignments are scaled up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Renormalize {
    /// Survivors keep their weight (Megatron).
    #[default]
    Never,
    /// Survivors' weights sum to what the K weights of a normalised router would (DeepSpeed).
    AfterDrop,
}

/// Capacity dropping: an expert takes at most `C = ceil((T·K/E)·factor)` assignments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    pub(crate) factor: f64,
    pub(crate) policy: DropPolicy,
    pub(crate) renormalize: Renormalize,
}

impl Capacity {
    /// A capacity factor, 1.5 in arXiv 2506.02890; 0 drops everything. Policy and renormalisation start at their defaults.
    pub fn new(factor: f64) -> Self {
        Self {
            factor,
            policy: DropPolicy::default(),
            renormalize: Renormalize::default(),
        }
    }

    /// Chooses which assignments stay.
    #[must_use]
    pub fn policy(mut self, policy: DropPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Chooses what happens to the weights of survivors.
    #[must_use]
    pub fn renormalize(mut self, renormalize: Renormalize) -> Self {
        self.renormalize = renormalize;
        self
    }
}

/// Scale of the load-balancing loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AuxScale {
    /// coeff·E/(K·T²)·Σₑ Σₜp·n: equals `coeff` at balance (Megatron).
    #[default]
    PerAssignment,
    /// Without the 1/K: equals `coeff`·K at balance (llm-random, the code of arXiv 2402.07871).
    PerToken,
}

/// Coefficients of the router's losses; 0 turns one off.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Losses {
    pub(crate) aux: f64,
    pub(crate) z: f64,
    pub(crate) scale: AuxScale,
}

impl Losses {
    /// Load-balancing and z-loss coefficients (1e-2 and 1e-3 in arXiv 2506.02890).
    pub fn new(aux: f64, z: f64) -> Self {
        Self {
            aux,
            z,
            scale: AuxScale::default(),
        }
    }

    /// Chooses the convention of the load-balancing loss.
    #[must_use]
    pub fn aux_scale(mut self, scale: AuxScale) -> Self {
        self.scale = scale;
        self
    }
}

/// What an expert makes of its two halves, gate and up: a\[i\] of gate\[i\] and up\[i\].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Activation {
    /// gate·σ(gate)·up.
    #[default]
    SwiGlu,
    /// g·σ(alpha·g)·(u + offset), with g = min(gate, limit) and u = up between −limit and limit.
    ///
    /// The gradient of a clamped value is 0; at the limit itself it passes, as in `torch.clamp`. NaN is not clamped.
    ClampedSwiGlu {
        /// Factor inside σ: finite, above 0. These three hold in f32 too.
        alpha: f64,
        /// Largest gate, and largest |up|: finite, above 0.
        limit: f64,
        /// Added to the clamped up: finite.
        offset: f64,
    },
}

impl Activation {
    /// [`ClampedSwiGlu`](Self::ClampedSwiGlu) as GPT-OSS has it: alpha 1.702, limit 7, offset 1.
    pub const GPT_OSS: Self = Self::ClampedSwiGlu {
        alpha: 1.702,
        limit: 7.0,
        offset: 1.0,
    };

    fn validate(self) -> Result<(), ConfigError> {
        match self {
            Self::SwiGlu => Ok(()),
            Self::ClampedSwiGlu {
                alpha,
                limit,
                offset,
            } => {
                // Most backends compute in f32.
                let single = |value: f64| value as f32;
                let positive = |value| single(value) > 0.0 && single(value).is_finite();
                let expected = "finite and above 0, in f32 too";
                check_value("alpha of ClampedSwiGlu", expected, positive(alpha), alpha)?;
                check_value("limit of ClampedSwiGlu", expected, positive(limit), limit)?;
                let finite = single(offset).is_finite();
                check_value(
                    "offset of ClampedSwiGlu",
                    "finite, in f32 too",
                    finite,
                    offset,
                )
            }
        }
    }
}

/// Which of the experts' products have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ExpertBias {
    /// Neither.
    #[default]
    None,
    /// Both: h = x·gate_upᵀ + \[E, 2I\] and y = a·downᵀ + \[E, H\] (GPT-OSS).
    GateUpAndDown,
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size that must be at least 1 is 0.
    #[error("{what} must be at least 1, but is 0")]
    Zero {
        /// The size.
        what: &'static str,
    },
    /// A size is over what the layer can index.
    #[error("{what} must be at most {limit}, but is {given}")]
    TooLarge {
        /// The size.
        what: &'static str,
        /// Largest value possible.
        limit: usize,
        /// Value given.
        given: usize,
    },
    /// More experts per token than experts.
    #[error("top_k must be at most the number of experts, {num_experts}, but is {top_k}")]
    TopKOverExperts {
        /// K.
        top_k: usize,
        /// E.
        num_experts: usize,
    },
    /// One expert per token with softmax after top-k: a constant weight that never learns.
    #[error(
        "top_k = 1 with SoftmaxAfterTopK gives every token the weight 1 and the router no gradient: choose \
         SoftmaxBeforeTopK (Switch) or Sigmoid, or ask for SingleExpert::StraightThrough"
    )]
    SingleExpertHasNoGradient,
    /// Straight-through was asked for where it has no meaning.
    #[error(
        "SingleExpert::StraightThrough needs top_k = 1 and SoftmaxAfterTopK, but top_k is {top_k} and the score \
         function {score_function:?}"
    )]
    StraightThroughNeedsSingleExpert {
        /// K.
        top_k: usize,
        /// The score function given.
        score_function: ScoreFunction,
    },
    /// One expert per token, renormalised after dropping: again a constant weight.
    #[error(
        "Renormalize::AfterDrop needs top_k of at least 2, but top_k is 1: the only weight would always be 1 and the \
         router get no gradient"
    )]
    RenormalizeSingleExpert,
    /// A number that must be finite, most of them also at least 0 or above 0, is not.
    #[error("{what} must be {expected}, but is {given}")]
    Value {
        /// The number.
        what: &'static str,
        /// What it must be.
        expected: &'static str,
        /// Value given.
        given: f64,
    },
    /// The experts cannot be split evenly.
    #[error("{groups} {what} cannot split {num_experts} experts evenly")]
    UnevenGroups {
        /// What the experts are split into.
        what: &'static str,
        /// Number of groups.
        groups: usize,
        /// E.
        num_experts: usize,
    },
    /// More groups selected than there are, or too few to find K experts in.
    #[error(
        "{selected} of {groups} groups hold {available} experts, but top_k = {top_k} must be found in at least 1 and at \
         most {groups} groups"
    )]
    GroupSelection {
        /// Groups selected.
        selected: usize,
        /// Number of groups.
        groups: usize,
        /// Experts in the selected groups.
        available: usize,
        /// K.
        top_k: usize,
    },
    /// The groups of a sigmoid router are scored by their two best experts.
    #[error(
        "a group's score is the sum of its two best experts, but {groups} groups of {num_experts} experts have one each"
    )]
    GroupOfOne {
        /// Number of groups.
        groups: usize,
        /// E.
        num_experts: usize,
    },
    /// Granularity must divide the dense width.
    #[error("granularity {granularity} does not divide the dense layer's d_ff = {d_ff}")]
    Granularity {
        /// G.
        granularity: usize,
        /// Width of the dense layer.
        d_ff: usize,
    },
}

/// A validated configuration of a layer. Made by [`MoeConfig::builder`] or [`MoeConfig::from_dense`].
#[derive(Debug, Clone, PartialEq)]
pub struct MoeConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_experts: usize,
    top_k: usize,
    activation: Activation,
    expert_bias: ExpertBias,
    router: RouterConfig,
    capacity: Option<Capacity>,
    losses: Losses,
}

/// The router's part of a [`MoeConfig`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouterConfig {
    pub(crate) score_function: ScoreFunction,
    pub(crate) single_expert: SingleExpert,
    pub(crate) scaling_factor: f64,
    pub(crate) groups: Option<GroupLimit>,
}

/// Collects the choices of a [`MoeConfig`]; [`build`](MoeConfigBuilder::build) validates them.
#[derive(Debug, Clone)]
#[must_use]
pub struct MoeConfigBuilder {
    config: MoeConfig,
}

/// Largest E, and largest H and I: E·2I·H then stays within 64 bits with room. A backend may allow less.
const MAX_EXPERTS: usize = 1 << 16;
const MAX_WIDTH: usize = 1 << 20;

impl MoeConfig {
    /// Starts from the sizes themselves: H, I (width of one expert), E, K. SwiGLU without biases, softmax after top-k, no
    /// capacity limit, no losses, until told otherwise.
    pub fn builder(
        hidden_size: usize,
        intermediate_size: usize,
        num_experts: usize,
        top_k: usize,
    ) -> MoeConfigBuilder {
        MoeConfigBuilder {
            config: MoeConfig {
                hidden_size,
                intermediate_size,
                num_experts,
                top_k,
                activation: Activation::default(),
                expert_bias: ExpertBias::default(),
                router: RouterConfig {
                    score_function: ScoreFunction::default(),
                    single_expert: SingleExpert::default(),
                    scaling_factor: 1.0,
                    groups: None,
                },
                capacity: None,
                losses: Losses::default(),
            },
        }
    }

    /// Starts from a dense layer of width `d_ff`, `experts` copies of it, `top_k` of them per token, refined by
    /// `granularity` G: E = G·experts, I = d_ff/G, K = G·top_k (arXiv 2402.07871).
    ///
    /// # Errors
    /// When G is 0 or does not divide `d_ff`.
    pub fn from_dense(
        hidden_size: usize,
        d_ff: usize,
        experts: usize,
        top_k: usize,
        granularity: usize,
    ) -> Result<MoeConfigBuilder, ConfigError> {
        if granularity == 0 {
            return Err(ConfigError::Zero {
                what: "granularity",
            });
        }
        if !d_ff.is_multiple_of(granularity) {
            return Err(ConfigError::Granularity { granularity, d_ff });
        }
        let scaled = |n: usize| n.saturating_mul(granularity);
        Ok(Self::builder(
            hidden_size,
            d_ff / granularity,
            scaled(experts),
            scaled(top_k),
        ))
    }

    /// H, the width of a token.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// I, the width of one expert.
    pub fn intermediate_size(&self) -> usize {
        self.intermediate_size
    }

    /// E.
    pub fn num_experts(&self) -> usize {
        self.num_experts
    }

    /// K.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// What experts make of gate and up.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Which of the experts' products have a bias.
    pub fn expert_bias(&self) -> ExpertBias {
        self.expert_bias
    }

    /// The router's choices.
    pub fn router(&self) -> &RouterConfig {
        &self.router
    }

    /// The capacity limit; `None` keeps every assignment.
    pub fn capacity(&self) -> Option<&Capacity> {
        self.capacity.as_ref()
    }

    /// The losses' coefficients.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// C for `tokens` tokens: `ceil((T·K/E)·factor)` in f64, at most T (an expert gets a token once); T when nothing can
    /// drop.
    ///
    /// ```
    /// # use millet::{Capacity, MoeConfig};
    /// let config = MoeConfig::builder(8, 8, 128, 8).capacity(Capacity::new(1.5)).build()?;
    /// assert_eq!(config.expert_capacity(100), 10); // 100·8/128·1.5 = 9.375
    /// # Ok::<(), millet::ConfigError>(())
    /// ```
    pub fn expert_capacity(&self, tokens: usize) -> usize {
        let Some(capacity) = self.capacity else {
            return tokens;
        };
        let mean = tokens.saturating_mul(self.top_k) as f64 / self.num_experts as f64;
        // The cast saturates, so an absurd factor is simply "nothing drops".
        ((mean * capacity.factor).ceil() as usize).min(tokens)
    }

    /// Upper bound of routed rows for `tokens` tokens, known without looking at the routing: min(T·K, E·C).
    pub fn max_rows(&self, tokens: usize) -> usize {
        let assignments = tokens.saturating_mul(self.top_k);
        // Ids given by the caller may name an expert twice in a token, so only a real limit bounds the rows.
        match self.expert_capacity(tokens) {
            c if self.capacity.is_some() && c < tokens => {
                assignments.min(self.num_experts.saturating_mul(c))
            }
            _ => assignments,
        }
    }
}

/// A field's name and value.
pub(crate) type Field = (&'static str, String);

impl MoeConfig {
    /// What sizes memory: the same for two configurations that can share some.
    pub(crate) fn size_fields(&self) -> Vec<Field> {
        let factor = self.capacity.map(|capacity| capacity.factor);
        vec![
            ("hidden_size", self.hidden_size.to_string()),
            ("intermediate_size", self.intermediate_size.to_string()),
            ("num_experts", self.num_experts.to_string()),
            ("top_k", self.top_k.to_string()),
            ("capacity factor", format!("{factor:?}")),
        ]
    }

    /// Every field.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let router = &self.router;
        let mut fields = self.size_fields();
        fields.extend([
            ("activation", format!("{:?}", self.activation)),
            ("expert_bias", format!("{:?}", self.expert_bias)),
            ("score_function", format!("{:?}", router.score_function)),
            ("single_expert", format!("{:?}", router.single_expert)),
            ("scaling_factor", router.scaling_factor.to_string()),
            ("groups", format!("{:?}", router.groups)),
            ("capacity", format!("{:?}", self.capacity)),
            ("losses", format!("{:?}", self.losses)),
        ]);
        fields
    }
}

impl RouterConfig {
    /// How logits become weights.
    pub fn score_function(&self) -> ScoreFunction {
        self.score_function
    }

    /// What K = 1 means with softmax after top-k.
    pub fn single_expert(&self) -> SingleExpert {
        self.single_expert
    }

    /// Factor on every weight.
    pub fn scaling_factor(&self) -> f64 {
        self.scaling_factor
    }

    /// Group-limited selection, if any.
    pub fn groups(&self) -> Option<GroupLimit> {
        self.groups
    }
}

impl Capacity {
    /// The factor.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Which assignments stay.
    pub fn drop_policy(&self) -> DropPolicy {
        self.policy
    }

    /// What happens to survivors' weights.
    pub fn renormalization(&self) -> Renormalize {
        self.renormalize
    }
}

impl Losses {
    /// Coefficient of the load-balancing loss.
    pub fn aux(&self) -> f64 {
        self.aux
    }

    /// Coefficient of the z-loss.
    pub fn z(&self) -> f64 {
        self.z
    }

    /// Convention of the load-balancing loss.
    pub fn scale(&self) -> AuxScale {
        self.scale
    }
}

impl MoeConfigBuilder {
    /// Chooses what experts make of gate and up.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.config.activation = activation;
        self
    }

    /// Chooses which of the experts' products have a bias.
    pub fn expert_bias(mut self, expert_bias: ExpertBias) -> Self {
        self.config.expert_bias = expert_bias;
        self
    }

    /// Chooses how logits become weights.
    pub fn score_function(mut self, score_function: ScoreFunction) -> Self {
        self.config.router.score_function = score_function;
        self
    }

    /// Chooses what K = 1 with softmax after top-k means.
    pub fn single_expert(mut self, single_expert: SingleExpert) -> Self {
        self.config.router.single_expert = single_expert;
        self
    }

    /// A factor on every weight (2.5 in DeepSeek-V3).
    pub fn scaling_factor(mut self, scaling_factor: f64) -> Self {
        self.config.router.scaling_factor = scaling_factor;
        self
    }

    /// Limits selection to the best groups of experts.
    pub fn groups(mut self, groups: GroupLimit) -> Self {
        self.config.router.groups = Some(groups);
        self
    }

    /// Limits what an expert takes.
    pub fn capacity(mut self, capacity: Capacity) -> Self {
        self.config.capacity = Some(capacity);
        self
    }

    /// Sets the router's losses.
    pub fn losses(mut self, losses: Losses) -> Self {
        self.config.losses = losses;
        self
    }

    /// Validates.
    ///
    /// # Errors
    /// A [`ConfigError`] for the first thing that cannot work.
    pub fn build(self) -> Result<MoeConfig, ConfigError> {
        let MoeConfig {
            hidden_size,
            intermediate_size,
            num_experts,
            top_k,
            activation,
            expert_bias: _,
            router,
            capacity,
            losses,
        } = &self.config;
        for (what, given, limit) in [
            ("hidden_size", *hidden_size, MAX_WIDTH),
            ("intermediate_size", *intermediate_size, MAX_WIDTH),
            ("num_experts", *num_experts, MAX_EXPERTS),
            ("top_k", *top_k, MAX_EXPERTS),
        ] {
            if given == 0 {
                return Err(ConfigError::Zero { what });
            }
            if given > limit {
                return Err(ConfigError::TooLarge { what, limit, given });
            }
        }
        if top_k > num_experts {
            return Err(ConfigError::TopKOverExperts {
                top_k: *top_k,
                num_experts: *num_experts,
            });
        }
        activation.validate()?;
        self.config.validate_router(router)?;
        positive("scaling_factor", router.scaling_factor)?;
        if let Some(capacity) = capacity {
            not_negative("capacity factor", capacity.factor)?;
            if capacity.renormalize == Renormalize::AfterDrop && *top_k == 1 {
                return Err(ConfigError::RenormalizeSingleExpert);
            }
        }
        not_negative("aux loss coefficient", losses.aux)?;
        not_negative("z-loss coefficient", losses.z)?;
        Ok(self.config)
    }
}

impl MoeConfig {
    fn validate_router(&self, router: &RouterConfig) -> Result<(), ConfigError> {
        let (top_k, num_experts, score_function) =
            (self.top_k, self.num_experts, router.score_function);
        let degenerate = top_k == 1 && score_function == ScoreFunction::SoftmaxAfterTopK;
        match router.single_expert {
            SingleExpert::Refuse if degenerate => {
                return Err(ConfigError::SingleExpertHasNoGradient);
            }
            SingleExpert::StraightThrough if !degenerate => {
                return Err(ConfigError::StraightThroughNeedsSingleExpert {
                    top_k,
                    score_function,
                });
            }
            _ => {}
        }
        let Some(GroupLimit { groups, selected }) = router.groups else {
            return Ok(());
        };
        if groups == 0 || !num_experts.is_multiple_of(groups) {
            return Err(ConfigError::UnevenGroups {
                what: "groups",
                groups,
                num_experts,
            });
        }
        let size = num_experts / groups;
        if selected == 0 || selected > groups || selected * size < top_k {
            let available = selected.saturating_mul(size);
            return Err(ConfigError::GroupSelection {
                selected,
                groups,
                available,
                top_k,
            });
        }
        if size == 1 && score_function == ScoreFunction::Sigmoid && groups > 1 {
            return Err(ConfigError::GroupOfOne {
                groups,
                num_experts,
            });
        }
        Ok(())
    }
}

fn positive(what: &'static str, given: f64) -> Result<(), ConfigError> {
    check_value(what, "finite and above 0", given > 0.0, given)
}

fn not_negative(what: &'static str, given: f64) -> Result<(), ConfigError> {
    check_value(what, "finite and at least 0", given >= 0.0, given)
}

fn check_value(
    what: &'static str,
    expected: &'static str,
    in_range: bool,
    given: f64,
) -> Result<(), ConfigError> {
    if in_range && given.is_finite() {
        return Ok(());
    }
    Err(ConfigError::Value {
        what,
        expected,
        given,
    })
}
