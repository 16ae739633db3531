//! Trains a byte-level language model on real text, with nothing but Rust installed:
//!
//! ```text
//! cargo run --release --example train                # one model
//! cargo run --release --example train -- --compare   # variants of matched FLOPs
//! cargo run --release --example train -- --help
//!
//! cargo run --release --features cuda --example train -- --device cuda   # the layers on a GPU; needs nvcc
//! ```
//!
//! Where to look: `model.rs` lends its weights to a `MoeLayer` and gets their gradients back; `training.rs` is the loop.

#![allow(unreachable_pub)] // `pub` is what the other files of this program use

mod chart;
mod checkpoint;
mod data;
mod embedding;
mod files;
mod head;
mod model;
mod norm;
mod optimizer;
mod options;
mod parameter;
mod product;
mod progress;
mod report;
mod training;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
#[cfg(feature = "cuda")]
use cuda_emulator_loader as _;
use millet::{Backend, Cpu};
use millet_examples::memory;
use serde_json::{Value, json};

use data::Text;
use files::{Outputs, say};
use model::Model;
use options::{Device, Options};
use progress::Progress;
use training::{Data, Event, HeldOut, Recipe, Run, Variant, train};

/// A run has learned when its held-out loss is at most this share of the entropy of single bytes.
const LEARNED: f64 = 0.75;

fn main() -> ExitCode {
    let options = Options::parse();
    let threads = options.threads.unwrap_or(0); // 0: as many as there are cores
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = pool
        .build_global()
        .map_err(|error| format!("cannot start the threads: {error}").into());
    match pool.and_then(|()| choose(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            files::warn(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs on the device that was asked for.
fn choose(options: &Options) -> Result<bool, Box<dyn Error>> {
    match options.device {
        Device::Cpu => run(&Cpu, options),
        #[cfg(feature = "cuda")]
        Device::Cuda => run(&millet::Cuda::device(0)?, options),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(
            "--device cuda: this program was built without CUDA; build it with `--features cuda`, which needs nvcc \
             (docs/building.md)"
                .into(),
        ),
    }
}

/// Whether every run learned.
fn run<B: Backend + Clone>(backend: &B, options: &Options) -> Result<bool, Box<dyn Error>> {
    let recipe = options.recipe();
    let variants = options.variants()?;
    for variant in &variants {
        fits_memory(backend, &recipe, variant)?;
    }
    if let Some(path) = &options.save {
        files::check_replaceable(path).map_err(|error| format!("--save: {error}"))?;
    }
    let text = match &options.text {
        Some(path) => Text::from_file(path, recipe.context)?,
        None => Text::from_cargo_sources(recipe.context)?,
    };
    let identity = identity(&text, &recipe, &variants[0], options.seed)?;
    let mut start = match &options.resume {
        Some(path) => {
            let config = variants[0].layer.clone().build()?;
            let sizes = Model::sizes(&config, recipe.blocks, recipe.context);
            Some(checkpoint::load(path, &identity, &sizes)?)
        }
        None => None,
    };
    let from = start.as_ref().map(|checkpoint| checkpoint.step);
    let mut outputs = Outputs::create(&options.out, from)?;
    let held_out = HeldOut::new(&text, &recipe);
    let unigram = held_out.unigram_entropy();
    say(&format!(
        "text: {}; {} bytes to train on, {} held out",
        text.description,
        text.train.len(),
        text.held_out.len()
    ))?;

    let seeds = if options.compare { options.seeds } else { 1 };
    let mut progress = Progress::new(variants.len() * seeds, &recipe, from.unwrap_or(0));
    let mut runs = Vec::<Run>::new();
    let mut saved = Ok(());
    for variant in &variants {
        for seed in (0..seeds).map(|n| options.seed.wrapping_add(n as u64)) {
            progress.start_run();
            let tell = |event: Event<'_>| match event {
                Event::Step {
                    step,
                    losses,
                    model,
                    optimizer,
                } => {
                    progress.step(&recipe, variant, step, losses);
                    if let Some(path) = &options.save
                        && (step.is_multiple_of(options.save_every) || step == recipe.until)
                    {
                        saved = checkpoint::save(path, &identity, model, optimizer);
                        if let Err(error) = &saved {
                            files::warn(&format!("warning: --save: {error}"));
                        }
                    }
                }
                Event::Record(run) => {
                    if let Some(record) = run.records.last() {
                        outputs.record(&run.label, run.seed, record);
                        if record.held_out.is_some() {
                            let shown = runs.iter().chain([run]);
                            outputs.curves(shown);
                        }
                    }
                }
            };
            let run = train(
                backend,
                Data {
                    text: &text,
                    held_out: &held_out,
                },
                &recipe,
                variant,
                seed,
                start.take(),
                tell,
            )?;
            runs.push(run);
        }
    }
    progress.finish();

    let groups = report::groups(&runs);
    for group in &groups {
        let (label, parameters) = (group.label, group.runs[0].parameters);
        say(&format!("model: {label}, {parameters} parameters"))?;
    }
    if options.compare {
        let (comparison, maturation) = (report::comparison(&groups), report::maturation(&groups));
        say(&format!(
            "\nunigram entropy of the held-out text: {unigram:.3} nats a byte\n\n{comparison}\n{maturation}"
        ))?;
    } else {
        say(&report::summary(&runs[0], unigram))?;
    }
    for path in [&outputs.rows_path, &outputs.curves_path] {
        say(&format!("written: {}", path.display()))?;
    }
    outputs.finish()?;
    saved.map_err(|error| format!("--save: {error}"))?;
    if let Some(path) = &options.save {
        say(&format!("saved: {}", path.display()))?;
    }
    if recipe.until < recipe.steps {
        say(&format!(
            "stopped after step {} of {}",
            recipe.until, recipe.steps
        ))?;
        return Ok(true);
    }

    let mut learned = true;
    // A loss of NaN has not learned either.
    for run in runs
        .iter()
        .filter(|run| !run.held_out.le(&(LEARNED * unigram)))
    {
        learned = false;
        say(&format!(
            "NOT LEARNED: {} with seed {} ends at {:.3} nats a byte, over {:.0} % of the unigram entropy",
            run.label,
            run.seed,
            run.held_out,
            100.0 * LEARNED
        ))?;
    }
    if learned {
        say(&format!(
            "learned: every held-out loss is below {:.0} % of the unigram entropy",
            100.0 * LEARNED
        ))?;
    }
    Ok(learned)
}

/// What a checkpoint must agree in with the training that goes on from it.
fn identity(
    text: &Text,
    recipe: &Recipe,
    variant: &Variant,
    seed: u64,
) -> Result<Value, Box<dyn Error>> {
    let layer = format!("{:?}", variant.layer.clone().build()?);
    Ok(json!({
        "text": format!("{:016x}", text.fingerprint()),
        "layer": layer,
        "seed": seed,
        "steps": recipe.steps,
        "batch": recipe.batch,
        "blocks": recipe.blocks,
        "context": recipe.context,
        "learning-rate": recipe.learning_rate.to_string(),
        "weight-decay": recipe.weight_decay.to_string(),
    }))
}

/// Refuses a training that the machine's memory does not hold.
fn fits_memory<B: Backend>(
    backend: &B,
    recipe: &Recipe,
    variant: &Variant,
) -> Result<(), Box<dyn Error>> {
    let config = variant.layer.clone().build()?;
    let needed = training::memory(backend, recipe, &config);
    memory::check(needed).map_err(|error| {
        format!(
            "{}, with --batch {}, --blocks {}, --context {}: {error}",
            variant.label, recipe.batch, recipe.blocks, recipe.context
        )
        .into()
    })
}
