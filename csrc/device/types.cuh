// The storage types that kernels are compiled for, and what their names end with. src/cuda/catalogue.rs lists the same.
#pragma once
#include "numeric.cuh"

// Calls KERNEL(name, type, …) for types of which the experts' products have tiles of 64 rows only: both parts of f32
// operands would not fit into registers beside a larger accumulator.
#define MILLET_FOR_SMALL_TYPES(KERNEL, ...) KERNEL(f32, float, ##__VA_ARGS__)

// For those of which they have tiles of 128 rows, too.
#define MILLET_FOR_LARGE_TYPES(KERNEL, ...)   \
    KERNEL(bf16, millet::bf16, ##__VA_ARGS__) \
    KERNEL(f16, millet::f16, ##__VA_ARGS__)

// For all.
#define MILLET_FOR_TYPES(KERNEL, ...)             \
    MILLET_FOR_SMALL_TYPES(KERNEL, ##__VA_ARGS__) \
    MILLET_FOR_LARGE_TYPES(KERNEL, ##__VA_ARGS__)

// Calls KERNEL(names, type of x, type of Wᵣ) for x and Wᵣ of one type, and for Wᵣ in f32.
#define MILLET_FOR_ROUTER_TYPES(KERNEL)      \
    KERNEL(f32, float, float)                \
    KERNEL(bf16, millet::bf16, millet::bf16) \
    KERNEL(f16, millet::f16, millet::f16)    \
    KERNEL(bf16_f32, millet::bf16, float)    \
    KERNEL(f16_f32, millet::f16, float)
