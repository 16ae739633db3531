//! Names and sentences of errors.

use std::ffi::{CStr, c_char};

use crate::driver::call::{Out, entry_without_driver};
use crate::driver::result::CUresult;

fn text_of(
    error: u32,
    out: Out<'_, *const c_char>,
    text: impl FnOnce((&'static CStr, &'static CStr)) -> &'static CStr,
) -> CUresult {
    entry_without_driver(|| {
        let out = out?;
        let texts = CUresult::texts_of(error);
        // The driver sets the pointer to null for a number that it does not know.
        out.write(texts.map_or(std::ptr::null(), |t| text(t).as_ptr()));
        texts.map(|_| ())
    })
}

/// The enumerator's name.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGetErrorName(error: u32, name: Out<'_, *const c_char>) -> CUresult {
    text_of(error, name, |(name, _)| name)
}

/// A sentence about the error.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGetErrorString(error: u32, string: Out<'_, *const c_char>) -> CUresult {
    text_of(error, string, |(_, sentence)| sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_number_has_no_text() {
        let mut text = std::mem::MaybeUninit::new(c"before".as_ptr());
        assert_eq!(
            cuGetErrorString(12345, Some(&mut text)),
            CUresult::INVALID_VALUE
        );
        // SAFETY: initialised above.
        assert!(unsafe { text.assume_init() }.is_null());
        assert_eq!(cuGetErrorName(1, None), CUresult::INVALID_VALUE);
    }
}
