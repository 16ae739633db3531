//! Makes the CUDA emulator the driver of a test executable when there is no GPU.
//!
//! A dev-dependency on this crate and one line in a test file are all it takes:
//!
//! ```
//! use cuda_emulator_loader as _;
//! ```
//!
//! Before `main`, the emulator's shared library is loaded under the name `libcuda.so`, so that whatever opens that library later,
//! cudarc for one, gets it. One line on the standard error stream says which driver is in use.
//!
//! | `CUDA_EMULATOR` | |
//! |---|---|
//! | not set | the emulator, unless the machine has an NVIDIA device |
//! | `1` | the emulator; the process ends if it cannot be loaded |
//! | `0` | never the emulator |
//!
//! The library is looked for at `CUDA_EMULATOR_LIBRARY`, where that is set, else beside the executable and where cargo builds it. A
//! library of another build than this loader's is passed over. On other systems than Linux with glibc this crate does nothing.
//!
//! The functions here reach the emulator from a test; they return `None` when another driver is in use.

#![warn(missing_docs)]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod library;

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod library {
    //! Another dynamic linker, which does not find a loaded library by its SONAME: no emulator.

    pub(crate) fn text_of(_function: &std::ffi::CStr) -> Option<String> {
        None
    }

    pub(crate) fn set(_name: &std::ffi::CStr, _value: Option<&std::ffi::CStr>) -> Option<bool> {
        None
    }

    pub(crate) fn clear() -> Option<()> {
        None
    }

    pub(crate) fn is_loaded() -> bool {
        false
    }
}

use std::ffi::CString;

/// Whether the emulator is the driver of this process.
pub fn is_emulated() -> bool {
    library::is_loaded()
}

/// What the checkers have found so far in this process, a JSON object each: `kind`, `message`, `kernel`, `line` (of the PTX text),
/// `block`, `thread`, `address`, `count`.
pub fn findings() -> Option<Vec<String>> {
    lines(c"cudaEmulatorFindings")
}

/// Counters of each launch so far while counting was on (`CUDA_EMULATOR_COUNT`), a JSON object each: `kernel`, `grid`, `block`, and
/// the counters by name.
pub fn counters() -> Option<Vec<String>> {
    lines(c"cudaEmulatorCounters")
}

fn lines(function: &std::ffi::CStr) -> Option<Vec<String>> {
    Some(
        library::text_of(function)?
            .lines()
            .map(str::to_owned)
            .collect(),
    )
}

/// Forgets findings and counters.
pub fn clear() -> Option<()> {
    library::clear()
}

/// Chooses the interleaving of warps, blocks and streams; without a seed the natural order.
///
/// The seed is the whole process's, so tests that run at the same time share it.
pub fn set_seed(seed: Option<u64>) -> Option<()> {
    set_option("CUDA_EMULATOR_SEED", seed.map(|s| s.to_string()).as_deref()).map(|_| ())
}

/// Sets an option by the name and a value of its environment variable; no value goes back to the environment's.
///
/// # Errors
/// When there is no such option or value; the reason is on the standard error stream.
pub fn set_option(name: &str, value: Option<&str>) -> Option<Result<(), InvalidOption>> {
    let invalid = || InvalidOption {
        name: name.into(),
        value: value.unwrap_or_default().into(),
    };
    let Ok(c_name) = CString::new(name) else {
        return Some(Err(invalid()));
    };
    let Ok(c_value) = value.map(CString::new).transpose() else {
        return Some(Err(invalid()));
    };
    match library::set(&c_name, c_value.as_deref())? {
        true => Some(Ok(())),
        false => Some(Err(invalid())),
    }
}

/// An option or a value that the emulator does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOption {
    /// As it was given.
    pub name: String,
    /// As it was given; empty where none was.
    pub value: String,
}

impl std::fmt::Display for InvalidOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the emulator has no option {}={}", self.name, self.value)
    }
}

impl std::error::Error for InvalidOption {}
