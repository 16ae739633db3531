//! What is CUDA's alone: contexts, streams, graphs, interleavings, strides beyond 2³¹, misuse, registers; on the emulator with all of
//! its checks.
#![cfg(feature = "cuda")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use emulator_loader as _;

mod contexts;
mod graph;
mod interleaving;
mod leaks;
mod misuse;
mod misuse_by_type;
#[cfg(target_os = "linux")]
mod no_driver;
mod pipeline;
mod places;
mod registers;
mod scratch;
mod strides;

/// A test that has the device, and the emulator's options, to itself. When it is over there must be no findings; it is to be made
/// before anything on the device, so that a leak is one of them.
struct Alone {
    _guard: MutexGuard<'static, ()>,
}

fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    set_check("all");
    emulator_loader::clear();
    Alone { _guard: guard }
}

/// Nothing on a GPU.
fn set_check(level: &str) {
    if let Some(result) = emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some(level)) {
        result.unwrap();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        emulator_loader::set_seed(None);
        let findings = emulator_loader::findings().unwrap_or_default();
        emulator_loader::clear();
        if !std::thread::panicking() {
            assert_eq!(findings, [] as [String; 0]);
        }
    }
}
