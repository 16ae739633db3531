//! The `.approx` instructions. The ISA gives bounds on their error, not values; these stay inside the bounds, mostly within one
//! unit of the last place. [`perturb`] moves a result elsewhere inside its bound, to show code that depends on it.

use super::f32s::{canon, ftz};

/// 2^`n` for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// `ex2.approx.f32` (bound: 2 ulp).
#[inline(always)]
pub(crate) fn ex2(x: f32) -> f32 {
    // Outside, the result is infinity or zero anyway.
    let clamped = x.clamp(-160.0, 160.0);
    let n = clamped.round_ties_even();
    let f = clamped - n;
    // 2^f on [-1/2, 1/2]: Taylor's coefficients ln(2)^k / k!.
    let mut p = 1.525_273_4e-5f32;
    p = p.mul_add(f, 1.540_353_1e-4);
    p = p.mul_add(f, 1.333_355_8e-3);
    p = p.mul_add(f, 9.618_129e-3);
    p = p.mul_add(f, 5.550_411e-2);
    p = p.mul_add(f, 2.402_265e-1);
    p = p.mul_add(f, std::f32::consts::LN_2);
    p = p.mul_add(f, 1.0);
    // In two steps, so that subnormal results round once and the powers stay normal.
    let n = if x.is_nan() { 0 } else { n as i32 };
    let half = n >> 1;
    let result = p * power_of_two(half) * power_of_two(n - half);
    if x.is_nan() { canon(x) } else { result }
}

/// `lg2.approx.f32` (bound: 2^-22, absolute near 1, relative elsewhere).
#[inline(always)]
pub(crate) fn lg2(x: f32) -> f32 {
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits() as i32;
    // x = m·2^e with m in [0.7, 1.4).
    let e = bits.wrapping_sub(0x3f33_3333) >> 23;
    let m = f32::from_bits(bits.wrapping_sub(e << 23) as u32);
    // log2(m) = 2/ln(2) · atanh(s), s = (m-1)/(m+1).
    let s = (m - 1.0) / (m + 1.0);
    let t = s * s;
    let mut p = 0.262_308_6f32;
    p = p.mul_add(t, 0.320_598_9);
    p = p.mul_add(t, 0.412_198_57);
    p = p.mul_add(t, 0.577_078);
    p = p.mul_add(t, 0.961_796_7);
    let tail = p * t * s;
    let log = s.mul_add(2.885_39, tail);
    let e = e as f32 - if subnormal { 23.0 } else { 0.0 };
    let result = log + e;
    if x.is_nan() || x < 0.0 {
        canon(f32::NAN)
    } else if x == 0.0 {
        f32::NEG_INFINITY
    } else if x == f32::INFINITY {
        x
    } else {
        result
    }
}

/// `rcp.approx.f32` (bound: 1 ulp).
#[inline(always)]
pub(crate) fn rcp(x: f32) -> f32 {
    canon(1.0 / x)
}

/// `rsqrt.approx.f32` (bound: 2^-22.9 relative).
#[inline(always)]
pub(crate) fn rsqrt(x: f32) -> f32 {
    canon((1.0 / f64::from(x).sqrt()) as f32)
}

/// `sqrt.approx.f32` (bound: 2^-23 relative).
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    canon(x.sqrt())
}

/// `sin.approx.f32` (bound: 2^-20.5 absolute in [-2π, 2π]).
pub(crate) fn sin(x: f32) -> f32 {
    canon(f64::from(x).sin() as f32)
}

/// `cos.approx.f32` (bound: 2^-20.5 absolute in [-2π, 2π]).
pub(crate) fn cos(x: f32) -> f32 {
    canon(f64::from(x).cos() as f32)
}

/// `tanh.approx.f32` (bound: 2^-11 relative).
pub(crate) fn tanh(x: f32) -> f32 {
    canon(f64::from(x).tanh() as f32)
}

/// `div.approx.f32` (bound: 2 ulp for divisors in [2^-126, 2^126]; a larger one gives 0, or NaN for an infinite dividend).
#[inline(always)]
pub(crate) fn div(a: f32, b: f32) -> f32 {
    let magnitude = b.abs();
    let large = magnitude > 8.507_059e37 && magnitude < f32::INFINITY;
    if large {
        // The reciprocal is flushed to zero.
        canon(a * 0.0f32.copysign(b))
    } else {
        canon(a / b)
    }
}

/// `div.full.f32` (bound: 2 ulp).
#[inline(always)]
pub(crate) fn div_full(a: f32, b: f32) -> f32 {
    canon(a / b)
}

/// An approximate operation of one or two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Approx {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Sin,
    Cos,
    Tanh,
    Div,
    DivFull,
}

impl Approx {
    /// The exact value nearly, and the largest error that the ISA allows there (both in f64).
    fn reference(self, a: f64, b: f64) -> (f64, f64) {
        let ulps = |y: f64, n: f64| {
            let exponent = y.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
            n * (exponent - 23.0).exp2()
        };
        let (y, bound) = match self {
            Approx::Ex2 => (a.exp2(), ulps(a.exp2(), 2.0)),
            Approx::Lg2 => {
                let y = a.log2();
                let relative = if a > 0.5 && a < 2.0 { 1.0 } else { y.abs() };
                (y, (-22f64).exp2() * relative)
            }
            Approx::Rcp => (1.0 / a, ulps(1.0 / a, 1.0)),
            Approx::Rsqrt => (1.0 / a.sqrt(), (-22.9f64).exp2() / a.sqrt()),
            Approx::Sqrt => (a.sqrt(), (-23f64).exp2() * a.sqrt()),
            Approx::Sin => (a.sin(), (-20.5f64).exp2()),
            Approx::Cos => (a.cos(), (-20.5f64).exp2()),
            Approx::Tanh => (a.tanh(), (-11f64).exp2() * a.tanh().abs()),
            Approx::Div | Approx::DivFull => (a / b, ulps(a / b, 2.0)),
        };
        (y, bound)
    }
}

/// Another value that the ISA allows for an operation whose result was `result`; the same for the same operands and seed.
/// Results that are special (NaN, infinite, zero) or exact by rule (2^n) stay.
pub(crate) fn perturb(
    result: f32,
    operation: Approx,
    a: f32,
    b: f32,
    flush: bool,
    seed: u64,
) -> f32 {
    if !result.is_normal() || result.abs() == 1.0 {
        return result;
    }
    let (y, bound) = operation.reference(f64::from(a), f64::from(b));
    let mut hash =
        seed ^ (operation as u64) << 56 ^ u64::from(a.to_bits()) << 20 ^ u64::from(b.to_bits());
    for _ in 0..3 {
        hash = (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    // A point of the interval, and then back to f32 without leaving it.
    let at = (hash >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    let moved = (y + at * bound) as f32;
    let moved = if flush { ftz(moved) } else { moved };
    let inside = (f64::from(moved) - y).abs() <= bound && moved.is_normal();
    if inside { moved } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::testing::Numbers;

    #[test]
    fn within_the_bounds() {
        let mut numbers = Numbers::new(8);
        let mut moved = 0;
        for i in 0..200_000 {
            let (a, b) = (numbers.f32(), numbers.f32());
            let (a, b) = if i % 2 == 0 { (a % 8.0, b) } else { (a, b) };
            let results = [
                (Approx::Ex2, a, ex2(a)),
                (Approx::Lg2, a.abs(), lg2(a.abs())),
                (Approx::Rcp, a, rcp(a)),
                (Approx::Rsqrt, a.abs(), rsqrt(a.abs())),
                (Approx::Sqrt, a.abs(), sqrt(a.abs())),
                (
                    Approx::Sin,
                    a % std::f32::consts::TAU,
                    sin(a % std::f32::consts::TAU),
                ),
                (
                    Approx::Cos,
                    a % std::f32::consts::TAU,
                    cos(a % std::f32::consts::TAU),
                ),
                (Approx::Tanh, a, tanh(a)),
                (Approx::DivFull, a, div_full(a, b)),
            ];
            for (operation, a, y) in results {
                let (exact, bound) = operation.reference(f64::from(a), f64::from(b));
                if exact.is_nan() {
                    assert_eq!(y.to_bits(), 0x7fff_ffff, "{operation:?} {a:e}");
                    continue;
                }
                if exact.is_infinite() || exact.abs() > f64::from(f32::MAX) {
                    assert_eq!(
                        f64::from(y),
                        exact.signum() * f64::INFINITY,
                        "{operation:?} {a:e}"
                    );
                    continue;
                }
                let error = (f64::from(y) - exact).abs();
                assert!(
                    error <= bound,
                    "{operation:?} {a:e} {b:e}: {y:e} is {:.2} bounds off",
                    error / bound
                );
                let other = perturb(y, operation, a, b, false, 7);
                assert!(
                    (f64::from(other) - exact).abs() <= bound,
                    "{operation:?} {a:e}"
                );
                moved += u32::from(other != y);
            }
        }
        assert!(moved > 100_000, "only {moved} results were moved");
    }

    #[test]
    fn special_values() {
        assert_eq!(ex2(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(ex2(f32::INFINITY), f32::INFINITY);
        assert_eq!(ex2(-0.0), 1.0);
        assert_eq!(ex2(f32::from_bits(0x8000_0001)), 1.0);
        assert_eq!(ex2(-149.0).to_bits(), 1);
        for n in -126..=127 {
            assert_eq!(ex2(n as f32), power_of_two(n), "2^{n}");
        }
        assert_eq!(ex2(128.0), f32::INFINITY);
        assert_eq!(lg2(0.0), f32::NEG_INFINITY);
        assert_eq!(lg2(-0.0), f32::NEG_INFINITY);
        assert_eq!(lg2(f32::INFINITY), f32::INFINITY);
        assert_eq!(lg2(1.0).to_bits(), 0);
        assert_eq!(lg2(8.0), 3.0);
        assert_eq!(lg2(f32::from_bits(1)), -149.0);
        assert_eq!(lg2(-1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(rcp(-0.0), f32::NEG_INFINITY);
        assert_eq!(rsqrt(-0.0), f32::NEG_INFINITY);
        assert_eq!(rsqrt(f32::INFINITY), 0.0);
        assert_eq!(sin(f32::INFINITY).to_bits(), 0x7fff_ffff);
        assert_eq!(sin(-0.0).to_bits(), 0x8000_0000);
        assert_eq!(cos(0.0), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh(-0.0).to_bits(), 0x8000_0000);
        assert_eq!(div(1.0, 1.0e38), 0.0);
        assert_eq!(div(f32::INFINITY, 1.0e38).to_bits(), 0x7fff_ffff);
        assert_eq!(div(3.0, 1.5), 2.0);
        assert_eq!(perturb(1.0, Approx::Ex2, 0.0, 0.0, false, 1), 1.0);
    }
}
