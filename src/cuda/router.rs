//! Router: logits → experts and weights, and back.

use cudarc::driver::CudaViewMut;

use super::launch::{Launch, Pieces};
use super::module::{Typed, typed};
use super::{Cuda, VECTOR, View, sys};
use crate::backend::{
    Logits, RouterInput, RouterOutput, RouterPart, RouterSaved, RowMap, WeightGrad, stats_elements,
};
use crate::check;
use crate::config::{MoeConfig, Renormalize, ScoreFunction, SingleExpert};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::losses::LossFactors;

const FORWARD_128: Typed = typed!("router_forward_128");
const FORWARD_512: Typed = typed!("router_forward_512");
const FORWARD_ANY: Typed = typed!("router_forward_any");
const BACKWARD: Typed = typed!("router_backward");

pub(super) const KERNELS: &[&str] = &[
    FORWARD_128.f32,
    FORWARD_128.bf16,
    FORWARD_128.f16,
    FORWARD_512.f32,
    FORWARD_512.bf16,
    FORWARD_512.f16,
    FORWARD_ANY.f32,
    FORWARD_ANY.bf16,
    FORWARD_ANY.f16,
    BACKWARD.f32,
    BACKWARD.bf16,
    BACKWARD.f16,
];

/// Largest E whose rows are kept in registers.
const REGISTER_EXPERTS: usize = 512;
/// Words of shared memory that rows may take, of the 99 KiB that every device has for a block.
const SHARED_WORDS: usize = 24 * 1024;

/// How the tokens are split, and scratch.
#[derive(Debug, Clone, Copy)]
struct Plan {
    tile_tokens: usize,
    tiles: usize,
    phases: usize,
    tile_stats: usize,
    tile_counts: usize,
    pieces: Pieces,
}

impl Plan {
    fn new(config: &MoeConfig, tokens: usize, tile_tokens: usize) -> Self {
        let tiles = tokens.div_ceil(tile_tokens).max(1);
        let mut pieces = Pieces::default();
        Self {
            tile_tokens,
            tiles,
            phases: pieces.take::<u32>(sys::MILLET_PHASE_WORDS as usize),
            tile_stats: pieces.take::<f32>(tiles.saturating_mul(stats_elements(config))),
            tile_counts: pieces.take::<i32>(tiles.saturating_mul(config.num_experts())),
            pieces,
        }
    }

    /// On logits that are there: as many tiles as the statistics of tiles may take room for, a warp a token.
    fn given(config: &MoeConfig, tokens: usize) -> Self {
        let tile = tokens.div_ceil(sys::MILLET_MAX_TILES as usize);
        Self::new(config, tokens, tile.next_multiple_of(8).max(8))
    }

    /// Blocks of the kernel: device/router_tile.cuh has the same tickets.
    fn blocks(&self, config: &MoeConfig) -> usize {
        let columns = stats_elements(config) + config.num_experts();
        self.tiles + columns.div_ceil(32) + 1
    }
}

/// Shared memory and warps of a block that routes rows: the words that `TileSpace` (device/router_tile.cuh) takes.
#[derive(Debug, Clone, Copy)]
struct Space {
    warps: usize,
    words: usize,
}

impl Space {
    fn forward(config: &MoeConfig) -> Self {
        let experts = config.num_experts();
        let in_registers = experts <= REGISTER_EXPERTS;
        let groups = config.router().groups().map_or(0, |groups| groups.groups);
        let top_k = sys::MILLET_MAX_TOP_K as usize;
        let grouping = match groups {
            0 => 0,
            groups => groups + groups.div_ceil(32) + if in_registers { experts } else { 0 },
        };
        let row = experts.next_multiple_of(32);
        let rows = if in_registers { 0 } else { 3 * row };
        let warp = row + 3 * top_k + 4 + grouping + rows;
        Self::fit(experts, warp)
    }

    /// Three rows a warp: logits, probabilities, what the picked get.
    fn backward(config: &MoeConfig) -> Self {
        Self::fit(0, 3 * config.num_experts())
    }

    fn fit(block: usize, warp: usize) -> Self {
        let mut warps = sys::MILLET_THREADS as usize / 32;
        while warps > 1 && block + warps * warp > SHARED_WORDS {
            warps /= 2;
        }
        Self {
            warps,
            words: block + warps * warp,
        }
    }

    fn threads(&self) -> usize {
        32 * self.warps
    }

    fn bytes(&self) -> usize {
        4 * self.words
    }
}

/// Scratch, in elements of `A`.
pub(super) fn scratch_elements<A>(config: &MoeConfig, tokens: usize) -> usize {
    Plan::given(config, tokens).pieces.elements::<A>()
}

/// The limits of the kernels.
fn check_limits(operation: &'static str, config: &MoeConfig) -> Result<()> {
    let (experts, top_k) = (config.num_experts(), config.top_k());
    for (what, given, limit) in [
        ("experts", experts, sys::MILLET_MAX_EXPERTS as usize),
        ("experts a token", top_k, sys::MILLET_MAX_TOP_K as usize),
    ] {
        if given > limit {
            return Err(Error::Unsupported {
                operation,
                reason: format!(
                    "CUDA routes to at most {limit} {what}, but the configuration has {given}"
                ),
            });
        }
    }
    Ok(())
}

fn router_parameters(config: &MoeConfig) -> sys::MilletRouter {
    let router = config.router();
    let groups = router.groups();
    sys::MilletRouter {
        experts: config.num_experts() as i32,
        top_k: config.top_k() as i32,
        score_function: match router.score_function() {
            ScoreFunction::SoftmaxAfterTopK => sys::MILLET_SOFTMAX_AFTER_TOP_K,
            ScoreFunction::SoftmaxBeforeTopK => sys::MILLET_SOFTMAX_BEFORE_TOP_K,
            ScoreFunction::Sigmoid => sys::MILLET_SIGMOID,
        } as i32,
        straight_through: (router.single_expert() == SingleExpert::StraightThrough).into(),
        renormalized: config
            .capacity()
            .is_some_and(|c| c.renormalization() == Renormalize::AfterDrop)
            .into(),
        groups: groups.map_or(0, |groups| groups.groups) as i32,
        selected_groups: groups.map_or(0, |groups| groups.selected) as i32,
        scaling_factor: router.scaling_factor() as f32,
    }
}

/// See [`Backend::router_forward`](crate::Backend::router_forward).
pub(super) fn forward<T: Element, W: Element<Acc = T::Acc>>(
    cuda: &Cuda,
    config: &MoeConfig,
    tokens: usize,
    input: RouterInput<'_, '_, Cuda, T, W>,
    output: RouterOutput<'_, Cuda, T::Acc>,
    scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    const OPERATION: &str = "router forward";
    check::router_input(OPERATION, config, tokens, &input)?;
    check::router_output(OPERATION, config, tokens, &output)?;
    check_limits(OPERATION, config)?;
    let need = scratch_elements::<T::Acc>(config, tokens);
    check::workspace(OPERATION, scratch.len(), need)?;

    let mut launch = Launch::new(cuda, OPERATION);
    launch.require_f32::<T::Acc>()?;
    let plan = Plan::given(config, tokens);
    let scratch = launch.write("scratch", scratch, VECTOR)?.cast::<u8>();
    let factors = LossFactors::new(config, tokens);
    let mut parameters = sys::MilletRouterForward {
        router: router_parameters(config),
        tokens: tokens as i64,
        tile_tokens: plan.tile_tokens as i32,
        tiles: plan.tiles as i32,
        hidden: config.hidden_size() as i32,
        aligned: 0,
        logits: std::ptr::null(),
        x: std::ptr::null(),
        weight: std::ptr::null(),
        selection_bias: std::ptr::null(),
        ids: launch.write("ids", output.ids, 4)?,
        weights: launch.write("weights", output.weights, 4)?.cast(),
        lse: launch.write("lse", output.lse, 4)?.cast(),
        counts: launch.write("counts", output.counts, 4)?,
        stats: launch.write("stats", output.stats, 4)?.cast(),
        logits_out: std::ptr::null_mut(),
        aux_factor: factors.aux,
        z_factor: factors.z,
        phases: scratch.wrapping_add(plan.phases).cast(),
        tile_stats: scratch.wrapping_add(plan.tile_stats).cast(),
        tile_counts: scratch.wrapping_add(plan.tile_counts).cast(),
    };
    if let Some(bias) = input.selection_bias {
        parameters.selection_bias = launch.read("selection bias", bias, 4)?.cast();
    }
    if let Some(logits) = output.logits {
        parameters.logits_out = launch.write("logits output", logits, 4)?.cast();
    }
    let by_size = match config.num_experts() {
        0..=128 => FORWARD_128,
        129..=REGISTER_EXPERTS => FORWARD_512,
        _ => FORWARD_ANY,
    };
    let kernel = match input.logits {
        Logits::Given(logits) => {
            parameters.logits = launch.read("logits", logits, 4)?.cast();
            by_size.f32
        }
        Logits::GivenNarrow(logits) => {
            parameters.logits = launch.read("logits", logits, size_of::<T>())?.cast();
            launch.kernel::<T>(by_size)?
        }
        Logits::FromTokens { .. } => return missing(OPERATION),
    };
    let space = Space::forward(config);
    let grid = [plan.blocks(config), 1, 1];
    // SAFETY: lengths were checked above, and scratch has the plan's pieces.
    unsafe {
        launch.clear(parameters.phases, 4 * sys::MILLET_PHASE_WORDS as usize)?;
        launch.run(kernel, grid, space.threads(), space.bytes(), &parameters)
    }
}

/// See [`Backend::router_backward`](crate::Backend::router_backward).
#[allow(clippy::too_many_arguments)]
pub(super) fn backward<T: Element, W: Element<Acc = T::Acc>>(
    cuda: &Cuda,
    config: &MoeConfig,
    tokens: usize,
    input: RouterInput<'_, '_, Cuda, T, W>,
    saved: RouterSaved<'_, Cuda, T::Acc>,
    weights_grad: View<'_, T::Acc>,
    loss_gradient: f64,
    logits_grad: CudaViewMut<'_, T::Acc>,
    scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    const OPERATION: &str = "router backward";
    let (given, written) = (weights_grad.len(), logits_grad.len());
    check::router_input(OPERATION, config, tokens, &input)?;
    check::router_saved(OPERATION, config, tokens, &saved, given, written)?;
    check_limits(OPERATION, config)?;
    let need = scratch_elements::<T::Acc>(config, tokens);
    check::workspace(OPERATION, scratch.len(), need)?;

    let mut launch = Launch::new(cuda, OPERATION);
    launch.require_f32::<T::Acc>()?;
    let factors = LossFactors::new(config, tokens);
    let mut parameters = sys::MilletRouterBackward {
        router: router_parameters(config),
        tokens: tokens as i64,
        hidden: config.hidden_size() as i32,
        aligned: 0,
        logits: std::ptr::null(),
        x: std::ptr::null(),
        weight: std::ptr::null(),
        ids: launch.read("ids", saved.ids, 4)?,
        weights: launch.read("weights", saved.weights, 4)?.cast(),
        lse: launch.read("lse", saved.lse, 4)?.cast(),
        counts: launch.read("counts", saved.counts, 4)?,
        weights_grad: launch.read("weights_grad", weights_grad, 4)?.cast(),
        aux: (factors.aux * loss_gradient) as f32,
        z: (2.0 * factors.z * loss_gradient) as f32,
        logits_grad: launch.write("logits_grad", logits_grad, 4)?.cast(),
    };
    let kernel = match input.logits {
        Logits::Given(logits) => {
            parameters.logits = launch.read("logits", logits, 4)?.cast();
            BACKWARD.f32
        }
        Logits::GivenNarrow(logits) => {
            parameters.logits = launch.read("logits", logits, size_of::<T>())?.cast();
            launch.kernel::<T>(BACKWARD)?
        }
        Logits::FromTokens { .. } => return missing(OPERATION),
    };
    let space = Space::backward(config);
    let grid = [tokens.div_ceil(space.warps), 1, 1];
    // SAFETY: lengths were checked above.
    unsafe { launch.run(kernel, grid, space.threads(), space.bytes(), &parameters) }
}

fn missing(operation: &'static str) -> Result<()> {
    Err(Error::Unsupported {
        operation,
        reason: "not yet".into(),
    })
}

/// See [`Backend::router_weight_grad`](crate::Backend::router_weight_grad).
pub(super) fn weight_grad<T: Element, W: Element<Acc = T::Acc>>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _logits_grad: View<'_, T::Acc>,
    _x: View<'_, T>,
    _grad: WeightGrad<'_, Cuda, W>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("router weight gradient")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn input_grad<T: Element, W: Element<Acc = T::Acc>>(
    _cuda: &Cuda,
    _config: &MoeConfig,
    _tokens: usize,
    _rows_grad: View<'_, T>,
    _map: RowMap<'_, Cuda>,
    _router: RouterPart<'_, '_, Cuda, W>,
    _x_grad: CudaViewMut<'_, T>,
    _scratch: CudaViewMut<'_, T::Acc>,
) -> Result<()> {
    missing("permute backward")
}
