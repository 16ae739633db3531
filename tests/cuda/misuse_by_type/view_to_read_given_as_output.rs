// E0308
use millet::cudarc::driver::CudaSlice;
use millet::{Backend, Cuda, MoeConfig, Result, RowMap};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    map: RowMap<'_, Cuda>,
    x: &CudaSlice<f32>,
    rows: &mut CudaSlice<f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let rows = Cuda::view_mut(rows, 8);
    #[cfg(misuse)]
    let rows = Cuda::view(rows, 8);
    cuda.permute::<f32>(config, 1, x.into(), map, rows)
}
