//! What the counting examples share: counters of launches, and kernels to compare with that nvcc compiles on the spot.

use std::error::Error;
use std::process::Command;
use std::sync::Arc;

use cuda_emulator_loader as loader;
use millet::Cuda;
use millet::cudarc::driver::CudaModule;
use millet::cudarc::nvrtc::Ptx;
use serde_json::Value;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NOT_EMULATED: &str = "counters need the emulator: set CUDA_EMULATOR=1";

/// Counters of one launch.
pub(crate) struct Launch(Value);

impl Launch {
    pub(crate) fn kernel(&self) -> &str {
        self.0["kernel"].as_str().unwrap_or_default()
    }

    pub(crate) fn count(&self, counter: &str) -> f64 {
        self.0[counter].as_f64().unwrap_or(f64::NAN)
    }
}

/// A device that counts, without checks.
pub(crate) fn counting_device() -> Result<Cuda> {
    for (option, value) in [
        ("CUDA_EMULATOR_COUNT", "1"),
        ("CUDA_EMULATOR_MMA", "fast"),
        ("CUDA_EMULATOR_CHECK", "off"),
    ] {
        loader::set_option(option, Some(value))
            .ok_or(NOT_EMULATED)?
            .map_err(|error| error.to_string())?;
    }
    Ok(Cuda::device(0)?)
}

/// Runs, waits, and gives the counters of what was launched.
pub(crate) fn counted<E: Into<Box<dyn Error>>>(
    cuda: &Cuda,
    operation: impl FnOnce() -> std::result::Result<(), E>,
) -> Result<Vec<Launch>> {
    cuda.stream().synchronize()?;
    loader::clear();
    operation().map_err(Into::into)?;
    cuda.stream().synchronize()?;
    let lines = loader::counters().ok_or(NOT_EMULATED)?;
    let launches = lines
        .iter()
        .map(|line| serde_json::from_str(line).map(Launch))
        .collect::<std::result::Result<_, _>>()?;
    Ok(launches)
}

/// Kernels of CUDA C++, for sm_80; `None` where there is no nvcc.
pub(crate) fn compile(cuda: &Cuda, source: &str) -> Result<Option<Arc<CudaModule>>> {
    let Some(nvcc) = xtask::nvcc::find(Some(&std::env::current_exe()?))? else {
        return Ok(None);
    };
    let folder = std::env::temp_dir().join(format!("millet_counting_{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (file, ptx) = (folder.join("naive.cu"), folder.join("naive.ptx"));
    std::fs::write(&file, source)?;
    let status = Command::new(nvcc)
        .args(["-O3", "-arch=compute_80", "-ptx", "-o"])
        .args([&ptx, &file])
        .status()?;
    let text = std::fs::read_to_string(&ptx);
    std::fs::remove_dir_all(&folder)?;
    if !status.success() {
        return Err("nvcc failed".into());
    }
    let context = cuda.stream().context();
    Ok(Some(context.load_module(Ptx::from_src(text?))?))
}
