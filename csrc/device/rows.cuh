// Rows of a token: shared by permute and combine. One warp per token; each lane has its vectors of columns.
#pragma once
#include "../params.h"
#include "vector.cuh"

namespace millet {

constexpr int WARPS = MILLET_THREADS / WARP;
// Slots whose rows a warp loads before it uses the first: enough to hide the latency of memory, few enough for
// registers.
constexpr int BATCH = 4;

// Rows and weights of up to 32 slots of a token, one per lane.
struct Slots {
    int32_t row;
    float weight;

    // Slots first..first + 32 of `token`; lanes beyond the last slot have no row.
    __device__ static Slots load(const MilletRows &params, int64_t token, int first) {
        int slot = first + threadIdx.x % WARP;
        Slots slots = {-1, 1.0f};
        if (slot < params.top_k) {
            slots.row = __ldg(&params.assignment_to_row[token * params.top_k + slot]);
            if (params.weights != nullptr) slots.weight = __ldg(&params.weights[token * params.top_k + slot]);
        }
        return slots;
    }

    // Without the rows whose weight is 0: they add 0, whatever they hold.
    __device__ Slots with_weight() const { return {weight == 0.0f ? -1 : row, weight}; }

    __device__ int32_t row_of(int slot) const { return __shfl_sync(ALL_LANES, row, slot); }
    __device__ float weight_of(int slot) const { return __shfl_sync(ALL_LANES, weight, slot); }
};

// This warp's token, and whether there is one.
__device__ __forceinline__ int64_t warp_token() {
    return static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP;
}

// Calls each(column) for this lane's vectors of N columns in this block's part of a row.
template <int N, typename Each> __device__ __forceinline__ void for_columns(const MilletRows &params, Each each) {
    int vectors = params.hidden / N;
    int first = blockIdx.y * params.column_vectors;
    int last = min(vectors, first + params.column_vectors);
    // All lanes go around together: `each` shuffles.
    for (int vector = first; vector < last; vector += WARP) {
        int mine = vector + static_cast<int>(threadIdx.x % WARP);
        each(static_cast<int64_t>(mine) * N, mine < last);
    }
}

}  // namespace millet
