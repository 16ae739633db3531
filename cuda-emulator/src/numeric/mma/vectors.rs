//! The fast arithmetic for 16-bit inputs and f32 sums, which is nearly all that real kernels do, in vectors of 8 columns.

use std::arch::x86_64::*;

use crate::numeric::{Register, f32s};

/// Eight 16-bit numbers: one row of A or column of B in a register.
#[target_feature(enable = "avx2,fma,f16c")]
fn widen<const BF16: bool>(words: &[u32; 4]) -> __m256 {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    let raw = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
    if BF16 {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(raw)))
    } else {
        _mm256_cvtph_ps(raw)
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    let pair = |i: usize| {
        let (low, high) = (
            _mm256_unpacklo_ps(r[i], r[i + 1]),
            _mm256_unpackhi_ps(r[i], r[i + 1]),
        );
        (low, high)
    };
    let four = |i: usize| {
        let ((a, b), (c, d)) = (pair(i), pair(i + 2));
        [
            _mm256_shuffle_ps::<0x44>(a, c),
            _mm256_shuffle_ps::<0xee>(a, c),
            _mm256_shuffle_ps::<0x44>(b, d),
            _mm256_shuffle_ps::<0xee>(b, d),
        ]
    };
    let (top, bottom) = (four(0), four(4));
    let mut columns = r;
    for i in 0..4 {
        columns[i] = _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]);
        columns[i + 4] = _mm256_permute2f128_ps::<0x31>(top[i], bottom[i]);
    }
    columns
}

/// Words 4·row and on of a register.
fn words(register: &Register, row: usize) -> &[u32; 4] {
    register[4 * row..].first_chunk().expect("row < 8")
}

/// Columns in the order of [`Operands`](super::float::Operands): a row of C is then one half of each of two registers.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn float<const BF16: bool>(
    blocks: usize,
    a: &[&Register],
    b: &[&Register],
    c: &[&Register],
) -> [Register; 4] {
    let mut d = [[0; 32]; 4];
    for half in 0..2 {
        let mut sums = [_mm256_setzero_ps(); 8];
        for (row, sum) in sums.iter_mut().enumerate() {
            let load = |register: &Register| {
                // SAFETY: 16 readable bytes.
                unsafe { _mm_loadu_ps(words(register, row).as_ptr().cast()) }
            };
            *sum = _mm256_set_m128(load(c[2 * half + 1]), load(c[2 * half]));
        }
        for block in 0..blocks {
            let columns = ORDER.map(|column| words(b[block], column));
            let mut rows = [_mm256_setzero_ps(); 8];
            for (row, column) in rows.iter_mut().zip(columns) {
                *row = widen::<BF16>(column);
            }
            let b = transpose(rows);
            for (row, sum) in sums.iter_mut().enumerate() {
                let mut left = [0f32; 8];
                // SAFETY: 32 writable bytes.
                unsafe {
                    let row = widen::<BF16>(words(a[2 * block + half], row));
                    _mm256_storeu_ps(left.as_mut_ptr(), row);
                }
                for (x, b) in left.iter().zip(b) {
                    *sum = _mm256_fmadd_ps(_mm256_set1_ps(*x), b, *sum);
                }
            }
        }
        let nan = _mm256_castsi256_ps(_mm256_set1_epi32(f32s::NAN as i32));
        for (row, sum) in sums.into_iter().enumerate() {
            let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(sum, sum);
            let mut eight = [0u32; 8];
            // SAFETY: 32 writable bytes.
            unsafe {
                _mm256_storeu_ps(
                    eight.as_mut_ptr().cast(),
                    _mm256_blendv_ps(sum, nan, is_nan),
                );
            }
            d[2 * half][4 * row..4 * row + 4].copy_from_slice(&eight[..4]);
            d[2 * half + 1][4 * row..4 * row + 4].copy_from_slice(&eight[4..]);
        }
    }
    d
}
