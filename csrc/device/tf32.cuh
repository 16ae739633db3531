// f32 factors for the tensor cores, as tf32 numbers: one each (TF32), or two each, for products of f32 (3xTF32).
#pragma once
#include <stdint.h>

#include "mma.cuh"

namespace millet {

// What the factors may be. `Finite` is the fast one, right for finite factors up to LARGEST_TF32: any other factor
// makes every sum that it enters infinite or NaN, so a finite sum is never wrong, and a block that finds one that is
// not computes its tile again for `Any`.
enum class Inputs { Finite, Any };

constexpr float LARGEST_TF32 = 3.401162134e38f;

// f32 as a sum of two tf32 numbers, exact to 2⁻²³ of it: high·high + high·low + low·high is a product of f32 (3xTF32).
// The upper part is the nearest tf32 number; of the lower one the tensor core ignores the last bits, of which at most
// one is set.
//
// For any inputs, the lower part takes what the upper one cannot hold, and the upper one of an infinite factor is
// finite, not 0, and of its sign: ∞·0 never arises beside ∞·b, and ∞·∞ is infinite. For finite ones, the lower part of
// an infinite factor is NaN.
template <Inputs INPUTS> struct Tf32Split {
    uint32_t high, low;
    __device__ __forceinline__ explicit Tf32Split(uint32_t bits) {
        const float value = __uint_as_float(bits);
        if constexpr (INPUTS == Inputs::Any) bits = __float_as_uint(fminf(fmaxf(value, -LARGEST_TF32), LARGEST_TF32));
        high = (bits + 0x1000u) & 0xffffe000u;
        low = __float_as_uint(value - __uint_as_float(high));
    }
};

// The nearest tf32 number alone. For finite inputs, a value that is not finite becomes NaN by the product with 0;
// rounded as an integer, NaN would become 0. For any inputs such a value stays itself, and nothing rounds to infinity.
template <Inputs INPUTS> __device__ __forceinline__ uint32_t round_to_tf32(uint32_t bits) {
    const float value = __uint_as_float(bits), rounded = __uint_as_float((bits + 0x1000u) & 0xffffe000u);
    if constexpr (INPUTS == Inputs::Finite) return __float_as_uint(fmaf(value, 0.0f, rounded));
    return __float_as_uint(fabsf(value) <= LARGEST_TF32 ? rounded : value + 0.0f);
}

// What a factor is: any f32, or one that is a tf32 number already, as every bf16 and f16 is.
enum class Factor { F32, Tf32 };

// A fragment of factors in parts. A tf32 number has no lower part.
template <Inputs INPUTS, Factor FACTOR, int WORDS> struct Tf32Parts {
    static constexpr bool HAS_LOW = FACTOR == Factor::F32;
    uint32_t high[WORDS], low[WORDS];
    __device__ __forceinline__ explicit Tf32Parts(const uint32_t (&bits)[WORDS]) {
#pragma unroll
        for (int v = 0; v < WORDS; v++) {
            if constexpr (HAS_LOW) {
                const Tf32Split<INPUTS> split(bits[v]);
                high[v] = split.high, low[v] = split.low;
            } else {
                high[v] = bits[v];
            }
        }
    }
};

// Whose lower part is multiplied first. It decides bits of the result, so each product keeps its own.
enum class SmallTerms { OfAFirst, OfBFirst };

// accumulator += a·b over SLICES of 8 of the reduction, as a product of f32 (3xTF32; two thirds of it with one factor
// of tf32). Tensor cores truncate their sums: a sum of the slices begins at 0, takes the small terms first, and joins
// the accumulator by a rounded addition, so that the error does not grow with the length of the reduction.
template <SmallTerms ORDER, int SLICES, class PartsA, class PartsB>
__device__ __forceinline__ void mma_3xtf32(float (&accumulator)[4], const PartsA (&a)[SLICES],
                                           const PartsB (&b)[SLICES]) {
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    auto low_a = [&] {
        if constexpr (PartsA::HAS_LOW) {
#pragma unroll
            for (int s = 0; s < SLICES; s++) mma<float>(sum, a[s].low, b[s].high[0], b[s].high[1]);
        }
    };
    auto low_b = [&] {
        if constexpr (PartsB::HAS_LOW) {
#pragma unroll
            for (int s = 0; s < SLICES; s++) mma<float>(sum, a[s].high, b[s].low[0], b[s].low[1]);
        }
    };
    if constexpr (ORDER == SmallTerms::OfAFirst) {
        low_a();
        low_b();
    } else {
        low_b();
        low_a();
    }
#pragma unroll
    for (int s = 0; s < SLICES; s++) mma<float>(sum, a[s].high, b[s].high[0], b[s].high[1]);
#pragma unroll
    for (int v = 0; v < 4; v++) accumulator[v] += sum[v];
}

}  // namespace millet
