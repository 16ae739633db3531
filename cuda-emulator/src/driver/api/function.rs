//! Functions of modules and their attributes.

use std::ffi::{CString, c_char};

use crate::driver::call::{
    Handle, HostPtr, Out, Outcome, Required, Text, fail, invalid, unsupported,
};
use crate::driver::objects::{Function, Kind};
use crate::driver::result::CUresult;
use crate::driver::state::{Driver, entry};
use crate::residency::Needs;

/// The handle of a module's kernel; the same one for every question.
pub(super) fn get(driver: &mut Driver, module: Handle, name: &str) -> Outcome<Handle> {
    let m = driver.module(module)?;
    if let Some(&handle) = m.functions.get(name) {
        return Ok(handle);
    }
    let kernels = &m.loaded.program.kernels;
    let Some(kernel) = kernels.iter().find(|k| k.name == name).cloned() else {
        let names: Vec<_> = kernels.iter().map(|k| k.name.as_str()).take(20).collect();
        let message = format!(
            "the module has no kernel `{name}`; it has: {}",
            names.join(", ")
        );
        return fail(CUresult::NOT_FOUND, message);
    };
    let (context, ptx_version) = (m.context, m.sm as i32);
    let constant_bytes = m.loaded.constant_bytes as i32;
    let binary_version = driver.device.sm() as i32;
    // What is left of the 48 KiB that need no opting in.
    let max_dynamic_shared = driver
        .device
        .shared_per_block
        .saturating_sub(kernel.static_shared);
    let handle = driver.handle(Kind::Function);
    let carveout = -1;
    // PTX identifiers have no NUL.
    let c_name = CString::new(name).unwrap_or_default();
    let function = Function {
        module,
        context,
        kernel,
        name: c_name,
        max_dynamic_shared,
        constant_bytes,
        carveout,
        ptx_version,
        binary_version,
    };
    driver.functions.insert(handle, function);
    driver
        .module(module)?
        .functions
        .insert(name.to_owned(), handle);
    Ok(handle)
}

/// A kernel of the module by its (mangled) name.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleGetFunction(
    out: Out<'_, Handle>,
    module: Handle,
    name: Text,
) -> CUresult {
    entry("cuModuleGetFunction", |driver| {
        let out = out.need("hfunc")?;
        let name = name.get("name")?;
        driver.current()?;
        out.write(get(driver, module, name)?);
        Ok(())
    })
}

/// The number of kernels in a module.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleGetFunctionCount(out: Out<'_, u32>, module: Handle) -> CUresult {
    entry("cuModuleGetFunctionCount", |driver| {
        let out = out.need("count")?;
        out.write(driver.module(module)?.loaded.program.kernels.len() as u32);
        Ok(())
    })
}

/// The first `count` kernels of a module.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleEnumerateFunctions(
    out: HostPtr,
    count: u32,
    module: Handle,
) -> CUresult {
    entry("cuModuleEnumerateFunctions", |driver| {
        let kernels = &driver.module(module)?.loaded.program.kernels;
        let names: Vec<_> = kernels
            .iter()
            .take(count as usize)
            .map(|k| k.name.clone())
            .collect();
        for (i, name) in names.iter().enumerate() {
            let handle = get(driver, module, name)?;
            out.offset(8 * i).write(&handle.to_le_bytes())?;
        }
        Ok(())
    })
}

/// The module of a function.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncGetModule(out: Out<'_, Handle>, function: Handle) -> CUresult {
    entry("cuFuncGetModule", |driver| {
        let out = out.need("hmod")?;
        out.write(driver.function(function)?.module);
        Ok(())
    })
}

/// The (mangled) name of a function; lives as long as the function.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncGetName(out: Out<'_, *const c_char>, function: Handle) -> CUresult {
    entry("cuFuncGetName", |driver| {
        let out = out.need("name")?;
        out.write(driver.function(function)?.name.as_ptr());
        Ok(())
    })
}

/// Offset and bytes of a parameter.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncGetParamInfo(
    function: Handle,
    index: usize,
    offset: Out<'_, usize>,
    size: Out<'_, usize>,
) -> CUresult {
    entry("cuFuncGetParamInfo", |driver| {
        let offset = offset.need("paramOffset")?;
        let kernel = &driver.function(function)?.kernel;
        let Some(param) = kernel.params.get(index) else {
            return invalid(format!(
                "{} has {} parameters, not {}",
                kernel.name,
                kernel.params.len(),
                index + 1
            ));
        };
        offset.write(param.offset as usize);
        // The size is optional.
        size.map(|s| s.write(param.size as usize));
        Ok(())
    })
}

/// Functions are loaded with their module.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncIsLoaded(out: Out<'_, u32>, function: Handle) -> CUresult {
    entry("cuFuncIsLoaded", |driver| {
        let out = out.need("state")?;
        driver.function(function)?;
        out.write(1);
        Ok(())
    })
}

/// Functions are loaded with their module.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncLoad(function: Handle) -> CUresult {
    entry("cuFuncLoad", |driver| driver.function(function).map(|_| ()))
}

/// An attribute of `CUfunction_attribute`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncGetAttribute(
    out: Out<'_, i32>,
    attribute: i32,
    function: Handle,
) -> CUresult {
    entry("cuFuncGetAttribute", |driver| {
        let out = out.need("pi")?;
        let device = driver.device;
        let f = driver.function(function)?;
        let kernel = &f.kernel;
        let cluster = kernel.directives.reqnctapercluster;
        out.write(match attribute {
            0 => Needs::of(kernel).max_threads(device) as i32,
            1 => kernel.static_shared as i32,
            2 => f.constant_bytes,
            3 => kernel.local_bytes as i32,
            4 => Needs::of(kernel).registers() as i32,
            5 => f.ptx_version,
            6 => f.binary_version,
            7 => 0,
            8 => f.max_dynamic_shared as i32,
            9 => f.carveout,
            10 => i32::from(cluster.is_some()),
            11..=13 => cluster.map_or(0, |c| c[attribute as usize - 11] as i32),
            14 => 0,
            15 => 0,
            _ => return invalid(format!("{attribute} is no CUfunction_attribute")),
        });
        Ok(())
    })
}

/// Sets an attribute of `CUfunction_attribute` that can be set.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncSetAttribute(
    function: Handle,
    attribute: i32,
    value: i32,
) -> CUresult {
    entry("cuFuncSetAttribute", |driver| {
        let most = driver.device.shared_per_block_optin;
        let f = driver.function(function)?;
        let name = &f.kernel.name;
        match attribute {
            8 => {
                let most = most.saturating_sub(f.kernel.static_shared);
                match u32::try_from(value) {
                    Ok(bytes) if bytes <= most => f.max_dynamic_shared = bytes,
                    _ => {
                        let message = format!(
                            "{name}: {value} bytes of dynamic shared memory beside {} static ones, the device has room for {most}",
                            f.kernel.static_shared
                        );
                        return invalid(message);
                    }
                }
            }
            9 if (-1..=100).contains(&value) => f.carveout = value,
            9 => {
                return invalid(format!(
                    "{name}: a carve-out of {value} %, expected -1 to 100"
                ));
            }
            11..=15 => return unsupported(format!("{name}: clusters are not emulated")),
            _ => return invalid(format!("{name}: attribute {attribute} cannot be set")),
        }
        Ok(())
    })
}

/// A hint that nothing depends on.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncSetCacheConfig(function: Handle, config: u32) -> CUresult {
    entry("cuFuncSetCacheConfig", |driver| {
        driver.function(function)?;
        match config {
            0..=3 => Ok(()),
            _ => invalid(format!("{config} is no CUfunc_cache (0 to 3)")),
        }
    })
}
