//! What of an operation's result is undefined, from its sources and what of them is: one lane at a time.
//!
//! The rules are those of memcheck: exact for what moves bits and for bitwise logic, upward from the lowest undefined bit for sums and
//! products, everything for the rest. A value that no undefined bit can change is defined: 0 · x of integers, a comparison that the
//! defined bits decide, a select by a condition that is defined.

use crate::exec::alu;
use crate::lower::op::*;
use crate::lower::operands::packs;
use crate::numeric::half::{Bf16, F16, Half};
use crate::numeric::{f32s, int};
use crate::ptx::ast::Type;

/// A source: its bits, and which of them are undefined. A predicate is bit 0.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bits {
    pub(super) value: u64,
    pub(super) undefined: u64,
}

impl Bits {
    fn is_defined(self) -> bool {
        self.undefined == 0
    }

    /// The least and the greatest value it may have, of `width` bits; as a signed number moved up so that order is that of unsigned ones.
    fn range(self, width: u32, signed: bool) -> (u64, u64) {
        let mask = ones(width);
        let flip = if signed { 1 << (width - 1) } else { 0 };
        let value = (self.value ^ flip) & mask;
        let undefined = self.undefined & mask;
        (value & !undefined, value | undefined)
    }

    fn low(self, width: u32) -> Self {
        let mask = ones(width);
        Self {
            value: self.value & mask,
            undefined: self.undefined & mask,
        }
    }
}

fn ones(width: u32) -> u64 {
    !0 >> (64 - width)
}

/// What of a value is undefined that lies between two, inclusively: all below the first bit in which they differ, and that.
fn between(least: u64, most: u64) -> u64 {
    match least ^ most {
        0 => 0,
        differs => !0 >> differs.leading_zeros(),
    }
}

/// The least or the greatest of values, each of which has a range.
pub(super) fn extreme(values: &[Bits], width: u32, signed: bool, greatest: bool) -> u64 {
    let of = |a: u64, b: u64| if greatest { a.max(b) } else { a.min(b) };
    let ranges = values.iter().map(|x| x.range(width, signed));
    let both = ranges.reduce(|(l, m), (x, y)| (of(l, x), of(m, y)));
    both.map_or(0, |(least, most)| between(least, most))
}

/// A function that grows, or falls, with its argument is known if its ends are the same.
fn monotone(a: Bits, width: u32, f: impl Fn(u64) -> u32) -> u64 {
    let (least, most) = a.range(width, false);
    match f(least) == f(most) {
        true => 0,
        false => ones(32),
    }
}

/// Everything from the lowest undefined bit up.
fn upward(undefined: u64) -> u64 {
    undefined | undefined.wrapping_neg()
}

/// All of `width` bits if any source is undefined.
fn any(width: u32, sources: &[Bits]) -> u64 {
    match sources.iter().all(|s| s.is_defined()) {
        true => 0,
        false => ones(width),
    }
}

fn and(a: Bits, b: Bits) -> u64 {
    a.undefined & b.undefined | a.undefined & b.value | b.undefined & a.value
}

fn or(a: Bits, b: Bits) -> u64 {
    a.undefined & b.undefined | a.undefined & !b.value | b.undefined & !a.value
}

/// The lower of two products' bits: nothing of 0.
fn product(a: Bits, b: Bits) -> u64 {
    let is_zero = |x: Bits| x.is_defined() && x.value == 0;
    match is_zero(a) || is_zero(b) {
        true => 0,
        false => upward(a.undefined | b.undefined),
    }
}

/// A change of a float's sign: the other bits stay, unless it may be a NaN, which becomes another, or flushed to zero.
fn sign(a: Bits, width: u32, exponent: u64, clears: bool, ftz: bool) -> u64 {
    let may_be_nan = (a.value | a.undefined) & exponent == exponent;
    let may_be_flushed = ftz && a.value & !a.undefined & exponent == 0;
    if may_be_nan || may_be_flushed {
        return any(width, &[a]);
    }
    a.undefined & ones(if clears { width - 1 } else { width })
}

/// One of two by a condition, of which is known whether it is undefined.
fn select(first: bool, unknown: bool, a: Bits, b: Bits) -> u64 {
    match (unknown, first) {
        (true, _) => a.undefined | b.undefined | a.value ^ b.value,
        (false, true) => a.undefined,
        (false, false) => b.undefined,
    }
}

/// A shift by an amount: the bits move with the value.
fn shifted(a: Bits, amount: Bits, width: u32, shift: impl Fn(u64) -> u64) -> u64 {
    match amount.is_defined() {
        true => shift(a.undefined),
        false => ones(width),
    }
}

fn integer(op: Int, width: u32, [a, b, c]: [Bits; 3]) -> u64 {
    let mask = ones(width);
    let signed = |x: u64| (x << (64 - width)) as i64 >> (64 - width);
    let n = b.value.min(63) as u32;
    let all = mask
        & match op {
            Int::And => and(a, b),
            Int::Or => or(a, b),
            Int::Xor => a.undefined | b.undefined,
            Int::Not => a.undefined,
            Int::Add | Int::Sub => upward(a.undefined | b.undefined),
            Int::Neg => upward(a.undefined),
            Int::MulLo => product(a, b),
            Int::MadLo => upward(product(a, b) | c.undefined),
            Int::Shl => shifted(a, b, width, |u| if b.value < 64 { u << n } else { 0 }),
            Int::ShrU => shifted(
                a,
                b,
                width,
                |u| if b.value < 64 { (u & mask) >> n } else { 0 },
            ),
            Int::ShrS => shifted(a, b, width, |u| (signed(u) >> n) as u64),
            Int::MadHiU | Int::MadHiS | Int::SadU | Int::SadS => any(width, &[a, b, c]),
            Int::AbsS | Int::Cnot => any(width, &[a]),
            Int::MulHiU | Int::MulHiS if product(a, b) == 0 => 0,
            Int::MinU | Int::MaxU | Int::MinS | Int::MaxS => extreme(
                &[a, b],
                width,
                matches!(op, Int::MinS | Int::MaxS),
                matches!(op, Int::MaxU | Int::MaxS),
            ),
            Int::MulHiU
            | Int::MulHiS
            | Int::DivU
            | Int::DivS
            | Int::RemU
            | Int::RemS
            | Int::MinReluS
            | Int::MaxReluS => any(width, &[a, b]),
        };
    all & mask
}

fn x32(op: X32, [a, b, c, e]: [Bits; 4]) -> u64 {
    let mask = ones(32);
    let [ua, ub, uc] = [a, b, c].map(|x| x.undefined as u32);
    let [va, vb, vc, ve] = [a, b, c, e].map(|x| x.value as u32);
    mask & match op {
        X32::Count(Count::Brev) => u64::from(ua.reverse_bits()),
        X32::Count(Count::Clz) => monotone(a, 32, |x| (x as u32).leading_zeros()),
        X32::Count(Count::Bfind { signed: false, .. }) => {
            monotone(a, 32, |x| (x as u32).leading_zeros())
        }
        X32::AbsDiff {
            bytes, add: false, ..
        } => parts(ua | ub, if bytes { 8 } else { 16 }),
        X32::Count(_) => any(32, &[a]),
        X32::Bfe { signed } => match ub | uc {
            0 => int::bfe(a.undefined, vb, vc, 32, signed),
            _ => mask,
        },
        X32::Bfi => match uc != 0 || !e.is_defined() {
            false => int::bfi(a.undefined, b.undefined, vc, ve, 32),
            true => mask,
        },
        X32::Lop3(table) => {
            // A bit is undefined if some value of the undefined sources changes it.
            let first = int::lop3(va, vb, vc, table);
            let changes = (1..8u32).fold(0, |changes, which| {
                let flip =
                    |bit: u32, undefined: u32| if which >> bit & 1 != 0 { undefined } else { 0 };
                let other = int::lop3(va ^ flip(0, ua), vb ^ flip(1, ub), vc ^ flip(2, uc), table);
                changes | first ^ other
            });
            u64::from(changes)
        }
        X32::Prmt(mode) => match uc {
            0 => u64::from(int::prmt(ua, ub, vc, mode)),
            _ => mask,
        },
        X32::ShfL { wrap } | X32::ShfR { wrap } => match uc {
            0 => u64::from(int::shf(ua, ub, vc, matches!(op, X32::ShfL { .. }), wrap)),
            _ => mask,
        },
        X32::Halves(HalvesOp::Add) => halves(ua | ub, |half| upward(half) & 0xffff),
        X32::Halves(_) => halves(ua | ub, |half| if half != 0 { 0xffff } else { 0 }),
        X32::Szext { .. } | X32::Bmsk { .. } | X32::Mul24 { .. } | X32::AddSat | X32::SubSat => {
            any(32, &[a, b])
        }
        X32::Mad24 { .. }
        | X32::AbsDiff { .. }
        | X32::Pack(_)
        | X32::MadHiSat
        | X32::Fns
        | X32::Dp4a { .. }
        | X32::Dp2a { .. } => any(32, &[a, b, c]),
    }
}

/// Each part of a word by itself, all of it undefined or nothing.
fn parts(undefined: u32, bits: u32) -> u64 {
    let part = ones(bits);
    let shifts = (0..32).step_by(bits as usize);
    shifts
        .map(|shift| part << shift)
        .filter(|part| u64::from(undefined) & part != 0)
        .sum()
}

/// Each half of a word by itself.
fn halves(undefined: u32, f: impl Fn(u64) -> u64) -> u64 {
    f(u64::from(undefined & 0xffff)) | f(u64::from(undefined >> 16)) << 16
}

/// Whether the result of a comparison is undefined.
fn comparison(cmp: Cmp, ty: CmpType, a: Bits, b: Bits) -> bool {
    let (width, signed) = match ty {
        CmpType::U16 => (16, false),
        CmpType::S16 => (16, true),
        CmpType::U32 => (32, false),
        CmpType::S32 => (32, true),
        CmpType::U64 => (64, false),
        CmpType::S64 => (64, true),
        CmpType::F16 | CmpType::Bf16 => return any(16, &[a.low(16), b.low(16)]) != 0,
        _ => return any(1, &[a, b]) != 0,
    };
    let (a, b) = (a.low(width), b.low(width));
    if a.is_defined() && b.is_defined() {
        return false;
    }
    let (a_least, a_most) = a.range(width, signed);
    let (b_least, b_most) = b.range(width, signed);
    let decided = match cmp {
        // Defined bits that differ.
        Cmp::Eq | Cmp::Ne => (a.value ^ b.value) & !(a.undefined | b.undefined) != 0,
        Cmp::Lt | Cmp::Ge => a_most < b_least || a_least >= b_most,
        Cmp::Le | Cmp::Gt => a_most <= b_least || a_least > b_most,
        _ => false,
    };
    !decided
}

/// A comparison's result together with a predicate.
fn combined(unknown: bool, holds: bool, c: Bits, how: Combine) -> u64 {
    let mask = Bits {
        value: u64::from(holds),
        undefined: u64::from(unknown),
    };
    1 & match how {
        Combine::None => mask.undefined,
        Combine::And => and(mask, c),
        Combine::Or => or(mask, c),
        Combine::Xor => mask.undefined | c.undefined,
    }
}

/// Bits of a conversion's destination register.
fn destination(flags: u8) -> u32 {
    match (flags & CVT_DST64 != 0, flags & CVT_DST32 != 0) {
        (true, _) => 64,
        (_, true) => 32,
        _ => 16,
    }
}

/// Which bits of the two results of an operation are undefined.
pub(super) fn results(op: Op, sources: [Bits; 4]) -> [u64; 2] {
    let [a, b, c, _] = sources;
    let three = [a, b, c];
    let one = |undefined: u64| [undefined, 0];
    match op {
        Op::Mov32 | Op::Mov64 | Op::Pred(PredOp::Mov | PredOp::Not) => one(a.undefined),
        Op::Pred(PredOp::And) => one(and(a, b)),
        Op::Pred(PredOp::Or) => one(or(a, b) & 1),
        Op::Pred(PredOp::Xor) => one(a.undefined | b.undefined),
        Op::I16(op) => one(integer(op, 16, three)),
        Op::I32(op) => one(integer(op, 32, three)),
        Op::I64(op) => one(integer(op, 64, three)),
        Op::Wide16(kind) | Op::Wide32(kind) => {
            let bits = if matches!(op, Op::Wide16(_)) { 32 } else { 64 };
            let product = product(a.low(bits / 2), b.low(bits / 2));
            let sum = match kind {
                Wide::MulU | Wide::MulS => product,
                Wide::MadU | Wide::MadS => upward(product | c.undefined),
            };
            one(sum & ones(bits))
        }
        Op::X32(op) => one(x32(op, sources)),
        Op::Shift64(shift) => {
            let op = match shift {
                Shift::Shl => Int::Shl,
                Shift::ShrU => Int::ShrU,
                Shift::ShrS => Int::ShrS,
            };
            one(integer(op, 64, three))
        }
        Op::Count64(Count::Brev) => one(a.undefined.reverse_bits()),
        Op::Count64(Count::Clz | Count::Bfind { signed: false, .. }) => {
            one(monotone(a, 64, u64::leading_zeros))
        }
        Op::Count64(_) => one(any(32, &[a])),
        Op::Bfe64 { signed } => one(match b.is_defined() && c.is_defined() {
            true => int::bfe(a.undefined, b.value as u32, c.value as u32, 64, signed),
            false => !0,
        }),
        Op::Bfi64 => {
            let e = sources[3];
            one(match c.is_defined() && e.is_defined() {
                true => int::bfi(a.undefined, b.undefined, c.value as u32, e.value as u32, 64),
                false => !0,
            })
        }
        Op::Carry32(carry) | Op::Carry64(carry) => {
            let bits = if matches!(op, Op::Carry32(_)) { 32 } else { 64 };
            let sum = match carry.kind {
                CarryKind::Add | CarryKind::Sub => upward(a.undefined | b.undefined),
                CarryKind::MadLo => upward(product(a, b) | c.undefined),
                CarryKind::MadHiU | CarryKind::MadHiS => any(bits, &three),
            };
            one(sum & ones(bits))
        }
        Op::F32(op @ (F32Op::Neg | F32Op::Abs), mode) => {
            one(sign(a, 32, 0x7f80_0000, op == F32Op::Abs, mode.ftz))
        }

        Op::F32(..) => one(any(32, &three)),
        Op::F64(op @ (F64Op::Neg | F64Op::Abs), _) => {
            one(sign(a, 64, 0x7ff << 52, op == F64Op::Abs, false))
        }
        Op::F64(..) => one(any(64, &three)),
        Op::Half(op, ty, mode) => {
            let exponent = if ty.bf16 { 0x7f80 } else { 0x7c00 };
            let half = |shift: u32| {
                let part = |x: Bits| Bits {
                    value: x.value >> shift,
                    undefined: x.undefined >> shift,
                };
                let [a, b, c] = three.map(|x| part(x).low(16));
                match op {
                    HalfOp::Neg | HalfOp::Abs => sign(a, 16, exponent, op == HalfOp::Abs, mode.ftz),
                    _ => any(16, &[a, b, c]),
                }
            };
            one(half(0) | if ty.packed { half(16) << 16 } else { 0 })
        }
        Op::Testp32(_) | Op::Testp64(_) => one(any(1, &[a])),
        Op::Setp(cmp, ty, how) => {
            let high = |x: Bits| Bits {
                value: x.value >> 16,
                undefined: x.undefined >> 16,
            };
            let result = |a: Bits, b: Bits, negated: bool| {
                let unknown = comparison(cmp, ty, a, b);
                let holds = !unknown && holds(cmp, ty, a, b);
                combined(unknown, holds != negated, c, how)
            };
            if matches!(ty, CmpType::F16x2 | CmpType::Bf16x2) {
                return [
                    result(a.low(16), b.low(16), false),
                    result(high(a), high(b), false),
                ];
            }
            [result(a, b, false), result(a, b, true)]
        }
        Op::Set(cmp, ty, how, result) => {
            let packed = matches!(ty, CmpType::F16x2 | CmpType::Bf16x2);
            let unknown = comparison(cmp, ty, a, b);
            let unknown = match packed {
                true => unknown || !c.is_defined(),
                false => combined(unknown, !unknown && holds(cmp, ty, a, b), c, how) != 0,
            };
            let bits = match result {
                SetResult::F16 | SetResult::Bf16 | SetResult::Mask16 => 16,
                _ => 32,
            };
            one(if unknown { ones(bits) } else { 0 })
        }
        Op::Selp32 | Op::Selp64 => one(select(c.value & 1 != 0, c.undefined & 1 != 0, a, b)),
        Op::Slct32(by) | Op::Slct64(by) => {
            let negative = c.value as u32 as i32;
            let (first, unknown) = match by {
                SlctBy::S32 => (negative >= 0, c.undefined >> 31 & 1 != 0),
                SlctBy::F32 { ftz } => {
                    let x = f32::from_bits(c.value as u32);
                    let x = if ftz { f32s::ftz(x) } else { x };
                    (x >= 0.0, !c.is_defined())
                }
            };
            one(select(first, unknown, a, b))
        }
        Op::Cvt(cvt) if packs(cvt) => {
            let bits = if matches!(cvt.dst, Type::F16x2 | Type::BF16x2) {
                16
            } else {
                8
            };
            one(any(bits, &[a]) << bits | any(bits, &[b]))
        }
        Op::Cvt(cvt) => one(any(destination(cvt.flags), &[a.low(8 * cvt.src.size())])),
        Op::CvtInt(cvt) => {
            let register = ones(destination(cvt.flags));
            let undefined = a.low(u32::from(cvt.src.bits)).undefined;
            if cvt.sat && undefined != 0 {
                return one(register);
            }
            let bits = u32::from(cvt.src.bits.min(cvt.dst.bits));
            // To the narrower type, then extended by whoever extends.
            let signed = match cvt.src.bits < cvt.dst.bits {
                true => cvt.src.signed,
                false => cvt.dst.signed,
            };
            let low = undefined & ones(bits);
            let wide = match signed {
                true => ((low << (64 - bits)) as i64 >> (64 - bits)) as u64,
                false => low,
            };
            one(wide & register)
        }
        Op::Pack64 => one(a.undefined & ones(32) | b.undefined << 32),
        Op::Unpack64 => [a.undefined & ones(32), a.undefined >> 32],
        Op::Pack32 => one(a.undefined & 0xffff | b.undefined << 16 & ones(32)),
        Op::Unpack32 => [a.undefined & 0xffff, a.undefined >> 16],
        Op::Special(_)
        | Op::LocalAddress
        | Op::Ld(_)
        | Op::St(_)
        | Op::Bra(_)
        | Op::Ret
        | Op::Exit
        | Op::Slow(_) => [0, 0],
    }
}

/// Whether a comparison of values that are defined, or that the defined bits decide, holds.
fn holds(cmp: Cmp, ty: CmpType, a: Bits, b: Bits) -> bool {
    let integers = |width, signed| {
        let number = |x: Bits| Bits { undefined: 0, ..x }.range(width, signed).0;
        Some(number(a).cmp(&number(b)))
    };
    let single = |x: Bits| f32::from_bits(x.value as u32);
    let order = match ty {
        CmpType::U16 => integers(16, false),
        CmpType::S16 => integers(16, true),
        CmpType::U32 => integers(32, false),
        CmpType::S32 => integers(32, true),
        CmpType::U64 => integers(64, false),
        CmpType::S64 => integers(64, true),
        CmpType::F16 | CmpType::F16x2 => {
            let half = |x: Bits| F16::to_f32(x.value as u16);
            half(a).partial_cmp(&half(b))
        }
        CmpType::Bf16 | CmpType::Bf16x2 => {
            let half = |x: Bits| Bf16::to_f32(x.value as u16);
            half(a).partial_cmp(&half(b))
        }
        CmpType::F32 { ftz: false } => single(a).partial_cmp(&single(b)),
        CmpType::F32 { ftz: true } => f32s::ftz(single(a)).partial_cmp(&f32s::ftz(single(b))),
        CmpType::F64 => f64::from_bits(a.value).partial_cmp(&f64::from_bits(b.value)),
    };
    let mut relations = [0; 3];
    if let Some(order) = order {
        relations[(order as i8 + 1) as usize] = 1;
    }
    alu::holds(cmp, relations) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::arithmetic;
    use crate::exec::registers::{Lanes32, Lanes64, Regs};
    use crate::lower::operands::{File, operands};
    use crate::numeric::Rounding;
    use crate::numeric::int::Permute;
    use crate::numeric::testing::Numbers;

    /// Operations of every rule.
    fn all_operations() -> Vec<Op> {
        let mut ops = vec![Op::Mov32, Op::Mov64, Op::Bfi64, Op::Pack64, Op::Pack32];
        ops.extend([Op::Unpack32, Op::Unpack64, Op::Selp32, Op::Selp64]);
        use Int::*;
        for op in [
            Add, Sub, MulLo, MulHiU, MulHiS, MadLo, MadHiU, MadHiS, DivU, DivS, RemU, RemS, MinU,
            MinS, MaxU, MaxS, MinReluS, MaxReluS, AbsS, Neg, SadU, SadS, And, Or, Xor, Not, Cnot,
        ] {
            ops.extend([Op::I16(op), Op::I32(op), Op::I64(op)]);
        }
        for op in [Shl, ShrU, ShrS] {
            ops.extend([Op::I16(op), Op::I32(op)]);
        }
        ops.extend([Shift::Shl, Shift::ShrU, Shift::ShrS].map(Op::Shift64));
        for kind in [Wide::MulU, Wide::MulS, Wide::MadU, Wide::MadS] {
            ops.extend([Op::Wide16(kind), Op::Wide32(kind)]);
        }
        let bfind = Count::Bfind {
            signed: true,
            shift: false,
        };
        for count in [Count::Popc, Count::Clz, Count::Brev, bfind] {
            ops.extend([Op::Count64(count), Op::X32(X32::Count(count))]);
        }
        for signed in [false, true] {
            ops.extend([Op::Bfe64 { signed }, Op::X32(X32::Bfe { signed })]);
        }
        ops.extend([X32::Bfi, X32::AddSat, X32::SubSat, X32::MadHiSat, X32::Fns].map(Op::X32));
        ops.extend([0x80, 0xfe, 0x96, 0xca, 0x1b, 0xe8].map(|t| Op::X32(X32::Lop3(t))));
        ops.extend(
            [Permute::Generic, Permute::Forward4, Permute::Replicate16]
                .map(|p| Op::X32(X32::Prmt(p))),
        );
        for wrap in [false, true] {
            ops.extend([X32::ShfL { wrap }, X32::ShfR { wrap }, X32::Bmsk { wrap }].map(Op::X32));
            ops.push(Op::X32(X32::Szext { signed: wrap, wrap }));
        }
        let relu = HalvesOp::MinS { relu: true };
        ops.extend([HalvesOp::Add, HalvesOp::MaxU, relu].map(|op| Op::X32(X32::Halves(op))));
        let near = FloatMode {
            rounding: Rounding::Near,
            ftz: false,
            sat: false,
        };
        for op in [
            F32Op::Add,
            F32Op::Mul,
            F32Op::Fma,
            F32Op::Abs,
            F32Op::Neg,
            F32Op::Copysign,
        ] {
            ops.push(Op::F32(op, near));
        }
        let ftz = FloatMode { ftz: true, ..near };
        ops.extend([F32Op::Abs, F32Op::Neg, F32Op::Mul].map(|op| Op::F32(op, ftz)));
        for op in [F64Op::Add, F64Op::Fma, F64Op::Abs, F64Op::Neg] {
            ops.push(Op::F64(op, Rounding::Near));
        }
        for packed in [false, true] {
            let (ty, mode) = (
                HalfType {
                    bf16: packed,
                    packed,
                },
                HalfMode {
                    ftz: false,
                    sat: false,
                    relu: false,
                },
            );
            for op in [HalfOp::Add, HalfOp::Fma, HalfOp::Abs, HalfOp::Neg] {
                ops.push(Op::Half(op, ty, mode));
            }
        }
        use CmpType as T;
        for ty in [
            T::U16,
            T::S16,
            T::U32,
            T::S32,
            T::U64,
            T::S64,
            T::F16,
            T::F16x2,
            T::F32 { ftz: false },
            T::F64,
        ] {
            for cmp in [Cmp::Eq, Cmp::Ne, Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge] {
                for how in [Combine::None, Combine::And, Combine::Or, Combine::Xor] {
                    ops.extend([
                        Op::Setp(cmp, ty, how),
                        Op::Set(cmp, ty, how, SetResult::Mask),
                    ]);
                }
            }
        }
        for by in [
            SlctBy::S32,
            SlctBy::F32 { ftz: false },
            SlctBy::F32 { ftz: true },
        ] {
            ops.extend([Op::Slct32(by), Op::Slct64(by)]);
        }
        ops.extend(
            [
                PredOp::Mov,
                PredOp::And,
                PredOp::Or,
                PredOp::Xor,
                PredOp::Not,
            ]
            .map(Op::Pred),
        );
        ops.extend([Testp::Finite, Testp::Subnormal].map(Op::Testp32));
        let cvt = |dst, src, flags| {
            let rounding = CvtRounding::Near;
            Op::Cvt(Cvt {
                dst,
                src,
                rounding,
                flags,
            })
        };
        ops.push(cvt(Type::BF16x2, Type::F32, CVT_DST32));
        ops.push(cvt(Type::F16x2, Type::F32, CVT_DST32));
        ops.push(cvt(Type::F16, Type::F32, 0));
        ops.push(cvt(Type::F32, Type::F16, CVT_DST32));
        ops.push(cvt(Type::F64, Type::F32, CVT_DST64));
        ops.push(cvt(Type::F32, Type::U8, CVT_DST32));
        ops.push(cvt(Type::F32, Type::S16, CVT_DST32));
        for bytes in [false, true] {
            for add in [false, true] {
                let signed = bytes;
                ops.push(Op::X32(X32::AbsDiff { bytes, signed, add }));
            }
        }
        let products = [
            X32::Dp4a {
                a_signed: true,
                b_signed: false,
            },
            X32::Mul24 {
                signed: true,
                high: false,
            },
            X32::Pack(IntType {
                bits: 8,
                signed: true,
            }),
        ];
        ops.extend(products.map(Op::X32));
        for (src, from64) in [(8, false), (16, false), (32, false), (64, true)] {
            for (dst, flags) in [
                (8, 0),
                (16, 0),
                (8, CVT_DST32),
                (32, CVT_DST32),
                (64, CVT_DST64),
            ] {
                for (a, b, sat) in [
                    (true, true, false),
                    (false, true, false),
                    (true, false, false),
                    (true, false, true),
                ] {
                    ops.push(Op::CvtInt(CvtInt {
                        src: IntType {
                            bits: src,
                            signed: a,
                        },
                        dst: IntType {
                            bits: dst,
                            signed: b,
                        },
                        sat,
                        flags: flags | if from64 { CVT_SRC64 } else { 0 },
                    }));
                }
            }
        }
        ops
    }

    /// Rules that are exact, and not only on the safe side.
    fn is_exact(op: Op) -> bool {
        use Int::{And, Not, Or, Shl, ShrS, ShrU, Xor};
        match op {
            Op::I16(op) | Op::I32(op) | Op::I64(op) => {
                matches!(op, And | Or | Xor | Not | Shl | ShrU | ShrS)
            }
            Op::X32(
                X32::Lop3(_)
                | X32::Bfi
                | X32::Bfe { .. }
                | X32::Prmt(_)
                | X32::ShfL { .. }
                | X32::ShfR { .. },
            ) => true,
            Op::Mov32
            | Op::Mov64
            | Op::Shift64(_)
            | Op::Pack32
            | Op::Pack64
            | Op::Unpack32
            | Op::Unpack64 => true,
            Op::Bfi64 | Op::Bfe64 { .. } | Op::Selp32 | Op::Selp64 => true,
            Op::Setp(Cmp::Eq | Cmp::Ne | Cmp::Lt, CmpType::U32 | CmpType::S64, Combine::None) => {
                true
            }
            Op::CvtInt(cvt) => !cvt.sat,
            _ => false,
        }
    }

    /// Every value of up to five undefined bits is tried, one a lane: a result's bit that differs between lanes must be undefined by
    /// the rules; and where they are exact, one that does not differ must not be. Amounts of shifts are small, or they hide everything.
    #[test]
    fn a_bit_that_depends_on_an_undefined_one_is_undefined() {
        let mut numbers = Numbers::new(77);
        let mut exact = 0;
        for op in all_operations() {
            for trial in 0..300 {
                let inst = Inst {
                    op,
                    guard: 0,
                    d: 4,
                    a: 0,
                    b: 1,
                    c: 2,
                    e: 3,
                };
                let pairs = matches!(op, Op::Setp(..) | Op::Unpack32 | Op::Unpack64);
                let inst = Inst {
                    e: if pairs { 5 } else { 3 },
                    ..inst
                };
                // Predicate references are twice the slot.
                let reference = |file, slot: u32| {
                    if file == File::Reference {
                        slot << 1
                    } else {
                        slot
                    }
                };
                let kinds = operands(&Instructions::default(), &inst);
                let files = [
                    kinds.a,
                    kinds.b,
                    kinds.c,
                    if pairs { File::Absent } else { kinds.e },
                ];
                let inst = Inst {
                    a: reference(kinds.a, inst.a),
                    b: reference(kinds.b, inst.b),
                    c: reference(kinds.c, inst.c),
                    ..inst
                };
                let width = |file| match file {
                    File::R64 => 64,
                    File::R32 if matches!(op, Op::I16(_)) => 16,
                    File::R32 => 32,
                    File::Absent => 0,
                    File::Pred | File::Reference => 1,
                };
                let mut sources = [Bits::default(); 4];
                let mut bits = Vec::new();
                for (i, file) in files.into_iter().enumerate() {
                    let width = width(file);
                    if width == 0 {
                        continue;
                    }
                    let small = i > 0 && file == File::R32 && numbers.below(3) != 0;
                    let value = if small {
                        numbers.below(40)
                    } else {
                        numbers.bits()
                    };
                    sources[i].value = value & ones(width);
                    for _ in 0..numbers.below(3) {
                        bits.push((i, numbers.below(u64::from(width)) as u32));
                    }
                }
                bits.sort_unstable();
                bits.dedup();
                bits.truncate(5);
                for &(i, bit) in &bits {
                    sources[i].undefined |= 1 << bit;
                }
                let mut r32 = vec![Lanes32::ZERO; 8];
                let mut r64 = vec![Lanes64::ZERO; 8];
                let mut preds = vec![0u32; 8];
                for (i, file) in files.into_iter().enumerate() {
                    for l in 0..32 {
                        let mut value = sources[i].value;
                        for (n, &(j, bit)) in bits.iter().enumerate() {
                            if i == j && l >> n & 1 != 0 {
                                value ^= 1 << bit;
                            }
                        }
                        match file {
                            File::R32 => r32[i].0[l] = value as u32,
                            File::R64 => r64[i].0[l] = value,
                            File::Absent => {}
                            File::Pred | File::Reference => preds[i] |= (value as u32 & 1) << l,
                        }
                    }
                }
                let r = Regs {
                    r32: r32.as_mut_ptr(),
                    r64: r64.as_mut_ptr(),
                    preds: preds.as_mut_ptr(),
                };
                // SAFETY: slots 0 to 5 of eight.
                unsafe {
                    if !alu::execute(r, &inst, !0) {
                        arithmetic::execute(r, &inst, !0, &mut 0, None);
                    }
                }
                let result = |file, slot: usize, l: usize| match file {
                    File::R64 => r64[slot].0[l],
                    File::R32 => u64::from(r32[slot].0[l]),
                    _ => u64::from(preds[slot] >> l & 1),
                };
                let known = results(op, sources);
                let both = [(kinds.d, 4, known[0]), (kinds.e, 5, known[1])];
                for (file, slot, undefined) in both.into_iter().take(1 + usize::from(pairs)) {
                    let changes =
                        (0..32).fold(0, |c, l| c | result(file, slot, 0) ^ result(file, slot, l));
                    assert_eq!(
                        changes & !undefined,
                        0,
                        "{op:?} trial {trial} of {sources:x?}: {changes:x} changes, {undefined:x} is undefined"
                    );
                    if is_exact(op)
                        && bits.iter().all(|&(i, _)| {
                            i == 0
                                || !matches!(
                                    op,
                                    Op::X32(_)
                                        | Op::Shift64(_)
                                        | Op::I16(Int::Shl | Int::ShrU | Int::ShrS)
                                        | Op::I32(Int::Shl | Int::ShrU | Int::ShrS)
                                        | Op::Bfe64 { .. }
                                        | Op::Bfi64
                                )
                        })
                    {
                        exact += u32::from(changes != 0);
                        assert_eq!(changes, undefined, "{op:?} trial {trial} of {sources:x?}");
                    }
                }
            }
        }
        assert!(
            exact > 10_000,
            "{exact} results with undefined bits were compared"
        );
    }
}
