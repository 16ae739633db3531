// The tensor cores' product of one warp: d += a·b, a 16 rows, b 8 columns, 32 bytes of the reduction: 16 elements of bf16 and
// f16, 8 of f32. Sums are f32.
//
// Lane l holds of a (rows l/4 and l/4 + 8), of b (column l/4) and of d (rows l/4 and l/4 + 8, columns 2·(l % 4) and the next)
// what the PTX ISA says; by 32-bit words a and b look the same for every type, so the readers of tile.cuh do not care.
#pragma once
#include "numeric.cuh"
#include "ptx.cuh"

namespace millet {

template <typename T> __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <> __device__ __forceinline__ void mma<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <> __device__ __forceinline__ void mma<f16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Operands are tf32 numbers: see `Split`.
template <> __device__ __forceinline__ void mma<float>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// f32 as a sum of two tf32 numbers, exact to 2⁻²³ of it: high·high + high·low + low·high is a product of f32 (3xTF32). The
// upper part is the nearest tf32 number; of the lower one the tensor core ignores the last bits, of which at most one is set.
// An infinite element, or one above 3.4e38 that rounds to infinity, becomes NaN in its lower part and in what it is multiplied
// into.
struct Split {
    uint32_t high, low;
    __device__ __forceinline__ explicit Split(uint32_t bits) {
        high = (bits + 0x1000u) & 0xffffe000u;
        low = __float_as_uint(__uint_as_float(bits) - __uint_as_float(high));
    }
};

}  // namespace millet
