//! ld, st, atom, red, cp.async, prefetch, createpolicy, matrix loads and stores.

use super::function::{FunctionLowering, Result};
use super::op::*;
use super::words::Words;
use crate::check::hooks::{Order, Scope, Semantics};
use crate::ptx::ast::{Operand, Type};

/// State spaces as written; none is generic.
const SPACES: [(&str, MemSpace); 9] = [
    ("global", MemSpace::Global),
    ("const", MemSpace::Global),
    ("shared", MemSpace::Shared),
    ("shared::cta", MemSpace::Shared),
    ("shared::cluster", MemSpace::Shared),
    ("local", MemSpace::Local),
    ("param", MemSpace::Param),
    ("param::entry", MemSpace::Param),
    ("param::func", MemSpace::Param),
];

impl FunctionLowering<'_, '_> {
    pub(crate) fn ld_st(
        &mut self,
        words: &mut Words<'_>,
        store: bool,
        uniform: bool,
    ) -> Result<()> {
        let constant = words.flag("const");
        let space = match constant {
            true => MemSpace::Global,
            false => words.one_of(&SPACES).unwrap_or(MemSpace::Generic),
        };
        let order = self.order(words, store)?;
        let count = words
            .one_of(&[("v2", 2), ("v4", 4), ("v8", 8)])
            .unwrap_or(1);
        let ty = words.one_type()?;
        if ty == Type::Pred
            || matches!(
                ty,
                Type::F16x2 | Type::BF16x2 | Type::TF32 | Type::U16x2 | Type::S16x2
            )
        {
            return Err(words.error("this type is not for memory"));
        }
        let mut read_only = !store && (uniform || constant);
        if store {
            words.one_of(&[("wb", ()), ("cg", ()), ("cs", ()), ("wt", ())]);
        } else {
            words.one_of(&[("ca", ()), ("cg", ()), ("cs", ()), ("lu", ()), ("cv", ())]);
            read_only |= words.one_of(&[("nc", ())]).is_some();
        }
        let policy = words.cache_hints();
        let n = 2 + usize::from(policy);
        let o = Self::operands(words, n..=n)?;
        if policy {
            self.src64(&o[2], Type::B64, words)?;
        }
        let (address, value) = if store {
            (&o[0], &o[1])
        } else {
            (&o[1], &o[0])
        };
        let mut address = self.address(address, space, words)?;
        if space == MemSpace::Param && store && address.space == MemSpace::Param {
            return Err(words.error("a kernel's parameters cannot be written"));
        }
        if address.space == MemSpace::Global && address.base == Base::None {
            // Known at load: in range of the address type.
            address.offset &= i64::MAX;
        }
        let one = std::slice::from_ref(value);
        let values = match value {
            Operand::Vector(list) => list.as_slice(),
            _ => one,
        };
        if values.len() != count as usize {
            return Err(words.error(format_args!(
                "{count} registers were expected, {} are given",
                values.len()
            )));
        }
        let total = ty.size() * count;
        if total > 32 || total == 32 && count != 8 && count != 4 && count != 2 {
            return Err(words.error("a vector has at most 32 bytes"));
        }
        let mut mem = Mem {
            address,
            size: ty.size(),
            count,
            signed: matches!(ty, Type::S8 | Type::S16 | Type::S32),
            regs: [NONE; 8],
            reg64: false,
            reg16: false,
            order,
            read_only,
            poll: !store && !matches!(order, Order::Weak),
        };
        let mut files = Vec::new();
        for (i, v) in values.iter().enumerate() {
            if *v == Operand::Sink && !store {
                continue;
            }
            let (slot, size) = self.memory_register(v, ty, store, words)?;
            files.push(size);
            mem.regs[i] = slot;
        }
        let size = files.first().copied().unwrap_or(4);
        if files.iter().any(|&f| f != size) {
            return Err(words.error("the registers of a vector have different sizes"));
        }
        mem.reg64 = size >= 8;
        mem.reg16 = size == 2;
        let index = self.image.code.mems.len() as u32;
        self.image.code.mems.push(mem);
        self.emit(if store { Op::St(index) } else { Op::Ld(index) }, 0, [0; 4]);
        Ok(())
    }

    /// A register that a load or store uses: at least as wide as the type. Slot and bytes.
    fn memory_register(
        &mut self,
        operand: &Operand,
        ty: Type,
        store: bool,
        words: &Words<'_>,
    ) -> Result<(u32, u32)> {
        match operand {
            Operand::Register(id) => {
                let size = self.reg_type(*id).size();
                let slot = match self.reg(*id) {
                    Reg::R32(slot) | Reg::R64(slot)
                        if size >= ty.size() && (size < 16 || ty.size() == 16) =>
                    {
                        slot
                    }
                    _ => return Err(words.error("the register is narrower than the type")),
                };
                Ok((slot, size))
            }
            _ if store => match ty.size() {
                1 => Ok((self.src32(operand, Type::B32, words)?, 4)),
                2 | 4 => Ok((self.src32(operand, ty, words)?, ty.size())),
                8 => Ok((self.src64(operand, ty, words)?, 8)),
                _ => Err(words.error("a register was expected")),
            },
            _ => Err(words.error("a register was expected")),
        }
    }

    fn order(&mut self, words: &mut Words<'_>, store: bool) -> Result<Order> {
        if words.flag("volatile") {
            return Ok(Order::Strong(Semantics::Relaxed, Scope::Sys));
        }
        if words.flag("weak") {
            return Ok(Order::Weak);
        }
        let semantics = words.one_of(&[
            ("relaxed", Semantics::Relaxed),
            ("acquire", Semantics::Acquire),
            ("release", Semantics::Release),
        ]);
        let Some(semantics) = semantics else {
            return Ok(Order::Weak);
        };
        let wrong = if store {
            Semantics::Acquire
        } else {
            Semantics::Release
        };
        match words.scope() {
            Some(scope) if semantics != wrong => Ok(Order::Strong(semantics, scope)),
            _ => Err(words.error("these memory semantics are not allowed here")),
        }
    }

    pub(crate) fn atom(&mut self, words: &mut Words<'_>, red: bool) -> Result<()> {
        use Type::*;
        let space = words.one_of(&SPACES[..5]).unwrap_or(MemSpace::Generic);
        let semantics = words
            .one_of(&[
                ("relaxed", Semantics::Relaxed),
                ("acquire", Semantics::Acquire),
                ("release", Semantics::Release),
                ("acq_rel", Semantics::AcquireRelease),
            ])
            .unwrap_or(Semantics::Relaxed);
        let scope = words.scope().unwrap_or(Scope::Gpu);
        let op = words.one_of(&[
            ("and", AtomOp::And),
            ("or", AtomOp::Or),
            ("xor", AtomOp::Xor),
            ("exch", AtomOp::Exch),
            ("cas", AtomOp::Cas),
            ("add", AtomOp::Add),
            ("inc", AtomOp::Inc),
            ("dec", AtomOp::Dec),
            ("min", AtomOp::Min),
            ("max", AtomOp::Max),
        ]);
        let Some(op) = op else {
            return Err(words.error("the atomic operation is missing or not implemented"));
        };
        let noftz = words.flag("noftz");
        let count = words
            .one_of(&[("v2", 2), ("v4", 4), ("v8", 8)])
            .unwrap_or(1u32);
        let ty = words.one_type()?;
        let policy = words.cache_hints();
        use AtomOp::*;
        let atom_type = match (op, ty) {
            (And | Or | Xor, B32) | (Exch | Cas, B32 | U32 | S32) => AtomType::U32,
            (And | Or | Xor, B64) | (Exch | Cas, B64 | U64 | S64) => AtomType::U64,
            (Exch | Cas, B128) => AtomType::B128,
            (Exch, F32) => AtomType::U32,
            (Exch, F64) => AtomType::U64,
            (Cas, B16 | U16 | S16) => AtomType::B16,
            (Inc | Dec, U32) => AtomType::U32,
            (Add | Min | Max, U32) => AtomType::U32,
            (Add | Min | Max, S32) => AtomType::S32,
            (Add | Min | Max, U64) => AtomType::U64,
            (Add | Min | Max, S64) => AtomType::S64,
            // Global atomics keep subnormals only without the flush that older hardware does; sm_70 and later keep them.
            (Add, F32) => AtomType::F32 { ftz: false },
            (Add, F64) => AtomType::F64,
            (Add, F16) | (Min | Max, F16) if noftz => AtomType::F16,
            (Add, BF16) | (Min | Max, BF16) if noftz => AtomType::Bf16,
            (Add, F16x2) | (Min | Max, F16x2) if noftz => AtomType::F16x2,
            (Add, BF16x2) | (Min | Max, BF16x2) if noftz => AtomType::Bf16x2,
            _ => return Err(words.error("this operation is not implemented for this type")),
        };
        let half = matches!(
            atom_type,
            AtomType::F16 | AtomType::Bf16 | AtomType::F16x2 | AtomType::Bf16x2
        );
        if noftz && !half {
            return Err(words.error(".noftz is for 16-bit floats"));
        }
        if op != Add && half && count == 1 {
            return Err(words.error("min and max of 16-bit floats have vector forms only"));
        }
        if count > 1 {
            let ok = (ty == F32 && op == Add && count <= 4)
                || matches!(ty, F16 | BF16)
                || matches!(ty, F16x2 | BF16x2) && count <= 4;
            if !ok || space != MemSpace::Global && space != MemSpace::Generic {
                return Err(words.error("this vector form is not implemented"));
            }
        }
        if red && matches!(op, Exch | Cas) {
            return Err(words.error("red has no exch and no cas"));
        }
        let n = 2 + usize::from(!red) + usize::from(op == Cas) + usize::from(policy);
        let o = Self::operands(words, n..=n)?;
        let (dst, rest) = if red {
            (None, o)
        } else {
            (Some(&o[0]), &o[1..])
        };
        let address = self.address(&rest[0], space, words)?;
        if !matches!(
            address.space,
            MemSpace::Global | MemSpace::Shared | MemSpace::Generic
        ) {
            return Err(words.error("atomics work on global and shared memory"));
        }
        let list = |operand: &Operand| match operand {
            Operand::Vector(v) => v.clone(),
            other => vec![other.clone()],
        };
        let mut atom = Atom {
            address,
            op,
            ty: atom_type,
            count,
            d: [NONE; 8],
            b: [NONE; 8],
            c: 0,
            order: Order::Strong(semantics, scope),
        };
        let sources = list(&rest[1]);
        if sources.len() != count as usize {
            return Err(words.error(format_args!("{count} source registers were expected")));
        }
        for (slot, operand) in atom.b.iter_mut().zip(&sources) {
            *slot = self.src(operand, ty, words)?;
        }
        if op == Cas {
            atom.c = self.src(&rest[2], ty, words)?;
        }
        if policy {
            self.src64(&rest[rest.len() - 1], B64, words)?;
        }
        if let Some(dst) = dst {
            let dst = list(dst);
            if dst.len() != count as usize && dst != [Operand::Sink] {
                return Err(
                    words.error(format_args!("{count} destination registers were expected"))
                );
            }
            for (slot, operand) in atom.d.iter_mut().zip(&dst) {
                if *operand != Operand::Sink {
                    *slot = self.dst(operand, ty, words)?;
                }
            }
        }
        self.slow(Slow::Atom(atom));
        Ok(())
    }

    /// `cp.async…`; the bulk and tensor forms belong to sm_90.
    pub(crate) fn cp(&mut self, words: &mut Words<'_>) -> Result<()> {
        if !words.flag("async") {
            return Err(words.error("only cp.async is implemented"));
        }
        if words.flag("commit_group") {
            Self::operands(words, 0..=0)?;
            self.slow(Slow::CpAsyncCommit);
            return Ok(());
        }
        if words.flag("wait_all") {
            Self::operands(words, 0..=0)?;
            self.slow(Slow::CpAsyncWait {
                pending: 0,
                all: true,
            });
            return Ok(());
        }
        if words.flag("wait_group") {
            let o = Self::operands(words, 1..=1)?;
            let Operand::Immediate(crate::ptx::ast::Immediate::Integer(n @ 0..=0xffff)) = o[0]
            else {
                return Err(words.error("the number of pending groups is an immediate"));
            };
            self.slow(Slow::CpAsyncWait {
                pending: n as u32,
                all: false,
            });
            return Ok(());
        }
        let cg = match words.one_of(&[("ca", false), ("cg", true)]) {
            Some(cg) => cg,
            None => return Err(words.error("this form of cp.async is not implemented")),
        };
        let shared = words.flag("shared") || words.flag("shared::cta");
        let global = words.flag("global");
        if !shared || !global {
            return Err(words.error("cp.async copies from .global to .shared"));
        }
        let policy = words.cache_hints();
        let n = usize::from(policy);
        let o = Self::operands(words, 3 + n..=4 + n)?;
        let dst = self.address(&o[0], MemSpace::Shared, words)?;
        let src = self.address(&o[1], MemSpace::Global, words)?;
        let Operand::Immediate(crate::ptx::ast::Immediate::Integer(size)) = o[2] else {
            return Err(words.error("the size is an immediate"));
        };
        let allowed: &[i64] = if cg { &[16] } else { &[4, 8, 16] };
        if !allowed.contains(&size) {
            return Err(words.error(format_args!("the size is one of {allowed:?}, not {size}")));
        }
        if policy {
            self.src64(&o[o.len() - 1], Type::B64, words)?;
        }
        let mut copy = CpAsync {
            dst,
            src,
            size: size as u32,
            src_size: NONE,
            ignore: None,
        };
        if o.len() == 4 + n {
            match &o[3] {
                Operand::Register(id) if matches!(self.reg(*id), Reg::P(_)) => {
                    copy.ignore = Some(self.pred(&o[3], words)?);
                }
                Operand::NotRegister(_) => copy.ignore = Some(self.pred(&o[3], words)?),
                other => copy.src_size = self.src32(other, Type::U32, words)?,
            }
        }
        self.slow(Slow::CpAsync(copy));
        Ok(())
    }

    /// Hints: the address is not even looked at, as on hardware an invalid one is dropped.
    pub(crate) fn prefetch(&mut self, words: &mut Words<'_>) -> Result<()> {
        if !words.flag("L1")
            && !words.flag("L2")
            && !words.flag("L2::evict_last")
            && !words.flag("L2::evict_normal")
        {
            return Err(words.error("this prefetch is not implemented"));
        }
        let space = words.one_of(&SPACES[..6]).unwrap_or(MemSpace::Generic);
        let o = Self::operands(words, 1..=1)?;
        self.address(&o[0], space, words)?;
        self.slow(Slow::Prefetch);
        Ok(())
    }

    /// `discard.global.L2 [a], 128`: a weak write of values that nobody knows.
    pub(crate) fn discard(&mut self, words: &mut Words<'_>) -> Result<()> {
        let space = words.one_of(&SPACES[..1]).unwrap_or(MemSpace::Generic);
        let o = Self::operands(words, 2..=2)?;
        let size = Operand::Immediate(crate::ptx::ast::Immediate::Integer(128));
        if !words.flag("L2") || o[1] != size {
            return Err(words.error("discard has .L2 and the size 128"));
        }
        let address = self.address(&o[0], space, words)?;
        self.slow(Slow::Discard { address });
        Ok(())
    }

    /// `applypriority.global.L2::evict_normal [a], 128`.
    pub(crate) fn apply_priority(&mut self, words: &mut Words<'_>) -> Result<()> {
        if !words.flag("L2::evict_normal") {
            return Err(words.error("applypriority needs .L2::evict_normal"));
        }
        let space = words.one_of(&SPACES[..1]).unwrap_or(MemSpace::Generic);
        let o = Self::operands(words, 2..=2)?;
        self.address(&o[0], space, words)?;
        self.slow(Slow::Prefetch);
        Ok(())
    }

    pub(crate) fn createpolicy(&mut self, words: &mut Words<'_>) -> Result<()> {
        let kind = words.one_of(&[("fractional", 'f'), ("range", 'r'), ("cvt", 'c')]);
        words.cache_hints();
        let ty = words.one_type()?;
        if ty != Type::B64 {
            return Err(words.error("a policy has 64 bits"));
        }
        let o = match kind {
            Some('f') => Self::operands(words, 1..=2)?,
            Some('r') => Self::operands(words, 4..=4)?,
            Some('c') if words.flag("L2") => Self::operands(words, 2..=2)?,
            _ => return Err(words.error("createpolicy is .fractional, .range or .cvt.L2")),
        };
        let d = self.dst(&o[0], ty, words)?;
        match (kind, &o[1..]) {
            (Some('f'), [fraction]) => {
                self.src32(fraction, Type::F32, words)?;
            }
            (Some('r'), [address, primary, total]) => {
                let space = words.one_of(&SPACES[..1]).unwrap_or(MemSpace::Generic);
                self.address(address, space, words)?;
                self.src32(primary, Type::B32, words)?;
                self.src32(total, Type::B32, words)?;
            }
            (Some('c'), [property]) => {
                self.src64(property, ty, words)?;
            }
            _ => {}
        }
        self.slow(Slow::CreatePolicy { d });
        Ok(())
    }

    pub(crate) fn ldmatrix(&mut self, words: &mut Words<'_>, store: bool) -> Result<()> {
        let matrices = words.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]);
        let trans = words.flag("trans");
        let required = [
            words.flag("sync"),
            words.flag("aligned"),
            words.flag("m8n8"),
        ];
        let shared = words.flag("shared") || words.flag("shared::cta");
        let ty = words.one_type()?;
        let (Some(matrices), [true, true, true], Type::B16) = (matrices, required, ty) else {
            return Err(
                words.error("only .sync.aligned.m8n8 with .x1, .x2 or .x4 and .b16 is implemented")
            );
        };
        let space = if shared {
            MemSpace::Shared
        } else {
            MemSpace::Generic
        };
        let o = Self::operands(words, 2..=2)?;
        let (address, list) = if store {
            (&o[0], &o[1])
        } else {
            (&o[1], &o[0])
        };
        let address = self.address(address, space, words)?;
        let one = std::slice::from_ref(list);
        let list = match list {
            Operand::Vector(v) => v.as_slice(),
            _ => one,
        };
        if list.len() != matrices as usize {
            return Err(words.error(format_args!("{matrices} registers were expected")));
        }
        let mut regs = [NONE; 4];
        for (slot, operand) in regs.iter_mut().zip(list) {
            *slot = match store {
                false => self.dst(operand, Type::B32, words)?,
                true => self.src32(operand, Type::B32, words)?,
            };
        }
        let op = Matrices {
            address,
            trans,
            registers: regs,
        };
        self.slow(match store {
            false => Slow::Ldmatrix(op),
            true => Slow::Stmatrix(op),
        });
        Ok(())
    }

    pub(crate) fn movmatrix(&mut self, words: &mut Words<'_>) -> Result<()> {
        let required = [
            words.flag("sync"),
            words.flag("aligned"),
            words.flag("m8n8"),
            words.flag("trans"),
        ];
        let ty = words.one_type()?;
        if required != [true; 4] || ty != Type::B16 {
            return Err(words.error("only movmatrix.sync.aligned.m8n8.trans.b16 is implemented"));
        }
        let o = Self::operands(words, 2..=2)?;
        let a = self.src32(&o[1], Type::B32, words)?;
        let d = self.dst(&o[0], Type::B32, words)?;
        self.slow(Slow::Movmatrix { d, a });
        Ok(())
    }
}
