//! Operations of a warp together: shfl, vote, match, redux, activemask, elect, mma.

use super::function::{FunctionLowering, Result};
use super::op::*;
use super::words::Words;
use crate::numeric::mma::{Float, Input, Integer};
use crate::ptx::ast::{Operand, Type};

impl FunctionLowering<'_, '_> {
    fn need_sync(w: &mut Words<'_>) -> Result<()> {
        if w.flag("sync") {
            Ok(())
        } else {
            Err(w.error("the form without .sync does not exist on sm_70 and later"))
        }
    }

    pub(crate) fn shfl(&mut self, w: &mut Words<'_>) -> Result<()> {
        Self::need_sync(w)?;
        let mode = w.one_of(&[
            ("up", ShflMode::Up),
            ("down", ShflMode::Down),
            ("bfly", ShflMode::Bfly),
            ("idx", ShflMode::Idx),
        ]);
        let ty = w.one_type()?;
        let (Some(mode), Type::B32) = (mode, ty) else {
            return Err(w.error("shfl.sync has a mode and .b32"));
        };
        let o = Self::operands(w, 5..=5)?;
        let a = self.src32(&o[1], ty, w)?;
        let lane = self.src32(&o[2], ty, w)?;
        let clamp = self.src32(&o[3], ty, w)?;
        let members = self.src32(&o[4], ty, w)?;
        let (d, p) = Self::split_pair(&o[0]);
        let d = self.dst(d, ty, w)?;
        let p = match p {
            Some(p) => self.dst_pred(p, w)?,
            None => NONE,
        };
        self.slow(Slow::Shfl {
            mode,
            d,
            p,
            a,
            lane,
            clamp,
            members,
        });
        Ok(())
    }

    pub(crate) fn vote(&mut self, w: &mut Words<'_>) -> Result<()> {
        Self::need_sync(w)?;
        let mode = w.one_of(&[
            ("all", VoteMode::All),
            ("any", VoteMode::Any),
            ("uni", VoteMode::Uni),
            ("ballot", VoteMode::Ballot),
        ]);
        let ty = w.one_type()?;
        let o = Self::operands(w, 3..=3)?;
        let a = self.pred(&o[1], w)?;
        let members = self.src32(&o[2], Type::B32, w)?;
        let (mode, d) = match (mode, ty) {
            (Some(VoteMode::Ballot), Type::B32) => (VoteMode::Ballot, self.dst(&o[0], ty, w)?),
            (Some(mode), Type::Pred) if mode != VoteMode::Ballot => {
                (mode, self.dst_pred(&o[0], w)?)
            }
            _ => return Err(w.error("vote.sync is .all, .any, .uni with .pred or .ballot.b32")),
        };
        self.slow(Slow::Vote {
            mode,
            d,
            a,
            members,
        });
        Ok(())
    }

    pub(crate) fn match_(&mut self, w: &mut Words<'_>) -> Result<()> {
        Self::need_sync(w)?;
        let all = w.one_of(&[("any", false), ("all", true)]);
        let ty = w.one_type()?;
        let (Some(all), Type::B32 | Type::B64) = (all, ty) else {
            return Err(w.error("match.sync has .any or .all, and .b32 or .b64"));
        };
        let o = Self::operands(w, 3..=3)?;
        let a = self.src(&o[1], ty, w)?;
        let members = self.src32(&o[2], Type::B32, w)?;
        let (d, p) = Self::split_pair(&o[0]);
        let d = self.dst(d, Type::B32, w)?;
        let p = match p {
            Some(p) if all => self.dst_pred(p, w)?,
            Some(_) => return Err(w.error("match.any has no predicate")),
            None => NONE,
        };
        self.slow(Slow::Match {
            all,
            wide: ty == Type::B64,
            d,
            p,
            a,
            members,
        });
        Ok(())
    }

    pub(crate) fn redux(&mut self, w: &mut Words<'_>) -> Result<()> {
        Self::need_sync(w)?;
        let name = w.find(|word| {
            ["add", "min", "max", "and", "or", "xor"]
                .into_iter()
                .find(|n| *n == word)
        });
        let ty = w.one_type()?;
        let op = match (name, ty) {
            (Some("add"), Type::U32 | Type::S32) => ReduxOp::Add,
            (Some("min"), Type::U32) => ReduxOp::MinU,
            (Some("min"), Type::S32) => ReduxOp::MinS,
            (Some("max"), Type::U32) => ReduxOp::MaxU,
            (Some("max"), Type::S32) => ReduxOp::MaxS,
            (Some("and"), Type::B32) => ReduxOp::And,
            (Some("or"), Type::B32) => ReduxOp::Or,
            (Some("xor"), Type::B32) => ReduxOp::Xor,
            _ => return Err(w.error("this reduction is not implemented for this type")),
        };
        let o = Self::operands(w, 3..=3)?;
        let a = self.src32(&o[1], ty, w)?;
        let members = self.src32(&o[2], Type::B32, w)?;
        let d = self.dst(&o[0], ty, w)?;
        self.slow(Slow::Redux { op, d, a, members });
        Ok(())
    }

    pub(crate) fn activemask(&mut self, w: &mut Words<'_>) -> Result<()> {
        let ty = w.one_type()?;
        let o = Self::operands(w, 1..=1)?;
        let d = self.dst(&o[0], ty, w)?;
        if ty != Type::B32 {
            return Err(w.error("activemask is b32"));
        }
        self.slow(Slow::Activemask { d });
        Ok(())
    }

    pub(crate) fn elect(&mut self, w: &mut Words<'_>) -> Result<()> {
        Self::need_sync(w)?;
        let o = Self::operands(w, 2..=2)?;
        let Operand::Pair(d, p) = &o[0] else {
            return Err(w.error("elect.sync has the destination d|p"));
        };
        let members = self.src32(&o[1], Type::B32, w)?;
        let d = self.dst(d, Type::B32, w)?;
        let p = self.dst_pred(p, w)?;
        self.slow(Slow::Elect { d, p, members });
        Ok(())
    }

    /// `mma.sync.aligned.mMnNkK.row.col.{d a b c}`.
    pub(crate) fn mma(&mut self, w: &mut Words<'_>) -> Result<()> {
        use Type::*;
        let words = [
            w.flag("sync"),
            w.flag("aligned"),
            w.flag("row"),
            w.flag("col"),
        ];
        let shape = w.one_of(&[
            ("m16n8k4", (16, 4)),
            ("m16n8k8", (16, 8)),
            ("m16n8k16", (16, 16)),
            ("m16n8k32", (16, 32)),
            ("m8n8k16", (8, 16)),
            ("m8n8k4", (8, 4)),
        ]);
        let saturate = w.flag("satfinite");
        let types = w.types();
        let ([true, true, true, true], Some((m, k)), &[d, a, b, c]) = (words, shape, &types[..])
        else {
            return Err(w.error("this shape or layout of mma is not implemented"));
        };
        let float = |input| {
            let ok = matches!(d, F32 | F16) && matches!(c, F32 | F16) && m == 16 && a == b;
            ok.then_some(MmaKind::Float(Float {
                input,
                k,
                f16_c: c == F16,
                f16_d: d == F16,
            }))
        };
        let kind = match (a, b, k) {
            (F16, F16, 8 | 16) if d == c => float(Input::F16),
            (BF16, BF16, 8 | 16) if d == F32 && c == F32 => float(Input::Bf16),
            (TF32, TF32, 4 | 8) if d == F32 && c == F32 => float(Input::Tf32),
            (U8 | S8, U8 | S8, 16 | 32) if m == 16 && d == S32 && c == S32 => {
                let (a_signed, b_signed) = (a == S8, b == S8);
                Some(MmaKind::Integer(Integer {
                    k,
                    a_signed,
                    b_signed,
                    saturate,
                }))
            }
            (F64, F64, 4) if m == 8 && d == F64 && c == F64 => Some(MmaKind::Double),
            _ => None,
        };
        let Some(kind) = kind else {
            return Err(w.error("these types are not implemented for this shape of mma"));
        };
        let (counts, ty) = match kind {
            MmaKind::Float(f) => {
                let [a, b, c, d] = f.registers();
                ([d, a, b, c], B32)
            }
            MmaKind::Integer(i) => ([4, i.k / 8, i.k / 16, 4], B32),
            MmaKind::Double => ([2, 1, 1, 2], F64),
        };
        if saturate && !matches!(kind, MmaKind::Integer(_)) {
            return Err(w.error(".satfinite is for integers"));
        }
        let o = Self::operands(w, 4..=4)?;
        let mut registers: [Vec<u32>; 4] = Default::default();
        for (i, operand) in o.iter().enumerate() {
            let one = std::slice::from_ref(operand);
            let list = match operand {
                Operand::Vector(v) => v.as_slice(),
                _ => one,
            };
            if list.len() != counts[i] {
                return Err(w.error(format_args!(
                    "operand {i} has {} registers, not {}",
                    counts[i],
                    list.len()
                )));
            }
            for r in list {
                let slot = if i == 0 {
                    self.dst(r, ty, w)?
                } else {
                    self.src(r, ty, w)?
                };
                registers[i].push(slot);
            }
        }
        self.slow(Slow::Mma(Mma { kind, registers }));
        Ok(())
    }
}
