//! The rule of tolerance: how far results may be from what is right.
//!
//! A plain computation in the same type shows what error is to be expected; a result may be off by twice as much, and [`F32`].
//! [`assert_near`] is that rule. [`Values`] has the comparisons that it is made of, as traits of [`approx`]:
//!
//! ```
//! use approx::{assert_abs_diff_eq, assert_relative_ne};
//! use millet_testing::tolerance::{F32, Values};
//!
//! let (got, exact) = ([1000.0, 1.000_005], [1000.001, 1.0]);
//! assert_abs_diff_eq!(Values(&got), Values(&exact), epsilon = 0.002);
//! // Each by its own size: the second is off by half of 1e-5, the first by a tenth of it.
//! approx::assert_relative_eq!(Values(&got), Values(&exact), epsilon = F32, max_relative = F32);
//! assert_relative_ne!(Values(&got), Values(&exact), epsilon = 1e-6, max_relative = 1e-6);
//! ```

use approx::{AbsDiffEq, RelativeEq};
use millet::{DType, Element};

use crate::harness::{TestBackend, exact};

/// The part of the rule that does not depend on a reference. Where a test holds a number against one that it works out itself, this is
/// its tolerance in f32, relative to the larger of 1 and the number.
pub const F32: f64 = 1e-5;

/// A tensor of results, or of what they should be. A NaN is near nothing, not even a NaN; infinities are near themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Values<'a>(pub &'a [f64]);

impl Values<'_> {
    /// max|self − exact|; NaN if any difference is.
    ///
    /// # Panics
    /// When there are not as many.
    #[track_caller]
    pub fn furthest(self, exact: Self) -> f64 {
        assert_eq!(self.0.len(), exact.0.len());
        let distances = self.0.iter().zip(exact.0).map(|(&a, &b)| distance(a, b));
        // A NaN must not hide.
        distances.fold(0.0f64, |m, d| if m.is_nan() || d <= m { m } else { d })
    }

    /// ‖self − exact‖ / ‖exact‖ in the Frobenius norm; very large where all of `exact` is 0 and `self` is not.
    ///
    /// # Panics
    /// When there are not as many.
    #[track_caller]
    pub fn relative_error(self, exact: Self) -> f64 {
        assert_eq!(self.0.len(), exact.0.len());
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let difference = norm(&mut self.0.iter().zip(exact.0).map(|(a, b)| a - b));
        difference / norm(&mut exact.0.iter().copied()).max(1e-30)
    }
}

/// 0 between equal values, infinite ones too.
fn distance(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { (a - b).abs() }
}

impl AbsDiffEq for Values<'_> {
    type Epsilon = f64;

    fn default_epsilon() -> f64 {
        F32
    }

    /// Equal, or all differences below `epsilon`.
    fn abs_diff_eq(&self, other: &Self, epsilon: f64) -> bool {
        let is_near = |(&a, &b)| a == b || distance(a, b) < epsilon;
        self.0.len() == other.0.len() && self.0.iter().zip(other.0).all(is_near)
    }
}

impl RelativeEq for Values<'_> {
    fn default_max_relative() -> f64 {
        F32
    }

    /// Equal, or each difference below `epsilon` or below `max_relative` of the value in `exact`.
    fn relative_eq(&self, exact: &Self, epsilon: f64, max_relative: f64) -> bool {
        let is_near =
            |(&a, &b): (&f64, &f64)| a == b || distance(a, b) < epsilon.max(max_relative * b.abs());
        self.0.len() == exact.0.len() && self.0.iter().zip(exact.0).all(is_near)
    }
}

/// Results of a backend in its exact type against what is right. In f64 each is within `tolerance` of it, relative to the larger
/// of 1 and it. In f32 it is the rule for storage types, [`assert_near`], `same` being what the CPU computes in f32.
///
/// # Panics
/// When they are further off.
#[track_caller]
pub fn assert_right<B: TestBackend>(
    got: &[f64],
    right: &[f64],
    same: impl FnOnce() -> Vec<f64>,
    tolerance: f64,
    what: &str,
) {
    assert_eq!(got.len(), right.len(), "{what}");
    let right = exact::<B>(right);
    if B::Exact::DTYPE != DType::F64 {
        return assert_near(got, &right, &same(), what);
    }
    for (i, (got, right)) in got.iter().zip(&right).enumerate() {
        let [one, other] = [got, right].map(std::slice::from_ref).map(Values);
        let close = one.relative_eq(&other, tolerance, tolerance);
        assert!(close, "{what}: {got} instead of {right} at {i}");
    }
}

/// The rule for storage types: `max|got − exact| < 2·max|same − exact| + 1e-5`, where `same` is what the CPU computes in the same
/// type. It is for numbers of order 1; where the largest is larger, the 1e-5 is relative to it.
///
/// # Panics
/// When they are further off.
#[track_caller]
pub fn assert_near(got: &[f64], exact: &[f64], same: &[f64], what: &str) {
    let lengths = (got.len(), same.len());
    assert_eq!(lengths, (exact.len(), exact.len()), "{what}");
    let finite = exact.iter().filter(|v| v.is_finite());
    let size = finite.fold(1.0f64, |m, v| m.max(v.abs()));
    let [got, exact, same] = [got, exact, same].map(Values);
    let allowed = 2.0 * same.furthest(exact) + F32 * size;
    let off = got.furthest(exact);
    // A plain computation that is infinitely far off allows nothing.
    let is_near = off < allowed && allowed.is_finite();
    assert!(is_near, "{what}: off by {off:e}, allowed {allowed:e}");
}

/// The rule in the relative Frobenius norm: `got` is off by less than 1.5 times what `same` is, and 2e-6.
///
/// # Panics
/// When it is further off.
#[track_caller]
pub fn assert_near_in_norm(got: &[f64], exact: &[f64], same: &[f64], what: &str) {
    let [off, same] = [got, same].map(|values| Values(values).relative_error(Values(exact)));
    assert!(
        off < 1.5 * same + 2e-6 && same.is_finite(),
        "{what}: relative {off:e} beside {same:e}"
    );
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use millet::Cpu;

    use super::*;

    /// Does it pass? A message tells what is off.
    fn passes(check: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        match catch_unwind(check) {
            Ok(()) => true,
            Err(message) => {
                let message = message.downcast_ref::<String>().expect("a message");
                assert!(message.contains("dX"), "{message}");
                false
            }
        }
    }

    #[test]
    fn results_may_be_off_by_twice_what_a_plain_computation_is_off_by() {
        let near = |got: [f64; 2], exact: [f64; 2], same: [f64; 2]| {
            passes(move || assert_near(&got, &exact, &same, "dX"))
        };
        assert!(near([1.0, -2.0], [1.0, -2.0], [1.0, -2.0]));
        // 1e-5 without an error of the plain computation, and of the size of the largest number.
        assert!(near([0.5 + 0.9e-5, 1.0], [0.5, 1.0], [0.5, 1.0]));
        assert!(!near([0.5 - 1.1e-5, 1.0], [0.5, 1.0], [0.5, 1.0]));
        assert!(near([0.5 + 0.9e-3, 100.0], [0.5, 100.0], [0.5, 100.0]));
        assert!(!near([0.5 - 1.1e-3, -100.0], [0.5, -100.0], [0.5, -100.0]));
        // Twice 0.1, wherever that is off, to either side.
        assert!(near([1.0, 1.19], [1.0, 1.0], [0.9, 1.0]));
        assert!(near([1.0, 0.81], [1.0, 1.0], [1.1, 1.0]));
        assert!(!near([1.0, 1.21], [1.0, 1.0], [0.9, 1.0]));
        assert!(!near([0.79, 1.0], [1.0, 1.0], [1.0, 1.1]));
    }

    #[test]
    fn what_is_not_finite_must_be_the_same() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        let near = |got: f64, exact: f64, same: f64| {
            let of = |value: f64| [1.0, value, 2.0];
            let (got, exact, same) = (of(got), of(exact), of(same));
            let one = passes(move || assert_near(&got, &exact, &same, "dX"));
            let other = passes(move || assert_near_in_norm(&got, &exact, &same, "dX"));
            assert!(!other || one);
            one
        };
        assert!(near(inf, inf, inf));
        assert!(near(-inf, -inf, -inf));
        for (got, exact, same) in [
            (nan, 1.0, 1.0),
            (1.0, 1.0, nan),
            (nan, nan, nan),
            (nan, 1.0, nan),
            (1.0, nan, 1.0),
            (inf, 1.0, 1.0),
            (inf, -inf, -inf),
            (1.0, inf, inf),
            // A plain computation that is off by infinity allows nothing.
            (inf, 1.0, inf),
            (7.0, 1.0, inf),
        ] {
            assert!(!near(got, exact, same), "{got} for {exact} beside {same}");
        }
    }

    #[test]
    fn as_many_values_are_compared() {
        for [got, exact, same] in [[2, 3, 3], [3, 2, 2], [3, 3, 2], [0, 1, 1]] {
            let values = [1.0; 3];
            let near = move || assert_near(&values[..got], &values[..exact], &values[..same], "dX");
            assert!(!passes(near));
            let all = [got, exact, same].map(|n| &values[..n]);
            assert!(catch_unwind(|| assert_near_in_norm(all[0], all[1], all[2], "dX")).is_err());
        }
        assert!(passes(|| assert_near(&[], &[], &[], "dX")));
    }

    #[test]
    fn the_norm_is_that_of_all_values_relative_to_the_exact_ones() {
        let error = |got: &[f64], exact: &[f64]| Values(got).relative_error(Values(exact));
        // ‖(3, 4)‖ = 5 beside ‖(6, 8)‖ = 10; and once more with each value twice.
        assert_eq!(error(&[9.0, 12.0], &[6.0, 8.0]), 0.5);
        assert_eq!(error(&[9.0, 12.0, 3.0, 4.0], &[6.0, 8.0, 6.0, 8.0]), 0.5);
        assert_eq!(error(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        assert!(error(&[0.0, 1e-9], &[0.0, 0.0]) > 1e9);

        let near = |got: [f64; 2], same: [f64; 2]| {
            passes(move || assert_near_in_norm(&got, &[6.0, 8.0], &same, "dX"))
        };
        assert!(near([6.0, 8.0], [6.0, 8.0]));
        assert!(near([6.0, 8.0 + 1.9e-5], [6.0, 8.0]));
        assert!(!near([6.0, 8.0 + 2.1e-5], [6.0, 8.0]));
        assert!(near([6.0 + 0.149, 8.0], [6.0, 8.0 - 0.1]));
        assert!(!near([6.0 + 0.151, 8.0], [6.0, 8.0 - 0.1]));
    }

    #[test]
    fn the_furthest_is_found_and_a_nan_does_not_hide() {
        let furthest = |got: &[f64], exact: &[f64]| Values(got).furthest(Values(exact));
        assert_eq!(furthest(&[1.0, 5.0, 2.0], &[1.0, 2.0, 4.0]), 3.0);
        assert_eq!(furthest(&[], &[]), 0.0);
        assert_eq!(furthest(&[f64::INFINITY], &[f64::INFINITY]), 0.0);
        for nan in 0..3 {
            let mut got = [1.0, 9.0, 1.0];
            got[nan] = f64::NAN;
            assert!(furthest(&got, &[1.0; 3]).is_nan(), "at {nan}");
        }
    }

    #[test]
    fn in_f64_each_value_has_its_own_tolerance() {
        let right = |got: [f64; 2], right: [f64; 2]| {
            // f64 is held against what is right alone.
            passes(move || assert_right::<Cpu>(&got, &right, || unreachable!(), 1e-9, "dX"))
        };
        assert!(right([1.0 + 0.9e-9, 1e6 + 0.9e-3], [1.0, 1e6]));
        assert!(!right([1.0 + 1.1e-9, 1e6], [1.0, 1e6]));
        assert!(!right([1.0, 1e6 - 1.1e-3], [1.0, 1e6]));
        // Below 1 it is absolute.
        assert!(right([0.9e-9, 1.0], [0.0, 1.0]));
        assert!(!right([1.1e-9, 1.0], [0.0, 1.0]));
        assert!(!right([f64::NAN, 1.0], [f64::NAN, 1.0]));
        assert!(!right([1.0, f64::NAN], [1.0, 1.0]));
        assert!(right([f64::INFINITY, 1.0], [f64::INFINITY, 1.0]));
    }

    #[test]
    fn comparisons_of_approx_are_strict() {
        let (a, b) = ([1.0, 2.0], [1.0, 2.5]);
        assert!(Values(&a).abs_diff_eq(&Values(&b), 0.51));
        assert!(!Values(&a).abs_diff_eq(&Values(&b), 0.5));
        assert!(Values(&a).relative_eq(&Values(&b), 0.0, 0.21));
        assert!(!Values(&a).relative_eq(&Values(&b), 0.0, 0.19));
        assert!(!Values(&a).abs_diff_eq(&Values(&b[..1]), 1.0));
        assert!(!Values(&a).relative_eq(&Values(&b[..1]), 1.0, 1.0));
        let nan = [f64::NAN, 2.0];
        assert!(!Values(&nan).abs_diff_eq(&Values(&nan), 1.0));
        assert!(!Values(&nan).relative_eq(&Values(&nan), 1.0, 1.0));
    }
}
