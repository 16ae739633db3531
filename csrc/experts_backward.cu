// The experts' backward products.
//
//   experts_down_backward      dA' = dO[token]·down; then, a made again of h,
//                              dh = dSwiGLU(w·dA', h), w·a, parts of ⟨dA', a⟩
//                              dO [T, H], down [E, H, I], h [R, 2I]       → dh over h, w·a [R, I], dots [I/64, R]
//   experts_weights_grad       dS = Σ dots, 0 for dropped assignments     → [T, K]
//   experts_down_weight_grad   d_down[e] = Σ dO[token]ᵀ·(w·a)             → [E, H, I]
//   experts_input_grad         dX̃ = dh·gate_up                            → [R, H]
//   experts_up_weight_grad     d_gate_up[e] = Σ dhᵀ·x[token]              → [E, 2I, H]
//
// Blocks, shared memory, pipeline and barriers are those of the forward products (experts_forward.cu,
// device/pipeline.cuh). The layout differs: down and gate_up are MN-major here, so their tiles are [reduction, columns]
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
#include "device/columns.cuh"
#include "device/kernels.cuh"
#include "device/pipeline.cuh"
#include "device/schedule.cuh"
#include "device/swiglu.cuh"
#include "params.h"

namespace millet {

template <typename T, int ROWS_, Access ACCESS> struct DownBackward : RowTiles<ROWS_> {
    using Type = T;
    static constexpr int ROWS = ROWS_;
    using Tile = typename RowTiles<ROWS>::Tile;
    using OperandA = AlongOperand<T, ROWS, ACCESS>;
    using OperandB = AcrossOperand<T, COLUMNS, ACCESS, Order::Consecutive>;
    using ReaderA = AlongReader;
    using ReaderB = AcrossReader<T>;
    static_assert(WARP_COLUMNS == MILLET_DOT_COLUMNS, "a warp makes one part of a row's dot product");

    using RowTiles<ROWS>::p;
    __device__ __forceinline__ explicit DownBackward(const MilletExperts &p) : RowTiles<ROWS>(p) {}

    __device__ __forceinline__ Tile at(uint32_t item) const {
        Tile tile = RowTiles<ROWS>::at(item);
        tile.column *= COLUMNS;
        tile.columns = p.inner - tile.column;
        tile.depth = tile.rows > 0 ? p.hidden : 0;
        return tile;
    }

    __device__ __forceinline__ void open(const Tile &tile, OperandA &a, OperandB &b) const {
        const Divider top_k = {p.top_k_multiplier, p.top_k_shift};
        const int32_t *assignments = p.row_to_assignment + tile.row;
        a.open(static_cast<const T *>(p.tokens), p.hidden, [&](int row) {
            return row < tile.rows ? static_cast<int>(top_k.divide(__ldg(assignments + row))) : -1;
        });
        const int64_t size = static_cast<int64_t>(p.hidden) * p.inner;
        b.open(static_cast<const T *>(p.weight) + tile.expert * size, p.inner, p.hidden, tile.column, p.inner);
    }

    __device__ __forceinline__ void store(const Tile &tile, const Sum<ROWS> &sum) const {
        const int across = Position::warp_across() * WARP_COLUMNS;
        const int part = (tile.column + across) / WARP_COLUMNS;
#pragma unroll
        for (int i = 0; i < Sum<ROWS>::DOWN; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int in_tile = Position::warp_down() * (ROWS / 2) + i * 16 + half * 8 + Position::row();
                const bool exists = in_tile < tile.rows;
                const int64_t row = tile.row + in_tile;
                const float weight = exists ? __ldg(p.weights + __ldg(p.row_to_assignment + row)) : 0.0f;
                float dot = 0.0f;
#pragma unroll
                for (int j = 0; j < Sum<ROWS>::ACROSS; j += 4) {
                    const int first = tile.column + across + j * 8, left = p.inner - first;
                    T *h = static_cast<T *>(p.h) + row * (2ll * p.inner) + first;
                    float2 gate[4], up[4], a[4];
                    load_columns<T, ACCESS>(h, left, exists, gate);
                    load_columns<T, ACCESS>(h + p.inner, left, exists, up);
#pragma unroll
                    for (int c = 0; c < 4; c++) {
                        const float *gradient = &sum.at[i][j + c][2 * half];
                        SwigluBackward<T> x(weight, gradient[0], gate[c].x, up[c].x);
                        SwigluBackward<T> y(weight, gradient[1], gate[c].y, up[c].y);
                        gate[c] = make_float2(x.gate, y.gate);
                        up[c] = make_float2(x.up, y.up);
                        a[c] = make_float2(x.weighted_a, y.weighted_a);
                        dot += x.dot;
                        dot += y.dot;
                    }
                    store_columns<T, ACCESS>(h, left, exists, gate);
                    store_columns<T, ACCESS>(h + p.inner, left, exists, up);
                    store_columns<T, ACCESS>(static_cast<T *>(p.rows_out) + row * p.inner + first, left, exists, a);
                }
                dot += __shfl_xor_sync(ALL_LANES, dot, 1);
                dot += __shfl_xor_sync(ALL_LANES, dot, 2);
                if (exists && threadIdx.x % 4 == 0) p.dots[part * p.max_rows + row] = dot;
            }
    }
};

template <typename T, int ROWS_, Access ACCESS> struct InputGrad : RowTiles<ROWS_> {
    using Type = T;
    static constexpr int ROWS = ROWS_;
    using Tile = typename RowTiles<ROWS>::Tile;
    using OperandA = AlongOperand<T, ROWS, ACCESS>;
    using OperandB = AcrossOperand<T, COLUMNS, ACCESS, Order::Consecutive>;
    using ReaderA = AlongReader;
    using ReaderB = AcrossReader<T>;

    using RowTiles<ROWS>::p;
    __device__ __forceinline__ explicit InputGrad(const MilletExperts &p) : RowTiles<ROWS>(p) {}

    __device__ __forceinline__ Tile at(uint32_t item) const {
        Tile tile = RowTiles<ROWS>::at(item);
        tile.column *= COLUMNS;
        tile.columns = p.hidden - tile.column;
        tile.depth = tile.rows > 0 ? 2 * p.inner : 0;
        return tile;
    }

    __device__ __forceinline__ void open(const Tile &tile, OperandA &a, OperandB &b) const {
        const int depth = 2 * p.inner;
        const T *rows = static_cast<const T *>(p.rows_in) + static_cast<int64_t>(tile.row) * depth;
        a.open(rows, depth, [&](int row) { return row < tile.rows ? row : -1; });
        const int64_t size = static_cast<int64_t>(depth) * p.hidden;
        b.open(static_cast<const T *>(p.weight) + tile.expert * size, p.hidden, depth, tile.column, p.hidden);
    }

    __device__ __forceinline__ void store(const Tile &tile, Sum<ROWS> &sum) const {
        if (!sum.finite()) clear_zero_rows(tile, sum);
        store_rows<T, ROWS, ACCESS>(static_cast<T *>(p.rows_out), p.hidden, tile, sum);
    }

    // Where dh is 0 the result is 0, whatever the weight.
    __device__ __forceinline__ void clear_zero_rows(const Tile &tile, Sum<ROWS> &sum) const {
        const int depth = 2 * p.inner;
#pragma unroll
        for (int i = 0; i < Sum<ROWS>::DOWN; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = Position::warp_down() * (ROWS / 2) + i * 16 + half * 8 + Position::row();
                const T *h_grad = static_cast<const T *>(p.rows_in) + static_cast<int64_t>(tile.row + row) * depth;
                if (row >= tile.rows || !is_zero(h_grad, depth)) continue;
#pragma unroll
                for (int j = 0; j < Sum<ROWS>::ACROSS; j++) sum.at[i][j][2 * half] = sum.at[i][j][2 * half + 1] = 0.0f;
            }
    }
};

// A weight's gradient [rows, columns] of each expert: overwritten in the storage type, or added to in f32.
template <typename T, int ROWS, Access ACCESS>
__device__ __forceinline__ void store_gradient(const MilletExperts &p, const typename WeightTiles<ROWS>::Tile &tile,
                                               int rows, int columns, const Sum<ROWS> &sum) {
    const int64_t expert = static_cast<int64_t>(rows) * columns * tile.expert;
    if (p.grad_sum == nullptr) {
        store_rows<T, ROWS, ACCESS>(static_cast<T *>(p.grad) + expert, columns, tile, sum);
    } else if (tile.depth > 0) {
        add_rows<ROWS, ACCESS>(p.grad_sum + expert, columns, tile, sum);
    }
}

// d_down: rows are H, columns I.
template <typename T, int ROWS_, Access ACCESS> struct DownWeightGrad : WeightTiles<ROWS_> {
    using Type = T;
    static constexpr int ROWS = ROWS_;
    using Tile = typename WeightTiles<ROWS>::Tile;
    using OperandA = AcrossOperand<T, ROWS, ACCESS, Order::Gathered>;
    using OperandB = AcrossOperand<T, COLUMNS, ACCESS, Order::Consecutive>;
    using ReaderA = AcrossReader<T>;
    using ReaderB = AcrossReader<T>;

    using WeightTiles<ROWS>::p;
    __device__ __forceinline__ explicit DownWeightGrad(const MilletExperts &p)
        : WeightTiles<ROWS>(p, p.hidden, p.inner) {}

    __device__ __forceinline__ void open(const Tile &tile, OperandA &a, OperandB &b) const {
        a.open(static_cast<const T *>(p.tokens), p.hidden, tile.depth, tile.row, p.hidden,
               p.row_to_assignment + tile.first, {p.top_k_multiplier, p.top_k_shift});
        const T *rows = static_cast<const T *>(p.rows_in) + static_cast<int64_t>(tile.first) * p.inner;
        b.open(rows, p.inner, tile.depth, tile.column, p.inner);
    }
    __device__ __forceinline__ void leave_out(const Tile &tile, OperandA &a, OperandB &) const {
        a.leave_out(static_cast<const T *>(p.rows_in) + static_cast<int64_t>(tile.first) * p.inner, p.inner);
    }

    __device__ __forceinline__ void store(const Tile &tile, const Sum<ROWS> &sum) const {
        store_gradient<T, ROWS, ACCESS>(p, tile, p.hidden, p.inner, sum);
    }
};

// d_gate_up: rows are 2I, columns H.
template <typename T, int ROWS_, Access ACCESS> struct UpWeightGrad : WeightTiles<ROWS_> {
    using Type = T;
    static constexpr int ROWS = ROWS_;
    using Tile = typename WeightTiles<ROWS>::Tile;
    using OperandA = AcrossOperand<T, ROWS, ACCESS, Order::Consecutive>;
    using OperandB = AcrossOperand<T, COLUMNS, ACCESS, Order::Gathered>;
    using ReaderA = AcrossReader<T>;
    using ReaderB = AcrossReader<T>;

    using WeightTiles<ROWS>::p;
    __device__ __forceinline__ explicit UpWeightGrad(const MilletExperts &p)
        : WeightTiles<ROWS>(p, 2 * p.inner, p.hidden) {}

    __device__ __forceinline__ void open(const Tile &tile, OperandA &a, OperandB &b) const {
        const int rows = 2 * p.inner;
        a.open(static_cast<const T *>(p.rows_in) + static_cast<int64_t>(tile.first) * rows, rows, tile.depth, tile.row,
               rows);
        b.open(static_cast<const T *>(p.tokens), p.hidden, tile.depth, tile.column, p.hidden,
               p.row_to_assignment + tile.first, {p.top_k_multiplier, p.top_k_shift});
    }
    __device__ __forceinline__ void leave_out(const Tile &tile, OperandA &, OperandB &b) const {
        const int rows = 2 * p.inner;
        b.leave_out(static_cast<const T *>(p.rows_in) + static_cast<int64_t>(tile.first) * rows, rows);
    }

    __device__ __forceinline__ void store(const Tile &tile, const Sum<ROWS> &sum) const {
        store_gradient<T, ROWS, ACCESS>(p, tile, 2 * p.inner, p.hidden, sum);
    }
};

}  // namespace millet

MILLET_PRODUCTS(experts_down_backward, DownBackward)
MILLET_PRODUCTS(experts_input_grad, InputGrad)
MILLET_WEIGHT_GRADS(experts_down_weight_grad, DownWeightGrad)
MILLET_WEIGHT_GRADS(experts_up_weight_grad, UpWeightGrad)

// Grid: one thread per row or assignment, whichever are more. Neighbouring threads read neighbouring rows' parts.
extern "C" __global__ void __launch_bounds__(MILLET_THREADS)
    experts_weights_grad(const __grid_constant__ MilletExperts p) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * MILLET_THREADS + threadIdx.x;
    if (i < __ldg(p.offsets + p.experts)) {
        const int parts = (p.inner + MILLET_DOT_COLUMNS - 1) / MILLET_DOT_COLUMNS;
        float sum = 0.0f;
        for (int part = 0; part < parts; part++) sum += p.dots[part * p.max_rows + i];
        p.weights_grad[__ldg(p.row_to_assignment + i)] = sum;
    }
    if (i < p.assignments && __ldg(p.assignment_to_row + i) < 0) p.weights_grad[i] = 0.0f;
}
