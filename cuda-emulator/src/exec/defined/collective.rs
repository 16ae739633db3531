//! Definedness in what lanes of a warp compute together.

use super::follow::with;
use super::origins::Source;
use super::rules::{Bits, extreme};
use super::shadow::View;
use crate::check::lanes_of;
use crate::exec::collective::shfl_source;
use crate::exec::frame::{At, Frame};
use crate::exec::state::{Block, Warp, line_of};
use crate::exec::worker::Exec;
use crate::lower::op::*;
use crate::lower::operands::File;
use crate::numeric::mma::Input;

/// shfl, vote, match, redux and elect, before a set of lanes executes one.
pub(crate) fn collective(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Slow,
) {
    let set = at.lanes;
    with(exec, block, warp, at.frame, |exec, _, _, view| match op {
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
                let moved = exec.awaited.get(sources[0]).moved(giver);
                awaits = exec.awaited.add(moved);
                for &source in &sources[1..] {
                    awaits = exec.awaited.union(awaits, source);
                }
            }
            view.await_all(&mut exec.awaited, File::R32, *d, awaits, set);
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
                _ => exec
                    .origins
                    .of(Source::Lane, line_of(exec.grid.code, at.pc), None),
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
                exec,
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
                exec,
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
                exec,
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
                view.await_all(&mut exec.awaited, file, slot, 0, set);
            }
        }
        // Only the collectives come here.
        _ => {}
    });
}

/// The undefined bits of a reduction of values.
pub(super) fn reduced_bits(op: ReduxOp, values: &[Bits]) -> u64 {
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
pub(super) fn gathered(
    exec: &mut Exec<'_>,
    view: &mut View<'_>,
    (from, a): (File, u32),
    results: [(File, u32); 2],
    set: u32,
) {
    let source = view.awaits(from, a);
    let moved = match source {
        0 => 0,
        source => {
            let moved = exec.awaited.get(source).moved(|_| set);
            exec.awaited.add(moved)
        }
    };
    for (file, slot) in results {
        view.await_all(&mut exec.awaited, file, slot, moved, set);
    }
}

/// A matrix product, before it is executed: an element of D is undefined if one of its row of A, its column of B, or its own of C is.
pub(crate) fn product(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    frame: Frame,
    tiles: &[Mma],
) {
    with(exec, block, warp, frame, |exec, _, _, view| {
        let results: Vec<_> = tiles
            .iter()
            .map(|tile| {
                (
                    one_product(view, tile),
                    awaited_by_product(exec, view, tile),
                )
            })
            .collect();
        for (tile, ((file, results, origin), awaits)) in tiles.iter().zip(results) {
            for (&slot, bits) in tile.registers[0].iter().zip(&results) {
                view.await_all(&mut exec.awaited, file, slot, awaits, !0);
                if origin != 0 || view.origin(file, slot) != 0 {
                    view.set(file, slot, bits, !0, origin);
                }
            }
        }
    });
}

/// The loads that D's registers depend on. The warp computes D as one: no lane has its part before all have brought theirs.
pub(super) fn awaited_by_product(exec: &mut Exec<'_>, view: &View<'_>, op: &Mma) -> u32 {
    let file = match op.kind {
        MmaKind::Double(_) => File::R64,
        _ => File::R32,
    };
    let sets = &mut exec.awaited;
    let operands = op.registers[1..].iter().flatten();
    let set = operands.fold(0, |set, &slot| sets.union(set, view.awaits(file, slot)));
    if set == 0 {
        return 0;
    }
    let moved = sets.get(set).moved(|_| !0);
    sets.add(moved)
}

/// The undefined bits of D's registers, and where they come from.
pub(super) fn one_product(view: &View<'_>, op: &Mma) -> (File, Vec<[u64; 32]>, u32) {
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
