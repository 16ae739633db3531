//! Undefined values are followed wherever they go, and reported where they decide something and nowhere else.

use crate::gpu::{Gpu, checked, describe};
use cuda_emulator::check::{Finding, FindingKind};

/// Runs a kernel of one warp on the body given, with its parameters `in` (never written) and `out`, and 4 KiB of each; what it
/// found, and what a copy of the first `count` words of `out` to the host would.
fn run(body: &str, count: usize) -> (Vec<Finding>, Option<Finding>) {
    let text = format!(
        "
.version 8.0
.target sm_80
.address_size 64
.func (.reg .b32 %out) twice(.reg .b32 %in) {{ add.u32 %out, %in, %in; ret; }}
.visible .entry kernel(.param .u64 in, .param .u64 out) {{
.reg .b16 %h<16>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .b64 %d<16>; .reg .pred %p<8>;
.shared .align 16 .b8 tile[1024];
.local .align 16 .b8 stack[64];
ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out];
mov.u32 %r0, %tid.x; mul.wide.u32 %d2, %r0, 4;
add.u64 %d3, %d0, %d2; add.u64 %d4, %d1, %d2;
mov.u32 %r1, tile; mad.lo.u32 %r2, %r0, 4, %r1;
mov.u32 %r31, 7;
{body}
ret;
}}
"
    );
    let gpu = Gpu::new(&text);
    let (input, out) = (gpu.allocate(4096), gpu.allocate(4096));
    let report = gpu.launch("kernel", [1, 1, 1], [32, 1, 1], &[input, out], &checked(1));
    assert!(report.fault.is_none(), "{:?}\n{text}", report.fault);
    (report.findings, gpu.undefined::<u32>(out, count))
}

/// The body is correct: whatever undefined values it touches, none of them matters.
fn nothing(body: &str) {
    let (findings, copied) = run(body, 32);
    assert!(findings.is_empty(), "{}\n{body}", describe(&findings));
    assert_eq!(copied, None, "{body}");
}

/// The body has one finding, whose message has these words.
fn one(body: &str, words: &[&str]) {
    let (findings, _) = run(body, 0);
    let [finding] = &findings[..] else {
        panic!(
            "{} findings: {}\n{body}",
            findings.len(),
            describe(&findings)
        );
    };
    assert_eq!(finding.kind, FindingKind::Uninitialized, "{body}");
    for word in words {
        assert!(
            finding.message.contains(word),
            "{}: {word}\n{body}",
            finding.message
        );
    }
}

/// The body stores undefined words to `out`, which only a copy to the host shows.
fn copied(body: &str) {
    let (findings, copied) = run(body, 32);
    assert!(findings.is_empty(), "{}\n{body}", describe(&findings));
    let finding = copied.unwrap_or_else(|| panic!("all of `out` is defined\n{body}"));
    assert_eq!(finding.kind, FindingKind::Uninitialized);
    assert!(
        finding.message.contains("a copy of 128 bytes to the host"),
        "{}",
        finding.message
    );
}

#[test]
fn a_value_that_nobody_uses_is_no_finding() {
    for body in [
        // Read, computed with and forgotten, from each kind of memory and from a register.
        "ld.global.u32 %r3, [%d3]; add.u32 %r4, %r3, 1; st.global.u32 [%d4], %r0;",
        "ld.shared.u32 %r3, [%r2]; mul.lo.u32 %r4, %r3, %r3; st.global.u32 [%d4], %r0;",
        "ld.local.u32 %r3, [stack+8]; st.global.u32 [%d4], %r0;",
        "add.f32 %f1, %f0, %f0; st.global.u32 [%d4], %r0;",
        // What hides it: a mask, a select, a shift, zero, a comparison that the known bits decide.
        "ld.global.u32 %r3, [%d3]; and.b32 %r4, %r3, 0; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; mul.lo.u32 %r4, %r3, 0; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; setp.eq.u32 %p0, %r31, 8; selp.b32 %r4, %r3, %r0, %p0; st.global.u32 [%d4], %r4;",
        "ld.global.u8 %r3, [%d3]; shr.u32 %r4, %r3, 8; st.global.u32 [%d4], %r4;",
        "ld.global.u8 %r3, [%d3]; setp.lt.u32 %p0, %r3, 256; @!%p0 trap; st.global.u32 [%d4], %r0;",
        "ld.global.u32 %r3, [%d3]; or.b32 %r3, %r3, 1; setp.eq.u32 %p0, %r3, 0; @%p0 trap; st.global.u32 [%d4], %r0;",
        // A part of a register.
        "ld.global.u16 %h0, [%d3]; mov.u16 %h1, 5; mov.b32 %r3, {%h0, %h1}; shr.u32 %r4, %r3, 16; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; mov.b64 %d5, {%r0, %r3}; mov.b64 {%r4, %r5}, %d5; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; bfi.b32 %r4, %r31, %r3, 0, 16; bfe.u32 %r5, %r4, 0, 16; st.global.u32 [%d4], %r5;",
        "ld.global.u32 %r3, [%d3]; prmt.b32 %r4, %r3, %r31, 0x7654; st.global.u32 [%d4], %r4;",
        // Other lanes'.
        "setp.lt.u32 %p0, %r0, 16; mov.u32 %r3, 1; @!%p0 ld.global.u32 %r3, [%d3]; shfl.sync.idx.b32 %r4, %r3, 3, 31, -1;
         st.global.u32 [%d4], %r4;",
        "setp.eq.u32 %p1, %r0, 0; ld.global.u32 %r3, [%d3]; setp.eq.u32 %p0, %r3, 0; @%p1 setp.eq.u32 %p0, %r0, 0;
         vote.sync.any.pred %p2, %p0, -1; @!%p2 trap; st.global.u32 [%d4], %r0;",
        // Written afterwards.
        "st.shared.u32 [%r2], %r0; ld.shared.u32 %r3, [%r2]; setp.eq.u32 %p0, %r3, 40; @%p0 trap; st.global.u32 [%d4], %r3;",
        "st.local.u32 [stack], %r0; ld.local.u32 %r3, [stack]; setp.eq.u32 %p0, %r3, 40; @%p0 trap; st.global.u32 [%d4], %r3;",
        "ld.global.f32 %f1, [%d3]; setp.gt.u32 %p1, %r0, 99; setp.lt.and.f32 %p0, %f1, 0f00000000, %p1; @%p0 trap;
         st.global.u32 [%d4], %r0;",
        "mov.f32 %f1, 0f80000001; ld.global.u32 %r3, [%d3]; slct.ftz.u32.f32 %r4, %r0, %r3, %f1; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; and.b32 %r3, %r3, 0xffffff00; cvt.rn.f32.u8 %f1, %r3; st.global.f32 [%d4], %f1;",
        "ld.global.u32 %r3, [%d3]; or.b32 %r3, %r3, 1; brev.b32 %r3, %r3; clz.b32 %r4, %r3; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; or.b32 %r3, %r3, 0x80000000; bfind.u32 %r4, %r3; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; min.u32 %r4, %r3, 0; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; and.b32 %r3, %r3, 0xff00; vabsdiff4.u32.u32.u32 %r4, %r3, %r31, 0; and.b32 %r4, %r4, 0xff00ff;
         st.global.u32 [%d4], %r4;",
        "mov.u32 %r3, 0; setp.ne.u32 %p0, %r0, 5; @%p0 ld.global.u32 %r3, [%d3]; redux.sync.and.b32 %r4, %r3, -1;
         st.global.u32 [%d4], %r4;",
        "mov.u32 %r3, 0; setp.ne.u32 %p0, %r0, 5; @%p0 ld.global.u32 %r3, [%d3]; redux.sync.min.u32 %r4, %r3, -1;
         st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; atom.shared.exch.b32 %r4, [%r2], %r0; atom.shared.cas.b32 %r5, [%r2], 1000, %r3;
         st.shared.u32 [%r2], %r0; ld.shared.u32 %r6, [%r2]; st.global.u32 [%d4], %r6;",
        // Bits of one byte, the rest of which nobody wrote.
        "ld.shared.u8 %r3, [%r2]; and.b32 %r3, %r3, 0xf0; or.b32 %r3, %r3, 5; st.shared.u8 [%r2], %r3; ld.shared.u8 %r4, [%r2];
         and.b32 %r4, %r4, 15; st.global.u32 [%d4], %r4;",
        // A function's frame.
        "{ .param .b32 a; .param .b32 b; call (%r4), twice, (%r0); } st.global.u32 [%d4], %r4;",
    ] {
        nothing(body);
    }
}

#[test]
fn a_branch_a_guard_and_an_address_are_findings() {
    one(
        "ld.global.u32 %r3, [%d3]; setp.eq.u32 %p0, %r3, 0; @%p0 bra end; add.u32 %r0, %r0, 1; end:",
        &["branches on", "global memory", "read at line"],
    );
    one(
        "ld.shared.u32 %r3, [%r2]; setp.eq.u32 %p0, %r3, 0; @%p0 st.global.u32 [%d4], %r0;",
        &["executes or leaves out", "shared memory"],
    );
    one(
        "ld.local.u32 %r3, [stack]; mul.wide.u32 %d5, %r3, 0; cvt.u64.u32 %d5, %r3; and.b64 %d5, %d5, 4; add.u64 %d5, %d5, %d1;
         ld.global.u32 %r4, [%d5];",
        &["uses as an address", "local memory"],
    );
    one(
        "setp.eq.f32 %p0, %f7, 0f00000000; @%p0 bra end; add.u32 %r0, %r0, 1; end:",
        &["branches on", "a register that was never written"],
    );
    one(
        "ld.global.u32 %r3, [%d3]; and.b32 %r3, %r3, 1; ts: .branchtargets here, there; brx.idx %r3, ts; here: add.u32 %r0, %r0, 1;
         there:",
        &["branches on"],
    );
    one(
        "ld.global.u32 %r3, [%d3]; and.b32 %r3, %r3, 12; add.u32 %r3, %r3, %r1; atom.shared.add.u32 %r4, [%r3], 1;",
        &["uses as an address"],
    );
    one(
        "ld.global.u32 %r3, [%d3]; and.b32 %r3, %r3, 1; bar.sync %r3;",
        &["a barrier's number or count"],
    );
}

#[test]
fn a_finding_names_where_the_value_was_read_also_through_a_call() {
    one(
        "ld.global.u32 %r3, [%d3]; call (%r4), twice, (%r3); setp.eq.u32 %p0, %r4, 9; @%p0 bra end; add.u32 %r0, %r0, 1; end:",
        &["branches on", "global memory", "read at line"],
    );
}

#[test]
fn lanes_in_different_spaces_are_looked_up_each_in_its_own() {
    // Lane 0 reads global memory, lane 1 shared memory, the others nothing.
    nothing(
        "st.shared.u32 [%r2], %r0; st.global.u32 [%d4], %r0; cvt.u64.u32 %d5, %r2; cvta.shared.u64 %d5, %d5;
         setp.eq.u32 %p0, %r0, 0; selp.b64 %d6, %d4, %d5, %p0; setp.lt.u32 %p1, %r0, 2; mov.u32 %r3, 7;
         @%p1 ld.u32 %r3, [%d6]; st.global.u32 [%d4], %r3;",
    );
}

#[test]
fn a_finding_is_not_repeated_by_what_follows_from_it() {
    let (findings, copied) = run(
        "ld.global.u32 %r3, [%d3]; setp.eq.u32 %p0, %r3, 0; @%p0 bra end; @%p0 bra end; mov.u32 %r4, 1; @%p0 mov.u32 %r4, 2;
         st.global.u32 [%d4], %r4; end:",
        0,
    );
    assert_eq!(findings.len(), 1, "{}", describe(&findings));
    assert_eq!(copied, None);
}

#[test]
fn undefined_values_arrive_wherever_they_are_moved() {
    for body in [
        "ld.global.u32 %r3, [%d3]; st.global.u32 [%d4], %r3;",
        "ld.shared.v2.u32 {%r3, %r4}, [tile]; add.u32 %r5, %r4, %r0; st.global.u32 [%d4], %r5;",
        "st.global.f32 [%d4], %f9;",
        // Through shared and local memory.
        "ld.global.u32 %r3, [%d3]; st.shared.u32 [%r2], %r3; ld.shared.u32 %r4, [%r2]; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; st.local.u32 [stack+4], %r3; ld.local.u32 %r4, [stack+4]; st.global.u32 [%d4], %r4;",
        // Through a generic address.
        "cvt.u64.u32 %d5, %r1; cvta.shared.u64 %d5, %d5; add.u64 %d5, %d5, %d2; ld.u32 %r3, [%d5]; st.u32 [%d4], %r3;",
        // From lane to lane.
        "mov.u32 %r3, 1; setp.eq.u32 %p0, %r0, 5; @%p0 ld.global.u32 %r3, [%d3]; shfl.sync.idx.b32 %r4, %r3, 5, 31, -1;
         st.global.u32 [%d4], %r4;",
        "mov.u32 %r3, 1; setp.eq.u32 %p0, %r0, 5; @%p0 ld.global.u32 %r3, [%d3]; redux.sync.add.u32 %r4, %r3, -1;
         st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; setp.eq.u32 %p0, %r3, 5; vote.sync.ballot.b32 %r4, %p0, -1; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; match.any.sync.b32 %r4, %r3, -1; st.global.u32 [%d4], %r4;",
        "ld.global.u32 %r3, [%d3]; setp.eq.u32 %p0, %r3, 5; barrier.red.popc.u32 %r4, 0, %p0; st.global.u32 [%d4], %r4;",
        // By an asynchronous copy, and by an atomic operation.
        "cp.async.ca.shared.global [%r2], [%d3], 4; cp.async.wait_all; ld.shared.u32 %r3, [%r2]; st.global.u32 [%d4], %r3;",
        "atom.shared.add.u32 %r3, [%r2], 1; st.global.u32 [%d4], %r3;",
        "red.shared.add.u32 [%r2], 1; ld.shared.u32 %r3, [%r2]; st.global.u32 [%d4], %r3;",
        "ld.global.u32 %r3, [%d3]; atom.global.exch.b32 %r5, [%d4], %r3;",
        // A call.
        "ld.global.u32 %r3, [%d3]; call (%r4), twice, (%r3); st.global.u32 [%d4], %r4;",
        // A carry.
        "ld.global.u32 %r3, [%d3]; add.cc.u32 %r4, %r3, %r0; addc.u32 %r5, %r0, 0; st.global.u32 [%d4], %r5;",
        "setp.lt.u32 %p1, %r0, 64; ld.global.u32 %r3, [%d3]; mov.u32 %r8, 0; add.cc.u32 %r4, %r3, %r0;
         @%p1 addc.cc.u32 %r6, %r0, 0; addc.u32 %r7, %r8, 0; st.global.u32 [%d4], %r7;",
        "ld.global.u32 %r4, [%d3]; and.b32 %r4, %r4, 0x3f800000; or.b32 %r4, %r4, 1; mov.b32 %f1, %r4; neg.ftz.f32 %f2, %f1;
         mov.b32 %r5, %f2; and.b32 %r5, %r5, 1; st.global.u32 [%d4], %r5;",
        // A guard.
        "ld.global.u32 %r3, [%d3]; setp.eq.u32 %p0, %r3, 5; mov.u32 %r4, 1; @%p0 mov.u32 %r4, 2; st.global.u32 [%d4], %r4;",
        // Memory given back.
        "st.global.u32 [%d4], %r0; bar.warp.sync -1; setp.eq.u32 %p0, %r0, 0; @%p0 discard.global.L2 [%d1], 128;",
    ] {
        copied(body);
    }
}

#[test]
fn a_matrix_product_is_undefined_by_rows_and_columns() {
    // Row 3 of A is undefined, all else is defined: lanes 12 to 15 hold row 3 of D in the first two registers.
    let product = "
        mov.u32 %r4, 0; mov.u32 %r5, 0; mov.u32 %r6, 0; mov.u32 %r7, 0; mov.u32 %r8, 0; mov.u32 %r9, 0;
        shr.u32 %r3, %r0, 2; setp.eq.u32 %p0, %r3, 3; @%p0 ld.global.u32 %r4, [%d3];
        mov.f32 %f0, 0f00000000; mov.f32 %f1, 0f00000000; mov.f32 %f2, 0f00000000; mov.f32 %f3, 0f00000000;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, {%f0, %f1, %f2, %f3};";
    copied(&format!("{product} st.global.f32 [%d4], %f4;"));
    nothing(&format!("{product} st.global.f32 [%d4], %f6;"));
    nothing(&format!(
        "{product} @%p0 mov.f32 %f5, 0f00000000; st.global.f32 [%d4], %f5;"
    ));
    // A column of B: lane 4 · 5 + t of B's register holds column 5, which is the odd one of lanes with t = 2.
    let product = product
        .replace("%p0, %r3, 3;", "%p0, %r3, 5;")
        .replace("@%p0 ld.global.u32 %r4", "@%p0 ld.global.u32 %r9");
    copied(&format!("{product} st.global.f32 [%d4], %f7;"));
    nothing(&format!("{product} st.global.f32 [%d4], %f6;"));
    let odd = "and.b32 %r3, %r0, 3; setp.eq.u32 %p0, %r3, 2; @%p0 mov.f32 %f5, 0f00000000;";
    nothing(&format!("{product} {odd} st.global.f32 [%d4], %f5;"));
}

#[test]
fn matrices_in_shared_memory_are_followed() {
    // The tile's last 16 bytes of 128 are not written: row 7 of the matrix, which lanes 28 to 31 get.
    let load = "
        setp.lt.u32 %p0, %r0, 28; @%p0 st.shared.u32 [%r2], %r0; bar.warp.sync -1;
        and.b32 %r3, %r0, 7; mad.lo.u32 %r3, %r3, 16, %r1;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [%r3];";
    copied(&format!("{load} st.global.u32 [%d4], %r4;"));
    nothing(&format!(
        "{load} @!%p0 mov.u32 %r4, 0; st.global.u32 [%d4], %r4;"
    ));
    // Transposed: column 7, so the odd ones of lanes with t = 3.
    let transposed = load.replace("m8n8.x1", "m8n8.x1.trans");
    copied(&format!("{transposed} st.global.u32 [%d4], %r4;"));
    nothing(&format!(
        "{transposed} and.b32 %r5, %r0, 3; setp.eq.u32 %p0, %r5, 3; @%p0 and.b32 %r4, %r4, 0xffff; st.global.u32 [%d4], %r4;"
    ));
}

#[test]
fn a_copy_to_the_host_of_a_buffer_in_part_written_is_a_finding() {
    let (findings, copied) = run("st.global.u32 [%d4], %r0;", 33);
    assert!(findings.is_empty(), "{}", describe(&findings));
    let finding = copied.expect("one word more than was written");
    assert!(
        finding.message.contains("132 bytes")
            && finding
                .message
                .contains("byte 128 of the allocation of 4096 bytes"),
        "{}",
        finding.message
    );
}
