//! Number formats and arithmetic that the host does not have: f16, bf16, fp8, tf32, rounding modes, approximations, tensor-core sums.
//!
//! Pure functions. What a warp does 32 times is branch-free and inlined, so that a loop over lanes becomes vector code.

pub mod approx;
pub mod convert;
pub mod exact;
pub mod f32s;
pub mod f64s;
pub mod half;
pub mod int;
pub mod matrix;
pub mod mma;
#[cfg(test)]
pub(crate) mod testing;
pub mod wmma;

/// Rounding modes `.rn`, `.rz`, `.rm`, `.rp` (and their integer forms `.rni`, …).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To nearest, ties to even.
    Near,
    /// Toward zero.
    Zero,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
}
