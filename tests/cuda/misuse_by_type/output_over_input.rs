// E0502
use millet::cudarc::driver::CudaSlice;
use millet::{Backend, Cuda, MoeConfig, Result, RowMap};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    map: RowMap<'_, Cuda>,
    one: &mut CudaSlice<f32>,
    other: &mut CudaSlice<f32>,
) -> Result<()> {
    let x = Cuda::view(one, 8);
    #[cfg(not(misuse))]
    let rows = other.as_view_mut();
    #[cfg(misuse)]
    let rows = one.as_view_mut();
    cuda.permute::<f32>(config, 1, x, map, rows)
}
