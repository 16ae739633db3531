//! CUDA kernels for fine-grained Mixture-of-Experts layers, forward and backward, behind a safe Rust API with a CPU
//! reference that defines what is right.
#![deny(missing_docs)]

mod config;
mod cost;
mod error;
pub mod presets;
pub mod scaling_law;

pub use config::{
    AuxScale, Capacity, ConfigError, DropPolicy, GroupLimit, Losses, MoeConfig, MoeConfigBuilder,
    Renormalize, RouterConfig, ScoreFunction, SingleExpert,
};
pub use cost::{Flops, Parameters, SavedBytes};
pub use error::{Error, Result};
