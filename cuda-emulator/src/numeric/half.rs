//! f16 and bf16, as bits in a `u16`; packed pairs as `u32` with the first element in the low half.
//!
//! Every operation rounds once. Sums of two and products of f16 are exact enough in f32 (24 bits hold twice 11 and two more);
//! the others go through f64 rounded to odd.

use super::exact::{self, Format, Value};
use super::f32s::{self, sum_odd};
use super::{Rounding, approx};

/// A 16-bit format.
pub(crate) trait Half: Copy {
    const FORMAT: Format;
    /// The NaN that operations return.
    const NAN: u16 = 0x7fff;

    /// Exact.
    fn to_f32(bits: u16) -> f32;

    /// To nearest even; NaN becomes canonical.
    fn near(x: f32) -> u16;
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct F16;
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bf16;

impl Half for F16 {
    const FORMAT: Format = exact::F16;

    #[inline(always)]
    fn to_f32(bits: u16) -> f32 {
        let magnitude = u32::from(bits & 0x7fff) << 13;
        let sign = u32::from(bits & 0x8000) << 16;
        // Scaling by 2^112 moves the exponent and normalises subnormals; infinity and NaN get the top exponent back.
        let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
        let special = magnitude >= 0x7c00 << 13;
        let result = if special {
            magnitude | 0x7f80_0000
        } else {
            scaled.to_bits()
        };
        f32::from_bits(result | sign)
    }

    #[inline(always)]
    fn near(x: f32) -> u16 {
        let bits = x.to_bits();
        let sign = (bits >> 16) as u16 & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        // Rounds at bit 13; a carry goes into the exponent, and 65520 and above reach infinity.
        let rebiased = magnitude.wrapping_sub((127 - 15) << 23);
        let normal = rebiased.wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
        // Below 2^-14: adding 0.5 lets the f32 adder round at 2^-24.
        let small = (f32::from_bits(magnitude) + 0.5)
            .to_bits()
            .wrapping_sub(0.5f32.to_bits());
        let finite = if magnitude < 0x3880_0000 {
            small
        } else {
            normal
        };
        let result = if magnitude >= 0x4780_0000 {
            0x7c00
        } else {
            finite as u16
        };
        if magnitude > 0x7f80_0000 {
            Self::NAN
        } else {
            result | sign
        }
    }
}

impl Half for Bf16 {
    const FORMAT: Format = exact::BF16;

    #[inline(always)]
    fn to_f32(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    #[inline(always)]
    fn near(x: f32) -> u16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        if x.is_nan() {
            Self::NAN
        } else {
            rounded as u16
        }
    }
}

/// From f32 with a rounding mode.
#[inline(always)]
pub(crate) fn from_f32<H: Half>(x: f32, rounding: Rounding) -> u16 {
    match rounding {
        Rounding::Near => H::near(x),
        _ => from_f64::<H>(f64::from(x), rounding),
    }
}

/// From f64 with a rounding mode.
pub(crate) fn from_f64<H: Half>(x: f64, rounding: Rounding) -> u16 {
    match exact::decode(x.to_bits(), exact::F64) {
        Value::Finite(value) => value.round(H::FORMAT, rounding) as u16,
        Value::Infinite { negative } => (H::FORMAT.infinity() as u16) | (u16::from(negative) << 15),
        Value::Nan => H::NAN,
    }
}

/// Exact.
#[inline(always)]
pub(crate) fn to_f32<H: Half>(a: u16) -> f32 {
    H::to_f32(a)
}

/// Rounds an f64 that was rounded to odd.
#[inline(always)]
pub(super) fn from_odd<H: Half>(x: f64) -> u16 {
    let truncated = f32s::narrow(x, Rounding::Zero);
    let inexact = f64::from(truncated) != x && !x.is_nan();
    H::near(f32::from_bits(truncated.to_bits() | u32::from(inexact)))
}

#[inline(always)]
pub(crate) fn add<H: Half>(a: u16, b: u16) -> u16 {
    H::near(H::to_f32(a) + H::to_f32(b))
}

#[inline(always)]
pub(crate) fn sub<H: Half>(a: u16, b: u16) -> u16 {
    H::near(H::to_f32(a) - H::to_f32(b))
}

#[inline(always)]
pub(crate) fn mul<H: Half>(a: u16, b: u16) -> u16 {
    from_odd::<H>(f64::from(H::to_f32(a)) * f64::from(H::to_f32(b)))
}

/// a·b + c with one rounding.
#[inline(always)]
pub(crate) fn fma<H: Half>(a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = [a, b, c].map(|x| f64::from(H::to_f32(x)));
    from_odd::<H>(sum_odd(a * b, c))
}

#[inline(always)]
fn via_f32<H: Half>(a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    H::near(f(H::to_f32(a), H::to_f32(b)))
}

/// The other operand if one is NaN; -0 < +0.
#[inline(always)]
pub(crate) fn min<H: Half>(a: u16, b: u16) -> u16 {
    via_f32::<H>(a, b, f32s::min)
}

#[inline(always)]
pub(crate) fn max<H: Half>(a: u16, b: u16) -> u16 {
    via_f32::<H>(a, b, f32s::max)
}

/// `.NaN`: NaN if either is.
#[inline(always)]
pub(crate) fn min_nan<H: Half>(a: u16, b: u16) -> u16 {
    via_f32::<H>(a, b, f32s::min_nan)
}

#[inline(always)]
pub(crate) fn max_nan<H: Half>(a: u16, b: u16) -> u16 {
    via_f32::<H>(a, b, f32s::max_nan)
}

/// `.xorsign.abs`; `magnitude` is the minimum or maximum of the absolute values.
#[inline(always)]
pub(crate) fn xorsign<H: Half>(magnitude: u16, a: u16, b: u16) -> u16 {
    let sign = (a ^ b) & 0x8000;
    if is_nan::<H>(magnitude) {
        H::NAN
    } else {
        magnitude & 0x7fff | sign
    }
}

#[inline(always)]
pub(crate) fn neg<H: Half>(a: u16) -> u16 {
    canon::<H>(a ^ 0x8000)
}

#[inline(always)]
pub(crate) fn abs<H: Half>(a: u16) -> u16 {
    canon::<H>(a & 0x7fff)
}

/// `ex2.approx`.
#[inline(always)]
pub(crate) fn ex2<H: Half>(a: u16) -> u16 {
    H::near(approx::ex2(H::to_f32(a)))
}

/// `tanh.approx`.
#[inline(always)]
pub(crate) fn tanh<H: Half>(a: u16) -> u16 {
    H::near(approx::tanh(H::to_f32(a)))
}

#[inline(always)]
pub(crate) fn is_nan<H: Half>(a: u16) -> bool {
    u64::from(a & 0x7fff) > H::FORMAT.infinity()
}

#[inline(always)]
pub(crate) fn canon<H: Half>(a: u16) -> u16 {
    if is_nan::<H>(a) { H::NAN } else { a }
}

/// `.ftz`: a subnormal becomes zero of the same sign.
#[inline(always)]
pub(crate) fn ftz<H: Half>(a: u16) -> u16 {
    if u64::from(a) & H::FORMAT.infinity() == 0 {
        a & 0x8000
    } else {
        a
    }
}

/// `.sat`: clamps to [0, 1]; NaN becomes +0.
#[inline(always)]
pub(crate) fn sat<H: Half>(a: u16) -> u16 {
    // Exact: 0, 1 and what lies between stay what they are.
    H::near(f32s::sat(H::to_f32(a)))
}

/// `.relu`: negative becomes +0, NaN canonical.
#[inline(always)]
pub(crate) fn relu<H: Half>(a: u16) -> u16 {
    if is_nan::<H>(a) {
        H::NAN
    } else if a & 0x8000 != 0 {
        0
    } else {
        a
    }
}

/// `.satfinite`: infinity becomes the largest number of its sign.
#[inline(always)]
pub(crate) fn satfinite<H: Half>(a: u16) -> u16 {
    if u64::from(a & 0x7fff) == H::FORMAT.infinity() {
        a - 1
    } else {
        a
    }
}

/// Applies a function to both halves of a packed pair.
#[inline(always)]
pub(crate) fn each(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    u32::from(f(a as u16)) | u32::from(f((a >> 16) as u16)) << 16
}

#[inline(always)]
pub(crate) fn each2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

#[inline(always)]
pub(crate) fn each3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let high = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
    u32::from(f(a as u16, b as u16, c as u16)) | u32::from(high) << 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::testing::{Numbers, all_roundings};

    fn round_trips<H: Half>() {
        for bits in 0..=u16::MAX {
            let x = H::to_f32(bits);
            let expected = match exact::decode(u64::from(bits), H::FORMAT) {
                Value::Finite(v) => v.round(exact::F32, Rounding::Zero) as u32,
                Value::Infinite { negative } => 0x7f80_0000 | u32::from(negative) << 31,
                Value::Nan => {
                    assert!(x.is_nan());
                    assert_eq!(H::near(x), H::NAN);
                    continue;
                }
            };
            assert_eq!(x.to_bits(), expected, "{bits:#x}");
            assert_eq!(H::near(x), bits);
            for r in all_roundings() {
                assert_eq!(from_f32::<H>(x, r), bits);
            }
        }
    }

    #[test]
    fn every_value_round_trips() {
        round_trips::<F16>();
        round_trips::<Bf16>();
    }

    fn rounds_once<H: Half>(seed: u64) {
        let mut numbers = Numbers::new(seed);
        let one = u64::from(H::near(1.0));
        for _ in 0..150_000 {
            let x = numbers.f32();
            let expected = match exact::decode(u64::from(x.to_bits()), exact::F32) {
                Value::Finite(v) => v.round(H::FORMAT, Rounding::Near) as u16,
                Value::Infinite { negative } => {
                    H::FORMAT.infinity() as u16 | u16::from(negative) << 15
                }
                Value::Nan => H::NAN,
            };
            assert_eq!(H::near(x), expected, "{x:e}");
            let bits = numbers.bits();
            let mut operands = [bits as u16, (bits >> 16) as u16, (bits >> 32) as u16];
            if bits >> 63 == 1 {
                // Exponents near one another.
                let e = (numbers.bits() as u16) & 0x7c00;
                operands = operands.map(|v| v & 0x83ff | (v & 0x0c00) ^ e);
            }
            let [a, b, c] = operands;
            let reference = |a: u16, b: u64, c: u16| {
                exact::fma(u64::from(a), b, u64::from(c), H::FORMAT, Rounding::Near)
                    .map_or(H::NAN, |v| v as u16)
            };
            assert_eq!(add::<H>(a, b), reference(a, one, b), "{a:#x} + {b:#x}");
            assert_eq!(
                sub::<H>(a, b),
                reference(a, one, b ^ 0x8000),
                "{a:#x} - {b:#x}"
            );
            let zero = (a ^ b) & 0x8000;
            assert_eq!(
                mul::<H>(a, b),
                reference(a, u64::from(b), zero),
                "{a:#x} * {b:#x}"
            );
            assert_eq!(
                fma::<H>(a, b, c),
                reference(a, u64::from(b), c),
                "{a:#x} {b:#x} {c:#x}"
            );
        }
    }

    #[test]
    fn operations_round_once() {
        rounds_once::<F16>(4);
        rounds_once::<Bf16>(5);
    }

    #[test]
    fn modifiers() {
        assert_eq!(sat::<F16>(0x7e00), 0);
        assert_eq!(sat::<F16>(0xbc00), 0);
        assert_eq!(sat::<Bf16>(0x4000), 0x3f80);
        assert_eq!(relu::<Bf16>(0x8000), 0);
        assert_eq!(relu::<F16>(0xfe01), 0x7fff);
        assert_eq!(satfinite::<F16>(0xfc00), 0xfbff);
        assert_eq!(satfinite::<Bf16>(0x7f80), 0x7f7f);
        assert_eq!(ftz::<F16>(0x83ff), 0x8000);
        assert_eq!(ftz::<F16>(0x0400), 0x0400);
        assert_eq!(min::<F16>(0x8000, 0), 0x8000);
        assert_eq!(max_nan::<Bf16>(0x7fc0, 0x3f80), 0x7fff);
        assert_eq!(max::<Bf16>(0x7fc0, 0x3f80), 0x3f80);
        assert_eq!(each2(0x0001_0002, 0x0010_0020, |a, b| a + b), 0x0011_0022);
        assert_eq!(from_f32::<F16>(65520.0, Rounding::Zero), 0x7bff);
        assert_eq!(from_f32::<F16>(65520.0, Rounding::Near), 0x7c00);
        assert_eq!(from_f32::<Bf16>(-1.001, Rounding::Down), 0xbf81);
    }
}
