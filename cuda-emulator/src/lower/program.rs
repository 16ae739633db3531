//! Programs: modules ready to run.

use std::fmt;
use std::sync::Arc;

use super::code::Code;
use crate::ptx::ast;

/// A module ready to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// Entries in order of appearance.
    pub kernels: Vec<Arc<Kernel>>,
}

/// An entry of a module.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As in the PTX, so mangled where it is from C++.
    pub name: String,
    /// Places of the parameters, in the order declared.
    pub params: Vec<ParamInfo>,
    /// Bytes of static shared memory, over all functions that the kernel can reach.
    pub static_shared: u32,
    /// Bytes of local memory per thread in the kernel's own frame, without the frames of functions it calls.
    pub local_bytes: u32,
    /// 32-bit registers a thread would need by live ranges: an estimate, ptxas decides.
    pub registers: u32,
    /// What the kernel demands of its launches.
    pub directives: ast::Directives,
    pub(crate) code: Arc<Code>,
}

/// Place of a parameter in the parameter block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamInfo {
    /// Bytes from the start of the block, a multiple of `align`.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Bytes, a power of two.
    pub align: u32,
}

/// An opcode, modifier or operand that this emulator does not implement, or that PTX does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// What was found and, where it helps, what was expected.
    pub message: String,
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for LowerError {}

/// First address of code, as `mov` of a function's name gives it: functions are 16 bytes apart, in order of appearance.
pub(super) const CODE_WINDOW: u64 = 0x0004_0000_0000_0000;

/// The value that the name of a function has in PTX.
pub(crate) fn function_address(module: &ast::Module, name: &str) -> Option<u64> {
    let index = module.functions.iter().position(|f| f.name == name)?;
    Some(CODE_WINDOW + 16 * (index as u64 + 1))
}
