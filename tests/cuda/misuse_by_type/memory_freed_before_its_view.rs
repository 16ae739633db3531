// E0597
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Cuda, Memory, Permute, PermuteForward, Plan, Result};

pub fn f(
    cuda: &Cuda,
    plan: &Plan<Cuda>,
    buffer: CudaSlice<f32>,
    rows: CudaViewMut<'_, f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let x = Cuda::view(&buffer, 8);
    #[cfg(misuse)]
    let x = {
        let moved = buffer;
        Cuda::view(&moved, 8)
    };
    cuda.permute(PermuteForward { plan, x, rows })
}
