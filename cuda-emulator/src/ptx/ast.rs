//! What the parser delivers: a module whose registers, labels and variables are resolved to indices, and whose
//! instructions keep their modifiers as written (each opcode of PTX gives order and meaning to its own).

use std::fmt;

/// A PTX module.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version`, e.g. (9, 5).
    pub version: (u32, u32),
    /// `.target`: the architecture that the text is for.
    pub target: Target,
    /// Module-scope `.global`, `.const` and `.shared` variables, in order of appearance.
    pub variables: Vec<Variable>,
    /// Entries and device functions, in order of appearance. A forward declaration (`body` = `None`) is dropped when the
    /// definition follows; what stays without a body is external (`vprintf`, `__assertfail`, …).
    pub functions: Vec<Function>,
}

/// `.target sm_90a`: number 90, suffix `a`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target {
    /// Ten times the major compute capability plus the minor: 80 for (8, 0).
    pub sm: u32,
    /// A letter that ties the text to an architecture (`a`) or a family (`f`).
    pub suffix: Option<char>,
}

/// State spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.reg`: registers, which have no address; no [`Variable`] is in it.
    Reg,
    /// `.global`: device memory that every thread and the host can reach.
    Global,
    /// `.shared`: memory that the threads of a block share, as long as the block lives.
    Shared,
    /// `.local`: memory of one thread.
    Local,
    /// `.const`: device memory that kernels only read.
    Const,
    /// `.param`: parameters of entries and functions, and the arguments and results of a call sequence.
    Param,
}

/// The fundamental types of PTX, without sub-byte and opaque ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// `.pred`: a predicate, which memory cannot hold.
    Pred,
    /// `.b8`: 8 untyped bits.
    B8,
    /// `.b16`: 16 untyped bits.
    B16,
    /// `.b32`: 32 untyped bits.
    B32,
    /// `.b64`: 64 untyped bits.
    B64,
    /// `.b128`: 128 untyped bits.
    B128,
    /// `.u8`: unsigned integer of 8 bits.
    U8,
    /// `.u16`: unsigned integer of 16 bits.
    U16,
    /// `.u32`: unsigned integer of 32 bits.
    U32,
    /// `.u64`: unsigned integer of 64 bits.
    U64,
    /// `.u16x2`: two unsigned 16-bit integers in 32 bits.
    U16x2,
    /// `.s16x2`: two signed 16-bit integers in 32 bits.
    S16x2,
    /// `.s8`: signed integer of 8 bits, in two's complement.
    S8,
    /// `.s16`: signed integer of 16 bits, in two's complement.
    S16,
    /// `.s32`: signed integer of 32 bits, in two's complement.
    S32,
    /// `.s64`: signed integer of 64 bits, in two's complement.
    S64,
    /// `.f16`: IEEE binary16.
    F16,
    /// `.f16x2`: two `.f16` in 32 bits.
    F16x2,
    /// `.bf16`: the upper half of an f32, with 8 exponent and 7 fraction bits.
    BF16,
    /// `.bf16x2`: two `.bf16` in 32 bits.
    BF16x2,
    /// `.tf32`: an f32 of which only 10 fraction bits count.
    TF32,
    /// `.e4m3`: 8 bits, of which 4 exponent and 3 fraction; no infinities.
    E4M3,
    /// `.e5m2`: 8 bits, of which 5 exponent and 2 fraction.
    E5M2,
    /// `.e4m3x2`: two `.e4m3` in 16 bits.
    E4M3x2,
    /// `.e5m2x2`: two `.e5m2` in 16 bits.
    E5M2x2,
    /// `.f32`: IEEE binary32.
    F32,
    /// `.f64`: IEEE binary64.
    F64,
}

/// A variable of a state space other than `.reg`.
#[derive(Debug, Clone)]
pub struct Variable {
    /// As in the text; a function's own variable has `@` and a number after it where the name alone is not unique.
    pub name: String,
    /// Where it lies.
    pub space: Space,
    /// Type of an element, for arrays and vectors too.
    pub ty: Type,
    /// Bytes, a power of two; without `.align` the size of the type (of the whole vector).
    pub align: u32,
    /// Size in bytes; 0 for `.extern .shared .b8 x[]`.
    pub size: u64,
    /// `.extern`: the size comes with the launch (`.shared`), or the definition is elsewhere.
    pub external: bool,
    /// Empty when nothing is written after the name; `.global` and `.const` start as zeros then.
    pub initializer: Vec<Initializer>,
    /// Line of the name in the text, from 1.
    pub line: u32,
}

/// One piece of an initialiser, at a byte offset in the variable; bytes not covered are 0.
#[derive(Debug, Clone)]
pub struct Initializer {
    /// Bytes from the start of the variable.
    pub offset: u64,
    /// What is stored there.
    pub value: InitialValue,
}

/// Bytes, or an address that is known once variables are placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitialValue {
    /// As they lie in memory, little-endian.
    Bytes(Vec<u8>),
    /// Address of another variable or function plus an offset; `generic` when written `generic(name)`.
    Address {
        /// Variable or function of the module.
        name: String,
        /// Bytes added to its address.
        addend: i64,
        /// Whether the generic address is asked for, not the one in the variable's state space.
        generic: bool,
    },
}

/// A kernel or a device function, defined or only declared.
#[derive(Debug, Clone)]
pub struct Function {
    /// As in the text, so mangled where it is from C++.
    pub name: String,
    /// `.entry` (a kernel) rather than `.func`.
    pub entry: bool,
    /// Return parameters of a `.func`; an entry has none.
    pub returns: Vec<Param>,
    /// Input parameters, in the order declared.
    pub params: Vec<Param>,
    /// What stands between the head and the body.
    pub directives: Directives,
    /// By [`RegId`]: registers declared singly, and those of a range like `%r<10>` that are used.
    pub registers: Vec<Register>,
    /// Function-scope `.shared`, `.local`, `.param` (call sequence) variables; an inner scope's are renamed apart.
    pub variables: Vec<Variable>,
    /// `labels[i]` is the index in `body` of the first instruction after label i (`body.len()` at the end).
    pub labels: Vec<usize>,
    /// By [`LabelId`]; scopes may repeat a name.
    pub label_names: Vec<String>,
    /// Branch-target lists (`.branchtargets`): the name that [`Operand::Table`] has, and the labels.
    pub branch_targets: Vec<(String, Vec<LabelId>)>,
    /// Instructions in order of the text; `None` for a declaration.
    pub body: Option<Vec<Instruction>>,
    /// Line of `.entry` or `.func` in the text, from 1.
    pub line: u32,
}

/// A kernel or function parameter. A `.reg` parameter of a `.func` has `register`.
#[derive(Debug, Clone)]
pub struct Param {
    /// As in the text.
    pub name: String,
    /// Type of an element, for arrays and vectors too.
    pub ty: Type,
    /// Bytes, a power of two; without `.align` the size of the type (of the whole vector).
    pub align: u32,
    /// Bytes; for a scalar its type's size.
    pub size: u64,
    /// The register that a `.reg` parameter is.
    pub register: Option<RegId>,
}

/// Performance directives of an entry, and `.noreturn` of a function. Dimensions left out are 1.
#[derive(Debug, Clone, Default)]
pub struct Directives {
    /// `.maxntid`: their product is the most threads that a block has.
    pub maxntid: Option<[u32; 3]>,
    /// `.reqntid`: blocks have exactly these dimensions, in threads.
    pub reqntid: Option<[u32; 3]>,
    /// `.minnctapersm`: blocks that must fit on a multiprocessor at once, which bounds the registers per thread.
    pub minnctapersm: Option<u32>,
    /// `.maxnreg`: most 32-bit registers per thread.
    pub maxnreg: Option<u32>,
    /// `.reqnctapercluster`: clusters have exactly these dimensions, in blocks.
    pub reqnctapercluster: Option<[u32; 3]>,
    /// `.noreturn`: the function never returns to its caller.
    pub noreturn: bool,
}

/// The product of three dimensions: threads per block, blocks per grid or cluster. As much as fits, where it does not.
pub fn volume(dimensions: [u32; 3]) -> u64 {
    let product = |volume: u64, size| volume.saturating_mul(u64::from(size));
    dimensions.into_iter().fold(1, product)
}

/// A register of a function.
#[derive(Debug, Clone)]
pub struct Register {
    /// As in the text; `name.x`, `name.y`, … for the components of a vector register.
    pub name: String,
    /// As declared; untyped (`.b32`) ones hold any type of their size.
    pub ty: Type,
}

/// Index into [`Function::registers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);
/// Index into [`Function::labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelId(pub u32);

/// An instruction of a function's body.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// `@p` / `@!p`.
    pub guard: Option<Guard>,
    /// First word: `ld`, `cp`, `mma`, `cvta`.
    pub opcode: String,
    /// The other words in the order written, without dots; `shared::cta` and `L2::128B` are one word each.
    pub modifiers: Vec<String>,
    /// As written, but for `call (ret), name, (args), prototype`, which always has `Vector(ret)`, then `Symbol(name)` or
    /// `Register`, then `Vector(args)`, then the prototype as a `Symbol` if there is one; a `.param` variable is a `Symbol`.
    /// A component of a vector register is a `Register`, the whole of it a `Vector`.
    pub operands: Vec<Operand>,
    /// Line in the PTX text (1-based).
    pub line: u32,
}

/// The predicate that says for each lane whether the instruction is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// A register of type `.pred`.
    pub register: RegId,
    /// `@!p`: executed where the predicate is false.
    pub negated: bool,
}

/// An operand as written; the opcode decides whether it is a source or a destination.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// `%r1`, or a component of a vector register.
    Register(RegId),
    /// `!p` as a source.
    NotRegister(RegId),
    /// `%tid.x`, `%laneid`, `%envreg2`, `%clock64`, … with the dot and component. (`WARP_SZ` is a constant.)
    Special(String),
    /// A constant, or an integer expression of constants.
    Immediate(Immediate),
    /// A variable's or function's name used as a value (`mov.u64 %rd, sym` / `sym+8`).
    Symbol {
        /// As in [`Variable::name`], [`Param::name`] or [`Function::name`]; for a `call`, also the label of its prototype.
        name: String,
        /// Bytes added to its address.
        addend: i64,
    },
    /// `table[3]`: the element's address for `mov`, the element itself for `ld` and `st`; the offset in bytes.
    Element {
        /// As in [`Variable::name`].
        name: String,
        /// Bytes: the subscript times the size of the type.
        offset: i64,
    },
    /// `[base + offset]`.
    Address {
        /// What the offset is added to.
        base: AddressBase,
        /// Bytes.
        offset: i64,
    },
    /// `[tensorMap, {c0, c1}]`: an address followed by coordinates.
    TensorAddress {
        /// What the offset is added to: together the address of the tensor map.
        base: AddressBase,
        /// Bytes.
        offset: i64,
        /// One for each dimension of the tensor, the fastest first.
        coordinates: Vec<Operand>,
    },
    /// `{a, b, …}`.
    Vector(Vec<Operand>),
    /// `r|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`: value not wanted.
    Sink,
    /// Target of a `bra`.
    Label(LabelId),
    /// Name of a list in `Function::branch_targets`.
    Table(String),
}

/// The value of a constant; the instruction's type decides how many of an integer's bits count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Immediate {
    /// Integers as 64-bit two's complement (`negative` literals sign-extended).
    Integer(i64),
    /// `0f3F800000`: bits of an f32.
    F32(u32),
    /// `0d…` or a decimal float: bits of an f64.
    F64(u64),
}

/// What an address in brackets starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum AddressBase {
    /// `[%rd1]`: the address that the register holds.
    Register(RegId),
    /// `[name]`: where a variable or parameter lies.
    Symbol(String),
    /// `[4096]`.
    Absolute,
}

/// A problem in the text, with the place and, where it helps, what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// Characters from the start of the line, from 1.
    pub column: u32,
    /// What was found and, where it helps, what was expected.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PTX line {}, column {}: {}",
            self.line, self.column, self.message
        )
    }
}

impl std::error::Error for ParseError {}

impl Type {
    /// The type that a word (without its dot) names: `f16x2`.
    pub fn from_word(word: &str) -> Option<Type> {
        use Type::*;
        Some(match word {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "u16x2" => U16x2,
            "s16x2" => S16x2,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => BF16,
            "bf16x2" => BF16x2,
            "tf32" => TF32,
            "e4m3" => E4M3,
            "e5m2" => E5M2,
            "e4m3x2" => E4M3x2,
            "e5m2x2" => E5M2x2,
            "f32" => F32,
            "f64" => F64,
            _ => return None,
        })
    }

    /// Bytes in memory; 0 for a predicate.
    pub fn size(self) -> u32 {
        use Type::*;
        match self {
            Pred => 0,
            B8 | U8 | S8 | E4M3 | E5M2 => 1,
            B16 | U16 | S16 | F16 | BF16 | E4M3x2 | E5M2x2 => 2,
            B32 | U32 | S32 | U16x2 | S16x2 | F32 | F16x2 | BF16x2 | TF32 => 4,
            B64 | U64 | S64 | F64 => 8,
            B128 => 16,
        }
    }
}
