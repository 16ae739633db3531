//! Operations outside the inner loop: what each needs first, and who executes it.

use std::sync::atomic::{Ordering, fence};

use super::access::{Reached, What, Written, addresses, window};
use super::collective::collective;
use super::control::{same_as_first, take_lanes, together, whole_warp};
use super::frame::At;
use super::matrix::{ldmatrix, product, stmatrix, write_product};
use super::memory::{observe, pointers};
use super::state::{Block, Warp};
use super::worker::Exec;
use super::worker::{Flow, POLL, POLL_COST};
use super::{async_copy, atomic, barrier, control, defined, print};
use crate::check::hooks::Kind;
use crate::launch::FaultCode;
use crate::lower::op::*;
use crate::lower::operands::File;
use crate::numeric::matrix;

/// Executes one; `lanes` (not 0) is the group's lanes for which the guard holds, the group's pc is the instruction.
#[inline(never)]
pub(crate) fn execute(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    index: u32,
    lanes: u32,
    budget: &mut i64,
) -> Flow {
    let code = exec.grid.code;
    let op = &code.slow[index as usize];
    let at = warp.at(group, lanes);
    let At {
        pc, frame, regs: r, ..
    } = at;
    // SAFETY (of the blocks below): slots are those that lowering gave to this frame's function.
    match op {
        Slow::Atom(atom) => {
            *budget -= POLL_COST;
            warp.backward += POLL;
            block.exchanged = true;
            block.polls += u64::from(atom.op == AtomOp::Cas || atom.op == AtomOp::Exch);
            // SAFETY: slots of this frame; m is not 0.
            match unsafe { atomic::execute(exec, block, warp, at, atom) } {
                true => Flow::Next,
                false => Flow::Fault,
            }
        }
        Slow::Shfl { members, .. }
        | Slow::Vote { members, .. }
        | Slow::Match { members, .. }
        | Slow::Redux { members, .. }
        | Slow::Elect { members, .. } => {
            match together(exec, block, warp, group, lanes, *members, false) {
                Ok(sets) => {
                    for set in sets {
                        defined::collective(exec, block, warp, At { lanes: set, ..at }, op);
                        // SAFETY: slots of this frame.
                        unsafe { collective(r, op, set) };
                    }
                    Flow::Next
                }
                Err(flow) => flow,
            }
        }
        Slow::BarWarp { members } => {
            match together(exec, block, warp, group, lanes, *members, true) {
                Ok(sets) => {
                    if let Some(checker) = &mut block.checker {
                        sets.iter()
                            .for_each(|&set| checker.warp_sync(warp.index, set));
                    }
                    Flow::Next
                }
                Err(flow) => flow,
            }
        }
        Slow::Activemask { d } => {
            // SAFETY: a slot of this frame.
            unsafe { r.set32(*d, &[lanes; 32], lanes) };
            defined::define(exec, block, warp, at, (File::R32, *d));
            Flow::Next
        }
        Slow::Bar(bar) => barrier::execute(exec, block, warp, group, bar, lanes),
        Slow::Fence(scope, semantics) => {
            fence(Ordering::SeqCst);
            if block.follows
                && let Some(checker) = &mut block.checker
            {
                checker.fence(warp.index, lanes, *scope, *semantics);
            }
            Flow::Next
        }
        Slow::Brx { index, targets } => {
            let register = (File::R32, *index);
            let what = "branches on";
            defined::check_decision(exec, block, warp, at, register, what);
            // SAFETY: a slot of this frame.
            let words = unsafe { r.get32(*index) };
            let (first, same) = same_as_first(words, lanes);
            let Some(&target) = targets.get(first as usize) else {
                let n = targets.len();
                let message = format!("brx.idx takes entry {first} of a table of {n}");
                return exec.fault(block, warp, FaultCode::InvalidPc, message, pc, lanes);
            };
            take_lanes(warp, group, lanes, same, target);
            Flow::Regroup
        }
        Slow::Call(call) => control::call(exec, block, warp, group, call, lanes),
        Slow::Vprintf { format, args, ret } => {
            if let Err(message) =
                print::vprintf(exec, warp, r, frame, [*format, *args], *ret, lanes)
            {
                return exec.fault(block, warp, FaultCode::IllegalAddress, message, pc, lanes);
            }
            match ret {
                Some(Value::Frame(offset, bytes)) => {
                    defined::define_local(warp, frame, *offset, *bytes, lanes);
                }
                Some(Value::Reg(Reg::R32(d))) => {
                    defined::define(exec, block, warp, at, (File::R32, *d));
                }
                _ => {}
            }
            Flow::Next
        }
        Slow::AssertFail(slots) => {
            let message = print::assertion(exec, block, warp, frame, slots, lanes);
            exec.fault(block, warp, FaultCode::Assert, message, pc, lanes)
        }
        Slow::Trap => {
            let message = "the kernel executed `trap`".into();
            exec.fault(block, warp, FaultCode::LaunchFailed, message, pc, lanes)
        }
        Slow::Brkpt => {
            let message = "the kernel executed `brkpt` and there is no debugger".into();
            exec.fault(block, warp, FaultCode::LaunchFailed, message, pc, lanes)
        }
        Slow::Nanosleep { time } => {
            // SAFETY: a slot of this frame.
            block.slept += u64::from(unsafe { r.get32(*time) }[lanes.trailing_zeros() as usize]);
            *budget = 0;
            warp.backward += POLL;
            block.polls += 1;
            Flow::Next
        }
        Slow::Prefetch | Slow::GridDependency => Flow::Next,
        Slow::Discard { address } => discard(exec, block, warp, at, address),
        Slow::CreatePolicy { d } => {
            // Opaque, and used for nothing: policies are hints.
            // SAFETY: a slot of this frame.
            unsafe { r.set64(*d, &[0x1000_0000_0000_0000; 32], lanes) };
            defined::define(exec, block, warp, at, (File::R64, *d));
            Flow::Next
        }
        Slow::CpAsync(copy) => match async_copy::issue(exec, block, warp, at, copy) {
            true => Flow::Next,
            false => Flow::Fault,
        },
        Slow::CpAsyncCommit => {
            async_copy::commit(block, warp, lanes);
            Flow::Next
        }
        Slow::CpAsyncWait { pending, all } => {
            async_copy::wait(exec, block, warp, *pending, *all, lanes);
            Flow::Next
        }
        Slow::Ldmatrix(op) => {
            if let Err(flow) = whole_warp(exec, block, warp, group, lanes, "ldmatrix") {
                return flow;
            }
            ldmatrix(exec, block, warp, at, op)
        }
        Slow::Stmatrix(op) => {
            if let Err(flow) = whole_warp(exec, block, warp, group, lanes, "stmatrix") {
                return flow;
            }
            stmatrix(exec, block, warp, at, op)
        }
        Slow::Movmatrix { d, a } => {
            if let Err(flow) = whole_warp(exec, block, warp, group, lanes, "movmatrix") {
                return flow;
            }
            let (from, to) = ((File::R32, *a), (File::R32, *d));
            let transpose =
                |bits: &[u64; 32]| matrix::transpose(&bits.map(|u| u as u32)).map(u64::from);
            // Of the rows 2 (l % 4) and the next, column l / 4.
            let givers = |l: usize| 0x11 << (8 * (l % 4) + l / 8);
            defined::one_source(exec, block, warp, at, [from, to], givers, transpose);
            // SAFETY: slots of this frame.
            unsafe { r.set32(*d, &matrix::transpose(r.get32(*a)), lanes) };
            Flow::Next
        }
        Slow::Mma(mma) => {
            if let Err(flow) = whole_warp(exec, block, warp, group, lanes, "mma") {
                return flow;
            }
            exec.count(|t| t.mma(mma.kind));
            defined::product(exec, block, warp, frame, std::slice::from_ref(mma));
            // SAFETY: slots of this frame.
            unsafe { write_product(r, &mma.registers[0], &product(exec, r, mma), lanes) };
            Flow::Next
        }
        Slow::WmmaMma(tiles) => {
            if let Err(flow) = whole_warp(exec, block, warp, group, lanes, "wmma.mma") {
                return flow;
            }
            defined::product(exec, block, warp, frame, tiles);
            // SAFETY: slots of this frame.
            unsafe {
                // Registers of D may be those of an operand of a later tile.
                let products: Vec<_> = tiles.iter().map(|tile| product(exec, r, tile)).collect();
                for (tile, product) in tiles.iter().zip(&products) {
                    exec.count(|t| t.mma(tile.kind));
                    write_product(r, &tile.registers[0], product, lanes);
                }
            }
            Flow::Next
        }
        Slow::WmmaMemory(access) => {
            let name = if access.store {
                "wmma.store"
            } else {
                "wmma.load"
            };
            if let Err(flow) = whole_warp(exec, block, warp, group, lanes, name) {
                return flow;
            }
            super::wmma::access(exec, block, warp, at, access)
        }
        Slow::Isspacep { space, d, a } => {
            let (from, to) = ((File::R64, *a), (File::Pred, *d));
            let any = |bits: &[u64; 32]| bits.map(|u| u64::from(u != 0));
            defined::one_source(exec, block, warp, at, [from, to], |l| 1 << l, any);
            // SAFETY: slots of this frame.
            unsafe {
                let a = r.get64(*a);
                let mut inside = 0;
                for (l, a) in a.iter().enumerate() {
                    let is = match space {
                        MemSpace::Global | MemSpace::Generic => a >> 48 == 0,
                        other => a >> 48 == window(*other) >> 48,
                    };
                    inside |= u32::from(is) << l;
                }
                r.set_pred(*d, inside, lanes);
            }
            Flow::Next
        }
        Slow::Cvta {
            d,
            a,
            to_generic,
            space,
        } => {
            let base = window(*space);
            let (from, to) = ((File::R64, *a), (File::R64, *d));
            let upward = |bits: &[u64; 32]| bits.map(|u| u | u.wrapping_neg());
            defined::one_source(exec, block, warp, at, [from, to], |l| 1 << l, upward);
            // SAFETY: slots of this frame.
            unsafe {
                let value = match to_generic {
                    true => r.get64(*a).map(|a| a.wrapping_add(base)),
                    false => r.get64(*a).map(|a| a.wrapping_sub(base)),
                };
                r.set64(*d, &value, lanes);
            }
            Flow::Next
        }
    }
}

/// `discard`: 128 bytes of each lane get a value that no kernel can want.
fn discard(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    address: &Address,
) -> Flow {
    const SIZE: u32 = 128;
    let what = What::weak(address.space, Kind::Write, SIZE, at.pc);
    let mut p = [std::ptr::null_mut(); 32];
    let site = exec.grid.code.mems.len();
    let m = at.lanes;
    defined::check_address(exec, block, warp, at, address.base);
    // SAFETY: slots of the frame, and some lanes; `pointers` checks the whole size.
    unsafe {
        let a = addresses(at, address);
        for l in (0..32).filter(|l| m >> l & 1 != 0) {
            if !a[l].is_multiple_of(u64::from(SIZE)) {
                exec.memory_fault(block, warp, what, a[l], l);
                return Flow::Fault;
            }
        }
        if !pointers(exec, block, warp, at, (what, site), &a, &mut p) {
            return Flow::Fault;
        }
        if exec.profile || block.follows {
            observe(exec, block, warp, what, &a, m, Written::default());
        }
        for l in (0..32).filter(|l| m >> l & 1 != 0) {
            std::ptr::write_bytes(p[l], async_copy::POISON, SIZE as usize);
        }
        let reached = Reached {
            what,
            lanes: m,
            a: &a,
            p: &p,
        };
        defined::discarded(exec, block, warp, reached);
    }
    Flow::Next
}
