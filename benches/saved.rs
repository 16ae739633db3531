//! Bytes that a layer keeps from forward to backward, in bf16. Nothing runs: they follow from the configuration, and the tests count that
//! no more is kept.
//!
//! `cargo bench --bench saved`; docs/benchmarks.md has the choices.

mod harness;

use millet::half::bf16;
use millet::{Element, MoeLayer};

use harness::{Device, Suite};

const DEFAULT: &str = "sonic,models";

fn on<B: Device>(suite: &mut Suite, backend: &B) {
    println!("| case | bytes per token | of these h | x |");
    println!("|---|---|---|---|");
    for case in suite.cases().to_vec() {
        let layer = MoeLayer::new(backend.clone(), case.config.clone());
        let saved = layer.saved_bytes::<bf16>(case.tokens);
        let per_token = |bytes: u64| bytes as f64 / case.tokens as f64;
        println!(
            "| {} | {:.0} | {:.0} | {:.0} |",
            case.name,
            per_token(saved.total()),
            per_token(saved.h),
            per_token(saved.x)
        );
        suite.saved(&case, B::NAME, bf16::DTYPE, &saved);
    }
}

fn main() {
    let mut suite = Suite::new(DEFAULT);
    // The plan of CUDA holds a few kilobytes more.
    #[cfg(feature = "cuda")]
    match <millet::Cuda as Device>::open(false) {
        Ok(backend) => return on(&mut suite, &backend),
        Err(reason) => println!("the CPU's: {reason}"),
    }
    on(&mut suite, &millet::Cpu);
}
