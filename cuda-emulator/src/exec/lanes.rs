//! Plain loops over the lanes, for operations that are not worth a place in the inner loop: compiled once, and not unrolled.
//!
//! All functions' safety: slots belong to the frame (see [`Regs`]).

use super::registers::Regs;
use crate::lower::op::Inst;

/// 32, without telling the compiler, which would unroll every loop of this file.
#[inline(always)]
pub(super) fn width() -> usize {
    std::hint::black_box(32)
}

pub(super) unsafe fn un32(regs: Regs, inst: &Inst, lanes: u32, f: impl Fn(u32) -> u32) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = regs.get32(inst.a);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31]);
        }
        regs.set32(inst.d, &t, lanes);
    }
}

pub(super) unsafe fn bin32(regs: Regs, inst: &Inst, lanes: u32, f: impl Fn(u32, u32) -> u32) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = regs.get32(inst.a);
        let b = regs.get32(inst.b);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31]);
        }
        regs.set32(inst.d, &t, lanes);
    }
}

pub(super) unsafe fn tri32(regs: Regs, inst: &Inst, lanes: u32, f: impl Fn(u32, u32, u32) -> u32) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = regs.get32(inst.a);
        let b = regs.get32(inst.b);
        let c = regs.get32(inst.c);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31], c[l & 31]);
        }
        regs.set32(inst.d, &t, lanes);
    }
}

pub(super) unsafe fn un64(regs: Regs, inst: &Inst, lanes: u32, f: impl Fn(u64) -> u64) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = regs.get64(inst.a);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31]);
        }
        regs.set64(inst.d, &t, lanes);
    }
}

pub(super) unsafe fn bin64(regs: Regs, inst: &Inst, lanes: u32, f: impl Fn(u64, u64) -> u64) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = regs.get64(inst.a);
        let b = regs.get64(inst.b);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31]);
        }
        regs.set64(inst.d, &t, lanes);
    }
}

pub(super) unsafe fn tri64(regs: Regs, inst: &Inst, lanes: u32, f: impl Fn(u64, u64, u64) -> u64) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = regs.get64(inst.a);
        let b = regs.get64(inst.b);
        let c = regs.get64(inst.c);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31], c[l & 31]);
        }
        regs.set64(inst.d, &t, lanes);
    }
}

pub(super) unsafe fn shift64(regs: Regs, inst: &Inst, lanes: u32, f: impl Fn(u64, u32) -> u64) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = regs.get64(inst.a);
        let b = regs.get32(inst.b);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31]);
        }
        regs.set64(inst.d, &t, lanes);
    }
}

pub(super) unsafe fn narrow(regs: Regs, inst: &Inst, lanes: u32, f: impl Fn(u64) -> u32) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = regs.get64(inst.a);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31]);
        }
        regs.set32(inst.d, &t, lanes);
    }
}

pub(super) fn lanes(f: impl Fn(usize) -> bool) -> u32 {
    (0..32).fold(0, |m, l| m | u32::from(f(l)) << l)
}
