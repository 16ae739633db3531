//! Products of f64.

use crate::numeric::{Rounding, f64s};

/// An f64 instruction: m8n8k4, or m16n8 with k = 4, 8, 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Double {
    pub m: usize,
    pub k: usize,
    pub rounding: Rounding,
}

impl Double {
    /// Registers of A, B, C and D.
    pub(crate) fn registers(self) -> [usize; 4] {
        let halves = self.m / 8;
        [halves * self.k / 4, self.k / 4, 2 * halves, 2 * halves]
    }
}

/// An f64 instruction. Fragments as the narrower formats have them, one element a register; a chain of fused multiply-adds in
/// order of k. With m = 8 only the first two registers of D count.
pub(crate) fn double(
    kind: Double,
    a: &[&[u64; 32]],
    b: &[&[u64; 32]],
    c: &[&[u64; 32]],
) -> [[u64; 32]; 4] {
    let number = f64::from_bits;
    let halves = kind.m / 8;
    let mut d = [[0; 32]; 4];
    for (i, c) in c.iter().enumerate() {
        let half = i / 2;
        d[i] = std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, 2 * (lane % 4) + i % 2);
            let sum = (0..kind.k).fold(number(c[lane]), |sum, k| {
                f64s::fma(
                    number(a[k / 4 * halves + half][4 * row + k % 4]),
                    number(b[k / 4][4 * column + k % 4]),
                    sum,
                    kind.rounding,
                )
            });
            sum.to_bits()
        });
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles() {
        let number = |x: usize| (x as f64).to_bits();
        // A(i, k) = i + 10k and B(k, j) = k + 7j, by the ISA's formulas.
        for (m, k) in [(8, 4), (16, 4), (16, 8), (16, 16)] {
            let kind = Double {
                m,
                k,
                rounding: Rounding::Near,
            };
            let [na, nb, nc, _] = kind.registers();
            let halves = m / 8;
            let a: Vec<[u64; 32]> = (0..na)
                .map(|r| {
                    std::array::from_fn(|l| {
                        number(l / 4 + 8 * (r % halves) + 10 * (l % 4 + 4 * (r / halves)))
                    })
                })
                .collect();
            let b: Vec<[u64; 32]> = (0..nb)
                .map(|r| std::array::from_fn(|l| number(l % 4 + 4 * r + 7 * (l / 4))))
                .collect();
            let c: Vec<[u64; 32]> = (0..nc).map(|r| [number(r + 1); 32]).collect();
            let d = double(
                kind,
                &a.iter().collect::<Vec<_>>(),
                &b.iter().collect::<Vec<_>>(),
                &c.iter().collect::<Vec<_>>(),
            );
            for (r, d) in d[..nc].iter().enumerate() {
                for (lane, &d) in d.iter().enumerate() {
                    let (row, column) = (lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2);
                    let products = (0..k).map(|k| (row + 10 * k) * (k + 7 * column));
                    let expected = products.sum::<usize>() + r + 1;
                    assert_eq!(f64::from_bits(d), expected as f64, "{kind:?}");
                }
            }
        }
    }
}
