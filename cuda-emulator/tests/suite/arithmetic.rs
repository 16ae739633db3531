//! Scalar instructions against the PTX ISA's text: edge values of each family.

use crate::machine::{Machine, checked, kernel};

/// Operands and result.
type Case = ([u32; 3], u32);

/// Runs one kernel for each instruction on `%a %b %c` (32 bits) with the result in `%d`, a thread for each case.
fn run32(table: &[(&str, &[Case])]) {
    for (instruction, cases) in table {
        let text = kernel(
            ".reg .b32 %a, %b, %c, %d, %x, %y;\n.reg .b16 %ha, %hb, %hc, %hd;\n.reg .b64 %wa, %wb, %wc, %wd;\n.reg .pred %p, %q;",
            &format!(
                "add.u64 %in, %out, 4096;
                 mul.wide.u32 %off, %t, 12;
                 add.u64 %in, %in, %off;
                 ld.global.u32 %a, [%in];
                 ld.global.u32 %b, [%in+4];
                 ld.global.u32 %c, [%in+8];
                 cvt.u16.u32 %ha, %a;
                 cvt.u16.u32 %hb, %b;
                 cvt.u16.u32 %hc, %c;
                 mov.u32 %d, 0;
                 {instruction}
                 mul.wide.u32 %off, %t, 4;
                 add.u64 %out, %out, %off;
                 st.global.u32 [%out], %d;"
            ),
        );
        let machine = Machine::new(&text, checked());
        let mut words = vec![0; 1024];
        words.extend(cases.iter().flat_map(|(operands, _)| operands));
        let buffer = machine.words(&words);
        machine.clean("", [1, 1, 1], [cases.len() as u32, 1, 1], &[buffer]);
        let result = machine.read(buffer, cases.len());
        for (i, (operands, expected)) in cases.iter().enumerate() {
            assert_eq!(
                result[i], *expected,
                "{instruction} on {operands:x?}: {:#x}, not {expected:#x}",
                result[i]
            );
        }
    }
}

const MIN: u32 = 0x8000_0000;
const MAX: u32 = 0x7fff_ffff;
const NEG1: u32 = 0xffff_ffff;

#[test]
fn integers() {
    run32(&[
        (
            "add.s32 %d, %a, %b;",
            &[([MAX, 1, 0], MIN), ([NEG1, 1, 0], 0)],
        ),
        (
            "add.sat.s32 %d, %a, %b;",
            &[([MAX, 1, 0], MAX), ([MIN, NEG1, 0], MIN), ([3, 4, 0], 7)],
        ),
        (
            "sub.sat.s32 %d, %a, %b;",
            &[([MIN, 1, 0], MIN), ([MAX, NEG1, 0], MAX)],
        ),
        (
            "mul.lo.s32 %d, %a, %b;",
            &[([0x10000, 0x10001, 0], 0x10000)],
        ),
        ("mul.hi.u32 %d, %a, %b;", &[([NEG1, NEG1, 0], 0xffff_fffe)]),
        (
            "mul.hi.s32 %d, %a, %b;",
            &[([NEG1, NEG1, 0], 0), ([MIN, MIN, 0], 0x4000_0000)],
        ),
        ("mad.lo.u32 %d, %a, %b, %c;", &[([3, 5, NEG1], 14)]),
        ("mad.hi.s32 %d, %a, %b, %c;", &[([MIN, 2, 1], 0)]),
        (
            "mad.hi.sat.s32 %d, %a, %b, %c;",
            &[
                ([MIN, MIN, MAX], MAX),
                ([MIN, MAX, MIN], MIN),
                ([1, 1, 5], 5),
            ],
        ),
        ("mul24.lo.u32 %d, %a, %b;", &[([0xff00_0003, 5, 0], 15)]),
        (
            "mul24.hi.s32 %d, %a, %b;",
            &[([0x0080_0000, 0x0080_0000, 0], 0x4000_0000)],
        ),
        ("mad24.lo.s32 %d, %a, %b, %c;", &[([0x00ff_ffff, 7, 10], 3)]),
        (
            "sad.s32 %d, %a, %b, %c;",
            &[([MIN, MAX, 1], 0), ([5, 9, 1], 5)],
        ),
        ("sad.u32 %d, %a, %b, %c;", &[([1, NEG1, 0], 0xffff_fffe)]),
        (
            "div.s32 %d, %a, %b;",
            &[([0xffff_fff9, 2, 0], 0xffff_fffd), ([MIN, NEG1, 0], MIN)],
        ),
        (
            "div.u32 %d, %a, %b;",
            &[([7, 2, 0], 3), ([NEG1, 16, 0], 0x0fff_ffff)],
        ),
        (
            "rem.s32 %d, %a, %b;",
            &[([0xffff_fff9, 2, 0], NEG1), ([7, 0xffff_fffe, 0], 1)],
        ),
        ("rem.u32 %d, %a, %b;", &[([7, 4, 0], 3)]),
        ("min.s32 %d, %a, %b;", &[([MIN, MAX, 0], MIN)]),
        ("min.u32 %d, %a, %b;", &[([MIN, MAX, 0], MAX)]),
        ("max.s32 %d, %a, %b;", &[([MIN, MAX, 0], MAX)]),
        ("max.u32 %d, %a, %b;", &[([MIN, MAX, 0], MIN)]),
        ("abs.s32 %d, %a;", &[([NEG1, 0, 0], 1), ([MIN, 0, 0], MIN)]),
        ("neg.s32 %d, %a;", &[([1, 0, 0], NEG1), ([MIN, 0, 0], MIN)]),
        ("cnot.b32 %d, %a;", &[([0, 0, 0], 1), ([5, 0, 0], 0)]),
        ("not.b32 %d, %a;", &[([0x00ff_00ff, 0, 0], 0xff00_ff00)]),
        (
            "dp4a.s32.s32 %d, %a, %b, %c;",
            &[([0x01ff_8002, 0x0102_0304, 10], (-367i32) as u32)],
        ),
        (
            "vabsdiff4.u32.u32.u32 %d, %a, %b, %c;",
            &[([0x01ff_8002, 0x0202_0304, 9], 0x01fd_7d02)],
        ),
        (
            "vabsdiff4.s32.s32.s32.add %d, %a, %b, %c;",
            &[([0x01ff_8002, 0x0202_0304, 9], 1 + 3 + 131 + 2 + 9)],
        ),
        (
            "vabsdiff2.u32.u32.u32 %d, %a, %b, %c;",
            &[([0x0001_ffff, 0x0003_0001, 9], 0x0002_fffe)],
        ),
        (
            "dp4a.u32.u32 %d, %a, %b, %c;",
            &[([0xffff_ffff, 0xffff_ffff, 1], 4 * 65025 + 1)],
        ),
        (
            "dp2a.lo.u32.u32 %d, %a, %b, %c;",
            &[([0x0002_0003, 0x0908_0504, 1], 3 * 4 + 2 * 5 + 1)],
        ),
        (
            "dp2a.hi.s32.u32 %d, %a, %b, %c;",
            &[([0xffff_0003, 0x0908_0504, 1], 3 * 8 - 9 + 1)],
        ),
    ]);
}

#[test]
fn sixteen_bits() {
    run32(&[
        (
            "add.s16 %hd, %ha, %hb; cvt.u32.u16 %d, %hd;",
            &[([0xffff, 2, 0], 1)],
        ),
        (
            "sub.u16 %hd, %ha, %hb; cvt.u32.u16 %d, %hd;",
            &[([0, 1, 0], 0xffff)],
        ),
        (
            "mul.hi.s16 %hd, %ha, %hb; cvt.u32.u16 %d, %hd;",
            &[([0x8000, 0x8000, 0], 0x4000)],
        ),
        (
            "mul.hi.u16 %hd, %ha, %hb; cvt.u32.u16 %d, %hd;",
            &[([0xffff, 0xffff, 0], 0xfffe)],
        ),
        (
            "mul.wide.s16 %d, %ha, %hb;",
            &[([0xffff, 3, 0], 0xffff_fffd)],
        ),
        ("mul.wide.u16 %d, %ha, %hb;", &[([0xffff, 3, 0], 0x2_fffd)]),
        ("mad.wide.s16 %d, %ha, %hb, %c;", &[([0xffff, 3, 4], 1)]),
        (
            "shl.b16 %hd, %ha, %b; cvt.u32.u16 %d, %hd;",
            &[([0x8001, 1, 0], 2), ([1, 16, 0], 0)],
        ),
        (
            "shr.s16 %hd, %ha, %b; cvt.u32.u16 %d, %hd;",
            &[([0x8000, 3, 0], 0xf000), ([0x8000, 99, 0], 0xffff)],
        ),
        (
            "shr.u16 %hd, %ha, %b; cvt.u32.u16 %d, %hd;",
            &[([0x8000, 3, 0], 0x1000), ([8, 16, 0], 0)],
        ),
        (
            "min.s16 %hd, %ha, %hb; cvt.s32.s16 %d, %hd;",
            &[([0x8000, 1, 0], 0xffff_8000)],
        ),
        (
            "abs.s16 %hd, %ha; cvt.u32.u16 %d, %hd;",
            &[([0xfffe, 0, 0], 2), ([0x8000, 0, 0], 0x8000)],
        ),
        (
            "neg.s16 %hd, %ha; cvt.u32.u16 %d, %hd;",
            &[([1, 0, 0], 0xffff)],
        ),
        (
            "not.b16 %hd, %ha; cvt.u32.u16 %d, %hd;",
            &[([0x00ff, 0, 0], 0xff00)],
        ),
        (
            "setp.lt.s16 %p, %ha, %hb; selp.u32 %d, 1, 0, %p;",
            &[([0xffff, 0, 0], 1), ([0, 0xffff, 0], 0)],
        ),
        (
            "setp.lt.u16 %p, %ha, %hb; selp.u32 %d, 1, 0, %p;",
            &[([0xffff, 0, 0], 0)],
        ),
        (
            "mov.b32 %d, {%hb, %ha};",
            &[([0x1234, 0x5678, 0], 0x1234_5678)],
        ),
        (
            "mov.b32 {%ha, %hb}, %c; mov.b32 %d, {%hb, %ha};",
            &[([0, 0, 0x1234_5678], 0x5678_1234)],
        ),
        ("mov.b32 %d, {0, %ha};", &[([0x3f80, 0, 0], 0x3f80_0000)]),
    ]);
}

#[test]
fn sixty_four_bits() {
    // a:b and the low word of the result, or the high one by a shift.
    run32(&[
        (
            "mov.b64 %wa, {%a, %b}; cvt.u64.u32 %wb, %c; add.u64 %wd, %wa, %wb; shr.u64 %wd, %wd, 32; cvt.u32.u64 %d, %wd;",
            &[([NEG1, 7, 1], 8)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; shl.b64 %wd, %wa, %c; mov.b64 {%x, %d}, %wd;",
            &[
                ([1, 0, 32], 1),
                ([1, 0, 63], MIN),
                ([1, 0, 64], 0),
                ([NEG1, NEG1, 200], 0),
            ],
        ),
        (
            "mov.b64 %wa, {%a, %b}; shr.s64 %wd, %wa, %c; mov.b64 {%d, %y}, %wd;",
            &[([0, MIN, 63], NEG1), ([0, MIN, 70], NEG1), ([0, 4, 33], 2)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; shr.u64 %wd, %wa, %c; mov.b64 {%d, _}, %wd;",
            &[([0, MIN, 63], 1), ([0, MIN, 64], 0)],
        ),
        (
            "mul.wide.s32 %wd, %a, %b; mov.b64 {%x, %d}, %wd;",
            &[([NEG1, 1, 0], NEG1), ([MIN, MIN, 0], 0x4000_0000)],
        ),
        (
            "mul.wide.u32 %wd, %a, %b; mov.b64 {%x, %d}, %wd;",
            &[([NEG1, 2, 0], 1)],
        ),
        (
            "cvt.s64.s32 %wc, %c; mad.wide.s32 %wd, %a, %b, %wc; mov.b64 {%d, %x}, %wd;",
            &[([3, 4, NEG1], 11)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; mul.hi.u64 %wd, %wa, %wa; mov.b64 {%d, %x}, %wd;",
            &[([NEG1, NEG1, 0], 0xffff_fffe), ([0, 1, 0], 1)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; cvt.s64.s32 %wb, %c; div.s64 %wd, %wa, %wb; mov.b64 {%d, %x}, %wd;",
            &[([0xffff_fff9, NEG1, 2], 0xffff_fffd), ([100, 0, 7], 14)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; popc.b64 %d, %wa;",
            &[([NEG1, 1, 0], 33)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; clz.b64 %d, %wa;",
            &[([1, 0, 0], 63), ([0, 0, 0], 64)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; bfind.s64 %d, %wa;",
            &[([0, 1, 0], 32), ([NEG1, NEG1, 0], NEG1), ([0, NEG1, 0], 31)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; brev.b64 %wd, %wa; mov.b64 {%d, %x}, %wd;",
            &[([0, 1, 0], MIN)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; bfe.u64 %wd, %wa, 28, 8; mov.b64 {%d, %x}, %wd;",
            &[([0x5000_0000, 0xa, 0], 0xa5)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; cvt.u64.u32 %wb, %c; bfi.b64 %wd, %wb, %wa, 28, 8; mov.b64 {%x, %d}, %wd;",
            &[([0, 0, 0xa5], 0xa)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; cvt.s64.s32 %wb, %c; setp.lt.s64 %p, %wa, %wb; selp.u32 %d, 1, 0, %p;",
            &[([0, MIN, 0], 1), ([0, 0, NEG1], 0)],
        ),
        (
            "mov.b64 %wa, {%a, %b}; min.s64 %wd, %wa, 5; mov.b64 {%d, %x}, %wd;",
            &[([9, 0, 0], 5), ([9, MIN, 0], 9)],
        ),
    ]);
}

#[test]
fn carry_chains() {
    run32(&[
        (
            "add.cc.u32 %x, %a, %b; addc.u32 %d, %c, 0;",
            &[([NEG1, 1, 5], 6), ([NEG1, 0, 5], 5)],
        ),
        (
            "add.cc.u32 %x, %a, %b; addc.cc.u32 %y, %c, %a; addc.u32 %d, 0, 0;",
            &[([NEG1, 1, 0], 1), ([1, 1, NEG1], 1), ([1, 1, 1], 0)],
        ),
        (
            "sub.cc.u32 %x, %a, %b; subc.u32 %d, %c, 0;",
            &[([0, 1, 5], 4), ([1, 1, 5], 5)],
        ),
        (
            "mad.lo.cc.u32 %x, %a, %b, %c; madc.hi.u32 %d, %a, %b, 0;",
            &[([NEG1, NEG1, NEG1], NEG1), ([2, 3, 4], 0)],
        ),
        (
            "mov.b64 %wa, {%a, %a}; cvt.u64.u32 %wb, %b; add.cc.u64 %wd, %wa, %wb; addc.u32 %d, 0, 0;",
            &[([NEG1, 1, 0], 1), ([NEG1, 0, 0], 0)],
        ),
    ]);
}

#[test]
fn bits() {
    run32(&[
        (
            "shl.b32 %d, %a, %b;",
            &[([1, 31, 0], MIN), ([1, 32, 0], 0), ([1, NEG1, 0], 0)],
        ),
        (
            "shr.u32 %d, %a, %b;",
            &[([MIN, 31, 0], 1), ([MIN, 32, 0], 0)],
        ),
        (
            "shr.s32 %d, %a, %b;",
            &[
                ([MIN, 31, 0], NEG1),
                ([MIN, 40, 0], NEG1),
                ([MAX, 99, 0], 0),
            ],
        ),
        (
            "shf.l.wrap.b32 %d, %a, %b, %c;",
            &[([0x8000_0000, 1, 33], 3), ([5, 6, 32], 6)],
        ),
        (
            "shf.l.clamp.b32 %d, %a, %b, %c;",
            &[([0xabcd, 1, 40], 0xabcd)],
        ),
        (
            "shf.r.wrap.b32 %d, %a, %b, %c;",
            &[([2, 1, 33], 0x8000_0001)],
        ),
        ("shf.r.clamp.b32 %d, %a, %b, %c;", &[([0xabcd, 1, 40], 1)]),
        (
            "bfe.u32 %d, %a, %b, %c;",
            &[
                ([0x1234_5678, 8, 8], 0x56),
                ([NEG1, 0, 0], 0),
                ([NEG1, 28, 99], 15),
            ],
        ),
        (
            "bfe.s32 %d, %a, %b, %c;",
            &[
                ([0x0000_8000, 8, 8], 0xffff_ff80),
                ([MIN, 31, 4], NEG1),
                ([MIN, 40, 4], NEG1),
            ],
        ),
        (
            "bfi.b32 %d, %a, %b, 8, 4;",
            &[([0xff, 0, 0], 0xf00), ([0, NEG1, 0], 0xffff_f0ff)],
        ),
        ("bfi.b32 %d, %a, %b, 32, 4;", &[([0xff, 7, 0], 7)]),
        (
            "bfind.u32 %d, %a;",
            &[([0, 0, 0], NEG1), ([1, 0, 0], 0), ([MIN, 0, 0], 31)],
        ),
        (
            "bfind.s32 %d, %a;",
            &[([NEG1, 0, 0], NEG1), ([MIN, 0, 0], 30), ([5, 0, 0], 2)],
        ),
        (
            "bfind.shiftamt.u32 %d, %a;",
            &[([1, 0, 0], 31), ([0, 0, 0], NEG1)],
        ),
        ("popc.b32 %d, %a;", &[([0xf0f0_0001, 0, 0], 9)]),
        ("clz.b32 %d, %a;", &[([0, 0, 0], 32), ([1, 0, 0], 31)]),
        ("brev.b32 %d, %a;", &[([1, 0, 0], MIN)]),
        (
            "lop3.b32 %d, %a, %b, %c, 0xe8;",
            &[([0xff00, 0xf0f0, 0xcccc], 0xfcc0 & 0xffff & 0xfcc0)],
        ),
        (
            "lop3.b32 %d, %a, %b, %c, 0x96;",
            &[([0xff00, 0xf0f0, 0xcccc], 0xff00 ^ 0xf0f0 ^ 0xcccc)],
        ),
        (
            "lop3.b32 %d, %a, %b, %c, 0x1b;",
            &[([0xff00, 0xf0f0, 0xcccc], lut(0x1b))],
        ),
        (
            "lop3.or.b32 %d|%p, %a, %b, %c, 0x80, 0; selp.u32 %d, 1, 0, %p;",
            &[([3, 6, 2], 1), ([3, 4, 2], 0)],
        ),
        (
            "prmt.b32 %d, %a, %b, %c;",
            &[
                ([0x3322_1100, 0x7766_5544, 0x7531], 0x7755_3311),
                ([0x80, 0, 0x8], 0x8080_80ff),
            ],
        ),
        (
            "prmt.b32.f4e %d, %a, %b, %c;",
            &[([0x3322_1100, 0x7766_5544, 1], 0x4433_2211)],
        ),
        (
            "prmt.b32.b4e %d, %a, %b, %c;",
            &[([0x3322_1100, 0x7766_5544, 0], 0x5566_7700)],
        ),
        (
            "prmt.b32.rc8 %d, %a, %b, %c;",
            &[([0x3322_1100, 0, 2], 0x2222_2222)],
        ),
        (
            "prmt.b32.rc16 %d, %a, %b, %c;",
            &[([0x3322_1100, 0, 1], 0x3322_3322)],
        ),
        (
            "szext.clamp.s32 %d, %a, %b;",
            &[
                ([0x80, 8, 0], 0xffff_ff80),
                ([5, 0, 0], 0),
                ([MIN, 40, 0], MIN),
            ],
        ),
        (
            "szext.wrap.u32 %d, %a, %b;",
            &[([0x1ff, 8, 0], 0xff), ([0x1ff, 40, 0], 0xff)],
        ),
        (
            "bmsk.clamp.b32 %d, %a, %b;",
            &[
                ([4, 8, 0], 0xff0),
                ([4, 40, 0], 0xffff_fff0),
                ([32, 4, 0], 0),
            ],
        ),
        ("bmsk.wrap.b32 %d, %a, %b;", &[([36, 8, 0], 0xff0)]),
        (
            "fns.b32 %d, %a, %b, %c;",
            &[
                ([0b1011_0100, 3, 1], 4),
                ([0b1011_0100, 3, 2], 5),
                ([1, 3, 5], NEG1),
            ],
        ),
    ]);
}

/// `lop3` on the three standard words, by its definition.
const fn lut(table: u32) -> u32 {
    let (a, b, c) = (0xff00u32, 0xf0f0u32, 0xccccu32);
    let mut d = 0;
    let mut bit = 0;
    while bit < 32 {
        let index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1);
        d |= (table >> index & 1) << bit;
        bit += 1;
    }
    d
}

const ONE: u32 = 0x3f80_0000;
const NAN: u32 = 0x7fff_ffff;
const INF: u32 = 0x7f80_0000;
const TINY: u32 = 0x0000_0001;

#[test]
fn floats() {
    run32(&[
        (
            "add.f32 %d, %a, %b;",
            &[
                ([ONE, ONE, 0], 0x4000_0000),
                ([TINY, TINY, 0], 2),
                ([0x7fc0_0001, ONE, 0], NAN),
            ],
        ),
        (
            "add.ftz.f32 %d, %a, %b;",
            &[([TINY, TINY, 0], 0), ([0x8000_0001, 0x8000_0001, 0], MIN)],
        ),
        (
            "add.sat.f32 %d, %a, %b;",
            &[
                ([ONE, ONE, 0], ONE),
                ([0xbf80_0000, 0, 0], 0),
                ([NAN, 0, 0], 0),
            ],
        ),
        ("add.rz.f32 %d, %a, %b;", &[([ONE, 0x3300_0001, 0], ONE)]),
        ("add.rp.f32 %d, %a, %b;", &[([ONE, TINY, 0], 0x3f80_0001)]),
        (
            "add.rm.f32 %d, %a, %b;",
            &[([ONE, 0x8000_0001, 0], 0x3f7f_ffff)],
        ),
        (
            "mul.f32 %d, %a, %b;",
            &[
                ([INF, 0, 0], NAN),
                ([0x4000_0000, 0x4040_0000, 0], 0x40c0_0000),
            ],
        ),
        (
            "fma.rn.f32 %d, %a, %b, %c;",
            &[([0x3f80_0001, 0x3f80_0001, 0xbf80_0002], 0x2880_0000)],
        ),
        (
            "fma.rz.f32 %d, %a, %b, %c;",
            &[([ONE, ONE, 0x3300_0001], ONE)],
        ),
        ("fma.rm.ftz.f32 %d, %a, %b, %c;", &[([TINY, ONE, 0], 0)]),
        (
            "min.f32 %d, %a, %b;",
            &[
                ([NAN, ONE, 0], ONE),
                ([MIN, 0, 0], MIN),
                ([NAN, NAN, 0], NAN),
            ],
        ),
        (
            "max.f32 %d, %a, %b;",
            &[([0x7fc0_0000, ONE, 0], ONE), ([MIN, 0, 0], 0)],
        ),
        ("min.NaN.f32 %d, %a, %b;", &[([0x7fc0_0000, ONE, 0], NAN)]),
        (
            "max.xorsign.abs.f32 %d, %a, %b;",
            &[
                ([0xc000_0000, ONE, 0], 0xc000_0000),
                ([0xc000_0000, 0xbf80_0000, 0], 0x4000_0000),
            ],
        ),
        ("abs.f32 %d, %a;", &[([0xbf80_0000, 0, 0], ONE)]),
        (
            "neg.ftz.f32 %d, %a;",
            &[([TINY, 0, 0], MIN), ([ONE, 0, 0], 0xbf80_0000)],
        ),
        ("copysign.f32 %d, %a, %b;", &[([MIN, ONE, 0], 0xbf80_0000)]),
        (
            "div.rn.f32 %d, %a, %b;",
            &[([ONE, 0x4040_0000, 0], 0x3eaa_aaab), ([ONE, 0, 0], INF)],
        ),
        (
            "div.rz.f32 %d, %a, %b;",
            &[([ONE, 0x4040_0000, 0], 0x3eaa_aaaa)],
        ),
        (
            "rcp.rn.f32 %d, %a;",
            &[
                ([0x4000_0000, 0, 0], 0x3f00_0000),
                ([MIN, 0, 0], 0xff80_0000),
            ],
        ),
        (
            "sqrt.rn.f32 %d, %a;",
            &[
                ([0x4080_0000, 0, 0], 0x4000_0000),
                ([0xbf80_0000, 0, 0], NAN),
                ([MIN, 0, 0], MIN),
            ],
        ),
        (
            "ex2.approx.f32 %d, %a;",
            &[([0x4040_0000, 0, 0], 0x4100_0000), ([0xff80_0000, 0, 0], 0)],
        ),
        (
            "lg2.approx.f32 %d, %a;",
            &[([0x4100_0000, 0, 0], 0x4040_0000), ([0, 0, 0], 0xff80_0000)],
        ),
        (
            "rsqrt.approx.f32 %d, %a;",
            &[([0x4080_0000, 0, 0], 0x3f00_0000), ([0, 0, 0], INF)],
        ),
        (
            "testp.subnormal.f32 %p, %a; selp.u32 %d, 1, 0, %p;",
            &[([TINY, 0, 0], 1), ([ONE, 0, 0], 0)],
        ),
        (
            "testp.finite.f32 %p, %a; selp.u32 %d, 1, 0, %p;",
            &[([INF, 0, 0], 0), ([0, 0, 0], 1)],
        ),
        (
            "add.f64 %wd, 0d3FF0000000000000, 0d4000000000000000; mov.b64 {%x, %d}, %wd;",
            &[([0, 0, 0], 0x4008_0000)],
        ),
        (
            "cvt.f64.f32 %wa, %a; fma.rn.f64 %wd, %wa, %wa, %wa; cvt.rn.f32.f64 %d, %wd;",
            &[([0x4000_0000, 0, 0], 0x40c0_0000)],
        ),
        (
            "cvt.f64.f32 %wa, %a; sqrt.rn.f64 %wd, %wa; cvt.rn.f32.f64 %d, %wd;",
            &[([0x4080_0000, 0, 0], 0x4000_0000)],
        ),
        (
            "cvt.f64.f32 %wa, %a; cvt.f64.f32 %wb, %b; setp.gtu.f64 %p, %wa, %wb; selp.u32 %d, 1, 0, %p;",
            &[([NAN, 0, 0], 1), ([0, ONE, 0], 0)],
        ),
    ]);
}

#[test]
fn halves() {
    run32(&[
        (
            "add.f16 %hd, %ha, %hb; cvt.u32.u16 %d, %hd;",
            &[([0x3c00, 0x3c00, 0], 0x4000), ([0x7bff, 0x7bff, 0], 0x7c00)],
        ),
        (
            "fma.rn.f16 %hd, %ha, %hb, %hc; cvt.u32.u16 %d, %hd;",
            &[([0x3c00, 0x4000, 0x3c00], 0x4200)],
        ),
        (
            "fma.rn.relu.f16 %hd, %ha, %hb, %hc; cvt.u32.u16 %d, %hd;",
            &[([0xbc00, 0x4000, 0], 0)],
        ),
        (
            "add.f16x2 %d, %a, %b;",
            &[([0x3c00_4000, 0x3c00_3c00, 0], 0x4000_4200)],
        ),
        (
            "mul.sat.f16x2 %d, %a, %b;",
            &[([0x4000_b800, 0x4000_3c00, 0], 0x3c00_0000)],
        ),
        (
            "fma.rn.bf16x2 %d, %a, %b, %c;",
            &[([0x3f80_4000, 0x4000_4000, 0x3f80_3f80], 0x4040_40a0)],
        ),
        (
            "fma.rn.bf16 %hd, %ha, %hb, %hc; cvt.u32.u16 %d, %hd;",
            &[([0x3f80, 0x3f80, 0x3f80], 0x4000)],
        ),
        (
            "min.bf16x2 %d, %a, %b;",
            &[([0x3f80_7fff, 0x4000_3f80, 0], 0x3f80_3f80)],
        ),
        (
            "max.NaN.f16x2 %d, %a, %b;",
            &[([0x3c00_7e00, 0x4000_3c00, 0], 0x4000_7fff)],
        ),
        ("neg.bf16x2 %d, %a;", &[([0x3f80_bf80, 0, 0], 0xbf80_3f80)]),
        ("abs.f16x2 %d, %a;", &[([0xbc00_3c00, 0, 0], 0x3c00_3c00)]),
        (
            "setp.lt.f16x2 %p|%q, %a, %b; selp.u32 %x, 1, 0, %p; selp.u32 %y, 2, 0, %q; or.b32 %d, %x, %y;",
            &[([0x3c00_4000, 0x4000_3c00, 0], 2)],
        ),
        (
            "set.gt.f16x2.f16x2 %d, %a, %b;",
            &[([0x4000_0000, 0x3c00_3c00, 0], 0x3c00_0000)],
        ),
        (
            "ex2.approx.ftz.bf16x2 %d, %a;",
            &[([0x3f80_0000, 0, 0], 0x4000_3f80)],
        ),
    ]);
}

#[test]
fn comparisons() {
    run32(&[
        (
            "setp.lt.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([ONE, NAN, 0], 0), ([0, ONE, 0], 1), ([MIN, 0, 0], 0)],
        ),
        (
            "setp.ltu.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([ONE, NAN, 0], 1), ([ONE, 0, 0], 0)],
        ),
        (
            "setp.eq.ftz.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([TINY, 0, 0], 1)],
        ),
        (
            "setp.ne.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([NAN, NAN, 0], 0), ([ONE, 0, 0], 1)],
        ),
        (
            "setp.neu.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([NAN, NAN, 0], 1)],
        ),
        (
            "setp.num.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([NAN, 0, 0], 0), ([0, 0, 0], 1)],
        ),
        (
            "setp.nan.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([NAN, 0, 0], 1)],
        ),
        (
            "setp.lo.u32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([1, NEG1, 0], 1)],
        ),
        (
            "setp.hs.u32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &[([1, NEG1, 0], 0)],
        ),
        (
            "setp.lt.s32 %q, %c, 0; setp.eq.and.s32 %p|%q, %a, %b, !%q; selp.u32 %x, 1, 0, %p; selp.u32 %y, 2, 0, %q; or.b32 %d, %x, %y;",
            &[([1, 1, 5], 1), ([1, 2, 5], 2), ([1, 1, NEG1], 0)],
        ),
        (
            "setp.eq.u32 %q, %c, 1; setp.eq.xor.s32 %p, %a, %b, %q; selp.u32 %d, 1, 0, %p;",
            &[([1, 1, 1], 0), ([1, 2, 1], 1)],
        ),
        (
            "set.lt.u32.s32 %d, %a, %b;",
            &[([NEG1, 0, 0], NEG1), ([0, NEG1, 0], 0)],
        ),
        ("set.ge.f32.u32 %d, %a, %b;", &[([NEG1, 0, 0], ONE)]),
        (
            "slct.u32.s32 %d, %a, %b, %c;",
            &[([1, 2, 0], 1), ([1, 2, MIN], 2)],
        ),
        (
            "slct.f32.f32 %d, %a, %b, %c;",
            &[([1, 2, MIN], 1), ([1, 2, NAN], 2), ([1, 2, 0xbf80_0000], 2)],
        ),
        (
            "setp.eq.u32 %p, %a, 1; not.pred %q, %p; xor.pred %p, %p, %q; selp.u32 %d, 1, 0, %p;",
            &[([1, 0, 0], 1), ([2, 0, 0], 1)],
        ),
        ("mov.pred %p, 0; @!%p mov.u32 %d, 9;", &[([0, 0, 0], 9)]),
    ]);
}

#[test]
fn conversions() {
    run32(&[
        ("cvt.u8.u32 %d, %a;", &[([0x1ff, 0, 0], 0xff)]),
        ("cvt.s8.s32 %d, %a;", &[([0x80, 0, 0], 0xffff_ff80)]),
        (
            "cvt.sat.s8.s32 %d, %a;",
            &[([300, 0, 0], 127), ([MIN, 0, 0], 0xffff_ff80)],
        ),
        (
            "cvt.sat.u8.s32 %d, %a;",
            &[([NEG1, 0, 0], 0), ([300, 0, 0], 255)],
        ),
        ("cvt.s32.s16 %d, %ha;", &[([0x8000, 0, 0], 0xffff_8000)]),
        (
            "cvt.rni.s32.f32 %d, %a;",
            &[
                ([0x4020_0000, 0, 0], 2),
                ([0x4060_0000, 0, 0], 4),
                ([NAN, 0, 0], 0),
                ([INF, 0, 0], MAX),
            ],
        ),
        (
            "cvt.rzi.u32.f32 %d, %a;",
            &[
                ([0xbf80_0000, 0, 0], 0),
                ([0x4f80_0000, 0, 0], NEG1),
                ([0x3fff_ffff, 0, 0], 1),
            ],
        ),
        ("cvt.rmi.s32.f32 %d, %a;", &[([0xbf00_0000, 0, 0], NEG1)]),
        ("cvt.rpi.s32.f32 %d, %a;", &[([0x3f00_0000, 0, 0], 1)]),
        (
            "cvt.rni.f32.f32 %d, %a;",
            &[([0x4020_0000, 0, 0], 0x4000_0000)],
        ),
        (
            "cvt.sat.f32.f32 %d, %a;",
            &[
                ([0x4000_0000, 0, 0], ONE),
                ([0xbf80_0000, 0, 0], 0),
                ([NAN, 0, 0], 0),
            ],
        ),
        (
            "cvt.rn.f32.s32 %d, %a;",
            &[
                ([0x0100_0001, 0, 0], 0x4b80_0000),
                ([NEG1, 0, 0], 0xbf80_0000),
            ],
        ),
        (
            "cvt.rp.f32.s32 %d, %a;",
            &[([0x0100_0001, 0, 0], 0x4b80_0001)],
        ),
        ("cvt.rz.f32.u32 %d, %a;", &[([NEG1, 0, 0], 0x4f7f_ffff)]),
        (
            "cvt.rn.f16.f32 %hd, %a; cvt.u32.u16 %d, %hd;",
            &[([ONE, 0, 0], 0x3c00), ([0x4780_0000, 0, 0], 0x7c00)],
        ),
        (
            "cvt.f32.f16 %d, %ha;",
            &[([0x0001, 0, 0], 0x3380_0000), ([0xc000, 0, 0], 0xc000_0000)],
        ),
        (
            "cvt.rn.bf16.f32 %hd, %a; cvt.u32.u16 %d, %hd;",
            &[([0x3f80_8000, 0, 0], 0x3f80), ([0x3f81_8000, 0, 0], 0x3f82)],
        ),
        ("cvt.f32.bf16 %d, %ha;", &[([0x4000, 0, 0], 0x4000_0000)]),
        (
            "cvt.rn.bf16x2.f32 %d, %a, %b;",
            &[([ONE, 0x4000_0000, 0], 0x3f80_4000)],
        ),
        (
            "cvt.rn.relu.bf16x2.f32 %d, %a, %b;",
            &[([0xbf80_0000, 0x4000_0000, 0], 0x4000)],
        ),
        (
            "cvt.rz.f16x2.f32 %d, %a, %b;",
            &[([ONE, 0x3f80_1fff, 0], 0x3c00_3c00)],
        ),
        (
            "cvt.rna.tf32.f32 %d, %a;",
            &[([0x3f80_1000, 0, 0], 0x3f80_2000)],
        ),
        (
            "cvt.rn.satfinite.e4m3x2.f32 %hd, %a, %b; cvt.u32.u16 %d, %hd;",
            &[([ONE, 0x4480_0000, 0], 0x387e)],
        ),
        (
            "cvt.rn.f16x2.e5m2x2 %d, %ha;",
            &[([0x3c40, 0, 0], 0x3c00_4000)],
        ),
        (
            "cvt.rn.f64.s32 %wd, %a; cvt.rzi.s32.f64 %d, %wd;",
            &[([MIN, 0, 0], MIN), ([12345, 0, 0], 12345)],
        ),
        (
            "cvt.u64.u32 %wd, %a; cvt.rn.f32.u64 %d, %wd;",
            &[([NEG1, 0, 0], 0x4f80_0000)],
        ),
    ]);
}

#[test]
fn wrong_forms_are_refused() {
    for (instruction, expected) in [
        ("add.f32.foo %d, %a, %b;", "foo"),
        ("frobnicate.b32 %d, %a;", "frobnicate"),
        ("add.s32 %d, %a, %w;", "64 bits"),
        ("fma.f32 %d, %a, %b, %a;", "rounding"),
        ("shfl.bfly.b32 %d, %a, 1, 31;", ".sync"),
        ("mov.u32 %d, %nonsense;", "nonsense"),
        ("add.s32 %d, %a;", "operands"),
        ("cvt.f16.f32 %h, %a;", "not implemented"),
        ("mbarrier.init.shared.b64 [%d], 1;", "mbarrier"),
    ] {
        let text = kernel(
            ".reg .b32 %d, %a, %b;\n.reg .b16 %h;\n.reg .b64 %w;",
            instruction,
        );
        let memory = cuda_emulator::memory::DeviceMemory::new(1 << 20).unwrap();
        let message = match cuda_emulator::ptx::parse(&text) {
            Ok(module) => match cuda_emulator::engine::load(&module, &memory) {
                Ok(_) => panic!("{instruction} was accepted"),
                Err(e) => e.to_string(),
            },
            Err(e) => e.to_string(),
        };
        assert!(message.contains(expected), "{instruction}: {message}");
        assert!(message.contains("line 13"), "{instruction}: {message}");
    }
}
