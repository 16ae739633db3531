//! Number formats and arithmetic that the host does not have: f16, bf16, fp8, tf32, rounding modes, approximations, tensor-core sums.
