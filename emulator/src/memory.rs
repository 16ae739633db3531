//! Device memory: a 64-bit address space of its own, allocations with red zones between them, freed ranges kept apart so that
//! a late access is told from a wild one. Other windows of the generic address space (shared, local, param) are here too.

/// Generic addresses in this window are the executing block's shared memory; the low 32 bits are the `.shared` address.
pub const SHARED_WINDOW: u64 = 0x0001_0000_0000_0000;
/// First byte of a block's shared memory inside its window: not zero, 1024-aligned, as on sm_90 where 1 KiB is reserved.
pub const SHARED_BASE: u32 = 0x400;
/// The executing thread's local memory.
pub const LOCAL_WINDOW: u64 = 0x0002_0000_0000_0000;
/// The launch's parameter block (`cvta.param`).
pub const PARAM_WINDOW: u64 = 0x0003_0000_0000_0000;
/// First address of global (and constant) memory.
pub const GLOBAL_BASE: u64 = 0x0000_7000_0000_0000;

/// The device's memory. Shared between threads; data is read and written by kernels through raw host pointers.
#[derive(Debug)]
pub struct DeviceMemory {
    _private: (),
}
