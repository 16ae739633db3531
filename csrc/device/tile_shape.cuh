// Shapes of the experts' products, from params.h: a block's tile is [TILE_M, TILE_N], its four warps are two by two,
// and a step of the main loop takes TILE_K of the reduction, 64 bytes. TILE_M is the kernel's: 128 or 64.
#pragma once
#include "../params.h"

namespace millet {

constexpr int THREADS = MILLET_PRODUCT_THREADS;
constexpr int STAGES = MILLET_PRODUCT_STAGES;
// Blocks that must fit on a multiprocessor: one's epilogue hides behind the other's main loop.
constexpr int RESIDENT = MILLET_PRODUCT_RESIDENT;

constexpr int TILE_N = MILLET_PRODUCT_COLUMNS;
template <typename T> constexpr int TILE_K = MILLET_PRODUCT_STEP_BYTES / static_cast<int>(sizeof(T));

// Of a warp.
template <int TILE_M> constexpr int WARP_M = TILE_M / 2;
constexpr int WARP_N = TILE_N / 2;

}  // namespace millet
