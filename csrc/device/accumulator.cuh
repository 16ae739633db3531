// The accumulator of a warp, in registers, and which of its elements a thread has.
#pragma once
#include "tile_shape.cuh"

namespace millet {

// [16·MMA_M, 8·MMA_N] in tiles of one mma instruction, [16, 8].
template <int MMA_M_, int MMA_N_> struct WarpAccumulator {
    static constexpr int MMA_M = MMA_M_, MMA_N = MMA_N_;
    float mma[MMA_M][MMA_N][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < MMA_M; i++)
#pragma unroll
            for (int j = 0; j < MMA_N; j++)
#pragma unroll
                for (int v = 0; v < 4; v++) mma[i][j][v] = 0.0f;
    }

    __device__ __forceinline__ bool finite() const {
        float check = 0.0f;  // NaN where something is not
#pragma unroll
        for (int i = 0; i < MMA_M; i++)
#pragma unroll
            for (int j = 0; j < MMA_N; j++)
#pragma unroll
                for (int v = 0; v < 4; v++) check = fmaf(mma[i][j][v], 0.0f, check);
        return check == check;
    }
};

// Of the experts' products: [WARP_M, WARP_N].
template <int TILE_M> using Accumulator = WarpAccumulator<WARP_M<TILE_M> / 16, WARP_N / 8>;
static_assert(WARP_M<MILLET_PRODUCT_SMALL_ROWS> % 16 == 0 && WARP_N % 32 == 0,
              "mma tiles cover a warp's part, four of them beside each other at a time in the epilogue");

// This thread's warp in a block of [·, WARPS_N] warps, and its elements of an mma tile [16, 8]: v = 0, 1 are row() and
// column() and the next, v = 2, 3 the same of row() + 8.
template <int WARPS_N> struct WarpCoord {
    static __device__ __forceinline__ int warp_m() { return threadIdx.x / (32 * WARPS_N); }
    static __device__ __forceinline__ int warp_n() { return threadIdx.x / 32 % WARPS_N; }
    static __device__ __forceinline__ int row() { return threadIdx.x % 32 / 4; }
    static __device__ __forceinline__ int column() { return threadIdx.x % 4 * 2; }
};
using ThreadCoord = WarpCoord<WARPS_N>;

}  // namespace millet
