//! Running PTX text in a test: buffers in, buffers out.

#![allow(dead_code, unreachable_pub)] // each test file uses its part

use cuda_emulator::device::Device;
use cuda_emulator::engine::{self, Launch, Loaded, Report};
use cuda_emulator::memory::DeviceMemory;
use cuda_emulator::options::{Check, Options};
use cuda_emulator::ptx;

/// A module with its memory.
pub struct Machine {
    pub memory: DeviceMemory,
    pub module: Loaded,
    pub options: Options,
}

/// Every check on, eager copies, one thread.
pub fn checked() -> Options {
    Options {
        check: Check::All,
        instruction_limit: 200_000_000,
        ..Options::default()
    }
}

/// Only what keeps the host safe.
pub fn unchecked() -> Options {
    Options {
        check: Check::Off,
        instruction_limit: 2_000_000_000,
        ..Options::default()
    }
}

pub fn device() -> Device {
    Device::from_key("a100")
        .expect("the table has an A100")
        .clone()
}

impl Machine {
    pub fn new(text: &str, options: Options) -> Self {
        let module = ptx::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let memory = DeviceMemory::with_tracking(1 << 30, options.check == Check::All).unwrap();
        let module = engine::load(&module, &memory).unwrap_or_else(|e| panic!("{e}"));
        Self {
            memory,
            module,
            options,
        }
    }

    /// A buffer with these bytes.
    pub fn buffer(&self, bytes: &[u8]) -> u64 {
        let address = self.memory.allocate(bytes.len() as u64, 256).unwrap();
        self.memory.copy_in(address, bytes).unwrap();
        address
    }

    pub fn words(&self, words: &[u32]) -> u64 {
        self.buffer(
            &words
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect::<Vec<_>>(),
        )
    }

    pub fn read(&self, address: u64, words: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * words];
        self.memory.copy_out(address, &mut bytes).unwrap();
        bytes
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
            .collect()
    }

    pub fn read64(&self, address: u64, words: usize) -> Vec<u64> {
        let pairs = self.read(address, 2 * words);
        pairs
            .chunks_exact(2)
            .map(|c| u64::from(c[0]) | u64::from(c[1]) << 32)
            .collect()
    }

    /// Launches the kernel of that name (the first for "") with 8-byte or 4-byte arguments at their places.
    pub fn launch(&self, name: &str, grid: [u32; 3], block: [u32; 3], args: &[u64]) -> Report {
        self.launch_with(name, grid, block, 0, false, args)
    }

    pub fn launch_with(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        cooperative: bool,
        args: &[u64],
    ) -> Report {
        let kernels = &self.module.program.kernels;
        let kernel = kernels
            .iter()
            .find(|k| name.is_empty() || k.name == name)
            .unwrap();
        let end = kernel
            .params
            .iter()
            .map(|p| p.offset + p.size)
            .max()
            .unwrap_or(0);
        let mut params = vec![0; end as usize];
        assert_eq!(
            args.len(),
            kernel.params.len(),
            "arguments of {}",
            kernel.name
        );
        for (value, p) in args.iter().zip(&kernel.params) {
            let n = (p.size as usize).min(8);
            params[p.offset as usize..][..n].copy_from_slice(&value.to_le_bytes()[..n]);
        }
        engine::run(&Launch {
            kernel,
            grid,
            block,
            cluster: [1; 3],
            dynamic_shared,
            params,
            cooperative,
            memory: &self.memory,
            device: &device(),
            options: &self.options,
        })
    }

    /// As `launch`, and it must succeed without findings.
    pub fn clean(&self, name: &str, grid: [u32; 3], block: [u32; 3], args: &[u64]) -> Report {
        let report = self.launch(name, grid, block, args);
        assert_eq!(report.fault, None);
        assert_eq!(report.findings, []);
        report
    }
}

/// A kernel with one pointer parameter whose body gets `%p0` (u64, generic global address), `%tid` in `%t`, and the registers
/// declared by `regs`.
pub fn kernel(regs: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 p)\n{{\n.reg .u64 %out, %in, %off;\n.reg .u32 %t;\n{regs}\n\
         ld.param.u64 %out, [p];\nmov.u32 %t, %tid.x;\n{body}\nret;\n}}\n"
    )
}
