// The tile scheduler: which tiles there are, and in which order. Blocks are persistent: block b begins with item b,
// then each draws the next free item. So neighbouring items always run at the same time, however long each takes, and
// share operands through L2; with a fixed stride between a block's items, blocks drift apart (docs/kernels.md). Which
// block computes a tile does not change the result.
#pragma once
#include "../params.h"
#include "pipeline.cuh"

namespace millet {

// How many row tiles the plan has: those before the first −1. All threads of the block call.
__device__ __forceinline__ uint32_t count_row_tiles(const MilletExperts &p) {
    uint32_t first = 0, left = p.row_tiles_bound;
    while (left > 0) {
        // Every `stride`-th entry, one per thread; the end lies behind the last of them that holds a tile.
        const uint32_t stride = (left + THREADS - 1) / THREADS;
        const uint32_t mine = threadIdx.x * stride;
        const bool there = mine < left && __ldg(&p.row_tiles[2 * (first + mine)]) >= 0;
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
template <int ROWS> struct RowTiles {
    static constexpr bool LEAVES_OUT = false;
    struct Tile {
        int expert;
        // First row, and how many there are of ROWS; none in the second half of a short tile of the plan.
        int row, rows;
        // First column of the tile, and how many remain, as the product's kernel counts them.
        int column, columns;
        int depth;
    };

    const MilletExperts &p;
    // Tiles of this kernel in one of the plan.
    uint32_t parts;
    uint32_t row_tiles, items;

    __device__ __forceinline__ explicit RowTiles(const MilletExperts &p)
        : p(p), parts(p.tile_rows / ROWS), row_tiles(count_row_tiles(p) * parts), items(row_tiles * p.column_tiles) {}

    template <class A, class B> __device__ __forceinline__ void leave_out(const Tile &, A &, B &) const {}

    // An item's expert and rows, and the index of its columns.
    __device__ __forceinline__ Tile at(uint32_t item) const {
        const uint32_t whole = row_tiles * p.column_band;
        const uint32_t band = item / whole, inside = item % whole;
        const uint32_t left = p.column_tiles - band * p.column_band;
        const uint32_t width = min(left, p.column_band);
        const uint32_t row_tile = inside / width;
        const int2 place = __ldg(reinterpret_cast<const int2 *>(p.row_tiles) + row_tile / parts);
        Tile tile;
        tile.expert = place.x;
        tile.row = place.y + static_cast<int>(row_tile % parts) * ROWS;
        tile.rows = max(0, min(ROWS, __ldg(p.offsets + place.x + 1) - tile.row));
        tile.column = band * p.column_band + inside % width;
        return tile;
    }
};

// Tiles of the experts' weights: [ROWS, COLUMNS] of each [rows, columns], all of an expert's one after another. The
// reduction runs over its rows.
template <int ROWS> struct WeightTiles {
    static constexpr bool LEAVES_OUT = true;
    struct Tile {
        int expert;
        // First row of the tile in the weight, and how many remain; likewise columns.
        int row, rows;
        int column, columns;
        // The expert's first row of the reduction, and how many there are.
        int first, depth;
    };

    const MilletExperts &p;
    int rows, columns;
    uint32_t tiles_across, tiles, items;

    __device__ __forceinline__ WeightTiles(const MilletExperts &p, int rows, int columns)
        : p(p), rows(rows), columns(columns), tiles_across((columns + COLUMNS - 1) / COLUMNS),
          tiles((rows + ROWS - 1) / ROWS * tiles_across), items(tiles * p.experts) {}

    __device__ __forceinline__ Tile at(uint32_t item) const {
        const uint32_t inside = item % tiles;
        Tile tile;
        tile.expert = item / tiles;
        tile.row = inside / tiles_across * ROWS;
        tile.rows = rows - tile.row;
        tile.column = inside % tiles_across * COLUMNS;
        tile.columns = columns - tile.column;
        tile.first = __ldg(p.offsets + tile.expert);
        tile.depth = __ldg(p.offsets + tile.expert + 1) - tile.first;
        return tile;
    }
};

}  // namespace millet
