//! `inspect`: what is in a module and what the emulator cannot do with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use cuda_emulator::device::Device;
use cuda_emulator::engine::{LoadError, load};
use cuda_emulator::memory::DeviceMemory;
use cuda_emulator::ptx::ast::{Instruction, Module};
use cuda_emulator::ptx::parse;

/// `device` chooses among the architectures of a fat binary.
pub(crate) fn run(path: &Path, device: Option<&str>) -> Result<ExitCode, String> {
    let device = Device::from_key(device.unwrap_or("a100"))?;
    let text = crate::launch::read_module(path, device)?;
    let mut module = parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let (major, minor) = module.version;
    let suffix = module.target.suffix.map_or(String::new(), String::from);
    println!(
        "{}: PTX {major}.{minor} for sm_{}{suffix}",
        path.display(),
        module.target.sm
    );
    for v in &module.variables {
        println!(
            "  {:?} variable {}: {} bytes, align {}",
            v.space, v.name, v.size, v.align
        );
    }
    let refused = refused(&mut module)?;
    let memory = memory()?;
    let loaded = match load(&module, &memory) {
        Ok(loaded) => Some(loaded),
        Err(e) => {
            println!("  not loadable: {e}");
            None
        }
    };
    for function in module.functions.iter().filter(|f| f.entry) {
        let count = function.body.as_ref().map_or(0, Vec::len);
        println!("  kernel {}: {count} instructions", function.name);
        let lowered = loaded
            .iter()
            .flat_map(|l| &l.program.kernels)
            .find(|k| k.name == function.name);
        if let Some(kernel) = lowered {
            println!(
                "    shared {} bytes, local {} bytes a thread, about {} registers",
                kernel.static_shared, kernel.local_bytes, kernel.registers
            );
            for (param, at) in function.params.iter().zip(&kernel.params) {
                println!(
                    "    parameter {} {:?}: {} bytes at {}",
                    param.name, param.ty, at.size, at.offset
                );
            }
        }
        let d = &function.directives;
        for (name, extent) in [
            ("maxntid", d.maxntid),
            ("reqntid", d.reqntid),
            ("reqnctapercluster", d.reqnctapercluster),
        ] {
            if let Some([x, y, z]) = extent {
                println!("    .{name} {x}, {y}, {z}");
            }
        }
        for (name, count) in [("minnctapersm", d.minnctapersm), ("maxnreg", d.maxnreg)] {
            if let Some(count) = count {
                println!("    .{name} {count}");
            }
        }
    }
    if refused.is_empty() {
        println!("  every instruction is implemented");
        return Ok(ExitCode::SUCCESS);
    }
    for (form, refusal) in &refused {
        let lines: Vec<String> = refusal.lines.iter().map(u32::to_string).collect();
        println!(
            "  refused: {form} (lines {}): {}",
            lines.join(", "),
            refusal.message
        );
    }
    Ok(ExitCode::from(2))
}

fn memory() -> Result<DeviceMemory, String> {
    const BYTES: u64 = 1 << 32;
    DeviceMemory::new(BYTES).map_err(|e| format!("device memory: {e}"))
}

struct Refusal {
    lines: Vec<u32>,
    message: String,
}

/// Opcode with its words.
fn form(instruction: &Instruction) -> String {
    let mut form = instruction.opcode.clone();
    for word in &instruction.modifiers {
        form.push('.');
        form.push_str(word);
    }
    form
}

/// Loading stops at the first instruction that is refused. To find all of them, each is replaced by a `trap` and loading
/// tried again.
fn refused(module: &mut Module) -> Result<BTreeMap<String, Refusal>, String> {
    let memory = memory()?;
    let mut found = BTreeMap::new();
    loop {
        let error = match load(module, &memory) {
            Ok(loaded) => {
                loaded.unload(&memory);
                return Ok(found);
            }
            Err(LoadError::Lower(error)) => error,
            Err(_) => return Ok(found),
        };
        let bodies = || {
            module
                .functions
                .iter()
                .filter_map(|f| f.body.as_ref())
                .flatten()
        };
        let culprit = bodies().find(|i| i.line == error.line).map(form);
        let Some(culprit) = culprit.filter(|form| form != "trap") else {
            // Not an instruction: a declaration or a variable.
            let refusal = Refusal {
                lines: vec![error.line],
                message: error.message,
            };
            found.insert("declaration".into(), refusal);
            return Ok(found);
        };
        let mut lines = Vec::new();
        for body in module.functions.iter_mut().filter_map(|f| f.body.as_mut()) {
            for instruction in body
                .iter_mut()
                .filter(|i| i.line == error.line && form(i) == culprit)
            {
                lines.push(instruction.line);
                instruction.opcode = "trap".into();
                instruction.modifiers.clear();
                instruction.operands.clear();
            }
        }
        let refusal = found.entry(culprit).or_insert(Refusal {
            lines: Vec::new(),
            message: error.message,
        });
        refusal.lines.extend(lines);
    }
}
