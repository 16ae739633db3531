// E0308
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Backend, Cpu, Cuda, MoeConfig, Result, RowMap};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    own: RowMap<'_, Cuda>,
    other: RowMap<'_, Cpu>,
    x: &CudaSlice<f32>,
    rows: CudaViewMut<'_, f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let map = own;
    #[cfg(misuse)]
    let map = other;
    cuda.permute::<f32>(config, 1, x.into(), map, rows)
}
