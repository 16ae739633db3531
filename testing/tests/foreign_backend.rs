//! A backend that millet knows nothing of, as another crate would have one: it hands everything to the CPU, and has a fault where it is
//! told to. Conformance lets it pass without one, and finds each.

use std::sync::{Mutex, PoisonError};

use millet::{
    Checked, Cpu, Dispatch, DispatchForward, DispatchInto, Element, Experts, ExpertsBiasGrad,
    ExpertsDown, ExpertsDownBackward, ExpertsDownWeightGrad, ExpertsInputGrad, ExpertsUp,
    ExpertsUpWeightGrad, Memory, MoeConfig, Permute, PermuteBackward, PermuteForward, Plan, Real,
    Result, Router, RouterBackward, RouterForward, RouterPart, RouterWeightGrad, Scalar,
    UnpermuteBackward, UnpermuteForward, WeightGrad,
};
use millet_testing::conformance::{self, conformance};
use millet_testing::harness::TestBackend;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Of equal logits the higher expert comes first.
    TieOrder,
    /// An expert without rows keeps the gradient that it had.
    StaleGradient,
    /// Outputs are too large by 6 of 100,000, which is more than an f32 is off by and less than shows in a bf16.
    Imprecise,
}

/// What [`TestBackend::create`] gives a backend.
static FAULT: Mutex<Fault> = Mutex::new(Fault::None);

struct Foreign {
    fault: Fault,
}

impl TestBackend for Foreign {
    type Exact = f64;
    const LIMITS: (usize, usize) = Cpu::LIMITS;
    const ANY_ROUTER_WEIGHT: bool = Cpu::ANY_ROUTER_WEIGHT;
    const SLOWNESS: u32 = 1;

    fn create() -> Self {
        let fault = *FAULT.lock().unwrap_or_else(PoisonError::into_inner);
        Self { fault }
    }
}

#[test]
fn conformance_finds_each_fault_where_it_is() {
    conformance::<Foreign>();
    let faults = [
        (
            Fault::TieOrder,
            "router::ties_take_the_lowest_index",
            "range::",
        ),
        (
            Fault::StaleGradient,
            "edges::experts_without_rows_get_a_gradient_of_zero",
            "router::",
        ),
        (
            Fault::Imprecise,
            "layer::f32_every_configuration",
            "router::",
        ),
    ];
    for (fault, found, spared) in faults {
        *FAULT.lock().unwrap() = fault;
        let failures = conformance::failures::<Foreign>();
        let names: Vec<&str> = failures.iter().map(|test| test.name).collect();
        assert!(names.contains(&found), "{fault:?}: {names:#?}");
        let is_spared = !names.iter().any(|name| name.starts_with(spared));
        assert!(is_spared, "{fault:?}: {names:#?}");
    }
}

impl Memory for Foreign {
    type Buffer<T: Scalar> = Vec<T>;
    type View<'a, T: Scalar> = &'a [T];
    type ViewMut<'a, T: Scalar> = &'a mut [T];

    fn allocate<T: Scalar>(&self, len: usize) -> Result<Vec<T>> {
        Cpu.allocate(len)
    }

    fn upload<T: Scalar>(&self, host: &[T]) -> Result<Vec<T>> {
        Cpu.upload(host)
    }

    fn view<T: Scalar>(buffer: &Vec<T>, len: usize) -> &[T] {
        &buffer[..len]
    }

    fn view_mut<T: Scalar>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
        &mut buffer[..len]
    }

    fn shorten<'short, 'long: 'short, T: Scalar>(view: &'long [T]) -> &'short [T] {
        view
    }

    fn shorten_mut<'short, 'long: 'short, T: Scalar>(view: &'long mut [T]) -> &'short mut [T] {
        view
    }

    fn len<T: Scalar>(view: &[T]) -> usize {
        view.len()
    }

    fn len_mut<T: Scalar>(view: &&mut [T]) -> usize {
        view.len()
    }

    fn read<T: Scalar>(&self, view: &[T]) -> Result<Vec<T>> {
        Cpu.read(view)
    }

    fn check_place<T: Scalar>(&self, _: &'static str, _: &'static str, _: &[T]) -> Result<()> {
        Ok(())
    }

    fn check_place_mut<T: Scalar>(
        &self,
        _: &'static str,
        _: &'static str,
        _: &&mut [T],
    ) -> Result<()> {
        Ok(())
    }

    fn check_stream<T: Scalar>(&self, _: &'static str, _: &'static str, _: &[T]) -> Result<()> {
        Ok(())
    }

    fn scratch_elements<T: Element>(&self, config: &MoeConfig, tokens: usize) -> usize {
        Cpu.scratch_elements::<T>(config, tokens)
    }
}

/// The same plan for the CPU.
fn of_cpu(plan: &Plan<Foreign>) -> Plan<Cpu> {
    let map = plan.map();
    // SAFETY: dispatch made it.
    unsafe {
        Plan::from_parts(
            &Cpu,
            plan.config().clone(),
            plan.tokens(),
            map.offsets.to_vec(),
            map.row_to_assignment.to_vec(),
            map.assignment_to_row.to_vec(),
            map.row_tiles.to_vec(),
        )
    }
}

/// An operation of the CPU on the same arguments, the plan apart.
macro_rules! on_cpu {
    ($operation:ident($arguments:expr): $type:ident { $($field:ident),+ $(; $router:ident = $converted:expr)? }) => {{
        let $type { plan, $($field,)+ $($router,)? } = $arguments;
        Cpu.$operation($type { plan: &of_cpu(plan), $($field,)+ $($router: $converted,)? })
    }};
}

fn part<'short, 'long: 'short, W: Element>(
    part: RouterPart<'long, Foreign, W>,
) -> RouterPart<'short, Cpu, W> {
    RouterPart {
        logits_grad: part.logits_grad,
        weight: part.weight,
    }
}

impl Router for Foreign {
    fn run_router_forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterForward<'_, Self, T, W>>,
    ) -> Result<()> {
        let arguments = arguments.into_inner();
        let (ids, weights) = (arguments.ids, arguments.weights);
        Cpu.router_forward(RouterForward::<Cpu, T, W> {
            config: arguments.config,
            tokens: arguments.tokens,
            logits: arguments.logits,
            selection_bias: arguments.selection_bias,
            ids: &mut *ids,
            weights: &mut *weights,
            lse: arguments.lse,
            counts: arguments.counts,
            stats: arguments.stats,
            logits_output: arguments.logits_output,
            scratch: arguments.scratch,
        })?;
        if self.fault == Fault::TieOrder {
            let top_k = arguments.config.top_k();
            for (ids, weights) in ids.chunks_mut(top_k).zip(weights.chunks(top_k)) {
                for slot in 1..top_k {
                    if weights[slot - 1] == weights[slot] && ids[slot - 1] < ids[slot] {
                        ids.swap(slot - 1, slot);
                    }
                }
            }
        }
        Ok(())
    }

    fn run_router_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterBackward<'_, Self, T, W>>,
    ) -> Result<()> {
        let arguments = arguments.into_inner();
        Cpu.router_backward(RouterBackward::<Cpu, T, W> {
            config: arguments.config,
            tokens: arguments.tokens,
            logits: arguments.logits,
            ids: arguments.ids,
            weights: arguments.weights,
            lse: arguments.lse,
            counts: arguments.counts,
            weights_grad: arguments.weights_grad,
            loss_gradient: arguments.loss_gradient,
            logits_grad: arguments.logits_grad,
            scratch: arguments.scratch,
        })
    }

    fn run_router_weight_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterWeightGrad<'_, Self, T, W>>,
    ) -> Result<()> {
        let arguments = arguments.into_inner();
        Cpu.router_weight_grad(RouterWeightGrad::<Cpu, T, W> {
            config: arguments.config,
            tokens: arguments.tokens,
            logits_grad: arguments.logits_grad,
            x: arguments.x,
            grad: arguments.grad,
            scratch: arguments.scratch,
        })
    }
}

impl Dispatch for Foreign {
    fn run_dispatch<A: Real>(&self, arguments: Checked<DispatchInto<'_, Self, A>>) -> Result<()> {
        let DispatchInto {
            config,
            tokens,
            ids,
            weights,
            map,
            scratch,
            ..
        } = arguments.into_inner();
        let mut plan = Plan::new(&Cpu, config, tokens)?;
        Cpu.dispatch(DispatchForward {
            config,
            tokens,
            ids,
            weights,
            plan: &mut plan,
            scratch,
        })?;
        let made = plan.map();
        map.offsets.copy_from_slice(made.offsets);
        map.row_to_assignment
            .copy_from_slice(made.row_to_assignment);
        map.assignment_to_row
            .copy_from_slice(made.assignment_to_row);
        map.row_tiles.copy_from_slice(made.row_tiles);
        Ok(())
    }
}

impl Permute for Foreign {
    fn run_permute<T: Element>(
        &self,
        arguments: Checked<PermuteForward<'_, Self, T>>,
    ) -> Result<()> {
        on_cpu!(permute(arguments.into_inner()): PermuteForward { x, rows })
    }

    fn run_permute_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<PermuteBackward<'_, Self, T, W>>,
    ) -> Result<()> {
        on_cpu!(permute_backward(arguments.into_inner()): PermuteBackward {
            rows_grad, x_grad, scratch; router = router.map(part)
        })
    }

    fn run_unpermute<T: Element>(
        &self,
        arguments: Checked<UnpermuteForward<'_, Self, T>>,
    ) -> Result<()> {
        on_cpu!(unpermute(arguments.into_inner()): UnpermuteForward { rows, weights, output })
    }

    fn run_unpermute_backward<T: Element>(
        &self,
        arguments: Checked<UnpermuteBackward<'_, Self, T>>,
    ) -> Result<()> {
        on_cpu!(unpermute_backward(arguments.into_inner()): UnpermuteBackward {
            output_grad, rows, weights, rows_grad, weights_grad
        })
    }
}

impl Experts for Foreign {
    fn run_experts_up<T: Element>(&self, arguments: Checked<ExpertsUp<'_, Self, T>>) -> Result<()> {
        on_cpu!(experts_up(arguments.into_inner()): ExpertsUp { x, gate_up, bias, h, a, scratch })
    }

    fn run_experts_down<T: Element>(
        &self,
        arguments: Checked<ExpertsDown<'_, Self, T>>,
    ) -> Result<()> {
        let arguments = arguments.into_inner();
        let output = arguments.output;
        let arguments = ExpertsDown {
            output: &mut *output,
            ..arguments
        };
        on_cpu!(experts_down(arguments): ExpertsDown { a, down, bias, weights, output, scratch })?;
        if self.fault == Fault::Imprecise {
            for value in output {
                *value = T::narrow(value.widen() * T::Acc::from_f64(1.000_06));
            }
        }
        Ok(())
    }

    fn run_experts_down_backward<T: Element>(
        &self,
        arguments: Checked<ExpertsDownBackward<'_, Self, T>>,
    ) -> Result<()> {
        on_cpu!(experts_down_backward(arguments.into_inner()): ExpertsDownBackward {
            output_grad, down, bias, weights, h, weighted_a, weights_grad, scratch
        })
    }

    fn run_experts_down_weight_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsDownWeightGrad<'_, Self, T>>,
    ) -> Result<()> {
        let mut arguments = arguments.into_inner();
        let WeightGrad::Overwrite(grad) = &mut arguments.grad else {
            return on_cpu!(experts_down_weight_grad(arguments): ExpertsDownWeightGrad {
                output_grad, weighted_a, grad, scratch
            });
        };
        let offsets = arguments.plan.map().offsets.to_vec();
        let before = grad.to_vec();
        on_cpu!(experts_down_weight_grad(ExpertsDownWeightGrad {
            grad: WeightGrad::Overwrite(&mut **grad),
            plan: arguments.plan,
            output_grad: arguments.output_grad,
            weighted_a: arguments.weighted_a,
            scratch: arguments.scratch,
        }): ExpertsDownWeightGrad { output_grad, weighted_a, grad, scratch })?;
        if self.fault == Fault::StaleGradient {
            let own = before.len() / (offsets.len() - 1);
            for (e, rows) in offsets.windows(2).enumerate() {
                if rows[0] == rows[1] {
                    let own = e * own..(e + 1) * own;
                    grad[own.clone()].copy_from_slice(&before[own]);
                }
            }
        }
        Ok(())
    }

    fn run_experts_up_weight_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsUpWeightGrad<'_, Self, T>>,
    ) -> Result<()> {
        on_cpu!(experts_up_weight_grad(arguments.into_inner()): ExpertsUpWeightGrad {
            x, h_grad, grad, scratch
        })
    }

    fn run_experts_bias_grad<T: Element>(
        &self,
        arguments: Checked<ExpertsBiasGrad<'_, Self, T>>,
    ) -> Result<()> {
        on_cpu!(experts_bias_grad(arguments.into_inner()): ExpertsBiasGrad {
            h_grad, output_grad, weights, gate_up, down
        })
    }

    fn run_experts_input_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<ExpertsInputGrad<'_, Self, T, W>>,
    ) -> Result<()> {
        on_cpu!(experts_input_grad(arguments.into_inner()): ExpertsInputGrad {
            h_grad, gate_up, x_grad, scratch; router = part(router)
        })
    }
}
