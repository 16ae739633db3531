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

pub(super) unsafe fn un32(r: Regs, i: &Inst, m: u32, f: impl Fn(u32) -> u32) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get32(i.a);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31]);
        }
        r.set32(i.d, &t, m);
    }
}

pub(super) unsafe fn bin32(r: Regs, i: &Inst, m: u32, f: impl Fn(u32, u32) -> u32) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get32(i.a);
        let b = r.get32(i.b);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31]);
        }
        r.set32(i.d, &t, m);
    }
}

pub(super) unsafe fn tri32(r: Regs, i: &Inst, m: u32, f: impl Fn(u32, u32, u32) -> u32) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get32(i.a);
        let b = r.get32(i.b);
        let c = r.get32(i.c);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31], c[l & 31]);
        }
        r.set32(i.d, &t, m);
    }
}

pub(super) unsafe fn un64(r: Regs, i: &Inst, m: u32, f: impl Fn(u64) -> u64) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31]);
        }
        r.set64(i.d, &t, m);
    }
}

pub(super) unsafe fn bin64(r: Regs, i: &Inst, m: u32, f: impl Fn(u64, u64) -> u64) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let b = r.get64(i.b);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31]);
        }
        r.set64(i.d, &t, m);
    }
}

pub(super) unsafe fn tri64(r: Regs, i: &Inst, m: u32, f: impl Fn(u64, u64, u64) -> u64) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let b = r.get64(i.b);
        let c = r.get64(i.c);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31], c[l & 31]);
        }
        r.set64(i.d, &t, m);
    }
}

pub(super) unsafe fn shift64(r: Regs, i: &Inst, m: u32, f: impl Fn(u64, u32) -> u64) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let b = r.get32(i.b);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31], b[l & 31]);
        }
        r.set64(i.d, &t, m);
    }
}

pub(super) unsafe fn narrow(r: Regs, i: &Inst, m: u32, f: impl Fn(u64) -> u32) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let mut t = [0; 32];
        for l in 0..width() {
            t[l & 31] = f(a[l & 31]);
        }
        r.set32(i.d, &t, m);
    }
}

pub(super) fn lanes(f: impl Fn(usize) -> bool) -> u32 {
    (0..32).fold(0, |m, l| m | u32::from(f(l)) << l)
}
