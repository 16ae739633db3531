//! Syntax tree → typed operations with resolved registers. What is not implemented is refused here, with its line.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::ptx::ast;

/// A module ready to run.
#[derive(Debug, Clone)]
pub struct Program {
    pub kernels: Vec<Arc<Kernel>>,
}

/// An entry of a module.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<ParamInfo>,
    /// Bytes of static shared memory, and of local memory a thread.
    pub static_shared: u32,
    pub local_bytes: u32,
    /// 32-bit registers a thread would need by live ranges: an estimate, ptxas decides.
    pub registers: u32,
    pub directives: ast::Directives,
}

/// Place of a parameter in the parameter block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamInfo {
    pub offset: u32,
    pub size: u32,
    pub align: u32,
}

/// An opcode, modifier or operand that this emulator does not implement, or that PTX does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerError {
    pub line: u32,
    pub message: String,
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for LowerError {}

/// First address of code, as `mov` of a function's name gives it: functions are 16 bytes apart, in order of appearance.
const CODE_WINDOW: u64 = 0x0004_0000_0000_0000;

/// The value that the name of a function has in PTX.
pub(crate) fn function_address(module: &ast::Module, name: &str) -> Option<u64> {
    let index = module.functions.iter().position(|f| f.name == name)?;
    Some(CODE_WINDOW + 16 * (index as u64 + 1))
}

/// Lowers a module; `addresses` holds the device address of each `.global` and `.const` variable.
pub fn lower(
    _module: &ast::Module,
    _addresses: &HashMap<String, u64>,
) -> Result<Program, LowerError> {
    Err(LowerError {
        line: 0,
        message: "not built yet".into(),
    })
}
