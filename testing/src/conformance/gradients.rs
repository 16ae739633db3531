//! Gradients that accumulate, of choices that were dropped, and from a forward that kept less.

use approx::assert_abs_diff_eq;
use millet::half::{bf16, f16};
use millet::{
    BackwardInput, Capacity, DType, DropPolicy, Element, ExpertBias, ExpertBiasGrads, Gradients,
    Keep, MoeConfig, MoeLayer, Real, WeightGrad,
};

use crate::generate::{base, configs};
use crate::harness::{
    HostPlan, Problem, Tensor, TestBackend, dispatch, narrow, route, route_backward, run, widen,
};
use crate::tolerance::F32;

/// Without renormalisation a dropped assignment stays in the softmax: dz = −w·Σ w_j g_j, not 0.
pub(super) fn a_dropped_choice_still_moves_the_router<B: TestBackend>() {
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
        assert_abs_diff_eq!(*got, want, epsilon = tolerance);
    }
    assert!(expected[1].abs() > 0.1);
}

pub(super) fn keeping_the_routing_only_changes_no_bit<B: TestBackend>() {
    let configs = configs(6, 5, 8, 3);
    // Not a multiple of how many there are of anything.
    let step = 2 * B::SLOWNESS as usize - 1;
    for (seed, config) in configs.iter().enumerate().step_by(step) {
        let problem = Problem::random(config, 23, seed as u64);
        let both = [Keep::Routing, Keep::Hidden];
        if B::Exact::DTYPE != DType::F32 {
            let [a, b] = both.map(|keep| run::<B, B::Exact, B::Exact>(config, &problem, keep, 1.0));
            a.assert_same_bits(&b, B::Exact::DTYPE.name());
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
pub(super) fn weight_gradients_accumulate<B: TestBackend>() {
    accumulate::<B, B::Exact>(2.0);
    accumulate::<B, f32>(2.0);
    // From 0, so that nothing is lost before it is rounded.
    accumulate::<B, bf16>(0.0);
    accumulate::<B, f16>(0.0);
}

fn accumulate<B: TestBackend, T: Element>(start: f64) {
    let config = base(6, 5, 4, 2)
        .expert_bias(ExpertBias::GateUpAndDown)
        .build()
        .unwrap();
    let problem = Problem::random(&config, 11, 3).rounded::<T, T>();
    let overwritten = run::<B, T, T>(&config, &problem, Keep::Hidden, 1.0);

    let layer = MoeLayer::new(B::create(), config);
    let backend = layer.backend();
    let inputs = problem.upload::<B, T, T>(backend);
    let (weights, x) = (inputs.weights(), inputs.x.view());
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
        zeros(&problem.gate_up_bias),
        zeros(&problem.down_bias),
    ];
    let mut once: Option<[Vec<f64>; 5]> = None;
    for _ in 0..2 {
        let (saved, workspace) = (&mut saved, &mut workspace);
        layer
            .forward(weights, x, output.view_mut(), saved, workspace)
            .unwrap();
        let mut x_grad = Tensor::<B, T>::garbage(backend, problem.x.len());
        let [
            router_sum,
            gate_up_sum,
            down_sum,
            gate_up_bias_sum,
            down_bias_sum,
        ] = &mut sums;
        let gradients = Gradients {
            x: x_grad.view_mut(),
            router: WeightGrad::Accumulate(router_sum.view_mut()),
            gate_up: WeightGrad::Accumulate(gate_up_sum.view_mut()),
            down: WeightGrad::Accumulate(down_sum.view_mut()),
            expert_bias: Some(ExpertBiasGrads {
                gate_up: WeightGrad::Accumulate(gate_up_bias_sum.view_mut()),
                down: WeightGrad::Accumulate(down_bias_sum.view_mut()),
            }),
        };
        let input = BackwardInput {
            x,
            output_grad: inputs.output_grad.view(),
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
            &overwritten.gate_up_bias_grad,
            &overwritten.down_bias_grad,
        ];
        for (i, (now, gradient)) in now.iter().zip(gradients).enumerate() {
            match &once {
                // One pass: start + gradient in the accumulation type, which rounds to the gradient when start is 0.
                None if start == 0.0 => {
                    assert_eq!(&widen(&narrow::<T>(now)), gradient, "{}", T::DTYPE);
                }
                None => {
                    let expected: Vec<f64> = gradient.iter().map(|g| start + g).collect();
                    assert_eq!(now, &widen(&narrow::<T::Acc>(&expected)), "{}", T::DTYPE);
                }
                // Two passes: the same again.
                Some(once) => {
                    let pairs = now.iter().zip(&once[i]);
                    for ((now, once), gradient) in pairs.zip(gradient) {
                        let error = (now - once) - (once - start);
                        let bound = 4e-7 * (once.abs() + gradient.abs());
                        assert!(error.abs() <= bound, "{}: {once} then {now}", T::DTYPE);
                    }
                }
            }
        }
        once = Some(now);
    }
}
