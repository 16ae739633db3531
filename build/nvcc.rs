//! Where the CUDA compiler is: a part of `build.rs`, and of xtask's library, which the tests and the examples ask. It is shared as a file
//! because the build script of a published package can depend on nothing that is not published.

use std::env;
use std::path::{Path, PathBuf};

/// Where `cargo xtask nvcc` puts it, in the folder where cargo builds.
const FETCHED: &str = "cuda-toolkit/nvidia/cu13/bin";

/// `NVCC`; else nvcc in the bin folder of `CUDA_HOME` or `CUDA_PATH`, on `PATH`, or fetched into a folder that `inside` lies in.
///
/// # Errors
/// When `NVCC` names no file.
pub fn find(inside: Option<&Path>) -> Result<Option<PathBuf>, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(nvcc) = env::var_os("NVCC") {
        let nvcc = PathBuf::from(nvcc);
        return [nvcc.clone()]
            .into_iter()
            .chain(env::split_paths(&path).map(|folder| folder.join(&nvcc)))
            .find(|candidate| candidate.is_file())
            .map(Some)
            .ok_or_else(|| format!("NVCC={}: there is no such file", nvcc.display()));
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|toolkit| Path::new(&toolkit).join("bin"));
    let fetched = inside.into_iter().flat_map(Path::ancestors);
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    Ok(toolkits
        .chain(env::split_paths(&path))
        .chain(fetched.map(|folder| folder.join(FETCHED)))
        .map(|folder| folder.join(&name))
        .find(|candidate| candidate.is_file()))
}
