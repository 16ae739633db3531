// Router backward from tokens: logits again by tensor cores (device/logits.cuh), then dz of the same tile
// (device/route.cuh), in one launch; logits are never stored.
//
//   router_tokens_backward_128_*, _256_*, _512_*   x [T, H], Wᵣ [E, H], dS and the losses' gradient → dz [T, E]
//
// Grid: a block for 64 tokens (32 for E > 256). Floor: x read once, dz written once; Wᵣ is read by every block, after
// the first from L2.
#include "device/logits.cuh"
#include "device/route.cuh"
#include "device/types.cuh"

namespace millet {

template <typename X, typename W, int M, int N>
__device__ __forceinline__ void router_tokens_backward(const MilletRouterBackward &params) {
    extern __shared__ __align__(128) uint8_t memory[];
    using Tile = LogitsTile<X, W, M, N>;
    const int experts = params.router.experts, warp = threadIdx.x / WARP;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * M;
    LogitsInput in = {params.x, params.weight, params.tokens, params.hidden, experts, params.aligned != 0};
    float *logits = Tile::compute(in, first, 0, memory);
    float *rows = reinterpret_cast<float *>(memory + Tile::BYTES) + 2 * warp * experts;
    for (int row = warp; row < M && first + row < params.tokens; row += MILLET_THREADS / WARP) {
        route_backward(params, first + row, &logits[row * Tile::STRIDE], rows, rows + experts);
    }
}

}  // namespace millet

#define MILLET_ROUTER_TOKENS_BACKWARD(NAME, X, W)                                    \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2)                  \
        router_tokens_backward_128_##NAME(MilletRouterBackward params) {             \
        millet::router_tokens_backward<X, W, MILLET_ROUTER_TOKENS_128, 128>(params); \
    }                                                                                \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 1)                  \
        router_tokens_backward_256_##NAME(MilletRouterBackward params) {             \
        millet::router_tokens_backward<X, W, MILLET_ROUTER_TOKENS_256, 256>(params); \
    }                                                                                \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 1)                  \
        router_tokens_backward_512_##NAME(MilletRouterBackward params) {             \
        millet::router_tokens_backward<X, W, MILLET_ROUTER_TOKENS_512, 512>(params); \
    }

MILLET_FOR_ROUTER_TYPES(MILLET_ROUTER_TOKENS_BACKWARD)
