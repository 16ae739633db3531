//! Scratch that something else writes while a launch uses it, which takes leaving cudarc's tracking: an error that says so, and no
//! kernel that never ends.

use std::sync::Arc;

use millet::cudarc::driver::sys::CUresult;
use millet::cudarc::driver::{CudaContext, CudaStream};
use millet::{Cuda, Dispatch, DispatchForward, Error, Memory, MoeConfig, Plan, Result};

use crate::{alone, set_check};

/// Dispatch while another stream writes to the first words of its scratch: the tickets, and the finished blocks of the first phase.
fn dispatch(cuda: &Cuda, other: &Arc<CudaStream>, words: [u32; 2], seed: u64) -> Result<()> {
    let config = MoeConfig::builder(1, 1, 40, 2).build()?;
    let tokens = 300;
    let ids = cuda.allocate::<i32>(2 * tokens)?;
    let mut weights = cuda.allocate::<f32>(2 * tokens)?;
    let mut plan = Plan::new(cuda, &config, tokens)?;
    let elements = cuda.scratch_elements::<f32>(&config, tokens);
    let mut scratch = cuda.allocate::<f32>(elements)?;
    let failed = |error| Error::Driver {
        operation: "test",
        error,
    };
    cuda.stream().synchronize().map_err(failed)?;
    cuda_emulator_loader::set_seed(Some(seed));
    cuda.dispatch(DispatchForward {
        config: &config,
        tokens,
        ids: (&ids).into(),
        weights: weights.as_view_mut(),
        plan: &mut plan,
        scratch: scratch.as_view_mut(),
    })?;
    let copied = other.memcpy_htod(&words.map(f32::from_bits), &mut scratch.slice_mut(..2));
    copied.and_then(|()| other.synchronize()).map_err(failed)?;
    cuda.read(plan.map().offsets).map(drop)
}

/// The first error in the orders of a hundred seeds: it is written before the launch, after it, or after the launch has cleared the
/// words and before its kernel.
fn error(words: [u32; 2]) -> Option<Error> {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the emulator runs one kernel at a time, and checks addresses.
    unsafe { context.disable_event_tracking() };
    let cuda = Cuda::new(&context.new_stream().unwrap()).unwrap();
    let other = context.new_stream().unwrap();
    let error = (0..100).find_map(|seed| dispatch(&cuda, &other, words, seed).err());
    cuda_emulator_loader::set_seed(None);
    error
}

#[test]
fn scratch_that_is_written_during_a_launch_ends_it() {
    let _alone = alone();
    if !cuda_emulator_loader::is_emulated() {
        return;
    }
    // With `all` the two streams are a race already. A kernel without end is stopped, which is another error.
    set_check("fast");
    let limit = |value| cuda_emulator_loader::set_option("CUDA_EMULATOR_LIMIT", value);
    limit(Some("500000000")).unwrap().unwrap();
    // Too few tickets for the blocks; a phase that is never finished.
    for words in [[3, 0], [0, u32::MAX]] {
        let error = error(words).unwrap();
        assert!(
            matches!(&error, Error::Driver { error, .. } if error.0 == CUresult::CUDA_ERROR_ASSERT),
            "{words:?}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains("a workspace of its own"), "{text}");
    }
    limit(None).unwrap().unwrap();
    cuda_emulator_loader::clear();
}
