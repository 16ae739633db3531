//! The interface below cudarc's safe layer: launch attributes, libraries, graphs built node by node, registered host memory.

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Arc;

use cuda_emulator_loader as _;
use cudarc::driver::{CudaContext, result, sys};
use sys::CUlaunchAttributeID as Id;
use sys::cudaError_enum as Code;

/// A context, the tests' kernels as a library, and two cells of device memory.
struct Setup {
    _context: Arc<CudaContext>,
    library: sys::CUlibrary,
    cells: u64,
}

impl Setup {
    fn new() -> Self {
        let context = CudaContext::new(0).unwrap();
        context.bind_to_thread().unwrap();
        let text = CString::new(include_str!("data/tests.ptx")).unwrap();
        let mut library = null_mut();
        let code = text.as_ptr().cast();
        // SAFETY: NUL-terminated text, no options; the cells are freed in `drop`.
        let cells = unsafe {
            let none = null_mut();
            sys::cuLibraryLoadData(&mut library, code, null_mut(), none, 0, null_mut(), none, 0)
                .result()
                .unwrap();
            result::malloc_sync(8).unwrap()
        };
        Self {
            _context: context,
            library,
            cells,
        }
    }

    fn function(&self, name: &str) -> sys::CUfunction {
        let name = CString::new(name).unwrap();
        let (mut kernel, mut function) = (null_mut(), null_mut());
        // SAFETY: the library is live, the name a C string.
        unsafe {
            sys::cuLibraryGetKernel(&mut kernel, self.library, name.as_ptr())
                .result()
                .unwrap();
            sys::cuKernelGetFunction(&mut function, kernel)
                .result()
                .unwrap();
        }
        function
    }

    /// The cells after all work, which are set to `new`.
    fn swap(&self, new: [i32; 2]) -> [i32; 2] {
        let mut old = [0; 2];
        // SAFETY: the cells are 8 bytes.
        unsafe {
            result::ctx::synchronize().unwrap();
            result::memcpy_dtoh_sync(&mut old, self.cells).unwrap();
            result::memcpy_htod_sync(self.cells, &new).unwrap();
        }
        old
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        unsafe {
            result::free_sync(self.cells).unwrap();
            sys::cuLibraryUnload(self.library).result().unwrap();
        }
    }
}

fn attribute(id: Id, values: &[i32]) -> sys::CUlaunchAttribute {
    // SAFETY: the structure is plain numbers.
    let mut a: sys::CUlaunchAttribute = unsafe { MaybeUninit::zeroed().assume_init() };
    a.id = id;
    for (i, value) in values.iter().enumerate() {
        let place = (&raw mut a.value).cast::<i32>().wrapping_add(i);
        // SAFETY: the union has 64 bytes, and no attribute here more than 12.
        unsafe { place.write(*value) };
    }
    a
}

#[test]
fn launch_attributes() {
    let s = Setup::new();
    let (relay, bounded) = (s.function("move"), s.function("bounded"));
    let launch = |f, grid, block, attributes: &mut [sys::CUlaunchAttribute]| {
        let (mut to, mut from) = (s.cells, s.cells + 4);
        let mut params: [*mut c_void; 2] = [(&raw mut to).cast(), (&raw mut from).cast()];
        let config = sys::CUlaunchConfig {
            gridDimX: grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: null_mut(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: everything is live until the call returns.
        unsafe { sys::cuLaunchKernelEx(&config, f, params.as_mut_ptr(), null_mut()) }
    };
    s.swap([1, 2]);
    let serial = Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    let cooperative = attribute(Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &[1]);
    let mut hints = [attribute(serial, &[1]), cooperative];
    assert_eq!(launch(relay, 1, 1, &mut hints), Code::CUDA_SUCCESS);
    assert_eq!(s.swap([0, 0]), [2, 2]);
    let too_large = Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    assert_eq!(launch(bounded, 16 * 108 + 1, 128, &mut hints), too_large);
    let mut cluster = [attribute(
        Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        &[2, 1, 1],
    )];
    assert_eq!(
        launch(relay, 2, 1, &mut cluster),
        Code::CUDA_ERROR_NOT_SUPPORTED
    );
    let mut single = [attribute(
        Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        &[1, 1, 1],
    )];
    assert_eq!(launch(relay, 2, 1, &mut single), Code::CUDA_SUCCESS);
    let mut event = [attribute(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT, &[0])];
    assert_eq!(
        launch(relay, 1, 1, &mut event),
        Code::CUDA_ERROR_NOT_SUPPORTED
    );
    assert_eq!(s.swap([0, 0]), [0, 0]);
}

#[test]
fn absurd_launches() {
    let s = Setup::new();
    let relay = s.function("move");
    let launch = |f, grid: [u32; 3], block: [u32; 3], shared, params, extra| {
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        // SAFETY: pointers are live or wrong on purpose: the emulator reads them by way of the system.
        unsafe { sys::cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, null_mut(), params, extra) }
    };
    let (mut to, mut from) = (s.cells, s.cells + 4);
    let mut pointers: [*mut c_void; 2] = [(&raw mut to).cast(), (&raw mut from).cast()];
    let good = pointers.as_mut_ptr();
    let (one, none) = ([1; 3], null_mut());
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    for (grid, block, shared) in [
        ([0, 1, 1], one, 0),
        ([1 << 31, 1, 1], one, 0),
        ([u32::MAX; 3], one, 0),
        ([1, 65536, 1], one, 0),
        ([1, 1, 65536], one, 0),
        (one, [0, 1, 1], 0),
        (one, [1025, 1, 1], 0),
        (one, [1, 1, 65], 0),
        (one, [32, 32, 2], 0),
        (one, [u32::MAX; 3], 0),
        (one, one, 48 * 1024 + 1),
        (one, one, u32::MAX),
    ] {
        assert_eq!(launch(relay, grid, block, shared, good, none), invalid);
    }
    let handle = Code::CUDA_ERROR_INVALID_HANDLE;
    for wrong in [0usize, 1, 0x7fff_ffff_ffff, usize::MAX] {
        assert_eq!(launch(wrong as _, one, one, 0, good, none), handle);
        let mut pointers: [*mut c_void; 2] = [(&raw mut to).cast(), wrong as _];
        let params = pointers.as_mut_ptr();
        assert_eq!(
            launch(relay, one, one, 0, params, none),
            invalid,
            "{wrong:#x}"
        );
        let params = wrong as *mut *mut c_void;
        assert_eq!(
            launch(relay, one, one, 0, params, none),
            invalid,
            "{wrong:#x}"
        );
    }
    // A packed buffer that is too small, one of a huge size, and both ways at once.
    let mut packed = [to, from];
    for (mut size, expected) in [
        (0usize, invalid),
        (15, invalid),
        (usize::MAX, Code::CUDA_SUCCESS),
        (16, Code::CUDA_SUCCESS),
    ] {
        let buffer = (&raw mut packed).cast();
        let mut list: [*mut c_void; 5] =
            [1 as _, buffer, 2 as _, (&raw mut size).cast(), none.cast()];
        let extra = list.as_mut_ptr();
        assert_eq!(launch(relay, one, one, 0, none, extra), expected, "{size}");
        assert_eq!(launch(relay, one, one, 0, good, extra), invalid);
    }
    // Nothing of this broke the context.
    s.swap([1, 2]);
    assert_eq!(launch(relay, one, one, 0, good, none), Code::CUDA_SUCCESS);
    assert_eq!(s.swap([0, 0]), [2, 2]);
}

#[test]
fn a_graph_built_by_hand_and_changed() {
    let s = Setup::new();
    let relay = s.function("move");
    let (first, second) = (s.cells, s.cells + 4);
    let (mut graph, mut node, mut exec) = (null_mut(), null_mut(), null_mut());
    // SAFETY: handles and pointers are live; the parameters are read before each call returns.
    unsafe {
        let with = |to: &mut u64, from: &mut u64, call: &mut dyn FnMut(*const _) -> Code| {
            let mut params: [*mut c_void; 2] = [(&raw mut *to).cast(), (&raw mut *from).cast()];
            let mut p: sys::CUDA_KERNEL_NODE_PARAMS = MaybeUninit::zeroed().assume_init();
            p.func = relay;
            (p.gridDimX, p.gridDimY, p.gridDimZ) = (1, 1, 1);
            (p.blockDimX, p.blockDimY, p.blockDimZ) = (1, 1, 1);
            p.kernelParams = params.as_mut_ptr();
            assert_eq!(call(&p), Code::CUDA_SUCCESS);
        };
        sys::cuGraphCreate(&mut graph, 0).result().unwrap();
        with(&mut first.clone(), &mut second.clone(), &mut |p| {
            sys::cuGraphAddKernelNode_v2(&mut node, graph, null_mut(), 0, p)
        });
        sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0)
            .result()
            .unwrap();
        s.swap([1, 2]);
        sys::cuGraphLaunch(exec, null_mut()).result().unwrap();
        assert_eq!(s.swap([3, 4]), [2, 2]);
        // The launch that is under way keeps its parameters.
        sys::cuGraphLaunch(exec, null_mut()).result().unwrap();
        with(&mut second.clone(), &mut first.clone(), &mut |p| {
            sys::cuGraphExecKernelNodeSetParams_v2(exec, node, p)
        });
        assert_eq!(s.swap([5, 6]), [4, 4]);
        sys::cuGraphLaunch(exec, null_mut()).result().unwrap();
        assert_eq!(s.swap([0, 0]), [5, 5]);
        let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
        sys::cuGraphNodeGetType(node, &mut kind).result().unwrap();
        assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL);
        sys::cuGraphExecDestroy(exec).result().unwrap();
        sys::cuGraphDestroy(graph).result().unwrap();
        let gone = sys::cuGraphNodeGetType(node, &mut kind);
        assert_eq!(gone, Code::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(
            sys::cuGraphLaunch(exec, null_mut()),
            Code::CUDA_ERROR_INVALID_HANDLE
        );
    }
}

#[test]
fn edges_and_nodes_of_a_graph_are_its_own() {
    let s = Setup::new();
    let relay = s.function("move");
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    let (mut to, mut from) = (s.cells, s.cells + 4);
    let mut pointers: [*mut c_void; 2] = [(&raw mut to).cast(), (&raw mut from).cast()];
    // SAFETY: handles and pointers are live; the parameters are read before each call returns.
    unsafe {
        let mut params: sys::CUDA_KERNEL_NODE_PARAMS = MaybeUninit::zeroed().assume_init();
        params.func = relay;
        (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
        (params.blockDimX, params.blockDimY, params.blockDimZ) = (1, 1, 1);
        params.kernelParams = pointers.as_mut_ptr();
        let new = || {
            let (mut graph, mut node) = (null_mut(), null_mut());
            sys::cuGraphCreate(&mut graph, 0).result().unwrap();
            sys::cuGraphAddKernelNode_v2(&mut node, graph, null_mut(), 0, &params)
                .result()
                .unwrap();
            (graph, node)
        };
        let ((graph, node), (other, foreign)) = (new(), new());
        let mut second = null_mut();
        sys::cuGraphAddKernelNode_v2(&mut second, graph, &node, 1, &params)
            .result()
            .unwrap();
        for wrong in [[node, node], [node, foreign], [foreign, node]] {
            let mut added = null_mut();
            let result =
                sys::cuGraphAddKernelNode_v2(&mut added, graph, wrong.as_ptr(), 2, &params);
            assert_eq!(result, invalid);
        }
        let mut exec = null_mut();
        sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0)
            .result()
            .unwrap();
        let change = |node| sys::cuGraphExecKernelNodeSetParams_v2(exec, node, &params);
        assert_eq!(change(foreign), invalid);
        assert_eq!(change(node), Code::CUDA_SUCCESS);
        sys::cuGraphExecDestroy(exec).result().unwrap();
        sys::cuGraphDestroy(graph).result().unwrap();
        sys::cuGraphDestroy(other).result().unwrap();
    }
}

#[test]
fn a_list_longer_than_any_is_an_error() {
    let s = Setup::new();
    let relay = s.function("move");
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    // Zeros, with what is mapped behind them: pinned memory lies in that of the card.
    let mut zeros = null_mut();
    let bytes = 4 << 20;
    // SAFETY: handles and pointers are live; lengths are wrong on purpose.
    unsafe {
        sys::cuMemHostAlloc(&mut zeros, bytes, 0).result().unwrap();
        zeros.cast::<u8>().write_bytes(0, bytes);
        let mut config: sys::CUlaunchConfig = MaybeUninit::zeroed().assume_init();
        (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
        (config.blockDimX, config.blockDimY, config.blockDimZ) = (1, 1, 1);
        (config.attrs, config.numAttrs) = (zeros.cast(), u32::MAX);
        let (mut to, mut from) = (s.cells, s.cells + 4);
        let mut params: [*mut c_void; 2] = [(&raw mut to).cast(), (&raw mut from).cast()];
        let launch = |config: &_, params: &mut [*mut c_void; 2]| {
            sys::cuLaunchKernelEx(config, relay, params.as_mut_ptr(), null_mut())
        };
        assert_eq!(launch(&config, &mut params), invalid);
        config.numAttrs = 3;
        assert_eq!(launch(&config, &mut params), Code::CUDA_SUCCESS);
        let text = CString::new(include_str!("data/tests.ptx")).unwrap();
        let mut module = null_mut();
        let load = sys::cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            u32::MAX,
            zeros.cast(),
            zeros.cast(),
        );
        assert_eq!(load, invalid);
        let many = sys::cuPointerGetAttributes(u32::MAX, zeros.cast(), zeros.cast(), s.cells);
        assert_eq!(many, invalid);
        sys::cuMemFreeHost(zeros).result().unwrap();
    }
}

#[test]
fn products_of_sizes_may_be_larger_than_a_register() {
    let s = Setup::new();
    let text = c".version 8.0 .target sm_80 .address_size 64
        .visible .entry wide() .maxntid 65536, 65536, 65536 .minnctapersm 4294967295 { ret; }";
    let (mut library, mut kernel, mut function) = (null_mut(), null_mut(), null_mut());
    let none = null_mut();
    // SAFETY: NUL-terminated texts; everything is live until the calls return.
    unsafe {
        let code = text.as_ptr().cast();
        sys::cuLibraryLoadData(&mut library, code, null_mut(), none, 0, null_mut(), none, 0)
            .result()
            .unwrap();
        sys::cuLibraryGetKernel(&mut kernel, library, c"wide".as_ptr())
            .result()
            .unwrap();
        sys::cuKernelGetFunction(&mut function, kernel)
            .result()
            .unwrap();
        let launch = |attributes: &mut [sys::CUlaunchAttribute]| {
            let mut config: sys::CUlaunchConfig = MaybeUninit::zeroed().assume_init();
            (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
            (config.blockDimX, config.blockDimY, config.blockDimZ) = (1024, 1, 1);
            (config.attrs, config.numAttrs) = (attributes.as_mut_ptr(), attributes.len() as u32);
            sys::cuLaunchKernelEx(&config, function, null_mut(), null_mut())
        };
        assert_eq!(launch(&mut []), Code::CUDA_SUCCESS);
        let dimensions = Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        for size in [[65536, 65536, 1], [0, 1, 1], [-1, -1, -1]] {
            let result = launch(&mut [attribute(dimensions, &size)]);
            assert_eq!(result, Code::CUDA_ERROR_NOT_SUPPORTED, "{size:?}");
        }
        result::ctx::synchronize().unwrap();
        sys::cuLibraryUnload(library).result().unwrap();
    }
    drop(s);
}

#[test]
fn registered_host_memory() {
    let s = Setup::new();
    let mut host = vec![7i32, 8];
    let pointer = host.as_mut_ptr().cast::<c_void>();
    let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    // SAFETY: the memory outlives its registration and the copy; it is not touched between submission and wait.
    unsafe {
        sys::cuMemHostRegister_v2(pointer, 8, 0).result().unwrap();
        let again = sys::cuMemHostRegister_v2(pointer.byte_add(4), 4, 0);
        assert_eq!(again, Code::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        let mut address = 0;
        let mapped = sys::cuMemHostGetDevicePointer_v2(&mut address, pointer, 0);
        assert_eq!(mapped, Code::CUDA_ERROR_NOT_SUPPORTED);
        s.swap([1, 2]);
        sys::cuMemcpyDtoHAsync_v2(pointer, s.cells, 8, stream)
            .result()
            .unwrap();
        assert_eq!(
            pointer.cast::<i32>().read(),
            7,
            "page-locked memory is written later"
        );
        result::stream::synchronize(stream).unwrap();
        assert_eq!(pointer.cast::<i32>().read(), 1);
        sys::cuMemHostUnregister(pointer).result().unwrap();
        let again = sys::cuMemHostUnregister(pointer);
        assert_eq!(again, Code::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        result::stream::destroy(stream).unwrap();
    }
    assert_eq!(host, [1, 2]);
}

#[test]
fn attributes_of_a_kernel() {
    let s = Setup::new();
    let bounded = s.function("bounded");
    let (mut count, mut offset, mut size) = (0, 0, 0);
    // SAFETY: handles and pointers are live.
    unsafe {
        sys::cuLibraryGetKernelCount(&mut count, s.library)
            .result()
            .unwrap();
        assert_eq!(count, 6);
        sys::cuFuncGetParamInfo(bounded, 0, &mut offset, &mut size)
            .result()
            .unwrap();
        assert_eq!((offset, size), (0, 8));
        let beyond = sys::cuFuncGetParamInfo(bounded, 1, &mut offset, &mut size);
        assert_eq!(beyond, Code::CUDA_ERROR_INVALID_VALUE);
        let mut name = std::ptr::null();
        sys::cuFuncGetName(&mut name, bounded).result().unwrap();
        assert_eq!(std::ffi::CStr::from_ptr(name), c"bounded");
    }
}

/// The bytes at `pointer`.
fn first(pointer: *mut c_void) -> u8 {
    // SAFETY: pinned memory of the test's, which only finished work has touched.
    unsafe { pointer.cast::<u8>().read_volatile() }
}

#[test]
fn synchronous_calls_on_pinned_memory_have_happened_on_return() {
    let s = Setup::new();
    let (mut host, mut alias) = (null_mut(), 0);
    // SAFETY: 64 pinned bytes and 8 of the cells; everything is live until the end.
    unsafe {
        sys::cuMemHostAlloc(&mut host, 64, 2).result().unwrap();
        sys::cuMemHostGetDevicePointer_v2(&mut alias, host, 0)
            .result()
            .unwrap();
        sys::cuMemsetD8_v2(alias, 1, 64).result().unwrap();
        assert_eq!(first(host), 1);
        sys::cuMemsetD16_v2(alias, 0x0202, 32).result().unwrap();
        assert_eq!(first(host), 2);
        sys::cuMemsetD32_v2(alias, 0x0303_0303, 16)
            .result()
            .unwrap();
        assert_eq!(first(host), 3);
        sys::cuMemsetD2D8_v2(alias, 8, 4, 8, 8).result().unwrap();
        assert_eq!(first(host), 4);
        sys::cuMemsetD2D32_v2(alias, 8, 0x0505_0505, 2, 8)
            .result()
            .unwrap();
        assert_eq!(first(host), 5);
        sys::cuMemsetD8_v2(s.cells, 6, 8).result().unwrap();
        sys::cuMemcpy(alias, s.cells, 8).result().unwrap();
        assert_eq!(first(host), 6);
        sys::cuMemsetD8_v2(s.cells, 7, 8).result().unwrap();
        sys::cuMemcpyDtoD_v2(alias, s.cells, 8).result().unwrap();
        assert_eq!(first(host), 7);
        // From host to host also by the name of an asynchronous copy.
        sys::cuMemsetD8_v2(alias, 8, 32).result().unwrap();
        sys::cuMemcpyAsync(alias + 32, alias, 32, null_mut())
            .result()
            .unwrap();
        assert_eq!(first(host.byte_add(32)), 8);
        // Asynchronous memsets stay so.
        sys::cuMemsetD8Async(alias, 9, 64, null_mut())
            .result()
            .unwrap();
        assert_eq!(first(host), 8);
        result::ctx::synchronize().unwrap();
        assert_eq!(first(host), 9);
        sys::cuMemFreeHost(host).result().unwrap();
    }
}

#[test]
fn allocations_are_aligned_as_on_a_card() {
    let _s = Setup::new();
    for (bytes, align) in [
        (1, 512),
        (400, 512),
        (5000, 512),
        (2 << 20, 2 << 20),
        (3 << 20, 2 << 20),
    ] {
        // SAFETY: freed at once.
        unsafe {
            let addresses = [(); 3].map(|()| result::malloc_sync(bytes).unwrap());
            for a in addresses {
                assert_eq!(a % align, 0, "{bytes} bytes at {a:#x}");
                result::free_sync(a).unwrap();
            }
        }
    }
}

#[test]
fn constant_memory_of_a_kernel() {
    let _s = Setup::new();
    let text = c".version 8.0\n.target sm_80\n.address_size 64\n.const .align 1 .b8 odd[3];\n\
        .const .align 4 .b8 table[256];\n.visible .entry f() { ret; }\n";
    let (mut module, mut function, mut bytes) = (null_mut(), null_mut(), 0);
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES;
    // SAFETY: text and pointers are live.
    unsafe {
        sys::cuModuleLoadData(&mut module, text.as_ptr().cast())
            .result()
            .unwrap();
        sys::cuModuleGetFunction(&mut function, module, c"f".as_ptr())
            .result()
            .unwrap();
        sys::cuFuncGetAttribute(&mut bytes, attribute, function)
            .result()
            .unwrap();
        assert_eq!(bytes, 260);
        sys::cuModuleUnload(module).result().unwrap();
    }
}

#[test]
fn there_is_no_export_table() {
    let mut table = std::ptr::dangling();
    // SAFETY: the identifier is never looked at.
    let code = unsafe { sys::cuGetExportTable(&mut table, std::ptr::null()) };
    assert_eq!(code, Code::CUDA_ERROR_NOT_SUPPORTED);
    assert!(table.is_null());
}
