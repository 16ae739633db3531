//! A warp's registers as the inner loop sees them: raw slots of the frame at hand.

/// 32 lanes of a 32-bit register.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Lanes32(pub(crate) [u32; 32]);

/// 32 lanes of a 64-bit register.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Lanes64(pub(crate) [u64; 32]);

impl Lanes32 {
    pub(crate) const ZERO: Self = Self([0; 32]);
}

impl Lanes64 {
    pub(crate) const ZERO: Self = Self([0; 32]);
}

/// Pointers to slot 0 of each file of a frame. Valid while the warp's files are not resized.
///
/// Every method's safety: the slot is one that lowering gave to the function whose frame this is, so it is inside the file; and
/// no reference to the file's contents is alive when a slot is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Regs {
    pub(crate) r32: *mut Lanes32,
    pub(crate) r64: *mut Lanes64,
    pub(crate) preds: *mut u32,
}

impl Regs {
    /// # Safety
    /// See the type.
    #[inline(always)]
    pub(crate) unsafe fn get32<'a>(self, slot: u32) -> &'a [u32; 32] {
        // SAFETY: see the type.
        unsafe { &(*self.r32.add(slot as usize)).0 }
    }

    /// # Safety
    /// See the type.
    #[inline(always)]
    pub(crate) unsafe fn get64<'a>(self, slot: u32) -> &'a [u64; 32] {
        // SAFETY: see the type.
        unsafe { &(*self.r64.add(slot as usize)).0 }
    }

    /// Lanes for which a predicate reference is true.
    ///
    /// # Safety
    /// See the type.
    #[inline(always)]
    pub(crate) unsafe fn pred(self, reference: u32) -> u32 {
        // SAFETY: see the type.
        let value = unsafe { *self.preds.add((reference >> 1) as usize) };
        value ^ 0u32.wrapping_sub(reference & 1)
    }

    /// Writes the lanes in `mask`.
    ///
    /// # Safety
    /// See the type.
    #[inline(always)]
    pub(crate) unsafe fn set32(self, slot: u32, value: &[u32; 32], mask: u32) {
        // SAFETY: see the type.
        let to = unsafe { &mut (*self.r32.add(slot as usize)).0 };
        if mask == !0 {
            *to = *value;
        } else {
            blend(to, value, mask);
        }
    }

    /// # Safety
    /// See the type.
    #[inline(always)]
    pub(crate) unsafe fn set64(self, slot: u32, value: &[u64; 32], mask: u32) {
        // SAFETY: see the type.
        let to = unsafe { &mut (*self.r64.add(slot as usize)).0 };
        if mask == !0 {
            *to = *value;
        } else {
            blend(to, value, mask);
        }
    }

    /// # Safety
    /// See the type.
    #[inline(always)]
    pub(crate) unsafe fn set_pred(self, slot: u32, value: u32, mask: u32) {
        // SAFETY: see the type.
        let to = unsafe { &mut *self.preds.add(slot as usize) };
        *to = *to & !mask | value & mask;
    }
}

/// Writes the lanes in `mask`. Not inlined: it would be half of the inner loop's code.
#[inline(never)]
fn blend<T: Copy>(to: &mut [T; 32], value: &[T; 32], mask: u32) {
    for l in 0..32 {
        to[l] = if mask >> l & 1 != 0 { value[l] } else { to[l] };
    }
}

/// Bit l of the result: whether word l is not 0 (words are 0 or all ones).
#[inline(always)]
pub(crate) fn mask_of(words: &[u32; 32]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128, _mm_loadu_ps, _mm_movemask_ps};
        let mut mask = 0;
        for i in 0..8 {
            // SAFETY: SSE is part of x86-64; four words from 4i are in the array.
            let bits = unsafe {
                let four: __m128 = _mm_loadu_ps(words.as_ptr().add(4 * i).cast());
                _mm_movemask_ps(four)
            };
            mask |= (bits as u32) << (4 * i);
        }
        mask
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        words
            .iter()
            .enumerate()
            .fold(0, |m, (l, &w)| m | (w & 1) << l)
    }
}
