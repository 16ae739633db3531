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
pub(super) fn forward<T: Element>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _x: View<'_, T>,
    _map: RowMap<'_, Cuda>,
    _rows: CudaViewMut<'_, T>,
) -> Result<()> {
    missing("permute")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<T: Element, W: Element<Acc = T::Acc>>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _rows_grad: View<'_, T>,
    _map: RowMap<'_, Cuda>,
    _router: Option<RouterPart<'_, '_, Cuda, W>>,
    _x_grad: CudaViewMut<'_, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("permute backward")
}
