//! Integer, float and bit arithmetic.

use super::function::{FunctionLowering, Result};
use super::op::*;
use super::words::Words;
use crate::ptx::ast::{Immediate, Operand, Type};

fn is_int(ty: Type) -> bool {
    use Type::*;
    matches!(ty, U16 | S16 | U32 | S32 | U64 | S64)
}

fn is_signed(ty: Type) -> bool {
    matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64)
}

pub(crate) fn half_type(ty: Type) -> Option<HalfType> {
    let (bf16, packed) = match ty {
        Type::F16 => (false, false),
        Type::F16x2 => (false, true),
        Type::BF16 => (true, false),
        Type::BF16x2 => (true, true),
        _ => return None,
    };
    Some(HalfType { bf16, packed })
}

fn int_op(op: Int, ty: Type) -> Op {
    match ty.size() {
        2 => Op::I16(op),
        4 => Op::I32(op),
        _ => Op::I64(op),
    }
}

/// The forms of an operation in the three families of floats.
struct FloatOps {
    single: F32Op,
    double: F64Op,
    half: HalfOp,
    sources: usize,
}

impl FunctionLowering<'_, '_> {
    /// Emits an operation whose destination and sources all have one type.
    fn same(&mut self, words: &Words<'_>, op: Op, ty: Type, sources: usize) -> Result<()> {
        let o = Self::operands(words, sources + 1..=sources + 1)?;
        let mut slots = [0; 4];
        for (slot, operand) in slots.iter_mut().zip(&o[1..]) {
            *slot = self.src(operand, ty, words)?;
        }
        let d = self.dst(&o[0], ty, words)?;
        self.emit(op, d, slots);
        Ok(())
    }

    /// add, sub, mul, fma on floats of any kind.
    fn float_arithmetic(&mut self, words: &mut Words<'_>, ty: Type, ops: FloatOps) -> Result<()> {
        let rounding = words.rounding();
        if rounding.is_none() && ops.sources == 3 {
            return Err(words.error("a rounding modifier is needed"));
        }
        let rounding = rounding.unwrap_or(Rounding::Near);
        let (ftz, sat, relu) = (words.flag("ftz"), words.flag("sat"), words.flag("relu"));
        let op = if let Some(half) = half_type(ty) {
            if rounding != Rounding::Near {
                return Err(words.error("16-bit floats round to nearest only"));
            }
            if half.bf16 && (ftz || sat) || relu && (ops.sources != 3 || sat) {
                return Err(words.error("these modifiers do not go together"));
            }
            Op::Half(ops.half, half, HalfMode { ftz, sat, relu })
        } else if relu {
            return Err(words.error(".relu is for 16-bit floats"));
        } else if ty == Type::F32 {
            Op::F32(ops.single, FloatMode { rounding, ftz, sat })
        } else if ty == Type::F64 && !ftz && !sat {
            Op::F64(ops.double, rounding)
        } else {
            return Err(words.error("this type is not implemented here"));
        };
        self.same(words, op, ty, ops.sources)
    }

    pub(crate) fn add_sub(&mut self, words: &mut Words<'_>, sub: bool) -> Result<()> {
        let ty = words.one_type()?;
        if words.flag("cc") {
            let kind = if sub { CarryKind::Sub } else { CarryKind::Add };
            return self.carry(
                words,
                ty,
                Carry {
                    kind,
                    take: false,
                    set: true,
                },
                2,
            );
        }
        if matches!(ty, Type::U16x2 | Type::S16x2) {
            if sub {
                return Err(words.error("sub has no packed integers"));
            }
            return self.same(words, Op::X32(X32::Halves(HalvesOp::Add)), ty, 2);
        }
        if is_int(ty) {
            if words.flag("sat") {
                if ty != Type::S32 {
                    return Err(words.error(".sat is for s32"));
                }
                let op = if sub { X32::SubSat } else { X32::AddSat };
                return self.same(words, Op::X32(op), ty, 2);
            }
            let op = if sub { Int::Sub } else { Int::Add };
            return self.same(words, int_op(op, ty), ty, 2);
        }
        let ops = match sub {
            false => FloatOps {
                single: F32Op::Add,
                double: F64Op::Add,
                half: HalfOp::Add,
                sources: 2,
            },
            true => FloatOps {
                single: F32Op::Sub,
                double: F64Op::Sub,
                half: HalfOp::Sub,
                sources: 2,
            },
        };
        self.float_arithmetic(words, ty, ops)
    }

    fn carry(&mut self, words: &Words<'_>, ty: Type, carry: Carry, sources: usize) -> Result<()> {
        let op = match ty {
            Type::U32 | Type::S32 | Type::B32 => Op::Carry32(carry),
            Type::U64 | Type::S64 | Type::B64 => Op::Carry64(carry),
            _ => return Err(words.error("carries are for 32 and 64 bits")),
        };
        self.same(words, op, ty, sources)
    }

    /// addc, subc.
    pub(crate) fn addc(&mut self, words: &mut Words<'_>, kind: CarryKind) -> Result<()> {
        let ty = words.one_type()?;
        let set = words.flag("cc");
        self.carry(
            words,
            ty,
            Carry {
                kind,
                take: true,
                set,
            },
            2,
        )
    }

    /// mul and mad (with `accumulate`), also madc (`take`).
    pub(crate) fn mul_mad(
        &mut self,
        words: &mut Words<'_>,
        accumulate: bool,
        take: bool,
    ) -> Result<()> {
        let ty = words.one_type()?;
        let sources = 2 + usize::from(accumulate);
        if !is_int(ty) {
            if accumulate {
                return self.fma_of(words, ty);
            }
            let ops = FloatOps {
                single: F32Op::Mul,
                double: F64Op::Mul,
                half: HalfOp::Mul,
                sources,
            };
            return self.float_arithmetic(words, ty, ops);
        }
        let signed = is_signed(ty);
        let part = words.one_of(&[("lo", 'l'), ("hi", 'h'), ("wide", 'w')]);
        let Some(part) = part else {
            return Err(words.error(".lo, .hi or .wide is needed"));
        };
        let set = accumulate && words.flag("cc");
        if set || take {
            let kind = match (part, signed) {
                ('l', _) => CarryKind::MadLo,
                ('h', false) => CarryKind::MadHiU,
                ('h', true) => CarryKind::MadHiS,
                _ => return Err(words.error(".wide has no carry")),
            };
            return self.carry(words, ty, Carry { kind, take, set }, 3);
        }
        if part == 'h' && accumulate && words.flag("sat") {
            if ty != Type::S32 {
                return Err(words.error(".sat is for s32"));
            }
            return self.same(words, Op::X32(X32::MadHiSat), ty, 3);
        }
        let op = match (part, accumulate, signed) {
            ('l', false, _) => Int::MulLo,
            ('l', true, _) => Int::MadLo,
            ('h', false, false) => Int::MulHiU,
            ('h', false, true) => Int::MulHiS,
            ('h', true, false) => Int::MadHiU,
            ('h', true, true) => Int::MadHiS,
            (_, accumulate, signed) => {
                let kind = match (accumulate, signed) {
                    (false, false) => Wide::MulU,
                    (false, true) => Wide::MulS,
                    (true, false) => Wide::MadU,
                    (true, true) => Wide::MadS,
                };
                let (op, wide) = match ty.size() {
                    2 => (Op::Wide16(kind), Type::B32),
                    4 => (Op::Wide32(kind), Type::B64),
                    _ => return Err(words.error(".wide is for 16 and 32 bits")),
                };
                let o = Self::operands(words, sources + 1..=sources + 1)?;
                let a = self.src(&o[1], ty, words)?;
                let b = self.src(&o[2], ty, words)?;
                let c = if accumulate {
                    self.src(&o[3], wide, words)?
                } else {
                    0
                };
                let d = self.dst(&o[0], wide, words)?;
                self.emit(op, d, [a, b, c, 0]);
                return Ok(());
            }
        };
        self.same(words, int_op(op, ty), ty, sources)
    }

    pub(crate) fn mul24(&mut self, words: &mut Words<'_>, accumulate: bool) -> Result<()> {
        let ty = words.one_type()?;
        let high = words.one_of(&[("lo", false), ("hi", true)]);
        let (Some(high), Type::U32 | Type::S32) = (high, ty) else {
            return Err(words.error(".lo or .hi, and u32 or s32, are needed"));
        };
        let signed = is_signed(ty);
        if accumulate {
            return self.same(words, Op::X32(X32::Mad24 { signed, high }), ty, 3);
        }
        self.same(words, Op::X32(X32::Mul24 { signed, high }), ty, 2)
    }

    pub(crate) fn fma(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        self.fma_of(words, ty)
    }

    fn fma_of(&mut self, words: &mut Words<'_>, ty: Type) -> Result<()> {
        let ops = FloatOps {
            single: F32Op::Fma,
            double: F64Op::Fma,
            half: HalfOp::Fma,
            sources: 3,
        };
        self.float_arithmetic(words, ty, ops)
    }

    pub(crate) fn div_rem(&mut self, words: &mut Words<'_>, rem: bool) -> Result<()> {
        let ty = words.one_type()?;
        if is_int(ty) {
            let op = match (rem, is_signed(ty)) {
                (false, false) => Int::DivU,
                (false, true) => Int::DivS,
                (true, false) => Int::RemU,
                (true, true) => Int::RemS,
            };
            return self.same(words, int_op(op, ty), ty, 2);
        }
        if rem {
            return Err(words.error("rem is for integers"));
        }
        let approx = words.one_of(&[("approx", F32Op::DivApprox), ("full", F32Op::DivFull)]);
        self.rounded_or_approx(words, ty, approx, (F32Op::Div, Some(F64Op::Div)), 2)
    }

    /// Division and its kin: `.approx` on f32, or correctly rounded on f32 and f64.
    fn rounded_or_approx(
        &mut self,
        words: &mut Words<'_>,
        ty: Type,
        approx: Option<F32Op>,
        (single, double): (F32Op, Option<F64Op>),
        sources: usize,
    ) -> Result<()> {
        let rounding = words.rounding();
        let ftz = words.flag("ftz");
        let op = match (ty, approx, rounding, double) {
            (Type::F32, Some(op), None, _) => Op::F32(op, FloatMode::nearest(ftz)),
            (Type::F32, None, Some(rounding), _) => Op::F32(
                single,
                FloatMode {
                    rounding,
                    ftz,
                    sat: false,
                },
            ),
            (Type::F64, None, Some(rounding), Some(double)) if !ftz => Op::F64(double, rounding),
            _ => {
                return Err(words.error("this combination of type and rounding is not implemented"));
            }
        };
        self.same(words, op, ty, sources)
    }

    pub(crate) fn rcp(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let approx = words.flag("approx");
        if ty == Type::F64 && approx {
            if !words.flag("ftz") {
                return Err(words.error("rcp.approx.f64 needs .ftz"));
            }
            return self.same(words, Op::F64(F64Op::RcpApproxFtz, Rounding::Near), ty, 1);
        }
        let approx = approx.then_some(F32Op::RcpApprox);
        self.rounded_or_approx(words, ty, approx, (F32Op::Rcp, Some(F64Op::Rcp)), 1)
    }

    pub(crate) fn sqrt(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let approx = words.flag("approx").then_some(F32Op::SqrtApprox);
        self.rounded_or_approx(words, ty, approx, (F32Op::Sqrt, Some(F64Op::Sqrt)), 1)
    }

    pub(crate) fn rsqrt(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        if !words.flag("approx") {
            return Err(words.error("rsqrt needs .approx"));
        }
        let ftz = words.flag("ftz");
        let op = match ty {
            Type::F32 => Op::F32(F32Op::RsqrtApprox, FloatMode::nearest(ftz)),
            Type::F64 => Op::F64(F64Op::RsqrtApprox { ftz }, Rounding::Near),
            _ => return Err(words.error("rsqrt is for f32 and f64")),
        };
        self.same(words, op, ty, 1)
    }

    /// ex2, lg2, sin, cos, tanh.
    pub(crate) fn approximate(
        &mut self,
        words: &mut Words<'_>,
        single: F32Op,
        half: Option<HalfOp>,
    ) -> Result<()> {
        let ty = words.one_type()?;
        if !words.flag("approx") {
            return Err(words.error(".approx is needed"));
        }
        let ftz = words.flag("ftz");
        let op = match (ty, half_type(ty), half) {
            (Type::F32, ..) => {
                if single == F32Op::Tanh && ftz {
                    return Err(words.error("tanh has no .ftz"));
                }
                Op::F32(single, FloatMode::nearest(ftz))
            }
            (_, Some(ty), Some(half)) => Op::Half(half, ty, HalfMode::plain(ftz)),
            _ => return Err(words.error("this type is not implemented here")),
        };
        self.same(words, op, ty, 1)
    }

    pub(crate) fn min_max(&mut self, words: &mut Words<'_>, max: bool) -> Result<()> {
        let ty = words.one_type()?;
        if matches!(ty, Type::U16x2 | Type::S16x2) {
            let relu = words.flag("relu");
            let op = match (max, ty) {
                (false, Type::S16x2) => HalvesOp::MinS { relu },
                (true, Type::S16x2) => HalvesOp::MaxS { relu },
                _ if relu => return Err(words.error(".relu is for signed halves")),
                (false, _) => HalvesOp::MinU,
                (true, _) => HalvesOp::MaxU,
            };
            return self.same(words, Op::X32(X32::Halves(op)), ty, 2);
        }
        if is_int(ty) {
            let relu = words.flag("relu");
            let op = match (max, is_signed(ty), relu) {
                (false, false, false) => Int::MinU,
                (false, true, false) => Int::MinS,
                (true, false, false) => Int::MaxU,
                (true, true, false) => Int::MaxS,
                (false, true, true) if ty == Type::S32 => Int::MinReluS,
                (true, true, true) if ty == Type::S32 => Int::MaxReluS,
                _ => return Err(words.error(".relu is for s32")),
            };
            return self.same(words, int_op(op, ty), ty, 2);
        }
        let ftz = words.flag("ftz");
        let nan = words.flag("NaN");
        let xorsign = words.flag("xorsign");
        let abs = words.flag("abs");
        if ty == Type::F32 && words.inst.operands.len() == 4 && !xorsign {
            return self.min_max_of_three(words, max, FloatMode::nearest(ftz), nan, abs);
        }
        if abs != xorsign {
            return Err(words.error(".xorsign and .abs go together"));
        }
        let op = match (ty, half_type(ty)) {
            (Type::F32, _) => {
                let mode = FloatMode::nearest(ftz);
                let op = match max {
                    false => F32Op::Min { nan, xorsign },
                    true => F32Op::Max { nan, xorsign },
                };
                Op::F32(op, mode)
            }
            (Type::F64, _) if !ftz && !nan && !xorsign => {
                Op::F64(if max { F64Op::Max } else { F64Op::Min }, Rounding::Near)
            }
            (_, Some(half)) => {
                let op = match max {
                    false => HalfOp::Min { nan, xorsign },
                    true => HalfOp::Max { nan, xorsign },
                };
                Op::Half(op, half, HalfMode::plain(ftz))
            }
            _ => return Err(words.error("this type is not implemented here")),
        };
        self.same(words, op, ty, 2)
    }

    /// `min` and `max` of three floats, with `.abs` of their magnitudes.
    fn min_max_of_three(
        &mut self,
        words: &Words<'_>,
        max: bool,
        mode: FloatMode,
        nan: bool,
        abs: bool,
    ) -> Result<()> {
        let sm = self.image.module.target.sm;
        if sm < 100 {
            return Err(words.error(format_args!(
                "{} of three floats needs .target sm_100 or newer, not sm_{sm}",
                words.inst.opcode
            )));
        }
        let o = Self::operands(words, 4..=4)?;
        let mut slots = [0; 3];
        for (slot, operand) in slots.iter_mut().zip(&o[1..]) {
            *slot = self.src32(operand, Type::F32, words)?;
            if abs {
                let magnitude = self.new32();
                self.emit(Op::F32(F32Op::Abs, mode), magnitude, [*slot, 0, 0, 0]);
                *slot = magnitude;
            }
        }
        let op = match max {
            false => F32Op::Min {
                nan,
                xorsign: false,
            },
            true => F32Op::Max {
                nan,
                xorsign: false,
            },
        };
        let d = self.dst(&o[0], Type::F32, words)?;
        let first = self.new32();
        self.emit(Op::F32(op, mode), first, [slots[0], slots[1], 0, 0]);
        self.emit(Op::F32(op, mode), d, [first, slots[2], 0, 0]);
        Ok(())
    }

    pub(crate) fn abs_neg(&mut self, words: &mut Words<'_>, neg: bool) -> Result<()> {
        let ty = words.one_type()?;
        let ftz = words.flag("ftz");
        let op = match (ty, half_type(ty)) {
            (Type::S16 | Type::S32 | Type::S64, _) if !ftz => {
                int_op(if neg { Int::Neg } else { Int::AbsS }, ty)
            }
            (Type::F32, _) => {
                let op = if neg { F32Op::Neg } else { F32Op::Abs };
                Op::F32(op, FloatMode::nearest(ftz))
            }
            (Type::F64, _) if !ftz => {
                Op::F64(if neg { F64Op::Neg } else { F64Op::Abs }, Rounding::Near)
            }
            (_, Some(half)) => {
                let op = if neg { HalfOp::Neg } else { HalfOp::Abs };
                Op::Half(op, half, HalfMode::plain(ftz))
            }
            _ => return Err(words.error("this type is not implemented here")),
        };
        self.same(words, op, ty, 1)
    }

    pub(crate) fn copysign(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let mode = FloatMode {
            rounding: Rounding::Near,
            ftz: false,
            sat: false,
        };
        let op = match ty {
            Type::F32 => Op::F32(F32Op::Copysign, mode),
            Type::F64 => Op::F64(F64Op::Copysign, Rounding::Near),
            _ => return Err(words.error("copysign is for f32 and f64")),
        };
        self.same(words, op, ty, 2)
    }

    pub(crate) fn sad(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        if !is_int(ty) {
            return Err(words.error("sad is for integers"));
        }
        let op = if is_signed(ty) { Int::SadS } else { Int::SadU };
        self.same(words, int_op(op, ty), ty, 3)
    }

    /// and, or, xor, not on bits and predicates; cnot.
    pub(crate) fn logic(
        &mut self,
        words: &mut Words<'_>,
        int: Int,
        pred: Option<PredOp>,
    ) -> Result<()> {
        let ty = words.one_type()?;
        let sources = if matches!(int, Int::Not | Int::Cnot) {
            1
        } else {
            2
        };
        match (ty, pred) {
            (Type::Pred, Some(op)) => {
                let o = Self::operands(words, sources + 1..=sources + 1)?;
                let a = self.pred(&o[1], words)?;
                let b = if sources == 2 {
                    self.pred(&o[2], words)?
                } else {
                    0
                };
                let d = self.dst_pred(&o[0], words)?;
                self.emit(Op::Pred(op), d, [a, b, 0, 0]);
                Ok(())
            }
            (Type::B16 | Type::B32 | Type::B64, _) => {
                self.same(words, int_op(int, ty), ty, sources)
            }
            _ => Err(words.error("a .b type was expected")),
        }
    }

    pub(crate) fn lop3(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        if ty != Type::B32 {
            return Err(words.error("lop3 is for b32"));
        }
        let combine = words.one_of(&[("or", PredOp::Or), ("and", PredOp::And)]);
        let o = Self::operands(words, if combine.is_some() { 6..=6 } else { 5..=5 })?;
        let Operand::Immediate(Immediate::Integer(lut @ 0..=255)) = o[4] else {
            return Err(words.error("lop3's table is an immediate from 0 to 255"));
        };
        let mut slots = [0; 4];
        for (slot, operand) in slots.iter_mut().zip(&o[1..4]) {
            *slot = self.src32(operand, ty, words)?;
        }
        let (d, p) = Self::split_pair(&o[0]);
        let d = self.dst(d, ty, words)?;
        self.emit(Op::X32(X32::Lop3(lut as u8)), d, slots);
        match (combine, p) {
            (None, None) => Ok(()),
            (Some(op), Some(p)) => {
                let q = self.pred(&o[5], words)?;
                let p = self.dst_pred(p, words)?;
                let zero = self.constant32(0);
                let t = self.new_pred();
                let cmp = Op::Setp(Cmp::Ne, CmpType::U32, Combine::None);
                self.emit(cmp, t, [d, zero, 0, NONE]);
                self.emit(Op::Pred(op), p, [t << 1, q, 0, 0]);
                Ok(())
            }
            _ => Err(words.error("lop3 with .or or .and has the destination d|p")),
        }
    }

    pub(crate) fn shift(&mut self, words: &mut Words<'_>, left: bool) -> Result<()> {
        let ty = words.one_type()?;
        use Type::*;
        let signed = match (left, ty) {
            (_, B16 | B32 | B64) | (false, U16 | U32 | U64) => false,
            (false, S16 | S32 | S64) => true,
            _ => return Err(words.error("this type is not implemented here")),
        };
        let o = Self::operands(words, 3..=3)?;
        let a = self.src(&o[1], ty, words)?;
        let b = self.src32(&o[2], U32, words)?;
        let d = self.dst(&o[0], ty, words)?;
        let op = match ty.size() {
            8 => Op::Shift64(match (left, signed) {
                (true, _) => Shift::Shl,
                (false, false) => Shift::ShrU,
                (false, true) => Shift::ShrS,
            }),
            _ => {
                let op = match (left, signed) {
                    (true, _) => Int::Shl,
                    (false, false) => Int::ShrU,
                    (false, true) => Int::ShrS,
                };
                int_op(op, ty)
            }
        };
        self.emit(op, d, [a, b, 0, 0]);
        Ok(())
    }

    pub(crate) fn funnel(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let left = words.one_of(&[("l", true), ("r", false)]);
        let wrap = words.one_of(&[("wrap", true), ("clamp", false)]);
        let (Some(left), Some(wrap), Type::B32) = (left, wrap, ty) else {
            return Err(words.error("shf has .l or .r, .wrap or .clamp, and .b32"));
        };
        let op = if left {
            X32::ShfL { wrap }
        } else {
            X32::ShfR { wrap }
        };
        self.same(words, Op::X32(op), ty, 3)
    }

    pub(crate) fn bfe(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let signed = is_signed(ty);
        if !matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64) {
            return Err(words.error("bfe is for 32 and 64 bits"));
        }
        let o = Self::operands(words, 4..=4)?;
        let a = self.src(&o[1], ty, words)?;
        let b = self.src32(&o[2], Type::U32, words)?;
        let c = self.src32(&o[3], Type::U32, words)?;
        let d = self.dst(&o[0], ty, words)?;
        let op = match ty.size() {
            4 => Op::X32(X32::Bfe { signed }),
            _ => Op::Bfe64 { signed },
        };
        self.emit(op, d, [a, b, c, 0]);
        Ok(())
    }

    pub(crate) fn bfi(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let op = match ty {
            Type::B32 => Op::X32(X32::Bfi),
            Type::B64 => Op::Bfi64,
            _ => return Err(words.error("bfi is for b32 and b64")),
        };
        let o = Self::operands(words, 5..=5)?;
        let a = self.src(&o[1], ty, words)?;
        let b = self.src(&o[2], ty, words)?;
        let c = self.src32(&o[3], Type::U32, words)?;
        let e = self.src32(&o[4], Type::U32, words)?;
        let d = self.dst(&o[0], ty, words)?;
        self.emit(op, d, [a, b, c, e]);
        Ok(())
    }

    /// popc, clz, bfind, brev.
    pub(crate) fn count(&mut self, words: &mut Words<'_>, count: Count) -> Result<()> {
        let ty = words.one_type()?;
        use Type::*;
        let count = match (count, ty) {
            (Count::Bfind { .. }, U32 | S32 | U64 | S64) => Count::Bfind {
                signed: is_signed(ty),
                shift: words.flag("shiftamt"),
            },
            (Count::Popc | Count::Clz | Count::Brev, B32 | B64) => count,
            _ => return Err(words.error("this type is not implemented here")),
        };
        let o = Self::operands(words, 2..=2)?;
        let a = self.src(&o[1], ty, words)?;
        let d = self.dst(&o[0], if count == Count::Brev { ty } else { U32 }, words)?;
        let op = match ty.size() {
            4 => Op::X32(X32::Count(count)),
            _ => Op::Count64(count),
        };
        self.emit(op, d, [a, 0, 0, 0]);
        Ok(())
    }

    pub(crate) fn prmt(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        if ty != Type::B32 {
            return Err(words.error("prmt is for b32"));
        }
        let mode = words.one_of(&[
            ("f4e", Permute::Forward4),
            ("b4e", Permute::Backward4),
            ("rc8", Permute::Replicate8),
            ("ecl", Permute::EdgeLeft),
            ("ecr", Permute::EdgeRight),
            ("rc16", Permute::Replicate16),
        ]);
        self.same(
            words,
            Op::X32(X32::Prmt(mode.unwrap_or(Permute::Generic))),
            ty,
            3,
        )
    }

    pub(crate) fn szext(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let wrap = words.one_of(&[("wrap", true), ("clamp", false)]);
        let (Some(wrap), Type::U32 | Type::S32) = (wrap, ty) else {
            return Err(words.error("szext has .wrap or .clamp, and u32 or s32"));
        };
        let signed = is_signed(ty);
        self.same(words, Op::X32(X32::Szext { signed, wrap }), ty, 2)
    }

    pub(crate) fn bmsk(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let wrap = words.one_of(&[("wrap", true), ("clamp", false)]);
        let (Some(wrap), Type::B32) = (wrap, ty) else {
            return Err(words.error("bmsk has .wrap or .clamp, and b32"));
        };
        self.same(words, Op::X32(X32::Bmsk { wrap }), ty, 2)
    }

    pub(crate) fn fns(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        if ty != Type::B32 {
            return Err(words.error("fns is for b32"));
        }
        self.same(words, Op::X32(X32::Fns), ty, 3)
    }

    /// dp4a, dp2a: types of a and b, result and addend 32 bits.
    pub(crate) fn dot(&mut self, words: &mut Words<'_>, four: bool) -> Result<()> {
        let types = words.types();
        let [a @ (Type::U32 | Type::S32), b @ (Type::U32 | Type::S32)] = types[..] else {
            return Err(words.error("two types of u32 or s32 were expected"));
        };
        let (a_signed, b_signed) = (is_signed(a), is_signed(b));
        let op = if four {
            X32::Dp4a { a_signed, b_signed }
        } else {
            let Some(high) = words.one_of(&[("lo", false), ("hi", true)]) else {
                return Err(words.error("dp2a has .lo or .hi"));
            };
            X32::Dp2a {
                a_signed,
                b_signed,
                high,
            }
        };
        self.same(words, Op::X32(op), Type::B32, 3)
    }

    /// vabsdiff2 and vabsdiff4 without masks and saturation.
    pub(crate) fn absolute_difference(&mut self, words: &mut Words<'_>, bytes: bool) -> Result<()> {
        let types = words.types();
        let [Type::U32 | Type::S32, a @ (Type::U32 | Type::S32), b] = types[..] else {
            return Err(words.error("three types of u32 or s32 were expected"));
        };
        if a != b {
            return Err(words.error("operands of different signs are not implemented"));
        }
        let add = words.flag("add");
        let op = X32::AbsDiff {
            bytes,
            signed: is_signed(a),
            add,
        };
        self.same(words, Op::X32(op), Type::B32, 3)
    }
}
