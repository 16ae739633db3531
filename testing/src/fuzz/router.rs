//! The router on given logits of every kind, forward and backward, against the oracle.

use millet::{AuxScale, Losses, MoeConfig, ScoreFunction};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::{Target, allowed, capacities, grouped, is_reference};
use crate::conformance::router::{check, check_backward, convert, oracle};
use crate::generate::{LogitKind, Rng, SCORES};
use crate::harness::{TestBackend, narrow, route, widen};

#[derive(Debug, Clone)]
struct Case {
    config: MoeConfig,
    tokens: usize,
    logits: LogitKind,
    is_biased: bool,
    seed: u64,
}

pub(super) fn target<B: TestBackend + 'static>() -> Target {
    Target::new("router", cases(), check_case::<B>)
}

fn cases() -> impl Strategy<Value = Case> {
    let experts = prop_oneof![
        6 => 1usize..=40,
        2 => prop::sample::select(vec![63usize, 64, 65, 100, 128, 130, 256, 257]),
        1 => prop::sample::select(vec![512usize, 513, 1000]),
    ];
    let sizes = experts.prop_flat_map(|experts| {
        let most = experts.min(64);
        let top_k = prop_oneof![6 => 1..=most.min(8), 2 => 1..=most, 1 => Just(most)];
        let tokens = if experts < 64 { 0usize..60 } else { 0..10 };
        (Just(experts), top_k, tokens)
    });
    let router = (
        prop::sample::select(SCORES.to_vec()),
        prop_oneof![Just(1.0), Just(2.5)],
        prop::option::weighted(0.3, (1usize..=8, 1usize..=8)),
        any::<bool>(),
    );
    let losses = (
        prop_oneof![Just(0.2), Just(0.0)],
        prop_oneof![Just(0.05), Just(0.0)],
        any::<bool>(),
    );
    let logits = prop::sample::select(LogitKind::ALL.to_vec());
    (sizes, router, capacities(), losses, (logits, any::<u64>())).prop_map(
        |(
            (experts, top_k, tokens),
            (score, scale, groups, is_biased),
            capacity,
            (aux, z, per_token),
            (logits, seed),
        )| {
            let aux_scale = match per_token {
                true => AuxScale::PerToken,
                false => AuxScale::PerAssignment,
            };
            let builder = MoeConfig::builder(1, 1, experts, top_k)
                .scaling_factor(scale)
                .losses(Losses::new(aux, z).aux_scale(aux_scale));
            let builder = allowed(builder, top_k, score, capacity);
            Case {
                config: grouped(builder, groups),
                tokens,
                logits,
                is_biased: is_biased && score == ScoreFunction::Sigmoid,
                seed,
            }
        },
    )
}

/// Are there two sums of sigmoids, of experts or of groups, that are so close that rounding could order them either way?
fn is_close(case: &Case, logits: &[f64], bias: Option<&[f64]>) -> bool {
    let config = &case.config;
    let experts = config.num_experts();
    if config.router().score_function() != ScoreFunction::Sigmoid {
        return false;
    }
    let close = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
            .windows(2)
            .any(|w| w[0] != w[1] && (w[1] - w[0]).abs() < 3e-6)
    };
    logits.chunks_exact(experts).any(|row| {
        let score =
            |(e, &z): (usize, &f64)| 1.0 / (1.0 + (-z).exp()) + bias.map_or(0.0, |bias| bias[e]);
        let scores: Vec<f64> = row.iter().enumerate().map(score).collect();
        let groups = config.router().groups().map(|limit| {
            let own = scores.chunks_exact(experts / limit.groups);
            own.map(|group| {
                let mut group = group.to_vec();
                group.sort_by(|a, b| b.total_cmp(a));
                // The only group may be of one expert.
                group.iter().take(2).sum::<f64>()
            })
        });
        (bias.is_some() && close(scores.clone()))
            || groups.is_some_and(|groups| close(groups.collect()))
    })
}

fn check_case<B: TestBackend>(case: &Case) -> TestCaseResult {
    let config = &case.config;
    let mut rng = Rng::new(case.seed);
    let logits = case
        .logits
        .logits(case.tokens, config.num_experts(), &mut rng);
    let bias = rng.normals(config.num_experts(), 0.5);
    let bias = case.is_biased.then(|| widen(&narrow::<f32>(&bias)));
    let bias = bias.as_deref();
    prop_assume!(!is_close(case, &logits, bias));
    let what = "the oracle in f32";
    let bias32 = bias.map(convert::<f32>);
    let want = oracle::<f32>(config).route(&convert(&logits), bias32.as_deref());
    let tolerance = 2e-6 * config.router().scaling_factor();
    check(
        config,
        &route::<B, f32>(config, &logits, bias),
        &want,
        tolerance,
        what,
    );
    check_backward::<B, f32>(config, &logits, bias, "in f32");
    if is_reference::<B>() {
        check_backward::<B, B::Exact>(config, &logits, bias, "in f64");
    }
    Ok(())
}
