//! The operations that the executor runs: registers are slots of a warp's register file, immediates are slots too.
//!
//! Three files: 32-bit slots (also for 8 and 16 bits, upper bits zero), 64-bit slots (a 128-bit register is two), predicates as
//! lane masks. A source predicate is a *reference*: `slot << 1 | negated`. Slot 0 of the predicates is always true.

use crate::check::hooks::Order;
use crate::ptx::ast::Type;

pub(crate) use crate::numeric::Rounding;
pub(crate) use crate::numeric::int::Permute;
use crate::numeric::mma;
use crate::numeric::wmma::Fragment;

/// No register: a sink `_`, or an absent operand.
pub(crate) const NONE: u32 = u32::MAX;

/// Bit of a guard: see there.
pub(crate) const HELPER: u32 = 1 << 31;

/// One operation; which file a slot is in follows from `op`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    /// Predicate reference; with `HELPER`, the operation is a part of a PTX instruction that is counted at its last part.
    pub(crate) guard: u32,
    pub(crate) d: u32,
    pub(crate) a: u32,
    pub(crate) b: u32,
    pub(crate) c: u32,
    pub(crate) e: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Op {
    Mov32,
    Mov64,
    Pred(PredOp),
    I16(Int),
    I32(Int),
    I64(Int),
    /// 16 × 16 → 32 and 32 × 32 → 64 bits.
    Wide16(Wide),
    Wide32(Wide),
    X32(X32),
    Shift64(Shift),
    Count64(Count),
    Bfe64 {
        signed: bool,
    },
    Bfi64,
    Carry32(Carry),
    Carry64(Carry),
    F32(F32Op, FloatMode),
    F64(F64Op, Rounding),
    Half(HalfOp, HalfType, HalfMode),
    Testp32(Testp),
    Testp64(Testp),
    Setp(Cmp, CmpType, Combine),
    /// Like `Setp`, the result in a 32-bit (or, for `Half`, 16-bit) register.
    Set(Cmp, CmpType, Combine, SetResult),
    Selp32,
    Selp64,
    /// d = c ≥ 0 ? a : b; c is an s32 or f32.
    Slct32(SlctBy),
    Slct64(SlctBy),
    Cvt(Cvt),
    CvtInt(CvtInt),
    /// {low, high} of a 64-bit value, and back.
    Pack64,
    Unpack64,
    /// {low, high} 16-bit halves of a 32-bit value, and back.
    Pack32,
    Unpack32,
    Special(Special),
    /// d = local frame base + a (a constant, not a slot).
    LocalAddress,
    Ld(u32),
    St(u32),
    Bra(u32),
    Ret,
    Exit,
    /// Index into `Code::slow`.
    Slow(u32),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PredOp {
    Mov,
    And,
    Or,
    Xor,
    Not,
}

/// Integer operations on 16, 32 and 64 bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Int {
    Add,
    Sub,
    MulLo,
    MulHiU,
    MulHiS,
    MadLo,
    MadHiU,
    MadHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    MinReluS,
    MaxReluS,
    AbsS,
    Neg,
    SadU,
    SadS,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    /// Shift amounts of 16 and 32 bits; 64-bit values have `Shift64`.
    Shl,
    ShrU,
    ShrS,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wide {
    MulU,
    MulS,
    MadU,
    MadS,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shift {
    Shl,
    ShrU,
    ShrS,
}

/// Operations whose result is 32 bits; `Count64` has them on 64-bit sources.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Count {
    Popc,
    Clz,
    Bfind {
        signed: bool,
        shift: bool,
    },
    /// 64 → 64 bits in `Count64`.
    Brev,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum X32 {
    Count(Count),
    Bfe {
        signed: bool,
    },
    Bfi,
    Lop3(u8),
    Prmt(Permute),
    ShfL {
        wrap: bool,
    },
    ShfR {
        wrap: bool,
    },
    Szext {
        signed: bool,
        wrap: bool,
    },
    Bmsk {
        wrap: bool,
    },
    Mul24 {
        signed: bool,
        high: bool,
    },
    Mad24 {
        signed: bool,
        high: bool,
    },
    /// Absolute differences of two halves or four bytes; with `add`, their sum added to c.
    AbsDiff {
        bytes: bool,
        signed: bool,
        add: bool,
    },
    /// Two halves of 16 bits each.
    Halves(HalvesOp),
    /// The two values, saturated to an integer of that many bits, as the lowest bits of the result, c shifted up above them.
    Pack(IntType),
    AddSat,
    SubSat,
    MadHiSat,
    Fns,
    Dp4a {
        a_signed: bool,
        b_signed: bool,
    },
    Dp2a {
        a_signed: bool,
        b_signed: bool,
        high: bool,
    },
}

/// Integer operations on two halves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum HalvesOp {
    Add,
    MinU,
    MinS { relu: bool },
    MaxU,
    MaxS { relu: bool },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Carry {
    pub(crate) kind: CarryKind,
    pub(crate) take: bool,
    pub(crate) set: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum CarryKind {
    Add,
    Sub,
    MadLo,
    MadHiU,
    MadHiS,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FloatMode {
    pub(crate) rounding: Rounding,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
}

impl FloatMode {
    /// To the nearest, not saturated.
    pub(crate) fn nearest(ftz: bool) -> Self {
        let (rounding, sat) = (Rounding::Near, false);
        Self { rounding, ftz, sat }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum F32Op {
    Add,
    Sub,
    Mul,
    Fma,
    Min { nan: bool, xorsign: bool },
    Max { nan: bool, xorsign: bool },
    Abs,
    Neg,
    Copysign,
    Div,
    DivFull,
    DivApprox,
    Rcp,
    RcpApprox,
    Sqrt,
    SqrtApprox,
    RsqrtApprox,
    Sin,
    Cos,
    Lg2,
    Ex2,
    Tanh,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum F64Op {
    Add,
    Sub,
    Mul,
    Fma,
    Min,
    Max,
    Abs,
    Neg,
    Copysign,
    Div,
    Rcp,
    Sqrt,
    RcpApproxFtz,
    RsqrtApprox { ftz: bool },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum HalfOp {
    Add,
    Sub,
    Mul,
    Fma,
    Min { nan: bool, xorsign: bool },
    Max { nan: bool, xorsign: bool },
    Abs,
    Neg,
    Ex2,
    Tanh,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct HalfType {
    pub(crate) bf16: bool,
    pub(crate) packed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct HalfMode {
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) relu: bool,
}

impl HalfMode {
    /// Neither saturated nor cut off below 0.
    pub(crate) fn plain(ftz: bool) -> Self {
        let (sat, relu) = (false, false);
        Self { ftz, sat, relu }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Testp {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum CmpType {
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    F32 { ftz: bool },
    F64,
}

/// How `setp` combines the comparison with its third source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Combine {
    None,
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SetResult {
    /// All ones.
    Mask,
    F32,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    /// 0xffff (16 bits).
    Mask16,
    /// 0xffff in each half.
    Mask16x2,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SlctBy {
    S32,
    F32 { ftz: bool },
}

/// A conversion with a float on one side at least.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cvt {
    pub(crate) dst: Type,
    pub(crate) src: Type,
    pub(crate) rounding: CvtRounding,
    /// `CvtFlags` bits.
    pub(crate) flags: u8,
}

pub(crate) const CVT_FTZ: u8 = 1;
pub(crate) const CVT_SAT: u8 = 2;
pub(crate) const CVT_RELU: u8 = 4;
pub(crate) const CVT_SATFINITE: u8 = 8;
/// The destination register has 64 bits (of a narrower integer type: extended).
pub(crate) const CVT_DST64: u8 = 16;
pub(crate) const CVT_SRC64: u8 = 32;
/// The destination register has 32 bits.
pub(crate) const CVT_DST32: u8 = 64;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum CvtRounding {
    None,
    Near,
    NearAway,
    Zero,
    Down,
    Up,
    NearInt,
    ZeroInt,
    DownInt,
    UpInt,
}

/// Integer to integer. Sizes in bits; the register files of both sides besides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CvtInt {
    pub(crate) dst: IntType,
    pub(crate) src: IntType,
    pub(crate) sat: bool,
    pub(crate) flags: u8,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct IntType {
    pub(crate) bits: u8,
    pub(crate) signed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
    DynamicSharedSize,
    TotalSharedSize,
    EnvReg(u8),
}

/// Where an access's address comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Base {
    R32(u32),
    R64(u32),
    /// The offset is the address.
    None,
    /// The offset counts from the function's local frame.
    Frame,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MemSpace {
    Generic,
    Global,
    Shared,
    Local,
    /// The kernel's parameter block.
    Param,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Address {
    pub(crate) space: MemSpace,
    pub(crate) base: Base,
    pub(crate) offset: i64,
}

/// A load or a store of `count` elements of `size` bytes.
#[derive(Debug, Clone)]
pub(crate) struct Mem {
    pub(crate) address: Address,
    /// Bytes an element: 1, 2, 4, 8 or 16.
    pub(crate) size: u32,
    pub(crate) count: u32,
    /// Sign-extend into the register.
    pub(crate) signed: bool,
    /// Slots; `NONE` for a sink.
    pub(crate) regs: [u32; 8],
    /// Registers of 64 bits (for a size of 16, pairs of them).
    pub(crate) reg64: bool,
    /// Registers of 16 bits: sign extension ends there.
    pub(crate) reg16: bool,
    pub(crate) order: Order,
    /// A load of what no thread may write during the launch: `.nc`, `ldu`, `ld.const`.
    pub(crate) read_only: bool,
    /// A load that a spin loop may wait with.
    pub(crate) poll: bool,
}

/// A value of either file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Reg {
    P(u32),
    R32(u32),
    R64(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Add,
    Inc,
    Dec,
    Min,
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomType {
    U32,
    S32,
    U64,
    S64,
    F32 { ftz: bool },
    F64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    B16,
    B128,
}

#[derive(Debug, Clone)]
pub(crate) struct Atom {
    pub(crate) address: Address,
    pub(crate) op: AtomOp,
    pub(crate) ty: AtomType,
    /// Elements: 1, or 2, 4, 8 of a vector form.
    pub(crate) count: u32,
    /// `NONE` for `red` and sinks.
    pub(crate) d: [u32; 8],
    pub(crate) b: [u32; 8],
    /// `cas` only.
    pub(crate) c: u32,
    pub(crate) order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarRed {
    And,
    Or,
    Popc,
}

/// A `bar`/`barrier`.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    /// 32-bit slots.
    pub(crate) id: u32,
    /// `NONE`: all threads.
    pub(crate) count: u32,
    pub(crate) waits: bool,
    pub(crate) aligned: bool,
    /// Operation, destination (predicate or 32-bit slot), source reference.
    pub(crate) reduce: Option<(BarRed, u32, u32)>,
}

/// A call: values move between frames as registers or as bytes of the frames' local memory.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) target: CallTarget,
    pub(crate) args: Vec<Value>,
    pub(crate) returns: Vec<Value>,
}

#[derive(Debug, Clone)]
pub(crate) enum CallTarget {
    /// Index in `Code::functions`.
    Function(u32),
    /// 64-bit slot with a function's address.
    Indirect(u32),
}

/// Where a function finds a parameter or leaves a return value, or a caller its argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Reg(Reg),
    /// Offset in the function's local frame, and bytes.
    Frame(u32, u32),
    /// A return value that is not wanted.
    Sink,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CpAsync {
    pub(crate) dst: Address,
    pub(crate) src: Address,
    pub(crate) size: u32,
    /// 32-bit slot with the bytes to read; `NONE`: all.
    pub(crate) src_size: u32,
    /// Predicate reference; true: nothing is read.
    pub(crate) ignore: Option<u32>,
}

/// `mma.sync`. Slots of each fragment in PTX's order (64-bit ones for f64).
#[derive(Debug, Clone)]
pub(crate) struct Mma {
    pub(crate) kind: MmaKind,
    /// d, a, b, c.
    pub(crate) registers: [Vec<u32>; 4],
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum MmaKind {
    Float(mma::Float),
    Integer(mma::Integer),
    Double(mma::Double),
}

/// `ldmatrix` and `stmatrix`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrices {
    pub(crate) address: Address,
    pub(crate) trans: bool,
    /// A 32-bit slot for each of 1, 2 or 4 matrices; then `NONE`.
    pub(crate) registers: [u32; 4],
}

impl Matrices {
    pub(crate) fn registers(&self) -> &[u32] {
        let count = self.registers.iter().position(|&slot| slot == NONE);
        &self.registers[..count.unwrap_or(4)]
    }

    /// Lanes that name a row.
    pub(crate) fn lanes(&self) -> u32 {
        !0 >> (32 - 8 * self.registers().len())
    }
}

/// `wmma.load` and `wmma.store`.
#[derive(Debug, Clone)]
pub(crate) struct WmmaMemory {
    pub(crate) fragment: Fragment,
    pub(crate) by_rows: bool,
    pub(crate) store: bool,
    pub(crate) address: Address,
    /// 32-bit slot: elements from one row (or column) to the next.
    pub(crate) stride: u32,
    /// 64-bit slots for f64.
    pub(crate) registers: Vec<u32>,
}

/// Operations that are not worth a place in the inner loop.
#[derive(Debug, Clone)]
pub(crate) enum Slow {
    Atom(Atom),
    Shfl {
        mode: ShflMode,
        d: u32,
        /// Predicate slot or `NONE`.
        p: u32,
        a: u32,
        lane: u32,
        clamp: u32,
        members: u32,
    },
    /// `d` is a predicate slot (32-bit slot for ballot), `a` a predicate reference.
    Vote {
        mode: VoteMode,
        d: u32,
        a: u32,
        members: u32,
    },
    /// `a` in the file that `wide` says; `d` 32 bits; `p` (predicate or `NONE`) for `match.all`.
    Match {
        all: bool,
        wide: bool,
        d: u32,
        p: u32,
        a: u32,
        members: u32,
    },
    Redux {
        op: ReduxOp,
        d: u32,
        a: u32,
        members: u32,
    },
    Activemask {
        d: u32,
    },
    Elect {
        d: u32,
        p: u32,
        members: u32,
    },
    BarWarp {
        members: u32,
    },
    Bar(Bar),
    Fence(crate::check::hooks::Scope, crate::check::hooks::Semantics),
    Brx {
        index: u32,
        targets: Vec<u32>,
    },
    Call(Call),
    /// Frame offsets of the two pointers' parameter variables, and of the result.
    Vprintf {
        format: u32,
        args: u32,
        ret: Option<Value>,
    },
    /// message, file, line, function (frame offsets).
    AssertFail([u32; 4]),
    Trap,
    Brkpt,
    Nanosleep {
        time: u32,
    },
    /// A hint.
    Prefetch,
    Discard {
        address: Address,
    },
    CreatePolicy {
        d: u32,
    },
    CpAsync(CpAsync),
    CpAsyncCommit,
    CpAsyncWait {
        pending: u32,
        all: bool,
    },
    Ldmatrix(Matrices),
    Stmatrix(Matrices),
    Movmatrix {
        d: u32,
        a: u32,
    },
    Mma(Mma),
    WmmaMemory(WmmaMemory),
    /// Tiles of one product.
    WmmaMma(Vec<Mma>),
    Isspacep {
        space: MemSpace,
        d: u32,
        a: u32,
    },
    /// d = a + window, or a − window (64 bits).
    Cvta {
        d: u32,
        a: u32,
        to_generic: bool,
        space: MemSpace,
    },
    /// Ends the wait, or does nothing: launches are not overlapped.
    GridDependency,
}

/// A function of an image.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Value of its name in PTX.
    pub(crate) address: u64,
    pub(crate) entry: u32,
    /// Slots of each file, constants included.
    pub(crate) r32: u32,
    pub(crate) r64: u32,
    pub(crate) preds: u32,
    pub(crate) const32: Vec<(u32, u32)>,
    pub(crate) const64: Vec<(u32, u64)>,
    /// Bytes of local memory, a multiple of 16.
    pub(crate) frame: u32,
    pub(crate) params: Vec<Value>,
    pub(crate) returns: Vec<Value>,
}

/// Everything that a kernel executes.
#[derive(Debug, Default)]
pub(crate) struct Instructions {
    pub(crate) insts: Vec<Inst>,
    /// PTX line of each instruction.
    pub(crate) lines: Vec<u32>,
    pub(crate) mems: Vec<Mem>,
    pub(crate) slow: Vec<Slow>,
    /// The kernel is the first.
    pub(crate) functions: Vec<Function>,
    /// Static shared memory, bytes, and where the dynamic part starts.
    pub(crate) static_shared: u32,
    pub(crate) dynamic_offset: u32,
}
