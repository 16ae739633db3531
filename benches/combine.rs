//! Combine: unpermute and its backward pass, and permute's backward pass, with and without the router's part of the gradient.
//!
//! `cargo bench --bench combine`; docs/benchmarks.md has the choices.

mod harness;

use harness::{Device, Family, Operation, Result, Routed, Work};
use millet::{Element, PermuteBackward, RouterPart, UnpermuteBackward, UnpermuteForward};
use millet_testing::cases::{Case, values};
use millet_testing::harness::Tensor;

struct Combine;

struct Set<B: Device, T: Element<Acc = f32>> {
    routed: Routed<B, T>,
    /// [max rows, H], what experts put out.
    rows: Tensor<B, T>,
    /// [max rows, H].
    rows_grad: Tensor<B, T>,
    /// [T, K].
    weights_grad: Tensor<B, f32>,
    /// [T, H].
    output: Tensor<B, T>,
    /// [T, H].
    output_grad: Tensor<B, T>,
    scratch: Tensor<B, f32>,
}

impl<B: Device, T: Element<Acc = f32>> Set<B, T> {
    /// Rows of each token, added up.
    fn gather_work(&self) -> Work {
        let size = self.routed.sizes();
        let map = 4.0 * size.assignments;
        Work::new(0.0, size.token_bytes() + size.row_bytes() + map)
    }

    fn permute_backward(&mut self, backend: &B, with_router: bool) -> Result<()> {
        let router: Option<RouterPart<'_, B, T>> = with_router.then(|| self.routed.router_part());
        backend.permute_backward(PermuteBackward {
            plan: &self.routed.plan,
            rows_grad: self.rows.view(),
            router,
            x_grad: self.output.view_mut(),
            scratch: self.scratch.view_mut(),
        })?;
        Ok(())
    }
}

impl Family for Combine {
    const NAME: &'static str = "combine";
    type Set<B: Device, T: Element<Acc = f32>> = Set<B, T>;

    fn bytes(case: &Case, element: usize) -> usize {
        let [tokens, hidden, _, _, top_k] = case.sizes();
        let tensors = (2 * top_k + 2) * tokens * hidden * element;
        Routed::<millet::Cpu, f32>::bytes(case, element) + tensors
    }

    fn set<B: Device, T: Element<Acc = f32>>(
        backend: &B,
        case: &Case,
        seed: u64,
    ) -> Result<Set<B, T>> {
        let routed = Routed::new(backend, case, seed)?;
        let [tokens, hidden, _, _, top_k] = case.sizes();
        let rows = case.config.max_rows(tokens) * hidden;
        let scratch = backend.scratch_elements::<T>(&case.config, tokens);
        let upload = |len, seed| Tensor::new(backend, &values::<T>(len, 1.0, seed));
        Ok(Set {
            routed,
            rows: upload(rows, seed + 10),
            rows_grad: Tensor::zeroed(backend, rows),
            weights_grad: Tensor::zeroed(backend, tokens * top_k),
            output: Tensor::zeroed(backend, tokens * hidden),
            output_grad: upload(tokens * hidden, seed + 11),
            scratch: Tensor::zeroed(backend, scratch),
        })
    }

    fn operations<B: Device, T: Element<Acc = f32>>(_case: &Case) -> Vec<Operation<B, Set<B, T>>> {
        vec![
            Operation::new(
                "unpermute",
                |set: &Set<B, T>| {
                    let weights = 4.0 * set.routed.sizes().assignments;
                    set.gather_work().and_bytes(weights)
                },
                |backend, set| {
                    backend.unpermute(UnpermuteForward {
                        plan: &set.routed.plan,
                        rows: set.rows.view(),
                        weights: set.routed.weights.view(),
                        output: set.output.view_mut(),
                    })?;
                    Ok(())
                },
            ),
            Operation::new(
                "unpermute-backward",
                |set| {
                    let size = set.routed.sizes();
                    let weights = 8.0 * size.assignments;
                    set.gather_work().and_bytes(size.row_bytes() + weights)
                },
                |backend, set| {
                    backend.unpermute_backward(UnpermuteBackward {
                        plan: &set.routed.plan,
                        output_grad: set.output_grad.view(),
                        rows: set.rows.view(),
                        weights: set.routed.weights.view(),
                        rows_grad: set.rows_grad.view_mut(),
                        weights_grad: set.weights_grad.view_mut(),
                    })?;
                    Ok(())
                },
            ),
            Operation::new("permute-backward", Set::gather_work, |backend, set| {
                set.permute_backward(backend, false)
            }),
            Operation::new(
                "permute-backward-with-router",
                |set| {
                    let router = set.routed.sizes().router_part();
                    router.and_bytes(set.gather_work().bytes)
                },
                |backend, set| set.permute_backward(backend, true),
            ),
        ]
    }
}

fn main() {
    harness::run::<Combine>();
}
