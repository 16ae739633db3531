//! A device for tests: PTX text in, buffers and reports out, without the driver in between.

use cuda_emulator::check::Finding;
use cuda_emulator::device::Device;
use cuda_emulator::engine::{self, Launch, Loaded, Report};
use cuda_emulator::memory::DeviceMemory;
use cuda_emulator::options::{Check, Options};
use cuda_emulator::ptx;

/// Everything checked; one interleaving chosen by `seed`.
pub(crate) fn checked(seed: u64) -> Options {
    Options {
        check: Check::All,
        late_async: true,
        seed: Some(seed),
        threads: 1,
        instruction_limit: 20_000_000,
        ..Options::default()
    }
}

/// An A100's memory and a module.
pub(crate) struct Gpu {
    pub(crate) memory: DeviceMemory,
    loaded: Loaded,
}

/// A launch, apart from its arguments; the first kernel for an empty name.
pub(crate) struct Launched<'a> {
    pub(crate) name: &'a str,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Bytes.
    pub(crate) dynamic_shared: u32,
    pub(crate) cooperative: bool,
}

impl Gpu {
    /// Loads a module; the error names the line.
    pub(crate) fn try_new(text: &str) -> Result<Self, String> {
        Self::with_tracking(text, true)
    }

    /// As [`Gpu::try_new`], with or without a record of what is defined.
    pub(crate) fn with_tracking(text: &str, tracked: bool) -> Result<Self, String> {
        let module = ptx::parse(text).map_err(|e| e.to_string())?;
        let memory = DeviceMemory::with_tracking(1 << 28, tracked).map_err(|e| e.to_string())?;
        let loaded = engine::load(&module, &memory).map_err(|e| e.to_string())?;
        Ok(Self { memory, loaded })
    }

    pub(crate) fn new(text: &str) -> Self {
        Self::try_new(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    /// A buffer with contents.
    pub(crate) fn upload<T: Copy>(&self, data: &[T]) -> u64 {
        let bytes = size_of_val(data);
        let address = self.memory.allocate(bytes as u64, 256).expect("memory");
        // SAFETY: any initialised values can be read as bytes; tests pass integers and floats.
        let raw = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), bytes) };
        self.memory
            .copy_in(address, raw)
            .expect("a fresh allocation");
        address
    }

    /// A buffer whose bytes were never written.
    pub(crate) fn allocate(&self, bytes: u64) -> u64 {
        self.memory.allocate(bytes, 256).expect("memory")
    }

    /// What a copy to the host of `count` elements would report.
    pub(crate) fn undefined<T>(&self, address: u64, count: usize) -> Option<Finding> {
        Finding::of_host_copy(&self.memory, address, (count * size_of::<T>()) as u64)
    }

    pub(crate) fn download<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let mut data = vec![T::default(); count];
        // SAFETY: any bytes are a valid integer or float, which tests ask for.
        let raw = unsafe {
            std::slice::from_raw_parts_mut(data.as_mut_ptr().cast::<u8>(), count * size_of::<T>())
        };
        self.memory.copy_out(address, raw).expect("an allocation");
        data
    }

    /// Launches a kernel without dynamic shared memory.
    pub(crate) fn launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: &[u64],
        options: &Options,
    ) -> Report {
        let launched = Launched {
            name,
            grid,
            block,
            dynamic_shared: 0,
            cooperative: false,
        };
        self.launch_with(launched, arguments, options)
    }

    /// Launches a kernel. Arguments are given as bits; as many bytes are used as the parameter has.
    pub(crate) fn launch_with(
        &self,
        launched: Launched<'_>,
        arguments: &[u64],
        options: &Options,
    ) -> Report {
        let name = launched.name;
        let mut kernels = self.loaded.program.kernels.iter();
        let kernel = kernels.find(|k| name.is_empty() || k.name == name);
        let kernel = kernel.unwrap_or_else(|| panic!("no kernel {name}"));
        assert_eq!(kernel.params.len(), arguments.len(), "arguments of {name}");
        let size = kernel.params.iter().map(|p| p.offset + p.size).max();
        let mut params = vec![0; size.unwrap_or(0) as usize];
        for (p, value) in kernel.params.iter().zip(arguments) {
            let (from, to) = (p.offset as usize, (p.offset + p.size) as usize);
            params[from..to].copy_from_slice(&value.to_le_bytes()[..to - from]);
        }
        engine::run(&Launch {
            kernel,
            grid: launched.grid,
            block: launched.block,
            cluster: [1; 3],
            dynamic_shared: launched.dynamic_shared,
            params,
            cooperative: launched.cooperative,
            memory: &self.memory,
            device: Device::from_key("a100").expect("a known card"),
            options,
        })
    }
}

/// Findings as lines.
pub(crate) fn describe(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|f| {
            format!(
                "  line {}: {:?} ×{}: {}\n",
                f.line, f.kind, f.count, f.message
            )
        })
        .collect()
}
