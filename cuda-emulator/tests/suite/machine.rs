//! A [`Gpu`] whose launches share their options, and buffers of words.

use cuda_emulator::engine::Report;
use cuda_emulator::options::{Check, Options};

use crate::gpu::{Gpu, Launched};

/// A module with its memory, and the options of its launches.
pub(crate) struct Machine {
    gpu: Gpu,
    options: Options,
}

/// Every check on, eager copies, one thread.
pub(crate) fn checked() -> Options {
    Options {
        check: Check::All,
        instruction_limit: 200_000_000,
        ..Options::default()
    }
}

/// Only what keeps the host safe.
pub(crate) fn unchecked() -> Options {
    Options {
        check: Check::Off,
        instruction_limit: 2_000_000_000,
        ..Options::default()
    }
}

impl Machine {
    pub(crate) fn new(text: &str, options: Options) -> Self {
        let tracked = options.check == Check::All;
        let gpu = Gpu::with_tracking(text, tracked).unwrap_or_else(|e| panic!("{e}"));
        Self { gpu, options }
    }

    pub(crate) fn words(&self, words: &[u32]) -> u64 {
        self.gpu.upload(words)
    }

    pub(crate) fn read(&self, address: u64, words: usize) -> Vec<u32> {
        self.gpu.download(address, words)
    }

    /// Launches the kernel of that name (the first for "").
    pub(crate) fn launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: &[u64],
    ) -> Report {
        self.launch_with(name, grid, block, 0, false, arguments)
    }

    pub(crate) fn launch_with(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        cooperative: bool,
        arguments: &[u64],
    ) -> Report {
        let launched = Launched {
            name,
            grid,
            block,
            dynamic_shared,
            cooperative,
        };
        self.gpu.launch_with(launched, arguments, &self.options)
    }

    /// As `launch`, and it must succeed without findings.
    pub(crate) fn clean(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: &[u64],
    ) -> Report {
        let report = self.launch(name, grid, block, arguments);
        assert_eq!(report.fault, None);
        assert_eq!(report.findings, []);
        report
    }
}

/// A kernel with one pointer parameter whose body gets `%p0` (u64, generic global address), `%tid` in `%t`, and the registers
/// declared by `regs`.
pub(crate) fn kernel(regs: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 p)\n{{\n.reg .u64 %out, %in, %off;\n.reg .u32 %t;\n{regs}\n\
         ld.param.u64 %out, [p];\nmov.u32 %t, %tid.x;\n{body}\nret;\n}}\n"
    )
}
