//! Number formats and arithmetic that the host does not have: f16, bf16, fp8, tf32, rounding modes, approximations, tensor-core sums.
//!
//! Pure functions. What a warp does 32 times is branch-free and inlined, so that a loop over lanes becomes vector code.

pub(crate) mod approx;
pub(crate) mod convert;
pub(crate) mod exact;
pub(crate) mod f32s;
pub(crate) mod f64s;
pub(crate) mod half;
pub(crate) mod int;
pub(crate) mod matrix;
pub(crate) mod mma;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod wmma;

/// 32 lanes of a 32-bit register.
pub(crate) type Register = [u32; 32];

/// Rounding modes `.rn`, `.rz`, `.rm`, `.rp` (and their integer forms `.rni`, …).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Near,
    /// Toward zero.
    Zero,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
}
