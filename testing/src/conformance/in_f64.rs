//! What shows in f64 only: central finite differences through the whole layer, for every gradient path, with random cotangents, and
//! routers to the last digits.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use millet::{
    AuxScale, Capacity, DropPolicy, ExpertBias, Keep, Losses, MoeConfig, MoeLayer, ScoreFunction,
    SingleExpert,
};

use super::{activation, expert_bias, router};
use crate::generate::{base, configs};
use crate::harness::{Outcome, Problem, Tensor, TestBackend, route, run};
use crate::oracle::Oracle;

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
        let inputs = problem.upload::<B, f64, f64>(backend);
        let (weights, x) = (inputs.weights(), inputs.x.view());
        let mut output = Tensor::<B, f64>::garbage(backend, problem.x.len());
        let (saved, workspace) = (&mut self.saved, &mut self.workspace);
        self.layer
            .forward(weights, x, output.view_mut(), saved, workspace)
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

const FIELDS: [Field; 6] = [
    ("x", |p| &mut p.x, |o| &o.x_grad),
    ("router", |p| &mut p.router, |o| &o.router_grad),
    ("gate_up", |p| &mut p.gate_up, |o| &o.gate_up_grad),
    ("down", |p| &mut p.down, |o| &o.down_grad),
    (
        "gate_up bias",
        |p| &mut p.gate_up_bias,
        |o| &o.gate_up_bias_grad,
    ),
    ("down bias", |p| &mut p.down_bias, |o| &o.down_bias_grad),
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
        if config.expert_bias() == ExpertBias::None && analytic.is_empty() {
            continue;
        }
        let largest = analytic.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        assert!(
            largest > 1e-3,
            "{name}: a gradient that is 0 checks nothing: {config:?}"
        );
        for (i, &analytic) in analytic.iter().enumerate() {
            let slope = loss.slope(&mut problem, *values, i);
            assert!(
                abs_diff_eq!(slope, analytic, epsilon = TOLERANCE * (1.0 + largest)),
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

pub(super) fn every_path_against_finite_differences<B: TestBackend>() {
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

pub(super) fn clamped_swiglu_against_finite_differences<B: TestBackend>() {
    for (config, problem) in activation::problems(12) {
        check_fields::<B>(&config, &problem, 0.7, &FIELDS);
    }
}

pub(super) fn biases_against_finite_differences<B: TestBackend>() {
    for (config, problem) in expert_bias::problems() {
        check_fields::<B>(&config, &problem, 0.7, &FIELDS);
    }
}

pub(super) fn both_scales_of_the_balance_loss<B: TestBackend>() {
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

pub(super) fn straight_through_is_the_gradient_of_the_full_softmax<B: TestBackend>() {
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
                assert_abs_diff_eq!(gradient, expected, epsilon = 4.0 * TOLERANCE);
            }
        }
    }
}

pub(super) fn every_kind_of_logits<B: TestBackend>() {
    router::sweep(|config, logits, bias, what| {
        let want = Oracle::exact(config).route(logits, bias);
        let got = route::<B, f64>(config, logits, bias);
        router::check(config, &got, &want, 1e-13, what);
    });
}
