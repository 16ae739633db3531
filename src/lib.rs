//! Fine-grained Mixture-of-Experts layers, forward and backward: router, capacity dropping, permutation and grouped gated experts,
//! deterministic, behind one trait of operations, with a CPU reference that defines what is right.
//!
//! Start with [`MoeConfig`] (what a layer is) and [`MoeLayer`] (forward and backward, written once over a [`Backend`]). The
//! operations can be called by themselves, each with one struct of arguments that says what it computes. [`presets`] has published
//! layers, [`layouts`] brings a checkpoint's expert weights into this crate's order, [`scaling_law`] says which granularity pays.
//!
//! # Operations
//!
//! In the order a token meets them; the files in `src/ops/`, `src/cpu/` and `src/cuda/` have the same names.
//!
//! | operation | forward | backward |
//! |---|---|---|
//! | router | [`router_forward`](Router::router_forward) | [`router_backward`](Router::router_backward), [`router_weight_grad`](Router::router_weight_grad) |
//! | dispatch | [`dispatch`](Dispatch::dispatch) | has no gradient |
//! | up, with the gather and the activation | [`experts_up`](Experts::experts_up) | [`experts_up_weight_grad`](Experts::experts_up_weight_grad), [`experts_input_grad`](Experts::experts_input_grad) |
//! | down, with the combine | [`experts_down`](Experts::experts_down) | [`experts_down_backward`](Experts::experts_down_backward), [`experts_down_weight_grad`](Experts::experts_down_weight_grad) |
//! | biases of both | in up and down | [`experts_bias_grad`](Experts::experts_bias_grad) |
//! | permute, for trainers that move rows themselves | [`permute`](Permute::permute) | [`permute_backward`](Permute::permute_backward) |
//! | unpermute | [`unpermute`](Permute::unpermute) | [`unpermute_backward`](Permute::unpermute_backward) |
//!
//! On [`Cpu`] every operation takes `f32`, [`bf16`](half::bf16), [`f16`](half::f16) and, for checking, `f64` ([`Element`]). With the
//! feature `cuda`, `Cuda` has all of them in `f32`, `bf16` and `f16`, on devices of compute capability 8.0 and later.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | none | the CPU |
//! | `cuda` | the GPU; needs nvcc when building, no CUDA to start |
//!
//! # Layouts
//!
//! Row-major. T tokens, H hidden size, I width of one expert, E experts, K top-k, R routed rows.
//!
//! | tensor | shape | type |
//! |---|---|---|
//! | x, output and their gradients | \[T, H\] | `T: Element` |
//! | router weight | \[E, H\] | `T`, or its accumulation type |
//! | router logits | \[T, E\] | accumulation type: `f32`, or `f64` for `f64` |
//! | gate_up | \[E, 2I, H\], gate rows first, then up rows | `T` |
//! | down | \[E, H, I\] | `T` |
//! | biases of gate_up and down | \[E, 2I\], \[E, H\] | `T` |
//! | ids, weights | \[T, K\], weight descending | `i32`, accumulation type |
//! | offsets | \[E + 1\], exclusive prefix sums of kept rows | `i32` |
//! | row → assignment (t·K + slot) | \[max rows\], by expert, then token; −1 after the last | `i32` |
//! | assignment → row | \[T·K\], −1: dropped | `i32` |
//! | row tiles | \[most, 2\]: expert and first row, −1 after the last; where the backend has them ([`RowTiles`]) | `i32` |
//!
//! Ids below 0 or from E on, given to [`dispatch`](Dispatch::dispatch) by the caller, are sentinels: no row, no capacity, gradient 0.
//! Offsets, maps and tiles are a [`Plan`]'s, which only dispatch fills.
//!
//! # Promises
//!
//! - Two runs on the same inputs and machine give the same bits, forward and backward.
//! - An operation allocates nothing: memory is made once, by [`MoeLayer::saved`] and [`MoeLayer::workspace`].
//! - Nothing needs the host to look at device data between operations.
//! - No safe call reaches memory that it was not given: lengths, places and streams are compared on the host, ids in the kernels. A CUDA
//!   graph accesses the addresses that it captured, whose buffers are the caller's to keep (see `millet::cuda`).
//! - What does not fit is an [`Error`] that names the operation, what was expected and what was given, before anything is written.
#![deny(missing_docs)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod check;
mod config;
mod cost;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod diagnostics;
mod element;
mod error;
mod layer;
pub mod layouts;
mod losses;
mod ops;
pub mod presets;
pub mod scaling_law;

pub use config::{
    Activation, AuxScale, Capacity, ConfigError, DropPolicy, ExpertBias, GroupLimit, Losses,
    MoeConfig, MoeConfigBuilder, Renormalize, RouterConfig, ScoreFunction, SingleExpert,
};
pub use cost::{Flops, Parameters, SavedBytes};
pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
#[cfg(feature = "cuda")]
pub use cudarc;
pub use diagnostics::Diagnostics;
pub use element::{DType, Element, Real, Scalar};
pub use error::{Error, Result};
pub use half;
pub use layer::{
    BackwardInput, ExpertBiasGrads, ExpertBiases, Gradients, Keep, MoeLayer, Routing, Saved,
    Weights, Workspace,
};
pub use ops::{
    Backend, Checked, Dispatch, DispatchForward, DispatchInto, Experts, ExpertsBiasGrad,
    ExpertsDown, ExpertsDownBackward, ExpertsDownWeightGrad, ExpertsInputGrad, ExpertsUp,
    ExpertsUpWeightGrad, Logits, LogitsOf, Memory, Permute, PermuteBackward, PermuteForward, Plan,
    Router, RouterBackward, RouterForward, RouterPart, RouterWeightGrad, RowMap, RowMapMut,
    RowTiles, UnpermuteBackward, UnpermuteForward, WeightGrad, WeightGradOf, stats_elements,
};
