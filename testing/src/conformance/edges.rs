//! Sizes 0 and 1, nothing kept, everything in one place, values that are not numbers.

use approx::abs_diff_eq;
use millet::{
    Capacity, Cpu, DropPolicy, ExpertsDown, ExpertsDownBackward, ExpertsDownWeightGrad, ExpertsUp,
    Keep, Losses, MoeConfig, MoeLayer, PermuteForward, Renormalize, RouterWeightGrad,
    UnpermuteBackward, UnpermuteForward, WeightGrad, half::bf16,
};

use crate::generate::{POLICIES, Rng, RoutingKind, SCORES, base, capacities};
use crate::harness::{
    HostPlan, Outcome, Problem, RouterOutcome, Tensor, TestBackend, dispatch, route,
    route_backward, run, run_with, scratch,
};
use crate::oracle::Oracle;
use crate::tolerance::{F32, assert_right};

fn assert_zeros(values: &[f64], what: &str) {
    assert!(
        values.iter().all(|v| v.to_bits() == 0),
        "{what} is not exactly 0"
    );
}

fn assert_finite(outcome: &Outcome, what: &str) {
    for (name, values) in outcome.floats() {
        assert!(values.iter().all(|v| v.is_finite()), "{name}: {what}");
    }
}

fn assert_matches_oracle<B: TestBackend>(config: &MoeConfig, problem: &Problem, got: &Outcome) {
    let problem = &problem.rounded::<B::Exact, B::Exact>();
    let want = Oracle::exact(config).layer(problem, 1.0);
    got.assert_same_routing(&want, "edge");
    let same = run::<Cpu, f32, f32>(config, problem, Keep::Hidden, 1.0);
    let fields = got.floats().into_iter().zip(want.floats());
    for (((name, got), (_, want)), (_, same)) in fields.zip(same.floats()) {
        assert_right::<B>(got, want, || same.to_vec(), 1e-12, name);
    }
}

pub(super) fn no_tokens<B: TestBackend>() {
    for capacity in capacities(1.0) {
        let mut builder = base(5, 3, 4, 2);
        if let Some(capacity) = capacity {
            builder = builder.capacity(capacity);
        }
        let config = builder.build().unwrap();
        let problem = Problem::random(&config, 0, 1);
        for keep in [Keep::Hidden, Keep::Routing] {
            let outcome = run::<B, f32, f32>(&config, &problem, keep, 1.0);
            assert_eq!(outcome.offsets, [0; 5]);
            assert_zeros(&outcome.losses, "losses");
            assert_zeros(&outcome.router_grad, "router gradient");
            assert_zeros(&outcome.gate_up_grad, "gate_up gradient");
            assert_zeros(&outcome.down_grad, "down gradient");
        }
        let layer = MoeLayer::new(B::create(), config);
        let mut saved = layer.saved::<bf16>(3, Keep::Hidden).unwrap();
        let mut workspace = layer.workspace::<bf16>(3, Keep::Hidden).unwrap();
        run_with::<B, bf16, f32>(&layer, &problem, &mut saved, &mut workspace, 1.0);
        let diagnostics = layer.diagnostics(&saved).unwrap();
        assert_eq!(diagnostics.slot_weights, [0.0, 0.0]);
        assert_eq!(
            (diagnostics.dropped_share(), diagnostics.expert_imbalance()),
            (0.0, 1.0)
        );
    }
}

pub(super) fn one_token<B: TestBackend>() {
    for score_function in SCORES {
        for top_k in [2, 3] {
            let config = base(1, 1, 3, top_k)
                .score_function(score_function)
                .build()
                .unwrap();
            let problem = Problem::random(&config, 1, 2);
            let outcome = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 1.0);
            assert_matches_oracle::<B>(&config, &problem, &outcome);
        }
    }
}

pub(super) fn one_token_among_a_thousand_experts<B: TestBackend>() {
    for score_function in SCORES {
        let config = base(3, 2, 1000, 8)
            .score_function(score_function)
            .build()
            .unwrap();
        for tokens in [1, 40] {
            let problem = Problem::random(&config, tokens, 3);
            let outcome = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 1.0);
            assert_matches_oracle::<B>(&config, &problem, &outcome);
        }
    }
}

/// A step may have fewer tokens than its memory was made for, at the places too where tiles of rows change their size.
pub(super) fn memory_for_more_tokens_is_enough_for_fewer<B: TestBackend>() {
    let backend = B::create();
    for capacity in capacities(0.6) {
        for (experts, top_k) in [(1, 1), (4, 2), (6, 6), (40, 8)] {
            let mut builder = base(1, 1, experts, top_k).score_function(SCORES[1]);
            if let Some(capacity) = capacity.filter(|_| top_k > 1) {
                builder = builder.capacity(capacity);
            }
            let config = builder.build().unwrap();
            let tiles = |tokens| backend.row_tiles(&config, tokens).most;
            let sizes = |tokens| [config.max_rows(tokens), tiles(tokens)];
            for tokens in 0..400 {
                let (fewer, more) = (sizes(tokens), sizes(tokens + 1));
                assert!(fewer[0] <= more[0] && fewer[1] <= more[1], "{config:?}");
            }
        }
    }
}

/// A pass of fewer tokens, whose rows are in more tiles than those of as many as there is memory for.
pub(super) fn fewer_tokens_in_more_tiles<B: TestBackend>() {
    let config = base(4, 3, 4, 2).build().unwrap();
    let layer = MoeLayer::new(B::create(), config.clone());
    let [fewer, more] = [95, 96];
    let tiles = [fewer, more].map(|tokens| layer.backend().row_tiles(&config, tokens));
    // Or there are none.
    assert!(tiles[1].most == 0 || tiles[0].height < tiles[1].height);
    let mut saved = layer.saved::<f32>(more, Keep::Hidden).unwrap();
    let mut workspace = layer.workspace::<f32>(more, Keep::Hidden).unwrap();
    for tokens in [more, fewer] {
        let problem = Problem::random(&config, tokens, 5);
        let alone = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
        let shared = run_with::<B, f32, f32>(&layer, &problem, &mut saved, &mut workspace, 1.0);
        alone.assert_same_bits(&shared, &format!("{tokens} tokens"));
    }
}

/// T = 0 through every operation of routing; nothing is launched for nothing, and what has a size of its own is written.
pub(super) fn nothing_to_route<B: TestBackend>() {
    for capacity in capacities(1.0) {
        let mut builder = base(5, 3, 4, 2);
        if let Some(capacity) = capacity {
            builder = builder.capacity(capacity);
        }
        let config = builder.build().unwrap();
        let routed = route::<B, f32>(&config, &[], None);
        assert!(routed.ids.is_empty() && routed.lse.is_empty());
        assert_eq!(routed.counts, [0; 4]);
        assert_zeros(&routed.stats, "statistics");
        assert!(route_backward::<B, f32>(&config, &[], &routed, &[], &[], 1.0).is_empty());
        let backend = &B::create();
        let (plan, weights) = dispatch::<B, f32>(backend, &config, &[], &[]);
        assert!(weights.is_empty());
        assert_eq!(HostPlan::read(backend, &plan).offsets, [0; 5]);
        let empty = Tensor::<B, f32>::new(backend, &[]);
        let [mut a, mut b] = [(); 2].map(|()| Tensor::<B, f32>::new(backend, &[]));
        backend
            .permute(PermuteForward::<B, f32> {
                plan: &plan,
                x: empty.view(),
                rows: a.view_mut(),
            })
            .unwrap();
        backend
            .unpermute(UnpermuteForward::<B, f32> {
                plan: &plan,
                rows: empty.view(),
                weights: empty.view(),
                output: a.view_mut(),
            })
            .unwrap();
        backend
            .unpermute_backward(UnpermuteBackward::<B, f32> {
                plan: &plan,
                output_grad: empty.view(),
                rows: empty.view(),
                weights: empty.view(),
                rows_grad: a.view_mut(),
                weights_grad: b.view_mut(),
            })
            .unwrap();
        // The router's weight gradient has a size of its own: zeros, over garbage.
        let mut grad = Tensor::<B, f32>::garbage(backend, 4 * 5);
        let mut scratch = scratch::<B, f32>(backend, &config, 0);
        backend
            .router_weight_grad(RouterWeightGrad::<B, f32> {
                config: &config,
                tokens: 0,
                logits_grad: empty.view(),
                x: empty.view(),
                grad: WeightGrad::Overwrite(grad.view_mut()),
                scratch: scratch.view_mut(),
            })
            .unwrap();
        assert_zeros(&grad.to_f64(backend), "router gradient");
    }
}

/// A problem whose tokens all like the same experts best, the first most.
fn herd(config: &MoeConfig, tokens: usize) -> Problem {
    let mut problem = Problem::random(config, tokens, 17);
    let hidden = config.hidden_size();
    for x in problem.x.chunks_exact_mut(hidden) {
        x[0] = 3.0 + 0.1 * x[0];
    }
    for (e, row) in problem.router.chunks_exact_mut(hidden).enumerate() {
        row.fill(0.01 * row[0]);
        row[0] = -(e as f64);
    }
    problem
}

pub(super) fn all_tokens_to_the_same_experts<B: TestBackend>() {
    for capacity in capacities(0.9) {
        let mut builder = base(4, 3, 6, 2);
        if let Some(capacity) = capacity {
            builder = builder.capacity(capacity);
        }
        let config = builder.build().unwrap();
        let problem = herd(&config, 300);
        let outcome = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 1.0);
        assert!(outcome.ids.chunks_exact(2).all(|ids| ids == [0, 1]));
        let each = if capacity.is_some() { 90 } else { 300 };
        assert_eq!(
            outcome.offsets,
            [0, each, 2 * each, 2 * each, 2 * each, 2 * each, 2 * each]
        );
        assert_matches_oracle::<B>(&config, &problem, &outcome);
    }
}

pub(super) fn experts_without_rows_get_a_gradient_of_zero<B: TestBackend>() {
    let config = base(4, 3, 6, 2).build().unwrap();
    let outcome = run::<B, bf16, f32>(&config, &herd(&config, 30), Keep::Hidden, 1.0);
    assert_finite(&outcome, "herd");
    // `run` puts NaN where the gradients go.
    let (gate_up, down) = (&outcome.gate_up_grad, &outcome.down_grad);
    assert_zeros(&gate_up[2 * 6 * 4..], "gate_up gradient of an empty expert");
    assert_zeros(&down[2 * 4 * 3..], "down gradient of an empty expert");
    assert!(gate_up[..2 * 6 * 4].iter().all(|&g| g != 0.0));
    assert!(down[..2 * 4 * 3].iter().all(|&g| g != 0.0));
}

pub(super) fn capacity_zero_drops_all<B: TestBackend>() {
    for score_function in SCORES {
        for policy in POLICIES {
            for renormalize in [Renormalize::Never, Renormalize::AfterDrop] {
                let capacity = Capacity::new(0.0).policy(policy).renormalize(renormalize);
                let config = base(4, 3, 6, 2)
                    .score_function(score_function)
                    .capacity(capacity)
                    .build()
                    .unwrap();
                let problem = Problem::random(&config, 20, 3);
                let outcome = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 1.0);
                assert_finite(&outcome, "everything dropped");
                assert_eq!(outcome.offsets, [0; 7]);
                assert_zeros(&outcome.output, "output");
                assert_zeros(&outcome.gate_up_grad, "gate_up gradient");
                assert_zeros(&outcome.down_grad, "down gradient");
                // The losses do not know of dropping.
                assert_matches_oracle::<B>(&config, &problem, &outcome);
                assert!(outcome.router_grad.iter().any(|g| g.abs() > 1e-4));
                let quiet = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 0.0);
                let still = |values: &[f64]| values.iter().all(|&g| g == 0.0);
                assert!(still(&quiet.router_grad) && still(&quiet.x_grad));
            }
        }
    }
}

pub(super) fn capacity_of_all_tokens_drops_nothing<B: TestBackend>() {
    for policy in POLICIES {
        let config = |capacity: Option<Capacity>| {
            let builder = base(4, 3, 6, 2);
            match capacity {
                Some(capacity) => builder.capacity(capacity).build().unwrap(),
                None => builder.build().unwrap(),
            }
        };
        // C = ceil(T/3·factor): exactly T at 3, far above at 1e18.
        for factor in [3.0, 1e18] {
            let free = config(None);
            let limited = config(Some(Capacity::new(factor).policy(policy)));
            let problem = herd(&free, 30);
            let a = run::<B, f32, f32>(&free, &problem, Keep::Hidden, 1.0);
            let b = run::<B, f32, f32>(&limited, &problem, Keep::Hidden, 1.0);
            a.assert_same_bits(&b, "capacity of all tokens");
        }
        let one_less = config(Some(Capacity::new(2.9).policy(policy)));
        let outcome = run::<B, f32, f32>(&one_less, &herd(&one_less, 30), Keep::Hidden, 1.0);
        assert_eq!(outcome.offsets[6], 58, "C = 29");
    }
}

pub(super) fn a_bad_token_spoils_no_other<B: TestBackend>() {
    for score_function in SCORES {
        for (bad_value, name) in [(f64::NAN, "NaN"), (f64::INFINITY, "+inf")] {
            // Without the balance loss, whose counts all tokens share.
            let config = base(4, 3, 6, 2)
                .score_function(score_function)
                .losses(Losses::new(0.0, 0.1))
                .build()
                .unwrap();
            let good = Problem::random(&config, 20, 3);
            let mut bad = good.clone();
            bad.x[7 * 4 + 1] = bad_value;
            // Nothing comes back through the bad token, so that its rows do not reach the weights.
            let (a, b) = (
                run::<B, B::Exact, B::Exact>(&config, &good, Keep::Hidden, 1.0),
                run::<B, B::Exact, B::Exact>(&config, &bad, Keep::Hidden, 1.0),
            );
            let mut ids = b.ids[14..16].to_vec();
            ids.sort();
            ids.dedup();
            assert!(
                ids.len() == 2 && ids.iter().all(|e| (0..6).contains(e)),
                "{name}"
            );
            assert!(b.weights[14..16].iter().all(|w| w.is_finite()), "{name}");
            assert!(b.losses.iter().all(|loss| loss.is_finite()), "{name}");
            for t in (0..20).filter(|&t| t != 7) {
                assert_eq!(a.ids[t * 2..t * 2 + 2], b.ids[t * 2..t * 2 + 2]);
                for (field, a, b) in [
                    ("output", &a.output, &b.output),
                    ("x", &a.x_grad, &b.x_grad),
                ] {
                    for (a, b) in a[t * 4..t * 4 + 4].iter().zip(&b[t * 4..t * 4 + 4]) {
                        assert!(
                            abs_diff_eq!(a, b, epsilon = B::tolerance(1e-13, F32)),
                            "{field} of token {t}, {name}: {a} {b}"
                        );
                    }
                }
            }
            // Experts that the bad token did not pick never saw it.
            for e in (0..6).filter(|&e| !b.ids[14..16].contains(&e)) {
                let own = |values: &[f64], size: usize| {
                    values[e as usize * size..(e as usize + 1) * size].to_vec()
                };
                let gradients = [own(&b.gate_up_grad, 24), own(&b.down_grad, 12)].concat();
                assert!(
                    gradients.iter().all(|g| g.is_finite()),
                    "expert {e}, {name}"
                );
            }
            let layer = MoeLayer::new(B::create(), config);
            let mut saved = layer.saved::<B::Exact>(20, Keep::Hidden).unwrap();
            let mut workspace = layer.workspace::<B::Exact>(20, Keep::Hidden).unwrap();
            run_with::<B, B::Exact, B::Exact>(&layer, &bad, &mut saved, &mut workspace, 1.0);
            let diagnostics = layer.diagnostics(&saved).unwrap();
            assert_eq!(diagnostics.bad_rows, 1, "{name}");
            assert!(diagnostics.entropy.is_finite() && diagnostics.top1_share.is_finite());
        }
    }
}

pub(super) fn bad_rows_are_left_out<B: TestBackend>() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let bad = [
        [nan, 1.0, 2.0, 0.0],
        [nan; 4],
        [inf, 1.0, -1.0, 0.5],
        [inf; 4],
        [-inf; 4],
        [-inf, nan, -inf, -inf],
        [inf, -inf, nan, 1.0],
    ];
    let good = [0.3, -0.2, 1.5, 0.9];
    for score_function in SCORES {
        let config = MoeConfig::builder(1, 1, 4, 2)
            .score_function(score_function)
            .losses(Losses::new(0.5, 0.25))
            .build()
            .unwrap();
        let alone = route::<B, f32>(&config, &good, None);
        for row in bad {
            let logits = [row, good].concat();
            let both = route::<B, f32>(&config, &logits, None);
            assert_eq!(both.bad_rows(), 1.0, "{row:?}");
            assert!(both.lse[0].is_nan() && both.lse[1] == alone.lse[0]);
            assert_ne!(both.ids[0], both.ids[1], "{row:?}");
            assert!(both.ids[..2].iter().all(|e| (0..4).contains(e)), "{row:?}");
            assert!(
                both.weights[..2].iter().all(|w| w.is_finite() && *w >= 0.0),
                "{row:?}"
            );
            if row.iter().all(|z| !z.is_finite() && *z != inf) {
                assert_eq!(both.weights[0], both.weights[1], "equal weights: {row:?}");
                assert_eq!(both.ids[..2], [0, 1], "lowest ids: {row:?}");
            }
            assert_eq!(
                (&both.ids[2..], &both.weights[2..]),
                (&alone.ids[..], &alone.weights[..])
            );
            assert_eq!(
                both.expert_sums(&config),
                alone.expert_sums(&config),
                "{row:?}"
            );
            assert_eq!(
                both.slot_weights(&config),
                alone.slot_weights(&config),
                "{row:?}"
            );
            assert_eq!(
                (both.entropy(), both.top1_share()),
                (alone.entropy(), alone.top1_share())
            );
            // The mean is over T tokens, and the bad one adds nothing.
            assert_eq!(both.z(), alone.z() / 2.0, "{row:?}");
            let g = [0.7, -0.4, 0.2, 0.9];
            let grad = route_backward::<B, f32>(&config, &logits, &both, &both.weights, &g, 1.0);
            assert_zeros(&grad[..4], "a bad row's gradient");
            assert!(grad[4..].iter().any(|g| g.abs() > 1e-3));
            assert!(grad.iter().all(|g| g.is_finite()));
        }
    }
}

/// Ids of the caller through dispatch, experts and back: a sentinel is as if it were not there.
pub(super) fn sentinels_take_part_in_nothing<B: TestBackend>() {
    let backend = &B::create();
    let (tokens, hidden, inner, experts, top_k) = (40, 5, 3, 6, 3);
    let config = base(hidden, inner, experts, top_k)
        .capacity(Capacity::new(0.8).policy(DropPolicy::Position))
        .build()
        .unwrap();
    let problem = Problem::random(&config, tokens, 9);
    let mut rng = Rng::new(7);
    let ids = RoutingKind::Sentinels.ids(tokens, experts, top_k, &mut rng);
    let weights: Vec<f64> = ids.iter().map(|_| rng.uniform()).collect();
    let sentinel = |a: usize| !(0..experts as i32).contains(&ids[a]);
    assert!((0..ids.len()).filter(|&a| sentinel(a)).count() > 20);

    let (plan, weights) = dispatch::<B, B::Exact>(backend, &config, &ids, &weights);
    let to_row = HostPlan::read(backend, &plan).assignment_to_row;
    assert!((0..ids.len()).all(|a| !sentinel(a) || to_row[a] == -1));
    // They take no capacity: each expert keeps its first C real assignments.
    let limit = config.expert_capacity(tokens);
    for e in 0..experts as i32 {
        let own: Vec<usize> = (0..ids.len()).filter(|&a| ids[a] == e).collect();
        for (place, &a) in own.iter().enumerate() {
            assert_eq!(to_row[a] >= 0, place < limit, "expert {e}");
        }
    }

    let device = |values: &[f64]| Tensor::<B, B::Exact>::from_f64(backend, values);
    let (x, output_grad) = (device(&problem.x), device(&problem.output_grad));
    let (gate_up, down) = (device(&problem.gate_up), device(&problem.down));
    let weights = device(&weights);
    let rows = config.max_rows(tokens);
    let mut scratch = Tensor::<B, B::Exact>::garbage(
        backend,
        backend.scratch_elements::<B::Exact>(&config, tokens),
    );
    let mut h = Tensor::<B, B::Exact>::garbage(backend, rows * 2 * inner);
    let mut a = Tensor::<B, B::Exact>::garbage(backend, rows * inner);
    let mut output = Tensor::<B, B::Exact>::garbage(backend, tokens * hidden);
    let mut weights_grad = Tensor::<B, B::Exact>::garbage(backend, tokens * top_k);
    let mut down_grad = Tensor::<B, B::Exact>::garbage(backend, problem.down.len());
    backend
        .experts_up(ExpertsUp::<B, B::Exact> {
            plan: &plan,
            x: x.view(),
            gate_up: gate_up.view(),
            h: Some(h.view_mut()),
            a: a.view_mut(),
            scratch: scratch.view_mut(),
            bias: None,
        })
        .unwrap();
    backend
        .experts_down(ExpertsDown::<B, B::Exact> {
            plan: &plan,
            a: a.view(),
            down: down.view(),
            weights: weights.view(),
            output: output.view_mut(),
            scratch: scratch.view_mut(),
            bias: None,
        })
        .unwrap();
    backend
        .experts_down_backward(ExpertsDownBackward::<B, B::Exact> {
            plan: &plan,
            output_grad: output_grad.view(),
            down: down.view(),
            weights: weights.view(),
            h: h.view_mut(),
            weighted_a: a.view_mut(),
            weights_grad: weights_grad.view_mut(),
            scratch: scratch.view_mut(),
            bias: None,
        })
        .unwrap();
    backend
        .experts_down_weight_grad(ExpertsDownWeightGrad::<B, B::Exact> {
            plan: &plan,
            output_grad: output_grad.view(),
            weighted_a: a.view(),
            grad: WeightGrad::Overwrite(down_grad.view_mut()),
            scratch: scratch.view_mut(),
        })
        .unwrap();
    let output = output.to_f64(backend);
    let weights_grad = weights_grad.to_f64(backend);
    for t in 0..tokens {
        let kept = (t * top_k..(t + 1) * top_k).any(|a| to_row[a] >= 0);
        let own = &output[t * hidden..(t + 1) * hidden];
        match kept {
            true => assert!(own.iter().all(|v| v.is_finite() && *v != 0.0)),
            false => assert_zeros(own, "the output of a token with nothing kept"),
        }
    }
    for (a, g) in weights_grad.iter().enumerate() {
        match to_row[a] >= 0 {
            true => assert!(g.is_finite() && *g != 0.0),
            false => assert_eq!(g.to_bits(), 0, "gradient of a lost assignment"),
        }
    }
    assert!(down_grad.to_f64(backend).iter().all(|g| g.is_finite()));
}

pub(super) fn sentinels_in_router_backward<B: TestBackend>() {
    for score_function in SCORES {
        let config = MoeConfig::builder(1, 1, 5, 2)
            .score_function(score_function)
            .build()
            .unwrap();
        let logits = [0.5, -0.3, 1.2, 0.1, 0.9];
        let routed = route::<B, B::Exact>(&config, &logits, None);
        assert_eq!(routed.ids, [2, 4]);
        // With both choices gone nothing is left of the gradient, whatever weights and gradients hold.
        for outside in [-1, 5, i32::MAX, i32::MIN] {
            let gone = RouterOutcome {
                ids: vec![outside; 2],
                ..routed.clone()
            };
            let grad = route_backward::<B, B::Exact>(
                &config,
                &logits,
                &gone,
                &routed.weights,
                &[0.7, -0.4],
                1.0,
            );
            assert!(
                grad.iter().all(|&g| g == 0.0),
                "{score_function:?}: {grad:?}"
            );
        }
        // With one gone, the other's gradient reaches its own logit, and only real experts.
        let half = RouterOutcome {
            ids: vec![2, -1],
            ..routed.clone()
        };
        let grad = route_backward::<B, B::Exact>(
            &config,
            &logits,
            &half,
            &routed.weights,
            &[0.7, 9.9],
            1.0,
        );
        assert!(grad[2].abs() > 1e-3 && grad.iter().all(|g| g.is_finite()));
        let again = route_backward::<B, B::Exact>(
            &config,
            &logits,
            &half,
            &routed.weights,
            &[0.7, -5.0],
            1.0,
        );
        assert_eq!(
            grad, again,
            "{score_function:?}: what a sentinel's weight gradient is does not matter"
        );
    }
}
