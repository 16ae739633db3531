//! The whole layer, of any sizes and kind.

use millet::{Activation, AuxScale, Capacity, Cpu, DropPolicy, Element, ExpertBias};
use millet::{Keep, Losses, MoeConfig, ScoreFunction};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::{Target, Types, allowed, capacities, grouped, is_reference, stored, types, with_types};
use crate::generate::{Rng, SCORES};
use crate::harness::{Outcome, Problem, TestBackend, run};
use crate::oracle::Oracle;
use crate::tolerance::assert_near;

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) config: MoeConfig,
    pub(super) types: Types,
    pub(super) tokens: usize,
    pub(super) keep: Keep,
    pub(super) loss_gradient: f64,
    pub(super) seed: u64,
}

pub(super) fn target<B: TestBackend + 'static>() -> Target {
    Target::new("layer", cases(), |case| {
        with_types!(case.types, check::<B>(case))
    })
}

pub(super) fn cases() -> impl Strategy<Value = Case> {
    // Few tokens where there are many experts.
    let few = (1usize..20).prop_flat_map(|experts| (Just(experts), 1..=experts, 0usize..150));
    let many = prop::sample::select(vec![31usize, 32, 33, 64, 100, 130, 257])
        .prop_flat_map(|experts| (Just(experts), 1..=experts.min(20), 0usize..12));
    let sizes = prop_oneof![5 => few, 1 => many];
    // Rows that are multiples of 16 bytes take other kernels than those that are not.
    let width =
        || prop_oneof![4 => 1usize..20, 4 => (1usize..9).prop_map(|n| 8 * n), 1 => 65usize..140];
    let groups = prop::option::weighted(0.3, (1usize..=8, 1usize..=8));
    let router = (
        prop::sample::select(SCORES.to_vec()),
        groups,
        prop_oneof![Just(1.0), Just(2.5)],
    );
    let losses = (
        prop_oneof![Just(0.0), Just(0.3)],
        prop_oneof![Just(0.0), Just(0.05)],
        any::<bool>(),
        prop_oneof![Just(0.7), Just(0.0), Just(1.0)],
    );
    let limits = (0u32..128).prop_map(|n| 1.0 + f64::from(2 * n + 1) / 256.0);
    let clamped = (
        prop_oneof![Just(1.702), 0.5f64..2.0],
        limits,
        prop_oneof![Just(1.0), -1.0f64..1.0],
    );
    let experts = (prop::option::weighted(0.4, clamped), any::<bool>());
    let keep = prop::sample::select(vec![Keep::Hidden, Keep::Routing]);
    let rest = (types(), keep, any::<u64>());
    (
        (sizes, width(), width()),
        (router, capacities()),
        losses,
        experts,
        rest,
    )
        .prop_map(
            |(sizes, router, losses, (clamped, is_biased), (types, keep, seed))| {
                let ((experts, top_k, tokens), hidden, inner) = sizes;
                let ((score, groups, scale), capacity) = router;
                let (aux, z, per_token, loss_gradient) = losses;
                let aux_scale = match per_token {
                    true => AuxScale::PerToken,
                    false => AuxScale::PerAssignment,
                };
                let mut builder = MoeConfig::builder(hidden, inner, experts, top_k)
                    .scaling_factor(scale)
                    .losses(Losses::new(aux, z).aux_scale(aux_scale));
                if let Some((alpha, limit, offset)) = clamped {
                    builder = builder.activation(Activation::ClampedSwiGlu {
                        alpha,
                        limit,
                        offset,
                    });
                }
                if is_biased {
                    builder = builder.expert_bias(ExpertBias::GateUpAndDown);
                }
                let builder = allowed(builder, top_k, score, capacity);
                Case {
                    config: grouped(builder, groups),
                    types,
                    tokens,
                    keep,
                    loss_gradient,
                    seed,
                }
            },
        )
}

/// Logits are exact in every type and order of addition: small multiples of 1/8 and of 1/16, and so there are ties. With clamps so is h,
/// in multiples of 1/128 as far as 2, so that each value is on the same side of a limit between two of them in every type.
pub(super) fn problem(case: &Case) -> Problem {
    let mut problem = Problem::random(&case.config, case.tokens, case.seed);
    let mut rng = Rng::new(!case.seed);
    for x in &mut problem.x {
        *x = (rng.below(33) as f64 - 16.0) / 8.0;
    }
    for w in &mut problem.router {
        *w = (rng.below(9) as f64 - 4.0) / 16.0;
    }
    if case.config.activation() != Activation::SwiGlu {
        for value in problem.gate_up.iter_mut().chain(&mut problem.gate_up_bias) {
            *value = (*value * 16.0).round() / 16.0;
        }
    }
    problem
}

fn check<B: TestBackend, T: Element<Acc = f32>, W: Element<Acc = f32>>(
    case: &Case,
) -> TestCaseResult {
    let (config, keep, loss_gradient) = (&case.config, case.keep, case.loss_gradient);
    let problem = problem(case).rounded::<T, W>();
    let exact = Oracle::exact(config).layer(&problem, loss_gradient);
    let plain = Oracle {
        config,
        store: stored::<T>,
        store_router: stored::<W>,
    };
    let same = match is_reference::<B>() {
        true => plain.layer(&problem, loss_gradient),
        false => run::<Cpu, T, W>(config, &problem, keep, loss_gradient),
    };
    let got = run::<B, T, W>(config, &problem, keep, loss_gradient);
    if !is_reference::<B>() {
        got.assert_same_routing(&same, "the CPU in the same type");
        let bits = |outcome: &Outcome| {
            outcome
                .weights
                .iter()
                .map(|w| w.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&got), bits(&same), "weights");
    }
    if is_reference::<B>() {
        let got = run::<B, B::Exact, B::Exact>(config, &problem, keep, loss_gradient);
        got.assert_same_routing(&exact, "in f64");
        for ((name, got), (_, exact)) in got.floats().into_iter().zip(exact.floats()) {
            let size = exact.iter().fold(1.0f64, |size, v| size.max(v.abs()));
            for (&got, &exact) in got.iter().zip(exact) {
                assert!(
                    (got - exact).abs() <= 1e-12 * size,
                    "{name} in f64: {got} instead of {exact}"
                );
            }
        }
    }
    // Sums with sigmoids, and weights that are dropped by, may be equal in one type and not in the other.
    let sums = config.router().score_function() == ScoreFunction::Sigmoid
        && (problem.bias.is_some() || config.router().groups().is_some());
    if sums {
        prop_assume!(exact.ids == same.ids);
    }
    if config.capacity().map(Capacity::drop_policy) == Some(DropPolicy::Probability) {
        prop_assume!(exact.assignment_to_row == same.assignment_to_row);
        prop_assume!(got.ids != exact.ids || got.assignment_to_row == exact.assignment_to_row);
    }
    got.assert_same_routing(&exact, "the oracle");
    assert_all_near(&got, &exact, &same);
    Ok(())
}

fn assert_all_near(got: &Outcome, exact: &Outcome, same: &Outcome) {
    let floats = got.floats().into_iter().zip(exact.floats());
    for (((name, got), (_, exact)), (_, same)) in floats.zip(same.floats()) {
        assert_near(got, exact, same, name);
    }
}
