//! Dispatch: capacity dropping and the stable sort by expert.

use super::catalogue::Operation;
use super::launch::{Launch, Pieces};
use super::{Cuda, at_most, sys};
use crate::check;
use crate::config::{DropPolicy, MoeConfig, Renormalize};
use crate::element::Real;
use crate::error::Result;
use crate::ops::{self, Checked, Dispatch, DispatchInto};

/// Assignments that make a tile worth a block.
const TILE: usize = 1024;
/// Words of shared memory that counts may take: with the two words an expert needs besides, 99 KiB hold 4096 experts.
const COUNT_WORDS: usize = 16384;

/// How the assignments of `tokens` tokens are split, and what is kept of them until the kernel ends.
#[derive(Debug, Clone, Copy)]
struct Split {
    tile_tokens: usize,
    tiles: usize,
    warps: usize,
    phases: usize,
    tile_counts: usize,
    totals: usize,
    sorted: usize,
    pieces: Pieces,
}

impl Split {
    fn new(config: &MoeConfig, tokens: usize) -> Self {
        let (experts, top_k) = (config.num_experts(), config.top_k());
        let assignments = tokens.saturating_mul(top_k);
        let tiles = assignments
            .div_ceil(TILE)
            .clamp(1, sys::MILLET_MAX_TILES as usize);
        // Tiles of whole tokens may be fewer; room does not shrink with more tokens.
        let room = tiles;
        let tile_tokens = tokens.div_ceil(tiles).max(1);
        let tiles = tokens.div_ceil(tile_tokens).max(1);
        let mut pieces = Pieces::default();
        Self {
            tile_tokens,
            tiles,
            warps: if experts * 8 <= COUNT_WORDS { 8 } else { 4 },
            phases: pieces.take::<u32>(sys::MILLET_PHASE_WORDS as usize),
            tile_counts: pieces.take::<i32>(room * experts),
            totals: pieces.take::<i32>(experts),
            // Whatever the drop policy: scratch serves every configuration of the same sizes.
            sorted: pieces.take::<i32>(match config.capacity() {
                Some(_) => assignments,
                None => 0,
            }),
            pieces,
        }
    }
}

/// What an expert keeps when it gets more than its capacity; nothing is dropped where every token fits.
fn policy(config: &MoeConfig, tokens: usize) -> u32 {
    let Some(capacity) = config.capacity() else {
        return sys::MILLET_KEEP_ALL;
    };
    if config.expert_capacity(tokens) >= tokens {
        return sys::MILLET_KEEP_ALL;
    }
    match capacity.drop_policy() {
        DropPolicy::Probability => sys::MILLET_KEEP_PROBABILITY,
        DropPolicy::Position => sys::MILLET_KEEP_POSITION,
        DropPolicy::SlotMajor => sys::MILLET_KEEP_SLOT_MAJOR,
    }
}

/// Are kept assignments picked after they were sorted?
fn chooses(config: &MoeConfig, tokens: usize) -> bool {
    [sys::MILLET_KEEP_PROBABILITY, sys::MILLET_KEEP_SLOT_MAJOR].contains(&policy(config, tokens))
}

/// Scratch, in elements of `A`.
pub(super) fn scratch_elements<A>(config: &MoeConfig, tokens: usize) -> usize {
    Split::new(config, tokens).pieces.elements::<A>()
}

impl Dispatch for Cuda {
    fn run_dispatch<A: Real>(&self, arguments: Checked<DispatchInto<'_, Self, A>>) -> Result<()> {
        const OPERATION: &str = ops::dispatch::DISPATCH;
        let DispatchInto {
            config,
            tokens,
            ids,
            weights,
            tiles,
            map,
            scratch,
        } = arguments.into_inner();
        let (experts, top_k) = (config.num_experts(), config.top_k());
        at_most(OPERATION, "experts", experts, sys::MILLET_MAX_EXPERTS)?;
        let split = Split::new(config, tokens);
        check::workspace(OPERATION, scratch.len(), split.pieces.elements::<A>())?;

        let renormalizes = config
            .capacity()
            .is_some_and(|c| c.renormalization() == Renormalize::AfterDrop);
        let mut launch = Launch::new(self, OPERATION);
        launch.require_f32::<A>()?;
        let kernel = launch.untyped(Operation::Dispatch)?;
        let scratch = launch
            .write("scratch", scratch, super::VECTOR)?
            .cast::<u8>();
        let parameters = sys::MilletDispatch {
            experts: experts as i32,
            top_k: top_k as i32,
            assignments: (tokens * top_k) as i64,
            tile_assignments: (split.tile_tokens * top_k) as i64,
            tiles: split.tiles as i32,
            policy: policy(config, tokens) as i32,
            capacity: config.expert_capacity(tokens) as i32,
            renormalize_to: match renormalizes {
                true => config.router().scaling_factor() as f32,
                false => 0.0,
            },
            max_rows: config.max_rows(tokens) as i64,
            tile_rows: tiles.height as i32,
            max_row_tiles: tiles.most as i32,
            ids: launch.read("ids", ids, 4)?,
            weights: launch.write("weights", weights, 4)?.cast(),
            offsets: launch.write("offsets", map.offsets, 4)?,
            row_to_assignment: launch.write("row_to_assignment", map.row_to_assignment, 4)?,
            assignment_to_row: launch.write("assignment_to_row", map.assignment_to_row, 4)?,
            row_tiles: launch.write("row_tiles", map.row_tiles, 4)?,
            phases: scratch.wrapping_add(split.phases).cast(),
            tile_counts: scratch.wrapping_add(split.tile_counts).cast(),
            totals: scratch.wrapping_add(split.totals).cast(),
            sorted: scratch.wrapping_add(split.sorted).cast(),
        };
        let blocks = split.tiles
            + experts.div_ceil(32)
            + split.tiles
            + 1
            + if chooses(config, tokens) { experts } else { 0 }
            + if renormalizes { split.tiles } else { 0 };
        let shared = (experts * (2 + split.warps)).max(2 * (experts + 1)) * size_of::<i32>();
        // SAFETY: `Checked` says that lengths fit, and scratch has the plan's pieces.
        unsafe {
            launch.clear(parameters.phases, 4 * sys::MILLET_PHASE_WORDS as usize)?;
            launch.run(
                kernel,
                [blocks, 1, 1],
                32 * split.warps,
                shared,
                &parameters,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Capacity;

    /// A workspace serves every configuration of the same sizes, and the drop policy is not a size.
    #[test]
    fn scratch_is_the_same_for_every_drop_policy() {
        let elements = |policy| {
            let capacity = Capacity::new(0.1).policy(policy);
            let config = MoeConfig::builder(8, 8, 8, 2).capacity(capacity).build();
            scratch_elements::<f32>(&config.unwrap(), 32_768)
        };
        let by_probability = elements(DropPolicy::Probability);
        assert_eq!(elements(DropPolicy::Position), by_probability);
        assert_eq!(elements(DropPolicy::SlotMajor), by_probability);
    }

    #[test]
    fn scratch_does_not_shrink_with_more_tokens() {
        for factor in [None, Some(0.0), Some(1.0), Some(1.5), Some(7.0)] {
            let mut builder = MoeConfig::builder(8, 8, 128, 8);
            if let Some(factor) = factor {
                builder = builder.capacity(Capacity::new(factor));
            }
            let config = builder.build().unwrap();
            let mut before = [0; 2];
            for tokens in (0..9000).chain(262_000..263_000) {
                let here = [
                    scratch_elements::<f32>(&config, tokens),
                    config.max_rows(tokens),
                ];
                let grows = here
                    .iter()
                    .zip(before)
                    .all(|(&here, before)| here >= before);
                assert!(
                    grows,
                    "{factor:?}, {tokens} tokens: {before:?}, then {here:?}"
                );
                before = here;
            }
        }
    }
}
