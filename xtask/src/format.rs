//! `cargo xtask format`: rustfmt for Rust, clang-format (`.clang-format`) for the kernels and their headers.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{cargo, run, wheels};

/// Folders whose CUDA files are laid out by clang-format. Those of the emulator's tests are not: some lie beside PTX that was
/// compiled from them, with their line numbers.
const FOLDERS: [&str; 1] = ["csrc"];

/// Rewrites what is laid out otherwise.
pub(super) fn format() -> Result<(), String> {
    run(cargo().args(["fmt", "--all"]))?;
    clang_format(&["-i"])
}

/// Fails when something is laid out otherwise.
pub(super) fn check() -> Result<(), String> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    clang_format(&["--dry-run", "-Werror"]).map_err(|error| {
        format!("{error}\n`cargo xtask format` lays the files out as clang-format would")
    })
}

fn clang_format(arguments: &[&str]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("no workspace")?;
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    run(Command::new(wheels::clang_format()?)
        .args(arguments)
        .args(files))
}

/// Files of C++ and CUDA below a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let explain = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(explain)? {
        let path = entry.map_err(explain)?.path();
        let extension = path.extension().and_then(OsStr::to_str);
        if path.is_dir() {
            collect(&path, files)?;
        } else if matches!(extension, Some("cu" | "cuh" | "h" | "cpp")) {
            files.push(path);
        }
    }
    Ok(())
}
