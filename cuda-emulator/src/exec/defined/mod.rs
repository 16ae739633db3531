//! Definedness, with all checks: which bits of registers and memory hold a value that somebody gave them.
//!
//! Undefined bits are followed through registers, predicates and every kind of memory, and nothing is said of them until one matters:
//! an address, a branch, a guard of what cannot be undone, or a copy to the host. Then it is a finding, and in the kernel the bits count
//! as defined, so that what follows from them is not reported again.
//!
//! A warp's shadow mirrors its registers and local memory, a block's its shared memory: a set bit is undefined. Global memory has its
//! record in [`DeviceMemory`](crate::memory::DeviceMemory): there a set bit is defined, for pages begin with zeros. So that correct code
//! costs little, each register has a [`Mark`] beside, which is 0 while nothing has to be said of it.

mod outside;
mod rules;

use std::collections::HashMap;

pub(crate) use outside::*;
use rules::Bits;

use super::Exec;
use super::awaited::{Awaited, Sets};
use super::memory::{Pointers, Reached};
use super::registers::Regs;
use super::state::{At, Block, Files, Frame, Warp, line_of};
use crate::check::hooks::{self, Instance};
use crate::check::{FindingKind, lanes_of};
use crate::lower::op::*;
use crate::lower::operands::{File, Operands, Slots, operands};
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};

/// Where undefined bits come from: what a finding says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A register that was never written.
    Register,
    /// Memory that was read.
    Memory(MemSpace),
    /// A lane that takes no part in a `shfl`.
    Lane,
}

/// A source at a line.
#[derive(Debug, Clone, Copy)]
struct Origin {
    source: Source,
    line: u32,
    address: Option<u64>,
}

/// Index + 1 of [`Source::Register`], which needs no line.
const NEVER_WRITTEN: u32 = 1;

/// The origins of a worker's grid. Named by index + 1.
#[derive(Debug)]
pub(crate) struct Origins {
    list: Vec<Origin>,
    known: HashMap<(Source, u32), u32>,
}

impl Origins {
    pub(crate) fn new() -> Self {
        let first = Origin {
            source: Source::Register,
            line: 0,
            address: None,
        };
        Self {
            list: vec![first],
            known: HashMap::new(),
        }
    }

    /// The origin of what a line takes from a source; the address is that of the first time.
    fn of(&mut self, source: Source, line: u32, address: Option<u64>) -> u32 {
        let list = &mut self.list;
        *self.known.entry((source, line)).or_insert_with(|| {
            list.push(Origin {
                source,
                line,
                address,
            });
            list.len() as u32
        })
    }

    fn get(&self, origin: u32) -> Origin {
        self.list[(origin.max(1) - 1) as usize]
    }
}

impl Origin {
    fn describe(self) -> String {
        match (self.source, self.address) {
            (Source::Register, _) => "a register that was never written".into(),
            (Source::Memory(space), Some(address)) => {
                let name = match space {
                    MemSpace::Shared => "shared",
                    MemSpace::Local => "local",
                    _ => "global",
                };
                format!(
                    "{name} memory that was never written, or only with such a value: the byte at {address:#x}, read at line {}",
                    self.line
                )
            }
            (Source::Memory(_), None) => format!("undefined memory, read at line {}", self.line),
            (Source::Lane, _) => format!(
                "what line {} takes from a lane that does not take part",
                self.line
            ),
        }
    }
}

/// What of a warp's registers and local memory is undefined.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    pub(crate) files: Files,
    /// Lanes whose carry is undefined.
    carry: u32,
    /// Of each load that is followed, whether the warp's next execution is an odd one.
    odd: Vec<bool>,
    /// What the lanes' branches so far depended on.
    decided: u32,
    /// Of each register of each frame.
    marks: Vec<Mark>,
}

/// What is to be said of a register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(8))]
struct Mark {
    /// 0 if all of it is defined, else where undefined bits come from.
    origin: u32,
    /// The loads that it depends on: see [`Awaited`].
    awaits: u32,
}

/// Where a frame's marks begin.
fn first_mark(frame: Frame) -> usize {
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
    fn define(&mut self, frame: Frame, function: &Function, file: File, slot: u32, lanes: u32) {
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
    pub(crate) fn new(warp: &Warp, frame: Frame) -> Self {
        Self(match &warp.shadow {
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
struct View<'a> {
    v: Regs,
    s: Regs,
    marks: &'a mut [Mark],
    function: &'a Function,
    /// Lanes whose registers count.
    live: u32,
}

impl<'a> View<'a> {
    fn new(
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
    fn mark(&self, file: File, slot: u32) -> Mark {
        match (file, slot) {
            (File::Absent, _) | (_, NONE) => Mark::default(),
            _ => self.marks[self.function.place(file, slot) as usize],
        }
    }

    fn origin(&self, file: File, slot: u32) -> u32 {
        self.mark(file, slot).origin
    }

    /// A lane's bits of an operand.
    fn bits(&self, file: File, slot: u32, lane: usize) -> Bits {
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
    fn undefined_lanes(&self, file: File, slot: u32, lanes: u32) -> u32 {
        if self.origin(file, slot) == 0 {
            return 0;
        }
        let is = |&l: &u32| self.bits(file, slot, l as usize).undefined != 0;
        lanes_of(lanes).filter(is).fold(0, |m, l| m | 1 << l)
    }

    /// Undefined bits of a register in `lanes`, whose values come from `origin`.
    fn set(&mut self, file: File, slot: u32, undefined: &[u64; 32], lanes: u32, origin: u32) {
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
    fn awaits(&self, file: File, slot: u32) -> u32 {
        self.mark(file, slot).awaits
    }

    /// A register gets values in `m` that depend on a set of loads.
    fn await_all(&mut self, sets: &mut Sets, file: File, slot: u32, set: u32, m: u32) {
        if slot == NONE {
            return;
        }
        let mark = &mut self.marks[self.function.place(file, slot) as usize];
        mark.awaits = match m & self.live == self.live {
            true => set,
            false => sets.written(mark.awaits, set, m),
        };
    }

    /// A register gets values that are all defined.
    fn define(&mut self, file: File, slot: u32, lanes: u32) {
        if slot != NONE && self.origin(file, slot) != 0 {
            self.set(file, slot, &[0; 32], lanes, 0);
        }
    }
}

/// What cannot be undone: the use of an undefined value that is a finding.
fn decide(
    x: &Exec<'_>,
    block: &Block<'_>,
    warp: &Warp,
    pc: u32,
    lanes: u32,
    origin: u32,
    what: &str,
) {
    let Some(checker) = &block.checker else {
        return;
    };
    let origin = x.origins.get(origin);
    let mut report = hooks::Report {
        kind: FindingKind::Uninitialized,
        message: String::new(),
        line: line_of(x.grid.code, pc),
        other_line: Some(origin.line),
        block: block.index as u32,
        thread: warp.index * 32 + lanes.trailing_zeros(),
        address: origin.address,
    };
    if checker.known(&report) {
        return;
    }
    let [px, py, pz] = warp.tid.map(|t| t[lanes.trailing_zeros() as usize & 31]);
    report.message = format!(
        "thread ({px}, {py}, {pz}) {what} what depends on {}",
        origin.describe()
    );
    checker.report(report);
}

/// An instruction with an operand of which something is to be said, before it is executed: `mask` are the group's lanes, those of `at` the
/// ones for which the guard holds.
#[inline(never)]
pub(crate) fn follow(
    x: &mut Exec<'_>,
    block: &Block<'_>,
    warp: &mut Warp,
    at: At,
    inst: &Inst,
    mask: u32,
) {
    let (frame, m, pc) = (at.frame, at.lanes, at.pc);
    let Some(mut shadow) = warp.shadow.take() else {
        return;
    };
    let code = x.grid.code;
    let function = &code.functions[frame.function as usize];
    let operands = operands(code, inst);
    let slots = &code.slots()[pc as usize];
    let marks = &mut shadow.marks[first_mark(frame)..];
    if let Op::Bra(_) | Op::Ret | Op::Exit = inst.op {
        let guard = marks[slots.guard as usize].awaits;
        let both = x.awaited.union(shadow.decided, guard);
        shadow.decided = x.awaited.written(shadow.decided, both, mask);
    }
    if wait(&mut x.awaited, marks, slots, &operands, m, warp.live) {
        warp.shadow = Some(shadow);
        return;
    }
    let mut carry = shadow.carry;
    let mut view = View::new(&mut shadow, at.regs, frame, function, warp.live);
    let guard = inst.guard & !HELPER;
    let unguarded = view.undefined_lanes(File::Reference, guard, mask);
    let guard_origin = view.origin(File::Reference, guard);
    if operands.d == File::Absent {
        if unguarded != 0 {
            let what = match inst.op {
                Op::Bra(_) | Op::Ret | Op::Exit => "branches on",
                _ => "executes or leaves out an instruction on",
            };
            decide(x, block, warp, pc, unguarded, guard_origin, what);
            view.define(File::Pred, guard >> 1, mask);
        }
        if let Op::Ld(index) | Op::St(index) = inst.op {
            let base = code.mems[index as usize].address.base;
            address(x, block, warp, &mut view, base, m, pc);
        }
    } else {
        propagate(
            &mut view,
            &mut carry,
            inst,
            &operands,
            m,
            unguarded,
            guard_origin,
        );
    }
    shadow.carry = carry;
    warp.shadow = Some(shadow);
}

/// Hands on what an operation's results depend on; whether nothing else is to be done, for all is defined.
fn wait(
    sets: &mut Sets,
    marks: &mut [Mark],
    slots: &Slots,
    operands: &Operands,
    m: u32,
    live: u32,
) -> bool {
    let Slots {
        guard,
        d,
        a,
        b,
        c,
        e,
    } = *slots;
    let all = [guard, d, a, b, c, e].map(|slot| marks[slot as usize]);
    if all.iter().any(|mark| mark.awaits != 0) && operands.d != File::Absent {
        let [guard, _, a, b, c, fourth] = all.map(|mark| mark.awaits);
        let mut set = [guard, a, b, c]
            .into_iter()
            .fold(0, |set, other| sets.union(set, other));
        if !operands.two_results {
            set = sets.union(set, fourth);
        }
        let results = [d, e];
        for &slot in &results[..1 + usize::from(operands.two_results)] {
            let mark = &mut marks[slot as usize];
            mark.awaits = match m & live == live {
                true => set,
                false => sets.written(mark.awaits, set, m),
            };
        }
    }
    all.iter().all(|mark| mark.origin == 0)
}

/// An operation on registers.
fn propagate(
    view: &mut View<'_>,
    carry: &mut u32,
    inst: &Inst,
    operands: &Operands,
    m: u32,
    unguarded: u32,
    guard_origin: u32,
) {
    let Operands {
        a,
        b,
        c,
        e,
        d,
        two_results,
    } = *operands;
    let fourth = if two_results { File::Absent } else { e };
    let sources = [(a, inst.a), (b, inst.b), (c, inst.c), (fourth, inst.e)];
    let origin = sources
        .iter()
        .map(|&(file, slot)| view.origin(file, slot))
        .find(|&origin| origin != 0);
    let (mut first, mut second) = ([0; 32], [0; 32]);
    let taking = match inst.op {
        Op::Carry32(carry) | Op::Carry64(carry) => Some(carry),
        _ => None,
    };
    if origin.is_some() || taking.is_some() && *carry != 0 {
        for lane in lanes_of(m) {
            let l = lane as usize;
            let [mut x, mut y] = rules::results(
                inst.op,
                sources.map(|(file, slot)| view.bits(file, slot, l)),
            );
            if let Some(mode) = taking {
                if mode.take && *carry >> l & 1 != 0 {
                    x = !0;
                }
                if mode.set {
                    *carry = *carry & !(1 << l) | u32::from(x != 0) << l;
                }
                y = 0;
            }
            (first[l], second[l]) = (x, y);
        }
    }
    // Where the guard is undefined, so is what the register holds afterwards.
    for lane in lanes_of(unguarded) {
        (first[lane as usize], second[lane as usize]) = (!0, !0);
    }
    let lanes = m | unguarded;
    if m == 0 && unguarded == 0 {
        return;
    }
    let origin = origin.unwrap_or(guard_origin);
    if taking.is_some_and(|mode| mode.set) {
        // The predicate that is always true stands for the carry, too: operations are looked at while that is undefined.
        let always = view.function.place(File::Pred, 0) as usize;
        let before = view.marks[always].origin;
        view.marks[always].origin = match *carry & view.live {
            0 => 0,
            _ => origin.max(before).max(NEVER_WRITTEN),
        };
    }
    view.set(d, inst.d, &first, lanes, origin);
    if two_results {
        view.set(e, inst.e, &second, lanes, origin);
    }
}

/// The register that an address is made of.
fn address(
    x: &Exec<'_>,
    block: &Block<'_>,
    warp: &Warp,
    view: &mut View<'_>,
    base: Base,
    m: u32,
    pc: u32,
) {
    let (file, slot) = match base {
        Base::R32(slot) => (File::R32, slot),
        Base::R64(slot) => (File::R64, slot),
        Base::None | Base::Frame => return,
    };
    let lanes = view.undefined_lanes(file, slot, m);
    if lanes != 0 {
        let origin = view.origin(file, slot);
        decide(x, block, warp, pc, lanes, origin, "uses as an address");
        view.define(file, slot, m);
    }
}

/// The records of the bytes that an access's lanes reach, as pointers; `global` are the lanes in which a set bit is defined.
pub(crate) struct Records {
    p: Pointers,
    global: u32,
    space: MemSpace,
}

/// What parameters are, and what nobody records: nothing is undefined.
static DEFINED: [u64; 16] = [0; 16];

impl Records {
    /// The undefined bits of up to 8 bytes at an offset.
    ///
    /// # Safety
    /// The access was checked for those bytes.
    unsafe fn read(&self, lane: usize, offset: usize, size: usize) -> u64 {
        // SAFETY: the caller's; a record is as long as what it is of.
        let bits = unsafe {
            let at = self.p[lane].wrapping_add(offset);
            match size {
                8 => at.cast::<u64>().read_unaligned(),
                4 => u64::from(at.cast::<u32>().read_unaligned()),
                2 => u64::from(at.cast::<u16>().read_unaligned()),
                _ => u64::from(at.read()),
            }
        };
        let flip = 0u64.wrapping_sub(u64::from(self.global >> lane & 1));
        (bits ^ flip) & (!0 >> (64 - 8 * size))
    }

    /// # Safety
    /// As [`Records::read`], of an access that writes.
    unsafe fn write(&self, lane: usize, offset: usize, size: usize, undefined: u64) {
        let flip = 0u64.wrapping_sub(u64::from(self.global >> lane & 1));
        let bits = undefined ^ flip;
        // SAFETY: the caller's.
        unsafe {
            let at = self.p[lane].wrapping_add(offset);
            match size {
                8 => at.cast::<u64>().write_unaligned(bits),
                4 => at.cast::<u32>().write_unaligned(bits as u32),
                2 => at.cast::<u16>().write_unaligned(bits as u16),
                _ => at.write(bits as u8),
            }
        }
    }

    /// Whether `size` bytes (1, 2, 4 or a multiple of 8) of each lane are defined.
    ///
    /// # Safety
    /// As [`Records::read`].
    #[inline(always)]
    unsafe fn all_defined(&self, size: usize) -> bool {
        let uniform = self.global == 0 || self.global == !0;
        let flip = 0u64.wrapping_sub(u64::from(self.global & 1));
        let mut undefined = 0;
        // SAFETY: the caller's.
        unsafe {
            match (uniform, size) {
                (true, 4) => {
                    for p in &self.p {
                        undefined |= u64::from(p.cast::<u32>().read() ^ flip as u32);
                    }
                }
                (true, 16) => {
                    for p in &self.p {
                        let [low, high] = p.cast::<[u64; 2]>().read();
                        undefined |= (low ^ flip) | (high ^ flip);
                    }
                }
                (true, 2) => {
                    for p in &self.p {
                        undefined |= u64::from(p.cast::<u16>().read() ^ flip as u16);
                    }
                }
                _ => {
                    for lane in 0..32 {
                        for offset in (0..size).step_by(8) {
                            undefined |= self.read(lane, offset, size.min(8));
                        }
                    }
                }
            }
        }
        undefined == 0
    }

    /// The first lane of `lanes` with an undefined byte among `size`, and the byte.
    ///
    /// # Safety
    /// As [`Records::read`].
    unsafe fn first(&self, lanes: u32, size: usize) -> Option<(usize, u64)> {
        lanes_of(lanes).find_map(|lane| {
            let lane = lane as usize;
            // SAFETY: the caller's.
            let byte = (0..size).find(|&byte| unsafe { self.read(lane, byte, 1) } != 0)?;
            Some((lane, byte as u64))
        })
    }
}

/// The records of an access.
#[inline(always)]
fn records(x: &Exec<'_>, block: &mut Block<'_>, warp: &mut Warp, reached: Reached<'_>) -> Records {
    let (space, p) = (reached.what.space, reached.p);
    let moved = |from: *mut u8, to: *mut u8| {
        let by = (to as usize).wrapping_sub(from as usize);
        p.map(|p| p.wrapping_add(by))
    };
    match space {
        MemSpace::Global => Records {
            p: moved(
                x.grid.memory.host(GLOBAL_BASE),
                x.grid.memory.defined(GLOBAL_BASE),
            ),
            global: !0,
            space,
        },
        MemSpace::Shared => Records {
            p: moved(block.shared_ptr(), block.undefined.as_mut_ptr().cast()),
            global: 0,
            space,
        },
        _ => mixed_records(x, block, warp, reached),
    }
}

/// Lane by lane.
#[inline(never)]
fn mixed_records(
    x: &Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    reached: Reached<'_>,
) -> Records {
    let Reached {
        what,
        lanes: m,
        a,
        p,
    } = reached;
    let space = what.space;
    let first = a[m.trailing_zeros() as usize];
    let mut records = Records {
        p: *p,
        global: 0,
        space,
    };
    for l in 0..32 {
        let address = if m >> l & 1 != 0 { a[l] } else { first };
        let of = match (space, address >> 48 << 48) {
            (MemSpace::Generic, SHARED_WINDOW) => MemSpace::Shared,
            (MemSpace::Generic, LOCAL_WINDOW) => MemSpace::Local,
            (MemSpace::Generic, PARAM_WINDOW) => MemSpace::Param,
            (MemSpace::Generic, _) => MemSpace::Global,
            (space, _) => space,
        };
        if l == m.trailing_zeros() as usize {
            records.space = of;
        }
        let (from, to): (*mut u8, *mut u8) = match of {
            MemSpace::Global | MemSpace::Generic => {
                records.global |= 1 << l;
                (
                    x.grid.memory.host(GLOBAL_BASE),
                    x.grid.memory.defined(GLOBAL_BASE),
                )
            }
            MemSpace::Shared => (block.shared_ptr(), block.undefined.as_mut_ptr().cast()),
            MemSpace::Local => match &mut warp.shadow {
                Some(shadow) => (
                    warp.files.local.as_mut_ptr(),
                    shadow.files.local.as_mut_ptr(),
                ),
                None => (p[l], DEFINED.as_ptr().cast_mut().cast()),
            },
            // Only read.
            MemSpace::Param => (p[l], DEFINED.as_ptr().cast_mut().cast()),
        };
        records.p[l] = to.wrapping_add((p[l] as usize).wrapping_sub(from as usize));
    }
    records
}

/// A load has been executed.
///
/// # Safety
/// The access was checked; slots belong to the frame.
pub(crate) unsafe fn loaded(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    mem: &Mem,
    reached: Reached<'_>,
) {
    let (frame, m) = (at.frame, at.lanes);
    let records = records(x, block, warp, reached);
    let size = mem.size as usize;
    let total = size * mem.count as usize;
    let Some(mut shadow) = warp.shadow.take() else {
        return;
    };
    let function = &x.grid.code.functions[frame.function as usize];
    let mut view = View::new(&mut shadow, at.regs, frame, function, warp.live);
    let file = if mem.reg64 { File::R64 } else { File::R32 };
    let slots = &mem.regs[..mem.count as usize];
    let load = loads(x, &view, at, reached.what.instance);
    for &slot in slots.iter().filter(|&&slot| slot != NONE) {
        for part in 0..size.div_ceil(8) as u32 {
            view.await_all(&mut x.awaited, file, slot + part, load, m);
        }
    }
    // SAFETY: the caller's.
    unsafe {
        if records.all_defined(total) {
            for &slot in slots {
                view.define(file, slot, m);
                if size == 16 && slot != NONE {
                    view.define(file, slot + 1, m);
                }
            }
        } else {
            let found = records.first(m, total);
            let address = found.map(|(lane, byte)| reached.a[lane] + byte);
            let line = line_of(x.grid.code, at.pc);
            let origin = x.origins.of(Source::Memory(records.space), line, address);
            for (e, &slot) in slots.iter().enumerate() {
                for part in 0..size.div_ceil(8) {
                    let bits = std::array::from_fn(|l| {
                        let undefined = records.read(l, e * size + 8 * part, size.min(8));
                        let shift = 64 - 8 * size.min(8);
                        let wide = match mem.signed {
                            true => ((undefined << shift) as i64 >> shift) as u64,
                            false => undefined,
                        };
                        if mem.reg16 { wide & 0xffff } else { wide }
                    });
                    if slot != NONE {
                        view.set(file, slot + part as u32, &bits, m, origin);
                    }
                }
            }
        }
    }
    warp.shadow = Some(shadow);
    executed(x, warp, at, reached.what.instance);
}

/// Which of a load's executions this is, if stores may depend on it.
pub(crate) fn instance(x: &Exec<'_>, warp: &Warp, at: At) -> Option<Instance> {
    let code = x.grid.code;
    let shadow = warp.shadow.as_ref()?;
    let load = code.tracked().load(line_of(code, at.pc))?;
    let is_odd = shadow.odd.get(load as usize).copied().unwrap_or(false);
    Some(Instance { is_odd })
}

/// A load has been executed: the next execution is told from it.
pub(crate) fn executed(x: &mut Exec<'_>, warp: &mut Warp, at: At, instance: Option<Instance>) {
    let code = x.grid.code;
    let tracked = code.tracked();
    if let Some(instance) = instance
        && let Some(load) = tracked.load(line_of(code, at.pc))
        && let Some(shadow) = &mut warp.shadow
    {
        // The last but one is no longer told from this one.
        shadow.decided = x.awaited.without(shadow.decided, (load, instance.is_odd));
        shadow.odd.resize(tracked.loads(), false);
        shadow.odd[load as usize] = !instance.is_odd;
    }
}

/// The set of a load by each lane, and of what its address and its guard depend on.
fn loads(x: &mut Exec<'_>, view: &View<'_>, at: At, instance: Option<Instance>) -> u32 {
    let code = x.grid.code;
    let Slots { guard, a, .. } = code.slots()[at.pc as usize];
    let [guard, a] = [guard, a].map(|slot| view.marks[slot as usize].awaits);
    let set = x.awaited.union(a, guard);
    let load = instance.zip(code.tracked().load(line_of(code, at.pc)));
    let Some((instance, load)) = load else {
        return set;
    };
    let own = std::array::from_fn(|l| at.lanes & 1 << l);
    let own = x.awaited.add(Awaited::load((load, instance.is_odd), own));
    x.awaited.union(set, own)
}

/// A store has been executed.
///
/// # Safety
/// As [`loaded`].
pub(crate) unsafe fn stored(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    mem: &Mem,
    reached: Reached<'_>,
) {
    let (frame, m) = (at.frame, at.lanes);
    let records = records(x, block, warp, reached);
    let Some(mut shadow) = warp.shadow.take() else {
        return;
    };
    let function = &x.grid.code.functions[frame.function as usize];
    let view = View::new(&mut shadow, at.regs, frame, function, warp.live);
    let (size, file) = (
        mem.size as usize,
        if mem.reg64 { File::R64 } else { File::R32 },
    );
    let slots = &mem.regs[..mem.count as usize];
    let clean = slots.iter().all(|&slot| view.origin(file, slot) == 0)
        && (size < 16 || slots.iter().all(|&slot| view.origin(file, slot + 1) == 0));
    // SAFETY: the caller's.
    unsafe {
        if clean {
            for lane in lanes_of(m) {
                let lane = lane as usize;
                let byte = 0u8.wrapping_sub((records.global >> lane & 1) as u8);
                std::ptr::write_bytes(records.p[lane], byte, size * slots.len());
            }
        } else {
            for (e, &slot) in slots.iter().enumerate() {
                for part in 0..size.div_ceil(8) {
                    for lane in lanes_of(m) {
                        let lane = lane as usize;
                        let undefined = view.bits(file, slot + part as u32, lane).undefined;
                        records.write(lane, e * size + 8 * part, size.min(8), undefined);
                    }
                }
            }
        }
    }
    warp.shadow = Some(shadow);
}

/// Calls `f` with a running frame's registers and their shadow, if definedness is followed.
fn with(
    x: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    frame: Frame,
    f: impl FnOnce(&mut Exec<'_>, &mut Block<'_>, &mut Warp, &mut View<'_>),
) {
    let Some(mut shadow) = warp.shadow.take() else {
        return;
    };
    let function = &x.grid.code.functions[frame.function as usize];
    let r = warp.files.regs(frame);
    let mut view = View::new(&mut shadow, r, frame, function, warp.live);
    f(x, block, warp, &mut view);
    warp.shadow = Some(shadow);
}
