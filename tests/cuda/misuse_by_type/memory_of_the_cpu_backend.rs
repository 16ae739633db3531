// E0308
use millet::cudarc::driver::CudaSlice;
use millet::{Backend, Cpu, Cuda, MoeConfig, Result, RowMap};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    map: RowMap<'_, Cuda>,
    x: &CudaSlice<f32>,
    rows: &mut CudaSlice<f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let x = cuda.read(x.into())?;
    #[cfg(not(misuse))]
    let x = cuda.upload(&x)?;
    #[cfg(misuse)]
    let x = Cpu.upload(&cuda.read(x.into())?)?;
    cuda.permute::<f32>(config, 1, Cuda::view(&x, 8), map, rows.as_view_mut())
}
