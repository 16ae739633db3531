//! The shadow of a warp's registers and local memory, and the marks beside registers.

use super::origins::NEVER_WRITTEN;
use super::rules::Bits;
use crate::check::lanes_of;
use crate::exec::awaited::Sets;
use crate::exec::frame::{Files, Frame};
use crate::exec::registers::Regs;
use crate::lower::op::*;
use crate::lower::operands::{File, Slots};

/// What of a warp's registers and local memory is undefined.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    pub(crate) files: Files,
    /// Lanes whose carry is undefined.
    pub(super) carry: u32,
    /// Of each load that is followed, whether the warp's next execution is an odd one.
    pub(super) odd: Vec<bool>,
    /// What the lanes' branches so far depended on.
    pub(super) decided: u32,
    /// Of each register of each frame.
    pub(super) marks: Vec<Mark>,
}

/// What is to be said of a register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub(super) struct Mark {
    /// 0 if all of it is defined, else where undefined bits come from.
    pub(super) origin: u32,
    /// The loads that it depends on: see [`Awaited`].
    pub(super) awaits: u32,
}

/// Where a frame's marks begin.
pub(super) fn first_mark(frame: Frame) -> usize {
    (frame.r32 + frame.r64 + frame.preds) as usize
}

impl Shadow {
    pub(crate) fn clear(&mut self) {
        self.files.clear();
        self.carry = 0;
        self.odd.clear();
        self.decided = 0;
        self.marks.clear();
    }

    /// A frame begins: its registers and its local memory are undefined, its constants are not.
    pub(crate) fn open(&mut self, frame: Frame, function: &Function, lanes: u32) {
        self.files.reserve(frame, function);
        let first = first_mark(frame);
        let registers = function.registers();
        let end = self.marks.len().max(first + registers);
        self.marks.resize(end, Mark::default());
        self.marks[first..first + registers].fill(Mark {
            origin: NEVER_WRITTEN,
            awaits: 0,
        });
        let s = self.files.regs(frame);
        // SAFETY: slots of the function, for which room was made just above.
        unsafe {
            for slot in 0..function.r32 {
                s.set32(slot, &[!0; 32], lanes);
            }
            for slot in 0..function.r64 {
                s.set64(slot, &[!0; 32], lanes);
            }
            for slot in 0..function.preds {
                s.set_pred(slot, !0, lanes);
            }
        }
        for &(slot, _) in &function.const32 {
            self.define(frame, function, File::R32, slot, lanes);
        }
        for &(slot, _) in &function.const64 {
            self.define(frame, function, File::R64, slot, lanes);
        }
        self.define(frame, function, File::Pred, 0, lanes);
        let stride = self.files.stride as usize;
        for lane in lanes_of(lanes) {
            let start = lane as usize * stride + frame.local as usize;
            self.files.local[start..start + function.frame as usize].fill(!0);
        }
    }

    /// A register is defined in the lanes, which are all that the frame has.
    pub(super) fn define(
        &mut self,
        frame: Frame,
        function: &Function,
        file: File,
        slot: u32,
        lanes: u32,
    ) {
        let s = self.files.regs(frame);
        // SAFETY: callers give slots of the function whose frame this is.
        unsafe {
            match file {
                File::R64 => s.set64(slot, &[0; 32], lanes),
                File::Pred => s.set_pred(slot, 0, lanes),
                _ => s.set32(slot, &[0; 32], lanes),
            }
        }
        self.marks[first_mark(frame) + function.place(file, slot) as usize] = Mark::default();
    }
}

/// The marks of a running frame, for the inner loop. Valid while the warp's files are not resized.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks(*const Mark);

impl Marks {
    pub(crate) fn new(shadow: Option<&Shadow>, frame: Frame) -> Self {
        Self(match shadow {
            Some(shadow) => shadow.marks.as_ptr().wrapping_add(first_mark(frame)),
            None => std::ptr::null(),
        })
    }

    /// Whether something is to be said of an operand of an instruction.
    ///
    /// # Safety
    /// The slots are those of the frame's function, and the warp has a shadow.
    #[inline(always)]
    pub(crate) unsafe fn any(self, slots: &Slots) -> bool {
        let Slots {
            guard,
            d,
            a,
            b,
            c,
            e,
        } = *slots;
        // SAFETY: the caller's.
        unsafe {
            let at = |slot: u32| self.0.add(slot as usize).cast::<u64>().read();
            at(guard) | at(d) | at(a) | at(b) | at(c) | at(e) != 0
        }
    }
}

/// A frame's registers and their shadow, while both are looked at.
pub(super) struct View<'a> {
    pub(super) v: Regs,
    pub(super) s: Regs,
    pub(super) marks: &'a mut [Mark],
    pub(super) function: &'a Function,
    /// Lanes whose registers count.
    pub(super) live: u32,
}

impl<'a> View<'a> {
    pub(super) fn new(
        shadow: &'a mut Shadow,
        v: Regs,
        frame: Frame,
        function: &'a Function,
        live: u32,
    ) -> Self {
        let s = shadow.files.regs(frame);
        Self {
            v,
            s,
            marks: &mut shadow.marks[first_mark(frame)..],
            function,
            live,
        }
    }

    /// An operand's mark: nothing is said of one that is absent.
    pub(super) fn mark(&self, file: File, slot: u32) -> Mark {
        match (file, slot) {
            (File::Absent, _) | (_, NONE) => Mark::default(),
            _ => self.marks[self.function.place(file, slot) as usize],
        }
    }

    pub(super) fn origin(&self, file: File, slot: u32) -> u32 {
        self.mark(file, slot).origin
    }

    /// A lane's bits of an operand.
    pub(super) fn bits(&self, file: File, slot: u32, lane: usize) -> Bits {
        // SAFETY: callers give operands of instructions of the frame's function.
        unsafe {
            let (value, undefined) = match file {
                File::Absent => (0, 0),
                File::R32 => (
                    u64::from(self.v.get32(slot)[lane]),
                    u64::from(self.s.get32(slot)[lane]),
                ),
                File::R64 => (self.v.get64(slot)[lane], self.s.get64(slot)[lane]),
                File::Pred | File::Reference => {
                    let (reference, plain) = match file {
                        File::Pred => (slot << 1, slot << 1),
                        _ => (slot, slot & !1),
                    };
                    (
                        u64::from(self.v.pred(reference) >> lane & 1),
                        u64::from(self.s.pred(plain) >> lane & 1),
                    )
                }
            };
            Bits { value, undefined }
        }
    }

    /// Lanes of `lanes` in which an operand has an undefined bit.
    pub(super) fn undefined_lanes(&self, file: File, slot: u32, lanes: u32) -> u32 {
        if self.origin(file, slot) == 0 {
            return 0;
        }
        let is = |&l: &u32| self.bits(file, slot, l as usize).undefined != 0;
        lanes_of(lanes).filter(is).fold(0, |m, l| m | 1 << l)
    }

    /// Undefined bits of a register in `lanes`, whose values come from `origin`.
    pub(super) fn set(
        &mut self,
        file: File,
        slot: u32,
        undefined: &[u64; 32],
        lanes: u32,
        origin: u32,
    ) {
        // SAFETY: as in `bits`.
        let any = unsafe {
            match file {
                File::R64 => {
                    self.s.set64(slot, undefined, lanes);
                    let now = self.s.get64(slot);
                    lanes_of(self.live).any(|l| now[l as usize] != 0)
                }
                File::Pred => {
                    let mask = (0..32).fold(0, |m, l| m | (undefined[l] as u32 & 1) << l);
                    self.s.set_pred(slot, mask, lanes);
                    self.s.pred(slot << 1) & self.live != 0
                }
                _ => {
                    self.s.set32(slot, &undefined.map(|u| u as u32), lanes);
                    let now = self.s.get32(slot);
                    lanes_of(self.live).any(|l| now[l as usize] != 0)
                }
            }
        };
        let place = &mut self.marks[self.function.place(file, slot) as usize].origin;
        *place = match (any, origin) {
            (false, _) => 0,
            (true, 0) => (*place).max(NEVER_WRITTEN),
            (true, origin) => origin,
        };
    }

    /// What a register's values depend on.
    pub(super) fn awaits(&self, file: File, slot: u32) -> u32 {
        self.mark(file, slot).awaits
    }

    /// A register gets values in `lanes` that depend on a set of loads.
    pub(super) fn await_all(
        &mut self,
        sets: &mut Sets,
        file: File,
        slot: u32,
        set: u32,
        lanes: u32,
    ) {
        if slot == NONE {
            return;
        }
        let mark = &mut self.marks[self.function.place(file, slot) as usize];
        mark.awaits = match lanes & self.live == self.live {
            true => set,
            false => sets.written(mark.awaits, set, lanes),
        };
    }

    /// A register gets values that are all defined.
    pub(super) fn define(&mut self, file: File, slot: u32, lanes: u32) {
        if slot != NONE && self.origin(file, slot) != 0 {
            self.set(file, slot, &[0; 32], lanes, 0);
        }
    }
}
