//! `cp.async`: at once, or (late) with the destination poisoned until a wait covers the copy.

use super::access::{What, addresses};
use super::defined;
use super::frame::At;
use super::memory::pointers;
use super::state::{Block, Pending, Warp, line_of};
use super::worker::Exec;
use crate::check::FindingKind;
use crate::check::hooks::{AsyncCopy, Kind};
use crate::lower::op::{CpAsync, NONE};
use crate::lower::operands::File;
use crate::memory::SHARED_BASE;
use crate::random::Random;

/// What the destination holds until the copy is made: a NaN in every float format.
pub(super) const POISON: u8 = 0xff;

/// Executes the copy for the lanes; false: a fault was recorded.
pub(crate) fn issue(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    at: At,
    copy: &CpAsync,
) -> bool {
    let (r, m, pc) = (at.regs, at.lanes, at.pc);
    let size = copy.size;
    for base in [copy.dst.base, copy.src.base] {
        defined::check_address(exec, block, warp, at, base);
    }
    let counts = [
        (File::R32, copy.src_size),
        (File::Reference, copy.ignore.unwrap_or(NONE)),
    ];
    for register in counts {
        let what = "copies as many bytes as";
        defined::check_decision(exec, block, warp, at, register, what);
    }
    let mut read = [size; 32];
    if copy.src_size != NONE {
        // SAFETY: a slot of the frame.
        let asked = unsafe { r.get32(copy.src_size) };
        if let Some(lane) = (0..32).find(|&l| m >> l & 1 != 0 && asked[l] > size) {
            let message = format!(
                "cp.async copies {size} bytes and takes {} of them from its source: more than it copies, which is undefined",
                asked[lane]
            );
            let kind = FindingKind::OutOfBounds;
            exec.report(block, warp, kind, message, (pc, 1 << lane), None);
        }
        // The hardware reads no more than the size.
        read = asked.map(|n| n.min(size));
    }
    // SAFETY: slots of the frame.
    let (to, from, read) = unsafe {
        if let Some(ignore) = copy.ignore {
            let ignore = r.pred(ignore);
            for (l, n) in read.iter_mut().enumerate() {
                *n = if ignore >> l & 1 != 0 { 0 } else { *n };
            }
        }
        (addresses(at, &copy.dst), addresses(at, &copy.src), read)
    };
    let site = exec.grid.code.mems.len();
    let mut target = [std::ptr::null_mut(); 32];
    let mut source = [std::ptr::null_mut(); 32];
    let what = What::weak(copy.dst.space, Kind::Write, size, pc);
    // SAFETY: slots of the frame, and some lanes.
    unsafe {
        if !pointers(exec, block, warp, at, (what, site), &to, &mut target) {
            return false;
        }
        let whole = lanes(m, |l| read[l] == size);
        let what = What::weak(copy.src.space, Kind::Read, size, pc);
        let those = At { lanes: whole, ..at };
        if whole != 0 && !pointers(exec, block, warp, those, (what, site), &from, &mut source) {
            return false;
        }
    }
    // Part of the size: only those bytes have to be there, and nothing at all for none.
    for l in (0..32).filter(|&l| m >> l & 1 != 0 && read[l] != size && read[l] != 0) {
        let end = from[l].checked_add(u64::from(read[l]));
        let inside = exec
            .grid
            .memory
            .view(from[l])
            .is_some_and(|v| end.is_some_and(|e| e <= v.end));
        if !inside || from[l] % u64::from(size) != 0 {
            let what = What::weak(copy.src.space, Kind::Read, read[l], pc);
            exec.memory_fault(block, warp, what, from[l], l);
            return false;
        }
        source[l] = exec.grid.memory.host(from[l]);
    }
    let offsets = to.map(|a| (a as u32).wrapping_sub(SHARED_BASE));
    if exec.profile {
        exec.count(|t| t.async_copy(m, size, &offsets, &from, &read));
    }
    if block.follows {
        let copy = AsyncCopy {
            line: line_of(exec.grid.code, pc),
            lanes: m,
            size,
            offsets: &offsets,
            sources: &from,
            read: &read,
        };
        defined::copied(exec, block, warp, &copy);
        if let Some(checker) = &mut block.checker {
            checker.async_copy(warp.index, &copy);
        }
    }
    let late = !warp.copies.is_empty();
    for l in (0..32).filter(|&l| m >> l & 1 != 0) {
        // SAFETY: both ranges were checked above; one is in shared, the other in device memory.
        unsafe {
            if late {
                std::ptr::write_bytes(target[l], POISON, size as usize);
                let copies = &mut warp.copies[l];
                let group = copies.committed;
                let (to, from, read) = (offsets[l], from[l], read[l]);
                copies.pending.push_back(Pending {
                    group,
                    to,
                    from,
                    size,
                    read,
                });
            } else {
                let n = read[l] as usize;
                std::ptr::copy_nonoverlapping(source[l], target[l], n);
                std::ptr::write_bytes(target[l].wrapping_add(n), 0, size as usize - n);
            }
        }
    }
    true
}

fn lanes(active: u32, f: impl Fn(usize) -> bool) -> u32 {
    (0..32)
        .filter(|&l| active >> l & 1 != 0 && f(l))
        .fold(0, |s, l| s | 1 << l)
}

/// The lanes' copies so far become a group.
pub(crate) fn commit(block: &mut Block<'_>, warp: &mut Warp, lanes: u32) {
    for (l, copies) in warp.copies.iter_mut().enumerate() {
        copies.committed += lanes >> l & 1;
    }
    if block.follows
        && let Some(checker) = &mut block.checker
    {
        checker.async_commit(warp.index, lanes);
    }
}

/// Makes the copies of all but the last `pending` groups (with `all`, also those not committed).
pub(crate) fn wait(
    exec: &mut Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    pending: u32,
    all: bool,
    lanes: u32,
) {
    if all {
        commit(block, warp, lanes);
    }
    let mut due = Vec::new();
    for l in (0..warp.copies.len()).filter(|l| lanes >> l & 1 != 0) {
        let copies = &mut warp.copies[l];
        while let Some(&copy) = copies.pending.front()
            && copy.group + pending < copies.committed
        {
            due.push(copy);
            copies.pending.pop_front();
        }
    }
    // Nothing orders copies among themselves.
    if let Some(seed) = exec.grid.launch.options.seed {
        let mut random = Random::new(seed ^ exec.warp_instructions);
        for last in (1..due.len()).rev() {
            due.swap(last, random.below(last + 1));
        }
    }
    let shared = block.shared_ptr();
    for copy in due {
        let memory = exec.grid.memory;
        let n = copy.read as usize;
        // The source may have been freed since: then the poison stays.
        let there = n == 0 || memory.check_range(copy.from, n as u64).is_none();
        // SAFETY: the destination was checked at issue, and shared memory does not move; the source just now.
        unsafe {
            if there {
                let target = shared.wrapping_add(copy.to as usize);
                if n > 0 {
                    std::ptr::copy_nonoverlapping(memory.host(copy.from), target, n);
                }
                std::ptr::write_bytes(target.wrapping_add(n), 0, copy.size as usize - n);
            }
        }
    }
    if block.follows
        && let Some(checker) = &mut block.checker
    {
        checker.async_wait(warp.index, lanes, pending);
    }
}
