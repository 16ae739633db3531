//! Instructions that a warp executes together: shfl, vote, match, redux, ldmatrix, movmatrix, mma.

use super::run;

fn lanes(f: impl Fn(u64) -> u64) -> Vec<u64> {
    (0..32).map(f).collect()
}

/// Runs a body with `%a` = f(lane) and compares `%d` (and `%e`, interleaved).
fn check_warp(
    outputs: &str,
    body: &str,
    input: impl Fn(u64) -> u64,
    expected: impl Fn(u64) -> Vec<u64>,
) {
    let got = run(outputs, "r", body, &lanes(input), 32);
    let expected: Vec<u64> = (0..32).flat_map(expected).collect();
    assert_eq!(got, expected, "{body}");
}

#[test]
fn shuffles() {
    let value = |lane: u64| 100 + lane;
    // The predicate says whether the source lane is in range; out of range a lane gets its own value.
    check_warp("rp", "shfl.sync.up.b32 %d|%e, %a, 3, 0, -1;", value, |l| {
        if l >= 3 {
            vec![100 + l - 3, 1]
        } else {
            vec![100 + l, 0]
        }
    });
    check_warp(
        "rp",
        "shfl.sync.down.b32 %d|%e, %a, 3, 31, -1;",
        value,
        |l| {
            if l + 3 < 32 {
                vec![103 + l, 1]
            } else {
                vec![100 + l, 0]
            }
        },
    );
    check_warp(
        "rp",
        "shfl.sync.bfly.b32 %d|%e, %a, 5, 31, -1;",
        value,
        |l| vec![100 + (l ^ 5), 1],
    );
    check_warp(
        "rp",
        "shfl.sync.idx.b32 %d|%e, %a, 7, 31, -1;",
        value,
        |_| vec![107, 1],
    );
    // Only five bits of the lane count.
    check_warp("r", "shfl.sync.idx.b32 %d, %a, 39, 31, -1;", value, |_| {
        vec![107]
    });
    // Segments of 8: the mask in bits 8 to 12 of c.
    check_warp(
        "rp",
        "shfl.sync.idx.b32 %d|%e, %a, 10, 0x181f, -1;",
        value,
        |l| vec![100 + (l & 24) + 2, 1],
    );
    check_warp(
        "rp",
        "shfl.sync.down.b32 %d|%e, %a, 3, 0x181f, -1;",
        value,
        |l| {
            if l % 8 < 5 {
                vec![103 + l, 1]
            } else {
                vec![100 + l, 0]
            }
        },
    );
    check_warp(
        "rp",
        "shfl.sync.up.b32 %d|%e, %a, 3, 0x1800, -1;",
        value,
        |l| {
            if l % 8 >= 3 {
                vec![97 + l, 1]
            } else {
                vec![100 + l, 0]
            }
        },
    );
    check_warp(
        "rp",
        "shfl.sync.bfly.b32 %d|%e, %a, 8, 0x181f, -1;",
        value,
        |l| {
            if l & 8 == 0 {
                vec![100 + l, 0]
            } else {
                vec![100 + (l ^ 8), 1]
            }
        },
    );
    // Clamp: lanes above 15 are out of range for down with c = 15.
    check_warp(
        "rp",
        "shfl.sync.down.b32 %d|%e, %a, 1, 15, -1;",
        value,
        |l| {
            if l < 15 {
                vec![101 + l, 1]
            } else {
                vec![100 + l, 0]
            }
        },
    );
    // Lanes with their own source.
    check_warp(
        "r",
        "shfl.sync.idx.b32 %d, %a, %laneid, 31, -1;"
            .replace("%laneid", "%thread")
            .as_str(),
        value,
        |l| vec![100 + l],
    );
}

#[test]
fn votes() {
    let odd = "setp.ne.u32 %p, %a, 0;";
    let vote = |rest: &str| format!(".reg .pred %p; {odd} {rest}");
    check_warp(
        "r",
        &vote("vote.sync.ballot.b32 %d, %p, -1;"),
        |l| l & 1,
        |_| vec![0xaaaa_aaaa],
    );
    check_warp(
        "r",
        &vote("vote.sync.ballot.b32 %d, !%p, -1;"),
        |l| l & 1,
        |_| vec![0x5555_5555],
    );
    check_warp(
        "pp",
        &vote("vote.sync.any.pred %d, %p, -1; vote.sync.all.pred %e, %p, -1;"),
        |l| l & 1,
        |_| vec![1, 0],
    );
    check_warp(
        "pp",
        &vote("vote.sync.uni.pred %d, %p, -1; vote.sync.uni.pred %e, !%p, -1;"),
        |_| 1,
        |_| vec![1, 1],
    );
    check_warp(
        "p",
        &vote("vote.sync.uni.pred %d, %p, -1;"),
        |l| l & 1,
        |_| vec![0],
    );
    check_warp("r", "activemask.b32 %d;", |l| l, |_| vec![0xffff_ffff]);
    // A part of the warp, on each side of a branch: who took part is in the mask.
    check_warp(
        "r",
        ".reg .pred %p; .reg .b32 %m; and.b32 %m, %thread, 1; setp.ne.u32 %p, %m, 0; @%p bra odd; \
         vote.sync.ballot.b32 %d, 1, 0x55555555; bra done; odd: vote.sync.ballot.b32 %d, 1, 0xaaaaaaaa; done:",
        |l| l,
        |l| vec![if l & 1 == 1 { 0xaaaa_aaaa } else { 0x5555_5555 }],
    );
    check_warp(
        "r",
        ".reg .pred %q; elect.sync %d|%q, -1; selp.b32 %d, 1, 0, %q;",
        |l| l,
        |l| vec![u64::from(l == 0)],
    );
}

#[test]
fn matching() {
    check_warp(
        "r",
        "match.any.sync.b32 %d, %a, -1;",
        |l| l % 4,
        |l| vec![0x1111_1111 << (l % 4)],
    );
    check_warp(
        "rp",
        "match.all.sync.b32 %d|%e, %a, -1;",
        |_| 9,
        |_| vec![0xffff_ffff, 1],
    );
    check_warp(
        "rp",
        "match.all.sync.b32 %d|%e, %a, -1;",
        |l| l / 31,
        |_| vec![0, 0],
    );
    check_warp(
        "r",
        ".reg .b64 %x; mov.b64 %x, {%a, %a}; match.any.sync.b64 %d, %x, -1;",
        |l| l / 16,
        |l| vec![0xffff << (l / 16 * 16)],
    );
}

#[test]
fn reductions() {
    check_warp("r", "redux.sync.add.s32 %d, %a, -1;", |l| l, |_| vec![496]);
    check_warp(
        "r",
        "redux.sync.min.s32 %d, %a, -1;",
        |l| 0xffff_fff0 + (l % 8),
        |_| vec![0xffff_fff0],
    );
    check_warp(
        "r",
        "redux.sync.max.u32 %d, %a, -1;",
        |l| 0xffff_fff0 + (l % 8),
        |_| vec![0xffff_fff7],
    );
    check_warp(
        "r",
        "redux.sync.max.s32 %d, %a, -1;",
        |l| if l == 5 { 3 } else { 0xffff_ffff },
        |_| vec![3],
    );
    check_warp(
        "r",
        "redux.sync.and.b32 %d, %a, -1;",
        |l| 0xff & !(1 << (l % 3)),
        |_| vec![0xf8],
    );
    check_warp(
        "r",
        "redux.sync.or.b32 %d, %a, -1;",
        |l| 1 << (l % 5),
        |_| vec![0x1f],
    );
    check_warp("r", "redux.sync.xor.b32 %d, %a, -1;", |l| l, |_| vec![0]);
}

#[test]
fn matrices() {
    // A matrix whose element (i, j) is 8i + j: lane l stores the two elements from (l/4, 2(l%4)).
    let store = ".shared .align 16 .b16 place[64]; .reg .b32 %w, %x, %y; mov.u32 %w, place; shl.b32 %x, %thread, 2; \
        add.u32 %x, %x, %w; st.shared.b32 [%x], %a; bar.warp.sync -1; and.b32 %y, %thread, 7; shl.b32 %y, %y, 4; \
        add.u32 %y, %y, %w;";
    let pair = |x: u64, y: u64| x | y << 16;
    let plain = move |l: u64| pair(2 * l, 2 * l + 1);
    let turned = move |l: u64| {
        let (row, column) = (l / 4, l % 4 * 2);
        pair(8 * column + row, 8 * (column + 1) + row)
    };
    check_warp(
        "r",
        &format!("{store} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%d}}, [%y];"),
        plain,
        |l| vec![plain(l)],
    );
    check_warp(
        "r",
        &format!("{store} ldmatrix.sync.aligned.x1.trans.m8n8.shared.b16 {{%d}}, [%y];"),
        plain,
        |l| vec![turned(l)],
    );
    check_warp(
        "r",
        "movmatrix.sync.aligned.m8n8.trans.b16 %d, %a;",
        plain,
        |l| vec![turned(l)],
    );
    // Two matrices: lanes 0 to 7 give the rows of the first, 8 to 15 those of the second (here in reverse order).
    let reversed = "xor.b32 %y, %thread, 7; setp.lt.u32 %p, %thread, 8; selp.b32 %y, %thread, %y, %p; and.b32 %y, %y, 7; \
        shl.b32 %y, %y, 4; add.u32 %y, %y, %w;";
    check_warp(
        "rr",
        &format!(
            ".reg .pred %p; {store} {reversed} ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{%d, %e}}, [%y];"
        ),
        plain,
        |l| vec![plain(l), plain((7 - l / 4) * 4 + l % 4)],
    );
    check_warp(
        "r",
        ".shared .align 16 .b16 place[64]; .reg .b32 %w, %x, %y; mov.u32 %w, place; and.b32 %y, %thread, 7; shl.b32 %y, %y, 4; \
         add.u32 %y, %y, %w; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%y], {%a}; bar.warp.sync -1; shl.b32 %x, %thread, 2; \
         add.u32 %x, %x, %w; ld.shared.b32 %d, [%x];",
        plain,
        |l| vec![plain(l)],
    );
    check_warp(
        "r",
        ".shared .align 16 .b16 place[64]; .reg .b32 %w, %x, %y; mov.u32 %w, place; and.b32 %y, %thread, 7; shl.b32 %y, %y, 4; \
         add.u32 %y, %y, %w; stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%y], {%a}; bar.warp.sync -1; shl.b32 %x, %thread, 2; \
         add.u32 %x, %x, %w; ld.shared.b32 %d, [%x];",
        plain,
        |l| vec![turned(l)],
    );
}

#[test]
fn tensor_cores() {
    // A(i, k) = i + 1 where k = 0, B(0, j) = j + 1, else 0: D(i, j) = (i + 1)(j + 1) + 0.5.
    let bf16 = |x: u64| u64::from((x as f32).to_bits() >> 16);
    let element = |row: u64, column: u64| u64::from(((row * column) as f32 + 0.5).to_bits());
    let body = |ty: &str, shape: &str| {
        format!(
            ".reg .b32 %z, %g, %h, %k, %x<8>; .reg .pred %p; mov.b32 %z, 0; shr.u32 %g, %thread, 2; and.b32 %k, %thread, 3; \
             setp.eq.u32 %p, %k, 0; \
             mov.b32 %h, 0x3f000000; and.b32 %x0, %a, 0xffff; shr.u32 %x1, %a, 16; selp.b32 %x0, %x0, 0, %p; \
             selp.b32 %x1, %x1, 0, %p; \
             mma.sync.aligned.{shape}.row.col.f32.{ty}.{ty}.f32 {{%d, %x4, %e, %x5}}, {{%x0, %x1, %z, %z}}, {{%x0, %z}}, {{%h, \
             %h, %h, %h}};"
        )
    };
    // Lane l: rows g = l/4 and g + 8 of A, column g of B; c0 is (g, 2(l%4)), c2 is (g + 8, 2(l%4)).
    check_warp(
        "rr",
        &body("bf16", "m16n8k16"),
        move |l| bf16(l / 4 + 1) | bf16(l / 4 + 9) << 16,
        move |l| {
            vec![
                element(l / 4 + 1, l % 4 * 2 + 1),
                element(l / 4 + 9, l % 4 * 2 + 1),
            ]
        },
    );
}

#[test]
fn tensor_cores_of_8_bits() {
    // A is 1 everywhere and B is 2: sixteen or thirty-two products of 2, and C.
    for (ty, one, two) in [
        ("e4m3", 0x3838_3838u32, 0x4040_4040u32),
        ("e5m2", 0x3c3c_3c3c, 0x4040_4040),
    ] {
        for (shape, a, b, sum) in [
            ("m16n8k16", "%x, %x", "%y", 32.25f32),
            ("m16n8k32", "%x, %x, %x, %x", "%y, %y", 64.25),
        ] {
            let body = format!(
                ".reg .b32 %x, %y, %z, %w<2>; mov.b32 %x, {one}; mov.b32 %y, {two}; mov.b32 %z, 0x3e800000; \
                 mma.sync.aligned.{shape}.row.col.f32.{ty}.{ty}.f32 {{%d, %w0, %w1, %e}}, {{{a}}}, {{{b}}}, {{%z, %z, %z, %z}};"
            );
            let bits = u64::from(sum.to_bits());
            check_warp("rr", &body, |l| l, |_| vec![bits, bits]);
        }
    }
    // A sum has 13 bits of fraction: 2^13 + 1 is kept, 2^14 + 1 is not.
    for (c, expected) in [(8192.0f32, 8193.0f32), (16384.0, 16384.0)] {
        let body = format!(
            ".reg .b32 %x, %y, %z, %w<3>; setp.eq.u32 %p, %thread, 0; mov.b32 %z, {:#x}; selp.b32 %x, 0x38, 0, %p; mov.b32 %y, 0; \
             mma.sync.aligned.m16n8k16.row.col.f32.e4m3.e4m3.f32 {{%d, %w0, %w1, %w2}}, {{%x, %y}}, {{%x}}, {{%z, %z, %z, %z}};",
            c.to_bits()
        );
        let body = format!(".reg .pred %p; {body}");
        let bits = |x: f32| u64::from(x.to_bits());
        check_warp(
            "r",
            &body,
            |l| l,
            |l| vec![bits(if l == 0 { expected } else { c })],
        );
    }
    // Bytes: -1 times 255, with both signs, and a sum that saturates.
    let body = |types: &str, c: &str| {
        format!(
            ".reg .b32 %x, %y, %z; mov.b32 %x, -1; mov.b32 %y, -1; mov.b32 %z, {c}; \
             mma.sync.aligned.m8n8k16.row.col.{types} {{%d, %e}}, {{%x}}, {{%y}}, {{%z, %z}};"
        )
    };
    let two = |x: i32| move |_| vec![u64::from(x as u32); 2];
    check_warp("rr", &body("s32.s8.u8.s32", "3"), |l| l, two(3 - 16 * 255));
    check_warp("rr", &body("s32.s8.s8.s32", "3"), |l| l, two(19));
    let top = "0x7fffffff";
    check_warp(
        "rr",
        &body("satfinite.s32.u8.u8.s32", top),
        |l| l,
        two(i32::MAX),
    );
    let wrapped = i32::MAX.wrapping_add(16 * 255 * 255);
    check_warp("rr", &body("s32.u8.u8.s32", top), |l| l, two(wrapped));
}

#[test]
fn tensor_cores_of_64_bits() {
    let three = 3f64.to_bits();
    for (shape, a, b, c, sum) in [
        ("m8n8k4", "%x", "%y", "%z, %z", 4.0 * 6.0 + 0.5f64),
        ("m16n8k4", "%x, %x", "%y", "%z, %z, %z, %z", 24.5),
        (
            "m16n8k8",
            "%x, %x, %x, %x",
            "%y, %y",
            "%z, %z, %z, %z",
            48.5,
        ),
        (
            "m16n8k16",
            "%x, %x, %x, %x, %x, %x, %x, %x",
            "%y, %y, %y, %y",
            "%z, %z, %z, %z",
            96.5,
        ),
    ] {
        let d = if shape == "m8n8k4" {
            "%d, %e"
        } else {
            "%d, %w0, %w1, %e"
        };
        let body = format!(
            ".reg .b64 %x, %y, %z, %w<2>; mov.b64 %x, 0d4000000000000000; mov.b64 %y, {three:#x}; mov.b64 %z, 0d3FE0000000000000; \
             mma.sync.aligned.{shape}.row.col.f64.f64.f64.f64 {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};"
        );
        check_warp("ll", &body, |l| l, |_| vec![sum.to_bits(); 2]);
    }
}
