//! The kernels of the catalogue, loaded once for a context.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::sys::CUfunction_attribute::{
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
};
use cudarc::driver::sys::{self as driver_sys, CUdevice_attribute, CUfunction, CUmodule, CUresult};
use cudarc::driver::{CudaContext, DeviceRepr, DriverError, result};

use super::arch::Architecture;
use super::catalogue::{self, Kernel};
use super::sys;
use crate::error::{Error, Result};

const LOADING: &str = "loading the kernels";

/// Every kernel, ready to launch.
///
/// By handles, not by cudarc's modules: those hold the context, and kernels that are kept for a graph must not.
#[derive(Debug)]
pub(crate) struct Kernels {
    context: Weak<CudaContext>,
    modules: Vec<CUmodule>,
    /// With the bytes of shared memory that each has of its own.
    functions: HashMap<Kernel, (CUfunction, usize)>,
    captured: AtomicBool,
    pub(crate) architecture: Architecture,
    pub(crate) multiprocessors: usize,
    /// Bytes of shared memory that a block may have.
    pub(crate) shared_limit: usize,
}

// SAFETY: handles, which any thread may use once it has bound the context.
unsafe impl Send for Kernels {}
// SAFETY: as above; nothing changes them.
unsafe impl Sync for Kernels {}

/// Kernels of contexts in use: loading takes milliseconds, and a program may make a backend a stream.
static LOADED: Mutex<Vec<Weak<Kernels>>> = Mutex::new(Vec::new());

/// Kernels that went into a graph, which has no more than their handles and may be launched after the last backend is gone. A
/// graph holds its context, so they are kept while that is there.
static CAPTURED: Mutex<Vec<Arc<Kernels>>> = Mutex::new(Vec::new());

impl Kernels {
    /// Loads all modules, now: nothing is loaded while a graph is being captured.
    pub(crate) fn load(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        let failed = |error| Error::Driver {
            operation: LOADING,
            error,
        };
        locked(&CAPTURED).retain(|kernels| kernels.context.strong_count() > 0);
        let mut loaded = locked(&LOADED);
        loaded.retain(|kernels| kernels.strong_count() > 0);
        if let Some(kernels) = loaded
            .iter()
            .filter_map(Weak::upgrade)
            .find(|kernels| std::ptr::eq(kernels.context.as_ptr(), Arc::as_ptr(context)))
        {
            return Ok(kernels);
        }
        let attribute = |attribute| context.attribute(attribute).map_err(failed);
        let shared_limit =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let multiprocessors =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let capability = context.compute_capability().map_err(failed)?;
        let architecture = Architecture::of(capability).ok_or_else(|| Error::Unsupported {
            operation: LOADING,
            reason: format!(
                "the device has compute capability {}.{}, but kernels need 8.0 or later",
                capability.0, capability.1
            ),
        })?;
        // Unloads what it has if something fails.
        let mut kernels = Self {
            context: Arc::downgrade(context),
            modules: Vec::new(),
            functions: HashMap::new(),
            captured: AtomicBool::new(false),
            architecture,
            multiprocessors,
            shared_limit: shared_limit as usize,
        };
        context.bind_to_thread().map_err(failed)?;
        for (file, image) in catalogue::FILES {
            let mut of_file = catalogue::kernels_of(file, architecture).peekable();
            if of_file.peek().is_none() {
                // All of it is for newer devices.
                continue;
            }
            if image.is_empty() {
                return Err(Error::Unsupported {
                    operation: LOADING,
                    reason: format!(
                        "this build has no code of {file}: it was made for documentation only"
                    ),
                });
            }
            // A copy, which is aligned.
            let image = image.to_vec();
            // SAFETY: a fat binary that nvcc wrote.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
                .map_err(|error| no_code(context, error))?;
            kernels.modules.push(module);
            for kernel in of_file {
                let c_name = CString::new(kernel.to_string()).unwrap_or_default();
                // SAFETY: the module is loaded, and the function is its.
                let (function, own) = unsafe {
                    let function = result::module::get_function(module, c_name).map_err(failed)?;
                    let own = result::function::get_function_attribute(
                        function,
                        CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
                    )
                    .map_err(failed)?;
                    result::function::set_function_attribute(
                        function,
                        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                        shared_limit - own,
                    )
                    .map_err(failed)?;
                    (function, own)
                };
                kernels.functions.insert(kernel, (function, own as usize));
            }
        }
        let kernels = Arc::new(kernels);
        loaded.push(Arc::downgrade(&kernels));
        Ok(kernels)
    }

    /// A kernel, and the bytes of shared memory that it has of its own beside what a launch adds.
    pub(crate) fn get(&self, kernel: Kernel) -> (CUfunction, usize) {
        // The catalogue makes no other kernels than those that are loaded.
        self.functions[&kernel]
    }

    /// Keeps them loaded while their context is there.
    pub(crate) fn keep(self: &Arc<Self>) {
        if !self.captured.swap(true, Ordering::Relaxed) {
            locked(&CAPTURED).push(self.clone());
        }
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        // Without its context: kept for a graph until the context was gone. The modules go with the driver's context.
        let Some(context) = self.context.upgrade() else {
            return;
        };
        context.record_err(context.bind_to_thread());
        for &module in &self.modules {
            // SAFETY: loaded once, and nothing runs it: a backend waits for its stream before it lets go of the kernels, or keeps them.
            context.record_err(unsafe { result::module::unload(module) });
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the driver says where it cannot run the code: a device that the build was not for, or a driver older than the compiler.
const NO_CODE: &[CUresult] = &[
    CUresult::CUDA_ERROR_INVALID_IMAGE,
    CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
    CUresult::CUDA_ERROR_INVALID_PTX,
    CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
    CUresult::CUDA_ERROR_INVALID_SOURCE,
    CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND,
    CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED,
];

fn no_code(context: &CudaContext, error: DriverError) -> Error {
    let mut driver = 0;
    // SAFETY: an out parameter.
    let version = unsafe { driver_sys::cuDriverGetVersion(&mut driver) };
    match (context.compute_capability(), version.result()) {
        (Ok(capability), Ok(())) if NO_CODE.contains(&error.0) => Error::Unsupported {
            operation: LOADING,
            reason: no_code_text(
                capability,
                driver,
                env!("MILLET_NVCC_RELEASE"),
                &error.to_string(),
            ),
        },
        _ => Error::Driver {
            operation: LOADING,
            error,
        },
    }
}

/// `driver` as `cuDriverGetVersion` gives it, `nvcc` as `12.4`.
fn no_code_text((major, minor): (i32, i32), driver: i32, nvcc: &str, error: &str) -> String {
    let version = (driver / 1000, driver % 1000 / 10);
    let compiler = nvcc
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let advice = if compiler.is_some_and(|compiler| version < compiler) {
        "the driver is older: a newer driver, or a build with an older nvcc, would do"
    } else {
        "kernels need 8.0 or later; MILLET_CUDA_ARCHS chooses what a build is for"
    };
    format!(
        "the driver, for CUDA {}.{}, takes no code of this build, compiled by nvcc {nvcc}, for the device of compute capability \
         {major}.{minor} ({error}): {advice}",
        version.0, version.1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_is_named_with_the_compiler() {
        let text = no_code_text((9, 0), 12_040, "13.5", "invalid");
        assert!(
            text.contains("CUDA 12.4,") && text.contains("nvcc 13.5"),
            "{text}"
        );
        assert!(
            text.contains("9.0 (invalid)") && text.contains("newer driver"),
            "{text}"
        );
        // Minor releases count too, and as numbers.
        let older = |driver, nvcc| no_code_text((8, 0), driver, nvcc, "").contains("newer driver");
        assert!(older(12_090, "12.10") && older(13_040, "13.5"));
        assert!(!older(13_050, "13.5") && !older(13_000, "12.9"));
        // A device that the build was not for.
        let text = no_code_text((7, 5), 13_050, "13.5", "");
        assert!(
            text.contains("MILLET_CUDA_ARCHS") && !text.contains("newer driver"),
            "{text}"
        );
    }

    #[test]
    fn the_compiler_is_known() {
        let (major, minor) = env!("MILLET_NVCC_RELEASE").split_once('.').unwrap();
        let release: (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
        assert!(release >= (12, 4), "{release:?}");
    }
}

macro_rules! parameters {
    ($($name:ident),+ $(,)?) => {
        // SAFETY: `repr(C)` structs made of params.h, which the kernels take by value.
        $(unsafe impl DeviceRepr for sys::$name {})+
    };
}

parameters!(
    MilletRouterForward,
    MilletRouterBackward,
    MilletDispatch,
    MilletRouterInputGrad,
    MilletRouterWeightGrad,
    MilletRows,
    MilletExpertBias,
    MilletExperts,
);
