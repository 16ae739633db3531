//! Comparisons, and selection by the sign of a value.
//!
//! All functions' safety: slots belong to the frame (see [`Regs`]).

use super::alu::holds;
use super::lanes::{lanes, width};
use super::registers::Regs;
use crate::lower::op::*;
use crate::numeric::f32s;
use crate::numeric::half::{Bf16, F16, Half};

/// Lanes for which a is less than, equal to, greater than b.
unsafe fn relate<T: PartialOrd>(
    r: Regs,
    i: &Inst,
    wide: bool,
    number: impl Fn(u64) -> T,
) -> [u32; 3] {
    let mut masks = [0; 3];
    for l in 0..width() {
        // SAFETY: slots of the frame.
        let (a, b) = unsafe {
            match wide {
                true => (r.get64(i.a)[l & 31], r.get64(i.b)[l & 31]),
                false => (
                    u64::from(r.get32(i.a)[l & 31]),
                    u64::from(r.get32(i.b)[l & 31]),
                ),
            }
        };
        if let Some(order) = number(a).partial_cmp(&number(b)) {
            masks[(order as i8 + 1) as usize] |= 1 << l;
        }
    }
    masks
}

/// Any comparison; for packed halves the masks of the low and the high half.
pub(super) unsafe fn compare(cmp: Cmp, ty: CmpType, regs: Regs, inst: &Inst) -> (u32, u32) {
    let single = |x: u64| f32::from_bits(x as u32);
    let f16 = |x: u64| F16::to_f32(x as u16);
    let bf16 = |x: u64| Bf16::to_f32(x as u16);
    // SAFETY: slots of the frame.
    unsafe {
        let relations = match ty {
            CmpType::U16 => relate(regs, inst, false, |x| x as u16),
            CmpType::S16 => relate(regs, inst, false, |x| x as i16),
            CmpType::U32 => relate(regs, inst, false, |x| x as u32),
            CmpType::S32 => relate(regs, inst, false, |x| x as i32),
            CmpType::U64 => relate(regs, inst, true, |x| x),
            CmpType::S64 => relate(regs, inst, true, |x| x as i64),
            CmpType::F16 => relate(regs, inst, false, f16),
            CmpType::Bf16 => relate(regs, inst, false, bf16),
            CmpType::F32 { ftz: false } => relate(regs, inst, false, single),
            CmpType::F32 { ftz: true } => relate(regs, inst, false, |x| f32s::ftz(single(x))),
            CmpType::F64 => relate(regs, inst, true, f64::from_bits),
            CmpType::F16x2 => {
                let high = relate(regs, inst, false, |x| f16(x >> 16));
                return (holds(cmp, relate(regs, inst, false, f16)), holds(cmp, high));
            }
            CmpType::Bf16x2 => {
                let high = relate(regs, inst, false, |x| bf16(x >> 16));
                return (
                    holds(cmp, relate(regs, inst, false, bf16)),
                    holds(cmp, high),
                );
            }
        };
        let mask = holds(cmp, relations);
        (mask, mask)
    }
}

pub(super) unsafe fn slct(regs: Regs, inst: &Inst, by: SlctBy) -> u32 {
    // SAFETY: slots of the frame.
    let c = unsafe { regs.get32(inst.c) };
    match by {
        SlctBy::S32 => lanes(|l| c[l] as i32 >= 0),
        // NaN selects b; −0 and, with .ftz, negative subnormals count as 0.
        SlctBy::F32 { ftz } => lanes(|l| {
            let x = f32::from_bits(c[l]);
            (if ftz { f32s::ftz(x) } else { x }) >= 0.0
        }),
    }
}
