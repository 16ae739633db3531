//! `mma.sync`: D = A·B + C over a warp's registers, for the m16n8 shapes and the m8n8 ones of integers and f64.
//!
//! Fragments (lane l, row g = l/4, t = l%4), as the ISA draws them: a register of A holds an 8-row block in which lane l has
//! the 32 bits at t of row g; rows 0..8 and 8..16 alternate, then k advances. A register of B holds column g in the same way.
//! Registers 0, 1 of C are columns 2t and 2t+1 of row g, registers 2, 3 those of row g+8 (packed two a register for f16).

mod double;
mod float;
mod integer;
#[cfg(target_arch = "x86_64")]
mod vectors;

pub(crate) use self::double::{Double, double};
pub(crate) use self::float::{Float, Input, Mode, float};
pub(crate) use self::integer::{Integer, integer};
