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

mod data;
mod embedding;
mod head;
mod model;
mod norm;
mod optimizer;
mod options;
mod parameter;
mod product;
mod training;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use options::{Device, Options};

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
        Some(path) => data::Text::from_file(path)?,
        None => data::Text::from_cargo_sources()?,
    };
    println!("{} {} {}", text.description, text.train.len(), text.held_out.len());
    let held_out = training::HeldOut::new(&text, &recipe);
    println!("{}", held_out.unigram_entropy());
    for v in &variants {
        let start = std::time::Instant::now();
        let r = training::train(&text, &held_out, &recipe, v, options.seed, |s, l| {
            if s % 50 == 0 { println!("{s} {} {} {} {:?}", l.cross_entropy, l.aux, l.z, start.elapsed()) }
        })?;
        let t = r.last_tenth().router;
        println!("{} {} {} tok/s; imb {} {} drop {} top1 {} ent {} {:?}\n{:?}", r.label, r.held_out, r.tokens_per_second, t.expert_imbalance, t.group_imbalance, t.dropped_share, t.top1_share, t.entropy, t.slot_weights, r.record_at(0.05).router.slot_weights);
    }
    Ok(true)
}
