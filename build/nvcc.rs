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
    if let Some(nvcc) = env::var_os("NVCC") {
        let path = env::var_os("PATH").unwrap_or_default();
        let nvcc = PathBuf::from(nvcc);
        return [nvcc.clone()]
            .into_iter()
            .chain(env::split_paths(&path).map(|folder| folder.join(&nvcc)))
            .find(|candidate| candidate.is_file())
            .map(Some)
            .ok_or_else(|| format!("NVCC={}: there is no such file", nvcc.display()));
    }
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    Ok(folders(inside)
        .map(|folder| folder.join(&name))
        .find(|candidate| candidate.is_file()))
}

/// The bin folders of toolkits, in the order in which one is looked for: of `CUDA_HOME` and `CUDA_PATH`, those on `PATH`, and what was
/// fetched into a folder that `inside` lies in.
pub fn folders(inside: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = env::split_paths(&path).collect();
    let fetched = inside.into_iter().flat_map(Path::ancestors);
    ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|toolkit| Path::new(&toolkit).join("bin"))
        .chain(on_path)
        .chain(fetched.map(|folder| folder.join(FETCHED)))
}
