//! Trains a byte-level language model on real text, with nothing but Rust installed:
//!
//! ```text
//! cargo run --release --example train                # one model
//! cargo run --release --example train -- --compare   # variants of matched FLOPs
//! cargo run --release --example train -- --help
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

use data::Text;
use options::{Device, Options};
use progress::Progress;
use training::{HeldOut, train};

/// A run has learned when its held-out loss is at most this share of the entropy of single bytes.
const LEARNED: f64 = 0.75;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every run learned.
fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    if options.device == Device::Cuda {
        return Err("this build has no CUDA backend yet: use --device cpu".into());
    }
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
            runs.push(train(&text, &held_out, &recipe, variant, seed, report)?);
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
