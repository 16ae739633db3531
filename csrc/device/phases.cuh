// Phases: several dependent passes over the data in one launch, without a cooperative grid.
//
// Every block takes a ticket. Tickets are handed out in order, and the work of phase p has lower tickets than that of phase
// p + 1, so when a block waits for the phase before its own, every block of that phase is running or done, and none of them
// waits for a later one: there is always progress, however few blocks fit on the device.
//
// The words (MILLET_PHASE_WORDS of them) are 0 when the kernel starts: [0] hands out tickets, [1 + p] counts the blocks that
// have finished phase p. What a block wrote before `finish` is seen by every block after `wait`: release and acquire at
// device scope, carried to the block's other threads by its barriers.
#pragma once
#include <stdint.h>

namespace millet {

class Phases {
    uint32_t *words;

public:
    __device__ explicit Phases(uint32_t *words) : words(words) {}

    // This block's ticket; every thread of the block must call.
    __device__ uint32_t take_ticket() {
        __shared__ uint32_t ticket;
        if (threadIdx.x == 0) ticket = atomicAdd(&words[0], 1u);
        __syncthreads();
        return ticket;
    }

    // This block is done with its part of `phase`.
    __device__ void finish(int phase) {
        __syncthreads();
        if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(&words[1 + phase]) : "memory");
    }

    // Waits until `blocks` blocks are done with `phase`.
    __device__ void wait(int phase, uint32_t blocks) {
        if (threadIdx.x == 0) {
            for (;;) {
                uint32_t done;
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(done) : "l"(&words[1 + phase]) : "memory");
                if (done >= blocks) break;
                __nanosleep(64);
            }
        }
        __syncthreads();
    }
};

}  // namespace millet
