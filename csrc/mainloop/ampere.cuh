// The main loop of the experts' products for sm_80 and later: multistage cp.async, ldmatrix and mma.sync. A block
// computes tiles [TILE_M, TILE_N] one after another, and its operands pass through a ring of STAGES pipeline stages in
// shared memory.
//
// Four warps, two by two; each keeps [WARP_M, WARP_N] of the accumulator in registers. A stage holds 64 bytes of the
// reduction of both operands, one step. In each step:
//   every thread   its own copies of step s are done            wait_copies<STAGES − 2>
//   barrier        all copies of step s are visible; nobody reads step s − 1 any more
//   every thread   copies step s + STAGES − 1 into the stage of step s − 1, closes the group
//   every warp     multiplies step s
// Every warp is producer and consumer. One barrier per step, and one between tiles. After that one the next tile's
// first steps are copied before this tile's epilogue: results go from registers to global memory, so the ring is free.
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
#include "../device/tf32.cuh"

namespace millet {

// accumulator += a·b of one step.
template <typename T, Inputs INPUTS, int TILE_M, class ReaderA, class ReaderB>
__device__ __forceinline__ void multiply_step(Accumulator<TILE_M> &accumulator, const ReaderA &reader_a,
                                              const ReaderB &reader_b, bool tf32, uint32_t tile_a, uint32_t tile_b) {
    constexpr int MMA_M = Accumulator<TILE_M>::MMA_M, MMA_N = Accumulator<TILE_M>::MMA_N;
    uint32_t a[2][MMA_M][4], b[2][MMA_N][2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        reader_a.template load_a<T>(tile_a, half, a[half]);
        reader_b.template load_b<T>(tile_b, half, b[half]);
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
        // Tensor cores truncate their sums. A step's sum starts at 0, takes small terms first, and joins the
        // accumulator by a rounded addition, so that the error does not grow with the length of the reduction.
#pragma unroll
        for (int i = 0; i < MMA_M; i++) {
            uint32_t high[2][4], low[2][4];
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int v = 0; v < 4; v++) {
                    Tf32Split<INPUTS> split(a[half][i][v]);
                    high[half][v] = split.high, low[half][v] = split.low;
                }
#pragma unroll
            for (int j = 0; j < MMA_N; j++) {
                float partial[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                Tf32Split<INPUTS> b00(b[0][j][0]), b01(b[0][j][1]), b10(b[1][j][0]), b11(b[1][j][1]);
                mma<T>(partial, low[0], b00.high, b01.high);
                mma<T>(partial, low[1], b10.high, b11.high);
                mma<T>(partial, high[0], b00.low, b01.low);
                mma<T>(partial, high[1], b10.low, b11.low);
                mma<T>(partial, high[0], b00.high, b01.high);
                mma<T>(partial, high[1], b10.high, b11.high);
#pragma unroll
                for (int v = 0; v < 4; v++) accumulator.mma[i][j][v] += partial[v];
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
//   SKIPS_ZERO_ROWS                    does it skip rows for any inputs, so that tiles are computed again in 16 bits
//   too? void skip_zero_rows(Tile, a, b)    for any inputs, after `set_operands`: tells the operands which rows to skip
// A tile has `rows` and `columns` that are not padding, and the `depth` of its reduction. `tickets` counts the items
// drawn beyond each block's first; 0 when the kernel starts.
template <class Problem> __device__ __forceinline__ void grouped_gemm(const Problem &problem, uint32_t *tickets) {
    using T = typename Problem::Type;
    using OperandA = typename Problem::OperandA;
    using OperandB = typename Problem::OperandB;
    constexpr int TILE_M = Problem::TILE_M;
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
    auto load = [&](int step, int stage, auto inputs) {
        a.template load<decltype(inputs)::value>(tiles_a + stage * OperandA::BYTES, step);
        b.template load<decltype(inputs)::value>(tiles_b + stage * OperandB::BYTES, step);
    };
    auto begin = [&](const typename Problem::Tile &tile, auto inputs) {
        problem.set_operands(tile, a, b);
        if constexpr (decltype(inputs)::value == Inputs::Any) problem.skip_zero_rows(tile, a, b);
        // With inputs, not unrolled: unrolled, f32 spills, and such tiles are rare.
#pragma unroll(decltype(inputs)::value == Inputs::Any ? 1 : STAGES - 1)
        for (int step = 0; step < STAGES - 1; step++) {
            if (step * TILE_K<T> < tile.depth) load(step, step, inputs);
            ptx::commit_copies();
        }
    };
    auto multiply = [&](const typename Problem::Tile &tile, bool padding, Accumulator<TILE_M> &accumulator,
                        auto inputs) {
        const int steps = (tile.depth + TILE_K<T> - 1) / TILE_K<T>;
        accumulator.clear();
        int stage = 0, free_stage = STAGES - 1;
        for (int step = 0; step < steps; step++) {
            ptx::wait_copies<STAGES - 2>();
            __syncthreads();
            if (step + STAGES - 1 < steps) load(step + STAGES - 1, free_stage, inputs);
            ptx::commit_copies();
            if (!padding)
                multiply_step<T, decltype(inputs)::value>(accumulator, reader_a, reader_b, problem.params.tf32 != 0,
                                                          tiles_a + stage * OperandA::BYTES,
                                                          tiles_b + stage * OperandB::BYTES);
            free_stage = stage;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
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
