//! `bar` and `barrier`: lanes gather in their warp, warps arrive at the block's barrier, all go on when it completes.

use super::defined;
use super::state::{BarrierState, Block, Wait, Warp, line_of};
use super::worker::Exec;
use super::worker::Flow;
use crate::check::FindingKind;
use crate::check::hooks::Barrier;
use crate::lower::code::Code;
use crate::lower::op::{Bar, BarRed, NONE, Op, Slow};
use crate::lower::operands::File;

/// The barrier instruction at a place.
fn bar_at(code: &Code, pc: u32) -> Option<&Bar> {
    match code.insts[pc as usize].op {
        Op::Slow(index) => match &code.slow[index as usize] {
            Slow::Bar(bar) => Some(bar),
            _ => None,
        },
        _ => None,
    }
}

/// A group reaches a barrier.
pub(crate) fn execute(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    bar: &Bar,
    lanes: u32,
) -> Flow {
    let (at, mask) = (warp.at(group, lanes), warp.groups[group].mask);
    let (pc, r) = (at.pc, at.regs);
    for slot in [bar.id, bar.count] {
        let what = "takes as a barrier's number or count";
        defined::check_decision(exec, block, warp, at, (File::R32, slot), what);
    }
    let uniform = |slot: u32| {
        if slot == NONE {
            return Ok(0);
        }
        // SAFETY: a slot of this frame.
        let words = unsafe { r.get32(slot) };
        let first = words[lanes.trailing_zeros() as usize];
        let same = (0..32).all(|l| lanes >> l & 1 == 0 || words[l] == first);
        if same { Ok(first) } else { Err(()) }
    };
    let (Ok(id), Ok(count)) = (uniform(bar.id), uniform(bar.count)) else {
        let message =
            "lanes of a warp are at one barrier instruction with different numbers".into();
        return exec.illegal(block, warp, (pc, lanes), message);
    };
    if id >= 16 {
        let message = format!("there are barriers 0 to 15, not {id}");
        return exec.illegal(block, warp, (pc, lanes), message);
    }
    if count % 32 != 0 || (bar.count != NONE && count == 0) {
        let message = format!("a barrier's thread count is a multiple of 32, not {count}");
        return exec.illegal(block, warp, (pc, lanes), message);
    }
    // Lanes whose guard is false go on by themselves.
    let mut at = group;
    if mask != lanes {
        at = warp.split(group, lanes);
        warp.groups[group].pc += 1;
    }
    warp.groups[at].wait = Wait::Gather { id };
    gather(exec, block, warp, id);
    Flow::Regroup
}

/// Once all live lanes of the warp are at the barrier, the warp arrives.
fn gather(exec: &mut Exec<'_>, block: &mut Block<'_>, warp: &mut Warp, id: u32) {
    let code = exec.grid.code;
    let here = |wait: Wait| wait == Wait::Gather { id };
    let lanes = warp
        .groups
        .iter()
        .filter(|g| here(g.wait))
        .fold(0, |m, g| m | g.mask);
    if lanes == 0 || lanes != warp.live {
        return;
    }
    // One instruction reached by parts of the warp at different times counts as reached together.
    warp.unite();
    let mut expected = 0;
    for i in 0..warp.groups.len() {
        let g = &warp.groups[i];
        if !here(g.wait) || g.mask == 0 {
            continue;
        }
        let (pc, mask, frame) = (g.pc, g.mask, g.frame);
        let Some(bar) = bar_at(code, pc) else {
            continue;
        };
        let r = warp.regs(frame);
        let first = mask.trailing_zeros() as usize;
        if bar.count != NONE {
            // SAFETY: a slot of that frame.
            expected = unsafe { r.get32(bar.count) }[first];
        }
        let state = &mut block.barriers[id as usize];
        if let Some((op, _, source)) = bar.reduce {
            // SAFETY: a predicate of that frame.
            let yes = unsafe { r.pred(source) } & mask;
            let (unknown, origin) = defined::reduced(code, warp, frame, source, mask);
            state.sure |= yes & !unknown != 0;
            state.never |= mask & !yes & !unknown != 0;
            state.unknown = state.unknown.max(origin);
            match op {
                BarRed::And => state.and &= yes == mask,
                BarRed::Or => state.or |= yes != 0,
                BarRed::Popc => state.popc += yes.count_ones(),
            }
        }
        if let Some(checker) = &mut block.checker {
            let barrier = Barrier {
                id,
                threads: expected,
                waits: bar.waits,
                aligned: bar.aligned,
                line: line_of(code, pc),
            };
            checker.barrier_arrive(warp.index, mask, &barrier);
        }
        let g = &mut warp.groups[i];
        if bar.waits {
            g.wait = Wait::Barrier { id };
            g.reduce = bar.reduce.map(|(op, d, _)| (op, d));
        } else {
            g.wait = Wait::Nothing;
            g.pc += 1;
        }
    }
    let state = &mut block.barriers[id as usize];
    if let Some(before) = state.expected
        && before != expected
    {
        let message = format!(
            "barrier {id} is used with {expected} threads while others wait at it with {before} (0: all)"
        );
        let pc = warp.groups.first().map_or(0, |g| g.pc);
        exec.report(
            block,
            warp,
            FindingKind::BarrierMisuse,
            message,
            (pc, lanes),
            None,
        );
    }
    exec.count(|t| t.barrier());
    let state = &mut block.barriers[id as usize];
    state.expected = Some(expected);
    state.arrived += 32;
    state.warps |= 1 << warp.index;
    complete(exec, block, warp, id);
}

/// Opens the barrier if everybody expected has arrived.
fn complete(exec: &Exec<'_>, block: &mut Block<'_>, warp: &mut Warp, id: u32) {
    let state = &block.barriers[id as usize];
    let Some(expected) = state.expected else {
        return;
    };
    let done = match expected {
        0 => {
            let arrived = |index: u32, live: u32| live == 0 || state.warps >> index & 1 != 0;
            let others = block.warps.iter().enumerate();
            others
                .filter(|&(i, _)| i as u32 != warp.index)
                .all(|(i, w)| arrived(i as u32, w.live))
                && arrived(warp.index, warp.live)
        }
        n => state.arrived >= n,
    };
    if !done {
        return;
    }
    let state = std::mem::take(&mut block.barriers[id as usize]);
    let current = warp.index as usize;
    for (i, other) in block.warps.iter_mut().enumerate() {
        if i != current {
            release(exec.grid.code, other, id, &state);
        }
    }
    release(exec.grid.code, warp, id, &state);
    if let Some(checker) = &mut block.checker {
        checker.barrier_complete(id);
    }
}

fn release(code: &Code, warp: &mut Warp, id: u32, state: &BarrierState) {
    for i in 0..warp.groups.len() {
        let g = &mut warp.groups[i];
        if g.wait != (Wait::Barrier { id }) {
            continue;
        }
        g.wait = Wait::Nothing;
        g.pc += 1;
        warp.blocked = false;
        let (frame, mask) = (g.frame, g.mask);
        let reduce = g.reduce.take();
        if let Some((op, d)) = reduce {
            let ones = |yes: bool| if yes { !0 } else { 0 };
            let r = warp.regs(frame);
            // SAFETY: slots of that frame.
            unsafe {
                match op {
                    BarRed::And => r.set_pred(d, ones(state.and), mask),
                    BarRed::Or => r.set_pred(d, ones(state.or), mask),
                    BarRed::Popc => r.set32(d, &[state.popc; 32], mask),
                }
            }
            let (file, known) = match op {
                BarRed::And => (File::Pred, state.never),
                BarRed::Or => (File::Pred, state.sure),
                BarRed::Popc => (File::R32, false),
            };
            let origin = if known { 0 } else { state.unknown };
            defined::reduction(code, warp, frame, (file, d), mask, origin);
        }
    }
}

/// Lanes have exited: the rest of the warp may be all at a barrier now, and a barrier for all threads may be complete.
pub(crate) fn after_exit(exec: &mut Exec<'_>, block: &mut Block<'_>, warp: &mut Warp) {
    for id in 0..16 {
        if warp.live != 0 {
            gather(exec, block, warp, id);
        } else if block.barriers[id as usize].expected == Some(0) {
            complete(exec, block, warp, id);
        }
    }
}
