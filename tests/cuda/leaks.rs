//! A backend gives back what it took.

use millet::Cuda;
use millet::cudarc::driver::{CudaContext, result};

use crate::alone;
use crate::pipeline::{Pipeline, Source, config};

#[test]
fn a_backend_leaves_nothing_behind() {
    // Findings, leaks among them, are asserted when this is dropped, last.
    let _alone = alone();
    for _ in 0..2 {
        let cuda = Cuda::device(0).unwrap();
        // Kernels are shared by the backends of a context.
        let other = Cuda::new(&cuda.stream().fork().unwrap()).unwrap();
        for cuda in [&cuda, &other] {
            let mut pipeline = Pipeline::<f32>::new(cuda, &config(8, 6, 2), 9, Source::Given);
            pipeline.fill(1);
            pipeline.submit().unwrap();
            pipeline.results();
        }
        drop((cuda.clone(), cuda));
        other.stream().synchronize().unwrap();
    }
}

/// The test above would see it.
#[test]
fn a_leak_is_found() {
    let _alone = alone();
    if !cuda_emulator_loader::is_emulated() {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    // SAFETY: nobody uses it, or frees it.
    unsafe { result::malloc_sync(64) }.unwrap();
    drop(context);
    let findings = cuda_emulator_loader::findings().unwrap();
    assert!(
        findings.len() == 1 && findings[0].contains("\"leak\""),
        "{findings:?}"
    );
    cuda_emulator_loader::clear();
}
