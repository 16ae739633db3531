//! `cargo xtask conformance`: kernels that others wrote and that are known to be right on hardware (CUTLASS, CuTe, CUB, Triton)
//! run through the emulator, with all checks, and their results are compared with the CPU's.
//!
//! Everything is installed below `target/conformance`; nothing of it is part of the repository but the small programs in
//! `cuda-emulator/conformance`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use super::{cargo, run, wheels};

/// A program of `cuda-emulator/conformance` and the headers it includes, below the folder of Python packages.
const PROGRAMS: [(&str, &str); 2] = [
    ("cub", "nvidia/cu13/include/cccl"),
    ("gemm", "cutlass_library/source/include"),
];

const TRITON: &str = "triton";

/// Where everything is.
struct Layout {
    sources: PathBuf,
    /// Below `target`.
    work: PathBuf,
    /// The folder of Python packages.
    packages: PathBuf,
}

/// Runs the whole suite, or the parts named in `parts` (`cub`, `gemm`, `triton`).
pub(super) fn conformance(parts: &[String]) -> Result<(), String> {
    let names: Vec<&str> = PROGRAMS
        .iter()
        .map(|(name, _)| *name)
        .chain([TRITON])
        .collect();
    if let Some(part) = parts.iter().find(|part| !names.contains(&part.as_str())) {
        return Err(format!(
            "there is no part `{part}`; expected {}",
            names.join(", ")
        ));
    }
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| part == name);
    let started = Instant::now();
    let layout = install()?;
    let programs: Vec<_> = PROGRAMS.iter().filter(|(name, _)| wanted(name)).collect();
    // The compiler takes most of the time, and a core each.
    std::thread::scope(|scope| {
        let compilers: Vec<_> = programs
            .iter()
            .map(|(name, include)| scope.spawn(|| compile(&layout, name, include)))
            .collect();
        compilers.into_iter().try_for_each(|compiler| {
            compiler
                .join()
                .unwrap_or_else(|_| Err("a compiler thread panicked".into()))
        })
    })?;
    let mut failed = Vec::new();
    for (name, _) in programs {
        let program = layout.work.join(name);
        failed.extend(execute(&layout, name, &mut Command::new(program)).err());
    }
    if wanted(TRITON) {
        let mut command = Command::new(layout.work.join("venv/bin/python"));
        command.arg(layout.sources.join("triton_kernels.py"));
        command.arg(layout.work.join("lib/libcuda.so"));
        command.env("TRITON_CACHE_DIR", layout.work.join("triton-cache"));
        // Of sm_89, which has 8-bit floats.
        command.env("CUDA_EMULATOR_DEVICE", "rtx4090");
        failed.extend(execute(&layout, TRITON, &mut command).err());
    }
    println!("conformance: {:.0} s", started.elapsed().as_secs_f64());
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("\n")),
    }
}

fn install() -> Result<Layout, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("no workspace")?;
    let sources = root.join("cuda-emulator/conformance");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let work = target.join("conformance");
    let explain = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    fs::create_dir_all(work.join("lib")).map_err(explain(&work))?;
    let python = wheels::environment(&work, &sources.join("requirements.txt"))?;
    let query = [
        "-c",
        "import sysconfig; print(sysconfig.get_path('purelib'))",
    ];
    let output = Command::new(&python)
        .args(query)
        .output()
        .map_err(explain(&python))?;
    let packages = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    run(cargo().args(["build", "--release", "--package", "cuda-emulator", "--lib"]))?;
    let library = target.join("release/libcuda_emulator.so");
    let copy = work.join("lib/libcuda.so");
    fs::copy(&library, &copy).map_err(explain(&library))?;
    Ok(Layout {
        sources,
        work,
        packages,
    })
}

/// The host's C++ compiler: `CXX`, else the system's. nvcc by itself takes only one that is called g++.
fn host_compiler() -> Result<PathBuf, String> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let compiler = cc::Build::new()
        .cpp(true)
        .target(&host)
        .host(&host)
        .opt_level(2)
        .try_get_compiler();
    let compiler = compiler.map_err(|error| format!("no C++ compiler: {error}"))?;
    Ok(compiler.path().to_owned())
}

/// Compiles a program to PTX and host code, with our own runtime instead of NVIDIA's, if its sources changed.
fn compile(layout: &Layout, name: &str, include: &str) -> Result<(), String> {
    let Layout {
        sources,
        work,
        packages,
    } = layout;
    let changed = |path: &Path| {
        fs::metadata(path)
            .and_then(|m| m.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let program = work.join(name);
    let main = sources.join(name).with_extension("cu");
    let inputs = [
        main.clone(),
        sources.join("check.h"),
        sources.join("runtime.cpp"),
        work.join("requirements.txt"),
    ];
    if inputs
        .iter()
        .all(|input| changed(input) < changed(&program))
    {
        return Ok(());
    }
    run(Command::new(packages.join("nvidia/cu13/bin/nvcc"))
        .args([
            "-std=c++17",
            "-O2",
            "--expt-relaxed-constexpr",
            "-diag-suppress",
            "20012",
        ])
        .args(["-gencode", "arch=compute_80,code=compute_80"])
        .args(["-cudart", "none"])
        .arg("-ccbin")
        .arg(host_compiler()?)
        .arg("-I")
        .arg(packages.join(include))
        .arg(&main)
        .arg(sources.join("runtime.cpp"))
        .arg("-L")
        .arg(work.join("lib"))
        .args(["-lcuda", "-o"])
        .arg(&program))
}

/// Runs a program on the emulator. It fails by its exit status, or if the checkers found anything.
fn execute(layout: &Layout, name: &str, command: &mut Command) -> Result<(), String> {
    let report = layout.work.join(name).with_extension("findings.jsonl");
    // Lines are appended to what is there.
    fs::write(&report, "").map_err(|error| format!("{}: {error}", report.display()))?;
    command
        .env("LD_LIBRARY_PATH", layout.work.join("lib"))
        .env("CUDA_EMULATOR_REPORT", &report);
    if std::env::var_os("CUDA_EMULATOR_CHECK").is_none() {
        command.env("CUDA_EMULATOR_CHECK", "all");
    }
    println!("== {name}");
    let started = Instant::now();
    run(command).map_err(|error| format!("{name}: {error}"))?;
    println!("== {name}: {:.0} s", started.elapsed().as_secs_f64());
    let findings =
        fs::read_to_string(&report).map_err(|error| format!("{}: {error}", report.display()))?;
    match findings.lines().count() {
        0 => Ok(()),
        count => Err(format!(
            "{name}: {count} findings on kernels that are right, see {}",
            report.display()
        )),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_host_compiler_takes_cpp() {
        let mut compiler = Command::new(super::host_compiler().unwrap())
            .args(["-std=c++17", "-fsyntax-only", "-x", "c++", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = compiler.stdin.take().unwrap();
        input
            .write_all(b"#include <type_traits>\nstatic_assert(std::is_same_v<int, int>);")
            .unwrap();
        drop(input);
        assert!(compiler.wait().unwrap().success());
    }
}
