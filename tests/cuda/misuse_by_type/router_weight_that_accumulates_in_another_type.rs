// E0271
use millet::half::bf16;
use millet::{Cuda, Result, Router, RouterWeightGrad};

#[cfg(not(misuse))]
type Weight = f32;
#[cfg(misuse)]
type Weight = f64;

pub fn f(cuda: &Cuda, arguments: RouterWeightGrad<'_, Cuda, bf16, Weight>) -> Result<()> {
    #[cfg(not(misuse))]
    return cuda.router_weight_grad(arguments);
    #[cfg(misuse)]
    return Ok(());
}
