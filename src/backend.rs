//! The operations of the contract, as every backend offers them.
//!
//! An operation reads and writes device memory in the order of the backend's stream, allocates nothing, and looks at
//! nothing on the host: sizes come from the configuration and the number of tokens, counts and offsets stay on the
//! device. Scratch is given; [`Backend::scratch_elements`] tells how much.
//!
//! Shapes are those of the [crate documentation](crate#layouts). `R` is the number of routed rows: the last of `offsets`, on the
//! device; buffers of rows have [`MoeConfig::max_rows`] of them.

use crate::config::MoeConfig;
use crate::element::{Element, Real, Scalar};
use crate::error::Result;

/// A device, its memory and its stream.
pub trait Backend {
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
    fn view<T: Scalar>(buffer: &Self::Buffer<T>, len: usize) -> Self::View<'_, T>;

    /// The first `len` elements, to write.
    fn view_mut<T: Scalar>(buffer: &mut Self::Buffer<T>, len: usize) -> Self::ViewMut<'_, T>;

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

    /// Refuses scratch of another stream, device or context. Looks at nothing on the device.
    ///
    /// # Errors
    /// When `scratch`, part of what is called `object` in the message, was not allocated in this backend's stream.
    fn check_scratch<T: Scalar>(
        &self,
        operation: &'static str,
        object: &'static str,
        scratch: Self::View<'_, T>,
    ) -> Result<()>;

    /// Elements of scratch with which any one operation below runs at full speed for up to `tokens` tokens. More tokens never
    /// need less. Depends on the type, the configuration and the tokens; on the CPU also on how many threads the current rayon
    /// pool has: made under one pool it serves any other, on no more threads than it was made for. On CUDA also on the device.
    /// Numbers of tokens that no operation takes give a number all the same.
    fn scratch_elements<T: Element>(&self, config: &MoeConfig, tokens: usize) -> usize;

    /// Router: logits → experts, weights, statistics and losses.
    ///
    /// # Errors
    /// When a shape does not fit or the backend cannot do this configuration.
    fn router_forward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        input: RouterInput<'_, '_, Self, T, W>,
        output: RouterOutput<'_, Self, T::Acc>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// Router backward: gradient of the weights, and of the losses times `loss_gradient`, to `logits_grad` [T, E].
    ///
    /// `topk` and `map` are what forward made; logits are made again from `input`.
    ///
    /// # Errors
    /// As [`router_forward`](Self::router_forward).
    #[allow(clippy::too_many_arguments)] // one list for one launch; a struct would only rename it
    fn router_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        input: RouterInput<'_, '_, Self, T, W>,
        saved: RouterSaved<'_, Self, T::Acc>,
        weights_grad: Self::View<'_, T::Acc>,
        loss_gradient: f64,
        logits_grad: Self::ViewMut<'_, T::Acc>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// dWᵣ = dzᵀ·x: `logits_grad` [T, E], `x` [T, H] → [E, H]. A dz of exactly 0 leaves out what it is multiplied by, NaN too.
    ///
    /// # Errors
    /// When a shape does not fit.
    fn router_weight_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        logits_grad: Self::View<'_, T::Acc>,
        x: Self::View<'_, T>,
        grad: WeightGradOf<'_, Self, W>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// Capacity dropping and the stable sort by expert: `ids` [T, K] → [`DispatchOutput`]. With
    /// [`Renormalize::AfterDrop`](crate::Renormalize::AfterDrop) `weights` [T, K] are renormalised in place, dropped ones to 0.
    ///
    /// # Errors
    /// When a shape does not fit.
    fn dispatch<A: Real>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        ids: Self::View<'_, i32>,
        weights: Self::ViewMut<'_, A>,
        output: DispatchOutput<'_, Self>,
        scratch: Self::ViewMut<'_, A>,
    ) -> Result<()>;

    /// Gather copy: `x` [T, H] → `rows` [R, H].
    ///
    /// # Errors
    /// When a shape does not fit.
    fn permute<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        x: Self::View<'_, T>,
        map: RowMap<'_, Self>,
        rows: Self::ViewMut<'_, T>,
    ) -> Result<()>;

    /// Backward of [`permute`](Self::permute): `rows_grad` [R, H] → `x_grad` [T, H], slots added in order, then the router's
    /// part dz\[t\]·Wᵣ where it is given, one rounding.
    ///
    /// # Errors
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)]
    fn permute_backward<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        rows_grad: Self::View<'_, T>,
        map: RowMap<'_, Self>,
        router: Option<RouterPart<'_, '_, Self, W>>,
        x_grad: Self::ViewMut<'_, T>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// Weighted gather-sum: `rows` [R, H], `weights` [T, K] → `output` [T, H], slots added in order, one rounding.
    ///
    /// # Errors
    /// When a shape does not fit.
    fn unpermute<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        rows: Self::View<'_, T>,
        weights: Self::View<'_, T::Acc>,
        map: RowMap<'_, Self>,
        output: Self::ViewMut<'_, T>,
    ) -> Result<()>;

    /// Backward of [`unpermute`](Self::unpermute): `rows_grad` [R, H] = w·dO and `weights_grad` [T, K] = ⟨dO, row⟩, 0 for a
    /// dropped assignment.
    ///
    /// # Errors
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)]
    fn unpermute_backward<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        output_grad: Self::View<'_, T>,
        rows: Self::View<'_, T>,
        weights: Self::View<'_, T::Acc>,
        map: RowMap<'_, Self>,
        rows_grad: Self::ViewMut<'_, T>,
        weights_grad: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// Up product and SwiGLU: `x` [T, H] gathered by row, `gate_up` [E, 2I, H] → `h` [R, 2I] when wanted, `a` [R, I].
    ///
    /// # Errors
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)]
    fn experts_up<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        x: Self::View<'_, T>,
        gate_up: Self::View<'_, T>,
        map: RowMap<'_, Self>,
        h: Option<Self::ViewMut<'_, T>>,
        a: Self::ViewMut<'_, T>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// Down product and combine: `a` [R, I], `down` [E, H, I], `weights` [T, K] → `output` [T, H]. A row is weighed, then
    /// rounded, and a token's are added in slot order; a token with nothing kept gets 0.
    ///
    /// # Errors
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)]
    fn experts_down<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        a: Self::View<'_, T>,
        down: Self::View<'_, T>,
        weights: Self::View<'_, T::Acc>,
        map: RowMap<'_, Self>,
        output: Self::ViewMut<'_, T>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// Backward through combine, down product and SwiGLU, by row: `output_grad` [T, H] gathered, `h` [R, 2I] in and dh out, →
    /// `weighted_a` [R, I] = w·a, and `weights_grad` [T, K] = ⟨dO·down, a⟩, 0 for a dropped assignment. dh and w·a of a weight of 0 are
    /// exactly 0, whatever it would be multiplied by.
    ///
    /// # Errors
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)]
    fn experts_down_backward<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        output_grad: Self::View<'_, T>,
        down: Self::View<'_, T>,
        weights: Self::View<'_, T::Acc>,
        map: RowMap<'_, Self>,
        h: Self::ViewMut<'_, T>,
        weighted_a: Self::ViewMut<'_, T>,
        weights_grad: Self::ViewMut<'_, T::Acc>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// `d_down[e] = Σ dO[t]ᵀ·(w·a)[r]`: → [E, H, I]. An expert without rows gets exactly 0, written. A row of w·a that is exactly 0
    /// is left out, whatever dO.
    ///
    /// # Errors
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)]
    fn experts_down_weight_grad<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        output_grad: Self::View<'_, T>,
        weighted_a: Self::View<'_, T>,
        map: RowMap<'_, Self>,
        grad: WeightGradOf<'_, Self, T>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// `d_gate_up[e] = Σ dh[r]ᵀ·x[t]`: → [E, 2I, H]. An expert without rows gets exactly 0, written. A row of dh that is exactly 0 is
    /// left out, whatever x.
    ///
    /// # Errors
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)]
    fn experts_up_weight_grad<T: Element>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        x: Self::View<'_, T>,
        h_grad: Self::View<'_, T>,
        map: RowMap<'_, Self>,
        grad: WeightGradOf<'_, Self, T>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;

    /// `dX[t] = Σ_slot (dh·gate_up)[row] + dz[t]·Wᵣ`: → `x_grad` [T, H]. A row of dh, and a dz, that is exactly 0 leaves out what it is
    /// multiplied by.
    ///
    /// # Errors
    /// When a shape does not fit.
    #[allow(clippy::too_many_arguments)]
    fn experts_input_grad<T: Element, W: Element<Acc = T::Acc>>(
        &self,
        config: &MoeConfig,
        tokens: usize,
        h_grad: Self::View<'_, T>,
        gate_up: Self::View<'_, T>,
        map: RowMap<'_, Self>,
        router: RouterPart<'_, '_, Self, W>,
        x_grad: Self::ViewMut<'_, T>,
        scratch: Self::ViewMut<'_, T::Acc>,
    ) -> Result<()>;
}

/// Where logits come from, and the selection bias.
pub struct RouterInput<'x, 'w, B: Backend + ?Sized, T: Element, W: Element<Acc = T::Acc> = T> {
    /// Logits, or what they are made of.
    pub logits: LogitsOf<'x, 'w, B, T, W>,
    /// Per-expert bias \[E\] of the selection, with [`ScoreFunction::Sigmoid`](crate::ScoreFunction::Sigmoid) only.
    pub selection_bias: Option<B::View<'w, T::Acc>>,
}

/// The router's logits: views of the tokens, of the router's weight and of values in the accumulation type. [`LogitsOf`] names
/// a backend's.
///
/// The parameters are the views themselves, so that a backend whose views are slices takes a `&Vec` here too.
#[derive(Clone, Copy)]
pub enum Logits<X, W, A> {
    /// z = x·Wᵣᵀ, never stored.
    FromTokens {
        /// [T, H].
        x: X,
        /// [E, H], in the tokens' type or the accumulation type.
        weight: W,
    },
    /// Given by the caller, [T, E].
    Given(A),
    /// Given by the caller in the tokens' type, [T, E]: read as they are, computed with in the accumulation type.
    GivenNarrow(X),
}

/// [`Logits`] of a backend, for tokens of type `T` and a weight of type `W`.
pub type LogitsOf<'x, 'w, B, T, W = T> = Logits<
    <B as Backend>::View<'x, T>,
    <B as Backend>::View<'w, W>,
    <B as Backend>::View<'x, <T as Element>::Acc>,
>;

impl<B: Backend + ?Sized, T: Element, W: Element<Acc = T::Acc>> Clone
    for RouterInput<'_, '_, B, T, W>
{
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend + ?Sized, T: Element, W: Element<Acc = T::Acc>> Copy
    for RouterInput<'_, '_, B, T, W>
{
}

/// The router's part of the gradient of x: dz·Wᵣ.
pub struct RouterPart<'g, 'w, B: Backend + ?Sized, W: Element> {
    /// dz [T, E], from [`Backend::router_backward`].
    pub logits_grad: B::View<'g, W::Acc>,
    /// Wᵣ [E, H].
    pub weight: B::View<'w, W>,
}

impl<B: Backend + ?Sized, W: Element> Clone for RouterPart<'_, '_, B, W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend + ?Sized, W: Element> Copy for RouterPart<'_, '_, B, W> {}

/// What [`Backend::router_forward`] writes.
pub struct RouterOutput<'a, B: Backend + ?Sized, A: Real> {
    /// [T, K], weight descending; −1 in a slot that only masked experts were left for.
    pub ids: B::ViewMut<'a, i32>,
    /// [T, K], descending.
    pub weights: B::ViewMut<'a, A>,
    /// logsumexp of each row's logits \[T\]; NaN marks a bad row.
    pub lse: B::ViewMut<'a, A>,
    /// Assignments of each expert before dropping \[E\].
    pub counts: B::ViewMut<'a, i32>,
    /// See [`stats_elements`].
    pub stats: B::ViewMut<'a, A>,
    /// [T, E], for whoever wants them: given to [`Backend::router_backward`], they are not computed again.
    pub logits: Option<B::ViewMut<'a, A>>,
}

/// What [`Backend::router_backward`] reads of the forward pass.
pub struct RouterSaved<'a, B: Backend + ?Sized, A: Real> {
    /// [T, K].
    pub ids: B::View<'a, i32>,
    /// [T, K], as [`Backend::dispatch`] left them.
    pub weights: B::View<'a, A>,
    /// \[T\].
    pub lse: B::View<'a, A>,
    /// \[E\].
    pub counts: B::View<'a, i32>,
}

/// What [`Backend::dispatch`] writes.
pub struct DispatchOutput<'a, B: Backend + ?Sized> {
    /// \[E + 1\] exclusive prefix sums of kept rows.
    pub offsets: B::ViewMut<'a, i32>,
    /// \[max rows\] row → assignment t·K + slot; −1 after the last row.
    pub row_to_assignment: B::ViewMut<'a, i32>,
    /// \[T·K\] assignment → row; −1: dropped or a sentinel.
    pub assignment_to_row: B::ViewMut<'a, i32>,
    /// [max row tiles, 2] expert and first row of each tile of [`MoeConfig::tile_rows`] rows, −1 after the last: an expert's
    /// last tile may be short, an expert without rows has none.
    pub row_tiles: B::ViewMut<'a, i32>,
}

/// The dispatch plan, read.
pub struct RowMap<'a, B: Backend + ?Sized> {
    /// \[E + 1\] exclusive prefix sums of kept rows.
    pub offsets: B::View<'a, i32>,
    /// \[max rows\] row → assignment t·K + slot; −1 after the last row.
    pub row_to_assignment: B::View<'a, i32>,
    /// \[T·K\] assignment → row; −1: dropped or a sentinel.
    pub assignment_to_row: B::View<'a, i32>,
    /// [max row tiles, 2] expert and first row of each tile, −1 after the last.
    pub row_tiles: B::View<'a, i32>,
}

impl<B: Backend + ?Sized> Clone for RowMap<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend + ?Sized> Copy for RowMap<'_, B> {}

/// Where a weight gradient goes: views of memory in the weight's type or in the accumulation type. [`WeightGradOf`] names a
/// backend's.
///
/// The parameters are the views themselves, so that a backend whose views are slices takes a `&mut Vec` here too:
///
/// ```
/// use millet::{Backend, Cpu, Gradients, Logits, LogitsOf, MoeConfig, WeightGrad};
///
/// let config = MoeConfig::builder(4, 1, 2, 2).build()?;
/// let (logits_grad, x) = (vec![1.0_f32; 2], vec![0.5_f32; 4]);
/// let mut scratch = vec![0.0_f32; Cpu.scratch_elements::<f32>(&config, 1)];
/// let (mut grad, mut sum) = (vec![9.0_f32; 8], vec![1.0_f32; 8]);
///
/// Cpu.router_weight_grad(
///     &config, 1, &logits_grad, &x, WeightGrad::Overwrite(&mut grad), &mut scratch,
/// )?;
/// Cpu.router_weight_grad::<f32, f32>(
///     &config, 1, &logits_grad, &x, WeightGrad::Accumulate(&mut sum), &mut scratch,
/// )?;
/// assert_eq!((grad, &sum), (vec![0.5; 8], &vec![1.5; 8]));
///
/// // As a field, and logits likewise:
/// let (mut x_grad, mut gate_up, mut down) = (vec![0.0; 4], vec![0.0; 16], vec![0.0; 8]);
/// let gradients = Gradients::<Cpu, f32, f32> {
///     x: &mut x_grad,
///     router: WeightGrad::Accumulate(&mut sum),
///     gate_up: WeightGrad::Overwrite(&mut gate_up),
///     down: WeightGrad::Accumulate(&mut down),
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
    WeightGrad<<B as Backend>::ViewMut<'a, W>, <B as Backend>::ViewMut<'a, <W as Element>::Acc>>;

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
