//! Products of 8-bit integers.

use crate::numeric::Register;

/// An 8-bit integer m16n8 or m8n8 instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Integer {
    /// Rows: 16, or 8 with k = 16.
    pub m: usize,
    /// 16 or 32.
    pub k: usize,
    pub a_signed: bool,
    pub b_signed: bool,
    /// `.satfinite`: clamp the sum rather than wrap.
    pub saturate: bool,
}

impl Integer {
    /// Registers of A, B, C and D.
    pub(crate) fn registers(self) -> [usize; 4] {
        let halves = self.m / 8;
        [halves * self.k / 16, self.k / 16, 2 * halves, 2 * halves]
    }
}

/// An integer instruction; with m = 8 only the first two registers of D count.
pub(crate) fn integer(
    kind: Integer,
    a: &[&Register],
    b: &[&Register],
    c: &[&Register],
) -> [Register; 4] {
    let byte = |word: u32, i: usize, signed: bool| {
        let x = (word >> (8 * i)) as u8;
        if signed {
            i32::from(x as i8)
        } else {
            i32::from(x)
        }
    };
    let mut left = [[0i32; 32]; 16];
    let mut right = [[0i32; 32]; 8];
    for (r, register) in a.iter().enumerate() {
        for (lane, &word) in register.iter().enumerate() {
            for i in 0..4 {
                left[lane / 4 + 8 * (r % 2)][4 * (lane % 4) + 16 * (r / 2) + i] =
                    byte(word, i, kind.a_signed);
            }
        }
    }
    for (r, register) in b.iter().enumerate() {
        for (lane, &word) in register.iter().enumerate() {
            for i in 0..4 {
                right[lane / 4][4 * (lane % 4) + 16 * r + i] = byte(word, i, kind.b_signed);
            }
        }
    }
    let mut d = [[0; 32]; 4];
    for (i, d) in d.iter_mut().enumerate().take(c.len()) {
        for (lane, d) in d.iter_mut().enumerate() {
            let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let products = left[row].iter().zip(&right[column]).map(|(x, y)| x * y);
            let sum = products.sum::<i32>();
            let c = c[i][lane] as i32;
            *d = if kind.saturate {
                c.saturating_add(sum)
            } else {
                c.wrapping_add(sum)
            } as u32;
        }
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::testing::Numbers;

    #[test]
    fn integers() {
        let kind = Integer {
            m: 16,
            k: 32,
            a_signed: true,
            b_signed: false,
            saturate: false,
        };
        let mut numbers = Numbers::new(11);
        let registers: [Register; 10] =
            std::array::from_fn(|_| std::array::from_fn(|_| numbers.bits() as u32));
        let (a, b, c) = (&registers[..4], &registers[4..6], &registers[6..]);
        let d = integer(
            kind,
            &a.iter().collect::<Vec<_>>(),
            &b.iter().collect::<Vec<_>>(),
            &c.iter().collect::<Vec<_>>(),
        );
        for lane in 0..32 {
            for i in 0..4 {
                let (g, t) = (lane / 4, lane % 4);
                let (row, column) = (g + 8 * (i / 2), 2 * t + i % 2);
                let sum = (0..32).fold(0i64, |sum, k| {
                    let wa = a[row / 8 + 2 * (k / 16)][(row % 8) * 4 + k % 16 / 4];
                    let wb = b[k / 16][column * 4 + k % 16 / 4];
                    let (x, y) = ((wa >> (8 * (k % 4))) as i8, (wb >> (8 * (k % 4))) as u8);
                    sum + i64::from(x) * i64::from(y)
                });
                assert_eq!(d[i][lane], (sum as u32).wrapping_add(c[i][lane]));
            }
        }
        let ones = [0x0101_0101u32; 32];
        let top = [i32::MAX as u32; 32];
        let small = Integer {
            m: 16,
            k: 16,
            a_signed: true,
            b_signed: true,
            saturate: true,
        };
        let d = integer(small, &[&ones, &ones], &[&ones], &[&top; 4]);
        assert_eq!(d[3][5], i32::MAX as u32);
        let d = integer(
            Integer {
                saturate: false,
                ..small
            },
            &[&ones, &ones],
            &[&ones],
            &[&top; 4],
        );
        assert_eq!(d[3][5], (i32::MAX as u32).wrapping_add(16));
        let square = Integer { m: 8, ..small };
        let d = integer(square, &[&ones], &[&ones], &[&[5; 32]; 2]);
        assert_eq!(d, [[21; 32], [21; 32], [0; 32], [0; 32]]);
    }
}
