//! `atom` and `red`: the host's atomic instructions on device memory, lane after lane.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::access::{Reached, What, Written, addresses, whole_16};
use super::defined;
use super::frame::At;
use super::memory::{observe, pointers};
use super::registers::Regs;
use super::state::{Block, Warp};
use super::worker::Exec;
use crate::check::hooks::{Dependence, Kind};
use crate::lower::op::{Atom, AtomOp, AtomType, NONE};
use crate::numeric::half::{self, Bf16, F16, Half};
use crate::numeric::{Rounding, f32s, f64s};

fn size_of(ty: AtomType) -> u32 {
    match ty {
        AtomType::F16 | AtomType::Bf16 | AtomType::B16 => 2,
        AtomType::U64 | AtomType::S64 | AtomType::F64 => 8,
        AtomType::B128 => 16,
        _ => 4,
    }
}

/// Executes one for the lanes; false: a fault was recorded.
///
/// # Safety
/// Slots belong to the frame; there are lanes.
pub(crate) unsafe fn execute(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    atom: &Atom,
) -> bool {
    let (r, m) = (at.regs, at.lanes);
    let size = size_of(atom.ty);
    let what = What {
        space: atom.address.space,
        read_only: false,
        kind: Kind::Atomic,
        order: atom.order,
        size: size * atom.count,
        pc: at.pc,
        instance: defined::instance(exec, warp, at),
    };
    let site = exec.grid.code.mems.len();
    let mut p = [std::ptr::null_mut(); 32];
    defined::check_address(exec, block, warp, at, atom.address.base);
    // SAFETY: the caller's; pointers are checked for size and alignment.
    unsafe {
        let a = addresses(at, &atom.address);
        if !pointers(exec, block, warp, at, (what, site), &a, &mut p) {
            return false;
        }
        if exec.profile || block.follows {
            let awaited = defined::awaited_by_atomic(exec, warp, at, atom, size as usize);
            let written = Written {
                values: None,
                dependence: awaited.as_ref().map(|a| a as &dyn Dependence),
            };
            observe(exec, block, warp, what, &a, m, written);
        }
        if warp.shadow.is_some() {
            let reached = Reached {
                what,
                lanes: m,
                a: &a,
                p: &p,
            };
            defined::atomic(exec, block, warp, at, atom, reached);
        }
        if atom.ty == AtomType::B128 {
            exchange_128(r, atom, &p, m);
            exec.changes += 1;
            return true;
        }
        let wide = size == 8;
        let mut changed = false;
        for e in 0..atom.count as usize {
            let c = if atom.op == AtomOp::Cas {
                atom.c
            } else {
                atom.b[e]
            };
            let (b, c): ([u64; 32], [u64; 32]) = match wide {
                true => (*r.get64(atom.b[e]), *r.get64(c)),
                false => (r.get32(atom.b[e]).map(u64::from), r.get32(c).map(u64::from)),
            };
            let mut old = [0u64; 32];
            for l in (0..32).filter(|l| m >> l & 1 != 0) {
                let at = p[l].wrapping_add(e * size as usize);
                old[l] = one(at, atom.op, atom.ty, b[l], c[l]);
                changed |= now(at, size) != old[l];
            }
            let d = atom.d[e];
            if d != NONE {
                match wide {
                    true => r.set64(d, &old, m),
                    false => r.set32(d, &old.map(|o| o as u32), m),
                }
            }
        }
        // One that leaves all as it was is how a lock or a flag is polled.
        match changed {
            true => exec.changes += 1,
            false => warp.poll(exec.changes),
        }
    }
    true
}

/// The bits at an address.
///
/// # Safety
/// As [`one`].
unsafe fn now(at: *mut u8, size: u32) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        match size {
            8 => AtomicU64::from_ptr(at.cast()).load(SeqCst),
            4 => u64::from(AtomicU32::from_ptr(at.cast()).load(SeqCst)),
            _ => u64::from(at.cast::<u16>().read_volatile()),
        }
    }
}

/// `exch.b128` and `cas.b128`.
///
/// # Safety
/// As [`execute`]; 16 aligned bytes at each pointer.
unsafe fn exchange_128(regs: Regs, atom: &Atom, p: &[*mut u8; 32], lanes: u32) {
    let mut old = [[0u64; 32]; 2];
    // SAFETY: the caller's; a 128-bit register is two slots.
    unsafe {
        let pair = |slot: u32| [*regs.get64(slot), *regs.get64(slot + 1)];
        let b = pair(atom.b[0]);
        let c = match atom.op {
            AtomOp::Cas => pair(atom.c),
            _ => b,
        };
        let _whole = whole_16();
        for l in (0..32).filter(|l| lanes >> l & 1 != 0) {
            let at = p[l].cast::<[u64; 2]>();
            let now = at.read();
            if atom.op != AtomOp::Cas || now == [b[0][l], b[1][l]] {
                at.write([c[0][l], c[1][l]]);
            }
            old[0][l] = now[0];
            old[1][l] = now[1];
        }
        if atom.d[0] != NONE {
            regs.set64(atom.d[0], &old[0], lanes);
            regs.set64(atom.d[0] + 1, &old[1], lanes);
        }
    }
}

/// One lane's read-modify-write; the value before.
///
/// # Safety
/// The pointer is valid for the type's size and aligned to it.
unsafe fn one(at: *mut u8, op: AtomOp, ty: AtomType, b: u64, c: u64) -> u64 {
    // SAFETY: the caller's; 16-bit types lie in an aligned 32-bit word of the same allocation's pages.
    unsafe {
        match size_of(ty) {
            8 => {
                let cell = AtomicU64::from_ptr(at.cast());
                match (op, ty) {
                    (AtomOp::Add, AtomType::U64 | AtomType::S64) => cell.fetch_add(b, SeqCst),
                    (AtomOp::Cas, _) => match cell.compare_exchange(b, c, SeqCst, SeqCst) {
                        Ok(old) | Err(old) => old,
                    },
                    (AtomOp::Exch, _) => cell.swap(b, SeqCst),
                    _ => update(
                        |old, new| cell.compare_exchange_weak(old, new, SeqCst, SeqCst),
                        cell.load(SeqCst),
                        |old| apply64(op, ty, old, b),
                    ),
                }
            }
            4 => {
                let cell = AtomicU32::from_ptr(at.cast());
                let (b, c) = (b as u32, c as u32);
                let old = match (op, ty) {
                    (AtomOp::Add, AtomType::U32 | AtomType::S32) => cell.fetch_add(b, SeqCst),
                    (AtomOp::Cas, _) => match cell.compare_exchange(b, c, SeqCst, SeqCst) {
                        Ok(old) | Err(old) => old,
                    },
                    (AtomOp::Exch, _) => cell.swap(b, SeqCst),
                    _ => update(
                        |old, new| cell.compare_exchange_weak(old, new, SeqCst, SeqCst),
                        cell.load(SeqCst),
                        |old| apply32(op, ty, old, b),
                    ),
                };
                u64::from(old)
            }
            _ => {
                // Through the aligned word that contains the half.
                let low = at as usize & 2 == 0;
                let cell = AtomicU32::from_ptr(at.wrapping_sub(at as usize & 2).cast());
                let shift = if low { 0 } else { 16 };
                let word = update(
                    |old, new| cell.compare_exchange_weak(old, new, SeqCst, SeqCst),
                    cell.load(SeqCst),
                    |word| {
                        let old = (word >> shift) as u16;
                        let new = match op {
                            AtomOp::Cas if old == b as u16 => c as u16,
                            AtomOp::Cas => old,
                            _ => apply16(op, ty == AtomType::Bf16, old, b as u16),
                        };
                        word & !(0xffff << shift) | u32::from(new) << shift
                    },
                );
                u64::from(word >> shift & 0xffff)
            }
        }
    }
}

/// Repeats until the exchange succeeds; the value before.
fn update<T: Copy>(exchange: impl Fn(T, T) -> Result<T, T>, mut old: T, f: impl Fn(T) -> T) -> T {
    loop {
        match exchange(old, f(old)) {
            Ok(old) => return old,
            Err(now) => old = now,
        }
    }
}

fn apply64(op: AtomOp, ty: AtomType, a: u64, b: u64) -> u64 {
    let signed = ty == AtomType::S64;
    match op {
        AtomOp::And => a & b,
        AtomOp::Or => a | b,
        AtomOp::Xor => a ^ b,
        AtomOp::Min if signed => (a as i64).min(b as i64) as u64,
        AtomOp::Min => a.min(b),
        AtomOp::Max if signed => (a as i64).max(b as i64) as u64,
        AtomOp::Max => a.max(b),
        AtomOp::Add if ty == AtomType::F64 => {
            f64s::add(f64::from_bits(a), f64::from_bits(b), Rounding::Near).to_bits()
        }
        AtomOp::Add => a.wrapping_add(b),
        // Lowering gives 64 bits no inc and dec; exchanges are not computed.
        AtomOp::Exch | AtomOp::Cas | AtomOp::Inc | AtomOp::Dec => b,
    }
}

fn apply32(op: AtomOp, ty: AtomType, a: u32, b: u32) -> u32 {
    let halves = |bf16: bool| half::each2(a, b, |a, b| apply16(op, bf16, a, b));
    let signed = ty == AtomType::S32;
    match (op, ty) {
        (_, AtomType::F16x2) => halves(false),
        (_, AtomType::Bf16x2) => halves(true),
        (AtomOp::And, _) => a & b,
        (AtomOp::Or, _) => a | b,
        (AtomOp::Xor, _) => a ^ b,
        (AtomOp::Min, _) if signed => (a as i32).min(b as i32) as u32,
        (AtomOp::Min, _) => a.min(b),
        (AtomOp::Max, _) if signed => (a as i32).max(b as i32) as u32,
        (AtomOp::Max, _) => a.max(b),
        (AtomOp::Inc, _) => {
            if a >= b {
                0
            } else {
                a + 1
            }
        }
        (AtomOp::Dec, _) => {
            if a == 0 || a > b {
                b
            } else {
                a - 1
            }
        }
        (AtomOp::Add, AtomType::F32 { ftz }) => {
            let flush = |x: f32| if ftz { f32s::ftz(x) } else { x };
            let (a, b) = (flush(f32::from_bits(a)), flush(f32::from_bits(b)));
            flush(f32s::add(a, b, Rounding::Near)).to_bits()
        }
        (AtomOp::Add, _) => a.wrapping_add(b),
        (AtomOp::Exch | AtomOp::Cas, _) => b,
    }
}

fn apply16(op: AtomOp, bf16: bool, a: u16, b: u16) -> u16 {
    fn of<H: Half>(op: AtomOp, a: u16, b: u16) -> u16 {
        match op {
            AtomOp::Min => half::min::<H>(a, b),
            AtomOp::Max => half::max::<H>(a, b),
            _ => half::add::<H>(a, b),
        }
    }
    match bf16 {
        true => of::<Bf16>(op, a, b),
        false => of::<F16>(op, a, b),
    }
}
