//! The worked vectors of the definition, as printed there.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use millet::{AuxScale, Capacity, Losses, MoeConfig, Renormalize};

use crate::generate::{POLICIES, SCORES};
use crate::harness::{HostPlan, TestBackend, dispatch, route, route_backward};
use crate::tolerance::F32;

/// T = 3, E = 4, K = 2.
const LOGITS: [f64; 12] = [0.0, 1.0, 2.0, 3.0, 1.0, 0.5, -1.0, 0.0, 2.0, 2.0, -3.0, 1.0];

/// Relative error of a few roundings of f32.
const F32_DIGITS: f64 = 4.0 * f32::EPSILON as f64;

fn loss_config(aux: f64, z: f64) -> MoeConfig {
    MoeConfig::builder(1, 1, 4, 2)
        .losses(Losses::new(aux, z))
        .build()
        .unwrap()
}

/// Within half a unit of the last printed digit; in f32 and four of its own last digit.
#[track_caller]
fn assert_printed<B: TestBackend>(values: &[f64], printed: &[&str]) {
    assert_eq!(values.len(), printed.len());
    for (&value, text) in values.iter().zip(printed) {
        let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let decimals = digits
            .split_once('.')
            .map_or(0, |(_, tail)| tail.len() as i32);
        let unit = 10f64.powi(exponent.parse::<i32>().unwrap() - decimals);
        let expected: f64 = text.parse().unwrap();
        let tolerance = 0.5001 * unit + B::tolerance(0.0, F32_DIGITS) * expected.abs();
        assert!(
            abs_diff_eq!(value, expected, epsilon = tolerance),
            "{value} is not {text}"
        );
    }
}

pub(super) fn losses_and_weights<B: TestBackend>() {
    let config = loss_config(1e-2, 1e-3);
    let routed = route::<B, B::Exact>(&config, &LOGITS, None);
    assert_eq!(routed.ids, [3, 2, 0, 1, 0, 1]);
    assert_printed::<B>(
        &routed.weights,
        &[
            ".731058579",
            ".268941421",
            ".622459331",
            ".377540669",
            ".5",
            ".5",
        ],
    );
    assert_eq!(routed.counts, [2, 2, 1, 1]);
    assert_printed::<B>(
        routed.expert_sums(&config),
        &[".927169924", ".795754773", ".303867991", ".973207312"],
    );
    assert_printed::<B>(&routed.lse, &["3.440189699", "1.746567269", "2.864836325"]);
    assert_printed::<B>(
        &[routed.aux(), routed.z()],
        &[".010495388215", ".007697563185"],
    );

    let single = route::<B, f32>(&config, &LOGITS, None);
    assert_eq!((&single.ids, &single.counts), (&routed.ids, &routed.counts));
    let pairs = single
        .weights
        .iter()
        .chain(&single.lse)
        .chain(&single.stats);
    for (got, want) in pairs.zip(
        routed
            .weights
            .iter()
            .chain(&routed.lse)
            .chain(&routed.stats),
    ) {
        assert_abs_diff_eq!(got, want, epsilon = F32_DIGITS * want.abs());
    }

    // Without the 1/K the same routing costs K times as much.
    let per_token = Losses::new(1e-2, 0.0).aux_scale(AuxScale::PerToken);
    let per_token = MoeConfig::builder(1, 1, 4, 2)
        .losses(per_token)
        .build()
        .unwrap();
    let doubled = route::<B, B::Exact>(&per_token, &LOGITS, None).aux();
    let tolerance = B::tolerance(1e-16, 1e-9);
    assert_abs_diff_eq!(doubled, 2.0 * routed.aux(), epsilon = tolerance);
}

pub(super) fn loss_gradients<B: TestBackend>() {
    for (aux, z, printed) in [
        (
            1e-2,
            0.0,
            ["6.2749e-5", "1.7057e-4", "-6.2749e-5", "-1.7057e-4"],
        ),
        (0.0, 1e-3, ["7.353e-5", "1.999e-4", "5.433e-4", "1.477e-3"]),
    ] {
        let config = loss_config(aux, z);
        let routed = route::<B, B::Exact>(&config, &LOGITS, None);
        let zeros = [0.0; 6];
        let grad =
            route_backward::<B, B::Exact>(&config, &LOGITS, &routed, &routed.weights, &zeros, 1.0);
        assert_printed::<B>(&grad[..4], &printed);
        // The loss gradient is a factor.
        let scaled = route_backward::<B, B::Exact>(
            &config,
            &LOGITS,
            &routed,
            &routed.weights,
            &zeros,
            1024.0,
        );
        assert!(scaled.iter().zip(&grad).all(|(s, g)| *s == 1024.0 * g));
    }
}

/// T = 6, E = 4, K = 2: gates of each row, and (token, expert) kept for each policy at C = 2 and 3.
pub(super) fn kept_sets<B: TestBackend>() {
    let gates: [[f64; 4]; 6] = [
        [0.6, 0.4, 0.0, 0.0],
        [0.7, 0.0, 0.3, 0.0],
        [0.55, 0.45, 0.0, 0.0],
        [0.9, 0.0, 0.0, 0.1],
        [0.2, 0.8, 0.0, 0.0],
        [0.0, 0.65, 0.35, 0.0],
    ];
    // Logits whose softmax over the picked two is the gates.
    let logits: Vec<f64> = gates.iter().flatten().map(|g| g.ln()).collect();
    type Pair = (usize, usize);
    let at_2: [&[Pair]; 3] = [
        &[(1, 0), (1, 2), (3, 0), (3, 3), (4, 1), (5, 1), (5, 2)],
        &[(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (3, 3), (5, 2)],
        &[(0, 0), (1, 0), (1, 2), (3, 3), (4, 1), (5, 1), (5, 2)],
    ];
    let at_3: [&[Pair]; 3] = [
        &[
            (0, 0),
            (1, 0),
            (1, 2),
            (2, 1),
            (3, 0),
            (3, 3),
            (4, 1),
            (5, 1),
            (5, 2),
        ],
        &[
            (0, 0),
            (0, 1),
            (1, 0),
            (1, 2),
            (2, 0),
            (2, 1),
            (3, 3),
            (4, 1),
            (5, 2),
        ],
        &[
            (0, 0),
            (0, 1),
            (1, 0),
            (1, 2),
            (2, 0),
            (3, 3),
            (4, 1),
            (5, 1),
            (5, 2),
        ],
    ];
    // T·K/E = 3, so C = 3·factor.
    for (factor, limit, tables) in [(2.0 / 3.0, 2, at_2), (1.0, 3, at_3)] {
        for (policy, kept) in POLICIES.into_iter().zip(tables) {
            for renormalize in [Renormalize::Never, Renormalize::AfterDrop] {
                let capacity = Capacity::new(factor)
                    .policy(policy)
                    .renormalize(renormalize);
                let config = MoeConfig::builder(1, 1, 4, 2)
                    .capacity(capacity)
                    .build()
                    .unwrap();
                assert_eq!(config.expert_capacity(6), limit);
                let routed = route::<B, B::Exact>(&config, &logits, None);
                let backend = B::create();
                let (plan, weights) =
                    dispatch::<B, B::Exact>(&backend, &config, &routed.ids, &routed.weights);
                let rows = HostPlan::read(&backend, &plan).assignment_to_row;
                let mut found: Vec<Pair> = (0..12)
                    .filter(|&a| rows[a] >= 0)
                    .map(|a| (a / 2, routed.ids[a] as usize))
                    .collect();
                found.sort();
                assert_eq!(found, kept, "{policy:?} at C = {limit}");
                for a in 0..12 {
                    let pair = rows[a & !1] >= 0 && rows[a | 1] >= 0;
                    let expected = match (renormalize, rows[a] >= 0) {
                        (Renormalize::Never, _) => gates[a / 2][routed.ids[a] as usize],
                        (_, false) => 0.0,
                        (_, true) if pair => gates[a / 2][routed.ids[a] as usize],
                        (_, true) => 1.0,
                    };
                    let tolerance = B::tolerance(1e-15, F32);
                    assert!(
                        abs_diff_eq!(weights[a], expected, epsilon = tolerance),
                        "{policy:?} {a}"
                    );
                }
            }
        }
    }
}

pub(super) fn uniform_routing_costs_the_coefficient<B: TestBackend>() {
    // Token t of E prefers experts t, t+1, … cyclically: every expert gets K tokens and Σp is level.
    for score_function in SCORES {
        for (scale, factor) in [(AuxScale::PerAssignment, 1.0), (AuxScale::PerToken, 3.0)] {
            let config = MoeConfig::builder(1, 1, 7, 3)
                .score_function(score_function)
                .losses(Losses::new(0.25, 0.0).aux_scale(scale))
                .build()
                .unwrap();
            let logits: Vec<f64> = (0..49)
                .map(|i| -(((i % 7) + 7 - i / 7) as f64 % 7.0) * 0.4)
                .collect();
            let routed = route::<B, B::Exact>(&config, &logits, None);
            assert_eq!(routed.counts, [3; 7]);
            let expected = 0.25 * factor;
            assert!(
                abs_diff_eq!(routed.aux(), expected, epsilon = B::tolerance(1e-14, F32)),
                "{score_function:?} {scale:?}"
            );
        }
    }
}
