// Phases: several dependent passes over the data in one launch, without a cooperative grid.
//
// Every block takes a ticket. Tickets are handed out in order, and the work of phase p has lower tickets than that of
// phase p + 1, so when a block waits for the phase before its own, every block of that phase is running or done, and
// none of them waits for a later one: there is always progress, however few blocks fit on the device.
//
// The words (MILLET_PHASE_WORDS of them) are 0 when the kernel starts: [0] hands out tickets, [1 + p] counts the blocks
// that have finished phase p. What a block wrote before `finish` is seen by every block after `wait`: release and
// acquire at device scope, carried to the block's other threads by its barriers.
//
// If something else writes the words meanwhile (scratch shared with a graph in flight), blocks would wait for ever or
// take tickets that do not exist. Both end the launch with an assertion, the wait after `PATIENCE`.
#pragma once
#include <stddef.h>
#include <stdint.h>

// A system call of the device: ends the launch as a failed assertion does, and prints where and why.
extern "C" __device__ __attribute__((noreturn)) void __assertfail(const void *message, const void *file, uint32_t line,
                                                                  const void *function, size_t char_bytes);

namespace millet {

// Nanoseconds that a block waits for one phase.
constexpr int64_t PATIENCE = 10000000000;

class Phases {
    uint32_t *words;

    static __device__ void give_up() {
        __assertfail("the scratch of a launch is its own while it runs", "millet", __LINE__, "Phases", sizeof(char));
    }

    static __device__ uint64_t now() {
        uint64_t nanoseconds;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(nanoseconds));
        return nanoseconds;
    }

public:
    __device__ explicit Phases(uint32_t *words) : words(words) {}

    // This block's ticket, one for each block of the grid; every thread of the block must call.
    __device__ uint32_t take_ticket() {
        __shared__ uint32_t ticket;
        if (threadIdx.x == 0) {
            ticket = atomicAdd(&words[0], 1u);
            if (ticket >= gridDim.x) give_up();
        }
        __syncthreads();
        return ticket;
    }

    // This block is done with its part of `phase`.
    __device__ void finish(int phase) {
        __syncthreads();
        if (threadIdx.x == 0)
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(&words[1 + phase]) : "memory");
    }

    // Waits until `blocks` blocks are done with `phase`.
    __device__ void wait(int phase, uint32_t blocks) {
        if (threadIdx.x == 0) {
            uint64_t since = 0;
            for (uint32_t polls = 0;; ++polls) {
                uint32_t done;
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(done) : "l"(&words[1 + phase]) : "memory");
                if (done >= blocks) break;
                // The longer it has waited, the longer it sleeps: some 3 % of that, up to a millisecond, the most there
                // is.
                __nanosleep(min(64 + polls / 16 * polls, 1000000u));
                if (polls % 256 == 255) {
                    if (since == 0) since = now();
                    if (static_cast<int64_t>(now() - since) > PATIENCE) give_up();
                }
            }
        }
        __syncthreads();
    }
};

}  // namespace millet
