// E0308
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Backend, Cuda, DispatchOutput, MoeConfig, Result};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    #[cfg(not(misuse))] ids: &CudaSlice<i32>,
    #[cfg(misuse)] ids: &CudaSlice<f32>,
    weights: CudaViewMut<'_, f32>,
    output: DispatchOutput<'_, Cuda>,
    scratch: CudaViewMut<'_, f32>,
) -> Result<()> {
    cuda.dispatch::<f32>(config, 1, Cuda::view(ids, 8), weights, output, scratch)
}
