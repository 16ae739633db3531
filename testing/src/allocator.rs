//! An allocator that counts: what a program holds, and the most that it held.
//!
//! ```
//! use millet_testing::allocator::Counting;
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! fn main() {
//!     let before = Counting::restart_peak();
//!     drop(vec![0u8; 1 << 20]);
//!     assert!(Counting::peak() >= before + (1 << 20));
//! }
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with every size counted. Of no use unless it is the program's `#[global_allocator]`.
pub struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(0) };
}

impl Counting {
    /// Bytes that the program holds.
    pub fn now() -> usize {
        NOW.load(Ordering::Relaxed)
    }

    /// The most bytes that it held since [`restart_peak`](Self::restart_peak), or since it began.
    pub fn peak() -> usize {
        PEAK.load(Ordering::Relaxed)
    }

    /// Forgets the peak, and returns what is held now.
    pub fn restart_peak() -> usize {
        let now = Self::now();
        PEAK.store(now, Ordering::Relaxed);
        now
    }

    /// Bytes that this thread allocated less those that it freed: other threads start and stop meanwhile. Wraps below 0, so only
    /// differences mean something.
    pub fn of_this_thread() -> usize {
        MINE.get()
    }

    fn add_to_this_thread(bytes: usize) {
        // A thread that is ending has no counter any more, and nobody asks for it.
        let _ = MINE.try_with(|mine| mine.set(mine.get().wrapping_add(bytes)));
    }
}

// SAFETY: every call is the system allocator's; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        Self::add_to_this_thread(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        Self::add_to_this_thread(layout.size().wrapping_neg());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}
