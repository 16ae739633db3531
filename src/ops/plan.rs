//! The dispatch plan.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Memory;
use crate::check::{self, Check};
use crate::config::MoeConfig;
use crate::error::{Error, Result};

/// Which row each assignment has: what [`Dispatch::dispatch`](super::Dispatch::dispatch) writes and the operations on rows follow.
///
/// Kernels go where a plan points without looking once more, so a plan is sealed: dispatch fills it, and it keeps the configuration and
/// the number of tokens that it is of. A new plan has 0 tokens. Once an operation on it was captured, its number of tokens stays: the
/// graph may run at any time. It belongs to the stream of the backend that allocated it.
///
/// ```
/// use millet::{Cpu, Dispatch, DispatchForward, Memory, MoeConfig, Permute, PermuteForward, Plan};
///
/// let config = MoeConfig::builder(2, 1, 2, 2).build()?;
/// let mut plan = Plan::new(&Cpu, &config, 16)?;
/// let mut scratch = vec![0.0_f32; Cpu.scratch_elements::<f32>(&config, 16)];
/// Cpu.dispatch(DispatchForward {
///     config: &config,
///     tokens: 1,
///     ids: &[1, 0],
///     weights: &mut [0.75, 0.25],
///     plan: &mut plan,
///     scratch: &mut scratch,
/// })?;
/// assert_eq!(plan.map().assignment_to_row, [1, 0]);
///
/// let (x, mut rows) = ([3.0_f32, 4.0], [0.0; 4]);
/// Cpu.permute(PermuteForward { plan: &plan, x: &x, rows: &mut rows })?;
/// assert_eq!(rows, [3.0, 4.0, 3.0, 4.0]);
/// # Ok::<(), millet::Error>(())
/// ```
///
/// Nobody else makes one in safe code, nor changes one:
///
/// ```compile_fail,E0451
/// use millet::{Cpu, MoeConfig, Plan};
///
/// fn beyond_the_buffer(plan: Plan<Cpu>) -> Plan<Cpu> {
///     Plan { assignment_to_row: vec![1 << 20; 8], ..plan }
/// }
/// ```
#[derive(Debug)]
pub struct Plan<B: Memory> {
    /// Of the last dispatch; before it, what the memory was made for.
    config: MoeConfig,
    max_tokens: usize,
    tokens: usize,
    tiles: RowTiles,
    /// No dispatch has written the maps yet: they are zero, and point at the first row and the first assignment.
    blank: bool,
    /// A graph fills or follows it: its number of tokens is fixed.
    in_graph: AtomicBool,
    offsets: B::Buffer<i32>,
    row_to_assignment: B::Buffer<i32>,
    assignment_to_row: B::Buffer<i32>,
    row_tiles: B::Buffer<i32>,
}

/// In what tiles a [`Plan`] lists each expert's rows, so that a product's blocks find theirs without searching: the backend's choice, see
/// [`Memory::row_tiles`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowTiles {
    /// Rows of a tile; an expert's last one may have fewer.
    pub height: usize,
    /// Tiles at most, known without looking at the routing. 0: none are listed.
    pub most: usize,
}

/// The tensors of a [`Plan`], to read.
pub struct RowMap<'a, B: Memory> {
    /// \[E + 1\] exclusive prefix sums of kept rows.
    pub offsets: B::View<'a, i32>,
    /// \[max rows\] row → assignment t·K + slot; −1 after the last row.
    pub row_to_assignment: B::View<'a, i32>,
    /// \[T·K\] assignment → row; −1: dropped or a sentinel.
    pub assignment_to_row: B::View<'a, i32>,
    /// \[most, 2\] expert and first row of each of the plan's [`RowTiles`], −1 after the last; an expert without rows has none.
    pub row_tiles: B::View<'a, i32>,
}

impl<B: Memory> Clone for RowMap<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Memory> Copy for RowMap<'_, B> {}

/// The same, for a backend's dispatch to write.
pub struct RowMapMut<'a, B: Memory> {
    /// As [`RowMap::offsets`].
    pub offsets: B::ViewMut<'a, i32>,
    /// As [`RowMap::row_to_assignment`].
    pub row_to_assignment: B::ViewMut<'a, i32>,
    /// As [`RowMap::assignment_to_row`].
    pub assignment_to_row: B::ViewMut<'a, i32>,
    /// As [`RowMap::row_tiles`].
    pub row_tiles: B::ViewMut<'a, i32>,
}

/// Elements of the tensors.
fn sizes(config: &MoeConfig, tokens: usize, tiles: RowTiles) -> [usize; 4] {
    [
        config.num_experts() + 1,
        config.max_rows(tokens),
        tokens * config.top_k(),
        2 * tiles.most,
    ]
}

impl<B: Memory> Plan<B> {
    /// Memory for plans of up to `max_tokens` tokens, of configurations of the same sizes (H, I, E, K and capacity factor).
    ///
    /// # Errors
    /// When T·K would reach 2³¹ − 4096 or there is too little memory.
    pub fn new(backend: &B, config: &MoeConfig, max_tokens: usize) -> Result<Self> {
        check::tokens("plan", config, max_tokens)?;
        let most = backend.row_tiles(config, max_tokens);
        let [offsets, rows, assignments, tiles] = sizes(config, max_tokens, most);
        Ok(Self {
            config: config.clone(),
            max_tokens,
            tokens: 0,
            tiles: backend.row_tiles(config, 0),
            blank: true,
            in_graph: AtomicBool::new(false),
            offsets: backend.allocate(offsets)?,
            row_to_assignment: backend.allocate(rows)?,
            assignment_to_row: backend.allocate(assignments)?,
            row_tiles: backend.allocate(tiles)?,
        })
    }

    /// A plan that something else made.
    ///
    /// # Safety
    /// The tensors must hold what [`RowMap`] says, for this configuration and number of tokens, with `backend`'s tiles
    /// ([`Memory::row_tiles`]): offsets that ascend from 0 to at most [`MoeConfig::max_rows`], two maps that are each other's inverse
    /// on that many rows, and tiles that cover each expert's rows. They must be at least as long as [`RowMap`] has them, and of
    /// `backend`'s stream. An expert's assignments ascend, tiles do not overlap and end with −1, and T·K stays below 2³¹ − 4096.
    pub unsafe fn from_parts(
        backend: &B,
        config: MoeConfig,
        tokens: usize,
        offsets: B::Buffer<i32>,
        row_to_assignment: B::Buffer<i32>,
        assignment_to_row: B::Buffer<i32>,
        row_tiles: B::Buffer<i32>,
    ) -> Self {
        Self {
            tiles: backend.row_tiles(&config, tokens),
            config,
            max_tokens: tokens,
            tokens,
            blank: false,
            in_graph: AtomicBool::new(false),
            offsets,
            row_to_assignment,
            assignment_to_row,
            row_tiles,
        }
    }

    /// The configuration of the last dispatch.
    pub fn config(&self) -> &MoeConfig {
        &self.config
    }

    /// The tokens of the last dispatch; 0 before the first.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The tiles that the last dispatch listed.
    pub fn row_tiles(&self) -> RowTiles {
        self.tiles
    }

    /// The most tokens that there is memory for.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Its tensors.
    pub fn map(&self) -> RowMap<'_, B> {
        let [offsets, rows, assignments, tiles] = sizes(&self.config, self.tokens, self.tiles);
        RowMap {
            offsets: B::view(&self.offsets, offsets),
            row_to_assignment: B::view(&self.row_to_assignment, rows),
            assignment_to_row: B::view(&self.assignment_to_row, assignments),
            row_tiles: B::view(&self.row_tiles, tiles),
        }
    }

    /// Refuses a plan of another stream.
    fn check_stream(&self, backend: &B, operation: &'static str) -> Result<()> {
        backend.check_stream(operation, "Plan", B::view(&self.offsets, 1))
    }

    /// Begins the check of an operation on this plan's rows.
    pub(super) fn check<'a>(
        &'a self,
        backend: &'a B,
        operation: &'static str,
    ) -> Result<Check<'a, B>> {
        self.check_stream(backend, operation)?;
        Ok(Check {
            backend,
            operation,
            config: &self.config,
            tokens: self.tokens,
        })
    }

    /// Ends it: what is captured now follows this plan whenever its graph runs.
    pub(super) fn note_capture(&self, backend: &B) -> Result<()> {
        if backend.is_capturing()? {
            self.in_graph.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Refuses what there is no memory for, and a plan of another stream.
    pub(super) fn check_room(&self, check: &Check<'_, B>) -> Result<()> {
        let (operation, sizes) = (check.operation, MoeConfig::size_fields);
        check::same_configuration(operation, "Plan", check.config, &self.config, sizes)?;
        check.room(self.max_tokens, "`Plan` was made for so many")?;
        self.check_stream(check.backend, operation)
    }

    /// Refuses another number of tokens than the one that a graph has, and says whether a graph is captured.
    ///
    /// A captured dispatch writes at each replay, not before, and captured operations follow whatever the maps hold at a replay. So from
    /// the first capture on a plan has one number of tokens, and its maps must be in bounds for it already then: every operation on its
    /// rows is in bounds, whether the graph ran or not.
    pub(crate) fn check_graph(
        &self,
        backend: &B,
        operation: &'static str,
        config: &MoeConfig,
        tokens: usize,
    ) -> Result<bool> {
        let captured = backend.is_capturing()?;
        let in_graph = self.in_graph.load(Ordering::Relaxed);
        if (!captured && !in_graph) || tokens == self.tokens {
            return Ok(captured);
        }
        if !self.blank || in_graph {
            return Err(Error::WrongConfiguration {
                operation,
                object: "Plan",
                expected: format!("{tokens} tokens"),
                given: format!("{} tokens, which a graph must not change", self.tokens),
            });
        }
        // A blank plan is in bounds where there is a first row.
        if config.max_rows(tokens) == 0 {
            return Err(Error::Unsupported {
                operation,
                reason: "every token is dropped, and a graph cannot be the first to fill a plan without rows: run this once before \
                         the capture"
                    .into(),
            });
        }
        Ok(captured)
    }

    /// Notes, before the launch, that a graph fills the plan: a launch that fails half-way may have been recorded.
    pub(super) fn filled_by_graph(&mut self, config: &MoeConfig, tokens: usize, tiles: RowTiles) {
        *self.in_graph.get_mut() = true;
        self.filled(config, tokens, tiles);
    }

    /// The tensors of a plan of `tokens` tokens, which [`check_room`](Self::check_room) found room for.
    pub(super) fn map_mut(
        &mut self,
        config: &MoeConfig,
        tokens: usize,
        tiles: RowTiles,
    ) -> RowMapMut<'_, B> {
        let [offsets, rows, assignments, tiles] = sizes(config, tokens, tiles);
        RowMapMut {
            offsets: B::view_mut(&mut self.offsets, offsets),
            row_to_assignment: B::view_mut(&mut self.row_to_assignment, rows),
            assignment_to_row: B::view_mut(&mut self.assignment_to_row, assignments),
            row_tiles: B::view_mut(&mut self.row_tiles, tiles),
        }
    }

    /// Notes what the plan is of from now on.
    pub(super) fn filled(&mut self, config: &MoeConfig, tokens: usize, tiles: RowTiles) {
        self.config.clone_from(config);
        self.tokens = tokens;
        self.tiles = tiles;
        // Without tokens there was nothing to write.
        self.blank &= tokens == 0;
    }
}
