//! Integer and bit operations that are more than one Rust operator.

/// `cvt.pack`: a and b, saturated to `bits` bits, above and at the bottom of the result, c shifted up over both.
pub(crate) fn pack(a: u32, b: u32, c: u32, bits: u8, signed: bool) -> u32 {
    let bits = u32::from(bits);
    let (low, high) = match signed {
        true => (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1),
        false => (0, (1i64 << bits) - 1),
    };
    let mask = (1u32 << bits) - 1;
    let part = |x: u32| i64::from(x as i32).clamp(low, high) as u32 & mask;
    let above = c.checked_shl(2 * bits).unwrap_or(0);
    above | part(a) << bits | part(b)
}

/// `lop3.b32`: bit i of the table is the result for a, b, c = the bits of i (a highest).
#[inline(always)]
pub(crate) fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut result = 0;
    for i in 0..8u32 {
        if table >> i & 1 == 1 {
            let x = if i & 4 != 0 { a } else { !a };
            let y = if i & 2 != 0 { b } else { !b };
            let z = if i & 1 != 0 { c } else { !c };
            result |= x & y & z;
        }
    }
    result
}

/// Modes of `prmt.b32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Permute {
    Generic,
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}

/// `prmt.b32`: each byte of the result is one of the eight of b:a.
#[inline(always)]
pub(crate) fn prmt(a: u32, b: u32, selector: u32, mode: Permute) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let s = selector & 3;
    let mut result = 0;
    for i in 0..4 {
        let (byte, sign) = match mode {
            Permute::Generic => {
                let nibble = selector >> (4 * i) & 0xf;
                (nibble & 7, nibble & 8 != 0)
            }
            Permute::Forward4 => (s + i, false),
            Permute::Backward4 => ((s + 8 - i) & 7, false),
            Permute::Replicate8 => (s, false),
            Permute::EdgeLeft => (s.max(i), false),
            Permute::EdgeRight => (s.min(i), false),
            Permute::Replicate16 => ((s & 1) * 2 + (i & 1), false),
        };
        let value = (bytes >> (8 * byte)) as u8;
        let value = if sign {
            ((value as i8) >> 7) as u8
        } else {
            value
        };
        result |= u32::from(value) << (8 * i);
    }
    result
}

/// `bfe`: `length` bits of the `width`-bit `a` from `position`, sign-extended if `signed`. Only 8 bits of the operands count.
#[inline(always)]
pub(crate) fn bfe(a: u64, position: u32, length: u32, width: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let mask = |n: u32| if n >= 64 { !0 } else { (1u64 << n) - 1 };
    let a = a & mask(width);
    let field = if position >= 64 { 0 } else { a >> position } & mask(length);
    let top = (position + length).min(width).wrapping_sub(1);
    let sign = signed && length != 0 && a >> top.min(63) & 1 == 1;
    // Above the field, and where the field reaches beyond the top bit: the sign.
    let have = length.min(width.saturating_sub(position));
    let fill = if sign { !mask(have) } else { 0 };
    (field | fill) & mask(width)
}

/// `bfi`: `length` low bits of `a` put into `b` at `position`, both `width` bits wide. Only 8 bits of the operands count.
#[inline(always)]
pub(crate) fn bfi(a: u64, b: u64, position: u32, length: u32, width: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let mask = |n: u32| if n >= 64 { !0 } else { (1u64 << n) - 1 };
    if position >= width {
        return b & mask(width);
    }
    let field = mask(length) << position & mask(width);
    b & mask(width) & !field | a << position & field
}

/// `shf.l` / `shf.r`: the 32 high / low bits of b:a shifted; `wrap` takes the amount modulo 32, otherwise it is clamped to 32.
#[inline(always)]
pub(crate) fn shf(a: u32, b: u32, amount: u32, left: bool, wrap: bool) -> u32 {
    let n = if wrap { amount & 31 } else { amount.min(32) };
    let wide = u64::from(b) << 32 | u64::from(a);
    if left {
        (wide << n >> 32) as u32
    } else {
        (wide >> n) as u32
    }
}

/// `bfind`: position of the highest bit that is not the sign (all ones if there is none), or with `shift_amount` the shift
/// that would bring it to the top. `a` is zero- or sign-extended from `width`.
#[inline(always)]
pub(crate) fn bfind(a: u64, width: u32, signed: bool, shift_amount: bool) -> u32 {
    let a = if signed && (a as i64) < 0 { !a } else { a };
    if a == 0 {
        return u32::MAX;
    }
    let position = 63 - a.leading_zeros();
    if shift_amount {
        width - 1 - position
    } else {
        position
    }
}

/// `bmsk`: `b` ones from bit `a`; `clamp` treats operands of 32 and more as 32, otherwise they are taken modulo 32.
#[inline(always)]
pub(crate) fn bmsk(a: u32, b: u32, clamp: bool) -> u32 {
    let (a, b) = if clamp {
        (a.min(32), b.min(32))
    } else {
        (a & 31, b & 31)
    };
    let ones = (1u64 << b) - 1;
    (ones << a) as u32
}

/// `szext`: extends the low `n` bits of `a`; from 32 on, `clamp` gives `a`, otherwise `n` is taken modulo 32.
#[inline(always)]
pub(crate) fn szext(a: u32, n: u32, signed: bool, clamp: bool) -> u32 {
    let n = if clamp { n.min(32) } else { n & 31 };
    if n == 0 {
        return 0;
    }
    let up = 32 - n;
    if signed {
        ((a << up) as i32 >> up) as u32
    } else {
        a << up >> up
    }
}

#[inline(always)]
fn byte(x: u32, i: u32, signed: bool) -> u32 {
    let b = (x >> (8 * i)) as u8;
    if signed { b as i8 as u32 } else { u32::from(b) }
}

/// `dp4a`: c plus the four products of bytes.
#[inline(always)]
pub(crate) fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    (0..4).fold(c, |sum, i| {
        sum.wrapping_add(byte(a, i, a_signed).wrapping_mul(byte(b, i, b_signed)))
    })
}

/// `dp2a.lo` / `.hi`: c plus the products of a's two halves with the two low / high bytes of b.
#[inline(always)]
pub(crate) fn dp2a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool, high: bool) -> u32 {
    (0..2).fold(c, |sum, i| {
        let half = (a >> (16 * i)) as u16;
        let half = if a_signed {
            half as i16 as u32
        } else {
            u32::from(half)
        };
        let byte = byte(b, i + if high { 2 } else { 0 }, b_signed);
        sum.wrapping_add(half.wrapping_mul(byte))
    })
}

/// `fns.b32`: position of the n-th set bit of `mask` from `base`, counted in the direction of `offset`'s sign.
pub(crate) fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    if offset == 0 {
        return if base < 32 && mask >> base & 1 == 1 {
            base
        } else {
            u32::MAX
        };
    }
    let mut left = offset.unsigned_abs();
    let mut position = i64::from(base);
    while (0..32).contains(&position) {
        if mask >> position & 1 == 1 {
            left -= 1;
            if left == 0 {
                return position as u32;
            }
        }
        position += i64::from(offset.signum());
    }
    u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::testing::Numbers;

    /// Bit by bit, as the ISA states it.
    fn bfe_by_bits(a: u64, position: u32, length: u32, width: u32, signed: bool) -> u64 {
        let msb = width - 1;
        let bit = |i: u32| a >> i & 1;
        let sign = if !signed || length == 0 {
            0
        } else {
            bit((position + length - 1).min(msb))
        };
        (0..width).fold(0, |d, i| {
            let b = if i < length && position + i <= msb {
                bit(position + i)
            } else {
                sign
            };
            d | b << i
        })
    }

    #[test]
    fn bit_fields() {
        let mut numbers = Numbers::new(7);
        for _ in 0..20_000 {
            let (a, b) = (numbers.bits(), numbers.bits());
            let (p, l) = (numbers.below(80) as u32, numbers.below(80) as u32);
            for width in [32, 64] {
                let a = if width == 32 { a & 0xffff_ffff } else { a };
                for signed in [false, true] {
                    let expected = bfe_by_bits(a, p, l, width, signed);
                    assert_eq!(
                        bfe(a, p, l, width, signed),
                        expected,
                        "{a:#x} {p} {l} {width}"
                    );
                }
                let mut expected = b & if width == 32 { 0xffff_ffff } else { !0 };
                for i in 0..l {
                    if p + i < width {
                        let bit = if i < 64 { a >> i & 1 } else { 0 };
                        expected = expected & !(1 << (p + i)) | bit << (p + i);
                    }
                }
                assert_eq!(
                    bfi(a, b, p, l, width),
                    expected,
                    "{a:#x} {b:#x} {p} {l} {width}"
                );
            }
        }
    }

    #[test]
    fn permutations() {
        let (a, b) = (0x8384_0201, 0x9798_1615);
        assert_eq!(prmt(a, b, 0x7654, Permute::Generic), b);
        assert_eq!(prmt(a, b, 0x00bf, Permute::Generic), 0x0101_ffff);
        assert_eq!(prmt(a, b, 1, Permute::Forward4), 0x1583_8402);
        assert_eq!(prmt(a, b, 1, Permute::Backward4), 0x9897_0102);
        assert_eq!(prmt(a, b, 2, Permute::Replicate8), 0x8484_8484);
        assert_eq!(prmt(a, b, 2, Permute::EdgeLeft), 0x8384_8484);
        assert_eq!(prmt(a, b, 1, Permute::EdgeRight), 0x0202_0201);
        assert_eq!(prmt(a, b, 1, Permute::Replicate16), 0x8384_8384);
    }

    #[test]
    fn logic_shifts_and_masks() {
        let (a, b, c) = (0xf0f0_1234, 0xcccc_5678, 0xaaaa_9abc);
        assert_eq!(lop3(a, b, c, 0x80), a & b & c);
        assert_eq!(lop3(a, b, c, 0xfe), a | b | c);
        assert_eq!(lop3(a, b, c, 0x96), a ^ b ^ c);
        assert_eq!(lop3(a, b, c, 0xca), a & b | !a & c);
        assert_eq!(lop3(a, b, c, 0x1a), (a & b | c) ^ a);
        assert_eq!(shf(1, 0x8000_0000, 1, true, false), 0);
        assert_eq!(shf(0x8000_0000, 1, 1, true, false), 3);
        assert_eq!(shf(7, 9, 32, true, false), 7);
        assert_eq!(shf(7, 9, 32, false, false), 9);
        assert_eq!(shf(7, 9, 33, false, true), 0x8000_0003);
        assert_eq!(bfind(0, 32, false, false), u32::MAX);
        assert_eq!(bfind(0x10, 32, false, true), 27);
        assert_eq!(bfind(-1i64 as u64, 32, true, false), u32::MAX);
        assert_eq!(bfind(-5i64 as u64, 32, true, false), 2);
        assert_eq!(bmsk(4, 8, true), 0xff0);
        assert_eq!(bmsk(4, 32, true), 0xffff_fff0);
        assert_eq!(bmsk(32, 4, true), 0);
        assert_eq!(bmsk(36, 33, false), 0x10);
        assert_eq!(szext(0x80, 8, true, true), 0xffff_ff80);
        assert_eq!(szext(0x180, 8, false, true), 0x80);
        assert_eq!(szext(0x8000_0001, 40, true, true), 0x8000_0001);
        assert_eq!(szext(0xff, 0, true, false), 0);
        assert_eq!(szext(0xff, 32, false, false), 0);
    }

    #[test]
    fn byte_products() {
        assert_eq!(
            dp4a(0xff01_02fe, 0x0102_03ff, 10, true, true),
            10u32.wrapping_add(2 + 6 + 2).wrapping_sub(1)
        );
        assert_eq!(dp4a(0xff00_0000, 0xff00_0000, 0, false, false), 255 * 255);
        assert_eq!(
            dp2a(0xffff_0002, 0x0403_0201, 0, true, false, false),
            2u32.wrapping_sub(2)
        );
        assert_eq!(
            dp2a(0x0001_0002, 0x0403_0201, 5, true, false, true),
            5 + 6 + 4
        );
        assert_eq!(fns(0b1011_0000, 0, 2), 5);
        assert_eq!(fns(0b1011_0000, 7, -2), 5);
        assert_eq!(fns(0b1011_0000, 4, 0), 4);
        assert_eq!(fns(0b1011_0000, 0, 4), u32::MAX);
    }
}
