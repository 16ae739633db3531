//! Inputs for tests: numbers that reach edges more often than uniform bits would.

use super::Rounding;

pub(crate) fn all_roundings() -> [Rounding; 4] {
    [Rounding::Near, Rounding::Zero, Rounding::Down, Rounding::Up]
}

/// Reproducible pseudo-random numbers (splitmix64).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// An f32: specials, subnormals, near powers of two, near one another, or any bits.
    pub(crate) fn f32(&mut self) -> f32 {
        let bits = self.bits() as u32;
        let near = |e: u32| (bits & 0x8000_0000) | (e << 23) | (bits & 0x7f_ffff);
        f32::from_bits(match self.below(10) {
            0 => {
                [
                    0,
                    1,
                    0x7f80_0000,
                    0x7fc0_0000,
                    0x7f7f_ffff,
                    0x0080_0000,
                    0x3f80_0000,
                    0x007f_ffff,
                ][(bits >> 8) as usize & 7]
                    | bits & 0x8000_0000
            }
            1 => bits & 0x807f_ffff,
            2 => near(self.below(4) as u32),
            3 => near(251 + self.below(4) as u32),
            4..7 => near(120 + self.below(16) as u32),
            7 => near(100 + self.below(60) as u32) & 0xffff_f003,
            _ => bits,
        })
    }

    /// An f64 with the same preferences.
    pub(crate) fn f64(&mut self) -> f64 {
        let bits = self.bits();
        let sign = bits & 1 << 63;
        let near = |e: u64| sign | (e << 52) | (bits & ((1 << 52) - 1));
        f64::from_bits(match self.below(8) {
            0 => {
                sign | [
                    0,
                    1,
                    0x7ff0 << 48,
                    0x7ff8 << 48,
                    (0x7ff0 << 48) - 1,
                    1 << 52,
                    1023 << 52,
                    (1 << 52) - 1,
                ][(bits >> 8) as usize & 7]
            }
            1 => near(0),
            2 => near(self.below(60)),
            3 => near(2040 + self.below(7)),
            4 | 5 => near(1010 + self.below(26)),
            6 => near(900 + self.below(240)) & !0xff_ffff_fff0,
            _ => bits,
        })
    }
}
