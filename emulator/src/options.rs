//! What the environment chooses. Read once by the driver; the command line and tests build it by hand.

/// `CUDA_EMULATOR_CHECK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// Bounds only, so that the host process is safe.
    Off,
    /// Memory and synchronisation.
    #[default]
    Fast,
    /// Everything: races, uninitialised reads, adversarial asynchrony.
    All,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub check: Check,
    /// `CUDA_EMULATOR_SEED`: chooses the interleaving of warps, blocks and streams; `None` is the natural order, in parallel.
    pub seed: Option<u64>,
    /// `CUDA_EMULATOR_COUNT=1`: count (slower).
    pub count: bool,
    /// `CUDA_EMULATOR_MMA=exact|fast`.
    pub exact_mma: bool,
    /// `CUDA_EMULATOR_ASYNC=eager|late`: late is the adversarial mode.
    pub late_async: bool,
    /// `CUDA_EMULATOR_LIMIT`: thread-instructions a launch may execute before it is stopped.
    pub instruction_limit: u64,
    /// `CUDA_EMULATOR_THREADS`; 0 = all cores.
    pub threads: usize,
    /// `CUDA_EMULATOR_APPROX_SEED`: perturb approximate instructions within their documented bound.
    pub approx_seed: Option<u64>,
}
