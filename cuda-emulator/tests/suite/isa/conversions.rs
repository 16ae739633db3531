//! `cvt`: every kind of conversion, rounding mode, saturation and NaN.

use super::{check, check2, d, f, i, w};

const NAN: u64 = 0x7fff_ffff;
const QNAN: u64 = 0x7fc0_0000;
const INF: u64 = 0x7f80_0000;
const NINF: u64 = 0xff80_0000;
const SUB: u64 = 0x007f_ffff;

#[test]
fn integers_to_integers() {
    check("l", "r", "cvt.s64.s32 %d, %a;", &[([w(-5)], i(-5))]);
    check("l", "r", "cvt.u64.u32 %d, %a;", &[([w(-5)], 0xffff_fffb)]);
    check("r", "l", "cvt.u32.u64 %d, %a;", &[([0x1_0000_0005], 5)]);
    check("h", "r", "cvt.u16.u32 %d, %a;", &[([0x1_2345], 0x2345)]);
    check("r", "h", "cvt.s32.s16 %d, %a;", &[([0x8000], 0xffff_8000)]);
    check("r", "h", "cvt.u32.u16 %d, %a;", &[([0x8000], 0x8000)]);
    // 8-bit sources and destinations live in wider registers.
    check(
        "r",
        "r",
        "cvt.s32.s8 %d, %a;",
        &[([0x1ff], ONES), ([0x7f], 0x7f)],
    );
    check("r", "r", "cvt.u32.u8 %d, %a;", &[([0x1ff], 0xff)]);
    check(
        "r",
        "r",
        "cvt.s8.s32 %d, %a;",
        &[([0x1ff], ONES), ([0x80], 0xffff_ff80)],
    );
    check("r", "r", "cvt.u8.u32 %d, %a;", &[([0x1ff], 0xff)]);
    check(
        "r",
        "r",
        "cvt.sat.s8.s32 %d, %a;",
        &[([300], 127), ([w(-300)], w(-128)), ([5], 5)],
    );
    check(
        "r",
        "r",
        "cvt.sat.u8.s32 %d, %a;",
        &[([300], 255), ([w(-300)], 0)],
    );
    check(
        "h",
        "r",
        "cvt.sat.s16.s32 %d, %a;",
        &[([40000], 0x7fff), ([w(-40000)], 0x8000)],
    );
    check(
        "r",
        "l",
        "cvt.sat.s32.s64 %d, %a;",
        &[([1 << 40], 0x7fff_ffff), ([i(-(1 << 40))], 0x8000_0000)],
    );
    check(
        "r",
        "r",
        "cvt.sat.u32.s32 %d, %a;",
        &[([w(-1)], 0), ([7], 7)],
    );
    check(
        "r",
        "r",
        "cvt.sat.s32.u32 %d, %a;",
        &[([ONES], 0x7fff_ffff)],
    );
}

const ONES: u64 = 0xffff_ffff;

#[test]
fn floats_to_integers() {
    check(
        "r",
        "r",
        "cvt.rzi.s32.f32 %d, %a;",
        &[
            ([f(2.9)], 2),
            ([f(-2.9)], w(-2)),
            ([f(3e9)], 0x7fff_ffff),
            ([f(-3e9)], 0x8000_0000),
            ([QNAN], 0),
            ([INF], 0x7fff_ffff),
            ([NINF], 0x8000_0000),
        ],
    );
    check(
        "r",
        "r",
        "cvt.rni.s32.f32 %d, %a;",
        &[
            ([f(2.5)], 2),
            ([f(3.5)], 4),
            ([f(-2.5)], w(-2)),
            ([f(0.50001)], 1),
        ],
    );
    check(
        "r",
        "r",
        "cvt.rmi.s32.f32 %d, %a;",
        &[([f(2.9)], 2), ([f(-2.1)], w(-3))],
    );
    check(
        "r",
        "r",
        "cvt.rpi.s32.f32 %d, %a;",
        &[([f(2.1)], 3), ([f(-2.9)], w(-2)), ([SUB], 1)],
    );
    check("r", "r", "cvt.rpi.ftz.s32.f32 %d, %a;", &[([SUB], 0)]);
    check(
        "r",
        "r",
        "cvt.rzi.u32.f32 %d, %a;",
        &[
            ([f(-1.0)], 0),
            ([f(5e9)], ONES),
            ([f(3e9)], 3_000_000_000),
            ([QNAN], 0),
        ],
    );
    check(
        "r",
        "r",
        "cvt.rzi.s8.f32 %d, %a;",
        &[([f(300.0)], 127), ([f(-300.0)], w(-128))],
    );
    check(
        "r",
        "r",
        "cvt.rzi.u8.f32 %d, %a;",
        &[([f(300.0)], 255), ([f(-3.0)], 0)],
    );
    check(
        "h",
        "r",
        "cvt.rzi.u16.f32 %d, %a;",
        &[([f(70000.0)], 0xffff)],
    );
    check(
        "l",
        "r",
        "cvt.rzi.s64.f32 %d, %a;",
        &[
            ([f(-1e10)], i(-10_000_000_000)),
            ([QNAN], 1 << 63),
            ([INF], i(i64::MAX)),
        ],
    );
    check(
        "l",
        "r",
        "cvt.rzi.u64.f32 %d, %a;",
        &[([QNAN], 1 << 63), ([f(1e30)], u64::MAX)],
    );
    check(
        "r",
        "l",
        "cvt.rzi.s32.f64 %d, %a;",
        &[
            ([d(-2.9)], w(-2)),
            ([d(1e10)], 0x7fff_ffff),
            ([d(f64::NAN)], 0x8000_0000),
        ],
    );
    check(
        "l",
        "l",
        "cvt.rni.s64.f64 %d, %a;",
        &[([d(2.5)], 2), ([d(1e30)], i(i64::MAX))],
    );
    check(
        "r",
        "h",
        "cvt.rzi.s32.f16 %d, %a;",
        &[([0xc500], w(-5)), ([0x7c00], 0x7fff_ffff)],
    );
    check(
        "r",
        "h",
        "cvt.rni.s32.bf16 %d, %a;",
        &[([0x4020], 2), ([0xc060], w(-4))],
    );
}

#[test]
fn integers_to_floats() {
    check(
        "r",
        "r",
        "cvt.rn.f32.s32 %d, %a;",
        &[
            ([16_777_217], f(16_777_216.0)),
            ([16_777_219], f(16_777_220.0)),
            ([w(-1)], f(-1.0)),
        ],
    );
    check(
        "r",
        "r",
        "cvt.rz.f32.s32 %d, %a;",
        &[
            ([16_777_219], f(16_777_218.0)),
            ([w(-16_777_219)], f(-16_777_218.0)),
        ],
    );
    check(
        "r",
        "r",
        "cvt.rm.f32.s32 %d, %a;",
        &[
            ([16_777_219], f(16_777_218.0)),
            ([w(-16_777_217)], f(-16_777_218.0)),
        ],
    );
    check(
        "r",
        "r",
        "cvt.rp.f32.s32 %d, %a;",
        &[
            ([16_777_217], f(16_777_218.0)),
            ([w(-16_777_219)], f(-16_777_218.0)),
        ],
    );
    check(
        "r",
        "r",
        "cvt.rn.f32.u32 %d, %a;",
        &[([ONES], f(4_294_967_296.0))],
    );
    check(
        "r",
        "r",
        "cvt.rz.f32.u32 %d, %a;",
        &[([ONES], f(4_294_967_040.0))],
    );
    check(
        "r",
        "l",
        "cvt.rn.f32.s64 %d, %a;",
        &[([i(-(1 << 40) - 1)], f(-1_099_511_627_776.0))],
    );
    check(
        "r",
        "l",
        "cvt.rp.f32.u64 %d, %a;",
        &[([(1 << 40) + 1], f(1_099_511_627_776.0) + 1)],
    );
    check("r", "r", "cvt.rn.f32.s8 %d, %a;", &[([0x1ff], f(-1.0))]);
    check(
        "r",
        "h",
        "cvt.rn.f32.u16 %d, %a;",
        &[([0xffff], f(65535.0))],
    );
    check("l", "r", "cvt.rn.f64.s32 %d, %a;", &[([w(-7)], d(-7.0))]);
    check(
        "l",
        "l",
        "cvt.rn.f64.s64 %d, %a;",
        &[([(1 << 53) + 1], d(2f64.powi(53)))],
    );
    check(
        "l",
        "l",
        "cvt.rp.f64.u64 %d, %a;",
        &[([(1 << 53) + 1], d(2f64.powi(53)) + 1)],
    );
    check(
        "h",
        "r",
        "cvt.rn.f16.s32 %d, %a;",
        &[
            ([65520], 0x7c00),
            ([65519], 0x7bff),
            ([w(-5)], 0xc500),
            ([2049], 0x6800),
        ],
    );
    check("h", "r", "cvt.rz.f16.u32 %d, %a;", &[([ONES], 0x7bff)]);
    check(
        "h",
        "r",
        "cvt.rn.bf16.s32 %d, %a;",
        &[([257], 0x4380), ([259], 0x4382), ([w(-1)], 0xbf80)],
    );
}

#[test]
fn floats_to_floats() {
    check(
        "l",
        "r",
        "cvt.f64.f32 %d, %a;",
        &[
            ([f(0.1)], d(f64::from(0.1f32))),
            ([1], d(2f64.powi(-149))),
            ([NINF], d(f64::NEG_INFINITY)),
        ],
    );
    check("l", "r", "cvt.ftz.f64.f32 %d, %a;", &[([SUB], 0)]);
    check(
        "r",
        "l",
        "cvt.rn.f32.f64 %d, %a;",
        &[
            ([d(0.1)], f(0.1)),
            ([d(1e300)], INF),
            ([d(1e-300)], 0),
            ([d(f64::NAN)], NAN),
        ],
    );
    check(
        "r",
        "l",
        "cvt.rz.f32.f64 %d, %a;",
        &[([d(1e300)], 0x7f7f_ffff), ([d(0.1)], 0x3dcc_cccc)],
    );
    check(
        "r",
        "l",
        "cvt.rp.f32.f64 %d, %a;",
        &[([d(1e-300)], 1), ([d(-1e300)], 0xff7f_ffff)],
    );
    check(
        "r",
        "l",
        "cvt.rm.f32.f64 %d, %a;",
        &[([d(-1e-300)], 0x8000_0001), ([d(1e300)], 0x7f7f_ffff)],
    );
    check(
        "r",
        "r",
        "cvt.rni.f32.f32 %d, %a;",
        &[([f(2.5)], f(2.0)), ([f(-0.3)], 0x8000_0000), ([INF], INF)],
    );
    check("r", "r", "cvt.rmi.f32.f32 %d, %a;", &[([f(-2.5)], f(-3.0))]);
    check("r", "r", "cvt.rpi.f32.f32 %d, %a;", &[([f(2.1)], f(3.0))]);
    check(
        "r",
        "r",
        "cvt.rzi.f32.f32 %d, %a;",
        &[([f(-2.9)], f(-2.0)), ([f(1e20)], f(1e20))],
    );
    check(
        "r",
        "r",
        "cvt.sat.f32.f32 %d, %a;",
        &[
            ([f(1.5)], f(1.0)),
            ([f(-1.5)], 0),
            ([QNAN], 0),
            ([f(0.25)], f(0.25)),
        ],
    );
    check(
        "r",
        "r",
        "cvt.ftz.f32.f32 %d, %a;",
        &[([0x8000_0001], 0x8000_0000)],
    );
    check("l", "l", "cvt.rni.f64.f64 %d, %a;", &[([d(3.5)], d(4.0))]);
}

#[test]
fn half_precision() {
    check(
        "r",
        "h",
        "cvt.f32.f16 %d, %a;",
        &[
            ([0x3c01], f(1.0 + 1.0 / 1024.0)),
            ([1], f(2f32.powi(-24))),
            ([0xfc00], NINF),
            ([0x7e00], NAN),
        ],
    );
    check(
        "h",
        "r",
        "cvt.rn.f16.f32 %d, %a;",
        &[
            ([f(65520.0)], 0x7c00),
            ([f(65519.0)], 0x7bff),
            ([f(2f32.powi(-25))], 0),
            ([f(2f32.powi(-25)) + 1], 1),
            ([QNAN], 0x7fff),
            ([f(-1.0)], 0xbc00),
        ],
    );
    check(
        "h",
        "r",
        "cvt.rz.f16.f32 %d, %a;",
        &[([f(65520.0)], 0x7bff), ([f(1.0) + 0x3fff], 0x3c01)],
    );
    check(
        "h",
        "r",
        "cvt.rm.f16.f32 %d, %a;",
        &[([f(-1.0) + 1], 0xbc01)],
    );
    check(
        "h",
        "r",
        "cvt.rp.f16.f32 %d, %a;",
        &[([f(1.0) + 1], 0x3c01)],
    );
    check(
        "h",
        "r",
        "cvt.rn.relu.f16.f32 %d, %a;",
        &[([f(-1.0)], 0), ([QNAN], 0x7fff)],
    );
    check(
        "h",
        "r",
        "cvt.rn.satfinite.f16.f32 %d, %a;",
        &[([f(1e9)], 0x7bff), ([NINF], 0xfbff), ([QNAN], 0x7fff)],
    );
    check(
        "h",
        "r",
        "cvt.rn.sat.f16.f32 %d, %a;",
        &[([f(3.0)], 0x3c00), ([f(-3.0)], 0)],
    );
    check(
        "h",
        "l",
        "cvt.rn.f16.f64 %d, %a;",
        &[
            ([d(1.0 + 2f64.powi(-11) + 2f64.powi(-40))], 0x3c01),
            ([d(1.0 + 2f64.powi(-11))], 0x3c00),
        ],
    );
    check("l", "h", "cvt.f64.f16 %d, %a;", &[([0x3c00], d(1.0))]);
    check(
        "r",
        "rr",
        "cvt.rn.f16x2.f32 %d, %a, %b;",
        &[([f(1.0), f(2.0)], 0x3c00_4000)],
    );
    check(
        "r",
        "rr",
        "cvt.rz.relu.f16x2.f32 %d, %a, %b;",
        &[([f(-1.0), f(2.0)], 0x0000_4000)],
    );
    check(
        "h",
        "h",
        "cvt.rni.f16.f16 %d, %a;",
        &[([0x4100], 0x4000), ([0x4300], 0x4400)],
    );
}

#[test]
fn bfloat16() {
    check(
        "r",
        "h",
        "cvt.f32.bf16 %d, %a;",
        &[([0x3f81], 0x3f81_0000), ([0xff80], NINF)],
    );
    check(
        "h",
        "r",
        "cvt.rn.bf16.f32 %d, %a;",
        &[
            ([0x3f80_8000], 0x3f80),
            ([0x3f80_8001], 0x3f81),
            ([0x3f81_8000], 0x3f82),
            ([0x7f7f_ffff], 0x7f80),
            ([QNAN], 0x7fff),
            ([1], 0),
        ],
    );
    check(
        "h",
        "r",
        "cvt.rz.bf16.f32 %d, %a;",
        &[([0x3f80_ffff], 0x3f80), ([0x7f7f_ffff], 0x7f7f)],
    );
    check(
        "h",
        "r",
        "cvt.rn.relu.bf16.f32 %d, %a;",
        &[([f(-1.0)], 0), ([QNAN], 0x7fff)],
    );
    check(
        "r",
        "rr",
        "cvt.rn.bf16x2.f32 %d, %a, %b;",
        &[([f(1.0), f(-2.0)], 0x3f80_c000), ([QNAN, 0], 0x7fff_0000)],
    );
    check(
        "r",
        "rr",
        "cvt.rn.relu.bf16x2.f32 %d, %a, %b;",
        &[([f(1.0), f(-2.0)], 0x3f80_0000)],
    );
    check(
        "r",
        "rr",
        "cvt.rz.bf16x2.f32 %d, %a, %b;",
        &[([0x3f80_ffff, 0xbf80_ffff], 0x3f80_bf80)],
    );
    check(
        "h",
        "h",
        "cvt.rn.bf16.f16 %d, %a;",
        &[([0x3c01], 0x3f80), ([0x3c04], 0x3f80), ([0x3c06], 0x3f81)],
    );
    check(
        "h",
        "h",
        "cvt.rn.f16.bf16 %d, %a;",
        &[([0x4780], 0x7c00), ([0x3f81], 0x3c08)],
    );
}

#[test]
fn tf32_and_fp8() {
    check(
        "r",
        "r",
        "cvt.rna.tf32.f32 %d, %a;",
        &[
            ([0x3f80_1000], 0x3f80_2000),
            ([0x3f80_0fff], 0x3f80_0000),
            ([0xbf80_1000], 0xbf80_2000),
            ([QNAN], NAN),
            ([INF], INF),
        ],
    );
    check(
        "r",
        "r",
        "cvt.rn.tf32.f32 %d, %a;",
        &[([0x3f80_1000], 0x3f80_0000), ([0x3f80_3000], 0x3f80_4000)],
    );
    check(
        "r",
        "r",
        "cvt.rz.relu.tf32.f32 %d, %a;",
        &[([0x3f80_1fff], 0x3f80_0000), ([f(-1.0)], 0)],
    );
    check(
        "h",
        "rr",
        "cvt.rn.satfinite.e4m3x2.f32 %d, %a, %b;",
        &[
            ([f(1.0), f(-448.0)], 0x38fe),
            ([f(1e9), f(0.001953125)], 0x7e01),
            ([QNAN, f(17.0)], 0x7f58),
        ],
    );
    check(
        "h",
        "rr",
        "cvt.rn.satfinite.e5m2x2.f32 %d, %a, %b;",
        &[([f(1.0), f(1e9)], 0x3c7b), ([QNAN, NINF], 0x7ffb)],
    );
    check(
        "h",
        "rr",
        "cvt.rn.satfinite.relu.e4m3x2.f32 %d, %a, %b;",
        &[([f(-1.0), f(2.0)], 0x0040)],
    );
    check(
        "h",
        "r",
        "cvt.rn.satfinite.e4m3x2.f16x2 %d, %a;",
        &[([0x3c00_c000], 0x38c0)],
    );
    check(
        "r",
        "h",
        "cvt.rn.f16x2.e4m3x2 %d, %a;",
        &[([0x387e], 0x3c00_5f00), ([0x01ff], 0x1800_7fff)],
    );
    check(
        "r",
        "h",
        "cvt.rn.f16x2.e5m2x2 %d, %a;",
        &[([0x3c7b], 0x3c00_7b00)],
    );
    check(
        "r",
        "h",
        "cvt.rn.relu.f16x2.e5m2x2 %d, %a;",
        &[([0xbc3c], 0x0000_3c00)],
    );
}

#[test]
fn address_spaces() {
    // A shared variable's address is generic after cvta, and comes back.
    check2(
        "rp",
        "r",
        ".shared .b32 place[8]; .reg .b64 %g, %s; .reg .b32 %t; mov.u64 %s, place; cvta.shared.u64 %g, %s; st.u32 [%g+4], %a; \
         ld.shared.u32 %d, [place+4]; isspacep.shared %e, %g;",
        &[([77], [77, 1])],
    );
    check2(
        "rp",
        "r",
        ".local .b32 mine[4]; .reg .b64 %g, %s; mov.u64 %s, mine; cvta.local.u64 %g, %s; st.local.u32 [%s], %a; ld.u32 %d, [%g]; \
         isspacep.local %e, %g;",
        &[([78], [78, 1])],
    );
    check2(
        "pp",
        "r",
        ".shared .b32 place[8]; .reg .b64 %g, %s; mov.u64 %s, place; cvta.shared.u64 %g, %s; isspacep.global %d, %g; \
         isspacep.global %e, %from;",
        &[([0], [0, 1])],
    );
    check(
        "p",
        "r",
        ".shared .b32 place[8]; .reg .b64 %g, %s, %b; mov.u64 %s, place; cvta.shared.u64 %g, %s; cvta.to.shared.u64 %b, %g; \
         setp.eq.u64 %d, %b, %s;",
        &[([0], 1)],
    );
}
