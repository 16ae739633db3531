//! Operations outside the inner loop: calls, barriers, the warp's collectives, matrices, atomics.

use std::sync::atomic::{Ordering, fence};

use super::awaited::Waits;
use super::memory::{Pointers, Reached, What, Written, addresses, observe, pointers, window};
use super::registers::Regs;
use super::run::{Flow, POLL, POLL_COST};
use super::state::{At, Block, Files, Frame, Return, Wait, Warp};
use super::{Exec, async_copy, atomic, barrier, defined, print};
use crate::check::FindingKind;
use crate::check::hooks::{Dependence, Kind};
use crate::engine::FaultCode;
use crate::lower::op::*;
use crate::lower::operands::File;
use crate::numeric::{matrix, mma};

/// Calls deeper than this overflow the stack, as does local memory beyond what a thread can have.
const MAX_DEPTH: usize = 1024;
const MAX_LOCAL: u32 = 512 << 10;

/// What `shfl` gives where the source lane takes no part, which PTX leaves undefined: no number in any float format.
const ABSENT: u32 = !0;

/// Lanes of `m` whose word equals the first lane's, and that word.
fn same_as_first(words: &[u32; 32], m: u32) -> (u32, u32) {
    let first = words[m.trailing_zeros() as usize];
    let same = (0..32).filter(|&l| m >> l & 1 != 0 && words[l] == first);
    (first, same.fold(0, |s, l| s | 1 << l))
}

/// Executes one; `m` (not 0) is the group's lanes for which the guard holds, the group's pc is the instruction.
#[inline(never)]
pub(crate) fn execute(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    index: u32,
    m: u32,
    budget: &mut i64,
) -> Flow {
    let code = x.grid.code;
    let op = &code.slow[index as usize];
    let (pc, frame) = (warp.groups[group].pc, warp.groups[group].frame);
    let r = warp.regs(frame);
    let at = At {
        pc,
        lanes: m,
        frame,
        regs: r,
    };
    // SAFETY (of the blocks below): slots are those that lowering gave to this frame's function.
    match op {
        Slow::Atom(atom) => {
            *budget -= POLL_COST;
            warp.backward += POLL;
            block.exchanged = true;
            block.polls += u64::from(atom.op == AtomOp::Cas || atom.op == AtomOp::Exch);
            // SAFETY: slots of this frame; m is not 0.
            match unsafe { atomic::execute(x, block, warp, at, atom) } {
                true => Flow::Next,
                false => Flow::Fault,
            }
        }
        Slow::Shfl { members, .. }
        | Slow::Vote { members, .. }
        | Slow::Match { members, .. }
        | Slow::Redux { members, .. }
        | Slow::Elect { members, .. } => {
            match together(x, block, warp, group, m, *members, false) {
                Ok(sets) => {
                    for set in sets {
                        defined::collective(x, block, warp, At { lanes: set, ..at }, op);
                        // SAFETY: slots of this frame.
                        unsafe { collective(r, op, set) };
                    }
                    Flow::Next
                }
                Err(flow) => flow,
            }
        }
        Slow::BarWarp { members } => match together(x, block, warp, group, m, *members, true) {
            Ok(sets) => {
                if let Some(checker) = &mut block.checker {
                    sets.iter()
                        .for_each(|&set| checker.warp_sync(warp.index, set));
                }
                Flow::Next
            }
            Err(flow) => flow,
        },
        Slow::Activemask { d } => {
            // SAFETY: a slot of this frame.
            unsafe { r.set32(*d, &[m; 32], m) };
            defined::define(x, block, warp, at, (File::R32, *d));
            Flow::Next
        }
        Slow::Bar(bar) => barrier::execute(x, block, warp, group, bar, m),
        Slow::Fence(scope, semantics) => {
            fence(Ordering::SeqCst);
            if block.follows
                && let Some(checker) = &mut block.checker
            {
                checker.fence(warp.index, m, *scope, *semantics);
            }
            Flow::Next
        }
        Slow::Brx { index, targets } => {
            let register = (File::R32, *index);
            let what = "branches on";
            defined::check_decision(x, block, warp, at, register, what);
            // SAFETY: a slot of this frame.
            let words = unsafe { r.get32(*index) };
            let (first, same) = same_as_first(words, m);
            let Some(&target) = targets.get(first as usize) else {
                let n = targets.len();
                let message = format!("brx.idx takes entry {first} of a table of {n}");
                return x.fault(block, warp, FaultCode::InvalidPc, message, pc, m);
            };
            take_lanes(warp, group, m, same, target);
            Flow::Regroup
        }
        Slow::Call(call) => self::call(x, block, warp, group, call, m),
        Slow::Vprintf { format, args, ret } => {
            if let Err(message) = print::vprintf(x, warp, r, frame, [*format, *args], *ret, m) {
                return x.fault(block, warp, FaultCode::IllegalAddress, message, pc, m);
            }
            match ret {
                Some(Value::Frame(offset, bytes)) => {
                    defined::define_local(warp, frame, *offset, *bytes, m);
                }
                Some(Value::Reg(Reg::R32(d))) => {
                    defined::define(x, block, warp, at, (File::R32, *d));
                }
                _ => {}
            }
            Flow::Next
        }
        Slow::AssertFail(slots) => {
            let message = print::assertion(x, block, warp, frame, slots, m);
            x.fault(block, warp, FaultCode::Assert, message, pc, m)
        }
        Slow::Trap => {
            let message = "the kernel executed `trap`".into();
            x.fault(block, warp, FaultCode::LaunchFailed, message, pc, m)
        }
        Slow::Brkpt => {
            let message = "the kernel executed `brkpt` and there is no debugger".into();
            x.fault(block, warp, FaultCode::LaunchFailed, message, pc, m)
        }
        Slow::Nanosleep { time } => {
            // SAFETY: a slot of this frame.
            block.slept += u64::from(unsafe { r.get32(*time) }[m.trailing_zeros() as usize]);
            *budget = 0;
            warp.backward += POLL;
            block.polls += 1;
            Flow::Next
        }
        Slow::Prefetch | Slow::GridDependency => Flow::Next,
        Slow::Discard { address } => discard(x, block, warp, at, address),
        Slow::CreatePolicy { d } => {
            // Opaque, and used for nothing: policies are hints.
            // SAFETY: a slot of this frame.
            unsafe { r.set64(*d, &[0x1000_0000_0000_0000; 32], m) };
            defined::define(x, block, warp, at, (File::R64, *d));
            Flow::Next
        }
        Slow::CpAsync(copy) => match async_copy::issue(x, block, warp, at, copy) {
            true => Flow::Next,
            false => Flow::Fault,
        },
        Slow::CpAsyncCommit => {
            async_copy::commit(block, warp, m);
            Flow::Next
        }
        Slow::CpAsyncWait { pending, all } => {
            async_copy::wait(x, block, warp, *pending, *all, m);
            Flow::Next
        }
        Slow::Ldmatrix(op) => {
            if let Err(flow) = whole_warp(x, block, warp, group, m, "ldmatrix") {
                return flow;
            }
            ldmatrix(x, block, warp, at, op)
        }
        Slow::Stmatrix(op) => {
            if let Err(flow) = whole_warp(x, block, warp, group, m, "stmatrix") {
                return flow;
            }
            stmatrix(x, block, warp, at, op)
        }
        Slow::Movmatrix { d, a } => {
            if let Err(flow) = whole_warp(x, block, warp, group, m, "movmatrix") {
                return flow;
            }
            let (from, to) = ((File::R32, *a), (File::R32, *d));
            let transpose =
                |bits: &[u64; 32]| matrix::transpose(&bits.map(|u| u as u32)).map(u64::from);
            // Of the rows 2 (l % 4) and the next, column l / 4.
            let givers = |l: usize| 0x11 << (8 * (l % 4) + l / 8);
            defined::one_source(x, block, warp, at, [from, to], givers, transpose);
            // SAFETY: slots of this frame.
            unsafe { r.set32(*d, &matrix::transpose(r.get32(*a)), m) };
            Flow::Next
        }
        Slow::Mma(mma) => {
            if let Err(flow) = whole_warp(x, block, warp, group, m, "mma") {
                return flow;
            }
            super::count::mma(x, mma.kind);
            defined::product(x, block, warp, frame, std::slice::from_ref(mma));
            // SAFETY: slots of this frame.
            unsafe { write_product(r, &mma.registers[0], &product(x, r, mma), m) };
            Flow::Next
        }
        Slow::WmmaMma(tiles) => {
            if let Err(flow) = whole_warp(x, block, warp, group, m, "wmma.mma") {
                return flow;
            }
            defined::product(x, block, warp, frame, tiles);
            // SAFETY: slots of this frame.
            unsafe {
                // Registers of D may be those of an operand of a later tile.
                let products: Vec<_> = tiles.iter().map(|tile| product(x, r, tile)).collect();
                for (tile, product) in tiles.iter().zip(&products) {
                    super::count::mma(x, tile.kind);
                    write_product(r, &tile.registers[0], product, m);
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
            if let Err(flow) = whole_warp(x, block, warp, group, m, name) {
                return flow;
            }
            super::wmma::access(x, block, warp, at, access)
        }
        Slow::Isspacep { space, d, a } => {
            let (from, to) = ((File::R64, *a), (File::Pred, *d));
            let any = |bits: &[u64; 32]| bits.map(|u| u64::from(u != 0));
            defined::one_source(x, block, warp, at, [from, to], |l| 1 << l, any);
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
                r.set_pred(*d, inside, m);
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
            defined::one_source(x, block, warp, at, [from, to], |l| 1 << l, upward);
            // SAFETY: slots of this frame.
            unsafe {
                let value = match to_generic {
                    true => r.get64(*a).map(|a| a.wrapping_add(base)),
                    false => r.get64(*a).map(|a| a.wrapping_sub(base)),
                };
                r.set64(*d, &value, m);
            }
            Flow::Next
        }
    }
}

/// `discard`: 128 bytes of each lane get a value that no kernel can want.
fn discard(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    address: &Address,
) -> Flow {
    const SIZE: u32 = 128;
    let what = What::weak(address.space, Kind::Write, SIZE, at.pc);
    let mut p = [std::ptr::null_mut(); 32];
    let site = x.grid.code.mems.len();
    let m = at.lanes;
    defined::check_address(x, block, warp, at, address.base);
    // SAFETY: slots of the frame, and some lanes; `pointers` checks the whole size.
    unsafe {
        let a = addresses(at, address);
        for l in (0..32).filter(|l| m >> l & 1 != 0) {
            if !a[l].is_multiple_of(u64::from(SIZE)) {
                x.memory_fault(block, warp, what, a[l], l);
                return Flow::Fault;
            }
        }
        if !pointers(x, block, warp, at, (what, site), &a, &mut p) {
            return Flow::Fault;
        }
        if x.profile || block.follows {
            observe(x, block, warp, what, &a, m, Written::default());
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
        defined::discarded(x, block, warp, reached);
    }
    Flow::Next
}

/// Tells the checker of lanes that met at `bar.warp.sync` without arriving together.
pub(crate) fn met(block: &mut Block<'_>, warp: &mut Warp) {
    let lanes = std::mem::take(&mut warp.met);
    if let Some(checker) = &mut block.checker {
        checker.warp_sync(warp.index, lanes);
    }
}

/// Lanes `same` of `m` go to `target`; the rest of `m` stays at the instruction, and lanes off go on. The group of `same`.
fn take_lanes(warp: &mut Warp, group: usize, m: u32, same: u32, target: u32) -> usize {
    let mask = warp.groups[group].mask;
    if mask & !m != 0 {
        let off = warp.split(group, mask & !m);
        warp.groups[off].pc += 1;
    }
    let taken = if m == same {
        group
    } else {
        warp.split(group, same)
    };
    warp.groups[taken].pc = target;
    taken
}

/// For an operation that the lanes named in a mask execute together: the sets of lanes, one for each mask value, if all are
/// here; otherwise those that are not complete wait.
fn together(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    m: u32,
    members: u32,
    any_place: bool,
) -> Result<Vec<u32>, Flow> {
    let frame = warp.groups[group].frame;
    let pc = warp.groups[group].pc;
    let at = At {
        pc,
        lanes: m,
        frame,
        regs: warp.regs(frame),
    };
    let register = (File::R32, members);
    defined::check_decision(x, block, warp, at, register, "takes as a mask of lanes");
    // SAFETY: a slot of this frame.
    let words = *unsafe { warp.regs(frame).get32(members) };
    let live = warp.live;
    let mut sets = Vec::new();
    let mut waiting = Vec::new();
    let mut left = m;
    while left != 0 {
        let (value, same) = same_as_first(&words, left);
        left &= !same;
        if same & !value != 0 {
            let message = format!(
                "lanes {same:#010x} execute a .sync operation whose mask {value:#010x} does not name all of them"
            );
            let those = (pc, same & !value);
            x.report(
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
    if mask & !m != 0 {
        let off = warp.split(group, mask & !m);
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
fn whole_warp(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    m: u32,
    name: &str,
) -> Result<(), Flow> {
    if m == warp.live && m == !0 {
        return Ok(());
    }
    let pc = warp.groups[group].pc;
    if m == warp.live || m != warp.groups[group].mask {
        let message = format!("{name} needs all 32 lanes of the warp, {m:#010x} execute it");
        let kind = FindingKind::BarrierMisuse;
        x.report(block, warp, kind, message.clone(), (pc, m), None);
        return Err(x.fault(block, warp, FaultCode::IllegalInstruction, message, pc, m));
    }
    warp.groups[group].wait = Wait::Members {
        mask: !0,
        any_place: false,
    };
    Err(Flow::Regroup)
}

/// The lane whose value `shfl` gives a lane, and whether it is the one that the operands name.
pub(super) fn shfl_source(mode: ShflMode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (bval, cval, segment) = (b & 31, c & 31, c >> 8 & 31);
    let least = lane & segment;
    let most = least | cval & !segment;
    let (source, ok) = match mode {
        // Upward, the clamp is the lower end.
        ShflMode::Up => {
            let j = lane.wrapping_sub(bval);
            (j, j as i32 >= most as i32)
        }
        ShflMode::Down => (lane + bval, lane + bval <= most),
        ShflMode::Bfly => (lane ^ bval, lane ^ bval <= most),
        ShflMode::Idx => {
            let j = least | bval & !segment;
            (j, j <= most)
        }
    };
    (if ok { source & 31 } else { lane }, ok)
}

/// shfl, vote, match, redux, elect for one set of lanes.
///
/// # Safety
/// Slots belong to the frame.
unsafe fn collective(r: Regs, op: &Slow, set: u32) {
    let lanes = || (0..32usize).filter(move |l| set >> l & 1 != 0);
    // SAFETY: the caller's.
    unsafe {
        match op {
            Slow::Shfl {
                mode,
                d,
                p,
                a,
                lane: b,
                clamp,
                ..
            } => {
                let (a, b, c) = (*r.get32(*a), r.get32(*b), r.get32(*clamp));
                let mut value = [0; 32];
                let mut inside = 0;
                for l in lanes() {
                    let (source, ok) = shfl_source(*mode, l as u32, b[l], c[l]);
                    value[l] = match set >> source & 1 {
                        0 => ABSENT,
                        _ => a[source as usize],
                    };
                    inside |= u32::from(ok) << l;
                }
                r.set32(*d, &value, set);
                if *p != NONE {
                    r.set_pred(*p, inside, set);
                }
            }
            Slow::Vote { mode, d, a, .. } => {
                let yes = r.pred(*a) & set;
                match mode {
                    VoteMode::Ballot => r.set32(*d, &[yes; 32], set),
                    VoteMode::All => r.set_pred(*d, all_ones(yes == set), set),
                    VoteMode::Any => r.set_pred(*d, all_ones(yes != 0), set),
                    VoteMode::Uni => r.set_pred(*d, all_ones(yes == 0 || yes == set), set),
                }
            }
            Slow::Match {
                all, wide, d, p, a, ..
            } => {
                let words: [u64; 32] = match wide {
                    true => *r.get64(*a),
                    false => r.get32(*a).map(u64::from),
                };
                let mut value = [0; 32];
                for l in lanes() {
                    value[l] = lanes()
                        .filter(|&k| words[k] == words[l])
                        .fold(0, |s, k| s | 1 << k);
                }
                if *all {
                    let same = lanes().all(|l| value[l] == set);
                    value = [if same { set } else { 0 }; 32];
                    if *p != NONE {
                        r.set_pred(*p, all_ones(same), set);
                    }
                }
                r.set32(*d, &value, set);
            }
            Slow::Redux { op, d, a, .. } => {
                let a = r.get32(*a);
                let values = lanes().map(|l| a[l]);
                let result = match op {
                    ReduxOp::Add => values.fold(0, u32::wrapping_add),
                    ReduxOp::MinU => values.fold(u32::MAX, u32::min),
                    ReduxOp::MaxU => values.fold(0, u32::max),
                    ReduxOp::MinS => values.map(|v| v as i32).fold(i32::MAX, i32::min) as u32,
                    ReduxOp::MaxS => values.map(|v| v as i32).fold(i32::MIN, i32::max) as u32,
                    ReduxOp::And => values.fold(!0, |s, v| s & v),
                    ReduxOp::Or => values.fold(0, |s, v| s | v),
                    ReduxOp::Xor => values.fold(0, |s, v| s ^ v),
                };
                r.set32(*d, &[result; 32], set);
            }
            Slow::Elect { d, p, .. } => {
                let leader = set.trailing_zeros();
                r.set32(*d, &[leader; 32], set);
                r.set_pred(*p, 1 << leader, set);
            }
            // Only the collectives come here.
            _ => {}
        }
    }
}

fn all_ones(yes: bool) -> u32 {
    if yes { !0 } else { 0 }
}

/// D of a matrix instruction.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum Product {
    Words([[u32; 32]; 4]),
    Doubles(Box<[[u64; 32]; 4]>),
}

/// # Safety
/// Slots belong to the frame.
unsafe fn write_product(r: Regs, d: &[u32], product: &Product, m: u32) {
    // SAFETY: the caller's.
    unsafe {
        match product {
            Product::Words(words) => {
                for (&slot, value) in d.iter().zip(words) {
                    r.set32(slot, value, m);
                }
            }
            Product::Doubles(words) => {
                for (&slot, value) in d.iter().zip(words.iter()) {
                    r.set64(slot, value, m);
                }
            }
        }
    }
}

/// # Safety
/// Slots belong to the frame.
unsafe fn product(x: &Exec<'_>, r: Regs, op: &Mma) -> Product {
    let [_, a, b, c] = &op.registers;
    // SAFETY: the caller's.
    unsafe {
        if let MmaKind::Double(kind) = op.kind {
            let file = |slots: &[u32]| slots.iter().map(|&s| r.get64(s)).collect::<Vec<_>>();
            let words = mma::double(kind, &file(a), &file(b), &file(c));
            return Product::Doubles(Box::new(words));
        }
        let mut registers = [[&ZERO; 8]; 3];
        for (to, from) in registers.iter_mut().zip([a, b, c]) {
            for (to, &slot) in to.iter_mut().zip(from) {
                *to = r.get32(slot);
            }
        }
        let [ra, rb, rc] = &registers;
        let (ra, rb, rc) = (&ra[..a.len()], &rb[..b.len()], &rc[..c.len()]);
        Product::Words(match op.kind {
            MmaKind::Float(kind) => mma::float(kind, x.grid.mma, ra, rb, rc),
            MmaKind::Integer(kind) => mma::integer(kind, ra, rb, rc),
            MmaKind::Double(_) => [ZERO; 4],
        })
    }
}

static ZERO: [u32; 32] = [0; 32];

/// The rows of `ldmatrix` and `stmatrix`, of which lane l names row l: addresses, and pointers that were checked.
fn rows(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
    kind: Kind,
    awaited: Option<Waits<'_>>,
) -> Option<([u64; 32], Pointers, What)> {
    let at = At {
        lanes: op.lanes(),
        ..at
    };
    let instance = match kind {
        Kind::Read => defined::instance(x, warp, at),
        _ => None,
    };
    let what = What {
        instance,
        ..What::weak(op.address.space, kind, 16, at.pc)
    };
    let mut p = [std::ptr::null_mut(); 32];
    let site = x.grid.code.mems.len();
    defined::check_address(x, block, warp, at, op.address.base);
    // SAFETY: slots of the frame, and some lanes.
    unsafe {
        let a = addresses(at, &op.address);
        if !pointers(x, block, warp, at, (what, site), &a, &mut p) {
            return None;
        }
        if x.profile || block.follows {
            let written = Written {
                values: None,
                dependence: awaited.as_ref().map(|a| a as &dyn Dependence),
            };
            observe(x, block, warp, what, &a, at.lanes, written);
        }
        Some((a, p, what))
    }
}

fn ldmatrix(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
) -> Flow {
    let Some((a, p, what)) = rows(x, block, warp, at, op, Kind::Read, None) else {
        return Flow::Fault;
    };
    if warp.shadow.is_some() {
        let reached = Reached {
            what,
            lanes: op.lanes(),
            a: &a,
            p: &p,
        };
        defined::rows_loaded(x, block, warp, at, op, reached);
    }
    for (i, &slot) in op.registers().iter().enumerate() {
        // SAFETY: `rows` checked 16 aligned bytes for each pointer; a slot of the frame.
        unsafe {
            let rows: [matrix::Row; 8] =
                std::array::from_fn(|row| p[8 * i + row].cast::<matrix::Row>().read());
            at.regs.set32(slot, &matrix::load(&rows, op.trans), !0);
        }
    }
    Flow::Next
}

fn stmatrix(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
) -> Flow {
    let awaited = defined::awaited_by_rows(x, warp, at, op);
    let Some((a, p, what)) = rows(x, block, warp, at, op, Kind::Write, awaited) else {
        return Flow::Fault;
    };
    if warp.shadow.is_some() {
        let reached = Reached {
            what,
            lanes: op.lanes(),
            a: &a,
            p: &p,
        };
        defined::rows_stored(x, block, warp, at, op, reached);
    }
    for (i, &slot) in op.registers().iter().enumerate() {
        // SAFETY: as in `ldmatrix`.
        unsafe {
            let rows = matrix::store(at.regs.get32(slot), op.trans);
            for (row, words) in rows.iter().enumerate() {
                p[8 * i + row].cast::<matrix::Row>().write(*words);
            }
        }
    }
    Flow::Next
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

fn call(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    group: usize,
    call: &Call,
    m: u32,
) -> Flow {
    let code = x.grid.code;
    let (pc, frame) = (warp.groups[group].pc, warp.groups[group].frame);
    let (index, lanes) = match call.target {
        CallTarget::Function(index) => (index as usize, m),
        CallTarget::Indirect(slot) => {
            let at = At {
                pc,
                lanes: m,
                frame,
                regs: warp.regs(frame),
            };
            defined::check_decision(x, block, warp, at, (File::R64, slot), "calls by");
            // SAFETY: a slot of this frame.
            let words = unsafe { warp.regs(frame).get64(slot) };
            let first = words[m.trailing_zeros() as usize];
            let same = (0..32)
                .filter(|&l| m >> l & 1 != 0 && words[l] == first)
                .fold(0, |s, l| s | 1 << l);
            match code.functions.iter().position(|f| f.address == first) {
                Some(i) => (i, same),
                None => {
                    let message =
                        format!("an indirect call goes to {first:#x}, which is no function");
                    return x.fault(block, warp, FaultCode::InvalidPc, message, pc, same);
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
        return x.fault(
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
        return x.fault(
            block,
            warp,
            FaultCode::IllegalInstruction,
            message,
            pc,
            lanes,
        );
    }
    warp.open(inner, callee, lanes);
    for (&from, &to) in call.args.iter().zip(&callee.params) {
        defined::passed(
            code,
            &mut x.awaited,
            warp,
            (frame, from),
            (inner, to),
            lanes,
        );
        if !pass(&mut warp.files, (frame, from), (inner, to), lanes) {
            let message = format!("an argument does not fit {}'s parameter", callee.name);
            return x.fault(
                block,
                warp,
                FaultCode::IllegalInstruction,
                message,
                pc,
                lanes,
            );
        }
    }
    let entered = take_lanes(warp, group, m, lanes, callee.entry);
    let g = &mut warp.groups[entered];
    g.stack.push(Return { pc, frame });
    g.frame = inner;
    Flow::Regroup
}

/// Copies a value between frames for the lanes; false if their sizes differ.
pub(super) fn pass(
    files: &mut Files,
    from: (Frame, Value),
    to: (Frame, Value),
    lanes: u32,
) -> bool {
    let bytes = |files: &Files, at: u32, lane: usize| lane * files.stride as usize + at as usize;
    let each = || (0..32usize).filter(move |l| lanes >> l & 1 != 0);
    match (from, to) {
        (_, (_, Value::Sink)) => true,
        ((ff, Value::Frame(a, n)), (tf, Value::Frame(b, k))) => {
            for l in each() {
                let start = bytes(files, ff.local + a, l);
                let target = bytes(files, tf.local + b, l);
                files.local.copy_within(start..start + n as usize, target);
            }
            n == k
        }
        ((ff, Value::Reg(a)), (tf, Value::Reg(b))) => {
            let (rf, rt) = (files.regs(ff), files.regs(tf));
            // SAFETY: slots of the two frames, whose files do not overlap; no file is resized meanwhile.
            unsafe {
                match (a, b) {
                    (Reg::R32(a), Reg::R32(b)) => rt.set32(b, rf.get32(a), lanes),
                    (Reg::R64(a), Reg::R64(b)) => rt.set64(b, rf.get64(a), lanes),
                    (Reg::P(a), Reg::P(b)) => rt.set_pred(b, rf.pred(a << 1), lanes),
                    _ => return false,
                }
            }
            true
        }
        ((ff, Value::Reg(a)), (tf, Value::Frame(b, n))) => {
            let r = files.regs(ff);
            let words: [u64; 32] = match a {
                // SAFETY: a slot of the frame.
                Reg::R32(a) => unsafe { r.get32(a) }.map(u64::from),
                // SAFETY: a slot of the frame.
                Reg::R64(a) => *unsafe { r.get64(a) },
                Reg::P(_) => return false,
            };
            let fits = if matches!(a, Reg::R64(_)) {
                n == 8
            } else {
                n <= 4
            };
            for l in each().filter(|_| fits) {
                let start = bytes(files, tf.local + b, l);
                files.local[start..start + n as usize]
                    .copy_from_slice(&words[l].to_le_bytes()[..n as usize]);
            }
            fits
        }
        ((ff, Value::Frame(a, n)), (tf, Value::Reg(b))) => {
            let fits = if matches!(b, Reg::R64(_)) {
                n == 8
            } else {
                n <= 4
            };
            if !fits {
                return false;
            }
            let mut words = [0u64; 32];
            for l in each() {
                let start = bytes(files, ff.local + a, l);
                let mut word = [0; 8];
                word[..n as usize].copy_from_slice(&files.local[start..start + n as usize]);
                words[l] = u64::from_le_bytes(word);
            }
            let r = files.regs(tf);
            // SAFETY: a slot of the frame.
            unsafe {
                match b {
                    Reg::R32(b) => r.set32(b, &words.map(|w| w as u32), lanes),
                    Reg::R64(b) => r.set64(b, &words, lanes),
                    Reg::P(_) => return false,
                }
            }
            true
        }
        ((_, Value::Sink), _) => false,
    }
}

/// The group returns to its caller.
pub(crate) fn ret(x: &mut Exec<'_>, warp: &mut Warp, group: usize) {
    let code = x.grid.code;
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
                &mut x.awaited,
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
pub(crate) fn exit(x: &mut Exec<'_>, block: &mut Block<'_>, warp: &mut Warp, group: usize) {
    let lanes = warp.groups[group].mask;
    warp.groups[group].mask = 0;
    warp.live &= !lanes;
    if let Some(checker) = &mut block.checker {
        checker.exit(warp.index, lanes);
    }
    barrier::after_exit(x, block, warp);
}
