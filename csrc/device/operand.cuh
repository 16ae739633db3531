// Operands of the experts' products: which elements of global memory make a tile, and their copies to shared memory in
// the layouts of layout.cuh.
#pragma once
#include "layout.cuh"
#include "numeric.cuh"
#include "ptx.cuh"
#include "tf32.cuh"
#include "tile_shape.cuh"

namespace millet {

// How chunks are loaded: 16 bytes at a time, for which every row of every tensor must begin at a multiple of 16 bytes,
// or element by element.
enum class Access { Chunks, Elements };

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

// Copies a chunk, or the first `elements` of it (at most a whole one) and zeros.
template <typename T, Access ACCESS>
__device__ __forceinline__ void copy_chunk(uint32_t to, const T *from, int elements) {
    if constexpr (ACCESS == Access::Chunks) {
        ptx::copy_async(to, from, elements > 0 ? CHUNK_BYTES : 0);
    } else {
        union {
            T element[CHUNK_ELEMENTS<T>];
            uint4 chunk;
        };
#pragma unroll
        for (int i = 0; i < CHUNK_ELEMENTS<T>; i++) element[i] = i < elements ? from[i] : narrow<T>(0.0f);
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

// K-major: ROWS rows of a matrix [·, depth]. Thread t copies chunk t % 4 of rows t / 4, t / 4 + 32, ….
template <typename T, int ROWS, Access ACCESS> class KMajorOperand {
    static constexpr int COPIES = ROWS * 4 / THREADS;
    const T *matrix;
    int depth;
    uint32_t rows[COPIES];
    // Of the reduction, for each row: 0 where there is none.
    int limits[COPIES];

public:
    static constexpr int BYTES = ROWS * 64;

    // `row_of(r)` is the matrix's row that becomes row r of the tile, negative for zeros.
    template <class RowOf> __device__ __forceinline__ void set(const T *matrix, int depth, RowOf row_of) {
        this->matrix = matrix;
        this->depth = depth;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int row = row_of(static_cast<int>(threadIdx.x) / 4 + i * (THREADS / 4));
            rows[i] = row < 0 ? 0 : row;
            limits[i] = row < 0 ? 0 : depth;
        }
    }

    template <Inputs INPUTS> __device__ __forceinline__ void load(uint32_t tile, int step) {
        int chunk = threadIdx.x % 4;
        int k = step * TILE_K<T> + chunk * CHUNK_ELEMENTS<T>;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            const T *from = row_of(matrix + k, rows[i], depth * sizeof(T));
            uint32_t to = tile + KMajor::offset(threadIdx.x / 4, chunk) + i * (THREADS / 4 * 64);
            copy_chunk<T, ACCESS>(to, from, limits[i] - k);
        }
    }
};

// Where an operand's rows along the reduction come from: they follow each other, or each is the token of an assignment.
enum class KRows { Contiguous, Gathered };

// MN-major: COLUMNS columns of a matrix [·, stride]. Thread t copies chunk t % CHUNKS of rows t / CHUNKS, … of a step.
template <typename T, int COLUMNS, Access ACCESS, KRows K_ROWS> class MnMajorOperand {
    static constexpr int CHUNKS = COLUMNS / CHUNK_ELEMENTS<T>;
    static constexpr int PASS_ROWS = THREADS / CHUNKS;  // that the block copies at a time
    static constexpr int COPIES = TILE_K<T> / PASS_ROWS;
    static_assert(PASS_ROWS % MnMajor<T>::SWIZZLE_ROWS == 0, "all rows of a thread must be swizzled alike");
    const T *matrix;
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
        if constexpr (K_ROWS == KRows::Gathered) {
#pragma unroll
            for (int i = 0; i < COPIES; i++) {
                int k = step * TILE_K<T> + static_cast<int>(threadIdx.x) / CHUNKS + i * PASS_ROWS;
                next[i] = k < depth ? __ldg(assignments + k) : -1;
                if constexpr (INPUTS == Inputs::Any) {
                    if (k < depth && is_zero(row_of(factors, k, factor_columns * sizeof(T)), factor_columns))
                        next[i] = -1;
                }
            }
        }
    }

public:
    static constexpr int BYTES = COLUMNS * 64;

    // Columns first.. of `columns`. `assignments` of the reduction's rows where they are gathered.
    __device__ __forceinline__ void set(const T *matrix, int stride, int depth, int first, int columns,
                                        const int32_t *assignments = nullptr, Divider top_k = {}) {
        int column = first + static_cast<int>(threadIdx.x) % CHUNKS * CHUNK_ELEMENTS<T>;
        this->matrix = matrix + column;
        this->stride = stride;
        this->depth = depth;
        this->columns = columns - column;
        this->assignments = assignments;
        this->top_k = top_k;
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
            int k = step * TILE_K<T> + row + i * PASS_ROWS;
            const bool exists = K_ROWS == KRows::Gathered ? next[i] >= 0 : k < depth;
            // An address that is not read lies in the matrix all the same.
            uint32_t source = K_ROWS == KRows::Gathered ? top_k.divide(max(next[i], 0)) : k;
            const T *from = row_of(matrix, source, stride * sizeof(T));
            uint32_t to = tile + MnMajor<T>::offset(row, threadIdx.x % CHUNKS) + i * (PASS_ROWS * 128);
            copy_chunk<T, ACCESS>(to, from, exists ? columns : 0);
        }
        prefetch_rows<INPUTS>(step + 1);
    }
};

}  // namespace millet
