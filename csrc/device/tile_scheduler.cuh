// The tile scheduler: which tiles there are, and in which order. Blocks are persistent: block b begins with item b,
// then each draws the next free item. So neighbouring items always run at the same time, however long each takes, and
// share operands through L2; with a fixed stride between a block's items, blocks drift apart (docs/kernels.md). Which
// block computes a tile does not change the result.
#pragma once
#include "../params.h"
#include "operand.cuh"
#include "tile_shape.cuh"

namespace millet {

// How many row tiles the plan has: those before the first −1. All threads of the block call.
__device__ __forceinline__ uint32_t count_row_tiles(const MilletExperts &params) {
    uint32_t first = 0, left = params.row_tiles_bound;
    while (left > 0) {
        // Every `stride`-th entry, one per thread; the end lies behind the last of them that holds a tile.
        const uint32_t stride = (left + THREADS - 1) / THREADS;
        const uint32_t mine = threadIdx.x * stride;
        const bool there = mine < left && __ldg(&params.row_tiles[2 * (first + mine)]) >= 0;
        const uint32_t count = __syncthreads_count(there);
        if (count == 0) break;
        if (stride == 1) return first + count;
        const uint32_t skipped = (count - 1) * stride;
        first += skipped + 1;
        left = min(stride, left - skipped) - 1;
    }
    return first;
}

// Tiles of an expert's rows × tiles of a matrix's columns. Items run through the columns of a band, then through the
// row tiles, then through the bands: row tiles of an expert are neighbours and share its weights, columns share rows.
// `WIDTH` is the columns of the result that a tile's TILE_N give.
template <int TILE_M, int WIDTH = TILE_N> struct RowTileScheduler {
    static constexpr bool SKIPS_ZERO_ROWS = false;
    struct Tile {
        int expert;
        // First row, and how many there are of TILE_M; none in the second half of a short tile of the plan.
        int row, rows;
        // First column of the result, and how many of the product's remain.
        int column, columns;
        int depth;
    };

    const MilletExperts &params;
    // Of the result, and of the reduction.
    int columns, depth;
    // Tiles of this kernel per tile of the plan.
    uint32_t per_plan_tile;
    uint32_t row_tiles, items;

    __device__ __forceinline__ RowTileScheduler(const MilletExperts &params, int columns, int depth)
        : params(params), columns(columns), depth(depth), per_plan_tile(params.tile_rows / TILE_M),
          row_tiles(count_row_tiles(params) * per_plan_tile), items(row_tiles * params.column_tiles) {}

    template <class A, class B> __device__ __forceinline__ void skip_zero_rows(const Tile &, A &, B &) const {}

    __device__ __forceinline__ Tile at(uint32_t item) const {
        const uint32_t band_items = row_tiles * params.column_band;
        const uint32_t band = item / band_items, in_band = item % band_items;
        const uint32_t left = params.column_tiles - band * params.column_band;
        const uint32_t width = min(left, params.column_band);
        const uint32_t row_tile = in_band / width;
        const int2 plan_tile = __ldg(reinterpret_cast<const int2 *>(params.row_tiles) + row_tile / per_plan_tile);
        Tile tile;
        tile.expert = plan_tile.x;
        tile.row = plan_tile.y + static_cast<int>(row_tile % per_plan_tile) * TILE_M;
        tile.rows = max(0, min(TILE_M, __ldg(params.offsets + plan_tile.x + 1) - tile.row));
        tile.column = (band * params.column_band + in_band % width) * WIDTH;
        tile.columns = (columns - tile.column) * (TILE_N / WIDTH);
        tile.depth = tile.rows > 0 ? depth : 0;
        return tile;
    }

    // Operand a: each row's token, of x or dO.
    template <class Operand> __device__ __forceinline__ void gather_tokens(const Tile &tile, Operand &a) const {
        const Divider top_k = {params.top_k_multiplier, params.top_k_shift};
        const int32_t *assignments = params.row_to_assignment + tile.row;
        a.set(static_cast<const typename Operand::Element *>(params.tokens), params.hidden,
              [&](int row) { return row < tile.rows ? static_cast<int>(top_k.divide(__ldg(assignments + row))) : -1; });
    }

    // Operand a: the rows themselves.
    template <class Operand> __device__ __forceinline__ void take_rows(const Tile &tile, Operand &a) const {
        const auto *rows = static_cast<const typename Operand::Element *>(params.rows_in);
        a.set(rows + static_cast<int64_t>(tile.row) * depth, depth,
              [&](int row) { return row < tile.rows ? row : -1; });
    }
};

// Tiles of the experts' weights: [TILE_M, TILE_N] of each [rows, columns], all of an expert's one after another. The
// reduction runs over its rows.
template <int TILE_M> struct WeightTileScheduler {
    static constexpr bool SKIPS_ZERO_ROWS = true;
    struct Tile {
        int expert;
        // First row of the tile in the weight, and how many remain; likewise columns.
        int row, rows;
        int column, columns;
        // The expert's first row of the reduction, and how many there are.
        int first, depth;
    };

    const MilletExperts &params;
    int rows, columns;
    uint32_t tiles_n, tiles, items;

    __device__ __forceinline__ WeightTileScheduler(const MilletExperts &params, int rows, int columns)
        : params(params), rows(rows), columns(columns), tiles_n((columns + TILE_N - 1) / TILE_N),
          tiles((rows + TILE_M - 1) / TILE_M * tiles_n), items(tiles * params.experts) {}

    __device__ __forceinline__ Tile at(uint32_t item) const {
        const uint32_t in_expert = item % tiles;
        Tile tile;
        tile.expert = item / tiles;
        tile.row = in_expert / tiles_n * TILE_M;
        tile.rows = rows - tile.row;
        tile.column = in_expert % tiles_n * TILE_N;
        tile.columns = columns - tile.column;
        tile.first = __ldg(params.offsets + tile.expert);
        tile.depth = __ldg(params.offsets + tile.expert + 1) - tile.first;
        return tile;
    }
};

}  // namespace millet
