//! Frames: where the registers and the local memory of a call are in a warp's files.

use super::registers::{Lanes32, Lanes64, Regs};
use crate::lower::op::{Function, Reg, Value};

/// Where a call's registers and local memory start in the warp's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) r32: u32,
    pub(crate) r64: u32,
    pub(crate) preds: u32,
    /// Bytes.
    pub(crate) local: u32,
    /// Index in `Code::functions`.
    pub(crate) function: u32,
}

/// What executes an instruction: lanes of a warp, in a frame.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) pc: u32,
    /// Those for which the guard holds.
    pub(crate) lanes: u32,
    pub(crate) frame: Frame,
    /// The frame's.
    pub(crate) regs: Regs,
}

/// Registers and local memory of a warp's lanes.
#[derive(Debug, Default)]
pub(crate) struct Files {
    r32: Vec<Lanes32>,
    r64: Vec<Lanes64>,
    preds: Vec<u32>,
    /// Local memory: `stride` bytes a lane.
    pub(crate) local: Vec<u8>,
    pub(crate) stride: u32,
}

impl Files {
    /// Registers of a frame.
    #[inline(always)]
    pub(crate) fn regs(&mut self, frame: Frame) -> Regs {
        Regs {
            r32: self.r32.as_mut_ptr().wrapping_add(frame.r32 as usize),
            r64: self.r64.as_mut_ptr().wrapping_add(frame.r64 as usize),
            preds: self.preds.as_mut_ptr().wrapping_add(frame.preds as usize),
        }
    }

    pub(super) fn clear(&mut self) {
        self.r32.clear();
        self.r64.clear();
        self.preds.clear();
        self.local.clear();
        self.stride = 0;
    }

    /// Makes room for a frame.
    pub(super) fn reserve(&mut self, frame: Frame, function: &Function) {
        let grow = |have: usize, start: u32, n: u32| have.max((start + n) as usize);
        let n = grow(self.r32.len(), frame.r32, function.r32);
        self.r32.resize(n, Lanes32::ZERO);
        let n = grow(self.r64.len(), frame.r64, function.r64);
        self.r64.resize(n, Lanes64::ZERO);
        let n = grow(self.preds.len(), frame.preds, function.preds);
        self.preds.resize(n, 0);
        self.reserve_local(frame.local + function.frame);
    }

    /// Makes local memory at least `bytes` a lane.
    fn reserve_local(&mut self, bytes: u32) {
        if bytes <= self.stride {
            return;
        }
        let stride = if self.stride == 0 {
            bytes
        } else {
            bytes.max(2 * self.stride)
        };
        let mut grown = vec![0; 32 * stride as usize];
        for lane in 0..32 {
            let old = &self.local[lane * self.stride as usize..][..self.stride as usize];
            grown[lane * stride as usize..][..old.len()].copy_from_slice(old);
        }
        self.local = grown;
        self.stride = stride;
    }
}

/// Copies a value between frames for the lanes; false if their sizes differ.
pub(super) fn pass(
    files: &mut Files,
    from: (Frame, Value),
    to: (Frame, Value),
    lanes: u32,
) -> bool {
    let bytes = |files: &Files, at: u32, lane: usize| lane * files.stride as usize + at as usize;
    let each = || (0..32usize).filter(move |l| lanes >> l & 1 != 0);
    match (from, to) {
        (_, (_, Value::Sink)) => true,
        ((ff, Value::Frame(a, n)), (tf, Value::Frame(b, k))) => {
            for l in each() {
                let start = bytes(files, ff.local + a, l);
                let target = bytes(files, tf.local + b, l);
                files.local.copy_within(start..start + n as usize, target);
            }
            n == k
        }
        ((ff, Value::Reg(a)), (tf, Value::Reg(b))) => {
            let (rf, rt) = (files.regs(ff), files.regs(tf));
            // SAFETY: slots of the two frames, whose files do not overlap; no file is resized meanwhile.
            unsafe {
                match (a, b) {
                    (Reg::R32(a), Reg::R32(b)) => rt.set32(b, rf.get32(a), lanes),
                    (Reg::R64(a), Reg::R64(b)) => rt.set64(b, rf.get64(a), lanes),
                    (Reg::P(a), Reg::P(b)) => rt.set_pred(b, rf.pred(a << 1), lanes),
                    _ => return false,
                }
            }
            true
        }
        ((ff, Value::Reg(a)), (tf, Value::Frame(b, n))) => {
            let r = files.regs(ff);
            let words: [u64; 32] = match a {
                // SAFETY: a slot of the frame.
                Reg::R32(a) => unsafe { r.get32(a) }.map(u64::from),
                // SAFETY: a slot of the frame.
                Reg::R64(a) => *unsafe { r.get64(a) },
                Reg::P(_) => return false,
            };
            let fits = if matches!(a, Reg::R64(_)) {
                n == 8
            } else {
                n <= 4
            };
            for l in each().filter(|_| fits) {
                let start = bytes(files, tf.local + b, l);
                files.local[start..start + n as usize]
                    .copy_from_slice(&words[l].to_le_bytes()[..n as usize]);
            }
            fits
        }
        ((ff, Value::Frame(a, n)), (tf, Value::Reg(b))) => {
            let fits = if matches!(b, Reg::R64(_)) {
                n == 8
            } else {
                n <= 4
            };
            if !fits {
                return false;
            }
            let mut words = [0u64; 32];
            for l in each() {
                let start = bytes(files, ff.local + a, l);
                let mut word = [0; 8];
                word[..n as usize].copy_from_slice(&files.local[start..start + n as usize]);
                words[l] = u64::from_le_bytes(word);
            }
            let r = files.regs(tf);
            // SAFETY: a slot of the frame.
            unsafe {
                match b {
                    Reg::R32(b) => r.set32(b, &words.map(|w| w as u32), lanes),
                    Reg::R64(b) => r.set64(b, &words, lanes),
                    Reg::P(_) => return false,
                }
            }
            true
        }
        ((_, Value::Sink), _) => false,
    }
}
