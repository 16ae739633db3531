// Text for sm_90a, which the parser takes though nothing here executes it:
// nvcc -ptx -arch=compute_90a hopper.cu -o hopper.ptx
#include <cstdint>
extern "C" __global__ void __cluster_dims__(2, 1, 1) hopper(const __grid_constant__ int4 map, uint64_t descriptor, float *out) {
    extern __shared__ __align__(128) char shared[];
    uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(base));
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;");
    asm volatile("{\n.reg .pred p;\n.reg .b64 state;\nelect.sync _|p, -1;\n@p mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], 128;\n"
                 "@p cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0 + 1024], [%1, {%2, 0}], [%0];\n}"
                 ::"r"(base), "l"(&map), "r"(threadIdx.x));
    asm volatile("{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0, 0x989680;\n"
                 "@p bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(base));
    float d[4] = {0, 0, 0, 0};
    asm volatile("wgmma.fence.sync.aligned;\n{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %4, p, 1, -1, 0, 1;\n}\n"
                 "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(descriptor), "r"(threadIdx.x));
    out[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}
