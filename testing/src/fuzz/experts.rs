//! Each operation of the experts alone, on any plan and on rows that no other operation made, against plain loops.

use millet::{
    Element, ExpertBias, ExpertsBiasGrad, ExpertsDown, ExpertsDownBackward, ExpertsDownWeightGrad,
    ExpertsInputGrad, ExpertsUp, ExpertsUpWeightGrad, RouterPart, WeightGrad,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::layer;
use super::{Target, stored, with_types};
use crate::generate::{Rng, RoutingKind};
use crate::harness::{HostPlan, Problem, Tensor, TestBackend, dispatch, narrow, scratch, widen};
use crate::oracle::{Number, Oracle};
use crate::tolerance::assert_near;

#[derive(Debug, Clone)]
struct Case {
    layer: layer::Case,
    routing: RoutingKind,
    stores_h: bool,
    accumulates: bool,
}

pub(super) fn target<B: TestBackend + 'static>() -> Target {
    let routing = prop::sample::select(RoutingKind::ALL.to_vec());
    let cases = (layer::cases(), routing, any::<[bool; 2]>()).prop_map(
        |(layer, routing, [stores_h, accumulates])| Case {
            layer,
            routing,
            stores_h,
            accumulates,
        },
    );
    Target::new("experts", cases, |case| {
        with_types!(case.layer.types, check::<B>(case))
    })
}

/// What the operations read, rounded to its types: rows as far as the plan has some.
struct Given {
    problem: Problem,
    /// Of each row: its assignment, token, expert and weight.
    rows: Vec<(usize, usize, usize, f64)>,
    assignments: usize,
    /// [rows, 2I]: h, and in another operation dh.
    h: Vec<f64>,
    /// [rows, I]: a, and in another operation w·a.
    a: Vec<f64>,
    dz: Vec<f64>,
}

/// The operations as they are defined, summed in `N` one term after the other.
struct Plain<'a, N> {
    oracle: Oracle<'a, N>,
    given: &'a Given,
}

impl<N: Number> Plain<'_, N> {
    fn sizes(&self) -> (usize, usize, usize) {
        let config = self.oracle.config;
        (
            config.hidden_size(),
            config.intermediate_size(),
            config.num_experts(),
        )
    }

    fn dot<'v>(a: impl IntoIterator<Item = &'v f64>, b: impl IntoIterator<Item = &'v f64>) -> N {
        let products = a.into_iter().zip(b).map(|(&a, &b)| N::of(a) * N::of(b));
        products.fold(N::of(0.0), |sum, product| sum + product)
    }

    fn store(&self, values: Vec<N>) -> Vec<f64> {
        values
            .into_iter()
            .map(|v| (self.oracle.store)(v).f64())
            .collect()
    }

    fn bias(values: &[f64], at: usize) -> N {
        N::of(values.get(at).copied().unwrap_or(0.0))
    }

    /// h and a.
    fn up(&self) -> [Vec<f64>; 2] {
        let ((hidden, inner, _), problem) = (self.sizes(), &self.given.problem);
        let (mut h, mut a) = (Vec::new(), Vec::new());
        for &(_, token, expert, _) in &self.given.rows {
            let x = &problem.x[token * hidden..(token + 1) * hidden];
            let columns = expert * 2 * inner..(expert + 1) * 2 * inner;
            let own: Vec<N> = columns
                .map(|column| {
                    let weight = &problem.gate_up[column * hidden..(column + 1) * hidden];
                    (self.oracle.store)(
                        Self::dot(x, weight) + Self::bias(&problem.gate_up_bias, column),
                    )
                })
                .collect();
            a.extend((0..inner).map(|j| self.oracle.activation(own[j], own[inner + j])[0]));
            h.extend(own);
        }
        [self.store(h), self.store(a)]
    }

    fn down(&self) -> Vec<f64> {
        let ((hidden, inner, _), problem) = (self.sizes(), &self.given.problem);
        let mut output = vec![N::of(0.0); problem.x.len()];
        // A token's slots in order.
        let mut rows: Vec<usize> = (0..self.given.rows.len()).collect();
        rows.sort_by_key(|&row| self.given.rows[row].0);
        for row in rows {
            let (_, token, expert, weight) = self.given.rows[row];
            let a = &self.given.a[row * inner..(row + 1) * inner];
            for i in (0..hidden).filter(|_| weight != 0.0) {
                let column = expert * hidden + i;
                let y = Self::dot(a, &problem.down[column * inner..(column + 1) * inner]);
                let y = y + Self::bias(&problem.down_bias, column);
                output[token * hidden + i] += (self.oracle.store)(N::of(weight) * y);
            }
        }
        self.store(output)
    }

    /// dh, w·a and dS.
    fn down_backward(&self) -> [Vec<f64>; 3] {
        let ((hidden, inner, _), problem) = (self.sizes(), &self.given.problem);
        let zero = N::of(0.0);
        let (mut h_grad, mut weighted) = (vec![zero; self.given.h.len()], Vec::new());
        let mut weights_grad = vec![0.0; self.given.assignments];
        for (row, &(assignment, token, expert, weight)) in self.given.rows.iter().enumerate() {
            let output_grad = &problem.output_grad[token * hidden..(token + 1) * hidden];
            let h = &self.given.h[row * 2 * inner..(row + 1) * 2 * inner];
            let mut sum = zero;
            for j in 0..inner {
                let down = (0..hidden).map(|i| &problem.down[(expert * hidden + i) * inner + j]);
                let a_grad = Self::dot(output_grad, down);
                let [a, gate, up] = self.oracle.activation(N::of(h[j]), N::of(h[inner + j]));
                let a = (self.oracle.store)(a);
                sum += a_grad * a;
                let (a, d) = match weight == 0.0 {
                    true => (zero, zero),
                    false => (N::of(weight) * a, N::of(weight) * a_grad),
                };
                weighted.push(a);
                h_grad[row * 2 * inner + j] = d * gate;
                h_grad[row * 2 * inner + inner + j] = d * up;
            }
            if !problem.down_bias.is_empty() {
                sum += Self::dot(
                    output_grad,
                    &problem.down_bias[expert * hidden..(expert + 1) * hidden],
                );
            }
            weights_grad[assignment] = sum.f64();
        }
        [self.store(h_grad), self.store(weighted), weights_grad]
    }

    /// Σ left ⊗ right over the rows of each expert.
    fn weight_grad(
        &self,
        (rows, columns): (usize, usize),
        accumulates: bool,
        left: impl Fn(usize, usize) -> f64,
        right: impl Fn(usize, usize) -> f64,
    ) -> Vec<f64> {
        let (_, _, experts) = self.sizes();
        let mut grad = vec![N::of(0.0); experts * rows * columns];
        for (row, &(_, _, expert, _)) in self.given.rows.iter().enumerate() {
            for i in 0..rows {
                for j in 0..columns {
                    let at = (expert * rows + i) * columns + j;
                    grad[at] += N::of(left(row, i)) * N::of(right(row, j));
                }
            }
        }
        match accumulates {
            true => grad
                .into_iter()
                .map(|v| (v + N::of(BEFORE)).f64())
                .collect(),
            false => self.store(grad),
        }
    }

    fn token_of(&self, row: usize) -> usize {
        self.given.rows[row].1
    }

    fn down_weight_grad(&self, accumulates: bool) -> Vec<f64> {
        let (hidden, inner, _) = self.sizes();
        let output_grad =
            |row: usize, i: usize| self.given.problem.output_grad[self.token_of(row) * hidden + i];
        let a = |row: usize, j: usize| self.given.a[row * inner + j];
        self.weight_grad((hidden, inner), accumulates, output_grad, a)
    }

    fn up_weight_grad(&self, accumulates: bool) -> Vec<f64> {
        let (hidden, inner, _) = self.sizes();
        let h_grad = |row: usize, j: usize| self.given.h[row * 2 * inner + j];
        let x = |row: usize, i: usize| self.given.problem.x[self.token_of(row) * hidden + i];
        self.weight_grad((2 * inner, hidden), accumulates, h_grad, x)
    }

    /// Of gate and up, and of down.
    fn bias_grad(&self, accumulates: bool) -> [Vec<f64>; 2] {
        let (hidden, inner, _) = self.sizes();
        let h_grad = |row: usize, j: usize| self.given.h[row * 2 * inner + j];
        let weight = |row: usize, _: usize| self.given.rows[row].3;
        let output_grad =
            |row: usize, i: usize| self.given.problem.output_grad[self.token_of(row) * hidden + i];
        [
            self.weight_grad((2 * inner, 1), accumulates, h_grad, |_, _| 1.0),
            self.weight_grad((1, hidden), accumulates, weight, output_grad),
        ]
    }

    fn input_grad(&self) -> Vec<f64> {
        let ((hidden, inner, experts), problem) = (self.sizes(), &self.given.problem);
        let mut x_grad = vec![N::of(0.0); problem.x.len()];
        let mut rows: Vec<usize> = (0..self.given.rows.len()).collect();
        rows.sort_by_key(|&row| self.given.rows[row].0);
        for row in rows {
            let (_, token, expert, _) = self.given.rows[row];
            let h_grad = &self.given.h[row * 2 * inner..(row + 1) * 2 * inner];
            for i in 0..hidden {
                let weight =
                    (0..2 * inner).map(|j| &problem.gate_up[(expert * 2 * inner + j) * hidden + i]);
                x_grad[token * hidden + i] += (self.oracle.store)(Self::dot(h_grad, weight));
            }
        }
        for (place, sum) in x_grad.iter_mut().enumerate() {
            let (token, i) = (place / hidden, place % hidden);
            for e in 0..experts {
                *sum += N::of(self.given.dz[token * experts + e])
                    * N::of(problem.router[e * hidden + i]);
            }
        }
        self.store(x_grad)
    }
}

/// What a gradient that is added to holds before.
const BEFORE: f64 = 0.75;

/// Where a weight gradient goes: garbage of its type, or a sum.
enum Grad<B: TestBackend, T: Element> {
    Own(Tensor<B, T>),
    Sum(Tensor<B, T::Acc>),
}

impl<B: TestBackend, T: Element> Grad<B, T> {
    fn new(backend: &B, len: usize, accumulates: bool) -> Self {
        match accumulates {
            true => Self::Sum(Tensor::from_f64(backend, &vec![BEFORE; len])),
            false => Self::Own(Tensor::garbage(backend, len)),
        }
    }

    fn view(&mut self) -> millet::WeightGradOf<'_, B, T> {
        match self {
            Self::Own(own) => WeightGrad::Overwrite(own.view_mut()),
            Self::Sum(sum) => WeightGrad::Accumulate(sum.view_mut()),
        }
    }

    fn read(&self, backend: &B) -> Vec<f64> {
        match self {
            Self::Own(own) => own.to_f64(backend),
            Self::Sum(sum) => sum.to_f64(backend),
        }
    }
}

fn check<B: TestBackend, T: Element<Acc = f32>, W: Element<Acc = f32>>(
    case: &Case,
) -> TestCaseResult {
    let (config, tokens) = (&case.layer.config, case.layer.tokens);
    let (inner, experts, top_k) = (
        config.intermediate_size(),
        config.num_experts(),
        config.top_k(),
    );
    let backend = &B::create();
    let mut rng = Rng::new(case.layer.seed ^ 3);
    let ids = case.routing.ids(tokens, experts, top_k, &mut rng);
    let mut values = |n: usize, zeros: f64| -> Vec<f64> {
        let all = (0..n).map(|_| {
            if rng.uniform() < zeros {
                0.0
            } else {
                rng.normal()
            }
        });
        all.collect()
    };
    let weights = values(ids.len(), 0.1)
        .iter()
        .map(|w| w.abs())
        .collect::<Vec<_>>();
    let weights = widen(&narrow::<f32>(&weights));
    let (plan, weights) = dispatch::<B, f32>(backend, config, &ids, &weights);
    let host = HostPlan::read(backend, &plan);
    let (rows, kept) = (config.max_rows(tokens), host.offsets[experts] as usize);
    let mut stored_values = |n: usize| widen(&narrow::<T>(&values(n, 0.0)));
    let given = &Given {
        h: stored_values(kept * 2 * inner),
        a: stored_values(kept * inner),
        dz: widen(&narrow::<f32>(&values(tokens * experts, 0.3))),
        problem: layer::problem(&case.layer).rounded::<T, W>(),
        rows: (host.row_to_assignment[..kept].iter())
            .map(|&a| {
                (
                    a as usize,
                    a as usize / top_k,
                    ids[a as usize] as usize,
                    weights[a as usize],
                )
            })
            .collect(),
        assignments: ids.len(),
    };
    let exact = Plain {
        oracle: Oracle::exact(config),
        given,
    };
    let same = Plain {
        oracle: Oracle {
            config,
            store: stored::<T>,
            store_router: stored::<W>,
        },
        given,
    };

    let problem = &given.problem;
    let tensor = |values: &[f64]| Tensor::<B, T>::from_f64(backend, values);
    // What is beyond the rows is not to be read.
    let with_rest = |values: &[f64], columns: usize| {
        let mut all = values.to_vec();
        all.resize(rows * columns, f64::NAN);
        tensor(&all)
    };
    let (x, output_grad) = (tensor(&problem.x), tensor(&problem.output_grad));
    let (gate_up, down) = (tensor(&problem.gate_up), tensor(&problem.down));
    let biases = problem.expert_biases::<B, T>(backend);
    let weights = Tensor::<B, f32>::from_f64(backend, &weights);
    let mut scratch = scratch::<B, T>(backend, config, tokens);
    let near = |got: &[f64], exact: &[f64], same: &[f64], what: &str| {
        assert_near(&got[..exact.len()], exact, same, what);
    };

    let mut h = Tensor::<B, T>::garbage(backend, rows * 2 * inner);
    let mut a = Tensor::<B, T>::garbage(backend, rows * inner);
    let up = ExpertsUp::<B, T> {
        plan: &plan,
        x: x.view(),
        gate_up: gate_up.view(),
        bias: biases.as_ref().map(|[gate_up, _]| gate_up.view()),
        h: case.stores_h.then(|| h.view_mut()),
        a: a.view_mut(),
        scratch: scratch.view_mut(),
    };
    backend.experts_up(up).unwrap();
    let ([exact_h, exact_a], [same_h, same_a]) = (exact.up(), same.up());
    if case.stores_h {
        near(&h.to_f64(backend), &exact_h, &same_h, "h");
    }
    near(&a.to_f64(backend), &exact_a, &same_a, "a");

    let a = with_rest(&given.a, inner);
    let mut output = Tensor::<B, T>::garbage(backend, problem.x.len());
    let arguments = ExpertsDown::<B, T> {
        plan: &plan,
        a: a.view(),
        down: down.view(),
        bias: biases.as_ref().map(|[_, down]| down.view()),
        weights: weights.view(),
        output: output.view_mut(),
        scratch: scratch.view_mut(),
    };
    backend.experts_down(arguments).unwrap();
    near(
        &output.to_f64(backend),
        &exact.down(),
        &same.down(),
        "output",
    );

    let mut h = with_rest(&given.h, 2 * inner);
    let mut weighted_a = Tensor::<B, T>::garbage(backend, rows * inner);
    let mut weights_grad = Tensor::<B, f32>::garbage(backend, ids.len());
    let arguments = ExpertsDownBackward::<B, T> {
        plan: &plan,
        output_grad: output_grad.view(),
        down: down.view(),
        bias: biases.as_ref().map(|[_, down]| down.view()),
        weights: weights.view(),
        h: h.view_mut(),
        weighted_a: weighted_a.view_mut(),
        weights_grad: weights_grad.view_mut(),
        scratch: scratch.view_mut(),
    };
    backend.experts_down_backward(arguments).unwrap();
    let got = [
        h.to_f64(backend),
        weighted_a.to_f64(backend),
        weights_grad.to_f64(backend),
    ];
    let all = got
        .iter()
        .zip(exact.down_backward())
        .zip(same.down_backward());
    for (((got, exact), same), what) in all.zip(["dh", "w·a", "dS"]) {
        near(got, &exact, &same, what);
    }

    let mut grad = Grad::new(backend, problem.down.len(), case.accumulates);
    let arguments = ExpertsDownWeightGrad::<B, T> {
        plan: &plan,
        output_grad: output_grad.view(),
        weighted_a: a.view(),
        grad: grad.view(),
        scratch: scratch.view_mut(),
    };
    backend.experts_down_weight_grad(arguments).unwrap();
    let [exact_grad, same_grad] = [
        exact.down_weight_grad(case.accumulates),
        same.down_weight_grad(case.accumulates),
    ];
    near(&grad.read(backend), &exact_grad, &same_grad, "d_down");

    let h_grad = with_rest(&given.h, 2 * inner);
    let mut grad = Grad::new(backend, problem.gate_up.len(), case.accumulates);
    let arguments = ExpertsUpWeightGrad::<B, T> {
        plan: &plan,
        x: x.view(),
        h_grad: h_grad.view(),
        grad: grad.view(),
        scratch: scratch.view_mut(),
    };
    backend.experts_up_weight_grad(arguments).unwrap();
    let [exact_grad, same_grad] = [
        exact.up_weight_grad(case.accumulates),
        same.up_weight_grad(case.accumulates),
    ];
    near(&grad.read(backend), &exact_grad, &same_grad, "d_gate_up");

    if config.expert_bias() != ExpertBias::None {
        let lengths = [problem.gate_up_bias.len(), problem.down_bias.len()];
        let [mut of_gate_up, mut of_down] =
            lengths.map(|len| Grad::new(backend, len, case.accumulates));
        let arguments = ExpertsBiasGrad::<B, T> {
            plan: &plan,
            h_grad: h_grad.view(),
            output_grad: output_grad.view(),
            weights: weights.view(),
            gate_up: of_gate_up.view(),
            down: of_down.view(),
        };
        backend.experts_bias_grad(arguments).unwrap();
        let [exact, same] = [
            exact.bias_grad(case.accumulates),
            same.bias_grad(case.accumulates),
        ];
        near(
            &of_gate_up.read(backend),
            &exact[0],
            &same[0],
            "gate_up bias gradient",
        );
        near(
            &of_down.read(backend),
            &exact[1],
            &same[1],
            "down bias gradient",
        );
    }

    let dz = Tensor::<B, f32>::from_f64(backend, &given.dz);
    let router = Tensor::<B, W>::from_f64(backend, &problem.router);
    let mut x_grad = Tensor::<B, T>::garbage(backend, problem.x.len());
    let arguments = ExpertsInputGrad::<B, T, W> {
        plan: &plan,
        h_grad: h_grad.view(),
        gate_up: gate_up.view(),
        router: RouterPart {
            logits_grad: dz.view(),
            weight: router.view(),
        },
        x_grad: x_grad.view_mut(),
        scratch: scratch.view_mut(),
    };
    backend.experts_input_grad(arguments).unwrap();
    near(
        &x_grad.to_f64(backend),
        &exact.input_grad(),
        &same.input_grad(),
        "dX",
    );
    Ok(())
}
