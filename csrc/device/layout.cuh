// Layouts of operands in shared memory, and how warps read fragments from them. All products share them.
//
// A step of a main loop takes TILE_K of the reduction: 64 bytes of one operand or of both. An operand is K-major in
// global memory (x·gate_upᵀ: both) or MN-major (dO·down: down; the weight gradients: both), and stays so in shared
// memory: `KMajor` and `MnMajor`. An exclusive or swizzles its chunks of 16 bytes, so that every access of a warp, 8
// lanes at a time, falls into 8 different groups of 4 banks. Offsets are in bytes.
#pragma once
#include "../params.h"
#include "numeric.cuh"
#include "ptx.cuh"

namespace millet {

constexpr int CHUNK_BYTES = 16;
template <typename T> constexpr int CHUNK_ELEMENTS = CHUNK_BYTES / static_cast<int>(sizeof(T));
template <typename T> constexpr int TILE_K = MILLET_PRODUCT_STEP_BYTES / static_cast<int>(sizeof(T));

// K-major, the reduction contiguous: [rows][64 bytes]. Chunk c of row r is at c ^ (r / 2 % 4): a pair of rows fills the
// 32 banks.
struct KMajor {
    static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
        return row * 64 + ((chunk ^ (row / 2 % 4)) * CHUNK_BYTES);
    }
};

// Fragments of rows first.. of a tile: COUNT of 16 rows as a, or of 8 rows as b.
class KMajorReader {
    uint32_t offset;

public:
    static __device__ __forceinline__ KMajorReader of_a(int first) {
        KMajorReader reader;
        reader.offset = KMajor::offset(first + threadIdx.x % 16, threadIdx.x % 32 / 16);
        return reader;
    }
    static __device__ __forceinline__ KMajorReader of_b(int first) {
        KMajorReader reader;
        reader.offset = KMajor::offset(first + threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8, threadIdx.x / 8 % 2);
        return reader;
    }

    // `half` of the 64 bytes of the reduction.
    template <typename T, int COUNT>
    __device__ __forceinline__ void load_a(uint32_t tile, int half, uint32_t (&to)[COUNT][4]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) ptx::load_matrices(to[i], tile + (offset ^ (half * 32)) + i * (16 * 64));
    }
    template <typename T, int COUNT>
    __device__ __forceinline__ void load_b(uint32_t tile, int half, uint32_t (&to)[COUNT][2]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            uint32_t four[4];
            ptx::load_matrices(four, tile + (offset ^ (half * 32)) + i * (8 * 64));
            to[i][0] = four[0], to[i][1] = four[1], to[i + 1][0] = four[2], to[i + 1][1] = four[3];
        }
    }
};

// MN-major, the columns contiguous: panels of 128 bytes of columns, one after another, [panels][K][128 bytes]. Chunk c
// of a panel's row k is at c ^ swizzle(k): ldmatrix takes one chunk of 8 rows, 32-bit loads take two chunks of 4 rows,
// loads of 16 bits one chunk of 4 rows.
template <typename T, int K = TILE_K<T>> struct MnMajor {
    static constexpr int PANEL_BYTES = K * 128;
    static constexpr int SWIZZLE_ROWS = sizeof(T) == 2 ? 8 : 4;
    static __device__ __forceinline__ int swizzle(int k) { return k % SWIZZLE_ROWS * (8 / SWIZZLE_ROWS); }
    static __device__ __forceinline__ uint32_t offset(int k, int chunk) {
        return chunk / 8 * PANEL_BYTES + k * 128 + ((chunk % 8) ^ swizzle(k)) * CHUNK_BYTES;
    }
    // `chunks` further on, in panels and, by exclusive or, inside one.
    static __device__ __forceinline__ uint32_t further(uint32_t offset, int chunks) {
        return (offset ^ (chunks % 8 * CHUNK_BYTES)) + chunks / 8 * PANEL_BYTES;
    }
};

// Fragments of columns first.. of a tile: COUNT of 16 columns as a, or of 8 columns as b. 16-bit elements by ldmatrix,
// transposed; those of 32 bits one by one.
template <typename T> class MnMajorReader {
    using Layout = MnMajor<T>;
    uint32_t offset;

public:
    static __device__ __forceinline__ MnMajorReader of_a(int first) {
        MnMajorReader reader;
        int lane = threadIdx.x % 32;
        reader.offset = sizeof(T) == 2
                            ? Layout::offset(lane / 16 * 8 + lane % 8, first / CHUNK_ELEMENTS<T> + lane / 8 % 2)
                            : Layout::offset(lane % 4, first / CHUNK_ELEMENTS<T> + lane / 16) + lane / 4 % 4 * 4;
        return reader;
    }
    static __device__ __forceinline__ MnMajorReader of_b(int first) {
        MnMajorReader reader;
        int lane = threadIdx.x % 32;
        reader.offset = sizeof(T) == 2
                            ? Layout::offset(lane / 8 % 2 * 8 + lane % 8, first / CHUNK_ELEMENTS<T> + lane / 16)
                            : Layout::offset(lane % 4, first / CHUNK_ELEMENTS<T> + lane / 16) + lane / 4 % 4 * 4;
        return reader;
    }

    template <typename, int COUNT>
    __device__ __forceinline__ void load_a(uint32_t tile, int half, uint32_t (&to)[COUNT][4]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if constexpr (sizeof(T) == 2) {
                ptx::load_matrices_transposed(to[i], tile + half * (16 * 128) + Layout::further(offset, i * 2));
            } else {
                uint32_t from = tile + half * (8 * 128);
                to[i][0] = ptx::load_shared(from + Layout::further(offset, i * 4));
                to[i][1] = ptx::load_shared(from + Layout::further(offset, i * 4 + 2));
                to[i][2] = ptx::load_shared(from + Layout::further(offset, i * 4) + 4 * 128);
                to[i][3] = ptx::load_shared(from + Layout::further(offset, i * 4 + 2) + 4 * 128);
            }
        }
    }
    template <typename, int COUNT>
    __device__ __forceinline__ void load_b(uint32_t tile, int half, uint32_t (&to)[COUNT][2]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            if constexpr (sizeof(T) == 2) {
                uint32_t four[4];
                ptx::load_matrices_transposed(four, tile + half * (16 * 128) + Layout::further(offset, i));
                to[i][0] = four[0], to[i][1] = four[1], to[i + 1][0] = four[2], to[i + 1][1] = four[3];
            } else {
#pragma unroll
                for (int j = i; j < i + 2; j++) {
                    uint32_t from = tile + half * (8 * 128) + Layout::further(offset, j * 2);
                    to[j][0] = ptx::load_shared(from);
                    to[j][1] = ptx::load_shared(from + 4 * 128);
                }
            }
        }
    }
};

// As b of a product of f32: fragments of columns first.. of a step of 16 rows of 16-bit elements, widened. They take
// half the shared memory, and are tf32 numbers. One load per element.
template <typename T> class WideningMnMajorReader {
    using Layout = MnMajor<T, TILE_K<float>>;
    uint32_t offset;

public:
    static __device__ __forceinline__ WideningMnMajorReader of_b(int first) {
        WideningMnMajorReader reader;
        int lane = threadIdx.x % 32;
        reader.offset = Layout::offset(lane % 4, first / CHUNK_ELEMENTS<T>) + lane / 4 * sizeof(T);
        return reader;
    }

    template <typename, int COUNT>
    __device__ __forceinline__ void load_b(uint32_t tile, int half, uint32_t (&to)[COUNT][2]) const {
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            const uint32_t from = tile + half * (8 * 128) + Layout::further(offset, j);
            to[j][0] = __float_as_uint(widen(ptx::load_shared_element<T>(from)));
            // Four rows further on, the swizzle differs by 4.
            to[j][1] = __float_as_uint(widen(ptx::load_shared_element<T>((from ^ (4 * CHUNK_BYTES)) + 4 * 128)));
        }
    }
};

}  // namespace millet
