// E0308
use millet::cudarc::driver::{CudaSlice, CudaViewMut};
use millet::{Cpu, Cuda, MoeLayer, Result, Saved, Weights, Workspace};

pub fn f(
    layer: &MoeLayer<Cuda>,
    weights: Weights<'_, Cuda, f32>,
    x: &CudaSlice<f32>,
    output: CudaViewMut<'_, f32>,
    own: &mut Saved<Cuda, f32>,
    other: &mut Saved<Cpu, f32>,
    workspace: &mut Workspace<Cuda, f32>,
) -> Result<()> {
    #[cfg(not(misuse))]
    let saved = own;
    #[cfg(misuse)]
    let saved = other;
    layer.forward(weights, x.into(), output, saved, workspace)
}
