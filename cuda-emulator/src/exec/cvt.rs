//! Conversions.

use super::registers::Regs;
use crate::lower::op::*;
use crate::numeric::convert::{self, Fp8, Int, Tf32Rounding};
use crate::numeric::half::{self, Bf16, F16 as Fp16, Half};
use crate::numeric::{Rounding, f32s};
use crate::ptx::ast::Type;

/// The lanes of a source, zero-extended.
unsafe fn source(r: Regs, slot: u32, wide: bool) -> [u64; 32] {
    // SAFETY: slots of the frame.
    unsafe {
        match wide {
            true => *r.get64(slot),
            false => r.get32(slot).map(u64::from),
        }
    }
}

unsafe fn put(regs: Regs, slot: u32, value: &[u64; 32], flags: u8, lanes: u32) {
    // SAFETY: slots of the frame.
    unsafe {
        if flags & CVT_DST64 != 0 {
            regs.set64(slot, value, lanes);
        } else if flags & CVT_DST32 != 0 {
            regs.set32(slot, &value.map(|x| x as u32), lanes);
        } else {
            regs.set32(slot, &value.map(|x| x as u32 & 0xffff), lanes);
        }
    }
}

fn extend(x: u64, ty: IntType) -> i128 {
    let shift = 64 - u32::from(ty.bits);
    match ty.signed {
        true => i128::from((x << shift) as i64 >> shift),
        false => i128::from(x << shift >> shift),
    }
}

/// Integer to integer: to the destination type (saturated if asked), extended to the register.
pub(crate) unsafe fn integer(regs: Regs, inst: &Inst, lanes: u32, c: CvtInt) {
    // SAFETY: slots of the frame.
    unsafe {
        let a = source(regs, inst.a, c.flags & CVT_SRC64 != 0);
        let t = a.map(|x| {
            let mut x = extend(x, c.src);
            if c.sat {
                let bits = u32::from(c.dst.bits);
                let (low, high) = match c.dst.signed {
                    true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
                    false => (0, (1i128 << bits) - 1),
                };
                x = x.clamp(low, high);
            }
            extend(x as u64, c.dst) as u64
        });
        put(regs, inst.d, &t, c.flags, lanes);
    }
}

fn mode(rounding: CvtRounding) -> Rounding {
    match rounding {
        CvtRounding::Zero | CvtRounding::ZeroInt => Rounding::Zero,
        CvtRounding::Down | CvtRounding::DownInt => Rounding::Down,
        CvtRounding::Up | CvtRounding::UpInt => Rounding::Up,
        // Without a rounding modifier the conversion is exact.
        _ => Rounding::Near,
    }
}

/// A conversion with a float on one side at least (lowering let only those through that exist).
pub(crate) unsafe fn float(regs: Regs, inst: &Inst, lanes: u32, c: Cvt) {
    // SAFETY: slots of the frame.
    unsafe {
        // The commonest first.
        match (c.dst, c.src, c.rounding) {
            (Type::F32, Type::BF16, _) if c.flags & (CVT_FTZ | CVT_SAT | CVT_SRC64) == 0 => {
                let a = regs.get32(inst.a);
                let mut t = [0; 32];
                for l in 0..32 {
                    t[l] = f32s::canon(Bf16::to_f32(a[l] as u16)).to_bits();
                }
                return regs.set32(inst.d, &t, lanes);
            }
            (Type::BF16, Type::F32, CvtRounding::Near)
                if c.flags & (CVT_RELU | CVT_SATFINITE | CVT_SAT | CVT_DST32 | CVT_DST64) == 0 =>
            {
                let a = regs.get32(inst.a);
                let mut t = [0; 32];
                for l in 0..32 {
                    t[l] = u32::from(Bf16::near(f32::from_bits(a[l])));
                }
                return regs.set32(inst.d, &t, lanes);
            }
            (Type::BF16x2, Type::F32, CvtRounding::Near)
                if c.flags & (CVT_RELU | CVT_SATFINITE | CVT_DST64) == 0 =>
            {
                let (a, b) = (regs.get32(inst.a), regs.get32(inst.b));
                let mut t = [0; 32];
                for l in 0..32 {
                    let high = u32::from(Bf16::near(f32::from_bits(a[l])));
                    t[l] = high << 16 | u32::from(Bf16::near(f32::from_bits(b[l])));
                }
                return regs.set32(inst.d, &t, lanes);
            }
            (Type::F32, Type::S32, CvtRounding::Near) if c.flags & (CVT_SAT | CVT_SRC64) == 0 => {
                let a = regs.get32(inst.a);
                let mut t = [0; 32];
                for l in 0..32 {
                    t[l] = (a[l] as i32 as f32).to_bits();
                }
                return regs.set32(inst.d, &t, lanes);
            }
            _ => {}
        }
        let a = source(regs, inst.a, c.flags & CVT_SRC64 != 0);
        let b = source(regs, inst.b, false);
        let mut t = [0; 32];
        for l in 0..std::hint::black_box(32) {
            t[l & 31] = one(a[l & 31], b[l & 31], c);
        }
        put(regs, inst.d, &t, c.flags, lanes);
    }
}

/// One lane; the result in the low bits (integers extended to 64).
fn one(a: u64, b: u64, c: Cvt) -> u64 {
    use Type::*;
    let rounding = mode(c.rounding);
    let has = |flag: u8| c.flags & flag != 0;
    let (ftz, sat, relu, satfinite) = (
        has(CVT_FTZ),
        has(CVT_SAT),
        has(CVT_RELU),
        has(CVT_SATFINITE),
    );
    let single = |x: u64| {
        let x = f32::from_bits(x as u32);
        if ftz { f32s::ftz(x) } else { x }
    };
    let out32 = |x: f32| {
        let x = if ftz { f32s::ftz(x) } else { x };
        u64::from((if sat { f32s::sat(x) } else { x }).to_bits())
    };
    let out64 = |x: f64| {
        // As f32's `.sat`: NaN and negative numbers become +0.
        let x = match sat {
            true if x > 0.0 => x.min(1.0),
            true => 0.0,
            false => x,
        };
        x.to_bits()
    };
    fn out16<H: Half>(x: u16, c: Cvt) -> u64 {
        let has = |flag: u8| c.flags & flag != 0;
        let x = if has(CVT_SAT) { half::sat::<H>(x) } else { x };
        let x = if has(CVT_RELU) { half::relu::<H>(x) } else { x };
        u64::from(if has(CVT_SATFINITE) {
            half::satfinite::<H>(x)
        } else {
            x
        })
    }
    fn to_int(x: Option<f32>, y: f64, ty: Type, rounding: Rounding) -> u64 {
        fn of<T: Int>(x: Option<f32>, y: f64, rounding: Rounding) -> T {
            match x {
                Some(x) => convert::f32_to_int(x, rounding),
                None => convert::f64_to_int(y, rounding),
            }
        }
        match ty {
            U8 => u64::from(of::<u8>(x, y, rounding)),
            S8 => of::<i8>(x, y, rounding) as u64,
            U16 => u64::from(of::<u16>(x, y, rounding)),
            S16 => of::<i16>(x, y, rounding) as u64,
            U32 => u64::from(of::<u32>(x, y, rounding)),
            S32 => of::<i32>(x, y, rounding) as u64,
            U64 => of::<u64>(x, y, rounding),
            _ => of::<i64>(x, y, rounding) as u64,
        }
    }
    let fp8 = |ty| {
        if matches!(ty, E4M3x2) {
            Fp8::E4m3
        } else {
            Fp8::E5m2
        }
    };
    let int = |bits, signed| Some(IntType { bits, signed });
    let from_int = match c.src {
        U8 => int(8, false),
        S8 => int(8, true),
        U16 => int(16, false),
        S16 => int(16, true),
        U32 => int(32, false),
        S32 => int(32, true),
        U64 => int(64, false),
        S64 => int(64, true),
        _ => None,
    };
    if let Some(ty) = from_int {
        let x = extend(a, ty);
        return match c.dst {
            F32 => out32(convert::int_to_f32(x, rounding)),
            F64 => out64(convert::int_to_f64(x, rounding)),
            F16 => out16::<Fp16>(convert::int_to_half::<Fp16>(x, rounding), c),
            _ => out16::<Bf16>(convert::int_to_half::<Bf16>(x, rounding), c),
        };
    }
    match (c.dst, c.src) {
        (U8 | S8 | U16 | S16 | U32 | S32 | U64 | S64, src) => match src {
            F32 => to_int(Some(single(a)), 0.0, c.dst, rounding),
            F64 => to_int(None, f64::from_bits(a), c.dst, rounding),
            F16 => to_int(Some(Fp16::to_f32(a as u16)), 0.0, c.dst, rounding),
            _ => to_int(Some(Bf16::to_f32(a as u16)), 0.0, c.dst, rounding),
        },
        (F32, F32) => match c.rounding {
            CvtRounding::None => out32(single(a)),
            _ => out32(convert::round_f32(single(a), rounding)),
        },
        (F64, F64) => match c.rounding {
            CvtRounding::None => out64(f64::from_bits(a)),
            _ => out64(convert::round_f64(f64::from_bits(a), rounding)),
        },
        (F16, F16) => match c.rounding {
            CvtRounding::None => out16::<Fp16>(a as u16, c),
            _ => {
                let x = convert::round_f32(Fp16::to_f32(a as u16), rounding);
                out16::<Fp16>(Fp16::near(x), c)
            }
        },
        (BF16, BF16) => match c.rounding {
            CvtRounding::None => out16::<Bf16>(a as u16, c),
            _ => {
                let x = convert::round_f32(Bf16::to_f32(a as u16), rounding);
                out16::<Bf16>(Bf16::near(x), c)
            }
        },
        (F32, F64) => out32(convert::f64_to_f32(f64::from_bits(a), rounding)),
        (F16, F32) => out16::<Fp16>(half::from_f32::<Fp16>(single(a), rounding), c),
        (F16, F64) => out16::<Fp16>(half::from_f64::<Fp16>(f64::from_bits(a), rounding), c),
        (BF16, F32) => out16::<Bf16>(half::from_f32::<Bf16>(single(a), rounding), c),
        (BF16, F64) => out16::<Bf16>(half::from_f64::<Bf16>(f64::from_bits(a), rounding), c),
        (F16, BF16) => out16::<Fp16>(half::from_f32::<Fp16>(Bf16::to_f32(a as u16), rounding), c),
        (BF16, F16) => out16::<Bf16>(half::from_f32::<Bf16>(Fp16::to_f32(a as u16), rounding), c),
        (F64, F32) => out64(f64::from(single(a))),
        (F32, F16) => out32(f32s::canon(Fp16::to_f32(a as u16))),
        (F32, BF16) => out32(f32s::canon(Bf16::to_f32(a as u16))),
        (F64, F16) => out64(f64::from(Fp16::to_f32(a as u16))),
        (F64, BF16) => out64(f64::from(Bf16::to_f32(a as u16))),
        (F16x2, F32) => {
            let x = |v: u64| out16::<Fp16>(half::from_f32::<Fp16>(single(v), rounding), c);
            x(a) << 16 | x(b)
        }
        (BF16x2, F32) => {
            let x = |v: u64| out16::<Bf16>(half::from_f32::<Bf16>(single(v), rounding), c);
            x(a) << 16 | x(b)
        }
        (TF32, F32) => {
            let rounding = match c.rounding {
                CvtRounding::NearAway => Tf32Rounding::NearAway,
                CvtRounding::Zero => Tf32Rounding::Zero,
                _ => Tf32Rounding::Near,
            };
            u64::from(convert::f32_to_tf32(single(a), rounding, relu, satfinite))
        }
        (dst @ (E4M3x2 | E5M2x2), F32) => {
            let x = |v: u64| u64::from(convert::f32_to_fp8(single(v), fp8(dst), relu));
            x(a) << 8 | x(b)
        }
        (dst @ (E4M3x2 | E5M2x2), _) => {
            let x = |v: u64| u64::from(convert::f32_to_fp8(Fp16::to_f32(v as u16), fp8(dst), relu));
            x(a >> 16) << 8 | x(a)
        }
        // (F16x2, E4M3x2 | E5M2x2), all that is left.
        (_, src) => {
            let x = |v: u64| {
                let h = convert::fp8_to_f16(v as u8, fp8(src));
                u64::from(if relu { half::relu::<Fp16>(h) } else { h })
            };
            x(a >> 8) << 16 | x(a)
        }
    }
}
