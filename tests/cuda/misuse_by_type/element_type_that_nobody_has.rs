// E0277
use millet::{Backend, Cuda, Result};

#[cfg(not(misuse))]
type Number = i32;
#[cfg(misuse)]
type Number = &'static str;

pub fn f(cuda: &Cuda, host: &[Number]) -> Result<()> {
    cuda.upload(host).map(drop)
}
