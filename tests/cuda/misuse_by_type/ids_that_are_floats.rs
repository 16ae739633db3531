// E0308
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Cuda, Dispatch, DispatchForward, Memory, MoeConfig, Plan, Result};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    #[cfg(not(misuse))] ids: &CudaSlice<i32>,
    #[cfg(misuse)] ids: &CudaSlice<f32>,
    weights: CudaViewMut<'_, f32>,
    plan: &mut Plan<Cuda>,
    scratch: CudaViewMut<'_, f32>,
) -> Result<()> {
    let ids = Cuda::view(ids, 8);
    cuda.dispatch(DispatchForward { config, tokens: 1, ids, weights, plan, scratch })
}
