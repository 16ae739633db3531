// Makes the experts' kernels of a Problem: names and what each is compiled for. See src/cuda/experts.rs.
#pragma once
#include "../mainloop/ampere.cuh"

#define MILLET_PRODUCT(NAME, PROBLEM, ...)                                          \
    extern "C" __global__ void __launch_bounds__(millet::THREADS, millet::RESIDENT) \
        NAME(const __grid_constant__ MilletExperts params) {                        \
        const millet::PROBLEM<__VA_ARGS__> problem(params);                         \
        millet::grouped_gemm(problem, params.tickets);                              \
    }

// f32 has tiles of 64 rows only: both parts of its operands would not fit into registers beside a larger accumulator.
#define MILLET_SMALL_PRODUCTS(NAME, PROBLEM, VARIANT, ACCESS)                                  \
    MILLET_PRODUCT(NAME##_##VARIANT##_bf16, PROBLEM, millet::bf16, 64, millet::Access::ACCESS) \
    MILLET_PRODUCT(NAME##_##VARIANT##_f16, PROBLEM, millet::f16, 64, millet::Access::ACCESS)   \
    MILLET_PRODUCT(NAME##_##VARIANT##_f32, PROBLEM, float, 64, millet::Access::ACCESS)

#define MILLET_PRODUCTS(NAME, PROBLEM)                                              \
    MILLET_PRODUCT(NAME##_bf16, PROBLEM, millet::bf16, 128, millet::Access::Chunks) \
    MILLET_PRODUCT(NAME##_f16, PROBLEM, millet::f16, 128, millet::Access::Chunks)   \
    MILLET_SMALL_PRODUCTS(NAME, PROBLEM, small, Chunks)                             \
    MILLET_SMALL_PRODUCTS(NAME, PROBLEM, any, Elements)

// Tiles of the weights' gradients do not depend on the plan's.
#define MILLET_WEIGHT_GRADS(NAME, PROBLEM)                                          \
    MILLET_PRODUCT(NAME##_bf16, PROBLEM, millet::bf16, 128, millet::Access::Chunks) \
    MILLET_PRODUCT(NAME##_f16, PROBLEM, millet::f16, 128, millet::Access::Chunks)   \
    MILLET_PRODUCT(NAME##_f32, PROBLEM, float, 64, millet::Access::Chunks)          \
    MILLET_SMALL_PRODUCTS(NAME, PROBLEM, any, Elements)
