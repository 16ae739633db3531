// Router forward around the rows: each block routes a tile of tokens, and the last blocks add up the tiles' counts and
// statistics.
//
// Tickets (device/phases.cuh), one block each:
//
//   rows      tiles                logits → ids, weights, lse; the tile's counts and statistics to scratch
//   columns   ⌈(5 + K + 2E)/32⌉    each statistic and count, tiles in order
//   losses    1                    aux and z from Σp, counts and Σlse²
//
// The order of every sum is fixed by the number of tiles, which is a function of T alone.
#pragma once
#include "phases.cuh"
#include "route.cuh"

namespace millet {

enum RouterPhase { ROWS, COLUMNS };

// Places in the statistics; src/backend.rs has the same.
enum Statistic { AUX_LOSS, Z_LOSS, BAD_ROWS, ENTROPY, TOP1_SHARE, SLOT_WEIGHTS };

__device__ __forceinline__ int stats_elements(const MilletRouter &r) { return SLOT_WEIGHTS + r.top_k + r.experts; }

// Words of a row in shared memory: E′, E rounded up to whole rounds of a warp.
__device__ __forceinline__ int row_words(int experts) { return (experts + WARP - 1) / WARP * WARP; }

// Where the rows of a tile's tokens are while they are routed: in registers, with keys in shared memory where groups
// need them; in shared memory; or in registers, with keys where the tile's logits were.
enum class RowPlace { Registers, Shared, Tile };

// Shared memory of a block that routes: counts [E], then for each warp Σp [E′], sums of slots and the rest.
struct TileSpace {
    int *counts;
    float *totals;      // [warps, E′]
    float *slot_sums;   // [warps, MILLET_MAX_TOP_K]
    float *other_sums;  // [warps, 4]
    RouteSpace route;   // this warp's
    float *rows;        // this warp's rows, 3·E′, where rows are in shared memory

    __device__ TileSpace(const MilletRouter &r, int *memory, RowPlace place) {
        const bool shared_rows = place == RowPlace::Shared;
        int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
        int row = row_words(r.experts), groups = r.groups, group_words = (groups + WARP - 1) / WARP;
        int keys = groups > 0 && place == RowPlace::Registers ? r.experts : 0;
        auto take = [&](int words) {
            int *start = memory;
            memory += words;
            return start;
        };
        auto take_own = [&](int words) { return take(warps * words) + warp * words; };
        counts = take(r.experts);
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
__device__ __forceinline__ void route_tile(const MilletRouterForward &p, int tile, int tile_rows, TileSpace &space,
                                           Load load) {
    const MilletRouter &r = p.router;
    const int experts = r.experts, top_k = r.top_k;
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
    const int rows = static_cast<int>(min(static_cast<int64_t>(tile_rows), p.tokens - first));
    // A warp has neighbouring tokens, and stores their lse 32 at a time.
    const int warp_rows = (rows + warps - 1) / warps;
    const int last = min(rows, (warp + 1) * warp_rows);
    float own_lse = 0.0f;
    for (int row = warp * warp_rows; row < last; ++row) {
        const int64_t token = first + row;
        load(row, z);
        if (p.logits_out != nullptr) {
            MILLET_FOR_ROW(z, j, e) {
                if (e < experts) p.logits_out[token * experts + e] = z[j];
            }
        }
        SlotRow<int> ids = {};
        SlotRow<float> weights = {};
        float lse = route(r, p.selection_bias, z, probability, key, total, space.route, sums, ids, weights);
        MILLET_FOR_SLOTS(i, slot, top_k) {
            if (slot < top_k) {
                p.ids[token * top_k + slot] = ids.v[i];
                p.weights[token * top_k + slot] = weights.v[i];
                if (ids.v[i] >= 0) atomicAdd(&space.counts[ids.v[i]], 1);
            }
        }
        const int place = (row - warp * warp_rows) % WARP;
        if (lane_id() == place) own_lse = lse;
        if ((place == WARP - 1 || row == last - 1) && lane_id() <= place) p.lse[token - place + lane_id()] = own_lse;
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
    float *stats = &p.tile_stats[static_cast<int64_t>(tile) * stats_elements(r)];
    int *counts = &p.tile_counts[static_cast<int64_t>(tile) * experts];
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
__device__ inline void add_columns(const MilletRouterForward &p, int group) {
    __shared__ float parts[MILLET_THREADS];
    __shared__ int count_parts[MILLET_THREADS];
    const int floats = stats_elements(p.router);
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    const int column = group * WARP + lane_id(), count = column - floats;
    const int tiles = (p.tiles + warps - 1) / warps;
    const int first = min(p.tiles, warp * tiles), last = min(p.tiles, first + tiles);
    float sum = 0.0f;
    int count_sum = 0;
    if (column < floats) {
#pragma unroll 8
        for (int tile = first; tile < last; ++tile) sum += p.tile_stats[static_cast<int64_t>(tile) * floats + column];
    } else if (count < p.router.experts) {
#pragma unroll 8
        for (int tile = first; tile < last; ++tile) {
            count_sum += p.tile_counts[static_cast<int64_t>(tile) * p.router.experts + count];
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
        p.stats[column] = sum;
    } else if (count < p.router.experts) {
        p.counts[count] = count_sum;
    }
}

// Losses in f64, from what the columns added up to.
__device__ inline void finish_losses(const MilletRouterForward &p) {
    __shared__ double parts[MILLET_THREADS];
    const float *probability = &p.stats[SLOT_WEIGHTS + p.router.top_k];
    double balance = 0.0;
    for (int e = threadIdx.x; e < p.router.experts; e += blockDim.x) {
        balance += static_cast<double>(probability[e]) * static_cast<double>(p.counts[e]);
    }
    parts[threadIdx.x] = balance;
    for (int width = blockDim.x / 2; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x < width) parts[threadIdx.x] += parts[threadIdx.x + width];
    }
    if (threadIdx.x == 0) {
        p.stats[AUX_LOSS] = static_cast<float>(p.aux_factor * parts[0]);
        p.stats[Z_LOSS] = static_cast<float>(p.z_factor * static_cast<double>(p.stats[Z_LOSS]));
    }
}

// The whole kernel. `rows(tile)` routes a tile.
template <typename Rows> __device__ __forceinline__ void router_forward(const MilletRouterForward &p, Rows rows) {
    Phases phases(p.phases);
    int ticket = static_cast<int>(phases.take_ticket());
    const int groups = (stats_elements(p.router) + p.router.experts + WARP - 1) / WARP;
    if (ticket < p.tiles) {
        rows(ticket);
        phases.finish(ROWS);
        return;
    }
    ticket -= p.tiles;
    if (ticket < groups) {
        phases.wait(ROWS, p.tiles);
        add_columns(p, ticket);
        phases.finish(COLUMNS);
        return;
    }
    phases.wait(COLUMNS, groups);
    finish_losses(p);
}

}  // namespace millet
