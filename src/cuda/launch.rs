//! One operation's launches: collects the tensors' addresses, checks their alignment, and submits kernels.

use cudarc::driver::{CudaViewMut, DeviceRepr, SyncOnDrop, result};

use super::Cuda;
use super::catalogue::{self, Kernel, Operation, Tile, Types};
use super::memory::View;
use crate::element::{DType, Element, Real, Scalar};
use crate::error::{Error, Result};

/// The tensors and launches of one operation. cudarc's guards are kept until it is dropped, after the launches.
pub(crate) struct Launch<'a> {
    cuda: &'a Cuda,
    operation: &'static str,
    guards: Vec<SyncOnDrop<'a>>,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(cuda: &'a Cuda, operation: &'static str) -> Self {
        Self {
            cuda,
            operation,
            guards: Vec::new(),
        }
    }

    pub(crate) fn cuda(&self) -> &'a Cuda {
        self.cuda
    }

    pub(crate) fn operation(&self) -> &'static str {
        self.operation
    }

    /// The address of a tensor that kernels read, `alignment` bytes at a time.
    pub(crate) fn read<T: Scalar>(
        &mut self,
        tensor: &'static str,
        view: View<'a, T>,
        alignment: usize,
    ) -> Result<*const T> {
        let (address, guard) = view.address(&self.cuda.stream);
        self.guards.push(guard);
        self.check_alignment(tensor, address, alignment)?;
        Ok(address as *const T)
    }

    /// The address of a tensor that kernels write (and may read), `alignment` bytes at a time.
    pub(crate) fn write<T: Scalar>(
        &mut self,
        tensor: &'static str,
        view: CudaViewMut<'a, T>,
        alignment: usize,
    ) -> Result<*mut T> {
        let (address, guard) = view.view_ptr_mut(&self.cuda.stream);
        self.guards.push(guard);
        self.check_alignment(tensor, address, alignment)?;
        Ok(address as *mut T)
    }

    fn check_alignment(&self, tensor: &'static str, address: u64, alignment: usize) -> Result<()> {
        if address.is_multiple_of(alignment as u64) {
            return Ok(());
        }
        Err(Error::Alignment {
            operation: self.operation,
            tensor,
            expected: alignment,
            address,
        })
    }

    /// A kernel without types.
    pub(crate) fn untyped(&self, operation: Operation) -> Result<Kernel> {
        self.find(operation, Tile::Only, Types::Untyped, || {
            format!("there is no kernel for {operation:?}")
        })
    }

    /// The kernel of a storage type.
    pub(crate) fn kernel(&self, operation: Operation, tile: Tile, dtype: DType) -> Result<Kernel> {
        self.find(operation, tile, Types::Of(dtype), || {
            let types = catalogue::types_of(operation);
            let types: Vec<_> = types.iter().map(DType::to_string).collect();
            format!(
                "CUDA computes in {}, not in {dtype}; use the CPU for it",
                types.join(", ")
            )
        })
    }

    /// The kernel of the types of x and of the router weight.
    pub(crate) fn router_kernel<T: Element, W: Element>(
        &self,
        operation: Operation,
        tile: Tile,
    ) -> Result<Kernel> {
        let (x, weight) = (T::DTYPE, W::DTYPE);
        if x == weight {
            return self.kernel(operation, tile, x);
        }
        self.find(operation, tile, Types::Router(x, weight), || {
            format!(
                "a router weight in {weight} with tokens in {x}; CUDA takes the tokens' type or f32"
            )
        })
    }

    fn find(
        &self,
        operation: Operation,
        tile: Tile,
        types: Types,
        reason: impl FnOnce() -> String,
    ) -> Result<Kernel> {
        let architecture = self.cuda.kernels.architecture;
        catalogue::find(architecture, operation, tile, types).ok_or_else(|| Error::Unsupported {
            operation: self.operation,
            reason: reason(),
        })
    }

    /// Refuses f64.
    pub(crate) fn require_f32<A: Real>(&self) -> Result<()> {
        if A::DTYPE == DType::F32 {
            return Ok(());
        }
        Err(Error::Unsupported {
            operation: self.operation,
            reason: format!(
                "CUDA accumulates in f32, not in {}; use the CPU for it",
                A::DTYPE
            ),
        })
    }

    /// Submits `kernel`; nothing if a grid has no blocks.
    ///
    /// # Safety
    /// `parameters` must be the kernel's, with addresses that came from [`read`](Self::read) and [`write`](Self::write) of
    /// this launch, of tensors as large as the kernel takes them to be.
    pub(crate) unsafe fn run<P: DeviceRepr>(
        &self,
        kernel: Kernel,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
        parameters: &P,
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let (function, own) = self.cuda.kernels.get(kernel);
        let shared_limit = self.cuda.kernels.shared_limit;
        if shared_bytes + own > shared_limit {
            return Err(Error::Unsupported {
                operation: self.operation,
                reason: format!(
                    "a block would need {} bytes of shared memory for these sizes, but the device has {shared_limit}",
                    shared_bytes + own
                ),
            });
        }
        let limits = [i32::MAX as usize, 65535, 65535];
        if grid
            .iter()
            .zip(limits)
            .any(|(&blocks, limit)| blocks > limit)
        {
            return Err(Error::Unsupported {
                operation: self.operation,
                reason: format!("a grid of {grid:?} blocks, over the limits {limits:?}"),
            });
        }
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        let stream = &self.cuda.stream;
        let mut arguments = [std::ptr::from_ref(parameters).cast_mut().cast()];
        // Which binds the context to the thread, too.
        super::is_capturing(stream)
            .and_then(|captured| {
                if captured {
                    self.cuda.kernels.keep();
                }
                // SAFETY: by this function's contract; the kernels are loaded while `cuda` is there.
                unsafe {
                    result::launch_kernel(
                        function,
                        (x, y, z),
                        (threads as u32, 1, 1),
                        shared_bytes as u32,
                        stream.cu_stream(),
                        &mut arguments,
                    )
                }
            })
            .map_err(|error| self.failed(error))
    }

    /// Sets `bytes` bytes to 0.
    ///
    /// # Safety
    /// They must be part of a tensor of [`write`](Self::write) of this launch.
    pub(crate) unsafe fn clear<T>(&self, address: *mut T, bytes: usize) -> Result<()> {
        let stream = &self.cuda.stream;
        stream
            .context()
            .bind_to_thread()
            // SAFETY: by this function's contract.
            .and_then(|()| unsafe {
                result::memset_d8_async(address as u64, 0, bytes, stream.cu_stream())
            })
            .map_err(|error| self.failed(error))
    }

    pub(crate) fn failed(&self, error: cudarc::driver::DriverError) -> Error {
        Error::Driver {
            operation: self.operation,
            error,
        }
    }
}

/// Pieces of scratch, each at a multiple of 256 bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Pieces {
    bytes: usize,
}

impl Pieces {
    /// Takes `len` elements; gives where they begin, in bytes.
    pub(crate) fn take<T>(&mut self, len: usize) -> usize {
        let start = self.bytes;
        self.bytes = start
            .saturating_add(len.saturating_mul(size_of::<T>()))
            .checked_next_multiple_of(256)
            .unwrap_or(usize::MAX);
        start
    }

    /// Elements of `A` that all pieces need.
    pub(crate) fn elements<A>(&self) -> usize {
        self.bytes.div_ceil(size_of::<A>())
    }
}
