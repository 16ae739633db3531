// Tiles of operands in shared memory: where their chunks of 16 bytes (`PIECE`) lie, how they get there, and how warps
// read them.
//
// A step of the main loop takes 64 bytes of the reduction: STEP elements. An operand is K-major in global memory
// (x·gate_upᵀ: both) or MN-major (dO·down: down; the weight gradients: both), so there are two layouts, `Along` and
// `Across`. Each has an operand, which copies chunks from global memory, and a reader, which gives a warp its
// fragments. An exclusive or swizzles the chunks, so that every access of a warp, 8 lanes at a time, falls into 8
// different groups of 4 banks.
#pragma once
#include "../params.h"
#include "mma.cuh"
#include "numeric.cuh"
#include "ptx.cuh"

namespace millet {

constexpr int THREADS = MILLET_PRODUCT_THREADS;
constexpr int PIECE = 16;  // bytes

// Elements of a 16-byte piece, and of a step of the reduction.
template <typename T> constexpr int PIECE_ELEMENTS = PIECE / static_cast<int>(sizeof(T));
template <typename T> constexpr int STEP = MILLET_PRODUCT_STEP_BYTES / static_cast<int>(sizeof(T));

// How pieces are loaded: 16 bytes at a time, for which every row of every tensor must begin at a multiple of 16 bytes,
// or element by element.
enum class Access { Pieces, Elements };

// Row `row` of a matrix whose rows are `stride` bytes apart: one multiply-add of 32 bits by 32 to 64. From sm_100 on
// ptxas has to be told: it would add `matrix` apart, in two instructions more per address.
template <typename T> __device__ __forceinline__ const T *row_of(const T *matrix, uint32_t row, uint32_t stride) {
#if __CUDA_ARCH__ >= 1000
    const T *address;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(address) : "r"(row), "r"(stride), "l"(matrix));
    return address;
#else
    return reinterpret_cast<const T *>(reinterpret_cast<const char *>(matrix) + static_cast<uint64_t>(row) * stride);
#endif
}

// Copies a piece, or the first `elements` of it (at most a whole one) and zeros.
template <typename T, Access ACCESS>
__device__ __forceinline__ void copy_piece(uint32_t to, const T *from, int elements) {
    if constexpr (ACCESS == Access::Pieces) {
        ptx::copy_async(to, from, elements > 0 ? PIECE : 0);
    } else {
        union {
            T element[PIECE_ELEMENTS<T>];
            uint4 piece;
        };
#pragma unroll
        for (int i = 0; i < PIECE_ELEMENTS<T>; i++) element[i] = i < elements ? from[i] : narrow<T>(0.0f);
        ptx::store_shared(to, piece);
    }
}

// Is a row of `columns` exactly 0?
template <typename T> __device__ __forceinline__ bool is_zero(const T *row, int columns) {
    for (int i = 0; i < columns; i++) {
        if (widen(row[i]) != 0.0f) return false;
    }
    return true;
}

// Quotients by a divisor that the host knows: n / d = (hi(n·multiplier) + n) >> shift for n < 2³¹.
struct Divider {
    uint32_t multiplier, shift;
    __device__ __forceinline__ uint32_t divide(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

// K-major: the reduction is contiguous.

// [ROWS][64 bytes]; chunk p of row r is at place p ^ (r / 2 % 4): a pair of rows fills the 32 banks.
struct Along {
    static __device__ __forceinline__ uint32_t place(int row, int piece) {
        return row * 64 + ((piece ^ (row / 2 % 4)) * PIECE);
    }
};

// Rows of a matrix [·, depth]: thread t copies piece t % 4 of rows t / 4, t / 4 + 32, ….
template <typename T, int ROWS, Access ACCESS> class AlongOperand {
    static constexpr int COPIES = ROWS * 4 / THREADS;
    const T *matrix;
    int depth;
    uint32_t rows[COPIES];
    // Of the reduction, for each row: 0 where there is none.
    int limits[COPIES];

public:
    static constexpr int BYTES = ROWS * 64;

    // `row_of(r)` is the matrix's row that becomes row r of the tile, negative for zeros.
    template <class RowOf> __device__ __forceinline__ void open(const T *matrix, int depth, RowOf row_of) {
        this->matrix = matrix;
        this->depth = depth;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int row = row_of(static_cast<int>(threadIdx.x) / 4 + i * (THREADS / 4));
            rows[i] = row < 0 ? 0 : row;
            limits[i] = row < 0 ? 0 : depth;
        }
    }

    template <Care CARE> __device__ __forceinline__ void load(uint32_t tile, int step) {
        int piece = threadIdx.x % 4;
        int k = step * STEP<T> + piece * PIECE_ELEMENTS<T>;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            const T *from = row_of(matrix + k, rows[i], depth * sizeof(T));
            uint32_t to = tile + Along::place(threadIdx.x / 4, piece) + i * (THREADS / 4 * 64);
            copy_piece<T, ACCESS>(to, from, limits[i] - k);
        }
    }
};

// Fragments of rows first.. of a tile: `COUNT` of 16 rows as a, or of 8 rows as b.
class AlongReader {
    uint32_t place;

public:
    static __device__ __forceinline__ AlongReader of_a(int first) {
        AlongReader reader;
        reader.place = Along::place(first + threadIdx.x % 16, threadIdx.x % 32 / 16);
        return reader;
    }
    static __device__ __forceinline__ AlongReader of_b(int first) {
        AlongReader reader;
        reader.place = Along::place(first + threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8, threadIdx.x / 8 % 2);
        return reader;
    }

    // `half` of the step.
    template <typename T, int COUNT>
    __device__ __forceinline__ void a(uint32_t tile, int half, uint32_t (&to)[COUNT][4]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) ptx::load_matrices(to[i], tile + (place ^ (half * 32)) + i * (16 * 64));
    }
    template <typename T, int COUNT>
    __device__ __forceinline__ void b(uint32_t tile, int half, uint32_t (&to)[COUNT][2]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            uint32_t four[4];
            ptx::load_matrices(four, tile + (place ^ (half * 32)) + i * (8 * 64));
            to[i][0] = four[0], to[i][1] = four[1], to[i + 1][0] = four[2], to[i + 1][1] = four[3];
        }
    }
};

// MN-major: the other side is contiguous.

// Panels of 128 bytes of columns, one after another: [COLUMNS·size / 128][STEP][128 bytes]. Chunk p of a panel's row k
// is at place p ^ twist(k): ldmatrix takes one chunk of 8 rows, 32-bit loads take two chunks of 4 rows.
template <typename T> struct Across {
    static constexpr int PANEL = 128 / sizeof(T);  // columns
    static constexpr int PANEL_BYTES = STEP<T> * 128;
    static constexpr int PERIOD = sizeof(T) == 2 ? 8 : 4;
    static __device__ __forceinline__ int twist(int k) { return k % PERIOD * (8 / PERIOD); }
    static __device__ __forceinline__ uint32_t place(int k, int piece) {
        return piece / 8 * PANEL_BYTES + k * 128 + ((piece % 8) ^ twist(k)) * PIECE;
    }
};

// Where an operand's rows along the reduction come from: they follow each other, or each is the token of an assignment.
enum class Order { Consecutive, Gathered };

// Columns of a matrix [·, stride]: thread t copies piece t % PIECES of rows t / PIECES, … of a step.
template <typename T, int COLUMNS, Access ACCESS, Order ORDER> class AcrossOperand {
    static constexpr int PIECES = COLUMNS / PIECE_ELEMENTS<T>;
    static constexpr int ROWS = THREADS / PIECES;  // that a pass of the block copies
    static constexpr int COPIES = STEP<T> / ROWS;
    static_assert(ROWS % Across<T>::PERIOD == 0, "all rows of a thread must be twisted alike");
    const T *matrix;
    int stride, depth;
    // Columns from this thread's piece on.
    int columns;
    const int32_t *assignments;
    Divider top_k;
    // With care: the other operand's rows. A gathered row is left out where the other operand's row is 0.
    const T *factors;
    int factor_columns;
    // Of the next step's rows: loaded a step ahead. Negative: there is none.
    int next[COPIES];

    template <Care CARE> __device__ __forceinline__ void fetch(int step) {
        if constexpr (ORDER == Order::Gathered) {
#pragma unroll
            for (int i = 0; i < COPIES; i++) {
                int k = step * STEP<T> + static_cast<int>(threadIdx.x) / PIECES + i * ROWS;
                next[i] = k < depth ? __ldg(assignments + k) : -1;
                if constexpr (CARE == Care::Any) {
                    if (k < depth && is_zero(row_of(factors, k, factor_columns * sizeof(T)), factor_columns))
                        next[i] = -1;
                }
            }
        }
    }

public:
    static constexpr int BYTES = COLUMNS * 64;

    // Columns first.. of `columns`. `assignments` of the reduction's rows where they are gathered.
    __device__ __forceinline__ void open(const T *matrix, int stride, int depth, int first, int columns,
                                         const int32_t *assignments = nullptr, Divider top_k = {}) {
        int column = first + static_cast<int>(threadIdx.x) % PIECES * PIECE_ELEMENTS<T>;
        this->matrix = matrix + column;
        this->stride = stride;
        this->depth = depth;
        this->columns = columns - column;
        this->assignments = assignments;
        this->top_k = top_k;
        fetch<Care::Fast>(0);
    }

    // Leaves out gathered rows whose row of `factors` [depth, factor_columns] is 0.
    __device__ __forceinline__ void leave_out(const T *factors, int factor_columns) {
        this->factors = factors;
        this->factor_columns = factor_columns;
        fetch<Care::Any>(0);
    }

    template <Care CARE> __device__ __forceinline__ void load(uint32_t tile, int step) {
        int row = threadIdx.x / PIECES;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int k = step * STEP<T> + row + i * ROWS;
            const bool exists = ORDER == Order::Gathered ? next[i] >= 0 : k < depth;
            // An address that is not read lies in the matrix all the same.
            uint32_t source = ORDER == Order::Gathered ? top_k.divide(max(next[i], 0)) : k;
            const T *from = row_of(matrix, source, stride * sizeof(T));
            uint32_t to = tile + Across<T>::place(row, threadIdx.x % PIECES) + i * (ROWS * 128);
            copy_piece<T, ACCESS>(to, from, exists ? columns : 0);
        }
        fetch<CARE>(step + 1);
    }
};

// Fragments of columns first.. of a tile.
template <typename T> class AcrossReader {
    uint32_t place;

public:
    static __device__ __forceinline__ AcrossReader of_a(int first) {
        AcrossReader reader;
        int lane = threadIdx.x % 32;
        reader.place = sizeof(T) == 2
                           ? Across<T>::place(lane / 16 * 8 + lane % 8, first / PIECE_ELEMENTS<T> + lane / 8 % 2)
                           : Across<T>::place(lane % 4, first / PIECE_ELEMENTS<T> + lane / 16) + lane / 4 % 4 * 4;
        return reader;
    }
    static __device__ __forceinline__ AcrossReader of_b(int first) {
        AcrossReader reader;
        int lane = threadIdx.x % 32;
        reader.place = sizeof(T) == 2
                           ? Across<T>::place(lane / 8 % 2 * 8 + lane % 8, first / PIECE_ELEMENTS<T> + lane / 16)
                           : Across<T>::place(lane % 4, first / PIECE_ELEMENTS<T> + lane / 16) + lane / 4 % 4 * 4;
        return reader;
    }

    // Pieces further on, in panels and, by exclusive or, inside one.
    __device__ __forceinline__ uint32_t further(int pieces) const {
        return (place ^ (pieces % 8 * PIECE)) + pieces / 8 * Across<T>::PANEL_BYTES;
    }

    template <typename, int COUNT>
    __device__ __forceinline__ void a(uint32_t tile, int half, uint32_t (&to)[COUNT][4]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if constexpr (sizeof(T) == 2) {
                ptx::load_matrices_transposed(to[i], tile + half * (16 * 128) + further(i * 2));
            } else {
                uint32_t from = tile + half * (8 * 128);
                to[i][0] = ptx::load_shared(from + further(i * 4));
                to[i][1] = ptx::load_shared(from + further(i * 4 + 2));
                to[i][2] = ptx::load_shared(from + further(i * 4) + 4 * 128);
                to[i][3] = ptx::load_shared(from + further(i * 4 + 2) + 4 * 128);
            }
        }
    }
    template <typename, int COUNT>
    __device__ __forceinline__ void b(uint32_t tile, int half, uint32_t (&to)[COUNT][2]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            if constexpr (sizeof(T) == 2) {
                uint32_t four[4];
                ptx::load_matrices_transposed(four, tile + half * (16 * 128) + further(i));
                to[i][0] = four[0], to[i][1] = four[1], to[i + 1][0] = four[2], to[i + 1][1] = four[3];
            } else {
#pragma unroll
                for (int j = i; j < i + 2; j++) {
                    uint32_t from = tile + half * (8 * 128) + further(j * 2);
                    to[j][0] = ptx::load_shared(from);
                    to[j][1] = ptx::load_shared(from + 4 * 128);
                }
            }
        }
    }
};

}  // namespace millet
