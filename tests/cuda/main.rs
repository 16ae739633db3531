//! What is CUDA's alone: contexts, streams, graphs, interleavings, strides beyond 2³¹, misuse; on the emulator with all of its
//! checks.
#![cfg(feature = "cuda")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_emulator_loader as _;
use millet::{Cuda, Memory, MoeConfig, Plan};
use millet_testing::harness::list_tiles;

mod contexts;
mod experts;
mod graph;
mod interleaving;
#[cfg(unix)]
mod kernel_build;
mod layer;
mod leaks;
mod misuse;
mod misuse_by_type;
#[cfg(target_os = "linux")]
mod no_driver;
mod pipeline;
mod places;
mod roles;
mod sass;
mod scratch;
mod small_shared;
mod strides;
mod tf32;

/// A test that has the device, and the emulator's options, to itself. When it is over there must be no findings; it is to be made
/// before anything on the device, so that a leak is one of them.
struct Alone {
    _guard: MutexGuard<'static, ()>,
}

fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    set_check("all");
    cuda_emulator_loader::clear();
    Alone { _guard: guard }
}

/// The plan of every assignment in a row of the same number, as many to each expert.
fn plan_in_order(cuda: &Cuda, config: &MoeConfig, tokens: usize) -> Plan<Cuda> {
    let (experts, assignments) = (config.num_experts(), tokens * config.top_k());
    assert!(config.capacity().is_none() && assignments.is_multiple_of(experts));
    let each = assignments / experts;
    let order: Vec<i32> = (0..assignments as i32).collect();
    let offsets: Vec<i32> = (0..=experts).map(|e| (e * each) as i32).collect();
    let tiles = list_tiles(cuda.row_tiles(config, tokens), &offsets);
    let upload = |values: &[i32]| cuda.upload(values).unwrap();
    let (rows, assignments) = (upload(&order), upload(&order));
    // SAFETY: what dispatch would make of such ids.
    unsafe {
        Plan::from_parts(
            cuda,
            config.clone(),
            tokens,
            upload(&offsets),
            rows,
            assignments,
            upload(&tiles),
        )
    }
}

/// Nothing on a GPU.
fn set_check(level: &str) {
    if let Some(result) = cuda_emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some(level)) {
        result.unwrap();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        cuda_emulator_loader::set_seed(None);
        let findings = cuda_emulator_loader::findings().unwrap_or_default();
        cuda_emulator_loader::clear();
        if !std::thread::panicking() {
            assert_eq!(findings, [] as [String; 0]);
        }
    }
}
