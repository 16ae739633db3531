//! Router: logits → experts and weights, and back.
//!
//! From tokens, logits and routing are one launch for up to 512 experts, two for more; from logits, one.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::CudaViewMut;

use super::catalogue::{self, ALL_EXPERTS, Kernel, Operation, Tile};
use super::launch::{Launch, Pieces};
use super::{Cuda, VECTOR, View, alignment, at_most, is_vectors, sys};
use crate::check;
use crate::config::{MoeConfig, Renormalize, ScoreFunction, SingleExpert};
use crate::element::{DType, Element};
use crate::error::Result;
use crate::losses::LossFactors;
use crate::ops::{
    self, Checked, Logits, LogitsOf, Router, RouterBackward, RouterForward, RouterPart,
    RouterWeightGrad, WeightGrad, stats_elements,
};

const THREADS: usize = sys::MILLET_THREADS as usize;
/// Largest E whose rows are kept in registers.
const REGISTER_EXPERTS: usize = 512;
/// Bytes of shared memory that a kernel here has of its own, at most.
const OWN_SHARED: usize = 4352;
/// Words of shared memory that rows may take, of the 99 KiB that every device has for a block.
const SHARED_WORDS: usize = ((99 << 10) - OWN_SHARED) / 4;

/// How the tokens are split, and scratch.
#[derive(Debug, Clone, Copy)]
struct Split {
    tile_tokens: usize,
    tiles: usize,
    phases: usize,
    tile_stats: usize,
    tile_counts: usize,
    /// Where logits go that are too many to be routed where they are made.
    logits: usize,
    pieces: Pieces,
}

impl Split {
    /// Scratch has room for `room` tiles, which must not shrink with more tokens.
    fn new(
        config: &MoeConfig,
        tokens: usize,
        tile_tokens: usize,
        room: usize,
        logits: usize,
    ) -> Self {
        let tiles = tokens.div_ceil(tile_tokens).max(1);
        let room = room.max(tiles);
        let mut pieces = Pieces::default();
        Self {
            tile_tokens,
            tiles,
            phases: pieces.take::<u32>(sys::MILLET_PHASE_WORDS as usize),
            tile_stats: pieces.take::<f32>(room.saturating_mul(stats_elements(config))),
            tile_counts: pieces.take::<i32>(room.saturating_mul(config.num_experts())),
            logits: pieces.take::<f32>(logits),
            pieces,
        }
    }

    /// On given logits, with one warp per token: as many tiles as there may be statistics of tiles.
    fn given(config: &MoeConfig, tokens: usize, shared_limit: usize) -> Self {
        const MOST: usize = sys::MILLET_MAX_TILES as usize;
        let tile = tokens.div_ceil(MOST).next_multiple_of(8).max(8);
        let experts = config.num_experts();
        // Whatever the groups: scratch serves every configuration of the same sizes.
        let logits = match Fused::forward(experts, experts, shared_limit) {
            Some(_) => 0,
            None => tokens.saturating_mul(experts),
        };
        Self::new(config, tokens, tile, tokens.div_ceil(8).min(MOST), logits)
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
    /// Behind a tile of logits, keys take its place.
    fn forward(experts: usize, groups: usize, tile: bool) -> Self {
        let in_registers = experts <= REGISTER_EXPERTS;
        let top_k = sys::MILLET_MAX_TOP_K as usize;
        let grouping = match groups {
            0 => 0,
            groups => {
                let keys = if in_registers && !tile { experts } else { 0 };
                2 * groups + groups.div_ceil(32) + keys
            }
        };
        let row = experts.next_multiple_of(32);
        let rows = if in_registers { 0 } else { 3 * row };
        let warp = row + 3 * top_k + 4 + grouping + rows;
        match tile {
            true => Self {
                warps: THREADS / 32,
                words: experts + THREADS / 32 * warp,
            },
            false => Self::fit(experts, warp),
        }
    }

    /// Three rows per warp: logits, probabilities, gradients of the selected experts.
    fn backward(config: &MoeConfig) -> Self {
        Self::fit(0, 3 * config.num_experts())
    }

    fn fit(block: usize, warp: usize) -> Self {
        let mut warps = THREADS / 32;
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
pub(super) fn scratch_elements<A>(config: &MoeConfig, tokens: usize, shared_limit: usize) -> usize {
    let given = Split::given(config, tokens, shared_limit);
    let fused = Fused::tile(config.num_experts())
        .map_or(given, |tile| Split::new(config, tokens, tile.tokens, 0, 0));
    [
        given.pieces,
        fused.pieces,
        Ranges::new(config, tokens).pieces,
    ]
    .map(|pieces| pieces.elements::<A>())
    .into_iter()
    .max()
    .unwrap_or(0)
}

/// The limits of the kernels.
fn check_limits(operation: &'static str, config: &MoeConfig) -> Result<()> {
    let (experts, top_k) = (config.num_experts(), config.top_k());
    at_most(operation, "experts", experts, sys::MILLET_MAX_EXPERTS)?;
    at_most(operation, "experts per token", top_k, sys::MILLET_MAX_TOP_K)
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

/// Parameters without tensors.
fn forward_parameters(config: &MoeConfig, tokens: usize) -> sys::MilletRouterForward {
    sys::MilletRouterForward {
        router: router_parameters(config),
        tokens: tokens as i64,
        tile_tokens: 0,
        tiles: 0,
        hidden: config.hidden_size() as i32,
        aligned: 0,
        logits: ptr::null(),
        x: ptr::null(),
        weight: ptr::null(),
        selection_bias: ptr::null(),
        ids: ptr::null_mut(),
        weights: ptr::null_mut(),
        lse: ptr::null_mut(),
        counts: ptr::null_mut(),
        stats: ptr::null_mut(),
        logits_out: ptr::null_mut(),
        aux_factor: 0.0,
        z_factor: 0.0,
        phases: ptr::null_mut(),
        tile_stats: ptr::null_mut(),
        tile_counts: ptr::null_mut(),
    }
}

/// The kernels that compute logits and route, by the most experts that they are for.
#[derive(Debug, Clone, Copy)]
struct Fused {
    /// Tokens and experts of a block.
    tokens: usize,
    experts: usize,
    tile: Tile,
}

impl Fused {
    fn tile(experts: usize) -> Option<Self> {
        let tile = catalogue::experts_tile(Operation::RouterTokens, experts)?;
        let Tile::Experts(experts) = tile else {
            return None;
        };
        let tokens = match experts {
            0..=128 => sys::MILLET_ROUTER_TOKENS_128,
            129..=256 => sys::MILLET_ROUTER_TOKENS_256,
            _ => sys::MILLET_ROUTER_TOKENS_512,
        };
        Some(Self {
            tokens: tokens as usize,
            experts,
            tile,
        })
    }

    /// Where the device's blocks have room for it.
    fn forward(experts: usize, groups: usize, shared_limit: usize) -> Option<Self> {
        let space = Space::forward(experts, groups, true);
        Self::tile(experts).filter(|tile| tile.fits(space.bytes(), shared_limit))
    }

    /// As [`forward`](Self::forward).
    fn backward(experts: usize, shared_limit: usize) -> Option<Self> {
        Self::tile(experts).filter(|tile| tile.fits(Self::backward_bytes(experts), shared_limit))
    }

    /// Two rows per warp beside the logits: probabilities, gradients of the selected experts.
    fn backward_bytes(experts: usize) -> usize {
        2 * THREADS / 32 * experts * size_of::<f32>()
    }

    /// Shared memory of its logits.
    fn bytes(&self) -> usize {
        tile_bytes(self.tokens, self.experts)
    }

    fn fits(&self, beside: usize, shared_limit: usize) -> bool {
        self.bytes() + beside + OWN_SHARED <= shared_limit
    }
}

/// Tokens and experts of a block that computes logits alone.
const LOGITS_TILE: [usize; 2] = [
    sys::MILLET_LOGITS_TOKENS as usize,
    sys::MILLET_LOGITS_EXPERTS as usize,
];

/// Shared memory of a tile of logits: `LogitsTile::BYTES` of device/logits.cuh.
fn tile_bytes(tokens: usize, experts: usize) -> usize {
    const STEP_BYTES: usize = sys::MILLET_LOGITS_STEP_BYTES as usize;
    const PAD: usize = sys::MILLET_LOGITS_PAD as usize;
    let stages = match experts {
        0..=128 => sys::MILLET_LOGITS_STAGES_128,
        129..=256 => sys::MILLET_LOGITS_STAGES_256,
        _ => sys::MILLET_LOGITS_STAGES_512,
    };
    let ring = stages as usize * (tokens + experts) * STEP_BYTES;
    ring.max(tokens * (experts + PAD) * size_of::<f32>())
}

/// Where the kernels that route, or go back, get logits from.
enum Source {
    /// They are there, in this type.
    Given(*const c_void, DType),
    /// The kernel multiplies itself.
    Fused(Factors, Fused),
    /// From a launch before, for more experts than can be routed where their logits are made.
    Product(Factors),
}

impl Source {
    fn read<'a, T: Element, W: Element<Acc = T::Acc>>(
        launch: &mut Launch<'a>,
        config: &MoeConfig,
        logits: LogitsOf<'a, Cuda, T, W>,
        fused: Option<Fused>,
    ) -> Result<Self> {
        let (x, weight) = match logits {
            Logits::Given(logits) => {
                let logits = launch.read("logits", logits, 4)?;
                return Ok(Self::Given(logits.cast(), DType::F32));
            }
            Logits::GivenNarrow(logits) => {
                let logits = launch.read("logits", logits, size_of::<T>())?;
                return Ok(Self::Given(logits.cast(), T::DTYPE));
            }
            Logits::FromTokens { x, weight } => (x, weight),
        };
        // By vectors where rows of both allow it.
        let hidden = config.hidden_size();
        let aligned = is_vectors(T::DTYPE, hidden) && is_vectors(W::DTYPE, hidden);
        let weight_alignment = alignment(W::DTYPE, aligned);
        let factors = Factors {
            x: launch.read("x", x, alignment(T::DTYPE, aligned))?.cast(),
            weight: launch
                .read("router weight", weight, weight_alignment)?
                .cast(),
            aligned: aligned.into(),
        };
        Ok(match fused {
            Some(tile) => Self::Fused(factors, tile),
            None => Self::Product(factors),
        })
    }
}

/// x and the router weight, as the kernels take them.
struct Factors {
    x: *const c_void,
    weight: *const c_void,
    aligned: i32,
}

impl Factors {
    /// Stores their product, the logits [T, E].
    ///
    /// # Safety
    /// As [`Launch::run`], for `logits` too.
    unsafe fn launch_logits<T: Element, W: Element>(
        &self,
        launch: &Launch<'_>,
        config: &MoeConfig,
        tokens: usize,
        logits: *mut f32,
    ) -> Result<()> {
        let kernel = launch.router_kernel::<T, W>(Operation::RouterLogits, Tile::Only)?;
        let [rows, columns] = LOGITS_TILE;
        let experts = config.num_experts();
        let grid = [tokens.div_ceil(rows), experts.div_ceil(columns), 1];
        let parameters = sys::MilletRouterForward {
            x: self.x,
            weight: self.weight,
            aligned: self.aligned,
            logits_out: logits,
            ..forward_parameters(config, tokens)
        };
        let shared = tile_bytes(rows, columns);
        // SAFETY: by this function's contract.
        unsafe { launch.run(kernel, grid, THREADS, shared, &parameters) }
    }
}

/// How the tokens of a weight gradient are split, and scratch.
#[derive(Debug, Clone, Copy)]
struct Ranges {
    tokens: usize,
    count: usize,
    phases: usize,
    sums: usize,
    pieces: Pieces,
}

/// A tile of the products with dz (device/mixed_product.cuh): rows, columns, a step of the reduction.
const PRODUCT: [usize; 3] = [
    sys::MILLET_MIXED_ROWS as usize,
    sys::MILLET_MIXED_COLUMNS as usize,
    sys::MILLET_MIXED_STEP as usize,
];
/// Blocks that keep a large device busy, and tokens that make a range worth its sums.
const BUSY_BLOCKS: usize = 256;
const RANGE_TOKENS: usize = 512;

impl Ranges {
    /// A function of the sizes alone, so that the order of the sum is.
    fn new(config: &MoeConfig, tokens: usize) -> Self {
        let (experts, hidden) = (config.num_experts(), config.hidden_size());
        let tiles = Self::tiles(config);
        let most = tokens.div_ceil(RANGE_TOKENS).max(1);
        let room = BUSY_BLOCKS.div_ceil(tiles).min(most);
        let range = tokens
            .div_ceil(room)
            .next_multiple_of(PRODUCT[2])
            .max(PRODUCT[2]);
        let count = tokens.div_ceil(range).max(1);
        let mut pieces = Pieces::default();
        Self {
            tokens: range,
            count,
            phases: pieces.take::<u32>(sys::MILLET_PHASE_WORDS as usize),
            // Room does not shrink with more tokens, though the number of ranges may.
            sums: pieces.take::<f32>(match room {
                1 => 0,
                _ => room.saturating_mul(experts).saturating_mul(hidden),
            }),
            pieces,
        }
    }

    fn tiles(config: &MoeConfig) -> usize {
        config.num_experts().div_ceil(PRODUCT[0]) * config.hidden_size().div_ceil(PRODUCT[1])
    }
}

/// dz is read by four experts where rows allow it.
fn dz_alignment(config: &MoeConfig) -> usize {
    if config.num_experts().is_multiple_of(4) {
        VECTOR
    } else {
        size_of::<f32>()
    }
}

/// dX = Σ_slot rows + dz·Wᵣ, made before the product that writes the rows like a [`Gather`](super::combine::Gather).
pub(super) struct InputGrad<'a> {
    launch: Launch<'a>,
    kernel: Kernel,
    grid: [usize; 3],
    rows_alignment: usize,
    parameters: sys::MilletRouterInputGrad,
}

impl<'a> InputGrad<'a> {
    /// Into `x_grad` [T, H], by its name in errors.
    pub(super) fn new<'r: 'a, T: Element, W: Element<Acc = T::Acc>>(
        cuda: &'a Cuda,
        operation: &'static str,
        plan: &'a ops::Plan<Cuda>,
        router: RouterPart<'r, Cuda, W>,
        (name, x_grad): (&'static str, CudaViewMut<'a, T>),
    ) -> Result<Self> {
        let (config, tokens) = (plan.config(), plan.tokens());
        check_limits(operation, config)?;
        let hidden = config.hidden_size();
        let (vectorized, weight_aligned) =
            (is_vectors(T::DTYPE, hidden), is_vectors(W::DTYPE, hidden));
        let rows_alignment = alignment(T::DTYPE, vectorized);
        let weight_alignment = alignment(W::DTYPE, weight_aligned);
        let mut launch = Launch::new(cuda, operation);
        launch.require_f32::<T::Acc>()?;
        let kernel = launch.router_kernel::<T, W>(Operation::RouterInputGrad, Tile::Only)?;
        let to_row = plan.map().assignment_to_row;
        let parameters = sys::MilletRouterInputGrad {
            tokens: tokens as i64,
            experts: config.num_experts() as i32,
            hidden: hidden as i32,
            top_k: config.top_k() as i32,
            vectorized: vectorized.into(),
            weight_aligned: weight_aligned.into(),
            logits_grad: launch
                .read("logits_grad", router.logits_grad, dz_alignment(config))?
                .cast(),
            weight: launch
                .read("router weight", router.weight, weight_alignment)?
                .cast(),
            assignment_to_row: launch.read("assignment_to_row", to_row, 4)?,
            rows: ptr::null(),
            x_grad: launch.write(name, x_grad, rows_alignment)?.cast(),
        };
        Ok(Self {
            launch,
            kernel,
            grid: [tokens.div_ceil(PRODUCT[0]), hidden.div_ceil(PRODUCT[1]), 1],
            rows_alignment,
            parameters,
        })
    }

    /// Submits it, for rows [max rows, H] by their name in errors.
    pub(super) fn sum<T: Element>(
        mut self,
        (name, rows): (&'static str, View<'a, T>),
    ) -> Result<()> {
        let rows = self.launch.read(name, rows, self.rows_alignment)?;
        self.parameters.rows = rows.cast();
        // SAFETY: lengths were checked by the operation; a plan's rows are below the number of rows, or −1.
        unsafe {
            self.launch
                .run(self.kernel, self.grid, THREADS, 0, &self.parameters)
        }
    }
}

impl Router for Cuda {
    fn run_router_forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterForward<'_, Self, T, W>>,
    ) -> Result<()> {
        const OPERATION: &str = ops::router::FORWARD;
        let RouterForward {
            config,
            tokens,
            logits,
            selection_bias,
            ids,
            weights,
            lse,
            counts,
            stats,
            logits_output,
            scratch,
        } = arguments.into_inner();
        check_limits(OPERATION, config)?;
        let shared_limit = self.kernels.shared_limit;
        let need = scratch_elements::<T::Acc>(config, tokens, shared_limit);
        check::workspace(OPERATION, scratch.len(), need)?;

        let mut launch = Launch::new(self, OPERATION);
        launch.require_f32::<T::Acc>()?;
        let experts = config.num_experts();
        let groups = config.router().groups().map_or(0, |groups| groups.groups);
        let fused = Fused::forward(experts, groups, shared_limit);
        let source = Source::read(&mut launch, config, logits, fused)?;
        let split = match &source {
            Source::Fused(_, tile) => Split::new(config, tokens, tile.tokens, 0, 0),
            _ => Split::given(config, tokens, shared_limit),
        };
        // What the block takes of shared memory for its logits.
        let logits_bytes = match &source {
            Source::Fused(_, tile) => tile.bytes(),
            _ => 0,
        };
        let scratch = launch.write("scratch", scratch, VECTOR)?.cast::<u8>();
        let factors = LossFactors::new(config, tokens);
        let mut parameters = sys::MilletRouterForward {
            tile_tokens: split.tile_tokens as i32,
            tiles: split.tiles as i32,
            ids: launch.write("ids", ids, 4)?,
            weights: launch.write("weights", weights, 4)?.cast(),
            lse: launch.write("lse", lse, 4)?.cast(),
            counts: launch.write("counts", counts, 4)?,
            stats: launch.write("stats", stats, 4)?.cast(),
            aux_factor: factors.aux,
            z_factor: factors.z,
            phases: scratch.wrapping_add(split.phases).cast(),
            tile_stats: scratch.wrapping_add(split.tile_stats).cast(),
            tile_counts: scratch.wrapping_add(split.tile_counts).cast(),
            ..forward_parameters(config, tokens)
        };
        if let Some(bias) = selection_bias {
            parameters.selection_bias = launch.read("selection bias", bias, 4)?.cast();
        }
        if let Some(logits) = logits_output {
            parameters.logits_out = launch.write("logits output", logits, 4)?.cast();
        }
        let on_given = |launch: &Launch<'_>, dtype| {
            let tile = catalogue::experts_tile(Operation::RouterForward, experts);
            launch.kernel(Operation::RouterForward, tile.unwrap_or(ALL_EXPERTS), dtype)
        };
        let kernel = match source {
            Source::Given(logits, dtype) => {
                parameters.logits = logits;
                on_given(&launch, dtype)?
            }
            Source::Fused(factors, tile) => {
                parameters.x = factors.x;
                parameters.weight = factors.weight;
                parameters.aligned = factors.aligned;
                launch.router_kernel::<T, W>(Operation::RouterTokens, tile.tile)?
            }
            Source::Product(factors) => {
                // The logits first, to where they are asked for, else to scratch.
                let logits = match parameters.logits_out.is_null() {
                    true => scratch.wrapping_add(split.logits).cast(),
                    false => parameters.logits_out,
                };
                // SAFETY: `Checked` says that lengths fit, and scratch has the split's pieces.
                unsafe { factors.launch_logits::<T, W>(&launch, config, tokens, logits)? };
                parameters.logits = logits.cast_const().cast();
                parameters.logits_out = ptr::null_mut();
                on_given(&launch, DType::F32)?
            }
        };
        let space = Space::forward(experts, groups, logits_bytes > 0);
        let shared = logits_bytes + space.bytes();
        let grid = [split.blocks(config), 1, 1];
        // SAFETY: `Checked` says that lengths fit, and scratch has the split's pieces.
        unsafe {
            launch.clear(parameters.phases, 4 * sys::MILLET_PHASE_WORDS as usize)?;
            launch.run(kernel, grid, space.threads(), shared, &parameters)
        }
    }

    fn run_router_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterBackward<'_, Self, T, W>>,
    ) -> Result<()> {
        const OPERATION: &str = ops::router::BACKWARD;
        let RouterBackward {
            config,
            tokens,
            logits,
            ids,
            weights,
            lse,
            counts,
            weights_grad,
            loss_gradient,
            logits_grad,
            scratch,
        } = arguments.into_inner();
        check_limits(OPERATION, config)?;
        let shared_limit = self.kernels.shared_limit;
        let need = scratch_elements::<T::Acc>(config, tokens, shared_limit);
        check::workspace(OPERATION, scratch.len(), need)?;

        let mut launch = Launch::new(self, OPERATION);
        launch.require_f32::<T::Acc>()?;
        let experts = config.num_experts();
        let fused = Fused::backward(experts, shared_limit);
        let source = Source::read(&mut launch, config, logits, fused)?;
        let factors = LossFactors::new(config, tokens);
        let mut parameters = sys::MilletRouterBackward {
            router: router_parameters(config),
            tokens: tokens as i64,
            hidden: config.hidden_size() as i32,
            aligned: 0,
            logits: ptr::null(),
            x: ptr::null(),
            weight: ptr::null(),
            ids: launch.read("ids", ids, 4)?,
            weights: launch.read("weights", weights, 4)?.cast(),
            lse: launch.read("lse", lse, 4)?.cast(),
            counts: launch.read("counts", counts, 4)?,
            weights_grad: launch.read("weights_grad", weights_grad, 4)?.cast(),
            aux: (factors.aux * loss_gradient) as f32,
            z: (2.0 * factors.z * loss_gradient) as f32,
            logits_grad: launch.write("logits_grad", logits_grad, 4)?.cast(),
        };
        let on_given = |launch: &Launch<'_>, dtype| {
            launch.kernel(Operation::RouterBackward, Tile::Only, dtype)
        };
        let kernel = match source {
            Source::Given(logits, dtype) => {
                parameters.logits = logits;
                on_given(&launch, dtype)?
            }
            Source::Fused(factors, tile) => {
                parameters.x = factors.x;
                parameters.weight = factors.weight;
                parameters.aligned = factors.aligned;
                let kernel =
                    launch.router_kernel::<T, W>(Operation::RouterTokensBackward, tile.tile)?;
                let grid = [tokens.div_ceil(tile.tokens), 1, 1];
                let shared = tile.bytes() + Fused::backward_bytes(experts);
                // SAFETY: `Checked` says that lengths fit.
                return unsafe { launch.run(kernel, grid, THREADS, shared, &parameters) };
            }
            Source::Product(factors) => {
                // The logits first, where their gradient will be: a row is read before it is written.
                let logits = parameters.logits_grad;
                // SAFETY: `Checked` says that lengths fit.
                unsafe { factors.launch_logits::<T, W>(&launch, config, tokens, logits)? };
                parameters.logits = logits.cast_const().cast();
                on_given(&launch, DType::F32)?
            }
        };
        let space = Space::backward(config);
        let grid = [tokens.div_ceil(space.warps), 1, 1];
        // SAFETY: `Checked` says that lengths fit.
        unsafe { launch.run(kernel, grid, space.threads(), space.bytes(), &parameters) }
    }

    fn run_router_weight_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        arguments: Checked<RouterWeightGrad<'_, Self, T, W>>,
    ) -> Result<()> {
        const OPERATION: &str = ops::router::WEIGHT_GRAD;
        let RouterWeightGrad {
            config,
            tokens,
            logits_grad,
            x,
            grad,
            scratch,
        } = arguments.into_inner();
        check_limits(OPERATION, config)?;
        let ranges = Ranges::new(config, tokens);
        check::workspace(OPERATION, scratch.len(), ranges.pieces.elements::<T::Acc>())?;

        let (experts, hidden) = (config.num_experts(), config.hidden_size());
        let aligned = is_vectors(T::DTYPE, hidden);
        let mut launch = Launch::new(self, OPERATION);
        launch.require_f32::<T::Acc>()?;
        let kernel = launch.router_kernel::<T, W>(Operation::RouterWeightGrad, Tile::Only)?;
        let scratch = launch.write("scratch", scratch, VECTOR)?.cast::<u8>();
        let accumulate = matches!(grad, WeightGrad::Accumulate(_));
        let parameters = sys::MilletRouterWeightGrad {
            tokens: tokens as i64,
            experts: experts as i32,
            hidden: hidden as i32,
            range_tokens: ranges.tokens as i64,
            ranges: ranges.count as i32,
            aligned: aligned.into(),
            accumulate: accumulate.into(),
            logits_grad: launch
                .read("logits_grad", logits_grad, dz_alignment(config))?
                .cast(),
            x: launch.read("x", x, alignment(T::DTYPE, aligned))?.cast(),
            grad: match grad {
                WeightGrad::Overwrite(grad) => launch
                    .write("weight gradient", grad, size_of::<W>())?
                    .cast(),
                WeightGrad::Accumulate(grad) => launch.write("weight gradient", grad, 4)?.cast(),
            },
            phases: scratch.wrapping_add(ranges.phases).cast(),
            range_sums: scratch.wrapping_add(ranges.sums).cast(),
        };
        let sums = match ranges.count {
            1 => 0,
            _ => (experts * hidden).div_ceil(sys::MILLET_SUM_ELEMENTS as usize),
        };
        let grid = [Ranges::tiles(config) * ranges.count + sums, 1, 1];
        // SAFETY: `Checked` says that lengths fit, and scratch has the ranges' pieces.
        unsafe {
            launch.clear(parameters.phases, 4 * sys::MILLET_PHASE_WORDS as usize)?;
            launch.run(kernel, grid, THREADS, 0, &parameters)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_does_not_shrink_with_more_tokens() {
        for (hidden, experts, top_k) in [
            (8, 8, 2),
            (2048, 128, 8),
            (64, 512, 8),
            (64, 600, 8),
            (1024, 4096, 64),
        ] {
            let config = MoeConfig::builder(hidden, 8, experts, top_k)
                .build()
                .unwrap();
            let mut before = 0;
            for tokens in (0..9000).chain(65_000..66_000).chain(131_000..133_000) {
                let here = scratch_elements::<f32>(&config, tokens, 99 << 10);
                assert!(here >= before, "{experts} experts, {tokens} tokens");
                before = here;
            }
        }
    }
}
