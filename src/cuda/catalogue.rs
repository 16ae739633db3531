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
    /// The down bias's part of dS.
    ExpertsBiasDots,
    ExpertsBiasGrad,
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
    /// Blocks of 256 threads, or twice as many of 128, that a multiprocessor must have registers for.
    #[cfg(test)]
    blocks: usize,
}

impl Row {
    fn kernels(&self) -> impl Iterator<Item = Kernel> {
        let name = self.name;
        self.types.iter().map(move |&types| Kernel { name, types })
    }
}

macro_rules! rows {
    ($($operation:ident, $tile:expr, $architecture:ident, $file:literal, $name:literal, $types:expr, $blocks:literal;)+) => {
        const ROWS: &[Row] = &[
            $(Row {
                operation: Operation::$operation,
                tile: $tile,
                architecture: Architecture::$architecture,
                file: $file,
                name: $name,
                types: $types,
                #[cfg(test)]
                blocks: $blocks,
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
const BF16_F32: Types = Types::Router(DType::BF16, DType::F32);
const F16_F32: Types = Types::Router(DType::F16, DType::F32);
/// x and the router weight of one type, or the weight in f32.
const ROUTER: &[Types] = &[F32, BF16, F16, BF16_F32, F16_F32];

files! {
    "combine", "dispatch", "experts_backward", "experts_bias", "experts_forward", "permute", "router", "router_grad",
    "router_tokens", "router_tokens_backward",
}

rows! {
    // operation, tile, oldest architecture that runs it, file of csrc, name, types, blocks
    // The keys of a row in registers, and room for the loads of the next.
    RouterForward,         Tile::Experts(128), Ampere, "router",                 "router_forward_128",           STORAGE,        2;
    RouterForward,         Tile::Experts(512), Ampere, "router",                 "router_forward_512",           STORAGE,        2;
    RouterForward,         ALL_EXPERTS,        Ampere, "router",                 "router_forward_any",           STORAGE,        2;
    RouterBackward,        Tile::Only,         Ampere, "router",                 "router_backward",              STORAGE,        6;
    // Accumulators of 64 tokens × 128 experts, beside both parts of the factors where the weight is f32; then of more experts.
    RouterTokens,          Tile::Experts(128), Ampere, "router_tokens",          "router_tokens_128",            ROUTER,         2;
    RouterTokens,          Tile::Experts(256), Ampere, "router_tokens",          "router_tokens_256",            ROUTER,         1;
    RouterTokens,          Tile::Experts(512), Ampere, "router_tokens",          "router_tokens_512",            ROUTER,         1;
    RouterTokensBackward,  Tile::Experts(128), Ampere, "router_tokens_backward", "router_tokens_backward_128",   ROUTER,         2;
    RouterTokensBackward,  Tile::Experts(256), Ampere, "router_tokens_backward", "router_tokens_backward_256",   ROUTER,         1;
    RouterTokensBackward,  Tile::Experts(512), Ampere, "router_tokens_backward", "router_tokens_backward_512",   ROUTER,         1;
    RouterLogits,          Tile::Only,         Ampere, "router_tokens",          "router_logits",                ROUTER,         2;
    RouterWeightGrad,      Tile::Only,         Ampere, "router_grad",            "router_weight_grad",           ROUTER,         2;
    RouterInputGrad,       Tile::Only,         Ampere, "router_grad",            "router_input_grad",            ROUTER,         2;

    Dispatch,              Tile::Only,         Ampere, "dispatch",               "dispatch",                     UNTYPED,        4;
    // A copy, one warp per token: as many warps as a multiprocessor holds.
    Permute,               Tile::Only,         Ampere, "permute",                "permute",                      STORAGE,        8;
    // Four rows per warp in flight at a time.
    Unpermute,             Tile::Only,         Ampere, "combine",                "unpermute",                    STORAGE,        4;
    UnpermuteBackward,     Tile::Only,         Ampere, "combine",                "unpermute_backward",           STORAGE,        4;

    // Tiles of up to 128×128: two blocks of 128 threads.
    ExpertsUp,             Tile::Large,        Ampere, "experts_forward",        "experts_up",                   SIXTEEN_BITS,   1;
    ExpertsUp,             Tile::Small,        Ampere, "experts_forward",        "experts_up_small",             STORAGE,        1;
    ExpertsUp,             Tile::Any,          Ampere, "experts_forward",        "experts_up_any",               STORAGE,        1;
    ExpertsDown,           Tile::Large,        Ampere, "experts_forward",        "experts_down",                 SIXTEEN_BITS,   1;
    ExpertsDown,           Tile::Small,        Ampere, "experts_forward",        "experts_down_small",           STORAGE,        1;
    ExpertsDown,           Tile::Any,          Ampere, "experts_forward",        "experts_down_any",             STORAGE,        1;
    ExpertsDownBackward,   Tile::Large,        Ampere, "experts_backward",       "experts_down_backward",        SIXTEEN_BITS,   1;
    ExpertsDownBackward,   Tile::Small,        Ampere, "experts_backward",       "experts_down_backward_small",  STORAGE,        1;
    ExpertsDownBackward,   Tile::Any,          Ampere, "experts_backward",       "experts_down_backward_any",    STORAGE,        1;
    // One sum per assignment.
    ExpertsWeightsGrad,    Tile::Only,         Ampere, "experts_backward",       "experts_weights_grad",         UNTYPED,        8;
    ExpertsInputGrad,      Tile::Large,        Ampere, "experts_backward",       "experts_input_grad",           SIXTEEN_BITS,   1;
    ExpertsInputGrad,      Tile::Small,        Ampere, "experts_backward",       "experts_input_grad_small",     STORAGE,        1;
    ExpertsInputGrad,      Tile::Any,          Ampere, "experts_backward",       "experts_input_grad_any",       STORAGE,        1;
    // Tiles of weight gradients do not depend on the plan's, so that each type has one size.
    ExpertsDownWeightGrad, Tile::Large,        Ampere, "experts_backward",       "experts_down_weight_grad",     SIXTEEN_BITS,   1;
    ExpertsDownWeightGrad, Tile::Small,        Ampere, "experts_backward",       "experts_down_weight_grad",     &[F32],         1;
    ExpertsDownWeightGrad, Tile::Any,          Ampere, "experts_backward",       "experts_down_weight_grad_any", STORAGE,        1;
    ExpertsUpWeightGrad,   Tile::Large,        Ampere, "experts_backward",       "experts_up_weight_grad",       SIXTEEN_BITS,   1;
    ExpertsUpWeightGrad,   Tile::Small,        Ampere, "experts_backward",       "experts_up_weight_grad",       &[F32],         1;
    ExpertsUpWeightGrad,   Tile::Any,          Ampere, "experts_backward",       "experts_up_weight_grad_any",   STORAGE,        1;
    // Four rows per thread in flight, or a row of dO and one of a bias.
    ExpertsBiasDots,       Tile::Only,         Ampere, "experts_bias",           "experts_bias_dots",            STORAGE,        4;
    ExpertsBiasGrad,       Tile::Only,         Ampere, "experts_bias",           "experts_bias_grad",            STORAGE,        4;
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::BF16, DType::F16];

    fn all() -> Vec<Kernel> {
        ROWS.iter().flat_map(Row::kernels).collect()
    }

    /// What ptxas said of a kernel for an architecture.
    #[derive(Debug)]
    struct Compiled<'a> {
        name: &'a str,
        architecture: &'a str,
        registers: usize,
        /// Of the stack frame, and stored and loaded by spills.
        local_bytes: usize,
    }

    /// All that ptxas said.
    fn compiled(log: &str) -> Vec<Compiled<'_>> {
        let number_before = |text: &str| -> usize {
            let number = text.split_whitespace().last();
            number.unwrap().parse().unwrap()
        };
        let mut all = Vec::new();
        let mut lines = log.lines();
        while let Some(line) = lines.next() {
            let Some((_, rest)) = line.split_once("Compiling entry function '") else {
                continue;
            };
            let quoted: Vec<&str> = rest.split('\'').collect();
            // Then a line of its name, one of its local memory and one of its registers.
            let local = lines.nth(1).unwrap();
            let usage = lines.next().unwrap();
            let local_bytes = local.matches(" bytes ").count();
            assert_eq!(local_bytes, 3, "{local}");
            all.push(Compiled {
                name: quoted[0],
                architecture: quoted[2],
                registers: number_before(usage.split(" registers").next().unwrap()),
                local_bytes: local.split(" bytes ").take(3).map(number_before).sum(),
            });
        }
        all
    }

    /// Nothing in local memory, and registers for as many blocks as the table says, on every architecture of this build.
    #[test]
    fn kernels_spill_nothing_and_registers_are_within_the_budget() {
        /// Of a multiprocessor, on every architecture from 8.0 to 12.0.
        const REGISTERS: usize = 65536;
        const THREADS: usize = 256;
        let resident_threads = |architecture| match architecture {
            "sm_86" | "sm_89" | "sm_120" => 1536,
            _ => 2048,
        };
        let log = include_str!(concat!(env!("OUT_DIR"), "/ptxas.txt"));
        let compiled = compiled(log);
        for row in ROWS {
            for name in row.kernels().map(|kernel| kernel.to_string()) {
                let found: Vec<_> = compiled.iter().filter(|c| c.name == name).collect();
                assert!(!found.is_empty(), "{name}");
                for kernel in found {
                    assert_eq!(kernel.local_bytes, 0, "{kernel:?}");
                    // No kernel needs registers for more blocks than can be there.
                    let most = resident_threads(kernel.architecture) / THREADS;
                    let blocks = row.blocks.min(most);
                    // Registers are handed out to a warp in units of 8 per thread; a thread has at most 255.
                    let budget = (REGISTERS / THREADS / blocks / 8 * 8).min(255);
                    assert!(
                        kernel.registers <= budget,
                        "{kernel:?}: at most {budget} for {blocks} blocks of {THREADS} threads"
                    );
                }
            }
        }
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
            let compiled = compiled(&log);
            let architectures: HashSet<&str> = compiled.iter().map(|c| c.architecture).collect();
            assert!(!architectures.is_empty(), "{file}");
            for architecture in architectures {
                let of = |compiled: &&Compiled<'_>| compiled.architecture == architecture;
                let compiled: HashSet<&str> = compiled.iter().filter(of).map(|c| c.name).collect();
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
