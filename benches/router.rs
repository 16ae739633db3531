//! The router, forward and backward, from tokens and from given logits, and the gradient of its weight.
//!
//! `cargo bench --bench router`; docs/benchmarks.md has the choices.

mod harness;

use harness::{Device, Family, Operation, Result, Routed, Source};
use millet::{DType, Element};
use millet_testing::cases::Case;

struct Router;

impl Family for Router {
    const NAME: &'static str = "router";
    type Set<B: Device, T: Element<Acc = f32>> = Routed<B, T>;

    fn bytes(case: &Case, element: usize) -> usize {
        Routed::<millet::Cpu, f32>::bytes(case, element)
    }

    fn set<B: Device, T: Element<Acc = f32>>(
        backend: &B,
        case: &Case,
        seed: u64,
    ) -> Result<Routed<B, T>> {
        Routed::new(backend, case, seed)
    }

    fn operations<B: Device, T: Element<Acc = f32>>(
        _case: &Case,
    ) -> Vec<Operation<B, Routed<B, T>>> {
        let mut all = vec![
            Operation::new(
                "forward",
                |set: &Routed<B, T>| set.forward_work(Source::Tokens),
                |backend, set| set.forward(backend, Source::Tokens),
            ),
            Operation::new(
                "forward-logits",
                |set| set.forward_work(Source::Given),
                |backend, set| set.forward(backend, Source::Given),
            ),
            Operation::new(
                "backward",
                |set| set.backward_work(Source::Tokens),
                |backend, set| set.backward(backend, Source::Tokens),
            ),
            Operation::new(
                "backward-logits",
                |set| set.backward_work(Source::Given),
                |backend, set| set.backward(backend, Source::Given),
            ),
            Operation::new("weight-grad", Routed::weight_grad_work, |backend, set| {
                set.weight_grad(backend)
            }),
        ];
        // In f32 they are the same.
        if T::DTYPE != DType::F32 {
            all.push(Operation::new(
                "forward-narrow-logits",
                |set| set.forward_work(Source::GivenNarrow),
                |backend, set| set.forward(backend, Source::GivenNarrow),
            ));
            all.push(Operation::new(
                "backward-narrow-logits",
                |set| set.backward_work(Source::GivenNarrow),
                |backend, set| set.backward(backend, Source::GivenNarrow),
            ));
        }
        all
    }
}

fn main() {
    harness::run::<Router>();
}
