//! One suite for every backend: each test is generic over the backend, and [`backend_tests!`] makes it a test of each.
//!
//! [`oracle`] computes the whole layer once more, in plain loops that share nothing with the crate; [`generate`] makes the
//! inputs; [`harness`] runs a backend on them.

/// Makes `#[test]`s of functions that are generic over a [`TestBackend`](harness::TestBackend).
macro_rules! backend_tests {
    ($($name:ident),+ $(,)?) => {
        mod cpu {
            $(
                #[test]
                fn $name() {
                    super::$name::<millet::Cpu>();
                }
            )+
        }
    };
}

mod determinism;
mod edges;
mod errors;
mod generate;
mod golden;
mod gradients;
mod harness;

mod invariants;
mod oracle;
mod parity;
mod router;
