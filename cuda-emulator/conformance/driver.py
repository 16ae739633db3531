"""The few functions of the CUDA driver that the conformance programs need, through ctypes."""

import ctypes

import numpy as np


class Driver:
    """A context on device 0 of the driver library at `path`."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.device = ctypes.c_int()
        self.call("cuInit", ctypes.c_uint(0))
        self.call("cuDeviceGet", ctypes.byref(self.device), ctypes.c_int(0))
        self.start()

    def start(self):
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self.call("cuCtxSetCurrent", context)

    def restart(self):
        """A new context: an error that a kernel caused stays with its context."""
        self.call("cuDevicePrimaryCtxReset_v2", self.device)
        self.start()

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'?').decode()}")

    def function(self, ptx, name, shared):
        """A kernel that may use `shared` bytes of dynamic shared memory."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(ptx.encode()))
        self.call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(name.encode()))
        if shared > 48 << 10:
            self.call("cuFuncSetAttribute", function, ctypes.c_int(8), ctypes.c_int(shared))
        return function

    def launch(self, function, grid, threads, shared, arguments):
        """`arguments`: numpy arrays are copied to the device and back, everything else is a ctypes value."""
        values, buffers = [], []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                pointer = ctypes.c_uint64()
                self.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(argument.nbytes, 1)))
                self.call("cuMemcpyHtoD_v2", pointer, argument.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(argument.nbytes))
                buffers.append((pointer, argument))
                values.append(pointer)
            else:
                values.append(argument)
        addresses = [ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in values]
        packed = (ctypes.c_void_p * len(values))(*addresses)
        sizes = [ctypes.c_uint(size) for size in (*grid, threads, 1, 1, shared)]
        self.call("cuLaunchKernel", function, *sizes, None, packed, None)
        self.call("cuCtxSynchronize")
        for pointer, array in buffers:
            self.call("cuMemcpyDtoH_v2", array.ctypes.data_as(ctypes.c_void_p), pointer, ctypes.c_size_t(array.nbytes))
            self.call("cuMemFree_v2", pointer)
