//! A launch, and what it leaves behind.

use crate::check::Finding;
use crate::check::touched::Touched;
use crate::counters::Counters;
use crate::device::Device;
use crate::lower::Kernel;
use crate::memory::DeviceMemory;
use crate::options::Options;

/// A launch, all sizes already checked against the device's limits by the caller.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// The entry to run, from [`Loaded::program`](crate::engine::Loaded::program).
    pub kernel: &'a Kernel,
    /// Blocks in x, y and z (`%nctaid`), each at least 1.
    pub grid: [u32; 3],
    /// Threads per block in x, y and z (`%ntid`), each at least 1.
    pub block: [u32; 3],
    /// Blocks per cluster in x, y and z; `[1, 1, 1]` without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub dynamic_shared: u32,
    /// The parameter block: every parameter at its offset (`Kernel::params`).
    pub params: Vec<u8>,
    /// Whether all blocks are resident at once and can synchronise across the grid.
    pub cooperative: bool,
    /// The memory that holds the module's variables and that pointers in `params` refer to.
    pub memory: &'a DeviceMemory,
    /// The card to imitate, which decides how many blocks are resident at once.
    pub device: &'a Device,
    /// What is checked and counted, and in which order warps and blocks run.
    pub options: &'a Options,
}

/// What a launch left behind. Findings are reported also when the launch succeeded.
#[derive(Debug, Default)]
pub struct Report {
    /// Why the launch failed; `None` if every thread ran to its end.
    pub fault: Option<Fault>,
    /// What the checkers found, in order of PTX lines.
    pub findings: Vec<Finding>,
    /// What was executed; all counters only with [`Options::count`].
    pub counters: Counters,
    /// What the kernel printed, in order.
    pub printed: String,
    /// The bytes of global memory that the launch touched; recorded with `Check::All` only.
    pub(crate) touched: Touched,
}

/// Why a launch failed: the driver's error and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The error that the driver returns for it.
    pub code: FaultCode,
    /// What happened; kernel, PTX line, block and thread where an instruction caused it.
    pub message: String,
}

/// Errors that a kernel can cause, by their number in `CUresult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FaultCode {
    /// An access outside every live allocation or past the end of its state space.
    IllegalAddress = 700,
    /// The instruction limit was reached, or nothing could go on: a deadlock.
    LaunchTimeout = 702,
    /// A device-side `assert` failed.
    Assert = 710,
    /// Calls too deep for the stack.
    HardwareStackError = 714,
    /// Operands or lanes that an instruction does not allow, e.g. barrier 16.
    IllegalInstruction = 715,
    /// An address that is not a multiple of the bytes accessed.
    MisalignedAddress = 716,
    /// An indirect call to an address that is no function, or a `brx.idx` past the end of its table.
    InvalidPc = 718,
    /// `trap`, `brkpt`, or a launch that the emulator itself could not carry out.
    LaunchFailed = 719,
}
