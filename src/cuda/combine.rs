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
pub(super) fn unpermute<T: Element>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _rows: View<'_, T>,
    _weights: View<'_, T::Acc>,
    _map: RowMap<'_, Cuda>,
    _output: CudaViewMut<'_, T>,
) -> Result<()> {
    missing("unpermute")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn unpermute_backward<T: Element>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _output_grad: View<'_, T>,
    _rows: View<'_, T>,
    _weights: View<'_, T::Acc>,
    _map: RowMap<'_, Cuda>,
    _rows_grad: CudaViewMut<'_, T>,
    _weights_grad: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("unpermute backward")
}
