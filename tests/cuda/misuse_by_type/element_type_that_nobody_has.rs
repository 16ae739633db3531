// E0277
use millet::{Cuda, Memory, Result};

#[cfg(not(misuse))]
type Number = i32;
#[cfg(misuse)]
type Number = &'static str;

pub fn f(cuda: &Cuda, host: &[Number]) -> Result<()> {
    cuda.upload(host).map(drop)
}
