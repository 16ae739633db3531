// A kernel in every form of fat binary that the driver reads. The commands that make the files beside this one:
//
//   nvcc -fatbin -gencode arch=compute_80,code=[sm_80,compute_80] -gencode arch=compute_89,code=compute_89 scale.cu -o scale_zstd.fatbin
//   nvcc -fatbin -gencode arch=compute_80,code=compute_80 -Xfatbin --compress-mode=speed scale.cu -o scale_lz4.fatbin
//   nvcc -fatbin -gencode arch=compute_80,code=compute_80 --no-compress scale.cu -o scale_plain.fatbin
//   nvcc -fatbin -gencode arch=compute_80,code=sm_80 scale.cu -o scale_machine_code.fatbin
//   nvcc -fatbin -gencode arch=compute_90a,code=compute_90a scale.cu -o scale_90a.fatbin

__device__ float offset = 0.5f;
__constant__ float factors[4] = {1.0f, 2.0f, 3.0f, 4.0f};

extern "C" __global__ void scale(float *out, const float *in, int which, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = factors[which] * in[i] + offset;
}

// __CUDA_ARCH__ tells which PTX was chosen.
extern "C" __global__ void architecture(int *out) {
    *out = __CUDA_ARCH__;
}
