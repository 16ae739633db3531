//! What tests and benches of [`millet`]'s backends share.
//!
//! | module | |
//! |---|---|
//! | [`conformance`](mod@conformance) | the tests that every backend must pass |
//! | [`mod@fuzz`] | random cases of layers and operations, and the check of each |
//! | [`generate`] | inputs: reproducible, and of every kind that has gone wrong somewhere |
//! | [`oracle`] | the layer once more, in plain loops that share nothing with millet; in f64 it is what is right |
//! | [`harness`] | runs a backend on host tensors |
//! | [`tolerance`] | how far results may be from what is right |
//! | [`cases`] | layers to measure, by name, each with its source; their inputs |
//! | [`counters`] | what the CUDA emulator counted for a launch |
//! | [`allocator`] | an allocator that counts |
//!
//! A backend implements [`TestBackend`](harness::TestBackend); [`conformance_tests!`] then makes a `#[test]` of each test. It can also be
//! run on any layer and held against the oracle:
//!
//! ```
//! use millet::{Cpu, Keep};
//! use millet_testing::generate;
//! use millet_testing::harness::{self, Problem};
//! use millet_testing::oracle::Oracle;
//! use millet_testing::tolerance::assert_right;
//!
//! // H, I, E and K, and then the number of tokens.
//! let config = generate::base(16, 8, 6, 2).build()?;
//! let problem = Problem::random(&config, 20, 1);
//! let got = harness::run::<Cpu, f64, f64>(&config, &problem, Keep::Hidden, 1.0);
//! let right = Oracle::exact(&config).layer(&problem, 1.0);
//! got.assert_same_routing(&right, "one small layer");
//! for ((name, got), (_, right)) in got.floats().into_iter().zip(right.floats()) {
//!     assert_right::<Cpu>(got, right, Vec::new, 1e-11, name);
//! }
//! # Ok::<(), millet::Error>(())
//! ```
//!
//! # Features
//!
//! `cuda`: `TestBackend` for `millet::Cuda`, which then needs a driver; `cuda-emulator-loader` brings one to machines without a GPU.

#![deny(missing_docs)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod allocator;
pub mod cases;
pub mod conformance;
pub mod counters;
pub mod fuzz;
pub mod generate;
pub mod harness;
pub mod oracle;
pub mod tolerance;

pub use conformance::conformance;
