// Dispatch: capacity dropping and the stable sort of assignments by expert, in one launch.
//
// An assignment a = t·K + slot goes to expert ids[a]; an id outside 0..E is a sentinel and takes part in nothing. Rows
// are ordered by expert, then by assignment. An expert keeps at most C: how many it keeps, and so where its rows begin,
// follows from the counts alone, before anybody knows which ones.
//
// Tickets (device/phases.cuh), one block each:
//
//   count    tiles       assignments of each expert in a tile of assignments
//   scan     ⌈E/32⌉      counts over tiles become each tile's first rank in each expert; totals
//   place    tiles + 1   every assignment's rank, and so its row; without a limit, or with the policy Position, that
//                        is all. The rows of an expert that has to choose go to `sorted` instead. One block writes
//                        offsets and row tiles
//   choose   E           (Probability, SlotMajor) the C best of an expert over capacity, by radix selection on a
//                        32-bit key, ties to the lower assignment; those that stay get rows in order of their
//                        assignment
//   scale    tiles       (renormalising) weights of survivors
//
// Floor: ids (and weights where they decide) read once, offsets and both maps written once. Above it: ids are read
// three times, the later ones from cache, and tiles·E counts are written and read twice. Shared memory: E·(2 + warps)
// words.
#include "device/phases.cuh"
#include "device/scan.cuh"
#include "params.h"

namespace millet {

constexpr int MAX_WARPS = MILLET_THREADS / WARP;
constexpr int DIGITS = 256;
static_assert(DIGITS == 8 * WARP, "a lane has eight digits");
static_assert(MILLET_THREADS % WARP == 0, "whole warps");

enum Phase { COUNT, SCAN, PLACE, CHOOSE };
static_assert(1 + CHOOSE < MILLET_PHASE_WORDS, "a word for tickets and one for each phase");

struct Tile {
    int64_t first, last;

    __device__ Tile(const MilletDispatch &params, int tile)
        : first(tile * params.tile_assignments), last(min(params.assignments, first + params.tile_assignments)) {}

    // The part of one warp: whole rounds of 32.
    __device__ Tile warp_part() const {
        int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
        int64_t size = (last - first + warps * WARP - 1) / (warps * WARP) * WARP;
        Tile part = *this;
        part.first = min(last, first + warp * size);
        part.last = min(last, part.first + size);
        return part;
    }
};

// The expert of an assignment, −1 for a sentinel and beyond `last`.
__device__ __forceinline__ int expert_of(const MilletDispatch &params, int64_t assignment, int64_t last) {
    if (assignment >= last) return -1;
    int id = __ldg(&params.ids[assignment]);
    return static_cast<uint32_t>(id) < static_cast<uint32_t>(params.experts) ? id : -1;
}

__device__ __forceinline__ bool limited(const MilletDispatch &params) { return params.policy != MILLET_KEEP_ALL; }
__device__ __forceinline__ bool chooses(const MilletDispatch &params) {
    return params.policy == MILLET_KEEP_PROBABILITY || params.policy == MILLET_KEEP_SLOT_MAJOR;
}

// Rows that an expert with `total` assignments keeps.
__device__ __forceinline__ int kept(const MilletDispatch &params, int total) {
    return limited(params) ? min(total, params.capacity) : total;
}

// Counts this warp's assignments of each expert into `counts` [E], which it owns; `each(assignment, expert, rank)` gets
// the number of assignments of the same expert before it. Counts may start anywhere.
template <typename Each> __device__ void walk(const MilletDispatch &params, Tile part, int *counts, Each each) {
    int lane = threadIdx.x % WARP;
    for (int64_t start = part.first; start < part.last; start += WARP) {
        int64_t assignment = start + lane;
        int expert = expert_of(params, assignment, part.last);
        unsigned peers = __match_any_sync(ALL_LANES, expert);
        int before = __popc(peers & ((1u << lane) - 1));
        int rank = expert < 0 ? 0 : counts[expert] + before;
        __syncwarp();
        if (expert >= 0 && before == 0) counts[expert] += __popc(peers);
        __syncwarp();
        if (assignment < part.last) each(assignment, expert, rank);
    }
}

__device__ void count(const MilletDispatch &params, int tile, int *shared) {
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    for (int i = threadIdx.x; i < warps * params.experts; i += blockDim.x) shared[i] = 0;
    __syncthreads();
    walk(params, Tile(params, tile).warp_part(), &shared[warp * params.experts], [](int64_t, int, int) {});
    __syncthreads();
    for (int e = threadIdx.x; e < params.experts; e += blockDim.x) {
        int sum = 0;
        for (int w = 0; w < warps; ++w) sum += shared[w * params.experts + e];
        params.tile_counts[static_cast<int64_t>(tile) * params.experts + e] = sum;
    }
}

// 32 experts: one per lane; each warp takes a range of tiles.
__device__ void scan_tiles(const MilletDispatch &params, int group) {
    __shared__ int parts[MAX_WARPS][WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int e = group * WARP + lane;
    int tiles = (params.tiles + warps - 1) / warps;
    int first = min(params.tiles, warp * tiles), last = min(params.tiles, first + tiles);
    int sum = 0;
    if (e < params.experts) {
#pragma unroll 8
        for (int tile = first; tile < last; ++tile)
            sum += params.tile_counts[static_cast<int64_t>(tile) * params.experts + e];
    }
    parts[warp][lane] = sum;
    __syncthreads();
    int rank = 0;
    for (int w = 0; w < warp; ++w) rank += parts[w][lane];
    if (e >= params.experts) return;
    for (int tile = first; tile < last; ++tile) {
        int *count = &params.tile_counts[static_cast<int64_t>(tile) * params.experts + e];
        int own = *count;
        *count = rank;
        rank += own;
    }
    if (warp == warps - 1) params.totals[e] = rank;
}

// Calls each(expert, total, assignments before it, rows before it) for every expert, and gives the number of rows.
template <typename Each> __device__ int for_experts(const MilletDispatch &params, Each each) {
    // Assignments in the upper half, rows in the lower; both stay below 2³¹.
    __shared__ uint64_t warp_sums[MAX_WARPS];
    uint64_t before = 0;
    for (int first = 0; first < params.experts; first += blockDim.x) {
        int e = first + threadIdx.x;
        int total = e < params.experts ? params.totals[e] : 0;
        uint64_t all;
        uint64_t own = static_cast<uint64_t>(total) << 32 | static_cast<uint32_t>(kept(params, total));
        uint64_t start = before + block_scan(own, warp_sums, all);
        before += all;
        if (e < params.experts) each(e, total, static_cast<int>(start >> 32), static_cast<int>(start & 0xffffffffu));
    }
    return static_cast<int>(before & 0xffffffffu);
}

__device__ void place(const MilletDispatch &params, int tile, int *shared) {
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    int *base = shared;                         // [E] this tile's first row, or ~(first place in `sorted`)
    int *end = &shared[params.experts];         // [E] where the expert's rows end
    int *counts = &shared[2 * params.experts];  // [warps, E]
    int rows = for_experts(params, [&](int expert, int total, int assignments_before, int rows_before) {
        int rank = params.tile_counts[static_cast<int64_t>(tile) * params.experts + expert];
        bool choice = chooses(params) && total > params.capacity;
        base[expert] = choice ? ~(assignments_before + rank) : rows_before + rank;
        end[expert] = rows_before + kept(params, total);
    });
    for (int i = threadIdx.x; i < warps * params.experts; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    Tile part = Tile(params, tile).warp_part();
    walk(params, part, &counts[warp * params.experts], [](int64_t, int, int) {});
    __syncthreads();
    for (int e = threadIdx.x; e < params.experts; e += blockDim.x) {
        int before = 0;
        for (int w = 0; w < warps; ++w) {
            int own = counts[w * params.experts + e];
            counts[w * params.experts + e] = before;
            before += own;
        }
    }
    __syncthreads();
    walk(params, part, &counts[warp * params.experts], [&](int64_t assignment, int expert, int rank) {
        int row = -1;
        if (expert >= 0) {
            int first = base[expert];
            if (first < 0) {
                params.sorted[~first + rank] = static_cast<int>(assignment);
                return;  // `choose` writes its row
            }
            row = first + rank;
            if (row < end[expert]) {
                params.row_to_assignment[row] = static_cast<int>(assignment);
            } else {
                row = -1;
            }
        }
        params.assignment_to_row[assignment] = row;
    });
    // Rows that nobody has, a share of them for each tile.
    int64_t stride = static_cast<int64_t>(params.tiles) * blockDim.x;
    for (int64_t row = rows + static_cast<int64_t>(tile) * blockDim.x + threadIdx.x; row < params.max_rows;
         row += stride) {
        params.row_to_assignment[row] = -1;
    }
}

// Offsets, and the tiles of rows for the grouped products.
__device__ void tile_rows(const MilletDispatch &params, int *shared) {
    __shared__ int warp_sums[MAX_WARPS];
    int *offsets = shared;                     // [E + 1]
    int *tiles = &shared[params.experts + 1];  // [E + 1] tiles before an expert
    int rows = for_experts(params, [&](int expert, int, int, int rows_before) { offsets[expert] = rows_before; });
    if (threadIdx.x == 0) offsets[params.experts] = rows;
    __syncthreads();
    int before = 0;
    for (int first = 0; first < params.experts; first += blockDim.x) {
        int e = first + threadIdx.x;
        int own = e < params.experts ? (offsets[e + 1] - offsets[e] + params.tile_rows - 1) / params.tile_rows : 0;
        int all;
        int start = before + block_scan(own, warp_sums, all);
        before += all;
        if (e < params.experts) tiles[e] = start;
    }
    if (threadIdx.x == 0) tiles[params.experts] = before;
    __syncthreads();
    for (int e = threadIdx.x; e <= params.experts; e += blockDim.x) params.offsets[e] = offsets[e];
    for (int tile = threadIdx.x; tile < params.max_row_tiles; tile += blockDim.x) {
        int expert = -1, row = -1;
        if (tile < before) {
            // The last expert that begins at or before this tile; those without rows are passed over.
            int low = 0, high = params.experts;
            while (high - low > 1) {
                int middle = (low + high) / 2;
                (tiles[middle] <= tile ? low : high) = middle;
            }
            expert = low;
            row = offsets[low] + (tile - tiles[low]) * params.tile_rows;
        }
        params.row_tiles[2 * tile] = expert;
        params.row_tiles[2 * tile + 1] = row;
    }
}

// Larger is kept first; equal keys by the lower assignment.
__device__ __forceinline__ uint32_t choice_key(const MilletDispatch &params, int assignment) {
    if (params.policy == MILLET_KEEP_SLOT_MAJOR) return params.top_k - 1 - assignment % params.top_k;
    const float weight = params.weights[assignment];
    return order_key(weight != weight ? -infinity() : weight);  // NaN is the least, as among logits
}

// The C best of an expert's assignments, which are in `sorted` in ascending order.
__device__ void choose(const MilletDispatch &params, int expert) {
    __shared__ uint64_t warp_sums[MAX_WARPS];
    __shared__ int histogram[DIGITS];
    __shared__ uint32_t found;  // the keys' digits above, and the digit found last
    __shared__ int wanted;      // how many of the keys that begin like `found` are kept
    int total = params.totals[expert];
    if (total <= params.capacity) return;

    uint64_t own = 0;
    for (int e = threadIdx.x; e < expert; e += blockDim.x) {
        own += static_cast<uint64_t>(params.totals[e]) << 32 | static_cast<uint32_t>(kept(params, params.totals[e]));
    }
    uint64_t before;
    block_scan(own, warp_sums, before);
    const int *sorted = &params.sorted[before >> 32];
    int first_row = static_cast<int>(before & 0xffffffffu);

    // The C-th largest key, eight bits at a time from the top.
    if (threadIdx.x == 0) {
        found = 0;
        wanted = params.capacity;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) histogram[digit] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < total; i += blockDim.x) {
            uint32_t key = choice_key(params, sorted[i]);
            if (shift == 24 || key >> (shift + 8) == found) atomicAdd(&histogram[key >> shift & (DIGITS - 1)], 1);
        }
        __syncthreads();
        if (threadIdx.x < WARP) {
            // A lane has eight digits, the highest lane the lowest ones; prefix sums go from the highest digit down.
            int top = DIGITS - 1 - 8 * static_cast<int>(threadIdx.x);
            int sum = 0;
#pragma unroll
            for (int i = 0; i < 8; ++i) sum += histogram[top - i];
            int above = sum;
#pragma unroll
            for (int distance = 1; distance < WARP; distance *= 2) {
                int other = __shfl_up_sync(ALL_LANES, above, distance);
                if (threadIdx.x >= distance) above += other;
            }
            above -= sum;
            int need = wanted;
            uint32_t prefix = found;
            __syncwarp();
            if (above < need && above + sum >= need) {
                for (int i = 0; i < 8; ++i) {
                    int own = histogram[top - i];
                    if (above + own >= need) {
                        found = prefix << 8 | static_cast<uint32_t>(top - i);
                        wanted = need - above;
                        break;
                    }
                    above += own;
                }
            }
        }
        __syncthreads();
    }
    uint32_t threshold = found;
    int ties = params.capacity > 0 ? wanted : 0;

    // Those above the threshold stay, and the first `ties` at it. Both are counted at once: above in the lower half.
    uint64_t counted = 0;
    for (int start = 0; start < total; start += blockDim.x) {
        int i = start + threadIdx.x;
        int assignment = i < total ? sorted[i] : -1;
        uint32_t key = i < total ? choice_key(params, assignment) : 0;
        bool above = params.capacity > 0 && i < total && key > threshold;
        bool at = i < total && key == threshold;
        uint64_t all;
        uint64_t rank =
            counted + block_scan(static_cast<uint64_t>(at) << 32 | static_cast<uint64_t>(above), warp_sums, all);
        counted += all;
        if (i >= total) continue;
        int at_before = static_cast<int>(rank >> 32), above_before = static_cast<int>(rank & 0xffffffffu);
        bool stays = above || (at && at_before < ties);
        int row = stays ? first_row + above_before + min(at_before, ties) : -1;
        if (stays) params.row_to_assignment[row] = assignment;
        params.assignment_to_row[assignment] = row;
    }
}

// Survivors' weights sum to `renormalize_to`; dropped ones become 0.
__device__ void scale(const MilletDispatch &params, int index) {
    Tile tile(params, index);
    for (int64_t first = tile.first + static_cast<int64_t>(threadIdx.x) * params.top_k; first < tile.last;
         first += static_cast<int64_t>(blockDim.x) * params.top_k) {
        float sum = 0.0f;
        for (int slot = 0; slot < params.top_k; ++slot) {
            if (params.assignment_to_row[first + slot] >= 0) sum += params.weights[first + slot];
        }
        for (int slot = 0; slot < params.top_k; ++slot) {
            float weight = params.assignment_to_row[first + slot] >= 0 ? params.weights[first + slot] : 0.0f;
            params.weights[first + slot] = sum > 0.0f ? weight / sum * params.renormalize_to : weight;
        }
    }
}

}  // namespace millet

extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 4) dispatch(MilletDispatch params) {
    using namespace millet;
    extern __shared__ int shared[];
    Phases phases(params.phases);
    int ticket = static_cast<int>(phases.take_ticket());
    int column_groups = (params.experts + WARP - 1) / WARP;

    if (ticket < params.tiles) {
        count(params, ticket, shared);
        phases.finish(COUNT);
        return;
    }
    ticket -= params.tiles;
    if (ticket < column_groups) {
        phases.wait(COUNT, params.tiles);
        scan_tiles(params, ticket);
        phases.finish(SCAN);
        return;
    }
    ticket -= column_groups;
    if (ticket < params.tiles + 1) {
        phases.wait(SCAN, column_groups);
        ticket < params.tiles ? place(params, ticket, shared) : tile_rows(params, shared);
        phases.finish(PLACE);
        return;
    }
    ticket -= params.tiles + 1;
    if (chooses(params)) {
        if (ticket < params.experts) {
            phases.wait(PLACE, params.tiles + 1);
            choose(params, ticket);
            phases.finish(CHOOSE);
            return;
        }
        ticket -= params.experts;
        phases.wait(CHOOSE, params.experts);
    } else {
        phases.wait(PLACE, params.tiles + 1);
    }
    scale(params, ticket);
}
