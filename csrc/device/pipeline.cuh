// The main loop that all of the experts' products share: a block computes tiles [ROWS, 128] one after another, and its
// operands pass through a ring of STAGES steps in shared memory.
//
// Four warps, two by two; each keeps [ROWS/2, 64] of the accumulator in registers. A step of the ring is 64 bytes of
// the reduction of both operands. In each step:
//   every thread   its own copies of step s are done            wait_copies<STAGES − 2>
//   barrier        all copies of step s are visible; nobody reads step s − 1 any more
//   every thread   copies step s + STAGES − 1 into the place of step s − 1, closes the group
//   every warp     multiplies step s
// One barrier per step, and one between tiles. After that one the next tile's first steps are fetched before this
// tile's epilogue: results go from registers to global memory, so the ring is free.
//
// A warp whose rows or columns are all padding skips its products: padding costs in units of [ROWS/2, 64].
//
// The fast main loop assumes finite numbers. A tile with a sum that is not finite is computed again, with care: the
// tf32 parts of an infinite f32 then give what f32 gives, and a weight's gradient leaves out rows that are 0, whatever
// the other factor is. Finite results keep their bits.
#pragma once
#include <type_traits>

#include "mma.cuh"
#include "tile.cuh"

namespace millet {

constexpr int COLUMNS = MILLET_PRODUCT_COLUMNS;
constexpr int WARP_COLUMNS = COLUMNS / 2;
constexpr int STAGES = MILLET_PRODUCT_STAGES;
// Blocks that must fit on a multiprocessor: one's results hide behind the other's products.
constexpr int RESIDENT = MILLET_PRODUCT_RESIDENT;

// The accumulator of a warp: [ROWS/2, 64] in pieces of [16, 8].
template <int ROWS> struct Sum {
    static constexpr int DOWN = ROWS / 32;
    static constexpr int ACROSS = WARP_COLUMNS / 8;
    float at[DOWN][ACROSS][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < DOWN; i++)
#pragma unroll
            for (int j = 0; j < ACROSS; j++)
#pragma unroll
                for (int v = 0; v < 4; v++) at[i][j][v] = 0.0f;
    }

    __device__ __forceinline__ bool finite() const {
        float check = 0.0f;  // NaN where something is not
#pragma unroll
        for (int i = 0; i < DOWN; i++)
#pragma unroll
            for (int j = 0; j < ACROSS; j++)
#pragma unroll
                for (int v = 0; v < 4; v++) check = fmaf(at[i][j][v], 0.0f, check);
        return check == check;
    }
};

// This thread's warp in the block's tile, and its place in a piece [16, 8] of the sum: rows `row` and `row` + 8,
// columns `column` and the next.
struct Position {
    static __device__ __forceinline__ int warp_down() { return threadIdx.x / 64; }
    static __device__ __forceinline__ int warp_across() { return threadIdx.x / 32 % 2; }
    static __device__ __forceinline__ int row() { return threadIdx.x % 32 / 4; }
    static __device__ __forceinline__ int column() { return threadIdx.x % 4 * 2; }
};

// sum += a·b of one step.
template <typename T, Care CARE, int ROWS, class ReaderA, class ReaderB>
__device__ __forceinline__ void multiply_step(Sum<ROWS> &sum, const ReaderA &read_a, const ReaderB &read_b, bool tf32,
                                              uint32_t tile_a, uint32_t tile_b) {
    constexpr int DOWN = Sum<ROWS>::DOWN, ACROSS = Sum<ROWS>::ACROSS;
    uint32_t a[2][DOWN][4], b[2][ACROSS][2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        read_a.template a<T>(tile_a, half, a[half]);
        read_b.template b<T>(tile_b, half, b[half]);
    }
    if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < DOWN; i++)
#pragma unroll
                for (int j = 0; j < ACROSS; j++) mma<T>(sum.at[i][j], a[half][i], b[half][j][0], b[half][j][1]);
    } else if (tf32) {
#pragma unroll
        for (int i = 0; i < DOWN; i++)
#pragma unroll
            for (int j = 0; j < ACROSS; j++) {
                float step[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    uint32_t high[4];
#pragma unroll
                    for (int v = 0; v < 4; v++) high[v] = nearest_tf32<CARE>(a[half][i][v]);
                    mma<T>(step, high, nearest_tf32<CARE>(b[half][j][0]), nearest_tf32<CARE>(b[half][j][1]));
                }
#pragma unroll
                for (int v = 0; v < 4; v++) sum.at[i][j][v] += step[v];
            }
    } else {
        // Tensor cores truncate their sums. A step's sum starts at 0, takes small terms first, and joins the
        // accumulator by a rounded addition, so that the error does not grow with the length of the reduction.
#pragma unroll
        for (int i = 0; i < DOWN; i++) {
            uint32_t high[2][4], low[2][4];
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int v = 0; v < 4; v++) {
                    Split<CARE> split(a[half][i][v]);
                    high[half][v] = split.high, low[half][v] = split.low;
                }
#pragma unroll
            for (int j = 0; j < ACROSS; j++) {
                float step[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                Split<CARE> b00(b[0][j][0]), b01(b[0][j][1]), b10(b[1][j][0]), b11(b[1][j][1]);
                mma<T>(step, low[0], b00.high, b01.high);
                mma<T>(step, low[1], b10.high, b11.high);
                mma<T>(step, high[0], b00.low, b01.low);
                mma<T>(step, high[1], b10.low, b11.low);
                mma<T>(step, high[0], b00.high, b01.high);
                mma<T>(step, high[1], b10.high, b11.high);
#pragma unroll
                for (int v = 0; v < 4; v++) sum.at[i][j][v] += step[v];
            }
        }
    }
}

// Runs a product. `Work` says what is multiplied and where the result goes:
//   Type, ROWS, OperandA, OperandB, ReaderA, ReaderB
//   items, Tile at(item)           the tiles, in order
//   void open(Tile, a, b)          sets the operands up for a tile
//   void store(Tile, Sum)          the epilogue
//   LEAVES_OUT                     does it leave out rows, so that tiles are multiplied again in 16 bits too?
//   void leave_out(Tile, a, b)     with care, after `open`: tells the operands which
// A tile has `rows` and `columns` that are not padding, and the `depth` of its reduction. `tickets` counts the items
// drawn beyond each block's first; 0 when the kernel starts.
template <class Work> __device__ __forceinline__ void multiply_tiles(const Work &work, uint32_t *tickets) {
    using T = typename Work::Type;
    using OperandA = typename Work::OperandA;
    using OperandB = typename Work::OperandB;
    constexpr int ROWS = Work::ROWS;
    extern __shared__ __align__(128) uint8_t ring[];
    const uint32_t tiles_a = ptx::shared_address(ring);
    const uint32_t tiles_b = tiles_a + STAGES * OperandA::BYTES;

    const int first_row = Position::warp_down() * (ROWS / 2);
    const int first_column = Position::warp_across() * WARP_COLUMNS;
    const auto read_a = Work::ReaderA::of_a(first_row);
    const auto read_b = Work::ReaderB::of_b(first_column);

    OperandA a;
    OperandB b;
    // `care` is a constant of type Fast or Any: each has a loop of its own, so that the one does not cost the other.
    using Fast = std::integral_constant<Care, Care::Fast>;
    using Any = std::integral_constant<Care, Care::Any>;
    auto load = [&](int step, int stage, auto care) {
        a.template load<decltype(care)::value>(tiles_a + stage * OperandA::BYTES, step);
        b.template load<decltype(care)::value>(tiles_b + stage * OperandB::BYTES, step);
    };
    auto begin = [&](const typename Work::Tile &tile, auto care) {
        work.open(tile, a, b);
        if constexpr (decltype(care)::value == Care::Any) work.leave_out(tile, a, b);
        // With care, not unrolled: unrolled, f32 spills, and such tiles are rare.
#pragma unroll(decltype(care)::value == Care::Any ? 1 : STAGES - 1)
        for (int step = 0; step < STAGES - 1; step++) {
            if (step * STEP<T> < tile.depth) load(step, step, care);
            ptx::commit_copies();
        }
    };
    auto multiply = [&](const typename Work::Tile &tile, bool padding, Sum<ROWS> &sum, auto care) {
        const int steps = (tile.depth + STEP<T> - 1) / STEP<T>;
        sum.clear();
        int stage = 0, free_stage = STAGES - 1;
        for (int step = 0; step < steps; step++) {
            ptx::wait_copies<STAGES - 2>();
            __syncthreads();
            if (step + STAGES - 1 < steps) load(step + STAGES - 1, free_stage, care);
            ptx::commit_copies();
            if (!padding)
                multiply_step<T, decltype(care)::value>(sum, read_a, read_b, work.p.tf32 != 0,
                                                        tiles_a + stage * OperandA::BYTES,
                                                        tiles_b + stage * OperandB::BYTES);
            free_stage = stage;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
    };

    // Of two tiles in turn: a thread may still read one when the next is written.
    __shared__ uint32_t drawn[2];
    uint32_t item = blockIdx.x;
    if (item >= work.items) return;  // guard: fewer tiles than blocks
    typename Work::Tile tile = work.at(item);
    begin(tile, Fast());
    for (int turn = 0;; turn ^= 1) {
        // Drawn now, needed when this tile is done.
        uint32_t next = 0;
        if (threadIdx.x == 0) next = gridDim.x + atomicAdd(tickets, 1u);

        const bool padding = first_row >= tile.rows || first_column >= tile.columns;
        Sum<ROWS> sum;
        multiply(tile, padding, sum, Fast());

        if (threadIdx.x == 0) drawn[turn] = next;
        if constexpr (sizeof(T) == 2 && !Work::LEAVES_OUT) {
            __syncthreads();
        } else if (__syncthreads_or(!sum.finite())) {
            begin(tile, Any());
            multiply(tile, padding, sum, Any());
            __syncthreads();
        }
        item = drawn[turn];
        const typename Work::Tile done = tile;
        const bool more = item < work.items;
        if (more) {
            tile = work.at(item);
            begin(tile, Fast());
        }
        if (!padding) work.store(done, sum);
        if (!more) break;
    }
}

}  // namespace millet
