//! Routers on every kind of logits against the oracle: which experts exactly, weights and statistics closely.

use approx::{RelativeEq, assert_abs_diff_eq};
use millet::{
    Capacity, Cpu, DType, Element, Error, GroupLimit, Losses, MoeConfig, Real, Renormalize,
    ScoreFunction, SingleExpert,
};

use crate::generate::{LogitKind, Rng, RoutingKind, SCORES, capacities};

use crate::harness::{
    HostPlan, RouterOutcome, TestBackend, dispatch, list_tiles, narrow, route, route_backward,
    try_route, widen,
};
use crate::oracle::{Number, Oracle, Routed};
use crate::tolerance::{F32, Values, assert_near, assert_right};

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

pub(crate) fn oracle<N: Number>(config: &MoeConfig) -> Oracle<'_, N> {
    Oracle {
        config,
        store: |v| v,
        store_router: |v| v,
    }
}

pub(crate) fn convert<N: Number>(values: &[f64]) -> Vec<N> {
    values.iter().map(|&v| N::of(v)).collect()
}

/// Equal, or within `tolerance` relative to the larger of 1 and `want`.
#[track_caller]
fn assert_close(got: f64, want: f64, tolerance: f64, what: &str) {
    let close = Values(&[got]).relative_eq(&Values(&[want]), tolerance, tolerance);
    assert!(close, "{what}: {got} instead of {want}");
}

pub(crate) fn check<N: Number>(
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
        let mut sorted: Vec<i32> = ids.iter().copied().filter(|&e| e >= 0).collect();
        // Empty where nothing but masked experts was left to pick.
        let given = &want.logits[t];
        let selectable = given.iter().filter(|z| z.f64() > f64::NEG_INFINITY).count();
        assert!(
            sorted.len() == top_k || (!want.bad[t] && selectable < experts),
            "{what}"
        );
        let filled = sorted.len();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), filled, "distinct ids, row {t}: {what}");
        assert!(sorted.iter().all(|&e| e < experts as i32), "{what}");
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
pub(super) fn sweep(mut each: impl FnMut(&MoeConfig, &[f64], Option<&[f64]>, &str)) {
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
                    let bias = widen(&bias);
                    each(&config, &logits, Some(&bias), &format!("{what} biased"));
                }
            }
        }
    }
}

pub(super) fn every_kind_of_logits_f32<B: TestBackend>() {
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

pub(super) fn every_number_of_experts<B: TestBackend>() {
    for experts in [1, 2, 3, 7, 31, 32, 33, 100, 130, 257, 1000] {
        for top_k in [1, 2, 8, 40, experts] {
            if top_k > experts {
                continue;
            }
            for score_function in SCORES {
                let config = router(score_function, experts, top_k, None, 1.0);
                for kind in [LogitKind::Bf16, LogitKind::Masked] {
                    let logits = kind.logits(9, experts, &mut Rng::new(top_k as u64));
                    let got = try_route::<B, B::Exact>(&config, &logits, None);
                    let what = format!("{score_function:?} E={experts} K={top_k} {kind:?}");
                    if top_k > B::LIMITS.1 {
                        let refused = matches!(got, Err(Error::Unsupported { .. }));
                        assert!(refused, "{what}: {got:?}");
                        continue;
                    }
                    let want = oracle::<B::Exact>(&config).route(&convert(&logits), None);
                    let tolerance = B::tolerance(1e-13, 4e-6);
                    check(&config, &got.unwrap(), &want, tolerance, &what);
                }
            }
        }
    }
}

pub(super) fn backward_on_every_kind_of_logits<B: TestBackend>() {
    let mut turn = 0;
    sweep(|config, logits, bias, what| {
        // Every second configuration of capacity, so that kept sets and renormalisation differ from row to row; of these four
        // a slow backend takes turns.
        turn += 1;
        let slowness = B::SLOWNESS as usize;
        let all = capacities(0.6).into_iter().step_by(2);
        for capacity in all.skip(turn % slowness).step_by(slowness) {
            if capacity.is_some() && config.top_k() == 1 {
                continue;
            }
            let config = &with_capacity(config, capacity);
            check_backward::<B, B::Exact>(config, logits, bias, &format!("{what} {capacity:?}"));
        }
    });
}

/// The gradient of logits in `A`, of random gradients of the weights that dispatch leaves: in f64 within 1e-11 of the oracle's; in f32 by
/// the rule of [`assert_near`], and what the CPU itself is off by is 0 there.
pub(crate) fn check_backward<B: TestBackend, A: Real>(
    config: &MoeConfig,
    logits: &[f64],
    bias: Option<&[f64]>,
    what: &str,
) {
    let (top_k, experts) = (config.top_k(), config.num_experts());
    let oracle = oracle::<f64>(config);
    let routed = oracle.route(logits, bias);
    let forward = route::<B, A>(config, logits, bias);
    if forward.ids != routed.ids {
        // Two sums with a sigmoid are one number in f32 and two in f64.
        let sums = bias.is_some() || config.router().groups().is_some();
        assert!(A::DTYPE == DType::F32 && sums, "ids: {what}");
        return;
    }
    // Equal weights may differ in their last bit by the order of a sum, and the drop would follow.
    let plan = oracle.dispatch(&forward.ids, &forward.weights);
    let mut rng = Rng::new(9);
    let weights_grad: Vec<f64> = (plan.assignment_to_row.iter())
        .map(|&row| if row < 0 { 0.0 } else { rng.normal() })
        .collect();
    let weights_grad = widen(&convert::<f32>(&weights_grad));
    let want = oracle.route_backward(&routed, &plan, &weights_grad, 0.5);
    let (_, weights) = dispatch::<B, A>(&B::create(), config, &forward.ids, &forward.weights);
    let got = route_backward::<B, A>(config, logits, &forward, &weights, &weights_grad, 0.5);
    let same = match B::Exact::DTYPE {
        DType::F64 => want.clone(),
        _ => route_backward::<Cpu, f32>(config, logits, &forward, &weights, &weights_grad, 0.5),
    };
    let rows = got.chunks_exact(experts).zip(want.chunks_exact(experts));
    for (t, ((got, want), same)) in rows.zip(same.chunks_exact(experts)).enumerate() {
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
        let what = format!("row {t}: {what}");
        match A::DTYPE {
            DType::F64 => assert_right::<B>(got, want, Vec::new, 1e-11, &what),
            _ => {
                let [want, same] = [want, same].map(|values| widen(&narrow::<A>(values)));
                assert_near(got, &want, &same, &what);
            }
        }
    }
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

pub(super) fn dispatch_of_every_kind_of_routing<B: TestBackend>() {
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
                    check_dispatch::<B, f32>(&config, &ids, &weights);
                    if B::Exact::DTYPE != DType::F32 {
                        check_dispatch::<B, B::Exact>(&config, &ids, &weights);
                    }
                }
            }
        }
    }
}

pub(crate) fn check_dispatch<B: TestBackend, A: Real>(
    config: &MoeConfig,
    ids: &[i32],
    weights: &[f64],
) {
    let backend = B::create();
    let want = oracle::<f64>(config).dispatch(ids, weights);
    let (plan, weights) = dispatch::<B, A>(&backend, config, ids, weights);
    assert_eq!(
        HostPlan::read(&backend, &plan).offsets,
        want.offsets,
        "{config:?}"
    );
    assert_eq!(
        HostPlan::read(&backend, &plan).assignment_to_row,
        want.assignment_to_row,
        "{config:?}"
    );
    let rows = HostPlan::read(&backend, &plan).row_to_assignment;
    let (rows, rest) = rows.split_at(want.row_to_assignment.len());
    assert_eq!(rows, want.row_to_assignment, "{config:?}");
    assert!(
        rest.iter().all(|&a| a == -1),
        "unused rows say so: {config:?}"
    );
    let tokens = ids.len() / config.top_k();
    let tiles = HostPlan::read(&backend, &plan).row_tiles;
    let want_tiles = list_tiles(backend.row_tiles(config, tokens), &want.offsets);
    assert_eq!(tiles, want_tiles, "{config:?}");
    for (&got, &want) in weights.iter().zip(&want.weights) {
        assert_close(got, want, 3e-7, "weight after dispatch");
    }
}

pub(super) fn ties_take_the_lowest_index<B: TestBackend>() {
    for score_function in SCORES {
        let config = router(score_function, 8, 3, None, 1.0);
        // Three equal logits at the boundary; all equal; −0 beside +0; fewer than K that are not masked.
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
            [0, 2, 6, 0, 1, 2, 0, 1, 3, 2, 4, -1],
            "{score_function:?}"
        );
        let exact = route::<B, B::Exact>(&config, logits.as_flattened(), None);
        assert_eq!(exact.ids, routed.ids);
    }
}

pub(super) fn groups_tie_to_the_lower_group<B: TestBackend>() {
    for score_function in SCORES {
        let groups = GroupLimit {
            groups: 3,
            selected: 2,
        };
        let config = router(score_function, 6, 2, Some(groups), 1.0);
        // All groups score alike: the first two stay, and the best experts are found there.
        let logits = [1.0, 2.0, 2.0, 1.0, 2.0, 1.0];
        assert_eq!(
            route::<B, B::Exact>(&config, &logits, None).ids,
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
            route::<B, B::Exact>(&config, &logits, None).ids,
            expected,
            "{score_function:?}"
        );
    }
}

/// In f32 every σ here is 1, so only the logits tell the experts and the groups apart; f64 tells the sigmoids apart as well.
pub(super) fn saturated_sigmoids_are_told_apart_by_their_logits<B: TestBackend>() {
    let check = |groups: Option<(usize, usize)>, top_k: usize, logits: &[f64], expected: &[i32]| {
        let groups = groups.map(|(groups, selected)| GroupLimit { groups, selected });
        let config = router(ScoreFunction::Sigmoid, logits.len(), top_k, groups, 1.0);
        for bias in [None, Some(vec![0.0; logits.len()])] {
            let bias = bias.as_deref();
            let routed = route::<B, f32>(&config, logits, bias);
            assert_eq!(routed.ids, expected, "{groups:?} {bias:?}");
            assert!(routed.weights.iter().all(|&w| w == routed.weights[0]));
            let exact = route::<B, B::Exact>(&config, logits, bias);
            assert_eq!(exact.ids, expected, "{groups:?} {bias:?}");
        }
    };
    check(None, 2, &[20.0, 25.0, 30.0], &[2, 1]);
    // Equal logits still go to the lower expert.
    check(None, 4, &[25.0, 20.0, 30.0, 25.0, 20.0], &[2, 0, 3, 1]);
    // Both in one lane of a warp, and in two.
    let mut logits = vec![18.0; 100];
    for (e, z) in [(3, 20.0), (35, 24.0), (67, 22.0), (80, 23.0), (98, 21.0)] {
        logits[e] = z;
    }
    check(None, 6, &logits, &[35, 80, 67, 98, 3, 0]);
    // A group is as good as its two best together: one that is far up does not make up for one that is further down.
    let logits = [18.0, 34.0, 30.0, 31.0, 18.0, 19.0, 29.0, 33.0];
    check(Some((4, 1)), 2, &logits, &[3, 2]);
    check(Some((4, 2)), 3, &logits, &[7, 3, 2]);

    // A bias decides first, and slots are in order of the logits all the same.
    let config = router(ScoreFunction::Sigmoid, 4, 3, None, 1.0);
    let bias = [0.25, 0.0, 0.25, 0.0];
    let routed = route::<B, f32>(&config, &[20.0, 24.0, 21.0, 25.0], Some(&bias));
    assert_eq!(routed.ids, [3, 2, 0]);
}

/// Logits of which some are far above others, or sigmoids far from ½: the gradient in f32 is within 1e-5 of the right one, relative
/// to the largest of its row. Its parts are looked at one by one, for one may hide another.
pub(super) fn confident_routers_keep_the_digits_of_their_gradient<B: TestBackend>() {
    let (tokens, experts) = (8, 8);
    let mut routers = Vec::new();
    for gap in [8.0, 12.0, 16.0, 20.0] {
        let mut row = [gap, 0.0, -0.5, -1.0, -40.0, -40.0, -40.0, -40.0];
        routers.push((ScoreFunction::SoftmaxAfterTopK, row));
        row[4..].fill(-2.0);
        routers.push((ScoreFunction::SoftmaxBeforeTopK, row));
    }
    for z in [10.0, 15.0, -12.0, -45.0] {
        routers.push((ScoreFunction::Sigmoid, [z; 8]));
    }
    let after_drop = Capacity::new(0.7).renormalize(Renormalize::AfterDrop);
    for (score_function, row) in routers {
        for (top_k, groups, bias, capacity) in [
            (2, None, false, None),
            (4, None, false, None),
            (2, Some((4, 2)), false, None),
            (4, Some((4, 2)), true, None),
            (3, None, true, Some(Capacity::new(0.7))),
            (3, None, false, Some(after_drop)),
            (1, None, false, None),
        ] {
            let groups = groups.map(|(groups, selected)| GroupLimit { groups, selected });
            let mut rng = Rng::new(11);
            let noise = rng.normals(tokens * experts, 0.1);
            let logits = noise.iter().enumerate().map(|(i, n)| row[i % experts] + n);
            let logits = widen(&convert::<f32>(&logits.collect::<Vec<_>>()));
            let bias = (bias && score_function == ScoreFunction::Sigmoid)
                .then(|| widen(&convert::<f32>(&rng.normals(experts, 0.5))));
            for (losses, loss_gradient) in [
                (Losses::default(), 0.0),
                (Losses::new(0.2, 0.0), 1.0),
                (Losses::new(0.0, 0.05), 1.0),
            ] {
                let config = router(score_function, experts, top_k, groups, 1.5);
                let config = &with_losses(&with_capacity(&config, capacity), losses);
                let what = format!("{row:?} {config:?}");
                let oracle = oracle::<f64>(config);
                let routed = oracle.route(&logits, bias.as_deref());
                let forward = route::<B, f32>(config, &logits, bias.as_deref());
                assert_eq!(forward.ids, routed.ids, "{what}");
                // Weights that saturate are equal in f32 only, and the drop follows them.
                let plan = oracle.dispatch(&forward.ids, &forward.weights);
                // The losses alone, or the weights alone.
                let grads = rng.normals(tokens * top_k, 1.0 - loss_gradient);
                let kept = grads.iter().zip(&plan.assignment_to_row);
                let grads: Vec<f64> =
                    (kept.map(|(&g, &row)| if row < 0 { 0.0 } else { g })).collect();
                let grads = widen(&convert::<f32>(&grads));
                let want = oracle.route_backward(&routed, &plan, &grads, loss_gradient);
                let (_, weights) =
                    dispatch::<B, f32>(&B::create(), config, &forward.ids, &forward.weights);
                let got = route_backward::<B, f32>(
                    config,
                    &logits,
                    &forward,
                    &weights,
                    &grads,
                    loss_gradient,
                );
                for (got, want) in got.chunks_exact(experts).zip(want.chunks_exact(experts)) {
                    let largest = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
                    for (got, want) in got.iter().zip(want) {
                        // Far below the weights' gradients of order 1 the f64 of the right value ends, too.
                        let error = (got - want).abs();
                        assert!(
                            error <= F32 * largest + 1e-14,
                            "{got:e} instead of {want:e} beside {largest:e}: {what}"
                        );
                    }
                }
            }
        }
    }
}

fn with_losses(config: &MoeConfig, losses: Losses) -> MoeConfig {
    let router = config.router();
    let mut builder = MoeConfig::builder(1, 1, config.num_experts(), config.top_k())
        .score_function(router.score_function())
        .single_expert(router.single_expert())
        .scaling_factor(router.scaling_factor())
        .losses(losses);
    if let Some(capacity) = config.capacity() {
        builder = builder.capacity(*capacity);
    }
    if let Some(groups) = router.groups() {
        builder = builder.groups(groups);
    }
    builder.build().unwrap()
}

pub(super) fn a_selection_bias_picks_but_does_not_weigh<B: TestBackend>() {
    let config = router(ScoreFunction::Sigmoid, 4, 2, None, 2.0);
    let logits = [0.0, 1.0, 2.0, 3.0];
    // Expert 0 is pushed in and 3 out; slots stay in the order of the unbiased weights.
    let routed = route::<B, B::Exact>(&config, &logits, Some(&[10.0, 0.0, 5.0, -5.0]));
    assert_eq!(routed.ids, [2, 0]);
    let s = |z: f64| 1.0 / (1.0 + (-z).exp());
    let total = s(2.0) + s(0.0);
    for (got, want) in routed
        .weights
        .iter()
        .zip([2.0 * s(2.0) / total, 2.0 * s(0.0) / total])
    {
        let tolerance = B::tolerance(1e-15, F32);
        assert_abs_diff_eq!(*got, want, epsilon = tolerance);
    }
    // A masked expert stays masked however large its bias.
    let masked = [f64::NEG_INFINITY, 1.0, 2.0, 3.0];
    let routed = route::<B, B::Exact>(&config, &masked, Some(&[100.0, 0.0, 0.0, 0.0]));
    assert_eq!(routed.ids, [3, 2]);
}

pub(super) fn a_large_bias_does_not_cancel_the_weight<B: TestBackend>() {
    // σ(−18) = 1.5e-8 beside a bias of 12 is below half a unit in the last place of f32.
    let config = router(ScoreFunction::Sigmoid, 4, 1, None, 1.0);
    let routed = route::<B, f32>(&config, &[-18.0, -19.0, -20.0, -21.0], Some(&[12.0; 4]));
    let expected = 1.0 / (1.0 + 18f64.exp());
    assert_abs_diff_eq!(routed.weights[0] / expected, 1.0, epsilon = 1e-6);
}

pub(super) fn statistics_are_what_they_say<B: TestBackend>() {
    for score_function in SCORES {
        for kind in [LogitKind::Normal, LogitKind::NanRows, LogitKind::Masked] {
            let config = router(score_function, 10, 3, None, 1.25);
            // Past the panels that an implementation adds in parallel.
            let logits = kind.logits(400, 10, &mut Rng::new(4));
            let want = oracle::<f64>(&config).route(&logits, None);
            let got = route::<B, B::Exact>(&config, &logits, None);
            let same = route::<Cpu, f32>(&config, &logits, None);
            let what = format!("{score_function:?} {kind:?}");
            assert_eq!((&got.ids, &got.counts), (&want.ids, &want.counts), "{what}");
            let bad = want.bad.iter().filter(|&&bad| bad).count();
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
            let head = [want.aux, want.z, bad as f64, entropy, share];
            let exact = [&head[..], &slots, &want.expert_sums].concat();
            assert_eq!(got.stats.len(), exact.len());
            let names = [
                ("aux", 0..1),
                ("z", 1..2),
                ("bad rows", 2..3),
                ("entropy", 3..4),
                ("share of the first", 4..5),
                ("slot weights", 5..8),
                ("expert sums", 8..18),
            ];
            for (name, place) in names {
                let same = || same.stats[place.clone()].to_vec();
                let (got, exact) = (&got.stats[place.clone()], &exact[place.clone()]);
                assert_right::<B>(got, exact, same, 1e-12, &format!("{name}: {what}"));
            }
            assert_eq!(kind == LogitKind::NanRows, got.bad_rows() > 0.0);
        }
    }
}
