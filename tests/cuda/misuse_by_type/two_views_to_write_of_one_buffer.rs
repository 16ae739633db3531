// E0499
use millet::cudarc::driver::CudaSlice;
use millet::{Cuda, Permute, Plan, Result, UnpermuteBackward};

pub fn f(
    cuda: &Cuda,
    plan: &Plan<Cuda>,
    input: &CudaSlice<f32>,
    one: &mut CudaSlice<f32>,
    other: &mut CudaSlice<f32>,
) -> Result<()> {
    let rows_grad = one.as_view_mut();
    #[cfg(not(misuse))]
    let weights_grad = other.as_view_mut();
    #[cfg(misuse)]
    let weights_grad = one.as_view_mut();
    cuda.unpermute_backward(UnpermuteBackward {
        plan,
        output_grad: input.into(),
        rows: input.into(),
        weights: input.into(),
        rows_grad,
        weights_grad,
    })
}
