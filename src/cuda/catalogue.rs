//! Every kernel: for which operation, architecture, tile and types, and in which file it is. Launches look kernels up here, loading goes
//! through all of them, and a kernel that is compiled but not listed, or listed but not compiled, fails a test.
//!
//! Names are made by the macros of `csrc/`: a row's name, then the types.

use std::fmt::{self, Display, Formatter};

use super::arch::Architecture;
use crate::element::DType;

/// What kernels compute: an operation, or the part of one that has a launch of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Logits → experts and weights.
    RouterForward,
    RouterBackward,
    /// The same two from tokens, with the product.
    RouterTokens,
    RouterTokensBackward,
    /// Tokens → logits, for more experts than `RouterTokens` takes.
    RouterLogits,
    RouterWeightGrad,
    /// dX = Σ rows + dz·Wᵣ.
    RouterInputGrad,
    Dispatch,
    Permute,
    /// The combine, also of rows that are weighed already.
    Unpermute,
    UnpermuteBackward,
    ExpertsUp,
    ExpertsDown,
    ExpertsDownBackward,
    /// dS from the parts that the down product's backward leaves.
    ExpertsWeightsGrad,
    ExpertsInputGrad,
    ExpertsDownWeightGrad,
    ExpertsUpWeightGrad,
}

/// Which of an operation's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tile {
    /// The operation has one.
    Only,
    /// A router's, for up to so many experts.
    Experts(usize),
    /// A product's, of 128 rows.
    Large,
    /// A product's, of 64 rows: half the accumulator, half the padding.
    Small,
    /// A product's, of 64 rows, element by element: for rows that are not whole vectors.
    Any,
}

/// Any number of experts.
pub(super) const ALL_EXPERTS: Tile = Tile::Experts(usize::MAX);

/// The storage types that a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Types {
    /// It has none in its name: indices, and f32.
    Untyped,
    /// Tokens, rows and weights are of one type.
    Of(DType),
    /// Tokens, and the router weight in another type.
    Router(DType, DType),
}

impl Display for Types {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untyped => Ok(()),
            Self::Of(dtype) => write!(f, "_{dtype}"),
            Self::Router(x, weight) => write!(f, "_{x}_{weight}"),
        }
    }
}

/// One kernel. Its name is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kernel {
    name: &'static str,
    types: Types,
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.types)
    }
}

/// Kernels that differ only in their types.
struct Row {
    operation: Operation,
    tile: Tile,
    /// The oldest that runs them.
    architecture: Architecture,
    /// Of `csrc/`.
    file: &'static str,
    name: &'static str,
    types: &'static [Types],
}

impl Row {
    fn kernels(&self) -> impl Iterator<Item = Kernel> {
        let name = self.name;
        self.types.iter().map(move |&types| Kernel { name, types })
    }
}

macro_rules! rows {
    ($($operation:ident, $tile:expr, $architecture:ident, $file:literal, $name:literal, $types:expr;)+) => {
        const ROWS: &[Row] = &[
            $(Row {
                operation: Operation::$operation,
                tile: $tile,
                architecture: Architecture::$architecture,
                file: $file,
                name: $name,
                types: $types,
            },)+
        ];
    };
}

macro_rules! files {
    ($($file:literal),+ $(,)?) => {
        /// The files of `csrc/` that have kernels, compiled.
        pub(super) const FILES: [(&str, &[u8]); [$($file),+].len()] =
            [$(($file, include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".fatbin")))),+];
    };
}

const F32: Types = Types::Of(DType::F32);
const BF16: Types = Types::Of(DType::BF16);
const F16: Types = Types::Of(DType::F16);

const UNTYPED: &[Types] = &[Types::Untyped];
const STORAGE: &[Types] = &[F32, BF16, F16];
/// Of two bytes: tiles of 128 rows. Both parts of f32 operands would not fit into registers beside so large an accumulator.
const SIXTEEN_BITS: &[Types] = &[BF16, F16];
/// x and the router weight of one type, or the weight in f32.
const ROUTER: &[Types] = &[
    F32,
    BF16,
    F16,
    Types::Router(DType::BF16, DType::F32),
    Types::Router(DType::F16, DType::F32),
];

files! {
    "combine", "dispatch", "experts_backward", "experts_forward", "permute", "router", "router_grad", "router_tokens",
    "router_tokens_backward",
}

rows! {
    // operation, tile, oldest architecture that runs it, file of csrc, name, types
    RouterForward,         Tile::Experts(128), Ampere, "router",                 "router_forward_128",           STORAGE;
    RouterForward,         Tile::Experts(512), Ampere, "router",                 "router_forward_512",           STORAGE;
    RouterForward,         ALL_EXPERTS,        Ampere, "router",                 "router_forward_any",           STORAGE;
    RouterBackward,        Tile::Only,         Ampere, "router",                 "router_backward",              STORAGE;
    RouterTokens,          Tile::Experts(128), Ampere, "router_tokens",          "router_tokens_128",            ROUTER;
    RouterTokens,          Tile::Experts(256), Ampere, "router_tokens",          "router_tokens_256",            ROUTER;
    RouterTokens,          Tile::Experts(512), Ampere, "router_tokens",          "router_tokens_512",            ROUTER;
    RouterTokensBackward,  Tile::Experts(128), Ampere, "router_tokens_backward", "router_tokens_backward_128",   ROUTER;
    RouterTokensBackward,  Tile::Experts(256), Ampere, "router_tokens_backward", "router_tokens_backward_256",   ROUTER;
    RouterTokensBackward,  Tile::Experts(512), Ampere, "router_tokens_backward", "router_tokens_backward_512",   ROUTER;
    RouterLogits,          Tile::Only,         Ampere, "router_tokens",          "router_logits",                ROUTER;
    RouterWeightGrad,      Tile::Only,         Ampere, "router_grad",            "router_weight_grad",           ROUTER;
    RouterInputGrad,       Tile::Only,         Ampere, "router_grad",            "router_input_grad",            ROUTER;

    Dispatch,              Tile::Only,         Ampere, "dispatch",               "dispatch",                     UNTYPED;
    Permute,               Tile::Only,         Ampere, "permute",                "permute",                      STORAGE;
    Unpermute,             Tile::Only,         Ampere, "combine",                "unpermute",                    STORAGE;
    UnpermuteBackward,     Tile::Only,         Ampere, "combine",                "unpermute_backward",           STORAGE;

    ExpertsUp,             Tile::Large,        Ampere, "experts_forward",        "experts_up",                   SIXTEEN_BITS;
    ExpertsUp,             Tile::Small,        Ampere, "experts_forward",        "experts_up_small",             STORAGE;
    ExpertsUp,             Tile::Any,          Ampere, "experts_forward",        "experts_up_any",               STORAGE;
    ExpertsDown,           Tile::Large,        Ampere, "experts_forward",        "experts_down",                 SIXTEEN_BITS;
    ExpertsDown,           Tile::Small,        Ampere, "experts_forward",        "experts_down_small",           STORAGE;
    ExpertsDown,           Tile::Any,          Ampere, "experts_forward",        "experts_down_any",             STORAGE;
    ExpertsDownBackward,   Tile::Large,        Ampere, "experts_backward",       "experts_down_backward",        SIXTEEN_BITS;
    ExpertsDownBackward,   Tile::Small,        Ampere, "experts_backward",       "experts_down_backward_small",  STORAGE;
    ExpertsDownBackward,   Tile::Any,          Ampere, "experts_backward",       "experts_down_backward_any",    STORAGE;
    ExpertsWeightsGrad,    Tile::Only,         Ampere, "experts_backward",       "experts_weights_grad",         UNTYPED;
    ExpertsInputGrad,      Tile::Large,        Ampere, "experts_backward",       "experts_input_grad",           SIXTEEN_BITS;
    ExpertsInputGrad,      Tile::Small,        Ampere, "experts_backward",       "experts_input_grad_small",     STORAGE;
    ExpertsInputGrad,      Tile::Any,          Ampere, "experts_backward",       "experts_input_grad_any",       STORAGE;
    // Tiles of weight gradients do not depend on the plan's, so that each type has one size.
    ExpertsDownWeightGrad, Tile::Large,        Ampere, "experts_backward",       "experts_down_weight_grad",     SIXTEEN_BITS;
    ExpertsDownWeightGrad, Tile::Small,        Ampere, "experts_backward",       "experts_down_weight_grad",     &[F32];
    ExpertsDownWeightGrad, Tile::Any,          Ampere, "experts_backward",       "experts_down_weight_grad_any", STORAGE;
    ExpertsUpWeightGrad,   Tile::Large,        Ampere, "experts_backward",       "experts_up_weight_grad",       SIXTEEN_BITS;
    ExpertsUpWeightGrad,   Tile::Small,        Ampere, "experts_backward",       "experts_up_weight_grad",       &[F32];
    ExpertsUpWeightGrad,   Tile::Any,          Ampere, "experts_backward",       "experts_up_weight_grad_any",   STORAGE;
}

/// The kernels of a file that `architecture` runs.
pub(super) fn kernels_of(file: &str, architecture: Architecture) -> impl Iterator<Item = Kernel> {
    ROWS.iter()
        .filter(move |row| row.file == file && row.architecture <= architecture)
        .flat_map(Row::kernels)
}

/// The newest kernel that `architecture` runs.
pub(super) fn find(
    architecture: Architecture,
    operation: Operation,
    tile: Tile,
    types: Types,
) -> Option<Kernel> {
    ROWS.iter()
        .filter(|row| row.operation == operation && row.tile == tile)
        .filter(|row| row.architecture <= architecture && row.types.contains(&types))
        .max_by_key(|row| row.architecture)
        .map(|row| Kernel {
            name: row.name,
            types,
        })
}

/// The tile for the fewest experts that has room for `experts`.
pub(super) fn experts_tile(operation: Operation, experts: usize) -> Option<Tile> {
    let sizes = ROWS.iter().filter_map(|row| match row.tile {
        Tile::Experts(most) if row.operation == operation && experts <= most => Some(most),
        _ => None,
    });
    sizes.min().map(Tile::Experts)
}

/// The types that an operation has kernels for, tokens and weights alike.
pub(super) fn types_of(operation: Operation) -> Vec<DType> {
    let mut all = Vec::new();
    let rows = ROWS.iter().filter(|row| row.operation == operation);
    for types in rows.flat_map(|row| row.types) {
        match *types {
            Types::Of(dtype) if !all.contains(&dtype) => all.push(dtype),
            _ => {}
        }
    }
    all
}

/// Every kernel of a tile.
#[cfg(test)]
pub(super) fn kernels_of_tile(tile: Tile) -> impl Iterator<Item = Kernel> {
    ROWS.iter()
        .filter(move |row| row.tile == tile)
        .flat_map(Row::kernels)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::BF16, DType::F16];

    fn all() -> Vec<Kernel> {
        ROWS.iter().flat_map(Row::kernels).collect()
    }

    #[test]
    fn names_and_keys_are_unique() {
        let names: HashSet<String> = all().iter().map(Kernel::to_string).collect();
        assert_eq!(names.len(), all().len());
        for row in ROWS {
            for kernel in row.kernels() {
                let found = find(row.architecture, row.operation, row.tile, kernel.types);
                assert_eq!(found, Some(kernel));
            }
        }
    }

    /// What nvcc compiled, as ptxas names it, is what is listed, file by file.
    #[test]
    fn every_compiled_kernel_is_listed_and_every_listed_one_is_compiled() {
        let mut files: Vec<_> = std::fs::read_dir("csrc")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, FILES.map(|(file, _)| file), "csrc/*.cu");
        assert!(
            ROWS.iter()
                .all(|row| files.iter().any(|file| file == row.file))
        );
        for file in files {
            let log = format!("{}/{file}.ptxas", env!("OUT_DIR"));
            let log = std::fs::read_to_string(log).unwrap();
            let compiled: HashSet<(&str, &str)> = log
                .lines()
                .filter(|line| line.contains("Compiling entry function"))
                .map(|line| {
                    let quoted: Vec<&str> = line.split('\'').collect();
                    (quoted[1], quoted[3])
                })
                .collect();
            let architectures: HashSet<&str> = compiled.iter().map(|&(_, a)| a).collect();
            assert!(!architectures.is_empty(), "{file}");
            for architecture in architectures {
                let of = |compiled: &&(&str, &str)| compiled.1 == architecture;
                let compiled: HashSet<&str> = compiled.iter().filter(of).map(|c| c.0).collect();
                let listed: HashSet<String> = kernels_of(&file, Architecture::named(architecture))
                    .map(|kernel| kernel.to_string())
                    .collect();
                let listed: HashSet<&str> = listed.iter().map(String::as_str).collect();
                let missing: Vec<_> = compiled.symmetric_difference(&listed).collect();
                assert!(
                    missing.is_empty(),
                    "{file} for {architecture}: {missing:?} are compiled or listed, but not both"
                );
            }
        }
    }

    /// A type that has kernels has those of every operation, and of every size that its tiles are chosen among.
    #[test]
    fn a_storage_type_is_complete() {
        for row in ROWS {
            let types = types_of(row.operation);
            if row.types == UNTYPED {
                continue;
            }
            let expected = [DType::F32, DType::BF16, DType::F16];
            assert!(
                expected.iter().all(|dtype| types.contains(dtype)),
                "{}: {types:?}",
                row.name
            );
            assert!(!types.contains(&DType::F64), "{}", row.name);
        }
    }

    #[test]
    fn a_router_weight_is_of_the_tokens_type_or_f32() {
        for x in DTYPES {
            for weight in DTYPES {
                let types = if x == weight {
                    Types::Of(x)
                } else {
                    Types::Router(x, weight)
                };
                let found = find(
                    Architecture::Ampere,
                    Operation::RouterLogits,
                    Tile::Only,
                    types,
                );
                let taken = x != DType::F64 && (weight == x || weight == DType::F32);
                assert_eq!(found.is_some(), taken, "{types}");
            }
        }
    }

    #[test]
    fn routers_go_by_the_number_of_experts() {
        let tile = |operation, experts| experts_tile(operation, experts);
        let forward = Operation::RouterForward;
        assert_eq!(tile(forward, 1), Some(Tile::Experts(128)));
        assert_eq!(tile(forward, 128), Some(Tile::Experts(128)));
        assert_eq!(tile(forward, 129), Some(Tile::Experts(512)));
        assert_eq!(tile(forward, 513), Some(ALL_EXPERTS));
        for operation in [Operation::RouterTokens, Operation::RouterTokensBackward] {
            assert_eq!(tile(operation, 129), Some(Tile::Experts(256)));
            assert_eq!(tile(operation, 512), Some(Tile::Experts(512)));
            assert_eq!(tile(operation, 513), None);
        }
    }
}
