// Makes the experts' kernels of a Work: names and what each is compiled for. See src/cuda/experts.rs.
#pragma once
#include "pipeline.cuh"

#define MILLET_PRODUCT(NAME, WORK, ...)                                             \
    extern "C" __global__ void __launch_bounds__(millet::THREADS, millet::RESIDENT) \
        NAME(const __grid_constant__ MilletExperts p) {                             \
        const millet::WORK<__VA_ARGS__> work(p);                                    \
        millet::multiply_tiles(work, p.tickets);                                    \
    }

// f32 has tiles of 64 rows only: both parts of its operands would not fit into registers beside a larger sum.
#define MILLET_SMALL_PRODUCTS(NAME, WORK, VARIANT, ACCESS)                                  \
    MILLET_PRODUCT(NAME##_##VARIANT##_bf16, WORK, millet::bf16, 64, millet::Access::ACCESS) \
    MILLET_PRODUCT(NAME##_##VARIANT##_f16, WORK, millet::f16, 64, millet::Access::ACCESS)   \
    MILLET_PRODUCT(NAME##_##VARIANT##_f32, WORK, float, 64, millet::Access::ACCESS)

#define MILLET_PRODUCTS(NAME, WORK)                                              \
    MILLET_PRODUCT(NAME##_bf16, WORK, millet::bf16, 128, millet::Access::Pieces) \
    MILLET_PRODUCT(NAME##_f16, WORK, millet::f16, 128, millet::Access::Pieces)   \
    MILLET_SMALL_PRODUCTS(NAME, WORK, small, Pieces)                             \
    MILLET_SMALL_PRODUCTS(NAME, WORK, any, Elements)

// Tiles of the weights' gradients do not depend on the plan's.
#define MILLET_WEIGHT_GRADS(NAME, WORK)                                          \
    MILLET_PRODUCT(NAME##_bf16, WORK, millet::bf16, 128, millet::Access::Pieces) \
    MILLET_PRODUCT(NAME##_f16, WORK, millet::f16, 128, millet::Access::Pieces)   \
    MILLET_PRODUCT(NAME##_f32, WORK, float, 64, millet::Access::Pieces)          \
    MILLET_SMALL_PRODUCTS(NAME, WORK, any, Elements)
