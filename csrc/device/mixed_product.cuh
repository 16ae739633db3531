// Products with dz, which is f32, by tensor cores: 3xTF32, or two thirds of it where the other operand has 16 bits and
// so is a tf32 number already. Where dz is 0 the other factor does not count, whatever it is.
//
// A block of 8 warps, two by four, computes a tile [64, 128]; each keeps [32, 32] of the accumulator in registers. A
// step takes 16 of the reduction. Operands pass through the ring of device/pipeline.cuh in the layouts of
// device/layout.cuh: dz K-major or MN-major, the other MN-major in its own type, and widened when fragments are read.
#pragma once
#include <type_traits>

#include "../params.h"
#include "accumulator.cuh"
#include "layout.cuh"
#include "operand.cuh"
#include "pipeline.cuh"
#include "tf32.cuh"

namespace millet {

constexpr int MIXED_TILE_M = MILLET_MIXED_ROWS, MIXED_TILE_N = MILLET_MIXED_COLUMNS, MIXED_TILE_K = MILLET_MIXED_STEP;

// Which side of dz [T, E] is the reduction: the experts (K-major), or the tokens (MN-major).
enum class Major { K, Mn };

template <Major MAJOR, typename Other> struct MixedTile {
    using OperandA =
        std::conditional_t<MAJOR == Major::K,
                           KMajorOperand<float, MIXED_TILE_M, Access::Runtime, Rows::Consecutive, MILLET_THREADS>,
                           MnMajorOperand<float, MIXED_TILE_M, Access::Runtime, Rows::Consecutive, MILLET_THREADS>>;
    using OperandB =
        MnMajorOperand<Other, MIXED_TILE_N, Access::Runtime, Rows::Consecutive, MILLET_THREADS, MIXED_TILE_K>;
    using ReaderA = std::conditional_t<MAJOR == Major::K, KMajorReader, MnMajorReader<float>>;
    using ReaderB = std::conditional_t<sizeof(Other) == 4, MnMajorReader<float>, WideningMnMajorReader<Other>>;
    static constexpr Factor FACTOR_B = sizeof(Other) == 4 ? Factor::F32 : Factor::Tf32;
    // Of f32 no fourth fits into static shared memory; four of 16 bits take no more of it than the sums.
    static constexpr int STAGES = sizeof(Other) == 4 ? 3 : 4;
    static constexpr int RING_BYTES = STAGES * (OperandA::BYTES + OperandB::BYTES);
    // Rows of the sums in shared memory, in floats: 8 more, so that the 4 rows of half a warp's pairs do not share
    // banks.
    static constexpr int SUM_STRIDE = MIXED_TILE_N + 8;
    static constexpr int SUM_BYTES = MIXED_TILE_M * SUM_STRIDE * 4;

    static_assert(MIXED_TILE_K == TILE_K<float>, "a step of dz is 64 bytes");
    static_assert(RING_BYTES + 1024 <= SHARED_BYTES_OF_BLOCK && SUM_BYTES + 1024 <= SHARED_BYTES_OF_BLOCK,
                  "static shared memory, and room for a ticket");
    static_assert(MIXED_TILE_M == 2 * 32 && MIXED_TILE_N == 4 * 32 && MILLET_THREADS == 8 * 32, "warps cover the tile");
    static_assert(OperandA::COPIES * MILLET_THREADS * CHUNK_BYTES == OperandA::BYTES &&
                      OperandB::COPIES * MILLET_THREADS * CHUNK_BYTES == OperandB::BYTES,
                  "copies per thread and step fill a stage");

    using Coord = WarpCoord<4>;
    WarpAccumulator<2, 4> accumulator;

    // This thread's elements of the first mma tile: rows row() and row() + 8, columns column() and the next.
    __device__ static int row() { return Coord::warp_m() * 32 + Coord::row(); }
    __device__ static int column() { return Coord::warp_n() * 32 + Coord::column(); }

    static __device__ __forceinline__ void multiply_step(WarpAccumulator<2, 4> &accumulator, const ReaderA &reader_a,
                                                         const ReaderB &reader_b, uint32_t tile_a, uint32_t tile_b) {
        using PartsA = Tf32Parts<Inputs::Finite, Factor::F32, 4>;
        using PartsB = Tf32Parts<Inputs::Finite, FACTOR_B, 2>;
        // Not unrolled: both halves at once would take too many registers for two blocks per multiprocessor.
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
            uint32_t a[2][4], b[4][2];
            reader_a.load_a(tile_a, half, a);
            reader_b.load_b(tile_b, half, b);
            const PartsA parts_a[2][1] = {{PartsA(a[0])}, {PartsA(a[1])}};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const PartsB parts_b[1] = {PartsB(b[j])};
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    mma_3xtf32<SmallTerms::OfBFirst>(accumulator.mma[i][j], parts_a[i], parts_b);
            }
        }
    }

    // The product of the first `steps` steps of the operands. `shared`, of RING_BYTES, is free when this returns.
    __device__ __forceinline__ void run(OperandA &a, OperandB &b, int steps, void *shared) {
        const ReaderA reader_a = ReaderA::of_a(Coord::warp_m() * 32);
        const ReaderB reader_b = ReaderB::of_b(Coord::warp_n() * 32);
        accumulator.clear();
        multiply_all<STAGES>(a, b, steps, shared, [&](uint32_t tile_a, uint32_t tile_b) {
            multiply_step(accumulator, reader_a, reader_b, tile_a, tile_b);
        });
    }

    // Computes sums that are not finite again, in f32 and without the products of a dz of 0: a bad row or a masked
    // expert has a dz of 0, and any value beside it. `dz(k, m)` and `other(k, n)` are the factors of the tile's row m
    // and column n, k from 0 to `depth`. Rows and columns from `rows` and `columns` on do not exist.
    template <typename DzAt, typename OtherAt>
    __device__ __forceinline__ void recompute(int64_t depth, int rows, int columns, DzAt dz, OtherAt other) {
        if (accumulator.finite()) return;
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

    // Calls each(16·i + 4·j + v, accumulator.mma[i][j][v]).
    template <typename Each> __device__ __forceinline__ void each(Each call) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int v = 0; v < 4; ++v) call(16 * i + 4 * j + v, accumulator.mma[i][j][v]);
    }
};

}  // namespace millet
