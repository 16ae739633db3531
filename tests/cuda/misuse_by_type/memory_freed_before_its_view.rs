// E0597
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Backend, Cuda, MoeConfig, Result, RowMap};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    map: RowMap<'_, Cuda>,
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
    cuda.permute::<f32>(config, 1, x, map, rows)
}
