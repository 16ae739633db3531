//! Permute, unpermute, their backward passes and the router's weight gradient, on any plan, against plain loops.

use millet::Element;
use proptest::test_runner::TestCaseResult;

use super::routing::{Case, Inputs, Run, assert_same_bits, cases};
use super::{Target, stored, with_types};
use crate::generate::{Rng, RoutingKind};
use crate::harness::{HostPlan, TestBackend, dispatch, narrow, widen};
use crate::oracle::Number;
use crate::tolerance::assert_near;

pub(super) fn target<B: TestBackend + 'static>() -> Target {
    Target::new("permute", cases(), |case| {
        with_types!(case.types, check::<B>(case))
    })
}

/// The operations as they are defined, summed in `N` one term after the other.
struct Plain<'a, N> {
    inputs: &'a Inputs,
    hidden: usize,
    /// Of each assignment.
    rows: &'a [i32],
    weights: &'a [f64],
    dz: &'a [f64],
    store: fn(N) -> N,
    store_router: fn(N) -> N,
}

impl<N: Number> Plain<'_, N> {
    /// The rows of a token's assignments that have one, and what each assignment is.
    fn rows_of(&self, token: usize) -> impl Iterator<Item = (usize, usize)> {
        let top_k = self.rows.len() / self.inputs.tokens;
        let own = token * top_k..(token + 1) * top_k;
        own.filter(|&a| self.rows[a] >= 0)
            .map(|a| (self.rows[a] as usize, a))
    }

    /// For each token and column.
    fn tokens(&self, value: impl Fn(usize, usize) -> N) -> Vec<f64> {
        let columns = |t| (0..self.hidden).map(move |i| (t, i));
        let places = (0..self.inputs.tokens).flat_map(columns);
        places
            .map(|(t, i)| (self.store)(value(t, i)).f64())
            .collect()
    }

    fn unpermute(&self, rows: &[f64]) -> Vec<f64> {
        self.tokens(|t, i| {
            let mut sum = N::of(0.0);
            for (row, a) in self.rows_of(t).filter(|&(_, a)| self.weights[a] != 0.0) {
                sum += N::of(self.weights[a]) * N::of(rows[row * self.hidden + i]);
            }
            sum
        })
    }

    /// Gradients of the rows that are there, and of the weights.
    fn unpermute_backward(&self, rows: &[f64], kept: usize) -> [Vec<f64>; 2] {
        let hidden = self.hidden;
        let mut rows_grad = vec![0.0; kept * hidden];
        let mut weights_grad = vec![0.0; self.rows.len()];
        for t in 0..self.inputs.tokens {
            let output_grad = &self.inputs.output_grad[t * hidden..(t + 1) * hidden];
            for (row, a) in self.rows_of(t) {
                let mut sum = N::of(0.0);
                for (i, &d) in output_grad.iter().enumerate() {
                    sum += N::of(d) * N::of(rows[row * hidden + i]);
                    let own = N::of(self.weights[a]) * N::of(d);
                    rows_grad[row * hidden + i] = (self.store)(own).f64();
                }
                weights_grad[a] = sum.f64();
            }
        }
        [rows_grad, weights_grad]
    }

    fn permute_backward(&self, rows_grad: &[f64], has_router_part: bool) -> Vec<f64> {
        let (hidden, router) = (self.hidden, &self.inputs.router);
        let experts = router.len() / hidden;
        self.tokens(|t, i| {
            let mut sum = N::of(0.0);
            for (row, _) in self.rows_of(t) {
                sum += N::of(rows_grad[row * hidden + i]);
            }
            for e in (0..experts).filter(|_| has_router_part) {
                sum += N::of(self.dz[t * experts + e]) * N::of(router[e * hidden + i]);
            }
            sum
        })
    }

    fn weight_grad(&self, accumulates: bool) -> Vec<f64> {
        let hidden = self.hidden;
        let len = self.inputs.router.len();
        let experts = len / hidden;
        let mut grad = vec![0.0; len];
        for (place, grad) in grad.iter_mut().enumerate() {
            let (e, i) = (place / hidden, place % hidden);
            let mut sum = N::of(0.0);
            for t in 0..self.inputs.tokens {
                sum += N::of(self.dz[t * experts + e]) * N::of(self.inputs.x[t * hidden + i]);
            }
            *grad = match accumulates {
                true => (sum + N::of(0.75)).f64(),
                false => (self.store_router)(sum).f64(),
            };
        }
        grad
    }
}

fn check<B: TestBackend, T: Element<Acc = f32>, W: Element<Acc = f32>>(
    case: &Case,
) -> TestCaseResult {
    let config = &case.config;
    let inputs = &Inputs::of::<T, W>(case);
    let (tokens, hidden, experts) = (case.tokens, config.hidden_size(), config.num_experts());
    let own = Run::<B>::new(config, inputs);
    let mut rng = Rng::new(case.seed ^ 2);
    let routing = case.routing.unwrap_or(RoutingKind::Uniform);
    let ids = routing.ids(tokens, experts, config.top_k(), &mut rng);
    let mut in_f32 = |n: usize, zeros: f64| {
        let values = (0..n).map(|_| match rng.uniform() < zeros {
            true => 0.0,
            false => rng.normal(),
        });
        widen(&narrow::<f32>(&values.collect::<Vec<_>>()))
    };
    let weights: Vec<f64> = in_f32(ids.len(), 0.1).iter().map(|w| w.abs()).collect();
    let dz = in_f32(tokens * experts, 0.3);
    let (plan, weights) = dispatch::<B, f32>(&own.backend, config, &ids, &weights);
    let host = HostPlan::read(&own.backend, &plan);
    let kept = host.offsets[experts] as usize;
    // What is beyond the rows is not to be read.
    let mut rows = inputs.rows.clone();
    rows[kept * hidden..].fill(f64::NAN);

    let plain = |store, store_router| Plain::<f32> {
        inputs,
        hidden,
        rows: &host.assignment_to_row,
        weights: &weights,
        dz: &dz,
        store,
        store_router,
    };
    let same = plain(stored::<T>, stored::<W>);
    let exact = Plain::<f64> {
        inputs,
        hidden,
        rows: &host.assignment_to_row,
        weights: &weights,
        dz: &dz,
        store: |v| v,
        store_router: |v| v,
    };

    let permuted = own.permute::<T>(&plan);
    for (row, &a) in host.row_to_assignment[..kept].iter().enumerate() {
        let token = a as usize / config.top_k();
        let [got, want] = [(&permuted, row), (&inputs.x, token)]
            .map(|(v, at)| &v[at * hidden..(at + 1) * hidden]);
        assert_same_bits(got, want, "permute");
    }
    if tokens == 0 {
        return Ok(());
    }
    let got = own.unpermute::<T>(&plan, &rows, &weights);
    assert_near(
        &got,
        &exact.unpermute(&rows),
        &same.unpermute(&rows),
        "unpermute",
    );

    let got = own.unpermute_backward::<T>(&plan, &rows, &weights);
    let (exact_grads, same_grads) = (
        exact.unpermute_backward(&rows, kept),
        same.unpermute_backward(&rows, kept),
    );
    assert_near(
        &got[0][..kept * hidden],
        &exact_grads[0],
        &same_grads[0],
        "dY",
    );
    assert_near(&got[1], &exact_grads[1], &same_grads[1], "dS");
    for (&g, _) in got[1]
        .iter()
        .zip(&host.assignment_to_row)
        .filter(|&(_, &row)| row < 0)
    {
        assert_eq!(
            g.to_bits(),
            0,
            "the gradient of a dropped assignment's weight"
        );
    }

    if inputs.x.iter().all(|v| v.is_finite()) {
        let got = own.weight_grad::<T, W>(&dz, case.accumulates);
        let [exact, same] = [
            exact.weight_grad(case.accumulates),
            same.weight_grad(case.accumulates),
        ];
        assert_near(&got, &exact, &same, "dWr");
    }
    let part = case.has_router_part.then_some(&dz[..]);
    let got = own.permute_backward::<T, W>(&plan, &rows, part);
    let has_part = case.has_router_part;
    let [exact, same] = [
        exact.permute_backward(&rows, has_part),
        same.permute_backward(&rows, has_part),
    ];
    assert_near(&got, &exact, &same, "dX");
    Ok(())
}
