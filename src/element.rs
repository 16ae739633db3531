//! Storage types and the types they are computed in.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

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

/// A storage type of tokens and weights: `f32`, `bf16`, `f16`, and `f64` for checking. Sealed.
pub trait Element: Scalar + sealed::Sealed {
    /// What products accumulate in and softmax, losses, weights, dS and the combine are computed in: `f64` for `f64`,
    /// else `f32`.
    type Acc: Real;

    /// Name of the type, for messages.
    const NAME: &'static str;

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
    ($type:ty, $exp:expr) => {
        impl Element for $type {
            type Acc = $type;
            const NAME: &'static str = stringify!($type);

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

arithmetic_type!(f32, exp_f32);
arithmetic_type!(f64, f64::exp);

macro_rules! storage_type {
    ($type:ty) => {
        impl Element for $type {
            type Acc = f32;
            const NAME: &'static str = stringify!($type);

            #[inline(always)]
            fn widen(self) -> f32 {
                self.to_f32()
            }
            #[inline(always)]
            fn narrow(value: f32) -> Self {
                <$type>::from_f32(value)
            }
            fn widen_slice<'s>(source: &'s [Self], scratch: &'s mut [f32]) -> &'s [f32] {
                let scratch = &mut scratch[..source.len()];
                source.convert_to_f32_slice(scratch);
                scratch
            }
            fn widen_into(source: &[Self], target: &mut [f32]) {
                source.convert_to_f32_slice(target);
            }
            fn narrow_into(source: &[f32], target: &mut [Self]) {
                target.convert_from_f32_slice(source);
            }
            fn widen_scratch(n: usize) -> usize {
                n
            }
        }
    };
}

storage_type!(bf16);
storage_type!(f16);

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
