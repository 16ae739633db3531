//! `shfl`, `vote`, `match`, `redux` and `elect`.

use super::registers::Regs;
use crate::lower::op::*;

/// What `shfl` gives where the source lane takes no part, which PTX leaves undefined: no number in any float format.
const ABSENT: u32 = !0;

/// The lane whose value `shfl` gives a lane, and whether it is the one that the operands name.
pub(super) fn shfl_source(mode: ShflMode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (bval, cval, segment) = (b & 31, c & 31, c >> 8 & 31);
    let least = lane & segment;
    let most = least | cval & !segment;
    let (source, ok) = match mode {
        // Upward, the clamp is the lower end.
        ShflMode::Up => {
            let j = lane.wrapping_sub(bval);
            (j, j as i32 >= most as i32)
        }
        ShflMode::Down => (lane + bval, lane + bval <= most),
        ShflMode::Bfly => (lane ^ bval, lane ^ bval <= most),
        ShflMode::Idx => {
            let j = least | bval & !segment;
            (j, j <= most)
        }
    };
    (if ok { source & 31 } else { lane }, ok)
}

/// shfl, vote, match, redux, elect for one set of lanes.
///
/// # Safety
/// Slots belong to the frame.
pub(super) unsafe fn collective(regs: Regs, op: &Slow, set: u32) {
    let lanes = || (0..32usize).filter(move |l| set >> l & 1 != 0);
    // SAFETY: the caller's.
    unsafe {
        match op {
            Slow::Shfl {
                mode,
                d,
                p,
                a,
                lane: b,
                clamp,
                ..
            } => {
                let (a, b, c) = (*regs.get32(*a), regs.get32(*b), regs.get32(*clamp));
                let mut value = [0; 32];
                let mut inside = 0;
                for l in lanes() {
                    let (source, ok) = shfl_source(*mode, l as u32, b[l], c[l]);
                    value[l] = match set >> source & 1 {
                        0 => ABSENT,
                        _ => a[source as usize],
                    };
                    inside |= u32::from(ok) << l;
                }
                regs.set32(*d, &value, set);
                if *p != NONE {
                    regs.set_pred(*p, inside, set);
                }
            }
            Slow::Vote { mode, d, a, .. } => {
                let yes = regs.pred(*a) & set;
                match mode {
                    VoteMode::Ballot => regs.set32(*d, &[yes; 32], set),
                    VoteMode::All => regs.set_pred(*d, all_ones(yes == set), set),
                    VoteMode::Any => regs.set_pred(*d, all_ones(yes != 0), set),
                    VoteMode::Uni => regs.set_pred(*d, all_ones(yes == 0 || yes == set), set),
                }
            }
            Slow::Match {
                all, wide, d, p, a, ..
            } => {
                let words: [u64; 32] = match wide {
                    true => *regs.get64(*a),
                    false => regs.get32(*a).map(u64::from),
                };
                let mut value = [0; 32];
                for l in lanes() {
                    value[l] = lanes()
                        .filter(|&k| words[k] == words[l])
                        .fold(0, |s, k| s | 1 << k);
                }
                if *all {
                    let same = lanes().all(|l| value[l] == set);
                    value = [if same { set } else { 0 }; 32];
                    if *p != NONE {
                        regs.set_pred(*p, all_ones(same), set);
                    }
                }
                regs.set32(*d, &value, set);
            }
            Slow::Redux { op, d, a, .. } => {
                let a = regs.get32(*a);
                let values = lanes().map(|l| a[l]);
                let result = match op {
                    ReduxOp::Add => values.fold(0, u32::wrapping_add),
                    ReduxOp::MinU => values.fold(u32::MAX, u32::min),
                    ReduxOp::MaxU => values.fold(0, u32::max),
                    ReduxOp::MinS => values.map(|v| v as i32).fold(i32::MAX, i32::min) as u32,
                    ReduxOp::MaxS => values.map(|v| v as i32).fold(i32::MIN, i32::max) as u32,
                    ReduxOp::And => values.fold(!0, |s, v| s & v),
                    ReduxOp::Or => values.fold(0, |s, v| s | v),
                    ReduxOp::Xor => values.fold(0, |s, v| s ^ v),
                };
                regs.set32(*d, &[result; 32], set);
            }
            Slow::Elect { d, p, .. } => {
                let leader = set.trailing_zeros();
                regs.set32(*d, &[leader; 32], set);
                regs.set_pred(*p, 1 << leader, set);
            }
            // Only the collectives come here.
            _ => {}
        }
    }
}

fn all_ones(yes: bool) -> u32 {
    if yes { !0 } else { 0 }
}
