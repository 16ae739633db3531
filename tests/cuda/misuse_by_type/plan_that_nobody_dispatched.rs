// E0451
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Cuda, Permute, PermuteForward, Plan, Result};

/// A row of `assignment_to_row` beyond the buffer is where a kernel would write.
pub fn f(
    cuda: &Cuda,
    plan: Plan<Cuda>,
    #[cfg(misuse)] assignment_to_row: CudaSlice<i32>,
    x: &CudaSlice<f32>,
    rows: CudaViewMut<'_, f32>,
) -> Result<()> {
    #[cfg(misuse)]
    let plan = Plan { assignment_to_row, ..plan };
    let plan = &plan;
    cuda.permute(PermuteForward { plan, x: x.into(), rows })
}
