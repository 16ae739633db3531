//! Central finite differences through the whole layer, in f64, for every gradient path, with random cotangents.

use millet::half::{bf16, f16};
use millet::{
    AuxScale, BackwardInput, Capacity, DropPolicy, Element, Gradients, Keep, Losses, MoeConfig,
    MoeLayer, Real, ScoreFunction, SingleExpert, WeightGrad, Weights,
};

use crate::generate::{base, configs};
use crate::harness::{F32, HostPlan, Outcome, Problem, Tensor, TestBackend, narrow, run, widen};

cpu_tests!(
    every_path_against_finite_differences,
    both_scales_of_the_balance_loss,
    straight_through_is_the_gradient_of_the_full_softmax,
);

backend_tests!(a_dropped_choice_still_moves_the_router);

layer_tests!(
    keeping_the_routing_only_changes_no_bit,
    weight_gradients_accumulate,
);

const STEP: f64 = 1e-5;
/// Truncation STEP²·f‴/6 and rounding 1e-16·L/STEP are both near 1e-10.
const TOLERANCE: f64 = 3e-8;

/// The loss ⟨output, output_grad⟩ + loss_gradient·(aux + z) as a function of the tensors.
struct Loss<B: TestBackend> {
    layer: MoeLayer<B>,
    saved: millet::Saved<B, f64>,
    workspace: millet::Workspace<B, f64>,
    loss_gradient: f64,
    routing: Option<(Vec<i32>, Vec<i32>)>,
}

impl<B: TestBackend> Loss<B> {
    fn new(config: &MoeConfig, tokens: usize, loss_gradient: f64) -> Self {
        let layer = MoeLayer::new(B::create(), config.clone());
        let saved = layer.saved(tokens, Keep::Nothing).unwrap();
        let workspace = layer.workspace(tokens, Keep::Nothing).unwrap();
        Self {
            layer,
            saved,
            workspace,
            loss_gradient,
            routing: None,
        }
    }

    fn at(&mut self, problem: &Problem) -> f64 {
        let backend = self.layer.backend();
        let tensor = |values: &[f64]| Tensor::<B, f64>::new(backend, values);
        let x = tensor(&problem.x);
        let (router, bias) = (tensor(&problem.router), problem.bias.as_deref().map(tensor));
        let (gate_up, down) = (tensor(&problem.gate_up), tensor(&problem.down));
        let weights = Weights {
            router: router.view(),
            selection_bias: bias.as_ref().map(|bias| bias.view()),
            gate_up: gate_up.view(),
            down: down.view(),
        };
        let mut output = Tensor::<B, f64>::garbage(backend, problem.x.len());
        let (saved, workspace) = (&mut self.saved, &mut self.workspace);
        self.layer
            .forward(weights, x.view(), output.view_mut(), saved, workspace)
            .unwrap();
        let routing = self.layer.routing(saved).unwrap();
        let routing = (routing.ids, routing.assignment_to_row);
        // What is picked and kept is piecewise constant: a step must stay on its piece.
        assert_eq!(
            *self.routing.get_or_insert(routing.clone()),
            routing,
            "choose another seed"
        );
        let (aux, z) = self.layer.losses(saved).unwrap();
        let output = output.to_f64(backend);
        let inner: f64 = output
            .iter()
            .zip(&problem.output_grad)
            .map(|(o, g)| o * g)
            .sum();
        inner + self.loss_gradient * (aux + z)
    }

    /// d loss / d values[i].
    fn slope(
        &mut self,
        problem: &mut Problem,
        values: fn(&mut Problem) -> &mut Vec<f64>,
        i: usize,
    ) -> f64 {
        let at = values(problem)[i];
        values(problem)[i] = at + STEP;
        let above = self.at(problem);
        values(problem)[i] = at - STEP;
        let below = self.at(problem);
        values(problem)[i] = at;
        (above - below) / (2.0 * STEP)
    }
}

type Field = (
    &'static str,
    fn(&mut Problem) -> &mut Vec<f64>,
    fn(&Outcome) -> &Vec<f64>,
);

const FIELDS: [Field; 4] = [
    ("x", |p| &mut p.x, |o| &o.x_grad),
    ("router", |p| &mut p.router, |o| &o.router_grad),
    ("gate_up", |p| &mut p.gate_up, |o| &o.gate_up_grad),
    ("down", |p| &mut p.down, |o| &o.down_grad),
];

fn check_fields<B: TestBackend>(
    config: &MoeConfig,
    problem: &Problem,
    loss_gradient: f64,
    fields: &[Field],
) -> Outcome {
    let outcome = run::<B, f64, f64>(config, problem, Keep::Hidden, loss_gradient);
    let mut loss = Loss::<B>::new(config, problem.tokens, loss_gradient);
    let mut problem = problem.clone();
    loss.at(&problem);
    for (name, values, gradient) in fields {
        let analytic = gradient(&outcome);
        let largest = analytic.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        assert!(
            largest > 1e-3,
            "{name}: a gradient that is 0 checks nothing: {config:?}"
        );
        for (i, &analytic) in analytic.iter().enumerate() {
            let slope = loss.slope(&mut problem, *values, i);
            assert!(
                (slope - analytic).abs() < TOLERANCE * (1.0 + largest),
                "{name}[{i}]: finite difference {slope}, gradient {analytic}: {config:?}"
            );
        }
    }
    outcome
}

fn dropped(outcome: &Outcome) -> usize {
    outcome
        .assignment_to_row
        .iter()
        .filter(|&&row| row < 0)
        .count()
}

fn straight_through(config: &MoeConfig) -> bool {
    config.router().single_expert() == SingleExpert::StraightThrough
}

fn every_path_against_finite_differences<B: TestBackend>() {
    for (seed, config) in configs(4, 2, 8, 3).iter().enumerate() {
        if straight_through(config) {
            continue; // its gradient is not that of its value, by definition
        }
        let problem = Problem::random(config, 9, 100 + seed as u64);
        let outcome = check_fields::<B>(config, &problem, 0.7, &FIELDS);
        if config.expert_capacity(9) < 9 && config.top_k() < 8 {
            assert!(dropped(&outcome) > 0, "nothing dropped: {config:?}");
        }
    }
}

fn both_scales_of_the_balance_loss<B: TestBackend>() {
    for scale in [AuxScale::PerAssignment, AuxScale::PerToken] {
        for losses in [Losses::new(0.8, 0.0), Losses::new(0.0, 0.1)] {
            let config = base(4, 2, 8, 3)
                .losses(losses.aux_scale(scale))
                .build()
                .unwrap();
            let problem = Problem::random(&config, 7, 5);
            check_fields::<B>(&config, &problem, 2.0, &FIELDS[..2]);
        }
    }
}

fn straight_through_is_the_gradient_of_the_full_softmax<B: TestBackend>() {
    for scale in [1.0, 2.5] {
        for capacity in [None, Some(Capacity::new(0.8).policy(DropPolicy::Position))] {
            let config = |score_function, single_expert, losses| {
                let mut builder = base(4, 3, 6, 1)
                    .score_function(score_function)
                    .single_expert(single_expert)
                    .scaling_factor(scale)
                    .losses(losses);
                if let Some(capacity) = capacity {
                    builder = builder.capacity(capacity);
                }
                builder.build().unwrap()
            };
            let through = config(
                ScoreFunction::SoftmaxAfterTopK,
                SingleExpert::StraightThrough,
                Losses::new(0.3, 0.05),
            );
            let problem = Problem::random(&through, 8, 31);
            // The experts' gradients are those of the value, whose weight is the constant `scale`.
            let outcome = check_fields::<B>(&through, &problem, 1.0, &FIELDS[2..]);
            for (&w, &row) in outcome.weights.iter().zip(&outcome.assignment_to_row) {
                assert_eq!(w, scale, "row {row}");
            }
            assert_eq!(dropped(&outcome) > 0, capacity.is_some());

            // The router's gradient is that of the losses, by finite differences of the value, plus what a layer weighted by
            // the full softmax has.
            let full = config(
                ScoreFunction::SoftmaxBeforeTopK,
                SingleExpert::Refuse,
                Losses::default(),
            );
            let full = run::<B, f64, f64>(&full, &problem, Keep::Hidden, 1.0);
            full.assert_same_routing(&outcome, "both pick the largest logit");
            assert!(full.router_grad.iter().any(|g| g.abs() > 1e-2));
            let mut loss = Loss::<B>::new(&through, problem.tokens, 1.0);
            let mut moved = problem.clone();
            for (i, &gradient) in outcome.router_grad.iter().enumerate() {
                let of_losses = loss.slope(&mut moved, |p| &mut p.router, i);
                let expected = of_losses + full.router_grad[i];
                assert!(
                    (gradient - expected).abs() < TOLERANCE * 4.0,
                    "{gradient} {expected}"
                );
            }
        }
    }
}

/// Without renormalisation a dropped assignment stays in the softmax: dz = −w·Σ w_j g_j, not 0.
fn a_dropped_choice_still_moves_the_router<B: TestBackend>() {
    use crate::harness::{dispatch, route, route_backward};
    let config = MoeConfig::builder(1, 1, 3, 2)
        .capacity(Capacity::new(0.75).policy(DropPolicy::Position))
        .build()
        .unwrap();
    // Both tokens want experts 0 and 1; C = ceil(4/3·0.75) = 1, so the second token loses both, the first none.
    let logits = [1.0, 0.5, -1.0, 2.0, -0.5, -9.0];
    let routed = route::<B, B::Exact>(&config, &logits, None);
    let backend = B::create();
    let (plan, weights) = dispatch::<B, B::Exact>(&backend, &config, &routed.ids, &routed.weights);
    assert_eq!(
        HostPlan::read(&backend, &plan).assignment_to_row,
        [0, 1, -1, -1]
    );
    // One survivor of the first token: pretend the backward pass found g = 0 for its second choice.
    let (w0, w1) = (weights[0], weights[1]);
    let g = 0.8;
    let grad = route_backward::<B, B::Exact>(
        &config,
        &logits,
        &routed,
        &weights,
        &[g, 0.0, 0.0, 0.0],
        1.0,
    );
    let expected = [w0 * (g - w0 * g), -w1 * w0 * g, 0.0, 0.0, 0.0, 0.0];
    for (got, want) in grad.iter().zip(expected) {
        let tolerance = B::tolerance(1e-15, F32);
        assert!((got - want).abs() < tolerance, "{got} {want}");
    }
    assert!(expected[1].abs() > 0.1);
}

fn keeping_the_routing_only_changes_no_bit<B: TestBackend>() {
    let configs = configs(6, 5, 8, 3);
    // Not a multiple of how many there are of anything.
    let step = 2 * B::SLOWNESS as usize - 1;
    for (seed, config) in configs.iter().enumerate().step_by(step) {
        let problem = Problem::random(config, 23, seed as u64);
        let both = [Keep::Routing, Keep::Hidden];
        if B::Exact::NAME != "f32" {
            let [a, b] = both.map(|keep| run::<B, B::Exact, B::Exact>(config, &problem, keep, 1.0));
            a.assert_same_bits(&b, B::Exact::NAME);
        }
        let [a, b] = both.map(|keep| run::<B, f32, f32>(config, &problem, keep, 1.0));
        a.assert_same_bits(&b, "f32");
        let [a, b] = both.map(|keep| run::<B, bf16, f32>(config, &problem, keep, 1.0));
        a.assert_same_bits(&b, "bf16");
        let [a, b] = both.map(|keep| run::<B, f16, f16>(config, &problem, keep, 1.0));
        a.assert_same_bits(&b, "f16");
    }
}

/// `Accumulate` adds, in the accumulation type, what `Overwrite` writes rounded.
fn weight_gradients_accumulate<B: TestBackend>() {
    accumulate::<B, B::Exact>(2.0);
    accumulate::<B, f32>(2.0);
    // From 0, so that nothing is lost before it is rounded.
    accumulate::<B, bf16>(0.0);
    accumulate::<B, f16>(0.0);
}

fn accumulate<B: TestBackend, T: Element>(start: f64) {
    let config = base(6, 5, 4, 2).build().unwrap();
    let problem = Problem::random(&config, 11, 3).rounded::<T, T>();
    let overwritten = run::<B, T, T>(&config, &problem, Keep::Hidden, 1.0);

    let layer = MoeLayer::new(B::create(), config);
    let backend = layer.backend();
    let tensor = |values: &[f64]| Tensor::<B, T>::from_f64(backend, values);
    let (x, output_grad) = (tensor(&problem.x), tensor(&problem.output_grad));
    let (router, gate_up) = (tensor(&problem.router), tensor(&problem.gate_up));
    let down = tensor(&problem.down);
    let weights = Weights {
        router: router.view(),
        selection_bias: None,
        gate_up: gate_up.view(),
        down: down.view(),
    };
    let mut saved = layer.saved::<T>(11, Keep::Hidden).unwrap();
    let mut workspace = layer.workspace::<T>(11, Keep::Hidden).unwrap();
    let mut output = Tensor::<B, T>::garbage(backend, problem.x.len());
    let zeros = |values: &[f64]| {
        Tensor::<B, T::Acc>::filled(backend, values.len(), T::Acc::from_f64(start))
    };
    let mut sums = [
        zeros(&problem.router),
        zeros(&problem.gate_up),
        zeros(&problem.down),
    ];
    let mut once: Option<[Vec<f64>; 3]> = None;
    for _ in 0..2 {
        let (saved, workspace) = (&mut saved, &mut workspace);
        layer
            .forward(weights, x.view(), output.view_mut(), saved, workspace)
            .unwrap();
        let mut x_grad = Tensor::<B, T>::garbage(backend, problem.x.len());
        let [router_sum, gate_up_sum, down_sum] = &mut sums;
        let gradients = Gradients {
            x: x_grad.view_mut(),
            router: WeightGrad::Accumulate(router_sum.view_mut()),
            gate_up: WeightGrad::Accumulate(gate_up_sum.view_mut()),
            down: WeightGrad::Accumulate(down_sum.view_mut()),
        };
        let input = BackwardInput {
            x: x.view(),
            output_grad: output_grad.view(),
            loss_gradient: 1.0,
        };
        layer
            .backward(weights, input, saved, workspace, gradients)
            .unwrap();
        assert_eq!(
            x_grad.to_f64(backend),
            overwritten.x_grad,
            "x is overwritten"
        );

        let now = sums.each_ref().map(|sum| sum.to_f64(backend));
        let gradients = [
            &overwritten.router_grad,
            &overwritten.gate_up_grad,
            &overwritten.down_grad,
        ];
        for (i, (now, gradient)) in now.iter().zip(gradients).enumerate() {
            match &once {
                // One pass: start + gradient in the accumulation type, which rounds to the gradient when start is 0.
                None if start == 0.0 => {
                    assert_eq!(&widen(&narrow::<T>(now)), gradient, "{}", T::NAME);
                }
                None => {
                    let expected: Vec<f64> = gradient.iter().map(|g| start + g).collect();
                    assert_eq!(now, &widen(&narrow::<T::Acc>(&expected)), "{}", T::NAME);
                }
                // Two passes: the same again.
                Some(once) => {
                    let pairs = now.iter().zip(&once[i]);
                    for ((now, once), gradient) in pairs.zip(gradient) {
                        let error = (now - once) - (once - start);
                        let bound = 4e-7 * (once.abs() + gradient.abs());
                        assert!(error.abs() <= bound, "{}: {once} then {now}", T::NAME);
                    }
                }
            }
        }
        once = Some(now);
    }
}
