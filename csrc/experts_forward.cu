// The experts' forward products.
//
//   experts_up     h = x[token]·gate_upᵀ + bias, a = f(gate, up)  x [T, H], gate_up [E, 2I, H] → h [R, 2I], a [R, I]
//   experts_down   w·y, y = a·downᵀ + bias                        a [R, I], down [E, H, I]     → w·y [R, H]
//
// f is the activation (device/activation.cuh); a bias is null where there is none.
//
// Blocks: 128 threads, two per multiprocessor, as many as fit or as there are tiles. Each draws tiles [rows, 128
// columns] of the product, in an order that keeps those of an expert together (device/tile_scheduler.cuh). A tile has
// 128 rows of one expert, or 64 (`_small`) where experts have few. Shared memory: 3 stages of 64 bytes of the
// reduction, (rows + 128)·64 bytes each: 48 KiB, 36 KiB with 64 rows. Pipeline and barriers: mainloop/ampere.cuh.
// Results go from registers to global memory (device/epilogue.cuh).
//
// Up gathers: a row of the tile is copied from its token's place in x, so no gathered x ever exists. Its 128 columns
// are 64 of gate and the same 64 of up, alternating by 8 in shared memory, so that a thread has both halves of a pair
// in its own registers, rounds h, and makes a of the rounded h.
//
// Floor, in elements of the storage type: up reads T·H + 2·E·I·H, writes 3·R·I (or R·I without h), 4·R·I·H FLOPs; down
// reads R·I + E·H·I, writes R·H, 2·R·I·H FLOPs. Above it: x and a again for each band of columns, weights again where
// an expert's row tiles fall into two waves of blocks. Counted: docs/kernels.md.
//
// `_any` takes every H and I, element by element; the others need rows of whole 16-byte chunks.
//
// The gather in the load and the paired epilogue follow SonicMoE (arXiv 2512.14080); a multistage ring is usual for
// this generation of tensor cores.
#include "device/activation.cuh"
#include "device/epilogue.cuh"
#include "device/experts_kernels.cuh"
#include "device/tile_scheduler.cuh"
#include "mainloop/ampere.cuh"
#include "params.h"

namespace millet {

template <typename T, int TILE_M_, Access ACCESS> struct Up : RowTileScheduler<TILE_M_, TILE_N / 2> {
    using Type = T;
    static constexpr int TILE_M = TILE_M_;
    // Columns of a that a tile gives.
    static constexpr int PAIRS = TILE_N / 2;
    using Scheduler = RowTileScheduler<TILE_M, PAIRS>;
    using Tile = typename Scheduler::Tile;
    using OperandA = KMajorOperand<T, TILE_M, ACCESS, Rows::Gathered, THREADS>;
    using OperandB = KMajorOperand<T, TILE_N, ACCESS, Rows::Gathered, THREADS>;
    using ReaderA = KMajorReader;
    using ReaderB = KMajorReader;
    static_assert(Accumulator<TILE_M>::MMA_N == 8, "four fragments of gate and four of up, alternating");

    using Scheduler::params;
    __device__ __forceinline__ explicit Up(const MilletExperts &params)
        : Scheduler(params, params.inner, params.hidden) {}

    __device__ __forceinline__ void set_operands(const Tile &tile, OperandA &a, OperandB &b) const {
        this->gather_tokens(tile, a);
        const int64_t size = 2ll * params.inner * params.hidden;
        b.set(static_cast<const T *>(params.weight) + tile.expert * size, params.hidden, [&](int row) {
            // 8 of gate, 8 of up.
            int pair = tile.column + row / 16 * 8 + row % 8;
            return pair >= params.inner ? -1 : row % 16 < 8 ? pair : params.inner + pair;
        });
    }

    __device__ __forceinline__ void epilogue(const Tile &tile, Accumulator<TILE_M> &accumulator) const {
        const int first = tile.column + ThreadCoord::warp_n() * (PAIRS / 2), left = params.inner - first;
        if (params.bias) {
            // mma tiles of gate and up alternate.
            const T *bias = static_cast<const T *>(params.bias) + tile.expert * (2ll * params.inner) + first;
            add_columns<T, TILE_M, ACCESS, 0, 2>(bias, left, accumulator);
            add_columns<T, TILE_M, ACCESS, 1, 2>(bias + params.inner, left, accumulator);
        }
#pragma unroll
        for (int i = 0; i < Accumulator<TILE_M>::MMA_M; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int in_tile = ThreadCoord::warp_m() * WARP_M<TILE_M> + i * 16 + half * 8 + ThreadCoord::row();
                const bool exists = in_tile < tile.rows;
                const int64_t row = tile.row + in_tile;
                float2 gate[4], up[4], a[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float *g = &accumulator.mma[i][2 * j][2 * half],
                                *u = &accumulator.mma[i][2 * j + 1][2 * half];
                    gate[j] = rounded<T>(make_float2(g[0], g[1]));
                    up[j] = rounded<T>(make_float2(u[0], u[1]));
                }
                with_activation(params.activation, [&](auto activation) {
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        a[j] = make_float2(activation.value(gate[j].x, up[j].x), activation.value(gate[j].y, up[j].y));
                });
                if (params.h) {
                    T *h = static_cast<T *>(params.h) + row * (2ll * params.inner) + first;
                    store_columns<T, ACCESS>(h, left, exists, gate);
                    store_columns<T, ACCESS>(h + params.inner, left, exists, up);
                }
                store_columns<T, ACCESS>(static_cast<T *>(params.rows_out) + row * params.inner + first, left, exists,
                                         a);
            }
    }
};

template <typename T, int TILE_M_, Access ACCESS> struct Down : RowTileScheduler<TILE_M_> {
    using Type = T;
    static constexpr int TILE_M = TILE_M_;
    using Scheduler = RowTileScheduler<TILE_M>;
    using Tile = typename Scheduler::Tile;
    using OperandA = KMajorOperand<T, TILE_M, ACCESS, Rows::Gathered, THREADS>;
    using OperandB = KMajorOperand<T, TILE_N, ACCESS, Rows::Gathered, THREADS>;
    using ReaderA = KMajorReader;
    using ReaderB = KMajorReader;

    using Scheduler::params;
    __device__ __forceinline__ explicit Down(const MilletExperts &params)
        : Scheduler(params, params.hidden, params.inner) {}

    __device__ __forceinline__ void set_operands(const Tile &tile, OperandA &a, OperandB &b) const {
        this->take_rows(tile, a);
        const int64_t first = static_cast<int64_t>(tile.expert) * params.hidden + tile.column;
        b.set(static_cast<const T *>(params.weight) + first * params.inner, params.inner,
              [&](int row) { return row < tile.columns ? row : -1; });
    }

    __device__ __forceinline__ void epilogue(const Tile &tile, Accumulator<TILE_M> &accumulator) const {
        if (params.bias) {
            const int first = ThreadCoord::warp_n() * WARP_N, left = tile.columns - first;
            const int64_t column = static_cast<int64_t>(tile.expert) * params.hidden + tile.column + first;
            const T *bias = static_cast<const T *>(params.bias) + column;
            add_columns<T, TILE_M, ACCESS, 0, 1>(bias, left, accumulator);
            add_columns<T, TILE_M, ACCESS, 4, 1>(bias + 32, left - 32, accumulator);
        }
        weigh(tile, accumulator);
        store_rows<T, TILE_M, ACCESS>(static_cast<T *>(params.rows_out), params.hidden, tile, accumulator);
    }

    // Before a row is rounded, so that w·y must be in the storage type's range, not y.
    __device__ __forceinline__ void weigh(const Tile &tile, Accumulator<TILE_M> &accumulator) const {
#pragma unroll
        for (int i = 0; i < Accumulator<TILE_M>::MMA_M; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = ThreadCoord::warp_m() * WARP_M<TILE_M> + i * 16 + half * 8 + ThreadCoord::row();
                const float weight =
                    row < tile.rows ? __ldg(params.weights + __ldg(params.row_to_assignment + tile.row + row)) : 0.0f;
#pragma unroll
                for (int j = 0; j < Accumulator<TILE_M>::MMA_N; j++)
#pragma unroll
                    for (int c = 2 * half; c < 2 * half + 2; c++)
                        accumulator.mma[i][j][c] = weighed(weight, accumulator.mma[i][j][c]);
            }
    }
};

}  // namespace millet

MILLET_PRODUCTS(experts_up, Up)
MILLET_PRODUCTS(experts_down, Down)
