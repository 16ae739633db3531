//! One training run: batches, updates, held-out loss, and a record of what the router did.

use std::error::Error;
use std::time::{Duration, Instant};

use millet::{Backend, Capacity, Diagnostics, Keep, MoeConfig, MoeConfigBuilder};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::checkpoint::Checkpoint;
use crate::data::{self, Text};
use crate::model::{Batch, Losses, Model, Pass};
use crate::optimizer::AdamW;

/// Records of a run, if it has as many steps.
const RECORDS: usize = 100;
/// Records from one held-out loss to the next.
const RECORDS_PER_EVALUATION: usize = 5;
/// Expert-parallel ranks that the experts are thought to be spread over, for the imbalance of groups.
pub const RANKS: usize = 8;
/// Bytes of the held-out text that the curve's losses, and the final loss, are means of.
const CURVE_BYTES: usize = 1 << 14;
const FINAL_BYTES: usize = 1 << 17;

/// What all runs of a comparison have in common.
pub struct Recipe {
    /// Steps of the whole training, which the learning rate's schedule is for.
    pub steps: usize,
    /// The last step of this run.
    pub until: usize,
    /// T, bytes to predict in a step.
    pub batch: usize,
    pub blocks: usize,
    /// Preceding bytes that the model sees.
    pub context: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
}

/// A kind of layer.
pub struct Variant {
    pub label: String,
    pub layer: MoeConfigBuilder,
}

/// A run, finished or not.
pub struct Run {
    pub label: String,
    pub seed: u64,
    pub records: Vec<Record>,
    /// Final held-out loss, nats a byte; NaN before the end.
    pub held_out: f64,
    pub parameters: usize,
    /// Bytes trained on in a second, evaluations not counted.
    pub tokens_per_second: f64,
}

/// Means over the steps since the record before, and over the blocks.
#[derive(Clone, Default)]
pub struct Record {
    /// Steps done.
    pub step: usize,
    /// Bytes trained on.
    pub tokens: usize,
    pub losses: Losses,
    pub gradient_norm: f64,
    pub router: RouterRecord,
    /// Loss on some of the held-out text, nats a byte; at every few records.
    pub held_out: Option<f64>,
}

/// What the routers measured.
#[derive(Clone, Default)]
pub struct RouterRecord {
    /// Largest load over mean load, of experts, before dropping.
    pub expert_imbalance: f64,
    /// The same of groups of experts on [`RANKS`] ranks; NaN where they cannot be split evenly.
    pub group_imbalance: f64,
    pub dropped_share: f64,
    pub top1_share: f64,
    pub entropy: f64,
    /// Mean weight of each slot [K].
    pub slot_weights: Vec<f64>,
}

/// Held-out text, cut into batches.
pub struct HeldOut {
    curve: Vec<Batch>,
    full: Vec<Batch>,
}

impl HeldOut {
    pub fn new(text: &Text, recipe: &Recipe) -> Self {
        let batches = |count| {
            let positions = data::even_positions(&text.held_out, recipe.context, count);
            let chunks = positions.chunks(recipe.batch);
            let batch = |chunk: &[usize]| {
                let mut batch = Batch::default();
                let positions = chunk.iter().copied();
                data::gather(&mut batch, &text.held_out, positions, recipe.context);
                batch
            };
            chunks.map(batch).collect()
        };
        Self {
            curve: batches(CURVE_BYTES),
            full: batches(FINAL_BYTES),
        }
    }

    /// Entropy in nats a byte of the bytes that the final loss is measured on.
    pub fn unigram_entropy(&self) -> f64 {
        data::unigram_entropy(self.full.iter().flat_map(|b| b.targets.iter().copied()))
    }
}

/// What a training tells while it runs.
pub enum Event<'a> {
    /// A step was done.
    Step {
        step: usize,
        losses: Losses,
        model: &'a mut Model,
        optimizer: &'a AdamW,
    },
    /// The run has one more record.
    Record(&'a Run),
}

/// What is trained on, and what is kept from it to evaluate.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    pub text: &'a Text,
    pub held_out: &'a HeldOut,
}

/// Trains a model, whose layers run on `backend`, from `seed`, which decides its initial parameters and its batches, or from a
/// checkpoint of such a training. Calls `tell` after every step and record.
pub fn train<B: Backend + Clone>(
    backend: &B,
    Data { text, held_out }: Data<'_>,
    recipe: &Recipe,
    variant: &Variant,
    seed: u64,
    start: Option<Checkpoint>,
    mut tell: impl FnMut(Event<'_>),
) -> Result<Run, Box<dyn Error>> {
    let config = variant.layer.clone().build()?;
    let experts = config.num_experts();
    // Held-out text is read without a capacity limit: which assignments are dropped depends on the whole batch, but a
    // byte's loss must depend on the bytes before it only. A factor of E lets every expert take every token.
    let dropless = Capacity::new(experts as f64);
    let dropless = variant.layer.clone().capacity(dropless).build()?;

    // Two generators, so that all kinds of layers see the same batches.
    let mut batch_rng = StdRng::seed_from_u64(seed);
    let mut model_rng = StdRng::seed_from_u64(!seed);
    let mut model = Model::new(&mut model_rng, &config, recipe.blocks, recipe.context);
    let pass = |config, keep| {
        let backend = backend.clone();
        Pass::new(backend, config, recipe.blocks, recipe.batch, keep)
    };
    let mut training = pass(config, Keep::Hidden)?;
    let mut evaluation = pass(dropless, Keep::Nothing)?;
    let mut optimizer = AdamW::new(
        &model.parameters(),
        recipe.learning_rate,
        recipe.weight_decay,
        recipe.steps,
    );

    let mut run = Run {
        label: variant.label.clone(),
        seed,
        records: Vec::new(),
        held_out: f64::NAN,
        parameters: model.parameters().iter().map(|p| p.value.len()).sum(),
        tokens_per_second: f64::NAN,
    };
    let done = start.as_ref().map_or(0, |checkpoint| checkpoint.step);
    if done >= recipe.until {
        let until = recipe.until;
        return Err(
            format!("step {done} of the checkpoint is not before the last, {until}").into(),
        );
    }
    if let Some(checkpoint) = start {
        checkpoint.restore(&mut model, &mut optimizer);
        // The generator's state after so many batches.
        for _ in 0..done {
            data::random_positions(&mut batch_rng, &text.train, recipe.context, recipe.batch);
        }
    }

    let steps_per_record = recipe.steps.div_ceil(RECORDS);
    let mut interval = Vec::new();
    let mut batch = Batch::default();
    let mut time = Duration::ZERO;
    for step in done + 1..=recipe.until {
        let start = Instant::now();
        let positions =
            data::random_positions(&mut batch_rng, &text.train, recipe.context, recipe.batch);
        data::gather(
            &mut batch,
            &text.train,
            positions.into_iter(),
            recipe.context,
        );
        let losses = model.gradients(&mut training, &batch)?;
        let gradient_norm = optimizer.update(&mut model.parameters());
        time += start.elapsed();
        if !losses.cross_entropy.is_finite() || !gradient_norm.is_finite() {
            return Err(format!(
                "{}, seed {seed}: step {step} has loss {} and gradient norm {gradient_norm}: try a smaller \
                 --learning-rate",
                variant.label, losses.cross_entropy
            )
            .into());
        }
        tell(Event::Step {
            step,
            losses,
            model: &mut model,
            optimizer: &optimizer,
        });
        interval.push(Record {
            step,
            tokens: step * recipe.batch,
            losses,
            gradient_norm,
            router: RouterRecord::new(&training.diagnostics()?),
            held_out: None,
        });
        let last = step == recipe.until;
        if step.is_multiple_of(steps_per_record) || last {
            let mut record = Record::mean(&interval);
            interval.clear();
            let count = step.div_ceil(steps_per_record);
            if count.is_multiple_of(RECORDS_PER_EVALUATION) || last {
                record.held_out = Some(evaluate(&model, &mut evaluation, &held_out.curve)?);
            }
            run.records.push(record);
            tell(Event::Record(&run));
        }
    }
    run.held_out = evaluate(&model, &mut evaluation, &held_out.full)?;
    run.tokens_per_second = ((recipe.until - done) * recipe.batch) as f64 / time.as_secs_f64();
    Ok(run)
}

/// Bytes that a training takes, about: by these the program refuses what cannot be, before the system kills it.
pub fn memory<B: Backend>(backend: &B, recipe: &Recipe, config: &MoeConfig) -> f64 {
    let [tokens, hidden, inner, experts, top_k] = [
        recipe.batch,
        config.hidden_size(),
        config.intermediate_size(),
        config.num_experts(),
        config.top_k(),
    ]
    .map(|n| n as f64);
    let (blocks, context) = (recipe.blocks as f64, recipe.context as f64);
    let layer = hidden * experts * (1.0 + 3.0 * inner);
    let parameters = 256.0 * hidden * (context + 1.0) + blocks * layer;
    let row = hidden + 4.0 * inner;
    let pass = tokens * (2.0 * hidden * blocks + 4.0 * hidden + 256.0 + experts + top_k * row);
    let saved = blocks * tokens * top_k * 2.0 * inner;
    let scratch = backend.scratch_elements::<f32>(config, recipe.batch) as f64;
    // A parameter has its value, gradient and moments; a layer's lie in both passes' memory too, and its gradient once more.
    let elements = 4.0 * parameters + 2.0 * blocks * layer + layer + 2.0 * (pass + scratch) + saved;
    let text = (CURVE_BYTES + FINAL_BYTES) as f64 * (context + 1.0);
    4.0 * elements + text
}

/// Mean loss in nats a byte.
fn evaluate<B: Backend>(
    model: &Model,
    pass: &mut Pass<B>,
    batches: &[Batch],
) -> millet::Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for batch in batches {
        let losses = model.forward(pass, batch)?;
        sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        count += losses.len();
    }
    Ok(sum / count as f64)
}

impl Run {
    /// The record at this share of the training.
    pub fn record_at(&self, share: f64) -> &Record {
        let index = (share * self.records.len() as f64).round() as usize;
        &self.records[index.clamp(1, self.records.len()) - 1]
    }

    /// Means over the last tenth of the training.
    pub fn last_tenth(&self) -> Record {
        let count = self.records.len().div_ceil(10);
        Record::mean(&self.records[self.records.len() - count..])
    }
}

impl Record {
    /// Where the last of these records is, with the means of all.
    fn mean(records: &[Self]) -> Self {
        let last = records.last().expect("at least one record");
        let mean = |value: &dyn Fn(&Self) -> f64| {
            records.iter().map(value).sum::<f64>() / records.len() as f64
        };
        let slots = 0..last.router.slot_weights.len();
        Self {
            losses: Losses {
                cross_entropy: mean(&|r| r.losses.cross_entropy),
                aux: mean(&|r| r.losses.aux),
                z: mean(&|r| r.losses.z),
            },
            gradient_norm: mean(&|r| r.gradient_norm),
            router: RouterRecord {
                expert_imbalance: mean(&|r| r.router.expert_imbalance),
                group_imbalance: mean(&|r| r.router.group_imbalance),
                dropped_share: mean(&|r| r.router.dropped_share),
                top1_share: mean(&|r| r.router.top1_share),
                entropy: mean(&|r| r.router.entropy),
                slot_weights: slots.map(|k| mean(&|r| r.router.slot_weights[k])).collect(),
            },
            ..last.clone()
        }
    }
}

impl RouterRecord {
    /// Means over the blocks.
    fn new(blocks: &[Diagnostics]) -> Self {
        let mean = |value: &dyn Fn(&Diagnostics) -> f64| {
            blocks.iter().map(value).sum::<f64>() / blocks.len() as f64
        };
        Self {
            expert_imbalance: mean(&|d| d.expert_imbalance()),
            group_imbalance: mean(&|d| d.group_imbalance(RANKS).unwrap_or(f64::NAN)),
            dropped_share: mean(&|d| d.dropped_share()),
            top1_share: mean(&|d| d.top1_share),
            entropy: mean(&|d| d.entropy),
            slot_weights: (0..blocks[0].slot_weights.len())
                .map(|k| mean(&|d| d.slot_weights[k]))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millet::Cpu;

    /// One phrase over and over.
    fn pattern(train: usize, held_out: usize) -> Text {
        let pattern = |length: usize| b"fine-grained ".iter().copied().cycle().take(length);
        Text {
            train: pattern(train).collect(),
            held_out: pattern(held_out).collect(),
            description: String::new(),
        }
    }

    #[test]
    fn learns_a_pattern_and_repeats_itself() {
        let text = pattern(3000, 500);
        let recipe = Recipe {
            steps: 60,
            until: 60,
            batch: 64,
            blocks: 1,
            context: 4,
            learning_rate: 1e-2,
            weight_decay: 0.1,
        };
        let variant = Variant {
            label: "small".into(),
            layer: MoeConfig::builder(16, 8, 8, 2).capacity(Capacity::new(1.5)),
        };
        let held_out = HeldOut::new(&text, &recipe);
        let run = |seed| {
            let (text, held_out) = (&text, &held_out);
            train(
                &Cpu,
                Data { text, held_out },
                &recipe,
                &variant,
                seed,
                None,
                |_| (),
            )
            .unwrap()
        };
        let (first, again, other) = (run(1), run(1), run(2));
        assert!(
            first.held_out < 0.1 * held_out.unigram_entropy(),
            "{}",
            first.held_out
        );
        assert_eq!(first.held_out.to_bits(), again.held_out.to_bits());
        assert_ne!(first.held_out.to_bits(), other.held_out.to_bits());
        let last = first.records.last().unwrap();
        assert_eq!(
            (last.step, last.tokens, last.router.slot_weights.len()),
            (60, 3840, 2)
        );
        assert!(last.held_out.is_some());
        assert_eq!(first.record_at(0.25).step, 15);
    }

    /// A few steps on CUDA, on the emulator where there is no GPU: the losses of the CPU, step by step, and they fall.
    #[cfg(feature = "cuda")]
    #[test]
    fn cuda_learns_as_the_cpu_does() {
        let text = pattern(600, 60);
        let recipe = Recipe {
            steps: 12,
            until: 12,
            batch: 48,
            blocks: 2,
            context: 3,
            learning_rate: 1e-2,
            weight_decay: 0.1,
        };
        let variant = Variant {
            label: "small".into(),
            layer: MoeConfig::builder(16, 8, 8, 2)
                .capacity(Capacity::new(1.5))
                .losses(millet::Losses::new(1e-2, 1e-3)),
        };
        fn run<B: Backend + Clone>(
            backend: &B,
            text: &Text,
            recipe: &Recipe,
            variant: &Variant,
        ) -> (Run, Vec<Losses>) {
            let (held_out, mut losses) = (HeldOut::new(text, recipe), Vec::new());
            let tell = |event: Event<'_>| {
                if let Event::Step { losses: step, .. } = event {
                    losses.push(step);
                }
            };
            let data = Data {
                text,
                held_out: &held_out,
            };
            let run = train(backend, data, recipe, variant, 1, None, tell).unwrap();
            (run, losses)
        }
        let (cpu, cpu_losses) = run(&Cpu, &text, &recipe, &variant);
        let cuda = millet::Cuda::device(0).unwrap();
        let (cuda, cuda_losses) = run(&cuda, &text, &recipe, &variant);
        for (step, (a, b)) in cuda_losses.iter().zip(&cpu_losses).enumerate() {
            for (got, want) in [
                (a.cross_entropy, b.cross_entropy),
                (a.aux, b.aux),
                (a.z, b.z),
            ] {
                assert!(
                    (got - want).abs() < 1e-4 * want,
                    "step {step}: {got} {want}"
                );
            }
        }
        assert!((cuda.held_out - cpu.held_out).abs() < 1e-4 * cpu.held_out);
        let (first, last) = (cuda_losses[0].cross_entropy, cuda_losses[11].cross_entropy);
        assert!(last < 0.8 * first, "{first} {last}");
        for (a, b) in cuda.records.iter().zip(&cpu.records) {
            assert!((a.router.dropped_share - b.router.dropped_share).abs() < 1e-12);
            assert!((a.gradient_norm / b.gradient_norm - 1.0).abs() < 1e-3);
        }
    }
}
