//! Products of floating-point numbers up to 32 bits.
//!
//! Three arithmetics: `Fast` sums in f32, one rounding a step, in order of k. The exact ones follow what was measured on
//! hardware (published as MMA-Sim): all products and the addend are aligned to the largest exponent, cut to F bits of
//! fraction, added without loss, and the sum is cut to f32 (rounded to nearest for f16). Ampere: F = 24 and 16 bytes of k a
//! step; Hopper: F = 25 and 32 bytes of k a step. For 8-bit floats both have F = 13, and f32 results have 13 bits of fraction.

#[cfg(target_arch = "x86_64")]
use super::vectors;
use crate::numeric::convert::{Fp8, fp8_to_f16};
use crate::numeric::f32s::{self, canon};
use crate::numeric::half::{self, Bf16, F16, Half};
use crate::numeric::{Register, Rounding};

/// Which arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Fast,
    /// sm_80, sm_86, sm_87, sm_89.
    Ampere,
    /// sm_90 and later.
    Hopper,
}

/// Elements of A and B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    F16,
    Bf16,
    /// The low 13 bits are ignored.
    Tf32,
    E4m3,
    E5m2,
}

impl Input {
    /// Elements in a register.
    pub(crate) fn per_register(self) -> usize {
        match self {
            Self::Tf32 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::E4m3 | Self::E5m2 => 4,
        }
    }

    /// The smallest normal number's exponent.
    fn least(self) -> i32 {
        match self {
            Self::Bf16 | Self::Tf32 => -126,
            Self::F16 | Self::E5m2 => -14,
            Self::E4m3 => -6,
        }
    }

    fn is_8_bits(self) -> bool {
        matches!(self, Self::E4m3 | Self::E5m2)
    }
}

/// A floating-point m16n8 instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Float {
    pub a: Input,
    /// Other than A's only among the 8-bit formats.
    pub b: Input,
    /// 8 or 16 for 16-bit inputs, 4 or 8 for tf32, 16 or 32 for 8-bit inputs.
    pub k: usize,
    /// C and D are f16 (two registers) rather than f32 (four).
    pub f16_c: bool,
    pub f16_d: bool,
}

impl Float {
    /// Registers of A, B, C and D.
    pub(crate) fn registers(self) -> [usize; 4] {
        let blocks = self.k / (4 * self.a.per_register());
        let c = |f16| if f16 { 2 } else { 4 };
        [2 * blocks, blocks, c(self.f16_c), c(self.f16_d)]
    }
}

/// Operands as numbers. Columns are kept in the order 0, 2, 4, 6, 1, 3, 5, 7, in which a row of C is one half of each register.
pub(super) struct Operands<const K: usize> {
    a: [[f32; K]; 16],
    b: [[f32; 8]; K],
    c: [[f32; 8]; 16],
}

/// Column g in the order of [`Operands`].
#[inline(always)]
fn place(column: usize) -> usize {
    column / 2 + 4 * (column % 2)
}

#[inline(always)]
fn numbers(input: Input, word: u32) -> [f32; 4] {
    let two = |f: fn(u16) -> f32| [f(word as u16), f((word >> 16) as u16), 0.0, 0.0];
    let four = |format| {
        word.to_le_bytes()
            .map(|x| F16::to_f32(fp8_to_f16(x, format)))
    };
    match input {
        Input::F16 => two(F16::to_f32),
        Input::Bf16 => two(Bf16::to_f32),
        Input::Tf32 => [f32::from_bits(word & 0xffff_e000), 0.0, 0.0, 0.0],
        Input::E4m3 => four(Fp8::E4m3),
        Input::E5m2 => four(Fp8::E5m2),
    }
}

/// Unpacks operands of `BLOCKS` registers' worth of k, `WORD` elements a register: constants, so that the loops unroll.
#[inline(always)]
fn unpack<const BLOCKS: usize, const WORD: usize, const K: usize>(
    kind: Float,
    inputs: [Input; 2],
    a: &[&Register],
    b: &[&Register],
    c: &[&Register],
) -> Operands<K> {
    let mut operands = Operands {
        a: [[0.0; K]; 16],
        b: [[0.0; 8]; K],
        c: [[0.0; 8]; 16],
    };
    let (a, b) = (&a[..2 * BLOCKS], &b[..BLOCKS]);
    for block in 0..BLOCKS {
        for half in 0..2 {
            let register = a[2 * block + half];
            for g in 0..8 {
                for t in 0..4 {
                    let x = numbers(inputs[0], register[4 * g + t]);
                    let k = WORD * (4 * block + t);
                    operands.a[8 * half + g][k..k + WORD].copy_from_slice(&x[..WORD]);
                }
            }
        }
        for g in 0..8 {
            for t in 0..4 {
                let x = numbers(inputs[1], b[block][4 * g + t]);
                let k = WORD * (4 * block + t);
                for (row, &x) in operands.b[k..k + WORD].iter_mut().zip(&x) {
                    row[place(g)] = x;
                }
            }
        }
    }
    if kind.f16_c {
        let c = &c[..2];
        for row in 0..16 {
            for t in 0..4 {
                let [even, odd, ..] = numbers(Input::F16, c[row / 8][4 * (row % 8) + t]);
                operands.c[row][t] = even;
                operands.c[row][t + 4] = odd;
            }
        }
    } else {
        let c = &c[..4];
        for row in 0..16 {
            for t in 0..4 {
                let lane = 4 * (row % 8) + t;
                operands.c[row][t] = f32::from_bits(c[2 * (row / 8)][lane]);
                operands.c[row][t + 4] = f32::from_bits(c[2 * (row / 8) + 1][lane]);
            }
        }
    }
    operands
}

#[inline(always)]
fn pack(kind: Float, rows: &[[f32; 8]; 16]) -> [Register; 4] {
    let mut d = [[0; 32]; 4];
    for (row, x) in rows.iter().enumerate() {
        let (half, first) = (row / 8, 4 * (row % 8));
        for t in 0..4 {
            if kind.f16_d {
                d[half][first + t] =
                    u32::from(F16::near(x[t])) | u32::from(F16::near(x[t + 4])) << 16;
            } else {
                d[2 * half][first + t] = canon(x[t]).to_bits();
                d[2 * half + 1][first + t] = canon(x[t + 4]).to_bits();
            }
        }
    }
    d
}

/// Sums in f32. `FUSED` only saves time: products of 16-bit and tf32 numbers are exact in f32 (unless they overflow).
#[inline(always)]
fn sum_fast<const FUSED: bool, const K: usize>(operands: &Operands<K>) -> [[f32; 8]; 16] {
    let mut d = operands.c;
    // Four rows at a time: independent chains for the host's pipeline.
    for (rows, a) in d.chunks_exact_mut(4).zip(operands.a.chunks_exact(4)) {
        let mut sums = [[0.0f32; 8]; 4];
        sums.copy_from_slice(rows);
        for (kk, b) in operands.b.iter().enumerate() {
            for (sum, a) in sums.iter_mut().zip(a) {
                for (s, &b) in sum.iter_mut().zip(b) {
                    *s = if FUSED {
                        a[kk].mul_add(b, *s)
                    } else {
                        a[kk] * b + *s
                    };
                }
            }
        }
        rows.copy_from_slice(&sums);
    }
    d
}

/// Exponent of a product's or addend's leading place: the sum of the factors' exponents, not normalised. `least` is the
/// format's smallest normal exponent. Zero gets one so low that no sum with it is mistaken for another.
#[inline(always)]
fn exponent(x: f32, least: i32) -> i32 {
    let e = ((x.to_bits() >> 23 & 0xff) as i32).wrapping_sub(127);
    if x == 0.0 { ZERO } else { e.max(least) }
}

const ZERO: i32 = -10_000;

/// What a term that is zero counts as.
#[inline(always)]
fn or_zero(e: i32) -> i32 {
    if e < ZERO / 2 { -126 } else { e }
}

/// Aligns, cuts, adds, cuts: k in steps of `step`, `fraction` bits kept.
#[inline(always)]
fn sum_exact<const K: usize>(
    operands: &Operands<K>,
    kind: Float,
    step: usize,
    fraction: i32,
) -> [[f32; 8]; 16] {
    let fraction = if kind.a.is_8_bits() { 13 } else { fraction };
    let (least_a, least_b) = (kind.a.least(), kind.b.least());
    let power = |e: i32| f64::from_bits((e.wrapping_add(1023) as u64) << 52);
    let mut d = operands.c;
    let eb = operands.b.map(|row| row.map(|x| exponent(x, least_b)));
    for (sums, a) in d.iter_mut().zip(&operands.a) {
        let ea = a.map(|x| exponent(x, least_a));
        for first in (0..kind.k).step_by(step) {
            let ks = first..(first + step).min(kind.k);
            let mut largest = sums.map(|c| or_zero(exponent(c, -126)));
            for k in ks.clone() {
                for (l, e) in largest.iter_mut().zip(&eb[k]) {
                    *l = or_zero(ea[k].wrapping_add(*e)).max(*l);
                }
            }
            let scale = largest.map(|l| power(fraction - l));
            let mut plain = sums.map(f64::from);
            let mut cut = [0.0f64; 8];
            for j in 0..8 {
                cut[j] += (plain[j] * scale[j]).trunc();
            }
            for k in ks {
                for j in 0..8 {
                    let product = f64::from(a[k]) * f64::from(operands.b[k][j]);
                    plain[j] += product;
                    cut[j] += (product * scale[j]).trunc();
                }
            }
            for j in 0..8 {
                let exact = cut[j] * power(largest[j] - fraction);
                sums[j] = if !plain[j].is_finite() {
                    plain[j] as f32
                } else if kind.f16_d {
                    half::to_f32::<F16>(half::from_odd::<F16>(exact))
                } else if exact.abs() >= 2f64.powi(128) {
                    f32::INFINITY.copysign(exact as f32)
                } else {
                    let sum = f32s::narrow(exact, Rounding::Zero);
                    match kind.a.is_8_bits() {
                        true => f32::from_bits(sum.to_bits() & !0x3ff),
                        false => sum,
                    }
                };
            }
        }
    }
    d
}

#[inline(always)]
fn float_in<const FUSED: bool>(
    kind: Float,
    mode: Mode,
    a: &[&Register],
    b: &[&Register],
    c: &[&Register],
) -> [Register; 4] {
    macro_rules! of {
        ($blocks:literal, $word:literal, $k:literal, $a:expr, $b:expr) => {
            float_of::<FUSED, $blocks, $word, $k>(kind, [$a, $b], mode, a, b, c)
        };
    }
    use Input::*;
    match (kind.a, kind.k) {
        (F16, 16) => of!(2, 2, 16, F16, F16),
        (F16, _) => of!(1, 2, 8, F16, F16),
        (Bf16, 16) => of!(2, 2, 16, Bf16, Bf16),
        (Bf16, _) => of!(1, 2, 8, Bf16, Bf16),
        (Tf32, 8) => of!(2, 1, 8, Tf32, Tf32),
        (Tf32, _) => of!(1, 1, 4, Tf32, Tf32),
        (E4m3 | E5m2, 32) => of!(2, 4, 32, kind.a, kind.b),
        (E4m3 | E5m2, _) => of!(1, 4, 16, kind.a, kind.b),
    }
}

#[inline(always)]
fn float_of<const FUSED: bool, const BLOCKS: usize, const WORD: usize, const K: usize>(
    kind: Float,
    inputs: [Input; 2],
    mode: Mode,
    a: &[&Register],
    b: &[&Register],
    c: &[&Register],
) -> [Register; 4] {
    let operands = unpack::<BLOCKS, WORD, K>(kind, inputs, a, b, c);
    let step = |bytes: usize| bytes * WORD / 4;
    let rows = match mode {
        Mode::Fast => sum_fast::<FUSED, K>(&operands),
        Mode::Ampere => sum_exact(&operands, kind, step(16), 24),
        Mode::Hopper => sum_exact(&operands, kind, step(32), 25),
    };
    pack(kind, &rows)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn float_avx2(
    kind: Float,
    mode: Mode,
    a: &[&Register],
    b: &[&Register],
    c: &[&Register],
) -> [Register; 4] {
    let f32_sums = !kind.f16_c && !kind.f16_d;
    match (mode, kind.a) {
        (Mode::Fast, Input::Bf16) if f32_sums => vectors::float::<true>(kind.k / 8, a, b, c),
        (Mode::Fast, Input::F16) if f32_sums => vectors::float::<false>(kind.k / 8, a, b, c),
        _ => float_in::<true>(kind, mode, a, b, c),
    }
}

/// A floating-point m16n8 instruction. Registers in PTX's order, as many as [`Float::registers`] says (checked by the caller at
/// load); with an f16 result only the first two of D count.
pub(crate) fn float(
    kind: Float,
    mode: Mode,
    a: &[&Register],
    b: &[&Register],
    c: &[&Register],
) -> [Register; 4] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
    {
        // SAFETY: the features were detected.
        return unsafe { float_avx2(kind, mode, a, b, c) };
    }
    float_in::<false>(kind, mode, a, b, c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::exact;
    use crate::numeric::testing::Numbers;

    /// The definition: matrices from fragments by the ISA's formulas, element by element.
    struct Problem {
        a: Vec<Register>,
        b: Vec<Register>,
        c: Vec<Register>,
    }

    impl Problem {
        fn random(kind: Float, numbers: &mut Numbers, wild: bool) -> Self {
            let [na, nb, nc, _] = kind.registers();
            let half = |numbers: &mut Numbers| {
                if kind.a.is_8_bits() {
                    // Any finite number of either format.
                    let x = numbers.bits() as u32 & 0xbf;
                    return if wild { x } else { 0x20 | x & 0x9f };
                }
                let x = if wild {
                    let x = numbers.f32();
                    if x.is_finite() { x } else { 1.0 }
                } else {
                    (numbers.below(2001) as f32 - 1000.0) / 256.0
                };
                match kind.a {
                    Input::F16 => u32::from(F16::near(x % 60000.0)),
                    Input::Bf16 => u32::from(Bf16::near(x) & 0xfeff),
                    _ => x.to_bits(),
                }
            };
            let n = kind.a.per_register();
            let word = |numbers: &mut Numbers| {
                (0..n).fold(0u32, |word, i| word | half(numbers) << (32 / n * i))
            };
            let registers = |n: usize, numbers: &mut Numbers| -> Vec<Register> {
                (0..n)
                    .map(|_| std::array::from_fn(|_| word(numbers)))
                    .collect()
            };
            let (a, b) = (registers(na, numbers), registers(nb, numbers));
            let c = (0..nc)
                .map(|_| {
                    std::array::from_fn(|_| {
                        let x = (numbers.below(2001) as f32 - 1000.0) / 37.0;
                        let h = u32::from(F16::near(x));
                        if kind.f16_c { h | h << 16 } else { x.to_bits() }
                    })
                })
                .collect();
            Self { a, b, c }
        }

        fn run(&self, kind: Float, mode: Mode) -> [Register; 4] {
            let refs = |v: &[Register]| v.iter().map(|r| r as *const Register).collect::<Vec<_>>();
            let (a, b, c) = (refs(&self.a), refs(&self.b), refs(&self.c));
            // SAFETY: the pointers come from references that live in `self`.
            let open =
                |v: &[*const Register]| v.iter().map(|&r| unsafe { &*r }).collect::<Vec<_>>();
            float(kind, mode, &open(&a), &open(&b), &open(&c))
        }

        fn element_a(&self, kind: Float, row: usize, k: usize) -> f32 {
            let per_word = kind.a.per_register();
            let block = 4 * per_word;
            let register = row / 8 + 2 * (k / block);
            let lane = (row % 8) * 4 + k % block / per_word;
            numbers(kind.a, self.a[register][lane])[k % per_word]
        }

        fn element_b(&self, kind: Float, k: usize, column: usize) -> f32 {
            let per_word = kind.a.per_register();
            let block = 4 * per_word;
            let lane = column * 4 + k % block / per_word;
            numbers(kind.b, self.b[k / block][lane])[k % per_word]
        }

        fn element(f16: bool, registers: &[Register], row: usize, column: usize) -> f32 {
            let lane = (row % 8) * 4 + column / 2;
            if f16 {
                numbers(Input::F16, registers[row / 8][lane])[column % 2]
            } else {
                f32::from_bits(registers[2 * (row / 8) + column % 2][lane])
            }
        }
    }

    fn kinds() -> Vec<Float> {
        let mut kinds = vec![];
        for (a, b, ks) in [
            (Input::F16, Input::F16, [8, 16]),
            (Input::Bf16, Input::Bf16, [8, 16]),
            (Input::Tf32, Input::Tf32, [4, 8]),
            (Input::E4m3, Input::E5m2, [16, 32]),
            (Input::E5m2, Input::E4m3, [16, 32]),
        ] {
            for k in ks {
                for f16 in [false, true] {
                    if !f16 || !matches!(a, Input::Bf16 | Input::Tf32) {
                        kinds.push(Float {
                            a,
                            b,
                            k,
                            f16_c: f16,
                            f16_d: f16,
                        });
                    }
                }
            }
        }
        kinds
    }

    #[test]
    fn all_arithmetics_are_near_the_true_value() {
        let mut numbers = Numbers::new(9);
        for kind in kinds() {
            for _ in 0..20 {
                let problem = Problem::random(kind, &mut numbers, false);
                for mode in [Mode::Fast, Mode::Ampere, Mode::Hopper] {
                    let d = problem.run(kind, mode);
                    for row in 0..16 {
                        for column in 0..8 {
                            let c = Problem::element(kind.f16_c, &problem.c, row, column);
                            let mut exact = f64::from(c);
                            let mut size = exact.abs();
                            for k in 0..kind.k {
                                let p = f64::from(problem.element_a(kind, row, k))
                                    * f64::from(problem.element_b(kind, k, column));
                                exact += p;
                                size += p.abs();
                            }
                            let got = f64::from(Problem::element(kind.f16_d, &d, row, column));
                            let unit = match (kind.f16_d, kind.a.is_8_bits()) {
                                (false, false) => -21f64,
                                // 33 terms, each cut by less than a unit of 2^-13 of the largest; the sum again.
                                (_, true) => -7.9,
                                _ => -10.0,
                            };
                            let bound = size * unit.exp2();
                            assert!(
                                (got - exact).abs() <= bound,
                                "{kind:?} {mode:?} ({row}, {column}): {got} {exact}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// The model in integers, term by term, as published.
    fn reference(
        a: &[f32],
        b: &[f32],
        c: f32,
        least: [i32; 2],
        step: usize,
        fraction: i32,
        f16: bool,
    ) -> f32 {
        let split = |x: f32, least: i32| -> (i128, i32) {
            // ±significand·2^(e - 23), with e the exponent that alignment uses.
            let bits = x.to_bits();
            let e = (bits >> 23 & 0xff) as i32;
            let s = i128::from(bits & 0x7f_ffff | u32::from(e > 0) << 23);
            let s = if bits >> 31 == 1 { -s } else { s };
            let e = e.max(1) - 127;
            if e < least {
                (s >> (least - e), least)
            } else {
                (s, e)
            }
        };
        let mut c = c;
        for first in (0..a.len()).step_by(step) {
            let mut terms: Vec<(i128, i32)> = (first..(first + step).min(a.len()))
                .map(|k| {
                    let ((sa, ea), (sb, eb)) = (split(a[k], least[0]), split(b[k], least[1]));
                    (sa * sb, ea + eb)
                })
                .collect();
            let (sc, ec) = split(c, -126);
            terms.push((sc << 23, ec));
            for term in &mut terms {
                if term.0 == 0 {
                    term.1 = -126;
                }
            }
            let largest = terms.iter().map(|t| t.1).max().unwrap();
            // Units of 2^(largest - fraction); a term is s·2^(e - 46).
            let sum: i128 = terms
                .iter()
                .map(|&(s, e)| {
                    let down = 46 - fraction + largest - e;
                    let magnitude = s.unsigned_abs().checked_shr(down as u32).unwrap_or(0) as i128;
                    magnitude * s.signum()
                })
                .sum();
            let value = exact::Exact {
                negative: sum < 0,
                significand: sum.unsigned_abs(),
                exponent: largest - fraction,
                sticky: false,
            };
            c = if f16 {
                F16::to_f32(value.round(exact::F16, Rounding::Near) as u16)
            } else {
                let bits = value.round(exact::F32, Rounding::Zero) as u32;
                f32::from_bits(if fraction == 13 { bits & !0x3ff } else { bits })
            };
            if c.abs() == f32::MAX {
                // Cut where the model overflows.
                return c * 2.0;
            }
        }
        c
    }

    #[test]
    fn exact_modes_follow_the_model() {
        let mut numbers = Numbers::new(10);
        for kind in kinds() {
            for round in 0..30 {
                let problem = Problem::random(kind, &mut numbers, round % 2 == 0);
                for (mode, fraction, bytes) in [(Mode::Ampere, 24, 16), (Mode::Hopper, 25, 32)] {
                    let step = bytes * kind.a.per_register() / 4;
                    let fraction = if kind.a.is_8_bits() { 13 } else { fraction };
                    let least = [kind.a, kind.b].map(|input| match input {
                        Input::E4m3 => -6,
                        Input::F16 | Input::E5m2 => -14,
                        _ => -126,
                    });
                    let d = problem.run(kind, mode);
                    for row in 0..16 {
                        for column in 0..8 {
                            let a: Vec<_> = (0..kind.k)
                                .map(|k| problem.element_a(kind, row, k))
                                .collect();
                            let b: Vec<_> = (0..kind.k)
                                .map(|k| problem.element_b(kind, k, column))
                                .collect();
                            let c = Problem::element(kind.f16_c, &problem.c, row, column);
                            let expected = reference(&a, &b, c, least, step, fraction, kind.f16_d);
                            let got = Problem::element(kind.f16_d, &d, row, column);
                            assert_eq!(
                                got, expected,
                                "{kind:?} {mode:?} ({row}, {column}) {a:?} {b:?} {c:e}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn fast_vectors_sum_as_the_portable_code_does() {
        let mut numbers = Numbers::new(13);
        for kind in kinds() {
            for _ in 0..20 {
                let problem = Problem::random(kind, &mut numbers, false);
                let [a, b, c] =
                    [&problem.a, &problem.b, &problem.c].map(|v| v.iter().collect::<Vec<_>>());
                let portable = float_in::<false>(kind, Mode::Fast, &a, &b, &c);
                let d = kind.registers()[3];
                assert_eq!(
                    float(kind, Mode::Fast, &a, &b, &c)[..d],
                    portable[..d],
                    "{kind:?}"
                );
            }
        }
    }

    #[test]
    fn truncation_shows() {
        // 2^24 + 1 + 1: nearest sums in f32 lose both ones; alignment with one bit of fraction below keeps their sum.
        let kind = Float {
            a: Input::Bf16,
            b: Input::Bf16,
            k: 8,
            f16_c: false,
            f16_d: false,
        };
        let one = u32::from(Bf16::near(1.0));
        let mut a = [[0u32; 32]; 2];
        let mut b = [[0u32; 32]; 1];
        a[0][0] = one | one << 16;
        b[0][0] = one | one << 16;
        let mut c = [[0u32; 32]; 4];
        c[0][0] = 16_777_216f32.to_bits();
        let run = |mode| {
            let d = float(
                kind,
                mode,
                &[&a[0], &a[1]],
                &[&b[0]],
                &[&c[0], &c[1], &c[2], &c[3]],
            );
            f32::from_bits(d[0][0])
        };
        assert_eq!(run(Mode::Fast), 16_777_216.0);
        assert_eq!(run(Mode::Ampere), 16_777_218.0);
    }

    #[test]
    fn non_finite_values() {
        let kind = Float {
            a: Input::F16,
            b: Input::F16,
            k: 16,
            f16_c: false,
            f16_d: false,
        };
        let zero = [0u32; 32];
        let mut a = zero;
        a[0] = 0x7c00; // A(0, 0) = infinity
        let mut b = zero;
        b[0] = 0x3c00; // B(0, 0) = 1, the other columns 0
        for mode in [Mode::Fast, Mode::Ampere, Mode::Hopper] {
            let d = float(
                kind,
                mode,
                &[&a, &zero, &zero, &zero],
                &[&b, &zero],
                &[&zero; 4],
            );
            assert_eq!(d[0][0], 0x7f80_0000, "{mode:?}");
            assert_eq!(d[1][0], 0x7fff_ffff, "{mode:?}: infinity times zero");
            assert_eq!(d[0][4], 0, "{mode:?}: another row");
        }
    }

    /// Timings are for people: `cargo test --release -- --ignored --nocapture mma_speed`.
    #[test]
    #[ignore = "prints timings"]
    fn mma_speed() {
        let kind = Float {
            a: Input::Bf16,
            b: Input::Bf16,
            k: 16,
            f16_c: false,
            f16_d: false,
        };
        let problem = Problem::random(kind, &mut Numbers::new(12), false);
        for mode in [Mode::Fast, Mode::Ampere, Mode::Hopper] {
            let n = 20_000;
            let start = std::time::Instant::now();
            for _ in 0..n {
                std::hint::black_box(problem.run(kind, mode));
            }
            println!(
                "{mode:?}: {:.0} ns",
                start.elapsed().as_nanos() as f64 / f64::from(n)
            );
        }
    }
}
