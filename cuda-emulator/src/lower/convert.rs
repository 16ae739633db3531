//! mov (with packing and unpacking), cvt, cvta, isspacep.

use super::function::{FunctionLowering, Result};
use super::op::*;
use super::words::Words;
use crate::ptx::ast::{Operand, Type};

impl FunctionLowering<'_, '_> {
    pub(crate) fn mov(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        if !matches!(ty, Type::Pred | Type::B128) {
            words.movable(ty)?;
        }
        let o = Self::operands(words, 2..=2)?;
        let discarded = match &o[0] {
            Operand::Vector(parts) => parts.iter().all(|p| *p == Operand::Sink),
            d => *d == Operand::Sink,
        };
        if discarded {
            return Err(words.error("mov cannot discard its whole result"));
        }
        match (&o[0], &o[1]) {
            (Operand::Vector(_), _) | (_, Operand::Vector(_))
                if !matches!(ty, Type::B16 | Type::B32 | Type::B64 | Type::B128) =>
            {
                Err(words
                    .error("parts are packed and unpacked by types without a sign (.b16 to .b128)"))
            }
            (d, Operand::Vector(parts)) => self.pack(d, parts, ty, words),
            (Operand::Vector(parts), a) => self.unpack(parts, a, ty, words),
            (d, Operand::Special(name)) => {
                let slot = self.dst(d, ty, words)?;
                let reg = if ty.size() == 8 {
                    Reg::R64(slot)
                } else {
                    Reg::R32(slot)
                };
                self.special(name, reg, ty, words)
            }
            (d, a) if ty == Type::Pred => {
                let a = self.pred(a, words)?;
                let d = self.dst_pred(d, words)?;
                self.emit(Op::Pred(PredOp::Mov), d, [a, 0, 0, 0]);
                Ok(())
            }
            (d, Operand::Register(id)) if ty == Type::B128 => {
                let (Reg::R64(a), Type::B128) = (self.reg(*id), self.reg_type(*id)) else {
                    return Err(words.error("a 128-bit register was expected"));
                };
                let d = self.dst(d, ty, words)?;
                self.emit(Op::Mov64, d, [a, 0, 0, 0]);
                self.emit(Op::Mov64, d + 1, [a + 1, 0, 0, 0]);
                Ok(())
            }
            (d, a) => {
                let a = self.src(a, ty, words)?;
                let d = self.dst(d, ty, words)?;
                let op = if ty.size() == 8 { Op::Mov64 } else { Op::Mov32 };
                self.emit(op, d, [a, 0, 0, 0]);
                Ok(())
            }
        }
    }

    fn pack(&mut self, d: &Operand, parts: &[Operand], ty: Type, words: &Words<'_>) -> Result<()> {
        let d = self.dst(d, ty, words)?;
        match (ty.size(), parts) {
            (2, [_, _]) | (4, [_, _, _, _]) => {
                let byte = Op::I32(Int::And);
                let first = self.src32(&parts[0], Type::B8, words)?;
                // A register of 8 bits may hold more; the result must not.
                let mut packed = self.new32();
                let mask = self.constant32(0xff);
                self.emit(byte, packed, [first, mask, 0, 0]);
                let width = self.constant32(8);
                for (i, part) in parts.iter().enumerate().skip(1) {
                    let part = self.src32(part, Type::B8, words)?;
                    let place = self.constant32(8 * i as u32);
                    let last = i + 1 == parts.len();
                    let to = if last { d } else { self.new32() };
                    self.emit(Op::X32(X32::Bfi), to, [part, packed, place, width]);
                    packed = to;
                }
            }
            (4, [lo, hi]) => {
                let a = self.src32(lo, Type::B16, words)?;
                let b = self.src32(hi, Type::B16, words)?;
                self.emit(Op::Pack32, d, [a, b, 0, 0]);
            }
            (8, [lo, hi]) => {
                let a = self.src32(lo, Type::B32, words)?;
                let b = self.src32(hi, Type::B32, words)?;
                self.emit(Op::Pack64, d, [a, b, 0, 0]);
            }
            (8, [p0, p1, p2, p3]) => {
                let mut half = [0; 2];
                for (h, (lo, hi)) in half.iter_mut().zip([(p0, p1), (p2, p3)]) {
                    let a = self.src32(lo, Type::B16, words)?;
                    let b = self.src32(hi, Type::B16, words)?;
                    *h = self.new32();
                    self.emit(Op::Pack32, *h, [a, b, 0, 0]);
                }
                self.emit(Op::Pack64, d, [half[0], half[1], 0, 0]);
            }
            (16, [lo, hi]) => {
                // Through temporaries: a source may be a half of the destination's neighbour, never of itself.
                let a = self.src64(lo, Type::B64, words)?;
                let b = self.src64(hi, Type::B64, words)?;
                self.emit(Op::Mov64, d, [a, 0, 0, 0]);
                self.emit(Op::Mov64, d + 1, [b, 0, 0, 0]);
            }
            (16, [p0, p1, p2, p3]) => {
                for (i, (lo, hi)) in [(p0, p1), (p2, p3)].into_iter().enumerate() {
                    let a = self.src32(lo, Type::B32, words)?;
                    let b = self.src32(hi, Type::B32, words)?;
                    self.emit(Op::Pack64, d + i as u32, [a, b, 0, 0]);
                }
            }
            _ => return Err(words.error("this way of packing is not implemented")),
        }
        Ok(())
    }

    fn unpack(
        &mut self,
        parts: &[Operand],
        a: &Operand,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<()> {
        if ty == Type::B128 {
            let Operand::Register(id) = a else {
                return Err(words.error("a 128-bit register was expected"));
            };
            let (Reg::R64(a), Type::B128) = (self.reg(*id), self.reg_type(*id)) else {
                return Err(words.error("a 128-bit register was expected"));
            };
            match parts {
                [lo, hi] => {
                    for (i, part) in [lo, hi].into_iter().enumerate() {
                        let d = self.dst(part, Type::B64, words)?;
                        self.emit(Op::Mov64, d, [a + i as u32, 0, 0, 0]);
                    }
                }
                [p0, p1, p2, p3] => {
                    for (i, (lo, hi)) in [(p0, p1), (p2, p3)].into_iter().enumerate() {
                        let d = self.dst(lo, Type::B32, words)?;
                        let e = self.dst(hi, Type::B32, words)?;
                        self.emit(Op::Unpack64, d, [a + i as u32, 0, 0, e]);
                    }
                }
                _ => return Err(words.error("this way of unpacking is not implemented")),
            }
            return Ok(());
        }
        let a = self.src(a, ty, words)?;
        match (ty.size(), parts) {
            (2, [_, _]) | (4, [_, _, _, _]) => {
                let width = self.constant32(8);
                for (i, part) in parts.iter().enumerate() {
                    let d = self.dst(part, Type::B8, words)?;
                    let place = self.constant32(8 * i as u32);
                    let extract = Op::X32(X32::Bfe { signed: false });
                    self.emit(extract, d, [a, place, width, 0]);
                }
            }
            (4, [lo, hi]) => {
                let d = self.dst(lo, Type::B16, words)?;
                let e = self.dst(hi, Type::B16, words)?;
                self.emit(Op::Unpack32, d, [a, 0, 0, e]);
            }
            (8, [lo, hi]) => {
                let d = self.dst(lo, Type::B32, words)?;
                let e = self.dst(hi, Type::B32, words)?;
                self.emit(Op::Unpack64, d, [a, 0, 0, e]);
            }
            (8, [p0, p1, p2, p3]) => {
                let half = [self.new32(), self.new32()];
                self.emit(Op::Unpack64, half[0], [a, 0, 0, half[1]]);
                for (h, (lo, hi)) in half.into_iter().zip([(p0, p1), (p2, p3)]) {
                    let d = self.dst(lo, Type::B16, words)?;
                    let e = self.dst(hi, Type::B16, words)?;
                    self.emit(Op::Unpack32, d, [h, 0, 0, e]);
                }
            }
            _ => return Err(words.error("this way of unpacking is not implemented")),
        }
        Ok(())
    }

    /// A source of `cvt`: the register may be wider than the type.
    fn cvt_src(&mut self, operand: &Operand, ty: Type, words: &Words<'_>) -> Result<(u32, bool)> {
        if let Operand::Register(id) = operand {
            let size = self.reg_type(*id).size();
            return match self.reg(*id) {
                Reg::R32(slot) if size >= ty.size() => Ok((slot, false)),
                Reg::R64(slot) if size == 8 => Ok((slot, true)),
                _ => Err(words.error("the source register does not hold the source type")),
            };
        }
        match ty.size() {
            8 => Ok((self.src64(operand, ty, words)?, true)),
            1 => Ok((self.src32(operand, Type::B32, words)?, false)),
            _ => Ok((self.src32(operand, ty, words)?, false)),
        }
    }

    /// A destination of `cvt`; flags for its register's size.
    fn cvt_dst(&mut self, operand: &Operand, ty: Type, words: &Words<'_>) -> Result<(u32, u8)> {
        match operand {
            Operand::Register(id) => {
                let size = self.reg_type(*id).size();
                match self.reg(*id) {
                    Reg::R32(slot) if size >= ty.size() => {
                        Ok((slot, if size == 4 { CVT_DST32 } else { 0 }))
                    }
                    Reg::R64(slot) if size == 8 => Ok((slot, CVT_DST64)),
                    _ => Err(words.error("the destination register does not hold the type")),
                }
            }
            Operand::Sink if ty.size() == 8 => Ok((self.new64(), CVT_DST64)),
            Operand::Sink => Ok((self.new32(), CVT_DST32)),
            _ => Err(words.error("a register was expected as destination")),
        }
    }

    pub(crate) fn cvt(&mut self, words: &mut Words<'_>) -> Result<()> {
        use Type::*;
        if words.flag("pack") {
            return self.cvt_pack(words);
        }
        let types = words.types();
        let [dst, src] = types[..] else {
            return Err(words.error("cvt has two types"));
        };
        let rounding = words
            .one_of(&[
                ("rn", CvtRounding::Near),
                ("rna", CvtRounding::NearAway),
                ("rz", CvtRounding::Zero),
                ("rm", CvtRounding::Down),
                ("rp", CvtRounding::Up),
                ("rni", CvtRounding::NearInt),
                ("rzi", CvtRounding::ZeroInt),
                ("rmi", CvtRounding::DownInt),
                ("rpi", CvtRounding::UpInt),
            ])
            .unwrap_or(CvtRounding::None);
        let mut flags = 0;
        for (word, bit) in [
            ("ftz", CVT_FTZ),
            ("sat", CVT_SAT),
            ("relu", CVT_RELU),
            ("satfinite", CVT_SATFINITE),
        ] {
            if words.flag(word) {
                flags |= bit;
            }
        }
        let int = |ty| match ty {
            U8 => Some((8, false)),
            S8 => Some((8, true)),
            U16 => Some((16, false)),
            S16 => Some((16, true)),
            U32 => Some((32, false)),
            S32 => Some((32, true)),
            U64 => Some((64, false)),
            S64 => Some((64, true)),
            _ => None,
        };
        let int_type = |(bits, signed)| IntType { bits, signed };
        if let (Some(to), Some(from)) = (int(dst), int(src)) {
            if rounding != CvtRounding::None || flags & !CVT_SAT != 0 {
                return Err(words.error("integer conversions have no rounding, only .sat"));
            }
            let o = Self::operands(words, 2..=2)?;
            let (a, a64) = self.cvt_src(&o[1], src, words)?;
            let (d, size) = self.cvt_dst(&o[0], dst, words)?;
            let cvt = CvtInt {
                dst: int_type(to),
                src: int_type(from),
                sat: flags & CVT_SAT != 0,
                flags: size | if a64 { CVT_SRC64 } else { 0 },
            };
            self.emit(Op::CvtInt(cvt), d, [a, 0, 0, 0]);
            return Ok(());
        }
        let two_sources = matches!((dst, src), (F16x2 | BF16x2 | E4M3x2 | E5M2x2, F32));
        check_cvt(
            dst,
            src,
            rounding,
            flags,
            int(dst).is_some(),
            int(src).is_some(),
        )
        .map_err(|e| words.error(e))?;
        let o = Self::operands(words, if two_sources { 3..=3 } else { 2..=2 })?;
        let (a, a64) = self.cvt_src(&o[1], src, words)?;
        let b = if two_sources {
            self.cvt_src(&o[2], src, words)?.0
        } else {
            0
        };
        let (d, size) = self.cvt_dst(&o[0], dst, words)?;
        flags |= size | if a64 { CVT_SRC64 } else { 0 };
        self.emit(
            Op::Cvt(Cvt {
                dst,
                src,
                rounding,
                flags,
            }),
            d,
            [a, b, 0, 0],
        );
        Ok(())
    }

    /// `cvt.pack.sat.{u16 s16}.s32 d, a, b` and `cvt.pack.sat.{u8 s8 u4 s4 u2 s2}.s32.b32 d, a, b, c`.
    fn cvt_pack(&mut self, words: &mut Words<'_>) -> Result<()> {
        let table = [("u2", 2, false), ("s2", 2, true), ("u4", 4, false)];
        let table = table.iter().chain(&[
            ("s4", 4, true),
            ("u8", 8, false),
            ("s8", 8, true),
            ("u16", 16, false),
            ("s16", 16, true),
        ]);
        let to = words.find(|word| {
            let (_, bits, signed) = *table.clone().find(|(name, ..)| *name == word)?;
            Some(IntType { bits, signed })
        });
        let sat = words.flag("sat");
        let types = words.types();
        let (Some(to), true) = (to, sat) else {
            return Err(words.error("cvt.pack has .sat and an integer type of 2 to 16 bits"));
        };
        let sources = match (to.bits, &types[..]) {
            (16, [Type::S32]) => 2,
            (..16, [Type::S32, Type::B32]) => 3,
            _ => return Err(words.error("cvt.pack of this type has .s32, below 16 bits .s32.b32")),
        };
        let o = Self::operands(words, sources + 1..=sources + 1)?;
        let mut slots = [0; 4];
        for (slot, operand) in slots.iter_mut().zip(&o[1..]) {
            *slot = self.src32(operand, Type::B32, words)?;
        }
        let d = self.dst(&o[0], Type::B32, words)?;
        self.emit(Op::X32(X32::Pack(to)), d, slots);
        Ok(())
    }

    pub(crate) fn cvta(&mut self, words: &mut Words<'_>) -> Result<()> {
        let to_generic = !words.flag("to");
        let space = words.one_of(&[
            ("global", MemSpace::Global),
            ("const", MemSpace::Global),
            ("shared", MemSpace::Shared),
            ("shared::cta", MemSpace::Shared),
            ("local", MemSpace::Local),
            ("param", MemSpace::Param),
            ("param::entry", MemSpace::Param),
        ]);
        let Some(mut space) = space else {
            return Err(words.error("cvta needs a state space"));
        };
        if !self.func.entry && space == MemSpace::Param {
            space = MemSpace::Local;
        }
        let ty = words.one_type()?;
        if !matches!(ty, Type::U64 | Type::B64) {
            return Err(words.error("addresses have 64 bits"));
        }
        let o = Self::operands(words, 2..=2)?;
        let a = self.src64(&o[1], ty, words)?;
        let d = self.dst(&o[0], ty, words)?;
        if space == MemSpace::Global {
            self.emit(Op::Mov64, d, [a, 0, 0, 0]);
        } else {
            self.slow(Slow::Cvta {
                d,
                a,
                to_generic,
                space,
            });
        }
        Ok(())
    }

    pub(crate) fn isspacep(&mut self, words: &mut Words<'_>) -> Result<()> {
        let space = words.one_of(&[
            ("global", MemSpace::Global),
            ("shared", MemSpace::Shared),
            ("shared::cta", MemSpace::Shared),
            ("shared::cluster", MemSpace::Shared),
            ("local", MemSpace::Local),
            ("param", MemSpace::Param),
            ("param::entry", MemSpace::Param),
        ]);
        let Some(space) = space else {
            return Err(words.error("isspacep needs a state space"));
        };
        let o = Self::operands(words, 2..=2)?;
        let a = self.src64(&o[1], Type::U64, words)?;
        let d = self.dst_pred(&o[0], words)?;
        self.slow(Slow::Isspacep { space, d, a });
        Ok(())
    }
}

/// Which conversions with a float there are.
fn check_cvt(
    dst: Type,
    src: Type,
    rounding: CvtRounding,
    flags: u8,
    to_int: bool,
    from_int: bool,
) -> std::result::Result<(), &'static str> {
    use CvtRounding as R;
    use Type::*;
    let float = |ty| matches!(ty, F16 | BF16 | F32 | F64);
    let int_rounding = matches!(rounding, R::NearInt | R::ZeroInt | R::DownInt | R::UpInt);
    let float_rounding = matches!(rounding, R::Near | R::Zero | R::Down | R::Up);
    let only = |allowed: u8| flags & !allowed == 0;
    let ok = match (dst, src) {
        // Float to integer: rounding to an integer; .sat is implied.
        (_, _) if to_int && float(src) => int_rounding && only(CVT_FTZ | CVT_SAT),
        (_, _) if from_int && float(dst) => float_rounding && only(CVT_SAT),
        // Same type: round to an integer, or copy.
        (F32, F32) | (F64, F64) | (F16, F16) | (BF16, BF16) => {
            (int_rounding || rounding == R::None) && only(CVT_FTZ | CVT_SAT)
        }
        // Narrowing.
        (F32, F64) => float_rounding && only(CVT_FTZ | CVT_SAT),
        (F16, F32) => float_rounding && only(CVT_FTZ | CVT_SAT | CVT_RELU | CVT_SATFINITE),
        (F16, F64) => float_rounding && only(CVT_SAT),
        (BF16, F32) => {
            matches!(rounding, R::Near | R::Zero | R::Down | R::Up)
                && only(CVT_RELU | CVT_SATFINITE | CVT_SAT)
        }
        (BF16, F64) => float_rounding && only(CVT_SAT),
        // 16-bit floats among themselves.
        (F16, BF16) | (BF16, F16) => float_rounding && only(CVT_SAT | CVT_RELU),
        // Widening is exact.
        (F64, F32) | (F32, F16) => rounding == R::None && only(CVT_FTZ | CVT_SAT),
        (F32, BF16) => rounding == R::None && only(CVT_FTZ | CVT_SAT),
        (F64, F16 | BF16) => rounding == R::None && only(CVT_SAT),
        (F16x2 | BF16x2, F32) => {
            matches!(rounding, R::Near | R::Zero) && only(CVT_RELU | CVT_SATFINITE)
        }
        (TF32, F32) => {
            matches!(rounding, R::Near | R::NearAway | R::Zero) && only(CVT_RELU | CVT_SATFINITE)
        }
        (E4M3x2 | E5M2x2, F32 | F16x2) => {
            rounding == R::Near && only(CVT_RELU | CVT_SATFINITE) && flags & CVT_SATFINITE != 0
        }
        (F16x2, E4M3x2 | E5M2x2) => rounding == R::Near && only(CVT_RELU),
        _ => false,
    };
    if ok {
        Ok(())
    } else {
        Err("this combination of types, rounding and saturation is not implemented")
    }
}
