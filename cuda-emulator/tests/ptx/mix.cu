// What nvcc makes of ordinary C++: nvcc -ptx -arch=compute_80 -lineinfo mix.cu -o mix.ptx
#include <cassert>
#include <cstdio>

struct __attribute__((packed)) Packed {
    char tag;
    int *pointer;
};
struct Big {
    int a[20];
    double d;
};
typedef float (*Function)(float);

__constant__ float table[2][4] = {{1.f, 2.f}, {-3.f}};
__device__ int counter = 7;
__device__ Packed packed = {1, &counter};

__device__ __noinline__ float twice(float x) { return x * 2; }
__device__ __noinline__ float more(float x) { return x + 2; }
__device__ Function functions[2] = {twice, more};
__device__ __noinline__ Big change(Big b, int i) {
    b.a[i] += i;
    return b;
}
__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

extern "C" __global__ void __launch_bounds__(128, 2) mix(float *out, const float *__restrict__ in, const __grid_constant__ Big b, int k) {
    extern __shared__ float dynamic[];
    __shared__ double fixed[33];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    dynamic[threadIdx.x] = in[i];
    fixed[threadIdx.x & 31] = i;
    __syncthreads();
    int local[16];
    for (int j = 0; j < 16; j++) local[j] = j * k;
    local[k & 15] = 3;
    unsigned r = 0;
#pragma unroll
    for (int twice = 0; twice < 2; twice++) {
        asm volatile("{\n.reg .pred p;\n.reg .b32 t<3>;\nsetp.ne.b32 p, %1, 0;\n@p bra DONE;\nmov.b32 t0, 5;\nadd.u32 t1, t0, %1;\n"
                     "DONE:\nselp.b32 %0, 1, 0, p;\n}"
                     : "+r"(r)
                     : "r"(k));
    }
    switch (k) {
    case 0: out[1] = fibonacci(r); break;
    case 1: r *= in[7]; break;
    case 2: printf("two\n"); break;
    case 3: r -= __popc(k + r); break;
    case 4: r = ~r; break;
    case 5: out[r] = 3; break;
    case 6: r /= counter; break;
    case 7: __syncthreads(); break;
    case 8: atomicAdd(&counter, 1); break;
    }
    assert(k != 99);
    printf("%d %f\n", i, in[i]);
    Big changed = change(b, k & 15);
    out[i] = functions[k & 1](dynamic[threadIdx.x ^ 1]) + local[(k + 1) & 15] + fixed[k & 31] + table[k & 1][1] + r + fibonacci(k)
        + changed.a[k] + *packed.pointer + __shfl_xor_sync(~0u, out[i], 1);
}
