// E0499
use millet::cudarc::driver::CudaSlice;
use millet::{Backend, Cuda, MoeConfig, Result, RowMap};

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    map: RowMap<'_, Cuda>,
    input: &CudaSlice<f32>,
    one: &mut CudaSlice<f32>,
    other: &mut CudaSlice<f32>,
) -> Result<()> {
    let rows_grad = one.as_view_mut();
    #[cfg(not(misuse))]
    let weights_grad = other.as_view_mut();
    #[cfg(misuse)]
    let weights_grad = one.as_view_mut();
    cuda.unpermute_backward::<f32>(
        config,
        1,
        input.into(),
        input.into(),
        input.into(),
        map,
        rows_grad,
        weights_grad,
    )
}
