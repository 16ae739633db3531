//! The kernels: loaded once for a context, found by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::sys::{CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, DeviceRepr, DriverError};
use cudarc::nvrtc::Ptx;

use super::{combine, dispatch, experts, permute, router, sys};
use crate::error::{Error, Result};

/// One fat binary a file of `csrc/`, with the kernels in it.
macro_rules! modules {
    ($($file:literal => [$($kernels:expr),+],)+) => {
        const MODULES: &[(&str, &[u8], &[&[&str]])] = &[
            $((
                $file,
                include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".fatbin")),
                &[$(&$kernels.names()),+],
            ),)+
        ];
    };
}

modules! {
    "combine" => [combine::UNPERMUTE, combine::UNPERMUTE_BACKWARD],
    "dispatch" => [dispatch::DISPATCH],
    "experts_backward" => [
        experts::DOWN_BACKWARD, experts::INPUT_GRAD, experts::DOWN_WEIGHT_GRAD, experts::UP_WEIGHT_GRAD,
        experts::WEIGHTS_GRAD
    ],
    "experts_forward" => [experts::UP, experts::DOWN],
    "permute" => [permute::PERMUTE],
    "router" => [router::FORWARD_128, router::FORWARD_512, router::FORWARD_ANY, router::BACKWARD],
    "router_grad" => [router::WEIGHT_GRAD, router::INPUT_GRAD],
    "router_tokens" => [router::TOKENS_128, router::TOKENS_256, router::TOKENS_512, router::LOGITS],
    "router_tokens_backward" =>
        [router::TOKENS_BACKWARD_128, router::TOKENS_BACKWARD_256, router::TOKENS_BACKWARD_512],
}

/// A kernel of one name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Untyped(pub(crate) &'static str);

impl Untyped {
    pub(crate) const fn names(&self) -> [&'static str; 1] {
        [self.0]
    }
}

/// A kernel's names for the storage types.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Typed {
    pub(crate) f32: &'static str,
    pub(crate) bf16: &'static str,
    pub(crate) f16: &'static str,
}

/// `typed!("permute")`: permute_f32, permute_bf16, permute_f16.
macro_rules! typed {
    ($name:literal) => {
        $crate::cuda::module::Typed {
            f32: concat!($name, "_f32"),
            bf16: concat!($name, "_bf16"),
            f16: concat!($name, "_f16"),
        }
    };
}
pub(crate) use typed;

impl Typed {
    /// All three, for a list of a module's kernels.
    pub(crate) const fn names(&self) -> [&'static str; 3] {
        [self.f32, self.bf16, self.f16]
    }
}

/// A kernel's names for the types of x and of the router weight, which is of x's type or f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mixed {
    pub(crate) same: Typed,
    pub(crate) bf16_f32: &'static str,
    pub(crate) f16_f32: &'static str,
}

/// `mixed!("router_logits")`: router_logits_f32, …, router_logits_bf16_f32, router_logits_f16_f32.
macro_rules! mixed {
    ($name:literal) => {
        $crate::cuda::module::Mixed {
            same: $crate::cuda::module::typed!($name),
            bf16_f32: concat!($name, "_bf16_f32"),
            f16_f32: concat!($name, "_f16_f32"),
        }
    };
}
pub(crate) use mixed;

impl Mixed {
    /// All five, for a list of a module's kernels.
    pub(crate) const fn names(&self) -> [&'static str; 5] {
        let Typed { f32, bf16, f16 } = self.same;
        [f32, bf16, f16, self.bf16_f32, self.f16_f32]
    }
}

/// Every kernel, ready to launch.
#[derive(Debug)]
pub(crate) struct Kernels {
    functions: HashMap<&'static str, (CudaFunction, usize)>,
    pub(crate) multiprocessors: u32,
    /// Bytes of shared memory that a block may have.
    pub(crate) shared_limit: usize,
}

/// Kernels of contexts in use: loading takes milliseconds, and a program may make a backend a stream.
static LOADED: Mutex<Vec<(usize, Weak<Kernels>)>> = Mutex::new(Vec::new());

impl Kernels {
    /// Loads all modules, now: nothing is loaded while a graph is being captured.
    pub(crate) fn load(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        const OPERATION: &str = "loading the kernels";
        let failed = |error| Error::Driver {
            operation: OPERATION,
            error,
        };
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|(_, kernels)| kernels.strong_count() > 0);
        let key = context.cu_ctx() as usize;
        if let Some(kernels) = loaded
            .iter()
            .find(|(context, _)| *context == key)
            .and_then(|(_, kernels)| kernels.upgrade())
        {
            return Ok(kernels);
        }
        let attribute = |attribute| context.attribute(attribute).map_err(failed);
        let shared_limit =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let multiprocessors =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let mut functions = HashMap::new();
        for &(file, image, names) in MODULES {
            if image.is_empty() {
                return Err(Error::Unsupported {
                    operation: OPERATION,
                    reason: format!(
                        "this build has no code of {file}: it was made for documentation only"
                    ),
                });
            }
            let module = context
                .load_module(Ptx::from_binary(image.to_vec()))
                .map_err(|error| no_code(context, error))?;
            for &name in names.iter().copied().flatten() {
                let function = module.load_function(name).map_err(failed)?;
                let own = function.shared_size_bytes().map_err(failed)?;
                function
                    .set_attribute(
                        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                        shared_limit - own,
                    )
                    .map_err(failed)?;
                functions.insert(name, (function, own as usize));
            }
        }
        let kernels = Arc::new(Self {
            functions,
            multiprocessors,
            shared_limit: shared_limit as usize,
        });
        loaded.push((key, Arc::downgrade(&kernels)));
        Ok(kernels)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&CudaFunction> {
        self.functions.get(name).map(|(function, _)| function)
    }

    /// Bytes of shared memory that a kernel has of its own, beside what a launch adds.
    pub(crate) fn own_shared(&self, name: &str) -> usize {
        self.functions.get(name).map_or(0, |&(_, own)| own)
    }
}

/// A device that the fat binary has no code for is the likely mistake, so it gets its own sentence.
fn no_code(context: &CudaContext, error: DriverError) -> Error {
    const OPERATION: &str = "loading the kernels";
    let missing = [
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
    ];
    match context.compute_capability() {
        Ok((major, minor)) if missing.contains(&error.0) => Error::Unsupported {
            operation: OPERATION,
            reason: format!(
                "this build has no code for the device, compute capability {major}.{minor} ({error}): kernels need 8.0 or \
                 later and a driver as new as the compiler; MILLET_CUDA_ARCHS chooses what a build is for"
            ),
        },
        _ => Error::Driver {
            operation: OPERATION,
            error,
        },
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
    MilletExperts,
);
