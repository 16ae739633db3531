// The epilogue: rows of the accumulator to and from global memory.
//
// A thread has 2 of every 8 columns, so four neighbouring mma tiles [16, 8] give it 4 pairs of 32 columns. In 16 bits
// those would be 4-byte accesses, 16 bytes of a row at a time: half of every sector wasted. So the four lanes of a row
// exchange their pairs, and each gets 8 neighbouring columns: one 16-byte access, 64 bytes of a row at a time. In 32
// bits a lane's pair is 8 bytes, and four lanes fill a sector already.
#pragma once
#include "accumulator.cuh"
#include "numeric.cuh"
#include "operand.cuh"
#include "ptx.cuh"

namespace millet {

// Lane t of four brings v[i] and gets v[t] of lane i as v[i]: a 4×4 transposition, its own inverse.
__device__ __forceinline__ void exchange(uint32_t (&v)[4]) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t got = __shfl_xor_sync(ALL_LANES, odd ? v[i] : v[i + 1], 1);
        if (odd) v[i] = got;
        else v[i + 1] = got;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t got = __shfl_xor_sync(ALL_LANES, high ? v[i] : v[i + 2], 2);
        if (high) v[i] = got;
        else v[i + 2] = got;
    }
}

template <typename T> __device__ __forceinline__ uint32_t pack(float2 pair);
template <> __device__ __forceinline__ uint32_t pack<bf16>(float2 pair) {
    __nv_bfloat162 both = __floats2bfloat162_rn(pair.x, pair.y);
    return *reinterpret_cast<uint32_t *>(&both);
}
template <> __device__ __forceinline__ uint32_t pack<f16>(float2 pair) {
    __half2 both = __floats2half2_rn(pair.x, pair.y);
    return *reinterpret_cast<uint32_t *>(&both);
}
template <typename T> __device__ __forceinline__ float2 unpack(uint32_t packed);
template <> __device__ __forceinline__ float2 unpack<bf16>(uint32_t packed) {
    return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u));
}
template <> __device__ __forceinline__ float2 unpack<f16>(uint32_t packed) {
    return __half22float2(*reinterpret_cast<__half2 *>(&packed));
}

// Rounds to the storage type.
template <typename T> __device__ __forceinline__ float2 rounded(float2 pair) {
    if constexpr (sizeof(T) == 4) return pair;
    else return unpack<T>(pack<T>(pair));
}

// 32 columns of a row, the thread's pairs: `v[i]` is columns 8·i + ThreadCoord::column() and the next. `row` points to
// the first, `columns` of them exist; a multiple of a chunk with Access::Chunks. All lanes of a warp call; `exists` is
// of the row.
template <typename T, Access ACCESS>
__device__ __forceinline__ void store_columns(T *row, int columns, bool exists, const float2 (&v)[4]) {
    const int lane = threadIdx.x % 4;
    if constexpr (ACCESS == Access::Elements) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int column = i * 8 + lane * 2;
            if (exists && column < columns) row[column] = narrow<T>(v[i].x);
            if (exists && column + 1 < columns) row[column + 1] = narrow<T>(v[i].y);
        }
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int column = i * 8 + lane * 2;
            if (exists && column < columns) ptx::store_global(row + column, v[i]);
        }
    } else {
        uint32_t packed[4];
#pragma unroll
        for (int i = 0; i < 4; i++) packed[i] = pack<T>(v[i]);
        exchange(packed);
        if (exists && lane * 8 < columns) ptx::store_global(row + lane * 8, packed);
    }
}

// The other way; 0 where there is nothing.
template <typename T, Access ACCESS>
__device__ __forceinline__ void load_columns(const T *row, int columns, bool exists, float2 (&v)[4]) {
    const int lane = threadIdx.x % 4;
    if constexpr (ACCESS == Access::Elements) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int column = i * 8 + lane * 2;
            v[i].x = exists && column < columns ? widen(row[column]) : 0.0f;
            v[i].y = exists && column + 1 < columns ? widen(row[column + 1]) : 0.0f;
        }
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int column = i * 8 + lane * 2;
            v[i] = make_float2(0.0f, 0.0f);
            if (exists && column < columns) ptx::load_global(v[i], row + column);
        }
    } else {
        uint32_t packed[4] = {0, 0, 0, 0};
        if (exists && lane * 8 < columns) ptx::load_global(packed, row + lane * 8);
        exchange(packed);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = unpack<T>(packed[i]);
    }
}

// Adds 32 columns of a bias to every row: to the thread's pairs in mma tiles FIRST, FIRST + STRIDE, … of N. `bias`
// points to the first column, `columns` of them exist.
template <typename T, int TILE_M, Access ACCESS, int FIRST, int STRIDE>
__device__ __forceinline__ void add_columns(const T *bias, int columns, Accumulator<TILE_M> &accumulator) {
    float2 v[4];
    load_columns<T, ACCESS>(bias, columns, true, v);
#pragma unroll
    for (int i = 0; i < Accumulator<TILE_M>::MMA_M; i++)
#pragma unroll
        for (int c = 0; c < 4; c++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                accumulator.mma[i][FIRST + STRIDE * c][2 * half] += v[c].x;
                accumulator.mma[i][FIRST + STRIDE * c][2 * half + 1] += v[c].y;
            }
}

// Calls each(offset, left, exists, v) for every 32 columns of a warp's sum: where they begin in a matrix [·, columns],
// how many columns remain, whether the row exists, and the thread's pairs.
template <int TILE_M, class Tile, class Each>
__device__ __forceinline__ void each_columns(int columns, const Tile &tile, const Accumulator<TILE_M> &accumulator,
                                             Each each) {
    const int first = ThreadCoord::warp_n() * WARP_N;
#pragma unroll
    for (int i = 0; i < Accumulator<TILE_M>::MMA_M; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = ThreadCoord::warp_m() * WARP_M<TILE_M> + i * 16 + half * 8 + ThreadCoord::row();
            const int64_t offset = static_cast<int64_t>(tile.row + row) * columns + tile.column + first;
#pragma unroll
            for (int j = 0; j < Accumulator<TILE_M>::MMA_N; j += 4) {
                float2 v[4];
#pragma unroll
                for (int c = 0; c < 4; c++)
                    v[c] = make_float2(accumulator.mma[i][j + c][2 * half], accumulator.mma[i][j + c][2 * half + 1]);
                each(offset + j * 8, tile.columns - first - j * 8, row < tile.rows, v);
            }
        }
}

// A warp's sum as it is, to `rows` [·, columns].
template <typename T, int TILE_M, Access ACCESS, class Tile>
__device__ __forceinline__ void store_rows(T *rows, int columns, const Tile &tile,
                                           const Accumulator<TILE_M> &accumulator) {
    each_columns<TILE_M>(columns, tile, accumulator, [&](int64_t offset, int left, bool exists, const float2(&v)[4]) {
        store_columns<T, ACCESS>(rows + offset, left, exists, v);
    });
}

// A warp's sum added to f32.
template <int TILE_M, Access ACCESS, class Tile>
__device__ __forceinline__ void add_rows(float *rows, int columns, const Tile &tile,
                                         const Accumulator<TILE_M> &accumulator) {
    each_columns<TILE_M>(columns, tile, accumulator, [&](int64_t offset, int left, bool exists, const float2(&v)[4]) {
        float2 sum[4];
        load_columns<float, ACCESS>(rows + offset, left, exists, sum);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            sum[c].x += v[c].x;
            sum[c].y += v[c].y;
        }
        store_columns<float, ACCESS>(rows + offset, left, exists, sum);
    });
}

}  // namespace millet
