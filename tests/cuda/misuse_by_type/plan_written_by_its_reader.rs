// E0308
use millet::cudarc::driver::CudaViewMut;
use millet::{Cuda, Dispatch, DispatchForward, MoeConfig, Plan, Result};

/// What dispatch made is there to be read, not to be written over.
pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    plan: &mut Plan<Cuda>,
    other: &Plan<Cuda>,
    #[cfg(not(misuse))] weights: CudaViewMut<'_, f32>,
    scratch: CudaViewMut<'_, f32>,
) -> Result<()> {
    let ids = other.map().assignment_to_row;
    #[cfg(misuse)]
    let weights = other.map().assignment_to_row;
    cuda.dispatch(DispatchForward { config, tokens: 1, ids, weights, plan, scratch })
}
