//! Where lanes go: calls and returns, ends, and how lanes of a warp come together for what they execute as one.

use super::barrier;
use super::defined;
use super::frame::{Frame, pass};
use super::state::{Block, Return, Wait, Warp};
use super::worker::Exec;
use super::worker::Flow;
use crate::check::FindingKind;
use crate::launch::FaultCode;
use crate::lower::code::Code;
use crate::lower::op::*;
use crate::lower::operands::File;

/// Calls deeper than this overflow the stack, as does local memory beyond what a thread can have.
const MAX_DEPTH: usize = 1024;

const MAX_LOCAL: u32 = 512 << 10;

/// Lanes of `lanes` whose word equals the first lane's, and that word.
pub(super) fn same_as_first(words: &[u32; 32], lanes: u32) -> (u32, u32) {
    let first = words[lanes.trailing_zeros() as usize];
    let same = (0..32).filter(|&l| lanes >> l & 1 != 0 && words[l] == first);
    (first, same.fold(0, |s, l| s | 1 << l))
}

/// Tells the checker of lanes that met at `bar.warp.sync` without arriving together.
pub(crate) fn met(block: &mut Block<'_>, warp: &mut Warp) {
    let lanes = std::mem::take(&mut warp.met);
    if let Some(checker) = &mut block.checker {
        checker.warp_sync(warp.index, lanes);
    }
}

/// Lanes `same` of `lanes` go to `target`; the rest of `lanes` stays at the instruction, and lanes off go on. The group of `same`.
pub(super) fn take_lanes(
    warp: &mut Warp,
    group: usize,
    lanes: u32,
    same: u32,
    target: u32,
) -> usize {
    let mask = warp.groups[group].mask;
    if mask & !lanes != 0 {
        let off = warp.split(group, mask & !lanes);
        warp.groups[off].pc += 1;
    }
    let taken = if lanes == same {
        group
    } else {
        warp.split(group, same)
    };
    warp.groups[taken].pc = target;
    taken
}

/// For an operation that the lanes named in a mask execute together: the sets of lanes, one for each mask value, if all are
/// here; otherwise those that are not complete wait.
pub(super) fn together(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    lanes: u32,
    members: u32,
    any_place: bool,
) -> Result<Vec<u32>, Flow> {
    let at = warp.at(group, lanes);
    let pc = at.pc;
    let register = (File::R32, members);
    defined::check_decision(exec, block, warp, at, register, "takes as a mask of lanes");
    // SAFETY: a slot of this frame.
    let words = *unsafe { at.regs.get32(members) };
    let live = warp.live;
    let mut sets = Vec::new();
    let mut waiting = Vec::new();
    let mut left = lanes;
    while left != 0 {
        let (value, same) = same_as_first(&words, left);
        left &= !same;
        if same & !value != 0 {
            let message = format!(
                "lanes {same:#010x} execute a .sync operation whose mask {value:#010x} does not name all of them"
            );
            let those = (pc, same & !value);
            exec.report(
                block,
                warp,
                FindingKind::BarrierMisuse,
                message,
                those,
                None,
            );
        }
        if value & live & !same == 0 {
            sets.push(same);
        } else {
            waiting.push((same, value));
        }
    }
    if waiting.is_empty() {
        return Ok(sets);
    }
    // Lanes off go on, complete sets execute again by themselves, the others wait.
    let mask = warp.groups[group].mask;
    if mask & !lanes != 0 {
        let off = warp.split(group, mask & !lanes);
        warp.groups[off].pc += 1;
    }
    for (same, value) in waiting {
        let parked = warp.split(group, same);
        warp.groups[parked].wait = Wait::Members {
            mask: value,
            any_place,
        };
    }
    Err(Flow::Regroup)
}

/// `.aligned` operations need every live lane: those that are here wait for the others.
pub(super) fn whole_warp(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    lanes: u32,
    name: &str,
) -> Result<(), Flow> {
    if lanes == warp.live && lanes == !0 {
        return Ok(());
    }
    let pc = warp.groups[group].pc;
    if lanes == warp.live || lanes != warp.groups[group].mask {
        let message = format!("{name} needs all 32 lanes of the warp, {lanes:#010x} execute it");
        let kind = FindingKind::BarrierMisuse;
        exec.report(block, warp, kind, message.clone(), (pc, lanes), None);
        return Err(exec.illegal(block, warp, (pc, lanes), message));
    }
    warp.groups[group].wait = Wait::Members {
        mask: !0,
        any_place: false,
    };
    Err(Flow::Regroup)
}

/// Moves a frame past those that other groups have there for other functions: what is recorded of a register is of one function's.
fn apart(code: &Code, warp: &Warp, group: usize, mut frame: Frame) -> Frame {
    let end = |f: &Frame| {
        let function = &code.functions[f.function as usize];
        (
            f.r32 + function.r32,
            f.r64 + function.r64,
            f.preds + function.preds,
        )
    };
    for (_, g) in warp
        .groups
        .iter()
        .enumerate()
        .filter(|&(i, g)| i != group && g.mask != 0)
    {
        for other in g.stack.iter().map(|r| &r.frame).chain([&g.frame]) {
            let (r32, r64, preds) = end(other);
            let begins_before = frame.r32 < r32 || frame.r64 < r64 || frame.preds < preds;
            if other.function != frame.function && begins_before {
                frame.r32 = frame.r32.max(r32);
                frame.r64 = frame.r64.max(r64);
                frame.preds = frame.preds.max(preds);
            }
        }
    }
    frame
}

pub(super) fn call(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    call: &Call,
    active: u32,
) -> Flow {
    let code = exec.grid.code;
    let (pc, frame) = (warp.groups[group].pc, warp.groups[group].frame);
    let (index, lanes) = match call.target {
        CallTarget::Function(index) => (index as usize, active),
        CallTarget::Indirect(slot) => {
            let at = warp.at(group, active);
            defined::check_decision(exec, block, warp, at, (File::R64, slot), "calls by");
            // SAFETY: a slot of this frame.
            let words = unsafe { at.regs.get64(slot) };
            let first = words[active.trailing_zeros() as usize];
            let same = (0..32)
                .filter(|&l| active >> l & 1 != 0 && words[l] == first)
                .fold(0, |s, l| s | 1 << l);
            match code.functions.iter().position(|f| f.address == first) {
                Some(i) => (i, same),
                None => {
                    let message =
                        format!("an indirect call goes to {first:#x}, which is no function");
                    return exec.fault(block, warp, FaultCode::InvalidPc, message, pc, same);
                }
            }
        }
    };
    let callee = &code.functions[index];
    let caller = &code.functions[frame.function as usize];
    let inner = Frame {
        r32: frame.r32 + caller.r32,
        r64: frame.r64 + caller.r64,
        preds: frame.preds + caller.preds,
        local: frame.local + caller.frame,
        function: index as u32,
    };
    let inner = apart(code, warp, group, inner);
    let depth = warp.groups[group].stack.len();
    if depth >= MAX_DEPTH || inner.local + callee.frame > MAX_LOCAL {
        let message = format!(
            "{} calls deep, {} does not fit on the stack",
            depth, callee.name
        );
        return exec.fault(
            block,
            warp,
            FaultCode::HardwareStackError,
            message,
            pc,
            lanes,
        );
    }
    if call.args.len() != callee.params.len() || call.returns.len() != callee.returns.len() {
        let message = format!(
            "{} has {} parameters and {} results, the call has {} and {}",
            callee.name,
            callee.params.len(),
            callee.returns.len(),
            call.args.len(),
            call.returns.len()
        );
        return exec.illegal(block, warp, (pc, lanes), message);
    }
    warp.open(inner, callee, lanes);
    for (&from, &to) in call.args.iter().zip(&callee.params) {
        defined::passed(
            code,
            &mut exec.awaited,
            warp,
            (frame, from),
            (inner, to),
            lanes,
        );
        if !pass(&mut warp.files, (frame, from), (inner, to), lanes) {
            let message = format!("an argument does not fit {}'s parameter", callee.name);
            return exec.illegal(block, warp, (pc, lanes), message);
        }
    }
    let entered = take_lanes(warp, group, active, lanes, callee.entry);
    let g = &mut warp.groups[entered];
    g.stack.push(Return { pc, frame });
    g.frame = inner;
    Flow::Regroup
}

/// The group returns to its caller.
pub(crate) fn ret(exec: &mut Exec<'_>, warp: &mut Warp, group: usize) {
    let code = exec.grid.code;
    let g = &mut warp.groups[group];
    let Some(back) = g.stack.pop() else { return };
    let (inner, lanes) = (g.frame, g.mask);
    g.frame = back.frame;
    g.pc = back.pc + 1;
    let callee = &code.functions[inner.function as usize];
    if let Op::Slow(index) = code.insts[back.pc as usize].op
        && let Slow::Call(call) = &code.slow[index as usize]
    {
        // Sizes were compared when parameters were; a result that does not fit is left out.
        for (&from, &to) in callee.returns.iter().zip(&call.returns) {
            defined::passed(
                code,
                &mut exec.awaited,
                warp,
                (inner, from),
                (back.frame, to),
                lanes,
            );
            pass(&mut warp.files, (inner, from), (back.frame, to), lanes);
        }
    }
}

/// The group's lanes end.
pub(crate) fn exit(exec: &mut Exec<'_>, block: &mut Block<'_>, warp: &mut Warp, group: usize) {
    let lanes = warp.groups[group].mask;
    warp.groups[group].mask = 0;
    warp.live &= !lanes;
    if let Some(checker) = &mut block.checker {
        checker.exit(warp.index, lanes);
    }
    barrier::after_exit(exec, block, warp);
}
