// E0308
use millet::cudarc::driver::CudaSlice;
use millet::{Cpu, Cuda, Memory, Permute, PermuteForward, Plan, Result};

pub fn f(
    cuda: &Cuda,
    plan: &Plan<Cuda>,
    x: &CudaSlice<f32>,
    rows: &mut CudaSlice<f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let x = cuda.read(x.into())?;
    #[cfg(not(misuse))]
    let x = cuda.upload(&x)?;
    #[cfg(misuse)]
    let x = Cpu.upload(&cuda.read(x.into())?)?;
    cuda.permute(PermuteForward { plan, x: Cuda::view(&x, 8), rows: rows.as_view_mut() })
}
