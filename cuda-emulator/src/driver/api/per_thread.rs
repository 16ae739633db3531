//! Variants of the functions for programs that are compiled for per-thread default streams. Called by a name that ends in `_ptds`, where it
//! takes no stream, or in `_ptsz`, where it takes one, a function uses the calling thread's default stream as stream 0.

use std::ffi::c_void;

use super::copy::Rectangle;
use super::launch::LaunchConfig;
use crate::driver::call::{Handle, HostPtr, Out, with_per_thread_stream_0};
use crate::driver::result::CUresult;

/// An exported function.
pub(super) struct Export {
    pub(super) name: &'static str,
    pub(super) address: *const c_void,
}

/// Exports the variants, and lists them.
macro_rules! variants {
    ($($module:ident { $($name:ident $end:literal ($($parameter:ident: $type:ty),*);)* })*) => {
        $($(
            #[unsafe(export_name = concat!(stringify!($name), $end))]
            extern "C" fn $name($($parameter: $type),*) -> CUresult {
                with_per_thread_stream_0(|| super::$module::$name($($parameter),*))
            }
        )*)*

        /// The variants under the names of their functions.
        pub(super) const VARIANTS: &[Export] =
            &[$($(Export { name: stringify!($name), address: $name as *const c_void },)*)*];
    };
}

type Function = Option<extern "C" fn(*mut c_void)>;
type Callback = Option<extern "C" fn(Handle, CUresult, *mut c_void)>;

variants! {
    capture {
        cuStreamBeginCapture_v2 "_ptsz" (stream: Handle, mode: u32);
        cuStreamBeginCapture "_ptsz" (stream: Handle);
        cuStreamEndCapture "_ptsz" (stream: Handle, graph: Out<'_, Handle>);
        cuStreamIsCapturing "_ptsz" (stream: Handle, out: Out<'_, u32>);
        cuStreamGetCaptureInfo_v2 "_ptsz" (stream: Handle, out: Out<'_, u32>, id: Out<'_, u64>, graph: Out<'_, Handle>,
            dependencies: Out<'_, *const Handle>, count: Out<'_, usize>);
    }
    copy {
        cuMemcpyHtoD_v2 "_ptds" (to: u64, from: HostPtr, bytes: usize);
        cuMemcpyDtoH_v2 "_ptds" (to: HostPtr, from: u64, bytes: usize);
        cuMemcpyDtoD_v2 "_ptds" (to: u64, from: u64, bytes: usize);
        cuMemcpy "_ptds" (to: u64, from: u64, bytes: usize);
        cuMemcpy2D_v2 "_ptds" (rectangle: Option<&Rectangle>);
        cuMemcpy2DUnaligned_v2 "_ptds" (rectangle: Option<&Rectangle>);
        cuMemcpyHtoDAsync_v2 "_ptsz" (to: u64, from: HostPtr, bytes: usize, stream: Handle);
        cuMemcpyDtoHAsync_v2 "_ptsz" (to: HostPtr, from: u64, bytes: usize, stream: Handle);
        cuMemcpyDtoDAsync_v2 "_ptsz" (to: u64, from: u64, bytes: usize, stream: Handle);
        cuMemcpyAsync "_ptsz" (to: u64, from: u64, bytes: usize, stream: Handle);
        cuMemcpyPeerAsync "_ptsz" (to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle);
        cuMemcpy2DAsync_v2 "_ptsz" (rectangle: Option<&Rectangle>, stream: Handle);
        cuMemsetD8_v2 "_ptds" (address: u64, value: u8, count: usize);
        cuMemsetD16_v2 "_ptds" (address: u64, value: u16, count: usize);
        cuMemsetD32_v2 "_ptds" (address: u64, value: u32, count: usize);
        cuMemsetD2D8_v2 "_ptds" (address: u64, pitch: usize, value: u8, width: usize, height: usize);
        cuMemsetD2D32_v2 "_ptds" (address: u64, pitch: usize, value: u32, width: usize, height: usize);
        cuMemsetD8Async "_ptsz" (address: u64, value: u8, count: usize, stream: Handle);
        cuMemsetD16Async "_ptsz" (address: u64, value: u16, count: usize, stream: Handle);
        cuMemsetD32Async "_ptsz" (address: u64, value: u32, count: usize, stream: Handle);
    }
    event {
        cuEventRecord "_ptsz" (event: Handle, stream: Handle);
        cuEventRecordWithFlags "_ptsz" (event: Handle, stream: Handle, flags: u32);
    }
    graph {
        cuGraphUpload "_ptsz" (executable: Handle, stream: Handle);
        cuGraphLaunch "_ptsz" (executable: Handle, stream: Handle);
    }
    launch {
        cuLaunchKernel "_ptsz" (function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
            dynamic_shared: u32, stream: Handle, params: HostPtr, extra: HostPtr);
        cuLaunchCooperativeKernel "_ptsz" (function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
            block_z: u32, dynamic_shared: u32, stream: Handle, params: HostPtr);
        cuLaunchKernelEx "_ptsz" (config: Option<&LaunchConfig>, function: Handle, params: HostPtr, extra: HostPtr);
    }
    memory {
        cuMemAllocAsync "_ptsz" (out: Out<'_, u64>, bytes: usize, stream: Handle);
        cuMemAllocFromPoolAsync "_ptsz" (out: Out<'_, u64>, bytes: usize, pool: Handle, stream: Handle);
        cuMemFreeAsync "_ptsz" (address: u64, stream: Handle);
        cuMemPrefetchAsync_v2 "_ptsz" (address: u64, bytes: usize, location: u64, flags: u32, stream: Handle);
        cuMemPrefetchAsync "_ptsz" (address: u64, bytes: usize, device: i32, stream: Handle);
    }
    stream {
        cuStreamSynchronize "_ptsz" (stream: Handle);
        cuStreamQuery "_ptsz" (stream: Handle);
        cuStreamWaitEvent "_ptsz" (stream: Handle, event: Handle, flags: u32);
        cuStreamGetCtx "_ptsz" (stream: Handle, context: Out<'_, Handle>);
        cuStreamGetDevice "_ptsz" (stream: Handle, device: Out<'_, i32>);
        cuStreamGetFlags "_ptsz" (stream: Handle, flags: Out<'_, u32>);
        cuStreamGetPriority "_ptsz" (stream: Handle, priority: Out<'_, i32>);
        cuStreamGetId "_ptsz" (stream: Handle, id: Out<'_, u64>);
        cuLaunchHostFunc "_ptsz" (stream: Handle, function: Function, data: HostPtr);
        cuStreamAddCallback "_ptsz" (stream: Handle, callback: Callback, data: HostPtr, flags: u32);
        cuStreamAttachMemAsync "_ptsz" (stream: Handle, address: u64, bytes: usize, flags: u32);
    }
}
