// The types that x and the router weight may have, for kernels that start from tokens.
#pragma once
#include "numeric.cuh"

// x and Wᵣ of one type, or Wᵣ in f32.
#define MILLET_FOR_ROUTER_TYPES(KERNEL)      \
    KERNEL(f32, float, float)                \
    KERNEL(bf16, millet::bf16, millet::bf16) \
    KERNEL(f16, millet::f16, millet::f16)    \
    KERNEL(bf16_f32, millet::bf16, float)    \
    KERNEL(f16_f32, millet::f16, float)
