//! Tasks on all cores with scratch given by the caller: results never depend on how many cores there are, because a task
//! is the same work on the same data whoever does it.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Scratch of an operation, in elements.
pub(crate) struct Scratch {
    /// What all tasks share.
    pub(crate) shared: usize,
    /// What a lane, which runs one task at a time, has of its own.
    pub(crate) lane: usize,
    /// Most tasks that there can be.
    pub(crate) tasks: usize,
}

impl Scratch {
    /// Enough to work, on one thread.
    pub(crate) fn least(&self) -> usize {
        self.shared + self.lane
    }

    /// A lane for every thread of the current pool that can have a task.
    pub(crate) fn for_all_threads(&self) -> usize {
        let lanes = rayon::current_num_threads().min(self.tasks).max(1);
        self.shared + lanes * self.lane
    }
}

/// Runs `task(index, scratch)` for every index below `tasks`, each lane with `per_lane` elements of scratch of its own.
/// A lane takes the next task when it is done with one, so uneven tasks balance.
///
/// There are as many lanes as threads in the current pool, or fewer where there are fewer tasks or less scratch: memory made
/// under one pool serves any other.
pub(crate) fn for_each<A: Send>(
    tasks: usize,
    scratch: &mut [A],
    per_lane: usize,
    task: impl Fn(usize, &mut [A]) + Sync,
) {
    let next = AtomicUsize::new(0);
    let run = |scratch: &mut [A]| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                break;
            }
            task(index, scratch);
        }
    };
    let room = scratch.len().checked_div(per_lane).unwrap_or(tasks);
    let lanes = rayon::current_num_threads().min(tasks).min(room);
    if lanes <= 1 {
        run(&mut scratch[..per_lane]);
    } else if per_lane == 0 {
        (0..lanes).into_par_iter().for_each(|_| run(&mut []));
    } else {
        scratch[..lanes * per_lane]
            .par_chunks_exact_mut(per_lane)
            .for_each(run);
    }
}

/// Work for [`pulp::Arch::dispatch`] from a closure marked `#[inline(always)]`.
///
/// The bare closure would do the same, slowly: called as `FnOnce` it goes through a shim that is not inlined into the
/// function that may use the machine's vector instructions, so it would be compiled without them.
pub(crate) struct Inlined<F>(pub(crate) F);

impl<F: FnMut()> pulp::WithSimd for Inlined<F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) {
        (self.0)();
    }
}

/// A slice whose disjoint parts are written by different tasks.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    _slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` is a `&mut [T]` that hands out parts; `part` requires that parts in use never overlap, so sharing it
// is no more than sending each part to one thread.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            _slice: PhantomData,
        }
    }

    /// The part `start..start + len`.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    ///
    /// # Panics
    /// When the part is not inside the slice.
    #[allow(clippy::mut_from_ref)] // that is what the type is for; see Safety
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(
            start <= self.len && len <= self.len - start,
            "part {start}+{len} of a slice of {}",
            self.len
        );
        // SAFETY: in bounds by the assertion; exclusive by this function's contract; the borrow of the slice outlives `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// A counter of tasks split into groups of uneven size, such as the row panels of each expert.
///
/// Task `index` of `groups` with `size(group)` tasks each is `(group, index inside it)`.
pub(crate) fn locate(
    mut index: usize,
    groups: usize,
    size: impl Fn(usize) -> usize,
) -> (usize, usize) {
    for group in 0..groups {
        let n = size(group);
        if index < n {
            return (group, index);
        }
        index -= n;
    }
    unreachable!("a task index is below the sum of all groups")
}
