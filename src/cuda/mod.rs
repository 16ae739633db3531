//! The GPU: every operation as CUDA kernels, launched through the driver API.
//!
//! ```no_run
//! use millet::{Cuda, Keep, MoeConfig, MoeLayer};
//!
//! let cuda = Cuda::device(0)?;
//! let layer = MoeLayer::new(cuda, MoeConfig::builder(2048, 1024, 64, 8).build()?);
//! let saved = layer.saved::<millet::half::bf16>(4096, Keep::Hidden)?;
//! # Ok::<(), millet::Error>(())
//! ```
//!
//! Tensors are cudarc's: a [`CudaSlice`] or a part of one. What is read is taken as a [`View`], which both kinds of
//! cudarc's shared views convert into; what is written as a [`CudaViewMut`]. Every operation checks lengths, alignment, context and
//! the plan's stream before it launches anything, allocates nothing and never waits, so that it can be captured in a CUDA graph.
//!
//! # Graphs
//!
//! Capture needs a stream of its own ([`CudaContext::new_stream`]) and memory without cudarc's event tracking: call
//! [`CudaContext::disable_event_tracking`] before allocating. A layer's workspace serves one stream, captured steps and others: cudarc
//! launches a graph in the stream that it was captured in, behind what else uses that workspace. Scratch that you give to the
//! operations yourself, or a graph that you launch elsewhere through the driver, is yours to keep apart. Where a launch and other work
//! share scratch, the kernels that notice end with an assertion, which every later call reports: at once, or when they have waited
//! for 10 seconds.
//!
//! A graph keeps the kernels loaded, for as long as its context is there. A [`Plan`](crate::Plan) notes on the host what a captured
//! dispatch will have made: use it outside the graph only after a replay. From the first captured operation on, a plan keeps its number
//! of tokens, and so does a [`Saved`](crate::Saved).
//!
//! cudarc's functions for graphs are safe to call and check nothing. Two things are therefore yours to keep: the buffers live as long
//! as a graph that was captured with them may run, and no other thread begins or ends a capture of the stream while an operation is
//! being submitted.
//!
//! # Streams and memory
//!
//! A context has one [`CudaContext`], which every tensor of a backend must come from: [`CudaContext::new`] makes another one each time,
//! even if the device's context is the same, and cudarc orders and frees memory by what one of them knows.
//!
//! cudarc notes for each [`CudaSlice`] its last write and its last read only. When two streams read the same slice, with nothing that
//! orders them, only the later one is waited for before the slice is freed or written. Keep such a slice until both have been
//! synchronised, or order the readers: `second.join(&first)` ([`CudaStream::join`]) after the first has read, before the second does.

mod arch;
mod catalogue;
mod combine;
mod dispatch;
mod experts;
mod launch;
mod library;
mod memory;
mod module;
mod permute;
mod router;
#[allow(missing_docs, unreachable_pub)] // made by bindgen
mod sys;

use std::sync::Arc;

use cudarc::driver::sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaViewMut, DriverError};

pub use memory::View;

use crate::config::MoeConfig;
use crate::element::{DType, Element, Scalar};
use crate::error::{Error, Result};
use crate::ops::{Memory, RowTiles};

/// Bytes that a kernel reads or writes at a time where rows allow it.
const VECTOR: usize = 16;

/// Are rows of so many elements whole vectors?
const fn is_vectors(dtype: DType, columns: usize) -> bool {
    (columns * dtype.size()).is_multiple_of(VECTOR)
}

/// What addresses must be a multiple of, in bytes, where rows are read by vectors or else by elements.
const fn alignment(dtype: DType, vectors: bool) -> usize {
    if vectors { VECTOR } else { dtype.size() }
}

/// Refuses more than the kernels have room for.
fn at_most(operation: &'static str, what: &str, given: usize, limit: u32) -> Result<()> {
    if given <= limit as usize {
        return Ok(());
    }
    Err(Error::Unsupported {
        operation,
        reason: format!("CUDA routes to at most {limit} {what}, but the configuration has {given}"),
    })
}

/// The handle of the stream that every thread has of its own.
const PER_THREAD: usize = 2;

/// A CUDA device and one stream of it, in whose order the operations run. Clones share both; dropping the last one waits for what
/// the stream still has to do.
#[derive(Debug, Clone)]
pub struct Cuda {
    // Dropped in this order.
    _finish: Arc<Finish>,
    stream: Arc<CudaStream>,
    kernels: Arc<module::Kernels>,
    f32_products: F32Products,
}

/// Waits for the stream when the last clone of a backend goes: then the kernels are unloaded, and the stream may be destroyed.
/// cudarc waits for what uses memory only while the context has streams; with the last one gone it would free tensors of the
/// default stream under kernels that are still running.
#[derive(Debug)]
struct Finish {
    stream: Arc<CudaStream>,
    kernels: Arc<module::Kernels>,
}

impl Drop for Finish {
    fn drop(&mut self) {
        // During a capture nothing can be waited for: what was submitted before it may still run these kernels.
        let waited = match is_capturing(&self.stream) {
            Ok(true) => return self.kernels.keep(),
            Ok(false) => self.stream.synchronize(),
            Err(error) => Err(error),
        };
        if waited.is_err() {
            self.kernels.keep();
        }
        self.stream.context().record_err(waited);
    }
}

/// Is what is submitted to the stream recorded for a graph?
fn is_capturing(stream: &CudaStream) -> std::result::Result<bool, DriverError> {
    let status = stream.capture_status()?;
    Ok(status != CU_STREAM_CAPTURE_STATUS_NONE)
}

/// How tensor cores multiply the experts' f32 rows and weights; they have no f32 of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum F32Products {
    /// Three products of tf32 parts: as accurate as f32.
    #[default]
    ThreeTf32,
    /// One product of factors rounded to tf32 (11 bits): a third of the tensor operations, 3 digits.
    Tf32,
}

impl Cuda {
    /// On this stream. Loads the kernels, once for a context.
    ///
    /// # Errors
    /// When this build has no code for the device, or the driver refuses to load it; for the per-thread default stream.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        if stream.cu_stream() as usize == PER_THREAD {
            return Err(Error::Unsupported {
                operation: "Cuda::new",
                reason: "the per-thread default stream is another one in every thread, but a backend has one order; make a \
                         stream with CudaContext::new_stream"
                    .into(),
            });
        }
        let kernels = module::Kernels::load(stream.context())?;
        Ok(Self {
            _finish: Arc::new(Finish {
                stream: stream.clone(),
                kernels: kernels.clone(),
            }),
            stream: stream.clone(),
            kernels,
            f32_products: F32Products::default(),
        })
    }

    /// Chooses how the experts' products of f32 are made; the router's are always as accurate as f32.
    #[must_use]
    pub fn f32_products(mut self, products: F32Products) -> Self {
        self.f32_products = products;
        self
    }

    /// On a new stream of the device `ordinal`, 0 being the first.
    ///
    /// # Errors
    /// When there is no CUDA driver or no such device; and as [`new`](Self::new).
    pub fn device(ordinal: usize) -> Result<Self> {
        let no_device = |reason| Error::NoDevice { ordinal, reason };
        library::find().map_err(no_device)?;
        let context = CudaContext::new(ordinal).map_err(|error| no_device(error.to_string()))?;
        let stream = context
            .new_stream()
            .map_err(|error| no_device(error.to_string()))?;
        Self::new(&stream)
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// A copy from or to the host would be recorded, and made by the graph when that memory is gone.
    fn refuse_capture(&self, operation: &'static str) -> Result<()> {
        match self.is_capturing()? {
            false => Ok(()),
            true => Err(Error::Unsupported {
                operation,
                reason: "the stream is being captured; copy before or after".into(),
            }),
        }
    }

    fn failed(&self, operation: &'static str) -> impl Fn(DriverError) -> Error {
        move |error| Error::Driver { operation, error }
    }
}

impl Memory for Cuda {
    type Buffer<T: Scalar> = CudaSlice<T>;
    type View<'a, T: Scalar> = View<'a, T>;
    type ViewMut<'a, T: Scalar> = CudaViewMut<'a, T>;

    fn allocate<T: Scalar>(&self, len: usize) -> Result<CudaSlice<T>> {
        // The driver has no allocations of nothing.
        self.stream
            .alloc_zeros(len.max(1))
            .map_err(self.failed("allocate"))
    }

    fn upload<T: Scalar>(&self, host: &[T]) -> Result<CudaSlice<T>> {
        let failed = self.failed("upload");
        self.refuse_capture("upload")?;
        if host.is_empty() {
            return self.allocate(0);
        }
        let buffer = self.stream.clone_htod(host).map_err(&failed)?;
        Ok(buffer)
    }

    fn view<T: Scalar>(buffer: &CudaSlice<T>, len: usize) -> View<'_, T> {
        View::first(buffer, len)
    }

    fn view_mut<T: Scalar>(buffer: &mut CudaSlice<T>, len: usize) -> CudaViewMut<'_, T> {
        buffer.slice_mut(..len)
    }

    fn shorten<'short, 'long: 'short, T: Scalar>(view: View<'long, T>) -> View<'short, T> {
        view
    }

    fn shorten_mut<'short, 'long: 'short, T: Scalar>(
        view: CudaViewMut<'long, T>,
    ) -> CudaViewMut<'short, T> {
        view
    }

    fn len<T: Scalar>(view: View<'_, T>) -> usize {
        view.len()
    }

    fn len_mut<T: Scalar>(view: &CudaViewMut<'_, T>) -> usize {
        view.len()
    }

    fn read<T: Scalar>(&self, view: View<'_, T>) -> Result<Vec<T>> {
        self.check_place("read", "view", view)?;
        self.refuse_capture("read")?;
        view.to_host(&self.stream).map_err(self.failed("read"))
    }

    fn is_capturing(&self) -> Result<bool> {
        is_capturing(&self.stream).map_err(self.failed("capture status"))
    }

    fn check_place<T: Scalar>(
        &self,
        operation: &'static str,
        tensor: &'static str,
        view: View<'_, T>,
    ) -> Result<()> {
        memory::check_context(self, operation, tensor, view.stream().context())
    }

    fn check_place_mut<T: Scalar>(
        &self,
        operation: &'static str,
        tensor: &'static str,
        view: &CudaViewMut<'_, T>,
    ) -> Result<()> {
        memory::check_context(self, operation, tensor, memory::context_of(view))
    }

    fn check_stream<T: Scalar>(
        &self,
        operation: &'static str,
        object: &'static str,
        view: View<'_, T>,
    ) -> Result<()> {
        self.check_place(operation, object, view)?;
        // By handle: each call of `default_stream` gives another object.
        if view.stream().cu_stream() == self.stream.cu_stream() {
            Ok(())
        } else {
            Err(Error::WrongStream { operation, object })
        }
    }

    fn scratch_elements<T: Element>(&self, config: &MoeConfig, tokens: usize) -> usize {
        // No operation takes more.
        let tokens = tokens.min(i32::MAX as usize);
        let shared_limit = self.kernels.shared_limit;
        [
            router::scratch_elements::<T::Acc>(config, tokens, shared_limit),
            dispatch::scratch_elements::<T::Acc>(config, tokens),
            experts::scratch_elements::<T>(config, tokens, shared_limit),
        ]
        .into_iter()
        .max()
        .unwrap_or(0)
    }

    fn row_tiles(&self, config: &MoeConfig, tokens: usize) -> RowTiles {
        let products = self.kernels.architecture.products();
        products.row_tiles(config.max_rows(tokens), config.num_experts())
    }
}
