//! Warps, blocks and streams in a hundred other orders: the same bits, and nothing for the checkers to find.

use millet::half::bf16;
use millet::{Cuda, Element};

use crate::alone;
use crate::pipeline::{Pipeline, Source, assert_same, config};

#[test]
fn a_hundred_seeds_give_the_same_bits_from_tokens() {
    same_bits::<bf16>(Source::Tokens, 24);
}

#[test]
fn a_hundred_seeds_give_the_same_bits_from_logits() {
    // Rows of two vectors and a half: another path.
    same_bits::<bf16>(Source::Given, 20);
}

fn same_bits<T: Element<Acc = f32>>(source: Source, hidden: usize) {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    let mut pipeline = Pipeline::<T>::new(&cuda, &config(hidden, 12, 3), 37, source);
    pipeline.fill(1);
    pipeline.submit().unwrap();
    let want = pipeline.results();
    for seed in 0..100 {
        cuda_emulator_loader::set_seed(Some(seed));
        pipeline.fill(1);
        pipeline.submit().unwrap();
        assert_same(&pipeline.results(), &want, &format!("seed {seed}"));
        let findings = cuda_emulator_loader::findings().unwrap_or_default();
        assert!(findings.is_empty(), "seed {seed}: {findings:#?}");
    }
}
