//! Scalar f64 arithmetic: to nearest as the host does it, the directed modes in integers.

use super::Rounding;
use super::exact::{self, Exact, F64, Value};

/// What an invalid operation gives.
pub(crate) const NAN: u64 = 0xfff8_0000_0000_0000;

#[inline(always)]
pub(crate) fn add(a: f64, b: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => a + b,
        _ => fma_directed(a, 1.0, b, rounding),
    }
}

#[inline(always)]
pub(crate) fn sub(a: f64, b: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => a - b,
        _ => fma_directed(a, 1.0, -b, rounding),
    }
}

#[inline(always)]
pub(crate) fn mul(a: f64, b: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => a * b,
        // A zero of the product's sign leaves the product alone.
        _ => {
            let zero = if a.is_sign_negative() != b.is_sign_negative() {
                -0.0
            } else {
                0.0
            };
            fma_directed(a, b, zero, rounding)
        }
    }
}

/// a·b + c with one rounding.
#[inline(always)]
pub(crate) fn fma(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => a.mul_add(b, c),
        _ => fma_directed(a, b, c, rounding),
    }
}

fn fma_directed(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    let bits = exact::fma(a.to_bits(), b.to_bits(), c.to_bits(), F64, rounding);
    f64::from_bits(bits.unwrap_or(NAN))
}

#[inline(always)]
pub(crate) fn div(a: f64, b: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => a / b,
        _ => div_directed(a, b, rounding),
    }
}

#[inline(always)]
pub(crate) fn rcp(a: f64, rounding: Rounding) -> f64 {
    div(1.0, a, rounding)
}

fn div_directed(a: f64, b: f64, rounding: Rounding) -> f64 {
    let decoded = [a, b].map(|x| exact::decode(x.to_bits(), F64));
    let [Value::Finite(x), Value::Finite(y)] = decoded else {
        return a / b;
    };
    if x.significand == 0 || y.significand == 0 {
        return a / b;
    }
    // At least 127 - 53 bits of quotient.
    let up = x.significand.leading_zeros() - 1;
    let wide = x.significand << up;
    let quotient = Exact {
        negative: x.negative != y.negative,
        significand: wide / y.significand,
        exponent: x.exponent - up as i32 - y.exponent,
        sticky: wide % y.significand != 0,
    };
    f64::from_bits(quotient.round(F64, rounding))
}

#[inline(always)]
pub(crate) fn sqrt(a: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => a.sqrt(),
        _ => sqrt_directed(a, rounding),
    }
}

fn sqrt_directed(a: f64, rounding: Rounding) -> f64 {
    let Value::Finite(x) = exact::decode(a.to_bits(), F64) else {
        return a.sqrt();
    };
    if x.significand == 0 || x.negative {
        return a.sqrt();
    }
    // An even exponent, and a root of more than 60 bits.
    let mut up = x.significand.leading_zeros() as i32 - 1;
    up -= (x.exponent - up) & 1;
    let wide = x.significand << up;
    let root = wide.isqrt();
    let root = Exact {
        negative: false,
        significand: root,
        exponent: (x.exponent - up) / 2,
        sticky: root * root != wide,
    };
    f64::from_bits(root.round(F64, rounding))
}

/// `min.f64`: the other operand if one is NaN; -0 < +0.
#[inline(always)]
pub(crate) fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        return b;
    }
    if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// `max.f64`: the other operand if one is NaN; -0 < +0.
#[inline(always)]
pub(crate) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        return b;
    }
    if b.is_nan() || a > b || (a == b && b.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// `rcp.approx.ftz.f64`: of the upper 32 bits only; the lower 32 bits of the result are zero.
pub(crate) fn rcp_approx_ftz(a: f64) -> f64 {
    upper_half(a, |x| 1.0 / x)
}

/// `rsqrt.approx.ftz.f64`.
pub(crate) fn rsqrt_approx_ftz(a: f64) -> f64 {
    upper_half(a, |x| 1.0 / x.sqrt())
}

fn upper_half(a: f64, f: impl Fn(f64) -> f64) -> f64 {
    const HIGH: u64 = 0xffff_ffff_0000_0000;
    let flush = |x: f64| {
        if x.is_subnormal() {
            0.0f64.copysign(x)
        } else {
            x
        }
    };
    let x = flush(f64::from_bits(a.to_bits() & HIGH));
    let y = flush(f(x));
    if y.is_nan() {
        return f64::from_bits(0x7fff_ffff_0000_0000);
    }
    f64::from_bits(y.to_bits() & HIGH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::testing::{Numbers, all_roundings};

    #[test]
    fn integer_arithmetic_agrees_with_the_host() {
        let mut numbers = Numbers::new(3);
        let same = |x: f64, y: f64| x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
        for _ in 0..60_000 {
            let [a, b, c] = [(); 3].map(|()| numbers.f64());
            let near = fma_directed(a, b, c, Rounding::Near);
            assert!(same(near, a.mul_add(b, c)), "{a:e} {b:e} {c:e}");
            assert!(
                same(div_directed(a, b, Rounding::Near), a / b),
                "{a:e} {b:e}"
            );
            assert!(same(sqrt_directed(a, Rounding::Near), a.sqrt()), "{a:e}");
            let [_, zero, down, up] = all_roundings().map(|r| fma(a, b, c, r));
            if near.is_finite() {
                assert!(down <= near && near <= up);
                assert!(down == up || down.next_up() == up, "{a:e} {b:e} {c:e}");
                // Not bit for bit: an exact zero sum has the mode's sign.
                assert_eq!(zero, if near.is_sign_negative() { up } else { down });
            }
        }
    }

    #[test]
    fn edges() {
        assert_eq!(add(1.0, -1.0, Rounding::Down).to_bits(), 1 << 63);
        assert_eq!(mul(-0.0, 5.0, Rounding::Up).to_bits(), 1 << 63);
        assert_eq!(mul(f64::MAX, 2.0, Rounding::Zero), f64::MAX);
        assert_eq!(mul(f64::MAX, 2.0, Rounding::Up), f64::INFINITY);
        assert_eq!(div(1.0, 3.0, Rounding::Up), (1.0f64 / 3.0).next_up());
        assert_eq!(min(f64::NAN, 1.0), 1.0);
        assert_eq!(max(0.0, -0.0).to_bits(), 0);
        assert_eq!(min(0.0, -0.0).to_bits(), 1 << 63);
        assert_eq!(rcp_approx_ftz(4.0), 0.25);
        assert_eq!(rsqrt_approx_ftz(4.0), 0.5);
    }
}
