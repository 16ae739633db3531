//! `cvt` between integers and floats, and to and from tf32 and fp8. Between f32 and f16/bf16: see [`super::half`].

use super::exact::{self, Exact, Format, Value};
use super::half::{self, F16, Half};
use super::{Rounding, f32s};

/// Integer types of PTX.
pub(crate) trait Int: Copy {
    const BITS: u32;
    fn clamp_f32(x: f32) -> Self;
    fn clamp_f64(x: f64) -> Self;
    /// `1 << (BITS - 1)`.
    fn top_bit() -> Self;
}

macro_rules! int {
    ($($t:ty),*) => {$(
        impl Int for $t {
            const BITS: u32 = <$t>::BITS;
            // `as` clamps.
            #[inline(always)]
            fn clamp_f32(x: f32) -> Self {
                x as Self
            }
            #[inline(always)]
            fn clamp_f64(x: f64) -> Self {
                x as Self
            }
            #[inline(always)]
            fn top_bit() -> Self {
                1 << (<$t>::BITS - 1)
            }
        }
    )*};
}
int!(u8, u16, u32, u64, i8, i16, i32, i64);

/// `cvt.{rni,rzi,rmi,rpi}.f32.f32`: to an integer that stays a float.
#[inline(always)]
pub(crate) fn round_f32(x: f32, rounding: Rounding) -> f32 {
    f32s::canon(match rounding {
        Rounding::Near => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    })
}

/// As [`round_f32`].
#[inline(always)]
pub(crate) fn round_f64(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// f32 (or f16, bf16 widened) to an integer: clamped; NaN gives 0, or the top bit for 64-bit types.
#[inline(always)]
pub(crate) fn f32_to_int<T: Int>(x: f32, rounding: Rounding) -> T {
    if x.is_nan() && T::BITS == 64 {
        return T::top_bit();
    }
    T::clamp_f32(round_f32(x, rounding))
}

/// f64 to an integer: clamped; NaN gives the top bit.
#[inline(always)]
pub(crate) fn f64_to_int<T: Int>(x: f64, rounding: Rounding) -> T {
    if x.is_nan() {
        return T::top_bit();
    }
    T::clamp_f64(round_f64(x, rounding))
}

/// Any integer of up to 64 bits to f32.
#[inline(always)]
pub(crate) fn int_to_f32(x: i128, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Near => x as f32,
        _ => f32::from_bits(Exact::integer(x).round(exact::F32, rounding) as u32),
    }
}

/// Any integer of up to 64 bits to f64.
#[inline(always)]
pub(crate) fn int_to_f64(x: i128, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => x as f64,
        _ => f64::from_bits(Exact::integer(x).round(exact::F64, rounding)),
    }
}

/// Any integer of up to 64 bits to f16 or bf16.
pub(crate) fn int_to_half<H: Half>(x: i128, rounding: Rounding) -> u16 {
    Exact::integer(x).round(H::FORMAT, rounding) as u16
}

/// f64 to f32.
#[inline(always)]
pub(crate) fn f64_to_f32(x: f64, rounding: Rounding) -> f32 {
    f32s::narrow(x, rounding)
}

/// Rounding of `cvt.tf32.f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tf32Rounding {
    /// `.rn`
    Near,
    /// `.rna`: ties away from zero.
    NearAway,
    /// `.rz`
    Zero,
}

/// f32 to tf32: 10 bits of fraction, the low 13 bits of the result are zero (except in the canonical NaN).
#[inline(always)]
pub(crate) fn f32_to_tf32(x: f32, rounding: Tf32Rounding, relu: bool, satfinite: bool) -> u32 {
    const DROPPED: u32 = (1 << 13) - 1;
    const LARGEST: u32 = 0x7f7f_ffff & !DROPPED;
    if x.is_nan() {
        return f32s::NAN;
    }
    let bits = x.to_bits();
    if relu && bits >> 31 != 0 {
        return 0;
    }
    let (sign, magnitude) = (bits & 0x8000_0000, bits & 0x7fff_ffff);
    let add = match rounding {
        Tf32Rounding::Near => (DROPPED >> 1) + (magnitude >> 13 & 1),
        Tf32Rounding::NearAway => 1 << 12,
        Tf32Rounding::Zero => 0,
    };
    let rounded = magnitude.wrapping_add(add) & !DROPPED;
    let result = if satfinite {
        rounded.min(LARGEST)
    } else {
        rounded
    };
    sign | result
}

/// The two 8-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fp8 {
    /// 4 bits of exponent, 3 of fraction, no infinity, largest 448.
    E4m3,
    /// 5 bits of exponent, 2 of fraction, largest 57344.
    E5m2,
}

/// The E4M3 format as far as rounding goes; its top binade holds numbers where IEEE would have infinity and NaN, hence one
/// more bit of exponent here.
const E4M3_WIDE: Format = Format {
    precision: 4,
    exponent_bits: 5,
};

/// `cvt.rn.satfinite{.relu}.{e4m3x2,e5m2x2}`: to nearest even, clamped to the largest number; NaN is 0x7f.
pub(crate) fn f32_to_fp8(x: f32, format: Fp8, relu: bool) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let negative = x.is_sign_negative();
    if relu && negative {
        return 0;
    }
    let sign = u8::from(negative) << 7;
    let largest = match format {
        Fp8::E4m3 => 0x7e,
        Fp8::E5m2 => 0x7b,
    };
    let Value::Finite(value) = exact::decode(u64::from(x.to_bits()), exact::F32) else {
        return sign | largest;
    };
    let value = Exact {
        negative: false,
        ..value
    };
    let magnitude = match format {
        Fp8::E5m2 => value.round(exact::E5M2, Rounding::Near) as u8,
        // Bias 7 instead of the wider format's 15: the exponent is moved, so subnormals fall where they should.
        Fp8::E4m3 => {
            let moved = Exact {
                exponent: value.exponent - 8,
                ..value
            };
            moved.round(E4M3_WIDE, Rounding::Near).min(0xff) as u8
        }
    };
    sign | magnitude.min(largest)
}

/// `cvt.rn.f16x2.{e4m3x2,e5m2x2}`: exact; NaN becomes canonical.
pub(crate) fn fp8_to_f16(x: u8, format: Fp8) -> u16 {
    let sign = u16::from(x & 0x80) << 8;
    let magnitude = x & 0x7f;
    match format {
        Fp8::E5m2 => half::canon::<F16>(u16::from(x) << 8),
        Fp8::E4m3 if magnitude == 0x7f => F16::NAN,
        Fp8::E4m3 => {
            // As f16 bits this is 2^8 too small (bias 15 against 7).
            let small = F16::to_f32(u16::from(magnitude) << 7);
            F16::near(small * 256.0) | sign
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::half::Bf16;
    use super::*;
    use crate::numeric::testing::{Numbers, all_roundings};

    #[test]
    fn floats_to_integers_clamp() {
        use Rounding::{Down, Near, Up, Zero};
        assert_eq!(f32_to_int::<i32>(2.5, Near), 2);
        assert_eq!(f32_to_int::<i32>(-2.5, Near), -2);
        assert_eq!(f32_to_int::<i32>(-2.5, Down), -3);
        assert_eq!(f32_to_int::<i32>(-2.5, Up), -2);
        assert_eq!(f32_to_int::<i32>(-2.5, Zero), -2);
        assert_eq!(f32_to_int::<i32>(3e9, Zero), i32::MAX);
        assert_eq!(f32_to_int::<u32>(-1.0, Zero), 0);
        assert_eq!(f32_to_int::<u8>(300.0, Zero), 255);
        assert_eq!(f32_to_int::<i8>(f32::NEG_INFINITY, Zero), -128);
        assert_eq!(f32_to_int::<i32>(f32::NAN, Zero), 0);
        assert_eq!(f32_to_int::<i64>(f32::NAN, Zero), i64::MIN);
        assert_eq!(f32_to_int::<u64>(f32::NAN, Zero), 1 << 63);
        assert_eq!(f64_to_int::<i32>(f64::NAN, Zero), i32::MIN);
        assert_eq!(f64_to_int::<u32>(f64::NAN, Zero), 1 << 31);
        assert_eq!(f64_to_int::<u64>(1e30, Zero), u64::MAX);
        assert_eq!(round_f32(-0.3, Near).to_bits(), 0x8000_0000);
    }

    #[test]
    fn integers_to_floats_round_once() {
        let mut numbers = Numbers::new(6);
        for _ in 0..50_000 {
            let shift = numbers.below(64) as u32;
            let x = (numbers.bits() >> shift) as i64;
            for r in all_roundings() {
                let f = int_to_f32(i128::from(x), r);
                let d = int_to_f64(i128::from(x), r);
                let exact = i128::from(x);
                let side = |v: f64| (v as i128).cmp(&exact);
                // A neighbour that is no integer is pushed on to the next one.
                let beyond = |v: f32| {
                    if r == Rounding::Down {
                        v.ceil()
                    } else {
                        v.floor()
                    }
                };
                match r {
                    Rounding::Near => assert_eq!((f, d), (x as f32, x as f64)),
                    Rounding::Down => {
                        assert!(side(f64::from(f)).is_le() && side(d).is_le());
                        assert!(side(f64::from(beyond(f.next_up()))).is_gt());
                    }
                    Rounding::Up => {
                        assert!(side(f64::from(f)).is_ge() && side(d).is_ge());
                        assert!(side(f64::from(beyond(f.next_down()))).is_lt());
                    }
                    Rounding::Zero => assert!((f64::from(f) as i128).abs() <= exact.abs()),
                }
            }
        }
        assert_eq!(int_to_half::<F16>(65520, Rounding::Near), 0x7c00);
        assert_eq!(int_to_half::<F16>(65519, Rounding::Near), 0x7bff);
        assert_eq!(int_to_half::<Bf16>(257, Rounding::Near), 0x4380);
        assert_eq!(int_to_half::<Bf16>(257, Rounding::Up), 0x4381);
        assert_eq!(f64_to_f32(1e-60, Rounding::Up), f32::from_bits(1));
        assert_eq!(f64_to_f32(-1e-60, Rounding::Down), -f32::from_bits(1));
        assert_eq!(f64_to_f32(1e300, Rounding::Zero), f32::MAX);
    }

    #[test]
    fn tf32() {
        let t = |bits: u32, r| f32_to_tf32(f32::from_bits(bits), r, false, false);
        assert_eq!(t(0x3f80_1000, Tf32Rounding::Near), 0x3f80_0000);
        assert_eq!(t(0x3f80_1000, Tf32Rounding::NearAway), 0x3f80_2000);
        assert_eq!(t(0x3f80_3000, Tf32Rounding::Near), 0x3f80_4000);
        assert_eq!(t(0xbf80_1fff, Tf32Rounding::Zero), 0xbf80_0000);
        assert_eq!(t(0x7f7f_ffff, Tf32Rounding::NearAway), 0x7f80_0000);
        assert_eq!(t(0xffc0_0000, Tf32Rounding::NearAway), 0x7fff_ffff);
        assert_eq!(
            f32_to_tf32(f32::INFINITY, Tf32Rounding::Near, false, true),
            0x7f7f_e000
        );
        assert_eq!(f32_to_tf32(-1.0, Tf32Rounding::Near, true, false), 0);
    }

    #[test]
    fn fp8_round_trips_and_clamps() {
        for format in [Fp8::E4m3, Fp8::E5m2] {
            for x in 0..=255u8 {
                let wide = F16::to_f32(fp8_to_f16(x, format));
                let special = format == Fp8::E5m2 && x & 0x7f >= 0x7c;
                if !special && !wide.is_nan() {
                    assert_eq!(f32_to_fp8(wide, format, false), x);
                }
            }
        }
        assert_eq!(F16::to_f32(fp8_to_f16(0x7e, Fp8::E4m3)), 448.0);
        assert_eq!(F16::to_f32(fp8_to_f16(0x01, Fp8::E4m3)), 0.001953125);
        assert_eq!(F16::to_f32(fp8_to_f16(0x7b, Fp8::E5m2)), 57344.0);
        assert_eq!(fp8_to_f16(0xff, Fp8::E4m3), 0x7fff);
        assert_eq!(f32_to_fp8(f32::NAN, Fp8::E4m3, true), 0x7f);
        assert_eq!(f32_to_fp8(f32::NEG_INFINITY, Fp8::E4m3, false), 0xfe);
        assert_eq!(f32_to_fp8(1e9, Fp8::E5m2, false), 0x7b);
        assert_eq!(f32_to_fp8(464.0, Fp8::E4m3, false), 0x7e);
        assert_eq!(f32_to_fp8(-3.0, Fp8::E4m3, true), 0);
        // Ties to even: 17 lies between 16 and 18.
        assert_eq!(
            f32_to_fp8(17.0, Fp8::E4m3, false),
            f32_to_fp8(16.0, Fp8::E4m3, false)
        );
        assert_eq!(
            f32_to_fp8(19.0, Fp8::E4m3, false),
            f32_to_fp8(20.0, Fp8::E4m3, false)
        );
        // Half the least subnormal goes to zero, a little more does not.
        assert_eq!(f32_to_fp8(0.0009765625, Fp8::E4m3, false), 0);
        assert_eq!(f32_to_fp8(0.00098, Fp8::E4m3, false), 1);
    }
}
