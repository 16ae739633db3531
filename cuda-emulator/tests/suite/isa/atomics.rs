//! `atom` and `red`: what they leave in memory and what they return, in global and shared memory.

use super::{d, f, run};

/// One lane, one operation on a word that holds `before`: returns what was there, and what is there then.
fn atom(ty: &str, operation: &str, before: u64, operand: &str) -> [u64; 2] {
    let wide = ty.ends_with("64");
    let (kind, store) = if wide { ('l', "b64") } else { ('r', "b32") };
    let mut seen = vec![];
    for space in ["shared", "global"] {
        let place = match space {
            "shared" => {
                ".shared .align 16 .b64 place[2]; .reg .b64 %q; mov.u64 %q, place;".to_string()
            }
            _ => ".reg .b64 %q; mov.b64 %q, %to;".to_string(),
        };
        let body = format!(
            "{place} st.{space}.{store} [%q], %a; atom.{space}.{operation}.{ty} %d, [%q], {operand}; ld.{space}.{store} %e, [%q];"
        );
        let results = run(
            &format!("{kind}{kind}"),
            &kind.to_string(),
            &body,
            &[before],
            1,
        );
        seen.push([results[0], results[1]]);
    }
    assert_eq!(
        seen[0], seen[1],
        "{operation}.{ty}: shared and global differ"
    );
    assert_eq!(seen[0][0], before, "{operation}.{ty}: the old value");
    seen[0]
}

fn after(ty: &str, operation: &str, before: u64, operand: &str) -> u64 {
    atom(ty, operation, before, operand)[1]
}

#[test]
fn integers() {
    assert_eq!(after("u32", "add", 0xffff_ffff, "2"), 1);
    assert_eq!(after("s32", "add", 5, "-7"), 0xffff_fffe);
    assert_eq!(after("u64", "add", u64::MAX, "3"), 2);
    assert_eq!(after("s32", "min", 0xffff_ffff, "1"), 0xffff_ffff);
    assert_eq!(after("u32", "min", 0xffff_ffff, "1"), 1);
    assert_eq!(after("s32", "max", 0xffff_ffff, "1"), 1);
    assert_eq!(after("u32", "max", 0xffff_ffff, "1"), 0xffff_ffff);
    assert_eq!(after("s64", "min", u64::MAX, "1"), u64::MAX);
    assert_eq!(after("u64", "max", 5, "9"), 9);
    assert_eq!(after("b32", "and", 0b1100, "10"), 0b1000);
    assert_eq!(after("b32", "or", 0b1100, "10"), 0b1110);
    assert_eq!(after("b64", "xor", 0b1100, "10"), 0b0110);
    assert_eq!(after("b32", "exch", 5, "9"), 9);
    assert_eq!(after("b64", "exch", 5, "9"), 9);
}

#[test]
fn increment_and_decrement_wrap_at_the_operand() {
    // inc: old >= b ? 0 : old + 1.
    assert_eq!(after("u32", "inc", 3, "5"), 4);
    assert_eq!(after("u32", "inc", 5, "5"), 0);
    assert_eq!(after("u32", "inc", 9, "5"), 0);
    assert_eq!(after("u32", "inc", 0, "0"), 0);
    // dec: old == 0 or old > b ? b : old - 1.
    assert_eq!(after("u32", "dec", 3, "5"), 2);
    assert_eq!(after("u32", "dec", 0, "5"), 5);
    assert_eq!(after("u32", "dec", 9, "5"), 5);
    assert_eq!(after("u32", "dec", 5, "5"), 4);
}

#[test]
fn compare_and_swap() {
    assert_eq!(after("b32", "cas", 5, "5, 9"), 9);
    assert_eq!(after("b32", "cas", 6, "5, 9"), 6);
    assert_eq!(after("b64", "cas", 5, "5, 9"), 9);
    let body = ".shared .align 4 .b16 place[2]; .reg .b16 %h, %i; .reg .b32 %q; mov.u32 %q, place; st.shared.b32 [%q], %a; \
        mov.b16 %h, 5; mov.b16 %i, 9; atom.shared.cas.b16 %h, [%q+2], %h, %i; ld.shared.b32 %d, [%q];";
    assert_eq!(run("r", "r", body, &[0x0005_0005], 1), [0x0009_0005]);
}

#[test]
fn floats() {
    assert_eq!(after("f32", "add", f(1.5), "0f40000000"), f(3.5));
    assert_eq!(after("f64", "add", d(1.5), "0d4000000000000000"), d(3.5));
    let global = |operation: &str, before: u64, operand: u64| {
        let body = format!(
            ".reg .b64 %q; mov.b64 %q, %to; st.global.b32 [%q], %a; {operation} ld.global.b32 %d, [%q];"
        );
        run("r", "rr", &body, &[before, operand], 1)[0]
    };
    assert_eq!(
        global("red.global.add.f32 [%q], %b;", f(1.0), f(2.0)),
        f(3.0)
    );
    // Subnormals: global f32 addition keeps them on sm_20 and later only without flushing in red; the ISA flushes for shared
    // not global: both forms here stay with normal numbers.
    assert_eq!(
        global(
            "red.global.add.noftz.f16x2 [%q], %b;",
            0x3c00_4000,
            0x3c00_3c00
        ),
        0x4000_4200
    );
    assert_eq!(
        global(
            "red.global.add.noftz.bf16x2 [%q], %b;",
            0x3f80_4000,
            0x3f80_3f80
        ),
        0x4000_4040
    );
    assert_eq!(
        global(
            "atom.global.add.noftz.f16x2 %d, [%q], %b;",
            0x3c00_0000,
            0x3c00_3c00
        ),
        0x4000_3c00
    );
    let half =
        "{ .reg .b16 %h, %i; cvt.u16.u32 %h, %b; atom.global.add.noftz.bf16 %i, [%q+2], %h; }";
    assert_eq!(global(half, 0x3f80_0001, 0x3f80), 0x4000_0001);
}

#[test]
fn a_warp_adds_up() {
    let body = ".shared .b32 place[1]; .reg .b32 %q; .reg .pred %p; mov.u32 %q, place; setp.eq.u32 %p, %thread, 0; \
        @%p st.shared.u32 [%q], 100; bar.sync 0; atom.shared.add.u32 %d, [%q], %a; bar.sync 0; ld.shared.u32 %e, [%q];";
    let inputs: Vec<u64> = (0..32).collect();
    let results = run("rr", "r", body, &inputs, 32);
    assert!(results.chunks(2).all(|r| r[1] == 100 + 496));
    // Every lane saw another value: an order of additions exists.
    let mut seen: Vec<u64> = results.chunks(2).map(|r| r[0]).collect();
    seen.sort_unstable();
    assert_eq!(seen[0], 100);
}

#[test]
fn reductions_in_memory() {
    let body = ".reg .b64 %q; .reg .pred %p; mov.b64 %q, %to; st.global.u32 [%q], %a; red.relaxed.gpu.global.max.s32 [%q], 7; \
        red.global.and.b32 [%q], 0xfffffffe; red.release.cta.global.add.u32 [%q], 4; ld.acquire.gpu.global.u32 %d, [%q];";
    assert_eq!(run("r", "r", body, &[3], 1), [10]);
}

#[test]
fn sixteen_bytes_at_once() {
    for (space, place) in [
        (
            "shared",
            ".shared .align 16 .b8 place[16]; mov.u64 %q, place;",
        ),
        ("global", "mov.b64 %q, %to;"),
    ] {
        let prepare = format!(
            ".reg .b64 %q; .reg .b128 %x, %y, %z; {place} mov.b128 %x, {{%a, %b}}; st.{space}.b128 [%q], %x; mov.b128 %y, {{%b, %a}};"
        );
        let read = |what: &str| format!("{prepare} {what} mov.b128 {{%d, %e}}, %z;");
        let operands = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888];
        let [a, b] = operands;
        let exchange = format!("atom.{space}.exch.b128 %z, [%q], %y;");
        assert_eq!(run("ll", "ll", &read(&exchange), &operands, 1), [a, b]);
        let then = format!("{exchange} ld.relaxed.gpu.{space}.b128 %z, [%q];");
        assert_eq!(run("ll", "ll", &read(&then), &operands, 1), [b, a]);
        // Both halves must be equal for the exchange to happen.
        for (expected, now) in [("%x", [b, a]), ("%y", [a, b])] {
            let cas = format!("atom.acq_rel.gpu.{space}.cas.b128 %z, [%q], {expected}, %y;");
            assert_eq!(run("ll", "ll", &read(&cas), &operands, 1), [a, b]);
            let then = format!("{cas} ld.acquire.gpu.{space}.b128 %z, [%q];");
            assert_eq!(run("ll", "ll", &read(&then), &operands, 1), now);
        }
    }
}
