//! The operations that fill inner loops, on whole warps: each is one loop over 32 lanes that the compiler turns into vector
//! code, inlined into the runner and compiled once per set of CPU features. Everything else is in `arithmetic`.
//!
//! All functions' safety: slots belong to the frame (see [`Regs`]).

use super::registers::{Regs, mask_of};
use crate::lower::op::*;
use crate::numeric::f32s;

#[inline(always)]
unsafe fn un32(r: Regs, i: &Inst, f: impl Fn(u32) -> u32) -> [u32; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get32(i.a);
        let mut t = [0; 32];
        for l in 0..32 {
            t[l] = f(a[l]);
        }
        t
    }
}

#[inline(always)]
unsafe fn bin32(r: Regs, i: &Inst, f: impl Fn(u32, u32) -> u32) -> [u32; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get32(i.a);
        let b = r.get32(i.b);
        let mut t = [0; 32];
        for l in 0..32 {
            t[l] = f(a[l], b[l]);
        }
        t
    }
}

#[inline(always)]
unsafe fn tri32(r: Regs, i: &Inst, f: impl Fn(u32, u32, u32) -> u32) -> [u32; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get32(i.a);
        let b = r.get32(i.b);
        let c = r.get32(i.c);
        let mut t = [0; 32];
        for l in 0..32 {
            t[l] = f(a[l], b[l], c[l]);
        }
        t
    }
}

#[inline(always)]
unsafe fn bin64(r: Regs, i: &Inst, f: impl Fn(u64, u64) -> u64) -> [u64; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let b = r.get64(i.b);
        let mut t = [0; 32];
        for l in 0..32 {
            t[l] = f(a[l], b[l]);
        }
        t
    }
}

#[inline(always)]
unsafe fn tri64(r: Regs, i: &Inst, f: impl Fn(u64, u64, u64) -> u64) -> [u64; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let b = r.get64(i.b);
        let c = r.get64(i.c);
        let mut t = [0; 32];
        for l in 0..32 {
            t[l] = f(a[l], b[l], c[l]);
        }
        t
    }
}

#[inline(always)]
unsafe fn shift64(r: Regs, i: &Inst, f: impl Fn(u64, u32) -> u64) -> [u64; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let b = r.get32(i.b);
        let mut t = [0; 32];
        for l in 0..32 {
            t[l] = f(a[l], b[l]);
        }
        t
    }
}

#[inline(always)]
unsafe fn narrow(r: Regs, i: &Inst, f: impl Fn(u64) -> u32) -> [u32; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get64(i.a);
        let mut t = [0; 32];
        for l in 0..32 {
            t[l] = f(a[l]);
        }
        t
    }
}

#[inline(always)]
unsafe fn widen(r: Regs, i: &Inst, f: impl Fn(u32) -> u64) -> [u64; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        let a = r.get32(i.a);
        let mut t = [0; 32];
        for l in 0..32 {
            t[l] = f(a[l]);
        }
        t
    }
}

/// Lanes for which a < b, and for which a = b (for floats: ordered), of a common type; for floats also a > b.
#[inline(always)]
unsafe fn relations(ty: CmpType, r: Regs, i: &Inst) -> Option<[u32; 3]> {
    macro_rules! relate {
        ($get:ident, $number:expr, $greater:expr) => {{
            let (a, b) = (r.$get(i.a), r.$get(i.b));
            let number = $number;
            let (mut less, mut equal) = ([0; 32], [0; 32]);
            for l in 0..32 {
                less[l] = if number(a[l]) < number(b[l]) { !0 } else { 0 };
                equal[l] = if number(a[l]) == number(b[l]) { !0 } else { 0 };
            }
            let (less, equal) = (mask_of(&less), mask_of(&equal));
            let greater = if $greater {
                let mut greater = [0; 32];
                for l in 0..32 {
                    greater[l] = if number(a[l]) > number(b[l]) { !0 } else { 0 };
                }
                mask_of(&greater)
            } else {
                !(less | equal)
            };
            [less, equal, greater]
        }};
    }
    // SAFETY: slots of the frame.
    unsafe {
        Some(match ty {
            CmpType::U32 => relate!(get32, |x: u32| x, false),
            CmpType::S32 => relate!(get32, |x: u32| x as i32, false),
            CmpType::U64 => relate!(get64, |x: u64| x, false),
            CmpType::S64 => relate!(get64, |x: u64| x as i64, false),
            CmpType::F32 { ftz: false } => relate!(get32, f32::from_bits, true),
            _ => return None,
        })
    }
}

/// Lanes for which a comparison holds, from those for which a is less, equal, greater (none of them: unordered).
#[inline(always)]
pub(super) fn holds(cmp: Cmp, [less, equal, greater]: [u32; 3]) -> u32 {
    match cmp {
        Cmp::Eq => equal,
        Cmp::Ne => less | greater,
        Cmp::Lt => less,
        Cmp::Le => less | equal,
        Cmp::Gt => greater,
        Cmp::Ge => greater | equal,
        Cmp::Equ => !(less | greater),
        Cmp::Neu => !equal,
        Cmp::Ltu => !(greater | equal),
        Cmp::Leu => !greater,
        Cmp::Gtu => !(less | equal),
        Cmp::Geu => !less,
        Cmp::Num => less | equal | greater,
        Cmp::Nan => !(less | equal | greater),
    }
}

/// The comparison's result combined with a predicate.
#[inline(always)]
pub(super) fn combine(mask: u32, c: u32, how: Combine) -> u32 {
    match how {
        Combine::None => mask,
        Combine::And => mask & c,
        Combine::Or => mask | c,
        Combine::Xor => mask ^ c,
    }
}

/// Executes a common operation; false: it is none.
///
/// # Safety
/// Slots belong to the frame.
#[inline(always)]
pub(super) unsafe fn execute(regs: Regs, inst: &Inst, lanes: u32) -> bool {
    let single = f32::from_bits;
    // SAFETY: slots of the frame.
    unsafe {
        match inst.op {
            Op::Mov32 => regs.set32(inst.d, regs.get32(inst.a), lanes),
            Op::Mov64 => regs.set64(inst.d, regs.get64(inst.a), lanes),
            Op::Pred(op) => {
                let (a, b) = (regs.pred(inst.a), regs.pred(inst.b));
                let value = match op {
                    PredOp::Mov => a,
                    PredOp::And => a & b,
                    PredOp::Or => a | b,
                    PredOp::Xor => a ^ b,
                    PredOp::Not => !a,
                };
                regs.set_pred(inst.d, value, lanes);
            }
            Op::I32(op) => {
                let t = match op {
                    Int::Add => bin32(regs, inst, u32::wrapping_add),
                    Int::Sub => bin32(regs, inst, u32::wrapping_sub),
                    Int::MulLo => bin32(regs, inst, u32::wrapping_mul),
                    Int::MadLo => tri32(regs, inst, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                    Int::MinS => bin32(regs, inst, |a, b| (a as i32).min(b as i32) as u32),
                    Int::MaxS => bin32(regs, inst, |a, b| (a as i32).max(b as i32) as u32),
                    Int::And => bin32(regs, inst, |a, b| a & b),
                    Int::Or => bin32(regs, inst, |a, b| a | b),
                    Int::Xor => bin32(regs, inst, |a, b| a ^ b),
                    Int::Not => un32(regs, inst, |a| !a),
                    Int::Shl => bin32(regs, inst, |a, b| if b < 32 { a << (b & 31) } else { 0 }),
                    Int::ShrU => bin32(regs, inst, |a, b| if b < 32 { a >> (b & 31) } else { 0 }),
                    Int::ShrS => bin32(regs, inst, |a, b| (a as i32 >> b.min(31)) as u32),
                    _ => return false,
                };
                regs.set32(inst.d, &t, lanes);
            }
            Op::I64(op) => {
                let t = match op {
                    Int::Add => bin64(regs, inst, u64::wrapping_add),
                    Int::Sub => bin64(regs, inst, u64::wrapping_sub),
                    Int::And => bin64(regs, inst, |a, b| a & b),
                    Int::Or => bin64(regs, inst, |a, b| a | b),
                    Int::MulLo => bin64(regs, inst, u64::wrapping_mul),
                    Int::MadLo => tri64(regs, inst, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                    _ => return false,
                };
                regs.set64(inst.d, &t, lanes);
            }
            Op::Wide32(kind) => {
                let (a, b) = (regs.get32(inst.a), regs.get32(inst.b));
                let mut t = [0u64; 32];
                if matches!(kind, Wide::MulU | Wide::MadU) {
                    for l in 0..32 {
                        t[l] = u64::from(a[l]) * u64::from(b[l]);
                    }
                } else {
                    for l in 0..32 {
                        t[l] = (i64::from(a[l] as i32) * i64::from(b[l] as i32)) as u64;
                    }
                }
                if matches!(kind, Wide::MadU | Wide::MadS) {
                    let c = regs.get64(inst.c);
                    for l in 0..32 {
                        t[l] = t[l].wrapping_add(c[l]);
                    }
                }
                regs.set64(inst.d, &t, lanes);
            }
            Op::Shift64(op) => {
                let t = match op {
                    Shift::Shl => {
                        shift64(regs, inst, |a, b| if b < 64 { a << (b & 63) } else { 0 })
                    }
                    Shift::ShrU => {
                        shift64(regs, inst, |a, b| if b < 64 { a >> (b & 63) } else { 0 })
                    }
                    Shift::ShrS => return false,
                };
                regs.set64(inst.d, &t, lanes);
            }
            Op::F32(
                op,
                FloatMode {
                    rounding: Rounding::Near,
                    ftz: false,
                    sat: false,
                },
            ) => {
                let near = Rounding::Near;
                let t = match op {
                    F32Op::Add => bin32(regs, inst, |a, b| {
                        f32s::add(single(a), single(b), near).to_bits()
                    }),
                    F32Op::Sub => bin32(regs, inst, |a, b| {
                        f32s::sub(single(a), single(b), near).to_bits()
                    }),
                    F32Op::Mul => bin32(regs, inst, |a, b| {
                        f32s::mul(single(a), single(b), near).to_bits()
                    }),
                    F32Op::Fma => tri32(regs, inst, |a, b, c| {
                        f32s::fma(single(a), single(b), single(c), near).to_bits()
                    }),
                    F32Op::Min {
                        nan: false,
                        xorsign: false,
                    } => bin32(regs, inst, |a, b| f32s::min(single(a), single(b)).to_bits()),
                    F32Op::Max {
                        nan: false,
                        xorsign: false,
                    } => bin32(regs, inst, |a, b| f32s::max(single(a), single(b)).to_bits()),
                    _ => return false,
                };
                regs.set32(inst.d, &t, lanes);
            }
            Op::Setp(cmp, ty, how) => {
                let Some(relations) = relations(ty, regs, inst) else {
                    return false;
                };
                let mask = holds(cmp, relations);
                let c = regs.pred(inst.c);
                regs.set_pred(inst.d, combine(mask, c, how), lanes);
                if inst.e != NONE {
                    regs.set_pred(inst.e, combine(!mask, c, how), lanes);
                }
            }
            Op::Selp32 => {
                let (a, b, c) = (regs.get32(inst.a), regs.get32(inst.b), regs.pred(inst.c));
                let mut t = [0; 32];
                for l in 0..32 {
                    t[l] = if c >> l & 1 != 0 { a[l] } else { b[l] };
                }
                regs.set32(inst.d, &t, lanes);
            }
            Op::X32(X32::Lop3(table)) => {
                // The table's bits spread over words, selected by b and c, then a.
                let t: [u32; 8] =
                    std::array::from_fn(|n| 0u32.wrapping_sub(u32::from(table >> n & 1)));
                let t = tri32(regs, inst, |a, b, c| {
                    let select = |s: u32, x: u32, y: u32| s & x | !s & y;
                    let low = select(b, select(c, t[3], t[2]), select(c, t[1], t[0]));
                    let high = select(b, select(c, t[7], t[6]), select(c, t[5], t[4]));
                    select(a, high, low)
                });
                regs.set32(inst.d, &t, lanes);
            }
            Op::CvtInt(CvtInt {
                dst,
                src,
                sat: false,
                flags,
            }) => {
                let (from64, to64) = (flags & CVT_SRC64 != 0, flags & CVT_DST64 != 0);
                match (src.bits, src.signed, dst.bits, from64, to64) {
                    (32, true, 64, false, true) => {
                        regs.set64(inst.d, &widen(regs, inst, |a| a as i32 as u64), lanes);
                    }
                    (32, false, 64, false, true) => {
                        regs.set64(inst.d, &widen(regs, inst, u64::from), lanes)
                    }
                    (64, _, 32, true, false) => {
                        regs.set32(inst.d, &narrow(regs, inst, |a| a as u32), lanes)
                    }
                    _ => return false,
                }
            }
            Op::Pack64 => {
                let (a, b) = (regs.get32(inst.a), regs.get32(inst.b));
                let mut t = [0; 32];
                for l in 0..32 {
                    t[l] = u64::from(a[l]) | u64::from(b[l]) << 32;
                }
                regs.set64(inst.d, &t, lanes);
            }
            Op::Unpack64 => {
                let low = narrow(regs, inst, |a| a as u32);
                let high = narrow(regs, inst, |a| (a >> 32) as u32);
                regs.set32(inst.d, &low, lanes);
                regs.set32(inst.e, &high, lanes);
            }
            Op::Pack32 => regs.set32(
                inst.d,
                &bin32(regs, inst, |a, b| a & 0xffff | b << 16),
                lanes,
            ),
            Op::Unpack32 => {
                let low = un32(regs, inst, |a| a & 0xffff);
                let high = un32(regs, inst, |a| a >> 16);
                regs.set32(inst.d, &low, lanes);
                regs.set32(inst.e, &high, lanes);
            }
            _ => return false,
        }
    }
    true
}
