// The main loop of the experts' products for sm_80 and later: multistage cp.async, ldmatrix and mma.sync. A block
// computes tiles [TILE_M, TILE_N] one after another, and its operands pass through a ring of STAGES pipeline stages in
// shared memory.
//
// Four warps, two by two; each keeps [WARP_M, WARP_N] of the accumulator in registers. A stage holds 64 bytes of the
// reduction of both operands, one step. Producers, consumers and the barrier of a step: device/pipeline.cuh. One more
// barrier between tiles: after it the next tile's first steps are copied, before this tile's epilogue. Results go from
// registers to global memory, so the ring is free.
//
// A warp whose rows or columns are all padding skips its products: padding costs in units of [WARP_M, WARP_N].
//
// The fast main loop assumes finite inputs. A tile with a sum that is not finite is computed again for any inputs: the
// tf32 parts of an infinite f32 then give what f32 gives, and a weight's gradient skips rows that are 0, whatever the
// other factor is. Finite results keep their bits.
#pragma once
#include <type_traits>

#include "../device/accumulator.cuh"
#include "../device/mma.cuh"
#include "../device/operand.cuh"
#include "../device/pipeline.cuh"
#include "../device/tf32.cuh"

namespace millet {

// accumulator += a·b of one step.
template <typename T, Inputs INPUTS, class Sums, class ReaderA, class ReaderB>
__device__ __forceinline__ void multiply_step(Sums &accumulator, const ReaderA &reader_a, const ReaderB &reader_b,
                                              bool tf32, uint32_t tile_a, uint32_t tile_b) {
    constexpr int MMA_M = Sums::MMA_M, MMA_N = Sums::MMA_N;
    uint32_t a[2][MMA_M][4], b[2][MMA_N][2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        reader_a.load_a(tile_a, half, a[half]);
        reader_b.load_b(tile_b, half, b[half]);
    }
    if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < MMA_M; i++)
#pragma unroll
                for (int j = 0; j < MMA_N; j++) mma<T>(accumulator.mma[i][j], a[half][i], b[half][j][0], b[half][j][1]);
    } else if (tf32) {
#pragma unroll
        for (int i = 0; i < MMA_M; i++)
#pragma unroll
            for (int j = 0; j < MMA_N; j++) {
                float partial[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    uint32_t high[4];
#pragma unroll
                    for (int v = 0; v < 4; v++) high[v] = round_to_tf32<INPUTS>(a[half][i][v]);
                    mma<T>(partial, high, round_to_tf32<INPUTS>(b[half][j][0]), round_to_tf32<INPUTS>(b[half][j][1]));
                }
#pragma unroll
                for (int v = 0; v < 4; v++) accumulator.mma[i][j][v] += partial[v];
            }
    } else {
        using PartsA = Tf32Parts<INPUTS, Factor::F32, 4>;
        using PartsB = Tf32Parts<INPUTS, Factor::F32, 2>;
#pragma unroll
        for (int i = 0; i < MMA_M; i++) {
            const PartsA parts_a[2] = {PartsA(a[0][i]), PartsA(a[1][i])};
#pragma unroll
            for (int j = 0; j < MMA_N; j++) {
                const PartsB parts_b[2] = {PartsB(b[0][j]), PartsB(b[1][j])};
                mma_3xtf32<SmallTerms::OfAFirst>(accumulator.mma[i][j], parts_a, parts_b);
            }
        }
    }
}

// The persistent kernel: computes the tiles of a grouped GEMM. `Problem` says what is multiplied and where results go:
//   Type, TILE_M, OperandA, OperandB, ReaderA, ReaderB
//   params                             the kernel's parameters
//   items, Tile at(item)               the tiles, in order (device/tile_scheduler.cuh)
//   void set_operands(Tile, a, b)      sets the operands to a tile
//   void epilogue(Tile, accumulator)   what becomes of the tile's sums
//   SKIPS_ZERO_ROWS                    whether it skips rows for any inputs: tiles are computed again in 16 bits too
//   void skip_zero_rows(Tile, a, b)    for any inputs, after `set_operands`: tells the operands which rows to skip
// A tile has `rows` and `columns` that are not padding, and the `depth` of its reduction. `tickets` counts the items
// drawn beyond each block's first; 0 when the kernel starts.
template <class Problem> __device__ __forceinline__ void grouped_gemm(const Problem &problem, uint32_t *tickets) {
    using T = typename Problem::Type;
    using OperandA = typename Problem::OperandA;
    using OperandB = typename Problem::OperandB;
    constexpr int TILE_M = Problem::TILE_M;
    constexpr int RING_BYTES = STAGES * (OperandA::BYTES + OperandB::BYTES);
    static_assert(RING_BYTES == STAGES * (TILE_M + TILE_N) * STEP_BYTES, "what the host asks for");
    static_assert(RING_BYTES <= SHARED_BYTES_OF_BLOCK, "no kernel opts in");
    // A block has 1 KiB more for the system and 128 bytes for what it draws.
    static_assert(RESIDENT * (RING_BYTES + 1024 + 128) <= SHARED_BYTES_OF_MULTIPROCESSOR, "so many blocks fit");
    static_assert((OperandA::COPIES + OperandB::COPIES) * THREADS * CHUNK_BYTES * STAGES == RING_BYTES,
                  "copies per thread and step fill a stage");
    static_assert(TILE_M % (16 * WARPS_M) == 0, "fragments cover the tile");
    extern __shared__ __align__(128) uint8_t ring[];
    const uint32_t tiles_a = ptx::shared_address(ring);
    const uint32_t tiles_b = tiles_a + STAGES * OperandA::BYTES;

    const int first_row = ThreadCoord::warp_m() * WARP_M<TILE_M>;
    const int first_column = ThreadCoord::warp_n() * WARP_N;
    const auto reader_a = Problem::ReaderA::of_a(first_row);
    const auto reader_b = Problem::ReaderB::of_b(first_column);

    OperandA a;
    OperandB b;
    // `inputs` is a constant of type Finite or Any: each has a loop of its own, so that the one does not cost the
    // other.
    using Finite = std::integral_constant<Inputs, Inputs::Finite>;
    using Any = std::integral_constant<Inputs, Inputs::Any>;
    using Ring = Pipeline<STAGES>;
    auto steps_of = [](const typename Problem::Tile &tile) { return (tile.depth + TILE_K<T> - 1) / TILE_K<T>; };
    auto load = [&](int step, int stage, auto inputs) {
        a.template load<decltype(inputs)::value>(tiles_a + stage * OperandA::BYTES, step);
        b.template load<decltype(inputs)::value>(tiles_b + stage * OperandB::BYTES, step);
    };
    auto begin = [&](const typename Problem::Tile &tile, auto inputs) {
        problem.set_operands(tile, a, b);
        if constexpr (decltype(inputs)::value == Inputs::Any) problem.skip_zero_rows(tile, a, b);
        // For any inputs not unrolled: unrolled, f32 spills, and such tiles are rare.
        constexpr int UNROLL = decltype(inputs)::value == Inputs::Any ? 1 : STAGES - 1;
        Ring::template prologue<UNROLL>(steps_of(tile), [&](int step, int stage) { load(step, stage, inputs); });
    };
    auto multiply = [&](const typename Problem::Tile &tile, bool padding, Accumulator<TILE_M> &accumulator,
                        auto inputs) {
        accumulator.clear();
        Ring::run(
            steps_of(tile), [&](int step, int stage) { load(step, stage, inputs); },
            [&](int stage) {
                if (padding) return;
                multiply_step<T, decltype(inputs)::value>(accumulator, reader_a, reader_b, problem.params.tf32 != 0,
                                                          tiles_a + stage * OperandA::BYTES,
                                                          tiles_b + stage * OperandB::BYTES);
            });
    };

    // Of two tiles in turn: a thread may still read one when the next is written.
    __shared__ uint32_t drawn[2];
    uint32_t item = blockIdx.x;
    if (item >= problem.items) return;  // guard: fewer tiles than blocks
    typename Problem::Tile tile = problem.at(item);
    begin(tile, Finite());
    for (int turn = 0;; turn ^= 1) {
        // Drawn now, needed when this tile is done.
        uint32_t next = 0;
        if (threadIdx.x == 0) next = gridDim.x + atomicAdd(tickets, 1u);

        const bool padding = first_row >= tile.rows || first_column >= tile.columns;
        Accumulator<TILE_M> accumulator;
        multiply(tile, padding, accumulator, Finite());

        if (threadIdx.x == 0) drawn[turn] = next;
        if constexpr (sizeof(T) == 2 && !Problem::SKIPS_ZERO_ROWS) {
            __syncthreads();
        } else if (__syncthreads_or(!accumulator.finite())) {
            begin(tile, Any());
            multiply(tile, padding, accumulator, Any());
            __syncthreads();
        }
        item = drawn[turn];
        const typename Problem::Tile done = tile;
        const bool more = item < problem.items;
        if (more) {
            tile = problem.at(item);
            begin(tile, Finite());
        }
        if (!padding) problem.epilogue(done, accumulator);
        if (!more) break;
    }
}

}  // namespace millet
