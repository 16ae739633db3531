//! Syntax tree → typed operations with resolved registers. What is not implemented is refused here, with its line.

mod arithmetic;
pub(crate) mod code;
mod compare;
mod control;
mod convert;
mod function;
mod image;
mod memory;
pub(crate) mod op;
pub(crate) mod operands;
mod program;
mod registers;
mod text;
pub(crate) mod tracked;
mod warp;
mod words;

use std::collections::HashMap;
use std::sync::Arc;

use self::function::FunctionLowering;
use self::image::Image;
use self::program::CODE_WINDOW;
pub(crate) use self::program::function_address;
pub use self::program::{Kernel, LowerError, ParamInfo, Program};
use crate::ptx::ast;

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
            let image = lower_kernel(module, addresses, &names, index, &mut covered)?;
            kernels.push(Arc::new(kernel(image, func)));
        }
    }
    // Functions that no kernel calls are not executed, but an error in them is an error in the module.
    for (index, func) in module.functions.iter().enumerate() {
        if !covered[index] && func.body.is_some() {
            lower_kernel(module, addresses, &names, index, &mut covered)?;
        }
    }
    Ok(Program { kernels })
}

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

/// Lowers a kernel and the functions that it can reach.
fn lower_kernel<'a>(
    module: &'a ast::Module,
    addresses: &'a HashMap<String, u64>,
    names: &'a HashMap<&'a str, usize>,
    kernel: usize,
    covered: &mut [bool],
) -> Result<Image<'a>, LowerError> {
    let mut image = Image::new(module, addresses, names, kernel)?;
    for index in 0..image.order.len() {
        covered[image.order[index]] = true;
        let function = lower_function(&mut image, index)?;
        image.code.functions.push(function);
    }
    Ok(image)
}

fn kernel(image: Image<'_>, func: &ast::Function) -> Kernel {
    Kernel {
        name: func.name.clone(),
        params: param_layout(&func.params),
        static_shared: image.code.static_shared,
        local_bytes: image.code.functions[0].frame,
        registers: registers::estimate(func),
        directives: func.directives.clone(),
        code: Arc::new(image.code.into()),
    }
}

fn lower_function(image: &mut Image<'_>, index: usize) -> Result<op::Function, LowerError> {
    let module = image.module;
    let func = &module.functions[image.order[index]];
    if func.entry {
        check_params(func)?;
    }
    let entry = image.code.insts.len() as u32;
    let address = CODE_WINDOW + 16 * (image.order[index] as u64 + 1);
    let mut f = FunctionLowering::new(image, func)?;
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
