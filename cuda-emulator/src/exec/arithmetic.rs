//! Operations on registers that the inner loop has not: which file executes which.

use super::alu::combine;
use super::compare::{compare, slct};
use super::float::{float32, float64, half_op, testp};
use super::integer::{carries, int16, int32, int64, x32};
use super::lanes::*;
use super::registers::Regs;
use crate::lower::op::*;
use crate::numeric::half::{Bf16, F16};
use crate::numeric::int;

/// Executes an operation that only touches registers.
///
/// # Safety
/// Slots belong to the frame.
#[inline(never)]
pub(super) unsafe fn execute(
    regs: Regs,
    inst: &Inst,
    active: u32,
    carry: &mut u32,
    seed: Option<u64>,
) {
    // SAFETY: slots of the frame.
    unsafe {
        match inst.op {
            Op::I16(op) => int16(regs, inst, active, op),
            Op::I32(op) => int32(regs, inst, active, op),
            Op::I64(op) => int64(regs, inst, active, op),
            Op::Wide16(kind) => {
                let product = |a: u32, b: u32, signed: bool| {
                    if signed {
                        (i32::from(a as i16) * i32::from(b as i16)) as u32
                    } else {
                        u32::from(a as u16) * u32::from(b as u16)
                    }
                };
                match kind {
                    Wide::MulU => bin32(regs, inst, active, |a, b| product(a, b, false)),
                    Wide::MulS => bin32(regs, inst, active, |a, b| product(a, b, true)),
                    Wide::MadU => {
                        tri32(regs, inst, active, |a, b, c| {
                            product(a, b, false).wrapping_add(c)
                        });
                    }
                    Wide::MadS => tri32(regs, inst, active, |a, b, c| {
                        product(a, b, true).wrapping_add(c)
                    }),
                }
            }
            Op::X32(op) => x32(regs, inst, active, op),
            Op::Shift64(Shift::ShrS) => {
                shift64(regs, inst, active, |a, b| (a as i64 >> b.min(63)) as u64);
            }
            Op::Count64(op) => match op {
                Count::Popc => narrow(regs, inst, active, u64::count_ones),
                Count::Clz => narrow(regs, inst, active, u64::leading_zeros),
                Count::Brev => un64(regs, inst, active, u64::reverse_bits),
                Count::Bfind { signed, shift } => {
                    narrow(regs, inst, active, |a| int::bfind(a, 64, signed, shift));
                }
            },
            Op::Bfe64 { signed } => {
                let (a, b, c) = (regs.get64(inst.a), regs.get32(inst.b), regs.get32(inst.c));
                let t = std::array::from_fn(|l| int::bfe(a[l], b[l], c[l], 64, signed));
                regs.set64(inst.d, &t, active);
            }
            Op::Bfi64 => {
                let (a, b) = (regs.get64(inst.a), regs.get64(inst.b));
                let (c, e) = (regs.get32(inst.c), regs.get32(inst.e));
                let t = std::array::from_fn(|l| int::bfi(a[l], b[l], c[l], e[l], 64));
                regs.set64(inst.d, &t, active);
            }
            Op::Carry32(c) => {
                let (x, y, z) = (regs.get32(inst.a), regs.get32(inst.b), regs.get32(inst.c));
                let terms = |l: usize| [x[l], y[l], z[l]].map(u64::from);
                let t = carries(c, carry, active, 32, terms).map(|value| value as u32);
                regs.set32(inst.d, &t, active);
            }
            Op::Carry64(c) => {
                let (x, y, z) = (regs.get64(inst.a), regs.get64(inst.b), regs.get64(inst.c));
                let t = carries(c, carry, active, 64, |l| [x[l], y[l], z[l]]);
                regs.set64(inst.d, &t, active);
            }
            Op::F32(op, mode) => float32(regs, inst, active, op, mode, seed),
            Op::F64(op, rounding) => float64(regs, inst, active, op, rounding),
            Op::Half(op, ty, mode) => match ty.bf16 {
                false => half_op::<F16>(regs, inst, active, op, ty.packed, mode),
                true => half_op::<Bf16>(regs, inst, active, op, ty.packed, mode),
            },
            Op::Testp32(test) => {
                let a = regs.get32(inst.a);
                let mask = lanes(|l| testp(test, f32::from_bits(a[l]).classify()));
                regs.set_pred(inst.d, mask, active);
            }
            Op::Testp64(test) => {
                let a = regs.get64(inst.a);
                let mask = lanes(|l| testp(test, f64::from_bits(a[l]).classify()));
                regs.set_pred(inst.d, mask, active);
            }
            Op::Setp(cmp, ty, how) => {
                let (low, high) = compare(cmp, ty, regs, inst);
                let c = regs.pred(inst.c);
                let packed = matches!(ty, CmpType::F16x2 | CmpType::Bf16x2);
                regs.set_pred(inst.d, combine(low, c, how), active);
                if inst.e != NONE {
                    regs.set_pred(
                        inst.e,
                        combine(if packed { high } else { !low }, c, how),
                        active,
                    );
                }
            }
            Op::Set(cmp, ty, how, result) => {
                let (low, high) = compare(cmp, ty, regs, inst);
                let c = regs.pred(inst.c);
                let (low, high) = (combine(low, c, how), combine(high, c, how));
                let (lo, hi) = match result {
                    SetResult::Mask => (!0, 0),
                    SetResult::F32 => (1.0f32.to_bits(), 0),
                    SetResult::F16 => (0x3c00, 0),
                    SetResult::Bf16 => (0x3f80, 0),
                    SetResult::F16x2 => (0x3c00, 0x3c00_0000),
                    SetResult::Bf16x2 => (0x3f80, 0x3f80_0000),
                    SetResult::Mask16 => (0xffff, 0),
                    SetResult::Mask16x2 => (0xffff, 0xffff_0000),
                };
                let t = std::array::from_fn(|l| {
                    let pick = |mask: u32, value: u32| if mask >> l & 1 != 0 { value } else { 0 };
                    pick(low, lo) | pick(high, hi)
                });
                regs.set32(inst.d, &t, active);
            }
            Op::Slct32(by) => {
                let first = slct(regs, inst, by);
                let (a, b) = (regs.get32(inst.a), regs.get32(inst.b));
                let t = std::array::from_fn(|l| if first >> l & 1 != 0 { a[l] } else { b[l] });
                regs.set32(inst.d, &t, active);
            }
            Op::Slct64(by) => {
                let first = slct(regs, inst, by);
                let (a, b) = (regs.get64(inst.a), regs.get64(inst.b));
                let t = std::array::from_fn(|l| if first >> l & 1 != 0 { a[l] } else { b[l] });
                regs.set64(inst.d, &t, active);
            }
            Op::Cvt(c) => super::cvt::float(regs, inst, active, c),
            Op::CvtInt(c) => super::cvt::integer(regs, inst, active, c),
            Op::Selp64 => {
                let (a, b, c) = (regs.get64(inst.a), regs.get64(inst.b), regs.pred(inst.c));
                let t = std::array::from_fn(|l| if c >> l & 1 != 0 { a[l] } else { b[l] });
                regs.set64(inst.d, &t, active);
            }
            // The rest is in `alu` or is no arithmetic.
            _ => {}
        }
    }
}
