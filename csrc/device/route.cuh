// One token through the router, forward and backward, by a warp. What it computes is src/cpu/router.rs, operation for
// operation: ids and weights are the same bits.
//
// Element e of a row belongs to lane e mod 32. Rows live in registers where E is small, else in shared memory; the code
// is the same, `row[j]` is this lane's element j·32 + lane.
#pragma once
#include "../params.h"
#include "numeric.cuh"

namespace millet {

constexpr float SIGMOID_EPSILON = 1e-20f;
// How far rounding may take the sum of up to 64 weights from 1.
constexpr float SUM_ROUNDING = 4e-6f;
constexpr int SLOT_ROUNDS = 2;
static_assert(MILLET_MAX_TOP_K == SLOT_ROUNDS * WARP, "a lane has a slot per round");

__device__ __forceinline__ int lane_id() { return threadIdx.x % WARP; }
__device__ __forceinline__ bool is_nan(float value) { return value != value; }
__device__ __forceinline__ float comparable(float value) {
    return is_nan(value) ? -infinity() : value > LARGEST ? LARGEST : value;
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
    // The row where every lane can read it: copied to `space`.
    __device__ const T *share(int experts, T *space) const {
        __syncwarp();
#pragma unroll
        for (int i = 0; i < N; ++i) {
            int e = i * WARP + lane_id();
            if (e < experts) space[e] = v[i];
        }
        __syncwarp();
        return space;
    }
};

template <typename T> using Row128 = RegisterRow<T, 4>;
template <typename T> using Row256 = RegisterRow<T, 8>;
template <typename T> using Row512 = RegisterRow<T, 16>;

// A row in shared memory.
template <typename T> struct SharedRow {
    T *row;
    int n;
    __device__ SharedRow(int experts, T *memory) : row(&memory[lane_id()]), n((experts + WARP - 1) / WARP) {}
    __device__ int rounds() const { return n; }
    __device__ T &operator[](int j) { return row[j * WARP]; }
    __device__ T at(int j) const { return row[j * WARP]; }
    __device__ const T *share(int, T *) const {
        __syncwarp();
        return row - lane_id();
    }
};

// The loop over a lane's elements: `j` and its expert `e`, which may be beyond the last.
#define MILLET_FOR_ROW(row, j, e) _Pragma("unroll") for (int j = 0, e = lane_id(); j < (row).rounds(); ++j, e += WARP)

// This lane's slots: `lane` and `lane + 32`.
template <typename T> struct SlotRow {
    T v[SLOT_ROUNDS];
    // A branch, not an index: the slots stay in registers.
    __device__ T broadcast(int slot) const {
        if (slot < WARP) return __shfl_sync(ALL_LANES, v[0], slot);
        return __shfl_sync(ALL_LANES, v[1], slot - WARP);
    }
};

// clang-format off
#define MILLET_FOR_SLOTS(i, slot, top_k)                                                   \
    _Pragma("unroll") for (int i = 0, slot = lane_id(); i < SLOT_ROUNDS; ++i, slot += WARP) \
        if (i == 0 || (top_k) > WARP)
// clang-format on

// Shared memory of one warp while it routes.
struct RouteSpace {
    // [E] keys where groups limit the selection, [G] groups' scores and their tie-breakers, and [⌈G/32⌉] bits of the
    // groups that are out.
    uint32_t *keys;
    float *group_scores;
    float *group_lacks;
    uint32_t *group_out;
    // [MILLET_MAX_TOP_K] each, where slots are put in order.
    int32_t *ids;
    float *logits;
};

// Sums over the good rows that a warp has routed. The last two are this lane's part.
struct RouteSums {
    float z = 0.0f;
    float bad = 0.0f;
    float top1 = 0.0f;
    float entropy = 0.0f;
    SlotRow<float> weights = {};
};

// The two highest of some values.
struct TwoBest {
    float first = -infinity(), second = -infinity();
    template <typename Value> __device__ TwoBest(int count, Value value) {
        for (int i = 0; i < count; ++i) {
            float v = value(i);
            if (v > first) {
                second = first;
                first = v;
            } else if (v > second) {
                second = v;
            }
        }
    }
};

// Marks the groups that are not among the best; true where two groups' scores are equal. Those go by the lower lack
// where it is asked for, then by the lower group.
__device__ inline bool mark_groups(const MilletRouter &router, const RouteSpace &space, bool by_lack) {
    bool equal = false;
    for (int start = 0; start < router.groups; start += WARP) {
        int group = start + lane_id();
        bool out = false;
        if (group < router.groups) {
            float own = space.group_scores[group];
            int better = 0;
            for (int other = 0; other < router.groups; ++other) {
                float score = space.group_scores[other];
                bool before = other < group;
                if (score == own && other != group) {
                    equal = true;
                    float theirs = by_lack ? space.group_lacks[other] : 0.0f,
                          ours = by_lack ? space.group_lacks[group] : 0.0f;
                    if (theirs != ours) before = theirs < ours;
                }
                better += score > own || (score == own && before);
            }
            out = better >= router.selected_groups;
        }
        unsigned mask = __ballot_sync(ALL_LANES, out);
        if (lane_id() == 0) space.group_out[start / WARP] = mask;
    }
    __syncwarp();
    return __any_sync(ALL_LANES, equal);
}

// Groups that are not among the best: their keys become 0, below every score.
template <typename Floats, typename Keys>
__device__ __forceinline__ void limit_groups(const MilletRouter &router, bool biased, const Floats &logits, Keys &key,
                                             const RouteSpace &space) {
    const bool sigmoids = router.score_function == MILLET_SIGMOID;
    const int experts = router.experts, size = experts / router.groups;
    const uint32_t *keys = key.share(experts, space.keys);
    for (int group = lane_id(); group < router.groups; group += WARP) {
        TwoBest best(size, [&](int i) { return from_order_key(keys[group * size + i]); });
        // Without a bias these are logits.
        auto score = [&](float best) { return !biased && best > -infinity() ? sigmoid(best) : best; };
        space.group_scores[group] = sigmoids ? comparable(score(best.first) + score(best.second)) : best.first;
    }
    __syncwarp();
    if (mark_groups(router, space, false) && sigmoids) {
        // Equal sums of sigmoids go by what the two highest lack of 1, which tells saturated ones apart.
        const float *row = logits.share(experts, reinterpret_cast<float *>(space.keys));
        for (int group = lane_id(); group < router.groups; group += WARP) {
            TwoBest best(size, [&](int i) { return row[group * size + i]; });
            space.group_lacks[group] = sigmoid(-best.first) + sigmoid(-best.second);
        }
        __syncwarp();
        mark_groups(router, space, true);
    }
    MILLET_FOR_ROW(key, j, e) {
        int group = e < experts ? e / size : 0;
        if (e >= experts || (space.group_out[group / WARP] >> group % WARP & 1) != 0) key[j] = 0;
    }
    __syncwarp();
}

// The highest of this lane's keys, at round `at`; of equal keys that of the higher logit, which only a bias can tell
// apart.
template <typename Floats, typename Keys>
__device__ __forceinline__ uint32_t best_key(bool biased, Floats &logits, Keys &key, int &at) {
    uint32_t best = 0;
    if (!biased) {
        MILLET_FOR_ROW(key, j, e) {
            if (key[j] > best) {
                best = key[j];
                at = j;
            }
        }
        return best;
    }
    float logit = -infinity();
    MILLET_FOR_ROW(key, j, e) {
        if (key[j] > best || (key[j] != 0 && key[j] == best && logits[j] > logit)) {
            best = key[j];
            logit = logits[j];
            at = j;
        }
    }
    return best;
}

// Slots by (logit descending, expert ascending): by weight, which never falls where the logit rises.
__device__ inline void sort_slots(int top_k, const RouteSpace &space, SlotRow<int> &ids, SlotRow<float> &logits) {
    int rank[SLOT_ROUNDS] = {};
    for (int other = 0; other < top_k; ++other) {
        float logit = logits.broadcast(other);
        int id = ids.broadcast(other);
        MILLET_FOR_SLOTS(i, slot, top_k) {
            rank[i] += logit > logits.v[i] || (logit == logits.v[i] && id < ids.v[i]);
        }
    }
    MILLET_FOR_SLOTS(i, slot, top_k) {
        if (slot < top_k) {
            space.ids[rank[i]] = ids.v[i];
            space.logits[rank[i]] = logits.v[i];
        }
    }
    __syncwarp();
    MILLET_FOR_SLOTS(i, slot, top_k) {
        if (slot < top_k) {
            ids.v[i] = space.ids[slot];
            logits.v[i] = space.logits[slot];
        }
    }
    __syncwarp();
}

// A masked expert that was selected for want of others takes no row: its slot becomes a sentinel.
template <typename Floats>
__device__ __forceinline__ void leave_out_masked(int top_k, const Floats &logits, SlotRow<int> &ids) {
    for (int slot = 0; slot < top_k; ++slot) {
        const int id = ids.broadcast(slot);
        const float logit = __shfl_sync(ALL_LANES, logits.at(id / WARP), id % WARP);
        MILLET_FOR_SLOTS(i, own, top_k) {
            if (own == slot && logit == -infinity()) ids.v[i] = -1;
        }
    }
}

// Routes the row of logits `logits`: K experts and weights, this lane's slots of them; lse, NaN for a bad row. Adds to
// `sums`, and the probabilities to `total`. `probabilities` and `key` are space.
template <typename Floats, typename Keys>
__device__ __forceinline__ float route(const MilletRouter &router, const float *bias, Floats &logits,
                                       Floats &probabilities, Keys &key, Floats &total, const RouteSpace &space,
                                       RouteSums &sums, SlotRow<int> &ids, SlotRow<float> &weights) {
    const int experts = router.experts, top_k = router.top_k;
    const bool sigmoids = router.score_function == MILLET_SIGMOID, biased = bias != nullptr;

    // Every value becomes comparable; a row with nothing finite becomes one of zeros.
    bool bad = false, finite = false;
    MILLET_FOR_ROW(logits, j, e) {
        float v = logits[j];
        if (e < experts) {
            bad |= is_nan(v) || v > LARGEST;
            v = comparable(v);
            finite |= v > -infinity();
            logits[j] = v;
        }
    }
    bad = __any_sync(ALL_LANES, bad);
    finite = __any_sync(ALL_LANES, finite);
    if (!finite) {
        bad = true;
        MILLET_FOR_ROW(logits, j, e) logits[j] = 0.0f;
    }

    float max = -infinity();
    MILLET_FOR_ROW(logits, j, e) {
        if (e < experts) max = fmaxf(max, logits[j]);
    }
    max = warp_max(max);
    float sum = 0.0f;
    MILLET_FOR_ROW(logits, j, e) {
        probabilities[j] = e < experts ? exponential(logits[j] - max) : 0.0f;
        sum += probabilities[j];
    }
    sum = warp_sum(sum);
    const float log_sum = logf(sum);
    const float lse = max + log_sum;

    // Scores, as keys: 0 is below every score.
    float normalizer = sum;
    if (sigmoids) {
        float part = 0.0f;
        MILLET_FOR_ROW(logits, j, e) {
            uint32_t k = 0;
            float own = 0.0f;
            if (e < experts) {
                own = sigmoid(logits[j]);
                // Without a bias scores are compared as logits, which do not saturate. A masked expert stays masked
                // whatever its bias.
                float score = logits[j];
                if (biased && score > -infinity()) score = comparable(own + __ldg(&bias[e]));
                k = order_key(score);
            }
            probabilities[j] = own;
            part += own;
            key[j] = k;
        }
        normalizer = warp_sum(part) + SIGMOID_EPSILON;
    } else {
        MILLET_FOR_ROW(logits, j, e) key[j] = e < experts ? order_key(logits[j]) : 0u;
    }
    if (router.groups > 0) limit_groups(router, biased, logits, key, space);

    // K times the best key, among equals the higher logit, then the lowest expert. A lane keeps the best of its own;
    // only the winner looks again. Slots get the logits.
    int at = 0;
    uint32_t best = best_key(biased, logits, key, at);
#pragma unroll
    for (int i = 0; i < SLOT_ROUNDS; ++i) {
        for (int slot = 0; slot < min(WARP, top_k - i * WARP); ++slot) {
            uint32_t top = __reduce_max_sync(ALL_LANES, best);
            bool winner = best == top;
            if (biased && __popc(__ballot_sync(ALL_LANES, winner)) > 1) {
                uint32_t logit = winner ? order_key(logits.at(at)) : 0;
                const uint32_t highest = __reduce_max_sync(ALL_LANES, logit);
                winner = winner && logit == highest;
            }
            unsigned own = at * WARP + lane_id();
            unsigned expert = __reduce_min_sync(ALL_LANES, winner ? own : ~0u);
            float logit = biased ? __shfl_sync(ALL_LANES, logits.at(at), expert % WARP) : from_order_key(top);
            if (slot == lane_id()) {
                ids.v[i] = static_cast<int>(expert);
                weights.v[i] = logit;
            }
            if (winner && own == expert) {
                const int taken = at;
                MILLET_FOR_ROW(key, j, e) {
                    if (j == taken) key[j] = 0;
                }
                best = best_key(biased, logits, key, at);
            }
        }
    }
    // Slots go by weight, and the bias is not part of it.
    if (biased) sort_slots(top_k, space, ids, weights);

    // Their weights, not normalised yet.
    const float top = weights.broadcast(0);
    MILLET_FOR_SLOTS(i, slot, top_k) {
        float logit = weights.v[i];
        if (sigmoids) {
            weights.v[i] = sigmoid(logit);
        } else if (router.score_function == MILLET_SOFTMAX_BEFORE_TOP_K) {
            weights.v[i] = exponential(logit - max);
        } else {
            // All masked, in the groups that were selected: equal weights.
            weights.v[i] = top > -infinity() ? exponential(logit - top) : 1.0f;
        }
    }

    float part = 0.0f;
    MILLET_FOR_SLOTS(i, slot, top_k) {
        if (slot >= top_k) weights.v[i] = 0.0f;
        part += weights.v[i];
    }
    float divisor = normalizer;
    if (router.score_function == MILLET_SOFTMAX_AFTER_TOP_K) divisor = warp_sum(part);
    if (sigmoids) divisor = top_k > 1 ? warp_sum(part) + SIGMOID_EPSILON : 1.0f;
    part = 0.0f;
    MILLET_FOR_SLOTS(i, slot, top_k) {
        weights.v[i] = weights.v[i] / divisor * router.scaling_factor;
        part += weights.v[i];
    }

    if (bad) {
        sums.bad += 1.0f;
        return not_a_number();
    }
    // A masked expert has a weight of 0; few others have.
    bool zero = false;
    MILLET_FOR_SLOTS(i, slot, top_k) zero |= slot < top_k && weights.v[i] == 0.0f;
    if (__any_sync(ALL_LANES, zero)) leave_out_masked(top_k, logits, ids);
    float weight_sum = warp_sum(part);
    MILLET_FOR_ROW(probabilities, j, e) {
        float probability = probabilities[j] / normalizer;
        total[j] += probability;
        if (probability > 0.0f) {
            float log_probability = sigmoids ? logf(probability) : logits[j] - max - log_sum;
            sums.entropy -= probability * log_probability;
        }
    }
    sums.z += lse * lse;
    if (weight_sum > 0.0f) sums.top1 += weights.broadcast(0) / weight_sum;
    MILLET_FOR_SLOTS(i, slot, top_k) sums.weights.v[i] += weights.v[i];
    return lse;
}

// weight·value, 0 where the weight is not above 0.
__device__ __forceinline__ float weighed_positive(float weight, float value) {
    return weight > 0.0f ? weight * value : 0.0f;
}

// The gradient of one row's `logits` [E], into global memory. `probabilities` and `picked` are rows of shared memory of
// this warp.
//
// Each part is w_i·(v_i − Σ w·v). Where one weight is nearly 1 its two terms are nearly equal, so every v is taken
// relative to that of the heaviest, whose own term is then exactly 0. A weight of 0 is left out, whatever its v.
__device__ inline void route_backward(const MilletRouterBackward &params, int64_t token, const float *logits,
                                      float *probabilities, float *picked) {
    const MilletRouter &router = params.router;
    const int experts = router.experts, top_k = router.top_k;
    float *grad = &params.logits_grad[token * experts];
    const float lse = params.lse[token];
    if (is_nan(lse)) {  // a bad row has no gradient
        for (int e = lane_id(); e < experts; e += WARP) grad[e] = 0.0f;
        return;
    }
    const bool sigmoids = router.score_function == MILLET_SIGMOID;
    const bool losses = params.aux != 0.0f || params.z != 0.0f;
    // Are the weights entries of the full softmax (or do they pretend to be, straight-through)?
    const bool full =
        !router.renormalized && (router.score_function == MILLET_SOFTMAX_BEFORE_TOP_K || router.straight_through);

    // p = e^(z − max)/Σ, not e^(z − lse): lse has lost ln Σ where the logits are large. And the most probable expert.
    unsigned most_probable = 0;
    if (full || losses) {
        float max = -infinity();
        for (int e = lane_id(); e < experts; e += WARP) max = fmaxf(max, logits[e]);
        max = warp_max(max);
        float sum = 0.0f;
        unsigned at = ~0u;
        for (int e = lane_id(); e < experts; e += WARP) {
            if (logits[e] == max) at = min(at, static_cast<unsigned>(e));
            probabilities[e] = exponential(logits[e] - max);
            sum += probabilities[e];
        }
        sum = warp_sum(sum);
        most_probable = __reduce_min_sync(ALL_LANES, at);
        // A row without a greatest logit, whose lse is the caller's: all of it is NaN, whichever expert is named.
        if (most_probable == ~0u) most_probable = 0;
        for (int e = lane_id(); e < experts; e += WARP) probabilities[e] = probabilities[e] / sum;
    }
    for (int e = lane_id(); e < experts; e += WARP) picked[e] = 0.0f;
    __syncwarp();

    // The slots' gradients; sentinels take part in nothing.
    SlotRow<int> ids = {};
    SlotRow<float> weights = {}, value = {};
    SlotRow<unsigned> heavy = {};
    bool sentinel = false;
    MILLET_FOR_SLOTS(i, slot, top_k) {
        ids.v[i] = -1;
        if (slot < top_k) {
            ids.v[i] = params.ids[token * top_k + slot];
            if (static_cast<uint32_t>(ids.v[i]) >= static_cast<uint32_t>(experts)) {
                ids.v[i] = -1;
                sentinel = true;
            } else {
                weights.v[i] = params.weights[token * top_k + slot];
                value.v[i] = params.weights_grad[token * top_k + slot];
            }
        }
        heavy.v[i] = __ballot_sync(ALL_LANES, weights.v[i] > 0.0f);
    }
    if (full) {
        MILLET_FOR_SLOTS(i, slot, top_k) value.v[i] *= router.scaling_factor;
    } else {
        // Weights are normalised over the selected experts, unless a sigmoid is alone.
        const bool alone = sigmoids && top_k == 1;
        const int first = heavy.v[0] != 0 ? __ffs(heavy.v[0]) - 1 : WARP + __ffs(heavy.v[1]) - 1;
        const bool relative = !alone && (heavy.v[0] | heavy.v[1]) != 0;
        const float reference = relative ? value.broadcast(first) : 0.0f;
        float part = 0.0f, share = 0.0f, sigma = 0.0f;
        MILLET_FOR_SLOTS(i, slot, top_k) {
            if (ids.v[i] < 0) continue;
            part += weighed_positive(weights.v[i] / router.scaling_factor, value.v[i] - reference);
            share += weights.v[i] / router.scaling_factor;
            if (sigmoids) sigma += sigmoid(logits[ids.v[i]]);
        }
        float mean = alone ? 0.0f : warp_sum(part);
        if (!alone && !router.renormalized) {
            // How far the weights' sum is below 1: the share of a sentinel that had been selected (an empty slot has
            // none), or of the epsilon.
            float missing = __any_sync(ALL_LANES, sentinel) ? 1.0f - warp_sum(share) : 0.0f;
            if (missing <= SUM_ROUNDING)
                missing = sigmoids ? SIGMOID_EPSILON / (warp_sum(sigma) + SIGMOID_EPSILON) : 0.0f;
            mean += -(reference * missing);
        }
        MILLET_FOR_SLOTS(i, slot, top_k) {
            if (ids.v[i] < 0) continue;
            float slope = sigmoids ? sigmoid(-logits[ids.v[i]]) : 1.0f;
            value.v[i] = weighed_positive(weights.v[i], value.v[i] - reference - mean) * slope;
        }
    }
    for (int slot = 0; slot < top_k; ++slot) {
        int id = ids.broadcast(slot);
        float add = value.broadcast(slot);
        // A lane owns the elements that it reads below.
        if (id >= 0 && id % WARP == lane_id()) picked[id] += add;
    }
    if (full) {
        const unsigned owner = most_probable % WARP;
        const float reference = __shfl_sync(ALL_LANES, owner == lane_id() ? picked[most_probable] : 0.0f, owner);
        float part = 0.0f;
        for (int e = lane_id(); e < experts; e += WARP)
            part += weighed_positive(probabilities[e], picked[e] - reference);
        const float mean = warp_sum(part);
        for (int e = lane_id(); e < experts; e += WARP)
            picked[e] = weighed_positive(probabilities[e], picked[e] - reference - mean);
    }

    // Balance: p_j·slope_j·(v_j − Σ p·v) with v = aux·n; p is a softmax, or σ/Σσ.
    float sigma_sum = 1.0f, balance = 0.0f;
    int reference_count = 0;
    if (losses && sigmoids) {
        float sum = 0.0f;
        for (int e = lane_id(); e < experts; e += WARP) sum += sigmoid(logits[e]);
        sigma_sum = warp_sum(sum) + SIGMOID_EPSILON;
    }
    auto relative = [&](int expert) {
        return params.aux * static_cast<float>(__ldg(&params.counts[expert]) - reference_count);
    };
    if (losses) {
        reference_count = __ldg(&params.counts[most_probable]);
        float sum = 0.0f;
        for (int e = lane_id(); e < experts; e += WARP) {
            float share = sigmoids ? sigmoid(logits[e]) / sigma_sum : probabilities[e];
            sum += share * relative(e);
        }
        const float rest = sigmoids ? SIGMOID_EPSILON / sigma_sum : 0.0f;
        balance = warp_sum(sum) - params.aux * static_cast<float>(reference_count) * rest;
    }
    for (int e = lane_id(); e < experts; e += WARP) {
        float g = picked[e];
        if (losses) {
            g += params.z * lse * probabilities[e];
            float value = relative(e) - balance;
            if (sigmoids) {
                g += sigmoid(logits[e]) / sigma_sum * sigmoid(-logits[e]) * value;
            } else {
                g += probabilities[e] * value;
            }
        }
        grad[e] = g;
    }
    __syncwarp();
}

}  // namespace millet
