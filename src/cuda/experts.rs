//! Experts: grouped SwiGLU products, forward and backward.

use cudarc::driver::CudaViewMut;

use super::{Cuda, View};
use crate::backend::{RouterPart, RowMap, WeightGrad};
use crate::config::MoeConfig;
use crate::element::Element;
use crate::error::{Error, Result};

/// Scratch of the operations of this file, in elements of the accumulation type.
pub(super) fn scratch_elements<T: Element>(_config: &MoeConfig, _tokens: usize) -> usize {
    0
}

fn missing(operation: &'static str) -> Result<()> {
    Err(Error::Unsupported {
        operation,
        reason: "there is no CUDA kernel of the experts' products in this version; use the CPU"
            .into(),
    })
}

#[allow(clippy::too_many_arguments)]
pub(super) fn up<T: Element>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _x: View<'_, T>,
    _gate_up: View<'_, T>,
    _map: RowMap<'_, Cuda>,
    _h: Option<CudaViewMut<'_, T>>,
    _a: CudaViewMut<'_, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("experts up")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn down<T: Element>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _a: View<'_, T>,
    _down: View<'_, T>,
    _weights: View<'_, T::Acc>,
    _map: RowMap<'_, Cuda>,
    _output: CudaViewMut<'_, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("experts down")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn down_backward<T: Element>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _output_grad: View<'_, T>,
    _down: View<'_, T>,
    _weights: View<'_, T::Acc>,
    _map: RowMap<'_, Cuda>,
    _h: CudaViewMut<'_, T>,
    _weighted_a: CudaViewMut<'_, T>,
    _weights_grad: CudaViewMut<'_, T::Acc>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("experts down backward")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn down_weight_grad<T: Element>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _output_grad: View<'_, T>,
    _weighted_a: View<'_, T>,
    _map: RowMap<'_, Cuda>,
    _grad: WeightGrad<'_, Cuda, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("experts down weight grad")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn up_weight_grad<T: Element>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _x: View<'_, T>,
    _h_grad: View<'_, T>,
    _map: RowMap<'_, Cuda>,
    _grad: WeightGrad<'_, Cuda, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("experts up weight grad")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn input_grad<T: Element, W: Element<Acc = T::Acc>>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _h_grad: View<'_, T>,
    _gate_up: View<'_, T>,
    _map: RowMap<'_, Cuda>,
    _router: RouterPart<'_, '_, Cuda, W>,
    _x_grad: CudaViewMut<'_, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("experts input grad")
}
