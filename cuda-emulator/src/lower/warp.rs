//! Operations of a warp together: shfl, vote, match, redux, activemask, elect, mma.

use super::function::{FunctionLowering, Result};
use super::op::*;
use super::words::Words;
use crate::numeric::mma::{Double, Float, Input, Integer};
use crate::numeric::wmma::{Fragment, Role, Shape};
use crate::ptx::ast::{Operand, Type};

impl FunctionLowering<'_, '_> {
    fn need_sync(words: &mut Words<'_>) -> Result<()> {
        if words.flag("sync") {
            Ok(())
        } else {
            Err(words.error("the form without .sync does not exist on sm_70 and later"))
        }
    }

    pub(crate) fn shfl(&mut self, words: &mut Words<'_>) -> Result<()> {
        Self::need_sync(words)?;
        let mode = words.one_of(&[
            ("up", ShflMode::Up),
            ("down", ShflMode::Down),
            ("bfly", ShflMode::Bfly),
            ("idx", ShflMode::Idx),
        ]);
        let ty = words.one_type()?;
        let (Some(mode), Type::B32) = (mode, ty) else {
            return Err(words.error("shfl.sync has a mode and .b32"));
        };
        let o = Self::operands(words, 5..=5)?;
        let a = self.src32(&o[1], ty, words)?;
        let lane = self.src32(&o[2], ty, words)?;
        let clamp = self.src32(&o[3], ty, words)?;
        let members = self.src32(&o[4], ty, words)?;
        let (d, p) = Self::split_pair(&o[0]);
        let d = self.dst(d, ty, words)?;
        let p = match p {
            Some(p) => self.dst_pred(p, words)?,
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

    pub(crate) fn vote(&mut self, words: &mut Words<'_>) -> Result<()> {
        Self::need_sync(words)?;
        let mode = words.one_of(&[
            ("all", VoteMode::All),
            ("any", VoteMode::Any),
            ("uni", VoteMode::Uni),
            ("ballot", VoteMode::Ballot),
        ]);
        let ty = words.one_type()?;
        let o = Self::operands(words, 3..=3)?;
        let a = self.pred(&o[1], words)?;
        let members = self.src32(&o[2], Type::B32, words)?;
        let (mode, d) = match (mode, ty) {
            (Some(VoteMode::Ballot), Type::B32) => (VoteMode::Ballot, self.dst(&o[0], ty, words)?),
            (Some(mode), Type::Pred) if mode != VoteMode::Ballot => {
                (mode, self.dst_pred(&o[0], words)?)
            }
            _ => return Err(words.error("vote.sync is .all, .any, .uni with .pred or .ballot.b32")),
        };
        self.slow(Slow::Vote {
            mode,
            d,
            a,
            members,
        });
        Ok(())
    }

    pub(crate) fn match_(&mut self, words: &mut Words<'_>) -> Result<()> {
        Self::need_sync(words)?;
        let all = words.one_of(&[("any", false), ("all", true)]);
        let ty = words.one_type()?;
        let (Some(all), Type::B32 | Type::B64) = (all, ty) else {
            return Err(words.error("match.sync has .any or .all, and .b32 or .b64"));
        };
        let o = Self::operands(words, 3..=3)?;
        let a = self.src(&o[1], ty, words)?;
        let members = self.src32(&o[2], Type::B32, words)?;
        let (d, p) = Self::split_pair(&o[0]);
        let d = self.dst(d, Type::B32, words)?;
        let p = match p {
            Some(p) if all => self.dst_pred(p, words)?,
            Some(_) => return Err(words.error("match.any has no predicate")),
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

    pub(crate) fn redux(&mut self, words: &mut Words<'_>) -> Result<()> {
        Self::need_sync(words)?;
        let name = words.find(|word| {
            ["add", "min", "max", "and", "or", "xor"]
                .into_iter()
                .find(|n| *n == word)
        });
        let ty = words.one_type()?;
        let op = match (name, ty) {
            (Some("add"), Type::U32 | Type::S32) => ReduxOp::Add,
            (Some("min"), Type::U32) => ReduxOp::MinU,
            (Some("min"), Type::S32) => ReduxOp::MinS,
            (Some("max"), Type::U32) => ReduxOp::MaxU,
            (Some("max"), Type::S32) => ReduxOp::MaxS,
            (Some("and"), Type::B32) => ReduxOp::And,
            (Some("or"), Type::B32) => ReduxOp::Or,
            (Some("xor"), Type::B32) => ReduxOp::Xor,
            _ => return Err(words.error("this reduction is not implemented for this type")),
        };
        let o = Self::operands(words, 3..=3)?;
        let a = self.src32(&o[1], ty, words)?;
        let members = self.src32(&o[2], Type::B32, words)?;
        let d = self.dst(&o[0], ty, words)?;
        self.slow(Slow::Redux { op, d, a, members });
        Ok(())
    }

    pub(crate) fn activemask(&mut self, words: &mut Words<'_>) -> Result<()> {
        let ty = words.one_type()?;
        let o = Self::operands(words, 1..=1)?;
        let d = self.dst(&o[0], ty, words)?;
        if ty != Type::B32 {
            return Err(words.error("activemask is b32"));
        }
        self.slow(Slow::Activemask { d });
        Ok(())
    }

    pub(crate) fn elect(&mut self, words: &mut Words<'_>) -> Result<()> {
        Self::need_sync(words)?;
        let o = Self::operands(words, 2..=2)?;
        let Operand::Pair(d, p) = &o[0] else {
            return Err(words.error("elect.sync has the destination d|p"));
        };
        let members = self.src32(&o[1], Type::B32, words)?;
        let d = self.dst(d, Type::B32, words)?;
        let p = self.dst_pred(p, words)?;
        self.slow(Slow::Elect { d, p, members });
        Ok(())
    }

    /// `mma.sync.aligned.mMnNkK.row.col.{d a b c}`.
    pub(crate) fn mma(&mut self, words: &mut Words<'_>) -> Result<()> {
        use Type::*;
        let required = [
            words.flag("sync"),
            words.flag("aligned"),
            words.flag("row"),
            words.flag("col"),
        ];
        let shape = words.one_of(&[
            ("m16n8k4", (16, 4)),
            ("m16n8k8", (16, 8)),
            ("m16n8k16", (16, 16)),
            ("m16n8k32", (16, 32)),
            ("m8n8k16", (8, 16)),
            ("m8n8k4", (8, 4)),
        ]);
        let saturate = words.flag("satfinite");
        let types = words.types();
        let ([true, true, true, true], Some((m, k)), &[d, a, b, c]) = (required, shape, &types[..])
        else {
            return Err(words.error("this shape or layout of mma is not implemented"));
        };
        let input = |ty| match ty {
            F16 => Some(Input::F16),
            BF16 => Some(Input::Bf16),
            TF32 => Some(Input::Tf32),
            E4M3 => Some(Input::E4m3),
            E5M2 => Some(Input::E5m2),
            _ => None,
        };
        let float = || {
            let (a, b) = (input(a)?, input(b)?);
            let (f16_c, f16_d) = (c == F16, d == F16);
            Some(MmaKind::Float(Float {
                a,
                b,
                k,
                f16_c,
                f16_d,
            }))
        };
        let rounding = match (a, words.rounding()) {
            (F64, rounding) => rounding.unwrap_or(Rounding::Near),
            (_, None) => Rounding::Near,
            _ => return Err(words.error("a rounding is for f64")),
        };
        let kind = match (a, b, m, k) {
            (F16, F16, 16, 8 | 16) if d == c && matches!(c, F16 | F32) => float(),
            (BF16, BF16, 16, 8 | 16) | (TF32, TF32, 16, 4 | 8) if (d, c) == (F32, F32) => float(),
            (E4M3 | E5M2, E4M3 | E5M2, 16, 16 | 32) if d == c && matches!(c, F16 | F32) => float(),
            (U8 | S8, U8 | S8, 16, 16 | 32) | (U8 | S8, U8 | S8, 8, 16) if (d, c) == (S32, S32) => {
                let (a_signed, b_signed) = (a == S8, b == S8);
                Some(MmaKind::Integer(Integer {
                    m,
                    k,
                    a_signed,
                    b_signed,
                    saturate,
                }))
            }
            (F64, F64, 8, 4) | (F64, F64, 16, 4 | 8 | 16) if (d, c) == (F64, F64) => {
                Some(MmaKind::Double(Double { m, k, rounding }))
            }
            _ => None,
        };
        let Some(kind) = kind else {
            return Err(words.error("these types are not implemented for this shape of mma"));
        };
        let ([a, b, c, d], ty) = match kind {
            MmaKind::Float(f) => (f.registers(), B32),
            MmaKind::Integer(i) => (i.registers(), B32),
            MmaKind::Double(f) => (f.registers(), F64),
        };
        let counts = [d, a, b, c];
        if saturate && !matches!(kind, MmaKind::Integer(_)) {
            return Err(words.error(".satfinite is for integers"));
        }
        let o = Self::operands(words, 4..=4)?;
        let mut registers: [Vec<u32>; 4] = Default::default();
        for (i, operand) in o.iter().enumerate() {
            registers[i] = self.fragment(operand, counts[i], ty, i == 0, words)?;
        }
        self.slow(Slow::Mma(Mma { kind, registers }));
        Ok(())
    }

    /// Slots of the registers of a fragment, of which there must be `count`.
    fn fragment(
        &mut self,
        operand: &Operand,
        count: usize,
        ty: Type,
        written: bool,
        words: &Words<'_>,
    ) -> Result<Vec<u32>> {
        let one = std::slice::from_ref(operand);
        let list = match operand {
            Operand::Vector(v) => v.as_slice(),
            _ => one,
        };
        if list.len() != count {
            return Err(words.error(format_args!(
                "a fragment of {count} registers was expected, {} are given",
                list.len()
            )));
        }
        let mut slot = |r: &Operand| match written {
            true => self.dst(r, ty, words),
            false => self.src(r, ty, words),
        };
        list.iter().map(&mut slot).collect()
    }

    /// `wmma.load`, `wmma.store` and `wmma.mma`.
    pub(crate) fn wmma(&mut self, words: &mut Words<'_>) -> Result<()> {
        let what = words.one_of(&[("load", 'l'), ("store", 's'), ("mma", 'm')]);
        let together = [words.flag("sync"), words.flag("aligned")];
        let shape = words.one_of(&[
            ("m16n16k16", Shape::M16N16K16),
            ("m8n32k16", Shape::M8N32K16),
            ("m32n8k16", Shape::M32N8K16),
            ("m16n16k8", Shape::M16N16K8),
            ("m8n8k4", Shape::M8N8K4),
        ]);
        match (what, shape, together) {
            (Some('m'), Some(shape), [true, true]) => self.wmma_mma(shape, words),
            (Some(what), Some(shape), [true, true]) => self.wmma_memory(shape, what == 's', words),
            _ => Err(words.error("this operation or shape of wmma is not implemented")),
        }
    }

    fn wmma_memory(&mut self, shape: Shape, store: bool, words: &mut Words<'_>) -> Result<()> {
        use Type::*;
        let role = match store {
            true => words.flag("d").then_some(Role::Sum),
            false => words.one_of(&[("a", Role::Left), ("b", Role::Right), ("c", Role::Sum)]),
        };
        let by_rows = words.one_of(&[("row", true), ("col", false)]);
        let space = words
            .one_of(&[
                ("global", MemSpace::Global),
                ("shared", MemSpace::Shared),
                ("shared::cta", MemSpace::Shared),
            ])
            .unwrap_or(MemSpace::Generic);
        let ty = words.one_type()?;
        let (Some(role), Some(by_rows)) = (role, by_rows) else {
            return Err(words.error("the matrix or its layout is missing"));
        };
        let sum = role == Role::Sum;
        let allowed = match shape {
            Shape::M16N16K16 | Shape::M8N32K16 | Shape::M32N8K16 => match sum {
                true => matches!(ty, F16 | F32 | S32),
                false => matches!(ty, F16 | BF16 | U8 | S8),
            },
            Shape::M16N16K8 => ty == if sum { F32 } else { TF32 },
            Shape::M8N8K4 => ty == F64,
        };
        if !allowed {
            return Err(words.error("this matrix of this shape has no such type"));
        }
        // tf32 numbers are f32 ones in memory.
        let fragment = Fragment {
            shape,
            role,
            element_bytes: ty.size() as usize,
            repeats: ty == F16 && !sum,
        };
        let o = Self::operands(words, 2..=3)?;
        let (address, list) = if store {
            (&o[0], &o[1])
        } else {
            (&o[1], &o[0])
        };
        let address = self.address(address, space, words)?;
        let stride = match o.get(2) {
            Some(stride) => self.src32(stride, B32, words)?,
            None => self.constant32(fragment.width(by_rows) as u32),
        };
        let file = if ty == F64 { F64 } else { B32 };
        let registers = self.fragment(list, fragment.registers(), file, !store, words)?;
        self.slow(Slow::WmmaMemory(WmmaMemory {
            fragment,
            by_rows,
            store,
            address,
            stride,
            registers,
        }));
        Ok(())
    }

    /// The product of whole matrices as `mma` of 16 by 8 tiles.
    fn wmma_mma(&mut self, shape: Shape, words: &mut Words<'_>) -> Result<()> {
        use Type::*;
        for _ in 0..2 {
            // Fragments are the same for both layouts.
            if words.one_of(&[("row", ()), ("col", ())]).is_none() {
                return Err(words.error("the layouts of A and B are missing"));
            }
        }
        let rounding = words.rounding();
        let saturate = words.flag("satfinite");
        let types = words.types();
        let (d, a, b, c) = match types[..] {
            [d, c] => (d, F16, F16, c),
            [d, a, b, c] if a != F16 => (d, a, b, c),
            _ => return Err(words.error("wmma.mma has the types of D and C, or of D, A, B and C")),
        };
        let k = shape.sizes()[2];
        let float = |input| {
            MmaKind::Float(Float {
                a: input,
                b: input,
                k,
                f16_c: c == F16,
                f16_d: d == F16,
            })
        };
        let sums = |ty| (d, c) == (ty, ty);
        let kind = match (shape, a) {
            (Shape::M8N8K4, F64) if sums(F64) => MmaKind::Double(Double {
                m: 8,
                k,
                rounding: rounding.unwrap_or(Rounding::Near),
            }),
            (Shape::M16N16K8, TF32) if sums(F32) => float(Input::Tf32),
            (Shape::M16N16K8 | Shape::M8N8K4, _) => {
                return Err(words.error("these types are not for this shape"));
            }
            (_, F16) if matches!(d, F16 | F32) && matches!(c, F16 | F32) => float(Input::F16),
            (_, BF16) if sums(F32) => float(Input::Bf16),
            (_, U8 | S8) if sums(S32) => MmaKind::Integer(Integer {
                m: 16,
                k,
                a_signed: a == S8,
                b_signed: a == S8,
                saturate,
            }),
            _ => return Err(words.error("these types are not implemented for wmma.mma")),
        };
        let double = matches!(kind, MmaKind::Double(_));
        let integer = matches!(kind, MmaKind::Integer(_));
        if a != b || saturate && !integer || rounding.is_some() && !double {
            return Err(words.error("these modifiers do not go together"));
        }
        let o = Self::operands(words, 4..=4)?;
        let file = if double { F64 } else { B32 };
        let mut whole: [Vec<u32>; 4] = Default::default();
        for (i, (role, ty)) in [
            (Role::Sum, d),
            (Role::Left, a),
            (Role::Right, b),
            (Role::Sum, c),
        ]
        .into_iter()
        .enumerate()
        {
            let fragment = Fragment {
                shape,
                role,
                element_bytes: ty.size() as usize,
                repeats: ty == F16 && role != Role::Sum,
            };
            whole[i] = self.fragment(&o[i], fragment.registers(), file, i == 0, words)?;
            // Copies of elements take no part.
            whole[i].truncate(fragment.different());
        }
        if shape.is_transposed() {
            whole.swap(1, 2);
        }
        let [left, right] = shape.tiles();
        let tiles = (0..left * right).map(|tile| {
            let part = |registers: &[u32], of: usize, index: usize| {
                let n = registers.len() / of;
                registers[n * index..n * (index + 1)].to_vec()
            };
            let registers = [
                part(&whole[0], left * right, tile),
                part(&whole[1], left, tile / right),
                part(&whole[2], right, tile % right),
                part(&whole[3], left * right, tile),
            ];
            Mma { kind, registers }
        });
        let tiles = tiles.collect();
        self.slow(Slow::WmmaMma(tiles));
        Ok(())
    }
}
