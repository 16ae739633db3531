// Kernels in which every barrier, wait, warp synchronisation and fence is needed. The tests run them as they are, and then with
// one of these instructions removed at a time.
//
//   nvcc -arch=compute_80 -ptx -std=c++17 sync_kernels.cu -o sync_kernels.ptx

#include <cuda_bf16.h>
#include <cstdint>

// C = A·B, n×n floats, 16×16 threads a tile; n a multiple of 16.
extern "C" __global__ void tiled_gemm(const float *a, const float *b, float *c, int n) {
    __shared__ float as[16][16], bs[16][16];
    int x = threadIdx.x, y = threadIdx.y;
    int row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0;
#pragma unroll 1
    for (int k = 0; k < n; k += 16) {
        as[y][x] = a[row * n + k + x];
        bs[y][x] = b[(k + y) * n + column];
        __syncthreads();
        for (int i = 0; i < 16; i++) sum += as[y][i] * bs[i][x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}

// out[block] = sum of the block's 256 inputs: a tree through shared memory, its last levels inside one warp.
extern "C" __global__ void block_reduce(const int *in, int *out) {
    __shared__ int s[256];
    int t = threadIdx.x;
    s[t] = in[blockIdx.x * 256 + t];
    __syncthreads();
#pragma unroll 1
    for (int d = 128; d >= 32; d >>= 1) {
        if (t < d) s[t] += s[t + d];
        __syncthreads();
    }
    if (t < 32) {
#pragma unroll 1
        for (int d = 16; d >= 1; d >>= 1) {
            int other = t < d ? s[t + d] : 0;
            __syncwarp();
            s[t] += other;
            __syncwarp();
        }
        if (t == 0) out[blockIdx.x] = s[0];
    }
}

// Inclusive prefix sums of each block's 128 inputs.
extern "C" __global__ void block_scan(const int *in, int *out) {
    __shared__ int s[128];
    int t = threadIdx.x;
    int value = in[blockIdx.x * 128 + t];
#pragma unroll 1
    for (int d = 1; d < 128; d *= 2) {
        s[t] = value;
        __syncthreads();
        if (t >= d) value += s[t - d];
        __syncthreads();
    }
    out[blockIdx.x * 128 + t] = value;
}

static __device__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

static __device__ void copy16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

// C = A·Bᵀ for a 32×32 block of floats by 4 warps (each 16×16), A and B row-major bf16 with k columns (a multiple of 16):
// three stages of 16 columns, fetched by cp.async, read by ldmatrix, multiplied by mma.
extern "C" __global__ void pipelined_gemm(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int k) {
    constexpr int stages = 3, pitch = 24;
    __shared__ __align__(16) __nv_bfloat16 as[stages][32][pitch], bs[stages][32][pitch];
    int t = threadIdx.x, lane = t % 32, warp = t / 32;
    const __nv_bfloat16 *ab = a + blockIdx.y * 32 * k, *bb = b + blockIdx.x * 32 * k;
    int row = t % 64 / 2, part = t % 2 * 8;
    auto fetch = [&](int slice) {
        if (slice * 16 < k) {
            if (t < 64)
                copy16(&as[slice % stages][row][part], ab + row * k + slice * 16 + part);
            else
                copy16(&bs[slice % stages][row][part], bb + row * k + slice * 16 + part);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    fetch(0);
    fetch(1);
    float sums[2][4] = {};
    int m = warp % 2 * 16, n = warp / 2 * 16;
#pragma unroll 1
    for (int slice = 0; slice * 16 < k; slice++) {
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();
        fetch(slice + 2);
        auto &ta = as[slice % stages];
        auto &tb = bs[slice % stages];
        uint32_t x[4], y[4];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(shared_address(&ta[m + lane % 16][lane / 16 * 8])) : "memory");
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(y[0]), "=r"(y[1]), "=r"(y[2]), "=r"(y[3])
                     : "r"(shared_address(&tb[n + lane % 16][lane / 16 * 8])) : "memory");
        for (int j = 0; j < 2; j++)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
                         : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[j]), "r"(y[j + 2]));
    }
    int width = gridDim.x * 32;
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 4; i++) {
            int r = blockIdx.y * 32 + m + lane / 4 + i / 2 * 8;
            int q = blockIdx.x * 32 + n + j * 8 + lane % 4 * 2 + i % 2;
            c[r * width + q] = sums[j][i];
        }
}

// Each warp transposes 32×32 integers, four rows at a time, through its own shared memory.
extern "C" __global__ void warp_transpose(const int *in, int *out) {
    __shared__ int s[4][32][5];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int *from = in + (blockIdx.x * 4 + warp) * 1024;
    int *to = out + (blockIdx.x * 4 + warp) * 1024;
#pragma unroll 1
    for (int row = 0; row < 32; row += 4) {
        for (int i = 0; i < 4; i++) s[warp][lane][i] = from[(row + i) * 32 + lane];
        __syncwarp();
        for (int i = 0; i < 4; i++) to[(i * 8 + lane / 4) * 32 + row + lane % 4] = s[warp][i * 8 + lane / 4][lane % 4];
        __syncwarp();
    }
}

// The same with ldmatrix.trans: lanes store rows, the matrix unit reads them.
extern "C" __global__ void matrix_transpose(const uint16_t *in, uint16_t *out) {
    __shared__ __align__(16) uint16_t s[2][8][8];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
    for (int block = 0; block < 4; block++) {
        const uint16_t *from = in + ((blockIdx.x * 2 + warp) * 4 + block) * 64;
        uint16_t *to = out + ((blockIdx.x * 2 + warp) * 4 + block) * 64;
        s[warp][lane / 4][lane % 4 * 2] = from[lane * 2];
        s[warp][lane / 4][lane % 4 * 2 + 1] = from[lane * 2 + 1];
        __syncwarp();
        uint32_t x;
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                     : "=r"(x) : "r"(shared_address(&s[warp][lane % 8][0])) : "memory");
        to[lane * 2] = x & 0xffff;
        to[lane * 2 + 1] = x >> 16;
        __syncwarp();
    }
}

// Warps 0 and 1 fill a buffer, warps 2 and 3 add it up: barrier 1 says full, barrier 2 says empty.
extern "C" __global__ void producer_consumer(const int *in, int *out, int rounds) {
    __shared__ int s[64];
    int t = threadIdx.x;
    if (t < 64) {
#pragma unroll 1
        for (int r = 0; r < rounds; r++) {
            asm volatile("bar.sync 2, 128;" ::: "memory");
            s[t] = in[r * 64 + t];
            asm volatile("bar.arrive 1, 128;" ::: "memory");
        }
    } else {
        int sum = 0;
#pragma unroll 1
        for (int r = 0; r < rounds; r++) {
            asm volatile("bar.arrive 2, 128;" ::: "memory");
            asm volatile("bar.sync 1, 128;" ::: "memory");
            sum += s[(t - 64) ^ 63];
        }
        out[t - 64] = sum;
    }
}

// Inclusive prefix sums over all blocks of 64: each block publishes its sum, then its prefix, and looks back for its
// predecessors'. state: 0 nothing, 1 sum, 2 prefix.
extern "C" __global__ void lookback_scan(const int *in, int *out, int *sums, int *prefixes, volatile int *state, int *ticket) {
    __shared__ int s[64];
    __shared__ int shared_tile, shared_before;
    int t = threadIdx.x;
    if (t == 0) shared_tile = atomicAdd(ticket, 1);
    __syncthreads();
    int tile = shared_tile;
    int value = in[tile * 64 + t];
#pragma unroll 1
    for (int d = 1; d < 64; d *= 2) {
        s[t] = value;
        __syncthreads();
        if (t >= d) value += s[t - d];
        __syncthreads();
    }
    if (t == 63) {
        int before = 0;
        if (tile > 0) {
            sums[tile] = value;
            __threadfence();
            state[tile] = 1;
#pragma unroll 1
            for (int i = tile - 1; i >= 0; i--) {
                int seen;
                while ((seen = state[i]) == 0) {}
                __threadfence();
                before += seen == 2 ? prefixes[i] : sums[i];
                if (seen == 2) break;
            }
        }
        prefixes[tile] = before + value;
        __threadfence();
        state[tile] = 2;
        shared_before = before;
    }
    __syncthreads();
    out[tile * 64 + t] = shared_before + value;
}

// All blocks add 1 to each of 32 counters under a lock.
extern "C" __global__ void locked_counters(int *lock, int *counters) {
    if (threadIdx.x == 0) {
        while (atomicCAS(lock, 0, 1) != 0) {}
        __threadfence();
#pragma unroll 1
        for (int i = 0; i < 32; i++) counters[i] += 1;
        __threadfence();
        atomicExch(lock, 0);
    }
}

// out = sum of all inputs: the block that finishes last adds the blocks' sums.
extern "C" __global__ void last_block_sum(const int *in, int *partial, unsigned *done, int *out) {
    __shared__ bool last;
    __shared__ int s[32];
    int t = threadIdx.x;
    s[t] = in[blockIdx.x * 32 + t];
    __syncwarp();
    if (t == 0) {
        int sum = 0;
        for (int i = 0; i < 32; i++) sum += s[i];
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(done, 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncwarp();
    if (last && t == 0) {
        int sum = 0;
        for (int i = 0; i < gridDim.x; i++) sum += partial[i];
        *out = sum;
    }
}

// Each block passes 64 numbers to its neighbour; in between all blocks meet: arrive with release, wait with acquire.
extern "C" __global__ void grid_exchange(int *data, int *out, unsigned *arrived) {
    int t = threadIdx.x, next = (blockIdx.x + 1) % gridDim.x;
    data[blockIdx.x * 64 + t] = blockIdx.x * 100 + t;
    __syncthreads();
    if (t == 0) {
        unsigned n;
        asm volatile("atom.add.release.gpu.global.u32 %0, [%1], 1;" : "=r"(n) : "l"(arrived) : "memory");
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(arrived) : "memory");
        } while (n < gridDim.x);
    }
    __syncthreads();
    out[blockIdx.x * 64 + t] = data[next * 64 + (t ^ 33)];
}

// Phases without a barrier of the whole grid. Each ticket is a piece of a phase's work; who needs the phase before waits until its counter
// is full. Tickets go up, so whoever waits, waits for blocks that run.
extern "C" __global__ void phases_by_tickets(unsigned *ticket, unsigned *done, int *data, int pieces, int phases) {
    __shared__ unsigned mine;
    int t = threadIdx.x;
#pragma unroll 1
    for (;;) {
        if (t == 0) mine = atomicAdd(ticket, 1);
        __syncthreads();
        unsigned work = mine;
        if (work >= pieces * phases) return;
        int phase = work / pieces, piece = work % pieces;
        if (phase > 0 && t == 0) {
            bool full;
            do {
                unsigned n;
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(done + phase - 1) : "memory");
                full = n == pieces;
                if (!full) __nanosleep(64);
            } while (!full);
        }
        __syncthreads();
        // A sum of three pieces of the phase before.
        const int *from = data + phase * pieces * 64;
        int sum = 0;
#pragma unroll 1
        for (int i = 0; i < 3; i++) sum += from[(piece + i * 5) % pieces * 64 + (t ^ 21)];
        data[(phase + 1) * pieces * 64 + piece * 64 + t] = sum % 1000 + 1;
        __syncthreads();
        if (t == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(done + phase) : "memory");
    }
}
