//! setp, set, selp, slct, testp.

use super::function::{FunctionLowering, Result, TRUE};
use super::op::*;
use super::words::Words;
use crate::ptx::ast::Type;

impl FunctionLowering<'_, '_> {
    /// Takes the comparison and its combination; the type decides which comparisons there are.
    fn comparison(words: &mut Words<'_>, ty: Type) -> Result<(Cmp, CmpType)> {
        use Cmp::*;
        use Type::*;
        let ftz = words.flag("ftz");
        let cmp_type = match ty {
            B16 | U16 => CmpType::U16,
            S16 => CmpType::S16,
            B32 | U32 => CmpType::U32,
            S32 => CmpType::S32,
            B64 | U64 => CmpType::U64,
            S64 => CmpType::S64,
            F16 => CmpType::F16,
            F16x2 => CmpType::F16x2,
            BF16 => CmpType::Bf16,
            BF16x2 => CmpType::Bf16x2,
            F32 => CmpType::F32 { ftz },
            F64 => CmpType::F64,
            _ => return Err(words.error("this type is not implemented here")),
        };
        if ftz && !matches!(ty, F32 | F16 | F16x2) {
            return Err(words.error(".ftz is for f32 and f16"));
        }
        let float = matches!(ty, F16 | F16x2 | BF16 | BF16x2 | F32 | F64);
        let bits = matches!(ty, B16 | B32 | B64);
        let unsigned = matches!(ty, U16 | U32 | U64);
        let cmp = words.find(|word| {
            Some(match word {
                "eq" => Eq,
                "ne" => Ne,
                "lt" if !bits => Lt,
                "le" if !bits => Le,
                "gt" if !bits => Gt,
                "ge" if !bits => Ge,
                "lo" if unsigned => Lt,
                "ls" if unsigned => Le,
                "hi" if unsigned => Gt,
                "hs" if unsigned => Ge,
                "equ" if float => Equ,
                "neu" if float => Neu,
                "ltu" if float => Ltu,
                "leu" if float => Leu,
                "gtu" if float => Gtu,
                "geu" if float => Geu,
                "num" if float => Num,
                "nan" if float => Nan,
                _ => return None,
            })
        });
        match cmp {
            Some(cmp) => Ok((cmp, cmp_type)),
            None => Err(words.error("a comparison that fits the type is needed")),
        }
    }

    fn combine(words: &mut Words<'_>) -> Combine {
        words
            .one_of(&[
                ("and", Combine::And),
                ("or", Combine::Or),
                ("xor", Combine::Xor),
            ])
            .unwrap_or(Combine::None)
    }

    pub(crate) fn setp(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let (cmp, cmp_type) = Self::comparison(words, ty)?;
        let combine = Self::combine(words);
        let n = if combine == Combine::None { 3 } else { 4 };
        let o = Self::operands(words, n..=n)?;
        let a = self.src(&o[1], ty, words)?;
        let b = self.src(&o[2], ty, words)?;
        let c = if combine == Combine::None {
            TRUE << 1
        } else {
            self.pred(&o[3], words)?
        };
        let (p, q) = Self::split_pair(&o[0]);
        let p = self.dst_pred(p, words)?;
        let q = match q {
            Some(q) => self.dst_pred(q, words)?,
            None => NONE,
        };
        self.emit(Op::Setp(cmp, cmp_type, combine), p, [a, b, c, q]);
        Ok(())
    }

    pub(crate) fn set(&mut self, words: &mut Words<'_>) -> Result<()> {
        let types = words.types();
        let [dst, src] = types[..] else {
            return Err(words.error("set has two types"));
        };
        let (cmp, cmp_type) = Self::comparison(words, src)?;
        use Type::*;
        let result = match (dst, src) {
            (F32, _) => SetResult::F32,
            (F16, F16) => SetResult::F16,
            (BF16, BF16) => SetResult::Bf16,
            (F16x2, F16x2) => SetResult::F16x2,
            (BF16x2, BF16x2) => SetResult::Bf16x2,
            (U16 | S16 | B16, F16 | BF16) => SetResult::Mask16,
            (U32 | S32 | B32, F16x2 | BF16x2) => SetResult::Mask16x2,
            (U32 | S32 | B32, _) => SetResult::Mask,
            _ => return Err(words.error("this combination of types is not implemented")),
        };
        let combine = Self::combine(words);
        let n = if combine == Combine::None { 3 } else { 4 };
        let o = Self::operands(words, n..=n)?;
        let a = self.src(&o[1], src, words)?;
        let b = self.src(&o[2], src, words)?;
        let c = if combine == Combine::None {
            TRUE << 1
        } else {
            self.pred(&o[3], words)?
        };
        let d = self.dst(&o[0], dst, words)?;
        self.emit(Op::Set(cmp, cmp_type, combine, result), d, [a, b, c, 0]);
        Ok(())
    }

    pub(crate) fn selp(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        words.movable(ty)?;
        let o = Self::operands(words, 4..=4)?;
        let a = self.src(&o[1], ty, words)?;
        let b = self.src(&o[2], ty, words)?;
        let c = self.pred(&o[3], words)?;
        let d = self.dst(&o[0], ty, words)?;
        let op = if ty.size() == 8 {
            Op::Selp64
        } else {
            Op::Selp32
        };
        self.emit(op, d, [a, b, c, 0]);
        Ok(())
    }

    pub(crate) fn slct(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ftz = words.flag("ftz");
        let types = words.types();
        let [ty, by] = types[..] else {
            return Err(words.error("slct has two types"));
        };
        words.movable(ty)?;
        let select = match by {
            Type::S32 if !ftz => SlctBy::S32,
            Type::F32 => SlctBy::F32 { ftz },
            _ => return Err(words.error("slct selects by s32 or f32")),
        };
        let o = Self::operands(words, 4..=4)?;
        let a = self.src(&o[1], ty, words)?;
        let b = self.src(&o[2], ty, words)?;
        let c = self.src32(&o[3], by, words)?;
        let d = self.dst(&o[0], ty, words)?;
        let op = if ty.size() == 8 {
            Op::Slct64(select)
        } else {
            Op::Slct32(select)
        };
        self.emit(op, d, [a, b, c, 0]);
        Ok(())
    }

    pub(crate) fn testp(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let test = words.one_of(&[
            ("finite", Testp::Finite),
            ("infinite", Testp::Infinite),
            ("number", Testp::Number),
            ("notanumber", Testp::NotANumber),
            ("normal", Testp::Normal),
            ("subnormal", Testp::Subnormal),
        ]);
        let op = match (test, ty) {
            (Some(test), Type::F32) => Op::Testp32(test),
            (Some(test), Type::F64) => Op::Testp64(test),
            _ => return Err(words.error("testp has a test and f32 or f64")),
        };
        let o = Self::operands(words, 2..=2)?;
        let a = self.src(&o[1], ty, words)?;
        let d = self.dst_pred(&o[0], words)?;
        self.emit(op, d, [a, 0, 0, 0]);
        Ok(())
    }
}
