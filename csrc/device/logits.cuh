// Logits of a tile of tokens by tensor cores: x·Wᵣᵀ for M tokens and N experts, left in shared memory for the routing.
//
// 8 warps per block; each keeps 32 tokens and M·N/256 experts of the accumulator in registers. x and Wᵣ are K-major and
// pass through the ring of device/pipeline.cuh, 64 bytes of the hidden size per step, in the layout of
// device/layout.cuh.
//
// 16-bit x and Wᵣ are multiplied as they are. With Wᵣ in f32 the product is 3xTF32 (16-bit x is a tf32 number, which
// saves a third), x is widened as it is stored to shared memory, and logits that come out not finite are computed again
// in f32.
#pragma once
#include <type_traits>

#include "../params.h"
#include "accumulator.cuh"
#include "layout.cuh"
#include "mma.cuh"
#include "operand.cuh"
#include "pipeline.cuh"
#include "tf32.cuh"

namespace millet {

// What a product of x [T, H] and a weight [E, H] needs to know.
struct LogitsInput {
    const void *x;
    const void *weight;
    int64_t tokens;
    int hidden;
    int experts;
    // Are rows of both 16-byte aligned?
    bool aligned;
};

template <typename X, typename W, int M, int N> struct LogitsTile {
    // Of a warp: 32 tokens.
    static constexpr int WARPS_M = M / 32, WARPS_N = MILLET_THREADS / WARP / WARPS_M;
    static constexpr int MMA_M = 2, MMA_N = N / WARPS_N / 8;
    using Coord = WarpCoord<WARPS_N>;
    using Sums = WarpAccumulator<MMA_M, MMA_N>;
    using OperandA = KMajorOperand<W, M, Access::Runtime, Rows::Consecutive, MILLET_THREADS, X>;
    using OperandB = KMajorOperand<W, N, Access::Runtime, Rows::Consecutive, MILLET_THREADS>;
    static constexpr int STAGES = N <= 128   ? MILLET_LOGITS_STAGES_128
                                  : N <= 256 ? MILLET_LOGITS_STAGES_256
                                             : MILLET_LOGITS_STAGES_512;
    // Floats from one row of logits to the next: more than N, so that the 4 rows of half a warp's pairs do not share
    // banks.
    static constexpr int STRIDE = N + MILLET_LOGITS_PAD;
    static constexpr int RING_BYTES = STAGES * (OperandA::BYTES + OperandB::BYTES), LOGITS_BYTES = M * STRIDE * 4;
    // Logits take the place of the ring.
    static constexpr int BYTES = RING_BYTES > LOGITS_BYTES ? RING_BYTES : LOGITS_BYTES;
    static_assert(MILLET_LOGITS_STEP_BYTES == STEP_BYTES, "the layouts are those of all products");
    static_assert(WARPS_M * 32 == M && WARPS_N * MMA_N * 8 == N && WARPS_M * WARPS_N * 32 == MILLET_THREADS,
                  "warps cover the tile");
    static_assert(MMA_M == 2 && MMA_N % 2 == 0, "ldmatrix brings two fragments of b");
    static_assert(BYTES <= SHARED_BYTES_OF_MULTIPROCESSOR - 1024, "the ring and the logits fit");

    // accumulator += a·b of one step.
    static __device__ __forceinline__ void multiply_step(Sums &accumulator, const KMajorReader &reader_a,
                                                         const KMajorReader &reader_b, uint32_t tile_a,
                                                         uint32_t tile_b) {
        // f32 not unrolled: both halves at once would take 60 registers more.
#pragma unroll(sizeof(W) == 4 ? 1 : 2)
        for (int half = 0; half < 2; ++half) {
            uint32_t a[MMA_M][4], b[MMA_N][2];
            reader_a.load_a(tile_a, half, a);
            reader_b.load_b(tile_b, half, b);
            if constexpr (sizeof(W) == 2) {
#pragma unroll
                for (int j = 0; j < MMA_N; ++j)
#pragma unroll
                    for (int i = 0; i < MMA_M; ++i) mma<W>(accumulator.mma[i][j], a[i], b[j][0], b[j][1]);
            } else {
                using PartsA = Tf32Parts<Inputs::Finite, sizeof(X) == 4 ? Factor::F32 : Factor::Tf32, 4>;
                using PartsB = Tf32Parts<Inputs::Finite, Factor::F32, 2>;
                const PartsA parts_a[MMA_M][1] = {{PartsA(a[0])}, {PartsA(a[1])}};
#pragma unroll
                for (int j = 0; j < MMA_N; ++j) {
                    const PartsB parts_b[1] = {PartsB(b[j])};
#pragma unroll
                    for (int i = 0; i < MMA_M; ++i)
                        mma_3xtf32<SmallTerms::OfAFirst>(accumulator.mma[i][j], parts_a[i], parts_b);
                }
            }
        }
    }

    // Logits of tokens first_token… and experts first_expert… into `shared`, rows STRIDE floats apart, for all threads
    // to read.
    __device__ static float *compute(const LogitsInput &in, int64_t first_token, int first_expert, void *shared) {
        const auto reader_a = KMajorReader::of_a(Coord::warp_m() * 32);
        const auto reader_b = KMajorReader::of_b(Coord::warp_n() * (MMA_N * 8));
        Sums accumulator;
        {
            OperandA a;
            a.set(static_cast<const X *>(in.x), in.hidden, first_token, in.tokens - first_token, in.aligned);
            OperandB b;
            b.set(static_cast<const W *>(in.weight), in.hidden, first_expert, in.experts - first_expert, in.aligned);
            const int steps = (in.hidden + TILE_K<W> - 1) / TILE_K<W>;
            accumulator.clear();
            multiply_all<STAGES>(a, b, steps, shared, [&](uint32_t tile_a, uint32_t tile_b) {
                multiply_step(accumulator, reader_a, reader_b, tile_a, tile_b);
            });
        }

        float *logits = static_cast<float *>(shared);
        const int row = Coord::warp_m() * 32 + Coord::row(), column = Coord::warp_n() * (MMA_N * 8) + Coord::column();
#pragma unroll
        for (int i = 0; i < MMA_M; ++i) {
#pragma unroll
            for (int j = 0; j < MMA_N; ++j) {
                const float (&sum)[4] = accumulator.mma[i][j];
                float *to = &logits[(row + i * 16) * STRIDE + column + j * 8];
                *reinterpret_cast<float2 *>(to) = make_float2(sum[0], sum[1]);
                *reinterpret_cast<float2 *>(to + 8 * STRIDE) = make_float2(sum[2], sum[3]);
            }
        }
        if constexpr (sizeof(W) == 2) {
            __syncthreads();
        } else if (__syncthreads_or(!accumulator.finite())) {
            recompute(in, first_token, first_expert, logits);
            __syncthreads();
        }
        return logits;
    }

    // Logits that are not finite, again in f32: an infinite factor's tf32 parts make NaN of what may be −∞, a mask. One
    // warp per logit.
    __device__ static void recompute(const LogitsInput &in, int64_t first_token, int first_expert, float *logits) {
        const int tokens = static_cast<int>(min(static_cast<int64_t>(M), in.tokens - first_token));
        const int experts = min(N, in.experts - first_expert), lane = threadIdx.x % WARP;
        for (int i = threadIdx.x / WARP; i < tokens * experts; i += 8) {
            const int row = i / experts, column = i % experts;
            float &logit = logits[row * STRIDE + column];
            if (is_finite(logit)) continue;  // all lanes together
            const X *x = static_cast<const X *>(in.x) + (first_token + row) * in.hidden;
            const W *weight =
                static_cast<const W *>(in.weight) + static_cast<int64_t>(first_expert + column) * in.hidden;
            float sum = 0.0f;
#pragma unroll 1
            for (int k = lane; k < in.hidden; k += WARP) sum = fmaf(widen(__ldg(&x[k])), widen(__ldg(&weight[k])), sum);
            sum = warp_sum(sum);
            __syncwarp();
            if (lane == 0) logit = sum;
        }
    }
};

}  // namespace millet
