//! Definedness through memory: loads and stores of every kind.

use super::follow::with;
use super::origins::Source;
use super::records::records;
use super::shadow::View;
use crate::check::hooks::{AsyncCopy, Instance};
use crate::check::lanes_of;
use crate::exec::access::Reached;
use crate::exec::awaited::Awaited;
use crate::exec::frame::At;
use crate::exec::state::{Block, Warp, line_of};
use crate::exec::worker::Exec;
use crate::lower::op::*;
use crate::lower::operands::{File, Slots};
use crate::numeric::matrix::{self, Row};

/// A load has been executed.
///
/// # Safety
/// The access was checked; slots belong to the frame.
pub(crate) unsafe fn loaded(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    mem: &Mem,
    reached: Reached<'_>,
) {
    let (frame, m) = (at.frame, at.lanes);
    let records = records(exec, block, warp, reached);
    let size = mem.size as usize;
    let total = size * mem.count as usize;
    let Some(mut shadow) = warp.shadow.take() else {
        return;
    };
    let function = &exec.grid.code.functions[frame.function as usize];
    let mut view = View::new(&mut shadow, at.regs, frame, function, warp.live);
    let file = if mem.reg64 { File::R64 } else { File::R32 };
    let slots = &mem.regs[..mem.count as usize];
    let load = loads(exec, &view, at, reached.what.instance);
    for &slot in slots.iter().filter(|&&slot| slot != NONE) {
        for part in 0..size.div_ceil(8) as u32 {
            view.await_all(&mut exec.awaited, file, slot + part, load, m);
        }
    }
    // SAFETY: the caller's.
    unsafe {
        if records.all_defined(total) {
            for &slot in slots {
                view.define(file, slot, m);
                if size == 16 && slot != NONE {
                    view.define(file, slot + 1, m);
                }
            }
        } else {
            let found = records.first(m, total);
            let address = found.map(|(lane, byte)| reached.a[lane] + byte);
            let line = line_of(exec.grid.code, at.pc);
            let origin = exec
                .origins
                .of(Source::Memory(records.space), line, address);
            for (e, &slot) in slots.iter().enumerate() {
                for part in 0..size.div_ceil(8) {
                    let bits = std::array::from_fn(|l| {
                        let undefined = records.read(l, e * size + 8 * part, size.min(8));
                        let shift = 64 - 8 * size.min(8);
                        let wide = match mem.signed {
                            true => ((undefined << shift) as i64 >> shift) as u64,
                            false => undefined,
                        };
                        if mem.reg16 { wide & 0xffff } else { wide }
                    });
                    if slot != NONE {
                        view.set(file, slot + part as u32, &bits, m, origin);
                    }
                }
            }
        }
    }
    warp.shadow = Some(shadow);
    executed(exec, warp, at, reached.what.instance);
}

/// Which of a load's executions this is, if stores may depend on it.
pub(crate) fn instance(exec: &Exec<'_>, warp: &Warp, at: At) -> Option<Instance> {
    let code = exec.grid.code;
    let shadow = warp.shadow.as_ref()?;
    let load = code.tracked().load(line_of(code, at.pc))?;
    let is_odd = shadow.odd.get(load as usize).copied().unwrap_or(false);
    Some(Instance { is_odd })
}

/// A load has been executed: the next execution is told from it.
pub(crate) fn executed(exec: &mut Exec<'_>, warp: &mut Warp, at: At, instance: Option<Instance>) {
    let code = exec.grid.code;
    let tracked = code.tracked();
    if let Some(instance) = instance
        && let Some(load) = tracked.load(line_of(code, at.pc))
        && let Some(shadow) = &mut warp.shadow
    {
        // The last but one is no longer told from this one.
        shadow.decided = exec
            .awaited
            .without(shadow.decided, (load, instance.is_odd));
        shadow.odd.resize(tracked.loads(), false);
        shadow.odd[load as usize] = !instance.is_odd;
    }
}

/// The set of a load by each lane, and of what its address and its guard depend on.
pub(super) fn loads(
    exec: &mut Exec<'_>,
    view: &View<'_>,
    at: At,
    instance: Option<Instance>,
) -> u32 {
    let code = exec.grid.code;
    let Slots { guard, a, .. } = code.slots()[at.pc as usize];
    let [guard, a] = [guard, a].map(|slot| view.marks[slot as usize].awaits);
    let set = exec.awaited.union(a, guard);
    let load = instance.zip(code.tracked().load(line_of(code, at.pc)));
    let Some((instance, load)) = load else {
        return set;
    };
    let own = std::array::from_fn(|l| at.lanes & 1 << l);
    let own = exec
        .awaited
        .add(Awaited::load((load, instance.is_odd), own));
    exec.awaited.union(set, own)
}

/// A store has been executed.
///
/// # Safety
/// As [`loaded`].
pub(crate) unsafe fn stored(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    mem: &Mem,
    reached: Reached<'_>,
) {
    let (frame, m) = (at.frame, at.lanes);
    let records = records(exec, block, warp, reached);
    let Some(mut shadow) = warp.shadow.take() else {
        return;
    };
    let function = &exec.grid.code.functions[frame.function as usize];
    let view = View::new(&mut shadow, at.regs, frame, function, warp.live);
    let (size, file) = (
        mem.size as usize,
        if mem.reg64 { File::R64 } else { File::R32 },
    );
    let slots = &mem.regs[..mem.count as usize];
    let clean = slots.iter().all(|&slot| view.origin(file, slot) == 0)
        && (size < 16 || slots.iter().all(|&slot| view.origin(file, slot + 1) == 0));
    // SAFETY: the caller's.
    unsafe {
        if clean {
            for lane in lanes_of(m) {
                let lane = lane as usize;
                let byte = 0u8.wrapping_sub((records.global >> lane & 1) as u8);
                std::ptr::write_bytes(records.p[lane], byte, size * slots.len());
            }
        } else {
            for (e, &slot) in slots.iter().enumerate() {
                for part in 0..size.div_ceil(8) {
                    for lane in lanes_of(m) {
                        let lane = lane as usize;
                        let undefined = view.bits(file, slot + part as u32, lane).undefined;
                        records.write(lane, e * size + 8 * part, size.min(8), undefined);
                    }
                }
            }
        }
    }
    warp.shadow = Some(shadow);
}

/// `ldmatrix` has been executed.
pub(crate) fn rows_loaded(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
    reached: Reached<'_>,
) {
    let records = records(exec, block, warp, reached);
    with(exec, block, warp, at.frame, |exec, _, _, view| {
        let code = exec.grid.code;
        let load = code.tracked().load(line_of(code, at.pc));
        let load = reached.what.instance.zip(load);
        for (i, &slot) in op.registers().iter().enumerate() {
            let set = load.map_or(0, |(instance, load)| {
                let readers = std::array::from_fn(|l| match op.trans {
                    false => 1 << (8 * i + l / 4),
                    true => 3 << (8 * i + 2 * (l % 4)),
                });
                exec.awaited
                    .add(Awaited::load((load, instance.is_odd), readers))
            });
            view.await_all(&mut exec.awaited, File::R32, slot, set, !0);
        }
        // SAFETY: 16 bytes of each row were checked.
        let found = unsafe {
            match records.all_defined(16) {
                true => None,
                false => records.first(reached.lanes, 16),
            }
        };
        let Some((lane, byte)) = found else {
            op.registers()
                .iter()
                .for_each(|&slot| view.define(File::R32, slot, !0));
            return;
        };
        let line = line_of(exec.grid.code, at.pc);
        let origin = exec.origins.of(
            Source::Memory(records.space),
            line,
            Some(reached.a[lane] + byte),
        );
        for (i, &slot) in op.registers().iter().enumerate() {
            let rows: [Row; 8] = std::array::from_fn(|row| {
                // SAFETY: as above.
                std::array::from_fn(|word| unsafe { records.read(8 * i + row, 4 * word, 4) as u32 })
            });
            let bits = matrix::load(&rows, op.trans).map(u64::from);
            view.set(File::R32, slot, &bits, !0, origin);
        }
    });
    executed(exec, warp, at, reached.what.instance);
}

/// `stmatrix` has been executed.
pub(crate) fn rows_stored(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
    reached: Reached<'_>,
) {
    let records = records(exec, block, warp, reached);
    with(exec, block, warp, at.frame, |_, _, _, view| {
        for (i, &slot) in op.registers().iter().enumerate() {
            let bits = std::array::from_fn(|l| view.bits(File::R32, slot, l).undefined as u32);
            for (row, words) in matrix::store(&bits, op.trans).iter().enumerate() {
                for (word, &bits) in words.iter().enumerate() {
                    // SAFETY: 16 bytes of each row were checked.
                    unsafe { records.write(8 * i + row, 4 * word, 4, u64::from(bits)) };
                }
            }
        }
    });
}

/// One of the accesses of `wmma.load`: the undefined bits of each lane's bytes, and where they come from.
pub(crate) fn piece_loaded(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    reached: Reached<'_>,
) -> ([u64; 32], u32) {
    if warp.shadow.is_none() {
        return ([0; 32], 0);
    }
    let records = records(x, block, warp, reached);
    let size = reached.what.size as usize;
    // SAFETY: the access was checked for `size` bytes.
    let bits = std::array::from_fn(|l| unsafe { records.read(l, 0, size) });
    let Some(lane) = (0..32).find(|&l| bits[l] != 0) else {
        return (bits, 0);
    };
    let line = line_of(x.grid.code, reached.what.pc);
    let origin = x
        .origins
        .of(Source::Memory(records.space), line, Some(reached.a[lane]));
    (bits, origin)
}

/// A register holds what each lane has loaded outside the inner loop.
pub(crate) fn await_load(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (file, slot): (File, u32),
    instance: Option<Instance>,
) {
    with(exec, block, warp, at.frame, |exec, _, _, view| {
        let load = loads(exec, view, at, instance);
        view.await_all(&mut exec.awaited, file, slot, load, at.lanes);
    });
}

/// One of the accesses of `wmma.store`: `shift` bits up in the register.
pub(crate) fn piece_stored(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    reached: Reached<'_>,
    (file, slot): (File, u32),
    shift: usize,
) {
    if warp.shadow.is_none() {
        return;
    }
    let records = records(exec, block, warp, reached);
    let size = reached.what.size as usize;
    with(exec, block, warp, at.frame, |_, _, _, view| {
        for lane in 0..32 {
            let bits = view.bits(file, slot, lane).undefined >> shift;
            // SAFETY: the access was checked for `size` bytes.
            unsafe { records.write(lane, 0, size, bits) };
        }
    });
}

/// `discard`: nothing is known of the bytes (a multiple of 8) any more.
pub(crate) fn discarded(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    reached: Reached<'_>,
) {
    if warp.shadow.is_none() {
        return;
    }
    let records = records(exec, block, warp, reached);
    for lane in lanes_of(reached.lanes) {
        for offset in (0..reached.what.size as usize).step_by(8) {
            // SAFETY: the access was checked for the whole size.
            unsafe { records.write(lane as usize, offset, 8, !0) };
        }
    }
}

/// `cp.async` has been issued: what it will write is as defined as what it reads, and zeros are.
pub(crate) fn copied(exec: &Exec<'_>, block: &mut Block<'_>, warp: &Warp, copy: &AsyncCopy<'_>) {
    if warp.shadow.is_none() {
        return;
    }
    let undefined: *mut u8 = block.undefined.as_mut_ptr().cast();
    for l in lanes_of(copy.lanes).map(|l| l as usize) {
        let to = undefined.wrapping_add(copy.offsets[l] as usize);
        let from = exec.grid.memory.defined(copy.sources[l]);
        let read = copy.read[l] as usize;
        // SAFETY: the block's memory was checked for the whole size, the device's for what is read; sizes are multiples of 4, and so are
        // addresses.
        unsafe {
            for word in (0..copy.size as usize).step_by(4) {
                let known = match read.saturating_sub(word) {
                    4.. => from.wrapping_add(word).cast::<u32>().read(),
                    some => {
                        let bytes = std::array::from_fn(|byte| match byte < some {
                            true => from.wrapping_add(word + byte).read(),
                            false => !0,
                        });
                        u32::from_le_bytes(bytes)
                    }
                };
                to.wrapping_add(word).cast::<u32>().write(!known);
            }
        }
    }
}

/// The record of one lane's atomic operation.
pub(crate) struct Word {
    /// Undefined bits of what was there, and of what is there now.
    pub(super) old: u64,
    pub(super) new: u64,
}

/// An atomic operation, before it is executed, lane after lane as it will be: what memory and the results hold of what is undefined.
pub(crate) fn atomic(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    atom: &Atom,
    reached: Reached<'_>,
) {
    let records = records(exec, block, warp, reached);
    let size = (reached.what.size / atom.count) as usize;
    let (m, pc) = (at.lanes, at.pc);
    with(exec, block, warp, at.frame, |exec, _, _, view| {
        let file = if size >= 8 { File::R64 } else { File::R32 };
        let parts = size.div_ceil(8);
        let load = loads(exec, view, at, reached.what.instance);
        for e in 0..atom.count as usize {
            for part in 0..parts as u32 {
                if atom.d[e] != NONE {
                    view.await_all(&mut exec.awaited, file, atom.d[e] + part, load, m);
                }
            }
            let mut results = [[0; 32]; 2];
            let mut from_memory = None;
            for lane in lanes_of(m) {
                let l = lane as usize;
                for (part, results) in results.iter_mut().enumerate().take(parts) {
                    let (bytes, offset) = (size.min(8), e * size + 8 * part);
                    let operand = |slot: u32| view.bits(file, slot + part as u32, l).undefined;
                    // SAFETY: the access was checked for all elements.
                    unsafe {
                        let old = records.read(l, offset, bytes);
                        let is_same = || {
                            let now = reached.p[l].wrapping_add(offset);
                            let wanted = view.bits(file, atom.b[e] + part as u32, l).value;
                            let there = wanted.to_le_bytes();
                            std::slice::from_raw_parts(now, bytes) == &there[..bytes]
                        };
                        let exchanged = || if is_same() { operand(atom.c) } else { 0 };
                        let word = word(atom, old, operand(atom.b[e]), exchanged);
                        results[l] = word.old;
                        records.write(l, offset, bytes, word.new);
                        if old != 0 {
                            from_memory = from_memory.or(Some(reached.a[l] + offset as u64));
                        }
                    }
                }
            }
            let origin = from_memory.map_or(0, |address| {
                let line = line_of(exec.grid.code, pc);
                exec.origins
                    .of(Source::Memory(records.space), line, Some(address))
            });
            for (part, bits) in results[..parts].iter().enumerate() {
                let slot = atom.d[e];
                if slot != NONE && (origin != 0 || view.origin(file, slot + part as u32) != 0) {
                    view.set(file, slot + part as u32, bits, m, origin);
                }
            }
        }
    });
    executed(exec, warp, at, reached.what.instance);
}

/// One atomic operation on a word with undefined bits `old`, by operands with such bits.
pub(super) fn word(atom: &Atom, old: u64, b: u64, c: impl Fn() -> u64) -> Word {
    let new = match atom.op {
        AtomOp::Exch => b,
        // Whether it is exchanged is known only if both are.
        AtomOp::Cas if old | b != 0 => !0,
        AtomOp::Cas => c(),
        AtomOp::And | AtomOp::Or | AtomOp::Xor => old | b,
        _ if old | b == 0 => 0,
        _ => !0,
    };
    Word { old, new }
}
