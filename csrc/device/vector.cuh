// Vectors: N neighbouring elements moved by one instruction, 16 bytes where rows allow it.
#pragma once
#include "numeric.cuh"

namespace millet {

// Elements of a 16-byte vector.
template <typename T> constexpr int VECTOR = 16 / sizeof(T);

// N elements; 16 bytes of them, or one.
template <typename T, int N> struct alignas(N * sizeof(T)) Vector {
    static_assert(N == 1 || N == VECTOR<T>, "one element or 16 bytes");
    T v[N];

    // From memory that the kernel does not write.
    __device__ static Vector load(const T *from) {
        Vector result;
        if constexpr (N == 1) {
            result.v[0] = *from;
        } else {
            *reinterpret_cast<uint4 *>(result.v) = __ldg(reinterpret_cast<const uint4 *>(from));
        }
        return result;
    }

    __device__ void store(T *to) const {
        if constexpr (N == 1) {
            *to = v[0];
        } else {
            *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(v);
        }
    }
};

}  // namespace millet
