//! Activations other than SwiGLU: the whole layer against the oracle.

use millet::half::{bf16, f16};
use millet::{Activation, Capacity, ExpertBias, Keep, MoeConfig, Renormalize};

use super::layer::{Rounding, check_exact, check_type};
use crate::generate::base;
use crate::harness::{Problem, TestBackend, run};
use crate::tolerance::F32;

/// Two experts of weight ½, one with gate and up at the limit, where the gradient passes, and one beyond it, where it is 0.
pub(super) fn clamped_swiglu_at_the_limit<B: TestBackend>() {
    let config = MoeConfig::builder(1, 1, 2, 2)
        .activation(Activation::GPT_OSS)
        .build()
        .unwrap();
    let problem = Problem {
        tokens: 1,
        x: vec![1.0],
        router: vec![0.0; 2],
        bias: None,
        gate_up: vec![7.0, 7.0, 7.5, -7.5],
        down: vec![1.0; 2],
        gate_up_bias: Vec::new(),
        down_bias: Vec::new(),
        output_grad: vec![1.0],
    };
    let outcome = run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 1.0);
    // s = σ(1.702·7): a = 8·7·s and −6·7·s; half of 8·(s + 1.702·7·s·(1 − s)) and of 7·s.
    let want: [(f64, f64); 3] = [
        (
            outcome.output[0],
            0.5 * (55.999_625_026_426_54 - 41.999_718_769_819_9),
        ),
        (outcome.gate_up_grad[0], 0.5 * 8.000_584_633_095_288),
        (outcome.gate_up_grad[1], 0.5 * 6.999_953_128_303_317),
    ];
    for (got, want) in want {
        let allowed = B::tolerance(1e-14, F32) * want.abs();
        assert!((got - want).abs() <= allowed, "{got} instead of {want}");
    }
    assert_eq!(outcome.gate_up_grad[2..], [0.0, 0.0]);
}

/// Gates and ups that are not finite come from the biases: of two experts of weight ½, infinite ones are at the limit and have no
/// gradient, and NaN stays NaN.
pub(super) fn clamped_swiglu_of_infinity_and_nan<B: TestBackend>() {
    let config = MoeConfig::builder(1, 1, 2, 2)
        .activation(Activation::GPT_OSS)
        .expert_bias(ExpertBias::GateUpAndDown)
        .build()
        .unwrap();
    let outcome = |gate_up_bias: [f64; 4]| {
        let problem = Problem {
            tokens: 1,
            x: vec![1.0],
            router: vec![0.0; 2],
            bias: None,
            gate_up: vec![0.0; 4],
            down: vec![1.0; 2],
            gate_up_bias: gate_up_bias.to_vec(),
            down_bias: vec![0.0; 2],
            output_grad: vec![1.0],
        };
        run::<B, B::Exact, B::Exact>(&config, &problem, Keep::Hidden, 1.0)
    };
    let near = |got: f64, want: f64| {
        let allowed = B::tolerance(1e-14, F32) * want.abs();
        assert!((got - want).abs() <= allowed, "{got} instead of {want}");
    };
    // As above: 8·7·s and −6·7·s with s = σ(1.702·7), and half of 8·(s + 1.702·7·s·(1 − s)).
    let infinite = outcome([7.0, f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY]);
    near(
        infinite.output[0],
        0.5 * (55.999_625_026_426_54 - 41.999_718_769_819_9),
    );
    for grad in [&infinite.gate_up_grad, &infinite.gate_up_bias_grad] {
        near(grad[0], 0.5 * 8.000_584_633_095_288);
        assert_eq!(grad[1..], [0.0; 3]);
    }
    // A gate of NaN is in the gradients of both; an up of NaN is not in its own, which is half of 7·s.
    let nan = outcome([f64::NAN, 7.0, 7.0, f64::NAN]);
    assert!(nan.output[0].is_nan());
    for grad in [&nan.gate_up_grad, &nan.gate_up_bias_grad] {
        assert!(grad[..3].iter().all(|g| g.is_nan()), "{grad:?}");
        near(grad[3], 0.5 * 6.999_953_128_303_317);
    }
}

/// A configuration whose clamps work on a good part of the values of h, with and without dropping, and what it is given.
pub(super) fn problems(tokens: usize) -> impl Iterator<Item = (MoeConfig, Problem)> {
    let settings = [(1.702, 1.0), (1.0, 0.0), (0.7, -0.25)];
    settings
        .into_iter()
        .enumerate()
        .flat_map(move |(seed, (alpha, offset))| {
            [None, Some(0.7)].map(|factor| {
                // Whole 16-byte rows, and others.
                let builder = match seed {
                    0 => base(16, 8, 4, 2),
                    _ => base(7, 5, 4, 2),
                };
                let builder = match factor {
                    None => builder,
                    Some(factor) => {
                        builder.capacity(Capacity::new(factor).renormalize(Renormalize::AfterDrop))
                    }
                };
                // GPT-OSS has biases.
                let builder = match seed {
                    0 => builder.expert_bias(ExpertBias::GateUpAndDown),
                    _ => builder,
                };
                let plain = builder.clone().build().unwrap();
                let problem = Problem::random(&plain, tokens, 300 + seed as u64);
                let limit = limit_between_values(&plain, &problem);
                let activation = Activation::ClampedSwiGlu {
                    alpha,
                    limit,
                    offset,
                };
                (builder.activation(activation).build().unwrap(), problem)
            })
        })
}

/// A limit that some gates and some ups of both signs are beyond, and that no value comes so close to that rounding could take it
/// to the other side: there the gradient jumps, and no two types agree.
fn limit_between_values(config: &MoeConfig, problem: &Problem) -> f64 {
    let (hidden, inner) = (config.hidden_size(), config.intermediate_size());
    let rows = problem.gate_up.chunks_exact(hidden).enumerate();
    let (mut gates, mut ups) = (Vec::new(), Vec::new());
    for (column, weight) in rows {
        for x in problem.x.chunks_exact(hidden) {
            let product: f64 = x.iter().zip(weight).map(|(x, w)| x * w).sum();
            let value = product + problem.gate_up_bias.get(column).unwrap_or(&0.0);
            match column / inner % 2 {
                0 => gates.push(value),
                _ => ups.push(value),
            }
        }
    }
    let distance = |limit: f64| {
        let all = gates.iter().copied().chain(ups.iter().map(|up| up.abs()));
        all.map(|value| (value - limit).abs())
            .fold(f64::MAX, f64::min)
    };
    let candidates = (0..1500).map(|i| 0.9 + f64::from(i) / 1000.0);
    let limit = candidates
        .max_by(|&a, &b| distance(a).total_cmp(&distance(b)))
        .unwrap();
    // Of bf16: the value and what it is made of.
    assert!(
        distance(limit) > limit / 128.0,
        "choose another seed: {}",
        distance(limit)
    );
    for beyond in [
        gates.iter().filter(|&&gate| gate > limit).count(),
        ups.iter().filter(|&&up| up > limit).count(),
        ups.iter().filter(|&&up| up < -limit).count(),
    ] {
        assert!(beyond >= 3, "choose another seed: {beyond}");
    }
    limit
}

pub(super) fn clamped_swiglu_exact<B: TestBackend>() {
    for (config, problem) in problems(12) {
        check_exact::<B>(&config, &problem);
    }
}

pub(super) fn clamped_swiglu_f32<B: TestBackend>() {
    for (config, problem) in problems(12) {
        check_type::<B, f32, f32, f32>(&config, &problem, (|v| v, |v| v), 2e-6);
    }
}

pub(super) fn clamped_swiglu_bf16<B: TestBackend>() {
    let round: Rounding<f32> = |v| bf16::from_f32(v).to_f32();
    for (config, problem) in problems(12) {
        check_type::<B, bf16, bf16, f32>(&config, &problem, (round, round), 8e-3);
        check_type::<B, bf16, f32, f32>(&config, &problem, (round, |v| v), 8e-3);
    }
}

pub(super) fn clamped_swiglu_f16<B: TestBackend>() {
    let round: Rounding<f32> = |v| f16::from_f32(v).to_f32();
    for (config, problem) in problems(12) {
        check_type::<B, f16, f16, f32>(&config, &problem, (round, round), 1e-3);
        check_type::<B, f16, f32, f32>(&config, &problem, (round, |v| v), 1e-3);
    }
}
