//! Definedness in the operations outside the inner loop.

use super::super::Exec;
use super::super::awaited::{Awaited, Sets, Waits};
use super::super::collective::shfl_source;
use super::super::control::pass;
use super::super::memory::Reached;
use super::super::state::{At, Block, Frame, Warp, line_of};
use super::rules::{Bits, extreme};
use super::{File, NEVER_WRITTEN, Source, View, address, decide, executed, loads, records, with};
use crate::check::hooks::{AsyncCopy, Instance};
use crate::check::lanes_of;
use crate::lower::op::*;
use crate::lower::tracked::file_of;
use crate::numeric::matrix::{self, Row};
use crate::numeric::mma::Input;

/// The address of an access.
pub(crate) fn check_address(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    base: Base,
) {
    with(x, block, warp, at.frame, |x, block, warp, view| {
        address(x, block, warp, view, base, at.lanes, at.pc);
    });
}

/// A register that decides where the lanes go, or what cannot be undone.
pub(crate) fn check_decision(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (file, slot): (File, u32),
    what: &str,
) {
    with(x, block, warp, at.frame, |x, block, warp, view| {
        let lanes = view.undefined_lanes(file, slot, at.lanes);
        if lanes == 0 {
            return;
        }
        let origin = view.origin(file, slot);
        decide(x, block, warp, at.pc, lanes, origin, what);
        match file {
            File::Reference => view.define(File::Pred, slot >> 1, at.lanes),
            file => view.define(file, slot, at.lanes),
        }
    });
}

/// A register gets values that are defined.
pub(crate) fn define(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (file, slot): (File, u32),
) {
    with(x, block, warp, at.frame, |x, _, _, view| {
        view.define(file, slot, at.lanes);
        view.await_all(&mut x.awaited, file, slot, 0, at.lanes);
    });
}

/// Bytes of a frame's local memory get values that are defined.
pub(crate) fn define_local(warp: &mut Warp, frame: Frame, offset: u32, bytes: u32, m: u32) {
    if let Some(shadow) = &mut warp.shadow {
        let files = &mut shadow.files;
        for lane in lanes_of(m) {
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

/// shfl, vote, match, redux and elect, before a set of lanes executes one.
pub(crate) fn collective(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Slow,
) {
    let set = at.lanes;
    with(x, block, warp, at.frame, |x, _, _, view| match op {
        Slow::Shfl {
            mode,
            d,
            p,
            a,
            lane: b,
            clamp,
            ..
        } => {
            let sources = [*a, *b, *clamp].map(|slot| view.awaits(File::R32, slot));
            let mut awaits = 0;
            if sources != [0; 3] {
                // SAFETY: slots of the frame.
                let (b, clamp) = unsafe { (view.v.get32(*b), view.v.get32(*clamp)) };
                let giver = |l: usize| match set >> l & 1 {
                    0 => 0,
                    _ => set & 1 << shfl_source(*mode, l as u32, b[l], clamp[l]).0,
                };
                let moved = x.awaited.get(sources[0]).moved(giver);
                awaits = x.awaited.add(moved);
                for &source in &sources[1..] {
                    awaits = x.awaited.union(awaits, source);
                }
            }
            view.await_all(&mut x.awaited, File::R32, *d, awaits, set);
            let mut bits = [0; 32];
            let mut missing = 0;
            let mut unknown = [0; 32];
            for l in lanes_of(set).map(|l| l as usize) {
                let which = [view.bits(File::R32, *b, l), view.bits(File::R32, *clamp, l)];
                let (source, _) = shfl_source(
                    *mode,
                    l as u32,
                    which[0].value as u32,
                    which[1].value as u32,
                );
                if which.iter().any(|w| w.undefined != 0) {
                    (bits[l], unknown[l]) = (!0, 1);
                } else if set >> source & 1 == 0 {
                    bits[l] = !0;
                    missing |= 1 << l;
                } else {
                    bits[l] = view.bits(File::R32, *a, source as usize).undefined;
                }
            }
            let known = [*a, *b, *clamp].map(|slot| view.origin(File::R32, slot));
            let origin = match missing {
                0 => known.into_iter().find(|&o| o != 0).unwrap_or(0),
                _ => x
                    .origins
                    .of(Source::Lane, line_of(x.grid.code, at.pc), None),
            };
            let any = bits.iter().any(|&b| b != 0);
            if any || view.origin(File::R32, *d) != 0 {
                view.set(File::R32, *d, &bits, set, origin);
            }
            if *p != NONE && (unknown != [0; 32] || view.origin(File::Pred, *p) != 0) {
                view.set(File::Pred, *p, &unknown, set, origin);
            }
        }
        Slow::Vote { mode, d, a, .. } => {
            let file = if *mode == VoteMode::Ballot {
                File::R32
            } else {
                File::Pred
            };
            gathered(
                x,
                view,
                (File::Reference, *a),
                [(file, *d), (File::Pred, NONE)],
                set,
            );
            let origin = view.origin(File::Reference, *a);
            let unknown = view.undefined_lanes(File::Reference, *a, set);
            // SAFETY: a predicate of this frame.
            let yes = unsafe { view.v.pred(*a) } & set;
            let (sure, never) = (yes & !unknown, set & !yes & !unknown);
            let (file, bits) = match mode {
                VoteMode::Ballot => (File::R32, u64::from(unknown)),
                VoteMode::All => (File::Pred, u64::from(unknown != 0 && never == 0)),
                VoteMode::Any => (File::Pred, u64::from(unknown != 0 && sure == 0)),
                VoteMode::Uni => (
                    File::Pred,
                    u64::from(unknown != 0 && (sure == 0 || never == 0)),
                ),
            };
            if bits != 0 || view.origin(file, *d) != 0 {
                view.set(file, *d, &[bits; 32], set, origin);
            }
        }
        Slow::Match { wide, d, p, a, .. } => {
            let file = if *wide { File::R64 } else { File::R32 };
            gathered(
                x,
                view,
                (file, *a),
                [(File::R32, *d), (File::Pred, *p)],
                set,
            );
            let bits = match view.undefined_lanes(file, *a, set) {
                0 => 0,
                _ => !0,
            };
            let origin = view.origin(file, *a);
            if bits != 0 || view.origin(File::R32, *d) != 0 {
                view.set(File::R32, *d, &[bits; 32], set, origin);
            }
            if *p != NONE && (bits != 0 || view.origin(File::Pred, *p) != 0) {
                view.set(File::Pred, *p, &[bits; 32], set, origin);
            }
        }
        Slow::Redux { op, d, a, .. } => {
            gathered(
                x,
                view,
                (File::R32, *a),
                [(File::R32, *d), (File::Pred, NONE)],
                set,
            );
            let bits = match view.undefined_lanes(File::R32, *a, set) {
                0 => 0,
                _ => {
                    let values: Vec<_> = lanes_of(set)
                        .map(|l| view.bits(File::R32, *a, l as usize))
                        .collect();
                    reduced_bits(*op, &values)
                }
            };
            let origin = view.origin(File::R32, *a);
            if bits != 0 || view.origin(File::R32, *d) != 0 {
                view.set(File::R32, *d, &[bits; 32], set, origin);
            }
        }
        Slow::Elect { d, p, .. } => {
            for (file, slot) in [(File::R32, *d), (File::Pred, *p)] {
                view.define(file, slot, set);
                view.await_all(&mut x.awaited, file, slot, 0, set);
            }
        }
        // Only the collectives come here.
        _ => {}
    });
}

/// The undefined bits of a reduction of values.
fn reduced_bits(op: ReduxOp, values: &[Bits]) -> u64 {
    let all = values.iter().fold(0, |all, x| all | x.undefined);
    // Bits that some lane decides alone.
    let decided = |one: bool| {
        let by = |x: &Bits| !x.undefined & if one { x.value } else { !x.value };
        values.iter().fold(0, |bits, x| bits | by(x))
    };
    match op {
        ReduxOp::And => all & !decided(false),
        ReduxOp::Or => all & !decided(true),
        ReduxOp::Xor => all,
        ReduxOp::Add => all | all.wrapping_neg(),
        ReduxOp::MinU => extreme(values, 32, false, false),
        ReduxOp::MaxU => extreme(values, 32, false, true),
        ReduxOp::MinS => extreme(values, 32, true, false),
        ReduxOp::MaxS => extreme(values, 32, true, true),
    }
}

/// Results that depend on what every lane of a set brings.
fn gathered(
    x: &mut Exec<'_>,
    view: &mut View<'_>,
    (from, a): (File, u32),
    results: [(File, u32); 2],
    set: u32,
) {
    let source = view.awaits(from, a);
    let moved = match source {
        0 => 0,
        source => {
            let moved = x.awaited.get(source).moved(|_| set);
            x.awaited.add(moved)
        }
    };
    for (file, slot) in results {
        view.await_all(&mut x.awaited, file, slot, moved, set);
    }
}

/// A matrix product, before it is executed: an element of D is undefined if one of its row of A, its column of B, or its own of C is.
pub(crate) fn product(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    frame: Frame,
    tiles: &[Mma],
) {
    with(x, block, warp, frame, |x, _, _, view| {
        let results: Vec<_> = tiles
            .iter()
            .map(|tile| (one_product(view, tile), awaited_by_product(x, view, tile)))
            .collect();
        for (tile, ((file, results, origin), awaits)) in tiles.iter().zip(results) {
            for (&slot, bits) in tile.registers[0].iter().zip(&results) {
                view.await_all(&mut x.awaited, file, slot, awaits, !0);
                if origin != 0 || view.origin(file, slot) != 0 {
                    view.set(file, slot, bits, !0, origin);
                }
            }
        }
    });
}

/// The loads that D's registers depend on. The warp computes D as one: no lane has its part before all have brought theirs.
fn awaited_by_product(x: &mut Exec<'_>, view: &View<'_>, op: &Mma) -> u32 {
    let file = match op.kind {
        MmaKind::Double(_) => File::R64,
        _ => File::R32,
    };
    let sets = &mut x.awaited;
    let operands = op.registers[1..].iter().flatten();
    let set = operands.fold(0, |set, &slot| sets.union(set, view.awaits(file, slot)));
    if set == 0 {
        return 0;
    }
    let moved = sets.get(set).moved(|_| !0);
    sets.add(moved)
}

/// The undefined bits of D's registers, and where they come from.
fn one_product(view: &View<'_>, op: &Mma) -> (File, Vec<[u64; 32]>, u32) {
    let [d, a, b, c] = &op.registers;
    let file = match op.kind {
        MmaKind::Double(_) => File::R64,
        _ => File::R32,
    };
    let mut origins = [a, b, c]
        .into_iter()
        .flatten()
        .map(|&slot| view.origin(file, slot));
    let origin = origins.find(|&o| o != 0).unwrap_or(0);
    let mut results = vec![[0; 32]; d.len()];
    if origin == 0 {
        return (file, results, 0);
    }
    let (counts, half_c, half_d) = match op.kind {
        MmaKind::Float(kind) => {
            let counts = match kind.a {
                Input::Tf32 => 0xffff_e000,
                _ => !0,
            };
            (counts, kind.f16_c, kind.f16_d)
        }
        MmaKind::Integer(_) | MmaKind::Double(_) => (!0, false, false),
    };
    // Registers of A alternate between the upper and the lower eight rows, where there are sixteen.
    let halves = if half_d || d.len() == 4 { 2 } else { 1 };
    let mut rows = [false; 16];
    for (i, &slot) in a.iter().enumerate() {
        for lane in 0..32 {
            rows[8 * (i % halves) + lane / 4] |=
                view.bits(file, slot, lane).undefined & counts != 0;
        }
    }
    let mut columns = [false; 8];
    for &slot in b {
        for lane in 0..32 {
            columns[lane / 4] |= view.bits(file, slot, lane).undefined & counts != 0;
        }
    }
    for half in 0..halves {
        for lane in 0..32 {
            for odd in 0..2 {
                let addend = match half_c {
                    true => view.bits(file, c[half], lane).undefined >> (16 * odd) & 0xffff,
                    false => view.bits(file, c[2 * half + odd], lane).undefined,
                };
                let unknown =
                    rows[8 * half + lane / 4] || columns[2 * (lane % 4) + odd] || addend != 0;
                match (half_d, unknown) {
                    (_, false) => {}
                    (true, true) => results[half][lane] |= 0xffff << (16 * odd),
                    (false, true) => results[2 * half + odd][lane] = !0,
                }
            }
        }
    }
    (file, results, origin)
}

/// An operation from one register to another, before it is executed; `givers` are the lanes that a lane's result comes from.
pub(crate) fn one_source(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    [(from, a), (to, d)]: [(File, u32); 2],
    givers: impl Fn(usize) -> u32,
    f: impl Fn(&[u64; 32]) -> [u64; 32],
) {
    let m = at.lanes;
    with(x, block, warp, at.frame, |x, _, _, view| {
        let source = view.awaits(from, a);
        let moved = match source {
            0 => 0,
            source => {
                let moved = x.awaited.get(source).moved(givers);
                x.awaited.add(moved)
            }
        };
        view.await_all(&mut x.awaited, to, d, moved, m);
        let origin = view.origin(from, a);
        if origin != 0 || view.origin(to, d) != 0 {
            let bits = std::array::from_fn(|l| view.bits(from, a, l).undefined);
            view.set(to, d, &f(&bits), m, origin);
        }
    });
}

/// `ldmatrix` has been executed.
pub(crate) fn rows_loaded(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
    reached: Reached<'_>,
) {
    let records = records(x, block, warp, reached);
    with(x, block, warp, at.frame, |x, _, _, view| {
        let code = x.grid.code;
        let load = code.tracked().load(line_of(code, at.pc));
        let load = reached.what.instance.zip(load);
        for (i, &slot) in op.registers().iter().enumerate() {
            let set = load.map_or(0, |(instance, load)| {
                let readers = std::array::from_fn(|l| match op.trans {
                    false => 1 << (8 * i + l / 4),
                    true => 3 << (8 * i + 2 * (l % 4)),
                });
                x.awaited
                    .add(Awaited::load((load, instance.is_odd), readers))
            });
            view.await_all(&mut x.awaited, File::R32, slot, set, !0);
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
        let line = line_of(x.grid.code, at.pc);
        let origin = x.origins.of(
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
    executed(x, warp, at, reached.what.instance);
}

/// `stmatrix` has been executed.
pub(crate) fn rows_stored(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
    reached: Reached<'_>,
) {
    let records = records(x, block, warp, reached);
    with(x, block, warp, at.frame, |_, _, _, view| {
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

/// A register gets the undefined bits that were found for it.
pub(crate) fn set(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (file, slot): (File, u32),
    bits: &[u64; 32],
    origin: u32,
) {
    let m = at.lanes;
    with(x, block, warp, at.frame, |_, _, _, view| {
        if origin != 0 || view.origin(file, slot) != 0 {
            view.set(file, slot, bits, m, origin);
        }
    });
}

/// A register holds what each lane has loaded outside the inner loop.
pub(crate) fn await_load(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (file, slot): (File, u32),
    instance: Option<Instance>,
) {
    with(x, block, warp, at.frame, |x, _, _, view| {
        let load = loads(x, view, at, instance);
        view.await_all(&mut x.awaited, file, slot, load, at.lanes);
    });
}

/// One of the accesses of `wmma.store`: `shift` bits up in the register.
pub(crate) fn piece_stored(
    x: &mut Exec<'_>,
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
    let records = records(x, block, warp, reached);
    let size = reached.what.size as usize;
    with(x, block, warp, at.frame, |_, _, _, view| {
        for lane in 0..32 {
            let bits = view.bits(file, slot, lane).undefined >> shift;
            // SAFETY: the access was checked for `size` bytes.
            unsafe { records.write(lane, 0, size, bits) };
        }
    });
}

/// `discard`: nothing is known of the bytes (a multiple of 8) any more.
pub(crate) fn discarded(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    reached: Reached<'_>,
) {
    if warp.shadow.is_none() {
        return;
    }
    let records = records(x, block, warp, reached);
    for lane in lanes_of(reached.lanes) {
        for offset in (0..reached.what.size as usize).step_by(8) {
            // SAFETY: the access was checked for the whole size.
            unsafe { records.write(lane as usize, offset, 8, !0) };
        }
    }
}

/// `cp.async` has been issued: what it will write is as defined as what it reads, and zeros are.
pub(crate) fn copied(x: &Exec<'_>, block: &mut Block<'_>, warp: &Warp, copy: &AsyncCopy<'_>) {
    if warp.shadow.is_none() {
        return;
    }
    let undefined: *mut u8 = block.undefined.as_mut_ptr().cast();
    for l in lanes_of(copy.lanes).map(|l| l as usize) {
        let to = undefined.wrapping_add(copy.offsets[l] as usize);
        let from = x.grid.memory.defined(copy.sources[l]);
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
    old: u64,
    new: u64,
}

/// An atomic operation, before it is executed, lane after lane as it will be: what memory and the results hold of what is undefined.
pub(crate) fn atomic(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    atom: &Atom,
    reached: Reached<'_>,
) {
    let records = records(x, block, warp, reached);
    let size = (reached.what.size / atom.count) as usize;
    let (m, pc) = (at.lanes, at.pc);
    with(x, block, warp, at.frame, |x, _, _, view| {
        let file = if size >= 8 { File::R64 } else { File::R32 };
        let parts = size.div_ceil(8);
        let load = loads(x, view, at, reached.what.instance);
        for e in 0..atom.count as usize {
            for part in 0..parts as u32 {
                if atom.d[e] != NONE {
                    view.await_all(&mut x.awaited, file, atom.d[e] + part, load, m);
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
                let line = line_of(x.grid.code, pc);
                x.origins
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
    executed(x, warp, at, reached.what.instance);
}

/// One atomic operation on a word with undefined bits `old`, by operands with such bits.
fn word(atom: &Atom, old: u64, b: u64, c: impl Fn() -> u64) -> Word {
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

/// What registers depend on together, and with them, for a store of the inner loop, its address and its guard: nothing, mostly.
fn awaited<'a>(
    x: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    registers: impl Iterator<Item = (File, u32)>,
) -> Option<Waits<'a>> {
    let code = x.grid.code;
    if !code.tracked().any() {
        return None;
    }
    let live = warp.live;
    let shadow = warp.shadow.as_mut()?;
    let decided = shadow.decided;
    let function = &code.functions[at.frame.function as usize];
    let view = View::new(shadow, at.regs, at.frame, function, live);
    let sets = &mut x.awaited;
    let slots = code.slots()[at.pc as usize];
    let own = [slots.guard, slots.a].map(|slot| view.marks[slot as usize].awaits);
    let own = sets.union(own[0], own[1]);
    let own = sets.union(own, decided);
    let set = registers.fold(own, |set, (file, slot)| {
        sets.union(set, view.awaits(file, slot))
    });
    (set != 0).then(|| Waits {
        awaited: sets.get(set).clone(),
        tracked: code.tracked(),
    })
}

/// What a store depends on.
pub(crate) fn awaited_by_store<'a>(
    x: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    mem: &Mem,
) -> Option<Waits<'a>> {
    let file = if mem.reg64 { File::R64 } else { File::R32 };
    let registers = mem.regs[..mem.count as usize].iter();
    awaited(x, warp, at, registers.map(|&slot| (file, slot)))
}

/// What an atomic operation depends on.
pub(crate) fn awaited_by_atomic<'a>(
    x: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    atom: &Atom,
    size: usize,
) -> Option<Waits<'a>> {
    let file = if size >= 8 { File::R64 } else { File::R32 };
    let operands = atom.b[..atom.count as usize].iter();
    let compared = (atom.op == AtomOp::Cas).then_some(&atom.c);
    let registers = operands.chain(compared).map(|&slot| (file, slot));
    awaited(x, warp, at, registers.chain(base(&atom.address)))
}

/// What the rows of `stmatrix` depend on: each is a lane's to store, and comes from four or eight.
pub(crate) fn awaited_by_rows<'a>(
    x: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
) -> Option<Waits<'a>> {
    let registers = op.registers().iter().map(|&slot| (File::R32, slot));
    let values = awaited(x, warp, at, registers)?;
    let rows = values.awaited.moved(|l| match op.trans {
        false => 0xf << (4 * (l % 8)),
        true => 0x1111_1111 << (l % 8 / 2),
    });
    let rows = x.awaited.add(rows);
    let address = awaited(x, warp, at, base(&op.address).into_iter());
    let address = address.map_or(0, |address| x.awaited.add(address.awaited));
    let both = x.awaited.union(rows, address);
    Some(Waits {
        awaited: x.awaited.get(both).clone(),
        ..values
    })
}

/// What a register depends on.
pub(crate) fn awaited_by_register<'a>(
    x: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    register: (File, u32),
) -> Option<Waits<'a>> {
    awaited(x, warp, at, std::iter::once(register))
}

/// The register of an address.
fn base(address: &Address) -> Option<(File, u32)> {
    match address.base {
        Base::R32(slot) => Some((File::R32, slot)),
        Base::R64(slot) => Some((File::R64, slot)),
        Base::None | Base::Frame => None,
    }
}
