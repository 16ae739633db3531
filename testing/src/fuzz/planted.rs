//! NaN or ±∞ in one element of a layer that nothing drops from: it reaches what it reaches on the CPU, and changes no bit of the rest.

use millet::{Element, ExpertBias, Losses, MoeConfig, MoeLayer};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::{Target, Types, allowed, grouped, is_reference, types, with_types};
use crate::conformance::nonfinite::{Neighbours, Place, Planted, VALUES, check_planted};
use crate::generate::SCORES;
use crate::harness::{Problem, TestBackend};

#[derive(Debug, Clone)]
struct Case {
    config: MoeConfig,
    types: Types,
    tokens: usize,
    planted: Planted,
    seed: u64,
}

pub(super) fn target<B: TestBackend + 'static>() -> Target {
    Target::new("planted", cases(), |case| {
        with_types!(case.types, check::<B>(case))
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let experts = (1usize..16).prop_flat_map(|experts| (Just(experts), 1..=experts, 0..experts));
    let tokens = (1usize..60).prop_flat_map(|tokens| (Just(tokens), 0..tokens));
    let width = || prop_oneof![1usize..20, (1usize..9).prop_map(|n| 8 * n)];
    let place = prop::sample::select(Place::ALL.to_vec());
    let value = prop::sample::select(VALUES.to_vec());
    let score = prop::sample::select(SCORES.to_vec());
    let groups = prop::option::weighted(0.2, (1usize..=4, 1usize..=4));
    let what = (place, value, 0usize..64, 0usize..64, any::<bool>());
    (
        experts,
        tokens,
        (width(), width()),
        what,
        (types(), score, groups, any::<u64>()),
    )
        .prop_map(
            |((experts, top_k, expert), (tokens, token), (hidden, inner), what, rest)| {
                let (place, value, column, row, is_biased) = what;
                let (types, score, groups, seed) = rest;
                // Without the balance loss, whose counts all tokens share.
                let builder =
                    MoeConfig::builder(hidden, inner, experts, top_k).losses(Losses::new(0.0, 0.1));
                let builder =
                    match is_biased || [Place::GateUpBias, Place::DownBias].contains(&place) {
                        true => builder.expert_bias(ExpertBias::GateUpAndDown),
                        false => builder,
                    };
                let builder = allowed(builder, top_k, score, None);
                Case {
                    config: grouped(builder, groups),
                    types,
                    tokens,
                    planted: Planted {
                        place,
                        value,
                        token,
                        expert,
                        column,
                        row,
                    },
                    seed,
                }
            },
        )
}

fn check<B: TestBackend, T: Element<Acc = f32>, W: Element<Acc = f32>>(
    case: &Case,
) -> TestCaseResult {
    let problem = Problem::random(&case.config, case.tokens, case.seed);
    let layer = MoeLayer::new(B::create(), case.config.clone());
    let neighbours = match is_reference::<B>() {
        true => Neighbours::Counted,
        false => Neighbours::Ignored,
    };
    check_planted::<B, T, W>(&layer, case.planted, neighbours, &problem);
    Ok(())
}
