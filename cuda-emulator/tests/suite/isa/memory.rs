//! Loads, stores, vectors, extension, asynchronous copies, parameters, constants, local memory.

use cuda_emulator::check::FindingKind;

use super::{check, check2, kernel, run, w};
use crate::gpu::{Gpu, checked, describe};

#[test]
fn loads_extend() {
    let with =
        |load: &str| format!(".shared .align 8 .b64 place[1]; st.shared.b32 [place], %a; {load}");
    check(
        "r",
        "r",
        &with("ld.shared.s8 %d, [place];"),
        &[([0x80], 0xffff_ff80)],
    );
    check(
        "r",
        "r",
        &with("ld.shared.u8 %d, [place+1];"),
        &[([0x8000], 0x80)],
    );
    check(
        "r",
        "r",
        &with("ld.shared.s16 %d, [place];"),
        &[([0x1_8000], 0xffff_8000)],
    );
    check(
        "l",
        "r",
        &with("ld.shared.s32 %d, [place];"),
        &[([w(-5)], -5i64 as u64)],
    );
    check(
        "l",
        "r",
        &with("ld.shared.u32 %d, [place];"),
        &[([w(-5)], 0xffff_fffb)],
    );
    check(
        "h",
        "r",
        &with("ld.shared.b8 %d, [place];"),
        &[([0x1ff], 0xff)],
    );
    check(
        "r",
        "r",
        &with("st.shared.b8 [place+2], %a; ld.shared.b32 %d, [place];"),
        &[([0x1234_5678], 0x1278_5678)],
    );
    check(
        "r",
        "r",
        &with("st.shared.b16 [place+2], %a; ld.volatile.shared.b32 %d, [place];"),
        &[([0x1234_5678], 0x5678_5678)],
    );
}

#[test]
fn vectors() {
    check2(
        "rr",
        "rr",
        ".shared .align 16 .b32 place[4]; st.shared.v2.b32 [place+8], {%a, %b}; ld.shared.v2.u32 {%e, %d}, [place+8];",
        &[([1, 2], [2, 1])],
    );
    check2(
        "rr",
        "rr",
        ".shared .align 16 .b32 place[4]; .reg .b32 %x, %y; st.shared.v4.b32 [place], {%a, %b, 7, %a}; \
         ld.shared.v4.b32 {%x, %d, %e, _}, [place];",
        &[([1, 2], [2, 7])],
    );
    check2(
        "hh",
        "r",
        ".shared .align 16 .b32 place[4]; st.shared.b32 [place], %a; ld.shared.v2.b16 {%d, %e}, [place];",
        &[([0x1234_abcd], [0xabcd, 0x1234])],
    );
    check2(
        "ll",
        "ll",
        ".shared .align 16 .b64 place[2]; st.shared.v2.b64 [place], {%a, %b}; ld.shared.v2.b64 {%e, %d}, [place];",
        &[([1, 2], [2, 1])],
    );
    check2(
        "rr",
        "r",
        ".shared .align 16 .b32 place[1]; .reg .b32 %x, %y; st.shared.v4.u8 [place], {%a, %a, 3, 4}; \
         ld.shared.v4.u8 {%x, %d, %e, %y}, [place];",
        &[([0x1ff], [0xff, 3])],
    );
    check2(
        "ll",
        "ll",
        ".reg .b128 %v; mov.b128 %v, {%a, %b}; mov.b128 {%e, %d}, %v;",
        &[([1, 2], [2, 1])],
    );
}

#[test]
fn global_forms() {
    for load in [
        "ld.global.nc.u32",
        "ld.global.cs.u32",
        "ld.global.cg.u32",
        "ld.global.L1::no_allocate.u32",
        "ld.global.L2::128B.u32",
        "ld.global.lu.u32",
        "ld.u32",
        "ld.volatile.global.u32",
        "ld.relaxed.gpu.global.u32",
        "ld.acquire.sys.u32",
        "ld.weak.global.u32",
        "ldu.global.u32",
    ] {
        check("r", "r", &format!("{load} %d, [%from];"), &[([5], 5)]);
    }
    for store in [
        "st.global.cs.u32",
        "st.global.wt.u32",
        "st.u32",
        "st.volatile.global.u32",
        "st.release.gpu.global.u32",
        "st.relaxed.sys.u32",
        "st.global.cg.b32",
    ] {
        check(
            "r",
            "r",
            &format!("{store} [%to], %a; ld.global.b32 %d, [%to+0];"),
            &[([5], 5)],
        );
    }
    check(
        "r",
        "r",
        ".reg .b64 %x; add.s64 %x, %from, 64; ld.global.u32 %d, [%x+-64];",
        &[([9], 9)],
    );
    check(
        "r",
        "r",
        "prefetch.global.L2 [%from]; mov.b32 %d, %a;",
        &[([9], 9)],
    );
}

#[test]
fn local_memory_is_each_threads_own() {
    let body = ".local .align 16 .b32 mine[8]; .reg .b64 %x, %y; mov.u64 %x, mine; mul.wide.u32 %y, %thread, 4; \
        and.b64 %y, %y, 31; add.s64 %y, %x, %y; st.local.u32 [%y], %a; bar.sync 0; ld.local.u32 %d, [%y];";
    let inputs: Vec<u64> = (0..32).map(|l| 1000 + l).collect();
    assert_eq!(run("r", "r", body, &inputs, 32), inputs);
}

#[test]
fn special_registers() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry test(.param .u64 out) {\n.reg .b32 %r<16>; .reg .b64 %o, %t;\n\
        ld.param.u64 %o, [out];\nmov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mov.u32 %r3, %ntid.x; \
        mov.u32 %r4, %ntid.y;\n\
        mad.lo.u32 %r5, %r2, %r4, %r1; mad.lo.u32 %r5, %r5, %r3, %r0;\n\
        mov.u32 %r6, %ctaid.y; mov.u32 %r7, %nctaid.x; mov.u32 %r8, %ctaid.x; mad.lo.u32 %r6, %r6, %r7, %r8;\n\
        mov.u32 %r9, %laneid; mov.u32 %r10, %lanemask_lt; popc.b32 %r10, %r10; mov.u32 %r11, %lanemask_ge; popc.b32 %r11, %r11; \
        mov.u32 %r12, WARP_SZ;\n\
        mad.lo.u32 %r5, %r6, 48, %r5; mul.wide.u32 %t, %r5, 16; add.s64 %o, %o, %t;\n\
        st.global.v4.u32 [%o], {%r9, %r10, %r11, %r12};\nret;\n}\n";
    let gpu = Gpu::new(text);
    let out = gpu.allocate(16 * 48 * 6);
    let report = gpu.launch("test", [3, 2, 1], [4, 3, 4], &[out], &checked(3));
    assert!(
        report.fault.is_none() && report.findings.is_empty(),
        "{:?}\n{}",
        report.fault,
        describe(&report.findings)
    );
    for (i, r) in gpu.download::<u32>(out, 4 * 48 * 6).chunks(4).enumerate() {
        let lane = (i % 48 % 32) as u32;
        assert_eq!(r, [lane, lane, 32 - lane, 32]);
    }
}

#[test]
fn asynchronous_copies() {
    // 16 bytes from global; the second copy takes 4 of 16 and fills with zeros; a false predicate copies nothing.
    let body = ".shared .align 16 .b32 place[12]; .reg .b64 %s; .reg .b32 %p0; .reg .pred %no; mov.b32 %p0, place; \
        setp.ne.u32 %no, %p0, %p0; \
        st.shared.v4.b32 [place+32], {5, 5, 5, 5}; \
        cp.async.cg.shared.global [%p0], [%from], 16; cp.async.ca.shared.global [%p0+16], [%from], 16, %b; \
        @%no cp.async.cg.shared.global [%p0+32], [%from], 16; \
        cp.async.commit_group; cp.async.wait_group 0; ld.shared.v2.b32 {%d, _}, [place+8]; ld.shared.b32 %e, [place+20];";
    // Operands: a, b, c as 8 bytes each: bytes 8..12 of the source are b.
    let got = run("rr", "rrr", body, &[0x11, 4, 0x33], 1);
    assert_eq!(got, [4, 0]);
    let kept = body
        .replace(
            "ld.shared.b32 %e, [place+20];",
            "ld.shared.b32 %e, [place+44];",
        )
        .replace("[place+8]", "[place+16]");
    assert_eq!(run("rr", "rrr", &kept, &[0x11, 4, 0x33], 1), [0x11, 5]);
    // More bytes from the source than the copy has.
    let gpu = Gpu::new(&kernel("rr", "rrr", body));
    let (from, to) = (gpu.upload(&[0x11u64, 17, 0x33, 0]), gpu.allocate(16));
    let report = gpu.launch("test", [1; 3], [1; 3], &[from, to], &checked(1));
    let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [FindingKind::OutOfBounds]);
    let all = "cp.async.ca.shared.global [%p0], [%from], 4; cp.async.ca.shared.global [%p0+8], [%from+8], 8; cp.async.wait_all; \
        ld.shared.b32 %d, [%p0]; ld.shared.b32 %e, [%p0+8];";
    let body =
        format!(".shared .align 16 .b32 place[12]; .reg .b32 %p0; mov.b32 %p0, place; {all}");
    assert_eq!(run("rr", "rrr", &body, &[7, 9, 0], 1), [7, 9]);
}

#[test]
fn variables_and_calls() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .const .align 4 .u32 table[4] = {10, 20, 30, 40};\n.global .align 8 .u64 counter = 5;\n.global .align 4 .b8 zeros[16];\n\
        .func (.reg .b32 %result) twice(.reg .b32 %x) {\nadd.s32 %result, %x, %x;\nret;\n}\n\
        .func (.param .b32 result) thrice(.param .b32 x) {\n.reg .b32 %r<3>;\nld.param.b32 %r0, [x];\nmul.lo.s32 %r1, %r0, 3;\n\
        st.param.b32 [result], %r1;\nret;\n}\n\
        .visible .entry test(.param .u64 out, .param .u32 index) {\n.reg .b32 %r<8>; .reg .b64 %o, %t, %u;\n\
        ld.param.u64 %o, [out];\nld.param.u32 %r0, [index];\nmul.wide.u32 %t, %r0, 4;\nmov.u64 %u, table;\nadd.s64 %u, %u, %t;\n\
        ld.const.u32 %r1, [%u];\n\
        call (%r2), twice, (%r1);\n{\n.param .b32 p;\n.param .b32 q;\nst.param.b32 [p], %r1;\ncall.uni (q), thrice, (p);\n\
        ld.param.b32 %r3, [q];\n}\n\
        ld.global.u32 %r4, [counter];\nld.global.u32 %r5, [zeros+4];\nadd.u32 %r4, %r4, %r5;\n\
        st.global.v4.u32 [%o], {%r1, %r2, %r3, %r4};\nret;\n}\n";
    let gpu = Gpu::new(text);
    let out = gpu.allocate(16);
    let report = gpu.launch("test", [1; 3], [1, 1, 1], &[out, 2], &checked(3));
    assert!(
        report.fault.is_none() && report.findings.is_empty(),
        "{:?}\n{}",
        report.fault,
        describe(&report.findings)
    );
    assert_eq!(gpu.download::<u32>(out, 4), [30, 60, 90, 5]);
}

#[test]
fn divergence_and_loops() {
    // Lane l goes round l times; half of the lanes leave early and meet again.
    let body = ".reg .pred %p; .reg .b32 %n; mov.b32 %d, 0; mov.b32 %n, 0; \
        again: setp.ge.u32 %p, %n, %thread; @%p bra out; add.u32 %d, %d, %a; add.u32 %n, %n, 1; bra again; out: bar.warp.sync -1;";
    let got = run("r", "r", body, &[3; 32], 32);
    assert_eq!(got, (0..32).map(|l| 3 * l).collect::<Vec<u64>>());
    // An indirect branch.
    let body = ".reg .b32 %n; and.b32 %n, %thread, 3; ts: .branchtargets l0, l1, l2, l3; brx.idx %n, ts; l0: mov.b32 %d, 10; \
        bra out; l1: mov.b32 %d, 11; bra out; l2: mov.b32 %d, 12; bra out; l3: mov.b32 %d, 13; out:";
    let got = run("r", "r", body, &[0; 32], 32);
    assert_eq!(got, (0..32).map(|l| 10 + l % 4).collect::<Vec<u64>>());
    // Within a warp one lane waits for another: lanes make progress on their own.
    let body = ".shared .b32 flag[1]; .reg .pred %p; .reg .b32 %v; setp.eq.u32 %p, %thread, 0; @%p st.shared.u32 [flag], 0; \
        bar.sync 0; \
        setp.eq.u32 %p, %thread, 31; @%p bra set; wait: ld.acquire.cta.shared.u32 %v, [flag]; setp.eq.u32 %p, %v, 0; \
        @%p bra wait; bra met; set: st.release.cta.shared.u32 [flag], 1; met: mov.b32 %d, 1;";
    assert_eq!(run("r", "r", body, &[0; 32], 32), [1; 32]);
}

#[test]
fn elements_by_subscript() {
    // An index of elements, as a place to load from or as an address.
    let text = |body: &str| {
        format!(
            ".version 8.7\n.target sm_80\n.address_size 64\n.global .u32 table[4] = {{10, 11, 12, 13}};\n\
             .const .u16 small[3] = {{1, 2, 3}};\n.visible .entry test(.param .u64 out) {{\n\
             .reg .b32 %x, %y;\n.reg .b16 %h;\n.reg .b64 %q, %to;\nld.param.u64 %to, [out];\n{body}\nret;\n}}\n"
        )
    };
    let gpu = Gpu::new(&text(
        "st.global.u32 table[1], 7;\nld.global.u32 %x, table[1 + 1];\nmov.u64 %q, table[1];\nld.global.u32 %y, [%q];\n\
         ld.const.u16 %h, small[2];\nst.global.v2.u32 [%to], {%x, %y};\nst.global.u16 [%to+8], %h;",
    ));
    let out = gpu.upload(&[0u32; 3]);
    let report = gpu.launch("test", [1; 3], [1, 1, 1], &[out], &checked(1));
    assert!(report.findings.is_empty(), "{}", describe(&report.findings));
    assert_eq!(gpu.download::<u32>(out, 3), [12, 7, 3]);
    for wrong in [
        "ld.global.u32 %x, table[%y];",
        "ld.global.u32 %x, [table[1]];",
        "mov.u64 %q, test[1];",
    ] {
        assert!(Gpu::try_new(&text(wrong)).is_err(), "accepted: {wrong}");
    }
}

#[test]
fn hints_change_nothing_and_discarding_does() {
    check(
        "r",
        "r",
        ".reg .b64 %p; createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %p, 0f3F000000; \
         st.global.L2::cache_hint.b32 [%to], %a, %p; createpolicy.range.global.L2::evict_last.b64 %p, [%to], 64, 128; \
         prefetch.global.L2 [%to]; ld.global.L1::no_allocate.L2::cache_hint.L2::256B.b32 %d, [%to], %p; \
         createpolicy.cvt.L2.b64 %p, 0x10F0000000000000; fence.proxy.alias; fence.acquire.gpu; fence.release.cta;",
        &[([5], 5)],
    );
    // The values are gone, and the place must be a multiple of 128 bytes.
    let text = |place: &str| {
        format!(
            ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry test(.param .u64 out) {{\n.reg .b64 %to;\n\
             ld.param.u64 %to, [out];\ndiscard.global.L2 [{place}], 128;\nret;\n}}\n"
        )
    };
    let gpu = Gpu::new(&text("%to+128"));
    let out = gpu.upload(&[3u32; 128]);
    let report = gpu.launch("test", [1; 3], [1, 1, 1], &[out], &checked(1));
    assert!(report.fault.is_none(), "{:?}", report.fault);
    let words = gpu.download::<u32>(out, 128);
    assert_eq!((words[31], words[64]), (3, 3));
    assert!(words[32..64].iter().all(|&w| w != 3));
    let gpu = Gpu::new(&text("%to+64"));
    let out = gpu.upload(&[3u32; 128]);
    let report = gpu.launch("test", [1; 3], [1, 1, 1], &[out], &checked(1));
    assert_eq!(report.fault.expect("misaligned").code as u32, 716);
}
