#!/usr/bin/env python3
"""Runs a PTX kernel on the emulator from Python, with nothing but the standard library.

    cargo build -p cuda-emulator
    python3 cuda-emulator/examples/ctypes_vector_add.py [path of libcuda_emulator.so]

The same calls work on NVIDIA's libcuda.so.1: the library is the only difference.
"""

import array
import ctypes
import pathlib
import sys

PTX = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 out, .param .u64 a, .param .u64 b, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .b64 %rd<8>;
    .reg .f32 %f<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [a];
    ld.param.u64 %rd3, [b];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra END;
    mul.wide.u32 %rd4, %r5, 4;
    add.u64 %rd5, %rd2, %rd4;
    add.u64 %rd6, %rd3, %rd4;
    add.u64 %rd7, %rd1, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
END:
    ret;
}
"""


def main() -> None:
    root = pathlib.Path(__file__).resolve().parents[2]
    default = root / "target/debug/libcuda_emulator.so"
    cuda = ctypes.CDLL(sys.argv[1] if len(sys.argv) > 1 else str(default))

    def call(name, *args):
        """Calls a driver function; an error becomes an exception with the driver's sentence."""
        result = getattr(cuda, name)(*args)
        if result != 0:
            text = ctypes.c_char_p()
            cuda.cuGetErrorString(result, ctypes.byref(text))
            raise RuntimeError(f"{name}: {result} ({(text.value or b'?').decode()})")

    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    name = ctypes.create_string_buffer(100)
    call("cuDeviceGetName", name, 100, device)

    module, add = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuModuleLoadData", ctypes.byref(module), PTX)
    call("cuModuleGetFunction", ctypes.byref(add), module, b"add")

    n = 1000
    a = array.array("f", (float(i) for i in range(n)))
    b = array.array("f", (0.5 * i for i in range(n)))
    out = array.array("f", bytes(4 * n))

    def address(host):
        return ctypes.c_void_p(host.buffer_info()[0])

    buffers = [ctypes.c_uint64() for _ in range(3)]
    for buffer in buffers:
        call("cuMemAlloc_v2", ctypes.byref(buffer), ctypes.c_size_t(4 * n))
    for buffer, host in zip(buffers[1:], (a, b)):
        call("cuMemcpyHtoD_v2", buffer, address(host), ctypes.c_size_t(4 * n))

    count = ctypes.c_uint32(n)
    arguments = [*buffers, count]
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(x) for x in arguments))
    grid, block = ((n + 127) // 128, 1, 1), (128, 1, 1)
    call("cuLaunchKernel", add, *grid, *block, 0, None, pointers, None)
    call("cuMemcpyDtoH_v2", address(out), buffers[0], ctypes.c_size_t(4 * n))

    for buffer in buffers:
        call("cuMemFree_v2", buffer)
    call("cuModuleUnload", module)
    call("cuDevicePrimaryCtxRelease_v2", device)

    if any(out[i] != a[i] + b[i] for i in range(n)):
        raise SystemExit("the sums are wrong")
    print(f"{n} sums are right on {name.value.decode()}")


if __name__ == "__main__":
    main()
