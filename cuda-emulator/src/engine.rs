//! Launching a kernel: what goes in, what comes out. The driver and the command line both use this and nothing below it.

use std::collections::HashMap;
use std::fmt;

use crate::exec;
pub use crate::launch::{Fault, FaultCode, Launch, Report};
use crate::lower;
pub use crate::lower::{Kernel, LowerError, ParamInfo, Program};
use crate::memory::{AllocationKind, DeviceMemory};
use crate::ptx::ast;

/// A module in device memory: its kernels, and where its variables are.
#[derive(Debug)]
pub struct Loaded {
    /// The module's kernels, lowered.
    pub program: Program,
    /// Device address and bytes of each `.global` and `.const` variable.
    pub globals: HashMap<String, (u64, u64)>,
    /// Bytes of the `.const` variables together, each at its alignment.
    pub constant_bytes: u64,
}

impl Loaded {
    /// Frees the module's variables.
    pub fn unload(self, memory: &DeviceMemory) {
        free_all(&self.globals, memory);
    }
}

fn free_all(globals: &HashMap<String, (u64, u64)>, memory: &DeviceMemory) {
    for &(address, _) in globals.values() {
        // Already gone only if the program freed a module's variable itself, which `free` reported then.
        let _ = memory.free(address);
    }
}

/// Why a module could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// Something in the text that is not implemented or not allowed.
    Lower(LowerError),
    /// The variables do not fit into device memory.
    OutOfMemory {
        /// The first variable that did not fit.
        name: String,
        /// Its size, at least 1.
        bytes: u64,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lower(e) => e.fmt(f),
            Self::OutOfMemory { name, bytes } => {
                write!(
                    f,
                    "no device memory for the variable {name} of {bytes} bytes"
                )
            }
        }
    }
}

impl std::error::Error for LoadError {}

impl From<LowerError> for LoadError {
    fn from(e: LowerError) -> Self {
        Self::Lower(e)
    }
}

/// Places and initialises a module's `.global` and `.const` variables and lowers its functions.
///
/// # Errors
/// For instructions that are not implemented, unresolved names, and variables that do not fit.
pub fn load(module: &ast::Module, memory: &DeviceMemory) -> Result<Loaded, LoadError> {
    let mut globals = HashMap::new();
    let result = fill(module, memory, &mut globals);
    match result {
        Ok(program) => {
            let constants = module
                .variables
                .iter()
                .filter(|v| v.space == ast::Space::Const);
            let constant_bytes = constants.fold(0u64, |end, v| {
                end.next_multiple_of(u64::from(v.align.max(1))) + v.size
            });
            Ok(Loaded {
                program,
                globals,
                constant_bytes,
            })
        }
        Err(e) => {
            free_all(&globals, memory);
            Err(e)
        }
    }
}

fn fill(
    module: &ast::Module,
    memory: &DeviceMemory,
    globals: &mut HashMap<String, (u64, u64)>,
) -> Result<Program, LoadError> {
    let error = |variable: &ast::Variable, message: String| {
        let line = variable.line;
        LoadError::Lower(LowerError { line, message })
    };
    let placed = |v: &&ast::Variable| matches!(v.space, ast::Space::Global | ast::Space::Const);
    for v in module.variables.iter().filter(placed) {
        if v.external {
            return Err(error(
                v,
                format!("the extern variable {} is defined nowhere", v.name),
            ));
        }
        // A zero-size variable still has an address of its own.
        let bytes = v.size.max(1);
        let kind = AllocationKind::Module;
        let address = memory.allocate_as(bytes, u64::from(v.align.max(1)), kind);
        let Some(address) = address else {
            let name = v.name.clone();
            return Err(LoadError::OutOfMemory { name, bytes });
        };
        globals.insert(v.name.clone(), (address, v.size));
    }
    for v in module.variables.iter().filter(placed) {
        let (address, _) = globals[&v.name];
        let write = |offset: u64, bytes: &[u8]| {
            if offset + bytes.len() as u64 > v.size {
                let (n, size) = (bytes.len(), v.size);
                let message = format!(
                    "{n} bytes at offset {offset} initialise {} of {size} bytes",
                    v.name
                );
                return Err(error(v, message));
            }
            memory
                .copy_in(address + offset, bytes)
                .map_err(|e| error(v, e.message))
        };
        memory
            .fill(address, v.size, &[0])
            .map_err(|e| error(v, e.message))?;
        for piece in &v.initializer {
            match &piece.value {
                ast::InitialValue::Bytes(bytes) => write(piece.offset, bytes)?,
                ast::InitialValue::Address { name, addend, .. } => {
                    let target = match globals.get(name) {
                        Some(&(target, _)) => target,
                        None => lower::function_address(module, name).ok_or_else(|| {
                            error(v, format!("{} is initialised with the address of {name}, which is no variable or function", v.name))
                        })?,
                    };
                    let value = target.wrapping_add_signed(*addend).to_le_bytes();
                    write(piece.offset, &value)?;
                }
            }
        }
    }
    let addresses = globals
        .iter()
        .map(|(name, &(a, _))| (name.clone(), a))
        .collect();
    Ok(lower::lower(module, &addresses)?)
}

/// Runs a kernel to its end (or to its fault). Never panics on what a kernel does.
pub fn run(launch: &Launch<'_>) -> Report {
    exec::launch::run(launch)
}

/// Runs kernels that nothing orders, their blocks by turns; the reports are in the launches' order. Options must be the same for all
/// and have a seed. When one fails the others stop where they are.
pub fn run_together(launches: &[Launch<'_>]) -> Vec<Report> {
    exec::launch::run_together(launches)
}
