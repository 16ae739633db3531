//! Where elements of 8x8 matrices live: `ldmatrix`, `stmatrix`, `movmatrix`.
//!
//! A matrix of 16-bit elements is a register of a warp: lane l holds the elements (l/4, 2·(l%4)) and (l/4, 2·(l%4) + 1), the
//! first in the low half. As an array of 32 words that is the matrix row by row.

/// A row of 8 16-bit elements, as 4 words.
pub(crate) type Row = [u32; 4];

/// The register that `ldmatrix` makes of 8 rows.
#[inline(always)]
pub(crate) fn load(rows: &[Row; 8], transposed: bool) -> [u32; 32] {
    let mut register = [0; 32];
    for (words, row) in register.chunks_exact_mut(4).zip(rows) {
        words.copy_from_slice(row);
    }
    if transposed {
        transpose(&register)
    } else {
        register
    }
}

/// The 8 rows that `stmatrix` stores.
#[inline(always)]
pub(crate) fn store(register: &[u32; 32], transposed: bool) -> [Row; 8] {
    let register = if transposed {
        transpose(register)
    } else {
        *register
    };
    std::array::from_fn(|i| std::array::from_fn(|j| register[4 * i + j]))
}

/// `movmatrix.trans`: the transposed matrix.
#[inline(always)]
pub(crate) fn transpose(register: &[u32; 32]) -> [u32; 32] {
    let element = |row: usize, column: usize| {
        (register[4 * row + column / 2] >> (16 * (column % 2))) & 0xffff
    };
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        element(column, row) | element(column + 1, row) << 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        // Element (i, j) is 8·i + j.
        let rows: [Row; 8] = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let first = (8 * i + 2 * j) as u32;
                first | (first + 1) << 16
            })
        });
        let plain = load(&rows, false);
        assert_eq!(plain[13], (8 * 3 + 2) | (8 * 3 + 3) << 16);
        let transposed = load(&rows, true);
        // Lane 13: row 3, columns 2 and 3 of the transposed matrix.
        assert_eq!(transposed[13], (8 * 2 + 3) | (8 * 3 + 3) << 16);
        assert_eq!(transpose(&transposed), plain);
        assert_eq!(store(&plain, false), rows);
        assert_eq!(store(&transposed, true), rows);
    }
}
