// Shapes of the experts' products, from params.h: a block's tile is [TILE_M, TILE_N], its four warps are two by two.
// TILE_M is the kernel's: 128 or 64.
#pragma once
#include "../params.h"
#include "layout.cuh"

namespace millet {

constexpr int THREADS = MILLET_PRODUCT_THREADS;
constexpr int STAGES = MILLET_PRODUCT_STAGES;
// Blocks that must fit on a multiprocessor: one's epilogue hides behind the other's main loop.
constexpr int RESIDENT = MILLET_PRODUCT_RESIDENT;

constexpr int TILE_N = MILLET_PRODUCT_COLUMNS;

// Of a warp.
constexpr int WARPS_M = 2, WARPS_N = 2;
template <int TILE_M> constexpr int WARP_M = TILE_M / WARPS_M;
constexpr int WARP_N = TILE_N / WARPS_N;

static_assert(THREADS == WARPS_M * WARPS_N * 32, "warps cover the tile");
static_assert(RESIDENT * THREADS * 255 <= 65536, "a thread may have all the registers that there are");
static_assert(MILLET_PRODUCT_LARGE_ROWS % MILLET_PRODUCT_SMALL_ROWS == 0, "small tiles fill a tile of the plan");

// Dynamic shared memory of a block without opting in, and what the smallest multiprocessor has (sm_86, sm_89, sm_120).
constexpr int SHARED_BYTES_OF_BLOCK = 48 << 10, SHARED_BYTES_OF_MULTIPROCESSOR = 100 << 10;

}  // namespace millet
