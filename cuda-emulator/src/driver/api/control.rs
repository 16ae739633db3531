//! Functions of our own, for tests and tools: options, findings, counters. They work before `cuInit`.

use std::ffi::{CStr, c_char};

use crate::driver::call::{HostPtr, Text, guarded, invalid};
use crate::driver::result::CUresult;
use crate::driver::state::{Locked, reserve};
use crate::options::{CHANGEABLE, Check, Options};
use crate::random::Random;

/// Tells builds of this library apart: made from its sources by the build script.
const BUILD: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("EMULATOR_BUILD_ID"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a NUL in the build's number"),
    };

/// The build of this library; its presence also tells that the driver is the emulator.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cudaEmulatorBuild() -> *const c_char {
    BUILD.as_ptr()
}

/// Sets an option by the name and value of its environment variable (`CUDA_EMULATOR_SEED`, `7`); a null value goes back to the
/// environment's. Applies to work that runs from now on.
///
/// Turning on `CUDA_EMULATOR_CHECK=all` makes a new device memory, and so must come before the first allocation.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cudaEmulatorSetOption(name: Text, value: Option<&c_char>) -> CUresult {
    guarded("cudaEmulatorSetOption", || {
        let name = name.get("name")?.to_owned();
        let mut driver = Locked::lock_or_init()?;
        let mut overrides = driver.overrides.clone();
        match value {
            None => _ = overrides.remove(&name),
            Some(first) => {
                // SAFETY: the caller passes a NUL-terminated string, as the documentation demands.
                let value = unsafe { CStr::from_ptr(first) };
                let Ok(value) = value.to_str() else {
                    return invalid("`value` is not UTF-8");
                };
                overrides.insert(name.clone(), value.to_owned());
            }
        }
        if !CHANGEABLE.contains(&name.as_str()) {
            return invalid(format!(
                "no option `{name}`: expected one of {}",
                CHANGEABLE.join(", ")
            ));
        }
        let get = |name: &str| {
            overrides
                .get(name)
                .cloned()
                .or_else(|| std::env::var(name).ok())
        };
        let options = Options::from_variables(get).or_else(invalid)?;
        if options.check == Check::All && !driver.memory.tracks_defined() {
            if !driver.memory.live().is_empty() {
                return invalid("CUDA_EMULATOR_CHECK=all must come before the first allocation");
            }
            driver.memory = reserve(driver.device.memory_bytes, &options)?.into();
        }
        if options.seed != driver.options.seed {
            driver.random = options.seed.map(Random::new);
        }
        driver.options = options;
        driver.overrides = overrides;
        Ok(())
    })
}

/// Copies lines, each ended by a line feed, and a NUL; returns the bytes needed, NUL included, and copies nothing if there is less
/// room.
fn give(buffer: HostPtr, room: usize, lines: impl FnOnce(&Locked) -> Vec<String>) -> usize {
    let mut needed = 0;
    guarded("cudaEmulatorFindings", || {
        let driver = Locked::lock_or_init()?;
        let mut text: Vec<u8> = Vec::new();
        for line in lines(&driver) {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        text.push(0);
        needed = text.len();
        if needed <= room {
            buffer.write(&text)
        } else {
            Ok(())
        }
    });
    needed
}

/// Findings so far, a JSON object a line. Returns the bytes needed; writes if `room` is enough.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cudaEmulatorFindings(buffer: HostPtr, room: usize) -> usize {
    give(buffer, room, |driver| driver.report.findings.clone())
}

/// Counters of the launches so far, a JSON object a line. Returns the bytes needed; writes if `room` is enough.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cudaEmulatorCounters(buffer: HostPtr, room: usize) -> usize {
    give(buffer, room, |driver| driver.report.counters.clone())
}

/// Forgets findings and counters.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cudaEmulatorClear() -> CUresult {
    guarded("cudaEmulatorClear", || {
        Locked::lock_or_init()?.report.clear();
        Ok(())
    })
}
