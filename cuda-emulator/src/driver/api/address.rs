//! `cuGetProcAddress`: functions by name, for programs that do not use the dynamic linker's.

use std::ffi::{c_int, c_void};

use crate::driver::call::{Out, Required, Text, answer, guarded, invalid};
use crate::driver::result::CUresult;

use super::per_thread;
use super::per_thread::Export;

macro_rules! exports {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($(Export { name: stringify!($name), address: super::$module::$name as *const c_void },)*)*]
    };
}

/// Every function of the driver's interface that this library has.
const EXPORTS: &[Export] = exports! {
    capture: cuStreamBeginCapture_v2 cuStreamBeginCapture cuStreamEndCapture cuStreamIsCapturing
        cuStreamGetCaptureInfo_v2 cuThreadExchangeStreamCaptureMode;
    context: cuInit cuDriverGetVersion cuDeviceGet cuDeviceGetCount cuDeviceGetName
        cuDeviceGetUuid_v2 cuDeviceGetUuid cuDeviceGetPCIBusId cuDeviceTotalMem_v2
        cuDeviceGetAttribute cuDeviceComputeCapability cuDeviceCanAccessPeer cuDeviceGetP2PAttribute
        cuCtxEnablePeerAccess cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2
        cuDevicePrimaryCtxRelease cuDevicePrimaryCtxReset_v2 cuDevicePrimaryCtxSetFlags_v2
        cuDevicePrimaryCtxGetState cuCtxCreate_v2 cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2
        cuCtxSetCurrent cuCtxGetCurrent cuCtxPushCurrent_v2 cuCtxPopCurrent_v2 cuCtxGetDevice
        cuCtxGetId cuCtxGetApiVersion cuCtxGetFlags cuCtxSetFlags cuCtxSynchronize cuCtxGetLimit
        cuCtxSetLimit cuCtxGetCacheConfig cuCtxSetCacheConfig cuCtxGetStreamPriorityRange;
    copy: cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemcpyDtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2
        cuMemcpyDtoDAsync_v2 cuMemcpy cuMemcpyAsync cuMemcpyPeerAsync cuMemcpy2D_v2
        cuMemcpy2DUnaligned_v2 cuMemcpy2DAsync_v2 cuMemsetD8_v2 cuMemsetD16_v2 cuMemsetD32_v2
        cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async cuMemsetD2D32_v2 cuMemsetD2D8_v2;
    event: cuEventCreate cuEventDestroy_v2 cuEventDestroy cuEventRecord cuEventRecordWithFlags
        cuEventQuery cuEventSynchronize cuEventElapsedTime cuEventElapsedTime_v2;
    function: cuModuleGetFunction cuModuleGetFunctionCount cuModuleEnumerateFunctions
        cuFuncGetModule cuFuncGetName cuFuncGetParamInfo cuFuncIsLoaded cuFuncLoad
        cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig;
    graph: cuGraphCreate cuGraphDestroy cuGraphClone cuGraphGetNodes cuGraphNodeGetType
        cuGraphAddKernelNode_v2 cuGraphKernelNodeSetParams_v2 cuGraphExecKernelNodeSetParams_v2
        cuGraphInstantiateWithFlags cuGraphExecGetFlags cuGraphExecDestroy cuGraphUpload
        cuGraphLaunch;
    library: cuLibraryLoadData cuLibraryUnload cuLibraryGetKernel cuLibraryGetKernelCount
        cuLibraryGetModule cuLibraryGetGlobal cuKernelGetFunction cuKernelGetLibrary cuKernelGetName
        cuKernelGetParamInfo cuKernelGetAttribute cuKernelSetAttribute;
    launch: cuLaunchKernel cuLaunchCooperativeKernel cuLaunchKernelEx;
    memory: cuMemAlloc_v2 cuMemAllocPitch_v2 cuMemFree_v2 cuMemAllocAsync cuMemAllocFromPoolAsync
        cuMemFreeAsync cuMemGetInfo_v2 cuMemHostAlloc cuMemAllocHost_v2 cuMemFreeHost
        cuMemHostRegister_v2 cuMemHostUnregister cuMemHostGetDevicePointer_v2 cuMemHostGetFlags
        cuMemAllocManaged cuMemAdvise_v2 cuMemAdvise cuMemPrefetchAsync_v2 cuMemPrefetchAsync;
    module: cuModuleLoadData cuModuleLoadFatBinary cuModuleLoadDataEx cuModuleLoad cuModuleUnload
        cuModuleGetGlobal_v2 cuModuleGetLoadingMode cuLinkCreate_v2;
    occupancy: cuOccupancyMaxActiveBlocksPerMultiprocessor
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxPotentialBlockSize
        cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyAvailableDynamicSMemPerBlock
        cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialClusterSize;
    pool: cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool cuMemPoolCreate
        cuMemPoolDestroy cuMemPoolTrimTo cuMemPoolGetAttribute cuMemPoolSetAttribute;
    query: cuPointerGetAttribute cuPointerGetAttributes cuMemGetAddressRange_v2 cuProfilerStart
        cuProfilerStop cuImportExternalMemory cuDestroyExternalMemory
        cuExternalMemoryGetMappedBuffer cuTensorMapEncodeTiled;
    error: cuGetErrorName cuGetErrorString;
    stream: cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamDestroy
        cuStreamSynchronize cuStreamQuery cuStreamWaitEvent cuStreamGetCtx cuStreamGetDevice
        cuStreamGetFlags cuStreamGetPriority cuStreamGetId cuLaunchHostFunc cuStreamAddCallback
        cuStreamAttachMemAsync;
    address: cuGetProcAddress cuGetProcAddress_v2 cuGetExportTable;
};

/// Functions whose versions differ in their parameters: the CUDA version from which each applies, newest first.
const VERSIONS: &[(&str, &[(c_int, &str)])] = &[
    (
        "cuCtxCreate",
        &[
            (12_050, "cuCtxCreate_v4"),
            (11_040, "cuCtxCreate_v3"),
            (0, "cuCtxCreate_v2"),
        ],
    ),
    (
        "cuStreamBeginCapture",
        &[
            (10_010, "cuStreamBeginCapture_v2"),
            (0, "cuStreamBeginCapture"),
        ],
    ),
    (
        "cuMemAdvise",
        &[(12_020, "cuMemAdvise_v2"), (0, "cuMemAdvise")],
    ),
    (
        "cuMemPrefetchAsync",
        &[(12_020, "cuMemPrefetchAsync_v2"), (0, "cuMemPrefetchAsync")],
    ),
    // A third version of 12.3 gives edges as well.
    (
        "cuStreamGetCaptureInfo",
        &[(12_030, ""), (11_030, "cuStreamGetCaptureInfo_v2")],
    ),
    (
        "cuGraphInstantiate",
        &[(12_000, "cuGraphInstantiateWithFlags")],
    ),
];

/// The function that a program compiled for `version` means by `name`.
fn find(name: &str, version: c_int) -> Option<&'static Export> {
    let exact = |name: &str| EXPORTS.iter().find(|e| e.name == name);
    if let Some((_, versions)) = VERSIONS.iter().find(|v| v.0 == name) {
        return exact(versions.iter().find(|v| v.0 <= version)?.1);
    }
    exact(&format!("{name}_v2")).or_else(|| exact(name))
}

fn lookup(
    name: &Text,
    out: Out<'_, *const c_void>,
    version: c_int,
    flags: u64,
    status: Out<'_, u32>,
) -> CUresult {
    guarded("cuGetProcAddress", || {
        let out = out.need("pfn")?;
        let name = name.get("symbol")?;
        out.write(std::ptr::null());
        let found = find(name, version);
        // 0 default, 1 legacy, 2 per-thread default stream where there is such a variant.
        let found = match flags {
            0 | 1 => found,
            2 => found.map(|export| {
                let mut variants = per_thread::VARIANTS.iter();
                variants.find(|v| v.name == export.name).unwrap_or(export)
            }),
            _ => return invalid(format!("flags {flags:#x} have bits that are not defined")),
        };
        // 0 found, 1 not found.
        status.map(|s| s.write(u32::from(found.is_none())));
        match found {
            Some(export) => {
                out.write(export.address);
                Ok(())
            }
            // Programs ask for many functions that they may never call.
            None => answer(CUresult::NOT_FOUND),
        }
    })
}

/// The address of a function by its name without version.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGetProcAddress(
    name: Text,
    out: Out<'_, *const c_void>,
    version: c_int,
    flags: u64,
) -> CUresult {
    lookup(&name, out, version, flags, None)
}

/// As [`cuGetProcAddress`], saying whether the name or the version was not found.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGetProcAddress_v2(
    name: Text,
    out: Out<'_, *const c_void>,
    version: c_int,
    flags: u64,
    status: Out<'_, u32>,
) -> CUresult {
    lookup(&name, out, version, flags, status)
}

/// Tables of functions that NVIDIA's own libraries ask for by number and document nowhere. There are none here; some of those
/// libraries call this without looking whether it is there, and do without the table.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGetExportTable(
    table: Out<'_, *const c_void>,
    _number: *const c_void,
) -> CUresult {
    guarded("cuGetExportTable", || {
        table.need("ppExportTable")?.write(std::ptr::null());
        answer(CUresult::NOT_SUPPORTED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exported_function_can_be_asked_for() {
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src/driver/api");
        let mut seen = 0;
        for file in std::fs::read_dir(sources).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            // In two parts, so that this line is no match.
            let mark = concat!("extern \"C\" fn ", "cu");
            for part in text.split(mark).skip(1) {
                let (name, rest) = part.split_once('(').unwrap();
                let parameters = rest.split(')').next().unwrap();
                // Ours have names of their own and are found by the dynamic linker.
                if name.starts_with(char::is_uppercase) {
                    let name = format!("cu{name}");
                    assert!(
                        EXPORTS.iter().any(|e| e.name == name),
                        "{name} is not listed"
                    );
                    let takes_stream = parameters.contains("stream: Handle")
                        && !name.starts_with("cuStreamDestroy");
                    let synchronous = name.starts_with("cuMemcpy") || name.starts_with("cuMemset");
                    if takes_stream || synchronous {
                        assert!(
                            per_thread::VARIANTS.iter().any(|e| e.name == name),
                            "{name} may use stream 0 and has no variant for per-thread default streams"
                        );
                    }
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, EXPORTS.len());
    }

    #[test]
    fn names_and_versions() {
        let name = |n, v| find(n, v).map(|e| e.name);
        assert_eq!(name("cuMemAlloc", 12_000), Some("cuMemAlloc_v2"));
        assert_eq!(name("cuInit", 12_000), Some("cuInit"));
        assert_eq!(name("cuCtxCreate", 12_000), Some("cuCtxCreate_v3"));
        assert_eq!(name("cuCtxCreate", 13_000), Some("cuCtxCreate_v4"));
        assert_eq!(name("cuCtxCreate", 3_020), Some("cuCtxCreate_v2"));
        assert_eq!(name("cuNothing", 13_000), None);
        assert_eq!(name("cuStreamGetCaptureInfo", 13_000), None);
    }
}
