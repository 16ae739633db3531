//! Tools that come as Python wheels: the CUDA compiler, clang-format and libclang, each in a folder of its own below `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use xtask::nvcc;

use super::{run, target_directory};

/// Wheels at exact versions, dependencies included, and a file that proves they are there.
struct Tool {
    folder: &'static str,
    wheels: &'static [&'static str],
    proof: &'static str,
    /// What else helps when Python cannot.
    otherwise: &'static str,
}

/// nvcc with what it needs to compile and link device code, and the two that show machine code. build.rs looks for it there.
const CUDA: Tool = Tool {
    folder: "cuda-toolkit",
    wheels: &[
        "nvidia-cuda-cccl==13.3.5.0.6",
        "nvidia-cuda-crt==13.5.37",
        "nvidia-cuda-cuobjdump==13.5.37",
        "nvidia-cuda-nvcc==13.5.37",
        "nvidia-cuda-nvdisasm==13.5.37",
        "nvidia-cuda-runtime==13.5.37",
        "nvidia-nvvm==13.5.37",
    ],
    proof: "nvidia/cu13/bin/nvcc",
    otherwise: "\
Install the CUDA toolkit (12.4 or later) and put its bin folder on PATH, or set NVCC or CUDA_HOME. Without CUDA,
`cargo test --workspace` runs the tests of everything else.",
};

/// Releases of clang-format differ in what they write, so an exact one, never the machine's.
const CLANG_FORMAT: Tool = Tool {
    folder: "clang-format",
    wheels: &["clang-format==21.1.8"],
    proof: "clang_format/data/bin/clang-format",
    otherwise: "Layout of the CUDA files cannot be checked without it.",
};

#[cfg(not(feature = "bindings"))]
const LIBCLANG: Tool = Tool {
    folder: "libclang",
    wheels: &["libclang==18.1.1"],
    proof: "clang/native",
    otherwise: "Install libclang and set LIBCLANG_PATH to its folder.",
};

/// The machine's own nvcc if it has one, else that of the wheels, installed now if need be.
pub(super) fn nvcc() -> Result<PathBuf, String> {
    match nvcc::find(None)? {
        Some(own) => Ok(own),
        None => install(&CUDA),
    }
}

/// clang-format, of the one release that decides the layout.
pub(super) fn clang_format() -> Result<PathBuf, String> {
    install(&CLANG_FORMAT)
}

/// The folder of libclang, for bindgen.
#[cfg(not(feature = "bindings"))]
pub(super) fn libclang() -> Result<PathBuf, String> {
    match std::env::var_os("LIBCLANG_PATH") {
        Some(folder) => Ok(folder.into()),
        None => install(&LIBCLANG),
    }
}

/// Gives the path of the tool's proof. A list of what is installed is written last, so that an installation that was cut short,
/// or is of other versions, is made again.
fn install(tool: &Tool) -> Result<PathBuf, String> {
    let target = target_directory()?;
    let folder = target.join(tool.folder);
    let (proof, list) = (folder.join(tool.proof), folder.join("installed.txt"));
    let wanted = tool.wheels.join("\n") + "\n";
    let is_there = || proof.exists() && fs::read_to_string(&list).is_ok_and(|is| is == wanted);
    if is_there() {
        return Ok(proof);
    }
    eprintln!(
        "installing {} from PyPI into {}",
        tool.folder,
        folder.display()
    );
    has_pip().map_err(|reason| format!("{reason}\n{}", tool.otherwise))?;
    let partial = target.join(format!("{}.partial", tool.folder));
    for old in [&partial, &folder] {
        if fs::symlink_metadata(old).is_ok() {
            fs::remove_dir_all(old).map_err(|error| format!("{}: {error}", old.display()))?;
        }
    }
    run(Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--only-binary", ":all:"])
        .arg("--target")
        .arg(&partial)
        .args(tool.wheels))
    .map_err(|error| {
        format!(
            "{error}\nThe wheels of {} could not be installed: is there a network, and is this a system that they are made \
             for?\n{}",
            tool.folder, tool.otherwise
        )
    })?;
    let explain = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::rename(&partial, &folder).map_err(explain)?;
    if !proof.exists() {
        return Err(format!("the wheels have no {}", tool.proof));
    }
    fs::write(&list, wanted).map_err(explain)?;
    Ok(proof)
}

/// The Python of a virtual environment `work`/venv with the packages of a list, installed now if need be. A copy of the list beside it
/// says what is there.
pub(super) fn environment(work: &Path, list: &Path) -> Result<PathBuf, String> {
    let explain = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    let (venv, stamp) = (work.join("venv"), work.join("requirements.txt"));
    let python = venv.join("bin/python");
    let wanted = fs::read_to_string(list).map_err(explain(list))?;
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        fs::create_dir_all(work).map_err(explain(work))?;
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(list))?;
        fs::write(&stamp, wanted).map_err(explain(&stamp))?;
    }
    Ok(python)
}

fn has_pip() -> Result<(), String> {
    let status = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("python3 has no pip (on Debian and Ubuntu: apt install python3-pip)".into()),
        Err(error) => Err(format!("python3 is needed to install it: {error}")),
    }
}
