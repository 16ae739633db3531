//! `wmma.load` and `wmma.store`: a matrix between memory and the registers of a warp.

use super::access::{Reached, What, Written, addresses};
use super::defined;
use super::frame::At;
use super::memory::{observe, pointers};
use super::state::{Block, Warp};
use super::worker::Exec;
use super::worker::Flow;
use crate::check::FindingKind;
use crate::check::hooks::{Dependence, Kind};
use crate::lower::op::WmmaMemory;
use crate::lower::operands::File;

/// Executes one; all 32 lanes are there.
pub(crate) fn access(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &WmmaMemory,
) -> Flow {
    let (r, pc) = (at.regs, at.pc);
    let site = exec.grid.code.mems.len();
    let bytes = op.fragment.element_bytes;
    let file = if bytes == 8 { File::R64 } else { File::R32 };
    defined::check_address(exec, block, warp, at, op.address.base);
    let (stride_register, what) = ((File::R32, op.stride), "uses as a stride");
    defined::check_decision(exec, block, warp, at, stride_register, what);
    // SAFETY: slots of the frame.
    let (bases, strides) = unsafe { (addresses(at, &op.address), r.get32(op.stride)) };
    let (base, stride) = (bases[0], strides[0]);
    let differ = |l: &usize| bases[*l] != base || strides[*l] != stride;
    if let Some(lane) = (0..32).find(differ) {
        let message = format!(
            "lane 0 and lane {lane} give different addresses or strides: {base:#x}, {stride} and {:#x}, {}",
            bases[lane], strides[lane]
        );
        let kind = FindingKind::BarrierMisuse;
        exec.report(block, warp, kind, message, (pc, 1 << lane), None);
    }
    let kind = if op.store { Kind::Write } else { Kind::Read };
    let instance = match op.store {
        true => None,
        false => defined::instance(exec, warp, at),
    };
    let what = |size: usize| What {
        instance,
        ..What::weak(op.address.space, kind, size as u32, pc)
    };
    // Each row (or column) begins at a multiple of 16 bytes, of less if a lane has less.
    let unit = 16.min(bytes * op.fragment.per_register() * op.fragment.registers());
    let step = u64::from(stride) * bytes as u64;
    if !(base | step).is_multiple_of(unit as u64) {
        let wrong = if base % unit as u64 != 0 {
            base
        } else {
            base.wrapping_add(step)
        };
        exec.memory_fault(block, warp, what(unit), wrong, 0);
        return Flow::Fault;
    }
    let place = |register: usize, lane: usize, element: usize| {
        let [row, column] = op.fragment.place(register, lane, element);
        let (line, along) = if op.by_rows {
            (row, column)
        } else {
            (column, row)
        };
        base.wrapping_add(line as u64 * step)
            .wrapping_add((along * bytes) as u64)
    };
    let different = op.fragment.different();
    for register in 0..different {
        // The elements of a register in one access, where memory has them side by side.
        let parts = op.fragment.per_register();
        let together = (0..32).all(|lane| {
            let first = place(register, lane, 0);
            (1..parts).all(|e| place(register, lane, e) == first.wrapping_add((e * bytes) as u64))
        });
        let (pieces, size) = if together {
            (1, parts * bytes)
        } else {
            (parts, bytes)
        };
        let mut words = [0u64; 32];
        let (mut undefined, mut origin) = ([0u64; 32], 0);
        if op.store {
            // SAFETY: a slot of the frame.
            unsafe {
                words = match bytes {
                    8 => *r.get64(op.registers[register]),
                    _ => r.get32(op.registers[register]).map(u64::from),
                };
            }
        }
        let awaited = match op.store {
            true => defined::awaited_by_register(exec, warp, at, (file, op.registers[register])),
            false => None,
        };
        let awaited = awaited.as_ref().map(|a| a as &dyn Dependence);
        for piece in 0..pieces {
            let a = std::array::from_fn(|lane| place(register, lane, piece));
            let mut p = [std::ptr::null_mut::<u8>(); 32];
            let shift = 8 * piece * size;
            // SAFETY: all lanes; `pointers` checks `size` bytes for each.
            unsafe {
                let what = what(size);
                if !pointers(exec, block, warp, at, (what, site), &a, &mut p) {
                    return Flow::Fault;
                }
                if exec.profile || block.follows {
                    let written = Written {
                        values: None,
                        dependence: awaited,
                    };
                    observe(exec, block, warp, what, &a, !0, written);
                }
                let reached = Reached {
                    what,
                    lanes: !0,
                    a: &a,
                    p: &p,
                };
                if op.store {
                    let slot = (file, op.registers[register]);
                    defined::piece_stored(exec, block, warp, at, reached, slot, shift);
                } else {
                    let (bits, from) = defined::piece_loaded(exec, block, warp, reached);
                    for (all, bits) in undefined.iter_mut().zip(bits) {
                        *all |= bits << shift;
                    }
                    origin = origin.max(from);
                }
                for (p, word) in p.iter().zip(&mut words) {
                    let mut part = [0; 8];
                    if op.store {
                        part = (*word >> shift).to_le_bytes();
                        std::ptr::copy_nonoverlapping(part.as_ptr(), *p, size);
                    } else {
                        std::ptr::copy_nonoverlapping(*p, part.as_mut_ptr(), size);
                        *word |= u64::from_le_bytes(part) << shift;
                    }
                }
            }
        }
        if op.store {
            continue;
        }
        for &slot in op.registers[register..].iter().step_by(different) {
            // SAFETY: a slot of the frame.
            unsafe {
                match bytes {
                    8 => r.set64(slot, &words, !0),
                    _ => r.set32(slot, &words.map(|w| w as u32), !0),
                }
            }
            defined::set(exec, block, warp, at, (file, slot), &undefined, origin);
            defined::await_load(exec, block, warp, at, (file, slot), instance);
        }
    }
    defined::executed(exec, warp, at, instance);
    Flow::Next
}
