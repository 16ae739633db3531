//! Permute: tokens to rows in the order of experts.
//!
//! `cargo bench --bench permute`; docs/benchmarks.md has the choices. Its backward pass is a combine: see combine.rs.

mod harness;

use harness::{Device, Family, Operation, Result, Routed, Work};
use millet::{Element, PermuteForward};
use millet_testing::cases::Case;
use millet_testing::harness::Tensor;

struct Permute;

struct Set<B: Device, T: Element<Acc = f32>> {
    routed: Routed<B, T>,
    /// [max rows, H].
    rows: Tensor<B, T>,
}

impl Family for Permute {
    const NAME: &'static str = "permute";
    type Set<B: Device, T: Element<Acc = f32>> = Set<B, T>;

    fn bytes(case: &Case, element: usize) -> usize {
        let [tokens, hidden, _, _, top_k] = case.sizes();
        Routed::<millet::Cpu, f32>::bytes(case, element) + tokens * top_k * hidden * element
    }

    fn set<B: Device, T: Element<Acc = f32>>(
        backend: &B,
        case: &Case,
        seed: u64,
    ) -> Result<Set<B, T>> {
        let rows = case.config.max_rows(case.tokens);
        Ok(Set {
            routed: Routed::new(backend, case, seed)?,
            rows: Tensor::zeroed(backend, rows * case.config.hidden_size()),
        })
    }

    fn operations<B: Device, T: Element<Acc = f32>>(_case: &Case) -> Vec<Operation<B, Set<B, T>>> {
        vec![Operation::new(
            "forward",
            |set: &Set<B, T>| {
                let size = set.routed.sizes();
                let map = 4.0 * size.assignments;
                Work::new(0.0, size.token_bytes() + size.row_bytes() + map)
            },
            |backend, set| {
                backend.permute(PermuteForward {
                    plan: &set.routed.plan,
                    x: set.routed.inputs.x.view(),
                    rows: set.rows.view_mut(),
                })?;
                Ok(())
            },
        )]
    }
}

fn main() {
    harness::run::<Permute>();
}
