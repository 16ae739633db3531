//! Which registers an operation reads and writes.

use super::op::*;
use crate::ptx::ast::Type;

/// Where an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum File {
    /// The operation has no such operand, or it is not a register.
    Absent,
    R32,
    R64,
    /// A predicate's slot.
    Pred,
    /// A predicate reference.
    Reference,
}

/// The files of an operation's operands. Of operations on memory the address is `a`; the rest of theirs, and all of [`Op::Slow`]'s, is
/// not here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) d: File,
    pub(crate) a: File,
    pub(crate) b: File,
    pub(crate) c: File,
    pub(crate) e: File,
    /// `e` is a second result.
    pub(crate) two_results: bool,
}

impl Operands {
    fn new(d: File, sources: &[File]) -> Self {
        let source = |i: usize| sources.get(i).copied().unwrap_or(File::Absent);
        Self {
            d,
            a: source(0),
            b: source(1),
            c: source(2),
            e: source(3),
            two_results: false,
        }
    }

    fn and(self, second: File) -> Self {
        Self {
            e: second,
            two_results: true,
            ..self
        }
    }
}

/// The operands of an operation, whose `e` is given: some have a second result only where it is wanted.
pub(crate) fn operands(code: &Instructions, inst: &Inst) -> Operands {
    use File::{Absent, Pred, R32, R64, Reference};
    let float = |file: File, three: bool, one: bool| match (three, one) {
        (true, _) => Operands::new(file, &[file; 3]),
        (_, true) => Operands::new(file, &[file]),
        _ => Operands::new(file, &[file; 2]),
    };
    match inst.op {
        Op::Mov32 => Operands::new(R32, &[R32]),
        Op::Mov64 => Operands::new(R64, &[R64]),
        Op::Pred(PredOp::Mov | PredOp::Not) => Operands::new(Pred, &[Reference]),
        Op::Pred(_) => Operands::new(Pred, &[Reference; 2]),
        Op::I16(op) | Op::I32(op) => Operands::new(R32, &[R32; 3][..sources(op)]),
        Op::I64(op) => Operands::new(R64, &[R64; 3][..sources(op)]),
        Op::Wide16(Wide::MulU | Wide::MulS) => Operands::new(R32, &[R32; 2]),
        Op::Wide16(_) => Operands::new(R32, &[R32; 3]),
        Op::Wide32(Wide::MulU | Wide::MulS) => Operands::new(R64, &[R32; 2]),
        Op::Wide32(_) => Operands::new(R64, &[R32, R32, R64]),
        Op::X32(op) => Operands::new(
            R32,
            &[R32; 4][..match op {
                X32::Count(_) => 1,
                X32::Szext { .. }
                | X32::Bmsk { .. }
                | X32::Mul24 { .. }
                | X32::Halves(_)
                | X32::AddSat
                | X32::SubSat => 2,
                X32::Bfi => 4,
                _ => 3,
            }],
        ),
        Op::Shift64(_) => Operands::new(R64, &[R64, R32]),
        Op::Count64(Count::Brev) => Operands::new(R64, &[R64]),
        Op::Count64(_) => Operands::new(R32, &[R64]),
        Op::Bfe64 { .. } => Operands::new(R64, &[R64, R32, R32]),
        Op::Bfi64 => Operands::new(R64, &[R64, R64, R32, R32]),
        Op::Carry32(_) => Operands::new(R32, &[R32; 3]),
        Op::Carry64(_) => Operands::new(R64, &[R64; 3]),
        Op::F32(op, _) => float(R32, op == F32Op::Fma, is_unary32(op)),
        Op::F64(op, _) => float(R64, op == F64Op::Fma, is_unary64(op)),
        Op::Half(op, ..) => {
            let one = matches!(op, HalfOp::Abs | HalfOp::Neg | HalfOp::Ex2 | HalfOp::Tanh);
            float(R32, op == HalfOp::Fma, one)
        }
        Op::Testp32(_) => Operands::new(Pred, &[R32]),
        Op::Testp64(_) => Operands::new(Pred, &[R64]),
        Op::Setp(_, ty, _) => {
            let operands = Operands::new(Pred, &[compared(ty), compared(ty), Reference]);
            match inst.e {
                NONE => operands,
                _ => operands.and(Pred),
            }
        }
        Op::Set(_, ty, ..) => Operands::new(R32, &[compared(ty), compared(ty), Reference]),
        Op::Selp32 => Operands::new(R32, &[R32, R32, Reference]),
        Op::Selp64 => Operands::new(R64, &[R64, R64, Reference]),
        Op::Slct32(_) => Operands::new(R32, &[R32; 3]),
        Op::Slct64(_) => Operands::new(R64, &[R64, R64, R32]),
        Op::Cvt(cvt) => {
            let d = wide(cvt.flags, CVT_DST64);
            let a = wide(cvt.flags, CVT_SRC64);
            match packs(cvt) {
                true => Operands::new(d, &[a, R32]),
                false => Operands::new(d, &[a]),
            }
        }
        Op::CvtInt(cvt) => Operands::new(wide(cvt.flags, CVT_DST64), &[wide(cvt.flags, CVT_SRC64)]),
        Op::Pack64 => Operands::new(R64, &[R32; 2]),
        Op::Unpack64 => Operands::new(R32, &[R64]).and(R32),
        Op::Pack32 => Operands::new(R32, &[R32; 2]),
        Op::Unpack32 => Operands::new(R32, &[R32]).and(R32),
        Op::Special(Special::GridId | Special::Clock64 | Special::GlobalTimer) => {
            Operands::new(R64, &[])
        }
        Op::Special(_) => Operands::new(R32, &[]),
        Op::LocalAddress => Operands::new(R64, &[]),
        Op::Ld(index) | Op::St(index) => Operands::new(
            Absent,
            &[match code.mems[index as usize].address.base {
                Base::R32(_) => R32,
                Base::R64(_) => R64,
                Base::None | Base::Frame => Absent,
            }],
        ),
        Op::Bra(_) | Op::Ret | Op::Exit | Op::Slow(_) => Operands::new(Absent, &[]),
    }
}

/// How many sources an integer operation has.
fn sources(op: Int) -> usize {
    match op {
        Int::AbsS | Int::Neg | Int::Not | Int::Cnot => 1,
        Int::MadLo | Int::MadHiU | Int::MadHiS | Int::SadU | Int::SadS => 3,
        _ => 2,
    }
}

fn is_unary32(op: F32Op) -> bool {
    use F32Op::*;
    !matches!(
        op,
        Add | Sub | Mul | Fma | Min { .. } | Max { .. } | Copysign | Div | DivFull | DivApprox
    )
}

fn is_unary64(op: F64Op) -> bool {
    use F64Op::*;
    !matches!(op, Add | Sub | Mul | Fma | Min | Max | Copysign | Div)
}

fn compared(ty: CmpType) -> File {
    match ty {
        CmpType::U64 | CmpType::S64 | CmpType::F64 => File::R64,
        _ => File::R32,
    }
}

fn wide(flags: u8, flag: u8) -> File {
    if flags & flag != 0 {
        File::R64
    } else {
        File::R32
    }
}

/// Whether a conversion makes one value of two sources.
pub(crate) fn packs(cvt: Cvt) -> bool {
    use Type::{BF16x2, E4M3x2, E5M2x2, F16x2, F32};
    cvt.src == F32 && matches!(cvt.dst, F16x2 | BF16x2 | E4M3x2 | E5M2x2)
}

/// An instruction's operands as places in one array for all registers of a frame: see [`Function::place`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots {
    pub(crate) guard: u32,
    pub(crate) d: u32,
    pub(crate) a: u32,
    pub(crate) b: u32,
    pub(crate) c: u32,
    pub(crate) e: u32,
}

impl Function {
    /// Registers of all kinds, constants included.
    pub(crate) fn registers(&self) -> usize {
        (self.r32 + self.r64 + self.preds) as usize
    }

    /// Where a register is among them: 32-bit ones, 64-bit ones, predicates. What is absent is the predicate that is always true.
    pub(crate) fn place(&self, file: File, slot: u32) -> u32 {
        match file {
            File::R32 => slot,
            File::R64 => self.r32 + slot,
            File::Pred => self.r32 + self.r64 + slot,
            File::Reference => self.r32 + self.r64 + (slot >> 1),
            File::Absent => self.r32 + self.r64,
        }
    }
}

/// Each function's instructions, in their order: functions lie one after the other.
pub(crate) fn ranges(code: &Instructions) -> Vec<(usize, std::ops::Range<usize>)> {
    let functions = code.functions.iter().enumerate();
    let mut entries: Vec<_> = functions.map(|(i, f)| (f.entry as usize, i)).collect();
    entries.sort_unstable();
    let ends = entries
        .iter()
        .skip(1)
        .map(|e| e.0)
        .chain([code.insts.len()]);
    let starts = entries.iter().zip(ends);
    starts.map(|(&(start, i), end)| (i, start..end)).collect()
}

/// The slots of every instruction.
pub(crate) fn slots(code: &Instructions) -> Vec<Slots> {
    let of = |function: &Function, inst: &Inst| {
        let operands = operands(code, inst);
        let a = match inst.op {
            Op::Ld(index) | Op::St(index) => match code.mems[index as usize].address.base {
                Base::R32(slot) | Base::R64(slot) => slot,
                Base::None | Base::Frame => 0,
            },
            _ => inst.a,
        };
        Slots {
            guard: function.place(File::Reference, inst.guard & !HELPER),
            d: function.place(operands.d, inst.d),
            a: function.place(operands.a, a),
            b: function.place(operands.b, inst.b),
            c: function.place(operands.c, inst.c),
            e: function.place(operands.e, inst.e),
        }
    };
    let parts = ranges(code).into_iter();
    parts
        .flat_map(|(i, range)| code.insts[range].iter().map(move |inst| (i, inst)))
        .map(|(i, inst)| of(&code.functions[i], inst))
        .collect()
}
