//! What must hold whatever the input.

use std::collections::HashSet;

use approx::{abs_diff_eq, assert_abs_diff_eq, assert_relative_eq};
use millet::{
    Capacity, DropPolicy, Keep, MoeConfig, PermuteBackward, PermuteForward, Plan, Renormalize,
    ScoreFunction, SingleExpert, UnpermuteBackward,
};
use proptest::prelude::*;

use crate::fuzz::for_all;
use crate::generate::{POLICIES, Rng, RoutingKind, SCORES, base};
use crate::harness::{
    HostPlan, Problem, Tensor, TestBackend, dispatch, exact, narrow, route, run, scratch,
    unpermute, widen,
};
use crate::tolerance::{F32, Values};

#[derive(Debug, Clone)]
struct Routing {
    config: MoeConfig,
    ids: Vec<i32>,
    weights: Vec<f64>,
}

fn routings() -> impl Strategy<Value = Routing> {
    let sizes = (1usize..14).prop_flat_map(|experts| (Just(experts), 1..=experts, 0usize..60));
    let capacity = (
        0.0f64..2.0,
        prop::sample::select(POLICIES.to_vec()),
        any::<bool>(),
    );
    let ids = (
        prop::sample::select(RoutingKind::ALL.to_vec()),
        any::<u64>(),
    );
    (sizes, prop::option::of(capacity), ids).prop_map(
        |((experts, top_k, tokens), capacity, (kind, seed))| {
            let mut builder = MoeConfig::builder(1, 1, experts, top_k)
                .score_function(ScoreFunction::SoftmaxBeforeTopK)
                .scaling_factor(1.5);
            if let Some((factor, policy, renormalizes)) = capacity {
                let renormalize = match renormalizes && top_k > 1 {
                    true => Renormalize::AfterDrop,
                    false => Renormalize::Never,
                };
                let capacity = Capacity::new(factor).policy(policy);
                builder = builder.capacity(capacity.renormalize(renormalize));
            }
            let mut rng = Rng::new(seed);
            let ids = kind.ids(tokens, experts, top_k, &mut rng);
            let weights: Vec<f64> = ids
                .iter()
                .map(|_| f64::from(0.1f32) * (1 + rng.below(6)) as f64)
                .collect();
            Routing {
                config: builder.build().unwrap(),
                ids,
                weights: widen(&narrow::<f32>(&weights)),
            }
        },
    )
}

pub(super) fn a_plan_is_a_bijection_within_capacity<B: TestBackend>() {
    for_all(400 / B::SLOWNESS, routings(), check_plan::<B>);
}

fn check_plan<B: TestBackend>(routing: &Routing) {
    let Routing {
        config,
        ids,
        weights,
    } = routing;
    let (experts, top_k) = (config.num_experts(), config.top_k());
    let tokens = ids.len() / top_k;
    let backend = B::create();
    let (plan, after) = dispatch::<B, B::Exact>(&backend, config, ids, weights);
    let host = HostPlan::read(&backend, &plan);
    let (offsets, to_row) = (host.offsets, host.assignment_to_row);
    let to_assignment = host.row_to_assignment;

    let mut counts = vec![0usize; experts];
    for &id in ids.iter().filter(|&&id| id >= 0 && (id as usize) < experts) {
        counts[id as usize] += 1;
    }
    let limit = config.expert_capacity(tokens);
    let rows = offsets[experts] as usize;
    assert_eq!(offsets[0], 0);
    assert!(rows <= config.max_rows(tokens));
    for e in 0..experts {
        let kept = (offsets[e + 1] - offsets[e]) as usize;
        assert_eq!(kept, counts[e].min(limit), "rows of expert {e}");
        let own = &to_assignment[offsets[e] as usize..offsets[e + 1] as usize];
        assert!(own.is_sorted(), "tokens ascend inside an expert");
        assert!(own.iter().all(|&a| ids[a as usize] == e as i32));
    }
    let dropped: usize = counts.iter().map(|&n| n.saturating_sub(limit)).sum();
    let lost = ids.len() - rows;
    let sentinels = ids.len() - counts.iter().sum::<usize>();
    assert_eq!(lost, dropped + sentinels);
    let distinct: HashSet<i32> = to_assignment[..rows].iter().copied().collect();
    assert_eq!(distinct.len(), rows);
    for (row, &assignment) in to_assignment[..rows].iter().enumerate() {
        assert_eq!(to_row[assignment as usize], row as i32);
    }
    let kept = to_row.iter().filter(|&&row| row >= 0).count();
    assert_eq!(kept, rows);
    assert!(to_assignment[rows..].iter().all(|&a| a == -1));

    let renormalizes = config
        .capacity()
        .is_some_and(|c| c.renormalization() == Renormalize::AfterDrop);
    for t in 0..tokens {
        let slots = t * top_k..(t + 1) * top_k;
        if !renormalizes {
            assert_eq!(&after[slots.clone()], &weights[slots]);
            continue;
        }
        let survives = to_row[slots.clone()].iter().any(|&row| row >= 0);
        let total: f64 = after[slots.clone()].iter().sum();
        let expected = if survives { 1.5 } else { 0.0 };
        let tolerance = B::tolerance(1e-14, F32);
        assert!(
            abs_diff_eq!(total, expected, epsilon = tolerance),
            "{total} instead of {expected}"
        );
        for a in slots {
            assert!(to_row[a] >= 0 || after[a] == 0.0);
        }
    }
    // Whoever is kept by probability outweighs whoever is not.
    if config
        .capacity()
        .is_some_and(|c| c.drop_policy() == DropPolicy::Probability)
    {
        for a in 0..ids.len() {
            for b in 0..ids.len() {
                if ids[a] == ids[b] && to_row[a] >= 0 && to_row[b] < 0 {
                    let heavier = weights[a] > weights[b];
                    assert!(heavier || (weights[a] == weights[b] && a < b));
                }
            }
        }
    }
}

pub(super) fn weights_sum_to_the_scale<B: TestBackend>() {
    for score_function in SCORES {
        for (experts, top_k) in [(16, 4), (9, 9), (64, 2)] {
            let config = MoeConfig::builder(1, 1, experts, top_k)
                .score_function(score_function)
                .scaling_factor(2.5)
                .build()
                .unwrap();
            let logits = Rng::new(5).normals(200 * experts, 3.0);
            let routed = route::<B, B::Exact>(&config, &logits, None);
            for weights in routed.weights.chunks_exact(top_k) {
                let total: f64 = weights.iter().sum();
                let normalized =
                    score_function != ScoreFunction::SoftmaxBeforeTopK || top_k == experts;
                let tolerance = B::tolerance(1e-14, F32);
                match normalized {
                    true => assert_abs_diff_eq!(total, 2.5, epsilon = tolerance),
                    false => assert!(total < 2.5 - 1e-6 && total > 0.0, "{total}"),
                }
            }
        }
    }
}

/// A layer with dropped and sentinel assignments, its plan, and its weights.
fn planned<B: TestBackend>(backend: &B) -> (MoeConfig, usize, Plan<B>, Vec<f64>) {
    let (tokens, experts, top_k) = (300, 6, 3);
    let config = base(10, 3, experts, top_k)
        .capacity(Capacity::new(0.8))
        .build()
        .unwrap();
    let mut rng = Rng::new(12);
    let ids = RoutingKind::Sentinels.ids(tokens, experts, top_k, &mut rng);
    let weights: Vec<f64> = ids.iter().map(|_| rng.uniform()).collect();
    let (plan, weights) = dispatch::<B, B::Exact>(backend, &config, &ids, &weights);
    let kept = HostPlan::read(backend, &plan).assignment_to_row;
    let lost = kept.iter().filter(|&&row| row < 0).count();
    assert!(lost > 100 && lost < kept.len() - 100);
    (config, tokens, plan, weights)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// In f32 each of the products that ⟨a, b⟩ adds may be off by its last digit.
fn dot_tolerance<B: TestBackend>(a: &[f64], b: &[f64]) -> f64 {
    let size: f64 = a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum();
    B::tolerance(1e-11, f64::from(f32::EPSILON) * size)
}

pub(super) fn permute_and_its_backward_are_adjoint<B: TestBackend>() {
    let backend = B::create();
    let (config, tokens, plan, _) = planned(&backend);
    let hidden = config.hidden_size();
    let rows = *HostPlan::read(&backend, &plan).offsets.last().unwrap() as usize;
    let capacity = config.max_rows(tokens) * hidden;
    let mut rng = Rng::new(2);
    let x = exact::<B>(&rng.normals(tokens * hidden, 1.0));
    let r = exact::<B>(&rng.normals(capacity, 1.0));
    let x_device = Tensor::<B, B::Exact>::from_f64(&backend, &x);
    let r_device = Tensor::<B, B::Exact>::from_f64(&backend, &r);
    let mut permuted = Tensor::<B, B::Exact>::garbage(&backend, capacity);
    let mut x_grad = Tensor::<B, B::Exact>::garbage(&backend, x.len());
    backend
        .permute(PermuteForward::<B, B::Exact> {
            plan: &plan,
            x: x_device.view(),
            rows: permuted.view_mut(),
        })
        .unwrap();
    backend
        .permute_backward(PermuteBackward::<B, B::Exact> {
            plan: &plan,
            rows_grad: r_device.view(),
            router: None,
            x_grad: x_grad.view_mut(),
            scratch: scratch::<B, B::Exact>(&backend, &config, tokens).view_mut(),
        })
        .unwrap();
    let permuted = permuted.to_f64(&backend);
    let assignments = HostPlan::read(&backend, &plan).row_to_assignment;
    for row in 0..rows {
        let token = assignments[row] as usize / config.top_k();
        let expected = &x[token * hidden..(token + 1) * hidden];
        assert_eq!(
            &permuted[row * hidden..(row + 1) * hidden],
            expected,
            "row {row}"
        );
    }
    let forward = dot(&permuted[..rows * hidden], &r[..rows * hidden]);
    let backward = dot(&x, &x_grad.to_f64(&backend));
    let tolerance = dot_tolerance::<B>(&permuted[..rows * hidden], &r[..rows * hidden]);
    assert_abs_diff_eq!(forward, backward, epsilon = tolerance);
    assert!(forward.abs() > 1.0);
}

pub(super) fn unpermute_and_its_backward_are_adjoint<B: TestBackend>() {
    let backend = B::create();
    let (config, tokens, plan, weights) = planned(&backend);
    let hidden = config.hidden_size();
    let rows = *HostPlan::read(&backend, &plan).offsets.last().unwrap() as usize;
    let capacity = config.max_rows(tokens) * hidden;
    let mut rng = Rng::new(3);
    let y = exact::<B>(&rng.normals(capacity, 1.0));
    let output_grad = exact::<B>(&rng.normals(tokens * hidden, 1.0));
    let device = |values: &[f64]| Tensor::<B, B::Exact>::from_f64(&backend, values);
    let (y_device, weights_device) = (device(&y), device(&weights));
    let output_grad_device = device(&output_grad);
    let output = unpermute(&backend, &plan, &y_device, &weights_device);
    let mut rows_grad = Tensor::<B, B::Exact>::garbage(&backend, capacity);
    let mut weights_grad = Tensor::<B, B::Exact>::garbage(&backend, weights.len());
    backend
        .unpermute_backward(UnpermuteBackward::<B, B::Exact> {
            plan: &plan,
            output_grad: output_grad_device.view(),
            rows: y_device.view(),
            weights: weights_device.view(),
            rows_grad: rows_grad.view_mut(),
            weights_grad: weights_grad.view_mut(),
        })
        .unwrap();
    // The output is bilinear in rows and weights: both adjoints give the same number.
    let value = dot(&output, &output_grad);
    let rows_grad = rows_grad.to_f64(&backend);
    let by_rows = dot(&y[..rows * hidden], &rows_grad[..rows * hidden]);
    let weights_grad = weights_grad.to_f64(&backend);
    let by_weights = dot(&weights, &weights_grad);
    let tolerance = dot_tolerance::<B>(&y[..rows * hidden], &rows_grad[..rows * hidden]);
    assert_abs_diff_eq!(value, by_rows, epsilon = tolerance);
    assert_abs_diff_eq!(value, by_weights, epsilon = tolerance);
    assert!(value.abs() > 1.0);
    for (g, &row) in weights_grad
        .iter()
        .zip(&HostPlan::read(&backend, &plan).assignment_to_row)
    {
        assert!(
            row >= 0 || g.to_bits() == 0,
            "a dropped assignment's gradient is {g}"
        );
    }
}

/// silu(x·gate)·(x·up)·downᵀ of one token through one expert.
fn swiglu(config: &MoeConfig, problem: &Problem, expert: usize, x: &[f64]) -> Vec<f64> {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let gate_up = &problem.gate_up[expert * 2 * inner * hidden..][..2 * inner * hidden];
    let down = &problem.down[expert * hidden * inner..][..hidden * inner];
    let h: Vec<f64> = gate_up
        .chunks_exact(hidden)
        .map(|row| dot(row, x))
        .collect();
    let a: Vec<f64> = (0..inner)
        .map(|j| h[j] / (1.0 + (-h[j]).exp()) * h[inner + j])
        .collect();
    down.chunks_exact(inner).map(|row| dot(row, &a)).collect()
}

pub(super) fn permuted_rows_through_the_experts_are_the_layer<B: TestBackend>() {
    for renormalize in [Renormalize::Never, Renormalize::AfterDrop] {
        let config = base(7, 4, 6, 3)
            .capacity(Capacity::new(0.7).renormalize(renormalize))
            .build()
            .unwrap();
        let tokens = 50;
        let problem = Problem::random(&config, tokens, 6);
        let layer = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 1.0);
        let backend = B::create();
        let device = |values: &[f64]| Tensor::<B, B::Exact>::from_f64(&backend, values);
        // The layer's weights are 0 where it dropped, so that the same are kept.
        let (plan, _) = dispatch::<B, B::Exact>(&backend, &config, &layer.ids, &layer.weights);
        let kept = HostPlan::read(&backend, &plan).assignment_to_row;
        assert_eq!(kept, layer.assignment_to_row);
        let (x, weights) = (device(&problem.x), device(&layer.weights));
        let mut rows = Tensor::<B, B::Exact>::garbage(&backend, config.max_rows(tokens) * 7);
        backend
            .permute(PermuteForward::<B, B::Exact> {
                plan: &plan,
                x: x.view(),
                rows: rows.view_mut(),
            })
            .unwrap();
        let mut rows = rows.to_f64(&backend);
        for e in 0..6 {
            for row in layer.offsets[e] as usize..layer.offsets[e + 1] as usize {
                let place = row * 7..(row + 1) * 7;
                let y = swiglu(&config, &problem, e, &rows[place.clone()]);
                rows[place].copy_from_slice(&y);
            }
        }
        let output = unpermute(&backend, &plan, &device(&rows), &weights);
        let tolerance = B::tolerance(1e-13, F32);
        assert_abs_diff_eq!(Values(&output), Values(&layer.output), epsilon = tolerance);
    }
}

pub(super) fn permuting_tokens_permutes_results<B: TestBackend>() {
    for score_function in SCORES {
        // By probability, the order of the tokens decides nothing.
        for capacity in [None, Some(Capacity::new(0.7))] {
            let mut builder = base(6, 4, 8, 2).score_function(score_function);
            if let Some(capacity) = capacity {
                builder = builder.capacity(capacity);
            }
            let config = builder.build().unwrap();
            let (tokens, hidden) = (40, 6);
            let problem = Problem::random(&config, tokens, 21);
            let order = Rng::new(1).permutation(tokens);
            let reorder = |values: &[f64]| -> Vec<f64> {
                let row = |&t: &usize| &values[t * hidden..(t + 1) * hidden];
                order.iter().flat_map(row).copied().collect()
            };
            let moved = Problem {
                x: reorder(&problem.x),
                output_grad: reorder(&problem.output_grad),
                ..problem.clone()
            };
            let here = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 1.0);
            let there = run::<B, B::Exact, B::Exact>(&config, &moved, Keep::Hidden, 1.0);
            assert_eq!(here.offsets, there.offsets);
            for (to, &from) in order.iter().enumerate() {
                let pair = |t: usize| t * 2..t * 2 + 2;
                assert_eq!(here.ids[pair(from)], there.ids[pair(to)]);
                let kept = |rows: &[i32]| [rows[0] >= 0, rows[1] >= 0];
                assert_eq!(
                    kept(&here.assignment_to_row[pair(from)]),
                    kept(&there.assignment_to_row[pair(to)])
                );
            }
            for (got, want) in [
                (&there.output, &reorder(&here.output)),
                (&there.x_grad, &reorder(&here.x_grad)),
                (&there.router_grad, &here.router_grad),
                (&there.gate_up_grad, &here.gate_up_grad),
                (&there.down_grad, &here.down_grad),
                (&there.losses, &here.losses),
            ] {
                let tolerance = B::tolerance(1e-12, F32);
                assert_relative_eq!(
                    Values(got),
                    Values(want),
                    epsilon = tolerance,
                    max_relative = tolerance
                );
            }
        }
    }
}

pub(super) fn one_expert_is_the_dense_layer<B: TestBackend>() {
    for (score_function, single_expert) in [
        (
            ScoreFunction::SoftmaxAfterTopK,
            SingleExpert::StraightThrough,
        ),
        (ScoreFunction::SoftmaxBeforeTopK, SingleExpert::Refuse),
    ] {
        let config = base(6, 5, 1, 1)
            .score_function(score_function)
            .single_expert(single_expert)
            .build()
            .unwrap();
        let problem = Problem::random(&config, 30, 4);
        let outcome = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 0.0);
        for t in 0..30 {
            let want = swiglu(&config, &problem, 0, &problem.x[t * 6..(t + 1) * 6]);
            let got = &outcome.output[t * 6..(t + 1) * 6];
            let tolerance = B::tolerance(1e-13, F32);
            assert_abs_diff_eq!(Values(got), Values(&want), epsilon = tolerance);
        }
        // There is nothing to choose, so nothing to learn.
        let tolerance = B::tolerance(1e-14, F32);
        assert!(outcome.router_grad.iter().all(|g| g.abs() < tolerance));
        assert!(outcome.x_grad.iter().any(|g| g.abs() > 0.1));
    }
}
