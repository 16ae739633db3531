//! One suite for every backend: each test is generic over the backend, and [`backend_tests!`] makes it a test of each.
//!
//! [`oracle`] computes the whole layer once more, in plain loops that share nothing with the crate; [`generate`] makes the
//! inputs; [`harness`] runs a backend on them. All three are of the package `millet-testing`.

#[cfg(feature = "cuda")]
use cuda_emulator_loader as _;
use millet_testing::{generate, harness, oracle};

/// `#[test]`s of generic functions of the module outside, on one backend.
macro_rules! tests_of {
    ($backend:ty, $($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                super::$name::<$backend>();
            }
        )+
    };
}

/// Makes `#[test]`s, for each backend, of functions that are generic over a [`TestBackend`](harness::TestBackend).
macro_rules! backend_tests {
    ($($name:ident),+ $(,)?) => {
        mod cpu {
            tests_of!(millet::Cpu, $($name)+);
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            tests_of!(millet::Cuda, $($name)+);
        }
    };
}

/// The same for tests of the whole layer.
macro_rules! layer_tests {
    ($($name:ident),+ $(,)?) => {
        mod layer_cpu {
            tests_of!(millet::Cpu, $($name)+);
        }
        #[cfg(feature = "cuda")]
        mod layer_cuda {
            tests_of!(millet::Cuda, $($name)+);
        }
    };
}

/// The same for what is the CPU's alone: threads, and what can only be seen in f64, as finite differences.
macro_rules! cpu_tests {
    ($($name:ident),+ $(,)?) => {
        mod cpu_only {
            tests_of!(millet::Cpu, $($name)+);
        }
    };
}

mod determinism;
mod edges;
mod errors;
#[cfg(feature = "cuda")]
mod fuzz;
#[cfg(feature = "cuda")]
mod fuzz_layer;
mod golden;
mod gradients;
mod invariants;
mod nonfinite;
mod parity;
mod range;
mod router;
