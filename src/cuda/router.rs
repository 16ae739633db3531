//! STUB
use super::{Cuda, View};
#[allow(unused_imports)]
use crate::backend::{
    DispatchOutput, RouterInput, RouterOutput, RouterPart, RouterSaved, RowMap, WeightGrad,
};
use crate::config::MoeConfig;
#[allow(unused_imports)]
use crate::element::{Element, Real};
use crate::error::{Error, Result};
use cudarc::driver::CudaViewMut;
pub(super) const KERNELS: &[&str] = &[];
fn missing(operation: &'static str) -> Result<()> {
    Err(Error::Unsupported {
        operation,
        reason: "not yet".into(),
    })
}
#[allow(dead_code)]
pub(super) fn scratch_elements<A>(_config: &MoeConfig, _tokens: usize) -> usize {
    0
}

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<T: Element, W: Element<Acc = T::Acc>>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _input: RouterInput<'_, '_, Cuda, T, W>,
    _output: RouterOutput<'_, Cuda, T::Acc>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("router forward")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<T: Element, W: Element<Acc = T::Acc>>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _input: RouterInput<'_, '_, Cuda, T, W>,
    _saved: RouterSaved<'_, Cuda, T::Acc>,
    _weights_grad: View<'_, T::Acc>,
    _loss_gradient: f64,
    _logits_grad: CudaViewMut<'_, T::Acc>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("router backward")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn weight_grad<T: Element, W: Element<Acc = T::Acc>>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _logits_grad: View<'_, T::Acc>,
    _x: View<'_, T>,
    _grad: WeightGrad<'_, Cuda, W>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("router weight grad")
}
#[allow(clippy::too_many_arguments)]
pub(super) fn input_grad<T: Element, W: Element<Acc = T::Acc>>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _rows_grad: View<'_, T>,
    _map: RowMap<'_, Cuda>,
    _router: RouterPart<'_, '_, Cuda, W>,
    _x_grad: CudaViewMut<'_, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("permute backward")
}
