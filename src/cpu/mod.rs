//! The reference: every operation on the CPU, in the order the data flows.
//!
//! It defines what is right. Matrix products go through `gemm-f32` and `gemm-f64`; everything else is plain loops in a fixed order,
//! so two runs give the same bits whatever the number of threads.

mod activation;
mod combine;
mod dispatch;
mod experts;
mod losses;
pub(crate) mod parallel;
mod permute;
pub(crate) mod product;
mod router;

use parallel::Disjoint;

use crate::config::MoeConfig;
use crate::element::{Element, Scalar};
use crate::error::{Error, Result};
use crate::ops::{Memory, WeightGrad, WeightGradOf};

/// The CPU. Its "device memory" is the host's, its stream is the caller's thread, helped by the current rayon pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

/// Memory for `len` elements, or the error that there is too little.
fn with_room<T>(operation: &'static str, len: usize) -> Result<Vec<T>> {
    let mut buffer = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    let refused = |_| Error::OutOfMemory { operation, bytes };
    buffer.try_reserve_exact(len).map_err(refused)?;
    Ok(buffer)
}

impl Memory for Cpu {
    type Buffer<T: Scalar> = Vec<T>;
    type View<'a, T: Scalar> = &'a [T];
    type ViewMut<'a, T: Scalar> = &'a mut [T];

    fn allocate<T: Scalar>(&self, len: usize) -> Result<Vec<T>> {
        // Asked for first: `vec!` ends the program where it cannot be had.
        drop(with_room::<T>("allocate", len)?);
        Ok(vec![T::zeroed(); len])
    }

    fn upload<T: Scalar>(&self, host: &[T]) -> Result<Vec<T>> {
        let mut buffer = with_room("upload", host.len())?;
        buffer.extend_from_slice(host);
        Ok(buffer)
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
    fn check_stream<T: Scalar>(&self, _: &'static str, _: &'static str, _: &[T]) -> Result<()> {
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
