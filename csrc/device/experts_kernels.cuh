// Makes the experts' kernels of a Problem: names and what each is compiled for. See src/cuda/arch/ampere.rs.
#pragma once
#include "../mainloop/ampere.cuh"
#include "types.cuh"

#define MILLET_PRODUCT(NAME, PROBLEM, ...)                                          \
    extern "C" __global__ void __launch_bounds__(millet::THREADS, millet::RESIDENT) \
        NAME(const __grid_constant__ MilletExperts params) {                        \
        const millet::PROBLEM<__VA_ARGS__> problem(params);                         \
        millet::grouped_gemm(problem, params.tickets);                              \
    }

#define MILLET_LARGE_PRODUCT(TYPE, T, NAME, PROBLEM)                                             \
    MILLET_PRODUCT(NAME##_##TYPE, PROBLEM, T, MILLET_PRODUCT_LARGE_ROWS, millet::Access::Chunks)

#define MILLET_SMALL_PRODUCT(TYPE, T, NAME, PROBLEM)                                             \
    MILLET_PRODUCT(NAME##_##TYPE, PROBLEM, T, MILLET_PRODUCT_SMALL_ROWS, millet::Access::Chunks)

#define MILLET_ANY_PRODUCT(TYPE, T, NAME, PROBLEM)                                                     \
    MILLET_PRODUCT(NAME##_any_##TYPE, PROBLEM, T, MILLET_PRODUCT_SMALL_ROWS, millet::Access::Elements)

#define MILLET_PRODUCTS(NAME, PROBLEM)                            \
    MILLET_FOR_LARGE_TYPES(MILLET_LARGE_PRODUCT, NAME, PROBLEM)   \
    MILLET_FOR_TYPES(MILLET_SMALL_PRODUCT, NAME##_small, PROBLEM) \
    MILLET_FOR_TYPES(MILLET_ANY_PRODUCT, NAME, PROBLEM)

// Tiles of the weights' gradients do not depend on the plan's, so that each type has one size.
#define MILLET_WEIGHT_GRADS(NAME, PROBLEM)                      \
    MILLET_FOR_LARGE_TYPES(MILLET_LARGE_PRODUCT, NAME, PROBLEM) \
    MILLET_FOR_SMALL_TYPES(MILLET_SMALL_PRODUCT, NAME, PROBLEM) \
    MILLET_FOR_TYPES(MILLET_ANY_PRODUCT, NAME, PROBLEM)
