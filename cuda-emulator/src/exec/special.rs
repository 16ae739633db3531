//! Special registers.

use super::registers::Regs;
use super::state::{Block, Warp};
use super::worker::Exec;
use crate::lower::op::Special;

/// Reads one into slot `d`.
pub(crate) fn read(
    exec: &Exec<'_>,
    block: &Block<'_>,
    warp: &mut Warp,
    regs: Regs,
    d: u32,
    special: Special,
    lanes: u32,
) {
    let launch = exec.grid.launch;
    let device = launch.device;
    let lane_bit = |f: fn(u32) -> u32| std::array::from_fn(|l| f(l as u32));
    // Clocks advance with instructions: a run with a seed is reproducible, and a loop that waits for time ends.
    let clock = exec.clock + exec.warp_instructions;
    let all = |value: u32| [value; 32];
    if matches!(
        special,
        Special::Clock
            | Special::ClockHi
            | Special::Clock64
            | Special::GlobalTimer
            | Special::GlobalTimerLo
            | Special::GlobalTimerHi
    ) {
        // A wait that looks at the time may end by it.
        warp.idle_polls = 0;
    }
    let value: [u32; 32] = match special {
        Special::Tid(axis) => warp.tid[axis as usize],
        Special::Ntid(axis) => all(launch.block[axis as usize]),
        Special::Ctaid(axis) => all(block.id[axis as usize]),
        Special::Nctaid(axis) => all(launch.grid[axis as usize]),
        Special::LaneId => lane_bit(|l| l),
        Special::WarpId => all(warp.index),
        Special::NwarpId => all(device.max_threads_per_multiprocessor / 32),
        Special::SmId => all((block.index % u64::from(device.multiprocessors.max(1))) as u32),
        Special::NsmId => all(device.multiprocessors),
        Special::LanemaskEq => lane_bit(|l| 1 << l),
        Special::LanemaskLe => lane_bit(|l| !0 >> (31 - l)),
        Special::LanemaskLt => lane_bit(|l| (1 << l) - 1),
        Special::LanemaskGe => lane_bit(|l| !0 << l),
        Special::LanemaskGt => lane_bit(|l| !((!0u32) >> (31 - l))),
        Special::Clock => all(clock as u32),
        Special::ClockHi => all((clock >> 32) as u32),
        Special::GlobalTimerLo => all(exec.global_timer(block) as u32),
        Special::GlobalTimerHi => all((exec.global_timer(block) >> 32) as u32),
        Special::DynamicSharedSize => all(launch.dynamic_shared),
        Special::TotalSharedSize => all(block.shared_len),
        // The grid's workspace, which cooperative groups find here: high half, low half.
        Special::EnvReg(1) => all((exec.grid.workspace >> 32) as u32),
        Special::EnvReg(2) => all(exec.grid.workspace as u32),
        Special::EnvReg(_) => all(0),
        Special::GridId | Special::Clock64 | Special::GlobalTimer => {
            let value = match special {
                Special::GridId => exec.grid.id,
                Special::Clock64 => clock,
                _ => exec.global_timer(block),
            };
            // SAFETY: a slot of the running frame.
            unsafe { regs.set64(d, &[value; 32], lanes) };
            return;
        }
    };
    // SAFETY: a slot of the running frame.
    unsafe { regs.set32(d, &value, lanes) };
}
