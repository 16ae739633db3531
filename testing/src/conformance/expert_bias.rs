//! Expert biases: values worked out by hand, and the oracle.

use millet::half::{bf16, f16};
use millet::{Capacity, Element, ExpertBias, Keep, MoeConfig, ScoreFunction};

use super::layer::{Rounding, check_exact, check_type};
use crate::generate::base;
use crate::harness::{Problem, TestBackend, run};

pub(super) fn problems() -> impl Iterator<Item = (MoeConfig, Problem)> {
    let builders = [
        // Whole 16-byte rows, and others; few rows per expert, and many.
        base(16, 8, 6, 2),
        base(7, 5, 8, 3).score_function(ScoreFunction::Sigmoid),
        base(16, 72, 2, 2),
        base(8, 8, 3, 2).capacity(Capacity::new(0.7)),
        base(1, 1, 3, 2).score_function(ScoreFunction::SoftmaxBeforeTopK),
        // More slots than a warp has lanes.
        base(8, 8, 48, 40),
    ];
    let builders = builders
        .into_iter()
        .zip([20, 33, 150, 40, 4, 6])
        .enumerate();
    builders.map(|(seed, (builder, tokens))| {
        let builder = builder.expert_bias(ExpertBias::GateUpAndDown);
        let config = builder.build().unwrap();
        let problem = Problem::random(&config, tokens, 500 + seed as u64);
        (config, problem)
    })
}

/// Every logit of two experts is 0, so every weight is ½, and a third gets nothing. gate_up is 0, so h is its bias, and down passes
/// a to the first column. The gates are 0: a = 0, σ = ½, and only the gates' gradient is not 0.
pub(super) fn worked_by_hand<B: TestBackend>() {
    let config = MoeConfig::builder(2, 1, 3, 2)
        .expert_bias(ExpertBias::GateUpAndDown)
        .build()
        .unwrap();
    let problem = Problem {
        tokens: 3,
        x: vec![1.0, 0.0, 0.0, 1.0, 2.0, 2.0],
        router: vec![0.0, 0.0, 0.0, 0.0, -9.0, -9.0],
        bias: None,
        gate_up: vec![0.0; 12],
        down: vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0],
        gate_up_bias: vec![0.0, 4.0, 0.0, -2.0, 5.0, 5.0],
        down_bias: vec![1.0, -2.0, 3.0, 0.5, 7.0, 7.0],
        output_grad: vec![1.0, 2.0, 3.0, -1.0, -2.0, 4.0],
    };
    fn check<B: TestBackend, T: Element>(config: &MoeConfig, problem: &Problem) {
        for keep in [Keep::Hidden, Keep::Routing] {
            let outcome = run::<B, T, T>(config, problem, keep, 1.0);
            assert_eq!(outcome.ids, [0, 1, 0, 1, 0, 1]);
            assert_eq!(outcome.output, [2.0, -0.75, 2.0, -0.75, 2.0, -0.75]);
            // Σ ½·dO.
            assert_eq!(outcome.down_bias_grad, [1.0, 2.5, 1.0, 2.5, 0.0, 0.0]);
            // Σ ½·dO₀·up·½.
            assert_eq!(outcome.gate_up_bias_grad, [2.0, 0.0, -1.0, 0.0, 0.0, 0.0]);
            // dz = ±¼·⟨dO, difference of the down biases⟩.
            assert_eq!(outcome.router_grad, [-4.75, -3.875, 4.75, 3.875, 0.0, 0.0]);
            for grad in [
                &outcome.gate_up_bias_grad[4..],
                &outcome.down_bias_grad[4..],
            ] {
                assert!(grad.iter().all(|g| g.to_bits() == 0), "{grad:?}");
            }
        }
    }
    check::<B, B::Exact>(&config, &problem);
    check::<B, f32>(&config, &problem);
    check::<B, bf16>(&config, &problem);
    check::<B, f16>(&config, &problem);
}

pub(super) fn biases_exact<B: TestBackend>() {
    for (config, problem) in problems() {
        check_exact::<B>(&config, &problem);
    }
}

pub(super) fn biases_f32<B: TestBackend>() {
    for (config, problem) in problems() {
        check_type::<B, f32, f32, f32>(&config, &problem, (|v| v, |v| v), 2e-6);
    }
}

pub(super) fn biases_bf16<B: TestBackend>() {
    let round: Rounding<f32> = |v| bf16::from_f32(v).to_f32();
    for (config, problem) in problems() {
        check_type::<B, bf16, bf16, f32>(&config, &problem, (round, round), 8e-3);
        check_type::<B, bf16, f32, f32>(&config, &problem, (round, |v| v), 8e-3);
    }
}

pub(super) fn biases_f16<B: TestBackend>() {
    let round: Rounding<f32> = |v| f16::from_f32(v).to_f32();
    for (config, problem) in problems() {
        check_type::<B, f16, f16, f32>(&config, &problem, (round, round), 1e-3);
        check_type::<B, f16, f32, f32>(&config, &problem, (round, |v| v), 1e-3);
    }
}

/// Biases of 0 are no biases, but for the gradients that they get.
pub(super) fn zeros_change_nothing<B: TestBackend>() {
    for (config, mut problem) in problems() {
        problem.gate_up_bias.fill(0.0);
        problem.down_bias.fill(0.0);
        let with = run::<B, f32, f32>(&config, &problem, Keep::Hidden, 1.0);
        let plain = MoeConfig::builder(
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
            config.top_k(),
        )
        .score_function(config.router().score_function())
        .losses(*config.losses());
        let plain = match config.capacity() {
            None => plain,
            Some(&capacity) => plain.capacity(capacity),
        };
        (problem.gate_up_bias, problem.down_bias) = (Vec::new(), Vec::new());
        let mut without = run::<B, f32, f32>(&plain.build().unwrap(), &problem, Keep::Hidden, 1.0);
        without.gate_up_bias_grad = with.gate_up_bias_grad.clone();
        without.down_bias_grad = with.down_bias_grad.clone();
        // −0 is +0 after a sum with 0.
        with.assert_same_routing(&without, "zeros");
        assert_eq!(with, without);
    }
}
