//! Routers on every kind of logits against the oracle: which experts exactly, weights and statistics closely.

use millet::{Capacity, GroupLimit, Losses, MoeConfig, Real, ScoreFunction, SingleExpert};

use crate::generate::{LogitKind, Rng, RoutingKind, SCORES, capacities};
use crate::harness::{RouterOutcome, TestBackend, dispatch, route, route_backward};
use crate::oracle::{Number, Oracle, Routed};

backend_tests!(
    every_kind_of_logits_f64,
    every_kind_of_logits_f32,
    every_number_of_experts,
    backward_on_every_kind_of_logits,
    dispatch_of_every_kind_of_routing,
    ties_take_the_lowest_index,
    groups_tie_to_the_lower_group,
    a_selection_bias_picks_but_does_not_weigh,
    a_large_bias_does_not_cancel_the_weight,
    statistics_are_what_they_say,
);

fn router(
    score_function: ScoreFunction,
    experts: usize,
    top_k: usize,
    groups: Option<GroupLimit>,
    scale: f64,
) -> MoeConfig {
    let mut builder = MoeConfig::builder(1, 1, experts, top_k)
        .score_function(score_function)
        .scaling_factor(scale)
        .losses(Losses::new(0.2, 0.05));
    if let Some(groups) = groups {
        builder = builder.groups(groups);
    }
    if top_k == 1 && score_function == ScoreFunction::SoftmaxAfterTopK {
        builder = builder.single_expert(SingleExpert::StraightThrough);
    }
    builder.build().unwrap()
}

fn oracle<N: Number>(config: &MoeConfig) -> Oracle<'_, N> {
    Oracle {
        config,
        store: |v| v,
        store_router: |v| v,
    }
}

fn convert<N: Number>(values: &[f64]) -> Vec<N> {
    values.iter().map(|&v| N::of(v)).collect()
}

/// Equal, or within `tolerance` relative to the larger of 1 and `want`.
#[track_caller]
fn assert_close(got: f64, want: f64, tolerance: f64, what: &str) {
    let close = got == want || (got - want).abs() <= tolerance * want.abs().max(1.0);
    assert!(close, "{what}: {got} instead of {want}");
}

fn check<N: Number>(
    config: &MoeConfig,
    got: &RouterOutcome,
    want: &Routed<N>,
    tolerance: f64,
    what: &str,
) {
    let (experts, top_k) = (config.num_experts(), config.top_k());
    assert_eq!(got.ids, want.ids, "ids: {what}");
    assert_eq!(got.counts, want.counts, "counts: {what}");
    for (i, (&g, w)) in got.weights.iter().zip(&want.weights).enumerate() {
        assert_close(g, w.f64(), tolerance, &format!("weight {i}: {what}"));
    }
    let bad = want.bad.iter().filter(|&&bad| bad).count();
    assert_eq!(got.bad_rows(), bad as f64, "bad rows: {what}");
    for (t, ids) in got.ids.chunks_exact(top_k).enumerate() {
        let mut sorted = ids.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), top_k, "distinct ids, row {t}: {what}");
        assert!(
            ids.iter().all(|&e| (0..experts as i32).contains(&e)),
            "{what}"
        );
        let weights = &got.weights[t * top_k..(t + 1) * top_k];
        assert!(
            weights.iter().all(|w| w.is_finite()),
            "finite weights, row {t}: {what}"
        );
        assert!(
            weights.is_sorted_by(|a, b| a >= b),
            "descending, row {t}: {what}"
        );
        match want.bad[t] {
            true => assert!(got.lse[t].is_nan(), "a bad row's lse: {what}"),
            false => assert_close(got.lse[t], want.lse[t].f64(), tolerance, what),
        }
    }
    let sums = got.expert_sums(config).iter().zip(&want.expert_sums);
    for (&g, w) in sums {
        assert_close(g, w.f64(), 10.0 * tolerance, &format!("Σp: {what}"));
    }
    assert_close(
        got.aux(),
        want.aux.f64(),
        10.0 * tolerance,
        &format!("aux: {what}"),
    );
    assert_close(
        got.z(),
        want.z.f64(),
        10.0 * tolerance,
        &format!("z: {what}"),
    );
}

/// Every kind of logits at every score function, with and without groups, scale and bias.
fn sweep(mut each: impl FnMut(&MoeConfig, &[f64], Option<&[f64]>, &str)) {
    for kind in LogitKind::ALL {
        for score_function in SCORES {
            for (experts, top_k, groups) in [
                (8, 2, None),
                (64, 8, None),
                (6, 6, None),
                (5, 1, None),
                (16, 4, Some((4, 2))),
                (12, 3, Some((3, 3))),
            ] {
                let groups = groups.map(|(groups, selected)| GroupLimit { groups, selected });
                let scale = if experts == 16 { 2.5 } else { 1.0 };
                let config = router(score_function, experts, top_k, groups, scale);
                let mut rng = Rng::new(experts as u64);
                let logits = kind.logits(50, experts, &mut rng);
                let what = format!("{kind:?} {score_function:?} E={experts} K={top_k}");
                each(&config, &logits, None, &what);
                if score_function == ScoreFunction::Sigmoid {
                    let bias = convert::<f32>(&rng.normals(experts, 0.5));
                    let bias = crate::harness::widen(&bias);
                    each(&config, &logits, Some(&bias), &format!("{what} biased"));
                }
            }
        }
    }
}

fn every_kind_of_logits_f64<B: TestBackend>() {
    sweep(|config, logits, bias, what| {
        let want = oracle::<f64>(config).route(logits, bias);
        check(
            config,
            &route::<B, f64>(config, logits, bias),
            &want,
            1e-13,
            what,
        );
    });
}

fn every_kind_of_logits_f32<B: TestBackend>() {
    sweep(|config, logits, bias, what| {
        let bias32 = bias.map(convert::<f32>);
        let want = oracle::<f32>(config).route(&convert(logits), bias32.as_deref());
        check(
            config,
            &route::<B, f32>(config, logits, bias),
            &want,
            2e-6,
            what,
        );
    });
}

fn every_number_of_experts<B: TestBackend>() {
    for experts in [1, 2, 3, 7, 31, 32, 33, 100, 130, 257, 1000] {
        for top_k in [1, 2, 8, 40, experts] {
            if top_k > experts {
                continue;
            }
            for score_function in SCORES {
                let config = router(score_function, experts, top_k, None, 1.0);
                for kind in [LogitKind::Bf16, LogitKind::Masked] {
                    let logits = kind.logits(9, experts, &mut Rng::new(top_k as u64));
                    let want = oracle::<f64>(&config).route(&logits, None);
                    let got = route::<B, f64>(&config, &logits, None);
                    let what = format!("{score_function:?} E={experts} K={top_k} {kind:?}");
                    check(&config, &got, &want, 1e-13, &what);
                }
            }
        }
    }
}

fn backward_on_every_kind_of_logits<B: TestBackend>() {
    sweep(|config, logits, bias, what| {
        // Every second configuration of capacity, so that kept sets and renormalisation differ from row to row.
        for capacity in capacities(0.6).into_iter().step_by(2) {
            if capacity.is_some() && config.top_k() == 1 {
                continue;
            }
            let config = &with_capacity(config, capacity);
            let (top_k, experts) = (config.top_k(), config.num_experts());
            let oracle = oracle::<f64>(config);
            let routed = oracle.route(logits, bias);
            let forward = route::<B, f64>(config, logits, bias);
            // Equal weights may differ in their last bit by the order of a sum, and the drop would follow.
            let plan = oracle.dispatch(&forward.ids, &forward.weights);
            let mut rng = Rng::new(9);
            let weights_grad: Vec<f64> = (plan.assignment_to_row.iter())
                .map(|&row| if row < 0 { 0.0 } else { rng.normal() })
                .collect();
            let want = oracle.route_backward(&routed, &plan, &weights_grad, 0.5);
            let (_, weights) =
                dispatch::<B, f64>(&B::create(), config, &forward.ids, &forward.weights);
            let got =
                route_backward::<B, f64>(config, logits, &forward, &weights, &weights_grad, 0.5);
            for (t, (got, want)) in got
                .chunks_exact(experts)
                .zip(want.chunks_exact(experts))
                .enumerate()
            {
                if routed.bad[t] {
                    assert!(
                        got.iter().all(|&g| g == 0.0),
                        "a bad row's gradient: {what}"
                    );
                }
                // Where every weight of a row underflows there is nothing left to renormalise.
                let slots = t * top_k..(t + 1) * top_k;
                let total: f64 = plan.weights[slots].iter().sum();
                if want.iter().any(|w| !w.is_finite()) {
                    assert!(total == 0.0, "the oracle itself is not finite: {what}");
                    continue;
                }
                for (&g, &w) in got.iter().zip(want) {
                    assert_close(g, w, 1e-11, &format!("row {t}: {what} {capacity:?}"));
                }
            }
        }
    });
}

fn with_capacity(config: &MoeConfig, capacity: Option<Capacity>) -> MoeConfig {
    let Some(capacity) = capacity else {
        return config.clone();
    };
    let router = config.router();
    let mut builder = MoeConfig::builder(1, 1, config.num_experts(), config.top_k())
        .score_function(router.score_function())
        .scaling_factor(router.scaling_factor())
        .losses(*config.losses())
        .capacity(capacity);
    if let Some(groups) = router.groups() {
        builder = builder.groups(groups);
    }
    builder.build().unwrap()
}

fn dispatch_of_every_kind_of_routing<B: TestBackend>() {
    for kind in RoutingKind::ALL {
        for (tokens, experts, top_k) in [
            (0, 4, 2),
            (1, 4, 2),
            (40, 8, 3),
            (33, 5, 5),
            (50, 100, 4),
            (64, 3, 1),
            (300, 7, 2),
        ] {
            for factor in [0.0, 0.3, 0.6, 1.0, 1.5, 50.0] {
                for capacity in capacities(factor) {
                    if capacity.is_some() && top_k == 1 {
                        continue;
                    }
                    let config =
                        router(ScoreFunction::SoftmaxBeforeTopK, experts, top_k, None, 1.5);
                    let config = with_capacity(&config, capacity);
                    let mut rng = Rng::new(tokens as u64 + experts as u64);
                    let ids = kind.ids(tokens, experts, top_k, &mut rng);
                    // Few different weights: ties are the rule.
                    let weights: Vec<f64> = ids
                        .iter()
                        .map(|_| 0.125 * (1 + rng.below(4)) as f64)
                        .collect();
                    check_dispatch::<B, f64>(&config, &ids, &weights);
                    check_dispatch::<B, f32>(&config, &ids, &weights);
                }
            }
        }
    }
}

/// Expert and first row of every tile of rows, −1 up to the bound.
fn tiles_of(config: &MoeConfig, tokens: usize, offsets: &[i32]) -> Vec<i32> {
    let mut tiles = Vec::new();
    for (e, range) in offsets.windows(2).enumerate() {
        let mut row = range[0];
        while row < range[1] {
            tiles.extend([e as i32, row]);
            row += config.tile_rows(tokens) as i32;
        }
    }
    let bound = 2 * config.max_row_tiles(tokens);
    assert!(tiles.len() <= bound, "the bound holds: {config:?}");
    tiles.resize(bound, -1);
    tiles
}

fn check_dispatch<B: TestBackend, A: Real>(config: &MoeConfig, ids: &[i32], weights: &[f64]) {
    let backend = B::create();
    let want = oracle::<f64>(config).dispatch(ids, weights);
    let (plan, weights) = dispatch::<B, A>(&backend, config, ids, weights);
    assert_eq!(plan.offsets.read(&backend), want.offsets, "{config:?}");
    assert_eq!(
        plan.assignment_to_row.read(&backend),
        want.assignment_to_row,
        "{config:?}"
    );
    let rows = plan.row_to_assignment.read(&backend);
    let (rows, rest) = rows.split_at(want.row_to_assignment.len());
    assert_eq!(rows, want.row_to_assignment, "{config:?}");
    assert!(
        rest.iter().all(|&a| a == -1),
        "unused rows say so: {config:?}"
    );
    let tokens = ids.len() / config.top_k();
    let tiles = plan.row_tiles.read(&backend);
    assert_eq!(tiles, tiles_of(config, tokens, &want.offsets), "{config:?}");
    for (&got, &want) in weights.iter().zip(&want.weights) {
        assert_close(got, want, 3e-7, "weight after dispatch");
    }
}

fn ties_take_the_lowest_index<B: TestBackend>() {
    for score_function in SCORES {
        let config = router(score_function, 8, 3, None, 1.0);
        // Three equal logits at the boundary; all equal; −0 beside +0; saturated sigmoids and equal −∞.
        let logits = [
            [5.0, 1.0, 3.0, 1.0, 0.0, 1.0, 3.0, -1.0],
            [2.0; 8],
            [-0.0, 0.0, -1.0, 0.0, -0.0, 0.0, -2.0, 0.0],
            [
                f64::NEG_INFINITY,
                f64::NEG_INFINITY,
                1.0,
                f64::NEG_INFINITY,
                1.0,
                f64::NEG_INFINITY,
                f64::NEG_INFINITY,
                f64::NEG_INFINITY,
            ],
        ];
        let routed = route::<B, f32>(&config, logits.as_flattened(), None);
        assert_eq!(
            routed.ids,
            [0, 2, 6, 0, 1, 2, 0, 1, 3, 2, 4, 0],
            "{score_function:?}"
        );
        let f64s = route::<B, f64>(&config, logits.as_flattened(), None);
        assert_eq!(f64s.ids, routed.ids);
    }
}

fn groups_tie_to_the_lower_group<B: TestBackend>() {
    for score_function in SCORES {
        let groups = GroupLimit {
            groups: 3,
            selected: 2,
        };
        let config = router(score_function, 6, 2, Some(groups), 1.0);
        // All groups score alike: the first two stay, and the best experts are found there.
        let logits = [1.0, 2.0, 2.0, 1.0, 2.0, 1.0];
        assert_eq!(
            route::<B, f64>(&config, &logits, None).ids,
            [1, 2],
            "{score_function:?}"
        );
    }
    // A sigmoid router adds the two best of a group, a softmax router takes the best one.
    let one_group = GroupLimit {
        groups: 2,
        selected: 1,
    };
    let logits = [4.0, -9.0, -9.0, 2.0, 2.0, 2.0];
    for (score_function, expected) in SCORES.into_iter().zip([[0, 1], [0, 1], [3, 4]]) {
        let config = router(score_function, 6, 2, Some(one_group), 1.0);
        assert_eq!(
            route::<B, f64>(&config, &logits, None).ids,
            expected,
            "{score_function:?}"
        );
    }
}

fn a_selection_bias_picks_but_does_not_weigh<B: TestBackend>() {
    let config = router(ScoreFunction::Sigmoid, 4, 2, None, 2.0);
    let logits = [0.0, 1.0, 2.0, 3.0];
    // Expert 0 is pushed in and 3 out; slots stay in the order of the unbiased weights.
    let routed = route::<B, f64>(&config, &logits, Some(&[10.0, 0.0, 5.0, -5.0]));
    assert_eq!(routed.ids, [2, 0]);
    let s = |z: f64| 1.0 / (1.0 + (-z).exp());
    let total = s(2.0) + s(0.0);
    for (got, want) in routed
        .weights
        .iter()
        .zip([2.0 * s(2.0) / total, 2.0 * s(0.0) / total])
    {
        assert!((got - want).abs() < 1e-15, "{got} {want}");
    }
    // A masked expert stays masked however large its bias.
    let masked = [f64::NEG_INFINITY, 1.0, 2.0, 3.0];
    let routed = route::<B, f64>(&config, &masked, Some(&[100.0, 0.0, 0.0, 0.0]));
    assert_eq!(routed.ids, [3, 2]);
}

fn a_large_bias_does_not_cancel_the_weight<B: TestBackend>() {
    // σ(−18) = 1.5e-8 beside a bias of 12 is below half a unit in the last place of f32.
    let config = router(ScoreFunction::Sigmoid, 4, 1, None, 1.0);
    let routed = route::<B, f32>(&config, &[-18.0, -19.0, -20.0, -21.0], Some(&[12.0; 4]));
    let expected = 1.0 / (1.0 + 18f64.exp());
    assert!(
        (routed.weights[0] / expected - 1.0).abs() < 1e-6,
        "{:?}",
        routed.weights
    );
}

fn statistics_are_what_they_say<B: TestBackend>() {
    for score_function in SCORES {
        for kind in [LogitKind::Normal, LogitKind::NanRows, LogitKind::Masked] {
            let config = router(score_function, 10, 3, None, 1.25);
            // Past the panels that an implementation adds in parallel.
            let logits = kind.logits(400, 10, &mut Rng::new(4));
            let want = oracle::<f64>(&config).route(&logits, None);
            let got = route::<B, f64>(&config, &logits, None);
            let what = format!("{score_function:?} {kind:?}");
            check(&config, &got, &want, 1e-12, &what);
            let (mut entropy, mut share, mut slots) = (0.0, 0.0, [0.0; 3]);
            for t in (0..400).filter(|&t| !want.bad[t]) {
                entropy -= (want.distribution[t].iter())
                    .map(|&p| if p > 0.0 { p * p.ln() } else { 0.0 })
                    .sum::<f64>();
                let weights = &want.weights[t * 3..t * 3 + 3];
                share += weights[0] / weights.iter().sum::<f64>();
                for (slot, w) in slots.iter_mut().zip(weights) {
                    *slot += w;
                }
            }
            assert_close(got.entropy(), entropy, 1e-12, &what);
            assert_close(got.top1_share(), share, 1e-12, &what);
            for (&got, want) in got.slot_weights(&config).iter().zip(slots) {
                assert_close(got, want, 1e-12, &what);
            }
            assert_eq!(kind == LogitKind::NanRows, got.bad_rows() > 0.0);
        }
    }
}
