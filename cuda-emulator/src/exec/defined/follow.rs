//! Following undefined bits through operations on registers, and what cannot be undone.

use super::origins::NEVER_WRITTEN;
use super::rules;
use super::shadow::{Mark, View, first_mark};
use crate::check::findings;
use crate::check::{FindingKind, lanes_of};
use crate::exec::awaited::Sets;
use crate::exec::frame::{At, Frame, pass};
use crate::exec::state::{Block, Warp, line_of};
use crate::exec::worker::Exec;
use crate::lower::code::Code;
use crate::lower::op::*;
use crate::lower::operands::{File, Operands, Slots, operands};
use crate::lower::tracked::file_of;

/// What cannot be undone: the use of an undefined value that is a finding.
pub(super) fn decide(
    exec: &Exec<'_>,
    block: &Block<'_>,
    warp: &Warp,
    pc: u32,
    lanes: u32,
    origin: u32,
    what: &str,
) {
    let Some(checker) = &block.checker else {
        return;
    };
    let origin = exec.origins.get(origin);
    let mut report = findings::Report {
        kind: FindingKind::Uninitialized,
        message: String::new(),
        line: line_of(exec.grid.code, pc),
        other_line: Some(origin.line),
        block: block.index as u32,
        thread: warp.index * 32 + lanes.trailing_zeros(),
        address: origin.address,
    };
    if checker.known(&report) {
        return;
    }
    let [px, py, pz] = warp.tid.map(|t| t[lanes.trailing_zeros() as usize & 31]);
    report.message = format!(
        "thread ({px}, {py}, {pz}) {what} what depends on {}",
        origin.describe()
    );
    checker.report(report);
}

/// An instruction with an operand of which something is to be said, before it is executed: `mask` are the group's lanes, those of `at` the
/// ones for which the guard holds.
#[inline(never)]
pub(crate) fn follow(
    exec: &mut Exec<'_>,
    block: &Block<'_>,
    warp: &mut Warp,
    at: At,
    inst: &Inst,
    mask: u32,
) {
    let (frame, m, pc) = (at.frame, at.lanes, at.pc);
    let Some(mut shadow) = warp.shadow.take() else {
        return;
    };
    let code = exec.grid.code;
    let function = &code.functions[frame.function as usize];
    let operands = operands(code, inst);
    let slots = &code.slots()[pc as usize];
    let marks = &mut shadow.marks[first_mark(frame)..];
    if let Op::Bra(_) | Op::Ret | Op::Exit = inst.op {
        let guard = marks[slots.guard as usize].awaits;
        let both = exec.awaited.union(shadow.decided, guard);
        shadow.decided = exec.awaited.written(shadow.decided, both, mask);
    }
    if wait(&mut exec.awaited, marks, slots, &operands, m, warp.live) {
        warp.shadow = Some(shadow);
        return;
    }
    let mut carry = shadow.carry;
    let mut view = View::new(&mut shadow, at.regs, frame, function, warp.live);
    let guard = inst.guard & !HELPER;
    let unguarded = view.undefined_lanes(File::Reference, guard, mask);
    let guard_origin = view.origin(File::Reference, guard);
    if operands.d == File::Absent {
        if unguarded != 0 {
            let what = match inst.op {
                Op::Bra(_) | Op::Ret | Op::Exit => "branches on",
                _ => "executes or leaves out an instruction on",
            };
            decide(exec, block, warp, pc, unguarded, guard_origin, what);
            view.define(File::Pred, guard >> 1, mask);
        }
        if let Op::Ld(index) | Op::St(index) = inst.op {
            let base = code.mems[index as usize].address.base;
            address(exec, block, warp, &mut view, base, m, pc);
        }
    } else {
        propagate(
            &mut view,
            &mut carry,
            inst,
            &operands,
            m,
            unguarded,
            guard_origin,
        );
    }
    shadow.carry = carry;
    warp.shadow = Some(shadow);
}

/// Hands on what an operation's results depend on; whether nothing else is to be done, for all is defined.
pub(super) fn wait(
    sets: &mut Sets,
    marks: &mut [Mark],
    slots: &Slots,
    operands: &Operands,
    lanes: u32,
    live: u32,
) -> bool {
    let Slots {
        guard,
        d,
        a,
        b,
        c,
        e,
    } = *slots;
    let all = [guard, d, a, b, c, e].map(|slot| marks[slot as usize]);
    if all.iter().any(|mark| mark.awaits != 0) && operands.d != File::Absent {
        let [guard, _, a, b, c, fourth] = all.map(|mark| mark.awaits);
        let mut set = [guard, a, b, c]
            .into_iter()
            .fold(0, |set, other| sets.union(set, other));
        if !operands.two_results {
            set = sets.union(set, fourth);
        }
        let results = [d, e];
        for &slot in &results[..1 + usize::from(operands.two_results)] {
            let mark = &mut marks[slot as usize];
            mark.awaits = match lanes & live == live {
                true => set,
                false => sets.written(mark.awaits, set, lanes),
            };
        }
    }
    all.iter().all(|mark| mark.origin == 0)
}

/// An operation on registers.
pub(super) fn propagate(
    view: &mut View<'_>,
    carry: &mut u32,
    inst: &Inst,
    operands: &Operands,
    active: u32,
    unguarded: u32,
    guard_origin: u32,
) {
    let Operands {
        a,
        b,
        c,
        e,
        d,
        two_results,
    } = *operands;
    let fourth = if two_results { File::Absent } else { e };
    let sources = [(a, inst.a), (b, inst.b), (c, inst.c), (fourth, inst.e)];
    let origin = sources
        .iter()
        .map(|&(file, slot)| view.origin(file, slot))
        .find(|&origin| origin != 0);
    let (mut first, mut second) = ([0; 32], [0; 32]);
    let taking = match inst.op {
        Op::Carry32(carry) | Op::Carry64(carry) => Some(carry),
        _ => None,
    };
    if origin.is_some() || taking.is_some() && *carry != 0 {
        for lane in lanes_of(active) {
            let l = lane as usize;
            let [mut x, mut y] = rules::results(
                inst.op,
                sources.map(|(file, slot)| view.bits(file, slot, l)),
            );
            if let Some(mode) = taking {
                if mode.take && *carry >> l & 1 != 0 {
                    x = !0;
                }
                if mode.set {
                    *carry = *carry & !(1 << l) | u32::from(x != 0) << l;
                }
                y = 0;
            }
            (first[l], second[l]) = (x, y);
        }
    }
    // Where the guard is undefined, so is what the register holds afterwards.
    for lane in lanes_of(unguarded) {
        (first[lane as usize], second[lane as usize]) = (!0, !0);
    }
    let lanes = active | unguarded;
    if active == 0 && unguarded == 0 {
        return;
    }
    let origin = origin.unwrap_or(guard_origin);
    if taking.is_some_and(|mode| mode.set) {
        // The predicate that is always true stands for the carry, too: operations are looked at while that is undefined.
        let always = view.function.place(File::Pred, 0) as usize;
        let before = view.marks[always].origin;
        view.marks[always].origin = match *carry & view.live {
            0 => 0,
            _ => origin.max(before).max(NEVER_WRITTEN),
        };
    }
    view.set(d, inst.d, &first, lanes, origin);
    if two_results {
        view.set(e, inst.e, &second, lanes, origin);
    }
}

/// The register that an address is made of.
pub(super) fn address(
    exec: &Exec<'_>,
    block: &Block<'_>,
    warp: &Warp,
    view: &mut View<'_>,
    base: Base,
    active: u32,
    pc: u32,
) {
    let (file, slot) = match base {
        Base::R32(slot) => (File::R32, slot),
        Base::R64(slot) => (File::R64, slot),
        Base::None | Base::Frame => return,
    };
    let lanes = view.undefined_lanes(file, slot, active);
    if lanes != 0 {
        let origin = view.origin(file, slot);
        decide(exec, block, warp, pc, lanes, origin, "uses as an address");
        view.define(file, slot, active);
    }
}

/// Calls `f` with a running frame's registers and their shadow, if definedness is followed.
pub(super) fn with(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    frame: Frame,
    f: impl FnOnce(&mut Exec<'_>, &mut Block<'_>, &mut Warp, &mut View<'_>),
) {
    let Some(mut shadow) = warp.shadow.take() else {
        return;
    };
    let function = &exec.grid.code.functions[frame.function as usize];
    let r = warp.files.regs(frame);
    let mut view = View::new(&mut shadow, r, frame, function, warp.live);
    f(exec, block, warp, &mut view);
    warp.shadow = Some(shadow);
}

/// The address of an access.
pub(crate) fn check_address(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    base: Base,
) {
    with(exec, block, warp, at.frame, |exec, block, warp, view| {
        address(exec, block, warp, view, base, at.lanes, at.pc);
    });
}

/// A register that decides where the lanes go, or what cannot be undone.
pub(crate) fn check_decision(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (file, slot): (File, u32),
    what: &str,
) {
    with(exec, block, warp, at.frame, |exec, block, warp, view| {
        let lanes = view.undefined_lanes(file, slot, at.lanes);
        if lanes == 0 {
            return;
        }
        let origin = view.origin(file, slot);
        decide(exec, block, warp, at.pc, lanes, origin, what);
        match file {
            File::Reference => view.define(File::Pred, slot >> 1, at.lanes),
            file => view.define(file, slot, at.lanes),
        }
    });
}

/// A register gets values that are defined.
pub(crate) fn define(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (file, slot): (File, u32),
) {
    with(exec, block, warp, at.frame, |exec, _, _, view| {
        view.define(file, slot, at.lanes);
        view.await_all(&mut exec.awaited, file, slot, 0, at.lanes);
    });
}

/// Bytes of a frame's local memory get values that are defined.
pub(crate) fn define_local(warp: &mut Warp, frame: Frame, offset: u32, bytes: u32, lanes: u32) {
    if let Some(shadow) = &mut warp.shadow {
        let files = &mut shadow.files;
        for lane in lanes_of(lanes) {
            let at = lane as usize * files.stride as usize + (frame.local + offset) as usize;
            files.local[at..at + bytes as usize].fill(0);
        }
    }
}

/// An argument or a result moves between frames.
pub(crate) fn passed(
    code: &Code,
    sets: &mut Sets,
    warp: &mut Warp,
    from: (Frame, Value),
    to: (Frame, Value),
    lanes: u32,
) {
    let (r, live) = (warp.files.regs(to.0), warp.live);
    let Some(shadow) = &mut warp.shadow else {
        return;
    };
    pass(&mut shadow.files, from, to, lanes);
    let Value::Reg(reg) = to.1 else {
        return;
    };
    let mut origin = NEVER_WRITTEN;
    if let Value::Reg(value) = from.1 {
        let caller = &code.functions[from.0.function as usize];
        let (file, slot) = file_of(value);
        let view = View::new(shadow, r, from.0, caller, live);
        let awaits = view.awaits(file, slot);
        origin = view.origin(file, slot).max(NEVER_WRITTEN);
        let callee = &code.functions[to.0.function as usize];
        let (file, slot) = file_of(reg);
        let mut view = View::new(shadow, r, to.0, callee, live);
        view.await_all(sets, file, slot, awaits, lanes);
    }
    let (file, slot) = file_of(reg);
    let function = &code.functions[to.0.function as usize];
    let mut view = View::new(shadow, r, to.0, function, live);
    // The bits are there; what is missing is whether there are any, and where they come from.
    let bits = std::array::from_fn(|l| view.bits(file, slot, l).undefined);
    view.set(file, slot, &bits, lanes, origin);
}

/// An operation from one register to another, before it is executed; `givers` are the lanes that a lane's result comes from.
pub(crate) fn one_source(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    [(from, a), (to, d)]: [(File, u32); 2],
    givers: impl Fn(usize) -> u32,
    f: impl Fn(&[u64; 32]) -> [u64; 32],
) {
    let m = at.lanes;
    with(exec, block, warp, at.frame, |exec, _, _, view| {
        let source = view.awaits(from, a);
        let moved = match source {
            0 => 0,
            source => {
                let moved = exec.awaited.get(source).moved(givers);
                exec.awaited.add(moved)
            }
        };
        view.await_all(&mut exec.awaited, to, d, moved, m);
        let origin = view.origin(from, a);
        if origin != 0 || view.origin(to, d) != 0 {
            let bits = std::array::from_fn(|l| view.bits(from, a, l).undefined);
            view.set(to, d, &f(&bits), m, origin);
        }
    });
}

/// A register gets the undefined bits that were found for it.
pub(crate) fn set(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (file, slot): (File, u32),
    bits: &[u64; 32],
    origin: u32,
) {
    let m = at.lanes;
    with(exec, block, warp, at.frame, |_, _, _, view| {
        if origin != 0 || view.origin(file, slot) != 0 {
            view.set(file, slot, bits, m, origin);
        }
    });
}

/// Lanes of `mask` that bring an undefined predicate to a barrier's reduction, and where it comes from.
pub(crate) fn reduced(
    code: &Code,
    warp: &mut Warp,
    frame: Frame,
    source: u32,
    mask: u32,
) -> (u32, u32) {
    let (r, live) = (warp.files.regs(frame), warp.live);
    let Some(shadow) = &mut warp.shadow else {
        return (0, 0);
    };
    let function = &code.functions[frame.function as usize];
    let view = View::new(shadow, r, frame, function, live);
    match view.undefined_lanes(File::Reference, source, mask) {
        0 => (0, 0),
        lanes => (lanes, view.origin(File::Reference, source)),
    }
}

/// The result of a barrier's reduction, undefined if it has an origin.
pub(crate) fn reduction(
    code: &Code,
    warp: &mut Warp,
    frame: Frame,
    (file, slot): (File, u32),
    mask: u32,
    origin: u32,
) {
    let (r, live) = (warp.files.regs(frame), warp.live);
    let Some(shadow) = &mut warp.shadow else {
        return;
    };
    let function = &code.functions[frame.function as usize];
    let mut view = View::new(shadow, r, frame, function, live);
    let mark = &mut view.marks[function.place(file, slot) as usize];
    // After a barrier nothing has to be waited for.
    mark.awaits = 0;
    match origin {
        0 => view.define(file, slot, mask),
        _ => view.set(file, slot, &[!0; 32], mask, origin),
    }
}
