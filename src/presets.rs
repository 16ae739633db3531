//! Published layers by name: the systems of arXiv 2506.02890, the benchmark shapes of SonicMoE (arXiv 2512.14080), and the
//! routed layers of public models.
//!
//! A preset is sizes and routing. The systems of the paper come with its recipe of capacity and losses; all others are
//! dropless and without losses, as those belong to a training run and not to a model. Shared experts, selection biases and
//! whatever else a model has beside the routed layer have fields of their own; [`MoeConfig`] does not compute them.
//!
//! Each preset says where its numbers come from ([`Preset::evidence`], [`Preset::source`]) and, in [`Preset::caveat`], what
//! is not certain or not this layer. Models are left out whose sizes or router are not published plainly enough, and those
//! whose router or activation this crate does not compute (DeepSeek-V4's square root of softplus, Gemma 4's GELU, the latent
//! experts of Kimi-K3 and Nemotron 3).
//!
//! ```
//! use millet::presets;
//!
//! let preset = presets::by_name("1xFLOPs-G8-11B")?;
//! println!("{preset}"); // name, sizes, and where they come from
//! let config = preset.config;
//! let tokens = 16384;
//! assert_eq!(config.mean_rows_per_expert(tokens), 2048.0);
//! assert_eq!((config.forward_flops(tokens).experts / 1e12).round(), 2.0); // TFLOP
//! assert_eq!(config.arithmetic_intensity(tokens, 2).round(), 683.0); // FLOP per byte in bf16
//!
//! // Every fine-grained layer there is.
//! for preset in presets::all().filter(|preset| preset.config.num_experts() >= 128) {
//!     println!("{}", preset.name);
//! }
//! # Ok::<(), presets::UnknownPreset>(())
//! ```

use std::fmt;

use crate::{
    Activation, Capacity, ConfigError, ExpertBias, GroupLimit, Losses, MoeConfig, MoeConfigBuilder,
    ScoreFunction,
};

/// A published layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Preset {
    /// Name, as [`by_name`] takes it.
    pub name: &'static str,
    /// The routed layer.
    pub config: MoeConfig,
    /// How the numbers are known.
    pub evidence: Evidence,
    /// Where the numbers were read.
    pub source: &'static str,
    /// What is uncertain, or what of the model this layer does not compute.
    pub caveat: Option<&'static str>,
    /// Tokens a batch in the published benchmark.
    pub tokens: Option<usize>,
    /// Layers of the model.
    pub layers: Option<Layers>,
    /// Experts that every token passes, beside the routed ones.
    pub shared_experts: Option<SharedExperts>,
    /// Whether the model adds a bias per expert to the scores for selection (an input of the router, not of its
    /// configuration).
    pub selection_bias: bool,
}

/// How the numbers of a [`Preset`] are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// Read in the publication, or in the model's public configuration or code.
    Published,
    /// Widths and layers were solved from the parameter counts that the publication gives; others may fit as well.
    Reconstructed,
}

/// Layers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// All layers.
    pub total: usize,
    /// Leading layers with a dense feed-forward part instead of experts.
    pub leading_dense: usize,
}

/// Experts that every token passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedExperts {
    /// How many.
    pub count: usize,
    /// Width of each.
    pub intermediate_size: usize,
}

/// Parameters of a whole model, from [`Preset::model_parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelParameters {
    /// All of them.
    pub total: u64,
    /// Those that one token uses, embeddings and output head included.
    pub active: u64,
}

impl Preset {
    fn new(name: &'static str, config: MoeConfigBuilder, source: &'static str) -> Self {
        Self {
            name,
            config: config.build().expect("every preset is built in a test"),
            evidence: Evidence::Published,
            source,
            caveat: None,
            tokens: None,
            layers: None,
            shared_experts: None,
            selection_bias: false,
        }
    }

    fn with_layers(mut self, total: usize, leading_dense: usize) -> Self {
        self.layers = Some(Layers {
            total,
            leading_dense,
        });
        self
    }

    fn with_shared_experts(mut self, count: usize, intermediate_size: usize) -> Self {
        self.shared_experts = Some(SharedExperts {
            count,
            intermediate_size,
        });
        self
    }

    fn with_selection_bias(mut self) -> Self {
        self.selection_bias = true;
        self
    }

    fn with_caveat(mut self, caveat: &'static str) -> Self {
        self.caveat = Some(caveat);
        self
    }

    /// Parameters of the whole model; only for the systems of arXiv 2506.02890 ([`Evidence::Reconstructed`]), whose attention
    /// and vocabulary are part of the reconstruction.
    ///
    /// # Math
    /// layers·(4·H² + router + experts) + 2·256000·H: full attention, input embedding and output head not tied, norms left
    /// out. Active counts K of the experts.
    pub fn model_parameters(&self) -> Option<ModelParameters> {
        if self.evidence != Evidence::Reconstructed {
            return None;
        }
        let layers = self.layers?.total as u64;
        let hidden = self.config.hidden_size() as u64;
        let layer = self.config.parameters();
        let attention = 4 * hidden * hidden;
        let embeddings = 2 * VOCABULARY * hidden;
        Some(ModelParameters {
            total: layers * (attention + layer.total()) + embeddings,
            active: layers * (attention + layer.active()) + embeddings,
        })
    }
}

/// One line: name, sizes, evidence, source, caveat.
impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        write!(
            f,
            "{}: H={} I={} E={} K={} {:?}",
            self.name,
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
            config.top_k(),
            config.router().score_function(),
        )?;
        let evidence = match self.evidence {
            Evidence::Published => "",
            Evidence::Reconstructed => "reconstructed, ",
        };
        write!(f, " ({evidence}{})", self.source)?;
        match self.caveat {
            Some(caveat) => write!(f, "; {caveat}"),
            None => Ok(()),
        }
    }
}

/// The name asked for is no preset's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no preset is named `{given}`; the names are {}", names.join(", "))]
pub struct UnknownPreset {
    /// Name given.
    pub given: String,
    /// Names there are.
    pub names: Vec<&'static str>,
}

/// All presets: the paper's systems, benchmark shapes, models.
pub fn all() -> impl Iterator<Item = Preset> {
    let systems = ModelSize::ALL
        .into_iter()
        .flat_map(|size| System::ALL.map(|system| system.preset(size)));
    systems.chain(sonic_moe()).chain(models())
}

/// The preset of that name, upper and lower case being the same.
///
/// # Errors
/// [`UnknownPreset`], which lists the names.
pub fn by_name(name: &str) -> Result<Preset, UnknownPreset> {
    all()
        .find(|preset| preset.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| UnknownPreset {
            given: name.to_owned(),
            names: all().map(|preset| preset.name).collect(),
        })
}

/// The four systems that arXiv 2506.02890 compares, all with 8 dense layers' worth of experts. A G8 system has the parameters
/// and FLOPs of its G1 twin (but for a larger router), in eight times as many experts an eighth as wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum System {
    /// Switch style: 8 experts, top-1, FLOPs of the dense model.
    OneFlopsG1,
    /// Mixtral style: 8 experts, top-2, twice the FLOPs in the experts.
    TwoFlopsG1,
    /// Fine-grained Switch: 64 experts, top-8.
    OneFlopsG8,
    /// Fine-grained Mixtral: 64 experts, top-16.
    TwoFlopsG8,
}

/// Model sizes of arXiv 2506.02890, by total parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelSize {
    /// 11 billion.
    B11,
    /// 56 billion.
    B56,
}

/// Vocabulary of the models of arXiv 2506.02890 ("256K"; the exact number is part of the reconstruction).
const VOCABULARY: u64 = 256_000;

impl ModelSize {
    /// Both.
    pub const ALL: [Self; 2] = [Self::B11, Self::B56];

    /// H, d_ff and layers, reconstructed.
    fn reconstruction(self) -> (usize, usize, usize) {
        match self {
            Self::B11 => (2048, 8192, 24),
            Self::B56 => (4096, 16384, 32),
        }
    }
}

impl System {
    /// All four, coarse before fine.
    pub const ALL: [Self; 4] = [
        Self::OneFlopsG1,
        Self::TwoFlopsG1,
        Self::OneFlopsG8,
        Self::TwoFlopsG8,
    ];

    /// The paper's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneFlopsG1 => "1xFLOPs-G1",
            Self::TwoFlopsG1 => "2xFLOPs-G1",
            Self::OneFlopsG8 => "1xFLOPs-G8",
            Self::TwoFlopsG8 => "2xFLOPs-G8",
        }
    }

    /// Granularity: 1 or 8.
    pub fn granularity(self) -> usize {
        match self {
            Self::OneFlopsG1 | Self::TwoFlopsG1 => 1,
            Self::OneFlopsG8 | Self::TwoFlopsG8 => 8,
        }
    }

    /// Dense layers' worth of experts that a token passes: 1 or 2.
    pub fn dense_top_k(self) -> usize {
        match self {
            Self::OneFlopsG1 | Self::OneFlopsG8 => 1,
            Self::TwoFlopsG1 | Self::TwoFlopsG8 => 2,
        }
    }

    /// A layer of this system at widths of one's own, with the paper's recipe: capacity factor 1.5, load-balancing loss 1e-2,
    /// z-loss 1e-3; softmax after top-k, but before it for K = 1, where it would give the router no gradient.
    ///
    /// ```
    /// use millet::presets::System;
    /// let config = System::TwoFlopsG8.layer(512, 2048)?.build()?;
    /// assert_eq!((config.intermediate_size(), config.num_experts(), config.top_k()), (256, 64, 16));
    /// # Ok::<(), millet::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// When the granularity does not divide `d_ff`.
    pub fn layer(self, hidden_size: usize, d_ff: usize) -> Result<MoeConfigBuilder, ConfigError> {
        let score_function = match self {
            Self::OneFlopsG1 => ScoreFunction::SoftmaxBeforeTopK,
            Self::TwoFlopsG1 | Self::OneFlopsG8 | Self::TwoFlopsG8 => {
                ScoreFunction::SoftmaxAfterTopK
            }
        };
        let builder =
            MoeConfig::from_dense(hidden_size, d_ff, 8, self.dense_top_k(), self.granularity())?;
        Ok(builder
            .score_function(score_function)
            .capacity(Capacity::new(1.5))
            .losses(Losses::new(1e-2, 1e-3)))
    }

    /// The system at a size of the paper, e.g. `1xFLOPs-G8-11B`.
    ///
    /// The paper's number of experts, top-k and recipe are known; its widths and layers were not available to us. They are
    /// reconstructed: a shape that gives every parameter count it publishes (11B total with 2.7B or 3.9B active; 56B total
    /// with 17B active), assuming SwiGLU experts, full attention and untied embeddings.
    pub fn preset(self, size: ModelSize) -> Preset {
        let name = match (self, size) {
            (Self::OneFlopsG1, ModelSize::B11) => "1xFLOPs-G1-11B",
            (Self::TwoFlopsG1, ModelSize::B11) => "2xFLOPs-G1-11B",
            (Self::OneFlopsG8, ModelSize::B11) => "1xFLOPs-G8-11B",
            (Self::TwoFlopsG8, ModelSize::B11) => "2xFLOPs-G8-11B",
            (Self::OneFlopsG1, ModelSize::B56) => "1xFLOPs-G1-56B",
            (Self::TwoFlopsG1, ModelSize::B56) => "2xFLOPs-G1-56B",
            (Self::OneFlopsG8, ModelSize::B56) => "1xFLOPs-G8-56B",
            (Self::TwoFlopsG8, ModelSize::B56) => "2xFLOPs-G8-56B",
        };
        let (hidden_size, d_ff, layers) = size.reconstruction();
        let builder = self
            .layer(hidden_size, d_ff)
            .expect("8 divides the reconstructed widths");
        let preset = Preset::new(name, builder, "arXiv 2506.02890").with_layers(layers, 0);
        Preset {
            evidence: Evidence::Reconstructed,
            ..preset.with_caveat("widths and layers are solved from the published parameter counts")
        }
    }
}

/// The twelve shapes of SonicMoE's kernel benchmarks, with their tokens per batch; in each group of three, the same FLOPs in
/// ever fewer and wider experts.
pub fn sonic_moe() -> [Preset; 12] {
    [
        ("sonic-h768-i256-e128", 40960, 768, 256, 128, 8),
        ("sonic-h768-i512-e64", 40960, 768, 512, 64, 4),
        ("sonic-h768-i1024-e32", 40960, 768, 1024, 32, 2),
        ("sonic-h1536-i256-e128", 24576, 1536, 256, 128, 8),
        ("sonic-h1536-i512-e64", 24576, 1536, 512, 64, 4),
        ("sonic-h1536-i1024-e32", 24576, 1536, 1024, 32, 2),
        ("sonic-h4096-i256-e256", 32768, 4096, 256, 256, 16),
        ("sonic-h4096-i512-e128", 32768, 4096, 512, 128, 8),
        ("sonic-h4096-i1024-e64", 32768, 4096, 1024, 64, 4),
        ("sonic-h4096-i512-e256", 32768, 4096, 512, 256, 16),
        ("sonic-h4096-i1024-e128", 32768, 4096, 1024, 128, 8),
        ("sonic-h4096-i2048-e64", 32768, 4096, 2048, 64, 4),
    ]
    .map(|(name, tokens, hidden, width, experts, top_k)| {
        let builder = MoeConfig::builder(hidden, width, experts, top_k);
        Preset {
            tokens: Some(tokens),
            ..Preset::new(name, builder, "arXiv 2512.14080, figure 14")
        }
    })
}

const MODEL_ZOO: &str = "Megatron-MoE-ModelZoo";
const BRIDGE: &str = "Megatron-Bridge";
const HUGGING_FACE: &str = "Hugging Face configuration";
const HUGGING_FACE_BRIDGE: &str = "Hugging Face configuration, Megatron-Bridge";
const GPT_OSS_ROUTER_BIAS: &str = "the model's router adds a bias to its logits: this layer computes logits without one, \
                                   `Router::router_forward` takes them as they are given";

/// The routed layers of public models.
pub fn models() -> impl Iterator<Item = Preset> {
    softmax_models().into_iter().chain(sigmoid_models())
}

fn softmax_models() -> [Preset; 13] {
    use ScoreFunction::SoftmaxBeforeTopK;
    // Softmax after top-k unless told otherwise.
    let layer = MoeConfig::builder;
    [
        Preset::new(
            "OLMoE-1B-7B",
            layer(2048, 1024, 64, 8).score_function(SoftmaxBeforeTopK),
            HUGGING_FACE_BRIDGE,
        )
        .with_layers(16, 0),
        Preset::new("Granite-3.0-1B-A400M", layer(1024, 512, 32, 8), HUGGING_FACE).with_layers(24, 0),
        Preset::new("Granite-3.0-3B-A800M", layer(1536, 512, 40, 8), HUGGING_FACE).with_layers(32, 0),
        Preset::new("Mixtral-8x7B", layer(4096, 14336, 8, 2), MODEL_ZOO).with_layers(32, 0),
        Preset::new("Mixtral-8x22B", layer(6144, 16384, 8, 2), MODEL_ZOO).with_layers(56, 0),
        Preset::new("Qwen3-30B-A3B", layer(2048, 768, 128, 8), MODEL_ZOO).with_layers(48, 0),
        Preset::new("Qwen3-235B-A22B", layer(4096, 1536, 128, 8), MODEL_ZOO).with_layers(94, 0),
        Preset::new("Qwen3-Next-80B-A3B", layer(2048, 512, 512, 10), MODEL_ZOO)
            .with_layers(48, 0)
            .with_shared_experts(1, 512)
            .with_caveat("the shared expert has a sigmoid gate of its own"),
        Preset::new("Qwen3.5-397B-A17B", layer(4096, 1024, 512, 10), BRIDGE)
            .with_layers(60, 0)
            .with_caveat(
                "read in a test fixture, not in the model's configuration; it also has a gated shared expert whose \
                 width is not certain",
            ),
        Preset::new(
            "DeepSeek-V2-Lite",
            layer(2048, 1408, 64, 6).score_function(SoftmaxBeforeTopK),
            "Hugging Face configuration, Megatron-MoE-ModelZoo",
        )
        .with_layers(27, 1)
        .with_shared_experts(2, 1408),
        Preset::new(
            "DeepSeek-V2",
            layer(5120, 1536, 160, 6)
                .score_function(SoftmaxBeforeTopK)
                .scaling_factor(16.0)
                .groups(GroupLimit {
                    groups: 8,
                    selected: 3,
                }),
            MODEL_ZOO,
        )
        .with_layers(60, 1)
        .with_shared_experts(2, 1536),
        Preset::new("GPT-OSS-20B", gpt_oss(32), BRIDGE)
            .with_layers(24, 0)
            .with_caveat(GPT_OSS_ROUTER_BIAS),
        Preset::new("GPT-OSS-120B", gpt_oss(128), BRIDGE)
            .with_layers(36, 0)
            .with_caveat(GPT_OSS_ROUTER_BIAS),
    ]
}

/// Experts with biases and clamped SwiGLU.
fn gpt_oss(experts: usize) -> MoeConfigBuilder {
    MoeConfig::builder(2880, 2880, experts, 4)
        .activation(Activation::GPT_OSS)
        .expert_bias(ExpertBias::GateUpAndDown)
}

fn sigmoid_models() -> [Preset; 6] {
    let layer = |hidden, width, experts, top_k| {
        MoeConfig::builder(hidden, width, experts, top_k).score_function(ScoreFunction::Sigmoid)
    };
    [
        // R1 and V3.2 have the same layer.
        Preset::new(
            "DeepSeek-V3",
            layer(7168, 2048, 256, 8)
                .scaling_factor(2.5)
                .groups(GroupLimit {
                    groups: 8,
                    selected: 4,
                }),
            MODEL_ZOO,
        )
        .with_layers(61, 3)
        .with_shared_experts(1, 2048),
        Preset::new(
            "Kimi-K2",
            layer(7168, 2048, 384, 8).scaling_factor(2.827),
            "Megatron-MoE-ModelZoo, Megatron-Bridge",
        )
        .with_layers(61, 1)
        .with_shared_experts(1, 2048),
        Preset::new(
            "GLM-4.5",
            layer(5120, 1536, 160, 8).scaling_factor(2.5),
            HUGGING_FACE_BRIDGE,
        )
        .with_layers(92, 3)
        .with_shared_experts(1, 1536),
        Preset::new(
            "GLM-4.5-Air",
            layer(4096, 1408, 128, 8),
            HUGGING_FACE_BRIDGE,
        )
        .with_layers(46, 1)
        .with_shared_experts(1, 1408),
        Preset::new("MiniMax-M2", layer(3072, 1536, 256, 8), HUGGING_FACE_BRIDGE)
            .with_layers(62, 0),
        Preset::new(
            "GLM-5",
            layer(6144, 2048, 256, 8).scaling_factor(2.5),
            "NeMo AutoModel documentation, Hugging Face configuration",
        )
        .with_layers(78, 3)
        .with_shared_experts(1, 2048),
    ]
    .map(Preset::with_selection_bias)
}
