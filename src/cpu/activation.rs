//! Activations, row by row: a of gate and up, and its gradient. Another one is a type with [`Gated`] and a case of `with!`.

use crate::config::Activation;
use crate::element::{Element, Real, row_sum};

/// An activation, one element at a time.
trait Gated<A>: Copy {
    fn value(self, gate: A, up: A) -> A;

    /// The same value and, with `grad` the gradient of a, those of gate and up.
    fn backward(self, gate: A, up: A, grad: A) -> Backward<A>;
}

struct Backward<A> {
    a: A,
    gate: A,
    up: A,
}

#[derive(Clone, Copy)]
struct SwiGlu;

impl<A: Real> Gated<A> for SwiGlu {
    #[inline(always)]
    fn value(self, gate: A, up: A) -> A {
        gate * gate.sigmoid() * up
    }

    #[inline(always)]
    fn backward(self, gate: A, up: A, grad: A) -> Backward<A> {
        let sigmoid = gate.sigmoid();
        let silu = gate * sigmoid;
        Backward {
            a: silu * up,
            gate: grad * up * (sigmoid * (A::ONE + gate * (A::ONE - sigmoid))),
            up: grad * silu,
        }
    }
}

#[derive(Clone, Copy)]
struct ClampedSwiGlu<A> {
    alpha: A,
    limit: A,
    offset: A,
}

impl<A: Real> ClampedSwiGlu<A> {
    fn new(alpha: f64, limit: f64, offset: f64) -> Self {
        Self {
            alpha: A::from_f64(alpha),
            limit: A::from_f64(limit),
            offset: A::from_f64(offset),
        }
    }

    /// Both clamped, NaN left as it is.
    #[inline(always)]
    fn clamp(self, gate: A, up: A) -> (A, A) {
        let below = |value: A| {
            if value > self.limit {
                self.limit
            } else {
                value
            }
        };
        let low = -self.limit;
        (below(gate), if up < low { low } else { below(up) })
    }
}

impl<A: Real> Gated<A> for ClampedSwiGlu<A> {
    #[inline(always)]
    fn value(self, gate: A, up: A) -> A {
        let (gate, up) = self.clamp(gate, up);
        gate * (self.alpha * gate).sigmoid() * (up + self.offset)
    }

    #[inline(always)]
    fn backward(self, gate: A, up: A, grad: A) -> Backward<A> {
        let (gate_clamped, up_clamped) = (gate > self.limit, up > self.limit || up < -self.limit);
        let (gate, up) = self.clamp(gate, up);
        let (scaled, factor) = (self.alpha * gate, up + self.offset);
        let sigmoid = scaled.sigmoid();
        let silu = gate * sigmoid;
        let gate = grad * factor * (sigmoid * (A::ONE + scaled * (A::ONE - sigmoid)));
        Backward {
            a: silu * factor,
            gate: if gate_clamped { A::ZERO } else { gate },
            up: if up_clamped { A::ZERO } else { grad * silu },
        }
    }
}

/// `$function` of the type that an [`Activation`] names, chosen once per row so that loops over its elements are vector loops.
macro_rules! with {
    ($activation:expr, $function:ident($($argument:expr),*)) => {
        match $activation {
            Activation::SwiGlu => $function(SwiGlu, $($argument),*),
            Activation::ClampedSwiGlu { alpha, limit, offset } => {
                $function(ClampedSwiGlu::new(alpha, limit, offset), $($argument),*)
            }
        }
    };
}

/// a of one row of h, rounded.
#[inline(always)]
pub(crate) fn forward<T: Element>(activation: Activation, h: &[T::Acc], a: &mut [T]) {
    with!(activation, forward_of(h, a));
}

#[inline(always)]
fn forward_of<T: Element>(activation: impl Gated<T::Acc>, h: &[T::Acc], a: &mut [T]) {
    let (gate, up) = h.split_at(a.len());
    for ((a, &gate), &up) in a.iter_mut().zip(gate).zip(up) {
        *a = T::narrow(activation.value(gate, up));
    }
}

/// One row: h becomes dh, `weighted_a` = w·a, both 0 where the weight is, whatever it would be multiplied by; returns ⟨dA', a⟩.
/// `a_grad` holds dA' and is used up.
#[inline(always)]
pub(crate) fn backward<T: Element>(
    activation: Activation,
    weight: T::Acc,
    a_grad: &mut [T::Acc],
    h: &mut [T],
    weighted_a: &mut [T],
    h_row: &mut [T::Acc],
) -> T::Acc {
    T::widen_into(h, h_row);
    with!(
        activation,
        backward_of(weight, a_grad, h_row, &mut *weighted_a)
    );
    if weight == T::Acc::ZERO {
        h_row.fill(T::Acc::ZERO);
        weighted_a.fill(T::zeroed());
    }
    T::narrow_into(h_row, h);
    row_sum(a_grad.iter().copied())
}

#[inline(always)]
fn backward_of<T: Element>(
    activation: impl Gated<T::Acc>,
    weight: T::Acc,
    a_grad: &mut [T::Acc],
    h_row: &mut [T::Acc],
    weighted_a: &mut [T],
) {
    let inner = a_grad.len();
    let (gates, ups) = h_row.split_at_mut(inner);
    for i in 0..inner {
        let grad = a_grad[i];
        let backward = activation.backward(gates[i], ups[i], weight * grad);
        let a = T::narrow(backward.a).widen();
        weighted_a[i] = T::narrow(weight * a);
        a_grad[i] = grad * a;
        gates[i] = backward.gate;
        ups[i] = backward.up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a, and the gradients of gate and up for a gradient of a of 1.
    fn both<A: Real>(activation: Activation, gate: f64, up: f64) -> [f64; 3] {
        let mut a = [A::ZERO];
        let mut h = [A::from_f64(gate), A::from_f64(up)];
        forward(activation, &h, &mut a);
        let [value] = a;
        let (mut grad, mut row) = ([A::ONE], [A::ZERO; 2]);
        let dot = backward(activation, A::ONE, &mut grad, &mut h, &mut a, &mut row);
        for again in [a[0], dot] {
            let same = again == value || again.is_nan() && value.is_nan();
            assert!(same, "{again:?} and {value:?}");
        }
        [value, h[0], h[1]].map(Real::to_f64)
    }

    /// Worked out with 40 digits: inside, beyond and at the limits.
    #[test]
    fn gpt_oss_by_hand() {
        let rows = [
            (
                [1.0, 2.0],
                [2.537387297798464, 3.203338819669002, 0.8457957659328212],
            ),
            (
                [-3.0, 0.5],
                [
                    -0.02710696456167895,
                    -0.036822485858478526,
                    -0.018071309707785966,
                ],
            ),
            ([8.0, -9.0], [-41.9997187698199, 0.0, 0.0]),
            (
                [7.0, 7.0],
                [55.999625026426536, 8.000584633095288, 6.999953128303317],
            ),
            (
                [7.0, -7.0],
                [-41.9997187698199, -6.000438474821466, 6.999953128303317],
            ),
            ([7.5, 1.0], [13.999906256606634, 0.0, 6.999953128303317]),
            ([2.0, 7.25], [15.485268985153665, 8.590522834468336, 0.0]),
        ];
        for ([gate, up], want) in rows {
            let exact = both::<f64>(Activation::GPT_OSS, gate, up);
            let single = both::<f32>(Activation::GPT_OSS, gate, up);
            for ((exact, single), want) in exact.into_iter().zip(single).zip(want) {
                assert!((exact - want).abs() <= 1e-14 * want.abs(), "{exact} {want}");
                assert!(
                    (single - want).abs() <= 2e-6 * want.abs(),
                    "{single} {want}"
                );
            }
        }
    }

    /// Clamps that nothing reaches, alpha 1 and offset 0: SwiGLU, to the bit.
    #[test]
    fn without_its_parameters_it_is_swiglu() {
        let plain = Activation::ClampedSwiGlu {
            alpha: 1.0,
            limit: 1e30,
            offset: 0.0,
        };
        for i in 0..400 {
            let (gate, up) = (
                f64::from(i - 200) / 16.0,
                f64::from(i * 37 % 101 - 50) / 8.0,
            );
            let (got, want) = (
                both::<f32>(plain, gate, up),
                both::<f32>(Activation::SwiGlu, gate, up),
            );
            assert_eq!(got, want, "{gate} {up}");
        }
    }

    #[test]
    fn infinity_is_clamped_and_nan_is_not() {
        let both = both::<f32>;
        assert_eq!(
            both(Activation::GPT_OSS, f64::INFINITY, 7.0)[1..],
            [0.0, both(Activation::GPT_OSS, 7.0, 7.0)[2]]
        );
        assert_eq!(both(Activation::GPT_OSS, 1.0, f64::NEG_INFINITY)[2], 0.0);
        assert_eq!(
            both(Activation::GPT_OSS, 1.0, f64::INFINITY)[0],
            both(Activation::GPT_OSS, 1.0, 7.0)[0]
        );
        for (gate, up) in [(f64::NAN, 1.0), (1.0, f64::NAN)] {
            let [a, gate_grad, up_grad] = both(Activation::GPT_OSS, gate, up);
            assert!(a.is_nan() && (gate_grad.is_nan() || up_grad.is_nan()));
        }
    }
}
