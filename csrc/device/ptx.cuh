// PTX that CUDA C++ has no intrinsic for, one instruction per function. sm_80 and later.
#pragma once
#include <stdint.h>

namespace millet {
namespace ptx {

__device__ __forceinline__ uint32_t shared_address(const void *shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Copies `bytes` (0 or 16) from global to shared memory and fills 16 bytes up with zeros. Not through L1: what a block
// reads once is shared with other blocks only. The line's other sectors are fetched into L2, where the next step finds
// them.
__device__ __forceinline__ void copy_async(uint32_t to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Closes a group of copies.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of this thread's groups are in flight.
template <int PENDING> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8×8 matrices of 16-bit elements (or 8×4 of 32-bit ones): lane l gives the address of row l % 8 of matrix l / 8,
// and gets columns 2·(l % 4), 2·(l % 4) + 1 of row l / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ uint32_t load_shared(uint32_t from) {
    uint32_t value;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
    return value;
}

// An element of 16 bits.
template <typename T> __device__ __forceinline__ T load_shared_element(uint32_t from) {
    static_assert(sizeof(T) == 2);
    unsigned short bits;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(bits) : "r"(from) : "memory");
    return *reinterpret_cast<T *>(&bits);
}

__device__ __forceinline__ void store_shared(uint32_t to, uint4 value) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
                 : "memory");
}

// Global memory, 16 or 8 bytes at a time. Left to the compiler, a store of a uint4 that was made of four registers
// becomes four stores.
__device__ __forceinline__ void store_global(void *to, const uint32_t (&words)[4]) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(words[0]),
                 "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}
__device__ __forceinline__ void store_global(void *to, float2 pair) {
    asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "f"(pair.x), "f"(pair.y)
                 : "memory");
}
__device__ __forceinline__ void load_global(uint32_t (&words)[4], const void *from) {
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(__cvta_generic_to_global(from))
                 : "memory");
}
__device__ __forceinline__ void load_global(float2 &pair, const void *from) {
    asm volatile("ld.global.v2.f32 {%0, %1}, [%2];"
                 : "=f"(pair.x), "=f"(pair.y)
                 : "l"(__cvta_generic_to_global(from))
                 : "memory");
}

}  // namespace ptx
}  // namespace millet
