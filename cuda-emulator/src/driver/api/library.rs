//! Libraries and their kernels (`CUlibrary`, `CUkernel`): modules and functions of the context that is current when they are loaded,
//! by the same handles.

use std::ffi::c_int;

use super::{context, function, module};
use crate::driver::call::{Handle, HostPtr, Out, Required, Text, unsupported};
use crate::driver::result::CUresult;
use crate::driver::state::entry;

/// Loads PTX text (ended by NUL) or a fat binary.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryLoadData(
    library: Out<'_, Handle>,
    image: HostPtr,
    jit_options: HostPtr,
    jit_values: HostPtr,
    jit_count: u32,
    _options: HostPtr,
    _values: HostPtr,
    count: u32,
) -> CUresult {
    match count {
        0 => module::cuModuleLoadDataEx(library, image, jit_count, jit_options, jit_values),
        _ => entry("cuLibraryLoadData", |_| unsupported("options of libraries")),
    }
}

/// Ends a library.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryUnload(library: Handle) -> CUresult {
    entry("cuLibraryUnload", |driver| module::unload(driver, library))
}

/// A kernel of the library by its (mangled) name.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryGetKernel(
    kernel: Out<'_, Handle>,
    library: Handle,
    name: Text,
) -> CUresult {
    function::cuModuleGetFunction(kernel, library, name)
}

/// The number of kernels in a library.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryGetKernelCount(count: Out<'_, u32>, library: Handle) -> CUresult {
    function::cuModuleGetFunctionCount(count, library)
}

/// The library as a module.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryGetModule(out: Out<'_, Handle>, library: Handle) -> CUresult {
    entry("cuLibraryGetModule", |driver| {
        let out = out.need("pMod")?;
        driver.module(library)?;
        out.write(library);
        Ok(())
    })
}

/// Address and bytes of a library's variable.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryGetGlobal(
    address: Out<'_, u64>,
    bytes: Out<'_, usize>,
    library: Handle,
    name: Text,
) -> CUresult {
    module::cuModuleGetGlobal_v2(address, bytes, library, name)
}

/// The kernel as a function.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetFunction(out: Out<'_, Handle>, kernel: Handle) -> CUresult {
    entry("cuKernelGetFunction", |driver| {
        let out = out.need("pFunc")?;
        driver.function(kernel)?;
        out.write(kernel);
        Ok(())
    })
}

/// The library of a kernel.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetLibrary(out: Out<'_, Handle>, kernel: Handle) -> CUresult {
    function::cuFuncGetModule(out, kernel)
}

/// The (mangled) name of a kernel; lives as long as the kernel.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetName(
    out: Out<'_, *const std::ffi::c_char>,
    kernel: Handle,
) -> CUresult {
    function::cuFuncGetName(out, kernel)
}

/// Offset and bytes of a parameter.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetParamInfo(
    kernel: Handle,
    index: usize,
    offset: Out<'_, usize>,
    size: Out<'_, usize>,
) -> CUresult {
    function::cuFuncGetParamInfo(kernel, index, offset, size)
}

/// An attribute of `CUfunction_attribute`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetAttribute(
    out: Out<'_, i32>,
    attribute: i32,
    kernel: Handle,
    device: c_int,
) -> CUresult {
    match entry("cuKernelGetAttribute", |_| context::check_device(device)) {
        CUresult::SUCCESS => function::cuFuncGetAttribute(out, attribute, kernel),
        error => error,
    }
}

/// Sets an attribute of `CUfunction_attribute` that can be set.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelSetAttribute(
    attribute: i32,
    value: i32,
    kernel: Handle,
    device: c_int,
) -> CUresult {
    match entry("cuKernelSetAttribute", |_| context::check_device(device)) {
        CUresult::SUCCESS => function::cuFuncSetAttribute(kernel, attribute, value),
        error => error,
    }
}
