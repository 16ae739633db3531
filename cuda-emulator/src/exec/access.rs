//! Accesses to memory: what they are, the lanes' addresses, and which windows those are in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::frame::At;
use super::registers::mask_of;
use crate::check::hooks::{Dependence, Instance, Kind, Order, Values};
use crate::lower::op::{Address, Base, MemSpace};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_BASE, SHARED_WINDOW};

/// Where each lane's data is on the host; lanes that are off point to where the first one does.
pub(crate) type Pointers = [*mut u8; 32];

/// What an access is, for checks and messages.
#[derive(Clone, Copy)]
pub(crate) struct What {
    pub(crate) space: MemSpace,
    pub(crate) kind: Kind,
    pub(crate) order: Order,
    /// A load that caches may answer with what memory held when the launch began.
    pub(crate) read_only: bool,
    /// Bytes a lane.
    pub(crate) size: u32,
    pub(crate) pc: u32,
    /// Of a load that stores may depend on.
    pub(crate) instance: Option<Instance>,
}

impl What {
    /// A weak access, that may be answered by no read-only cache.
    pub(crate) fn weak(space: MemSpace, kind: Kind, size: u32, pc: u32) -> Self {
        Self {
            space,
            kind,
            order: Order::Weak,
            read_only: false,
            size,
            pc,
            instance: None,
        }
    }
}

/// An access that was checked: of each of the lanes, its address and where that is on the host.
#[derive(Clone, Copy)]
pub(crate) struct Reached<'a> {
    pub(crate) what: What,
    pub(crate) lanes: u32,
    pub(crate) a: &'a [u64; 32],
    pub(crate) p: &'a Pointers,
}

/// What a store writes, and what it depends on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Written<'a> {
    pub(crate) values: Option<&'a dyn Values>,
    pub(crate) dependence: Option<&'a dyn Dependence>,
}

/// Each lane's address in the instruction's space.
///
/// # Safety
/// The base is a slot of the frame.
#[inline(always)]
pub(crate) unsafe fn addresses(at: At, a: &Address) -> [u64; 32] {
    let (r, frame) = (at.regs, at.frame);
    // SAFETY: the caller's.
    unsafe {
        match a.base {
            Base::R64(slot) => {
                let base = r.get64(slot);
                let mut t = [0; 32];
                for l in 0..32 {
                    t[l] = base[l].wrapping_add(a.offset as u64);
                }
                t
            }
            Base::R32(slot) => {
                let base = r.get32(slot);
                let mut t = [0; 32];
                for l in 0..32 {
                    t[l] = u64::from(base[l].wrapping_add(a.offset as u32));
                }
                t
            }
            Base::None => [a.offset as u64; 32],
            Base::Frame => [(i64::from(frame.local) + a.offset) as u64; 32],
        }
    }
}

/// Whether all of `[a, a + size)` are in `[base, end)`.
#[inline(always)]
pub(super) fn all_inside(a: &[u64; 32], base: u64, end: u64, size: u32) -> bool {
    let room = end.wrapping_sub(base);
    if room < u64::from(size) || end < base {
        return false;
    }
    let limit = room - u64::from(size);
    let mut outside = [0u32; 32];
    for l in 0..32 {
        outside[l] = if a[l].wrapping_sub(base) > limit {
            !0
        } else {
            0
        };
    }
    mask_of(&outside) == 0
}

/// The lanes whose address is in shared memory, with offsets in it, and those in global memory.
pub(super) fn by_window(space: MemSpace, a: &[u64; 32], m: u32) -> (u32, [u32; 32], u32) {
    let mut shared = 0;
    let mut global = 0;
    let mut offsets = [0; 32];
    for l in (0..32).filter(|l| m >> l & 1 != 0) {
        let is_shared = match space {
            MemSpace::Shared => true,
            MemSpace::Generic => a[l] >> 48 == SHARED_WINDOW >> 48,
            _ => false,
        };
        if is_shared {
            shared |= 1 << l;
            offsets[l] = (a[l] as u32).wrapping_sub(SHARED_BASE);
        } else if matches!(space, MemSpace::Global | MemSpace::Generic) && a[l] < SHARED_WINDOW {
            global |= 1 << l;
        }
    }
    (shared, offsets, global)
}

/// Adds a window's base to an address of a space, or takes it off.
pub(crate) fn window(space: MemSpace) -> u64 {
    match space {
        MemSpace::Shared => SHARED_WINDOW,
        MemSpace::Local => LOCAL_WINDOW,
        MemSpace::Param => PARAM_WINDOW,
        MemSpace::Generic | MemSpace::Global => 0,
    }
}

/// End of the shared window's used part.
pub(crate) fn shared_end(len: u32) -> u64 {
    u64::from(SHARED_BASE) + u64::from(len)
}

/// Whether a generic address is in the local window.
pub(crate) fn is_local(address: u64) -> bool {
    address >> 48 == LOCAL_WINDOW >> 48
}

/// Held while 16 bytes are read or written as one by a strong operation: hosts have no portable instruction for that.
pub(crate) fn whole_16() -> MutexGuard<'static, ()> {
    static WHOLE: Mutex<()> = Mutex::new(());
    WHOLE.lock().unwrap_or_else(PoisonError::into_inner)
}
