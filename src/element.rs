//! Storage types and the types they are computed in.

use std::fmt::{self, Debug, Display, Formatter};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use half::{bf16, f16};
use pulp::Arch;

use crate::cpu::parallel::Inlined;
use crate::cpu::product::Multiply;

/// Anything a device buffer holds.
pub trait Scalar: bytemuck::Pod + Debug + PartialEq + Send + Sync + device::Scalar {}

mod device {
    //! What every backend of this build needs of a scalar.

    #[cfg(feature = "cuda")]
    pub trait Scalar: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits {}
    #[cfg(feature = "cuda")]
    impl<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits> Scalar for T {}

    #[cfg(not(feature = "cuda"))]
    pub trait Scalar {}
    #[cfg(not(feature = "cuda"))]
    impl<T> Scalar for T {}
}

impl Scalar for u8 {}
impl Scalar for i32 {}
impl Scalar for f32 {}
impl Scalar for f64 {}
impl Scalar for bf16 {}
impl Scalar for f16 {}

/// A storage type as a value: by it the types of [`Element`] are told apart at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// `f32`.
    F32,
    /// `f64`.
    F64,
    /// [`half::bf16`].
    BF16,
    /// [`half::f16`].
    F16,
}

impl DType {
    /// As Rust writes the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }
}

impl Display for DType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A storage type of tokens and weights: `f32`, `bf16`, `f16`, and `f64` for checking. Sealed.
pub trait Element: Scalar + sealed::Sealed {
    /// What products accumulate in and softmax, losses, weights, dS and the combine are computed in: `f64` for `f64`,
    /// else `f32`.
    type Acc: Real;

    /// The type as a value.
    const DTYPE: DType;

    /// Exact.
    fn widen(self) -> Self::Acc;

    /// Rounds to nearest even.
    fn narrow(value: Self::Acc) -> Self;

    /// `source` in the accumulation type: itself when that is the same type, else converted into `scratch`.
    ///
    /// # Panics
    /// When `scratch` is shorter than `source` and is needed.
    fn widen_slice<'s>(source: &'s [Self], scratch: &'s mut [Self::Acc]) -> &'s [Self::Acc];

    /// Copies `source` into `target`, converted.
    fn widen_into(source: &[Self], target: &mut [Self::Acc]);

    /// Copies `source` into `target`, rounded.
    fn narrow_into(source: &[Self::Acc], target: &mut [Self]);

    /// Elements of scratch that [`widen_slice`](Self::widen_slice) needs for `n` elements.
    fn widen_scratch(n: usize) -> usize;
}

/// An arithmetic type: `f32` or `f64`. Sealed.
pub trait Real:
    Element<Acc = Self>
    + Multiply
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + std::iter::Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Largest finite value.
    const MAX: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// Not a number.
    const NAN: Self;

    /// Rounds an `f64`.
    fn from_f64(value: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// eˣ. For `f32` a fixed sequence of IEEE operations, so that every backend gives the same bits.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Not a number?
    fn is_nan(self) -> bool;
    /// Neither infinite nor NaN?
    fn is_finite(self) -> bool;

    /// 1/(1 + e⁻ˣ).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

macro_rules! arithmetic_type {
    ($type:ty, $dtype:ident, $exp:expr) => {
        impl Element for $type {
            type Acc = $type;
            const DTYPE: DType = DType::$dtype;

            #[inline(always)]
            fn widen(self) -> Self {
                self
            }
            #[inline(always)]
            fn narrow(value: Self) -> Self {
                value
            }
            fn widen_slice<'s>(source: &'s [Self], _: &'s mut [Self]) -> &'s [Self] {
                source
            }
            fn widen_into(source: &[Self], target: &mut [Self]) {
                target.copy_from_slice(source);
            }
            fn narrow_into(source: &[Self], target: &mut [Self]) {
                target.copy_from_slice(source);
            }
            fn widen_scratch(_: usize) -> usize {
                0
            }
        }

        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const MAX: Self = <$type>::MAX;
            const NEG_INFINITY: Self = <$type>::NEG_INFINITY;
            const NAN: Self = <$type>::NAN;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                <$type>::ln(self)
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                <$type>::is_nan(self)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                <$type>::is_finite(self)
            }
        }
    };
}

arithmetic_type!(f32, F32, exp_f32);
arithmetic_type!(f64, F64, f64::exp);

macro_rules! storage_type {
    ($type:ty, $dtype:ident, $widen:expr, $narrow:expr) => {
        impl Element for $type {
            type Acc = f32;
            const DTYPE: DType = DType::$dtype;

            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self.to_bits())
            }
            #[inline(always)]
            fn narrow(value: f32) -> Self {
                Self::from_bits($narrow(value))
            }
            fn widen_slice<'s>(source: &'s [Self], scratch: &'s mut [f32]) -> &'s [f32] {
                let scratch = &mut scratch[..source.len()];
                Self::widen_into(source, scratch);
                scratch
            }
            fn widen_into(source: &[Self], target: &mut [f32]) {
                convert(source, target, Self::widen);
            }
            fn narrow_into(source: &[f32], target: &mut [Self]) {
                convert(source, target, Self::narrow);
            }
            fn widen_scratch(n: usize) -> usize {
                n
            }
        }
    };
}

storage_type!(bf16, BF16, widen_bf16, narrow_bf16);
storage_type!(f16, F16, widen_f16, narrow_f16);

/// Every element, as many at a time as the machine's vectors hold.
#[inline(always)]
fn convert<S: Copy, T>(source: &[S], target: &mut [T], one: impl Fn(S) -> T) {
    assert_eq!(source.len(), target.len(), "lengths of a conversion");
    Arch::new().dispatch(Inlined(
        #[inline(always)]
        || {
            for (target, &source) in target.iter_mut().zip(source) {
                *target = one(source);
            }
        },
    ));
}

// The crate `half` gives the same bits, but branches, or asks what the processor has, for each element; these loops become
// vector instructions.

/// Exact; a NaN becomes quiet.
#[inline(always)]
fn widen_bf16(bits: u16) -> f32 {
    let is_nan = bits & 0x7FFF > 0x7F80;
    f32::from_bits((u32::from(bits) | if is_nan { 0x40 } else { 0 }) << 16)
}

/// Rounds to nearest even; a NaN stays one.
#[inline(always)]
fn narrow_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    let kept = if value.is_nan() {
        bits | 0x40_0000
    } else {
        rounded
    };
    (kept >> 16) as u16
}

/// Exact; a NaN becomes quiet.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7FFF));
    // The exponents' biases differ by 112; the product is exact for subnormal numbers too.
    let finite = (f32::from_bits(magnitude << 13) * power_of_two(112)).to_bits();
    let quiet = if magnitude > 0x7C00 { 0x40_0000 } else { 0 };
    let special = magnitude << 13 | 0x7F80_0000 | quiet;
    f32::from_bits(sign | if magnitude < 0x7C00 { finite } else { special })
}

/// Rounds to nearest even; a NaN stays one.
#[inline(always)]
fn narrow_f16(value: f32) -> u16 {
    let (sign, magnitude) = (
        value.to_bits() >> 16 & 0x8000,
        value.to_bits() & 0x7FFF_FFFF,
    );
    // A carry out of the mantissa is right: it goes to the next exponent, at the end to infinity.
    let rounded = magnitude.wrapping_sub((112 << 23) - 0xFFF - (magnitude >> 13 & 1));
    // Below 2⁻¹⁴ the sum's last place is that of an f16, 2⁻²⁴, and the addition rounds to it.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0.5f32.to_bits());
    let bits = if magnitude < 113 << 23 {
        subnormal
    } else if magnitude < 143 << 23 {
        rounded >> 13
    } else if magnitude <= 0x7F80_0000 {
        0x7C00
    } else {
        0x7E00 | magnitude >> 13 & 0x3FF
    };
    (sign | bits) as u16
}

/// eˣ to within one unit in the last place, by a sequence of correctly rounded operations (fma, multiply, round), so that
/// a GPU that does the same gets the same bits: selection and dropping compare these values. Reduction by Cody and Waite,
/// minimax polynomial, scaling in two steps so that subnormal results are rounded once.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// ln 2 in two parts, the first with few bits: n·LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Minimax polynomial of (eʳ − 1 − r)/r² (Cephes).
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    /// 1.5·2²³: adding it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;

    // Written as comparisons so that NaN passes through; e⁻¹⁰⁴ is 0 and e⁸⁹ is infinite.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let n = x.mul_add(LOG2_E, ROUND) - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = POLYNOMIAL[0];
    for coefficient in &POLYNOMIAL[1..] {
        p = p.mul_add(r, *coefficient);
    }
    p = p.mul_add(r * r, r) + 1.0;
    // `max` maps NaN to 0 here; p is NaN then, so the result is.
    let n = n.max(-160.0) as i32;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n - half)
}

/// 2ⁿ for |n| ≤ 126.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// Are all values neither infinite nor NaN? Without a way out in the middle, so that it is vectorised.
#[inline(always)]
pub(crate) fn all_finite<A: Real>(values: &[A]) -> bool {
    values.iter().fold(true, |finite, v| finite & v.is_finite())
}

/// Sum in the order that every backend uses for a row: 32 strided partial sums, then a binary tree.
#[inline(always)]
pub(crate) fn row_sum<A: Real>(values: impl Iterator<Item = A>) -> A {
    let mut lanes = [A::ZERO; 32];
    for (i, value) in values.enumerate() {
        lanes[i % 32] += value;
    }
    let mut width = 16;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value of a storage type, and every f32 about which rounding could be wrong: the value itself, the middle between
    /// it and the next, and the neighbours of both.
    fn conversions_are_those_of_half<T: Element<Acc = f32>>(
        from_bits: fn(u16) -> T,
        widen: fn(T) -> f32,
        narrow: fn(f32) -> T,
        subnormal_steps: f32,
    ) {
        let all: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
        let mut widened = vec![0.0; all.len()];
        T::widen_into(&all, &mut widened);
        let mut values = vec![subnormal_steps, -subnormal_steps];
        for (bits, (&ours, &of)) in widened.iter().zip(&all).enumerate() {
            assert_eq!(ours.to_bits(), widen(of).to_bits(), "{bits:#x} widened");
            assert_eq!(of.widen().to_bits(), ours.to_bits());
            // Infinity is where the next power of two would be.
            let next = widened[(bits + 1) & 0xFFFF];
            let next = if next.is_infinite() { ours * 2.0 } else { next };
            for value in [ours, ours + (next - ours) / 2.0] {
                values.extend([value.next_down(), value, value.next_up()]);
            }
        }
        // NaN with every single bit of payload, signalling ones too.
        values.extend((0..23).map(|bit| f32::from_bits(0xFF80_0000 | 1 << bit)));
        values.extend([f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1)]);
        let mut narrowed = vec![from_bits(0); values.len()];
        T::narrow_into(&values, &mut narrowed);
        for (&value, &ours) in values.iter().zip(&narrowed) {
            let bits = |value: T| bytemuck::cast::<T, u16>(value);
            assert_eq!(bits(ours), bits(narrow(value)), "{:#x}", value.to_bits());
            assert_eq!(bits(T::narrow(value)), bits(ours));
        }
    }

    #[test]
    fn a_type_and_its_value_agree() {
        fn check<T: Element>() {
            assert_eq!(T::DTYPE.size(), size_of::<T>());
            let name = std::any::type_name::<T>();
            assert_eq!(name.rsplit("::").next(), Some(T::DTYPE.name()));
            assert_eq!(
                format!("{:>5}", T::DTYPE),
                format!("{:>5}", T::DTYPE.name())
            );
        }
        check::<f32>();
        check::<f64>();
        check::<bf16>();
        check::<f16>();
    }

    #[test]
    fn conversions_of_bf16() {
        conversions_are_those_of_half(bf16::from_bits, bf16::to_f32, bf16::from_f32, 1e-41);
    }

    #[test]
    fn conversions_of_f16() {
        conversions_are_those_of_half(f16::from_bits, f16::to_f32, f16::from_f32, 3e-8);
    }

    #[test]
    fn exp_is_within_one_ulp() {
        let mut worst = 0.0f64;
        let mut x = -87.0f32;
        while x < 88.7 {
            let exact = f64::from(x).exp();
            let ulp = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            worst = worst.max((f64::from(exp_f32(x)) - exact).abs() / ulp);
            x += 0.000_37;
        }
        assert!(worst < 1.0, "{worst} ulp");
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(exp_f32(-0.0), 1.0);
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_f32(-104.0), 0.0);
        assert_eq!(exp_f32(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp_f32(88.8), f32::INFINITY);
        assert!(exp_f32(f32::NAN).is_nan());
        let subnormal = exp_f32(-100.0);
        assert!((f64::from(subnormal) / (-100.0f64).exp() - 1.0).abs() < 0.02);
    }

    #[test]
    fn row_sum_order_is_strided_then_a_tree() {
        // 33 values: lane 0 holds the first and the last, which cancel before anything else can absorb them.
        let mut values = vec![1.0f32; 33];
        (values[0], values[32]) = (1e8, -1e8);
        assert_eq!(row_sum(values.into_iter()), 31.0);
        assert_eq!(row_sum(std::iter::empty::<f64>()), 0.0);
    }
}
