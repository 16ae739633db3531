//! What a launch did, counted exactly.

/// Per launch. Counts are of warps' instructions unless the name says threads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Executed instructions × active lanes.
    pub thread_instructions: u64,
    pub warp_instructions: u64,
}
