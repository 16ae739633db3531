// The experts' backward products.
//
//   experts_down_backward      dA' = dO[token]·down; then, a made again of h,
//                              dh = f'(w·dA', h), w·a, parts of ⟨dA', a⟩
//                              dO [T, H], down [E, H, I], h [R, 2I]       → dh over h, w·a [R, I], dots [I/64, R]
//   experts_weights_grad       dS = Σ dots, 0 for dropped assignments     → [T, K]
//   experts_down_weight_grad   d_down[e] = Σ dO[token]ᵀ·(w·a)             → [E, H, I]
//   experts_input_grad         dX̃ = dh·gate_up                            → [R, H]
//   experts_up_weight_grad     d_gate_up[e] = Σ dhᵀ·x[token]              → [E, 2I, H]
//
// Blocks, shared memory, pipeline and barriers are those of the forward products (experts_forward.cu,
// mainloop/ampere.cuh). The layout differs: down and gate_up are MN-major here, so their tiles are [reduction, columns]
// in shared memory and ldmatrix transposes. In the weights' gradients both operands are MN-major, and the reduction
// runs over the rows of an expert; x and dO are gathered by token while they are copied. An expert without rows writes
// zeros.
//
// dA' stays in registers, in f32: ⟨dA', a⟩ is summed over a warp's 64 columns by each thread in order of columns, then
// by the four lanes of a row, and stored as one part; `experts_weights_grad` adds the parts in order. No atomics, one
// order.
//
// Floor, in elements of the storage type: dA' reads T·H + E·H·I + 2·R·I, writes 3·R·I; dX̃ reads 2·R·I + 2·E·I·H, writes
// R·H; d_down reads T·H + R·I, writes E·H·I; d_gate_up reads T·H + 2·R·I, writes 2·E·I·H. FLOPs: 2·R·I·H for dA' and
// d_down, 4·R·I·H for dX̃ and d_gate_up.
//
// dS = ⟨dA', a⟩ in the epilogue, so that y need not be kept, and the gather along the reduction follow SonicMoE (arXiv
// 2512.14080).
#include "device/activation.cuh"
#include "device/epilogue.cuh"
#include "device/experts_kernels.cuh"
#include "device/tile_scheduler.cuh"
#include "mainloop/ampere.cuh"
#include "params.h"

namespace millet {

template <typename T, int TILE_M_, Access ACCESS> struct DownBackward : RowTileScheduler<TILE_M_> {
    using Type = T;
    static constexpr int TILE_M = TILE_M_;
    using Scheduler = RowTileScheduler<TILE_M>;
    using Tile = typename Scheduler::Tile;
    using OperandA = KMajorOperand<T, TILE_M, ACCESS, Rows::Gathered, THREADS>;
    using OperandB = MnMajorOperand<T, TILE_N, ACCESS, Rows::Consecutive, THREADS>;
    using ReaderA = KMajorReader;
    using ReaderB = MnMajorReader<T>;
    static_assert(WARP_N == MILLET_DOT_COLUMNS, "a warp makes one part of a row's dot product");

    using Scheduler::params;
    __device__ __forceinline__ explicit DownBackward(const MilletExperts &params)
        : Scheduler(params, params.inner, params.hidden) {}

    __device__ __forceinline__ void set_operands(const Tile &tile, OperandA &a, OperandB &b) const {
        this->gather_tokens(tile, a);
        const int64_t size = static_cast<int64_t>(params.hidden) * params.inner;
        b.set(static_cast<const T *>(params.weight) + tile.expert * size, params.inner, params.hidden, tile.column,
              params.inner);
    }

    __device__ __forceinline__ void epilogue(const Tile &tile, const Accumulator<TILE_M> &accumulator) const {
        const int warp_column = ThreadCoord::warp_n() * WARP_N;
        const int part = (tile.column + warp_column) / WARP_N;
#pragma unroll
        for (int i = 0; i < Accumulator<TILE_M>::MMA_M; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int in_tile = ThreadCoord::warp_m() * WARP_M<TILE_M> + i * 16 + half * 8 + ThreadCoord::row();
                const bool exists = in_tile < tile.rows;
                const int64_t row = tile.row + in_tile;
                const float weight = exists ? __ldg(params.weights + __ldg(params.row_to_assignment + row)) : 0.0f;
                float dot = 0.0f;
#pragma unroll
                for (int j = 0; j < Accumulator<TILE_M>::MMA_N; j += 4) {
                    const int first = tile.column + warp_column + j * 8, left = params.inner - first;
                    T *h = static_cast<T *>(params.h) + row * (2ll * params.inner) + first;
                    float2 gate[4], up[4], a[4];
                    load_columns<T, ACCESS>(h, left, exists, gate);
                    load_columns<T, ACCESS>(h + params.inner, left, exists, up);
                    with_activation(params.activation, [&](auto activation) {
#pragma unroll
                        for (int c = 0; c < 4; c++) {
                            const float *gradient = &accumulator.mma[i][j + c][2 * half];
                            const int column = c * 8 + ThreadCoord::column();
                            const float x =
                                activation_backward<T>(activation, weight, gradient[0], gate[c].x, up[c].x, a[c].x);
                            const float y =
                                activation_backward<T>(activation, weight, gradient[1], gate[c].y, up[c].y, a[c].y);
                            // Beyond the last column dA' is dO·0, which is NaN where dO is infinite.
                            if (column < left) dot += x;
                            if (column + 1 < left) dot += y;
                        }
                    });
                    store_columns<T, ACCESS>(h, left, exists, gate);
                    store_columns<T, ACCESS>(h + params.inner, left, exists, up);
                    store_columns<T, ACCESS>(static_cast<T *>(params.rows_out) + row * params.inner + first, left,
                                             exists, a);
                }
                dot += __shfl_xor_sync(ALL_LANES, dot, 1);
                dot += __shfl_xor_sync(ALL_LANES, dot, 2);
                if (exists && threadIdx.x % 4 == 0) params.dots[part * params.max_rows + row] = dot;
            }
    }
};

template <typename T, int TILE_M_, Access ACCESS> struct InputGrad : RowTileScheduler<TILE_M_> {
    using Type = T;
    static constexpr int TILE_M = TILE_M_;
    using Scheduler = RowTileScheduler<TILE_M>;
    using Tile = typename Scheduler::Tile;
    using OperandA = KMajorOperand<T, TILE_M, ACCESS, Rows::Gathered, THREADS>;
    using OperandB = MnMajorOperand<T, TILE_N, ACCESS, Rows::Consecutive, THREADS>;
    using ReaderA = KMajorReader;
    using ReaderB = MnMajorReader<T>;

    using Scheduler::params;
    __device__ __forceinline__ explicit InputGrad(const MilletExperts &params)
        : Scheduler(params, params.hidden, 2 * params.inner) {}

    __device__ __forceinline__ void set_operands(const Tile &tile, OperandA &a, OperandB &b) const {
        this->take_rows(tile, a);
        const int depth = 2 * params.inner;
        const int64_t size = static_cast<int64_t>(depth) * params.hidden;
        b.set(static_cast<const T *>(params.weight) + tile.expert * size, params.hidden, depth, tile.column,
              params.hidden);
    }

    __device__ __forceinline__ void epilogue(const Tile &tile, Accumulator<TILE_M> &accumulator) const {
        if (!accumulator.finite()) clear_zero_rows(tile, accumulator);
        store_rows<T, TILE_M, ACCESS>(static_cast<T *>(params.rows_out), params.hidden, tile, accumulator);
    }

    // Where dh is 0 the result is 0, whatever the weight.
    __device__ __forceinline__ void clear_zero_rows(const Tile &tile, Accumulator<TILE_M> &accumulator) const {
        const int depth = 2 * params.inner;
#pragma unroll
        for (int i = 0; i < Accumulator<TILE_M>::MMA_M; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = ThreadCoord::warp_m() * WARP_M<TILE_M> + i * 16 + half * 8 + ThreadCoord::row();
                const T *h_grad = static_cast<const T *>(params.rows_in) + static_cast<int64_t>(tile.row + row) * depth;
                if (row >= tile.rows || !is_zero(h_grad, depth)) continue;
#pragma unroll
                for (int j = 0; j < Accumulator<TILE_M>::MMA_N; j++)
                    accumulator.mma[i][j][2 * half] = accumulator.mma[i][j][2 * half + 1] = 0.0f;
            }
    }
};

// A weight's gradient [rows, columns] of each expert: overwritten in the storage type, or added to in f32.
template <typename T, int TILE_M, Access ACCESS>
__device__ __forceinline__ void store_gradient(const MilletExperts &params,
                                               const typename WeightTileScheduler<TILE_M>::Tile &tile, int rows,
                                               int columns, const Accumulator<TILE_M> &accumulator) {
    const int64_t expert = static_cast<int64_t>(rows) * columns * tile.expert;
    if (params.grad_sum == nullptr) {
        store_rows<T, TILE_M, ACCESS>(static_cast<T *>(params.grad) + expert, columns, tile, accumulator);
    } else if (tile.depth > 0) {
        add_rows<TILE_M, ACCESS>(params.grad_sum + expert, columns, tile, accumulator);
    }
}

// d_down: rows are H, columns I.
template <typename T, int TILE_M_, Access ACCESS> struct DownWeightGrad : WeightTileScheduler<TILE_M_> {
    using Type = T;
    static constexpr int TILE_M = TILE_M_;
    using Tile = typename WeightTileScheduler<TILE_M>::Tile;
    using OperandA = MnMajorOperand<T, TILE_M, ACCESS, Rows::Gathered, THREADS>;
    using OperandB = MnMajorOperand<T, TILE_N, ACCESS, Rows::Consecutive, THREADS>;
    using ReaderA = MnMajorReader<T>;
    using ReaderB = MnMajorReader<T>;

    using WeightTileScheduler<TILE_M>::params;
    __device__ __forceinline__ explicit DownWeightGrad(const MilletExperts &params)
        : WeightTileScheduler<TILE_M>(params, params.hidden, params.inner) {}

    __device__ __forceinline__ void set_operands(const Tile &tile, OperandA &a, OperandB &b) const {
        a.set(static_cast<const T *>(params.tokens), params.hidden, tile.depth, tile.row, params.hidden,
              params.row_to_assignment + tile.first, {params.top_k_multiplier, params.top_k_shift});
        const T *rows = static_cast<const T *>(params.rows_in) + static_cast<int64_t>(tile.first) * params.inner;
        b.set(rows, params.inner, tile.depth, tile.column, params.inner);
    }
    __device__ __forceinline__ void skip_zero_rows(const Tile &tile, OperandA &a, OperandB &) const {
        a.skip_zero_rows(static_cast<const T *>(params.rows_in) + static_cast<int64_t>(tile.first) * params.inner,
                         params.inner);
    }

    __device__ __forceinline__ void epilogue(const Tile &tile, const Accumulator<TILE_M> &accumulator) const {
        store_gradient<T, TILE_M, ACCESS>(params, tile, params.hidden, params.inner, accumulator);
    }
};

// d_gate_up: rows are 2I, columns H.
template <typename T, int TILE_M_, Access ACCESS> struct UpWeightGrad : WeightTileScheduler<TILE_M_> {
    using Type = T;
    static constexpr int TILE_M = TILE_M_;
    using Tile = typename WeightTileScheduler<TILE_M>::Tile;
    using OperandA = MnMajorOperand<T, TILE_M, ACCESS, Rows::Consecutive, THREADS>;
    using OperandB = MnMajorOperand<T, TILE_N, ACCESS, Rows::Gathered, THREADS>;
    using ReaderA = MnMajorReader<T>;
    using ReaderB = MnMajorReader<T>;

    using WeightTileScheduler<TILE_M>::params;
    __device__ __forceinline__ explicit UpWeightGrad(const MilletExperts &params)
        : WeightTileScheduler<TILE_M>(params, 2 * params.inner, params.hidden) {}

    __device__ __forceinline__ void set_operands(const Tile &tile, OperandA &a, OperandB &b) const {
        const int rows = 2 * params.inner;
        a.set(static_cast<const T *>(params.rows_in) + static_cast<int64_t>(tile.first) * rows, rows, tile.depth,
              tile.row, rows);
        b.set(static_cast<const T *>(params.tokens), params.hidden, tile.depth, tile.column, params.hidden,
              params.row_to_assignment + tile.first, {params.top_k_multiplier, params.top_k_shift});
    }
    __device__ __forceinline__ void skip_zero_rows(const Tile &tile, OperandA &, OperandB &b) const {
        const int rows = 2 * params.inner;
        b.skip_zero_rows(static_cast<const T *>(params.rows_in) + static_cast<int64_t>(tile.first) * rows, rows);
    }

    __device__ __forceinline__ void epilogue(const Tile &tile, const Accumulator<TILE_M> &accumulator) const {
        store_gradient<T, TILE_M, ACCESS>(params, tile, 2 * params.inner, params.hidden, accumulator);
    }
};

}  // namespace millet

MILLET_PRODUCTS(experts_down_backward, DownBackward)
MILLET_PRODUCTS(experts_input_grad, InputGrad)
MILLET_WEIGHT_GRADS(experts_down_weight_grad, DownWeightGrad)
MILLET_WEIGHT_GRADS(experts_up_weight_grad, UpWeightGrad)

// Grid: one thread per row or assignment, whichever are more. Neighbouring threads read neighbouring rows' parts.
extern "C" __global__ void __launch_bounds__(MILLET_THREADS)
    experts_weights_grad(const __grid_constant__ MilletExperts params) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * MILLET_THREADS + threadIdx.x;
    if (i < __ldg(params.offsets + params.experts)) {
        const int parts = (params.inner + MILLET_DOT_COLUMNS - 1) / MILLET_DOT_COLUMNS;
        const int32_t assignment = __ldg(params.row_to_assignment + i);
        float sum = params.bias ? params.weights_grad[assignment] : 0.0f;
        for (int part = 0; part < parts; part++) sum += params.dots[part * params.max_rows + i];
        params.weights_grad[assignment] = sum;
    }
    if (i < params.assignments && __ldg(params.assignment_to_row + i) < 0) params.weights_grad[i] = 0.0f;
}
