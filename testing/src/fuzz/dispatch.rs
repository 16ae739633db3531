//! Dispatch of any ids, sentinels among them, and weights that are mostly ties, against the oracle.

use millet::{MoeConfig, ScoreFunction};
use proptest::prelude::*;

use super::{Target, allowed, capacities, is_reference};
use crate::conformance::router::check_dispatch;
use crate::generate::{Rng, RoutingKind};
use crate::harness::{TestBackend, narrow, widen};

/// What weights look like.
#[derive(Debug, Clone, Copy)]
enum Weights {
    /// Four values.
    Ties,
    /// As a softmax would make them, some 0.
    Spread,
    /// All the same.
    Equal,
}

#[derive(Debug, Clone)]
struct Case {
    config: MoeConfig,
    tokens: usize,
    routing: RoutingKind,
    weights: Weights,
    seed: u64,
}

pub(super) fn target<B: TestBackend + 'static>() -> Target {
    Target::new("dispatch", cases(), |case| {
        let (ids, weights) = inputs(case);
        check_dispatch::<B, f32>(&case.config, &ids, &weights);
        if is_reference::<B>() {
            check_dispatch::<B, B::Exact>(&case.config, &ids, &weights);
        }
        Ok(())
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let few = (1usize..=40).prop_flat_map(|e| (Just(e), 1..=e, 0usize..400));
    let many = prop::sample::select(vec![63usize, 64, 65, 128, 255, 256, 257, 512, 1000])
        .prop_flat_map(|e| (Just(e), 1usize..=64.min(e), 0usize..40));
    let sizes = prop_oneof![3 => few, 1 => many];
    let weights = prop::sample::select(vec![Weights::Ties, Weights::Spread, Weights::Equal]);
    let routing = prop::sample::select(RoutingKind::ALL.to_vec());
    (sizes, capacities(), routing, weights, any::<u64>()).prop_map(
        |((experts, top_k, tokens), capacity, routing, weights, seed)| {
            let builder = MoeConfig::builder(1, 1, experts, top_k).scaling_factor(1.5);
            let builder = allowed(builder, top_k, ScoreFunction::SoftmaxBeforeTopK, capacity);
            Case {
                config: builder.build().unwrap(),
                tokens,
                routing,
                weights,
                seed,
            }
        },
    )
}

fn inputs(case: &Case) -> (Vec<i32>, Vec<f64>) {
    let (experts, top_k) = (case.config.num_experts(), case.config.top_k());
    let mut rng = Rng::new(case.seed);
    let ids = case.routing.ids(case.tokens, experts, top_k, &mut rng);
    let weights: Vec<f64> = (ids.iter())
        .map(|_| match case.weights {
            Weights::Ties => 0.125 * (1 + rng.below(4)) as f64,
            Weights::Spread if rng.uniform() < 0.05 => 0.0,
            Weights::Spread => rng.uniform(),
            Weights::Equal => 0.5,
        })
        .collect();
    (ids, widen(&narrow::<f32>(&weights)))
}
