//! One function's lowering: registers to slots, operands to slots, emission.

use std::collections::HashMap;

use super::image::{Image, Place};
use super::op::{Address, Base, HELPER, Inst, Int, MemSpace, Op, PredOp, Reg, Special, Value};
use super::program::LowerError;
use super::words::Words;
use crate::ptx::ast::{self, AddressBase, Immediate, Instruction, Operand, RegId, Space, Type};

/// What is wrong where `_` is given as a source.
const SINK_AS_SOURCE: &str = "`_` discards a result and cannot be a source";

pub(crate) type Result<T> = std::result::Result<T, LowerError>;

pub(crate) struct FunctionLowering<'a, 'b> {
    pub(crate) image: &'b mut Image<'a>,
    pub(crate) func: &'a ast::Function,
    regs: Vec<Reg>,
    places: HashMap<&'a str, Place>,
    n32: u32,
    n64: u32,
    np: u32,
    pub(crate) frame: u32,
    const32: HashMap<u32, u32>,
    const64: HashMap<u64, u32>,
    /// Guard of the instruction at hand, a predicate reference.
    guard: u32,
    line: u32,
    /// Branches to patch: they hold a label's index until the end.
    pub(crate) brx: Vec<usize>,
}

/// Always true.
pub(crate) const TRUE: u32 = 0;

impl<'a, 'b> FunctionLowering<'a, 'b> {
    pub(crate) fn new(image: &'b mut Image<'a>, func: &'a ast::Function) -> Result<Self> {
        let mut this = Self {
            image,
            func,
            regs: Vec::new(),
            places: HashMap::new(),
            n32: 0,
            n64: 0,
            np: 1,
            frame: 0,
            const32: HashMap::new(),
            const64: HashMap::new(),
            guard: TRUE << 1,
            line: func.line,
            brx: Vec::new(),
        };
        for register in &func.registers {
            let reg = match register.ty {
                Type::Pred => Reg::P(this.new_pred()),
                Type::B128 => {
                    this.n64 += 2;
                    Reg::R64(this.n64 - 2)
                }
                ty if ty.size() == 8 => Reg::R64(this.new64()),
                _ => Reg::R32(this.new32()),
            };
            this.regs.push(reg);
        }
        for v in &func.variables {
            let place = match v.space {
                Space::Shared => match this.image.shared_address(func, &v.name) {
                    Some(a) => Place::Shared(a),
                    None => continue,
                },
                Space::Local => Place::Local(this.take_frame(v.size, v.align)?),
                Space::Param => Place::FrameParam(this.take_frame(v.size, v.align)?, v.size as u32),
                Space::Global | Space::Const | Space::Reg => {
                    return Err(LowerError {
                        line: v.line,
                        message: format!(
                            "{}: a variable of this state space inside a function is not implemented",
                            v.name
                        ),
                    });
                }
            };
            this.places.insert(&v.name, place);
        }
        Ok(this)
    }

    /// Bytes of the local frame.
    pub(crate) fn take_frame(&mut self, size: u64, align: u32) -> Result<u32> {
        let start = self.frame.next_multiple_of(align.clamp(1, 1 << 16));
        let end = u64::from(start) + size;
        // 512 KiB is what the hardware allows a thread.
        if end > 512 << 10 {
            return Err(LowerError {
                line: self.func.line,
                message: format!(
                    "{} needs {end} bytes of local memory a thread, more than 512 KiB",
                    self.func.name
                ),
            });
        }
        self.frame = end as u32;
        Ok(start)
    }

    pub(crate) fn place_kernel_param(&mut self, name: &'a str, offset: u32) {
        self.places.insert(name, Place::KernelParam(offset));
    }

    pub(crate) fn place_frame_param(&mut self, param: &'a ast::Param) -> Result<Value> {
        if let Some(register) = param.register {
            return Ok(Value::Reg(self.regs[register.0 as usize]));
        }
        let offset = self.take_frame(param.size, param.align)?;
        let size = param.size as u32;
        self.places
            .insert(&param.name, Place::FrameParam(offset, size));
        Ok(Value::Frame(offset, size))
    }

    /// What a name stands for.
    pub(crate) fn place(&mut self, name: &str, words: &Words<'_>) -> Result<Place> {
        if let Some(&place) = self.places.get(name) {
            return Ok(place);
        }
        if let Some(place) = self.image.module_place(name) {
            return Ok(place);
        }
        Err(words.error(format_args!("nothing is called {name}")))
    }

    pub(crate) fn new32(&mut self) -> u32 {
        self.n32 += 1;
        self.n32 - 1
    }

    pub(crate) fn new64(&mut self) -> u32 {
        self.n64 += 1;
        self.n64 - 1
    }

    pub(crate) fn new_pred(&mut self) -> u32 {
        self.np += 1;
        self.np - 1
    }

    pub(crate) fn constant32(&mut self, bits: u32) -> u32 {
        if let Some(&slot) = self.const32.get(&bits) {
            return slot;
        }
        let slot = self.new32();
        self.const32.insert(bits, slot);
        slot
    }

    pub(crate) fn constant64(&mut self, bits: u64) -> u32 {
        if let Some(&slot) = self.const64.get(&bits) {
            return slot;
        }
        let slot = self.new64();
        self.const64.insert(bits, slot);
        slot
    }

    /// Starts an instruction: its guard and line hold for what is emitted.
    pub(crate) fn begin(&mut self, inst: &Instruction, words: &Words<'_>) -> Result<()> {
        self.line = inst.line;
        self.guard = match inst.guard {
            None => TRUE << 1,
            Some(g) => match self.reg(g.register) {
                Reg::P(slot) => slot << 1 | u32::from(g.negated),
                _ => return Err(words.error("the guard is not a predicate")),
            },
        };
        Ok(())
    }

    /// Emits an operation under the instruction's guard.
    pub(crate) fn emit(&mut self, op: Op, d: u32, [a, b, c, e]: [u32; 4]) {
        let guard = self.guard | HELPER;
        self.push(Inst {
            op,
            guard,
            d,
            a,
            b,
            c,
            e,
        });
    }

    fn push(&mut self, inst: Inst) {
        let code = &mut self.image.code;
        code.insts.push(inst);
        code.lines.push(self.line);
    }

    pub(crate) fn slow(&mut self, slow: super::op::Slow) {
        let index = self.image.code.slow.len() as u32;
        self.image.code.slow.push(slow);
        self.emit(Op::Slow(index), 0, [0; 4]);
    }

    pub(crate) fn reg(&self, id: RegId) -> Reg {
        self.regs[id.0 as usize]
    }

    pub(crate) fn reg_type(&self, id: RegId) -> Type {
        self.func.registers[id.0 as usize].ty
    }

    fn same_size(&self, id: RegId, ty: Type, words: &Words<'_>) -> Result<()> {
        let have = self.reg_type(id).size();
        if have == ty.size() {
            return Ok(());
        }
        let name = &self.func.registers[id.0 as usize].name;
        Err(words.error(format_args!(
            "register {name} has {} bits, an operand of {} was expected",
            8 * have,
            8 * ty.size()
        )))
    }

    /// Bits of an immediate as an operand of a type of at most 32 bits.
    fn bits32(imm: Immediate, ty: Type, words: &Words<'_>) -> Result<u32> {
        use Type::*;
        match (imm, ty) {
            (Immediate::Integer(_), F32) => Err(words.error("a float immediate was expected")),
            (Immediate::Integer(i), _) if ty.size() == 2 => Ok(i as u32 & 0xffff),
            (Immediate::Integer(i), _) => Ok(i as u32),
            (Immediate::F32(bits), F32 | B32 | TF32) => Ok(bits),
            (Immediate::F64(bits), F32) => Ok((f64::from_bits(bits) as f32).to_bits()),
            _ => Err(words.error("an immediate of another type was expected")),
        }
    }

    fn bits64(imm: Immediate, ty: Type, words: &Words<'_>) -> Result<u64> {
        match (imm, ty) {
            (Immediate::Integer(_), Type::F64) => {
                Err(words.error("a float immediate was expected"))
            }
            (Immediate::Integer(i), _) => Ok(i as u64),
            (Immediate::F64(bits), Type::F64 | Type::B64) => Ok(bits),
            (Immediate::F32(bits), Type::F64) => Ok(f64::from(f32::from_bits(bits)).to_bits()),
            _ => Err(words.error("an immediate of another type was expected")),
        }
    }

    /// A source of 16 or 32 bits.
    pub(crate) fn src32(&mut self, operand: &Operand, ty: Type, words: &Words<'_>) -> Result<u32> {
        match operand {
            Operand::Register(id) => {
                self.same_size(*id, ty, words)?;
                match self.reg(*id) {
                    Reg::R32(slot) => Ok(slot),
                    _ => Err(words.error("a 32-bit register was expected")),
                }
            }
            Operand::Immediate(imm) => {
                let bits = Self::bits32(*imm, ty, words)?;
                Ok(self.constant32(bits))
            }
            Operand::Special(name) => {
                let slot = self.new32();
                self.special(name, Reg::R32(slot), ty, words)?;
                Ok(slot)
            }
            Operand::Symbol { name, addend }
            | Operand::Element {
                name,
                offset: addend,
            } => match self.place(name, words)? {
                Place::Shared(a) => Ok(self.constant32(a.wrapping_add(*addend as u32))),
                Place::KernelParam(a) => Ok(self.constant32(a.wrapping_add(*addend as u32))),
                // Triton keeps addresses in the local window in 32 bits.
                Place::Local(offset) => {
                    let (wide, low, high) = (self.new64(), self.new32(), self.new32());
                    let offset = offset.wrapping_add(*addend as u32);
                    self.emit(Op::LocalAddress, wide, [offset, 0, 0, 0]);
                    self.emit(Op::Unpack64, low, [wide, 0, 0, high]);
                    Ok(low)
                }
                _ => Err(words.error(format_args!("the address of {name} needs 64 bits"))),
            },
            Operand::Sink => Err(words.error(SINK_AS_SOURCE)),
            _ => Err(words.error("a register or an immediate was expected")),
        }
    }

    /// A source of 64 bits.
    pub(crate) fn src64(&mut self, operand: &Operand, ty: Type, words: &Words<'_>) -> Result<u32> {
        match operand {
            Operand::Register(id) => {
                self.same_size(*id, ty, words)?;
                match self.reg(*id) {
                    Reg::R64(slot) => Ok(slot),
                    _ => Err(words.error("a 64-bit register was expected")),
                }
            }
            Operand::Immediate(imm) => {
                let bits = Self::bits64(*imm, ty, words)?;
                Ok(self.constant64(bits))
            }
            Operand::Special(name) => {
                let slot = self.new64();
                self.special(name, Reg::R64(slot), ty, words)?;
                Ok(slot)
            }
            Operand::Symbol { name, addend }
            | Operand::Element {
                name,
                offset: addend,
            } => {
                let value = match self.place(name, words)? {
                    Place::Global(a) | Place::Function(a) => a,
                    Place::Shared(a) | Place::KernelParam(a) => u64::from(a),
                    Place::Local(offset) | Place::FrameParam(offset, _) => {
                        let slot = self.new64();
                        let offset = offset.wrapping_add(*addend as u32);
                        self.emit(Op::LocalAddress, slot, [offset, 0, 0, 0]);
                        return Ok(slot);
                    }
                };
                Ok(self.constant64(value.wrapping_add_signed(*addend)))
            }
            Operand::Sink => Err(words.error(SINK_AS_SOURCE)),
            _ => Err(words.error("a register, an immediate or a name was expected")),
        }
    }

    /// A source in the file that its type's size says.
    pub(crate) fn src(&mut self, operand: &Operand, ty: Type, words: &Words<'_>) -> Result<u32> {
        match ty.size() {
            2 | 4 => self.src32(operand, ty, words),
            8 => self.src64(operand, ty, words),
            16 => match operand {
                Operand::Register(id) if self.reg_type(*id) == Type::B128 => match self.reg(*id) {
                    Reg::R64(slot) => Ok(slot),
                    _ => Err(words.error("a 128-bit register was expected")),
                },
                _ => Err(words.error("a 128-bit register was expected")),
            },
            _ => Err(words.error(format_args!("operands of type {ty:?} are not implemented"))),
        }
    }

    /// A destination in the file that its type's size says; `NONE` for a sink.
    pub(crate) fn dst(&mut self, operand: &Operand, ty: Type, words: &Words<'_>) -> Result<u32> {
        match operand {
            Operand::Register(id) => {
                self.same_size(*id, ty, words)?;
                match (self.reg(*id), ty.size()) {
                    (Reg::R32(slot), 1 | 2 | 4) | (Reg::R64(slot), 8 | 16) => Ok(slot),
                    _ => Err(words.error("a register of the instruction's type was expected")),
                }
            }
            Operand::Sink => match ty.size() {
                1 | 2 | 4 => Ok(self.new32()),
                8 => Ok(self.new64()),
                _ => Err(words.error("a sink of this size is not implemented")),
            },
            _ => Err(words.error("a register was expected as destination")),
        }
    }

    /// A source predicate's reference.
    pub(crate) fn pred(&mut self, operand: &Operand, words: &Words<'_>) -> Result<u32> {
        match operand {
            Operand::Register(id) | Operand::NotRegister(id) => match self.reg(*id) {
                Reg::P(slot) => {
                    Ok(slot << 1 | u32::from(matches!(operand, Operand::NotRegister(_))))
                }
                _ => Err(words.error("a predicate was expected")),
            },
            Operand::Immediate(Immediate::Integer(i)) => Ok(TRUE << 1 | u32::from(*i == 0)),
            _ => Err(words.error("a predicate was expected")),
        }
    }

    pub(crate) fn dst_pred(&mut self, operand: &Operand, words: &Words<'_>) -> Result<u32> {
        match operand {
            Operand::Register(id) => match self.reg(*id) {
                Reg::P(slot) => Ok(slot),
                _ => Err(words.error("a predicate was expected as destination")),
            },
            Operand::Sink => Ok(self.new_pred()),
            _ => Err(words.error("a predicate was expected as destination")),
        }
    }

    /// `d` or `d|p`.
    pub(crate) fn split_pair(operand: &Operand) -> (&Operand, Option<&Operand>) {
        match operand {
            Operand::Pair(d, p) => (d, Some(p)),
            d => (d, None),
        }
    }

    /// Checks the number of operands.
    pub(crate) fn operands<'o>(
        words: &Words<'o>,
        allowed: std::ops::RangeInclusive<usize>,
    ) -> Result<&'o [Operand]> {
        let n = words.inst.operands.len();
        if allowed.contains(&n) {
            return Ok(&words.inst.operands);
        }
        let (low, high) = (allowed.start(), allowed.end());
        Err(words.error(match low == high {
            true => format!("{low} operands were expected, {n} are given"),
            false => format!("{low} to {high} operands were expected, {n} are given"),
        }))
    }

    /// An address operand in a state space.
    pub(crate) fn address(
        &mut self,
        operand: &Operand,
        space: MemSpace,
        words: &Words<'_>,
    ) -> Result<Address> {
        let element;
        let (base, offset) = match operand {
            Operand::Address { base, offset } => (base, *offset),
            Operand::Element { name, offset } => {
                element = AddressBase::Symbol(name.clone());
                (&element, *offset)
            }
            _ => return Err(words.error("an address in brackets was expected")),
        };
        // In a device function, `.param` is part of the frame; so are a caller's argument variables.
        let entry = self.func.entry;
        let address = |space, base, offset| Address {
            space,
            base,
            offset,
        };
        match base {
            AddressBase::Register(id) => {
                let space = match space {
                    MemSpace::Param if !entry => MemSpace::Local,
                    other => other,
                };
                match (self.reg(*id), self.reg_type(*id).size()) {
                    (Reg::R32(slot), 4) => Ok(address(space, Base::R32(slot), offset)),
                    (Reg::R64(slot), 8) => Ok(address(space, Base::R64(slot), offset)),
                    _ => Err(words.error("an address register has 32 or 64 bits")),
                }
            }
            AddressBase::Absolute => {
                if space == MemSpace::Param {
                    return Err(words.error("an absolute parameter address is not allowed"));
                }
                Ok(address(space, Base::None, offset))
            }
            AddressBase::Symbol(name) => match (self.place(name, words)?, space) {
                (Place::Global(a), MemSpace::Global | MemSpace::Generic) => Ok(address(
                    MemSpace::Global,
                    Base::None,
                    offset.wrapping_add_unsigned(a),
                )),
                (Place::Shared(a), MemSpace::Shared) => {
                    Ok(address(space, Base::None, offset + i64::from(a)))
                }
                (Place::Local(o), MemSpace::Local) | (Place::FrameParam(o, _), MemSpace::Param) => {
                    Ok(address(MemSpace::Local, Base::Frame, offset + i64::from(o)))
                }
                (Place::KernelParam(o), MemSpace::Param) => {
                    Ok(address(space, Base::None, offset + i64::from(o)))
                }
                _ => Err(words.error(format_args!(
                    "{name} is not in this instruction's state space"
                ))),
            },
        }
    }

    /// Reads a special register into a slot.
    pub(crate) fn special(
        &mut self,
        name: &str,
        d: Reg,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<()> {
        if name == "WARP_SZ" {
            match d {
                Reg::R32(d) => {
                    let c = self.constant32(32);
                    self.emit(Op::Mov32, d, [c, 0, 0, 0]);
                }
                Reg::R64(d) => {
                    let c = self.constant64(32);
                    self.emit(Op::Mov64, d, [c, 0, 0, 0]);
                }
                Reg::P(_) => return Err(words.error("a predicate cannot hold WARP_SZ")),
            }
            return Ok(());
        }
        let (special, wide) = special_of(name).ok_or_else(|| {
            words.error(format_args!("special register {name} is not implemented"))
        })?;
        match (d, wide, ty.size()) {
            (Reg::R32(d), false, 4) | (Reg::R64(d), true, 8) => {
                self.emit(Op::Special(special), d, [0; 4]);
                Ok(())
            }
            // `mov.u16 %rs, %tid.x` takes the low half.
            (Reg::R32(d), false, 2) => {
                let t = self.new32();
                let mask = self.constant32(0xffff);
                self.emit(Op::Special(special), t, [0; 4]);
                self.emit(Op::I32(Int::And), d, [t, mask, 0, 0]);
                Ok(())
            }
            _ => Err(words.error(format_args!(
                "{name} has {} bits, not {}",
                if wide { 64 } else { 32 },
                8 * ty.size()
            ))),
        }
    }

    /// Lowers the body.
    pub(crate) fn body(&mut self) -> Result<()> {
        let func = self.func;
        let body = func.body.as_deref().unwrap_or_default();
        let first = self.image.code.insts.len();
        let mut starts = Vec::with_capacity(body.len() + 1);
        for inst in body {
            starts.push(self.image.code.insts.len() as u32);
            let mut w = Words::new(inst, func);
            self.begin(inst, &w)?;
            let before = self.image.code.insts.len();
            self.instruction(&mut w)?;
            w.done()?;
            if self.image.code.insts.len() == before {
                // A hint with nothing to do still counts as an instruction.
                self.emit(Op::Pred(PredOp::Mov), 0, [TRUE << 1, 0, 0, 0]);
            }
            if let Some(last) = self.image.code.insts.last_mut() {
                last.guard &= !HELPER;
            }
        }
        starts.push(self.image.code.insts.len() as u32);
        // Control that runs off the end returns.
        self.guard = TRUE << 1;
        self.emit(Op::Ret, 0, [0; 4]);
        let target = |label: u32| starts[func.labels[label as usize].min(body.len())];
        for inst in &mut self.image.code.insts[first..] {
            if let Op::Bra(label) = &mut inst.op {
                *label = target(*label);
            }
        }
        for &index in &self.brx {
            if let super::op::Slow::Brx { targets, .. } = &mut self.image.code.slow[index] {
                for t in targets {
                    *t = target(*t);
                }
            }
        }
        Ok(())
    }

    /// The function as the executor needs it.
    pub(crate) fn finish(
        self,
        entry: u32,
        address: u64,
        params: Vec<Value>,
        returns: Vec<Value>,
    ) -> super::op::Function {
        let mut const32: Vec<_> = self
            .const32
            .iter()
            .map(|(&bits, &slot)| (slot, bits))
            .collect();
        let mut const64: Vec<_> = self
            .const64
            .iter()
            .map(|(&bits, &slot)| (slot, bits))
            .collect();
        const32.sort_unstable();
        const64.sort_unstable();
        super::op::Function {
            name: self.func.name.clone(),
            address,
            entry,
            // Unused operand fields are slot 0, which must exist.
            r32: self.n32.max(1),
            r64: self.n64.max(1),
            preds: self.np,
            const32,
            const64,
            frame: self.frame.next_multiple_of(16),
            params,
            returns,
        }
    }
}

/// A special register, and whether it has 64 bits.
fn special_of(name: &str) -> Option<(Special, bool)> {
    let axis = |c: &str| match c {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((base, component)) = name.split_once('.') {
        let axis = axis(component)?;
        let special = match base {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            _ => return None,
        };
        return Some((special, false));
    }
    if let Some(n) = name.strip_prefix("%envreg") {
        let n: u8 = n.parse().ok().filter(|&n| n < 32)?;
        return Some((Special::EnvReg(n), false));
    }
    Some(match name {
        "%laneid" => (Special::LaneId, false),
        "%warpid" => (Special::WarpId, false),
        "%nwarpid" => (Special::NwarpId, false),
        "%smid" => (Special::SmId, false),
        "%nsmid" => (Special::NsmId, false),
        "%gridid" => (Special::GridId, true),
        "%lanemask_eq" => (Special::LanemaskEq, false),
        "%lanemask_le" => (Special::LanemaskLe, false),
        "%lanemask_lt" => (Special::LanemaskLt, false),
        "%lanemask_ge" => (Special::LanemaskGe, false),
        "%lanemask_gt" => (Special::LanemaskGt, false),
        "%clock" => (Special::Clock, false),
        "%clock_hi" => (Special::ClockHi, false),
        "%clock64" => (Special::Clock64, true),
        "%globaltimer" => (Special::GlobalTimer, true),
        "%globaltimer_lo" => (Special::GlobalTimerLo, false),
        "%globaltimer_hi" => (Special::GlobalTimerHi, false),
        "%dynamic_smem_size" => (Special::DynamicSharedSize, false),
        "%total_smem_size" => (Special::TotalSharedSize, false),
        _ => return None,
    })
}
