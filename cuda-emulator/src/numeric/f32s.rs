//! Scalar f32 arithmetic with PTX's rounding modes and rules for NaN.
//!
//! Round to nearest is the host's. The directed modes go through f64: the exact result is rounded to odd there (53 bits keep
//! every bit that matters for 24), then once to f32. The host's rounding mode is never changed.

use super::Rounding;

/// The NaN that every f32 operation returns.
pub(crate) const NAN: u32 = 0x7fff_ffff;

/// Replaces any NaN by the canonical one.
#[inline(always)]
pub(crate) fn canon(x: f32) -> f32 {
    // On bits: which NaN an operation returns is open in Rust, so a selection by `is_nan` may be optimised away.
    let bits = x.to_bits();
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    f32::from_bits(if nan { NAN } else { bits })
}

/// `.ftz`: a subnormal becomes zero of the same sign.
#[inline(always)]
pub(crate) fn ftz(x: f32) -> f32 {
    let bits = x.to_bits();
    let flush = bits & 0x7f80_0000 == 0;
    f32::from_bits(if flush { bits & 0x8000_0000 } else { bits })
}

/// `.sat`: clamps to [0, 1]; NaN becomes +0.
#[inline(always)]
pub(crate) fn sat(x: f32) -> f32 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// Moves `s` (nearest to the exact value s + err) to the odd neighbour of the exact value, if it is not exact.
#[inline(always)]
pub(super) fn to_odd(s: f64, err: f64) -> f64 {
    let bits = s.to_bits();
    let outward = (err > 0.0) == (s > 0.0);
    let odd = if outward {
        bits | 1
    } else {
        bits.wrapping_sub(1) | 1
    };
    // NaN compares false with everything, so an infinite or undefined `s` (whose `err` is NaN) stays.
    let inexact = err != 0.0 && s.abs() <= f64::MAX;
    f64::from_bits(if inexact { odd } else { bits })
}

/// a + b in f64, rounded to odd.
#[inline(always)]
pub(super) fn sum_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let v = s - a;
    let err = (a - (s - v)) + (b - v);
    to_odd(s, err)
}

/// One rounding from f64 to f32; exact for values rounded to odd in f64.
#[inline(always)]
pub(crate) fn narrow(x: f64, rounding: Rounding) -> f32 {
    let near = x as f32;
    let wide = f64::from(near);
    let bits = near.to_bits();
    let toward_zero = bits.wrapping_sub(1);
    let outward = bits.wrapping_add(1);
    let adjusted = match rounding {
        Rounding::Near => bits,
        Rounding::Zero if wide.abs() > x.abs() => toward_zero,
        Rounding::Down if wide > x && near > 0.0 => toward_zero,
        Rounding::Down if wide > x => outward,
        Rounding::Up if wide < x && near < 0.0 => toward_zero,
        Rounding::Up if wide < x => outward,
        _ => bits,
    };
    canon(f32::from_bits(adjusted))
}

/// The sign of an exact zero sum: `Down` gives -0 unless both terms are +0.
#[inline(always)]
fn zero_sum(s: f64, a: f64, b: f64, rounding: Rounding) -> f64 {
    let negative = a.is_sign_negative() || b.is_sign_negative();
    if rounding == Rounding::Down && s == 0.0 && negative {
        -0.0
    } else {
        s
    }
}

#[inline(always)]
pub(crate) fn add(a: f32, b: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Near {
        return canon(a + b);
    }
    let (a, b) = (f64::from(a), f64::from(b));
    narrow(zero_sum(sum_odd(a, b), a, b, rounding), rounding)
}

#[inline(always)]
pub(crate) fn sub(a: f32, b: f32, rounding: Rounding) -> f32 {
    add(a, -b, rounding)
}

#[inline(always)]
pub(crate) fn mul(a: f32, b: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Near {
        return canon(a * b);
    }
    // 48 bits and twice the range: exact in f64.
    narrow(f64::from(a) * f64::from(b), rounding)
}

/// a·b + c with one rounding.
#[inline(always)]
pub(crate) fn fma(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Near {
        return canon(a.mul_add(b, c));
    }
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    narrow(zero_sum(sum_odd(p, c), p, c, rounding), rounding)
}

#[inline(always)]
pub(crate) fn div(a: f32, b: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Near {
        return canon(a / b);
    }
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    // The remainder's sign, as seen from the quotient; NaN (ignored) if the quotient is not finite.
    let err = (-q).mul_add(b, a) * b.signum();
    narrow(to_odd(q, if q == 0.0 { 0.0 } else { err }), rounding)
}

#[inline(always)]
pub(crate) fn rcp(a: f32, rounding: Rounding) -> f32 {
    div(1.0, a, rounding)
}

#[inline(always)]
pub(crate) fn sqrt(a: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Near {
        return canon(a.sqrt());
    }
    let a = f64::from(a);
    let q = a.sqrt();
    narrow(to_odd(q, (-q).mul_add(q, a)), rounding)
}

/// Ordered so that -0 < +0; both operands numbers.
#[inline(always)]
fn min_number(a: f32, b: f32) -> f32 {
    // Equal values have equal bits, or are the two zeros: then a set sign wins.
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    if a < b {
        a
    } else if b < a {
        b
    } else {
        equal
    }
}

#[inline(always)]
fn max_number(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    if a > b {
        a
    } else if b > a {
        b
    } else {
        equal
    }
}

#[inline(always)]
fn one_nan(a: f32, b: f32, numbers: f32) -> f32 {
    let other = if a.is_nan() { b } else { numbers };
    canon(if b.is_nan() { a } else { other })
}

/// `min.f32`: the other operand if one is NaN.
#[inline(always)]
pub(crate) fn min(a: f32, b: f32) -> f32 {
    one_nan(a, b, min_number(a, b))
}

/// `max.f32`: the other operand if one is NaN.
#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    one_nan(a, b, max_number(a, b))
}

#[inline(always)]
fn any_nan(a: f32, b: f32, numbers: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::from_bits(NAN)
    } else {
        numbers
    }
}

/// `min.NaN.f32`: NaN if either operand is.
#[inline(always)]
pub(crate) fn min_nan(a: f32, b: f32) -> f32 {
    any_nan(a, b, min_number(a, b))
}

/// `max.NaN.f32`.
#[inline(always)]
pub(crate) fn max_nan(a: f32, b: f32) -> f32 {
    any_nan(a, b, max_number(a, b))
}

/// `.xorsign.abs`: gives `magnitude` (the minimum or maximum of the absolute values) the product's sign.
#[inline(always)]
pub(crate) fn xorsign(magnitude: f32, a: f32, b: f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    let bits = magnitude.to_bits();
    if magnitude.is_nan() {
        return f32::from_bits(NAN);
    }
    f32::from_bits(bits & 0x7fff_ffff | sign)
}

/// `abs.f32`.
#[inline(always)]
pub(crate) fn abs(a: f32) -> f32 {
    canon(a.abs())
}

/// `neg.f32`.
#[inline(always)]
pub(crate) fn neg(a: f32) -> f32 {
    canon(-a)
}

/// `copysign.f32 d, a, b`: the sign of `a` with the magnitude of `b`.
#[inline(always)]
pub(crate) fn copysign(a: f32, b: f32) -> f32 {
    f32::from_bits(a.to_bits() & 0x8000_0000 | b.to_bits() & 0x7fff_ffff)
}

#[cfg(test)]
mod tests {
    use super::super::exact::{self, F32};
    use super::*;
    use crate::numeric::testing::{Numbers, all_roundings};

    fn check(name: &str, inputs: &[f32], r: Rounding, got: f32, expected: Option<u64>) {
        let expected = expected.unwrap_or(u64::from(NAN)) as u32;
        assert_eq!(
            got.to_bits(),
            expected,
            "{name} {inputs:?} {r:?}: {got:e} instead of {:e}",
            f32::from_bits(expected)
        );
    }

    #[test]
    fn sums_and_products_round_once() {
        let mut numbers = Numbers::new(1);
        let one = u64::from(1f32.to_bits());
        for _ in 0..60_000 {
            let [a, b, c] = [(); 3].map(|()| numbers.f32());
            let [x, y, z] = [a, b, c].map(|v| u64::from(v.to_bits()));
            for r in all_roundings() {
                check(
                    "add",
                    &[a, b],
                    r,
                    add(a, b, r),
                    exact::fma(x, one, y, F32, r),
                );
                check(
                    "fma",
                    &[a, b, c],
                    r,
                    fma(a, b, c, r),
                    exact::fma(x, y, z, F32, r),
                );
                // A zero with the product's sign leaves every product alone.
                let zero = ((x ^ y) >> 31 & 1) << 31;
                check(
                    "mul",
                    &[a, b],
                    r,
                    mul(a, b, r),
                    exact::fma(x, y, zero, F32, r),
                );
            }
        }
    }

    #[test]
    fn quotients_and_roots_bracket_the_exact_value() {
        let mut numbers = Numbers::new(2);
        for _ in 0..40_000 {
            let [a, b] = [(); 2].map(|()| numbers.f32());
            let [near, zero, down, up] = all_roundings().map(|r| div(a, b, r));
            if (a / b).is_nan() {
                assert!([near, zero, down, up].iter().all(|q| q.to_bits() == NAN));
                continue;
            }
            assert_eq!(near.to_bits(), (a / b).to_bits());
            // The sign of a - q·b is exact in f64's fused operation (q has 24 bits).
            let side = |q: f32| {
                (-f64::from(q)).mul_add(f64::from(b), f64::from(a)) * f64::from(b).signum()
            };
            if a.is_finite() && b.is_finite() && b != 0.0 {
                if down.is_finite() {
                    assert!(side(down) >= 0.0, "{a:e}/{b:e}");
                }
                if up.is_finite() {
                    assert!(side(up) <= 0.0, "{a:e}/{b:e}");
                }
                let exact = side(near) == 0.0 && near.is_finite();
                assert_eq!(
                    down.to_bits() == up.to_bits(),
                    exact,
                    "{a:e}/{b:e} {down:e} {up:e}"
                );
                let truncated = if near.is_sign_negative() { up } else { down };
                assert_eq!(zero.to_bits(), truncated.to_bits(), "{a:e}/{b:e}");
                assert!(exact || down.next_up() == up, "{a:e}/{b:e} {down:e} {up:e}");
            }
            let x = a.abs();
            if x.is_finite() && x > 0.0 {
                let (lo, hi) = (sqrt(x, Rounding::Down), sqrt(x, Rounding::Up));
                let square = |q: f32| f64::from(q) * f64::from(q);
                assert!(square(lo) <= f64::from(x) && square(hi) >= f64::from(x));
                assert!(lo == hi && square(lo) == f64::from(x) || lo.next_up() == hi);
                assert_eq!(sqrt(x, Rounding::Zero), lo);
            }
        }
        assert_eq!(sqrt(-0.0, Rounding::Up).to_bits(), 0x8000_0000);
        assert_eq!(sqrt(-1.0, Rounding::Zero).to_bits(), NAN);
        assert_eq!(div(1.0, 0.0, Rounding::Zero), f32::INFINITY);
        assert_eq!(div(-0.0, 3.0, Rounding::Up).to_bits(), 0x8000_0000);
    }

    #[test]
    fn zero_sums_have_the_modes_sign() {
        assert_eq!(add(1.0, -1.0, Rounding::Down).to_bits(), 0x8000_0000);
        assert_eq!(add(1.0, -1.0, Rounding::Up).to_bits(), 0);
        assert_eq!(add(0.0, 0.0, Rounding::Down).to_bits(), 0);
        assert_eq!(add(-0.0, -0.0, Rounding::Up).to_bits(), 0x8000_0000);
    }

    #[test]
    fn minimum_and_maximum() {
        let nan = f32::from_bits(0x7fc0_1234);
        assert_eq!(min(nan, 2.0), 2.0);
        assert_eq!(max(-3.0, nan), -3.0);
        assert_eq!(min(nan, nan).to_bits(), NAN);
        assert_eq!(min_nan(nan, 2.0).to_bits(), NAN);
        assert_eq!(max_nan(2.0, 3.0), 3.0);
        assert_eq!(min(0.0, -0.0).to_bits(), 0x8000_0000);
        assert_eq!(min(-0.0, 0.0).to_bits(), 0x8000_0000);
        assert_eq!(max(0.0, -0.0).to_bits(), 0);
        assert_eq!(max(-0.0, 0.0).to_bits(), 0);
        assert_eq!(min(f32::NEG_INFINITY, 1.0), f32::NEG_INFINITY);
        assert_eq!(xorsign(max(3.0, 2.0), -3.0, 2.0), -3.0);
        assert_eq!(copysign(-0.0, 5.0), -5.0);
    }

    #[test]
    fn modifiers() {
        assert_eq!(sat(f32::NAN).to_bits(), 0);
        assert_eq!(sat(-0.0).to_bits(), 0);
        assert_eq!(sat(2.0), 1.0);
        assert_eq!(sat(0.25), 0.25);
        assert_eq!(ftz(f32::from_bits(0x807f_ffff)).to_bits(), 0x8000_0000);
        assert_eq!(ftz(f32::MIN_POSITIVE), f32::MIN_POSITIVE);
        assert_eq!(abs(f32::from_bits(0xffc0_0001)).to_bits(), NAN);
    }
}
