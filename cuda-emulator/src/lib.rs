//! The CUDA driver API on the CPU.
//!
//! PTX text → [`ptx`] (parser) → `lower` (typed operations, resolved registers) → `exec` (warps at once) with
//! [`check`] (memory, races, synchronisation) and [`counters`]; `driver` is the `cu*` surface that a program loads as libcuda.

#![deny(missing_docs)]

pub mod check;
pub mod counters;
pub mod device;
mod driver;
pub mod engine;
mod exec;
mod launch;
mod lower;
pub mod memory;
mod numeric;
pub mod options;
pub mod ptx;
mod random;
pub mod report;
mod residency;

pub use driver::module_text;
