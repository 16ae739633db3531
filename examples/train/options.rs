//! Command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use millet::presets::System;
use millet::{Capacity, ConfigError, Losses, MoeConfig, MoeConfigBuilder, ScoreFunction};

use crate::training::{Recipe, Variant};

/// Trains a byte-level language model whose feed-forward part is a fine-grained Mixture-of-Experts layer.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
pub struct Options {
    /// Text to train on; its last tenth is held out [default: Rust sources of this crate's dependencies]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,

    /// Train variants of matched FLOPs and compare them
    #[arg(long, conflicts_with_all = ["system", "experts", "top_k", "expert_width", "router"])]
    pub compare: bool,

    /// Seeds of --compare: --seed and those that follow it
    #[arg(long, default_value_t = 3, value_parser = up_to(1000), requires = "compare")]
    pub seeds: usize,

    /// Seed of initial parameters and batches
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Steps of a training
    #[arg(long, default_value_t = 400, value_parser = up_to(MOST_STEPS))]
    steps: usize,

    /// Bytes to predict in a step, T
    #[arg(long, default_value_t = 4096, value_parser = up_to(1 << 20))]
    batch: usize,

    /// Preceding bytes that the model sees
    #[arg(long, default_value_t = 16, value_parser = up_to(4096))]
    context: usize,

    /// Width of a token, H
    #[arg(long, default_value_t = 128, value_parser = up_to(1 << 16))]
    hidden: usize,

    /// Blocks of norm and MoE layer
    #[arg(long, default_value_t = 1, value_parser = up_to(1024))]
    blocks: usize,

    /// Width of the dense layer that the experts refine: an expert has this over the granularity, 8 for the G8 systems
    #[arg(long, default_value_t = 512, value_parser = up_to(1 << 20))]
    d_ff: usize,

    /// System of arXiv 2506.02890 that gives experts, top-k and granularity
    #[arg(long, value_enum, default_value_t = SystemName::OneFlopsG8)]
    system: SystemName,

    /// Experts, E [default: the system's]
    #[arg(long, value_parser = up_to(1 << 16))]
    experts: Option<usize>,

    /// Experts of a token, K [default: the system's]
    #[arg(long, value_parser = up_to(1 << 16))]
    top_k: Option<usize>,

    /// Width of an expert, I [default: the system's]
    #[arg(long, value_parser = up_to(1 << 20))]
    expert_width: Option<usize>,

    /// How logits become weights [default: after-topk, for the Switch system before-topk]
    #[arg(long, value_enum)]
    router: Option<Router>,

    /// Capacity of an expert over its mean load
    #[arg(long, default_value_t = 1.5)]
    capacity_factor: f64,

    /// Coefficient of the load-balancing loss
    #[arg(long, default_value_t = 1e-2)]
    aux_loss: f64,

    /// Coefficient of the router z-loss
    #[arg(long, default_value_t = 1e-3)]
    z_loss: f64,

    /// Peak learning rate of AdamW
    #[arg(long, default_value_t = 4e-3, value_parser = above_zero)]
    learning_rate: f64,

    /// Weight decay of AdamW
    #[arg(long, default_value_t = 0.1, value_parser = not_negative)]
    weight_decay: f64,

    /// Where the MoE layers run, in f32; the rest of the model is on the CPU, and tokens, weights and gradients are copied in
    /// every step. cuda is the first GPU and needs a build with `--features cuda`; where there is no GPU, the emulator takes its
    /// place, far slower than a CPU
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,

    /// Folder for the CSV file and the plot
    #[arg(long, value_name = "DIR", default_value = "target/train")]
    pub out: PathBuf,

    /// Threads [default: one for each core]; results do not depend on it
    #[arg(long, value_parser = up_to(1024))]
    pub threads: Option<usize>,

    /// Save the training to a safetensors file, every --save-every steps and at the end
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pub save: Option<PathBuf>,

    /// Steps from one save to the next
    #[arg(long, value_name = "STEPS", default_value_t = 100, value_parser = up_to(MOST_STEPS), requires = "save")]
    pub save_every: usize,

    /// Go on from a file of --save, bit for bit; all options that make the training must be the same
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pub resume: Option<PathBuf>,

    /// Stop after this step, to resume later; --steps stays the length of the whole training
    #[arg(long, value_name = "STEP", value_parser = up_to(MOST_STEPS), requires = "save")]
    stop_after: Option<usize>,
}

const MOST_STEPS: usize = 10_000_000;

#[derive(Clone, Copy, ValueEnum)]
pub enum Device {
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, ValueEnum)]
enum SystemName {
    /// Switch: 8 experts, top-1
    #[value(name = "1xFLOPs-G1")]
    OneFlopsG1,
    /// Mixtral: 8 experts, top-2
    #[value(name = "2xFLOPs-G1")]
    TwoFlopsG1,
    /// Fine-grained Switch: 64 experts, top-8
    #[value(name = "1xFLOPs-G8")]
    OneFlopsG8,
    /// Fine-grained Mixtral: 64 experts, top-16
    #[value(name = "2xFLOPs-G8")]
    TwoFlopsG8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Router {
    /// Softmax over the picked experts
    AfterTopk,
    /// Softmax over all experts, not renormalised
    BeforeTopk,
    /// Sigmoid, normalised over the picked
    Sigmoid,
}

impl Options {
    pub fn recipe(&self) -> Recipe {
        Recipe {
            steps: self.steps,
            until: self.stop_after.unwrap_or(self.steps).min(self.steps),
            batch: self.batch,
            blocks: self.blocks,
            context: self.context,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
        }
    }

    /// The layers to train.
    ///
    /// # Errors
    /// When one cannot work.
    pub fn variants(&self) -> Result<Vec<Variant>, ConfigError> {
        if !self.compare {
            return Ok(vec![self.single()?]);
        }
        use System::{OneFlopsG1, OneFlopsG8, TwoFlopsG1, TwoFlopsG8};
        let variant = |system: System, router: Option<ScoreFunction>, note: &str| {
            let mut layer = self.with_losses(system.layer(self.hidden, self.d_ff)?);
            if let Some(router) = router {
                layer = layer.score_function(router);
            }
            let label = format!("{}{note}", system.name());
            layer.clone().build()?;
            Ok(Variant { label, layer })
        };
        let before = Some(ScoreFunction::SoftmaxBeforeTopK);
        Ok(vec![
            variant(OneFlopsG1, None, " (Switch)")?,
            variant(TwoFlopsG1, None, " (Mixtral)")?,
            variant(OneFlopsG8, None, "")?,
            variant(OneFlopsG8, before, ", softmax before")?,
            variant(TwoFlopsG8, None, "")?,
        ])
    }

    fn single(&self) -> Result<Variant, ConfigError> {
        let system = self.system.into();
        let sizes = System::layer(system, self.hidden, self.d_ff)?.build()?;
        let experts = self.experts.unwrap_or(sizes.num_experts());
        let top_k = self.top_k.unwrap_or(sizes.top_k());
        let width = self.expert_width.unwrap_or(sizes.intermediate_size());
        let score_function = match self.router {
            None => sizes.router().score_function(),
            Some(Router::AfterTopk) => ScoreFunction::SoftmaxAfterTopK,
            Some(Router::BeforeTopk) => ScoreFunction::SoftmaxBeforeTopK,
            Some(Router::Sigmoid) => ScoreFunction::Sigmoid,
        };
        let layer = MoeConfig::builder(self.hidden, width, experts, top_k);
        let layer = self.with_losses(layer.score_function(score_function));
        layer.clone().build()?;
        let label = format!("{experts} experts of width {width}, top-{top_k}");
        Ok(Variant { label, layer })
    }

    fn with_losses(&self, layer: MoeConfigBuilder) -> MoeConfigBuilder {
        layer
            .capacity(Capacity::new(self.capacity_factor))
            .losses(Losses::new(self.aux_loss, self.z_loss))
    }
}

impl From<SystemName> for System {
    fn from(name: SystemName) -> Self {
        match name {
            SystemName::OneFlopsG1 => Self::OneFlopsG1,
            SystemName::TwoFlopsG1 => Self::TwoFlopsG1,
            SystemName::OneFlopsG8 => Self::OneFlopsG8,
            SystemName::TwoFlopsG8 => Self::TwoFlopsG8,
        }
    }
}

fn up_to(most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from 1 to {most}")),
    }
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("must be a number above 0".into()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number >= 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("must be a number of at least 0".into()),
    }
}
