//! What of a type's range a row of the down product may use, and where it is rounded: after it was weighed.

use approx::abs_diff_eq;
use millet::half::{bf16, f16};
use millet::{Capacity, DropPolicy, Element, ExpertsDown, Keep, MoeConfig};

use crate::harness::{
    HostPlan, Problem, Tensor, TestBackend, dispatch, narrow, run, scratch, widen,
};

/// y of the second expert of three: beyond f16.
const LARGE: f64 = -131_072.0;

/// Given plan and weights, in numbers whose products and sums are exact.
pub(super) fn a_row_is_weighed_and_then_rounded<B: TestBackend>() {
    for third in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (hidden, inner) in [(8, 8), (5, 5), (136, 16)] {
            // One more than what still has a place for units, so y of the first expert ends in 1 and rounds down.
            check_down::<B, f32>(hidden, inner, 2049.0, third);
            check_down::<B, bf16>(hidden, inner, 257.0, third);
            check_down::<B, f16>(hidden, inner, 2049.0, third);
        }
    }
}

/// y is `odd`, [`LARGE`] or of kind `third` in every column.
fn check_down<B: TestBackend, T: Element>(hidden: usize, inner: usize, odd: f64, third: f64) {
    let once = |value: f64| widen(&narrow::<T>(&[value]))[0];
    let nothing = f64::NAN;
    // The last column: what the rows of a token add to its output.
    let tokens = [
        ([0, -1], [3.0, nothing], once(3.0 * odd)),
        ([0, 1], [1.0, -(odd - 1.0) / LARGE], once(odd) - (odd - 1.0)),
        ([1, 2], [0.25, 0.0], 0.25 * LARGE),
        ([2, 1], [0.0, 1.0], once(LARGE)),
        // The fourth of the second expert is dropped.
        ([1, 0], [0.25, 3.0], once(3.0 * odd)),
        ([-1, -1], [nothing, nothing], 0.0),
    ];
    let config = MoeConfig::builder(hidden, inner, 3, 2)
        .capacity(Capacity::new(0.75).policy(DropPolicy::Position))
        .build()
        .unwrap();
    let ids = tokens.map(|(ids, ..)| ids).concat();
    let weights = tokens.map(|(_, weights, _)| weights).concat();
    let backend = &B::create();
    let (plan, weights) = dispatch::<B, T::Acc>(backend, &config, &ids, &weights);
    let rows = 8;
    assert_eq!(HostPlan::read(backend, &plan).offsets, [0, 3, 6, rows]);

    let mut a = vec![1.0; rows as usize * inner];
    a.resize(config.max_rows(tokens.len()) * inner, f64::NAN);
    let mut down = vec![0.0; 3 * hidden * inner];
    for (row, down) in down.chunks_exact_mut(inner).enumerate() {
        match row / hidden {
            0 => (down[0], down[inner - 1]) = (odd - 1.0, 1.0),
            1 => down[..4].fill(LARGE / 4.0),
            _ => down[1] = third,
        }
    }
    let tensor = |values: &[f64]| Tensor::<B, T>::from_f64(backend, values);
    let (a, down) = (tensor(&a), tensor(&down));
    let weights = Tensor::<B, T::Acc>::from_f64(backend, &weights);
    let mut output = Tensor::<B, T>::garbage(backend, tokens.len() * hidden);
    let mut scratch = scratch::<B, T>(backend, &config, tokens.len());
    backend
        .experts_down(ExpertsDown::<B, T> {
            plan: &plan,
            a: a.view(),
            down: down.view(),
            weights: weights.view(),
            output: output.view_mut(),
            scratch: scratch.view_mut(),
            bias: None,
        })
        .unwrap();
    let output = output.to_f64(backend);
    for (token, (_, _, want)) in tokens.into_iter().enumerate() {
        let got = &output[token * hidden..(token + 1) * hidden];
        let what = format!("token {token}, {}, H={hidden}, {third}", T::DTYPE);
        assert_eq!(got, vec![want; hidden], "{what}");
    }
}

/// Four experts with weights of ¼: y is 1e5 of the first, −1.2e5 or 0 of the second, 0 of the others.
pub(super) fn a_row_beyond_the_range_is_weighed_into_it<B: TestBackend>() {
    // The last has 300 rows an expert, so tiles of 128.
    for (hidden, inner, tokens) in [(8, 8, 1), (5, 5, 3), (16, 8, 300)] {
        for second in [0.0, -1.2] {
            let config = MoeConfig::builder(hidden, inner, 4, 4).build().unwrap();
            let mut problem = Problem {
                tokens,
                x: vec![1.0; tokens * hidden],
                router: vec![0.0; 4 * hidden],
                bias: None,
                gate_up: vec![0.0; 4 * 2 * inner * hidden],
                down: vec![0.0; 4 * hidden * inner],
                gate_up_bias: Vec::new(),
                down_bias: Vec::new(),
                // Nothing of backward beyond the range.
                output_grad: vec![1.0 / 64.0; tokens * hidden],
            };
            for row in problem.gate_up.chunks_exact_mut(hidden) {
                row[0] = 10.0;
            }
            let (own, y) = (hidden * inner, 1000.0 / inner as f64);
            problem.down[..own].fill(y);
            problem.down[own..2 * own].fill(y * second);
            // a = 10·silu(10).
            let want = 0.25 * 1000.0 * 100.0 / (1.0 + (-10.0f64).exp()) * (1.0 + second);
            check_layer::<B, f32>(&config, &problem, want, 0.05);
            check_layer::<B, bf16>(&config, &problem, want, 200.0);
            check_layer::<B, f16>(&config, &problem, want, 20.0);
        }
    }
}

fn check_layer<B: TestBackend, T: Element>(
    config: &MoeConfig,
    problem: &Problem,
    want: f64,
    tolerance: f64,
) {
    let outcome = run::<B, T, T::Acc>(config, problem, Keep::Hidden, 1.0);
    let hidden = config.hidden_size();
    let what = format!("{}, H={hidden}, T={}", T::DTYPE, problem.tokens);
    for got in &outcome.output {
        assert!(
            abs_diff_eq!(*got, want, epsilon = tolerance),
            "{got}, not {want}: {what}"
        );
    }
    for (name, values) in outcome.floats() {
        assert!(values.iter().all(|v| v.is_finite()), "{name}: {what}");
    }
}
