//! The driver as cudarc uses it, apart from running kernels.

use cudarc::driver::CudaContext;
use emulator_loader as _;

#[test]
fn the_emulator_is_the_driver() {
    let context = CudaContext::new(0).unwrap();
    assert!(emulator_loader::is_emulated());
    assert_eq!(context.name().unwrap(), "NVIDIA A100-SXM4-80GB (emulated)");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
}
