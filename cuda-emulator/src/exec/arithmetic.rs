//! Operations on registers that the inner loop has not: which file executes which.

use super::alu::combine;
use super::compare::{compare, slct};
use super::float::{float32, float64, half_op, testp};
use super::integer::{carry_of, int16, int32, int64, x32};
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
pub(super) unsafe fn execute(r: Regs, i: &Inst, m: u32, carry: &mut u32, seed: Option<u64>) {
    // SAFETY: slots of the frame.
    unsafe {
        match i.op {
            Op::I16(op) => int16(r, i, m, op),
            Op::I32(op) => int32(r, i, m, op),
            Op::I64(op) => int64(r, i, m, op),
            Op::Wide16(kind) => {
                let product = |a: u32, b: u32, signed: bool| {
                    if signed {
                        (i32::from(a as i16) * i32::from(b as i16)) as u32
                    } else {
                        u32::from(a as u16) * u32::from(b as u16)
                    }
                };
                match kind {
                    Wide::MulU => bin32(r, i, m, |a, b| product(a, b, false)),
                    Wide::MulS => bin32(r, i, m, |a, b| product(a, b, true)),
                    Wide::MadU => {
                        tri32(r, i, m, |a, b, c| product(a, b, false).wrapping_add(c));
                    }
                    Wide::MadS => tri32(r, i, m, |a, b, c| product(a, b, true).wrapping_add(c)),
                }
            }
            Op::X32(op) => x32(r, i, m, op),
            Op::Shift64(Shift::ShrS) => {
                shift64(r, i, m, |a, b| (a as i64 >> b.min(63)) as u64);
            }
            Op::Count64(op) => match op {
                Count::Popc => narrow(r, i, m, u64::count_ones),
                Count::Clz => narrow(r, i, m, u64::leading_zeros),
                Count::Brev => un64(r, i, m, u64::reverse_bits),
                Count::Bfind { signed, shift } => {
                    narrow(r, i, m, |a| int::bfind(a, 64, signed, shift));
                }
            },
            Op::Bfe64 { signed } => {
                let (a, b, c) = (r.get64(i.a), r.get32(i.b), r.get32(i.c));
                let t = std::array::from_fn(|l| int::bfe(a[l], b[l], c[l], 64, signed));
                r.set64(i.d, &t, m);
            }
            Op::Bfi64 => {
                let (a, b) = (r.get64(i.a), r.get64(i.b));
                let (c, e) = (r.get32(i.c), r.get32(i.e));
                let t = std::array::from_fn(|l| int::bfi(a[l], b[l], c[l], e[l], 64));
                r.set64(i.d, &t, m);
            }
            Op::Carry32(c) => {
                let (x, y, z) = (r.get32(i.a), r.get32(i.b), r.get32(i.c));
                let mut t = [0; 32];
                let mut out = *carry;
                for l in 0..32 {
                    if m >> l & 1 == 0 {
                        continue;
                    }
                    let take = c.take && *carry >> l & 1 != 0;
                    let wide = |v: u32| u64::from(v);
                    let (value, bit) =
                        carry_of(c.kind, wide(x[l]), wide(y[l]), wide(z[l]), take, 32);
                    t[l] = value as u32;
                    if c.set {
                        out = out & !(1 << l) | u32::from(bit) << l;
                    }
                }
                *carry = out;
                r.set32(i.d, &t, m);
            }
            Op::Carry64(c) => {
                let (x, y, z) = (r.get64(i.a), r.get64(i.b), r.get64(i.c));
                let mut t = [0; 32];
                let mut out = *carry;
                for l in 0..32 {
                    if m >> l & 1 == 0 {
                        continue;
                    }
                    let take = c.take && *carry >> l & 1 != 0;
                    let (value, bit) = carry_of(c.kind, x[l], y[l], z[l], take, 64);
                    t[l] = value;
                    if c.set {
                        out = out & !(1 << l) | u32::from(bit) << l;
                    }
                }
                *carry = out;
                r.set64(i.d, &t, m);
            }
            Op::F32(op, mode) => float32(r, i, m, op, mode, seed),
            Op::F64(op, rounding) => float64(r, i, m, op, rounding),
            Op::Half(op, ty, mode) => match ty.bf16 {
                false => half_op::<F16>(r, i, m, op, ty.packed, mode),
                true => half_op::<Bf16>(r, i, m, op, ty.packed, mode),
            },
            Op::Testp32(test) => {
                let a = r.get32(i.a);
                let mask = lanes(|l| testp(test, f32::from_bits(a[l]).classify()));
                r.set_pred(i.d, mask, m);
            }
            Op::Testp64(test) => {
                let a = r.get64(i.a);
                let mask = lanes(|l| testp(test, f64::from_bits(a[l]).classify()));
                r.set_pred(i.d, mask, m);
            }
            Op::Setp(cmp, ty, how) => {
                let (low, high) = compare(cmp, ty, r, i);
                let c = r.pred(i.c);
                let packed = matches!(ty, CmpType::F16x2 | CmpType::Bf16x2);
                r.set_pred(i.d, combine(low, c, how), m);
                if i.e != NONE {
                    r.set_pred(i.e, combine(if packed { high } else { !low }, c, how), m);
                }
            }
            Op::Set(cmp, ty, how, result) => {
                let (low, high) = compare(cmp, ty, r, i);
                let c = r.pred(i.c);
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
                r.set32(i.d, &t, m);
            }
            Op::Slct32(by) => {
                let first = slct(r, i, by);
                let (a, b) = (r.get32(i.a), r.get32(i.b));
                let t = std::array::from_fn(|l| if first >> l & 1 != 0 { a[l] } else { b[l] });
                r.set32(i.d, &t, m);
            }
            Op::Slct64(by) => {
                let first = slct(r, i, by);
                let (a, b) = (r.get64(i.a), r.get64(i.b));
                let t = std::array::from_fn(|l| if first >> l & 1 != 0 { a[l] } else { b[l] });
                r.set64(i.d, &t, m);
            }
            Op::Cvt(c) => super::cvt::float(r, i, m, c),
            Op::CvtInt(c) => super::cvt::integer(r, i, m, c),
            Op::Selp64 => {
                let (a, b, c) = (r.get64(i.a), r.get64(i.b), r.pred(i.c));
                let t = std::array::from_fn(|l| if c >> l & 1 != 0 { a[l] } else { b[l] });
                r.set64(i.d, &t, m);
            }
            // The rest is in `alu` or is no arithmetic.
            _ => {}
        }
    }
}
