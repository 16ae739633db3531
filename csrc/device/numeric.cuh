// Numbers: storage types, the exponential and the order of a row's sum that every backend shares.
//
// Compiled without contraction (--fmad=false): every fused multiply-add is written as one.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace millet {

using bf16 = __nv_bfloat16;
using f16 = __half;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(f16 value) { return __half2float(value); }

// Rounds to nearest even.
template <typename T> __device__ __forceinline__ T narrow(float value);
template <> __device__ __forceinline__ float narrow<float>(float value) { return value; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float value) { return __float2bfloat16_rn(value); }
template <> __device__ __forceinline__ f16 narrow<f16>(float value) { return __float2half_rn(value); }

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }
constexpr float LARGEST = 3.402823466e38f;
__device__ __forceinline__ bool is_finite(float value) { return fabsf(value) <= LARGEST; }

// A weight of 0 gives 0, whatever the value.
__device__ __forceinline__ float weighed(float weight, float value) { return weight == 0.0f ? 0.0f : weight * value; }

// 2 to the exponent, of at most 126 either way.
__device__ __forceinline__ float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }

// eˣ within one unit in the last place, by the operations of the reference in their order (src/element.rs): selection
// and dropping compare these values, so the bits must be the same.
__device__ __forceinline__ float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float n = fmaf(x, 1.44269504088896340736f, 12582912.0f) - 12582912.0f;
    float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.6933594f, x));
    float p = 1.9875691e-4f;
    p = fmaf(p, r, 1.3982e-3f);
    p = fmaf(p, r, 8.333452e-3f);
    p = fmaf(p, r, 4.1665796e-2f);
    p = fmaf(p, r, 1.6666665e-1f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r * r, r) + 1.0f;
    // fmaxf turns NaN into a number here; p is NaN then, so the result is.
    int k = static_cast<int>(fmaxf(n, -160.0f));
    int half = k >> 1;
    return p * power_of_two(half) * power_of_two(k - half);
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// The second half of a row's sum: lane l brings the sum of elements l, l + 32, …; a binary tree adds the lanes.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int width = 16; width > 0; width /= 2) value += __shfl_xor_sync(ALL_LANES, value, width);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int width = 16; width > 0; width /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, width));
    return value;
}

__device__ __forceinline__ int warp_sum(int value) { return __reduce_add_sync(ALL_LANES, value); }

// A number whose unsigned order is that of the float; −0 and +0 are equal, NaN is not allowed. 0 is below every float.
__device__ __forceinline__ uint32_t order_key(float value) {
    uint32_t bits = __float_as_uint(value + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float from_order_key(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

}  // namespace millet
