// The multistage pipeline of the products: a ring of STAGES stages in shared memory that cp.async fills ahead of use.
// Every thread is producer and consumer. In each step:
//   every thread   its own copies of step s are done            wait_copies<STAGES − 2>
//   barrier        all copies of step s are visible; nobody reads step s − 1 any more
//   every thread   copies step s + STAGES − 1 into the stage of step s − 1, closes the group
//   every warp     multiplies step s
// One barrier per step. A group is closed in each step, an empty one behind the last copies, so that the count of
// groups in flight says the same in every step.
#pragma once
#include "ptx.cuh"
#include "tf32.cuh"

namespace millet {

template <int STAGES> struct Pipeline {
    static_assert(STAGES >= 2, "a stage is filled while another is read");

    // Copies the first STAGES − 1 steps; the ring must be free. `load(step, stage)` copies this thread's part of a
    // step.
    template <int UNROLL, class Load> static __device__ __forceinline__ void prologue(int steps, Load load) {
#pragma unroll(UNROLL)
        for (int step = 0; step < STAGES - 1; step++) {
            if (step < steps) load(step, step);
            ptx::commit_copies();
        }
    }

    // All steps, after the prologue. `multiply(stage)` consumes a stage. Slow warps may still read the last stage when
    // this returns.
    template <class Load, class Multiply>
    static __device__ __forceinline__ void run(int steps, Load load, Multiply multiply) {
        int stage = 0, free_stage = STAGES - 1;
        for (int step = 0; step < steps; step++) {
            ptx::wait_copies<STAGES - 2>();
            __syncthreads();
            if (step + STAGES - 1 < steps) load(step + STAGES - 1, free_stage);
            ptx::commit_copies();
            multiply(stage);
            free_stage = stage;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
    }
};

// A product of its own: all steps of its operands through a ring at `shared`, which is free when this returns.
// `multiply(tile_a, tile_b)` consumes a step.
template <int STAGES, class OperandA, class OperandB, class Multiply>
__device__ __forceinline__ void multiply_all(OperandA &a, OperandB &b, int steps, void *shared, Multiply multiply) {
    const uint32_t tiles_a = ptx::shared_address(shared), tiles_b = tiles_a + STAGES * OperandA::BYTES;
    auto load = [&](int step, int stage) {
        a.template load<Inputs::Finite>(tiles_a + stage * OperandA::BYTES, step);
        b.template load<Inputs::Finite>(tiles_b + stage * OperandB::BYTES, step);
    };
    // Not unrolled: every step's addresses, kept at once, spill.
    Pipeline<STAGES>::template prologue<1>(steps, load);
    Pipeline<STAGES>::run(steps, load, [&](int stage) {
        multiply(tiles_a + stage * OperandA::BYTES, tiles_b + stage * OperandB::BYTES);
    });
    ptx::wait_copies<0>();
    __syncthreads();
}

}  // namespace millet
