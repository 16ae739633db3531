//! Matrix products, and matrices of 8 rows between shared memory and registers.

use super::access::{Pointers, Reached, What, Written, addresses};
use super::awaited::Waits;
use super::defined;
use super::frame::At;
use super::memory::{observe, pointers};
use super::registers::Regs;
use super::state::{Block, Warp};
use super::worker::Exec;
use super::worker::Flow;
use crate::check::hooks::{Dependence, Kind};
use crate::lower::op::*;
use crate::numeric::{matrix, mma};

/// D of a matrix instruction.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub(super) enum Product {
    Words([[u32; 32]; 4]),
    Doubles(Box<[[u64; 32]; 4]>),
}

/// # Safety
/// Slots belong to the frame.
pub(super) unsafe fn write_product(regs: Regs, d: &[u32], product: &Product, lanes: u32) {
    // SAFETY: the caller's.
    unsafe {
        match product {
            Product::Words(words) => {
                for (&slot, value) in d.iter().zip(words) {
                    regs.set32(slot, value, lanes);
                }
            }
            Product::Doubles(words) => {
                for (&slot, value) in d.iter().zip(words.iter()) {
                    regs.set64(slot, value, lanes);
                }
            }
        }
    }
}

/// # Safety
/// Slots belong to the frame.
pub(super) unsafe fn product(exec: &Exec<'_>, regs: Regs, op: &Mma) -> Product {
    let [_, a, b, c] = &op.registers;
    // SAFETY: the caller's.
    unsafe {
        if let MmaKind::Double(kind) = op.kind {
            let file = |slots: &[u32]| slots.iter().map(|&s| regs.get64(s)).collect::<Vec<_>>();
            let words = mma::double(kind, &file(a), &file(b), &file(c));
            return Product::Doubles(Box::new(words));
        }
        let mut registers = [[&ZERO; 8]; 3];
        for (to, from) in registers.iter_mut().zip([a, b, c]) {
            for (to, &slot) in to.iter_mut().zip(from) {
                *to = regs.get32(slot);
            }
        }
        let [ra, rb, rc] = &registers;
        let (ra, rb, rc) = (&ra[..a.len()], &rb[..b.len()], &rc[..c.len()]);
        Product::Words(match op.kind {
            MmaKind::Float(kind) => mma::float(kind, exec.grid.mma, ra, rb, rc),
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

pub(super) fn ldmatrix(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
) -> Flow {
    let Some((a, p, what)) = rows(exec, block, warp, at, op, Kind::Read, None) else {
        return Flow::Fault;
    };
    if warp.shadow.is_some() {
        let reached = Reached {
            what,
            lanes: op.lanes(),
            a: &a,
            p: &p,
        };
        defined::rows_loaded(exec, block, warp, at, op, reached);
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

pub(super) fn stmatrix(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    op: &Matrices,
) -> Flow {
    let awaited = defined::awaited_by_rows(exec, warp, at, op);
    let Some((a, p, what)) = rows(exec, block, warp, at, op, Kind::Write, awaited) else {
        return Flow::Fault;
    };
    if warp.shadow.is_some() {
        let reached = Reached {
            what,
            lanes: op.lanes(),
            a: &a,
            p: &p,
        };
        defined::rows_stored(exec, block, warp, at, op, reached);
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
