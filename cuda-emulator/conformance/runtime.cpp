// The part of the CUDA runtime that CUTLASS and CUB use, on the driver API. NVIDIA's own runtime asks the driver for tables that are
// not documented, so it cannot run on another driver.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace {

struct Fat {
    const void *image;
    CUmodule module;
};

struct Function {
    Fat *fat;
    std::string name;
    CUfunction function;
};

struct Configuration {
    dim3 grid, block;
    size_t shared;
    void *stream;
};

std::map<const void *, Function> &functions() {
    static std::map<const void *, Function> all;
    return all;
}

std::vector<Configuration> configurations;
cudaError_t last = cudaSuccess;

/// The two interfaces number their errors alike.
cudaError_t result(CUresult code) {
    if (code == CUDA_SUCCESS) return cudaSuccess;
    const char *text = nullptr;
    if (cuGetErrorName(code, &text) == CUDA_SUCCESS) std::fprintf(stderr, "driver: %s\n", text);
    last = static_cast<cudaError_t>(code);
    return last;
}

/// The primary context of device 0, from the first use on.
CUresult start() {
    static CUresult status = [] {
        CUdevice device;
        CUcontext context;
        CUresult code = cuInit(0);
        if (code == CUDA_SUCCESS) code = cuDeviceGet(&device, 0);
        if (code == CUDA_SUCCESS) code = cuDevicePrimaryCtxRetain(&context, device);
        if (code == CUDA_SUCCESS) code = cuCtxSetCurrent(context);
        return code;
    }();
    return status;
}

CUresult find(const void *symbol, CUfunction *out) {
    CUresult code = start();
    if (code != CUDA_SUCCESS) return code;
    auto at = functions().find(symbol);
    if (at == functions().end()) return CUDA_ERROR_NOT_FOUND;
    Function &f = at->second;
    if (!f.fat->module) code = cuModuleLoadData(&f.fat->module, f.fat->image);
    if (code == CUDA_SUCCESS && !f.function) code = cuModuleGetFunction(&f.function, f.fat->module, f.name.c_str());
    *out = f.function;
    return code;
}

CUdeviceptr address(const void *pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

} // namespace

extern "C" {

void **__cudaRegisterFatBinary(void *image) { return reinterpret_cast<void **>(new Fat{image, nullptr}); }
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}

void __cudaRegisterFunction(void **fat, const char *symbol, char *, const char *name, int, uint3 *, uint3 *, dim3 *, dim3 *, int *) {
    functions()[symbol] = {reinterpret_cast<Fat *>(fat), name, nullptr};
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    configurations.push_back({grid, block, shared, stream});
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    if (configurations.empty()) return last = cudaErrorInvalidConfiguration;
    Configuration c = configurations.back();
    configurations.pop_back();
    *grid = c.grid;
    *block = c.block;
    *shared = c.shared;
    *static_cast<void **>(stream) = c.stream;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *symbol, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    CUfunction function = nullptr;
    CUresult code = find(symbol, &function);
    if (code == CUDA_SUCCESS)
        code = cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, unsigned(shared),
                              reinterpret_cast<CUstream>(stream), arguments, nullptr);
    return result(code);
}

// What the compiler writes for `kernel<<<…>>>`: a handle, which here is the symbol itself, then the launch.
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *symbol) {
    *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void *>(symbol));
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    return cudaLaunchKernel(reinterpret_cast<const void *>(kernel), grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *symbol, void **arguments) {
    // The only attribute that CUB gives is programmatic launch, which allows an overlap but needs none.
    return cudaLaunchKernel(symbol, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes, config->stream);
}

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    CUresult code = start();
    CUdeviceptr found = 0;
    if (code == CUDA_SUCCESS) code = cuMemAlloc(&found, bytes);
    *pointer = reinterpret_cast<void *>(found);
    return result(code);
}

cudaError_t cudaFree(void *pointer) { return pointer ? result(cuMemFree(address(pointer))) : cudaSuccess; }

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    CUresult code = start();
    auto s = reinterpret_cast<CUstream>(stream);
    if (code == CUDA_SUCCESS) switch (kind) {
        case cudaMemcpyHostToDevice: code = cuMemcpyHtoDAsync(address(to), from, bytes, s); break;
        case cudaMemcpyDeviceToHost: code = cuMemcpyDtoHAsync(to, address(from), bytes, s); break;
        case cudaMemcpyDeviceToDevice: code = cuMemcpyDtoDAsync(address(to), address(from), bytes, s); break;
        default: code = CUDA_ERROR_NOT_SUPPORTED;
        }
    return result(code);
}

cudaError_t cudaDeviceSynchronize() {
    CUresult code = start();
    return result(code == CUDA_SUCCESS ? cuCtxSynchronize() : code);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return error == cudaSuccess ? cudaDeviceSynchronize() : error;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    CUresult code = start();
    if (code == CUDA_SUCCESS)
        code = cuMemsetD8Async(address(to), static_cast<unsigned char>(value), bytes, reinterpret_cast<CUstream>(stream));
    return result(code);
}

cudaError_t cudaFuncSetAttribute(const void *symbol, cudaFuncAttribute attribute, int value) {
    CUfunction function = nullptr;
    CUresult code = find(symbol, &function);
    return result(code == CUDA_SUCCESS ? cuFuncSetAttribute(function, static_cast<CUfunction_attribute>(attribute), value) : code);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *symbol) {
    CUfunction function = nullptr;
    CUresult code = find(symbol, &function);
    *out = {};
    int value = 0;
    auto get = [&](CUfunction_attribute attribute) {
        if (code == CUDA_SUCCESS) code = cuFuncGetAttribute(&value, attribute, function);
        return value;
    };
    out->sharedSizeBytes = get(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    out->maxThreadsPerBlock = get(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    out->numRegs = get(CU_FUNC_ATTRIBUTE_NUM_REGS);
    out->ptxVersion = get(CU_FUNC_ATTRIBUTE_PTX_VERSION);
    out->binaryVersion = get(CU_FUNC_ATTRIBUTE_BINARY_VERSION);
    return result(code);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *symbol, int threads, size_t shared,
                                                                   unsigned flags) {
    CUfunction function = nullptr;
    CUresult code = find(symbol, &function);
    if (code == CUDA_SUCCESS)
        code = cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, flags);
    return result(code);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    CUresult code = start();
    return result(code == CUDA_SUCCESS ? cuDeviceGetAttribute(value, static_cast<CUdevice_attribute>(attribute), device) : code);
}

cudaError_t cudaGetDeviceCount(int *count) {
    CUresult code = start();
    return result(code == CUDA_SUCCESS ? cuDeviceGetCount(count) : code);
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaPeekAtLastError() { return last; }

cudaError_t cudaGetLastError() {
    cudaError_t error = last;
    last = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t error) {
    const char *text = "no error string";
    cuGetErrorString(static_cast<CUresult>(error), &text);
    return text;
}

} // extern "C"
