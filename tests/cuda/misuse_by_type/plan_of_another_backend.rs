// E0308
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Cpu, Cuda, Permute, PermuteForward, Plan, Result};

pub fn f(
    cuda: &Cuda,
    own: &Plan<Cuda>,
    other: &Plan<Cpu>,
    x: &CudaSlice<f32>,
    rows: CudaViewMut<'_, f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let plan = own;
    #[cfg(misuse)]
    let plan = other;
    cuda.permute(PermuteForward { plan, x: x.into(), rows })
}
