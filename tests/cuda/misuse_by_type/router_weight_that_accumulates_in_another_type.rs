// E0271
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Backend, Cuda, MoeConfig, Result, WeightGrad};

#[cfg(not(misuse))]
type Weight = f32;
#[cfg(misuse)]
type Weight = f64;

pub fn f(
    cuda: &Cuda,
    config: &MoeConfig,
    logits_grad: &CudaSlice<f32>,
    x: &CudaSlice<millet::half::bf16>,
    grad: CudaViewMut<'_, Weight>,
    scratch: CudaViewMut<'_, f32>,
) -> Result<()> {
    let grad = WeightGrad::Overwrite(grad);
    let (logits_grad, x) = (logits_grad.into(), x.into());
    cuda.router_weight_grad::<_, Weight>(config, 1, logits_grad, x, grad, scratch)
}
