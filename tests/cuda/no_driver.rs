//! A program that aborts where others panic, without a driver or with one that is too old: an error, and nothing printed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use crate::misuse_by_type::{libraries, text};

const PROGRAM: &str = r#"
fn main() {
    match millet::Cuda::device(0) {
        Ok(_) => println!("a device"),
        Err(error) => println!("{error}"),
    }
    println!("went on");
}
"#;

fn rustc(folder: &Path, name: &str, program: &str, arguments: &[&str]) -> Output {
    let source = folder.join(name).with_extension("rs");
    fs::write(&source, program).unwrap();
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "-C",
            "panic=abort",
            "-C",
            "debuginfo=0",
        ])
        .args(arguments)
        .arg("--out-dir")
        .arg(folder)
        .arg(source)
        .output()
        .unwrap()
}

/// What the program prints with this folder in front of those where libraries are looked for.
fn run(program: &Path, libraries: &Path) -> Vec<String> {
    let output = Command::new(program)
        .env("LD_LIBRARY_PATH", libraries)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{:?}: {printed} {}",
        output.status,
        text(&output)
    );
    assert_eq!(text(&output), "");
    printed.lines().map(str::to_owned).collect()
}

#[test]
fn no_driver_is_an_error_where_panics_abort() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no_driver");
    let (nothing, old) = (folder.join("nothing"), folder.join("old"));
    fs::create_dir_all(&nothing).unwrap();
    fs::create_dir_all(&old).unwrap();

    let mut failures = Vec::new();
    let built = libraries().iter().any(|library| {
        let millet = format!("millet={}", library.display());
        let dependencies = format!("dependency={}", library.parent().unwrap().display());
        let output = rustc(
            &folder,
            "program",
            PROGRAM,
            &["--extern", &millet, "-L", &dependencies],
        );
        failures.push(text(&output));
        output.status.success()
    });
    assert!(built, "no library with CUDA: {failures:?}");
    let program = folder.join(format!("program{}", env::consts::EXE_SUFFIX));

    let printed = run(&program, &nothing);
    let no_driver = "there is no CUDA device 0: there is no CUDA driver (libcuda.so, libcuda.so.1)";
    assert!(
        printed[0] == no_driver || printed[0] == "a device",
        "{printed:?}"
    );
    assert_eq!(printed[1], "went on");

    // A driver of before all that is called here.
    let library = "#[unsafe(no_mangle)] pub extern \"C\" fn cuInit(_: u32) -> u32 { 100 }";
    let output = rustc(&old, "cuda", library, &["--crate-type", "cdylib"]);
    assert!(output.status.success(), "{}", text(&output));
    let printed = run(&program, &old);
    assert!(printed[0].contains("has no cuCtxGetCurrent"), "{printed:?}");
    assert_eq!(printed[1], "went on");
}
