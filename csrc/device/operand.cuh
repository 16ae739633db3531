// Operands of the products: which elements of global memory make a tile, and their copies to shared memory in the
// layouts of layout.cuh. All products share them.
#pragma once
#include <type_traits>

#include "layout.cuh"
#include "numeric.cuh"
#include "ptx.cuh"
#include "tf32.cuh"

namespace millet {

// How chunks are copied: 16 bytes at a time, for which every row of every tensor must begin at a multiple of 16 bytes;
// element by element; or as the operand is told at run time.
enum class Access { Chunks, Elements, Runtime };

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

// Copies a chunk, or the first `elements` of it (at most a whole one) and zeros. `aligned` counts at run time. A source
// of another type is converted, element by element.
template <typename T, Access ACCESS, typename Source>
__device__ __forceinline__ void copy_chunk(uint32_t to, const Source *from, int elements, bool aligned) {
    if constexpr (ACCESS != Access::Elements && std::is_same_v<T, Source>) {
        if (ACCESS == Access::Chunks || aligned) {
            ptx::copy_async(to, from, elements > 0 ? CHUNK_BYTES : 0);
            return;
        }
    }
    if constexpr (ACCESS != Access::Chunks) {
        union {
            T element[CHUNK_ELEMENTS<T>];
            uint4 chunk;
        };
#pragma unroll
        for (int i = 0; i < CHUNK_ELEMENTS<T>; i++) {
            element[i] = narrow<T>(0.0f);
            if (i < elements) {
                if constexpr (std::is_same_v<T, Source>) element[i] = from[i];
                else element[i] = narrow<T>(widen(from[i]));
            }
        }
        ptx::store_shared(to, chunk);
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
    __device__ __forceinline__ uint32_t divide(uint32_t dividend) const {
        return (__umulhi(dividend, multiplier) + dividend) >> shift;
    }
};

// Where an operand's rows are in its matrix: they follow each other, or each is looked up.
enum class Rows { Consecutive, Gathered };

// K-major: ROWS rows of a matrix [·, depth] of Source, converted to T. Thread t copies chunk t % 4 of rows t / 4,
// t / 4 + PASS_ROWS, ….
template <typename T, int ROWS, Access ACCESS, Rows ROW_ORDER, int THREADS, typename Source = T> class KMajorOperand {
    static constexpr int PASS_ROWS = THREADS / STEP_CHUNKS;  // that the block copies at a time

public:
    using Element = Source;
    static constexpr int BYTES = ROWS * STEP_BYTES;
    // Of a thread, per step.
    static constexpr int COPIES = (ROWS + PASS_ROWS - 1) / PASS_ROWS;

private:
    static_assert(ROWS % PASS_ROWS == 0 || ROWS < PASS_ROWS, "each chunk is copied once");
    static_assert(PASS_ROWS % KMajor::SWIZZLE_ROWS == 0, "all rows of a thread must be swizzled alike");
    const Source *matrix;
    bool aligned;
    int depth;
    // Consecutive rows: how many there are.
    int count;
    // Gathered ones: which, and how long each is, 0 where there is none.
    uint32_t rows[COPIES];
    int limits[COPIES];

public:
    // Gathered: `row_of(r)` is the matrix's row that becomes row r of the tile, negative for zeros.
    template <class RowOf>
    __device__ __forceinline__ void set(const Source *matrix, int depth, RowOf row_of, bool aligned = true) {
        static_assert(ROW_ORDER == Rows::Gathered, "consecutive rows are counted");
        this->matrix = matrix;
        this->aligned = aligned;
        this->depth = depth;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int row = row_of(static_cast<int>(threadIdx.x) / STEP_CHUNKS + i * PASS_ROWS);
            rows[i] = row < 0 ? 0 : row;
            limits[i] = row < 0 ? 0 : depth;
        }
    }

    // Consecutive: `count` rows from row `first` of the matrix on, then zeros.
    __device__ __forceinline__ void set(const Source *matrix, int depth, int64_t first, int64_t count, bool aligned) {
        static_assert(ROW_ORDER == Rows::Consecutive, "gathered rows are looked up");
        this->matrix = matrix + first * depth;
        this->aligned = aligned;
        this->depth = depth;
        this->count = static_cast<int>(min(static_cast<int64_t>(ROWS), count));
    }

    template <Inputs INPUTS> __device__ __forceinline__ void load(uint32_t tile, int step) {
        int chunk = threadIdx.x % STEP_CHUNKS;
        int k = step * TILE_K<T> + chunk * CHUNK_ELEMENTS<T>;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            const int row = threadIdx.x / STEP_CHUNKS + i * PASS_ROWS;
            if (ROWS % PASS_ROWS != 0 && row >= ROWS) break;  // guard: more threads than chunks
            const bool gathered = ROW_ORDER == Rows::Gathered;
            const Source *from = row_of(matrix + k, gathered ? rows[i] : row, depth * sizeof(Source));
            const int elements = gathered ? limits[i] - k : row < count ? depth - k : 0;
            copy_chunk<T, ACCESS>(tile + KMajor::offset(threadIdx.x / STEP_CHUNKS, chunk) +
                                      i * (PASS_ROWS * STEP_BYTES),
                                  from, elements, aligned);
        }
    }
};

// MN-major: COLUMNS columns of a matrix [·, stride], K rows per step. Thread t copies chunk t % CHUNKS of rows t /
// CHUNKS, t / CHUNKS + PASS_ROWS, … of a step.
template <typename T, int COLUMNS, Access ACCESS, Rows ROW_ORDER, int THREADS, int K = TILE_K<T>> class MnMajorOperand {
    using Layout = MnMajor<T, K>;
    static constexpr int CHUNKS = COLUMNS / CHUNK_ELEMENTS<T>;
    static constexpr int PASS_ROWS = THREADS / CHUNKS;  // that the block copies at a time
    static_assert(THREADS % CHUNKS == 0 && K % PASS_ROWS == 0, "each chunk is copied once");
    static_assert(CHUNKS % 8 == 0, "whole panels");
    static_assert(PASS_ROWS % Layout::SWIZZLE_ROWS == 0, "all rows of a thread must be swizzled alike");

public:
    static constexpr int BYTES = COLUMNS * K * static_cast<int>(sizeof(T));
    // Of a thread, per step.
    static constexpr int COPIES = K / PASS_ROWS;

private:
    const T *matrix;
    bool aligned;
    int stride, depth;
    // Columns from this thread's chunk on.
    int columns;
    const int32_t *assignments;
    Divider top_k;
    // For any inputs: the other operand's rows. A gathered row is skipped where the other operand's row is 0.
    const T *factors;
    int factor_columns;
    // Assignments of the next step's rows, loaded a step ahead. Negative: there is none.
    int next[COPIES];

    template <Inputs INPUTS> __device__ __forceinline__ void prefetch_rows(int step) {
        if constexpr (ROW_ORDER == Rows::Gathered) {
#pragma unroll
            for (int i = 0; i < COPIES; i++) {
                int k = step * K + static_cast<int>(threadIdx.x) / CHUNKS + i * PASS_ROWS;
                next[i] = k < depth ? __ldg(assignments + k) : -1;
                if constexpr (INPUTS == Inputs::Any) {
                    if (k < depth && is_zero(row_of(factors, k, factor_columns * sizeof(T)), factor_columns))
                        next[i] = -1;
                }
            }
        }
    }

public:
    // Columns first.. of `columns`. `assignments` of the reduction's rows where they are gathered.
    __device__ __forceinline__ void set(const T *matrix, int stride, int depth, int first, int columns,
                                        const int32_t *assignments = nullptr, Divider top_k = {}, bool aligned = true) {
        int column = first + static_cast<int>(threadIdx.x) % CHUNKS * CHUNK_ELEMENTS<T>;
        this->matrix = matrix + column;
        this->stride = stride;
        this->depth = depth;
        this->columns = columns - column;
        this->assignments = assignments;
        this->top_k = top_k;
        this->aligned = aligned;
        prefetch_rows<Inputs::Finite>(0);
    }

    // Skips gathered rows whose row of `factors` [depth, factor_columns] is 0.
    __device__ __forceinline__ void skip_zero_rows(const T *factors, int factor_columns) {
        this->factors = factors;
        this->factor_columns = factor_columns;
        prefetch_rows<Inputs::Any>(0);
    }

    template <Inputs INPUTS> __device__ __forceinline__ void load(uint32_t tile, int step) {
        int row = threadIdx.x / CHUNKS;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int k = step * K + row + i * PASS_ROWS;
            const bool exists = ROW_ORDER == Rows::Gathered ? next[i] >= 0 : k < depth;
            // Of a row that does not exist nothing is read, so its address may be anything.
            uint32_t source = ROW_ORDER == Rows::Gathered ? top_k.divide(max(next[i], 0)) : k;
            const T *from = row_of(matrix, source, stride * sizeof(T));
            uint32_t to = tile + Layout::offset(row, threadIdx.x % CHUNKS) + i * (PASS_ROWS * 128);
            copy_chunk<T, ACCESS>(to, from, exists ? columns : 0, aligned);
        }
        prefetch_rows<INPUTS>(step + 1);
    }
};

}  // namespace millet
