// Sums over a block: exclusive prefix sums and totals, of anything that adds.
#pragma once
#include "numeric.cuh"

namespace millet {

// Exclusive prefix sum over the threads of a block in order of their index, and the sum of all in `total`. Every thread
// must call; `warp_sums` is shared memory for one value per warp, free again when the call returns.
template <typename T> __device__ __forceinline__ T block_scan(T value, T *warp_sums, T &total) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    T sum = value;  // inclusive, of this warp
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        T other = __shfl_up_sync(ALL_LANES, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == WARP - 1) warp_sums[warp] = sum;
    __syncthreads();
    T before = 0;
    total = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x) / WARP; ++w) {
        if (w == warp) before = total;
        total += warp_sums[w];
    }
    __syncthreads();
    return before + sum - value;
}

}  // namespace millet
