//! The operations of the contract: what each computes, its arguments, and the check of them that the layer and every backend share.
//!
//! An operation reads and writes device memory in the order of the backend's stream, allocates nothing, and looks at
//! nothing on the host: sizes come from the configuration and the number of tokens, counts and offsets stay on the
//! device. Scratch is given; [`Memory::scratch_elements`] tells how much.
//!
//! Shapes are those of the [crate documentation](crate#layouts). `R` is the number of routed rows: the last of `offsets`, on the
//! device; buffers of rows have [`MoeConfig::max_rows`] of them.

pub(crate) mod combine;
pub(crate) mod dispatch;
pub(crate) mod experts;
pub(crate) mod permute;
mod plan;
pub(crate) mod router;

pub use combine::{UnpermuteBackward, UnpermuteForward};
pub use dispatch::{Dispatch, DispatchForward, DispatchInto};
pub use experts::{
    Experts, ExpertsBiasGrad, ExpertsDown, ExpertsDownBackward, ExpertsDownWeightGrad,
    ExpertsInputGrad, ExpertsUp, ExpertsUpWeightGrad,
};
pub use permute::{Permute, PermuteBackward, PermuteForward};
pub use plan::{Plan, RowMap, RowMapMut, RowTiles};

pub use router::{
    Logits, LogitsOf, Router, RouterBackward, RouterForward, RouterPart, RouterWeightGrad,
};

use crate::config::MoeConfig;
use crate::element::{Element, Scalar};
use crate::error::Result;

/// A device, its memory and its stream.
pub trait Memory: Sized {
    /// Owned device memory.
    type Buffer<T: Scalar>: Send;
    /// Shared view of device memory.
    type View<'a, T: Scalar>: Copy;
    /// Exclusive view of device memory.
    type ViewMut<'a, T: Scalar>;

    /// Allocates `len` elements, zeroed. Not called inside an operation.
    ///
    /// # Errors
    /// When the device has too little memory.
    fn allocate<T: Scalar>(&self, len: usize) -> Result<Self::Buffer<T>>;

    /// Copies to new device memory. Not called inside an operation.
    ///
    /// # Errors
    /// When the device has too little memory.
    fn upload<T: Scalar>(&self, host: &[T]) -> Result<Self::Buffer<T>>;

    /// The first `len` elements.
    ///
    /// # Panics
    /// When there are fewer.
    fn view<T: Scalar>(buffer: &Self::Buffer<T>, len: usize) -> Self::View<'_, T>;

    /// The first `len` elements, to write.
    ///
    /// # Panics
    /// When there are fewer.
    fn view_mut<T: Scalar>(buffer: &mut Self::Buffer<T>, len: usize) -> Self::ViewMut<'_, T>;

    /// The same view for a shorter time. The compiler does this by itself where it knows the backend.
    fn shorten<'short, 'long: 'short, T: Scalar>(
        view: Self::View<'long, T>,
    ) -> Self::View<'short, T>;

    /// [`shorten`](Self::shorten) of an exclusive view.
    fn shorten_mut<'short, 'long: 'short, T: Scalar>(
        view: Self::ViewMut<'long, T>,
    ) -> Self::ViewMut<'short, T>;

    /// Elements of a view.
    fn len<T: Scalar>(view: Self::View<'_, T>) -> usize;

    /// Elements of an exclusive view.
    fn len_mut<T: Scalar>(view: &Self::ViewMut<'_, T>) -> usize;

    /// Waits for the stream and copies to the host. Not called inside an operation.
    ///
    /// # Errors
    /// When an earlier operation failed on the device.
    fn read<T: Scalar>(&self, view: Self::View<'_, T>) -> Result<Vec<T>>;

    /// Refuses memory of another device or context. Looks at nothing on the device.
    ///
    /// # Errors
    /// When `view`, called `tensor` in the message, is not of this backend's device and context.
    fn check_place<T: Scalar>(
        &self,
        operation: &'static str,
        tensor: &'static str,
        view: Self::View<'_, T>,
    ) -> Result<()>;

    /// [`check_place`](Self::check_place) of memory to write.
    ///
    /// # Errors
    /// As there.
    fn check_place_mut<T: Scalar>(
        &self,
        operation: &'static str,
        tensor: &'static str,
        view: &Self::ViewMut<'_, T>,
    ) -> Result<()>;

    /// Refuses memory of another stream, device or context. Looks at nothing on the device.
    ///
    /// # Errors
    /// When `view`, part of what is called `object` in the message, was not allocated in this backend's stream.
    fn check_stream<T: Scalar>(
        &self,
        operation: &'static str,
        object: &'static str,
        view: Self::View<'_, T>,
    ) -> Result<()>;

    /// Whether what is launched now is recorded for a graph and not executed.
    ///
    /// # Errors
    /// When the device cannot be asked.
    fn is_capturing(&self) -> Result<bool> {
        Ok(false)
    }

    /// Elements of scratch with which any one operation runs at full speed for up to `tokens` tokens. More tokens never
    /// need less. Depends on the type, the configuration and the tokens; on the CPU also on how many threads the current rayon
    /// pool has: made under one pool it serves any other, on no more threads than it was made for. On CUDA also on the device.
    /// Token counts that every operation rejects still give a value.
    fn scratch_elements<T: Element>(&self, config: &MoeConfig, tokens: usize) -> usize;

    /// The tiles of rows that a plan lists for this backend's products; none where they need no list. Depends on the tokens, on what sizes
    /// memory (H, I, E, K and capacity factor) and on the device. More tokens never have a smaller `most`, so that memory made for them
    /// serves fewer.
    fn row_tiles(&self, config: &MoeConfig, tokens: usize) -> RowTiles {
        let _ = (config, tokens);
        RowTiles::default()
    }
}

/// All operations of a layer. Whatever has them is a backend; operations that a layer needs in the future come as traits of their
/// own, and join this sum.
///
/// A backend implements the methods `run_…`, which get arguments that were [`Checked`]: lengths fit, memory is of this backend's place, a
/// plan is of its stream. What is left to refuse is too little scratch and what the backend cannot do.
pub trait Backend: Memory + Router + Dispatch + Permute + Experts {}

impl<B: Memory + Router + Dispatch + Permute + Experts> Backend for B {}

/// Arguments that their operation's check let pass: nothing else makes one.
pub struct Checked<A>(A);

impl<A> Checked<A> {
    /// The arguments.
    pub fn into_inner(self) -> A {
        self.0
    }
}

/// Where a weight gradient goes: views of memory in the weight's type or in the accumulation type. [`WeightGradOf`] names a
/// backend's.
///
/// The parameters are the views themselves, so that a backend whose views are slices takes a `&mut Vec` here too:
///
/// ```
/// use millet::{
///     Cpu, Gradients, Logits, LogitsOf, Memory, MoeConfig, Router, RouterWeightGrad, WeightGrad,
/// };
///
/// let config = MoeConfig::builder(4, 1, 2, 2).build()?;
/// let (logits_grad, x) = (vec![1.0_f32; 2], vec![0.5_f32; 4]);
/// let mut scratch = vec![0.0_f32; Cpu.scratch_elements::<f32>(&config, 1)];
/// let (mut grad, mut sum) = (vec![9.0_f32; 8], vec![1.0_f32; 8]);
///
/// Cpu.router_weight_grad(RouterWeightGrad::<Cpu, f32> {
///     config: &config,
///     tokens: 1,
///     logits_grad: &logits_grad,
///     x: &x,
///     grad: WeightGrad::Overwrite(&mut grad),
///     scratch: &mut scratch,
/// })?;
/// Cpu.router_weight_grad(RouterWeightGrad::<Cpu, f32> {
///     config: &config,
///     tokens: 1,
///     logits_grad: &logits_grad,
///     x: &x,
///     grad: WeightGrad::Accumulate(&mut sum),
///     scratch: &mut scratch,
/// })?;
/// assert_eq!((grad, &sum), (vec![0.5; 8], &vec![1.5; 8]));
///
/// // As a field, and logits likewise:
/// let (mut x_grad, mut gate_up, mut down) = (vec![0.0; 4], vec![0.0; 16], vec![0.0; 8]);
/// let gradients = Gradients::<Cpu, f32, f32> {
///     x: &mut x_grad,
///     router: WeightGrad::Accumulate(&mut sum),
///     gate_up: WeightGrad::Overwrite(&mut gate_up),
///     down: WeightGrad::Accumulate(&mut down),
///     expert_bias: None,
/// };
/// # drop(gradients);
/// let given: LogitsOf<Cpu, f32> = Logits::Given(&logits_grad);
/// # let narrow: LogitsOf<Cpu, f32> = Logits::GivenNarrow(&logits_grad);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub enum WeightGrad<O, A> {
    /// Written, rounded to the weight's type.
    Overwrite(O),
    /// Added to, in the accumulation type.
    Accumulate(A),
}

/// [`WeightGrad`] of a backend, for a weight of type `W`.
pub type WeightGradOf<'a, B, W> =
    WeightGrad<<B as Memory>::ViewMut<'a, W>, <B as Memory>::ViewMut<'a, <W as Element>::Acc>>;

/// Elements of the router's statistics: aux loss, z-loss (coefficients included), bad rows, Σ entropy of p, Σ share of
/// the top-1 weight, Σ weight of each slot \[K\], Σ p of each expert \[E\]; sums over rows that are not bad.
pub fn stats_elements(config: &MoeConfig) -> usize {
    stats::SLOT_WEIGHTS + config.top_k() + config.num_experts()
}

/// Places in the statistics.
pub(crate) mod stats {
    pub(crate) const AUX_LOSS: usize = 0;
    pub(crate) const Z_LOSS: usize = 1;
    pub(crate) const BAD_ROWS: usize = 2;
    pub(crate) const ENTROPY: usize = 3;
    pub(crate) const TOP1_SHARE: usize = 4;
    pub(crate) const SLOT_WEIGHTS: usize = 5;
}
