//! Device memory: a 64-bit address space of its own, allocations with red zones between them, freed ranges kept apart so that
//! a late access is told from a wild one. Other windows of the generic address space (shared, local, param) are here too.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Generic addresses in this window are the executing block's shared memory; the low 32 bits are the `.shared` address.
pub const SHARED_WINDOW: u64 = 0x0001_0000_0000_0000;
/// First byte of a block's shared memory inside its window: not zero, 1024-aligned, as on sm_90 where 1 KiB is reserved.
pub const SHARED_BASE: u32 = 0x400;
/// A block is given shared memory in units of so many bytes.
pub const SHARED_UNIT: u32 = 128;
/// The executing thread's local memory.
pub const LOCAL_WINDOW: u64 = 0x0002_0000_0000_0000;
/// The launch's parameter block (`cvta.param`).
pub const PARAM_WINDOW: u64 = 0x0003_0000_0000_0000;
/// First address of global (and constant) memory.
pub const GLOBAL_BASE: u64 = 0x0000_7000_0000_0000;

/// Bytes left unused behind every allocation, and the least alignment.
const RED_ZONE: u64 = 256;
/// Of the host's memory.
const PAGE: u64 = 4096;
/// Freed allocations that are remembered. Beyond, those at the lowest addresses are forgotten: an access to them is out of bounds then.
const MOST_FREED: usize = 1 << 16;

/// Why an access from the host, or an attempt to free, was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessError {
    /// Which rule it broke.
    pub kind: AccessErrorKind,
    /// First address of the access.
    pub address: u64,
    /// Bytes of the access.
    pub len: u64,
    /// One sentence that names the nearest allocation.
    pub message: String,
}

/// What was wrong with an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessErrorKind {
    /// Outside every allocation, or past the end of one.
    OutOfBounds,
    /// Inside an allocation that was freed.
    UseAfterFree,
    /// `free` of an address that is not the start of an allocation.
    NotAnAllocation,
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AccessError {}

/// Who owns an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AllocationKind {
    /// Made by the program: a leak if it outlives its context.
    #[default]
    User,
    /// A module's variables.
    Module,
    /// The emulator's own, e.g. a grid's workspace.
    Internal,
    /// The program's, which the host reads and writes unseen.
    Host,
}

/// An allocation as `live` lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocationInfo {
    /// Device address of the first byte.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// Who owns it.
    pub kind: AllocationKind,
    /// Counts allocations, from 1: tells two at the same address apart.
    pub serial: u64,
}

#[derive(Debug)]
struct Allocation {
    len: u64,
    kind: AllocationKind,
    serial: u64,
}

/// An allocation as the executor caches it; valid while `DeviceMemory::generation` stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AllocationView {
    pub(crate) base: u64,
    pub(crate) end: u64,
}

#[derive(Debug, Default)]
struct Table {
    live: BTreeMap<u64, Allocation>,
    /// Freed allocations whose range was not used again: base → bytes.
    freed: BTreeMap<u64, u64>,
    /// Ranges (with their red zones) that can be used again: start → end, never adjacent.
    holes: BTreeMap<u64, u64>,
    /// First address never used.
    next: u64,
    used: u64,
    serial: u64,
}

impl Table {
    fn find(&self, addr: u64) -> Option<(u64, &Allocation)> {
        let (&base, allocation) = self.live.range(..=addr).next_back()?;
        (addr - base < allocation.len).then_some((base, allocation))
    }

    /// The allocation that holds all of `[addr, addr + len)`.
    fn check(&self, addr: u64, len: u64) -> Result<(u64, &Allocation), AccessError> {
        match self.find(addr) {
            Some((base, a)) if len <= a.len - (addr - base) => Ok((base, a)),
            _ => Err(self.explain(addr, len)),
        }
    }

    fn explain(&self, addr: u64, len: u64) -> AccessError {
        if let Some((&base, &size)) = self.freed.range(..=addr).next_back()
            && addr - base < size
        {
            return AccessError {
                kind: AccessErrorKind::UseAfterFree,
                address: addr,
                len,
                message: format!(
                    "{len} bytes at {addr:#x} are {} bytes into an allocation of {size} bytes at {base:#x} that was freed",
                    addr - base
                ),
            };
        }
        let before = self.live.range(..=addr).next_back();
        let after = self.live.range(addr..).next();
        let place = match (before, after) {
            (Some((&base, a)), _) if addr - base < a.len => format!(
                "reach {} bytes past the end of the allocation of {} bytes at {base:#x}",
                addr.saturating_add(len) - (base + a.len),
                a.len
            ),
            (Some((&base, a)), next)
                if next.is_none_or(|(&n, _)| addr - (base + a.len) <= n - addr) =>
            {
                format!(
                    "are {} bytes past the end of the nearest allocation ({} bytes at {base:#x})",
                    addr - (base + a.len),
                    a.len
                )
            }
            (_, Some((&base, a))) => format!(
                "are {} bytes before the nearest allocation ({} bytes at {base:#x})",
                base - addr,
                a.len
            ),
            (_, None) => "are in no allocation (there is none)".into(),
        };
        AccessError {
            kind: AccessErrorKind::OutOfBounds,
            address: addr,
            len,
            message: format!("{len} bytes at {addr:#x} {place}"),
        }
    }

    /// Takes `size` bytes (a multiple of the red zone) aligned to `align` out of a hole.
    fn take_hole(&mut self, size: u64, align: u64) -> Option<u64> {
        let (start, base, end) = self.holes.iter().find_map(|(&start, &end)| {
            let base = start.checked_next_multiple_of(align)?;
            (base.checked_add(size)? <= end).then_some((start, base, end))
        })?;
        self.holes.remove(&start);
        if start < base {
            self.holes.insert(start, base);
        }
        if base + size < end {
            self.holes.insert(base + size, end);
        }
        let old: Vec<u64> = self
            .freed
            .range(..base + size)
            .rev()
            .map(|(&b, _)| b)
            .collect();
        for b in old {
            if b + self.freed[&b] > base {
                self.freed.remove(&b);
            }
        }
        Some(base)
    }

    /// Adds a range that can be used again, and gives the hole that it is part of now.
    fn add_hole(&mut self, mut start: u64, mut end: u64) -> Range<u64> {
        if let Some((&s, &e)) = self.holes.range(..start).next_back()
            && e == start
        {
            self.holes.remove(&s);
            start = s;
        }
        if let Some(e) = self.holes.remove(&end) {
            end = e;
        }
        self.holes.insert(start, end);
        start..end
    }
}

/// The device's memory. Shared between threads; data is read and written by kernels through raw host pointers.
pub struct DeviceMemory {
    arena: *mut u8,
    /// Bytes of address space: more than the capacity, so that freed ranges are not reused soon.
    reserved: u64,
    capacity: u64,
    /// A bit for each bit of the arena, set where that is defined: written, and by a value that was defined itself. Pages of the
    /// host begin with zeros, so a large allocation costs nothing until it is used. Null when it is not recorded.
    shadow: *mut u8,
    generation: AtomicU64,
    table: RwLock<Table>,
}

// SAFETY: `arena` is a private mapping that lives as long as the value; the table is behind a lock, and the bytes are device
// memory, whose concurrent use is up to the programs run on it, as on a card.
unsafe impl Send for DeviceMemory {}
// SAFETY: as above.
unsafe impl Sync for DeviceMemory {}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMemory")
            .field("capacity", &self.capacity)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

impl DeviceMemory {
    /// A memory of `bytes` bytes. Only address space is taken until the bytes are used.
    ///
    /// # Errors
    /// When the host refuses the address space.
    pub fn new(bytes: u64) -> std::io::Result<Self> {
        Self::with_tracking(bytes, false)
    }

    /// As [`DeviceMemory::new`]; with `track`, it is recorded which bits are defined.
    ///
    /// # Errors
    /// When the host refuses the address space.
    pub fn with_tracking(bytes: u64, track: bool) -> std::io::Result<Self> {
        // Address space is free: twice the capacity keeps freed ranges out of use, the rest is room for red zones.
        let reserved = bytes
            .checked_next_multiple_of(4096)
            .and_then(|b| b.checked_mul(2))
            .and_then(|b| b.checked_add(1 << 28))
            .filter(|&b| b < SHARED_WINDOW - GLOBAL_BASE)
            .ok_or_else(|| {
                std::io::Error::other(format!("{bytes} bytes of device memory are too many"))
            })?;
        let arena = map(reserved)?;
        let shadow = match track {
            true => map(reserved).inspect_err(|_| unmap(arena, reserved))?,
            false => std::ptr::null_mut(),
        };
        let table = Table {
            next: GLOBAL_BASE,
            ..Table::default()
        };
        Ok(Self {
            arena,
            reserved,
            capacity: bytes,
            shadow,
            generation: AtomicU64::new(1),
            table: RwLock::new(table),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the device has.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes in live allocations.
    pub fn used(&self) -> u64 {
        self.read().used
    }

    /// Whether it is recorded which bits are defined.
    pub fn tracks_defined(&self) -> bool {
        !self.shadow.is_null()
    }

    /// A new allocation of the program's; `None` when `bytes` is 0 or does not fit. `align` is a power of two, at least 256 is given.
    pub fn allocate(&self, bytes: u64, align: u64) -> Option<u64> {
        self.allocate_as(bytes, align, AllocationKind::User)
    }

    /// As [`DeviceMemory::allocate`], for an owner.
    pub fn allocate_as(&self, bytes: u64, align: u64, kind: AllocationKind) -> Option<u64> {
        if bytes == 0 || !align.is_power_of_two() {
            return None;
        }
        let align = align.max(RED_ZONE);
        let size = bytes
            .checked_add(RED_ZONE)?
            .checked_next_multiple_of(RED_ZONE)?;
        let mut table = self.write();
        if bytes > self.capacity - table.used {
            return None;
        }
        let fresh = table
            .next
            .checked_next_multiple_of(align)
            .filter(|&base| size <= (GLOBAL_BASE + self.reserved).saturating_sub(base));
        let base = match fresh {
            Some(base) => {
                if table.next < base {
                    let start = table.next;
                    table.add_hole(start, base);
                }
                table.next = base + size;
                base
            }
            None => table.take_hole(size, align)?,
        };
        table.used += bytes;
        table.serial += 1;
        let allocation = Allocation {
            len: bytes,
            kind,
            serial: table.serial,
        };
        table.live.insert(base, allocation);
        Some(base)
    }

    /// Ends an allocation; `addr` must be its start. Its range is not used again while there is fresh address space.
    ///
    /// # Errors
    /// When no live allocation starts at `addr`.
    pub fn free(&self, addr: u64) -> Result<(), AccessError> {
        let mut table = self.write();
        let Some(allocation) = table.live.remove(&addr) else {
            let message = match (table.freed.get(&addr), table.find(addr)) {
                (Some(len), _) => {
                    format!("{addr:#x} (an allocation of {len} bytes) was freed before")
                }
                (None, Some((base, a))) => format!(
                    "{addr:#x} is {} bytes into the allocation of {} bytes at {base:#x}, not its start",
                    addr - base,
                    a.len
                ),
                (None, None) => format!("{addr:#x} is not the start of an allocation"),
            };
            return Err(AccessError {
                kind: AccessErrorKind::NotAnAllocation,
                address: addr,
                len: 0,
                message,
            });
        };
        table.used -= allocation.len;
        table.freed.insert(addr, allocation.len);
        if table.freed.len() > MOST_FREED {
            table.freed.pop_first();
        }
        let end = addr + (allocation.len + RED_ZONE).next_multiple_of(RED_ZONE);
        let hole = table.add_hole(addr, end);
        self.generation.fetch_add(1, Ordering::Release);
        // Small allocations share a page, which goes back with the last of them.
        let first = (addr & !(PAGE - 1)).max(hole.start.next_multiple_of(PAGE));
        let last = end.next_multiple_of(PAGE).min(hole.end & !(PAGE - 1));
        let (head, tail) = (
            first.clamp(addr, end),
            last.clamp(first.clamp(addr, end), end),
        );
        // SAFETY: inside the mappings; nothing lives in the hole.
        unsafe {
            discard(self.arena, first, last);
            if self.tracks_defined() {
                discard(self.shadow, first, last);
                for (from, to) in [(addr, head), (tail, end)] {
                    let bytes = self.shadow.add((from - GLOBAL_BASE) as usize);
                    bytes.write_bytes(0, (to - from) as usize);
                }
            }
        }
        Ok(())
    }

    /// Start and bytes of the allocation that contains `addr`.
    pub fn allocation_at(&self, addr: u64) -> Option<(u64, u64)> {
        self.read().find(addr).map(|(base, a)| (base, a.len))
    }

    /// Live allocations by address.
    pub fn live(&self) -> Vec<AllocationInfo> {
        let table = self.read();
        let info = |(&base, a): (&u64, &Allocation)| AllocationInfo {
            base,
            len: a.len,
            kind: a.kind,
            serial: a.serial,
        };
        table.live.iter().map(info).collect()
    }

    /// Why `[addr, addr + len)` is not inside a live allocation (`None` if it is).
    pub fn check_range(&self, addr: u64, len: u64) -> Option<AccessError> {
        self.read().check(addr, len).err()
    }

    /// Writes `data` at `addr`.
    ///
    /// # Errors
    /// When the range is not inside one live allocation; nothing is written then.
    pub fn copy_in(&self, addr: u64, data: &[u8]) -> Result<(), AccessError> {
        if data.is_empty() {
            return Ok(());
        }
        let table = self.read();
        table.check(addr, data.len() as u64)?;
        // SAFETY: the range is inside a live allocation, which the read lock keeps alive; `data` is host memory outside the arena.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.host(addr), data.len()) };
        self.define(addr, data.len() as u64);
        Ok(())
    }

    /// Reads `data.len()` bytes at `addr`.
    ///
    /// # Errors
    /// When the range is not inside one live allocation; `data` is unchanged then.
    pub fn copy_out(&self, addr: u64, data: &mut [u8]) -> Result<(), AccessError> {
        if data.is_empty() {
            return Ok(());
        }
        let table = self.read();
        table.check(addr, data.len() as u64)?;
        // SAFETY: as in `copy_in`.
        unsafe { std::ptr::copy_nonoverlapping(self.host(addr), data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Fills `len` bytes at `addr` with repetitions of `pattern` (1, 2 or 4 bytes for the driver's memsets; any length works).
    ///
    /// # Errors
    /// When the range is not inside one live allocation; nothing is written then.
    pub fn fill(&self, addr: u64, len: u64, pattern: &[u8]) -> Result<(), AccessError> {
        if len == 0 || pattern.is_empty() {
            return Ok(());
        }
        let table = self.read();
        table.check(addr, len)?;
        // SAFETY: the range is inside a live allocation, which the read lock keeps alive.
        unsafe {
            let start = self.host(addr);
            if let [byte] = pattern {
                std::ptr::write_bytes(start, *byte, len as usize);
            } else {
                let mut done = 0;
                while done < len as usize {
                    let n = pattern.len().min(len as usize - done);
                    std::ptr::copy_nonoverlapping(pattern.as_ptr(), start.add(done), n);
                    done += n;
                }
            }
        }
        self.define(addr, len);
        Ok(())
    }

    /// Copies `len` bytes from `src` to `dst`, which may overlap. What is undefined stays so.
    ///
    /// # Errors
    /// When either range is not inside one live allocation; nothing is written then.
    pub fn copy(&self, dst: u64, src: u64, len: u64) -> Result<(), AccessError> {
        if len == 0 {
            return Ok(());
        }
        let table = self.read();
        table.check(src, len)?;
        table.check(dst, len)?;
        // SAFETY: both ranges are inside live allocations, which the read lock keeps alive; a shadow is as long as the arena.
        unsafe {
            std::ptr::copy(self.host(src), self.host(dst), len as usize);
            if self.tracks_defined() {
                std::ptr::copy(self.defined(src), self.defined(dst), len as usize);
            }
        }
        Ok(())
    }

    /// Records that bytes of a live allocation are defined.
    fn define(&self, addr: u64, len: u64) {
        if self.tracks_defined() {
            // SAFETY: callers give ranges of the arena, and the shadow is as long.
            unsafe { std::ptr::write_bytes(self.defined(addr), !0, len as usize) };
        }
    }

    /// Records that everything is defined: what a kernel writes that is not followed cannot be known.
    pub(crate) fn define_all(&self) {
        let table = self.read();
        for (&base, a) in &table.live {
            self.define(base, a.len);
        }
    }

    /// The host reaches an allocation by itself from now on. It writes unseen, so the bytes count as written, now and before each
    /// launch.
    pub(crate) fn share_with_host(&self, addr: u64) {
        if let Some(a) = self.write().live.get_mut(&addr) {
            a.kind = AllocationKind::Host;
            self.define(addr, a.len);
        }
    }

    /// Records that what the host reaches by itself is defined: it may have written it.
    pub(crate) fn define_host(&self) {
        let table = self.read();
        for (&base, a) in table
            .live
            .iter()
            .filter(|(_, a)| a.kind == AllocationKind::Host)
        {
            self.define(base, a.len);
        }
    }

    /// Whether the host reaches an address by itself.
    pub(crate) fn is_host(&self, addr: u64) -> bool {
        let table = self.read();
        table
            .find(addr)
            .is_some_and(|(_, a)| a.kind == AllocationKind::Host)
    }

    /// First address in the range of a byte that is not defined; `None` if there is none or nothing is recorded.
    pub fn first_undefined(&self, addr: u64, len: u64) -> Option<u64> {
        let table = self.read();
        if !self.tracks_defined() || table.check(addr, len).is_err() {
            return None;
        }
        // SAFETY: inside a live allocation, which the read lock keeps alive.
        let defined = unsafe { std::slice::from_raw_parts(self.defined(addr), len as usize) };
        // A stretch at a time, which is fast, then the byte.
        const STRETCH: usize = 512;
        let all = |part: &[u8]| part.iter().fold(!0, |all, bits| all & bits) == !0u8;
        let stretch = defined.chunks(STRETCH).position(|part| !all(part))? * STRETCH;
        let offset = defined[stretch..].iter().position(|&bits| bits != !0)?;
        Some(addr + (stretch + offset) as u64)
    }

    /// Changes when an allocation ends: what `view` gave before may not hold any more.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The allocation that contains `addr`.
    pub(crate) fn view(&self, addr: u64) -> Option<AllocationView> {
        let table = self.read();
        let (base, a) = table.find(addr)?;
        Some(AllocationView {
            base,
            end: base + a.len,
        })
    }

    /// Whether a range of the host's addresses reaches into the device's memory.
    pub(crate) fn overlaps_arena(&self, start: usize, bytes: usize) -> bool {
        let arena = self.arena as usize;
        start < arena.saturating_add(self.reserved as usize) && start.saturating_add(bytes) > arena
    }

    /// Where the byte at `addr` is on the host. The caller has checked that `addr` is in a live allocation.
    pub(crate) fn host(&self, addr: u64) -> *mut u8 {
        self.arena.wrapping_add((addr - GLOBAL_BASE) as usize)
    }

    /// Where the record of which bits of the byte at `addr` are defined is; only if there is one.
    pub(crate) fn defined(&self, addr: u64) -> *mut u8 {
        self.shadow.wrapping_add((addr - GLOBAL_BASE) as usize)
    }
}

/// An anonymous private mapping.
fn map(bytes: u64) -> std::io::Result<*mut u8> {
    // SAFETY: at an address that the kernel chooses.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    match start == libc::MAP_FAILED {
        true => Err(std::io::Error::last_os_error()),
        false => Ok(start.cast()),
    }
}

fn unmap(start: *mut u8, bytes: u64) {
    // SAFETY: a whole mapping that `map` made; callers no longer refer to it.
    unsafe { libc::munmap(start.cast(), bytes as usize) };
}

/// Gives the pages between two addresses back to the host: they read as zero from now on.
///
/// # Safety
/// They are inside the mapping at `start`, and nothing live is in them.
unsafe fn discard(start: *mut u8, first: u64, last: u64) {
    if first < last {
        // SAFETY: the caller's.
        unsafe {
            let pages = start.add((first - GLOBAL_BASE) as usize);
            libc::madvise(pages.cast(), (last - first) as usize, libc::MADV_DONTNEED);
        }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        unmap(self.arena, self.reserved);
        if self.tracks_defined() {
            unmap(self.shadow, self.reserved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_bounds() {
        let memory = DeviceMemory::with_tracking(1 << 20, true).unwrap();
        let a = memory.allocate(1000, 1).unwrap();
        let b = memory.allocate(100, 4096).unwrap();
        assert_eq!(b % 4096, 0);
        assert!(b >= a + 1000 + RED_ZONE);
        memory.copy_in(a + 10, &[1, 2, 3]).unwrap();
        assert_eq!(memory.first_undefined(a + 10, 3), None);
        assert_eq!(memory.first_undefined(a + 9, 3), Some(a + 9));
        assert_eq!(memory.first_undefined(a + 10, 100), Some(a + 13));
        memory.fill(b, 100, &[7, 8]).unwrap();
        memory.copy(b + 1, a + 10, 4).unwrap();
        let mut out = [0; 6];
        memory.copy_out(b, &mut out).unwrap();
        assert_eq!(out, [7, 1, 2, 3, 0, 8]);
        assert_eq!(memory.first_undefined(b, 100), Some(b + 4));
        let error = memory.copy_in(a + 999, &[0, 0]).unwrap_err();
        assert_eq!(error.kind, AccessErrorKind::OutOfBounds);
        assert!(error.message.contains("1 bytes past the end"), "{error}");
        assert_eq!(memory.allocation_at(a + 1000), None);
        assert_eq!(memory.used(), 1100);
        assert_eq!(memory.live().len(), 2);
    }

    #[test]
    fn freed_ranges() {
        let memory = DeviceMemory::new(1 << 20).unwrap();
        let a = memory.allocate(5000, 1).unwrap();
        assert!(
            memory
                .free(a + 8)
                .unwrap_err()
                .message
                .contains("8 bytes into")
        );
        memory.free(a).unwrap();
        assert!(memory.free(a).unwrap_err().message.contains("freed before"));
        let b = memory.allocate(5000, 1).unwrap();
        assert_ne!(a, b, "a freed range is kept apart");
        let error = memory.copy_in(a + 4, &[0]).unwrap_err();
        assert_eq!(error.kind, AccessErrorKind::UseAfterFree);
        assert_eq!(
            memory.allocate(1 << 20, 1),
            None,
            "does not fit beside 5000 bytes"
        );
        assert_eq!(memory.allocate(0, 1), None);
    }

    #[test]
    fn address_space_is_reused_when_it_runs_out() {
        let memory = DeviceMemory::with_tracking(1 << 20, true).unwrap();
        let mut seen = std::collections::HashSet::new();
        let mut again = 0;
        // Not a whole number of pages.
        let bytes = (1 << 20) - 1000;
        for _ in 0..1000 {
            let a = memory.allocate(bytes, 1).unwrap();
            again += u32::from(!seen.insert(a));
            // What was written before it was freed is not the new owner's.
            for at in [a, a + 5000, a + bytes - 1] {
                assert_eq!(memory.first_undefined(at, 1), Some(at));
                memory.copy_in(at, &[1]).unwrap();
            }
            memory.free(a).unwrap();
        }
        assert!(again > 0);
    }
}
