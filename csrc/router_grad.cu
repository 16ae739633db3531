// The router's gradients beyond dz:
//
//   router_weight_grad_*   dWᵣ = dzᵀ·x                    dz [T, E], x [T, H] → [E, H]
//   router_input_grad_*    dX[t] = Σ_slot rows[r] + dz[t]·Wᵣ    the combine of dX̃ with the router's part, one rounding
//
// weight_grad: one block per 64 experts, 128 columns and range of tokens. One range would keep few blocks busy, so
// there are several; their sums go to scratch, and blocks that wait for them add them in order (device/phases.cuh).
// Floor: dz and x read once. Above it: the ranges' sums, written and read.
//
// input_grad: one block per 64 tokens and 128 columns. It leaves dz·Wᵣ in shared memory, then each token adds up its
// rows, slots in order, and that product last. Floor: rows and dz read once, dX written once; Wᵣ and dz are read again
// from L2.
#include "device/mixed_product.cuh"
#include "device/phases.cuh"
#include "device/types.cuh"
#include "params.h"

namespace millet {

// One element of a weight gradient.
template <typename W>
__device__ __forceinline__ void store_grad(const MilletRouterWeightGrad &params, int64_t index, float value) {
    if (params.accumulate) {
        static_cast<float *>(params.grad)[index] += value;
    } else {
        static_cast<W *>(params.grad)[index] = narrow<W>(value);
    }
}

template <typename X, typename W> __device__ __forceinline__ void router_weight_grad(
    const MilletRouterWeightGrad &params) {
    using Tile = MixedTile<Major::Mn>;
    __shared__ __align__(16) float shared[2 * Tile::WORDS];
    Phases phases(params.phases);
    const int64_t elements = static_cast<int64_t>(params.experts) * params.hidden;
    int ticket = static_cast<int>(phases.take_ticket());
    const int across = (params.hidden + MIXED_TILE_N - 1) / MIXED_TILE_N,
              down = (params.experts + MIXED_TILE_M - 1) / MIXED_TILE_M;
    const int products = across * down * params.ranges;

    if (ticket >= products) {
        // The ranges' sums, in order.
        phases.wait(0, products);
        int64_t first = (static_cast<int64_t>(ticket) - products) * MILLET_SUM_ELEMENTS;
        for (int i = threadIdx.x; i < MILLET_SUM_ELEMENTS && first + i < elements; i += blockDim.x) {
            float sum = 0.0f;
            for (int range = 0; range < params.ranges; ++range) sum += params.range_sums[range * elements + first + i];
            store_grad<W>(params, first + i, sum);
        }
        return;
    }

    int first_column = ticket % across * MIXED_TILE_N;
    int first_expert = ticket / across % down * MIXED_TILE_M;
    int range = ticket / across / down;
    int64_t first_token = range * params.range_tokens;
    int64_t last_token = min(params.tokens, first_token + params.range_tokens);
    const int steps = static_cast<int>((last_token - first_token + MIXED_TILE_K - 1) / MIXED_TILE_K);
    const X *x = static_cast<const X *>(params.x);
    // A thread has one token of a step, and of it 4 experts and 8 columns.
    const int k = threadIdx.x / 16, expert = threadIdx.x % 16 * 4, column = threadIdx.x % 16 * 8;
    struct Part {
        float4 dz;
        Eight<X> x;
    };
    auto fetch = [&](int step) {
        int64_t token = first_token + step * MIXED_TILE_K + k;
        bool there = token < last_token;
        const float *row = &params.logits_grad[there ? token * params.experts : 0];
        Part part;
        part.dz = load_four(row, first_expert + expert, params.experts, there);
        part.x = Eight<X>::load(&x[there ? token * params.hidden : 0], first_column + column, params.hidden, there,
                                params.aligned);
        return part;
    };
    auto put = [&](const Part &part, float *a, float *b) {
        *reinterpret_cast<float4 *>(&a[k * Tile::A_STRIDE + expert]) = part.dz;
        part.x.store(&b[k * Tile::B_STRIDE], column);
    };
    Tile tile;
    tile.template run<sizeof(X) == 2>(0, steps, shared, fetch, put);
    // Worked out again rather than kept through the product, which needs the registers.
    asm volatile("" : "+r"(ticket));
    first_column = ticket % across * MIXED_TILE_N;
    first_expert = ticket / across % down * MIXED_TILE_M;
    range = ticket / across / down;
    first_token = range * params.range_tokens;
    last_token = min(params.tokens, first_token + params.range_tokens);
    tile.recompute(
        last_token - first_token, params.experts - first_expert, params.hidden - first_column,
        [&](int64_t k, int m) {
            return __ldg(&params.logits_grad[(first_token + k) * params.experts + first_expert + m]);
        },
        [&](int64_t k, int n) { return widen(__ldg(&x[(first_token + k) * params.hidden + first_column + n])); });

#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int v = 0; v < 4; v += 2) {
                int e = first_expert + Tile::row() + i * 16 + v * 4, h = first_column + Tile::column() + j * 8;
                if (e >= params.experts || h >= params.hidden) continue;
                int64_t index = static_cast<int64_t>(e) * params.hidden + h;
                float *sums = &params.range_sums[range * elements + index];
                bool pair = h + 1 < params.hidden;
                if (params.ranges == 1) {
                    store_grad<W>(params, index, tile.accumulator[i][j][v]);
                    if (pair) store_grad<W>(params, index + 1, tile.accumulator[i][j][v + 1]);
                } else if (params.hidden % 2 == 0) {
                    *reinterpret_cast<float2 *>(sums) =
                        make_float2(tile.accumulator[i][j][v], tile.accumulator[i][j][v + 1]);
                } else {
                    sums[0] = tile.accumulator[i][j][v];
                    if (pair) sums[1] = tile.accumulator[i][j][v + 1];
                }
            }
        }
    }
    phases.finish(0);
}

// Adds a token's rows to `part` in slot order (rows first, then the part) for this lane's columns, and stores the
// token.
template <typename X, int N>
__device__ __forceinline__ void gather_rows(const MilletRouterInputGrad &params, int64_t token, int column,
                                            const float *part) {
    constexpr int BATCH = 4;
    const X *rows = static_cast<const X *>(params.rows);
    float sum[N] = {};
    for (int first = 0; first < params.top_k; first += BATCH) {
        Vector<X, N> values[BATCH];
        int32_t row[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            row[i] = first + i < params.top_k ? __ldg(&params.assignment_to_row[token * params.top_k + first + i]) : -1;
            if (row[i] >= 0)
                values[i] = Vector<X, N>::load(&rows[static_cast<int64_t>(row[i]) * params.hidden + column]);
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
#pragma unroll
            for (int j = 0; j < N; ++j) {
                if (row[i] >= 0) sum[j] += widen(values[i].v[j]);
            }
        }
    }
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            float4 four = *reinterpret_cast<const float4 *>(&part[j]);
            sum[j] += four.x, sum[j + 1] += four.y, sum[j + 2] += four.z, sum[j + 3] += four.w;
        }
    } else {
        sum[0] += part[0];
    }
    Vector<X, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) result.v[j] = narrow<X>(sum[j]);
    result.store(&static_cast<X *>(params.x_grad)[token * params.hidden + column]);
}

template <typename X, typename W> __device__ __forceinline__ void router_input_grad(
    const MilletRouterInputGrad &params) {
    using Tile = MixedTile<Major::K>;
    constexpr int SUM_WORDS = MIXED_TILE_M * Tile::SUM_STRIDE;
    __shared__ __align__(16) float shared[SUM_WORDS > 2 * Tile::WORDS ? SUM_WORDS : 2 * Tile::WORDS];
    const int64_t first_token = static_cast<int64_t>(blockIdx.x) * MIXED_TILE_M;
    const int first_column = blockIdx.y * MIXED_TILE_N;
    const W *weight = static_cast<const W *>(params.weight);
    // A thread has 4 experts of a token, and 8 columns of an expert. Eight lanes have rows 4 apart: their stores do not
    // share banks.
    const int m = threadIdx.x / 32 * 8 + threadIdx.x / 4 % 2 * 4 + threadIdx.x % 32 / 8, ka = threadIdx.x % 4 * 4;
    const int kb = threadIdx.x / 16, column = threadIdx.x % 16 * 8;
    struct Part {
        float4 dz;
        Eight<W> weight;
    };
    auto fetch = [&](int step) {
        int64_t token = first_token + m;
        bool there = token < params.tokens;
        const float *row = &params.logits_grad[there ? token * params.experts : 0];
        int expert = step * MIXED_TILE_K + kb;
        bool inside = expert < params.experts;
        Part part;
        part.dz = load_four(row, step * MIXED_TILE_K + ka, params.experts, there);
        const W *from = &weight[inside ? static_cast<int64_t>(expert) * params.hidden : 0];
        part.weight = Eight<W>::load(from, first_column + column, params.hidden, inside, params.weight_aligned);
        return part;
    };
    auto put = [&](const Part &part, float *a, float *b) {
        *reinterpret_cast<float4 *>(&a[m * Tile::A_STRIDE + ka]) = part.dz;
        part.weight.store(&b[kb * Tile::B_STRIDE], column);
    };
    Tile tile;
    tile.template run<sizeof(W) == 2>(0, (params.experts + MIXED_TILE_K - 1) / MIXED_TILE_K, shared, fetch, put);
    tile.recompute(
        params.experts, static_cast<int>(min(static_cast<int64_t>(MIXED_TILE_M), params.tokens - first_token)),
        params.hidden - first_column,
        [&](int64_t k, int m) { return __ldg(&params.logits_grad[(first_token + m) * params.experts + k]); },
        [&](int64_t k, int n) { return widen(__ldg(&weight[k * params.hidden + first_column + n])); });

#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float *to = &shared[(Tile::row() + i * 16) * Tile::SUM_STRIDE + Tile::column() + j * 8];
            *reinterpret_cast<float2 *>(to) = make_float2(tile.accumulator[i][j][0], tile.accumulator[i][j][1]);
            *reinterpret_cast<float2 *>(to + 8 * Tile::SUM_STRIDE) =
                make_float2(tile.accumulator[i][j][2], tile.accumulator[i][j][3]);
        }
    }
    __syncthreads();
    const int columns = min(MIXED_TILE_N, params.hidden - first_column);
    const int rows = static_cast<int>(min(static_cast<int64_t>(MIXED_TILE_M), params.tokens - first_token));
    if (params.vectorized) {
        constexpr int N = VECTOR<X>, LANES = MIXED_TILE_N / N;  // lanes of a token
        for (int row = threadIdx.x / LANES; row < rows; row += MILLET_THREADS / LANES) {
            int c = threadIdx.x % LANES * N;
            if (c < columns)
                gather_rows<X, N>(params, first_token + row, first_column + c, &shared[row * Tile::SUM_STRIDE + c]);
        }
    } else {
        for (int i = threadIdx.x; i < rows * columns; i += MILLET_THREADS) {
            int row = i / columns, c = i % columns;
            gather_rows<X, 1>(params, first_token + row, first_column + c, &shared[row * Tile::SUM_STRIDE + c]);
        }
    }
}

}  // namespace millet

#define MILLET_ROUTER_GRAD(NAME, X, W)                                                   \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, sizeof(X) == 4 ? 1 : 2) \
        router_weight_grad_##NAME(MilletRouterWeightGrad params) {                       \
        millet::router_weight_grad<X, W>(params);                                        \
    }                                                                                    \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2)                      \
        router_input_grad_##NAME(MilletRouterInputGrad params) {                         \
        millet::router_input_grad<X, W>(params);                                         \
    }

MILLET_FOR_ROUTER_TYPES(MILLET_ROUTER_GRAD)
