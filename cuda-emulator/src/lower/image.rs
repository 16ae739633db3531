//! A kernel with the functions and the shared variables that it can reach.

use std::collections::HashMap;

use super::op::Instructions;
use super::program::{LowerError, function_address};
use crate::memory::SHARED_BASE;
use crate::ptx::ast::{self, AddressBase, Operand, Space};

/// What ptxas allows: static shared memory before and since sm_90.
const MAX_STATIC_SHARED: [u64; 2] = [48 << 10, 227 << 10];

/// What a name stands for inside a function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// Address in device memory (`.global`, `.const`).
    Global(u64),
    /// Address in the shared window.
    Shared(u32),
    /// Offset in the function's local frame: `.local` variables, and in call sequences `.param` ones.
    Local(u32),
    FrameParam(u32, u32),
    /// Offset in the kernel's parameter block.
    KernelParam(u32),
    /// A function's address.
    Function(u64),
}

/// One kernel with the functions it may call.
pub(crate) struct Image<'a> {
    pub(crate) module: &'a ast::Module,
    pub(super) addresses: &'a HashMap<String, u64>,
    pub(super) names: &'a HashMap<&'a str, usize>,
    pub(crate) code: Instructions,
    /// Functions in the image, by index in the module; the kernel is the first.
    pub(super) order: Vec<usize>,
    /// Addresses of module-scope shared variables, and of functions' own by function and name.
    pub(super) shared: HashMap<&'a str, u32>,
    pub(super) own_shared: HashMap<(usize, &'a str), u32>,
}

impl<'a> Image<'a> {
    pub(super) fn new(
        module: &'a ast::Module,
        addresses: &'a HashMap<String, u64>,
        names: &'a HashMap<&'a str, usize>,
        kernel: usize,
    ) -> Result<Self, LowerError> {
        let mut image = Self {
            module,
            addresses,
            names,
            code: Instructions::default(),
            order: vec![kernel],
            shared: HashMap::new(),
            own_shared: HashMap::new(),
        };
        image.reach()?;
        Ok(image)
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
