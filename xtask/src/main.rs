//! What a contributor types: `cargo xtask <task>`.

mod bindings;
mod conformance;
mod format;
mod fuzz;
#[cfg(target_os = "linux")]
mod gpu_kit;
mod publish;
mod report;
mod wheels;

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "\
Usage: cargo xtask <task>

  test         every test of the workspace, doc-tests and examples; ends with their number. With MILLET_CUDA_ARCHS=80,90a
               those of CUDA once more on an emulated H100
  check        rustfmt, clang-format, clippy and rustdoc, warnings as errors, with and without CUDA; src/cuda/sys.rs is not stale;
               what would be published builds
  ci           check, then test
  nvcc         the CUDA compiler: the machine's own, else from PyPI into target; test and check begin with it
  format       rewrites what rustfmt and clang-format would lay out otherwise; clang-format comes from PyPI into target
  bindings     src/cuda/sys.rs from csrc/params.h
  bench        the benches (arguments after it go to criterion)
  report       the tables and plots of docs/benchmarks.md: what the benches count and time here, and a model of GPUs. --quick: tiny
               cases, into target; --from FILE: of records that there are (may be repeated); --into FOLDER: not into docs
  fuzz         random cases of layers, operations and damaged modules: --backend cpu (default) or cuda, --minutes N (5), --seed N
               (a new one), --case TARGET:CASE (that one alone)
  gpu-kit      a folder below target that tries and measures millet on a machine with a GPU; --dev: of the tests' programs, to try
               the kit itself
  conformance  CUTLASS, CuTe, CUB and Triton kernels on the emulator; installs them below target (arguments: cub, gemm, triton)";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let task = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let result = match (task.as_deref(), rest.is_empty()) {
        (Some("test"), true) => test(),
        (Some("check"), true) => check(),
        (Some("ci"), true) => check().and_then(|()| test()),
        (Some("nvcc"), true) => wheels::nvcc().map(|nvcc| println!("{}", nvcc.display())),
        (Some("format"), true) => format::format(),
        (Some("bindings"), true) => bindings::bindings(),
        (Some("bench"), _) => bench(&rest),
        (Some("report"), _) => report::report(&rest),
        (Some("fuzz"), _) => fuzz::fuzz(&rest),
        #[cfg(target_os = "linux")]
        (Some("gpu-kit"), _) => gpu_kit::gpu_kit(&rest),
        (Some("conformance"), _) => conformance::conformance(&rest),
        (Some("help" | "--help" | "-h"), _) => {
            println!("{USAGE}");
            Ok(())
        }
        (Some(task @ ("test" | "check" | "ci" | "nvcc" | "format" | "bindings")), false) => {
            Err(format!(
                "`{task}` takes no arguments, but was given `{}`\n\n{USAGE}",
                rest.join(" ")
            ))
        }
        (Some(task), _) => Err(format!("there is no task `{task}`\n\n{USAGE}")),
        (None, _) => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command whose output goes through.
fn run(command: &mut Command) -> Result<(), String> {
    eprintln!("$ {command:?}");
    let status = command
        .status()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {status}"))
    }
}

/// Where cargo builds.
fn target_directory() -> Result<PathBuf, String> {
    let output = cargo()
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let metadata = String::from_utf8_lossy(&output.stdout);
    let path = metadata
        .split_once("\"target_directory\":\"")
        .and_then(|(_, rest)| rest.split_once('"'));
    path.map(|(path, _)| PathBuf::from(path.replace("\\\\", "\\")))
        .ok_or("cargo metadata says no target directory".into())
}

const CUDA: [&str; 2] = ["--features", "cuda"];

/// Cargo with CUDA: kernels for the oldest architecture only, which is what the emulator runs and what takes the least time,
/// and the compiler's warnings as errors.
fn cargo_with_cuda() -> Command {
    let mut command = cargo();
    if env::var_os("MILLET_CUDA_ARCHS").is_none() {
        command.env("MILLET_CUDA_ARCHS", "80");
    }
    command.env("MILLET_CUDA_WERROR", "1");
    command
}

/// CUDA's tests on an emulated H100, which runs what was compiled for it and not what was for sm_80. First those of the suite that are
/// CUDA's, by their names, then what is CUDA's alone, but for what no driver changes.
const ON_HOPPER: [&[&str]; 2] = [
    &["--test=suite", "--", "cuda"],
    &["--test=cuda", "--", "--skip=kernel_build", "--skip=sass"],
];

/// Whether this build is for Hopper too.
fn is_for_hopper() -> bool {
    env::var("MILLET_CUDA_ARCHS")
        .is_ok_and(|list| list.split([',', ';', ' ']).any(|a| a.contains("90")))
}

/// Runs every test, and counts them by the summary line of each test program.
fn test() -> Result<(), String> {
    wheels::nvcc()?;
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    let mut ok = true;
    // What the benches record, of which the report must be made.
    let records = target_directory()?.join("tested.jsonl");
    if records.exists() {
        std::fs::remove_file(&records)
            .map_err(|error| format!("{}: {error}", records.display()))?;
    }
    // The first builds the examples as programs, which a test runs; the second runs the tests inside examples, and each bench
    // once.
    let mut runs: Vec<(bool, &[&str])> = vec![(false, &[]), (false, &["--examples", "--benches"])];
    if is_for_hopper() {
        runs.extend(ON_HOPPER.map(|arguments| (true, arguments)));
    }
    for (on_hopper, arguments) in runs {
        let mut command = cargo_with_cuda();
        if on_hopper {
            command
                .env("CUDA_EMULATOR", "1")
                .env("CUDA_EMULATOR_DEVICE", "h100");
        }
        command
            .env("MILLET_BENCH_RECORD", &records)
            .args(["test", "--workspace", "--no-fail-fast"])
            .args(CUDA)
            .args(arguments);
        eprintln!("$ {command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let output = child.stdout.take().ok_or("no output of cargo test")?;
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map_err(|error| format!("output of cargo test: {error}"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some(counts) = line.strip_prefix("test result: ") {
                let count = |what: &str| {
                    let part = counts
                        .split([';', '.'])
                        .find(|part| part.trim().ends_with(what));
                    part.and_then(|part| part.split_whitespace().next()?.parse().ok())
                        .unwrap_or(0)
                };
                passed += count("passed");
                failed += count("failed");
                ignored += count("ignored");
            }
        }
        let status = child
            .wait()
            .map_err(|error| format!("{command:?}: {error}"))?;
        ok &= status.success();
    }
    if let Err(message) = report::of_tests(&records) {
        eprintln!("report: {message}");
        failed += 1;
        ok = false;
    }
    // Of the programs that are built by now.
    #[cfg(target_os = "linux")]
    if ok {
        match gpu_kit::test() {
            Ok(()) => passed += 1,
            Err(message) => {
                eprintln!("{message}");
                failed += 1;
                ok = false;
            }
        }
    }
    println!("{passed} passed, {failed} failed, {ignored} skipped");
    match (ok, passed) {
        (false, _) => Err("cargo test failed".into()),
        (true, 0) => Err("no test ran".into()),
        (true, _) => Ok(()),
    }
}

fn check() -> Result<(), String> {
    format::check()?;
    bindings::check()?;
    wheels::nvcc()?;
    let clippy = ["clippy", "--workspace", "--all-targets"];
    let deny = ["--", "-D", "warnings"];
    run(cargo_with_cuda().args(clippy).args(CUDA).args(deny))?;
    run(cargo().args(clippy).args(deny))?;
    run(cargo_with_cuda()
        .args(["doc", "--workspace", "--no-deps"])
        .args(CUDA)
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    publish::check()
}

fn bench(arguments: &[String]) -> Result<(), String> {
    run(cargo()
        .args(["bench", "--package", "millet"])
        .args(arguments))
}
