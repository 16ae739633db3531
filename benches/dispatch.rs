//! Dispatch: the sort of assignments by expert, without a limit and with a capacity factor of 1.5.
//!
//! `cargo bench --bench dispatch`; docs/benchmarks.md has the choices.

mod harness;

use harness::{Device, Family, Operation, Result, Routed};
use millet::Element;
use millet_testing::cases::Case;

struct Dispatch;

/// The same tokens, dispatched in two ways.
struct Set<B: Device, T: Element<Acc = f32>> {
    as_configured: Routed<B, T>,
    dropping: Routed<B, T>,
}

impl Family for Dispatch {
    const NAME: &'static str = "dispatch";
    type Set<B: Device, T: Element<Acc = f32>> = Set<B, T>;

    fn bytes(case: &Case, element: usize) -> usize {
        2 * Routed::<millet::Cpu, f32>::bytes(case, element)
    }

    fn set<B: Device, T: Element<Acc = f32>>(
        backend: &B,
        case: &Case,
        seed: u64,
    ) -> Result<Set<B, T>> {
        Ok(Set {
            as_configured: Routed::new(backend, case, seed)?,
            dropping: Routed::new(backend, &case.with_capacity(1.5), seed)?,
        })
    }

    fn operations<B: Device, T: Element<Acc = f32>>(_case: &Case) -> Vec<Operation<B, Set<B, T>>> {
        vec![
            Operation::new(
                "dispatch",
                |set: &Set<B, T>| set.as_configured.dispatch_work(),
                |backend, set| set.as_configured.dispatch(backend),
            ),
            Operation::new(
                "dispatch-capacity-1.5",
                |set| set.dropping.dispatch_work(),
                |backend, set| set.dropping.dispatch(backend),
            ),
        ]
    }
}

fn main() {
    harness::run::<Dispatch>();
}
