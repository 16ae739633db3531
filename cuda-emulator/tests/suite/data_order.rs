//! A store comes after a load of another lane if it depends on what that lane loaded, and only then.

use crate::gpu::{Gpu, checked, describe};
use cuda_emulator::check::FindingKind;

/// Runs one warp on the body: `%r2` is the lane's word of a tile in shared memory, which holds the lanes' numbers; `%d4` the lane's
/// word of a buffer in global memory, which is zero. Whether races were found, and nothing else.
fn races(body: &str) -> bool {
    let text = format!(
        "
.version 8.0
.target sm_80
.address_size 64
.visible .entry kernel(.param .u64 out) {{
.reg .b32 %r<32>; .reg .f32 %f<16>; .reg .b64 %d<16>; .reg .pred %p<8>;
.shared .align 16 .b8 tile[1024];
ld.param.u64 %d1, [out];
mov.u32 %r0, %tid.x; mul.wide.u32 %d2, %r0, 4; add.u64 %d4, %d1, %d2;
mov.u32 %r1, tile; mad.lo.u32 %r2, %r0, 4, %r1;
xor.b32 %r31, %r0, 1; mad.lo.u32 %r30, %r31, 4, %r1;
st.shared.u32 [%r2], %r0; bar.sync 0;
{body}
ret;
}}
"
    );
    let gpu = Gpu::new(&text);
    let out = gpu.upload(&[0u32; 1024]);
    let report = gpu.launch("kernel", [1, 1, 1], [32, 1, 1], &[out], &checked(1));
    assert!(report.fault.is_none(), "{:?}\n{text}", report.fault);
    let others = report.findings.iter().any(|f| f.kind != FindingKind::Race);
    assert!(!others, "{}\n{body}", describe(&report.findings));
    !report.findings.is_empty()
}

#[test]
fn a_store_of_what_its_reader_loaded_is_ordered() {
    for body in [
        // To the neighbour's word, which the neighbour has read and sent.
        "ld.shared.u32 %r3, [%r2];
         shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
         add.u32 %r4, %r4, 1000; st.shared.u32 [%r30], %r4;",
        // In two steps, and through a predicate.
        "ld.shared.u32 %r3, [%r2];
         shfl.sync.bfly.b32 %r4, %r3, 3, 31, -1; shfl.sync.bfly.b32 %r4, %r4, 2, 31, -1;
         st.shared.u32 [%r30], %r4;",
        "ld.shared.u32 %r3, [%r2];
         shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1; setp.lt.u32 %p0, %r4, 100;
         selp.b32 %r5, 7, 9, %p0; st.shared.u32 [%r30], %r5;",
        // The guard depends on it, or the address does.
        "ld.shared.u32 %r3, [%r2];
         shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1; setp.lt.u32 %p0, %r4, 100;
         @%p0 st.shared.u32 [%r30], %r0;",
        "ld.shared.u32 %r3, [%r2];
         shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1; mad.lo.u32 %r5, %r4, 4, %r1;
         st.shared.u32 [%r5], %r0;",
        // All lanes' values, by one lane.
        "ld.shared.u32 %r3, [%r2]; redux.sync.add.u32 %r4, %r3, -1;
         mul.lo.u32 %r5, %r31, 4; add.u32 %r5, %r5, %r1; st.shared.u32 [%r5], %r4;",
        "ld.shared.u32 %r3, [%r2]; setp.eq.u32 %p0, %r3, 3; vote.sync.ballot.b32 %r4, %p0, -1;
         st.shared.u32 [%r30], %r4;",
        // Global memory, and an atomic operation as the store.
        "ld.global.u32 %r3, [%d4]; shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
         mul.wide.u32 %d5, %r31, 4; add.u64 %d5, %d5, %d1; st.global.u32 [%d5], %r4;",
        "ld.global.u32 %r3, [%d4]; shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
         mul.wide.u32 %d5, %r31, 4; add.u64 %d5, %d5, %d1; atom.global.add.u32 %r6, [%d5], %r4;",
        // A row of a matrix: lane l / 4 names it, lanes 4 · (l / 4) and on get it, and store over it.
        "mad.lo.u32 %r3, %r0, 16, %r1; and.b32 %r4, %r0, 7; mad.lo.u32 %r4, %r4, 16, %r1;
         ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r4];
         st.shared.u32 [%r2], %r5;",
        // A matrix turned: lane 1 gets columns 2 and 3 of row 0, which lanes 8 and 12 have read.
        "ld.shared.u32 %r3, [%r2]; movmatrix.sync.aligned.m8n8.trans.b16 %r4, %r3;
         setp.eq.u32 %p0, %r0, 1; @%p0 st.shared.u32 [%r1+32], %r4;",
        // Fragments, and the product over them.
        "mov.u32 %r20, 16; mov.f32 %f0, 0f00000000;
         wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%r3,%r4,%r5,%r6,%r7,%r8,%r9,%r10}, [%r1], %r20;
         wmma.load.b.sync.aligned.col.m16n16k16.shared.f16 {%r11,%r12,%r13,%r14,%r15,%r16,%r17,%r18}, [%r1], %r20;
         wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%f1,%f2,%f3,%f4,%f5,%f6,%f7,%f8},
             {%r3,%r4,%r5,%r6,%r7,%r8,%r9,%r10}, {%r11,%r12,%r13,%r14,%r15,%r16,%r17,%r18},
             {%f0,%f0,%f0,%f0,%f0,%f0,%f0,%f0};
         wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [%r1], {%f1,%f2,%f3,%f4,%f5,%f6,%f7,%f8}, %r20;",
        // A branch on what all have read.
        "ld.shared.u32 %r3, [%r2]; setp.gt.u32 %p0, %r3, 40; vote.sync.any.pred %p1, %p0, -1;
         @%p1 bra end; st.shared.u32 [%r30], %r0; end:",
        // The last of several executions, by way of a sum over all.
        "mov.u32 %r10, 0; mov.u32 %r5, 0;
         more: ld.shared.u32 %r3, [%r2]; redux.sync.add.u32 %r4, %r3, -1; add.u32 %r5, %r5, %r4;
         add.u32 %r10, %r10, 1; setp.lt.u32 %p0, %r10, 5; @%p0 bra more;
         st.shared.u32 [%r30], %r5;",
    ] {
        assert!(!races(body), "{body}");
    }
}

#[test]
fn a_store_of_something_else_is_a_race() {
    for body in [
        // What it loaded itself.
        "ld.shared.u32 %r3, [%r2]; st.shared.u32 [%r30], %r3;",
        // What a third lane has loaded.
        "ld.shared.u32 %r3, [%r2]; shfl.sync.bfly.b32 %r4, %r3, 2, 31, -1; st.shared.u32 [%r30], %r4;",
        // A shuffle of what nobody loaded; of what was loaded elsewhere; of what was loaded before.
        "ld.shared.u32 %r3, [%r2]; shfl.sync.bfly.b32 %r4, %r0, 1, 31, -1; st.shared.u32 [%r30], %r4;",
        "ld.shared.u32 %r3, [%r2];
         ld.shared.u32 %r6, [%r2+128]; shfl.sync.bfly.b32 %r4, %r6, 1, 31, -1; st.shared.u32 [%r30], %r4;"
            .replace("[%r2+128]", "[%r1]")
            .as_str(),
        "ld.shared.u32 %r3, [%r2]; shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1; bar.warp.sync -1;
         ld.shared.u32 %r6, [%r2];
         mov.u32 %r4, 5; st.shared.u32 [%r30], %r4;",
        // A value that came from there once, and was overwritten.
        "ld.shared.u32 %r3, [%r2]; shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1; mov.u32 %r4, %r0;
         st.shared.u32 [%r30], %r4;",
        "ld.shared.u32 %r3, [%r2]; shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1; ld.global.u32 %r4, [%d4];
         st.shared.u32 [%r30], %r4;",
        "ld.shared.u32 %r3, [%r2]; mov.u32 %r5, 500; shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
         setp.eq.u32 %p0, %r0, 31; @%p0 mov.u32 %r5, %r4; st.shared.u32 [%r30], %r5;",
        // The execution of the load before the last.
        "mov.u32 %r10, 0; mov.u32 %r5, 5;
         more: shfl.sync.bfly.b32 %r4, %r5, 1, 31, -1; ld.shared.u32 %r5, [%r2];
         add.u32 %r10, %r10, 1; setp.lt.u32 %p0, %r10, 3; @%p0 bra more;
         st.shared.u32 [%r30], %r4;",
        "mov.u32 %r10, 0; mov.u32 %r5, 5;
         more: setp.eq.u32 %p0, %r5, 77; vote.sync.any.pred %p1, %p0, -1; @%p1 bra end;
         ld.shared.u32 %r5, [%r2];
         add.u32 %r10, %r10, 1; setp.lt.u32 %p0, %r10, 4; @%p0 bra more;
         st.shared.u32 [%r30], %r0; end:",
        // Another's load of the same word at another line; what one lane loaded here, and another there.
        "ld.shared.u32 %r3, [%r2]; ld.shared.u32 %r6, [%r30]; redux.sync.add.u32 %r4, %r3, -1;
         setp.eq.u32 %p0, %r0, 3; @%p0 st.shared.u32 [%r1], %r4;",
        "ld.shared.u32 %r3, [%r2]; ld.shared.u32 %r6, [%r1+4];
         shfl.sync.bfly.b32 %r4, %r3, 2, 31, -1; shfl.sync.bfly.b32 %r5, %r6, 1, 31, -1;
         add.u32 %r4, %r4, %r5; add.u32 %r4, %r4, 1000; st.shared.u32 [%r30], %r4;",
    ] {
        assert!(races(body), "{body}");
    }
}
