//! What stores depend on: the loads of other lanes that they have to wait for.

use super::shadow::View;
use crate::exec::awaited::Waits;
use crate::exec::frame::At;
use crate::exec::state::Warp;
use crate::exec::worker::Exec;
use crate::lower::op::*;
use crate::lower::operands::File;

/// What registers depend on together, and with them, for a store of the inner loop, its address and its guard: nothing, mostly.
pub(super) fn awaited<'a>(
    exec: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    registers: impl Iterator<Item = (File, u32)>,
) -> Option<Waits<'a>> {
    let code = exec.grid.code;
    if !code.tracked().any() {
        return None;
    }
    let live = warp.live;
    let shadow = warp.shadow.as_mut()?;
    let decided = shadow.decided;
    let function = &code.functions[at.frame.function as usize];
    let view = View::new(shadow, at.regs, at.frame, function, live);
    let sets = &mut exec.awaited;
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
    exec: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    mem: &Mem,
) -> Option<Waits<'a>> {
    let file = if mem.reg64 { File::R64 } else { File::R32 };
    let registers = mem.regs[..mem.count as usize].iter();
    awaited(exec, warp, at, registers.map(|&slot| (file, slot)))
}

/// What an atomic operation depends on.
pub(crate) fn awaited_by_atomic<'a>(
    exec: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    atom: &Atom,
    size: usize,
) -> Option<Waits<'a>> {
    let file = if size >= 8 { File::R64 } else { File::R32 };
    let operands = atom.b[..atom.count as usize].iter();
    let compared = (atom.op == AtomOp::Cas).then_some(&atom.c);
    let registers = operands.chain(compared).map(|&slot| (file, slot));
    awaited(exec, warp, at, registers.chain(base(&atom.address)))
}

/// What the rows of `stmatrix` depend on: each is a lane's to store, and comes from four or eight.
pub(crate) fn awaited_by_rows<'a>(
    exec: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
) -> Option<Waits<'a>> {
    let registers = op.registers().iter().map(|&slot| (File::R32, slot));
    let values = awaited(exec, warp, at, registers)?;
    let rows = values.awaited.moved(|l| match op.trans {
        false => 0xf << (4 * (l % 8)),
        true => 0x1111_1111 << (l % 8 / 2),
    });
    let rows = exec.awaited.add(rows);
    let address = awaited(exec, warp, at, base(&op.address).into_iter());
    let address = address.map_or(0, |address| exec.awaited.add(address.awaited));
    let both = exec.awaited.union(rows, address);
    Some(Waits {
        awaited: exec.awaited.get(both).clone(),
        ..values
    })
}

/// What a register depends on.
pub(crate) fn awaited_by_register<'a>(
    exec: &mut Exec<'a>,
    warp: &mut Warp,
    at: At,
    register: (File, u32),
) -> Option<Waits<'a>> {
    awaited(exec, warp, at, std::iter::once(register))
}

/// The register of an address.
pub(super) fn base(address: &Address) -> Option<(File, u32)> {
    match address.base {
        Base::R32(slot) => Some((File::R32, slot)),
        Base::R64(slot) => Some((File::R64, slot)),
        Base::None | Base::Frame => None,
    }
}
