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
mod data;
mod embedding;
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
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
#[cfg(feature = "cuda")]
use emulator_loader as _;
use millet::{Backend, Cpu};

use data::Text;
use options::{Device, Options};
use progress::Progress;
use training::{HeldOut, train};

/// A run has learned when its held-out loss is at most this share of the entropy of single bytes.
const LEARNED: f64 = 0.75;

fn main() -> ExitCode {
    match choose(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
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
    let text = match &options.text {
        Some(path) => Text::from_file(path, recipe.context)?,
        None => Text::from_cargo_sources(recipe.context)?,
    };
    let held_out = HeldOut::new(&text, &recipe);
    let unigram = held_out.unigram_entropy();
    println!(
        "text: {}; {} bytes to train on, {} held out",
        text.description,
        text.train.len(),
        text.held_out.len()
    );

    let seeds = if options.compare { options.seeds } else { 1 };
    let mut progress = Progress::new(variants.len() * seeds as usize, &recipe);
    let mut runs = Vec::new();
    for variant in &variants {
        for seed in (0..seeds).map(|n| options.seed.wrapping_add(n)) {
            progress.start_run();
            let report = |step, losses| progress.step(&recipe, variant, step, losses);
            let run = train(backend, &text, &held_out, &recipe, variant, seed, report)?;
            runs.push(run);
        }
    }
    progress.finish();

    let groups = report::groups(&runs);
    for group in &groups {
        println!(
            "model: {}, {} parameters",
            group.label, group.runs[0].parameters
        );
    }
    if options.compare {
        println!("\nunigram entropy of the held-out text: {unigram:.3} nats a byte");
        println!(
            "\n{}\n{}",
            report::comparison(&groups),
            report::maturation(&groups)
        );
    } else {
        println!("{}", report::summary(&runs[0], unigram));
    }
    for (name, content) in [
        ("runs.csv", report::csv(&runs)),
        ("curves.svg", chart::svg(&groups)),
    ] {
        println!(
            "written: {}",
            write(&options.out, name, &content)?.display()
        );
    }

    let mut learned = true;
    for run in runs.iter().filter(|run| run.held_out > LEARNED * unigram) {
        learned = false;
        println!(
            "NOT LEARNED: {} with seed {} ends at {:.3} nats a byte, over {:.0} % of the unigram entropy",
            run.label,
            run.seed,
            run.held_out,
            100.0 * LEARNED
        );
    }
    if learned {
        println!(
            "learned: every held-out loss is below {:.0} % of the unigram entropy",
            100.0 * LEARNED
        );
    }
    Ok(learned)
}

fn write(directory: &Path, name: &str, content: &str) -> Result<PathBuf, String> {
    let path = directory.join(name);
    let written = fs::create_dir_all(directory).and_then(|()| fs::write(&path, content));
    written.map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}
