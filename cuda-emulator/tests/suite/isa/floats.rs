//! Floating-point arithmetic: IEEE results, modifiers, NaN, approximations' special values.

use super::{Gpu, check, d, f, kernel, refused, run};

const NAN: u64 = 0x7fff_ffff;
const QNAN: u64 = 0x7fc0_0000;
const INF: u64 = 0x7f80_0000;
const NINF: u64 = 0xff80_0000;
const NZERO: u64 = 0x8000_0000;
const MAX: u64 = 0x7f7f_ffff;
/// Least normal and largest subnormal numbers.
const NORMAL: u64 = 0x0080_0000;
const SUB: u64 = 0x007f_ffff;

#[test]
fn addition() {
    check(
        "r",
        "rr",
        "add.f32 %d, %a, %b;",
        &[
            ([f(0.1), f(0.2)], f(0.3)),
            ([f(1.0), 0x3380_0000], f(1.0)),
            ([f(1.0), 0x3380_0001], 0x3f80_0001),
            ([INF, NINF], NAN),
            ([QNAN, f(1.0)], NAN),
            ([f(1.0), f(-1.0)], 0),
            ([NZERO, NZERO], NZERO),
            ([MAX, MAX], INF),
            ([1, 1], 2),
        ],
    );
    // 1 + 2^-24 in each mode.
    let tiny = 0x3380_0000;
    check(
        "r",
        "rr",
        "add.rz.f32 %d, %a, %b;",
        &[
            ([f(1.0), tiny], f(1.0)),
            ([f(-1.0), tiny | NZERO], f(-1.0)),
            ([MAX, MAX], MAX),
        ],
    );
    check(
        "r",
        "rr",
        "add.rp.f32 %d, %a, %b;",
        &[
            ([f(1.0), tiny], 0x3f80_0001),
            ([f(-1.0), tiny | NZERO], f(-1.0)),
            ([MAX, MAX], INF),
        ],
    );
    check(
        "r",
        "rr",
        "add.rm.f32 %d, %a, %b;",
        &[
            ([f(1.0), tiny], f(1.0)),
            ([f(-1.0), tiny | NZERO], 0xbf80_0001),
            ([f(1.0), f(-1.0)], NZERO),
            ([MAX, MAX], MAX),
        ],
    );
    check(
        "r",
        "rr",
        "add.ftz.f32 %d, %a, %b;",
        &[
            ([1, 1], 0),
            ([SUB, 0x8000_0001], 0),
            ([NORMAL, 0x8080_0000], 0),
            ([SUB, f(1.0)], f(1.0)),
            ([0x0080_0001, 0x8080_0000], 0),
        ],
    );
    check(
        "r",
        "rr",
        "add.sat.f32 %d, %a, %b;",
        &[
            ([f(0.75), f(0.75)], f(1.0)),
            ([f(-1.0), f(0.5)], 0),
            ([QNAN, 0], 0),
            ([INF, 0], f(1.0)),
        ],
    );
    check(
        "r",
        "rr",
        "sub.f32 %d, %a, %b;",
        &[
            ([f(1.0), f(1.0)], 0),
            ([INF, INF], NAN),
            ([NZERO, 0], NZERO),
        ],
    );
    check(
        "l",
        "ll",
        "add.f64 %d, %a, %b;",
        &[([d(0.1), d(0.2)], d(0.1 + 0.2))],
    );
    check(
        "l",
        "ll",
        "add.rp.f64 %d, %a, %b;",
        &[([d(1.0), 0x3ca0 << 48], d(1.0) + 1)],
    );
    check(
        "l",
        "ll",
        "sub.rm.f64 %d, %a, %b;",
        &[([d(1.0), d(1.0)], 1 << 63)],
    );
}

#[test]
fn multiplication() {
    check(
        "r",
        "rr",
        "mul.f32 %d, %a, %b;",
        &[
            ([f(3.0), f(7.0)], f(21.0)),
            ([0, INF], NAN),
            ([f(-1.0), 0], NZERO),
            ([NORMAL, f(0.5)], 0x0040_0000),
            ([MAX, f(2.0)], INF),
            ([1, f(0.5)], 0),
            ([3, f(0.5)], 2),
        ],
    );
    check(
        "r",
        "rr",
        "mul.rp.f32 %d, %a, %b;",
        &[
            ([1, f(0.5)], 1),
            ([0x8000_0001, f(0.5)], NZERO),
            ([f(1.0) + 1, f(1.0) + 1], 0x3f80_0003),
        ],
    );
    check(
        "r",
        "rr",
        "mul.rm.f32 %d, %a, %b;",
        &[
            ([1, f(0.5)], 0),
            ([0x8000_0001, f(0.5)], 0x8000_0001),
            ([MAX, f(2.0)], MAX),
        ],
    );
    check(
        "r",
        "rr",
        "mul.rz.f32 %d, %a, %b;",
        &[
            ([MAX, f(-2.0)], 0xff7f_ffff),
            ([f(1.0) + 1, f(1.0) + 1], 0x3f80_0002),
        ],
    );
    check(
        "r",
        "rr",
        "mul.ftz.f32 %d, %a, %b;",
        &[([NORMAL, f(0.5)], 0), ([SUB | NZERO, f(4.0)], NZERO)],
    );
    check(
        "r",
        "rr",
        "mul.sat.f32 %d, %a, %b;",
        &[([f(3.0), f(3.0)], f(1.0)), ([f(-3.0), f(3.0)], 0)],
    );
    check(
        "l",
        "ll",
        "mul.f64 %d, %a, %b;",
        &[([d(1e308), d(10.0)], d(f64::INFINITY))],
    );
}

#[test]
fn fused_multiply_add() {
    let (x, y) = (f(1.0) + 1, f(1.0) - 1);
    // (1 + 2^-23)·(1 - 2^-24) - 1 = 2^-24 - 2^-47, exact in f32.
    let exact = f((2f64.powi(-24) - 2f64.powi(-47)) as f32);
    check(
        "r",
        "rrr",
        "fma.rn.f32 %d, %a, %b, %c;",
        &[
            ([x, y, f(-1.0)], exact),
            ([INF, 0, f(1.0)], NAN),
            ([f(2.0), f(3.0), f(-6.0)], 0),
        ],
    );
    check(
        "r",
        "rrr",
        "fma.rm.f32 %d, %a, %b, %c;",
        &[
            ([f(2.0), f(3.0), f(-6.0)], NZERO),
            ([f(1.0), f(1.0), 0x3300_0000], f(1.0)),
            ([f(-1.0), f(1.0), 0xb300_0000], 0xbf80_0001),
        ],
    );
    check(
        "r",
        "rrr",
        "fma.rp.f32 %d, %a, %b, %c;",
        &[([f(1.0), f(1.0), 0x3300_0000], 0x3f80_0001)],
    );
    check(
        "r",
        "rrr",
        "fma.rz.f32 %d, %a, %b, %c;",
        &[
            ([f(1.0), f(1.0), 0xb300_0000], 0x3f7f_ffff),
            ([f(-1.0), f(1.0), 0x3300_0000], 0xbf7f_ffff),
        ],
    );
    check(
        "r",
        "rrr",
        "fma.rn.ftz.f32 %d, %a, %b, %c;",
        &[
            ([SUB, f(2.0), f(1.0)], f(1.0)),
            ([NORMAL, f(0.5), 0], 0),
            ([f(1.0), f(1.0), SUB], f(1.0)),
        ],
    );
    check(
        "r",
        "rrr",
        "fma.rn.sat.f32 %d, %a, %b, %c;",
        &[([f(2.0), f(2.0), f(2.0)], f(1.0)), ([QNAN, 0, 0], 0)],
    );
    check(
        "r",
        "rrr",
        "mad.rn.f32 %d, %a, %b, %c;",
        &[([x, y, f(-1.0)], exact)],
    );
    check(
        "l",
        "lll",
        "fma.rn.f64 %d, %a, %b, %c;",
        &[(
            [d(1.0) + 1, d(1.0) - 1, d(-1.0)],
            d(2f64.powi(-53) - 2f64.powi(-105)),
        )],
    );
    check(
        "l",
        "lll",
        "fma.rz.f64 %d, %a, %b, %c;",
        &[([d(1.0), d(1.0), d(-1e-30)], d(1.0) - 1)],
    );
}

#[test]
fn division_and_roots() {
    check(
        "r",
        "rr",
        "div.rn.f32 %d, %a, %b;",
        &[
            ([f(1.0), f(3.0)], 0x3eaa_aaab),
            ([f(1.0), 0], INF),
            ([f(-1.0), 0], NINF),
            ([0, 0], NAN),
            ([INF, INF], NAN),
            ([1, f(2.0)], 0),
            ([3, f(2.0)], 2),
        ],
    );
    check(
        "r",
        "rr",
        "div.rz.f32 %d, %a, %b;",
        &[
            ([f(1.0), f(3.0)], 0x3eaa_aaaa),
            ([f(2.0), f(3.0)], 0x3f2a_aaaa),
        ],
    );
    check(
        "r",
        "rr",
        "div.rm.f32 %d, %a, %b;",
        &[([f(-1.0), f(3.0)], 0xbeaa_aaab)],
    );
    check(
        "r",
        "rr",
        "div.rp.f32 %d, %a, %b;",
        &[
            ([f(1.0), f(3.0)], 0x3eaa_aaab),
            ([f(-1.0), f(3.0)], 0xbeaa_aaaa),
        ],
    );
    check(
        "r",
        "rr",
        "div.full.f32 %d, %a, %b;",
        &[
            ([f(6.0), f(2.0)], f(3.0)),
            ([f(1.0), 0], INF),
            ([0, 0], NAN),
        ],
    );
    check(
        "r",
        "rr",
        "div.approx.f32 %d, %a, %b;",
        &[
            ([f(6.0), f(2.0)], f(3.0)),
            ([f(1.0), f(1.2e38)], 0),
            ([INF, f(1.2e38)], NAN),
        ],
    );
    check(
        "r",
        "r",
        "rcp.rn.f32 %d, %a;",
        &[
            ([f(3.0)], 0x3eaa_aaab),
            ([0], INF),
            ([NZERO], NINF),
            ([NINF], NZERO),
            ([f(1e-39)], f(1.0 / 1e-39)),
        ],
    );
    check(
        "r",
        "r",
        "rcp.rn.ftz.f32 %d, %a;",
        &[([SUB], INF), ([0x8000_0001], NINF), ([0x7f00_0000], 0)],
    );
    check("r", "r", "rcp.rp.f32 %d, %a;", &[([f(3.0)], 0x3eaa_aaab)]);
    check("r", "r", "rcp.rz.f32 %d, %a;", &[([f(3.0)], 0x3eaa_aaaa)]);
    check(
        "r",
        "r",
        "sqrt.rn.f32 %d, %a;",
        &[
            ([f(2.0)], 0x3fb5_04f3),
            ([f(-1.0)], NAN),
            ([NZERO], NZERO),
            ([INF], INF),
            ([1], 0x1a35_04f3),
        ],
    );
    check(
        "r",
        "r",
        "sqrt.rz.f32 %d, %a;",
        &[([f(3.0)], 0x3fdd_b3d7), ([f(4.0)], f(2.0))],
    );
    check("r", "r", "sqrt.rp.f32 %d, %a;", &[([f(2.0)], 0x3fb5_04f4)]);
    check(
        "r",
        "r",
        "sqrt.rn.ftz.f32 %d, %a;",
        &[([SUB], 0), ([0x8000_0001], NZERO)],
    );
    check(
        "l",
        "l",
        "sqrt.rn.f64 %d, %a;",
        &[([d(2.0)], d(std::f64::consts::SQRT_2))],
    );
    check(
        "l",
        "ll",
        "div.rn.f64 %d, %a, %b;",
        &[([d(1.0), d(3.0)], d(1.0 / 3.0))],
    );
    check(
        "l",
        "ll",
        "div.rp.f64 %d, %a, %b;",
        &[([d(1.0), d(3.0)], d(1.0 / 3.0) + 1)],
    );
    check("l", "l", "rcp.rn.f64 %d, %a;", &[([d(3.0)], d(1.0 / 3.0))]);
    check(
        "l",
        "l",
        "rcp.approx.ftz.f64 %d, %a;",
        &[([d(4.0)], d(0.25)), ([0], d(f64::INFINITY))],
    );
    check("l", "l", "rsqrt.approx.f64 %d, %a;", &[([d(4.0)], d(0.5))]);
}

#[test]
fn minimum_and_maximum() {
    check(
        "r",
        "rr",
        "min.f32 %d, %a, %b;",
        &[
            ([f(1.0), f(2.0)], f(1.0)),
            ([QNAN, f(2.0)], f(2.0)),
            ([f(2.0), QNAN], f(2.0)),
            ([QNAN, QNAN], NAN),
            ([0, NZERO], NZERO),
            ([NZERO, 0], NZERO),
            ([1, 0], 0),
        ],
    );
    check(
        "r",
        "rr",
        "max.f32 %d, %a, %b;",
        &[
            ([NINF, f(2.0)], f(2.0)),
            ([QNAN, NINF], NINF),
            ([0, NZERO], 0),
            ([NZERO, 0], 0),
            ([1, 0], 1),
        ],
    );
    check(
        "r",
        "rr",
        "min.NaN.f32 %d, %a, %b;",
        &[([QNAN, f(2.0)], NAN), ([f(1.0), f(2.0)], f(1.0))],
    );
    check(
        "r",
        "rr",
        "max.ftz.f32 %d, %a, %b;",
        &[([1, 0], 0), ([0x8000_0001, f(-1.0)], NZERO)],
    );
    check(
        "r",
        "rr",
        "max.xorsign.abs.f32 %d, %a, %b;",
        &[([f(-3.0), f(2.0)], f(-3.0)), ([f(-3.0), f(-5.0)], f(5.0))],
    );
    check(
        "r",
        "rr",
        "min.NaN.xorsign.abs.f32 %d, %a, %b;",
        &[([f(-3.0), f(2.0)], f(-2.0))],
    );
    check(
        "l",
        "ll",
        "min.f64 %d, %a, %b;",
        &[
            ([d(f64::NAN), d(2.0)], d(2.0)),
            ([d(0.0), d(-0.0)], d(-0.0)),
        ],
    );
    check(
        "l",
        "ll",
        "max.f64 %d, %a, %b;",
        &[([d(1.0), d(2.0)], d(2.0)), ([d(-0.0), d(0.0)], d(0.0))],
    );
}

#[test]
fn signs() {
    check(
        "r",
        "r",
        "neg.f32 %d, %a;",
        &[([f(1.0)], f(-1.0)), ([0], NZERO), ([INF], NINF)],
    );
    check("r", "r", "neg.ftz.f32 %d, %a;", &[([SUB], NZERO)]);
    check(
        "r",
        "r",
        "abs.f32 %d, %a;",
        &[([f(-1.0)], f(1.0)), ([NZERO], 0)],
    );
    check("r", "r", "abs.ftz.f32 %d, %a;", &[([0x8000_0001], 0)]);
    check("l", "l", "neg.f64 %d, %a;", &[([d(1.0)], d(-1.0))]);
    check("l", "l", "abs.f64 %d, %a;", &[([d(-1.0)], d(1.0))]);
    check(
        "r",
        "rr",
        "copysign.f32 %d, %a, %b;",
        &[([f(-2.0), f(3.0)], f(-3.0)), ([0, f(-3.0)], f(3.0))],
    );
    check(
        "l",
        "ll",
        "copysign.f64 %d, %a, %b;",
        &[([d(-2.0), d(3.0)], d(-3.0))],
    );
}

#[test]
fn comparison_with_nan() {
    // Ordered comparisons are false with NaN, unordered ones true.
    for (name, less, equal, greater) in [
        ("eq", 0, 1, 0),
        ("ne", 1, 0, 1),
        ("lt", 1, 0, 0),
        ("le", 1, 1, 0),
        ("gt", 0, 0, 1),
        ("ge", 0, 1, 1),
    ] {
        for (suffix, nan) in [("", 0), ("u", 1)] {
            let cases = [
                ([f(1.0), f(2.0)], less),
                ([f(2.0), f(2.0)], equal),
                ([f(3.0), f(2.0)], greater),
                ([0, NZERO], equal),
                ([QNAN, f(1.0)], nan),
                ([f(1.0), QNAN], nan),
                ([QNAN, QNAN], nan),
            ];
            check(
                "p",
                "rr",
                &format!("setp.{name}{suffix}.f32 %d, %a, %b;"),
                &cases,
            );
        }
    }
    check(
        "p",
        "rr",
        "setp.num.f32 %d, %a, %b;",
        &[([f(1.0), f(2.0)], 1), ([QNAN, f(1.0)], 0)],
    );
    check(
        "p",
        "rr",
        "setp.nan.f32 %d, %a, %b;",
        &[([f(1.0), f(2.0)], 0), ([f(1.0), QNAN], 1)],
    );
    check("p", "rr", "setp.eq.ftz.f32 %d, %a, %b;", &[([SUB, 0], 1)]);
    check("p", "rr", "setp.eq.f32 %d, %a, %b;", &[([SUB, 0], 0)]);
    check(
        "p",
        "ll",
        "setp.ltu.f64 %d, %a, %b;",
        &[([d(f64::NAN), d(1.0)], 1), ([d(2.0), d(1.0)], 0)],
    );
    check(
        "r",
        "rr",
        "set.gt.f32.f32 %d, %a, %b;",
        &[([f(2.0), f(1.0)], f(1.0)), ([QNAN, f(1.0)], 0)],
    );
    for (name, cases) in [
        ("finite", [1u64, 0, 0, 1, 1]),
        ("infinite", [0, 1, 0, 0, 0]),
        ("number", [1, 1, 0, 1, 1]),
        ("notanumber", [0, 0, 1, 0, 0]),
        ("normal", [1, 0, 0, 0, 0]),
        ("subnormal", [0, 0, 0, 1, 0]),
    ] {
        let inputs = [f(1.0), NINF, QNAN, SUB, 0];
        // Whether zero is normal or subnormal the ISA does not say; it is finite and a number.
        let known = if name.ends_with("normal") { 4 } else { 5 };
        let cases: Vec<_> = inputs
            .iter()
            .zip(cases)
            .take(known)
            .map(|(&x, y)| ([x], y))
            .collect();
        check("p", "r", &format!("testp.{name}.f32 %d, %a;"), &cases);
    }
}

#[test]
fn special_values_of_approximations() {
    check(
        "r",
        "r",
        "ex2.approx.f32 %d, %a;",
        &[
            ([NINF], 0),
            ([INF], INF),
            ([0], f(1.0)),
            ([NZERO], f(1.0)),
            ([f(3.0)], f(8.0)),
            ([f(-140.0)], 0x200),
            ([QNAN], NAN),
        ],
    );
    check(
        "r",
        "r",
        "ex2.approx.ftz.f32 %d, %a;",
        &[([f(-140.0)], 0), ([SUB], f(1.0)), ([f(-126.0)], NORMAL)],
    );
    check(
        "r",
        "r",
        "lg2.approx.f32 %d, %a;",
        &[
            ([0], NINF),
            ([NZERO], NINF),
            ([f(8.0)], f(3.0)),
            ([f(-1.0)], NAN),
            ([INF], INF),
            ([1], f(-149.0)),
        ],
    );
    check(
        "r",
        "r",
        "lg2.approx.ftz.f32 %d, %a;",
        &[([SUB], NINF), ([0x8000_0001], NINF)],
    );
    check(
        "r",
        "r",
        "rcp.approx.f32 %d, %a;",
        &[([f(4.0)], f(0.25)), ([0], INF), ([NZERO], NINF), ([INF], 0)],
    );
    check("r", "r", "rcp.approx.ftz.f32 %d, %a;", &[([SUB], INF)]);
    check(
        "r",
        "r",
        "rsqrt.approx.f32 %d, %a;",
        &[
            ([f(4.0)], f(0.5)),
            ([0], INF),
            ([NZERO], NINF),
            ([INF], 0),
            ([f(-4.0)], NAN),
        ],
    );
    check(
        "r",
        "r",
        "rsqrt.approx.ftz.f32 %d, %a;",
        &[([SUB], INF), ([0x8000_0001], NINF)],
    );
    check(
        "r",
        "r",
        "sqrt.approx.f32 %d, %a;",
        &[([f(4.0)], f(2.0)), ([NZERO], NZERO), ([f(-4.0)], NAN)],
    );
    check(
        "r",
        "r",
        "sin.approx.f32 %d, %a;",
        &[([0], 0), ([NZERO], NZERO), ([INF], NAN)],
    );
    check(
        "r",
        "r",
        "cos.approx.f32 %d, %a;",
        &[([0], f(1.0)), ([NINF], NAN)],
    );
    check(
        "r",
        "r",
        "tanh.approx.f32 %d, %a;",
        &[
            ([INF], f(1.0)),
            ([NINF], f(-1.0)),
            ([NZERO], NZERO),
            ([QNAN], NAN),
        ],
    );
}

#[test]
fn approximations_are_close() {
    let points: Vec<u64> = (0..32).map(|i| f(0.37 * i as f32 + 0.011)).collect();
    for (name, exact, bound) in [
        ("ex2", f64::exp2 as fn(f64) -> f64, 2f64.powi(-22)),
        ("lg2", f64::log2, 2f64.powi(-22)),
        ("rcp", |x| 1.0 / x, 2f64.powi(-23)),
        ("rsqrt", |x| 1.0 / x.sqrt(), 2f64.powi(-22)),
        ("sqrt", f64::sqrt, 2f64.powi(-23)),
        ("tanh", f64::tanh, 2f64.powi(-11)),
    ] {
        let results = run("r", "r", &format!("{name}.approx.f32 %d, %a;"), &points, 32);
        for (&x, y) in points.iter().zip(results) {
            let (x, y) = (
                f64::from(f32::from_bits(x as u32)),
                f64::from(f32::from_bits(y as u32)),
            );
            let allowed = bound * exact(x).abs().max(if name == "lg2" { 1.0 } else { 0.0 });
            assert!((y - exact(x)).abs() <= allowed, "{name}({x}) = {y}");
        }
    }
    for (name, exact) in [("sin", f64::sin as fn(f64) -> f64), ("cos", f64::cos)] {
        let points: Vec<u64> = (0..32).map(|i| f(-6.2 + 0.4 * i as f32)).collect();
        let results = run("r", "r", &format!("{name}.approx.f32 %d, %a;"), &points, 32);
        for (&x, y) in points.iter().zip(results) {
            let (x, y) = (
                f64::from(f32::from_bits(x as u32)),
                f64::from(f32::from_bits(y as u32)),
            );
            assert!(
                (y - exact(x)).abs() <= (-20.5f64).exp2(),
                "{name}({x}) = {y}"
            );
        }
    }
}

#[test]
fn half_precision() {
    const ONE: u64 = 0x3c00;
    check(
        "h",
        "hh",
        "add.f16 %d, %a, %b;",
        &[
            ([ONE, ONE], 0x4000),
            ([0x7bff, 0x7bff], 0x7c00),
            ([0x7c00, 0xfc00], 0x7fff),
            ([1, 1], 2),
            ([ONE, 0x1000], ONE),
            ([ONE, 0x1001], 0x3c01),
        ],
    );
    check(
        "h",
        "hh",
        "add.ftz.f16 %d, %a, %b;",
        &[([1, 1], 0), ([0x8001, 0x8000], 0x8000)],
    );
    check(
        "h",
        "hh",
        "add.sat.f16 %d, %a, %b;",
        &[([ONE, ONE], ONE), ([0xbc00, 0], 0), ([0x7e00, 0], 0)],
    );
    check(
        "h",
        "hh",
        "sub.f16 %d, %a, %b;",
        &[([ONE, ONE], 0), ([0x4000, ONE], ONE)],
    );
    check(
        "h",
        "hh",
        "mul.f16 %d, %a, %b;",
        &[
            ([0x4200, 0x4200], 0x4880),
            ([1, 0x3800], 0),
            ([3, 0x3800], 2),
        ],
    );
    // (1 + 2^-10)² = 1 + 2^-9 + 2^-20: rounds down alone; with 2^-11 - 2^-20·… in the sum the single rounding shows.
    check(
        "h",
        "hhh",
        "fma.rn.f16 %d, %a, %b, %c;",
        &[
            ([0x3c01, 0x3c01, 0], 0x3c02),
            ([0x3c01, 0x3c01, 0x1000], 0x3c03),
            ([0x3c00, 0x3c00, 0x1000], 0x3c00),
        ],
    );
    check(
        "h",
        "hhh",
        "fma.rn.relu.f16 %d, %a, %b, %c;",
        &[
            ([0xbc00, ONE, 0], 0),
            ([ONE, ONE, ONE], 0x4000),
            ([0x7e00, ONE, ONE], 0x7fff),
        ],
    );
    check(
        "h",
        "hhh",
        "fma.rn.sat.f16 %d, %a, %b, %c;",
        &[([ONE, ONE, ONE], ONE)],
    );
    check(
        "r",
        "rr",
        "add.f16x2 %d, %a, %b;",
        &[([0x3c00_4000, 0x3c00_3c00], 0x4000_4200)],
    );
    check(
        "r",
        "rrr",
        "fma.rn.f16x2 %d, %a, %b, %c;",
        &[([0x3c00_4000, 0x4000_4000, 0x3c00_0000], 0x4200_4400)],
    );
    check("h", "h", "neg.f16 %d, %a;", &[([ONE], 0xbc00)]);
    check("h", "h", "abs.f16 %d, %a;", &[([0xbc00], ONE)]);
    check(
        "r",
        "r",
        "neg.f16x2 %d, %a;",
        &[([0x3c00_bc00], 0xbc00_3c00)],
    );
    check(
        "h",
        "hh",
        "min.f16 %d, %a, %b;",
        &[
            ([ONE, 0x7e00], ONE),
            ([0, 0x8000], 0x8000),
            ([0x7e00, 0x7e00], 0x7fff),
        ],
    );
    check(
        "h",
        "hh",
        "max.NaN.f16 %d, %a, %b;",
        &[([ONE, 0x7e00], 0x7fff), ([ONE, 0x4000], 0x4000)],
    );
    check(
        "r",
        "rr",
        "max.f16x2 %d, %a, %b;",
        &[([0x3c00_4000, 0x4000_3c00], 0x4000_4000)],
    );
    check(
        "p",
        "hh",
        "setp.lt.f16 %d, %a, %b;",
        &[([ONE, 0x4000], 1), ([0x7e00, ONE], 0)],
    );
    check("p", "hh", "setp.ltu.f16 %d, %a, %b;", &[([0x7e00, ONE], 1)]);
    super::check2(
        "pp",
        "rr",
        "setp.eq.f16x2 %d|%e, %a, %b;",
        &[
            ([0x3c00_4000, 0x3c00_3c00], [0, 1]),
            ([0x3c00_4000, 0x0000_4000], [1, 0]),
        ],
    );
    check(
        "h",
        "h",
        "ex2.approx.f16 %d, %a;",
        &[([ONE], 0x4000), ([0xfc00], 0), ([0x7e00], 0x7fff)],
    );
    check(
        "h",
        "h",
        "tanh.approx.f16 %d, %a;",
        &[([0x7c00], ONE), ([0x8000], 0x8000)],
    );
}

#[test]
fn bfloat16() {
    const ONE: u64 = 0x3f80;
    check(
        "h",
        "hhh",
        "fma.rn.bf16 %d, %a, %b, %c;",
        &[
            ([0x3f81, 0x3f81, 0], 0x3f82),
            ([ONE, ONE, 0x3b80], ONE),
            ([ONE, ONE, 0x3b81], 0x3f81),
            ([0x7f7f, 0x4000, 0], 0x7f80),
            ([0x7f80, 0, 0], 0x7fff),
        ],
    );
    check(
        "h",
        "hhh",
        "fma.rn.relu.bf16 %d, %a, %b, %c;",
        &[([0xbf80, ONE, 0], 0), ([ONE, ONE, ONE], 0x4000)],
    );
    check(
        "r",
        "rrr",
        "fma.rn.bf16x2 %d, %a, %b, %c;",
        &[([0x3f80_4000, 0x4000_4000, 0x3f80_0000], 0x4040_4080)],
    );
    check(
        "h",
        "hh",
        "add.rn.bf16 %d, %a, %b;",
        &[([ONE, ONE], 0x4000), ([1, 1], 2)],
    );
    check(
        "h",
        "hh",
        "sub.rn.bf16 %d, %a, %b;",
        &[([ONE, 0x4000], 0xbf80)],
    );
    check(
        "h",
        "hh",
        "mul.rn.bf16 %d, %a, %b;",
        &[([0x4000, 0x4040], 0x40c0), ([0x0080, 0x3f00], 0x0040)],
    );
    check(
        "r",
        "rr",
        "mul.rn.bf16x2 %d, %a, %b;",
        &[([0x4000_4000, 0x3f80_4040], 0x4000_40c0)],
    );
    check(
        "h",
        "hh",
        "min.bf16 %d, %a, %b;",
        &[([ONE, 0x7fc0], ONE), ([0, 0x8000], 0x8000)],
    );
    check(
        "h",
        "hh",
        "max.NaN.bf16 %d, %a, %b;",
        &[([ONE, 0x7fc0], 0x7fff)],
    );
    check(
        "r",
        "rr",
        "min.bf16x2 %d, %a, %b;",
        &[([0x3f80_4000, 0x4000_3f80], 0x3f80_3f80)],
    );
    check("h", "h", "neg.bf16 %d, %a;", &[([ONE], 0xbf80)]);
    check("h", "h", "abs.bf16 %d, %a;", &[([0xbf80], ONE)]);
    check(
        "p",
        "hh",
        "setp.gt.bf16 %d, %a, %b;",
        &[([0x4000, ONE], 1), ([0x7fc0, ONE], 0)],
    );
    check(
        "h",
        "h",
        "ex2.approx.ftz.bf16 %d, %a;",
        &[([ONE], 0x4000), ([0xff80], 0), ([0x0001], ONE)],
    );
    check("h", "h", "tanh.approx.bf16 %d, %a;", &[([0x7f80], ONE)]);
}

#[test]
fn the_least_and_the_greatest_of_three() {
    let nan = f(f32::NAN);
    let canonical = 0x7fff_ffff;
    check(
        "r",
        "rrr",
        "min.f32 %d, %a, %b, %c;",
        &[
            ([f(3.0), f(-2.0), f(7.0)], f(-2.0)),
            ([f(3.0), f(5.0), f(-7.0)], f(-7.0)),
            ([nan, f(5.0), nan], f(5.0)),
            ([nan, nan, nan], canonical),
            ([f(0.0), f(1.0), f(-0.0)], f(-0.0)),
        ],
    );
    check(
        "r",
        "rrr",
        "max.f32 %d, %a, %b, %c;",
        &[
            ([f(-3.0), f(-2.0), f(-7.0)], f(-2.0)),
            ([f(1.0), nan, f(9.0)], f(9.0)),
        ],
    );
    check(
        "r",
        "rr",
        "max.f32 %d, %a, 0f40A00000, %b;",
        &[([f(1.0), f(2.0)], f(5.0))],
    );
    check(
        "r",
        "rrr",
        "min.NaN.f32 %d, %a, %b, %c;",
        &[
            ([f(1.0), nan, f(9.0)], canonical),
            ([f(1.0), f(0.5), nan], canonical),
        ],
    );
    check(
        "r",
        "rrr",
        "min.abs.f32 %d, %a, %b, %c;",
        &[
            ([f(-3.0), f(2.0), f(-7.0)], f(2.0)),
            ([f(-3.0), f(-4.0), nan], f(3.0)),
        ],
    );
    check(
        "r",
        "rrr",
        "max.ftz.abs.f32 %d, %a, %b, %c;",
        &[([f(-3.0), f(2.0), f(-7.0)], f(7.0)), ([1, 2, 3], 0)],
    );
    for wrong in [
        "min.xorsign.abs.f32 %d, %a, %b, %c;",
        "min.s32 %d, %a, %b, %c;",
        "max.f16x2 %d, %a, %b, %c;",
        "max.s16x2 %d, %a, %b, %c;",
    ] {
        refused(wrong, "r", "rrr");
    }
    let old = kernel("r", "rrr", "min.f32 %d, %a, %b, %c;").replace("sm_100", "sm_90");
    let message = Gpu::try_new(&old).err().unwrap();
    assert!(message.contains("sm_100"), "{message}");
}
