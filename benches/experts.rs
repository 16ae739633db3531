//! The experts' products, forward and backward.
//!
//! `cargo bench --bench experts`; docs/benchmarks.md has the choices.

mod harness;

use harness::{Device, Family, Operation, Result, Routed, Work};
use millet::{
    Element, ExpertBias, ExpertsBiasGrad, ExpertsDown, ExpertsDownBackward, ExpertsDownWeightGrad,
    ExpertsInputGrad, ExpertsUp, ExpertsUpWeightGrad, WeightGrad,
};
use millet_testing::cases::{Case, values};
use millet_testing::harness::Tensor;

struct Experts;

struct Set<B: Device, T: Element<Acc = f32>> {
    routed: Routed<B, T>,
    /// [E, 2I, H].
    gate_up: Tensor<B, T>,
    /// [E, H, I].
    down: Tensor<B, T>,
    /// [E, 2I] and [E, H], where the layer has them.
    biases: Option<[Tensor<B, T>; 2]>,
    bias_grads: [Tensor<B, T>; 2],
    /// [max rows, 2I]: h or its gradient, never written.
    kept_h: Tensor<B, T>,
    /// [max rows, 2I].
    h: Tensor<B, T>,
    /// [max rows, I]: a or w·a.
    a: Tensor<B, T>,
    /// [max rows, I].
    a_output: Tensor<B, T>,
    /// [T, H].
    output: Tensor<B, T>,
    /// [T, H].
    output_grad: Tensor<B, T>,
    /// [T, K].
    weights_grad: Tensor<B, f32>,
    /// [E, 2I, H].
    gate_up_grad: Tensor<B, T>,
    /// [E, H, I].
    down_grad: Tensor<B, T>,
    scratch: Tensor<B, f32>,
}

/// Least work of the products.
impl<B: Device, T: Element<Acc = f32>> Set<B, T> {
    /// A product of rows, `columns` and a reduction of `reduction`, which reads or writes so many elements.
    fn product(&self, columns: f64, reduction: f64, elements: f64) -> Work {
        let size = self.routed.sizes();
        Work::new(
            2.0 * size.rows * columns * reduction,
            size.element * elements,
        )
    }

    /// Elements of \[T, H\], \[R, H\], \[R, I\], \[E, H, I\], and the last for experts with rows only.
    fn elements(&self) -> [f64; 5] {
        let size = self.routed.sizes();
        let expert = size.hidden * size.inner;
        [
            size.tokens * size.hidden,
            size.rows * size.hidden,
            size.rows * size.inner,
            size.experts * expert,
            size.loaded_experts * expert,
        ]
    }

    fn up(&self) -> Work {
        let ([tokens, _, inner, _, weight], size) = (self.elements(), self.routed.sizes());
        let elements = tokens + 2.0 * weight + 3.0 * inner;
        self.product(2.0 * size.inner, size.hidden, elements)
    }

    fn down(&self) -> Work {
        let ([tokens, _, inner, _, weight], size) = (self.elements(), self.routed.sizes());
        self.product(size.hidden, size.inner, inner + weight + tokens)
    }

    /// The product, then the combine.
    fn down_launches(&self) -> Vec<Work> {
        let ([tokens, rows, inner, _, weight], size) = (self.elements(), self.routed.sizes());
        vec![
            self.product(size.hidden, size.inner, inner + weight + rows),
            Work::new(0.0, size.element * (rows + tokens)),
        ]
    }

    fn down_backward(&self) -> Work {
        let ([tokens, _, inner, _, weight], size) = (self.elements(), self.routed.sizes());
        let elements = tokens + weight + 5.0 * inner;
        self.product(size.inner, size.hidden, elements)
            .rewriting(size.element * 2.0 * inner)
    }

    fn down_weight_grad(&self) -> Work {
        let ([tokens, _, inner, grad, _], size) = (self.elements(), self.routed.sizes());
        self.product(size.hidden, size.inner, tokens + inner + grad)
    }

    fn up_weight_grad(&self) -> Work {
        let ([tokens, _, inner, grad, _], size) = (self.elements(), self.routed.sizes());
        let elements = tokens + 2.0 * inner + 2.0 * grad;
        self.product(2.0 * size.inner, size.hidden, elements)
    }

    fn bias_grad(&self) -> Work {
        let ([tokens, _, inner, ..], size) = (self.elements(), self.routed.sizes());
        let grads = size.experts * (2.0 * size.inner + size.hidden);
        Work::new(0.0, size.element * (tokens + 2.0 * inner + grads))
    }

    fn input_grad(&self) -> Work {
        let ([tokens, _, inner, _, weight], size) = (self.elements(), self.routed.sizes());
        let elements = 2.0 * inner + 2.0 * weight + tokens;
        let product = self.product(size.hidden, 2.0 * size.inner, elements);
        let router = size.router_part();
        Work::new(product.flops + router.flops, product.bytes + router.bytes)
    }

    /// The product, then the combine with the router's part.
    fn input_grad_launches(&self) -> Vec<Work> {
        let ([tokens, rows, inner, _, weight], size) = (self.elements(), self.routed.sizes());
        let elements = 2.0 * inner + 2.0 * weight + rows;
        let combine = size.element * (rows + tokens);
        vec![
            self.product(size.hidden, 2.0 * size.inner, elements),
            size.router_part().and_bytes(combine),
        ]
    }
}

fn is_biased(case: &Case) -> bool {
    case.config.expert_bias() != ExpertBias::None
}

impl Family for Experts {
    const NAME: &'static str = "experts";
    type Set<B: Device, T: Element<Acc = f32>> = Set<B, T>;

    fn bytes(case: &Case, element: usize) -> usize {
        let [tokens, hidden, inner, experts, top_k] = case.sizes();
        let rows = tokens * top_k;
        let elements = 6 * experts * inner * hidden + 6 * rows * inner + 2 * tokens * hidden;
        // The scratch of CUDA holds rows.
        let scratch = rows * hidden;
        Routed::<millet::Cpu, f32>::bytes(case, element) + (elements + scratch) * element
    }

    fn emulated(case: &Case) -> Case {
        case.with_fewer_experts()
    }

    fn set<B: Device, T: Element<Acc = f32>>(
        backend: &B,
        case: &Case,
        seed: u64,
    ) -> Result<Set<B, T>> {
        let routed = Routed::new(backend, case, seed)?;
        let [tokens, hidden, inner, experts, top_k] = case.sizes();
        let rows = case.config.max_rows(tokens);
        let scratch = backend.scratch_elements::<T>(&case.config, tokens);
        let upload = |len, scale, seed| Tensor::new(backend, &values::<T>(len, scale, seed));
        let zeroed = |len| Tensor::zeroed(backend, len);
        let over_root = |n: usize| (n as f64).powf(-0.5);
        let weight = experts * inner * hidden;
        let bias = [experts * 2 * inner, experts * hidden];
        Ok(Set {
            biases: is_biased(case).then(|| {
                [
                    upload(bias[0], 0.1, seed + 15),
                    upload(bias[1], 0.1, seed + 16),
                ]
            }),
            bias_grads: bias.map(zeroed),
            routed,
            gate_up: upload(2 * weight, 1.4 * over_root(hidden), seed + 10),
            down: upload(weight, 1.4 * over_root(inner), seed + 11),
            kept_h: upload(rows * 2 * inner, 1.0, seed + 12),
            h: zeroed(rows * 2 * inner),
            a: upload(rows * inner, 1.0, seed + 13),
            a_output: zeroed(rows * inner),
            output: zeroed(tokens * hidden),
            output_grad: upload(tokens * hidden, 1.0, seed + 14),
            weights_grad: Tensor::zeroed(backend, tokens * top_k),
            gate_up_grad: zeroed(2 * weight),
            down_grad: zeroed(weight),
            scratch: Tensor::zeroed(backend, scratch),
        })
    }

    fn operations<B: Device, T: Element<Acc = f32>>(case: &Case) -> Vec<Operation<B, Set<B, T>>> {
        let mut all = vec![
            Operation::new("up", Set::<B, T>::up, |backend: &B, set: &mut Set<B, T>| {
                backend.experts_up(ExpertsUp::<B, T> {
                    plan: &set.routed.plan,
                    x: set.routed.inputs.x.view(),
                    gate_up: set.gate_up.view(),
                    bias: set.biases.as_ref().map(|[gate_up, _]| gate_up.view()),
                    h: Some(set.h.view_mut()),
                    a: set.a_output.view_mut(),
                    scratch: set.scratch.view_mut(),
                })?;
                Ok(())
            }),
            Operation::new("down", Set::down, |backend: &B, set: &mut Set<B, T>| {
                backend.experts_down(ExpertsDown::<B, T> {
                    plan: &set.routed.plan,
                    a: set.a.view(),
                    down: set.down.view(),
                    bias: set.biases.as_ref().map(|[_, down]| down.view()),
                    weights: set.routed.weights.view(),
                    output: set.output.view_mut(),
                    scratch: set.scratch.view_mut(),
                })?;
                Ok(())
            })
            .launches(Set::down_launches),
            Operation::new(
                "down-backward",
                Set::<B, T>::down_backward,
                |backend: &B, set| {
                    backend.experts_down_backward(ExpertsDownBackward::<B, T> {
                        plan: &set.routed.plan,
                        output_grad: set.output_grad.view(),
                        down: set.down.view(),
                        bias: set.biases.as_ref().map(|[_, down]| down.view()),
                        weights: set.routed.weights.view(),
                        h: set.h.view_mut(),
                        weighted_a: set.a_output.view_mut(),
                        weights_grad: set.weights_grad.view_mut(),
                        scratch: set.scratch.view_mut(),
                    })?;
                    Ok(())
                },
            )
            // Gradients of gradients would fade to zeros.
            .restore(|backend, set| backend.copy(set.kept_h.view(), set.h.view_mut()))
            // With biases another launch comes first.
            .launches(|set| match set.biases {
                None => vec![set.down_backward()],
                Some(_) => Vec::new(),
            }),
            Operation::new("down-weight-grad", Set::down_weight_grad, |backend, set| {
                backend.experts_down_weight_grad(ExpertsDownWeightGrad::<B, T> {
                    plan: &set.routed.plan,
                    output_grad: set.output_grad.view(),
                    weighted_a: set.a.view(),
                    grad: WeightGrad::Overwrite(set.down_grad.view_mut()),
                    scratch: set.scratch.view_mut(),
                })?;
                Ok(())
            }),
            Operation::new("up-weight-grad", Set::up_weight_grad, |backend, set| {
                backend.experts_up_weight_grad(ExpertsUpWeightGrad::<B, T> {
                    plan: &set.routed.plan,
                    x: set.routed.inputs.x.view(),
                    h_grad: set.kept_h.view(),
                    grad: WeightGrad::Overwrite(set.gate_up_grad.view_mut()),
                    scratch: set.scratch.view_mut(),
                })?;
                Ok(())
            }),
            Operation::new("input-grad", Set::<B, T>::input_grad, |backend: &B, set| {
                backend.experts_input_grad(ExpertsInputGrad::<B, T> {
                    plan: &set.routed.plan,
                    h_grad: set.kept_h.view(),
                    gate_up: set.gate_up.view(),
                    router: set.routed.router_part(),
                    x_grad: set.output.view_mut(),
                    scratch: set.scratch.view_mut(),
                })?;
                Ok(())
            })
            .launches(Set::input_grad_launches),
        ];
        if is_biased(case) {
            all.push(Operation::new(
                "bias-grad",
                Set::bias_grad,
                |backend, set| {
                    let [gate_up, down] = &mut set.bias_grads;
                    backend.experts_bias_grad(ExpertsBiasGrad::<B, T> {
                        plan: &set.routed.plan,
                        h_grad: set.kept_h.view(),
                        output_grad: set.output_grad.view(),
                        weights: set.routed.weights.view(),
                        gate_up: WeightGrad::Overwrite(gate_up.view_mut()),
                        down: WeightGrad::Overwrite(down.view_mut()),
                    })?;
                    Ok(())
                },
            ));
        }
        all
    }
}

fn main() {
    harness::run::<Experts>();
}
