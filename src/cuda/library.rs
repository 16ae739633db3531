//! The driver's library, looked for before cudarc does, which panics where it, or a function in it, is missing.

use std::sync::Mutex;

use libloading::Library;

/// Names that drivers have, in cudarc's order, which has others besides.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvcuda.dll"]
} else {
    &["libcuda.so", "libcuda.so.1"]
};

/// What this backend calls, through cudarc.
const FUNCTIONS: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFree_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// Finds it, with all that is called; or says what is missing.
pub(super) fn find() -> Result<(), String> {
    /// Never closed: a driver has threads.
    static FOUND: Mutex<Option<Library>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(|e| e.into_inner());
    if found.is_some() {
        return Ok(());
    }
    // SAFETY: what a driver does when it is loaded is its own affair; cudarc loads it in the same way.
    let open = |&name: &&str| unsafe { Library::new(name) }.ok();
    let Some(library) = NAMES.iter().find_map(open) else {
        return Err(format!("there is no CUDA driver ({})", NAMES.join(", ")));
    };
    // SAFETY: the symbol is not used.
    let has = |name: &str| unsafe { library.get::<*const ()>(name) }.is_ok();
    if let Some(name) = FUNCTIONS.iter().find(|name| !has(name)) {
        return Err(format!(
            "the CUDA driver has no {name}: it is older than the kernels need"
        ));
    }
    *found = Some(library);
    Ok(())
}
