//! The reference: every operation on the CPU, in the order the data flows.
//!
//! It defines what is right. Matrix products go through `gemm-f32` and `gemm-f64`; everything else is plain loops in a fixed order,
//! so two runs give the same bits whatever the number of threads.

mod combine;
mod dispatch;
mod experts;
mod losses;
pub(crate) mod parallel;
mod permute;
pub(crate) mod product;
mod router;

use parallel::Disjoint;

use crate::backend::{
    Backend, DispatchOutput, RouterInput, RouterOutput, RouterPart, RouterSaved, RowMap,
    WeightGrad, WeightGradOf,
};
use crate::config::MoeConfig;
use crate::element::{Element, Real, Scalar};
use crate::error::Result;

/// The CPU. Its "device memory" is the host's, its stream is the caller's thread, helped by rayon's global pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Backend for Cpu {
    type Buffer<T: Scalar> = Vec<T>;
    type View<'a, T: Scalar> = &'a [T];
    type ViewMut<'a, T: Scalar> = &'a mut [T];

    fn allocate<T: Scalar>(&self, len: usize) -> Result<Vec<T>> {
        Ok(vec![T::zeroed(); len])
    }

    fn upload<T: Scalar>(&self, host: &[T]) -> Result<Vec<T>> {
        Ok(host.to_vec())
    }

    fn view<T: Scalar>(buffer: &Vec<T>, len: usize) -> &[T] {
        &buffer[..len]
    }

    fn view_mut<T: Scalar>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
        &mut buffer[..len]
    }

    fn len<T: Scalar>(view: &[T]) -> usize {
        view.len()
    }

    fn len_mut<T: Scalar>(view: &&mut [T]) -> usize {
        view.len()
    }

    fn read<T: Scalar>(&self, view: &[T]) -> Result<Vec<T>> {
        Ok(view.to_vec())
    }

    /// All memory is the host's.
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

    /// Work is done when an operation returns.
    fn check_scratch<T: Scalar>(&self, _: &'static str, _: &'static str, _: &[T]) -> Result<()> {
        Ok(())
    }

    /// A pure function of these and of how many threads the current rayon pool has. What was made under one pool serves any
    /// other, on no more threads than it was made for.
    fn scratch_elements<T: Element>(&self, config: &MoeConfig, tokens: usize) -> usize {
        // No operation takes more.
        let tokens = tokens.min(i32::MAX as usize);
        let dispatch = dispatch::scratch_elements::<T::Acc>(config, tokens);
        [
            router::scratch::<T>(config, tokens),
            router::weight_grad_scratch(config),
            permute::scratch(config, tokens),
        ]
        .into_iter()
        .chain(experts::scratch::<T>(config, tokens))
        .map(|scratch| scratch.for_all_threads())
        .fold(dispatch, usize::max)
    }

    fn router_forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        input: RouterInput<'_, '_, Self, T, W>,
        output: RouterOutput<'_, Self, T::Acc>,
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        router::forward(config, tokens, input, output, scratch)
    }

    fn router_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        input: RouterInput<'_, '_, Self, T, W>,
        saved: RouterSaved<'_, Self, T::Acc>,
        weights_grad: &[T::Acc],
        loss_gradient: f64,
        logits_grad: &mut [T::Acc],
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        router::backward(
            config,
            tokens,
            input,
            saved,
            weights_grad,
            loss_gradient,
            logits_grad,
            scratch,
        )
    }

    fn router_weight_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        logits_grad: &[T::Acc],
        x: &[T],
        grad: WeightGradOf<'_, Self, W>,
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        router::weight_grad(config, tokens, logits_grad, x, grad, scratch)
    }

    fn dispatch<A: Real>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        ids: &[i32],
        weights: &mut [A],
        output: DispatchOutput<'_, Self>,
        scratch: &mut [A],
    ) -> Result<()> {
        dispatch::dispatch(config, tokens, ids, weights, output, scratch)
    }

    fn permute<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        x: &[T],
        map: RowMap<'_, Self>,
        rows: &mut [T],
    ) -> Result<()> {
        permute::forward(config, tokens, x, map, rows)
    }

    fn permute_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        rows_grad: &[T],
        map: RowMap<'_, Self>,
        router: Option<RouterPart<'_, '_, Self, W>>,
        x_grad: &mut [T],
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        permute::backward(config, tokens, rows_grad, map, router, x_grad, scratch)
    }

    fn unpermute<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        rows: &[T],
        weights: &[T::Acc],
        map: RowMap<'_, Self>,
        output: &mut [T],
    ) -> Result<()> {
        combine::unpermute(config, tokens, rows, weights, map, output)
    }

    fn unpermute_backward<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        output_grad: &[T],
        rows: &[T],
        weights: &[T::Acc],
        map: RowMap<'_, Self>,
        rows_grad: &mut [T],
        weights_grad: &mut [T::Acc],
    ) -> Result<()> {
        combine::unpermute_backward(
            config,
            tokens,
            output_grad,
            rows,
            weights,
            map,
            rows_grad,
            weights_grad,
        )
    }

    fn experts_up<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        x: &[T],
        gate_up: &[T],
        map: RowMap<'_, Self>,
        h: Option<&mut [T]>,
        a: &mut [T],
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        experts::up(config, tokens, x, gate_up, map, h, a, scratch)
    }

    fn experts_down<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        a: &[T],
        down: &[T],
        weights: &[T::Acc],
        map: RowMap<'_, Self>,
        output: &mut [T],
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        experts::down(config, tokens, a, down, weights, map, output, scratch)
    }

    fn experts_down_backward<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        output_grad: &[T],
        down: &[T],
        weights: &[T::Acc],
        map: RowMap<'_, Self>,
        h: &mut [T],
        weighted_a: &mut [T],
        weights_grad: &mut [T::Acc],
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        experts::down_backward(
            config,
            tokens,
            output_grad,
            down,
            weights,
            map,
            h,
            weighted_a,
            weights_grad,
            scratch,
        )
    }

    fn experts_down_weight_grad<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        output_grad: &[T],
        weighted_a: &[T],
        map: RowMap<'_, Self>,
        grad: WeightGradOf<'_, Self, T>,
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        experts::down_weight_grad(config, tokens, output_grad, weighted_a, map, grad, scratch)
    }

    fn experts_up_weight_grad<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        x: &[T],
        h_grad: &[T],
        map: RowMap<'_, Self>,
        grad: WeightGradOf<'_, Self, T>,
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        experts::up_weight_grad(config, tokens, x, h_grad, map, grad, scratch)
    }

    fn experts_input_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        h_grad: &[T],
        gate_up: &[T],
        map: RowMap<'_, Self>,
        router: RouterPart<'_, '_, Self, W>,
        x_grad: &mut [T],
        scratch: &mut [T::Acc],
    ) -> Result<()> {
        experts::input_grad(
            config, tokens, h_grad, gate_up, map, router, x_grad, scratch,
        )
    }
}

/// A weight gradient whose disjoint parts are stored by different tasks.
enum GradTarget<'a, W: Element> {
    Overwrite(Disjoint<'a, W>),
    Accumulate(Disjoint<'a, W::Acc>),
}

impl<'a, W: Element> GradTarget<'a, W> {
    fn new(grad: WeightGradOf<'a, Cpu, W>) -> Self {
        match grad {
            WeightGrad::Overwrite(slice) => Self::Overwrite(Disjoint::new(slice)),
            WeightGrad::Accumulate(slice) => Self::Accumulate(Disjoint::new(slice)),
        }
    }

    /// Stores `values` at `start`.
    ///
    /// # Safety
    /// Places that tasks store to at the same time must not overlap.
    unsafe fn store(&self, start: usize, values: &[W::Acc]) {
        match self {
            Self::Overwrite(target) => {
                // SAFETY: by this function's contract; the part is gone when the call returns.
                W::narrow_into(values, unsafe { target.part(start, values.len()) });
            }
            Self::Accumulate(target) => {
                // SAFETY: as above.
                let target = unsafe { target.part(start, values.len()) };
                for (target, &value) in target.iter_mut().zip(values) {
                    *target += value;
                }
            }
        }
    }
}
