//! Device memory as the operations take it: cudarc's slices and views.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DeviceSlice, SyncOnDrop,
};

use super::Cuda;
use crate::error::{Error, Result};

/// A shared view of device memory: of a [`CudaSlice`] or of a [`CudaView`], by `From`. Unlike cudarc's views it can be copied.
#[derive(Debug)]
pub struct View<'a, T> {
    source: Source<'a, T>,
    len: usize,
}

#[derive(Debug)]
enum Source<'a, T> {
    Slice(&'a CudaSlice<T>),
    View(&'a CudaView<'a, T>),
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for View<'_, T> {}
impl<T> Clone for Source<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Source<'_, T> {}

impl<'a, T> From<&'a CudaSlice<T>> for View<'a, T> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        Self {
            len: slice.len(),
            source: Source::Slice(slice),
        }
    }
}

impl<'a, T> From<&'a CudaView<'_, T>> for View<'a, T> {
    fn from(view: &'a CudaView<'_, T>) -> Self {
        Self {
            len: view.len(),
            source: Source::View(view),
        }
    }
}

impl<'a, T> View<'a, T> {
    /// The first `len` elements of a slice.
    pub(crate) fn first(slice: &'a CudaSlice<T>, len: usize) -> Self {
        assert!(
            len <= slice.len(),
            "{len} elements of a slice of {}",
            slice.len()
        );
        Self {
            len,
            source: Source::Slice(slice),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No elements?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies to the host after what the stream still has to do.
    pub(crate) fn to_host(
        self,
        stream: &Arc<CudaStream>,
    ) -> Result<Vec<T>, cudarc::driver::DriverError>
    where
        T: cudarc::driver::DeviceRepr,
    {
        if self.len == 0 {
            return Ok(Vec::new());
        }
        match self.source {
            Source::Slice(slice) => stream.clone_dtoh(&slice.slice(..self.len)),
            Source::View(view) => stream.clone_dtoh(&view.slice(..self.len)),
        }
    }

    /// The stream that the memory was allocated in.
    pub(crate) fn stream(&self) -> &'a Arc<CudaStream> {
        match self.source {
            Source::Slice(slice) => slice.stream(),
            Source::View(view) => DeviceSlice::stream(view),
        }
    }

    /// The device address for a reader in `stream`, and what must be dropped after the read is submitted.
    pub fn address(self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        match self.source {
            Source::Slice(slice) => slice.device_ptr(stream),
            Source::View(view) => view.device_ptr(stream),
        }
    }
}

/// The context that a view to write belongs to.
pub(crate) fn context_of<'a, T>(view: &'a CudaViewMut<'_, T>) -> &'a Arc<CudaContext> {
    DeviceSlice::stream(view).context()
}

/// Refuses a tensor of another context. Contexts are compared as objects: the handle of a device's primary context is the same in
/// all that hold it, but each manages only its own streams and events.
pub(crate) fn check_context(
    cuda: &Cuda,
    operation: &'static str,
    tensor: &'static str,
    context: &Arc<CudaContext>,
) -> Result<()> {
    let own = cuda.stream.context();
    let (expected, given) = (own.ordinal(), context.ordinal());
    if Arc::ptr_eq(context, own) {
        Ok(())
    } else if expected == given {
        Err(Error::WrongContext {
            operation,
            tensor,
            ordinal: given,
        })
    } else {
        Err(Error::WrongDevice {
            operation,
            tensor,
            expected,
            given,
        })
    }
}
