// The experts' biases in backward. Forward adds them in the products' epilogues (experts_forward.cu).
//
//   experts_bias_dots   ⟨dO[token], down_bias[e]⟩ of each row        dO [T, H], down_bias [E, H] → dS [T, K]
//                       (experts_weights_grad adds ⟨dA', a⟩ to it)
//   experts_bias_grad   d_gate_up_bias[e] = Σ dh                     dh [R, 2I] → [E, 2I]
//                       d_down_bias[e] = Σ w·dO[token]               dO [T, H], w [T, K] → [E, H]
//
// Dots: one warp per token, blocks of 8 warps. The K dot products of a token find dO in the first-level cache, and the
// biases in the second-level one. Floor: T·H + E·H elements.
//
// Gradients: a block per expert and 128 bytes of columns (32 columns where rows are not whole vectors), first those of
// 2I, then those of H. Its threads are 8 across, 16 bytes each, and 32 down: a thread adds every 32nd row in order, and
// the 32 sums of a column are added in order. One launch, one order, no atomics and no scratch. Floor: R·(2I + H)
// elements: dh and the gathered dO are read once. An expert that has all rows is read by (2I + H)·size/128 blocks; for
// GPT-OSS in 16 bits those are 135. Parts of an expert's rows in blocks of their own would keep more multiprocessors
// busy where there are fewer, for a second pass and [R/128, 2I + H] sums in scratch.
//
// Why not in the products of the weights' gradients, which load the same rows: there a tile of dh passes through shared
// memory once for each 128 columns of H, so that one tile in H/128 would add what it reads once more from there, in a
// main loop that has no register left.
#include "device/vector.cuh"
#include "params.h"

namespace millet {

constexpr int TOKEN_WARPS = MILLET_THREADS / WARP;

// The expert of a row: the last whose rows begin at it or before.
__device__ __forceinline__ int expert_of(const MilletExpertBias &params, int row) {
    int first = 0, end = params.experts;
    while (end - first > 1) {
        const int middle = (first + end) / 2;
        if (__ldg(params.offsets + middle) <= row) first = middle;
        else end = middle;
    }
    return first;
}

template <typename T, int N> __device__ __forceinline__ void bias_dots(const MilletExpertBias &params) {
    const int lane = threadIdx.x % WARP;
    const int64_t token = static_cast<int64_t>(blockIdx.x) * TOKEN_WARPS + threadIdx.x / WARP;
    if (token >= params.tokens) return;  // guard: the last block's spare warps
    const T *grads = static_cast<const T *>(params.output_grad) + token * params.hidden;
    const T *bias = static_cast<const T *>(params.down_bias);
    for (int first = 0; first < params.top_k; first += WARP) {
        // A lane has a slot.
        const int64_t assignment = token * params.top_k + first + lane;
        const int row = first + lane < params.top_k ? __ldg(params.assignment_to_row + assignment) : -1;
        const int expert = row < 0 ? -1 : expert_of(params, row);
        float mine = 0.0f;
        for (int slot = 0; slot < min(WARP, params.top_k - first); slot++) {
            const int64_t from = __shfl_sync(ALL_LANES, expert, slot);
            if (from < 0) continue;  // all lanes together
            float dot = 0.0f;
            for (int column = lane * N; column < params.hidden; column += WARP * N) {
                const auto grad = Vector<T, N>::load(grads + column);
                const auto value = Vector<T, N>::load(bias + from * params.hidden + column);
#pragma unroll
                for (int i = 0; i < N; i++) dot += widen(grad.v[i]) * widen(value.v[i]);
            }
            dot = warp_sum(dot);
            if (lane == slot) mine = dot;
        }
        if (row >= 0) params.weights_grad[assignment] = mine;
    }
}

// A row of what is summed, and its weight: 0 leaves it out.
struct Weighed {
    int64_t row;
    float weight;
};

// This block's columns of the gradient of one expert's bias [width]: the sum of rows of `source` [·, width] that
// `weighed_row` names for the expert's rows. Overwritten in the storage type, or added to in f32.
template <typename T, int N, class WeighedRow>
__device__ __forceinline__ void sum_rows(const MilletExpertBias &params, int expert, int chunk, const T *source,
                                         int width, void *grad, float *grad_sum, WeighedRow weighed_row) {
    constexpr int ACROSS = N > 1 ? MILLET_BIAS_BYTES / 16 : MILLET_BIAS_ELEMENTS;
    constexpr int DOWN = MILLET_THREADS / ACROSS, COLUMNS = ACROSS * N;
    // Rows in flight per thread.
    constexpr int BATCH = 4;
    // Sums [N][DOWN][ACROSS]; the padding keeps the columns of a row in different banks.
    constexpr int PITCH = MILLET_THREADS + ACROSS;
    static_assert(COLUMNS <= MILLET_THREADS, "a thread adds up a column");
    __shared__ float sums[N * PITCH];

    const int begin = __ldg(params.offsets + expert), end = __ldg(params.offsets + expert + 1);
    const int column = chunk * COLUMNS + static_cast<int>(threadIdx.x) % ACROSS * N;
    float sum[N] = {};
    if (column < width) {
        for (int first = begin + static_cast<int>(threadIdx.x) / ACROSS; first < end; first += DOWN * BATCH) {
            Vector<T, N> values[BATCH];
            float weight[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const int row = first + i * DOWN;
                const Weighed from = row < end ? weighed_row(row) : Weighed{0, 0.0f};
                weight[i] = from.weight;
                if (weight[i] != 0.0f) values[i] = Vector<T, N>::load(source + from.row * width + column);
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                if (weight[i] == 0.0f) continue;
#pragma unroll
                for (int j = 0; j < N; j++) sum[j] += weight[i] * widen(values[i].v[j]);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) sums[j * PITCH + threadIdx.x] = sum[j];
    __syncthreads();

    const int across = threadIdx.x % ACROSS, j = threadIdx.x / ACROSS;
    const int mine = chunk * COLUMNS + across * N + j;
    if (j >= N || mine >= width) return;  // guard: threads without a column
    float total = 0.0f;
#pragma unroll
    for (int down = 0; down < DOWN; down++) total += sums[j * PITCH + down * ACROSS + across];
    const int64_t place = static_cast<int64_t>(expert) * width + mine;
    if (grad_sum == nullptr) static_cast<T *>(grad)[place] = narrow<T>(total);
    else if (end > begin) grad_sum[place] += total;
}

template <typename T, int N> __device__ __forceinline__ void bias_grad(const MilletExpertBias &params) {
    const int blocks = params.gate_up_blocks + params.down_blocks;
    const int expert = blockIdx.x / blocks, chunk = blockIdx.x % blocks;
    if (chunk < params.gate_up_blocks) {
        sum_rows<T, N>(params, expert, chunk, static_cast<const T *>(params.h_grad), 2 * params.inner,
                       params.gate_up_grad, params.gate_up_grad_sum, [](int row) { return Weighed{row, 1.0f}; });
    } else {
        sum_rows<T, N>(params, expert, chunk - params.gate_up_blocks, static_cast<const T *>(params.output_grad),
                       params.hidden, params.down_grad, params.down_grad_sum, [&](int row) {
                           const int assignment = __ldg(params.row_to_assignment + row);
                           return Weighed{assignment / params.top_k, __ldg(params.weights + assignment)};
                       });
    }
}

}  // namespace millet

#define MILLET_EXPERT_BIAS(NAME, T)                                                                            \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 4)                                            \
        experts_bias_dots_##NAME(MilletExpertBias params) {                                                    \
        params.vectorized ? millet::bias_dots<T, millet::VECTOR<T>>(params) : millet::bias_dots<T, 1>(params); \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(MILLET_THREADS, 4)                                            \
        experts_bias_grad_##NAME(MilletExpertBias params) {                                                    \
        params.vectorized ? millet::bias_grad<T, millet::VECTOR<T>>(params) : millet::bias_grad<T, 1>(params); \
    }

MILLET_EXPERT_BIAS(f32, float)
MILLET_EXPERT_BIAS(bf16, millet::bf16)
MILLET_EXPERT_BIAS(f16, millet::f16)
