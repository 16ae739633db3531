// Combine: each token gathers its rows.
//
//   unpermute            out[t] = Σ_slot w[t,slot]·rows[r], slots in order, f32, one rounding; weights of 1 where
//                        none are given: rows of the down product are weighed already, and the backward of permute
//                        has none
//   unpermute_backward   rows_grad[r] = w[t,slot]·dO[t];  weights_grad[t,slot] = ⟨dO[t], rows[r]⟩, 0 without a row
//
// Grid: one warp per token, blocks of 8 warps; for unpermute a second dimension splits the columns when there are few
// tokens. Every row is read once and every token written once (backward: read once, and rows written once), so bytes
// are the floor: R·H + T·H (backward 2·R·H + T·H), and the map and weights of T·K words each.
#include "device/rows.cuh"
#include "device/types.cuh"

namespace millet {

template <typename T, int N> __device__ __forceinline__ void unpermute(const MilletRows &params) {
    const T *rows = static_cast<const T *>(params.rows_in);
    T *out = static_cast<T *>(params.tokens_out);
    int64_t token = warp_token();
    if (token >= params.tokens) return;  // guard: the last block's spare warps
    Slots slots = Slots::load(params, token, 0).with_weight();
    for_columns<N>(params, [&](int64_t column, bool inside) {
        float sum[N] = {};
        const T *from = &rows[inside ? column : 0];  // so that all lanes do the same
        for (int first = 0; first < params.top_k; first += WARP) {
            if (params.top_k > WARP) slots = Slots::load(params, token, first).with_weight();
            // A batch may pass the last slot: lanes there have no row.
            for (int batch = 0; batch < min(WARP, params.top_k - first); batch += BATCH) {
                Vector<T, N> values[BATCH];
                int32_t row[BATCH];
#pragma unroll
                for (int i = 0; i < BATCH; ++i) {
                    row[i] = slots.row_of(batch + i);
                    if (row[i] >= 0)
                        values[i] = Vector<T, N>::load(&from[static_cast<int64_t>(row[i]) * params.hidden]);
                }
#pragma unroll
                for (int i = 0; i < BATCH; ++i) {
                    float weight = slots.weight_of(batch + i);
                    if (row[i] < 0) continue;  // all lanes together
#pragma unroll
                    for (int j = 0; j < N; ++j) sum[j] += weight * widen(values[i].v[j]);
                }
            }
        }
        Vector<T, N> result;
#pragma unroll
        for (int j = 0; j < N; ++j) result.v[j] = narrow<T>(sum[j]);
        if (inside) result.store(&out[token * params.hidden + column]);
    });
}

template <typename T, int N> __device__ __forceinline__ void unpermute_backward(const MilletRows &params) {
    const T *output_grad = static_cast<const T *>(params.tokens_in);
    const T *rows = static_cast<const T *>(params.rows_in);
    T *rows_grad = static_cast<T *>(params.rows_out);
    int lane = threadIdx.x % WARP;
    int64_t token = warp_token();
    if (token >= params.tokens) return;  // guard: the last block's spare warps
    for (int first = 0; first < params.top_k; first += WARP) {
        Slots slots = Slots::load(params, token, first);
        float grad = 0.0f;  // of this lane's slot
        bool nothing = __all_sync(ALL_LANES, slots.row < 0);
        for (int batch = 0; batch < (nothing ? 0 : min(WARP, params.top_k - first)); batch += BATCH) {
            int64_t row[BATCH];
            float weight[BATCH];
            float dot[BATCH] = {};
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                row[i] = slots.row_of(batch + i);
                weight[i] = slots.weight_of(batch + i);
            }
            for_columns<N>(params, [&](int64_t column, bool inside) {
                if (!inside) return;
                // A later batch finds dO in the first-level cache.
                auto grads = Vector<T, N>::load(&output_grad[token * params.hidden + column]);
#pragma unroll
                for (int i = 0; i < BATCH; ++i) {
                    if (row[i] < 0) continue;
                    auto values = Vector<T, N>::load(&rows[row[i] * params.hidden + column]);
                    Vector<T, N> result;
#pragma unroll
                    for (int j = 0; j < N; ++j) {
                        float g = widen(grads.v[j]);
                        dot[i] += g * widen(values.v[j]);
                        result.v[j] = narrow<T>(weighed(weight[i], g));
                    }
                    result.store(&rows_grad[row[i] * params.hidden + column]);
                }
            });
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                float sum = warp_sum(dot[i]);
                if (lane == batch + i && row[i] >= 0) grad = sum;
            }
        }
        // Worked out again rather than kept through the loops, which need the registers.
        asm volatile("" : "+l"(token));
        if (first + lane < params.top_k) params.weights_grad[token * params.top_k + first + lane] = grad;
    }
}

}  // namespace millet

#define MILLET_COMBINE(NAME, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 4) unpermute_##NAME(MilletRows params) {          \
        params.vectorized ? millet::unpermute<T, millet::VECTOR<T>>(params) : millet::unpermute<T, 1>(params);     \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 4) unpermute_backward_##NAME(MilletRows params) { \
        params.vectorized ? millet::unpermute_backward<T, millet::VECTOR<T>>(params)                               \
                          : millet::unpermute_backward<T, 1>(params);                                              \
    }

MILLET_FOR_TYPES(MILLET_COMBINE)
