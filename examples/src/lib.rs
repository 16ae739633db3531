//! What the examples share.

pub mod memory;
