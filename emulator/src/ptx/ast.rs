//! What the parser delivers: a module whose registers, labels and variables are resolved to indices, and whose
//! instructions keep their modifiers as written (each opcode of PTX gives order and meaning to its own).

use std::fmt;

/// A PTX module.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version`, e.g. (9, 5).
    pub version: (u32, u32),
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
    pub sm: u32,
    pub suffix: Option<char>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    Reg,
    Global,
    Shared,
    Local,
    Const,
    Param,
}

/// The fundamental types of PTX, without sub-byte and opaque ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    U16x2,
    S16x2,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
    F32,
    F64,
}

/// A variable of a state space other than `.reg`.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Type,
    pub align: u32,
    /// Size in bytes; 0 for `.extern .shared .b8 x[]`.
    pub size: u64,
    pub external: bool,
    pub initializer: Vec<Initializer>,
    pub line: u32,
}

/// One piece of an initialiser, at a byte offset in the variable; bytes not covered are 0.
#[derive(Debug, Clone)]
pub struct Initializer {
    pub offset: u64,
    pub value: InitialValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitialValue {
    Bytes(Vec<u8>),
    /// Address of another variable or function plus an offset; `generic` when written `generic(name)`.
    Address {
        name: String,
        addend: i64,
        generic: bool,
    },
}

#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    /// `.entry` (a kernel) rather than `.func`.
    pub entry: bool,
    /// Return parameters of a `.func`, then the inputs.
    pub returns: Vec<Param>,
    pub params: Vec<Param>,
    pub directives: Directives,
    pub registers: Vec<Register>,
    /// Function-scope `.shared`, `.local`, `.param` (call sequence) variables; an inner scope's are renamed apart.
    pub variables: Vec<Variable>,
    /// `labels[i]` is the index in `body` of the first instruction after label i (`body.len()` at the end).
    pub labels: Vec<usize>,
    pub label_names: Vec<String>,
    /// Branch-target lists (`.branchtargets`), by label index of their name.
    pub branch_targets: Vec<(String, Vec<LabelId>)>,
    pub body: Option<Vec<Instruction>>,
    pub line: u32,
}

/// A kernel or function parameter. A `.reg` parameter of a `.func` has `register`.
#[derive(Debug, Clone)]
pub struct Param {
    pub name: String,
    pub ty: Type,
    pub align: u32,
    /// Bytes; for a scalar its type's size.
    pub size: u64,
    pub register: Option<RegId>,
}

/// Performance directives of an entry.
#[derive(Debug, Clone, Default)]
pub struct Directives {
    pub maxntid: Option<[u32; 3]>,
    pub reqntid: Option<[u32; 3]>,
    pub minnctapersm: Option<u32>,
    pub maxnreg: Option<u32>,
    pub reqnctapercluster: Option<[u32; 3]>,
    pub noreturn: bool,
}

#[derive(Debug, Clone)]
pub struct Register {
    pub name: String,
    pub ty: Type,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelId(pub u32);

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    pub register: RegId,
    pub negated: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    Register(RegId),
    /// `!p` as a source.
    NotRegister(RegId),
    /// `%tid.x`, `%laneid`, `%envreg2`, `%clock64`, … with the dot and component. (`WARP_SZ` is a constant.)
    Special(String),
    Immediate(Immediate),
    /// A variable's or function's name used as a value (`mov.u64 %rd, sym` / `sym+8`).
    Symbol {
        name: String,
        addend: i64,
    },
    /// `table[3]`: the element's address for `mov`, the element itself for `ld` and `st`; the offset in bytes.
    Element {
        name: String,
        offset: i64,
    },
    /// `[base + offset]`.
    Address {
        base: AddressBase,
        offset: i64,
    },
    /// `[tensorMap, {c0, c1}]`: an address followed by coordinates.
    TensorAddress {
        base: AddressBase,
        offset: i64,
        coordinates: Vec<Operand>,
    },
    /// `{a, b, …}`.
    Vector(Vec<Operand>),
    /// `r|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`: value not wanted.
    Sink,
    Label(LabelId),
    /// Name of a list in `Function::branch_targets`.
    Table(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Immediate {
    /// Integers as 64-bit two's complement (`negative` literals sign-extended).
    Integer(i64),
    /// `0f3F800000`: bits of an f32.
    F32(u32),
    /// `0d…` or a decimal float: bits of an f64.
    F64(u64),
}

#[derive(Debug, Clone, PartialEq)]
pub enum AddressBase {
    Register(RegId),
    Symbol(String),
    /// `[4096]`.
    Absolute,
}

/// A problem in the text, with the place and, where it helps, what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    pub line: u32,
    pub column: u32,
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
