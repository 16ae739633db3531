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
#include "device/vector.cuh"
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
    using Tile = MixedTile<Major::Mn, X>;
    __shared__ __align__(128) uint8_t shared[Tile::RING_BYTES];
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
    const X *x = static_cast<const X *>(params.x);
    Tile tile;
    {
        const int depth = static_cast<int>(last_token - first_token);
        typename Tile::OperandA a;
        a.set(&params.logits_grad[first_token * params.experts], params.experts, depth, first_expert, params.experts,
              nullptr, {}, params.experts % 4 == 0);
        typename Tile::OperandB b;
        b.set(&x[first_token * params.hidden], params.hidden, depth, first_column, params.hidden, nullptr, {},
              params.aligned != 0);
        tile.run(a, b, (depth + MIXED_TILE_K - 1) / MIXED_TILE_K, shared);
    }
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
                    store_grad<W>(params, index, tile.accumulator.mma[i][j][v]);
                    if (pair) store_grad<W>(params, index + 1, tile.accumulator.mma[i][j][v + 1]);
                } else if (params.hidden % 2 == 0) {
                    *reinterpret_cast<float2 *>(sums) =
                        make_float2(tile.accumulator.mma[i][j][v], tile.accumulator.mma[i][j][v + 1]);
                } else {
                    sums[0] = tile.accumulator.mma[i][j][v];
                    if (pair) sums[1] = tile.accumulator.mma[i][j][v + 1];
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
    using Tile = MixedTile<Major::K, W>;
    constexpr int BYTES = Tile::SUM_BYTES > Tile::RING_BYTES ? Tile::SUM_BYTES : Tile::RING_BYTES;
    __shared__ __align__(128) uint8_t shared[BYTES];
    const int64_t first_token = static_cast<int64_t>(blockIdx.x) * MIXED_TILE_M;
    const int first_column = blockIdx.y * MIXED_TILE_N;
    const W *weight = static_cast<const W *>(params.weight);
    Tile tile;
    {
        typename Tile::OperandA a;
        a.set(params.logits_grad, params.experts, first_token, params.tokens - first_token, params.experts % 4 == 0);
        typename Tile::OperandB b;
        b.set(weight, params.hidden, params.experts, first_column, params.hidden, nullptr, {},
              params.weight_aligned != 0);
        tile.run(a, b, (params.experts + MIXED_TILE_K - 1) / MIXED_TILE_K, shared);
    }
    tile.recompute(
        params.experts, static_cast<int>(min(static_cast<int64_t>(MIXED_TILE_M), params.tokens - first_token)),
        params.hidden - first_column,
        [&](int64_t k, int m) { return __ldg(&params.logits_grad[(first_token + m) * params.experts + k]); },
        [&](int64_t k, int n) { return widen(__ldg(&weight[k * params.hidden + first_column + n])); });

    float *sums = reinterpret_cast<float *>(shared);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float *to = &sums[(Tile::row() + i * 16) * Tile::SUM_STRIDE + Tile::column() + j * 8];
            *reinterpret_cast<float2 *>(to) = make_float2(tile.accumulator.mma[i][j][0], tile.accumulator.mma[i][j][1]);
            *reinterpret_cast<float2 *>(to + 8 * Tile::SUM_STRIDE) =
                make_float2(tile.accumulator.mma[i][j][2], tile.accumulator.mma[i][j][3]);
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
                gather_rows<X, N>(params, first_token + row, first_column + c, &sums[row * Tile::SUM_STRIDE + c]);
        }
    } else {
        for (int i = threadIdx.x; i < rows * columns; i += MILLET_THREADS) {
            int row = i / columns, c = i % columns;
            gather_rows<X, 1>(params, first_token + row, first_column + c, &sums[row * Tile::SUM_STRIDE + c]);
        }
    }
}

}  // namespace millet

#define MILLET_ROUTER_GRAD(NAME, X, W)                              \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2) \
        router_weight_grad_##NAME(MilletRouterWeightGrad params) {  \
        millet::router_weight_grad<X, W>(params);                   \
    }                                                               \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2) \
        router_input_grad_##NAME(MilletRouterInputGrad params) {    \
        millet::router_input_grad<X, W>(params);                    \
    }

MILLET_FOR_ROUTER_TYPES(MILLET_ROUTER_GRAD)
