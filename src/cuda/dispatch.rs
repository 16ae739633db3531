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
pub(super) fn dispatch<A: Real>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _ids: View<'_, i32>,
    _weights: CudaViewMut<'_, A>,
    _output: DispatchOutput<'_, Cuda>,
    _scratch: CudaViewMut<'_, A>,
) -> Result<()> {
    missing("dispatch")
}
