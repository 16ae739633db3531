// Router on given logits [T, E] in f32, bf16 or f16.
//
//   router_forward_*    logits → ids, weights, lse, counts, statistics, losses    (router_tile.cuh, route.cuh)
//   router_backward_*   logits, dS and the losses' gradient → dz                  (route.cuh)
//
// One warp per token, 8 warps per block. Forward takes tiles of ⌈T/256⌉ tokens, so that the tiles' counts stay small.
// Rows are in registers up to E = 512, in two sizes; beyond that in shared memory, with as many warps as fit.
//
// Floor, forward: logits read once; K ids, K weights and one lse per token written once. Above it: 8·E + 4·K bytes per
// tile, written and read. Backward: logits, K ids, weights and gradients and one lse read once, dz [T, E] written once.
#include "device/router_tile.cuh"
#include "device/types.cuh"

namespace millet {

template <typename L, template <typename> class Row, RowStorage STORAGE>
__device__ __forceinline__ void router_given(const MilletRouterForward &params) {
    extern __shared__ int memory[];
    router_forward(params, [&](int tile) {
        TileSpace space(params.router, memory, STORAGE);
        const L *logits = static_cast<const L *>(params.logits);
        route_tile<Row>(params, tile, params.tile_tokens, space, [&](int row, Row<float> &row_logits) {
            const L *from = &logits[(static_cast<int64_t>(tile) * params.tile_tokens + row) * params.router.experts];
            MILLET_FOR_ROW(row_logits, j, e) {
                if (e < params.router.experts) row_logits[j] = widen(__ldg(&from[e]));
            }
        });
    });
}

template <typename L> __device__ __forceinline__ void router_given_backward(const MilletRouterBackward &params) {
    extern __shared__ float rows[];
    const int experts = params.router.experts, warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    const L *logits = static_cast<const L *>(params.logits);
    float *z = &rows[3 * warp * experts];
    const int64_t token = static_cast<int64_t>(blockIdx.x) * warps + warp;
    if (token >= params.tokens) return;  // guard: the last block's spare warps
    for (int e = lane_id(); e < experts; e += WARP) z[e] = widen(logits[token * experts + e]);  // dz may overwrite them
    __syncwarp();
    route_backward(params, token, z, &z[experts], &z[2 * experts]);
}

}  // namespace millet

#define MILLET_ROUTER(NAME, L)                                                          \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2)                     \
        router_forward_128_##NAME(MilletRouterForward params) {                         \
        millet::router_given<L, millet::Row128, millet::RowStorage::Registers>(params); \
    }                                                                                   \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2)                     \
        router_forward_512_##NAME(MilletRouterForward params) {                         \
        millet::router_given<L, millet::Row512, millet::RowStorage::Registers>(params); \
    }                                                                                   \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 2)                     \
        router_forward_any_##NAME(MilletRouterForward params) {                         \
        millet::router_given<L, millet::SharedRow, millet::RowStorage::Shared>(params); \
    }                                                                                   \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 6)                     \
        router_backward_##NAME(MilletRouterBackward params) {                           \
        millet::router_given_backward<L>(params);                                       \
    }

MILLET_FOR_TYPES(MILLET_ROUTER)
