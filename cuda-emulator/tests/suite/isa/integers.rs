//! Integer arithmetic, logic, shifts and bit fields.

use super::{check, check2, i, refused, w};

const MIN: u64 = 0x8000_0000;
const MAX: u64 = 0x7fff_ffff;
const ONES: u64 = 0xffff_ffff;
const MIN64: u64 = 1 << 63;

#[test]
fn addition_and_subtraction() {
    check(
        "r",
        "rr",
        "add.s32 %d, %a, %b;",
        &[([MAX, 1], MIN), ([ONES, 1], 0), ([3, 4], 7)],
    );
    check(
        "r",
        "rr",
        "add.sat.s32 %d, %a, %b;",
        &[([MAX, 1], MAX), ([MIN, ONES], MIN), ([ONES, 1], 0)],
    );
    check(
        "r",
        "rr",
        "sub.sat.s32 %d, %a, %b;",
        &[([MIN, 1], MIN), ([MAX, ONES], MAX), ([5, 7], w(-2))],
    );
    check("r", "rr", "sub.u32 %d, %a, %b;", &[([0, 1], ONES)]);
    check("h", "hh", "add.u16 %d, %a, %b;", &[([0xffff, 1], 0)]);
    check("h", "hh", "sub.s16 %d, %a, %b;", &[([0x8000, 1], 0x7fff)]);
    check(
        "l",
        "ll",
        "add.s64 %d, %a, %b;",
        &[([i64::MAX as u64, 1], MIN64)],
    );
    check("l", "ll", "sub.u64 %d, %a, %b;", &[([0, 1], u64::MAX)]);
    check(
        "r",
        "r",
        "neg.s32 %d, %a;",
        &[([1], ONES), ([MIN], MIN), ([0], 0)],
    );
    check(
        "r",
        "r",
        "abs.s32 %d, %a;",
        &[([w(-7)], 7), ([MIN], MIN), ([7], 7)],
    );
    check(
        "l",
        "l",
        "abs.s64 %d, %a;",
        &[([i(-7)], 7), ([MIN64], MIN64)],
    );
    check(
        "h",
        "h",
        "neg.s16 %d, %a;",
        &[([0x8000], 0x8000), ([1], 0xffff)],
    );
}

#[test]
fn carries() {
    check2(
        "rr",
        "rr",
        "add.cc.u32 %d, %a, %b; addc.u32 %e, 0, 0;",
        &[([ONES, 1], [0, 1]), ([1, 2], [3, 0]), ([MIN, MIN], [0, 1])],
    );
    // 64-bit addition and subtraction in halves, three links.
    check2(
        "rr",
        "rrr",
        "add.cc.u32 %d, %a, %b; addc.cc.u32 %d, %c, -1; addc.u32 %e, 10, 20;",
        &[([ONES, 1, 0], [0, 31]), ([0, 0, 0], [ONES, 30])],
    );
    check2(
        "rr",
        "rr",
        "sub.cc.u32 %d, %a, %b; subc.u32 %e, 0, 0;",
        &[([0, 1], [ONES, ONES]), ([1, 1], [0, 0]), ([5, 3], [2, 0])],
    );
    check2(
        "rr",
        "rr",
        "sub.cc.u32 %d, %a, %b; subc.cc.u32 %e, 5, 5;",
        &[([0, 1], [ONES, ONES]), ([3, 1], [2, 0])],
    );
    check2(
        "ll",
        "ll",
        "add.cc.u64 %d, %a, %b; addc.u64 %e, 0, 0;",
        &[([u64::MAX, 1], [0, 1]), ([1, 1], [2, 0])],
    );
    check2(
        "rr",
        "rr",
        "mad.lo.cc.u32 %d, %a, %b, -1; madc.hi.u32 %e, %a, %b, 0;",
        &[
            ([1, 1], [0, 1]),
            ([ONES, ONES], [0, ONES]),
            ([0, 0], [ONES, 0]),
        ],
    );
}

#[test]
fn multiplication() {
    check(
        "r",
        "rr",
        "mul.lo.s32 %d, %a, %b;",
        &[([w(-3), 5], w(-15)), ([MIN, 2], 0)],
    );
    check(
        "r",
        "rr",
        "mul.hi.s32 %d, %a, %b;",
        &[([w(-1), 5], ONES), ([MIN, MIN], 0x4000_0000), ([MAX, 2], 0)],
    );
    check(
        "r",
        "rr",
        "mul.hi.u32 %d, %a, %b;",
        &[([ONES, ONES], 0xffff_fffe), ([MIN, 2], 1)],
    );
    check(
        "l",
        "rr",
        "mul.wide.s32 %d, %a, %b;",
        &[([w(-1), 5], i(-5)), ([MIN, MIN], 1 << 62)],
    );
    check(
        "l",
        "rr",
        "mul.wide.u32 %d, %a, %b;",
        &[([ONES, ONES], 0xffff_fffe_0000_0001)],
    );
    check(
        "r",
        "hh",
        "mul.wide.s16 %d, %a, %b;",
        &[([0xffff, 5], w(-5)), ([0x8000, 0x8000], 0x4000_0000)],
    );
    check(
        "r",
        "hh",
        "mul.wide.u16 %d, %a, %b;",
        &[([0xffff, 0xffff], 0xfffe_0001)],
    );
    check(
        "h",
        "hh",
        "mul.hi.u16 %d, %a, %b;",
        &[([0xffff, 0xffff], 0xfffe)],
    );
    check(
        "l",
        "ll",
        "mul.hi.u64 %d, %a, %b;",
        &[([u64::MAX, u64::MAX], u64::MAX - 1)],
    );
    check(
        "l",
        "ll",
        "mul.hi.s64 %d, %a, %b;",
        &[([u64::MAX, 7], u64::MAX), ([MIN64, MIN64], 1 << 62)],
    );
    check(
        "r",
        "rrr",
        "mad.lo.s32 %d, %a, %b, %c;",
        &[([w(-3), 5, 20], 5)],
    );
    check(
        "r",
        "rrr",
        "mad.hi.u32 %d, %a, %b, %c;",
        &[([MIN, 4, 1], 3)],
    );
    check(
        "r",
        "rrr",
        "mad.hi.sat.s32 %d, %a, %b, %c;",
        &[([MAX, MAX, MAX], MAX), ([MIN, MAX, MIN], MIN)],
    );
    check(
        "l",
        "rrl",
        "mad.wide.s32 %d, %a, %b, %c;",
        &[([w(-2), 3, 1], i(-5))],
    );
    check(
        "l",
        "rrl",
        "mad.wide.u32 %d, %a, %b, %c;",
        &[([ONES, 2, 1], 0x1_ffff_ffff)],
    );
    check(
        "r",
        "rr",
        "mul24.lo.s32 %d, %a, %b;",
        &[([0x00ff_ffff, 3], w(-3)), ([0xff00_0002, 3], 6)],
    );
    check(
        "r",
        "rr",
        "mul24.lo.u32 %d, %a, %b;",
        &[([0xffff_ffff, 1], 0x00ff_ffff)],
    );
    check(
        "r",
        "rr",
        "mul24.hi.u32 %d, %a, %b;",
        &[([0x00ff_ffff, 0x00ff_ffff], 0xffff_fe00)],
    );
    check(
        "r",
        "rrr",
        "sad.s32 %d, %a, %b, %c;",
        &[([w(-3), 5, 1], 9), ([5, w(-3), 1], 9)],
    );
    check(
        "r",
        "rrr",
        "sad.u32 %d, %a, %b, %c;",
        &[([ONES, 1, 0], 0xffff_fffe)],
    );
}

#[test]
fn division_and_remainder() {
    check(
        "r",
        "rr",
        "div.s32 %d, %a, %b;",
        &[
            ([w(-7), 2], w(-3)),
            ([7, w(-2)], w(-3)),
            ([MIN, 2], 0xc000_0000),
        ],
    );
    check(
        "r",
        "rr",
        "div.u32 %d, %a, %b;",
        &[([ONES, 2], MAX), ([7, ONES], 0)],
    );
    check(
        "r",
        "rr",
        "rem.s32 %d, %a, %b;",
        &[([w(-7), 2], w(-1)), ([7, w(-2)], 1), ([MIN, 3], w(-2))],
    );
    check("r", "rr", "rem.u32 %d, %a, %b;", &[([ONES, 10], 5)]);
    check(
        "l",
        "ll",
        "div.s64 %d, %a, %b;",
        &[([i(-7), 2], i(-3)), ([MIN64, 2], i(i64::MIN / 2))],
    );
    check(
        "l",
        "ll",
        "div.u64 %d, %a, %b;",
        &[([u64::MAX, 16], u64::MAX >> 4)],
    );
    check("l", "ll", "rem.s64 %d, %a, %b;", &[([i(-7), 4], i(-3))]);
    check("l", "ll", "rem.u64 %d, %a, %b;", &[([u64::MAX, 10], 5)]);
    check("h", "hh", "div.s16 %d, %a, %b;", &[([0xfff9, 2], 0xfffd)]);
    // By zero: the result is machine-specific, but the launch goes on. A kernel may compute it and not use it.
    super::run("r", "rr", "div.u32 %d, %a, %b;", &[5, 0], 1);
    super::run("r", "rr", "rem.s32 %d, %a, %b;", &[5, 0], 1);
    super::run("r", "rr", "div.s32 %d, %a, %b;", &[MIN, ONES], 1);
    super::run("l", "ll", "rem.s64 %d, %a, %b;", &[MIN64, u64::MAX], 1);
}

#[test]
fn minimum_and_maximum() {
    check(
        "r",
        "rr",
        "min.s32 %d, %a, %b;",
        &[([ONES, 1], ONES), ([MIN, MAX], MIN)],
    );
    check("r", "rr", "min.u32 %d, %a, %b;", &[([ONES, 1], 1)]);
    check("r", "rr", "max.s32 %d, %a, %b;", &[([ONES, 1], 1)]);
    check(
        "l",
        "ll",
        "max.u64 %d, %a, %b;",
        &[([u64::MAX, 1], u64::MAX)],
    );
    check(
        "l",
        "ll",
        "min.s64 %d, %a, %b;",
        &[([u64::MAX, 1], u64::MAX)],
    );
    check("h", "hh", "max.s16 %d, %a, %b;", &[([0x8000, 1], 1)]);
    check(
        "r",
        "rr",
        "max.relu.s32 %d, %a, %b;",
        &[([w(-5), w(-3)], 0), ([w(-5), 3], 3)],
    );
}

#[test]
fn logic() {
    check(
        "r",
        "rr",
        "and.b32 %d, %a, %b;",
        &[([0b1100, 0b1010], 0b1000)],
    );
    check(
        "r",
        "rr",
        "or.b32 %d, %a, %b;",
        &[([0b1100, 0b1010], 0b1110)],
    );
    check(
        "l",
        "ll",
        "xor.b64 %d, %a, %b;",
        &[([u64::MAX, 1], u64::MAX - 1)],
    );
    check("h", "h", "not.b16 %d, %a;", &[([0x00ff], 0xff00)]);
    check("r", "r", "cnot.b32 %d, %a;", &[([0], 1), ([7], 0)]);
    check(
        "p",
        "pp",
        "and.pred %d, %a, %b;",
        &[([1, 1], 1), ([1, 0], 0)],
    );
    check(
        "p",
        "pp",
        "xor.pred %d, %a, %b;",
        &[([1, 1], 0), ([1, 0], 1)],
    );
    check(
        "p",
        "pp",
        "or.pred %d, %a, %b;",
        &[([0, 0], 0), ([1, 0], 1)],
    );
    check("p", "p", "not.pred %d, %a;", &[([0], 1), ([1], 0)]);
    let (a, b, c) = (0xf0f0_f0f0u64, 0xcccc_cccc, 0xaaaa_aaaa);
    // The table's byte is the function applied to 0xF0, 0xCC, 0xAA.
    for table in [0x00u64, 0x01, 0x80, 0x1a, 0x96, 0xca, 0xe8, 0xfe, 0xff] {
        let expected = table * 0x0101_0101;
        check(
            "r",
            "rrr",
            &format!("lop3.b32 %d, %a, %b, %c, {table};"),
            &[([a, b, c], expected)],
        );
    }
    check2(
        "rp",
        "rr",
        "lop3.or.b32 %d|%e, %a, %b, 0, 0xc0, 0;",
        &[([0xf0, 0x0f], [0, 0]), ([0xff, 0x0f], [0x0f, 1])],
    );
}

#[test]
fn shifts_clamp_at_the_width() {
    check(
        "r",
        "rr",
        "shl.b32 %d, %a, %b;",
        &[
            ([1, 31], MIN),
            ([1, 32], 0),
            ([ONES, 33], 0),
            ([ONES, ONES], 0),
            ([5, 0], 5),
        ],
    );
    check(
        "r",
        "rr",
        "shr.u32 %d, %a, %b;",
        &[([MIN, 31], 1), ([ONES, 32], 0), ([ONES, 256], 0)],
    );
    check(
        "r",
        "rr",
        "shr.s32 %d, %a, %b;",
        &[
            ([MIN, 31], ONES),
            ([MIN, 32], ONES),
            ([MIN, 1000], ONES),
            ([MAX, 40], 0),
        ],
    );
    check(
        "r",
        "rr",
        "shr.b32 %d, %a, %b;",
        &[([MIN, 31], 1), ([ONES, 32], 0)],
    );
    check(
        "l",
        "lr",
        "shl.b64 %d, %a, %b;",
        &[([1, 63], MIN64), ([1, 64], 0), ([1, 100], 0)],
    );
    check(
        "l",
        "lr",
        "shr.s64 %d, %a, %b;",
        &[
            ([MIN64, 63], u64::MAX),
            ([MIN64, 64], u64::MAX),
            ([MIN64, 1], 0xc000 << 48),
        ],
    );
    check(
        "l",
        "lr",
        "shr.u64 %d, %a, %b;",
        &[([MIN64, 63], 1), ([MIN64, 64], 0)],
    );
    check(
        "h",
        "hr",
        "shl.b16 %d, %a, %b;",
        &[([1, 15], 0x8000), ([1, 16], 0), ([1, 20], 0)],
    );
    check(
        "h",
        "hr",
        "shr.s16 %d, %a, %b;",
        &[([0x8000, 15], 0xffff), ([0x8000, 16], 0xffff)],
    );
    check(
        "h",
        "hr",
        "shr.u16 %d, %a, %b;",
        &[([0x8000, 15], 1), ([0x8000, 16], 0)],
    );
}

#[test]
fn funnel_shifts() {
    let (low, high) = (0x8765_4321u64, 0x1234_5678u64);
    check(
        "r",
        "rrr",
        "shf.l.clamp.b32 %d, %a, %b, %c;",
        &[
            ([low, high, 0], high),
            ([low, high, 8], 0x3456_7887),
            ([low, high, 32], low),
            ([low, high, 40], low),
        ],
    );
    check(
        "r",
        "rrr",
        "shf.l.wrap.b32 %d, %a, %b, %c;",
        &[([low, high, 32], high), ([low, high, 40], 0x3456_7887)],
    );
    check(
        "r",
        "rrr",
        "shf.r.clamp.b32 %d, %a, %b, %c;",
        &[
            ([low, high, 0], low),
            ([low, high, 8], 0x7887_6543),
            ([low, high, 32], high),
            ([low, high, 99], high),
        ],
    );
    check(
        "r",
        "rrr",
        "shf.r.wrap.b32 %d, %a, %b, %c;",
        &[([low, high, 32], low), ([low, high, 40], 0x7887_6543)],
    );
}

#[test]
fn bit_fields() {
    check(
        "r",
        "rrr",
        "bfe.u32 %d, %a, %b, %c;",
        &[
            ([0xabcd_1234, 8, 8], 0x12),
            ([0xabcd_1234, 28, 8], 0xa),
            ([0xabcd_1234, 0, 32], 0xabcd_1234),
            ([0xabcd_1234, 32, 8], 0),
            ([0xabcd_1234, 4, 0], 0),
            // Only 8 bits of position and length count.
            ([0xabcd_1234, 0x108, 0x108], 0x12),
            ([0xabcd_1234, 0, 255], 0xabcd_1234),
        ],
    );
    check(
        "r",
        "rrr",
        "bfe.s32 %d, %a, %b, %c;",
        &[
            ([0x0000_8000, 8, 8], 0xffff_ff80),
            ([0x0000_7000, 8, 8], 0x70),
            // Beyond the top bit the sign is the top bit.
            ([MIN, 28, 8], w(-8)),
            ([MIN, 40, 8], ONES),
            ([MAX, 40, 8], 0),
            ([ONES, 4, 0], 0),
        ],
    );
    check(
        "l",
        "lrr",
        "bfe.u64 %d, %a, %b, %c;",
        &[
            ([0x1234_5678_9abc_def0, 32, 16], 0x5678),
            ([u64::MAX, 63, 5], 1),
            ([u64::MAX, 64, 5], 0),
        ],
    );
    check(
        "l",
        "lrr",
        "bfe.s64 %d, %a, %b, %c;",
        &[([MIN64, 60, 10], i(-8)), ([0x80, 4, 4], i(-8))],
    );
    check(
        "r",
        "rrr",
        "bfi.b32 %d, %a, %b, %c, 8;",
        &[
            ([0xff, 0, 8], 0xff00),
            ([0, ONES, 8], 0xffff_00ff),
            ([0x1ff, 0, 28], 0xf000_0000),
            ([0xff, 0x1234, 32], 0x1234),
        ],
    );
    check(
        "r",
        "rrr",
        "bfi.b32 %d, %a, %b, 4, %c;",
        &[([0xff, 0, 0], 0), ([ONES, 0, 40], 0xffff_fff0)],
    );
    check(
        "l",
        "llr",
        "bfi.b64 %d, %a, %b, %c, 8;",
        &[([0xff, 0, 60], 0xf << 60), ([0xff, 0, 32], 0xff << 32)],
    );
    check(
        "r",
        "rr",
        "szext.clamp.s32 %d, %a, %b;",
        &[([0x80, 8], 0xffff_ff80), ([0x80, 0], 0), ([MIN, 40], MIN)],
    );
    check(
        "r",
        "rr",
        "szext.wrap.u32 %d, %a, %b;",
        &[([0x1ff, 8], 0xff), ([0x1ff, 32], 0), ([0x1ff, 33], 1)],
    );
    check(
        "r",
        "rr",
        "bmsk.clamp.b32 %d, %a, %b;",
        &[
            ([4, 8], 0xff0),
            ([4, 40], 0xffff_fff0),
            ([32, 1], 0),
            ([0, 0], 0),
            ([28, 8], 0xf000_0000),
        ],
    );
    check(
        "r",
        "rr",
        "bmsk.wrap.b32 %d, %a, %b;",
        &[([36, 33], 0x10), ([0, 32], 0)],
    );
}

#[test]
fn counting_bits() {
    check(
        "r",
        "r",
        "popc.b32 %d, %a;",
        &[([0], 0), ([ONES], 32), ([0x8001], 2)],
    );
    check(
        "r",
        "l",
        "popc.b64 %d, %a;",
        &[([u64::MAX], 64), ([1 << 40], 1)],
    );
    check(
        "r",
        "r",
        "clz.b32 %d, %a;",
        &[([0], 32), ([1], 31), ([MIN], 0)],
    );
    check("r", "l", "clz.b64 %d, %a;", &[([0], 64), ([1], 63)]);
    check(
        "r",
        "r",
        "brev.b32 %d, %a;",
        &[
            ([1], MIN),
            ([0x8000_0001], 0x8000_0001),
            ([0x0000_00ff], 0xff00_0000),
        ],
    );
    check("l", "l", "brev.b64 %d, %a;", &[([1], MIN64)]);
    check(
        "r",
        "r",
        "bfind.u32 %d, %a;",
        &[([0], ONES), ([1], 0), ([MIN], 31)],
    );
    check(
        "r",
        "r",
        "bfind.s32 %d, %a;",
        &[([ONES], ONES), ([w(-2)], 0), ([MIN], 30), ([5], 2)],
    );
    check(
        "r",
        "r",
        "bfind.shiftamt.u32 %d, %a;",
        &[([0], ONES), ([1], 31), ([MIN], 0)],
    );
    check(
        "r",
        "l",
        "bfind.u64 %d, %a;",
        &[([1 << 40], 40), ([0], ONES)],
    );
    check(
        "r",
        "l",
        "bfind.shiftamt.s64 %d, %a;",
        &[([1], 63), ([i(-1)], ONES)],
    );
    check(
        "r",
        "rrr",
        "fns.b32 %d, %a, %b, %c;",
        &[
            ([0xb0, 0, 2], 5),
            ([0xb0, 7, w(-2)], 5),
            ([0xb0, 4, 0], 4),
            ([0xb0, 3, 0], ONES),
            ([0xb0, 0, 4], ONES),
        ],
    );
}

#[test]
fn permutations() {
    let (a, b) = (0x8384_0201u64, 0x9798_1615u64);
    check(
        "r",
        "rrr",
        "prmt.b32 %d, %a, %b, %c;",
        &[
            ([a, b, 0x3210], a),
            ([a, b, 0x7654], b),
            ([a, b, 0x0123], 0x0102_8483),
            // Bit 3 of a selector copies the byte's sign.
            ([a, b, 0xba98], 0xffff_0000),
            ([a, b, 0xf_0000], 0x0101_0101),
        ],
    );
    check(
        "r",
        "rrr",
        "prmt.b32.f4e %d, %a, %b, %c;",
        &[
            ([a, b, 0], a),
            ([a, b, 1], 0x1583_8402),
            ([a, b, 3], 0x9816_1583),
            ([a, b, 7], 0x9816_1583),
        ],
    );
    check(
        "r",
        "rrr",
        "prmt.b32.b4e %d, %a, %b, %c;",
        &[([a, b, 0], 0x1698_9701), ([a, b, 3], 0x0102_8483)],
    );
    check(
        "r",
        "rrr",
        "prmt.b32.rc8 %d, %a, %b, %c;",
        &[([a, b, 2], 0x8484_8484)],
    );
    check(
        "r",
        "rrr",
        "prmt.b32.ecl %d, %a, %b, %c;",
        &[([a, b, 0], a), ([a, b, 2], 0x8384_8484)],
    );
    check(
        "r",
        "rrr",
        "prmt.b32.ecr %d, %a, %b, %c;",
        &[
            ([a, b, 0], 0x0101_0101),
            ([a, b, 2], 0x8484_0201),
            ([a, b, 3], a),
        ],
    );
    check(
        "r",
        "rrr",
        "prmt.b32.rc16 %d, %a, %b, %c;",
        &[
            ([a, b, 0], 0x0201_0201),
            ([a, b, 1], 0x8384_8384),
            ([a, b, 2], 0x0201_0201),
        ],
    );
}

#[test]
fn byte_products() {
    check(
        "r",
        "rrr",
        "dp4a.s32.s32 %d, %a, %b, %c;",
        &[([0xff02_0301, 0x0504_0302, 100], 100 - 5 + 8 + 9 + 2)],
    );
    check(
        "r",
        "rrr",
        "dp4a.u32.u32 %d, %a, %b, %c;",
        &[([0xff00_0001, 0xff00_0002, 1], 255 * 255 + 3)],
    );
    check(
        "r",
        "rrr",
        "dp4a.s32.u32 %d, %a, %b, %c;",
        &[([0xff00_0000, 0xff00_0000, 0], w(-255))],
    );
    check(
        "r",
        "rrr",
        "dp2a.lo.s32.s32 %d, %a, %b, %c;",
        &[([0xffff_0002, 0x0403_0201, 0], 0)],
    );
    check(
        "r",
        "rrr",
        "dp2a.hi.u32.u32 %d, %a, %b, %c;",
        &[([0x0001_ffff, 0x0403_0201, 5], 5 + 3 * 0xffff + 4)],
    );
}

#[test]
fn comparison_and_selection() {
    check(
        "p",
        "rr",
        "setp.lt.s32 %d, %a, %b;",
        &[([ONES, 1], 1), ([1, 1], 0)],
    );
    check(
        "p",
        "rr",
        "setp.lt.u32 %d, %a, %b;",
        &[([ONES, 1], 0), ([1, 2], 1)],
    );
    check("p", "rr", "setp.lo.u32 %d, %a, %b;", &[([1, ONES], 1)]);
    check(
        "p",
        "rr",
        "setp.hs.u32 %d, %a, %b;",
        &[([1, ONES], 0), ([ONES, ONES], 1)],
    );
    check(
        "p",
        "rr",
        "setp.ge.s32 %d, %a, %b;",
        &[([1, ONES], 1), ([MIN, MAX], 0)],
    );
    check("p", "ll", "setp.gt.s64 %d, %a, %b;", &[([1, u64::MAX], 1)]);
    check(
        "p",
        "hh",
        "setp.le.s16 %d, %a, %b;",
        &[([0x8000, 0x7fff], 1)],
    );
    check(
        "p",
        "hh",
        "setp.ne.b16 %d, %a, %b;",
        &[([1, 1], 0), ([1, 2], 1)],
    );
    check(
        "p",
        "rrp",
        "setp.eq.and.s32 %d, %a, %b, %c;",
        &[([1, 1, 1], 1), ([1, 1, 0], 0), ([1, 2, 1], 0)],
    );
    check(
        "p",
        "rrp",
        "setp.eq.xor.s32 %d, %a, %b, !%c;",
        &[([1, 1, 1], 1), ([1, 1, 0], 0)],
    );
    check2(
        "pp",
        "rr",
        "setp.eq.s32 %d|%e, %a, %b;",
        &[([1, 1], [1, 0]), ([1, 2], [0, 1])],
    );
    check2(
        "pp",
        "rrp",
        "setp.lt.or.s32 %d|%e, %a, %b, %c;",
        &[
            ([2, 1, 0], [0, 1]),
            ([2, 1, 1], [1, 1]),
            ([1, 2, 0], [1, 0]),
        ],
    );
    check(
        "r",
        "rr",
        "set.lt.u32.s32 %d, %a, %b;",
        &[([ONES, 0], ONES), ([1, 0], 0)],
    );
    check(
        "r",
        "rr",
        "set.eq.f32.u32 %d, %a, %b;",
        &[([4, 4], 0x3f80_0000), ([4, 5], 0)],
    );
    check(
        "r",
        "rrp",
        "selp.b32 %d, %a, %b, %c;",
        &[([1, 2, 1], 1), ([1, 2, 0], 2)],
    );
    check(
        "l",
        "llp",
        "selp.s64 %d, %a, %b, %c;",
        &[([1, 2, 1], 1), ([1, 2, 0], 2)],
    );
    check(
        "r",
        "rrr",
        "slct.s32.s32 %d, %a, %b, %c;",
        &[([1, 2, 0], 1), ([1, 2, ONES], 2)],
    );
    check(
        "r",
        "rrr",
        "slct.u32.f32 %d, %a, %b, %c;",
        &[
            ([1, 2, 0x8000_0000], 1),
            ([1, 2, 0xbf80_0000], 2),
            ([1, 2, 0x3f80_0000], 1),
            ([1, 2, 0x7fc0_0000], 2),
        ],
    );
}

#[test]
fn moves_pack_and_unpack() {
    check(
        "r",
        "hh",
        "mov.b32 %d, {%a, %b};",
        &[([0x1234, 0xabcd], 0xabcd_1234)],
    );
    check(
        "l",
        "rr",
        "mov.b64 %d, {%a, %b};",
        &[([0x1234_5678, 0x9abc_def0], 0x9abc_def0_1234_5678)],
    );
    check2(
        "rr",
        "l",
        "mov.b64 {%d, %e}, %a;",
        &[([0x9abc_def0_1234_5678], [0x1234_5678, 0x9abc_def0])],
    );
    check2(
        "hh",
        "r",
        "mov.b32 {%d, %e}, %a;",
        &[([0xabcd_1234], [0x1234, 0xabcd])],
    );
    check2(
        "hh",
        "r",
        "mov.b32 {_, %e}, %a;",
        &[([0xabcd_1234], [0xffff, 0xabcd])],
    );
    check(
        "l",
        "hhh",
        "mov.b64 %d, {%a, %b, %c, 0x7fff};",
        &[([1, 2, 3], 0x7fff_0003_0002_0001)],
    );
    check("r", "h", "mov.b32 %d, {0, %a};", &[([0x3f80], 0x3f80_0000)]);
    // Bytes. A conversion with a sign leaves more than eight bits set in the register's place.
    let bytes =
        ".reg .b8 %w, %x, %y, %z; cvt.s8.s32 %w, %a; cvt.s8.s32 %x, %b; cvt.s8.s32 %y, %c; mov.b32";
    check(
        "r",
        "rrr",
        &format!("{bytes} %d, {{%w, %x, %y, 0x81}};"),
        &[
            ([0xf1, 0x82, 3], 0x8103_82f1),
            ([0x12f1, 0x3401, 0xff], 0x81ff_01f1),
        ],
    );
    let pair = ".reg .b8 %w, %x; cvt.s8.s32 %w, %a; cvt.s8.s32 %x, %b;";
    check(
        "h",
        "rr",
        &format!("{pair} mov.b16 %d, {{%w, %x}};"),
        &[([0xf1, 0x82], 0x82f1), ([0xf1, 0x3402], 0x02f1)],
    );
    check2(
        "rr",
        "r",
        ".reg .b8 %w, %x; mov.b32 {_, %w, _, %x}, %a; cvt.u32.u8 %d, %w; cvt.s32.s8 %e, %x;",
        &[([0x8103_82f1], [0x82, w(-127)])],
    );
    check2(
        "rr",
        "h",
        ".reg .b8 %w, %x; mov.b16 {%w, %x}, %a; cvt.u32.u8 %d, %w; cvt.s32.s8 %e, %x;",
        &[([0x82f1], [0xf1, w(-126)])],
    );
    check2(
        "hh",
        "l",
        "mov.b64 {_, %d, %e, _}, %a;",
        &[([0x7fff_0003_0002_0001], [2, 3])],
    );
    check2(
        "ll",
        "lr",
        ".reg .b128 %q; .reg .b32 %x, %y; mov.b128 %q, {%a, %a}; mov.b128 {_, %x, %y, _}, %q; \
         mov.b128 %q, {%x, %b, 7, %y}; mov.b128 {%d, %e}, %q;",
        &[(
            [0x9abc_def0_1234_5678, 5],
            [0x5_9abc_def0, 0x1234_5678_0000_0007],
        )],
    );
    check(
        "l",
        "ll",
        ".reg .b128 %q; mov.b128 %q, {%a, %b}; mov.b128 {_, %d}, %q;",
        &[([1, 2], 2)],
    );
    // As ptxas: parts have no sign, and their sizes add up.
    refused("mov.u32 %d, {%a, %b};", "r", "hh");
    refused("mov.u64 {%d, %e}, %a;", "rr", "l");
    refused("mov.b32 %d, {%a, %a, %b, %b};", "r", "hh");
    refused("mov.b16 {%d, %e}, %a;", "hh", "h");
    refused(".reg .b8 %w, %x; mov.b8 %w, %x;", "r", "r");
    // `_` is for results, and for some of them only.
    for (body, reason) in [
        ("mov.b64 %d, {%a, _};", "cannot be a source"),
        ("mov.b64 {_, _}, %d;", "cannot discard its whole result"),
        ("mov.b64 _, %d;", "cannot discard its whole result"),
    ] {
        let error = refused(body, "l", "r");
        assert!(error.contains(reason) && error.contains("line "), "{error}");
    }
}

#[test]
fn predication() {
    check(
        "r",
        "rp",
        "@%b mov.b32 %d, %a;",
        &[([5, 1], 5), ([5, 0], ONES)],
    );
    check(
        "r",
        "rp",
        "@!%b add.s32 %d, %a, 1;",
        &[([5, 1], ONES), ([5, 0], 6)],
    );
}

#[test]
fn what_does_not_exist_is_refused() {
    refused("add.s31 %d, %a, %b;", "r", "rr");
    refused("frobnicate.b32 %d, %a;", "r", "r");
    refused("shl.s32 %d, %a, %b;", "r", "rr");
    refused("add.sat.u32 %d, %a, %b;", "r", "rr");
    refused("bfe.b32 %d, %a, %b, %c;", "r", "rrr");
    refused("mul.s32 %d, %a, %b;", "r", "rr");
    refused("min.b32 %d, %a, %b;", "r", "rr");
}

#[test]
fn pairs_of_halves() {
    check(
        "r",
        "rr",
        "add.u16x2 %d, %a, %b;",
        &[
            ([0xffff_0001, 0x0001_0002], 3),
            ([0x8000_ffff, 0x8000_0001], 0),
        ],
    );
    check(
        "r",
        "rr",
        "add.s16x2 %d, %a, %b;",
        &[([0x7fff_ffff, 0x0001_ffff], 0x8000_fffe)],
    );
    let (a, b) = (0x8000_7fff, 0x0001_8000);
    check("r", "rr", "min.u16x2 %d, %a, %b;", &[([a, b], 0x0001_7fff)]);
    check("r", "rr", "max.u16x2 %d, %a, %b;", &[([a, b], 0x8000_8000)]);
    check("r", "rr", "min.s16x2 %d, %a, %b;", &[([a, b], 0x8000_8000)]);
    check("r", "rr", "max.s16x2 %d, %a, %b;", &[([a, b], 0x0001_7fff)]);
    check("r", "rr", "min.relu.s16x2 %d, %a, %b;", &[([a, b], 0)]);
    check(
        "r",
        "rr",
        "max.relu.s16x2 %d, %a, %b;",
        &[([a, b], 0x0001_7fff), ([0xffff_ffff, 0x8000_0002], 2)],
    );
    refused("max.relu.u16x2 %d, %a, %b;", "r", "rr");
    refused("sub.s16x2 %d, %a, %b;", "r", "rr");
    refused("mov.u16x2 %d, %a;", "r", "r");
    refused("mov.f16x2 %d, %a;", "r", "r");
    refused("setp.eq.u16x2 %d, %a, %b;", "p", "rr");
}

#[test]
fn packing_conversions() {
    // b goes to the lowest bits, a above it, c above both.
    check(
        "r",
        "rr",
        "cvt.pack.sat.u16.s32 %d, %a, %b;",
        &[
            ([1, 2], 0x0001_0002),
            ([w(-1), 0x1_0000], 0x0000_ffff),
            ([0x7fff_ffff, 0x8000_0000], 0xffff_0000),
        ],
    );
    check(
        "r",
        "rr",
        "cvt.pack.sat.s16.s32 %d, %a, %b;",
        &[
            ([w(-1), 0x8000], 0xffff_7fff),
            ([w(-40000), w(-3)], 0x8000_fffd),
        ],
    );
    check(
        "r",
        "rrr",
        "cvt.pack.sat.u8.s32.b32 %d, %a, %b, %c;",
        &[
            ([300, w(-7), 0x1234_5678], 0x5678_ff00),
            ([1, 2, 0], 0x0102),
        ],
    );
    check(
        "r",
        "rrr",
        "cvt.pack.sat.s8.s32.b32 %d, %a, %b, %c;",
        &[([300, w(-300), 0x1234_5678], 0x5678_7f80)],
    );
    check(
        "r",
        "rrr",
        "cvt.pack.sat.u4.s32.b32 %d, %a, %b, %c;",
        &[([16, 3, 0x1234_5678], 0x3456_78f3)],
    );
    check(
        "r",
        "rrr",
        "cvt.pack.sat.s4.s32.b32 %d, %a, %b, %c;",
        &[([16, w(-16), 0x1234_5678], 0x3456_7878)],
    );
    check(
        "r",
        "rrr",
        "cvt.pack.sat.s2.s32.b32 %d, %a, %b, %c;",
        &[([5, w(-5), 1], 0b1_0110)],
    );
    check(
        "r",
        "rrr",
        "cvt.pack.sat.u2.s32.b32 %d, %a, %b, %c;",
        &[([5, w(-5), 1], 0b1_1100)],
    );
    refused("cvt.pack.u16.s32 %d, %a, %b;", "r", "rr");
    refused("cvt.pack.sat.u8.s32 %d, %a, %b;", "r", "rr");
    refused("cvt.pack.sat.u16.u32 %d, %a, %b;", "r", "rr");
}
