// E0308
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Cuda, Memory, Permute, PermuteForward, Plan, Result};

pub fn f(
    cuda: &Cuda,
    plan: &Plan<Cuda>,
    host: &[f32],
    x: &CudaSlice<f32>,
    rows: CudaViewMut<'_, f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let x = Cuda::view(x, host.len());
    #[cfg(misuse)]
    let x = host;
    cuda.permute(PermuteForward { plan, x, rows })
}
