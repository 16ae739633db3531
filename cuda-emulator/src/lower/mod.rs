//! Syntax tree → typed operations with resolved registers. What is not implemented is refused here, with its line.

mod arithmetic;
mod compare;
mod control;
mod convert;
mod function;
mod memory;
pub(crate) mod op;
pub(crate) mod operands;
mod registers;
pub(crate) mod tracked;
mod warp;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use self::function::{FunctionLowering, Place};
use self::op::Code;
use crate::memory::SHARED_BASE;
use crate::ptx::ast::{self, AddressBase, Operand, Space};

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
const CODE_WINDOW: u64 = 0x0004_0000_0000_0000;

/// The value that the name of a function has in PTX.
pub(crate) fn function_address(module: &ast::Module, name: &str) -> Option<u64> {
    let index = module.functions.iter().position(|f| f.name == name)?;
    Some(CODE_WINDOW + 16 * (index as u64 + 1))
}

/// Lowers a module; `addresses` holds the device address of each `.global` and `.const` variable.
///
/// # Errors
/// For the first instruction that is not implemented or not allowed, with its line.
pub(crate) fn lower(
    module: &ast::Module,
    addresses: &HashMap<String, u64>,
) -> Result<Program, LowerError> {
    let names: HashMap<&str, usize> = module
        .functions
        .iter()
        .enumerate()
        .map(|(i, f)| (f.name.as_str(), i))
        .collect();
    let mut kernels = Vec::new();
    let mut covered = vec![false; module.functions.len()];
    for (index, func) in module.functions.iter().enumerate() {
        if func.entry && func.body.is_some() {
            let image = Image::lower(module, addresses, &names, index, &mut covered)?;
            kernels.push(Arc::new(image.kernel(func)));
        }
    }
    // Functions that no kernel calls are not executed, but an error in them is an error in the module.
    for (index, func) in module.functions.iter().enumerate() {
        if !covered[index] && func.body.is_some() {
            Image::lower(module, addresses, &names, index, &mut covered)?;
        }
    }
    Ok(Program { kernels })
}

/// What ptxas allows: static shared memory before and since sm_90, parameters.
const MAX_STATIC_SHARED: [u64; 2] = [48 << 10, 227 << 10];
const MAX_PARAMS: u64 = 32764;

/// A kernel's parameters must fit into its parameter space.
fn check_params(func: &ast::Function) -> Result<(), LowerError> {
    let mut end = 0u64;
    for p in &func.params {
        end = end.next_multiple_of(u64::from(p.align.max(1)));
        end = end.saturating_add(p.size);
    }
    if end <= MAX_PARAMS {
        return Ok(());
    }
    Err(LowerError {
        line: func.line,
        message: format!(
            "the parameters of {} have {end} bytes, the limit is {MAX_PARAMS}",
            func.name
        ),
    })
}

/// Offsets of parameters, and the size of their block.
fn param_layout(params: &[ast::Param]) -> Vec<ParamInfo> {
    let mut at = 0u32;
    let place = |p: &ast::Param| {
        let align = p.align.max(1);
        let offset = at.next_multiple_of(align);
        at = offset + p.size as u32;
        let size = p.size as u32;
        ParamInfo {
            offset,
            size,
            align,
        }
    };
    params.iter().map(place).collect()
}

/// One kernel with the functions it may call.
pub(crate) struct Image<'a> {
    pub(crate) module: &'a ast::Module,
    addresses: &'a HashMap<String, u64>,
    names: &'a HashMap<&'a str, usize>,
    pub(crate) code: Code,
    /// Functions in the image, by index in the module; the kernel is the first.
    order: Vec<usize>,
    /// Addresses of module-scope shared variables, and of functions' own by function and name.
    shared: HashMap<&'a str, u32>,
    own_shared: HashMap<(usize, &'a str), u32>,
}

/// Calls `f` with every name that an operand uses.
fn each_name<'a>(operand: &'a Operand, f: &mut impl FnMut(&'a str)) {
    match operand {
        Operand::Symbol { name, .. } | Operand::Element { name, .. } => f(name),
        Operand::Address {
            base: AddressBase::Symbol(name),
            ..
        }
        | Operand::TensorAddress {
            base: AddressBase::Symbol(name),
            ..
        } => f(name),
        Operand::Vector(list) => list.iter().for_each(|o| each_name(o, f)),
        Operand::Pair(a, b) => {
            each_name(a, f);
            each_name(b, f);
        }
        _ => {}
    }
}

impl<'a> Image<'a> {
    fn lower(
        module: &'a ast::Module,
        addresses: &'a HashMap<String, u64>,
        names: &'a HashMap<&'a str, usize>,
        kernel: usize,
        covered: &mut [bool],
    ) -> Result<Self, LowerError> {
        let mut image = Self {
            module,
            addresses,
            names,
            code: Code::default(),
            order: vec![kernel],
            shared: HashMap::new(),
            own_shared: HashMap::new(),
        };
        image.reach()?;
        for index in 0..image.order.len() {
            covered[image.order[index]] = true;
            let function = image.lower_function(index)?;
            image.code.functions.push(function);
        }
        Ok(image)
    }

    fn kernel(self, func: &ast::Function) -> Kernel {
        Kernel {
            name: func.name.clone(),
            params: param_layout(&func.params),
            static_shared: self.code.static_shared,
            local_bytes: self.code.functions[0].frame,
            registers: registers::estimate(func),
            directives: func.directives.clone(),
            code: Arc::new(self.code),
        }
    }

    /// Finds the functions and the shared variables that the kernel can reach, and places the latter.
    fn reach(&mut self) -> Result<(), LowerError> {
        let module = self.module;
        let kernel = &module.functions[self.order[0]];
        let mut dynamic = Vec::new();
        let mut at = 0u32;
        let most = MAX_STATIC_SHARED[usize::from(module.target.sm >= 90)];
        // The place of a variable, after those before it.
        let mut place = |v: &ast::Variable| {
            let start = u64::from(at).next_multiple_of(u64::from(v.align.max(1)));
            let end = start.saturating_add(v.size);
            if end > most {
                return Err(LowerError {
                    line: v.line,
                    message: format!(
                        "with {} the kernel {} has {end} bytes of static shared memory, the limit is {most}",
                        v.name, kernel.name
                    ),
                });
            }
            at = end as u32;
            Ok(SHARED_BASE + start as u32)
        };
        let mut all_taken = false;
        let mut done = 0;
        while done < self.order.len() {
            let index = self.order[done];
            let func = &module.functions[index];
            let mut names = Vec::new();
            for inst in func.body.iter().flatten() {
                inst.operands
                    .iter()
                    .for_each(|o| each_name(o, &mut |name| names.push(name)));
                // A call through a register can reach whatever has its address taken anywhere.
                let indirect = inst.opcode == "call"
                    && inst
                        .operands
                        .iter()
                        .any(|o| matches!(o, Operand::Register(_)));
                if indirect && !all_taken {
                    all_taken = true;
                    names.extend(address_taken(module));
                }
            }
            for name in names {
                if let Some(&i) = self.names.get(name)
                    && module.functions[i].body.is_some()
                    && !module.functions[i].entry
                    && !self.order.contains(&i)
                {
                    self.order.push(i);
                }
                let Some(v) = module
                    .variables
                    .iter()
                    .find(|v| v.space == Space::Shared && v.name == name)
                else {
                    continue;
                };
                if self.shared.contains_key(name) {
                    continue;
                }
                self.shared.insert(name, 0);
                if v.external || v.size == 0 {
                    dynamic.push(name);
                } else {
                    self.shared.insert(name, place(v)?);
                }
            }
            for v in func.variables.iter().filter(|v| v.space == Space::Shared) {
                self.own_shared.insert((index, &v.name), place(v)?);
            }
            done += 1;
        }
        self.code.static_shared = at;
        // Compilers rely on more alignment of the dynamic part than they declare (128-byte swizzles: 1024).
        self.code.dynamic_offset = at.next_multiple_of(1024);
        for name in dynamic {
            self.shared
                .insert(name, SHARED_BASE + self.code.dynamic_offset);
        }
        Ok(())
    }

    /// Index in the image of a function that has a body; `None` for an external one.
    pub(crate) fn callee(&self, name: &str) -> Option<u32> {
        let index = self.names.get(name)?;
        let place = self.order.iter().position(|o| o == index)?;
        self.module.functions[*index].body.as_ref()?;
        Some(place as u32)
    }

    pub(crate) fn declaration(&self, name: &str) -> Option<&'a ast::Function> {
        self.names.get(name).map(|&i| &self.module.functions[i])
    }

    /// Address of a shared variable of the function at hand.
    pub(crate) fn shared_address(&self, func: &ast::Function, name: &str) -> Option<u32> {
        let index = self.names.get(func.name.as_str())?;
        self.own_shared.get(&(*index, name)).copied()
    }

    /// A module-scope name.
    pub(crate) fn module_place(&self, name: &str) -> Option<Place> {
        if let Some(&a) = self.addresses.get(name) {
            return Some(Place::Global(a));
        }
        if let Some(&a) = self.shared.get(name) {
            return Some(Place::Shared(a));
        }
        function_address(self.module, name).map(Place::Function)
    }

    fn lower_function(&mut self, index: usize) -> Result<op::Function, LowerError> {
        let module = self.module;
        let func = &module.functions[self.order[index]];
        if func.entry {
            check_params(func)?;
        }
        let entry = self.code.insts.len() as u32;
        let address = CODE_WINDOW + 16 * (self.order[index] as u64 + 1);
        let mut f = FunctionLowering::new(self, func)?;
        let mut params = Vec::new();
        let mut returns = Vec::new();
        if func.entry {
            for (param, info) in func.params.iter().zip(param_layout(&func.params)) {
                f.place_kernel_param(&param.name, info.offset);
            }
        } else {
            for p in &func.returns {
                returns.push(f.place_frame_param(p)?);
            }
            for p in &func.params {
                params.push(f.place_frame_param(p)?);
            }
        }
        f.body()?;
        Ok(f.finish(entry, address, params, returns))
    }
}

/// Names that are used as values: what an indirect call can reach.
fn address_taken(module: &ast::Module) -> Vec<&str> {
    let mut found = Vec::new();
    for func in &module.functions {
        for inst in func.body.iter().flatten().filter(|i| i.opcode != "call") {
            inst.operands
                .iter()
                .for_each(|o| each_name(o, &mut |name| found.push(name)));
        }
    }
    for piece in module.variables.iter().flat_map(|v| &v.initializer) {
        if let ast::InitialValue::Address { name, .. } = &piece.value {
            found.push(name);
        }
    }
    found
}
