//! What a contributor types: `cargo xtask <task>`.

mod conformance;

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "\
Usage: cargo xtask <task>

  test         every test of the workspace, doc-tests and examples; ends with their number
  check        rustfmt, clippy and rustdoc, warnings as errors
  ci           check, then test
  bench        the benches (arguments after it go to criterion)
  conformance  CUTLASS, CuTe, CUB and Triton kernels on the emulator; installs them below target (arguments: cub, gemm, triton)";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let task = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let result = match (task.as_deref(), rest.is_empty()) {
        (Some("test"), true) => test(),
        (Some("check"), true) => check(),
        (Some("ci"), true) => check().and_then(|()| test()),
        (Some("bench"), _) => bench(&rest),
        (Some("conformance"), _) => conformance::conformance(&rest),
        (Some("help" | "--help" | "-h"), _) => {
            println!("{USAGE}");
            Ok(())
        }
        (Some(task @ ("test" | "check" | "ci")), false) => Err(format!(
            "`{task}` takes no arguments, but was given `{}`\n\n{USAGE}",
            rest.join(" ")
        )),
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

/// Runs every test, and counts them by the summary line of each test program.
fn test() -> Result<(), String> {
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    let mut ok = true;
    // The first builds the examples as programs, which a test runs; the second runs the tests inside examples, and each bench
    // once.
    for arguments in [&[][..], &["--examples", "--benches"]] {
        let mut command = cargo();
        command
            .args(["test", "--workspace", "--no-fail-fast"])
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
    println!("{passed} passed, {failed} failed, {ignored} skipped");
    match (ok, passed) {
        (false, _) => Err("cargo test failed".into()),
        (true, 0) => Err("no test ran".into()),
        (true, _) => Ok(()),
    }
}

fn check() -> Result<(), String> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    run(cargo()
        .args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings"))
}

fn bench(arguments: &[String]) -> Result<(), String> {
    run(cargo()
        .args(["bench", "--package", "millet"])
        .args(arguments))
}
