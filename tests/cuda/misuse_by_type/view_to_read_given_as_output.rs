// E0308
use millet::cudarc::driver::CudaSlice;
use millet::{Cuda, Memory, Permute, PermuteForward, Plan, Result};

pub fn f(
    cuda: &Cuda,
    plan: &Plan<Cuda>,
    x: &CudaSlice<f32>,
    rows: &mut CudaSlice<f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let rows = Cuda::view_mut(rows, 8);
    #[cfg(misuse)]
    let rows = Cuda::view(rows, 8);
    cuda.permute(PermuteForward { plan, x: x.into(), rows })
}
