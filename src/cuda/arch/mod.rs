//! What depends on the device's generation: which kernels run the experts' products, and how they are cut into tiles.
//!
//! A file per generation implements [`Products`]; [`Architecture::of`] chooses. Another generation is a file here, a case of
//! [`Architecture`], and its kernels in the catalogue.

mod ampere;

use std::fmt::Debug;

use super::catalogue::{Operation, Tile};
use super::is_vectors;
use crate::element::DType;
use crate::ops::RowTiles;

/// Generations that kernels are written for, oldest first: a device runs the kernels of its own and of those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Architecture {
    /// Compute capability 8.0 and later: `mma.sync`, `ldmatrix`, `cp.async`.
    Ampere,
}

impl Architecture {
    /// The newest that a device of this compute capability is one of.
    pub(super) fn of((major, _minor): (i32, i32)) -> Option<Self> {
        match major {
            8.. => Some(Self::Ampere),
            _ => None,
        }
    }

    /// How it runs the experts' products.
    pub(super) fn products(self) -> &'static dyn Products {
        match self {
            Self::Ampere => &ampere::Ampere,
        }
    }
}

/// How a generation runs the experts' products: functions of the shape and the device alone.
pub(super) trait Products: Debug + Sync {
    /// In what tiles a dispatch plan lists at most `rows` rows of `experts` experts. More rows never have a smaller bound.
    fn row_tiles(&self, rows: usize, experts: usize) -> RowTiles;

    /// A product of each expert's rows, [rows, `shape.columns`].
    fn rows(&self, storage: Storage, multiprocessors: usize, shape: RowProduct) -> Tiling;

    /// The gradient of a weight of each expert.
    fn weights(&self, storage: Storage, multiprocessors: usize, shape: WeightGradient) -> Tiling;
}

/// The storage type's part in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) dtype: DType,
    /// Are all rows of all tensors whole vectors of 16 bytes?
    pub(super) aligned: bool,
}

impl Storage {
    pub(super) fn new(dtype: DType, hidden: usize, inner: usize) -> Self {
        Self {
            dtype,
            aligned: is_vectors(dtype, hidden) && is_vectors(dtype, inner),
        }
    }
}

/// A product of the rows of a dispatch plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowProduct {
    pub(super) operation: Operation,
    /// Columns of the product as the tiles count them.
    pub(super) columns: usize,
    /// The dispatch plan's.
    pub(super) row_tiles: RowTiles,
    /// The mean.
    pub(super) rows_per_expert: usize,
}

/// A product of two tensors of rows, [rows, columns] for each of `experts`.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightGradient {
    pub(super) operation: Operation,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) experts: usize,
}

/// A launch of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Which of the operation's kernels.
    pub(super) tile: Tile,
    /// Threads of a block, and its shared memory in bytes.
    pub(super) threads: usize,
    pub(super) shared_bytes: usize,
    /// Tiles of columns of one row tile.
    pub(super) column_tiles: usize,
    /// How many of them are walked before the next row tile.
    pub(super) column_band: usize,
    /// Tiles in all, or more.
    pub(super) tiles: usize,
    pub(super) blocks: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Architecture {
        /// Of what is compiled for `sm_80`, `sm_90a`, ….
        pub(crate) fn named(name: &str) -> Self {
            let digits = name.trim_start_matches("sm_");
            let digits = digits.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let capability: i32 = digits.parse().unwrap();
            Self::of((capability / 10, capability % 10)).unwrap()
        }
    }

    #[test]
    fn by_compute_capability() {
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            assert_eq!(Architecture::of(capability), Some(Architecture::Ampere));
        }
        assert_eq!(Architecture::of((7, 5)), None);
        assert_eq!(Architecture::named("sm_120"), Architecture::Ampere);
    }

    #[test]
    fn alignment_is_of_both_sizes() {
        let aligned = |dtype, hidden, inner| Storage::new(dtype, hidden, inner).aligned;
        assert!(aligned(DType::BF16, 8, 24));
        assert!(!aligned(DType::F16, 8, 12));
        assert!(!aligned(DType::BF16, 4, 8));
        assert!(aligned(DType::F32, 4, 12));
        assert!(!aligned(DType::F32, 4, 2));
    }
}
