// One token through the router, forward and backward, by a warp. What it computes is src/cpu/router.rs, operation for operation:
// ids and weights are the same bits.
//
// Element e of a row belongs to lane e mod 32. Rows live in registers where E is small, else in shared memory; the code is
// the same, `row[j]` is this lane's element j·32 + lane.
#pragma once
#include "../params.h"
#include "numeric.cuh"

namespace millet {

constexpr float SIGMOID_EPSILON = 1e-20f;
constexpr int SLOT_ROUNDS = 2;

__device__ __forceinline__ int lane_id() { return threadIdx.x % WARP; }
__device__ __forceinline__ bool is_nan(float v) { return v != v; }
__device__ __forceinline__ float comparable(float v) {
    return is_nan(v) ? -infinity() : v > LARGEST ? LARGEST : v;
}

// A row of at most 32·N elements in registers.
template <typename T, int N> struct RegisterRow {
    T v[N];
    __device__ explicit RegisterRow(int, T *) {}
    __device__ static constexpr int rounds() { return N; }
    __device__ T &operator[](int j) { return v[j]; }
    // `v[j]` for a j that is not known when compiling.
    __device__ T at(int j) const {
        T result = v[0];
#pragma unroll
        for (int i = 1; i < N; ++i) result = i == j ? v[i] : result;
        return result;
    }
};

// A row in shared memory.
template <typename T> struct SharedRow {
    T *row;
    int n;
    __device__ SharedRow(int experts, T *memory) : row(&memory[lane_id()]), n((experts + WARP - 1) / WARP) {}
    __device__ int rounds() const { return n; }
    __device__ T &operator[](int j) { return row[j * WARP]; }
    __device__ T at(int j) const { return row[j * WARP]; }
};

// The loop over a lane's elements: `j` and its expert `e`, which may be beyond the last.
#define MILLET_FOR_ROW(row, j, e) \
    _Pragma("unroll") for (int j = 0, e = lane_id(); j < (row).rounds(); ++j, e += WARP)

// This lane's slots: `lane` and `lane + 32`.
template <typename T> struct SlotRow {
    static_assert(MILLET_MAX_TOP_K == 2 * WARP, "two slots a lane");
    T v[2];
    // A branch, not an index: the slots stay in registers.
    __device__ T broadcast(int slot) const {
        if (slot < WARP) return __shfl_sync(ALL_LANES, v[0], slot);
        return __shfl_sync(ALL_LANES, v[1], slot - WARP);
    }
};

#define MILLET_FOR_SLOTS(i, slot, top_k)                                                   \
    _Pragma("unroll") for (int i = 0, slot = lane_id(); i < SLOT_ROUNDS; ++i, slot += WARP) \
        if (i == 0 || (top_k) > WARP)

// Shared memory of one warp while it routes.
struct RouteSpace {
    // [E] keys where groups limit the selection, [G] groups' scores and [⌈G/32⌉] which groups are out.
    uint32_t *keys;
    float *group_scores;
    uint32_t *group_out;
    // [MILLET_MAX_TOP_K] each, where slots are put in order.
    int32_t *ids;
    float *weights;
};

// Sums over the good rows that a warp has routed. The last two are this lane's part.
struct RouteSums {
    float z = 0.0f;
    float bad = 0.0f;
    float top1 = 0.0f;
    float entropy = 0.0f;
    SlotRow<float> weights = {};
};

// Groups that are not among the best: their keys become 0, below every score. `space.keys` holds the keys.
__device__ inline void mark_groups(const MilletRouter &r, const RouteSpace &space) {
    int size = r.experts / r.groups;
    for (int group = lane_id(); group < r.groups; group += WARP) {
        float first = -infinity(), second = -infinity();
        for (int i = 0; i < size; ++i) {
            float score = from_order_key(space.keys[group * size + i]);
            if (score > first) {
                second = first;
                first = score;
            } else if (score > second) {
                second = score;
            }
        }
        bool two = r.score_function == MILLET_SIGMOID && size > 1;
        space.group_scores[group] = two ? comparable(first + second) : first;
    }
    __syncwarp();
    for (int start = 0; start < r.groups; start += WARP) {
        int group = start + lane_id();
        bool out = false;
        if (group < r.groups) {
            float own = space.group_scores[group];
            int better = 0;
            for (int other = 0; other < r.groups; ++other) {
                float score = space.group_scores[other];
                better += score > own || (score == own && other < group);
            }
            out = better >= r.selected_groups;
        }
        unsigned mask = __ballot_sync(ALL_LANES, out);
        if (lane_id() == 0) space.group_out[start / WARP] = mask;
    }
    __syncwarp();
}

// Slots by (weight descending, expert ascending).
__device__ inline void sort_slots(int top_k, const RouteSpace &space, SlotRow<int> &ids, SlotRow<float> &weights) {
    int rank[SLOT_ROUNDS] = {};
    for (int other = 0; other < top_k; ++other) {
        float weight = weights.broadcast(other);
        int id = ids.broadcast(other);
        MILLET_FOR_SLOTS(i, slot, top_k) {
            rank[i] += weight > weights.v[i] || (weight == weights.v[i] && id < ids.v[i]);
        }
    }
    MILLET_FOR_SLOTS(i, slot, top_k) {
        if (slot < top_k) {
            space.ids[rank[i]] = ids.v[i];
            space.weights[rank[i]] = weights.v[i];
        }
    }
    __syncwarp();
    MILLET_FOR_SLOTS(i, slot, top_k) {
        if (slot < top_k) {
            ids.v[i] = space.ids[slot];
            weights.v[i] = space.weights[slot];
        }
    }
    __syncwarp();
}

// A masked expert that was picked, for want of others, takes no row: its slot becomes a sentinel.
template <typename Floats> __device__ __forceinline__ void leave_out_masked(int top_k, const Floats &z, SlotRow<int> &ids) {
    for (int slot = 0; slot < top_k; ++slot) {
        const int id = ids.broadcast(slot);
        const float logit = __shfl_sync(ALL_LANES, z.at(id / WARP), id % WARP);
        MILLET_FOR_SLOTS(i, own, top_k) {
            if (own == slot && logit == -infinity()) ids.v[i] = -1;
        }
    }
}

// Routes the row of logits `z`: K experts and weights, this lane's slots of them; lse, NaN for a bad row. Adds to `sums`, and
// the probabilities to `total`. `p` and `key` are space.
template <typename Floats, typename Keys>
__device__ __forceinline__ float route(const MilletRouter &r, const float *bias, Floats &z, Floats &p, Keys &key, Floats &total,
                                       const RouteSpace &space, RouteSums &sums, SlotRow<int> &ids, SlotRow<float> &weights) {
    const int experts = r.experts, top_k = r.top_k;
    const bool sigmoids = r.score_function == MILLET_SIGMOID;

    // Every value becomes comparable; a row with nothing finite becomes one of zeros.
    bool bad = false, finite = false, masks = false;
    MILLET_FOR_ROW(z, j, e) {
        float v = z[j];
        if (e < experts) {
            bad |= is_nan(v) || v > LARGEST;
            v = comparable(v);
            finite |= v > -infinity();
            masks |= v == -infinity();
            z[j] = v;
        }
    }
    bad = __any_sync(ALL_LANES, bad);
    finite = __any_sync(ALL_LANES, finite);
    if (!finite) {
        bad = true;
        MILLET_FOR_ROW(z, j, e) z[j] = 0.0f;
    }

    float max = -infinity();
    MILLET_FOR_ROW(z, j, e) {
        if (e < experts) max = fmaxf(max, z[j]);
    }
    max = warp_max(max);
    float sum = 0.0f;
    MILLET_FOR_ROW(z, j, e) {
        p[j] = e < experts ? exponential(z[j] - max) : 0.0f;
        sum += p[j];
    }
    sum = warp_sum(sum);
    const float log_sum = logf(sum);
    const float lse = max + log_sum;

    // Scores, as keys: 0 is below every score.
    float normalizer = sum;
    if (sigmoids) {
        float part = 0.0f;
        MILLET_FOR_ROW(z, j, e) {
            uint32_t k = 0;
            float own = 0.0f;
            if (e < experts) {
                own = sigmoid(z[j]);
                float score = bias != nullptr ? comparable(own + __ldg(&bias[e])) : own;
                // A masked expert stays masked whatever its bias.
                k = order_key(z[j] > -infinity() ? score : -infinity());
            }
            p[j] = own;
            part += own;
            key[j] = k;
        }
        normalizer = warp_sum(part) + SIGMOID_EPSILON;
    } else {
        MILLET_FOR_ROW(z, j, e) key[j] = e < experts ? order_key(z[j]) : 0u;
    }
    if (r.groups > 0) {
        MILLET_FOR_ROW(key, j, e) {
            if (e < experts) space.keys[e] = key[j];
        }
        __syncwarp();
        mark_groups(r, space);
        int size = experts / r.groups;
        MILLET_FOR_ROW(key, j, e) {
            int group = e < experts ? e / size : 0;
            if (e >= experts || (space.group_out[group / WARP] >> group % WARP & 1) != 0) key[j] = 0;
        }
        __syncwarp();
    }

    // K times the best key, the lowest expert among equals. A lane keeps the best of its own; only the winner looks again.
    uint32_t best = 0;
    int at = 0;
    MILLET_FOR_ROW(key, j, e) {
        if (key[j] > best) {
            best = key[j];
            at = j;
        }
    }
    SlotRow<uint32_t> keys = {};
#pragma unroll
    for (int i = 0; i < SLOT_ROUNDS; ++i) {
        for (int slot = 0; slot < min(WARP, top_k - i * WARP); ++slot) {
            uint32_t top = __reduce_max_sync(ALL_LANES, best);
            unsigned own = at * WARP + lane_id();
            unsigned expert = __reduce_min_sync(ALL_LANES, best == top ? own : ~0u);
            float score = bias != nullptr ? __shfl_sync(ALL_LANES, p.at(at), expert % WARP) : 0.0f;
            if (slot == lane_id()) {
                ids.v[i] = static_cast<int>(expert);
                keys.v[i] = top;
                weights.v[i] = score;
            }
            if (own == expert && best == top) {
                const int taken = at;
                best = 0;
                MILLET_FOR_ROW(key, j, e) {
                    if (j == taken) key[j] = 0;
                    if (key[j] > best) {
                        best = key[j];
                        at = j;
                    }
                }
            }
        }
    }

    // Their values, not normalised yet; a key is the value it was made of.
    float top = from_order_key(keys.broadcast(0));
    MILLET_FOR_SLOTS(i, slot, top_k) {
        float value = from_order_key(keys.v[i]);
        if (sigmoids) {
            if (bias == nullptr) weights.v[i] = value > -infinity() ? value : 0.0f;
        } else if (r.score_function == MILLET_SOFTMAX_BEFORE_TOP_K) {
            weights.v[i] = exponential(value - max);
        } else {
            // All masked, in the groups that were selected: equal weights.
            weights.v[i] = top > -infinity() ? exponential(value - top) : 1.0f;
        }
    }
    // Slots go by weight, and the bias is not part of it.
    if (bias != nullptr) sort_slots(top_k, space, ids, weights);

    float part = 0.0f;
    MILLET_FOR_SLOTS(i, slot, top_k) {
        if (slot >= top_k) weights.v[i] = 0.0f;
        part += weights.v[i];
    }
    float divisor = normalizer;
    if (r.score_function == MILLET_SOFTMAX_AFTER_TOP_K) divisor = warp_sum(part);
    if (sigmoids) divisor = top_k > 1 ? warp_sum(part) + SIGMOID_EPSILON : 1.0f;
    part = 0.0f;
    MILLET_FOR_SLOTS(i, slot, top_k) {
        weights.v[i] = weights.v[i] / divisor * r.scaling_factor;
        part += weights.v[i];
    }

    if (bad) {
        sums.bad += 1.0f;
        return not_a_number();
    }
    if (__any_sync(ALL_LANES, masks)) leave_out_masked(top_k, z, ids);
    float weight_sum = warp_sum(part);
    MILLET_FOR_ROW(p, j, e) {
        float probability = p[j] / normalizer;
        total[j] += probability;
        if (probability > 0.0f) {
            float log_probability = sigmoids ? logf(probability) : z[j] - max - log_sum;
            sums.entropy -= probability * log_probability;
        }
    }
    sums.z += lse * lse;
    if (weight_sum > 0.0f) sums.top1 += weights.broadcast(0) / weight_sum;
    MILLET_FOR_SLOTS(i, slot, top_k) sums.weights.v[i] += weights.v[i];
    return lse;
}

// The gradient of one row's logits `z` [E], into global memory. `p` and `picked` are rows of shared memory of this warp.
__device__ inline void route_backward(const MilletRouterBackward &b, int64_t token, const float *z, float *p, float *picked) {
    const MilletRouter &r = b.router;
    const int experts = r.experts, top_k = r.top_k;
    float *grad = &b.logits_grad[token * experts];
    const float lse = b.lse[token];
    if (is_nan(lse)) {  // a bad row has no gradient
        for (int e = lane_id(); e < experts; e += WARP) grad[e] = 0.0f;
        return;
    }
    const bool sigmoids = r.score_function == MILLET_SIGMOID;
    const bool losses = b.aux != 0.0f || b.z != 0.0f;
    // Are the weights entries of the full softmax (or do they pretend to be, straight-through)?
    const bool full = !r.renormalized && (r.score_function == MILLET_SOFTMAX_BEFORE_TOP_K || r.straight_through);

    // p = e^(z − max)/Σ, not e^(z − lse): lse has lost ln Σ where the logits are large.
    if (full || losses) {
        float max = -infinity();
        for (int e = lane_id(); e < experts; e += WARP) max = fmaxf(max, z[e]);
        max = warp_max(max);
        float sum = 0.0f;
        for (int e = lane_id(); e < experts; e += WARP) {
            p[e] = exponential(z[e] - max);
            sum += p[e];
        }
        sum = warp_sum(sum);
        for (int e = lane_id(); e < experts; e += WARP) p[e] = p[e] / sum;
    }
    for (int e = lane_id(); e < experts; e += WARP) picked[e] = 0.0f;
    __syncwarp();

    // What each slot adds to its expert; sentinels take part in nothing, nor does a weight of 0, whatever its gradient.
    SlotRow<int> ids = {};
    SlotRow<float> value = {};
    float part = 0.0f;
    MILLET_FOR_SLOTS(i, slot, top_k) {
        ids.v[i] = slot < top_k ? b.ids[token * top_k + slot] : -1;
        if (ids.v[i] < 0 || ids.v[i] >= experts || b.weights[token * top_k + slot] == 0.0f) {
            ids.v[i] = -1;
            continue;
        }
        float g = b.weights_grad[token * top_k + slot];
        if (full) {
            value.v[i] = p[ids.v[i]] * (g * r.scaling_factor);
            part += value.v[i];
        } else {
            part += b.weights[token * top_k + slot] / r.scaling_factor * g;
        }
    }
    // Weights are normalised over the picked, unless a sigmoid is alone.
    float mean = sigmoids && top_k == 1 ? 0.0f : warp_sum(part);
    if (!full) {
        MILLET_FOR_SLOTS(i, slot, top_k) {
            if (ids.v[i] < 0) continue;
            float g = b.weights_grad[token * top_k + slot];
            float slope = sigmoids ? 1.0f - sigmoid(z[ids.v[i]]) : 1.0f;
            value.v[i] = b.weights[token * top_k + slot] * (g - mean) * slope;
        }
    }
    for (int slot = 0; slot < top_k; ++slot) {
        int id = ids.broadcast(slot);
        float add = value.broadcast(slot);
        // A lane owns the elements that it reads below.
        if (id >= 0 && id % WARP == lane_id()) picked[id] += add;
    }

    // Balance: p_j·slope_j·(v_j − Σ p·v) with v = aux·n; p is a softmax, or σ/Σσ.
    float sigma_sum = 1.0f, balance = 0.0f;
    if (losses && sigmoids) {
        float sum = 0.0f;
        for (int e = lane_id(); e < experts; e += WARP) sum += sigmoid(z[e]);
        sigma_sum = warp_sum(sum) + SIGMOID_EPSILON;
    }
    if (losses) {
        float sum = 0.0f;
        for (int e = lane_id(); e < experts; e += WARP) {
            float share = sigmoids ? sigmoid(z[e]) / sigma_sum : p[e];
            sum += share * (b.aux * static_cast<float>(__ldg(&b.counts[e])));
        }
        balance = warp_sum(sum);
    }
    for (int e = lane_id(); e < experts; e += WARP) {
        float g = full ? -(p[e] * mean) : 0.0f;
        g += picked[e];
        if (losses) {
            g += b.z * lse * p[e];
            float value = b.aux * static_cast<float>(__ldg(&b.counts[e])) - balance;
            if (sigmoids) {
                float s = sigmoid(z[e]);
                g += s / sigma_sum * (1.0f - s) * value;
            } else {
                g += p[e] * value;
            }
        }
        grad[e] = g;
    }
    __syncwarp();
}

}  // namespace millet
