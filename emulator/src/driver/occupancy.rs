//! How many blocks are resident at once, from the limits of the compute capability and the kernel's (estimated) registers.

use std::ffi::c_int;

use super::call::{Handle, Out, Outcome, Required, entry, invalid, unsupported};
use super::launch::LaunchConfig;
use super::result::CUresult;
use super::state::{Driver, Locked};
use crate::device::Device;
use crate::lower::Kernel;
use crate::memory::SHARED_UNIT;

/// Registers are given to a warp in units of 256, warps come in fours (one for each scheduler).
const REGISTER_UNIT: u32 = 256;
const WARP_UNIT: u32 = 4;

/// What a kernel takes of a multiprocessor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    registers: u32,
    /// Bytes.
    static_shared: u32,
    /// Threads that the kernel was compiled for.
    compiled: Option<u32>,
}

impl Needs {
    pub(super) fn of(kernel: &Kernel) -> Self {
        let directives = &kernel.directives;
        let compiled = directives.reqntid.or(directives.maxntid);
        // ptxas spills rather than use more registers than a block of that size, or `.maxnreg`, leaves.
        let room = compiled.map_or(255, |n| {
            65536 / n.iter().product::<u32>().clamp(1, 1024) / 8 * 8
        });
        let most = directives.maxnreg.unwrap_or(255).min(room).min(255);
        Self {
            registers: kernel.registers.clamp(1, most.max(1)),
            static_shared: kernel.static_shared,
            compiled: compiled.map(|n| n.iter().product()),
        }
    }

    pub(super) fn registers(&self) -> u32 {
        self.registers
    }

    fn registers_per_warp(&self) -> u32 {
        (self.registers * 32).next_multiple_of(REGISTER_UNIT)
    }

    /// Threads of a block for which the register file has room, and that the kernel was compiled for.
    pub(super) fn max_threads(&self, device: &Device) -> u32 {
        let warps = device.registers_per_block / self.registers_per_warp() / WARP_UNIT * WARP_UNIT;
        (warps * 32)
            .min(device.max_threads_per_block)
            .min(self.compiled.unwrap_or(u32::MAX))
    }

    /// Blocks of `threads` threads and `dynamic` bytes of shared memory that a multiprocessor holds at once.
    pub(super) fn resident_blocks(&self, device: &Device, threads: u32, dynamic: u32) -> u32 {
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

fn max_active(d: &mut Driver, function: Handle, block: c_int, dynamic: usize) -> Outcome<c_int> {
    let device = d.device;
    let f = d.function(function)?;
    let Some(threads) = u32::try_from(block).ok().filter(|&t| t > 0) else {
        return invalid(format!("a block of {block} threads"));
    };
    let dynamic = u32::try_from(dynamic).unwrap_or(u32::MAX);
    Ok(Needs::of(&f.kernel).resident_blocks(device, threads, dynamic) as c_int)
}

fn check_flags(flags: u32) -> Outcome {
    match flags {
        0 | 1 => Ok(()),
        _ => invalid(format!("flags {flags:#x} have bits that are not defined")),
    }
}

/// Blocks of a function that a multiprocessor holds at once.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    out: Out<'_, c_int>,
    function: Handle,
    block: c_int,
    dynamic: usize,
) -> CUresult {
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out, function, block, dynamic, 0)
}

/// Blocks of a function that a multiprocessor holds at once.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    out: Out<'_, c_int>,
    function: Handle,
    block: c_int,
    dynamic: usize,
    flags: u32,
) -> CUresult {
    entry("cuOccupancyMaxActiveBlocksPerMultiprocessor", |d| {
        let out = out.need("numBlocks")?;
        check_flags(flags)?;
        out.write(max_active(d, function, block, dynamic)?);
        Ok(())
    })
}

/// The size of dynamic shared memory for a block size, computed by the program.
type SharedOfBlock = extern "C" fn(c_int) -> usize;

/// The block size with the most resident threads; the largest of equal ones.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<'_, c_int>,
    block: Out<'_, c_int>,
    function: Handle,
    shared_of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
) -> CUresult {
    cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid,
        block,
        function,
        shared_of_block,
        dynamic,
        limit,
        0,
    )
}

/// The block size with the most resident threads; the largest of equal ones.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<'_, c_int>,
    block: Out<'_, c_int>,
    function: Handle,
    shared_of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
    flags: u32,
) -> CUresult {
    entry("cuOccupancyMaxPotentialBlockSize", |d| {
        let (grid, block) = (grid.need("minGridSize")?, block.need("blockSize")?);
        check_flags(flags)?;
        let (best, blocks) = best_block(d, function, shared_of_block, dynamic, limit)?;
        grid.write(blocks * d.device.multiprocessors as c_int);
        block.write(best);
        Ok(())
    })
}

fn best_block(
    d: &mut Locked,
    function: Handle,
    shared_of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
) -> Outcome<(c_int, c_int)> {
    let device = d.device;
    let most = Needs::of(&d.function(function)?.kernel).max_threads(device) as c_int;
    let most = if limit > 0 { most.min(limit) } else { most };
    let mut best = (0, 0);
    let mut threads = most;
    while threads > 0 {
        let mut bytes = dynamic;
        if let Some(f) = shared_of_block {
            d.unlocked(|| bytes = f(threads));
        }
        let blocks = max_active(d, function, threads, bytes)?;
        if blocks * threads > best.0 * best.1 {
            best = (threads, blocks);
        }
        threads = (threads - 1) / 32 * 32;
    }
    match best {
        (0, _) => invalid("no block size fits"),
        best => Ok(best),
    }
}

/// Dynamic shared memory that each of `blocks` resident blocks can have, bytes.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    out: Out<'_, usize>,
    function: Handle,
    blocks: c_int,
    block: c_int,
) -> CUresult {
    entry("cuOccupancyAvailableDynamicSMemPerBlock", |d| {
        let out = out.need("dynamicSmemSize")?;
        let device = d.device;
        let possible = max_active(d, function, block, 0)?;
        if blocks <= 0 || blocks > possible {
            return invalid(format!(
                "{blocks} blocks of {block} threads, {possible} can be resident"
            ));
        }
        let fixed = d.function(function)?.kernel.static_shared;
        let each = device.shared_per_multiprocessor / blocks as u32 / SHARED_UNIT * SHARED_UNIT;
        let each = each.saturating_sub(device.reserved_shared_per_block);
        let each = each.min(device.shared_per_block_optin);
        out.write(each.saturating_sub(fixed) as usize);
        Ok(())
    })
}

/// Clusters are not emulated.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxActiveClusters(
    _out: Out<'_, c_int>,
    _function: Handle,
    _config: Option<&LaunchConfig>,
) -> CUresult {
    entry("cuOccupancyMaxActiveClusters", |_| {
        unsupported("clusters are not emulated")
    })
}

/// Clusters are not emulated.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxPotentialClusterSize(
    _out: Out<'_, c_int>,
    _function: Handle,
    _config: Option<&LaunchConfig>,
) -> CUresult {
    entry("cuOccupancyMaxPotentialClusterSize", |_| {
        unsupported("clusters are not emulated")
    })
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
