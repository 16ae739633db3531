// Router forward from tokens: logits by tensor cores (device/logits.cuh) and the routing of the same tile
// (device/router_tile.cuh) in one launch, so that logits are stored only where somebody asks for them.
//
//   router_tokens_128_*, _256_*, _512_*   x [T, H], Wᵣ [E, H] → all that router forward gives, for E up to the number
//   router_logits_*                       x, Wᵣ → logits, for more experts; router.cu takes them from there
//
// Grid: a block for 64 tokens (32 for E > 256), and the tickets of router_tile.cuh. Floor: x read once; Wᵣ is read by
// every block, after the first from L2.
#include "device/logits.cuh"
#include "device/router_tile.cuh"
#include "device/types.cuh"

namespace millet {

template <typename X, typename W, int M, int N, template <typename> class Row>
__device__ __forceinline__ void router_tokens(const MilletRouterForward &params) {
    extern __shared__ __align__(128) uint8_t memory[];
    using Tile = LogitsTile<X, W, M, N>;
    router_forward(params, [&](int tile) {
        LogitsInput in = {params.x,      params.weight,         params.tokens,
                          params.hidden, params.router.experts, params.aligned != 0};
        float *logits = Tile::compute(in, static_cast<int64_t>(tile) * M, 0, memory);
        TileSpace space(params.router, reinterpret_cast<int *>(memory + Tile::BYTES), RowStorage::LogitsTile);
        route_tile<Row>(params, tile, M, space, [&](int row, Row<float> &row_logits) {
            MILLET_FOR_ROW(row_logits, j, e) {
                if (e < params.router.experts) row_logits[j] = logits[row * Tile::STRIDE + e];
            }
            // The row is in registers now; its place is free for keys.
            space.route.keys = reinterpret_cast<uint32_t *>(&logits[row * Tile::STRIDE]);
            __syncwarp();
        });
    });
}

template <typename X, typename W> __device__ __forceinline__ void router_logits(const MilletRouterForward &params) {
    extern __shared__ __align__(128) uint8_t memory[];
    constexpr int M = MILLET_LOGITS_TOKENS, N = MILLET_LOGITS_EXPERTS;
    using Tile = LogitsTile<X, W, M, N>;
    const int64_t first_token = static_cast<int64_t>(blockIdx.x) * M;
    const int first_expert = blockIdx.y * N, experts = params.router.experts;
    LogitsInput in = {params.x, params.weight, params.tokens, params.hidden, experts, params.aligned != 0};
    float *logits = Tile::compute(in, first_token, first_expert, memory);
    for (int i = threadIdx.x; i < M * N; i += MILLET_THREADS) {
        int row = i / N, column = i % N;
        if (first_token + row < params.tokens && first_expert + column < experts) {
            params.logits_out[(first_token + row) * experts + first_expert + column] =
                logits[row * Tile::STRIDE + column];
        }
    }
}

}  // namespace millet

#define MILLET_ROUTER_TOKENS(NAME, X, W)                                                                               \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2)                                                    \
        router_tokens_128_##NAME(MilletRouterForward params) {                                                         \
        millet::router_tokens<X, W, MILLET_ROUTER_TOKENS_128, 128, millet::Row128>(params);                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 1)                                                    \
        router_tokens_256_##NAME(MilletRouterForward params) {                                                         \
        millet::router_tokens<X, W, MILLET_ROUTER_TOKENS_256, 256, millet::Row256>(params);                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 1)                                                    \
        router_tokens_512_##NAME(MilletRouterForward params) {                                                         \
        millet::router_tokens<X, W, MILLET_ROUTER_TOKENS_512, 512, millet::Row512>(params);                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2) router_logits_##NAME(MilletRouterForward params) { \
        millet::router_logits<X, W>(params);                                                                           \
    }

MILLET_FOR_ROUTER_TYPES(MILLET_ROUTER_TOKENS)
