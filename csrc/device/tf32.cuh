// f32 factors for the tensor cores, as tf32 numbers: one each (TF32), or two each, for products of f32 (3xTF32).
#pragma once
#include <stdint.h>

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

}  // namespace millet
