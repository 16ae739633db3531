//! The experts' products by `mma.sync` and `cp.async` (csrc/experts_forward.cu, csrc/experts_backward.cu), on every device from compute
//! capability 8.0 on: tiles, bands and blocks. Tested without a device.

use super::super::catalogue::{self, Operation, Tile, Types};
use super::super::sys;
use super::{Architecture, Products, RowProduct, Storage, Tiling, WeightGradient};
use crate::ops::RowTiles;

/// Rows of the tiles that a kernel is compiled for.
const LARGE_ROWS: usize = sys::MILLET_PRODUCT_LARGE_ROWS as usize;
const SMALL_ROWS: usize = sys::MILLET_PRODUCT_SMALL_ROWS as usize;
/// Columns of a tile.
const COLUMNS: usize = sys::MILLET_PRODUCT_COLUMNS as usize;
/// Threads of a block.
const THREADS: usize = sys::MILLET_PRODUCT_THREADS as usize;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Ampere;

impl Products for Ampere {
    fn row_tiles(&self, rows: usize, experts: usize) -> RowTiles {
        RowTiles {
            // Where an expert gets fewer than 48 rows on average, hardly any has more than 64, and its weights are read by one tile of
            // either height, of which the smaller one has less padding.
            height: match rows / experts {
                0..48 => SMALL_ROWS,
                _ => LARGE_ROWS,
            },
            // Of small tiles whatever the height: a little more memory, but never less for more rows.
            most: rows.min(rows / SMALL_ROWS + experts),
        }
    }

    fn rows(&self, storage: Storage, multiprocessors: usize, shape: RowProduct) -> Tiling {
        let RowTiles { height, most } = shape.row_tiles;
        let tile = tile(storage, shape.operation, height);
        let tile_rows = rows_of(tile);
        let column_tiles = shape.columns.div_ceil(COLUMNS);
        let row_tiles = most * (height / tile_rows);
        let row_tiles_per_expert = shape.rows_per_expert.div_ceil(tile_rows).max(1);
        let wave = resident(multiprocessors);
        let band = column_band(column_tiles, row_tiles_per_expert, tile_rows, wave);
        plan(tile, wave, column_tiles, band, row_tiles)
    }

    fn weights(&self, storage: Storage, multiprocessors: usize, shape: WeightGradient) -> Tiling {
        let tile = tile(storage, shape.operation, LARGE_ROWS);
        let column_tiles = shape.columns.div_ceil(COLUMNS);
        // Not past the largest number: the launch refuses so many tiles.
        let row_tiles = shape
            .rows
            .div_ceil(rows_of(tile))
            .saturating_mul(shape.experts);
        let wave = resident(multiprocessors);
        plan(tile, wave, column_tiles, column_tiles, row_tiles)
    }
}

/// The tile that fits tensors of this kind: at most `rows` high, where the type has kernels so high.
fn tile(storage: Storage, operation: Operation, rows: usize) -> Tile {
    let large = || {
        let types = Types::Of(storage.dtype);
        catalogue::find(Architecture::Ampere, operation, Tile::Large, types).is_some()
    };
    match rows {
        _ if !storage.aligned => Tile::Any,
        LARGE_ROWS if large() => Tile::Large,
        _ => Tile::Small,
    }
}

fn rows_of(tile: Tile) -> usize {
    match tile {
        Tile::Large => LARGE_ROWS,
        _ => SMALL_ROWS,
    }
}

/// Shared memory of a block: the ring of both operands, in bytes.
fn shared_bytes(tile: Tile) -> usize {
    const RING: usize =
        sys::MILLET_PRODUCT_STAGES as usize * sys::MILLET_PRODUCT_STEP_BYTES as usize;
    (rows_of(tile) + COLUMNS) * RING
}

/// Blocks that run at a time.
fn resident(multiprocessors: usize) -> usize {
    multiprocessors * sys::MILLET_PRODUCT_RESIDENT as usize
}

fn plan(
    tile: Tile,
    wave: usize,
    column_tiles: usize,
    column_band: usize,
    row_tiles: usize,
) -> Tiling {
    let tiles = row_tiles.saturating_mul(column_tiles);
    Tiling {
        tile,
        threads: THREADS,
        shared_bytes: shared_bytes(tile),
        column_tiles,
        column_band,
        tiles,
        blocks: wave.min(tiles),
    }
}

/// Columns, in tiles, that are walked before the next rows.
///
/// A wave of blocks covers `wave / band` row tiles. The rows of an expert come once for each band; its weights once for each wave
/// that they are in. All columns at once unless an expert has so many row tiles that its weights would come too often.
fn column_band(column_tiles: usize, row_tiles: usize, tile_rows: usize, wave: usize) -> usize {
    let cost = |bands: &usize| {
        let band = column_tiles.div_ceil(*bands);
        let rows = row_tiles * tile_rows * bands;
        // In units of a row tile's wave, so that it is a whole number.
        let times = (row_tiles * band).div_ceil(wave).max(1);
        rows + column_tiles * COLUMNS * times
    };
    let bands = (1..=column_tiles).min_by_key(cost).unwrap_or(1);
    column_tiles.div_ceil(bands).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::DType;

    const BF16: Storage = Storage {
        dtype: DType::BF16,
        aligned: true,
    };

    fn rows(
        storage: Storage,
        multiprocessors: usize,
        columns: usize,
        height: usize,
        most: usize,
        rows_per_expert: usize,
    ) -> Tiling {
        let shape = RowProduct {
            operation: Operation::ExpertsUp,
            columns,
            row_tiles: RowTiles { height, most },
            rows_per_expert,
        };
        Ampere.rows(storage, multiprocessors, shape)
    }

    fn weights(storage: Storage, multiprocessors: usize, experts: usize) -> Tiling {
        let shape = WeightGradient {
            operation: Operation::ExpertsUpWeightGrad,
            rows: 130,
            columns: 130,
            experts,
        };
        Ampere.weights(storage, multiprocessors, shape)
    }

    #[test]
    fn a_block_fits_twice_on_the_smallest_multiprocessor() {
        // sm_86, sm_89 and sm_120: 100 KiB, of which a block takes 1 KiB for the system and at most 99.
        for tile in [Tile::Large, Tile::Small, Tile::Any] {
            // And 128 bytes of its own, for what a block draws.
            let bytes = shared_bytes(tile) + 128 + 1024;
            assert!(sys::MILLET_PRODUCT_RESIDENT as usize * bytes <= 100 * 1024);
        }
        assert_eq!(shared_bytes(Tile::Large), 48 * 1024);
    }

    #[test]
    fn the_bound_of_row_tiles_holds_and_grows_with_the_rows() {
        for experts in [1, 2, 7, 64, 300] {
            let mut before = 0;
            for rows in 0..40_000 {
                let RowTiles { height, most } = Ampere.row_tiles(rows, experts);
                assert!(most >= before, "{experts} experts, {rows} rows");
                before = most;
                // The worst routing: as many experts as there are rows for have one row too many.
                let short = experts.min(rows);
                let worst = short + (rows - short) / height;
                assert!(
                    worst <= most,
                    "{experts} experts, {rows} rows: {worst} > {most}"
                );
            }
        }
        let heights = [0, 47, 48, 1000].map(|mean| Ampere.row_tiles(mean * 8, 8).height);
        assert_eq!(heights, [64, 64, 128, 128]);
    }

    #[test]
    fn tiles_follow_the_type_and_the_plan() {
        let plan = |storage, tile_rows| rows(storage, 108, 1408, tile_rows, 40, 500);
        assert_eq!(plan(BF16, 128).tile, Tile::Large);
        assert_eq!(plan(BF16, 64).tile, Tile::Small);
        let f32 = Storage {
            dtype: DType::F32,
            ..BF16
        };
        assert_eq!(plan(f32, 128).tile, Tile::Small);
        let odd = Storage {
            aligned: false,
            ..BF16
        };
        assert_eq!(plan(odd, 128).tile, Tile::Any);
        // A tile of the plan is two of the kernel's.
        assert_eq!(plan(BF16, 128).tiles, 40 * 11);
        assert_eq!(plan(f32, 128).tiles, 80 * 11);
        assert_eq!(plan(f32, 64).tiles, 40 * 11);
    }

    #[test]
    fn blocks_are_no_more_than_fit_or_than_tiles() {
        assert_eq!(rows(BF16, 108, 2048, 128, 300, 512).blocks, 216);
        assert_eq!(rows(BF16, 108, 256, 128, 3, 100).blocks, 6);
        assert_eq!(rows(BF16, 108, 256, 128, 0, 0).blocks, 0);
        assert_eq!(weights(BF16, 4, 3).blocks, 8);
        assert_eq!(weights(BF16, 108, 3).tiles, 12);
        // Of f32, in tiles of 64 rows.
        let f32 = Storage {
            dtype: DType::F32,
            ..BF16
        };
        assert_eq!(weights(f32, 108, 3).tiles, 18);
    }

    #[test]
    fn bands_only_where_an_expert_fills_several_waves() {
        // OLMoE, 512 rows an expert: 4 × 16 tiles are less than a wave of 216.
        assert_eq!(column_band(16, 4, 128, 216), 16);
        // DeepSeek-V3's H of 7168 with 2048 rows an expert: 56 × 16 tiles are four waves.
        let band = column_band(56, 16, 128, 216);
        assert!(band < 56 && 16 * band <= 216, "{band}");
        assert_eq!(column_band(1, 1000, 128, 216), 1);
        for columns in 1..40 {
            for row_tiles in 1..40 {
                let band = column_band(columns, row_tiles, 64, 30);
                assert!((1..=columns).contains(&band));
            }
        }
    }
}
