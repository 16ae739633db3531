//! The driver as a program uses it, apart from running kernels: contexts, attributes, memory, and what is said about mistakes.

use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use cuda_emulator_loader as _;
use cudarc::driver::{CudaContext, result, sys};
use sys::cudaError_enum as Code;

/// What a result function failed with.
fn code<T>(result: Result<T, cudarc::driver::DriverError>) -> Code {
    match result {
        Ok(_) => Code::CUDA_SUCCESS,
        Err(e) => e.0,
    }
}

#[test]
fn the_emulator_is_the_driver() {
    let context = CudaContext::new(0).unwrap();
    assert!(cuda_emulator_loader::is_emulated());
    assert_eq!(context.name().unwrap(), "NVIDIA A100-SXM4-80GB (emulated)");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(context.total_mem().unwrap() % (1 << 30), 0);
    assert_eq!(
        &context.uuid().unwrap().bytes[..8],
        b"emulated".map(|b| b as _)
    );
    assert_eq!(code(CudaContext::new(1)), Code::CUDA_ERROR_INVALID_DEVICE);
}

#[test]
fn attributes_of_the_device() {
    use sys::CUdevice_attribute as A;
    let context = CudaContext::new(0).unwrap();
    for (attribute, value) in [
        (A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 108),
        (A::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
        (
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            166_912,
        ),
        (A::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 0),
        (A::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0),
    ] {
        assert_eq!(
            context.attribute(attribute).unwrap(),
            value,
            "{attribute:?}"
        );
    }
    let mut value = 0;
    // SAFETY: the numbers are not of the enumeration's, so the function is called by its address with plain integers.
    let get: unsafe extern "C" fn(*mut i32, i32, i32) -> Code =
        unsafe { symbol(c"cuDeviceGetAttribute") };
    for wrong in [0, -1, 5000] {
        // SAFETY: `value` is a live integer.
        let result = unsafe { get(&mut value, wrong, 0) };
        assert_eq!(result, Code::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: a null pointer is an error, not an access.
    let result = unsafe { get(null_mut(), 1, 0) };
    assert_eq!(result, Code::CUDA_ERROR_INVALID_VALUE);
}

/// A function of the loaded driver that cudarc has no suitable binding of.
///
/// # Safety
/// `F` must be the function's type.
unsafe fn symbol<F: Copy>(name: &CStr) -> F {
    let mut address: *mut c_void = null_mut();
    let mut status = MaybeUninit::uninit();
    // SAFETY: all pointers are live; flags 0.
    let result = unsafe {
        sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, 13_000, 0, status.as_mut_ptr())
    };
    assert_eq!(result, Code::CUDA_SUCCESS, "{name:?}");
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: the caller promises the type; a function pointer has the size of an address.
    unsafe { std::mem::transmute_copy(&address) }
}

#[test]
fn functions_by_name() {
    CudaContext::new(0).unwrap();
    let mut address: *mut c_void = null_mut();
    let mut status = MaybeUninit::uninit();
    // SAFETY: all pointers are live; flags 0.
    let mut find = |name: &CStr| unsafe {
        sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, 13_000, 0, status.as_mut_ptr())
    };
    assert_eq!(find(c"cuMemcpyDtoHAsync"), Code::CUDA_SUCCESS);
    assert_eq!(find(c"cuNoSuchFunction"), Code::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn copies_in_every_direction() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let host: Vec<u32> = (0..1000).collect();
    let a = stream.clone_htod(&host).unwrap();
    let mut b = stream.alloc_zeros::<u32>(1000).unwrap();
    assert_eq!(stream.clone_dtoh(&b).unwrap(), [0; 1000]);
    stream.memcpy_dtod(&a, &mut b).unwrap();
    assert_eq!(stream.clone_dtoh(&b).unwrap(), host);
    stream
        .memcpy_htod(&[7, 8], &mut b.slice_mut(10..12))
        .unwrap();
    let back = stream.clone_dtoh(&b.slice(9..13)).unwrap();
    assert_eq!(back, [9, 7, 8, 12]);
    stream.memset_zeros(&mut b.slice_mut(0..999)).unwrap();
    assert_eq!(stream.clone_dtoh(&b).unwrap()[998..], [0, 999]);
}

#[test]
fn pinned_memory() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    // SAFETY: written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<f32>(256) }.unwrap();
    pinned.as_mut_slice().unwrap().fill(1.5);
    let mut device = stream.alloc_zeros::<f32>(256).unwrap();
    stream.memcpy_htod(&pinned, &mut device).unwrap();
    stream.synchronize().unwrap();
    pinned.as_mut_slice().unwrap().fill(0.0);
    stream.memcpy_dtoh(&device, &mut pinned).unwrap();
    // Without this the copy may not have run: cudarc orders pinned memory by events only once there are several streams.
    stream.synchronize().unwrap();
    assert_eq!(pinned.as_slice().unwrap(), [1.5; 256]);
    let mut address = 0;
    let host = pinned.as_ptr().unwrap() as *mut c_void;
    // SAFETY: `address` is live; the pointer is only looked up.
    let result = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut address, host, 0) };
    assert_eq!(result, Code::CUDA_SUCCESS);
    let mut back = [0f32; 2];
    // SAFETY: 8 bytes of a live allocation.
    unsafe { result::memcpy_dtoh_sync(&mut back, address + 8) }.unwrap();
    assert_eq!(back, [1.5; 2]);
}

#[test]
fn mistakes_with_memory_are_errors() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    // SAFETY: what is wrong here is the very point; the driver checks addresses.
    unsafe {
        assert_eq!(code(result::malloc_sync(0)), invalid);
        assert_eq!(
            code(result::malloc_sync(1 << 50)),
            Code::CUDA_ERROR_OUT_OF_MEMORY
        );
        let a = result::malloc_sync(100).unwrap();
        assert_eq!(code(result::memcpy_htod_sync(a, &[0u8; 101])), invalid);
        assert_eq!(code(result::memcpy_htod_sync(a - 1, &[0u8; 10])), invalid);
        assert_eq!(code(result::memcpy_htod_sync(1234, &[0u8; 10])), invalid);
        assert_eq!(code(result::memset_d8_sync(a + 90, 0, 11)), invalid);
        assert_eq!(code(result::memcpy_dtod_sync(a, a + 50, 51)), invalid);
        assert_eq!(sys::cuMemcpyHtoD_v2(a, null_mut(), 4), invalid);
        assert_eq!(sys::cuMemcpyHtoD_v2(a, 0x10 as *const c_void, 4), invalid);
        assert_eq!(
            sys::cuMemcpyDtoH_v2(0x10 as *mut c_void, a, 4),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(code(result::free_sync(a + 4)), invalid);
        result::free_sync(a).unwrap();
        assert_eq!(code(result::free_sync(a)), invalid);
        assert_eq!(code(result::memcpy_htod_sync(a, &[0u8; 10])), invalid);
    }
}

#[test]
fn rectangles() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let host: Vec<u8> = (0..60).collect();
    let mut back = [0xffu8; 6];
    // SAFETY: the rectangles lie inside the buffers: 3 rows of 2 bytes, pitches of 10 and 16.
    unsafe {
        let device = result::malloc_sync(48).unwrap();
        let mut r: sys::CUDA_MEMCPY2D = MaybeUninit::zeroed().assume_init();
        r.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
        r.srcHost = host.as_ptr().cast();
        (r.srcXInBytes, r.srcY, r.srcPitch) = (4, 1, 10);
        r.dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        (r.dstDevice, r.dstPitch) = (device, 16);
        (r.WidthInBytes, r.Height) = (2, 3);
        assert_eq!(sys::cuMemcpy2D_v2(&r), Code::CUDA_SUCCESS);
        let mut r: sys::CUDA_MEMCPY2D = MaybeUninit::zeroed().assume_init();
        r.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        (r.srcDevice, r.srcPitch) = (device, 16);
        r.dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
        r.dstHost = back.as_mut_ptr().cast();
        (r.WidthInBytes, r.Height) = (2, 3);
        assert_eq!(sys::cuMemcpy2D_v2(&r), Code::CUDA_SUCCESS);
        r.Height = 4;
        assert_eq!(sys::cuMemcpy2D_v2(&r), Code::CUDA_ERROR_INVALID_VALUE);
        result::free_sync(device).unwrap();
    }
    assert_eq!(back, [14, 15, 24, 25, 34, 35]);
}

#[test]
fn stale_handles_are_errors() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let invalid = Code::CUDA_ERROR_INVALID_HANDLE;
    // SAFETY: the driver looks handles up and never follows them.
    unsafe {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        result::stream::destroy(stream).unwrap();
        assert_eq!(code(result::stream::synchronize(stream)), invalid);
        assert_eq!(code(result::stream::destroy(stream)), invalid);
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
        result::event::destroy(event).unwrap();
        assert_eq!(code(result::event::record(event, null_mut())), invalid);
        assert_eq!(code(result::event::synchronize(null_mut())), invalid);
        assert_eq!(code(result::stream::synchronize(0x1234_5678 as _)), invalid);
        assert_eq!(code(result::module::unload(null_mut())), invalid);
        let none = [1, 1, 1];
        let [x, y, z] = none;
        let launched = sys::cuLaunchKernel(
            null_mut(),
            x,
            y,
            z,
            1,
            1,
            1,
            0,
            null_mut(),
            null_mut(),
            null_mut(),
        );
        assert_eq!(launched, invalid);
        assert_eq!(sys::cuGraphLaunch(7 as _, null_mut()), invalid);
    }
}

#[test]
fn contexts_are_a_stack_of_the_thread() {
    let primary = CudaContext::new(0).unwrap();
    let (mut made, mut current) = (null_mut(), null_mut());
    // SAFETY: the pointers are live; handles are only compared.
    unsafe {
        assert_eq!(
            sys::cuCtxCreate_v4(&mut made, null_mut(), 0, 0),
            Code::CUDA_SUCCESS
        );
        assert_eq!(sys::cuCtxGetCurrent(&mut current), Code::CUDA_SUCCESS);
        assert_eq!(current, made);
        let lost = result::malloc_sync(321).unwrap();
        assert_eq!(sys::cuCtxPopCurrent_v2(&mut current), Code::CUDA_SUCCESS);
        assert_eq!(current, made);
        primary.bind_to_thread().unwrap();
        assert_eq!(sys::cuCtxDestroy_v2(made), Code::CUDA_SUCCESS);
        assert_eq!(
            sys::cuCtxDestroy_v2(made),
            Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
        );
        assert_eq!(
            sys::cuCtxSetCurrent(made),
            Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
        );
        assert_eq!(
            code(result::memset_d8_sync(lost, 0, 1)),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuCtxDestroy_v2(primary.cu_ctx()),
            Code::CUDA_ERROR_INVALID_CONTEXT
        );
    }
    // The allocation that the context took with it is reported.
    let findings = cuda_emulator_loader::findings().unwrap();
    let leak = findings.iter().find(|f| f.contains("321 bytes"));
    assert!(
        leak.is_some_and(|f| f.starts_with(r#"{"kind":"leak""#)),
        "{findings:?}"
    );
}

#[test]
fn a_thread_without_a_context_is_told_so() {
    CudaContext::new(0).unwrap();
    std::thread::spawn(|| {
        // SAFETY: an error before anything is touched.
        unsafe {
            assert_eq!(
                code(result::malloc_sync(16)),
                Code::CUDA_ERROR_INVALID_CONTEXT
            );
            assert_eq!(sys::cuCtxSynchronize(), Code::CUDA_ERROR_INVALID_CONTEXT);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn pointers_tell_what_they_are() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    use sys::CUpointer_attribute as P;
    // SAFETY: the results fit the attributes' types.
    unsafe {
        let a = result::malloc_sync(100).unwrap();
        let (mut kind, mut start, mut size) = (0u32, 0u64, 0usize);
        let ask = |out: *mut c_void, which, at| sys::cuPointerGetAttribute(out, which, at);
        assert_eq!(
            ask(
                (&raw mut kind).cast(),
                P::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                a + 5
            ),
            Code::CUDA_SUCCESS
        );
        assert_eq!(kind, 2);
        ask(
            (&raw mut start).cast(),
            P::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
            a + 5,
        )
        .result()
        .unwrap();
        ask(
            (&raw mut size).cast(),
            P::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
            a + 5,
        )
        .result()
        .unwrap();
        assert_eq!((start, size), (a, 100));
        let outside = ask(
            (&raw mut kind).cast(),
            P::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            a + 100,
        );
        assert_eq!(outside, Code::CUDA_ERROR_INVALID_VALUE);
        result::free_sync(a).unwrap();
    }
}

#[test]
fn what_is_missing_is_refused() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let mut address = 0;
    // SAFETY: refused before anything is touched.
    let result = unsafe { sys::cuMemAllocManaged(&mut address, 16, 1) };
    assert_eq!(result, Code::CUDA_ERROR_NOT_SUPPORTED);
    assert!(
        cuda_emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some("loud"))
            .unwrap()
            .is_err()
    );
    assert!(
        cuda_emulator_loader::set_option("CUDA_EMULATOR_COLOUR", Some("1"))
            .unwrap()
            .is_err()
    );
}

/// A copy of rows; the sides are (memory type, address, pitch).
fn rows(
    from: (u32, u64, usize),
    to: (u32, u64, usize),
    width: usize,
    height: usize,
) -> sys::CUDA_MEMCPY2D_v2 {
    // SAFETY: numbers and null pointers.
    let mut copy: sys::CUDA_MEMCPY2D_v2 = unsafe { MaybeUninit::zeroed().assume_init() };
    let kind = |number| match number {
        1 => sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        _ => sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
    };
    (copy.srcMemoryType, copy.dstMemoryType) = (kind(from.0), kind(to.0));
    (copy.srcHost, copy.srcDevice) = (from.1 as *const c_void, from.1);
    (copy.dstHost, copy.dstDevice) = (to.1 as *mut c_void, to.1);
    (copy.srcPitch, copy.dstPitch) = (from.2, to.2);
    (copy.WidthInBytes, copy.Height) = (width, height);
    copy
}

#[test]
fn sizes_that_no_host_has_are_errors() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    let mut host = [1u8, 2, 3, 4, 5, 6, 7, 8];
    let address = host.as_mut_ptr() as u64;
    // SAFETY: the driver checks addresses and sizes; what is valid is live.
    unsafe {
        for bytes in [1 << 47, 1 << 60, usize::MAX] {
            let plain = sys::cuMemcpy(address, address, bytes);
            assert_eq!(plain, invalid, "{bytes}");
            let rows = rows((1, address, bytes), (1, address, bytes), bytes, 1);
            assert_eq!(sys::cuMemcpy2D_v2(&rows), invalid, "{bytes}");
        }
        let device = result::malloc_sync(8).unwrap();
        // Rows far apart: only the first is there.
        for pitch in [1 << 47, 1 << 60] {
            let far = rows((1, address, pitch), (2, device, 4), 4, 2);
            assert_eq!(sys::cuMemcpy2D_v2(&far), invalid, "{pitch}");
            let one = rows((1, address, pitch), (2, device, 4), 4, 1);
            assert_eq!(sys::cuMemcpy2D_v2(&one), Code::CUDA_SUCCESS, "{pitch}");
        }
        // What lies between rows is neither read nor written.
        let gaps = rows((1, address, 6), (2, device, 4), 2, 2);
        sys::cuMemcpy2D_v2(&gaps).result().unwrap();
        let back = rows((2, device, 4), (1, address + 2, 4), 2, 2);
        sys::cuMemcpy2D_v2(&back).result().unwrap();
        assert_eq!(host, [1, 2, 1, 2, 5, 6, 7, 8]);
        result::free_sync(device).unwrap();
    }
}

#[test]
fn a_row_may_end_where_mapped_memory_does() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    const PAGE: usize = 4096;
    // SAFETY: a mapping of three pages of which the middle one is taken away; the rows are in the others.
    unsafe {
        let (read_write, private) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        let pages = libc::mmap(null_mut(), 3 * PAGE, read_write, private, -1, 0);
        assert_ne!(pages, libc::MAP_FAILED);
        assert_eq!(libc::munmap(pages.byte_add(PAGE), PAGE), 0);
        pages.cast::<u8>().write(7);
        pages.byte_add(2 * PAGE).cast::<u8>().write(9);
        let device = result::malloc_sync(2).unwrap();
        let rows = rows((1, pages as u64, 2 * PAGE), (2, device, 1), 1, 2);
        sys::cuMemcpy2D_v2(&rows).result().unwrap();
        let mut found = [0u8; 2];
        result::memcpy_dtoh_sync(&mut found, device).unwrap();
        assert_eq!(found, [7, 9]);
        result::free_sync(device).unwrap();
        libc::munmap(pages, PAGE);
        libc::munmap(pages.byte_add(2 * PAGE), PAGE);
    }
}

#[test]
fn pinned_memory_that_is_gone_is_no_host_memory() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    let mut host = null_mut();
    // SAFETY: what is wrong here is the very point; the driver checks addresses.
    unsafe {
        let device = result::malloc_sync(128).unwrap();
        sys::cuMemsetD8_v2(device, 1, 128).result().unwrap();
        sys::cuMemHostAlloc(&mut host, 64, 0).result().unwrap();
        assert_eq!(sys::cuMemcpyHtoD_v2(device, host, 128), invalid);
        assert_eq!(sys::cuMemcpyDtoH_v2(host, device, 65), invalid);
        let inside = host.byte_add(1);
        assert_eq!(sys::cuMemcpyDtoH_v2(inside, device, 64), invalid);
        let last = sys::cuMemcpyDtoH_v2(inside, device, 63);
        assert_eq!(last, Code::CUDA_SUCCESS);
        sys::cuMemFreeHost(host).result().unwrap();
        assert_eq!(sys::cuMemcpyHtoD_v2(device, host, 64), invalid);
        assert_eq!(sys::cuMemcpyDtoH_v2(host, device, 64), invalid);
        assert_eq!(sys::cuMemHostRegister_v2(host, 64, 0), invalid);
        // No more can memory be registered that is not there.
        let nowhere = 0x1_0000 as *mut c_void;
        assert_eq!(sys::cuMemHostRegister_v2(nowhere, 64, 0), invalid);
        result::free_sync(device).unwrap();
    }
}
