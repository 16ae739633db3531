//! Everything that can be refused, with what was expected and what was given.

use crate::config::ConfigError;

/// Why an operation was not done. Arguments are checked before anything is written. A backend that finds later that it cannot go on
/// ([`Unsupported`](Self::Unsupported), `Alignment` or `Driver` of the second launch of an operation, or of a later one of a layer) may
/// have written a part of the results.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),

    /// A tensor has the wrong number of elements for its shape.
    #[error(
        "{operation}: `{tensor}` must be {shape} = {expected} elements, but {given} were given"
    )]
    Shape {
        /// Operation that refused.
        operation: &'static str,
        /// The tensor's name: its field's, mostly.
        tensor: &'static str,
        /// The shape in symbols and numbers, e.g. `[T=4, H=8]`.
        shape: String,
        /// Elements of that shape.
        expected: usize,
        /// Elements given.
        given: usize,
    },

    /// The number of tokens does not fit what the buffers or the index types were made for.
    #[error("{operation}: {given} tokens, but at most {limit} are possible ({reason})")]
    TooManyTokens {
        /// Operation that refused.
        operation: &'static str,
        /// Tokens given.
        given: usize,
        /// Largest number possible.
        limit: usize,
        /// What sets the limit.
        reason: &'static str,
    },

    /// A workspace is too small.
    #[error("{operation}: the workspace must have {need} elements, but has {have}")]
    WorkspaceTooSmall {
        /// Operation that refused.
        operation: &'static str,
        /// Elements needed.
        need: usize,
        /// Elements there.
        have: usize,
    },

    /// A `Plan`, a `Saved` or a `Workspace` of another configuration.
    #[error(
        "{operation}: the `{object}` is of a configuration with {given}, but this one has {expected}"
    )]
    WrongConfiguration {
        /// Operation that refused.
        operation: &'static str,
        /// `Plan`, `Saved` or `Workspace`.
        object: &'static str,
        /// The fields that differ, and their values.
        expected: String,
        /// The object's.
        given: String,
    },

    /// The host has not so much memory.
    #[error("{operation}: there is no memory for {bytes} bytes")]
    OutOfMemory {
        /// Operation that refused.
        operation: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },

    /// Backward was asked for, but what it needs was not saved.
    #[error("{operation}: {reason}")]
    NotSaved {
        /// Operation that refused.
        operation: &'static str,
        /// What is missing and how to have it.
        reason: &'static str,
    },

    /// A combination that this backend does not offer.
    #[error("{operation}: {reason}")]
    Unsupported {
        /// Operation that refused.
        operation: &'static str,
        /// What is not offered, and what is.
        reason: String,
    },

    /// A tensor's address is not a multiple of what a kernel reads or writes at a time.
    #[error(
        "{operation}: `{tensor}` must start at a multiple of {expected} bytes, but its address is {address:#x}"
    )]
    Alignment {
        /// Operation that refused.
        operation: &'static str,
        /// The tensor's name: its field's, mostly.
        tensor: &'static str,
        /// Bytes.
        expected: usize,
        /// Device address given.
        address: u64,
    },

    /// A tensor is in the memory of another device.
    #[error(
        "{operation}: `{tensor}` is in the memory of device {given}, but the backend's stream is of device {expected}"
    )]
    WrongDevice {
        /// Operation that refused.
        operation: &'static str,
        /// The tensor's name: its field's, mostly.
        tensor: &'static str,
        /// Ordinal of the backend's device.
        expected: usize,
        /// Ordinal of the tensor's device.
        given: usize,
    },

    /// A tensor was allocated by another `CudaContext` of the same device: cudarc tells only one of the two what uses the memory, so
    /// that the other could free it under a kernel. Two calls of `CudaContext::new` make two.
    #[error(
        "{operation}: `{tensor}` was allocated by another CudaContext of device {ordinal} than the one of the backend's stream; \
         a program must share one of them (`Cuda::stream` has it)"
    )]
    WrongContext {
        /// Operation that refused.
        operation: &'static str,
        /// The tensor's name: its field's, mostly.
        tensor: &'static str,
        /// Ordinal of the device.
        ordinal: usize,
    },

    /// A `Plan`, a `Saved` or a `Workspace` was made for another stream. Work in two streams, or a graph in flight in one and work in
    /// the other, would overwrite what the other still uses.
    #[error(
        "{operation}: the `{object}` was made by a backend of another stream; make one for each stream, with a backend of that stream"
    )]
    WrongStream {
        /// Operation that refused.
        operation: &'static str,
        /// `Plan`, `Saved` or `Workspace`.
        object: &'static str,
    },

    /// No CUDA driver, or no device.
    #[error("there is no CUDA device {ordinal}: {reason}")]
    NoDevice {
        /// Ordinal asked for.
        ordinal: usize,
        /// What the driver said.
        reason: String,
    },

    /// The CUDA driver reports an error; it may be one of earlier work.
    #[cfg(feature = "cuda")]
    #[error("{operation}: the CUDA driver says {error}{}", explained(.error))]
    Driver {
        /// Operation that noticed.
        operation: &'static str,
        /// The driver's error.
        error: cudarc::driver::DriverError,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error of the driver means if it comes of our kernels, where that is not what it says.
#[cfg(feature = "cuda")]
fn explained(error: &cudarc::driver::DriverError) -> &'static str {
    match error.0 {
        // csrc/device/phases.cuh.
        cudarc::driver::sys::CUresult::CUDA_ERROR_ASSERT => {
            " (if the assertion was one of millet's: something wrote to a launch's scratch while it ran, such as another stream or a \
             graph in flight with the same scratch; each needs a workspace of its own)"
        }
        _ => "",
    }
}
