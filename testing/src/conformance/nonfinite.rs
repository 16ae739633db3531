//! NaN and ±∞: what they reach, what they must not, and that every backend and type agrees about both.

use approx::{abs_diff_eq, assert_abs_diff_eq, assert_relative_eq};
use millet::half::{bf16, f16};
use millet::{
    Activation, Capacity, Cpu, DType, DropPolicy, Element, ExpertBias, Keep, Losses, MoeConfig,
    MoeLayer, Renormalize, ScoreFunction, UnpermuteBackward,
};

use crate::generate::SCORES;
use crate::harness::{
    HostPlan, Outcome, Problem, Tensor, TestBackend, dispatch, route, route_backward, run,
    run_with, unpermute,
};
use crate::tolerance::{F32, Values};

pub(crate) const VALUES: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// What a value is when it is not a finite number.
fn class(v: f64) -> Option<&'static str> {
    match v {
        v if v.is_nan() => Some("NaN"),
        f64::INFINITY => Some("+inf"),
        f64::NEG_INFINITY => Some("-inf"),
        _ => None,
    }
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[track_caller]
fn assert_finite(outcome: &Outcome, what: &str) {
    for (name, values) in outcome.floats() {
        assert!(values.iter().all(|v| v.is_finite()), "{name}: {what}");
    }
}

/// A tensor that a value is put into.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    X,
    Router,
    GateUp,
    Down,
    GateUpBias,
    DownBias,
    OutputGrad,
}

const TOKENS: usize = 20;
const TOKEN: usize = 7;
const EXPERT: usize = 2;

impl Place {
    pub(crate) const ALL: [Self; 7] = [
        Self::X,
        Self::Router,
        Self::GateUp,
        Self::Down,
        Self::GateUpBias,
        Self::DownBias,
        Self::OutputGrad,
    ];
}

/// A value in one element of a token or an expert.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planted {
    pub(crate) place: Place,
    pub(crate) value: f64,
    pub(crate) token: usize,
    pub(crate) expert: usize,
    /// Which column and, for an expert, which row, counted round.
    pub(crate) column: usize,
    pub(crate) row: usize,
}

/// When a row that a value does not touch keeps its bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Neighbours {
    /// Always.
    Ignored,
    /// While its experts have the same rows: their number may choose how a product is summed.
    Counted,
}

impl Planted {
    /// In the middle of a layer of [`config_of`].
    fn at(place: Place, value: f64) -> Self {
        let column = if place == Place::Down { 2 } else { 3 };
        Self {
            place,
            value,
            token: TOKEN,
            expert: EXPERT,
            column,
            row: 1,
        }
    }

    fn plant(self, config: &MoeConfig, problem: &mut Problem) {
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
        let (tensor, row, columns) = match self.place {
            Place::X => (&mut problem.x, self.token, hidden),
            Place::Router => (&mut problem.router, self.expert, hidden),
            Place::GateUp => {
                let row = self.expert * 2 * inner + self.row % (2 * inner);
                (&mut problem.gate_up, row, hidden)
            }
            Place::Down => (
                &mut problem.down,
                self.expert * hidden + self.row % hidden,
                inner,
            ),
            Place::GateUpBias => (
                &mut problem.gate_up_bias,
                self.expert * 2 * inner + self.row % (2 * inner),
                1,
            ),
            Place::DownBias => (
                &mut problem.down_bias,
                self.expert * hidden + self.row % hidden,
                1,
            ),
            Place::OutputGrad => (&mut problem.output_grad, self.token, hidden),
        };
        tensor[row * columns + self.column % columns] = self.value;
    }

    /// Does it reach this token's output and gradient?
    fn touches(self, token: usize, ids: &[i32]) -> bool {
        match self.place {
            Place::X | Place::OutputGrad => token == self.token,
            Place::Router => true,
            Place::GateUp | Place::Down | Place::GateUpBias | Place::DownBias => {
                ids.contains(&(self.expert as i32))
            }
        }
    }
}

/// Its limit is beyond a good part of the values of h.
const CLAMPED: Activation = Activation::ClampedSwiGlu {
    alpha: 1.702,
    limit: 0.75,
    offset: 1.0,
};

fn config_of(
    score_function: ScoreFunction,
    activation: Activation,
    hidden: usize,
    inner: usize,
) -> MoeConfig {
    // Without the balance loss, whose counts all tokens share.
    MoeConfig::builder(hidden, inner, 6, 2)
        .activation(activation)
        .expert_bias(ExpertBias::GateUpAndDown)
        .score_function(score_function)
        .losses(Losses::new(0.0, 0.1))
        .build()
        .unwrap()
}

/// The planted value reaches the same elements as on the CPU, as the same value, and changes no bit of a token or an expert that
/// it does not touch.
pub(crate) fn check_planted<B: TestBackend, T: Element, W: Element<Acc = T::Acc>>(
    layer: &MoeLayer<B>,
    spot: Planted,
    neighbours: Neighbours,
    problem: &Problem,
) {
    let config = layer.config();
    let Planted { place, value, .. } = spot;
    let (tokens, experts, top_k) = (problem.tokens, config.num_experts(), config.top_k());
    let what = format!("{value} in {place:?}, {} and {}", T::DTYPE, W::DTYPE);
    let on = |problem: &Problem| {
        let mut saved = layer.saved::<T>(tokens, Keep::Hidden).unwrap();
        let mut workspace = layer.workspace::<T>(tokens, Keep::Hidden).unwrap();
        let outcome = run_with::<B, T, W>(layer, problem, &mut saved, &mut workspace, 1.0);
        (outcome, layer.diagnostics(&saved).unwrap().bad_rows)
    };
    let (clean, _) = on(problem);
    let mut planted = problem.clone();
    spot.plant(config, &mut planted);
    let (got, bad_rows) = on(&planted);
    let want = run::<Cpu, T, W>(config, &planted, Keep::Hidden, 1.0);

    got.assert_same_routing(&want, &what);
    for ((name, got), (_, want)) in got.floats().into_iter().zip(want.floats()) {
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            assert_eq!(
                class(got),
                class(want),
                "{name} {i}: {got} instead of {want}: {what}"
            );
        }
    }

    let expected = match place {
        Place::X => 1,
        Place::Router if value.is_nan() => tokens,
        Place::Router => bad_rows,
        _ => 0,
    };
    assert_eq!(bad_rows, expected, "bad rows: {what}");
    // Of many tokens some have a feature of the sign that makes +∞.
    let some = place != Place::Router || tokens < TOKENS;
    assert!(bad_rows > 0 || some, "{what}");
    assert!(got.losses.iter().all(|loss| loss.is_finite()), "{what}");
    // What is bad has no dz; and every dz is finite where only a router weight is not.
    if matches!(place, Place::X | Place::Router) {
        let finite = got.router_grad.iter().all(|g| g.is_finite());
        assert!(finite, "router gradient: {what}");
    }

    let hidden = config.hidden_size();
    let ids = |outcome: &Outcome, t: usize| outcome.ids[t * top_k..(t + 1) * top_k].to_vec();
    let settled = |e: &i32| {
        let tokens_of = |outcome: &Outcome| -> Vec<usize> {
            (0..tokens)
                .filter(|&t| ids(outcome, t).contains(e))
                .collect()
        };
        neighbours == Neighbours::Ignored || tokens_of(&got) == tokens_of(&clean)
    };
    for t in (0..tokens).filter(|&t| !spot.touches(t, &ids(&clean, t))) {
        let row = t * hidden..(t + 1) * hidden;
        let keeps_bits = ids(&clean, t).iter().all(settled);
        for (name, got, clean) in [
            ("output", &got.output, &clean.output),
            ("x", &got.x_grad, &clean.x_grad),
        ] {
            let (got, clean) = (&got[row.clone()], &clean[row.clone()]);
            match keeps_bits {
                true => assert_eq!(bits(got), bits(clean), "{name} of token {t}: {what}"),
                false => assert!(
                    got.iter().all(|v| v.is_finite()),
                    "{name} of token {t}: {what}"
                ),
            }
        }
    }
    // An expert that no touched token picked, before or after.
    let reached = |e: usize| {
        (0..tokens)
            .filter(|&t| spot.touches(t, &ids(&clean, t)))
            .any(|t| ids(&clean, t).contains(&(e as i32)) || ids(&got, t).contains(&(e as i32)))
    };
    for e in (0..experts).filter(|&e| !reached(e)) {
        for (name, got, clean) in [
            ("gate_up", &got.gate_up_grad, &clean.gate_up_grad),
            ("down", &got.down_grad, &clean.down_grad),
            (
                "gate_up bias",
                &got.gate_up_bias_grad,
                &clean.gate_up_bias_grad,
            ),
            ("down bias", &got.down_bias_grad, &clean.down_bias_grad),
        ] {
            let own = e * got.len() / experts..(e + 1) * got.len() / experts;
            assert_eq!(
                bits(&got[own.clone()]),
                bits(&clean[own]),
                "{name} of expert {e}: {what}"
            );
        }
    }
}

fn check_type<B: TestBackend, T: Element, W: Element<Acc = T::Acc>>() {
    // Sizes of whole 16-byte chunks, and others.
    let sizes = [
        (Activation::SwiGlu, 16, 8),
        (Activation::SwiGlu, 11, 5),
        (CLAMPED, 16, 8),
    ];
    for (i, (activation, hidden, inner)) in sizes.into_iter().enumerate() {
        let config = config_of(SCORES[i], activation, hidden, inner);
        let problem = Problem::random(&config, TOKENS, 3);
        let layer = MoeLayer::new(B::create(), config);
        for place in Place::ALL {
            for value in VALUES {
                check_planted::<B, T, W>(
                    &layer,
                    Planted::at(place, value),
                    Neighbours::Ignored,
                    &problem,
                );
            }
        }
    }
}

/// NaN, ±∞ and `more`, planted one at a time in x, a weight or the output's gradient of a layer in f32 on `backend`, reach what they touch
/// and change no bit of the rest. For a backend in another mode than [`TestBackend::create`] gives.
///
/// # Panics
/// When one does not, or reaches more.
pub fn planted_values_reach_what_they_touch<B: TestBackend>(backend: B, more: &[f64]) {
    let config = config_of(ScoreFunction::SoftmaxAfterTopK, Activation::SwiGlu, 16, 8);
    let problem = Problem::random(&config, TOKENS, 3);
    let layer = MoeLayer::new(backend, config);
    for place in Place::ALL {
        for &value in VALUES.iter().chain(more) {
            check_planted::<B, f32, f32>(
                &layer,
                Planted::at(place, value),
                Neighbours::Ignored,
                &problem,
            );
        }
    }
}

pub(super) fn a_value_reaches_what_it_touches_and_nothing_else_f32<B: TestBackend>() {
    check_type::<B, f32, f32>();
}

pub(super) fn a_value_reaches_what_it_touches_and_nothing_else_bf16<B: TestBackend>() {
    check_type::<B, bf16, bf16>();
    check_type::<B, bf16, f32>();
}

pub(super) fn a_value_reaches_what_it_touches_and_nothing_else_f16<B: TestBackend>() {
    check_type::<B, f16, f16>();
    check_type::<B, f16, f32>();
}

/// The largest finite number is above every tf32 number, and rounds to infinity.
pub(super) fn large_values_stay_finite<B: TestBackend>() {
    let config = config_of(ScoreFunction::SoftmaxAfterTopK, Activation::SwiGlu, 16, 8);
    let mut problem = Problem::random(&config, TOKENS, 3);
    problem.x[TOKEN * 16 + 3] = f64::from(f32::MAX);
    for weights in [&mut problem.router, &mut problem.gate_up] {
        for row in weights.chunks_exact_mut(16) {
            row[3] *= 1e-30;
        }
    }
    let want = run::<Cpu, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
    let got = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
    assert_eq!(got.ids, want.ids);
    for (got, want) in got
        .output
        .chunks_exact(16)
        .zip(want.output.chunks_exact(16))
    {
        let allowed = F32 * want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        assert_abs_diff_eq!(Values(got), Values(want), epsilon = allowed);
    }
}

/// One token that is NaN and has no output gradient, as a padding token: the router learns from the other one.
pub(super) fn a_bad_row_has_no_part_in_the_routers_gradient<B: TestBackend>() {
    fn check<B: TestBackend, T: Element, W: Element<Acc = T::Acc>>(value: f64) {
        let config = MoeConfig::builder(1, 1, 2, 2).build().unwrap();
        let problem = Problem {
            tokens: 2,
            x: vec![1.0, value],
            router: vec![0.0, 0.0],
            bias: None,
            gate_up: vec![1.0; 4],
            down: vec![1.0, 2.0],
            gate_up_bias: Vec::new(),
            down_bias: Vec::new(),
            output_grad: vec![1.0, 0.0],
        };
        let outcome = run::<B, T, W>(&config, &problem, Keep::Hidden, 1.0);
        // (y₂ − y₁)/4 with y₂ = 2·y₁ = 2·σ(1).
        let expected = 0.182_764_644_6;
        let tolerance = if T::DTYPE == DType::BF16 { 2e-3 } else { 2e-4 };
        for (&got, want) in outcome.router_grad.iter().zip([-expected, expected]) {
            let what = format!("{value}, {} and {}", T::DTYPE, W::DTYPE);
            assert!(
                abs_diff_eq!(got, want, epsilon = tolerance),
                "{got} instead of {want}: {what}"
            );
        }
    }
    for value in VALUES {
        check::<B, f32, f32>(value);
        check::<B, bf16, bf16>(value);
        check::<B, bf16, f32>(value);
        check::<B, f16, f16>(value);
        check::<B, f16, f32>(value);
    }
    // Many tokens in several ranges: as if the bad one were 0.
    for score_function in SCORES {
        // Without biases, whose part of dS is so large that sums cancel to less than 1e-5 of their terms.
        let config = MoeConfig::builder(16, 8, 6, 2)
            .score_function(score_function)
            .losses(Losses::new(0.0, 0.1))
            .build()
            .unwrap();
        let mut problem = Problem::random(&config, 600, 5);
        problem.output_grad[TOKEN * 16..][..16].fill(0.0);
        problem.x[TOKEN * 16..][..16].fill(0.0);
        let want = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
        problem.x[TOKEN * 16..][..16].fill(f64::NAN);
        let got = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
        let [got, want] = [&got, &want].map(|outcome| Values(&outcome.router_grad));
        assert_relative_eq!(got, want, epsilon = F32, max_relative = F32);
    }
}

/// Router weights of −∞ beside a feature that is always 1: pruned experts, whose weights nobody loaded.
pub(super) fn an_expert_masked_by_its_weight_is_never_multiplied<B: TestBackend>() {
    for score_function in SCORES {
        for capacity in [
            None,
            Some(
                Capacity::new(1.0)
                    .policy(DropPolicy::Probability)
                    .renormalize(Renormalize::AfterDrop),
            ),
        ] {
            let (hidden, inner) = (16, 8);
            let mut builder = MoeConfig::builder(hidden, inner, 4, 3)
                .score_function(score_function)
                .losses(Losses::new(0.1, 0.1));
            if let Some(capacity) = capacity {
                builder = builder.capacity(capacity);
            }
            let config = builder.build().unwrap();
            let mut problem = Problem::random(&config, TOKENS, 3);
            for row in problem.x.chunks_exact_mut(hidden) {
                row[0] = 1.0;
            }
            for e in [1, 3] {
                problem.router[e * hidden] = f64::NEG_INFINITY;
                problem.gate_up[e * 2 * inner * hidden..][..2 * inner * hidden].fill(f64::NAN);
                problem.down[e * hidden * inner..][..hidden * inner].fill(f64::NAN);
            }
            let outcome = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
            let what = format!("{score_function:?}, {capacity:?}");
            assert_finite(&outcome, &what);
            let rows = |e: usize| outcome.offsets[e + 1] - outcome.offsets[e];
            assert_eq!([rows(1), rows(3)], [0, 0], "{what}");
            assert!(rows(0) > 0 && rows(2) > 0, "{what}");
            for token in outcome.ids.chunks_exact(3) {
                let mut sorted = token.to_vec();
                sorted.sort();
                assert_eq!(sorted, [-1, 0, 2], "{what}");
            }
            for grad in [&outcome.gate_up_grad, &outcome.down_grad] {
                let own = grad.len() / 4;
                assert!(
                    grad[own..2 * own].iter().all(|g| g.to_bits() == 0),
                    "{what}"
                );
            }
        }
    }
}

/// Logits so far apart that the second choice's weight is 0: it has a row, and what that holds does not matter.
pub(super) fn a_vanished_weight_hides_its_expert<B: TestBackend>() {
    for score_function in [
        ScoreFunction::SoftmaxAfterTopK,
        ScoreFunction::SoftmaxBeforeTopK,
    ] {
        check_vanished::<B, f32>(score_function);
        check_vanished::<B, bf16>(score_function);
        check_vanished::<B, f16>(score_function);
    }
}

fn check_vanished<B: TestBackend, T: Element>(score_function: ScoreFunction) {
    let (hidden, inner) = (16, 8);
    let config = config_of(score_function, Activation::SwiGlu, hidden, inner);
    let mut problem = Problem::random(&config, TOKENS, 3);
    for row in problem.x.chunks_exact_mut(hidden) {
        row[0] = 1.0;
    }
    for (row, logit) in
        (problem.router.chunks_exact_mut(hidden)).zip([800.0, 200.0, 200.0, 200.0, 200.0, 400.0])
    {
        row.fill(0.0);
        row[0] = logit;
    }
    let what = |value: f64, place: &str| format!("{value} in {place}, {}", T::DTYPE);
    let on = |problem: &Problem| run::<B, T, T::Acc>(&config, problem, Keep::Hidden, 1.0);
    let clean = on(&problem);
    assert!(clean.ids.chunks_exact(2).all(|ids| ids == [0, 5]));
    assert!(clean.weights.chunks_exact(2).all(|w| w == [1.0, 0.0]));

    for value in VALUES {
        // The expert that nobody needs.
        let mut planted = problem.clone();
        planted.gate_up[5 * 2 * inner * hidden..].fill(value);
        planted.down[5 * hidden * inner..].fill(value);
        planted.gate_up_bias[5 * 2 * inner..].fill(value);
        planted.down_bias[5 * hidden..].fill(value);
        on(&planted).assert_same_bits(&clean, &what(value, "expert"));

        // A token, whose second choice learns nothing from it.
        let mut planted = problem.clone();
        planted.output_grad[TOKEN * hidden + 3] = value;
        check_untouched(&on(&planted), 5, &what(value, "output gradient"));

        // One logit is +∞, the others −∞ and picked only because there is nothing else.
        if !value.is_nan() {
            let mut planted = problem.clone();
            planted.x[TOKEN * hidden + 3] = value;
            for (e, row) in planted.router.chunks_exact_mut(hidden).enumerate() {
                row[3] = if e == 0 {
                    value.signum()
                } else {
                    -value.signum()
                };
            }
            check_untouched(&on(&planted), 1, &what(value, "x"));
        }
    }
}

/// `TOKEN` picked `second` with weight 0, and nothing of it reached that expert.
#[track_caller]
fn check_untouched(outcome: &Outcome, second: usize, what: &str) {
    let slots = 2 * TOKEN..2 * TOKEN + 2;
    assert_eq!(outcome.ids[slots.clone()], [0, second as i32], "{what}");
    assert_eq!(outcome.weights[slots], [1.0, 0.0], "{what}");
    for grad in [
        &outcome.gate_up_grad,
        &outcome.down_grad,
        &outcome.gate_up_bias_grad,
        &outcome.down_bias_grad,
    ] {
        let own = second * grad.len() / 6..(second + 1) * grad.len() / 6;
        assert!(grad[own].iter().all(|g| g.is_finite()), "{what}");
    }
}

/// Given logits: slots that only masked experts are left for stay empty, and count nowhere.
pub(super) fn a_masked_expert_takes_no_row<B: TestBackend>() {
    let masked = f64::NEG_INFINITY;
    let logits = [1.0, masked, 2.0, masked, 0.5, 0.1, 0.2, 0.3];
    for score_function in SCORES {
        let config = MoeConfig::builder(1, 1, 4, 3)
            .score_function(score_function)
            .build()
            .unwrap();
        let routed = route::<B, f32>(&config, &logits, None);
        assert_eq!(routed.ids, [2, 0, -1, 0, 3, 2], "{score_function:?}");
        assert_eq!(routed.counts, [2, 0, 2, 1], "{score_function:?}");
        assert_eq!(routed.weights[2], 0.0, "{score_function:?}");
        assert_eq!(routed.bad_rows(), 0.0, "{score_function:?}");
        let backend = &B::create();
        let (plan, _) = dispatch::<B, f32>(backend, &config, &routed.ids, &routed.weights);
        assert_eq!(HostPlan::read(backend, &plan).offsets, [0, 2, 2, 4, 5]);
        let grad = route_backward::<B, f32>(
            &config,
            &logits,
            &routed,
            &routed.weights,
            &[0.3, -0.7, f64::NAN, 0.1, 0.2, 0.3],
            1.0,
        );
        assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
        assert_eq!((grad[1], grad[3]), (0.0, 0.0));
    }
    // A bias can put a masked expert before others, and weights behind them.
    let config = MoeConfig::builder(1, 1, 4, 3)
        .score_function(ScoreFunction::Sigmoid)
        .build()
        .unwrap();
    let routed = route::<B, f32>(&config, &logits, Some(&[0.0, 9.0, 0.0, 9.0]));
    assert_eq!(routed.ids[..3], [2, 0, -1]);
}

/// Unpermute and its backward, with whatever in a row.
pub(super) fn a_weight_of_zero_leaves_its_row_out<B: TestBackend>() {
    for value in VALUES {
        let backend = &B::create();
        let config = MoeConfig::builder(5, 1, 3, 2).build().unwrap();
        let (ids, weights) = ([0, 1, 2, 0], [0.25, 0.0, 0.0, 0.5]);
        let (plan, _) = dispatch::<B, f32>(backend, &config, &ids, &weights);
        // By expert, then token: expert 0 has both, experts 1 and 2 have what weighs 0.
        let rows = [[1.0; 5], [2.0; 5], [value; 5], [value; 5]].concat();
        let device = |values: &[f64]| Tensor::<B, f32>::from_f64(backend, values);
        let (rows, weights) = (device(&rows), device(&weights));
        let output = unpermute(backend, &plan, &rows, &weights);
        assert_eq!(output, [[0.25; 5], [1.0; 5]].concat(), "{value}");

        // Token 1's gradient is as bad as the rows.
        let output_grad = device(&[[1.0; 5], [value; 5]].concat());
        let mut rows_grad = Tensor::<B, f32>::garbage(backend, 20);
        let mut weights_grad = Tensor::<B, f32>::garbage(backend, 4);
        backend
            .unpermute_backward(UnpermuteBackward::<B, f32> {
                plan: &plan,
                output_grad: output_grad.view(),
                rows: rows.view(),
                weights: weights.view(),
                rows_grad: rows_grad.view_mut(),
                weights_grad: weights_grad.view_mut(),
            })
            .unwrap();
        let got = rows_grad.to_f64(backend);
        assert_eq!(got[..5], [0.25; 5]);
        assert!(got[5..10].iter().all(|&g| class(g) == class(value)));
        assert_eq!(got[10..], [0.0; 10], "{value}");
        // Its own gradient is what it is.
        let got = weights_grad.to_f64(backend);
        assert_eq!(got[0], 5.0);
        assert_eq!(class(got[1]), class(value));
        assert_eq!(class(got[2]), class(value * value));
        assert_eq!(class(got[3]), class(value));
    }
}

/// A weight of 0 of a valid id has a gradient of any kind; the logits' is that without it.
pub(super) fn a_weight_of_zero_has_no_part_in_the_routers_gradient<B: TestBackend>() {
    for score_function in SCORES {
        let config = MoeConfig::builder(1, 1, 3, 2)
            .score_function(score_function)
            .build()
            .unwrap();
        let logits = [0.0, -300.0, -400.0];
        let routed = route::<B, f32>(&config, &logits, None);
        assert_eq!((routed.ids[1], routed.weights[1]), (1, 0.0));
        let grad = |g: f64| {
            route_backward::<B, f32>(&config, &logits, &routed, &routed.weights, &[0.5, g], 1.0)
        };
        let clean = grad(0.25);
        for value in VALUES {
            assert_eq!(bits(&grad(value)), bits(&clean), "{score_function:?}");
        }
    }
}

/// Among an expert's assignments a weight that is NaN is the first to go; ties by token.
pub(super) fn nan_weights_are_dropped_first<B: TestBackend>() {
    let config = MoeConfig::builder(1, 1, 2, 1)
        .score_function(ScoreFunction::SoftmaxBeforeTopK)
        .capacity(Capacity::new(0.5).policy(DropPolicy::Probability))
        .build()
        .unwrap();
    let backend = &B::create();
    let weights: Vec<f64> = (0..64)
        .map(|t| match t % 4 {
            0 | 1 => f64::NAN,
            _ => -f64::from(t),
        })
        .collect();
    let (plan, _) = dispatch::<B, f32>(backend, &config, &[0; 64], &weights);
    let kept: Vec<i32> = (0..16).map(|i| i / 2 * 4 + 2 + i % 2).collect();
    assert_eq!(HostPlan::read(backend, &plan).row_to_assignment[..16], kept);
}

/// The caller's lse says that the row is good, its logits are all NaN: no logit is the greatest.
pub(super) fn logits_that_became_nan_after_forward_stay_in_their_row<B: TestBackend>() {
    const EXPERTS: usize = 12;
    for score_function in [ScoreFunction::SoftmaxBeforeTopK, ScoreFunction::Sigmoid] {
        let config = MoeConfig::builder(4, 2, EXPERTS, 2)
            .score_function(score_function)
            .losses(Losses::new(1e-2, 1e-3))
            .build()
            .unwrap();
        let mut logits: Vec<f64> = (0..3 * EXPERTS)
            .map(|i| (i * 7 % 11) as f64 / 4.0)
            .collect();
        let forward = route::<B, f32>(&config, &logits, None);
        let backward = |logits: &[f64]| {
            let weights_grad: Vec<f64> = (0..6).map(|i| i as f64 - 2.5).collect();
            route_backward::<B, f32>(
                &config,
                logits,
                &forward,
                &forward.weights,
                &weights_grad,
                1.0,
            )
        };
        let before = backward(&logits);
        logits[EXPERTS..2 * EXPERTS].fill(f64::NAN);
        let after = backward(&logits);
        for row in [0, 2] {
            let row = row * EXPERTS..(row + 1) * EXPERTS;
            assert_eq!(
                bits(&after[row.clone()]),
                bits(&before[row]),
                "{score_function:?}"
            );
        }
    }
}
