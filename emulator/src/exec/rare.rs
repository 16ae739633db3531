//! Arithmetic that is not worth a place in the inner loop: plain loops over the lanes, compiled once.
//!
//! All functions' safety: slots belong to the frame (see [`Regs`]).

use super::alu::{combine, holds};
use super::registers::Regs;
use crate::lower::op::*;
use crate::numeric::half::{Bf16, F16, Half};
use crate::numeric::{approx, f32s, f64s, half, int};

/// 32, without telling the compiler, which would unroll every loop of this file.
#[inline(always)]
fn width() -> usize {
    std::hint::black_box(32)
}

unsafe fn un32(r: Regs, i: &Inst, m: u32, f: impl Fn(u32) -> u32) {
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

unsafe fn bin32(r: Regs, i: &Inst, m: u32, f: impl Fn(u32, u32) -> u32) {
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

unsafe fn tri32(r: Regs, i: &Inst, m: u32, f: impl Fn(u32, u32, u32) -> u32) {
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

unsafe fn un64(r: Regs, i: &Inst, m: u32, f: impl Fn(u64) -> u64) {
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

unsafe fn bin64(r: Regs, i: &Inst, m: u32, f: impl Fn(u64, u64) -> u64) {
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

unsafe fn tri64(r: Regs, i: &Inst, m: u32, f: impl Fn(u64, u64, u64) -> u64) {
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

unsafe fn shift64(r: Regs, i: &Inst, m: u32, f: impl Fn(u64, u32) -> u64) {
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

unsafe fn narrow(r: Regs, i: &Inst, m: u32, f: impl Fn(u64) -> u32) {
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
unsafe fn compare(cmp: Cmp, ty: CmpType, r: Regs, i: &Inst) -> (u32, u32) {
    let single = |x: u64| f32::from_bits(x as u32);
    let f16 = |x: u64| F16::to_f32(x as u16);
    let bf16 = |x: u64| Bf16::to_f32(x as u16);
    // SAFETY: slots of the frame.
    unsafe {
        let relations = match ty {
            CmpType::U16 => relate(r, i, false, |x| x as u16),
            CmpType::S16 => relate(r, i, false, |x| x as i16),
            CmpType::U32 => relate(r, i, false, |x| x as u32),
            CmpType::S32 => relate(r, i, false, |x| x as i32),
            CmpType::U64 => relate(r, i, true, |x| x),
            CmpType::S64 => relate(r, i, true, |x| x as i64),
            CmpType::F16 => relate(r, i, false, f16),
            CmpType::Bf16 => relate(r, i, false, bf16),
            CmpType::F32 { ftz: false } => relate(r, i, false, single),
            CmpType::F32 { ftz: true } => relate(r, i, false, |x| f32s::ftz(single(x))),
            CmpType::F64 => relate(r, i, true, f64::from_bits),
            CmpType::F16x2 => {
                let high = relate(r, i, false, |x| f16(x >> 16));
                return (holds(cmp, relate(r, i, false, f16)), holds(cmp, high));
            }
            CmpType::Bf16x2 => {
                let high = relate(r, i, false, |x| bf16(x >> 16));
                return (holds(cmp, relate(r, i, false, bf16)), holds(cmp, high));
            }
        };
        let mask = holds(cmp, relations);
        (mask, mask)
    }
}

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

fn lanes(f: impl Fn(usize) -> bool) -> u32 {
    (0..32).fold(0, |m, l| m | u32::from(f(l)) << l)
}

unsafe fn slct(r: Regs, i: &Inst, by: SlctBy) -> u32 {
    // SAFETY: slots of the frame.
    let c = unsafe { r.get32(i.c) };
    match by {
        SlctBy::S32 => lanes(|l| c[l] as i32 >= 0),
        // NaN selects b; −0 and, with .ftz, negative subnormals count as 0.
        SlctBy::F32 { ftz } => lanes(|l| {
            let x = f32::from_bits(c[l]);
            (if ftz { f32s::ftz(x) } else { x }) >= 0.0
        }),
    }
}

fn testp(test: Testp, class: std::num::FpCategory) -> bool {
    use std::num::FpCategory::*;
    match test {
        Testp::Finite => !matches!(class, Nan | Infinite),
        Testp::Infinite => class == Infinite,
        Testp::Number => class != Nan,
        Testp::NotANumber => class == Nan,
        Testp::Normal => matches!(class, Normal | Zero),
        Testp::Subnormal => class == Subnormal,
    }
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
                unsafe fn $name(r: Regs, i: &Inst, m: u32, op: Int) {
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

unsafe fn x32(r: Regs, i: &Inst, m: u32, op: X32) {
    // SAFETY: slots of the frame.
    unsafe {
        match op {
            X32::Count(Count::Popc) => un32(r, i, m, u32::count_ones),
            X32::Count(Count::Clz) => un32(r, i, m, u32::leading_zeros),
            X32::Count(Count::Brev) => un32(r, i, m, u32::reverse_bits),
            X32::Count(Count::Bfind { signed, shift }) => un32(r, i, m, |a| {
                let wide = if signed {
                    a as i32 as u64
                } else {
                    u64::from(a)
                };
                int::bfind(wide, 32, signed, shift)
            }),
            X32::Bfe { signed } => tri32(r, i, m, |a, b, c| {
                int::bfe(u64::from(a), b, c, 32, signed) as u32
            }),
            X32::Bfi => {
                let (a, b) = (r.get32(i.a), r.get32(i.b));
                let (c, e) = (r.get32(i.c), r.get32(i.e));
                let t = std::array::from_fn(|l| {
                    int::bfi(u64::from(a[l]), u64::from(b[l]), c[l], e[l], 32) as u32
                });
                r.set32(i.d, &t, m);
            }
            X32::Lop3(table) => tri32(r, i, m, |a, b, c| int::lop3(a, b, c, table)),
            X32::Prmt(mode) => tri32(r, i, m, |a, b, c| int::prmt(a, b, c, mode)),
            X32::ShfL { wrap } => tri32(r, i, m, |a, b, c| int::shf(a, b, c, true, wrap)),
            X32::ShfR { wrap } => tri32(r, i, m, |a, b, c| int::shf(a, b, c, false, wrap)),
            X32::Szext { signed, wrap } => {
                bin32(r, i, m, |a, b| int::szext(a, b, signed, !wrap));
            }
            X32::Bmsk { wrap } => bin32(r, i, m, |a, b| int::bmsk(a, b, !wrap)),
            X32::Mul24 { signed, high } => bin32(r, i, m, |a, b| mul24(a, b, signed, high)),
            X32::Mad24 { signed, high } => {
                tri32(r, i, m, |a, b, c| mul24(a, b, signed, high).wrapping_add(c));
            }
            X32::AbsDiff { bytes, signed, add } => {
                tri32(r, i, m, |a, b, c| abs_diff(a, b, c, bytes, signed, add));
            }
            X32::Halves(op) => bin32(r, i, m, |a, b| halves(op, a, b)),
            X32::Pack(to) => tri32(r, i, m, |a, b, c| int::pack(a, b, c, to.bits, to.signed)),
            X32::AddSat => bin32(r, i, m, |a, b| (a as i32).saturating_add(b as i32) as u32),
            X32::SubSat => bin32(r, i, m, |a, b| (a as i32).saturating_sub(b as i32) as u32),
            X32::MadHiSat => tri32(r, i, m, |a, b, c| {
                let high = ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as i32;
                high.saturating_add(c as i32) as u32
            }),
            X32::Fns => tri32(r, i, m, |a, b, c| int::fns(a, b, c as i32)),
            X32::Dp4a { a_signed, b_signed } => {
                tri32(r, i, m, |a, b, c| int::dp4a(a, b, c, a_signed, b_signed));
            }
            X32::Dp2a {
                a_signed,
                b_signed,
                high,
            } => {
                tri32(r, i, m, |a, b, c| {
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

unsafe fn float32(r: Regs, i: &Inst, m: u32, op: F32Op, mode: FloatMode, seed: Option<u64>) {
    let rounding = mode.rounding;
    let input = |x: u32| {
        let x = f32::from_bits(x);
        if mode.ftz { f32s::ftz(x) } else { x }
    };
    let output = |x: f32| {
        let x = if mode.ftz { f32s::ftz(x) } else { x };
        (if mode.sat { f32s::sat(x) } else { x }).to_bits()
    };
    macro_rules! un {
        (|$a:ident| $body:expr) => {
            un32(r, i, m, |$a| {
                let $a = input($a);
                output($body)
            })
        };
    }
    macro_rules! bin {
        (|$a:ident, $b:ident| $body:expr) => {
            bin32(r, i, m, |$a, $b| {
                let ($a, $b) = (input($a), input($b));
                output($body)
            })
        };
    }
    macro_rules! approximate {
        ($name:ident, $f:expr) => {{
            let f = $f;
            match seed {
                None => un!(|a| f(a)),
                Some(seed) => {
                    un!(|a| approx::perturb(f(a), approx::Approx::$name, a, 0.0, mode.ftz, seed))
                }
            }
        }};
    }
    macro_rules! approximate2 {
        ($name:ident, $f:expr) => {{
            let f = $f;
            match seed {
                None => bin!(|a, b| f(a, b)),
                Some(seed) => bin!(|a, b| approx::perturb(
                    f(a, b),
                    approx::Approx::$name,
                    a,
                    b,
                    mode.ftz,
                    seed
                )),
            }
        }};
    }
    // SAFETY: slots of the frame.
    unsafe {
        match op {
            F32Op::Add => bin!(|a, b| f32s::add(a, b, rounding)),
            F32Op::Sub => bin!(|a, b| f32s::sub(a, b, rounding)),
            F32Op::Mul => bin!(|a, b| f32s::mul(a, b, rounding)),
            F32Op::Fma => tri32(r, i, m, |a, b, c| {
                output(f32s::fma(input(a), input(b), input(c), rounding))
            }),
            F32Op::Min { nan, xorsign } => bin!(|a, b| {
                let (x, y) = if xorsign {
                    (f32s::abs(a), f32s::abs(b))
                } else {
                    (a, b)
                };
                let least = if nan {
                    f32s::min_nan(x, y)
                } else {
                    f32s::min(x, y)
                };
                if xorsign {
                    f32s::xorsign(least, a, b)
                } else {
                    least
                }
            }),
            F32Op::Max { nan, xorsign } => bin!(|a, b| {
                let (x, y) = if xorsign {
                    (f32s::abs(a), f32s::abs(b))
                } else {
                    (a, b)
                };
                let most = if nan {
                    f32s::max_nan(x, y)
                } else {
                    f32s::max(x, y)
                };
                if xorsign {
                    f32s::xorsign(most, a, b)
                } else {
                    most
                }
            }),
            F32Op::Abs => un!(|a| f32s::abs(a)),
            F32Op::Neg => un!(|a| f32s::neg(a)),
            F32Op::Copysign => bin32(r, i, m, |a, b| {
                f32s::copysign(f32::from_bits(a), f32::from_bits(b)).to_bits()
            }),
            F32Op::Div => bin!(|a, b| f32s::div(a, b, rounding)),
            F32Op::Rcp => un!(|a| f32s::rcp(a, rounding)),
            F32Op::Sqrt => un!(|a| f32s::sqrt(a, rounding)),
            F32Op::DivFull => approximate2!(DivFull, approx::div_full),
            F32Op::DivApprox => approximate2!(Div, approx::div),
            F32Op::RcpApprox => approximate!(Rcp, approx::rcp),
            F32Op::SqrtApprox => approximate!(Sqrt, approx::sqrt),
            F32Op::RsqrtApprox => approximate!(Rsqrt, approx::rsqrt),
            F32Op::Sin => approximate!(Sin, approx::sin),
            F32Op::Cos => approximate!(Cos, approx::cos),
            F32Op::Lg2 => approximate!(Lg2, approx::lg2),
            F32Op::Ex2 => approximate!(Ex2, approx::ex2),
            F32Op::Tanh => approximate!(Tanh, approx::tanh),
        }
    }
}

unsafe fn float64(r: Regs, i: &Inst, m: u32, op: F64Op, rounding: Rounding) {
    let x = f64::from_bits;
    // SAFETY: slots of the frame.
    unsafe {
        match op {
            F64Op::Add => bin64(r, i, m, |a, b| f64s::add(x(a), x(b), rounding).to_bits()),
            F64Op::Sub => bin64(r, i, m, |a, b| f64s::sub(x(a), x(b), rounding).to_bits()),
            F64Op::Mul => bin64(r, i, m, |a, b| f64s::mul(x(a), x(b), rounding).to_bits()),
            F64Op::Fma => {
                tri64(r, i, m, |a, b, c| {
                    f64s::fma(x(a), x(b), x(c), rounding).to_bits()
                });
            }
            F64Op::Min => bin64(r, i, m, |a, b| f64s::min(x(a), x(b)).to_bits()),
            F64Op::Max => bin64(r, i, m, |a, b| f64s::max(x(a), x(b)).to_bits()),
            F64Op::Abs => un64(r, i, m, |a| a & !(1 << 63)),
            F64Op::Neg => un64(r, i, m, |a| a ^ 1 << 63),
            F64Op::Copysign => bin64(r, i, m, |a, b| a & 1 << 63 | b & !(1 << 63)),
            F64Op::Div => bin64(r, i, m, |a, b| f64s::div(x(a), x(b), rounding).to_bits()),
            F64Op::Rcp => un64(r, i, m, |a| f64s::rcp(x(a), rounding).to_bits()),
            F64Op::Sqrt => un64(r, i, m, |a| f64s::sqrt(x(a), rounding).to_bits()),
            F64Op::RcpApproxFtz => un64(r, i, m, |a| f64s::rcp_approx_ftz(x(a)).to_bits()),
            F64Op::RsqrtApprox { ftz: true } => {
                un64(r, i, m, |a| f64s::rsqrt_approx_ftz(x(a)).to_bits());
            }
            F64Op::RsqrtApprox { ftz: false } => {
                un64(r, i, m, |a| (1.0 / x(a).sqrt()).to_bits());
            }
        }
    }
}

unsafe fn half_op<H: Half>(r: Regs, i: &Inst, m: u32, op: HalfOp, packed: bool, mode: HalfMode) {
    let input = |a: u16| if mode.ftz { half::ftz::<H>(a) } else { a };
    let output = |a: u16| {
        let a = if mode.ftz { half::ftz::<H>(a) } else { a };
        let a = if mode.sat { half::sat::<H>(a) } else { a };
        if mode.relu { half::relu::<H>(a) } else { a }
    };
    macro_rules! un {
        ($f:expr) => {{
            let f = $f;
            let g = |a: u16| output(f(input(a)));
            match packed {
                false => un32(r, i, m, |a| u32::from(g(a as u16))),
                true => un32(r, i, m, |a| half::each(a, g)),
            }
        }};
    }
    macro_rules! bin {
        ($f:expr) => {{
            let f = $f;
            let g = |a: u16, b: u16| output(f(input(a), input(b)));
            match packed {
                false => bin32(r, i, m, |a, b| u32::from(g(a as u16, b as u16))),
                true => bin32(r, i, m, |a, b| half::each2(a, b, g)),
            }
        }};
    }
    let xor = |f: fn(u16, u16) -> u16| {
        move |a: u16, b: u16| half::xorsign::<H>(f(half::abs::<H>(a), half::abs::<H>(b)), a, b)
    };
    // SAFETY: slots of the frame.
    unsafe {
        match op {
            HalfOp::Add => bin!(half::add::<H>),
            HalfOp::Sub => bin!(half::sub::<H>),
            HalfOp::Mul => bin!(half::mul::<H>),
            HalfOp::Fma => {
                let g =
                    |a: u16, b: u16, c: u16| output(half::fma::<H>(input(a), input(b), input(c)));
                match packed {
                    false => tri32(r, i, m, |a, b, c| {
                        u32::from(g(a as u16, b as u16, c as u16))
                    }),
                    true => tri32(r, i, m, |a, b, c| half::each3(a, b, c, g)),
                }
            }
            HalfOp::Min {
                nan: false,
                xorsign: false,
            } => bin!(half::min::<H>),
            HalfOp::Min {
                nan: true,
                xorsign: false,
            } => bin!(half::min_nan::<H>),
            HalfOp::Min {
                nan: false,
                xorsign: true,
            } => bin!(xor(half::min::<H>)),
            HalfOp::Min {
                nan: true,
                xorsign: true,
            } => bin!(xor(half::min_nan::<H>)),
            HalfOp::Max {
                nan: false,
                xorsign: false,
            } => bin!(half::max::<H>),
            HalfOp::Max {
                nan: true,
                xorsign: false,
            } => bin!(half::max_nan::<H>),
            HalfOp::Max {
                nan: false,
                xorsign: true,
            } => bin!(xor(half::max::<H>)),
            HalfOp::Max {
                nan: true,
                xorsign: true,
            } => bin!(xor(half::max_nan::<H>)),
            HalfOp::Abs => un!(half::abs::<H>),
            HalfOp::Neg => un!(half::neg::<H>),
            HalfOp::Ex2 => un!(half::ex2::<H>),
            HalfOp::Tanh => un!(half::tanh::<H>),
        }
    }
}
