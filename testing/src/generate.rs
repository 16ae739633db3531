//! Inputs: reproducible, and of every kind that has gone wrong somewhere.

use millet::{
    Capacity, DropPolicy, ExpertBias, GroupLimit, Losses, MoeConfig, MoeConfigBuilder, Renormalize,
    ScoreFunction, SingleExpert, half::bf16,
};

/// SplitMix64: small, seeded, the same on every machine.
pub struct Rng(u64);

impl Rng {
    /// Equal seeds give equal numbers, on every machine.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    /// Mean 0, variance 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// `n` of them, times `scale`.
    pub fn normals(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| self.normal() * scale).collect()
    }

    /// A permutation of 0..n.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// What logits look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LogitKind {
    /// Of mean 0 and variance 1.
    Normal,
    /// Rounded to bf16: exact ties in some per cent of the rows.
    Bf16,
    /// Three values only: ties everywhere.
    Coarse,
    /// One value: nothing but ties.
    AllEqual,
    /// Below −1.
    AllNegative,
    /// A permutation of a ramp: no ties, exact in bf16.
    Ramp,
    /// Some −∞: masks.
    Masked,
    /// Every row has one finite logit or none.
    AlmostAllMasked,
    /// −∞ and +∞ among numbers.
    Infinities,
    /// Every fourth row NaN, and some NaN in every fourth.
    NanRows,
    /// ±1e30.
    Huge,
    /// +0 and −0.
    Zeros,
}

impl LogitKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Normal,
        Self::Bf16,
        Self::Coarse,
        Self::AllEqual,
        Self::AllNegative,
        Self::Ramp,
        Self::Masked,
        Self::AlmostAllMasked,
        Self::Infinities,
        Self::NanRows,
        Self::Huge,
        Self::Zeros,
    ];

    /// Logits [T, E], each exact in f32.
    pub fn logits(self, tokens: usize, experts: usize, rng: &mut Rng) -> Vec<f64> {
        let mut logits = Vec::with_capacity(tokens * experts);
        for token in 0..tokens {
            let ramp = rng.permutation(experts);
            let keep = rng.below(experts + 1);
            for (e, &place) in ramp.iter().enumerate() {
                let normal = f64::from(rng.normal() as f32);
                let chance = rng.uniform();
                logits.push(match self {
                    Self::Normal => normal,
                    Self::Bf16 => f64::from(bf16::from_f64(normal)),
                    Self::Coarse => (chance * 3.0).floor() - 1.0,
                    Self::AllEqual => 0.75,
                    Self::AllNegative => f64::from((-1.0 - normal.abs() * 8.0) as f32),
                    Self::Ramp => place as f64 / 32.0,
                    Self::Masked if chance < 0.4 => f64::NEG_INFINITY,
                    Self::AlmostAllMasked if e != keep => f64::NEG_INFINITY,
                    Self::Infinities if chance < 0.2 => f64::NEG_INFINITY,
                    Self::Infinities if chance < 0.3 && token % 2 == 0 => f64::INFINITY,
                    Self::NanRows if token % 4 == 1 => f64::NAN,
                    Self::NanRows if token % 4 == 2 && chance < 0.5 => f64::NAN,
                    Self::Huge if chance < 0.3 => 1e30f32.into(),
                    Self::Huge if chance < 0.6 => f64::from(-1e30f32),
                    Self::Zeros if chance < 0.5 => -0.0,
                    Self::Zeros => 0.0,
                    _ => normal,
                });
            }
        }
        logits
    }
}

/// Which experts tokens go to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RoutingKind {
    /// Every expert alike.
    Uniform,
    /// Expert of rank r with weight 1/r.
    Zipf,
    /// Every token picks the same experts.
    AllToOne,
    /// Only the last few experts get anything.
    EmptyExperts,
    /// Some ids below 0 or at E and above.
    Sentinels,
}

impl RoutingKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Uniform,
        Self::Zipf,
        Self::AllToOne,
        Self::EmptyExperts,
        Self::Sentinels,
    ];

    /// Ids [T, K], distinct in a token.
    pub fn ids(self, tokens: usize, experts: usize, top_k: usize, rng: &mut Rng) -> Vec<i32> {
        let mut ids = Vec::with_capacity(tokens * top_k);
        for _ in 0..tokens {
            let mut keys: Vec<(f64, usize)> = (0..experts)
                .map(|e| {
                    let draw = -(1.0 - rng.uniform()).ln();
                    let key = match self {
                        Self::Uniform | Self::Sentinels => draw,
                        Self::Zipf => draw * (e + 1) as f64,
                        Self::AllToOne => e as f64,
                        Self::EmptyExperts if e + top_k + 1 < experts => 1e9 + draw,
                        Self::EmptyExperts => draw,
                    };
                    (key, e)
                })
                .collect();
            keys.sort_by(|a, b| a.0.total_cmp(&b.0));
            for &(_, e) in &keys[..top_k] {
                let sentinel = self == Self::Sentinels && rng.uniform() < 0.3;
                let outside = [-1, experts as i32, i32::MIN, i32::MAX, experts as i32 + 7];
                ids.push(if sentinel {
                    outside[rng.below(5)]
                } else {
                    e as i32
                });
            }
        }
        ids
    }
}

/// A small layer with everything switched on that a test does not choose.
pub fn base(hidden: usize, inner: usize, experts: usize, top_k: usize) -> MoeConfigBuilder {
    MoeConfig::builder(hidden, inner, experts, top_k).losses(Losses::new(0.3, 0.05))
}

/// Every score function.
pub const SCORES: [ScoreFunction; 3] = [
    ScoreFunction::SoftmaxAfterTopK,
    ScoreFunction::SoftmaxBeforeTopK,
    ScoreFunction::Sigmoid,
];

/// Every drop policy.
pub const POLICIES: [DropPolicy; 3] = [
    DropPolicy::Probability,
    DropPolicy::Position,
    DropPolicy::SlotMajor,
];

/// No capacity limit, and every drop policy with and without renormalisation at `factor`.
pub fn capacities(factor: f64) -> Vec<Option<Capacity>> {
    let mut all = vec![None];
    for policy in POLICIES {
        for renormalize in [Renormalize::Never, Renormalize::AfterDrop] {
            all.push(Some(
                Capacity::new(factor)
                    .policy(policy)
                    .renormalize(renormalize),
            ));
        }
    }
    all
}

/// Every score function × capacity × groups × scaling factor at (H, I, E, K), a third with expert biases, and K = 1 and K = E of each
/// score function.
pub fn configs(hidden: usize, inner: usize, experts: usize, top_k: usize) -> Vec<MoeConfig> {
    let mut all = Vec::new();
    for score_function in SCORES {
        for capacity in capacities(0.6) {
            for groups in [
                None,
                Some(GroupLimit {
                    groups: experts / 2,
                    selected: top_k,
                }),
            ] {
                for scale in [1.0, 2.5] {
                    // Every third has expert biases: with each of the other choices once.
                    let expert_bias = match all.len() % 3 {
                        1 => ExpertBias::GateUpAndDown,
                        _ => ExpertBias::None,
                    };
                    let mut builder = base(hidden, inner, experts, top_k)
                        .expert_bias(expert_bias)
                        .score_function(score_function)
                        .scaling_factor(scale);
                    if let Some(capacity) = capacity {
                        builder = builder.capacity(capacity);
                    }
                    if let Some(groups) = groups {
                        builder = builder.groups(groups);
                    }
                    all.push(builder.build().unwrap());
                }
            }
        }
        for k in [1, experts] {
            let mut builder = base(hidden, inner, experts, k).score_function(score_function);
            if k == 1 && score_function == ScoreFunction::SoftmaxAfterTopK {
                builder = builder.single_expert(SingleExpert::StraightThrough);
            }
            all.push(builder.clone().build().unwrap());
            all.push(builder.capacity(Capacity::new(0.7)).build().unwrap());
        }
    }
    all
}

/// Layers and their tokens, of sizes past every block of an implementation, so that there is something to split; a `share`th of the
/// tokens.
pub fn large(share: usize) -> [(MoeConfig, usize); 3] {
    let limited = |policy| Capacity::new(0.8).policy(policy);
    let all = [
        (
            base(20, 6, 6, 2)
                .expert_bias(ExpertBias::GateUpAndDown)
                .capacity(limited(DropPolicy::Probability))
                .build()
                .unwrap(),
            700,
        ),
        (
            base(300, 9, 3, 2)
                .score_function(ScoreFunction::Sigmoid)
                .capacity(limited(DropPolicy::SlotMajor))
                .build()
                .unwrap(),
            150,
        ),
        (
            base(8, 70, 40, 8)
                .score_function(ScoreFunction::SoftmaxBeforeTopK)
                .build()
                .unwrap(),
            400,
        ),
    ];
    all.map(|(config, tokens)| (config, tokens / share))
}
