//! The [conformance](millet_testing::conformance) of every backend, a module each; what is the CPU's alone; configurations; and random
//! cases.

#[cfg(feature = "cuda")]
use cuda_emulator_loader as _;

mod cpu {
    millet_testing::conformance_tests!(millet::Cpu, f64);
}

#[cfg(feature = "cuda")]
mod cuda {
    millet_testing::conformance_tests!(millet::Cuda);
}

mod config;
mod cpu_alone;
mod fuzz;
