//! Loads and stores: addresses to host pointers (all lanes in one piece of memory on the fast path, lane by lane otherwise),
//! then data.

use std::sync::atomic::{Ordering, fence};

use super::access::{
    Pointers, Reached, What, Written, addresses, all_inside, by_window, is_local, shared_end,
    whole_16,
};
use super::defined;
use super::frame::{At, Frame};
use super::registers::Regs;
use super::state::{Block, Warp, line_of};
use super::worker::Exec;
use crate::check::hooks::{Access, Dependence, Kind, Order, Values};
use crate::lower::op::{Base, Mem, MemSpace, NONE};
use crate::lower::operands::File;
use crate::memory::{GLOBAL_BASE, PARAM_WINDOW, SHARED_BASE, SHARED_UNIT, SHARED_WINDOW};

/// The host pointers of an access, which has been checked for bounds and alignment. False: a fault was recorded.
///
/// # Safety
/// There are lanes; the frame is the running one. `site` is the load's or store's index, for others one past the last.
#[inline(always)]
pub(crate) unsafe fn pointers(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    (what, site): (What, usize),
    a: &[u64; 32],
    p: &mut Pointers,
) -> bool {
    let (m, space) = (at.lanes, what.space);
    let first = a[m.trailing_zeros() as usize];
    // Lanes that are off go where the first one goes.
    let mut active = *a;
    if m != !0 {
        for (l, a) in active.iter_mut().enumerate() {
            *a = if m >> l & 1 != 0 { *a } else { first };
        }
    }
    // Natural alignment up to 32 bytes; a vector's is that of the whole.
    let low = active.iter().fold(0, |low, a| low | a);
    let aligned = low & (u64::from(what.size.min(32)) - 1) == 0;
    if aligned {
        let piece = match space {
            MemSpace::Global => exec.global_piece(site, first),
            MemSpace::Shared => Some((
                u64::from(SHARED_BASE),
                shared_end(block.shared_len),
                block.shared_ptr(),
            )),
            MemSpace::Generic if first < SHARED_WINDOW => exec.global_piece(site, first),
            MemSpace::Generic if first >> 48 == SHARED_WINDOW >> 48 => Some((
                SHARED_WINDOW + u64::from(SHARED_BASE),
                SHARED_WINDOW + shared_end(block.shared_len),
                block.shared_ptr(),
            )),
            _ => None,
        };
        if let Some((base, end, host)) = piece
            && all_inside(&active, base, end, what.size)
        {
            for l in 0..32 {
                p[l] = host.wrapping_add(active[l].wrapping_sub(base) as usize);
            }
            return true;
        }
    }
    slow_pointers(exec, block, warp, at, what, a, p)
}

/// Lane by lane.
#[inline(never)]
fn slow_pointers(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    what: What,
    a: &[u64; 32],
    p: &mut Pointers,
) -> bool {
    let m = at.lanes;
    for l in (0..32).filter(|l| m >> l & 1 != 0) {
        match lane_pointer(exec, block, warp, at.frame, what, a[l], l) {
            Some(pointer) => p[l] = pointer,
            None => {
                exec.memory_fault(block, warp, what, a[l], l);
                return false;
            }
        }
    }
    let first = p[m.trailing_zeros() as usize];
    for l in (0..32).filter(|l| m >> l & 1 == 0) {
        p[l] = first;
    }
    true
}

fn lane_pointer(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    frame: Frame,
    what: What,
    address: u64,
    lane: usize,
) -> Option<*mut u8> {
    let size = u64::from(what.size);
    if address & (size.min(32) - 1) != 0 {
        return None;
    }
    let inside = |at: u64, end: u64| at.checked_add(size).is_some_and(|e| e <= end);
    match what.space {
        MemSpace::Generic => {
            let window = address >> 48 << 48;
            let at = address - window;
            let space = match window {
                SHARED_WINDOW => MemSpace::Shared,
                PARAM_WINDOW => MemSpace::Param,
                _ if is_local(address) => MemSpace::Local,
                _ => MemSpace::Global,
            };
            let at = if space == MemSpace::Global {
                address
            } else {
                at
            };
            lane_pointer(exec, block, warp, frame, What { space, ..what }, at, lane)
        }
        MemSpace::Global => {
            if address < GLOBAL_BASE {
                return None;
            }
            let view = exec.grid.memory.view(address)?;
            inside(address, view.end).then(|| exec.grid.memory.host(address))
        }
        MemSpace::Shared => {
            let start = u64::from(SHARED_BASE);
            let end = shared_end(block.shared_len);
            // Compilers read a vector's unused end beyond the last byte: a block's memory is given in units. What is there is
            // undefined. An access that begins there, or writes there, is the program's.
            let unit = shared_end(block.shared_len.next_multiple_of(SHARED_UNIT));
            let tail = what.kind == Kind::Read && address < end && inside(address, unit);
            let ok = address >= start && (inside(address, end) || tail);
            ok.then(|| block.shared_ptr().wrapping_add((address - start) as usize))
        }
        MemSpace::Local => {
            let top = frame.local + exec.grid.code.functions[frame.function as usize].frame;
            let at = address as usize + lane * warp.files.stride as usize;
            inside(address, u64::from(top)).then(|| warp.files.local.as_mut_ptr().wrapping_add(at))
        }
        MemSpace::Param => {
            let ok = what.kind == Kind::Read && inside(address, exec.grid.params.len() as u64);
            // Only read, as the kind says.
            ok.then(|| {
                exec.grid
                    .params
                    .as_ptr()
                    .cast_mut()
                    .wrapping_add(address as usize)
            })
        }
    }
}

/// Tells the checker and the counters of an access.
#[inline(never)]
pub(crate) fn observe(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &Warp,
    what: What,
    a: &[u64; 32],
    active: u32,
    written: Written<'_>,
) {
    let (shared, offsets, global) = by_window(what.space, a, active);
    if exec.profile {
        exec.count(|t| t.access(what, shared, &offsets, global, a));
    }
    if !block.follows {
        return;
    }
    let line = line_of(exec.grid.code, what.pc);
    if let Some(checker) = &mut block.checker {
        let access = |lanes| Access {
            line,
            kind: what.kind,
            order: what.order,
            read_only: what.read_only,
            lanes,
            size: what.size,
            values: written.values,
            dependence: written.dependence,
            instance: what.instance,
        };
        if shared != 0 {
            checker.shared(warp.index, &access(shared), &offsets);
        }
        if global != 0 {
            checker.global(warp.index, &access(global), a);
        }
    }
}

/// What a store writes, byte by byte, for the checker.
struct Stored<'a> {
    mem: &'a Mem,
    regs: Regs,
    pointers: &'a Pointers,
}

impl Values for Stored<'_> {
    fn stored(&self, lane: usize, byte: usize) -> u8 {
        let size = self.mem.size as usize;
        let slot = self.mem.regs[byte / size];
        let byte = byte % size;
        // SAFETY: slots of the running frame.
        unsafe {
            if self.mem.reg64 {
                let word = self.regs.get64(slot + (byte / 8) as u32)[lane];
                (word >> (8 * (byte % 8))) as u8
            } else {
                (self.regs.get32(slot)[lane] >> (8 * byte)) as u8
            }
        }
    }

    fn present(&self, lane: usize, byte: usize) -> u8 {
        // SAFETY: the access was checked for `size * count` bytes from the pointer.
        unsafe { self.pointers[lane].wrapping_add(byte).read() }
    }
}

/// Whether the lanes' words lie one after the other.
#[inline(always)]
fn is_straight(p: &Pointers) -> bool {
    let first = p[0] as u64;
    let mut off = 0;
    for (l, &p) in p.iter().enumerate() {
        off |= (p as u64).wrapping_sub(first).wrapping_sub(4 * l as u64);
    }
    off == 0
}

/// Executes `ld`; false: a fault was recorded.
///
/// # Safety
/// Slots belong to the frame; there are lanes.
#[inline(always)]
pub(crate) unsafe fn load(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    index: u32,
) -> bool {
    let (r, m) = (at.regs, at.lanes);
    let code = exec.grid.code;
    let mem = &code.mems[index as usize];
    // SAFETY: the caller's.
    unsafe {
        if mem.address.space == MemSpace::Param && mem.address.base == Base::None {
            return load_param(exec, block, warp, at, mem);
        }
        let a = addresses(at, &mem.address);
        let what = What {
            space: mem.address.space,
            instance: defined::instance(exec, warp, at),
            read_only: mem.read_only,
            kind: Kind::Read,
            order: mem.order,
            size: mem.size * mem.count,
            pc: at.pc,
        };
        let mut p: Pointers = [std::ptr::null_mut(); 32];
        if !pointers(exec, block, warp, at, (what, index as usize), &a, &mut p) {
            return false;
        }
        // What is strong is not torn.
        let strong_16 = mem.order != Order::Weak && what.size == 16;
        let whole = strong_16.then(whole_16);
        // All lanes, one word each, one after the other: a copy.
        let straight = m == !0 && mem.size == 4 && mem.count == 1 && !mem.reg64 && is_straight(&p);
        if straight && mem.regs[0] != NONE {
            let words = p[0].cast::<[u32; 32]>().read_unaligned();
            r.set32(mem.regs[0], &words, m);
        } else {
            for e in 0..mem.count as usize {
                let slot = mem.regs[e];
                if slot != NONE {
                    load_element(r, mem, slot, &p, e * mem.size as usize, m);
                }
            }
        }
        drop(whole);
        if mem.order != Order::Weak {
            fence(Ordering::SeqCst);
        }
        if exec.profile || block.follows {
            observe(exec, block, warp, what, &a, m, Written::default());
        }
        if warp.shadow.is_some() {
            let reached = Reached {
                what,
                lanes: m,
                a: &a,
                p: &p,
            };
            defined::loaded(exec, block, warp, at, mem, reached);
        }
    }
    true
}

#[inline(never)]
unsafe fn load_element(regs: Regs, mem: &Mem, slot: u32, p: &Pointers, offset: usize, lanes: u32) {
    macro_rules! read {
        ($t:ty) => {{
            let mut t = [0; 32];
            for l in 0..std::hint::black_box(32) {
                t[l & 31] = p[l & 31].wrapping_add(offset).cast::<$t>().read() as _;
            }
            t
        }};
    }
    // SAFETY: pointers were checked for the access's size and alignment; slots belong to the frame.
    unsafe {
        match (mem.size, mem.reg64, mem.signed) {
            (4, false, _) => regs.set32(slot, &read!(u32), lanes),
            (8, ..) => regs.set64(slot, &read!(u64), lanes),
            (2, false, false) => regs.set32(slot, &read!(u16), lanes),
            (1, false, false) => regs.set32(slot, &read!(u8), lanes),
            (2, false, true) => {
                let t: [u32; 32] = read!(i16);
                regs.set32(
                    slot,
                    &t.map(|x| if mem.reg16 { x & 0xffff } else { x }),
                    lanes,
                );
            }
            (1, false, true) => {
                let t: [u32; 32] = read!(i8);
                regs.set32(
                    slot,
                    &t.map(|x| if mem.reg16 { x & 0xffff } else { x }),
                    lanes,
                );
            }
            (4, true, false) => regs.set64(slot, &read!(u32), lanes),
            (4, true, true) => regs.set64(slot, &read!(i32), lanes),
            (2, true, false) => regs.set64(slot, &read!(u16), lanes),
            (2, true, true) => regs.set64(slot, &read!(i16), lanes),
            (1, true, false) => regs.set64(slot, &read!(u8), lanes),
            (1, true, true) => regs.set64(slot, &read!(i8), lanes),
            // 16 bytes: two slots.
            _ => {
                regs.set64(slot, &read!(u64), lanes);
                let high =
                    std::array::from_fn(|l| p[l].wrapping_add(offset + 8).cast::<u64>().read());
                regs.set64(slot + 1, &high, lanes);
            }
        }
    }
}

/// `ld.param` of a kernel: the same for every thread.
///
/// # Safety
/// Slots belong to the frame.
unsafe fn load_param(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    mem: &Mem,
) -> bool {
    let (r, m) = (at.regs, at.lanes);
    let total = (mem.size * mem.count) as usize;
    let params = exec.grid.params;
    let start = mem.address.offset as usize;
    let Some(bytes) = params.get(start..).and_then(|p| p.get(..total)) else {
        let what = What::weak(MemSpace::Param, Kind::Read, total as u32, at.pc);
        let lane = m.trailing_zeros() as usize;
        exec.memory_fault(block, warp, what, start as u64, lane);
        return false;
    };
    for (e, bytes) in bytes.chunks_exact(mem.size as usize).enumerate() {
        let slot = mem.regs[e];
        if slot == NONE {
            continue;
        }
        let mut word = [0; 16];
        word[..bytes.len()].copy_from_slice(bytes);
        let mut value = u128::from_le_bytes(word) as u64;
        if mem.signed {
            let shift = 64 - 8 * mem.size;
            value = ((value << shift) as i64 >> shift) as u64;
        }
        // SAFETY: the caller's.
        unsafe {
            if mem.reg64 {
                r.set64(slot, &[value; 32], m);
                if mem.size == 16 {
                    let high = (u128::from_le_bytes(word) >> 64) as u64;
                    r.set64(slot + 1, &[high; 32], m);
                }
            } else {
                let value = if mem.reg16 { value & 0xffff } else { value };
                r.set32(slot, &[value as u32; 32], m);
            }
        }
        let file = if mem.reg64 { File::R64 } else { File::R32 };
        defined::define(exec, block, warp, at, (file, slot));
        if mem.size == 16 {
            defined::define(exec, block, warp, at, (file, slot + 1));
        }
    }
    true
}

/// Executes `st`; false: a fault was recorded.
///
/// # Safety
/// Slots belong to the frame; there are lanes.
#[inline(always)]
pub(crate) unsafe fn store(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    index: u32,
) -> bool {
    let (r, m) = (at.regs, at.lanes);
    let code = exec.grid.code;
    let mem = &code.mems[index as usize];
    // SAFETY: the caller's.
    unsafe {
        let a = addresses(at, &mem.address);
        let what = What {
            space: mem.address.space,
            instance: None,
            read_only: false,
            kind: Kind::Write,
            order: mem.order,
            size: mem.size * mem.count,
            pc: at.pc,
        };
        let mut p: Pointers = [std::ptr::null_mut(); 32];
        if !pointers(exec, block, warp, at, (what, index as usize), &a, &mut p) {
            return false;
        }
        if exec.profile || block.follows {
            let stored = Stored {
                mem,
                regs: r,
                pointers: &p,
            };
            let awaited = defined::awaited_by_store(exec, warp, at, mem);
            let awaited = awaited.as_ref().map(|a| a as &dyn Dependence);
            let written = Written {
                values: Some(&stored),
                dependence: awaited,
            };
            observe(exec, block, warp, what, &a, m, written);
        }
        if mem.order != Order::Weak {
            fence(Ordering::SeqCst);
        }
        let strong_16 = mem.order != Order::Weak && what.size == 16;
        let whole = strong_16.then(whole_16);
        let straight = m == !0 && mem.size == 4 && mem.count == 1 && !mem.reg64 && is_straight(&p);
        if straight {
            p[0].cast::<[u32; 32]>()
                .write_unaligned(*r.get32(mem.regs[0]));
        } else {
            for e in 0..mem.count as usize {
                store_element(r, mem, mem.regs[e], &p, e * mem.size as usize, m);
            }
        }
        drop(whole);
        if mem.order != Order::Weak {
            fence(Ordering::SeqCst);
        }
        if warp.shadow.is_some() {
            let reached = Reached {
                what,
                lanes: m,
                a: &a,
                p: &p,
            };
            defined::stored(exec, block, warp, at, mem, reached);
        }
    }
    true
}

#[inline(never)]
unsafe fn store_element(regs: Regs, mem: &Mem, slot: u32, p: &Pointers, offset: usize, lanes: u32) {
    macro_rules! write {
        ($t:ty, $get:ident, $slot:expr, $offset:expr) => {{
            let value = regs.$get($slot);
            for l in 0..32 {
                if lanes >> l & 1 != 0 {
                    p[l].wrapping_add($offset)
                        .cast::<$t>()
                        .write(value[l] as $t);
                }
            }
        }};
    }
    // SAFETY: pointers were checked for the access's size and alignment; slots belong to the frame.
    unsafe {
        match (mem.size, mem.reg64) {
            (4, false) => write!(u32, get32, slot, offset),
            (2, false) => write!(u16, get32, slot, offset),
            (1, false) => write!(u8, get32, slot, offset),
            (8, _) => write!(u64, get64, slot, offset),
            (4, true) => write!(u32, get64, slot, offset),
            (2, true) => write!(u16, get64, slot, offset),
            (1, true) => write!(u8, get64, slot, offset),
            _ => {
                write!(u64, get64, slot, offset);
                write!(u64, get64, slot + 1, offset + 8);
            }
        }
    }
}
