//! The cards that can be imitated: limits and attributes, chosen by `CUDA_EMULATOR_DEVICE`.

/// Limits of a card, from NVIDIA's tables of technical specifications per compute capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `a100`, `rtx4090`, `h100`, …
    pub key: &'static str,
    pub name: &'static str,
    pub compute_capability: (u32, u32),
    pub multiprocessors: u32,
    pub max_threads_per_block: u32,
    pub max_threads_per_multiprocessor: u32,
    pub max_blocks_per_multiprocessor: u32,
    pub registers_per_block: u32,
    pub registers_per_multiprocessor: u32,
    /// Bytes.
    pub shared_per_block: u32,
    pub shared_per_block_optin: u32,
    pub shared_per_multiprocessor: u32,
    pub reserved_shared_per_block: u32,
    pub l2_bytes: u32,
    pub memory_bytes: u64,
    pub memory_bus_bits: u32,
    pub memory_clock_khz: u32,
    pub clock_khz: u32,
}
