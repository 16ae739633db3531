//! The driver's answers about residency.

use std::ffi::c_int;

use super::launch::LaunchConfig;
use crate::driver::call::{Handle, Out, Outcome, Required, invalid, unsupported};
use crate::driver::result::CUresult;
use crate::driver::state::{Driver, Locked, entry};
use crate::memory::SHARED_UNIT;
use crate::residency::Needs;

fn max_active(
    driver: &mut Driver,
    function: Handle,
    block: c_int,
    dynamic: usize,
) -> Outcome<c_int> {
    let device = driver.device;
    let f = driver.function(function)?;
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
    entry("cuOccupancyMaxActiveBlocksPerMultiprocessor", |driver| {
        let out = out.need("numBlocks")?;
        check_flags(flags)?;
        out.write(max_active(driver, function, block, dynamic)?);
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
    entry("cuOccupancyMaxPotentialBlockSize", |driver| {
        let (grid, block) = (grid.need("minGridSize")?, block.need("blockSize")?);
        check_flags(flags)?;
        let (best, blocks) = best_block(driver, function, shared_of_block, dynamic, limit)?;
        grid.write(blocks * driver.device.multiprocessors as c_int);
        block.write(best);
        Ok(())
    })
}

fn best_block(
    driver: &mut Locked,
    function: Handle,
    shared_of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
) -> Outcome<(c_int, c_int)> {
    let device = driver.device;
    let most = Needs::of(&driver.function(function)?.kernel).max_threads(device) as c_int;
    let most = if limit > 0 { most.min(limit) } else { most };
    let mut best = (0, 0);
    let mut threads = most;
    while threads > 0 {
        let mut bytes = dynamic;
        if let Some(f) = shared_of_block {
            driver.unlocked(|| bytes = f(threads));
        }
        let blocks = max_active(driver, function, threads, bytes)?;
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
    entry("cuOccupancyAvailableDynamicSMemPerBlock", |driver| {
        let out = out.need("dynamicSmemSize")?;
        let device = driver.device;
        let possible = max_active(driver, function, block, 0)?;
        if blocks <= 0 || blocks > possible {
            return invalid(format!(
                "{blocks} blocks of {block} threads, {possible} can be resident"
            ));
        }
        let fixed = driver.function(function)?.kernel.static_shared;
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
