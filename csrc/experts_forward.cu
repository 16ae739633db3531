// The experts' forward products.
//
//   experts_up     h = x[token]·gate_upᵀ, a = silu(gate)·up       x [T, H], gate_up [E, 2I, H] → h [R, 2I], a [R, I]
//   experts_down   w·y, y = a·downᵀ                               a [R, I], down [E, H, I]     → w·y [R, H]
//
// Blocks: 128 threads, two per multiprocessor, as many as fit or as there are tiles. Each draws tiles [rows, 128
// columns] of the product, in an order that keeps those of an expert together (device/schedule.cuh). A tile has 128
// rows of one expert, or 64 (`_small`) where experts have few.
// Shared memory: 3 stages of 64 bytes of the reduction, (rows + 128)·64 bytes each: 48 KiB, 36 KiB with 64 rows.
// Pipeline and barriers: device/pipeline.cuh. Results go from registers to global memory (device/columns.cuh).
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
#include "device/columns.cuh"
#include "device/kernels.cuh"
#include "device/pipeline.cuh"
#include "device/schedule.cuh"
#include "device/swiglu.cuh"
#include "params.h"

namespace millet {

template <typename T, int ROWS_, Access ACCESS> struct Up : RowTiles<ROWS_> {
    using Type = T;
    static constexpr int ROWS = ROWS_;
    using Tile = typename RowTiles<ROWS>::Tile;
    using OperandA = AlongOperand<T, ROWS, ACCESS>;
    using OperandB = AlongOperand<T, COLUMNS, ACCESS>;
    using ReaderA = AlongReader;
    using ReaderB = AlongReader;
    // Columns of a that a tile gives.
    static constexpr int PAIRS = COLUMNS / 2;

    using RowTiles<ROWS>::p;
    __device__ __forceinline__ explicit Up(const MilletExperts &p) : RowTiles<ROWS>(p) {}

    __device__ __forceinline__ Tile at(uint32_t item) const {
        Tile tile = RowTiles<ROWS>::at(item);
        tile.column *= PAIRS;
        tile.columns = 2 * (p.inner - tile.column);
        tile.depth = tile.rows > 0 ? p.hidden : 0;
        return tile;
    }

    __device__ __forceinline__ void open(const Tile &tile, OperandA &a, OperandB &b) const {
        const Divider top_k = {p.top_k_multiplier, p.top_k_shift};
        const int32_t *assignments = p.row_to_assignment + tile.row;
        a.open(static_cast<const T *>(p.tokens), p.hidden, [&](int row) {
            return row < tile.rows ? static_cast<int>(top_k.divide(__ldg(assignments + row))) : -1;
        });
        const int64_t size = 2ll * p.inner * p.hidden;
        b.open(static_cast<const T *>(p.weight) + tile.expert * size, p.hidden, [&](int row) {
            // 8 of gate, 8 of up.
            int pair = tile.column + row / 16 * 8 + row % 8;
            return pair >= p.inner ? -1 : row % 16 < 8 ? pair : p.inner + pair;
        });
    }

    __device__ __forceinline__ void store(const Tile &tile, const Sum<ROWS> &sum) const {
        const int first = tile.column + Position::warp_across() * (PAIRS / 2), left = p.inner - first;
#pragma unroll
        for (int i = 0; i < Sum<ROWS>::DOWN; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int in_tile = Position::warp_down() * (ROWS / 2) + i * 16 + half * 8 + Position::row();
                const bool exists = in_tile < tile.rows;
                const int64_t row = tile.row + in_tile;
                float2 gate[4], up[4], a[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float *g = &sum.at[i][2 * j][2 * half], *u = &sum.at[i][2 * j + 1][2 * half];
                    gate[j] = rounded<T>(make_float2(g[0], g[1]));
                    up[j] = rounded<T>(make_float2(u[0], u[1]));
                    a[j] = make_float2(swiglu(gate[j].x, up[j].x), swiglu(gate[j].y, up[j].y));
                }
                if (p.h) {
                    T *h = static_cast<T *>(p.h) + row * (2ll * p.inner) + first;
                    store_columns<T, ACCESS>(h, left, exists, gate);
                    store_columns<T, ACCESS>(h + p.inner, left, exists, up);
                }
                store_columns<T, ACCESS>(static_cast<T *>(p.rows_out) + row * p.inner + first, left, exists, a);
            }
    }
};

template <typename T, int ROWS_, Access ACCESS> struct Down : RowTiles<ROWS_> {
    using Type = T;
    static constexpr int ROWS = ROWS_;
    using Tile = typename RowTiles<ROWS>::Tile;
    using OperandA = AlongOperand<T, ROWS, ACCESS>;
    using OperandB = AlongOperand<T, COLUMNS, ACCESS>;
    using ReaderA = AlongReader;
    using ReaderB = AlongReader;

    using RowTiles<ROWS>::p;
    __device__ __forceinline__ explicit Down(const MilletExperts &p) : RowTiles<ROWS>(p) {}

    __device__ __forceinline__ Tile at(uint32_t item) const {
        Tile tile = RowTiles<ROWS>::at(item);
        tile.column *= COLUMNS;
        tile.columns = p.hidden - tile.column;
        tile.depth = tile.rows > 0 ? p.inner : 0;
        return tile;
    }

    __device__ __forceinline__ void open(const Tile &tile, OperandA &a, OperandB &b) const {
        const T *rows = static_cast<const T *>(p.rows_in) + static_cast<int64_t>(tile.row) * p.inner;
        a.open(rows, p.inner, [&](int row) { return row < tile.rows ? row : -1; });
        const int64_t first = static_cast<int64_t>(tile.expert) * p.hidden + tile.column;
        b.open(static_cast<const T *>(p.weight) + first * p.inner, p.inner,
               [&](int row) { return row < tile.columns ? row : -1; });
    }

    __device__ __forceinline__ void store(const Tile &tile, Sum<ROWS> &sum) const {
        weigh(tile, sum);
        store_rows<T, ROWS, ACCESS>(static_cast<T *>(p.rows_out), p.hidden, tile, sum);
    }

    // Before a row is rounded, so that w·y must be in the storage type's range, not y.
    __device__ __forceinline__ void weigh(const Tile &tile, Sum<ROWS> &sum) const {
#pragma unroll
        for (int i = 0; i < Sum<ROWS>::DOWN; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = Position::warp_down() * (ROWS / 2) + i * 16 + half * 8 + Position::row();
                const float weight =
                    row < tile.rows ? __ldg(p.weights + __ldg(p.row_to_assignment + tile.row + row)) : 0.0f;
#pragma unroll
                for (int j = 0; j < Sum<ROWS>::ACROSS; j++)
#pragma unroll
                    for (int c = 2 * half; c < 2 * half + 2; c++) sum.at[i][j][c] = weighed(weight, sum.at[i][j][c]);
            }
    }
};

}  // namespace millet

MILLET_PRODUCTS(experts_up, Up)
MILLET_PRODUCTS(experts_down, Down)
