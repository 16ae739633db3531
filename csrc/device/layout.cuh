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

// A step of the reduction: in bytes, in chunks, and in elements.
constexpr int STEP_BYTES = MILLET_PRODUCT_STEP_BYTES;
constexpr int STEP_CHUNKS = STEP_BYTES / CHUNK_BYTES;
template <typename T> constexpr int TILE_K = STEP_BYTES / static_cast<int>(sizeof(T));
static_assert(STEP_BYTES % CHUNK_BYTES == 0, "a chunk divides a step");

// Whether an access of `lanes` lanes has no bank conflicts: `offset_of(lane)` is where the lane's first byte is, and it
// takes `bytes` of them. Lanes that share a word are served together.
template <class OffsetOf> constexpr bool covers_banks(int lanes, int bytes, OffsetOf offset_of) {
    for (int one = 0; one < lanes; one++) {
        for (int other = 0; other < one; other++) {
            for (int byte = 0; byte < bytes; byte += 4) {
                for (int other_byte = 0; other_byte < bytes; other_byte += 4) {
                    const uint32_t word = (offset_of(one) + byte) / 4, other_word = (offset_of(other) + other_byte) / 4;
                    if (word != other_word && word % 32 == other_word % 32) return false;
                }
            }
        }
    }
    return true;
}

// K-major, the reduction contiguous: [rows][64 bytes]. Chunk c of row r is at c ^ (r / 2 % 4): a pair of rows fills the
// 32 banks.
struct KMajor {
    // Rows after which the swizzle is the same again.
    static constexpr int SWIZZLE_ROWS = 8;
    static constexpr __device__ __forceinline__ uint32_t offset(int row, int chunk) {
        return row * STEP_BYTES + ((chunk ^ (row / 2 % STEP_CHUNKS)) * CHUNK_BYTES);
    }
};
static_assert(STEP_CHUNKS == 4, "two rows of a K-major tile fill the 32 banks");

// Fragments of rows first.. of a tile: COUNT of 16 rows as a, or of 8 rows as b.
class KMajorReader {
    uint32_t offset;

    // The chunk whose address a lane gives ldmatrix.
    static constexpr __device__ __forceinline__ uint32_t lane_a(int first, int lane) {
        return KMajor::offset(first + lane % 16, lane / 16);
    }
    static constexpr __device__ __forceinline__ uint32_t lane_b(int first, int lane) {
        return KMajor::offset(first + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    }

public:
    // Each of the four matrices, and what 8 threads store: the chunks of two rows.
    static constexpr bool has_no_conflicts() {
        bool none = covers_banks(8, CHUNK_BYTES, [](int lane) { return KMajor::offset(lane / 4, lane % 4); });
        for (int matrix = 0; matrix < 32; matrix += 8) {
            none = none && covers_banks(8, CHUNK_BYTES, [=](int lane) { return lane_a(16, matrix + lane); }) &&
                   covers_banks(8, CHUNK_BYTES, [=](int lane) { return lane_b(16, matrix + lane); });
        }
        return none;
    }

    static __device__ __forceinline__ KMajorReader of_a(int first) {
        KMajorReader reader;
        reader.offset = lane_a(first, threadIdx.x % 32);
        return reader;
    }
    static __device__ __forceinline__ KMajorReader of_b(int first) {
        KMajorReader reader;
        reader.offset = lane_b(first, threadIdx.x % 32);
        return reader;
    }

    // `half` of the 64 bytes of the reduction.
    template <int COUNT>
    __device__ __forceinline__ void load_a(uint32_t tile, int half, uint32_t (&to)[COUNT][4]) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            ptx::load_matrices(to[i], tile + (offset ^ (half * (STEP_BYTES / 2))) + i * (16 * STEP_BYTES));
    }
    template <int COUNT>
    __device__ __forceinline__ void load_b(uint32_t tile, int half, uint32_t (&to)[COUNT][2]) const {
        static_assert(COUNT % 2 == 0, "ldmatrix brings two fragments of b");
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            uint32_t four[4];
            ptx::load_matrices(four, tile + (offset ^ (half * (STEP_BYTES / 2))) + i * (8 * STEP_BYTES));
            to[i][0] = four[0], to[i][1] = four[1], to[i + 1][0] = four[2], to[i + 1][1] = four[3];
        }
    }
};
static_assert(KMajorReader::has_no_conflicts(), "8 lanes cover the 32 banks");

// MN-major, the columns contiguous: panels of 128 bytes of columns, one after another, [panels][K][128 bytes]. Chunk c
// of a panel's row k is at c ^ swizzle(k): ldmatrix takes one chunk of 8 rows, 32-bit loads take two chunks of 4 rows,
// loads of 16 bits one chunk of 4 rows.
template <typename T, int K = TILE_K<T>> struct MnMajor {
    static constexpr int PANEL_BYTES = K * 128;
    static constexpr int SWIZZLE_ROWS = sizeof(T) == 2 ? 8 : 4;
    static constexpr __device__ __forceinline__ int swizzle(int k) { return k % SWIZZLE_ROWS * (8 / SWIZZLE_ROWS); }
    static constexpr __device__ __forceinline__ uint32_t offset(int k, int chunk) {
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

    // The chunk whose address a lane gives ldmatrix, or the element that it loads.
    static constexpr __device__ __forceinline__ uint32_t lane_a(int first, int lane) {
        const int chunk = first / CHUNK_ELEMENTS<T>;
        return sizeof(T) == 2 ? Layout::offset(lane / 16 * 8 + lane % 8, chunk + lane / 8 % 2)
                              : Layout::offset(lane % 4, chunk + lane / 16) + lane / 4 % 4 * 4;
    }
    static constexpr __device__ __forceinline__ uint32_t lane_b(int first, int lane) {
        const int chunk = first / CHUNK_ELEMENTS<T>;
        return sizeof(T) == 2 ? Layout::offset(lane / 8 % 2 * 8 + lane % 8, chunk + lane / 16)
                              : Layout::offset(lane % 4, chunk + lane / 16) + lane / 4 % 4 * 4;
    }

public:
    // Each of the four matrices, or the load of a word by 32 lanes; and what 8 threads store, chunks of a row.
    static constexpr bool has_no_conflicts() {
        bool none = covers_banks(8, CHUNK_BYTES, [](int lane) { return Layout::offset(3, lane); });
        if constexpr (sizeof(T) == 4) {
            none = none && covers_banks(32, 4, [](int lane) { return lane_a(32, lane); }) &&
                   covers_banks(32, 4, [](int lane) { return lane_b(32, lane); });
        } else {
            for (int matrix = 0; matrix < 32; matrix += 8) {
                none = none && covers_banks(8, CHUNK_BYTES, [=](int lane) { return lane_a(64, matrix + lane); }) &&
                       covers_banks(8, CHUNK_BYTES, [=](int lane) { return lane_b(64, matrix + lane); });
            }
        }
        return none;
    }

    static __device__ __forceinline__ MnMajorReader of_a(int first) {
        MnMajorReader reader;
        reader.offset = lane_a(first, threadIdx.x % 32);
        return reader;
    }
    static __device__ __forceinline__ MnMajorReader of_b(int first) {
        MnMajorReader reader;
        reader.offset = lane_b(first, threadIdx.x % 32);
        return reader;
    }

    template <int COUNT>
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
    template <int COUNT>
    __device__ __forceinline__ void load_b(uint32_t tile, int half, uint32_t (&to)[COUNT][2]) const {
        static_assert(COUNT % 2 == 0, "ldmatrix brings two fragments of b");
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

static_assert(MnMajorReader<bf16>::has_no_conflicts() && MnMajorReader<float>::has_no_conflicts(),
              "8 lanes of 16 bytes, and 32 of 4, cover the 32 banks");

// As b of a product of f32: fragments of columns first.. of a step of 16 rows of 16-bit elements, widened. They take
// half the shared memory, and are tf32 numbers. One load per element.
template <typename T> class WideningMnMajorReader {
    using Layout = MnMajor<T, TILE_K<float>>;
    static_assert(sizeof(T) == 2 && CHUNK_ELEMENTS<T> == 8, "a chunk is the 8 columns of a fragment");
    uint32_t offset;

    static constexpr __device__ __forceinline__ uint32_t lane_b(int first, int lane) {
        return Layout::offset(lane % 4, first / CHUNK_ELEMENTS<T>) + lane / 4 * sizeof(T);
    }

public:
    static constexpr bool has_no_conflicts() {
        return covers_banks(32, sizeof(T), [](int lane) { return lane_b(64, lane); });
    }

    static __device__ __forceinline__ WideningMnMajorReader of_b(int first) {
        WideningMnMajorReader reader;
        reader.offset = lane_b(first, threadIdx.x % 32);
        return reader;
    }

    template <int COUNT>
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

static_assert(WideningMnMajorReader<bf16>::has_no_conflicts(), "32 lanes of 2 bytes have words in different banks");

}  // namespace millet
