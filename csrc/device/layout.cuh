// Layouts of operands in shared memory, and how warps read fragments from them.
//
// An operand is K-major in global memory (x·gate_upᵀ: both) or MN-major (dO·down: down; the weight gradients: both),
// and stays so in shared memory: `KMajor` and `MnMajor`. An exclusive or swizzles its chunks of 16 bytes, so that every
// access of a warp, 8 lanes at a time, falls into 8 different groups of 4 banks. Offsets are in bytes.
#pragma once
#include "numeric.cuh"
#include "ptx.cuh"
#include "tile_shape.cuh"

namespace millet {

constexpr int CHUNK_BYTES = 16;
template <typename T> constexpr int CHUNK_ELEMENTS = CHUNK_BYTES / static_cast<int>(sizeof(T));

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

// MN-major, the columns contiguous: panels of 128 bytes of columns, one after another, [panels][TILE_K][128 bytes].
// Chunk c of a panel's row k is at c ^ swizzle(k): ldmatrix takes one chunk of 8 rows, 32-bit loads take two chunks of
// 4 rows.
template <typename T> struct MnMajor {
    static constexpr int PANEL = 128 / sizeof(T);  // columns
    static constexpr int PANEL_BYTES = TILE_K<T> * 128;
    static constexpr int SWIZZLE_ROWS = sizeof(T) == 2 ? 8 : 4;
    static __device__ __forceinline__ int swizzle(int k) { return k % SWIZZLE_ROWS * (8 / SWIZZLE_ROWS); }
    static __device__ __forceinline__ uint32_t offset(int k, int chunk) {
        return chunk / 8 * PANEL_BYTES + k * 128 + ((chunk % 8) ^ swizzle(k)) * CHUNK_BYTES;
    }
};

// Fragments of columns first.. of a tile.
template <typename T> class MnMajorReader {
    uint32_t offset;

public:
    static __device__ __forceinline__ MnMajorReader of_a(int first) {
        MnMajorReader reader;
        int lane = threadIdx.x % 32;
        reader.offset = sizeof(T) == 2
                            ? MnMajor<T>::offset(lane / 16 * 8 + lane % 8, first / CHUNK_ELEMENTS<T> + lane / 8 % 2)
                            : MnMajor<T>::offset(lane % 4, first / CHUNK_ELEMENTS<T> + lane / 16) + lane / 4 % 4 * 4;
        return reader;
    }
    static __device__ __forceinline__ MnMajorReader of_b(int first) {
        MnMajorReader reader;
        int lane = threadIdx.x % 32;
        reader.offset = sizeof(T) == 2
                            ? MnMajor<T>::offset(lane / 8 % 2 * 8 + lane % 8, first / CHUNK_ELEMENTS<T> + lane / 16)
                            : MnMajor<T>::offset(lane % 4, first / CHUNK_ELEMENTS<T> + lane / 16) + lane / 4 % 4 * 4;
        return reader;
    }

    // Chunks further on, in panels and, by exclusive or, inside one.
    __device__ __forceinline__ uint32_t further(int chunks) const {
        return (offset ^ (chunks % 8 * CHUNK_BYTES)) + chunks / 8 * MnMajor<T>::PANEL_BYTES;
    }

    template <typename, int COUNT>
    __device__ __forceinline__ void load_a(uint32_t tile, int half, uint32_t (&to)[COUNT][4]) const {
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
    __device__ __forceinline__ void load_b(uint32_t tile, int half, uint32_t (&to)[COUNT][2]) const {
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
