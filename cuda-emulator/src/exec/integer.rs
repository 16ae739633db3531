//! Integer operations that the inner loop has not.
//!
//! All functions' safety: slots belong to the frame (see [`Regs`]).

use super::lanes::*;
use super::registers::Regs;
use crate::lower::op::*;
use crate::numeric::{half, int};

/// What `add.cc` and the like give in each lane that takes part; the carry is taken and set as the operation says.
pub(super) fn carries(
    c: Carry,
    carry: &mut u32,
    active: u32,
    bits: u32,
    terms: impl Fn(usize) -> [u64; 3],
) -> [u64; 32] {
    let mut values = [0; 32];
    for l in (0..32).filter(|&l| active >> l & 1 != 0) {
        let take = c.take && *carry >> l & 1 != 0;
        let [x, y, z] = terms(l);
        let (value, bit) = carry_of(c.kind, x, y, z, take, bits);
        values[l] = value;
        if c.set {
            *carry = *carry & !(1 << l) | u32::from(bit) << l;
        }
    }
    values
}

/// Value and carry (of sub: borrow) of an extended-precision operation on `bits` bits.
fn carry_of(kind: CarryKind, a: u64, b: u64, c: u64, take: bool, bits: u32) -> (u64, bool) {
    let take = u128::from(take);
    let all = (1u128 << bits) - 1;
    let (a, b, c) = (u128::from(a), u128::from(b), u128::from(c));
    let signed = |x: u128| {
        if bits == 32 {
            x as u32 as i32 as i128
        } else {
            x as u64 as i64 as i128
        }
    };
    let sum = match kind {
        CarryKind::Add => a + b + take,
        CarryKind::Sub => {
            let result = a.wrapping_sub(b).wrapping_sub(take);
            return ((result & all) as u64, a < b + take);
        }
        CarryKind::MadLo => ((a * b) & all) + c + take,
        CarryKind::MadHiU => ((a * b) >> bits) + c + take,
        CarryKind::MadHiS => (((signed(a) * signed(b)) >> bits) as u128 & all) + c + take,
    };
    ((sum & all) as u64, sum > all)
}

/// The integer operations on one width.
macro_rules! integer {
    ($name:ident, $un:ident, $bin:ident, $tri:ident, $slot:ty, $u:ty, $s:ty, $wide_u:ty, $wide_s:ty) => {
        pub(super) unsafe fn $name(r: Regs, i: &Inst, m: u32, op: Int) {
            const BITS: u32 = <$u>::BITS;
            macro_rules! un {
                (|$a:ident| $body:expr) => {
                    $un(r, i, m, |$a| {
                        let $a = $a as $u;
                        ($body) as $u as $slot
                    })
                };
            }
            macro_rules! bin {
                (|$a:ident, $b:ident| $body:expr) => {
                    $bin(r, i, m, |$a, $b| {
                        let ($a, $b) = ($a as $u, $b as $u);
                        ($body) as $u as $slot
                    })
                };
            }
            macro_rules! tri {
                (|$a:ident, $b:ident, $c:ident| $body:expr) => {
                    $tri(r, i, m, |$a, $b, $c| {
                        let ($a, $b, $c) = ($a as $u, $b as $u, $c as $u);
                        ($body) as $u as $slot
                    })
                };
            }
            // SAFETY: slots of the frame.
            unsafe {
                match op {
                    Int::Add => bin!(|a, b| a.wrapping_add(b)),
                    Int::Sub => bin!(|a, b| a.wrapping_sub(b)),
                    Int::MulLo => bin!(|a, b| a.wrapping_mul(b)),
                    Int::MulHiU => bin!(|a, b| (a as $wide_u * b as $wide_u) >> BITS),
                    Int::MulHiS => {
                        bin!(|a, b| (a as $s as $wide_s * b as $s as $wide_s) >> BITS)
                    }
                    Int::MadLo => tri!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                    Int::MadHiU => {
                        tri!(|a, b, c| ((a as $wide_u * b as $wide_u >> BITS) as $u)
                            .wrapping_add(c))
                    }
                    Int::MadHiS => {
                        tri!(|a, b, c| ((a as $s as $wide_s * b as $s as $wide_s >> BITS) as $u)
                            .wrapping_add(c))
                    }
                    // Division by zero gives what hardware gives: all ones, and the dividend as remainder.
                    Int::DivU => bin!(|a, b| a.checked_div(b).unwrap_or(!0)),
                    Int::DivS => bin!(|a, b| match b {
                        0 => !0,
                        b => (a as $s).wrapping_div(b as $s) as $u,
                    }),
                    Int::RemU => bin!(|a, b| a.checked_rem(b).unwrap_or(a)),
                    Int::RemS => bin!(|a, b| match b {
                        0 => a,
                        b => (a as $s).wrapping_rem(b as $s) as $u,
                    }),
                    Int::MinU => bin!(|a, b| a.min(b)),
                    Int::MinS => bin!(|a, b| (a as $s).min(b as $s)),
                    Int::MaxU => bin!(|a, b| a.max(b)),
                    Int::MaxS => bin!(|a, b| (a as $s).max(b as $s)),
                    Int::MinReluS => bin!(|a, b| (a as $s).min(b as $s).max(0)),
                    Int::MaxReluS => bin!(|a, b| (a as $s).max(b as $s).max(0)),
                    Int::AbsS => un!(|a| (a as $s).wrapping_abs()),
                    Int::Neg => un!(|a| a.wrapping_neg()),
                    Int::SadU => tri!(|a, b, c| c.wrapping_add(a.abs_diff(b))),
                    Int::SadS => {
                        tri!(|a, b, c| c.wrapping_add((a as $s).abs_diff(b as $s)))
                    }
                    Int::And => bin!(|a, b| a & b),
                    Int::Or => bin!(|a, b| a | b),
                    Int::Xor => bin!(|a, b| a ^ b),
                    Int::Not => un!(|a| !a),
                    Int::Cnot => un!(|a| if a == 0 { 1 } else { 0 }),
                    // 64-bit values shift by `Op::Shift64`; amounts of 16- and 32-bit ones have 32 bits.
                    Int::Shl => $bin(r, i, m, |a, b| {
                        let n = (b as u64).min(64) as u32;
                        (a as $u).checked_shl(n).unwrap_or(0) as $slot
                    }),
                    Int::ShrU => $bin(r, i, m, |a, b| {
                        let n = (b as u64).min(64) as u32;
                        (a as $u).checked_shr(n).unwrap_or(0) as $slot
                    }),
                    Int::ShrS => $bin(r, i, m, |a, b| {
                        let n = (b as u64).min(u64::from(BITS - 1)) as u32;
                        (a as $s >> n) as $u as $slot
                    }),
                }
            }
        }
    };
}

integer!(int16, un32, bin32, tri32, u32, u16, i16, u32, i32);

integer!(int32, un32, bin32, tri32, u32, u32, i32, u64, i64);

integer!(int64, un64, bin64, tri64, u64, u64, i64, u128, i128);

pub(super) unsafe fn x32(regs: Regs, inst: &Inst, lanes: u32, op: X32) {
    // SAFETY: slots of the frame.
    unsafe {
        match op {
            X32::Count(Count::Popc) => un32(regs, inst, lanes, u32::count_ones),
            X32::Count(Count::Clz) => un32(regs, inst, lanes, u32::leading_zeros),
            X32::Count(Count::Brev) => un32(regs, inst, lanes, u32::reverse_bits),
            X32::Count(Count::Bfind { signed, shift }) => un32(regs, inst, lanes, |a| {
                let wide = if signed {
                    a as i32 as u64
                } else {
                    u64::from(a)
                };
                int::bfind(wide, 32, signed, shift)
            }),
            X32::Bfe { signed } => tri32(regs, inst, lanes, |a, b, c| {
                int::bfe(u64::from(a), b, c, 32, signed) as u32
            }),
            X32::Bfi => {
                let (a, b) = (regs.get32(inst.a), regs.get32(inst.b));
                let (c, e) = (regs.get32(inst.c), regs.get32(inst.e));
                let t = std::array::from_fn(|l| {
                    int::bfi(u64::from(a[l]), u64::from(b[l]), c[l], e[l], 32) as u32
                });
                regs.set32(inst.d, &t, lanes);
            }
            X32::Lop3(table) => tri32(regs, inst, lanes, |a, b, c| int::lop3(a, b, c, table)),
            X32::Prmt(mode) => tri32(regs, inst, lanes, |a, b, c| int::prmt(a, b, c, mode)),
            X32::ShfL { wrap } => tri32(regs, inst, lanes, |a, b, c| int::shf(a, b, c, true, wrap)),
            X32::ShfR { wrap } => {
                tri32(regs, inst, lanes, |a, b, c| int::shf(a, b, c, false, wrap))
            }
            X32::Szext { signed, wrap } => {
                bin32(regs, inst, lanes, |a, b| int::szext(a, b, signed, !wrap));
            }
            X32::Bmsk { wrap } => bin32(regs, inst, lanes, |a, b| int::bmsk(a, b, !wrap)),
            X32::Mul24 { signed, high } => {
                bin32(regs, inst, lanes, |a, b| mul24(a, b, signed, high))
            }
            X32::Mad24 { signed, high } => {
                tri32(regs, inst, lanes, |a, b, c| {
                    mul24(a, b, signed, high).wrapping_add(c)
                });
            }
            X32::AbsDiff { bytes, signed, add } => {
                tri32(regs, inst, lanes, |a, b, c| {
                    abs_diff(a, b, c, bytes, signed, add)
                });
            }
            X32::Halves(op) => bin32(regs, inst, lanes, |a, b| halves(op, a, b)),
            X32::Pack(to) => tri32(regs, inst, lanes, |a, b, c| {
                int::pack(a, b, c, to.bits, to.signed)
            }),
            X32::AddSat => bin32(regs, inst, lanes, |a, b| {
                (a as i32).saturating_add(b as i32) as u32
            }),
            X32::SubSat => bin32(regs, inst, lanes, |a, b| {
                (a as i32).saturating_sub(b as i32) as u32
            }),
            X32::MadHiSat => tri32(regs, inst, lanes, |a, b, c| {
                let high = ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as i32;
                high.saturating_add(c as i32) as u32
            }),
            X32::Fns => tri32(regs, inst, lanes, |a, b, c| int::fns(a, b, c as i32)),
            X32::Dp4a { a_signed, b_signed } => {
                tri32(regs, inst, lanes, |a, b, c| {
                    int::dp4a(a, b, c, a_signed, b_signed)
                });
            }
            X32::Dp2a {
                a_signed,
                b_signed,
                high,
            } => {
                tri32(regs, inst, lanes, |a, b, c| {
                    int::dp2a(a, b, c, a_signed, b_signed, high)
                });
            }
        }
    }
}

/// Absolute differences by halves or bytes, packed, or summed onto `c`.
fn abs_diff(a: u32, b: u32, c: u32, bytes: bool, signed: bool, add: bool) -> u32 {
    let bits = if bytes { 8 } else { 16 };
    let mut packed = 0;
    let mut sum = c;
    for shift in (0..32).step_by(bits) {
        let part = |x: u32| {
            let top = x >> shift << (32 - bits);
            match signed {
                true => i64::from(top as i32 >> (32 - bits)),
                false => i64::from(top >> (32 - bits)),
            }
        };
        let difference = part(a).abs_diff(part(b)) as u32;
        packed |= difference << shift;
        sum = sum.wrapping_add(difference);
    }
    if add { sum } else { packed }
}

fn halves(op: HalvesOp, a: u32, b: u32) -> u32 {
    half::each2(a, b, |a, b| {
        let (x, y) = (a as i16, b as i16);
        let positive = |x: i16, relu| if relu { x.max(0) } else { x } as u16;
        match op {
            HalvesOp::Add => a.wrapping_add(b),
            HalvesOp::MinU => a.min(b),
            HalvesOp::MaxU => a.max(b),
            HalvesOp::MinS { relu } => positive(x.min(y), relu),
            HalvesOp::MaxS { relu } => positive(x.max(y), relu),
        }
    })
}

/// 24-bit multiply: the low, or the high, 32 bits of the 48-bit product.
fn mul24(a: u32, b: u32, signed: bool, high: bool) -> u32 {
    let wide = |x: u32| match signed {
        false => i64::from(x & 0xff_ffff),
        true => i64::from((x << 8) as i32 >> 8),
    };
    let product = wide(a) * wide(b);
    (if high { product >> 16 } else { product }) as u32
}
