// Logits of a tile of tokens by tensor cores: x·Wᵣᵀ for M tokens and N experts, left in shared memory for the routing.
//
// 8 warps per block; each keeps 32 tokens and M·N/256 experts of the accumulator in registers. x and Wᵣ pass through a
// ring of STAGES steps in shared memory, 64 bytes of the hidden size per step. A row of the tile is 64 bytes, swizzled:
// 16-byte chunk c of row r is at c ^ (r / 2 % 4), so that every access of 8 lanes covers the 32 banks. In each
// step:
//   every thread   its own copies of step s are done              wait_copies<STAGES − 2>
//   barrier        all copies of step s are visible; nobody reads step s − 1 any more
//   every thread   copies step s + STAGES − 1 into the stage of step s − 1
//   every warp     multiplies step s
//
// 16-bit x and Wᵣ are multiplied as they are. With Wᵣ in f32 the product is 3xTF32 (16-bit x is a tf32 number, which
// saves a third), and x is widened as it is stored to shared memory. Logits that come out not finite are computed again
// in f32.
#pragma once
#include <type_traits>

#include "../params.h"
#include "mma.cuh"
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
    static constexpr int WARPS_M = M / 32, WARPS_N = 8 / WARPS_M;
    static constexpr int MMA_M = 2, MMA_N = N / WARPS_N / 8;
    static constexpr int CHUNK = 16 / sizeof(W), TILE_K = 4 * CHUNK;  // elements
    static constexpr int ROW_BYTES = MILLET_LOGITS_STEP_BYTES;
    static constexpr int STAGE_BYTES = (M + N) * ROW_BYTES;
    static constexpr int STAGES = N <= 128   ? MILLET_LOGITS_STAGES_128
                                  : N <= 256 ? MILLET_LOGITS_STAGES_256
                                             : MILLET_LOGITS_STAGES_512;
    // Floats from one row of logits to the next: more than N, so that the 4 rows of half a warp's pairs do not share
    // banks.
    static constexpr int STRIDE = N + MILLET_LOGITS_PAD;
    static constexpr int RING_BYTES = STAGES * STAGE_BYTES, LOGITS_BYTES = M * STRIDE * 4;
    // Logits take the place of the ring.
    static constexpr int BYTES = RING_BYTES > LOGITS_BYTES ? RING_BYTES : LOGITS_BYTES;
    static_assert(ROW_BYTES == 4 * 16, "a row of a stage is four chunks");
    static_assert(MMA_N % 2 == 0, "ldmatrix brings two chunks of columns");

    __device__ static uint32_t offset(int row, int chunk) { return row * ROW_BYTES + (chunk ^ (row / 2 % 4)) * 16; }

    // A chunk of a row: `left` elements from `from` on are the row's, the rest zeros.
    template <typename S> __device__ static void copy_chunk(uint32_t to, const S *from, int left, bool aligned) {
        if constexpr (std::is_same_v<S, W>) {
            if (aligned) {
                ptx::copy_async(to, from, left > 0 ? 16 : 0);
                return;
            }
        }
        union {
            W elements[CHUNK];
            uint4 chunk;
        };
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) elements[i] = i < left ? narrow<W>(widen(__ldg(&from[i]))) : narrow<W>(0.0f);
        ptx::store_shared(to, chunk);
    }

    __device__ static void load(const LogitsInput &in, int64_t first_token, int first_expert, int step,
                                uint32_t stage) {
        const X *x = static_cast<const X *>(in.x);
        const W *weight = static_cast<const W *>(in.weight);
        for (int i = threadIdx.x; i < M * 4; i += 256) {
            int row = i / 4, chunk = i % 4, k = step * TILE_K + chunk * CHUNK;
            bool there = first_token + row < in.tokens && k < in.hidden;
            int64_t from = there ? (first_token + row) * in.hidden + k : 0;
            copy_chunk(stage + offset(row, chunk), &x[from], there ? in.hidden - k : 0, in.aligned);
        }
        for (int i = threadIdx.x; i < N * 4; i += 256) {
            int row = i / 4, chunk = i % 4, k = step * TILE_K + chunk * CHUNK;
            bool there = first_expert + row < in.experts && k < in.hidden;
            int64_t from = there ? static_cast<int64_t>(first_expert + row) * in.hidden + k : 0;
            copy_chunk(stage + M * ROW_BYTES + offset(row, chunk), &weight[from], there ? in.hidden - k : 0,
                       in.aligned);
        }
    }

    __device__ static void multiply(float (&accumulator)[MMA_M][MMA_N][4], uint32_t stage) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int first_row = warp / WARPS_N * 32, first_column = warp % WARPS_N * (MMA_N * 8);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t a[MMA_M][4], b[MMA_N][2];
#pragma unroll
            for (int i = 0; i < MMA_M; ++i) {
                ptx::load_matrices(a[i], stage + offset(first_row + i * 16 + lane % 16, half * 2 + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < MMA_N; j += 2) {
                uint32_t four[4];
                int row = first_column + j * 8 + lane / 16 * 8 + lane % 8;
                ptx::load_matrices(four, stage + M * ROW_BYTES + offset(row, half * 2 + lane / 8 % 2));
                b[j][0] = four[0], b[j][1] = four[1], b[j + 1][0] = four[2], b[j + 1][1] = four[3];
            }
#pragma unroll
            for (int j = 0; j < MMA_N; ++j) {
#pragma unroll
                for (int i = 0; i < MMA_M; ++i) {
                    if constexpr (sizeof(W) == 2) {
                        mma<W>(accumulator[i][j], a[i], b[j][0], b[j][1]);
                    } else {
                        // From 0 and small terms first, then a rounded addition: tensor cores truncate their sums.
                        Tf32Split<Inputs::Finite> b0(b[j][0]), b1(b[j][1]);
                        uint32_t high[4];
                        float part[4] = {};
                        if constexpr (sizeof(X) == 4) {
                            uint32_t low[4];
#pragma unroll
                            for (int v = 0; v < 4; ++v) {
                                Tf32Split<Inputs::Finite> split(a[i][v]);
                                high[v] = split.high, low[v] = split.low;
                            }
                            mma<float>(part, low, b0.high, b1.high);
                        } else {
#pragma unroll
                            for (int v = 0; v < 4; ++v) high[v] = a[i][v];
                        }
                        mma<float>(part, high, b0.low, b1.low);
                        mma<float>(part, high, b0.high, b1.high);
#pragma unroll
                        for (int v = 0; v < 4; ++v) accumulator[i][j][v] += part[v];
                    }
                }
            }
        }
    }

    // Logits of tokens first_token… and experts first_expert… into `shared`, rows STRIDE floats apart, for all threads
    // to read.
    __device__ static float *compute(const LogitsInput &in, int64_t first_token, int first_expert, void *shared) {
        const uint32_t ring = ptx::shared_address(shared);
        const int steps = (in.hidden + TILE_K - 1) / TILE_K;
        float accumulator[MMA_M][MMA_N][4] = {};
        // Not unrolled: every step's addresses, kept at once, spill.
#pragma unroll 1
        for (int step = 0; step < STAGES - 1; ++step) {
            if (step < steps) load(in, first_token, first_expert, step, ring + step * STAGE_BYTES);
            ptx::commit_copies();
        }
        int stage = 0, free_stage = STAGES - 1;
        for (int step = 0; step < steps; ++step) {
            ptx::wait_copies<STAGES - 2>();
            __syncthreads();
            int next = step + STAGES - 1;
            if (next < steps) load(in, first_token, first_expert, next, ring + free_stage * STAGE_BYTES);
            ptx::commit_copies();
            multiply(accumulator, ring + stage * STAGE_BYTES);
            free_stage = stage;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        ptx::wait_copies<0>();
        __syncthreads();

        float *logits = static_cast<float *>(shared);
        float check = 0.0f;  // NaN where a logit is not finite
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int row = warp / WARPS_N * 32 + lane / 4, column = warp % WARPS_N * (MMA_N * 8) + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < MMA_M; ++i) {
#pragma unroll
            for (int j = 0; j < MMA_N; ++j) {
                float *to = &logits[(row + i * 16) * STRIDE + column + j * 8];
                *reinterpret_cast<float2 *>(to) = make_float2(accumulator[i][j][0], accumulator[i][j][1]);
                *reinterpret_cast<float2 *>(to + 8 * STRIDE) = make_float2(accumulator[i][j][2], accumulator[i][j][3]);
#pragma unroll
                for (int v = 0; v < 4; ++v) check = fmaf(accumulator[i][j][v], 0.0f, check);
            }
        }
        if constexpr (sizeof(W) == 2) {
            __syncthreads();
        } else if (__syncthreads_or(check != check)) {
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
