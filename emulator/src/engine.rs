//! Launching a kernel: what goes in, what comes out. The driver and the command line both use this and nothing below it.

use crate::check::Finding;
use crate::counters::Counters;
use crate::memory::DeviceMemory;
use crate::options::Options;

/// A launch, all sizes already checked against the device's limits by the caller.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    pub kernel: &'a crate::lower::Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks a cluster; `[1, 1, 1]` without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub dynamic_shared: u32,
    /// The parameter block: every parameter at its offset (`Kernel::params`).
    pub params: Vec<u8>,
    pub cooperative: bool,
    pub memory: &'a DeviceMemory,
    pub device: &'a crate::device::Device,
    pub options: &'a Options,
}

/// What a launch left behind. Findings are reported also when the launch succeeded.
#[derive(Debug, Default)]
pub struct Report {
    pub fault: Option<Fault>,
    pub findings: Vec<Finding>,
    pub counters: Counters,
    /// What the kernel printed, in order.
    pub printed: String,
}

/// Why a launch failed: the driver's error and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: FaultCode,
    pub message: String,
}

/// Errors that a kernel can cause, by their number in `CUresult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FaultCode {
    IllegalAddress = 700,
    LaunchTimeout = 702,
    Assert = 710,
    HardwareStackError = 714,
    IllegalInstruction = 715,
    MisalignedAddress = 716,
    InvalidAddressSpace = 717,
    InvalidPc = 718,
    LaunchFailed = 719,
}

/// Runs a kernel to its end (or to its fault). Never panics on what a kernel does.
pub fn run(launch: &Launch<'_>) -> Report {
    crate::exec::run(launch)
}
