//! The whole layer on CUDA, of any sizes and kind, against the CPU in the same type and in f64.

use millet::half::{bf16, f16};
use millet::{
    Activation, Capacity, Cpu, Cuda, DropPolicy, Element, ExpertBias, Keep, MoeConfig, Renormalize,
    ScoreFunction, SingleExpert,
};
use proptest::prelude::*;

use crate::fuzz::runner;
use millet_testing::generate::{POLICIES, Rng, SCORES, base};
use millet_testing::harness::{Problem, run};
use millet_testing::tolerance::assert_near;

#[derive(Debug, Clone)]
struct Case {
    config: MoeConfig,
    tokens: usize,
    keep: Keep,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let experts = (1usize..20).prop_flat_map(|experts| (Just(experts), 1..=experts));
    // Rows that are multiples of 16 bytes take other kernels than those that are not.
    let width = || prop_oneof![1usize..20, (1usize..9).prop_map(|n| 8 * n)];
    let sizes = (0usize..150, width(), width(), experts);
    let score = prop::sample::select(SCORES.to_vec());
    let factor = prop_oneof![Just(None), (0.0f64..1.5).prop_map(Some)];
    let policy = prop::sample::select(POLICIES.to_vec());
    let keep = prop::sample::select(vec![Keep::Hidden, Keep::Routing]);
    // Limits that values come no closer to than a rounding of f32: see `problem`.
    let activation = prop::sample::select(vec![
        Activation::SwiGlu,
        Activation::ClampedSwiGlu {
            alpha: 1.702,
            limit: 0.75 + 1.0 / 512.0,
            offset: 1.0,
        },
        Activation::ClampedSwiGlu {
            alpha: 1.0,
            limit: 1.5 + 1.0 / 512.0,
            offset: 0.0,
        },
    ]);
    let bias = prop::sample::select(vec![ExpertBias::None, ExpertBias::GateUpAndDown]);
    let experts_have = (activation, bias);
    let rest = (
        score,
        factor,
        policy,
        any::<bool>(),
        keep,
        any::<u64>(),
        experts_have,
    );
    (sizes, rest).prop_map(|(sizes, rest)| {
        let (tokens, hidden, inner, (experts, top_k)) = sizes;
        let (score, factor, policy, renormalize, keep, seed, (activation, bias)) = rest;
        let mut builder = base(hidden, inner, experts, top_k)
            .activation(activation)
            .expert_bias(bias)
            .score_function(score);
        if top_k == 1 && score == ScoreFunction::SoftmaxAfterTopK {
            builder = builder.single_expert(SingleExpert::StraightThrough);
        }
        if let Some(factor) = factor {
            let mut capacity = Capacity::new(factor).policy(policy);
            if renormalize && top_k > 1 {
                capacity = capacity.renormalize(Renormalize::AfterDrop);
            }
            builder = builder.capacity(capacity);
        }
        Case {
            config: builder.build().unwrap(),
            tokens,
            keep,
            seed,
        }
    })
}

/// Logits are exact in every type and order of addition: small multiples of 1/8 and of 1/16, and so there are ties.
fn problem(case: &Case) -> Problem {
    let mut problem = Problem::random(&case.config, case.tokens, case.seed);
    let mut rng = Rng::new(!case.seed);
    for x in &mut problem.x {
        *x = (rng.below(33) as f64 - 16.0) / 8.0;
    }
    for w in &mut problem.router {
        *w = (rng.below(9) as f64 - 4.0) / 16.0;
    }
    // So is h where it is clamped, and half a step from the limit: the gradient jumps there.
    if case.config.activation() != Activation::SwiGlu {
        for weights in [&mut problem.gate_up, &mut problem.gate_up_bias] {
            for w in weights {
                *w = (*w * 16.0).round().clamp(-64.0, 64.0) / 16.0;
            }
        }
    }
    problem
}

fn check<T: Element<Acc = f32>, W: Element<Acc = f32>>() {
    let result = runner(24).run(&cases(), |case| {
        let config = &case.config;
        let problem = problem(&case).rounded::<T, W>();
        let exact = run::<Cpu, f64, f64>(config, &problem, case.keep, 0.7);
        let same = run::<Cpu, T, W>(config, &problem, case.keep, 0.7);
        // Weights that differ in f64 only may be dropped in another order in f32, there only.
        if config.capacity().map(|c| c.drop_policy()) == Some(DropPolicy::Probability) {
            prop_assume!(exact.assignment_to_row == same.assignment_to_row);
        }
        let got = run::<Cuda, T, W>(config, &problem, case.keep, 0.7);
        let what = format!("{case:?}");
        got.assert_same_routing(&same, &what);
        got.assert_same_routing(&exact, &what);
        let floats = got.floats().into_iter().zip(exact.floats());
        for (((name, got), (_, exact)), (_, same)) in floats.zip(same.floats()) {
            assert_near(got, exact, same, &format!("{name}: {what}"));
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn f32_in_everything() {
    check::<f32, f32>();
}

#[test]
fn bf16_in_everything() {
    check::<bf16, bf16>();
}

#[test]
fn bf16_with_an_f32_router() {
    check::<bf16, f32>();
}

#[test]
fn f16_in_everything() {
    check::<f16, f16>();
}

#[test]
fn f16_with_an_f32_router() {
    check::<f16, f32>();
}
