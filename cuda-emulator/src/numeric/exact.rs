//! Binary floating point of any small format, in integers: exact values, one rounding at the end.
//!
//! The slow and general way. The fast functions of the other modules are tested against it, and the modes that are rare use it.

use super::Rounding;

/// A binary interchange format: IEEE 754 layout with `precision` significant bits and `exponent_bits` bits of exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub precision: u32,
    pub exponent_bits: u32,
}

pub(crate) const F16: Format = Format {
    precision: 11,
    exponent_bits: 5,
};
pub(crate) const BF16: Format = Format {
    precision: 8,
    exponent_bits: 8,
};
pub(crate) const F32: Format = Format {
    precision: 24,
    exponent_bits: 8,
};
pub(crate) const F64: Format = Format {
    precision: 53,
    exponent_bits: 11,
};
pub(crate) const E5M2: Format = Format {
    precision: 3,
    exponent_bits: 5,
};

impl Format {
    /// Least exponent of a normal number (its value is at least 2^min_exponent).
    pub(crate) const fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits - 1))
    }

    /// Bits of positive infinity.
    pub(crate) const fn infinity(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << (self.precision - 1)
    }

    const fn sign_bit(self) -> u64 {
        1 << (self.exponent_bits + self.precision - 1)
    }
}

/// A number: ±`significand`·2^`exponent`, plus something in (0, 1) units of the last place if `sticky`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exact {
    pub negative: bool,
    pub significand: u128,
    pub exponent: i32,
    pub sticky: bool,
}

/// What a bit pattern stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Finite(Exact),
    Infinite { negative: bool },
    Nan,
}

/// The value of a bit pattern.
pub(crate) fn decode(bits: u64, format: Format) -> Value {
    let fraction_bits = format.precision - 1;
    let negative = bits & format.sign_bit() != 0;
    let exponent = (bits >> fraction_bits) & ((1 << format.exponent_bits) - 1);
    let fraction = bits & ((1 << fraction_bits) - 1);
    if exponent == (1 << format.exponent_bits) - 1 {
        return if fraction == 0 {
            Value::Infinite { negative }
        } else {
            Value::Nan
        };
    }
    let (significand, exponent) = if exponent == 0 {
        (fraction, 1)
    } else {
        (fraction | 1 << fraction_bits, exponent as i32)
    };
    Value::Finite(Exact {
        negative,
        significand: u128::from(significand),
        exponent: exponent - 1 + format.min_exponent() - fraction_bits as i32,
        sticky: false,
    })
}

impl Exact {
    /// An integer.
    pub(crate) fn integer(value: i128) -> Self {
        Self {
            negative: value < 0,
            significand: value.unsigned_abs(),
            exponent: 0,
            sticky: false,
        }
    }

    /// Rounds once to a format. Too large gives infinity or the largest number, as the mode says.
    pub(crate) fn round(self, format: Format, rounding: Rounding) -> u64 {
        let sign = if self.negative { format.sign_bit() } else { 0 };
        if self.significand == 0 && !self.sticky {
            return sign;
        }
        let away = match rounding {
            Rounding::Up => !self.negative,
            Rounding::Down => self.negative,
            Rounding::Near | Rounding::Zero => false,
        };
        if self.significand == 0 {
            return sign | u64::from(away);
        }
        let p = format.precision as i32;
        let top = 127 - self.significand.leading_zeros() as i32;
        // Exponent of the result's last place.
        let last = (self.exponent + top).max(format.min_exponent()) - (p - 1);
        let shift = last - self.exponent;
        let (mut kept, half, rest) = if shift <= 0 {
            // A sticky tail below an exact significand: less than any kept bit.
            (self.significand << -shift, false, self.sticky)
        } else if shift > 127 {
            (0, false, true)
        } else {
            let below = self.significand & ((1 << shift) - 1);
            let half = 1u128 << (shift - 1);
            (
                self.significand >> shift,
                below & half != 0,
                below & (half - 1) != 0 || self.sticky,
            )
        };
        let up = match rounding {
            Rounding::Near => half && (rest || kept & 1 == 1),
            _ => away && (half || rest),
        };
        kept += u128::from(up);
        // A carry out of the significand moves into the exponent by itself in this encoding.
        let biased = (last - (format.min_exponent() - (p - 1))) as u64;
        let bits = if kept >> (p - 1) == 0 {
            kept as u64
        } else {
            (biased << (p - 1)) + kept as u64
        };
        let infinity = format.infinity();
        if bits >= infinity {
            let finite = match rounding {
                Rounding::Near => false,
                _ => !away,
            };
            return sign | if finite { infinity - 1 } else { infinity };
        }
        sign | bits
    }

    /// The product; no bits may be lost (both significands below 2^64).
    pub(crate) fn times(self, other: Self) -> Self {
        Self {
            negative: self.negative != other.negative,
            significand: self.significand * other.significand,
            exponent: self.exponent + other.exponent,
            sticky: false,
        }
    }

    /// The sum, exact up to a sticky tail that lies below 2^-20 of the result's last place for significands of at most 107 bits.
    /// An exact zero from operands of opposite sign is positive, or negative with `Down`.
    pub(crate) fn plus(self, other: Self, rounding: Rounding) -> Self {
        if self.significand == 0 && other.significand == 0 {
            let negative = if self.negative == other.negative {
                self.negative
            } else {
                rounding == Rounding::Down
            };
            return Self { negative, ..self };
        }
        if self.significand == 0 {
            return other;
        }
        if other.significand == 0 {
            return self;
        }
        let top = |x: &Self| x.exponent + 127 - x.significand.leading_zeros() as i32;
        let (big, small) = if top(&self) >= top(&other) {
            (self, other)
        } else {
            (other, self)
        };
        // The larger one's leading bit goes to bit 125.
        let up = big.significand.leading_zeros() as i32 - 2;
        let exponent = big.exponent - up;
        let a = big.significand << up;
        let down = exponent - small.exponent;
        let (b, sticky) = if down <= 0 {
            (small.significand << -down, false)
        } else if down > 127 {
            (0, true)
        } else {
            let lost = small.significand & ((1 << down) - 1) != 0;
            (small.significand >> down, lost)
        };
        let (negative, significand) = if big.negative == small.negative {
            (big.negative, a + b)
        } else {
            // With a lost tail, a - (b + tail) = (a - b - 1) + (1 - tail).
            let difference = a as i128 - b as i128 - i128::from(sticky);
            if difference == 0 && !sticky {
                (rounding == Rounding::Down, 0)
            } else {
                (big.negative != (difference < 0), difference.unsigned_abs())
            }
        };
        Self {
            negative,
            significand,
            exponent,
            sticky,
        }
    }
}

/// a·b + c in one format with one rounding; `None` where the result is not a number.
pub(crate) fn fma(a: u64, b: u64, c: u64, format: Format, rounding: Rounding) -> Option<u64> {
    use Value::{Finite, Infinite, Nan};
    let infinity = |negative: bool| {
        let sign = if negative { format.sign_bit() } else { 0 };
        Some(sign | format.infinity())
    };
    let zero = |v: &Value| matches!(v, Finite(e) if e.significand == 0);
    let negative = |v: &Value| match v {
        Finite(e) => e.negative,
        Infinite { negative } => *negative,
        Nan => false,
    };
    let (a, b, c) = (decode(a, format), decode(b, format), decode(c, format));
    match (a, b, c) {
        (Nan, _, _) | (_, Nan, _) | (_, _, Nan) => None,
        (Infinite { .. }, _, _) | (_, Infinite { .. }, _) => {
            let sign = negative(&a) != negative(&b);
            let conflict = matches!(c, Infinite { negative } if negative != sign);
            if zero(&a) || zero(&b) || conflict {
                None
            } else {
                infinity(sign)
            }
        }
        (_, _, Infinite { negative }) => infinity(negative),
        (Finite(a), Finite(b), Finite(c)) => {
            Some(a.times(b).plus(c, rounding).round(format, rounding))
        }
    }
}
