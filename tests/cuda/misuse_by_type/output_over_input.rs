// E0502
use millet::cudarc::driver::CudaSlice;
use millet::{Cuda, Memory, Permute, PermuteForward, Plan, Result};

pub fn f(
    cuda: &Cuda,
    plan: &Plan<Cuda>,
    one: &mut CudaSlice<f32>,
    other: &mut CudaSlice<f32>,
) -> Result<()> {
    let x = Cuda::view(one, 8);
    #[cfg(not(misuse))]
    let rows = other.as_view_mut();
    #[cfg(misuse)]
    let rows = one.as_view_mut();
    cuda.permute(PermuteForward { plan, x, rows })
}
