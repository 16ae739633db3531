// The tensor cores' product of one warp: d += a·b, a 16 rows, b 8 columns, 32 bytes of the reduction: 16 elements of
// bf16 and f16, 8 of f32. Sums are f32.
//
// Lane l holds of a (rows l/4 and l/4 + 8), of b (column l/4) and of d (rows l/4 and l/4 + 8, columns 2·(l % 4) and the
// next) what the PTX ISA says. In 32-bit words the fragments of a and b look the same for every type, so tile.cuh reads
// them alike.
#pragma once
#include "numeric.cuh"
#include "ptx.cuh"

namespace millet {

template <typename T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <> __device__ __forceinline__ void mma<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <> __device__ __forceinline__ void mma<f16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Operands are tf32 numbers: see `Split`.
template <>
__device__ __forceinline__ void mma<float>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// f32 factors become tf32 numbers in two ways. The fast one is right for finite factors up to LARGEST_TF32. Any other
// factor makes every sum that it enters infinite or NaN, so a finite sum is never wrong, and a block that finds such a
// sum multiplies again with care.
enum class Care { Fast, Any };

constexpr float LARGEST_TF32 = 3.401162134e38f;

// f32 as a sum of two tf32 numbers, exact to 2⁻²³ of it: high·high + high·low + low·high is a product of f32 (3xTF32).
// The upper part is the nearest tf32 number; of the lower one the tensor core ignores the last bits, of which at most
// one is set.
//
// With care, the lower part takes what the upper one cannot hold, and the upper one of an infinite factor is finite,
// not 0, and of its sign: ∞·0 never arises beside ∞·b, and ∞·∞ is infinite. Fast, the lower part is NaN then.
template <Care CARE> struct Split {
    uint32_t high, low;
    __device__ __forceinline__ explicit Split(uint32_t bits) {
        const float value = __uint_as_float(bits);
        if constexpr (CARE == Care::Any) bits = __float_as_uint(fminf(fmaxf(value, -LARGEST_TF32), LARGEST_TF32));
        high = (bits + 0x1000u) & 0xffffe000u;
        low = __float_as_uint(value - __uint_as_float(high));
    }
};

// The nearest tf32 number alone. Fast, a value that is not finite becomes NaN by the product with 0; rounded as an
// integer, NaN would become 0. With care such a value stays itself, and nothing rounds to infinity.
template <Care CARE> __device__ __forceinline__ uint32_t nearest_tf32(uint32_t bits) {
    const float value = __uint_as_float(bits), rounded = __uint_as_float((bits + 0x1000u) & 0xffffe000u);
    if constexpr (CARE == Care::Fast) return __float_as_uint(fmaf(value, 0.0f, rounded));
    return __float_as_uint(fabsf(value) <= LARGEST_TF32 ? rounded : value + 0.0f);
}

}  // namespace millet
