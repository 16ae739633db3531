//! Compiles the kernels of `csrc/` to one fat binary a file when the feature `cuda` is on, else does nothing.
//!
//! nvcc is taken from `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`, or where `cargo xtask nvcc` puts it. Nothing is asked of a GPU
//! or of the network. A file is compiled when what goes into it has changed: a build that was killed goes on where it was. See
//! docs/building.md.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    #[cfg(feature = "cuda")]
    if let Err(message) = cuda::build() {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

#[cfg(feature = "cuda")]
#[path = "build/nvcc.rs"]
pub mod nvcc;

#[cfg(feature = "cuda")]
mod cuda {
    use std::fs::File;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::{env, fs, thread};

    use crate::nvcc;

    /// The architectures that a build has code for unless told otherwise; those that nvcc does not know are left out.
    const ARCHITECTURES: &[&str] = &["80", "86", "89", "90a", "100", "120"];

    /// Compute capability 8.0 has what the kernels use: bf16, tensor cores for it, asynchronous copies, warp-wide reductions.
    const OLDEST: u32 = 80;

    /// The first nvcc that has all of it, and is tried.
    const OLDEST_NVCC: (u32, u32) = (12, 4);

    /// What nvcc itself takes from the environment.
    const NVCC_VARIABLES: [&str; 3] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

    /// How the names of files end that are being written, behind the process's id.
    const UNFINISHED: &str = "-unfinished";

    const HOW_TO_GET_NVCC: &str = "\
millet: the feature `cuda` needs the CUDA compiler, nvcc 12.4 or later, and none was found. Any of these helps:
  - install the CUDA toolkit and put its bin folder on PATH, or set CUDA_HOME or NVCC;
  - in a checkout of millet, `cargo xtask nvcc` installs it from PyPI below target/ in seconds, without root;
  - elsewhere, `pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl` and set
    NVCC to nvidia/cu13/bin/nvcc in its site-packages.
Without the feature `cuda`, CUDA need not be installed.";

    pub(crate) fn build() -> Result<(), String> {
        println!("cargo:rerun-if-changed=csrc");
        for name in [
            "NVCC",
            "CUDA_HOME",
            "CUDA_PATH",
            "MILLET_CUDA_ARCHS",
            "CUDA_COMPUTE_CAP",
            "MILLET_CUDA_WERROR",
            "DOCS_RS",
        ]
        .into_iter()
        .chain(NVCC_VARIABLES)
        {
            println!("cargo:rerun-if-env-changed={name}");
        }
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
        let sources = sources()?;
        if env::var_os("DOCS_RS").is_some() {
            // Documentation needs the types, not the kernels.
            for source in &sources {
                let target = out.join(source.file_stem().unwrap_or_default());
                // Or a later build would take this for the kernels.
                let _ = fs::remove_file(target.with_extension("made-of"));
                write(&target.with_extension("fatbin"), "")?;
            }
            println!("cargo:rustc-env=MILLET_NVCC_RELEASE=none");
            return write(&out.join("ptxas.txt"), "");
        }
        let nvcc = nvcc::find(Some(&out))
            .map_err(|error| format!("millet: {error}"))?
            .ok_or(HOW_TO_GET_NVCC)?;
        // Not PATH itself: it differs between a shell and an editor, and kernels take long.
        println!("cargo:rerun-if-changed={}", nvcc.display());
        let nvcc = Nvcc {
            version: version(&nvcc)?,
            architectures: architectures(&nvcc)?,
            path: nvcc,
        };
        let _alone = lock(&out)?;
        remove_unfinished(&out);
        let logs = compile_all(&nvcc, &sources, &out)?;
        write(&out.join("ptxas.txt"), &logs)
    }

    /// Waits for a build whose cargo was killed and that goes on without it: it may finish what this one needs. Given up with the
    /// file, also by a build that is killed.
    fn lock(out: &Path) -> Result<File, String> {
        let path = out.join("lock");
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // Some network file systems have no locks.
        let _ = file.lock();
        Ok(file)
    }

    /// Of builds that were killed. Their nvcc may live on and write; so the names are never taken again.
    fn remove_unfinished(out: &Path) {
        let entries = fs::read_dir(out).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let extension = path.extension().unwrap_or_default();
            if extension.to_string_lossy().ends_with(UNFINISHED) {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn write(path: &Path, text: &str) -> Result<(), String> {
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The operations' files, in order of their names.
    fn sources() -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir("csrc").map_err(|error| format!("csrc: {error}"))?;
        let mut sources: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
            .collect();
        sources.sort();
        Ok(sources)
    }

    /// The compiler, and what it compiles for.
    struct Nvcc {
        path: PathBuf,
        /// All that it says of its version.
        version: String,
        architectures: Vec<String>,
    }

    /// What nvcc says of its version, which must be new enough; the crate is told the release.
    fn version(nvcc: &Path) -> Result<String, String> {
        let output = run(Command::new(nvcc).arg("--version"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let release = text
            .split_once("release ")
            .and_then(|(_, rest)| rest.split(',').next()?.split_once('.'))
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        match release {
            None => Err(format!(
                "millet: {} --version does not say a release of nvcc:\n{text}",
                nvcc.display()
            )),
            Some(release) if release < OLDEST_NVCC => Err(format!(
                "millet: {} is nvcc {}.{}, but the kernels need {}.{} or later; NVCC or CUDA_HOME can point to another",
                nvcc.display(),
                release.0,
                release.1,
                OLDEST_NVCC.0,
                OLDEST_NVCC.1
            )),
            Some((major, minor)) => {
                println!("cargo:rustc-env=MILLET_NVCC_RELEASE={major}.{minor}");
                Ok(text)
            }
        }
    }

    /// What to compile for: `MILLET_CUDA_ARCHS` (`80,90a`), else `CUDA_COMPUTE_CAP` (`80` or `8.0`), else all that nvcc knows.
    fn architectures(nvcc: &Path) -> Result<Vec<String>, String> {
        let output = run(Command::new(nvcc).arg("--list-gpu-arch"))?;
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        let known: Vec<&str> = listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("compute_"))
            .collect();
        let is_known = |architecture: &str| {
            let number = architecture.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            known.iter().any(|k| *k == architecture || *k == number)
        };
        let chosen = |variable: &str, text: String| {
            let list: Vec<String> = text
                .split([',', ';', ' '])
                .map(|part| {
                    let part = part
                        .trim()
                        .trim_start_matches("sm_")
                        .trim_start_matches("compute_");
                    let part = part.replace('.', "");
                    // Hopper's own instructions are in sm_90a only.
                    if part == "90" { "90a".into() } else { part }
                })
                .filter(|part| !part.is_empty())
                .collect();
            let number = |part: &str| {
                let digits = part.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                digits.parse::<u32>().ok()
            };
            let too_old = |part: &&String| number(part).is_some_and(|n| (10..OLDEST).contains(&n));
            if let Some(part) = list.iter().find(too_old) {
                return Err(format!(
                    "millet: {variable}={text}: the kernels need compute capability 8.0 or later, `{part}` is older"
                ));
            }
            match list.iter().find(|part| !is_known(part)) {
                Some(part) => Err(format!(
                    "millet: {variable}={text}: `{part}` is none of the architectures that {} compiles for: {}",
                    nvcc.display(),
                    known.join(", ")
                )),
                None if list.is_empty() => Err(format!(
                    "millet: {variable} is set, but names no architecture; expected a list like 80,90a"
                )),
                None => Ok(list),
            }
        };
        for variable in ["MILLET_CUDA_ARCHS", "CUDA_COMPUTE_CAP"] {
            if let Ok(text) = env::var(variable) {
                return chosen(variable, text);
            }
        }
        Ok(ARCHITECTURES
            .iter()
            .filter(|architecture| is_known(architecture))
            .map(|&architecture| architecture.to_owned())
            .collect())
    }

    /// Compiles as many files at a time as cargo allows jobs; gives what ptxas said of each kernel.
    fn compile_all(nvcc: &Nvcc, sources: &[PathBuf], out: &Path) -> Result<String, String> {
        let jobs = env::var("NUM_JOBS")
            .ok()
            .and_then(|jobs| jobs.parse().ok())
            .unwrap_or(1);
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<Result<String, String>>>> =
            Mutex::new(sources.iter().map(|_| None).collect());
        thread::scope(|scope| {
            for _ in 0..sources.len().min(jobs) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(source) = sources.get(index) else {
                            break;
                        };
                        let result = compile(nvcc, source, out);
                        if let Ok(mut results) = results.lock() {
                            results[index] = Some(result);
                        }
                    }
                });
            }
        });
        let results = results
            .into_inner()
            .map_err(|_| "a compiler thread panicked")?;
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err("a file was not compiled".into())))
            .collect()
    }

    /// Compiles a file unless what is there was made of the same: of the same text, headers included, by the same compiler and
    /// command. Gives what ptxas said.
    fn compile(nvcc: &Nvcc, source: &Path, out: &Path) -> Result<String, String> {
        let name = source.file_stem().unwrap_or_default();
        let place = |extension: &str| out.join(name).with_extension(extension);
        let (target, log, made_of) = (place("fatbin"), place("ptxas"), place("made-of"));
        let mut command = Command::new(&nvcc.path);
        command.args(["-std=c++17", "-O3", "-I", "csrc"]);
        // What is one rounding and what is two is part of the definition: a fused multiply-add is written as one.
        command.arg("--fmad=false");
        command.args(["-Xptxas", "-v"]);
        if env::var("MILLET_CUDA_WERROR").is_ok_and(|value| value == "1") {
            command.args(["-Werror", "all-warnings", "-Xptxas", "-Werror"]);
        }
        for architecture in &nvcc.architectures {
            command.arg("-gencode");
            command.arg(format!(
                "arch=compute_{architecture},code=[sm_{architecture},compute_{architecture}]"
            ));
        }
        command.arg("-fatbin").arg(source);
        let variables = NVCC_VARIABLES.map(env::var_os);
        let mut parts = format!("{command:?}\n{variables:?}\n{}", nvcc.version);
        add_text(source, &mut Vec::new(), &mut parts)?;

        if fs::read_to_string(&made_of).is_ok_and(|there| there == parts)
            && target.is_file()
            && let Ok(text) = fs::read_to_string(&log)
        {
            return Ok(warned(text));
        }
        // What is here is of other parts from now on. The last rename makes it whole again.
        let unfinished =
            |path: &Path| path.with_extension(format!("{}{UNFINISHED}", std::process::id()));
        let rename = |from: &Path, to: &Path| {
            fs::rename(from, to).map_err(|error| format!("{}: {error}", to.display()))
        };
        let _ = fs::remove_file(&made_of);
        let output = run(command.arg("-o").arg(unfinished(&target)))?;
        rename(&unfinished(&target), &target)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        write(&log, &text)?;
        write(&unfinished(&made_of), &parts)?;
        rename(&unfinished(&made_of), &made_of)?;
        Ok(warned(text))
    }

    /// Passes the compiler's warnings on.
    fn warned(log: String) -> String {
        let is_warning = |line: &&str| line.contains("warning") && !line.starts_with("Remark");
        for line in log.lines().filter(is_warning) {
            println!("cargo:warning={line}");
        }
        log
    }

    /// Adds a file's text and that of everything it includes by `#include "…"`, once each.
    fn add_text(path: &Path, seen: &mut Vec<PathBuf>, all: &mut String) -> Result<(), String> {
        if seen.iter().any(|other| other == path) {
            return Ok(());
        }
        seen.push(path.to_owned());
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        for line in text.lines() {
            let included = line
                .trim_start()
                .strip_prefix("#include \"")
                .and_then(|rest| rest.split('"').next());
            let Some(included) = included else { continue };
            // As nvcc looks for it: beside the file, then in csrc.
            let beside = path.parent().unwrap_or(Path::new("")).join(included);
            let place = if beside.is_file() {
                beside
            } else {
                Path::new("csrc").join(included)
            };
            add_text(&place, seen, all)?;
        }
        all.push_str(&text);
        Ok(())
    }

    /// What a program says when it succeeds; what it says is the error when it does not.
    fn run(command: &mut Command) -> Result<Output, String> {
        let program = Path::new(command.get_program()).display().to_string();
        let output = command
            .output()
            .map_err(|error| format!("millet: {program}: {error}"))?;
        if output.status.success() {
            return Ok(output);
        }
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("ptxas info"))
            .collect();
        Err(format!(
            "millet: {program}: {}\n{}",
            output.status,
            lines.join("\n")
        ))
    }
}
