//! The records of memory: which bits of the bytes that an access reaches are undefined.

use crate::check::lanes_of;
use crate::exec::access::{Pointers, Reached};
use crate::exec::state::{Block, Warp};
use crate::exec::worker::Exec;
use crate::lower::op::MemSpace;
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};

/// The records of the bytes that an access's lanes reach, as pointers; `global` are the lanes in which a set bit is defined.
pub(crate) struct Records {
    pub(super) p: Pointers,
    pub(super) global: u32,
    pub(super) space: MemSpace,
}

/// What parameters are, and what nobody records: nothing is undefined.
static DEFINED: [u64; 16] = [0; 16];

impl Records {
    /// The undefined bits of up to 8 bytes at an offset.
    ///
    /// # Safety
    /// The access was checked for those bytes.
    pub(super) unsafe fn read(&self, lane: usize, offset: usize, size: usize) -> u64 {
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
    pub(super) unsafe fn write(&self, lane: usize, offset: usize, size: usize, undefined: u64) {
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
    pub(super) unsafe fn all_defined(&self, size: usize) -> bool {
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
    pub(super) unsafe fn first(&self, lanes: u32, size: usize) -> Option<(usize, u64)> {
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
pub(super) fn records(
    exec: &Exec<'_>,
    block: &mut Block<'_>,
    warp: &mut Warp,
    reached: Reached<'_>,
) -> Records {
    let (space, p) = (reached.what.space, reached.p);
    let moved = |from: *mut u8, to: *mut u8| {
        let by = (to as usize).wrapping_sub(from as usize);
        p.map(|p| p.wrapping_add(by))
    };
    match space {
        MemSpace::Global => Records {
            p: moved(
                exec.grid.memory.host(GLOBAL_BASE),
                exec.grid.memory.defined(GLOBAL_BASE),
            ),
            global: !0,
            space,
        },
        MemSpace::Shared => Records {
            p: moved(block.shared_ptr(), block.undefined.as_mut_ptr().cast()),
            global: 0,
            space,
        },
        _ => mixed_records(exec, block, warp, reached),
    }
}

/// Lane by lane.
#[inline(never)]
pub(super) fn mixed_records(
    exec: &Exec<'_>,
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
                    exec.grid.memory.host(GLOBAL_BASE),
                    exec.grid.memory.defined(GLOBAL_BASE),
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
