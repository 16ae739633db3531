// E0308
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Backend, Cuda, MoeConfig, Result, RowMap};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    map: RowMap<'_, Cuda>,
    host: &[f32],
    x: &CudaSlice<f32>,
    rows: CudaViewMut<'_, f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let x = Cuda::view(x, host.len());
    #[cfg(misuse)]
    let x = host;
    cuda.permute::<f32>(config, 1, x, map, rows)
}
