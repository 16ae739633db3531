//! What the tests and the examples share with `cargo xtask`.

#[path = "../../build/nvcc.rs"]
pub mod nvcc;
