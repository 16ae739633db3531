// Products with dz, which is f32, by tensor cores: 3xTF32, or two thirds of it where the other operand has 16 bits and
// so is a tf32 number already. Where dz is 0 the other factor does not count, whatever it is.
//
// A block of 8 warps computes a tile [64, 128]; each warp keeps [32, 32] of the accumulator in registers. Operands are
// widened as they are stored to shared memory, 16 of the reduction at a time, into two buffers in turn:
//   every thread   fetches its part of step s + 1 into registers
//   every warp     multiplies step s
//   every thread   stores what it fetched into the buffer of step s − 1
//   barrier        step s + 1 is visible; nobody reads step s any more
// Fragments are single words at (k, m) or (k, n); rows are 8 (or, with k contiguous, 4) modulo 32 words apart, so that
// the 32 lanes of a load have 32 banks.
#pragma once
#include "../params.h"
#include "mma.cuh"
#include "tf32.cuh"
#include "vector.cuh"

namespace millet {

constexpr int MIXED_TILE_M = MILLET_MIXED_ROWS, MIXED_TILE_N = MILLET_MIXED_COLUMNS, MIXED_TILE_K = MILLET_MIXED_STEP;

// How a tile of dz lies in shared memory.
enum class Major {
    // [k][m]: dz [T, E] with the tokens as the reduction.
    Mn,
    // [m][k]: dz [T, E] with the experts as the reduction.
    K,
};

template <Major A> struct MixedTile {
    static constexpr int A_STRIDE = A == Major::Mn ? MIXED_TILE_M + 8 : MIXED_TILE_K + 4;
    static constexpr int A_WORDS = A == Major::Mn ? MIXED_TILE_K * A_STRIDE : MIXED_TILE_M * A_STRIDE;
    static constexpr int B_STRIDE = MIXED_TILE_N + 8;
    static constexpr int B_WORDS = MIXED_TILE_K * B_STRIDE;
    static constexpr int WORDS = A_WORDS + B_WORDS;  // of one buffer
    // Where column n of a row of B is: neighbouring 16 bytes change places in every other 32 columns, so that threads
    // which store 32 bytes each, 16 at a time, have different banks.
    __device__ static int b_column(int n) { return n ^ (n >> 3 & 4); }
    // The sum in shared memory, in the place of the operands.
    static constexpr int SUM_STRIDE = MIXED_TILE_N + 8;

    float accumulator[2][4][4];  // mma tiles [16, 8]

    // This thread's elements of an mma tile: rows row() and row() + 8, columns column() and the next.
    __device__ static int row() { return threadIdx.x / 128 * 32 + threadIdx.x % 32 / 4; }
    __device__ static int column() { return threadIdx.x / 32 % 4 * 32 + threadIdx.x % 4 * 2; }

    template <bool B_EXACT> __device__ __forceinline__ void multiply(const float *a, const float *b) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const int first_m = threadIdx.x / 128 * 32, first_n = threadIdx.x / 32 % 4 * 32;
        auto at = [&](int k, int m) {
            return __float_as_uint(A == Major::Mn ? a[k * A_STRIDE + m] : a[m * A_STRIDE + k]);
        };
        // Not unrolled: both halves at once would take too many registers for two blocks per multiprocessor.
#pragma unroll 1
        for (int k = 0; k < MIXED_TILE_K; k += 8) {
            uint32_t high[2][4], low[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int v = 0; v < 4; ++v) {
                    Tf32Split<Inputs::Finite> split(at(k + t + v / 2 * 4, first_m + i * 16 + g + v % 2 * 8));
                    high[i][v] = split.high, low[i][v] = split.low;
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float *from = &b[(k + t) * B_STRIDE + b_column(first_n + j * 8 + g)];
                uint32_t b_high[2], b_low[2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    b_high[half] = __float_as_uint(from[half * 4 * B_STRIDE]);
                    if constexpr (!B_EXACT) {
                        Tf32Split<Inputs::Finite> split(b_high[half]);
                        b_high[half] = split.high, b_low[half] = split.low;
                    }
                }
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    // From 0 and small terms first, then a rounded addition: tensor cores truncate their sums.
                    float part[4] = {};
                    if constexpr (!B_EXACT) mma<float>(part, high[i], b_low[0], b_low[1]);
                    mma<float>(part, low[i], b_high[0], b_high[1]);
                    mma<float>(part, high[i], b_high[0], b_high[1]);
#pragma unroll
                    for (int v = 0; v < 4; ++v) accumulator[i][j][v] += part[v];
                }
            }
        }
    }

    // Steps first… last of the reduction. `fetch(step)` gives this thread's part of a step, `put(part, a, b)` stores
    // it.
    template <bool B_EXACT, typename Fetch, typename Put>
    __device__ __forceinline__ void run(int first, int last, float *shared, Fetch fetch, Put put) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int v = 0; v < 4; ++v) accumulator[i][j][v] = 0.0f;
        if (first >= last) return;
        put(fetch(first), shared, shared + A_WORDS);
        __syncthreads();
        for (int step = first; step < last; ++step) {
            float *here = shared + (step - first) % 2 * WORDS, *there = shared + (step - first + 1) % 2 * WORDS;
            bool more = step + 1 < last;
            auto next = fetch(more ? step + 1 : step);
            multiply<B_EXACT>(here, here + A_WORDS);
            if (more) put(next, there, there + A_WORDS);
            __syncthreads();
        }
    }

    // Computes sums that are not finite again, in f32 and without the products of a dz of 0: a bad row or a masked
    // expert has a dz of 0, and any value beside it. `dz(k, m)` and `other(k, n)` are the factors of the tile's row m
    // and column n, k from 0 to `depth`. Rows and columns from `rows` and `columns` on do not exist.
    template <typename Dz, typename Other>
    __device__ __forceinline__ void recompute(int64_t depth, int rows, int columns, Dz dz, Other other) {
        float check = 0.0f;  // NaN where a sum is not finite
        each([&](int, float &sum) { check = fmaf(sum, 0.0f, check); });
        if (check == check) return;
        // One loop for all sums, whose registers it finds by comparing: 32 loops would need more registers than the
        // product.
#pragma unroll 1
        for (int index = 0; index < 32; ++index) {
            const int m = row() + index / 16 * 16 + index / 2 % 2 * 8, n = column() + index / 4 % 4 * 8 + index % 2;
            float value = 0.0f;
            each([&](int own, float &sum) { value = own == index ? sum : value; });
            if (is_finite(value) || m >= rows || n >= columns) continue;
            value = 0.0f;
#pragma unroll 1
            for (int64_t k = 0; k < depth; ++k) {
                const float factor = dz(k, m);
                if (factor != 0.0f) value = fmaf(factor, other(k, n), value);
            }
            each([&](int own, float &sum) { sum = own == index ? value : sum; });
        }
    }

    // Calls each(16·i + 4·j + v, accumulator[i][j][v]).
    template <typename Each> __device__ __forceinline__ void each(Each call) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int v = 0; v < 4; ++v) call(16 * i + 4 * j + v, accumulator[i][j][v]);
    }
};

// Eight neighbouring elements of a row of `columns`, widened; zeros beyond the end, and all zeros when the row is not
// there.
template <typename T> struct Eight {
    float v[8];

    __device__ static Eight load(const T *row, int column, int columns, bool there, bool aligned) {
        Eight result = {};
        if (!there || column >= columns) return result;
        if (aligned) {  // rows are 16-byte aligned and whole vectors long
#pragma unroll
            for (int i = 0; i < 8; i += VECTOR<T>) {
                if (column + i >= columns) break;
                auto part = Vector<T, VECTOR<T>>::load(&row[column + i]);
#pragma unroll
                for (int j = 0; j < VECTOR<T>; ++j) result.v[i + j] = widen(part.v[j]);
            }
        } else {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                if (column + i < columns) result.v[i] = widen(__ldg(&row[column + i]));
            }
        }
        return result;
    }

    // To columns `column`… of a row of B.
    __device__ void store(float *row, int column) const {
        using Tile = MixedTile<Major::Mn>;
        *reinterpret_cast<float4 *>(&row[Tile::b_column(column)]) = make_float4(v[0], v[1], v[2], v[3]);
        *reinterpret_cast<float4 *>(&row[Tile::b_column(column + 4)]) = make_float4(v[4], v[5], v[6], v[7]);
    }
};

// Four neighbouring elements of a row of dz; zeros beyond the end.
__device__ __forceinline__ float4 load_four(const float *row, int column, int experts, bool there) {
    if (there && experts % 4 == 0) {
        return column < experts ? __ldg(reinterpret_cast<const float4 *>(&row[column]))
                                : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    auto at = [&](int i) { return there && i < experts ? __ldg(&row[i]) : 0.0f; };
    return make_float4(at(column), at(column + 1), at(column + 2), at(column + 3));
}

}  // namespace millet
