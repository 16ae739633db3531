//! How the experts' products are cut into tiles: pure functions of the shape and the device, tested without one.

use super::sys;

/// Rows of the tiles that a kernel is compiled for.
pub(super) const LARGE_ROWS: usize = 128;
pub(super) const SMALL_ROWS: usize = 64;
/// Columns of a tile.
pub(super) const COLUMNS: usize = sys::MILLET_PRODUCT_COLUMNS as usize;
/// Threads of a block.
pub(super) const THREADS: usize = sys::MILLET_PRODUCT_THREADS as usize;

/// Which of a product's kernels runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// Tiles of 128 rows.
    Large,
    /// Tiles of 64 rows: half the sum in registers, half the padding.
    Small,
    /// Tiles of 64 rows, element by element: for rows that are not whole pieces of 16 bytes.
    Any,
}

impl Variant {
    /// Rows of its tiles.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Large => LARGE_ROWS,
            Self::Small | Self::Any => SMALL_ROWS,
        }
    }

    /// Shared memory of a block: the ring of both operands, in bytes.
    pub(super) fn shared_bytes(self) -> usize {
        const RING: usize =
            sys::MILLET_PRODUCT_STAGES as usize * sys::MILLET_PRODUCT_STEP_BYTES as usize;
        (self.rows() + COLUMNS) * RING
    }
}

/// The storage type's part in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage {
    /// Bytes of an element.
    pub(super) size: usize,
    /// Are all rows of all tensors whole pieces of 16 bytes?
    pub(super) aligned: bool,
}

impl Storage {
    pub(super) fn new<T>(hidden: usize, inner: usize) -> Self {
        let size = size_of::<T>();
        let whole = |columns: usize| (columns * size).is_multiple_of(super::VECTOR);
        Self {
            size,
            aligned: whole(hidden) && whole(inner),
        }
    }

    /// f32 has small tiles only: both parts of its operands would not fit into registers beside a larger sum.
    fn variant(self, rows: usize) -> Variant {
        match rows {
            _ if !self.aligned => Variant::Any,
            LARGE_ROWS if self.size == 2 => Variant::Large,
            _ => Variant::Small,
        }
    }
}

/// A launch of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) variant: Variant,
    /// Tiles of columns of one row tile.
    pub(super) column_tiles: usize,
    /// How many of them are walked before the next row tile.
    pub(super) column_band: usize,
    /// Tiles in all, or more.
    pub(super) tiles: usize,
    pub(super) blocks: usize,
}

/// Blocks that run at a time.
fn resident(multiprocessors: usize) -> usize {
    multiprocessors * sys::MILLET_PRODUCT_RESIDENT as usize
}

/// Of a product of an expert's rows, [rows, `columns`]: `columns` of the product as the tiles count them.
///
/// `tile_rows` and `row_tiles` are the dispatch plan's, the latter a bound; `rows_per_expert` is the mean.
pub(super) fn rows(
    storage: Storage,
    multiprocessors: usize,
    columns: usize,
    tile_rows: usize,
    row_tiles: usize,
    rows_per_expert: usize,
) -> Plan {
    let variant = storage.variant(tile_rows);
    let column_tiles = columns.div_ceil(COLUMNS);
    let tiles = (row_tiles * (tile_rows / variant.rows())).saturating_mul(column_tiles);
    let wave = resident(multiprocessors);
    Plan {
        variant,
        column_tiles,
        column_band: column_band(
            column_tiles,
            rows_per_expert.div_ceil(variant.rows()).max(1),
            variant.rows(),
            wave,
        ),
        tiles,
        blocks: wave.min(tiles),
    }
}

/// Of a weight's gradient [rows, columns] of each of `experts`.
pub(super) fn weights(
    storage: Storage,
    multiprocessors: usize,
    rows: usize,
    columns: usize,
    experts: usize,
) -> Plan {
    let variant = storage.variant(LARGE_ROWS);
    let column_tiles = columns.div_ceil(COLUMNS);
    let tiles = (rows.div_ceil(variant.rows()) * column_tiles).saturating_mul(experts);
    Plan {
        variant,
        column_tiles,
        column_band: column_tiles,
        tiles,
        blocks: resident(multiprocessors).min(tiles),
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

/// Multiplier and shift with which the device divides by `divisor`: n / d = (hi(n·multiplier) + n) >> shift for n < 2³¹.
pub(super) fn divider(divisor: usize) -> (u32, u32) {
    let divisor = divisor as u64;
    let shift = divisor.next_power_of_two().trailing_zeros();
    let multiplier = (((1u64 << shift) - divisor) << 32) / divisor + 1;
    (multiplier as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::super::experts;
    use super::*;

    const BF16: Storage = Storage {
        size: 2,
        aligned: true,
    };

    #[test]
    fn division() {
        let quotient = |n: u32, (multiplier, shift): (u32, u32)| {
            let high = ((u64::from(n) * u64::from(multiplier)) >> 32) as u32;
            (high + n) >> shift
        };
        for divisor in 1..=64usize {
            let magic = divider(divisor);
            let d = divisor as u32;
            let largest = i32::MAX as u32;
            let near = |multiple: u32| [multiple.wrapping_sub(1), multiple, multiple + 1];
            let multiples = (0..5000).chain([largest / d, largest / d - 1, (1 << 30) / d]);
            for n in multiples.flat_map(|m| near(m * d)).chain([largest]) {
                if n <= largest {
                    assert_eq!(quotient(n, magic), n / d, "{n} / {d}");
                }
            }
        }
    }

    #[test]
    fn a_block_fits_twice_on_the_smallest_multiprocessor() {
        // sm_86, sm_89 and sm_120: 100 KiB, of which a block takes 1 KiB for the system and at most 99.
        for variant in [Variant::Large, Variant::Small, Variant::Any] {
            // And 128 bytes of its own, for what a block draws.
            let bytes = variant.shared_bytes() + 128 + 1024;
            assert!(sys::MILLET_PRODUCT_RESIDENT as usize * bytes <= 100 * 1024);
        }
        assert_eq!(Variant::Large.shared_bytes(), 48 * 1024);
    }

    #[test]
    fn tiles_follow_the_type_and_the_plan() {
        let plan = |storage, tile_rows| rows(storage, 108, 1408, tile_rows, 40, 500);
        assert_eq!(plan(BF16, 128).variant, Variant::Large);
        assert_eq!(plan(BF16, 64).variant, Variant::Small);
        let f32 = Storage { size: 4, ..BF16 };
        assert_eq!(plan(f32, 128).variant, Variant::Small);
        let odd = Storage {
            aligned: false,
            ..BF16
        };
        assert_eq!(plan(odd, 128).variant, Variant::Any);
        // A tile of the plan is two of the kernel's.
        assert_eq!(plan(BF16, 128).tiles, 40 * 11);
        assert_eq!(plan(f32, 128).tiles, 80 * 11);
        assert_eq!(plan(f32, 64).tiles, 40 * 11);
    }

    #[test]
    fn alignment_is_of_both_sizes() {
        assert!(Storage::new::<u16>(8, 24).aligned);
        assert!(!Storage::new::<u16>(8, 12).aligned);
        assert!(!Storage::new::<u16>(4, 8).aligned);
        assert!(Storage::new::<f32>(4, 12).aligned);
        assert!(!Storage::new::<f32>(4, 2).aligned);
    }

    #[test]
    fn blocks_are_no_more_than_fit_or_than_tiles() {
        assert_eq!(rows(BF16, 108, 2048, 128, 300, 512).blocks, 216);
        assert_eq!(rows(BF16, 108, 256, 128, 3, 100).blocks, 6);
        assert_eq!(rows(BF16, 108, 256, 128, 0, 0).blocks, 0);
        assert_eq!(weights(BF16, 4, 130, 130, 3).blocks, 8);
        assert_eq!(weights(BF16, 108, 130, 130, 3).tiles, 12);
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

    /// What ptxas said of a kernel for an architecture.
    struct Compiled<'a> {
        kernel: &'a str,
        architecture: &'a str,
        spilled: bool,
        registers: usize,
    }

    fn compiled(log: &str) -> Vec<Compiled<'_>> {
        let mut all: Vec<Compiled<'_>> = Vec::new();
        for line in log.lines() {
            let quoted: Vec<&str> = line.split('\'').collect();
            if line.contains("Compiling entry function")
                && let [_, kernel, _, architecture, ..] = quoted[..]
            {
                all.push(Compiled {
                    kernel,
                    architecture,
                    spilled: true,
                    registers: usize::MAX,
                });
            }
            let Some(last) = all.last_mut() else { continue };
            if line.contains("bytes spill stores") {
                let none = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
                last.spilled = line.trim() != none;
            }
            if let Some((_, rest)) = line.split_once("Used ") {
                let number = rest.split(' ').next().unwrap_or_default();
                last.registers = number.parse().unwrap();
            }
        }
        all
    }

    #[test]
    fn products_spill_nothing_and_two_blocks_fit() {
        let log = include_str!(concat!(env!("OUT_DIR"), "/ptxas.txt"));
        let all = compiled(log);
        let products = [
            experts::UP,
            experts::DOWN,
            experts::DOWN_BACKWARD,
            experts::INPUT_GRAD,
            experts::DOWN_WEIGHT_GRAD,
            experts::UP_WEIGHT_GRAD,
        ];
        let kernels = products.iter().flat_map(|product| product.names());
        for kernel in kernels {
            let found: Vec<_> = all.iter().filter(|c| c.kernel == kernel).collect();
            assert!(!found.is_empty(), "{kernel} is not in ptxas.txt");
            for Compiled {
                architecture,
                spilled,
                registers,
                ..
            } in found
            {
                assert!(!spilled, "{kernel} spills for {architecture}");
                // Registers are handed out to warps, 8 for each of 32 lanes at a time.
                let of_block = registers.next_multiple_of(8) * THREADS;
                let blocks = 65536 / of_block;
                assert!(
                    blocks >= sys::MILLET_PRODUCT_RESIDENT as usize,
                    "{kernel} for {architecture}: {registers} registers"
                );
            }
        }
    }
}
