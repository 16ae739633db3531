//! Everything that can be refused, with what was expected and what was given.

use crate::config::ConfigError;

/// Why an operation was not done. Nothing was written when an operation returns one of these, unless the variant says so.
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
        /// The tensor's name in the signature.
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
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
