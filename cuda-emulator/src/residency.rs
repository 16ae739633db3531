//! How many blocks are resident at once, from the limits of the compute capability and the kernel's (estimated) registers.

use crate::device::Device;
use crate::lower::Kernel;
use crate::memory::SHARED_UNIT;
use crate::ptx::ast::volume;

/// Registers are given to a warp in units of 256, warps come in fours (one for each scheduler).
const REGISTER_UNIT: u32 = 256;
const WARP_UNIT: u32 = 4;

/// What a kernel takes of a multiprocessor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    registers: u32,
    /// Bytes.
    static_shared: u32,
    /// Threads that the kernel was compiled for.
    compiled: Option<u32>,
}

impl Needs {
    pub(crate) fn of(kernel: &Kernel) -> Self {
        let directives = &kernel.directives;
        let compiled = directives.reqntid.or(directives.maxntid);
        let compiled = compiled.map(|n| u32::try_from(volume(n)).unwrap_or(u32::MAX));
        // ptxas spills rather than use more registers than so many blocks of that size, or `.maxnreg`, leave.
        let blocks = directives.minnctapersm.unwrap_or(1).clamp(1, 32);
        let room = compiled.map_or(255, |n| {
            let threads = n.clamp(1, 1024);
            65536 / threads.saturating_mul(blocks).min(65536 / 16) / 8 * 8
        });
        let most = directives.maxnreg.unwrap_or(255).min(room).min(255);
        Self {
            registers: kernel.registers.clamp(1, most.max(1)),
            static_shared: kernel.static_shared,
            compiled,
        }
    }

    pub(crate) fn registers(&self) -> u32 {
        self.registers
    }

    fn registers_per_warp(&self) -> u32 {
        (self.registers * 32).next_multiple_of(REGISTER_UNIT)
    }

    /// Threads of a block for which the register file has room, and that the kernel was compiled for.
    pub(crate) fn max_threads(&self, device: &Device) -> u32 {
        let warps = device.registers_per_block / self.registers_per_warp() / WARP_UNIT * WARP_UNIT;
        (warps * 32)
            .min(device.max_threads_per_block)
            .min(self.compiled.unwrap_or(u32::MAX))
    }

    /// Blocks of `threads` threads and `dynamic` bytes of shared memory that a multiprocessor holds at once.
    pub(crate) fn resident_blocks(&self, device: &Device, threads: u32, dynamic: u32) -> u32 {
        if threads == 0 || threads > self.max_threads(device) {
            return 0;
        }
        let warps = threads.div_ceil(32);
        let by_warps = device.warps_per_multiprocessor() / warps;
        let register_warps =
            device.registers_per_multiprocessor / self.registers_per_warp() / WARP_UNIT * WARP_UNIT;
        let by_registers = register_warps / warps;
        let used = u64::from(self.static_shared) + u64::from(dynamic);
        if used > u64::from(device.shared_per_block_optin) {
            return 0;
        }
        let shared = (used as u32 + device.reserved_shared_per_block).next_multiple_of(SHARED_UNIT);
        let by_shared = device.shared_per_multiprocessor / shared;
        by_warps
            .min(by_registers)
            .min(by_shared)
            .min(device.max_blocks_per_multiprocessor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(registers: u32, static_shared: u32) -> Needs {
        Needs {
            registers,
            static_shared,
            compiled: None,
        }
    }

    #[test]
    fn what_limits_residency() {
        let a100 = Device::from_key("a100").unwrap();
        // Threads: 2048 / 256.
        assert_eq!(needs(32, 0).resident_blocks(a100, 256, 0), 8);
        // Registers: 128 a thread leave 16 warps of 64.
        assert_eq!(needs(128, 0).resident_blocks(a100, 256, 0), 2);
        // Shared memory: 164 KiB hold four blocks of 40 + 1 KiB.
        assert_eq!(needs(32, 0).resident_blocks(a100, 64, 40 << 10), 4);
        assert_eq!(needs(32, 0).resident_blocks(a100, 64, 163 << 10), 1);
        assert_eq!(needs(32, 1).resident_blocks(a100, 64, 163 << 10), 0);
        // Blocks.
        assert_eq!(needs(16, 0).resident_blocks(a100, 32, 0), 32);
        // 1024 threads of 128 registers do not fit one block.
        assert_eq!(needs(128, 0).max_threads(a100), 512);
        assert_eq!(needs(128, 0).resident_blocks(a100, 1024, 0), 0);
    }
}
