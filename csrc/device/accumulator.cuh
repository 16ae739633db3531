// The accumulator of a warp, in registers, and which of its elements a thread has.
#pragma once
#include "tile_shape.cuh"

namespace millet {

// [WARP_M, WARP_N] in tiles of one mma instruction, [16, 8].
template <int TILE_M> struct Accumulator {
    static constexpr int MMA_M = WARP_M<TILE_M> / 16;
    static constexpr int MMA_N = WARP_N / 8;
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

// This thread's warp in the block's tile, and its elements of an mma tile [16, 8]: v = 0, 1 are row() and column() and
// the next, v = 2, 3 the same of row() + 8.
struct ThreadCoord {
    static __device__ __forceinline__ int warp_m() { return threadIdx.x / 64; }
    static __device__ __forceinline__ int warp_n() { return threadIdx.x / 32 % 2; }
    static __device__ __forceinline__ int row() { return threadIdx.x % 32 / 4; }
    static __device__ __forceinline__ int column() { return threadIdx.x % 4 * 2; }
};

}  // namespace millet
