//! CUDA kernels for fine-grained Mixture-of-Experts layers, forward and backward, behind a safe Rust API with a CPU
//! reference that defines what is right.
#![deny(missing_docs)]

mod backend;
mod check;
mod config;
mod cost;
mod cpu;
mod diagnostics;
mod element;
mod error;
mod layer;
pub mod presets;
pub mod scaling_law;

pub use backend::{
    Backend, DispatchOutput, Logits, RouterInput, RouterOutput, RouterSaved, RowMap, WeightGrad,
    stats_elements,
};
pub use config::{
    AuxScale, Capacity, ConfigError, DropPolicy, GroupLimit, Losses, MoeConfig, MoeConfigBuilder,
    Renormalize, RouterConfig, ScoreFunction, SingleExpert,
};
pub use cost::{Flops, Parameters, SavedBytes};
pub use cpu::Cpu;
pub use diagnostics::Diagnostics;
pub use element::{Element, Real, Scalar};
pub use error::{Error, Result};
pub use half;
pub use layer::{BackwardInput, Gradients, Keep, MoeLayer, Routing, Saved, Weights, Workspace};
