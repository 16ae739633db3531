//! Floating-point operations that the inner loop has not.
//!
//! All functions' safety: slots belong to the frame (see [`Regs`]).

use super::lanes::*;
use super::registers::Regs;
use crate::lower::op::*;
use crate::numeric::half::Half;
use crate::numeric::{approx, f32s, f64s, half};

pub(super) fn testp(test: Testp, class: std::num::FpCategory) -> bool {
    use std::num::FpCategory::*;
    match test {
        Testp::Finite => !matches!(class, Nan | Infinite),
        Testp::Infinite => class == Infinite,
        Testp::Number => class != Nan,
        Testp::NotANumber => class == Nan,
        Testp::Normal => matches!(class, Normal | Zero),
        Testp::Subnormal => class == Subnormal,
    }
}

pub(super) unsafe fn float32(
    regs: Regs,
    inst: &Inst,
    lanes: u32,
    op: F32Op,
    mode: FloatMode,
    seed: Option<u64>,
) {
    let rounding = mode.rounding;
    let input = |x: u32| {
        let x = f32::from_bits(x);
        if mode.ftz { f32s::ftz(x) } else { x }
    };
    let output = |x: f32| {
        let x = if mode.ftz { f32s::ftz(x) } else { x };
        (if mode.sat { f32s::sat(x) } else { x }).to_bits()
    };
    macro_rules! un {
        (|$a:ident| $body:expr) => {
            un32(regs, inst, lanes, |$a| {
                let $a = input($a);
                output($body)
            })
        };
    }
    macro_rules! bin {
        (|$a:ident, $b:ident| $body:expr) => {
            bin32(regs, inst, lanes, |$a, $b| {
                let ($a, $b) = (input($a), input($b));
                output($body)
            })
        };
    }
    macro_rules! approximate {
        ($name:ident, $f:expr) => {{
            let f = $f;
            match seed {
                None => un!(|a| f(a)),
                Some(seed) => {
                    un!(|a| approx::perturb(f(a), approx::Approx::$name, a, 0.0, mode.ftz, seed))
                }
            }
        }};
    }
    macro_rules! approximate2 {
        ($name:ident, $f:expr) => {{
            let f = $f;
            match seed {
                None => bin!(|a, b| f(a, b)),
                Some(seed) => bin!(|a, b| approx::perturb(
                    f(a, b),
                    approx::Approx::$name,
                    a,
                    b,
                    mode.ftz,
                    seed
                )),
            }
        }};
    }
    // SAFETY: slots of the frame.
    unsafe {
        match op {
            F32Op::Add => bin!(|a, b| f32s::add(a, b, rounding)),
            F32Op::Sub => bin!(|a, b| f32s::sub(a, b, rounding)),
            F32Op::Mul => bin!(|a, b| f32s::mul(a, b, rounding)),
            F32Op::Fma => tri32(regs, inst, lanes, |a, b, c| {
                output(f32s::fma(input(a), input(b), input(c), rounding))
            }),
            F32Op::Min { nan, xorsign } => bin!(|a, b| {
                let (x, y) = if xorsign {
                    (f32s::abs(a), f32s::abs(b))
                } else {
                    (a, b)
                };
                let least = if nan {
                    f32s::min_nan(x, y)
                } else {
                    f32s::min(x, y)
                };
                if xorsign {
                    f32s::xorsign(least, a, b)
                } else {
                    least
                }
            }),
            F32Op::Max { nan, xorsign } => bin!(|a, b| {
                let (x, y) = if xorsign {
                    (f32s::abs(a), f32s::abs(b))
                } else {
                    (a, b)
                };
                let most = if nan {
                    f32s::max_nan(x, y)
                } else {
                    f32s::max(x, y)
                };
                if xorsign {
                    f32s::xorsign(most, a, b)
                } else {
                    most
                }
            }),
            F32Op::Abs => un!(|a| f32s::abs(a)),
            F32Op::Neg => un!(|a| f32s::neg(a)),
            F32Op::Copysign => bin32(regs, inst, lanes, |a, b| {
                f32s::copysign(f32::from_bits(a), f32::from_bits(b)).to_bits()
            }),
            F32Op::Div => bin!(|a, b| f32s::div(a, b, rounding)),
            F32Op::Rcp => un!(|a| f32s::rcp(a, rounding)),
            F32Op::Sqrt => un!(|a| f32s::sqrt(a, rounding)),
            F32Op::DivFull => approximate2!(DivFull, approx::div_full),
            F32Op::DivApprox => approximate2!(Div, approx::div),
            F32Op::RcpApprox => approximate!(Rcp, approx::rcp),
            F32Op::SqrtApprox => approximate!(Sqrt, approx::sqrt),
            F32Op::RsqrtApprox => approximate!(Rsqrt, approx::rsqrt),
            F32Op::Sin => approximate!(Sin, approx::sin),
            F32Op::Cos => approximate!(Cos, approx::cos),
            F32Op::Lg2 => approximate!(Lg2, approx::lg2),
            F32Op::Ex2 => approximate!(Ex2, approx::ex2),
            F32Op::Tanh => approximate!(Tanh, approx::tanh),
        }
    }
}

pub(super) unsafe fn float64(regs: Regs, inst: &Inst, lanes: u32, op: F64Op, rounding: Rounding) {
    let x = f64::from_bits;
    // SAFETY: slots of the frame.
    unsafe {
        match op {
            F64Op::Add => bin64(regs, inst, lanes, |a, b| {
                f64s::add(x(a), x(b), rounding).to_bits()
            }),
            F64Op::Sub => bin64(regs, inst, lanes, |a, b| {
                f64s::sub(x(a), x(b), rounding).to_bits()
            }),
            F64Op::Mul => bin64(regs, inst, lanes, |a, b| {
                f64s::mul(x(a), x(b), rounding).to_bits()
            }),
            F64Op::Fma => {
                tri64(regs, inst, lanes, |a, b, c| {
                    f64s::fma(x(a), x(b), x(c), rounding).to_bits()
                });
            }
            F64Op::Min => bin64(regs, inst, lanes, |a, b| f64s::min(x(a), x(b)).to_bits()),
            F64Op::Max => bin64(regs, inst, lanes, |a, b| f64s::max(x(a), x(b)).to_bits()),
            F64Op::Abs => un64(regs, inst, lanes, |a| a & !(1 << 63)),
            F64Op::Neg => un64(regs, inst, lanes, |a| a ^ 1 << 63),
            F64Op::Copysign => bin64(regs, inst, lanes, |a, b| a & 1 << 63 | b & !(1 << 63)),
            F64Op::Div => bin64(regs, inst, lanes, |a, b| {
                f64s::div(x(a), x(b), rounding).to_bits()
            }),
            F64Op::Rcp => un64(regs, inst, lanes, |a| f64s::rcp(x(a), rounding).to_bits()),
            F64Op::Sqrt => un64(regs, inst, lanes, |a| f64s::sqrt(x(a), rounding).to_bits()),
            F64Op::RcpApproxFtz => {
                un64(regs, inst, lanes, |a| f64s::rcp_approx_ftz(x(a)).to_bits())
            }
            F64Op::RsqrtApprox { ftz: true } => {
                un64(regs, inst, lanes, |a| {
                    f64s::rsqrt_approx_ftz(x(a)).to_bits()
                });
            }
            F64Op::RsqrtApprox { ftz: false } => {
                un64(regs, inst, lanes, |a| (1.0 / x(a).sqrt()).to_bits());
            }
        }
    }
}

pub(super) unsafe fn half_op<H: Half>(
    regs: Regs,
    inst: &Inst,
    lanes: u32,
    op: HalfOp,
    packed: bool,
    mode: HalfMode,
) {
    let input = |a: u16| if mode.ftz { half::ftz::<H>(a) } else { a };
    let output = |a: u16| {
        let a = if mode.ftz { half::ftz::<H>(a) } else { a };
        let a = if mode.sat { half::sat::<H>(a) } else { a };
        if mode.relu { half::relu::<H>(a) } else { a }
    };
    macro_rules! un {
        ($f:expr) => {{
            let f = $f;
            let g = |a: u16| output(f(input(a)));
            match packed {
                false => un32(regs, inst, lanes, |a| u32::from(g(a as u16))),
                true => un32(regs, inst, lanes, |a| half::each(a, g)),
            }
        }};
    }
    macro_rules! bin {
        ($f:expr) => {{
            let f = $f;
            let g = |a: u16, b: u16| output(f(input(a), input(b)));
            match packed {
                false => bin32(regs, inst, lanes, |a, b| u32::from(g(a as u16, b as u16))),
                true => bin32(regs, inst, lanes, |a, b| half::each2(a, b, g)),
            }
        }};
    }
    let xor = |f: fn(u16, u16) -> u16| {
        move |a: u16, b: u16| half::xorsign::<H>(f(half::abs::<H>(a), half::abs::<H>(b)), a, b)
    };
    // SAFETY: slots of the frame.
    unsafe {
        match op {
            HalfOp::Add => bin!(half::add::<H>),
            HalfOp::Sub => bin!(half::sub::<H>),
            HalfOp::Mul => bin!(half::mul::<H>),
            HalfOp::Fma => {
                let g =
                    |a: u16, b: u16, c: u16| output(half::fma::<H>(input(a), input(b), input(c)));
                match packed {
                    false => tri32(regs, inst, lanes, |a, b, c| {
                        u32::from(g(a as u16, b as u16, c as u16))
                    }),
                    true => tri32(regs, inst, lanes, |a, b, c| half::each3(a, b, c, g)),
                }
            }
            HalfOp::Min {
                nan: false,
                xorsign: false,
            } => bin!(half::min::<H>),
            HalfOp::Min {
                nan: true,
                xorsign: false,
            } => bin!(half::min_nan::<H>),
            HalfOp::Min {
                nan: false,
                xorsign: true,
            } => bin!(xor(half::min::<H>)),
            HalfOp::Min {
                nan: true,
                xorsign: true,
            } => bin!(xor(half::min_nan::<H>)),
            HalfOp::Max {
                nan: false,
                xorsign: false,
            } => bin!(half::max::<H>),
            HalfOp::Max {
                nan: true,
                xorsign: false,
            } => bin!(half::max_nan::<H>),
            HalfOp::Max {
                nan: false,
                xorsign: true,
            } => bin!(xor(half::max::<H>)),
            HalfOp::Max {
                nan: true,
                xorsign: true,
            } => bin!(xor(half::max_nan::<H>)),
            HalfOp::Abs => un!(half::abs::<H>),
            HalfOp::Neg => un!(half::neg::<H>),
            HalfOp::Ex2 => un!(half::ex2::<H>),
            HalfOp::Tanh => un!(half::tanh::<H>),
        }
    }
}
