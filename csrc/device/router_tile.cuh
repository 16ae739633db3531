// Router forward around the rows: each block routes a tile of tokens, and the last blocks add up the tiles' counts and
// statistics.
//
// Tickets (device/phases.cuh), one block each:
//
//   route     tiles                logits → ids, weights, lse; the tile's counts and statistics to scratch
//   reduce    ⌈(5 + K + 2E)/32⌉    each statistic and count, tiles in order
//   losses    1                    aux and z from Σp, counts and Σlse²
//
// The order of every sum is fixed by the number of tiles, which is a function of T alone.
#pragma once
#include "phases.cuh"
#include "route.cuh"

namespace millet {

enum RouterPhase { ROUTE, REDUCE };
static_assert(1 + REDUCE < MILLET_PHASE_WORDS, "a word for tickets and one for each phase");
static_assert((MILLET_THREADS & (MILLET_THREADS - 1)) == 0, "the losses' sum halves the threads");

// Where the statistics are; `stats` in src/ops/mod.rs has the same.
enum Statistic { AUX_LOSS, Z_LOSS, BAD_ROWS, ENTROPY, TOP1_SHARE, SLOT_WEIGHTS };

__device__ __forceinline__ int stats_elements(const MilletRouter &router) {
    return SLOT_WEIGHTS + router.top_k + router.experts;
}

// Words of a row in shared memory: E′, E rounded up to whole rounds of a warp.
__device__ __forceinline__ int row_words(int experts) { return (experts + WARP - 1) / WARP * WARP; }

// Where the rows of a tile's tokens are while they are routed: in registers, with keys in shared memory where groups
// need them; in shared memory; or in registers, with keys where the tile's logits were.
enum class RowStorage { Registers, Shared, LogitsTile };

// Shared memory of a block that routes: counts [E], then for each warp Σp [E′], sums of slots and the rest.
struct TileSpace {
    int *counts;
    float *totals;      // [warps, E′]
    float *slot_sums;   // [warps, MILLET_MAX_TOP_K]
    float *other_sums;  // [warps, 4]
    RouteSpace route;   // this warp's
    float *rows;        // this warp's rows, 3·E′, where rows are in shared memory

    __device__ TileSpace(const MilletRouter &router, int *memory, RowStorage storage) {
        const bool shared_rows = storage == RowStorage::Shared;
        int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
        int row = row_words(router.experts), groups = router.groups, group_words = (groups + WARP - 1) / WARP;
        int keys = groups > 0 && storage == RowStorage::Registers ? router.experts : 0;
        auto take = [&](int words) {
            int *start = memory;
            memory += words;
            return start;
        };
        auto take_own = [&](int words) { return take(warps * words) + warp * words; };
        counts = take(router.experts);
        totals = reinterpret_cast<float *>(take(warps * row));
        slot_sums = reinterpret_cast<float *>(take(warps * MILLET_MAX_TOP_K));
        other_sums = reinterpret_cast<float *>(take(warps * 4));
        route.ids = take_own(MILLET_MAX_TOP_K);
        route.logits = reinterpret_cast<float *>(take_own(MILLET_MAX_TOP_K));
        route.group_scores = reinterpret_cast<float *>(take_own(groups));
        route.group_lacks = reinterpret_cast<float *>(take_own(groups));
        route.group_out = reinterpret_cast<uint32_t *>(take_own(group_words));
        route.keys = reinterpret_cast<uint32_t *>(take_own(keys));
        rows = reinterpret_cast<float *>(take_own(shared_rows ? 3 * row : 0));
        if (shared_rows) route.keys = reinterpret_cast<uint32_t *>(&rows[2 * row]);
    }
};

// Routes the tokens of this warp: `load(row)` fills the logits of row `first + row` of the tile.
//
// Row is RegisterRow<…> for E ≤ 32·N, or SharedRow.
template <template <typename> class Row, typename Load>
__device__ __forceinline__ void route_tile(const MilletRouterForward &params, int tile, int tile_rows, TileSpace &space,
                                           Load load) {
    const MilletRouter &router = params.router;
    const int experts = router.experts, top_k = router.top_k;
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    for (int e = threadIdx.x; e < experts; e += blockDim.x) space.counts[e] = 0;
    __syncthreads();

    Row<float> z(experts, space.rows), probability(experts, &space.rows[row_words(experts)]);
    Row<uint32_t> key(experts, space.route.keys);
    const int row_stride = row_words(experts);
    Row<float> total(experts, &space.totals[warp * row_stride]);
    MILLET_FOR_ROW(total, j, e) total[j] = 0.0f;
    RouteSums sums;
    const int64_t first = static_cast<int64_t>(tile) * tile_rows;
    const int rows = static_cast<int>(min(static_cast<int64_t>(tile_rows), params.tokens - first));
    // A warp has neighbouring tokens, and stores their lse 32 at a time.
    const int warp_rows = (rows + warps - 1) / warps;
    const int last = min(rows, (warp + 1) * warp_rows);
    float own_lse = 0.0f;
    for (int row = warp * warp_rows; row < last; ++row) {
        const int64_t token = first + row;
        load(row, z);
        if (params.logits_out != nullptr) {
            MILLET_FOR_ROW(z, j, e) {
                if (e < experts) params.logits_out[token * experts + e] = z[j];
            }
        }
        SlotRow<int> ids = {};
        SlotRow<float> weights = {};
        float lse = route(router, params.selection_bias, z, probability, key, total, space.route, sums, ids, weights);
        MILLET_FOR_SLOTS(i, slot, top_k) {
            if (slot < top_k) {
                params.ids[token * top_k + slot] = ids.v[i];
                params.weights[token * top_k + slot] = weights.v[i];
                if (ids.v[i] >= 0) atomicAdd(&space.counts[ids.v[i]], 1);
            }
        }
        const int in_warp = (row - warp * warp_rows) % WARP;
        if (lane_id() == in_warp) own_lse = lse;
        if ((in_warp == WARP - 1 || row == last - 1) && lane_id() <= in_warp)
            params.lse[token - in_warp + lane_id()] = own_lse;
    }

    // The warps' sums, in order of the warps.
    MILLET_FOR_ROW(total, j, e) {
        if (e < experts) space.totals[warp * row_stride + e] = total[j];
    }
    MILLET_FOR_SLOTS(i, slot, top_k) space.slot_sums[warp * MILLET_MAX_TOP_K + slot] = sums.weights.v[i];
    float entropy = warp_sum(sums.entropy);
    if (lane_id() == 0) {
        // In the order of the statistics.
        float *own = &space.other_sums[4 * warp];
        own[0] = sums.z;
        own[1] = sums.bad;
        own[2] = entropy;
        own[3] = sums.top1;
    }
    __syncthreads();
    auto over_warps = [&](const float *values, int stride) {
        float sum = 0.0f;
        for (int w = 0; w < warps; ++w) sum += values[w * stride];
        return sum;
    };
    float *stats = &params.tile_stats[static_cast<int64_t>(tile) * stats_elements(router)];
    int *counts = &params.tile_counts[static_cast<int64_t>(tile) * experts];
    if (threadIdx.x < 4) stats[Z_LOSS + threadIdx.x] = over_warps(&space.other_sums[threadIdx.x], 4);
    if (threadIdx.x == 0) stats[AUX_LOSS] = 0.0f;
    for (int slot = threadIdx.x; slot < top_k; slot += blockDim.x) {
        stats[SLOT_WEIGHTS + slot] = over_warps(&space.slot_sums[slot], MILLET_MAX_TOP_K);
    }
    for (int e = threadIdx.x; e < experts; e += blockDim.x) {
        stats[SLOT_WEIGHTS + top_k + e] = over_warps(&space.totals[e], row_stride);
        counts[e] = space.counts[e];
    }
}

// 32 columns of the tiles' statistics and counts: one per lane; each warp takes a range of tiles.
__device__ inline void reduce_tiles(const MilletRouterForward &params, int group) {
    __shared__ float parts[MILLET_THREADS];
    __shared__ int count_parts[MILLET_THREADS];
    const int floats = stats_elements(params.router);
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    const int column = group * WARP + lane_id(), count = column - floats;
    const int tiles = (params.tiles + warps - 1) / warps;
    const int first = min(params.tiles, warp * tiles), last = min(params.tiles, first + tiles);
    float sum = 0.0f;
    int count_sum = 0;
    if (column < floats) {
#pragma unroll 8
        for (int tile = first; tile < last; ++tile)
            sum += params.tile_stats[static_cast<int64_t>(tile) * floats + column];
    } else if (count < params.router.experts) {
#pragma unroll 8
        for (int tile = first; tile < last; ++tile) {
            count_sum += params.tile_counts[static_cast<int64_t>(tile) * params.router.experts + count];
        }
    }
    parts[threadIdx.x] = sum;
    count_parts[threadIdx.x] = count_sum;
    __syncthreads();
    if (warp > 0) return;
    for (int w = 1; w < warps; ++w) {
        sum += parts[w * WARP + lane_id()];
        count_sum += count_parts[w * WARP + lane_id()];
    }
    if (column < floats) {
        params.stats[column] = sum;
    } else if (count < params.router.experts) {
        params.counts[count] = count_sum;
    }
}

// Losses in f64, from what the columns added up to.
__device__ inline void finish_losses(const MilletRouterForward &params) {
    __shared__ double parts[MILLET_THREADS];
    const float *probability = &params.stats[SLOT_WEIGHTS + params.router.top_k];
    double balance = 0.0;
    for (int e = threadIdx.x; e < params.router.experts; e += blockDim.x) {
        balance += static_cast<double>(probability[e]) * static_cast<double>(params.counts[e]);
    }
    parts[threadIdx.x] = balance;
    for (int width = blockDim.x / 2; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x < width) parts[threadIdx.x] += parts[threadIdx.x + width];
    }
    if (threadIdx.x == 0) {
        params.stats[AUX_LOSS] = static_cast<float>(params.aux_factor * parts[0]);
        // Without a z-loss it is 0, also where the sum of squares is infinite.
        const double squares = params.z_factor == 0.0 ? 0.0 : static_cast<double>(params.stats[Z_LOSS]);
        params.stats[Z_LOSS] = static_cast<float>(params.z_factor * squares);
    }
}

// The whole kernel. `rows(tile)` routes a tile.
template <typename Rows> __device__ __forceinline__ void router_forward(const MilletRouterForward &params, Rows rows) {
    Phases phases(params.phases);
    int ticket = static_cast<int>(phases.take_ticket());
    const int groups = (stats_elements(params.router) + params.router.experts + WARP - 1) / WARP;
    if (ticket < params.tiles) {
        rows(ticket);
        phases.finish(ROUTE);
        return;
    }
    ticket -= params.tiles;
    if (ticket < groups) {
        phases.wait(ROUTE, params.tiles);
        reduce_tiles(params, ticket);
        phases.finish(REDUCE);
        return;
    }
    phases.wait(REDUCE, groups);
    finish_losses(params);
}

}  // namespace millet
